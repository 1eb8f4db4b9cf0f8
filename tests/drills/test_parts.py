"""The parts that the drills stand on: effects and their order, the shared clock, children, and each invariant."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.clock import SteppedClock
from core.domain import Symbol
from core.journal import Journal
from execution.drill.children import Children
from execution.drill.effects import Crash, Effects, Gone, Watched, watched_lock
from execution.drill.invariants import INVARIANTS, violations
from execution.drill.outcome import Bare, Outcome, Post, chain_trouble
from execution.drill.plan import At, DayPlan
from execution.drill.run import Drill, Result
from execution.drill.shared_clock import SharedClock
from execution.drill.world import World
from execution.venue.host import VenueHost
from scripts.drilling import DrillPorts

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "drill_child.py"
NOON = datetime(2024, 3, 4, 17, tzinfo=UTC)


# ---------------------------------------------------------------- effects
def test_an_act_happens_at_the_nth_effect_of_its_point() -> None:
    seen: list[str] = []
    acts = {At("submit", 2): lambda: seen.append("second submit"), At("effect", 1): lambda: seen.append("1")}
    effects = Effects(acts)
    for what in ("before broker.submit a", "before broker.find a", "before broker.submit b", "before broker.submit c"):
        effects.happen(what)
    assert seen == ["1", "second submit"] and effects.count == 4


def test_another_script_waits_for_the_lock_and_a_trip_does_not(tmp_path: Path) -> None:
    seen: list[str] = []
    effects = Effects({At("effect", 2): lambda: seen.append("trip")}, {At("effect", 2): lambda: seen.append("script")})
    with watched_lock(effects)(tmp_path / "desk"):
        effects.happen("before journal.append order_intended")
        assert seen == ["trip"]
    assert seen == ["trip", "script"]


def test_a_process_that_died_does_nothing_more_on_any_thread() -> None:
    effects = Effects()
    effects.acts = {At("effect", 1): lambda: setattr(effects, "dead", True)}
    seen: list[BaseException] = []

    def helper() -> None:
        try:
            effects.happen("look at the kill switch")
        except Gone as error:
            seen.append(error)

    thread = threading.Thread(target=helper)
    thread.start()
    thread.join()
    assert len(seen) == 1  # the helper's request fails, as if its socket had gone
    with pytest.raises(Crash):
        effects.raise_if_dead()
    with pytest.raises(Crash):
        Watched(["x"], effects, frozenset({"append"}), "journal").append("y")


# ---------------------------------------------------------------- the shared clock
def test_two_processes_see_one_clock(tmp_path: Path) -> None:
    first = SharedClock(tmp_path / "clock", NOON)
    second = SharedClock(tmp_path / "clock")
    first.sleep(0.25)
    assert second.now() == NOON + timedelta(milliseconds=250) and second.monotonic() == 0.25
    second.set(NOON + timedelta(hours=1))
    second.set(NOON)  # never back
    first.sleep(-1.0)
    assert first.now() == NOON + timedelta(hours=1) and first.monotonic() == 3600.0
    first.close()
    second.close()


# ---------------------------------------------------------------- children
def test_a_child_that_fails_leaves_its_traceback(tmp_path: Path) -> None:
    with Children(SCRIPT) as children:
        assert children.run({"do": "nothing of the kind", "root": str(tmp_path)}) == 1
    assert "KeyError" in (tmp_path / "child-failed.txt").read_text(encoding="utf-8")


# ---------------------------------------------------------------- invariants
@pytest.fixture(scope="module")
def calm(host: VenueHost, ports: DrillPorts) -> Outcome:
    """A day without any misfortune."""
    outcome = World(DayPlan(seed=10), host, ports).run()
    assert violations(outcome) == [] and len(outcome.venue.fills) >= 4 and outcome.ledger.open_trades()
    return outcome


def _orders(outcome: Outcome, **changes: Any) -> Outcome:
    first, *rest = outcome.venue.orders
    return replace(outcome, venue=replace(outcome.venue, orders=[replace(first, **changes), *rest]))


def _twice(outcome: Outcome) -> Outcome:
    return replace(outcome, venue=replace(outcome.venue, orders=[*outcome.venue.orders, outcome.venue.orders[0]]))


def _without_first_record(outcome: Outcome, kind: str, **changes: Any) -> Outcome:
    records = [dict(r, body={**r["body"], **changes}) if r["kind"] == kind else r for r in outcome.records]
    return replace(outcome, records=records)


def _unsettled(outcome: Outcome) -> Outcome:
    cid, order = next(iter(outcome.ledger.orders.items()))
    unknown: Any = {**outcome.ledger.orders, cid: replace(order, end=None, unknown="UNKNOWN_STATUS")}
    ledger: Any = type("Ledger", (), {"orders": unknown, "unsettled": lambda self: [unknown[cid]]})()
    return replace(outcome, ledger=_Like(outcome.ledger, ledger))


class _Like:
    """A ledger with some answers of another."""

    def __init__(self, inner: Any, first: Any) -> None:
        self._inner, self._first = inner, first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._first, name, None) or getattr(self._inner, name)


def _end(outcome: Outcome, end: str) -> Outcome:
    cid = outcome.venue.orders[0].client_order_id
    orders: Any = {**outcome.ledger.orders, cid: replace(outcome.ledger.orders[cid], end=end)}
    return replace(outcome, ledger=_Like(outcome.ledger, type("L", (), {"orders": orders})()))


def _sold_first(outcome: Outcome) -> Outcome:
    activities = sorted(outcome.venue.activities, key=lambda a: a.side, reverse=True)
    return replace(outcome, venue=replace(outcome.venue, activities=activities))


def _limits(outcome: Outcome, **changes: Any) -> Outcome:
    return replace(outcome, limits=replace(outcome.limits, **changes))


FILLED: dict[str, Callable[[Outcome], Outcome]] = {
    "DOUBLED_ID": _twice,
    "DOUBLED_ENTRY": lambda o: _orders(o, filled_qty=Decimal(99)),
    "INTENT_FIRST": lambda o: replace(o, posts=[Post("kobe-x", False, False)]),
    "NO_INTENT": lambda o: _orders(o, client_order_id="kobe-20240301-ghost-AAA-buy-entry-1"),
    "LOST_ORDER": lambda o: _end(o, "not_sent"),
    "UNSETTLED": _unsettled,
    "LOCKED": lambda o: replace(o, locks={Symbol("AAA"): "UNKNOWN_STATUS"}),
    "POSITIONS": lambda o: replace(o, venue=replace(o.venue, positions={Symbol("AAA"): 7})),
    "TRADES": lambda o: replace(o, venue=replace(o.venue, positions={})),
    "BUDGET": lambda o: _limits(o, daily_budget_usd=Decimal("0.01")),
    "RESERVED": lambda o: _limits(o, daily_budget_usd=Decimal("0.01")),
    "HELD": lambda o: _limits(o, position_limit=0),
    "AFTER_TRIP": lambda o: replace(o, posts=[Post("kobe-x-AAA-buy-entry-1", True, True)]),
    "CHAIN": lambda o: replace(o, chain="record 6 does not follow record 4"),
    "IN_STEP": lambda o: replace(o, breaks=[type("B", (), {"kind": "K", "symbol": "S", "ours": "1", "theirs": "2"})()]),
    "DOCUMENTS": lambda o: replace(o, damaged=["positions.json is damaged"]),
    "UNPROTECTED": lambda o: replace(o, bare=[Bare("09:35", "d", Symbol("AAA"))]),
    "TOLD": lambda o: replace(o, runs=["2024-03-04T09:36"]),
    "BUG": lambda o: replace(o, errors=[{"event": "x", "code": "RUNAWAY_TWICE", "observed": "kobe-x"}]),
}


def test_every_invariant_has_its_counter_example() -> None:
    assert set(FILLED) == set(INVARIANTS)


@pytest.mark.parametrize("name", INVARIANTS)
def test_an_invariant_that_is_broken_says_so(name: str, calm: Outcome) -> None:
    assert name in {violation.split(":")[0] for violation in violations(FILLED[name](calm))}


def test_a_chain_is_looked_at_while_it_is_there(tmp_path: Path) -> None:
    assert chain_trouble(tmp_path / "gone.jsonl") == "the journal is empty"
    journal = Journal(tmp_path / "hash_chain.jsonl", SteppedClock(NOON))
    for number in range(3):
        journal.append("something", {"number": number})
    assert chain_trouble(journal.path) == ""
    lines = journal.path.read_text("utf-8").splitlines(keepends=True)
    journal.path.write_text("".join([lines[0], lines[2]]), encoding="utf-8")
    assert "missing" in chain_trouble(journal.path)


def test_a_share_that_is_sold_before_it_is_bought_is_seen(calm: Outcome) -> None:
    assert any("HELD: short" in violation for violation in violations(_sold_first(calm)))


def test_two_scans_without_a_stop_are_one_too_many_even_when_told(calm: Outcome) -> None:
    told = [*calm.records, {"seq": 999, "kind": "break_found", "body": {"symbol": "AAA"}}]
    once = replace(calm, records=told, bare=[Bare("09:35", "d", Symbol("AAA"))])
    assert violations(once) == []
    twice = replace(once, bare=[*once.bare, Bare("10:30", "d", Symbol("AAA"))])
    assert violations(twice) == ["UNPROTECTED: d has no stop after 09:35 and 10:30"]


def test_a_day_that_ends_in_a_mistake_of_ours_is_a_violation(
    host: VenueHost, ports: DrillPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any) -> None:
        raise ValueError("a mistake")

    monkeypatch.setattr("execution.session.TradingSession.recover", broken)
    result: Result = Drill(host, ports).run(DayPlan(seed=1))
    assert result.violations == ("BUG: ValueError('a mistake')",) and not result.clean
