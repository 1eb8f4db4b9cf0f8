"""The broker contract through the real client, over HTTP, on the embedded venue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from core.clock import SteppedClock
from core.domain import Symbol
from execution.alpaca_broker import AlpacaBroker
from tests.execution.broker_contract import BrokerContract
from tests.fakes.trading import Switch, Unbounded

pytest.importorskip("execution.venue.server", reason="the embedded venue is not built yet")


class TestAlpacaBrokerOnVenue(BrokerContract):
    @pytest.fixture
    def clock(self) -> SteppedClock:
        return SteppedClock(datetime(2024, 3, 5, 15, 0, tzinfo=UTC))

    @pytest.fixture
    def venue(self, clock: SteppedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        from core.market.simulated import SimulatedMarket
        from core.market_calendar import market_calendar
        from execution.venue.server import EmbeddedVenue

        monkeypatch.setenv("KOBE_HOME", str(tmp_path))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        market = SimulatedMarket(7, market_calendar(), None)
        made = EmbeddedVenue(market, clock, tmp_path / "state" / "venue.sqlite")
        yield made.start(), market
        made.stop()

    @pytest.fixture
    def broker(self, venue: Any, clock: SteppedClock) -> AlpacaBroker:
        url, _ = venue
        return AlpacaBroker(
            key_id="k",
            secret="s",
            base_url=url,
            data_url=url,
            halt=Switch(),
            admission=Unbounded(),
            connect_timeout_s=3.0,
            read_timeout_s=10.0,
            total_timeout_s=15.0,
            clock=clock,
        )

    @pytest.fixture
    def symbol(self, venue: Any, clock: SteppedClock) -> Symbol:
        _, market = venue
        session = clock.now().date()
        return Symbol(
            next(s for s in market.symbols() if (bar := market.bar(s, session)) is not None and 20 < bar.close < 60)
        )

    @pytest.fixture
    def settle_fill(self, clock: SteppedClock) -> Callable[[], None]:
        return lambda: clock.sleep(1)

    @pytest.fixture
    def splitting(self, venue: Any, clock: SteppedClock) -> tuple[Symbol, Callable[[], Fraction]]:
        """The first split of a share that can be bought the day before; the clock is set to that day."""
        from core.market_calendar import market_calendar

        _, market = venue
        calendar, today = market_calendar(), clock.now().date()
        event = next(
            e for e in market.splits(today + timedelta(days=200))
            if e.ex_date > today and (found := market.last_bar(e.symbol, calendar.previous_session(e.ex_date)))
            and found[0] == calendar.previous_session(e.ex_date)
        )  # fmt: skip
        clock.set(calendar.instant_at(calendar.previous_session(event.ex_date), "11:00"))

        def happen() -> Fraction:
            clock.set(calendar.instant_at(event.ex_date, "11:00"))
            return Fraction(event.ratio).limit_denominator(1000)

        return Symbol(event.symbol), happen
