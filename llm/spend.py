"""The day's spend as a value, and what each line of the audit does to it. Pure: the same lines give the same day.

What counts against the limits is what was settled and what is reserved. A reservation whose call never came back stays
until its day is over. Around midnight a call that may still be on the wire counts on both days.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from core.canonical import iso_utc


@dataclass(frozen=True, slots=True)
class Amount:
    """Tokens and USD of one call, or of a day."""

    tokens: int = 0
    usd: Decimal = Decimal(0)

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.tokens + other.tokens, self.usd + other.usd)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.tokens - other.tokens, self.usd - other.usd)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one New York day. `usd` None: cost_tracking is off, and only the token limit holds."""

    tokens: int
    usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Reservation:
    """Worst case of one call, taken before it. Until `until` it may still be on the wire."""

    id: str
    day: date
    until: datetime
    amount: Amount
    model: str = ""


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing is asked until then."""

    until: datetime
    code: str


@dataclass(frozen=True, slots=True)
class Day:
    """One New York day."""

    day: date
    settled: Amount = Amount()
    open: Mapping[str, Reservation] = field(default_factory=dict)
    calls: int = 0  # reserved and settled, whatever came of them
    answered: int = 0
    latency_ms: float = 0.0  # of the answered calls, summed
    resets: int = 0  # a person's
    told: frozenset[str] = frozenset()  # warnings of this day
    failures: int = 0  # in a row, over midnight too
    rest: Rest | None = None
    models: Mapping[str, str] = field(default_factory=dict)  # name asked for -> id of the last reply

    @property
    def reserved(self) -> Amount:
        return sum((r.amount for r in self.open.values()), Amount())

    @property
    def used(self) -> Amount:
        return self.settled + self.reserved


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reservation that does not fit."""

    code: str
    detail: str


def refusal(used: Amount, wanted: Amount, limits: Limits) -> Refusal | None:
    """Both limits are asked, the tighter one is told; a call that ends exactly on a limit passes."""
    if used.tokens + wanted.tokens > limits.tokens:
        words = f"{used.tokens} of {limits.tokens} tokens used today, {wanted.tokens} more wanted"
        return Refusal("LLM_BUDGET_TOKENS", words)
    if limits.usd is not None and used.usd + wanted.usd > limits.usd:
        return Refusal("LLM_BUDGET_USD", f"{used.usd:f} of {limits.usd} USD used today, {wanted.usd:f} more wanted")
    return None


def used_fractions(used: Amount, limits: Limits) -> dict[str, float]:
    """Share of each limit that is used; a limit of 0 is used up."""
    shares = {"tokens": used.tokens / limits.tokens if limits.tokens else 1.0}
    if limits.usd is not None:
        shares["usd"] = float(used.usd / limits.usd) if limits.usd else 1.0
    return shares


# ---------------------------------------------------------------- lines
def begin(day: Day | None, on: date, now: datetime) -> dict[str, Any]:
    """The line of a new day: only calls that may still be on the wire come along."""
    kept = {} if day is None else {k: r for k, r in day.open.items() if r.until > now}
    return {"kind": "day_began", "day": on, "carried": sorted(kept)}


def applied(day: Day | None, line: Mapping[str, Any]) -> Day:
    """The day after one line. Raises KeyError, ValueError, TypeError or ArithmeticError for a line that is none."""
    kind = line["kind"]
    if kind in ("day_began", "adopted"):
        return _begun(day, line) if kind == "day_began" else from_document(line["state"])
    if day is None:
        raise ValueError(f"{kind} before any day")
    return _CHANGES[kind](day, line)


def _begun(day: Day | None, line: Mapping[str, Any]) -> Day:
    on = date.fromisoformat(str(line["day"]))
    if day is None:
        return Day(on)
    if on <= day.day:
        raise ValueError(f"day {on} begins after {day.day}")
    carried = {key: day.open[key] for key in line["carried"]}
    return Day(on, open=carried, failures=day.failures, rest=day.rest, models=day.models)


def _reserved(day: Day, line: Mapping[str, Any]) -> Day:
    made = Reservation(
        str(line["id"]), date.fromisoformat(str(line["day"])), datetime.fromisoformat(str(line["until"])),
        _amount(line), str(line["model"]),
    )  # fmt: skip
    return replace(day, open={**day.open, made.id: made}, calls=day.calls + 1)


