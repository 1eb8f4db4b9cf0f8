"""What crosses packages: Protocols, wired together in scripts/. Each says what is safe to repeat and what it raises."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Protocol

from core.clock import Clock as Clock
from core.domain import (
    Account,
    Activity,
    Asset,
    BrokerClock,
    CorporateAction,
    Fill,
    Order,
    OrderIntent,
    Position,
    Quote,
    Signal,
    Symbol,
)


class ApprovedOrder(Protocol):
    """What the gate hands out: an intent that broke no limit. Built only by risk.gate."""

    @property
    def intent(self) -> OrderIntent: ...


class Broker(Protocol):
    """The only door to the market. Reads may raise BrokerDown or BrokerRejected; they are safe to repeat."""

    def submit(self, order: ApprovedOrder) -> Order:
        """POST once. Raises BrokerRejected (proved not live), BrokerDown (proved not sent),
        OutcomeUnknown (anything else), TradingHalted (kill switch seen in the transport)."""
        ...

    def find(self, client_order_id: str) -> Order | None:
        """None when the broker says it has no such order; right after a POST that proves nothing."""
        ...

    def open_orders(self) -> Sequence[Order]:
        """Every open order, legs folded in; raises BrokerDown when the listing cannot be proved complete."""
        ...

    def cancel(self, order_id: str) -> None:
        """Ask for a cancel; the order may still fill. Raises BrokerRejected when it is no longer cancelable."""
        ...

    def positions(self) -> Mapping[Symbol, Position]: ...
    def account(self) -> Account: ...
    def clock(self) -> BrokerClock: ...
    def asset(self, symbol: Symbol) -> Asset | None: ...
    def fills(self, since: datetime) -> Sequence[Fill]: ...

    def by_id(self, order_id: str) -> Order | None:
        """The order with the broker's own id, to learn whose a fill is; None when there is none."""
        ...

    def account_activities(self, since: datetime, kinds: Collection[str] = ()) -> Sequence[Activity]:
        """What happened to the account besides fills, oldest first; no `kinds` means all of them.

        Raises BrokerDown when the listing cannot be proved complete.
        """
        ...


class ActionFeed(Protocol):
    def actions(self, symbols: Collection[Symbol], since: date) -> Sequence[CorporateAction]:
        """Known corporate actions with an ex-date after `since`, ascending. Raises DataError when it cannot be read."""
        ...


class QuoteSource(Protocol):
    def quotes(self, symbols: Collection[Symbol]) -> Mapping[Symbol, Quote]:
        """Latest quote and trade; a symbol without one is missing from the answer. Raises BrokerDown."""
        ...


class Halt(Protocol):
    def is_active(self) -> bool:
        """True when nothing may be sent; what cannot be checked counts as True."""
        ...


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a model says of a signal: the probability that the trade ends in profit, or why it says nothing."""

    probability: float | None
    code: str  # "OK", "MODEL_ABSENT", "MODEL_EXPIRED" …


class Scorer(Protocol):
    def opinion(self, signal: Signal) -> Opinion: ...


@dataclass(frozen=True, slots=True)
class Review:
    """A reviewer may only shrink or veto: `scale` is within 0..1, 0 is a veto."""

    scale: Decimal
    codes: tuple[str, ...] = ()


class Reviewer(Protocol):
    def review(self, signal: Signal, score: float) -> Review: ...


class EarningsCalendar(Protocol):
    def dates(self, symbol: Symbol) -> Sequence[date] | None:
        """Known announcement dates; None when nothing is known, which is not the same as none due."""
        ...
