"""The runner on a stepped clock: every scan once or recorded, retries, looks in between, and one runner per home."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core import logs
from core.clock import SteppedClock
from core.errors import AlreadyRunning, BrokerDown, BrokerRejected, DataError, KobeError, StateCorrupt, StateLocked
from core.journal import Journal, Record
from execution.runner import Runner, only_runner
from execution.schedule import MOST_SESSIONS_BACK
from tests.fakes.runners import TIMES, Host, Stop, host, ny
from tests.fakes.scans import calendar_2024

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


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


# ---------------------------------------------------------------- missed
def test_absent_over_several_sessions_each_scan_is_recorded_once_with_its_reason(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:00", date(2024, 7, 1)), rule="skip")
    h.run_until(ny("17:00", date(2024, 7, 1)), step_s=60)
    h.clock.set(ny("09:00", date(2024, 7, 8)))  # 2, 3 (half day) and 5 July are gone; 4 July is a holiday
    h.run_until(ny("09:30", date(2024, 7, 8)), step_s=60)
    h.run_until(ny("09:31", date(2024, 7, 8)), step_s=60)
    wanted = {f"2024-07-{day:02d}T{t}": "NOT_RUNNING" for day in (2, 3, 5) for t in (*TIMES, "close")}
    assert h.missed() == {**wanted, "2024-07-03T15:55": "SKIPPED_HALF_DAY"}


def test_a_long_absence_is_told_one_by_one_for_the_last_sessions_and_as_a_whole_before(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35", date(2024, 1, 3)))
    h.runner().step()
    h.clock.set(ny("08:00"))
    h.runner().step()
    sessions = {run[:10] for run in h.missed()}
    assert len(sessions) == MOST_SESSIONS_BACK + 1 and max(sessions) == "2024-03-04"
    (rest,) = [record.body for record in h.journal.kinds("runs_missed")]
    assert (rest["first"], rest["code"]) == ("2024-01-04", "NOT_RUNNING")
    assert rest["last"] == str(calendar_2024().previous_session(date.fromisoformat(min(sessions))))
    assert rest["sessions"] == len(calendar_2024().sessions_between(date(2024, 1, 4), date.fromisoformat(rest["last"])))
    assert rest["runs"] == 3 * rest["sessions"]
    h.runner().step()
    assert len(list(h.journal.kinds("runs_missed"))) == 1, "told once"


# ---------------------------------------------------------------- late, and told so
@pytest.mark.parametrize(("late_s", "told"), [(0, []), (5, []), (6, [6]), (600, [600])])
def test_a_scan_that_begins_late_is_written_down_as_late_before_it_is_made(
    tmp_path: Path, late_s: int, told: list[int]
) -> None:
    h = host(tmp_path, ny("09:35") + timedelta(seconds=late_s))
    h.runner().step()
    assert [r.body["late_s"] for r in h.journal.kinds("run_late")] == told
    assert h.scan_runs() == ["2024-03-05T09:35"] and h.missed() == {}
    assert [r.kind for r in h.journal.records()][-1] == "scan_run"


@pytest.mark.parametrize(("late_s", "made"), [(30, True), (30.1, False)])
def test_how_late_a_scan_may_be_is_a_setting(tmp_path: Path, late_s: float, made: bool) -> None:
    h = host(tmp_path, ny("09:35") + timedelta(seconds=late_s), catch_up_s=30.0)
    h.runner().step()
    assert (h.scan_runs() == ["2024-03-05T09:35"]) is made and bool(h.missed()) is not made


def test_a_retry_is_no_late_scan(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"))
    h.session.errors = [BrokerDown("503")]
    h.run_until(ny("09:36"), step_s=1.0)
    assert h.scan_runs() == ["2024-03-05T09:35"] and list(h.journal.kinds("run_late")) == []


# ---------------------------------------------------------------- the clock
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


# ---------------------------------------------------------------- a journal that another process holds
class Held(Journal):
    """A journal that another process holds for the next appends of some kinds."""

    def __init__(self, path: Path, clock: SteppedClock) -> None:
        super().__init__(path, clock)
        self.held: dict[str, int] = {}

    def append(self, kind: str, body: Mapping[str, Any], *, may_use_reserve: bool = False) -> Record:
        if self.held.get(kind, 0) > 0:
            self.held[kind] -= 1
            raise StateLocked("chain.jsonl has been locked by another process for 10 s")
        return super().append(kind, body, may_use_reserve=may_use_reserve)


def held(h: Host, **kinds: int) -> Runner:
    """A runner whose journal is held; the session's own is not."""
    runner = h.runner()
    journal = Held(h.journal.path, h.clock)
    journal.held = kinds
    runner._schedule.journal = journal
    return runner