def _settled(day: Day, line: Mapping[str, Any]) -> Day:
    """What it cost takes the place of what was reserved; one whose reservation is gone counts all the same."""
    left = {key: one for key, one in day.open.items() if key != line["id"]}
    answered = bool(line["answered"])
    models = {**day.models, str(line["model"]): str(line["reply_model"])} if line.get("reply_model") else day.models
    return replace(
        day, settled=day.settled + _amount(line), open=left, answered=day.answered + answered, models=models,
        latency_ms=day.latency_ms + (float(line["latency_ms"]) if answered else 0.0),
        failures=int(line["failures"]), rest=_rest(line.get("rest")),
    )  # fmt: skip


def _reset(day: Day, line: Mapping[str, Any]) -> Day:
    """A person's word on what is used. Calls that may still be on the wire stay reserved beside it."""
    kept = {key: day.open[key] for key in line["still_open"]}
    on = date.fromisoformat(str(line["day"]))
    return replace(
        day, day=on, settled=_amount(line), open=kept, resets=day.resets + 1, told=frozenset(), failures=0, rest=None
    )


def _warned(day: Day, line: Mapping[str, Any]) -> Day:
    return replace(day, told=day.told | {str(line["code"])})


_CHANGES = {"reserved": _reserved, "settled": _settled, "reset": _reset, "warned": _warned}


def _amount(line: Mapping[str, Any]) -> Amount:
    tokens, usd = line["tokens"], Decimal(str(line["usd"]))
    if type(tokens) is not int or tokens < 0 or not usd.is_finite() or usd < 0:
        raise ValueError(f"no amount: {tokens!r} tokens, {usd} USD")
    return Amount(tokens, usd)


def _rest(said: Mapping[str, Any] | None) -> Rest | None:
    return None if said is None else Rest(datetime.fromisoformat(said["until"]), str(said["code"]))


# ---------------------------------------------------------------- the document
def to_document(day: Day) -> dict[str, Any]:
    """state/llm_token_usage.json, the part that is about the day. The totals come first: people read it."""
    return {
        "day": day.day.isoformat(), "used_today": day.used.tokens, "cost_usd_today": f"{day.used.usd:f}",
        "calls_today": day.calls, "answered_today": day.answered, "latency_ms_sum": round(day.latency_ms, 3),
        "resets_today": day.resets, "settled": {"tokens": day.settled.tokens, "usd": f"{day.settled.usd:f}"},
        "reserved": {
            one.id: {
                "day": one.day.isoformat(), "until": iso_utc(one.until), "tokens": one.amount.tokens,
                "usd": f"{one.amount.usd:f}", "model": one.model,
            }
            for one in day.open.values()
        },
        "told": sorted(day.told), "failures_in_a_row": day.failures,
        "rest": None if day.rest is None else {"until": iso_utc(day.rest.until), "code": day.rest.code},
        "models": dict(sorted(day.models.items())),
    }  # fmt: skip


def from_document(found: Mapping[str, Any]) -> Day:
    """Raises KeyError, ValueError, TypeError or ArithmeticError for a document that does not add up."""
    rows = found["reserved"]
    opened = {
        str(key): Reservation(
            str(key), date.fromisoformat(row["day"]), datetime.fromisoformat(row["until"]), _amount(row), row["model"]
        )
        for key, row in rows.items()
    }
    counts = [found[name] for name in ("calls_today", "answered_today", "resets_today", "failures_in_a_row")]
    if any(type(count) is not int or count < 0 for count in counts):
        raise ValueError("a count is none")
    day = Day(
        date.fromisoformat(found["day"]), _amount(found["settled"]), opened, counts[0], counts[1],
        float(found["latency_ms_sum"]), counts[2], frozenset(found["told"]), counts[3], _rest(found["rest"]),
        dict(found["models"]),
    )  # fmt: skip
    if day.used != Amount(found["used_today"], Decimal(str(found["cost_usd_today"]))):
        raise ValueError("the totals are not the sum of the parts")
    return day
