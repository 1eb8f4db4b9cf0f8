"""Four small servers in the shapes of Alpaca trading v2, Alpaca data v2, Polygon and Anthropic Messages.

Written from the published facts only, with nothing of ours in it: standard library, real bars from a dict, a clock that
starts at the instant handed in and runs on. They are awkward in documented ways: strings for numbers, a POST reply that
is never the result, orders that cannot be found for a moment after they were accepted, nanosecond stamps, keys nobody
has heard of, fields that were announced to go and are gone, pages whose next address names another host.
"""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from datetime import time as wall
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from zoneinfo import ZoneInfo

NEW_YORK, CENTRAL = ZoneInfo("America/New_York"), ZoneInfo("America/Chicago")
KEY_ID, SECRET, POLYGON_KEY, ANTHROPIC_KEY = "PKOTHER1", "other-secret-9", "poly-key-other-7", "sk-ant-other-3"

HIDDEN_S = 0.20  # an accepted order cannot be looked up or listed before this
DECIDED_S = 0.30  # an order leaves pending_new, and an IOC has its result, after this
CANCEL_S = 0.20  # pending_cancel lasts this long
AGGS_PER_PAGE = 250
OPEN_STATES = {"new", "accepted", "pending_new", "partially_filled", "held", "pending_cancel"}

Bar = tuple[float, float, float, float, float]  # open, high, low, close, volume


@dataclass
class Seen:
    """One request, as it arrived."""

    service: str
    method: str
    path: str
    query: dict[str, str]
    at: float  # monotonic seconds
    status: int = 0


@dataclass
class _Order:
    body: dict[str, Any]
    born: float
    leg: _Order | None = None  # the stop of an OCO
    cancel_at: float | None = None
    decided: bool = False


