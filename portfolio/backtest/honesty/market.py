"""The market as it was known on a day, and with another future than the one that came. Pure, seeded.

Every change leaves the bars up to the cut as they are, to the bit, and keeps the days: only what came later differs.
A change is made of moves (logarithms of open to close before, high, low and close to open), so bars stay bars.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.bars_io import FIELDS, BarColumns, Days, Floats

Moves = NDArray[np.float64]  # (4, n): open to close before, high to open, low to open, close to open
Change = Callable[[Moves, Floats, np.random.Generator], tuple[Moves, Floats]]

_MOST = 0.5  # a made-up bar moves at most so much, as a logarithm: about 65 %
_FLOOR_MOVE = 0.02  # a changed bar closes at least so far from where it did


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Another file of the strategy: columns of equal length. `days`: when each row became known (-1: always was).

    hidden: columns of a row not yet known that are blanked; the row itself stays. None: the row goes.
    """

    columns: Mapping[str, NDArray[Any]]
    days: Days
    hidden: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Market:
    """bars: symbol -> its bars, oldest first · tables by name · factors: symbol -> raw price over adjusted, per bar."""

    bars: Mapping[str, BarColumns]
    tables: Mapping[str, Table] = field(default_factory=dict)
    factors: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def sessions(self) -> Days:
        days = [own.dates for own in self.bars.values() if len(own)]
        return np.unique(np.concatenate(days)).astype(np.int32) if days else np.empty(0, np.int32)

    def only(self, symbols: Collection[str]) -> Market:
        kept = {s: own for s, own in self.bars.items() if s in symbols}
        return replace(self, bars=kept)

    def bars_where(self, keep: Callable[[str, BarColumns], NDArray[Any]]) -> Market:
        bars: dict[str, BarColumns] = {}
        factors: dict[str, Floats] = {}
        for symbol, own in self.bars.items():
            rows = keep(symbol, own)
            if rows.all():
                bars[symbol], factors[symbol] = own, self.factors.get(symbol, np.ones(len(own)))
            elif rows.any():
                bars[symbol], factors[symbol] = own.rows(rows), self.factors.get(symbol, np.ones(len(own)))[rows]
        return replace(self, bars=bars, factors=factors if self.factors else {})

    def known_at(self, cut: int) -> Market:
        """Bars up to the close of `cut`, tables as they stood then."""
        short = self.bars_where(lambda _, own: own.dates <= cut)
        return replace(short, tables={name: known(name, table, cut) for name, table in self.tables.items()})

    def without_future_of(self, symbols: Collection[str], cut: int) -> Market:
        """As if these symbols had stopped trading after `cut`."""
        return self.bars_where(lambda s, own: own.dates <= (cut if s in symbols else own.dates[-1]))

    def from_day(self, first: int) -> Market:
        return self.bars_where(lambda _, own: own.dates >= first)


# ---------------------------------------------------------------- another future
def inverted(moves: Moves, volume: Floats, rng: np.random.Generator) -> tuple[Moves, Floats]:
    """Up is down and larger; the level as a whole stays."""
    gap, up, down, body = moves
    turned = 2.0 * np.array([-gap, -down, -up, -body])
    turned[0] -= (turned[0] + turned[3]).mean() if turned.shape[1] else 0.0
    return turned, volume[::-1] * 4.0


def shuffled(moves: Moves, volume: Floats, rng: np.random.Generator) -> tuple[Moves, Floats]:
    """The same bars in another order, wilder."""
    order = rng.permutation(moves.shape[1])
    return 1.5 * moves[:, order], volume[order] * np.exp(rng.normal(0.0, 1.0, volume.size))


def scaled(moves: Moves, volume: Floats, rng: np.random.Generator) -> tuple[Moves, Floats]:
    """A calm rise to another level."""
    calm = 0.3 * moves
    calm[0] += 0.004
    if calm.shape[1]:
        calm[0, 0] += 0.4
    return calm, volume / 4.0


