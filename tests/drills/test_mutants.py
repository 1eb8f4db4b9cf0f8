"""The drills themselves, tested: each mistake of mutants.py is found within 50 seeds, and ours is clean on the same."""

from __future__ import annotations

import pytest

from execution.drill.plan import DayPlan, plan_for
from execution.drill.run import Drill, Result
from execution.venue.host import VenueHost
from scripts.drilling import DrillPorts
from tests.drills.mutants import MUTANTS, Mutant, no_door

SEEDS = range(50)
NAMED = ("journal after submit", "retry on time-out with a new id", "budget check outside the lock",
         "kill switch asked early")  # fmt: skip


def first_found(mutant: Mutant, host: VenueHost, ports: DrillPorts) -> Result | None:
    """The first seed on which one of the mutant's invariants is violated; days that cannot show it are left out."""
    drill = Drill(host, ports, make_desk=mutant.desk)
    for seed in SEEDS:
        plan = plan_for(seed)
        if not _may_show(plan, mutant.shown_by):
            continue
        result = drill.run(plan)
        if {violation.split(":")[0] for violation in result.violations} & mutant.found_by:
            return result
    return None


def _may_show(plan: DayPlan, words: tuple[str, ...]) -> bool:
    text = "\n".join(plan.describe())
    return not words or any(word in text for word in words)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_order_path_is_found(
    mutant: Mutant, host: VenueHost, ports: DrillPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant.patch(monkeypatch)
    found = first_found(mutant, host, ports)
    monkeypatch.undo()
    assert found is not None, f"{mutant.name} was not found within {len(SEEDS)} seeds"
    assert Drill(host, ports).run(found.plan).violations == (), "the desk as it is must pass the same day"


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.name in NAMED], ids=lambda mutant: mutant.name)
def test_it_is_found_without_the_last_door_too(
    mutant: Mutant, host: VenueHost, ports: DrillPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The invariants see it by themselves, not only because the runaway bound refuses."""
    mutant.patch(monkeypatch)
    no_door(monkeypatch)
    assert first_found(mutant, host, ports) is not None


def test_every_mistake_of_the_issue_has_its_mutant() -> None:
    assert set(NAMED) <= {mutant.name for mutant in MUTANTS}
    assert len(MUTANTS) >= len(NAMED) + 4
