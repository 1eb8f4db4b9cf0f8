"""Run seeds, find the shortest story of a violation. One listening server serves all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from execution.desk import Desk
from execution.drill.invariants import violations
from execution.drill.plan import FAMILIES, DayPlan, plan_for
from execution.drill.ports import Ports
from execution.drill.world import MakeDesk, World

if TYPE_CHECKING:
    from execution.venue.host import VenueHost

ALL = frozenset(FAMILIES)
SHORTENING_RUNS = 60  # days played again at most, to find the shortest story


@dataclass(frozen=True, slots=True)
class Result:
    """One seed: what was violated (nothing, when clean), after how many effects, and the story."""

    plan: DayPlan
    violations: tuple[str, ...]
    effects: int
    story: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not self.violations


class Drill:
    """Runs plans against one host. `make_desk` puts another desk in place of ours, to test the drills themselves."""

    def __init__(self, host: VenueHost, ports: Ports, make_desk: MakeDesk = Desk) -> None:
        self._host, self._ports, self._make_desk = host, ports, make_desk

    def run(self, plan: DayPlan) -> Result:
        """A mistake of ours (anything but the expected errors) is a violation as well: nothing may end a day."""
        world = World(plan, self._host, self._ports, make_desk=self._make_desk)
        try:
            found = violations(world.run())
        except Exception as error:  # noqa: BLE001 - the drill's own boundary: a crash of ours is a finding
            found = [f"BUG: {error!r}"]
        found += [f"VENUE: {trace.strip().splitlines()[-1]}" for trace in self._host.failures[:1]]
        return Result(plan, tuple(found), world.effects.count, tuple(world.effects.story))

    def seeds(self, seeds: Iterable[int], families: frozenset[str] = ALL) -> Iterator[Result]:
        for seed in seeds:
            yield self.run(plan_for(seed, families))

    def shortest(self, result: Result) -> Result:
        """Leave out one misfortune after another as long as the same invariant is still violated."""
        name, runs = result.violations[0].split(":")[0], 0
        shorter = True
        while shorter and runs < SHORTENING_RUNS:
            shorter = False
            for fewer in result.plan.parts():
                found = self.run(fewer)
                runs += 1
                if any(v.startswith(name) for v in found.violations):
                    result, shorter = found, True
                    break
        return result


@contextmanager
def hosted() -> Iterator[VenueHost]:
    from execution.venue.host import VenueHost

    host = VenueHost()
    host.start()
    try:
        yield host
    finally:
        host.stop()
