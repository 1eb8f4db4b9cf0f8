"""The one door to Alpaca: alpaca-py's raw REST calls over our own transport, translated on the line they arrive.

A submit has four outcomes, never decided by an exception's text: an Order; BrokerRejected (a definite 4xx, and a
look-up that does not know the order); BrokerDown (not one byte left, or 429 and not known); OutcomeUnknown (all else).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import quote as url_quote

from core.clock import Clock
from core.domain import (
    Account,
    Activity,
    Asset,
    BrokerClock,
    Fill,
    Order,
    OrderIntent,
    OrderKind,
    Position,
    Quote,
    Side,
    Symbol,
    canonical_symbol,
)
from core.errors import BrokerDown, BrokerError, BrokerRejected, ConfigError, OutcomeUnknown, RateLimited
from core.ports import Admission, ApprovedOrder, Halt

T = TypeVar("T")

_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|z|[+-]\d\d:?\d\d)\Z")
_PAGE = 500
_PAGES_MAX = 40
_FILLS_PAGE = 100
_BATCH = 100  # symbols in one quote request
_READ_TRIES = 3
_RETRY_WAIT_S = 0.25
_DEFINITE = frozenset({400, 401, 403, 404, 422})
_TRANSIENT = frozenset({429, 500, 502, 503, 504})
_BLOCKS = ("trading_blocked", "account_blocked", "trade_suspended_by_user")


def parse_instant(text: str) -> datetime:
    """RFC 3339 with 0 to 9 fractional digits -> aware UTC, cut to microseconds. Raises ValueError."""
    found = _INSTANT.match(text)
    if found is None:
        raise ValueError(f"{text!r} is not an RFC 3339 instant")
    day, clock_time, fraction, zone = found.groups()
    zone = "+00:00" if zone in "Zz" else zone
    return datetime.fromisoformat(f"{day}T{clock_time}.{(fraction or '0')[:6]:0<6}{zone}").astimezone(UTC)


def _dec(value: Any) -> Decimal | None:
    from core.money import dec

    return dec(value)


def _need(value: Any) -> Decimal:
    found = _dec(value)
    if found is None:
        raise ValueError("a number is missing")
    return found


def _instant(value: Any) -> datetime | None:
    return None if value is None else parse_instant(str(value))


def _whole_up(value: Decimal | None) -> int:
    """Fractions are never ours; rounding what others sell up keeps our own sells inside the rest."""
    return 0 if value is None else int(value.to_integral_value(rounding="ROUND_CEILING"))


def parse_order(raw: Any) -> Order:
    """A broker order, legs included. Raises ValueError, TypeError or KeyError for what is no order."""
    if not isinstance(raw, Mapping):
        raise ValueError("an order must be an object")
    filled = _dec(raw.get("filled_qty"))
    return Order(
        id=str(raw["id"]),
        client_order_id=str(raw["client_order_id"]),
        symbol=canonical_symbol(str(raw["symbol"])),
        side=Side(str(raw["side"])),
        quantity=_whole_up(_dec(raw.get("qty"))),
        filled_quantity=0 if filled is None else int(filled),
        filled_price=_dec(raw.get("filled_avg_price")),
        kind=str(raw.get("type") or raw.get("order_type") or ""),
        tif=str(raw.get("time_in_force") or ""),
        status=str(raw["status"]),
        limit_price=_dec(raw.get("limit_price")),
        stop_price=_dec(raw.get("stop_price")),
        submitted_at=_instant(raw.get("submitted_at")),
        filled_at=_instant(raw.get("filled_at")),
        legs=tuple(parse_order(leg) for leg in raw.get("legs") or ()),
        raw=dict(raw),
    )


def order_body(intent: OrderIntent) -> dict[str, Any]:
    """The wire body. Prices and quantity are exact strings, which the broker takes and floats would spoil."""
    body: dict[str, Any] = {
        "symbol": str(intent.symbol),
        "qty": str(intent.quantity),
        "side": str(intent.side),
        "type": "limit" if intent.kind is OrderKind.OCO else str(intent.kind),
        "time_in_force": str(intent.tif),
        "client_order_id": intent.client_order_id,
    }
    if intent.kind is OrderKind.LIMIT:
        body["limit_price"] = f"{intent.limit_price:f}"
    elif intent.kind is OrderKind.STOP:
        body["stop_price"] = f"{intent.stop_price:f}"
    elif intent.kind is OrderKind.OCO:
        body["order_class"] = "oco"
        body["take_profit"] = {"limit_price": f"{intent.limit_price:f}"}
        body["stop_loss"] = {"stop_price": f"{intent.stop_price:f}"}
    return body


def same_order(intent: OrderIntent, order: Order) -> bool:
    """Whether the broker's order is the one we asked for: id, symbol, side and quantity."""
    return (order.client_order_id, order.symbol, order.side, order.quantity) == (
        intent.client_order_id,
        intent.symbol,
        intent.side,
        intent.quantity,
    )


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float:
    """What a 429 says about waiting, within 0.1 s to 1 h: Retry-After in seconds, X-RateLimit-Reset as a Unix time.

    1 s when it says nothing, or nothing that makes sense (a date, a negative number): a moment, then look again.
    """
    for name, since in (("Retry-After", 0.0), ("X-RateLimit-Reset", now.timestamp())):
        try:
            told = float(headers.get(name, "")) - since
        except (TypeError, ValueError):
            continue
        if 0 <= told < float("inf"):
            return min(max(told, 0.1), 3600.0)
    return 1.0