@dataclass
class Reply:
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class OtherServers:
    """Start with `with OtherServers(...) as servers`; every service has a port of its own."""

    def __init__(self, bars: Mapping[str, Mapping[date, Bar]], vix: Mapping[date, float], start: datetime) -> None:
        self.bars, self._vix = bars, vix
        self.sessions = sorted({day for series in bars.values() for day in series})
        self.seen: list[Seen] = []
        self.lock = threading.RLock()
        self.cash = Decimal("100000")
        self.shares: dict[str, int] = {}
        self.cost: dict[str, Decimal] = {}
        self.orders: list[_Order] = []
        self.activities: list[dict[str, Any]] = []
        self.fill_at_most: int | None = None  # shares an IOC may fill: the rest comes back canceled
        self.no_bars = False  # the data service has quotes, and no history
        self.no_quotes = False
        self.busy: dict[str, int] = {}  # service -> how many of its next requests get a 429
        self.set_clock(start)
        self._http = {name: self._serve(name) for name in ("alpaca", "data", "polygon", "anthropic")}

    # ------------------------------------------------------------ life
    def __enter__(self) -> OtherServers:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._http.values():
            server.shutdown()
            server.server_close()

    def _serve(self, service: str) -> ThreadingHTTPServer:
        servers = self

        class Handler(_Handler):
            name, owner = service, servers

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self._http[service].server_address[1]}"

    def environment(self) -> dict[str, str]:
        return {
            "ALPACA_BASE_URL": self.url("alpaca"), "ALPACA_DATA_URL": self.url("data"),
            "POLYGON_BASE_URL": self.url("polygon"), "ANTHROPIC_BASE_URL": self.url("anthropic"),
            "ALPACA_API_KEY_ID": KEY_ID, "ALPACA_API_SECRET_KEY": SECRET,
            "POLYGON_API_KEY": POLYGON_KEY, "ANTHROPIC_API_KEY": ANTHROPIC_KEY,
        }  # fmt: skip

    def set_clock(self, at: datetime) -> None:
        self._start, self._zero = at.astimezone(UTC), time.monotonic()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=time.monotonic() - self._zero)

    def count(self, service: str, method: str | None = None, path: str = "") -> int:
        return sum(
            s.service == service and method in (None, s.method) and s.path.startswith(path) for s in list(self.seen)
        )

    def posts(self) -> int:
        return self.count("alpaca", "POST", "/v2/orders")

    # ------------------------------------------------------------ the market
    def price(self, symbol: str) -> float | None:
        """Open in the first hour, middle of the range by day, close in the last minutes and after; else last close."""
        at = self.now().astimezone(NEW_YORK)
        series = self.bars.get(symbol, {})
        bar = series.get(at.date())
        if bar is None or at.time() < wall(9, 30):
            past = [day for day in series if day < at.date()]
            return series[max(past)][3] if past else None
        if at.time() < wall(10, 30):
            return bar[0]
        return bar[3] if at.time() >= wall(15, 50) else (bar[1] + bar[2]) / 2

    def quote(self, symbol: str) -> tuple[float, float] | None:
        price = self.price(symbol)
        return None if price is None else (round(price - 0.01, 2), round(price + 0.01, 2))

    def is_open(self, at: datetime) -> bool:
        local = at.astimezone(NEW_YORK)
        return local.date() in set(self.sessions) and wall(9, 30) <= local.time() < wall(16, 0)

    # ------------------------------------------------------------ what happens by itself
    def advance(self) -> None:
        now = time.monotonic()
        for order in self.orders:
            body = order.body
            if order.cancel_at is not None and now >= order.cancel_at and body["status"] == "pending_cancel":
                self._end(order, "canceled", "canceled_at")
            if order.decided or now < order.born + DECIDED_S or body["status"] != "pending_new":
                continue
            order.decided = True
            self._decide(order)

    def _decide(self, order: _Order) -> None:
        body = order.body
        symbol, side, quantity = body["symbol"], body["side"], int(body["qty"])
        quote, limit = self.quote(symbol), body["limit_price"]
        takes = quote is not None and body["type"] in ("market", "limit") and self.is_open(self.now())
        if takes and limit is not None and quote is not None:
            takes = float(limit) >= quote[1] if side == "buy" else float(limit) <= quote[0]
        if takes and quote is not None and body["order_class"] != "oco":
            most = quantity if self.fill_at_most is None else min(quantity, self.fill_at_most)
            if most:
                self.execute(order, most, Decimal(repr(quote[1] if side == "buy" else quote[0])))
        if body["status"] == "filled":
            return
        if body["time_in_force"] == "ioc":
            self._end(order, "canceled", "canceled_at")
        else:
            body["status"] = "new"

    def execute(self, order: _Order, quantity: int, price: Decimal) -> None:
        """Book `quantity` shares of this order at `price`."""
        body, symbol = order.body, order.body["symbol"]
        sign = 1 if body["side"] == "buy" else -1
        before = int(body["filled_qty"])
        spent = Decimal(body["filled_avg_price"] or 0) * before + price * quantity
        body["filled_qty"] = str(before + quantity)
        body["filled_avg_price"] = str(round(spent / (before + quantity), 6))
        done = before + quantity == int(body["qty"])
        body["status"] = "filled" if done else "partially_filled"
        if done:
            body["filled_at"] = body["updated_at"] = self.stamp()
            if order.leg is not None:
                self._end(order.leg, "canceled", "canceled_at")
        held = self.shares.get(symbol, 0) + sign * quantity
        self.cost[symbol] = self.cost.get(symbol, Decimal(0)) + sign * price * quantity
        self.cash -= sign * price * quantity
        self.shares[symbol] = held
        if not held:
            del self.shares[symbol], self.cost[symbol]
        local = self.now().astimezone(NEW_YORK)
        self.activities.append({
            "id": f"{local:%Y%m%d%H%M%S}{len(self.activities):03d}::{uuid.uuid4()}", "activity_type": "FILL",
            "transaction_time": self.stamp(), "type": "fill" if done else "partial_fill", "price": str(price),
            "qty": str(quantity), "side": body["side"], "symbol": symbol, "order_id": body["id"],
            "leaves_qty": str(int(body["qty"]) - before - quantity), "cum_qty": body["filled_qty"],
            "order_status": body["status"], "swap_rate": "1",
        })  # fmt: skip

    def _end(self, order: _Order, status: str, stamp: str) -> None:
        order.body["status"], order.body[stamp], order.body["updated_at"] = status, self.stamp(), self.stamp()
        if order.leg is not None and order.leg.body["status"] in OPEN_STATES:
            self._end(order.leg, "canceled", "canceled_at")

    def stamp(self) -> str:
        """UTC with nanoseconds, trailing zeros trimmed."""
        at = self.now()
        return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}391".rstrip("0") + "Z"

    # ------------------------------------------------------------ what a person does at the broker's own screen
    def trade_by_hand(self, symbol: str, side: str, quantity: int) -> None:
        with self.lock:
            order = self.new_order({
                "symbol": symbol, "side": side, "qty": quantity, "type": "market", "time_in_force": "day",
            })  # fmt: skip
            order.decided = True
            price = self.price(symbol)
            assert price is not None
            self.execute(order, quantity, Decimal(repr(round(price, 2))))

    def rest_by_hand(self, symbol: str, side: str, quantity: int, limit: str) -> None:
        with self.lock:
            order = self.new_order({
                "symbol": symbol, "side": side, "qty": quantity, "type": "limit", "time_in_force": "gtc",
                "limit_price": limit,
            })  # fmt: skip
            order.born -= 10
            self.advance()

    def open_orders(self) -> list[dict[str, Any]]:
        with self.lock:
            self.advance()
            return [self.shown(o, nested=True) for o in self.orders if o.body["status"] in OPEN_STATES]

    def fill_resting(self, symbol: str, *, leg: bool = False) -> None:
        """The market comes to the resting order of `symbol`; with `leg`, to the stop of its OCO."""
        with self.lock:
            self.advance()
            order = next(o for o in self.orders if o.body["symbol"] == symbol and o.body["status"] == "new")
            hit = order.leg if leg else order
            assert hit is not None
            self.execute(hit, int(hit.body["qty"]), Decimal(hit.body["limit_price"] or hit.body["stop_price"]))
            if leg:
                self._end(order, "canceled", "canceled_at")

    # ------------------------------------------------------------ orders
    def new_order(self, asked: Mapping[str, Any]) -> _Order:
        complex_order = asked.get("order_class") == "oco"
        limit = asked["take_profit"]["limit_price"] if complex_order else asked.get("limit_price")
        order = _Order(self._body(asked, limit, asked.get("stop_price")), time.monotonic())
        if complex_order:
            stop = {**asked, "type": "stop", "client_order_id": None}
            order.leg = _Order(self._body(stop, None, asked["stop_loss"]["stop_price"]), order.born, decided=True)
            order.leg.body["status"] = "held"
        self.orders.append(order)
        return order

    def _body(self, asked: Mapping[str, Any], limit: Any, stop: Any) -> dict[str, Any]:
        now, text = self.stamp(), lambda value: None if value is None else str(value)
        return {
            "id": str(uuid.uuid4()), "client_order_id": asked.get("client_order_id") or str(uuid.uuid4()),
            "created_at": now, "updated_at": now, "submitted_at": now, "filled_at": None, "expired_at": None,
            "canceled_at": None, "failed_at": None, "replaced_at": None, "replaced_by": None, "replaces": None,
            "asset_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, asked["symbol"])), "symbol": asked["symbol"],
            "asset_class": "us_equity", "notional": None, "qty": text(asked["qty"]), "filled_qty": "0",
            "filled_avg_price": None, "order_class": asked.get("order_class", ""), "order_type": asked["type"],
            "type": asked["type"], "side": asked["side"], "position_intent": f"{asked['side']}_to_open",
            "time_in_force": asked["time_in_force"], "limit_price": text(limit), "stop_price": text(stop),
            "status": "pending_new", "extended_hours": False, "legs": None, "trail_percent": None,
            "trail_price": None, "hwm": None, "subtag": None, "source": None, "expires_at": now,
            "x_not_in_any_document": {"since": "2027"},
        }  # fmt: skip

    def shown(self, order: _Order, *, nested: bool) -> dict[str, Any]:
        legs = [dict(order.leg.body)] if nested and order.leg is not None else None
        return {**order.body, "legs": legs}

    def visible(self) -> list[_Order]:
        return [o for o in self.orders if time.monotonic() >= o.born + HIDDEN_S]

    def held_for_orders(self, symbol: str) -> int:
        return sum(
            int(o.body["qty"]) - int(o.body["filled_qty"])
            for o in self.orders
            if o.body["symbol"] == symbol and o.body["side"] == "sell" and o.body["status"] in OPEN_STATES
        )


