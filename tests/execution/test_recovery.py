"""Settling at start and in between: what is waited for, what proves an order absent, what late fills lock and free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.domain import Fill, Order, OrderIntent, OrderKind, Purpose, Side, Symbol, Tif
from core.errors import BrokerDown, BrokerRejected, OutcomeUnknown
from execution.ledger import LedgerOrder, intent_body
from execution.recovery import DISAGREE
from tests.fakes.trading import AAA, NOW, TODAY, World, book, entry, quote, sell, world

CID = entry().client_order_id
BBB = Symbol("BBB")


def unknown(w: World, symbol: str = "AAA") -> str:
    """An entry whose reply was lost, and that the broker does not have."""
    w.broker.before_submit = [OutcomeUnknown("reset")]
    w.desk.send(entry(symbol), book(symbol))
    return entry(symbol).client_order_id


def resting(w: World, intent: OrderIntent) -> str:
    """An order that the broker accepts and does not fill."""
    w.broker.plan[intent.client_order_id] = 0
    w.desk.send(intent, book())
    return intent.client_order_id


def counted(w: World, *names: str) -> list[str]:
    """The broker calls of these names from here on."""
    calls: list[str] = []

    def wrapped(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            calls.append(name)
            return inner(*args)

        return call

    for name in names:
        setattr(w.broker, name, wrapped(name, getattr(w.broker, name)))
    return calls


def down(*_: Any) -> Any:
    raise BrokerDown("503")


def order_of(w: World, cid: str = CID) -> LedgerOrder:
    return w.desk.ledger().orders[cid]


# ---------------------------------------------------------------- what still works
def test_what_a_crash_kept_from_being_told_is_told_once_at_the_next_start(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk._tell_trades = lambda: None  # type: ignore[method-assign]
    w.desk.execute(entry(), book())
    assert "trade_opened" not in w.kinds()
    for _ in range(2):
        w.restart().settle()
        assert w.kinds().count("trade_opened") == 1


@pytest.mark.parametrize("purpose", [Purpose.ENTRY, Purpose.EXIT])
@pytest.mark.parametrize(("age_s", "cancelled"), [(2.0, False), (2.1, True)])
def test_an_entry_or_exit_that_outlived_its_moment_is_cancelled(
    tmp_path: Path, purpose: Purpose, age_s: float, cancelled: bool
) -> None:
    w = world(tmp_path)
    if purpose is Purpose.EXIT:
        w.desk.execute(entry(), book())
    cid = resting(w, replace(entry() if purpose is Purpose.ENTRY else sell(), tif=Tif.DAY))
    w.clock.advance(timedelta(seconds=age_s))
    assert w.desk.settle().adopted == ()
    assert (order_of(w, cid).status == "canceled") is cancelled is not order_of(w, cid).working


def test_protection_rests_on_however_old_it_is(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    stop = replace(sell(purpose=Purpose.PROTECT), kind=OrderKind.STOP, tif=Tif.GTC, limit_price=None,
                   stop_price=Decimal("45.00"))  # fmt: skip
    w.desk.send(stop, book())
    w.clock.advance(timedelta(hours=5))
    w.desk.settle()
    assert order_of(w, stop.client_order_id).working and w.broker.open_orders()


def test_a_fill_meanwhile_is_booked_and_nothing_is_cancelled(tmp_path: Path) -> None:
    w = world(tmp_path)
    cid = resting(w, replace(entry(), tif=Tif.DAY))
    w.broker.fill(cid, 1)
    w.clock.advance(timedelta(hours=1))
    calls = counted(w, "find", "cancel")
    w.desk.settle()
    assert w.desk.ledger().positions == {AAA: 1} and calls == ["find"]


def test_a_cancel_that_never_takes_keeps_recovery_for_two_seconds(tmp_path: Path) -> None:
    w = world(tmp_path)
    cid = resting(w, replace(entry(), tif=Tif.DAY))
    w.clock.advance(timedelta(minutes=1))
    w.broker.cancel = lambda order_id: None
    before = w.clock.monotonic()
    w.desk.settle()
    assert order_of(w, cid).working and w.clock.monotonic() - before == 2.0


def test_what_is_adopted_live_is_cancelled_and_what_is_adopted_over_is_not_asked_again(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.after_submit = [OutcomeUnknown("reset")]
    resting(w, replace(entry(), tif=Tif.DAY))
    w.clock.advance(timedelta(seconds=5))
    assert w.desk.settle().adopted == (CID,)
    assert order_of(w).status == "canceled" and not w.broker.open_orders()
    v = world(tmp_path / "v")
    v.broker.after_submit = [OutcomeUnknown("reset")]
    v.desk.send(entry(), book())
    calls = counted(v, "find", "cancel")
    assert v.desk.settle().adopted == (CID,) and calls == ["find"]


# ---------------------------------------------------------------- waiting
def test_the_order_is_taken_as_soon_as_it_is_seen(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.after_submit, w.broker.lag_s = [OutcomeUnknown("reset")], 3.0
    w.desk.send(entry(), book())
    assert w.desk.settle().adopted == (CID,) and w.clock.monotonic() == 3.0


def test_one_lag_is_waited_for_all_of_them_together_and_never_longer_than_it_is(tmp_path: Path) -> None:
    w = world(tmp_path)
    both = (unknown(w), unknown(w, "BBB"))
    assert w.desk.settle().not_sent == both and w.clock.monotonic() == 10.0
    v = world(tmp_path / "v")
    unknown(v)
    v.desk.lag_s = 0.5
    assert v.desk.settle().not_sent == (CID,) and v.clock.monotonic() == 0.5


def test_a_clock_that_was_set_back_proves_nothing_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    w = world(tmp_path)
    unknown(w)
    w.clock.set(NOW - timedelta(hours=1))
    assert w.desk.settle().still_unknown == (CID,) and w.clock.monotonic() == 10.0
    w.clock.set(NOW + timedelta(seconds=10))
    assert w.desk.settle().not_sent == (CID,)


def test_an_order_the_broker_has_confirmed_is_never_proved_absent(tmp_path: Path) -> None:
    w = world(tmp_path)
    resting(w, replace(entry(), tif=Tif.GTC))
    w.broker.orders[CID] = replace(w.broker.orders[CID], status="teleported")
    assert w.desk.poll(CID, wait_s=0.0).unsettled
    del w.broker.orders[CID]
    assert w.desk.settle().still_unknown == (CID,)
    assert order_of(w).working and w.clock.monotonic() == 0.0, "there is nothing to wait for"
    w.clock.advance(timedelta(hours=1))
    assert w.desk.settle().still_unknown == (CID,) and order_of(w).working


def test_an_order_that_another_process_has_settled_meanwhile_is_waited_for_no_longer(tmp_path: Path) -> None:
    w = world(tmp_path)
    unknown(w)
    sleep = w.clock.sleep

    def meanwhile(seconds: float) -> None:
        sleep(seconds)
        w.journal.append("order_not_sent", {"client_order_id": CID, "code": "NOT_ACCEPTED"})

    w.clock.sleep = meanwhile  # type: ignore[method-assign]
    w.desk.settle()
    assert order_of(w).end == "not_sent" and w.clock.monotonic() == 1.0


# ---------------------------------------------------------------- proof of absence
def told_fill(symbol: Symbol = AAA, side: Side = Side.BUY, order_id: str = "stray", age_s: float = 0.0) -> Fill:
    return Fill(id="f", order_id=order_id, symbol=symbol, side=side, quantity=1, price=Decimal(50),
                at=NOW - timedelta(seconds=age_s))  # fmt: skip


@pytest.mark.parametrize(
    ("fill", "proved"),
    [
        (told_fill(), False),
        (told_fill(BBB), True),
        (told_fill(side=Side.SELL), True),
        (told_fill(order_id="id-1"), True),  # an order that we know
        (told_fill(age_s=60), False),
        (told_fill(age_s=61), True),
    ],
    ids=["stray", "other symbol", "other side", "known order", "a minute before", "older"],
)
def test_b15_a_fill_speaks_against_absence_only_when_it_can_be_of_this_order(
    tmp_path: Path, fill: Fill, proved: bool
) -> None:
    w = world(tmp_path)
    w.desk.execute(entry("CCC"), book("CCC"))  # id-1
    unknown(w)
    w.broker.activities.append(fill)
    settled = w.desk.settle()
    assert (settled.not_sent, settled.still_unknown) == (((CID,), ()) if proved else ((), (CID,)))


def test_b15_a_listed_order_is_not_absent_and_neither_is_one_that_appears_at_the_last_look(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.after_submit = [OutcomeUnknown("reset")]
    resting(w, replace(entry(), tif=Tif.DAY))
    real = w.broker.find
    w.broker.find = lambda cid: None
    assert w.desk.settle().still_unknown == (CID,), "the listing shows it"
    w.broker.open_orders = lambda: ()
    looks: list[str] = []

    def late(cid: str) -> Order | None:
        looks.append(cid)
        return real(cid) if len(looks) > 1 else None

    w.broker.find = late
    assert w.desk.settle().still_unknown == (CID,)
    assert order_of(w).unsettled and w.desk.settle().adopted == (CID,)


@pytest.mark.parametrize("call", ["open_orders", "fills", "positions"])
def test_b15_evidence_that_cannot_be_read_is_none(tmp_path: Path, call: str) -> None:
    w = world(tmp_path)
    unknown(w)
    setattr(w.broker, call, down)
    assert w.desk.settle().still_unknown == (CID,) and AAA in w.desk.ledger().locked


def test_b15_the_evidence_is_written_down_and_the_position_is_compared_with_ours(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    w.broker.before_submit = [OutcomeUnknown("reset")]
    w.desk.send(sell(), book())
    assert w.desk.settle().not_sent == (sell().client_order_id,), "one share is held, and one is ours"
    (record,) = w.journal.kinds("order_not_sent")
    assert (record.body["code"], record.body["evidence"]) == ("NOT_ACCEPTED", {
        "looked_up": "not found", "open_orders": "complete, not listed", "fills_since": 0, "position": "1",
    })  # fmt: skip


# ---------------------------------------------------------------- late fills: what is asked
def partly(w: World, filled: int, *, symbol: str = "AAA", attempt: int = 1, wanted: int = 3) -> str:
    """An entry that ended with fewer shares than it wanted."""
    w.broker.bid, w.broker.ask = Decimal("19.99"), Decimal("20.00")
    intent = entry(symbol, price="20.10", quantity=wanted, stop="15.00", attempt=attempt)
    w.broker.plan[intent.client_order_id] = filled
    now = w.clock.now()
    seen = quote(symbol, bid="19.99", ask="20.00", last="20.00", at=now)
    w.desk.execute(intent, book(symbol, quote=seen, closes_at=now + timedelta(hours=1), marks={AAA: Decimal(20)}))
    assert order_of(w, intent.client_order_id).filled_quantity == filled
    return intent.client_order_id


def hidden(w: World, quantity: int, *, cid: str = CID, price: str = "20.00") -> None:
    """The order's own copy stays short; activities and position tell the fill."""
    copy = w.broker.orders[cid]
    w.broker.fill(cid, quantity, price=Decimal(price))
    w.broker.orders[cid] = copy


