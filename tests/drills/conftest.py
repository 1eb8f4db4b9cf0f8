"""One listening venue and one composition for all drills of a session."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from core.market_calendar import market_calendar
from execution.drill.run import hosted
from execution.venue.host import VenueHost
from scripts.drilling import DrillPorts


@pytest.fixture(scope="session")
def ports(tmp_path_factory: pytest.TempPathFactory) -> DrillPorts:
    with warnings.catch_warnings():  # pandas warns inside exchange_calendars while the facts are copied
        warnings.simplefilter("ignore")
        return DrillPorts(calendar=market_calendar(tmp_path_factory.mktemp("calendar")))


@pytest.fixture(scope="session")
def host() -> Iterator[VenueHost]:
    with hosted() as host:
        yield host
