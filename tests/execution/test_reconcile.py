"""Find, record, and what a person can make of a break: sync, adopt, set a stop, unlock."""

from __future__ import annotations

import os
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from core.domain import ActionKind, Position, Symbol
from core.errors import BrokerDown, ConfigError, OutcomeUnknown, StateLocked, UsageError
from execution import evidence, sync
from execution.breaks import ACTION_LOCK, LOCK, UNEXPLAINED_LOCK, BreakKind, Cause
from execution.reconcile import a_break, find_breaks, record_breaks, view_breaks
from tests.execution.reconcile_cases import DUE, HELD, NEW, PRICE, SHARES, STOP, account, an_entry, buy, by_hand
from tests.fakes.feeds import FakeFeed, action
from tests.fakes.scans import Scene, decision, due
from tests.fakes.trading import AAA, NOW, TODAY, World, book, entry, world

BBB = Symbol("BBB")


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def held(**quantities: str) -> dict[Symbol, Position]:
    return {
        Symbol(s): Position(symbol=Symbol(s), quantity=Decimal(q), average_price=Decimal(1))
        for s, q in quantities.items()
    }


def bought(tmp_path: Path) -> World:
    w = world(tmp_path)
    w.desk.execute(entry(stop="45.00"), book())
    return w


def kinds(w: World, positions: dict[Symbol, Position]) -> list[tuple[str, BreakKind]]:
    found = find_breaks(w.desk.ledger(), positions, w.broker.open_orders(), account=w.broker.account())
    return [(b.symbol, b.kind) for b in found if b.kind is not BreakKind.MISSING_PROTECTION]


# ---------------------------------------------------------------- find
def test_in_step_there_is_only_the_missing_protection(tmp_path: Path) -> None:
    w = bought(tmp_path)
    found = find_breaks(w.desk.ledger(), w.broker.positions(), w.broker.open_orders(), account=w.broker.account())
    assert [b.kind for b in found] == [BreakKind.MISSING_PROTECTION]


def test_position_breaks_are_named(tmp_path: Path) -> None:
    w = bought(tmp_path)
    assert kinds(w, held(AAA="2")) == [("AAA", BreakKind.POSITION_QUANTITY)]
    assert kinds(w, held(AAA="1", BBB="0.5")) == [("BBB", BreakKind.UNKNOWN_POSITION)]
    assert kinds(w, held(BBB="3")) == [("AAA", BreakKind.MISSING_POSITION), ("BBB", BreakKind.UNKNOWN_POSITION)]