def turn(h: Host, runner: Runner, until: datetime) -> None:
    while h.clock.now() < until:
        runner.step()
        h.clock.advance(timedelta(seconds=1))


def not_written() -> int:
    return logs.counters().get(("journal_not_written", (("code", "STATE_LOCKED"),)), 0)


def test_p13_a_scan_whose_failure_cannot_be_written_down_is_told_and_tried_again(tmp_path: Path) -> None:
    h, before = host(tmp_path, ny("09:35")), not_written()
    h.session.errors = [StateLocked("held"), StateLocked("held")]
    turn(h, held(h, run_failed=2), ny("09:36"))
    assert [wall for wall, _ in h.session.did] == ["09:35:00", "09:35:05", "09:35:15"]
    assert h.scan_runs() == ["2024-03-05T09:35"] and h.missed() == {} and not_written() == before + 2


def test_p13_a_missed_scan_that_cannot_be_written_down_is_not_over_and_told_later(tmp_path: Path) -> None:
    h = host(tmp_path, ny("11:00"))
    runner = held(h, run_missed=1)
    runner.step()
    assert h.missed() == {} and "2024-03-05T09:35" not in runner._over
    runner.step()
    runner.step()
    assert h.missed() == {"2024-03-05T09:35": "NOT_RUNNING", "2024-03-05T10:30": "NOT_RUNNING"}


def test_p13_a_missed_scan_that_cannot_be_written_down_keeps_no_due_one_waiting(tmp_path: Path) -> None:
    h = host(tmp_path, ny("10:30"))
    held(h, run_missed=1).step()
    assert h.scan_runs() == ["2024-03-05T10:30"]


@pytest.mark.parametrize("kind", ["runs_missed", "run_missed"])
def test_p13_a_long_absence_is_told_once_when_the_journal_is_free(tmp_path: Path, kind: str) -> None:
    h = host(tmp_path, ny("09:35", date(2024, 1, 3)))
    h.runner().step()
    h.clock.set(ny("08:00"))
    runner = held(h, **{kind: 1})
    for _ in range(3):
        runner.step()
    assert len(list(h.journal.kinds("runs_missed"))) == 1
    assert len({run[:10] for run in h.missed()}) == MOST_SESSIONS_BACK + 1


def test_p13_a_late_scan_begins_when_its_lateness_is_written_down(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:36"))
    turn(h, held(h, run_late=1), ny("09:37"))
    assert h.session.did == [("09:36:05", "2024-03-05T09:35")]
    assert [r.body["late_s"] for r in h.journal.kinds("run_late")] == [65] and h.missed() == {}


def test_p13_a_look_between_two_ticks_that_finds_the_journal_held_ends_nothing(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"))
    runner = h.runner(Stop(h.clock, ny("09:36"), 5.0))
    looks = iter([StateLocked("held")])

    def between() -> None:
        for error in looks:
            raise error

    runner._between = between
    assert runner.forever() == 0 and h.scan_runs() == ["2024-03-05T09:35"]


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


@pytest.mark.parametrize(("before_s", "first"), [(0.0, "09:30:00"), (900.0, "09:15:00")])
def test_looks_at_what_is_held_begin_before_the_open(tmp_path: Path, before_s: float, first: str) -> None:
    """Corporate actions of the night are booked, and stops moved, before the open can hit them."""
    h = host(tmp_path, ny("09:10"), before_open_s=before_s)
    h.session.something_out = True
    h.run_until(ny("09:34"))
    looks = [at for at, what in h.session.did if what == "look"]
    assert looks[0] == first and h.session.scans == []
