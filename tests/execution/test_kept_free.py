"""What a language model takes away stays free for the rest of the scan: nothing is bought for it, or more of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.domain import Side, Symbol
from execution.session import Entry
from tests.fakes.scans import a_plan, due, scene, signal

NONE, HALF, FULL = Decimal(0), Decimal("0.5"), Decimal(1)
NAMES = ("PICKA", "PICKB")


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def bought(root: Path, parts: Sequence[Decimal], **limits: Any) -> dict[str, int]:
    """Shares ordered when each name would get its full size, and gets `parts` of it."""
    made = scene(root)
    made.world.desk.limits = replace(made.world.desk.limits, **limits)
    entries = [
        Entry(signal(name), part, None if part == FULL else FULL) for name, part in zip(NAMES, parts, strict=True)
    ]
    made.planner.plan_ = replace(a_plan(*NAMES), entries=entries)
    made.session.run(due())
    orders = [order.intent for order in made.ledger().orders.values() if order.intent.side is Side.BUY]
    return {str(intent.symbol): intent.quantity for intent in orders}


def test_a_place_that_is_taken_away_lets_no_other_position_in(tmp_path: Path) -> None:
    assert bought(tmp_path / "off", [FULL, FULL], position_limit=1) == {"PICKA": 1}
    assert bought(tmp_path / "on", [NONE, FULL], position_limit=1) == {}
    assert bought(tmp_path / "room", [NONE, FULL], position_limit=2) == {"PICKB": 1}


def test_room_of_the_day_that_is_taken_away_buys_nothing_else(tmp_path: Path) -> None:
    room = Decimal(75)  # for one share of about USD 50
    assert bought(tmp_path / "off", [FULL, FULL], daily_budget_usd=room) == {"PICKA": 1}
    assert bought(tmp_path / "on", [NONE, FULL], daily_budget_usd=room) == {}
    assert bought(tmp_path / "more", [NONE, FULL], daily_budget_usd=2 * room) == {"PICKB": 1}


def test_cash_that_an_entry_of_this_scan_has_spent_or_keeps_free_buys_nothing_else(tmp_path: Path) -> None:
    def with_cash(root: Path, parts: Sequence[Decimal], usd: str) -> list[str]:
        made = scene(root)
        made.world.desk.limits = replace(made.world.desk.limits, cash_only=True)
        made.broker.cash, told = Decimal(usd), made.broker.account
        made.broker.account = lambda: replace(told(), equity=Decimal(100_000))
        entries = [Entry(signal(n), part, None if part == FULL else FULL) for n, part in zip(NAMES, parts, strict=True)]
        made.planner.plan_ = replace(a_plan(*NAMES), entries=entries)
        made.session.run(due())
        orders = made.ledger().orders.values()
        return [str(order.intent.symbol) for order in orders if order.intent.side is Side.BUY]

    assert with_cash(tmp_path / "one", [FULL, FULL], "75") == ["PICKA"], "a share is about USD 50"
    assert with_cash(tmp_path / "two", [FULL, FULL], "125") == ["PICKA", "PICKB"]
    assert with_cash(tmp_path / "kept", [NONE, FULL], "75") == []


def test_what_is_left_of_one_is_bought_and_the_rest_stays_free(tmp_path: Path) -> None:
    assert bought(tmp_path / "all", [FULL, FULL]) == {"PICKA": 1, "PICKB": 1}
    assert bought(tmp_path / "half", [HALF, FULL], position_limit=1) == {}, "half of one share is none"


def cheap(root: Path, parts: Sequence[Decimal], **limits: Any) -> dict[str, int]:
    """The same at 10 USD a share, so that the full size of 75 USD is several."""
    made = scene(root)
    made.world.desk.limits = replace(made.world.desk.limits, **limits)
    made.broker.bid, made.broker.ask = Decimal("9.99"), Decimal("10.00")
    entries = [
        Entry(replace(signal(name), close=10.0, stop=9.0), part, None if part == FULL else FULL)
        for name, part in zip(NAMES, parts, strict=True)
    ]
    made.planner.plan_ = replace(a_plan(*NAMES), entries=entries, closes={Symbol(name): 10.0 for name in NAMES})
    made.session.run(due())
    orders = [order.intent for order in made.ledger().orders.values() if order.intent.side is Side.BUY]
    return {str(intent.symbol): intent.quantity for intent in orders}


def test_the_room_of_the_whole_is_kept_free_also_when_what_is_left_of_it_has_used_some(tmp_path: Path) -> None:
    room = Decimal(100)  # for one entry in full, and little more
    off = cheap(tmp_path / "off", [FULL, FULL], daily_budget_usd=room)
    on = cheap(tmp_path / "on", [HALF, FULL], daily_budget_usd=room)
    assert 0 < on["PICKA"] < off["PICKA"] and on["PICKB"] == off["PICKB"] > 0


def test_what_the_gate_would_refuse_whole_is_not_let_in_by_being_shrunk(tmp_path: Path) -> None:
    cap = Decimal(50)  # less than the whole, more than the half
    assert cheap(tmp_path / "off", [FULL, NONE], per_order_max_usd=cap) == {}
    assert cheap(tmp_path / "on", [HALF, NONE], per_order_max_usd=cap) == {}
    made = scene(tmp_path / "told")
    made.world.desk.limits = replace(made.world.desk.limits, per_order_max_usd=cap)
    made.broker.bid, made.broker.ask = Decimal("9.99"), Decimal("10.00")
    small = replace(signal("PICKA"), close=10.0, stop=9.0)
    made.planner.plan_ = replace(a_plan("PICKA"), entries=[Entry(small, HALF, FULL)])
    (row,) = [row for row in made.session.run(due()).intents if row["symbol"] == "PICKA"]
    assert row["verdict"] == "refused" and row["codes"] == ["LLM_WHOLE_REFUSED"]


def test_when_nothing_is_left_of_any_pick_the_scan_says_that_there_was_none(tmp_path: Path) -> None:
    made = scene(tmp_path)
    made.planner.plan_ = replace(a_plan(*NAMES), entries=[Entry(signal(name), NONE, FULL) for name in NAMES])
    assert made.session.run(due()).code == "NO_PICKS"
    assert not [record for record in made.world.desk.journal.records() if record.kind == "pick_refused"]


def test_the_next_scan_begins_with_all_of_its_room(tmp_path: Path) -> None:
    made = scene(tmp_path)
    made.world.desk.limits = replace(made.world.desk.limits, position_limit=1)
    made.planner.plan_ = replace(a_plan(*NAMES), entries=[Entry(signal("PICKA"), NONE, FULL)])
    made.session.run(due())
    made.planner.plan_ = replace(a_plan(*NAMES), entries=[Entry(signal("PICKB"), FULL)])
    made.session.run(due("10:30"))
    assert [str(o.intent.symbol) for o in made.ledger().orders.values() if o.intent.side is Side.BUY] == ["PICKB"]
