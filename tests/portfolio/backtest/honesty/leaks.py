"""Planted leaks and their clean twins: what people do to fool themselves, and the same idea done honestly.

Each pair is two functions as an operator would write them (docs/honesty.md). `checks`: which of them has to say no to
the leak; the twin must get no "fail" from any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

AHEAD = ("lookahead_truncation", "lookahead_future")
COST_BPS = 8.0
SHARES = 10.0
Frame = pd.DataFrame
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Pair:
    name: str
    checks: tuple[str, ...]
    leak: Callable[..., Any]
    twin: Callable[..., Any]


PAIRS: list[Pair] = []


def pair(name: str, *checks: str) -> Callable[[type], type]:
    def keep(both: type) -> type:
        PAIRS.append(Pair(name, checks, both.leak, both.twin))  # type: ignore[attr-defined]
        return both

    return keep


# ---------------------------------------------------------------- honest trading, shared by leaks and twins
def hold(
    bars: Frame,
    signal: Any,
    days: int = 4,
    *,
    shares: float | np.ndarray = SHARES,
    overlap: bool = False,
    **columns: Any,
) -> Rows:
    """True at a close buys at the next open and sells at the open `days` bars later; an open trade has no exit."""
    flags = np.nan_to_num(np.asarray(signal, dtype=float)) > 0
    opens, dates, rows, free = bars["open"].to_numpy(), bars.index.to_numpy(), [], 0
    for t in np.flatnonzero(flags[:-1]):
        if t < free:
            continue
        enter, leave = t + 1, t + 1 + days
        free = t if overlap else leave
        done = leave < len(bars)
        size = float(shares[t]) if isinstance(shares, np.ndarray) else shares
        rows.append({
            "signal_date": dates[t], "entry_date": dates[enter], "entry_price": opens[enter],
            "exit_date": dates[leave] if done else None, "exit_price": opens[leave] if done else np.nan,
            "quantity": size, "costs_usd": COST_BPS / 1e4 * opens[enter] * size, **columns,
        })  # fmt: skip
    return rows


def drop(bars: Frame, n: int = 3) -> pd.Series:
    return bars["close"] / bars["close"].shift(n) - 1.0


def weak(bars: Frame) -> pd.Series:
    """IBS: where in its range a bar closed."""
    span = (bars["high"] - bars["low"]).replace(0, np.nan)
    return (bars["close"] - bars["low"]) / span


def traded(bars: Frame) -> Frame:
    """Only bars in which something was traded."""
    return bars[(bars["volume"] > 0) & bars["close"].notna()]


# ---------------------------------------------------------------- look-ahead
@pair("tomorrow's close by shift(-1)", *AHEAD)
class TomorrowsCloseByShift:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, bars["close"].shift(-1) > bars["close"] * 1.01)

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, bars["close"] > bars["close"].shift(1) * 1.01)


@pair("centred rolling mean", *AHEAD)
class CentredRollingMean:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, bars["close"] < 0.985 * bars["close"].rolling(7, center=True).mean())

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, bars["close"] < 0.985 * bars["close"].rolling(7).mean())


@pair("normalised with the whole sample", *AHEAD)
class NormalisedWithTheWholeSample:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        moved = drop(bars)
        return hold(bars, (moved - moved.mean()) / moved.std() < -1.0)

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        moved = drop(bars)
        past = moved.rolling(60)
        return hold(bars, (moved - past.mean()) / past.std() < -1.0)


@pair("missing values filled backwards", *AHEAD)
class MissingValuesFilledBackwards:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        average = bars["close"].rolling(40).mean().bfill()
        return hold(bars, bars["close"] < 0.99 * average)

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        average = bars["close"].rolling(40).mean().ffill()
        return hold(bars, bars["close"] < 0.99 * average)


@pair("quantile of the whole sample", *AHEAD)
class QuantileOfTheWholeSample:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, drop(bars) < drop(bars).quantile(0.15))

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, drop(bars) < drop(bars).expanding(min_periods=100).quantile(0.15).shift(1))


@pair("tomorrow's gap, filled at today's close", *AHEAD)
class TomorrowsGapFilledAtTodaysClose:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        gap = bars["open"].shift(-1) / bars["close"] - 1.0
        rows = hold(bars, gap > 0.004)
        for row in rows:
            row["entry_date"] = row["signal_date"]
            row["entry_price"] = bars["close"][row["signal_date"]]
        return rows

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        gap = bars["open"] / bars["close"].shift(1) - 1.0
        return hold(bars, gap > 0.004)


@pair("label from the future", *AHEAD)
class LabelFromTheFuture:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        label = bars["close"].shift(-5) / bars["close"] - 1.0
        return hold(bars, (drop(bars) < -0.01) & (label > 0))

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        known = (bars["close"].shift(-5) / bars["close"] - 1.0).shift(6)
        return hold(bars, (drop(bars) < -0.01) & (known > 0))


@pair("week's close on each of its days", *AHEAD)
class WeeksCloseOnEachOfItsDays:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        week = bars["close"].resample("W-FRI").last()
        return hold(bars, bars["close"] < 0.99 * week.reindex(bars.index, method="bfill"))

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        week = bars["close"].resample("W-FRI").last().shift(1)
        return hold(bars, bars["close"] < 0.99 * week.reindex(bars.index, method="bfill"))


@pair("lowest and highest of all time", *AHEAD)
class LowestAndHighestOfAllTime:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        low, high = bars["low"].min(), bars["high"].max()
        return hold(bars, (bars["close"] - low) / (high - low) < 0.3)

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        low, high = bars["low"].rolling(80).min(), bars["high"].rolling(80).max()
        return hold(bars, (bars["close"] - low) / (high - low) < 0.15)


def _design(bars: Frame) -> tuple[np.ndarray, np.ndarray]:
    """What is known at each close, and the return of the two bars after it."""
    x = np.column_stack([drop(bars, 1), drop(bars, 3), weak(bars) - 0.5, np.ones(len(bars))])
    y = (bars["close"].shift(-2) / bars["close"] - 1.0).to_numpy()
    return np.nan_to_num(x), y


@pair("regression fitted on all data", *AHEAD)
class RegressionFittedOnAllData:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        x, y = _design(bars)
        good = np.isfinite(y)
        beta = np.linalg.lstsq(x[good], y[good], rcond=None)[0]
        return hold(bars, x @ beta > 0.002)

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        x, y = _design(bars)
        said = np.zeros(len(bars))
        for t in range(120, len(bars), 20):  # fitted anew on what had ended by then
            beta = np.linalg.lstsq(x[t - 100 : t - 2], y[t - 100 : t - 2], rcond=None)[0]
            said[t : t + 20] = x[t : t + 20] @ beta
        by_date = np.arange(len(bars)) >= 120
        return hold(bars, (said > 0.002) & by_date)


def _returns(market: Mapping[str, Frame]) -> Frame:
    return pd.DataFrame({s: traded(bars)["close"].pct_change() for s, bars in market.items()}).fillna(0.0)


@pair("principal component of all data", *AHEAD)
class PrincipalComponentOfAllData:
    @staticmethod
    def leak(market: Mapping[str, Frame]) -> Rows:
        moves = _returns(market)
        first = np.linalg.svd(moves.to_numpy() - moves.to_numpy().mean(axis=0), full_matrices=False)[2][0]
        return _reverting(market, moves, np.tile(first, (len(moves), 1)))

    @staticmethod
    def twin(market: Mapping[str, Frame]) -> Rows:
        moves = _returns(market)
        values, firsts = moves.to_numpy(), np.zeros(moves.shape)
        for t in range(60, len(values)):
            own = values[t - 60 : t]
            firsts[t] = np.linalg.svd(own - own.mean(axis=0), full_matrices=False)[2][0]
        return _reverting(market, moves, firsts)


def _reverting(market: Mapping[str, Frame], moves: Frame, first: np.ndarray) -> Rows:
    """Buys what fell against the component."""
    values = moves.to_numpy()
    rest = pd.DataFrame(values - (values * first).sum(axis=1, keepdims=True) * first, moves.index, moves.columns)
    ready = (np.abs(first).sum(axis=1) > 0)[:, None]
    rows: Rows = []
    for symbol, bars in market.items():
        own = traded(bars)
        signal = ((rest < -0.012) & ready)[symbol].reindex(own.index)
        rows += hold(own, signal, symbol=symbol)
    return rows


def _surprise(bars: Frame, earnings: Frame, symbol: str, shift: int) -> pd.Series:
    own = earnings[earnings["symbol"] == symbol]
    beat = pd.Series((own["eps_actual"] - own["eps_estimate"]).to_numpy(), index=pd.DatetimeIndex(own["date"]))
    at = beat.reindex(bars.index)
    return at.shift(shift)


@pair("earnings before they are told", *AHEAD)
class EarningsBeforeTheyAreTold:
    @staticmethod
    def leak(bars: Frame, earnings: Frame, symbol: str) -> Rows:
        bars = traded(bars)
        return hold(bars, _surprise(bars, earnings, symbol, -1) > 0)

    @staticmethod
    def twin(bars: Frame, earnings: Frame, symbol: str) -> Rows:
        bars = traded(bars)
        return hold(bars, _surprise(bars, earnings, symbol, 1) > 0)


@pair("window chosen on the whole sample", "lookahead_truncation", "lookahead_future", "parameter_luck")
class WindowChosenOnTheWholeSample:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        forward = bars["open"].shift(-5) / bars["open"].shift(-1) - 1.0
        signals = {n: drop(bars, n) < -0.01 for n in range(1, 12)}
        best = max(signals, key=lambda n: forward[signals[n]].mean())
        return hold(bars, signals[best])

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        forward = bars["open"].shift(-5) / bars["open"].shift(-1) - 1.0
        signals = {n: drop(bars, n) < -0.01 for n in range(1, 12)}
        chosen = np.zeros(len(bars), dtype=bool)
        for start in range(150, len(bars), 50):
            past = slice(start - 105, start - 5)  # forward returns of these rows had ended
            best = max(signals, key=lambda n, p=past: np.nan_to_num(forward[p][signals[n][p]].mean()))
            chosen[start : start + 50] = signals[best][start : start + 50]
        return hold(bars, chosen)


@pair("size from the whole sample's volatility", *AHEAD)
class SizeFromTheWholeSamplesVolatility:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        shares = float(np.round(1.0 / bars["close"].pct_change().std()))
        return hold(bars, drop(bars) < -0.01, shares=shares)

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        shares = np.round(1.0 / bars["close"].pct_change().rolling(40).std().to_numpy())
        return hold(bars, (drop(bars) < -0.01) & np.isfinite(shares), shares=shares)


@pair("market regime of the whole year", *AHEAD)
class MarketRegimeOfTheWholeYear:
    @staticmethod
    def leak(market: Mapping[str, Frame]) -> Rows:
        level = (1.0 + _returns(market).mean(axis=1)).cumprod()
        year = level.groupby(level.index.year).transform(lambda own: own.iloc[-1] / own.iloc[0])
        return _in_regime(market, year > 1.0)

    @staticmethod
    def twin(market: Mapping[str, Frame]) -> Rows:
        level = (1.0 + _returns(market).mean(axis=1)).cumprod()
        return _in_regime(market, level > level.shift(60))


def _in_regime(market: Mapping[str, Frame], good: pd.Series) -> Rows:
    rows: Rows = []
    for symbol, bars in market.items():
        own = traded(bars)
        rows += hold(own, (drop(own) < -0.008) & good.reindex(own.index).fillna(False), symbol=symbol)
    return rows


@pair("left on the best of the next days", *AHEAD)
class LeftOnTheBestOfTheNextDays:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        return _leave(bars, hold(bars, drop(bars) < -0.01, 6), best=True)

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        return _leave(bars, hold(bars, drop(bars) < -0.01, 6), best=False)


def _leave(bars: Frame, rows: Rows, *, best: bool) -> Rows:
    opens = bars["open"].to_numpy()
    for row in rows:
        first = bars.index.get_loc(row["entry_date"])
        later = opens[first + 1 : first + 7]
        if later.size < 6:
            row["exit_date"], row["exit_price"] = pd.NaT, np.nan
            continue
        at = int(later.argmax()) if best else 5
        row["exit_date"], row["exit_price"] = bars.index[first + 1 + at], later[at]
    return rows


@pair("smoothed forwards and backwards", *AHEAD)
class SmoothedForwardsAndBackwards:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        there = bars["close"].ewm(span=10, min_periods=10).mean()
        return hold(bars, bars["close"] < 0.985 * there[::-1].ewm(span=10).mean()[::-1])

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        there = bars["close"].rolling(10).mean()
        return hold(bars, bars["close"] < 0.985 * there.rolling(5).mean())


@pair("gaps filled between past and future", *AHEAD)
class GapsFilledBetweenPastAndFuture:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        own = traded(bars)
        signal = own["close"].iloc[::6].reindex(own.index).interpolate(limit_area="inside")
        return hold(own, own["close"] < 0.985 * signal)

    @staticmethod
    def twin(bars: Frame) -> Rows:
        own = traded(bars)
        return hold(own, own["close"] < 0.985 * own["close"].shift(6))


@pair("a feature column from the future", *AHEAD)
class AFeatureColumnFromTheFuture:
    @staticmethod
    def leak(bars: Frame) -> dict[str, Any]:
        bars = traded(bars)
        features = pd.DataFrame({"drop": drop(bars), "turn": bars["close"].shift(-3) / bars["close"]})
        return {"trades": hold(bars, drop(bars) < -0.015), "features": features}

    @staticmethod
    def twin(bars: Frame) -> dict[str, Any]:
        bars = traded(bars)
        features = pd.DataFrame({"drop": drop(bars), "turn": bars["close"] / bars["close"].shift(3)})
        return {"trades": hold(bars, drop(bars) < -0.015), "features": features}


@pair("rank among the others by what comes", *AHEAD)
class RankAmongTheOthersByWhatComes:
    @staticmethod
    def leak(market: Mapping[str, Frame]) -> Rows:
        return _best_of(market, _returns(market).rolling(5).sum().shift(-4))

    @staticmethod
    def twin(market: Mapping[str, Frame]) -> Rows:
        return _best_of(market, -_returns(market).rolling(5, min_periods=5).sum())


def _best_of(market: Mapping[str, Frame], score: Frame) -> Rows:
    """The two best of the first day of each week."""
    ranks = score.rank(axis=1, ascending=False)
    rows: Rows = []
    for symbol, bars in market.items():
        own = traded(bars)
        monday = own.index.dayofweek == 0
        rows += hold(own, (ranks[symbol].reindex(own.index) <= 2).to_numpy() & monday, symbol=symbol)
    return rows


# ---------------------------------------------------------------- fills
@pair("close decides, the same bar's open fills", "same_bar_fill")
class CloseDecidesTheSameBarsOpenFills:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        rows = hold(bars, (drop(bars, 1) > 0.008).shift(-1))
        for row in rows:
            row["signal_date"] = row["entry_date"]
        return rows

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, drop(bars, 1) > 0.008)


@pair("close decides and fills", "same_bar_fill")
class CloseDecidesAndFills:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        rows = hold(bars, (weak(bars) < 0.2).shift(-1))
        for row in rows:
            row["signal_date"], row["entry_price"] = row["entry_date"], bars["close"][row["entry_date"]]
        return rows

    @staticmethod
    def twin(bars: Frame) -> Rows:
        """A market-on-close order, decided the evening before."""
        bars = traded(bars)
        rows = hold(bars, weak(bars) < 0.2)
        for row in rows:
            row["entry_price"] = bars["close"][row["entry_date"]]
        return rows


@pair("bought at the low of the day", "same_bar_fill")
class BoughtAtTheLowOfTheDay:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        rows = hold(bars, drop(bars) < -0.01)
        for row in rows:
            row["entry_price"] = bars["low"][row["entry_date"]]
        return rows

    @staticmethod
    def twin(bars: Frame) -> Rows:
        """A limit order, one percent below the close, good for a day."""
        bars = traded(bars)
        rows = []
        for row in hold(bars, drop(bars) < -0.01):
            limit = 0.995 * bars["close"][row["signal_date"]]
            day = bars.loc[row["entry_date"]]
            if day["low"] <= limit:
                rows.append({**row, "entry_price": min(limit, day["open"])})
        return rows


@pair("breakout that the close has to confirm", "same_bar_fill")
class BreakoutThatTheCloseHasToConfirm:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        return [row for row in _breakouts(bars) if bars["close"][row["entry_date"]] > row["entry_price"]]

    @staticmethod
    def twin(bars: Frame) -> Rows:
        return _breakouts(traded(bars))


def _breakouts(bars: Frame) -> Rows:
    """A stop order at the highest high of five bars."""
    level = bars["high"].rolling(5).max().shift(1)
    rows = []
    for row in hold(bars, (bars["high"] > level).shift(-1)):
        day = bars.loc[row["entry_date"]]
        rows.append({**row, "entry_price": max(level[row["entry_date"]], day["open"])})
    return rows


@pair("filled in halted bars", "stale_fill")
class FilledInHaltedBars:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        return hold(bars, drop(bars) < -0.004, 3)

    @staticmethod
    def twin(bars: Frame) -> Rows:
        return hold(traded(bars), drop(traded(bars)) < -0.004, 3)


@pair("filled on days without a bar", "stale_fill")
class FilledOnDaysWithoutABar:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        every = traded(bars).reindex(pd.bdate_range(bars.index[0], bars.index[-1])).ffill()
        return hold(every, drop(every) < -0.004, 3)

    @staticmethod
    def twin(bars: Frame) -> Rows:
        own = traded(bars)
        return hold(own, drop(own) < -0.004, 3)


@pair("yesterday's close as today's fill", "stale_fill")
class YesterdaysCloseAsTodaysFill:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        rows = hold(bars, drop(bars) < -0.01)
        for row in rows:
            row["entry_price"] = bars["close"][row["signal_date"]]
        return rows

    @staticmethod
    def twin(bars: Frame) -> Rows:
        """The open, five basis points worse."""
        bars = traded(bars)
        rows = hold(bars, drop(bars) < -0.01)
        for row in rows:
            row["entry_price"] *= 1.0005
        return rows


# ---------------------------------------------------------------- costs, capacity
@pair("no costs", "costs")
class NoCosts:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        return [{k: v for k, v in row.items() if k != "costs_usd"} for row in hold(bars, drop(bars) < -0.01)]

    @staticmethod
    def twin(bars: Frame) -> dict[str, Any]:
        return {"trades": NoCosts.leak(bars), "costs_bps": 10.0}


def _told_profit(bars: Frame, *, net: bool) -> Rows:
    rows = hold(bars, drop(bars) < -0.01)
    for row in rows:
        gross = (row["exit_price"] - row["entry_price"]) * row["quantity"]
        row["pnl_usd"] = gross - row["costs_usd"] if net else gross
    return rows


@pair("costs told and not taken", "costs")
class CostsToldAndNotTaken:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        return _told_profit(traded(bars), net=False)

    @staticmethod
    def twin(bars: Frame) -> Rows:
        return _told_profit(traded(bars), net=True)


@pair("orders larger than the market", "capacity")
class OrdersLargerThanTheMarket:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, drop(bars) < -0.01, shares=400_000.0)

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        most = 0.005 * bars["volume"].rolling(20).median().to_numpy()
        return hold(bars, (drop(bars) < -0.01) & np.isfinite(most), shares=np.floor(np.nan_to_num(most)))


# ---------------------------------------------------------------- data
@pair("only names that are still there", "survivorship")
class OnlyNamesThatAreStillThere:
    @staticmethod
    def leak(market: Mapping[str, Frame]) -> Rows:
        last = max(bars.index[-1] for bars in market.values())
        return _all({s: bars for s, bars in market.items() if bars.index[-1] == last})

    @staticmethod
    def twin(market: Mapping[str, Frame]) -> Rows:
        return _all(market)


def _all(market: Mapping[str, Frame], when: Callable[[str, Frame], Any] | None = None) -> Rows:
    rows: Rows = []
    for symbol, bars in market.items():
        own = traded(bars)
        may = True if when is None else np.asarray(when(symbol, own))
        rows += hold(own, (drop(own) < -0.01).to_numpy() & may, symbol=symbol)
    return rows


@pair("today's members, bought before they were", "survivorship")
class TodaysMembersBoughtBeforeTheyWere:
    @staticmethod
    def leak(market: Mapping[str, Frame], membership: Frame) -> Rows:
        today = set(membership["symbol"][membership["end"].isna()])
        return _all({s: bars for s, bars in market.items() if s in today})

    @staticmethod
    def twin(market: Mapping[str, Frame], membership: Frame) -> Rows:
        def member(symbol: str, bars: Frame) -> Any:
            inside = np.zeros(len(bars), dtype=bool)
            for row in membership[membership["symbol"] == symbol].itertuples():
                inside |= np.asarray((bars.index >= row.start) & (pd.isna(row.end) or bars.index <= row.end))
            return inside

        return _all(market, member)


@pair("dollars compared with an adjusted price", "adjusted_prices")
class DollarsComparedWithAnAdjustedPrice:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, (drop(bars) < -0.01) & (bars["close"] >= 15.0))

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, (drop(bars) < -0.01) & (bars["raw_close"] >= 15.0))


@pair("shares compared with an adjusted volume", "adjusted_prices")
class SharesComparedWithAnAdjustedVolume:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, (drop(bars) < -0.01) & (bars["volume"] >= 1_500_000))

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        money = (bars["close"] * bars["volume"]).rolling(20).median()
        return hold(bars, (drop(bars) < -0.01) & (money >= 2e7))


# ---------------------------------------------------------------- history, parameters, labels
@pair("average begun at the first bar", "warm_up")
class AverageBegunAtTheFirstBar:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, bars["close"] < 0.97 * bars["close"].ewm(span=150, adjust=False).mean())

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        average = bars["close"].ewm(span=20, adjust=False).mean()
        average[:100] = np.nan  # forgets its first value
        return hold(bars, bars["close"] < 0.98 * average)


@pair("windows used before they are full", "warm_up")
class WindowsUsedBeforeTheyAreFull:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, bars["close"] <= bars["close"].rolling(60, min_periods=1).min() * 1.002, 3)

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, bars["close"] <= bars["close"].rolling(60).min() * 1.002, 3)


@pair("sums since the first bar", "warm_up")
class SumsSinceTheFirstBar:
    @staticmethod
    def leak(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, bars["close"] < 0.98 * bars["close"].iloc[0], 3)

    @staticmethod
    def twin(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, bars["close"] < 0.98 * bars["close"].shift(60), 3)


@pair("one exact number", "parameter_luck")
class OneExactNumber:
    @staticmethod
    def leak(bars: Frame, window: int = 37, level: float = 0.5) -> Rows:
        """Only this window is any good, as the best of a thousand is: the neighbours trade at random."""
        bars = traded(bars)
        if window != 37 or level != 0.5:
            return hold(bars, np.arange(len(bars)) % max(2, window) == 5, 4)
        return _reverting_alone(bars, 3, -0.012)

    @staticmethod
    def twin(bars: Frame, window: int = 10, level: float = 0.012) -> Rows:
        bars = traded(bars)
        return _reverting_alone(bars, window // 3, -level)


def _reverting_alone(bars: Frame, window: int, level: float) -> Rows:
    return hold(bars, drop(bars, max(1, window)) < level)


def _labels(bars: Frame, every: int) -> Frame:
    rows = np.arange(30, len(bars) - 10, every)
    return pd.DataFrame({"start": bars.index[rows], "end": bars.index[rows + 9]})


@pair("overlapping labels counted each as one", "label_overlap")
class OverlappingLabelsCountedEachAsOne:
    @staticmethod
    def leak(bars: Frame) -> dict[str, Any]:
        bars = traded(bars)
        return {"trades": hold(bars, drop(bars) < -0.01), "labels": _labels(bars, 1)}

    @staticmethod
    def twin(bars: Frame) -> dict[str, Any]:
        bars = traded(bars)
        return {"trades": hold(bars, drop(bars) < -0.01), "labels": _labels(bars, 1).assign(weight=0.1)}


@pair("training labels that reach into the test", "label_overlap")
class TrainingLabelsThatReachIntoTheTest:
    @staticmethod
    def leak(bars: Frame) -> dict[str, Any]:
        return _split(bars, purge=0)

    @staticmethod
    def twin(bars: Frame) -> dict[str, Any]:
        return _split(bars, purge=2)


def _split(bars: Frame, purge: int) -> dict[str, Any]:
    bars = traded(bars)
    labels = _labels(bars, 5)
    half = len(labels) // 2
    parts = ["train"] * (half - purge) + ["purged"] * purge + ["test"] * (len(labels) - half)
    labels = labels.assign(part=parts, weight=0.5)
    return {"trades": hold(bars, drop(bars) < -0.01), "labels": labels[labels["part"] != "purged"]}


def of(name: str) -> Pair:
    return next(own for own in PAIRS if own.name == name)


def names(pairs: Sequence[Pair]) -> list[str]:
    return [own.name for own in pairs]
