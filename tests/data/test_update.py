from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from core.bars_io import from_day
from core.domain import Symbol
from core.errors import DataError
from core.paths import home
from data.providers.alpaca_eod import AlpacaProvider
from data.providers.multi_source import MultiSource, ProviderStats
from data.providers.polygon_eod import PolygonProvider
from data.providers.stooq_eod import StooqProvider
from data.providers.yfinance_eod import YahooHistory, YFinanceProvider
from data.store import BarStore
from data.update import update
from data.vix import VixStore, cached_level

FRIDAY, THURSDAY = date(2026, 3, 13), date(2026, 3, 12)
NAMES = [Symbol(f"S{i}") for i in range(900)]
FEW = NAMES[:40]


class World:
    """One fake server and the vendors that talk to it."""

    def __init__(self, server: Any, clock: Any, calendar: Any) -> None:
        self.server, self.clock, self.calendar = server, clock, calendar
        polygon = PolygonProvider("key", server.url, clock, calendar=calendar)
        alpaca = AlpacaProvider("id", "secret", server.url, clock, calendar=calendar)
        self.providers: dict[str, Any] = {"polygon": polygon, "alpaca": alpaca}

    def run(
        self, symbols: list[Symbol], sessions: list[date] | None = None, use: tuple[str, ...] = ("polygon",)
    ) -> Any:
        stats = ProviderStats(home().state / "provider_stats.json", self.clock)
        multi = MultiSource([self.providers[name] for name in use], stats, self.clock)
        self.server.seen.clear()
        days = sessions or self.server.sessions
        return update(lambda source: BarStore(home().cache, source), multi, symbols, days, self.calendar, self.clock)

    def days(self, symbol: str, source: str = "polygon") -> list[date]:
        return [from_day(day) for day in BarStore(home().cache, source).bars(symbol).dates]


@pytest.fixture
def world(vendors, clock, calendar):
    def make(names: list[Symbol]) -> World:
        return World(vendors([str(name) for name in names]), clock, calendar)

    return make


def test_one_missing_session_of_900_symbols_is_at_most_five_requests(world):
    here = world(NAMES)
    here.server.splits = [
        {"id": "1", "ticker": "S1", "execution_date": "2026-03-02", "split_from": 1, "split_to": 4},
    ]
    first = here.run(NAMES, here.server.sessions[-6:-1])
    assert first.coverage == 1.0 and first.session == THURSDAY and first.source == "polygon"
    report = here.run(NAMES, here.server.sessions[-6:])
    assert report.requests == len(here.server.seen) <= 5
    assert report.sessions_added == (FRIDAY,) and report.vix == 17.5 and report.refused == {}
    assert here.days("S7") == here.server.sessions[-6:]
    assert [s.ratio for s in BarStore(home().cache, "polygon").read_actions()[0]] == [4.0]
    again = here.run(NAMES, here.server.sessions[-6:])
    assert again.requests == len(here.server.seen) == 0
    assert again.vix == 17.5


def test_alpaca_too_needs_few_requests(world):
    here = world(NAMES)
    here.run(NAMES, here.server.sessions[-6:-1], use=("alpaca",))
    report = here.run(NAMES, here.server.sessions[-6:], use=("alpaca",))
    assert report.requests == len(here.server.seen) <= 5
    assert here.days("S899", "alpaca") == here.server.sessions[-6:]
    assert report.vix is None


def test_few_symbols_and_long_history_go_one_by_one(world):
    here = world(FEW)
    report = here.run(FEW[:3])
    assert len(here.server.seen) == 3 + 3  # bars; splits, dividends, VIX
    assert report.symbols_backfilled == tuple(FEW[:3])
    assert here.days("S0") == here.server.sessions


def test_a_symbol_with_a_hole_is_fetched_alone_and_never_gets_a_gap(world):
    here = world(FEW)
    here.run(FEW[:-1], here.server.sessions[:-1])
    report = here.run(FEW, here.server.sessions)
    assert report.symbols_backfilled == (FEW[-1],)
    assert here.days(FEW[-1]) == here.server.sessions
    assert len(here.server.seen) == 5 + 2  # and the whole history of its splits and dividends


def test_a_symbol_without_a_bar_is_refused_and_not_asked_for_again(world):
    here = world(FEW)
    report = here.run([*FEW, Symbol("GONE")], here.server.sessions[-3:])
    assert report.refused == {"GONE": "NO_BAR"}
    assert report.coverage == 40 / 41
    assert not any("GONE" in path for path in here.server.seen)
    here.clock.sleep(3 * 86400)
    here.server.sessions.append(date(2026, 3, 16))
    assert here.run([*FEW, Symbol("GONE")], here.server.sessions[-4:]).requests == 4
    assert "execution_date.gte=2026-03-11" in here.server.seen[0]


def test_a_bar_that_cannot_be_true_is_not_stored(world):
    here = world(FEW)
    good = here.server.bar
    here.server.bar = lambda symbol, day: {**good(symbol, day), **({"h": 1.0} if symbol == "S3" else {})}
    report = here.run(FEW, here.server.sessions[-3:])
    assert report.refused == {"S3": "BAR_RANGE"}
    assert here.days("S3") == []


