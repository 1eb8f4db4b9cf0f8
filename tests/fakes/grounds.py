"""A context without a venue or a vendor, for what is checked before anything is opened."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from config.settings_schema import Settings
from config.strategy_params import load_strategy_params
from core.clock import SteppedClock
from core.domain import Mode
from core.env import Keys, endpoints
from core.market_calendar import MarketCalendar, market_calendar
from core.paths import Home
from scripts.wiring import Context
from tests.fakes.trading import NOW


def a_context(
    root: Path, *, mode: Mode = Mode.PAPER, at: datetime = NOW, calendar: MarketCalendar | None = None
) -> Context:
    return Context(
        home=Home(root), settings=Settings(), params=load_strategy_params(), clock=SteppedClock(at),
        calendar=calendar or market_calendar(), mode=mode, keys=Keys(), endpoints=endpoints(mode), run_id="test",
    )  # fmt: skip
