"""From a member's number to a probability that means what it says. Fitted on out-of-fold predictions, kept as arrays.

| calibrator | p becomes                                                  | fits            |
|------------|------------------------------------------------------------|-----------------|
| `Platt`    | sigmoid(slope x logit(p) + offset), slope never negative   | few rows        |
| `Isotonic` | straight lines between the steps of the best rising fit    | many rows       |

Neither says 0 or 1: nothing that was seen so seldom can be certain. Which one is chosen by its log loss on parts of the
rows that it was not fitted on; steps need many rows and a clear advantage, since they follow every turn of the weather.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ml_advanced.ensemble.members import Arrays, BadArrays, Floats, require, sigmoid

EDGE = 1e-4  # a member's 0 and 1 before the logit
_RIDGE = 1e-3  # pulls slope and offset to 1 and 0 a little: two classes that can be told apart have no best fit
_STEPS = 50
_STEPS_FROM_ROWS = 3000  # fewer: Platt
_CLEARLY = 0.0005  # nats per row
_GROUPS = 300


class Calibrator(Protocol):
    @property
    def kind(self) -> str: ...
    def apply(self, p: Floats) -> Floats: ...
    def arrays(self) -> dict[str, Floats]: ...


def logit(p: Floats) -> Floats:
    held = np.clip(p, EDGE, 1.0 - EDGE)
    made: Floats = np.log(held / (1.0 - held))
    return made


def log_losses(p: Floats, y: Floats) -> Floats:
    """Of each row, in nats."""
    held = np.clip(p, 1e-12, 1.0 - 1e-12)
    made: Floats = -np.where(y > 0.5, np.log(held), np.log1p(-held))
    return made


@dataclass(frozen=True, slots=True)
class Platt:
    slope: float
    offset: float
    kind: str = "platt"

    def apply(self, p: Floats) -> Floats:
        return np.clip(sigmoid(self.slope * logit(p) + self.offset), EDGE, 1.0 - EDGE)

    def arrays(self) -> dict[str, Floats]:
        return {"line": np.array([self.slope, self.offset])}

    @classmethod
    def of(cls, arrays: Arrays) -> Platt:
        line = arrays["line"]
        require(line.shape == (2,) and bool(np.isfinite(line).all()) and bool(line[0] >= 0), "no rising Platt line")
        return cls(float(line[0]), float(line[1]))


@dataclass(frozen=True, slots=True, eq=False)
class Isotonic:
    """at ascending within 0..1, level not falling within EDGE..1-EDGE."""

    at: Floats
    level: Floats
    kind: str = "isotonic"

    def apply(self, p: Floats) -> Floats:
        made: Floats = np.interp(p, self.at, self.level)
        return made

    def arrays(self) -> dict[str, Floats]:
        return {"at": self.at, "level": self.level}

    @classmethod
    def of(cls, arrays: Arrays) -> Isotonic:
        at, level = arrays["at"], arrays["level"]
        require(at.ndim == 1 and at.shape == level.shape and at.size >= 1, "steps of unequal number")
        require(bool(np.isfinite(at).all() and np.isfinite(level).all()), "a step is not finite")
        require(bool((np.diff(at) > 0).all() and (np.diff(level) >= 0).all()), "the steps do not rise")
        require(bool((level >= EDGE).all() and (level <= 1 - EDGE).all()), "a level is no probability")
        return cls(at, level)


def calibrator_of(kind: str, arrays: Arrays) -> Calibrator:
    """Checked. Raises BadArrays; an array that is missing too."""
    try:
        kinds: dict[str, type[Platt] | type[Isotonic]] = {"platt": Platt, "isotonic": Isotonic}
        return kinds[kind].of(arrays)
    except KeyError as error:
        raise BadArrays(f"{kind}: {error} is missing") from error


# ---------------------------------------------------------------- fitting
def fit_platt(p: Floats, y: Floats) -> Platt:
    """Newton's method on the log loss with Platt's own targets and a small ridge. A falling line becomes a flat one."""
    positives = float(y.sum())
    negatives = y.size - positives
    target = np.where(y > 0.5, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))
    z = logit(p)
    start = float(logit(np.array([(positives + 1.0) / (y.size + 2.0)]))[0])
    slope, offset = 1.0, 0.0
    for _ in range(_STEPS):
        q = sigmoid(slope * z + offset)
        w = q * (1.0 - q)
        g = np.array([np.sum((q - target) * z) + _RIDGE * (slope - 1.0), np.sum(q - target) + _RIDGE * offset])
        h = [float(np.sum(w * z * z)) + _RIDGE, float(np.sum(w * z)), float(np.sum(w)) + _RIDGE]
        determinant = max(h[0] * h[2] - h[1] * h[1], 1e-12)
        step = np.array([h[2] * g[0] - h[1] * g[1], h[0] * g[1] - h[1] * g[0]]) / determinant
        step *= min(1.0, 4.0 / max(1e-12, float(np.abs(step).max())))
        slope, offset = slope - float(step[0]), offset - float(step[1])
        if float(np.abs(step).max()) < 1e-10:
            break
    return Platt(slope, offset) if slope > 0 else Platt(0.0, start)


def fit_isotonic(p: Floats, y: Floats) -> Isotonic:
    """Pool adjacent violators, of at most _GROUPS neighbouring values; each level is pulled to the base rate by the
    weight of two rows."""
    order = np.argsort(p, kind="stable")
    at, first, counts = np.unique(p[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(y[order], first)
    if at.size > _GROUPS:
        begin = np.unique((np.arange(_GROUPS) * at.size) // _GROUPS)
        weighed = np.add.reduceat(at * counts, begin)
        sums, counts = np.add.reduceat(sums, begin), np.add.reduceat(counts, begin)
        at = weighed / counts
    base = float(y.mean())
    blocks: list[list[float]] = []  # [sum, rows, first step, last step]
    for k, (total, rows) in enumerate(zip(sums.tolist(), counts.tolist(), strict=True)):
        blocks.append([total, float(rows), k, k])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            total_above, rows_above, _, last = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total_above, blocks[-1][1] + rows_above, blocks[-1][2], last]
    levels = np.maximum.accumulate([(total + 2.0 * base) / (rows + 2.0) for total, rows, _, _ in blocks])
    steps = {int(block[edge]): k for k, block in enumerate(blocks) for edge in (2, 3)}
    keep = np.array(sorted(steps))
    return Isotonic(at[keep], np.clip(levels[[steps[int(k)] for k in keep]], EDGE, 1.0 - EDGE))


def fit_best(p: Floats, y: Floats, part: Floats) -> Calibrator:
    """The kind with the smaller log loss on parts it was not fitted on, fitted on all rows.

    part : (n,) which part (fold) each row belongs to; with one part, or few rows, Platt.
    """
    parts = np.unique(part)
    if y.size < _STEPS_FROM_ROWS:
        return fit_platt(p, y)
    losses = [0.0, 0.0]
    for one in parts:
        out = part == one
        if parts.size < 2 or np.unique(y[~out]).size < 2:
            return fit_platt(p, y)
        fitted: tuple[Calibrator, ...] = (fit_platt(p[~out], y[~out]), fit_isotonic(p[~out], y[~out]))
        for kind, made in enumerate(fitted):
            losses[kind] += float(np.sum(log_losses(made.apply(p[out]), y[out])))
    return fit_platt(p, y) if losses[0] <= losses[1] + _CLEARLY * y.size else fit_isotonic(p, y)
