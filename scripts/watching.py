"""What the runner does beside its jobs: the watchdog, its pulse, the look at the halt, the signals that end it."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from core import logs
from core.errors import ConfigError
from core.paths import REPO_ROOT

if TYPE_CHECKING:
    from execution.desk import Desk
    from execution.heartbeat import Heartbeat
    from execution.resume import HaltTeller
    from scripts.child import Child
    from scripts.wiring import Context

_NO_WINDOW = 0x08000000  # Windows: CREATE_NO_WINDOW
_END_S = 5.0
_AGAIN_S = 60.0


class Guard:
    """One watchdog process at a time; a dead one is started again, at most once a minute."""

    def __init__(self, context: Context, args: argparse.Namespace, beat: Heartbeat) -> None:
        self._context, self._args, self._beat = context, args, beat
        self._process: subprocess.Popen[bytes] | None = None
        self._next = context.clock.monotonic()
        self._had_one = False
        self._enabled = context.settings.watchdog.enabled
        if not self._enabled:
            logs.event("watchdog_off", code="WATCHDOG_OFF")
            context.notes.append("the watchdog is off: nobody cancels orders when this process hangs")

    def look(self) -> None:
        """Called at every tick of the runner. Raises ConfigError when live trading would begin without a watchdog."""
        if not self._enabled or (self._process is not None and self._process.poll() is None):
            return
        if self._process is not None:
            logs.error_event("watchdog_ended", code="WATCHDOG_ENDED", exit_code=self._process.returncode)
            logs.count("watchdogs_ended")
            self._forget()
        if self._context.clock.monotonic() >= self._next:
            self._next = self._context.clock.monotonic() + _AGAIN_S
            self._start()

    def _start(self) -> None:
        token = secrets.token_hex(8)
        try:
            self._process = subprocess.Popen(
                _command(self._args, token), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, **_detached(),
            )  # fmt: skip
        except OSError as error:
            logs.error_event("watchdog_not_started", code="WATCHDOG_NOT_STARTED", detail=str(error))
            logs.count("watchdogs_not_started")
            if self._args.mode == "live" and not self._had_one:
                raise ConfigError(f"the watchdog cannot be started: {error}", code="WATCHDOG_NOT_STARTED") from error
            return
        self._had_one = True
        self._beat.watched_by(token)
        logs.event("watchdog_set", code="WATCHDOG_SET", watchdog_pid=self._process.pid)

    def _forget(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process = None

    def end(self) -> None:
        """After the last beat: it reads there that all is well, and goes."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it has work to do: it is not ours to end
            process.wait(_END_S)


def _command(args: argparse.Namespace, token: str) -> list[str]:
    command = [sys.executable, str(REPO_ROOT / "scripts" / "watchdog.py"), "--token", token, "--mode", args.mode]
    for name in ("dotenv", "market", "fills"):
        value = getattr(args, name, None)
        if value is not None:
            command += [f"--{name}", str(value)]
    return command


def runner_gone() -> threading.Event:
    """In a child that the runner has started: set when the runner's end of the pipe is closed. It is gone then,
    however it went; immune to pids used again."""
    gone = threading.Event()

    def read() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        gone.set()

    threading.Thread(target=read, daemon=True, name="runner-pipe").start()
    return gone


def stop_on_signals() -> threading.Event:
    """Set by Ctrl-C, SIGTERM, a closed terminal or console: what is under way is finished, nothing new is begun."""
    stop = threading.Event()
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            continue  # not on this system, or nohup has asked to live on
        signal.signal(number, lambda *_: stop.set())
    return stop


def between(beat: Heartbeat, guard: Guard, halts: HaltTeller, *children: Child) -> None:
    """At every tick of the runner."""
    beat.pulse()
    guard.look()
    halts.look()
    for child in children:
        child.look()


def tell_takeover(desk: Desk, beat: Heartbeat) -> None:
    """The runner before this one left no word of its end: killed, or the machine went down (P06)."""
    before = beat.predecessor
    if before is not None:
        facts = {"runner": str(before), "nonce": before.nonce, "was_doing": before.doing}
        desk.journal.append("runner_taken_over", facts)
        logs.event("runner_taken_over", code="RUNNER_TAKEN_OVER", **facts)
        logs.count("runners_taken_over")


def _detached() -> dict[str, Any]:
    """A stop, an interrupt or a closed terminal of the runner's does not reach it."""
    if os.name == "nt":
        return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | _NO_WINDOW}
    return {"start_new_session": True}
