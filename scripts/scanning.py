"""One scan, as scan.py and runner.py share it: data, funnel, picks file, verdicts."""

from __future__ import annotations

import argparse
import csv
import io
import json
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli, logs
from core.files import locked, write_atomic
from scripts import wiring

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from core.domain import Symbol
    from core.ports import Reviewer, Scorer
    from data.universe import Universe
    from portfolio.scan import ScanResult
    from portfolio.strategies.boundary import Failed

PICK_COLUMNS = (
    "as_of",
    "session",
    "data_source",
    "simulated",
    "snapshot_sha256",
    "symbol",
    "strategy",
    "score",
    "close",
    "stop",
    "target",
    "reasons",
)


@dataclass
class Scanned:
    result: ScanResult
    data: wiring.MarketData
    universe: Universe


def scan(context: wiring.Context, args: argparse.Namespace) -> Scanned:
    """Bars from the file named, or from the store, then the funnel; picks, verdicts and reviews are written."""
    from scripts.cognition import Mind

    cap = args.cap
    if cap is not None and cap < 1:
        from core.errors import UsageError

        raise UsageError(f"--cap must be at least 1, was {cap}")
    if args.bars is not None:
        chosen = wiring.load_universe_for(context, args.universe, cap) if args.universe else None
        data, universe = wiring.data_from_bars(context, args.bars, chosen, cap)
    else:
        universe = wiring.load_universe_for(context, args.universe, cap)
        with cli.progress(enabled=not args.json) as context.tick:
            data = wiring.data_from_store(context, universe)
    wiring.refuse_simulated_data(context, simulated=data.simulated)
    mind = Mind(context, bars=args.bars)
    thought = mind.think(data, context.calendar.next_session(data.session))
    result = run(
        context, data, universe, top3=args.top3, deterministic=args.deterministic, scorer=thought.scorer,
        reviewer=thought.reviewer,
    )  # fmt: skip
    mind.tell("by-hand", thought, result)
    record(context, result)
    return Scanned(result, data, universe)


def run(
    context: wiring.Context,
    data: wiring.MarketData,
    universe: Universe,
    *,
    top3: bool = False,
    deterministic: bool = False,
    held: Mapping[Symbol, Decimal] | None = None,
    taken: Collection[str] = (),
    scorer: Scorer | None = None,
    reviewer: Reviewer | None = None,
) -> ScanResult:
    """The pure funnel over the data. Deterministic: as_of is the morning after the session, whatever the clock says."""
    from core.market_calendar import parse_as_of
    from portfolio.scan import run_scan

    earnings = wiring.earnings_calendar(context)
    if context.settings.filters.earnings.enabled and (why := earnings.doubt_of(universe.symbols)):
        logs.event("earnings_unknown", code="EARNINGS_IMPLAUSIBLE", detail=f"{why}; {len(universe.symbols)} names")
        logs.count("earnings_unknown")
    as_of = parse_as_of(data.session.isoformat(), context.calendar) if deterministic else context.clock.now()
    return run_scan(
        panel=data.panel,
        session=data.session,
        as_of=as_of,
        symbols=universe.symbols,
        sectors=universe.sectors,
        vix=data.vix,
        earnings=earnings,
        scorer=scorer,
        reviewer=reviewer,
        settings=context.settings,
        params=context.params,
        mode=context.mode,
        top3=top3,
        data_source=data.source,
        simulated=data.simulated,
        snapshot_sha256=data.snapshot_sha256,
        quarantined=data.quarantined,
        held=held,
        taken=taken,
        calendar=context.calendar,
    )


def record(context: wiring.Context, result: ScanResult) -> None:
    """Append to logs/daily_picks.csv and keep every verdict; one event per scan, one per strategy that raised."""
    for failed in result.off:
        tell_failed(failed)
    append_picks(context.home.logs / "daily_picks.csv", result)
    lines = "".join(json.dumps(v, sort_keys=True) + "\n" for v in (verdict.to_json() for verdict in result.verdicts))
    write_atomic(verdict_file(context.home.logs, result.session), lines.encode(), durable=False)
    logs.event(
        "scan_completed",
        session=result.session.isoformat(),
        considered=result.considered,
        picks=len(result.picks),
        refused=dict(result.refused),
        data_source=result.data_source,
        code="OK" if result.picks else "NO_PICKS",
        out_of_session=not in_session(context, result.as_of),
    )


def tell_failed(failed: Failed) -> None:
    """A strategy that raised: off for this scan, and nobody may overlook it (P21)."""
    logs.error_event(
        "strategy_failed", code="STRATEGY_FAILED", strategy=failed.strategy, detail=failed.detail,
        traceback=failed.trace,
    )  # fmt: skip
    logs.count("strategies_failed", strategy=failed.strategy)


def verdict_file(folder: Path, session: date) -> Path:
    return folder / "verdicts" / f"{session.isoformat()}.jsonl"


def append_picks(path: Path, result: ScanResult) -> None:
    shared = result.to_json()
    rows = [
        {
            **{k: shared[k] for k in PICK_COLUMNS[:5]},
            **{k: p[k] for k in PICK_COLUMNS[5:11]},
            "reasons": "|".join(p["reasons"]),
        }
        for p in shared["picks"]
    ]
    if not rows:
        why = "|".join(f"{code}:{count}" for code, count in sorted(shared["refused"].items()))
        rows = [{**{k: shared[k] for k in PICK_COLUMNS[:5]}, "reasons": f"NO_PICKS|{why}"}]
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        text = io.StringIO()
        writer = csv.DictWriter(text, PICK_COLUMNS, restval="", lineterminator="\n")
        if not path.exists() or path.stat().st_size == 0:
            writer.writeheader()
        writer.writerows(rows)
        with path.open("a", encoding="utf-8", newline="") as out:
            out.write(text.getvalue())


def render(context: wiring.Context, found: Scanned) -> str:
    result = found.result
    lines = [wiring.describe(context, data_source=result.data_source, simulated=result.simulated), *context.notes]
    if not in_session(context, result.as_of):
        lines.append("OUT_OF_SESSION: the market is closed at that time; this is to read, no order comes of it")
    vix = "unknown" if found.data.vix is None else f"{found.data.vix:.2f}"
    lines.append(
        f"session {result.session}  considered {result.considered}  picks {len(result.picks)}  "
        f"vix {vix}  snapshot {result.snapshot_sha256[:12]}"
    )
    lines.append(picks_table(result))
    return "\n".join(lines)


def in_session(context: wiring.Context, at: datetime) -> bool:
    day = context.calendar.session_at(at)
    return day is not None and context.calendar.opens_at(day) <= at < context.calendar.closes_at(day)


def picks_table(result: ScanResult) -> str:
    shown = result.to_json()
    if not shown["picks"]:
        why = ", ".join(f"{code} {count}" for code, count in sorted(shown["refused"].items(), key=lambda p: -p[1])[:6])
        return f"no picks: {why or 'nothing was considered'}"
    rows = [
        [
            p["symbol"],
            p["strategy"],
            f"{p['score']:.1f}",
            f"{p['close']:.2f}",
            f"{p['stop']:.2f}",
            "" if p["target"] is None else f"{p['target']:.2f}",
            ", ".join(p["reasons"]),
        ]
        for p in shown["picks"]
    ]
    return cli.table(["symbol", "strategy", "score", "close", "stop", "target", "reasons"], rows)
