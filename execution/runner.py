"""The runner: one per home, due scans in market time, each exactly once or recorded as missed.

A scan that fails is told, and tried again with growing pauses until it is too late for it; then it is a missed scan.
Each try starts from the journal like any start-up. After MAX_BUGS bugs in a row the runner stops.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import logs
from core.clock import Clock
from core.errors import AlreadyRunning, BrokerError, KobeError, StateCorrupt
from core.market_calendar import NEW_YORK, MarketCalendar
from execution.heartbeat import BEAT_FILE, GAVE_UP, Heartbeat, read_beat
from execution.scheduler import DueRun, dropped_runs, due_runs
from execution.session import RunReport, TradingSession, after_close

if TYPE_CHECKING:
    from core.journal import Journal

MAX_BUGS = 3
RETRY_FIRST_S, RETRY_MOST_S = 5.0, 60.0
MOST_SESSIONS_BACK = 10
"""How far back missed scans are still told one by one after a long absence."""
LATE = timedelta(minutes=10)
"""How long after its time a scan is still that scan; later it is recorded as missed."""
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


def _holder(view: Path) -> str:
    facts = read_beat(view)
    return "holder unknown" if facts is None else str(facts)


@dataclass
class Schedule:
    """Which scans there are, and which the journal says are over."""

    calendar: MarketCalendar
    scan_times: Sequence[str]
    half_day_rule: str
    journal: Journal

    def runs(self, session: date) -> tuple[DueRun, ...]:
        return due_runs(session, self.scan_times, self.calendar, half_day_rule=self.half_day_rule)

    def dropped(self, session: date) -> tuple[str, ...]:
        return dropped_runs(session, self.scan_times, self.calendar, half_day_rule=self.half_day_rule)

    def over(self) -> set[str]:
        return {str(r.body["run"]) for r in self.journal.kinds("scan_run", "run_missed")}

    def failed(self) -> set[str]:
        return {str(r.body["run"]) for r in self.journal.kinds("run_failed")}


class Runner:
    """Drives a TradingSession through the schedule until told to stop."""

    def __init__(
        self, session: TradingSession, schedule: Schedule, clock: Clock, *, heartbeat_s: float, look_after_s: float,
        beat: Callable[[str], None], tell: Callable[[RunReport], None], stop: threading.Event,
        upkeep: Callable[[], None] = lambda: None, between: Callable[[], None] = lambda: None,
        before_open_s: float = 0.0,
    ) -> None:  # fmt: skip
        """`upkeep` is called at every heartbeat; `between` at every tick, before what is due: the runner's pulse, and
        its look at halt and watchdog."""
        self._session, self._schedule, self._clock = session, schedule, clock
        self._heartbeat_s, self._look_after_s = heartbeat_s, look_after_s
        self._before_open = timedelta(seconds=before_open_s)
        self._beat, self._tell, self._stop, self._upkeep = beat, tell, stop, upkeep
        self._between = between
        self._over = schedule.over()
        self._started_at = clock.now()
        self._failed_once = schedule.failed()
        self._busy: tuple[datetime, datetime] | None = None  # the newest scan, from start to end
        self._tries: dict[str, int] = {}
        self._retry_at: dict[str, float] = {}
        self._bugs = 0
        self._down_since: datetime | None = None
        self._looked_at = -look_after_s

    def forever(self) -> int:
        """Until `stop` is set (0) or MAX_BUGS scans in a row ended in a bug (1). An unreachable broker or vendor never
        ends it: the scan is tried again until it is too late for it, and recorded as missed."""
        last_beat = -self._heartbeat_s
        self._miss_what_passed()
        while not self._stop.is_set():
            self._between()
            self.step()
            if self._bugs >= MAX_BUGS:
                logs.error_event("runner_stopped", code="TOO_MANY_BUGS", scans=self._bugs)
                return 1
            if self._clock.monotonic() - last_beat >= self._heartbeat_s:
                self._beat(self.waiting_for())
                last_beat = self._clock.monotonic()
                self._upkeep()
            self._stop.wait(_TICK_S)
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
        self._miss_what_passed()
        now = self._clock.now()
        session = self._schedule.calendar.session_at(now)
        if session is None:
            return
        for run in self._schedule.runs(session):
            if run.id not in self._over and run.at <= now <= run.at + LATE and self._may_try(run):
                self.attempt(run)
                now = self._clock.now()
        closing = self._closing(session)
        if now >= closing.at and closing.id not in self._over and self._may_try(closing):
            self.close_out(session)
        elif self._schedule.calendar.opens_at(session) - self._before_open <= now < closing.at:
            self._look_after(session)

    def _closing(self, session: date) -> DueRun:
        return DueRun(session, "close", after_close(self._schedule.calendar, session), first=False, last=False)

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
        report = self._guarded(run, lambda: self._session.run(run))
        self._busy = (started_at, self._clock.now())
        return report

    def close_out(self, session: date) -> RunReport | None:
        return self._guarded(self._closing(session), lambda: self._session.close_out(session))

    # ------------------------------------------------------------ missed
    def _miss_what_passed(self) -> None:
        """Every scan since the last one on record that is now too late: told with its reason, never silently gone."""
        now = self._clock.now()
        for session in self._sessions_to_look_at(now):
            for run_id in self._schedule.dropped(session):
                if self._schedule.calendar.opens_at(session) <= now:
                    self._miss(run_id, "SKIPPED_HALF_DAY")
            for run in self._schedule.runs(session):
                if run.id not in self._over and now - run.at > LATE:
                    self._miss(run.id, self._why(run))

    def _sessions_to_look_at(self, now: datetime) -> list[date]:
        calendar = self._schedule.calendar
        today = now.astimezone(NEW_YORK).date()
        known = [date.fromisoformat(run_id[:10]) for run_id in self._over]
        if not known:
            return [today] if calendar.is_session(today) else []
        first = max(max(known), calendar.offset(calendar.last_completed(now), -MOST_SESSIONS_BACK))
        return calendar.sessions_between(first, today)

    def _why(self, run: DueRun) -> str:
        if run.id in self._failed_once:
            return "FAILED_UNTIL_TOO_LATE"
        if self._busy is not None and self._busy[0] <= run.at <= self._busy[1]:
            return "SKIPPED_OVERRUN"
        return "NOT_RUNNING" if run.at < self._started_at else "OVERSLEPT"

    def _miss(self, run_id: str, why: str) -> None:
        if run_id in self._over:
            return
        self._over.add(run_id)
        self._schedule.journal.append("run_missed", {"run": run_id, "code": why})
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
        self._schedule.journal.append("run_failed", {"run": run.id, "code": code, "detail": detail})


def _trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))
