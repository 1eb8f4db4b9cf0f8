"""When New York trades: sessions, opens and closes, early closes included.

The facts are those of exchange_calendars (XNYS), copied once into a small JSON file, so that an ordinary start imports
neither it nor pandas. A session is an exchange-local date; instants are aware UTC.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

from core.canonical import canonical_json
from core.clock import Clock, SystemClock
from core.errors import DataError, UsageError
from core.files import write_atomic
from core.paths import home

NEW_YORK = ZoneInfo("America/New_York")
FIRST_YEAR = 1990
LAST_YEAR = 2100  # nobody knows holidays that far ahead; a later date is a mistake, not a question
_YEARS_AHEAD = 2
_OPEN, _CLOSE = time(9, 30), time(16, 0)
_WALL = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?\Z")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")


@dataclass(frozen=True, slots=True)
class Facts:
    """Sessions ascending, and the wall times that differ from 09:30 and 16:00 New York."""

    sessions: tuple[date, ...]
    opens: Mapping[date, time]
    closes: Mapping[date, time]
    end_year: int


class MarketCalendar:
    """Questions beyond the last known session fetch further years by themselves, up to LAST_YEAR."""

    def __init__(self, facts: Facts, extend: Callable[[int], Facts] | None = None) -> None:
        if not facts.sessions:
            raise ValueError("a calendar needs at least one session")
        self._extend = extend
        self._take(facts)

    def _take(self, facts: Facts) -> None:
        self._facts = facts
        self._set = frozenset(facts.sessions)

    # ------------------------------------------------------------ range
    @property
    def first(self) -> date:
        return self._facts.sessions[0]

    @property
    def last(self) -> date:
        """The last session known now; later questions may move it."""
        return self._facts.sessions[-1]

    @property
    def sessions(self) -> tuple[date, ...]:
        return self._facts.sessions

    def _reach(self, year: int) -> None:
        if self._facts.end_year < year <= LAST_YEAR and self._extend is not None:
            self._take(self._extend(year))

    def _outside(self, wanted: str) -> DataError:
        return DataError(
            f"{wanted} is outside the calendar, {self.first} to {self.last}",
            code="CALENDAR_RANGE",
            advice="choose a date inside the calendar",
        )

    def _at(self, index: int, wanted: str) -> date:
        if index < 0:
            raise self._outside(wanted)
        while index >= len(self._facts.sessions):
            before = self._facts.end_year
            self._reach(before + 1)
            if self._facts.end_year == before:
                raise self._outside(wanted)
        return self._facts.sessions[index]

    # ------------------------------------------------------------ sessions
    def is_session(self, day: date) -> bool:
        """False also for a date before the first or after the last year anyone knows."""
        self._reach(day.year)
        return day in self._set

    def is_half_day(self, session: date) -> bool:
        self._require_session(session)
        return self._facts.closes.get(session, _CLOSE) < _CLOSE

    def next_session(self, day: date) -> date:
        """Strictly after `day`. Raises DataError outside the calendar, as everything below."""
        self._reach(day.year)
        self._require_known(day)
        return self._at(bisect_right(self._facts.sessions, day), f"the session after {day}")

    def previous_session(self, day: date) -> date:
        """Strictly before `day`."""
        self._reach(day.year)
        self._require_known(day)
        return self._at(bisect_left(self._facts.sessions, day) - 1, f"the session before {day}")

    def offset(self, day: date, by: int) -> date:
        """The session `by` sessions after `day`, before it when negative; 0 is `day` itself, or the next session."""
        self._reach(day.year)
        self._require_known(day)
        index = bisect_left(self._facts.sessions, day)
        if by > 0 and day not in self._set:
            index -= 1  # from a closed day, the first step forward is the next session
        return self._at(index + by, f"{by} sessions from {day}")

    def sessions_between(self, start: date, end: date) -> list[date]:
        """Both ends included; empty when start > end."""
        self._reach(end.year)
        if start < self.first and end >= start:
            raise self._outside(str(start))
        if end >= start:
            self._require_known(end)
        known = self._facts.sessions
        return list(known[bisect_left(known, start) : bisect_right(known, end)])

    def _require_known(self, day: date) -> None:
        if day.year > self._facts.end_year or day < self.first:
            raise self._outside(str(day))

    # ------------------------------------------------------------ instants
    def _require_session(self, day: date) -> None:
        if not self.is_session(day):
            raise DataError(f"{day} is not a session", code="NOT_A_SESSION", advice="choose a trading day")

    def opens_at(self, session: date) -> datetime:
        self._require_session(session)
        return _utc(session, self._facts.opens.get(session, _OPEN))

    def closes_at(self, session: date) -> datetime:
        self._require_session(session)
        return _utc(session, self._facts.closes.get(session, _CLOSE))

    def instant_at(self, session: date, wall: str) -> datetime:
        """ "09:35" or "09:35:30" New York wall time on that date, in UTC. Raises UsageError for other words."""
        match = _WALL.match(wall.strip())
        if match is None:
            raise UsageError(f"{wall!r} is not a wall time HH:MM", advice="for instance 09:35")
        return _utc(session, time(int(match[1]), int(match[2]), int(match[3] or 0)))

    def session_at(self, now: datetime) -> date | None:
        """The New York date of `now` if it is a session, at any time of that day."""
        day = _new_york_date(now)
        return day if self.is_session(day) else None

    def last_completed(self, now: datetime) -> date:
        """The newest session whose close is not after `now`: its daily bar is final."""
        day = _new_york_date(now)
        if self.is_session(day) and self.closes_at(day) <= now:
            return day
        return self.previous_session(day)


def _utc(session: date, wall: time) -> datetime:
    return datetime.combine(session, wall, tzinfo=NEW_YORK).astimezone(UTC)


def _new_york_date(now: datetime) -> date:
    if now.utcoffset() is None:
        raise ValueError(f"now must be aware, was {now!r}")
    return now.astimezone(NEW_YORK).date()


def parse_as_of(text: str, calendar: MarketCalendar) -> datetime:
    """An ISO instant with its zone, or a session date: the morning after it, 09:35 New York of the next session.

    Raises UsageError for anything else: a naive time would mean something different on each machine.
    """
    cleaned = text.strip()
    try:
        if _DATE.match(cleaned):
            session = date.fromisoformat(cleaned)
            if not calendar.is_session(session):
                raise UsageError(f"--as-of {cleaned} is not a session", advice="choose a trading day, or an instant")
            return calendar.instant_at(calendar.next_session(session), "09:35")
        at = datetime.fromisoformat(cleaned)
    except ValueError as error:
        raise UsageError(f"--as-of {text!r} is neither an ISO instant nor a session date") from error
    if at.utcoffset() is None:
        raise UsageError(f"--as-of {text!r} names no time zone", advice=f"for instance {cleaned}-05:00 or {cleaned}Z")
    try:
        at = at.astimezone(UTC)
    except OverflowError as error:  # year 1 or 9999, pushed over the edge by its zone
        raise UsageError(f"--as-of {text!r} is outside the calendar, which begins {calendar.first}") from error
    if not calendar.first < at.date() or at.year > LAST_YEAR:
        raise UsageError(f"--as-of {text!r} is outside the calendar, which begins {calendar.first}")
    return at


# ---------------------------------------------------------------- where the facts come from
_loaded: dict[tuple[Path, int], MarketCalendar] = {}


def market_calendar(cache_dir: Path | None = None, clock: Clock | None = None) -> MarketCalendar:
    """XNYS from 1990 to the end of the year after next, by `clock` (default: the system's). One per process and folder.

    cache_dir : where the derived file lies, default cache/calendar below KOBE_HOME; it may be deleted at any time.
    """
    folder = cache_dir or home().cache / "calendar"
    end_year = min((clock or SystemClock()).now().year + _YEARS_AHEAD, LAST_YEAR)
    found = _loaded.get((folder, end_year))
    if found is None:
        found = MarketCalendar(
            _facts(folder, end_year), lambda year: _facts(folder, min(year + _YEARS_AHEAD, LAST_YEAR))
        )
        _loaded[(folder, end_year)] = found
    return found


def _facts(folder: Path, end_year: int) -> Facts:
    path = folder / f"XNYS-{_library_version()}-{end_year}.json"
    try:
        return _from_json(json.loads(path.read_bytes()), end_year)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        pass  # absent or damaged: it is derived, make it again
    facts = _from_library(end_year)
    with contextlib.suppress(OSError):  # a read-only folder costs time at each start, nothing else
        write_atomic(path, _to_json(facts).encode(), durable=False)
    return facts


def _library_version() -> str:
    """From the folder name of the installed distribution: importlib.metadata would cost a warm start 20 ms."""
    spec = importlib.util.find_spec("exchange_calendars")
    if spec is not None and spec.origin:
        for found in Path(spec.origin).parent.parent.glob("exchange_calendars-*.dist-info"):
            return found.name.removeprefix("exchange_calendars-").removesuffix(".dist-info")
    return "unknown"


def _to_json(facts: Facts) -> str:
    """Dates as ordinals, because they are read at every start."""
    return canonical_json({
        "sessions": [day.toordinal() for day in facts.sessions],
        "opens": {str(day.toordinal()): wall.isoformat("minutes") for day, wall in facts.opens.items()},
        "closes": {str(day.toordinal()): wall.isoformat("minutes") for day, wall in facts.closes.items()},
    })  # fmt: skip


def _from_json(row: Mapping[str, object], end_year: int) -> Facts:
    """Raises ValueError, KeyError or TypeError for a file that is not what `_to_json` wrote."""
    ordinals = row["sessions"]
    if not isinstance(ordinals, list) or ordinals != sorted(set(ordinals)) or len(ordinals) < 250:
        raise ValueError("sessions are not ascending")
    sessions = tuple(map(date.fromordinal, ordinals))
    if sessions[0].year != FIRST_YEAR or sessions[-1].year != end_year:
        raise ValueError("the file covers other years")
    return Facts(sessions, _walls(row["opens"]), _walls(row["closes"]), end_year)


def _walls(row: object) -> dict[date, time]:
    if not isinstance(row, dict):
        raise TypeError("wall times are not an object")
    return {date.fromordinal(int(day)): time.fromisoformat(wall) for day, wall in row.items()}


def _from_library(end_year: int) -> Facts:
    import exchange_calendars

    with warnings.catch_warnings():  # about its own use of pandas, nothing an operator could act on
        warnings.simplefilter("ignore", DeprecationWarning)
        found = exchange_calendars.get_calendar("XNYS", start=f"{FIRST_YEAR}-01-01", end=f"{end_year}-12-31")
    sessions = tuple(stamp.date() for stamp in found.sessions)
    return Facts(sessions, _unusual(sessions, found.opens, _OPEN), _unusual(sessions, found.closes, _CLOSE), end_year)


def _unusual(sessions: Sequence[date], instants: Sequence[datetime], usual: time) -> dict[date, time]:
    walls = (stamp.astimezone(NEW_YORK).time() for stamp in instants)
    return {day: wall for day, wall in zip(sessions, walls, strict=True) if wall != usual}
