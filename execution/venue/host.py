"""One listening server whose venue can be exchanged: drills open a new account a thousand times on one port.

The engine, the account and every route are those of the embedded venue. Only the front is smaller: as much HTTP/1.1
as our own clients speak, on one thread, without a framework, at a third of the cost.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from http.client import responses
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from core.clock import Clock
from core.market.base import Fills, Market
from core.market_calendar import MarketCalendar
from execution.venue.faults import Answer, Delivery, FaultPlan, Played
from execution.venue.server import listening

if TYPE_CHECKING:
    from execution.venue.account import AccountStore
    from execution.venue.anthropic_model import SimulatedModel
    from execution.venue.app import Check, Handler, Venue

_STOP_S = 5.0
_JSON = "application/json; charset=UTF-8"
_PARAMETER = re.compile(r"\{(\w+)\}")


class Table:
    """Routes without a framework: registers like execution.venue.app.Routes, finds by method and path."""

    def __init__(self) -> None:
        self._plain: dict[tuple[str, str], tuple[Handler, Check]] = {}
        self._patterns: list[tuple[str, re.Pattern[str], Handler, Check]] = []
        self.check: Check = lambda headers, query: None  # of the routes registered next

    def add(self, method: str, path: str, handler: Handler) -> None:
        if "{" not in path:
            self._plain[method, path] = (handler, self.check)
            return
        parts = _PARAMETER.split(path)  # text and names in turn
        made = "".join(re.escape(part) if i % 2 == 0 else f"(?P<{part}>[^/]+)" for i, part in enumerate(parts))
        self._patterns.append((method, re.compile(made), handler, self.check))

    def knows(self, path: str) -> bool:
        """Whether the path exists, for some method."""
        return any(path == known for _, known in self._plain) or any(p.fullmatch(path) for _, p, _, _ in self._patterns)

    def find(self, method: str, path: str) -> tuple[Handler, Check, Mapping[str, str]] | None:
        found = self._plain.get((method, path))
        if found is not None:
            return (*found, {})
        for registered, pattern, handler, check in self._patterns:
            match = pattern.fullmatch(path) if registered == method else None
            if match is not None:
                return handler, check, match.groupdict()
        return None


@dataclass(frozen=True, slots=True)
class _Site:
    """The venue now open."""

    venue: Venue
    table: Table
    faults: FaultPlan


class VenueHost:
    """Start once, `open` a venue as often as needed, stop. Requests come from any number of processes."""

    def __init__(self) -> None:
        self._site: _Site | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._hanging: list[asyncio.BaseTransport] = []  # whose answer will not come
        self.connections: set[asyncio.BaseTransport] = set()
        self.base_url = ""
        self.failures: list[str] = []  # tracebacks of the venue's own mistakes
        # Called on the server's thread: when an answer will not come; when an order has arrived, by its client's id.
        self.on_silence: Callable[[], None] = lambda: None
        self.on_order: Callable[[str], None] = lambda client_order_id: None

    def start(self) -> str:
        listener = listening(0)
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(listener, ready), name="venue-host", daemon=True)
        self._thread.start()
        ready.wait(_STOP_S)
        host, port = listener.getsockname()
        self.base_url = f"http://{host}:{port}"
        return self.base_url

    def _serve(self, listener: socket.socket, ready: threading.Event) -> None:
        loop = self._loop = asyncio.new_event_loop()
        loop.set_exception_handler(self._failed)
        server = loop.run_until_complete(loop.create_server(lambda: _Connection(self), sock=listener))
        ready.set()
        try:
            loop.run_forever()
        finally:
            server.close()
            for transport in tuple(self.connections):
                transport.close()
            loop.run_until_complete(asyncio.sleep(0))  # asyncio closes sockets one turn later
            loop.run_until_complete(server.wait_closed())
            loop.close()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A mistake of the venue's own: its connection is dropped by asyncio, and it is told here."""
        error = context.get("exception")
        if error is not None and not isinstance(error, OSError):
            self.failures.append("".join(traceback.format_exception(error)))

    def stop(self) -> None:
        """End the server; safe to call twice."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_STOP_S)
        self._loop = self._thread = None

    def open(
        self, market: Market, clock: Clock, db_path: Path, *, calendar: MarketCalendar, faults: FaultPlan | None = None,
        starting_cash: Decimal = Decimal(100_000), spread_bps: float = 4.0,
    ) -> AccountStore:  # fmt: skip
        """The account of the new venue, an existing one as it was left; the caller closes it."""
        from execution.venue import alpaca_data, alpaca_routes, anthropic_routes
        from execution.venue.account import AccountStore
        from execution.venue.app import Venue
        from execution.venue.matching import Engine

        store = AccountStore(db_path)
        engine = Engine(market, calendar, clock, store, Fills("path"), spread_bps)
        with store.transaction():
            engine.begin(starting_cash, market.spec)
        table = Table()
        routes: Any = table
        for module in (alpaca_routes, alpaca_data, anthropic_routes):
            table.check = module.check
            module.register(routes)
        self.failures = []
        self.on_silence, self.on_order = (lambda: None), (lambda client_order_id: None)
        venue = Venue(engine, store, market, calendar, self.failures)
        self._site = _Site(venue, table, faults or FaultPlan(()))
        self._drop_hanging()
        return store

    def _drop_hanging(self) -> None:
        hanging, self._hanging = self._hanging, []
        if self._loop is not None:
            for transport in hanging:
                self._loop.call_soon_threadsafe(transport.close)

    def hang(self, transport: asyncio.BaseTransport) -> None:
        self._hanging.append(transport)
        self.on_silence()

    @property
    def model(self) -> SimulatedModel:
        """The language model of the venue now open, with what it would bill."""
        assert self._site is not None
        return self._site.venue.model

    def answer(self, request: Request) -> Answer:
        """One request against the venue now open, with the fault that the plan has for it. On the server's thread."""
        site = self._site
        if site is None:
            return _json(503, b'{"message":"no venue is open"}')
        if request.is_order:
            self.on_order(request.client_order_id)
        played = Played(site.faults, site.venue.engine, request.method, request.path, request.body)
        answer = Answer(0, b"")
        if played.handled:
            played.before()
            answer = _handled(site, request)
        return played.after(answer)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, read whole."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def is_order(self) -> bool:
        return self.method == "POST" and self.path == "/v2/orders"

    @property
    def client_order_id(self) -> str:
        found = re.search(rb'"client_order_id"\s*:\s*"([^"]*)"', self.body)
        return found[1].decode() if found else ""


