"""What a list of trades and a daily curve amount to: every figure with its N, its interval, or why there is none.

Definitions. R = profit / (entry - stop). Profit factor = sum of gains / sum of losses. Sharpe = mean / standard
deviation (n - 1) of daily returns, Sortino = mean / root mean square of the negative ones (all n in the mean), both
times sqrt(252) with no risk-free rate. Drawdown = wealth / its running peak - 1, the peak starting at 1.
CAGR = wealth ^ (252 / n) - 1. A trade still open counts nowhere.

Intervals. Trades that were entered in the same session share that day's market, so sessions are drawn, not trades: in
blocks, each with all its trades. Daily curves are drawn in blocks of sessions. See bootstrap.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from portfolio.backtest.account import Booked
from portfolio.backtest.bootstrap import (
    Floats,
    Interval,
    Ints,
    Resampling,
    all_alike_interval,
    drawn_paths,
    drawn_sums,
    percentile_interval,
)
from portfolio.backtest.engine import REASONS, Trades

PER_YEAR: Final = 252
MEAN: Final = "mean_return"
"""Mean profit of a trade as a fraction of its entry price; where trades carry money the figure is MEAN_USD instead."""
MEAN_USD: Final = "mean_profit_usd"
USD: Final = "USD"
FRACTION: Final = "fraction of the entry price"
MIN_SESSIONS: Final = 10
"""Fewer entry sessions or curve rows than this give no interval: a bootstrap of so few is too narrow to be told."""
_REASONS: Final = tuple(str(reason) for reason in REASONS)
_FLAT: Final = 1e-12  # a difference below this share of the largest value is rounding


@dataclass(frozen=True, slots=True)
class Figure:
    """One statistic. `reason` says why the value, or the interval beside a value, is absent; `of` is what n counts."""

    value: float | None
    n: int
    of: str
    reason: str = ""
    interval: Interval | None = None

    def text(self, form: str = ".3g") -> str:
        """`1.17 (90 %: 1.09 to 1.26, N = 9,789 trades)`; there is no way to print the value without its N."""
        counted = f"N = {self.n:,} {self.of}"
        if self.value is None:
            return f"- ({self.reason}, {counted})"
        if self.interval is None:
            return f"{self.value:{form}} (no interval: {self.reason}, {counted})"
        low, high = ("…" if bound is None else f"{bound:{form}}" for bound in (self.interval.low, self.interval.high))
        return f"{self.value:{form}} ({self.interval.level:.0%}: {low} to {high}, {counted})"


@dataclass(frozen=True, slots=True, eq=False)
class TradeColumns:
    """Closed trades as columns of one length; `profit` after costs, in `unit`. mae_r <= 0 <= mfe_r, None: not known."""

    strategy: tuple[str, ...]
    reason: tuple[str, ...]
    session: Ints  # days, of the entry
    profit: Floats
    r: Floats
    held: Floats  # bars, the entry bar is 1
    unit: str  # USD or FRACTION
    still_open: int = 0
    mae_r: Floats | None = None
    mfe_r: Floats | None = None


def table_columns(
    trades: Trades, cost: Floats | float = 0.0, excursions: tuple[Floats, Floats] | None = None
) -> TradeColumns:
    """The closed trades of the engine's table, as returns: every trade weighs the same.

    cost : of the round trip, as a fraction of the entry price · excursions : (mae_r, mfe_r) from marks; both of the
    closed trades in their order
    """
    ended = trades.rows(trades.closed)
    paid = np.broadcast_to(np.asarray(cost, dtype=np.float64), ended.entry_price.shape)
    profit = ended.exit_price / ended.entry_price - 1.0 - paid
    r = profit * ended.entry_price / (ended.entry_price - ended.stop)
    return _columns(ended, len(trades) - len(ended), profit, r, FRACTION, excursions)


def booked_columns(booked: Booked, excursions: tuple[Floats, Floats] | None = None) -> TradeColumns:
    """The closed trades of an account, in money after costs: a larger trade weighs more, but not in R."""
    ended = booked.trades.closed
    profit, r = booked.pnl_usd[ended], booked.r_multiple[ended]
    return _columns(booked.trades.rows(ended), int((~ended).sum()), profit, r, USD, excursions)


def _columns(
    ended: Trades, still_open: int, profit: Floats, r: Floats, unit: str, excursions: tuple[Floats, Floats] | None
) -> TradeColumns:
    mae_r, mfe_r = (None, None) if excursions is None else excursions
    return TradeColumns(
        strategy=tuple(map(ended.strategies.__getitem__, ended.strategy.tolist())),
        reason=tuple(map(_REASONS.__getitem__, ended.reason.tolist())),
        session=ended.entry_at.astype(np.intp),
        profit=profit,
        r=r,
        held=ended.held.astype(np.float64),
        unit=unit,
        still_open=still_open,
        mae_r=mae_r,
        mfe_r=mfe_r,
    )


# ---------------------------------------------------------------- trades
@dataclass(frozen=True, slots=True)
class Group:
    """Figures of all trades, or of one strategy, or of one exit reason."""

    kind: str  # "all", "strategy", "exit"
    name: str
    figures: Mapping[str, Figure]


_COUNT, _WON, _GAIN, _LOSS, _R, _PROFIT, _HELD, _MAE, _MFE, _MAE_WON, _MFE_LOST = range(11)
_LOST = 11
_SUMS: Final = 12


def point_figures(columns: TradeColumns) -> dict[str, float]:
    """Profit factor, win rate … of all trades without intervals; NaN or infinite where there is none."""
    sums = _sums_per_trade(columns).sum(axis=0)
    return {name: float(value[0]) for name, value in _ratios(sums[None, :]).items()}


def trade_figures(columns: TradeColumns, resampling: Resampling) -> list[Group]:
    """Figures of all trades, per strategy and per exit reason, all from the same draws of entry sessions."""
    masks = _masks(columns)
    sessions, at = np.unique(columns.session, return_inverse=True)
    per_trade = _sums_per_trade(columns)
    stacked = np.empty((sessions.size, len(masks) * _SUMS))
    for g, (_, _, mask) in enumerate(masks):
        for j in range(_SUMS):
            stacked[:, g * _SUMS + j] = np.bincount(at[mask], weights=per_trade[mask, j], minlength=sessions.size)
    observed = stacked.sum(axis=0)
    block = resampling.block_for(stacked[:, _R]) if sessions.size else 1.0
    drawn = drawn_sums(stacked, block, resampling) if sessions.size >= MIN_SESSIONS else None
    groups = []
    for g, (kind, name, mask) in enumerate(masks):
        here = slice(g * _SUMS, (g + 1) * _SUMS)
        clusters = int(np.unique(at[mask]).size)
        sums = None if drawn is None or clusters < MIN_SESSIONS else drawn[:, here]
        known = columns.mae_r is not None
        figures = _figures(observed[here], sums, clusters, block, resampling, known)
        if columns.unit == USD:
            figures[MEAN_USD] = figures.pop(MEAN)
        groups.append(Group(kind, name, figures))
    return groups


def _masks(columns: TradeColumns) -> list[tuple[str, str, np.ndarray[tuple[int], np.dtype[np.bool_]]]]:
    everything = np.ones(columns.profit.size, dtype=np.bool_)
    strategy, reason = np.array(columns.strategy, dtype=object), np.array(columns.reason, dtype=object)
    return [
        ("all", "all", everything),
        *(("strategy", name, np.asarray(strategy == name)) for name in sorted(set(columns.strategy))),
        *(("exit", name, np.asarray(reason == name)) for name in sorted(set(columns.reason))),
    ]


def _sums_per_trade(columns: TradeColumns) -> Floats:
    won, lost = columns.profit > 0, columns.profit < 0
    nothing = np.zeros(columns.profit.size)
    mae = nothing if columns.mae_r is None else columns.mae_r
    mfe = nothing if columns.mfe_r is None else columns.mfe_r
    return np.stack(
        [
            np.ones(columns.profit.size),
            won.astype(np.float64),
            np.where(won, columns.profit, 0.0),
            np.where(lost, -columns.profit, 0.0),
            columns.r,
            columns.profit,
            columns.held,
            mae,
            mfe,
            np.where(won, mae, 0.0),
            np.where(lost, mfe, 0.0),
            lost.astype(np.float64),
        ],
        axis=1,
    )


def _ratios(sums: Floats) -> dict[str, Floats]:
    """(draws, sums) → each figure (draws,): NaN for 0/0, infinite where only the divisor is 0."""
    n = sums[:, _COUNT]
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "profit_factor": sums[:, _GAIN] / sums[:, _LOSS],
            "win_rate": sums[:, _WON] / n,
            "expectancy_r": sums[:, _R] / n,
            MEAN: sums[:, _PROFIT] / n,
            "average_holding_bars": sums[:, _HELD] / n,
            "mae_r": sums[:, _MAE] / n,
            "mfe_r": sums[:, _MFE] / n,
            "mae_r_of_wins": sums[:, _MAE_WON] / sums[:, _WON],
            "mfe_r_of_losses": sums[:, _MFE_LOST] / sums[:, _LOST],
        }


def _figures(
    observed: Floats, drawn: Floats | None, clusters: int, block: float, resampling: Resampling, excursions: bool
) -> dict[str, Figure]:
    values = {name: float(value[0]) for name, value in _ratios(observed[None, :]).items()}
    draws = {} if drawn is None else _ratios(drawn)
    found = {}
    for name, value in values.items():
        n = int(observed[{"mae_r_of_wins": _WON, "mfe_r_of_losses": _LOST}.get(name, _COUNT)])
        reason = _why_none(name, observed, excursions)
        if reason:
            found[name] = Figure(None, n, "trades", reason)
            continue
        interval, reason = _interval(draws.get(name), block, resampling)
        if name == "win_rate" and value in (0.0, 1.0):  # every draw is the same then; sessions count, not trades
            interval = all_alike_interval(clusters, value == 1.0, resampling.level)
            reason = "ALL_WON" if value else "ALL_LOST"
        found[name] = Figure(value, n, "trades", reason, interval)
    return found


def _why_none(name: str, sums: Floats, excursions: bool) -> str:
    if not sums[_COUNT]:
        return "NO_TRADES"
    if sums[_COUNT] == 1:
        return "ONE_TRADE"
    if name in ("profit_factor", "mfe_r_of_losses") and not sums[_LOSS]:
        return "NO_LOSS"
    if name in ("profit_factor", "mae_r_of_wins") and not sums[_GAIN]:
        return "NO_WIN"
    if name.startswith(("mae", "mfe")) and not excursions:
        return "NO_BARS"
    return ""


def _interval(draws: Floats | None, block: float, resampling: Resampling) -> tuple[Interval | None, str]:
    if draws is None:
        return None, "TOO_FEW_SESSIONS"
    told = draws[np.isfinite(draws)]  # a draw without a loss has an infinite profit factor: unbounded, not flat
    if told.size == draws.size and told.max() - told.min() <= _FLAT * np.abs(told).max():
        return None, "NO_VARIATION"
    return percentile_interval(draws, block, resampling), ""


# ---------------------------------------------------------------- a daily curve
def curve_statistics(paths: Floats) -> Floats:
    """(paths, n) daily returns → (paths, 5): Sharpe, Sortino, volatility, max drawdown, CAGR; NaN where undefined."""
    n = paths.shape[1]
    mean, year = paths.mean(axis=1), np.sqrt(float(PER_YEAR))
    deviation = paths.std(axis=1, ddof=1)
    downside = np.sqrt(np.mean(np.minimum(paths, 0.0) ** 2, axis=1))
    flat = deviation <= _FLAT * np.abs(paths).max(axis=1)
    wealth = np.cumprod(1.0 + paths, axis=1)
    peak = np.maximum(np.maximum.accumulate(wealth, axis=1), 1.0)
    end = np.where((wealth <= 0.0).any(axis=1), 0.0, wealth[:, -1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack(
            [
                np.where(flat, np.nan, mean / deviation * year),
                np.where(downside == 0.0, np.nan, mean / downside * year),
                deviation * year,
                np.maximum((wealth / peak - 1.0).min(axis=1), -1.0),
                end ** (PER_YEAR / n) - 1.0,
            ],
            axis=1,
        )


CURVE_NAMES: Final = ("sharpe", "sortino", "volatility", "max_drawdown", "cagr")


def curve_figures(
    returns: Floats, resampling: Resampling, *, exposure: Floats | None = None, turnover: Floats | None = None
) -> dict[str, Figure]:
    """Figures of a daily curve. returns: one a session, as fractions, finite.

    exposure : gross exposure / equity of each session · turnover : USD traded / equity of each session (both sides);
    figures: their mean, and for turnover their mean a year. A drawn drawdown is that of a re-ordered history.
    """
    if not np.isfinite(returns).all():
        raise ValueError("a daily return is not a number: mark the curve first")
    n = returns.size
    block = resampling.block_for(returns)
    values = curve_statistics(returns[None, :])[0] if n > 1 else np.full(len(CURVE_NAMES), np.nan)
    draws = drawn_paths(returns, curve_statistics, block, resampling) if n >= MIN_SESSIONS else None
    found = {}
    for j, name in enumerate(CURVE_NAMES):
        reason = _why_no_curve(name, returns)
        if reason:
            found[name] = Figure(None, n, "sessions", reason)
        else:
            interval, reason = _interval(None if draws is None else draws[:, j], block, resampling)
            found[name] = Figure(float(values[j]), n, "sessions", reason, interval)
    found["exposure"] = _mean_figure(exposure, 1.0, resampling)
    found["turnover_per_year"] = _mean_figure(turnover, float(PER_YEAR), resampling)
    return found


def _why_no_curve(name: str, returns: Floats) -> str:
    if returns.size < 2:
        return "ONE_SESSION" if returns.size else "NO_SESSIONS"
    if name == "cagr":
        return "WIPED_OUT" if (np.cumprod(1.0 + returns) <= 0.0).any() else ""
    if name in ("sortino", "max_drawdown") and not (returns < 0).any():
        return "NO_LOSS"
    if name in ("sharpe", "volatility") and float(returns.std(ddof=1)) <= _FLAT * float(np.abs(returns).max()):
        return "NO_VARIATION"
    return ""


def _mean_figure(series: Floats | None, times: float, resampling: Resampling) -> Figure:
    if series is None or not series.size:
        return Figure(None, 0, "sessions", "NOT_MEASURED" if series is None else "NO_SESSIONS")
    block = resampling.block_for(series)
    draws = None
    if series.size >= MIN_SESSIONS:
        draws = drawn_sums(series[:, None], block, resampling)[:, 0] * (times / series.size)
    interval, reason = _interval(draws, block, resampling)
    return Figure(float(series.mean()) * times, series.size, "sessions", reason, interval)
