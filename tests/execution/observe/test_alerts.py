"""The judgement of one look: both sides of each limit, what is not known, and whom it alarms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from config.loader import load_settings
from config.settings_schema import Settings
from core.clock import SteppedClock
from core.errors import ConfigError
from execution.observe.alerts import ACTIONS, Beside, Condition, State, evaluate, rests_on
from execution.observe.facts import DataFacts, ExecutionFacts, Facts, ProviderFacts
from execution.observe.readiness import readiness
from tests.fakes.alarms import look_at
from tests.fakes.observed import SETTINGS, STALLED_AFTER_S, Observed, at_ten, ny

OK, UNKNOWN, WARNING, CRITICAL = State.OK, State.UNKNOWN, State.WARNING, State.CRITICAL


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return at_ten(tmp_path_factory.mktemp("morning")).look()


def judged(facts: Facts, name: str, settings: Settings = SETTINGS, **beside: Any) -> Condition:
    ready = readiness(facts, stalled_after_s=STALLED_AFTER_S)
    return evaluate(facts, ready, settings, Beside(began_at=facts.at, **beside)).of(name)


# ---------------------------------------------------------------- the runbook's table
def _measured(facts: Facts, **changes: Any) -> Facts:
    assert isinstance(facts.execution, ExecutionFacts)
    return replace(facts, execution=replace(facts.execution, **changes))


def _fill(value: float) -> Callable[[Facts], Facts]:
    return lambda f: _measured(f, ioc_fill_rate_avg=value, ioc_orders=5)


def _slip(value: float) -> Callable[[Facts], Facts]:
    return lambda f: _measured(f, slippage_bps_avg=value, slippage_fills=5)


def _cost(usd: str) -> Callable[[Facts], Facts]:
    return lambda f: replace(f, llm=replace(f.llm, cost_usd_today=Decimal(usd)))


def _approval(value: float) -> Callable[[Facts], Facts]:
    return lambda f: replace(f, cognitive=replace(f.cognitive, approval_rate=value, decisions_today=5))


def _provider(rate: float | None, asked: int = 5) -> Callable[[Facts], Facts]:
    row = ProviderFacts(name="polygon", success_rate=rate, asked=asked, last_success_at=None, last_failure_at=None,
                        last_error=None)  # fmt: skip

    def change(facts: Facts) -> Facts:
        assert isinstance(facts.data, DataFacts)
        return replace(facts, data=replace(facts.data, providers=(row,)))

    return change


def _disk(megabytes: float) -> Callable[[Facts], Facts]:
    return lambda f: replace(f, disk_free_bytes=int(megabytes * 1_000_000))


def _budget(spent: str) -> Callable[[Facts], Facts]:
    def change(facts: Facts) -> Facts:
        assert facts.book is not None
        budget = replace(facts.book.budget, spent_today_usd=Decimal(spent))
        return replace(facts, book=replace(facts.book, budget=budget))

    return change


TABLE: list[tuple[str, Callable[[Facts], Facts], State]] = [
    ("LLM_COST", _cost("0"), OK), ("LLM_COST", _cost("25"), OK), ("LLM_COST", _cost("25.01"), WARNING),
    ("LLM_COST", _cost("45"), WARNING), ("LLM_COST", _cost("45.01"), CRITICAL),
    ("IOC_FILL_RATE", _fill(0.80), OK), ("IOC_FILL_RATE", _fill(0.7999), WARNING),
    ("IOC_FILL_RATE", _fill(0.60), WARNING), ("IOC_FILL_RATE", _fill(0.5999), CRITICAL),
    ("PROVIDER_SUCCESS:polygon", _provider(0.95), OK), ("PROVIDER_SUCCESS:polygon", _provider(0.9499), WARNING),
    ("PROVIDER_SUCCESS:polygon", _provider(0.80), WARNING), ("PROVIDER_SUCCESS:polygon", _provider(0.79), CRITICAL),
    ("SLIPPAGE", _slip(5.0), OK), ("SLIPPAGE", _slip(-50.0), OK), ("SLIPPAGE", _slip(5.001), WARNING),
    ("SLIPPAGE", _slip(10.0), WARNING), ("SLIPPAGE", _slip(10.001), CRITICAL),
    ("COGNITIVE_APPROVAL", _approval(0.60), OK), ("COGNITIVE_APPROVAL", _approval(0.5999), WARNING),
    ("COGNITIVE_APPROVAL", _approval(0.40), WARNING), ("COGNITIVE_APPROVAL", _approval(0.3999), CRITICAL),
    ("DISK_LOW", _disk(500), OK), ("DISK_LOW", _disk(499.9), WARNING), ("DISK_LOW", _disk(99.9), CRITICAL),
    ("BUDGET_USED", _budget("900"), OK), ("BUDGET_USED", _budget("900.01"), WARNING),
    ("BUDGET_USED", _budget("1000"), WARNING), ("BUDGET_USED", _budget("1000.01"), CRITICAL),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "state"), TABLE)
def test_both_sides_of_each_limit(facts: Facts, name: str, change: Callable[[Facts], Facts], state: State) -> None:
    found = judged(change(facts), name)
    assert found.state is state
    if found.bad:
        assert found.value and found.limit and found.action


def test_the_actions_are_the_runbooks() -> None:
    words = {
        "LLM_COST": "Reduce LLM mode", "IOC_FILL_RATE": "Increase clamp offset",
        "PROVIDER_SUCCESS": "Check API status", "SLIPPAGE": "Widen limit offset",
        "COGNITIVE_APPROVAL": "Review signal quality",
    }  # fmt: skip
    assert {name: ACTIONS[name].startswith(said) for name, said in words.items()} == dict.fromkeys(words, True)


def test_a_day_whose_money_is_all_spent_is_critical_whatever_the_limits(facts: Facts) -> None:
    tracking = SETTINGS.cognitive.llm_analyzer.cost_tracking.model_copy(
        update={"max_daily_usd": Decimal(20), "alert_threshold_usd": Decimal(10)}
    )
    llm = SETTINGS.cognitive.llm_analyzer.model_copy(update={"cost_tracking": tracking})
    cognitive = SETTINGS.cognitive.model_copy(update={"llm_analyzer": llm})
    settings = SETTINGS.model_copy(update={"cognitive": cognitive})

    def of(usd: str) -> Facts:
        return replace(facts, llm=replace(facts.llm, cost_usd_today=Decimal(usd), cost_budget_usd=Decimal(20)))

    assert judged(of("19.99"), "LLM_COST", settings).state is WARNING
    assert judged(of("20"), "LLM_COST", settings).state is CRITICAL


# ---------------------------------------------------------------- not known is never fine
@pytest.mark.parametrize("name", ["LLM_COST", "COGNITIVE_APPROVAL", "IOC_FILL_RATE", "SLIPPAGE"])
def test_what_cannot_be_known_yet_is_unknown_and_says_why(tmp_path: Path, name: str) -> None:
    made = Observed(tmp_path, SteppedClock(ny("09:00")))
    made.bind()
    made.alive()
    look = look_at(made)
    assert look.of(name).state is UNKNOWN and "unknown (" in look.of(name).words
    assert not [c for c in look.conditions.values() if c.bad], "and alarms nobody"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("IOC_FILL_RATE", lambda f: _measured(f, ioc_fill_rate_avg=0.0, ioc_orders=4)),
        ("SLIPPAGE", lambda f: _measured(f, slippage_bps_avg=99.0, slippage_fills=4)),
        ("PROVIDER_SUCCESS:polygon", _provider(0.0, asked=4)),
        ("PROVIDER_SUCCESS:polygon", _provider(None, asked=0)),
    ],
)
def test_too_few_say_nothing(facts: Facts, name: str, change: Callable[[Facts], Facts]) -> None:
    found = judged(change(facts), name)
    assert found.state is UNKNOWN and ("too few" in found.words or "not asked" in found.words)


def test_without_the_group_an_alert_of_it_is_unknown_and_not_over(facts: Facts) -> None:
    blind = replace(facts, book=None, unknown={**facts.unknown, "book": "JOURNAL_DAMAGED"})
    assert judged(facts, "BREAKS").state is OK
    assert judged(blind, "BREAKS").state is UNKNOWN
    assert judged(blind, "BUDGET_USED").state is UNKNOWN
    assert judged(replace(facts, errors=None, errors_24h=None), "LOGGED:backup_failed").state is UNKNOWN


@pytest.mark.parametrize(
    ("name", "group"),
    [("POSITION_UNPROTECTED", "book"), ("PROVIDER_SUCCESS:x", "data"), ("DATA_STALE", "schedule"),
     ("JOURNAL_DAMAGED", ""), ("LOGGED:x", "errors"), ("KILL_SWITCH", "")],
)  # fmt: skip
def test_every_alert_knows_what_it_rests_on(name: str, group: str) -> None:
    assert rests_on(name) == group


def test_a_fact_that_should_be_known_alarms(facts: Facts) -> None:
    odd = replace(facts, unknown={**facts.unknown, "data.providers": "PROVIDER_STATS_DAMAGED"})
    assert judged(odd, "FACT_UNKNOWN:data.providers").state is WARNING


# ---------------------------------------------------------------- a runner that is not there
@pytest.mark.parametrize(
    ("wall", "day", "state"),
    [
        ("09:04", date(2024, 3, 5), OK), ("09:05", date(2024, 3, 5), CRITICAL),
        ("17:00", date(2024, 3, 5), OK), ("10:00", date(2024, 3, 9), OK),
    ],
)  # fmt: skip
def test_a_stopped_runner_is_missed_half_an_hour_before_a_run(
    tmp_path: Path, wall: str, day: date, state: State
) -> None:
    made = at_ten(tmp_path)
    made.clock.set(ny(wall, day))
    for run in ("10:30", "15:55", "close"):
        made.done(f"2024-03-05T{run}") if wall == "17:00" else None
    if wall.startswith("09:0"):  # a morning before its first run
        made = Observed(tmp_path / "other", made.clock)
        made.bind()
    made.alive("stopped")
    assert look_at(made).of("RUNNER_STOPPED").state is state


# ---------------------------------------------------------------- silence
@pytest.mark.parametrize(("days", "state"), [(35.0, OK), (35.01, WARNING)])
def test_a_backup_is_expected(facts: Facts, days: float, state: State) -> None:
    at = facts.at - timedelta(days=days)
    assert judged(facts, "BACKUP_LATE", backup_at=at).state is state
    made = evaluate(facts, readiness(facts, stalled_after_s=4), SETTINGS, Beside(began_at=at))
    assert made.of("BACKUP_LATE").state is state, "never one: counted from when alerting began"


@pytest.mark.parametrize(
    ("wall", "passed", "state"),
    [("09:30", False, OK), ("09:30:01", False, WARNING), ("09:30:01", True, OK), ("15:00", False, WARNING)],
)
def test_a_preflight_is_expected_each_morning(tmp_path: Path, wall: str, passed: bool, state: State) -> None:
    made = Observed(tmp_path, SteppedClock(ny("16:00", date(2024, 3, 4))))
    made.bind()
    made.journal.append("preflight_passed", {"by": "x"})  # yesterday's counts for yesterday
    began = made.clock.now()
    made.clock.set(ny("08:30"))
    if passed:
        made.journal.append("preflight_passed", {"by": "x"})
    made.clock.set(ny(wall))
    made.alive()
    assert look_at(made, began_at=began).of("PREFLIGHT_LATE").state is state


@pytest.mark.parametrize(("wall", "state"), [("16:15", OK), ("16:15:01", CRITICAL)])
def test_a_reconcile_is_expected_on_each_session(tmp_path: Path, wall: str, state: State) -> None:
    made = at_ten(tmp_path)
    made.clock.set(ny("15:00", date(2024, 3, 6)))
    made.clock.set(ny(wall, date(2024, 3, 6)))
    made.alive()
    assert look_at(made).of("RECONCILE_LATE").state is state


@pytest.mark.parametrize(("wall", "state"), [("10:45", OK), ("10:45:01", CRITICAL)])
def test_a_run_is_expected_to_end(tmp_path: Path, wall: str, state: State) -> None:
    made = at_ten(tmp_path)
    made.clock.set(ny(wall))
    made.alive("running 2024-03-05T10:30")
    assert look_at(made).of("RUN_LONG").state is state


def test_an_error_is_told_for_an_hour(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    made.log("errors.jsonl", "backup_failed", code="BACKUP_NO_ROOM", detail="x")
    made.clock.advance(timedelta(hours=1))
    made.alive()
    assert look_at(made).of("LOGGED:backup_failed").state is WARNING
    made.clock.advance(timedelta(seconds=1))
    assert look_at(made).of("LOGGED:backup_failed").state is OK


# ---------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("ioc_fill_rate: {warning: 0.8, critical: 0.79}", True),
        ("ioc_fill_rate: {warning: 0.8, critical: 0.8}", False),
        ("slippage_bps: {warning: 5, critical: 5.1}", True), ("slippage_bps: {warning: 5, critical: 5}", False),
        ("provider_success: {warning: 1.0, critical: 0.9}", True), ("provider_success: {warning: 1.1}", False),
        ("cognitive_approval: {least: 1}", True), ("cognitive_approval: {least: 0}", False),
        ("disk_free_mb: {warning: 2, critical: 1}", True), ("disk_free_mb: {warning: 1, critical: 1}", False),
        ("evaluate_s: 20", True), ("evaluate_s: 20.1", False), ("evaluate_s: 1", True), ("evaluate_s: 0.9", False),
        ("deadline_s: 20", True), ("deadline_s: 21", False), ("escalate_after_s: 60", True),
        ("escalate_after_s: 59", False), ("queue_most: 10", True), ("queue_most: 9", False),
        ("preflight_by: null", True), ('preflight_by: "08:30"', True), ('preflight_by: "8.30"', False),
        ("backup_every_days: null", True), ("backup_every_days: 0", False), ("budget_used_pct: 1.0", True),
        ("budget_used_pct: 1.01", False), ("deadman_every_s: 10", True), ("deadman_every_s: 9", False),
        ("webhook: x", False),
    ],
)  # fmt: skip
def test_both_sides_of_the_settings(tmp_path: Path, text: str, fine: bool) -> None:
    (tmp_path / "base.yaml").write_text(f"alerts:\n  {text}\n")
    if fine:
        load_settings(tmp_path / "base.yaml")
    else:
        with pytest.raises(ConfigError):
            load_settings(tmp_path / "base.yaml")
