"""The sidecar: health, readiness, metrics and a page, over HTTP. It reads and never writes, and nothing waits for it.

`/health`: the runner is alive and moves. `/ready`: it may trade. `/metrics`, `/metrics/prometheus`, `/` for people.
Only GET and HEAD. Every request passes the Guard first: method, Host (DNS rebinding), body, token, rate. Facts are read
at most every FRESH_S seconds and each answer is spelled once per reading, so that a flood costs no reading.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import ipaddress
import math
import os
import re
import socket
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.canonical import canonical_json
from core.clock import Clock
from core.errors import ConfigError
from core.secrets import mask_secrets, mask_values
from execution.observe import metrics, page
from execution.observe.facts import Facts
from execution.observe.page_assets import POLICY
from execution.observe.readiness import Readiness, Reason, alive, readiness
from execution.observe.state_look import Alerts

if TYPE_CHECKING:
    from fastapi import FastAPI

TOKEN_VARIABLE = "KOBE_SIDECAR_TOKEN"
TOKEN_SHORTEST = 16
FRESH_S = 0.5
METRICS = ("/metrics", "/metrics/prometheus")
_WINDOW_S = 60.0
_CLIENTS_MOST = 1000
_HEADER_BYTES, _TARGET_BYTES = 16 * 1024, 2048
_REQUEST_S, _LIFE_S, _LOOK_S = 5.0, 60.0, 0.5
"""How long a request may take to arrive, how long a connection may live, how often that is looked at."""
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::([0-9]{1,5}))?\Z")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_PLAIN_POLICY = "default-src 'none'; frame-ancestors 'none'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How it may be asked."""

    host: str
    port: int
    allowed_hosts: Sequence[str]
    token: str | None
    metrics_per_minute: int | None
    connections_max: int
    stalled_after_s: float

    def __post_init__(self) -> None:
        """Raises ConfigError: beyond loopback only with a token that cannot be guessed."""
        if self.token is not None and len(self.token) < TOKEN_SHORTEST:
            raise ConfigError(
                f"{TOKEN_VARIABLE} is shorter than {TOKEN_SHORTEST} characters", code="SIDECAR_TOKEN_SHORT",
                advice='python -c "import secrets; print(secrets.token_urlsafe(32))"',
            )  # fmt: skip
        if self.token is None and not is_loopback(self.host):
            raise ConfigError(
                f"sidecar.host {self.host} can be reached from other machines, and {TOKEN_VARIABLE} is not set",
                code="SIDECAR_TOKEN_MISSING", advice=f"set {TOKEN_VARIABLE}, or sidecar.host: 127.0.0.1",
            )  # fmt: skip


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# ---------------------------------------------------------------- who may ask
class RateLimit:
    """At most `most` requests of one client in any 60 seconds. A refused request is not counted."""

    def __init__(self, most: int | None, clock: Clock) -> None:
        self._most, self._clock = most, clock
        self._asked: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, client: str) -> int:
        """0: go on, and it is counted. Else whole seconds until the next one may pass."""
        if self._most is None:
            return 0
        now = self._clock.monotonic()
        times = self._asked.setdefault(client, deque())
        self._asked.move_to_end(client)
        while len(self._asked) > _CLIENTS_MOST:
            self._asked.popitem(last=False)
        while times and now - times[0] >= _WINDOW_S:
            times.popleft()
        if len(times) >= self._most:
            return max(1, math.ceil(_WINDOW_S - (now - times[0])))
        times.append(now)
        return 0


