"""Each check of preflight from both sides, over values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from cognitive.circuit_breakers import Lock
from config.settings_schema import Settings
from core.domain import BrokerClock, Symbol
from core.errors import KobeError
from core.journal_record import Head, Record
from data.universe import Universe
from execution.noted import Behind
from execution.scheduler import DueRun
from scripts import check_values as values
from scripts.trading import Finding
from tests.fakes.trading import NOW

OK = ""


def verdict(found: Finding) -> str:
    """ok is empty; FAIL:CODE, UNKNOWN:CODE or the code of a warning."""
    if found.problem is not None:
        assert found.problem.advice != KobeError.default_advice, "a failure names its remedy"
        return f"FAIL:{found.problem.code}"
    return f"UNKNOWN:{found.warning}" if found.unknown else found.warning


def spend(*, enabled: bool = True, priced: bool = True, prices_old: str = "", **changes: object) -> Finding:
    """A budget of which nothing is spent, but for the changes."""
    status = {
        "code": "OK", "used_today": 0, "max_daily_tokens": 100_000, "cost_usd_today": 0.0, "max_daily_usd": 50.0,
        "remaining_percent": 100.0, "binding": "tokens", "warned": [],
    }  # fmt: skip
    return values.llm_budget(
        {**status, **changes}, enabled=enabled, model="m", priced=priced, prices_old=prices_old
    )  # fmt: skip


def champion(
    code: str = "OK", *, enabled: bool = True, least: float = 70, days_left: int = 90, live: bool = True
) -> Finding:
    return values.ensemble(
        code, "m-1: logistic", enabled=enabled, earned=0.5, points=20, least=least, days_left=days_left, live=live
    )  # fmt: skip


@pytest.mark.parametrize(
    ("check", "wanted"),
    [
        (lambda: values.settings_read("f", {"a": 1, "b": 2}, {"a": 1, "b": 2}), OK),
        (lambda: values.disk_space(2000, 500), OK),
        (lambda: values.disk_space(1999.9, 500), "DISK_FILLING"),
        (lambda: values.disk_space(500, 500), "DISK_FILLING"),
        (lambda: values.disk_space(499.9, 500), "FAIL:DISK_NEARLY_FULL"),
        (lambda: values.disk_space(None, 500), "FAIL:DISK_UNKNOWN"),
        (lambda: values.lock_excludes(False), OK),
        (lambda: values.lock_excludes(True), "FAIL:LOCK_USELESS"),
        (lambda: values.lock_excludes(None), "FAIL:LOCK_USELESS"),
        (lambda: values.last_starts(None, 0, 5), OK),
        (lambda: values.last_starts(None, 1, 5), "CRASHED_LATELY"),
        (lambda: values.last_starts("2024-03-05", 0, 5), "FAIL:CRASH_LOOP"),
        (lambda: values.journal_anchor(7, None), OK),
        (lambda: values.journal_anchor(None, None), "UNKNOWN:JOURNAL_NOT_NOTED"),
        (lambda: values.journal_anchor(9, Behind(Head(9, "h"), 7)), "FAIL:STATE_RESTORED"),
        (lambda: values.documents({}), OK),
        (lambda: values.documents({"positions": "positions.json is damaged"}), "FAIL:STATE_CORRUPT"),
        (lambda: values.no_orphans([]), OK),
        (lambda: values.locked_symbols({}), OK),
        (lambda: values.locked_symbols({Symbol("AAA"): "BREAK"}), "SYMBOLS_LOCKED"),
        (lambda: values.written_aside(0), OK),
        (lambda: values.written_aside(1), "WRITTEN_ASIDE"),
        (lambda: values.runs_missed([]), OK),
        (lambda: values.runs_missed(["2024-03-05T09:35"]), "RUNS_MISSED"),
        (lambda: values.keys_present(True, True, live=True), OK),
        (lambda: values.keys_present(False, False, live=True), "FAIL:KEYS_MISSING"),
        (lambda: values.keys_present(False, True, live=False), "SIMULATED_BROKER"),
        (lambda: values.cash_for_one_order(Decimal(75), Decimal(75)), OK),
        (lambda: values.cash_for_one_order(Decimal("74.99"), Decimal(75)), "CASH_LOW"),
        (lambda: values.cash_for_one_order(None, Decimal(75)), "UNKNOWN:CASH_UNKNOWN"),
        (lambda: values.answers("x", {"a": None}, "C", "r"), OK),
        (lambda: values.answers("x", {"a": None, "b": "401"}, "C", "r"), "VENDOR_SILENT"),
        (lambda: values.answers("x", {"a": "503", "b": "401"}, "C", "r"), "FAIL:C"),
        (lambda: values.answers("x", {}, "C", "r"), "FAIL:C"),
        (lambda: values.language_model(True, False), OK),
        (lambda: values.language_model(False, True), "UNKNOWN:LLM_KEY_ABSENT"),
        (lambda: values.language_model(True, True), "UNKNOWN:LLM_NOT_ASKED"),
        (lambda: values.universe_age(45, 45), OK),
        (lambda: values.universe_age(45.1, 45), "UNIVERSE_OLD"),
        (lambda: values.universe_change(["A", "B"], [], 0.1), OK),
        (lambda: values.universe_change(["A", "B"], ["B", "A"], 0.1), OK),
        (lambda: values.universe_change(["A", "B"], ["A", "C"], 1.0), OK),
        (lambda: values.universe_change(["A", "B"], ["A", "C"], 0.99), "FAIL:UNIVERSE_CHANGED"),
        (lambda: values.one_share({"A": 75.0, "B": 75.01}, ["A", "B"], Decimal(75), 0.5), OK),
        (lambda: values.one_share({"A": 75.0, "B": 75.01}, ["A", "B"], Decimal(75), 0.49), "UNIVERSE_UNREACHABLE"),
        (lambda: values.one_share(None, ["A"], Decimal(75), 0.5), "UNKNOWN:PRICES_UNKNOWN"),
        (lambda: values.one_share({}, [], Decimal(75), 0.5), "UNIVERSE_UNREACHABLE"),
        (lambda: values.bars_fresh(90, 100, date(2024, 3, 4), 0.9, fetched=True), OK),
        (lambda: values.bars_fresh(89, 100, date(2024, 3, 4), 0.9, fetched=True), "FAIL:DATA_STALE"),
        (lambda: values.bars_fresh(None, 100, date(2024, 3, 4), 0.9, fetched=False), "DATA_NOT_FETCHED"),
        (lambda: values.vix_tier(24.99, 25, 35, fetched=True), OK),
        (lambda: values.vix_tier(25, 25, 35, fetched=True), "VIX_HALVES"),
        (lambda: values.vix_tier(35, 25, 35, fetched=True), "VIX_HALVES"),
        (lambda: values.vix_tier(35.01, 25, 35, fetched=True), "VIX_STOP"),
        (lambda: values.vix_tier(None, 25, 35, fetched=True), "FAIL:VIX_UNKNOWN"),
        (lambda: values.vix_tier(None, 25, 35, fetched=False), "UNKNOWN:VIX_NOT_FETCHED"),
        (lambda: values.earnings_known("", True, True), OK),
        (lambda: values.earnings_known("no dates", True, True), "FAIL:EARNINGS_UNKNOWN"),
        (lambda: values.earnings_known("no dates", True, False), "EARNINGS_UNKNOWN"),
        (lambda: values.earnings_known("", False, True), "EARNINGS_FILTER_OFF"),
        (lambda: values.vendor_record({}), OK),
        (lambda: values.vendor_record({"a": 0.80, "b": None}), OK),
        (lambda: values.vendor_record({"a": 0.799}), "VENDOR_POOR"),
        (lambda: champion("MODEL_ABSENT"), "UNKNOWN:MODEL_ABSENT"),
        (lambda: champion("MODEL_EXPIRED"), "UNKNOWN:MODEL_EXPIRED"),
        (lambda: champion("MODEL_SEAL_BROKEN"), "FAIL:MODEL_SEAL_BROKEN"),
        (lambda: champion("MODEL_SEAL_BROKEN", live=False), "MODEL_SEAL_BROKEN"),
        (lambda: champion("MODEL_SEAL_BROKEN", enabled=False), "MODEL_OFF"),
        (lambda: champion(), OK),
        (lambda: champion(least=69.9), "MIN_SCORE_WITHOUT_MODEL"),
        (lambda: champion(days_left=14), "MODEL_RUNS_OUT"),
        (lambda: champion(days_left=15), OK),
        (lambda: spend(), OK),
        (lambda: spend(enabled=False, used_today=None, code="LLM_BUDGET_DAMAGED"), OK),
        (lambda: spend(used_today=None, code="LLM_BUDGET_DAMAGED"), "UNKNOWN:LLM_BUDGET_DAMAGED"),
        (lambda: spend(code="LLM_BUDGET_GONE"), "LLM_BUDGET_GONE"),
        (lambda: spend(code="LLM_RESTING"), "LLM_RESTING"),
        (lambda: spend(warned=["LLM_COST_HIGH"]), "LLM_COST_HIGH"),
        (lambda: spend(priced=False), "LLM_PRICE_UNKNOWN"),
        (lambda: spend(prices_old="2026-01-01, a table"), "LLM_PRICES_OLD"),
        (lambda: spend(max_daily_usd=None), OK),
        (lambda: values.watchdog_on(True), OK),
        (lambda: values.watchdog_on(False), "FAIL:WATCHDOG_OFF"),
        (lambda: values.preflight_required(True), OK),
        (lambda: values.preflight_required(False), "FAIL:PREFLIGHT_NOT_REQUIRED"),
        (lambda: values.ladder_rung("shadow", True), OK),
        (lambda: values.ladder_rung("paper", False), "FAIL:LADDER_TOO_LOW"),
    ],
)  # fmt: skip
def test_a_check_from_both_sides(check: Callable[[], Finding], wanted: str) -> None:
    found = check()
    assert verdict(found) == wanted and found.found


def test_what_differs_from_the_defaults_is_named() -> None:
    found = values.settings_read("base.yaml", {"a": 1, "b": 3}, {"a": 1, "b": 2})
    assert "2 values; other than default: b" in found.found


@pytest.mark.parametrize(("slots", "which"), [(13, "position"), (14, "daily budget")])
def test_the_limit_that_binds_first_is_named(slots: int, which: str) -> None:
    settings = Settings()
    changed = settings.model_copy(update={"risk": settings.risk.model_copy(update={"position_limit": slots})})
    assert f"the {which}" in values.binding_limit(changed).found


def test_a_universe_with_warnings_is_told() -> None:
    whole = Universe((Symbol("A"),), {Symbol("A"): None}, "0", ())
    assert verdict(values.universe_read(whole)) == OK
    assert verdict(values.universe_read(replace(whole, warnings=("line 2: 'a' read as A",)))) == "UNIVERSE_WARNED"


# ---------------------------------------------------------------- IOC
def order(kind: str, cid: str = "c1", **body: Any) -> Record:
    return Record(1, NOW, kind, {"client_order_id": cid, **body}, "", "", "")


REFUSED = order("order_rejected", code="UNPROCESSABLE", detail="HTTP 422 invalid time_in_force")


@pytest.mark.parametrize(
    ("records", "wanted"),
    [
        ([], "UNKNOWN:IOC_UNKNOWN"),
        ([order("order_intended", tif="ioc")], "UNKNOWN:IOC_UNKNOWN"),
        ([order("order_intended", tif="ioc"), order("order_acknowledged")], OK),
        ([order("order_intended", tif="gtc"), order("order_acknowledged")], "UNKNOWN:IOC_UNKNOWN"),
        ([order("order_intended", tif="ioc"), REFUSED], "FAIL:IOC_NOT_PERMITTED"),
        ([order("order_intended", tif="ioc"), order("order_rejected", detail="insufficient buying power")],
         "UNKNOWN:IOC_UNKNOWN"),
        ([order("order_intended", tif="ioc"), REFUSED, order("order_intended", "c2", tif="ioc"),
          order("order_acknowledged", "c2")], OK),
    ],
)  # fmt: skip
def test_B30_the_accounts_own_answers_tell_whether_ioc_is_permitted(records: list[Record], wanted: str) -> None:
    assert verdict(values.ioc_permitted("ioc", records)) == wanted
    assert verdict(values.ioc_permitted("day_cancel", records)) == OK


# ---------------------------------------------------------------- hours and schedule
OPENS, CLOSES = datetime(2024, 3, 5, 14, 30, tzinfo=UTC), datetime(2024, 3, 5, 21, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("is_open", "next_open", "next_close", "wanted"),
    [
        (False, OPENS, CLOSES, OK), (True, OPENS + timedelta(days=1), CLOSES, OK),
        (True, OPENS + timedelta(days=1), CLOSES - timedelta(hours=3), "HOURS_DIFFER"),
        (False, OPENS + timedelta(days=1), CLOSES + timedelta(days=1), "HOURS_DIFFER"),
        (False, OPENS, CLOSES - timedelta(hours=3), "HOURS_DIFFER"),
    ],
)  # fmt: skip
def test_D22_hours_of_the_broker_that_are_not_the_calendars_are_told(
    is_open: bool, next_open: datetime, next_close: datetime, wanted: str
) -> None:
    clock = BrokerClock(now=NOW, is_open=is_open, next_open=next_open, next_close=next_close)
    assert verdict(values.market_hours(clock, OPENS, CLOSES)) == wanted


def test_D21_a_half_day_is_printed_with_what_was_moved_and_what_is_skipped() -> None:
    day = date(2024, 7, 3)
    moved = DueRun(day, "15:55", datetime(2024, 7, 3, 16, 55, tzinfo=UTC), first=True, last=True)
    found = values.schedule(day, [moved], ["2024-07-03T14:00"], half_day=True)
    assert found.found == "Wed 2024-07-03, a half day: 12:55 (for 15:55); skipped: 14:00"
    assert verdict(found) == "HALF_DAY" and verdict(values.schedule(day, [moved], [], half_day=False)) == OK


# ---------------------------------------------------------------- breakers
def a_lock(scope: str = "all", what: str = "", until: date | None = None) -> Lock:
    return Lock(
        name="loss_concentration", scope=scope, what=what, code="BREAKER_LOSS_CONCENTRATION", reason="16 of 20 lost",
        numbers={}, seq=1, at=NOW, session=date(2024, 3, 5), until=until, by="rule",
    )  # fmt: skip


def test_a_tripped_breaker_fails_and_one_of_a_symbol_warns() -> None:
    assert verdict(values.breakers((), enabled=True)) == OK
    assert verdict(values.breakers((a_lock(),), enabled=True)) == "FAIL:BREAKER_LOSS_CONCENTRATION"
    found = values.breakers((a_lock("symbol", "KO", date(2024, 3, 8)), a_lock("symbol", "PEP")), enabled=True)
    assert verdict(found) == "BREAKER_SCOPED" and "to the end of 2024-03-08; and 1 more" in found.found
    assert verdict(values.breakers((a_lock(),), enabled=False)) == "BREAKERS_OFF"


def test_each_damaged_document_is_told_with_its_own_cure() -> None:
    universe = values.documents({"universe_last": "x"}).problem
    both = values.documents({"universe_last": "x", "positions": "y"}).problem
    assert universe is not None and both is not None
    assert "delete state/universe_last.json" in universe.advice and "--force-sync" not in universe.advice
    assert "delete state/universe_last.json" in both.advice and "--force-sync rebuilds" in both.advice
