"""Run seeds, find the shortest story of a violation. One listening server serves all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.market_calendar import MarketCalendar
from execution.desk import Desk
from execution.drill.invariants import violations
from execution.drill.plan import FAULT_FAMILIES, DayPlan, plan_for
from execution.drill.world import World

if TYPE_CHECKING:
    from config.settings_schema import Settings
    from execution.venue.server import VenueHost

ALL = frozenset(FAULT_FAMILIES)


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

    def __init__(
        self,
        host: VenueHost,
        calendar: MarketCalendar,
        settings: Settings,
        make_desk: Callable[..., Desk] = Desk,
    ) -> None:
        self._host, self._calendar, self._settings, self._make_desk = host, calendar, settings, make_desk

    def run(self, plan: DayPlan) -> Result:
        """A mistake of ours (anything but the expected errors) is a violation as well: nothing may end a day."""
        world = World(plan, self._host, self._calendar, self._settings, self._make_desk)
        try:
            outcome = world.run()
        except Exception as error:  # noqa: BLE001 - the drill's own boundary: a crash of ours is a finding
            return Result(plan, (f"BUG: {error!r}",), world.effects.count, tuple(world.effects.story))
        return Result(plan, tuple(violations(outcome)), outcome.effects, tuple(outcome.story))

    def seeds(self, seeds: Iterable[int], families: frozenset[str] = ALL) -> Iterator[Result]:
        for seed in seeds:
            yield self.run(plan_for(seed, families))

    def shortest(self, result: Result) -> Result:
        """Leave out one misfortune after another as long as something is still violated."""
        while True:
            for fewer in result.plan.parts():
                found = self.run(fewer)
                if not found.clean:
                    result = found
                    break
            else:
                return result


@contextmanager
def hosted() -> Iterator[VenueHost]:
    from execution.venue.server import VenueHost

    host = VenueHost()
    host.start()
    try:
        yield host
    finally:
        host.stop()
