"""check_orphaned_orders.py as an operator types it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.domain import Order, Side, Symbol
from core.errors import BrokerDown, BrokerRejected
from execution.orphans import orphaned
from scripts import check_orphaned_orders, reconcile_alpaca
from tests.scripts.operators import DUE, HELD, NEW, SHARES, Operator, an_operator


@pytest.fixture
def op(own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    return an_operator(own_home, monkeypatch, capsys)


def check(op: Operator, *words: str) -> Any:
    return op.run(check_orphaned_orders.main, *words)


def resting(op: Operator, cid: str, symbol: Symbol = HELD, side: Side = Side.SELL) -> Order:
    order = Order(
        id=f"id-{cid}", client_order_id=cid, symbol=symbol, side=side, quantity=3, filled_quantity=0,
        filled_price=None, kind="limit", tif="gtc", status="new", limit_price=Decimal("9.00"),
        submitted_at=op.broker._clock.now(),
    )  # fmt: skip
    op.broker.orders[cid] = order
    return order


def close_the_trade(op: Operator) -> str:
    """HELD is sold; a stop of it is still there."""
    cid = op.protect_id(HELD)
    op.broker.fill(cid, SHARES, price=Decimal("4.50"))
    reconcile = op.run(reconcile_alpaca.main, "--force-sync")
    assert reconcile.code == 0, reconcile.out
    leg = cid[:-1] + "2"
    resting(op, leg)
    return leg


def test_protection_of_an_open_trade_is_no_orphan(op: Operator) -> None:
    done = check(op, "--json")
    assert (done.code, done.json) == (0, {"orphans": [], "cancelled": [], "failed": {}})
    assert "no orphaned orders" in check(op).out


def test_a_leg_whose_trade_is_closed_is_listed_and_cancelled_with_its_record(op: Operator) -> None:
    leg = close_the_trade(op)
    done = check(op, "--json")
    (row,) = done.json["orphans"]
    assert done.code == 1 and (row["cause"], row["ours"], row["client_order_id"]) == ("ORPHAN_LEG", True, leg)
    assert row["evidence"] == ["its trade is closed"] and op.broker.orders[leg].status == "new"
    done = check(op, "--cancel", "--reason", "tidy", "--json")
    assert (done.code, done.json["orphans"], done.json["cancelled"]) == (0, [], [row["order_id"]])
    assert op.broker.orders[leg].status == "canceled" and op.broker.orders[op.protect_id(DUE)].status == "new"
    (asked,) = [b for b in op.bodies("cancel_requested") if b["client_order_id"] == leg]
    assert (asked["code"], asked["reason"]) == ("ORPHAN_LEG", "tidy")
    (told,) = op.bodies("orphans_cancelled")
    assert told["cancelled"] == [row["order_id"]] and told["remaining"] == []


def test_somebody_elses_order_is_only_cancelled_by_name(op: Operator) -> None:
    leg = close_the_trade(op)
    theirs = resting(op, "app-7", NEW, Side.BUY)
    done = check(op, "--cancel", "--json")
    assert done.code == 1 and [r["client_order_id"] for r in done.json["orphans"]] == ["app-7"]
    assert op.broker.orders[leg].status == "canceled" and op.broker.orders["app-7"].status == "new"
    assert "not ours" in check(op).out and "EXTERNAL_ORDER" in check(op).out
    assert check(op, "--cancel", "--order", theirs.id).code == 0
    assert op.broker.orders["app-7"].status == "canceled"


@pytest.mark.parametrize(("words", "code"), [
    (("--cancel", "--order", "id-1"), "NOT_AN_ORPHAN"), (("--order", "x"), "USAGE"),
    (("--cancel", "--order", "nowhere"), "NOT_AN_ORPHAN"),
])  # fmt: skip
def test_a_name_that_is_no_orphan_is_refused_and_nothing_is_cancelled(
    op: Operator, words: tuple[str, ...], code: str
) -> None:
    leg = close_the_trade(op)
    done = check(op, *words)
    assert done.code == 2 and code in done.err and op.broker.orders[leg].status == "new"


def test_an_exit_of_yesterday_is_an_orphan_and_one_of_today_is_not(op: Operator) -> None:
    from tests.fakes.trading import sell

    cid = sell("DUE").client_order_id
    op.journal.append("order_intended", {**_intent(op), "client_order_id": cid})
    resting(op, cid, DUE)
    ledger, listing = op.ledger(), op.broker.open_orders()
    today = op.broker._clock.now().date()
    assert [o.order.client_order_id for o in orphaned(ledger, listing, today)] == []
    (late,) = orphaned(ledger, listing, today + timedelta(days=1))
    assert (late.cause, late.ours) == ("STILL_OPEN", True) and "its moment has passed" in late.evidence[0]


def _intent(op: Operator) -> dict[str, Any]:
    from execution.ledger import intent_body
    from tests.fakes.trading import sell

    return intent_body(replace(sell("DUE", price="4.90"), decided_at=op.broker._clock.now()))


def test_a_cancel_that_is_refused_is_told_and_the_order_remains(op: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    from execution import orphans

    leg = close_the_trade(op)
    real = orphans.remove
    monkeypatch.setattr(orphans, "remove", lambda *a, **k: real(*a, **k, deadline_s=0.2))

    def refused(order_id: str) -> None:
        raise BrokerRejected("no", code="UNPROCESSABLE")

    op.broker.cancel = refused  # type: ignore[method-assign]
    done = check(op, "--cancel", "--json")
    assert done.code == 1 and done.json["failed"] == {f"id-{leg}": "UNPROCESSABLE"}
    assert [r["client_order_id"] for r in done.json["orphans"]] == [leg]
    assert "could not be cancelled: UNPROCESSABLE" in check(op, "--cancel").out


def test_a_listing_that_cannot_be_proved_complete_is_exit_30(op: Operator) -> None:
    def short(*_: object) -> Any:
        raise BrokerDown("pages repeat", code="LISTING_INCOMPLETE")

    op.broker.open_orders = short  # type: ignore[method-assign]
    for words in ((), ("--cancel",)):
        done = check(op, *words)
        assert done.code == 30 and "LISTING_INCOMPLETE" in done.err


def test_what_fills_on_the_way_is_booked(op: Operator) -> None:
    """A cancel that comes too late: the orphan was an order of ours that our record had ended."""
    cid = op.protect_id(HELD)
    op.broker._end(cid, "canceled")
    assert op.run(reconcile_alpaca.main, "--force-sync").code == 1  # unprotected; its end is booked
    op.broker.orders[cid] = replace(op.broker.orders[cid], status="new")
    real = op.broker.cancel

    def filled_first(order_id: str) -> None:
        if order_id == op.broker.orders[cid].id:
            op.broker.fill(cid, SHARES, price=Decimal("4.50"))
        real(order_id)

    op.broker.cancel = filled_first  # type: ignore[method-assign]
    assert check(op, "--cancel").code == 0
    assert HELD not in op.broker.positions()
    found = op.run(reconcile_alpaca.main, "--json").json["breaks"]
    assert [(r["cause"], r["symbol"]) for r in found if r["kind"] == "MISSING_POSITION"] == [("LATE_FILL", "HELD")]


def test_it_works_while_the_kill_switch_is_on(op: Operator) -> None:
    leg = close_the_trade(op)
    (op.home / "state" / "KILL_SWITCH").touch()
    assert check(op, "--cancel").code == 0 and op.broker.orders[leg].status == "canceled"