# ---------------------------------------------------------------- wire
class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    name = ""
    owner: OtherServers

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length) if length else b""
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        seen = Seen(self.name, self.command, unquote(parts.path), query, time.monotonic())
        with self.owner.lock:
            self.owner.seen.append(seen)
            self.owner.advance()
            reply = self._reply(seen, raw)
        seen.status = reply.status
        data = b"" if reply.body is None else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for key, value in {"X-Request-ID": uuid.uuid4().hex, **reply.headers}.items():
            self.send_header(key, value)
        if reply.status != 204:
            self.send_header("Content-Type", "application/json; charset=UTF-8")
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = do_PATCH = _answer

    def _reply(self, seen: Seen, raw: bytes) -> Reply:
        if self.owner.busy.get(self.name, 0) > 0:
            self.owner.busy[self.name] -= 1
            return _BUSY[self.name]
        if self.name in ("alpaca", "data"):
            if (self.headers.get("APCA-API-KEY-ID"), self.headers.get("APCA-API-SECRET-KEY")) != (KEY_ID, SECRET):
                return Reply(401, {"message": "unauthorized."})
            answer = trading(self.owner, seen, raw) if self.name == "alpaca" else data(self.owner, seen)
        elif self.name == "polygon":
            given = self.headers.get("Authorization", "").removeprefix("Bearer ") or seen.query.get("apiKey")
            if given != POLYGON_KEY:
                return Reply(401, {"status": "ERROR", "request_id": "r1", "error": "Unknown API Key"})
            answer = polygon(self.owner, seen)
        else:
            given = self.headers.get("x-api-key") or self.headers.get("Authorization", "").removeprefix("Bearer ")
            answer = anthropic(seen, raw, authorised=given == ANTHROPIC_KEY)
        return answer or Reply(404, {"message": "endpoint not found."})


