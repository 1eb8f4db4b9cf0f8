"""Learnings: statements that can be wrong. "ibs_rsi with trend <= 0.04 earns 0.6 R less than ibs_rsi otherwise."

| status    | meaning                                                                                             |
|-----------|-----------------------------------------------------------------------------------------------------|
| candidate | found in the past, written down before the decisions that will test it; weighs on nothing           |
| adopted   | held on later decisions only; shrinks what it applies to, within `cognitive.reflection.shrink_least` |
| retired   | did not hold, no longer holds, or was never tested in time; `code` says which                       |

The book is folded from the journal: learning_proposed, learning_adopted, learning_retired, reflected. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

from cognitive.episodes import UNKNOWN_REGIME, features_of

KINDS = ("learning_proposed", "learning_adopted", "learning_retired", "reflected")
"""The journal records that make a book."""

Op = Literal["<=", ">="]


class Status(StrEnum):
    CANDIDATE = "candidate"
    ADOPTED = "adopted"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Which decisions a statement is about; what is None does not matter. `feature` is one of features_of()."""

    strategy: str | None = None
    regime: str | None = None
    feature: str | None = None
    op: Op | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        parts = (self.feature is None, self.op is None, self.threshold is None)
        if len(set(parts)) != 1 or (self.threshold is not None and not math.isfinite(self.threshold)):
            raise ValueError(f"a condition needs feature, operator and a finite threshold together: {self!r}")
        if self.op not in (None, "<=", ">="):
            raise ValueError(f"{self.op!r} is no operator of a condition")

    @property
    def question(self) -> tuple[str | None, str | None, str | None]:
        """What it asks about, whatever the threshold: one question is open at a time."""
        return self.strategy, self.regime, self.feature

    def matches(self, features: Mapping[str, float], strategy: str, regime: str) -> bool | None:
        """None when what it depends on is not known."""
        if self.strategy is not None and strategy != self.strategy:
            return False
        if self.regime is not None and regime == UNKNOWN_REGIME != self.regime:
            return None
        if self.regime is not None and regime != self.regime:
            return False
        if self.feature is None or self.threshold is None:
            return True
        value = features.get(self.feature)
        if value is None:
            return None
        return value <= self.threshold if self.op == "<=" else value >= self.threshold

    def __str__(self) -> str:
        parts = [self.strategy or "any strategy"]
        parts += [f"in regime {self.regime}"] if self.regime is not None else []
        parts += [f"with {self.feature} {self.op} {self.threshold:.6g}"] if self.feature is not None else []
        return " ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was measured of a condition: decisions that met it against the others of the same strategy (or of all)."""

    n: int  # that met it
    rest: int
    mean_r: float  # of those that met it
    effect_r: float  # mean R of those minus mean R of the rest
    low: float  # interval of the effect
    high: float
    p: float  # one-sided: that it is no worse
    p_adjusted: float  # for everything that was tried
    tried: int  # hypotheses that it was corrected for


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """One statement with its evidence. `found` is in sample, `held` out of sample: later decisions only."""

    id: str
    number: int  # of the candidates ever proposed, this was the so manieth: each pays for those before it
    condition: Condition
    status: Status
    since: datetime  # of this status
    proposed_at: datetime
    found: Evidence
    held: Evidence | None = None
    shrink: Decimal = Decimal(1)  # 1 unless adopted
    code: str = ""  # why it was retired

    @property
    def evidence(self) -> Evidence:
        return self.held or self.found

    @property
    def effect_r(self) -> float:
        return self.evidence.effect_r

    @property
    def n(self) -> int:
        return self.evidence.n

    @property
    def low(self) -> float:
        return self.evidence.low

    @property
    def high(self) -> float:
        return self.evidence.high

    @property
    def p_adjusted(self) -> float:
        return self.evidence.p_adjusted

    def applies(self, numbers: Mapping[str, float], strategy: str, regime: str) -> bool:
        """Whether it speaks of this decision. What it depends on and is not known counts as met: the careful side.

        numbers : of the review, as in Episode.numbers.
        """
        return self.condition.matches(features_of(numbers), strategy, regime) is not False


