"""What the operator can always do: cancel every order, sell every position. Both work while the kill switch is on.

The liquidation goes through a door of its own, which can only make positions smaller: a sell of this run, of at most
what the broker holds less what open sells claim. It is opened by a journal record that says who, and closed by another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import logs
from core.clock import Clock
from core.domain import Order, OrderIntent, OrderKind, Position, Purpose, Side, Symbol, Tif
from core.errors import BrokerDown, BrokerRejected, KobeError, StateCorrupt, StateLocked
from core.ports import Broker
from execution.desk import Acknowledged, Desk, Outcome, whole_shares
from execution.operator_lock import Operator, operator_action
from execution.reconcile import refuse_implausible_flat
from risk.gate import Book

if TYPE_CHECKING:
    from core.journal import Journal

_WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class CancelResult:
    """`remaining` is empty when the last listing was; `failed` maps an order id to why its cancel was refused.

    `unwritten`: the journal could not be written, which keeps no order from being cancelled.
    """

    cancelled: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    remaining: tuple[str, ...] = ()
    unwritten: KobeError | None = None

    @property
    def done(self) -> bool:
        return not self.remaining


def cancel_all(
    broker: Broker, journal: Journal, clock: Clock, *, deadline_s: float = 30.0, desk: Desk | None = None
) -> CancelResult:
    """Cancel and list again until nothing is open or the deadline passes; with `desk`, fills on the way are booked.

    Raises BrokerDown when not even the listing can be read. Protective orders are cancelled too: that is the command.
    """
    end = clock.monotonic() + deadline_s
    notes = _Notes(journal)
    asked: dict[str, str] = {}
    failed: dict[str, str] = {}
    while True:
        listing = broker.open_orders()
        if not listing or clock.monotonic() >= end:
            break
        for order in listing:
            _cancel_one(broker, notes, order, asked, failed)
        clock.sleep(_WAIT_S)
    remaining = tuple(order.id for order in listing)
    gone = tuple(order_id for order_id in asked if order_id not in remaining)
    if desk is not None:
        for cid in asked.values():
            if cid in desk.ledger().orders:
                desk.poll(cid, wait_s=0.0)
    kept = {k: v for k, v in failed.items() if k in remaining}
    notes.write("cancel_all_done", {"cancelled": list(gone), "failed": kept, "remaining": list(remaining)})
    return CancelResult(gone, kept, remaining, notes.trouble)


class _Notes:
    """The record of a cancel. Once it has failed it is not tried again: nobody waits for a lock at each order."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.trouble: KobeError | None = None

    def write(self, kind: str, body: Mapping[str, Any]) -> None:
        if self.trouble is None:
            try:
                self._journal.append(kind, body, may_use_reserve=True)
            except (StateCorrupt, StateLocked) as error:
                self.trouble = error
        if self.trouble is not None:
            logs.error_event("journal_not_written", code=self.trouble.code, kind=kind, body=body)


def _cancel_one(broker: Broker, notes: _Notes, order: Order, asked: dict[str, str], failed: dict[str, str]) -> None:
    """A cancel that is refused is no end: the next listing shows the order's true state."""
    if order.id not in asked:
        notes.write("cancel_requested", {
            "client_order_id": order.client_order_id, "order_id": order.id, "symbol": str(order.symbol),
            "code": "CANCEL_ALL",
        })  # fmt: skip
        asked[order.id] = order.client_order_id
    try:
        broker.cancel(order.id)
        failed.pop(order.id, None)
    except (BrokerRejected, BrokerDown) as error:
        failed[order.id] = error.code


# ---------------------------------------------------------------- liquidation
@dataclass(frozen=True, slots=True)
class CloseResult:
    """`flat` only when the last believable listing of positions was empty; fractions and shorts are `left`."""

    cancels: CancelResult
    outcomes: tuple[Outcome, ...]
    left: Mapping[Symbol, str]
    open_orders: tuple[str, ...] = ()  # client order ids still open at the end: they may bring a position back

    @property
    def flat(self) -> bool:
        return not self.left

    @property
    def done(self) -> bool:
        return self.flat and not self.open_orders


@dataclass(frozen=True, slots=True)
class _Share:
    """What this run may sell of one symbol: what was held when it was first seen, and what our buys brought since."""

    held: int
    bought: int

    def may_sell(self, desk: Desk, symbol: Symbol, decision_id: str) -> int:
        orders = [o for o in desk.ledger().orders.values() if o.intent.symbol == symbol]
        sold = sum(o.filled_quantity for o in orders if o.intent.decision_id == decision_id)
        return self.held + _bought(desk, symbol) - self.bought - sold


def _bought(desk: Desk, symbol: Symbol) -> int:
    orders = desk.ledger().orders.values()
    return sum(o.filled_quantity for o in orders if o.intent.symbol == symbol and o.intent.side is Side.BUY)


