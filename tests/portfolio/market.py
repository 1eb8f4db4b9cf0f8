"""Small hand-made panels for the portfolio tests: a rising series, then the last bar as asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

import numpy as np

from core.bars_io import BarColumns
from core.panel import Panel

FIRST = date(2022, 1, 3)
Bar = tuple[float, float, float, float]  # open, high, low, close


def weekdays(count: int, first: date = FIRST) -> list[date]:
    out: list[date] = []
    day = first
    while len(out) < count:
        if day.weekday() < 5:
            out.append(day)
        day += timedelta(days=1)
    return out


def columns(bars: Sequence[Bar], days: Sequence[date], volume: float = 2e6) -> BarColumns:
    values = np.array(bars, dtype=np.float64)
    dates = np.array([(day - date(1970, 1, 1)).days for day in days], dtype=np.int32)
    return BarColumns(dates, *(values[:, i].copy() for i in range(4)), np.full(len(bars), volume))


def rising(count: int, *, start: float = 50.0, step: float = 0.2, seed: int = 0) -> list[Bar]:
    """An upward trend with a little noise of its own, so that two symbols are not correlated."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        close = start + step * i + float(rng.normal(0.0, 0.6))
        opened = close - 0.05
        out.append((opened, close + 0.5, close - 0.5, close))
    return out


def oversold(bars: Sequence[Bar], fall: float = 3.0) -> list[Bar]:
    """The same with three falling bars at the end, only the last closing at its low: an ibs_rsi setup on it alone."""
    out = list(bars[:-3])
    for below in (1.0, 1.0, 0.0):
        before = out[-1][3]
        close = before - fall
        out.append((before, before + 0.1, close - below, close))
    return out


def swept(bars: Sequence[Bar]) -> list[Bar]:
    """The last bar goes below the 20-bar low and closes above it: a turtle_soup setup, and no ibs_rsi setup."""
    out = list(bars[:-1])
    lowest, before = min(bar[2] for bar in out[-20:]), out[-1][3]
    out.append((before, before + 0.2, lowest - 1.5, before))
    return out


def panel_of(series: Mapping[str, Sequence[Bar]], days: Sequence[date]) -> Panel:
    """Every series ends on the last day."""
    return Panel.from_bars({symbol: columns(bars, days[-len(bars) :]) for symbol, bars in series.items()})
