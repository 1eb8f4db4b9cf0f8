"""One run of parity: the days, the comparison, what became of the orders, parity.json and the table."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import cli, logs
from core.canonical import canonical_json
from core.errors import DataError
from core.files import write_atomic
from portfolio.backtest.parity import Change
from scripts import wiring
from scripts.comparing import Comparison, Report, Today, days_of
from scripts.recomputing import Happened, Kept, RecordedDay
from scripts.recording import inputs_folder

if TYPE_CHECKING:
    from portfolio.backtest.shortfall import Shortfall

CHANGES_TOLD = 1000
ROWS_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Found:
    facts: Mapping[str, Any]  # parity.json
    folder: Path

    @property
    def equal(self) -> bool:
        return not self.facts["differing"]


def run(context: wiring.Context, args: argparse.Namespace, tick: Callable[..., None]) -> Found:
    from config.pin import code_sha256
    from scripts.running import enter_at_the_open_only

    enter_at_the_open_only(context)
    days = days_of(context, args.start, args.end)
    happened = read_journal(context, days)
    report = Report()
    if args.against == "backtest":
        from scripts.against_backtest import against_backtest

        against_backtest(context, args, days, happened, report)
    else:
        today = Today(context, args.universe) if args.against == "today" else None
        comparison = Comparison(context, happened, today=today, code_sha256=code_sha256())
        for number, day in enumerate(days, start=1):
            tick("parity", day.day, f"{number}/{len(days)}")
            comparison.day(report, day)
    return _written(context, args, days, happened, report)


def read_journal(context: wiring.Context, days: Sequence[RecordedDay]) -> Happened:
    """Raises DataError NO_RECORD when there is nothing to compare with, StateCorrupt when the journal is damaged."""
    if not days:
        raise DataError("no session lies within that span", code="NO_SESSIONS")
    if not context.home.journal.exists():
        raise DataError(
            f"{context.home.journal} does not exist", code="NO_RECORD", advice="trade a day first, or set KOBE_HOME"
        )
    wanted = {int(row["seq"]) for day in days for row in day.rows}
    return Happened(wiring.open_journal(context).records(), wanted)


def _written(
    context: wiring.Context, args: argparse.Namespace, days: Sequence[RecordedDay], happened: Happened, report: Report
) -> Found:
    from portfolio.backtest.shortfall import shortfall
    from scripts.executing import executed_decisions, what_became

    kept = Kept(inputs_folder(context.home.logs))
    lacking = shortfall(executed_decisions(context, days, happened, kept))
    facts = {
        "start": args.start.isoformat(), "end": args.end.isoformat(), "against": args.against, "days": len(days),
        "decisions": report.decisions, "equal": report.decisions - len(report.differing),
        "reproduced": report.again,
        "differing": [difference.to_json() for difference in report.differing],
        "causes": dict(sorted(Counter(str(d.cause) for d in report.differing).items())),
        "inputs": [_input(day, change) for day, change in report.changes[:CHANGES_TOLD]],
        "inputs_changed": len(report.changes),
        "execution": what_became(days, happened),
        "shortfall": _shortfall(lacking),
    }  # fmt: skip
    which = "" if args.against == "today" else f"-{args.against}"
    folder = args.out or context.home.wf_outputs / f"parity-{args.start}-{args.end}{which}"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "parity.json", (canonical_json(facts) + "\n").encode(), durable=False)
    logs.event(
        "parity_compared", code="OK" if not report.differing else "DIFFERS", against=args.against,
        decisions=report.decisions, differing=len(report.differing), causes=facts["causes"],
    )  # fmt: skip
    for difference in report.differing:
        logs.count("parity_differing", cause=str(difference.cause))
    return Found(facts, folder)


def _input(day: str, change: Change) -> dict[str, Any]:
    return {
        "day": day, "cause": str(change.cause), "symbol": change.symbol, "key": change.key, "then": change.then,
        "now": change.now,
    }  # fmt: skip


def _shortfall(found: Shortfall) -> dict[str, Any]:
    parts = ("delay_usd", "spread_usd", "impact_usd", "fees_usd", "missed_usd", "total_usd")
    return {**{name: str(_plain(getattr(found, name))) for name in parts}, "n": found.n, "unknown": found.unknown}


def _plain(usd: Decimal) -> str:
    """Every digit, no exponent, no trailing zeros."""
    text = f"{usd:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# ---------------------------------------------------------------- for people
def render(found: Found) -> str:
    facts = found.facts
    lines = [
        f"parity {facts['start']} to {facts['end']} against {facts['against']}, {facts['days']} sessions",
        f"{facts['equal']} of {facts['decisions']} decisions equal",
    ]
    if facts["against"] != "backtest":
        lines.append(f"worked out again from the kept inputs: {facts['reproduced']} the same as recorded")
    differing = facts["differing"]
    if differing:
        lines.append("differing: " + ", ".join(f"{cause} {n}" for cause, n in facts["causes"].items()))
        rows = [[d["day"], d["decision"], d["symbol"], d["cause"], d["detail"]] for d in differing[:ROWS_SHOWN]]
        lines.append(cli.table(["session", "decision", "symbol", "cause", "detail"], rows))
        if len(differing) > ROWS_SHOWN:
            lines.append(f"... and {len(differing) - ROWS_SHOWN} more in parity.json")
    if facts["inputs_changed"]:
        changed = _once(facts["inputs"])
        lines.append(f"inputs that are others today: {len(changed)}")
        lines.append(cli.table(["first on", "days", "symbol", "cause", "what", "then", "now"], changed[:ROWS_SHOWN]))
    lines += [_execution_line(facts["execution"]), *_shortfall_lines(facts["shortfall"])]
    lines.append(f"written: {found.folder / 'parity.json'}")
    return "\n".join(lines)


def _once(inputs: Sequence[Mapping[str, Any]]) -> list[list[object]]:
    """The same change on many days is one row."""
    found: dict[tuple[object, ...], list[str]] = {}
    for row in inputs:
        key = (row["symbol"], row["cause"], row["key"], row["then"], row["now"])
        found.setdefault(key, []).append(row["day"])
    return [[days[0], len(days), *key] for key, days in found.items()]


def _execution_line(rows: Sequence[Mapping[str, Any]]) -> str:
    counted = Counter(str(row["cause"]) for row in rows)
    said = ", ".join(f"{cause} {n}" for cause, n in sorted(counted.items()))
    return f"orders that did not do what was decided: {said or 'none'}"


def _shortfall_lines(found: Mapping[str, Any]) -> list[str]:
    left = f", {found['unknown']} left out (a price is not known)" if found["unknown"] else ""
    if not found["n"]:
        return [f"implementation shortfall: no decision was traded{left}"]
    parts = "  ".join(f"{name} {Decimal(found[f'{name}_usd']):.2f}" for name in PARTS)
    return [
        f"implementation shortfall, USD (positive costs), N={found['n']}{left}:",
        f"  {parts}  total {Decimal(found['total_usd']):.2f}",
    ]


PARTS = ("delay", "spread", "impact", "fees", "missed")
