from __future__ import annotations

import logging
import time
from datetime import date, datetime
from typing import Any

import pytest

from core.bars_io import from_day
from core.clock import SteppedClock, SystemClock
from core.domain import Symbol, canonical_symbol
from core.market_calendar import NEW_YORK
from data.providers.base import (
    FailureKind,
    ProviderFailure,
    RateLimiter,
    dotted,
    stooq_symbol,
    vendor_map,
    yahoo_symbol,
)
from data.providers.polygon_eod import PolygonProvider, get_vix_level

KEY = "pk-SECRET-0123456789"
AAPL, BRK = Symbol("AAPL"), Symbol("BRK.B")
FRIDAY = date(2026, 3, 13)


def provider(server: Any, clock: Any, calendar: Any, **more: Any) -> PolygonProvider:
    return PolygonProvider(KEY, server.url, clock, calendar=calendar, **more)


def test_raw_bars_with_new_york_dates_on_both_sides_of_the_clock_change(vendors, clock, calendar):
    server = vendors(["AAPL", "BRK.B"])
    bars = provider(server, clock, calendar).daily_bars(BRK, date(2026, 3, 5), FRIDAY)
    days = [from_day(day) for day in bars.dates]
    assert days == calendar.sessions_between(date(2026, 3, 5), FRIDAY)
    assert bars.volume[0] == 70790813.0
    assert "adjusted=false" in server.seen[0]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in server.seen[0]


def test_grouped_is_one_request_and_filters_by_exact_ticker(vendors, clock, calendar):
    server = vendors(["AAPL", "BRK.B", "BACpA", "ZVZZT"])
    rows = provider(server, clock, calendar).grouped_daily(FRIDAY, [AAPL, BRK, Symbol("BACPA")])
    assert set(rows) == {AAPL, BRK}
    assert len(server.seen) == 1


def test_todays_bar_counts_only_after_the_close(vendors, calendar):
    server = vendors(["AAPL"])
    before = SteppedClock(datetime(2026, 3, 13, 15, 59, 59, tzinfo=NEW_YORK))
    bars = provider(server, before, calendar).daily_bars(AAPL, date(2026, 3, 10), FRIDAY)
    assert from_day(bars.dates[-1]) == date(2026, 3, 12)
    with pytest.raises(ProviderFailure, match="is not over"):
        provider(server, before, calendar).grouped_daily(FRIDAY, [AAPL])
    at_close = SteppedClock(datetime(2026, 3, 13, 16, 0, tzinfo=NEW_YORK))
    bars = provider(server, at_close, calendar).daily_bars(AAPL, date(2026, 3, 10), FRIDAY)
    assert from_day(bars.dates[-1]) == FRIDAY


def test_pages_are_followed_on_our_host_whatever_next_url_says(vendors, clock, calendar):
    server = vendors(["AAPL"])
    server.page = 10
    bars = provider(server, clock, calendar).daily_bars(AAPL, date(2026, 2, 2), FRIDAY)
    assert len(bars) == len(server.sessions) == 29
    assert len(server.seen) == 3


def test_paging_that_does_not_end_is_malformed(vendors, clock, calendar):
    server = vendors(["AAPL"])
    server.always = lambda path, query: (
        200,
        {"status": "OK", "results": [], "next_url": "http://x/v3/reference/splits?c=1"},
    )
    with pytest.raises(ProviderFailure, match="paging") as caught:
        provider(server, clock, calendar).splits(date(2026, 1, 1), FRIDAY, [AAPL])
    assert caught.value.kind is FailureKind.MALFORMED


