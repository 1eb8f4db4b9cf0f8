"""Which decisions of a recorded day would be others today, and what changed meanwhile. Pure.

A decision is a name and a text: the same text is the same decision. Each is worked out three ways: as recorded, again
from the recorded inputs, and from today's. What differs is blamed by changing one input at a time, from then to now:
the input that alone changes that decision is its cause. No cause found is UNKNOWN, never "equal".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from core.bars_io import FIELDS, BarColumns, from_day

CELLS_TOLD = 5  # of one symbol; the others are counted
ALIKE = 1e-6  # two ratios of prices that lie closer together are one split


class Cause(StrEnum):
    """Why a decision differs. Closed: a new cause is a new word here."""

    BAR_REVISED = "BAR_REVISED"
    BAR_LATE = "BAR_LATE"  # today there is a bar that was not there then
    BAR_GONE = "BAR_GONE"  # a bar of then is not there today
    SYMBOL_MISSING = "SYMBOL_MISSING"  # today there is no bar at all of a symbol that had some
    QUARANTINE = "QUARANTINE"  # the bar of the session is judged otherwise
    CORPORATE_ACTION = "CORPORATE_ACTION"  # all earlier prices moved by one ratio
    CONFIG_CHANGED = "CONFIG_CHANGED"
    PARAMS_CHANGED = "PARAMS_CHANGED"
    UNIVERSE_CHANGED = "UNIVERSE_CHANGED"
    EARNINGS_CHANGED = "EARNINGS_CHANGED"
    VIX_REVISED = "VIX_REVISED"
    CALENDAR_CHANGED = "CALENDAR_CHANGED"
    CODE_CHANGED = "CODE_CHANGED"
    QUOTE = "QUOTE"  # the price at the scan was not the one that the other side saw
    ORDER_REJECTED = "ORDER_REJECTED"
    ORDER_UNFILLED = "ORDER_UNFILLED"
    ORDER_PARTIAL = "ORDER_PARTIAL"
    BROKER = "BROKER"  # it did not answer, or did not take the keys
    KILL_SWITCH = "KILL_SWITCH"
    MANUAL = "MANUAL"  # an operator's command, or shares that came or went outside
    SCAN_MISSED = "SCAN_MISSED"
    ACCOUNT = "ACCOUNT"  # cash, positions or budget were others: an earlier difference goes on
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One input that is not what it was. `symbol` None: it concerns all of them."""

    cause: Cause
    symbol: str | None
    key: str  # what: "2024-03-05 close", "risk.vix.stop_above"
    then: str
    now: str

    def __str__(self) -> str:
        who = "" if self.symbol is None else f"{self.symbol} "
        return f"{who}{self.key}: {self.then} -> {self.now}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    day: str
    decision: str
    symbol: str | None
    cause: Cause
    detail: str

    def to_json(self) -> dict[str, Any]:
        return {
            "day": self.day, "decision": self.decision, "symbol": self.symbol, "cause": str(self.cause),
            "detail": self.detail,
        }  # fmt: skip


# ---------------------------------------------------------------- what changed
def bar_changes(symbol: str, then: BarColumns | None, now: BarColumns | None) -> list[Change]:
    """From the bars of one symbol as they were seen to those of today: sessions and cells that differ, at most
    CELLS_TOLD of them with their numbers and the rest as a count. Empty when every number is the same."""
    if then is None or not len(then):
        return [] if now is None or not len(now) else [_span(Cause.BAR_LATE, symbol, now, came=True)]
    if now is None or not len(now):
        return [_span(Cause.SYMBOL_MISSING, symbol, then, came=False)]
    came, gone = ~np.isin(now.dates, then.dates), ~np.isin(then.dates, now.dates)
    found = [_span(Cause.BAR_LATE, symbol, now.rows(came), came=True)] if came.any() else []
    found += [_span(Cause.BAR_GONE, symbol, then.rows(gone), came=False)] if gone.any() else []
    both_then, both_now = then.rows(~gone), now.rows(~came)
    ratio = _one_ratio(both_then, both_now)
    if ratio is not None:
        at, value = ratio
        key = f"prices up to {from_day(int(both_then.dates[at]))}"
        return [*found, Change(cause=Cause.CORPORATE_ACTION, symbol=symbol, key=key, then="1", now=f"x {value:.6g}")]
    return [*found, *_revised(symbol, both_then, both_now)]


def _span(cause: Cause, symbol: str, bars: BarColumns, *, came: bool) -> Change:
    first, last = from_day(int(bars.dates[0])), from_day(int(bars.dates[-1]))
    key = f"bar of {last}" if len(bars) == 1 else f"{len(bars)} bars {first} to {last}"
    told = f"close {float(bars.close[-1])!r}"
    return Change(cause=cause, symbol=symbol, key=key, then="absent" if came else told, now=told if came else "absent")


