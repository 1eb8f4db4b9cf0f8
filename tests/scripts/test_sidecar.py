"""The sidecar as a process of its own, and the runner's side of it: it is told, started again, and never waited for."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from config.settings_schema import Settings
from core import logs
from core.clock import SteppedClock, SystemClock
from core.domain import Mode
from core.errors import ConfigError, UsageError
from execution.heartbeat import BEAT_FILE, Heartbeat
from execution.sidecar import listening
from scripts import beside
from scripts import child as process_of
from scripts.sidecar import rules_of
from tests.fakes.trading import NOW

ROOT = Path(__file__).resolve().parents[2]
KEYS = ("POLYGON_API_KEY", "ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY", "ANTHROPIC_API_KEY", "KOBE_SIDECAR_TOKEN")


# ---------------------------------------------------------------- a process
def started(home: Path, *argv: str) -> subprocess.Popen[str]:
    words = [sys.executable, str(ROOT / "scripts" / "sidecar.py"), "--mode", "paper", *argv]
    given = {**os.environ, **dict.fromkeys(KEYS, ""), "KOBE_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(words, env=given, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "SIMULATED" in line, line
    return line.strip().rsplit(" ", 1)[1]


def fetch(url: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def comes_alive(beat: Heartbeat, url: str) -> bool:
    """Beats until it is seen: on a busy machine an answer may be as old as a standstill."""
    for _ in range(30):
        beat("waiting")
        if fetch(f"{url}health")[0] == 200:
            return True
        SystemClock().sleep(0.3)
    return False


def test_it_serves_a_home_and_ends_on_sigterm(warm_home: Path) -> None:
    with started(warm_home, "--port", "0") as process:
        try:
            url = address(process)
            status, text = fetch(f"{url}health")
            assert status == 503
            assert [row["code"] for row in json.loads(text)["reasons"]] == ["RUNNER_ABSENT"]
            beat = Heartbeat(warm_home / "state" / BEAT_FILE, SystemClock())
            assert comes_alive(beat, url)
            assert fetch(url)[0] == 200 and fetch(f"{url}metrics")[0] == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
        assert process.stderr is not None and process.stderr.read() == ""


def test_it_goes_on_to_say_that_its_runner_died_and_ends_for_the_next_one(warm_home: Path) -> None:
    beat = Heartbeat(warm_home / "state" / BEAT_FILE, SystemClock())
    beat("waiting")
    with started(warm_home, "--port", "0", "--runner", beat.nonce) as process:
        try:
            url = address(process)
            assert comes_alive(beat, url)
            assert process.stdin is not None
            process.stdin.close()  # the runner is gone, without a word
            SystemClock().sleep(5.5)
            assert process.poll() is None and fetch(f"{url}ready")[0] == 503
            Heartbeat(warm_home / "state" / BEAT_FILE, SystemClock())("starting")  # the next runner
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_it_ends_with_a_runner_that_was_stopped(warm_home: Path) -> None:
    beat = Heartbeat(warm_home / "state" / BEAT_FILE, SystemClock())
    beat("waiting")
    with started(warm_home, "--port", "0", "--runner", beat.nonce) as process:
        try:
            address(process)
            beat("stopped")
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"port": 0}, "port"), ({"allowed_hosts": ["*"]}, "allowed_hosts"), ({"allowed_hosts": ["a:80"]}, "no port"),
     ({"metrics_per_minute_live": 0}, "metrics_per_minute_live"), ({"token": "x"}, "token")],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(ValidationError, match=code):
        Settings.model_validate({"sidecar": changes})


@pytest.mark.parametrize(("mode", "limit"), [(Mode.LIVE, 60), (Mode.PAPER, None)])
def test_the_limit_of_the_metrics_routes_is_the_modes(
    monkeypatch: pytest.MonkeyPatch, mode: Mode, limit: int | None
) -> None:
    monkeypatch.setenv("KOBE_SIDECAR_TOKEN", "")
    made = rules_of(SimpleNamespace(settings=Settings(), mode=mode), None)  # type: ignore[arg-type]
    assert (made.metrics_per_minute, made.port, made.host, made.token) == (limit, 8080, "127.0.0.1", None)


def test_beyond_loopback_it_starts_with_a_token_of_the_environment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate({"sidecar": {"host": "0.0.0.0"}})
    context: Any = SimpleNamespace(settings=settings, mode=Mode.PAPER)
    monkeypatch.setenv("KOBE_SIDECAR_TOKEN", "")
    with pytest.raises(ConfigError) as caught:
        rules_of(context, None)
    assert (caught.value.code, int(caught.value.exit_code)) == ("SIDECAR_TOKEN_MISSING", 10)
    monkeypatch.setenv("KOBE_SIDECAR_TOKEN", " a-token-that-nobody-guesses ")
    assert rules_of(context, 9000).token == "a-token-that-nobody-guesses"


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_is_none_is_usage(port: int) -> None:
    with pytest.raises(UsageError):
        rules_of(SimpleNamespace(settings=Settings(), mode=Mode.PAPER), port)  # type: ignore[arg-type]


def test_a_port_in_use_is_exit_10(warm_home: Path) -> None:
    taken = listening("127.0.0.1", 0)
    with taken, started(warm_home, "--port", str(taken.getsockname()[1])) as process:
        _, error = process.communicate(timeout=60)
    assert process.returncode == 10 and error.startswith("kobe: PORT_IN_USE")


# ---------------------------------------------------------------- the runner's side
class Process:
    """A child that lives until told otherwise."""

    made: list[Process] = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, command: list[str], **options: Any) -> None:
        self.command, self.options, self.pid = command, options, 4711
        self.returncode: int | None = None
        self.stdin = SimpleNamespace(close=lambda: setattr(self, "closed", True))
        self.closed = False
        Process.made.append(self)

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout_s: float) -> int:
        assert self.closed, "its end of the pipe was not closed"
        raise subprocess.TimeoutExpired("sidecar", timeout_s)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    Process.made = []
    monkeypatch.setattr(process_of.subprocess, "Popen", Process)
    return Process.made


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(logs, "error_event", lambda event, **facts: found.append((event, facts["code"])))
    return found


def a_child(root: Path, *, enabled: bool = True, port: int = 0, **args: Any) -> tuple[beside.Beside, SteppedClock]:
    clock = SteppedClock(NOW)
    settings = SimpleNamespace(sidecar=SimpleNamespace(enabled=enabled, host="127.0.0.1", port=port))
    context: Any = SimpleNamespace(clock=clock, settings=settings)
    values = {"mode": "paper", "dotenv": None, "scan_times": None, "no_sidecar": False, **args}
    return beside.Beside(context, argparse.Namespace(**values), Heartbeat(root / BEAT_FILE, clock)), clock


def test_one_is_started_with_what_the_runner_was_given(tmp_path: Path, made: list[Process]) -> None:
    child, clock = a_child(tmp_path, dotenv=Path("x.env"), scan_times="09:35,15:55")
    for _ in range(5):
        child.look()
        clock.sleep(1)
    assert len(made) == 1
    words = made[0].command[2:]
    nonce = words[words.index("--runner") + 1]
    assert words == [
        "--mode", "paper", "--runner", nonce, "--dotenv", "x.env", "--scan-times", "09:35,15:55"
    ]  # fmt: skip
    assert made[0].options["stdin"] is subprocess.PIPE and made[0].options["stdout"] is subprocess.DEVNULL
    if os.name != "nt":
        assert made[0].options["start_new_session"] is True


@pytest.mark.parametrize("changes", [{"enabled": False}, {"no_sidecar": True}])
def test_none_is_started_when_told_otherwise(tmp_path: Path, made: list[Process], changes: dict[str, Any]) -> None:
    child, _ = a_child(tmp_path, **changes)
    child.look()
    child.end()
    assert made == []


def test_a_dead_one_is_told_once_and_started_again_with_growing_pauses(
    tmp_path: Path, made: list[Process], told: list[tuple[str, str]]
) -> None:
    child, clock = a_child(tmp_path)
    starts: list[float] = []
    for _ in range(400):
        child.look()
        if len(made) > len(starts):
            starts.append(clock.monotonic())
            made[-1].returncode = 10
        clock.sleep(1)
    pauses = [b - a for a, b in itertools.pairwise(starts)]
    assert pauses[:5] == [6.0, 11.0, 21.0, 41.0, 81.0], "seen a tick after it died, then 5, 10, 20 … s"
    assert max(pauses) <= process_of.AGAIN_MOST_S + 1
    assert told == [("sidecar_ended", "SIDECAR_ENDED")]


def test_one_that_lived_begins_with_the_first_pause_and_is_told_again(
    tmp_path: Path, made: list[Process], told: list[tuple[str, str]]
) -> None:
    child, clock = a_child(tmp_path)
    for n in range(3):
        child.look()
        assert len(made) == n + 1
        clock.advance(timedelta(seconds=process_of.LIVED_S))
        made[-1].returncode = -9
        child.look()
        clock.advance(timedelta(seconds=process_of.AGAIN_FIRST_S))
    assert told == [("sidecar_ended", "SIDECAR_ENDED")] * 3


def test_a_port_in_use_is_a_told_event_and_trading_goes_on(
    tmp_path: Path, made: list[Process], told: list[tuple[str, str]]
) -> None:
    taken = listening("127.0.0.1", 0)
    child, clock = a_child(tmp_path, port=taken.getsockname()[1])
    with taken:
        for _ in range(60):
            child.look()
            clock.sleep(1)
    assert made == [] and told == [("sidecar_not_started", "PORT_IN_USE")]
    clock.advance(timedelta(seconds=process_of.AGAIN_MOST_S))
    child.look()
    assert len(made) == 1, "and it is tried again"


def test_a_machine_that_starts_no_process_is_a_told_event(
    tmp_path: Path, told: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(process_of.subprocess, "Popen", refuse)
    child, _ = a_child(tmp_path)
    child.look()
    assert told == [("sidecar_not_started", "SIDECAR_NOT_STARTED")]


def test_the_end_closes_the_pipe_and_does_not_wait_for_long(tmp_path: Path, made: list[Process]) -> None:
    child, _ = a_child(tmp_path)
    child.look()
    child.end()
    assert made[0].closed
