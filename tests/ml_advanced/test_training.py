"""Training: out of fold means out of fold, the same result whoever works it out, and too little is told plainly."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from core.errors import DataError
from ml_advanced.dataset import Dataset
from ml_advanced.ensemble.blend import fit_weights, kept, to_plain
from ml_advanced.ensemble.members import Floats
from ml_advanced.gate import auc
from ml_advanced.training import Recipe, Trained, estimator, out_of_fold, quick, rotated, said_on_paths, train
from ml_advanced.validation import overlapping
from tests.fakes.models import market_data, with_labels_of_others

RECIPE = Recipe(folds=3, trees=5, boosts=5, controls=1)


def bits(trained: Trained) -> str:
    _, arrays = to_plain(trained.ensemble)
    record = trained.out_of_fold
    parts = [values.tobytes() for _, values in sorted(arrays.items())]
    parts += [record.judged.tobytes(), record.raw.tobytes(), *(c.judged.tobytes() for c in trained.controls)]
    return hashlib.sha256(b"".join(parts) + repr(sorted(trained.importance.items())).encode()).hexdigest()


@pytest.fixture(scope="module")
def data() -> Dataset:
    return market_data(1, rows=900, edge=0.9)


@pytest.fixture(scope="module")
def trained(data: Dataset) -> Trained:
    return train(data, RECIPE)


def test_L11_two_workers_give_the_bits_of_one(data: Dataset, trained: Trained) -> None:
    assert bits(train(data, RECIPE, workers=2)) == bits(trained)


def test_L11_the_number_of_threads_changes_no_bit_and_the_seed_does(data: Dataset) -> None:
    from threadpoolctl import threadpool_limits

    small = replace(RECIPE, controls=0, folds=2)
    with threadpool_limits(limits=2):
        two = bits(train(data, small))
    with threadpool_limits(limits=1):
        one = bits(train(data, small))
    assert one == two != bits(train(data, replace(small, seed=1)))


def test_no_row_is_judged_by_what_came_after_it(data: Dataset) -> None:
    """Labels of the last fold turned round: nothing that was said before it may change."""
    small = replace(RECIPE, members=("logistic",), controls=0)
    before = train(data, small)
    last = before.folds[-1].test
    y = data.y.copy()
    y[last] = 1.0 - y[last]
    after = train(replace(data, y=y), small)
    judged_before = before.out_of_fold.judged
    assert np.isfinite(judged_before[last]).all()
    assert (np.nan_to_num(after.out_of_fold.judged) == np.nan_to_num(judged_before)).all()


def test_no_label_of_the_training_touches_the_test(data: Dataset, trained: Trained) -> None:
    for fold in trained.folds:
        assert overlapping(fold.train, fold.test, data.starts, data.ends) == 0
        assert fold.train.max() < fold.test.min()


def test_the_first_fold_only_calibrates_and_the_others_are_judged(trained: Trained) -> None:
    record = trained.out_of_fold
    first = trained.folds[0].test
    assert not np.isfinite(record.judged[first]).any() and np.isfinite(record.raw[:, first]).all()
    assert set(record.rows.tolist()) == set(np.concatenate([f.test for f in trained.folds[1:]]).tolist())


def test_weights_and_names_are_of_the_members_that_have_a_say(trained: Trained) -> None:
    assert set(trained.weights) <= set(RECIPE.members)
    assert sum(trained.weights.values()) == pytest.approx(1.0)
    assert set(trained.importance) == set(trained.ensemble.features)
    ranked = sorted(trained.importance, key=lambda name: -trained.importance[name])
    assert "f1" in ranked[:3], "the feature that tells most was planted"


def test_controls_learn_from_the_outcomes_of_other_signals(data: Dataset) -> None:
    y = rotated(data.y, 12345)
    assert sorted(y.tolist()) == sorted(data.y.tolist()) and (y != data.y).any()
    shift = next(k for k in range(len(y)) if (np.roll(data.y, k) == y).all())
    assert 0.2 <= shift / len(y) <= 0.8, "far enough away that no neighbour's outcome is shown"


@pytest.mark.parametrize(("rows", "told"), [(299, "299 ended trades"), (300, None)])
def test_too_little_is_told_with_what_there_is(rows: int, told: str | None) -> None:
    few = market_data(1, rows=rows, sessions=420)
    if told is None:
        assert train(few, replace(RECIPE, members=("logistic",), controls=0)).ensemble.names == ("logistic",)
        return
    with pytest.raises(DataError, match=told) as caught:
        train(few, RECIPE)
    assert caught.value.code == "MODEL_TOO_LITTLE_DATA"


def test_too_few_losses_or_sessions_are_too_little() -> None:
    few = market_data(1, rows=400, sessions=420)
    rare = few.y.copy()
    rare[np.flatnonzero(rare < 0.5)[59:]] = 1.0
    with pytest.raises(DataError, match="59 lost"):
        train(replace(few, y=rare), RECIPE)
    with pytest.raises(DataError, match="of 249 sessions"):
        train(market_data(1, rows=400, sessions=249), RECIPE)


def test_parts_of_the_average_go_to_those_who_know(data: Dataset) -> None:
    rng = np.random.default_rng(1)
    y = (rng.random(4000) < 0.5).astype(np.float64)
    knows, guesses = 0.5 + 0.3 * (y - 0.5), np.full(4000, 0.5)
    weights = fit_weights([knows, guesses], y)
    assert weights[0] > 0.9 and weights.sum() == pytest.approx(1.0)
    assert kept(weights)[1] == 0.0 or kept(weights)[1] >= 0.02
    assert kept(np.array([0.01, 0.99])).tolist() == [0.0, 1.0]
    assert fit_weights([guesses, guesses], y).tolist() == pytest.approx([0.5, 0.5])


def test_each_combinatorial_path_says_something_of_every_row_from_others_only(data: Dataset, trained: Trained) -> None:
    assert len(trained.paths) == 5
    areas = [auc(said, data.y)[0] for said in trained.paths]
    assert all(np.isfinite(said).all() for said in trained.paths) and len(set(areas)) > 1
    assert min(areas) > 0.55, "the edge that was planted"
    noise = with_labels_of_others(data, 3)
    assert max(auc(said, noise.y)[0] for said in said_on_paths(noise, RECIPE)) < 0.55, "nothing is learned from itself"
    one = np.flatnonzero(data.y > 0.5)[:1]
    assert said_on_paths(replace(data, y=np.isin(np.arange(len(data)), one).astype(float)), RECIPE) == ()


def test_quick_is_smaller_and_another_recipe() -> None:
    whole = Recipe()
    small = quick(whole)
    assert (small.folds, small.controls) == (3, 1) and small.trees < whole.trees
    assert small.sha256 != whole.sha256 == Recipe().sha256
    with pytest.raises(ValueError, match="no member"):
        estimator("oracle", whole, 1, 100)


def test_a_fold_without_a_past_of_both_kinds_says_nothing(data: Dataset, trained: Trained) -> None:
    wins: Floats = np.ones(len(data))
    assert not np.isfinite(out_of_fold(trained.out_of_fold.raw, wins, trained.folds).judged).any()
