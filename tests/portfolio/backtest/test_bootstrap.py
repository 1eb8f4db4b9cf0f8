"""The stationary bootstrap: the block rule, what is drawn, and whether the intervals hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio.backtest.bootstrap import (
    Floats,
    Resampling,
    all_alike_interval,
    block_length,
    drawn_paths,
    drawn_rows,
    drawn_sums,
    percentile_interval,
)

# (seed, phi, n) of `autoregressive` → arch 8.0.0, arch.bootstrap.optimal_block_length(x)["stationary"]
ARCH = {
    (0, 0.3, 500): 4.783568550194212,
    (0, 0.7, 2520): 23.616335324994072,
    (1, 0.7, 60): 7.198978972902824,
    (1, -0.4, 500): 9.555506879529675,
    (2, 0.3, 2520): 9.96179275178759,
    (0, 0.95, 2520): 87.90444532765457,
    (5, 0.95, 60): 7.01913894233742,
    (0, 0.0, 500): 1.4298307961345358,
}


def autoregressive(seed: int, phi: float, n: int) -> Floats:
    noise = np.random.default_rng([seed, n]).normal(size=n)
    series = noise.copy()
    for t in range(1, n):
        series[t] = phi * series[t - 1] + noise[t]
    return series


@pytest.mark.parametrize(("seed", "phi", "n"), ARCH)
def test_the_block_length_is_that_of_politis_and_white(seed: int, phi: float, n: int) -> None:
    assert block_length(autoregressive(seed, phi, n)) == pytest.approx(ARCH[seed, phi, n], rel=1e-9)


def test_a_block_is_never_shorter_than_one_row() -> None:
    assert block_length(autoregressive(0, 0.0, 60)) == 1.0  # the rule alone says 0.97
    assert block_length(np.zeros(0)) == block_length(np.ones(500)) == block_length(np.arange(7.0)) == 1.0
    assert block_length(np.array([np.nan] * 50)) == 1.0


def test_a_given_block_is_kept() -> None:
    assert Resampling(block=7.0).block_for(autoregressive(0, 0.9, 500)) == 7.0


@pytest.mark.parametrize("wrong", [{"draws": 19}, {"level": 0.0}, {"level": 1.0}, {"block": 0.5}])
def test_a_resampling_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        Resampling(**wrong)  # type: ignore[arg-type]


# ---------------------------------------------------------------- what is drawn
@given(n=st.integers(1, 60), block=st.floats(1.0, 30.0), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_drawn_rows_follow_each_other_or_begin_a_new_block(n: int, block: float, seed: int) -> None:
    resampling = Resampling(draws=20, seed=seed)
    rows = np.concatenate(list(drawn_rows(n, block, resampling)))
    assert rows.shape == (20, n) and rows.min() >= 0 and rows.max() < n
    assert np.array_equal(rows, np.concatenate(list(drawn_rows(n, block, resampling))))


def test_blocks_have_the_mean_length_and_every_row_the_same_chance() -> None:
    n, block = 400, 8.0
    rows = np.concatenate(list(drawn_rows(n, block, Resampling(draws=2000))))
    follows = (rows[:, 1:] == (rows[:, :-1] + 1) % n).mean()
    # a row follows unless a block begins (1 in 8), and then it still may by chance (1 in n)
    assert follows == pytest.approx(1 - 1 / block + 1 / block / n, abs=0.002)
    assert np.bincount(rows.ravel(), minlength=n) == pytest.approx(2000, rel=0.25)


def test_the_chunks_give_what_one_piece_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(0).normal(size=(50, 3))
    whole = drawn_sums(columns, 1.0, Resampling(draws=40))
    rows = np.concatenate(list(drawn_rows(50, 1.0, Resampling(draws=40))))
    assert whole == pytest.approx(columns[rows].sum(axis=1), rel=1e-12)
    monkeypatch.setattr("portfolio.backtest.bootstrap._CHUNK", 500)
    assert np.array_equal(drawn_sums(columns, 1.0, Resampling(draws=40)), whole)
    assert len(list(drawn_rows(50, 1.0, Resampling(draws=40)))) == 4


# ---------------------------------------------------------------- intervals
def test_order_statistics_are_rounded_outwards_and_unbounded_draws_leave_a_side_open() -> None:
    hundred = np.arange(1.0, 101.0)
    found = percentile_interval(hundred, 1.0, Resampling(draws=100))
    assert (found.low, found.high) == (5.0, 96.0)
    many = np.where(hundred > 90, np.inf, hundred)
    assert percentile_interval(many, 1.0, Resampling(draws=100)).high is None
    untold = np.where(hundred > 90, np.nan, hundred)
    found = percentile_interval(untold, 1.0, Resampling(draws=100))
    assert found.low is None and found.high is None  # what cannot be told is not left out


def test_all_alike_is_the_exact_binomial_bound() -> None:
    lost, won = all_alike_interval(20, won=False, level=0.90), all_alike_interval(20, won=True, level=0.90)
    assert lost.low == 0.0 and lost.high == pytest.approx(0.13910834066826527)  # scipy: beta.ppf(0.95, 1, 20)
    assert won.high == 1.0 and won.low == pytest.approx(1 - 0.13910834066826527)
    assert all_alike_interval(1, won=True, level=0.90).low == pytest.approx(0.05)


@pytest.mark.parametrize(("phi", "least"), [(0.0, 0.85), (0.5, 0.75)])
def test_ninety_percent_intervals_hold_the_true_mean_about_nine_times_in_ten(phi: float, least: float) -> None:
    """Also under dependence, where drawing single rows would hold it far less often; it is then a little narrow."""
    inside, alone, rounds = 0, 0, 120
    for k in range(rounds):
        series = autoregressive(1000 + k, phi, 300)
        for block in (None, 1.0):
            resampling = Resampling(draws=200, block=block, seed=k)
            means = drawn_paths(series, lambda p: p.mean(axis=1)[:, None], resampling.block_for(series), resampling)
            found = percentile_interval(means[:, 0], 1.0, resampling)
            assert found.low is not None and found.high is not None
            holds = found.low <= 0.0 <= found.high
            inside, alone = inside + (holds and block is None), alone + (holds and block is not None)
    assert least <= inside / rounds <= 0.96
    assert phi == 0.0 or alone / rounds < inside / rounds - 0.10
