"""A runner's world on a stepped clock: a session that fails as told, a disk, and runners that come and go on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from core.clock import SteppedClock
from core.domain import BrokerClock
from core.journal import Journal
from core.market_calendar import NEW_YORK
from execution.runner import CATCH_UP_S, Runner
from execution.schedule import Schedule
from execution.scheduler import DueRun
from execution.session import RunReport
from tests.fakes.scans import calendar_2024

TUESDAY = date(2024, 3, 5)
TIMES = ("09:35", "10:30", "15:55")


def ny(wall: str, day: date = TUESDAY) -> datetime:
    hour, minute, *rest = map(int, wall.split(":"))
    return datetime(day.year, day.month, day.day, hour, minute, *rest, tzinfo=NEW_YORK).astimezone(UTC)


@dataclass
class FakeSession:
    """Writes `scan_run` like the real one, and fails as told: the next error of `errors`, or `always`."""

    clock: SteppedClock
    journal: Journal
    did: list[tuple[str, str]] = field(default_factory=list)  # New York wall time, what
    errors: list[BaseException | None] = field(default_factory=list)
    always: BaseException | None = None
    look_error: BaseException | None = None
    something_out: bool = False
    hours: BrokerClock | None = None
    agrees: bool | None = True
    asked: int = 0
    takes: timedelta = timedelta(0)
    during: Callable[[], None] = lambda: None

    @property
    def has_something_out(self) -> bool:
        return self.something_out

    def clock_agrees(self) -> bool | None:
        self.asked += 1
        return self.agrees

    def _do(self, what: str) -> None:
        self.did.append((f"{self.clock.now().astimezone(NEW_YORK):%H:%M:%S}", what))

    def run(self, run: DueRun) -> RunReport:
        self._do(run.id)
        self.clock.advance(self.takes)
        self.during()
        error = self.errors.pop(0) if self.errors else self.always
        if error is not None:
            raise error
        return self._record(run)

    def _record(self, run: DueRun) -> RunReport:
        self.journal.append("scan_run", {"run": run.id, "code": "OK"})
        return RunReport(run)

    def close_out(self, session: date) -> RunReport:
        self._do("close")
        if self.always is not None:
            raise self.always
        return self._record(DueRun(session, "close", self.clock.now(), first=False, last=False))

    def look_after(self, session: date) -> RunReport:
        self._do("look")
        if self.look_error is not None:
            raise self.look_error
        return RunReport(DueRun(session, "look_after", self.clock.now(), first=False, last=False))

    @property
    def scans(self) -> list[str]:
        return [what for _, what in self.did if "T" in what]


class Stop(threading.Event):
    """`wait` moves the clock instead of waiting, and sets itself at an instant."""

    def __init__(self, clock: SteppedClock, until: datetime, step_s: float) -> None:
        super().__init__()
        self._clock, self._until, self._step_s = clock, until, step_s

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.advance(timedelta(seconds=self._step_s))
        if self._clock.now() >= self._until:
            self.set()
        return self.is_set()


@dataclass
class Host:
    """A machine with a disk: runners come and go on it."""

    root: Path
    clock: SteppedClock
    journal: Journal
    session: FakeSession
    times: Sequence[str] = TIMES
    rule: str = "close_minus_5"
    before_open_s: float = 0.0
    catch_up_s: float = CATCH_UP_S
    told: list[str] = field(default_factory=list)
    beats: list[tuple[str, str]] = field(default_factory=list)

    def runner(self, stop: threading.Event | None = None) -> Runner:
        return Runner(
            self.session,  # type: ignore[arg-type]
            Schedule(calendar_2024(), self.times, self.rule, Journal(self.root / "chain.jsonl", self.clock)),
            self.clock, heartbeat_s=30.0, look_after_s=60.0, before_open_s=self.before_open_s,
            catch_up_s=self.catch_up_s,
            beat=lambda what: self.beats.append((f"{self.clock.now():%H:%M:%S}", what)),
            tell=lambda report: self.told.append(report.run.id), stop=stop or threading.Event(),
        )  # fmt: skip

    def run_until(self, until: datetime, *, step_s: float = 5.0) -> int:
        """A new process that runs until an instant."""
        return self.runner(Stop(self.clock, until, step_s)).forever()

    def missed(self) -> dict[str, str]:
        rows = [(r.body["run"], r.body["code"]) for r in self.journal.kinds("run_missed")]
        assert len(dict(rows)) == len(rows), "a scan was told as missed twice"
        return dict(rows)

    def scan_runs(self) -> list[str]:
        return [r.body["run"] for r in self.journal.kinds("scan_run")]


def host(root: Path, start_at: datetime, **changes: Any) -> Host:
    clock = SteppedClock(start_at)
    journal = Journal(root / "chain.jsonl", clock)
    return Host(root, clock, journal, FakeSession(clock, journal), **changes)
