"""How good the confidences were that we emitted: reliability curve, Brier score, expected calibration error. Pure.

A forecast is (probability, won). Only decisions that were entered and have ended are forecasts that came true or not:
of a vetoed one nobody knows. The figures are those of sklearn.metrics.brier_score_loss and
sklearn.calibration.calibration_curve (strategy "uniform"); the tests compare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cognitive.intervals import beta_quantile

NO_FORECASTS = "NO_FORECASTS"
OK = "OK"


@dataclass(frozen=True, slots=True)
class Bin:
    """Forecasts of about the same size; `low` to `high` is the Jeffreys interval of what came true."""

    n: int
    forecast: float  # their mean
    observed: float  # share that won
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Of n forecasts. With none everything is None and `code` says so; nothing neutral stands in."""

    n: int
    code: str = OK
    brier: float | None = None  # mean squared error; 0 is perfect, 0.25 is always saying one half
    brier_of_base_rate: float | None = None  # of always saying the observed rate: what a forecast has to beat
    ece: float | None = None  # mean |forecast - observed| over the bins, weighted by n
    forecast: float | None = None  # mean of the forecasts
    observed: float | None = None  # share that won
    z: float | None = None  # (wins - expected wins) / its standard deviation if the forecasts were right
    bins: tuple[Bin, ...] = ()  # those that are not empty, ascending

    def within(self, bounds: tuple[float, float]) -> bool | None:
        """Whether the mean forecast keeps away from the extremes; None without forecasts."""
        return None if self.forecast is None else bounds[0] <= self.forecast <= bounds[1]


def calibrate(forecasts: Sequence[tuple[float, bool]], *, bins: int, interval: float = 0.95) -> Calibration:
    """Bins are equal in width over 0..1, the upper edge belongs to a bin. Raises ValueError outside 0..1."""
    if not forecasts:
        return Calibration(n=0, code=NO_FORECASTS)
    said = np.array([probability for probability, _ in forecasts], dtype=np.float64)
    won = np.array([came for _, came in forecasts], dtype=np.float64)
    if not bool(np.all((said >= 0) & (said <= 1))):  # NaN too
        raise ValueError("a confidence must be within 0..1")
    groups = _bins(said, won, bins, interval)
    spread = math.sqrt(float(np.sum(said * (1 - said))))
    base = float(won.mean())
    return Calibration(
        n=len(forecasts),
        brier=float(np.mean((said - won) ** 2)),
        brier_of_base_rate=base * (1 - base),
        ece=sum(g.n * abs(g.forecast - g.observed) for g in groups) / len(forecasts),
        forecast=float(said.mean()),
        observed=base,
        z=float(np.sum(won - said)) / spread if spread > 0 else None,
        bins=groups,
    )


def _bins(said: np.ndarray, won: np.ndarray, bins: int, interval: float) -> tuple[Bin, ...]:
    index = np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], said)
    counts = np.bincount(index, minlength=bins)
    sums, wins = np.bincount(index, said, bins), np.bincount(index, won, bins)
    tail = (1 - interval) / 2
    return tuple(
        Bin(
            int(n), float(sums[k] / n), float(wins[k] / n),
            beta_quantile(tail, float(wins[k]) + 0.5, float(n - wins[k]) + 0.5),
            beta_quantile(1 - tail, float(wins[k]) + 0.5, float(n - wins[k]) + 0.5),
        )
        for k, n in enumerate(counts) if n
    )  # fmt: skip
