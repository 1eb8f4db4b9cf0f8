"""Figures against hand calculation and outside authorities; what cannot be told is said, never 0 or infinite."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from portfolio.backtest.account import Booked
from portfolio.backtest.bootstrap import Floats, Resampling
from portfolio.backtest.metrics import (
    CURVE_NAMES,
    Figure,
    Group,
    TradeColumns,
    booked_columns,
    curve_figures,
    table_columns,
    trade_figures,
)
from tests.portfolio.backtest.tables import Made, table
from tests.portfolio.market import panel_of, weekdays

DRAWS = Resampling(draws=200)
PANEL = panel_of({"A": [(100.0, 101.0, 99.0, 100.0)] * 6}, weekdays(6))


def columns_of(profits: list[float], sessions: list[int] | None = None) -> TradeColumns:
    n = len(profits)
    return TradeColumns(
        strategy=("a",) * n,
        reason=("time",) * n,
        session=np.array(sessions if sessions is not None else range(n), dtype=np.intp),
        profit=np.array(profits, dtype=np.float64),
        r=np.array(profits, dtype=np.float64) * 20,
        held=np.full(n, 3.0),
        unit="fraction of the entry price",
    )


def all_trades(groups: list[Group]) -> dict[str, Figure]:
    [found] = [group for group in groups if group.kind == "all"]
    return dict(found.figures)


# ---------------------------------------------------------------- by hand
def test_figures_by_hand_per_strategy_and_per_exit() -> None:
    trades = [
        Made("A", "ibs_rsi", 1, 2, 100.0, 95.0, 110.0, "ibs"),  # +10 %, +2 R
        Made("A", "ibs_rsi", 1, 1, 100.0, 95.0, 95.0, "stop"),  # -5 %, -1 R
        Made("A", "turtle_soup", 2, 4, 50.0, 49.0, 49.5, "time"),  # -1 %, -0.5 R
        Made("A", "turtle_soup", 2, 4, 50.0, 49.0, None, "open"),  # counts nowhere
    ]
    columns = table_columns(table(PANEL, trades))
    assert columns.still_open == 1 and columns.unit == "fraction of the entry price"
    groups = {(g.kind, g.name): g.figures for g in trade_figures(columns, DRAWS)}
    assert set(groups) == {
        ("all", "all"), ("strategy", "ibs_rsi"), ("strategy", "turtle_soup"),
        ("exit", "ibs"), ("exit", "stop"), ("exit", "time"),
    }  # fmt: skip
    whole = groups["all", "all"]
    assert whole["profit_factor"].value == pytest.approx(0.10 / 0.06)
    assert whole["win_rate"].value == pytest.approx(1 / 3)
    assert whole["expectancy_r"].value == pytest.approx((2 - 1 - 0.5) / 3)
    assert whole["average_holding_bars"].value == pytest.approx(2.0)
    assert whole["win_rate"].n == 3
    assert groups["strategy", "ibs_rsi"]["expectancy_r"].value == pytest.approx(0.5)
    assert groups["strategy", "turtle_soup"]["expectancy_r"].reason == "ONE_TRADE"


def test_a_profit_factor_with_draws_that_never_lost_is_unbounded_and_not_called_flat() -> None:
    found = all_trades(trade_figures(columns_of([0.01] * 11 + [-0.02]), DRAWS))["profit_factor"]
    assert found.value == pytest.approx(5.5) and found.reason == ""
    assert found.interval is not None and found.interval.low is not None and found.interval.high is None


def test_an_account_is_told_in_money_and_r_after_costs() -> None:
    trades = table(
        PANEL, [Made("A", "a", 1, 2, 10.0, 9.0, 11.0, "time"), Made("A", "a", 2, 3, 10.0, 9.0, None, "open")] * 2
    )
    booked = Booked(trades, np.array([5.0, 1, 50, 1]), np.array([1.0, 0, 1, 0]), np.full(4, 1e9))
    columns = booked_columns(booked)
    figures = all_trades(trade_figures(columns, DRAWS))
    assert (columns.unit, columns.still_open, columns.profit.tolist()) == ("USD", 2, [4.0, 49.0])
    assert figures["mean_profit_usd"].value == 26.5 and "mean_return" not in figures
    assert figures["expectancy_r"].value == pytest.approx((4 / 5 + 49 / 50) / 2)


def test_costs_are_taken_from_the_return_and_from_r() -> None:
    trades = table(PANEL, [Made("A", "a", 1, 2, 10.0, 9.0, 11.0, "time")] * 2)
    columns = table_columns(trades, cost=np.array([0.0, 0.02]))
    assert columns.profit.tolist() == pytest.approx([0.10, 0.08]) and columns.r.tolist() == pytest.approx([1.0, 0.8])


def test_a_curve_by_hand() -> None:
    returns = np.array([0.10, -0.20, 0.05, 0.05])
    found = curve_figures(returns, DRAWS, exposure=np.array([1.0, 0.5, 0.5, 0.0]), turnover=np.full(4, 0.1))
    assert found["max_drawdown"].value == pytest.approx(-0.20)
    assert found["cagr"].value == pytest.approx((1.1 * 0.8 * 1.05 * 1.05) ** 63 - 1)
    assert found["sharpe"].value == pytest.approx(0.0)
    three = curve_figures(np.array([0.02, -0.01, 0.02]), DRAWS)
    assert three["sortino"].value == pytest.approx(0.01 / math.sqrt(0.01**2 / 3) * math.sqrt(252))
    assert three["sharpe"].value == pytest.approx(0.01 / math.sqrt(0.0006 / 2) * math.sqrt(252))
    assert found["exposure"].value == pytest.approx(0.5)
    assert found["turnover_per_year"].value == pytest.approx(25.2)
    assert found["exposure"].interval is None and found["exposure"].reason == "TOO_FEW_SESSIONS"


def test_a_fall_on_the_first_day_is_a_drawdown() -> None:
    assert curve_figures(np.array([-0.3, 0.1]), DRAWS)["max_drawdown"].value == pytest.approx(-0.3)


def test_a_return_that_is_no_number_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="not a number"):
        curve_figures(np.array([0.1, np.nan]), DRAWS)


# ---------------------------------------------------------------- what cannot be told
@pytest.mark.parametrize(
    ("profits", "factor", "rate", "expectancy"),
    [
        ([], "NO_TRADES", "NO_TRADES", "NO_TRADES"),
        ([0.02], "ONE_TRADE", "ONE_TRADE", "ONE_TRADE"),
        ([-0.02], "ONE_TRADE", "ONE_TRADE", "ONE_TRADE"),
        ([-0.02, -0.01], "NO_WIN", "", ""),
        ([0.02, 0.01], "NO_LOSS", "", ""),
        ([0.0, 0.0], "NO_LOSS", "", ""),
    ],
)
def test_few_or_one_sided_trades_have_no_profit_factor(
    profits: list[float], factor: str, rate: str, expectancy: str
) -> None:
    found = all_trades(trade_figures(columns_of(profits), DRAWS))
    for name, reason in (("profit_factor", factor), ("win_rate", rate), ("expectancy_r", expectancy)):
        assert (found[name].value is None) == bool(reason), name
        assert found[name].reason == reason or not reason
        assert found[name].n == len(profits)
    assert all(figure.value is None or math.isfinite(figure.value) for figure in found.values())


def test_a_trade_that_ends_where_it_began_is_neither_won_nor_lost() -> None:
    found = all_trades(trade_figures(columns_of([0.0, 0.0, 0.01, -0.02]), DRAWS))
    assert found["win_rate"].value == 0.25 and found["profit_factor"].value == pytest.approx(0.5)


def test_a_win_rate_of_none_or_all_keeps_an_interval_that_counts_sessions() -> None:
    twenty = all_trades(trade_figures(columns_of([-0.01] * 20), DRAWS))["win_rate"]
    assert twenty.value == 0.0 and twenty.reason == "ALL_LOST"
    assert twenty.interval is not None and twenty.interval.high == pytest.approx(1 - 0.05 ** (1 / 20))
    together = all_trades(trade_figures(columns_of([0.01] * 20, [1] * 10 + [2] * 10), DRAWS))["win_rate"]
    assert together.value == 1.0 and together.reason == "ALL_WON"
    assert together.interval is not None and together.interval.low == pytest.approx(0.05 ** (1 / 2))


@pytest.mark.parametrize(
    ("returns", "reasons"),
    [
        ([], dict.fromkeys(CURVE_NAMES, "NO_SESSIONS")),
        ([0.01], dict.fromkeys(CURVE_NAMES, "ONE_SESSION")),
        ([0.01, 0.02, 0.01], {"sortino": "NO_LOSS", "max_drawdown": "NO_LOSS"}),
        ([0.01] * 30, {"sharpe": "NO_VARIATION", "volatility": "NO_VARIATION", "sortino": "NO_LOSS"}),
        ([0.0] * 30, {"sharpe": "NO_VARIATION", "sortino": "NO_LOSS", "max_drawdown": "NO_LOSS"}),
        ([0.1, -1.0, 0.1], {"cagr": "WIPED_OUT"}),
        ([0.1, -1.5, -3.0], {"cagr": "WIPED_OUT"}),
    ],
)
def test_short_or_one_sided_curves_say_why(returns: list[float], reasons: dict[str, str]) -> None:
    found = curve_figures(np.array(returns), DRAWS)
    for name, reason in reasons.items():
        assert (found[name].value, found[name].reason) == (None, reason)
    assert all(figure.value is None or math.isfinite(figure.value) for figure in found.values())
    assert found["exposure"].reason == "NOT_MEASURED"


def test_under_ten_sessions_there_is_no_interval_and_from_ten_there_is() -> None:
    profits = [0.02, -0.01] * 5
    nine = all_trades(trade_figures(columns_of(profits, [*range(9), 8]), DRAWS))["expectancy_r"]
    ten = all_trades(trade_figures(columns_of(profits), DRAWS))["expectancy_r"]
    assert nine.value is not None and nine.interval is None and nine.reason == "TOO_FEW_SESSIONS"
    assert ten.interval is not None and ten.reason == ""
    returns = np.array(profits)
    assert curve_figures(returns[:9], DRAWS)["sharpe"].interval is None
    assert curve_figures(returns, DRAWS)["sharpe"].interval is not None


def test_a_small_group_gets_no_interval_from_the_sessions_of_the_others() -> None:
    base = columns_of([0.02, -0.01] * 20)
    columns = replace(base, strategy=("rare",) * 4 + ("usual",) * 36)
    groups = {(g.kind, g.name): g.figures["expectancy_r"] for g in trade_figures(columns, DRAWS)}
    assert groups["strategy", "rare"].reason == "TOO_FEW_SESSIONS"
    assert groups["strategy", "usual"].interval is not None


def test_excursions_that_are_not_known_are_not_zero() -> None:
    found = all_trades(trade_figures(columns_of([0.02, -0.01] * 10), DRAWS))
    assert found["mae_r"].value is None and found["mae_r"].reason == "NO_BARS"
    columns = replace(columns_of([0.02, -0.01] * 10), mae_r=np.tile([-0.2, -1.0], 10), mfe_r=np.tile([0.9, 0.1], 10))
    found = all_trades(trade_figures(columns, DRAWS))
    assert found["mae_r"].value == pytest.approx(-0.6) and found["mae_r_of_wins"].value == pytest.approx(-0.2)
    assert found["mfe_r_of_losses"].value == pytest.approx(0.1) and found["mfe_r_of_losses"].n == 10


def test_no_figure_prints_without_its_n() -> None:
    every = [
        *all_trades(trade_figures(columns_of([0.02, -0.01] * 700), DRAWS)).values(),
        *all_trades(trade_figures(columns_of([]), DRAWS)).values(),
        *curve_figures(np.array([0.01, -0.01, 0.02]), DRAWS).values(),
    ]
    assert all(f"N = {figure.n:,} {figure.of}" in figure.text() for figure in every)
    assert Figure(None, 0, "trades", "NO_TRADES").text() == "- (NO_TRADES, N = 0 trades)"
    assert "N = 1,400 trades" in every[0].text()


# ---------------------------------------------------------------- intervals
def test_trades_of_one_session_are_drawn_together() -> None:
    """Ten copies of every trade on its day are no new evidence; on days of their own they would be."""
    profits = np.random.default_rng(5).normal(0.001, 0.02, 200)
    one = all_trades(trade_figures(columns_of(profits.tolist()), Resampling(block=1.0)))["expectancy_r"].interval
    copies = columns_of(np.repeat(profits, 10).tolist(), np.repeat(np.arange(200), 10).tolist())
    ten = all_trades(trade_figures(copies, Resampling(block=1.0)))["expectancy_r"].interval
    apart = columns_of(np.repeat(profits, 10).tolist())
    wrong = all_trades(trade_figures(apart, Resampling(block=1.0)))["expectancy_r"].interval
    assert one and ten and wrong and one.low is not None and ten.low is not None and ten.high is not None
    assert ten.low == pytest.approx(one.low) and ten.high == pytest.approx(one.high or 0)
    assert wrong.high is not None and wrong.low is not None and wrong.high - wrong.low < 0.5 * (ten.high - ten.low)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    columns = columns_of(np.random.default_rng(1).normal(0, 0.02, 300).tolist())
    one, again = trade_figures(columns, DRAWS), trade_figures(columns, DRAWS)
    assert one == again
    assert all_trades(one) != all_trades(trade_figures(columns, replace(DRAWS, seed=1)))


@pytest.mark.parametrize("name", ["sharpe", "max_drawdown"])
def test_a_curves_interval_holds_its_value(name: str) -> None:
    returns = np.random.default_rng(3).normal(0.0005, 0.01, 1000)
    figure = curve_figures(returns, Resampling(draws=500))[name]
    assert figure.interval is not None and figure.value is not None
    assert (figure.interval.low or 0) < figure.value < (figure.interval.high or 0)


def test_the_interval_of_the_profit_factor_holds_the_true_one_about_nine_times_in_ten() -> None:
    """Gains and losses of equal size, won 55 % of the time: the true profit factor is 55 / 45."""
    held, rounds = 0, 120
    for k in range(rounds):
        won = np.random.default_rng([7, k]).random(250) < 0.55
        profits = np.where(won, 0.01, -0.01).tolist()
        found = all_trades(trade_figures(columns_of(profits), Resampling(draws=200, seed=k)))["profit_factor"].interval
        assert found is not None
        held += (found.low or 0.0) <= 55 / 45 <= (found.high or math.inf)
    assert 0.83 <= held / rounds <= 0.96


# ---------------------------------------------------------------- outside authorities
def _series() -> dict[str, Floats]:
    rng = np.random.default_rng(11)
    made: dict[str, Floats] = {
        "empty": np.empty(0),
        "one gain": np.array([0.01]),
        "one loss": np.array([-0.01]),
        "two": np.array([0.01, -0.02]),
        "all gains": rng.uniform(0.001, 0.02, 60),
        "all losses": -rng.uniform(0.001, 0.02, 60),
        "all zero": np.zeros(60),
        "constant": np.full(60, 0.01),
        "mostly zero": np.where(rng.random(500) < 0.05, rng.normal(0, 0.02, 500), 0.0),
        "first day falls": np.concatenate([[-0.5], rng.normal(0.001, 0.01, 250)]),
        "never recovers": np.concatenate([rng.normal(0.001, 0.01, 250), [-0.6]]),
        "tiny": rng.normal(0, 1e-7, 300),
        "wild": rng.normal(0.01, 0.15, 300).clip(-0.9),
        "ten years": rng.normal(0.0004, 0.01, 2520),
        "fat tails": (rng.standard_t(3, 1000) * 0.01).clip(-0.9),
        "skewed": 0.01 - rng.exponential(0.01, 800),
        "trending": np.cumsum(rng.normal(0, 0.0005, 700)),
        "alternating": np.tile([0.02, -0.019], 200),
        "month": rng.normal(0.001, 0.01, 21),
        "year": rng.normal(0.0, 0.012, 252),
    }
    assert len(made) == 20
    return made


SERIES = _series()


def _theirs(function: Any, values: Floats) -> float:
    import pandas as pd

    index = pd.bdate_range("2015-01-01", periods=values.size)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return float(function(pd.Series(values, index=index, dtype=float)))
        except Exception:  # noqa: BLE001 - an empty series stops some of them, each in its own way
            return math.nan


def _agrees(name: str, key: str, figure: Figure, function: Any) -> None:
    """Equal to 1e-9; where we say None, theirs is no usable number either, or 0 for "it never fell"."""
    value = _theirs(function, SERIES[key])
    if figure.value is not None:
        assert figure.value == pytest.approx(value, rel=1e-9, abs=1e-12), (name, key)
    elif name == "max_drawdown" and figure.reason == "NO_LOSS":
        assert value == 0.0
    elif figure.reason == "WIPED_OUT":
        assert value <= -1.0 or math.isnan(value)
    elif figure.reason == "NO_VARIATION":
        assert not math.isfinite(value) or abs(value) > 1e6 or abs(value) < 1e-12, (name, key, value)
    elif figure.reason == "ONE_SESSION":
        pass  # a year made of one day: theirs is a number or not, ours is not told
    else:
        assert not math.isfinite(value) or value == 0.0, (name, key, value)


@pytest.mark.parametrize("key", SERIES)
def test_curve_figures_equal_quantstats(key: str) -> None:
    stats = pytest.importorskip("quantstats", reason="quantstats is not installed (dev extra)").stats
    found = curve_figures(SERIES[key], Resampling(draws=20))
    for name in CURVE_NAMES:
        _agrees(name, key, found[name], getattr(stats, name))


@pytest.mark.parametrize("key", SERIES)
def test_curve_figures_equal_empyrical(key: str) -> None:
    empyrical = pytest.importorskip("empyrical", reason="empyrical-reloaded is not installed (optional)")
    named = {"sharpe": "sharpe_ratio", "sortino": "sortino_ratio", "volatility": "annual_volatility"}
    found = curve_figures(SERIES[key], Resampling(draws=20))
    for name in CURVE_NAMES:
        _agrees(name, key, found[name], getattr(empyrical, named.get(name, name)))


@pytest.mark.parametrize("key", [key for key, values in SERIES.items() if (values != 0).all()])
def test_trade_figures_equal_quantstats(key: str) -> None:
    """Their profit factor is gains / losses too, 0 or infinite where one is missing; their win rate skips zeros."""
    stats = pytest.importorskip("quantstats", reason="quantstats is not installed (dev extra)").stats
    found = all_trades(trade_figures(columns_of(SERIES[key].tolist()), DRAWS))
    for name in ("profit_factor", "win_rate"):
        value, ours = _theirs(getattr(stats, name), SERIES[key]), found[name]
        if ours.value is None:
            assert ours.reason == "ONE_TRADE" or not math.isfinite(value) or value == 0.0
        else:
            assert ours.value == pytest.approx(value, rel=1e-9)