_BUSY = {
    "alpaca": Reply(429, {"code": 42910000, "message": "rate limit exceeded"}),
    "data": Reply(429, {"message": "too many requests."}),
    "polygon": Reply(
        429,
        {"status": "ERROR", "request_id": "r2", "error": "You've exceeded the maximum requests per minute"},
        {"Retry-After": "1"},
    ),
    "anthropic": Reply(429, {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}),
}


# ---------------------------------------------------------------- Alpaca trading v2
def trading(owner: OtherServers, seen: Seen, raw: bytes) -> Reply | None:
    path, query, method = seen.path, seen.query, seen.method
    if not path.startswith("/v2/"):
        return None
    head, _, rest = path.removeprefix("/v2/").partition("/")
    if head == "account" and not rest:
        return Reply(200, _account(owner))
    if head == "account":
        return _activities(owner, query)
    if head == "clock":
        return Reply(200, _clock(owner))
    if head == "calendar":
        return Reply(200, _calendar(owner, query))
    if head == "assets":
        known = rest in owner.bars
        return Reply(200, _asset(rest)) if known else _no(404, 40410000, f"asset not found for {rest}")
    if head == "positions" and not rest and method == "GET":
        return Reply(200, [_position(owner, s) for s in sorted(owner.shares)])
    if head == "positions":
        found = rest in owner.shares
        return Reply(200, _position(owner, rest)) if found else _no(404, 40410000, f"position not found: {rest}")
    if head == "orders:by_client_order_id":
        return _found(owner, "client_order_id", query.get("client_order_id", ""), nested=False)
    if head != "orders":
        return None
    if method == "POST":
        return _submit(owner, json.loads(raw))
    if method == "DELETE":
        return _cancel(owner, rest) if rest else _cancel_all(owner)
    if rest:
        return _found(owner, "id", rest, nested=query.get("nested") == "true")
    return Reply(200, _listing(owner, query))


def _no(status: int, code: int, message: str, **more: Any) -> Reply:
    return Reply(status, {"code": code, "message": message, **more})


