"""Folds over label spans: what overlaps never teaches, nothing else is taken away, and skfolio says the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ml_advanced.validation import Dates, combinatorial_purged, overlapping, purged_folds

FIRST = np.datetime64("2020-01-02")


def layout(seed: int) -> tuple[Dates, Dates, Dates]:
    """Sessions with gaps, signals in bunches, spans of very different lengths; some end with the data."""
    rng = np.random.default_rng(seed)
    sessions = FIRST + np.cumsum(rng.integers(1, 4, int(rng.integers(60, 200))))
    count = int(rng.integers(20, 300))
    first = np.sort(rng.choice(sessions.size, count, p=None if seed % 2 else _bunched(rng, sessions.size)))
    longest = int(rng.integers(1, 30))
    last = np.minimum(first + rng.integers(0, longest + 1, count), sessions.size - 1)
    return sessions[first], sessions[last], sessions


def _bunched(rng: np.random.Generator, size: int) -> np.ndarray:
    weight = rng.random(size) ** 6
    return np.asarray(weight / weight.sum())


def touching(train: np.ndarray, test: np.ndarray, starts: Dates, ends: Dates) -> int:
    """By brute force: training labels that share a session with a test label."""
    meets = (starts[train][:, None] <= ends[test][None, :]) & (ends[train][:, None] >= starts[test][None, :])
    return int(meets.any(axis=1).sum())


@pytest.mark.parametrize("block", range(10))
def test_L09_no_training_label_touches_a_test_label_in_200_layouts(block: int) -> None:
    for seed in range(block * 20, block * 20 + 20):
        starts, ends, sessions = layout(seed)
        embargo = seed % 7
        walked = purged_folds(starts, ends, 2 + seed % 4, embargo, sessions=sessions)
        combined = combinatorial_purged(starts, ends, 5 + seed % 4, 1 + seed % 3, embargo, sessions=sessions)
        for fold in (*walked, *combined.folds):
            assert (
                touching(fold.train, fold.test, starts, ends) == 0 == overlapping(fold.train, fold.test, starts, ends)
            )
            assert not np.intersect1d(fold.train, fold.test).size


@pytest.mark.parametrize("seed", range(0, 60, 3))
def test_the_purge_takes_exactly_what_touches_or_lies_in_the_embargo(seed: int) -> None:
    """Taking too much is a bug too: said anew for each row, without the arithmetic of the code."""
    starts, ends, sessions = layout(seed)
    embargo, number = seed % 6, {day: k for k, day in enumerate(sessions.tolist())}
    first, last = ([number[day] for day in days.tolist()] for days in (starts, ends))
    found = combinatorial_purged(starts, ends, 6, 2, embargo, sessions=sessions)
    size = sessions.size // 6
    for fold, choice in zip(found.folds, found.choices, strict=True):
        spans = [(k * size, sessions.size if k == 5 else (k + 1) * size) for k in choice]
        tested = [[i for i, at in enumerate(first) if low <= at < high] for low, high in spans]
        assert fold.test.tolist() == sorted(i for part in tested for i in part)
        teaches = []
        for i in set(range(len(first))) - set(fold.test.tolist()):
            clear = [
                last[i] < low or first[i] > max([high - 1, *(last[j] for j in part)]) + embargo
                for (low, high), part in zip(spans, tested, strict=True)
            ]
            teaches += [i] if all(clear) else []
        assert fold.train.tolist() == sorted(teaches)
        assert fold.purged == len(first) - len(fold.train) - len(fold.test)


def test_a_path_tests_every_row_once() -> None:
    starts, ends, sessions = layout(8)
    found = combinatorial_purged(starts, ends, 6, 2, 3, sessions=sessions)
    assert len(found.folds) == 15 and found.paths.shape == (5, 6)
    for path in found.paths:
        rows = [np.intersect1d(found.folds[k].test, np.flatnonzero(found.groups == g)) for g, k in enumerate(path)]
        assert np.concatenate(rows).size == starts.size == np.unique(np.concatenate(rows)).size


def test_a_walk_forward_is_only_judged_by_what_came_before() -> None:
    starts, ends, sessions = layout(11)
    folds = purged_folds(starts, ends, 4, 5, sessions=sessions)
    assert folds[-1].last == sessions[-1]
    for fold in folds:
        gap = np.searchsorted(sessions, fold.first) - np.searchsorted(sessions, starts[fold.train].max())
        assert gap > 5 and (ends[fold.train] < fold.first).all()
        assert (starts[fold.test] >= fold.first).all() and (starts[fold.test] <= fold.last).all()
    assert np.unique(np.concatenate([fold.test for fold in folds])).size == sum(fold.test.size for fold in folds)


def test_a_rolling_walk_forward_forgets_what_is_older() -> None:
    starts, ends, sessions = layout(11)
    rolling = purged_folds(starts, ends, 3, 2, sessions=sessions, train_sessions=20, test_sessions=10)
    for fold in rolling:
        oldest = np.searchsorted(sessions, fold.first) - 2 - 20
        assert np.searchsorted(sessions, starts[fold.train].min(initial=sessions[-1])) >= oldest


def test_without_the_purge_labels_do_overlap_and_are_counted() -> None:
    """The check itself can fail."""
    starts, ends, sessions = layout(4)
    fold = purged_folds(starts, ends, 3, 0, sessions=sessions)[1]
    greedy = np.flatnonzero(starts < fold.first)
    assert overlapping(greedy, fold.test, starts, ends) == touching(greedy, fold.test, starts, ends) > 0
    assert overlapping(greedy, fold.test[:0], starts, ends) == 0


@pytest.mark.parametrize(
    ("splits", "embargo", "words"),
    [
        (0, 0, {}),
        (3, -1, {}),
        (3, 0, {"test_sessions": 0}),
        (4, 0, {"test_sessions": 30}),
        (2, 5, {"train_sessions": 90}),
    ],
)
def test_folds_that_do_not_fit_are_refused(splits: int, embargo: int, words: dict[str, int]) -> None:
    sessions = FIRST + np.arange(100)
    with pytest.raises(ValueError, match="do not fit"):
        purged_folds(sessions[:50], sessions[:50], splits, embargo, sessions=sessions, **words)


def test_a_span_that_is_none_is_refused() -> None:
    sessions = FIRST + np.arange(0, 100, 2)
    good = sessions[:10]
    with pytest.raises(ValueError, match="begin and end on a session"):
        purged_folds(good + 1, good + 2, 2, 0, sessions=sessions)
    with pytest.raises(ValueError, match="begin and end on a session"):
        combinatorial_purged(good[1:], good[:-1], 4, 1, 0, sessions=sessions)
    with pytest.raises(ValueError, match="strictly ascending"):
        purged_folds(good, good, 2, 0, sessions=sessions[::-1])
    with pytest.raises(ValueError, match="make no folds"):
        combinatorial_purged(good, good, 4, 4, 0, sessions=sessions)


# ---------------------------------------------------------------- skfolio, where the settings coincide
@pytest.mark.filterwarnings("ignore")
def test_folds_equal_skfolios() -> None:
    """skfolio counts rows: one signal a session, each label so many sessions long. One test, for its import is slow."""
    selection = pytest.importorskip("skfolio.model_selection", reason="skfolio is not installed")
    for groups, tested in ((4, 2), (5, 2), (6, 3), (10, 8)):
        for label, embargo in ((0, 0), (3, 0), (3, 2), (5, 1)):
            _combined(selection.CombinatorialPurgedCV, groups, tested, label, embargo)
    for label, splits, test in ((0, 3, 20), (4, 3, 20), (7, 2, 15)):
        for expanding in (True, False):
            _walked(selection.WalkForward, label, splits, test, expanding)


def one_signal_a_session(count: int, label: int) -> tuple[Dates, Dates, Dates]:
    sessions = FIRST + np.arange(count)
    return sessions, np.minimum(sessions + label, sessions[-1]), sessions


def _combined(theirs: Any, groups: int, tested: int, label: int, embargo: int) -> None:
    starts, ends, sessions = one_signal_a_session(123, label)
    found = combinatorial_purged(starts, ends, groups, tested, embargo, sessions=sessions)
    other = theirs(groups, tested, purged_size=label, embargo_size=embargo)
    split = list(other.split(np.zeros((123, 1))))
    assert [fold.train.tolist() for fold in found.folds] == [train.tolist() for train, _ in split]
    assert [fold.test.tolist() for fold in found.folds] == [np.concatenate(tests).tolist() for _, tests in split]
    assert found.paths.shape[0] == other.n_test_paths


def _walked(theirs: Any, label: int, splits: int, test: int, expanding: bool) -> None:
    count = 40 + label + splits * test
    starts, ends, sessions = one_signal_a_session(count, label)
    found = purged_folds(
        starts, ends, splits, label, sessions=sessions, test_sessions=test, train_sessions=None if expanding else 40
    )
    other = theirs(test_size=test, train_size=40, purged_size=label, expand_train=expanding)
    split = list(other.split(np.zeros((count, 1))))
    assert [fold.test.tolist() for fold in found] == [part.tolist() for _, part in split]
    assert [fold.train.tolist() for fold in found] == [part.tolist() for part, _ in split]
