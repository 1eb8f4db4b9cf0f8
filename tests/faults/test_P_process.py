"""Bugs, crashes, leaks, and a disk that changes under a running process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from config.lock import environment_sha256
from config.settings_schema import Settings
from config.watch import Changed, Watch, fingerprints
from core import host as machine
from core import logs
from core.clock import SteppedClock
from core.domain import Symbol
from core.errors import BrokerDown, Exit, StateCorrupt, StateLocked
from core.host import Gauges
from core.journal import Journal
from data.universe import Universe
from execution.heartbeat import Beat
from execution.runner import MAX_BUGS
from execution.starts import CrashLoop, counted_start, pause_s, read_starts
from execution.upkeep import EVERY_S, Upkeep
from execution.watchdog import Stall, Verdict, judge
from portfolio.strategies import ibs_rsi, turtle_soup
from scripts import ground, running, scanning, wiring
from scripts.trading import ScanPlanner
from tests.fakes.bar_files import small_market
from tests.fakes.grounds import a_context
from tests.fakes.runners import Stop, host, ny
from tests.fakes.scans import calendar_2024, decision, due, hold, scene
from tests.fakes.small_scan import PANEL, scan
from tests.fakes.trading import NOW

ROOT = Path(__file__).resolve().parents[2]
HOUR = timedelta(hours=1)


def told(metric: str, **labels: str) -> int:
    wanted = set(labels.items())
    return sum(n for (name, found), n in logs.counters().items() if name == metric and wanted <= set(found))


# ---------------------------------------------------------------- a bug in one strategy
Break = Callable[[Any], Any]


def raises(*_: Any) -> Any:
    raise ZeroDivisionError("a bug in one strategy")


def strength_over_one(*given: Any) -> Any:
    return replace(SOUND[ibs_rsi](*given), strength=SOUND[ibs_rsi](*given).strength * 0 + 7)


def one_rule_of_another_shape(*given: Any) -> Any:
    made = SOUND[ibs_rsi](*given)
    return replace(made, rules=[replace(made.rules[0], holds=made.rules[0].holds[:1]), *made.rules[1:]])


SOUND = {module: module.evaluate for module in (ibs_rsi, turtle_soup)}


@pytest.mark.parametrize("bug", [raises, strength_over_one, one_rule_of_another_shape])
def test_P21_a_strategy_that_raises_is_off_and_the_others_go_on(bug: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = scan()
    monkeypatch.setattr(ibs_rsi, "evaluate", bug)
    result = scan()
    assert [failed.strategy for failed in result.off] == ["ibs_rsi"] and "Error" in result.off[0].trace
    assert [p.signal.symbol for p in result.picks] == ["SOUP"]
    assert {v.symbol for v in result.verdicts} == {v.symbol for v in sound.verdicts}
    assert [p for p in sound.picks if p.signal.strategy == "turtle_soup"] == list(result.picks)


def test_P21_with_every_strategy_off_nothing_is_picked_and_the_verdicts_say_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (ibs_rsi, turtle_soup):
        monkeypatch.setattr(module, "evaluate", raises)
    result = scan()
    assert result.picks == () and result.refused["STRATEGY_FAILED"] == 5 and len(result.off) == 2
    assert result.considered == sum(result.refused.values())


def test_P21_a_strategy_that_is_off_is_told_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turtle_soup, "evaluate", raises)
    context = a_context(tmp_path)
    logs.configure(context.home, context.clock, run_id="t", mode="paper")
    before = told("strategies_failed", strategy="turtle_soup")
    scanning.record(context, scan())
    assert told("strategies_failed", strategy="turtle_soup") == before + 1
    (line,) = (context.home.logs / "errors.jsonl").read_text().splitlines()
    assert '"code":"STRATEGY_FAILED"' in line and "ZeroDivisionError" in line


def test_P21_a_bug_in_the_indicator_exits_keeps_no_time_stop_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = scene(tmp_path / "world")
    hold(made, "HELD")
    context = a_context(tmp_path, calendar=calendar_2024())
    planner = ScanPlanner(context, Universe((Symbol("HELD"),), {Symbol("HELD"): None}, "0", ()))
    planner._data = wiring.MarketData(PANEL, date(2024, 3, 7), "test", True, "0", 15.0, {})
    run = replace(due("15:55", session=date(2024, 3, 8)), last=True)
    monkeypatch.setattr("portfolio.strategies.compute_indicators", raises)
    ((decision_id, reason),) = planner.exits(run, made.ledger())
    assert (decision_id, str(reason)) == (decision("HELD"), "time")


def test_P21_two_bugs_and_a_success_start_the_count_again(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"), times=("09:35", "10:30"))
    bug = RuntimeError("a bug")
    h.session.errors = [bug, bug, None, bug, bug, None]
    assert h.run_until(ny("11:00")) == 0
    assert h.scan_runs() == ["2024-03-05T09:35", "2024-03-05T10:30"]


# ---------------------------------------------------------------- crashing again and again
@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "starts.json"


def one_start(path: Path, clock: SteppedClock, error: BaseException | None = None, code: int = 0) -> int:
    """A process that is started, and how many crashes it was told of."""
    try:
        with counted_start(path, clock, crashes_max=3, within=HOUR) as run:
            if error is not None:
                raise error
            run.ended(code)
    except BaseException as raised:
        if raised is not error:
            raise
    clock.advance(timedelta(seconds=10))
    return run.crashed


def test_P22_after_three_crashes_the_runner_stays_down_with_one_alert_until_a_person_looks(ledger: Path) -> None:
    clock, before = SteppedClock(NOW), told("crash_loops")
    assert [one_start(ledger, clock, ZeroDivisionError("a bug")) for _ in range(3)] == [0, 1, 2]
    for _ in range(20):
        with pytest.raises(CrashLoop) as caught:
            one_start(ledger, clock)
        clock.advance(timedelta(days=1))  # it stays down: time alone mends nothing
    assert caught.value.exit_code == Exit.HALTED and "starts.json" in caught.value.advice
    assert told("crash_loops") - before == 1
    ledger.unlink()
    assert one_start(ledger, clock) == 0


@pytest.mark.parametrize("crash", ["exception", "too many bugs", "killed"])
def test_P22_whatever_did_not_end_by_itself_is_a_crash(ledger: Path, crash: str) -> None:
    clock = SteppedClock(NOW)
    if crash == "killed":
        before = counted_start(ledger, clock, crashes_max=3, within=HOUR)
        before.__enter__()  # and no end: the process is gone
        kept = ledger.read_bytes()
        before.__exit__(None, None, None)
        ledger.write_bytes(kept)
    else:
        one_start(ledger, clock, RuntimeError("x") if crash == "exception" else None, code=1)
    assert one_start(ledger, clock) == 1
    assert one_start(ledger, clock) == 1, "the crash is remembered, the clean end after it is none"


def test_P22_refusals_and_clean_ends_are_no_crashes_and_old_crashes_are_forgotten(ledger: Path) -> None:
    clock = SteppedClock(NOW)
    for _ in range(10):
        assert one_start(ledger, clock, BrokerDown("503")) == 0
        assert one_start(ledger, clock, KeyboardInterrupt()) == 0
        assert one_start(ledger, clock) == 0
    one_start(ledger, clock, RuntimeError("x"))
    clock.advance(HOUR - timedelta(seconds=10))
    assert one_start(ledger, clock) == 1, "exactly an hour ago still counts"
    assert one_start(ledger, clock) == 0
    assert len(read_starts(ledger).rows) <= 50


def test_P22_a_clock_set_back_forgets_no_crash(ledger: Path) -> None:
    clock = SteppedClock(NOW)
    one_start(ledger, clock, RuntimeError("x"))
    clock.set(NOW - timedelta(days=30))
    assert one_start(ledger, clock) == 1


def test_P22_each_restart_waits_longer_and_the_operator_can_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [pause_s(n) for n in range(9)] == [0, 5, 10, 20, 40, 80, 160, 300, 300]

    class Ending(threading.Event):
        waited = 0.0

        def wait(self, timeout: float | None = None) -> bool:
            self.waited += timeout or 0.0
            return self.waited >= 7

    said: list[str] = []
    beat: Any = type("B", (), {"__call__": lambda self, what: said.append(what), "pulse": lambda self: None})()
    stop = Ending()
    with counted_start_of(crashed=3) as run:
        running.back_off(run, stop, beat)
    assert stop.waited == 7 and said == ["waiting 20 s after 3 crashes"]
    with counted_start_of(crashed=0) as run:
        running.back_off(run, stop, beat)
    assert stop.waited == 7


def counted_start_of(crashed: int) -> Any:
    import contextlib

    from execution.starts import Run

    return contextlib.nullcontext(Run(crashed))


ODD_START = b'{"schema_version":1,"stopped_at":null,"starts":[{"at":"x","end":null}]}'


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\0" * 40, b"[]", b'{"schema_version": 2}', b"null", ODD_START], ids=range(7)
)
def test_P22_a_damaged_record_of_starts_is_no_clean_past(ledger: Path, content: bytes) -> None:
    ledger.write_bytes(content)
    with pytest.raises(StateCorrupt):
        one_start(ledger, SteppedClock(NOW))
    assert ledger.read_bytes() == content


def test_P22_three_bugs_in_a_row_end_the_runner_with_1(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:35"))
    h.session.always = ZeroDivisionError("a bug")
    assert h.run_until(ny("18:00"), step_s=1.0) == 1
    assert len(h.session.did) == MAX_BUGS and h.clock.now() < ny("09:36")
    assert [r.body["code"] for r in h.journal.kinds("run_failed")] == ["BUG"] * MAX_BUGS


# ---------------------------------------------------------------- leaks
@pytest.mark.parametrize(
    ("found", "code"),
    [
        (Gauges(800, 1000, 10, None), None), (Gauges(801, 1000, 10, None), "FILES_NEAR_LIMIT"),
        (Gauges(None, 1000, 10, None), None), (Gauges(900, None, 10, None), None),
        (Gauges(10, 1000, 200, None), None), (Gauges(10, 1000, 201, None), "THREADS_MANY"),
    ],
)  # fmt: skip
def test_P25_a_leak_is_told_before_the_limit(found: Gauges, code: str | None) -> None:
    strain = machine.strained(found)
    assert (None if strain is None else strain[0]) == code


def test_P25_the_gauges_see_what_is_opened_and_started(tmp_path: Path) -> None:
    before, go = machine.gauges(), threading.Event()
    files = [(tmp_path / f"{n}").open("wb") for n in range(20)]
    threads = [threading.Thread(target=go.wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    now = machine.gauges()
    go.set()
    for thread in threads:
        thread.join()
    for file in files:
        file.close()
    assert now.threads - before.threads == 5
    if before.open_files is not None and now.open_files is not None:
        assert now.open_files - before.open_files == 20
    if before.resident_bytes is not None:
        assert before.resident_bytes > 1_000_000


def test_P25_the_runner_tells_a_strain_when_it_begins_and_again_when_it_begins_again(tmp_path: Path) -> None:
    clock, now = SteppedClock(NOW), [Gauges(10, 100, 1, None)]
    upkeep = Upkeep(Watch(dict), lambda: now[0], Journal(tmp_path / "chain.jsonl", clock), clock)
    before = told("resources_strained", code="FILES_NEAR_LIMIT")

    def minutes(n: int) -> int:
        for _ in range(n):
            clock.advance(timedelta(seconds=EVERY_S))
            upkeep()
        return told("resources_strained", code="FILES_NEAR_LIMIT") - before

    assert minutes(3) == 0
    now[0] = Gauges(90, 100, 1, None)
    assert minutes(3) == 1
    now[0] = Gauges(10, 100, 1, None)
    assert minutes(1) == 1
    now[0] = Gauges(90, 100, 1, None)
    assert minutes(1) == 2


def soak(made: Any, scans: int) -> None:
    """Scans and looks of many days: every scan refuses its picks, so that only what leaks can grow."""
    for n in range(scans):
        made.session.run(due(f"scan-{n}"))
        made.session.look_after(date(2024, 3, 5))
        made.world.clock.advance(timedelta(minutes=1))


def test_P25_P26_hundreds_of_scans_leave_no_file_no_thread_and_no_memory_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(os, "fdatasync", lambda handle: None, raising=False)
    made = scene(tmp_path, *(f"P{n}" for n in range(5)))
    made.settings = made.settings.model_copy(
        update={"execution": made.settings.execution.model_copy(update={"entry_scans": "first"})}
    )
    hold(made, "HELD")
    made.open_session()
    soak(made, 40)  # caches fill
    before = machine.gauges()
    tracemalloc.start()
    soak(made, 20)
    warm = tracemalloc.get_traced_memory()[0]
    soak(made, 120)
    grown = tracemalloc.get_traced_memory()[0] - warm
    tracemalloc.stop()
    after = machine.gauges()
    assert after.threads <= before.threads
    assert (after.open_files or 0) <= (before.open_files or 0)
    per_scan = grown / 120
    thirty_days = per_scan * 21 * (3 + 390)  # scans and looks of a month's sessions
    assert thirty_days < 50e6, f"{per_scan:.0f} bytes a scan and look"


# ---------------------------------------------------------------- the disk changes under a running process
@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Path]:
    files = {name: tmp_path / f"{name}.txt" for name in ("config", "frozen_params", "universe")}
    for file in files.values():
        file.write_text("as started")
    return files


@pytest.mark.parametrize("item", ["config", "frozen_params", "universe"])
@pytest.mark.parametrize("content", ["edited", None])
def test_P33_an_edit_while_running_is_told_once_and_the_running_settings_stay(
    tmp_path: Path, tree: dict[str, Path], item: str, content: str | None
) -> None:
    clock, journal = SteppedClock(NOW), Journal(tmp_path / "chain.jsonl", SteppedClock(NOW))
    upkeep = Upkeep(Watch(lambda: fingerprints(tree)), lambda: Gauges(1, 100, 1, None), journal, clock)

    def look() -> list[dict[str, Any]]:
        clock.advance(timedelta(seconds=EVERY_S))
        upkeep()
        return [r.body for r in journal.kinds("changed_on_disk") if r.body["item"] == item]

    assert look() == []
    if content is None:
        tree[item].unlink()
    else:
        tree[item].write_text(content)
    for _ in range(3):
        (body,) = look()
        assert (body["item"], body["code"]) == (item, "CONFIG_CHANGED_ON_DISK")
    tree[item].write_text("as started")
    assert len(look()) == 1, "changed back to what runs: nothing to tell"
    tree[item].write_text("edited again")
    assert len(look()) == 2


def test_P33_P13_an_edit_that_cannot_be_written_down_yet_is_told_at_the_next_look(
    tmp_path: Path, tree: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, journal = SteppedClock(NOW), Journal(tmp_path / "chain.jsonl", SteppedClock(NOW))
    upkeep = Upkeep(Watch(lambda: fingerprints(tree)), lambda: Gauges(1, 100, 1, None), journal, clock)

    def held(*_: Any, **__: Any) -> None:
        raise StateLocked("chain.jsonl has been locked by another process for 10 s")

    for item in ("config", "universe"):
        tree[item].write_text("edited")
    with monkeypatch.context() as patch:
        patch.setattr(journal, "append", held)
        clock.advance(timedelta(seconds=EVERY_S))
        upkeep()
    assert list(journal.records()) == []
    for _ in range(2):
        clock.advance(timedelta(seconds=EVERY_S))
        upkeep()
        assert [r.body["item"] for r in journal.kinds("changed_on_disk")] == ["config", "universe"]


def test_P33_the_settings_of_a_running_program_cannot_change() -> None:
    settings = a_context(ROOT).settings
    with pytest.raises(ValueError, match="frozen"):
        settings.runner.heartbeat_s = 1.0


def test_P33_the_runner_looks_at_its_heartbeats(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:00"))
    looked: list[str] = []
    runner = h.runner()
    runner._upkeep = lambda: looked.append(f"{h.clock.now():%H:%M}")
    runner._stop = type(runner._stop)()
    h.clock.advance(timedelta(seconds=1))
    stop = Stop(h.clock, ny("09:05"), 5.0)
    runner._stop = stop
    assert runner.forever() == 0 and len(looked) == 10, "every 30 s"


def test_P50_a_package_exchanged_under_a_running_process_is_told(tmp_path: Path) -> None:
    have = {"numpy": "2.4.6", "requests": "2.32.0"}
    prints = {"packages": environment_sha256(have)}
    watch = Watch(lambda: prints)
    assert watch.news() == ()
    prints["packages"] = environment_sha256({**have, "numpy": "2.5.0"})
    (news,) = watch.news()
    assert isinstance(news, Changed) and news.code == "PACKAGES_CHANGED" and watch.news() == ()
    assert environment_sha256(dict(reversed(have.items()))) == environment_sha256(have)


def test_P50_a_start_with_other_code_or_packages_than_the_last_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, context = scene(tmp_path / "world"), a_context(tmp_path)
    prints = {"config": "a", "code": "b", "packages": "c"}
    monkeypatch.setattr(ground, "fingerprints", lambda files: dict(prints))
    start = told("changed_since_last_start")
    ground.record_start(context, made.world.desk, [])
    ground.record_start(context, made.world.desk, [])
    assert told("changed_since_last_start") == start
    prints |= {"code": "B", "packages": "C"}
    ground.record_start(context, made.world.desk, [])
    assert told("changed_since_last_start") == start + 2
    assert [r.body["code"] for r in made.world.journal.kinds("runner_started")] == ["b", "b", "B"]


LATE = """
    import argparse, json, sys
    sys.path.insert(0, sys.argv[1])
    from core.domain import Mode
    from scripts import ground, running, trading, wiring
    names = ("dotenv", "fills", "universe", "bars", "cap", "scan_times")
    args = argparse.Namespace(**dict.fromkeys(names), market=sys.argv[2])
    context = wiring.open_context(args, mode=Mode.PAPER, as_of="2024-03-04")
    context.market_spec = args.market
    with wiring.closing(context):
        context.home.state.mkdir(parents=True, exist_ok=True)
        desk, _ = trading.open_runners_desk(context)
        ground.snapshot_imports()
        known = set(sys.modules)
        session = trading.open_session(context, desk, running._universe(context, args), None)
        session.recover()
        report = session.run(running._due_now(context, args))
        session.close_out(report.run.session)
    late = {name: str(getattr(sys.modules[name], "__file__", "")) for name in set(sys.modules) - known}
    foreign = sorted(n for n, f in late.items() if "site-packages" in f or f.startswith(sys.argv[1]))
    print(json.dumps([report.code, len(report.intents), foreign]))
