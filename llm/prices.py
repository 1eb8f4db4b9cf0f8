"""What a call costs: a dated table from the settings. A model without a price is not called.

    cost = input x in + write5m x w5 + write1h x w1 + read x rd + output x out     (USD per million tokens)

`input_tokens` excludes cached tokens; output includes thinking. In Decimal, rounded up to a millionth of a dollar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.settings_schema import LlmPrice, LlmPrices

_DATED = re.compile(r"-20\d{6}\Z")  # claude-haiku-4-5-20251001: what a reply calls the model that was asked
_MILLION = Decimal(1_000_000)
_SMALLEST_USD = Decimal("0.000001")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call, as the vendor counted them."""

    input_tokens: int  # without the cached ones
    output_tokens: int  # thinking included
    write_5m_tokens: int = 0
    write_1h_tokens: int = 0
    read_tokens: int = 0

    def __post_init__(self) -> None:
        if min(self.input_tokens, self.output_tokens, self.write_5m_tokens, self.write_1h_tokens, self.read_tokens) < 0:
            raise ValueError(f"a token count is negative: {self}")

    @property
    def all_input_tokens(self) -> int:
        return self.input_tokens + self.write_5m_tokens + self.write_1h_tokens + self.read_tokens

    @property
    def tokens(self) -> int:
        """What counts against the daily token limit: everything."""
        return self.all_input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Price:
    """One model on one day; its bands ascend by `above_tokens`."""

    model: str
    bands: tuple[LlmPrice, ...]

    def cost_usd(self, usage: Usage) -> Decimal:
        """The dearer band holds for the whole request once its input, cached tokens included, is larger."""
        band = [b for b in self.bands if b.above_tokens < max(1, usage.all_input_tokens)][-1]
        return rounded_up(
            usage.input_tokens * band.input_usd
            + usage.write_5m_tokens * band.write_5m_usd
            + usage.write_1h_tokens * band.write_1h_usd
            + usage.read_tokens * band.read_usd
            + usage.output_tokens * band.output_usd
        )

    def worst_usd(self, input_tokens_most: int, output_tokens_most: int) -> Decimal:
        """No call with at most these tokens costs more, whatever is cached and whichever band it falls into."""
        reachable = [b for b in self.bands if b.above_tokens < max(1, input_tokens_most)]
        dearest_in = max(max(b.input_usd, b.write_5m_usd, b.write_1h_usd, b.read_usd) for b in reachable)
        dearest_out = max(b.output_usd for b in reachable)
        return rounded_up(input_tokens_most * dearest_in + output_tokens_most * dearest_out)


def rounded_up(millionths: Decimal) -> Decimal:
    """Tokens x USD per million -> USD."""
    return (millionths / _MILLION).quantize(_SMALLEST_USD, rounding=ROUND_CEILING)


class PriceTable:
    """`cognitive.llm_analyzer.prices`, asked by model and New York day."""

    def __init__(self, prices: LlmPrices) -> None:
        self._prices = prices
        self._models: dict[str, list[LlmPrice]] = {}
        self._names: dict[str, str] = {}
        for row in prices.rows:
            self._models.setdefault(row.model, []).append(row)
            self._names.update(dict.fromkeys((row.model, *row.aliases), row.model))

    def model_of(self, name: str) -> str | None:
        """The row's model that `name` means: itself, an alias, or one of both with a date behind it."""
        return self._names.get(name) or self._names.get(_DATED.sub("", name))

    def price(self, name: str, day: date) -> Price | None:
        """In force on `day`; None when the table has no row for the model by then."""
        rows = self._models.get(self.model_of(name) or "", [])
        begun = [row.effective for row in rows if row.effective <= day]
        if not begun:
            return None
        newest = max(begun)
        bands = sorted((r for r in rows if r.effective == newest), key=lambda r: r.above_tokens)
        return Price(bands[0].model, tuple(bands))

    def worst_usd(self, name: str, day: date, input_tokens_most: int, output_tokens_most: int) -> Decimal | None:
        """Worst case of a call around `day`: nobody says at which hour a price changes."""
        today, next_day = self.price(name, day), self.price(name, day + timedelta(days=1))
        yesterday = self.price(name, day - timedelta(days=1))
        if today is None:
            return None
        known = [price for price in (yesterday, today, next_day) if price is not None]
        return max(price.worst_usd(input_tokens_most, output_tokens_most) for price in known)

    @property
    def provenance(self) -> str:
        """When the table was last looked at, and where it comes from."""
        return f"{self._prices.as_of}, {self._prices.source}"

    def is_old(self, day: date) -> bool:
        return (day - self._prices.as_of).days > self._prices.warn_after_days


def usage_from(said: Mapping[str, Any] | None) -> Usage | None:
    """A reply's `usage`; missing cache counts are 0. None when input or output is missing or no count at all.

    A cache write whose time to live is not told is one of five minutes: no other is asked for.
    """
    if not isinstance(said, Mapping):
        return None
    try:
        by_ttl = said.get("cache_creation") or {}
        told = {name: _count(by_ttl.get(f"ephemeral_{name}_input_tokens")) for name in ("5m", "1h")}
        written = _count(said.get("cache_creation_input_tokens"))
        return Usage(
            input_tokens=_needed(said.get("input_tokens")), output_tokens=_needed(said.get("output_tokens")),
            write_5m_tokens=told["5m"] + max(0, written - sum(told.values())), write_1h_tokens=told["1h"],
            read_tokens=_count(said.get("cache_read_input_tokens")),
        )  # fmt: skip
    except (TypeError, ValueError, AttributeError):
        return None


def _count(value: object) -> int:
    return 0 if value is None else _needed(value)


def _needed(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 10**9:
        raise ValueError(f"no token count: {value!r}")
    return value
