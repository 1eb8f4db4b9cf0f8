"""A desk on the real adapter, against a small server that misbehaves on POST and tells whatever a test scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.clock import SteppedClock
from core.domain import Order
from execution.alpaca_broker import AlpacaBroker
from execution.desk import Desk
from tests.fakes.bad_http import BadServer
from tests.fakes.trading import NOW, Switch, Unbounded, limits

POSITIONS, ORDERS, FILLS = "/v2/positions", "/v2/orders", "/v2/account/activities/FILL"


@dataclass
class Wired:
    server: BadServer
    broker: AlpacaBroker
    desk: Desk
    clock: SteppedClock
    halt: Switch
    trips: list[str]

    def tells(self, path: str, rows: list[dict[str, Any]]) -> None:
        """What a GET of `path` answers from now on."""
        self.server.replies[path] = (200, json.dumps(rows))

    def forgets(self) -> None:
        """The POST that comes next is not kept."""
        self.server.accepts = False

    def kinds(self) -> list[str]:
        return [record.kind for record in self.desk.journal.records()]

    def last(self, kind: str) -> dict[str, Any]:
        return [record.body for record in self.desk.journal.records() if record.kind == kind][-1]

    def ends(self, client_order_id: str, status: str, filled: int, price: str | None = "50.00") -> None:
        """The server's copy of an order reaches an end."""
        row = self.server.stored[client_order_id]
        row.update(status=status, filled_qty=str(filled), filled_avg_price=price if filled else None)

    def restart(self, *, url: str | None = None) -> Desk:
        self.broker = adapter(url or self.server.url, self.halt, self.clock)
        self.desk = desk_of(self.desk.journal.path.parent.parent, self.broker, self.clock, self.halt, self.trips)
        return self.desk


def adapter(url: str, halt: Switch, clock: SteppedClock, *, total_timeout_s: float = 2.0) -> AlpacaBroker:
    return AlpacaBroker(
        key_id="key-id-canary", secret="secret-canary", base_url=url, data_url=url, halt=halt, clock=clock,
        admission=Unbounded(), connect_timeout_s=1.0, read_timeout_s=0.4, total_timeout_s=total_timeout_s,
    )  # fmt: skip


def desk_of(root: Path, broker: Any, clock: SteppedClock, halt: Switch, trips: list[str]) -> Desk:
    from core.journal import Journal

    return Desk(
        journal=Journal(root / "state" / "hash_chain.jsonl", clock), broker=broker, halt=halt, clock=clock,
        limits=limits(), lock_path=root / "state" / "desk", trip=trips.append,
    )  # fmt: skip


@contextmanager
def wired(root: Path, *, total_timeout_s: float = 2.0) -> Iterator[Wired]:
    server, halt, clock, trips = BadServer(), Switch(), SteppedClock(NOW), list[str]()
    try:
        broker = adapter(server.url, halt, clock, total_timeout_s=total_timeout_s)
        made = Wired(server, broker, desk_of(root, broker, clock, halt, trips), clock, halt, trips)
        for path in (POSITIONS, ORDERS, FILLS):
            made.tells(path, [])
        yield made
    finally:
        server.stop()


def holding(symbol: str, quantity: int, price: str = "50.00") -> dict[str, Any]:
    return {"symbol": symbol, "qty": str(quantity), "avg_entry_price": price, "side": "long"}


def execution(name: str, order_id: str, quantity: int, *, symbol: str = "AAA", side: str = "buy") -> dict[str, Any]:
    return {
        "id": name, "activity_type": "FILL", "order_id": order_id, "symbol": symbol, "side": side,
        "qty": str(quantity), "price": "50.00", "transaction_time": NOW.isoformat().replace("+00:00", "Z"),
    }  # fmt: skip


def order_id(order: Order | None) -> str:
    assert order is not None
    return order.id
