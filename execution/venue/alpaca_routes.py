"""Alpaca trading v2: account, clock, calendar, assets, orders, positions, activities.

Long only, whole shares, cash account. Not offered and answered with an error: bracket, oto and trailing orders,
opg and cls, extended hours, replace (PATCH). Dividends are not paid, as on Alpaca's paper accounts.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

from core.market_calendar import NEW_YORK
from execution.venue.account import ACCOUNT_ID, GTC_LIFE, Activity, Holding, VenueOrder, order_id
from execution.venue.app import Call, Refusal, Reply, Routes, number, plain, utc_text
from execution.venue.corporate import asset_id, has_gone

_MALFORMED, _UNPROCESSABLE, _FORBIDDEN, _MISSING = 40010001, 42210000, 40310000, 40410000
_STALE_SESSIONS = 10  # a symbol without a bar for so long is no longer listed
_TYPES = ("market", "limit", "stop", "stop_limit")
_MAX_CLIENT_ID = 128
_ZERO = Decimal(0)


def check(headers: Mapping[str, str], query: Mapping[str, str]) -> None:
    bearer = headers.get("authorization", "").removeprefix("Bearer ").strip()
    if not bearer and not (headers.get("apca-api-key-id") and headers.get("apca-api-secret-key")):
        raise Refusal(401, {"message": "unauthorized."})


def register(routes: Routes) -> None:
    for method, path, handler in (
        ("GET", "/v2/account", get_account),
        ("GET", "/v2/account/configurations", get_configurations),
        ("GET", "/v2/account/activities", get_activities),
        ("GET", "/v2/account/activities/{kind}", get_activities),
        ("GET", "/v2/clock", get_clock),
        ("GET", "/v2/calendar", get_calendar),
        ("GET", "/v2/assets", get_assets),
        ("GET", "/v2/assets/{symbol}", get_asset),
        ("POST", "/v2/orders", post_order),
        ("GET", "/v2/orders", get_orders),
        ("DELETE", "/v2/orders", delete_orders),
        ("GET", "/v2/orders:by_client_order_id", get_by_client_id),
        ("GET", "/v2/orders/{id}", get_order),
        ("DELETE", "/v2/orders/{id}", delete_order),
        ("GET", "/v2/positions", get_positions),
        ("DELETE", "/v2/positions", delete_positions),
        ("GET", "/v2/positions/{symbol}", get_position),
        ("DELETE", "/v2/positions/{symbol}", delete_position),
    ):
        routes.add(method, path, handler)


def malformed(message: str) -> Refusal:
    return Refusal(422, {"code": _MALFORMED, "message": message})


def unprocessable(message: str) -> Refusal:
    return Refusal(422, {"code": _UNPROCESSABLE, "message": message})


def forbidden(message: str, **extra: Any) -> Refusal:
    return Refusal(403, {"code": _FORBIDDEN, "message": message, **extra})


def missing(message: str) -> Refusal:
    return Refusal(404, {"code": _MISSING, "message": message})


# --- account, clock, calendar ------------------------------------------------------------------------


def reserved(call: Call) -> Decimal:
    """Cash that open buy orders may still need, USD."""
    total = _ZERO
    for order in call.venue.store.open_orders():
        if order.side == "buy":
            total += order.left * _worst_price(call, order)
    return total


def _worst_price(call: Call, order: VenueOrder) -> Decimal:
    if order.limit_price is not None:
        return order.limit_price
    top = call.engine.top(order.symbol, call.now)
    return order.stop_price or (top.ask if top is not None else _ZERO)


def get_account(call: Call) -> Reply:
    store = call.venue.store
    equity = call.engine.equity(call.now)
    cash = store.cash
    power = max(cash - reserved(call), _ZERO)
    created = datetime.fromisoformat(store.get("created_at"))
    text = {
        "buying_power": power, "regt_buying_power": power, "effective_buying_power": power,
        "non_marginable_buying_power": power, "options_buying_power": power, "cash": cash, "accrued_fees": _ZERO,
        "portfolio_value": equity, "equity": equity, "last_equity": Decimal(store.get("last_equity")),
        "long_market_value": equity - cash, "short_market_value": _ZERO, "position_market_value": equity - cash,
        "initial_margin": equity - cash, "maintenance_margin": _ZERO, "last_maintenance_margin": _ZERO,
        "sma": _ZERO, "intraday_adjustments": _ZERO, "pending_reg_taf_fees": _ZERO,
    }  # fmt: skip
    last = call.engine.last_completed(call.now)
    return Reply(
        {
            "id": str(ACCOUNT_ID), "admin_configurations": {}, "user_configurations": None,
            "account_number": "SIMULATED1", "status": "ACTIVE", "crypto_status": "INACTIVE",
            "options_approved_level": 0, "options_trading_level": 0, "currency": "USD",
            "trading_blocked": False, "transfers_blocked": False, "account_blocked": False,
            "created_at": utc_text(created), "trade_suspended_by_user": False, "multiplier": "1",
            "shorting_enabled": False, "balance_asof": str(last) if last else None, "crypto_tier": 0,
            **{key: plain(value) for key, value in text.items()},
        }
    )  # fmt: skip


def get_configurations(call: Call) -> Reply:
    return Reply(
        {
            "no_shorting": True, "suspend_trade": False, "fractional_trading": False, "max_margin_multiplier": "1",
            "trade_confirm_email": "none", "ptp_no_exception_entry": False, "max_options_trading_level": None,
        }
    )  # fmt: skip


def get_clock(call: Call) -> Reply:
    calendar, now = call.venue.calendar, call.now
    session = call.engine.session_now(now)
    today = now.astimezone(NEW_YORK).date()
    upcoming = today if calendar.is_session(today) and now < calendar.opens_at(today) else calendar.next_session(today)
    closing = session if session is not None else upcoming
    return Reply(
        {
            "timestamp": now.astimezone(NEW_YORK).isoformat(),
            "is_open": session is not None,
            "next_open": calendar.opens_at(upcoming).astimezone(NEW_YORK).isoformat(),
            "next_close": calendar.closes_at(closing).astimezone(NEW_YORK).isoformat(),
        }
    )


def _day(text: str | None, default: date, name: str) -> date:
    if not text:
        return default
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        raise malformed(f"invalid {name}: {text}") from None


def get_calendar(call: Call) -> Reply:
    calendar, today = call.venue.calendar, call.now.astimezone(NEW_YORK).date()
    start = _day(call.query.get("start"), today - timedelta(days=366), "start")
    end = _day(call.query.get("end"), today + timedelta(days=366), "end")
    rows = []
    for session in calendar.sessions_between(max(start, calendar.first), min(end, calendar.last)):
        closes = f"{calendar.closes_at(session).astimezone(NEW_YORK):%H:%M}"
        rows.append(
            {
                "date": str(session), "open": f"{calendar.opens_at(session).astimezone(NEW_YORK):%H:%M}",
                "close": closes, "session_open": "0400", "session_close": "2000" if closes == "16:00" else "1700",
                "settlement_date": str(calendar.next_session(session)),
            }
        )  # fmt: skip
    return Reply(rows)


# --- assets ------------------------------------------------------------------------------------------


def _find_symbol(call: Call, text: str) -> str | None:
    """A symbol as given, or the symbol that has that asset id today."""
    market = call.venue.market
    if text in market.sectors():
        return text
    if len(text) != 36:
        return None
    named = [s for s in market.symbols() if asset_id(market, s) == text]
    return next((s for s in named if not has_gone(market, s, call.today)), named[0] if named else None)


def asset_row(call: Call, symbol: str) -> dict[str, Any] | None:
    """None before the symbol's first session; inactive once it has long not traded."""
    last = call.engine.last_completed(call.now)
    session = call.engine.session_now(call.now)
    trades_now = session is not None and call.engine.play(symbol, session) is not None
    found = call.venue.market.last_bar(symbol, last) if last is not None else None
    if found is None and not trades_now:
        return None
    age = 0 if found is None or last is None else (last - found[0]).days
    active = trades_now or (age <= 2 * _STALE_SESSIONS and _sessions_since(call, found, last) <= _STALE_SESSIONS)
    active = active and not has_gone(call.venue.market, symbol, call.today)
    return {
        "id": asset_id(call.venue.market, symbol), "class": "us_equity", "exchange": "NASDAQ", "symbol": symbol,
        "name": f"{symbol} (simulated)", "status": "active" if active else "inactive", "tradable": active,
        "marginable": False, "shortable": False, "easy_to_borrow": False, "borrow_status": "hard_to_borrow",
        "fractionable": False, "maintenance_margin_requirement": 100, "margin_requirement_long": "100",
        "margin_requirement_short": "100", "attributes": [],
    }  # fmt: skip


