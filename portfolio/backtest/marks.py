"""What trades did between entry and exit, bar by bar: excursions in R, and the daily return of holding them.

A bar counts in full while a trade is held through it. Of the bar it left on only the open and the exit price are known
to have come before the exit, unless it left at that bar's close: what the bar did afterwards is not the trade's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from core.domain import ExitReason
from core.panel import Panel
from portfolio.backtest.bootstrap import Floats, Ints
from portfolio.backtest.engine import REASONS, Trades
from portfolio.strategies import session_number


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Closed trades as rows of the panel, 1-d of one length; prices USD per share.

    first, last  rows of the entry bar and of the bar it left on · at_close  it left at that bar's close
    cost         of the round trip, as a fraction of the entry price; half on the first, half on the last bar
    """

    column: Ints
    first: Ints
    last: Ints
    entry_price: Floats
    exit_price: Floats
    stop: Floats
    at_close: NDArray[np.bool_]
    cost: Floats


def place_table(trades: Trades, cost: Floats | float = 0.0) -> Placed:
    """The closed trades of the engine's table, which knows its rows."""
    ended = trades.rows(trades.closed)
    return Placed(
        column=ended.column,
        first=ended.first,
        last=ended.leave,
        entry_price=ended.entry_price,
        exit_price=ended.exit_price,
        stop=ended.stop,
        at_close=ended.reason == REASONS.index(ExitReason.TIME),
        cost=np.broadcast_to(np.asarray(cost, dtype=np.float64), ended.column.shape),
    )


def excursions(panel: Panel, placed: Placed) -> tuple[Floats, Floats]:
    """(mae_r, mfe_r): the worst and the best the trade stood at, in R of its own risk; mae_r <= 0 <= mfe_r."""
    worst, best = placed.entry_price.copy(), placed.entry_price.copy()
    for k in range(_longest(placed)):
        rows = placed.first + k
        whole = (rows < placed.last) | ((rows == placed.last) & placed.at_close)
        here, at = np.flatnonzero(whole), rows[whole]
        worst[here] = np.minimum(worst[here], panel.low[at, placed.column[here]])
        best[here] = np.maximum(best[here], panel.high[at, placed.column[here]])
    opened = np.where(placed.last > placed.first, panel.open[placed.last, placed.column], placed.entry_price)
    for price in (opened, placed.exit_price):
        np.minimum(worst, price, out=worst)
        np.maximum(best, price, out=best)
    risk = placed.entry_price - placed.stop
    return (worst - placed.entry_price) / risk, (best - placed.entry_price) / risk


def daily_returns(panel: Panel, placed: Placed, start: date, end: date) -> tuple[Floats, Ints]:
    """Of every market session within start..end: the mean return of the trades held in it, and how many those were.

    Equal weight, renewed daily: the curve of the signal level, which knows no cash. A session without a trade is 0.
    A trade's days multiply to exit price / entry price, less its cost.
    """
    total, count = np.zeros(panel.sessions.size), np.zeros(panel.sessions.size)
    for k in range(_longest(placed)):
        here = np.flatnonzero(placed.first + k <= placed.last)
        rows, column = placed.first[here] + k, placed.column[here]
        before = placed.entry_price[here] if k == 0 else panel.close[rows - 1, column]
        leaves = rows == placed.last[here]
        after = np.where(leaves, placed.exit_price[here], panel.close[rows, column])
        paid = placed.cost[here] * 0.5 * (leaves.astype(np.float64) + (1.0 if k == 0 else 0.0))
        session = panel.session_index[rows, column]
        total += np.bincount(session, weights=after / before - 1.0 - paid, minlength=total.size)
        count += np.bincount(session, minlength=total.size)
    low, high = np.searchsorted(panel.sessions, [session_number(start), session_number(end) + 1])
    held = count[low:high]
    return np.divide(total[low:high], held, out=np.zeros(held.size), where=held > 0), held.astype(np.intp)


def _longest(placed: Placed) -> int:
    return int((placed.last - placed.first).max(initial=-1)) + 1
