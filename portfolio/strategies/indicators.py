"""Indicators over the compact panel: row t of column j is the t-th bar that symbol j itself traded.

Arrays are (n_bars, n_symbols) float64, left-aligned, NaN after a symbol's last bar. Row t uses rows <= t only.
Undefined is NaN, never 0 and never a neutral value; a comparison with NaN is False, so undefined means no signal.

The order of the floating-point operations is part of the contract: a value must not depend on how many symbols or
later bars the panel holds, so Wilder's averages run row by row and every decision on the moving average is exact.
Everything is worked out in blocks of rows that fit the processor's cache; the block size changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.strategy_params import CommonParams
from core.panel import Panel

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

_BLOCK_VALUES = 32_768  # values per array of a block: a handful of such arrays stay in the cache of one core
KINDLY = 1.0 + 1e-12  # factor of a quick test that must not miss what the exact one takes
_MANY = 64  # so many sums and more are worked out together
_TIE = 1e-9  # closer to the average than this part of the closes is decided by the exact sum


def rows_per_block(n_symbols: int) -> int:
    return max(8, _BLOCK_VALUES // max(1, n_symbols))


def row_blocks(first: int, n_bars: int, n_symbols: int) -> Iterator[tuple[int, int]]:
    """[begin, end) rows from `first` on, in pieces that fit the cache."""
    step = rows_per_block(n_symbols)
    for begin in range(first, n_bars, step):
        yield begin, min(begin + step, n_bars)


def without_missing(panel: Panel) -> Panel:
    """Drop bars whose open, high, low or close is not finite: that session the symbol did not trade.

    Returns the panel itself when it is known to be complete, and its own bars when there are none to drop, which is the
    usual case. `sessions` is kept, so a dropped bar still is a market session without a bar.
    """
    if panel.complete:
        return panel
    live = np.arange(panel.close.shape[0])[:, None] < panel.length[None, :]
    good = np.isfinite(panel.open) & np.isfinite(panel.high) & np.isfinite(panel.low) & np.isfinite(panel.close)
    if bool((good == live).all()):
        return replace(panel, complete=True)
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
        complete=True,
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
    if values.shape[0] > window:
        out[window] = _seed(values[1 : window + 1])
        _smooth(out[window], values[window + 1 :], out[window + 1 :], window)
    return out


def _seed(values: Floats) -> Floats:
    return np.array([math.fsum(column) / len(values) for column in values.T.tolist()])


def _smooth(previous: Floats, values: Floats, out: Floats, window: int) -> Floats:
    """Write the averages of these rows to `out`; returns the last. Times 1 is left out and a half is a multiplication:
    the same bits, sooner."""
    add, multiply, divide = np.add, np.multiply, np.divide
    if window == 2:
        for value, row in zip(values, out, strict=True):
            add(previous, value, row)
            multiply(row, 0.5, row)
            previous = row
        return previous
    for value, row in zip(values, out, strict=True):
        multiply(previous, window - 1, row)
        add(row, value, row)
        divide(row, window, row)
        previous = row
    return previous


def wilder_rsi(close: Floats, window: int) -> Floats:
    """RSI in 0..100 as 100 G / (G + L); NaN while the window fills and where G and L are both 0."""
    n_bars, n_symbols = close.shape
    out = np.empty(close.shape)
    out[:window] = np.nan
    if n_bars <= window:
        return out
    change = np.empty((max(window, rows_per_block(n_symbols)), 2 * n_symbols))  # gains beside losses: one recursion
    average = np.empty_like(change)
    _gains_and_losses(close[: window + 1], change[:window])
    average[0] = _seed(change[:window])
    with np.errstate(invalid="ignore"):  # 0 / 0 is the undefined RSI
        previous = average[0].copy()  # before _rsi_of uses it up
        _rsi_of(average[:1], out[window : window + 1])
        for begin, end in row_blocks(window + 1, n_bars, n_symbols):
            size = end - begin
            _gains_and_losses(close[begin - 1 : end], change[:size])
            previous = _smooth(previous, change[:size], average[:size], window).copy()
            _rsi_of(average[:size], out[begin:end])
    return out


def _gains_and_losses(close: Floats, out: Floats) -> None:
    n_symbols = close.shape[1]
    np.subtract(close[1:], close[:-1], out=out[:, :n_symbols])
    np.negative(out[:, :n_symbols], out=out[:, n_symbols:])
    np.maximum(out, 0.0, out=out)


def _rsi_of(average: Floats, out: Floats) -> None:
    """`average` is used up."""
    n_symbols = out.shape[1]
    gain, loss = average[:, :n_symbols], average[:, n_symbols:]
    np.add(gain, loss, out=loss)
    np.multiply(gain, 100.0, out=gain)
    np.divide(gain, loss, out=out)


def wilder_atr(high: Floats, low: Floats, close: Floats, window: int) -> Floats:
    """Average true range, USD per share; NaN while the window fills.

    Source: Wilder, New Concepts in Technical Trading Systems (1978).
    """
    n_bars, n_symbols = close.shape
    out = np.empty(close.shape)
    out[:window] = np.nan
    if n_bars <= window:
        return out
    ranges = np.empty((max(window, rows_per_block(n_symbols)), n_symbols))
    scratch = np.empty_like(ranges)
    first = slice(0, window + 1)
    _true_range(high[first], low[first], close[first], ranges[:window], scratch[:window])
    out[window] = _seed(ranges[:window])
    for begin, end in row_blocks(window + 1, n_bars, n_symbols):
        rows, size = slice(begin - 1, end), end - begin
        _true_range(high[rows], low[rows], close[rows], ranges[:size], scratch[:size])
        _smooth(out[begin - 1], ranges[:size], out[begin:end], window)
    return out


def _true_range(high: Floats, low: Floats, close: Floats, out: Floats, scratch: Floats) -> None:
    """Of rows 1.. : the largest of H - L, |H - C before|, |L - C before|.

    With H >= L that is max(H, C before) - min(L, C before), one subtraction of the same two numbers, so the same bits.
    """
    before = close[:-1]
    if (high[1:] < low[1:]).any():
        np.subtract(high[1:], low[1:], out=out)
        np.maximum(out, np.abs(high[1:] - before), out=out)
        np.maximum(out, np.abs(low[1:] - before), out=out)
        return
    np.maximum(high[1:], before, out=out)
    np.minimum(low[1:], before, out=scratch)
    np.subtract(out, scratch, out=out)


def above_average(close: Floats, window: int, *, at_least: float = -math.inf) -> Bools:
    """Where the close is above its simple average, and `at_least` that many USD. Every decision is exact.

    A running sum, begun afresh every `window` rows, decides what is clear. Its error is below 4 window x 1.2e-16 of the
    closes it saw; what lies within _TIE of them is decided by the exactly rounded sum.
    """
    n_bars, n_symbols = close.shape
    out = np.empty(close.shape, dtype=np.bool_)
    out[: window - 1] = False
    step = rows_per_block(n_symbols)
    sums, gap = np.empty((step, n_symbols)), np.empty((step, n_symbols))
    for begin in range(window - 1, n_bars, window):
        end = min(begin + window, n_bars)
        before = close[begin - window + 1 : begin + 1]
        slack = _TIE * (_size_of(before) + _size_of(close[begin:end]))
        previous = None
        for first, last in row_blocks(begin, end, n_symbols):
            part, over = sums[: last - first], gap[: last - first]
            if previous is None:
                np.add(np.add.reduce(before, axis=0), slack, out=part[0])
                previous = _slide(part[0], close[first - window + 1 : last], part[1:], window)
            else:
                previous = _slide(previous, close[first - window : last], part, window)
            np.multiply(close[first:last], window, out=over)
            np.subtract(over, part, out=over)
            previous = previous.copy()  # its row is written anew
            dear = close[first:last] >= at_least
            sure = (over > 0.0) & dear
            out[first:last] = sure
            near = ((over > -2.0 * slack) & dear) ^ sure
            if near.any():
                rows, columns = np.nonzero(near)
                rows += first
                out[rows, columns] = close[rows, columns] > sma_exact(close, rows, columns, window)
    return out


def _size_of(values: Floats) -> Floats:
    """Sum of the absolute values per column, as far as it has values."""
    sizes: Floats = np.add.reduce(values, axis=0)
    odd = np.flatnonzero(~(np.minimum.reduce(values, axis=0) > 0))
    if odd.size:
        sizes[odd] = np.nansum(np.abs(values[:, odd]), axis=0)
    return sizes


def _slide(previous: Floats, close: Floats, sums: Floats, window: int) -> Floats:
    """Window sums of the rows after `previous`, whose window `close` begins with; returns the last."""
    for new, old, row in zip(close[window:], close, sums, strict=False):
        np.add(previous, new, row)
        np.subtract(row, old, row)
        previous = row
    return previous


def sma_exact(close: Floats, rows: Ints, columns: Ints, window: int) -> Floats:
    """The exactly rounded sum of `window` closes up to each (row, column), divided by window; NaN before it is full."""
    out = np.full(rows.shape, np.nan)
    full = np.flatnonzero(rows >= window - 1)
    if full.size > _MANY:
        out[full], doubtful = _sums_at_once(close, rows[full], columns[full], window)
        out[full] /= window
        full = full[doubtful]
    for i, t, j in zip(full.tolist(), rows[full].tolist(), columns[full].tolist(), strict=True):
        out[i] = math.fsum(close[t - window + 1 : t + 1, j].tolist()) / window
    return out


def _sums_at_once(close: Floats, rows: Ints, columns: Ints, window: int) -> tuple[Floats, Bools]:
    """(sums, where the last bit is not proved). Every addition keeps its exact error, and the errors are summed too.

    What is left out is below 1e-26 of the largest sum on the way: only a total that close to halfway between two floats
    could be rounded otherwise. Source: Knuth, TAOCP 2, 4.2.2 (TwoSum); Ogita, Rump, Oishi, Accurate Sum (2005).
    """
    high, low, largest = np.zeros(rows.shape), np.zeros(rows.shape), np.zeros(rows.shape)
    value, total, part, other = (np.empty(rows.shape) for _ in range(4))
    flat, at = close.reshape(-1), (rows - window + 1) * close.shape[1] + columns
    for _ in range(window):
        np.take(flat, at, out=value)
        at += close.shape[1]
        np.add(high, value, out=total)
        np.subtract(total, high, out=part)
        value -= part  # the error of total, in two halves
        np.subtract(total, part, out=other)
        high -= other
        value += high
        low += value
        high, total = total, high
        np.maximum(largest, np.abs(high, out=other), out=largest)
    total = high + low
    part = total - high
    rest = np.abs((high - (total - part)) + (low - part))
    step = np.spacing(np.abs(total))
    margin = 1e-26 * largest
    near = (np.abs(rest - step / 2.0) <= margin) | (np.abs(rest - step / 4.0) <= margin)
    return total, near | ~np.isfinite(total)


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
    """The recursive series both strategies share, (n_bars, n_symbols) each."""

    rsi: Floats
    atr: Floats


def compute_indicators(panel: Panel, common: CommonParams) -> Indicators:
    """RSI and ATR of every symbol. `panel` must come from without_missing."""
    return Indicators(
        rsi=wilder_rsi(panel.close, common.rsi_bars),
        atr=wilder_atr(panel.high, panel.low, panel.close, common.atr_bars),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A panel with everything that does not depend on one strategy's own numbers: worked out once."""

    panel: Panel  # without missing bars
    common: CommonParams
    series: Indicators
    trending: Bools  # (n_bars, n_symbols): a close above its average, at a price worth trading


