"""Years of schedule in seconds: the production runner on a machine that sleeps, dies and misreads the time.

True time is that of the broker's clock; the machine's own may be wrong for a while. Nothing of the runner's schedule is
asked here: what is due comes from a plain second reading of the rules (`expected`), and after the years every due scan
must have been made once, within ON_TIME_S of its time, or stand in the journal as missed or late, with an alert.
"""

from __future__ import annotations

import json
import random
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from core import logs
from core.domain import BrokerClock
from core.errors import BrokerDown
from core.journal import Journal, verify
from core.market_calendar import NEW_YORK, MarketCalendar
from core.paths import Home
from execution.runner import ON_TIME_S, Runner
from execution.schedule import Schedule
from execution.scheduler import DueRun
from execution.session import RunReport

SCANS = ("09:35", "10:30", "15:55")
SKEW_MAX_S = 10.0
_NEAR = timedelta(seconds=8)
_SOON = timedelta(seconds=20)
_SECOND = timedelta(seconds=1)
_PATIENCE = timedelta(seconds=60)  # for a machine that is back: to be in doubt of its clock, and to write down


# ---------------------------------------------------------------- what is due, read a second time
def expected(calendar: MarketCalendar, first: date, last: date, early: Mapping[date, time]) -> dict[str, datetime]:
    """Run id -> when it is due. A scan that an early close forestalls is due five minutes before it, the last only."""
    due: dict[str, datetime] = {}
    for session in calendar.sessions_between(first, last):
        close = calendar.closes_at(session)
        if session in early:
            close = _utc(session, early[session])
        inside = [label for label in SCANS if _utc(session, time.fromisoformat(label)) < close]
        due |= {f"{session}T{label}": _utc(session, time.fromisoformat(label)) for label in inside}
        if len(inside) < len(SCANS):
            due[f"{session}T{SCANS[-1]}"] = close - timedelta(minutes=5)
    return due


def _utc(day: date, wall: time) -> datetime:
    return datetime.combine(day, wall, tzinfo=NEW_YORK).astimezone(UTC)


# ---------------------------------------------------------------- what happens to the machine
@dataclass(frozen=True, slots=True)
class Mishap:
    """At an instant of true time: `sleep` and `off` last `lasts`; `clock` is wrong by `wrong_by` for so long."""

    at: datetime
    what: str
    lasts: timedelta = timedelta(0)
    wrong_by: timedelta = timedelta(0)


_LONGEST_S = {"sleep": 3 * 86_400.0, "off": 86_400.0, "clock": 7200.0}


def mishaps(rng: random.Random, start: datetime, end: datetime) -> list[Mishap]:
    """About two a week, never two at once: sleeps of seconds to days, restarts, clocks set wrong and put right."""
    found: list[Mishap] = []
    at = start
    while True:
        at += timedelta(hours=rng.expovariate(1 / 70.0) + 0.5)
        if at >= end:
            return found
        what = rng.choices(("sleep", "off", "clock"), (6, 1, 2))[0]
        lasts = timedelta(seconds=min(_LONGEST_S[what], 20 * 10 ** rng.uniform(0, 4)))
        wrong_by = timedelta(0)
        if what == "clock":
            wrong_by = timedelta(seconds=rng.choice((-1, 1)) * 10 ** rng.uniform(1.2, 4.5))
        found.append(Mishap(at, what, lasts, wrong_by))
        at += lasts


class MachineClock:
    """True time, and the machine's, which may be wrong. `monotonic` stands still while the machine sleeps."""

    def __init__(self, start: datetime) -> None:
        self.true, self.wrong_by = start, timedelta(0)
        self._elapsed = 0.0

    def now(self) -> datetime:
        return self.true + self.wrong_by

    def monotonic(self) -> float:
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        self.go_on(timedelta(seconds=seconds))

    def go_on(self, span: timedelta, *, asleep: bool = False) -> None:
        self.true += span
        if not asleep:
            self._elapsed += span.total_seconds()

    @property
    def is_right(self) -> bool:
        return abs(self.wrong_by.total_seconds()) <= SKEW_MAX_S


class Died(BaseException):
    """The process is gone; nothing of it runs on."""


