"""What a model learns from: one row per signal whose trade has ended, oldest first. Plain arrays, hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Dates = NDArray[np.datetime64]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """n signals, k features; build it with `dataset_of`, which orders, checks and hashes.

    names             (k,) features, in the order of the columns of x
    x                 (n, k) float64 at the close of the signal; NaN = unknown
    y                 (n,) float64, 1 = the trade ended in profit after costs, else 0
    r                 (n,) float64, what it made in R after costs; R = (entry - stop) x shares
    starts, ends      (n,) datetime64[D], sessions of the signal and of the exit: the span that the label looks at
    sessions          (s,) datetime64[D], every session of the bars, ascending: what folds and embargoes count in
    sha256            of all of the above: the same hash, the same data
    """

    names: tuple[str, ...]
    x: Floats
    y: Floats
    r: Floats
    starts: Dates
    ends: Dates
    decision_ids: tuple[str, ...]
    symbols: tuple[str, ...]
    strategies: tuple[str, ...]
    sessions: Dates
    sha256: str

    def __len__(self) -> int:
        return len(self.decision_ids)

    def rows(self, keep: NDArray[Any]) -> Dataset:
        """The signals that a mask or an ascending index array selects; a dataset of its own, with its own hash."""
        at = np.flatnonzero(keep) if keep.dtype == np.bool_ else np.asarray(keep, dtype=np.intp)

        def chosen(texts: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(texts[i] for i in at.tolist())

        return dataset_of(
            names=self.names, x=self.x[at], y=self.y[at], r=self.r[at], starts=self.starts[at], ends=self.ends[at],
            decision_ids=chosen(self.decision_ids), symbols=chosen(self.symbols),
            strategies=chosen(self.strategies), sessions=self.sessions,
        )  # fmt: skip

    def columns(self, names: Sequence[str]) -> Dataset:
        """The same signals with these features in this order. KeyError: a name that is not here."""
        where = {name: k for k, name in enumerate(self.names)}
        at = [where[name] for name in names]
        return dataset_of(
            names=tuple(names), x=self.x[:, at], y=self.y, r=self.r, starts=self.starts, ends=self.ends,
            decision_ids=self.decision_ids, symbols=self.symbols, strategies=self.strategies, sessions=self.sessions,
        )  # fmt: skip


def dataset_of(
    *,
    names: Sequence[str],
    x: Floats,
    y: Floats,
    r: Floats,
    starts: Dates,
    ends: Dates,
    decision_ids: Sequence[str],
    symbols: Sequence[str],
    strategies: Sequence[str],
    sessions: Dates,
) -> Dataset:
    """Ordered by signal session and decision id, checked, hashed.

    Raises ValueError for arrays of different length, a label that is not 0 or 1 or has no R, a span that ends before it
    starts, a session that is not in `sessions`, or a decision that stands twice.
    """
    order = sorted(range(len(decision_ids)), key=lambda i: (starts[i], decision_ids[i]))
    at = np.array(order, dtype=np.intp)
    if len({len(part) for part in (x, y, r, starts, ends, decision_ids, symbols, strategies)}) != 1:
        raise ValueError("the parts of a dataset must be of one length")
    found = {
        "x": np.where(np.isnan(x), np.nan, x)[at].astype(np.float64).reshape(len(order), len(names)),
        "y": y[at].astype(np.float64),
        "r": r[at].astype(np.float64),
        "starts": starts[at].astype("datetime64[D]"),
        "ends": ends[at].astype("datetime64[D]"),
        "sessions": sessions.astype("datetime64[D]"),
    }
    texts = {
        "names": tuple(map(str, names)),
        "decision_ids": tuple(str(decision_ids[i]) for i in order),
        "symbols": tuple(str(symbols[i]) for i in order),
        "strategies": tuple(str(strategies[i]) for i in order),
    }
    _check(found, texts)
    return Dataset(**texts, **found, sha256=_sha256(found, texts))  # type: ignore[arg-type]


def _check(found: dict[str, Any], texts: dict[str, tuple[str, ...]]) -> None:
    if not np.isin(found["y"], (0.0, 1.0)).all() or not np.isfinite(found["r"]).all():
        raise ValueError("every signal of a dataset has a label of 0 or 1 and a finite R")
    if (found["ends"] < found["starts"]).any():
        raise ValueError("a label's span must not end before it starts")
    if not np.isin(np.concatenate([found["starts"], found["ends"]]), found["sessions"]).all():
        raise ValueError("a label's span must start and end on a session of the bars")
    if len(set(texts["decision_ids"])) != len(texts["decision_ids"]) or len(set(texts["names"])) != len(texts["names"]):
        raise ValueError("a decision or a feature stands twice")


def _sha256(found: dict[str, Any], texts: dict[str, tuple[str, ...]]) -> str:
    """Little-endian bytes with their names and shapes; not a function of the machine or of memory layout."""
    digest = hashlib.sha256()
    for name in sorted(texts):
        digest.update(f"{name} {len(texts[name])}\n".encode() + "\n".join(texts[name]).encode() + b"\n")
    for name in sorted(found):
        values = found[name]
        wire = values.astype("<i8") if values.dtype.kind == "M" else values.astype("<f8")
        digest.update(f"{name} {values.shape}\n".encode() + np.ascontiguousarray(wire).tobytes())
    return digest.hexdigest()
