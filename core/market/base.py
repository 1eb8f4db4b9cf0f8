"""What a market is, and the deterministic path a price takes through one session's bar.

Prices are USD per share as traded (raw, not adjusted); days are int32 days since 1970-01-01.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from datetime import date
from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from core.domain import CorporateAction, Symbol

EPOCH = date(1970, 1, 1).toordinal()
IDEAL_EDGE_MINUTES = 15.0  # at_open: the open holds this long, and the close is shown this long before the end


class Bar(NamedTuple):
    """One session of one symbol, raw USD; volume in shares."""

    open: float
    high: float
    low: float
    close: float
    volume: float


class Row(NamedTuple):
    """A bar with its symbol, for grouped answers."""

    symbol: Symbol
    open: float
    high: float
    low: float
    close: float
    volume: float


class SplitEvent(NamedTuple):
    """`ratio` new shares for one old: 2.0 halves the price, 0.1 is a 1-for-10 reverse split."""

    symbol: Symbol
    ex_date: date
    ratio: float


class DividendEvent(NamedTuple):
    """USD per share as paid."""

    symbol: Symbol
    ex_date: date
    amount: float


class Series(NamedTuple):
    """A symbol's own bars, ascending, one array per column; views, never to be written."""

    days: NDArray[np.int32]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]

    def between(self, start: date, end: date) -> Series:
        """Bars with start <= session <= end."""
        first = int(np.searchsorted(self.days, day_number(start), side="left"))
        last = int(np.searchsorted(self.days, day_number(end), side="right"))
        return self.part(slice(first, last))

    def part(self, rows: slice | NDArray[np.bool_]) -> Series:
        days, opens, highs, lows, closes, volumes = self
        return Series(days[rows], opens[rows], highs[rows], lows[rows], closes[rows], volumes[rows])

    def at(self, row: int) -> tuple[date, Bar]:
        return day_date(int(self.days[row])), Bar(*(float(column[row]) for column in self[1:]))


class Fills(StrEnum):
    """How a session is played: a plausible path, or the idealised one whose trades equal the daily-bar rules."""

    PATH = "path"
    AT_OPEN = "at_open"


class Market(Protocol):
    """Daily bars. Pure: it knows every session it will ever have, so whoever asks must not ask beyond its clock."""

    @property
    def name(self) -> str: ...

    @property
    def simulated(self) -> bool: ...

    @property
    def spec(self) -> str:
        """What to hand to `--market` to get this market again."""
        ...

    @property
    def sessions(self) -> Sequence[date]: ...
    def symbols(self) -> Sequence[Symbol]: ...
    def sectors(self) -> Mapping[Symbol, str | None]: ...
    def bar(self, symbol: str, session: date) -> Bar | None: ...
    def last_bar(self, symbol: str, session: date) -> tuple[date, Bar] | None:
        """The latest bar at or before `session`."""
        ...

    def series(self, symbol: str, upto: date) -> Series | None:
        """All bars at or before `upto`; None for a symbol this market never heard of."""
        ...

    def rows(self, session: date) -> list[Row]: ...
    def splits(self, upto: date) -> Sequence[SplitEvent]: ...
    def dividends(self, upto: date) -> Sequence[DividendEvent]: ...
    def events(self, upto: date) -> Sequence[CorporateAction]:
        """Renames, mergers, spin-offs and delistings; splits and dividends are asked for above."""
        ...

    def vix(self, session: date) -> float | None:
        """Close of the volatility index; None when not known."""
        ...


def day_number(day: date) -> int:
    return day.toordinal() - EPOCH


def day_date(number: int) -> date:
    return date.fromordinal(int(number) + EPOCH)


class Knot(NamedTuple):
    """A point of a session's path: minutes after the open, USD."""

    minute: float
    price: float


def session_path(fills: Fills, symbol: str, session: date, bar: Bar, minutes: float) -> tuple[Knot, ...]:
    """The price's way through a session of `minutes` length: knots joined by straight lines.

    Two knots at the same minute are a jump, and the jump trades at every price in between. Both models touch
    open, low, high and close, and show the close in the last minute.
    """
    low, high = min(bar.low, bar.open, bar.close), max(bar.high, bar.open, bar.close)
    if fills is Fills.AT_OPEN:
        first, last, middle = IDEAL_EDGE_MINUTES, minutes - IDEAL_EDGE_MINUTES, minutes / 2
        return (
            Knot(0.0, bar.open), Knot(first, bar.open), Knot(first, low), Knot(middle, low),
            Knot(middle, high), Knot(last, high), Knot(last, bar.close), Knot(minutes, bar.close),
        )  # fmt: skip
    # When the two extremes are met differs by symbol and day; crc32 because hash() changes from run to run.
    mixed = zlib.crc32(f"{symbol}{session.toordinal()}".encode())
    early = (0.15 + 0.30 * (mixed & 0xFFFF) / 0xFFFF) * minutes
    late = (0.55 + 0.30 * (mixed >> 16) / 0xFFFF) * minutes
    extremes = (low, high) if bar.close >= bar.open else (high, low)
    return (
        Knot(0.0, bar.open), Knot(early, extremes[0]), Knot(late, extremes[1]),
        Knot(minutes - 1.0, bar.close), Knot(minutes, bar.close),
    )  # fmt: skip


def price_on(path: Sequence[Knot], minute: float) -> float:
    """The path's price at `minute`; at a jump the price after it. Held constant outside the session."""
    if minute < path[0].minute:
        return path[0].price
    for left, right in zip(reversed(path[:-1]), reversed(path[1:]), strict=True):
        if left.minute <= minute:
            if minute >= right.minute:
                return right.price
            return left.price + (right.price - left.price) * (minute - left.minute) / (right.minute - left.minute)
    return path[-1].price


class Crossing(NamedTuple):
    """When a level was first met; `already` when the price was there or beyond from the first moment."""

    minute: float
    already: bool


def first_crossing(path: Sequence[Knot], begin: float, end: float, level: float, *, rising: bool) -> Crossing | None:
    """The first minute in [begin, end] at which the price is >= level (rising) or <= level (falling)."""
    sign = 1.0 if rising else -1.0
    start = price_on(path, begin)
    if sign * (start - level) >= 0:
        return Crossing(begin, True)
    here = Knot(begin, start)
    for knot in path:
        if knot.minute <= begin:
            continue
        if sign * (knot.price - level) >= 0:
            run = knot.minute - here.minute
            part = (level - here.price) / (knot.price - here.price)
            minute = here.minute + run * part
            return Crossing(minute, False) if minute <= end else None
        here = knot
        if here.minute > end:
            return None
    return None
