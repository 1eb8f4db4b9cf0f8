"""P19: the real process killed with SIGKILL, at points spread over everything it does; then the ordinary start."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.market_calendar import market_calendar
from execution.drill.children import Children
from execution.drill.kill import STORIES, Hunt
from execution.drill.run import hosted
from execution.drill.world import quick_folder
from scripts.drilling import DrillPorts

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "drill_child.py"
POINTS = 10 if sys.platform == "win32" else 40  # a Python of its own for each life there; all 200 by command, in CI


@pytest.fixture(scope="module")
def hunt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hunt]:
    with warnings.catch_warnings():  # pandas warns inside exchange_calendars while the facts are copied
        warnings.simplefilter("ignore")
        ports = DrillPorts(calendar=market_calendar(tmp_path_factory.mktemp("calendar")))
    with Children(SCRIPT) as children, hosted() as host:
        yield Hunt(host, ports, children, quick_folder())


def test_P19_there_are_hundreds_of_points_in_everything_it_does(hunt: Hunt) -> None:
    points = hunt.points(10_000)
    assert len(points) >= 1_000
    labels = {(story, label) for story, _, label in points}
    assert len(labels) > 150  # kinds of points; each comes many times
    phases = {label.split(" ", 1)[0] for _, label in labels}
    assert phases >= {phase for story in STORIES.values() for phase in story}
    for what in ("inside write hash_chain.jsonl", "before send", "after send", "after rename weekly_budget.json",
                 "before fsync hash_chain.jsonl"):  # fmt: skip
        assert any(what in label for _, label in labels), what


def test_P19_killed_anywhere_it_recovers_with_nothing_lost_and_nothing_doubled(hunt: Hunt) -> None:
    points = hunt.points(POINTS)
    assert len(points) == POINTS and {story for story, _, _ in points} == set(STORIES)
    bad = [killed for killed in (hunt.kill(*point) for point in points) if killed.violations]
    assert bad == []


def test_a_child_that_fails_is_told_with_its_reason(hunt: Hunt) -> None:
    killed = hunt.kill("trade", 10**9, "never reached")
    assert killed.violations == ("NOT_KILLED: 0",)
