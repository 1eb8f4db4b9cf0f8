"""The simulated model behind the Messages routes: what it says, what a call costs, and the bill that it keeps itself.

The bill is worked out here from the venue's own price list, so that a test can compare a client's ledger with it.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

NO_OPINION = '{"opinion":"none"}'
_CHARACTERS_A_TOKEN = 3
_CACHED_FROM_TOKENS = 1024
_CACHED_FOR = timedelta(minutes=5)
_DATED = "-20260901"  # what an alias is resolved to

# input, output, 5-minute write, cache read: USD per million tokens; the second row of a model above so many tokens
PRICES: Mapping[str, tuple[tuple[int, str, str, str, str], ...]] = {
    "claude-haiku-4-5": ((0, "1", "5", "1.25", "0.10"),),
    "claude-haiku-5-5": ((0, "0.10", "0.50", "0.125", "0.01"), (100_000, "0.50", "2.50", "0.625", "0.05")),
    "claude-sonnet-5-5": ((0, "2", "10", "2.5", "0.10"),),
    "claude-opus-5-5": ((0, "4", "20", "5", "0.20"),),
}


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens of one call."""

    fresh: int
    written: int
    read: int
    output: int

    @property
    def tokens(self) -> int:
        return self.fresh + self.written + self.read + self.output

    def as_usage(self) -> dict[str, Any]:
        return {
            "input_tokens": self.fresh, "cache_creation_input_tokens": self.written,
            "cache_read_input_tokens": self.read,
            "cache_creation": {"ephemeral_5m_input_tokens": self.written, "ephemeral_1h_input_tokens": 0},
            "output_tokens": self.output, "server_tool_use": None, "service_tier": "standard",
            "inference_geo": "not_available",
        }  # fmt: skip


@dataclass
class Bill:
    """Of one New York day."""

    calls: int = 0
    tokens: int = 0
    usd: Decimal = Decimal(0)


@dataclass
class SimulatedModel:
    """`say` answers a request body; `dearer` is the factor on every price from a day on."""

    say: Callable[[Mapping[str, Any]], str] = field(default_factory=lambda: opinionless)
    dearer: dict[date, Decimal] = field(default_factory=dict)
    thinking_tokens: int = 0  # billed as output, never shown
    requests: int = 0
    bills: dict[date, Bill] = field(default_factory=lambda: defaultdict(Bill))
    _prefixes: dict[str, datetime] = field(default_factory=dict)

    def answer(self, body: Mapping[str, Any], now: datetime, today: date) -> tuple[str, str, Counted]:
        """Text, stop reason and tokens; counted on the bill."""
        text, stop, most = self.say(body), "end_turn", int(body["max_tokens"])
        output = self.thinking_tokens + max(1, len(text) // _CHARACTERS_A_TOKEN)
        if output > most:
            text, stop, output = text[: max(0, most - self.thinking_tokens) * _CHARACTERS_A_TOKEN], "max_tokens", most
        counted = self._counted(body, output, now)
        bill = self.bills[today]
        bill.calls += 1
        bill.tokens += counted.tokens
        bill.usd += self.cost_usd(str(body["model"]), counted, today)
        return text, stop, counted

    def cost_usd(self, model: str, counted: Counted, today: date) -> Decimal:
        total = counted.fresh + counted.written + counted.read
        _, *row = next(r for r in reversed(PRICES[undated(model)]) if r[0] < max(1, total))
        fresh, output, write, read = map(Decimal, row)
        usd = counted.fresh * fresh + counted.written * write + counted.read * read + counted.output * output
        factors = [factor for day, factor in sorted(self.dearer.items()) if day <= today]
        return usd * (factors[-1] if factors else 1) / 1_000_000

    def _counted(self, body: Mapping[str, Any], output: int, now: datetime) -> Counted:
        """A marked prefix is written once and read for five minutes; a short one is silently not cached."""
        total, prefix = tokens_of(body), marked_prefix(body)
        kept = len(prefix) // _CHARACTERS_A_TOKEN
        if kept < _CACHED_FROM_TOKENS:
            return Counted(total, 0, 0, output)
        key = hashlib.sha256(f"{body['model']}{prefix}".encode()).hexdigest()
        known = self._prefixes.get(key, now) > now
        self._prefixes[key] = now + _CACHED_FOR
        fresh = max(0, total - kept)
        return Counted(fresh, 0, kept, output) if known else Counted(fresh, kept, 0, output)


def undated(model: str) -> str:
    return model[:-9] if len(model) > 9 and model[-9] == "-" and model[-8:].isdigit() else model


def resolved(model: str) -> str:
    """The dated id that a reply carries."""
    return model if undated(model) != model else f"{model}{_DATED}"


def tokens_of(body: Mapping[str, Any]) -> int:
    """A rough, repeatable count: a token for every three characters of system, messages and schema."""
    shown = f"{body.get('system', '')}{body['messages']}{body.get('output_config', '')}"
    return 1 + len(shown) // _CHARACTERS_A_TOKEN


def marked_prefix(body: Mapping[str, Any]) -> str:
    """The system blocks up to the last one with `cache_control`; empty when none has it."""
    blocks = body.get("system")
    marked = [i for i, b in enumerate(blocks) if "cache_control" in b] if isinstance(blocks, list) else []
    return "".join(str(b.get("text", "")) for b in blocks[: marked[-1] + 1]) if marked and blocks else ""


# ---------------------------------------------------------------- what it says
def opinionless(body: Mapping[str, Any]) -> str:
    """Nothing that could pass for analysis; with a schema, the emptiest value that fits it."""
    schema = ((body.get("output_config") or {}).get("format") or {}).get("schema")
    return NO_OPINION if schema is None else json.dumps(emptiest(schema))


def emptiest(schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return emptiest(schema["anyOf"][-1])
    kind = schema.get("type")
    if kind == "object":
        return {name: emptiest(inner) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [emptiest(schema["items"])] * int(schema.get("minItems", 0))
    return {"string": "none", "number": 0, "integer": 0, "boolean": False}.get(str(kind))