def _handled(site: _Site, request: Request) -> Answer:
    from execution.venue.app import answered, dumps

    found = site.table.find(request.method, request.path)
    if found is None and site.table.knows(request.path):
        return _json(405, b'{"message":"method not allowed."}')
    if found is None:
        return _json(404, b'{"message":"endpoint not found."}')
    handler, check, path = found
    reply = answered(site.venue, check, handler, path, request.query, request.headers, request.body)
    body = b"" if reply.body is None else dumps(reply.body)
    return Answer(reply.status, body, {"content-type": _JSON, **reply.headers})


def _json(status: int, body: bytes) -> Answer:
    return Answer(status, body, {"content-type": _JSON, "X-Simulated-Venue": "true"})


def encoded(answer: Answer) -> bytes:
    """Head and body as they go over the wire."""
    lines = [f"HTTP/1.1 {answer.status} {responses.get(answer.status, '')}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    if answer.status != 204:
        lines.append(f"content-length: {len(answer.body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + answer.body


class _Connection(asyncio.Protocol):
    """One client; requests are answered in the order they come."""

    def __init__(self, host: VenueHost) -> None:
        self._host = host
        self._held = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._host.connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (request := self._next()) is not None:
            self._deliver(self._host.answer(request))

    def _next(self) -> Request | None:
        """The next whole request; None while bytes are missing."""
        head, found, rest = self._held.partition(b"\r\n\r\n")
        if not found:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return None
        self._held = rest[length:]
        path, _, query = target.partition("?")
        return Request(method, unquote(path), query, headers, rest[:length])

    def _deliver(self, answer: Answer) -> None:
        if answer.delivery is Delivery.WHOLE:
            self._transport.write(encoded(answer))
        elif answer.delivery is Delivery.CUT:
            self._transport.abort()
        elif answer.delivery is Delivery.HALF:
            self._transport.write(encoded(answer)[: -max(1, len(answer.body) // 2)])
            self._transport.close()
        else:
            if answer.delivery is Delivery.DRIP:
                self._transport.write(encoded(answer)[:12])
            self._host.hang(self._transport)
