"""Whether a row is like those that were learned from. A row that is not gets no probability (MODEL_OOD).

Each feature is first bent to a normal shape by its training quantiles; beyond the outermost it goes on in a straight
line, as steep as the middle of the distribution, so that a far value stays far. The distance is Mahalanobis's in that
space, over the features that are known, with a covariance that is pulled to the identity a little. Real rows are never
all in the middle, so a row can be too near as well, and so can its single features (features of another unit):
the mean logarithm of their sizes tells. The limits are quantiles of the training rows' own: about one familiar row in
a hundred is marked.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ml_advanced.ensemble.members import Arrays, BadArrays, Floats, require

LEVELS = np.linspace(0.005, 0.995, 67)
FAR_QUANTILE, NEAR_QUANTILE = 0.996, 0.001
_ROOM = 1.05  # a little beyond: rows of tomorrow are a little further away than those that were fitted
_SHRINK = 0.10
_FARTHEST = 1e6
_SMALLEST = 0.01
_ANY = (0.5, 1.0, 2.0, 0.0, -1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Familiarity:
    """edges (k, levels) training quantiles per feature · scale (k,) of the straight line beyond · whiten (k, k)
    known (k,) share of training rows in which the feature was known
    limits : nearest, usual and farthest distance of a familiar row, then usual and least mean log size."""

    edges: Floats
    scale: Floats
    whiten: Floats
    known: Floats
    limits: tuple[float, float, float, float, float]

    def strangeness(self, x: Floats) -> Floats:
        """0 as usual as can be, 1 at either limit, above 1 out of distribution."""
        near, usual, far, size, least = self.limits
        distance, sizes = self.measures(x)
        steps = np.log(np.maximum(distance, 1e-300) / usual)
        steps = np.where(steps > 0, steps / np.log(far / usual), steps / np.log(near / usual))
        made: Floats = np.maximum(steps, (size - sizes) / (size - least))
        return made

    def measures(self, x: Floats) -> tuple[Floats, Floats]:
        """Of each row, over the features that are known: mean squared distance, and mean log size."""
        z = self._bent(x)
        white = np.zeros_like(z)
        for j in range(z.shape[1]):  # in a fixed order: a row's distance does not depend on the other rows
            white += z[:, j : j + 1] * self.whiten[j]
        known = np.isfinite(x)
        many = np.maximum(1, known.sum(axis=1))
        sizes = np.where(known, np.log(np.abs(z) + _SMALLEST), 0.0)
        return np.ascontiguousarray(white * white).sum(axis=1) / many, sizes.sum(axis=1) / many

    def _bent(self, x: Floats) -> Floats:
        normal = np.array([NormalDist().inv_cdf(float(level)) for level in LEVELS])
        z = np.zeros_like(x)
        for j in range(x.shape[1]):
            column, edges = x[:, j], self.edges[j]
            inside = np.interp(column, edges, normal)
            beyond = (column - np.clip(column, edges[0], edges[-1])) / self.scale[j]
            z[:, j] = np.where(np.isnan(column), 0.0, np.clip(inside + beyond, -_FARTHEST, _FARTHEST))
        return z

    def arrays(self) -> dict[str, Floats]:
        named = ("edges", "scale", "whiten", "known")
        return {name: getattr(self, name) for name in named} | {"limits": np.array(self.limits)}

    @classmethod
    def of(cls, arrays: Arrays, features: int) -> Familiarity:
        """Checked. Raises BadArrays; an array that is missing too."""
        try:
            edges, scale, whiten, known = (arrays[name] for name in ("edges", "scale", "whiten", "known"))
            limits = arrays["limits"]
        except KeyError as error:
            raise BadArrays(f"familiarity: {error} is missing") from error
        shapes = (edges.shape, scale.shape, whiten.shape, known.shape, limits.shape)
        k = features
        require(shapes == ((k, LEVELS.size), (k,), (k, k), (k,), (5,)), "familiarity of another size")
        finite = all(bool(np.isfinite(part).all()) for part in (edges, scale, whiten, known, limits))
        require(finite and bool((np.diff(edges, axis=1) > 0).all()), "familiarity is not finite or does not rise")
        near, usual, far, size, least = limits.tolist()
        require(bool((scale > 0).all()) and 0 < near < usual < far and least < size, "familiarity without a scale")
        require(bool((known >= 0).all() and (known <= 1).all()), "a share that is none")
        return cls(edges, scale, whiten, known, (near, usual, far, size, least))


def fit_familiarity(x: Floats) -> Familiarity:
    """From the training rows, (n, k) with n > 1."""
    n, k = x.shape
    edges, scale = np.empty((k, LEVELS.size)), np.ones(k)
    for j in range(k):
        column = x[:, j][np.isfinite(x[:, j])]
        column = column if column.size else np.zeros(1)
        edges[j] = _rising(np.quantile(column, LEVELS))
        middle = float(np.subtract(*np.quantile(column, (0.75, 0.25)))) / 1.349
        spread = max(middle, float(edges[j, -1] - edges[j, 0]) / 6.0)
        scale[j] = max(spread, 1e-9 * max(1.0, float(np.abs(edges[j]).max())))
    made = Familiarity(edges, scale, np.eye(k), np.isfinite(x).mean(axis=0), _ANY)
    z = made._bent(x)
    centred = z - z.mean(axis=0)
    covariance = np.einsum("ni,nj->ij", centred, centred) / max(1, n - 1)
    size = float(np.trace(covariance)) / k or 1.0
    values, vectors = np.linalg.eigh((1.0 - _SHRINK) * covariance + _SHRINK * size * np.eye(k))
    whiten = vectors / np.sqrt(np.maximum(values, 1e-9))
    made = Familiarity(edges, scale, np.ascontiguousarray(whiten), made.known, _ANY)
    distance, sizes = made.measures(x)
    near, usual, far = np.quantile(distance, (NEAR_QUANTILE, 0.5, FAR_QUANTILE)).tolist()
    least, size = np.quantile(sizes, (NEAR_QUANTILE, 0.5)).tolist()
    usual = max(usual, 1e-12)
    limits = (min(near / _ROOM, usual / 2.0) + 1e-15, usual, max(far * _ROOM, usual * 2.0), size, least - 0.05)
    return Familiarity(edges, scale, made.whiten, made.known, limits)


def _rising(values: Floats) -> Floats:
    """Quantiles strictly ascending: equal ones are moved apart by the least that can be told from the next."""
    made = np.maximum.accumulate(values)
    step = 1e-9 * max(1.0, float(np.abs(made).max()))
    rising: Floats = made + step * np.arange(made.size)
    return rising
