"""alerts.py and alerting.py as an operator meets them, and the runner's side of the alerting process."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core import logs
from core.clock import SteppedClock, SystemClock
from core.errors import Exit, UsageError
from execution.alerting import read_memory
from execution.heartbeat import BEAT_FILE, Heartbeat
from execution.notifier import FIRST
from execution.observe.alert_memory import FILE
from scripts import alarm, alert_sources
from scripts import child as process_of
from scripts.alerts import main
from tests.fakes.alarms import Alarmed
from tests.fakes.hooks import hook
from tests.fakes.observed import SETTINGS, Observed, at_ten
from tests.fakes.trading import NOW

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Observed:
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    found = at_ten(tmp_path)
    logs.configure(found.home, found.clock, run_id="t", mode="paper")
    return found


def halted(made: Observed) -> None:
    made.home.kill_switch.touch()
    Alarmed(made).step()


# ---------------------------------------------------------------- list
def test_list_of_a_new_home_says_that_nobody_looks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == Exit.OK
    assert "never worked" in capsys.readouterr().out


def test_list_shows_what_stands_and_what_to_do(made: Observed, capsys: pytest.CaptureFixture[str]) -> None:
    Alarmed(made).step()
    assert main(["list"], clock=made.clock) == Exit.OK
    halted(made)
    assert main(["list"], clock=made.clock) == Exit.NO
    shown = capsys.readouterr().out
    assert "CRITICAL KILL_SWITCH" in shown and "do: docs/emergency.md, Resume" in shown
    assert main(["list", "--json"], clock=made.clock) == Exit.NO
    (row,) = json.loads(capsys.readouterr().out)["alerts"]
    assert (row["name"], row["severity"], row["acknowledged"]) == ("KILL_SWITCH", "critical", False)


def test_list_says_when_alerting_does_not_work(made: Observed, capsys: pytest.CaptureFixture[str]) -> None:
    halted(made)
    made.clock.sleep(301)
    main(["list"], clock=made.clock)
    assert "does not work now" in capsys.readouterr().out


# ---------------------------------------------------------------- table
def test_the_table_has_the_runbooks_rows_and_says_what_is_not_known(
    warm_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KOBE_HOME", str(warm_home))
    made = at_ten(warm_home)
    assert main(["table", "--json"]) == Exit.OK
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["table"]}
    assert set(rows) == {"LLM_COST", "IOC_FILL_RATE", "SLIPPAGE", "COGNITIVE_APPROVAL", "PROVIDER_SUCCESS"}
    assert rows["LLM_COST"]["state"] == "unknown" and rows["LLM_COST"]["found"] == "unknown (LLM_ABSENT)"
    today = f"{SystemClock().now():%Y-%m-%d}"
    stats = {"success": 1, "failure": 9, "kinds": {}, "days": {today: {"success": 1, "failure": 9}}}
    document = {"schema_version": 1, "providers": {"polygon": stats}}
    (made.home.state / "provider_stats.json").write_text(json.dumps(document))
    assert main(["table"]) == Exit.NO
    shown = capsys.readouterr().out
    assert "PROVIDER_SUCCESS:polygon" in shown and "critical" in shown and "10 %" in shown and "80 %" in shown


# ---------------------------------------------------------------- ack
def test_ack_wants_a_name_and_a_reason(made: Observed) -> None:
    halted(made)
    for words in (
        ["ack", "--reason", "x"],
        ["ack", "A", "--all-standing", "--reason", "x"],
        ["ack", "A", "--reason", " "],
    ):
        with pytest.raises(UsageError):
            main(words, clock=made.clock)
    with pytest.raises(SystemExit):
        main(["ack", "KILL_SWITCH"])


def test_ack_is_kept_with_its_reason(made: Observed, capsys: pytest.CaptureFixture[str]) -> None:
    halted(made)
    assert main(["ack", "OTHER", "--reason", "x"], clock=made.clock) == Exit.NO
    assert main(["ack", "KILL_SWITCH", "--reason", "on  it"], clock=made.clock) == Exit.OK
    main(["list"], clock=made.clock)
    assert "known: on it" in capsys.readouterr().out
    memory = read_memory(made.home.state / FILE)
    assert memory is not None and memory.unacknowledged() == []


def test_ack_of_everything(made: Observed) -> None:
    made.log("errors.jsonl", "backup_failed", code="X")
    halted(made)
    assert main(["ack", "--all-standing", "--reason", "x", "--json"], clock=made.clock) == Exit.OK
    memory = read_memory(made.home.state / FILE)
    assert memory is not None and all(e.acknowledged_at for e in memory.standing()) and len(memory.standing()) == 2


# ---------------------------------------------------------------- test
def test_a_test_message_goes_through_every_channel(
    made: Observed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test"]) == Exit.NO  # there is none
    with hook() as good, hook(status=500) as bad:
        monkeypatch.setenv(FIRST, good.url("json"))
        assert main(["test"]) == Exit.OK and "Nothing is wrong" in good.bodies
        monkeypatch.setenv("KOBE_ALERT_FALLBACK_URLS", bad.url("json"))
        assert main(["test", "--json"]) == Exit.NO
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["channels"]
    assert told[FIRST]["ok"] is True and told["KOBE_ALERT_FALLBACK_URLS"]["ok"] is False


# ---------------------------------------------------------------- the process
def test_the_process_looks_tells_and_ends(warm_home: Path) -> None:
    made = at_ten(warm_home)
    made.home.kill_switch.touch()
    with hook() as there:
        env = {**os.environ, "KOBE_HOME": str(warm_home), FIRST: there.url("json")}
        words = [sys.executable, str(ROOT / "scripts" / "alerting.py"), "--mode", "paper", "--once"]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "KILL_SWITCH" in there.bodies and "alerts to KOBE_ALERT_URLS" in done.stdout and "json://" not in done.stdout
    memory = read_memory(warm_home / "state" / FILE)
    assert memory is not None and "KILL_SWITCH" in memory.entries and memory.outbox == ()


# ---------------------------------------------------------------- the runner's side
class Process:
    made: list[Process] = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, command: list[str], **options: Any) -> None:
        self.command, self.options, self.pid = command, options, 4711
        self.returncode: int | None = None
        self.closed = False
        self.stdin = SimpleNamespace(close=lambda: setattr(self, "closed", True))
        Process.made.append(self)

    def poll(self) -> int | None:
        return self.returncode


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    Process.made = []
    monkeypatch.setattr(process_of.subprocess, "Popen", Process)
    return Process.made


def an_alarm(root: Path, **args: Any) -> tuple[alarm.Alarm, SteppedClock, Any]:
    clock = SteppedClock(NOW)
    enabled = args.pop("enabled", True)
    settings = SimpleNamespace(alerts=SETTINGS.alerts.model_copy(update={"enabled": enabled}))
    context: Any = SimpleNamespace(clock=clock, settings=settings, notes=[])
    values = {"mode": "paper", "dotenv": None, "scan_times": None, "no_sidecar": False, "no_alerts": False, **args}
    return alarm.Alarm(context, argparse.Namespace(**values), Heartbeat(root / BEAT_FILE, clock)), clock, context


def test_one_is_started_with_what_the_runner_was_given(tmp_path: Path, started: list[Process]) -> None:
    a, clock, context = an_alarm(tmp_path, scan_times="09:35", no_sidecar=True)
    for _ in range(5):
        a.look()
        clock.sleep(1)
    (process,) = started
    assert process.command[2:4] == ["--mode", "paper"] and process.command[-3:] == [
        "--scan-times",
        "09:35",
        "--no-sidecar",
    ]
    assert FIRST in context.notes[0], "nobody is told: the runner says so at its start"
    a.end()
    assert process.closed


@pytest.mark.parametrize("off", [{"no_alerts": True}, {"enabled": False}])
def test_it_may_be_left_out(tmp_path: Path, started: list[Process], off: dict[str, Any]) -> None:
    a, _, context = an_alarm(tmp_path, **off)
    a.look()
    a.end()
    assert started == [] and "alerts are off" in context.notes[0]


def test_a_dead_one_is_told_once_and_started_again_ever_later(tmp_path: Path, started: list[Process]) -> None:
    logs.configure(at_ten(tmp_path).home, SteppedClock(NOW), run_id="t", mode="paper")
    a, clock, _ = an_alarm(tmp_path)
    for _ in range(600):
        a.look()
        started[-1].returncode = 10
        clock.sleep(1)
    assert 6 <= len(started) <= 9
    assert (tmp_path / "logs" / "errors.jsonl").read_text().count("ALERTING_ENDED") == 1


def test_one_that_works_elsewhere_is_no_trouble(tmp_path: Path, started: list[Process]) -> None:
    logs.configure(at_ten(tmp_path).home, SteppedClock(NOW), run_id="t", mode="paper")
    a, clock, _ = an_alarm(tmp_path)
    for _ in range(600):
        a.look()
        started[-1].returncode = int(Exit.ALREADY_RUNNING)
        clock.sleep(1)
    assert len(started) <= 3
    assert not (tmp_path / "logs" / "errors.jsonl").exists()


def test_one_that_cannot_be_started_raises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(process_of.subprocess, "Popen", refuses)
    a, _, _ = an_alarm(tmp_path)
    a.look()
    a.end()


# ---------------------------------------------------------------- sources
def test_the_newest_backup_is_found_by_folder_and_by_log(made: Observed) -> None:
    backups = alert_sources.Backups(made.home)
    assert backups() is None
    (made.home.root / "backups" / "kobe-20240301T120000Z").mkdir(parents=True)
    (made.home.root / "backups" / "kobe-20240302T120000Z-2").mkdir()
    found = backups()
    assert found is not None and f"{found:%Y-%m-%d %H:%M}" == "2024-03-02 12:00"
    made.log("events.jsonl", "backup_made", code="OK")
    assert backups() == made.clock.now()


# ---------------------------------------------------------------- when it ends
@pytest.mark.parametrize(
    ("then", "ends"),
    [("killed", False), ("gave up", False), ("stopped", True), ("replaced", True), ("long dead", True), ("gone", True)],
)
def test_it_outlives_a_runner_that_died_and_no_other(made: Observed, then: str, ends: bool) -> None:
    from scripts.alerting import ORPHAN_S, _over

    context: Any = SimpleNamespace(clock=made.clock, home=made.home)
    over = _over(context, made.beat.nonce)
    assert not over()
    if then in ("gave up", "stopped"):
        made.beat(then)
    elif then == "replaced":
        Heartbeat(made.home.state / BEAT_FILE, made.clock)("starting")
    elif then == "long dead":
        made.clock.sleep(ORPHAN_S + 1)
    elif then == "gone":
        shutil.rmtree(made.home.root)
    assert over() is ends