Spread = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""How independent pieces of work are spread: the built-in `map`, or that of a pool of threads. Results come in order;
no bit depends on it."""


def prepare(panel: Panel, common: CommonParams, *, spread: Spread = map) -> Prepared:
    return prepare_each(panel, [common], spread=spread)[0]


def prepare_each(panel: Panel, commons: Sequence[CommonParams], *, spread: Spread = map) -> list[Prepared]:
    """The panel prepared for each of these windows; a series that several of them need is worked out once."""
    panel = without_missing(panel)
    parts: dict[tuple[str, *tuple[float, ...]], Callable[[], NDArray[Any]]] = {}
    for c in commons:
        parts["rsi", c.rsi_bars] = partial(wilder_rsi, panel.close, c.rsi_bars)
        parts["above", c.sma_bars, c.min_price_usd] = partial(
            above_average, panel.close, c.sma_bars, at_least=c.min_price_usd
        )
        parts["atr", c.atr_bars] = partial(wilder_atr, panel.high, panel.low, panel.close, c.atr_bars)
    found = dict(zip(parts, spread(lambda part: part(), parts.values()), strict=True))
    return [
        Prepared(
            panel, c, Indicators(found["rsi", c.rsi_bars], found["atr", c.atr_bars]),
            found["above", c.sma_bars, c.min_price_usd],
        )
        for c in commons
    ]  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows begin..end of a prepared panel; arrays are (end - begin, n_symbols) views."""

    prepared: Prepared
    begin: int
    end: int

    def _rows(self, values: NDArray[Any]) -> Any:
        return values[self.begin : self.end]

    @property
    def high(self) -> Floats:
        return self._rows(self.prepared.panel.high)  # type: ignore[no-any-return]

    @property
    def low(self) -> Floats:
        return self._rows(self.prepared.panel.low)  # type: ignore[no-any-return]

    @property
    def close(self) -> Floats:
        return self._rows(self.prepared.panel.close)  # type: ignore[no-any-return]

    @property
    def rsi(self) -> Floats:
        return self._rows(self.prepared.series.rsi)  # type: ignore[no-any-return]

    @property
    def atr(self) -> Floats:
        return self._rows(self.prepared.series.atr)  # type: ignore[no-any-return]

    @property
    def trending(self) -> Bools:
        return self._rows(self.prepared.trending)  # type: ignore[no-any-return]

    def lowest_before(self, window: int) -> Floats:
        """Lowest low of the `window` bars before each row; NaN where there are not that many."""
        first = max(0, self.begin - window)
        lows = self.prepared.panel.low[first : self.end]
        return rolling_min_before(lows, window)[self.begin - first :]


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
    above: Bools  # the close is above its exact average
    sma: Floats  # exact; NaN where only the decision was wanted
    ibs: Floats

    def take(self, where: Bools | Ints) -> Points:
        return Points(**{name: getattr(self, name)[where] for name in Points.__slots__})


def points_at(panel: Panel, series: Indicators, rows: Ints, columns: Ints, common: CommonParams) -> Points:
    sma = sma_exact(panel.close, rows, columns, common.sma_bars)
    return points_of(panel, series, rows, columns, panel.close[rows, columns] > sma, sma)


def points_of(panel: Panel, series: Indicators, rows: Ints, columns: Ints, above: Bools, sma: Floats) -> Points:
    """The points whose decision on the average was made already."""
    high, low, close = panel.high[rows, columns], panel.low[rows, columns], panel.close[rows, columns]
    return Points(
        rows=rows,
        columns=columns,
        high=high,
        low=low,
        close=close,
        rsi=series.rsi[rows, columns],
        atr=series.atr[rows, columns],
        above=above,
        sma=sma,
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
        Rule("TREND_BELOW", points.above, points.close, points.sma),
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