def _account(owner: OtherServers) -> dict[str, Any]:
    """The key set of 2026: nothing about pattern day trading."""
    market = sum((Decimal(repr(owner.price(s) or 0.0)) * n for s, n in owner.shares.items()), Decimal(0))
    cash, equity = str(owner.cash), str(owner.cash + market)
    return {
        "id": "6a6f4b2e-0d5c-4f7e-9a53-4d2f6a1c0b11", "admin_configurations": {}, "user_configurations": None,
        "account_number": "PA3OTHER77", "status": "ACTIVE", "crypto_status": "ACTIVE", "options_approved_level": 2,
        "currency": "USD", "buying_power": cash, "regt_buying_power": cash, "cash": cash, "accrued_fees": "0",
        "portfolio_value": equity, "trading_blocked": False, "transfers_blocked": False, "account_blocked": False,
        "trade_suspended_by_user": False, "created_at": "2024-02-01T10:00:00.123456789Z", "multiplier": "4",
        "shorting_enabled": True, "equity": equity, "last_equity": "100000", "long_market_value": str(market),
        "short_market_value": "0", "balance_asof": "2023-01-03", "crypto_tier": 1, "pending_reg_taf_fees": "0",
    }  # fmt: skip


def _clock(owner: OtherServers) -> dict[str, Any]:
    now = owner.now().astimezone(NEW_YORK)

    def moment(day: date, hour: int, minute: int) -> datetime:
        return datetime.combine(day, wall(hour, minute), NEW_YORK)

    days = [day for day in owner.sessions if day >= now.date()] or [now.date() + timedelta(days=1)]
    opens = next((m for m in (moment(day, 9, 30) for day in days) if m > now), moment(days[-1], 9, 30))
    closes = next((m for m in (moment(day, 16, 0) for day in days) if m > now), moment(days[-1], 16, 0))
    offset = f"{now:%z}"
    return {
        "timestamp": f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond:06d}123{offset[:3]}:{offset[3:]}",
        "is_open": owner.is_open(now), "next_open": opens.isoformat(), "next_close": closes.isoformat(),
        "phase": "core",
    }  # fmt: skip


def _calendar(owner: OtherServers, query: Mapping[str, str]) -> list[dict[str, str]]:
    start, end = query.get("start", "1970-01-01"), query.get("end", "2029-12-31")
    return [
        {"date": str(d), "open": "09:30", "close": "16:00", "session_open": "0400", "session_close": "2000"}
        for d in owner.sessions
        if start <= str(d) <= end
    ]


def _asset(symbol: str) -> dict[str, Any]:
    """`easy_to_borrow` went in September 2026."""
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_DNS, symbol)), "class": "us_equity", "exchange": "NYSE", "symbol": symbol,
        "name": symbol, "status": "active", "tradable": True, "marginable": True, "shortable": True,
        "borrow_status": "easy_to_borrow", "fractionable": True, "maintenance_margin_requirement": 30,
        "margin_requirement_long": "30", "attributes": ["has_options", "something_new"],
    }  # fmt: skip


def _position(owner: OtherServers, symbol: str) -> dict[str, Any]:
    quantity, cost, price = owner.shares[symbol], owner.cost[symbol], Decimal(repr(owner.price(symbol)))
    return {
        "asset_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, symbol)), "symbol": symbol, "exchange": "NYSE",
        "asset_class": "us_equity", "asset_marginable": True, "qty": str(quantity),
        "qty_available": str(quantity - owner.held_for_orders(symbol)),
        "avg_entry_price": str(round(cost / quantity, 6)), "side": "long", "market_value": str(price * quantity),
        "cost_basis": str(cost), "unrealized_pl": None, "unrealized_plpc": None, "current_price": str(price),
        "lastday_price": None, "change_today": None,
    }  # fmt: skip


def _activities(owner: OtherServers, query: Mapping[str, str]) -> Reply:
    rows = [a for a in owner.activities if _when(a["transaction_time"]) > _when(query.get("after"))]
    if query.get("direction", "desc") == "desc":
        rows = rows[::-1]
    ids = [row["id"] for row in rows]
    first = ids.index(query["page_token"]) + 1 if query.get("page_token") in ids else 0
    return Reply(200, rows[first : first + min(100, int(query.get("page_size", 100)))])


def _when(text: str | None) -> datetime:
    if text is None:
        return datetime.min.replace(tzinfo=UTC)
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}+00:00")


