"""May live start? A fresh pass for this build, settings and account, from a rung that trades live; nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.clock import SteppedClock
from core.errors import BrokerRejected, ConfigError, RiskRefused
from core.journal import Journal
from execution.arming import (
    NO_ENTRIES_ONLY,
    Armed,
    ArmingHistory,
    RungDoor,
    entries_withheld,
    permit,
    require_account,
    started_without_entries,
)
from execution.ladder import Rung
from tests.fakes.trading import NOW, Unbounded

ITEMS = {"code": "c1", "config": "s1", "frozen_params": "p1", "universe": "u1"}
AGE = timedelta(hours=18)
PASS = {"by": "preflight_live", "mode": "live", "checks": [], "items": ITEMS, "account_id": "acc"}


def told(*records: tuple[str, Mapping[str, Any]], path: Path) -> ArmingHistory:
    """Folded from a real journal that holds these records, written now."""
    journal = Journal(path / "chain.jsonl", SteppedClock(NOW))
    for kind, body in records:
        journal.append(kind, body)
    history = ArmingHistory()
    for record in journal.records():
        history.add(record)
    return history


def step(to: str) -> tuple[str, dict[str, Any]]:
    return "ladder_step", {"from": "x", "to": to, "reason": "r", "criteria": [], "evidence": None}


def ask(history: ArmingHistory, *, after: timedelta = timedelta(hours=1), items: Mapping[str, str] = ITEMS) -> Armed:
    return permit(history, now=NOW + after, items=items, max_age=AGE)


def code(history: ArmingHistory, **changes: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        ask(history, **changes)
    return refused.value.code


@pytest.mark.parametrize("rung", ["shadow", "one_share", "full"])
def test_a_fresh_pass_on_a_live_rung_is_a_permit_for_that_rung_and_account(tmp_path: Path, rung: str) -> None:
    armed = ask(told(step(rung), ("preflight_passed", PASS), path=tmp_path))
    assert (armed.rung, armed.account_id, armed.seq) == (Rung(rung), "acc", 2) and f"rung {rung}" in str(armed)


def test_without_a_pass_nothing_starts(tmp_path: Path) -> None:
    assert code(told(step("full"), path=tmp_path)) == "LIVE_NOT_ARMED"
    other = {**PASS, "by": "preflight --all"}
    assert code(told(step("full"), ("preflight_passed", other), path=tmp_path / "all")) == "LIVE_NOT_ARMED"
    paper = {**PASS, "mode": "paper"}
    assert code(told(step("full"), ("preflight_passed", paper), path=tmp_path / "paper")) == "LIVE_NOT_ARMED"


@pytest.mark.parametrize("rung", ["replay", "paper", None])
def test_below_the_shadow_rung_nothing_starts(tmp_path: Path, rung: str | None) -> None:
    steps = [] if rung is None else [step(rung)]
    assert code(told(*steps, ("preflight_passed", PASS), path=tmp_path)) == "LADDER_TOO_LOW"


@pytest.mark.parametrize(
    ("after", "stale"),
    [(AGE, False), (AGE + timedelta(seconds=1), True), (timedelta(minutes=-5), False), (timedelta(minutes=-6), True)],
)
def test_a_pass_ages_and_one_from_the_future_is_none(tmp_path: Path, after: timedelta, stale: bool) -> None:
    history = told(step("full"), ("preflight_passed", PASS), path=tmp_path)
    if stale:
        assert code(history, after=after) == "ARMING_STALE"
    else:
        assert ask(history, after=after).rung is Rung.FULL


@pytest.mark.parametrize(
    ("item", "refused"),
    [
        ("code", "ARMING_BUILD_CHANGED"), ("config", "ARMING_CONFIG_CHANGED"), ("universe", "ARMING_CONFIG_CHANGED"),
        ("frozen_params", "ARMING_CONFIG_CHANGED"),
    ],
)  # fmt: skip
def test_P36_P37_a_pass_holds_for_exactly_what_it_was_made_of(tmp_path: Path, item: str, refused: str) -> None:
    history = told(step("full"), ("preflight_passed", PASS), path=tmp_path)
    assert code(history, items={**ITEMS, item: "other"}) == refused
    assert code(history, items={k: v for k, v in ITEMS.items() if k != item}) == refused


@pytest.mark.parametrize("halt", ["trading_halted", "watchdog_tripped", "operator_close_opened"])
def test_a_halt_after_the_pass_wants_a_new_one(tmp_path: Path, halt: str) -> None:
    records = [step("full"), ("preflight_passed", PASS), (halt, {"code": "X"})]
    assert code(told(*records, path=tmp_path)) == "ARMING_HALTED"
    again = told(*records, ("trading_resumed", {"pass": 2}), path=tmp_path / "resumed")
    assert code(again) == "ARMING_HALTED", "a resume by another preflight arms nothing"
    assert ask(told(*records, ("preflight_passed", PASS), path=tmp_path / "again")).seq == 4


def test_a_voided_pass_is_none(tmp_path: Path) -> None:
    records = [step("full"), ("preflight_passed", PASS), ("preflight_voided", {"pass": 2, "why": "switch"})]
    assert code(told(*records, path=tmp_path)) == "LIVE_NOT_ARMED"


def test_the_newest_step_is_the_rung_and_a_rung_that_nobody_knows_is_no_permission(tmp_path: Path) -> None:
    assert ask(told(step("full"), ("preflight_passed", PASS), step("shadow"), path=tmp_path)).rung is Rung.SHADOW
    with pytest.raises(ValueError, match="moon"):
        told(step("moon"), path=tmp_path / "moon")


def test_B35_the_keys_must_open_the_account_that_was_checked() -> None:
    armed = Armed(1, Rung.FULL, "acc")
    require_account(armed, "acc", "1234")
    with pytest.raises(ConfigError) as refused:
        require_account(armed, "other", "9999")
    assert refused.value.code == "ARMING_ACCOUNT_CHANGED" and "9999" in str(refused.value)


# ---------------------------------------------------------------- started for what is held
def without_entries(history: ArmingHistory, refusal: str, *, holds: bool, items: Mapping[str, str] = ITEMS) -> Armed:
    error = ConfigError("x", code=refusal)
    return started_without_entries(history, error, now=NOW + timedelta(days=30), items=items, holds=holds)


@pytest.mark.parametrize("refusal", sorted(NO_ENTRIES_ONLY))
def test_O14_an_old_pass_or_an_unheard_alert_starts_without_entries_when_something_is_held(
    tmp_path: Path, refusal: str
) -> None:
    history = told(step("full"), ("preflight_passed", PASS), path=tmp_path)
    armed = without_entries(history, refusal, holds=True)
    assert (armed.withheld, armed.seq, armed.rung) == (refusal, 2, Rung.FULL) and "NO ENTRIES" in str(armed)
    with pytest.raises(ConfigError) as refused:
        without_entries(history, refusal, holds=False)
    assert refused.value.code == refusal, "nothing is held: nothing is started"


@pytest.mark.parametrize(
    ("refusal", "more", "items", "code"),
    [
        ("ARMING_HALTED", (), ITEMS, "ARMING_HALTED"), ("ARMING_BUILD_CHANGED", (), ITEMS, "ARMING_BUILD_CHANGED"),
        ("LADDER_TOO_LOW", (), ITEMS, "LADDER_TOO_LOW"), ("LIVE_NOT_ARMED", (), ITEMS, "LIVE_NOT_ARMED"),
        ("ARMING_STALE", (("trading_halted", {"code": "x", "why": "y"}),), ITEMS, "ARMING_HALTED"),
        ("ARMING_STALE", (), {**ITEMS, "code": "c2"}, "ARMING_BUILD_CHANGED"),
        ("ALERT_UNACKNOWLEDGED", (), {**ITEMS, "config": "s2"}, "ARMING_CONFIG_CHANGED"),
        ("ARMING_STALE", (step("paper"),), ITEMS, "LADDER_TOO_LOW"),
    ],
)  # fmt: skip
def test_nothing_else_that_is_lacking_is_forgiven_for_what_is_held(
    tmp_path: Path, refusal: str, more: tuple[tuple[str, Mapping[str, Any]], ...], items: Mapping[str, str], code: str
) -> None:
    history = told(step("full"), ("preflight_passed", PASS), *more, path=tmp_path)
    with pytest.raises(ConfigError) as refused:
        without_entries(history, refusal, holds=True, items=items)
    assert refused.value.code == code


def withheld(history: ArmingHistory, armed: Armed, *, session: timedelta, after: timedelta | None = None) -> str:
    """The pass is of NOW; the session begins `session` later, and it is asked `after` NOW."""
    now = NOW + (session if after is None else after)
    return entries_withheld(history, armed, now=now, session_at=NOW + session, max_age=AGE)


@pytest.mark.parametrize(
    ("session", "after", "code"),
    [
        (AGE, AGE + timedelta(hours=6), ""),  # of the session's beginning: it does not end in the middle of one
        (AGE + timedelta(seconds=1), AGE + timedelta(seconds=1), "ARMING_STALE"),
        (timedelta(hours=-2), timedelta(0), ""),  # made since the session began
        (timedelta(0), timedelta(minutes=-5), ""), (timedelta(0), timedelta(minutes=-5, seconds=-1), "ARMING_STALE"),
    ],
)  # fmt: skip
def test_a_pass_counts_for_the_sessions_that_begin_while_it_is_fresh(
    tmp_path: Path, session: timedelta, after: timedelta, code: str
) -> None:
    history = told(step("full"), ("preflight_passed", PASS), path=tmp_path)
    armed = Armed(2, Rung.FULL, "acc", ITEMS)
    assert withheld(history, armed, session=session, after=after) == code


def test_what_was_withheld_at_the_start_comes_back_with_another_pass_and_with_nothing_else(tmp_path: Path) -> None:
    first, hour = (step("full"), ("preflight_passed", PASS)), timedelta(hours=1)
    armed = Armed(2, Rung.FULL, "acc", ITEMS, withheld="ALERT_UNACKNOWLEDGED")
    assert withheld(told(*first, path=tmp_path / "1"), armed, session=hour) == "ALERT_UNACKNOWLEDGED"
    other = ("preflight_passed", {**PASS, "by": "preflight --all"})
    assert withheld(told(*first, other, path=tmp_path / "2"), armed, session=hour) == "ALERT_UNACKNOWLEDGED"
    again = told(*first, ("preflight_passed", PASS), path=tmp_path / "3")
    assert withheld(again, armed, session=hour) == ""
    voided = told(
        *first, ("preflight_passed", PASS), ("preflight_voided", {"pass": 3, "why": "x"}), path=tmp_path / "4"
    )
    assert withheld(voided, armed, session=hour) == "ALERT_UNACKNOWLEDGED"


@pytest.mark.parametrize(
    ("change", "code"),
    [({"account_id": "other"}, "ARMING_ACCOUNT_CHANGED"), ({"items": {**ITEMS, "code": "c2"}}, "ARMING_BUILD_CHANGED"),
     ({"items": {**ITEMS, "config": "s2"}}, "ARMING_CONFIG_CHANGED"), ({}, "")],
)  # fmt: skip
def test_a_later_pass_of_something_else_lets_nothing_in(tmp_path: Path, change: dict[str, Any], code: str) -> None:
    history = told(step("full"), ("preflight_passed", {**PASS, **change}), path=tmp_path)
    armed = Armed(2, Rung.FULL, "acc", ITEMS)
    assert withheld(history, armed, session=timedelta(hours=1)) == code
    assert withheld(told(step("full"), path=tmp_path / "none"), armed, session=AGE) == "LIVE_NOT_ARMED"


# ---------------------------------------------------------------- the door
@pytest.mark.parametrize("rung", [Rung.ONE_SHARE, Rung.FULL])
def test_the_door_sends_no_buy_while_entries_are_withheld_and_every_sell(rung: Rung) -> None:
    inner, code = Unbounded(), ["ARMING_STALE"]
    door = RungDoor(inner, rung, lambda: rung, lambda: code[0])
    for order in (BUY_1, {"qty": "1"}, {**SELL_9, "side": "SELL", "qty": "1"}):
        with pytest.raises(RiskRefused) as refused:
            door.admit(order, despite_halt=False)
        assert refused.value.code in ("ARMING_STALE", "ONE_SHARE")
    door.admit(SELL_9, despite_halt=False)
    door.cancelling("/v2/orders/1")
    with pytest.raises(RiskRefused):
        door.admit(BUY_1, despite_halt=False)
    code[0] = ""
    door.admit(BUY_1, despite_halt=False)
    assert inner.admitted == [SELL_9, BUY_1] and inner.cancels == ["/v2/orders/1"]


BUY_1 = {"client_order_id": "a", "side": "buy", "qty": "1"}
BUY_2 = {"client_order_id": "a", "side": "buy", "qty": "2"}
SELL_9 = {"client_order_id": "a", "side": "sell", "qty": "9"}


@pytest.mark.parametrize(
    ("rung", "order", "passes"),
    [
        (Rung.SHADOW, BUY_1, False), (Rung.SHADOW, SELL_9, False), (Rung.PAPER, BUY_1, False),
        (Rung.ONE_SHARE, BUY_1, True), (Rung.ONE_SHARE, BUY_2, False), (Rung.ONE_SHARE, SELL_9, True),
        (Rung.ONE_SHARE, {"qty": "2"}, False), (Rung.ONE_SHARE, {**BUY_1, "qty": None}, False),
        (Rung.FULL, BUY_2, True),
    ],
)  # fmt: skip
def test_what_each_rung_lets_pass(rung: Rung, order: Mapping[str, Any], passes: bool) -> None:
    inner = Unbounded()
    door = RungDoor(inner, rung, lambda: rung)
    if passes:
        door.admit(order, despite_halt=False)
        assert inner.admitted == [order], "the last door is asked as well"
        return
    with pytest.raises(RiskRefused) as refused:
        door.admit(order, despite_halt=False)
    assert inner.admitted == []
    assert refused.value.code == ("ONE_SHARE" if rung is Rung.ONE_SHARE else "SHADOW_LIVE")


def test_a_step_back_holds_at_the_next_order_and_a_step_up_does_not() -> None:
    now = [Rung.ONE_SHARE]
    door = RungDoor(Unbounded(), Rung.ONE_SHARE, lambda: now[0])
    door.admit(BUY_1, despite_halt=False)
    now[0] = Rung.FULL
    with pytest.raises(RiskRefused):
        door.admit(BUY_2, despite_halt=False)
    now[0] = Rung.SHADOW
    with pytest.raises(RiskRefused):
        door.admit(BUY_1, despite_halt=False)


def test_after_a_step_back_what_this_process_bought_is_still_protected_sold_and_cancelled() -> None:
    inner, now = Unbounded(), [Rung.FULL]
    door = RungDoor(inner, Rung.FULL, lambda: now[0])
    now[0] = Rung.SHADOW
    door.admit(SELL_9, despite_halt=False)
    door.cancelling("/v2/orders/1")
    assert inner.admitted == [SELL_9] and inner.cancels == ["/v2/orders/1"]
    for order in (BUY_1, {"qty": "9"}, {**SELL_9, "side": "SELL"}):
        with pytest.raises(RiskRefused):
            door.admit(order, despite_halt=False)


def test_nothing_is_cancelled_from_the_shadow_rung() -> None:
    inner = Unbounded()
    with pytest.raises(BrokerRejected):
        RungDoor(inner, Rung.SHADOW, lambda: Rung.SHADOW).cancelling("/v2/orders/1")
    RungDoor(inner, Rung.ONE_SHARE, lambda: Rung.ONE_SHARE).cancelling("/v2/orders/1")
    assert inner.cancels == ["/v2/orders/1"]