# ---------------------------------------------------------------- the book
@dataclass(frozen=True, slots=True, kw_only=True)
class LearningBook:
    """Everything that was ever proposed, and how far reflection has looked."""

    learnings: Mapping[str, Learning] = field(default_factory=lambda: MappingProxyType({}))  # by id, oldest first
    week: str = ""  # the newest week whose end was reflected on, 2026-W48
    looks: int = 0  # searches made
    tried: int = 0  # hypotheses tried in all of them

    def of(self, *status: Status) -> tuple[Learning, ...]:
        return tuple(one for one in self.learnings.values() if one.status in status)

    @property
    def adopted(self) -> tuple[Learning, ...]:
        return self.of(Status.ADOPTED)

    def after(self, kind: str, body: Mapping[str, Any]) -> LearningBook:
        """The book after one journal record of KINDS. Raises ValueError, KeyError, TypeError or ArithmeticError for a
        body that none of ours has."""
        if kind == "reflected":
            return replace(
                self, week=str(body["week"]), looks=self.looks + 1, tried=self.tried + int(body["tried"])
            )  # fmt: skip
        if kind == "learning_proposed":
            return self._with(proposed_from(body))
        before = self.learnings[str(body["id"])]
        held = evidence_from(body["held"]) if body.get("held") else before.held
        since = datetime.fromisoformat(body["since"])
        if kind == "learning_adopted":
            shrink = Decimal(str(body["shrink"]))
            if not 0 < shrink <= 1:
                raise ValueError(f"{before.id}: a learning may only shrink, was {shrink}")
            return self._with(replace(before, status=Status.ADOPTED, since=since, held=held, shrink=shrink))
        if kind == "learning_retired":
            return self._with(replace(
                before, status=Status.RETIRED, since=since, held=held, shrink=Decimal(1), code=str(body["code"])
            ))  # fmt: skip
        raise ValueError(f"{kind} tells of no learning")

    def _with(self, learning: Learning) -> LearningBook:
        return replace(self, learnings=MappingProxyType({**self.learnings, learning.id: learning}))


def proposed_from(body: Mapping[str, Any]) -> Learning:
    since = datetime.fromisoformat(body["since"])
    return Learning(
        id=str(body["id"]), number=int(body["number"]), condition=Condition(**body["condition"]),
        status=Status.CANDIDATE, since=since, proposed_at=since, found=evidence_from(body["found"]),
    )  # fmt: skip


def evidence_from(row: Mapping[str, Any]) -> Evidence:
    return Evidence(
        n=int(row["n"]), rest=int(row["rest"]), mean_r=float(row["mean_r"]), effect_r=float(row["effect_r"]),
        low=float(row["low"]), high=float(row["high"]), p=float(row["p"]), p_adjusted=float(row["p_adjusted"]),
        tried=int(row["tried"]),
    )  # fmt: skip


def to_json(learning: Learning) -> dict[str, Any]:
    """For people and for the memory's document; `from_json` reads it back."""
    return {
        "id": learning.id, "number": learning.number, "says": str(learning.condition),
        "condition": asdict(learning.condition), "status": str(learning.status), "since": learning.since.isoformat(),
        "proposed_at": learning.proposed_at.isoformat(), "found": asdict(learning.found),
        "held": None if learning.held is None else asdict(learning.held), "shrink": str(learning.shrink),
        "code": learning.code,
    }  # fmt: skip


def from_json(row: Mapping[str, Any]) -> Learning:
    """Raises ValueError, KeyError, TypeError or ArithmeticError for what `to_json` would not have written."""
    return Learning(
        id=str(row["id"]), number=int(row["number"]), condition=Condition(**row["condition"]),
        status=Status(row["status"]), since=datetime.fromisoformat(row["since"]),
        proposed_at=datetime.fromisoformat(row["proposed_at"]), found=evidence_from(row["found"]),
        held=None if row["held"] is None else evidence_from(row["held"]), shrink=Decimal(row["shrink"]),
        code=str(row["code"]),
    )  # fmt: skip