@dataclass
class Machine:
    """One machine, its broker, and everything that happened. `due` is what `expected` says."""

    home: Home
    calendar: MarketCalendar
    clock: MachineClock
    end: datetime
    rng: random.Random
    due: Mapping[str, datetime]
    early: Mapping[date, time]  # closes that no calendar knows
    shut: frozenset[date]  # sessions that the exchange leaves out, unannounced
    plan: list[Mishap]
    catch_up_s: float
    made: list[tuple[str, datetime]] = field(default_factory=list)  # run id, true time of its beginning
    excused: set[str] = field(default_factory=set)  # due while no healthy machine, clock or broker was there
    open_runs: set[str] = field(default_factory=set)  # due, and not written down yet
    starts: int = 0
    happened: int = 0
    _due_next: int = 0

    def __post_init__(self) -> None:
        self._queue = sorted((at, run) for run, at in self.due.items())

    # ------------------------------------------------------------ the broker's side
    def hours(self) -> BrokerClock:
        at, calendar = self.clock.true, self.calendar
        day = at.astimezone(NEW_YORK).date()
        if not calendar.is_session(day) or day in self.shut:
            following = calendar.next_session(day)
            opens, closes = calendar.opens_at(following), calendar.closes_at(following)
            return BrokerClock(now=at, is_open=False, next_open=opens, next_close=closes)
        closes = _utc(day, self.early[day]) if day in self.early else calendar.closes_at(day)
        opens = calendar.opens_at(day)
        return BrokerClock(now=at, is_open=opens <= at < closes, next_open=opens, next_close=closes)

    # ------------------------------------------------------------ time passes
    def wait(self) -> None:
        """One tick near what is due, or while something due is still open; a leap when nothing is near."""
        true = self.clock.true
        while self._due_next < len(self._queue) and self._queue[self._due_next][0] <= true:
            self.open_runs.add(self._queue[self._due_next][1])
            self._due_next += 1
        left = (self._queue[self._due_next][0] if self._due_next < len(self._queue) else self.end) - true
        if left > 2 * _SOON and not self._anything_open(true):
            self.go_on(left - _SOON)
        elif left > _NEAR:
            self.go_on(min(left - _NEAR, 10 * _SECOND))
        else:
            self.go_on(_SECOND + timedelta(milliseconds=self.rng.randrange(500)))

    def _anything_open(self, true: datetime) -> bool:
        longest = timedelta(seconds=self.catch_up_s) + _PATIENCE
        self.open_runs = {run for run in self.open_runs if true - self.due[run] <= longest}
        return bool(self.open_runs)

    def go_on(self, span: timedelta) -> None:
        """Raises Died when the machine goes off on the way."""
        mishap = self.plan[0] if self.plan else None
        if mishap is None or self.clock.true + span < mishap.at:
            self.clock.go_on(span)
            return
        self.clock.go_on(max(mishap.at - self.clock.true, timedelta(0)))
        self.plan.pop(0)
        self._befall(mishap)

    def _befall(self, mishap: Mishap) -> None:
        self.happened += 1
        begins, ends = self.clock.true, self.clock.true + mishap.lasts
        if mishap.what == "clock":  # while it was fast, it may have called missed what was still to come
            self.excuse(begins, ends + max(mishap.wrong_by, timedelta(0)) + _PATIENCE)
            self.clock.wrong_by = mishap.wrong_by
            self.plan.insert(0, Mishap(ends, "right"))
        elif mishap.what == "right":
            self.clock.wrong_by = timedelta(0)
        else:
            self.excuse(begins - _PATIENCE, ends + _PATIENCE)  # before it: a scan may be under way
            self.clock.go_on(mishap.lasts, asleep=True)
            if mishap.what == "off":
                raise Died

    def excuse(self, begins: datetime, ends: datetime) -> None:
        first = bisect_left(self._queue, (begins, ""))
        for at, run in self._queue[first:]:
            if at > ends:
                return
            self.excused.add(run)

    # ------------------------------------------------------------ the machine's life
    def live(self) -> None:
        while self.clock.true < self.end:
            self.starts += 1
            try:
                self._process()
            except Died:
                continue

    def _process(self) -> None:
        journal = Journal(self.home.journal, self.clock)
        session: Any = _Session(self, journal)
        runner = Runner(
            session, Schedule(self.calendar, SCANS, "close_minus_5", journal), self.clock, heartbeat_s=1e9,
            look_after_s=60.0, beat=lambda what: None, tell=lambda report: None, stop=_Stop(self),
            catch_up_s=self.catch_up_s,
        )  # fmt: skip
        assert runner.forever() == 0


class _Stop(threading.Event):
    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    def wait(self, timeout: float | None = None) -> bool:
        self._machine.wait()
        if self._machine.clock.true >= self._machine.end:
            self.set()
        return self.is_set()


class _Session:
    """What the runner drives: scans that take a moment, now and then far too long, and that sometimes fail."""

    has_something_out = False

    def __init__(self, machine: Machine, journal: Journal) -> None:
        self._machine, self._journal = machine, journal
        self.hours: BrokerClock | None = None

    def clock_agrees(self) -> bool | None:
        if self._machine.rng.random() < 0.1:
            return None
        self.hours = self._machine.hours()
        return self._machine.clock.is_right

    def run(self, run: DueRun) -> RunReport:
        machine, rng = self._machine, self._machine.rng
        begun = machine.clock.true
        if not machine.clock.is_right:
            raise BrokerDown("the broker's clock says something else", code="CLOCK_DISAGREES")
        if rng.random() < 0.01:
            machine.excused.add(run.id)
            raise BrokerDown("503")
        self.hours = machine.hours()
        took = timedelta(minutes=70) if rng.random() < 0.002 else timedelta(seconds=rng.expovariate(1 / 3.0))
        machine.go_on(took)
        if took > _PATIENCE:
            machine.excuse(begun, begun + took + _PATIENCE)
        code = "OK" if self.hours.is_open else "MARKET_CLOSED"
        if code == "OK":
            machine.made.append((run.id, begun))
        else:
            logs.error_event("market_closed", code=code, run=run.id)
        return self._recorded(run, code)

    def _recorded(self, run: DueRun, code: str) -> RunReport:
        self._journal.append("scan_run", {"run": run.id, "code": code})
        self._machine.open_runs.discard(run.id)
        return RunReport(run, code=code)

    def close_out(self, session: date) -> RunReport:
        return self._recorded(DueRun(session, "close", self._machine.clock.now(), first=False, last=False), "OK")