def rejection_code(status: int, body: Mapping[str, Any]) -> str:
    """Our stable code for a refusal, from status and code; words only where the broker shares one code."""
    code, words = body.get("code"), str(body.get("message") or "").lower()
    if status == 401 or code == 40110000:
        return "UNAUTHORIZED"
    if "wash" in words and code in (40310000, 42210000):
        return "SELF_TRADE"
    if status == 422 and "client_order_id" in words and "unique" in words:
        return "DUPLICATE_CLIENT_ID"
    if status == 403:
        if "buying_power" in body or "buying power" in words:
            return "BUYING_POWER"
        if "held_for_orders" in body or "insufficient qty" in words:
            return "SHARES_HELD"
        return "FORBIDDEN"
    for word, name in (("sub-penny", "OFF_TICK"), ("not tradable", "NOT_TRADABLE"), ("find asset", "UNKNOWN_ASSET")):
        if word in words:
            return name
    return {404: "NOT_FOUND", 422: "UNPROCESSABLE"}.get(status, f"HTTP_{status}")


class AlpacaBroker:
    """core.ports.Broker and QuoteSource over HTTP. One instance per process; calls are serial per instance."""

    def __init__(
        self,
        *,
        key_id: str,
        secret: str,
        base_url: str,
        data_url: str,
        halt: Halt,
        admission: Admission,
        connect_timeout_s: float,
        read_timeout_s: float,
        total_timeout_s: float,
        clock: Clock,
        feed: str | None = None,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """URLs without `/v2`; an empty one would silently mean the real broker, so it is refused.

        `waiting` is called now and then while an answer is waited for.
        """
        if not base_url or not data_url:
            raise ConfigError("the broker URL is empty", code="BROKER_URL_EMPTY", advice="set ALPACA_BASE_URL")
        from alpaca.common.rest import RESTClient
        from alpaca.trading.client import TradingClient

        from execution.transport import OrderTransport

        self._clock = clock
        self._feed = feed
        self.base_url = base_url
        self._transport = OrderTransport(
            halt=halt,
            admission=admission,
            waiting=waiting,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            total_timeout_s=total_timeout_s,
        )
        self._trading: Any = TradingClient(key_id, secret, paper=True, raw_data=True, url_override=base_url)
        self._data: Any = RESTClient(data_url, key_id, secret, raw_data=True)
        for client in (self._trading, self._data):
            client._retry = 0  # the library would send a POST again after 429 and 504
            client._retry_codes = []
            client._session.mount("http://", self._transport)
            client._session.mount("https://", self._transport)
            client._session.auth = _keep_headers  # a ~/.netrc entry must not add a second identity

    # -- sending ------------------------------------------------------------------------------------------------

    def submit(self, order: ApprovedOrder) -> Order:
        """POST once. Raises BrokerRejected, BrokerDown (proved not sent), OutcomeUnknown, TradingHalted, or RiskRefused
        and StateCorrupt from the last door (nothing was sent)."""
        from contextlib import nullcontext

        from execution.transport import TransportFailure

        intent = order.intent
        door = self._transport.reducing() if getattr(order, "despite_halt", False) is True else nullcontext()
        try:
            with door:
                raw = self._trading.post("/orders", order_body(intent))
        except TransportFailure as failure:
            if failure.sent:
                raise OutcomeUnknown(f"{intent.client_order_id}: {failure}", code=failure.kind) from None
            raise BrokerDown(f"{intent.client_order_id} was not sent: {failure}", code="NOT_SENT") from None
        except (_api_error(), ValueError):
            return self._after_error(intent)
        return self._accepted(intent, raw)

    def _after_error(self, intent: OrderIntent) -> Order:
        """Any reply that is no order: what the status proves, and one look-up before anything is called definite."""
        last = self._transport.last
        status, reply = (last.status, last.body) if last is not None else (None, "")
        if status is None or status < 400:
            raise OutcomeUnknown(f"{intent.client_order_id}: unreadable reply {reply!r}", code="REPLY_UNREADABLE")
        body = self._error_body(reply)
        message = f"{intent.client_order_id}: HTTP {status} {str(body.get('message') or reply)[:200]}"
        if status not in _DEFINITE and status != 429:
            raise OutcomeUnknown(message, code=f"HTTP_{status}")
        code = "RATE_LIMITED" if status == 429 else rejection_code(status, body)
        wait_s = retry_after_s(last.headers if last is not None else {}, self._clock.now())
        try:
            found = self.find(intent.client_order_id)
        except (BrokerRejected, BrokerDown) as error:
            if error.code == code == "UNAUTHORIZED":
                raise BrokerRejected(message, code=code) from None  # the keys are refused for reads as well
            raise OutcomeUnknown(message, code=code) from None
        if found is not None:
            return self._same(intent, found, "DUPLICATE_ID_DIFFERS" if code == "DUPLICATE_CLIENT_ID" else None)
        if code == "DUPLICATE_CLIENT_ID":
            raise OutcomeUnknown(f"{message}, yet the look-up does not know it", code=code)
        if status == 429:
            raise RateLimited(message, retry_after_s=wait_s)
        raise BrokerRejected(message, code=code)

    def _accepted(self, intent: OrderIntent, raw: Any) -> Order:
        try:
            order = parse_order(raw)
        except (ValueError, TypeError, KeyError) as error:
            last = self._transport.last
            reply = last.body if last is not None else ""
            raise OutcomeUnknown(
                f"{intent.client_order_id}: accepted, but unreadable ({error}): {reply!r}", code="REPLY_UNREADABLE"
            ) from None
        return self._same(intent, order)

    def _same(self, intent: OrderIntent, order: Order, code: str | None = None) -> Order:
        if same_order(intent, order):
            return order
        raise OutcomeUnknown(
            f"asked for {intent.client_order_id} {intent.side} {intent.quantity} {intent.symbol}, the broker has "
            f"{order.client_order_id} {order.side} {order.quantity} {order.symbol}",
            code=code or "IDENTITY_MISMATCH",
            advice="stop, and compare the account with the journal: python scripts/reconcile_alpaca.py",
        )

    def cancel(self, order_id: str) -> None:
        """Ask once. Raises BrokerRejected (404, 422: read the order instead) or BrokerDown."""
        self._call(lambda: self._trading.delete(f"/orders/{url_quote(order_id, safe='')}"), tries=1)

    # -- reading ------------------------------------------------------------------------------------------------

    def find(self, client_order_id: str) -> Order | None:
        """None when the broker answers 404. A complex order is read again by id, because only there legs are folded in.

        Raises BrokerDown, BrokerRejected.
        """
        raw = self._get("/orders:by_client_order_id", {"client_order_id": client_order_id}, missing=True)
        if raw is None:
            return None
        order = self._parse(parse_order, raw)
        if raw.get("order_class") in ("oco", "bracket", "oto") and not order.legs:
            nested = self._get(f"/orders/{url_quote(order.id, safe='')}", {"nested": "true"}, missing=True)
            if nested is not None:
                order = self._parse(parse_order, nested)
        return order

    def open_orders(self) -> Sequence[Order]:
        """All open orders, newest first. Complete: a short page was seen, and every page brought something new."""
        found: dict[str, Order] = {}
        until: datetime | None = None
        for _ in range(_PAGES_MAX):
            params = {"status": "open", "limit": str(_PAGE), "direction": "desc", "nested": "true"}
            if until is not None:
                params["until"] = until.isoformat().replace("+00:00", "Z")
            page = self._parse(_orders, self._get("/orders", params))
            fresh = [order for order in page if order.id not in found]
            found.update((order.id, order) for order in fresh)
            if len(page) < _PAGE:
                return tuple(found.values())
            stamps = [order.submitted_at for order in page if order.submitted_at is not None]
            if not fresh or not stamps:
                break
            until = min(stamps) + timedelta(milliseconds=1)  # exclusive at the broker, so overlap; ids remove doubles
        raise BrokerDown("the listing of open orders cannot be proved complete", code="LISTING_INCOMPLETE")

    def positions(self) -> Mapping[Symbol, Position]:
        return self._parse(_positions, self._get("/positions", {}))

    def account(self) -> Account:
        return self._parse(_account, self._get("/account", {}))

    def clock(self) -> BrokerClock:
        return self._parse(_broker_clock, self._get("/clock", {}))

    def asset(self, symbol: Symbol) -> Asset | None:
        raw = self._get(f"/assets/{url_quote(str(symbol), safe='')}", {}, missing=True)
        return None if raw is None else self._parse(_asset, raw)

    def fills(self, since: datetime) -> Sequence[Fill]:
        """Executions at or after `since`, oldest first, each activity id once. Raises BrokerDown when pages repeat."""
        found: dict[str, Fill] = {}
        token: str | None = None
        while True:
            after = (since - timedelta(milliseconds=1)).isoformat().replace("+00:00", "Z")
            params = {"after": after, "direction": "asc", "page_size": str(_FILLS_PAGE)}
            if token is not None:
                params["page_token"] = token
            page = self._parse(_fills, self._get("/account/activities/FILL", params))
            fresh = [fill for fill in page if fill.id not in found]
            found.update((fill.id, fill) for fill in fresh)
            if len(page) < _FILLS_PAGE:
                return tuple(fill for fill in found.values() if fill.at >= since)
            if not fresh:
                raise BrokerDown("the fills listing repeats its pages", code="LISTING_INCOMPLETE")
            token = page[-1].id

    def by_id(self, order_id: str) -> Order | None:
        raw = self._get(f"/orders/{url_quote(order_id, safe='')}", {"nested": "true"}, missing=True)
        return None if raw is None else self._parse(parse_order, raw)

    def account_activities(self, since: datetime, kinds: Collection[str] = ()) -> Sequence[Activity]:
        """Everything but fills, oldest first. Kinds are chosen here: an unknown one in the request would be a 422."""
        found: dict[str, Activity] = {}
        seen: set[str] = set()
        token: str | None = None
        while True:
            after = (since - timedelta(milliseconds=1)).isoformat().replace("+00:00", "Z")
            params = {"category": "non_trade_activity", "after": after, "direction": "asc",
                      "page_size": str(_FILLS_PAGE)}  # fmt: skip
            if token is not None:
                params["page_token"] = token
            rows = self._parse(lambda raw: [(str(row["id"]), row) for row in _rows(raw)],
                               self._get("/account/activities", params))  # fmt: skip
            fresh = {name: row for name, row in rows if name not in seen}
            seen.update(fresh)
            others = [row for row in fresh.values() if row.get("activity_type") != "FILL"]
            found.update((a.id, a) for a in self._parse(lambda raw: [_activity(row) for row in raw], others))
            if len(rows) < _FILLS_PAGE:
                return tuple(a for a in found.values() if not kinds or a.kind in kinds)
            if not fresh:
                raise BrokerDown("the activities listing repeats its pages", code="LISTING_INCOMPLETE")
            token = rows[-1][0]

    def quotes(self, symbols: Collection[Symbol]) -> Mapping[Symbol, Quote]:
        """Latest quote and trade in batches; a symbol the broker leaves out, or answers garbled, is missing."""
        result: dict[Symbol, Quote] = {}
        wanted = sorted(set(symbols))
        for start in range(0, len(wanted), _BATCH):
            params = {"symbols": ",".join(wanted[start : start + _BATCH])}
            if self._feed is not None:
                params["feed"] = self._feed
            quoted = self._data_map("/stocks/quotes/latest", params, "quotes")
            traded = self._data_map("/stocks/trades/latest", params, "trades")
            for symbol in wanted[start : start + _BATCH]:
                quote = _quote(symbol, quoted.get(symbol), traded.get(symbol))
                if quote is not None:
                    result[symbol] = quote
        return result

    # -- plumbing -----------------------------------------------------------------------------------------------

    def _data_map(self, path: str, params: Mapping[str, str], key: str) -> Mapping[str, Any]:
        raw = self._call(lambda: self._data.get(path, dict(params)), tries=_READ_TRIES)
        return self._parse(lambda reply: dict(reply[key]), raw)

    def _get(self, path: str, params: Mapping[str, str], *, missing: bool = False) -> Any:
        try:
            raw = self._call(lambda: self._trading.get(path, dict(params)), tries=_READ_TRIES)
        except BrokerRejected as error:
            if missing and error.code == "NOT_FOUND":
                return None
            raise
        if raw is None:
            raise BrokerDown(f"GET {path}: empty reply", code="REPLY_UNREADABLE")
        return raw

    def _call(self, ask: Callable[[], Any], *, tries: int) -> Any:
        """Repeat a read that failed quickly; a deadline that passed is not tried again."""
        from execution.transport import TransportFailure

        for attempt in range(1, tries + 1):
            try:
                return ask()
            except TransportFailure as failure:
                trouble: BrokerError = BrokerDown(f"the broker cannot be reached: {failure}")
                again = "Timeout" not in failure.kind and "TIMEOUT" not in failure.kind
            except (_api_error(), ValueError):
                trouble, again = self._read_error()
            if not again or attempt == tries:
                raise trouble
            self._clock.sleep(_RETRY_WAIT_S * attempt)
        raise AssertionError("unreachable: the loop returns or raises")

    def _read_error(self) -> tuple[BrokerError, bool]:
        last = self._transport.last
        status, reply = (last.status, last.body) if last is not None else (None, "")
        if status is None or status < 400:
            return BrokerDown(f"unreadable reply {reply!r}", code="REPLY_UNREADABLE"), True
        body = self._error_body(reply)
        message = f"HTTP {status} {str(body.get('message') or reply)[:200]}"
        if status in _TRANSIENT or status not in _DEFINITE:
            code = "RATE_LIMITED" if status == 429 else f"HTTP_{status}"
            return BrokerDown(message, code=code), status in _TRANSIENT
        return BrokerRejected(message, code=rejection_code(status, body)), False

    @staticmethod
    def _error_body(reply: str) -> Mapping[str, Any]:
        import json

        try:
            body = json.loads(reply)
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}

    @staticmethod
    def _parse(parse: Callable[[Any], T], raw: Any) -> T:
        try:
            return parse(raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BrokerDown(f"the broker's reply makes no sense: {error}", code="REPLY_UNREADABLE") from None


def _keep_headers(request: Any) -> Any:
    return request


def _api_error() -> type[Exception]:
    from alpaca.common.exceptions import APIError

    error: type[Exception] = APIError
    return error


def _rows(raw: Any) -> Iterator[Any]:
    if not isinstance(raw, list):
        raise ValueError("a list was expected")
    return iter(raw)


def _orders(raw: Any) -> list[Order]:
    return [parse_order(row) for row in _rows(raw)]


def _positions(raw: Any) -> Mapping[Symbol, Position]:
    result: dict[Symbol, Position] = {}
    for row in _rows(raw):
        quantity = _need(row["qty"])
        if row.get("side") == "short" and quantity > 0:
            quantity = -quantity
        symbol = canonical_symbol(str(row["symbol"]))
        result[symbol] = Position(
            symbol=symbol,
            quantity=quantity,
            average_price=_need(row["avg_entry_price"]),
            market_value=_dec(row.get("market_value")),
            available=_dec(row.get("qty_available")),
            asset_id=str(row.get("asset_id") or ""),
        )
    return result


def _account(raw: Any) -> Account:
    return Account(
        id=str(raw["id"]),
        number=str(raw["account_number"]),
        status=str(raw["status"]),
        blocked=tuple(name for name in _BLOCKS if raw.get(name, True) is not False),  # absent counts as blocked
        cash=_dec(raw.get("cash")),
        equity=_dec(raw.get("equity")),
        buying_power=_dec(raw.get("buying_power")),
    )


def _broker_clock(raw: Any) -> BrokerClock:
    return BrokerClock(
        now=parse_instant(str(raw["timestamp"])),
        is_open=raw["is_open"] is True,
        next_open=parse_instant(str(raw["next_open"])),
        next_close=parse_instant(str(raw["next_close"])),
    )


def _asset(raw: Any) -> Asset:
    return Asset(
        symbol=canonical_symbol(str(raw["symbol"])),
        id=str(raw["id"]),
        tradable=raw.get("tradable") is True,
        active=raw.get("status") == "active",
    )


def _fills(raw: Any) -> list[Fill]:
    return [
        Fill(
            id=str(row["id"]),
            order_id=str(row["order_id"]),
            symbol=canonical_symbol(str(row["symbol"])),
            side=Side.BUY if row["side"] == "buy" else Side.SELL,
            quantity=_whole_up(_need(row["qty"])),
            price=_need(row["price"]),
            at=parse_instant(str(row["transaction_time"])),
        )
        for row in _rows(raw)
    ]


def _activity(row: Any) -> Activity:
    name = row.get("symbol")
    return Activity(
        id=str(row["id"]),
        kind=str(row["activity_type"]),
        day=date.fromisoformat(str(row["date"])),
        symbol=None if not name else canonical_symbol(str(name)),
        quantity=_dec(row.get("qty")),
        net_amount=_dec(row.get("net_amount")),
        group=str(row.get("group_id") or ""),
        description=str(row.get("description") or ""),
    )


def _quote(symbol: Symbol, quoted: Any, traded: Any) -> Quote | None:
    """None when there is no quote or it cannot be read: absent is no. A price of 0 is an empty side."""
    try:
        prices = [_dec(quoted.get("bp")), _dec(quoted.get("ap")), None if traded is None else _dec(traded.get("p"))]
        bid, ask, last = (price if price is not None and price > 0 else None for price in prices)
        return Quote(symbol=symbol, bid=bid, ask=ask, last=last, at=parse_instant(str(quoted["t"])))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
