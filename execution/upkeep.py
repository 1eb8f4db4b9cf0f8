"""What a running runner checks of itself, once a minute: is the disk still what it was started from, does it leak?
Log files that are due begin anew at the same moment.

Nothing here stops trading: the running settings stay in force. It tells, once per finding, so that a person restarts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from config.watch import Changed, Watch
from core import logs
from core.clock import Clock
from core.errors import StateLocked
from core.host import Gauges, strained

if TYPE_CHECKING:
    from core.journal import Journal

EVERY_S = 60.0


class Upkeep:
    """Call it at every heartbeat; it looks when its time has come."""

    def __init__(self, watch: Watch, gauges: Callable[[], Gauges], journal: Journal, clock: Clock) -> None:
        self._watch, self._gauges, self._journal, self._clock = watch, gauges, journal, clock
        self._due = clock.monotonic() + EVERY_S
        self._strain = ""  # the code last told
        self._untold: list[Changed] = []

    def __call__(self) -> None:
        if self._clock.monotonic() < self._due:
            return
        self._due = self._clock.monotonic() + EVERY_S
        self._changes()
        self._leaks()
        logs.rotate()

    def _changes(self) -> None:
        """While another process holds the journal, what is new waits for the next look."""
        self._untold += self._watch.news()
        while self._untold:
            changed = self._untold[0]
            facts = {"item": changed.item, "code": changed.code, "running": changed.before, "on_disk": changed.now}
            try:
                self._journal.append("changed_on_disk", facts)
            except StateLocked as error:
                logs.error_event("journal_not_written", code=error.code, detail=str(error), kind="changed_on_disk")
                logs.count("journal_not_written", code=error.code)
                return
            self._untold.pop(0)
            logs.error_event("changed_on_disk", **facts, detail=f"{changed}; restart the runner to apply it")
            logs.count("changed_on_disk", item=changed.item)

    def _leaks(self) -> None:
        """Told when it begins and, after it was over, when it begins again."""
        found = self._gauges()
        strain = strained(found)
        code, words = strain or ("", "")
        if code and code != self._strain:
            logs.error_event("resources_strained", code=code, detail=words, resident_bytes=found.resident_bytes)
            logs.count("resources_strained", code=code)
        self._strain = code
