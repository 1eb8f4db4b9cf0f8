"""The layered table against a plain dict, and a ledger whose old rows lie still against one that keeps all live."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain import Purpose, Side
from execution import fold as fold_module
from execution.fold import Fold
from execution.layers import Table
from execution.ledger import Ledger, new_york_day
from tests.fakes.trading import NOW

_ACTS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9), st.sampled_from(["put", "rest", "look"])))


@given(_ACTS)
def test_a_table_is_a_dict_and_its_snapshots_never_change(acts: list[tuple[str, int, str]]) -> None:
    table: Table[str, int] = Table()
    plain: dict[str, int] = {}
    seen: list[tuple[Any, dict[str, int]]] = []
    for key, value, act in acts:
        if act == "put":
            woken = table.put(key, value)
            assert woken is None or woken == plain[key]
            plain[key] = value
        elif act == "rest":
            table.rest(lambda v, limit=value: v < limit)
        else:
            seen.append((table.snapshot(), dict(plain)))
    seen.append((table.snapshot(), dict(plain)))
    for snapshot, expected in seen:
        assert dict(snapshot.items()) == expected and len(snapshot) == len(expected)
        assert all(key in snapshot and snapshot[key] == value for key, value in expected.items())
        assert "z" not in snapshot
    assert {key: table[key] for key in plain} == plain and table.get("z") is None


def test_a_row_that_is_written_again_is_live_again_and_its_old_value_is_told() -> None:
    table: Table[str, int] = Table()
    assert table.put("a", 1) is None and table.rest(lambda v: True) == [1]
    assert table.live == {} and table["a"] == 1
    assert table.put("a", 2) == 1 and table.live == {"a": 2} and table.put("a", 3) is None


def answers(ledger: Ledger) -> dict[str, Any]:
    days = {new_york_day(o.intended_at) for o in ledger.orders.values()}
    return {
        "orders": dict(ledger.orders), "trades": dict(ledger.trades), "positions": dict(ledger.positions),
        "spent": {day: ledger.spent_usd(day) for day in days}, "pending": ledger.pending(),
        "open": {t.decision_id: t for t in ledger.open_trades()}, "working": {*ledger.working()},
        "unsettled": {*ledger.unsettled()},
        "attempts": {
            o.intent.decision_id: [ledger.next_attempt(o.intent.decision_id, side, purpose)
                                   for side in Side for purpose in Purpose]
            for o in ledger.orders.values()
        },
        "used": {cid: ledger.used(cid) for cid in ledger.orders},
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_what_lies_still_changes_no_answer(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    records = _random_journal(seed)
    monkeypatch.setattr(fold_module, "RECENT", timedelta(days=10_000))
    everything_live = Fold()
    monkeypatch.setattr(fold_module, "RECENT", timedelta(days=2))
    resting = Fold()
    for number, record in enumerate(records):
        monkeypatch.setattr(fold_module, "RECENT", timedelta(days=10_000))
        everything_live.add(record)
        plain = everything_live.ledger()
        monkeypatch.setattr(fold_module, "RECENT", timedelta(days=2))
        resting.add(record)
        still = resting.ledger()
        if number % 11 == 0:
            assert answers(still) == answers(plain)
    assert len(resting.ledger().orders.live) < len(records) / 4, "old orders lie still"


def _random_journal(seed: int) -> list[Any]:
    """Entries and stops over sixty days; some never filled, some filled late, some fills told weeks afterwards."""
    import random
    from dataclasses import replace

    from core.journal import Record
    from execution.ledger import intent_body
    from tests.fakes.trading import entry

    rng, lines, sent = random.Random(seed), list[Any](), list[Any]()

    def tell(when: Any, what: str, /, **body: Any) -> None:
        lines.append(Record(len(lines), when, what, body, "", "", ""))

    for day in range(60):
        at = NOW + timedelta(days=day)
        decision = f"d{day}-x-AAA"
        intent = replace(entry(quantity=3, price="10.00", stop="9.00", at=at), decision_id=decision)
        tell(at, "order_intended", **intent_body(intent))
        sent.append(intent)
        ids = {"client_order_id": intent.client_order_id, "decision_id": decision, "symbol": "AAA"}
        tell(at, "order_acknowledged", **ids, order_id=str(day), status="new")
        filled = rng.choice((0, 1, 3))
        tell(at, "order_closed", **ids, status="canceled", filled_quantity=filled, filled_price="10.00")
        if filled:
            tell(at, "trade_opened", decision_id=decision)
            stop = replace(intent, purpose=Purpose.PROTECT, side=Side.SELL, quantity=filled)
            tell(at, "order_intended", **intent_body(stop))
            out = {"client_order_id": stop.client_order_id, "decision_id": decision, "symbol": "AAA"}
            if rng.random() < 0.8:
                tell(at, "order_closed", **out, status="filled", filled_quantity=filled, filled_price="9.00")
                tell(at, "trade_closed", decision_id=decision)
        if rng.random() < 0.3:
            old = rng.choice(sent)
            late = {"client_order_id": old.client_order_id, "decision_id": old.decision_id, "symbol": "AAA"}
            tell(at, "order_filled", **late, quantity=3, price="10.00", at=None)
    return lines
