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
from execution.arming import Armed, ArmingHistory, RungDoor, permit, require_account
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


# ---------------------------------------------------------------- the door
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
