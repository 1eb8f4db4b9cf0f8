"""Bars that must not be traded on: each rule on both sides, clean bars untouched, and the operator's one-liner."""

from __future__ import annotations

import dataclasses
import math
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from core.bars_io import BarColumns, Days, Split, read_bars, to_day
from core.clock import SystemClock
from core.market_calendar import MarketCalendar
from core.paths import home
from data.quality import check_recent_data, clean, clean_all, session_days, unexplained_jumps
from data.store import BarStore

MARKET = Path(__file__).resolve().parents[2] / ".." / "shared" / "market"
LAST = date(2024, 3, 8)


def days(calendar: MarketCalendar, n: int, last: date = LAST) -> list[date]:
    return calendar.sessions_between(calendar.offset(last, 1 - n), last)


def numbers(sessions: list[date]) -> Days:
    return np.array([to_day(d) for d in sessions], dtype=np.int32)


def good(dates: Days) -> BarColumns:
    close = 100 + np.arange(len(dates), dtype=np.float64) * 0.25
    return BarColumns(dates, close - 0.5, close + 1, close - 1, close, np.full(len(dates), 1e6))


def spoiled(bars: BarColumns, k: int, **values: float) -> BarColumns:
    copies = {f: getattr(bars, f).copy() for f in values}
    for f, v in values.items():
        copies[f][k] = v
    return dataclasses.replace(bars, **copies)


def test_clean_bars_are_the_very_same_object(calendar: MarketCalendar) -> None:
    sessions = numbers(days(calendar, 30))
    bars = good(sessions)
    kept, flags = clean(bars, sessions, LAST)
    assert kept is bars and flags == []


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"open": math.nan}, "BAR_NOT_FINITE"),
        ({"high": math.inf}, "BAR_NOT_FINITE"),
        ({"volume": math.nan}, "BAR_NOT_FINITE"),
        ({"low": 0.0}, "BAR_NON_POSITIVE"),
        ({"close": -5.0}, "BAR_NON_POSITIVE"),
        ({"volume": -1.0}, "BAR_NEGATIVE_VOLUME"),
        ({"high": 50.0}, "BAR_RANGE"),
        ({"low": 100.9}, "BAR_RANGE"),
        ({"close": 200.0}, "BAR_RANGE"),
        ({"open": 1.0}, "BAR_RANGE"),
    ],
)
def test_a_bad_bar_is_taken_out_with_its_reason_and_the_others_stay(
    calendar: MarketCalendar, values: dict[str, float], code: str
) -> None:
    sessions = numbers(days(calendar, 9))
    bars = spoiled(good(sessions), 4, **values)
    kept, flags = clean(bars, sessions, LAST)
    assert [(f.code, to_day(f.session)) for f in flags] == [(code, sessions[4])]
    assert kept.dates.tolist() == np.delete(sessions, 4).tolist()
    for f in ("open", "high", "low", "close", "volume"):
        assert getattr(kept, f).tobytes() == np.delete(getattr(bars, f), 4).tobytes()


@pytest.mark.parametrize(
    "values",
    [
        {"volume": 0.0},
        {"open": 101.0, "high": 101.0, "low": 101.0, "close": 101.0},  # flat
        {"open": 102.0, "close": 100.0, "high": 102.0, "low": 100.0},  # at both ends of the range
        {"open": 61.0, "high": 62.0, "low": 50.0, "close": 50.5},  # a crash is real until vendors disagree
    ],
)
def test_unusual_but_possible_bars_stay(calendar: MarketCalendar, values: dict[str, float]) -> None:
    sessions = numbers(days(calendar, 9))
    bars = spoiled(good(sessions), 4, **values)
    assert clean(bars, sessions, LAST) == (bars, [])


