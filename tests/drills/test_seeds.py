"""Seeded days: clean, the same on every run, and reduced to their shortest story when they are not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from execution.drill.invariants import INVARIANTS
from execution.drill.many import run_seeds
from execution.drill.plan import FAMILIES, POINTS, At, DayPlan, plan_for
from execution.drill.run import ALL, Drill
from execution.venue.faults import Fault
from execution.venue.host import VenueHost
from scripts import drill as script
from scripts.drilling import DrillPorts
from tests.drills.mutants import MUTANTS


def test_the_first_seeds_are_clean(host: VenueHost, ports: DrillPorts) -> None:
    bad = {result.plan.seed: result.violations for result in Drill(host, ports).seeds(range(10)) if not result.clean}
    assert bad == {}


@pytest.mark.parametrize("seed", [3, 11])
def test_the_same_seed_tells_the_same_story_to_the_byte(host: VenueHost, ports: DrillPorts, seed: int) -> None:
    first, again = (Drill(host, ports).run(plan_for(seed)) for _ in range(2))
    assert "\n".join(first.story).encode() == "\n".join(again.story).encode()
    assert first == again
    assert first.effects > 100


def test_two_processes_tell_what_one_tells(ports: DrillPorts, host: VenueHost) -> None:
    alone = list(Drill(host, ports).seeds(range(3)))
    assert list(run_seeds(DrillPorts, range(3), ALL, workers=2, tell=True)) == alone


def test_leaving_a_family_out_changes_nothing_of_the_others() -> None:
    for seed in range(40):
        whole = plan_for(seed)
        without = plan_for(seed, ALL - {"crash", "trip"})
        assert without == replace(whole, crash_at=(), trip_at=())
        assert plan_for(seed, frozenset()).misfortunes == 0


def test_every_family_and_point_is_drawn_by_the_first_thousand_seeds() -> None:
    """What no seed draws is not drilled."""
    drawn = [plan_for(seed) for seed in range(1000)]
    points = {at.point for plan in drawn for at in (*plan.crash_at, *plan.trip_at, *(at for at, _ in plan.second_at))}
    assert points == set(POINTS)
    for family in FAMILIES:
        assert any(plan_for(seed, frozenset({family})).misfortunes or plan_for(seed, frozenset({family})).split
                   for seed in range(100)), family  # fmt: skip


def test_a_violation_is_reduced_to_what_it_needs(
    host: VenueHost, ports: DrillPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    next(m for m in MUTANTS if m.name == "kill switch asked early").patch(monkeypatch)
    trip = At("intended", 1)
    plan = DayPlan(seed=1, trip_at=(trip,), faults=(Fault("GET /v2/clock", 1, "status:500"),),
                   second_at=((At("effect", 30), "reconcile"),), operator=(("10:30", "reconcile"),))  # fmt: skip
    drill = Drill(host, ports)
    shortest = drill.shortest(drill.run(plan))
    assert shortest.plan == DayPlan(seed=1, trip_at=(trip,))
    assert {v.split(":")[0] for v in shortest.violations} == {"AFTER_TRIP"}
    assert drill.run(shortest.plan) == shortest


def test_each_invariant_says_what_it_demands() -> None:
    for name, check in INVARIANTS.items():
        assert name.isupper() and check.__doc__, name


# ---------------------------------------------------------------- the command
def test_the_command_reports_in_words_and_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--seeds", "0:3", "--workers", "1"]) == 0
    assert capsys.readouterr().out.startswith("SIMULATED  days 3  effects ")
    assert script.main(["--seeds", "7", "--workers", "1", "--json", "--faults", "post,crash"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["seeds"] == 1 and told["violations"] == [] and told["effects"] > 100


def test_a_violation_prints_its_seed_and_its_shortest_story(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    next(m for m in MUTANTS if m.name == "kill switch asked early").patch(monkeypatch)
    assert script.main(["--seeds", "2", "--workers", "1", "--faults", "trip"]) == 1
    told = capsys.readouterr().out
    assert "VIOLATION\nAFTER_TRIP: " in told and "KILL SWITCH appears" in told
    assert "again: python scripts/drill.py --seeds 2 --story" in told and "days with a violation 1" in told


@pytest.mark.parametrize(
    "argv", [["--seeds", "x"], ["--seeds", "5:5"], ["--faults", "post,weather"], ["--workers", "0"]]
)
def test_a_wrong_command_line_is_refused_in_words(argv: list[str]) -> None:
    from core.errors import UsageError

    with pytest.raises(UsageError):
        script.main(argv)
