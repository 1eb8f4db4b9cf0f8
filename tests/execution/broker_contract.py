"""What every Broker must do; run against the in-memory broker and against the HTTP adapter on the embedded venue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest

from core.domain import Order, OrderIntent, OrderKind, Purpose, Side, Symbol, Tif, require_utc
from core.errors import BrokerRejected
from execution.order_states import OrderState, is_terminal, state_of
from risk.gate import Approved, decide
from tests.fakes.trading import book, limits, quote


def approved(intent: OrderIntent, held: int = 0) -> Approved:
    """The gate's own approval, in a book built around the intent."""
    price = str(intent.limit_price or "50.00")
    seen = book(
        str(intent.symbol),
        now=intent.decided_at,
        closes_at=intent.decided_at + timedelta(hours=3),
        quote=quote(str(intent.symbol), bid=price, ask=price, last=price, at=intent.decided_at),
        positions={intent.symbol: held} if held else {},
        marks={intent.symbol: Decimal(price)},
        operator_close=intent.purpose is Purpose.CLOSE,
    )
    answer = decide(intent, seen, limits(per_order_max_usd=Decimal(10_000), daily_budget_usd=Decimal(10_000)))
    assert isinstance(answer, Approved), answer
    return answer


class BrokerContract:
    """Subclasses give fixtures `broker`, `symbol` (tradable, priced), `settle_fill` (make time pass) and `splitting`
    (a symbol, and what makes it split overnight and tells the ratio)."""

    def buy(
        self, broker: Any, symbol: Symbol, *, quantity: int = 2, attempt: int = 1, discount: str = "1.00"
    ) -> OrderIntent:
        seen = broker.quotes([symbol])[symbol]
        price = (seen.ask * Decimal(discount)).quantize(Decimal("0.01"))
        now = broker.clock().now
        return OrderIntent(
            decision_id=f"20240304-contract-{symbol}",
            symbol=symbol,
            side=Side.BUY,
            quantity=quantity,
            purpose=Purpose.ENTRY,
            kind=OrderKind.LIMIT,
            tif=Tif.IOC,
            decided_at=now,
            strategy="contract",
            signal_session=now.date(),
            attempt=attempt,
            limit_price=price,
            stop_price=price / 2,
        )

    def done(self, broker: Any, cid: str, settle_fill: Callable[[], None]) -> Order:
        for _ in range(50):
            order: Order | None = broker.find(cid)
            assert order is not None
            if is_terminal(state_of(order)):
                return order
            settle_fill()
        raise AssertionError(f"{cid} never ended")

    def test_a_marketable_ioc_fills_and_shows_up_everywhere(
        self, broker: Any, symbol: Symbol, settle_fill: Callable[[], None]
    ) -> None:
        intent = self.buy(broker, symbol, discount="1.01")
        assert broker.submit(approved(intent)).client_order_id == intent.client_order_id
        order = self.done(broker, intent.client_order_id, settle_fill)
        assert state_of(order) is OrderState.FILLED and order.filled_price is not None
        assert broker.positions()[symbol].quantity == 2
        fills = [f for f in broker.fills(intent.decided_at - timedelta(minutes=1)) if f.order_id == order.id]
        assert sum(f.quantity for f in fills) == 2
        assert broker.open_orders() == () or all(o.id != order.id for o in broker.open_orders())

    def test_an_unmarketable_ioc_ends_with_nothing(
        self, broker: Any, symbol: Symbol, settle_fill: Callable[[], None]
    ) -> None:
        intent = self.buy(broker, symbol, discount="0.80")
        if hasattr(broker, "plan"):
            broker.plan[intent.client_order_id] = 0
        broker.submit(approved(intent))
        order = self.done(broker, intent.client_order_id, settle_fill)
        assert order.filled_quantity == 0 and broker.positions() == {}

    def test_the_same_id_twice_is_one_order(self, broker: Any, symbol: Symbol, settle_fill: Callable[[], None]) -> None:
        intent = self.buy(broker, symbol, discount="1.01")
        first = broker.submit(approved(intent))
        assert broker.submit(approved(intent)).id == first.id
        self.done(broker, intent.client_order_id, settle_fill)
        assert broker.positions()[symbol].quantity == 2

    def test_an_unknown_id_is_none(self, broker: Any) -> None:
        assert broker.find("kobe-never-sent") is None

    def test_resting_protection_is_listed_and_cancelable(
        self, broker: Any, symbol: Symbol, settle_fill: Callable[[], None]
    ) -> None:
        buy = self.buy(broker, symbol, discount="1.01")
        broker.submit(approved(buy))
        paid = self.done(broker, buy.client_order_id, settle_fill).filled_price
        assert paid is not None
        stop = replace(
            buy,
            side=Side.SELL,
            purpose=Purpose.PROTECT,
            kind=OrderKind.OCO,
            tif=Tif.GTC,
            limit_price=(paid * 2).quantize(Decimal("0.01")),
            stop_price=(paid / 2).quantize(Decimal("0.01")),
        )
        broker.submit(approved(stop, held=2))
        (order,) = broker.open_orders()
        assert order.client_order_id == stop.client_order_id and len(order.legs) == 1
        with pytest.raises(BrokerRejected):
            broker.submit(approved(replace(stop, attempt=2), held=2))  # the shares are held for the first
        broker.cancel(order.id)
        assert self.done(broker, stop.client_order_id, settle_fill).filled_quantity == 0
        assert broker.open_orders() == ()
        with pytest.raises(BrokerRejected):
            broker.cancel(order.id)

    def test_account_clock_and_asset_read(self, broker: Any, symbol: Symbol) -> None:
        account = broker.account()
        assert account.may_trade and account.equity is not None and account.equity > 0 and account.number
        clock = broker.clock()
        for at in (clock.now, clock.next_open, clock.next_close):
            require_utc(at, "clock")
        asset = broker.asset(symbol)
        assert asset is not None and asset.tradable and asset.symbol == symbol

    def test_an_order_is_read_by_the_brokers_own_id(
        self, broker: Any, symbol: Symbol, settle_fill: Callable[[], None]
    ) -> None:
        buy = self.buy(broker, symbol, discount="1.01")
        broker.submit(approved(buy))
        done = self.done(broker, buy.client_order_id, settle_fill)
        assert broker.by_id(done.id) == done
        fill = next(f for f in broker.fills(buy.decided_at - timedelta(minutes=1)) if f.order_id == done.id)
        maker = broker.by_id(fill.order_id)
        assert maker is not None and maker.client_order_id == buy.client_order_id
        assert broker.by_id(str(UUID(int=7))) is None

    def test_a_leg_is_found_by_its_own_id_and_folded_into_its_parent(
        self, broker: Any, symbol: Symbol, settle_fill: Callable[[], None]
    ) -> None:
        buy = self.buy(broker, symbol, discount="1.01")
        broker.submit(approved(buy))
        paid = self.done(broker, buy.client_order_id, settle_fill).filled_price
        assert paid is not None
        oco = replace(
            buy, side=Side.SELL, purpose=Purpose.PROTECT, kind=OrderKind.OCO, tif=Tif.GTC,
            limit_price=(paid * 2).quantize(Decimal("0.01")), stop_price=(paid / 2).quantize(Decimal("0.01")),
        )  # fmt: skip
        broker.submit(approved(oco, held=2))
        (order,) = broker.open_orders()
        (leg,) = broker.by_id(order.id).legs
        found = broker.by_id(leg.id)
        assert found is not None and (found.id, found.stop_price) == (leg.id, oco.stop_price)

    def test_activities_are_everything_but_fills_each_once(
        self, broker: Any, splitting: tuple[Symbol, Callable[[], Fraction]], settle_fill: Callable[[], None]
    ) -> None:
        symbol, happen = splitting
        buy = self.buy(broker, symbol, quantity=4, discount="1.01")
        broker.submit(approved(buy))
        self.done(broker, buy.client_order_id, settle_fill)
        since = buy.decided_at - timedelta(minutes=1)
        assert broker.account_activities(since) == ()
        ratio = happen()
        (act,) = broker.account_activities(since)
        held = broker.positions()[symbol].quantity
        assert (act.kind, act.symbol, act.quantity) == ("SPLIT", symbol, held - 4)
        assert abs(Fraction(held) - 4 * ratio) < 1 and act.day >= buy.decided_at.date()
        assert broker.account_activities(since, ["SPLIT"]) == (act,)
        assert broker.account_activities(since, ["DIV"]) == ()
        assert broker.account_activities(broker.clock().now + timedelta(days=2)) == ()

    def test_positions_carry_the_asset_id(self, broker: Any, symbol: Symbol, settle_fill: Callable[[], None]) -> None:
        buy = self.buy(broker, symbol, discount="1.01")
        broker.submit(approved(buy))
        self.done(broker, buy.client_order_id, settle_fill)
        asset = broker.asset(symbol)
        assert asset is not None and asset.id and broker.positions()[symbol].asset_id == asset.id
