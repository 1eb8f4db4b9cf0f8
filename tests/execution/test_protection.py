from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from core.domain import ExitReason, OrderIntent, OrderKind, Quote, Tif
from execution.ledger import Trade
from execution.protection import leave, missing_protection, orphans, plan, repair
from tests.fakes.trading import AAA, NOW, TICKS, TODAY, World, book, entry, quote, world

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
