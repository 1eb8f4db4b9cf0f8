"""Resting stop and target at the broker for every open trade, and the way out past them.

Pure part: `plan`. Acting part: `repair` and `leave`, which use the desk like everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from core.domain import Breach, ExitReason, Order, OrderIntent, OrderKind, Purpose, Quote, Side, Tif
from core.errors import BrokerDown, BrokerRejected
from execution.clamp import exit_limit
from execution.ledger import Ledger, LedgerOrder, Trade
from execution.order_states import totals
from risk.gate import UNKNOWN_LOCK, Book

if TYPE_CHECKING:
    from core.money import TickRow
    from execution.desk import Desk, Outcome

_OURS = "kobe-"
_MARK = f"-{Side.SELL}-{Purpose.PROTECT}-"


@dataclass(frozen=True, slots=True)
class ProtectionPlan:
    """First the cancels, each followed to its end, then the intents."""

    cancels: tuple[tuple[Order, str], ...] = ()  # order, reason code ORPHAN or SIZE
    intents: tuple[OrderIntent, ...] = ()


def _covered(order: Order) -> int:
    filled, _ = totals(order)
    return max(0, order.quantity - filled)


def _protects(order: Order, decision_id: str) -> bool:
    return order.side is Side.SELL and order.client_order_id.startswith(f"{_OURS}{decision_id}{_MARK}")


def protection_for(
    trade: Trade, ledger: Ledger, *, ticks: Sequence[TickRow], on: date, now: datetime
) -> OrderIntent | None:
    """A GTC stop for what is held, or an OCO with target = fill + target_r × (fill - stop). None without a stop."""
    from core.money import to_limit_price, to_stop_price

    if trade.stop is None or not trade.is_open:
        return None
    stop = to_stop_price(trade.stop, on, ticks)
    target: Decimal | None = None
    if trade.target_r is not None:
        distance = trade.entry_price - trade.stop
        target = to_limit_price(trade.entry_price + Decimal(str(trade.target_r)) * distance, Side.SELL, on, ticks)
        if target <= stop:
            target = None  # a fill at or below the stop has no target above it; the stop alone remains
    return OrderIntent(
        decision_id=trade.decision_id,
        symbol=trade.symbol,
        side=Side.SELL,
        quantity=trade.quantity,
        purpose=Purpose.PROTECT,
        kind=OrderKind.STOP if target is None else OrderKind.OCO,
        tif=Tif.GTC,
        decided_at=now,
        strategy=trade.strategy,
        signal_session=trade.signal_session,
        attempt=ledger.next_attempt(trade.decision_id, Side.SELL, Purpose.PROTECT),
        limit_price=target,
        stop_price=stop,
        reason="protection",
    )


def plan(
    ledger: Ledger, open_orders: Sequence[Order], *, ticks: Sequence[TickRow], on: date, now: datetime
) -> ProtectionPlan:
    """What is missing, wrongly sized or orphaned. A symbol with an order of unknown outcome is left alone."""
    cancels: list[tuple[Order, str]] = []
    intents: list[OrderIntent] = []
    for trade in ledger.open_trades():
        if ledger.locked.get(trade.symbol, "").startswith(UNKNOWN_LOCK):
            continue
        mine = [order for order in open_orders if _protects(order, trade.decision_id)]
        if sum(_covered(order) for order in mine) == trade.quantity:
            continue
        cancels += [(order, "SIZE") for order in mine]
        intent = protection_for(trade, ledger, ticks=ticks, on=on, now=now)
        if intent is not None:
            intents.append(intent)
    cancels += [(order, "ORPHAN") for order in orphans(ledger, open_orders)]
    return ProtectionPlan(tuple(cancels), tuple(intents))


def missing_protection(
    ledger: Ledger, open_orders: Sequence[Order], *, ticks: Sequence[TickRow], on: date, now: datetime
) -> tuple[OrderIntent, ...]:
    return plan(ledger, open_orders, ticks=ticks, on=on, now=now).intents


def orphans(ledger: Ledger, open_orders: Sequence[Order]) -> tuple[Order, ...]:
    """Our protective orders whose trade is closed or unknown."""
    live = {trade.decision_id for trade in ledger.open_trades()}
    return tuple(
        order
        for order in open_orders
        if order.client_order_id.startswith(_OURS)
        and _MARK in order.client_order_id
        and not any(_protects(order, decision_id) for decision_id in live)
    )


def repair(desk: Desk, book: Book, *, on: date, wait_s: float = 10.0) -> tuple[tuple[Outcome, LedgerOrder | None], ...]:
    """Bring resting protection in line with what is held; planned again after the cancels, which may have filled.

    Nothing is done while the kill switch is on: resting protection stays. Raises BrokerDown, BrokerRejected.
    """
    if desk.halt.is_active():
        return ()
    ticks, now = desk.limits.ticks, desk.clock.now()
    first = plan(desk.ledger(), desk.broker.open_orders(), ticks=ticks, on=on, now=now)
    for order, reason in first.cancels:
        if desk.halt.is_active():
            return ()
        _cancel(desk, order, reason, wait_s=wait_s)
    if first.cancels:
        first = plan(desk.ledger(), desk.broker.open_orders(), ticks=ticks, on=on, now=now)
    stuck = {order.symbol for order, _ in first.cancels}  # not gone yet: a second sell beside it could oversell
    return tuple(desk.execute(intent, book) for intent in first.intents if intent.symbol not in stuck)


def _cancel(desk: Desk, order: Order, reason: str, *, wait_s: float) -> None:
    desk.journal.append(
        "cancel_requested",
        {"client_order_id": order.client_order_id, "order_id": order.id, "symbol": str(order.symbol), "code": reason},
    )
    if order.client_order_id in desk.ledger().orders:
        desk.cancel(order.client_order_id, wait_s=wait_s)
        return
    try:
        desk.broker.cancel(order.id)
    except (BrokerRejected, BrokerDown) as error:
        desk.journal.append("cancel_failed", {"order_id": order.id, "code": error.code})


@dataclass(frozen=True, slots=True)
class Left:
    """How a time stop or indicator exit went. `code`: SOLD, ALREADY_OUT, PARTLY_SOLD, UNSOLD, CANCEL_PENDING, REFUSED,
    UNKNOWN. `reprotected` is True when a resting stop was placed again for what remains."""

    code: str
    outcome: Outcome | None = None
    breach: Breach | None = None
    reprotected: bool = False


def leave(
    desk: Desk, decision_id: str, quote: Quote | None, reason: ExitReason, book: Book, *,
    offset_bps: float, max_clamp_bps: float, on: date, tif: Tif = Tif.IOC, wait_s: float = 10.0,
    max_age_s: float = float("inf"),
) -> Left:  # fmt: skip
    """Cancel protection, wait for its end, sell what is then left, and protect again whatever did not sell.

    The price is worked out before protection is touched: without a usable quote the stop stays where it is.
    """
    trade = desk.ledger().trades[decision_id]
    price = _exit_price(desk, quote, offset_bps, max_clamp_bps, on, max_age_s)
    if isinstance(price, Breach):
        return Left("REFUSED", breach=price)
    resting = desk.ledger().protective(decision_id)
    for order in resting:
        desk.poll(order.client_order_id, wait_s=0.0)  # book first what it did already
    ledger = desk.ledger()
    trade = ledger.trades[decision_id]
    if not trade.is_open:
        return Left("ALREADY_OUT")
    sell = _exit_intent(trade, ledger, price, reason, desk.clock.now(), tif)
    refused = desk.refusal(sell, book, without={order.client_order_id for order in resting})
    if refused is not None:  # what cannot be sold keeps its stop; and a broker that is down fails before it is gone
        return Left("REFUSED", refused, breach=refused.breaches[0])
    if desk.halt.is_active():
        return Left("REFUSED", breach=Breach(code="KILL_SWITCH", observed="active", limit="inactive"))
    for order in resting:
        if desk.cancel(order.client_order_id, wait_s=wait_s).working:
            return Left("CANCEL_PENDING")
    ledger = desk.ledger()
    trade = ledger.trades[decision_id]
    if not trade.is_open:
        return Left("ALREADY_OUT")  # the stop or target filled instead; it is booked
    outcome, _ = desk.execute(_exit_intent(trade, ledger, price, reason, desk.clock.now(), tif), book, wait_s=wait_s)
    return _after_exit(desk, decision_id, outcome, book, on)


def _exit_price(
    desk: Desk, quote: Quote | None, offset_bps: float, max_clamp_bps: float, on: date, max_age_s: float
) -> Decimal | Breach:
    """The sell limit, or why this quote cannot be sold at: then the stop stays and the next scan tries again."""
    if quote is None:
        return Breach(code="QUOTE_ABSENT", observed="none", limit="a quote")
    age_s = (desk.clock.now() - quote.at).total_seconds()
    if age_s > max_age_s:
        return Breach(code="QUOTE_STALE", observed=f"{age_s:.0f} s", limit=f"{max_age_s:g} s")
    if quote.bid is not None and quote.ask is not None and 0 < quote.ask < quote.bid:
        return Breach(code="QUOTE_CROSSED", observed=f"{quote.bid}/{quote.ask}", limit="bid at most ask")
    return exit_limit(quote, offset_bps, max_clamp_bps, desk.limits.ticks, on)


def _exit_intent(
    trade: Trade, ledger: Ledger, price: Decimal, reason: ExitReason, now: datetime, tif: Tif
) -> OrderIntent:
    return OrderIntent(
        decision_id=trade.decision_id,
        symbol=trade.symbol,
        side=Side.SELL,
        quantity=trade.quantity,
        purpose=Purpose.EXIT,
        kind=OrderKind.LIMIT,
        tif=tif,
        decided_at=now,
        strategy=trade.strategy,
        signal_session=trade.signal_session,
        attempt=ledger.next_attempt(trade.decision_id, Side.SELL, Purpose.EXIT),
        limit_price=price,
        reason=str(reason),
    )


def _after_exit(desk: Desk, decision_id: str, outcome: Outcome, book: Book, on: date) -> Left:
    ledger = desk.ledger()
    trade = ledger.trades[decision_id]
    if not trade.is_open:
        return Left("SOLD", outcome)
    if ledger.locked.get(trade.symbol, "").startswith(UNKNOWN_LOCK):
        return Left("UNKNOWN", outcome)  # the sell may be live: a stop beside it could oversell
    again = protection_for(trade, ledger, ticks=desk.limits.ticks, on=on, now=desk.clock.now())
    placed = False
    if again is not None:
        _, order = desk.execute(again, book)
        placed = order is not None and (order.working or order.filled_quantity > 0)
    sold_some = any(fill.purpose is Purpose.EXIT for fill in trade.exits)
    return Left("PARTLY_SOLD" if sold_some else "UNSOLD", outcome, reprotected=placed)
