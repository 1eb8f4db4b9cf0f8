"""Ten years of mornings: data is fresh exactly when it holds the newest session whose close has passed.

The truth comes from the exchange library's own instants, not from our calendar: half days, unscheduled closings, both
daylight-saving switches and long weekends are all in these ten years.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from core.bars_io import BarColumns, to_day
from core.errors import DataError
from core.market_calendar import NEW_YORK, MarketCalendar
from core.panel import Panel
from scripts.wiring import refuse_stale

FIRST, LAST = date(2015, 1, 2), date(2024, 12, 31)
SYMBOLS = {"AAA": 1, "BBB": 2}


@pytest.fixture(scope="module")
def closes() -> list[tuple[datetime, date]]:
    """(close instant, session), from the library itself."""
    import exchange_calendars

    with warnings.catch_warnings():  # about the library's own use of pandas
        warnings.simplefilter("ignore")
        found = exchange_calendars.get_calendar("XNYS", start="2014-12-01", end="2025-01-31")
        return [(stamp.to_pydatetime().astimezone(UTC), session.date()) for session, stamp in found.closes.items()]


def panel_up_to(sessions: list[date]) -> Panel:
    days = np.array([to_day(day) for day in sessions], dtype=np.int32)
    ones = np.ones(len(days))
    return Panel.from_bars({name: BarColumns(days, ones, ones, ones, ones, ones) for name in SYMBOLS})


def is_fresh(panel: Panel, session: date) -> bool:
    try:
        refuse_stale(panel.truncated(session), session, SYMBOLS, floor=0.9, what="store")
    except DataError as error:
        assert error.code == "DATA_STALE"
        return False
    return True


def instants(day: date) -> list[datetime]:
    """The scans, both sides of the usual and of the early close, and the night."""
    walls = ((0, 30), (8, 30), (9, 35), (10, 30), (12, 59), (13, 0), (15, 55), (15, 59), (16, 0), (23, 59))
    return [datetime(day.year, day.month, day.day, h, m, tzinfo=NEW_YORK).astimezone(UTC) for h, m in walls]


def test_freshness_is_never_wrongly_stale_and_never_wrongly_fresh(
    calendar: MarketCalendar, closes: list[tuple[datetime, date]]
) -> None:
    at, sessions = [close for close, _ in closes], [session for _, session in closes]
    panels = {sessions[k]: panel_up_to(sessions[k - 2 : k + 1]) for k in range(2, len(sessions))}
    day, mornings, half_days = FIRST, 0, set()
    while day <= LAST:
        for now in instants(day):
            known = bisect_right(at, now) - 1  # closes at or before now
            session, before, after = sessions[known], sessions[known - 1], sessions[known + 1]
            asked = calendar.last_completed(now)
            assert asked == session, now
            assert is_fresh(panels[session], asked), f"{now}: wrongly stale"
            assert not is_fresh(panels[before], asked), f"{now}: wrongly fresh on {before}"
            assert is_fresh(panels[after], asked), f"{now}: a bar of a session that is not over hides none before it"
            mornings += 1
            if at[known].astimezone(NEW_YORK).hour == 13:
                half_days.add(session)
        day += timedelta(days=1)
    assert mornings == 36_520 and len(half_days) >= 20


def test_half_the_universe_is_not_fresh_and_the_floor_itself_is(calendar: MarketCalendar) -> None:
    session = date(2024, 3, 4)
    days = np.array([to_day(session)], dtype=np.int32)
    bar = BarColumns(days, *(np.ones(1) for _ in range(5)))
    panel = Panel.from_bars({f"N{n}": bar for n in range(9)})
    refuse_stale(panel, session, {f"N{n}": 0 for n in range(10)}, floor=0.9, what="store")
    with pytest.raises(DataError, match="9 of 11"):
        refuse_stale(panel, session, {f"N{n}": 0 for n in range(11)}, floor=0.9, what="store")