"""


def test_P50_after_its_start_a_runner_imports_nothing_more_so_no_upgrade_can_mix_in(tmp_path: Path) -> None:
    market = small_market(tmp_path / "market")
    words = [sys.executable, "-c", textwrap.dedent(LATE), str(ROOT), str(market)]
    env = {**os.environ, "KOBE_HOME": str(tmp_path / "home")}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == ["OK", 2, []]


# ---------------------------------------------------------------- progress
def test_P59_the_heartbeat_says_what_is_waited_for_and_what_is_running(tmp_path: Path) -> None:
    h = host(tmp_path, ny("09:34"))
    h.run_until(ny("09:37"))
    beats = [what for _, what in h.beats]
    assert "waiting for 2024-03-05T09:35 New York" in beats and "running 2024-03-05T09:35" in beats
    assert beats[-1] == "waiting for 2024-03-05T10:30 New York"
    assert len([b for b in beats if b.startswith("waiting")]) == 6  # every 30 s


def a_beat(beats: int) -> Beat:
    return Beat(1, "here", "2024-03-05T14:00:00Z", "n", beats, "waiting")


def test_P59_a_loop_that_no_longer_turns_is_seen_within_ninety_seconds() -> None:
    """The process lives, its file stands still: a counter that does not move is the alarm."""
    stalled_after_s = Settings().watchdog.stalled_after_s
    assert stalled_after_s <= 90
    stall, verdict, elapsed = Stall(most_s=1.0), Verdict.WATCHING, 0.0
    for beats in range(1, 10):
        stall.look(a_beat(beats), 0.5)
    while verdict is Verdict.WATCHING:
        elapsed += 0.5
        standing = stall.look(a_beat(9), 0.5)
        verdict = judge(
            a_beat(9), standing_s=standing, stalled_after_s=stalled_after_s, token=None, gone=False,
            something_out=lambda: True,
        )  # fmt: skip
    assert verdict is Verdict.STALLED and elapsed == stalled_after_s
