"""One episode per decision: what was known when it was made, and what became of it. Values only.

An episode begins with the record `signals_reviewed` (or, where there is none, with the entry order itself) and ends
with `trade_closed`. Both lie in the journal, so an episode outlives every process.

| standing        | meaning                                                                              |
|-----------------|--------------------------------------------------------------------------------------|
| WAITING         | reviewed today, nothing bought so far                                                |
| NOT_ENTERED     | its day is over and nothing filled: it has no outcome, and never counts as one       |
| HELD            | bought, not sold: the outcome is not known                                           |
| CLOSED          | sold: `outcome` says how it ended                                                    |
| OUTCOME_UNKNOWN | gone, at a price that nobody knows (a force-sync, a stop that is missing)            |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from core.domain import require_utc
from core.market_calendar import NEW_YORK

UNKNOWN_REGIME = "unknown"
_EMPTY: Mapping[str, float] = MappingProxyType({})
_PRICES = frozenset({"close", "stop", "sma", "atr", "prior_low", "dollar_volume"})
"""Numbers in USD: comparable between symbols only as ratios."""


class Standing(StrEnum):
    WAITING = "WAITING"
    NOT_ENTERED = "NOT_ENTERED"
    HELD = "HELD"
    CLOSED = "CLOSED"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a trade ended."""

    closed_at: datetime  # of the last fill, by the broker
    known_at: datetime  # when the journal told it: nobody could use it before
    r: float  # (average exit / average entry - 1) / (1 - first stop / first entry), before fees
    usd: Decimal  # profit before fees
    exit_reason: str
    bars_held: int | None  # sessions, the entry's and the exit's included

    @property
    def won(self) -> bool:
        return self.r > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One decision. What is None was not known when it was made."""

    decision_id: str
    symbol: str
    strategy: str
    session: date  # of the signal
    decided_at: datetime  # of the review that the entry followed; without an entry, of the newest
    regime: str = UNKNOWN_REGIME
    score: float | None = None  # 0..100
    confidence: float | None = None  # 0..1, the reviewer's
    probability: float | None = None  # 0..1, the model's
    scale: Decimal | None = None  # 0..1, the reviewer's; 0 was a veto
    numbers: Mapping[str, float] = field(default_factory=lambda: _EMPTY)  # finite ones only
    entered_at: datetime | None = None  # when the entry that filled was intended
    standing: Standing = Standing.WAITING
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        require_utc(self.decided_at, "decided_at")
        if (self.outcome is not None) is not (self.standing is Standing.CLOSED):
            raise ValueError(f"{self.decision_id}: {self.standing} with outcome {self.outcome}")

    def as_known(self, at: datetime) -> Episode | None:
        """This episode as it stood just before `at`; None when the decision had not been made."""
        if self.decided_at >= at:
            return None
        if self.entered_at is not None and self.entered_at >= at:
            return replace(self, standing=Standing.WAITING, outcome=None, entered_at=None)
        if self.standing is Standing.NOT_ENTERED and _day(self.decided_at) == _day(at):
            return replace(self, standing=Standing.WAITING)
        later = self.outcome is not None and self.outcome.known_at >= at
        if later or self.standing is Standing.OUTCOME_UNKNOWN:  # nobody noted when that became known
            return replace(self, standing=Standing.HELD, outcome=None)
        return self


def _day(at: datetime) -> date:
    return at.astimezone(NEW_YORK).date()


def features_of(numbers: Mapping[str, float]) -> dict[str, float]:
    """What may be compared between symbols: ratios in place of prices, the rest as it is. Finite only; sorted by name.

    numbers : of a review: those of Signal.numbers, and close, stop, sma, dollar_volume (USD).
    """
    found = {name: value for name, value in numbers.items() if name not in _PRICES}
    close, volume = numbers.get("close", math.nan), numbers.get("dollar_volume", math.nan)
    if close > 0:
        found["stop_distance"] = 1 - numbers.get("stop", math.nan) / close
        found["atr_share"] = numbers.get("atr", math.nan) / close
        if numbers.get("sma", math.nan) > 0:
            found["trend"] = close / numbers["sma"] - 1
        if numbers.get("prior_low", math.nan) > 0:
            found["above_prior_low"] = close / numbers["prior_low"] - 1
    if volume > 0:
        found["dollar_volume_log10"] = math.log10(volume)
    return {name: float(found[name]) for name in sorted(found) if math.isfinite(found[name])}


# ---------------------------------------------------------------- as JSON
def to_json(episode: Episode) -> dict[str, Any]:
    """Plain values; what is unknown is left out."""
    row: dict[str, Any] = {
        "decision_id": episode.decision_id, "symbol": episode.symbol, "strategy": episode.strategy,
        "session": episode.session.isoformat(), "decided_at": episode.decided_at.isoformat(),
        "regime": episode.regime, "standing": str(episode.standing), "numbers": dict(sorted(episode.numbers.items())),
    }  # fmt: skip
    for name in ("score", "confidence", "probability"):
        if (value := getattr(episode, name)) is not None:
            row[name] = value
    if episode.scale is not None:
        row["scale"] = str(episode.scale)
    if episode.entered_at is not None:
        row["entered_at"] = episode.entered_at.isoformat()
    if (outcome := episode.outcome) is not None:
        row["outcome"] = {
            "closed_at": outcome.closed_at.isoformat(), "known_at": outcome.known_at.isoformat(), "r": outcome.r,
            "usd": str(outcome.usd), "exit_reason": outcome.exit_reason, "bars_held": outcome.bars_held,
        }  # fmt: skip
    return row


def from_json(row: Mapping[str, Any]) -> Episode:
    """Raises ValueError, KeyError, TypeError or ArithmeticError for what `to_json` would not have written."""
    told = row.get("outcome")
    outcome = None
    if told is not None:
        outcome = Outcome(
            closed_at=datetime.fromisoformat(told["closed_at"]), known_at=datetime.fromisoformat(told["known_at"]),
            r=finite(told["r"]), usd=Decimal(told["usd"]), exit_reason=str(told["exit_reason"]),
            bars_held=None if told["bars_held"] is None else int(told["bars_held"]),
        )  # fmt: skip
    entered = row.get("entered_at")
    return Episode(
        decision_id=str(row["decision_id"]), symbol=str(row["symbol"]), strategy=str(row["strategy"]),
        session=date.fromisoformat(row["session"]), decided_at=datetime.fromisoformat(row["decided_at"]),
        regime=str(row["regime"]), score=maybe(row.get("score")), confidence=maybe(row.get("confidence")),
        probability=maybe(row.get("probability")), scale=None if row.get("scale") is None else Decimal(row["scale"]),
        numbers={str(name): finite(value) for name, value in row["numbers"].items()},
        entered_at=None if entered is None else datetime.fromisoformat(entered), standing=Standing(row["standing"]),
        outcome=outcome,
    )  # fmt: skip


def finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def maybe(value: object) -> float | None:
    return None if value is None else finite(value)
