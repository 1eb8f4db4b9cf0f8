"""Which exits the planner sees before and after it has the bars of the last session: halts count no bar."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from config.strategy_params import load_strategy_params
from core.domain import ExitReason, Symbol
from core.errors import DataError, KobeError, StateCorrupt
from core.panel import Panel
from execution.scheduler import DueRun
from scripts import trading, wiring
from tests.fakes.scans import calendar_2024
from tests.portfolio.market import Bar, columns, rising

CALENDAR = calendar_2024()
SESSIONS = CALENDAR.sessions_between(date(2024, 1, 2), date(2024, 12, 31))
ENTRY = SESSIONS[229]
A = Symbol("A")


def data(own: Sequence[date], session: date, last_bar: Bar | None = None) -> Any:
    """Bars of A on these sessions, and of another name on all of them, as known at the close of `session`."""
    rows = rising(len(own), seed=3)
    if last_bar is not None:
        rows[-1] = last_bar
    known = [day for day in SESSIONS if day <= session]
    panel = Panel.from_bars({"A": columns(rows, own), "CLOCK": columns(rising(len(known)), known)})
    return SimpleNamespace(panel=panel, session=session)


def planner(at_hand: Any, monkeypatch: pytest.MonkeyPatch, stored: Any = None) -> trading.ScanPlanner:
    monkeypatch.setattr(wiring, "stored", lambda *_: stored)
    context = SimpleNamespace(calendar=CALENDAR, params=load_strategy_params())
    made = trading.ScanPlanner(context, SimpleNamespace())  # type: ignore[arg-type]
    made._data = at_hand
    return made


def ledger(strategy: str = "turtle_soup", time_stop_bars: int = 3) -> Any:
    trade = SimpleNamespace(
        decision_id="d", symbol=A, strategy=strategy, session=ENTRY, time_stop_bars=time_stop_bars,
        entry_price=Decimal(50),
    )  # fmt: skip
    return SimpleNamespace(open_trades=lambda: (trade,))


def scan(session: date, *, last: bool = False) -> DueRun:
    return DueRun(session, "09:35", CALENDAR.opens_at(session), first=not last, last=last)


def test_a_session_that_the_bars_at_hand_do_not_tell_of_is_no_reason_to_leave_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Entered on day 0, traded on day 1, halted on day 2: day 3 is the third bar, so its close is the time stop."""
    own = SESSIONS[:231]
    before = planner(data(own, SESSIONS[230]), monkeypatch)
    assert before.exits(scan(SESSIONS[232]), ledger()) == []
    told = planner(data(own, SESSIONS[231]), monkeypatch)
    assert told.exits(scan(SESSIONS[232]), ledger()) == []
    assert told.exits(scan(SESSIONS[232], last=True), ledger()) == [("d", ExitReason.TIME)]


