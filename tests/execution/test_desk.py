"""The desk against the in-memory broker: outcomes, budgets, recovery, and a crash at each effect in turn."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from config.settings_schema import Settings
from core import logs
from core.domain import Order, OrderIntent, OrderKind, Purpose, Side, Symbol, Tif, TradingState
from core.errors import (
    BrokerDown,
    BrokerRejected,
    OutcomeUnknown,
    RateLimited,
    RiskRefused,
    StateCorrupt,
    TradingHalted,
)
from core.paths import home
from execution.desk import CHANGED, Acknowledged, Desk, Halted, NotSent, Rejected, Unknown, with_ledger
from execution.ledger import Ledger, intent_body, intent_from
from risk.gate import Limits, Refused
from tests.fakes.trading import AAA, NOW, TODAY, World, book, entry, sell, world

BBB, CCC, DDD, EEE = (Symbol(name) for name in ("BBB", "CCC", "DDD", "EEE"))
CID = entry().client_order_id


def test_an_entry_is_intended_before_it_is_sent_and_booked_to_its_end(tmp_path: Path) -> None:
    w = world(tmp_path)
    outcome, order = w.desk.execute(entry(), book())
    assert isinstance(outcome, Acknowledged)
    assert order is not None and (order.end, order.filled_quantity) == ("closed", 1)
    assert w.kinds() == ["order_intended", "order_acknowledged", "order_filled", "order_closed", "trade_opened"]
    trade = w.desk.ledger().trades[entry().decision_id]
    assert (trade.quantity, trade.entry_price, trade.stop, trade.session) == (
        1,
        Decimal("50.00"),
        Decimal("45.00"),
        TODAY,
    )


def test_the_journalled_intent_is_the_intent() -> None:
    for intent in (entry(target_r=0.5), sell(), sell(purpose=Purpose.CLOSE)):
        assert intent_from(intent_body(intent)) == intent


def test_a_refusal_is_journalled_with_every_code_and_nothing_is_sent(tmp_path: Path) -> None:
    w = world(tmp_path)
    outcome = w.desk.send(entry(price="80.00"), book(vix=None))
    assert isinstance(outcome, Refused)
    (record,) = w.journal.records()
    assert record.kind == "order_refused" and {"PER_ORDER_MAX", "VIX_UNKNOWN"} <= set(record.body["codes"])
    assert w.broker.submits == []


def test_the_kill_switch_stops_everything_before_the_intent(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.halt.active = True
    assert isinstance(w.desk.send(entry(), book()), Halted)
    assert w.broker.submits == [] and "order_intended" not in w.kinds()


@pytest.mark.parametrize(
    ("error", "kind", "end"),
    [
        (BrokerRejected("no", code="BUYING_POWER"), Rejected, "rejected"),
        (BrokerDown("no", code="NOT_SENT"), NotSent, "not_sent"),
        (TradingHalted("no"), Halted, "not_sent"),
    ],
)
def test_definite_outcomes_release_the_reservation(tmp_path: Path, error: Exception, kind: type, end: str) -> None:
    w = world(tmp_path)
    w.broker.before_submit = [error]
    assert isinstance(w.desk.send(entry(), book()), kind)
    ledger = w.desk.ledger()
    assert ledger.orders[entry().client_order_id].end == end
    assert ledger.spent_usd(TODAY) == 0 and not ledger.locked


def test_b02_what_was_not_sent_may_go_again_under_the_same_id(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.before_submit = [BrokerDown("refused", code="NOT_SENT")]
    w.desk.send(entry(), book())
    outcome, order = w.desk.execute(entry(), book())
    assert isinstance(outcome, Acknowledged) and order is not None and order.filled_quantity == 1


def test_b01_unknown_keeps_its_reservation_and_locks_until_settled(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.after_submit = [OutcomeUnknown("time-out", code="ReadTimeout")]
    assert isinstance(w.desk.send(entry(), book()), Unknown)
    ledger = w.desk.ledger()
    assert ledger.spent_usd(TODAY) == Decimal("50.10") and ledger.locked[AAA].startswith("UNKNOWN")
    again = w.desk.send(entry(attempt=2), book())
    assert isinstance(again, Refused) and "SYMBOL_LOCKED" in again.codes
    assert w.restart().settle().adopted == (entry().client_order_id,)
    ledger = w.desk.ledger()
    assert ledger.positions == {AAA: 1} and not ledger.locked and len(w.broker.submits) == 1
    assert ledger.spent_usd(TODAY) == Decimal("50.00")


def test_b15_visibility_lag_is_waited_out_and_absence_needs_all_the_evidence(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.after_submit, w.broker.lag_s = [OutcomeUnknown("reset")], 5.0
    w.desk.send(entry(), book())
    assert w.desk.settle().adopted == (entry().client_order_id,)

    v = world(tmp_path / "v")
    v.broker.before_submit = [OutcomeUnknown("reset")]
    v.desk.send(entry(), book())
    v.broker.held[AAA] = 1  # somebody has a share of it: not proved
    assert v.desk.settle().still_unknown == (entry().client_order_id,)
    assert v.desk.ledger().locked
    v.broker.held.clear()
    assert v.desk.settle().not_sent == (entry().client_order_id,)
    assert not v.desk.ledger().locked and v.desk.ledger().spent_usd(TODAY) == 0


def test_settle_leaves_it_unknown_while_the_broker_is_down(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.before_submit = [OutcomeUnknown("reset")]
    w.desk.send(entry(), book())

    def down(*_: Any) -> None:
        raise BrokerDown("503")

    w.broker.find = down
    assert w.desk.settle().still_unknown == (entry().client_order_id,)


def test_b16_b17_partial_and_zero_fills(tmp_path: Path) -> None:
    w = world(tmp_path)
    three = entry(price="20.00", quantity=3, stop="18.00")
    seen = book(quote=replace(book().quote, bid=Decimal("19.99"), ask=Decimal("20.00"), last=Decimal("20.00")))  # type: ignore[type-var]
    w.broker.ask = Decimal("20.00")
    w.broker.plan[three.client_order_id] = 2
    _, order = w.desk.execute(three, seen)
    assert order is not None and (order.filled_quantity, order.end) == (2, "closed")
    assert w.desk.ledger().spent_usd(TODAY) == Decimal("40.00")
    v = world(tmp_path / "v")
    v.broker.plan[entry().client_order_id] = 0
    _, order = v.desk.execute(entry(), book())
    assert order is not None and order.filled_quantity == 0
    ledger = v.desk.ledger()
    assert ledger.spent_usd(TODAY) == 0 and not ledger.trades
    assert ledger.next_attempt(entry().decision_id, entry().side, Purpose.ENTRY) == 2


def test_day_cancel_cancels_what_rests_and_keeps_what_filled(tmp_path: Path) -> None:
    w = world(tmp_path)
    intent = entry(price="20.00", quantity=3, stop="18.00", tif=Tif.DAY)
    seen = book(quote=replace(book().quote, bid=Decimal("19.99"), ask=Decimal("20.00"), last=Decimal("20.00")))  # type: ignore[type-var]
    w.broker.plan[intent.client_order_id] = 1
    _, order = w.desk.execute(intent, seen)
    assert order is not None and (order.end, order.status, order.filled_quantity) == ("closed", "canceled", 1)


def test_b18_a_fill_told_after_the_cancel_wins(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.plan[entry().client_order_id] = 0
    w.desk.execute(entry(), book())
    w.broker.fill(entry().client_order_id, 1)
    w.desk.settle()
    assert w.desk.ledger().positions == {AAA: 1}
    late = [r for r in w.journal.records() if r.kind == "order_filled"]
    assert late[-1].body["late"] is True


def test_b21_a_count_that_goes_down_changes_nothing(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    order = w.broker.orders[entry().client_order_id]
    w.desk.book_order(replace(order, filled_quantity=0, filled_price=None, status="new"))
    assert w.desk.ledger().positions == {AAA: 1}
    assert w.kinds().count("order_filled") == 1


def test_b14_an_order_that_is_not_ours_locks_the_symbol(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.after_submit = [OutcomeUnknown("differs", code="IDENTITY_MISMATCH")]
    assert isinstance(w.desk.send(entry(), book()), Unknown)
    assert w.desk.ledger().locked[AAA] == "UNKNOWN_IDENTITY_MISMATCH"
    w.desk.settle()
    assert w.desk.ledger().locked[AAA] == "UNKNOWN_IDENTITY_MISMATCH"


def test_an_exit_looks_at_the_brokers_position_of_now(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    stale = book(positions={AAA: 1})
    w.broker.held.clear()
    outcome = w.desk.send(sell(), stale)
    assert isinstance(outcome, Refused) and outcome.codes == ("OVERSELL",)


def test_two_desks_cannot_exceed_the_budget_between_them(tmp_path: Path) -> None:
    w = world(tmp_path)
    for number in range(19):
        name = f"S{number}"
        w.desk.execute(entry(name), replace(book(name), positions={}, marks={}))
        w.broker.held.clear()
    spent = w.desk.ledger().spent_usd(TODAY)
    assert spent <= Decimal(1000)
    assert len(w.desk.ledger().positions) == 10  # the position limit came first, from the ledger alone
    other = w.restart()
    assert isinstance(other.send(entry("ZZZ"), book("ZZZ")), Refused)


def test_a_closed_trade_frees_its_slot_and_tells_why(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    w.desk.execute(replace(sell(), reason="time"), book(trading_state=TradingState.REDUCING))
    ledger = w.desk.ledger()
    assert ledger.positions == {} and not ledger.open_trades()
    closed = [r.body for r in w.journal.records() if r.kind == "trade_closed"]
    assert len(closed) == 1 and closed[0]["reason"] == "time"


def test_a_journal_that_cannot_be_read_stays_refused(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    w.journal.append("order_filled", {"client_order_id": "never-intended", "quantity": 1})
    for _ in range(2):
        with pytest.raises(StateCorrupt):
            w.desk.send(entry("BBB"), book("BBB"))
    assert len(w.broker.submits) == 1


def test_p11_a_journal_that_became_shorter_is_refused(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    path = tmp_path / "state" / "hash_chain.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(StateCorrupt):
        w.desk.ledger()


# ---------------------------------------------------------------- what the gate is told: the more careful number
def resting(w: World, intent: OrderIntent) -> str:
    """An order that the broker accepts and does not fill."""
    w.broker.plan[intent.client_order_id] = 0
    w.desk.send(intent, book(str(intent.symbol)))
    return intent.client_order_id


def listed(symbol: Symbol, cid: str, quantity: int, *, side: Side = Side.BUY, filled: int = 0, **prices: str) -> Order:
    return Order(
        id=f"id-{cid}", client_order_id=cid, symbol=symbol, side=side, quantity=quantity, filled_quantity=filled,
        filled_price=None, kind="limit", tif="day", status="new",
        **{name: Decimal(price) for name, price in prices.items()},
    )  # fmt: skip


def test_open_buys_of_others_count_at_their_price_and_ours_only_once(tmp_path: Path) -> None:
    w = world(tmp_path)
    ours = resting(w, replace(entry(), tif=Tif.DAY))
    over = entry("EEE").client_order_id
    w.desk.execute(entry("EEE"), book("EEE"))  # filled and sold: no working order of ours any more
    w.broker.held.clear()
    orders = [
        w.broker.orders[ours],
        listed(BBB, "app-1", 3, filled=1, limit_price="20.00", stop_price="99.00"),
        listed(BBB, "app-2", 1, stop_price="10.00"),
        listed(CCC, "app-3", 2),
        listed(DDD, "app-4", 5),
        listed(Symbol("FFF"), "app-5", 7, side=Side.SELL, limit_price="20.00"),
        listed(EEE, over, 1, limit_price="30.00"),
    ]
    seen = book("ZZZ", open_orders=orders, marks={CCC: Decimal("5.00"), BBB: Decimal("77.00")})
    told = with_ledger(seen, w.desk.ledger(), entry("ZZZ"), NOW)
    assert dict(told.pending) == {
        AAA: Decimal("50.10"), BBB: Decimal("50.00"), CCC: Decimal("10.00"), DDD: Decimal(0), EEE: Decimal("30.00"),
    }  # fmt: skip
    assert told.open_position_slots == 5, "an order without any price takes its slot all the same"
    assert told.pending_notional_usd == Decimal("50.10"), "the budget of the day is of our own orders"


def test_what_others_buy_adds_to_what_we_are_buying_in_the_same_symbol(tmp_path: Path) -> None:
    w = world(tmp_path)
    resting(w, replace(entry(), tif=Tif.DAY))
    seen = book("ZZZ", open_orders=[listed(AAA, "app-1", 1, limit_price="20.00")])
    assert with_ledger(seen, w.desk.ledger(), entry("ZZZ"), NOW).pending == {AAA: Decimal("70.10")}


def test_of_ledger_and_caller_the_more_careful_number_is_taken(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    resting(w, replace(entry("BBB"), tif=Tif.DAY))
    ledger = w.desk.ledger()
    plain = with_ledger(book("ZZZ"), ledger, entry("ZZZ"), NOW + timedelta(seconds=1))
    assert (plain.now, plain.spent_today_usd, plain.pending_notional_usd, plain.open_position_slots) == (
        NOW + timedelta(seconds=1), Decimal("50.00"), Decimal("50.10"), 2,
    )  # fmt: skip
    assert dict(plain.positions) == {AAA: 1} and dict(plain.pending) == {BBB: Decimal("50.10")}
    assert dict(plain.marks) == {AAA: Decimal("50.00")}, "a fill of today is its own price"
    more = book("ZZZ", spent_today_usd=Decimal(60), pending_notional_usd=Decimal(70), open_position_slots=7,
                pending={BBB: Decimal(80), CCC: Decimal(5)}, marks={AAA: Decimal(51)})  # fmt: skip
    told = with_ledger(more, ledger, entry("ZZZ"), NOW)
    assert (told.spent_today_usd, told.pending_notional_usd, told.open_position_slots) == (Decimal(60), Decimal(70), 7)
    assert dict(told.pending) == {BBB: Decimal(80), CCC: Decimal(5)} and told.marks == {AAA: Decimal(51)}
    less = book("ZZZ", spent_today_usd=Decimal(1), pending_notional_usd=Decimal(1), pending={BBB: Decimal(1)})
    told = with_ledger(less, ledger, entry("ZZZ"), NOW)
    assert (told.spent_today_usd, told.pending_notional_usd) == (Decimal("50.00"), Decimal("50.10"))
    assert dict(told.pending) == {BBB: Decimal("50.10")}
    tomorrow = with_ledger(book("ZZZ"), ledger, entry("ZZZ"), NOW + timedelta(days=1))
    assert tomorrow.spent_today_usd == 0 and not tomorrow.marks, "yesterday's fill is no price of today"


def test_for_an_entry_the_larger_position_counts_and_for_a_sell_the_smaller() -> None:
    ledger = Ledger(positions={AAA: 2, BBB: -1, CCC: 1})
    seen = book("ZZZ", positions={AAA: 1, CCC: -4, DDD: 0, EEE: -1})
    told = with_ledger(seen, ledger, entry("ZZZ"), NOW)
    assert dict(told.positions) == {AAA: 2, BBB: -1, CCC: -4, DDD: 0, EEE: -1} and told.open_position_slots == 4
    for ours, theirs, held in ((2, 1, 1), (1, 2, 1), (0, 1, 0), (1, 0, 0)):
        seen = book(positions={AAA: theirs} if theirs else {}, operator_close=False)
        ledger = Ledger(positions={AAA: ours} if ours else {})
        assert with_ledger(seen, ledger, sell(), NOW).positions == {AAA: held}
        operator = with_ledger(replace(seen, operator_close=True), ledger, sell(purpose=Purpose.CLOSE), NOW)
        assert operator.positions == {AAA: theirs}, "liquidation sells what is really there"


def test_locks_and_used_ids_of_the_ledger_are_added(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.before_submit = [BrokerDown("no", code="NOT_SENT")]
    w.desk.send(entry(), book())
    w.desk.lock(BBB, "BREAK", "x")
    seen = book(locked={CCC: "OTHER"}, known_client_ids=frozenset({"told"}))
    told = with_ledger(seen, w.desk.ledger(), entry(), NOW)
    assert told.locked == {BBB: "BREAK", CCC: "OTHER"}
    assert told.known_client_ids == {"told"}, "proved not sent: the same id may go"
    w.desk.send(entry(), book())
    assert with_ledger(seen, w.desk.ledger(), entry(), NOW).known_client_ids == {"told", CID}


@pytest.mark.parametrize(("age", "counted"), [(timedelta(hours=23, minutes=59), 1), (timedelta(days=1), 0)])
def test_intents_of_the_last_24_hours_count_against_the_ceilings(tmp_path: Path, age: timedelta, counted: int) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    at = w.desk.ledger().orders[CID].intended_at
    told = with_ledger(book("ZZZ"), w.desk.ledger(), entry("ZZZ"), at + age)
    assert list(told.sent_at) == [at] * counted


# ---------------------------------------------------------------- records
def test_records_decided_on_an_older_journal_are_not_written(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    seq = w.desk.ledger().last_seq
    rows = [("symbol_locked", {"symbol": "AAA", "code": "A"}), ("symbol_locked", {"symbol": "BBB", "code": "B"})]
    assert w.desk.record_if_unchanged(seq, rows) is True
    assert w.desk.ledger().locked == {AAA: "A", BBB: "B"}
    before = w.kinds()
    assert w.desk.record_if_unchanged(seq, rows) is False and w.kinds() == before


def reserves(w: World) -> dict[str, set[bool]]:
    """Which kinds of record may use the space kept for them on a full disk, from here on."""
    told: dict[str, set[bool]] = {}
    append = w.journal.append

    def spied(kind: str, body: Any, *, may_use_reserve: bool = False) -> Any:
        told.setdefault(kind, set()).add(may_use_reserve)
        return append(kind, body, may_use_reserve=may_use_reserve)

    w.journal.append = spied  # type: ignore[method-assign]
    return told


def test_p01_the_reserve_of_the_journal_is_for_what_was_sent_and_for_the_liquidation(tmp_path: Path) -> None:
    w = world(tmp_path)
    told = reserves(w)
    w.desk.execute(entry(), book())
    w.desk.send(entry("BBB", price="80.00"), book("BBB"))
    w.desk.lock(BBB, "BREAK", "x")
    w.desk.execute(sell(), book())
    assert told == {
        "order_intended": {False}, "order_refused": {False}, "order_acknowledged": {True}, "order_filled": {True},
        "order_closed": {True}, "trade_opened": {True}, "trade_closed": {True}, "symbol_locked": {True},
    }  # fmt: skip
    told.clear()
    w.broker.held[AAA], w.halt.active = 1, True
    calls = calls_of(w, "positions")
    close = w.desk.send(sell(purpose=Purpose.CLOSE), book(positions={AAA: 1}, operator_close=True))
    assert isinstance(close, Acknowledged) and told["order_intended"] == {True}
    assert calls == [], "the liquidation has its own look at what is held"


def test_what_the_activities_tell_is_booked_once_and_marked_late(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.plan[CID] = 0
    w.desk.execute(entry(), book())
    order = w.desk.ledger().orders[CID]
    assert "trade_opened" not in w.kinds()
    for _ in range(2):
        w.desk.book_told(order, 1, Decimal("49.90"), NOW + timedelta(seconds=3))
        assert [r.body["late"] for r in w.journal.kinds("order_filled")] == [True]
        assert w.kinds().count("trade_opened") == 1 and w.desk.ledger().positions == {AAA: 1}
    assert w.desk.ledger().orders[CID].filled_at == NOW + timedelta(seconds=3)
    v = world(tmp_path / "v")
    cid = resting(v, replace(entry(), tif=Tif.DAY))
    v.desk.book_told(v.desk.ledger().orders[cid], 1, Decimal("49.90"), NOW)
    assert [r.body["late"] for r in v.journal.kinds("order_filled")] == [False]


def test_a_fill_without_a_price_is_booked_at_the_limit(tmp_path: Path) -> None:
    w = world(tmp_path)
    cid = resting(w, replace(entry(), tif=Tif.DAY))
    w.broker.fill(cid, 1)
    w.broker.orders[cid] = replace(w.broker.orders[cid], filled_price=None, filled_at=None)
    w.desk.poll(cid, wait_s=0.0)
    order = w.desk.ledger().orders[cid]
    assert (order.filled_quantity, order.filled_price, order.filled_at) == (1, None, NOW)
    assert w.desk.ledger().trades[entry().decision_id].entry_price == Decimal("50.10")


def calls_of(w: World, *names: str) -> list[str]:
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


def test_an_order_is_cancelled_by_its_name_at_the_broker_which_is_looked_up_where_it_is_not_known(
    tmp_path: Path,
) -> None:
    w = world(tmp_path)
    cid = resting(w, replace(entry(), tif=Tif.DAY))
    calls = calls_of(w, "find", "cancel")
    assert w.desk.cancel(cid, wait_s=0.0).status == "canceled" and calls == ["cancel", "find"]
    calls.clear()
    assert not w.desk.cancel(cid, wait_s=0.0).working and calls == [], "over is over"
    v = world(tmp_path / "v")
    v.broker.after_submit = [OutcomeUnknown("reset")]
    resting(v, replace(entry(), tif=Tif.DAY))
    calls = calls_of(v, "find", "cancel")
    assert v.desk.cancel(CID, wait_s=0.0).status == "canceled" and calls == ["find", "cancel", "find"]
    u = world(tmp_path / "u")
    u.broker.before_submit = [OutcomeUnknown("reset")]
    u.desk.send(entry(), book())
    calls = calls_of(u, "find", "cancel")
    assert u.desk.cancel(CID, wait_s=0.0).unsettled and "cancel" not in calls, "it has no name yet"
    t = world(tmp_path / "t")
    t.broker.before_submit = [BrokerRejected("no", code="BUYING_POWER")]
    t.desk.send(entry(), book())
    calls = calls_of(t, "find", "cancel")
    assert t.desk.cancel(CID, wait_s=0.0).end == "rejected" and calls == [], "it never had one"


# ---------------------------------------------------------------- what each refusal and failure leaves behind
def last(w: World, kind: str) -> dict[str, Any]:
    return dict(list(w.journal.kinds(kind))[-1].body)


def test_the_kill_switch_is_named_where_it_stopped_the_order(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.before_submit = [TradingHalted("no")]
    assert isinstance(w.desk.send(entry(), book()), Halted)
    assert last(w, "order_not_sent")["code"] == "KILL_SWITCH"
    w.halt.active = True
    assert isinstance(w.desk.send(entry(attempt=2), book()), Halted)
    assert (last(w, "order_refused")["codes"], last(w, "order_refused")["breaches"]) == (["KILL_SWITCH"],) * 2
    assert w.desk.execute(entry(attempt=3), book()) == (Halted(entry(attempt=3)), None)


def test_the_last_door_is_believed_and_named(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.before_submit = [RiskRefused("twice", code="RUNAWAY_TWICE")]
    outcome = w.desk.send(entry(), book())
    assert isinstance(outcome, NotSent) and (outcome.code, outcome.retry_after_s) == ("RUNAWAY_TWICE", None)
    assert last(w, "order_not_sent")["code"] == "RUNAWAY_TWICE" and w.desk.ledger().orders[CID].end == "not_sent"


def test_b10_with_refused_keys_nothing_is_intended(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.before_submit = [BrokerRejected("401", code="UNAUTHORIZED")]
    assert not w.desk.keys_refused
    assert isinstance(w.desk.send(entry(), book()), Rejected) and w.desk.keys_refused
    outcome, order = w.desk.execute(entry("BBB"), book("BBB"))
    assert isinstance(outcome, NotSent) and outcome.code == "UNAUTHORIZED" and order is None
    assert last(w, "order_refused")["codes"] == ["UNAUTHORIZED"] and w.kinds().count("order_intended") == 1
    w.desk.keys_work_again()
    assert not w.desk.keys_refused and isinstance(w.desk.send(entry("BBB"), book("BBB")), Acknowledged)


@pytest.mark.parametrize(
    ("before", "now", "kind"), [(0, 0, Rejected), (0, 1, Unknown), (2, 1, Unknown), (2, 2, Rejected), (1, 0, Unknown)]
)
def test_b09_a_refusal_is_believed_when_the_position_is_the_one_before(
    tmp_path: Path, before: int, now: int, kind: type
) -> None:
    w = world(tmp_path)
    w.broker.before_submit = [BrokerRejected("no", code="BUYING_POWER")]
    w.broker.held[AAA] = now
    seen = book(positions={AAA: before} if before else {}, marks={AAA: Decimal(1)})
    w.desk.limits = replace(w.desk.limits, one_position_per_symbol=False)
    outcome = w.desk.send(entry(), seen)
    assert isinstance(outcome, kind)
    if isinstance(outcome, Unknown):
        assert outcome.code == last(w, "order_unknown")["code"] == "BUYING_POWER_UNPROVED"
        assert w.desk.ledger().locked == {AAA: "UNKNOWN_BUYING_POWER_UNPROVED"}


# ---------------------------------------------------------------- waiting
def test_b06_a_wait_as_long_as_the_patience_is_waited_and_a_longer_one_left(tmp_path: Path) -> None:
    spread_s = crc32(CID.encode()) % 250 / 1000  # so that several do not come back together
    for patience_s, sent in ((3 + spread_s, 2), (3 + spread_s - 0.001, 1)):
        w = world(tmp_path / str(sent))
        w.desk._patience_s = patience_s
        w.broker.before_submit = [RateLimited("429", retry_after_s=3.0)]
        outcome, order = w.desk.execute(entry(), book())
        assert len(w.broker.submits) == sent and order is not None
        assert isinstance(outcome, Acknowledged if sent == 2 else NotSent)
        assert w.clock.monotonic() == pytest.approx(3 + spread_s if sent == 2 else 0.0)


@pytest.mark.parametrize(("retry_after_s", "sent"), [(9.5, 2), (10.5, 1)])
def test_b07_the_patience_is_ten_seconds_unless_somebody_says_otherwise(
    tmp_path: Path, retry_after_s: float, sent: int
) -> None:
    w = world(tmp_path)
    w.broker.before_submit = [RateLimited("429", retry_after_s=retry_after_s)]
    w.desk.execute(entry(), book())
    assert len(w.broker.submits) == sent


def test_a_desk_is_built_from_the_settings(tmp_path: Path) -> None:
    named = {"execution": {"cancel_after_s": 3.0, "rate_limit_wait_s": 4.0}}
    chosen = Settings.model_validate(named)
    w = world(tmp_path)
    made = Desk.from_settings(chosen, journal=w.journal, broker=w.broker, halt=w.halt, clock=w.clock,
                              lock_path=tmp_path / "state" / "desk", top_n=True)  # fmt: skip
    assert made.limits == Limits.from_settings(chosen, top_n=True) != Limits.from_settings(chosen)
    assert (made.cancel_after_s, made._patience_s, made.lag_s) == (3.0, 4.0, 10.0)
    assert isinstance(made.send(entry(), book()), Acknowledged)


def stop_for(quantity: int = 1, *, attempt: int = 1) -> OrderIntent:
    return replace(sell(purpose=Purpose.PROTECT, quantity=quantity, attempt=attempt), kind=OrderKind.STOP, tif=Tif.GTC,
                   limit_price=None, stop_price=Decimal("45.00"))  # fmt: skip


@pytest.mark.parametrize(("lag_s", "waited_s"), [(0.0, 0.0), (1.0, 1.0), (9.0, 5.0)])
def test_resting_protection_is_waited_for_until_the_broker_shows_it(
    tmp_path: Path, lag_s: float, waited_s: float
) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    w.broker.lag_s, before = lag_s, w.clock.monotonic()
    outcome, order = w.desk.execute(stop_for(), book())
    assert isinstance(outcome, Acknowledged) and order is not None and order.working
    assert w.clock.monotonic() - before == waited_s


def test_b47_a_broker_that_is_down_while_protection_is_looked_for_is_waited_out_in_time(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())

    def down(_: str) -> None:
        raise BrokerDown("503")

    w.broker.find = down
    before = w.clock.monotonic()
    _, order = w.desk.execute(stop_for(), book(), wait_s=2.0)
    assert order is not None and order.working and w.clock.monotonic() - before == 2.0


def test_only_a_day_limit_is_cancelled_after_its_time(tmp_path: Path) -> None:
    """An IOC ends by itself, and the liquidation is followed, not cancelled."""
    w = world(tmp_path)
    w.broker._end = lambda cid, status: None  # an IOC whose end the broker is slow to tell
    w.broker.plan[CID] = 0
    calls = calls_of(w, "cancel")
    _, order = w.desk.execute(entry(), book())
    assert order is not None and order.working and calls == [] and w.clock.monotonic() == 5.0
    v = world(tmp_path / "v")
    v.broker.held[AAA] = 1
    close = sell(purpose=Purpose.CLOSE)
    v.broker.plan[close.client_order_id] = 0
    calls = calls_of(v, "cancel")
    _, order = v.desk.execute(close, book(positions={AAA: 1}, operator_close=True), wait_s=3.0)
    assert order is not None and order.working and calls == [] and v.clock.monotonic() == 3.0
    u = world(tmp_path / "u")
    calls = calls_of(u, "cancel")
    outcome, order = u.desk.execute(replace(entry(), tif=Tif.DAY), book())
    assert isinstance(outcome, Acknowledged) and order is not None and order.status == "filled" and calls == []
    t = world(tmp_path / "t")
    t.broker.plan[CID] = 0
    calls = calls_of(t, "cancel")
    _, order = t.desk.execute(replace(entry(), tif=Tif.DAY), book())
    assert order is not None and order.status == "canceled" and calls == ["cancel"] and t.clock.monotonic() == 2.0


def test_an_order_of_unknown_outcome_is_followed_until_it_is_seen(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.after_submit, w.broker.lag_s = [OutcomeUnknown("reset")], 1.0
    outcome, order = w.desk.execute(entry(), book())
    assert isinstance(outcome, Unknown) and order is not None and order.end == "closed"
    assert w.clock.monotonic() == 1.0
    calls = calls_of(w, "find")
    assert w.desk.poll(CID, wait_s=5.0).end == "closed" and calls == [], "what is over is not asked of again"


# ---------------------------------------------------------------- the broker's copy against ours
def looked(w: World, cid: str = CID, **changes: Any) -> None:
    """Look again at an order whose copy at the broker has changed so."""
    w.broker.orders[cid] = replace(w.broker.orders[cid], **changes)
    found = w.desk.look(w.desk.ledger().orders[cid])
    assert found == w.desk.ledger().orders[cid]


def tripped(w: World) -> list[str]:
    told: list[str] = []
    w.desk._trip = told.append
    return told


@pytest.mark.parametrize("change", [{"side": Side.SELL}, {"id": "another", "quantity": 2}])
def test_b14_a_copy_that_is_another_order_halts_everything_once(tmp_path: Path, change: dict[str, Any]) -> None:
    w = world(tmp_path)
    trips = tripped(w)
    resting(w, replace(entry(), tif=Tif.GTC))
    for _ in range(2):
        looked(w, **change)
        assert w.desk.ledger().locked == {AAA: "UNKNOWN_IDENTITY_MISMATCH"} and len(trips) == 1
        assert w.kinds().count("order_unknown") == 1
    assert w.desk.ledger().orders[CID].unsettled and last(w, "order_unknown")["code"] == "IDENTITY_MISMATCH"


def test_b14_what_was_never_confirmed_and_comes_back_different_is_no_change_by_the_broker(tmp_path: Path) -> None:
    w = world(tmp_path)
    trips = tripped(w)
    w.broker.after_submit = [OutcomeUnknown("reset")]
    resting(w, replace(entry(), tif=Tif.DAY))
    looked(w, quantity=2)
    assert w.desk.ledger().locked == {AAA: "UNKNOWN_IDENTITY_MISMATCH"} and len(trips) == 1


def protected(tmp_path: Path, cid: str = stop_for().client_order_id) -> World:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    w.desk.execute(stop_for(), book())
    assert w.desk.ledger().orders[cid].working
    return w


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": 2},
        {"symbol": BBB},
        {"quantity": 2, "status": "canceled", "filled_quantity": 1, "filled_price": Decimal(45)},
    ],
    ids=["shares", "name", "ended with a fill"],
)
def test_our_order_in_other_shares_or_another_name_locks_its_symbol_and_halts_nothing(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    w = protected(tmp_path)
    trips, cid = tripped(w), stop_for().client_order_id
    for _ in range(2):
        looked(w, cid, **change)
        order = w.desk.ledger().orders[cid]
        assert order.working and not order.unsettled and order.anomaly == CHANGED
        assert w.desk.ledger().locked == {AAA: "UNKNOWN_ORDER_CHANGED"} and trips == []
        assert w.kinds().count("order_anomaly") == w.kinds().count("symbol_locked") == 1
    v = protected(tmp_path / "v")
    v.desk.lock(AAA, "BREAK", "x")
    looked(v, cid, **change)
    assert v.desk.ledger().locked == {AAA: "BREAK"}, "a lock that is there is kept"


def test_an_entry_that_comes_back_in_other_shares_has_no_trade_to_explain_it(tmp_path: Path) -> None:
    w = world(tmp_path)
    trips = tripped(w)
    resting(w, replace(entry(), tif=Tif.GTC))
    looked(w, quantity=2)
    assert w.desk.ledger().locked == {AAA: CHANGED} and trips == []


def test_changed_and_ended_without_a_fill_is_over(tmp_path: Path) -> None:
    w = protected(tmp_path)
    looked(w, stop_for().client_order_id, quantity=2, status="canceled")
    order = w.desk.ledger().orders[stop_for().client_order_id]
    assert (order.end, order.status, order.anomaly) == ("closed", "canceled", "") and not w.desk.ledger().locked
    found = w.desk.look(order)
    assert found.end == "closed"


def test_changed_as_its_trade_was_is_explained(tmp_path: Path) -> None:
    w = protected(tmp_path)
    w.journal.append("trade_rebased", {
        "decision_id": entry().decision_id, "symbol": "BBB", "quantity": 2, "entry_price": "25.00", "stop": "22.50",
        "basis": "2024-03-05",
    })  # fmt: skip
    cid = stop_for().client_order_id
    looked(w, cid, quantity=2, symbol=BBB)
    assert not w.desk.ledger().locked and w.desk.ledger().orders[cid].anomaly == ""
    looked(w, cid, quantity=3)
    assert w.desk.ledger().locked == {AAA: CHANGED}
    v = protected(tmp_path / "v")
    looked(v, cid, quantity=2, filled_quantity=1, filled_price=Decimal(45))
    assert v.desk.ledger().locked == {AAA: CHANGED}, "the trade holds one share"


def test_b23_a_word_never_seen_is_adopted_by_name_and_believed_again_when_it_makes_sense(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.after_submit = [OutcomeUnknown("reset")]
    resting(w, replace(entry(), tif=Tif.GTC))
    looked(w, status="teleported")
    order = w.desk.ledger().orders[CID]
    assert order.order_id == "id-1" and order.unsettled
    assert last(w, "order_unknown")["code"] == "STATUS" and w.desk.ledger().locked == {AAA: "UNKNOWN_STATUS"}
    looked(w, status="teleported")
    assert w.kinds().count("order_acknowledged") == 1, "told once"
    assert w.kinds().count("order_unknown") == 2, "the lost reply, and this word"
    looked(w, status="new")
    assert not w.desk.ledger().orders[CID].unsettled and not w.desk.ledger().locked
    looked(w, status="new")
    assert w.kinds().count("order_acknowledged") == 2


# ---------------------------------------------------------------- booking
def test_what_the_reply_itself_tells_is_booked_at_once(tmp_path: Path) -> None:
    w = world(tmp_path)
    submit = w.broker.submit

    def at_once(approved: Any) -> Order:
        submit(approved)
        found: Order = w.broker.orders[approved.intent.client_order_id]
        return found

    w.broker.submit = at_once
    calls = calls_of(w, "find")
    assert isinstance(w.desk.send(entry(), book()), Acknowledged)
    assert w.desk.ledger().positions == {AAA: 1} and w.desk.ledger().orders[CID].end == "closed" and calls == []


TROUBLE = (
    (BrokerRejected("no", code="BUYING_POWER"), "order_rejected", "BUYING_POWER"),
    (BrokerDown("no", code="NOT_SENT"), "order_not_sent", "NOT_SENT"),
    (OutcomeUnknown("reset", code="ReadTimeout"), "order_unknown", "ReadTimeout"),
)


def test_trouble_is_counted_by_its_code_and_an_ordinary_order_is_none(tmp_path: Path) -> None:
    def counted() -> dict[Any, int]:
        return {key: number for key, number in logs.counters().items() if key[0].startswith("order_")}

    w, before = world(tmp_path), counted()
    w.desk.execute(entry(), book())
    w.desk.send(entry("BBB", price="80.00"), book("BBB"))
    assert counted() == before
    for number, (error, kind, code) in enumerate(TROUBLE):
        w.broker.before_submit = [error]
        w.desk.send(entry(f"C{number}"), book(f"C{number}"))
        key = (kind, (("code", code),))
        before[key] = before.get(key, 0) + 1
        assert counted() == before


def test_trouble_is_told_and_only_what_may_be_live_is_an_error(tmp_path: Path, own_home: Path) -> None:
    w = world(tmp_path)
    logs.configure(home(), w.clock, run_id="t", mode="paper")
    w.desk.execute(entry(), book())
    for number, (error, _, _) in enumerate(TROUBLE):
        w.broker.before_submit = [error]
        w.desk.send(entry(f"C{number}"), book(f"C{number}"))
    told = {}
    for name in ("events", "errors"):
        lines = (own_home / "logs" / f"{name}.jsonl").read_text("utf-8").splitlines()
        rows = [row for row in map(json.loads, lines) if row["event"].startswith("order_")]
        told[name] = [(row["event"], row["code"], row["symbol"]) for row in rows]
    assert told["errors"] == [("order_unknown", "ReadTimeout", "C2")]
    assert told["events"][:2] == [("order_rejected", "BUYING_POWER", "C0"), ("order_not_sent", "NOT_SENT", "C1")]


def test_b21_an_end_with_a_smaller_count_keeps_the_larger_and_its_price(tmp_path: Path) -> None:
    w = world(tmp_path)
    resting(w, replace(entry(quantity=3, price="20.10", stop="15.00"), tif=Tif.DAY))
    w.desk.limits = replace(w.desk.limits, max_single_name_fraction=9.0)
    v = world(tmp_path / "v")
    v.broker.ask = v.broker.bid = Decimal("20.00")
    seen = book(quote=replace(book().quote, bid=Decimal("19.99"), ask=Decimal("20.00"), last=Decimal("20.00")))  # type: ignore[type-var]
    v.broker.plan[CID] = 2
    v.desk.send(entry(quantity=3, price="20.10", stop="15.00", tif=Tif.DAY), seen)
    v.desk.poll(CID, wait_s=0.0)
    looked(v, status="canceled", filled_quantity=1, filled_price=Decimal("7.00"))
    closed = last(v, "order_closed")
    assert (closed["filled_quantity"], closed["filled_price"], closed["status"]) == (2, "20.00", "canceled")
    assert v.desk.ledger().orders[CID].anomaly == "FILL_WENT_DOWN" and v.desk.ledger().positions == {AAA: 2}


def test_the_end_of_an_order_tells_the_brokers_last_average(tmp_path: Path) -> None:
    w = world(tmp_path)
    resting(w, replace(entry(), tif=Tif.DAY))
    looked(w, filled_quantity=1, filled_price=Decimal("50.00"), status="partially_filled")
    looked(w, filled_price=Decimal("50.01"), status="filled")
    closed = last(w, "order_closed")
    assert (closed["filled_quantity"], closed["filled_price"], closed["broker_status"]) == (1, "50.01", "filled")
    filled = last(w, "order_filled")
    assert (filled["quantity"], filled["price"], filled["at"], filled["late"]) == (1, "50.00", None, False)


def test_a_late_fill_is_marked_dated_and_told_once_as_such(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.plan[CID] = 0
    w.desk.execute(entry(), book())
    w.clock.advance(timedelta(seconds=30))
    looked(w, filled_quantity=1, filled_price=Decimal("50.00"), filled_at=NOW + timedelta(seconds=20))
    filled = last(w, "order_filled")
    assert filled["late"] is True and filled["at"] == (NOW + timedelta(seconds=20)).isoformat()
    assert last(w, "order_anomaly")["code"] == "LATE_FILL"
    before = len(w.kinds())
    looked(w, filled_quantity=1)
    assert len(w.kinds()) == before, "a repeat adds nothing"


def test_an_order_that_is_over_stays_over_whatever_word_comes_after(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    before = w.kinds()
    for status in ("teleported", "new", "canceled"):
        looked(w, status=status)
        assert w.kinds() == before and w.desk.ledger().orders[CID].end == "closed"


def test_a_trade_that_left_in_two_parts_is_told_once_with_its_last_price(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.ask = w.broker.bid = Decimal("20.00")
    seen = book(quote=replace(book().quote, bid=Decimal("19.99"), ask=Decimal("20.00"), last=Decimal("20.00")))  # type: ignore[type-var]
    w.desk.execute(entry(quantity=3, price="20.10", stop="15.00"), seen)
    for attempt, price in ((1, "19.00"), (2, "18.00"), (3, "17.00")):
        assert "trade_closed" not in w.kinds()
        w.broker.bid = Decimal(price)
        w.desk.execute(replace(sell(attempt=attempt, price=price), reason="time"), seen)
    closed = last(w, "trade_closed")
    assert (closed["exit_price"], closed["quantity"], closed["entry_price"]) == ("17.00", 3, "20.00")
    w.restart().tell_trades()
    assert w.kinds().count("trade_closed") == w.kinds().count("trade_opened") == 1


def test_what_was_touched_since_a_record_is_told_by_order(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    seq = next(w.journal.kinds("order_closed")).seq
    assert w.desk.touched_since(seq - 1) == {CID} and w.desk.touched_since(seq) == frozenset()
    w.desk.send(entry("CCC", price="80.00"), book("CCC"))
    assert w.desk.touched_since(seq) == frozenset(), "what was refused touched nothing"
    second = entry("BBB").client_order_id
    w.desk.execute(entry("BBB"), book("BBB"))
    assert w.desk.touched_since(seq) == {second} and w.desk.touched_since(-1) == {CID, second}
    intended = next(r.seq for r in w.journal.kinds("order_intended") if r.body["client_order_id"] == second)
    assert w.restart().touched_since(intended - 1) == {second}


# ---------------------------------------------------------------- asking before protection is cancelled
def test_an_exit_is_asked_of_as_if_its_protection_were_gone(tmp_path: Path) -> None:
    w = protected(tmp_path)
    stop = stop_for().client_order_id
    before = len(w.kinds())
    assert w.desk.refusal(sell(), book(), without={stop}) is None and len(w.kinds()) == before
    found = w.desk.refusal(sell(), book(), without=())
    assert found is not None and found.codes == ("OVERSELL",)
    assert last(w, "order_refused")["codes"] == ["OVERSELL"] and last(w, "order_refused")["breaches"]


def test_a_stop_of_unknown_outcome_locks_the_exit_only_while_it_is_not_the_one_to_go(tmp_path: Path) -> None:
    w = protected(tmp_path)
    stop = stop_for().client_order_id
    looked(w, stop, status="teleported")
    assert w.desk.ledger().locked
    assert w.desk.refusal(sell(), book(), without={stop}) is None, "its cancel will settle it"
    shut = w.desk.refusal(sell(), book(session_open=False), without={stop})
    assert shut is not None and shut.codes == ("SESSION_CLOSED", "SYMBOL_LOCKED")
    w.broker.before_submit = [OutcomeUnknown("reset")]
    unknown(w, stop_for(attempt=2))
    second = w.desk.refusal(sell(), book(), without={stop})
    assert second is not None and second.codes == ("SYMBOL_LOCKED",), "another order may be out"
    v = protected(tmp_path / "v")
    v.desk.lock(AAA, "UNKNOWN_WHATEVER", "x")
    locked = v.desk.refusal(sell(), book(), without={stop})
    assert locked is not None and locked.codes == ("SYMBOL_LOCKED",), "no order of ours explains it"
    u = protected(tmp_path / "u")
    looked(u, stop, status="teleported")
    u.broker.before_submit = [OutcomeUnknown("reset")]
    u.desk.send(entry("BBB"), book("BBB"))
    assert u.desk.refusal(sell(), book(), without={stop}) is None, "another symbol's is another question"


def unknown(w: World, intent: OrderIntent) -> None:
    """An order that was intended, and of which nothing more was ever told."""
    w.journal.append("order_intended", intent_body(intent))


class Crash(BaseException):
    """The machine stops; not an Exception, so that nothing can catch it by accident."""


def crash_at(w: World, effect: int, *, late: bool) -> None:
    """Stop at the n-th effect (journal append or broker submit): lost, or done and unreported."""
    left = [effect]

    def wrapped(inner: Any) -> Any:
        def act(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                if late:
                    inner(*args, **kwargs)
                raise Crash
            return inner(*args, **kwargs)

        return act

    journal: Any = w.journal
    journal.append = wrapped(journal.append)
    w.broker.submit = wrapped(type(w.broker).submit.__get__(w.broker))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("crash_in_settle", [False, True])
def test_p19_a_crash_at_any_effect_never_doubles_or_loses_an_order(
    tmp_path: Path, late: bool, crash_in_settle: bool
) -> None:
    for effect in range(1, 20):
        w = world(tmp_path / f"{effect}")
        crashed = False
        if crash_in_settle:
            w.broker.after_submit = [OutcomeUnknown("reset")]
            w.desk.send(entry(), book())
        crash_at(w, effect, late=late)
        try:
            w.desk.settle() if crash_in_settle else w.desk.execute(entry(), book())
        except Crash:
            crashed = True
        w.broker.submit = type(w.broker).submit.__get__(w.broker)
        desk = w.restart()
        desk.settle()
        if not desk.ledger().positions and not desk.ledger().used(entry().client_order_id):
            desk.execute(entry(), book())
        assert len(w.broker.orders) <= 1
        assert dict(desk.ledger().positions) == {s: q for s, q in w.broker.held.items() if q}
        assert not desk.ledger().unsettled()
        if not crashed:
            return
    raise AssertionError("the run never completed")
