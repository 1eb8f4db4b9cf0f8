from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.domain import ExitReason, Order, OrderIntent, OrderKind, Quote, Side, Symbol, Tif
from core.errors import BrokerDown, BrokerRejected, OutcomeUnknown
from execution.desk import Rejected
from execution.ledger import Trade, intent_body
from execution.protection import Left, leave, missing_protection, orphans, plan, protection_for, repair
from tests.fakes.trading import AAA, NOW, TICKS, TODAY, World, book, entry, quote, sell, world

DECISION = entry().decision_id
QUOTE = quote()


def bought(tmp_path: Path, *, target_r: float | None = None) -> World:
    w = world(tmp_path)
    w.desk.execute(entry(target_r=target_r), book())
    return w


def missing(w: World) -> tuple[OrderIntent, ...]:
    return missing_protection(w.desk.ledger(), w.broker.open_orders(), ticks=TICKS, on=TODAY, now=NOW)


def trade(w: World) -> Trade:
    return w.desk.ledger().trades[DECISION]


def test_a_trade_without_target_gets_a_stop_and_only_once(tmp_path: Path) -> None:
    w = bought(tmp_path)
    (intent,) = missing(w)
    assert (intent.kind, intent.tif, intent.quantity, intent.stop_price) == (
        OrderKind.STOP,
        Tif.GTC,
        1,
        Decimal("45.00"),
    )
    repair(w.desk, book(), on=TODAY)
    assert missing(w) == () and len(w.broker.open_orders()) == 1
    repair(w.desk, book(), on=TODAY)
    assert len(w.broker.open_orders()) == 1


def test_a_trade_with_target_gets_an_oco_at_fill_plus_r(tmp_path: Path) -> None:
    (intent,) = missing(bought(tmp_path, target_r=0.5))
    assert (intent.kind, intent.limit_price, intent.stop_price) == (OrderKind.OCO, Decimal("52.50"), Decimal("45.00"))


def test_a_vanished_leg_is_placed_again_under_a_new_attempt(tmp_path: Path) -> None:
    w = bought(tmp_path)
    repair(w.desk, book(), on=TODAY)
    w.broker.cancel(w.broker.open_orders()[0].id)
    w.desk.settle()
    repair(w.desk, book(), on=TODAY)
    (order,) = w.broker.open_orders()
    assert order.client_order_id.endswith("-sell-protect-2")


def test_the_stop_leg_of_an_oco_is_booked_as_the_exit(tmp_path: Path) -> None:
    w = bought(tmp_path, target_r=0.5)
    repair(w.desk, book(), on=TODAY)
    (order,) = w.broker.open_orders()
    w.broker.fill(order.client_order_id, 1, leg=True, price=Decimal("44.90"))
    w.desk.settle()
    assert not trade(w).is_open and trade(w).exits[0].price == Decimal("44.90")
    assert w.desk.ledger().exit_reason(trade(w)) is ExitReason.STOP


def test_b53_a_leg_whose_trade_is_closed_is_an_orphan_and_cancelled(tmp_path: Path) -> None:
    w = bought(tmp_path)
    repair(w.desk, book(), on=TODAY)
    w.journal.append("positions_synced", {"positions": {}})
    w.broker.held.clear()
    assert len(orphans(w.desk.ledger(), w.broker.open_orders())) == 1
    repair(w.desk, book(), on=TODAY)
    assert not w.broker.open_orders()


def test_an_oversized_leg_is_cancelled_before_a_fitting_one_is_sent(tmp_path: Path) -> None:
    w = bought(tmp_path)
    repair(w.desk, book(), on=TODAY)
    (order,) = w.broker.open_orders()
    w.broker.orders[order.client_order_id] = replace(order, quantity=3)
    steps = plan(w.desk.ledger(), w.broker.open_orders(), ticks=TICKS, on=TODAY, now=NOW)
    assert [reason for _, reason in steps.cancels] == ["SIZE"] and len(steps.intents) == 1


def test_nothing_is_repaired_while_halted(tmp_path: Path) -> None:
    w = bought(tmp_path)
    w.halt.active = True
    assert repair(w.desk, book(), on=TODAY) == () and not w.broker.open_orders()


def go(w: World, seen: Quote | None = QUOTE) -> str:
    left = leave(
        w.desk,
        DECISION,
        seen,
        ExitReason.TIME,
        book(),
        offset_bps=30,
        max_clamp_bps=50,
        on=TODAY,
    )
    return left.code


def test_leaving_cancels_the_stop_sells_and_is_flat(tmp_path: Path) -> None:
    w = bought(tmp_path)
    repair(w.desk, book(), on=TODAY)
    assert go(w) == "SOLD"
    assert not w.broker.open_orders() and w.broker.held[AAA] == 0
    assert w.desk.ledger().exit_reason(trade(w)) is ExitReason.TIME


