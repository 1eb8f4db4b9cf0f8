"""The champion behind core.ports.Scorer: every signal gets a probability or a reason."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from config.settings_schema import Settings
from core import logs
from core.domain import Signal, Symbol
from core.errors import DataError
from core.paths import Home
from core.ports import Opinion, Scorer
from ml_advanced.ensemble.ensemble_predictor import EnsemblePredictor
from ml_advanced.ensemble.members import Floats
from ml_advanced.scorer import ModelScorer
from portfolio.quality_gate import Facts, score
from tests.fakes.models import NAMES, saved


class Given:
    """Features by symbol; AWAY is far from everything, ODD has one that is not known."""

    names = NAMES

    def __call__(self, signals: Sequence[Signal]) -> Floats:
        rows = {"AWAY": [90.0, 0.4, 0.4], "ODD": [0.4, np.nan, 0.4], "HIGH": [0.9, 0.1, 0.4], "LOW": [-0.9, 0.4, 0.3]}
        return np.array([rows[str(signal.symbol)] for signal in signals])


def signals(*symbols: str) -> list[Signal]:
    return [
        Signal(
            strategy="ibs_rsi", symbol=Symbol(name), session=date(2024, 3, 8), close=100.0, stop=95.0, target_r=None,
            time_stop_bars=7, strength=0.5,
        )
        for name in symbols
    ]  # fmt: skip


def test_L05_L08_each_signal_has_a_probability_or_its_own_reason(tmp_path: Path) -> None:
    saved(Home(tmp_path))
    predictor = EnsemblePredictor(Home(tmp_path), session=date(2024, 3, 11))
    scorer: Scorer = ModelScorer(predictor, Given(), meaning="as then", weight_most=0.8)
    asked = signals("HIGH", "AWAY", "LOW", "ODD")
    found = scorer.opinions(asked)
    said = {str(s.symbol): found[s.decision_id] for s in asked}
    assert [said[name].code for name in ("HIGH", "AWAY", "LOW", "ODD")] == [
        "OK", "MODEL_OOD", "OK", "MODEL_FEATURE_UNKNOWN",
    ]  # fmt: skip
    high, low = said["HIGH"].probability, said["LOW"].probability
    assert high is not None and low is not None and high > low
    assert said["AWAY"].probability is None and said["ODD"].probability is None
    assert {o.model for o in said.values()} == {"m-20240308-first"}
    assert {o.weight for o in said.values()} == {0.5}, "what it earned, below what the settings allow"
    assert scorer.opinions([]) == {}


def test_L03_without_a_model_every_signal_says_why_and_no_feature_is_worked_out(tmp_path: Path) -> None:
    predictor = EnsemblePredictor(Home(tmp_path), session=date(2024, 3, 11))
    found = ModelScorer(predictor, None).opinions(signals("HIGH", "LOW"))
    assert {(o.probability, o.code) for o in found.values()} == {(None, "MODEL_ABSENT")}


class Broken(Given):
    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self, signals: Sequence[Signal]) -> Floats:
        raise self._error


@pytest.mark.parametrize("error", [DataError("SPY's file"), OSError("disk"), IndexError("row 7"), ZeroDivisionError()])
def test_features_that_fail_are_no_opinion_and_no_end_of_a_scan(tmp_path: Path, error: Exception) -> None:
    saved(Home(tmp_path))
    predictor = EnsemblePredictor(Home(tmp_path), session=date(2024, 3, 11))
    for features in (Broken(error), None):
        found = ModelScorer(predictor, features, meaning="as then").opinions(signals("HIGH", "LOW"))
        assert {(o.probability, o.code) for o in found.values()} == {(None, "MODEL_FEATURES_FAILED")}
    told = {key: n for key, n in logs.counters().items() if "MODEL_FEATURES_FAILED" in str(key)}
    assert told, "and counted"


def test_the_settings_bound_what_a_model_has_earned(tmp_path: Path) -> None:
    saved(Home(tmp_path), earned=7.5)
    predictor = EnsemblePredictor(Home(tmp_path), session=date(2024, 3, 11))
    assert predictor.earned == 1.0
    (opinion,) = ModelScorer(predictor, Given(), meaning="as then", weight_most=0.3).opinions(signals("LOW")).values()
    assert opinion.weight == 0.3


@pytest.mark.parametrize(
    ("weight", "points"), [(1.0, 12.0), (0.5, 6.0), (0.0, 0.0), (-1.0, 0.0), (9.0, 12.0), (float("nan"), 0.0)]
)
def test_the_model_brings_the_part_of_its_points_that_it_earned(weight: float, points: float) -> None:
    (signal,) = signals("LOW")
    made = score(signal, Facts(90.0, 1e8), Opinion(0.6, "OK", "m", weight), Settings().quality_gate.weights)
    assert made.parts["model"] == pytest.approx(points)
