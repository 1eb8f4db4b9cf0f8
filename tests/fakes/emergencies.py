"""A home on the small venue, with positions and orders of our own, driven through the scripts' own `main`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from core.clock import Clock, OffsetClock
from core.domain import Tif
from core.journal import Journal
from execution.desk import Desk
from execution.ledger import intent_body
from execution.protection import repair
from scripts import preflight, trading, wiring
from tests.execution.broker_contract import approved
from tests.fakes.live_process import KEYS
from tests.fakes.scans import calendar_2024
from tests.fakes.trading import NOW, TODAY, book, entry
from tests.fakes.venues import small_venue

HEADERS = {"APCA-API-KEY-ID": "id", "APCA-API-SECRET-KEY": "secret"}


@dataclass
class Place:
    home: Path
    url: str
    clock: Clock

    @property
    def switch(self) -> Path:
        return self.home / "state" / "KILL_SWITCH"

    def context(self) -> wiring.Context:
        context = wiring.open_context(preflight.parser().parse_args(["--all"]))
        context.home.state.mkdir(parents=True, exist_ok=True)
        return context

    def desk(self) -> Desk:
        """As an ordinary script opens it; binds the account."""
        return trading.open_desk(self.context())

    def kinds(self) -> list[str]:
        return [record.kind for record in self.journal().records()]

    def bodies(self, kind: str) -> list[dict[str, Any]]:
        return [record.body for record in self.journal().kinds(kind)]

    def journal(self) -> Journal:
        return Journal(self.home / "state" / "hash_chain.jsonl", self.clock)

    def outside(self, symbol: str, quantity: int = 1, side: str = "buy") -> None:
        """Somebody trades in the broker's own app."""
        order = {"symbol": symbol, "qty": str(quantity), "side": side, "type": "market", "time_in_force": "day"}
        reply = requests.post(f"{self.url}/v2/orders", json=order, headers=HEADERS, timeout=10)
        assert reply.status_code == 200, reply.text

    def buy(self, symbol: str, quantity: int = 1, *, protected: bool = True) -> None:
        """A position of ours; with `protected`, its stop rests at the venue."""
        desk = self.desk()
        intent = entry(symbol, price="50.50", quantity=quantity, at=desk.clock.now())
        _send(desk, intent)
        assert desk.poll(intent.client_order_id, wait_s=5.0).filled_quantity == quantity
        if protected:
            repair(desk, book(now=desk.clock.now()), on=TODAY)

    def rest(self, symbol: str) -> None:
        """A buy of ours that works and does not fill."""
        desk = self.desk()
        _send(desk, entry(symbol, price="40.00", stop="35.00", tif=Tif.DAY, at=desk.clock.now()))

    def held(self) -> dict[str, int]:
        return {str(s): int(p.quantity) for s, p in self.desk().broker.positions().items()}

    def open_ids(self) -> list[str]:
        return sorted(o.client_order_id for o in self.desk().broker.open_orders())


def _send(desk: Desk, intent: Any) -> None:
    desk.journal.append("order_intended", intent_body(intent))
    desk._adopt(intent, desk.broker.submit(approved(intent)))


@contextmanager
def place(home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with small_venue(folder, calendar_2024()) as url:
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        for name in ("ALPACA_BASE_URL", "ALPACA_DATA_URL", "POLYGON_BASE_URL", "ANTHROPIC_BASE_URL"):
            monkeypatch.setenv(name, url)
        (home / "state").mkdir(exist_ok=True)
        clock = OffsetClock(NOW)  # the scripts live in the venue's session
        monkeypatch.setattr("scripts.wiring.SystemClock", lambda: clock)
        yield Place(home, url, clock)
