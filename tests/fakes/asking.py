"""Asks an ASGI application without a network, and a real server over a socket."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from execution import sidecar
from execution.sidecar import Rules


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(
    app: Any, target: str, method: str = "GET", *, host: str | None = "127.0.0.1:8080",
    headers: Sequence[tuple[str, str]] = (), client: str = "127.0.0.1",
) -> Answer:  # fmt: skip
    path, _, query = target.partition("?")
    told = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    if host is not None:
        told.insert(0, (b"host", host.encode("latin-1")))
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": unquote(path), "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": told, "client": (client, 50000), "server": ("127.0.0.1", 8080), "state": {},
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start = next(m for m in sent if m["type"] == "http.response.start")
    body = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
    return Answer(start["status"], {n.decode().lower(): v.decode() for n, v in start["headers"]}, body)


@contextmanager
def serving(app: Any, rules: Rules) -> Iterator[int]:
    """A real server on a free port of the loopback interface; the port."""
    listener = sidecar.listening("127.0.0.1", 0)
    server = sidecar.server(app, rules)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def raw(port: int, content: bytes, *, timeout_s: float = 10.0, close: bool = True) -> bytes:
    """Everything that comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as conn:
        conn.sendall(content)
        if close:
            conn.shutdown(socket.SHUT_WR)
        found = b""
        try:
            while piece := conn.recv(65536):
                found += piece
        except ConnectionError:
            pass
        return found
