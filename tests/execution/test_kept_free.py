"""What a language model takes away stays free for the rest of the scan: nothing is bought for it, or more of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.domain import Side
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


def test_what_is_left_of_one_is_bought_and_the_rest_stays_free(tmp_path: Path) -> None:
    assert bought(tmp_path / "all", [FULL, FULL]) == {"PICKA": 1, "PICKB": 1}
    assert bought(tmp_path / "half", [HALF, FULL], position_limit=1) == {}, "half of one share is none"


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
