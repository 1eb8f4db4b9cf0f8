"""PSR, DSR, track record and power against the worked examples of their papers and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from portfolio.backtest.deflated import (
    Moments,
    TrialSummary,
    deflate,
    deflated_sharpe,
    expected_maximum_sharpe,
    minimum_track_record,
    moments,
    needed_sharpe,
    normal_cdf,
    power,
    probabilistic_sharpe,
)

YEAR_250 = math.sqrt(250)


# ---------------------------------------------------------------- published examples
def test_psr_of_the_hedge_fund_in_the_paper() -> None:
    """Bailey and López de Prado (2012): 24 months, monthly Sharpe 0.458, skew -2.448, kurtosis 10.164.

    As if normal the probability of skill is 0.982, with its moments 0.913.
    """
    assert probabilistic_sharpe(0.458, 0.0, 24) == pytest.approx(0.982, abs=5e-4)
    assert probabilistic_sharpe(0.458, 0.0, 24, -2.448, 10.164) == pytest.approx(0.913, abs=5e-4)


@pytest.mark.parametrize(
    ("per_year", "skew", "kurtosis", "years"),
    [(252, 0.0, 3.0, 2.73), (52, 0.0, 3.0, 2.83), (12, 0.0, 3.0, 3.24), (12, -0.72, 5.78, 4.99)],
)
def test_minimum_track_record_of_the_paper(per_year: int, skew: float, kurtosis: float, years: float) -> None:
    """Bailey and López de Prado (2012), figures 8 to 11: an annual Sharpe of 2 to be above 1 with 95 %."""
    root = math.sqrt(per_year)
    found = minimum_track_record(2 / root, 1 / root, skew, kurtosis)
    assert found is not None and found / per_year == pytest.approx(years, abs=5e-3)


@pytest.mark.parametrize(
    ("trials", "skew", "kurtosis", "dsr"), [(100, -3.0, 10.0, 0.9004), (46, -3.0, 10.0, 0.9505), (88, 0.0, 3.0, 0.9505)]
)
def test_dsr_of_the_paper(trials: int, skew: float, kurtosis: float, dsr: float) -> None:
    """Bailey and López de Prado (2014), the numerical example: annual Sharpe 2.5 over 1,250 days of 250 a year,

    the variance of the trials' annual Sharpes being 1/2. With 46 trials, or 88 and normal returns, it would pass.
    """
    assert deflated_sharpe(
        2.5 / YEAR_250, 1250, skew, kurtosis, trials=trials, trial_variance=0.5 / 250
    ) == pytest.approx(dsr, abs=5e-5)


def test_the_benchmark_of_the_paper() -> None:
    assert expected_maximum_sharpe(0.5 / 250, 100) == pytest.approx(0.1132, abs=5e-5)


# ---------------------------------------------------------------- moments and limits
def test_moments_are_the_stated_estimators() -> None:
    stats = pytest.importorskip("scipy.stats")
    returns = np.random.default_rng(0).standard_t(4, 500) * 0.01
    found = moments(returns)
    assert found.sharpe == pytest.approx(returns.mean() / returns.std(ddof=1), rel=1e-12)
    assert found.skew == pytest.approx(stats.skew(returns), rel=1e-12)
    assert found.kurtosis == pytest.approx(stats.kurtosis(returns, fisher=False), rel=1e-12)


@pytest.mark.parametrize(
    ("returns", "reason"),
    [([], "NO_SESSIONS"), ([0.1], "ONE_SESSION"), ([0.1] * 5, "NO_VARIATION"), ([0.0] * 5, "NO_VARIATION")],
)
def test_moments_that_cannot_be_told(returns: list[float], reason: str) -> None:
    found = moments(np.array(returns))
    assert (found.n, found.sharpe, found.reason) == (len(returns), None, reason)
    assert deflate(found, TrialSummary(3)).dsr is None and deflate(found, TrialSummary(3)).reason == reason


def test_the_normal_distribution_keeps_its_digits_in_the_tail() -> None:
    assert normal_cdf(-10.0) == pytest.approx(7.61985302416e-24, rel=1e-9)


def test_moments_that_no_sample_has_are_refused() -> None:
    with pytest.raises(ValueError, match="no sample"):
        probabilistic_sharpe(0.5, 0.0, 100, skew=5.0, kurtosis=3.0)


def test_one_trial_expects_no_luck_and_more_trials_more() -> None:
    assert expected_maximum_sharpe(1.0, 1) == 0.0
    found = [expected_maximum_sharpe(1.0, n) for n in (2, 5, 50, 1000)]
    assert found == sorted(found) and found[0] > 0


@pytest.mark.parametrize("trials", [5, 50, 500])
def test_the_expected_maximum_is_that_of_drawn_normals(trials: int) -> None:
    """The formula is an approximation for many trials: within 3 %, for five within 10 %."""
    drawn = np.random.default_rng(1).normal(size=(4000, trials)).max(axis=1).mean()
    assert expected_maximum_sharpe(1.0, trials) == pytest.approx(drawn, rel=0.10 if trials == 5 else 0.03)


def test_a_track_record_never_proves_what_was_not_seen() -> None:
    assert minimum_track_record(0.1, 0.1) is None and minimum_track_record(0.05, 0.1) is None


def test_a_record_of_the_minimum_length_is_just_enough() -> None:
    n = minimum_track_record(0.1, 0.03, -0.5, 6.0)
    assert n is not None
    assert probabilistic_sharpe(0.1, 0.03, math.ceil(n), -0.5, 6.0) >= 0.95
    assert probabilistic_sharpe(0.1, 0.03, math.floor(n), -0.5, 6.0) < 0.95


@pytest.mark.parametrize(("benchmark", "n", "skew", "kurtosis"), [(0.0, 2520, 0.0, 3.0), (0.08, 300, -1.0, 9.0)])
def test_the_needed_sharpe_is_just_enough(benchmark: float, n: int, skew: float, kurtosis: float) -> None:
    needed = needed_sharpe(benchmark, n, skew, kurtosis)
    assert needed is not None
    assert probabilistic_sharpe(needed, benchmark, n, skew, kurtosis) == pytest.approx(0.95, abs=1e-12)


def test_too_few_observations_need_more_than_any_sharpe() -> None:
    """PSR's z is bounded by 2 sqrt((n - 1) / (kurtosis - 1)): here 1.41, under the 1.645 of 95 %."""
    assert needed_sharpe(0.0, 2) is None and needed_sharpe(0.0, 1) is None
    assert power(5.0, 2, 252) == 0.0 and power(5.0, 1, 252) == 0.0