def _sessions_since(call: Call, found: tuple[date, Any] | None, last: date | None) -> int:
    if found is None or last is None or found[0] == last:
        return 0
    return len(call.venue.calendar.sessions_between(found[0], last)) - 1


def get_assets(call: Call) -> Reply:
    if call.query.get("asset_class", "us_equity") != "us_equity":
        return Reply([])
    wanted = call.query.get("status")
    rows = (asset_row(call, symbol) for symbol in call.venue.market.symbols())
    return Reply([row for row in rows if row is not None and wanted in (None, "", row["status"])])


def get_asset(call: Call) -> Reply:
    text = call.path["symbol"]
    symbol = _find_symbol(call, text)
    row = asset_row(call, symbol) if symbol is not None else None
    if row is None:
        raise missing(f"asset not found for {text}")
    return Reply(row)


# --- orders ------------------------------------------------------------------------------------------


def order_body(call: Call, order: VenueOrder, *, nested: bool = False, status: str | None = None) -> dict[str, Any]:
    legs = [order_body(call, leg) for leg in call.venue.store.legs(order)] if nested and order.parent_id is None else []
    return {
        "id": order.id, "client_order_id": order.client_order_id, "created_at": utc_text(order.created_at),
        "updated_at": utc_text(order.updated_at), "submitted_at": utc_text(order.created_at),
        "filled_at": utc_text(order.filled_at), "expired_at": utc_text(order.expired_at),
        "canceled_at": utc_text(order.canceled_at), "failed_at": utc_text(order.failed_at), "replaced_at": None,
        "replaced_by": None, "replaces": None, "asset_id": asset_id(call.venue.market, order.symbol),
        "symbol": order.symbol, "asset_class": "us_equity", "notional": None, "qty": plain(order.qty),
        "filled_qty": plain(order.filled_qty),
        "filled_avg_price": plain(order.filled_avg_price), "order_class": order.order_class,
        "order_type": order.type, "type": order.type, "side": order.side,
        "position_intent": "buy_to_open" if order.side == "buy" else "sell_to_close", "time_in_force": order.tif,
        "limit_price": plain(order.limit_price), "stop_price": plain(order.stop_price),
        "status": status or order.status, "extended_hours": False, "legs": legs or None, "trail_percent": None,
        "trail_price": None, "hwm": None, "subtag": None, "source": None, "expires_at": utc_text(order.expires_at),
    }  # fmt: skip


