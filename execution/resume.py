"""Halt and resume, each told once and written down: what the operator did with the kill switch is part of the record.

A running process that has seen the switch resumes only after a preflight that passed with the switch gone. The next
process may start when the switch is gone; it then makes the same checks itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import logs
from core.errors import StateLocked
from execution.admission import JournalWatch
from risk.kill_switch import LatchedHalt

if TYPE_CHECKING:
    from core.journal import Journal


class HaltTeller:
    """Looks between two jobs; `look` never releases in the middle of one."""

    def __init__(self, halt: LatchedHalt, watch: JournalWatch, journal: Journal) -> None:
        self.halt, self._watch, self._journal = halt, watch, journal

    def look(self) -> None:
        """Tell a halt that is new, release one that may end. Raises StateCorrupt: then it stays halted."""
        if not self.halt.is_active():
            return
        try:
            self._watch.read()
            if self.halt.is_present() or not self._watch.halts.halted_at:
                self.tell_halted(self.halt.found() or "seen, and gone again")
            released = self.halt.release(self._resumed)
        except StateLocked as error:  # another process writes: the next look tells
            logs.event("halt_not_told", code=error.code, detail=str(error))
            return
        if released:
            logs.event("trading_resumed", code="RESUMED")
            logs.count("trading_resumed")

    def tell_halted(self, why: str) -> None:
        """Once a halt; once more when a preflight has passed since, which must not be taken for a later one."""
        self._watch.read()
        halts = self._watch.halts
        if halts.halted_at > halts.newest_pass:
            return
        self._journal.append("trading_halted", {"code": "KILL_SWITCH", "why": why}, may_use_reserve=True)
        self._watch.read()
        logs.error_event("trading_halted", code="KILL_SWITCH", detail=why)
        logs.count("trading_halted")

    @property
    def halted_before(self) -> bool:
        """Whether the journal ends in a halt that nothing has resumed, and no preflight has passed since."""
        self._watch.read()
        halts = self._watch.halts
        return bool(halts.halted_at) and halts.newest_pass < halts.halted_at

    def close_old_halt(self) -> None:
        """At a start that may go on: the halt of an earlier process ends here, with the pass that allows it."""
        self._watch.read()
        if self._watch.halts.halted_at:
            self._resumed(self._watch.halts.newest_pass)

    def _resumed(self, passed: int) -> None:
        self._journal.append("trading_resumed", {"pass": passed})
