"""What the market did, per session: SPY, VIX, and what the panel itself tells of its many symbols. Pure.

A value at session t uses bars, SPY and VIX closes of sessions <= t only, and does not depend on how much history lies
before what it looks at. What is not known is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.bars_io import BarColumns, to_day
from core.panel import Panel

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Days = NDArray[np.int32]

FEWEST_SYMBOLS: Final = 30  # fewer do not tell what the market does
BREADTH_BARS: Final = 50


@dataclass(frozen=True, slots=True, eq=False)
class MarketView:
    """(n_sessions,) each, on the sessions of the panel it was made from, ascending days since 1970-01-01.

    spy       closes, USD per share on one basis · vix, closes in index points; NaN on a session that is not known
    breadth   share of the symbols trading that session whose close is above that of 50 bars before
    middle    the median of their returns since the session before
    """

    sessions: Days
    spy: Floats
    vix: Floats
    breadth: Floats
    middle: Floats

    def at(self, days: Days) -> Ints:
        """Where these sessions lie; -1 for one that is not here."""
        found = np.searchsorted(self.sessions, days)
        there = np.minimum(found, max(0, self.sessions.size - 1))
        known = self.sessions[there] == days if self.sessions.size else np.zeros(days.shape, np.bool_)
        return np.where(known, there, -1).astype(np.intp)

    def upto(self, session: date) -> MarketView:
        """Only what was known at the close of `session`."""
        keep = int(np.searchsorted(self.sessions, to_day(session), side="right"))
        return MarketView(
            self.sessions[:keep], self.spy[:keep], self.vix[:keep], self.breadth[:keep], self.middle[:keep]
        )


def market_view(
    panel: Panel, *, spy: BarColumns | None, vix: Mapping[date, float], last: int | None = None
) -> MarketView:
    """The market of the panel's sessions; `panel` has no bar with a missing price.

    spy   its bars; None: not at hand, so unknown · vix, closes by session
    last  work only the last so many sessions out (the others are NaN): a scan needs few of them
    """
    sessions = panel.sessions
    first = 0 if last is None else max(0, int(sessions.size) - last)
    breadth, middle = _of_many(panel, first)
    closes = np.full(sessions.shape, np.nan)
    if spy is not None and len(spy):
        found = np.minimum(np.searchsorted(spy.dates, sessions), len(spy) - 1)
        same = spy.dates[found] == sessions
        closes[same] = spy.close[found[same]]
    levels = {to_day(day): level for day, level in vix.items()}
    known = np.array([levels.get(int(day), np.nan) for day in sessions.tolist()], dtype=np.float64)
    return MarketView(sessions, closes, known, breadth, middle)


def _of_many(panel: Panel, first: int) -> tuple[Floats, Floats]:
    """(breadth, middle) per session, NaN before `first` and where fewer than FEWEST_SYMBOLS tell."""
    n_sessions = int(panel.sessions.size)
    breadth, middle = np.full(n_sessions, np.nan), np.full(n_sessions, np.nan)
    if not panel.symbols or first >= n_sessions:
        return breadth, middle
    sessions = np.arange(first, n_sessions)
    rows, columns = rows_of(panel, sessions), np.arange(len(panel.symbols))[None, :]
    now = panel.close[np.maximum(rows, 0), columns]
    before = np.maximum(rows - 1, 0)
    next_day = (rows > 0) & (panel.session_index[before, columns] == sessions[:, None] - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        middle[first:] = _middle(np.where(next_day, now / panel.close[before, columns] - 1.0, np.nan))
        told = (rows >= BREADTH_BARS).sum(axis=1)
        up = ((rows >= BREADTH_BARS) & (now > panel.close[np.maximum(rows - BREADTH_BARS, 0), columns])).sum(axis=1)
        breadth[first:] = np.where(told >= FEWEST_SYMBOLS, up / told, np.nan)
    return breadth, middle


def rows_of(panel: Panel, sessions: Ints) -> Ints:
    """(n_sessions, n_symbols): each symbol's own row of these indices into panel.sessions; -1 = it did not trade.

    A search by halves in all columns at once: the time does not grow with the panel's history.
    """
    columns, wanted = np.arange(len(panel.symbols))[None, :], np.asarray(sessions)[:, None]
    length = panel.length.astype(np.intp)[None, :]
    low = np.zeros((wanted.size, columns.size), dtype=np.intp)
    high = np.broadcast_to(length, low.shape).copy()
    last = max(0, panel.close.shape[0] - 1)
    for _ in range(int(panel.close.shape[0]).bit_length()):
        middle = (low + high) // 2
        below = (middle < high) & (panel.session_index[np.minimum(middle, last), columns] < wanted)
        low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
    there = np.minimum(low, last)
    found = (low < length) & (panel.session_index[there, columns] == wanted)
    return np.where(found, there, -1)


def _middle(returns: Floats) -> Floats:
    """Median of each row's known values; NaN for fewer than FEWEST_SYMBOLS."""
    known = np.isfinite(returns).sum(axis=1)
    ordered = np.sort(returns, axis=1)  # the unknown ones last
    at = np.arange(returns.shape[0])
    low, high = ordered[at, np.maximum(known - 1, 0) // 2], ordered[at, np.minimum(known // 2, returns.shape[1] - 1)]
    return np.where(known >= FEWEST_SYMBOLS, (low + high) / 2.0, np.nan)
