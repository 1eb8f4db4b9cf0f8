"""Polygon REST: daily aggregates, grouped daily, previous close, tickers, splits, dividends, market status, I:VIX.

Only completed sessions are served. `next_url` names a foreign host on purpose, as the real one may: a client
must keep its own base.
"""

from __future__ import annotations

import base64
import hashlib
import json
import operator
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from core.market.base import Series, SplitEvent, day_number
from core.market_calendar import NEW_YORK
from execution.venue.alpaca_data import completed, midnight, split_adjusted
from execution.venue.app import Call, Refusal, Reply, Routes

_REQUEST_ID = "simulated0000000000000000000000000"
_FOREIGN = "https://api.polygon.io"
_CHICAGO = ZoneInfo("America/Chicago")  # index bars are stamped with midnight Central
_VIX = "I:VIX"


def check(headers: Mapping[str, str], query: Mapping[str, str]) -> None:
    bearer = headers.get("authorization", "").removeprefix("Bearer ").strip()
    if not bearer and not query.get("apiKey"):
        raise Refusal(401, {"status": "ERROR", "request_id": _REQUEST_ID, "error": "API Key was not provided"})


def register(routes: Routes) -> None:
    routes.add("GET", "/v2/aggs/ticker/{ticker}/range/{multiplier}/{timespan}/{start}/{end}", get_range)
    routes.add("GET", "/v2/aggs/ticker/{ticker}/prev", get_previous)
    routes.add("GET", "/v2/aggs/grouped/locale/us/market/stocks/{day}", get_grouped)
    routes.add("GET", "/v3/reference/tickers", get_tickers)
    routes.add("GET", "/v3/reference/options/contracts", get_contracts)
    routes.add("GET", "/v3/reference/splits", get_splits)
    routes.add("GET", "/v3/reference/dividends", get_dividends)
    routes.add("GET", "/v1/marketstatus/now", get_status)


def bad(message: str) -> Refusal:
    return Refusal(400, {"status": "ERROR", "request_id": _REQUEST_ID, "error": message})


def _envelope(results: list[Any], **more: Any) -> dict[str, Any]:
    """`results` is absent, not empty, when there is nothing."""
    body = {"status": "OK", "request_id": _REQUEST_ID, **more}
    if results:
        body["results"] = results
    return body


