"""The FastAPI application: one place where a request becomes a transaction, the clock is played, and a reply is made.

Handlers are plain functions from a Call to a Reply; they run one at a time on the server's event loop, so they
need no lock of their own.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from core.market.base import Market
from core.market_calendar import NEW_YORK, MarketCalendar
from execution.venue.account import AccountStore
from execution.venue.anthropic_model import SimulatedModel
from execution.venue.matching import Engine


class Refusal(Exception):
    """An error reply, exactly as it goes out; the transaction is rolled back to before the request, not the clock."""

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status} {body}")
        self.status, self.body, self.headers = status, dict(body), dict(headers or {})


@dataclass(frozen=True, slots=True)
class Reply:
    """Body None is an empty answer."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read: path and query values as text, `body` raw."""

    venue: Venue
    now: datetime
    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def engine(self) -> Engine:
        return self.venue.engine

    @property
    def today(self) -> date:
        """New York's date."""
        return self.now.astimezone(NEW_YORK).date()

    def flag(self, name: str, default: bool = False) -> bool:
        return self.query.get(name, str(default)).lower() == "true"

    def json(self) -> Any:
        """Numbers with a point arrive as Decimal with every digit sent. Raises ValueError."""
        return json.loads(self.body, parse_float=Decimal)


@dataclass(frozen=True, slots=True)
class Venue:
    """What every handler works on."""

    engine: Engine
    store: AccountStore
    market: Market
    calendar: MarketCalendar
    failures: list[str]  # tracebacks of our own mistakes, for tests and for a person who wonders about a 500
    model: SimulatedModel = field(default_factory=SimulatedModel)


Handler = Callable[[Call], Reply]
Check = Callable[[Mapping[str, str], Mapping[str, str]], None]  # headers, query
_COMMON = {"X-Simulated-Venue": "true"}


class CompactJson(JSONResponse):
    media_type = "application/json; charset=UTF-8"

    def render(self, content: Any) -> bytes:
        return dumps(content)


def dumps(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


class Routes:
    """Registers handlers of one vendor's dialect; `check` raises Refusal for a call without keys."""

    def __init__(self, router: APIRouter, venue: Venue, check: Check) -> None:
        self._router, self._venue, self._check = router, venue, check

    def add(self, method: str, path: str, handler: Handler) -> None:
        endpoint = self._endpoint(handler)
        self._router.add_api_route(path, endpoint, methods=[method], response_model=None, name=handler.__name__)

    def _endpoint(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        venue, check = self._venue, self._check

        async def endpoint(request: Request) -> Response:
            body = await request.body()
            query = request.scope["query_string"].decode("latin-1")
            reply = answered(venue, check, handler, request.path_params, query, request.headers, body)
            if reply.body is None:
                return Response(status_code=reply.status, headers=dict(reply.headers))
            return CompactJson(reply.body, reply.status, dict(reply.headers))

        return endpoint


def answered(
    venue: Venue, check: Check, handler: Handler, path: Mapping[str, str], query_string: str,
    headers: Mapping[str, str], body: bytes,
) -> Reply:  # fmt: skip
    """One request, from keys to reply: the clock is played in a transaction of its own, which a refusal keeps."""
    query = dict(parse_qsl(query_string, keep_blank_values=True))
    try:
        check(headers, query)
        with venue.store.transaction():
            now = venue.engine.advance()
        with venue.store.transaction():
            reply = handler(Call(venue, now, path, query, headers, body))
    except Refusal as refusal:
        return Reply(refusal.body, refusal.status, {**_COMMON, **refusal.headers})
    return replace(reply, headers={**_COMMON, **reply.headers})


def create_app(engine: Engine, store: AccountStore) -> FastAPI:
    """Every route of the venue over one engine. The account must have been opened (`engine.begin`)."""
    from execution.venue import alpaca_data, alpaca_routes, anthropic_routes, polygon_routes

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    venue = Venue(engine, store, engine.market, engine.calendar, [])
    app.state.failures, app.state.model = venue.failures, venue.model
    for module in (alpaca_routes, alpaca_data, polygon_routes, anthropic_routes):
        router = APIRouter()
        module.register(Routes(router, venue, module.check))
        app.include_router(router)

    async def no_such_page(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        text = "endpoint not found." if status == 404 else "method not allowed."
        return CompactJson({"message": text}, status, _COMMON)

    async def broken(request: Request, error: Exception) -> Response:
        venue.failures.append("".join(traceback.format_exception(error)))
        return CompactJson({"code": 50010000, "message": "internal server error"}, 500, _COMMON)

    app.add_exception_handler(HTTPException, no_such_page)
    app.add_exception_handler(Exception, broken)
    return app


def plain(value: Decimal | None) -> str | None:
    """Decimal as the wire wants it: no exponent, no trailing zeros, at most nine decimals."""
    if value is None:
        return None
    text = format(round(value, 9), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text if text != "-0" else "0"


def number(value: Any) -> Decimal | None:
    """What a client sent as a number or as text; None for absent. Raises ValueError for anything else."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ValueError(f"not a number: {value!r}")
    try:
        result = Decimal(value)
    except InvalidOperation as error:
        raise ValueError(f"not a number: {value!r}") from error
    if not result.is_finite():
        raise ValueError(f"not a number: {value!r}")
    return result


def utc_text(at: datetime | None) -> str | None:
    """RFC 3339 with Z; fractional digits only when there are any, trailing zeros trimmed."""
    if at is None:
        return None
    text = f"{at:%Y-%m-%dT%H:%M:%S}"
    return f"{text}.{at.microsecond:06d}".rstrip("0") + "Z" if at.microsecond else text + "Z"
