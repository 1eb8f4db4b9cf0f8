"""P04, P09: the power goes at any moment of a trading day; what was not flushed is lost, half written, or there.

A whole day of the production order path is played once while every change of the state folder is watched. For each
moment there are four folders that could be found afterwards (tests/fakes/power_cut.py), and the venue as it was then.
From each the ordinary start must come up with journal and venue in step, and nothing doubled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core import logs
from core.clock import SteppedClock, SystemClock
from core.journal import Journal, verify
from core.paths import Home
from execution.drill.kill import SEED, STORIES, Days, act, examined, restart_in, seed_of, sessions_of
from execution.drill.outcome import VenueTruth
from execution.drill.plan import DayPlan, bars_for
from execution.drill.ports import Place
from execution.drill.world import limited, market_of
from execution.venue.host import VenueHost
from scripts.drilling import DrillPorts
from tests.fakes.power_cut import Disk, Picture, restore

RESTARTS = 45  # of all the folders found; the journal alone is opened in every one


@dataclass
class Venue:
    """The venue's account, and copies of it as it was."""

    store: Any
    copies: list[bytes] = field(default_factory=list)
    _seen: int = -1

    def now(self) -> int:
        """The number of the copy that is the venue as it is now."""
        changes = self.store._db.total_changes
        if changes != self._seen:
            self._seen = changes
            self.copies.append(self.store._db.serialize())
        return len(self.copies) - 1


@dataclass
class Watched(Disk):
    """A Disk that remembers the venue and the time with each moment."""

    venue: Any = None
    clock: Any = None
    beside: list[tuple[int, datetime]] = field(default_factory=list)

    def _remember(self, call: str) -> None:
        super()._remember(call)
        self.beside.append((self.venue.now(), self.clock.now()))


@dataclass(frozen=True)
class Found:
    """A folder that a power cut can leave, and the venue and the time it meets."""

    when: str
    picture: Picture
    venue: int
    at: datetime


@dataclass
class Day:
    found: list[Found]
    copies: list[bytes]


def open_venue(host: VenueHost, ports: DrillPorts, clock: SteppedClock) -> Any:
    sessions, _ = sessions_of(ports)
    market = market_of(bars_for(SEED, len(sessions)), sessions, DayPlan(seed=SEED), sessions[-1])
    return host.open(market, clock, Path(":memory:"), calendar=ports.calendar)


def settings_of(ports: DrillPorts) -> Any:
    return limited(ports.settings, DayPlan(seed=SEED))


def played(root: Path, host: VenueHost, ports: DrillPorts, phases: Sequence[str]) -> Day:
    _, session = sessions_of(ports)
    clock: Any = SteppedClock(ports.calendar.opens_at(session) - timedelta(minutes=30))
    store = open_venue(host, ports, clock)
    place = Place(root, host.base_url, clock, settings_of(ports))
    place.home.state.mkdir()
    disk = Watched(place.home.state, venue=Venue(store), clock=clock)
    life = None
    with logs.aside(Home(root), clock, run_id="drill", mode="paper"), disk.watching():
        for phase in phases:
            life = act(phase, life, place, ports, seed_of(SEED, ports), Days(clock, session))
    store.close()
    return Day(list(_distinct(disk)), disk.venue.copies)


@pytest.fixture(scope="module")
def day(host: VenueHost, ports: DrillPorts, tmp_path_factory: pytest.TempPathFactory) -> Day:
    return played(tmp_path_factory.mktemp("power"), host, ports, STORIES["trade"])


def _distinct(disk: Watched) -> Iterator[Found]:
    seen = set()
    for (when, ways), (venue, at) in zip(disk.moments, disk.beside, strict=True):
        for way, picture in ways.items():
            key = (tuple(sorted((name, hash(content)) for name, content in picture.items())), venue)
            if key not in seen:
                seen.add(key)
                yield Found(f"{way} {when}", picture, venue, at)


def test_P09_in_every_folder_the_journal_opens_and_goes_on(day: Day, tmp_path: Path) -> None:
    assert len(day.found) > 150
    for number, found in enumerate(day.found):
        home = Home(tmp_path / str(number))
        restore(found.picture, home.state)
        home.state.mkdir(parents=True, exist_ok=True)
        journal = Journal(home.journal, SystemClock())
        journal.repair()
        journal.append("after_the_cut", {})
        assert verify(home.journal).ok, found.when


def ghosts(day: Day, host: VenueHost, ports: DrillPorts) -> list[str]:
    """Folders whose journal does not know an order that the venue has."""
    orders = []
    for copy in day.copies:
        store = open_venue(host, ports, SteppedClock(day.found[0].at))
        store._db.deserialize(copy)
        orders.append([order.client_order_id for order in VenueTruth.of(store).orders])
        store.close()
    assert max(map(len, orders)) >= 4
    return [
        found.when for found in day.found for cid in orders[found.venue]
        if f'"client_order_id":"{cid}"'.encode() not in found.picture.get("hash_chain.jsonl", b"")
    ]  # fmt: skip


def test_P04_an_order_at_the_venue_is_in_the_journal_of_every_folder(
    day: Day, host: VenueHost, ports: DrillPorts
) -> None:
    """The flush before the first byte: whatever the power takes, no order is a ghost."""
    assert ghosts(day, host, ports) == []


def test_a_disk_that_keeps_nothing_it_was_told_to_flush_would_be_seen(
    host: VenueHost, ports: DrillPorts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Disk, "_flushed", lambda self, handle: None)
    assert ghosts(played(tmp_path, host, ports, ("start", "buy")), host, ports) != []


def test_P04_from_any_folder_the_ordinary_start_brings_journal_and_venue_in_step(
    day: Day, host: VenueHost, ports: DrillPorts, tmp_path: Path
) -> None:
    step = len(day.found) / RESTARTS
    chosen = [day.found[int(i * step)] for i in range(RESTARTS)]
    assert {found.when.split(" ")[0] for found in chosen} >= {"killed", "torn", "renamed"}  # a cut: the one before
    bad = {}
    for number, found in enumerate(chosen):
        violations = _restarted(found, day.copies[found.venue], host, ports, tmp_path / str(number))
        if violations:
            bad[found.when] = violations
    assert bad == {}


def _restarted(found: Found, copy: bytes, host: VenueHost, ports: DrillPorts, root: Path) -> list[str]:
    home = Home(root)
    restore(found.picture, home.state)
    home.state.mkdir(parents=True, exist_ok=True)
    clock: Any = SteppedClock(found.at)
    store = open_venue(host, ports, clock)
    store._db.deserialize(copy)
    place = Place(root, host.base_url, clock, settings_of(ports))
    with logs.aside(home, clock, run_id="drill", mode="paper"):
        said = restart_in(place, ports, seed_of(SEED, ports))
    violations = examined(home, ports, VenueTruth.of(store), (), json.loads(json.dumps(said)))
    store.close()
    return violations
