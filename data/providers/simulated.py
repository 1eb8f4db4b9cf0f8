"""The embedded venue as a vendor: the Polygon adapter pointed at it, and everything it gives marked simulated."""

from __future__ import annotations

from core.clock import Clock
from data.providers.base import SessionCalendar
from data.providers.polygon_eod import PolygonProvider

_KEY = "simulated"  # the venue wants some key; this is no secret


class SimulatedProvider(PolygonProvider):
    def __init__(
        self,
        base_url: str,
        clock: Clock,
        *,
        timeout_s: float = 20.0,
        deadline_s: float = 60.0,
        calendar: SessionCalendar | None = None,
        name: str = "simulated",
    ) -> None:
        super().__init__(
            _KEY, base_url, clock, rpm=None, timeout_s=timeout_s, deadline_s=deadline_s, name=name,
            simulated=True, calendar=calendar,
        )  # fmt: skip