def close_all(
    desk: Desk, *, run: str, run_lock: Path, deadline_s: float = 120.0, cancel_deadline_s: float = 30.0
) -> CloseResult:
    """Cancel everything, wait for it to be gone, then sell the positions the broker really has, until flat.

    `run` names this liquidation in the client order ids (`kobe-close-<run>-SYMBOL-sell-close-N`). While one sell of a
    symbol has no end, no second one is sent. Whole long shares only: fractions and shorts are reported as left. A
    broker that fails on the way is asked again until the deadline.
    Raises AlreadyRunning when another action is under way, BrokerDown when positions cannot be read at the end.
    """
    with operator_action(run_lock, desk.clock, "close_all") as operator, _door(desk, run, operator):
        return _close_all(desk, run, deadline_s, cancel_deadline_s)


@contextmanager
def _door(desk: Desk, run: str, operator: Operator) -> Iterator[None]:
    """The audited token: only while the journal shows it open does a sell of this run pass the kill switch."""
    desk.journal.append("operator_close_opened", {"run": run, **asdict(operator)}, may_use_reserve=True)
    logs.error_event("operator_close_opened", code="OPERATOR_CLOSE", run=run, operator=str(operator))
    logs.count("operator_closes")
    try:
        yield
    finally:
        desk.journal.append("operator_close_ended", {"run": run}, may_use_reserve=True)


def _close_all(desk: Desk, run: str, deadline_s: float, cancel_deadline_s: float) -> CloseResult:
    clock = desk.clock
    cancels = cancel_all(desk.broker, desk.journal, clock, deadline_s=cancel_deadline_s, desk=desk)
    end = clock.monotonic() + deadline_s
    outcomes: list[Outcome] = []
    shares: dict[Symbol, _Share] = {}
    while True:
        late = clock.monotonic() >= end
        try:
            found = _positions(desk)
            held = whole_shares(found)
            for symbol, quantity in held.items():
                shares.setdefault(symbol, _Share(quantity, _bought(desk, symbol)))
            if late or not any(quantity > 0 for quantity in held.values()):
                still = tuple(order.client_order_id for order in desk.broker.open_orders())
                break
            outcomes += _round(desk, run, held, shares)
        except BrokerDown as error:
            if late:
                raise
            logs.error_event("close_all_interrupted", code=error.code, detail=str(error), run=run)
        clock.sleep(_WAIT_S)
    left = {s: str(p.quantity) for s, p in sorted(found.items()) if p.quantity}
    desk.journal.append("close_all_done", {
        "run": run, "left": {str(s): q for s, q in left.items()}, "open_orders": list(still),
    })  # fmt: skip
    return CloseResult(cancels, tuple(outcomes), left, still)


def _positions(desk: Desk) -> Mapping[Symbol, Position]:
    """The broker's positions. Raises BrokerDown, also for a listing that says flat while the account says otherwise."""
    found = desk.broker.positions()
    ours = {symbol: quantity for symbol, quantity in desk.ledger().positions.items() if quantity > 0}
    refuse_implausible_flat(ours, found, desk.broker.account())
    return found


def _round(desk: Desk, run: str, held: Mapping[Symbol, int], shares: Mapping[Symbol, _Share]) -> list[Outcome]:
    """One pass: follow what is working, sell what nothing is selling.

    Never more than the run's own share of it less what it has sold: a listing that lags must not be sold twice.
    """
    outcomes: list[Outcome] = []
    for symbol, quantity in sorted(held.items()):
        decision_id = f"close-{run}-{symbol}"
        working = [
            o for o in desk.ledger().working() if o.intent.purpose is Purpose.CLOSE and o.intent.symbol == symbol
        ]
        for order in working:
            if desk.poll(order.client_order_id, wait_s=0.0).unsettled:
                desk.settle()  # one that never arrived must not keep the others from leaving
        quantity = min(quantity, shares[symbol].may_sell(desk, symbol, decision_id))
        if quantity <= 0 or working:
            continue  # the next round lists positions again before anything more is sold
        open_orders: Sequence[Order] = desk.broker.open_orders()
        now_held = whole_shares(desk.broker.positions())  # a runner beside us may have sold since the listing
        quantity = min(quantity, now_held.get(symbol, 0))
        if quantity <= 0:
            continue
        book = Book(now=desk.clock.now(), positions=now_held, open_orders=open_orders, operator_close=True)
        attempt = desk.ledger().next_attempt(decision_id, Side.SELL, Purpose.CLOSE)
        outcome = desk.send(_close_intent(desk, decision_id, symbol, quantity, attempt), book)
        if isinstance(outcome, Acknowledged):
            desk.poll(outcome.intent.client_order_id, wait_s=2.0)
        outcomes.append(outcome)
    return outcomes


def _close_intent(desk: Desk, decision_id: str, symbol: Symbol, quantity: int, attempt: int) -> OrderIntent:
    now = desk.clock.now()
    return OrderIntent(
        decision_id=decision_id,
        symbol=symbol,
        side=Side.SELL,
        quantity=quantity,
        purpose=Purpose.CLOSE,
        kind=OrderKind.MARKET,
        tif=Tif.DAY,
        decided_at=now,
        strategy="close_all",
        signal_session=now.date(),
        attempt=attempt,
        reason="manual",
    )
