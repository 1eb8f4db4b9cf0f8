"""Ceilings on how often anything may be sent: the last net under a loop that has gone wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.domain import Breach

REDUCTION_ROOM = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """Orders per rolling window. Far above an honest day: 10 positions make some 10 entries, 20 legs and 10 exits."""

    per_minute: int = 30
    per_day: int = 300

    def for_reductions(self) -> Ceilings:
        """Stops and exits: each entry may need a stop, an exit and a second stop."""
        return Ceilings(per_minute=REDUCTION_ROOM * self.per_minute, per_day=REDUCTION_ROOM * self.per_day)


def runaway_breach(sent_at: Sequence[datetime], now: datetime, ceilings: Ceilings) -> Breach | None:
    """None when one more order still fits both windows. `sent_at`: instants of all intents of the last 24 hours."""
    for code, span, limit in (
        ("RUNAWAY_MINUTE", timedelta(minutes=1), ceilings.per_minute),
        ("RUNAWAY_DAY", timedelta(days=1), ceilings.per_day),
    ):
        count = sum(1 for at in sent_at if at > now - span)
        if count >= limit:
            return Breach(code=code, observed=str(count + 1), limit=str(limit))
    return None
