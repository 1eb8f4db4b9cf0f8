"""One recorded day against itself: what replay_day.py compares, and how it tells of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from core import cli
from core.canonical import canonical_json
from core.domain import OrderIntent
from core.errors import DataError, KobeError
from scripts import wiring
from scripts.comparing import Comparison, Report
from scripts.paritying import read_journal
from scripts.recomputing import Kept, RecordedDay, Row, read_day
from scripts.recording import inputs_folder, picks_value, verdicts_value
from scripts.redeciding import Again

SHOWN = 20


def replay(context: wiring.Context, day: date) -> dict[str, Any]:
    """Raises DataError NO_RECORD when nothing was kept of that day."""
    from config.pin import code_sha256

    recorded = read_day(context.home.logs, day)
    if not recorded.rows and not recorded.damaged:
        raise DataError(
            f"nothing was recorded of {day}", code="NO_RECORD", advice="DATE is the session that was traded"
        )
    happened = read_journal(context, [recorded])
    report = Report()
    comparison = Comparison(context, happened, today=None, code_sha256=code_sha256())
    comparison.day(report, recorded)
    kept, again = Kept(inputs_folder(context.home.logs)), Again(context, happened)
    bytes_differ = _scans(recorded, kept, again) + _bodies(recorded, comparison.intents)
    differing = [d.to_json() for d in report.differing]
    return {
        "day": day.isoformat(), "scans": [str(row["run"]) for row in recorded.rows if row["kind"] == "scan"],
        "decisions": report.decisions, "equal": report.decisions - len(differing), "differing": differing,
        "bodies": len(recorded.sent), "bytes": bytes_differ, "same": not differing and not bytes_differ,
    }  # fmt: skip


def _bodies(recorded: RecordedDay, again: Mapping[str, OrderIntent]) -> list[dict[str, Any]]:
    """Request bodies that left and are not, as canonical JSON, the ones of the orders as worked out again."""
    from execution.alpaca_broker import order_body

    found = []
    for row in recorded.sent:
        cid = str(row["client_order_id"])
        made = canonical_json(order_body(again[cid])) if cid in again else "nothing sent"
        if made != row["body"]:
            found.append({"run": row["run"], "what": f"body {cid}", "then": row["body"], "again": made})
    return found


def _scans(recorded: RecordedDay, kept: Kept, again: Again) -> list[dict[str, Any]]:
    """Verdicts and picks whose canonical JSON is not the same text."""
    found: list[dict[str, Any]] = []
    for row in recorded.rows:
        if row["kind"] == "scan":
            try:
                found += _one_scan(row, kept, again)
            except KobeError as error:
                found.append({"run": row["run"], "what": error.code, "then": "", "again": str(error)})
    return found


def _one_scan(row: Row, kept: Kept, again: Again) -> list[dict[str, Any]]:
    result = again.scan(row, kept.inputs(row))
    pairs = [
        (kept.blob(row["verdicts"]), verdicts_value(result), "verdict"),
        (row["picks"], picks_value(result), "pick"),
    ]
    found = []
    for then, now, what in pairs:
        was, is_now = _by_name(then), _by_name(now)
        for name in sorted(was.keys() | is_now.keys()):
            if was.get(name) != is_now.get(name):
                found.append({"run": row["run"], "what": f"{what} {name}", "then": was.get(name, "absent"),
                              "again": is_now.get(name, "absent")})  # fmt: skip
    return found


def _by_name(values: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Symbol, and strategy where one symbol has two picks -> canonical JSON."""
    return {f"{v['symbol']} {v.get('strategy') or ''}".strip(): canonical_json(v) for v in values}


def render(facts: Mapping[str, Any]) -> str:
    lines = [
        f"{facts['day']}: {len(facts['scans'])} scans, {facts['equal']} of {facts['decisions']} decisions the same, "
        f"{facts['bodies']} order bodies"
    ]
    if facts["bytes"]:
        lines.append(f"verdicts, picks and order bodies whose bytes differ: {len(facts['bytes'])}")
        rows = [[b["run"][11:], b["what"], b["then"], b["again"]] for b in facts["bytes"][:SHOWN]]
        lines.append(cli.table(["scan", "what", "recorded", "again"], rows))
    if facts["differing"]:
        rows = [[d["decision"], d["cause"], d["detail"]] for d in facts["differing"][:SHOWN]]
        lines.append(cli.table(["decision", "cause", "detail"], rows))
    lines.append("the same bytes" if facts["same"] else "NOT the same")
    return "\n".join(lines)
