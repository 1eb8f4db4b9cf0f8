"""Which sessions and trades may teach, and which may only be judged. Pure; sessions are positions 0, 1, 2 ….

Purge: a trade teaches nothing about a test span when any session of its holding time, from the signal to the exit, lies
in the span; one still open at the end of the data has no end and teaches nothing before a span either.
Embargo: so many sessions more between training and test; what lies there neither teaches nor is judged. Before a span
they keep apart what indicators of neighbouring bars share; after a span they begin where its last trade has ended.
Source: López de Prado, Advances in Financial Machine Learning (2018), 7.4 and chapter 12.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Fold:
    """Half-open spans of sessions in which a signal belongs to the part: first included, end not."""

    train_first: int
    train_end: int
    test_first: int
    test_end: int


def folds_that_fit(sessions: int, train: int, test: int, embargo: int) -> int:
    return max(0, (sessions - train - embargo) // test)


def walk_folds(sessions: int, folds: int, train: int, test: int, embargo: int) -> tuple[Fold, ...]:
    """Test spans of `test` sessions one after the other, the last one ending with the data; `train` sessions before
    each, `embargo` sessions in between. Raises ValueError when they do not fit."""
    if not 0 < folds <= folds_that_fit(sessions, train, test, embargo):
        raise ValueError(f"{folds} folds of {train} + {embargo} + {test} sessions do not fit into {sessions}")
    found = []
    for number in range(folds):
        first = sessions - (folds - number) * test
        found.append(Fold(first - embargo - train, first - embargo, first, first + test))
    return tuple(found)


def groups_of(sessions: int, groups: int) -> tuple[tuple[int, int], ...]:
    """Neighbouring spans of sessions // groups sessions each, half-open; the last takes what is left over."""
    size = sessions // groups
    return tuple((k * size, sessions if k == groups - 1 else (k + 1) * size) for k in range(groups))


def teaches(start: Ints, end: Ints, spans: Sequence[tuple[int, int]], reach: Sequence[int], embargo: int) -> Bools:
    """Which trades may teach when these spans are the test.

    start, end : sessions of signal and exit · spans : half-open · reach : per span the last session on which a trade
    of that span is held, the span's own last at least. Before a span a trade must have ended; after it, it must begin
    more than `embargo` sessions after the reach.
    """
    keep = np.ones(start.shape, dtype=np.bool_)
    for (first, _), last in zip(spans, reach, strict=True):
        keep &= (end < first) | (start > last + embargo)
    return keep


def choices_of(groups: int, tested: int) -> tuple[tuple[int, ...], ...]:
    """Every choice of `tested` groups as the test."""
    return tuple(combinations(range(groups), tested))


def paths(choices: Sequence[tuple[int, ...]], groups: int) -> Ints:
    """(paths, groups): which choice tests each group on each path; a path tests every group once."""
    tested_by = [[k for k, choice in enumerate(choices) if group in choice] for group in range(groups)]
    return np.array(tested_by, dtype=np.intp).T