class Guard:
    """Asks before the routes do, and puts the headers on every answer, errors of the routes included."""

    def __init__(self, app: App, rules: Rules, limit: RateLimit) -> None:
        self._app, self._rules, self._limit = app, rules, limit
        own = {f"[{rules.host}]" if ":" in rules.host else rules.host}
        loopback = _LOOPBACK_NAMES if is_loopback(rules.host) or rules.host in ("0.0.0.0", "::") else frozenset()
        self._hosts = {name.lower() for name in (*own, *loopback, *rules.allowed_hosts)} - {"0.0.0.0", "[::]"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refused = self._refusal(scope)
        if refused is None:
            await self._app(scope, receive, _with_headers(send))
            return
        status, code, more = refused
        body = canonical_json({"code": code}).encode() + b"\n"
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
        head.append((b"connection", b"close"))
        out = _with_headers(send)
        await out({"type": "http.response.start", "status": status, "headers": head})
        await out({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _refusal(self, scope: Scope) -> tuple[int, str, list[tuple[bytes, bytes]]] | None:
        """(status, code, further headers), or None to go on."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        if len(scope["raw_path"]) + len(scope["query_string"]) > _TARGET_BYTES:
            return 414, "TARGET_TOO_LONG", []
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _HEADER_BYTES:
            return 431, "HEADERS_TOO_LARGE", []
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "METHOD_NOT_ALLOWED", [(b"allow", b"GET, HEAD")]
        if not self._known_host(headers.get(b"host", [])):
            return 400, "HOST_UNKNOWN", []
        if b"transfer-encoding" in headers or any(v.strip() not in (b"", b"0") for v in headers.get(
                b"content-length", [])):  # fmt: skip
            return 413, "BODY_NOT_WANTED", []
        if not self._may_enter(headers.get(b"authorization", [])):
            return 401, "TOKEN_WANTED", [(b"www-authenticate", b'Bearer, Basic realm="kobe", charset="UTF-8"')]
        if scope["path"] in METRICS and (wait_s := self._limit.wait_s((scope.get("client") or ("", 0))[0])):
            return 429, "RATE_LIMITED", [(b"retry-after", str(wait_s).encode())]
        return None

    def _known_host(self, told: Sequence[bytes]) -> bool:
        """A page of another name that points here, by DNS, must not be served: a browser would let it read."""
        if len(told) != 1:
            return False
        match = _HOST.match(told[0].decode("latin-1").lower())
        return match is not None and match[1] in self._hosts

    def _may_enter(self, told: Sequence[bytes]) -> bool:
        """`Bearer TOKEN`, or Basic with the token as the password, which is what a browser can ask a person for."""
        token = self._rules.token
        if token is None:
            return True
        if len(told) != 1:
            return False
        kind, _, value = told[0].partition(b" ")
        given = value.strip()
        if kind.lower() == b"basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif kind.lower() != b"bearer":
            return False
        return hmac.compare_digest(given, token.encode())


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            named = {name.lower() for name, _ in message["headers"]}
            policy = [] if b"content-security-policy" in named else [
                (b"content-security-policy", _PLAIN_POLICY.encode())]  # fmt: skip
            message = {**message, "headers": [*message["headers"], *HEADERS, *policy]}
        await send(message)

    return sent


# ---------------------------------------------------------------- what is answered
@dataclass
class View:
    """One reading, and its answers, each spelled when first asked for."""

    facts: Facts
    ready: Readiness
    not_alive: tuple[Reason, ...]
    alerts: Alerts
    _spelled: dict[str, bytes] = field(default_factory=dict)

    def body(self, path: str) -> bytes:
        if path not in self._spelled:
            self._spelled[path] = _SPELL[path](self)
        return self._spelled[path]


def _json(content: Mapping[str, Any]) -> bytes:
    return canonical_json(mask_values(dict(content))).encode() + b"\n"


def _about(facts: Facts) -> dict[str, Any]:
    return {
        "at": facts.at.isoformat(), "mode": facts.mode, "simulated": facts.simulated, "standing": facts.standing
    }  # fmt: skip


def _rows(reasons: Sequence[Reason]) -> list[dict[str, str]]:
    return [{"code": r.code, "found": r.words, "action": r.action} for r in reasons]


def health_body(view: View) -> bytes:
    runner = view.facts.runner
    told = None if runner is None else {
        "pid": runner.pid, "doing": runner.doing, "beats": runner.beats, "beat_age_s": metrics.rounded(
            runner.beat_age_s), "ended": runner.ended,
    }  # fmt: skip
    status = "failing" if view.not_alive else "ok"
    return _json({**_about(view.facts), "status": status, "runner": told, "reasons": _rows(view.not_alive)})


def ready_body(view: View) -> bytes:
    ready, schedule = view.ready, view.facts.schedule
    return _json({
        **_about(view.facts), "ready": ready.ready, "state": ready.state, "reasons": _rows(ready.stops),
        "warnings": _rows(ready.warnings), "market_open": None if schedule is None else schedule.is_open,
        "next": None if schedule is None else schedule.next_id,
    })  # fmt: skip


_SPELL: Mapping[str, Callable[[View], bytes]] = {
    "/health": health_body,
    "/ready": ready_body,
    "/metrics": lambda view: _json(metrics.as_json(view.facts, view.ready)),
    "/metrics/prometheus": lambda view: mask_secrets(
        metrics.as_prometheus(view.facts, view.ready).decode()).encode(),
    "/": lambda view: page.render(view.facts, view.ready, view.alerts),
}  # fmt: skip


class Source:
    """The newest reading, no older than FRESH_S by this machine's own clock."""

    def __init__(
        self, look: Callable[[], Facts], ticks: Clock, stalled_after_s: float,
        alerts: Callable[[], Alerts] = lambda: "ALERTS_ABSENT",
    ) -> None:  # fmt: skip
        self._look, self._ticks, self._stalled_after_s, self._alerts = look, ticks, stalled_after_s, alerts
        self._view: View | None = None
        self._read_at = 0.0

    def view(self) -> View:
        now = self._ticks.monotonic()
        if self._view is None or not 0 <= now - self._read_at < FRESH_S:
            facts = self._look()
            ready = readiness(facts, stalled_after_s=self._stalled_after_s)
            not_alive = alive(facts, stalled_after_s=self._stalled_after_s)
            self._view = View(facts, ready, not_alive, self._alerts())
            self._read_at = now
        return self._view


def routes(source: Source) -> FastAPI:
    from fastapi import FastAPI, Response

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)

    def answer(path: str, media: str, status: Callable[[View], int], policy: str = _PLAIN_POLICY) -> None:
        async def reply() -> Response:
            view = source.view()
            return Response(
                view.body(path), status(view), {"content-security-policy": policy}, media_type=media
            )  # fmt: skip

        app.add_api_route(path, reply, methods=["GET", "HEAD"], include_in_schema=False)

    answer("/health", "application/json", lambda view: 503 if view.not_alive else 200)
    answer("/ready", "application/json", lambda view: 200 if view.ready.ready else 503)
    answer("/metrics", "application/json", lambda view: 200)
    answer("/metrics/prometheus", metrics.CONTENT_TYPE, lambda view: 200)
    answer("/", "text/html; charset=utf-8", lambda view: 200, POLICY)
    return app


def create_app(source: Source, rules: Rules, clock: Clock) -> App:
    """The whole thing as one ASGI application."""
    return Guard(routes(source), rules, RateLimit(rules.metrics_per_minute, clock))


# ---------------------------------------------------------------- serving
def listening(host: str, port: int) -> socket.socket:
    """Raises ConfigError PORT_IN_USE."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name != "nt":  # on Windows it would let two servers share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"{host} port {port} cannot be used: {why}", code="PORT_IN_USE",
            advice="end what uses it, or choose another: --port, sidecar.port",
        ) from error  # fmt: skip
    listener.listen(128)
    return listener


def server(app: App, rules: Rules) -> Any:
    """A uvicorn server with bounds on what a client may hold: headers, time, connections. No proxy is believed."""
    import uvicorn

    class Unsignalled(uvicorn.Server):
        """Whoever runs it decides what a signal means."""

        def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
            return contextlib.nullcontext()

    return Unsignalled(uvicorn.Config(
        app, http=_bounded(rules.connections_max), ws="none", lifespan="off", loop="asyncio", log_config=None,
        log_level="error", access_log=False, server_header=False, proxy_headers=False, timeout_keep_alive=5,
        timeout_graceful_shutdown=1, h11_max_incomplete_event_size=_HEADER_BYTES,
    ))  # fmt: skip


def _bounded(most: int) -> Any:
    """uvicorn bounds neither the time that a request takes to arrive nor who holds connections: this does."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Bounded(H11Protocol):
        _opened = _idle_since = 0.0
        _bell: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._opened = self._idle_since = self.loop.time()
            self._bell = self.loop.call_later(_LOOK_S, self._look)
            held = [c for c in self.connections if isinstance(c, Bounded) and not c.transport.is_closing()]
            if len(held) > most:
                min(held, key=lambda c: (not c._is_idle(), c._opened)).transport.abort()

        def _is_idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _look(self) -> None:
            now = self.loop.time()
            slow = self._is_idle() and now - self._idle_since > _REQUEST_S
            if slow or now - self._opened > _LIFE_S:
                self.transport.abort()
            else:
                self._bell = self.loop.call_later(_LOOK_S, self._look)

        def on_response_complete(self) -> None:
            self._idle_since = self.loop.time()
            super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._bell is not None:
                self._bell.cancel()
            super().connection_lost(exc)

    return Bounded


def be_nice() -> None:
    """Behind everything that trades, when the processor is short. Windows: the starter says so."""
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.nice(10)
