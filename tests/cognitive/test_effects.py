"""The test behind the learnings: the right size on skewed, clustered noise, and the numbers a plain loop gives."""

from __future__ import annotations

import numpy as np
import pytest

from cognitive.effects import benjamini_hochberg, effects
from tests.fakes.minds import skewed


def test_means_and_counts_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    r, inside, scope = skewed(rng, 80), rng.random((80, 4)) < 0.4, rng.random((80, 4)) < 0.8
    clusters = np.sort(rng.integers(0, 30, 80))
    found = effects(r, inside, scope, clusters)
    for k in range(4):
        met = [x for x, i, s in zip(r, inside[:, k], scope[:, k], strict=True) if i and s]
        rest = [x for x, i, s in zip(r, inside[:, k], scope[:, k], strict=True) if s and not i]
        assert (int(found.n[k]), int(found.rest[k])) == (len(met), len(rest))
        assert found.mean_r[k] == pytest.approx(np.mean(met))
        assert found.effect_r[k] == pytest.approx(np.mean(met) - np.mean(rest))
        low, high = found.interval(k, 0.95)
        assert low < found.effect_r[k] < high


def test_one_trade_a_session_is_close_to_the_welch_test_of_scipy() -> None:
    from scipy import stats

    rng = np.random.default_rng(2)
    r, inside = rng.standard_normal(400), (np.arange(400) % 3 == 0)[:, None]
    r[inside[:, 0]] -= 0.2
    found = effects(r, inside, np.ones_like(inside), np.arange(400))
    welch = stats.ttest_ind(r[inside[:, 0]], r[~inside[:, 0]], equal_var=False, alternative="less")
    assert found.p[0] == pytest.approx(welch.pvalue, rel=0.3)


@pytest.mark.parametrize(("shared_sd", "share"), [(0.0, 0.25), (0.0, 0.1), (1.0, 0.25)])
def test_noise_is_called_harm_no_more_often_than_said(shared_sd: float, share: float) -> None:
    """400 made-up samples; days that share a shock, days that meet the condition as a whole, skewed results."""
    rng, p = np.random.default_rng(7), []
    for _ in range(400):
        day = np.repeat(np.arange(70), 2)
        r = skewed(rng, 140) + shared_sd * rng.standard_normal(70)[day]
        inside = (rng.random(70) < share)[day][:, None]
        if 20 <= inside.sum() <= 120 or share < 0.2:
            p.append(float(effects(r, inside, np.ones_like(inside), day).p[0]))
    for level in (0.05, 0.01):
        assert np.mean(np.array(p) <= level) <= level + 2.5 * np.sqrt(level * (1 - level) / len(p))
    assert np.mean(np.array(p) <= 0.5) >= 0.4, "and it is not merely timid"


def test_trades_of_one_day_are_not_so_many_pieces_of_evidence() -> None:
    rng = np.random.default_rng(4)
    day = np.repeat(np.arange(40), 10)
    r = rng.standard_normal(40)[day] + 0.1 * rng.standard_normal(400)
    inside = (np.arange(40) % 2 == 0)[day][:, None]
    clustered, naive = (effects(r, inside, np.ones_like(inside), c) for c in (day, np.arange(400)))
    assert clustered.deviation[0] > 2.5 * naive.deviation[0]


def test_nothing_inside_or_nothing_that_varies_proves_nothing() -> None:
    none, everybody = np.zeros((5, 1), np.bool_), np.ones((5, 1), np.bool_)
    assert effects(np.arange(5.0), none, everybody, np.arange(5)).p[0] == 1.0
    half = np.array([[True], [True], [False], [False], [False]])
    assert effects(np.ones(5), half, everybody, np.arange(5)).p[0] == 1.0
    with pytest.raises(ValueError, match="ascend"):
        effects(np.ones(5), half, everybody, np.arange(5)[::-1])


def test_benjamini_hochberg_is_scipys() -> None:
    from scipy import stats

    p = np.random.default_rng(5).random(60) ** 3
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
    assert benjamini_hochberg(np.zeros(0)).size == 0
