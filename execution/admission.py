"""The last door before the wire: counts what leaves against what the journal says was intended.

It follows the journal on its own; nothing that desk or gate believe is used. The rules are in risk/runaway.py.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from core import logs
from core.clock import Clock
from core.errors import KobeError, OutcomeUnknown, RiskRefused, StateCorrupt
from core.journal import JournalTail
from execution.arming import ArmingHistory
from risk.kill_switch import HaltHistory
from risk.runaway import OWN_FAULT, Bounds, Register

if TYPE_CHECKING:
    from core.domain import Breach
    from core.journal import Journal

CANCELS_TOLD = 120
CANCELS_STORM = 1200
"""Cancels in any 60 seconds: told from the first on, refused from the second on. An honest day makes a few dozen."""


class JournalWatch:
    """Follows the journal record by record, for door, halt and rung. Safe to ask from several threads."""

    def __init__(self, journal: Journal, bounds: Bounds) -> None:
        """Reads what is there, once. Raises StateCorrupt."""
        self._tail, self._lock = JournalTail(journal), threading.Lock()
        self.halts, self.arming = HaltHistory(), ArmingHistory()
        self.register = Register(bounds)
        self.seq = 0
        self._misread: StateCorrupt | None = None
        self.read()
        self.register.open_from = self.seq

    def read(self) -> None:
        """Raises StateCorrupt, also when asked again: a journal that was misread once is not believed again."""
        with self._lock:
            if self._misread is not None:
                raise self._misread
            for line in self._tail.new():
                try:
                    self.register.add(line.seq, line.at, line.kind, line.body)
                    self.halts.add(line.seq, line.kind, line.body)
                    self.arming.add(line)
                except (KeyError, TypeError, ValueError, ArithmeticError) as error:
                    what = f"journal record {line.seq} ({line.kind}) cannot be read: {error!r}"
                    self._misread = StateCorrupt(what)
                    raise self._misread from error
                self.seq = line.seq

    def newest_pass(self) -> int | None:
        """The newest passed preflight, 0 for none; None when the journal cannot be read."""
        try:
            self.read()
        except (KobeError, OSError):
            return None
        return self.halts.newest_pass


class LastDoor:
    """core.ports.Admission. `trip` halts everything; it is called when our own code is at fault.

    `closes_only`: the operator's emergency commands. They sell and cancel without ceilings, and send nothing else.
    """

    def __init__(
        self, watch: JournalWatch, clock: Clock, *, trip: Callable[[str], None], closes_only: bool = False
    ) -> None:
        self._watch, self._clock, self._trip, self._closes_only = watch, clock, trip, closes_only
        self._cancels: deque[float] = deque()
        self._shut: str | None = None  # our own fault, and the kill switch could not be written

    def admit(self, order: Mapping[str, Any], *, despite_halt: bool) -> None:
        if self._shut is not None:
            raise RiskRefused(f"nothing more leaves this process: {self._shut}", code="DOOR_SHUT")
        self._watch.read()
        breach = self._watch.register.breach(order, self._clock.now(), despite_halt=despite_halt)
        if breach is None and self._closes_only and not despite_halt:
            raise RiskRefused("an emergency command only closes positions", code="CLOSES_ONLY")
        if breach is not None:
            self._refuse(breach)
        self._watch.register.took(str(order["client_order_id"]))

    def _refuse(self, breach: Breach) -> None:
        logs.error_event("order_stopped_at_the_door", code=breach.code, observed=breach.observed, limit=breach.limit)
        logs.count("orders_stopped_at_the_door", code=breach.code)
        if breach.code in OWN_FAULT:
            try:
                self._trip(str(breach))
            except OSError as error:
                self._shut = str(breach)
                logs.error_event("trip_not_written", code="KILL_SWITCH_UNWRITABLE", detail=str(error))
        if breach.code in ("RUNAWAY_TWICE", "INTENT_TAKEN"):
            raise OutcomeUnknown(f"{breach.observed} was sent before and may be live", code=breach.code)
        if breach.code in ("RUNAWAY_NO_INTENT", "RUNAWAY_BODY"):
            raise StateCorrupt(f"an order was about to leave without its intent: {breach}", code=breach.code)
        raise RiskRefused(str(breach), code=breach.code)

    def cancelling(self, path: str) -> None:
        now = self._clock.monotonic()
        while self._cancels and self._cancels[0] <= now - 60.0:
            self._cancels.popleft()
        count = len(self._cancels) + 1
        if count > CANCELS_STORM and not self._closes_only:
            logs.error_event("cancel_refused", code="RUNAWAY_CANCELS", limit=CANCELS_STORM)
            raise RiskRefused(f"more than {CANCELS_STORM} cancels within a minute", code="RUNAWAY_CANCELS")
        if count == CANCELS_TOLD + 1:
            logs.error_event("cancels_many", code="CANCELS_MANY", path=path, count=count)
        logs.count("cancels_sent")
        self._cancels.append(now)


class NothingSent:
    """For scripts that look, and for the watchdog, which may cancel: no order leaves through this."""

    def __init__(self, *, cancels: bool = False) -> None:
        self._may_cancel = cancels

    def admit(self, order: Mapping[str, Any], *, despite_halt: bool) -> None:
        raise RiskRefused("this command sends no orders", code="SENDS_NOTHING")

    def cancelling(self, path: str) -> None:
        if not self._may_cancel:
            raise RiskRefused("this command cancels nothing", code="SENDS_NOTHING")
