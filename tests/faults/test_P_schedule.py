"""The clock on the wall, the machine under it and the market's hours: each scan once, or recorded as missed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from core import logs
from core.domain import BrokerClock
from core.errors import BrokerDown
from core.market_calendar import Facts, MarketCalendar
from core.paths import REPO_ROOT, Home
from execution.scheduler import DueRun
from execution.session import NotOpenYet, RunReport
from scripts import ground
from tests.fakes.grounds import a_context
from tests.fakes.runners import TIMES, Host, host, ny
from tests.fakes.scans import calendar_2024, due, hold, scene

ROOT = Path(__file__).resolve().parents[2]
JUMPED = ("clock_jumped", (("code", "SLEPT_OR_SET_FORWARD"),))


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# ---------------------------------------------------------------- the clock steps, the machine sleeps
def test_P14_a_clock_that_steps_back_repeats_no_scan(tmp_path: Path) -> None:
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


def test_P14_a_clock_that_steps_back_a_day_runs_no_scan_of_yesterday_late(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"))
    runner = h.runner()
    runner.step()
    h.clock.set(ny("15:00", date(2024, 3, 4)))
    runner.step()
    assert h.session.scans == ["2024-03-05T09:35"]


def test_P14_pauses_are_measured_on_the_clock_that_cannot_step_back(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:36"))
    h.session.errors = [BrokerDown("503")]
    runner = h.runner()
    runner.step()
    h.clock.set(ny("09:35"))
    for _ in range(6):
        h.clock.advance(timedelta(seconds=1))
        runner.step()
    assert h.scan_runs() == ["2024-03-05T09:35"]


def test_P15_sleeping_over_whole_sessions_records_each_of_their_scans(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:00"))
    runner = h.runner()
    h.clock.set(ny("09:36"))
    runner.step()
    h.clock.set(ny("09:36", date(2024, 3, 11)))
    runner.step()
    days = [date(2024, 3, 6), date(2024, 3, 7), date(2024, 3, 8)]
    wanted = [f"2024-03-05T{t}" for t in (*TIMES[1:], "close")]
    wanted += [f"{day}T{t}" for day in days for t in (*TIMES, "close")]
    assert h.missed() == dict.fromkeys(wanted, "OVERSLEPT")
    assert h.session.scans == ["2024-03-05T09:35", "2024-03-11T09:35"]


def test_P16_a_machine_that_slept_over_a_scan_says_overslept(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:30"))
    runner = h.runner()
    runner.step()
    h.clock.set(ny("11:00"))
    runner.step()
    assert h.session.scans == [] and h.missed() == {
        "2024-03-05T09:35": "OVERSLEPT", "2024-03-05T10:30": "OVERSLEPT"
    }  # fmt: skip


def jumps(h: Host, to: datetime, *, slept: bool = True) -> threading.Event:
    """A stop that lets one tick end at `to`: the wall clock jumps, and the steady clock stood still (a sleep, a set
    clock) or went along; then it ends the runner after ten more ticks."""

    class Jump(threading.Event):
        ticks = 0

        def wait(self, timeout: float | None = None) -> bool:
            self.ticks += 1
            if self.ticks == 1:
                elapsed = h.clock.monotonic()
                h.clock.set(to)
                h.clock._elapsed = elapsed + 1.0 if slept else h.clock.monotonic()
            else:
                h.clock.advance(timedelta(seconds=1))
            if self.ticks > 10:
                self.set()
            return self.is_set()

    return Jump()


def test_P16_a_machine_that_wakes_asks_the_broker_for_the_time_and_then_says_what_it_missed(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:30"))
    before = logs.counters().get(JUMPED, 0)
    h.runner(jumps(h, ny("11:00"))).forever()
    assert h.missed() == {"2024-03-05T09:35": "OVERSLEPT", "2024-03-05T10:30": "OVERSLEPT"}
    assert logs.counters()[JUMPED] == before + 1 and h.session.asked == 1


def test_P15_a_clock_set_forward_by_mistake_calls_nothing_missed_that_is_still_to_come(tmp_path: Path) -> None:
    """The broker's clock says that it is not later; then ours is put right, and every scan comes at its time."""
    h = host(tmp_path, ny("09:30"))
    h.session.agrees = False
    h.runner(jumps(h, ny("12:00", date(2024, 3, 7)))).forever()
    assert h.missed() == {} and h.session.did == []
    h.clock.set(ny("09:30:30"))
    h.session.agrees = True
    h.run_until(ny("17:00"))
    assert h.missed() == {} and h.scan_runs() == [f"2024-03-05T{what}" for what in (*TIMES, "close")]


