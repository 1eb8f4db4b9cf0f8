"""Controls: what they keep, what they take away, and that an idea with nothing in it does not beat them."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from config.settings_schema import Costs
from config.strategy_params import load_strategy_params
from core.bars_io import BarColumns
from core.panel import Panel
from portfolio.backtest.bootstrap import Floats, Ints, Resampling
from portfolio.backtest.controls import (
    BUY_AND_HOLD,
    COMPARED,
    RANDOM_ENTRIES,
    RANDOM_WALKS,
    TRADE_NAMES,
    Control,
    buy_and_hold,
    compare,
    compare_all,
    costs_of,
    curve_control,
    exits_of,
    held_returns,
    random_entries,
    random_walks,
    rules_of,
    shuffled,
)
from portfolio.backtest.costs import CostModel
from portfolio.backtest.engine import Trades, signal_trades
from portfolio.backtest.marks import daily_returns, place_table
from portfolio.backtest.metrics import CURVE_NAMES, Figure, curve_figures, table_columns, trade_figures
from portfolio.backtest.output import signal_booked
from portfolio.strategies.indicators import Prepared, prepare
from tests.portfolio.market import columns, panel_of, weekdays

PARAMS = load_strategy_params()
FIRST = PARAMS.common.sma_bars - 1


def a_market(bounce: float = 0.0, seed: int = 0, n_symbols: int = 30, n_bars: int = 700) -> Panel:
    """Drawn daily bars with a drift; with `bounce`, three falling days are followed by a rise: something to find."""
    rng = np.random.default_rng(seed)
    move = rng.normal(0.001, 0.015, (n_bars, n_symbols))
    for t in range(3, n_bars):
        fell = (move[t - 3 : t] < 0).all(axis=0)
        move[t] += bounce * fell
    close = 50.0 * np.exp(np.cumsum(move, axis=0))
    opened = np.concatenate([close[:1], close[:-1]])
    reach = np.abs(rng.normal(0, 0.002, (2, n_bars, n_symbols)))
    reach[1] += 0.04 * (rng.random((n_bars, n_symbols)) < 0.05)  # now and then a low far below: for the turtle soup
    high, low = np.maximum(opened, close) * (1 + reach[0]), np.minimum(opened, close) * (1 - reach[1])
    days = np.array([(day - date(1970, 1, 1)).days for day in weekdays(n_bars)], dtype=np.int32)
    volume = rng.uniform(1e6, 2e6, (n_bars, n_symbols))
    return Panel.from_bars(
        {
            f"S{k:02d}": BarColumns(days, opened[:, k], high[:, k], low[:, k], close[:, k], volume[:, k])
            for k in range(n_symbols)
        }
    )


def backtest(panel: Panel) -> tuple[Prepared, Trades, date, date]:
    days = weekdays(len(panel.sessions))
    prepared = prepare(panel, PARAMS.common)
    return prepared, signal_trades(prepared, PARAMS, days[0], days[-1]), days[0], days[-1]


# ---------------------------------------------------------------- random entries
def test_random_entries_keep_count_symbols_and_strategies_and_draw_the_dates() -> None:
    prepared, trades, start, end = backtest(a_market())
    asked: list[tuple[str, Ints, Ints, Trades]] = []
    exits = exits_of(prepared, PARAMS)

    def follow(strategy: str, rows: Ints, columns: Ints) -> Trades:
        asked.append((strategy, rows, columns, exits(strategy, rows, columns)))
        return asked[-1][3]

    found = random_entries(prepared.panel, trades, follow, start, end, first_row=FIRST, rounds=1)
    closed = trades.rows(trades.closed)
    assert found.notes == () and found.figures["win_rate"].n == len(closed)
    for k, name in enumerate(trades.strategies):
        own = [made.rows(made.closed) for strategy, _, _, made in asked if strategy == name]
        drawn = np.concatenate([made.column for made in own])
        assert np.array_equal(np.sort(drawn), np.sort(closed.column[closed.strategy == k]))
        rows = np.concatenate([made.signal for made in own])
        assert rows.min() >= FIRST and set(rows.tolist()) != set(closed.signal[closed.strategy == k].tolist())
        assert np.ptp(rows) > 300  # all over the span


def test_a_drawn_entry_leaves_by_the_rules_of_its_strategy() -> None:
    """The follow-up of a bar that is a signal is the trade the backtest made of it."""
    prepared, trades, _, _ = backtest(a_market())
    exits = exits_of(prepared, PARAMS)
    for k, name in enumerate(trades.strategies):
        own = trades.rows(trades.strategy == k)
        again = exits(name, own.signal, own.column)
        for column in ("column", "signal", "first", "leave", "entry_price", "stop", "exit_price", "reason", "held"):
            assert np.array_equal(getattr(again, column), getattr(own, column), equal_nan=True), column


def test_entries_that_cannot_be_placed_are_noted() -> None:
    prepared, trades, start, _ = backtest(a_market(n_symbols=5))
    early = weekdays(FIRST)[-1]  # the span ends before the first full window
    found = random_entries(prepared.panel, trades, exits_of(prepared, PARAMS), start, early, first_row=FIRST, rounds=2)
    closed = int(trades.closed.sum())
    assert found.notes == (f"{2 * closed} of {2 * closed} entries could not be placed",)
    assert found.figures["win_rate"].value is None


def test_entries_that_are_refused_or_stay_open_are_drawn_again() -> None:
    prepared, trades, start, end = backtest(a_market(n_symbols=8))
    exits, calls = exits_of(prepared, PARAMS), [0]

    def reluctant(strategy: str, rows: Ints, columns: Ints) -> Trades:
        calls[0] += 1
        made = exits(strategy, rows, columns)
        return made.rows(np.arange(len(made)) % 2 == 0)  # every second one is not entered

    found = random_entries(prepared.panel, trades, reluctant, start, end, first_row=FIRST, rounds=1)
    assert found.figures["win_rate"].n == int(trades.closed.sum()) and found.notes == () and calls[0] > 2


def test_a_control_pays_the_same_costs() -> None:
    prepared, trades, start, end = backtest(a_market(n_symbols=8))
    follow = exits_of(prepared, PARAMS)
    free = random_entries(prepared.panel, trades, follow, start, end, first_row=FIRST, rounds=3)

    def cost(_: Panel, made: Trades) -> Floats:
        return np.full(len(made), 0.002)

    paid = random_entries(prepared.panel, trades, follow, start, end, first_row=FIRST, rounds=3, cost=cost)
    assert paid.drawn["mean_return"] == pytest.approx(free.drawn["mean_return"] - 0.002)
    assert (paid.drawn["sharpe"] < free.drawn["sharpe"]).all()


def test_costs_of_the_settings_are_those_the_backtest_books() -> None:
    prepared, trades, _, _ = backtest(a_market(n_symbols=8))
    model = CostModel.from_settings(Costs())
    ended = trades.rows(trades.closed)
    paid = costs_of(model)(prepared.panel, ended)
    assert np.array_equal(paid, signal_booked(prepared.panel, trades, model).cost_fraction[trades.closed])
    assert (paid > 0.001).all()  # twice 5 bps of slippage at least


# ---------------------------------------------------------------- random walks
def test_a_shuffled_market_keeps_drift_volatility_and_the_shape_of_bars() -> None:
    panel = a_market()
    walk, bad = shuffled(panel, np.random.default_rng(1))
    assert bad == () and walk.symbols == panel.symbols and np.array_equal(walk.session_index, panel.session_index)
    assert np.allclose(walk.close[[0, -1]], panel.close[[0, -1]], rtol=1e-9)
    for one in ("high", "low", "close"):
        ratios = [np.sort(getattr(p, one) / p.open, axis=0) for p in (panel, walk)]
        assert np.allclose(*ratios, rtol=1e-12, atol=0)
    daily = [np.sort(np.diff(np.log(p.close), axis=0), axis=0) for p in (panel, walk)]
    assert np.allclose(*daily, rtol=0, atol=1e-9)
    assert (walk.high >= np.maximum(walk.open, walk.close) * (1 - 1e-12)).all()
    assert (walk.low <= np.minimum(walk.open, walk.close) * (1 + 1e-12)).all()
    assert np.array_equal(np.sort(walk.volume, axis=0), np.sort(panel.volume, axis=0))
    assert not np.allclose(walk.close[300], panel.close[300])


def test_symbols_with_the_same_history_stay_together() -> None:
    panel = a_market(n_symbols=2)
    alike = replace(panel, **{f: getattr(panel, f)[:, [0, 0]] for f in ("open", "high", "low", "close", "volume")})
    walk, _ = shuffled(alike, np.random.default_rng(2))
    assert np.array_equal(walk.close[:, 0], walk.close[:, 1])


def test_what_followed_no_longer_follows_unless_blocks_are_kept() -> None:
    """The bounce after three falling days: there in the market, gone in the walk, half there in long blocks."""

    def after_a_fall(panel: Panel) -> float:
        move = np.diff(np.log(panel.close), axis=0)
        fell = (move[:-3] < 0) & (move[1:-2] < 0) & (move[2:-1] < 0)
        return float(move[3:][fell].mean() - move.mean())

    panel = a_market(bounce=0.02)
    walks = {block: shuffled(panel, np.random.default_rng(3), block)[0] for block in (1, 20)}
    assert after_a_fall(panel) > 0.015 and after_a_fall(walks[20]) > 0.010
    assert abs(after_a_fall(walks[1])) < 0.002


def test_flat_bars_stay_flat_and_ended_symbols_stay_ended() -> None:
    days = weekdays(30)
    flat = [(10.0 + k, 10.0 + k, 10.0 + k, 10.0 + k) for k in range(30)]
    short = columns([(5.0, 6.0, 4.0, 5.5)] * 12, days[:12])
    panel = Panel.from_bars({"FLAT": columns(flat, days), "SHORT": short})
    walk, _ = shuffled(panel, np.random.default_rng(4))
    assert np.array_equal(walk.high[:, 0], walk.low[:, 0]) and np.array_equal(walk.open[:, 0], walk.close[:, 0])
    assert np.isnan(walk.close[12:, 1]).all() and np.isfinite(walk.close[:12, 1]).all()


def test_prices_without_a_ratio_are_left_out_and_said() -> None:
    days = weekdays(260)
    good, bad = [(5.0, 6.0, 4.0, 5.5)] * 260, [(5.0, 6.0, 0.0, 5.5)] * 260
    panel = panel_of({"GOOD": good, "ZERO": bad}, days)
    walk, left_out = shuffled(panel, np.random.default_rng(5))
    assert walk.symbols == ("GOOD",) and left_out == ("ZERO",)
    found = random_walks(panel, rules_of(PARAMS, days[0], days[-1]), days[0], days[-1], rounds=1)
    assert "1 symbols" in found.notes[0] and found.figures["win_rate"].value is None
    only, _ = shuffled(panel.select(["ZERO"]), np.random.default_rng(5))
    assert only.symbols == ()


# ---------------------------------------------------------------- holding
def test_holding_by_hand() -> None:
    days = weekdays(4)
    panel = Panel.from_bars(
        {
            "A": columns([(10, 11, 9, 11), (11, 12, 10, 12), (12, 13, 11, 12), (12, 15, 11, 15)], days),
            "GAP": columns([(20, 20, 20, 20), (20, 22, 20, 22), (22, 24, 20, 24)], [days[0], days[1], days[3]]),
            "ENDS": columns([(5, 6, 5, 6), (6, 6, 3, 3)], days[:2]),
            "LATE": columns([(7, 7, 7, 7), (70, 70, 70, 70)], days[2:]),
        }
    )
    wealth = [
        (1.1 + 1.0 + 1.2) / 3, (1.2 + 1.1 + 0.6) / 3, (1.2 + 1.1 + 0.6) / 3, (1.5 + 1.2 + 0.6) / 3,
    ]  # fmt: skip
    returns, names = held_returns(panel, days[0], days[3])
    assert names == 3 and np.cumprod(1 + returns).tolist() == pytest.approx(wealth)
    found = buy_and_hold(panel, days[0], days[3], Resampling(draws=20))
    assert found.name == BUY_AND_HOLD and "3 symbols held; 1 that did not trade" in found.notes[0]
    later, names = held_returns(panel, days[2], days[3])
    assert names == 2 and later[1] == pytest.approx((15 / 12 + 10) / (12 / 12 + 1) - 1)
    assert held_returns(panel, date(2000, 1, 1), date(2000, 2, 1))[0].size == 0


def test_a_curve_such_as_spy_is_a_control_too() -> None:
    returns = np.random.default_rng(0).normal(0.0004, 0.01, 300)
    found = curve_control("spy", returns, Resampling(draws=20))
    assert found.rounds == 1 and set(CURVE_NAMES) <= set(found.figures) and found.figures["sharpe"].n == 300
    assert compare(found, "sharpe", Figure(9.0, 300, "sessions"), 0.05).beaten
    assert not compare(found, "sharpe", Figure(-9.0, 300, "sessions"), 0.05).beaten


# ---------------------------------------------------------------- side by side
def all_controls(panel: Panel) -> tuple[dict[str, Figure], list[Control]]:
    prepared, trades, start, end = backtest(panel)
    placed = place_table(trades)
    returns, _ = daily_returns(prepared.panel, placed, start, end)
    ours = {**trade_figures(table_columns(trades), Resampling(draws=20))[0].figures}
    ours |= curve_figures(returns, Resampling(draws=20))
    return ours, [
        random_entries(
            prepared.panel, trades, exits_of(prepared, PARAMS), start, end, first_row=FIRST, rounds=39, seed=5
        ),
        random_walks(prepared.panel, rules_of(PARAMS, start, end), start, end, rounds=19, seed=5),
        buy_and_hold(prepared.panel, start, end, Resampling(draws=20)),
    ]


def test_they_can_be_tabled_side_by_side_and_the_same_seed_gives_the_same_bytes() -> None:
    ours, found = all_controls(a_market(n_symbols=10))
    again = all_controls(a_market(n_symbols=10))[1]
    assert [control.name for control in found] == [RANDOM_ENTRIES, RANDOM_WALKS, BUY_AND_HOLD]
    for control, same in zip(found, again, strict=True):
        assert set(CURVE_NAMES) <= set(control.figures) & set(ours)
        assert control.figures == same.figures
        assert all(np.array_equal(control.drawn[k], same.drawn[k], equal_nan=True) for k in control.drawn)
    assert set(TRADE_NAMES) <= set(found[0].figures) & set(found[1].figures) & set(ours)
    assert "trades in each of 19 rounds" in found[1].figures["win_rate"].text()


def test_a_market_with_something_to_find_beats_them_and_one_without_does_not() -> None:
    ours, found = all_controls(a_market(bounce=0.02, seed=1))
    assert [c.beaten for c in compare_all(found[:2], ours, 0.05)] == [True, True]
    p_values = []
    for seed in (20, 21, 22):
        ours, found = all_controls(a_market(seed=seed, n_symbols=15))
        p_values += [comparison.p_value or 0.0 for comparison in compare_all(found[:2], ours, 0.05)]
    assert min(p_values) > 0.05 and 0.2 < float(np.mean(p_values)) < 0.8


def test_each_control_has_a_deciding_figure_and_one_that_is_missing_is_not_beaten() -> None:
    ours, found = all_controls(a_market(n_symbols=5))
    compared = compare_all(found, ours, 0.05)
    assert [(c.control, c.figure) for c in compared] == list(COMPARED.items())
    in_dollars = {name: figure for name, figure in ours.items() if name != "mean_return"}
    lost = compare_all(found, in_dollars, 0.05)
    assert [c.reason for c in lost[:2]] == ["NOT_MEASURED"] * 2 and not lost[0].beaten
