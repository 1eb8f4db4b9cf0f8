"""The runner on a stepped clock: every scan once or recorded, retries, looks in between, and one runner per home."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.clock import SteppedClock
from core.errors import AlreadyRunning, BrokerDown, BrokerRejected, DataError, KobeError, StateCorrupt
from core.journal import Journal
from core.market_calendar import NEW_YORK
from execution.runner import LATE, MAX_BUGS, MOST_SESSIONS_BACK, Runner, Schedule, only_runner
from execution.scheduler import DueRun
from execution.session import RunReport
from tests.fakes.scans import calendar_2024

TUESDAY = date(2024, 3, 5)
TIMES = ("09:35", "10:30", "15:55")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


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
    takes: timedelta = timedelta(0)
    during: Callable[[], None] = lambda: None

    @property
    def has_something_out(self) -> bool:
        return self.something_out

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
    told: list[str] = field(default_factory=list)
    beats: list[tuple[str, str]] = field(default_factory=list)

    def runner(self, stop: threading.Event | None = None) -> Runner:
        return Runner(
            self.session,  # type: ignore[arg-type]
            Schedule(calendar_2024(), self.times, self.rule, Journal(self.root / "chain.jsonl", self.clock)),
            self.clock, heartbeat_s=30.0, look_after_s=60.0,
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


# ---------------------------------------------------------------- exactly once
def test_each_scan_of_a_day_happens_once_at_its_time_and_the_close_after_it(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:00"))
    assert h.run_until(ny("20:00")) == 0
    assert h.session.did == [
        ("09:35:00", "2024-03-05T09:35"), ("10:30:00", "2024-03-05T10:30"), ("15:55:00", "2024-03-05T15:55"),
        ("16:01:00", "close"),
    ]  # fmt: skip
    assert h.missed() == {}
    assert h.told == h.scan_runs() == [f"2024-03-05T{what}" for what in (*TIMES, "close")]


def test_p56_a_restart_every_seven_minutes_repeats_and_forgets_nothing(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:31"))
    while h.clock.now() < ny("17:00"):
        assert h.run_until(h.clock.now() + timedelta(minutes=7)) == 0
    assert h.scan_runs() == [f"2024-03-05T{what}" for what in (*TIMES, "close")] and h.missed() == {}


def test_a_crash_after_the_record_does_not_repeat_the_scan_and_one_before_it_does(tmp_path: Path) -> None:
    class Crash(BaseException):
        pass

    h = host(tmp_path, ny("09:35"))
    h.session.errors = [Crash()]
    with pytest.raises(Crash):
        h.runner().step()
    h.clock.advance(timedelta(seconds=20))
    h.runner().step()
    assert h.session.scans == ["2024-03-05T09:35"] * 2 and h.scan_runs() == ["2024-03-05T09:35"]
    h.runner().step()
    assert len(h.session.scans) == 2


def test_nothing_happens_on_a_day_without_a_session(tmp_path: Path) -> None:
    for day in (date(2024, 3, 9), date(2024, 3, 29)):  # a Saturday, Good Friday
        h = host(tmp_path / f"{day}", ny("09:00", day))
        assert h.run_until(ny("18:00", day), step_s=30) == 0
        assert h.session.did == [] and list(h.journal.records()) == []


def test_d23_the_week_of_a_switch_has_each_scan_once_at_its_wall_time(tmp_path: Path) -> None:
    for start, end in ((date(2024, 3, 8), date(2024, 3, 11)), (date(2024, 11, 1), date(2024, 11, 4))):
        h = host(tmp_path / f"{start}", ny("09:00", start))
        h.run_until(ny("17:00", end), step_s=60)
        assert h.scan_runs() == [f"{day}T{what}" for day in (start, end) for what in (*TIMES, "close")]
        assert [at for at, what in h.session.did if what.endswith("T09:35")] == ["09:35:00"] * 2


def test_d21_a_half_day_is_run_as_its_rule_says(tmp_path: Path) -> None:
    day = date(2024, 7, 3)
    h = host(tmp_path / "moved", ny("09:00", day))
    h.run_until(ny("17:00", day))
    assert h.session.did[-2:] == [("12:55:00", "2024-07-03T15:55"), ("13:01:00", "close")] and h.missed() == {}
    h = host(tmp_path / "skip", ny("09:00", day), rule="skip")
    h.run_until(ny("17:00", day))
    assert h.missed() == {"2024-07-03T15:55": "SKIPPED_HALF_DAY"}
    assert h.scan_runs() == ["2024-07-03T09:35", "2024-07-03T10:30", "2024-07-03Tclose"]


def test_d21_a_skipped_scan_is_recorded_when_its_session_opens_and_not_before(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:29:59", date(2024, 7, 3)), rule="skip")
    runner = h.runner()
    runner.step()
    assert h.missed() == {}
    h.clock.advance(timedelta(seconds=1))
    runner.step()
    assert h.missed() == {"2024-07-03T15:55": "SKIPPED_HALF_DAY"}


# ---------------------------------------------------------------- missed
def test_p57_started_at_15_57_runs_the_last_scan_and_records_the_others(tmp_path: Path) -> None:
    h = host(tmp_path, ny("15:57"))
    h.run_until(ny("17:00"))
    assert h.session.scans == ["2024-03-05T15:55"]
    assert h.missed() == {"2024-03-05T09:35": "NOT_RUNNING", "2024-03-05T10:30": "NOT_RUNNING"}


@pytest.mark.parametrize(("late", "runs"), [(LATE, 1), (LATE + timedelta(seconds=1), 0)])
def test_p57_a_scan_is_still_that_scan_for_ten_minutes_and_not_a_second_more(
    tmp_path: Path, late: timedelta, runs: int
) -> None:
    h = host(tmp_path, ny("09:35") + late)
    h.runner().step()
    assert len(h.session.scans) == runs and len(h.missed()) == 1 - runs


def test_p16_a_machine_that_slept_over_a_scan_says_overslept(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:30"))
    runner = h.runner()
    runner.step()
    h.clock.set(ny("11:00"))
    runner.step()
    assert h.session.scans == [] and h.missed() == {
        "2024-03-05T09:35": "OVERSLEPT", "2024-03-05T10:30": "OVERSLEPT"
    }  # fmt: skip


def test_p15_sleeping_over_whole_sessions_records_each_of_their_scans(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:00"))
    runner = h.runner()
    h.clock.set(ny("09:36"))
    runner.step()
    h.clock.set(ny("09:36", date(2024, 3, 11)))
    runner.step()
    days = [date(2024, 3, 6), date(2024, 3, 7), date(2024, 3, 8)]
    wanted = [f"2024-03-05T{t}" for t in TIMES[1:]] + [f"{day}T{t}" for day in days for t in TIMES]
    assert h.missed() == dict.fromkeys(wanted, "OVERSLEPT")
    assert h.session.scans == ["2024-03-05T09:35", "2024-03-11T09:35"]


def test_absent_over_several_sessions_each_scan_is_recorded_once_with_its_reason(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:00", date(2024, 7, 1)), rule="skip")
    h.run_until(ny("17:00", date(2024, 7, 1)), step_s=60)
    h.clock.set(ny("09:00", date(2024, 7, 8)))  # 2, 3 (half day) and 5 July are gone; 4 July is a holiday
    h.run_until(ny("09:30", date(2024, 7, 8)), step_s=60)
    h.run_until(ny("09:31", date(2024, 7, 8)), step_s=60)
    wanted = {f"2024-07-{day:02d}T{t}": "NOT_RUNNING" for day in (2, 3, 5) for t in TIMES}
    assert h.missed() == {**wanted, "2024-07-03T15:55": "SKIPPED_HALF_DAY"}


def test_a_long_absence_is_told_for_the_last_sessions_only(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35", date(2024, 1, 3)))
    h.runner().step()
    h.clock.set(ny("08:00"))
    h.runner().step()
    sessions = {run[:10] for run in h.missed()}
    assert len(sessions) == MOST_SESSIONS_BACK + 1 and max(sessions) == "2024-03-04"


def test_p58_a_scan_that_outlasts_the_next_ones_time_leaves_it_missed_and_not_run_late(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"), times=("09:35", "09:40", "15:55"))
    h.session.takes = timedelta(minutes=16)
    runner = h.runner()
    runner.step()
    runner.step()
    assert h.session.scans == ["2024-03-05T09:35"] and h.missed() == {"2024-03-05T09:40": "SKIPPED_OVERRUN"}


def test_p58_a_scan_that_outlasts_the_next_ones_time_by_little_is_followed_by_it(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"), times=("09:35", "09:40"))
    h.session.takes = timedelta(minutes=8)
    h.runner().step()
    assert h.session.did == [("09:35:00", "2024-03-05T09:35"), ("09:43:00", "2024-03-05T09:40")]


# ---------------------------------------------------------------- the clock
def test_p14_a_clock_that_steps_back_repeats_no_scan(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"))
    runner = h.runner()
    runner.step()
    for back in ("09:34", "09:35", "08:35"):
        h.clock.set(ny(back))
        runner.step()
        h.runner().step()
    h.clock.set(ny("09:40"))
    runner.step()
    assert h.session.scans == ["2024-03-05T09:35"]
    h.run_until(ny("17:00"))
    assert h.scan_runs() == [f"2024-03-05T{what}" for what in (*TIMES, "close")]


def test_p14_a_clock_that_steps_back_a_day_runs_no_scan_of_yesterday_late(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"))
    runner = h.runner()
    runner.step()
    h.clock.set(ny("15:00", date(2024, 3, 4)))
    runner.step()
    assert h.session.scans == ["2024-03-05T09:35"]


def test_p14_pauses_are_measured_on_the_clock_that_cannot_step_back(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:36"))
    h.session.errors = [BrokerDown("503")]
    runner = h.runner()
    runner.step()
    h.clock.set(ny("09:35"))
    for _ in range(6):
        h.clock.advance(timedelta(seconds=1))
        runner.step()
    assert h.scan_runs() == ["2024-03-05T09:35"]


# ---------------------------------------------------------------- failures
def test_b47_a_broker_down_is_retried_with_growing_pauses_until_too_late(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"))
    h.session.always = BrokerDown("503")
    assert h.run_until(ny("10:00"), step_s=1.0) == 0
    at = [datetime.strptime(wall, "%H:%M:%S") for wall, _ in h.session.did]
    pauses = [(b - a).total_seconds() for a, b in itertools.pairwise(at)]
    assert pauses[:6] == [5, 10, 20, 40, 60, 60] and set(pauses[6:]) == {60}
    assert at[-1].strftime("%H:%M") <= "09:45"
    assert h.missed() == {"2024-03-05T09:35": "FAILED_UNTIL_TOO_LATE"}
    failed = [r.body["code"] for r in h.journal.kinds("run_failed")]
    assert failed == ["BROKER_DOWN"] * len(at)


@pytest.mark.parametrize(
    "error", [BrokerDown("x"), BrokerRejected("x"), DataError("x"), KobeError("x")], ids=lambda e: type(e).__name__
)
def test_b47_a_whole_day_of_failures_does_not_end_the_runner(tmp_path: Path, error: KobeError) -> None:
    h = host(tmp_path, ny("09:00"))
    h.session.always, h.session.look_error, h.session.something_out = error, error, True
    assert h.run_until(ny("18:00"), step_s=20) == 0
    assert h.missed() == {f"2024-03-05T{t}": "FAILED_UNTIL_TOO_LATE" for t in TIMES}
    h.session.always = h.session.look_error = None
    h.clock.set(ny("09:00", date(2024, 3, 6)))
    h.run_until(ny("09:36", date(2024, 3, 6)))
    assert h.session.scans[-1] == "2024-03-06T09:35", "the next day begins as if nothing had been"


def test_b47_a_scan_that_succeeds_at_the_third_try_is_not_missed(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"))
    h.session.errors = [BrokerDown("503"), BrokerDown("503")]
    h.run_until(ny("10:00"), step_s=1.0)
    assert [wall for wall, what in h.session.did] == ["09:35:00", "09:35:05", "09:35:15"]
    assert h.missed() == {} and h.told == ["2024-03-05T09:35"]


def test_a_failure_before_a_restart_is_remembered_by_the_journal(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"))
    h.session.always = BrokerDown("503")
    h.run_until(ny("09:40"))
    h.session.always = None
    h.clock.set(ny("09:50"))
    h.runner().step()
    assert h.missed() == {"2024-03-05T09:35": "FAILED_UNTIL_TOO_LATE"}


def test_p22_three_bugs_in_a_row_end_the_runner_with_1(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"))
    h.session.always = ZeroDivisionError("a bug")
    assert h.run_until(ny("18:00"), step_s=1.0) == 1
    assert len(h.session.did) == MAX_BUGS and h.clock.now() < ny("09:36")
    assert [r.body["code"] for r in h.journal.kinds("run_failed")] == ["BUG"] * MAX_BUGS


def test_p21_two_bugs_and_a_success_start_the_count_again(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"), times=("09:35", "10:30"))
    bug = RuntimeError("a bug")
    h.session.errors = [bug, bug, None, bug, bug, None]
    assert h.run_until(ny("11:00")) == 0
    assert h.scan_runs() == ["2024-03-05T09:35", "2024-03-05T10:30"]


@pytest.mark.parametrize("where", ["scan", "look"])
def test_p08_a_damaged_journal_ends_the_runner_at_once(tmp_path: Path, where: str) -> None:
    h = host(tmp_path, ny("09:35"))
    h.session.something_out = True
    if where == "scan":
        h.session.always = StateCorrupt("record 7 is damaged")
    else:
        h.session.look_error = StateCorrupt("record 7 is damaged")
    with pytest.raises(StateCorrupt):
        h.run_until(ny("18:00"))
    assert len(h.session.did) <= 2


def test_p01_a_journal_that_cannot_record_a_failure_ends_the_runner(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"))
    h.session.always = BrokerDown("503")
    (tmp_path / "chain.head").write_bytes(b"damaged")
    with pytest.raises(StateCorrupt):
        h.run_until(ny("18:00"))


# ---------------------------------------------------------------- looks in between
def test_between_scans_what_is_out_is_looked_after_once_a_minute_in_the_session_only(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:20"))
    h.session.something_out = True
    h.run_until(ny("16:30"))
    looks = [wall for wall, what in h.session.did if what == "look"]
    assert looks[0] == "09:30:00" and looks[-1] < "16:01:00" and len(looks) == pytest.approx(390, abs=5)
    assert "09:35:00" not in looks, "a scan looks after everything itself"
    assert h.scan_runs() == [f"2024-03-05T{what}" for what in (*TIMES, "close")]
    assert "2024-03-05Tlook_after" not in h.told


def test_with_nothing_out_nobody_is_asked(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:20"))
    h.run_until(ny("10:20"))
    assert [what for _, what in h.session.did] == ["2024-03-05T09:35"]
    h.session.something_out = True
    h.run_until(ny("10:23"))
    assert [what for _, what in h.session.did][1:] == ["look"] * 3


def test_a_look_that_fails_is_told_and_made_again_and_keeps_no_scan_waiting(tmp_path: Path) -> None:
    h = host(tmp_path, ny("10:00"))
    h.session.something_out, h.session.look_error = True, BrokerDown("503")
    assert h.run_until(ny("10:35")) == 0
    assert ("10:30:00", "2024-03-05T10:30") in h.session.did
    assert sum(what == "look" for _, what in h.session.did) > 20


# ---------------------------------------------------------------- heartbeat and end
def test_p59_the_heartbeat_says_what_is_waited_for_and_what_is_running(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:34"))
    h.run_until(ny("09:37"))
    beats = [what for _, what in h.beats]
    assert "waiting for 2024-03-05T09:35 New York" in beats and "running 2024-03-05T09:35" in beats
    assert beats[-1] == "waiting for 2024-03-05T10:30 New York"
    assert len([b for b in beats if b.startswith("waiting")]) == 6  # every 30 s


def test_waiting_for_names_the_next_session_over_a_weekend_and_a_skipped_half_day(tmp_path: Path) -> None:
    h = host(tmp_path, ny("16:30", date(2024, 3, 28)))
    assert h.runner().waiting_for() == "waiting for 2024-04-01T09:35 New York"  # Good Friday and a weekend
    h = host(tmp_path, ny("12:00", date(2024, 7, 3)), rule="skip")
    assert h.runner().waiting_for() == "waiting for 2024-07-05T09:35 New York"


def test_p18_a_stop_that_was_set_before_does_nothing_and_ends_with_0(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"))
    stop = threading.Event()
    stop.set()
    assert h.runner(stop).forever() == 0 and h.session.did == []


# ---------------------------------------------------------------- one runner per home
HOLD = """
    import sys, threading
    sys.path.insert(0, sys.argv[1])
    from pathlib import Path
    from core.clock import SystemClock
    from execution.runner import only_runner
    with only_runner(Path(sys.argv[2]), SystemClock()) as beat:
        beat("holding")
        print("held", flush=True)
        sys.stdin.read()
