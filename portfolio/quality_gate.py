"""The quality score: 0..100, the weighted sum of four components, each 0..1.

| component | 0 | 1 |
|---|---|---|
| strength  | a setup that only just holds | the strategy's own strongest |
| trend     | close at its 200-day average | 10 % above it |
| liquidity | 20-day median dollar volume USD 1M | USD 100M, on a log scale |
| model     | no model, or probability 0 | probability 1 |

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

MODEL_ABSENT = "MODEL_ABSENT"
_TREND_FULL_AT = 0.10
_LIQUIDITY_FROM_USD, _LIQUIDITY_FULL_USD = 1e6, 1e8
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
    """A signal and its score; `parts` are points per component, in the order of the table."""

    signal: Signal
    score: float
    parts: Mapping[str, float]
    reasons: tuple[str, ...]


def score(signal: Signal, facts: Facts, model: Opinion | None, weights: Weights) -> Scored:
    probability, code = _model(model)
    components = {
        "strength": (signal.strength, weights.strength),
        "trend": (_trend(signal.close, facts.sma), weights.trend),
        "liquidity": (_liquidity(facts.median_dollar_volume), weights.liquidity),
        "model": (probability, weights.model),
    }
    parts = {name: round(component * float(weight), _DIGITS) for name, (component, weight) in components.items()}
    total = round(min(100.0, math.fsum(parts.values())), _DIGITS)
    reasons = [f"{name.upper()}_{points:.1f}" for name, points in parts.items()]
    return Scored(signal, total, parts, tuple(reasons if code is None else [*reasons, code]))


def median_dollar_volume(close: Series, volume: Series) -> float:
    """USD per session; both 1-d, oldest first, the last 20 bars count. NaN for fewer, or with an unknown among them."""
    if close.size < MEDIAN_BARS:
        return math.nan
    return float(np.median(close[-MEDIAN_BARS:] * volume[-MEDIAN_BARS:]))


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0


def _trend(close: float, sma: float) -> float:
    return _clip((close / sma - 1.0) / _TREND_FULL_AT) if sma > 0 else 0.0


def _liquidity(usd: float) -> float:
    if not usd > 0:
        return 0.0
    return _clip(math.log(usd / _LIQUIDITY_FROM_USD) / math.log(_LIQUIDITY_FULL_USD / _LIQUIDITY_FROM_USD))


def _model(opinion: Opinion | None) -> tuple[float, str | None]:
    """(component, the code to report or None)."""
    if opinion is None:
        return 0.0, MODEL_ABSENT
    if opinion.probability is None:
        return 0.0, opinion.code if opinion.code != "OK" else MODEL_ABSENT
    if not 0.0 <= opinion.probability <= 1.0:  # NaN too
        return 0.0, "MODEL_INVALID"
    return opinion.probability, None
