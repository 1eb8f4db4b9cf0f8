"""Label overlap: labels that share days are not that many observations, and one that reaches into the test is a leak.

Uniqueness of a label is the mean over its days of one over the labels alive that day; their sum is how many independent
labels there are. Source: Lopez de Prado, Advances in Financial Machine Learning (2018), chapter 4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.bars_io import Days, Floats, from_day
from portfolio.backtest.honesty.asked import Answer, Labels
from portfolio.backtest.honesty.findings import Check, failed, passed, unknown

Ints = NDArray[np.intp]
OVERLAP = "label_overlap"
_ENOUGH = 0.8  # labels that are unique to this degree may be counted as they are
_ROOM = 1.25  # weights or claims may exceed the independent number by so much


def label_overlap(answer: Answer) -> Check:
    labels = answer.labels
    if labels is None and answer.independent is None:
        return unknown(OVERLAP, "the strategy tells no labels", code="LABELS_ABSENT")
    if labels is None:
        labels = _of_trades(answer)
    if not labels.start.size:
        return unknown(OVERLAP, "no label", code="LABELS_ABSENT")
    return _meets_test(labels) or _counted_twice(labels, answer.independent)


def _of_trades(answer: Answer) -> Labels:
    deals = [d for d in answer.deals if d.exit is not None]
    start, end = np.array([d.entry for d in deals], np.int32), np.array([d.exit for d in deals], np.int32)
    names, parts = tuple(d.symbol + d.tag for d in deals), ("",) * len(deals)
    return Labels(names, start, end, parts, np.full(len(deals), np.nan), pooled=False)


def _meets_test(labels: Labels) -> Check | None:
    """A training label that shares a day with a test label; where one model learns from all symbols, of any symbol."""
    symbols = np.array(labels.symbol)
    groups = [np.arange(symbols.size)] if labels.pooled else [np.flatnonzero(symbols == s) for s in np.unique(symbols)]
    touching = np.concatenate([_touching(labels, rows) for rows in groups])
    if not touching.size:
        return None
    train = labels.part.count("train")
    told = f"{touching.size} of {train} training labels share days with a test label: purge them"
    return failed(
        OVERLAP, labels.start.size, told, code="TRAIN_MEETS_TEST", blame=_line(labels, int(touching[0]))
    )  # fmt: skip


def _touching(labels: Labels, rows: Ints) -> Ints:
    """Of these rows the training labels that share a day with one of the test labels."""
    part = np.array(labels.part)[rows]
    train, test = rows[part == "train"], rows[part == "test"]
    if not train.size or not test.size:
        return np.empty(0, dtype=np.intp)
    order = test[np.argsort(labels.start[test], kind="stable")]
    latest = np.maximum.accumulate(labels.end[order])
    before = np.searchsorted(labels.start[order], labels.end[train], side="right")
    touches: Ints = train[(before > 0) & (latest[np.maximum(before - 1, 0)] >= labels.start[train])]
    return touches


def _counted_twice(labels: Labels, independent: float | None) -> Check:
    unique = uniqueness(labels)
    n, truly = labels.start.size, float(unique.sum())
    weighted = np.isfinite(labels.weight)
    counted = float(np.where(weighted, labels.weight, 1.0).sum()) if independent is None else independent
    told = f"{n} labels, {truly:.1f} of them independent, counted as {counted:.1f}"
    if counted > _ROOM * truly and truly < _ENOUGH * n:
        at = int(np.argmin(unique))
        blame = (
            f"label of {labels.symbol[at]} from {from_day(int(labels.start[at]))} to {from_day(int(labels.end[at]))}"
        )
        return failed(OVERLAP, n, told, code="COUNTED_TWICE", blame=blame)
    return passed(OVERLAP, n, told)


def _line(labels: Labels, at: int) -> str:
    return f"label of {labels.symbol[at]} from {from_day(int(labels.start[at]))} to {from_day(int(labels.end[at]))}"


def uniqueness(labels: Labels) -> Floats:
    """(n_labels,) in (0, 1]; each symbol by itself."""
    out = np.empty(labels.start.size)
    symbols = np.array(labels.symbol)
    for symbol in np.unique(symbols):
        rows = np.flatnonzero(symbols == symbol)
        out[rows] = _unique(labels.start[rows], labels.end[rows])
    return out


def _unique(start: Days, end: Days) -> Floats:
    first = int(start.min())
    alive = np.zeros(int(end.max()) - first + 2)
    np.add.at(alive, start - first, 1.0)
    np.add.at(alive, end - first + 1, -1.0)
    alive = np.cumsum(alive)
    shares = np.concatenate([[0.0], np.cumsum(1.0 / np.maximum(alive, 1.0))])
    out: Floats = (shares[end - first + 1] - shares[start - first]) / (end - start + 1)
    return out
