"""The closed shape of advice. What does not fit it in any way is refused as a whole.

The model is asked for this schema, and its answer is checked again here: numbers out of bounds, further keys, names
that were not asked about, contradictions. There is no field that could enlarge, hurry, add or turn an order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

REASONS_MOST, REASON_LETTERS_MOST = 5, 240
_ANSWER_MOST = 200_000  # characters
_UNTRUE = ("less_than_equal", "greater_than_equal", "extra_forbidden", "literal_error")


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class AdviceRow(_Closed):
    """One candidate's verdict."""

    decision_id: Annotated[str, Field(min_length=1, max_length=200)]
    symbol: Annotated[str, Field(min_length=1, max_length=20)]
    verdict: Literal["approve", "shrink", "veto"]
    scale: Annotated[Decimal, Field(ge=0, le=1)]
    confidence: Annotated[Decimal, Field(ge=0, le=1)] | None
    reasons: Annotated[
        list[Annotated[str, Field(max_length=4 * REASON_LETTERS_MOST)]], Field(max_length=REASONS_MOST)
    ]  # fmt: skip

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        """1 is approve, 0 is veto, between is shrink."""
        meant = "veto" if self.scale == 0 else "approve" if self.scale == 1 else "shrink"
        if self.verdict != meant:
            raise ValueError(f"{self.verdict} with scale {self.scale}")
        return self


class AdviceSheet(_Closed):
    """The whole answer."""

    advice: Annotated[list[AdviceRow], Field(max_length=1000)]


ADVICE_SCHEMA: Mapping[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["advice"],
    "properties": {
        "advice": {
            "type": "array",
            "items": {
                "type": "object", "additionalProperties": False,
                "required": ["decision_id", "symbol", "verdict", "scale", "confidence", "reasons"],
                "properties": {
                    "decision_id": {"type": "string"}, "symbol": {"type": "string"},
                    "verdict": {"type": "string", "enum": ["approve", "shrink", "veto"]},
                    "scale": {"type": "number"}, "confidence": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                    "reasons": {"type": "array", "items": {"type": "string"}},
                },
            },
        },
    },
}  # fmt: skip
"""As the API wants it: every object closed, every property required. It enforces no bounds: `read_advice` does."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why an answer is refused. `suspicious`: it wants something that no honest answer has a place for."""

    detail: str
    suspicious: bool = False


def read_advice(text: str, asked: Mapping[str, str]) -> Sequence[AdviceRow] | Unfit:
    """`asked`: decision id -> symbol. Every row or none: half an answer is not believed."""
    if len(text) > _ANSWER_MOST:
        return Unfit(f"{len(text)} characters")
    try:
        sheet = AdviceSheet.model_validate(strict_json(text))
    except ValidationError as error:
        kinds = {one["type"] for one in error.errors(include_url=False, include_input=False, include_context=False)}
        where = error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"]
        detail = f"{error.error_count()} objections, the first at {'.'.join(map(str, where))[:80]}"
        return Unfit(detail, suspicious=not kinds.isdisjoint(_UNTRUE))
    except (ValueError, RecursionError) as error:
        return Unfit(str(error)[:120] or "nested without end")
    seen = [row.decision_id for row in sheet.advice]
    for row in sheet.advice:
        if asked.get(row.decision_id) != row.symbol:
            return Unfit("a decision or symbol that was not asked about", suspicious=True)
    return Unfit("a decision twice") if len(seen) != len(set(seen)) else sheet.advice


def strict_json(text: str) -> Any:
    """JSON with every digit kept, no key twice, no NaN. Raises ValueError."""
    return json.loads(
        text, parse_float=_number, parse_int=_number, parse_constant=_no_number, object_pairs_hook=_once
    )  # fmt: skip


def _number(text: str) -> Decimal:
    if len(text) > 40:
        raise ValueError("a number of more than 40 characters")
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond all bounds; no ValueError, and it would end the scan
        raise ValueError("a number with an exponent beyond all bounds") from None


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)
