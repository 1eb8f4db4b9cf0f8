"""Which scans there are, which of them are over, and which passed without being made.

The journal is the memory: a scan is over when it holds `scan_run` or `run_missed` for it. Nothing that is due is ever
just gone: what could not be made is written down with its reason, and told (P14-P16, P57, P58, D21-D23).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from core import logs
from core.domain import BrokerClock
from core.market_calendar import NEW_YORK, MarketCalendar
from execution.scheduler import DueRun, dropped_runs, due_runs
from execution.session import SESSION_MARGIN

if TYPE_CHECKING:
    from core.journal import Journal

MOST_SESSIONS_BACK = 10
"""How far back missed scans are told one by one after a long absence; what lies before them is one record."""
CLOSE = "close"
_DAYS_KEPT = 40


@dataclass(frozen=True, slots=True)
class _Day:
    """One session: its scans, those that a half day leaves no room for, and the job after its close."""

    runs: tuple[DueRun, ...]
    dropped: tuple[str, ...]
    closing: DueRun


@dataclass
class Schedule:
    """The runs of every session. `hours_told` are closes that the broker's clock has set against the calendar."""

    calendar: MarketCalendar
    scan_times: Sequence[str]
    half_day_rule: str
    journal: Journal
    hours_told: dict[date, datetime] = field(default_factory=dict)
    _days: dict[date, _Day] = field(default_factory=dict)

    def runs(self, session: date) -> tuple[DueRun, ...]:
        return self._day(session).runs

    def dropped(self, session: date) -> tuple[str, ...]:
        return self._day(session).dropped

    def closing(self, session: date) -> DueRun:
        """The job after the close: a minute later, when resting orders are surely over."""
        return self._day(session).closing

    def closes_at(self, session: date) -> datetime:
        return self.hours_told.get(session) or self.calendar.closes_at(session)

    def _day(self, session: date) -> _Day:
        """Asked every second, so worked out once; days long past are forgotten."""
        found = self._days.get(session)
        if found is None:
            wanted = (session, self.scan_times, self.calendar)
            closes_at = self.closes_at(session)
            found = _Day(
                due_runs(*wanted, half_day_rule=self.half_day_rule, closes_at=closes_at),
                dropped_runs(*wanted, half_day_rule=self.half_day_rule, closes_at=closes_at),
                DueRun(session, CLOSE, closes_at + SESSION_MARGIN, first=False, last=False),
            )
            self._days = {s: d for s, d in self._days.items() if abs((s - session).days) < _DAYS_KEPT}
            self._days[session] = found
        return found

    def learn(self, session: date, hours: BrokerClock | None) -> bool:
        """The broker's clock wins over the calendar: another close of this session moves its scans (D22).

        True when that was news.
        """
        if hours is None or not hours.is_open or hours.next_close == self.closes_at(session):
            return False
        if hours.next_close.astimezone(NEW_YORK).date() != session:
            return False
        logs.error_event(
            "market_hours_differ", code="BROKER_HOURS_WIN", session=session.isoformat(),
            calendar=self.calendar.closes_at(session).isoformat(), broker=hours.next_close.isoformat(),
        )  # fmt: skip
        logs.count("market_hours_differ")
        self.hours_told[session] = hours.next_close
        self._days.pop(session, None)
        return True

    def recorded(self) -> tuple[Done, set[str]]:
        """(what is over, what has failed at least once), from the journal."""
        done, failed = Done(), set()
        for record in self.journal.kinds("scan_run", "run_missed", "run_failed"):
            run_id = str(record.body["run"])
            failed.add(run_id) if record.kind == "run_failed" else done.add(run_id)
        return done, failed


class Done:
    """The runs that are over, and the newest session among them."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._newest = ""  # ISO dates sort as text

    @property
    def newest(self) -> date | None:
        return date.fromisoformat(self._newest) if self._newest else None

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._ids

    def add(self, run_id: str) -> None:
        self._ids.add(run_id)
        self._newest = max(self._newest, run_id[:10])


def sessions_to_look_at(newest: date | None, now: datetime, calendar: MarketCalendar) -> tuple[list[date], list[date]]:
    """(sessions whose runs are told one by one, older ones that nobody was there for), from the newest one on record.

    newest : None = this home has no record yet: only today counts. A record of a later day than today, left by a clock
    that was wrong, hides nothing of today.
    """
    today = now.astimezone(NEW_YORK).date()
    if newest is None or newest > today:
        return ([today] if calendar.is_session(today) else []), []
    oldest = calendar.offset(calendar.last_completed(now), -MOST_SESSIONS_BACK)
    long_gone = calendar.sessions_between(newest + timedelta(days=1), oldest - timedelta(days=1))
    return calendar.sessions_between(max(newest, oldest), today), long_gone
