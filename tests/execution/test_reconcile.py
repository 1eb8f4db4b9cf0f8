from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.domain import Position, Symbol
from core.errors import BrokerDown, OutcomeUnknown
from execution.reconcile import BreakKind, find_breaks, force_sync, record_breaks
from tests.fakes.trading import AAA, World, book, entry, world

BBB = Symbol("BBB")


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


def test_b44_flat_is_not_believed_while_equity_says_otherwise(tmp_path: Path) -> None:
    w = bought(tmp_path)
    with pytest.raises(BrokerDown) as caught:
        find_breaks(w.desk.ledger(), {}, [], account=w.broker.account())
    assert caught.value.code == "IMPLAUSIBLE_FLAT"
    with pytest.raises(BrokerDown):
        find_breaks(w.desk.ledger(), {}, [], account=None)
    w.broker.held.clear()  # equity now equals cash
    assert kinds(w, {}) == [("AAA", BreakKind.MISSING_POSITION)]


class Store:
    def __init__(self) -> None:
        self.positions: Any = None

    def set_positions(self, positions: Any) -> None:
        self.positions = positions


def test_a_sync_is_recorded_and_the_ledger_agrees_afterwards(tmp_path: Path) -> None:
    w, store = bought(tmp_path), Store()
    theirs = held(BBB="3")
    record_breaks(w.journal, find_breaks(w.desk.ledger(), theirs, [], account=None), w.desk.ledger())
    assert w.desk.ledger().locked == {AAA: "BREAK", BBB: "BREAK"}
    force_sync(w.journal, store, theirs, ledger=w.desk.ledger(), account=w.broker.account(), reason="test")
    ledger = w.desk.ledger()
    assert ledger.positions == {BBB: 3} and set(store.positions) == {BBB}
    assert store.positions[BBB].quantity == 3 and not ledger.open_trades() and not ledger.locked
    body = next(r.body for r in w.journal.records() if r.kind == "positions_synced")
    assert body["adjustments"]["AAA"] == {"ours": 1, "theirs": 0}
    assert find_breaks(ledger, theirs, []) == ()


def test_o03_a_sync_to_an_implausible_flat_writes_nothing(tmp_path: Path) -> None:
    w, store = bought(tmp_path), Store()
    with pytest.raises(BrokerDown):
        force_sync(w.journal, store, {}, ledger=w.desk.ledger(), account=w.broker.account(), reason="test")
    assert store.positions is None and "positions_synced" not in w.kinds()


def test_a_break_that_is_gone_unlocks_its_symbol(tmp_path: Path) -> None:
    w = bought(tmp_path)
    record_breaks(w.journal, find_breaks(w.desk.ledger(), held(AAA="2"), []), w.desk.ledger())
    assert w.desk.ledger().locked == {AAA: "BREAK"}
    record_breaks(w.journal, find_breaks(w.desk.ledger(), held(AAA="1"), []), w.desk.ledger())
    assert not w.desk.ledger().locked