def test_an_unfilled_exit_is_protected_again(tmp_path: Path) -> None:
    w = bought(tmp_path)
    repair(w.desk, book(), on=TODAY)
    w.broker.plan[f"kobe-{DECISION}-sell-exit-1"] = 0
    assert go(w) == "UNSOLD"
    (order,) = w.broker.open_orders()
    assert order.kind == "stop" and order.quantity == 1
    assert go(w) == "SOLD"


def test_a_stop_that_fills_instead_ends_the_exit_without_a_second_sell(tmp_path: Path) -> None:
    w = bought(tmp_path)
    repair(w.desk, book(), on=TODAY)
    (order,) = w.broker.open_orders()
    w.broker.fill(order.client_order_id, 1, price=Decimal("45.00"))
    sent = len(w.broker.submits)
    assert go(w) == "ALREADY_OUT"
    assert len(w.broker.submits) == sent and w.broker.held[AAA] == 0


def test_without_a_quote_the_stop_stays(tmp_path: Path) -> None:
    w = bought(tmp_path)
    repair(w.desk, book(), on=TODAY)
    assert go(w, None) == "REFUSED"
    assert len(w.broker.open_orders()) == 1


# ---------------------------------------------------------------- when the broker does not do as it is asked
def leaving(w: World, seen: Quote | None = QUOTE, **changes: Any) -> Left:
    given: dict[str, Any] = {"offset_bps": 30, "max_clamp_bps": 50, "on": TODAY, "max_age_s": 60.0, **changes}
    return leave(w.desk, DECISION, seen, ExitReason.TIME, book(), **given)


def protected(tmp_path: Path) -> World:
    w = bought(tmp_path)
    repair(w.desk, book(), on=TODAY)
    return w


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (None, "QUOTE_ABSENT"),
        (quote(at=NOW - timedelta(seconds=61)), "QUOTE_STALE"),
        (quote(bid="50.01"), "QUOTE_CROSSED"),
        (quote(bid=None), "QUOTE_ONE_SIDED"),
        (quote(bid="0"), "QUOTE_ONE_SIDED"),
        (quote(bid="40.00", last="50.00"), "CLAMP_ABOVE_BID"),
    ],
)
def test_d10_d11_d12_a_quote_that_cannot_be_sold_at_leaves_the_stop_where_it_is(
    tmp_path: Path, seen: Quote | None, code: str
) -> None:
    w = protected(tmp_path)
    left = leaving(w, seen)
    assert left.code == "REFUSED" and left.breach is not None and left.breach.code == code
    assert len(w.broker.open_orders()) == 1 and w.broker.held[AAA] == 1


def test_b38_a_cancel_that_does_not_end_the_stop_sells_nothing_beside_it(tmp_path: Path) -> None:
    w = protected(tmp_path)
    for answer in (BrokerRejected("not cancelable", code="UNPROCESSABLE"), BrokerDown("503"), None):

        def stubborn(order_id: str, answer: Exception | None = answer) -> None:
            if answer is not None:
                raise answer

        w.broker.cancel = stubborn
        posts = len(w.broker.submits)
        assert leaving(w).code == "CANCEL_PENDING"
        assert len(w.broker.submits) == posts and len(w.broker.open_orders()) == 1
    del w.broker.cancel
    assert leaving(w).code == "SOLD" and w.broker.held[AAA] == 0


def test_b18_a_stop_that_fills_while_it_is_cancelled_is_the_exit(tmp_path: Path) -> None:
    w = protected(tmp_path)
    (order,) = w.broker.open_orders()

    def raced(order_id: str) -> None:
        w.broker.fill(order.client_order_id, 1, price=Decimal("45.00"))
        raise BrokerRejected("already filled", code="UNPROCESSABLE")

    w.broker.cancel = raced
    posts = len(w.broker.submits)
    assert leaving(w).code == "ALREADY_OUT" and len(w.broker.submits) == posts
    assert w.desk.ledger().exit_reason(trade(w)) is ExitReason.STOP


def test_b03_a_sell_of_unknown_outcome_gets_no_stop_beside_it_until_it_is_settled(tmp_path: Path) -> None:
    w = protected(tmp_path)
    w.broker.before_submit = [OutcomeUnknown("reset")]
    left = leaving(w, wait_s=1.0)
    assert left.code == "UNKNOWN" and not left.reprotected and not w.broker.open_orders()
    posts = len(w.broker.submits)
    again = leaving(w, quote(at=w.clock.now()))
    assert again.code == "REFUSED" and len(w.broker.submits) == posts
    assert repair(w.desk, book(), on=TODAY) == () and len(w.broker.submits) == posts
    w.desk.settle()
    repair(w.desk, book(), on=TODAY)
    assert len(w.broker.open_orders()) == 1
    assert leaving(w, quote(at=w.clock.now())).code == "SOLD"


def test_b52_a_second_exit_beside_a_sell_of_unknown_outcome_keeps_the_stop_it_has(tmp_path: Path) -> None:
    w = protected(tmp_path)
    w.journal.append("order_intended", intent_body(replace(sell(), attempt=7)))  # a crash before the reply
    assert leaving(w).code == "REFUSED" and len(w.broker.open_orders()) == 1


