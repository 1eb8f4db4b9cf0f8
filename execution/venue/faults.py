"""Scripted faults: which request of a route goes wrong, and how. For drills and tests.

Three kinds of going wrong: how an answer is delivered (not at all, half, late), what it says (another order, an empty
list, an unknown word), and what the market does with an order (part of it, later than told). A plan is read in order
and counts requests, so that the same requests always meet the same faults.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from execution.venue import anthropic_faults

if TYPE_CHECKING:
    from execution.venue.matching import Engine

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_HANG_S = 3600.0
_SIDE = re.compile(rb'"side"\s*:\s*"(buy|sell)"')
_HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
_JSON = "application/json; charset=UTF-8"
_ELSEWHERE = "http://another-host.invalid/v2/orders"
_BEFORE = ("timeout_before", "reset_before", "status", "redirect")  # the request takes no effect
_PLAIN = (
    "timeout_before", "timeout_after", "reset", "reset_before", "truncate", "html", "empty", "drip", "redirect",
    "duplicate_id", "missing", "no_rows", "twice", "backwards", "full_page", "unfilled", "cancel_lost", "reject_late",
)  # fmt: skip
_WITH_NUMBER = ("lag", "late", "late_filled", "late_rest", "partial", "cancel_slow")
_FIELDS = ("symbol", "qty", "side")
_MARKET = ("late", "late_filled", "late_rest", "partial", "cancel_slow", "cancel_lost", "reject_late")


class Delivery(StrEnum):
    """How an answer leaves."""

    WHOLE = "whole"
    HALF = "half"  # then the connection is closed
    CUT = "cut"  # not one byte, connection reset
    SILENCE = "silence"  # not one byte, connection open
    DRIP = "drip"  # a few bytes, then silence


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer, and how it leaves."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    delivery: Delivery = Delivery.WHOLE


@dataclass(frozen=True, slots=True)
class Fault:
    """Requests `nth` (from 1) to `nth + times - 1` of `route`, written like "POST /v2/orders"; it may end in "*".
    "POST /v2/orders buy" and "… sell" are the orders of one side.

    Delivery: timeout_before and timeout_after (no answer; before or after the request took effect), reset (took
    effect, connection cut without a byte), reset_before, truncate (took effect, half a body), drip (took effect, a few
    bytes and no more), html (took effect, a web page with 200), empty (took effect, 200 without a body), redirect (to
    another host), status:NNN (did not take effect; 429:WORDS adds a Retry-After), status_after:NNN (took effect).
    Content: identity:FIELD (another symbol, qty or side than asked), word:STATUS (the order's status is that word),
    duplicate_id (took effect, "must be unique"), missing (404), no_rows (an empty list), twice (each row two times),
    backwards (rows in the opposite order), full_page (rows repeated to a full page), unfilled (filled quantity 0),
    skew:S (the broker's clock is S seconds off).
    Market, of an order POST: lag:S (look-ups and listings do not know it for S seconds), partial:N (only N shares
    trade at once), late:S (an IOC is told canceled and fills S seconds later, still called canceled), late_filled:S
    (the same, then called filled), late_rest:S (one share at once, the rest S seconds later), reject_late (accepted,
    then rejected by the venue). Of an order DELETE: cancel_lost (acknowledged, but the order fills at the market
    instead), cancel_slow:S (pending_cancel for S seconds).
    Of the language model: llm:NAME and llm:error:TYPE[:WAIT], see execution/venue/anthropic_faults.py.
    Two that go together are written with a plus: lag:5+reset is an order whose answer is lost and that cannot be seen.
    """

    route: str
    nth: int
    kind: str
    times: int = 1

    def __post_init__(self) -> None:
        if not all(map(_known, self.kinds)):
            raise ValueError(f"unknown fault kind {self.kind!r}")

    def covers(self, number: int) -> bool:
        return self.nth <= number < self.nth + self.times

    @property
    def kinds(self) -> list[str]:
        return self.kind.split("+")

    @property
    def takes_effect(self) -> bool:
        return not any(
            kind.partition(":")[0] in _BEFORE
            or (kind.startswith("llm:") and not anthropic_faults.takes_effect(kind.removeprefix("llm:")))
            for kind in self.kinds
        )


def _known(kind: str) -> bool:
    name, _, rest = kind.partition(":")
    if name in ("status", "status_after"):
        return rest.partition(":")[0].isdigit()
    if name == "identity":
        return rest in _FIELDS
    if name == "llm":
        return anthropic_faults.knows(rest)
    if name == "word":
        return bool(rest)
    if name == "skew":
        return rest.removeprefix("-").isdigit()
    return rest.isdigit() if name in _WITH_NUMBER else kind in _PLAIN


class FaultPlan:
    """Which faults are still to come; counts every request it sees."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = tuple(faults)
        self._seen: Counter[str] = Counter()
        self._hidden: dict[str, datetime] = {}  # client order id -> until when nobody can see it
        self.played: list[Fault] = []
        self.late: set[str] = set()  # client order ids that were told canceled and filled afterwards
        self.on_play: Callable[[Fault], None] = lambda fault: None
        self._over = False

    def stop(self) -> None:
        """From here on nothing goes wrong any more."""
        self._over = True
        self._hidden.clear()

    def next_for(self, method: str, path: str, body: bytes = b"") -> Fault | None:
        if self._over:
            return None
        request = f"{method} {path}"
        side = _SIDE.search(body) if method == "POST" else None
        with_side = f"{request} {side[1].decode()}" if side else request
        hit = None
        for route in sorted({fault.route for fault in self._faults}):
            if route in (request, with_side) or (route.endswith("*") and request.startswith(route[:-1])):
                self._seen[route] += 1
                hit = hit or next((f for f in self._faults if f.route == route and f.covers(self._seen[route])), None)
        if hit is not None:
            self.played.append(hit)
            self.on_play(hit)
        return hit

    def hide(self, client_order_id: str, until: datetime) -> None:
        self._hidden[client_order_id] = until

    def veiled(self, method: str, path: str, answer: Answer, now: datetime) -> Answer:
        """The answer without the orders that cannot be seen yet."""
        hidden = {cid for cid, until in self._hidden.items() if now < until}
        if not hidden or method != "GET" or not path.startswith("/v2/orders") or answer.status != 200:
            return answer
        found = json.loads(answer.body)
        if isinstance(found, list):
            return replace(answer, body=_dumps([row for row in found if row["client_order_id"] not in hidden]))
        return _error(404, "order not found") if found["client_order_id"] in hidden else answer


def spoiled(kind: str, answer: Answer) -> Answer:
    """What becomes of an answer. `answer` is that of the request, or empty when it took no effect."""
    kind, _, detail = kind.partition(":")
    if kind == "llm":
        code, body, headers = anthropic_faults.spoiled(detail, answer.status, answer.body)
        return replace(answer, status=code, body=body, headers={"content-type": _JSON, **answer.headers, **headers})
    if kind in ("timeout_before", "timeout_after"):
        return replace(answer, delivery=Delivery.SILENCE)
    if kind in ("reset", "reset_before"):
        return replace(answer, delivery=Delivery.CUT)
    if kind in ("truncate", "drip"):
        return replace(answer, delivery=Delivery.HALF if kind == "truncate" else Delivery.DRIP)
    if kind == "html":
        return Answer(200, _HTML, {"content-type": "text/html"})
    if kind == "empty":
        return Answer(200, b"", {"content-type": _JSON})
    if kind == "redirect":
        return Answer(307, b"", {"location": _ELSEWHERE})
    if kind in ("status", "status_after"):
        status, _, wait = detail.partition(":")
        return _error(int(status), "scripted fault", {"retry-after": wait} if wait else {})
    if kind == "duplicate_id":
        return _error(422, "client_order_id must be unique", code=40010001)
    if kind == "missing":
        return _error(404, "order not found")
    return _reworded(kind, detail, answer)


def _reworded(kind: str, detail: str, answer: Answer) -> Answer:
    """Faults in what a good answer says; an error, or an answer of another shape, is left as it is."""
    if answer.status != 200 or not answer.body:
        return answer
    change = _WORDS.get(kind)
    found = json.loads(answer.body)
    return answer if change is None else replace(answer, body=_dumps(change(found, detail)))


def _each(change: Callable[[dict[str, Any], str], dict[str, Any]]) -> Callable[[Any, str], Any]:
    def changed(found: Any, detail: str) -> Any:
        return [change(row, detail) for row in found] if isinstance(found, list) else change(found, detail)

    return changed


def _other(order: dict[str, Any], name: str) -> dict[str, Any]:
    value = {
        "symbol": "ZZZ", "qty": str(Decimal(str(order.get("qty") or 0)) + 1),
        "side": "sell" if order.get("side") == "buy" else "buy",
    }[name]  # fmt: skip
    return {**order, name: value}


def _worded(order: dict[str, Any], status: str) -> dict[str, Any]:
    return {**order, "status": status}


def _unfilled(order: dict[str, Any], _: str) -> dict[str, Any]:
    return {**order, "filled_qty": "0", "filled_avg_price": None, "status": "new"}


def _skewed(clock: dict[str, Any], seconds: str) -> dict[str, Any]:
    at = datetime.fromisoformat(clock["timestamp"]) + timedelta(seconds=int(seconds))
    return {**clock, "timestamp": at.isoformat()}


def _rows(change: Callable[[list[Any]], list[Any]]) -> Callable[[Any, str], Any]:
    return lambda found, _: change(found) if isinstance(found, list) else found


_PAGE = 100
_WORDS: Mapping[str, Callable[[Any, str], Any]] = {
    "identity": _each(_other),
    "word": _each(_worded),
    "unfilled": _each(_unfilled),
    "skew": _skewed,
    "no_rows": _rows(lambda rows: []),
    "twice": _rows(lambda rows: [row for row in rows for _ in range(2)]),
    "backwards": _rows(lambda rows: rows[::-1]),
    "full_page": _rows(lambda rows: (rows * _PAGE)[:_PAGE]),
}


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _error(status: int, message: str, headers: Mapping[str, str] | None = None, code: int = 50010000) -> Answer:
    return Answer(status, _dumps({"code": code, "message": message}), {"content-type": _JSON, **(headers or {})})


class Played:
    """One request on its way through a plan: asked before it is handled, and again with its answer."""

    def __init__(self, plan: FaultPlan, engine: Engine, method: str, path: str, body: bytes) -> None:
        self._plan, self._engine, self._method, self._path, self._body = plan, engine, method, path, body
        self.fault = plan.next_for(method, path, body)

    @property
    def handled(self) -> bool:
        """Whether the venue sees the request at all."""
        return self.fault is None or self.fault.takes_effect

    def before(self) -> None:
        kinds = [] if self.fault is None else self.fault.kinds
        self._engine.trick = next((kind for kind in kinds if kind.partition(":")[0] in _MARKET), "")

    def after(self, answer: Answer) -> Answer:
        self._engine.trick = ""
        if self._engine.postponed:
            self._plan.late.add(self._engine.postponed)
            self._engine.postponed = ""
        if self.fault is None:
            return self._plan.veiled(self._method, self._path, answer, self._engine.clock.now())
        taken = answer.status == 200
        for kind in self.fault.kinds:
            name, _, seconds = kind.partition(":")
            if name != "lag":
                answer = spoiled(kind, answer)
            elif taken:
                until = self._engine.clock.now() + timedelta(seconds=int(seconds))
                self._plan.hide(str(json.loads(self._body)["client_order_id"]), until)
        return answer


def with_faults(app: App, plan: FaultPlan | None, engine: Engine) -> App:
    """The application, misbehaving as planned."""
    if plan is None:
        return app

    async def faulty(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        body = await _body(receive)
        played = Played(plan, engine, scope["method"], scope["path"], body)
        answer = Answer(0, b"")
        if played.handled:
            played.before()
            answer = await _take_effect(app, scope, body)
        await _deliver(played.after(answer), send)

    return faulty


async def _body(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


async def _take_effect(app: App, scope: Message, body: bytes) -> Answer:
    """Run the request and keep its answer from the client."""
    started: Message = {}
    parts: list[bytes] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def keep(message: Message) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        parts.append(message.get("body", b""))

    await app(scope, receive, keep)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in started["headers"]}
    headers.pop("content-length", None)
    return Answer(started["status"], b"".join(parts), headers)


async def _deliver(answer: Answer, send: Send) -> None:
    if answer.delivery is Delivery.SILENCE:
        await asyncio.sleep(_HANG_S)
    elif answer.delivery is Delivery.CUT:
        _transport(send, "abort")
    elif answer.delivery is Delivery.WHOLE:
        await _start(answer, send)
        await send({"type": "http.response.body", "body": answer.body})
    else:
        few = len(answer.body) // 2 if answer.delivery is Delivery.HALF else 1
        await _start(answer, send)
        await send({"type": "http.response.body", "body": answer.body[:few], "more_body": True})
        if answer.delivery is Delivery.DRIP:
            await asyncio.sleep(_HANG_S)
        _transport(send, "close")


async def _start(answer: Answer, send: Send) -> None:
    headers = {"content-type": _JSON, **answer.headers, "content-length": str(len(answer.body))}
    if answer.status == 204:
        del headers["content-length"], headers["content-type"]
    coded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": coded})


def _transport(send: Send, act: str) -> None:
    """ASGI has no way to drop a connection; uvicorn's `send` is a method of an object that holds the transport."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is not None:
        getattr(transport, act)()
