"""The runner's side of the watchdog, and the watchdog's own command."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core import logs
from core.clock import SteppedClock
from core.errors import ConfigError
from execution.heartbeat import BEAT_FILE, Heartbeat, read_beat
from scripts import watching
from tests.fakes.trading import NOW

ROOT = Path(__file__).resolve().parents[2]


class Process:
    """A child that lives until told otherwise."""

    made: list[Process] = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, command: list[str], **options: Any) -> None:
        self.command, self.options, self.pid = command, options, 4711
        self.returncode: int | None = None
        self.stdin = SimpleNamespace(close=lambda: setattr(self, "returncode", 0))
        Process.made.append(self)

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout_s: float) -> int:
        assert self.returncode == 0, "its end of the pipe was not closed"
        return 0


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    Process.made = []
    monkeypatch.setattr(watching.subprocess, "Popen", Process)
    return Process.made


def guard(root: Path, *, enabled: bool = True, **args: Any) -> tuple[watching.Guard, SteppedClock, Any, Heartbeat]:
    clock = SteppedClock(NOW)
    settings = SimpleNamespace(watchdog=SimpleNamespace(enabled=enabled))
    context: Any = SimpleNamespace(clock=clock, settings=settings, notes=[])
    beat = Heartbeat(root / BEAT_FILE, clock)
    beat("starting")
    chosen = argparse.Namespace(**{"mode": "paper", "market": "simulated", "fills": None, "dotenv": None, **args})
    return watching.Guard(context, chosen, beat), clock, context, beat


def test_one_watchdog_is_started_with_what_the_runner_was_given_and_named_in_the_beat(
    tmp_path: Path, made: list[Process]
) -> None:
    g, clock, _, _ = guard(tmp_path, market="bars", fills="at_open", dotenv=Path("x.env"))
    for _ in range(5):
        g.look()
        clock.sleep(1)
    assert len(made) == 1
    words = made[0].command[2:]
    token = words[words.index("--token") + 1]
    assert words == [
        "--token", token, "--mode", "paper", "--dotenv", "x.env", "--market", "bars", "--fills", "at_open"
    ]  # fmt: skip
    seen = read_beat(tmp_path / BEAT_FILE)
    assert seen is not None and seen.watchdog == token
    assert made[0].options["stdin"] is subprocess.PIPE and made[0].options["stdout"] is subprocess.DEVNULL
    if os.name != "nt":
        assert made[0].options["start_new_session"] is True


def test_one_that_died_is_told_and_replaced_at_most_once_a_minute(
    tmp_path: Path, made: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(logs, "error_event", lambda name, **fields: told.append(name))
    g, clock, _, _ = guard(tmp_path)
    g.look()
    for _ in range(119):
        made[-1].returncode = 1
        clock.sleep(1)
        g.look()
    assert len(made) == 2 and told == ["watchdog_ended"] * 2


def test_one_that_cannot_be_started_is_told_on_paper_and_refused_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(watching.subprocess, "Popen", refuse)
    told: list[str] = []
    monkeypatch.setattr(logs, "error_event", lambda name, **fields: told.append(fields["code"]))
    g, _, _, _ = guard(tmp_path)
    g.look()
    g.end()
    assert told == ["WATCHDOG_NOT_STARTED"]
    g, clock, _, _ = guard(tmp_path, mode="live")
    with pytest.raises(ConfigError) as caught:
        g.look()
    assert caught.value.code == "WATCHDOG_NOT_STARTED"
    g, clock, _, _ = guard(tmp_path, mode="live")
    monkeypatch.setattr(watching.subprocess, "Popen", Process)
    g.look()
    Process.made[-1].returncode = 1
    monkeypatch.setattr(watching.subprocess, "Popen", refuse)
    clock.sleep(61)
    g.look()  # a runner that holds positions does not end for it
    assert told.count("WATCHDOG_NOT_STARTED") == 3


def test_turned_off_it_is_not_started_and_that_is_said(tmp_path: Path, made: list[Process]) -> None:
    g, _, context, _ = guard(tmp_path, enabled=False)
    g.look()
    g.end()
    assert made == [] and "watchdog is off" in context.notes[0]


def test_at_the_end_its_pipe_is_closed(tmp_path: Path, made: list[Process]) -> None:
    g, _, _, _ = guard(tmp_path)
    g.look()
    g.end()
    g.end()
    assert made[0].returncode == 0


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
@pytest.mark.parametrize(("before", "stops"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_closed_terminal_ends_the_runner_as_told_unless_nohup_was_asked_for(before: Any, stops: bool) -> None:
    names = [signal.SIGHUP, signal.SIGTERM, signal.SIGINT]
    kept = [signal.getsignal(name) for name in names]
    try:
        signal.signal(signal.SIGHUP, before)
        stop = watching.stop_on_signals()
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.wait(0.2) is stops
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(1.0)
    finally:
        for name, handler in zip(names, kept, strict=True):
            signal.signal(name, handler)


def test_the_command_ends_by_itself_when_nobody_is_there_and_nothing_is_out(own_home: Path) -> None:
    (own_home / "state").mkdir(exist_ok=True)
    command = [sys.executable, "scripts/watchdog.py", "--token", "x", "--mode", "paper", "--json"]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == '{"ended":"alone","tripped":false}\n', done.stderr
    assert not (own_home / "state" / "KILL_SWITCH").exists()
