"""When the scans of a session are due. Pure: calendar and settings in, instants out.

Times are New York wall time and converted once per session, so that daylight saving moves nothing. On a half day a
time that falls after the close is moved to five minutes before it (`close_minus_5`) or dropped (`skip`); at most one
scan is moved, the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from core.errors import UsageError
from core.market_calendar import MarketCalendar

HALF_DAY_LEAD = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class DueRun:
    """One scan that must happen exactly once, or be recorded as missed."""

    session: date
    label: str  # the wall time the operator wrote, for instance 09:35
    at: datetime
    first: bool
    last: bool

    @property
    def id(self) -> str:
        return f"{self.session.isoformat()}T{self.label}"


def parse_scan_times(text: str) -> tuple[str, ...]:
    """`09:35,10:30,15:55` -> sorted unique HH:MM. Raises UsageError naming the bad part."""
    times: set[str] = set()
    for part in text.split(","):
        pieces = part.strip().split(":")
        if len(pieces) != 2 or not all(p.isdigit() for p in pieces) or int(pieces[0]) > 23 or int(pieces[1]) > 59:
            raise UsageError(f"--scan-times: {part.strip()!r} is not HH:MM", advice="for instance 09:35,10:30,15:55")
        times.add(f"{int(pieces[0]):02d}:{int(pieces[1]):02d}")
    return tuple(sorted(times))


def due_runs(
    session: date, scan_times: Sequence[str], calendar: MarketCalendar, *, half_day_rule: str
) -> tuple[DueRun, ...]:
    """The scans of one session in order; empty when none falls inside it."""
    opens, closes = calendar.opens_at(session), calendar.closes_at(session)
    kept: list[tuple[str, datetime]] = []
    for label in sorted(scan_times):
        at = calendar.instant_at(session, label)
        if opens <= at < closes:
            kept.append((label, at))
        elif at >= closes and half_day_rule == "close_minus_5" and label == max(scan_times):
            kept.append((label, closes - HALF_DAY_LEAD))
    kept.sort(key=lambda pair: pair[1])
    return tuple(
        DueRun(session, label, at, first=index == 0, last=index == len(kept) - 1)
        for index, (label, at) in enumerate(kept)
    )


def run_for(now: datetime, runs: Sequence[DueRun]) -> DueRun | None:
    """The scan that a single run at `now` stands for: the latest one due, or the first before it is due."""
    if not runs:
        return None
    due = [run for run in runs if run.at <= now]
    return due[-1] if due else runs[0]
