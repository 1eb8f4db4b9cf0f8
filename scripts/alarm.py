"""The alerting process as the runner's child. It ends with a runner that is stopped as told, and outlives any other."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from core import logs
from core.errors import Exit
from core.paths import REPO_ROOT
from execution.notifier import FIRST
from scripts.beside import AGAIN_FIRST_S, AGAIN_MOST_S, LIVED_S, _behind

if TYPE_CHECKING:
    from execution.heartbeat import Heartbeat
    from scripts.wiring import Context


class Alarm:
    """`look` at every tick of the runner; it never raises and never waits."""

    def __init__(self, context: Context, args: argparse.Namespace, beat: Heartbeat) -> None:
        self._context, self._args, self._beat = context, args, beat
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = context.settings.alerts.enabled and not args.no_alerts
        self._next = self._started = context.clock.monotonic()
        self._wait_s, self._told = AGAIN_FIRST_S, ""
        if not self._wanted:
            logs.event("alerts_off", code="ALERTS_OFF")
            context.notes.append("alerts are off: nobody is told when something is wrong")
        elif not os.environ.get(FIRST, "").strip():
            context.notes.append(f"{FIRST} is not set: alerts go to the log and to alerts.py list only")

    def look(self) -> None:
        if not self._wanted or (self._process is not None and self._process.poll() is None):
            return
        now = self._context.clock.monotonic()
        if self._process is not None:
            self._ended(self._process.returncode, lived_s=now - self._started)
        if now >= self._next:
            self._start(now)

    def _ended(self, code: int, *, lived_s: float) -> None:
        if lived_s >= LIVED_S:
            self._wait_s, self._told = AGAIN_FIRST_S, ""
        self._close_pipe()
        if code == Exit.ALREADY_RUNNING:  # one was started by hand or as a service, and does the same
            self._next, self._wait_s = self._context.clock.monotonic() + AGAIN_MOST_S, AGAIN_FIRST_S
            logs.event("alerting_elsewhere", code="ALERTING_ELSEWHERE")
            return
        self._trouble("ALERTING_ENDED", f"it ended with code {code}; trading goes on, and nobody is told of trouble")
        self._later()

    def _later(self) -> None:
        self._next = self._context.clock.monotonic() + self._wait_s
        self._wait_s = min(AGAIN_MOST_S, 2 * self._wait_s)

    def _start(self, now: float) -> None:
        try:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                **_behind(),
            )  # fmt: skip
        except OSError as error:
            self._trouble("ALERTING_NOT_STARTED", f"{error}; trading goes on, and nobody is told of trouble")
            self._later()
            return
        self._started = now
        logs.event("alerting_set", code="ALERTING_SET", alerting_pid=self._process.pid)

    def _trouble(self, code: str, detail: str) -> None:
        logs.count("alerting_troubles", code=code)
        if code != self._told:
            self._told = code
            logs.error_event("alerting_trouble", code=code, detail=detail)

    def _command(self) -> list[str]:
        command = [sys.executable, str(REPO_ROOT / "scripts" / "alerting.py"), "--mode", self._args.mode]
        command += ["--runner", self._beat.nonce]
        for option, name in (("--dotenv", "dotenv"), ("--scan-times", "scan_times")):
            value = getattr(self._args, name)
            if value is not None:
                command += [option, str(value)]
        return [*command, "--no-sidecar"] if self._args.no_sidecar else command

    def _close_pipe(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process = None

    def end(self) -> None:
        """After the last beat: it reads there that the runner was stopped, and goes. Not waited for."""
        self._close_pipe()
