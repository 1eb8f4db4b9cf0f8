"""The second pair of eyes: when the runner makes no progress while entries or exits are out, halt and cancel them.

It looks at state/runner.json, which the runner's main thread rewrites wherever it waits, and at the journal. Progress
is a counter that moves, measured in this process's own looks: a machine that slept, a clock that was set, cost at most
one look each. First the kill switch, then the cancels, then the record: the journal's lock may be held by the very
process that stands still. What rests at the broker to protect a position stays; what the operator sends stays too.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from core import logs
from core.clock import Clock
from core.domain import Order, Purpose
from core.errors import BrokerError, KobeError, StateCorrupt, StateLocked
from core.journal import JournalTail
from core.ports import Broker
from execution.fold import Fold
from execution.heartbeat import Beat, read_beat
from execution.ledger import Ledger, LedgerOrder
from execution.order_states import is_terminal, state_of

if TYPE_CHECKING:
    from pathlib import Path

    from core.journal import Journal

POLL_S = 0.5
PAUSE_FIRST_S, PAUSE_MOST_S = 0.5, 30.0
GUARD_S = 15.0
"""How often it looks again after everything was gone: a process that wakes up may still send what it had in hand."""
HOMELESS_S = 120.0
"""How long a broker that does not answer is asked for the cancels when the home is gone; then it ends all the same."""
VISIBLE_AFTER = timedelta(seconds=30)
"""An order that the broker does not know this long after its intent is not there."""
_CANCELLED = (Purpose.ENTRY, Purpose.EXIT)
_OURS = re.compile(r"kobe-.+-(?:buy|sell)-(?:entry|exit)-[0-9]+\Z")


class Verdict(StrEnum):
    """What one look says."""

    WATCHING = "watching"
    STALLED = "stalled"  # no progress for too long, with something out
    CLEAN = "clean"  # the runner ended as told
    SUCCEEDED = "succeeded"  # a newer watchdog looks after a newer runner
    ALONE = "alone"  # the runner is gone, and nothing is out
    HOMELESS = "homeless"  # the folder that it watches was deleted


@dataclass
class Stall:
    """How long the counter has stood still, in seconds of our own looks."""

    most_s: float  # what one look can add at most
    standing_s: float = 0.0
    _last: tuple[str, int] | None = None

    def look(self, seen: Beat | None, elapsed_s: float) -> float:
        now = None if seen is None else (seen.nonce, seen.beats)
        if now is not None and now != self._last:
            self._last, self.standing_s = now, 0.0
        else:  # also when there is nothing to read: no sign is no progress
            self.standing_s += min(max(elapsed_s, 0.0), self.most_s)
        return self.standing_s


def judge(
    seen: Beat | None, *, standing_s: float, stalled_after_s: float, token: str | None, gone: bool,
    something_out: Callable[[], bool],
) -> Verdict:  # fmt: skip
    """Pure, but for the one question that costs something, which is asked last."""
    if seen is not None and seen.stopped:
        return Verdict.CLEAN
    if token is not None and seen is not None and seen.watchdog not in (None, token):
        return Verdict.SUCCEEDED
    if standing_s >= stalled_after_s and something_out():
        return Verdict.STALLED
    if gone and standing_s > 0 and not something_out():
        return Verdict.ALONE
    return Verdict.WATCHING


class Follower:
    """The ledger as of now. Asked at every look, so that a trip does not have to read a long journal first."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._begin()

    def _begin(self) -> None:
        self._tail, self._fold = JournalTail(self._journal), Fold()
        self._ledger = self._fold.ledger()

    def __call__(self) -> Ledger:
        """Raises StateCorrupt, also when asked again."""
        try:
            new = self._tail.new()
            for record in new:
                self._fold.add(record)
        except StateCorrupt:
            self._begin()  # half a fold must never be believed
            raise
        if new:
            self._ledger = self._fold.ledger()
        return self._ledger


def may_be_out(ledger: Ledger) -> dict[str, LedgerOrder]:
    """Entries and exits without an end. Resting protection is meant to be out while nobody looks."""
    return {o.client_order_id: o for o in ledger.working() if o.intent.purpose in _CANCELLED}


def is_ours_to_cancel(order: Order) -> bool:
    """By its id alone, so that a journal that cannot be read keeps no order alive."""
    return _OURS.match(order.client_order_id) is not None


@dataclass(frozen=True, slots=True)
class Round:
    """One pass over what is out. `waiting`: client order ids that are open still, or may yet become visible."""

    cancelled: tuple[str, ...]
    failed: Mapping[str, str]
    waiting: tuple[str, ...]


