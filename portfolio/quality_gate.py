"""The quality score: 0..100, the weighted sum of four components, each 0..1.

| component | 0 | 1 |
|---|---|---|
| strength  | a setup that only just holds | the strategy's own strongest |
| trend     | close at its 200-day average | 10 % above it |
| liquidity | 20-day median dollar volume USD 1M | USD 100M, on a log scale |
| model     | no model, or probability 0 | probability 1, of the part of its points that the model earned at its gate |

A model that is absent or expired contributes 0 and leaves its code (MODEL_ABSENT …) in `reasons`;
it never counts as 0.5. What cannot be computed contributes 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from core.domain import Signal
from core.ports import Opinion

Series = np.ndarray[tuple[int], np.dtype[np.float64]]
Windows = np.ndarray[tuple[int, int], np.dtype[np.float64]]

MODEL_ABSENT = "MODEL_ABSENT"
_TREND_FULL_AT = 0.10
_LIQUIDITY_FROM_USD, _LIQUIDITY_FULL_USD = 1e6, 1e8
_LIQUIDITY_SPAN = math.log(_LIQUIDITY_FULL_USD / _LIQUIDITY_FROM_USD)
_DIGITS = 4  # what is compared with min_score is what is shown
MEDIAN_BARS = 20


class Weights(Protocol):
    """quality_gate.weights: points, summing to 100."""

    @property
    def strength(self) -> float: ...
    @property
    def trend(self) -> float: ...
    @property
    def liquidity(self) -> float: ...
    @property
    def model(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What the score needs to know of the symbol at the signal's close; NaN = unknown."""

    sma: float  # USD per share, 200 bars
    median_dollar_volume: float  # USD per session, median of the last 20 bars


@dataclass(frozen=True, slots=True)
class Scored:
    """A signal and its score; `parts` are points per component, in the order of the table, `codes` what was missing."""

    signal: Signal
    score: float
    parts: Mapping[str, float]
    codes: tuple[str, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        return (*(f"{name.upper()}_{points:.1f}" for name, points in self.parts.items()), *self.codes)


def score(signal: Signal, facts: Facts, model: Opinion | None, weights: Weights) -> Scored:
    probability, code = _model(model)
    parts = {
        "strength": round(signal.strength * float(weights.strength), _DIGITS),
        "trend": round(_trend(signal.close, facts.sma) * float(weights.trend), _DIGITS),
        "liquidity": round(_liquidity(facts.median_dollar_volume) * float(weights.liquidity), _DIGITS),
        "model": round(probability * float(weights.model), _DIGITS),
    }
    total = round(min(100.0, math.fsum(parts.values())), _DIGITS)
    return Scored(signal, total, parts, () if code is None else (code,))


def median_dollar_volumes(close: Windows, volume: Windows) -> Series:
    """USD per session, one per row of (n, MEDIAN_BARS) closes and volumes; NaN with an unknown among them."""
    usd, middle = close * volume, MEDIAN_BARS // 2
    parted = np.partition(usd, (middle - 1, middle), axis=1)
    found: Series = (parted[:, middle - 1] + parted[:, middle]) / 2.0
    found[np.isnan(usd).any(axis=1)] = np.nan
    return found


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0


def _trend(close: float, sma: float) -> float:
    return _clip((close / sma - 1.0) / _TREND_FULL_AT) if sma > 0 else 0.0


def _liquidity(usd: float) -> float:
    if not usd > 0:
        return 0.0
    return _clip(math.log(usd / _LIQUIDITY_FROM_USD) / _LIQUIDITY_SPAN)


def _model(opinion: Opinion | None) -> tuple[float, str | None]:
    """(component, the code to report or None)."""
    if opinion is None:
        return 0.0, MODEL_ABSENT
    if opinion.probability is None:
        return 0.0, opinion.code if opinion.code != "OK" else MODEL_ABSENT
    if not 0.0 <= opinion.probability <= 1.0:  # NaN too
        return 0.0, "MODEL_INVALID"
    return opinion.probability * _clip(opinion.weight), None