def test_too_few_rows_are_refused_and_nothing_of_that_day_is_stored(world):
    here = world(FEW)
    here.run(FEW, here.server.sessions[-3:-1])
    here.server.symbols = here.server.symbols[:35]  # 35 of 40 = 87.5 %
    with pytest.raises(DataError, match="DATA_PARTIAL") as caught:
        here.run(FEW, here.server.sessions[-3:])
    assert caught.value.code == "ALL_PROVIDERS_FAILED"
    assert here.days("S0")[-1] == THURSDAY
    here.server.symbols = [*here.server.symbols, "S35"]  # exactly 90 %
    assert here.run(FEW, here.server.sessions[-3:]).coverage == 0.9


def test_a_frozen_feed_is_refused(world):
    here = world(FEW)
    here.run(FEW, here.server.sessions[-3:-1])
    alive = here.server.price
    here.server.price = lambda symbol, day: alive(symbol, min(day, THURSDAY))
    with pytest.raises(DataError, match="DATA_FROZEN"):
        here.run(FEW, here.server.sessions[-3:])
    assert here.days("S0")[-1] == THURSDAY


def test_the_whole_update_falls_back_and_sources_are_never_spliced(world):
    here = world(FEW)
    here.run(FEW, here.server.sessions[-3:-1], use=("polygon", "alpaca"))
    here.server.always = lambda path, query: (403, {"status": "NOT_AUTHORIZED"}) if "grouped" in path else None
    report = here.run(FEW, here.server.sessions[-3:], use=("polygon", "alpaca"))
    assert report.source == "alpaca"
    assert report.failed_before and "not_entitled" in report.failed_before[0]
    assert here.days("S0", "alpaca") == here.server.sessions[-3:]
    assert here.days("S0", "polygon")[-1] == THURSDAY


def test_adjusted_prices_are_refused(world):
    here = world(FEW)
    here.providers["stooq"] = StooqProvider("key", here.clock, base_url=here.server.url, calendar=here.calendar)
    with pytest.raises(DataError, match="ADJUSTED_BASIS"):
        here.run(FEW, use=("stooq",))
    assert here.server.seen == []


def test_yahoo_brings_its_splits_with_the_bars(world):
    here = world(FEW)

    def fetch(ticker: str, start: date, stop: date) -> YahooHistory:
        rows = [(day, 10.0, 11.0, 9.0, here.server.price(ticker, day) / 10 + 5, 1.0) for day in here.server.sessions]
        rows = [(d, c, c + 1, c - 1, c, v) for d, _, _, _, c, v in rows]
        splits = ((THURSDAY, 2.0),) if ticker == "S0" else ()
        return YahooHistory(tuple(row for row in rows if row[0] >= start), splits=splits)

    here.providers["yfinance"] = YFinanceProvider(here.clock, calendar=here.calendar, fetch=fetch)
    report = here.run(FEW, use=("yfinance",))
    assert report.coverage == 1.0
    store = BarStore(home().cache, "yfinance")
    assert [(s.symbol, s.ratio) for s in store.read_actions()[0]] == [("S0", 2.0)]
    close = store.bars("S0").close
    assert close[-3] > 1.5 * close[-1]  # raw again before the split


def test_a_dead_vendor_is_given_up_after_three_symbols(world):
    here = world(FEW)
    here.server.always = lambda path, query: (400, {"status": "ERROR"}) if "range" in path else None
    with pytest.raises(DataError, match="unavailable"):
        here.run(FEW[:20])
    assert len(here.server.seen) == 2 + 3


def test_the_cache_may_be_cleared_between_fetching_and_storing(world):
    here = world(FEW)
    here.run(FEW, here.server.sessions[-5:-1])
    cleared = []

    def clear_once(path: str, query: dict[str, str]) -> None:
        if "grouped" in path and not cleared:
            cleared.append(path)
            for file in (home().cache / "polygon").glob("*.csv"):
                file.unlink()

    here.server.always = clear_once
    here.run(FEW, here.server.sessions[-5:])
    assert here.days("S0") == here.server.sessions[-5:]


def test_todays_session_is_not_wanted_before_its_close(world):
    here = world(FEW)
    here.run(FEW, [*here.server.sessions[-3:], date(2026, 3, 16)])
    assert here.days("S0")[-1] == FRIDAY


def test_vix_unknown_stays_unknown(world):
    here = world(FEW)
    here.server.vix = 0.0
    assert here.run(FEW, here.server.sessions[-3:]).vix is None
    here.server.vix = 30.5
    again = here.run(FEW, here.server.sessions[-3:])
    assert (again.vix, again.requests) == (30.5, 1)  # the bars are there; only the VIX is asked for again
    VixStore(home().cache, "polygon").path.unlink()
    store = VixStore(home().cache, "polygon")
    assert store.level(FRIDAY) is None
    with pytest.raises(ValueError):
        store.put(FRIDAY, float("nan"), "polygon")
    store.put(FRIDAY, 36.25, "polygon")
    assert store.level(FRIDAY) == 36.25 and store.level(THURSDAY) is None
    VixStore(home().cache, "simulated").put(FRIDAY, 12.0, "simulated")
    assert cached_level(home().cache, FRIDAY, simulated_too=False) == 36.25
    store.path.write_text("date,close,source\nrubbish\n2026-03-13,x\n")
    assert store.level(FRIDAY) is None
