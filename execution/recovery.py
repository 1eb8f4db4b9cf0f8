"""Start-up is recovery: every intent without an end gets its end from the broker's own evidence, or stays UNKNOWN.

Found by client id: adopted, and an entry that is still live is cancelled, its moment has passed. Not found: only after
the visibility lag, and only with all the evidence together, closed as not sent. Fills that the broker tells late, in
the order's own copy or in its account activities, are booked; while the two differ the symbol is locked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from core.domain import Fill, Purpose, Symbol
from core.errors import BrokerDown, BrokerRejected
from execution.ledger import LedgerOrder
from execution.order_states import totals

if TYPE_CHECKING:
    from execution.desk import Desk

LATE = timedelta(days=1)
"""How long after its intent an order that ended short is still looked at for late fills."""
DISAGREE = "FILLS_DISAGREE"
"""Lock of a symbol whose order and whose activities tell different fills; it stops entries, never exits."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What `settle` did, by client order id."""

    adopted: tuple[str, ...] = ()
    not_sent: tuple[str, ...] = ()
    still_unknown: tuple[str, ...] = ()


def settle(desk: Desk) -> Settled:
    """Raises StateCorrupt, StateLocked. A broker that does not answer leaves everything as it was."""
    adopted, absent, unknown = [], [], []
    desk.tell_trades()
    deadline = desk.clock.monotonic() + desk.lag_s  # for all together: what is held must not wait behind them
    for order in desk.ledger().working():
        if not order.unsettled:
            _refresh(desk, order)
            continue
        found = _wait_for(desk, order, deadline)
        if not found.unsettled:
            adopted.append(order.client_order_id)
            _refresh(desk, found)
        elif not found.acknowledged and _proved_absent(desk, found):
            absent.append(order.client_order_id)
        else:
            unknown.append(order.client_order_id)
    _late_fills(desk)
    return Settled(tuple(adopted), tuple(absent), tuple(unknown))


def _refresh(desk: Desk, order: LedgerOrder) -> None:
    """Read a working order once; an entry or exit that outlived its moment is cancelled."""
    current = desk.look(order) if order.working else order
    old = desk.clock.now() - current.intended_at > timedelta(seconds=desk.cancel_after_s)
    if old and current.intent.purpose in (Purpose.ENTRY, Purpose.EXIT):
        desk.cancel(current.client_order_id, wait_s=2.0)  # which asks nothing of an order that is over


def _lag_passed(desk: Desk, order: LedgerOrder) -> bool:
    """Counted from when we gave up on the reply: a request that hung may arrive long after its intent."""
    since = order.unknown_at or order.intended_at
    return desk.clock.now() - since >= timedelta(seconds=desk.lag_s)


def _wait_for(desk: Desk, order: LedgerOrder, deadline: float) -> LedgerOrder:
    """Look the order up until it is seen, or the lag has passed, or it is time for the others."""
    while True:
        order = desk.look(desk.ledger().orders[order.client_order_id])  # another process may settle it meanwhile
        over = _lag_passed(desk, order) or desk.clock.monotonic() >= deadline
        if not order.unsettled or order.acknowledged or over:
            return order
        desk.clock.sleep(min(1.0, desk.lag_s))


def _proved_absent(desk: Desk, order: LedgerOrder) -> bool:
    """All four together: not found by id, not in the complete listing, no stray fill since, position unchanged."""
    if not _lag_passed(desk, order):
        return False
    intent = order.intent
    try:
        if desk.broker.find(order.client_order_id) is not None:
            return False
        listed = [o for o in desk.broker.open_orders() if o.client_order_id == order.client_order_id]
        known = {o.order_id for o in desk.ledger().recent_orders() if o.order_id}
        stray = [
            fill for fill in desk.broker.fills(order.intended_at - timedelta(minutes=1))
            if fill.symbol == intent.symbol and fill.side is intent.side and fill.order_id not in known
        ]  # fmt: skip
        theirs = _held(desk, intent.symbol)
    except (BrokerDown, BrokerRejected):
        return False
    if listed or stray or theirs != desk.ledger().positions.get(intent.symbol, 0):
        return False
    desk.not_sent(intent, "NOT_ACCEPTED", {
        "looked_up": "not found", "open_orders": "complete, not listed", "fills_since": 0, "position": str(theirs),
    })  # fmt: skip
    return True


def _held(desk: Desk, symbol: Symbol) -> Decimal:
    found = desk.broker.positions().get(symbol)
    return Decimal(0) if found is None else found.quantity


# ---------------------------------------------------------------- late fills
def _late_fills(desk: Desk) -> None:
    """A fill may be told after a cancel was, by the order's copy or only by the activities: both are read."""
    since = desk.clock.now() - LATE
    short = [o for o in desk.ledger().recent_orders() if _ended_short(o, since)]
    for order in short:
        desk.look(order)
    disagreeing = {s for s, code in desk.ledger().locked.items() if code == DISAGREE}
    watched = [
        o for o in desk.ledger().recent_orders()
        if o.order_id and (_ended_short(o, since) or o.intent.symbol in disagreeing)
    ]  # fmt: skip
    if not watched:
        return
    try:
        fills = by_order(desk.broker.fills(min(o.intended_at for o in watched) - timedelta(minutes=1)))
    except (BrokerDown, BrokerRejected):
        return  # the next look reads them
    for order in watched:
        _book_told(desk, order, fills.get(str(order.order_id), ()))
    for symbol in sorted(disagreeing):
        own = [o for o in watched if o.intent.symbol == symbol]
        if own and _all_agree(desk, symbol, own, fills):
            desk.unlock(symbol, "FILLS_AGREE")


def _ended_short(order: LedgerOrder, since: datetime) -> bool:
    return order.end == "closed" and order.intended_at > since and order.filled_quantity < order.intent.quantity


def by_order(fills: Sequence[Fill]) -> Mapping[str, tuple[Fill, ...]]:
    """The executions of each broker order id; an activity id that comes twice counts once."""
    found: dict[str, dict[str, Fill]] = {}
    for fill in fills:
        found.setdefault(fill.order_id, {})[fill.id] = fill
    return {order_id: tuple(rows.values()) for order_id, rows in found.items()}


def _book_told(desk: Desk, order: LedgerOrder, fills: Sequence[Fill]) -> None:
    """Book what only the activities tell, and lock the symbol until order, activities and position agree."""
    told = sum(fill.quantity for fill in fills)
    if told <= order.filled_quantity:
        return
    cost = sum((fill.price * fill.quantity for fill in fills), Decimal(0))
    desk.book_told(order, told, cost / told, max(fill.at for fill in fills))
    if order.intent.symbol not in desk.ledger().locked:
        desk.lock(order.intent.symbol, DISAGREE, f"{order.client_order_id}: activities {told}")


def _all_agree(
    desk: Desk, symbol: Symbol, orders: Sequence[LedgerOrder], fills: Mapping[str, tuple[Fill, ...]]
) -> bool:
    """Every one of them, not only one: an order that filled nothing agrees with everybody."""
    try:
        copies = [(order, desk.broker.find(order.client_order_id)) for order in orders]
        held = _held(desk, symbol)
    except (BrokerDown, BrokerRejected):
        return False
    for order, copy in copies:
        if copy is None:
            return False
        told = sum(fill.quantity for part in (copy, *copy.legs) for fill in fills.get(part.id, ()))
        if not totals(copy)[0] == told == order.filled_quantity:
            return False
    return held == desk.ledger().positions.get(symbol, 0)