def _millis(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _date(text: str) -> date:
    try:
        if text.isdigit():
            return datetime.fromtimestamp(int(text) / 1000, UTC).astimezone(NEW_YORK).date()
        return date.fromisoformat(text)
    except (ValueError, OverflowError):
        raise bad(f"could not parse the time parameter: '{text}'") from None


def _adjusted(call: Call) -> bool:
    return call.query.get("adjusted", "true").lower() != "false"


def _row(number: int, o: float, h: float, low: float, c: float, v: float) -> dict[str, Any]:
    vw, trades = round((h + low + c) / 3, 4), max(1, int(v // 100))
    return {"v": v, "vw": vw, "o": o, "c": c, "h": h, "l": low, "t": _midnight_millis(number), "n": trades}


@lru_cache(maxsize=20_000)
def _midnight_millis(number: int) -> int:
    return _millis(midnight(number))


@lru_cache(maxsize=20_000)
def _index_millis(session: date) -> int:
    return _millis(datetime.combine(session, time(), _CHICAGO))


def _stock_rows(call: Call, ticker: str, start: date, end: date) -> list[dict[str, Any]]:
    series: Series | None = completed(call, ticker)
    if series is None:
        return []
    if _adjusted(call):
        series = split_adjusted(call, ticker, series)
    columns = series.between(start, end)
    return [_row(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]


def _vix_rows(call: Call, start: date, end: date) -> list[dict[str, Any]]:
    """Index bars have no volume. Open is the close before, high and low the range of the two: only closes are known."""
    last = call.engine.last_completed(call.now)
    first = max(start, call.venue.calendar.first)
    rows, before = [], None
    for session in call.venue.calendar.sessions_between(first, min(end, last)) if last else []:
        level = call.venue.market.vix(session)
        if level is None:
            continue
        opened = before if before is not None else level
        stamp = _index_millis(session)
        rows.append({"o": opened, "h": max(opened, level), "l": min(opened, level), "c": level, "t": stamp})
        before = level
    return rows


def get_range(call: Call) -> Reply:
    path = call.path
    ticker = path["ticker"]
    if (path["multiplier"], path["timespan"]) != ("1", "day"):
        text = "Your plan doesn't include this data timeframe. The venue has daily bars only."
        raise Refusal(403, {"status": "NOT_AUTHORIZED", "request_id": _REQUEST_ID, "message": text})
    cursor = _read_cursor(call)
    start, end = _date(path["start"]), _date(path["end"])
    if end < start:
        raise bad("the time range is invalid: 'to' is before 'from'")
    rows = _vix_rows(call, start, end) if ticker == _VIX else _stock_rows(call, ticker, start, end)
    if call.query.get("sort", cursor.get("sort", "asc")) == "desc":
        rows.reverse()
    limit = _limit(call, int(cursor.get("limit", 5000)), 50_000)
    done = int(cursor.get("done", 0))
    page = rows[done : done + limit]
    body = _envelope(
        page, ticker=ticker, queryCount=len(page), resultsCount=len(page), adjusted=_adjusted(call), count=len(page)
    )
    if done + limit < len(rows):
        more = {"done": done + limit, "limit": limit, "sort": call.query.get("sort", cursor.get("sort", "asc"))}
        adjusted = str(_adjusted(call)).lower()
        url = f"/v2/aggs/ticker/{ticker}/range/1/day/{path['start']}/{path['end']}"
        body["next_url"] = f"{_FOREIGN}{url}?adjusted={adjusted}&cursor={_cursor(more)}"
    return Reply(body)


def get_previous(call: Call) -> Reply:
    ticker = call.path["ticker"]
    last = call.engine.last_completed(call.now)
    rows = []
    if last is not None and ticker == _VIX:
        rows = _vix_rows(call, last, last)
    elif last is not None:
        series = completed(call, ticker)
        if series is not None and series.days.size:
            rows = [_row(*(column[-1].item() for column in series))]
            day = call.venue.market.last_bar(ticker, last)
            if day is not None and call.venue.calendar.is_session(day[0]):
                rows[0]["t"] = _millis(call.venue.calendar.closes_at(day[0]))
    for row in rows:
        row["T"] = ticker
    counts = {"ticker": ticker, "queryCount": len(rows), "resultsCount": len(rows), "count": len(rows)}
    return Reply(_envelope(rows, adjusted=_adjusted(call), **counts))


def get_grouped(call: Call) -> Reply:
    day = _date(call.path["day"])
    calendar = call.venue.calendar
    rows: list[dict[str, Any]] = []
    if calendar.is_session(day) and calendar.closes_at(day) <= call.now:
        stamp = _millis(calendar.closes_at(day))
        factor = _later_splits(call, day) if _adjusted(call) else {}
        for symbol, o, h, low, c, v in call.venue.market.rows(day):
            f = factor.get(symbol)
            if f is not None:
                o, h, low, c, v = round(o / f, 4), round(h / f, 4), round(low / f, 4), round(c / f, 4), v * f
            vw, trades = round((h + low + c) / 3, 4), max(1, int(v // 100))
            rows.append({"T": symbol, "v": v, "vw": vw, "o": o, "c": c, "h": h, "l": low, "t": stamp, "n": trades})
    counts = {"queryCount": len(rows), "resultsCount": len(rows), "count": len(rows)}
    return Reply(_envelope(rows, adjusted=_adjusted(call), **counts))


def _later_splits(call: Call, day: date) -> dict[str, float]:
    factors: dict[str, float] = {}
    for event in call.venue.market.splits(call.now.astimezone(NEW_YORK).date()):
        if event.ex_date > day:
            factors[event.symbol] = factors.get(event.symbol, 1.0) * event.ratio
    return factors


# --- reference ---------------------------------------------------------------------------------------


def _cursor(values: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()


def _read_cursor(call: Call) -> dict[str, Any]:
    text = call.query.get("cursor", "")
    if not text:
        return {}
    try:
        values = json.loads(base64.urlsafe_b64decode(text))
    except ValueError:
        raise bad("invalid cursor") from None
    if not isinstance(values, dict):
        raise bad("invalid cursor")
    return values


def _limit(call: Call, default: int, most: int) -> int:
    text = call.query.get("limit", "")
    if not text:
        return default
    if not text.isdigit() or int(text) < 1:
        raise bad(f"invalid limit: {text}")
    return min(int(text), most)


_COMPARE: dict[str, Callable[[str, str], bool]] = {
    "": operator.eq, ".gte": operator.ge, ".gt": operator.gt, ".lte": operator.le, ".lt": operator.lt,
}  # fmt: skip


def _filters(call: Call) -> dict[str, str]:
    return {**_read_cursor(call).get("filters", {}), **call.query}


def _within(filters: Mapping[str, str], name: str) -> Callable[[str], bool]:
    """The .gte .gt .lte .lt filters of a date or ticker, compared as text."""
    bounds = [(test, filters[name + suffix]) for suffix, test in _COMPARE.items() if filters.get(name + suffix)]
    return lambda value: all(test(value, bound) for test, bound in bounds)


def _page(call: Call, path: str, rows: list[dict[str, Any]], default: int) -> Reply:
    cursor = _read_cursor(call)
    limit = _limit(call, int(cursor.get("limit", default)), 1000)
    done = int(cursor.get("done", 0))
    page = rows[done : done + limit]
    body: dict[str, Any] = {"status": "OK", "request_id": _REQUEST_ID, "results": page}
    if path.endswith("tickers"):
        body["count"] = len(page)
    if done + limit < len(rows):
        filters = {k: v for k, v in _filters(call).items() if k not in ("limit", "cursor", "apiKey")}
        more = _cursor({"done": done + limit, "limit": limit, "filters": filters})
        body["next_url"] = f"{_FOREIGN}{path}?cursor={more}"
    return Reply(body)


def get_tickers(call: Call) -> Reply:
    filters = _filters(call)
    wanted, active = _within(filters, "ticker"), filters.get("active", "true") != "false"
    day = _date(filters["date"]) if filters.get("date") else call.now.astimezone(NEW_YORK).date()
    last = call.engine.last_completed(call.now)
    day = min(day, last) if last is not None else day
    rows = []
    only_stocks = filters.get("type", "CS") == "CS" and filters.get("market", "stocks") == "stocks"
    for symbol in call.venue.market.symbols() if only_stocks else ():
        found = call.venue.market.last_bar(symbol, day) if wanted(symbol) else None
        if found is None:
            continue
        alive = (day - found[0]).days <= 20
        if alive is active:
            row = {
                "ticker": symbol, "name": f"{symbol} (simulated)", "market": "stocks", "locale": "us",
                "primary_exchange": "XNAS", "type": "CS", "active": alive, "currency_name": "usd",
                "last_updated_utc": f"{found[0]}T00:00:00Z",
            }  # fmt: skip
            rows.append(row if alive else {**row, "delisted_utc": f"{found[0]}T00:00:00Z"})
    return _page(call, "/v3/reference/tickers", rows, 100)


def get_contracts(call: Call) -> Reply:
    """One call option on every name that trades, but for one name in sixteen: enough to say who has options."""
    filters = _filters(call)
    symbol = filters.get("underlying_ticker", "")
    last = call.engine.last_completed(call.now)
    found = call.venue.market.last_bar(symbol, last) if symbol and last is not None else None
    rows: list[dict[str, Any]] = []
    if last is not None and found is not None and (last - found[0]).days <= 20 and _optionable(symbol):
        expires = last + timedelta(days=30 + (4 - last.weekday()) % 7)
        strike = max(1, round(found[1][3]))
        rows.append({
            "cfi": "OCASPS", "contract_type": "call", "exercise_style": "american", "expiration_date": str(expires),
            "primary_exchange": "BATO", "shares_per_contract": 100, "strike_price": strike,
            "ticker": f"O:{symbol.replace('.', '')}{expires:%y%m%d}C{strike * 1000:08d}", "underlying_ticker": symbol,
        })  # fmt: skip
    return _page(call, "/v3/reference/options/contracts", rows, 10)


def _optionable(symbol: str) -> bool:
    return hashlib.sha256(symbol.encode()).digest()[0] % 16 != 0


def get_splits(call: Call) -> Reply:
    filters = _filters(call)
    ticker, day = _within(filters, "ticker"), _within(filters, "execution_date")
    rows = []
    for event in call.venue.market.splits(call.now.astimezone(NEW_YORK).date()):
        if ticker(event.symbol) and day(str(event.ex_date)):
            old, new = _from_to(event)
            rows.append(
                {
                    "id": f"S{event.symbol}{day_number(event.ex_date)}", "ticker": event.symbol,
                    "execution_date": str(event.ex_date), "split_from": old, "split_to": new,
                }
            )  # fmt: skip
    return _page(call, "/v3/reference/splits", _ordered(filters, rows, "execution_date"), 10)


def _from_to(event: SplitEvent) -> tuple[float, float]:
    """1-for-8 rather than 0.125-for-1."""
    if event.ratio >= 1:
        return 1, event.ratio
    inverse = 1 / event.ratio
    return (round(inverse), 1) if abs(inverse - round(inverse)) < 1e-9 else (1, event.ratio)


def _ordered(filters: Mapping[str, str], rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return rows if filters.get("order") == "asc" else sorted(rows, key=lambda row: str(row[name]), reverse=True)


def get_dividends(call: Call) -> Reply:
    filters = _filters(call)
    ticker, day = _within(filters, "ticker"), _within(filters, "ex_dividend_date")
    rows = []
    for event in call.venue.market.dividends(call.now.astimezone(NEW_YORK).date()):
        ex_date = str(event.ex_date)
        if ticker(event.symbol) and day(ex_date):
            rows.append(
                {
                    "id": f"D{event.symbol}{day_number(event.ex_date)}", "ticker": event.symbol,
                    "cash_amount": event.amount, "currency": "USD", "dividend_type": "CD", "frequency": 4,
                    "declaration_date": ex_date, "ex_dividend_date": ex_date, "record_date": ex_date,
                    "pay_date": ex_date,
                }
            )  # fmt: skip
    return _page(call, "/v3/reference/dividends", _ordered(filters, rows, "ex_dividend_date"), 10)


def get_status(call: Call) -> Reply:
    market = "open" if call.engine.session_now(call.now) is not None else "closed"
    return Reply(
        {
            "market": market, "earlyHours": False, "afterHours": False,
            "serverTime": call.now.astimezone(NEW_YORK).isoformat(timespec="seconds"),
            "exchanges": {"nyse": market, "nasdaq": market, "otc": market},
            "currencies": {"fx": "closed", "crypto": "closed"}, "indicesGroups": {"cgi": market},
        }
    )  # fmt: skip
