"""Our own engine under the same checks: it passes, and an engine that is broken on purpose does not."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from config.settings_schema import Settings
from config.strategy_params import StrategyParams, load_strategy_params
from core.panel import Panel
from portfolio.backtest.account import Booked
from portfolio.backtest.costs import CostModel
from portfolio.backtest.engine import signal_trades
from portfolio.backtest.honesty.checks import NAMES, Known
from portfolio.backtest.honesty.findings import Check, Verdict
from portfolio.backtest.honesty.house import Engine, HouseStrategy, examine_house, market_of, with_values
from portfolio.backtest.output import signal_booked
from portfolio.strategies.indicators import prepare
from tests.portfolio.backtest.test_controls import a_market

START, END = date(1900, 1, 1), date(2200, 1, 1)
PANEL = a_market(0.01, n_symbols=6, n_bars=520)


def honest(panel: Panel, params: StrategyParams) -> Booked:
    prepared = prepare(panel, params.common)
    costs = CostModel.from_settings(Settings().costs)
    return signal_booked(prepared.panel, signal_trades(prepared, params, START, END), costs)


def best_half(panel: Panel, params: StrategyParams) -> Booked:
    """Keeps what won more than the middle trade of the whole sample."""
    booked = honest(panel, params)
    gain = booked.pnl_usd
    closed = gain[np.isfinite(gain)]
    return _rows(booked, gain > (np.median(closed) if closed.size else 0.0))


def known_close(panel: Panel, params: StrategyParams) -> Booked:
    """Keeps what closed its entry bar above its entry."""
    booked = honest(panel, params)
    trades = booked.trades
    return _rows(booked, panel.close[trades.first, trades.column] > trades.entry_price)


def at_the_low(panel: Panel, params: StrategyParams) -> Booked:
    booked = honest(panel, params)
    trades = booked.trades
    low = panel.low[trades.first, trades.column]
    return replace(booked, trades=replace(trades, entry_price=low))


def free(panel: Panel, params: StrategyParams) -> Booked:
    booked = honest(panel, params)
    return replace(booked, costs_usd=np.zeros(len(booked.trades)))


def huge(panel: Panel, params: StrategyParams) -> Booked:
    booked = honest(panel, params)
    return replace(booked, quantity=booked.quantity * 1e7, costs_usd=booked.costs_usd * 1e7)


def _rows(booked: Booked, keep: np.ndarray) -> Booked:
    return Booked(
        booked.trades.rows(keep), booked.quantity[keep], booked.costs_usd[keep], booked.dollar_volume[keep]
    )  # fmt: skip


def asked(engine: Engine, known: Known | None = None) -> dict[str, Check]:
    params = load_strategy_params()
    subject = HouseStrategy(engine, params, each_alone=True)
    checks = examine_house(subject, PANEL, engine(PANEL, params), known or Known())
    assert [check.name for check in checks] == list(NAMES)
    return {check.name: check for check in checks}


def test_the_engine_is_asked_and_passes_what_can_be_asked() -> None:
    found = asked(honest)
    for name in ("runs", "lookahead_truncation", "lookahead_future", "same_bar_fill", "stale_fill", "costs", "warm_up"):
        assert found[name].verdict is Verdict.PASS and found[name].n > 0, found[name]
    assert found["survivorship"].code == "MEMBERSHIP_ABSENT" and "6 names" in found["survivorship"].detail


@pytest.mark.parametrize(
    ("engine", "check"),
    [
        (best_half, "lookahead_future"),
        (known_close, "same_bar_fill"),
        (at_the_low, "same_bar_fill"),
        (free, "costs"),
        (huge, "capacity"),
    ],
)
def test_a_broken_engine_is_caught(engine: Engine, check: str) -> None:
    assert asked(engine)[check].verdict is Verdict.FAIL


def test_the_same_run_says_the_same_again() -> None:
    assert asked(honest) == asked(honest)


def test_parameters_reach_the_engine_by_name() -> None:
    params = load_strategy_params()
    changed = with_values(params, {"ibs_rsi.ibs_below": 0.5, "common.sma_bars": 150})
    assert (changed.ibs_rsi.ibs_below, changed.common.sma_bars) == (0.5, 150)
    assert changed.turtle_soup == params.turtle_soup
    assert len(HouseStrategy(honest, params, each_alone=True).parameters) == 17


def test_the_market_of_a_panel_is_the_panel() -> None:
    back = Panel.from_bars(market_of(PANEL).bars)
    assert np.array_equal(back.close, PANEL.close) and np.array_equal(back.sessions, PANEL.sessions)
