"""Advice on candidates: approve, shrink or veto. It can name no other symbol and enlarge nothing, by type.

One call for up to BATCH candidates. All batches answer soundly, or there is no advice at all and everything is decided
as with the language model off: half an opinion would depend on where a batch ends.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Literal, Protocol

from core import logs
from llm.client import Answer, Prompt, Purpose, Skipped
from llm.fence import RULE, cleaned, fenced
from llm.prices import Usage
from llm.schema import ADVICE_SCHEMA, REASON_LETTERS_MOST, REASONS_MOST, AdviceRow, Unfit, read_advice

BATCH = 40  # candidates of one call: their answer must fit into the output tokens
_FACTS_MOST, _OUTSIDE_MOST, _FACT_LETTERS = 60, 8, 200
_SYSTEM = f"""You review candidate stock purchases of a rule-based daily system before they are made.
For each candidate say one of:
approve (scale 1): nothing in its facts speaks against it;
shrink (scale between 0 and 1): something makes it weaker than its score says;
veto (scale 0): something makes it unwise, such as news that changes what the figures meant.
You can only make the system more careful: nothing you say makes a purchase larger, earlier or another one.
Answer in JSON: an object "advice" with one row per candidate, its decision_id and symbol exactly as given, at most
{REASONS_MOST} reasons of one short sentence (at most {REASON_LETTERS_MOST} letters), most important first, and your
confidence from 0 to 1 that the trade ends in profit, or null when you cannot say.
Leave out a candidate of which you have no opinion. Use only what is given; what is absent is unknown, not fine.
{RULE}"""


class Door(Protocol):
    """What is asked of llm.client.LlmDoor."""

    def ask(self, prompt: Prompt) -> Answer | Skipped: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One signal as the model sees it. `outside`: text from outsiders, by source; it is fenced as data."""

    decision_id: str
    symbol: str
    strategy: str
    score: float
    facts: Mapping[str, float | str] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """`scale` within 0..1: approve 1, veto 0, shrink between."""

    decision_id: str
    verdict: Literal["approve", "shrink", "veto"]
    scale: Decimal
    reasons: tuple[str, ...] = ()
    confidence: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysed:
    """Advice by decision id; empty unless `code` is OK, and then all is as with the language model off."""

    advice: Mapping[str, Advice]
    code: str  # "OK" or LLM_…
    detail: str = ""
    model: str = ""  # the dated id of the reply
    model_changed: bool = False
    usage: Usage | None = None  # of the last call
    cost_usd: Decimal = Decimal(0)  # of all calls
    latency_ms: float = 0.0
    cached: bool = False  # all of it
    request_sha256: str = ""  # of the last call


def analyse(candidates: Sequence[Candidate], *, session: date, data_sha256: str, door: Door) -> Analysed:
    """Never raises for anything the model, the network or the budget does. A candidate without advice has no entry."""
    if not candidates:
        return Analysed(advice={}, code="OK", detail="nobody to ask about", cached=True)
    batches = [candidates[first : first + BATCH] for first in range(0, len(candidates), BATCH)]
    found: dict[str, Advice] = {}
    answers: list[Answer] = []
    for batch in batches:
        waited_s = sum(a.latency_ms for a in answers if not a.cached) / 1000
        answer = door.ask(_prompt(batch, session, data_sha256, repeats=len(batches), waited_s=waited_s))
        if isinstance(answer, Skipped):
            return _nothing(answers, answer.code, answer.detail, answer)
        answers.append(answer)
        read = read_advice(answer.text, {c.decision_id: c.symbol for c in batch})
        if isinstance(read, Unfit):
            _tell(read, answer)
            return _nothing(answers, "LLM_SCHEMA", read.detail)
        found |= {row.decision_id: _advice(row) for row in read}
    return _summed(answers, found, "OK", "")


def _prompt(
    batch: Sequence[Candidate], session: date, data_sha256: str, *, repeats: int, waited_s: float
) -> Prompt:  # fmt: skip
    """The date comes last: everything before it is the same from call to call, and can be cached by the vendor."""
    user = "\n\n".join([*map(_shown, batch), f"Session of the figures: {session}."])
    return Prompt(
        purpose=Purpose.ADVICE, system=_SYSTEM, user=user, session=session, data_sha256=data_sha256,
        schema=ADVICE_SCHEMA, repeats=repeats, waited_s=waited_s,
    )  # fmt: skip


def _shown(candidate: Candidate) -> str:
    facts = {
        cleaned(name, 60): round(value, 6) if isinstance(value, int | float) else cleaned(value, _FACT_LETTERS)
        for name, value in sorted(candidate.facts.items())[:_FACTS_MOST]
        if not isinstance(value, float) or math.isfinite(value)
    }
    row = {
        "decision_id": candidate.decision_id, "symbol": candidate.symbol, "strategy": candidate.strategy,
        "score": round(candidate.score, 6), "facts": facts,
    }  # fmt: skip
    text = json.dumps(row, sort_keys=True).replace("<", "\\u003c").replace(">", "\\u003e")
    texts = [fenced(source, said) for source, said in sorted(candidate.outside.items())[:_OUTSIDE_MOST]]
    return "\n".join([f"Candidate: {text}", *texts])


def _advice(row: AdviceRow) -> Advice:
    return Advice(
        decision_id=row.decision_id, verdict=row.verdict, scale=row.scale,
        reasons=tuple(cleaned(reason, REASON_LETTERS_MOST) for reason in row.reasons),
        confidence=None if row.confidence is None else float(row.confidence),
    )  # fmt: skip


def _nothing(answers: Sequence[Answer], code: str, detail: str, skipped: Skipped | None = None) -> Analysed:
    return _summed(answers, {}, code, detail, skipped)


def _summed(
    answers: Sequence[Answer], advice: Mapping[str, Advice], code: str, detail: str, skipped: Skipped | None = None
) -> Analysed:
    last = answers[-1] if answers else None
    ends: list[Answer | Skipped] = [*answers, *([] if skipped is None else [skipped])]
    return Analysed(
        advice=advice, code=code, detail=detail, model="" if last is None else last.model,
        model_changed=any(a.model_changed for a in answers), usage=None if last is None else last.usage,
        cost_usd=sum((end.cost_usd for end in ends), Decimal(0)), latency_ms=sum(end.latency_ms for end in ends),
        cached=skipped is None and all(a.cached for a in answers), request_sha256=ends[-1].request_sha256,
    )  # fmt: skip


def _tell(unfit: Unfit, answer: Answer) -> None:
    logs.error_event(
        "llm_answer_refused", code="LLM_SCHEMA", detail=unfit.detail, request_sha256=answer.request_sha256
    )  # fmt: skip
    logs.count("llm_answer_refused", code="LLM_SCHEMA")
    if unfit.suspicious:
        logs.error_event(
            "llm_injection_suspected", code="LLM_INJECTION", detail=unfit.detail, request_sha256=answer.request_sha256
        )
        logs.count("llm_injection_suspected")
