"""Signal and evidence -> approve, shrink or veto, with confidence and ordered reasons. Pure and deterministic.

Every reason leaves a part of the size, at most all of it; the verdict is the smallest part. So nothing enlarges, one
reason cannot undo another, and two that say the same do not count twice. Where there is nothing to say it by, nothing
is said against: a fresh home approves at full size with MEMORY_EMPTY, and score, limits and gate stand as ever.

| reason                       | leaves                       | when                                                   |
|------------------------------|------------------------------|--------------------------------------------------------|
| BREAKER_*                    | nothing                      | a breaker that concerns it stands                      |
| MODEL_NAN                    | nothing                      | the model's prediction is no number                    |
| MEMORY_UNREADABLE            | nothing                      | what the memory would say against it is not known      |
| SELF_MODEL_NEGATIVE          | nothing                      | `least` outcomes, and even the upper end of the mean's |
|                              |                              | interval in R is below zero                            |
| LLM_VETO                     | nothing                      | the language model advised so (mode full)              |
| MODEL_OOD                    | `shrink`                     | it is unlike anything that the model learned from      |
| SELF_MODEL_DOUBTS            | `shrink`                     | `least` outcomes, and their mean is below zero         |
| SIMILAR_LOST                 | `shrink`                     | the same of the most similar episodes, whole interval  |
| REGIME_STRESSED              | `shrink`                     | a regime model says so (the VIX rule halves by itself) |
| LEARNING                     | what it adopted              | an adopted learning speaks of this signal              |
| LLM_SHRINK                   | what was advised             | the language model advised so (mode full)              |
| MEMORY_EMPTY, REGIME_*,      | everything                   | remarks: what there was nothing to judge by            |
| SELF_MODEL_TOO_FEW           |                              |                                                        |
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from cognitive.breaker_rules import NOT_FINITE
from cognitive.evidence import Evidence, Outcomes, Weighed
from core.ports import Review

if TYPE_CHECKING:
    from config.settings_schema import ReviewRules

NOTHING, ALL = Decimal(0), Decimal(1)
MEMORY_UNREADABLE = "MEMORY_UNREADABLE"
STRANGE = "MODEL_OOD"
_STRESSED = frozenset({"stressed", "closed"})


@dataclass(frozen=True, slots=True)
class Reviewed:
    """The verdict, and what it would have been with the language model off."""

    review: Review
    without_llm: Review

    @property
    def verdict(self) -> str:
        scale = self.review.scale
        return "veto" if scale == 0 else "approve" if scale == 1 else "shrink"


def review(evidence: Evidence, rules: ReviewRules) -> Reviewed:
    """Both verdicts. The language model's words are one reason more, which can only leave less."""
    without = tuple(_weighed(evidence, rules))
    confidence = _confidence(evidence, rules)
    alone = _verdict(without, confidence)
    said = tuple(_counsel(evidence))
    return Reviewed(_verdict((*without, *said), confidence) if said else alone, alone)


def _verdict(reasons: tuple[Weighed, ...], confidence: float | None) -> Review:
    """Reasons in the order of what they leave, then as they were asked. What is no part of the size leaves nothing."""
    parts = [(_part(reason.scale), k, reason.code) for k, reason in enumerate(reasons)]
    scale = min((part for part, _, _ in parts), default=ALL)
    return Review(scale, tuple(code for _, _, code in sorted(parts)), confidence)


def _part(scale: Decimal) -> Decimal:
    return scale if scale.is_finite() and NOTHING <= scale <= ALL else NOTHING


def _weighed(evidence: Evidence, rules: ReviewRules) -> Iterator[Weighed]:
    if evidence.breakers_code != "OK":
        yield Weighed(evidence.breakers_code, NOTHING)
    for lock in evidence.locks:
        yield Weighed(lock.code, NOTHING)
    yield from _opinion(evidence, rules)
    yield from _memory(evidence, rules)
    yield from _regime(evidence, rules)


def _opinion(evidence: Evidence, rules: ReviewRules) -> Iterator[Weighed]:
    """A model that says nothing is told by the score; one that says what cannot be is not to be traded on."""
    opinion = evidence.opinion
    if opinion is None:
        return
    if opinion.code == NOT_FINITE or (opinion.probability is not None and not _is_part(opinion.probability)):
        yield Weighed(NOT_FINITE, NOTHING)
    elif opinion.code == STRANGE:
        yield Weighed(STRANGE, Decimal(str(rules.shrink)))


def _is_part(value: float) -> bool:
    return math.isfinite(value) and 0 <= value <= 1


def _memory(evidence: Evidence, rules: ReviewRules) -> Iterator[Weighed]:
    belief, similar, shrink = evidence.belief, evidence.similar, Decimal(str(rules.shrink))
    if evidence.memory_code == MEMORY_UNREADABLE:
        yield Weighed(MEMORY_UNREADABLE, NOTHING)  # what it would have said against it is not known: absent is no
    elif evidence.memory_code != "OK":
        yield Weighed(evidence.memory_code)
    if belief is not None and belief.n >= rules.least:
        if _below_zero(belief.high_r):
            yield Weighed("SELF_MODEL_NEGATIVE", NOTHING)
        elif _below_zero(belief.mean_r):
            yield Weighed("SELF_MODEL_DOUBTS", shrink)
    elif evidence.memory_code == "OK":
        yield Weighed("SELF_MODEL_TOO_FEW")
    if similar is not None and similar.n >= rules.least and _below_zero(similar.high_r):
        yield Weighed("SIMILAR_LOST", shrink)
    for lesson in evidence.lessons:
        yield Weighed(f"LEARNING_{lesson.id}", lesson.shrink)


def _below_zero(value: float | None) -> bool:
    return value is not None and value < 0


def _regime(evidence: Evidence, rules: ReviewRules) -> Iterator[Weighed]:
    regime = evidence.regime
    if regime.label == "unknown":
        yield Weighed(regime.code if regime.code.startswith("REGIME_") else "REGIME_UNKNOWN")
    elif regime.source != "rule" and regime.label in _STRESSED:
        yield Weighed("REGIME_STRESSED", Decimal(str(rules.shrink)))


def _counsel(evidence: Evidence) -> Iterator[Weighed]:
    """Only what shrinks or vetoes is a reason. Silence, lateness and praise leave the very same verdict."""
    counsel = evidence.counsel
    if counsel is None or counsel.verdict == "approve":
        return
    if counsel.verdict == "veto":
        yield Weighed("LLM_VETO", NOTHING)
    else:
        yield Weighed("LLM_SHRINK", counsel.scale)


def _confidence(evidence: Evidence, rules: ReviewRules) -> float | None:
    """That the trade ends in profit: the mean of what model and self model say, as far as they say something."""
    said = []
    if evidence.opinion is not None and evidence.opinion.probability is not None:
        said.append(evidence.opinion.probability)
    said += [rate for rate in (_rate(evidence.belief, rules),) if rate is not None]
    known = [value for value in said if _is_part(value)]
    return sum(known) / len(known) if known else None


def _rate(belief: Outcomes | None, rules: ReviewRules) -> float | None:
    return None if belief is None or belief.n < rules.least else belief.win_rate
