"""Beliefs: own trades first, others' as far as they are lacking, and intervals that hold as often as they say."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from cognitive.episodes import Episode, Standing
from cognitive.self_model import SelfModel
from config.settings_schema import SelfModelSettings
from tests.fakes.minds import an_episode, an_outcome

SETTINGS = SelfModelSettings()


def trades(results: list[float], strategy: str = "ibs_rsi", regime: str = "calm", first: int = 0) -> list[Episode]:
    return [
        an_episode(first + k, r=r, strategy=strategy, regime=regime, decision_id=f"{strategy}-{regime}-{first + k}")
        for k, r in enumerate(results)
    ]  # fmt: skip


def model(*groups: list[Episode]) -> SelfModel:
    return SelfModel.from_episodes([e for group in groups for e in group], SETTINGS)


def test_nothing_known_is_said_so_and_no_number_stands_in() -> None:
    found = model().belief("ibs_rsi", "calm")
    assert (found.n, found.wins, found.mean) == (0, 0, 0.5)
    assert found.low < 0.03 and found.high > 0.97
    assert (found.expectancy_r, found.expectancy_low, found.expectancy_high) == (None, None, None)


def test_one_trade_has_no_expectancy_and_two_have_one() -> None:
    assert model(trades([1.0])).belief("ibs_rsi", "calm").expectancy_r is None
    assert model(trades([1.0, 0.0])).belief("ibs_rsi", "calm").expectancy_r == pytest.approx(0.5)


def test_alone_the_posterior_is_the_textbooks() -> None:
    from scipy import stats

    found = model(trades([1.0] * 7 + [-1.0] * 13)).belief("ibs_rsi", "calm")
    assert (found.n, found.wins) == (20, 7)
    assert found.mean == pytest.approx(8 / 22)
    assert (found.low, found.high) == pytest.approx(stats.beta.ppf([0.025, 0.975], 8, 14), abs=1e-9)
    interval = stats.t.interval(0.95, 19, loc=-0.3, scale=stats.sem([1.0] * 7 + [-1.0] * 13))
    assert (found.expectancy_low, found.expectancy_high) == pytest.approx(interval, abs=1e-9)


def test_a_few_trades_lean_on_the_strategys_other_regimes_and_many_stand_alone() -> None:
    other = trades([1.0] * 80 + [-1.0] * 20, regime="stressed")
    few = model(other, trades([-1.0] * 4, first=200)).belief("ibs_rsi", "calm")
    many = model(other, trades([-1.0] * 400, first=200)).belief("ibs_rsi", "calm")
    assert few.mean == pytest.approx((20 * 81 / 102) / 24, rel=0.01) and few.expectancy_r == pytest.approx(
        (-4 + 20 * 0.6) / 24
    )
    assert many.mean < 0.05 and many.expectancy_r is not None and many.expectancy_r < -0.9


def test_the_other_strategies_count_less_than_ones_own_regimes() -> None:
    others = trades([1.0] * 90 + [-1.0] * 10, strategy="turtle_soup")
    own = trades([-1.0] * 40, regime="watch", first=300)
    assert model(others).belief("ibs_rsi", "calm").mean == pytest.approx(0.89, abs=0.02)
    assert model(others, own).belief("ibs_rsi", "calm").mean < 0.4


def test_what_is_not_closed_counts_for_nothing() -> None:
    held = replace(an_episode(5), standing=Standing.HELD)
    assert model([held, an_episode(6)], trades([1.0])).n == 1


def test_intervals_hold_as_often_as_they_say_when_regimes_are_alike() -> None:
    rng, hits, rates, runs = np.random.default_rng(3), 0, 0, 200
    for run in range(runs):
        results = np.where(rng.random(60) < 0.45, rng.gamma(1.6, 0.85, 60), -0.9)
        truth = 0.45 * 1.6 * 0.85 - 0.55 * 0.9
        regimes = [("calm", 0, 15), ("watch", 15, 40), ("stressed", 40, 60)]
        groups = [trades(results[a:b].tolist(), regime=name, first=run * 100 + a) for name, a, b in regimes]
        found = model(*groups).belief("ibs_rsi", "calm")
        assert found.expectancy_low is not None and found.expectancy_high is not None
        hits += found.expectancy_low <= truth <= found.expectancy_high
        rates += found.low <= 0.45 <= found.high
    assert 0.90 <= hits / runs <= 0.99 and 0.92 <= rates / runs <= 1.0


def test_calibration_is_of_confidences_that_came_to_an_outcome_the_newest_known_last() -> None:
    told = trades([1.0, -1.0, 1.0])
    told[0] = replace(told[0], confidence=0.9, outcome=an_outcome(told[2].decided_at + timedelta(days=9), 1.0))
    told.append(replace(an_episode(9), confidence=0.2))
    told.append(replace(trades([1.0], first=20)[0], confidence=None))
    found = model(told)
    assert (found.calibration().n, found.calibration("probability").n) == (3, 4)
    newest = found.calibration(newest=1)
    assert (newest.n, newest.forecast) == (1, 0.9)
    assert found.calibration(newest=50).n == 3


def test_cells_are_those_with_outcomes() -> None:
    assert model(trades([1.0]), trades([1.0], regime="watch", first=9)).cells() == (
        ("ibs_rsi", "calm"), ("ibs_rsi", "watch"),
    )  # fmt: skip
