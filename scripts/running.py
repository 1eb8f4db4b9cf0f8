"""The three ways runner.py runs: once, forever, replay."""

from __future__ import annotations

import argparse
import json
import threading
from collections import Counter
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from core import cli, host, logs
from core.clock import BeatingClock, SteppedClock
from core.domain import Mode, Purpose
from core.errors import ConfigError, DataError, Exit, UsageError
from core.files import write_atomic
from execution.heartbeat import GAVE_UP, STOPPED, Heartbeat
from execution.ledger import Ledger
from execution.noted import NOTE_FILE
from execution.runner import Runner, only_runner
from execution.schedule import Schedule
from execution.scheduler import DueRun, due_runs, parse_scan_times, run_for
from execution.session import RunReport, after_close
from execution.starts import Run, counted_start
from execution.upkeep import Upkeep
from scripts import arming_live, checks, ground, trading, watching, wiring
from scripts.alarm import Alarm
from scripts.beside import Beside
from scripts.break_lines import render_breaks
from scripts.child import Child
from scripts.recording import inputs_folder

if TYPE_CHECKING:
    pass

SIMULATED = "[sim]"
WIDTH = 80 - len(SIMULATED) - 1


def check(args: argparse.Namespace) -> None:
    """Combinations that cannot be, refused before anything is opened."""
    if args.mode == "live":
        arming_live.refuse_unless_armed(args)
    if args.replay is not None and (args.once or args.as_of):
        raise UsageError("--replay goes with neither --once nor --as-of")
    if args.as_of is not None and not args.once:
        raise UsageError("--as-of goes with --once")
    if args.cap is not None and args.cap < 1:
        raise UsageError(f"--cap must be at least 1, was {args.cap}")
    if args.scan_times is not None:
        parse_scan_times(args.scan_times)
    if args.universe is not None:
        from data.universe import load_universe

        load_universe(args.universe, default=False)


def _times(context: wiring.Context, args: argparse.Namespace) -> tuple[str, ...]:
    return parse_scan_times(args.scan_times or ",".join(context.settings.runner.scan_times))


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
    ground.open_home(context)
    with wiring.closing(context), only_runner(context.home.state, context.clock):
        trading.require([*ground.checks(context, allow_dirty=args.allow_dirty), *checks.of_the_mind(context)])
        arming_live.arm(context)
        desk, halts = trading.open_runners_desk(context)
        trading.require(trading.startup_checks(context, desk, halts))
        trading.require([ground.restored(context, desk)])
        checks.allow_start(context, desk, halts)
        if args.as_of is None and not wiring.replay_file(context).is_file():
            desk.journal.seal_or_postpone()
        session = trading.open_session(context, desk, _universe(context, args), args.bars)
        report = session.run(_due_now(context, args))
    if args.json:
        cli.print_json(report.to_json())
    else:
        cli.out(wiring.describe(context, data_source=str((report.scan or {}).get("data_source")), simulated=False))
        cli.out(render_report(report))
    lacking = report.no_quotes or (report.scan is None and report.code not in ("OK", "KILL_SWITCH", "MARKET_CLOSED"))
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
        lines.append(render_breaks(report.breaks))
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
    stop = watching.stop_on_signals()
    run = context.settings.runner
    ground.open_home(context)
    with (
        wiring.closing(context),
        only_runner(context.home.state, context.clock) as beat,
        counted_start(
            context.home.state / "starts.json",
            context.clock,
            crashes_max=run.crashes_max,
            within=timedelta(seconds=run.crash_window_s),
        ) as start,
    ):
        context.clock = BeatingClock(context.clock, beat.pulse)
        context.alive, context.tick = beat.pulse, lambda *_: beat.pulse()
        guard, beside = watching.Guard(context, args, beat), Beside(context, args, beat)
        alarm = Alarm(context, args, beat)
        code = _open_and_run(context, args, beat, stop, guard, (beside, alarm), start)
        start.ended(code)
        beat.last_word = STOPPED if code == 0 else GAVE_UP
    guard.end()
    beside.end()
    alarm.end()
    cli.out("runner ended")
    return code


def back_off(start: Run, stop: threading.Event, beat: Heartbeat) -> None:
    """A supervisor restarts at once; trading waits, longer after each crash (P22). Recovery was before this."""
    if not start.crashed:
        return
    logs.error_event("runner_restarted", code="RESTART_AFTER_CRASH", crashes=start.crashed, wait_s=start.pause_s)
    cli.out(f"{start.crashed} crashes before this start: no scan for {start.pause_s:g} s")
    beat(f"waiting {start.pause_s:g} s after {start.crashed} crashes")
    for _ in range(round(start.pause_s)):
        beat.pulse()
        if stop.wait(1.0):
            return