def _price(raw: Mapping[str, Any], name: str, *, ideal: bool) -> Decimal | None:
    try:
        price = number(raw.get(name))
    except ValueError as error:
        raise malformed(f"invalid {name}: {error}") from None
    if price is None:
        return None
    if price <= 0:
        raise unprocessable(f"{name} must be > 0")
    decimals = 2 if price >= 1 else 4
    if not ideal and price != round(price, decimals):
        raise unprocessable(f"invalid {name} {price}. sub-penny increment does not fulfill minimum pricing criteria")
    return price


def _quantity(raw: Mapping[str, Any], symbol: str) -> Decimal:
    if raw.get("notional") is not None:
        if raw.get("qty") is not None:
            raise malformed("only one of qty or notional is accepted")
        raise forbidden(f'asset "{symbol}" is not fractionable')
    try:
        qty = number(raw.get("qty"))
    except ValueError as error:
        raise malformed(f"invalid qty: {error}") from None
    if qty is None:
        raise malformed("qty or notional is required")
    if qty <= 0:
        raise unprocessable("qty must be > 0")
    if qty != qty.to_integral_value():
        raise forbidden(f'asset "{symbol}" is not fractionable')
    return qty


def _text(raw: Mapping[str, Any], name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
    value = raw.get(name)
    value = default if value in (None, "") and default is not None else value
    if value not in allowed:
        raise unprocessable(f"invalid {name}: {value}")
    return str(value)


def _symbol(call: Call, raw: Mapping[str, Any]) -> str:
    symbol = raw.get("symbol")
    if not isinstance(symbol, str) or not symbol:
        raise malformed("symbol is required")
    row = asset_row(call, symbol) if symbol in call.venue.market.sectors() else None
    if row is None:
        raise malformed(f'could not find asset "{symbol}"')
    if not row["tradable"]:
        raise unprocessable(f'asset "{symbol}" is not tradable')
    return symbol


def _expiry(call: Call, tif: str) -> datetime:
    """DAY and IOC end with the session that is open, or else the next one."""
    calendar, now = call.venue.calendar, call.now
    if tif == "gtc":
        return now + GTC_LIFE
    today = now.astimezone(NEW_YORK).date()
    if calendar.is_session(today) and now < calendar.closes_at(today):
        return calendar.closes_at(today)
    return calendar.closes_at(calendar.next_session(today))


def _read_order(call: Call) -> tuple[VenueOrder, VenueOrder | None]:
    """The order asked for, and the stop leg of an OCO. Raises Refusal."""
    try:
        raw = call.json()
    except ValueError:
        raise Refusal(400, {"code": 40010000, "message": "request body format is invalid"}) from None
    if not isinstance(raw, dict):
        raise Refusal(400, {"code": 40010000, "message": "request body format is invalid"})
    symbol = _symbol(call, raw)
    side = _text(raw, "side", ("buy", "sell"))
    kind = _text(raw, "type", _TYPES)
    tif = _text(raw, "time_in_force", ("day", "gtc", "ioc", "fok"))
    order_class = _text(raw, "order_class", ("simple", "oco"), "simple")
    if raw.get("extended_hours"):
        raise unprocessable("extended hours are not offered")
    if tif in ("ioc", "fok") and (kind in ("stop", "stop_limit") or order_class == "oco"):
        raise unprocessable(f"{kind} orders must be day or gtc")
    qty = _quantity(raw, symbol)
    ideal = call.engine.ideal
    limit, stop = _price(raw, "limit_price", ideal=ideal), _price(raw, "stop_price", ideal=ideal)
    stop_leg: dict[str, Decimal | None] | None = None
    if order_class == "oco":
        limit, stop_leg = _read_oco(raw, kind, side, limit, stop, ideal=ideal)
    elif (limit is not None) != (kind in ("limit", "stop_limit")):
        raise malformed(f"{kind} orders require {'a' if 'limit' in kind else 'no'} limit price")
    elif (stop is not None) != (kind in ("stop", "stop_limit")):
        raise malformed(f"{kind} orders require {'a' if 'stop' in kind else 'only limit price, no'} stop price")
    created = _created(call)
    client_id = _client_id(call, raw, created)
    common: dict[str, Any] = {
        "symbol": symbol, "side": side, "tif": tif, "qty": qty, "created_at": created, "updated_at": created,
        "expires_at": _expiry(call, tif), "order_class": "oco" if stop_leg is not None else "",
    }  # fmt: skip
    waiting = "pending_new" if call.engine.session_now(call.now) is not None else "accepted"
    order = VenueOrder(
        id=order_id(client_id), client_order_id=client_id, parent_id=None, type=kind, limit_price=limit,
        stop_price=stop, status=waiting, **common,
    )  # fmt: skip
    if stop_leg is None:
        return order, None
    leg = VenueOrder(
        id=order_id(client_id, "stop"), client_order_id=order_id(client_id, "stop/client"), parent_id=order.id,
        type="stop" if stop_leg["limit_price"] is None else "stop_limit", status="held",
        limit_price=stop_leg["limit_price"], stop_price=stop_leg["stop_price"], **common,
    )  # fmt: skip
    return order, leg


def _read_oco(
    raw: Mapping[str, Any], kind: str, side: str, limit: Decimal | None, stop: Decimal | None, *, ideal: bool
) -> tuple[Decimal, dict[str, Decimal | None]]:
    target, loss = raw.get("take_profit") or {}, raw.get("stop_loss") or {}
    if kind != "limit" or stop is not None:
        raise unprocessable("oco orders must be limit orders")
    if not isinstance(target, dict) or not isinstance(loss, dict):
        raise malformed("take_profit and stop_loss must be objects")
    limit = _price(target, "limit_price", ideal=ideal) or limit
    leg = {name: _price(loss, name, ideal=ideal) for name in ("stop_price", "limit_price")}
    if limit is None:
        raise malformed("oco orders require take_profit.limit_price")
    if leg["stop_price"] is None:
        raise malformed("oco orders require stop_loss.stop_price")
    if (limit <= leg["stop_price"]) == (side == "sell"):
        raise unprocessable("oco orders: take_profit.limit_price must be beyond stop_loss.stop_price")
    return limit, leg


def _created(call: Call) -> datetime:
    """Now, but later than every earlier order, so that listings by submission time can be paged without ties."""
    newest = call.venue.store.orders(tail="ORDER BY seq DESC LIMIT 1")
    if newest and newest[0].created_at >= call.now:
        return newest[0].created_at + timedelta(microseconds=1)
    return call.now


def _client_id(call: Call, raw: Mapping[str, Any], created: datetime) -> str:
    given = raw.get("client_order_id")
    if given in (None, ""):
        return str(uuid5(ACCOUNT_ID, f"generated/{created.isoformat()}"))
    if not isinstance(given, str) or len(given) > _MAX_CLIENT_ID:
        raise malformed(f"client_order_id must be no more than {_MAX_CLIENT_ID} characters")
    if call.venue.store.by_client_id(given) is not None:
        raise malformed("client_order_id must be unique")
    return given


def _refuse_wash(call: Call, order: VenueOrder) -> None:
    """An opposite order that might trade with this one. OCO orders are exempt, and so is the idealised venue."""
    if call.engine.ideal or order.order_class == "oco":
        return
    for other in call.venue.store.open_orders(order.symbol):
        if other.side == order.side or other.order_class == "oco":
            continue
        if order.type == "limit" and other.type == "limit":
            buy, sell = (order, other) if order.side == "buy" else (other, order)
            assert buy.limit_price is not None and sell.limit_price is not None  # limit orders have one
            if buy.limit_price < sell.limit_price:
                continue
        raise forbidden(
            "potential wash trade detected. use complex orders",
            existing_order_id=other.id,
            reject_reason=f"opposite side {other.type} order exists",
        )


def held_for_orders(call: Call, symbol: str) -> tuple[Decimal, list[str]]:
    """Shares that open sells may still deliver, each OCO counted once, and those orders' ids."""
    orders = [o for o in call.venue.store.open_orders(symbol) if o.side == "sell" and o.parent_id is None]
    return sum((o.left for o in orders), _ZERO), [o.id for o in orders]


def _refuse_unaffordable(call: Call, order: VenueOrder) -> None:
    if order.side == "buy":
        power = max(call.venue.store.cash - reserved(call), _ZERO)
        cost = order.qty * _worst_price(call, order)
        if cost > power:
            raise forbidden("insufficient buying power", buying_power=plain(power), cost_basis=plain(cost))
        return
    holding = call.venue.store.holding(order.symbol)
    held = holding.qty if holding else _ZERO
    busy, related = held_for_orders(call, order.symbol)
    free = max(held - busy, _ZERO)
    if order.qty > free:
        raise forbidden(
            f"insufficient qty available for order (requested: {plain(order.qty)}, available: {plain(free)})",
            available=plain(free), existing_qty=plain(held), held_for_orders=plain(busy), symbol=order.symbol,
            related_orders=related,
        )  # fmt: skip


def _accept(call: Call, order: VenueOrder, leg: VenueOrder | None = None) -> dict[str, Any]:
    """Store, make the reply as the real one (never the result), then let the market have it."""
    _refuse_wash(call, order)
    _refuse_unaffordable(call, order)
    call.venue.store.add_order(order)
    if leg is not None:
        call.venue.store.add_order(leg)
    body = order_body(call, order, nested=True)
    call.engine.take(order, call.now)
    return body


def post_order(call: Call) -> Reply:
    order, leg = _read_order(call)
    return Reply(_accept(call, order, leg))


def _one(call: Call) -> VenueOrder:
    text = call.path["id"]
    try:
        UUID(text)
    except ValueError:
        raise malformed("order_id is missing") from None
    order = call.venue.store.order(text.lower())
    if order is None:
        raise missing(f"order not found for {text}")
    return order


def get_order(call: Call) -> Reply:
    return Reply(order_body(call, _one(call), nested=call.flag("nested")))


def get_by_client_id(call: Call) -> Reply:
    text = call.query.get("client_order_id", "")
    order = call.venue.store.by_client_id(text)
    if order is None:
        raise missing(f"order not found for {text}")
    return Reply(order_body(call, order, nested=call.flag("nested")))


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise malformed(f"invalid timestamp: {text}") from None
    return at if at.tzinfo is not None else at.replace(tzinfo=NEW_YORK)


def _limit(call: Call, name: str, default: int, most: int) -> int:
    text = call.query.get(name, "")
    if not text:
        return default
    if not text.isdigit() or int(text) < 1:
        raise malformed(f"invalid {name}: {text}")
    return min(int(text), most)


def get_orders(call: Call) -> Reply:
    query = call.query
    status = query.get("status", "open")
    if status not in ("open", "closed", "all"):
        raise malformed(f"invalid status: {status}")
    store = call.venue.store
    orders = store.open_orders() if status == "open" else store.orders()
    if status == "closed":
        orders = [o for o in orders if not o.is_open]
    if query.get("symbols"):
        wanted = set(query["symbols"].split(","))
        orders = [o for o in orders if o.symbol in wanted]
    if query.get("side"):
        orders = [o for o in orders if o.side == query["side"]]
    if query.get("after"):
        after = _instant(query["after"])
        orders = [o for o in orders if o.created_at > after]
    if query.get("until"):
        until = _instant(query["until"])
        orders = [o for o in orders if o.created_at < until]
    nested = call.flag("nested")
    if nested:
        orders = [o for o in orders if o.parent_id is None]
    orders.sort(key=lambda o: o.seq, reverse=query.get("direction", "desc") != "asc")
    return Reply([order_body(call, o, nested=nested) for o in orders[: _limit(call, "limit", 50, 500)]])


def delete_order(call: Call) -> Reply:
    order = _one(call)
    if not order.is_open:
        raise unprocessable(f'order is already in "{order.status}" state')
    call.engine.cancel(order, call.now)
    return Reply(None, 204)


def _cancel_open(call: Call) -> list[dict[str, Any]]:
    items = []
    for order in call.venue.store.open_orders():
        if order.parent_id is None:
            call.engine.cancel(order, call.now)
            items.append({"id": order.id, "status": 200, "body": order_body(call, order, status="pending_cancel")})
    return items


def delete_orders(call: Call) -> Reply:
    return Reply(_cancel_open(call), 207)


# --- positions ---------------------------------------------------------------------------------------


def position_body(call: Call, holding: Holding) -> dict[str, Any]:
    top = call.engine.top(holding.symbol, call.now)
    last = call.engine.last_completed(call.now)
    before = last
    if last is not None and call.engine.session_now(call.now) is None:
        before = call.venue.calendar.previous_session(last)
    found = call.venue.market.last_bar(holding.symbol, before) if before is not None else None
    price = top.last if top is not None else holding.average
    yesterday = Decimal(repr(found[1].close)) if found is not None else price
    cost, value = holding.qty * holding.average, holding.qty * price
    busy, _ = held_for_orders(call, holding.symbol)
    numbers = {
        "qty": holding.qty, "qty_available": max(holding.qty - busy, _ZERO), "avg_entry_price": holding.average,
        "market_value": value, "cost_basis": cost, "unrealized_pl": value - cost,
        "unrealized_plpc": (value - cost) / cost, "unrealized_intraday_pl": holding.qty * (price - yesterday),
        "unrealized_intraday_plpc": (price - yesterday) / yesterday, "current_price": price,
        "lastday_price": yesterday, "change_today": (price - yesterday) / yesterday,
    }  # fmt: skip
    return {
        "asset_id": asset_id(call.venue.market, holding.symbol), "symbol": holding.symbol, "exchange": "NASDAQ",
        "asset_class": "us_equity", "asset_marginable": False, "side": "long",
        **{key: plain(value) for key, value in numbers.items()},
    }  # fmt: skip


def _holding(call: Call) -> Holding:
    text = call.path["symbol"]
    symbol = _find_symbol(call, text)
    holding = call.venue.store.holding(symbol) if symbol is not None else None
    if holding is None:
        raise missing(f"position not found: {text}")
    return holding


def get_positions(call: Call) -> Reply:
    return Reply([position_body(call, holding) for holding in call.venue.store.holdings()])


def get_position(call: Call) -> Reply:
    return Reply(position_body(call, _holding(call)))


def _close(call: Call, holding: Holding, qty: Decimal) -> dict[str, Any]:
    """A market DAY order for `qty` shares; queued when the market is closed. Raises Refusal."""
    created = _created(call)
    client_id = str(uuid5(ACCOUNT_ID, f"close/{holding.symbol}/{created.isoformat()}"))
    order = VenueOrder(
        id=order_id(client_id), client_order_id=client_id, parent_id=None, symbol=holding.symbol, side="sell",
        type="market", tif="day", order_class="", qty=qty, limit_price=None, stop_price=None,
        status="pending_new" if call.engine.session_now(call.now) is not None else "accepted", created_at=created,
        updated_at=created, expires_at=_expiry(call, "day"),
    )  # fmt: skip
    return _accept(call, order)


def delete_position(call: Call) -> Reply:
    holding = _holding(call)
    try:
        qty, percentage = number(call.query.get("qty")), number(call.query.get("percentage"))
    except ValueError as error:
        raise malformed(str(error)) from None
    if qty is None:
        share = Decimal(100) if percentage is None else percentage
        qty = (holding.qty * share / 100).to_integral_value()
    if qty <= 0 or qty != qty.to_integral_value():
        raise unprocessable("qty must be a positive whole number")
    return Reply(_close(call, holding, qty))


def delete_positions(call: Call) -> Reply:
    if call.flag("cancel_orders"):
        _cancel_open(call)
    items: list[dict[str, Any]] = []
    for holding in call.venue.store.holdings():
        try:
            body = _close(call, holding, holding.qty)
        except Refusal as refusal:
            items.append({"symbol": holding.symbol, "status": refusal.status, "body": refusal.body})
        else:
            items.append({"symbol": holding.symbol, "status": 200, "body": body})
    return Reply(items, 207)


# --- activities --------------------------------------------------------------------------------------

_KINDS = frozenset({
    "FILL", "TRANS", "MISC", "ACATC", "ACATS", "CFEE", "CGD", "CSD", "CSW", "DIV", "DIVCGL", "DIVCGS", "DIVFEE",
    "DIVFT", "DIVNRA", "DIVROC", "DIVTW", "DIVTXEX", "FEE", "INT", "INTNRA", "INTTW", "JNL", "JNLC", "JNLS",
    "MA", "NC", "OPASN", "OPCA", "OPCSH", "OPEXC", "OPEXP", "OPTRD", "PTC", "PTR", "REORG", "SPIN", "SPLIT",
    "FOPT", "OCT",
})  # fmt: skip
_CATEGORIES = ("trade_activity", "non_trade_activity")


def activity_body(activity: Activity) -> dict[str, Any]:
    if activity.kind != "FILL":
        return {
            "id": activity.id, "activity_type": activity.kind, "date": str(activity.at.astimezone(NEW_YORK).date()),
            "net_amount": plain(activity.net_amount), "description": activity.description, "status": "executed",
            "created_at": utc_text(activity.at), "currency": "USD", "symbol": activity.symbol,
            "qty": plain(activity.qty), **({"group_id": activity.group_id} if activity.group_id else {}),
        }  # fmt: skip
    return {
        "id": activity.id, "activity_type": "FILL", "transaction_time": utc_text(activity.at),
        "type": "fill" if activity.leaves_qty == 0 else "partial_fill", "price": plain(activity.price),
        "qty": plain(activity.qty), "side": activity.side, "symbol": activity.symbol,
        "leaves_qty": plain(activity.leaves_qty), "cum_qty": plain(activity.cum_qty), "order_id": activity.order_id,
        "order_status": activity.order_status,
    }  # fmt: skip


def get_activities(call: Call) -> Reply:
    query = call.query
    kinds = [k for k in (call.path.get("kind") or query.get("activity_types", "")).split(",") if k]
    for kind in kinds:
        if kind not in _KINDS:
            raise malformed(f"invalid activity type: {kind}")
    category = query.get("category") or None
    if category is not None and (kinds or category not in _CATEGORIES):
        raise malformed(f"invalid category: {category}, or both category and activity types")
    rows = [a for a in call.venue.store.activities() if not kinds or a.kind in kinds]
    if category is not None:
        rows = [a for a in rows if (a.kind == "FILL") == (category == "trade_activity")]
    if query.get("order_id"):
        rows = [a for a in rows if a.order_id == query["order_id"]]
    if query.get("date"):
        day = _day(query["date"], date.min, "date")
        rows = [a for a in rows if a.at.astimezone(NEW_YORK).date() == day]
    if query.get("after"):
        after = _instant(query["after"])
        rows = [a for a in rows if a.at > after]
    if query.get("until"):
        until = _instant(query["until"])
        rows = [a for a in rows if a.at < until]
    if query.get("direction", "desc") != "asc":
        rows.reverse()
    if query.get("page_token"):
        ids = [a.id for a in rows]
        if query["page_token"] not in ids:
            raise malformed("invalid page_token")
        rows = rows[ids.index(query["page_token"]) + 1 :]
    return Reply([activity_body(a) for a in rows[: _limit(call, "page_size", 100, 100)]])
