"""Vendors that lack a session, lose half a page, revise, limit us, or say something that cannot be: through the real
clients, against a small server that misbehaves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from core import logs
from core.bars_io import from_day
from core.clock import SteppedClock
from core.domain import Symbol
from core.errors import DataError, Exit
from core.market_calendar import NEW_YORK, market_calendar
from core.paths import Home
from data.providers.alpaca_eod import AlpacaProvider
from data.providers.multi_source import MultiSource, ProviderStats, read_stats
from data.providers.polygon_eod import PolygonProvider
from data.store import BarStore
from data.universe import Universe
from data.update import update
from scripts.trading import ScanPlanner
from tests.fakes.grounds import a_context
from tests.fakes.scans import calendar_2024, due, hold, scene
from tests.fakes.vendors import FakeVendors

FRIDAY, THURSDAY = date(2026, 3, 13), date(2026, 3, 12)
NAMES = [Symbol(f"S{i}") for i in range(40)]


class World:
    """One server that plays both vendors, and a cache of our own."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.clock = SteppedClock(datetime(2026, 3, 13, 20, 0, tzinfo=NEW_YORK))
        self.calendar = market_calendar()
        self.sessions = self.calendar.sessions_between(date(2026, 2, 2), FRIDAY)
        self.server = FakeVendors(list(self.sessions), [str(n) for n in NAMES])
        self.started = self.clock.monotonic()
        bounds: dict[str, Any] = {"calendar": self.calendar, "deadline_s": 120.0}
        self.vendors: dict[str, Any] = {
            "polygon": PolygonProvider("key", self.server.url, self.clock, **bounds),
            "alpaca": AlpacaProvider("id", "secret", self.server.url, self.clock, **bounds),
        }

    def run(self, *use: str, days: int = 3, until: int | None = None) -> Any:
        stats = ProviderStats(self.home.state / "provider_stats.json", self.clock)
        multi = MultiSource([self.vendors[name] for name in use], stats, self.clock)
        self.server.seen.clear()
        wanted = self.sessions[:until][-days:]
        return update(self.store, multi, NAMES, wanted, self.calendar, self.clock, cache=self.home.cache)

    def store(self, source: str) -> BarStore:
        return BarStore(self.home.cache, source)

    def days(self, symbol: str, source: str) -> list[date]:
        return [from_day(day) for day in self.store(source).bars(symbol).dates]

    def refused(self, *use: str, **more: Any) -> DataError:
        with pytest.raises(DataError) as caught:
            self.run(*use, **more)
        assert caught.value.code == "ALL_PROVIDERS_FAILED" and caught.value.exit_code == Exit.DATA
        return caught.value


def only(paths: str, answer: Any) -> Any:
    """Answers so where one of the words is in the path; everywhere else as it should."""
    return lambda path, query: answer if any(word in path for word in paths.split()) else None


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.server.stop()


# ---------------------------------------------------------------- a whole session is missing
def test_D16_a_vendor_without_the_session_is_passed_over_for_the_next(world: World) -> None:
    world.run("polygon", "alpaca", until=-1)
    empty = (200, {"status": "OK", "resultsCount": 0})
    world.server.always = only("grouped", empty)
    report = world.run("polygon", "alpaca")
    assert report.source == "alpaca" and world.days("S0", "alpaca") == world.sessions[-3:]
    assert report.failed_before and report.failed_before[0].startswith("polygon: ")
    assert world.days("S0", "polygon")[-1] == THURSDAY, "two vendors never lie in one series"


