"""The desk: gate, then journal, then kill switch, then wire. The order of the lines is the safety argument.

Budgets come from the ledger, re-read under one inter-process lock that also covers `order_intended`, so that
scripts started together cannot exceed a limit between them. No network happens under that lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from core import logs
from core.clock import Clock
from core.domain import Order, OrderIntent, OrderKind, Position, Side, Symbol, Tif
from core.errors import (
    BrokerDown,
    BrokerRejected,
    OutcomeUnknown,
    RateLimited,
    RiskRefused,
    StateCorrupt,
    TradingHalted,
)
from core.files import locked
from core.journal import JournalTail
from core.ports import Broker, Halt
from core.secrets import mask_secrets
from execution.fold import Fold
from execution.ledger import Ledger, LedgerOrder, intent_body, new_york_day
from execution.order_states import OrderState, is_terminal, state_of, totals
from risk.gate import Approved, Book, Limits, Refused, decide, is_reduction, remaining

if TYPE_CHECKING:
    from config.settings_schema import Settings
    from core.journal import Journal
    from execution.recovery import Settled

POLL_S = 0.25
_TROUBLE = frozenset({"order_unknown", "order_rejected", "order_not_sent", "order_anomaly"})
_SEEN_KINDS = frozenset({"order_intended", "order_filled", "order_closed", "order_rejected", "order_unknown"})
CHANGED = "UNKNOWN_ORDER_CHANGED"
"""Lock of a symbol whose resting order the broker has changed by itself."""
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
    retry_after_s: float | None = None  # the broker said so


@dataclass(frozen=True, slots=True)
class Unknown:
    """May be live: the symbol is locked until `settle` has proof."""

    intent: OrderIntent
    code: str
    message: str


Outcome = Refused | Halted | Acknowledged | Rejected | NotSent | Unknown


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
        rate_limit_wait_s: float = 10.0,
        trip: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.journal, self.broker, self.halt, self.clock, self.limits = journal, broker, halt, clock, limits
        self._lock_path, self.cancel_after_s, self.lag_s = lock_path, cancel_after_s, settle_lag_s
        self._patience_s = rate_limit_wait_s
        self._keys_refused = False
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
            rate_limit_wait_s=float(settings.execution.rate_limit_wait_s),
        )  # fmt: skip

    def ledger(self) -> Ledger:
        """The journal as of now, other processes' records included. Raises StateCorrupt, also when asked again."""
        new = self._tail.new()
        try:
            for record in new:
                self._fold.add(record)
                if record.kind in _SEEN_KINDS:
                    self._seen.append((record.seq, record.body["client_order_id"]))
        except StateCorrupt:
            self._tail, self._fold = JournalTail(self.journal), Fold()  # half a fold must never be believed
            raise
        if new:
            self._ledger = self._fold.ledger()
        return self._ledger

    def touched_since(self, seq: int) -> frozenset[str]:
        """Client order ids that the journal tells something of after record `seq`."""
        self.ledger()
        return frozenset(cid for _, cid in takewhile(lambda told: told[0] > seq, reversed(self._seen)))

    # -- sending ------------------------------------------------------------------------------------------------

    def send(self, intent: OrderIntent, book: Book) -> Outcome:
        """Gate, journal, kill switch, wire; exactly one POST at most. Never raises for an order's fate.

        `book` brings market and account facts; what the ledger knows better is taken from the ledger, inside the lock.
        Raises StateCorrupt or StateLocked when the journal cannot be trusted, BrokerDown when an exit's position
        cannot be read: then nothing was sent.
        """
        if self._keys_refused:
            return self._keys(intent)
        if is_reduction(intent) and not book.operator_close:
            book = self._with_broker_facts(book)
        with locked(self._lock_path):
            decision = decide(intent, with_ledger(book, self.ledger(), intent, self.clock.now()), self.limits)
            if isinstance(decision, Refused):
                self._append("order_refused", intent, breaches=[str(breach) for breach in decision.breaches],
                             codes=list(decision.codes))  # fmt: skip
                return decision
            if not decision.despite_halt and self.halt.is_active():
                self._refused(intent, "KILL_SWITCH")
                return Halted(intent)
            own_room = decision.despite_halt  # a full disk keeps an entry from being sent, not the liquidation
            self.journal.append("order_intended", intent_body(intent), may_use_reserve=own_room)  # before any byte
        return self._wire(decision, book)

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

    @property
    def keys_refused(self) -> bool:
        return self._keys_refused

    def keys_work_again(self) -> None:
        """The broker has answered a read with these keys: sending may be tried again."""
        self._keys_refused = False

    def _keys(self, intent: OrderIntent) -> NotSent:
        """After a 401 nothing more is posted until a read has shown that the keys are taken again."""
        self._refused(intent, "UNAUTHORIZED")
        return NotSent(intent, "UNAUTHORIZED", "the broker refused these keys; nothing more is sent")

    def _refused(self, intent: OrderIntent, code: str) -> None:
        self._append("order_refused", intent, breaches=[code], codes=[code])

    def _wire(self, approved: Approved, book: Book) -> Outcome:
        intent = approved.intent
        try:
            order = self.broker.submit(approved)
        except TradingHalted:
            self._append("order_not_sent", intent, code="KILL_SWITCH", evidence="the transport asked before sending")
            return Halted(intent)
        except RiskRefused as error:  # the last door, which trusts neither the gate nor this desk
            self._append("order_not_sent", intent, code=error.code, evidence=str(error))
            return NotSent(intent, error.code, str(error))
        except BrokerRejected as error:
            return self._after_rejection(intent, book, error)
        except BrokerDown as error:
            self._append("order_not_sent", intent, code=error.code, evidence=mask_secrets(str(error)))
            wait_s = error.retry_after_s if isinstance(error, RateLimited) else None
            return NotSent(intent, error.code, str(error), wait_s)
        except OutcomeUnknown as error:
            self._unknown(intent, error.code, str(error))
            return Unknown(intent, error.code, str(error))
        self._adopt(intent, order)
        return Acknowledged(intent, order)

    def _after_rejection(self, intent: OrderIntent, book: Book, error: BrokerRejected) -> Outcome:
        """A 4xx is believed only when the position did not move: such replies came for executed orders too."""
        if error.code == "UNAUTHORIZED":
            self._keys_refused = True
            logs.error_event("keys_refused", code=error.code, detail=str(error))
            logs.count("keys_refused")
        elif not self._position_unmoved(intent.symbol, book):
            self._unknown(intent, f"{error.code}_UNPROVED", f"{error}; the position moved, or cannot be read")
            return Unknown(intent, f"{error.code}_UNPROVED", str(error))
        self._append("order_rejected", intent, code=error.code, detail=mask_secrets(str(error)))
        return Rejected(intent, error.code, str(error))

    def _position_unmoved(self, symbol: Symbol, book: Book) -> bool:
        try:
            now = whole_shares(self.broker.positions())
        except (BrokerDown, BrokerRejected):
            return False
        return now.get(symbol, 0) == book.positions.get(symbol, 0)

    def _unknown(self, intent: OrderIntent, code: str, detail: str) -> None:
        self._append("order_unknown", intent, code=code, detail=mask_secrets(detail))
        if code == "IDENTITY_MISMATCH":  # the broker answered of another order: nothing it says can be relied upon
            self.lock(intent.symbol, "UNKNOWN_IDENTITY_MISMATCH", detail)
            self._trip(f"IDENTITY_MISMATCH {intent.client_order_id}: {detail}")

    def _append(self, kind: str, intent: OrderIntent, **more: Any) -> None:
        """One record, and the same told to people where it is trouble. Refusals are counted by their readers."""
        ids = {"client_order_id": intent.client_order_id, "decision_id": intent.decision_id}
        may_use_reserve = kind != "order_refused"  # everything else is about an order that was, or may have been, sent
        self.journal.append(kind, {**ids, "symbol": str(intent.symbol), **more}, may_use_reserve=may_use_reserve)
        if kind in _TROUBLE:
            tell = logs.error_event if kind == "order_unknown" else logs.event
            tell(kind, **ids, symbol=str(intent.symbol), code=str(more.get("code", "")), detail=more.get("detail"))
            logs.count(kind, code=str(more.get("code", "")))

    # -- following ----------------------------------------------------------------------------------------------

    def _anomaly(self, order: LedgerOrder, code: str, detail: str) -> None:
        """Something the broker may not say. Told once an order and code."""
        if order.anomaly != code:
            self._append("order_anomaly", order.intent, code=code, detail=detail)

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
                if before.end is not None:
                    self._anomaly(before, "LATE_FILL", f"{before.end} {before.status}, then {filled} filled")
            elif filled < before.filled_quantity:  # the larger count stays
                self._anomaly(before, "FILL_WENT_DOWN", f"{before.filled_quantity} booked, the broker says {filled}")
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

    def tell_trades(self) -> None:
        with locked(self._lock_path):
            self._tell_trades()

    def _tell_trades(self) -> None:
        """Tell of trades that opened or closed, each once, also those that a crash kept from being told.

        The fold does not need these records, readers do.
        """
        ledger = self.ledger()
        for trade in ledger.recent_trades():
            facts: dict[str, Any] = {"decision_id": trade.decision_id, "symbol": str(trade.symbol)}
            if not trade.told_opened:
                self.journal.append("trade_opened", {
                    **facts, "strategy": trade.strategy, "quantity": trade.entry_quantity,
                    "price": str(trade.entry_price), "session": trade.session.isoformat(), "stop": _text(trade.stop),
                    "target_r": trade.target_r, "time_stop_bars": trade.time_stop_bars,
                }, may_use_reserve=True)  # fmt: skip
            if not trade.is_open and not trade.told_closed:
                last = trade.exits[-1].price if trade.exits else None
                self.journal.append("trade_closed", {
                    **facts, "quantity": trade.entry_quantity, "entry_price": str(trade.entry_price),
                    "exit_price": _text(last), "reason": str(ledger.exit_reason(trade)),
                }, may_use_reserve=True)  # fmt: skip

    def poll(self, client_order_id: str, *, wait_s: float) -> LedgerOrder:
        """Ask until the order is over or `wait_s` has passed; books what is seen. Read failures wait like the rest."""
        deadline = self.clock.monotonic() + wait_s
        while True:
            current = self.ledger().orders[client_order_id]
            if current.working:
                current = self.look(current)
            if not current.working or self.clock.monotonic() >= deadline:
                return current
            self.clock.sleep(POLL_S)

    def look(self, current: LedgerOrder) -> LedgerOrder:
        """Ask once by client order id and book what is seen; a broker that does not answer changes nothing."""
        try:
            order = self.broker.find(current.client_order_id)
        except (BrokerDown, BrokerRejected):
            return current
        if order is None:
            return current
        if not same(current.intent, order):
            if current.order_id == order.id and current.intent.side is order.side:  # confirmed, else it has no name
                return self._changed_by_broker(current, order)
            if current.unknown in ("UNKNOWN_IDENTITY_MISMATCH", "UNKNOWN_DUPLICATE_ID_DIFFERS"):
                return current
            self._unknown(current.intent, "IDENTITY_MISMATCH", f"the broker has {order.side} {order.quantity}")
            return self.ledger().orders[current.client_order_id]
        if current.unsettled and (not current.acknowledged or state_of(order) is not OrderState.UNKNOWN):
            self._append("order_acknowledged", current.intent, order_id=order.id, status=order.status)
        return self.book_order(order)

    def _changed_by_broker(self, current: LedgerOrder, order: Order) -> LedgerOrder:
        """Our own acknowledged order in other shares or another name: a corporate action at the broker, no mix-up.

        Ended unfilled it is over, and one that fits its re-based trade is explained; anything else locks the symbol.
        """
        trade = self.ledger().trades.get(current.intent.decision_id)
        explained = trade is not None and (order.symbol, order.quantity) == (trade.symbol, trade.quantity)
        if explained or (is_terminal(state_of(order)) and totals(order)[0] == current.filled_quantity == 0):
            return self.book_order(order)
        seen = f"{order.side} {order.quantity} {order.symbol} filled {totals(order)[0]}"
        self._anomaly(current, CHANGED, f"sent as {current.intent.quantity} {current.intent.symbol}, now {seen}")
        if current.intent.symbol not in self.ledger().locked:
            self.lock(current.intent.symbol, CHANGED, seen)
        return self.ledger().orders[current.client_order_id]

    def execute(self, intent: OrderIntent, book: Book, *, wait_s: float = 5.0) -> tuple[Outcome, LedgerOrder | None]:
        """Send and follow to the end. A DAY limit entry or exit is cancelled after `cancel_after_s`.

        Resting protection is sent, waited for until the broker shows it, and left. The LedgerOrder is None when nothing
        was intended.
        """
        outcome = self._send_patiently(intent, book)
        if isinstance(outcome, Refused | Halted):
            return outcome, None
        cid = intent.client_order_id
        if isinstance(outcome, Rejected | NotSent):
            return outcome, self.ledger().orders.get(cid)
        if intent.tif is Tif.GTC:
            return outcome, self._once_seen(cid, wait_s=wait_s)
        if intent.tif is Tif.DAY and intent.kind is OrderKind.LIMIT:
            self.poll(cid, wait_s=self.cancel_after_s)
            return outcome, self.cancel(cid, wait_s=wait_s)  # which asks nothing of an order that is over
        return outcome, self.poll(cid, wait_s=wait_s)

    def _send_patiently(self, intent: OrderIntent, book: Book) -> Outcome:
        """A 429 that is proved not accepted is waited out as told and tried once more: the same id, every limit asked
        again. A wait longer than `rate_limit_wait_s` leaves it to the next scan."""
        outcome = self.send(intent, book)
        if not isinstance(outcome, NotSent) or outcome.retry_after_s is None:
            return outcome
        spread_s = (crc32(intent.client_order_id.encode()) % 250) / 1000  # so that several do not come back together
        wait_s = outcome.retry_after_s + spread_s
        if wait_s > self._patience_s:
            return outcome
        self.clock.sleep(wait_s)
        return self.send(intent, book)

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
            current = self.look(current)
        if current.working and current.order_id is not None:
            with contextlib.suppress(BrokerRejected, BrokerDown):  # the poll below reads its true state
                self.broker.cancel(current.order_id)
        return self.poll(client_order_id, wait_s=wait_s)

    # -- recovery -----------------------------------------------------------------------------------------------

    def settle(self) -> Settled:
        """Give every intent without an end its end from the broker's evidence, or leave it UNKNOWN and locked."""
        from execution.recovery import settle

        return settle(self)

    def not_sent(self, intent: OrderIntent, code: str, evidence: Any) -> None:
        """Close an intent of which it is proved that the broker has no order."""
        self._append("order_not_sent", intent, code=code, evidence=evidence)

    def book_told(self, order: LedgerOrder, quantity: int, price: Decimal, at: datetime) -> None:
        """Book fills that the account activities tell and the order's own copy does not. `quantity` is cumulative."""
        with locked(self._lock_path):
            before = self.ledger().orders[order.client_order_id]
            if quantity > before.filled_quantity:
                self._append("order_filled", before.intent, quantity=quantity, price=_text(price), at=at.isoformat(),
                             late=before.end is not None, source="activities")  # fmt: skip
            self._tell_trades()

    def lock(self, symbol: Symbol, code: str, detail: str) -> None:
        """Entries of this symbol stop; with a code of UNKNOWN_LOCK exits too."""
        told = {"symbol": str(symbol), "code": code, "detail": mask_secrets(detail)}
        self.journal.append("symbol_locked", told, may_use_reserve=True)
        logs.error_event("symbol_locked", symbol=str(symbol), code=code, detail=detail)
        logs.count("symbols_locked", code=code)

    def record_if_unchanged(self, seq: int, records: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
        """Write records that were decided on the journal as of `seq`; nothing, and False, when it has moved on."""
        with locked(self._lock_path):
            if self.ledger().last_seq != seq:
                return False
            for kind, body in records:
                self.journal.append(kind, body)
        return True

    def unlock(self, symbol: Symbol, code: str) -> None:
        self.journal.append("symbol_unlocked", {"symbol": str(symbol), "code": code})
        logs.event("symbol_unlocked", symbol=str(symbol), code=code)


def same(intent: OrderIntent, order: Order) -> bool:
    return (intent.symbol, intent.side, intent.quantity) == (order.symbol, order.side, order.quantity)


def _text(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


def whole_shares(positions: Mapping[Symbol, Position]) -> dict[Symbol, int]:
    """The broker's positions as whole shares, fractions cut toward zero."""
    return {symbol: int(position.quantity) for symbol, position in positions.items() if position.quantity}


def _foreign_buys(book: Book, ledger: Ledger) -> dict[Symbol, Decimal]:
    """USD per symbol of open buys at the broker that are no working order of ours: the account's exposure counts,
    not only our own books. One without a price counts at its mark; without a mark its slot still counts."""
    found: dict[Symbol, Decimal] = {}
    for order in book.open_orders:
        ours = ledger.orders.get(order.client_order_id)
        if order.side is Side.BUY and (ours is None or not ours.working):
            price = order.limit_price or order.stop_price or book.marks.get(order.symbol) or Decimal(0)
            found[order.symbol] = found.get(order.symbol, Decimal(0)) + price * remaining(order)
    return found


def with_ledger(book: Book, ledger: Ledger, intent: OrderIntent, now: datetime) -> Book:
    """`book` with everything the ledger knows better, each number the more careful of the two."""
    cid, pending = intent.client_order_id, ledger.pending()
    if is_reduction(intent):
        ours, theirs = ledger.positions.get(intent.symbol, 0), book.positions.get(intent.symbol, 0)
        held = theirs if book.operator_close else min(ours, theirs)  # liquidation sells what is really there
        positions: dict[Symbol, int] = {**book.positions, intent.symbol: held}
    else:
        positions = {s: max(book.positions.get(s, 0), ledger.positions.get(s, 0), key=abs)
                     for s in {*book.positions, *ledger.positions}}  # fmt: skip
    foreign = _foreign_buys(book, ledger)
    for symbol, usd in foreign.items():
        pending[symbol] = pending.get(symbol, Decimal(0)) + usd
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
        known_client_ids=book.known_client_ids | ({cid} if ledger.used(cid) else frozenset()),
        sent_at=ledger.sent_at(now - timedelta(days=1)),
    )  # fmt: skip
