"""L01-L04, L07-L11: a model that cannot be believed, or does not know, has no number, and a reason that is counted.

The whole of each is in tests/ml_advanced and tests/scripts/test_ml_data.py; here each fault meets a scan's own scorer.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from core.domain import Signal, Symbol
from core.paths import Home
from core.ports import Opinion
from ml_advanced import model_store as store
from ml_advanced.ensemble.ensemble_predictor import EnsemblePredictor
from ml_advanced.ensemble.members import Floats
from ml_advanced.scorer import ModelScorer
from ml_advanced.training import Recipe, train
from ml_advanced.validation import overlapping
from tests.fakes.models import EXPIRES, NAMES, market_data, saved

USUAL = [0.4, 0.2, -0.3]
TODAY = date(2024, 3, 11)


class Given:
    """One row, under these names."""

    def __init__(self, row: Sequence[float] = USUAL, names: tuple[str, ...] = NAMES) -> None:
        self.names, self._row = names, row

    def __call__(self, signals: Sequence[Signal]) -> Floats:
        return np.array([self._row for _ in signals])


def opinion(folder: Path, *, given: Given | None = None, meaning: str = "as then", day: date = TODAY) -> Opinion:
    """What a scan of that day is told of one signal."""
    signal = Signal(
        strategy="ibs_rsi", symbol=Symbol("AAA"), session=date(2024, 3, 8), close=100.0, stop=95.0, target_r=None,
        time_stop_bars=7, strength=0.5,
    )  # fmt: skip
    predictor = EnsemblePredictor(Home(folder), session=day, simulated=False)
    (found,) = ModelScorer(predictor, given or Given(), meaning=meaning).opinions([signal]).values()
    return found


def test_a_sound_champion_has_a_number(tmp_path: Path) -> None:
    saved(Home(tmp_path))
    found = opinion(tmp_path)
    assert found.code == "OK" and found.probability is not None and 0 < found.probability < 1


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return exec, ("raise SystemExit('code of a model was run')",)


@pytest.mark.parametrize(
    ("fault", "content"),
    [("L01 cut", b"\0" * 8), ("L01 empty", b""), ("L02 pickle", pickle.dumps(Bomb())), ("L02 code", b"import os\n")],
)
def test_files_that_are_not_the_models(tmp_path: Path, fault: str, content: bytes) -> None:
    model = saved(Home(tmp_path))
    for name in (store.ARRAYS, store.CARD):
        path = tmp_path / "models" / model / name
        kept = path.read_bytes()
        path.write_bytes(content)
        found = opinion(tmp_path)
        assert (found.probability, found.code) == (None, "MODEL_HASH_DIFFERS"), fault
        path.write_bytes(kept)
    (tmp_path / "models" / model / "model.pkl").write_bytes(content)
    assert opinion(tmp_path).code == "MODEL_FILES"


def test_L03_no_model_is_no_number(tmp_path: Path) -> None:
    assert (opinion(tmp_path).probability, opinion(tmp_path).code) == (None, "MODEL_ABSENT")
    saved(Home(tmp_path), kind=None, passed=False)
    assert (opinion(tmp_path).probability, opinion(tmp_path).code) == (None, "MODEL_ABSENT")


def test_L04_a_model_is_asked_on_its_last_day_and_not_on_the_next(tmp_path: Path) -> None:
    saved(Home(tmp_path))
    assert opinion(tmp_path, day=EXPIRES).code == "OK"
    late = opinion(tmp_path, day=EXPIRES.replace(day=EXPIRES.day + 1))
    assert (late.probability, late.code, late.weight) == (None, "MODEL_EXPIRED", 0.0)


@pytest.mark.parametrize(
    ("given", "meaning", "code"),
    [
        (Given(names=("depth", "trend", "turnover")), "as then", "MODEL_FEATURES_DIFFER"),
        (Given(names=("trend", "depth", "volume")), "as then", "MODEL_FEATURES_DIFFER"),
        (Given(USUAL[:2], names=NAMES[:2]), "as then", "MODEL_FEATURES_DIFFER"),
        (Given(), "another definition", "MODEL_FEATURES_DIFFER"),
        (Given([100.0 * value for value in USUAL]), "as then", "MODEL_OOD"),
        (Given([0.4, float("nan"), -0.3]), "as then", "MODEL_FEATURE_UNKNOWN"),
    ],
)
def test_L07_other_features_are_no_number(tmp_path: Path, given: Given, meaning: str, code: str) -> None:
    saved(Home(tmp_path))
    found = opinion(tmp_path, given=given, meaning=meaning)
    assert (found.probability, found.code) == (None, code)


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("far", [60.0, -60.0])
def test_L08_a_row_far_from_all_that_was_learned_is_no_number(tmp_path: Path, column: int, far: float) -> None:
    saved(Home(tmp_path))
    row = list(USUAL)
    row[column] = far
    assert (opinion(tmp_path, given=Given(row)).probability, opinion(tmp_path, given=Given(row)).code) == (
        None, "MODEL_OOD",
    )  # fmt: skip


SMALL = Recipe(members=("logistic", "boosting"), folds=3, boosts=5, controls=0)


def test_L09_what_comes_after_a_fold_changes_nothing_that_was_said_before_it() -> None:
    data = market_data(4, rows=900, edge=0.9)
    before = train(data, SMALL)
    last = before.folds[-1]
    assert all(overlapping(fold.train, fold.test, data.starts, data.ends) == 0 for fold in before.folds)
    y, x = data.y.copy(), data.x.copy()
    y[last.test], x[last.test] = 1.0 - y[last.test], -3.0
    after = train(replace(data, x=x, y=y), SMALL)
    early = np.setdiff1d(before.out_of_fold.rows, last.test)
    assert early.size > 100
    said, then = before.out_of_fold, after.out_of_fold
    assert (then.judged[early] == said.judged[early]).all() and (then.raw[:, early] == said.raw[:, early]).all()
    assert (then.raw[:, last.test] != said.raw[:, last.test]).any(), "it can be told"


def test_L10_killed_while_saving_the_champion_is_asked_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(Home(tmp_path))
    before = opinion(tmp_path)
    real, steps = store.write_atomic, 0

    def until(path: Path, content: bytes, **more: bool) -> None:
        nonlocal steps
        if steps == 0:
            raise KeyboardInterrupt
        steps -= 1
        real(path, content, **more)

    monkeypatch.setattr(store, "write_atomic", until)
    for steps in range(5):
        with pytest.raises(KeyboardInterrupt):
            saved(Home(tmp_path), "m-20240308-second", earned=1.0)
        steps = 99
        assert opinion(tmp_path) == before
    saved(Home(tmp_path), "m-20240308-second", earned=1.0)
    assert opinion(tmp_path).model == "m-20240308-second"


def test_L11_two_workers_say_what_one_says() -> None:
    data = market_data(4, rows=600, edge=0.9)
    one, two = (train(data, SMALL, workers=workers) for workers in (1, 2))
    assert (one.ensemble.raw(data.x) == two.ensemble.raw(data.x)).all()
    assert (one.out_of_fold.raw == two.out_of_fold.raw)[np.isfinite(one.out_of_fold.raw)].all()
