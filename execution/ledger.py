"""What we did, as values: orders, trades, budgets, locks, and the questions asked of them. Pure.

It is folded from the journal by execution/fold.py; there are no counters anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

from core.domain import ExitReason, OrderIntent, OrderKind, Purpose, Side, Symbol, Tif, client_order_id
from execution.layers import Layered, Table

_NEW_YORK = ZoneInfo("America/New_York")
_ZERO = Decimal(0)
RECENT = timedelta(days=7)
"""Older orders and trades that are over lie still: what is asked on every send looks at the others only."""


def new_york_day(at: datetime) -> date:
    """The budget day of an instant."""
    return at.astimezone(_NEW_YORK).date()


def intent_body(intent: OrderIntent) -> dict[str, Any]:
    """The journal body of `order_intended`: everything `intent_from` needs to build the same intent again."""
    return {
        "client_order_id": intent.client_order_id,
        "decision_id": intent.decision_id,
        "symbol": str(intent.symbol),
        "side": str(intent.side),
        "quantity": intent.quantity,
        "purpose": str(intent.purpose),
        "kind": str(intent.kind),
        "tif": str(intent.tif),
        "decided_at": intent.decided_at.isoformat(),
        "strategy": intent.strategy,
        "signal_session": intent.signal_session.isoformat(),
        "attempt": intent.attempt,
        "limit_price": None if intent.limit_price is None else str(intent.limit_price),
        "stop_price": None if intent.stop_price is None else str(intent.stop_price),
        "target_r": intent.target_r,
        "time_stop_bars": intent.time_stop_bars,
        "reason": intent.reason,
    }


def decimal_of(value: Any) -> Decimal | None:
    return None if value is None else Decimal(str(value))


def intent_from(body: Mapping[str, Any]) -> OrderIntent:
    return OrderIntent(
        decision_id=body["decision_id"],
        symbol=Symbol(body["symbol"]),
        side=Side(body["side"]),
        quantity=int(body["quantity"]),
        purpose=Purpose(body["purpose"]),
        kind=OrderKind(body["kind"]),
        tif=Tif(body["tif"]),
        decided_at=datetime.fromisoformat(body["decided_at"]).astimezone(UTC),
        strategy=body["strategy"],
        signal_session=date.fromisoformat(body["signal_session"]),
        attempt=int(body["attempt"]),
        limit_price=decimal_of(body.get("limit_price")),
        stop_price=decimal_of(body.get("stop_price")),
        target_r=body.get("target_r"),
        time_stop_bars=body.get("time_stop_bars"),
        reason=body.get("reason", ""),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerOrder:
    """One client order id. `end` is None while anything may still happen to it."""

    intent: OrderIntent
    intended_at: datetime
    day: date  # New York day of the intent: whose budget it spends
    acknowledged: bool = False
    unknown: str | None = None  # reason code while the outcome is not known
    unknown_at: datetime | None = None  # when that was first written
    anomaly: str = ""  # reason code of the last thing the broker may not say
    order_id: str | None = None  # the broker's
    filled_quantity: int = 0
    filled_price: Decimal | None = None  # average, USD per share
    filled_at: datetime | None = None
    end: str | None = None  # "closed" | "rejected" | "not_sent"
    status: str = ""  # the broker's last word, or our code

    @property
    def client_order_id(self) -> str:
        return self.intent.client_order_id

    @property
    def working(self) -> bool:
        return self.end is None

    @property
    def unsettled(self) -> bool:
        """Intended, and we do not know whether the broker has it."""
        return self.end is None and (not self.acknowledged or self.unknown is not None)

    @property
    def reserved_usd(self) -> Decimal:
        """What an entry without an end may still cost."""
        if not self.working or self.intent.purpose is not Purpose.ENTRY or self.intent.limit_price is None:
            return _ZERO
        return self.intent.limit_price * max(0, self.intent.quantity - self.filled_quantity)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitFill:
    client_order_id: str
    purpose: Purpose | None  # None: a positions sync
    quantity: int
    price: Decimal | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Eased:
    """Resting protection on the eve of an ex-date: right whether the action comes or not."""

    quantity: int  # 0: nothing may rest
    stop: Decimal
    keeps_target: bool
    ex_date: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """One entry decision that filled, and everything that has left it again."""

    decision_id: str
    symbol: Symbol
    strategy: str
    signal_session: date
    session: date  # New York day of the entry fill
    opened_at: datetime
    entry_quantity: int
    entry_price: Decimal  # average, USD per share
    stop: Decimal | None
    target_r: float | None
    time_stop_bars: int | None
    exits: tuple[ExitFill, ...] = ()
    basis: date | None = None  # the day whose shares and prices these are, when not the day of the entry
    told_opened: bool = False  # `trade_opened` and `trade_closed` are in the journal: for readers, each once
    told_closed: bool = False
    eased: Eased | None = None  # until the action has been booked, or a person has looked

    @property
    def basis_day(self) -> date:
        """Corporate actions up to this day are in the numbers already."""
        return self.session if self.basis is None else self.basis

    @property
    def quantity(self) -> int:
        """Shares still held."""
        return self.entry_quantity - sum(fill.quantity for fill in self.exits)

    @property
    def is_open(self) -> bool:
        return self.quantity > 0

    @property
    def state(self) -> str:
        return "open" if self.is_open else "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The fold's result. Budget days are New York dates."""

    orders: Layered[str, LedgerOrder] = field(default_factory=lambda: Layered({}, {}))  # by client order id
    trades: Layered[str, Trade] = field(default_factory=lambda: Layered({}, {}))  # by decision id
    unended: Mapping[str, LedgerOrder] = field(default_factory=lambda: MappingProxyType({}))  # orders without an end
    positions: Mapping[Symbol, int] = field(default_factory=lambda: MappingProxyType({}))  # non-zero only
    locked: Mapping[Symbol, str] = field(default_factory=lambda: MappingProxyType({}))  # symbol -> reason code
    account: Mapping[str, str] | None = None  # the broker account this journal belongs to: id, number, mode
    assets: Mapping[Symbol, str] = field(default_factory=lambda: MappingProxyType({}))  # the broker's ids
    looked_at: Mapping[Symbol, datetime] = field(default_factory=lambda: MappingProxyType({}))  # by a person
    synced_at: datetime | None = None  # the newest force-sync, which settles every symbol
    spent_before: Mapping[date, Decimal] = field(default_factory=lambda: MappingProxyType({}))  # by orders at rest, USD
    last_seq: int = -1

    def recent_orders(self) -> Iterable[LedgerOrder]:
        """Every order that has no end, and those of the last RECENT."""
        return self.orders.live.values()

    def recent_trades(self) -> Iterable[Trade]:
        """Every open trade, and those that closed within the last RECENT."""
        return self.trades.live.values()

    def open_trades(self) -> tuple[Trade, ...]:
        return tuple(trade for trade in self.recent_trades() if trade.is_open)

    def unsettled(self) -> tuple[LedgerOrder, ...]:
        return tuple(order for order in self.unended.values() if order.unsettled)

    def working(self) -> tuple[LedgerOrder, ...]:
        return tuple(self.unended.values())

    def filled_usd(self, day: date) -> Decimal:
        """Entry notional filled by orders intended on this New York day."""
        recent = (entry_usd(o) for o in self.recent_orders() if o.day == day)
        return sum(recent, self.spent_before.get(day, _ZERO))

    def reserved_usd(self) -> Decimal:
        """Every entry without an end, of any day: yesterday's unknown order may fill today."""
        return sum((order.reserved_usd for order in self.unended.values()), _ZERO)

    def spent_usd(self, day: date) -> Decimal:
        return self.filled_usd(day) + self.reserved_usd()

    def pending(self) -> dict[Symbol, Decimal]:
        """USD reserved per symbol by entries without an end."""
        result: dict[Symbol, Decimal] = {}
        for order in self.working():
            if order.intent.purpose is Purpose.ENTRY:
                symbol = order.intent.symbol
                result[symbol] = result.get(symbol, _ZERO) + order.reserved_usd
        return result

    def used(self, client_order_id: str) -> bool:
        """Whether this id must not be sent again. One proved not sent may: same decision, same id."""
        order = self.orders.get(client_order_id)
        return order is not None and order.end != "not_sent"

    def attempts(self, decision_id: str, side: Side, purpose: Purpose) -> tuple[LedgerOrder, ...]:
        """The orders of one decision, side and purpose, first attempt first."""
        return tuple(attempts_of(self.orders, decision_id, side, purpose))

    def next_attempt(self, decision_id: str, side: Side, purpose: Purpose) -> int:
        """One more than the highest attempt that may have reached the broker; one proved not sent is used again."""
        sent = [o.intent.attempt for o in self.attempts(decision_id, side, purpose) if o.end != "not_sent"]
        return max(sent, default=0) + 1

    def protective(self, decision_id: str) -> tuple[LedgerOrder, ...]:
        """Protection of a trade that has no end yet."""
        return tuple(
            order
            for order in self.working()
            if order.intent.purpose is Purpose.PROTECT and order.intent.decision_id == decision_id
        )

    def exit_reason(self, trade: Trade) -> ExitReason:
        """The reason of the last sell: what its intent said, or stop or target by price for protection."""
        if trade.is_open or not trade.exits:
            return ExitReason.OPEN
        last = trade.exits[-1]
        order = self.orders.get(last.client_order_id)
        if last.purpose is Purpose.PROTECT:
            above = last.price is not None and last.price > trade.entry_price
            return ExitReason.TARGET if above and trade.target_r is not None else ExitReason.STOP
        if order is not None and order.intent.reason in set(ExitReason):
            return ExitReason(order.intent.reason)
        return ExitReason.MANUAL

    def sent_at(self, since: datetime) -> tuple[datetime, ...]:
        """Instants of the orders intended after `since`, which must lie within the last RECENT."""
        return tuple(order.intended_at for order in self.recent_orders() if order.intended_at > since)


def entry_usd(order: LedgerOrder) -> Decimal:
    if order.intent.purpose is not Purpose.ENTRY or order.filled_quantity == 0:
        return _ZERO
    price = order.filled_price if order.filled_price is not None else order.intent.limit_price
    return _ZERO if price is None else price * order.filled_quantity


def attempts_of(
    orders: Mapping[str, LedgerOrder] | Table[str, LedgerOrder], decision_id: str, side: Side, purpose: Purpose
) -> Iterable[LedgerOrder]:
    """Attempts are numbered without gaps, so they are found by their ids, however many orders there ever were."""
    number = 1
    while (order := orders.get(client_order_id(decision_id, side, purpose, number))) is not None:
        yield order
        number += 1