def reversed_(moves: Moves, volume: Floats, rng: np.random.Generator) -> tuple[Moves, Floats]:
    """Backwards, and a fall to another level."""
    back = 1.2 * moves[:, ::-1]
    if back.shape[1]:
        back[0, 0] -= 0.4
    return back, volume[::-1] * 2.0


CHANGES: Mapping[str, Change] = {
    "inverted": inverted, "shuffled": shuffled, "scaled": scaled, "reversed": reversed_,
}  # fmt: skip


def changed_after(
    market: Market, cut: int, kind: str, *, symbols: Collection[str] | None = None, columns: Collection[str] = FIELDS
) -> Market:
    """Another future after `cut`, of these symbols (None: all) and columns; factors stay as they are."""
    bars = {}
    for number, (symbol, own) in enumerate(market.bars.items()):
        first = int(np.searchsorted(own.dates, cut, side="right"))
        if (symbols is not None and symbol not in symbols) or first >= len(own):
            bars[symbol] = own
            continue
        rng = np.random.default_rng((cut, number, len(kind)))
        bars[symbol] = _rebuilt(own, first, CHANGES[kind], rng, columns)
    return replace(market, bars=bars)


def changed_after_open(market: Market, cut: int, *, close_only: bool = False) -> Market:
    """The bar of `cut` from its open on, and everything after it.

    close_only: high and low of that bar stay too, only where it closed within them and its volume differ.
    """
    bars = {}
    for number, (symbol, own) in enumerate(market.bars.items()):
        at = int(np.searchsorted(own.dates, cut))
        if at < len(own) and own.dates[at] == cut:
            own = _turned_bar(own, at, close_only=close_only)
        first = int(np.searchsorted(own.dates, cut, side="right"))
        if first < len(own):
            own = _rebuilt(own, first, shuffled, np.random.default_rng((cut, number)), FIELDS)
        bars[symbol] = own
    return replace(market, bars=bars)


def _turned_bar(own: BarColumns, at: int, *, close_only: bool) -> BarColumns:
    """One bar with another outcome, on the same open."""
    values = {f: getattr(own, f).copy() for f in FIELDS}
    o, h, low, c = (float(values[f][at]) for f in FIELDS[:4])
    values["volume"][at] *= 4.0
    if np.isfinite([o, h, low, c]).all() and min(o, h, low, c) > 0:
        if close_only:
            values["close"][at] = h + low - c
        else:
            away = np.log(c / o)
            turned = o * np.exp(-2.0 * away - (_FLOOR_MOVE if away >= 0 else -_FLOOR_MOVE))
            values["close"][at] = turned
            values["high"][at] = max(o, turned) * (max(h, o) / max(o, c)) * 1.003
            values["low"][at] = min(o, turned) * (min(low, o) / min(o, c)) * 0.997
    return BarColumns(own.dates, *(values[f] for f in FIELDS))


def _rebuilt(
    own: BarColumns, first: int, change: Change, rng: np.random.Generator, columns: Collection[str]
) -> BarColumns:
    """Bars from row `first` on made anew from changed moves; missing values stay missing."""
    prices = np.array([own.open, own.high, own.low, own.close])
    tail = prices[:, first:]
    good = np.isfinite(tail).all(axis=0) & (tail > 0).all(axis=0)
    before = own.close[:first]
    before = before[np.isfinite(before) & (before > 0)]
    anchor = float(before[-1]) if before.size else float(tail[0][good][0]) if good.any() else 1.0
    moves = _moves(tail[:, good], anchor)
    moved, volume = change(moves, np.array(own.volume[first:], dtype=np.float64), rng)
    made = _bars_of(np.clip(moved, -_MOST, _MOST), anchor)
    values = {}
    for f, row in zip(FIELDS[:4], made, strict=True):
        values[f] = getattr(own, f)
        if f in columns:
            values[f] = values[f].copy()
            values[f][first:][good] = row
    values["volume"] = own.volume
    if "volume" in columns:
        values["volume"] = np.concatenate([own.volume[:first], _volumes(own.volume[first:], volume)])
    return BarColumns(own.dates, *(values[f] for f in FIELDS))


