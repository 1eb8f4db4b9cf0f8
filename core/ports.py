"""What crosses packages: Protocols, wired together in scripts/. Each says what is safe to repeat and what it raises."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Protocol

from core.clock import Clock as Clock
from core.domain import (
    Account,
    Activity,
    Asset,
    Breach,
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
        """Corporate actions with an ex-date after `since`, announced ones too, ascending; `symbols` match as their
        `symbol` or as their `other`. Raises DataError when it cannot be read."""
        ...


class QuoteSource(Protocol):
    def quotes(self, symbols: Collection[Symbol]) -> Mapping[Symbol, Quote]:
        """Latest quote and trade; a symbol without one is missing from the answer. Raises BrokerDown."""
        ...


class Halt(Protocol):
    def is_active(self) -> bool:
        """True when nothing may be sent; what cannot be checked counts as True."""
        ...


class Admission(Protocol):
    """The last door before the wire, asked for everything that changes something at the broker.

    It trusts neither desk nor gate: what may leave is what the journal holds as intended, once, within the ceilings.
    """

    def admit(self, order: Mapping[str, Any], *, despite_halt: bool) -> None:
        """`order` is the body about to be posted; `despite_halt` asks for the operator's own door.

        Raises RiskRefused (nothing was sent), OutcomeUnknown RUNAWAY_TWICE or INTENT_TAKEN (this id was sent before
        and may be live), StateCorrupt RUNAWAY_NO_INTENT (the journal knows no such intent).
        """
        ...

    def cancelling(self, path: str) -> None:
        """A cancel is about to leave. Raises RiskRefused in a storm of them only."""
        ...


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a model says of a signal: the probability that the trade ends in profit, or why it says nothing."""

    probability: float | None
    code: str  # "OK", "MODEL_ABSENT", "MODEL_EXPIRED" …
    model: str = ""  # its id; empty when there is none
    weight: float = 1.0  # part of quality_gate.weights.model that it earned at its gate, 0..1


class Scorer(Protocol):
    def opinions(self, signals: Sequence[Signal]) -> Mapping[str, Opinion]:
        """By decision id, all signals of a scan at once; one that is missing counts as MODEL_ABSENT."""
        ...


@dataclass(frozen=True, slots=True)
class Review:
    """A reviewer may only shrink or veto: `scale` is within 0..1, 0 is a veto.

    `final`, at most `scale`, is what is left once the picks are chosen: what it takes away makes no room for another
    signal. It is how a language model is heard; None takes nothing away.
    """

    scale: Decimal
    codes: tuple[str, ...] = ()  # in the order of their weight
    confidence: float | None = None  # that the trade ends in profit, 0..1; None: nothing to say it by
    final: Decimal | None = None


class Reviewer(Protocol):
    def reviews(self, scored: Sequence[tuple[Signal, float]]) -> Mapping[str, Review]:
        """By decision id, of every signal that its score let through; one that is missing is vetoed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """What kind of market it was at the close of `session`, as known then."""

    label: str  # "unknown" when there is nothing to tell it by
    session: date
    since: date | None  # the first session of this label in a row; None: not known
    probability: float | None  # of the label, filtered: from the past only
    source: str  # "rule", or the id of the model
    code: str = "OK"  # why it is unknown


class EarningsCalendar(Protocol):
    def dates(self, symbol: Symbol) -> Sequence[date] | None:
        """Known announcement dates; None when nothing is known, which is not the same as none due."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFacts:
    """What the gate is told when one entry of a simulated day is asked for."""

    now: datetime
    session: date  # of the signal
    closes_at: datetime
    positions: Mapping[Symbol, int]
    marks: Mapping[Symbol, Decimal]  # last close of what is held
    spent_today_usd: Decimal
    quote: Quote
    vix: float | None
    returns: Mapping[Symbol, Any]
    sectors: Mapping[Symbol, str | None]
    equity: Decimal
    cash: Decimal
    sent_at: Sequence[datetime]


class HouseRules(Protocol):
    """The live day's own decisions on prices and limits, handed to a simulation of it."""

    def entry_limit(self, quote: Quote, on: date) -> Decimal | Breach: ...
    def exit_limit(self, quote: Quote, on: date) -> Decimal | Breach: ...
    def stop_price(self, stop: Decimal, on: date) -> Decimal:
        """The resting stop, on the tick grid."""
        ...

    def target_price(self, fill: Decimal, stop: Decimal, target_r: float | None, on: date) -> Decimal | None:
        """The resting target; None when there is none."""
        ...

    def refusal(self, intent: OrderIntent, facts: EntryFacts) -> Sequence[str]:
        """Codes of the limits that the entry breaks; empty when it may be sent."""
        ...
