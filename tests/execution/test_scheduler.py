"""When scans are due: full and half days, daylight saving, and every scan time accounted for."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UsageError
from core.market_calendar import NEW_YORK, MarketCalendar, market_calendar
from execution.scheduler import dropped_runs, due_runs, parse_scan_times, run_for

TIMES = ("09:35", "10:30", "15:55")
FULL, HALF = date(2024, 3, 5), date(2024, 7, 3)


@pytest.fixture(scope="module")
def calendar(tmp_path_factory: pytest.TempPathFactory) -> MarketCalendar:
    return market_calendar(tmp_path_factory.mktemp("calendar"))


def labels(calendar: MarketCalendar, times: str, rule: str, session: date = HALF) -> list[tuple[str, str]]:
    """Label and New York wall time of each scan."""
    runs = due_runs(session, parse_scan_times(times), calendar, half_day_rule=rule)
    return [(run.label, f"{run.at.astimezone(NEW_YORK):%H:%M}") for run in runs]


def dropped(calendar: MarketCalendar, times: str, rule: str) -> list[str]:
    return [i[-5:] for i in dropped_runs(HALF, parse_scan_times(times), calendar, half_day_rule=rule)]


@pytest.mark.parametrize("rule", ["close_minus_5", "skip"])
def test_a_full_day_has_every_scan_at_its_wall_time_whatever_the_half_day_rule(
    calendar: MarketCalendar, rule: str
) -> None:
    runs = due_runs(FULL, TIMES, calendar, half_day_rule=rule)
    assert [run.at for run in runs] == [
        datetime(2024, 3, 5, 14, 35, tzinfo=UTC),
        datetime(2024, 3, 5, 15, 30, tzinfo=UTC),
        datetime(2024, 3, 5, 20, 55, tzinfo=UTC),
    ]
    assert [(run.first, run.last) for run in runs] == [(True, False), (False, False), (False, True)]
    assert [run.id for run in runs] == ["2024-03-05T09:35", "2024-03-05T10:30", "2024-03-05T15:55"]
    assert dropped_runs(FULL, TIMES, calendar, half_day_rule=rule) == ()


def test_d21_close_minus_5_moves_the_last_scan_and_keeps_its_name(calendar: MarketCalendar) -> None:
    assert labels(calendar, "09:35,15:55", "close_minus_5") == [("09:35", "09:35"), ("15:55", "12:55")]
    runs = due_runs(HALF, TIMES, calendar, half_day_rule="close_minus_5")
    assert [run.id for run in runs][-1] == "2024-07-03T15:55" and runs[-1].last


def test_d21_skip_drops_what_is_after_the_close_and_names_it(calendar: MarketCalendar) -> None:
    assert labels(calendar, "09:35,15:55", "skip") == [("09:35", "09:35")]
    assert dropped(calendar, "09:35,15:55", "skip") == ["15:55"]
    assert due_runs(HALF, ("09:35", "15:55"), calendar, half_day_rule="skip")[0].last


@pytest.mark.parametrize(
    ("times", "kept", "gone"),
    [
        ("12:57,15:55", [("12:57", "12:57")], ["15:55"]),  # a scan after the moved one would make two last scans
        ("12:55,15:55", [("12:55", "12:55")], ["15:55"]),
        ("12:54,15:55", [("12:54", "12:54"), ("15:55", "12:55")], []),
        ("13:00,15:55", [("15:55", "12:55")], ["13:00"]),  # the close itself is after the session
        ("14:00,15:00,15:55", [("15:55", "12:55")], ["14:00", "15:00"]),
    ],
)
def test_d21_at_most_one_scan_moves_and_the_others_are_named(
    calendar: MarketCalendar, times: str, kept: list[tuple[str, str]], gone: list[str]
) -> None:
    assert labels(calendar, times, "close_minus_5") == kept
    assert dropped(calendar, times, "close_minus_5") == gone


def test_d21_a_half_day_may_have_no_scan_at_all(calendar: MarketCalendar) -> None:
    assert labels(calendar, "15:55", "skip") == []
    assert dropped(calendar, "15:55", "skip") == ["15:55"]


@pytest.mark.parametrize(
    ("before", "after", "utc_before", "utc_after"),
    [
        (date(2024, 3, 8), date(2024, 3, 11), 14, 13),  # New York springs forward on 10 March, Europe three weeks later
        (date(2024, 11, 1), date(2024, 11, 4), 13, 14),  # New York falls back on 3 November, Europe a week earlier
    ],
)
def test_d23_daylight_saving_moves_utc_and_not_the_wall_time(
    calendar: MarketCalendar, before: date, after: date, utc_before: int, utc_after: int
) -> None:
    for session, hour in ((before, utc_before), (after, utc_after)):
        run = due_runs(session, TIMES, calendar, half_day_rule="skip")[0]
        assert (run.at.hour, run.at.minute) == (hour, 35)


def test_d23_each_scan_happens_once_in_every_switch_week_of_twenty_years(calendar: MarketCalendar) -> None:
    for year in range(2007, 2027):
        for start in (date(year, 3, 6), date(year, 10, 24)):
            for session in calendar.sessions_between(start, start + timedelta(days=30)):
                runs = due_runs(session, TIMES, calendar, half_day_rule="skip")
                walls = [f"{run.at.astimezone(NEW_YORK):%Y-%m-%d %H:%M}" for run in runs]
                assert walls == [f"{session} {run.label}" for run in runs]
                assert len(runs) == 3 or calendar.is_half_day(session)


@pytest.mark.parametrize(
    "text", ["09:29", "16:00", "23:59", "00:00", "9:35,16:00", "", ",", "09:35,", "0935", "09:60", "24:00", "09:35:00",
             "-9:35", "²:35", "09:3²", "٠٩:٣٥", "nine", "+9:35"],
)  # fmt: skip
def test_b33_a_time_outside_the_session_or_not_a_time_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_scan_times(text)
    assert "--scan-times" in str(caught.value)


def test_scan_times_are_sorted_unique_and_padded() -> None:
    assert parse_scan_times(" 15:55, 9:35 ,15:55,10:30") == TIMES
    assert parse_scan_times("09:30,15:59") == ("09:30", "15:59")  # both edges of the session


HALF_DAYS = (date(2023, 7, 3), date(2023, 11, 24), HALF, date(2024, 11, 29), date(2024, 12, 24))
ANY_TIMES = st.sets(
    st.integers(9 * 60 + 30, 16 * 60 - 1).map(lambda m: f"{m // 60:02d}:{m % 60:02d}"), min_size=1, max_size=6
)


@given(times=ANY_TIMES, day=st.integers(0, 600), half=st.booleans(), rule=st.sampled_from(["close_minus_5", "skip"]))
def test_every_scan_time_is_exactly_one_scan_or_one_dropped_id(
    calendar: MarketCalendar, times: set[str], day: int, half: bool, rule: str
) -> None:
    session = HALF_DAYS[day % 5] if half else calendar.next_session(date(2023, 1, 1) + timedelta(days=day))
    wanted = parse_scan_times(",".join(times))
    runs = due_runs(session, wanted, calendar, half_day_rule=rule)
    gone = dropped_runs(session, wanted, calendar, half_day_rule=rule)
    assert sorted([run.id for run in runs] + list(gone)) == [f"{session}T{label}" for label in wanted]
    assert len({run.id for run in runs}) == len(runs)
    instants = [run.at for run in runs]
    assert instants == sorted(set(instants))
    assert all(calendar.opens_at(session) <= at < calendar.closes_at(session) for at in instants)
    assert [run.first for run in runs] == [n == 0 for n in range(len(runs))]
    assert [run.last for run in runs] == [n == len(runs) - 1 for n in range(len(runs))]
    moved = [run for run in runs if run.at != calendar.instant_at(session, run.label)]
    assert len(moved) <= 1 and all(run.last and rule == "close_minus_5" for run in moved)


def test_a_single_run_stands_for_the_latest_scan_due_or_the_first(calendar: MarketCalendar) -> None:
    runs = due_runs(FULL, TIMES, calendar, half_day_rule="skip")
    assert run_for(runs[0].at - timedelta(seconds=1), runs) is runs[0]
    assert run_for(runs[1].at, runs) is runs[1]
    assert run_for(runs[1].at - timedelta(seconds=1), runs) is runs[0]
    assert run_for(runs[2].at + timedelta(hours=9), runs) is runs[2]
    assert run_for(runs[0].at, ()) is None
