"""Open orders at the broker that belong to nothing of ours any more, and the way to be rid of them (B53, B54)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from core import logs
from core.domain import Order
from core.errors import BrokerDown, BrokerRejected, UsageError
from execution.breaks import BreakKind, Cause, cure
from execution.causes import OURS, order_cause
from execution.ledger import Ledger, new_york_day
from execution.protection import orphans as legs_without_trade
from execution.reconcile import left_from_before

if TYPE_CHECKING:
    from execution.desk import Desk

_WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class Orphan:
    """One open order, why it should not be there, and whether it was sent by this program."""

    order: Order
    cause: Cause
    evidence: tuple[str, ...]

    @property
    def ours(self) -> bool:
        return self.order.client_order_id.startswith(OURS)

    def named(self, names: Collection[str]) -> bool:
        return self.order.id in names or self.order.client_order_id in names

    def to_json(self) -> dict[str, Any]:
        order = self.order
        return {
            "order_id": order.id, "client_order_id": order.client_order_id, "symbol": str(order.symbol),
            "side": str(order.side), "quantity": order.quantity, "status": order.status, "ours": self.ours,
            "cause": str(self.cause), "evidence": list(self.evidence),
            "proposal": cure(self.cause, order.symbol, BreakKind.ORPHAN_ORDER),
        }  # fmt: skip


def orphaned(ledger: Ledger, open_orders: Sequence[Order], today: date) -> tuple[Orphan, ...]:
    """Every open order that no working order of ours answers for, by symbol. Pure.

    What is ours and right: protection of an open trade, and orders of today that are still working.
    """
    stray = {order.id for order in legs_without_trade(ledger, open_orders)}
    late = {order.client_order_id: order for order in left_from_before(ledger, open_orders, today)}
    found = []
    for order in open_orders:
        known = ledger.orders.get(order.client_order_id)
        if order.client_order_id in late:
            old = late[order.client_order_id]
            facts = (f"{old.intent.purpose} of {new_york_day(old.intended_at)}, its moment has passed",)
            found.append(Orphan(order, Cause.STILL_OPEN, facts))
        elif known is None or not known.working:
            found.append(Orphan(order, *order_cause(order.client_order_id, ledger)))
        elif order.id in stray:
            found.append(Orphan(order, Cause.ORPHAN_LEG, ("its trade is closed",)))
    return tuple(sorted(found, key=lambda o: (o.order.symbol, o.order.client_order_id)))


@dataclass(frozen=True, slots=True)
class Removed:
    """`remaining` are the orphans of the last listing; `failed` maps an order id to why its cancel was refused."""

    cancelled: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    remaining: tuple[Orphan, ...] = ()


def look(desk: Desk) -> tuple[Orphan, ...]:
    """Raises BrokerDown, also when the listing cannot be proved complete."""
    return orphaned(desk.ledger(), desk.broker.open_orders(), new_york_day(desk.clock.now()))


def remove(desk: Desk, names: Collection[str] = (), *, reason: str, deadline_s: float = 30.0) -> Removed:
    """Cancel our orphans, and the foreign ones that are named, until a listing shows them gone or time is up.

    Each request is in the journal before it is made. Works while the kill switch is on: no orphan protects anything.
    Raises UsageError for a name that is no orphan, BrokerDown when the listing cannot be read.
    """
    first = look(desk)
    unknown = [name for name in names if not any(orphan.named([name]) for orphan in first)]
    if unknown:
        raise UsageError(f"--order {unknown[0]}: no orphaned order has this id", code="NOT_AN_ORPHAN",
                         advice="run without --cancel to see them")  # fmt: skip
    end = desk.clock.monotonic() + deadline_s
    asked: dict[str, Order] = {}
    failed: dict[str, str] = {}
    listing = first
    while True:
        wanted = [o for o in listing if o.ours or o.named(names)]
        if not wanted or desk.clock.monotonic() >= end:
            break
        for orphan in wanted:
            _cancel(desk, orphan, asked, failed, reason)
        desk.clock.sleep(_WAIT_S)
        listing = look(desk)
    return _told(desk, listing, asked, failed, reason)


def _cancel(desk: Desk, orphan: Orphan, asked: dict[str, Order], failed: dict[str, str], reason: str) -> None:
    order = orphan.order
    if order.id not in asked:
        desk.journal.append("cancel_requested", {
            "client_order_id": order.client_order_id, "order_id": order.id, "symbol": str(order.symbol),
            "code": str(orphan.cause), "evidence": list(orphan.evidence), "reason": reason,
        })  # fmt: skip
        asked[order.id] = order
    try:
        desk.broker.cancel(order.id)
        failed.pop(order.id, None)
    except (BrokerRejected, BrokerDown) as error:
        failed[order.id] = error.code  # it may have filled or gone: the next listing tells


def _told(
    desk: Desk, listing: Sequence[Orphan], asked: Mapping[str, Order], failed: Mapping[str, str], reason: str
) -> Removed:
    """What filled on the way is booked, and the outcome recorded."""
    remaining = {orphan.order.id for orphan in listing}
    for order in asked.values():
        if order.client_order_id in desk.ledger().orders:
            desk.poll(order.client_order_id, wait_s=0.0)
    gone = tuple(order_id for order_id in asked if order_id not in remaining)
    result = Removed(gone, {k: v for k, v in failed.items() if k in remaining}, tuple(listing))
    if asked:
        body = {"cancelled": list(gone), "failed": dict(result.failed), "remaining": sorted(remaining & set(asked))}
        desk.journal.append("orphans_cancelled", {**body, "reason": reason})
        logs.event("orphans_cancelled", code="ORPHANS_CANCELLED", **body)
        logs.count("orphans_cancelled", len(gone))
    return result
