"""The runner: one per home, due scans in market time, each exactly once or recorded as missed.

A scan that fails is told, and tried again with growing pauses until it is too late for it; then it is a missed scan.
Each try starts from the journal like any start-up. After MAX_BUGS bugs in a row the runner stops. A clock that jumped
is compared with the broker's before anything is called missed: what it would skip may still be to come. A journal that
another process holds is told and waited for; what could not be written down is not over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from core import logs
from core.clock import Clock
from core.errors import AlreadyRunning, BrokerError, KobeError, StateCorrupt, StateLocked
from core.market_calendar import NEW_YORK
from execution.heartbeat import BEAT_FILE, GAVE_UP, Heartbeat, read_beat
from execution.schedule import Schedule, sessions_to_look_at
from execution.scheduler import DueRun
from execution.session import RunReport, TradingSession

if TYPE_CHECKING:
    from pathlib import Path

MAX_BUGS = 3
RETRY_FIRST_S, RETRY_MOST_S = 5.0, 60.0
CATCH_UP_S = 600.0
"""How long after its time a scan is still that scan, unless settings say otherwise; later it is recorded as missed."""
ON_TIME_S = 5.0
"""A scan that begins later than this is told as late."""
MOMENT = timedelta(microseconds=1)
JUMP_S, JUMP_BACK_S = 120.0, 2.0
"""So much farther than the steady clock: the machine slept, or somebody set the clock; or set it back by so much."""
DOUBT_TOLD_S, DOUBT_TOLD_AGAIN_S, ASK_AGAIN_S = 30.0, 600.0, 5.0
"""A clock in doubt is told after so long and then so often; the broker is asked for the time so often."""
DOUBT_ALONE_S = 30.0
"""How long a broker that cannot be asked for the time keeps scans waiting: then they are tried, and compare again."""
_TICK_S = 1.0


@contextmanager
def only_runner(state: Path, clock: Clock) -> Iterator[Heartbeat]:
    """Hold state/runner.lock for this process; yields the Heartbeat, which writes state/runner.json.

    Raises AlreadyRunning naming the holder. The lock is the operating system's, so a killed runner leaves none behind,
    and a process that was given its pid since then holds nothing: whoever left no word of its end is taken over, told
    as `predecessor`.
    """
    from filelock import FileLock, Timeout

    state.mkdir(parents=True, exist_ok=True)
    view = state / BEAT_FILE
    lock: Any = FileLock(str(state / "runner.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise AlreadyRunning(f"a runner holds {state.name}/runner.lock: {_holder(view)}") from error
    try:
        beat = Heartbeat(view, clock)
        beat("starting")
        try:
            yield beat
        except BaseException:
            beat(GAVE_UP)
            raise
        beat(beat.last_word)
    finally:
        lock.release()


def runner_holds(state: Path) -> bool:
    """Whether a runner of this home is alive. Nothing is made where there was never one."""
    from filelock import FileLock, Timeout

    if not (state / "runner.lock").exists():
        return False
    try:
        with FileLock(str(state / "runner.lock"), timeout=0):
            return False
    except Timeout:
        return True


def _holder(view: Path) -> str:
    facts = read_beat(view)
    return "holder unknown" if facts is None else str(facts)


class Runner:
    """Drives a TradingSession through the schedule until told to stop."""

    def __init__(
        self, session: TradingSession, schedule: Schedule, clock: Clock, *, heartbeat_s: float, look_after_s: float,
        beat: Callable[[str], None], tell: Callable[[RunReport], None], stop: threading.Event,
        upkeep: Callable[[], None] = lambda: None, between: Callable[[], None] = lambda: None,
        before_open_s: float = 0.0, catch_up_s: float = CATCH_UP_S,
    ) -> None:  # fmt: skip
        """`upkeep` is called at every heartbeat; `between` at every tick, before what is due: the runner's pulse, and
        its look at halt and watchdog."""
        self._session, self._schedule, self._clock = session, schedule, clock
        self._heartbeat_s, self._look_after_s = heartbeat_s, look_after_s
        self._before_open = timedelta(seconds=before_open_s)
        self._beat, self._tell, self._stop, self._upkeep = beat, tell, stop, upkeep
        self._between = between
        self._catch_up = timedelta(seconds=catch_up_s)
        self._started_at = clock.now()
        self._over, self._failed_once = schedule.recorded()
        self._quiet: tuple[datetime, datetime] | None = None  # between these instants nothing more can have been missed
        self._busy: tuple[datetime, datetime] | None = None  # the newest scan, from start to end
        self._tries: dict[str, int] = {}
        self._retry_at: dict[str, float] = {}
        self._bugs = 0
        self._down_since: datetime | None = None
        self._looked_at = -look_after_s
        self._absence_told: date | None = None  # the newest session of a long absence on record
        self._doubted_at: float | None = None  # since when the wall clock is doubted, monotonic seconds
        self._tell_doubt_at = 0.0
        self._alone = False  # in doubt, and the broker has been silent for long
        self._asked_at = 0.0

    def forever(self) -> int:
        """Until `stop` is set (0) or MAX_BUGS scans in a row ended in a bug (1). An unreachable broker or vendor never
        ends it: the scan is tried again until it is too late for it, and recorded as missed."""
        last_beat = -self._heartbeat_s
        self._learn_hours()
        before, began = self._clock.now(), self._clock.monotonic()
        while not self._stop.is_set():
            self._unless_locked(self._between)
            self.step()
            if self._bugs >= MAX_BUGS:
                logs.error_event("runner_stopped", code="TOO_MANY_BUGS", scans=self._bugs)
                return 1
            if self._clock.monotonic() - last_beat >= self._heartbeat_s:
                self._beat(self.waiting_for())
                last_beat = self._clock.monotonic()
                self._upkeep()
            waited_from = self._clock.monotonic()
            self._stop.wait(_TICK_S)
            now, ended = self._clock.now(), self._clock.monotonic()
            self._look_for_jump(now - before, ended - began, ended - waited_from)
            before, began = now, ended
        return 0

    def waiting_for(self) -> str:
        now = self._clock.now()
        today = now.astimezone(NEW_YORK).date()
        calendar = self._schedule.calendar
        day = today if calendar.is_session(today) else calendar.next_session(today)
        while True:
            todo = [r for r in self._schedule.runs(day) if r.id not in self._over and r.at > now]
            if todo:
                return f"waiting for {todo[0].id} New York"
            day = calendar.next_session(day)

    def step(self) -> None:
        """Do what is due now, once; record what was missed; look after what is held in between."""
        if not self._in_doubt():
            self._unless_locked(self._miss_what_passed)
        elif not self._alone:
            return
        now = self._clock.now()
        session = self._schedule.calendar.session_at(now)
        if session is None:
            return
        for run in self._schedule.runs(session):
            if run.id not in self._over and run.at <= now <= run.at + self._catch_up and self._may_try(run):
                self.attempt(run)
                now = self._clock.now()
        closing = self._schedule.closing(session)
        if now >= closing.at and closing.id not in self._over and self._may_try(closing):
            self.close_out(session)
        elif self._schedule.calendar.opens_at(session) - self._before_open <= now < closing.at:
            self._look_after(session)

    def _may_try(self, run: DueRun) -> bool:
        return self._clock.monotonic() >= self._retry_at.get(run.id, 0.0)

    def _look_after(self, session: date) -> None:
        if self._clock.monotonic() - self._looked_at < self._look_after_s or not self._session.has_something_out:
            return
        self._looked_at = self._clock.monotonic()
        run = DueRun(session, "look_after", self._clock.now(), first=False, last=False)
        self._guarded(run, lambda: self._session.look_after(session), once=False)

    def attempt(self, run: DueRun) -> RunReport | None:
        self._looked_at = self._clock.monotonic()
        started_at = self._clock.now()
        if not self._unless_locked(lambda: self._tell_late(run, (started_at - run.at).total_seconds())):
            self._retry_at[run.id] = self._clock.monotonic() + RETRY_FIRST_S
            return None
        report = self._guarded(run, lambda: self._session.run(run))
        self._busy = (started_at, self._clock.now())
        return report

    def close_out(self, session: date) -> RunReport | None:
        return self._guarded(self._schedule.closing(session), lambda: self._session.close_out(session))

    def _tell_late(self, run: DueRun, late_s: float) -> None:
        """Caught up after a sleep, a restart or an overrun: said and written down, before it is begun."""
        if late_s <= ON_TIME_S or run.id in self._failed_once:  # a retry was told as a failure
            return
        self._schedule.journal.append("run_late", {"run": run.id, "code": "CAUGHT_UP", "late_s": round(late_s)})
        logs.error_event("run_late", run=run.id, code="CAUGHT_UP", late_s=round(late_s))
        logs.count("runs_late")

    def _learn_hours(self) -> None:
        """What the broker's clock said of today's session, when it was last asked (D22)."""
        today = self._schedule.calendar.session_at(self._clock.now())
        if today is not None and self._schedule.learn(today, self._session.hours):
            self._quiet = None

    # ------------------------------------------------------------ a clock that jumped
    def _look_for_jump(self, took: timedelta, elapsed_s: float, waited_s: float) -> None:
        """Around one turn, scans included. Where the steady clock went along in the wait, the process was only paused;
        where it did not, the machine slept or somebody set the clock, and the two look the same."""
        jumped_s = took.total_seconds() - elapsed_s
        if -JUMP_BACK_S <= jumped_s <= JUMP_S:
            if waited_s > JUMP_S:
                self._tell_jump("PAUSED", waited_s)
            return
        self._tell_jump("SLEPT_OR_SET_FORWARD" if jumped_s > 0 else "CLOCK_SET_BACK", jumped_s)
        self._doubt()

    def _tell_jump(self, code: str, seconds: float) -> None:
        logs.error_event("clock_jumped", code=code, seconds=round(seconds, 1))
        logs.count("clock_jumped", code=code)

    def _doubt(self) -> None:
        """The broker is asked at the next step."""
        now = self._clock.monotonic()
        if self._doubted_at is None:
            self._tell_doubt_at = now + DOUBT_TOLD_S
        self._doubted_at, self._alone, self._asked_at = now, False, now - ASK_AGAIN_S

    def _in_doubt(self) -> bool:
        """After a jump, or a scan that found the clocks apart, nothing is called missed until the broker's clock
        confirms ours, however long that takes: a scan that a wrong clock has written off would be gone for good.

        Nor is anything done; only a broker that stays silent is believed in no longer than DOUBT_ALONE_S, and scans are
        tried: each compares again, and without a broker that agrees no order passes.
        """
        if self._doubted_at is None:
            return False
        now = self._clock.monotonic()
        if now - self._asked_at < ASK_AGAIN_S:
            return True
        self._asked_at = now
        agrees = self._session.clock_agrees()
        if agrees:
            logs.event("clock_doubt_ended", code="CLOCK_CONFIRMED")
            self._doubted_at = None
            self._learn_hours()
            return False
        logs.count("clock_doubted")
        self._alone = agrees is None and now - self._doubted_at >= DOUBT_ALONE_S
        if now >= self._tell_doubt_at:
            self._tell_doubt_at = now + DOUBT_TOLD_AGAIN_S
            why = "the broker's clock differs" if agrees is False else "the broker cannot be asked for the time"
            logs.error_event("clock_doubted", code="CLOCK_NOT_CONFIRMED", detail=f"{why}; nothing is called missed")
        return True

    # ------------------------------------------------------------ missed
    def _miss_what_passed(self) -> None:
        """Every scan since the last one on record that is now too late: told with its reason, never silently gone."""
        now = self._clock.now()
        if self._quiet is not None and self._quiet[0] <= now < self._quiet[1]:
            return
        sessions, long_gone = sessions_to_look_at(self._over.newest, now, self._schedule.calendar)
        if long_gone and self._absence_told != long_gone[-1]:
            self._miss_all(long_gone)
            self._absence_told = long_gone[-1]
        today = now.astimezone(NEW_YORK).date()
        for session in sessions:
            for run_id in self._schedule.dropped(session):
                if self._schedule.calendar.opens_at(session) <= now:
                    self._miss(run_id, "SKIPPED_HALF_DAY")
            for run in self._schedule.runs(session):
                if run.id not in self._over and now - run.at > self._catch_up:
                    self._miss(run.id, self._why(run))
            closing = self._schedule.closing(session)
            if session < today and closing.id not in self._over:
                self._miss(closing.id, self._why(closing))
        self._quiet = (now, self._next_miss(now, today))

    def _next_miss(self, now: datetime, today: date) -> datetime:
        """When the next thing could be missed: what is due today, a scan that is dropped at the open, the next day."""
        calendar = self._schedule.calendar
        instants = [calendar.instant_at(today + timedelta(days=1), "00:00")]
        if calendar.is_session(today):
            instants += [run.at + self._catch_up + MOMENT for run in self._schedule.runs(today)]
            instants += [calendar.opens_at(today)] if self._schedule.dropped(today) else []
        return min(at for at in instants if at > now)

    def _miss_all(self, sessions: list[date]) -> None:
        """A long absence: everything before the sessions that are told one by one is one record."""
        runs = sum(len(self._schedule.runs(session)) for session in sessions)
        facts = {
            "first": sessions[0].isoformat(), "last": sessions[-1].isoformat(), "sessions": len(sessions), "runs": runs,
            "code": "NOT_RUNNING" if self._schedule.closes_at(sessions[-1]) < self._started_at else "OVERSLEPT",
        }  # fmt: skip
        self._schedule.journal.append("runs_missed", facts)
        logs.error_event("runs_missed", **facts)
        logs.count("runs_missed", runs, code=facts["code"])

    def _why(self, run: DueRun) -> str:
        if run.id in self._failed_once:
            return "FAILED_UNTIL_TOO_LATE"
        if self._busy is not None and self._busy[0] <= run.at <= self._busy[1]:
            return "SKIPPED_OVERRUN"
        return "NOT_RUNNING" if run.at < self._started_at else "OVERSLEPT"

    def _miss(self, run_id: str, why: str) -> None:
        if run_id in self._over:
            return
        self._schedule.journal.append("run_missed", {"run": run_id, "code": why})
        self._over.add(run_id)
        logs.error_event("run_missed", run=run_id, code=why)
        logs.count("runs_missed", code=why)

    # ------------------------------------------------------------ the job boundary
    def _guarded(self, run: DueRun, act: Callable[[], RunReport], *, once: bool = True) -> RunReport | None:
        """Whatever a scan raises is told and counted here. A damaged journal ends the runner."""
        self._beat(f"running {run.id}")
        try:
            report = act()
        except StateCorrupt:
            raise  # nothing may be sent on a journal that cannot be trusted
        except KobeError as error:
            if error.code == "CLOCK_DISAGREES":
                self._doubt()
            self._outage_told(error)
            self._failed(run, error.code, str(error))
            return None
        except Exception as error:  # noqa: BLE001 - the job boundary: the next scan must still come
            logs.error_event("run_crashed", run=run.id, code="BUG", detail=repr(error), traceback=_trace(error))
            self._bugs += 1
            self._failed(run, "BUG", repr(error))
            return None
        self._bugs = 0
        self._outage_over()
        self._learn_hours()
        if once:
            self._over.add(run.id)
            self._tell(report)
        return report

    def _outage_told(self, error: KobeError) -> None:
        """A broker that is down all day is one alert and one recovery message, however often it is asked (B47)."""
        if isinstance(error, BrokerError) and self._down_since is None:
            self._down_since = self._clock.now()
            logs.error_event("broker_unreachable", code=error.code, detail=str(error))
            logs.count("broker_outages", code=error.code)

    def _outage_over(self) -> None:
        if self._down_since is not None:
            lasted = self._clock.now() - self._down_since
            logs.event("broker_reachable_again", code="BROKER_BACK", down_s=round(lasted.total_seconds()))
            self._down_since = None

    def _failed(self, run: DueRun, code: str, detail: str) -> None:
        """Tell, and wait longer before each further try."""
        self._failed_once.add(run.id)
        tries = self._tries[run.id] = self._tries.get(run.id, 0) + 1
        self._retry_at[run.id] = self._clock.monotonic() + min(RETRY_MOST_S, RETRY_FIRST_S * 2 ** (tries - 1))
        tell = logs.event if self._down_since is not None else logs.error_event
        tell("run_failed", run=run.id, code=code, detail=detail, tries=tries)
        logs.count("runs_failed", code=code)
        facts = {"run": run.id, "code": code, "detail": detail}
        self._unless_locked(lambda: self._schedule.journal.append("run_failed", facts))

    def _unless_locked(self, act: Callable[[], object]) -> bool:
        """False when another process held the journal for too long: that is told, and ends nothing."""
        try:
            act()
        except StateLocked as error:
            logs.error_event("journal_not_written", code=error.code, detail=str(error))
            logs.count("journal_not_written", code=error.code)
            return False
        return True


def _trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))
