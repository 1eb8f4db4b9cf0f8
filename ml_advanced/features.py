"""What a model sees of a signal at its close: one function over the panel, for training and for the scan alike. Pure.

Row t of a symbol is its own t-th bar, and a feature of row t looks at rows <= t and at the market up to that session.
Nothing looks back further than LOOKBACK_BARS, so history before that, or its absence, changes no bit; nor do other rows
asked for at the same time. Every feature is a ratio or a count: none depends on the basis that prices are adjusted to.
What cannot be told is NaN, never a neutral value; the model refuses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.bars_io import BarColumns, from_day
from core.panel import Panel
from ml_advanced.market import FEWEST_SYMBOLS, Floats, Ints, MarketView, market_view, rows_of

LOOKBACK_BARS: Final = 200  # the bar itself included
MARKET_SESSIONS: Final = 22  # of the market view
_AT_ONCE = 4096  # rows whose windows are held together


class Feature(NamedTuple):
    name: str
    group: str
    meaning: str


TABLE: Final[tuple[Feature, ...]] = (
    Feature("volatility_20", "volatility", "standard deviation of the last 20 daily returns"),
    Feature("volatility_ratio", "volatility", "that of 10 returns / that of 60"),
    Feature("atr_14", "volatility", "mean true range of 14 bars / close (ATR)"),
    Feature("sma_200_distance", "trend", "close / mean of 200 closes - 1"),
    Feature("sma_50_distance", "trend", "close / mean of 50 closes - 1"),
    Feature("sma_50_slope", "trend", "mean of 50 closes / the same 20 bars before - 1"),
    Feature("return_120", "trend", "close / close 120 bars before - 1"),
    Feature("high_60_distance", "trend", "close / highest high of 60 bars - 1"),
    Feature("ibs", "reversion", "(close - low) / (high - low)"),
    Feature("change_1_atr", "reversion", "close - close 1 bar before, in ATR"),
    Feature("change_3_atr", "reversion", "close - close 3 bars before, in ATR"),
    Feature("gain_share_4", "reversion", "gains / (gains + losses) of the last 4 changes"),
    Feature("z_score_20", "reversion", "close - mean of 20 closes, in their standard deviations"),
    Feature("down_days", "reversion", "lower closes in a row, at most 10"),
    Feature("sweep_20_atr", "sweep", "lowest low of the 20 bars before - low, in ATR; below 0: not swept"),
    Feature("sweep_20_age", "sweep", "bars since that low, the latest when it stands twice"),
    Feature("reclaim_20_atr", "sweep", "close - that low, in ATR"),
    Feature("gap_atr", "gap", "open - close before, in ATR"),
    Feature("range_atr", "gap", "high - low, in ATR"),
    Feature("volume_ratio", "volume", "ln of volume / mean volume of the 20 bars before"),
    Feature("volume_trend", "volume", "ln of mean volume of 5 bars / of 60"),
    Feature("dollar_volume", "volume", "log10 of the mean of close x volume of 20 bars, USD"),
    Feature("rank_20", "relative strength", "share of the panel's symbols with a smaller 20-bar return, 0..1"),
    Feature("rank_120", "relative strength", "share of the panel's symbols with a smaller 120-bar return, 0..1"),
    Feature("against_spy_20", "relative strength", "20-bar return - SPY's between the same sessions"),
    Feature("spy_return_20", "market", "SPY's return of 20 sessions"),
    Feature("spy_volatility_20", "market", "standard deviation of SPY's last 20 returns"),
    Feature("vix", "market", "VIX close, points"),
    Feature("vix_change_5", "market", "VIX close / that of 5 sessions before - 1"),
    Feature("breadth_50", "market", "share of the panel's symbols above their close 50 bars before"),
    Feature("market_return_5", "market", "sum of the median returns of 5 sessions"),
    Feature("market_volatility_20", "market", "standard deviation of 20 of them"),
    Feature("weekday", "calendar", "of the signal's session, Monday 0"),
    Feature("month_day", "calendar", "day of the month"),
    Feature("month", "calendar", "1..12"),
    Feature("turtle_soup", "strategy", "1 for turtle_soup, 0 for ibs_rsi; another strategy is unknown"),
)
FEATURES: Final[tuple[str, ...]] = tuple(feature.name for feature in TABLE)
STRATEGY_VALUE: Final = {"ibs_rsi": 0.0, "turtle_soup": 1.0}


def features_at(panel: Panel, rows: Ints, columns: Ints, strategies: Sequence[str], market: MarketView) -> Floats:
    """(n, len(FEATURES)) of these bars, one per signal; NaN = unknown.

    panel       no bar with a missing price (portfolio.strategies.indicators.without_missing); any basis, any length
    rows        of the symbols' own bars, all within their length · columns, of the panel · strategies, name of each
    market      of a panel that has at least these sessions; sessions it lacks are unknown
    """
    out = np.full((len(rows), len(FEATURES)), np.nan)
    if not len(rows):
        return out
    days = panel.sessions[panel.session_index[rows, columns]]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for begin in range(0, len(rows), _AT_ONCE):
            part = slice(begin, begin + _AT_ONCE)
            _put(out[part], _of_symbol(_Bars(panel, rows[part], columns[part])))
        _put(out, _relative(panel, rows, columns, market))
        _put(out, _of_market(market, days))
        _put(out, _of_calendar(days))
    _put(out, {"turtle_soup": np.array([STRATEGY_VALUE.get(name, np.nan) for name in strategies], dtype=np.float64)})
    known: Floats = np.where(np.isfinite(out), out, np.nan)
    return known


def _put(out: Floats, found: dict[str, Floats]) -> None:
    for name, values in found.items():
        out[:, FEATURES.index(name)] = values


# ------------------------------------------------------------------ sums whose bits depend on their own column only
def _mean(block: Floats) -> Floats:
    """Of each column, added from the oldest on: numpy's own sum would choose another order for a single column."""
    total: Floats = block[0].copy()
    for row in block[1:]:
        total += row
    total /= len(block)
    return total