"""


def test_p05_a_second_runner_is_refused_with_the_pid_of_the_first_and_a_killed_one_leaves_no_lock(
    tmp_path: Path,
) -> None:
    clock = SteppedClock(ny("09:00"))
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(ROOT), str(tmp_path / "state")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with pytest.raises(AlreadyRunning) as caught, only_runner(tmp_path / "state", clock):
            raise AssertionError("two runners")
        assert f"pid {first.pid} on" in str(caught.value) and caught.value.exit_code == 3
        facts = json.loads((tmp_path / "state" / "runner.json").read_text())
        assert facts["pid"] == first.pid and facts["doing"] == "holding", "the loser wrote over the holder's facts"
        first.kill()
        first.wait()
    with only_runner(tmp_path / "state", clock) as beat:
        beat("mine")
        assert json.loads((tmp_path / "state" / "runner.json").read_text())["pid"] == os.getpid()
    assert json.loads((tmp_path / "state" / "runner.json").read_text())["doing"] == "stopped"


def test_p06_a_damaged_runner_json_is_said_so_and_the_lock_still_decides(tmp_path: Path) -> None:
    clock = SteppedClock(ny("09:00"))
    with only_runner(tmp_path, clock):
        for damaged in ("", "{", "[]", '"x"', "null", '{"pid": 1}', "\ud7ff"):
            (tmp_path / "runner.json").write_bytes(damaged.encode() or b"\xff\xfe")
            with pytest.raises(AlreadyRunning, match="holder unknown"), only_runner(tmp_path, clock):
                raise AssertionError("two runners")


def test_p19_the_lock_is_given_back_when_the_runner_ends_in_an_error(tmp_path: Path) -> None:
    clock = SteppedClock(ny("09:00"))
    with pytest.raises(StateCorrupt), only_runner(tmp_path, clock):
        raise StateCorrupt("damaged")
    with only_runner(tmp_path, clock):
        pass