# ---------------------------------------------------------------- the verdict
@dataclass(frozen=True, slots=True)
class Verdict:
    """`wrong`: one line for each due scan that was neither made in time, once, nor written down and told."""

    due: int
    on_time: int
    late: int
    missed: Mapping[str, int]  # by reason
    closed: int
    latest_s: float  # of those on time
    starts: int
    mishaps: int
    wrong: tuple[str, ...]
    head: str  # the last hash of the journal: the same seed gives the same years to the byte


EXPECTED_FAILURES = frozenset({"BROKER_DOWN", "CLOCK_DISAGREES"})
"""What the machine's broker does on purpose. Anything else came from this machine, a full disk say, and not from the
seed: years that it has changed are told as wrong, because they are not the ones that another run will see."""


def judge(machine: Machine) -> Verdict:
    """Every due scan against what was made, what the journal says of it, and what was told as an alert."""
    journal = Journal(machine.home.journal, machine.clock)
    told = _told(machine.home.logs / "errors.jsonl")
    missed = Counter(str(r.body["run"]) for r in journal.kinds("run_missed"))
    reasons = {str(r.body["run"]): str(r.body["code"]) for r in journal.kinds("run_missed")}
    closed = {str(r.body["run"]) for r in journal.kinds("scan_run") if r.body["code"] == "MARKET_CLOSED"}
    failed = {str(r.body["run"]) for r in journal.kinds("run_failed")}
    made = Counter(run for run, _ in machine.made)
    lag_s = {run: (at - machine.due[run]).total_seconds() for run, at in machine.made}
    on_time, late, wrong, why = [], 0, [], Counter[str]()
    for run in machine.due:
        ends = (made[run], missed[run], int(run in closed))
        if sum(ends) != 1:
            wrong.append(f"{run}: made {ends[0]} times, missed {ends[1]}, closed {ends[2]}")
        elif missed[run]:
            why[reasons[run]] += 1
            wrong += [f"{run}: missed without an alert"] if ("run_missed", run) not in told else []
            wrong += [f"{run}: missed by a healthy machine"] if run not in machine.excused else []
        elif run in closed:
            wrong += [f"{run}: closed without an alert"] if ("market_closed", run) not in told else []
        elif 0 <= lag_s[run] <= ON_TIME_S:
            on_time.append(lag_s[run])
        else:
            late += 1
            alert = ("run_late", run) in told or run in failed  # a failure was told, or is part of a told outage
            wrong += [] if alert and run in machine.excused else [f"{run}: {lag_s[run]:.1f} s after its time"]
    wrong += [f"{run}: made, and never due" for run in made if run not in machine.due]
    strange = [r for r in journal.kinds("run_failed") if r.body.get("code") not in EXPECTED_FAILURES]
    wrong += [f"{r.body['run']}: failed by itself: {r.body['code']} {r.body.get('detail')}" for r in strange]
    return Verdict(
        len(machine.due), len(on_time), late, dict(sorted(why.items())), len(closed), max(on_time, default=0.0),
        machine.starts, machine.happened, tuple(wrong), verify(machine.home.journal).head,
    )  # fmt: skip


def _told(errors: Path) -> set[tuple[str, str]]:
    """(event, run) of every line in the error log."""
    if not errors.exists():
        return set()
    rows = (json.loads(line) for line in errors.read_text(encoding="utf-8").splitlines())
    return {(str(row["event"]), str(row.get("run", ""))) for row in rows}


def simulate(
    home: Home, calendar: MarketCalendar, first: date, last: date, *, seed: int, catch_up_s: float = ON_TIME_S
) -> Verdict:
    """Sessions `first` to `last` on one machine. The same seed is the same years."""
    rng = random.Random(seed)
    sessions = calendar.sessions_between(first, last)
    full = [day for day in sessions if not calendar.is_half_day(day)]
    odd = rng.sample(full, max(2, len(full) // 120))
    shut, early = frozenset(odd[::2]), dict.fromkeys(odd[1::2], time(13, 0))
    clock = MachineClock(calendar.opens_at(sessions[0]) - timedelta(hours=1))
    end = calendar.closes_at(sessions[-1]) + timedelta(hours=1)
    due = expected(calendar, first, last, early)
    home.state.mkdir(parents=True, exist_ok=True)
    machine = Machine(
        home, calendar, clock, end, rng, due, early, shut, mishaps(rng, clock.true, end - timedelta(days=4)), catch_up_s
    )
    with logs.aside(home, clock, run_id=f"years-{seed}", mode="paper"):
        machine.live()
        return judge(machine)
