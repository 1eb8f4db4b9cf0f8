"""Two answers of one strategy, compared on what had to be known by a day. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.bars_io import from_day
from portfolio.backtest.honesty.asked import Answer, Deal, Features

_SAME = 1e-6  # numbers closer than this part of them are the same
Key = tuple[str, str, int, int]  # symbol, tag, entry day, how many before it with the same


@dataclass(frozen=True, slots=True)
class Difference:
    """where: the trade, or the column and row."""

    where: str
    what: str
    column: bool = False


def same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return a == b or (np.isnan(a) and np.isnan(b)) or abs(a - b) <= _SAME * max(abs(a), abs(b))


def keyed(deals: Sequence[Deal]) -> dict[Key, Deal]:
    """Trades by symbol, tag and entry day; several of one day in the order of their numbers."""
    out: dict[Key, Deal] = {}
    seen: dict[tuple[str, str, int], int] = defaultdict(int)
    for deal in sorted(deals, key=lambda d: (d.symbol, d.tag, d.entry, d.entry_price, d.exit or 0)):
        place = (deal.symbol, deal.tag, deal.entry)
        out[(*place, seen[place])] = deal
        seen[place] += 1
    return out


def over_by(deal: Deal, day: int) -> bool:
    return deal.exit is not None and deal.exit <= day


def trades_differ(base: Answer, other: Answer, cut: int, *, ended: bool, drops_open: bool) -> list[Difference]:
    """Trades entered up to the close of `cut` that are not the same in both.

    ended: the data of `other` end at `cut`; what it does on its last bar is then its own business (a trade closed
    because the data end). drops_open: the strategy tells no trade that is open at the end, so a
    missing one says nothing.
    """
    last = cut - 1 if ended else cut
    ours = {k: d for k, d in keyed(base.deals).items() if d.entry <= last}
    theirs = {k: d for k, d in keyed(other.deals).items() if d.entry <= last}
    latest: dict[str, int] = {}
    for deal in other.deals:
        latest[deal.symbol] = max(latest.get(deal.symbol, 0), deal.exit or deal.entry)
    found = []
    for key in sorted(ours.keys() | theirs.keys(), key=lambda k: (k[2], k[0], k[1], k[3])):
        mine, his = ours.get(key), theirs.get(key)
        if mine is not None and his is not None:
            if ended and not over_by(mine, last) and his.exit == latest[his.symbol]:
                his = replace(his, exit=mine.exit, exit_price=mine.exit_price)  # closed because its bars end
            found += _pair(mine, his, last)
        elif mine is not None and (over_by(mine, last) or not drops_open):
            found.append(Difference(str(mine), "is gone"))
        elif his is not None and not (drops_open and _may_be_unfinished(his, base, last)):
            found.append(Difference(str(his), "appears"))
    return found


def _may_be_unfinished(deal: Deal, base: Answer, last: int) -> bool:
    """A trade that the base may simply not have told because there it never ended."""
    return not over_by(deal, last) and all(d.entry <= deal.entry for d in base.deals if d.symbol == deal.symbol)


def _pair(mine: Deal, his: Deal, last: int) -> list[Difference]:
    for name in ("entry_price", "quantity", "long", "signal"):
        a, b = getattr(mine, name), getattr(his, name)
        if not same(a, b):
            return [Difference(str(mine), f"has another {name}: {b} for {a}")]
    if over_by(mine, last) or over_by(his, last):
        if mine.exit != his.exit:
            return [Difference(str(mine), f"leaves on {_day(his.exit)} instead of {_day(mine.exit)}")]
        if not same(mine.exit_price, his.exit_price):
            return [Difference(str(mine), f"leaves at {his.exit_price} instead of {mine.exit_price}")]
    return []


def _day(day: int | None) -> str:
    return "no day" if day is None else str(from_day(day))


def features_differ(base: Answer, other: Answer, cut: int, symbols: Collection[str] | None = None) -> list[Difference]:
    """The first row up to `cut` of every feature column that is not the same in both."""
    found = []
    for symbol in sorted(base.features.keys() & other.features.keys()):
        if symbols is None or symbol in symbols:
            found += _columns_differ(symbol, base.features[symbol], other.features[symbol], cut)
    return found


def _columns_differ(symbol: str, base: Features, other: Features, cut: int) -> list[Difference]:
    shared, mine, his = np.intersect1d(base.days, other.days, assume_unique=False, return_indices=True)
    keep = shared <= cut
    shared, mine, his = shared[keep], mine[keep], his[keep]
    found = []
    for name in sorted(base.columns.keys() & other.columns.keys()):
        a, b = base.columns[name][mine], other.columns[name][his]
        with np.errstate(invalid="ignore"):
            close = np.abs(a - b) <= _SAME * np.maximum(np.abs(a), np.abs(b)) + 1e-12
        wrong = np.flatnonzero(~((a == b) | close | (np.isnan(a) & np.isnan(b))))
        if wrong.size:
            at = int(wrong[0])
            where = f"column {name} of {symbol} on {from_day(int(shared[at]))}"
            found.append(Difference(where, f"is {b[at]:.6g} instead of {a[at]:.6g}", column=True))
    return found


def looked_at(answer: Answer, cut: int) -> int:
    """How many trades and feature rows a comparison at `cut` covers."""
    rows = sum(int((own.days <= cut).sum()) for own in answer.features.values())
    return sum(1 for deal in answer.deals if deal.entry <= cut) + rows


def by_symbol(deals: Sequence[Deal]) -> Mapping[str, list[Deal]]:
    out: dict[str, list[Deal]] = defaultdict(list)
    for deal in deals:
        out[deal.symbol].append(deal)
    return out