class Alerts(list[tuple[str, str]]):
    """(event, code) of every line that goes to the error log."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logs, "error_event", lambda name, /, **fields: self.append((name, fields["code"])))


DOUBTED = ("clock_doubted", "CLOCK_NOT_CONFIRMED")


@pytest.mark.parametrize("agrees", [None, False])
def test_P15_a_clock_that_nobody_confirms_writes_nothing_off_and_is_told_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agrees: bool | None
) -> None:
    """For hours, from the evening into days that have not come; then it is put right, and each scan comes."""
    told = Alerts(monkeypatch)
    h = host(tmp_path, ny("07:00"))
    h.session.agrees = agrees
    h.session.always = BrokerDown("no answer")  # as the real one would: it asks for the time first
    runner = h.runner(jumps(h, ny("15:00", date(2024, 3, 12))))
    runner.forever()
    assert told == [("clock_jumped", "SLEPT_OR_SET_FORWARD")]
    for _ in range(2 * 3600 // 5):
        h.clock.advance(timedelta(seconds=5))
        runner.step()
    assert told.count(DOUBTED) == pytest.approx(12, abs=1), "after half a minute, then every ten"
    assert {r.kind for r in h.journal.records()} <= {"run_failed"} and (agrees is None or h.session.did == [])
    h.session.agrees, h.session.always = True, None
    runner._stop = jumps(h, ny("09:10"))
    runner.forever()
    h.run_until(ny("17:00"))
    assert h.missed() == {} and h.scan_runs() == [f"2024-03-05T{what}" for what in (*TIMES, "close")]


@pytest.mark.parametrize("agrees", [None, False])
def test_P16_what_a_machine_slept_over_is_written_down_as_soon_as_the_broker_confirms_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agrees: bool | None
) -> None:
    h = host(tmp_path, ny("09:30"))
    h.session.agrees = agrees
    runner = h.runner(jumps(h, ny("11:00")))
    runner.forever()
    h.clock.advance(timedelta(hours=1))
    runner.step()
    assert h.missed() == {}
    h.session.agrees = True
    h.clock.advance(timedelta(seconds=5))
    runner.step()
    assert h.missed() == {"2024-03-05T09:35": "OVERSLEPT", "2024-03-05T10:30": "OVERSLEPT"}


@pytest.mark.parametrize(("agrees", "made"), [(None, True), (False, False)])
def test_P16_a_broker_that_is_silent_about_the_time_keeps_a_due_scan_waiting_for_half_a_minute_only(
    tmp_path: Path, agrees: bool | None, made: bool
) -> None:
    """The scan itself compares again. One that disagrees keeps it for as long as it does."""
    h = host(tmp_path, ny("06:00"))
    h.session.agrees = agrees
    runner = h.runner(jumps(h, ny("09:34:50")))
    runner.forever()
    h.clock.advance(timedelta(seconds=19))
    runner.step()
    assert h.session.did == []
    h.clock.advance(timedelta(seconds=10))
    runner.step()
    assert (h.scan_runs() == ["2024-03-05T09:35"]) is made and h.missed() == {}


def test_P15_a_clock_that_jumps_while_a_scan_is_made_is_doubted_too(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:34:50"))

    def jump() -> None:
        elapsed = h.clock.monotonic()
        h.clock.set(ny("14:00"))
        h.clock._elapsed = elapsed
        h.session.agrees = False

    h.session.during = jump
    h.run_until(ny("15:00"))
    assert h.missed() == {} and h.scan_runs() == ["2024-03-05T09:35"]


def test_P15_a_scan_that_finds_the_clocks_apart_is_not_called_missed_before_they_agree(tmp_path: Path) -> None:
    """Ahead by less than what is taken for a jump: the scan itself sees it."""
    h = host(tmp_path, ny("09:35"), catch_up_s=30.0)
    h.session.errors = [BrokerDown("100 s from ours", code="CLOCK_DISAGREES")]
    h.session.agrees = False
    runner = h.runner()
    runner.step()
    h.clock.advance(timedelta(seconds=100))
    runner.step()
    assert h.missed() == {}
    h.clock.set(ny("09:35"))
    h.session.agrees = True
    h.clock._elapsed += 5.0
    runner.step()
    assert h.missed() == {} and h.scan_runs() == ["2024-03-05T09:35"]


def test_P15_a_scan_whose_clocks_agree_again_too_late_is_missed_as_failed(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"), catch_up_s=30.0)
    h.session.errors = [BrokerDown("100 s from ours", code="CLOCK_DISAGREES")]
    runner = h.runner()
    runner.step()
    h.clock.advance(timedelta(seconds=100))
    runner.step()
    assert h.missed() == {"2024-03-05T09:35": "FAILED_UNTIL_TOO_LATE"}


def test_P16_a_process_that_only_stood_still_needs_no_confirmation(tmp_path: Path) -> None:
    """The steady clock went along: it was paused, and the wall clock is what it was."""
    h = host(tmp_path, ny("09:30"))
    h.session.agrees = False
    h.runner(jumps(h, ny("11:00"), slept=False)).forever()
    assert set(h.missed()) == {"2024-03-05T09:35", "2024-03-05T10:30"} and h.session.asked == 0


@pytest.mark.parametrize(("jump_s", "asked"), [(120, 0), (122, 1), (-1, 0), (-4, 1)])
def test_P14_P15_a_jump_is_one_from_two_minutes_ahead_or_two_seconds_back(
    tmp_path: Path, jump_s: int, asked: int
) -> None:
    h = host(tmp_path, ny("09:00"))
    h.runner(jumps(h, ny("09:00") + timedelta(seconds=jump_s + 1))).forever()
    assert h.session.asked == asked


def test_P14_a_record_of_a_day_that_has_not_come_hides_nothing_of_today(tmp_path: Path) -> None:
    """A clock that was fast for an hour has left records of next week."""
    h = host(tmp_path, ny("09:36", date(2024, 3, 12)))
    h.runner().step()
    h.clock.set(ny("11:00"))
    h.runner().step()
    assert h.missed()["2024-03-05T09:35"] == h.missed()["2024-03-05T10:30"] == "NOT_RUNNING"


def test_P16_what_is_held_is_looked_after_at_the_first_look_after_waking(tmp_path: Path) -> None:
    """The bars are checked again by the next scan itself: freshness is the session's, never an age."""
    h = host(tmp_path, ny("09:40"))
    h.session.something_out = True
    runner = h.runner()
    runner.step()
    looks = [what for _, what in h.session.did].count("look")
    h.clock.set(ny("10:25"))
    runner.step()
    assert [what for _, what in h.session.did].count("look") == looks + 1