def test_an_unsettled_intent_is_a_break(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.before_submit = [OutcomeUnknown("reset")]
    w.desk.send(entry(), book())
    assert kinds(w, {}) == [("AAA", BreakKind.UNSETTLED_INTENT)]


def test_flat_is_not_believed_while_equity_says_otherwise(tmp_path: Path) -> None:
    w = bought(tmp_path)
    with pytest.raises(BrokerDown) as caught:
        find_breaks(w.desk.ledger(), {}, [], account=w.broker.account())
    assert caught.value.code == "IMPLAUSIBLE_FLAT"
    with pytest.raises(BrokerDown):
        find_breaks(w.desk.ledger(), {}, [], account=None)
    w.broker.held.clear()  # equity now equals cash
    assert kinds(w, {}) == [("AAA", BreakKind.MISSING_POSITION)]


def test_a_listing_of_others_only_is_believed_when_the_equity_fits_it(tmp_path: Path) -> None:
    """Ours are gone and something else is there: a merger, or a page of somebody else's account."""
    w = bought(tmp_path)
    mine = w.broker.account()
    other = {BBB: replace(held(BBB="3")[BBB], market_value=Decimal(100))}
    for unlisted, believed in (("0", True), ("2.01", True), ("2.02", False), ("-2.02", False)):
        seen = replace(mine, cash=Decimal(1000), equity=Decimal(1100) + Decimal(unlisted))  # 2 % of 100, and a cent
        if believed:
            assert find_breaks(w.desk.ledger(), other, [], account=seen)
        else:
            with pytest.raises(BrokerDown):
                find_breaks(w.desk.ledger(), other, [], account=seen)


def test_the_view_file_is_compared_too(tmp_path: Path) -> None:
    ledger = bought(tmp_path).desk.ledger()
    assert view_breaks(ledger, {"AAA": {"quantity": "1"}}) == ()
    (edited,) = view_breaks(ledger, {"AAA": {"quantity": "7"}})
    assert (edited.cause, edited.kind, edited.lock_code) == (Cause.VIEW_EDITED, BreakKind.VIEW_DIFFERS, None)
    assert [b.symbol for b in view_breaks(ledger, {"BBB": {"quantity": "2"}})] == ["AAA", "BBB"]


def test_an_empty_listing_is_read_twice(tmp_path: Path) -> None:
    w = bought(tmp_path)
    real, answers = w.broker.positions, [{}]
    w.broker.positions = lambda: answers.pop() if answers else real()
    before = w.clock.monotonic()
    side = evidence.read_side(w.broker, w.desk.ledger(), w.clock)
    assert side.positions[AAA].quantity == 1 and w.clock.monotonic() - before == evidence.SECOND_LOOK_S
    calls: list[int] = []
    w.broker.positions = lambda: calls.append(1) or real()
    evidence.read_side(w.broker, w.desk.ledger(), w.clock)
    assert len(calls) == 1, "in step it is read once"


# ---------------------------------------------------------------- record
def test_a_break_that_is_gone_unlocks_its_symbol(tmp_path: Path) -> None:
    w = bought(tmp_path)
    record_breaks(w.journal, find_breaks(w.desk.ledger(), held(AAA="2"), []), w.desk.ledger())
    assert w.desk.ledger().locked == {AAA: UNEXPLAINED_LOCK}
    record_breaks(w.journal, find_breaks(w.desk.ledger(), held(AAA="1"), []), w.desk.ledger())
    assert not w.desk.ledger().locked


def test_the_lock_follows_the_cause_and_leaves_other_locks_alone(tmp_path: Path) -> None:
    w = bought(tmp_path)

    def told(cause: Cause, symbol: Symbol = AAA, ours: str = "1") -> list[Any]:
        return [a_break(symbol, BreakKind.POSITION_QUANTITY, cause, ours, "2")]

    for cause, code in ((Cause.MANUAL_TRADE, LOCK), (Cause.SPLIT, ACTION_LOCK), (Cause.UNEXPLAINED, UNEXPLAINED_LOCK),
                        (Cause.BROKER_LAG, LOCK)):  # fmt: skip
        record_breaks(w.journal, told(cause), w.desk.ledger())
        assert w.desk.ledger().locked == {AAA: code}
    late = a_break(AAA, BreakKind.UNSETTLED_INTENT, Cause.UNSETTLED_INTENT, "an order", "not known")
    record_breaks(w.journal, [*told(Cause.UNEXPLAINED), late], w.desk.ledger())
    assert w.desk.ledger().locked == {AAA: UNEXPLAINED_LOCK}, "of two the stricter"
    record_breaks(w.journal, told(Cause.SPINOFF, BBB, "0"), w.desk.ledger())
    assert w.desk.ledger().locked == {BBB: LOCK}, "what we never held has no exits to stop"
    w.journal.append("symbol_locked", {"symbol": "AAA", "code": "FILLS_DISAGREE"})
    record_breaks(w.journal, told(Cause.SPLIT), w.desk.ledger())
    assert w.desk.ledger().locked == {AAA: "FILLS_DISAGREE"}
    record_breaks(w.journal, [], w.desk.ledger())
    assert w.desk.ledger().locked == {AAA: "FILLS_DISAGREE"}


def test_a_break_is_journalled_with_cause_and_evidence_and_not_again_while_it_stays(tmp_path: Path) -> None:
    made = account(tmp_path)
    by_hand(made, NEW, 3)
    made.session.run(due())
    made.session.run(due("10:30", first=False))
    told = [r.body for r in made.world.journal.kinds("break_found") if r.body["symbol"] == "NEW"]
    assert len(told) == 1 and told[0]["cause"] == "MANUAL_TRADE" and "buy 3 @ 5.00" in told[0]["evidence"][0]
    assert "--adopt NEW --stop PRICE" in told[0]["proposal"]
    assert (made.ledger().locked, made.ledger().positions.get(NEW)) == ({NEW: LOCK}, None)


# ---------------------------------------------------------------- force-sync
def last(made: Scene, kind: str) -> dict[str, Any]:
    return dict(list(made.world.journal.kinds(kind))[-1].body)


def test_a_sync_is_recorded_whole_and_both_sides_agree_afterwards(tmp_path: Path) -> None:
    made = account(tmp_path)
    by_hand(made, NEW, 3)
    by_hand(made, HELD, -SHARES)
    made.session.run(due())
    assert made.ledger().locked == {HELD: LOCK, NEW: LOCK}
    sync.force_sync(made.world.desk, made.feed, reason="sold in the app")
    body = last(made, "positions_synced")
    assert body["adjustments"] == {
        "HELD": {"ours": 12, "theirs": 0, "cause": "MANUAL_TRADE"},
        "NEW": {"ours": 0, "theirs": 3, "cause": "MANUAL_TRADE"},
    }
    assert (body["reason"], body["account"], body["before"]["HELD"]) == ("sold in the app", "3456", 12)
    ledger = made.ledger()
    assert ledger.positions == {s: p.quantity for s, p in made.broker.positions().items()} and not ledger.locked
    assert HELD not in {t.symbol for t in ledger.open_trades()}
    found, _, _ = evidence.look(made.broker, made.feed, made.world.desk.ledger, made.world.clock)
    assert [b for b in found if b.kind is not BreakKind.MISSING_PROTECTION] == []


def test_more_shares_at_another_cost_are_no_split_for_a_sync(tmp_path: Path) -> None:
    """Twelve more bought by hand: the stop must not be halved with them."""
    made = account(tmp_path)
    by_hand(made, HELD, SHARES)
    sync.force_sync(made.world.desk, made.feed, reason="bought more")
    (trade,) = [t for t in made.ledger().open_trades() if t.symbol == HELD]
    assert (trade.quantity, trade.entry_price, trade.stop) == (24, PRICE, Decimal("4.50"))
    assert last(made, "positions_synced")["rebased"] == []


@pytest.mark.parametrize(("ratio", "quantity", "stop"), [("4", 48, "1.125"), ("1/8", 1, "36"), ("3/2", 18, "3")])
@pytest.mark.parametrize("feed", [True, False])
def test_a_sync_takes_trades_along_with_a_split_that_has_a_witness(
    tmp_path: Path, ratio: str, quantity: int, stop: str, feed: bool
) -> None:
    """12 for 8 leave 1 and a half paid out: the stop is eight times as high, not twelve times."""
    made = account(tmp_path)
    made.broker.split(HELD, Fraction(ratio), told=True)
    told = FakeFeed([action(ActionKind.SPLIT, "HELD", TODAY, ratio=ratio)]) if feed else None
    sync.force_sync(made.world.desk, told, reason="now")
    (trade,) = [t for t in made.ledger().open_trades() if t.symbol == HELD]
    assert (trade.quantity, trade.stop, trade.basis) == (quantity, Decimal(stop), TODAY)
    assert made.ledger().positions[HELD] == quantity


def test_a_sync_to_shares_whose_price_is_not_known_sets_no_stop(tmp_path: Path) -> None:
    """The broker books a split and keeps the old cost: a stop at either price may sell at once."""
    made = account(tmp_path)
    cost = made.broker.cost[HELD]
    made.broker.split(HELD, Fraction(4), told=True)
    made.broker.cost[HELD] = cost
    sync.force_sync(made.world.desk, None, reason="now")
    (trade,) = [t for t in made.ledger().open_trades() if t.symbol == HELD]
    assert (trade.quantity, trade.stop) == (48, None)
    assert "--adopt HELD --stop PRICE" in last(made, "positions_synced")["rebased"][0]["evidence"][1]
    sync.adopt(made.world.desk, None, HELD, Decimal("1.10"), reason="looked it up")
    made.session.look_after(TODAY)
    assert [(o.quantity, o.stop_price) for o in made.broker.open_orders() if o.symbol == HELD] == [
        (48, Decimal("1.10"))
    ]


def test_a_sync_takes_trades_along_with_a_new_name(tmp_path: Path) -> None:
    made = account(tmp_path)
    made.session.run(due())  # learns the asset ids
    made.broker.rename(HELD, NEW)
    sync.force_sync(made.world.desk, None, reason="renamed")
    ledger = made.ledger()
    (trade,) = [t for t in ledger.open_trades() if t.symbol == NEW]
    assert (trade.quantity, trade.stop, trade.decision_id) == (12, Decimal("4.50"), decision("HELD"))
    assert HELD not in ledger.positions and ledger.positions[NEW] == 12


def test_a_sync_books_what_the_broker_can_prove_first(tmp_path: Path) -> None:
    """A late fill is a fill: it becomes a trade with its stop, not shares of unknown origin."""
    made = account(tmp_path)
    cid = an_entry(made, "NEW", SHARES).client_order_id
    made.broker.plan[cid] = 0
    buy(made, "NEW", SHARES)
    made.broker.fill(cid, SHARES, price=PRICE)
    sync.force_sync(made.world.desk, made.feed, reason="late")
    (trade,) = [t for t in made.ledger().open_trades() if t.symbol == NEW]
    assert (trade.quantity, trade.stop) == (12, Decimal("4.50"))
    assert last(made, "positions_synced")["adjustments"] == {}


def test_a_sync_leaves_out_symbols_with_an_order_of_unknown_outcome(tmp_path: Path) -> None:
    """Its fill would be counted twice: once by the sync, once when the order is found."""
    made = account(tmp_path)
    cid = an_entry(made, "NEW", SHARES).client_order_id
    made.broker.after_submit = [OutcomeUnknown("reset")]
    made.broker.lag_s = 3600.0
    buy(made, "NEW", SHARES)
    sync.force_sync(made.world.desk, made.feed, reason="impatient")
    body = last(made, "positions_synced")
    assert body["left_out"] == ["NEW"] and "NEW" not in body["positions"]
    assert made.ledger().locked[NEW].startswith("UNKNOWN")
    made.broker.lag_s = 0.0
    made.world.desk.settle()
    assert made.ledger().positions[NEW] == SHARES == made.broker.positions()[NEW].quantity
    assert made.ledger().orders[cid].filled_quantity == SHARES


def test_a_sync_of_another_account_or_an_implausible_flat_writes_nothing(tmp_path: Path) -> None:
    made = account(tmp_path)
    made.broker.hide_positions = True
    before = made.world.desk.journal.path.read_bytes()
    with pytest.raises(BrokerDown):
        sync.force_sync(made.world.desk, made.feed, reason="flat?")
    made.broker.hide_positions = False
    assert made.world.desk.journal.path.read_bytes() == before
    made.world.journal.append("account_bound", {"id": "other", "number": "PA1", "mode": "paper"})
    with pytest.raises(ConfigError) as caught:
        sync.force_sync(made.world.desk, made.feed, reason="other")
    assert caught.value.code == "ACCOUNT_MISMATCH" and "positions_synced" not in made.world.kinds()


def test_a_fill_between_look_and_record_is_looked_at_again(tmp_path: Path) -> None:
    made = account(tmp_path)
    by_hand(made, NEW, 3)
    real, once = made.broker.account, [True]

    def account_while_a_stop_fills() -> Any:
        answer = real()
        if once:
            once.pop()
            made.broker.fill(STOP, SHARES, price=Decimal("4.50"))
            made.world.desk.poll(STOP, wait_s=0.0)  # another process books it
        return answer

    made.broker.account = account_while_a_stop_fills
    sync.force_sync(made.world.desk, made.feed, reason="while trading")
    assert made.ledger().positions == {NEW: 3, DUE: 12}
    assert last(made, "positions_synced")["before"] == {"DUE": 12}


def test_a_journal_that_never_stands_still_is_told(tmp_path: Path) -> None:
    made = account(tmp_path)
    real = made.broker.account

    def busy() -> Any:
        made.world.journal.append("note", {})
        return real()

    made.broker.account = busy
    with pytest.raises(StateLocked):
        sync.force_sync(made.world.desk, made.feed, reason="x")
    assert "positions_synced" not in made.world.kinds()


# ---------------------------------------------------------------- adopt, stop, unlock
def test_adopted_with_a_stop_it_is_a_trade_that_is_protected(tmp_path: Path) -> None:
    made = account(tmp_path)
    by_hand(made, NEW, 3)
    made.session.run(due())
    body = sync.adopt(made.world.desk, made.feed, NEW, Decimal("4.25"), reason="mine")
    assert (body["quantity"], body["before"], body["after"], body["cause"]) == (3, 0, 3, "MANUAL_TRADE")
    assert last(made, "position_adopted")["reason"] == "mine" and NEW not in made.ledger().locked
    made.session.look_after(TODAY)
    (stop,) = [o for o in made.broker.open_orders() if o.symbol == NEW]
    assert (stop.quantity, stop.stop_price, stop.kind) == (3, Decimal("4.25"), "stop")
    found, _, _ = evidence.look(made.broker, made.feed, made.world.desk.ledger, made.world.clock)
    assert found == ()


def test_adopted_without_a_stop_it_is_held_and_never_sold(tmp_path: Path) -> None:
    made = account(tmp_path)
    by_hand(made, NEW, 3)
    sync.adopt(made.world.desk, made.feed, NEW, None, reason="mine")
    made.session.run(due())
    assert made.ledger().positions[NEW] == 3 and NEW not in {t.symbol for t in made.ledger().open_trades()}
    assert [o for o in made.broker.open_orders() if o.symbol == NEW] == []


def test_only_the_surplus_is_adopted_beside_a_trade_of_ours(tmp_path: Path) -> None:
    made = account(tmp_path)
    by_hand(made, HELD, 5)
    sync.adopt(made.world.desk, made.feed, HELD, Decimal("4.00"), reason="mine")
    trades = {t.decision_id: (t.quantity, t.stop) for t in made.ledger().open_trades() if t.symbol == HELD}
    assert trades == {decision("HELD"): (12, Decimal("4.50")), "20240305-adopted-HELD": (5, Decimal("4.00"))}
    assert made.ledger().positions[HELD] == 17
    by_hand(made, HELD, 2)
    sync.adopt(made.world.desk, made.feed, HELD, Decimal("4.00"), reason="again")
    assert "20240305-adopted-HELD.2" in made.ledger().trades


def test_what_is_all_ours_gets_another_stop(tmp_path: Path) -> None:
    made = account(tmp_path)
    sync.adopt(made.world.desk, made.feed, HELD, Decimal("4.75"), reason="tighter")
    made.session.look_after(TODAY)
    (stop,) = [o for o in made.broker.open_orders() if o.symbol == HELD]
    assert (stop.quantity, stop.stop_price) == (12, Decimal("4.75"))
    body = last(made, "trade_rebased")
    assert (body["before"], body["stop"], body["reason"]) == ({"stop": "4.50"}, "4.75", "tighter")


@pytest.mark.parametrize(("stop", "ok"), [("4.98", True), ("4.99", False), ("6", False), ("0", False), ("-1", False),
                                          ("NaN", False)])  # fmt: skip
def test_a_stop_that_would_sell_at_once_is_refused(tmp_path: Path, stop: str, ok: bool) -> None:
    made = account(tmp_path)
    by_hand(made, NEW, 3)
    if ok:
        sync.adopt(made.world.desk, made.feed, NEW, Decimal(stop), reason="x")
        return
    with pytest.raises(UsageError) as caught:
        sync.adopt(made.world.desk, made.feed, NEW, Decimal(stop), reason="x")
    assert caught.value.code == "STOP_ABOVE_PRICE" and "position_adopted" not in made.world.kinds()


def test_shares_with_another_explanation_are_not_adopted(tmp_path: Path) -> None:
    made = account(tmp_path)
    with pytest.raises(UsageError) as caught:
        sync.adopt(made.world.desk, made.feed, NEW, None, reason="x")
    assert caught.value.code == "NOTHING_TO_ADOPT"
    made.broker.split(HELD, Fraction(2), told=True)
    with pytest.raises(UsageError) as caught:
        sync.adopt(made.world.desk, made.feed, HELD, Decimal("1.00"), reason="x")
    assert caught.value.code == "NOT_A_SURPLUS"
    made.broker.before_submit = [OutcomeUnknown("reset")]
    made.broker.lag_s = 3600.0
    buy(made, "NEW", 3)
    by_hand(made, NEW, 3)
    with pytest.raises(UsageError) as caught:
        sync.adopt(made.world.desk, made.feed, NEW, None, reason="x")
    assert caught.value.code == "ORDER_UNKNOWN" and "position_adopted" not in made.world.kinds()


def test_unlock_lifts_what_is_locked_and_says_what_it_was(tmp_path: Path) -> None:
    made = account(tmp_path)
    with pytest.raises(UsageError):
        sync.unlock(made.world.desk, HELD, reason="x")
    made.world.desk.lock(HELD, "FILLS_DISAGREE", "x")
    sync.unlock(made.world.desk, HELD, reason="looked")
    body = last(made, "symbol_unlocked")
    assert (body["was"], body["code"], body["reason"]) == ("FILLS_DISAGREE", "OPERATOR", "looked")
    assert not made.ledger().locked
    made.broker.before_submit = [OutcomeUnknown("reset")]
    buy(made, "NEW", 3)
    with pytest.raises(UsageError) as caught:
        sync.unlock(made.world.desk, NEW, reason="x")
    assert caught.value.code == "ORDER_UNKNOWN"


# ---------------------------------------------------------------- --full
def test_full_names_executions_that_are_not_ours_until_a_person_has_settled_them(tmp_path: Path) -> None:
    made = account(tmp_path, target_r=0.5)
    made.broker.fill(STOP, SHARES, leg=True, price=Decimal("4.50"))  # the leg's own id is ours as well
    made.world.desk.settle()
    since = NOW.replace(day=1)
    assert evidence.strange_fills(made.broker, made.ledger(), since) == ()
    by_hand(made, NEW, 3, -3)
    found = evidence.strange_fills(made.broker, made.ledger(), since)
    assert [(b.kind, b.cause, b.lock_code) for b in found] == [(BreakKind.FOREIGN_FILL, Cause.MANUAL_TRADE, None)] * 2
    made.world.clock.sleep(60)
    sync.force_sync(made.world.desk, made.feed, reason="seen")
    assert evidence.strange_fills(made.broker, made.ledger(), since) == ()


def test_the_feed_is_asked_for_what_is_held_and_for_what_is_unknown(tmp_path: Path) -> None:
    made = account(tmp_path)
    made.feed.known.append(action(ActionKind.SPINOFF, "OTHER", TODAY, other=NEW, ratio="1"))
    made.broker.held[NEW] = 3
    found, _, _ = evidence.look(made.broker, made.feed, made.world.desk.ledger, made.world.clock)
    assert [b.cause for b in found] == [Cause.SPINOFF]
