"""Which signals may teach when others are judged: purged, embargoed walk-forward and combinatorial folds.

A label looks at the span from the signal's session to the exit's. A signal teaches nothing about a test span when its
own label's span touches it, or begins within `embargo` sessions after the last label of the test has ended; before a
test the embargo lies between the training's last signal and the test's first. The arithmetic is core/folds.py, which
the walk-forward of the rules uses too. Everything counts in sessions: a day with many signals is one.
Source: López de Prado, Advances in Financial Machine Learning (2018), 7.4 and chapter 12.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.folds import Ints, choices_of, groups_of, paths, teaches

Dates = NDArray[np.datetime64]


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Rows of the data set, ascending. `purged`: how many the purge and the embargo took from the training.

    first, last : sessions of the test's first and last signal day, both included; of the outermost ones when the test
    has several parts.
    """

    train: Ints
    test: Ints
    purged: int
    first: np.datetime64
    last: np.datetime64


@dataclass(frozen=True, slots=True, eq=False)
class Combinatorial:
    """groups (n,) which group each row's signal lies in · choices: per fold the groups it tests
    paths (n_paths, n_groups): which fold tests each group on each path; a path tests every row exactly once."""

    folds: tuple[Fold, ...]
    groups: Ints
    choices: tuple[tuple[int, ...], ...]
    paths: Ints


def purged_folds(
    starts: Dates,
    ends: Dates,
    n_splits: int,
    embargo: int,
    *,
    sessions: Dates,
    train_sessions: int | None = None,
    test_sessions: int | None = None,
) -> tuple[Fold, ...]:
    """Walk-forward: `n_splits` test spans of `test_sessions` sessions in a row, the last ending with the data.

    starts, ends    (n,) datetime64[D] sessions of each signal and its exit · sessions (s,) all of them, ascending
    embargo         sessions between the last training signal and the first test signal
    train_sessions  the training's length in sessions; None: everything before
    test_sessions   None: the sessions cut into n_splits + 1 parts, the first of which only teaches
    Raises ValueError when the folds do not fit, or for a span that is not of these sessions.
    """
    first, last = _positions(starts, ends, sessions)
    total = int(sessions.size)
    test = total // (n_splits + 1) if test_sessions is None and n_splits > 0 else (test_sessions or 0)
    if n_splits < 1 or embargo < 0 or test < 1 or total - n_splits * test - embargo < (train_sessions or 1):
        raise ValueError(f"{n_splits} folds of {test} sessions, embargo {embargo}, do not fit into {total} sessions")
    found = []
    for number in range(n_splits):
        test_first = total - (n_splits - number) * test
        train_end = test_first - embargo
        train_first = 0 if train_sessions is None else train_end - train_sessions
        may = (first >= train_first) & (first < test_first)
        keep = may & (first < train_end) & (last < test_first)
        judged = (first >= test_first) & (first < test_first + test)
        purged = int((may & ~keep).sum())
        found.append(_fold(keep, judged, purged, (first, last), sessions, (test_first, test_first + test)))
    return tuple(found)


def combinatorial_purged(
    starts: Dates, ends: Dates, n_groups: int, n_test: int, embargo: int, *, sessions: Dates
) -> Combinatorial:
    """The sessions cut into `n_groups` neighbouring groups; every choice of `n_test` of them is once the test.

    After each tested group nothing teaches until `embargo` sessions after its last label has ended.
    Raises ValueError for numbers that make no fold, or for a span that is not of these sessions.
    """
    first, last = _positions(starts, ends, sessions)
    total = int(sessions.size)
    if not (1 <= n_test < n_groups <= total) or embargo < 0:
        raise ValueError(f"{n_test} of {n_groups} groups, embargo {embargo}, make no folds of {total} sessions")
    spans = groups_of(total, n_groups)
    group = np.searchsorted(np.array([begin for begin, _ in spans]), first, side="right") - 1
    reach = [max([end - 1, *last[group == k].tolist()]) for k, (_, end) in enumerate(spans)]
    choices = choices_of(n_groups, n_test)
    folds = []
    for choice in choices:
        judged = np.isin(group, choice)
        keep = ~judged & teaches(first, last, [spans[k] for k in choice], [reach[k] for k in choice], embargo)
        purged = int((~judged & ~keep).sum())
        around = spans[choice[0]][0], spans[choice[-1]][1]
        folds.append(_fold(keep, judged, purged, (first, last), sessions, around))
    return Combinatorial(tuple(folds), group, choices, paths(choices, n_groups))


def overlapping(train: Ints, test: Ints, starts: NDArray[Any], ends: NDArray[Any]) -> int:
    """How many training labels share a session with a test label; a fold that had one is never handed out.

    starts, ends : (n,) sessions, as dates or as positions.
    """
    if not train.size or not test.size:
        return 0
    order = np.argsort(starts[test])
    begins, until = starts[test][order], np.maximum.accumulate(ends[test][order].astype(np.int64))
    before = np.searchsorted(begins, ends[train], side="right")  # test labels that begin no later than this one ends
    return int(((before > 0) & (until[np.maximum(before - 1, 0)] >= starts[train].astype(np.int64))).sum())


def _positions(starts: Dates, ends: Dates, sessions: Dates) -> tuple[Ints, Ints]:
    if sessions.size == 0 or (np.diff(sessions) <= np.timedelta64(0, "D")).any():
        raise ValueError("sessions must be there and strictly ascending")
    first, last = np.searchsorted(sessions, starts), np.searchsorted(sessions, ends)
    there = np.minimum(np.concatenate([first, last]), sessions.size - 1)
    if (sessions[there] != np.concatenate([starts, ends])).any() or (last < first).any():
        raise ValueError("every span must begin and end on a session, and end no earlier than it begins")
    return first, last


def _fold(
    keep: NDArray[np.bool_],
    judged: NDArray[np.bool_],
    purged: int,
    spans: tuple[Ints, Ints],
    sessions: Dates,
    around: tuple[int, int],
) -> Fold:
    train, test = np.flatnonzero(keep), np.flatnonzero(judged)
    assert not overlapping(train, test, *spans), "a training label shares a session with a test label"
    return Fold(train, test, purged, sessions[around[0]], sessions[around[1] - 1])
