"""Resting stop and target at the broker for every open trade, and the way out past them.

Pure part: `plan`. Acting part: `repair` and `leave`, which use the desk like everything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from core.domain import Breach, ExitReason, Order, OrderIntent, OrderKind, Purpose, Quote, Side, Symbol, Tif
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

    cancels: tuple[tuple[Order, str], ...] = ()  # order, reason code ORPHAN, SIZE or PRICE
    intents: tuple[OrderIntent, ...] = ()


def _covered(order: Order) -> int:
    filled, _ = totals(order)
    return max(0, order.quantity - filled)


def _protects(order: Order, decision_id: str) -> bool:
    return order.side is Side.SELL and order.client_order_id.startswith(f"{_OURS}{decision_id}{_MARK}")


def _to_cover(trade: Trade) -> int:
    """Shares that should rest protected: all, but on the eve of an ex-date only those there will be on both sides."""
    return trade.quantity if trade.eased is None else min(trade.quantity, trade.eased.quantity)


def misfit(trade: Trade, open_orders: Sequence[Order]) -> int | None:
    """How many shares are covered when that is the wrong number; None when it is right."""
    covered = sum(_covered(order) for order in open_orders if _protects(order, trade.decision_id))
    return None if covered == _to_cover(trade) else covered


def protection_for(
    trade: Trade, ledger: Ledger, *, ticks: Sequence[TickRow], on: date, now: datetime, most: int | None = None
) -> OrderIntent | None:
    """A GTC stop for what is held, or an OCO with target = fill + target_r × (fill - stop). None without a stop.

    `most`: shares that the broker really has; no more than these can be protected.
    """
    from core.money import protective_target, to_stop_price

    quantity = min(_to_cover(trade), trade.quantity if most is None else most)
    if trade.stop is None or quantity <= 0:
        return None
    stop = to_stop_price(trade.stop if trade.eased is None else trade.eased.stop, on, ticks)
    target: Decimal | None = None
    if trade.target_r is not None and (trade.eased is None or trade.eased.keeps_target):
        target = protective_target(trade.entry_price, trade.stop, trade.target_r, on, ticks)
        target = None if target is not None and target <= stop else target  # an eased stop may lie elsewhere
    return OrderIntent(
        decision_id=trade.decision_id,
        symbol=trade.symbol,
        side=Side.SELL,
        quantity=quantity,
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
    ledger: Ledger, open_orders: Sequence[Order], *, ticks: Sequence[TickRow], on: date, now: datetime,
    held: Mapping[Symbol, int] | None = None,
) -> ProtectionPlan:  # fmt: skip
    """What is missing, misfit or orphaned. A symbol with an order of unknown outcome is left alone.

    `held`: the broker's whole shares, once they were read; a trade that it has fewer of gets its stop for these.
    """
    cancels: list[tuple[Order, str]] = []
    intents: list[OrderIntent] = []
    free = dict(held or {})
    for trade in ledger.open_trades():
        if ledger.locked.get(trade.symbol, "").startswith(UNKNOWN_LOCK):
            continue
        most = trade.quantity if held is None else max(0, free.get(trade.symbol, 0))
        free[trade.symbol] = free.get(trade.symbol, 0) - trade.quantity
        mine = [order for order in open_orders if _protects(order, trade.decision_id)]
        wrong = _wrong(mine, protection_for(trade, ledger, ticks=ticks, on=on, now=now))
        if wrong is None or (mine and most < _to_cover(trade)):
            continue  # a listing that lacks shares takes no stop away
        cancels += [(order, wrong) for order in mine]
        intent = protection_for(trade, ledger, ticks=ticks, on=on, now=now, most=most)
        if intent is not None:
            intents.append(intent)
    cancels += [(o, "ORPHAN") for o in orphans(ledger, open_orders) if not _guards_unknown_shares(o, ledger, held)]
    return ProtectionPlan(tuple(cancels), tuple(intents))


def _guards_unknown_shares(order: Order, ledger: Ledger, held: Mapping[Symbol, int] | None) -> bool:
    """A stop that this journal never intended, over shares that it does not know: it has forgotten both, by a restore
    of an old copy. Reconcile tells; nothing is taken away from the shares meanwhile."""
    if held is None or order.client_order_id in ledger.orders:
        return False
    return held.get(order.symbol, 0) > sum(t.quantity for t in ledger.open_trades() if t.symbol == order.symbol)


def _wrong(mine: Sequence[Order], wanted: OrderIntent | None) -> str | None:
    """Why what rests is not what is wanted: SIZE, PRICE (also another name of the share), or None."""
    if sum(_covered(order) for order in mine) != (0 if wanted is None else wanted.quantity):
        return "SIZE"
    if wanted is None:
        return None
    fits = all(order.symbol == wanted.symbol and _prices_fit(order, wanted) for order in mine)
    return None if fits else "PRICE"


def _prices_fit(order: Order, wanted: OrderIntent) -> bool:
    """A price that the broker does not tell is taken as right: only what is seen to be wrong is replaced."""
    stops = [part.stop_price for part in (order, *order.legs) if part.stop_price is not None]
    if stops and wanted.stop_price not in stops:
        return False
    if order.legs or order.limit_price is not None:  # a stop with a target beside it
        return wanted.limit_price is not None and order.limit_price in (None, wanted.limit_price)
    return wanted.limit_price is None or order.kind != OrderKind.STOP


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
    if not first.cancels and not first.intents:
        return ()
    held = {s: int(p.quantity) for s, p in desk.broker.positions().items()}
    first = plan(desk.ledger(), desk.broker.open_orders(), ticks=ticks, on=on, now=now, held=held)
    for order, reason in first.cancels:
        if desk.halt.is_active():
            return ()
        _cancel(desk, order, reason, wait_s=wait_s)
    if first.cancels:
        held = {s: int(p.quantity) for s, p in desk.broker.positions().items()}  # a stop may have filled meanwhile
        first = plan(desk.ledger(), desk.broker.open_orders(), ticks=ticks, on=on, now=now, held=held)
    stuck = {order.symbol for order, _ in first.cancels}  # not gone yet: a second sell beside it could oversell
    return tuple(desk.execute(intent, book) for intent in first.intents if intent.symbol not in stuck)


def _cancel(desk: Desk, order: Order, reason: str, *, wait_s: float) -> None:
    desk.journal.append(
        "cancel_requested",
        {"client_order_id": order.client_order_id, "order_id": order.id, "symbol": str(order.symbol), "code": reason},
    )
    known = desk.ledger().orders.get(order.client_order_id)
    if known is not None and known.working:
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
    ticks, now = desk.limits.ticks, desk.clock.now()
    price = exit_price(quote, now, ticks, on, offset_bps=offset_bps, max_clamp_bps=max_clamp_bps, max_age_s=max_age_s)
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


def exit_price(
    quote: Quote | None, now: datetime, ticks: Sequence[TickRow], on: date, *, offset_bps: float, max_clamp_bps: float,
    max_age_s: float,
) -> Decimal | Breach:  # fmt: skip
    """The sell limit, or why this quote cannot be sold at: then the stop stays and the next scan tries again."""
    if quote is None:
        return Breach(code="QUOTE_ABSENT", observed="none", limit="a quote")
    age_s = (now - quote.at).total_seconds()
    if age_s > max_age_s:
        return Breach(code="QUOTE_STALE", observed=f"{age_s:.0f} s", limit=f"{max_age_s:g} s")
    if quote.bid is not None and quote.ask is not None and 0 < quote.ask < quote.bid:
        return Breach(code="QUOTE_CROSSED", observed=f"{quote.bid}/{quote.ask}", limit="bid at most ask")
    return exit_limit(quote, offset_bps, max_clamp_bps, ticks, on)


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
