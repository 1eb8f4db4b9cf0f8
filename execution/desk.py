"""The desk: gate, then journal, then kill switch, then wire. The order of the lines is the safety argument.

Budgets come from the ledger, re-read under one inter-process lock that also covers `order_intended`, so that
scripts started together cannot exceed a limit between them. No network happens under that lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.clock import Clock
from core.domain import Order, OrderIntent, OrderKind, Position, Purpose, Symbol, Tif
from core.errors import BrokerDown, BrokerRejected, OutcomeUnknown, StateCorrupt, TradingHalted
from core.files import locked
from core.ports import Broker, Halt
from execution.ledger import Fold, JournalTail, Ledger, LedgerOrder, intent_body, new_york_day
from execution.order_states import OrderState, is_terminal, state_of, totals
from risk.gate import Approved, Book, Limits, Refused, decide, is_reduction

if TYPE_CHECKING:
    from config.settings_schema import Settings
    from core.journal import Journal

POLL_S = 0.25
_SEEN_KINDS = frozenset({"order_intended", "order_filled", "order_closed", "order_rejected", "order_unknown"})
SETTLE_LAG_S = 10.0
"""How long a missing look-up proves nothing: the broker's own visibility lag is undocumented, 10 s to 30 s is sane."""


@dataclass(frozen=True, slots=True)
class Halted:
    """The kill switch was seen; nothing was sent."""

    intent: OrderIntent


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker has the order; `order` is its reply, never the result."""

    intent: OrderIntent
    order: Order


@dataclass(frozen=True, slots=True)
class Rejected:
    """A definite no from the broker."""

    intent: OrderIntent
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """Proved not sent: the same id may be tried again."""

    intent: OrderIntent
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """May be live: the symbol is locked until `settle` has proof."""

    intent: OrderIntent
    code: str
    message: str


Outcome = Refused | Halted | Acknowledged | Rejected | NotSent | Unknown


@dataclass(frozen=True, slots=True)
class Settled:
    """What `settle` did, by client order id."""

    adopted: tuple[str, ...] = ()
    not_sent: tuple[str, ...] = ()
    still_unknown: tuple[str, ...] = ()


class Desk:
    """One per process. `send`, `poll`, `execute`, `settle`; everything it knows is in the journal."""

    def __init__(
        self,
        *,
        journal: Journal,
        broker: Broker,
        halt: Halt,
        clock: Clock,
        limits: Limits,
        lock_path: Path,
        cancel_after_s: float = 2.0,
        settle_lag_s: float = SETTLE_LAG_S,
        trip: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.journal, self.broker, self.halt, self.clock, self.limits = journal, broker, halt, clock, limits
        self._lock_path, self._cancel_after_s, self._lag_s = lock_path, cancel_after_s, settle_lag_s
        self._trip = trip  # halts everything, for good: writes the kill switch
        self._tail, self._fold = JournalTail(journal), Fold()
        self._ledger = self._fold.ledger()
        self._seen: list[tuple[int, str]] = []

    @classmethod
    def from_settings(
        cls, settings: Settings, *, journal: Journal, broker: Broker, halt: Halt, clock: Clock, lock_path: Path,
        top_n: bool | None = None, trip: Callable[[str], None] = lambda why: None,
    ) -> Desk:  # fmt: skip
        return cls(
            journal=journal, broker=broker, halt=halt, clock=clock, lock_path=lock_path,
            limits=Limits.from_settings(settings, top_n=top_n),
            cancel_after_s=float(settings.execution.cancel_after_s), trip=trip,
        )  # fmt: skip

    def ledger(self) -> Ledger:
        """The journal as of now, other processes' records included. Raises StateCorrupt, also when asked again."""
        new = self._tail.new()
        try:
            for record in new:
                self._fold.add(record)
                cid = record.body.get("client_order_id")
                if cid is not None and record.kind in _SEEN_KINDS:
                    self._seen.append((record.seq, cid))
        except StateCorrupt:
            self._tail, self._fold = JournalTail(self.journal), Fold()  # half a fold must never be believed
            raise
        if new:
            self._ledger = self._fold.ledger()
        return self._ledger

    def touched_since(self, seq: int) -> frozenset[str]:
        """Client order ids that the journal tells something of after record `seq`."""
        self.ledger()
        return frozenset(cid for at, cid in self._seen if at > seq)

    # -- sending ------------------------------------------------------------------------------------------------

    def send(self, intent: OrderIntent, book: Book) -> Outcome:
        """Gate, journal, kill switch, wire; exactly one POST at most. Never raises for an order's fate.

        `book` brings market and account facts; what the ledger knows better is taken from the ledger, inside the lock.
        Raises StateCorrupt or StateLocked when the journal cannot be trusted, BrokerDown when an exit's position
        cannot be read: then nothing was sent.
        """
        if is_reduction(intent) and not book.operator_close:
            book = self._with_broker_facts(book)
        with locked(self._lock_path):
            decision = decide(intent, with_ledger(book, self.ledger(), intent, self.clock.now()), self.limits)
            if isinstance(decision, Refused):
                self._append("order_refused", intent, breaches=[str(breach) for breach in decision.breaches],
                             codes=list(decision.codes))  # fmt: skip
                return decision
            if not decision.despite_halt and self.halt.is_active():
                self._append("order_refused", intent, breaches=["KILL_SWITCH"], codes=["KILL_SWITCH"])
                return Halted(intent)
            self.journal.append("order_intended", intent_body(intent))  # on disk before the first byte
        return self._wire(decision)

    def refusal(self, exit_intent: OrderIntent, book: Book, *, without: Collection[str]) -> Refused | None:
        """What the gate would refuse this exit for, were the resting orders `without` gone already; None when nothing.

        Asked before protection is cancelled. Journals a refusal like `send`. Raises BrokerDown, BrokerRejected.
        """
        book = self._with_broker_facts(book)
        book = replace(book, open_orders=[o for o in book.open_orders if o.client_order_id not in without])
        with locked(self._lock_path):
            ledger = self.ledger()
            decision = decide(exit_intent, with_ledger(book, ledger, exit_intent, self.clock.now()), self.limits)
            if not isinstance(decision, Refused):
                return None
            open_ends = [o for o in ledger.unsettled() if o.intent.symbol == exit_intent.symbol]
            own_lock = bool(open_ends) and all(o.client_order_id in without for o in open_ends)
            if own_lock and decision.codes == ("SYMBOL_LOCKED",):
                return None  # the cancel itself will settle the only order whose outcome is open
            self._append("order_refused", exit_intent, breaches=[str(b) for b in decision.breaches],
                         codes=list(decision.codes))  # fmt: skip
        return decision

    def _with_broker_facts(self, book: Book) -> Book:
        """Exits look at the broker's own positions and open orders of this moment: a stale copy could oversell."""
        return replace(book, positions=whole_shares(self.broker.positions()), open_orders=self.broker.open_orders())

    def _wire(self, approved: Approved) -> Outcome:
        intent = approved.intent
        try:
            order = self.broker.submit(approved)
        except TradingHalted:
            self._append("order_not_sent", intent, code="KILL_SWITCH", evidence="the transport asked before sending")
            return Halted(intent)
        except BrokerRejected as error:
            self._append("order_rejected", intent, code=error.code, detail=str(error))
            return Rejected(intent, error.code, str(error))
        except BrokerDown as error:
            self._append("order_not_sent", intent, code=error.code, evidence=str(error))
            return NotSent(intent, error.code, str(error))
        except OutcomeUnknown as error:
            self._unknown(intent, error.code, str(error))
            return Unknown(intent, error.code, str(error))
        self._adopt(intent, order)
        return Acknowledged(intent, order)

    def _unknown(self, intent: OrderIntent, code: str, detail: str) -> None:
        self._append("order_unknown", intent, code=code, detail=detail)
        if code == "IDENTITY_MISMATCH":  # the broker answered of another order: nothing it says can be relied upon
            self.journal.append("symbol_locked", {"symbol": str(intent.symbol), "code": "UNKNOWN_IDENTITY_MISMATCH"})
            self._trip(f"IDENTITY_MISMATCH {intent.client_order_id}: {detail}")

    def _append(self, kind: str, intent: OrderIntent, **more: Any) -> None:
        ids = {"client_order_id": intent.client_order_id, "decision_id": intent.decision_id}
        self.journal.append(kind, {**ids, "symbol": str(intent.symbol), **more})

    # -- following ----------------------------------------------------------------------------------------------

    def _adopt(self, intent: OrderIntent, order: Order) -> None:
        self._append("order_acknowledged", intent, order_id=order.id, status=order.status)
        self.book_order(order)

    def book_order(self, order: Order) -> LedgerOrder:
        """Write what the broker's copy adds: a larger filled quantity, an end. Repeats and going back add nothing."""
        with locked(self._lock_path):
            before = self.ledger().orders[order.client_order_id]
            filled, price = totals(order)
            state = state_of(order)
            if filled > before.filled_quantity:
                self._append("order_filled", before.intent, quantity=filled, price=_text(price),
                             at=None if order.filled_at is None else order.filled_at.isoformat(),
                             late=before.end is not None)  # fmt: skip
            if is_terminal(state) and before.end is None:
                self._append("order_closed", before.intent, status=str(state), broker_status=order.status,
                             filled_quantity=max(filled, before.filled_quantity),
                             filled_price=_text(price) if filled >= before.filled_quantity else
                             _text(before.filled_price))  # fmt: skip
            elif state is OrderState.UNKNOWN and before.end is None and before.unknown is None:
                self._append("order_unknown", before.intent, code="STATUS", detail=f"{order.status} filled {filled}")
            return self._announce(before.intent)

    def _announce(self, intent: OrderIntent) -> LedgerOrder:
        self._tell_trades()
        return self.ledger().orders[intent.client_order_id]

    def _tell_trades(self) -> None:
        """Tell of trades that opened or closed, each once, also those that a crash kept from being told.

        The fold does not need these records, readers do.
        """
        ledger = self.ledger()
        for trade in ledger.trades.values():
            facts: dict[str, Any] = {"decision_id": trade.decision_id, "symbol": str(trade.symbol)}
            if trade.decision_id not in ledger.announced:
                self.journal.append("trade_opened", {
                    **facts, "strategy": trade.strategy, "quantity": trade.entry_quantity,
                    "price": str(trade.entry_price), "session": trade.session.isoformat(), "stop": _text(trade.stop),
                    "target_r": trade.target_r, "time_stop_bars": trade.time_stop_bars,
                })  # fmt: skip
            if not trade.is_open and f"{trade.decision_id}!" not in ledger.announced:
                last = trade.exits[-1].price if trade.exits else None
                self.journal.append("trade_closed", {
                    **facts, "quantity": trade.entry_quantity, "entry_price": str(trade.entry_price),
                    "exit_price": _text(last), "reason": str(ledger.exit_reason(trade)),
                })  # fmt: skip

    def poll(self, client_order_id: str, *, wait_s: float) -> LedgerOrder:
        """Ask until the order is over or `wait_s` has passed; books what is seen. Read failures wait like the rest."""
        deadline = self.clock.monotonic() + wait_s
        while True:
            current = self.ledger().orders[client_order_id]
            if current.working:
                current = self._look(current)
            if not current.working or self.clock.monotonic() >= deadline:
                return current
            self.clock.sleep(POLL_S)

    def _look(self, current: LedgerOrder) -> LedgerOrder:
        try:
            order = self.broker.find(current.client_order_id)
        except (BrokerDown, BrokerRejected):
            return current
        if order is None:
            return current
        if not same(current.intent, order):
            if current.unknown == "UNKNOWN_IDENTITY_MISMATCH":
                return current
            self._unknown(current.intent, "IDENTITY_MISMATCH", f"the broker has {order.side} {order.quantity}")
            return self.ledger().orders[current.client_order_id]
        if current.unsettled and (not current.acknowledged or state_of(order) is not OrderState.UNKNOWN):
            self._append("order_acknowledged", current.intent, order_id=order.id, status=order.status)
        return self.book_order(order)

    def execute(self, intent: OrderIntent, book: Book, *, wait_s: float = 5.0) -> tuple[Outcome, LedgerOrder | None]:
        """Send and follow to the end. A DAY limit entry or exit is cancelled after `cancel_after_s`.

        Resting protection is sent, waited for until the broker shows it, and left. The LedgerOrder is None when nothing
        was intended.
        """
        outcome = self.send(intent, book)
        if isinstance(outcome, Refused | Halted):
            return outcome, None
        cid = intent.client_order_id
        if isinstance(outcome, Rejected | NotSent):
            return outcome, self.ledger().orders[cid]
        if intent.tif is Tif.GTC:
            return outcome, self._once_seen(cid, wait_s=wait_s)
        if intent.tif is Tif.DAY and intent.kind is OrderKind.LIMIT:
            current = self.poll(cid, wait_s=self._cancel_after_s)
            if current.working:
                return outcome, self.cancel(cid, wait_s=wait_s)
            return outcome, current
        return outcome, self.poll(cid, wait_s=wait_s)

    def _once_seen(self, client_order_id: str, *, wait_s: float) -> LedgerOrder:
        """Look until the broker shows the order, working or not: an accepted order may be invisible for a moment, and
        listings read in that moment would call it missing."""
        deadline = self.clock.monotonic() + wait_s
        while True:
            seen = False
            with contextlib.suppress(BrokerDown, BrokerRejected):
                seen = self.broker.find(client_order_id) is not None
            if seen or self.clock.monotonic() >= deadline:
                return self.poll(client_order_id, wait_s=0.0)
            self.clock.sleep(POLL_S)

    def cancel(self, client_order_id: str, *, wait_s: float) -> LedgerOrder:
        """Ask for a cancel and follow: a fill on the way wins. A refused cancel is read, not believed."""
        current = self.ledger().orders[client_order_id]
        if current.working and current.order_id is None:
            current = self._look(current)
        if current.working and current.order_id is not None:
            with contextlib.suppress(BrokerRejected, BrokerDown):  # the poll below reads its true state
                self.broker.cancel(current.order_id)
        return self.poll(client_order_id, wait_s=wait_s)

    # -- recovery -----------------------------------------------------------------------------------------------

    def settle(self) -> Settled:
        """Give every intent without an end its end, or leave it UNKNOWN with its symbol locked.

        Found by client id: adopted, and an entry that is still live is cancelled, its moment has passed. Not found:
        only after the visibility lag, and only with all the evidence together, closed as not sent. Also reads every
        resting order once, so that fills of the night are booked.
        """
        adopted, absent, unknown = [], [], []
        with locked(self._lock_path):
            self._tell_trades()
        for order in self.ledger().working():
            if not order.unsettled:
                self._refresh(order)
                continue
            found = self._wait_for(order)
            if found.unsettled:
                if not found.acknowledged and self._proved_absent(found):
                    absent.append(order.client_order_id)
                else:
                    unknown.append(order.client_order_id)
                continue
            adopted.append(order.client_order_id)
            self._refresh(found)
        self._late_fills()
        return Settled(tuple(adopted), tuple(absent), tuple(unknown))

    def _refresh(self, order: LedgerOrder) -> None:
        current = self._look(order) if order.working else order
        old = self.clock.now() - current.intended_at > timedelta(seconds=self._cancel_after_s)
        if current.working and old and current.intent.purpose in (Purpose.ENTRY, Purpose.EXIT):
            self.cancel(current.client_order_id, wait_s=2.0)

    def _late_fills(self) -> None:
        """A fill may be told after a cancel was: look once more at this day's orders that ended short."""
        since = self.clock.now() - timedelta(days=1)
        for order in self.ledger().orders.values():
            if order.end == "closed" and order.intended_at > since and order.filled_quantity < order.intent.quantity:
                self._look(order)

    def _wait_for(self, order: LedgerOrder) -> LedgerOrder:
        """Look the order up until it is seen or the lag since its intent has passed."""
        deadline = self.clock.monotonic() + self._lag_s
        while True:
            order = self._look(order)
            passed = self.clock.now() - order.intended_at >= timedelta(seconds=self._lag_s)
            if not order.unsettled or order.acknowledged or passed or self.clock.monotonic() >= deadline:
                return order
            self.clock.sleep(min(1.0, self._lag_s))

    def _proved_absent(self, order: LedgerOrder) -> bool:
        """All four together: not found by id, not in the complete listing, no stray fill since, position unchanged."""
        if self.clock.now() - order.intended_at < timedelta(seconds=self._lag_s):
            return False
        intent = order.intent
        try:
            if self.broker.find(order.client_order_id) is not None:
                return False
            listed = [o for o in self.broker.open_orders() if o.client_order_id == order.client_order_id]
            known = {o.order_id for o in self.ledger().orders.values() if o.order_id}
            stray = [
                fill for fill in self.broker.fills(order.intended_at - timedelta(minutes=1))
                if fill.symbol == intent.symbol and fill.side is intent.side and fill.order_id not in known
            ]  # fmt: skip
            held = self.broker.positions().get(intent.symbol)
        except (BrokerDown, BrokerRejected):
            return False
        ours = self.ledger().positions.get(intent.symbol, 0)
        theirs = Decimal(0) if held is None else held.quantity
        if listed or stray or theirs != ours:
            return False
        self._append("order_not_sent", intent, code="NOT_ACCEPTED", evidence={
            "looked_up": "not found", "open_orders": "complete, not listed", "fills_since": 0, "position": str(theirs),
        })  # fmt: skip
        return True


