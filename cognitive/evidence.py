"""What a review looks at, as plain values. Whoever has a memory, a model or an adviser hands over what it says.

None is "nothing to say it by", never a neutral number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cognitive.circuit_breakers import Lock
    from core.ports import Opinion, Regime


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Outcomes of earlier decisions: how many, the part that won, and the mean in R with its interval."""

    n: int
    win_rate: float | None  # shrunken towards the prior, where there is one
    mean_r: float | None
    low_r: float | None
    high_r: float | None

    def to_json(self) -> dict[str, Any]:
        return {"n": self.n, "win_rate": self.win_rate, "mean_r": self.mean_r, "low_r": self.low_r,
                "high_r": self.high_r}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """An adopted learning that speaks of this signal."""

    id: str
    shrink: Decimal  # part of the size that it leaves, 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class Counsel:
    """What a language model advised. It has no way to say "more"."""

    verdict: str  # approve, shrink, veto
    scale: Decimal  # 0..1
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything known of one signal. `counsel` is left out to see what had been decided without the language model."""

    regime: Regime
    belief: Outcomes | None = None  # the self model's, of this strategy in this regime
    similar: Outcomes | None = None  # of the most similar episodes
    lessons: Sequence[Lesson] = ()
    opinion: Opinion | None = None  # None: there is no model
    locks: Sequence[Lock] = ()  # breakers that stand and concern it
    breakers_code: str = "OK"  # why nothing is known of the breakers: then nothing may be entered
    counsel: Counsel | None = None
    memory_code: str = "OK"  # why the memory says nothing: MEMORY_EMPTY, MEMORY_UNREADABLE …
    counsel_code: str = ""  # why the language model says nothing; empty: it was not to be asked

    def to_json(self) -> dict[str, Any]:
        """The numbers a person wants to see beside a verdict."""
        found: dict[str, Any] = {"regime": self.regime.label, "memory": self.memory_code}
        named: Mapping[str, Outcomes | None] = {"belief": self.belief, "similar": self.similar}
        found |= {name: known.to_json() for name, known in named.items() if known is not None}
        if self.opinion is not None:
            found["probability"] = self.opinion.probability
        if self.lessons:
            found["lessons"] = [lesson.id for lesson in self.lessons]
        if self.locks:
            found["locks"] = [lock.lock_id for lock in self.locks]
        if self.counsel is not None:
            found["counsel"] = {"verdict": self.counsel.verdict, "scale": str(self.counsel.scale),
                                "reasons": list(self.counsel.reasons)}  # fmt: skip
        if self.counsel_code:
            found["llm"] = self.counsel_code
        return found


@dataclass(frozen=True, slots=True)
class Weighed:
    """One reason with what it leaves of the size: 1 is a remark, 0 a veto."""

    code: str
    scale: Decimal = field(default=Decimal(1))