def _submit(owner: OtherServers, asked: Mapping[str, Any]) -> Reply:
    symbol, side, cid = asked["symbol"], asked["side"], asked.get("client_order_id")
    prices = [asked.get("limit_price"), asked.get("stop_price"), (asked.get("take_profit") or {}).get("limit_price"),
              (asked.get("stop_loss") or {}).get("stop_price")]  # fmt: skip
    if symbol not in owner.bars:
        return _no(422, 40010001, f'could not find asset "{symbol}"')
    if cid is not None and any(o.body["client_order_id"] == cid for o in owner.orders):
        return _no(422, 40010001, "client_order_id must be unique")
    if Decimal(str(asked["qty"])) % 1 or Decimal(str(asked["qty"])) < 1:
        return _no(422, 42210000, "fractional orders must be DAY orders")
    for price in prices:
        if price is not None and Decimal(str(price)) != round(Decimal(str(price)), 2):
            return _no(422, 42210000, f"invalid limit_price {price}. sub-penny increment does not fulfill "
                                      "minimum pricing criteria")  # fmt: skip
    if asked["time_in_force"] in ("ioc", "fok") and asked["type"] not in ("market", "limit"):
        return _no(422, 42210000, "invalid time_in_force for this order type")
    opposite = [o for o in owner.orders if o.body["symbol"] == symbol and o.body["side"] != side
                and o.body["status"] in OPEN_STATES and o.body["order_class"] == ""]  # fmt: skip
    for order in opposite:
        if order.body["type"] != "limit" or asked["type"] != "limit" or _crosses(asked, order.body):
            return _no(403, 40310000, "potential wash trade detected. use complex orders",
                       existing_order_id=order.body["id"], reject_reason="opposite side stop order exists")  # fmt: skip
    if side == "sell":
        held, reserved = owner.shares.get(symbol, 0), owner.held_for_orders(symbol)
        if int(asked["qty"]) > held - reserved:
            return _no(403, 40310000, f"insufficient qty available for order (requested: {asked['qty']}, available: "
                       f"{held - reserved})", available=str(held - reserved), existing_qty=str(held),
                       held_for_orders=str(reserved), symbol=symbol, related_orders=[])  # fmt: skip
    elif asked.get("limit_price") and Decimal(str(asked["limit_price"])) * int(asked["qty"]) > owner.cash:
        return _no(403, 40310000, "insufficient buying power", buying_power=str(owner.cash))
    return Reply(200, owner.shown(owner.new_order(asked), nested=True))


def _crosses(asked: Mapping[str, Any], resting: Mapping[str, Any]) -> bool:
    buy, sell = (asked, resting) if asked["side"] == "buy" else (resting, asked)
    return Decimal(str(buy["limit_price"])) >= Decimal(str(sell["limit_price"]))


def _found(owner: OtherServers, key: str, value: str, *, nested: bool) -> Reply:
    for order in owner.visible():
        for each in (order, order.leg):
            if each is not None and each.body[key] == value:
                return Reply(200, owner.shown(each, nested=nested))
    return _no(404, 40410000, f"order not found for {value}")


def _listing(owner: OtherServers, query: Mapping[str, str]) -> list[dict[str, Any]]:
    nested, status = query.get("nested") == "true", query.get("status", "open")
    rows: list[dict[str, Any]] = []
    for order in owner.visible():
        rows.append(owner.shown(order, nested=nested))
        if order.leg is not None and not nested:
            rows.append(owner.shown(order.leg, nested=False))
    rows = [r for r in rows if status == "all" or (r["status"] in OPEN_STATES) == (status == "open")]
    rows = [r for r in rows if "until" not in query or _when(r["submitted_at"]) < _when(query["until"])]
    rows = [r for r in rows if _when(r["submitted_at"]) > _when(query.get("after"))]
    if query.get("direction", "desc") == "desc":
        rows.reverse()
    return rows[: int(query.get("limit", 50))]


def _cancel_one(order: _Order) -> dict[str, Any] | None:
    if order.body["status"] not in OPEN_STATES:
        return {"code": 42210000, "message": f'order is already in "{order.body["status"]}" state'}
    if order.body["status"] != "pending_cancel":
        order.body["status"] = "pending_cancel"
        order.cancel_at = time.monotonic() + CANCEL_S
    return None


