"""Indicators over the compact panel: row t of column j is the t-th bar that symbol j itself traded.

Arrays are (n_bars, n_symbols) float64, left-aligned, NaN after a symbol's last bar. Row t uses rows <= t only.
Undefined is NaN, never 0 and never a neutral value; a comparison with NaN is False, so undefined means no signal.

The order of the floating-point operations is part of the contract: a value must not depend on how many symbols or
later bars the panel holds, so Wilder's averages run row by row and every decision on the moving average is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.strategy_params import CommonParams
from core.panel import Panel

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

_EPSILON = 2.3e-16  # a little above the unit of a float64
_TIE = 1e-9  # closer to the average than this fraction of the close is decided by the exact sum


def without_missing(panel: Panel) -> Panel:
    """Drop bars whose open, high, low or close is not finite: that session the symbol did not trade.

    Returns the panel itself when there are none, which is the usual case. `sessions` is kept, so a dropped bar still
    is a market session without a bar.
    """
    live = np.arange(panel.close.shape[0])[:, None] < panel.length[None, :]
    good = np.isfinite(panel.open) & np.isfinite(panel.high) & np.isfinite(panel.low) & np.isfinite(panel.close)
    if bool((good == live).all()):
        return panel
    good &= live
    order = np.argsort(~good, axis=0, kind="stable")  # good rows first, in their order
    length = good.sum(axis=0).astype(np.int32)
    tail = np.arange(good.shape[0])[:, None] >= length[None, :]

    def packed(values: NDArray[Any], fill: float) -> NDArray[Any]:
        moved = np.take_along_axis(values, order, axis=0)
        moved[tail] = fill
        return moved

    return Panel(
        symbols=panel.symbols,
        sessions=panel.sessions,
        open=packed(panel.open, np.nan),
        high=packed(panel.high, np.nan),
        low=packed(panel.low, np.nan),
        close=packed(panel.close, np.nan),
        volume=packed(panel.volume, np.nan),
        session_index=packed(panel.session_index, -1),
        length=length,
    )


def internal_bar_strength(high: Floats, low: Floats, close: Floats) -> Floats:
    """(C - L) / (H - L), elementwise; NaN where H = L."""
    span = high - low
    out = np.full(span.shape, np.nan)
    np.divide(close - low, span, out=out, where=span != 0)
    return out


def wilder(values: Floats, window: int) -> Floats:
    """Wilder's average of rows 1.. (row 0 has no value), seeded at row `window` with the plain mean of the first ones.

    The seed is math.fsum, exact; then out[t] = (out[t-1] * (window - 1) + values[t]) / window, in this order.
    """
    out = np.full(values.shape, np.nan)
    if values.shape[0] <= window:
        return out
    out[window] = [math.fsum(column) / window for column in values[1 : window + 1].T.tolist()]
    previous = out[window]
    for t in range(window + 1, values.shape[0]):
        row = out[t]
        np.multiply(previous, window - 1, out=row)
        row += values[t]
        row /= window
        previous = row
    return out


def wilder_rsi(close: Floats, window: int) -> Floats:
    """RSI in 0..100 as 100 G / (G + L); NaN while the window fills and where G and L are both 0."""
    if close.shape[0] < 2:
        return np.full(close.shape, np.nan)
    n_symbols = close.shape[1]
    change = np.zeros((close.shape[0], 2 * n_symbols))  # gains beside losses: one recursion for both
    np.subtract(close[1:], close[:-1], out=change[1:, :n_symbols])
    np.subtract(close[:-1], close[1:], out=change[1:, n_symbols:])
    np.maximum(change, 0.0, out=change)
    average = wilder(change, window)
    gain, loss = average[:, :n_symbols], average[:, n_symbols:]
    both = gain + loss
    out = np.full(close.shape, np.nan)
    np.divide(100.0 * gain, both, out=out, where=both != 0)
    return out


def wilder_atr(high: Floats, low: Floats, close: Floats, window: int) -> Floats:
    """Average true range, USD per share; NaN while the window fills.

    Source: Wilder, New Concepts in Technical Trading Systems (1978).
    """
    true_range = np.zeros(close.shape)
    if close.shape[0] > 1:
        inner = true_range[1:]
        np.subtract(high[1:], low[1:], out=inner)
        np.maximum(inner, np.abs(high[1:] - close[:-1]), out=inner)
        np.maximum(inner, np.abs(low[1:] - close[:-1]), out=inner)
    return wilder(true_range, window)


def above_average(close: Floats, window: int) -> Bools:
    """Where the close may be above its simple average: never misses one, may include near ties to be decided exactly.

    The running sum is off by at most n_bars rounding errors of its own size; that much is granted, plus 1e-9 of C.
    """
    out = np.zeros(close.shape, dtype=np.bool_)
    n_bars = close.shape[0]
    if n_bars < window:
        return out
    total = np.cumsum(close, axis=0)
    window_sum = total[window - 1 :].copy()
    window_sum[1:] -= total[:-window]
    slack = total[window - 1 :] * (2.0 * n_bars * _EPSILON / window)
    out[window - 1 :] = close[window - 1 :] * (1.0 + _TIE) > window_sum / window - slack
    return out


def sma_exact(close: Floats, rows: Ints, columns: Ints, window: int) -> Floats:
    """The exactly rounded sum of `window` closes up to each (row, column), divided by window; NaN before it is full."""
    out = np.full(rows.shape, np.nan)
    for i in np.flatnonzero(rows >= window - 1).tolist():
        t = int(rows[i])
        values = close[t - window + 1 : t + 1, int(columns[i])].tolist()
        out[i] = math.fsum(values) / window
    return out


def rolling_min_before(low: Floats, window: int) -> Floats:
    """Lowest of the `window` rows before row t (t itself excluded); NaN before there are that many."""
    out = np.full(low.shape, np.nan)
    if low.shape[0] <= window:
        return out
    size, current = 1, low
    while size * 2 <= window:  # windows of 1, 2, 4 …; the last step overlaps two of them
        current = np.minimum(current[:-size], current[size:])
        size *= 2
    if size < window:
        current = np.minimum(current[: -(window - size)], current[window - size :])
    out[window:] = current[:-1]
    return out


def prior_low(low: Floats, rows: Ints, columns: Ints, window: int) -> tuple[Floats, Floats]:
    """At each (row, column): the lowest low of the `window` bars before it, and bars since its latest occurrence."""
    lowest, age = np.full(rows.shape, np.nan), np.full(rows.shape, np.nan)
    full = np.flatnonzero(rows >= window)
    if full.size:
        back = np.arange(1, window + 1)[:, None]  # the most recent bar first
        values = low[rows[full][None, :] - back, columns[full][None, :]]
        at = np.argmin(values, axis=0)  # first hit = latest occurrence
        lowest[full] = values[at, np.arange(full.size)]
        age[full] = at + 1
    return lowest, age


@dataclass(frozen=True, slots=True)
class Indicators:
    """The recursive series both strategies share, (n_bars, n_symbols)."""

    rsi: Floats
    atr: Floats


def compute_indicators(panel: Panel, common: CommonParams) -> Indicators:
    """RSI and ATR of every symbol. `panel` must come from without_missing."""
    return Indicators(
        rsi=wilder_rsi(panel.close, common.rsi_bars),
        atr=wilder_atr(panel.high, panel.low, panel.close, common.atr_bars),
    )


@dataclass(frozen=True, slots=True)
class Points:
    """Bars picked out of the panel, one entry per point, with what both strategies look at. All 1-d, same length."""

    rows: Ints
    columns: Ints
    high: Floats
    low: Floats
    close: Floats
    rsi: Floats
    atr: Floats
    sma: Floats  # exact
    ibs: Floats

    def take(self, where: Bools) -> Points:
        return Points(**{name: getattr(self, name)[where] for name in Points.__slots__})


def points_at(panel: Panel, series: Indicators, rows: Ints, columns: Ints, common: CommonParams) -> Points:
    high, low, close = panel.high[rows, columns], panel.low[rows, columns], panel.close[rows, columns]
    return Points(
        rows=rows,
        columns=columns,
        high=high,
        low=low,
        close=close,
        rsi=series.rsi[rows, columns],
        atr=series.atr[rows, columns],
        sma=sma_exact(panel.close, rows, columns, common.sma_bars),
        ibs=internal_bar_strength(high, low, close),
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition of a setup at each point: `observed` against `limit`. NaN observed never holds."""

    code: str  # the verdict when it fails
    holds: Bools
    observed: Floats
    limit: Floats