def test_a_holiday_a_weekend_a_duplicate_and_a_partial_bar(calendar: MarketCalendar) -> None:
    sessions = days(calendar, 20, date(2024, 2, 23))  # 2024-02-19 is a holiday
    inside = [*sessions, date(2024, 2, 19), date(2024, 2, 18), sessions[3], date(2024, 2, 26)]
    kept, flags = clean(good(numbers(sorted(inside))), numbers(sessions), date(2024, 2, 23))
    assert sorted((f.code, f.session.isoformat()) for f in flags) == [
        ("BAR_DUPLICATE", sessions[3].isoformat()),
        ("BAR_DUPLICATE", sessions[3].isoformat()),
        ("BAR_NOT_A_SESSION", "2024-02-18"),
        ("BAR_NOT_A_SESSION", "2024-02-19"),
        ("BAR_PARTIAL", "2024-02-26"),
    ]
    assert kept.dates.tolist() == np.delete(numbers(sessions), 3).tolist()


def test_no_bars_and_no_sessions_are_no_mistake() -> None:
    none = np.empty(0, dtype=np.int32)
    assert clean(good(none), none, LAST)[1] == []
    kept, flags = clean(good(numbers([LAST])), none, LAST)
    assert len(kept) == 0 and flags[0].code == "BAR_NOT_A_SESSION"


def test_clean_all_names_the_symbols_that_are_out_today(calendar: MarketCalendar) -> None:
    sessions = numbers(days(calendar, 9))
    bars = {
        "GOOD": good(sessions),
        "OLD": spoiled(good(sessions), 4, close=-1.0),
        "NOW": spoiled(good(sessions), 8, high=1.0),
        "NONE": good(sessions[:0]),
    }
    kept, out = clean_all(bars, calendar, LAST)
    assert out == {"NOW": "BAR_RANGE"}
    assert {s: len(b) for s, b in kept.items()} == {"GOOD": 9, "OLD": 8, "NOW": 8, "NONE": 0}


@pytest.mark.parametrize("wrong", [date(24, 3, 7), date(1985, 1, 2), date(2924, 3, 7)])
def test_one_impossible_date_costs_that_bar_and_not_the_run(calendar: MarketCalendar, wrong: date) -> None:
    sessions = numbers(days(calendar, 9))
    dates = np.sort(np.append(sessions, np.int32(to_day(wrong))))
    kept, out = clean_all({"A": good(dates)}, calendar, LAST)
    assert kept["A"].dates.tolist() == sessions.tolist() and out == {}
    assert session_days(calendar, to_day(wrong), LAST).size > 0 or wrong > LAST


def test_the_real_anomalies_of_the_small_file_are_found_and_nothing_else(calendar: MarketCalendar) -> None:
    path = MARKET / "bars_small.csv.gz"
    if not path.is_file():
        pytest.skip("market data not present")
    bars = read_bars(path)
    flagged = set()
    for symbol, own in bars.items():
        kept, flags = clean(own, session_days(calendar, int(own.dates[0]), LAST), LAST)
        assert len(kept) + len(flags) == len(own)
        flagged |= {(symbol, f.session.isoformat(), f.code) for f in flags}
    assert flagged == {
        ("HUBB", "2021-05-05", "BAR_RANGE"),
        ("PEAK", "2021-05-05", "BAR_RANGE"),
        ("SHEL", "2021-05-05", "BAR_RANGE"),
        ("SHEL", "2023-01-24", "BAR_RANGE"),
    }


def test_no_bad_bar_survives_the_dirty_file(calendar: MarketCalendar) -> None:
    path = MARKET / "bars_dirty.csv.gz"
    if not path.is_file():
        pytest.skip("market data not present")
    kept, _ = clean_all(read_bars(path), calendar, LAST)
    for own in kept.values():
        prices = np.stack([own.open, own.high, own.low, own.close])
        assert np.isfinite(prices).all() and (prices > 0).all()
        assert (prices.min(axis=0) == own.low).all() and (prices.max(axis=0) == own.high).all()


@pytest.mark.parametrize(("factor", "found"), [(1.39, False), (1.41, True), (0.61, False), (0.59, True)])
def test_a_jump_wants_an_explanation_beyond_40_percent(calendar: MarketCalendar, factor: float, found: bool) -> None:
    bars = good(numbers(days(calendar, 3)))
    close = np.array([100.0, 100.0, 100.0 * factor])
    assert bool(unexplained_jumps(dataclasses.replace(bars, close=close), {})) is found


