"""A venue per test on an hour that moves only when told, over bars the test writes by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import requests

from core.clock import SteppedClock
from core.market.base import SplitEvent, day_number
from core.market.real import BarsMarket
from core.market_calendar import NEW_YORK, MarketCalendar, market_calendar
from execution.venue.server import EmbeddedVenue

KEYS = {"APCA-API-KEY-ID": "id", "APCA-API-SECRET-KEY": "secret"}
# Mon 2024-03-04 … Mon 2024-03-11: the clocks change on Sunday the 10th.
DAYS = [date(2024, 3, d) for d in (4, 5, 6, 7, 8, 11)]
Rows = dict[str, list[tuple[float, float, float, float] | None]]


def at(day: date, clock: str) -> datetime:
    hour, minute = map(int, clock.split(":"))
    return datetime.combine(day, time(hour, minute), NEW_YORK).astimezone(UTC)


def columns(rows: list[tuple[float, float, float, float] | None], days: list[date] = DAYS) -> Any:
    kept = [(day, row) for day, row in zip(days, rows, strict=False) if row is not None]
    prices = np.array([row for _, row in kept], dtype=float).reshape(-1, 4).T
    return SimpleNamespace(
        dates=np.array([day_number(day) for day, _ in kept], dtype=np.int32),
        open=prices[0], high=prices[1], low=prices[2], close=prices[3], volume=np.full(len(kept), 1e6),
    )  # fmt: skip


@dataclass
class Desk:
    """What a test drives: the venue over HTTP, and its clock."""

    venue: EmbeddedVenue
    clock: SteppedClock
    url: str
    session: requests.Session

    def call(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        reply = self.session.request(method, self.url + path, timeout=10, **more)
        assert reply.status_code == status, (reply.status_code, reply.text, self.venue.failures)
        return reply.json() if reply.content else None

    def get(self, path: str, want: int = 200, **query: Any) -> Any:
        return self.call("GET", path, want, params=query)

    def order(self, status: int = 200, **body: Any) -> Any:
        return self.call("POST", "/v2/orders", status, json=body)

    def read(self, client_order_id: str) -> Any:
        return self.get("/v2/orders:by_client_order_id", client_order_id=client_order_id, nested="true")

    def buy(self, symbol: str, qty: int, limit: float, name: str = "buy") -> Any:
        self.order(
            symbol=symbol, qty=qty, side="buy", type="limit", time_in_force="ioc", limit_price=limit,
            client_order_id=name,
        )  # fmt: skip
        return self.read(name)

    def oco(self, symbol: str, qty: int, target: float, stop: float, name: str = "oco") -> Any:
        return self.order(
            symbol=symbol, qty=qty, side="sell", type="limit", time_in_force="gtc", order_class="oco",
            take_profit={"limit_price": target}, stop_loss={"stop_price": stop}, client_order_id=name,
        )  # fmt: skip


OpenDesk = Callable[..., Desk]


@pytest.fixture(scope="session")
def calendar(tmp_path_factory: pytest.TempPathFactory) -> MarketCalendar:
    with warnings.catch_warnings():  # pandas warns inside exchange_calendars while the facts are copied
        warnings.simplefilter("ignore")
        return market_calendar(tmp_path_factory.mktemp("calendar"))


@pytest.fixture
def open_desk(tmp_path: Path, calendar: MarketCalendar, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenDesk]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    opened: list[Desk] = []

    def make(
        rows: Rows | None = None, *, start: datetime | None = None, market: Any = None,
        splits: list[SplitEvent] | None = None, db: str = "venue.sqlite", **options: Any,
    ) -> Desk:  # fmt: skip
        if market is None:
            bars = {symbol: columns(row) for symbol, row in (rows or {}).items()}
            market = BarsMarket(bars, vix={DAYS[0]: 14.5, DAYS[1]: 15.25}, splits=splits or ())
        clock = SteppedClock(start or at(DAYS[1], "09:35"))
        venue = EmbeddedVenue(market, clock, tmp_path / db, calendar=calendar, **options)
        session = requests.Session()
        session.headers.update(KEYS)
        opened.append(Desk(venue, clock, venue.start(), session))
        return opened[-1]

    yield make
    for desk in opened:
        desk.session.close()
        failures = desk.venue.failures
        desk.venue.stop()
        assert not failures, failures[0]