def test_without_any_bars_held_sessions_are_the_calendars(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = planner(None, monkeypatch)
    assert nothing.exits(scan(SESSIONS[231]), ledger()) == []
    assert nothing.exits(scan(SESSIONS[231], last=True), ledger()) == [("d", ExitReason.TIME)]
    assert nothing.exits(scan(SESSIONS[232]), ledger()) == [("d", ExitReason.TIME)]


def test_what_the_store_has_comes_before_older_bars_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = data(SESSIONS[:232], SESSIONS[231])
    made = planner(data(SESSIONS[:231], SESSIONS[230]), monkeypatch, stored=fresh)
    assert made.exits(scan(SESSIONS[232], last=True), ledger(time_stop_bars=4)) == [("d", ExitReason.TIME)]


def test_an_indicator_tells_only_from_bars_of_the_last_session_and_for_a_halted_name_from_its_own_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strong: Bar = (100.0, 120.0, 100.0, 120.0)
    held = ledger("ibs_rsi", 7)
    stale = planner(data(SESSIONS[:231], SESSIONS[230], strong), monkeypatch)
    assert stale.exits(scan(SESSIONS[232]), held) == []  # what day 1 said may have been undone on day 2
    halted = planner(data(SESSIONS[:231], SESSIONS[231], strong), monkeypatch)
    assert halted.exits(scan(SESSIONS[232]), held) == [("d", ExitReason.IBS)]
    entered_today = planner(data(SESSIONS[:229], SESSIONS[229], strong), monkeypatch)
    assert entered_today.exits(scan(SESSIONS[230]), held) == []  # its last bar is from before the entry


STRONG: Bar = (100.0, 120.0, 100.0, 120.0)


@pytest.mark.parametrize(
    "error",
    [DataError("they differ", code="VENDOR_BASIS"), DataError("it is damaged", code="QUARANTINE_DAMAGED"),
     OSError("the disk")],
)  # fmt: skip
@pytest.mark.parametrize("at_hand", [None, data(SESSIONS[:231], SESSIONS[230])], ids=["nothing", "yesterday's"])
def test_bars_that_came_and_are_not_believed_still_tell_what_leaves(
    monkeypatch: pytest.MonkeyPatch, error: Exception, at_hand: Any
) -> None:
    """Before the scan the store is of an earlier session; the scan brings it up to date, and then refuses entries."""
    made = planner(at_hand, monkeypatch)
    made._context.clock = SimpleNamespace(now=lambda: CALENDAR.opens_at(SESSIONS[232]))
    run, held = scan(SESSIONS[232]), ledger("ibs_rsi", 7)
    assert made.exits(run, held) == []

    def fetched(*_: Any) -> Any:
        monkeypatch.setattr(wiring, "stored", lambda *_: data(SESSIONS[:232], SESSIONS[231], STRONG))
        raise error

    monkeypatch.setattr(wiring, "data_from_store", fetched)
    plan = made.plan(run, held)
    assert plan.problem == (error.code if isinstance(error, KobeError) else "SCAN_FAILED") and plan.entries == ()
    assert plan.exits == [("d", ExitReason.IBS)]


@pytest.mark.parametrize("at", ["think", "tell"])
def test_a_mistake_in_what_reviews_the_signals_enters_nothing_and_lets_leave_what_is_due(
    monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def bug(*_: Any) -> None:
        raise ZeroDivisionError("a bug")

    bars = SimpleNamespace(**vars(data(SESSIONS[:232], SESSIONS[231], STRONG)), simulated=False)
    made = planner(bars, monkeypatch)
    made._context.clock = SimpleNamespace(now=lambda: CALENDAR.opens_at(SESSIONS[232]))
    thought = SimpleNamespace(scorer=None, reviewer=None)
    made._mind = SimpleNamespace(**{"think": lambda *_: thought, "tell": bug, at: bug})  # type: ignore[assignment]
    monkeypatch.setattr(trading.scanning, "run", lambda *_, **__: None)
    monkeypatch.setattr(made, "_fetch", lambda session: bars)
    monkeypatch.setattr(made, "_held_usd", lambda *_: {})
    monkeypatch.setattr(wiring, "refuse_simulated_data", lambda *_, **__: None)
    held = SimpleNamespace(**vars(ledger("ibs_rsi", 7)), trades={})
    plan = made.plan(scan(SESSIONS[232]), held)
    assert (plan.problem, plan.entries) == ("MIND_FAILED", ())
    assert plan.exits == [("d", ExitReason.IBS)]


@pytest.mark.parametrize("trouble", [DataError("no bars"), OSError("the disk"), None])
def test_when_the_bars_of_the_last_session_are_not_there_only_the_time_stop_leaves(
    monkeypatch: pytest.MonkeyPatch, trouble: Exception | None
) -> None:
    made = planner(data(SESSIONS[:231], SESSIONS[230], STRONG), monkeypatch)
    made._context.clock = SimpleNamespace(now=lambda: CALENDAR.opens_at(SESSIONS[232]))

    def nothing(*_: Any) -> None:
        if trouble is not None:
            raise trouble

    def fetched(*_: Any) -> Any:
        raise DataError("no answer")

    monkeypatch.setattr(wiring, "stored", nothing)
    monkeypatch.setattr(wiring, "data_from_store", fetched)
    assert made.exits(scan(SESSIONS[232]), ledger("ibs_rsi", 7)) == []
    assert made.plan(scan(SESSIONS[232]), ledger("ibs_rsi", 7)).exits == []
    assert made.plan(scan(SESSIONS[232], last=True), ledger("ibs_rsi", 3)).exits == [("d", ExitReason.TIME)]


def test_a_damaged_state_is_no_reason_for_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    made = planner(None, monkeypatch)
    made._context.clock = SimpleNamespace(now=lambda: CALENDAR.opens_at(SESSIONS[232]))

    def fetched(*_: Any) -> Any:
        raise StateCorrupt("the journal")

    monkeypatch.setattr(wiring, "data_from_store", fetched)
    with pytest.raises(StateCorrupt):
        made.plan(scan(SESSIONS[232]), ledger())
