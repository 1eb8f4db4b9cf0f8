"""Whether a challenger may become champion: a plan that stands in the chain before the data were looked at. Pure.

Judged is what the ensemble said out of fold, with the calibration of its own past, on each of these:

| criterion       | holds when, at the plan's level                                                                |
|-----------------|------------------------------------------------------------------------------------------------|
| rows, sessions  | there is enough to judge by                                                                    |
| log_loss, brier | it is better than the base rate known at the time                                              |
| auc             | it orders wins before losses, above 1/2                                                        |
| r_spread        | in R after costs, cut at ±3, the upper half of its opinions made more than the lower half      |
| controls        | its gain in log loss is more than that of every round with other signals' labels               |
| varies          | its opinions differ                                                                            |
| champion        | where there is one: better log loss than it, on rows that neither had learned from             |

Lower bounds come from a circular block bootstrap over sessions: signals of neighbouring sessions share their weather.
Each further try since the last promotion makes the level stricter: 5 % is divided by the number of tries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from core.canonical import canonical_json
from ml_advanced.dataset import Dataset
from ml_advanced.ensemble.calibrators import log_losses
from ml_advanced.ensemble.members import Floats
from ml_advanced.training import OutOfFold

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Decided before. `earned_full_at`: the lower bound of the relative gain in log loss that earns all points."""

    error: float = 0.05  # of one criterion and one try; all criteria together are far stricter
    error_least: float = 0.0025
    draws: int = 4000
    block_sessions: int = 15
    rows: int = 250
    sessions: int = 60
    spread: float = 1e-3
    r_most: float = 3.0  # a fill just above its stop has an R without bounds: one trade must not decide
    renewal_margin: float = 0.002  # nats by which a champion about to expire may seem better
    earned_full_at: float = 0.02
    earned_least: float = 0.25
    seed: int = 20240308

    @property
    def sha256(self) -> str:
        return hashlib.sha256(canonical_json(self).encode()).hexdigest()

    def level(self, tries: int) -> float:
        return max(self.error_least, self.error / max(1, tries))


PLAN: Final = Plan()


@dataclass(frozen=True, slots=True)
class Measure:
    """A number with the interval it may lie in (90 %), and the lower bound that the gate asks for."""

    value: float
    low: float
    high: float
    bound: float


@dataclass(frozen=True, slots=True)
class Criterion:
    name: str
    observed: float | None
    asked: str
    met: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """`earned`: part of quality_gate.weights.model that a promoted model brings, 0..1; 0 when refused."""

    passed: bool
    code: str
    criteria: tuple[Criterion, ...]
    measures: dict[str, Measure]
    tries: int
    plan_sha256: str
    earned: float

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed, "code": self.code, "tries": self.tries, "plan_sha256": self.plan_sha256,
            "earned": self.earned, "criteria": list(self.criteria), "measures": self.measures,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Champion:
    """What the champion said of the same rows, NaN where it had learned from them; `ends_soon`: it will expire."""

    model_id: str
    probabilities: Floats
    ends_soon: bool = False