def _volumes(was: Floats, made: Floats) -> Floats:
    """Whole shares; a bar without trade stays one, and no other becomes one, so that the same bars can be traded."""
    some = was > 0
    usual = float(np.median(was[some])) if some.any() else 0.0
    out = np.where(np.isfinite(made) & (made >= 1.0), np.round(made), usual)
    return np.where(some | np.isnan(was), np.where(np.isnan(was), np.nan, out), 0.0)


def _moves(prices: Floats, anchor: float) -> Moves:
    o, h, low, c = np.log(prices)
    before = np.concatenate([[np.log(anchor)], c[:-1]])[: o.size]
    return np.array([o - before, h - o, low - o, c - o])


def _bars_of(moves: Moves, anchor: float) -> Floats:
    gap, up, down, body = moves
    close = np.log(anchor) + np.cumsum(gap + body)
    level = np.log(anchor)
    close = np.clip(close, level - 4.0, level + 4.0)  # a long amplified walk must stay a price
    o = np.concatenate([[level], close[:-1]])[: close.size] + gap
    high = np.maximum(np.maximum(o + up, o), close)
    low = np.minimum(np.minimum(o + down, o), close)
    made: Floats = np.exp(np.array([o, high, low, close]))
    return made


# ---------------------------------------------------------------- other tables
def known(name: str, table: Table, cut: int) -> Table:
    """A table as it stood at the close of `cut`. Of memberships, an end that had not come yet is open."""
    if name == "membership":
        return _membership_known(table, cut)
    there = table.days <= cut
    if table.hidden is None:
        return Table({c: v[there] for c, v in table.columns.items()}, table.days[there], None)
    columns = dict(table.columns)
    for name_ in table.hidden:
        columns[name_] = blanked(columns[name_], ~there)
    return replace(table, columns=columns)


def _membership_known(table: Table, cut: int) -> Table:
    there = table.columns["start"] <= cut
    columns = {c: v[there] for c, v in table.columns.items()}
    columns["end"] = np.where(columns["end"] > cut, -1, columns["end"])
    return Table(columns, table.days[there], None)


def changed_table(name: str, table: Table, cut: int) -> Table:
    """The table with other values in what was not known at `cut`."""
    if name == "membership":
        return _membership_known(table, cut)
    later = np.flatnonzero(table.days > cut)
    columns = dict(table.columns)
    for name_ in table.hidden if table.hidden is not None else [c for c in columns if c not in ("symbol", "date")]:
        values = columns[name_].copy()
        if values.dtype.kind == "f":
            sign = np.where(np.arange(later.size) % 2 == 0, -1.0, 1.0)
            values[later] = sign * (2.0 * values[later][::-1] + 1.0)
        else:
            values[later] = values[later][::-1]
        columns[name_] = values
    return replace(table, columns=columns)


def with_table(market: Market, name: str, table: Table) -> Market:
    return replace(market, tables={**market.tables, name: table})


def blanked(values: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[Any]:
    out = values.copy()
    out[where] = np.nan if values.dtype.kind == "f" else ""
    return out


# ---------------------------------------------------------------- another basis
def rescaled(market: Market, factors: Mapping[str, float]) -> Market:
    """Each symbol's prices times its factor and its volume divided by it, as a later split would have it.

    The raw prices are what they were, so the factors of the market are divided.
    """
    bars, raw = {}, {}
    for symbol, own in market.bars.items():
        by = factors.get(symbol, 1.0)
        bars[symbol] = own if by == 1.0 else _times(own, by)
        if symbol in market.factors:
            raw[symbol] = market.factors[symbol] / by
    return replace(market, bars=bars, factors=raw)


def _times(own: BarColumns, by: float) -> BarColumns:
    return BarColumns(own.dates, own.open * by, own.high * by, own.low * by, own.close * by, own.volume / by)