def test_D16_when_no_vendor_has_it_the_scan_refuses_loudly_and_what_is_held_is_looked_after(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.server.sessions.remove(FRIDAY)
    error = world.refused("polygon", "alpaca")
    assert "polygon: " in str(error) and "alpaca: " in str(error), "each vendor's reason"

    def nobody(*args: Any) -> Any:
        raise error

    monkeypatch.setattr("scripts.wiring.data_from_store", nobody)
    made = scene(tmp_path / "world", "PICKA")
    hold(made, "HELD", protected=False)
    context = a_context(tmp_path / "home", calendar=calendar_2024())
    made.planner = ScanPlanner(context, Universe((Symbol("HELD"),), {}, "0", ()))  # type: ignore[assignment]
    report = made.open_session().run(due())
    assert report.code == "ALL_PROVIDERS_FAILED" and report.scan is None, "never: no picks, OK"
    (trade,) = made.ledger().open_trades()
    assert made.ledger().protective(trade.decision_id) and not [i for i in report.intents if i["side"] == "buy"]


# ---------------------------------------------------------------- success that is none
@pytest.mark.parametrize(
    "answer",
    [
        {"status": "OK", "results": []}, {"status": "OK"}, {"status": "OK", "resultsCount": 40, "results": []}, {},
        [], {"status": "OK", "resultsCount": 5000, "results": [{"T": "S1", "o": 1, "h": 1, "l": 1, "c": 1, "v": 1}]},
        b"<html>maintenance</html>", b"", b'{"status": "OK", "results": [{"T"',
    ],
    ids=range(9),
)  # fmt: skip
def test_D28_a_success_without_its_rows_is_no_success(world: World, answer: Any) -> None:
    world.run("polygon", until=-1)
    world.server.always = only("grouped", (200, answer))
    world.refused("polygon")
    assert world.days("S0", "polygon")[-1] == THURSDAY, "nothing of that day was stored"


@pytest.mark.parametrize(("rows", "enough"), [(40, True), (36, True), (35, False), (1, False)])
def test_D28_half_a_page_is_told_by_its_number_of_rows(world: World, rows: int, enough: bool) -> None:
    world.run("polygon", until=-1)
    world.server.symbols = world.server.symbols[:rows]
    if enough:
        report = world.run("polygon")
        assert report.coverage == rows / 40 and len(report.refused) == 40 - rows
        assert set(report.refused.values()) <= {"NO_BAR"}
    else:
        assert "DATA_PARTIAL" in str(world.refused("polygon"))


def test_D28_a_paging_that_loses_its_second_page_or_never_ends_is_seen(world: World) -> None:
    world.server.page = 7
    assert world.run("alpaca", days=20).coverage == 1.0
    loop = {"bars": {}, "next_page_token": "again"}
    world.server.always = only("stocks/bars", (200, loop))
    world.clock.sleep(3 * 86_400)
    world.server.sessions.append(date(2026, 3, 16))
    world.sessions = world.server.sessions
    assert "paging does not end" in str(world.refused("alpaca"))


# ---------------------------------------------------------------- revisions
def test_D25_a_revised_bar_is_told_and_counted_and_the_first_word_stays(world: World) -> None:
    first = world.run("alpaca", days=10, until=-1)
    before = world.store("alpaca").bars("S3").close.tolist()
    assert first.revisions == 0
    honest = world.server.price
    revised = world.sessions[-3]
    world.server.price = lambda symbol, day: honest(symbol, day) * (1.02 if (symbol, day) == ("S3", revised) else 1.0)
    counted = sum(n for (name, _), n in logs.counters().items() if name == "bars_revised")
    report = world.run("alpaca", days=10)
    assert report.revisions == 1
    assert sum(n for (name, _), n in logs.counters().items() if name == "bars_revised") == counted + 1
    assert world.store("alpaca").bars("S3").close.tolist()[:-1] == before
    assert world.run("alpaca", days=10).revisions == 0, "nothing is missing, so nobody is asked"


def test_D25_looking_again_costs_no_request_more(world: World) -> None:
    world.run("alpaca", days=10, until=-1)
    world.run("alpaca", days=10)
    bars = [path for path in world.server.seen if "stocks/bars" in path]
    assert len(bars) == 1 and "start=2026-03-0" in bars[0], "one request, a few sessions back"


def test_D25_the_same_number_computed_twice_is_no_revision(world: World) -> None:
    world.run("alpaca", days=10, until=-1)
    honest = world.server.price
    world.server.price = lambda symbol, day: honest(symbol, day) * (1 + 1e-12)
    assert world.run("alpaca", days=10).revisions == 0


# ---------------------------------------------------------------- limits
@pytest.mark.parametrize("header", [None, "1", "Fri, 13 Mar 2026 23:59:00 GMT", "-5", "nonsense", "86400"])
def test_D29_a_vendor_that_limits_us_is_waited_for_within_the_deadline_and_then_the_next_is_asked(
    world: World, header: str | None
) -> None:
    world.run("polygon", "alpaca", until=-1)
    more = {} if header is None else {"Retry-After": header}
    world.server.always = only("grouped reference I:VIX", (429, {"status": "ERROR"}, more))
    start = world.clock.monotonic()
    report = world.run("polygon", "alpaca")
    assert report.source == "alpaca" and "rate_limited" in report.failed_before[0]
    assert world.clock.monotonic() - start <= 3 * 120.0, "one deadline a question, not a day"
    stats = read_stats(world.home.state / "provider_stats.json")
    assert stats["polygon"]["kinds"]["rate_limited"] >= 1


def test_D29_one_limit_on_the_way_is_waited_out_and_costs_no_fallback(world: World) -> None:
    world.run("polygon", until=-1)
    once = [(429, {"status": "ERROR"}, {"Retry-After": "2"})]
    world.server.always = lambda path, query: once.pop() if once and "grouped" in path else None
    report = world.run("polygon")
    assert report.source == "polygon" and report.failed_before == () and report.coverage == 1.0


def test_D08_a_class_share_is_asked_for_and_answered_in_the_vendors_spelling(world: World) -> None:
    world.server.symbols = [*world.server.symbols, "BRK.B"]
    for name in ("polygon", "alpaca"):
        bars = world.vendors[name].daily_bars(Symbol("BRK.B"), world.sessions[-3], FRIDAY)
        assert len(bars) == 3 and any("BRK.B" in path for path in world.server.seen)
