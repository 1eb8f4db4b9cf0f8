"""One total mapping from the broker's words to our states, decided by filled quantity before status."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType

from core.domain import Order


class OrderState(StrEnum):
    """UNKNOWN is not terminal: the order keeps its reservation until the broker gives proof."""

    PENDING = "pending"
    OPEN = "open"
    PARTIAL = "partial"
    FILLED = "filled"
    CANCELED = "canceled"
    REJECTED = "rejected"
    EXPIRED = "expired"
    REPLACED = "replaced"
    UNKNOWN = "unknown"


TERMINAL = frozenset(
    {OrderState.FILLED, OrderState.CANCELED, OrderState.REJECTED, OrderState.EXPIRED, OrderState.REPLACED}
)

BY_STATUS: Mapping[str, OrderState] = MappingProxyType(
    {
        "pending_new": OrderState.PENDING,
        "accepted": OrderState.PENDING,
        "accepted_for_bidding": OrderState.PENDING,
        "pending_review": OrderState.PENDING,
        "held": OrderState.PENDING,
        "new": OrderState.OPEN,
        "pending_cancel": OrderState.OPEN,  # may still fill, or return to its former state
        "pending_replace": OrderState.OPEN,
        "stopped": OrderState.OPEN,
        "suspended": OrderState.OPEN,
        "calculated": OrderState.OPEN,
        "done_for_day": OrderState.OPEN,  # a GTC order resumes the next day
        "partially_filled": OrderState.PARTIAL,
        "filled": OrderState.FILLED,
        "canceled": OrderState.CANCELED,
        "expired": OrderState.EXPIRED,
        "replaced": OrderState.REPLACED,
        "rejected": OrderState.REJECTED,
    }
)


def classify(status: str, quantity: int, filled: int) -> OrderState:
    """A canceled order that filled completely is FILLED; `filled` without the shares, or `rejected` with some, is
    a contradiction and stays UNKNOWN, as does a word never seen before."""
    state = BY_STATUS.get(status, OrderState.UNKNOWN)
    if state is OrderState.FILLED and filled < quantity:
        return OrderState.UNKNOWN
    if state is OrderState.REJECTED and filled > 0:
        return OrderState.UNKNOWN
    if state in (OrderState.CANCELED, OrderState.EXPIRED) and 0 < quantity <= filled:
        return OrderState.FILLED
    if state in (OrderState.PENDING, OrderState.OPEN) and filled > 0:
        return OrderState.PARTIAL
    return state


def is_terminal(state: OrderState) -> bool:
    return state in TERMINAL


def totals(order: Order) -> tuple[int, Decimal | None]:
    """Shares and average price over the order and its legs: of an OCO, whichever leg filled."""
    parts = [part for part in (order, *order.legs) if part.filled_quantity > 0]
    shares = sum(part.filled_quantity for part in parts)
    if shares == 0:
        return 0, None
    if any(part.filled_price is None for part in parts):
        return shares, None
    priced = ((part.filled_price, part.filled_quantity) for part in parts if part.filled_price is not None)
    cost = sum((price * quantity for price, quantity in priced), Decimal(0))
    return shares, cost / shares


def state_of(order: Order) -> OrderState:
    """The state of an order with its legs: terminal only when nothing of it can fill any more."""
    filled, _ = totals(order)
    own = classify(order.status, order.quantity, order.filled_quantity)
    if not order.legs:
        return own
    if filled >= order.quantity > 0:
        return OrderState.FILLED
    legs = [classify(leg.status, leg.quantity, leg.filled_quantity) for leg in order.legs]
    if is_terminal(own) and all(is_terminal(leg) for leg in legs):
        return own
    return OrderState.PARTIAL if filled else (OrderState.OPEN if is_terminal(own) else own)