# ---------------------------------------------------------------- lower bounds
@dataclass(frozen=True, slots=True, eq=False)
class Sampler:
    """Draws blocks of neighbouring sessions; (draws, rows of sessions) weights are never made, only sums."""

    at: Ints  # number of each row's session
    sessions: int
    plan: Plan

    @classmethod
    def of(cls, starts: Any, plan: Plan) -> Sampler:
        days, at = np.unique(starts, return_inverse=True)
        return cls(at.astype(np.int64), int(days.size), plan)

    def means(self, values: Floats, among: Any = None) -> Floats:
        """(draws,) means of the values over the rows drawn; `among`: a mask of the rows that count."""
        counted = np.ones(len(values)) if among is None else among.astype(np.float64)
        sums = np.bincount(self.at, values * counted, self.sessions).astype(np.float64)
        counts = np.bincount(self.at, counted, self.sessions).astype(np.float64)
        drawn_sum, drawn_count = self._drawn(sums), self._drawn(counts)
        made: Floats = drawn_sum / np.maximum(drawn_count, 1.0)
        return made

    def _drawn(self, per_session: Floats) -> Floats:
        length = max(1, min(self.plan.block_sessions, self.sessions // 4))
        blocks = -(-self.sessions // length)
        rng = np.random.default_rng(self.plan.seed)  # the same draws for every measure
        first = rng.integers(0, self.sessions, (self.plan.draws, blocks))
        total = np.concatenate(([0.0], np.cumsum(np.concatenate((per_session, per_session[:length])))))
        made: Floats = (total[first + length] - total[first]).sum(axis=1)
        return made

    def measure(self, value: float, drawn: Floats, level: float) -> Measure:
        low, high, bound = np.quantile(drawn, (0.05, 0.95, level)).tolist()
        return Measure(value, low, high, bound)


def auc(p: Floats, y: Floats) -> tuple[float, Floats]:
    """(area, what each row adds to its deviation): DeLong's placements, so that blocks of rows can be drawn."""
    wins = y > 0.5
    up, down = np.sort(p[wins]), np.sort(p[~wins])
    if not up.size or not down.size:
        return 0.5, np.zeros(len(p))
    placed = np.empty(len(p))
    below = np.searchsorted(down, p[wins], "left") + np.searchsorted(down, p[wins], "right")
    above = 2 * up.size - np.searchsorted(up, p[~wins], "left") - np.searchsorted(up, p[~wins], "right")
    placed[wins], placed[~wins] = below / (2 * down.size), above / (2 * up.size)
    area = float(placed[wins].mean())
    share = np.where(wins, wins.mean(), 1.0 - wins.mean())
    return area, (placed - area) / share


# ---------------------------------------------------------------- the verdict
def judge(
    data: Dataset, record: OutOfFold, controls: Sequence[tuple[OutOfFold, Floats]], *, champion: Champion | None = None,
    tries: int = 1, plan: Plan = PLAN,
) -> Verdict:  # fmt: skip
    """tries : how many challengers were judged since the last promotion, this one included."""
    rows = record.rows
    p, base, y = record.judged[rows], record.base[rows], data.y[rows]
    r = np.clip(data.r[rows], -plan.r_most, plan.r_most)
    sampler = Sampler.of(data.starts[rows], plan) if rows.size else None
    enough = (
        _at_least("rows", float(rows.size), float(plan.rows)),
        _at_least("sessions", 0.0 if sampler is None else float(sampler.sessions), float(plan.sessions)),
    )
    if sampler is None or not all(one.met for one in enough):
        return Verdict(False, "MODEL_TOO_FEW_ROWS", enough, {}, tries, plan.sha256, 0.0)
    level = plan.level(tries)
    found = measures(p, base, y, r, sampler, level)
    above = [Criterion(n, found[n].bound, f"above {_FLOOR[n]:g}", found[n].bound > _FLOOR[n]) for n in _FLOOR]
    luck = max((_gain(one, labels) for one, labels in controls), default=0.0)
    beaten = Criterion("controls", found["log_loss"].value, f"above {luck:.6f}", found["log_loss"].value > luck)
    spread = float(p.max() - p.min())
    criteria = [*enough, *above, beaten, _at_least("varies", spread, plan.spread)]
    if champion is not None:
        criteria.append(_against(champion, p, y, rows, data, level, plan))
    passed = all(one.met for one in criteria)
    code = "OK" if passed else _CODE.get(next(one.name for one in criteria if not one.met), "MODEL_NO_BETTER")
    return Verdict(passed, code, tuple(criteria), found, tries, plan.sha256, _earned(found, plan) if passed else 0.0)


_FLOOR: Final = {"log_loss": 0.0, "brier": 0.0, "auc": 0.5, "r_spread": 0.0}
_CODE: Final = {"champion": "MODEL_NO_BETTER_THAN_CHAMPION", "varies": "MODEL_CONSTANT"}


def measures(p: Floats, base: Floats, y: Floats, r: Floats, sampler: Sampler, level: float) -> dict[str, Measure]:
    """Gains over the base rate (positive: better), the area, and R of the halves; each with its interval."""
    gain = log_losses(base, y) - log_losses(p, y)
    squares = (base - y) ** 2 - (p - y) ** 2
    area, adds = auc(p, y)
    upper = upper_half(p)
    halves = sampler.means(r, upper) - sampler.means(r, ~upper)
    both = bool(upper.any() and (~upper).any())
    spread = float(r[upper].mean() - r[~upper].mean()) if both else 0.0
    relative = log_losses(base, y).mean()
    return {
        "log_loss": sampler.measure(float(gain.mean()), sampler.means(gain), level),
        "brier": sampler.measure(float(squares.mean()), sampler.means(squares), level),
        "auc": sampler.measure(area, area + sampler.means(adds), level),
        "r_spread": sampler.measure(spread, halves if both else np.zeros(1), level),
        "relative_gain": sampler.measure(float(gain.mean() / relative), sampler.means(gain / relative), level),
        "r_upper": sampler.measure(float(r[upper].mean()) if both else 0.0, sampler.means(r, upper), level),
        "r_all": sampler.measure(float(r.mean()), sampler.means(r), level),
    }


def upper_half(p: Floats) -> Any:
    """Which rows are above the middle; equal opinions stay together, on the side that makes the halves more alike."""
    middle = np.median(p)
    above, from_it = p > middle, p >= middle
    return above if abs(above.mean() - 0.5) <= abs(from_it.mean() - 0.5) else from_it


def _gain(record: OutOfFold, labels: Floats) -> float:
    rows = record.rows
    if not rows.size:
        return 0.0
    y = labels[rows]
    return float((log_losses(record.base[rows], y) - log_losses(record.judged[rows], y)).mean())


def _against(
    champion: Champion, p: Floats, y: Floats, rows: Ints, data: Dataset, level: float, plan: Plan
) -> Criterion:
    """A champion that is about to expire may be followed by an equal; any other must be beaten."""
    theirs = champion.probabilities[rows]
    known = np.isfinite(theirs)
    floor = -plan.renewal_margin if champion.ends_soon else 0.0
    asked = f"above {floor:g} against {champion.model_id}"
    if int(known.sum()) < plan.rows or np.unique(data.starts[rows][known]).size < plan.sessions:
        return Criterion("champion", None, f"{asked}, on {plan.rows} rows that neither had seen", False)
    gain = log_losses(theirs[known], y[known]) - log_losses(p[known], y[known])
    sampler = Sampler.of(data.starts[rows][known], plan)
    bound = sampler.measure(float(gain.mean()), sampler.means(gain), level).bound
    return Criterion("champion", bound, asked, bound > floor)


def _earned(found: dict[str, Measure], plan: Plan) -> float:
    """Of the model's points, by the lower bound of what it knows: between the least and all of them."""
    return round(min(1.0, max(plan.earned_least, found["relative_gain"].bound / plan.earned_full_at)), 4)


def _at_least(name: str, observed: float, asked: float) -> Criterion:
    return Criterion(name, observed, f"at least {asked:g}", observed >= asked)
