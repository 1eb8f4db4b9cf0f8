"""Sessions and closes against an answers file from outside; DST, half days, as-of words, the derived cache."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import SteppedClock
from core.errors import DataError, UsageError
from core.market_calendar import NEW_YORK, MarketCalendar, market_calendar, parse_as_of

REPO = Path(__file__).resolve().parents[2]
ANSWERS = REPO / ".." / "shared" / "market" / "nyse_calendar.csv"
CLOCK = SteppedClock(datetime(2024, 3, 5, tzinfo=UTC))
D = date.fromisoformat


@pytest.fixture(scope="module")
def calendar(tmp_path_factory: pytest.TempPathFactory) -> MarketCalendar:
    return market_calendar(tmp_path_factory.mktemp("calendar"), CLOCK)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text + "+00:00")


def test_against_the_published_holidays_and_early_closes(calendar: MarketCalendar) -> None:
    if not ANSWERS.exists():
        pytest.skip("the shared market data is not beside this repository")
    with ANSWERS.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    early = {D(r["date"]): r["close_time_et"] for r in rows if r["close_time_et"]}
    closed = {D(r["date"]) for r in rows} - set(early)
    assert early and closed
    day, last = D(rows[0]["date"]), D(rows[-1]["date"])
    while day <= last:
        assert calendar.is_session(day) is (day.weekday() < 5 and day not in closed), day
        if calendar.is_session(day):
            wall = calendar.closes_at(day).astimezone(NEW_YORK).strftime("%H:%M")
            assert wall == early.get(day, "16:00"), day
            assert calendar.is_half_day(day) is (day in early)
        day += timedelta(days=1)


@pytest.mark.parametrize(
    ("session", "opens", "closes"),
    [
        ("2024-03-08", "2024-03-08 14:30", "2024-03-08 21:00"),  # winter
        ("2024-03-11", "2024-03-11 13:30", "2024-03-11 20:00"),  # the Monday after the clocks went forward
        ("2024-11-01", "2024-11-01 13:30", "2024-11-01 20:00"),
        ("2024-11-04", "2024-11-04 14:30", "2024-11-04 21:00"),  # and back
        ("2024-11-29", "2024-11-29 14:30", "2024-11-29 18:00"),  # half day
    ],
)
def test_open_and_close_in_utc(calendar: MarketCalendar, session: str, opens: str, closes: str) -> None:
    assert calendar.opens_at(D(session)) == utc(opens)
    assert calendar.closes_at(D(session)) == utc(closes)
    assert calendar.opens_at(D(session)).utcoffset() == timedelta(0)


def test_neighbours_are_strict(calendar: MarketCalendar) -> None:
    friday, saturday, monday = D("2024-03-08"), D("2024-03-09"), D("2024-03-11")
    assert calendar.next_session(friday) == calendar.next_session(saturday) == monday
    assert calendar.previous_session(monday) == calendar.previous_session(saturday) == friday
    assert calendar.next_session(D("2024-07-03")) == D("2024-07-05")
    assert calendar.previous_session(D("2001-09-17")) == D("2001-09-10")
    assert calendar.offset(friday, 0) == friday and calendar.offset(friday, 1) == monday
    assert calendar.offset(monday, -1) == friday and calendar.offset(saturday, 1) == monday
    assert calendar.offset(saturday, -1) == friday and calendar.offset(saturday, 0) == monday


def test_sessions_between_includes_both_ends(calendar: MarketCalendar) -> None:
    assert calendar.sessions_between(D("2024-03-08"), D("2024-03-12")) == [
        D("2024-03-08"),
        D("2024-03-11"),
        D("2024-03-12"),
    ]
    assert calendar.sessions_between(D("2024-03-09"), D("2024-03-10")) == []
    assert calendar.sessions_between(D("2024-03-12"), D("2024-03-08")) == []
    assert len(calendar.sessions_between(D("2023-01-01"), D("2023-12-31"))) == 250


@pytest.mark.parametrize(
    ("now", "completed", "today"),
    [
        ("2024-03-05 20:59:59", "2024-03-04", "2024-03-05"),
        ("2024-03-05 21:00:00", "2024-03-05", "2024-03-05"),
        ("2024-03-06 03:00:00", "2024-03-05", "2024-03-05"),  # still Tuesday evening in New York
        ("2024-03-06 05:00:00", "2024-03-05", "2024-03-06"),
        ("2024-03-09 15:00:00", "2024-03-08", None),
        ("2024-11-29 17:59:59", "2024-11-27", "2024-11-29"),
        ("2024-11-29 18:00:00", "2024-11-29", "2024-11-29"),
    ],
)
def test_a_bar_is_final_at_the_close(calendar: MarketCalendar, now: str, completed: str, today: str | None) -> None:
    assert calendar.last_completed(utc(now)) == D(completed)
    assert calendar.session_at(utc(now)) == (None if today is None else D(today))


def test_naive_instants_are_a_bug(calendar: MarketCalendar) -> None:
    with pytest.raises(ValueError, match="aware"):
        calendar.last_completed(datetime(2024, 3, 5))


@given(days=st.integers(0, 13_000))
def test_neighbours_agree_everywhere(calendar: MarketCalendar, days: int) -> None:
    day = date(1990, 2, 1) + timedelta(days=days)
    after, before = calendar.next_session(day), calendar.previous_session(day)
    assert before < day < after and calendar.is_session(after) and calendar.is_session(before)
    between = calendar.sessions_between(before, after)
    assert between == ([before, day, after] if calendar.is_session(day) else [before, after])


def test_instant_at_is_wall_time_in_new_york(calendar: MarketCalendar) -> None:
    assert calendar.instant_at(D("2024-03-08"), "09:35") == utc("2024-03-08 14:35")
    assert calendar.instant_at(D("2024-03-11"), "09:35:30") == utc("2024-03-11 13:35:30")
    for bad in ("9:35", "24:00", "09:60", "0935", "", "09:35 "[:4]):
        with pytest.raises(UsageError):
            calendar.instant_at(D("2024-03-08"), bad)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2024-03-05", "2024-03-06 14:35"),
        ("2024-03-08", "2024-03-11 13:35"),  # over a weekend and a clock change
        ("2024-03-05T09:35:00-05:00", "2024-03-05 14:35"),
        ("2024-03-05T14:35:00Z", "2024-03-05 14:35"),
        (" 2024-03-05T14:35Z ", "2024-03-05 14:35"),
    ],
)
def test_as_of(calendar: MarketCalendar, text: str, at: str) -> None:
    assert parse_as_of(text, calendar) == utc(at)


@pytest.mark.parametrize(
    "text",
    [
        "2024-03-09",
        "2024-02-30",
        "yesterday",
        "",
        "2024-03-05T09:35",
        "1985-01-02T00:00Z",
        "9999-12-31",
        "0001-01-01T00:00Z",
    ],
)
def test_as_of_refuses_what_could_mean_two_things(calendar: MarketCalendar, text: str) -> None:
    with pytest.raises(UsageError):
        parse_as_of(text, calendar)


def test_outside_the_calendar_is_an_error_or_no_session(calendar: MarketCalendar) -> None:
    assert not calendar.is_session(D("1985-01-02")) and not calendar.is_session(D("2999-01-02"))
    questions = (
        lambda: calendar.previous_session(calendar.first), lambda: calendar.next_session(D("1985-01-02")),
        lambda: calendar.next_session(D("2999-01-02")), lambda: calendar.opens_at(D("2024-03-09")),
        lambda: calendar.offset(calendar.first, -1),
        lambda: calendar.sessions_between(D("1985-01-02"), D("1995-01-02")),
        lambda: calendar.is_half_day(D("2024-03-09")), lambda: calendar.previous_session(D("2999-01-02")),
    )  # fmt: skip
    for ask in questions:
        with pytest.raises(DataError):
            ask()


def test_a_question_beyond_the_end_fetches_more_years(tmp_path: Path) -> None:
    made = market_calendar(tmp_path, CLOCK)
    assert made.last == D("2026-12-31")
    assert made.next_session(made.last) == D("2027-01-04")
    assert made.last.year >= 2027
    assert made.closes_at(D("2027-11-26")) == utc("2027-11-26 18:00")
    assert made.is_half_day(D("2031-11-28"))  # the first question of all about that year
    assert len(list(tmp_path.glob("XNYS-*.json"))) >= 2


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"sessions":[1,2],"opens":{},"closes":{}}', b"\xff\x00"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: bytes) -> None:
    from core import market_calendar as module

    market_calendar(tmp_path, CLOCK)
    (cached,) = tmp_path.glob("XNYS-*-2026.json")
    good = cached.read_bytes()
    cached.write_bytes(damage)
    module._loaded.clear()
    assert market_calendar(tmp_path, CLOCK).is_session(D("2024-03-05"))
    assert cached.read_bytes() == good


def test_a_warm_process_imports_neither_pandas_nor_the_library(tmp_path: Path) -> None:
    market_calendar(tmp_path / "cache" / "calendar")
    code = (
        "import sys; from core.market_calendar import market_calendar; from datetime import date\n"
        "assert market_calendar().is_session(date(2024, 3, 5))\n"
        "print(sorted(set(sys.modules) & {'pandas', 'numpy', 'exchange_calendars', 'importlib.metadata'}))"
    )
    environment = {**os.environ, "KOBE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
