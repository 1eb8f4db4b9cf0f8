"""Scripted faults: which request of a route goes wrong, and how. For drills and tests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_HANG_S = 3600.0
_HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


@dataclass(frozen=True, slots=True)
class Fault:
    """The `nth` (from 1) request of `route`, written like "POST /v2/orders"; the path may end in "*".

    Kinds: timeout_before and timeout_after (no answer; before or after the request took effect), reset (took effect,
    connection cut without a byte), reset_before, truncate (took effect, half a body), html (took effect, a web page
    with 200), status:NNN (did not take effect), status_after:NNN (took effect).
    """

    route: str
    nth: int
    kind: str

    def __post_init__(self) -> None:
        known = ("timeout_before", "timeout_after", "reset", "reset_before", "truncate", "html")
        name, _, status = self.kind.partition(":")
        if self.kind not in known and not (name in ("status", "status_after") and status.isdigit()):
            raise ValueError(f"unknown fault kind {self.kind!r}")


class FaultPlan:
    """Which faults are still to come; counts every request it sees."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = tuple(faults)
        self._seen: Counter[str] = Counter()
        self.played: list[Fault] = []
        self._over = False

    def stop(self) -> None:
        """From here on nothing goes wrong any more."""
        self._over = True

    def next_for(self, method: str, path: str) -> Fault | None:
        if self._over:
            return None
        request = f"{method} {path}"
        hit = None
        for route in sorted({fault.route for fault in self._faults}):
            if request == route or (route.endswith("*") and request.startswith(route[:-1])):
                self._seen[route] += 1
                hit = hit or next((f for f in self._faults if f.route == route and f.nth == self._seen[route]), None)
        if hit is not None:
            self.played.append(hit)
        return hit


def with_faults(app: App, plan: FaultPlan | None) -> App:
    """The application, misbehaving as planned."""
    if plan is None:
        return app

    async def faulty(scope: Message, receive: Receive, send: Send) -> None:
        fault = plan.next_for(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if fault is None:
            await app(scope, receive, send)
            return
        await _play(fault, app, scope, receive, send)

    return faulty


async def _play(fault: Fault, app: App, scope: Message, receive: Receive, send: Send) -> None:
    kind, _, status = fault.kind.partition(":")
    body = b""
    if kind in ("timeout_after", "reset", "truncate", "html", "status_after"):
        body = await _take_effect(app, scope, receive)
    if kind.startswith("timeout"):
        await asyncio.sleep(_HANG_S)
    elif kind.startswith("reset"):
        _cut(send)
    elif kind == "truncate":
        await _start(send, 200, len(body), "application/json")
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        _close(send)
    elif kind == "html":
        await _whole(send, 200, _HTML, "text/html")
    else:
        text = b'{"code": 50010000, "message": "scripted fault"}'
        await _whole(send, int(status), text, "application/json")


async def _take_effect(app: App, scope: Message, receive: Receive) -> bytes:
    """Run the request and keep its answer from the client."""
    parts: list[bytes] = []

    async def keep(message: Message) -> None:
        parts.append(message.get("body", b""))

    await app(scope, receive, keep)
    return b"".join(parts)


async def _start(send: Send, status: int, length: int, kind: str) -> None:
    headers = [(b"content-length", str(length).encode()), (b"content-type", kind.encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _whole(send: Send, status: int, body: bytes, kind: str) -> None:
    await _start(send, status, len(body), kind)
    await send({"type": "http.response.body", "body": body})


def _transport(send: Send) -> Any:
    # ASGI has no way to drop a connection; uvicorn's `send` is a method of an object that holds the transport.
    return getattr(getattr(send, "__self__", None), "transport", None)


def _cut(send: Send) -> None:
    transport = _transport(send)
    if transport is not None:
        transport.abort()


def _close(send: Send) -> None:
    transport = _transport(send)
    if transport is not None:
        transport.close()
