"""Excursions and daily returns of trades, by hand and against the trade's own prices."""

from __future__ import annotations

import numpy as np
import pytest

from config.strategy_params import load_strategy_params
from core.panel import Panel
from portfolio.backtest.engine import signal_trades
from portfolio.backtest.marks import Placed, daily_returns, excursions, place_table
from portfolio.strategies.indicators import prepare
from tests.portfolio.backtest.tables import Made, table
from tests.portfolio.market import Bar, columns, oversold, panel_of, rising, swept, weekdays

DAYS = weekdays(6)


# open, high, low, close
BARS: list[Bar] = [
    (100, 101, 99, 100), (100, 104, 97, 103), (102, 110, 101, 108),
    (107, 109, 90, 92), (93, 95, 92, 94), (94, 96, 93, 95),
]  # fmt: skip
PANEL = panel_of({"A": BARS, "B": [(10, 11, 9, 10)] * 6}, DAYS)


def made(reason: str, first: int, last: int, price: float | None, symbol: str = "A", entry: float = 100.0) -> Made:
    return Made(symbol, "s", first, last, entry, 0.95 * entry, price, reason)


def place(panel: Panel, trades: list[Made], cost: float = 0.0) -> Placed:
    return place_table(table(panel, trades), cost)


@pytest.mark.parametrize(
    ("trade", "worst", "best"),
    [
        (made("time", 1, 2, 108.0), 97.0, 110.0),  # left at a close: both bars whole
        (
            made("stop", 1, 3, 95.0),
            95.0,
            110.0,
        ),  # of the last bar its open (107) and the exit, not its low
        (made("ibs", 1, 3, 107.0), 97.0, 110.0),  # left at the open of row 3
        (made("stop", 1, 1, 95.0), 95.0, 100.0),  # on its first bar: the high of 104 may have come after the stop
        (made("target", 1, 1, 104.0), 100.0, 104.0),
        (made("time", 1, 1, 103.0), 97.0, 104.0),
    ],
)
def test_excursions_by_hand(trade: Made, worst: float, best: float) -> None:
    mae_r, mfe_r = excursions(PANEL, place(PANEL, [trade]))
    assert mae_r.tolist() == pytest.approx([(worst - 100) / 5]) and mfe_r.tolist() == pytest.approx([(best - 100) / 5])


def test_daily_returns_by_hand() -> None:
    trades = [made("time", 1, 2, 108.0), made("ibs", 2, 3, 10.5, symbol="B", entry=10.0), made("open", 1, 2, None)]
    returns, held = daily_returns(PANEL, place(PANEL, trades), DAYS[0], DAYS[5])
    assert held.tolist() == [0, 1, 2, 1, 0, 0]
    assert returns.tolist() == pytest.approx([0, 0.03, (108 / 103 - 1 + 0.0) / 2, 10.5 / 10 - 1, 0, 0])


def test_costs_are_paid_half_on_the_way_in_and_half_on_the_way_out() -> None:
    trades = [made("time", 1, 2, 108.0)]
    free, _ = daily_returns(PANEL, place(PANEL, trades), DAYS[0], DAYS[5])
    paid, _ = daily_returns(PANEL, place(PANEL, trades, cost=0.002), DAYS[0], DAYS[5])
    assert (free - paid).tolist() == pytest.approx([0, 0.001, 0.001, 0, 0, 0])
    one_day, _ = daily_returns(PANEL, place(PANEL, [made("stop", 1, 1, 95.0)], cost=0.002), DAYS[0], DAYS[5])
    assert one_day[1] == pytest.approx(-0.05 - 0.002)


def test_the_span_cuts_sessions_off() -> None:
    returns, held = daily_returns(PANEL, place(PANEL, [made("time", 1, 2, 108.0)]), DAYS[2], DAYS[3])
    assert held.tolist() == [1, 0] and returns[0] == pytest.approx(108 / 103 - 1)
    nothing, _ = daily_returns(PANEL, place(PANEL, []), DAYS[0], DAYS[5])
    assert nothing.tolist() == [0.0] * 6


def test_rows_are_the_symbols_own_where_it_skipped_a_session() -> None:
    short = columns([BARS[0], BARS[1], BARS[3]], [DAYS[0], DAYS[1], DAYS[3]])
    panel = Panel.from_bars({"A": short, "B": columns([(10, 11, 9, 10)] * 6, DAYS)})
    placed = place(panel, [made("time", 1, 2, 92.0)])
    returns, held = daily_returns(panel, placed, DAYS[0], DAYS[5])
    assert held.tolist() == [0, 1, 0, 1, 0, 0] and returns[3] == pytest.approx(92 / 103 - 1)


def test_the_days_of_a_trade_multiply_to_its_two_prices() -> None:
    params = load_strategy_params()
    series = {
        "A": [*oversold(rising(230, seed=1)), *rising(20, start=96.0, seed=3)],
        "B": [*swept(rising(230, step=0.05, seed=2)), *rising(20, start=60.0, seed=4)],
    }
    days = weekdays(250)
    panel = panel_of(series, days)
    trades = signal_trades(prepare(panel, params.common), params, days[0], days[-1])
    trades = trades.rows(trades.closed)
    assert len(trades) >= 2
    mae_r, mfe_r = excursions(panel, place_table(trades))
    assert (mae_r <= 0).all() and (mfe_r >= 0).all()
    for k in range(len(trades)):
        returns, _ = daily_returns(panel, place_table(trades.rows(np.array([k]))), days[0], days[-1])
        assert np.prod(1 + returns) == pytest.approx(trades.exit_price[k] / trades.entry_price[k], rel=1e-12)