def _deviation(block: Floats) -> Floats:
    """Standard deviation (n - 1) of each column."""
    off = block - _mean(block)
    off *= off
    return np.asarray(np.sqrt(_mean(off) * (len(block) / (len(block) - 1))))


def _returns(close: Floats) -> Floats:
    return close[1:] / close[:-1] - 1.0


# ------------------------------------------------------------------ the symbol's own bars
class _Bars:
    """The bars up to each asked row, (n_bars, n_rows) with the oldest first; NaN before a symbol's first bar."""

    def __init__(self, panel: Panel, rows: Ints, columns: Ints) -> None:
        self._panel, self._rows, self._columns = panel, rows, columns
        self.close = self.of("close", LOOKBACK_BARS)
        self.high, self.low, self.volume = self.of("high", 60), self.of("low", 21), self.of("volume", 60)
        self.open = self.of("open", 1)

    def of(self, field: str, bars: int) -> Floats:
        wanted = self._rows[None, :] - np.arange(bars - 1, -1, -1)[:, None]
        values: Floats = getattr(self._panel, field)[np.maximum(wanted, 0), self._columns[None, :]]
        return np.where(wanted < 0, np.nan, values)

    @property
    def atr(self) -> Floats:
        """USD per share: the plain mean of the last 14 true ranges, which forgets what lies before them."""
        high, low, before = self.high[-14:], self.low[-14:], self.close[-15:-1]
        return _mean(np.maximum(high, before) - np.minimum(low, before))


def _of_symbol(bars: _Bars) -> dict[str, Floats]:
    close = bars.close
    last, mean_50, atr = close[-1], _mean(close[-50:]), bars.atr
    returns = _returns(close[-61:])
    return {
        "volatility_20": _deviation(returns[-20:]),
        "volatility_ratio": _deviation(returns[-10:]) / _deviation(returns),
        "atr_14": atr / last,
        "sma_200_distance": last / _mean(close) - 1.0,
        "sma_50_distance": last / mean_50 - 1.0,
        "sma_50_slope": mean_50 / _mean(close[-70:-20]) - 1.0,
        "return_120": last / close[-121] - 1.0,
        "high_60_distance": last / bars.high.max(axis=0) - 1.0,
        "range_atr": (bars.high[-1] - bars.low[-1]) / atr,
        "gap_atr": (bars.open[-1] - close[-2]) / atr,
        **_reversion(bars, atr),
        **_sweep(bars, atr),
        **_volume(bars),
    }


