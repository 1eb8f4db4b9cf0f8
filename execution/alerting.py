"""Looks, judges, remembers, tells: the loop of scripts/alerting.py, one `step` per look.

It is a process of its own, so that a runner that hangs or was killed is still told of, and so that nothing it does can
hold up an order. It writes state/alerts.json and its log lines, takes no lock but that file's, and asks no broker.
A disk that takes nothing stops no message: what could not be written is kept in memory and told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from core import documents, logs
from core.clock import Clock
from core.errors import StateCorrupt, StateLocked
from core.files import locked
from execution.notifier import DeadMan, Notifier, digest
from execution.observe import alert_memory
from execution.observe.alert_memory import Memory, Policy
from execution.observe.alerts import Beside, Look, evaluate
from execution.observe.readiness import alive, readiness

if TYPE_CHECKING:
    from config.settings_schema import Settings
    from execution.observe.facts import Facts

WRITE_EVERY = timedelta(seconds=60)
"""How old `looked_at` may grow in the file while nothing else changes."""
TRY_FIRST_S, TRY_MOST_S = 5.0, 300.0
_LOCK_S = 1.0


class Alerting:
    """`step` every alerts.evaluate_s. Raises nothing but mistakes of ours."""

    def __init__(
        self, *, look: Callable[[], Facts], settings: Settings, file: Path, clock: Clock, mode: str,
        notifier: Notifier, deadman: DeadMan | None = None, sidecar_up: Callable[[], bool | None] = lambda: None,
        backup_at: Callable[[], datetime | None] = lambda: None,
    ) -> None:  # fmt: skip
        self._look, self._settings, self._file, self._clock, self._mode = look, settings, file, clock, mode
        self._notifier, self._deadman = notifier, deadman
        self._sidecar_up, self._backup_at = sidecar_up, backup_at
        run = settings.alerts
        self._policy = Policy(
            clear_after=timedelta(seconds=run.clear_after_s), escalate_after=timedelta(seconds=run.escalate_after_s),
            queue_most=run.queue_most,
        )  # fmt: skip
        self._memory: Memory | None = None
        self._trouble: str | None = None  # with state/alerts.json, at this step
        self._trouble_before: str | None = None  # and at the one before
        self._written: Memory | None = None
        self._wait_s, self._next_try = TRY_FIRST_S, clock.monotonic()
        self._tried = 0  # so many messages found no channel at the last try
        self._next_ping = clock.monotonic()

    def step(self) -> Memory:
        """One look, and what follows: the memory after it."""
        facts = self._look()
        stalled_after_s = self._settings.sidecar.stalled_after_s
        before = self._with_backup(self._recall(facts.at))
        look = evaluate(facts, readiness(facts, stalled_after_s=stalled_after_s), self._settings, self._beside(before))
        self._remember(alert_memory.step(before, look, self._policy))
        self._log(before, look)
        self._tell()
        if not alive(facts, stalled_after_s=stalled_after_s):
            self._ping()
        assert self._memory is not None
        return self._memory

    def _with_backup(self, memory: Memory) -> Memory:
        """The newest backup ever seen: logs are cleaned, and a backup may have been carried away."""
        found = self._backup_at()
        if found is None or (memory.backup_at is not None and found <= memory.backup_at):
            return memory
        return replace(memory, backup_at=found)

    def _beside(self, memory: Memory) -> Beside:
        return Beside(
            began_at=memory.began_at, sidecar_up=self._sidecar_up(), backup_at=memory.backup_at,
            channel_failed=self._notifier.first_failed, undelivered=len(memory.outbox) if self._notifier.any else 0,
            deadman_failed=None if self._deadman is None else self._deadman.failed,
            state_trouble=self._trouble or self._trouble_before,
        )  # fmt: skip

    # ------------------------------------------------------------ state/alerts.json
    def _recall(self, now: datetime) -> Memory:
        """Ours, with what a person has acknowledged in the file; at the first look, the file's."""
        self._trouble_before, self._trouble = self._trouble, None
        try:
            theirs = read_memory(self._file)
        except StateCorrupt as error:
            theirs = None
            self._set_aside(error)
        if self._memory is None:
            self._memory = theirs or Memory(began_at=now, looked_at=now)
            return self._memory
        return self._memory if theirs is None else alert_memory.with_acknowledgements(self._memory, theirs)

    def _set_aside(self, error: StateCorrupt) -> None:
        """Telling twice is better than telling nothing: the damaged file is kept under another name."""
        self._complain(error.code, str(error))
        self._written = None
        if error.code == "STATE_NEWER":
            return  # it is never touched; this process remembers in memory
        try:
            self._file.replace(self._file.with_suffix(".damaged.json"))
        except OSError as trouble:
            self._complain("ALERT_STATE_UNWRITABLE", str(trouble))

    def _remember(self, memory: Memory) -> None:
        self._memory, last = memory, self._written
        same = last is not None and replace(last, looked_at=memory.looked_at) == memory
        if same and last is not None and timedelta(0) <= memory.looked_at - last.looked_at < WRITE_EVERY:
            return
        if self._trouble is not None and "schema version" in self._trouble:
            return
        try:
            if not self._file.parent.is_dir():
                raise FileNotFoundError(f"{self._file.parent} is gone")  # a home that was taken away is not made again
            write_memory(self._file, memory)
        except (OSError, StateLocked, StateCorrupt) as error:
            self._complain("ALERT_STATE_UNWRITABLE", str(error))
        else:
            self._written = memory

    def _complain(self, code: str, words: str) -> None:
        logs.count("alert_state_troubles", code=code)
        if self._trouble is None:
            self._trouble = words
            logs.event("alert_state_trouble", code=code, detail=words)

    # ------------------------------------------------------------ telling
    def _log(self, before: Memory, look: Look) -> None:
        """Every message is an event too, whether or not a channel exists."""
        assert self._memory is not None
        for message in self._memory.outbox:
            if message.at == look.at and message not in before.outbox:
                logs.event(
                    "alert_told", code=f"ALERT_{message.kind.upper()}", alert=message.name, severity=message.severity,
                    detail=message.words,
                )  # fmt: skip
                logs.count("alerts_told", kind=message.kind)

    def _tell(self) -> None:
        assert self._memory is not None
        waiting = self._memory.outbox
        if not waiting:
            return
        if not self._notifier.any:
            self._remember(replace(self._memory, outbox=()))  # the log has it; there is nobody else to tell
            return
        if self._clock.monotonic() < self._next_try and len(waiting) == self._tried:
            return
        if self._notifier.deliver(digest(waiting, self._mode)).by is None:
            self._tried = len(waiting)
            self._next_try = self._clock.monotonic() + self._wait_s
            self._wait_s = min(TRY_MOST_S, 2 * self._wait_s)
            return
        self._wait_s, self._tried = TRY_FIRST_S, 0
        self._remember(replace(self._memory, outbox=()))

    def _ping(self) -> None:
        if self._deadman is None or self._clock.monotonic() < self._next_ping:
            return
        self._next_ping = self._clock.monotonic() + self._settings.alerts.deadman_every_s
        self._deadman.ping()


def read_memory(file: Path) -> Memory | None:
    """None when there is none yet. Raises StateCorrupt."""
    document = documents.read(file, alert_memory.SCHEMA)
    return alert_memory.from_document(document) if document else None


def write_memory(file: Path, memory: Memory) -> None:
    """Under the file's lock; what a person acknowledged meanwhile is kept.

    Raises OSError, StateLocked, StateCorrupt.
    """
    with locked(file, timeout_s=_LOCK_S):
        theirs = read_memory(file)
        if theirs is not None:
            memory = alert_memory.with_acknowledgements(memory, theirs)
        documents.write(file, alert_memory.to_document(memory), alert_memory.SCHEMA)


def acknowledge(file: Path, name: str, reason: str, now: datetime) -> Memory | None:
    """None when no alert of that name stands. Raises StateCorrupt, StateLocked, OSError."""
    with locked(file, timeout_s=5.0):
        memory = read_memory(file)
        acked = None if memory is None else alert_memory.acknowledged(memory, name, reason, now)
        if acked is not None:
            documents.write(file, alert_memory.to_document(acked), alert_memory.SCHEMA)
        return acked
