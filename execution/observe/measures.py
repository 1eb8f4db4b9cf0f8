"""How orders fared, and what became of picks: journal and recorded quotes, joined by decision and record number. Pure.

Fill rate: the mean of filled / ordered over entries and exits of the last WINDOW_DAYS days that the broker had and that
are over. Slippage: (fill - mid) / mid in bps for buys, the other way round for sells, against the mid of the quote that
the order was decided on; positive is worse. Latency: from `order_intended` to the broker's answer, fsyncs included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from core.domain import Purpose, Side
from execution.ledger import new_york_day
from execution.observe.facts import ExecutionFacts, PickFacts
from execution.observe.groups import ENTRY_OR_EXIT
from execution.observe.logs_look import InputsLook, Quoted, short
from execution.observe.story import Sent, Story

if TYPE_CHECKING:
    from config.settings_schema import Execution

_BPS = Decimal(10_000)


def execution(story: Story, inputs: InputsLook, settings: Execution, day: date) -> ExecutionFacts:
    orders = [s for s in story.sent.values() if s.purpose in ENTRY_OR_EXIT]
    rates = [s.filled / s.quantity for s in orders if s.acknowledged and s.end == "closed"]
    slips = [bps for s in orders if (bps := slippage_bps(s, inputs.quote_of(s.decision_id, s.side, s.seq))) is not None]
    waits = [
        (s.answered_at - s.at).total_seconds() * 1000 for s in story.sent.values() if s.answered_at is not None
    ]  # fmt: skip
    refused = [r for r in story.refused if new_york_day(r.at) == day]
    return ExecutionFacts(
        ioc_fill_rate_avg=_mean(rates), ioc_orders=len(rates), slippage_bps_avg=_mean(slips),
        slippage_fills=len(slips), clamp_usage_count=clamp_uses(story.on(day), inputs, settings),
        orders_refused_today=len(refused),
        orders_rejected_today=sum(1 for s in story.on(day) if s.end == "rejected"),
        latency_ms_avg=_mean(waits), latency_ms_max=max(waits, default=None),
    )  # fmt: skip


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def slippage_bps(sent: Sent, quote: Quoted | None) -> float | None:
    """None when nothing filled, or when the quote's two sides are not known."""
    mid = None if quote is None else quote.mid
    if mid is None or not sent.filled or sent.price is None:
        return None
    worse = sent.price - mid if sent.side == Side.BUY else mid - sent.price
    return float(worse / mid * _BPS)


def clamp_uses(today: Iterable[Sent], inputs: InputsLook, settings: Execution) -> int | None:
    """Entries whose limit the clamp lowered below ask + offset; None when the quote of one of them is not known."""
    uses = 0
    for sent in today:
        if sent.purpose != Purpose.ENTRY:
            continue
        quote = inputs.quote_of(sent.decision_id, sent.side, sent.seq)
        if quote is None or quote.ask is None or quote.last is None:
            return None
        wanted = quote.ask * (1 + Decimal(str(settings.entry_offset_bps)) / _BPS)
        uses += wanted > quote.last * (1 + Decimal(str(settings.max_clamp_bps)) / _BPS)
    return uses


# ---------------------------------------------------------------- picks
def pick(row: Mapping[str, Any], story: Story) -> PickFacts:
    """A pick as the scan recorded it, with its verdict from the journal."""
    decision_id = short(row.get("decision_id"))
    verdict, codes = _verdict(decision_id, story)
    told = row.get("reasons")
    reasons = ", ".join(map(str, told)) if isinstance(told, list) else ""
    return PickFacts(
        decision_id=decision_id, symbol=short(row.get("symbol")), strategy=short(row.get("strategy")),
        score=number(row.get("score")), close=number(row.get("close")), stop=number(row.get("stop")),
        target=number(row.get("target")), reasons=short(reasons), verdict=verdict, codes=codes,
    )  # fmt: skip


def number(value: object) -> float | None:
    """A finite number, or nothing: text, true and NaN are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if abs(found) < float("inf") else None


def _verdict(decision_id: str, story: Story) -> tuple[str, tuple[str, ...]]:
    entries = [s for s in story.sent.values() if s.decision_id == decision_id and s.purpose == Purpose.ENTRY]
    filled = sum(s.filled for s in entries)
    if filled:
        return f"bought {filled} of {max(s.quantity for s in entries)}", ()
    if any(s.end is None for s in entries):
        return "may be live", ()
    if any(s.end == "closed" for s in entries):
        return "not filled", ()
    refused = [r for r in story.refused if r.decision_id == decision_id]
    ends = tuple(s.end.upper() for s in entries if s.end is not None)
    if refused or ends:
        return "refused", tuple(short(code) for code in (*(refused[-1].codes if refused else ()), *ends))
    return "no order", ()
