"""The champion's opinion of a scan's signals, through core.ports.Scorer: one batch, one prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from core.domain import Signal
from core.ports import Opinion
from ml_advanced.ensemble.ensemble_predictor import EnsemblePredictor
from ml_advanced.ensemble.members import Floats


class FeatureSource(Protocol):
    """Features of signals at their close, (n, k) float64, NaN = unknown; `names` are the columns."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def __call__(self, signals: Sequence[Signal]) -> Floats: ...


class ModelScorer:
    """Every signal gets an opinion: a probability, or the reason why there is none.

    meaning : fingerprint of the feature function, None: not compared · weight_most : ml.weight_most_pct
    """

    def __init__(
        self, predictor: EnsemblePredictor, features: FeatureSource | None, *, meaning: str | None = None,
        weight_most: float = 1.0,
    ) -> None:  # fmt: skip
        self._predictor, self._features, self._meaning = predictor, features, meaning
        self._weight = min(weight_most, predictor.earned)

    def opinions(self, signals: Sequence[Signal]) -> Mapping[str, Opinion]:
        model, code = self._predictor.model_id or "", self._predictor.code
        if not signals or self._features is None or code != "OK":
            return {signal.decision_id: Opinion(None, code, model, self._weight) for signal in signals}
        said = self._predictor.predict(self._features(signals), self._features.names, meaning=self._meaning)
        found = zip(signals, said.probabilities.tolist(), said.codes, strict=True)
        return {
            signal.decision_id: Opinion(p if code == "OK" and np.isfinite(p) else None, code, model, self._weight)
            for signal, p, code in found
        }