def cancel_round(broker: Broker, expected: Mapping[str, LedgerOrder], clock: Clock) -> Round:
    """Ask for the cancel of every entry and exit that is open. Raises BrokerDown, BrokerRejected from reads."""
    cancelled, failed = [], {}
    listed = {o.client_order_id: o for o in broker.open_orders() if is_ours_to_cancel(o)}
    waiting = set(listed)
    for cid in expected:
        if cid in listed:
            continue
        found = broker.find(cid)
        if found is not None and not is_terminal(state_of(found)):
            listed[cid] = found  # the listing lags behind
            waiting.add(cid)
        elif found is None and clock.now() - expected[cid].intended_at < VISIBLE_AFTER:
            waiting.add(cid)
    for cid, order in listed.items():
        try:
            broker.cancel(order.id)
            cancelled.append(cid)
        except BrokerError as error:  # over already, or the broker is busy: the next round reads its true state
            failed[cid] = error.code
    return Round(tuple(cancelled), failed, tuple(sorted(waiting)))


class Watchdog:
    """`step` once per poll. `open_broker` is called when it is needed first, and again after it failed."""

    def __init__(
        self, *, beats: Path, ledger: Callable[[], Ledger], open_broker: Callable[[], Broker], journal: Journal,
        aside: Journal, clock: Clock, stalled_after_s: float, trip: Callable[[str], None],
        token: str | None = None, gone: Callable[[], bool] = lambda: False,
        home_is_there: Callable[[], bool] = lambda: True, broker_is_elsewhere: bool = True,
    ) -> None:  # fmt: skip
        """`broker_is_elsewhere`: False when the broker's own account lies in the home, and is gone with it."""
        self._home_is_there, self._elsewhere = home_is_there, broker_is_elsewhere
        self._had_home, self._homeless_s = False, 0.0
        self._beats, self._ledger, self._open_broker, self._clock = beats, ledger, open_broker, clock
        self._journal, self._aside, self._trip = journal, aside, trip
        self._stalled_after_s, self._token, self._gone = stalled_after_s, token, gone
        self._stall = Stall(most_s=2 * POLL_S)
        self._looked_at: float | None = None
        self._seen: Beat | None = None
        self._broker: Broker | None = None
        self.tripped = self.ever_tripped = False
        self._all_gone = False
        self._pause_s, self._next_round = PAUSE_FIRST_S, 0.0
        self._asked: dict[str, None] = {}
        self._unwritten: list[tuple[str, dict[str, Any]]] = []

    # ------------------------------------------------------------ looking
    def step(self) -> Verdict:
        """One look, and what follows from it."""
        now = self._clock.monotonic()
        elapsed_s = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        if not self._home_is_there():
            return self._without_a_home(elapsed_s)
        self._had_home, self._homeless_s = True, 0.0
        self._seen = read_beat(self._beats)
        standing_s = self._stall.look(self._seen, elapsed_s)
        self._keep_up()
        verdict = judge(
            self._seen, standing_s=standing_s, stalled_after_s=self._stalled_after_s, token=self._token,
            gone=self._gone(), something_out=self._something_out,
        )  # fmt: skip
        if verdict is Verdict.STALLED and not self.tripped:
            self._halt(standing_s)
        if self.tripped:
            verdict = self._follow(verdict, standing_s)
        self._write_down()
        return verdict

    def _without_a_home(self, elapsed_s: float) -> Verdict:
        """The folder is gone as a whole: there is no switch and no record to write, and no runner can go on in it.
        After the time of a stall what is out is cancelled, by its ids, and then nothing is left to watch.

        A home that was never there is waited for.
        """
        if not self._had_home:
            return Verdict.WATCHING
        self._homeless_s += min(max(elapsed_s, 0.0), 2 * POLL_S)
        if self._homeless_s < self._stalled_after_s:
            return Verdict.WATCHING  # a disk that comes back
        if self._elsewhere and self._clock.monotonic() >= self._next_round:
            self._round()
        over = self._all_gone or not self._elsewhere or self._homeless_s >= self._stalled_after_s + HOMELESS_S
        return Verdict.HOMELESS if over else Verdict.STALLED

    def _keep_up(self) -> None:
        with contextlib.suppress(KobeError, OSError):  # asked again, and told, when it matters
            self._ledger()

    def _something_out(self) -> bool:
        try:
            return bool(may_be_out(self._ledger()))
        except (KobeError, OSError) as error:
            logs.event("watchdog_blind", code="JOURNAL_UNREADABLE", detail=str(error))
            return True  # absent is no: what cannot be read may be an order

    # ------------------------------------------------------------ acting
    def _halt(self, standing_s: float) -> None:
        gone = self._gone()
        code = "RUNNER_GONE" if gone else "RUNNER_STALLED"
        who = "the runner" if self._seen is None else f"the runner, {self._seen}, {self._seen.doing!r},"
        why = f"WATCHDOG {code}: {who} made no progress for {standing_s:.0f} s with orders out"
        try:
            self._trip(why)
        except OSError as error:  # the cancels do not need the file
            logs.error_event("trip_not_written", code="KILL_SWITCH_UNWRITABLE", detail=str(error))
        self.tripped = self.ever_tripped = True
        self._all_gone, self._pause_s, self._next_round = False, PAUSE_FIRST_S, 0.0
        logs.error_event("watchdog_tripped", code=code, detail=why)
        logs.count("watchdog_trips", code=code)
        self._unwritten.append(("watchdog_tripped", {
            "code": code, "standing_s": round(standing_s, 1), "why": why,
            "runner": None if self._seen is None else str(self._seen),
        }))  # fmt: skip

    def _follow(self, verdict: Verdict, standing_s: float) -> Verdict:
        """After a trip: cancel until all is gone, then look again now and then until the runner lives or has ended."""
        if self._clock.monotonic() >= self._next_round:
            self._round()
        awake = standing_s == 0.0
        if self._all_gone and awake and verdict is Verdict.WATCHING:
            logs.event("watchdog_stands_down", code="RUNNER_AWAKE")
            self._unwritten.append(("watchdog_stood_down", {"code": "RUNNER_AWAKE"}))
            self.tripped = False
        if not self._all_gone:
            return Verdict.STALLED
        return Verdict.ALONE if self._gone() and verdict is Verdict.STALLED else verdict

    def _round(self) -> None:
        try:
            done = cancel_round(self._the_broker(), self._expected(), self._clock)
        except (KobeError, OSError) as error:
            code = error.code if isinstance(error, KobeError) else "OS_ERROR"
            logs.error_event("watchdog_cannot_reach_broker", code=code, detail=str(error), again_in_s=self._pause_s)
            logs.count("watchdog_rounds_failed", code=code)
            self._all_gone = False
            self._later()
            return
        self._tell(done)
        self._all_gone = not done.waiting
        if self._all_gone:
            self._pause_s, self._next_round = PAUSE_FIRST_S, self._clock.monotonic() + GUARD_S
        else:
            self._later(grow=not done.cancelled)

    def _the_broker(self) -> Broker:
        if self._broker is None:
            self._broker = self._open_broker()
        return self._broker

    def _expected(self) -> Mapping[str, LedgerOrder]:
        try:
            return may_be_out(self._ledger())
        except (KobeError, OSError):
            return {}  # then the broker's own listing has to do

    def _later(self, *, grow: bool = True) -> None:
        self._next_round = self._clock.monotonic() + self._pause_s
        if grow:
            self._pause_s = min(PAUSE_MOST_S, 2 * self._pause_s)

    def _tell(self, done: Round) -> None:
        for cid in done.cancelled:
            if cid not in self._asked:
                self._asked[cid] = None
                self._unwritten.append(("cancel_requested", {"client_order_id": cid, "code": "WATCHDOG"}))
        if done.cancelled or done.failed:
            logs.error_event(
                "watchdog_cancelled", code="WATCHDOG", cancelled=list(done.cancelled), failed=dict(done.failed),
                waiting=list(done.waiting),
            )  # fmt: skip
        if not done.waiting and not self._all_gone:
            self._unwritten.append(("watchdog_cancelled", {"cancelled": list(self._asked), "remaining": []}))

    def _write_down(self) -> None:
        """Last of all: the journal's lock may be held by the process that stands still."""
        while self._unwritten:
            kind, body = self._unwritten[0]
            try:
                self._journal.append(kind, body, may_use_reserve=True)
            except (StateLocked, StateCorrupt) as error:
                logs.error_event("journal_not_written", code=error.code, detail=str(error), kind=kind)
                self._journal = self._aside
                try:
                    self._aside.append(kind, body, may_use_reserve=True)
                except (StateLocked, StateCorrupt):
                    return  # kept, and tried again at the next look
            self._unwritten.pop(0)