ZONES = """
    import json, os, sys
    sys.path.insert(0, sys.argv[1])
    from datetime import UTC, date, datetime
    from core.market_calendar import NEW_YORK
    from execution.ledger import new_york_day
    from execution.scheduler import due_runs
    from tests.fakes.scans import calendar_2024
    runs = [
        [run.id, run.at.isoformat()]
        for day in (date(2024, 3, 8), date(2024, 3, 11), date(2024, 7, 3))
        for run in due_runs(day, ("09:35", "15:55"), calendar_2024(), half_day_rule="close_minus_5")
    ]
    late = datetime(2024, 3, 6, 2, 30, tzinfo=UTC)
    print(json.dumps([runs, new_york_day(late).isoformat(), f"{late.astimezone(NEW_YORK):%H:%M %Z}"]))
"""


def test_P17_the_hosts_zone_and_zone_files_change_no_instant() -> None:
    """Far east, far west, half an hour off, nonsense, unset, and no zone files on the machine: tzdata is bundled."""
    seen = set()
    zones = ("Asia/Tokyo", "Pacific/Honolulu", "Asia/Kolkata", "Nowhere/At_All", None)
    for zone, path in (*((zone, None) for zone in zones), ("UTC", "")):
        env = {k: v for k, v in os.environ.items() if k not in ("TZ", "PYTHONTZPATH")}
        env |= {} if zone is None else {"TZ": zone}
        env |= {} if path is None else {"PYTHONTZPATH": path}
        command = [sys.executable, "-c", textwrap.dedent(ZONES), str(ROOT)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
        seen.add(done.stdout)
    (said,) = seen
    assert "2024-03-08T14:35:00+00:00" in said and "2024-03-11T13:35:00+00:00" in said
    assert '"2024-03-05", "21:30 EST"' in said


def test_P17_without_any_time_zones_nothing_starts_and_one_line_says_why(tmp_path: Path) -> None:
    code = (
        "import sys, runpy; sys.modules['tzdata'] = None; sys.argv = ['scan.py'];"
        "runpy.run_path('scripts/scan.py', run_name='__main__')"
    )
    env = {**os.environ, "PYTHONTZPATH": "", "KOBE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 10
    assert done.stderr.startswith("kobe: TZDATA_MISSING: ") and done.stderr.count("\n") == 1


def test_P17_the_start_prints_both_zones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = a_context(tmp_path, at=datetime(2024, 3, 5, 2, 30, tzinfo=UTC))
    (found,) = [f for f in ground.checks(context, allow_dirty=False) if f.name == "time"]
    assert found.found.startswith("2024-03-04 21:30 New York; this machine: ") and "(UTC" in found.found


# ---------------------------------------------------------------- late starts and overruns
def test_P57_started_at_15_57_runs_the_last_scan_and_records_the_others(tmp_path: Path) -> None:
    h = host(tmp_path, ny("15:57"))
    h.run_until(ny("17:00"))
    assert h.session.scans == ["2024-03-05T15:55"]
    assert h.missed() == {"2024-03-05T09:35": "NOT_RUNNING", "2024-03-05T10:30": "NOT_RUNNING"}


def test_P57_a_restart_every_seven_minutes_repeats_and_forgets_nothing(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:31"))
    while h.clock.now() < ny("17:00"):
        assert h.run_until(h.clock.now() + timedelta(minutes=7)) == 0
    assert h.scan_runs() == [f"2024-03-05T{what}" for what in (*TIMES, "close")] and h.missed() == {}


def test_P58_a_scan_that_outlasts_the_next_ones_time_leaves_it_missed_and_not_run_late(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"), times=("09:35", "09:40", "15:55"))
    h.session.takes = timedelta(minutes=16)
    runner = h.runner()
    runner.step()
    runner.step()
    assert h.session.scans == ["2024-03-05T09:35"] and h.missed() == {"2024-03-05T09:40": "SKIPPED_OVERRUN"}


def test_P58_a_scan_that_outlasts_the_next_ones_time_by_little_is_followed_by_it(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"), times=("09:35", "09:40"))
    h.session.takes = timedelta(minutes=8)
    h.runner().step()
    assert h.session.did == [("09:35:00", "2024-03-05T09:35"), ("09:43:00", "2024-03-05T09:40")]


# ---------------------------------------------------------------- the market's hours
def test_D21_a_half_day_is_run_as_its_rule_says(tmp_path: Path) -> None:
    day = date(2024, 7, 3)
    h = host(tmp_path / "moved", ny("09:00", day))
    h.run_until(ny("17:00", day))
    assert h.session.did[-2:] == [("12:55:00", "2024-07-03T15:55"), ("13:01:00", "close")] and h.missed() == {}
    h = host(tmp_path / "skip", ny("09:00", day), rule="skip")
    h.run_until(ny("17:00", day))
    assert h.missed() == {"2024-07-03T15:55": "SKIPPED_HALF_DAY"}
    assert h.scan_runs() == ["2024-07-03T09:35", "2024-07-03T10:30", "2024-07-03Tclose"]


def test_D21_a_skipped_scan_is_recorded_when_its_session_opens_and_not_before(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:29:59", date(2024, 7, 3)), rule="skip")
    runner = h.runner()
    runner.step()
    assert h.missed() == {}
    h.clock.advance(timedelta(seconds=1))
    runner.step()
    assert h.missed() == {"2024-07-03T15:55": "SKIPPED_HALF_DAY"}


@pytest.mark.parametrize("once", [False, True])
def test_D22_a_closing_that_no_calendar_knew_is_no_scan_and_no_vendor_is_asked(tmp_path: Path, once: bool) -> None:
    """The broker's clock overrides the calendar. What is held keeps its stop, and is looked after."""
    made = scene(tmp_path, "PICKA")
    hold(made, "HELD", protected=not once)
    open_clock = made.broker.clock
    made.broker.clock = lambda: replace(open_clock(), is_open=False)
    submits = len(made.broker.submits)
    report = made.session.run(due())
    assert report.code == "MARKET_CLOSED" and made.planner.asked == ["exits"] and report.scan is None
    assert [r.body["code"] for r in made.world.journal.kinds("scan_run")] == ["MARKET_CLOSED"]
    assert [cid for cid in made.broker.submits[submits:] if "-entry-" in cid or "-exit-" in cid] == []
    assert made.ledger().protective(made.ledger().open_trades()[0].decision_id)
    assert logs.counters()[("market_closed", ())] >= 1
    made.broker.clock = open_clock
    assert made.session.run(due("10:30", first=False)).code == "OK" and "plan" in made.planner.asked


@pytest.mark.parametrize(
    ("opens", "code"),
    [
        (ny("09:30:00"), None),  # ours is a second ahead
        (ny("09:40:00"), None),  # a late open, as late as a scan may be
        (ny("09:40:01"), "MARKET_CLOSED"),
        (ny("09:30", date(2024, 3, 6)), "MARKET_CLOSED"),  # a closing that no calendar knew
        (ny("09:29:50"), None),  # the word is old, by no more than clocks may be apart
        (ny("09:29:49"), "MARKET_CLOSED"),
    ],
)
def test_D22_a_scan_at_the_open_is_not_used_up_by_a_broker_that_is_about_to_open(
    tmp_path: Path, opens: datetime, code: str | None
) -> None:
    made = scene(tmp_path, "PICKA", start_at=ny("09:30:00"))
    hold(made, "HELD", protected=False)
    open_clock = made.broker.clock
    now = ny("09:29:59") if opens >= ny("09:30:00") else ny("09:30:00") - timedelta(microseconds=1)
    made.broker.clock = lambda: replace(open_clock(), now=now, is_open=False, next_open=opens)
    run = due("09:30", at=ny("09:30:00"))
    if code is not None:
        assert made.session.run(run).code == code
        assert [r.body["code"] for r in made.world.journal.kinds("scan_run")] == [code]
        return
    with pytest.raises(NotOpenYet) as caught:
        made.session.run(run)
    assert caught.value.code == "MARKET_NOT_OPEN" and made.planner.asked == []
    assert list(made.world.journal.kinds("scan_run")) == [], "it is not over"
    assert made.ledger().protective(made.ledger().open_trades()[0].decision_id), "what is held does not wait"
    made.broker.clock = open_clock
    assert made.session.run(run).code == "OK" and "plan" in made.planner.asked


def hours(day: date, closes: str, *, is_open: bool = True) -> BrokerClock:
    return BrokerClock(now=ny("09:35", day), is_open=is_open, next_open=ny("09:30", day), next_close=ny(closes, day))


def test_D22_an_early_close_that_only_the_broker_knows_moves_the_last_scan_before_it(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:31"))
    h.session.hours = hours(date(2024, 3, 5), "13:00")
    h.run_until(ny("17:00"))
    assert h.session.did == [
        ("09:35:00", "2024-03-05T09:35"), ("10:30:00", "2024-03-05T10:30"), ("12:55:00", "2024-03-05T15:55"),
        ("13:01:00", "close"),
    ]  # fmt: skip
    assert logs.counters()[("market_hours_differ", ())] >= 1


def test_D22_a_half_day_that_the_exchange_gave_up_is_run_to_its_end(tmp_path: Path) -> None:
    day = date(2024, 7, 3)
    h = host(tmp_path, ny("09:31", day))
    h.session.hours = hours(day, "16:00")
    h.run_until(ny("17:00", day))
    assert h.session.did[-2:] == [("15:55:00", "2024-07-03T15:55"), ("16:01:00", "close")]


def test_D22_with_the_skip_rule_an_early_close_leaves_the_scan_recorded_as_skipped(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:31"), rule="skip")
    h.session.hours = hours(date(2024, 3, 5), "13:00")
    h.run_until(ny("17:00"))
    assert h.missed() == {"2024-03-05T15:55": "SKIPPED_HALF_DAY"}


@pytest.mark.parametrize(
    "told",
    [
        hours(date(2024, 3, 5), "13:00", is_open=False),  # closed: that close is of another time
        hours(date(2024, 3, 6), "13:00"),  # of another day
        hours(date(2024, 3, 5), "16:00"),  # no news
        None,
    ],
)
def test_D22_the_calendar_holds_as_long_as_the_broker_says_nothing_else_of_today(tmp_path: Path, told: object) -> None:
    h = host(tmp_path, ny("09:31"))
    h.session.hours = told  # type: ignore[assignment]
    h.run_until(ny("17:00"))
    assert h.session.did[-2:] == [("15:55:00", "2024-03-05T15:55"), ("16:01:00", "close")]


def test_D21_D22_D23_P14_P15_P16_P58_a_year_of_mishaps_leaves_no_due_scan_unaccounted_for(tmp_path: Path) -> None:
    """A slice of benchmarks/schedule_truth.py, which plays ten years in five host zones."""
    from execution.drill.ten_years import simulate

    for seed, catch_up_s in ((11, 5.0), (12, 600.0)):
        home, span = Home(tmp_path / f"{seed}"), (date(2024, 1, 22), date(2024, 8, 30))
        verdict = simulate(home, calendar_2024(), *span, seed=seed, catch_up_s=catch_up_s)
        assert verdict.wrong == () and verdict.due > 450
        assert verdict.on_time + verdict.late + sum(verdict.missed.values()) + verdict.closed == verdict.due
        assert verdict.on_time > 0.85 * verdict.due and verdict.latest_s <= 5 and verdict.mishaps > 40
        assert {"OVERSLEPT", "NOT_RUNNING"} <= set(verdict.missed) and verdict.closed >= 1
        assert (verdict.late > 0) is (catch_up_s > 5)


YEARS = """
import json, sys
from datetime import date
from pathlib import Path
from core.paths import REPO_ROOT, Home
from execution.drill.ten_years import simulate
from tests.fakes.scans import calendar_2024
span = date(2024, 2, 1), date(2024, 3, 8)
found = simulate(Home(Path(sys.argv[1])), calendar_2024(), *span, seed=3, catch_up_s=600.0)
print(json.dumps([found.head, found.on_time, found.late, found.missed, list(found.wrong)]))
"""


def test_P14_the_same_seed_is_the_same_years_to_the_byte_on_any_machine(tmp_path: Path) -> None:
    """Other order of sets, another time zone, another folder: the journal ends in the same hash."""
    told = []
    for hashes, zone in (("1", "America/New_York"), ("77", "Asia/Kolkata")):
        env = os.environ | {"PYTHONHASHSEED": hashes, "TZ": zone}
        command = [sys.executable, "-c", YEARS, str(tmp_path / hashes)]
        told.append(subprocess.run(command, cwd=REPO_ROOT, env=env, capture_output=True, text=True, check=True).stdout)
    assert told[0] == told[1] and len(json.loads(told[0])[0]) == 64 and json.loads(told[0])[-1] == []


def test_years_that_this_machine_has_disturbed_are_not_called_true(tmp_path: Path) -> None:
    from execution.drill import ten_years

    class Full(ten_years._Session):
        def run(self, run: DueRun) -> RunReport:
            if run.id.endswith("02-06T10:30"):
                raise OSError(28, "No space left on device")
            return super().run(run)

    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(ten_years, "_Session", Full)
        home = Home(tmp_path / "full")
        found = ten_years.simulate(home, calendar_2024(), date(2024, 2, 1), date(2024, 2, 9), seed=5, catch_up_s=5.0)
    assert any("failed by itself" in line for line in found.wrong), found.wrong


def test_P15_the_judge_of_those_years_sees_a_scan_that_is_made_twice_late_or_not_told(tmp_path: Path) -> None:
    from execution.drill import ten_years

    class Twice(ten_years._Session):
        def run(self, run: DueRun) -> RunReport:
            if run.id.endswith("02-06T10:30"):
                self._machine.made.append((run.id, self._machine.clock.true))
            return super().run(run)

    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(ten_years, "_Session", Twice)
        home = Home(tmp_path / "twice")
        found = ten_years.simulate(home, calendar_2024(), date(2024, 2, 1), date(2024, 2, 15), seed=5, catch_up_s=5.0)
    assert found.wrong == ("2024-02-06T10:30: made 2 times, missed 0, closed 0",)
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(logs, "error_event", lambda name, /, **fields: None)
        home = Home(tmp_path / "silent")
        found = ten_years.simulate(home, calendar_2024(), date(2024, 2, 1), date(2024, 3, 15), seed=5, catch_up_s=5.0)
    assert found.wrong and all("without an alert" in line for line in found.wrong)


def test_D22_outside_the_hours_of_the_calendar_a_closed_broker_is_nothing_unusual(tmp_path: Path) -> None:
    made = scene(tmp_path, "PICKA", start_at=ny("08:00"))
    open_clock = made.broker.clock
    made.broker.clock = lambda: replace(open_clock(), is_open=False)
    report = made.session.run(due())
    assert report.code != "MARKET_CLOSED" and {c for i in report.intents for c in i["codes"]} == {"SESSION_CLOSED"}


def test_D23_the_week_of_a_switch_has_each_scan_once_at_its_wall_time(tmp_path: Path) -> None:
    for start, end in ((date(2024, 3, 8), date(2024, 3, 11)), (date(2024, 11, 1), date(2024, 11, 4))):
        h = host(tmp_path / f"{start}", ny("09:00", start))
        h.run_until(ny("17:00", end), step_s=60)
        assert h.scan_runs() == [f"{day}T{what}" for day in (start, end) for what in (*TIMES, "close")]
        assert [at for at, what in h.session.did if what.endswith("T09:35")] == ["09:35:00"] * 2


def test_D24_a_leap_day_is_a_session_like_any_other(tmp_path: Path) -> None:
    leap = date(2024, 2, 29)
    h = host(tmp_path, ny("09:00", leap))
    h.run_until(ny("17:00", leap), step_s=60)
    assert h.scan_runs() == [f"2024-02-29T{what}" for what in (*TIMES, "close")] and h.missed() == {}


def test_P60_the_end_of_the_calendar_is_told_sixty_days_before_and_stops_thirty_sessions_before(tmp_path: Path) -> None:
    """A calendar that cannot fetch further years; the bundled one fetches them by itself."""
    known = calendar_2024()
    ends = MarketCalendar(Facts(known.sessions, {}, {}, 2024))
    for today, problem, warning in (
        (date(2024, 10, 31), "", ""),  # the last session known is 31 December: 61 days
        (date(2024, 11, 1), "", ""),
        (date(2024, 11, 4), "", "CALENDAR_ENDS"),
        (date(2024, 11, 18), "", "CALENDAR_ENDS"),
        (date(2024, 11, 19), "CALENDAR_ENDS", ""),  # 29 sessions left
    ):
        context = a_context(tmp_path, at=ny("08:00", today), calendar=ends)
        (found,) = [f for f in ground.checks(context, allow_dirty=False) if f.name == "calendar"]
        assert (found.problem.code if found.problem else "", found.warning) == (problem, warning), today
        assert "2024-12-31" in found.found


def test_P60_the_bundled_calendar_has_no_end_in_sight(tmp_path: Path) -> None:
    context = a_context(tmp_path, at=datetime(2031, 12, 1, 12, tzinfo=UTC))
    (found,) = [f for f in ground.checks(context, allow_dirty=False) if f.name == "calendar"]
    assert found.problem is None and found.warning == ""
