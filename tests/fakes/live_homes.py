"""A live account's home, and a broker that plays it: the embedded venue on loopback, asked with keys like the real one.

Nothing marks it as simulated: what the scripts see is a broker, a vendor, and a morning of 2024-03-05 with one pick.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from config import loader
from config.lock import LockCheck
from config.pin import write_pin
from core.clock import OffsetClock
from core.journal import Journal
from core.market.real import open_bars_market
from core.market_calendar import market_calendar
from core.paths import Home
from execution.venue.server import EmbeddedVenue
from tests.fakes.bar_files import small_market
from tests.fakes.runners import ny

HEADERS = {"APCA-API-KEY-ID": "live-id", "APCA-API-SECRET-KEY": "live-secret"}
EDITS = (
    ("path: data/universe/optionable_liquid_800.csv", "path: {universe}"), ("min_rows: 400", "min_rows: 1"),
    ("history_sessions: 504", "history_sessions: 260"), ("on_unknown: null", "on_unknown: warn"),
    ("per_order_max_usd: 75 ", "per_order_max_usd: 200 "),
    ("shadow_sessions: 5", "shadow_sessions: 1"), ("replay_sessions: 60", "replay_sessions: 1"),
    ("paper_sessions: 20", "paper_sessions: 1"), ("paper_fills: 5", "paper_fills: 1"),
    ("missed_max_pct: 0.05", "missed_max_pct: 1.0"), ("stalled_after_s: 8", "stalled_after_s: 60"),
)  # fmt: skip


@dataclass
class LiveHome:
    home: Home
    url: str
    clock: OffsetClock
    config: Path

    def posted(self) -> list[dict[str, Any]]:
        """Every order that the broker has ever been sent."""
        params = {"status": "all", "limit": "500"}
        rows = requests.get(f"{self.url}/v2/orders", params=params, headers=HEADERS, timeout=10).json()
        assert isinstance(rows, list)
        return rows

    def journal(self) -> Journal:
        return Journal(self.home.journal, self.clock)

    def kinds(self) -> list[str]:
        return [record.kind for record in self.journal().records()]

    def bodies(self, kind: str) -> list[dict[str, Any]]:
        return [record.body for record in self.journal().kinds(kind)]

    def climb(self, to: str) -> None:
        """Without evidence: what the criteria ask is tested elsewhere."""
        self.journal().append(
            "ladder_step", {"from": "x", "to": to, "reason": "test", "criteria": [], "evidence": None}
        )

    def edit(self, was: str, now: str) -> None:
        text = self.config.read_text(encoding="utf-8")
        assert text.count(was) == 1, was
        self.config.write_text(text.replace(was, now), encoding="utf-8")

    def pin(self) -> None:
        write_pin(self.home, ack=True)


@contextmanager
def live_home(home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveHome]:
    market, clock = small_market(folder / "market"), OffsetClock(ny("09:36"))
    universe, config = folder / "universe.csv", folder / "base.yaml"
    names = sorted(path.stem for path in market.glob("*.csv") if path.stem != "vix_daily")
    universe.write_text("symbol,sector\n" + "".join(f"{n},Sector {k}\n" for k, n in enumerate(names)), "utf-8")
    text = loader.BASE_PATH.read_text(encoding="utf-8")
    for was, now in EDITS:
        assert text.count(was) == 1, was
        text = text.replace(was, now.replace("{universe}", str(universe)))
    config.write_text(text, encoding="utf-8")
    venue = EmbeddedVenue(open_bars_market(market), clock, folder / "venue.sqlite", calendar=market_calendar())
    try:
        url = venue.start()
        for name, value in (("ALPACA_API_KEY_ID", "live-id"), ("ALPACA_API_SECRET_KEY", "live-secret"),
                            ("POLYGON_API_KEY", "poly-key")):  # fmt: skip
            monkeypatch.setenv(name, value)
        for name in ("ALPACA_BASE_URL", "ALPACA_DATA_URL", "POLYGON_BASE_URL", "ANTHROPIC_BASE_URL"):
            monkeypatch.setenv(name, url)
        monkeypatch.setattr(loader, "BASE_PATH", config)
        monkeypatch.setattr("config.lock.check_lock", lambda: LockCheck(()))  # the machine's packages are not the point
        monkeypatch.setattr("scripts.wiring.SystemClock", lambda: clock)
        made = LiveHome(Home(home), url, clock, config)
        made.home.state.mkdir(parents=True, exist_ok=True)
        made.pin()
        yield made
    finally:
        venue.stop()