def corrected(w: World, filled: int, cid: str = CID) -> None:
    w.broker.orders[cid] = replace(w.broker.orders[cid], filled_quantity=filled)


def test_only_orders_that_ended_short_are_asked_again(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())  # filled whole
    w.broker.before_submit = [BrokerRejected("no", code="BUYING_POWER"), BrokerDown("no", code="NOT_SENT")]
    w.desk.send(entry("BBB"), book("BBB"))  # rejected
    w.desk.send(entry("CCC"), book("CCC"))  # not sent
    calls = counted(w, "find", "fills")
    w.desk.settle()
    assert calls == []
    cid = partly(w, 1, symbol="DDD")
    calls.clear()
    w.desk.settle()
    assert calls == ["find", "fills"] and order_of(w, cid).filled_quantity == 1


def test_an_order_without_a_name_at_the_broker_has_no_activities_to_read(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.journal.append("order_intended", intent_body(entry()))
    w.journal.append("order_closed", {"client_order_id": CID, "status": "canceled", "filled_quantity": 0})
    calls = counted(w, "fills")
    w.desk.settle()
    assert calls == []


@pytest.mark.parametrize(("age", "asked"), [(timedelta(hours=23, minutes=59), True), (timedelta(days=1), False)])
def test_what_ended_short_is_asked_for_a_day(tmp_path: Path, age: timedelta, asked: bool) -> None:
    w = world(tmp_path)
    partly(w, 1)
    calls = counted(w, "find", "fills")
    w.clock.set(order_of(w).intended_at + age)
    w.desk.settle()
    assert calls == (["find", "fills"] if asked else [])


def test_activities_are_read_from_a_minute_before_the_oldest_of_them(tmp_path: Path) -> None:
    w = world(tmp_path)
    partly(w, 1)
    w.clock.advance(timedelta(hours=1))
    partly(w, 1, symbol="BBB")
    since: list[Any] = []
    real = w.broker.fills
    w.broker.fills = lambda at: since.append(at) or real(at)
    w.desk.settle()
    assert since == [order_of(w).intended_at - timedelta(minutes=1)]


def test_activities_that_cannot_be_read_are_read_next_time(tmp_path: Path) -> None:
    w = world(tmp_path)
    partly(w, 1)
    hidden(w, 1)
    real, w.broker.fills = w.broker.fills, down
    w.desk.settle()
    assert w.desk.ledger().positions == {AAA: 1} and not w.desk.ledger().locked
    w.broker.fills = real
    w.desk.settle()
    assert w.desk.ledger().positions == {AAA: 2}


# ---------------------------------------------------------------- late fills: what they lock and free
def test_b18_late_executions_are_booked_at_their_average_and_their_newest_instant(tmp_path: Path) -> None:
    w = world(tmp_path)
    partly(w, 1)
    w.clock.advance(timedelta(seconds=5))
    hidden(w, 2, price="21.50")
    w.broker.activities.reverse()
    w.desk.settle()
    order = order_of(w)
    assert (order.filled_quantity, order.filled_price, order.filled_at) == (3, Decimal(21), w.clock.now())
    assert w.desk.ledger().spent_usd(TODAY) == Decimal(63)


def disagreeing(tmp_path: Path, *, wanted: int = 3) -> World:
    """One share told by the order's copy, two by activities and position: locked."""
    w = world(tmp_path)
    partly(w, 1, wanted=wanted)
    hidden(w, 1)
    w.desk.settle()
    assert w.desk.ledger().locked == {AAA: "FILLS_DISAGREE"} and w.desk.ledger().positions == {AAA: 2}
    return w


@pytest.mark.parametrize("wanted", [2, 3])
@pytest.mark.parametrize("days", [0, 3])
def test_b19_when_all_agree_the_lock_goes_with_its_reason(tmp_path: Path, wanted: int, days: int) -> None:
    w = disagreeing(tmp_path, wanted=wanted)
    w.clock.advance(timedelta(days=days))
    w.desk.settle()
    assert w.desk.ledger().locked == {AAA: DISAGREE}
    corrected(w, 2)
    w.desk.settle()
    assert not w.desk.ledger().locked
    assert [r.body["code"] for r in w.journal.kinds("symbol_unlocked")] == ["FILLS_AGREE"]


def test_b19_what_was_sold_meanwhile_agrees_as_well(tmp_path: Path) -> None:
    w = disagreeing(tmp_path)
    w.desk.execute(replace(sell(quantity=2), limit_price=Decimal("19.90")), book())
    corrected(w, 2)
    w.desk.settle()
    assert not w.desk.ledger().positions and not w.desk.ledger().locked


def test_b19_a_stop_that_filled_as_the_leg_of_an_oco_agrees_as_well(tmp_path: Path) -> None:
    w = disagreeing(tmp_path)
    oco = replace(sell(quantity=2, purpose=Purpose.PROTECT), kind=OrderKind.OCO, tif=Tif.GTC,
                  limit_price=Decimal("25.00"), stop_price=Decimal("15.00"))  # fmt: skip
    w.desk.send(oco, book())
    w.broker.fill(oco.client_order_id, 2, leg=True)
    corrected(w, 2)
    w.desk.settle()
    assert not w.desk.ledger().positions and not w.desk.ledger().locked


def test_b19_an_attempt_that_filled_nothing_agrees_for_nobody_else(tmp_path: Path) -> None:
    w = world(tmp_path)
    partly(w, 0)
    second = partly(w, 1, attempt=2)
    hidden(w, 1, cid=second)
    for _ in range(2):
        w.desk.settle()
        assert w.desk.ledger().locked == {AAA: DISAGREE}, "the second attempt's copy still says one share"
    corrected(w, 2, second)
    w.desk.settle()
    assert not w.desk.ledger().locked


@pytest.mark.parametrize("trouble", ["position", "no copy", "down", "no position", "fewer activities"])
def test_b19_the_lock_stays_while_one_of_them_is_missing_or_differs(tmp_path: Path, trouble: str) -> None:
    w = disagreeing(tmp_path)
    corrected(w, 2)
    if trouble == "position":
        w.broker.held[AAA] = 3
    elif trouble == "no copy":
        del w.broker.orders[CID]
    elif trouble == "down":
        w.broker.find = down
    elif trouble == "no position":
        w.broker.positions = down
    else:
        del w.broker.activities[-1]
    w.desk.settle()
    assert w.desk.ledger().locked == {AAA: DISAGREE}


def test_b19_a_lock_for_another_reason_is_neither_replaced_nor_lifted(tmp_path: Path) -> None:
    w = world(tmp_path)
    partly(w, 1)
    w.desk.lock(AAA, "BREAK", "somebody looks into it")
    w.desk.settle()
    assert w.desk.ledger().locked == {AAA: "BREAK"}, "everything agrees, and that is not the question"
    hidden(w, 1)
    w.desk.settle()
    assert w.desk.ledger().locked == {AAA: "BREAK"} and w.desk.ledger().positions == {AAA: 2}
    corrected(w, 2)
    w.desk.settle()
    assert w.desk.ledger().locked == {AAA: "BREAK"}


def test_b19_another_symbol_neither_keeps_the_lock_nor_lifts_it(tmp_path: Path) -> None:
    w = disagreeing(tmp_path)
    partly(w, 1, symbol="BBB")
    w.desk.settle()
    assert w.desk.ledger().locked == {AAA: DISAGREE}
    del w.broker.orders[entry("BBB").client_order_id]
    corrected(w, 2)
    w.desk.settle()
    assert not w.desk.ledger().locked


def test_b19_a_lock_whose_order_is_too_old_to_be_asked_is_left_to_a_person(tmp_path: Path) -> None:
    w = disagreeing(tmp_path)
    corrected(w, 2)
    w.clock.advance(timedelta(days=8))
    partly(w, 1, symbol="BBB")
    w.clock.advance(timedelta(minutes=1))
    w.desk.settle()
    assert w.desk.ledger().locked == {AAA: DISAGREE}