def test_a_sell_that_the_broker_refuses_is_protected_again(tmp_path: Path) -> None:
    w = protected(tmp_path)
    w.broker.before_submit = [BrokerRejected("halted", code="HALTED")]
    left = leaving(w)
    assert left.code == "UNSOLD" and left.reprotected and isinstance(left.outcome, Rejected)
    (order,) = w.broker.open_orders()
    assert order.client_order_id.endswith("-sell-protect-2")


def test_b02_a_broker_that_is_down_for_the_sell_and_the_stop_is_told_as_not_protected(tmp_path: Path) -> None:
    w = protected(tmp_path)
    w.broker.before_submit = [BrokerDown("503", code="NOT_SENT"), BrokerDown("503", code="NOT_SENT")]
    left = leaving(w)
    assert left.code == "UNSOLD" and not left.reprotected
    repair(w.desk, book(), on=TODAY)
    assert len(w.broker.open_orders()) == 1


@pytest.mark.parametrize("name", ["positions", "open_orders"])
def test_b47_a_broker_that_is_down_before_the_cancel_costs_no_stop(tmp_path: Path, name: str) -> None:
    w = protected(tmp_path)

    def down() -> None:
        raise BrokerDown("503")

    setattr(w.broker, name, down)
    with pytest.raises(BrokerDown):
        leaving(w)
    delattr(w.broker, name)
    assert len(w.broker.open_orders()) == 1


def test_b16_what_a_partial_exit_leaves_is_protected_for_its_size(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.bid, w.broker.ask = Decimal("19.99"), Decimal("20.00")
    seen = quote(bid="19.99", ask="20.00", last="20.00")
    w.desk.execute(entry(price="20.00", quantity=3, stop="18.00"), book(quote=seen))
    repair(w.desk, book(), on=TODAY)
    w.broker.plan[f"kobe-{DECISION}-sell-exit-1"] = 1
    left = leaving(w, seen)
    assert left.code == "PARTLY_SOLD" and left.reprotected
    (order,) = w.broker.open_orders()
    assert order.quantity == 2 == trade(w).quantity


def test_p39_the_switch_leaves_the_stop_where_it_is(tmp_path: Path) -> None:
    w = protected(tmp_path)
    w.halt.active = True
    left = leaving(w)
    assert left.breach is not None and left.breach.code == "KILL_SWITCH" and len(w.broker.open_orders()) == 1


def test_p39_the_switch_seen_between_listing_and_cancel_leaves_a_misfit_stop(tmp_path: Path) -> None:
    w = protected(tmp_path)
    (order,) = w.broker.open_orders()
    w.broker.orders[order.client_order_id] = replace(order, quantity=3)
    listing = w.broker.open_orders

    def tripping() -> Any:
        w.halt.active = True
        return listing()

    w.broker.open_orders = tripping
    assert repair(w.desk, book(), on=TODAY) == () and len(listing()) == 1


def test_b53_an_orphan_that_will_not_go_keeps_no_other_trade_from_its_stop(tmp_path: Path) -> None:
    w = bought(tmp_path)
    w.broker.orders["kobe-20230101-ibs_rsi-ZZZ-sell-protect-1"] = Order(
        id="stray", client_order_id="kobe-20230101-ibs_rsi-ZZZ-sell-protect-1", symbol=Symbol("ZZZ"), side=Side.SELL,
        quantity=1, filled_quantity=0, filled_price=None, kind="stop", tif="gtc", status="pending_cancel",
        stop_price=Decimal(45), submitted_at=NOW,
    )  # fmt: skip

    def stubborn(order_id: str) -> None:
        raise BrokerRejected("pending cancel", code="UNPROCESSABLE")

    w.broker.cancel = stubborn
    repair(w.desk, book(), on=TODAY)
    assert [o.symbol for o in w.broker.open_orders()] == ["ZZZ", "AAA"]
    assert "cancel_failed" in w.kinds()


def test_a_misfit_stop_that_will_not_go_gets_no_second_one_beside_it(tmp_path: Path) -> None:
    w = protected(tmp_path)
    (order,) = w.broker.open_orders()
    w.broker.orders[order.client_order_id] = replace(order, quantity=3)
    w.broker.cancel = lambda order_id: None
    posts = len(w.broker.submits)
    assert repair(w.desk, book(), on=TODAY, wait_s=1.0) == () and len(w.broker.submits) == posts


def test_a_fill_at_or_below_the_stop_has_a_stop_and_no_target(tmp_path: Path) -> None:
    w = bought(tmp_path, target_r=1.0)
    made = replace(trade(w), entry_price=Decimal("45.00"))
    intent = protection_for(made, w.desk.ledger(), ticks=TICKS, on=TODAY, now=NOW)
    assert intent is not None and intent.kind is OrderKind.STOP
    assert protection_for(replace(made, stop=None), w.desk.ledger(), ticks=TICKS, on=TODAY, now=NOW) is None
