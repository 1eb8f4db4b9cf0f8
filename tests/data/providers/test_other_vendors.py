from __future__ import annotations

import math
from datetime import date
from typing import Any

import pytest

from core.bars_io import from_day
from core.domain import Symbol
from data.providers.alpaca_eod import AlpacaProvider
from data.providers.base import FailureKind, ProviderFailure
from data.providers.stooq_eod import StooqProvider
from data.providers.yfinance_eod import YahooHistory, YFinanceProvider

KEY_ID, SECRET = "AKSECRETID12345", "verysecretvalue98765"
AAPL = Symbol("AAPL")
MONDAY, FRIDAY = date(2026, 3, 9), date(2026, 3, 13)


def alpaca(server: Any, clock: Any, calendar: Any, **more: Any) -> AlpacaProvider:
    return AlpacaProvider(KEY_ID, SECRET, server.url, clock, calendar=calendar, **more)


def test_alpaca_needs_at_most_five_requests_for_a_session_of_900_symbols(vendors, clock, calendar):
    names = [f"S{i}" for i in range(900)]
    server = vendors(names)
    rows = alpaca(server, clock, calendar).grouped_daily(FRIDAY, [Symbol(name) for name in names])
    assert len(rows) == 900
    assert len(server.seen) <= 5
    assert all("adjustment=raw" in path and "feed=iex" in path for path in server.seen)


def test_alpaca_dates_are_new_york_dates(vendors, clock, calendar):
    server = vendors(["AAPL"])
    bars = alpaca(server, clock, calendar).daily_bars(AAPL, date(2026, 3, 5), FRIDAY)
    assert [from_day(day) for day in bars.dates] == calendar.sessions_between(date(2026, 3, 5), FRIDAY)


@pytest.mark.parametrize(
    ("reply", "kind", "requests"),
    [
        ((401, {"message": "unauthorized."}), FailureKind.NOT_ENTITLED, 1),
        ((403, {"message": "subscription does not permit"}), FailureKind.NOT_ENTITLED, 1),
        ((429, {"message": "too many requests."}), FailureKind.RATE_LIMITED, 4),
        ((500, b"<html>"), FailureKind.UNAVAILABLE, 4),
        ((200, b"<html>"), FailureKind.MALFORMED, 1),
        ((200, b""), FailureKind.MALFORMED, 1),
        ((200, {"bars": None}), FailureKind.MALFORMED, 1),
        ((200, {"bars": {"AAPL": None}}), FailureKind.MALFORMED, 1),
        ((200, {"bars": {}}), FailureKind.UNKNOWN_SYMBOL, 1),
        ((200, {"bars": {}, "next_page_token": "again"}), FailureKind.MALFORMED, 2),
    ],
)
def test_alpaca_failures_have_kinds_and_no_keys(vendors, clock, calendar, reply, kind, requests):
    server = vendors(["AAPL"])
    server.always = lambda path, query: reply
    with pytest.raises(ProviderFailure) as caught:
        alpaca(server, clock, calendar).daily_bars(AAPL, MONDAY, FRIDAY)
    assert caught.value.kind is kind
    assert len(server.seen) == requests
    assert KEY_ID not in str(caught.value) and SECRET not in str(caught.value)


def test_alpaca_splits_and_dividends_are_one_request(vendors, clock, calendar):
    server = vendors(["AAPL"])
    server.splits = [{"symbol": "AAPL", "new_rate": 4, "old_rate": 1, "ex_date": "2026-03-10"}]
    asked = alpaca(server, clock, calendar)
    assert [s.ratio for s in asked.splits(MONDAY, FRIDAY, [AAPL])] == [4.0]
    assert asked.dividends(MONDAY, FRIDAY, [AAPL]) == []
    assert len(server.seen) == 1


def test_yahoo_bars_are_turned_back_into_raw_ones(clock, calendar):
    def fetch(ticker: str, start: date, stop: date) -> YahooHistory:
        assert (ticker, stop) == ("BRK-B", date(2026, 3, 14))  # through today, or a later split would be missed
        rows = (
            (date(2026, 3, 10), 10.0, 11.0, 9.0, 10.0, 400.0),
            (date(2026, 3, 11), 10.0, 11.0, 9.0, 10.0, 100.0),
            (date(2026, 3, 12), math.nan, math.nan, math.nan, math.nan, math.nan),
        )
        return YahooHistory(rows, splits=((date(2026, 3, 11), 4.0),), dividends=((date(2026, 3, 10), 0.25),))

    asked = YFinanceProvider(clock, calendar=calendar, fetch=fetch)
    symbol = Symbol("BRK.B")
    assert asked.splits(MONDAY, FRIDAY, [symbol]) == []
    bars = asked.daily_bars(symbol, MONDAY, FRIDAY)
    assert bars.close.tolist() == [40.0, 10.0]
    assert bars.volume.tolist() == [100.0, 100.0]
    assert [s.ratio for s in asked.splits(MONDAY, FRIDAY, [symbol])] == [4.0]
    assert [d.amount for d in asked.dividends(MONDAY, FRIDAY, [symbol])] == [1.0]


def test_an_empty_yahoo_answer_is_a_failure(clock, calendar):
    asked = YFinanceProvider(clock, calendar=calendar, fetch=lambda ticker, start, stop: YahooHistory(()))
    with pytest.raises(ProviderFailure) as caught:
        asked.daily_bars(AAPL, MONDAY, FRIDAY)
    assert caught.value.kind is FailureKind.UNAVAILABLE
    assert asked.vix_close(FRIDAY) is None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"No data", FailureKind.UNAVAILABLE),
        (b"Exceeded the daily hits limit", FailureKind.RATE_LIMITED),
        (b"<html>proof of work</html>", FailureKind.UNAVAILABLE),
        (b"", FailureKind.UNAVAILABLE),
        (b"Date,Open,High,Low,Close\r\n2026-03-10,1,1,1,1\r\n", FailureKind.UNAVAILABLE),
        (b"Date,Open,High,Low,Close,Volume\r\n2026-03-10,1,x,1,1,5\r\n", FailureKind.MALFORMED),
        (b"Date,Open,High,Low,Close,Volume\r\n2020-03-10,1,1,1,1,5\r\n", FailureKind.UNAVAILABLE),
    ],
)
def test_stooq_says_errors_with_200(vendors, clock, calendar, body, kind):
    server = vendors([])
    server.always = lambda path, query: (200, body)
    with pytest.raises(ProviderFailure) as caught:
        StooqProvider(SECRET, clock, base_url=server.url, calendar=calendar).daily_bars(AAPL, MONDAY, FRIDAY)
    assert caught.value.kind is kind
    assert SECRET not in str(caught.value)


def test_stooq_reads_its_csv_and_says_that_it_is_adjusted(vendors, clock, calendar):
    server = vendors([])
    server.always = lambda path, query: (200, b"Date,Open,High,Low,Close,Volume\r\n2026-03-10,1,2,1,2,5\r\n")
    asked = StooqProvider(SECRET, clock, base_url=server.url, calendar=calendar)
    assert asked.daily_bars(AAPL, MONDAY, FRIDAY).close.tolist() == [2.0]
    assert asked.basis == "adjusted"
    with pytest.raises(ValueError, match="apikey"):
        StooqProvider("", clock)
