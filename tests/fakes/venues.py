"""The embedded venue over a few bars, in the middle of a session that stands still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from core.bars_io import BarColumns, to_day
from core.clock import SteppedClock
from core.market.real import BarsMarket
from core.market_calendar import MarketCalendar
from execution.venue.server import EmbeddedVenue
from tests.fakes.trading import NOW, TODAY

PRICES = {"AAA": 50.0, "BBB": 50.0}


@contextmanager
def small_venue(folder: Path, calendar: MarketCalendar) -> Iterator[str]:
    """Its base URL. Every symbol trades at 50 all day; the clock is at 10:00 New York of tests.fakes.trading.TODAY."""
    days = np.array([to_day(calendar.previous_session(TODAY)), to_day(TODAY)], dtype=np.int32)
    flat = {s: np.full(2, price) for s, price in PRICES.items()}
    bars = {s: BarColumns(days, p, p + 0.5, p - 0.5, p, np.full(2, 1e6)) for s, p in flat.items()}
    market = BarsMarket(bars, vix={TODAY: 15.0}, name="small", spec="small")
    venue = EmbeddedVenue(market, SteppedClock(NOW), folder / "venue.sqlite", calendar=calendar)
    try:
        yield venue.start()
    finally:
        venue.stop()