@pytest.mark.parametrize(
    ("reply", "kind", "requests"),
    [
        ((401, {"status": "ERROR", "error": "Unknown API Key"}), FailureKind.NOT_ENTITLED, 1),
        ((403, {"status": "NOT_AUTHORIZED", "message": "Your plan doesn't include this"}), FailureKind.NOT_ENTITLED, 1),
        ((404, {"status": "NOT_FOUND", "message": "Ticker not found."}), FailureKind.UNKNOWN_SYMBOL, 1),
        ((400, {"status": "ERROR", "error": "bad"}), FailureKind.UNAVAILABLE, 1),
        ((302, b"", {"Location": "http://127.0.0.1:1/"}), FailureKind.UNAVAILABLE, 1),
        ((429, {"status": "ERROR", "error": "slow down"}), FailureKind.RATE_LIMITED, 4),
        ((503, b"<html>edge</html>"), FailureKind.UNAVAILABLE, 4),
        ((200, b"<html>captcha</html>"), FailureKind.MALFORMED, 1),
        ((200, b""), FailureKind.MALFORMED, 1),
        ((200, []), FailureKind.MALFORMED, 1),
        ((200, {"status": "ERROR", "error": "no"}), FailureKind.MALFORMED, 1),
        ((200, {"status": "NOT_AUTHORIZED"}), FailureKind.NOT_ENTITLED, 1),
        ((200, {"status": "OK", "resultsCount": 0}), FailureKind.UNKNOWN_SYMBOL, 1),
        ((200, {"status": "OK", "resultsCount": 2, "results": [{}]}), FailureKind.MALFORMED, 1),
        ((200, {"status": "OK", "resultsCount": 1, "results": [{"o": 1}]}), FailureKind.MALFORMED, 1),
        ((200, {"status": "OK", "resultsCount": 0, "adjusted": True}), FailureKind.MALFORMED, 1),
        ((200, {"status": "OK", "resultsCount": 0, "ticker": "MSFT"}), FailureKind.MALFORMED, 1),
    ],
)
def test_each_bad_answer_has_its_kind_and_never_the_key(vendors, clock, calendar, reply, kind, requests):
    server = vendors(["AAPL"])
    server.always = lambda path, query: reply
    asked = provider(server, clock, calendar)
    with pytest.raises(ProviderFailure) as caught:
        asked.daily_bars(AAPL, date(2026, 3, 2), FRIDAY)
    assert caught.value.kind is kind
    assert len(server.seen) == asked.requests == requests
    assert KEY not in str(caught.value)


def test_a_key_echoed_by_the_vendor_is_masked(vendors, clock, calendar):
    server = vendors(["AAPL"])
    server.always = lambda path, query: (401, {"status": "ERROR", "error": f"key {KEY} is unknown"})
    with pytest.raises(ProviderFailure) as caught:
        provider(server, clock, calendar).daily_bars(AAPL, date(2026, 3, 2), FRIDAY)
    assert KEY not in str(caught.value) and "***" in str(caught.value)


def test_retry_after_is_honoured_and_bounded_by_the_deadline(vendors, clock, calendar):
    server = vendors(["AAPL"])
    server.script = [(429, {"status": "ERROR"}, {"Retry-After": "7"})]
    before = clock.monotonic()
    provider(server, clock, calendar).daily_bars(AAPL, date(2026, 3, 2), FRIDAY)
    assert clock.monotonic() - before == 7
    server.script = [(429, {"status": "ERROR"}, {"Retry-After": "86400"})]
    with pytest.raises(ProviderFailure):
        provider(server, clock, calendar).daily_bars(AAPL, date(2026, 3, 2), FRIDAY)
    assert clock.monotonic() - before == 7  # gave up at once