def _cancel(owner: OtherServers, order_id: str) -> Reply:
    for order in owner.visible():
        if order_id in (order.body["id"], order.leg.body["id"] if order.leg else None):
            problem = _cancel_one(order)
            return Reply(204) if problem is None else Reply(422, problem)
    return _no(404, 40410000, f"order not found for {order_id}")


def _cancel_all(owner: OtherServers) -> Reply:
    """207 whatever happened; an order still on its way to the exchange cannot be cancelled yet."""
    rows = []
    for order in [o for o in owner.orders if o.body["status"] in OPEN_STATES]:
        problem: dict[str, Any] | None = {"code": 50010000, "message": "internal server error"}
        if order.body["status"] != "pending_new":
            problem = _cancel_one(order)
        rows.append({"id": order.body["id"], "status": 500 if problem else 200,
                     "body": problem or owner.shown(order, nested=False)})  # fmt: skip
    return Reply(207, rows)


# ---------------------------------------------------------------- Alpaca data v2
def data(owner: OtherServers, seen: Seen) -> Reply | None:
    query = seen.query
    symbols = [s for s in query.get("symbols", "").split(",") if s]
    if owner.no_quotes and "latest" in seen.path:
        return Reply(503, {"message": "service unavailable"})
    if owner.no_bars and seen.path == "/v2/stocks/bars":
        return Reply(403, {"message": "forbidden."})
    if query.get("feed") == "sip":
        return Reply(403, {"message": "subscription does not permit querying recent SIP data"})
    stamp = owner.stamp()
    if seen.path == "/v2/stocks/quotes/latest":
        quotes = {s: q for s in symbols if (q := owner.quote(s)) is not None}
        return Reply(200, {"currency": "USD", "quotes": {
            s: {"t": stamp, "ax": "V", "ap": ask, "as": 300, "bx": "V", "bp": bid, "bs": 200, "c": ["R"], "z": "A"}
            for s, (bid, ask) in quotes.items()
        }})  # fmt: skip
    if seen.path == "/v2/stocks/trades/latest":
        prices = {s: p for s in symbols if (p := owner.price(s)) is not None}
        return Reply(200, {"trades": {
            s: {"t": stamp, "x": "V", "p": round(p, 2), "s": 100, "c": ["@"], "i": 7, "z": "A"}
            for s, p in prices.items()
        }})  # fmt: skip
    if seen.path == "/v2/stocks/bars":
        return Reply(200, _data_bars(owner, symbols, query))
    if seen.path == "/v1/corporate-actions":
        return Reply(200, {"corporate_actions": {}, "next_page_token": None})
    return None


def _data_bars(owner: OtherServers, symbols: list[str], query: Mapping[str, str]) -> dict[str, Any]:
    rows = [
        (symbol, day, bar)
        for symbol in sorted(symbols)
        for day, bar in sorted(owner.bars.get(symbol, {}).items())
        if _when(query["start"]) <= _midnight(day, NEW_YORK) <= _when(query["end"]) and day <= owner.now().date()
    ]
    first, most = int(query.get("page_token", "0")), min(10_000, int(query.get("limit", 1000)))
    page: dict[str, list[dict[str, Any]]] = {}
    for symbol, day, (o, h, low, c, v) in rows[first : first + most]:
        at = _midnight(day, NEW_YORK).strftime("%Y-%m-%dT%H:%M:%SZ")
        page.setdefault(symbol, []).append({"t": at, "o": o, "h": h, "l": low, "c": c, "v": v, "n": 10, "vw": c})
    token = str(first + most) if first + most < len(rows) else None
    return {"bars": page, "currency": "USD", "next_page_token": token}


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, wall(0), zone).astimezone(UTC)


# ---------------------------------------------------------------- Polygon
def polygon(owner: OtherServers, seen: Seen) -> Reply | None:
    parts = [p for p in seen.path.split("/") if p]
    if parts[:3] == ["v2", "aggs", "ticker"] and len(parts) == 9:
        return _range(owner, seen, parts)
    if parts[:3] == ["v2", "aggs", "grouped"] and len(parts) == 8:
        return Reply(200, _grouped(owner, date.fromisoformat(parts[7]), seen.query))
    if seen.path == "/v3/reference/splits":
        row = {"id": "E1", "ticker": "ZVZZT", "execution_date": "2023-04-11", "split_from": 1, "split_to": 4}
        return Reply(200, {"status": "OK", "request_id": "r3", "results": [row]})
    if seen.path == "/v3/reference/dividends":
        return Reply(200, {"status": "DELAYED", "request_id": "r4"})  # nothing: `results` is absent, not empty
    return None