# ---------------------------------------------------------------- what a search shows by luck
def test_trials_that_are_alike_count_as_fewer() -> None:
    assert TrialSummary(100).effective_n == 100
    assert TrialSummary(100, mean_correlation=0.0).effective_n == 100
    assert TrialSummary(100, mean_correlation=0.5).effective_n == pytest.approx(50.5)
    assert TrialSummary(100, mean_correlation=1.0).effective_n == pytest.approx(1.0)


def test_the_spread_of_luck_is_never_under_what_sampling_gives() -> None:
    """Two trials that happen to show the same Sharpe do not prove that luck does nothing."""
    same = TrialSummary(3, variance=0.0)
    assert same.spread_of_luck(1001) == pytest.approx(1 / 1000)
    assert TrialSummary(3, variance=None).spread_of_luck(1001) == pytest.approx(1 / 1000)
    assert TrialSummary(3, variance=0.01).spread_of_luck(1001) == 0.01
    assert TrialSummary(3, variance=0.0, mean_correlation=0.9).spread_of_luck(1001) == pytest.approx(0.1 / 1000)


def test_deflating_uses_every_trial_and_falls_with_their_number() -> None:
    winner = Moments(2520, 2.0 / math.sqrt(252), 0.0, 3.0)
    found = [deflate(winner, TrialSummary(n)) for n in (1, 10, 1000, 100_000)]
    assert found[0].dsr == found[0].psr and found[0].benchmark == 0.0
    values = [one.dsr or 0.0 for one in found]
    assert values == sorted(values, reverse=True) and values[-1] < values[0]


def test_without_a_recorded_trial_there_is_no_deflated_sharpe() -> None:
    found = deflate(Moments(2520, 0.2, 0.0, 3.0), TrialSummary(0))
    assert (found.dsr, found.psr, found.reason) == (None, None, "TRIALS_ABSENT")


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_the_benchmark_is_what_the_best_of_worthless_trials_shows_over_their_mean(correlation: float) -> None:
    """With trials alike, the spread between them shrinks: n trials of that spread, as `spread_of_luck` says."""
    rng, n, trials = np.random.default_rng(2), 1000, 50
    over = []
    for _ in range(200):
        common = rng.standard_normal((n, 1)) * math.sqrt(correlation)
        returns = common + rng.standard_normal((n, trials)) * math.sqrt(1 - correlation)
        sharpes = returns.mean(axis=0) / returns.std(axis=0, ddof=1)
        over.append(sharpes.max() - sharpes.mean())
    spread = TrialSummary(trials, mean_correlation=correlation).spread_of_luck(n)
    assert expected_maximum_sharpe(spread, trials) == pytest.approx(np.mean(over), rel=0.05)


# ---------------------------------------------------------------- power
@pytest.mark.parametrize(("annual", "low", "high"), [(0.0, 0.0, 0.001), (1.0, 0.15, 0.30), (2.0, 0.98, 1.0)])
def test_power_after_fifty_trials_over_ten_years(annual: float, low: float, high: float) -> None:
    assert low <= power(annual, 2520, 252, trials=50) <= high


def test_power_is_how_often_a_drawn_record_passes() -> None:
    rng, n, annual = np.random.default_rng(3), 1000, 1.2
    returns = rng.standard_normal((2000, n)) + annual / math.sqrt(252)
    passed = 0
    for row in returns:
        found = moments(row)
        assert found.sharpe is not None
        passed += probabilistic_sharpe(found.sharpe, 0.0, n, found.skew, found.kurtosis) >= 0.95
    assert power(annual, n, 252) == pytest.approx(passed / 2000, abs=0.03)


def test_power_grows_with_the_record_and_falls_with_the_search() -> None:
    assert power(1.0, 252, 252) < power(1.0, 2520, 252) > power(1.0, 2520, 252, trials=100)
    by_trades = power(1.0, 500, 50, trials=10)
    assert by_trades == pytest.approx(power(1.0, 2520, 252, trials=10), abs=0.02)
