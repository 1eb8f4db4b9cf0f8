"""What else is known of a symbol at a bar, for many bars at once. Pure; row t uses rows <= t only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.panel import Panel
from portfolio.quality_gate import MEDIAN_BARS, Facts, median_dollar_volumes
from portfolio.strategies.indicators import Floats, Ints, Points

GAP_SESSIONS_MAX = 60
"""After a longer silence inside the window the ticker may be another company's: its older bars decide nothing (D09)."""


def facts_of(panel: Panel, points: Points, which: Ints) -> list[Facts]:
    """Of the points `which`: the exact average, and the median dollar volume."""
    usd = dollar_volumes(panel, points.rows[which], points.columns[which])
    return [Facts(sma, volume) for sma, volume in zip(points.sma[which].tolist(), usd.tolist(), strict=True)]


def dollar_volumes(panel: Panel, rows: Ints, columns: Ints) -> Floats:
    """Median USD a session over the last 20 bars up to each row; NaN for fewer bars, or with an unknown among them."""
    usd: Floats = np.full(rows.shape, np.nan)
    full = rows >= MEDIAN_BARS - 1
    window = rows[full][:, None] - np.arange(MEDIAN_BARS - 1, -1, -1)
    beside = columns[full][:, None]
    usd[full] = median_dollar_volumes(panel.close[window, beside], panel.volume[window, beside])
    return usd


def longest_gaps(panel: Panel, rows: Ints, columns: Ints, bars: int) -> NDArray[np.int32]:
    """The most sessions in a row without a bar within the last `bars` bars up to each row; there must be that many.

    Where all missing sessions together are no longer than GAP_SESSIONS_MAX, their number is returned instead: it
    decides the same.
    """
    index = panel.session_index
    gaps: NDArray[np.int32] = index[rows, columns] - index[rows - bars + 1, columns] - np.int32(bars - 1)
    long = np.flatnonzero(gaps > GAP_SESSIONS_MAX)
    window = rows[long][:, None] - np.arange(bars - 1, -1, -1)
    gaps[long] = np.diff(index[window, columns[long][:, None]], axis=1).max(axis=1, initial=1) - 1
    return gaps