def same(intent: OrderIntent, order: Order) -> bool:
    return (intent.symbol, intent.side, intent.quantity) == (order.symbol, order.side, order.quantity)


def _text(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


def whole_shares(positions: Mapping[Symbol, Position]) -> dict[Symbol, int]:
    """The broker's positions as whole shares, fractions cut toward zero."""
    return {symbol: int(position.quantity) for symbol, position in positions.items() if position.quantity}


def with_ledger(book: Book, ledger: Ledger, intent: OrderIntent, now: datetime) -> Book:
    """`book` with everything the ledger knows better, each number the more careful of the two."""
    pending = ledger.pending()
    if is_reduction(intent):
        ours, theirs = ledger.positions.get(intent.symbol, 0), book.positions.get(intent.symbol, 0)
        held = theirs if book.operator_close else min(ours, theirs)  # liquidation sells what is really there
        positions: dict[Symbol, int] = {**book.positions, intent.symbol: held}
    else:
        positions = {s: max(book.positions.get(s, 0), ledger.positions.get(s, 0), key=abs)
                     for s in {*book.positions, *ledger.positions}}  # fmt: skip
    slots = {s for s, quantity in positions.items() if quantity} | set(pending)
    day = new_york_day(now)
    bought_today = {trade.symbol: trade.entry_price for trade in ledger.open_trades() if trade.session == day}
    return replace(
        book,
        now=now,
        positions=positions,
        marks={**bought_today, **book.marks},  # a fill of this scan is its own price until the caller knows a newer
        pending={s: max(usd, book.pending.get(s, usd)) for s, usd in pending.items()} | {
            s: usd for s, usd in book.pending.items() if s not in pending
        },
        pending_notional_usd=max(book.pending_notional_usd, ledger.reserved_usd()),
        spent_today_usd=max(book.spent_today_usd, ledger.filled_usd(day)),
        open_position_slots=max(book.open_position_slots, len(slots)),
        locked={**book.locked, **ledger.locked},
        known_client_ids=book.known_client_ids | ledger.known_client_ids(),
        sent_at=ledger.sent_at(now - timedelta(days=1)),
    )  # fmt: skip

