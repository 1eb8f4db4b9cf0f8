"""The champion's opinion of a scan's signals, through core.ports.Scorer: one batch, one prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from core import logs
from core.domain import Signal
from core.errors import KobeError
from core.ports import Opinion
from ml_advanced.ensemble.ensemble_predictor import EnsemblePredictor, Predicted
from ml_advanced.ensemble.members import Floats

FAILED = "MODEL_FEATURES_FAILED"
TROUBLE = (KobeError, OSError, ValueError, ArithmeticError, LookupError)  # what files and numbers can do to a model


class FeatureSource(Protocol):
    """Features of signals at their close, (n, k) float64, NaN = unknown; `names` are the columns."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def __call__(self, signals: Sequence[Signal]) -> Floats: ...


class ModelScorer:
    """Every signal gets an opinion: a probability, or the reason why there is none. No trouble of a model ends a scan.

    features : None where they could not be had, or nobody is asked · weight_most : ml.weight_most_pct
    meaning : fingerprint of the feature function, None: not compared
    """

    def __init__(
        self, predictor: EnsemblePredictor, features: FeatureSource | None, *, meaning: str | None = None,
        weight_most: float = 1.0,
    ) -> None:  # fmt: skip
        self._predictor, self._features, self._meaning = predictor, features, meaning
        self._weight = min(weight_most, predictor.earned)

    def opinions(self, signals: Sequence[Signal]) -> Mapping[str, Opinion]:
        model, code = self._predictor.model_id or "", self._predictor.code
        said = self._said(signals) if signals and code == "OK" else None
        if said is None:
            why = FAILED if code == "OK" else code
            return {signal.decision_id: Opinion(None, why, model, self._weight) for signal in signals}
        found = zip(signals, said.probabilities.tolist(), said.codes, strict=True)
        return {
            signal.decision_id: Opinion(p if code == "OK" and np.isfinite(p) else None, code, model, self._weight)
            for signal, p, code in found
        }

    def _said(self, signals: Sequence[Signal]) -> Predicted | None:
        if self._features is None:
            return None
        try:
            return self._predictor.predict(self._features(signals), self._features.names, meaning=self._meaning)
        except TROUBLE as error:
            failed(self._predictor.model_id, error)
            return None


def failed(model: str | None, error: Exception) -> None:
    """Told as an error: the model has no opinion today."""
    logs.error_event("model_not_asked", code=FAILED, model=model, detail=f"{type(error).__name__}: {error}")
    logs.count("models_not_asked", code=FAILED)
