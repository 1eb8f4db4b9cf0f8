"""Order paths that are broken on purpose, one mistake each: the drills must find every one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from core.domain import OrderIntent
from core.errors import OutcomeUnknown
from execution import alpaca_broker, protection, recovery, transport
from execution import desk as desk_module
from execution.admission import LastDoor
from execution.desk import Desk, Halted, Outcome, with_ledger
from execution.fold import Fold
from execution.ledger import Ledger, LedgerOrder, intent_body
from risk.gate import Approved, Book, Refused, decide, is_reduction


class JournalAfterSubmit(Desk):
    """The intent is written when the broker has answered."""

    def send(self, intent: OrderIntent, book: Book) -> Outcome:
        if is_reduction(intent) and not book.operator_close:
            book = self._with_broker_facts(book)
        with desk_module.locked(self._lock_path):
            decision = decide(intent, with_ledger(book, self.ledger(), intent, self.clock.now()), self.limits)
        if isinstance(decision, Refused):
            return decision
        if not decision.despite_halt and self.halt.is_active():
            return Halted(intent)
        try:
            order = self.broker.submit(decision)
        except OutcomeUnknown as error:
            self.journal.append("order_intended", intent_body(intent))
            self._unknown(intent, error.code, str(error))
            return desk_module.Unknown(intent, error.code, str(error))
        self.journal.append("order_intended", intent_body(intent))
        self._adopt(intent, order)
        return desk_module.Acknowledged(intent, order)


class RetryWithNewId(Desk):
    """No answer: the same decision is sent again under the next id."""

    def _wire(self, approved: Approved, book: Book) -> Outcome:
        outcome = super()._wire(approved, book)
        intent = approved.intent
        if not isinstance(outcome, desk_module.Unknown) or intent.attempt > 1 or is_reduction(intent):
            return outcome
        again = dataclasses.replace(intent, attempt=intent.attempt + 1)
        self.not_sent(intent, "TIMED_OUT", "no answer")
        self.journal.append("order_intended", intent_body(again))
        return super()._wire(dataclasses.replace(approved, intent=again), book)


class BudgetOutsideTheLock(Desk):
    """The gate is asked first, the lock taken after it."""

    def send(self, intent: OrderIntent, book: Book) -> Outcome:
        if is_reduction(intent) and not book.operator_close:
            book = self._with_broker_facts(book)
        decision = decide(intent, with_ledger(book, self.ledger(), intent, self.clock.now()), self.limits)
        with desk_module.locked(self._lock_path):
            if isinstance(decision, Refused):
                self._append("order_refused", intent, breaches=[], codes=list(decision.codes))
                return decision
            if not decision.despite_halt and self.halt.is_active():
                return Halted(intent)
            self.journal.append("order_intended", intent_body(intent))
        return self._wire(decision, book)


class NothingSettled(Desk):
    """A start that does not ask what became of the orders before it."""

    def settle(self) -> Any:
        return recovery.Settled()


def _early_switch(patch: pytest.MonkeyPatch) -> None:
    """Asked in the desk, and no more at the wire."""
    admitted = transport.OrderTransport._admitted

    def only_admitted(self: transport.OrderTransport, request: Any) -> bool:
        admitted(self, request)
        return False

    patch.setattr(transport.OrderTransport, "_admitted", only_admitted)


def _absent_is_rejected(patch: pytest.MonkeyPatch) -> None:
    """A 404 right after an unknown POST closes the order."""

    def absent(desk: Desk, order: LedgerOrder) -> bool:
        desk.not_sent(order.intent, "NOT_FOUND", "404")
        return True

    patch.setattr(recovery, "_proved_absent", absent)
    patch.setattr(recovery, "_lag_passed", lambda desk, order: True)


def _no_late_fills(patch: pytest.MonkeyPatch) -> None:
    """An order that was told canceled is never looked at again."""
    patch.setattr(recovery, "_late_fills", lambda desk: None)


def _fill_booked_twice(patch: pytest.MonkeyPatch) -> None:
    """A fill that is told again counts again."""

    def filled(self: Fold, body: Mapping[str, Any], at: Any) -> None:
        before = self._orders[body["client_order_id"]]
        again = 0 if before.acknowledged and before.filled_quantity else before.filled_quantity
        self._orders.put(before.client_order_id, dataclasses.replace(before, filled_quantity=again))
        real(self, body, at)

    real = Fold.filled
    patch.setattr(Fold, "filled", filled)
    handlers = {**_handlers(), "order_filled": filled}
    patch.setattr("execution.fold._HANDLERS", handlers)


def _handlers() -> Mapping[str, Any]:
    from execution import fold

    return fold._HANDLERS


def _protection_not_resized(patch: pytest.MonkeyPatch) -> None:
    """Any resting stop will do, for however many shares."""
    wrong = protection._wrong
    patch.setattr(protection, "_wrong", lambda mine, wanted: None if mine and wanted else wrong(mine, wanted))


def _sized_to_ordered(patch: pytest.MonkeyPatch) -> None:
    """Stops are for what was ordered, not for what filled."""
    made = protection.protection_for

    def ordered(trade: Any, ledger: Ledger, **more: Any) -> OrderIntent | None:
        intent = made(trade, ledger, **more)
        if intent is None:
            return None
        entries = [o.intent for o in ledger.orders.values() if o.intent.decision_id == trade.decision_id]
        return dataclasses.replace(intent, quantity=max(o.quantity for o in entries if not is_reduction(o)))

    patch.setattr(protection, "protection_for", ordered)


def _unknown_costs_nothing(patch: pytest.MonkeyPatch) -> None:
    """An order of unknown outcome reserves no budget and no slot."""

    def reserved(self: LedgerOrder) -> Any:
        return real.fget(self) if not self.unsettled else 0  # type: ignore[misc]

    real = LedgerOrder.__dict__["reserved_usd"]
    patch.setattr(LedgerOrder, "reserved_usd", property(reserved))


def _refusal_believed(patch: pytest.MonkeyPatch) -> None:
    """A 4xx is taken for a definite no, without a look-up and without a look at the position."""
    patch.setattr(alpaca_broker.AlpacaBroker, "_after_error", _rejected)
    patch.setattr(Desk, "_position_unmoved", lambda self, symbol, book: True)


def _rejected(self: Any, intent: OrderIntent) -> Any:
    last = self._transport.last
    if last is None or last.status is None or not 400 <= last.status < 500:
        raise OutcomeUnknown("no definite answer", code="UNKNOWN")
    raise alpaca_broker.BrokerRejected("4xx", code=f"HTTP_{last.status}")


def no_door(patch: pytest.MonkeyPatch) -> None:
    """Takes the last door away, so that the invariants alone must see what the desk does."""
    patch.setattr(LastDoor, "admit", lambda self, order, *, despite_halt: None)


@dataclass(frozen=True)
class Mutant:
    """One mistake, the invariants any of which may find it, and words of the plans that can show it (none: any)."""

    name: str
    found_by: frozenset[str]
    desk: type[Desk] = Desk
    patch: Callable[[pytest.MonkeyPatch], None] = lambda patch: None
    shown_by: tuple[str, ...] = ()


def _mutant(
    name: str, found_by: str, *shown_by: str, desk: type[Desk] = Desk, patch: Any = lambda patch: None
) -> Mutant:
    return Mutant(name, frozenset(found_by.split()), desk, patch, shown_by)


_NO_ANSWER = ("timeout_after", "reset", "truncate", "html", "status_after:50", "drip")
_IN_PARTS = ("buy: late", "buy: partial")  # also of a first attempt, after a second one filled
MUTANTS = (
    _mutant("journal after submit", "INTENT_FIRST BUG", desk=JournalAfterSubmit),
    _mutant("retry on time-out with a new id", "DOUBLED_ENTRY LOST_ORDER BUG", *_NO_ANSWER, desk=RetryWithNewId),
    _mutant("budget check outside the lock", "BUDGET RESERVED HELD", "at decision", desk=BudgetOutsideTheLock),
    _mutant("kill switch asked early", "AFTER_TRIP", "kill switch at", patch=_early_switch),
    _mutant("unknown rejected on 404", "LOST_ORDER POSITIONS", "1 to 60", patch=_absent_is_rejected),
    _mutant("fill booked twice", "POSITIONS TRADES", patch=_fill_booked_twice),
    _mutant("protection not re-sized", "UNPROTECTED IN_STEP", *_IN_PARTS, patch=_protection_not_resized),
    _mutant("sized to ordered, not to filled", "UNPROTECTED IN_STEP", *_IN_PARTS, patch=_sized_to_ordered),
    _mutant("late fills not looked for", "POSITIONS LOCKED", "late", patch=_no_late_fills),
    _mutant("nothing settled", "UNSETTLED IN_STEP", desk=NothingSettled),
    _mutant("unknown costs nothing", "RESERVED BUDGET HELD", "1 to 60", patch=_unknown_costs_nothing),
    _mutant("refusal believed", "LOST_ORDER POSITIONS", "status_after:4", "duplicate_id", patch=_refusal_believed),
)
