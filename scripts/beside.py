"""The sidecar as the runner's child. Whatever becomes of it, trading goes on: it is told, and started again later."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from core import logs
from core.errors import ConfigError
from core.paths import REPO_ROOT

if TYPE_CHECKING:
    from execution.heartbeat import Heartbeat
    from scripts.wiring import Context

AGAIN_FIRST_S, AGAIN_MOST_S = 5.0, 300.0
LIVED_S = 60.0
"""One that lived so long had no trouble starting: the next wait is the first again."""
_END_S = 1.0
_BELOW_NORMAL, _NO_WINDOW = 0x00004000, 0x08000000  # Windows: BELOW_NORMAL_PRIORITY_CLASS, CREATE_NO_WINDOW


class Beside:
    """`look` at every tick of the runner; it never raises and never waits."""

    def __init__(self, context: Context, args: argparse.Namespace, beat: Heartbeat) -> None:
        self._context, self._args, self._beat = context, args, beat
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = context.settings.sidecar.enabled and not args.no_sidecar
        self._next = self._started = context.clock.monotonic()
        self._wait_s = AGAIN_FIRST_S
        self._told = ""  # the trouble last told: once, not at every try
        if not self._wanted:
            logs.event("sidecar_off", code="SIDECAR_OFF")

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
        self._trouble("SIDECAR_ENDED", f"it ended with code {code}; trading goes on", event="sidecar_ended")
        self._close_pipe()
        self._later()

    def _later(self) -> None:
        self._next = self._context.clock.monotonic() + self._wait_s
        self._wait_s = min(AGAIN_MOST_S, 2 * self._wait_s)

    def _start(self, now: float) -> None:
        try:
            self._port_is_free()
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                **_behind(),
            )  # fmt: skip
        except ConfigError as error:
            self._trouble(error.code, f"{error}; trading goes on without it")
            self._later()
            return
        except OSError as error:
            self._trouble("SIDECAR_NOT_STARTED", f"{error}; trading goes on without it")
            self._later()
            return
        self._started = now
        logs.event("sidecar_set", code="SIDECAR_SET", sidecar_pid=self._process.pid)

    def _port_is_free(self) -> None:
        """Asked here, so that a port in use is one line and not a process every few minutes. Raises ConfigError."""
        from execution.sidecar import listening

        sidecar = self._context.settings.sidecar
        listening(sidecar.host, sidecar.port).close()

    def _trouble(self, code: str, detail: str, *, event: str = "sidecar_not_started") -> None:
        logs.count("sidecar_troubles", code=code)
        if code != self._told:
            self._told = code
            logs.error_event(event, code=code, detail=detail)

    def _command(self) -> list[str]:
        command = [sys.executable, str(REPO_ROOT / "scripts" / "sidecar.py"), "--mode", self._args.mode]
        command += ["--runner", self._beat.nonce]
        for option, name in (("--dotenv", "dotenv"), ("--scan-times", "scan_times")):
            value = getattr(self._args, name)
            if value is not None:
                command += [option, str(value)]
        return command

    def _close_pipe(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process = None

    def end(self) -> None:
        """After the last beat: it reads there that the runner was stopped, and goes. Not waited for long."""
        process = self._process
        self._close_pipe()
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)


def _behind() -> dict[str, Any]:
    """Out of reach of the runner's terminal, and behind it when the processor is short."""
    if os.name == "nt":
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        return {"creationflags": group | _NO_WINDOW | _BELOW_NORMAL}
    return {"start_new_session": True}
