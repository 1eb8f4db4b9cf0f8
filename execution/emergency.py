"""What the operator can always do: cancel every order, sell every position. Both work while the kill switch is on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from core.clock import Clock
from core.domain import Order, OrderIntent, OrderKind, Purpose, Side, Symbol, Tif
from core.errors import AlreadyRunning, BrokerDown, BrokerRejected, StateLocked
from core.files import locked
from core.ports import Broker
from execution.desk import Acknowledged, Desk, Outcome, whole_shares
from risk.gate import Book

if TYPE_CHECKING:
    from core.journal import Journal

_WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class CancelResult:
    """`remaining` is empty when the last listing was; `failed` maps an order id to why its cancel was refused."""

    cancelled: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    remaining: tuple[str, ...] = ()

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
    asked: dict[str, str] = {}
    failed: dict[str, str] = {}
    while True:
        listing = broker.open_orders()
        if not listing or clock.monotonic() >= end:
            break
        for order in listing:
            _cancel_one(broker, journal, order, asked, failed)
        clock.sleep(_WAIT_S)
    remaining = tuple(order.id for order in listing)
    gone = tuple(order_id for order_id in asked if order_id not in remaining)
    if desk is not None:
        for cid in asked.values():
            if cid in desk.ledger().orders:
                desk.poll(cid, wait_s=0.0)
    result = CancelResult(gone, {k: v for k, v in failed.items() if k in remaining}, remaining)
    journal.append("cancel_all_done", {
        "cancelled": list(gone), "failed": dict(result.failed), "remaining": list(remaining),
    })  # fmt: skip
    return result


def _cancel_one(
    broker: Broker, journal: Journal, order: Order, asked: dict[str, str], failed: dict[str, str]
) -> None:
    if order.id not in asked:
        journal.append("cancel_requested", {
            "client_order_id": order.client_order_id, "order_id": order.id, "symbol": str(order.symbol),
            "code": "CANCEL_ALL",
        })  # fmt: skip
        asked[order.id] = order.client_order_id
    try:
        broker.cancel(order.id)
        failed.pop(order.id, None)
    except (BrokerRejected, BrokerDown) as error:
        failed[order.id] = error.code


@dataclass(frozen=True, slots=True)
class CloseResult:
    """`flat` only when the last listing of whole-share long positions was empty; fractions and shorts are `left`."""

    cancels: CancelResult
    outcomes: tuple[Outcome, ...]
    left: Mapping[Symbol, str]

    @property
    def flat(self) -> bool:
        return not self.left


def close_all(
    desk: Desk, *, run: str, run_lock: Path, deadline_s: float = 120.0, cancel_deadline_s: float = 30.0
) -> CloseResult:
    """Cancel everything, wait for it to be gone, then sell the positions the broker really has, until flat.

    `run` names this liquidation in the client order ids (`kobe-close-<run>-SYMBOL-sell-close-N`). While one sell of a
    symbol has no end, no second one is sent. Whole long shares only: fractions and shorts are reported as left.
    Raises AlreadyRunning when another close run is active, BrokerDown when positions cannot be read.
    """
    try:
        with locked(run_lock, timeout_s=0.1):
            return _close_all(desk, run, deadline_s, cancel_deadline_s)
    except StateLocked as error:
        if run_lock.name not in str(error):
            raise
        raise AlreadyRunning("another close run is active", code="CLOSE_RUNNING") from error


def _close_all(desk: Desk, run: str, deadline_s: float, cancel_deadline_s: float) -> CloseResult:
    clock = desk.clock
    end = clock.monotonic() + deadline_s
    desk.journal.append("close_all_started", {"run": run})
    cancels = cancel_all(desk.broker, desk.journal, clock, deadline_s=cancel_deadline_s, desk=desk)
    outcomes: list[Outcome] = []
    first: dict[Symbol, int] = {}
    while True:
        held = whole_shares(desk.broker.positions())
        for symbol, quantity in held.items():
            first.setdefault(symbol, quantity)
        if not any(quantity > 0 for quantity in held.values()):
            break
        outcomes += _round(desk, run, held, first)
        if clock.monotonic() >= end:
            break
        clock.sleep(_WAIT_S)
    left = {s: str(p.quantity) for s, p in sorted(desk.broker.positions().items()) if p.quantity}
    desk.journal.append("close_all_done", {"run": run, "left": {str(s): q for s, q in left.items()}})
    return CloseResult(cancels, tuple(outcomes), left)


def _round(desk: Desk, run: str, held: Mapping[Symbol, int], first: Mapping[Symbol, int]) -> list[Outcome]:
    """One pass: follow what is working, sell what nothing is selling.

    Never more than the run's first listing less what it has sold: a listing that lags must not be sold twice.
    """
    outcomes: list[Outcome] = []
    for symbol, quantity in sorted(held.items()):
        decision_id = f"close-{run}-{symbol}"
        working = [
            o for o in desk.ledger().working() if o.intent.purpose is Purpose.CLOSE and o.intent.symbol == symbol
        ]
        for order in working:
            desk.poll(order.client_order_id, wait_s=0.0)
        sold = sum(o.filled_quantity for o in desk.ledger().orders.values() if o.intent.decision_id == decision_id)
        quantity = min(quantity, first[symbol] - sold)
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
