"""Our distributions against scipy's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cognitive.intervals import beta_cdf, beta_quantile, student_below, student_quantile

SHAPES = st.floats(0.5, 5000)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), SHAPES, SHAPES)
def test_the_beta_distribution_is_scipys(x: float, a: float, b: float) -> None:
    from scipy import stats

    assert beta_cdf(x, a, b) == pytest.approx(stats.beta.cdf(x, a, b), abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.001, 0.999), SHAPES, SHAPES)
def test_its_quantile_is_where_the_distribution_reaches_p(p: float, a: float, b: float) -> None:
    from scipy import stats

    assert stats.beta.cdf(beta_quantile(p, a, b), a, b) == pytest.approx(p, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(st.floats(-40, 40), st.floats(1, 3000))
def test_students_distribution_is_scipys(t: float, df: float) -> None:
    from scipy import stats

    assert student_below(t, df) == pytest.approx(stats.t.cdf(t, df), abs=1e-9)


@pytest.mark.parametrize("df", [1, 2, 7, 30, 1000])
@pytest.mark.parametrize("p", [0.001, 0.025, 0.5, 0.9, 0.975])
def test_students_quantile_is_scipys(p: float, df: int) -> None:
    from scipy import stats

    assert student_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-6, abs=1e-6)


def test_no_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Beta\(0, 1\)"):
        beta_cdf(0.5, 0, 1)