def _one_ratio(then: BarColumns, now: BarColumns) -> tuple[int, float] | None:
    """(last row that moved, ratio) when the first bars, two or more, moved by one ratio in every price: a split."""
    moved = np.flatnonzero(~_same(then.close, now.close))
    if moved.size < 2 or not np.array_equal(moved, np.arange(moved.size)):
        return None
    rows = slice(0, int(moved.size))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.concatenate([getattr(now, f)[rows] / getattr(then, f)[rows] for f in FIELDS[:4]])
    ratios = ratios[np.isfinite(ratios)]
    if not ratios.size or (np.abs(ratios / ratios[0] - 1.0) > ALIKE).any():
        return None
    return int(moved[-1]), float(ratios[0])


def _same(one: Any, other: Any) -> Any:
    return (one == other) | (np.isnan(one) & np.isnan(other))


def _revised(symbol: str, then: BarColumns, now: BarColumns) -> list[Change]:
    cells = [
        (
            int(then.dates[row]),
            FIELDS.index(name),
            name,
            float(getattr(then, name)[row]),
            float(getattr(now, name)[row]),
        )
        for name in FIELDS
        for row in np.flatnonzero(~_same(getattr(then, name), getattr(now, name))).tolist()
    ]
    newest_first = sorted(cells, key=lambda cell: (-cell[0], cell[1]))
    found = [
        Change(cause=Cause.BAR_REVISED, symbol=symbol, key=f"{from_day(day)} {name}", then=f"{was!r}", now=f"{said!r}")
        for day, _, name, was, said in newest_first[:CELLS_TOLD]
    ]
    more = len(cells) - CELLS_TOLD
    if more > 0:
        found.append(Change(cause=Cause.BAR_REVISED, symbol=symbol, key=f"{more} more cells", then="", now=""))
    return found


def value_changes(cause: Cause, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Every leaf that differs, by its dotted name."""
    before, after = leaves(then), leaves(now)
    return [
        Change(
            cause=cause, symbol=None, key=key, then=str(before.get(key, "absent")), now=str(after.get(key, "absent"))
        )
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            found.update(leaves(inner, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = inner
    return found


def with_leaf(value: Mapping[str, Any], key: str, leaf: Any) -> dict[str, Any]:
    """A copy with one dotted leaf changed."""
    head, _, rest = key.partition(".")
    return {**value, head: leaf if not rest else with_leaf(value.get(head) or {}, rest, leaf)}


# ---------------------------------------------------------------- blame
Answers = Mapping[str, str]
"""Decision -> its text."""


@dataclass(frozen=True, slots=True)
class Group:
    """One input, or one symbol's bars, moved from then to now alone; `answers` works the decisions out with it."""

    changes: tuple[Change, ...]
    answers: Callable[[], Answers]


def compare(
    day: str, recorded: Answers, again: Answers, today: Answers | None, groups: Sequence[Group],
    symbol_of: Callable[[str], str | None], *, stranger: Callable[[str, str], Cause] = lambda name, was: Cause.UNKNOWN,
) -> list[Difference]:  # fmt: skip
    """Every decision that is not the same three times, with its cause.

    again     from the recorded inputs; what differs here is no input's doing: `stranger` (name, recorded) names it
    today     from today's inputs; None: not asked
    groups    what changed, asked one at a time, and only when something differs
    """
    found = []
    answered: dict[int, Answers] = {}
    for name in sorted(recorded.keys() | again.keys()):
        was, is_again = recorded.get(name, "absent"), again.get(name, "absent")
        if was != is_again:
            detail = f"recorded {was}; again {is_again}"
            cause = stranger(name, was)
            found.append(Difference(day=day, decision=name, symbol=symbol_of(name), cause=cause, detail=_cut(detail)))
    if today is None:
        return found
    told = {d.decision for d in found}
    for name in sorted((again.keys() | today.keys()) - told):
        was, now = again.get(name, "absent"), today.get(name, "absent")
        if was == now:
            continue
        symbol = symbol_of(name)
        blamed = _blamed(name, was, symbol, groups, answered)
        cause = blamed[0].cause if blamed else Cause.UNKNOWN
        why = "; ".join(str(change) for change in blamed[:3]) or "no single input explains it"
        whose = next((c.symbol for c in blamed if c.symbol), symbol)
        detail = f"then {was}; now {now}; {why}"
        found.append(Difference(day=day, decision=name, symbol=whose, cause=cause, detail=_cut(detail)))
    return found


def _blamed(
    name: str, was: str, symbol: str | None, groups: Sequence[Group], answered: dict[int, Answers]
) -> list[Change]:
    """The changes that alone move this decision, its own symbol's first; all of them when only together they do."""
    own_first = sorted(
        range(len(groups)), key=lambda k: (symbol is None or all(c.symbol != symbol for c in groups[k].changes), k)
    )
    for k in own_first:
        if k not in answered:
            answered[k] = groups[k].answers()
        if answered[k].get(name, "absent") != was:
            return sorted(groups[k].changes, key=lambda change: change.symbol != symbol)
    return [change for group in groups for change in group.changes]


def _cut(text: str) -> str:
    return text if len(text) <= 400 else text[:399] + "…"
