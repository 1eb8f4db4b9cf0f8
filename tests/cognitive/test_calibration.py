"""Calibration figures against scikit-learn's, on random and on awkward forecasts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cognitive.calibration import NO_FORECASTS, Calibration, calibrate

FORECASTS = st.lists(st.tuples(st.one_of(st.floats(0, 1), st.sampled_from([0, 0.1, 0.3, 0.5, 1.0])), st.booleans()),
                     min_size=1, max_size=80)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(FORECASTS, st.sampled_from([2, 5, 10]))
def test_brier_score_reliability_curve_and_ece_are_scikit_learns(
    forecasts: list[tuple[float, bool]], bins: int
) -> None:
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss

    said, won = [p for p, _ in forecasts], [w for _, w in forecasts]
    found = calibrate(forecasts, bins=bins)
    assert found.brier == pytest.approx(brier_score_loss(won, said, pos_label=True), abs=1e-12)
    if len(set(won)) == 2:  # with one class only it refuses
        observed, forecast = calibration_curve(won, said, n_bins=bins, strategy="uniform", pos_label=True)
        assert [b.observed for b in found.bins] == pytest.approx(observed.tolist(), abs=1e-12)
        assert [b.forecast for b in found.bins] == pytest.approx(forecast.tolist(), abs=1e-12)
        share = np.array([b.n for b in found.bins]) / len(forecasts)
        assert found.ece == pytest.approx(float(np.sum(share * np.abs(observed - forecast))), abs=1e-12)
    assert sum(b.n for b in found.bins) == found.n == len(forecasts)
    assert all(b.low < b.high and 0 <= b.low <= 1 for b in found.bins)


def test_nothing_said_is_nothing_known() -> None:
    found = calibrate([], bins=10)
    assert (found.n, found.code, found.brier, found.ece, found.z, found.bins) == (0, NO_FORECASTS, None, None, None, ())
    assert found.within((0.05, 0.95)) is None


@pytest.mark.parametrize("said", [-0.01, 1.01, math.nan, math.inf])
def test_what_is_no_probability_is_refused(said: float) -> None:
    with pytest.raises(ValueError, match=r"within 0..1"):
        calibrate([(0.5, True), (said, True)], bins=10)


@pytest.mark.parametrize(
    ("said", "within"), [(0.05, True), (0.0499, False), (0.95, True), (0.9501, False), (0.5, True)]
)
def test_the_mean_forecast_on_a_bound_is_within(said: float, within: bool) -> None:
    assert Calibration(n=1, forecast=said).within((0.05, 0.95)) is within


def test_z_is_near_normal_when_the_forecasts_are_right_and_large_when_they_are_not() -> None:
    rng = np.random.default_rng(1)
    right = []
    for _ in range(200):
        p = rng.uniform(0.3, 0.7, 60)
        right.append(calibrate(list(zip(p.tolist(), (rng.random(60) < p).tolist(), strict=True)), bins=2).z or 0.0)
    assert abs(float(np.mean(right))) < 0.2 and 0.85 < float(np.std(right)) < 1.15
    wrong = calibrate([(0.7, k % 10 < 3) for k in range(60)], bins=10)
    assert wrong.z is not None and wrong.z < -5
    assert calibrate([(1.0, True)], bins=10).z is None, "certain forecasts have no deviation"
