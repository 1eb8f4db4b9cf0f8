"""A process that the runner starts beside itself. Whatever becomes of it, trading goes on: told, and started again.

What differs between the sidecar and the alerting is in their classes: whether it is wanted, its command, its words.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from core import logs
from core.errors import ConfigError
from core.paths import REPO_ROOT

if TYPE_CHECKING:
    from execution.heartbeat import Heartbeat
    from scripts.wiring import Context

AGAIN_FIRST_S, AGAIN_MOST_S = 5.0, 300.0
LIVED_S = 60.0
"""One that lived so long had no trouble starting: the next wait is the first again."""
_BELOW_NORMAL, _NO_WINDOW = 0x00004000, 0x08000000  # Windows: BELOW_NORMAL_PRIORITY_CLASS, CREATE_NO_WINDOW


@dataclass(frozen=True, slots=True)
class Words:
    """What is said of one kind of child."""

    set_event: str
    set_code: str
    ended_event: str
    ended_code: str
    not_started_event: str
    not_started_code: str
    troubles: str  # counter
    ended: str  # what goes on, and what does not, once it has ended
    not_started: str


class Child:
    """`look` at every tick of the runner; it never raises and never waits."""

    script: ClassVar[str]  # its file in scripts/
    pid_field: ClassVar[str]
    words: ClassVar[Words]

    def __init__(self, context: Context, args: argparse.Namespace, beat: Heartbeat, *, wanted: bool) -> None:
        self._context, self._args, self._beat, self._wanted = context, args, beat, wanted
        self._process: subprocess.Popen[bytes] | None = None
        self._next = self._started = context.clock.monotonic()
        self._wait_s = AGAIN_FIRST_S
        self._told = ""  # the trouble last told: once, not at every try

    def look(self) -> None:
        if not self._wanted or (self._process is not None and self._process.poll() is None):
            return
        now = self._context.clock.monotonic()
        if self._process is not None:
            self._ended(self._process.returncode, lived_s=now - self._started)
        if now >= self._next:
            self._start(now)

    def end(self) -> None:
        """After the last beat: it reads there that the runner was stopped, and goes."""
        self._close_pipe()

    # ------------------------------------------------------------ what differs
    def _before_start(self) -> None:
        """Asked before each start, so that what cannot work is one line and no process. Raises ConfigError."""
        return

    def _command(self) -> list[str]:
        command = [sys.executable, str(REPO_ROOT / "scripts" / self.script), "--mode", self._args.mode]
        command += ["--runner", self._beat.nonce]
        for option, name in (("--dotenv", "dotenv"), ("--scan-times", "scan_times")):
            value = getattr(self._args, name)
            if value is not None:
                command += [option, str(value)]
        return command

    # ------------------------------------------------------------ starting, ending
    def _ended(self, code: int, *, lived_s: float) -> None:
        if lived_s >= LIVED_S:
            self._wait_s, self._told = AGAIN_FIRST_S, ""
        self._close_pipe()
        words = self.words
        self._trouble(words.ended_code, f"it ended with code {code}; {words.ended}", event=words.ended_event)
        self._later()

    def _later(self) -> None:
        self._next = self._context.clock.monotonic() + self._wait_s
        self._wait_s = min(AGAIN_MOST_S, 2 * self._wait_s)

    def _start(self, now: float) -> None:
        try:
            self._before_start()
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                **behind(),
            )  # fmt: skip
        except (ConfigError, OSError) as error:
            code = error.code if isinstance(error, ConfigError) else self.words.not_started_code
            self._trouble(code, f"{error}; {self.words.not_started}", event=self.words.not_started_event)
            self._later()
            return
        self._started = now
        logs.event(self.words.set_event, code=self.words.set_code, **{self.pid_field: self._process.pid})

    def _trouble(self, code: str, detail: str, *, event: str) -> None:
        logs.count(self.words.troubles, code=code)
        if code != self._told:
            self._told = code
            logs.error_event(event, code=code, detail=detail)

    def _close_pipe(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process = None


def behind() -> dict[str, Any]:
    """Out of reach of the runner's terminal, and behind it when the processor is short."""
    if os.name == "nt":
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        return {"creationflags": group | _NO_WINDOW | _BELOW_NORMAL}
    return {"start_new_session": True}
