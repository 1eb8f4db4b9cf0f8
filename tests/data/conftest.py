from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from core.clock import SteppedClock
from core.market_calendar import NEW_YORK, MarketCalendar, market_calendar


def _load_fakes() -> Any:
    """tests/ is no package (pytest's importlib mode), so the fake is loaded by its path, once."""
    name = "kobe_fake_vendors"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "fakes" / "vendors.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def calendar(tmp_path_factory: pytest.TempPathFactory) -> MarketCalendar:
    return market_calendar(tmp_path_factory.mktemp("calendar"))


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOBE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def clock() -> SteppedClock:
    """The evening after the session of Friday 2026-03-13; summer time began on the 8th."""
    return SteppedClock(datetime(2026, 3, 13, 20, 0, tzinfo=NEW_YORK))


@pytest.fixture
def vendors(calendar: MarketCalendar) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(symbols: list[str], sessions: list[date] | None = None) -> Any:
        days = sessions or calendar.sessions_between(date(2026, 2, 2), date(2026, 3, 13))
        made.append(_load_fakes().FakeVendors(days, symbols))
        return made[-1]

    yield make
    for server in made:
        server.stop()