def test_a_truncated_body_and_a_dripping_one_are_unavailable(vendors, calendar, clock):
    server = vendors(["AAPL"])

    def cut(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"status": "OK"')
        handler.close_connection = True

    server.script = [cut] * 4
    with pytest.raises(ProviderFailure) as caught:
        provider(server, clock, calendar).daily_bars(AAPL, date(2026, 3, 2), FRIDAY)
    assert caught.value.kind is FailureKind.UNAVAILABLE
    assert len(server.seen) == 4

    class Now(SystemClock):
        def now(self) -> datetime:
            return clock.now()

    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        try:
            for _ in range(100):
                handler.wfile.write(b"1\r\n \r\n")
                handler.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass
        handler.close_connection = True

    server.script = [drip]
    started = time.monotonic()
    with pytest.raises(ProviderFailure, match="BodyTooSlow"):
        provider(server, Now(), calendar, timeout_s=0.2, deadline_s=0.4).daily_bars(AAPL, date(2026, 3, 2), FRIDAY)
    assert time.monotonic() - started < 2


def test_the_free_plans_five_a_minute_are_kept(clock):
    limiter = RateLimiter(5, clock)
    for _ in range(5):
        limiter.acquire()
    assert clock.monotonic() == 0
    limiter.acquire()
    assert clock.monotonic() == 60


def test_splits_and_dividends(vendors, clock, calendar):
    server = vendors(["AAPL"])
    server.splits = [
        {"id": "1", "ticker": "AAPL", "execution_date": "2026-03-02", "split_from": 1, "split_to": 4},
        {"id": "2", "ticker": "OTHER", "execution_date": "2026-03-02", "split_from": 1, "split_to": 4},
    ]
    cash = {"ticker": "AAPL", "ex_dividend_date": "2026-03-03", "currency": "USD"}
    server.dividends = [{**cash, "id": "a", "cash_amount": 0.25}, {**cash, "id": "b", "cash_amount": 1.0}]
    asked = provider(server, clock, calendar)
    [split] = asked.splits(date(2026, 3, 1), FRIDAY, [AAPL])
    assert (split.symbol, split.ex_date, split.ratio) == ("AAPL", date(2026, 3, 2), 4.0)
    [dividend] = asked.dividends(date(2026, 3, 1), FRIDAY, [AAPL])
    assert dividend.amount == 1.25  # regular and special of one day
    assert "execution_date.gte=2026-03-01" in server.seen[0] and "execution_date.lte=2026-03-13" in server.seen[0]


def test_vix_of_a_session_stamped_in_chicago(vendors, clock, calendar):
    server = vendors([])
    assert provider(server, clock, calendar).vix_close(FRIDAY) == 17.5
    server.vix = None
    assert provider(server, clock, calendar).vix_close(FRIDAY) is None
    server.always = lambda path, query: (403, {"status": "NOT_AUTHORIZED"})
    with pytest.raises(ProviderFailure):
        provider(server, clock, calendar).vix_close(FRIDAY)


def test_the_library_prints_nothing(vendors, clock, calendar, capsys):
    server = vendors(["AAPL"])
    asked = provider(server, clock, calendar)
    asked.daily_bars(AAPL, date(2026, 3, 2), FRIDAY)
    logging.getLogger("RESTClient").error("something")
    assert capsys.readouterr().out == ""


def test_class_shares_round_trip_for_every_vendor():
    for text in ("BRK.B", "BF.A", "AAPL", "NA", "TRUE"):
        symbol = canonical_symbol(text)
        for to_vendor in (dotted, yahoo_symbol, stooq_symbol):
            assert vendor_map([symbol], to_vendor)[to_vendor(symbol)] == symbol
    assert (yahoo_symbol(BRK), stooq_symbol(BRK)) == ("BRK-B", "brk-b.us")


def test_vix_level_without_key_and_cache_is_unknown(monkeypatch, tmp_path):
    for name in ("POLYGON_API_KEY", "MASSIVE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("core.env.load_dotenv", lambda path=None: None)
    assert get_vix_level() is None


def test_vix_level_from_the_cache(monkeypatch, tmp_path, calendar):
    from core.paths import home
    from data.vix import VixStore

    monkeypatch.delenv("POLYGON_API_KEY", raising=False)
    monkeypatch.setattr("core.env.load_dotenv", lambda path=None: None)
    session = calendar.last_completed(SystemClock().now())
    VixStore(home().cache, "simulated").put(session, 21.5, "simulated")
    assert get_vix_level() == 21.5
