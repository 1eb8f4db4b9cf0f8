"""A calibrator makes a number mean what it says, never falls, and is never certain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_advanced.ensemble.calibrators import (
    EDGE,
    Isotonic,
    Platt,
    calibrator_of,
    fit_best,
    fit_isotonic,
    fit_platt,
    log_losses,
    logit,
)
from ml_advanced.ensemble.members import BadArrays, Floats, sigmoid


def drawn(rows: int, seed: int, slope: float, offset: float) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    p = rng.beta(2, 2, rows)
    return p, (rng.random(rows) < sigmoid(slope * logit(p) + offset)).astype(np.float64)


def test_platt_finds_the_line_that_was_planted() -> None:
    line = fit_platt(*drawn(40_000, 1, 0.4, -0.3))
    assert (line.slope, line.offset) == (pytest.approx(0.4, abs=0.03), pytest.approx(-0.3, abs=0.03))


def test_the_best_rising_steps_are_those_of_scikit_learn_where_blocks_are_large() -> None:
    from sklearn.isotonic import IsotonicRegression

    p, y = drawn(20_000, 2, 0.5, 0.0)
    theirs = IsotonicRegression().fit(p, y).predict(p)
    middle = (p > np.quantile(p, 0.05)) & (p < np.quantile(p, 0.95))
    apart = np.abs(fit_isotonic(p, y).apply(p) - theirs)[middle]
    assert apart.mean() < 0.004 and np.quantile(apart, 0.98) < 0.02, (
        "ours are drawn with straight lines between the steps"
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 200))
def test_neither_falls_nor_is_certain(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    p, y = rng.integers(0, 12, rows) / 11.0, rng.integers(0, 2, rows).astype(np.float64)
    asked = np.linspace(0, 1, 101)
    for made in (fit_platt(p, y), fit_isotonic(p, y)):
        said = made.apply(asked)
        assert (np.diff(said) >= 0).all()
        assert EDGE <= said.min() <= said.max() <= 1 - EDGE
        again = calibrator_of(made.kind, made.arrays())
        assert (again.apply(asked) == said).all()


def test_a_member_that_orders_them_the_wrong_way_round_is_flattened_and_not_turned() -> None:
    p, y = drawn(5_000, 3, -0.8, 0.2)
    made = fit_platt(p, y)
    assert made.slope == 0
    assert made.apply(p)[0] == pytest.approx(y.mean(), abs=0.002)


def test_steps_are_taken_with_many_rows_and_a_clear_advantage_only() -> None:
    rng = np.random.default_rng(4)
    p = rng.random(9_000)
    steep = (rng.random(9_000) < np.where(p > 0.5, 0.7, 0.3)).astype(np.float64)
    straight = (rng.random(9_000) < p).astype(np.float64)
    part = np.arange(9_000) % 3
    assert fit_best(p, steep, part).kind == "isotonic"
    assert fit_best(p, straight, part).kind == "platt"
    assert fit_best(p[:900], steep[:900], part[:900]).kind == "platt"
    assert fit_best(p, steep, np.zeros(9_000)).kind == "platt"


def test_log_losses_are_those_of_the_formula_and_finite_at_the_edges() -> None:
    said = log_losses(np.array([0.25, 0.25, 0.0, 1.0]), np.array([1.0, 0.0, 1.0, 0.0]))
    assert said[:2] == pytest.approx([-np.log(0.25), -np.log(0.75)])
    assert np.isfinite(said).all() and said[2] > 20


@pytest.mark.parametrize(
    ("kind", "arrays"),
    [
        ("platt", {"line": np.array([-0.1, 0.0])}),
        ("platt", {"line": np.array([np.nan, 0.0])}),
        ("platt", {"line": np.array([1.0])}),
        ("platt", {}),
        ("isotonic", {"at": np.array([0.1, 0.1]), "level": np.array([0.3, 0.4])}),
        ("isotonic", {"at": np.array([0.1, 0.2]), "level": np.array([0.4, 0.3])}),
        ("isotonic", {"at": np.array([0.1, 0.2]), "level": np.array([0.4, 1.0])}),
        ("isotonic", {"at": np.array([0.1, 0.2]), "level": np.array([0.4])}),
        ("isotonic", {"at": np.array([0.1, np.nan]), "level": np.array([0.3, 0.4])}),
        ("isotonic", {"at": np.empty(0), "level": np.empty(0)}),
        ("eval", {"line": np.array([1.0, 0.0])}),
    ],
)
def test_L01_a_calibrator_that_is_none_is_refused(kind: str, arrays: dict[str, Floats]) -> None:
    assert isinstance(calibrator_of("platt", {"line": np.array([0.0, 0.0])}), Platt)
    assert isinstance(calibrator_of("isotonic", {"at": np.zeros(1), "level": np.full(1, 0.5)}), Isotonic)
    with pytest.raises(BadArrays):
        calibrator_of(kind, arrays)
