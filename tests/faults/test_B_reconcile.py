"""What the broker holds is not what we hold: by hand, by correction, by trouble of its own; and what rests for nothing.

The real adapter against a server that answers what a test writes down, and the commands as an operator types them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.domain import Purpose, Side, Symbol
from core.errors import BrokerDown
from execution import evidence, orphans, sync
from execution.breaks import BreakKind, Cause
from execution.reconcile import record_breaks
from scripts import check_orphaned_orders, reconcile_alpaca
from tests.execution.reconcile_cases import HELD, NEW, PRICE, SHARES, account, by_hand
from tests.fakes.scans import due
from tests.fakes.trading import AAA, NOW, TODAY, book, entry
from tests.faults.wired import FILLS, ORDERS, POSITIONS, Wired, execution, holding, wired
from tests.scripts.operators import Operator, an_operator

ACCOUNT, ACTIVITIES = "/v2/account", "/v2/account/activities"
CID = entry().client_order_id
ORDER = "00000000-0000-0000-0000-000000000001"


def worth(cash: str, equity: str) -> dict[str, Any]:
    flags = dict.fromkeys(("trading_blocked", "account_blocked", "trade_suspended_by_user"), False)
    return {"id": "a", "account_number": "PA123456", "status": "ACTIVE", "cash": cash, "equity": equity,
            "buying_power": cash, **flags}  # fmt: skip


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wired]:
    """One share of AAA at 50.00, held on both sides."""
    with wired(tmp_path) as w:
        w.tells(ACTIVITIES, [])
        w.server.replies[ACCOUNT] = (200, json.dumps(worth("99950", "100000")))
        intent = entry(stop=None)
        w.desk.send(replace(intent, stop_price=Decimal("45.00")), book())
        w.ends(CID, "filled", 1)
        w.desk.poll(CID, wait_s=0.0)
        w.tells(POSITIONS, [holding("AAA", 1)])
        w.tells(FILLS, [execution("f1", ORDER, 1)])
        assert w.desk.ledger().positions == {AAA: 1}
        yield w


@pytest.fixture
def op(own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    return an_operator(own_home, monkeypatch, capsys)


def look(w: Wired) -> list[Any]:
    found, _, _ = evidence.look(w.broker, None, w.desk.ledger, w.clock)
    return [b for b in found if b.kind is not BreakKind.MISSING_PROTECTION]


# ---------------------------------------------------------------- B35
def test_B35_with_another_account_nothing_is_compared_synced_or_cancelled(op: Operator) -> None:
    assert op.run(reconcile_alpaca.main).code == 0
    before, real = op.journal.path.read_bytes(), op.broker.account
    op.broker.account = lambda: replace(real(), id="b", number="PA000042")  # type: ignore[method-assign]
    op.broker.held.clear()
    for main, words in ((reconcile_alpaca.main, ("--json",)), (reconcile_alpaca.main, ("--force-sync",)),
                        (check_orphaned_orders.main, ("--cancel",))):  # fmt: skip
        done = op.run(main, *words)
        assert done.code == 10 and "ACCOUNT_MISMATCH" in done.err and "0042" in done.err
    assert op.journal.path.read_bytes() == before and len(op.broker.open_orders()) == 2


# ---------------------------------------------------------------- B41
def test_B41_a_trade_in_the_brokers_app_is_external_locked_and_adoptable(wire: Wired) -> None:
    wire.tells(POSITIONS, [holding("AAA", 1), holding("KO", 3, "60.00")])
    wire.tells(FILLS, [execution("f1", ORDER, 1), execution("f2", "11111111-1111-1111-1111-111111111111", 3,
                                                            symbol="KO")])  # fmt: skip
    wire.server.replies[ACCOUNT] = (200, json.dumps(worth("99770", "100000")))
    (found,) = look(wire)
    assert (found.cause, found.symbol, found.theirs) == (Cause.MANUAL_TRADE, "KO", "3")
    record_breaks(wire.desk.journal, [found], wire.desk.ledger())
    assert wire.desk.ledger().locked == {Symbol("KO"): "BREAK"} and "--adopt KO" in found.proposal
    sync.adopt(wire.desk, None, Symbol("KO"), Decimal("55.00"), reason="mine")
    assert look(wire) == [] and not wire.desk.ledger().locked
    assert wire.desk.ledger().positions == {AAA: 1, Symbol("KO"): 3}


def test_B41_a_sale_by_hand_stops_no_other_symbol(tmp_path: Path) -> None:
    made = account(tmp_path)
    by_hand(made, HELD, -4)
    report = made.session.run(due())
    (found,) = [b for b in report.breaks if b["kind"] == "POSITION_QUANTITY"]
    assert (found["cause"], made.ledger().locked) == ("MANUAL_TRADE", {HELD: "BREAK"})
    assert made.broker.held[Symbol("PICKA")] == 15
    covered = [o.quantity for o in made.broker.open_orders() if o.symbol == HELD]
    assert covered == [8], "what is left is protected, and no more than that"


# ---------------------------------------------------------------- B42
def test_B42_a_busted_fill_is_named_and_never_traded_on(wire: Wired) -> None:
    wire.ends(CID, "canceled", 0)
    wire.tells(POSITIONS, [])
    wire.tells(FILLS, [])
    wire.server.replies[ACCOUNT] = (200, json.dumps(worth("100000", "100000")))
    (found,) = look(wire)
    assert (found.cause, found.kind, found.lock_code) == (
        Cause.TRADE_BUST, BreakKind.MISSING_POSITION, "UNKNOWN_CORPORATE_ACTION",
    )  # fmt: skip
    assert f"{CID}: booked 1, now 0" in found.evidence
    wire.desk.settle()
    assert wire.desk.ledger().positions == {AAA: 1}, "the larger count stays until a person has confirmed it"
    assert len(wire.server.posts) == 1
    sync.force_sync(wire.desk, None, reason="the broker confirmed the bust")
    assert look(wire) == [] and wire.desk.ledger().positions == {}
    assert wire.last("positions_synced")["adjustments"]["AAA"]["cause"] == "TRADE_BUST"


# ---------------------------------------------------------------- B43
def test_B43_a_listing_whose_pages_repeat_is_never_an_empty_one(wire: Wired) -> None:
    row = {"id": ORDER, "client_order_id": "app", "symbol": "AAA", "qty": "1", "side": "sell", "status": "new",
           "filled_qty": "0", "submitted_at": "2024-03-05T15:00:00Z"}  # fmt: skip
    wire.tells(ORDERS, [row] * 500)
    for act in (lambda: look(wire), lambda: orphans.look(wire.desk), lambda: orphans.remove(wire.desk, reason="x"),
                lambda: sync.force_sync(wire.desk, None, reason="x")):  # fmt: skip
        with pytest.raises(BrokerDown) as caught:
            act()
        assert caught.value.code == "LISTING_INCOMPLETE"
    assert "positions_synced" not in wire.kinds() and "cancel_requested" not in wire.kinds()


def test_B43_evidence_whose_pages_repeat_is_a_gap_and_not_none(wire: Wired) -> None:
    wire.tells(POSITIONS, [holding("AAA", 6)])
    for path in (FILLS, ACTIVITIES):
        rows = [execution("same", ORDER, 1)] * 100 if path == FILLS else [
            {"id": "same", "activity_type": "FEE", "date": "2024-03-05", "net_amount": "0"}] * 100  # fmt: skip
        before = wire.server.replies[path]
        wire.tells(path, rows)
        (found,) = look(wire)
        assert found.cause is Cause.UNEXPLAINED and found.lock_code == "UNKNOWN_POSITION_CHANGE"
        assert any("LISTING_INCOMPLETE" in fact for fact in found.evidence)
        wire.server.replies[path] = before


# ---------------------------------------------------------------- B44
def test_B44_no_positions_with_200_is_not_flat_while_equity_says_otherwise(wire: Wired) -> None:
    wire.tells(POSITIONS, [])
    reads = len(wire.server.requests)
    with pytest.raises(BrokerDown) as caught:
        look(wire)
    assert caught.value.code == "IMPLAUSIBLE_FLAT"
    assert sum(POSITIONS in request for request in wire.server.requests[reads:]) == 2, "asked twice"
    before = wire.desk.journal.path.read_bytes()
    with pytest.raises(BrokerDown):
        sync.force_sync(wire.desk, None, reason="flat?")
    assert wire.desk.journal.path.read_bytes() == before and wire.desk.ledger().positions == {AAA: 1}


@pytest.mark.parametrize(("cash", "equity", "believed"), [("100000", "100000", True), ("100000", "100000.01", True),
                                                          ("100000", "100000.02", False), (None, "100000", False),
                                                          ("100000", None, False)])  # fmt: skip
def test_B44_flat_is_believed_only_when_equity_is_cash_to_the_cent(
    wire: Wired, cash: str | None, equity: str | None, believed: bool
) -> None:
    wire.tells(POSITIONS, [])
    told = worth("0", "0") | {"cash": cash, "equity": equity}
    wire.server.replies[ACCOUNT] = (200, json.dumps(told))
    if not believed:
        with pytest.raises(BrokerDown):
            look(wire)
        return
    (found,) = look(wire)
    assert found.kind is BreakKind.MISSING_POSITION


def test_B44_an_account_that_cannot_be_read_proves_nothing(wire: Wired) -> None:
    wire.tells(POSITIONS, [])
    for answer in ((503, "busy"), (200, "<html>"), (200, "null")):
        wire.server.replies[ACCOUNT] = answer
        with pytest.raises(BrokerDown):
            look(wire)


def test_B44_a_flicker_of_the_listing_is_no_break(wire: Wired, monkeypatch: pytest.MonkeyPatch) -> None:
    real, answers = wire.broker.positions, [{}]
    monkeypatch.setattr(wire.broker, "positions", lambda: answers.pop() if answers else real())
    assert look(wire) == [] and answers == []


# ---------------------------------------------------------------- B53, B54
def test_B53_a_leg_left_after_its_trade_closed_is_cancelled_with_its_reason(tmp_path: Path) -> None:
    made = account(tmp_path)
    leg = f"kobe-{made.ledger().open_trades()[0].decision_id}-{Side.SELL}-{Purpose.PROTECT}-1"
    made.broker.fill(leg, SHARES, price=PRICE)
    made.world.desk.settle()
    made.broker.orders[leg] = replace(made.broker.orders[leg], status="new", filled_quantity=0)
    (found,) = orphans.look(made.world.desk)
    assert (found.cause, found.ours, found.evidence) == (Cause.ORPHAN_LEG, True, ("its trade is closed",))
    made.session.run(due())
    assert made.broker.orders[leg].status == "canceled"
    assert next(made.world.journal.kinds("cancel_requested")).body["code"] == "ORPHAN"
    assert orphans.look(made.world.desk) == ()


def test_B53_the_command_finds_and_removes_it_too(op: Operator) -> None:
    leg = op.protect_id(HELD)
    op.broker.fill(leg, SHARES, price=Decimal("4.50"))
    assert op.run(reconcile_alpaca.main, "--force-sync").code == 0
    op.broker.orders[leg] = replace(op.broker.orders[leg], status="new", filled_quantity=0)
    assert op.run(check_orphaned_orders.main).code == 1
    assert op.run(check_orphaned_orders.main, "--cancel").code == 0 and op.broker.orders[leg].status == "canceled"


def test_B54_an_exit_of_yesterday_is_found_and_gone_before_a_new_order_is_sent(tmp_path: Path) -> None:
    """Accepted late in the session, and still working the next morning."""
    from execution.ledger import intent_body
    from tests.fakes.trading import sell

    made = account(tmp_path)
    made.broker._end(f"kobe-{made.ledger().open_trades()[0].decision_id}-sell-protect-1", "canceled")
    yesterday = NOW.replace(day=4)
    left = replace(sell("HELD", quantity=SHARES, price="5.50"), decided_at=yesterday,
                   decision_id=made.ledger().open_trades()[0].decision_id)  # fmt: skip
    made.world.clock.set(yesterday)
    made.world.journal.append("order_intended", intent_body(left))
    made.broker.plan[left.client_order_id] = 0
    made.broker.submit(type("Approved", (), {"intent": left})())
    made.broker.orders[left.client_order_id] = replace(made.broker.orders[left.client_order_id], status="new")
    made.world.desk.look(made.ledger().orders[left.client_order_id])
    made.world.clock.set(NOW)
    (found,) = orphans.look(made.world.desk)
    assert found.cause is Cause.STILL_OPEN and "2024-03-04, its moment has passed" in found.evidence[0]
    assert NOW.date() == TODAY
    sent = len(made.broker.submits)
    made.session.run(due())
    assert made.broker.orders[left.client_order_id].status == "canceled"
    new = [cid for cid in made.broker.submits[sent:] if "HELD" in cid]
    assert new and "protect" in new[0], "its stop is back, and nothing sells beside it"
    assert NEW not in made.broker.positions()
