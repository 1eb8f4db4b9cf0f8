"""The runner: one per home, due scans in market time, each exactly once or recorded as missed.

A scan that fails is told, counted and left behind; the next one starts from the journal like any start-up. After
`MAX_FAILURES` in a row the runner stops, because a loop of failures is no trading system.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import logs
from core.clock import Clock
from core.errors import AlreadyRunning, KobeError, StateCorrupt
from core.files import write_atomic
from core.market_calendar import MarketCalendar
from execution.scheduler import DueRun, due_runs
from execution.session import RunReport, TradingSession, after_close

if TYPE_CHECKING:
    from core.journal import Journal

MAX_FAILURES = 3
LATE = timedelta(minutes=10)
"""How long after its time a scan is still that scan; later it is recorded as missed."""
_TICK_S = 1.0


@contextmanager
def only_runner(state: Path, clock: Clock) -> Iterator[Callable[[str], None]]:
    """Hold state/runner.lock for this process; yields `beat(what)`, which writes state/runner.json.

    Raises AlreadyRunning naming the holder. The lock is the operating system's, so a killed runner leaves none behind.
    """
    from filelock import FileLock, Timeout

    state.mkdir(parents=True, exist_ok=True)
    view = state / "runner.json"
    lock: Any = FileLock(str(state / "runner.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise AlreadyRunning(f"a runner holds {state.name}/runner.lock: {_holder(view)}") from error
    me = {"pid": os.getpid(), "host": socket.gethostname(), "started_at": _stamp(clock.now())}

    def beat(what: str) -> None:
        write_atomic(view, json.dumps({**me, "beat_at": _stamp(clock.now()), "doing": what}).encode(), durable=False)

    try:
        beat("starting")
        yield beat
        beat("stopped")
    finally:
        lock.release()


def _holder(view: Path) -> str:
    try:
        facts = json.loads(view.read_text(encoding="utf-8"))
        return f"pid {facts['pid']} on {facts['host']} since {facts['started_at']}"
    except (OSError, ValueError, KeyError):
        return "holder unknown"


def _stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


@dataclass
class Schedule:
    """Which scans there are, and which the journal says are over."""

    calendar: MarketCalendar
    scan_times: Sequence[str]
    half_day_rule: str
    journal: Journal

    def runs(self, session: date) -> tuple[DueRun, ...]:
        return due_runs(session, self.scan_times, self.calendar, half_day_rule=self.half_day_rule)

    def over(self) -> set[str]:
        return {str(r.body["run"]) for r in self.journal.kinds("scan_run", "run_missed")}


class Runner:
    """Drives a TradingSession through the schedule until told to stop."""

    def __init__(
        self, session: TradingSession, schedule: Schedule, clock: Clock, *, heartbeat_s: float,
        beat: Callable[[str], None], tell: Callable[[RunReport], None], stop: threading.Event,
    ) -> None:  # fmt: skip
        self._session, self._schedule, self._clock = session, schedule, clock
        self._heartbeat_s, self._beat, self._tell, self._stop = heartbeat_s, beat, tell, stop
        self._failures = 0
        self._over = schedule.over()
        self._started_at = clock.now()

    def forever(self) -> int:
        """Until `stop` is set (0) or MAX_FAILURES scans failed in a row (1)."""
        last_beat = -self._heartbeat_s
        while not self._stop.is_set():
            self.step()
            if self._failures >= MAX_FAILURES:
                logs.error_event("runner_stopped", code="TOO_MANY_FAILURES", failures=self._failures)
                return 1
            if self._clock.monotonic() - last_beat >= self._heartbeat_s:
                self._beat(self.waiting_for())
                last_beat = self._clock.monotonic()
            self._stop.wait(_TICK_S)
        return 0

    def waiting_for(self) -> str:
        now = self._clock.now()
        day = self._schedule.calendar.session_at(now)
        todo = [r for r in self._schedule.runs(day) if r.id not in self._over and r.at > now] if day else []
        if todo:
            return f"waiting for {todo[0].id}"
        return f"waiting for {self._schedule.calendar.next_session(now.date())}"

    def step(self) -> None:
        """Do what is due now, once; record what was missed."""
        now = self._clock.now()
        session = self._schedule.calendar.session_at(now)
        if session is None:
            return
        for run in self._schedule.runs(session):
            if run.id in self._over or run.at > now:
                continue
            if now - run.at > LATE:
                self._miss(run, "STARTED_LATER" if run.at < self._started_at else "OVERSLEPT")
            else:
                self.attempt(run)
                now = self._clock.now()
        closing = DueRun(session, "close", after_close(self._schedule.calendar, session), first=False, last=False)
        if now >= closing.at and closing.id not in self._over:
            self._guarded(closing, lambda: self._session.close_out(session))

    def attempt(self, run: DueRun) -> RunReport | None:
        return self._guarded(run, lambda: self._session.run(run))

    def close_out(self, session: date) -> RunReport | None:
        run = DueRun(session, "close", self._clock.now(), first=False, last=False)
        return self._guarded(run, lambda: self._session.close_out(session))

    def _miss(self, run: DueRun, why: str) -> None:
        self._over.add(run.id)
        self._schedule.journal.append("run_missed", {"run": run.id, "code": why})
        logs.event("run_missed", run=run.id, code=why)
        logs.count("runs_missed", code=why)

    def _guarded(self, run: DueRun, act: Callable[[], RunReport]) -> RunReport | None:
        """The job boundary: whatever a scan raises is told and counted here. A damaged journal ends the runner."""
        self._beat(f"running {run.id}")
        try:
            report = act()
        except StateCorrupt:
            raise  # nothing may be sent on a journal that cannot be trusted
        except KobeError as error:
            self._failed(run, error.code, str(error))
            return None
        except Exception as error:  # noqa: BLE001 - the job boundary: the next scan must still come
            logs.error_event("run_crashed", run=run.id, code="BUG", detail=repr(error), traceback=_trace(error))
            self._failed(run, "BUG", repr(error))
            return None
        self._failures = 0
        self._over.add(run.id)
        self._tell(report)
        return report

    def _failed(self, run: DueRun, code: str, detail: str) -> None:
        self._failures += 1
        self.last_failure = (code, detail)
        logs.error_event("run_failed", run=run.id, code=code, detail=detail)
        logs.count("runs_failed", code=code)
        self._schedule.journal.append("run_failed", {"run": run.id, "code": code, "detail": detail})


def _trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))