def _counted(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    body = {"queryCount": len(rows), "resultsCount": len(rows), "status": "DELAYED", "request_id": "r5", **more}
    return {**body, "count": len(rows), "results": rows} if rows else body


def _known(owner: OtherServers, day: date) -> bool:
    """A plan in real time: today's bar is there during the session, and still moving."""
    return day <= owner.now().astimezone(NEW_YORK).date()


def _range(owner: OtherServers, seen: Seen, parts: list[str]) -> Reply:
    ticker, first, last = parts[3], date.fromisoformat(parts[7]), date.fromisoformat(parts[8])
    rows: list[dict[str, Any]] = []
    if ticker == "I:VIX":  # index rows: no volume, and midnight in Chicago
        for day, level in sorted(owner._vix.items()):
            if first <= day <= last and _known(owner, day):
                rows.append({"o": level, "h": level, "l": level, "c": level, "t": _millis(_midnight(day, CENTRAL))})
    else:
        for day, (o, h, low, c, v) in sorted(owner.bars.get(ticker, {}).items()):
            if first <= day <= last and _known(owner, day):
                row = {"v": v, "vw": c, "o": o, "c": c, "h": h, "l": low, "t": _millis(_midnight(day, NEW_YORK))}
                rows.append(row | {"n": 1000} if day.day % 2 else row)
    at = int(base64.urlsafe_b64decode(seen.query["cursor"])) if "cursor" in seen.query else 0
    more: dict[str, Any] = {"ticker": ticker, "adjusted": seen.query.get("adjusted", "false") == "true"}
    if at + AGGS_PER_PAGE < len(rows):
        cursor = base64.urlsafe_b64encode(str(at + AGGS_PER_PAGE).encode()).decode()
        more["next_url"] = f"https://api.massive.example{seen.path}?cursor={cursor}"
    return Reply(200, _counted(rows[at : at + AGGS_PER_PAGE], **more))


def _grouped(owner: OtherServers, day: date, query: Mapping[str, str]) -> dict[str, Any]:
    at = _millis(datetime.combine(day, wall(16), NEW_YORK).astimezone(UTC))
    rows = [
        {"T": symbol, "v": bar[4], "vw": bar[3], "o": bar[0], "c": bar[3], "h": bar[1], "l": bar[2], "t": at, "n": 5}
        for symbol, series in owner.bars.items()
        if _known(owner, day) and (bar := series.get(day)) is not None
    ]
    if rows:
        rows.append({"T": "ZVZZT", "v": 7.0790813e7, "o": 1.0, "c": 1.0, "h": 1.0, "l": 1.0, "t": at})
        rows.append({"T": "BACpK", "v": 10, "o": 25.0, "c": 25.0, "h": 25.0, "l": 25.0, "t": at})
    return _counted(rows, adjusted=query.get("adjusted", "true") == "true")


def _millis(at: datetime) -> int:
    return int(at.timestamp() * 1000)


# ---------------------------------------------------------------- Anthropic
def anthropic(seen: Seen, raw: bytes, *, authorised: bool) -> Reply | None:
    if not authorised:
        error = {"type": "authentication_error", "message": "invalid x-api-key"}
        return Reply(401, {"type": "error", "error": error, "request_id": "req_1"})
    if seen.path == "/v1/messages/count_tokens":
        return Reply(200, {"input_tokens": len(raw) // 3})
    if seen.path == "/v1/messages":
        return Reply(200, {
            "id": "msg_1", "type": "message", "role": "assistant", "model": f"{json.loads(raw)['model']}-20260901",
            "content": [{"type": "thinking", "thinking": "…", "signature": "x"}, {"type": "text", "text": "Noted."}],
            "stop_reason": "end_turn", "stop_sequence": None,
            "usage": {"input_tokens": 40, "output_tokens": 5, "service_tier": "standard"},
        })  # fmt: skip
    return None
