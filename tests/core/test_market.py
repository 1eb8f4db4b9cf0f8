"""Markets: nothing of the past ever changes, and the numbers are such as a market could show."""

from __future__ import annotations

import warnings
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from core.market.base import Bar, Fills, Knot, first_crossing, price_on, session_path
from core.market.real import BarsMarket
from core.market.simulated import FIRST_SESSION, SimulatedMarket, generated_symbols
from core.market_calendar import MarketCalendar, market_calendar

EARLY, LATE = date(2021, 6, 30), date(2023, 6, 30)


@pytest.fixture(scope="module")
def calendar(tmp_path_factory: pytest.TempPathFactory) -> MarketCalendar:
    with warnings.catch_warnings():  # pandas warns inside exchange_calendars while the facts are copied
        warnings.simplefilter("ignore")
        return market_calendar(tmp_path_factory.mktemp("calendar"))


@pytest.fixture(scope="module")
def market(calendar: MarketCalendar) -> SimulatedMarket:
    return SimulatedMarket(7, calendar)


def test_history_does_not_change_when_days_or_symbols_are_added(calendar: MarketCalendar) -> None:
    few = SimulatedMarket(7, calendar, generated_symbols(5), minimum=0)
    before = {symbol: few.series(symbol, EARLY) for symbol in few.symbols()}
    copies = {s: [np.array(column) for column in b] for s, b in before.items() if b is not None}
    splits, dividends, vix = few.splits(EARLY), few.dividends(EARLY), few.vix(EARLY)
    few.rows(LATE)  # generates two more years
    more = SimulatedMarket(7, calendar, generated_symbols(40), minimum=0)
    more.rows(LATE)
    for symbol, columns in copies.items():
        for other in (few, more):
            series = other.series(symbol, EARLY)
            assert series is not None
            assert all(np.array_equal(a, b) for a, b in zip(columns, series, strict=True))
    assert (few.splits(EARLY), few.dividends(EARLY), few.vix(EARLY)) == (splits, dividends, vix)
    assert [event for event in more.splits(EARLY) if event.symbol in copies] == splits


def test_another_seed_is_another_market(calendar: MarketCalendar) -> None:
    one, two = (SimulatedMarket(seed, calendar, minimum=3) for seed in (1, 2))
    assert one.bar("ZKAAA", EARLY) != two.bar("ZKAAA", EARLY)


def test_prices_are_whole_cents_inside_their_range_and_mostly_affordable(market: SimulatedMarket) -> None:
    rows = market.rows(LATE)
    assert 850 <= len(rows) <= 900
    prices = np.array([row[1:5] for row in rows])
    assert np.allclose(np.round(prices, 2), prices, atol=1e-9)
    assert (prices[:, 2] <= prices[:, [0, 3]].min(axis=1)).all()
    assert (prices[:, 1] >= prices[:, [0, 3]].max(axis=1)).all()
    assert np.mean((prices[:, 3] > 10) & (prices[:, 3] < 75)) > 0.6
    assert all(row.volume > 0 for row in rows)


def test_there_are_splits_dividends_halts_delistings_and_a_calm_index(
    market: SimulatedMarket, calendar: MarketCalendar
) -> None:
    sessions = calendar.sessions_between(FIRST_SESSION, LATE)
    assert {event.ratio for event in market.splits(LATE)} >= {2.0, 0.125}
    assert len(market.dividends(LATE)) > 1000
    series = {symbol: market.series(symbol, LATE) for symbol in market.symbols()}
    lengths = [s.days.size for s in series.values() if s is not None]
    assert min(lengths) < len(sessions) - 50 and max(lengths) == len(sessions)
    halted = sum(
        1 for s in series.values() if s is not None and s.days.size and s.days.size < len(sessions)
        and s.days[-1] == max(x.days[-1] for x in series.values() if x is not None and x.days.size)
    )  # fmt: skip
    assert halted > 50
    vix = np.array([market.vix(day) for day in sessions], dtype=float)
    assert vix.min() >= 12 and vix.max() <= 35 and 0.7 < np.mean(vix < 25) < 1.0


