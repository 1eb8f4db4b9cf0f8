"""What a drill leaves behind: the venue, the journal and the logs as they then are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.domain import Symbol
from core.journal import verify
from execution.drill.plan import DayPlan
from execution.ledger import Ledger
from execution.reconcile import Break
from risk.gate import Limits

if TYPE_CHECKING:
    from execution.venue.account import AccountStore, Activity, VenueOrder


@dataclass(frozen=True, slots=True)
class VenueTruth:
    """What the venue holds at the end: parent orders, all activities, positions."""

    orders: Sequence[VenueOrder]
    activities: Sequence[Activity]
    positions: Mapping[Symbol, int]

    @classmethod
    def of(cls, store: AccountStore) -> VenueTruth:
        with store.transaction():
            orders = [o for o in store.orders() if o.parent_id is None]
            held = {Symbol(h.symbol): int(h.qty) for h in store.holdings() if h.qty}
            return cls(orders, store.activities(), held)

    @property
    def fills(self) -> list[Activity]:
        return [activity for activity in self.activities if activity.kind == "FILL"]


@dataclass(frozen=True, slots=True)
class Post:
    """An order POST as it arrived at the venue, and what the home looked like at that moment."""

    client_order_id: str
    intended: bool  # the journal held its intent
    halted: bool  # the kill switch was there


@dataclass(frozen=True, slots=True)
class Told:
    """What happened to the process, for people: after how many records of the journal, and when."""

    after: int
    at: datetime
    what: str


@dataclass(frozen=True, slots=True)
class Bare:
    """An open trade without its stop at the end of a phase."""

    phase: str
    decision_id: str
    symbol: Symbol


@dataclass(kw_only=True)
class Outcome:
    """Everything the invariants look at."""

    plan: DayPlan
    limits: Limits
    ledger: Ledger
    venue: VenueTruth
    chain: str  # what is wrong with the hash chain; empty when it is whole
    records: Sequence[Mapping[str, Any]]
    breaks: Sequence[Break]
    posts: Sequence[Post]
    late: frozenset[str]  # client order ids that the venue filled after it had called them canceled
    runs: Sequence[str]  # ids of the scans that were due
    damaged: Sequence[str]
    errors: Sequence[Mapping[str, Any]]  # logs/errors.jsonl
    bare: Sequence[Bare]
    locks: Mapping[Symbol, str]  # what was still locked after the morning's scan, and a person had to look into
    timeline: Sequence[Told] = ()
    story: list[str] = field(default_factory=list)
    effects: int = 0


def chain_trouble(journal: Path) -> str:
    """Asked while the journal is there: a folder that is gone has a whole chain of nothing."""
    check = verify(journal)
    return "" if check.ok and check.records else check.why or "the journal is empty"


def lines_of(path: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
