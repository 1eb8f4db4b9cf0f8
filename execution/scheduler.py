"""When the scans of a session are due. Pure: calendar and settings in, instants out.

Times are New York wall time and converted once per session, so that daylight saving moves nothing. On a half day a
time that falls after the close is moved to five minutes before it (`close_minus_5`) or dropped (`skip`); at most one
scan is moved, the last.
"""

from __future__ import annotations

import re
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


OPEN, CLOSE = "09:30", "16:00"
_WALL = re.compile(r"([0-9]{1,2}):([0-9]{1,2})\Z")


def parse_scan_times(text: str) -> tuple[str, ...]:
    """`09:35,10:30,15:55` -> sorted unique HH:MM within the regular session. Raises UsageError naming the bad part."""
    times: set[str] = set()
    for part in text.split(","):
        match = _WALL.match(part.strip())
        if match is None or int(match[1]) > 23 or int(match[2]) > 59:
            raise UsageError(f"--scan-times: {part.strip()!r} is not HH:MM", advice="for instance 09:35,10:30,15:55")
        label = f"{int(match[1]):02d}:{int(match[2]):02d}"
        if not OPEN <= label < CLOSE:
            raise UsageError(
                f"--scan-times: {label} is outside the session, {OPEN} to {CLOSE} New York",
                advice="for instance 09:35,10:30,15:55",
            )
        times.add(label)
    return tuple(sorted(times))


def due_runs(
    session: date,
    scan_times: Sequence[str],
    calendar: MarketCalendar,
    *,
    half_day_rule: str,
    closes_at: datetime | None = None,
) -> tuple[DueRun, ...]:
    """The scans of one session in order; empty when none falls inside it.

    closes_at : what the broker's clock says of this session, which overrides the calendar (D22).
    """
    closes = closes_at or calendar.closes_at(session)
    labels = sorted(scan_times)
    kept = [(label, at) for label in labels if (at := calendar.instant_at(session, label)) < closes]
    moved = closes - HALF_DAY_LEAD
    if len(kept) < len(labels) and half_day_rule == "close_minus_5" and all(at < moved for _, at in kept):
        kept.append((labels[-1], moved))
    return tuple(
        DueRun(session, label, at, first=index == 0, last=index == len(kept) - 1)
        for index, (label, at) in enumerate(kept)
    )


def dropped_runs(
    session: date,
    scan_times: Sequence[str],
    calendar: MarketCalendar,
    *,
    half_day_rule: str,
    closes_at: datetime | None = None,
) -> tuple[str, ...]:
    """Ids of the scans that a half day leaves no room for: they are recorded as skipped, not forgotten."""
    runs = due_runs(session, scan_times, calendar, half_day_rule=half_day_rule, closes_at=closes_at)
    kept = {run.label for run in runs}
    return tuple(f"{session.isoformat()}T{label}" for label in sorted(scan_times) if label not in kept)


def run_for(now: datetime, runs: Sequence[DueRun]) -> DueRun | None:
    """The scan that a single run at `now` stands for: the latest one due, or the first before it is due."""
    if not runs:
        return None
    due = [run for run in runs if run.at <= now]
    return due[-1] if due else runs[0]
