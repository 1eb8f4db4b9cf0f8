"""Signals: rules, exactness, look-ahead."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from config.strategy_params import load_strategy_params
from core.domain import ExitReason
from core.panel import Panel
from portfolio.strategies import all_signals, exit_flags_at, session_date, session_number, setups_between, signals_at
from portfolio.strategies import indicators as ind
from tests.portfolio.market import columns, oversold, panel_of, rising, swept, weekdays

PARAMS = load_strategy_params()
DAYS = weekdays(260)
ALWAYS = (date(1990, 1, 1), date(2100, 1, 1))


def random_panel(seed: int, n_symbols: int = 12, n_bars: int = 420) -> Panel:
    """Ragged random walks with wide swings, gaps in the calendar, flat bars and late listings."""
    rng = np.random.default_rng(seed)
    days = weekdays(n_bars)
    bars = {}
    for s in range(n_symbols):
        keep = np.sort(rng.choice(n_bars, size=n_bars - int(rng.integers(0, 60)), replace=False))
        close = 40 * np.exp(np.cumsum(rng.normal(0.002, 0.03, keep.size)))
        opened = close * np.exp(rng.normal(0, 0.01, keep.size))
        high = np.maximum(opened, close) * (1 + np.abs(rng.normal(0, 0.004, keep.size)))
        low = np.minimum(opened, close) * (1 - np.abs(rng.normal(0, 0.004, keep.size)))
        rows = [tuple(float(v) for v in row) for row in zip(opened, high, low, close, strict=True)]
        for flat in rng.choice(keep.size, 5, replace=False):
            rows[flat] = (rows[flat][3],) * 4
        bars[f"S{s}"] = columns(rows, [days[i] for i in keep])  # type: ignore[arg-type]
    return Panel.from_bars(bars)


def test_each_setup_is_found_by_its_strategy_and_no_other() -> None:
    panel = panel_of(
        {"IBS": oversold(rising(260, seed=1)), "SOUP": swept(rising(260, step=0.05, seed=2)), "CALM": rising(260)}, DAYS
    )
    signals = signals_at(panel, DAYS[-1], PARAMS)
    assert [(s.symbol, s.strategy) for s in signals] == [("IBS", "ibs_rsi"), ("SOUP", "turtle_soup")]
    first, second = signals
    assert first.target_r is None and first.time_stop_bars == 7
    assert first.stop == first.close - 2.0 * first.numbers["atr"]
    assert second.target_r == 0.5 and second.time_stop_bars == 3
    assert second.strength == min(second.numbers["sweep_atr"] / 2.0, 1.0)


@pytest.mark.parametrize("seed", range(4))
def test_the_live_scan_and_the_backtest_find_the_same_bits(seed: int) -> None:
    panel = random_panel(seed)
    by_session: dict[date, list[object]] = {}
    for signal in all_signals(panel, PARAMS, *ALWAYS):
        by_session.setdefault(signal.session, []).append(signal)
    assert sum(map(len, by_session.values())) > 3
    for day in map(session_date, panel.sessions[190::3].tolist()):
        assert signals_at(panel, day, PARAMS) == by_session.get(day, [])


@pytest.mark.parametrize("seed", range(3))
def test_cutting_the_future_off_changes_nothing(seed: int) -> None:
    panel = random_panel(seed)
    whole = all_signals(panel, PARAMS, *ALWAYS)
    for day in map(session_date, panel.sessions[220::37].tolist()):
        cut = panel.truncated(day)
        assert all_signals(cut, PARAMS, *ALWAYS) == [s for s in whole if s.session <= day]
        assert signals_at(cut, day, PARAMS) == signals_at(panel, day, PARAMS)
        assert exit_flags_at(cut, day, PARAMS) == exit_flags_at(panel, day, PARAMS)


def test_another_symbol_in_the_panel_changes_nothing() -> None:
    whole = random_panel(5)
    alone = whole.select(whole.symbols[:1])
    mine = [s for s in all_signals(whole, PARAMS, *ALWAYS) if s.symbol == whole.symbols[0]]
    assert all_signals(alone, PARAMS, *ALWAYS) == mine


def test_a_symbol_without_a_bar_that_session_has_no_signal() -> None:
    late = panel_of({"IBS": oversold(rising(260, seed=1)), "CALM": rising(260)}, DAYS)
    assert signals_at(late, DAYS[-2], PARAMS) == []
    assert signals_at(late, DAYS[-1].replace(year=2030), PARAMS) == []
    assert signals_at(late, date(2001, 1, 1), PARAMS) == []


def test_199_bars_are_too_few_and_200_are_enough() -> None:
    series = oversold(rising(260, seed=1))
    assert signals_at(panel_of({"A": series[-199:]}, DAYS), DAYS[-1], PARAMS) == []
    assert len(signals_at(panel_of({"A": series[-200:]}, DAYS), DAYS[-1], PARAMS)) == 1


def test_a_bar_with_a_missing_price_is_a_session_not_traded() -> None:
    series = oversold(rising(260, seed=1))
    holed = [(math.nan,) * 4 if i == 100 else bar for i, bar in enumerate(series)]
    gone = [bar for i, bar in enumerate(series) if i != 100]
    days = [day for i, day in enumerate(DAYS) if i != 100]
    keeper = columns(rising(260), DAYS)
    with_hole = Panel.from_bars({"A": columns(holed, DAYS), "B": keeper})  # type: ignore[arg-type]
    without = Panel.from_bars({"A": columns(gone, days), "B": keeper})
    assert signals_at(with_hole, DAYS[-1], PARAMS) == signals_at(without, DAYS[-1], PARAMS) != []
    last = [*series[:-1], (math.nan,) * 4]
    dead = Panel.from_bars({"A": columns(last, DAYS), "B": keeper})  # type: ignore[arg-type]
    assert signals_at(dead, DAYS[-1], PARAMS) == []


def test_a_close_equal_to_its_average_is_not_above_it() -> None:
    close = np.full((230, 2), 31.07)
    close[229, 1] = np.nextafter(31.07 * 1.0, 40.0)
    exact = [math.fsum(close[30:230, j]) / 200 for j in range(2)]
    assert ind.above_average(close, 200)[229].tolist() == [close[229, 0] > exact[0], True]


@pytest.mark.parametrize("scale", [1.0, 1e9, -1.0])
@pytest.mark.parametrize("window", [3, 200])
def test_the_running_average_decides_like_the_exact_one(scale: float, window: int) -> None:
    rng = np.random.default_rng(3)
    close = np.abs(rng.normal(20, 0.001, (600, 5))).round(4)  # four decimals: many ties and near ties
    close[:150] *= scale  # a reverse split, adjusted backwards: the running sum is dominated by what left the window
    close[470:, 2] = np.nan  # ends inside a block
    wanted = np.zeros(close.shape, dtype=np.bool_)
    for t in range(window - 1, 600):
        for j in range(5):
            wanted[t, j] = close[t, j] > math.fsum(close[t - window + 1 : t + 1, j]) / window
    assert (ind.above_average(close, window) == wanted).all()
    assert (ind.above_average(close, window, at_least=20.0) == (wanted & (close >= 20.0))).all()


@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e12])
def test_many_exact_sums_are_those_of_fsum(spread: float) -> None:
    rng = np.random.default_rng(11)
    close = rng.normal(20, spread, (400, 3)) * 10.0 ** rng.integers(-3, 4, (400, 3))
    close[:, 1] = 0.1  # a sum that is a tie away from two floats
    close[:, 2] = 0.0
    close[200:203, 2] = 2.0**53, 1.0, 2.0**-60  # a hair above halfway: the errors of the errors decide
    rows, cols = (a.ravel() for a in np.meshgrid(np.arange(400), np.arange(3), indexing="ij"))
    found = ind.sma_exact(close, rows, cols, 200)
    for i in range(rows.size):
        if rows[i] < 199:
            assert math.isnan(found[i])
        else:
            assert found[i] == math.fsum(close[rows[i] - 199 : rows[i] + 1, cols[i]]) / 200


@pytest.mark.parametrize("values", [1, 40, 10_000])
def test_the_size_of_a_block_changes_no_bit(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = random_panel(6)
    wanted, series = all_signals(panel, PARAMS, *ALWAYS), ind.compute_indicators(panel, PARAMS.common)
    monkeypatch.setattr(ind, "_BLOCK_VALUES", values)
    again = ind.compute_indicators(panel, PARAMS.common)
    assert np.array_equal(again.rsi, series.rsi, equal_nan=True)
    assert np.array_equal(again.atr, series.atr, equal_nan=True)
    assert all_signals(panel, PARAMS, *ALWAYS) == wanted


def test_the_true_range_of_a_bar_that_contradicts_itself_is_by_the_book() -> None:
    rng = np.random.default_rng(2)
    low, high, close = (rng.normal(20, 2, (40, 4)) for _ in range(3))  # high below low in half of them
    book = np.zeros(close.shape)
    before = close[:-1]
    book[1:] = np.maximum(high[1:] - low[1:], np.maximum(np.abs(high[1:] - before), np.abs(low[1:] - before)))
    assert np.array_equal(ind.wilder_atr(high, low, close, 14), ind.wilder(book, 14), equal_nan=True)


def test_parameters_of_other_windows_need_another_preparation() -> None:
    prepared = ind.prepare(random_panel(1), PARAMS.common)
    other = replace(PARAMS, common=replace(PARAMS.common, sma_bars=100))
    with pytest.raises(ValueError, match="prepare"):
        setups_between(prepared, other, *ALWAYS)


def test_rolling_minimum_matches_the_plain_window() -> None:
    low = np.random.default_rng(0).normal(size=(70, 3))
    for window in (1, 2, 3, 16, 20, 21):
        quick = ind.rolling_min_before(low, window)
        assert np.isnan(quick[:window]).all()
        for t in range(window, 70):
            assert (quick[t] == low[t - window : t].min(axis=0)).all()


def test_prior_low_counts_from_its_latest_occurrence() -> None:
    low = np.full((21, 1), 10.0)
    low[[3, 15], 0] = 7.0
    lowest, age = ind.prior_low(low, np.array([20, 19]), np.array([0, 0]), 20)
    assert (lowest[0], age[0]) == (7.0, 5.0)
    assert math.isnan(lowest[1])


def test_undefined_is_nan_never_a_number() -> None:
    flat = np.full((30, 1), 20.0)
    assert np.isnan(ind.wilder_rsi(flat, 2)).all()
    assert np.isnan(ind.internal_bar_strength(flat, flat, flat)).all()
    assert np.isnan(ind.wilder_atr(flat, flat, flat, 14)[:14]).all()
    assert (ind.wilder_atr(flat, flat, flat, 14)[14:] == 0).all()


def test_exit_flags_name_the_indicator_ibs_first() -> None:
    base = rising(259, seed=4)
    up = base[-1][3]
    both = [*base, (up, up + 9.0, up, up + 9.0)]
    only_rsi = [*base, (up, up + 18.0, up, up + 9.0)]
    neither = [*base, (up, up, up - 9.0, up - 9.0)]
    panel = panel_of({"BOTH": both, "RSI": only_rsi, "NO": neither}, DAYS)
    assert exit_flags_at(panel, DAYS[-1], PARAMS) == {"BOTH": ExitReason.IBS, "RSI": ExitReason.RSI}


def test_a_symbol_that_did_not_trade_keeps_the_word_of_its_last_bar() -> None:
    base = rising(258, seed=4)
    up = base[-1][3]
    halted = columns([*base, (up, up + 9.0, up, up + 9.0)], DAYS[:-1])
    panel = Panel.from_bars({"HALTED": halted, "CLOCK": columns(rising(260), DAYS)})
    assert exit_flags_at(panel, DAYS[-1], PARAMS)["HALTED"] == exit_flags_at(panel, DAYS[-2], PARAMS)["HALTED"] == "ibs"  # type: ignore[index]


def test_a_stop_below_zero_makes_no_signal() -> None:
    wide = replace(PARAMS, ibs_rsi=replace(PARAMS.ibs_rsi, stop_atr=1000.0))
    panel = panel_of({"A": oversold(rising(260, seed=1))}, DAYS)
    assert signals_at(panel, DAYS[-1], wide) == all_signals(panel, wide, *ALWAYS) == []


def test_session_numbers_go_both_ways() -> None:
    assert session_date(session_number(date(2024, 2, 29))) == date(2024, 2, 29)
