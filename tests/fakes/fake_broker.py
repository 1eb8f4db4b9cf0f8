"""An in-memory broker for tests: passes tests/execution/broker_contract.py, and misbehaves on request."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from core.clock import Clock
from core.domain import (
    Account,
    Activity,
    Asset,
    BrokerClock,
    Fill,
    Order,
    OrderKind,
    Position,
    Quote,
    Side,
    Symbol,
    Tif,
)
from core.errors import BrokerRejected, OutcomeUnknown
from core.ports import ApprovedOrder


class FakeBroker:
    """`plan[client_order_id]` = shares that fill at once (default: all of a marketable order)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.orders: dict[str, Order] = {}
        self.held: dict[Symbol, int] = {}
        self.cost: dict[Symbol, Decimal] = {}
        self.activities: list[Fill] = []
        self.submits: list[str] = []
        self.plan: dict[str, int] = {}
        self.before_submit: list[Exception | None] = []  # raised instead of accepting
        self.after_submit: list[Exception | None] = []  # raised although accepted
        self.lag_s = 0.0  # look-ups do not see younger orders
        self.bid, self.ask = Decimal("49.99"), Decimal("50.00")
        self.cash = Decimal("100000")
        self.hide_positions = False
        self.events: list[Activity] = []  # splits, dividends, transfers
        self.gone: set[Symbol] = set()  # assets that are no longer listed
        self.asset_ids: dict[Symbol, str] = {}  # a rename takes it along; else it is made of the symbol

    # -- core.ports.Broker --------------------------------------------------------------------------------------

    def submit(self, order: ApprovedOrder) -> Order:
        intent = order.intent
        self.submits.append(intent.client_order_id)
        if self.before_submit and (error := self.before_submit.pop(0)) is not None:
            raise error
        known = self.orders.get(intent.client_order_id)
        if known is not None:
            if (known.symbol, known.side, known.quantity) == (intent.symbol, intent.side, intent.quantity):
                return known
            raise OutcomeUnknown("another order has this id", code="IDENTITY_MISMATCH")
        if intent.side is Side.SELL and intent.quantity > self._free(intent.symbol):
            raise BrokerRejected("insufficient qty", code="SHARES_HELD")
        now = self._clock.now()
        made = Order(
            id=f"id-{len(self.orders) + 1}",
            client_order_id=intent.client_order_id,
            symbol=intent.symbol,
            side=intent.side,
            quantity=intent.quantity,
            filled_quantity=0,
            filled_price=None,
            kind=str(intent.kind),
            tif=str(intent.tif),
            status="new",
            limit_price=intent.limit_price,
            stop_price=intent.stop_price if intent.kind is OrderKind.STOP else None,
            submitted_at=now,
        )
        if intent.kind is OrderKind.OCO:
            leg = replace(
                made,
                id=f"{made.id}-stop",
                client_order_id=f"leg-{made.id}",
                kind="stop",
                limit_price=None,
                stop_price=intent.stop_price,
                status="held",
            )
            made = replace(made, legs=(leg,))
        self.orders[made.client_order_id] = made
        reply = self.orders[made.client_order_id]
        if intent.kind in (OrderKind.LIMIT, OrderKind.MARKET):
            self.fill(made.client_order_id, self.plan.get(made.client_order_id, intent.quantity))
            if intent.tif is Tif.IOC:
                self._end(made.client_order_id, "canceled")
        if self.after_submit and (error := self.after_submit.pop(0)) is not None:
            raise error
        return reply

    def find(self, client_order_id: str) -> Order | None:
        order = self.orders.get(client_order_id)
        if order is None or order.submitted_at is None:
            return None
        return None if self._clock.now() - order.submitted_at < timedelta(seconds=self.lag_s) else order

    def open_orders(self) -> Sequence[Order]:
        return tuple(o for o in self.orders.values() if o.status not in ("filled", "canceled", "expired", "rejected"))

    def cancel(self, order_id: str) -> None:
        for cid, order in self.orders.items():
            if order.id == order_id:
                if order not in self.open_orders():
                    raise BrokerRejected("not cancelable", code="UNPROCESSABLE")
                self._end(cid, "canceled")
                return
        raise BrokerRejected("unknown order", code="NOT_FOUND")

    def positions(self) -> Mapping[Symbol, Position]:
        if self.hide_positions:
            return {}
        return {
            s: Position(symbol=s, quantity=Decimal(q), average_price=self.cost.get(s, Decimal(1)),
                        market_value=self.bid * q, asset_id=self._asset_id(s))
            for s, q in self.held.items()
            if q
        }  # fmt: skip

    def _asset_id(self, symbol: Symbol) -> str:
        return self.asset_ids.get(symbol, f"asset-{symbol}")

    def account(self) -> Account:
        worth = sum((self.bid * q for q in self.held.values()), Decimal(0))
        return Account(
            id="a",
            number="PA123456",
            status="ACTIVE",
            blocked=(),
            cash=self.cash,
            equity=self.cash + worth,
            buying_power=self.cash,
        )

    def clock(self) -> BrokerClock:
        now = self._clock.now()
        return BrokerClock(
            now=now, is_open=True, next_open=now + timedelta(days=1), next_close=now + timedelta(hours=3)
        )

    def asset(self, symbol: Symbol) -> Asset | None:
        listed = symbol not in self.gone
        return Asset(symbol=symbol, id=self._asset_id(symbol), tradable=listed, active=listed)

    def by_id(self, order_id: str) -> Order | None:
        parts = [part for order in self.orders.values() for part in (order, *order.legs)]
        return next((part for part in parts if part.id == order_id), None)

    def account_activities(self, since: datetime, kinds: Collection[str] = ()) -> Sequence[Activity]:
        return tuple(e for e in self.events if e.day >= since.date() and (not kinds or e.kind in kinds))

    def fills(self, since: datetime) -> Sequence[Fill]:
        return tuple(fill for fill in self.activities if fill.at >= since)

    def quotes(self, symbols: Collection[Symbol]) -> Mapping[Symbol, Quote]:
        now = self._clock.now()
        return {s: Quote(symbol=s, bid=self.bid, ask=self.ask, last=self.ask, at=now) for s in symbols}

    # -- the market's hand --------------------------------------------------------------------------------------

    def _free(self, symbol: Symbol) -> int:
        claimed = sum(
            o.quantity - o.filled_quantity for o in self.open_orders() if o.symbol == symbol and o.side is Side.SELL
        )
        return self.held.get(symbol, 0) - claimed

    def fill(self, cid: str, quantity: int, *, leg: bool = False, price: Decimal | None = None) -> None:
        """Execute up to `quantity` more shares; `leg` fills the stop of an OCO and cancels its target."""
        order = self.orders[cid]
        quantity = min(quantity, order.quantity - order.filled_quantity)
        if quantity <= 0:
            return
        now = self._clock.now()
        at = price or (self.ask if order.side is Side.BUY else self.bid)
        sign = 1 if order.side is Side.BUY else -1
        self.held[order.symbol] = self.held.get(order.symbol, 0) + sign * quantity
        self.cost[order.symbol] = at
        self.cash -= sign * at * quantity
        self.activities.append(
            Fill(
                id=f"f{len(self.activities)}",
                order_id=order.legs[0].id if leg else order.id,
                symbol=order.symbol,
                side=order.side,
                quantity=quantity,
                price=at,
                at=now,
            )
        )
        if leg:
            part = replace(order.legs[0], status="filled", filled_quantity=quantity, filled_price=at, filled_at=now)
            self.orders[cid] = replace(order, status="canceled", legs=(part,))
            return
        total = order.filled_quantity + quantity
        status = "filled" if total == order.quantity else "partially_filled"
        legs = tuple(replace(leg_, status="canceled") for leg_ in order.legs) if status == "filled" else order.legs
        self.orders[cid] = replace(
            order, status=status, filled_quantity=total, filled_price=at, filled_at=now, legs=legs
        )

    def _end(self, cid: str, status: str) -> None:
        order = self.orders[cid]
        if order.status != "filled":
            legs = tuple(replace(leg, status=status) for leg in order.legs)
            self.orders[cid] = replace(order, status=status, legs=legs)

    # -- other people's hands, and the company's ------------------------------------------------------------------

    def trade_by_hand(self, symbol: Symbol, quantity: int, *, cid: str = "app-1", price: str = "50.00") -> Order:
        """Somebody buys (+) or sells (-) in the broker's app, or another program under this client order id."""
        side, now = (Side.BUY if quantity > 0 else Side.SELL), self._clock.now()
        made = Order(
            id=f"id-{len(self.orders) + 1}", client_order_id=cid, symbol=symbol, side=side, quantity=abs(quantity),
            filled_quantity=0, filled_price=None, kind="market", tif="day", status="new", submitted_at=now,
        )  # fmt: skip
        self.orders[cid] = made
        self.fill(cid, abs(quantity), price=Decimal(price))
        return self.orders[cid]

    def happened(
        self, kind: str, symbol: Symbol | None, quantity: Decimal | int | None = None, cash: Decimal | None = None,
        *, group: str = "",
    ) -> None:  # fmt: skip
        """One account activity, its shares and its cash booked."""
        self.events.append(Activity(
            id=f"a{len(self.events)}", kind=kind, day=self._clock.now().date(), symbol=symbol, net_amount=cash,
            quantity=None if quantity is None else Decimal(quantity), group=group,
        ))  # fmt: skip
        self.cash += cash or 0
        if symbol is not None and quantity is not None:
            self.held[symbol] = self.held.get(symbol, 0) + quantity  # type: ignore[assignment]

    def split(self, symbol: Symbol, ratio: Fraction, *, orders: str = "cancel", told: bool = True) -> None:
        """Overnight: shares times ratio, the fraction in cash. Open orders are cancelled, kept or scaled in shares."""
        before = self.held.get(symbol, 0)
        exact = before * ratio
        whole = exact.numerator // exact.denominator
        fraction = exact - whole
        self.cost[symbol] = self.cost[symbol] * ratio.denominator / ratio.numerator
        if told:
            self.happened("SPLIT", symbol, whole - before, (self.bid * fraction.numerator / fraction.denominator))
        else:
            self.held[symbol] = whole
        for cid, order in list(self.orders.items()):
            if order.symbol != symbol or order not in self.open_orders():
                continue
            if orders == "cancel":
                self._end(cid, "canceled")
            elif orders == "scale":
                self.orders[cid] = replace(order, quantity=int(order.quantity * ratio))

    def rename(self, old: Symbol, new: Symbol, *, told: bool = True, same_asset: bool = True) -> None:
        quantity = self.held.pop(old)
        self.cost[new] = self.cost.pop(old)
        self.held[new] = quantity
        if same_asset:
            self.asset_ids[new] = self._asset_id(old)
        self.gone.add(old)
        if told:
            for symbol, sign in ((old, -1), (new, 1)):
                self.events.append(Activity(id=f"a{len(self.events)}", kind="NC", day=self._clock.now().date(),
                                            symbol=symbol, quantity=Decimal(sign * quantity), group="nc"))  # fmt: skip
        for cid, order in list(self.orders.items()):
            if order.symbol == old and order in self.open_orders():
                self._end(cid, "canceled")