def test_a_split_moves_the_raw_price_by_its_ratio(market: SimulatedMarket) -> None:
    event = next(e for e in market.splits(LATE) if e.ratio == 2.0 and e.ex_date > date(2020, 6, 1))
    series = market.series(event.symbol, event.ex_date)
    assert series is not None
    assert 0.4 < float(series.open[-1] / series.close[-2]) < 0.6


def test_the_cache_gives_the_same_numbers_and_may_vanish_or_be_broken(tmp_path: Path, calendar: MarketCalendar) -> None:
    def fresh() -> Bar | None:
        return SimulatedMarket(3, calendar, minimum=20, cache=tmp_path).bar("ZKAAC", EARLY)

    first = fresh()
    assert first is not None and fresh() == first
    for file in tmp_path.iterdir():
        file.write_bytes(b"broken")
    assert fresh() == first
    for file in tmp_path.iterdir():
        file.unlink()
    assert fresh() == first


def test_unknown_symbols_and_days_without_a_session_are_none(market: SimulatedMarket) -> None:
    assert market.bar("NONE", LATE) is None and market.series("NONE", LATE) is None
    assert market.bar("ZKAAA", date(2023, 7, 1)) is None  # a Saturday
    assert market.rows(date(2023, 7, 1)) == [] and market.vix(date(2019, 12, 31)) is None


def bars(days: list[int], closes: list[float]) -> Any:
    c = np.array(closes)
    return SimpleNamespace(
        dates=np.array(days, dtype=np.int32), open=c, high=c + 1, low=c - 1, close=c, volume=np.ones(len(days))
    )


def test_real_bars_are_taken_as_they_are_and_unusable_ones_are_absent() -> None:
    market = BarsMarket({"AAA": bars([19000, 19001, 19003], [10.5, np.nan, 12.25]), "BBB": bars([19001], [5.0])})
    day = [date.fromordinal(date(1970, 1, 1).toordinal() + n) for n in range(19000, 19005)]
    assert market.bar("AAA", day[0]) == Bar(10.5, 11.5, 9.5, 10.5, 1.0)
    assert market.bar("AAA", day[1]) is None and market.bar("AAA", day[2]) is None
    assert market.last_bar("AAA", day[2]) == (day[0], Bar(10.5, 11.5, 9.5, 10.5, 1.0))
    assert [row.symbol for row in market.rows(day[1])] == ["BBB"]
    assert market.vix(day[0]) is None and market.sectors() == {"AAA": None, "BBB": None}
    series = market.series("AAA", day[4])
    assert series is not None and series.close.tolist() == [10.5, 12.25]
    assert list(market.sessions) == [day[0], day[1], day[3]]


@pytest.mark.parametrize("fills", list(Fills))
@pytest.mark.parametrize("minutes", [390.0, 210.0])
def test_a_path_touches_open_high_low_and_close_and_stays_inside(fills: Fills, minutes: float) -> None:
    bar = Bar(20.0, 22.0, 18.0, 19.0, 1.0)
    path = session_path(fills, "AAA", EARLY, bar, minutes)
    prices = [price_on(path, minute / 4) for minute in range(int(minutes * 4) + 1)]
    assert (prices[0], prices[-1]) == (20.0, 19.0)
    assert all(18.0 <= price <= 22.0 for price in prices)
    assert first_crossing(path, 0, minutes, 18.0, rising=False) is not None
    assert first_crossing(path, 0, minutes, 22.0, rising=True) is not None
    assert first_crossing(path, 0, minutes, 17.99, rising=False) is None
    assert price_on(path, minutes - 0.5) == 19.0


def test_a_crossing_is_found_only_inside_its_window() -> None:
    path = (Knot(0, 10), Knot(10, 20), Knot(10, 5), Knot(20, 5))
    assert first_crossing(path, 0, 4.9, 15, rising=True) is None
    found = first_crossing(path, 0, 5, 15, rising=True)
    assert found is not None and (found.minute, found.already) == (5, False)
    down = first_crossing(path, 6, 20, 7, rising=False)
    assert down is not None and (down.minute, down.already) == (10, False)  # a jump trades at every price between
    assert first_crossing(path, 12, 20, 7, rising=False) == (12, True)
    assert price_on(path, 10) == 5
