"""Folds, purge, embargo, choice and stitching; skfolio is the authority for the folds."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.settings_schema import Settings
from config.strategy_params import StrategyParams
from core.bars_io import from_day
from core.folds import Fold, choices_of, folds_that_fit, groups_of, paths, teaches, walk_folds
from core.panel import Panel
from portfolio.backtest.costs import CostModel
from portfolio.backtest.engine import Trades, next_free, possible_trades, signal_trades
from portfolio.backtest.output import signal_booked
from portfolio.backtest.walk_forward import (
    GROUPS,
    NO_SCORE,
    OBJECTIVES,
    ONE_SET,
    TESTED,
    TOO_FEW_TRADES,
    Plan,
    Unit,
    _scores,
    choices,
    choose,
    combined,
    evaluate,
    fold_of,
    stitched,
)
from portfolio.strategies.indicators import prepare, prepare_each
from tests.portfolio.backtest.drawn import drawn_panel, loose_params
from tests.portfolio.backtest.tables import Made, table

COSTS = CostModel.from_settings(Settings().costs)
PARAMS = loose_params()
SETS = [
    PARAMS,
    replace(PARAMS, ibs_rsi=replace(PARAMS.ibs_rsi, stop_atr=1.0)),
    replace(PARAMS, ibs_rsi=replace(PARAMS.ibs_rsi, time_stop_bars=3, stop_atr=4.0)),
    replace(PARAMS, turtle_soup=replace(PARAMS.turtle_soup, target_r=1.5)),
]


def a_plan(panel: Panel, folds: int = 5, train: int = 120, test: int = 40, embargo: int = 3) -> Plan:
    return Plan(walk_folds(panel.sessions.size, folds, train, test, embargo), embargo, "t_value")


def units_of(panel: Panel, plan: Plan, sets: list[StrategyParams]) -> list[Unit]:
    return [evaluate(prepare(panel, params.common), params, plan, COSTS) for params in sets]


def possible_of(units: list[Unit]) -> dict[int, Trades]:
    return {k: unit.trades for k, unit in enumerate(units)}


@pytest.fixture(scope="module")
def panel() -> Panel:
    return drawn_panel()


@pytest.fixture(scope="module")
def units(panel: Panel) -> list[Unit]:
    return units_of(panel, a_plan(panel), SETS)


# ---------------------------------------------------------------- folds, against skfolio
@pytest.mark.parametrize(("folds", "train", "test", "embargo"), [(4, 30, 7, 0), (3, 20, 10, 5), (1, 9, 4, 2)])
def test_walk_forward_folds_are_those_of_skfolio(folds: int, train: int, test: int, embargo: int) -> None:
    from skfolio.model_selection import WalkForward

    sessions = train + embargo + folds * test
    theirs = WalkForward(test_size=test, train_size=train, purged_size=embargo).split(np.zeros((sessions, 1)))
    ours = walk_folds(sessions, folds, train, test, embargo)
    assert [(list(a), list(b)) for a, b in theirs] == [
        (list(range(f.train_first, f.train_end)), list(range(f.test_first, f.test_end))) for f in ours
    ]


@pytest.mark.parametrize(
    ("sessions", "groups", "tested", "held", "embargo"), [(100, 10, 2, 4, 3), (97, 6, 3, 0, 2), (60, 5, 2, 3, 0)]
)
def test_combinatorial_purged_folds_are_those_of_skfolio(
    sessions: int, groups: int, tested: int, held: int, embargo: int
) -> None:
    """One trade a session, held so many sessions: purging by what is held is then purging so many sessions."""
    from skfolio.model_selection import CombinatorialPurgedCV

    cv = CombinatorialPurgedCV(n_folds=groups, n_test_folds=tested, purged_size=held, embargo_size=embargo)
    spans, splits = groups_of(sessions, groups), choices_of(groups, tested)
    start = np.arange(sessions)
    found = []
    for choice in splits:
        asked = [spans[g] for g in choice]
        keep = teaches(start, start + held, asked, [end - 1 + held for _, end in asked], embargo)
        found.append((np.flatnonzero(keep).tolist(), [list(range(*span)) for span in asked]))
    theirs = [(list(train), [list(t) for t in tests]) for train, tests in cv.split(np.zeros((sessions, 1)))]
    assert found == theirs
    path_of = cv.get_path_ids()
    ours = paths(splits, groups)
    assert all(ours[path_of[k, j], g] == k for k, choice in enumerate(splits) for j, g in enumerate(choice))
    assert ours.shape[0] == path_of.max() + 1


def test_folds_end_with_the_data_and_exactly_as_many_as_fit_are_possible() -> None:
    assert walk_folds(100, 2, 50, 10, 5) == (Fold(25, 75, 80, 90), Fold(35, 85, 90, 100))
    assert folds_that_fit(75, 50, 10, 5) == 2 and folds_that_fit(74, 50, 10, 5) == 1
    walk_folds(75, 2, 50, 10, 5)
    with pytest.raises(ValueError, match="do not fit"):
        walk_folds(74, 2, 50, 10, 5)
    with pytest.raises(ValueError, match="do not fit"):
        walk_folds(74, 0, 50, 10, 5)


# ---------------------------------------------------------------- purge and embargo
def test_a_trade_that_ends_on_the_session_before_the_test_teaches_and_one_a_session_later_does_not() -> None:
    start, end = np.array([10, 10, 10]), np.array([19, 20, 25])
    assert teaches(start, end, [(20, 30)], [29], 5).tolist() == [True, False, False]


def test_after_a_test_a_trade_teaches_once_the_embargo_behind_the_last_held_session_is_over() -> None:
    start = np.array([30, 36, 37, 38])
    assert teaches(start, start + 1, [(20, 30)], [32], 4).tolist() == [False, False, True, True]


def by_hand(panel: Panel, params: StrategyParams, fold: Fold) -> tuple[list[tuple[int, float]], int]:
    """(entry session, R after costs) of each training trade, and how many were purged: a plain loop over a backtest of
    the training span alone."""
    days = panel.sessions
    span = from_day(int(days[fold.train_first])), from_day(int(days[fold.train_end - 1]))
    booked = signal_booked(panel, signal_trades(prepare(panel, params.common), params, *span), COSTS)
    kept, purged = [], 0
    for i, trade in enumerate(booked.trades.as_objects()):
        if trade.exit_date is None or trade.exit_date >= from_day(int(days[fold.test_first])):
            purged += 1
            continue
        entry = int(np.searchsorted(days, (trade.entry_date - date(1970, 1, 1)).days))
        kept.append((entry, float(booked.r_multiple[i])))
    return kept, purged


def t_value(trades: list[tuple[int, float]]) -> float:
    mean = sum(r for _, r in trades) / len(trades)
    of_day: dict[int, float] = defaultdict(float)
    for day, r in trades:
        of_day[day] += r - mean
    n = len(of_day)
    return mean * len(trades) / math.sqrt(sum(x * x for x in of_day.values()) * n / (n - 1))


@pytest.mark.parametrize("embargo", [0, 3])
def test_every_fold_scores_the_training_trades_that_a_plain_loop_finds(panel: Panel, embargo: int) -> None:
    plan = a_plan(panel, embargo=embargo)
    all_purged = 0
    for params, unit in zip(SETS, units_of(panel, plan, SETS), strict=True):
        for k, fold in enumerate(plan.folds):
            kept, purged = by_hand(panel, params, fold)
            assert (unit.trained[k], unit.purged[k]) == (len(kept), purged)
            assert unit.scores[k] == pytest.approx(t_value(kept), rel=1e-9)
            all_purged += purged
    assert all_purged > 0  # the limit was met


# ---------------------------------------------------------------- no leak
@pytest.mark.parametrize("number", range(5))
def test_bars_of_a_test_span_never_change_what_was_chosen_for_it(panel: Panel, units: list[Unit], number: int) -> None:
    plan = a_plan(panel)
    before = choices(units, plan, range(len(SETS)), 0, 20)
    first = plan.folds[number].test_first
    rng = np.random.default_rng(number)
    after = panel.session_index >= first
    wild = {name: getattr(panel, name).copy() for name in ("open", "high", "low", "close", "volume")}
    factor = np.where(after, np.exp(rng.normal(0.0, 0.2, after.shape)), 1.0)
    for block in wild.values():
        block *= factor
    changed = replace(panel, **wild)
    moved = choices(units_of(changed, plan, SETS), plan, range(len(SETS)), 0, 20)
    assert moved[:number] == before[:number]
    chosen, again = before[number], moved[number]
    assert again == replace(chosen, purged=again.purged)  # to the last bit; an entry on the first test session may go
    assert number == 4 or moved[number + 1 :] != before[number + 1 :]  # later folds do learn from it


def test_each_fold_has_a_choice_of_its_own(panel: Panel, units: list[Unit]) -> None:
    picked = choices(units, a_plan(panel), range(len(SETS)), 0, 20)
    assert len({choice.number for choice in picked}) > 1 and not any(choice.code for choice in picked)
    for k, choice in enumerate(picked):
        assert choice.score == max(unit.scores[k] for unit in units)


# ---------------------------------------------------------------- stitching
@pytest.mark.parametrize(("folds", "test"), [(5, 40), (13, 15), (60, 3), *((1, n) for n in range(180, 200))])
def test_one_set_throughout_is_its_plain_backtest_over_the_test_spans(panel: Panel, folds: int, test: int) -> None:
    plan = a_plan(panel, folds, 120, test)
    [unit] = units_of(panel, plan, [PARAMS])
    span = from_day(int(panel.sessions[plan.test_first])), from_day(int(panel.sessions[plan.end - 1]))
    plain = signal_trades(prepare(panel, PARAMS.common), PARAMS, *span)
    ours = stitched(panel, {0: unit.trades}, plan, [0] * folds)
    assert repr(ours.as_objects()) == repr(plain.as_objects()) and len(ours) > 40


def test_a_position_that_a_fold_leaves_open_hides_the_next_folds_signals(panel: Panel) -> None:
    plan = Plan((Fold(0, 100, 100, 110), Fold(10, 110, 110, 120)), 0, "t_value")
    name = panel.symbols[0]
    first = table(panel, [Made(name, "ibs_rsi", 108, 114, 50, 45, 51, "time")])
    second = table(
        panel,
        [Made(name, "ibs_rsi", 113, 116, 50, 45, 51, "time"), Made(name, "ibs_rsi", 115, 117, 50, 45, 51, "time")],
    )
    found = stitched(panel, {0: first, 1: second}, plan, [0, 1])
    assert found.first.tolist() == [108, 115]  # the signal on 112 was hidden, the one on 114 came when it had left
    assert stitched(panel, {0: first, 1: second}, plan, [1, 1]).first.tolist() == [113]


def test_each_fold_takes_the_signals_of_its_own_sessions_only(panel: Panel) -> None:
    plan = Plan((Fold(0, 100, 100, 110), Fold(10, 110, 110, 120)), 0, "t_value")
    names, entries = panel.symbols[:4], (100, 110, 111, 121)  # signals on 99, 109, 110, 120
    made = [
        Made(name, "ibs_rsi", first, first + 2, 50, 45, 51, "time") for name, first in zip(names, entries, strict=True)
    ]
    whole, nothing = table(panel, made), table(panel, made).rows(np.zeros(4, dtype=np.bool_))
    assert stitched(panel, {0: whole, 1: nothing}, plan, [0, 1]).first.tolist() == [110]
    assert stitched(panel, {0: nothing, 1: whole}, plan, [0, 1]).first.tolist() == [111]


def test_sessions_belong_to_the_fold_in_whose_test_they_lie() -> None:
    plan = Plan((Fold(0, 100, 100, 110), Fold(10, 110, 110, 120)), 0, "t_value")
    assert fold_of(plan, np.array([100, 109, 110, 119, 125])).tolist() == [0, 0, 1, 1, 1]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(1, 9)), max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_next_signal_is_the_first_of_its_owner_that_is_not_hidden(rows: list[tuple[int, int, int]]) -> None:
    rows = sorted(set(rows))
    owner, signal, length = (np.array([row[k] for row in rows], dtype=np.intp) for k in range(3))
    found = next_free(owner, signal, signal + length)
    for i, (o, s, n) in enumerate(rows):
        later = [j for j, (p, t, _) in enumerate(rows) if p == o and t >= s + n]
        assert found[i] == (min(later) if later else len(rows))


# ---------------------------------------------------------------- the choice
NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "trained", "candidates", "frozen", "chosen"),
    [
        ([1.0, 3.0, 2.0], [50, 50, 50], [0, 1, 2], 0, (1, "")),
        ([1.0, 3.0, 2.0], [50, 49, 50], [0, 1, 2], 0, (2, "")),  # one trade too few
        ([3.0, 3.0, 3.0], [50, 50, 50], [0, 1, 2], 2, (2, "")),  # equal: the frozen set
        ([3.0, 3.0, 1.0], [50, 50, 50], [0, 1, 2], 2, (0, "")),  # equal: the first
        ([-3.0, -2.0, NAN], [50, 50, 50], [0, 1, 2], 0, (1, "")),
        ([1.0, 3.0, 9.0], [50, 50, 50], [0, 1], 2, (1, "")),  # the frozen set is not searched
        ([1.0, 3.0, 9.0], [49, 49, 50], [0, 1], 2, (2, TOO_FEW_TRADES)),
        ([NAN, 3.0, 9.0], [50, 49, 50], [0, 1], 2, (2, NO_SCORE)),
        ([NAN], [0], [0], 0, (0, ONE_SET)),
    ],
)
def test_the_best_score_of_enough_trades_is_chosen(
    scores: list[float], trained: list[int], candidates: list[int], frozen: int, chosen: tuple[int, str]
) -> None:
    assert choose(np.array(scores), np.array(trained), candidates, frozen, 50) == chosen


def test_too_few_training_trades_leave_the_frozen_set_and_say_so(panel: Panel, units: list[Unit]) -> None:
    plan = a_plan(panel)
    most = int(max(unit.trained.max() for unit in units))
    assert {c.code for c in choices(units, plan, range(1, 4), 0, most + 1)} == {TOO_FEW_TRADES}
    assert any(c.code == "" for c in choices(units, plan, range(4), 0, most))


def test_the_objectives_by_hand() -> None:
    part, entry = np.array([0, 0, 0, 1, 2, 2]), np.array([4, 4, 9, 4, 1, 2])
    r = np.array([1.0, 0.5, -0.5, 2.0, 1.0, 1.0])
    expectancy, factor, t = (_scores(name, part, entry, r, 4) for name in ("expectancy_r", "profit_factor", "t_value"))
    assert expectancy.tolist()[:3] == [pytest.approx(1 / 3), 2.0, 1.0] and np.isnan(expectancy[3])
    assert factor[0] == 3.0 and np.isnan(factor[1:]).all()  # without a loss there is none
    assert t[0] == pytest.approx(t_value([(4, 1.0), (4, 0.5), (9, -0.5)])) and np.isnan(t[1:]).all()
    assert set(OBJECTIVES) == {"t_value", "expectancy_r", "profit_factor"}
    with pytest.raises(ValueError, match="objective"):
        _scores("luck", part, entry, r, 4)


# ---------------------------------------------------------------- combinatorial folds
def test_combinatorial_folds_teach_what_a_plain_loop_finds(panel: Panel, units: list[Unit]) -> None:
    plan, unit = a_plan(panel), units[0]
    days = panel.sessions
    span = from_day(int(days[plan.first])), from_day(int(days[plan.end - 1]))
    booked = signal_booked(panel, signal_trades(prepare(panel, PARAMS.common), PARAMS, *span), COSTS)
    trades = booked.trades
    start = np.searchsorted(days, trades.signal_at)
    end = np.where(trades.closed, np.searchsorted(days, trades.exit_at), 10**6)
    spans = plan.groups()
    group = [next(k for k, (low, high) in enumerate(spans) if low <= s < high) for s in start]
    for k, choice in enumerate(choices_of(GROUPS, TESTED)):
        keep = []
        for i in range(len(trades)):
            clear = bool(trades.closed[i])
            for g in choice:
                reach = max(
                    [spans[g][1] - 1, *(min(int(e), plan.end - 1) for e, h in zip(end, group, strict=True) if h == g)]
                )
                clear = clear and (end[i] < spans[g][0] or start[i] > reach + plan.embargo)
            if clear:
                keep.append((int(np.searchsorted(days, trades.entry_at[i])), float(booked.r_multiple[i])))
        assert unit.split_trained[k] == len(keep)
        assert unit.split_scores[k] == pytest.approx(t_value(keep), rel=1e-9)
    assert unit.group_trades.sum() == trades.closed.sum()
    assert unit.group_r.sum() == pytest.approx(booked.r_multiple[trades.closed].sum())


def test_a_path_tests_every_group_once_and_one_set_makes_all_paths_alike(units: list[Unit]) -> None:
    found = combined(units[:1], [0], 0, 10)
    total = float(units[0].group_r.sum()) / int(units[0].group_trades.sum())
    assert found.splits == 45 and len(found.expectancy_r) == 9 and set(found.trades) == {units[0].group_trades.sum()}
    assert all(value == pytest.approx(total) for value in found.expectancy_r)
    lost = sum(units[0].group_r[list(c)].sum() < 0 for c in choices_of(GROUPS, TESTED))
    assert found.losing == lost and found.fallback == 0
    assert combined(units, [1, 2], 0, 10**6).fallback == 45


# ---------------------------------------------------------------- shared work
def test_indicators_shared_between_sets_are_those_of_each_alone(panel: Panel) -> None:
    commons = [PARAMS.common, replace(PARAMS.common, sma_bars=30), replace(PARAMS.common, rsi_bars=3, atr_bars=5)]
    shared = prepare_each(panel, commons)
    for one, common in zip(shared, commons, strict=True):
        alone = prepare(panel, common)
        assert one.common == common and np.array_equal(one.trending, alone.trending)
        assert np.array_equal(one.series.rsi, alone.series.rsi, equal_nan=True)
        assert np.array_equal(one.series.atr, alone.series.atr, equal_nan=True)
    assert shared[0].series.rsi is shared[1].series.rsi and shared[0].trending is not shared[1].trending


def test_a_market_without_a_signal_is_evaluated_to_nothing(panel: Panel) -> None:
    never = replace(PARAMS, common=replace(PARAMS.common, min_price_usd=1e9))
    plan = a_plan(panel)
    [unit] = units_of(panel, plan, [never])
    assert unit.trained.tolist() == [0] * 5 and np.isnan(unit.scores).all() and not unit.curve.any()
    assert len(stitched(panel, possible_of([unit]), plan, [0] * 5)) == 0
    assert (
        possible_trades(prepare(panel, never.common), never, date(1990, 1, 1), date(2100, 1, 1)).taken().closed.size
        == 0
    )