def _reversion(bars: _Bars, atr: Floats) -> dict[str, Floats]:
    close, last = bars.close, bars.close[-1]
    changes = close[-4:] - close[-5:-1]
    gains, losses = _mean(np.maximum(changes, 0.0)), _mean(np.maximum(-changes, 0.0))
    in_a_row, still = np.zeros(last.shape), np.ones(last.shape, dtype=np.bool_)
    for back in range(1, 11):
        still &= close[-back] < close[-back - 1]
        in_a_row += still
    return {
        "ibs": (last - bars.low[-1]) / (bars.high[-1] - bars.low[-1]),
        "change_1_atr": (last - close[-2]) / atr,
        "change_3_atr": (last - close[-4]) / atr,
        "gain_share_4": gains / (gains + losses),
        "z_score_20": (last - _mean(close[-20:])) / _deviation(close[-20:]),
        "down_days": np.where(np.isfinite(close[-11]), in_a_row, np.nan),
    }


def _sweep(bars: _Bars, atr: Floats) -> dict[str, Floats]:
    before = bars.low[-21:-1]
    lowest = before.min(axis=0)
    age = np.argmin(before[::-1], axis=0) + 1.0
    return {
        "sweep_20_atr": (lowest - bars.low[-1]) / atr,
        "sweep_20_age": np.where(np.isfinite(lowest), age, np.nan),
        "reclaim_20_atr": (bars.close[-1] - lowest) / atr,
    }


def _volume(bars: _Bars) -> dict[str, Floats]:
    volume = bars.volume
    return {
        "volume_ratio": np.log(volume[-1] / _mean(volume[-21:-1])),
        "volume_trend": np.log(_mean(volume[-5:]) / _mean(volume)),
        "dollar_volume": np.log10(_mean(bars.close[-20:] * volume[-20:])),
    }


# ------------------------------------------------------------------ against the others
def _relative(panel: Panel, rows: Ints, columns: Ints, market: MarketView) -> dict[str, Floats]:
    at = panel.session_index[rows, columns]
    wanted, which = np.unique(at, return_inverse=True)
    places = rows_of(panel, wanted.astype(np.intp))
    found = {f"rank_{bars}": _ranks(_return_over(panel, places, bars), which, columns) for bars in (20, 120)}
    then = np.maximum(rows - 20, 0)
    spy = np.append(market.spy, np.nan)  # -1: unknown
    now_at, then_at = (market.at(panel.sessions[panel.session_index[row, columns]]) for row in (rows, then))
    own = panel.close[rows, columns] / panel.close[then, columns]
    found["against_spy_20"] = np.where(rows >= 20, own - spy[now_at] / spy[then_at], np.nan)
    return found


def _return_over(panel: Panel, rows: Ints, bars: int) -> Floats:
    """close / close so many bars before, of each symbol and session; NaN without that many."""
    columns = np.arange(len(panel.symbols))[None, :]
    moved = panel.close[np.maximum(rows, 0), columns] / panel.close[np.maximum(rows - bars, 0), columns]
    return np.where(rows >= bars, moved, np.nan)


def _ranks(returns: Floats, which: Ints, columns: Ints) -> Floats:
    """Of each asked (session, symbol): the share of the others below it, an equal one counting half."""
    out = np.full(columns.shape, np.nan)
    order = np.argsort(which, kind="stable")
    edges = np.searchsorted(which[order], np.arange(returns.shape[0] + 1))
    for session, row in enumerate(returns):
        asked = order[edges[session] : edges[session + 1]]
        known = np.sort(row[np.isfinite(row)])
        if known.size < FEWEST_SYMBOLS:
            continue
        own = row[columns[asked]]
        below, upto = np.searchsorted(known, own, side="left"), np.searchsorted(known, own, side="right")
        out[asked] = np.where(np.isfinite(own), (below + upto - 1) / (2.0 * (known.size - 1)), np.nan)
    return out