def _open_and_run(
    context: wiring.Context, args: argparse.Namespace, beat: Heartbeat, stop: threading.Event, guard: watching.Guard,
    children: tuple[Child, ...], start: Run,
) -> int:  # fmt: skip
    findings = [*ground.checks(context, allow_dirty=args.allow_dirty), *checks.of_the_mind(context)]
    arming_live.arm(context)
    desk, halts = trading.open_runners_desk(context)
    findings += trading.startup_checks(context, desk, halts)
    source = "real vendors" if context.real_data else context.source_name
    cli.out(wiring.describe(context, data_source=source, simulated=not context.real_data))
    for note in context.notes:
        cli.out(note)
    if context.armed is not None:
        cli.out(f"REAL MONEY: {context.armed}")
    for finding in findings:
        cli.out(f"  {_mark(finding)} {finding.name}: {finding.found}")
    trading.require(findings)
    put_back = ground.restored(context, desk)
    cli.out(f"  {_mark(put_back)} {put_back.name}: {put_back.found}")
    trading.require([put_back])
    watching.tell_takeover(desk, beat)
    for finding in checks.allow_start(context, desk, halts):
        cli.out(f"  {_mark(finding)} resume: {finding.name}: {finding.found}")
    guard.look()
    for child in children:
        child.look()
    desk.journal.seal_or_postpone()
    ground.snapshot_imports()
    watch = ground.record_start(context, desk, findings)
    session = trading.open_session(context, desk, _universe(context, args), args.bars, stopping=stop.is_set)
    session.recover()
    back_off(start, stop, beat)
    runner = Runner(
        session,
        _schedule(context, args, desk),
        context.clock,
        heartbeat_s=context.settings.runner.heartbeat_s,
        look_after_s=context.settings.runner.look_after_s,
        beat=beat,
        tell=lambda report: cli.out(render_report(report)),
        stop=stop,
        upkeep=Upkeep(watch, host.gauges, desk.journal, context.clock),
        before_open_s=context.settings.runner.before_open_s,
        catch_up_s=context.settings.runner.catch_up_s,
        between=lambda: watching.between(beat, guard, halts, *children),
    )
    cli.out(f"running; {runner.waiting_for()}; Ctrl-C ends")
    return runner.forever()


def _mark(finding: trading.Finding) -> str:
    if finding.problem is not None:
        return "FAIL"
    return f"warn {finding.warning}" if finding.warning else "ok  "


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
    enter_at_the_open_only(context)
    with only_runner(context.home.state, context.clock) as beat:
        sessions = _sessions(context, start, end)  # every refusal comes before anything is moved
        _times(context, args)
        if args.universe is not None:
            wiring.load_universe_for(context, args.universe, args.cap)
        trading.require([trading.switch_finding(context)])
        fresh_home(context)
        fills = args.fills or context.settings.venue.fills
        marks = {"schema_version": wiring.REPLAY_SCHEMA, "market": context.market_spec, "fills": fills}
        write_atomic(wiring.replay_file(context), json.dumps(marks).encode())
        with wiring.closing(context):
            return _replay(context, args, sessions, beat)


def enter_at_the_open_only(context: wiring.Context) -> None:
    """Fills at the open are for comparisons with daily bars, which know no price of a later scan: a pick that was not
    bought at the first scan would be bought at the day's low, or its close."""
    settings = context.settings
    if (context.fills or settings.venue.fills) == "at_open" and settings.execution.entry_scans != "first":
        execution = settings.execution.model_copy(update={"entry_scans": "first"})
        context.settings = settings.model_copy(update={"execution": execution})
        context.notes.append("fills at the open: entries at the first scan only")


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
    (context.home.logs / NOTE_FILE).unlink(missing_ok=True)  # it is about the journal that is moved away
    for path in sorted(inputs_folder(context.home.logs).glob("*.jsonl")):  # and so are the inputs of its days
        (target / "inputs").mkdir(exist_ok=True)
        path.rename(target / "inputs" / path.name)
    for path in sorted(state.iterdir()):
        kept = path.name in ("archive", "runner.lock", "runner.json", "KILL_SWITCH", ".gitkeep")
        research = path.name.startswith(("trials.", "models.", "model_key"))  # what was tried and trained stays so
        if not kept and not research:
            path.rename(target / path.name)
    context.notes.append(f"the state of the earlier replay is in {target}")


def _replay(context: wiring.Context, args: argparse.Namespace, sessions: list[date], beat: Any) -> int:
    assert isinstance(context.clock, SteppedClock)
    clock = context.clock
    clock.set(context.calendar.opens_at(sessions[0]) - timedelta(minutes=30))
    desk, _ = trading.open_runners_desk(context)
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
