"""The three ways runner.py runs: once, forever, replay."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from collections import Counter
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from core import cli, logs
from core.clock import SteppedClock
from core.domain import Mode, Purpose
from core.errors import ConfigError, DataError, Exit, UsageError
from core.files import write_atomic
from execution.ledger import Ledger
from execution.runner import Runner, Schedule, only_runner
from execution.scheduler import DueRun, due_runs, parse_scan_times, run_for
from execution.session import RunReport, after_close
from scripts import trading, wiring

SIMULATED = "[sim]"
WIDTH = 80 - len(SIMULATED) - 1
NOT_YET = "not enforced in this version: cognitive.* settings (circuit breakers, preflight, LLM)"


def check(args: argparse.Namespace) -> None:
    """Combinations that cannot be, refused before anything is opened."""
    if args.mode == "live":
        raise ConfigError(
            "live trading needs a passed live preflight, and this version has none",
            code="LIVE_NOT_ARMED",
            advice="trade on paper: --mode paper",
        )
    if args.replay is not None and (args.once or args.as_of):
        raise UsageError("--replay goes with neither --once nor --as-of")
    if args.as_of is not None and not args.once:
        raise UsageError("--as-of goes with --once")
    if args.cap is not None and args.cap < 1:
        raise UsageError(f"--cap must be at least 1, was {args.cap}")


def _times(context: wiring.Context, args: argparse.Namespace) -> tuple[str, ...]:
    return parse_scan_times(args.scan_times or ",".join(context.settings.runner.scan_times))


def _latched(context: wiring.Context) -> Any:
    from risk.kill_switch import KillSwitch, LatchedHalt

    context.home.state.mkdir(parents=True, exist_ok=True)
    return LatchedHalt(KillSwitch(context.home.kill_switch))


def _market(context: wiring.Context, args: argparse.Namespace) -> None:
    if args.market != "simulated" and context.real_broker:
        raise ConfigError(
            "--market names what the embedded venue plays, and the broker is a real one",
            code="SIMULATED_DATA_REAL_BROKER",
            advice="leave --market out, or unset ALPACA_API_KEY_ID to trade on the embedded venue",
        )
    context.market_spec, context.fills = args.market, args.fills


def _universe(context: wiring.Context, args: argparse.Namespace) -> Any:
    """The named universe; without one, the symbols of --bars or of --market; else the default list."""
    from pathlib import Path

    if args.universe is None and (args.bars is not None or args.market != "simulated"):
        from core.bars_io import read_bars

        return wiring.universe_of_bars(context, read_bars(args.bars or Path(args.market)), args.cap)
    return wiring.load_universe_for(context, args.universe, args.cap)


# ---------------------------------------------------------------- once
def once(args: argparse.Namespace) -> int:
    context = wiring.open_context(args, mode=Mode(args.mode), as_of=args.as_of)
    _market(context, args)
    if args.as_of is None:
        wiring.resume_replayed_account(context)
    with wiring.closing(context), only_runner(context.home.state, context.clock):
        desk = trading.open_desk(context, _latched(context))
        trading.require(trading.startup_checks(context, desk))
        session = trading.open_session(context, desk, _universe(context, args), args.bars)
        report = session.run(_due_now(context, args))
    if args.json:
        cli.print_json(report.to_json())
    else:
        cli.out(wiring.describe(context, data_source=str((report.scan or {}).get("data_source")), simulated=False))
        cli.out(render_report(report))
    lacking = report.no_quotes or (report.scan is None and report.code not in ("OK", "KILL_SWITCH"))
    if lacking and not report.breaks:
        raise DataError(f"{report.run.id}: nothing was entered, what is held was looked after", code=report.code)
    return Exit.NO if report.breaks else Exit.OK


def _due_now(context: wiring.Context, args: argparse.Namespace) -> DueRun:
    """The scan that an instant stands for; outside a session the gate refuses whatever is planned."""
    now = context.clock.now()
    day = context.calendar.session_at(now) or context.calendar.next_session(context.calendar.last_completed(now))
    rule = context.settings.runner.half_day_rule
    run = run_for(now, due_runs(day, _times(context, args), context.calendar, half_day_rule=rule))
    if run is None:
        raise UsageError("no scan time falls into the session", code="NO_SCAN_TIMES", advice="see --scan-times")
    return run


def render_report(report: RunReport) -> str:
    lines = [f"{report.run.id}  {report.code}  intents {len(report.intents)}  breaks {len(report.breaks)}"]
    if report.intents:
        rows = [
            [i["symbol"], i["side"], i["quantity"], i["limit_price"] or "", i["verdict"], ", ".join(i["codes"])]
            for i in report.intents
        ]
        lines.append(cli.table(["symbol", "side", "shares", "price", "verdict", "codes"], rows))
    if report.breaks:
        rows = [[b["symbol"], b["kind"], b["ours"], b["theirs"], b["proposal"]] for b in report.breaks]
        lines.append(cli.table(["symbol", "break", "ours", "theirs", "proposal"], rows))
    return "\n".join(lines)


# ---------------------------------------------------------------- forever
def forever(args: argparse.Namespace) -> int:
    context = wiring.open_context(args, mode=Mode(args.mode))
    _market(context, args)
    if not context.real_broker and wiring.replay_file(context).is_file():
        raise ConfigError(
            "this home holds the account of a replay, which stands still",
            code="REPLAY_HOME",
            advice="set KOBE_HOME to another folder",
        )
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    with wiring.closing(context), only_runner(context.home.state, context.clock) as beat:
        desk = trading.open_desk(context, _latched(context))
        findings = trading.startup_checks(context, desk)
        source = "real vendors" if context.real_data else context.source_name
        cli.out(wiring.describe(context, data_source=source, simulated=not context.real_data))
        for note in [*context.notes, NOT_YET]:
            cli.out(note)
        for finding in findings:
            cli.out(f"  {'FAIL' if finding.problem else 'ok  '} {finding.name}: {finding.found}")
        trading.require(findings)
        session = trading.open_session(context, desk, _universe(context, args), args.bars, stopping=stop.is_set)
        session.recover()
        runner = Runner(
            session,
            _schedule(context, args, desk),
            context.clock,
            heartbeat_s=context.settings.runner.heartbeat_s,
            look_after_s=context.settings.runner.look_after_s,
            beat=beat,
            tell=lambda report: cli.out(render_report(report)),
            stop=stop,
        )
        cli.out(f"running; {runner.waiting_for()}; Ctrl-C ends")
        code = runner.forever()
    cli.out("runner ended")
    return code


def _schedule(context: wiring.Context, args: argparse.Namespace, desk: Any) -> Schedule:
    return Schedule(
        context.calendar,
        _times(context, args),
        half_day_rule=context.settings.runner.half_day_rule,
        journal=desk.journal,
    )


# ---------------------------------------------------------------- replay
def replay(args: argparse.Namespace) -> int:
    start, end = _span(args.replay)
    # A replay's run id is what it replays, so that the same replay writes the same journal, byte for byte.
    context = wiring.open_context(
        args, mode=Mode.PAPER, clock=SteppedClock(_noon(start)), run_id=f"replay-{start}-{end}"
    )
    if context.real_broker or context.keys.polygon:
        context.keys = type(context.keys)(None, None, None, None)
        context.notes.append("keys are not used in a replay: broker and data are the embedded venue")
    _market(context, args)
    with only_runner(context.home.state, context.clock) as beat:
        sessions = _sessions(context, start, end)  # every refusal comes before anything is moved
        _times(context, args)
        if args.universe is not None:
            wiring.load_universe_for(context, args.universe, args.cap)
        trading.require([trading.switch_finding(context)])
        fresh_home(context)
        marks = {"market": context.market_spec, "fills": args.fills or context.settings.venue.fills}
        write_atomic(wiring.replay_file(context), json.dumps(marks).encode())
        with wiring.closing(context):
            return _replay(context, args, sessions, beat)


def _noon(day: date) -> Any:
    from datetime import UTC, datetime

    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def _span(text: str) -> tuple[date, date]:
    try:
        start, end = (date.fromisoformat(part) for part in text.split(":"))
    except ValueError as error:
        raise UsageError(f"--replay {text!r} is not START:END", advice="for instance 2024-01-02:2024-01-05") from error
    if start > end:
        raise UsageError(f"--replay: {start} is after {end}")
    return start, end


def _sessions(context: wiring.Context, start: date, end: date) -> list[date]:
    sessions = context.calendar.sessions_between(start, end)
    context.market = wiring.build_market(context)
    if context.market_spec != "simulated":  # real bars begin and end somewhere
        have = set(context.market.sessions)
        sessions = [s for s in sessions if s in have]
        last = max(have, default=end)
        if last < end:
            context.notes.append(f"the market ends on {last}; the replay ends there")
    if not sessions:
        raise DataError(f"the market has no session from {start} to {end}", code="NO_SESSIONS", advice="see --replay")
    return sessions


def fresh_home(context: wiring.Context) -> None:
    """A replay starts from nothing: what an earlier replay left is moved aside, anything else is refused."""
    state = context.home.state
    if context.home.journal.exists() and not wiring.replay_file(context).exists():
        raise ConfigError(
            f"{state} holds a journal that no replay wrote",
            code="HOME_IN_USE",
            advice="set KOBE_HOME to another folder for replays",
        )
    if not wiring.replay_file(context).exists():
        return
    number = 1 + sum(1 for _ in (state / "archive").glob("replay-*")) if (state / "archive").is_dir() else 1
    target = state / "archive" / f"replay-{number}"
    target.mkdir(parents=True)
    for path in sorted(state.iterdir()):
        if path.name not in ("archive", "runner.lock", "runner.json", "KILL_SWITCH", ".gitkeep"):
            path.rename(target / path.name)
    context.notes.append(f"the state of the earlier replay is in {target}")


def _replay(context: wiring.Context, args: argparse.Namespace, sessions: list[date], beat: Any) -> int:
    assert isinstance(context.clock, SteppedClock)
    clock = context.clock
    clock.set(context.calendar.opens_at(sessions[0]) - timedelta(minutes=30))
    desk = trading.open_desk(context, _latched(context))
    trading.require(trading.startup_checks(context, desk))
    universe = _universe(context, args)
    session = trading.open_session(context, desk, universe, args.bars)
    reports: list[RunReport] = []
    runner = Runner(
        session,
        _schedule(context, args, desk),
        clock,
        heartbeat_s=0,
        look_after_s=0,
        beat=lambda what: None,
        tell=reports.append,
        stop=threading.Event(),
    )
    if not args.json:
        _say(wiring.describe(context, data_source=context.source_name, simulated=True))
        for note in context.notes:
            _say(note)
    schedule = _schedule(context, args, desk)
    with cli.progress(enabled=not args.json) as context.tick:
        for number, day in enumerate(sessions, start=1):
            first = len(reports)
            for run in schedule.runs(day):
                clock.set(max(run.at, clock.now()))
                runner.attempt(run)
            clock.set(max(after_close(context.calendar, day), clock.now()))
            runner.close_out(day)
            beat(f"replayed {day}")
            if not args.json:
                _say(_day_line(day, number, len(sessions), reports[first:], desk.ledger()))
    return _summary(context, args, desk.ledger(), reports, sessions)


def _say(text: str) -> None:
    """Every line of a replay says that it is simulated."""
    for line in text.splitlines():
        cli.out(f"{SIMULATED} {line}".rstrip())


def _day_line(day: date, number: int, of: int, reports: list[RunReport], ledger: Ledger) -> str:
    """One line per session: it is the progress, and stays readable in a pipe."""
    picks = sum(len(r.scan["picks"]) for r in reports if r.run.first and r.scan)
    fills = sum(1 for r in reports for o in r.orders if o["filled_quantity"])
    equity = next((r.equity for r in reversed(reports) if r.equity is not None), None)
    return (
        f"{day} ({number}/{of})  picks {picks}  fills {fills}  positions {len(ledger.positions)}"
        f"  equity {'unknown' if equity is None else f'{equity:.2f}'}"
    )


def _summary(
    context: wiring.Context, args: argparse.Namespace, ledger: Ledger, reports: list[RunReport], sessions: list[date]
) -> int:
    from core.journal import verify

    breaks = reports[-1].breaks if reports else []
    check = verify(context.home.journal)
    failed = sum(1 for _ in wiring.open_journal(context).kinds("run_failed"))
    facts = _facts(ledger, reports, sessions, breaks, check, failed)
    if args.json:
        cli.print_json(facts)
    else:
        _say(_tables(context, ledger, reports, facts))
    logs.event("replay_ended", **{k: v for k, v in facts.items() if k != "breaks"})
    return Exit.OK if check.ok and not breaks and not failed else Exit.NO


def _facts(
    ledger: Ledger, reports: list[RunReport], sessions: list[date], breaks: Any, check: Any, failed: int
) -> dict[str, Any]:
    entries = [o for o in ledger.orders.values() if o.intent.purpose is Purpose.ENTRY]
    closed = [t for t in ledger.trades.values() if not t.is_open]
    profit = sum((_profit(t) for t in closed), Decimal(0))
    return {
        "simulated": True,
        "sessions": len(sessions),
        "start": sessions[0].isoformat(),
        "end": sessions[-1].isoformat(),
        "scans": sum(1 for r in reports if r.run.label != "close"),
        "scans_failed": failed,
        "orders": len(ledger.orders),
        "entries_sent": len(entries),
        "entries_filled": sum(1 for o in entries if o.filled_quantity),
        "trades": len(ledger.trades),
        "trades_closed": len(closed),
        "open_positions": len(ledger.positions),
        "realized_usd": str(profit),
        "equity_usd": None if not reports or reports[-1].equity is None else str(reports[-1].equity),
        "breaks": breaks,
        "journal_ok": check.ok,
        "journal_records": check.records,
        "journal_head": check.head,
    }


def _profit(trade: Any) -> Decimal:
    """Realised USD before regulatory fees, which the broker books a day later."""
    got: Decimal = sum(((f.price or Decimal(0)) * f.quantity for f in trade.exits), Decimal(0))
    spent: Decimal = trade.entry_price * sum(f.quantity for f in trade.exits)
    return got - spent


def _tables(context: wiring.Context, ledger: Ledger, reports: list[RunReport], facts: dict[str, Any]) -> str:
    picks = [(r.run.session, p) for r in reports if r.run.first and r.scan for p in r.scan["picks"]]
    refused = Counter(code for r in reports for i in r.intents if i["verdict"] == "refused" for code in i["codes"])
    orders = list(ledger.orders.values())
    blocks = [
        f"SIMULATED  {facts['start']} to {facts['end']}  sessions {facts['sessions']}  scans {facts['scans']}",
        "picks (first scan of each session)",
        cli.table(
            ["session", "symbol", "strategy", "score", "close", "stop"],
            [
                [f"{s}", p["symbol"], p["strategy"], f"{p['score']:.1f}", f"{p['close']:.2f}", f"{p['stop']:.2f}"]
                for s, p in picks
            ],
            width=WIDTH,
        ),
        "orders",
        cli.table(
            ["sent (UTC)", "symbol", "side", "shares", "kind", "price", "filled", "status"],
            [
                [
                    f"{o.intended_at:%m-%d %H:%M}",
                    o.intent.symbol,
                    str(o.intent.side),
                    o.intent.quantity,
                    str(o.intent.kind),
                    f"{o.intent.limit_price or o.intent.stop_price or 0:.2f}",
                    o.filled_quantity,
                    o.unknown or o.status,
                ]
                for o in orders
            ],
            width=WIDTH,
        ),
        "fills",
        cli.table(
            ["when (UTC)", "symbol", "side", "shares", "price", "why"],
            [
                [
                    f"{o.filled_at or o.intended_at:%Y-%m-%d %H:%M}",
                    o.intent.symbol,
                    str(o.intent.side),
                    o.filled_quantity,
                    f"{o.filled_price:.2f}",
                    str(o.intent.purpose),
                ]
                for o in orders
                if o.filled_quantity and o.filled_price is not None
            ],
            width=WIDTH,
        ),
        "open positions",
        cli.table(
            ["symbol", "strategy", "shares", "entry", "stop"],
            [
                [t.symbol, t.strategy, t.quantity, f"{t.entry_price:.2f}", "" if t.stop is None else f"{t.stop:.2f}"]
                for t in ledger.open_trades()
            ],
            width=WIDTH,
        ),
    ]
    if refused:
        blocks.append("orders refused: " + ", ".join(f"{code} {n}" for code, n in refused.most_common()))
    blocks += [
        f"SIMULATED  orders {facts['orders']}  trades {facts['trades']} ({facts['trades_closed']} closed)"
        f"  realised {Decimal(facts['realized_usd']):.2f} USD  equity {facts['equity_usd']} USD",
        f"breaks {len(facts['breaks'])}  scans failed {facts['scans_failed']}  journal "
        f"{'valid' if facts['journal_ok'] else 'DAMAGED'}, {facts['journal_records']} records, "
        f"head {facts['journal_head'][:16]}",
        "files:",
        f"  {context.home.journal}",
        f"  {context.home.state / 'positions.json'}",
        f"  {context.home.logs / 'daily_picks.csv'}",
    ]
    return "\n".join(blocks)
