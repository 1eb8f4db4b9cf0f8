"""Reviews and breakers as the page, the alerts and /ready see them: from the journal, by the session of the clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from execution.observe.alerts import RULES, Beside, State, evaluate
from execution.observe.facts import Facts
from execution.observe.metrics import as_json
from execution.observe.page import render
from execution.observe.screen import screen
from tests.fakes.observed import Observed, at_ten


def trip(
    made: Observed, name: str = "loss_streak", scope: str = "all", what: str = "", until: str | None = None
) -> None:
    made.journal.append("breaker_tripped", {
        "breaker": name, "scope": scope, "what": what, "code": f"BREAKER_{name.upper()}", "reason": "5 losses in a row",
        "numbers": {}, "session": "2024-03-05", "until": until, "by": "rule",
    })  # fmt: skip


def review(made: Observed, *rows: tuple[str, str, float | None]) -> None:
    signals = [{"decision_id": d, "review": {"scale": scale, "codes": [], "confidence": c}} for d, scale, c in rows]
    made.journal.append("signals_reviewed", {"run": "r", "session": "2024-03-04", "regime": {}, "signals": signals})


def codes(made: Observed) -> tuple[list[str], list[str]]:
    ready = made.ready()
    return [r.code for r in ready.stops], [r.code for r in ready.warnings]


def test_each_decision_of_the_day_counts_once_as_last_reviewed(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    review(made, ("a", "1", 0.6), ("b", "0", 0.2), ("c", "0.5", None))
    review(made, ("a", "0", 0.8))
    mind = made.look().cognitive
    assert (mind.decisions_today, mind.approval_rate) == (3, pytest.approx(1 / 3))
    assert mind.avg_confidence == pytest.approx(0.5)
    made.clock.advance(timedelta(days=1))
    facts = made.look()
    assert facts.cognitive.decisions_today == 0 and facts.unknown["cognitive.approval_rate"] == "NO_REVIEWS"


def test_reviews_without_a_confidence_have_none(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    review(made, ("a", "1", None))
    facts = made.look()
    assert facts.cognitive.avg_confidence is None and facts.unknown["cognitive.avg_confidence"] == "NO_CONFIDENCE"


def test_a_tripped_breaker_says_that_entries_are_refused_and_why(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    before = codes(made)
    trip(made)
    stops, warnings = codes(made)
    assert stops == [*before[0], "BREAKER_TRIPPED"] and warnings == before[1]
    (reason,) = [r for r in made.ready().stops if r.code == "BREAKER_TRIPPED"]
    assert "entries refused: loss_streak, 5 losses in a row, until a person resumes it" in reason.words
    assert "breakers.py resume loss_streak" in reason.action
    made.journal.append("breaker_cleared", {"lock": "loss_streak", "by": "person", "reason": "x"})
    assert codes(made) == before


def test_a_lock_of_one_symbol_is_a_warning(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    before = codes(made)
    trip(made, "loss_concentration", "symbol", "KO", "2024-03-08")
    assert codes(made) == (before[0], sorted([*before[1], "BREAKER_SCOPED"]))
    (found,) = made.look().cognitive.breakers or ()
    assert (found.lock_id, found.until) == ("loss_concentration:symbol:KO", date(2024, 3, 8))


@pytest.mark.parametrize(("until", "stands"), [("2024-03-05", True), ("2024-03-04", False), (None, True)])
def test_a_dated_lock_stands_to_the_end_of_its_last_session(tmp_path: Path, until: str | None, stands: bool) -> None:
    made = at_ten(tmp_path)
    trip(made, until=until)
    assert bool(made.look().cognitive.breakers) is stands
    made.clock.advance(timedelta(days=1))
    assert bool(made.look().cognitive.breakers) is (until is None)


def _look(made: Observed) -> Facts:
    return made.look()


@pytest.mark.parametrize(
    ("scope", "name", "state"),
    [("all", "BREAKER_TRIPPED", State.CRITICAL), ("symbol", "BREAKER_SCOPED", State.WARNING)],
)
def test_a_tripped_breaker_is_an_alert(tmp_path: Path, scope: str, name: str, state: State) -> None:
    made = at_ten(tmp_path)
    beside = Beside(began_at=made.clock.now())
    settings: Any = made.observer().watched.settings
    assert evaluate(_look(made), made.ready(), settings, beside).of(name).state is State.OK
    trip(made, scope=scope, what="" if scope == "all" else "KO")
    found = evaluate(_look(made), made.ready(), settings, beside).of(name)
    assert found.state is state and "5 losses in a row" in found.words
    assert RULES[name].rests_on == "journal"


def test_the_newest_scan_that_a_breaker_kept_from_entering_is_told_once(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    trip(made)
    made.clock.advance(timedelta(minutes=31))
    made.done("2024-03-05T10:30", code="BREAKER_LOSS_STREAK")
    stops, _ = codes(made)
    assert "BREAKER_LOSS_STREAK" not in stops and stops.count("BREAKER_TRIPPED") == 1


def test_page_screen_and_metrics_name_it(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    facts, ready = made.look(), made.ready()
    assert "none tripped" in render(facts, ready, "ALERTS_ABSENT").decode()
    assert "breakers tripped none" in screen(facts, ready)
    assert as_json(facts, ready)["breakers"] == {}
    trip(made)
    facts, ready = made.look(), made.ready()
    assert "loss_streak" in render(facts, ready, "ALERTS_ABSENT").decode()
    assert "breakers tripped loss_streak" in screen(facts, ready)
    assert as_json(facts, ready)["breakers"] == {"loss_streak": "BREAKER_LOSS_STREAK"}
    assert set(as_json(facts, ready)["cognitive"]) == {"decisions_today", "approval_rate", "avg_confidence"}


def test_without_a_journal_nothing_is_known_of_them(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    facts = made.look()
    nothing = replace(facts.cognitive, decisions_today=None, approval_rate=None, breakers=None)
    page = render(replace(facts, cognitive=nothing), made.ready(), "ALERTS_ABSENT").decode()
    assert page.count("unknown (") >= 3


def test_a_record_that_cannot_be_read_makes_the_journal_unreadable(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    made.journal.append("breaker_tripped", {"breaker": "loss_streak"})
    facts = made.look()
    assert facts.journal is None and facts.cognitive.breakers is None
    assert facts.unknown["cognitive.breakers"] == facts.unknown["journal"]
