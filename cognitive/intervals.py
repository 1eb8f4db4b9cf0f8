"""Beta and Student distributions in plain Python: a scan that needs a few quantiles does not import scipy for them.

Regularised incomplete beta function by its continued fraction (Lentz), quantiles by bisection. The tests compare both
with scipy to 1e-8. Source: DLMF 8.17; Press et al., Numerical Recipes, 3rd ed., section 6.4.
"""

from __future__ import annotations

import math
from functools import lru_cache

_TINY = 1e-300
_STEPS = 500
_HALVINGS = 60


def beta_cdf(x: float, a: float, b: float) -> float:
    """P(X <= x) for X ~ Beta(a, b). Raises ValueError unless a and b are positive."""
    if not (a > 0 and b > 0):
        raise ValueError(f"Beta({a}, {b}) is no distribution")
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, _kept(1 - (a + b) * x / (a + 1))
    d = 1 / d
    value = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / _kept(1 + term * d), _kept(1 + term / c)
            value *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return value


def _kept(value: float) -> float:
    """Away from zero, which the recurrence divides by."""
    return value if abs(value) > _TINY else _TINY


def beta_quantile(p: float, a: float, b: float) -> float:
    """The x with beta_cdf(x, a, b) = p, for 0 < p < 1, to 1e-15 or so."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if beta_cdf(middle, a, b) < p else (low, middle)
    return (low + high) / 2


def student_below(t: float, df: float) -> float:
    """P(T <= t) of Student's t with `df` degrees of freedom."""
    square = t * t
    if square < df:  # each form where its argument is not close to one
        tail = 0.5 - beta_cdf(square / (df + square), 0.5, df / 2) / 2
    else:
        tail = beta_cdf(df / (df + square), df / 2, 0.5) / 2
    return tail if t < 0 else 1 - tail


@lru_cache(maxsize=4096)
def student_quantile(p: float, df: float) -> float:
    """The t with student_below(t, df) = p, for 0 < p < 1."""
    x = beta_quantile(2 * min(p, 1 - p), df / 2, 0.5)
    size = math.sqrt(df * (1 - x) / x) if x > 0 else math.inf
    return -size if p < 0.5 else size
