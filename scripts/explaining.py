"""What was recorded of one symbol on one day, in the order in which it was decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from core.domain import Symbol
from core.errors import DataError, KobeError
from execution.ledger import new_york_day
from scripts import wiring
from scripts.recomputing import Kept, RecordedDay, Row, read_day
from scripts.recording import inputs_folder

if TYPE_CHECKING:
    from core.journal import Record

_TOLD = ("code", "detail", "codes", "quantity", "price", "limit_price", "stop_price", "status", "reason", "exit_price")
_QUIET = frozenset({"asset_known"})


def explain(context: wiring.Context, symbol: Symbol, day: date | None) -> dict[str, Any]:
    """Raises DataError NO_RECORD when that day, or any day, has no recorded inputs."""
    chosen = day or _newest(context)
    recorded = read_day(context.home.logs, chosen)
    if not recorded.rows:
        raise DataError(
            f"nothing was recorded of {chosen}", code="NO_RECORD", advice="DATE is the session that was traded"
        )
    steps = list(_steps(context, recorded, symbol))
    considered = any(step["step"] == "verdict" and step["code"] != "NOT_CONSIDERED" for step in steps)
    return {"symbol": str(symbol), "day": chosen.isoformat(), "considered": considered, "steps": steps}


def _newest(context: wiring.Context) -> date:
    files = sorted(inputs_folder(context.home.logs).glob("*.jsonl"))
    if not files:
        raise DataError("no day has been recorded", code="NO_RECORD", advice="run python scripts/runner.py first")
    return date.fromisoformat(files[-1].stem)


def _steps(context: wiring.Context, recorded: RecordedDay, symbol: Symbol) -> Iterator[dict[str, Any]]:
    kept = Kept(inputs_folder(context.home.logs))
    for row in recorded.rows:
        when = str(row["run"])[11:]
        if row["kind"] == "scan":
            yield _verdict(kept, row, symbol, when)
            yield from (_pick(pick, when) for pick in row["picks"] if pick["symbol"] == symbol)
        elif row.get("symbol") == symbol and row["kind"] in ("quote", "leave"):
            quote = row["quote"] or {}
            numbers = {name: quote.get(name) for name in ("bid", "ask", "last")} | {"stop": row.get("stop")}
            yield {"at": when, "step": row["kind"], "code": row.get("reason", ""), "numbers": _known(numbers)}
        elif row.get("symbol") == symbol and row["kind"] == "gate":
            book = row["book"]
            numbers = {name: book[name] for name in ("equity", "cash", "vix", "tradable", "trading_state", "positions")}
            yield {"at": when, "step": "gate", "code": "", "numbers": _known(numbers)}
        elif row["kind"] == "exits":
            mine = [(d, why) for d, why in row["due"] if str(d).endswith(f"-{symbol}")]
            yield from ({"at": when, "step": "exit due", "code": why, "numbers": {"trade": d}} for d, why in mine)
    yield from _journal(context, recorded.day, symbol)


def _verdict(kept: Kept, row: Row, symbol: Symbol, when: str) -> dict[str, Any]:
    shared = {"at": when, "step": "verdict", "session": row["session"]}
    try:
        found = next((v for v in kept.blob(row["verdicts"]) if v["symbol"] == symbol), None)
    except KobeError as error:
        return {**shared, "code": error.code, "rule": "", "strategy": None, "numbers": {}}
    if found is None:
        return {**shared, "code": "NOT_CONSIDERED", "rule": "it is not in that scan's universe", "strategy": None,
                "numbers": {}}  # fmt: skip
    numbers = {**found["numbers"], "vix": row["vix"]}
    if "score" in numbers:
        numbers["min_score"] = kept.blob(row["settings"])["quality_gate"]["min_score"]
    return {**shared, "code": found["code"], "rule": found["rule"], "strategy": found["strategy"], "numbers": numbers}


def _pick(pick: Mapping[str, Any], when: str) -> dict[str, Any]:
    numbers = {name: pick[name] for name in ("strategy", "score", "close", "stop", "target", "scale")}
    return {"at": when, "step": "pick", "code": " ".join(pick["reasons"]), "numbers": _known(numbers)}


def _journal(context: wiring.Context, day: date, symbol: Symbol) -> Iterator[dict[str, Any]]:
    if not context.home.journal.exists():
        return
    for record in wiring.open_journal(context).records():
        mine = record.body.get("symbol") == symbol and record.kind not in _QUIET
        if mine and new_york_day(record.at) == day:
            yield _record(record)


def _record(record: Record) -> dict[str, Any]:
    told = {name: record.body[name] for name in _TOLD if record.body.get(name) is not None}
    code = str(told.pop("code", told.pop("reason", "")) or "")
    name = record.body.get("client_order_id") or record.body.get("decision_id")
    numbers = {**told, **({"id": name} if name else {})}
    return {"at": f"{record.at:%H:%M:%S}Z", "step": record.kind, "code": code, "numbers": numbers}


def _known(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if value is not None}


# ---------------------------------------------------------------- for people
def render(facts: Mapping[str, Any]) -> str:
    lines = [f"{facts['symbol']} on {facts['day']}"]
    if not facts["considered"]:
        lines.append("it was not considered: not in the universe of that day's scans")
    for step in facts["steps"]:
        head = f"{step['at']:<9} {step['step']}"
        words = [step["code"], "" if step.get("rule") in (None, "", step["code"]) else f"rule {step['rule']}"]
        words += [str(step.get("strategy") or "")]
        lines += _wrapped(" ".join([head, *(w for w in words if w)]), 10)
        numbers = ", ".join(f"{name} {_short(value)}" for name, value in step["numbers"].items())
        lines += _wrapped(f"{'':10}{numbers}", 10) if numbers else []
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _wrapped(text: str, indent: int) -> Sequence[str]:
    import textwrap

    return textwrap.wrap(text, 80, subsequent_indent=" " * indent, break_long_words=True, drop_whitespace=True,
                         replace_whitespace=False, initial_indent="") or [text]  # fmt: skip
