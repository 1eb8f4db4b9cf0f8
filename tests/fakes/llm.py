"""The door to the language model against the venue's simulated one, in a home of its own, on a stepped clock."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from config.settings_schema import LlmAnalyzer, Settings
from core.clock import Clock, SteppedClock
from core.market.base import day_number
from core.market.real import BarsMarket
from core.market_calendar import NEW_YORK, MarketCalendar, market_calendar
from core.paths import Home
from execution.venue.anthropic_model import SimulatedModel
from execution.venue.faults import Fault, FaultPlan
from execution.venue.host import VenueHost
from llm import audit
from llm.client import Answer, LlmDoor, Prompt, Purpose, Skipped, open_door
from llm.token_budget import TokenBudget

NOON = datetime(2026, 11, 24, 12, tzinfo=NEW_YORK).astimezone(UTC)  # a Tuesday
SESSION = date(2026, 11, 23)
KEY = "sk-ant-canary-123456"
ROUTE = "POST /v1/messages"


def llm_settings(**changes: Any) -> LlmAnalyzer:
    """Tests of silence set a short `deadline_s`; nested keys with two underscores."""
    made: dict[str, Any] = {"deadline_s": 30.0, "model": "claude-haiku-4-5", "max_output_tokens": 1000, "mode": "full"}
    given = Settings().cognitive.llm_analyzer
    nested: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            nested.setdefault(section, {})[key] = value
        else:
            made[name] = value
    for section, values in nested.items():
        made[section] = getattr(given, section).model_copy(update=values)
    return given.model_copy(update=made)


def prompt(text: str = "What of AAA?", **changes: Any) -> Prompt:
    made: dict[str, Any] = {
        "purpose": Purpose.ADVICE, "system": "You review.", "user": text, "session": SESSION, "data_sha256": "0" * 64,
    }  # fmt: skip
    return Prompt(**{**made, **changes})


def calendar_of(folder: Path) -> MarketCalendar:
    with warnings.catch_warnings():  # pandas warns inside exchange_calendars while the facts are copied
        warnings.simplefilter("ignore")
        return market_calendar(folder)


def flat_market(days: Sequence[date]) -> BarsMarket:
    flat = np.full(len(days), 20.0)
    columns = SimpleNamespace(
        dates=np.array([day_number(day) for day in days], dtype=np.int32), open=flat, high=flat, low=flat, close=flat,
        volume=flat,
    )  # fmt: skip
    bars: Any = {"AAA": columns}
    return BarsMarket(bars)


@dataclass
class LlmDesk:
    """One home, one clock, one venue. `door()` is as another process would open it."""

    home: Home
    clock: SteppedClock
    calendar: MarketCalendar
    url: str
    model: SimulatedModel
    plan: FaultPlan
    settings: LlmAnalyzer = field(default_factory=llm_settings)

    def door(self, settings: LlmAnalyzer | None = None, **changes: Any) -> LlmDoor:
        made: dict[str, Any] = {"key": KEY, "base_url": self.url, "clock": self.clock, "calendar": self.calendar}
        chosen = settings or self.settings
        made["budget"] = TokenBudget(self.home, chosen, self.clock)
        return open_door(chosen, home=self.home, **{**made, **changes})

    def ask(self, text: str = "What of AAA?", **changes: Any) -> Answer | Skipped:
        return self.door().ask(prompt(text, **changes))

    def skipped(self, text: str = "What of AAA?", **changes: Any) -> Skipped:
        found = self.ask(text, **changes)
        assert isinstance(found, Skipped), found
        return found

    def answered(self, text: str = "What of AAA?", **changes: Any) -> Answer:
        found = self.ask(text, **changes)
        assert isinstance(found, Answer), found
        return found

    @property
    def budget(self) -> TokenBudget:
        return TokenBudget(self.home, self.settings, self.clock)

    @property
    def billed(self) -> tuple[int, Decimal]:
        """Tokens and USD that the venue would charge for the New York day."""
        bill = self.model.bills[self.clock.now().astimezone(NEW_YORK).date()]
        return bill.tokens, bill.usd

    def lines(self, kind: str = "") -> list[dict[str, Any]]:
        path = self.home.state / audit.FILE
        rows = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
        return [row for row in rows if not kind or row["kind"] == kind]


Open = Callable[..., LlmDesk]


@contextmanager
def llm_host() -> Iterator[VenueHost]:
    host = VenueHost()
    host.start()
    try:
        yield host
    finally:
        host.stop()


@contextmanager
def llm_desk(
    host: VenueHost, folder: Path, calendar: MarketCalendar, *faults: str, at: datetime = NOON,
    settings: LlmAnalyzer | None = None, say: Callable[[Mapping[str, Any]], str] | None = None,
) -> Iterator[LlmDesk]:  # fmt: skip
    """`faults`: of the first request, the second …; "" is none."""
    clock = SteppedClock(at)
    plan = FaultPlan([Fault(ROUTE, number, kind) for number, kind in enumerate(faults, 1) if kind])
    store = open_venue(host, folder, clock, calendar, plan)
    try:
        desk = LlmDesk(
            Home(folder / "home"), clock, calendar, host.base_url, host.model, plan, settings or llm_settings()
        )
        if say is not None:
            host.model.say = say
        yield desk
        assert host.failures == []
    finally:
        store.close()


def open_venue(host: VenueHost, folder: Path, clock: Clock, calendar: MarketCalendar, plan: FaultPlan) -> Any:
    days = calendar.sessions_between(calendar.offset(SESSION, -5), calendar.offset(SESSION, 5))
    return host.open(flat_market(days), clock, folder / "venue.sqlite", calendar=calendar, faults=plan)
