"""The runner's sign of life: a small file that its main thread rewrites wherever it waits.

A beat from a helper thread would say nothing about progress, so those are ignored. The file is replaced, never
flushed to the disk: it is worth nothing after a power cut.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from core import logs
from core.clock import Clock
from core.files import write_atomic

BEAT_FILE = "runner.json"
PULSE_S = 0.2
"""No more than five writes a second."""
STOPPED, GAVE_UP = "stopped", "gave up"
_TOLD_AGAIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Beat:
    """What runner.json says. A process is pid, start and nonce together: pids are used again."""

    pid: int
    host: str
    started_at: str
    nonce: str
    beats: int
    doing: str
    watchdog: str | None = None

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host} since {self.started_at}"

    @property
    def stopped(self) -> bool:
        """It ended by itself, as told: nothing has to be looked after for it."""
        return self.doing == STOPPED

    @property
    def ended(self) -> bool:
        return self.doing in (STOPPED, GAVE_UP)


def read_beat(view: Path) -> Beat | None:
    """None when there is no such file, or none that makes sense."""
    try:
        facts = json.loads(view.read_bytes())
        watchdog = facts.get("watchdog")
        return Beat(
            pid=int(facts["pid"]), host=str(facts["host"]), started_at=str(facts["started_at"]),
            nonce=str(facts.get("nonce", "")), beats=int(facts.get("beats", 0)), doing=str(facts.get("doing", "")),
            watchdog=None if watchdog is None else str(watchdog),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


class Heartbeat:
    """`beat("running X")` says what is being done; `pulse()` only that it is still being done."""

    def __init__(self, view: Path, clock: Clock) -> None:
        self._view, self._clock = view, clock
        before = read_beat(view)
        self.predecessor = before if before is not None and not before.ended else None
        self.nonce = secrets.token_hex(8)
        self.last_word = STOPPED
        self._owner = threading.get_ident()
        self._started_at = _stamp(clock.now())
        self._beats, self._doing = 0, ""
        self._watchdog: str | None = None
        self._written: float | None = None
        self._told: float | None = None

    def __call__(self, what: str) -> None:
        self._doing = what
        self._write()

    def pulse(self) -> None:
        """Cheap, and called often. From another thread it does nothing."""
        if threading.get_ident() != self._owner:
            return
        if self._written is None or not 0 <= self._clock.monotonic() - self._written < PULSE_S:
            self._write()

    def watched_by(self, token: str | None) -> None:
        """Which watchdog looks after this runner: an older one then ends."""
        self._watchdog = token
        self._write()

    def _write(self) -> None:
        """A beat that cannot be written is told and stops nothing: the watchdog, which sees none, may."""
        self._beats += 1
        self._written = self._clock.monotonic()
        facts = {
            "pid": os.getpid(), "host": socket.gethostname(), "started_at": self._started_at, "nonce": self.nonce,
            "beats": self._beats, "beat_at": _stamp(self._clock.now()), "doing": self._doing,
            "watchdog": self._watchdog,
        }  # fmt: skip
        try:
            write_atomic(self._view, json.dumps(facts).encode(), durable=False)
        except OSError as error:
            if self._told is None or self._written - self._told >= _TOLD_AGAIN_S:
                logs.error_event("beat_not_written", code="BEAT_UNWRITABLE", detail=str(error))
                self._told = self._written
            logs.count("beats_not_written")


def _stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