def common_rules(points: Points, common: CommonParams) -> list[Rule]:
    """What both strategies ask: a defined range, an upward trend, a price worth trading."""
    zero = np.zeros(points.close.shape)
    return [
        Rule("ATR_UNDEFINED", points.atr > 0, points.atr, zero),
        Rule("TREND_BELOW", points.close > points.sma, points.close, points.sma),
        Rule("PRICE_BELOW_MIN", points.close >= common.min_price_usd, points.close, zero + common.min_price_usd),
    ]


def stop_rule(points: Points, stop: Floats) -> Rule:
    """A stop that is not within (0, close) cannot be placed; the simulation of section 5 does not ask this."""
    return Rule("STOP_NOT_PLACEABLE", (stop > 0) & (stop < points.close), stop, np.zeros(stop.shape))


def all_hold(rules: list[Rule], n_points: int) -> Bools:
    out = np.ones(n_points, dtype=np.bool_)
    for rule in rules:
        out &= rule.holds
    return out


@dataclass(frozen=True, slots=True)
class Setup:
    """One strategy's answer at each point; a setup where all `rules` hold. Stop and strength are meant only there."""

    strategy: str
    points: Points
    rules: list[Rule]
    stop: Floats
    strength: Floats
    numbers: dict[str, Floats]
    target_r: float | None
    time_stop_bars: int
