"""The desk against the in-memory broker: outcomes, budgets, recovery, and a crash at each effect in turn."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.domain import Purpose, Tif, TradingState
from core.errors import BrokerDown, BrokerRejected, OutcomeUnknown, StateCorrupt, TradingHalted
from execution.desk import Acknowledged, Halted, NotSent, Rejected, Unknown
from execution.ledger import intent_body, intent_from
from risk.gate import Refused
from tests.fakes.trading import AAA, TODAY, World, book, entry, sell, world


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
