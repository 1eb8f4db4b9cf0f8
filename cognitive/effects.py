"""How much worse decisions of one kind did than the others: many kinds at once, in a few numpy passes. Pure.

The difference of two means of R, judged by a score test: its variance comes from the distances to the common mean, as
if there were no difference, summed by decision session first, because trades of one day share one market. Small groups
that happen to lack the rare large winner do not look certain that way, as they would in a Welch test.
Source: Liang & Zeger (1986), Biometrika 73:13 (clustered variance); Benjamini & Hochberg (1995), JRSS B 57:289.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cognitive.intervals import student_below, student_quantile

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Effects:
    """One column per kind, as columns of `inside`; NaN where a kind or its rest is empty, or nothing varies."""

    n: Ints
    rest: Ints
    mean_r: Floats
    effect_r: Floats
    deviation: Floats  # standard error of effect_r
    freedom: Ints
    p: Floats  # one-sided: small when those inside did worse

    def interval(self, k: int, probability: float) -> tuple[float, float]:
        """Of the k-th effect."""
        half = student_quantile((1 + probability) / 2, float(self.freedom[k])) * float(self.deviation[k])
        return float(self.effect_r[k]) - half, float(self.effect_r[k]) + half


def effects(r: Floats, inside: Bools, scope: Bools, clusters: Ints) -> Effects:
    """r (n,) outcomes in R; inside, scope (n, m); clusters (n,) ascending, equal for decisions of one session.

    inside counts within scope only. Raises ValueError when clusters do not ascend.
    """
    if np.any(np.diff(clusters) < 0):
        raise ValueError("clusters must ascend")
    starts = np.flatnonzero(np.diff(clusters, prepend=clusters[0] - 1)) if len(clusters) else np.zeros(0, np.intp)
    within, without = inside & scope, scope & ~inside
    n, rest, many = within.sum(0), without.sum(0), scope.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, mean_rest, mean_all = r @ within / n, r @ without / rest, r @ scope / many
        weights = within / n - without / rest
        common = weights * (r[:, None] - mean_all)
        own = weights * (r[:, None] - np.where(within, mean, mean_rest))
        days = np.add.reduceat(scope, starts, axis=0, dtype=np.intp) > 0
        groups = days.sum(0)
        effect = mean - mean_rest
        null_sd, sd = _deviation(common, starts, groups), _deviation(own, starts, groups)
        t = np.where(null_sd > 0, effect / null_sd, np.nan)
    freedom = np.maximum(groups - 1, 1)
    p = np.array([_below(float(x), float(k)) for x, k in zip(t, freedom, strict=True)])
    return Effects(n, rest, mean, effect, np.maximum(sd, null_sd), freedom, p)


def _below(t: float, freedom: float) -> float:
    return student_below(t, freedom) if math.isfinite(t) else 1.0


def _deviation(parts: Floats, starts: Ints, groups: Ints) -> Floats:
    """Standard error of the sum of `parts`, sessions taken as independent."""
    sums = np.add.reduceat(parts, starts, axis=0)
    correction = groups / np.maximum(groups - 1, 1)
    deviation: Floats = np.sqrt(np.sum(sums * sums, axis=0) * correction)
    return deviation


def benjamini_hochberg(p: Floats) -> Floats:
    """Adjusted p values: rejecting those at most q keeps the false discovery rate at q."""
    m = len(p)
    order = np.argsort(p, kind="stable")
    raw = p[order] * m / np.arange(1, m + 1)
    adjusted = np.empty(m)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(raw[::-1])[::-1])
    return adjusted
