"""A desk per test on one listening venue per process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from core.market_calendar import MarketCalendar
from execution.venue.host import VenueHost
from tests.fakes.llm import LlmDesk, Open, calendar_of, llm_desk, llm_host


@pytest.fixture(scope="session")
def calendar(tmp_path_factory: pytest.TempPathFactory) -> MarketCalendar:
    return calendar_of(tmp_path_factory.mktemp("calendar"))


@pytest.fixture(scope="session")
def host() -> Iterator[VenueHost]:
    with llm_host() as made:
        yield made


@pytest.fixture
def open_desk(host: VenueHost, tmp_path: Path, calendar: MarketCalendar) -> Iterator[Open]:
    """Call it with the faults of the first request, the second …; once per test."""
    with ExitStack() as stack:

        def make(*faults: str, **options: Any) -> LlmDesk:
            return stack.enter_context(llm_desk(host, tmp_path, calendar, *faults, **options))

        yield make