# ------------------------------------------------------------------ the market and the calendar
def _of_market(market: MarketView, days: NDArray[np.int32]) -> dict[str, Floats]:
    """Worked out once per session that is asked for."""
    wanted, which = np.unique(days, return_inverse=True)
    at = market.at(wanted.astype(np.int32))

    def back(values: Floats, sessions: int) -> Floats:
        place = at[None, :] - np.arange(sessions - 1, -1, -1)[:, None]
        missing = (place < 0) | (at < 0)[None, :]
        return np.where(missing, np.nan, np.append(values, np.nan)[np.where(missing, -1, place)])

    spy, vix, middle = back(market.spy, 21), back(market.vix, 6), back(market.middle, 20)
    found = {
        "spy_return_20": spy[-1] / spy[0] - 1.0,
        "spy_volatility_20": _deviation(_returns(spy)),
        "vix": vix[-1],
        "vix_change_5": vix[-1] / vix[0] - 1.0,
        "breadth_50": back(market.breadth, 1)[0],
        "market_return_5": _mean(middle[-5:]) * 5.0,
        "market_volatility_20": _deviation(middle),
    }
    return {name: values[which] for name, values in found.items()}


def _of_calendar(days: NDArray[np.int32]) -> dict[str, Floats]:
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    return {
        "weekday": ((days + 3) % 7).astype(np.float64),  # 1970-01-01 was a Thursday
        "month_day": (dates - months).astype(np.float64) + 1.0,
        "month": (months.astype(np.int64) % 12).astype(np.float64) + 1.0,
    }


# ------------------------------------------------------------------ what the numbers mean
def fingerprint() -> str:
    """SHA-256 of what this module makes of a small market that is always the same, to six digits.

    A model keeps it in its manifest: a feature that was renamed, re-ordered, rescaled or redefined since then gives
    another one, and the model must not be asked.
    """
    panel, spy, vix = _reference()
    market = market_view(panel, spy=spy, vix=vix)
    columns = np.arange(6)
    x = features_at(panel, panel.length[columns].astype(np.intp) - 1, columns, ["ibs_rsi", "turtle_soup"] * 3, market)
    lines = [" ".join(FEATURES), *(" ".join(f"{value:.6g}" for value in row) for row in x.tolist())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _reference() -> tuple[Panel, BarColumns, dict[date, float]]:
    """40 symbols of 230 weekdays, drawn by whole-number arithmetic: the same on every machine."""
    days = np.array([18_628 + k + 2 * (k // 5) for k in range(230)], dtype=np.int32)  # from Friday 2021-01-01 on

    def drawn(seed: int, count: int) -> Floats:
        mixed = (np.arange(count, dtype=np.uint64) + np.uint64(seed * 7919)) * np.uint64(2_654_435_761)
        mixed = ((mixed ^ (mixed >> np.uint64(15))) * np.uint64(2_246_822_519)) >> np.uint64(7)
        return np.asarray((mixed % np.uint64(2**24)).astype(np.float64) / 2**24)

    def bars(seed: int) -> BarColumns:
        close = np.asarray(50.0 * np.cumprod(1.0 + 0.04 * (drawn(seed, days.size) - 0.49)), dtype=np.float64)
        up, down, gap, volume = (drawn(seed + k, days.size) for k in (1000, 2000, 3000, 4000))
        opened = close * (1.0 + 0.02 * (gap - 0.5))
        top, bottom = np.maximum(opened, close), np.minimum(opened, close)
        return BarColumns(
            days, opened, top * (1.0 + 0.01 * up), bottom * (1.0 - 0.01 * down), close, 1e6 + 1e6 * volume
        )

    vix = {from_day(int(day)): 15.0 + 10.0 * level for day, level in zip(days, drawn(7, days.size), strict=True)}
    return Panel.from_bars({f"R{k:02d}": bars(k + 10) for k in range(40)}), bars(5), vix