def test_a_split_explains_a_jump(calendar: MarketCalendar) -> None:
    sessions = days(calendar, 3)
    bars = dataclasses.replace(good(numbers(sessions)), close=np.array([100.0, 25.5, 25.0]))
    assert unexplained_jumps(bars, {sessions[1]: 4.0}) == []
    assert [f.session for f in unexplained_jumps(bars, {})] == [sessions[1]]


# ---------------------------------------------------------------- check_recent_data
def recent(calendar: MarketCalendar, n: int = 40) -> Days:
    return numbers(days(calendar, n, calendar.last_completed(SystemClock().now())))


def test_recent_data_of_a_symbol_nobody_stored() -> None:
    assert check_recent_data("AAPL")["status"] == "no_data"


def test_recent_data_that_is_believable(calendar: MarketCalendar) -> None:
    BarStore(home().cache, "polygon").append("AAPL", good(recent(calendar)))
    told = check_recent_data("aapl")
    assert (told["status"], told["source"], told["findings"]) == ("ok", "polygon", [])


def test_recent_data_tells_gaps_bad_bars_jumps_and_lag(calendar: MarketCalendar) -> None:
    sessions = recent(calendar)
    bars = spoiled(good(sessions), 30, high=1.0)
    bars = bars.rows(~np.isin(np.arange(40), [35, 39]))
    bars.close[:10] *= 3
    bars.high[:10] *= 3
    BarStore(home().cache, "polygon").append("AAPL", bars)
    told = check_recent_data("AAPL")
    assert told["status"] == "flagged"
    assert told["counts"] == {"BAR_RANGE": 1, "JUMP_UNEXPLAINED": 1, "NO_BAR": 3}


def test_recent_data_knows_the_stored_splits(calendar: MarketCalendar) -> None:
    sessions = recent(calendar)
    bars = good(sessions)
    for f in ("open", "high", "low", "close"):
        getattr(bars, f)[:30] *= 2
    store = BarStore(home().cache, "polygon")
    store.append("AAPL", bars)
    assert check_recent_data("AAPL")["status"] == "flagged"
    store.write_actions([Split("AAPL", date(1970, 1, 1) + timedelta(days=int(sessions[30])), 2.0)], [])
    assert check_recent_data("AAPL")["status"] == "ok"


def test_recent_data_of_a_damaged_file_is_flagged_and_does_not_raise() -> None:
    store = BarStore(home().cache, "polygon")
    store.folder.mkdir(parents=True)
    (store.folder / "AAPL.csv").write_bytes(b"")
    told = check_recent_data("AAPL")
    assert told["status"] == "flagged" and told["counts"]["FILE_DAMAGED"] == 1


def test_recent_data_tells_a_quarantine_and_takes_a_dividend_for_an_explanation() -> None:
    from data.quality.quarantine import Held, Quarantine

    place = Quarantine(home().state)
    morning = {"session": "2026-03-13", "source": "polygon", "second": "alpaca", "code": "VENDORS_DISAGREE"}
    found_in = {"AAPL": Held("VENDORS_DISAGREE", "2026-03-13", "polygon", "close 1", "x")}
    place.put(found_in, {**morning, "compared": 20, "differ": 1})
    found = check_recent_data("AAPL")
    assert (found["status"], found["quarantined"]) == ("no_data", "VENDORS_DISAGREE")
    assert check_recent_data("MSFT")["quarantined"] is None
    sessions = [date(2024, 3, 4), date(2024, 3, 5)]
    bars = BarColumns(numbers(sessions), *(np.array([10.0, 5.0]) for _ in range(5)))
    assert [f.code for f in unexplained_jumps(bars, {})] == ["JUMP_UNEXPLAINED"]
    assert unexplained_jumps(bars, {}, dividends={sessions[1]: 4.5}) == []
    assert len(unexplained_jumps(bars, {}, dividends={sessions[1]: 0.9})) == 1
