"""Alpaca market data v2 over the venue's market: daily bars, latest quotes, trades and bars, snapshots, and the v1
corporate actions.

Only completed sessions have a daily bar; symbols that never traded are missing from the answer.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import uuid5

import numpy as np

from core.domain import ActionKind, CorporateAction
from core.market.base import Bar, DividendEvent, Series, SplitEvent, day_date, day_number
from core.market_calendar import NEW_YORK
from execution.venue import alpaca_routes
from execution.venue.account import ACCOUNT_ID
from execution.venue.app import Call, Refusal, Reply, Routes, utc_text
from execution.venue.corporate import as_ratio

_MOST = 10_000
_MOST_ACTIONS = 1_000
_ANNOUNCED = timedelta(days=10)  # how long before its ex-date an action is known
_PAID_AFTER = timedelta(days=14)  # a dividend is processed when it is paid, not on its ex-date
_SPECIAL = 0.05  # of the last close


def check(headers: Mapping[str, str], query: Mapping[str, str]) -> None:
    alpaca_routes.check(headers, query)


def register(routes: Routes) -> None:
    routes.add("GET", "/v2/stocks/bars", get_bars)
    routes.add("GET", "/v2/stocks/bars/latest", get_latest_bars)
    routes.add("GET", "/v2/stocks/quotes/latest", get_latest_quotes)
    routes.add("GET", "/v2/stocks/trades/latest", get_latest_trades)
    routes.add("GET", "/v2/stocks/snapshots", get_snapshots)
    routes.add("GET", "/v1/corporate-actions", get_corporate_actions)


@lru_cache(maxsize=20_000)
def midnight(number: int) -> datetime:
    """Midnight New York of a day number, as UTC: what a daily bar is stamped with."""
    return datetime.combine(day_date(number), time(), NEW_YORK).astimezone(UTC)


@lru_cache(maxsize=20_000)
def _stamp(number: int) -> str:
    return f"{midnight(number):%Y-%m-%dT%H:%M:%SZ}"


def split_adjusted(call: Call, symbol: str, series: Series) -> Series:
    """Prices and volumes in shares of today: only splits whose ex-date has come."""
    factor = np.ones(series.days.size)
    for event in call.venue.market.splits(call.now.astimezone(NEW_YORK).date()):
        if event.symbol == symbol:
            factor[series.days < day_number(event.ex_date)] /= event.ratio
    if not factor.size or bool((factor == 1.0).all()):
        return series
    opens, highs, lows, closes = (np.round(column * factor, 4) for column in series[1:5])
    return Series(series.days, opens, highs, lows, closes, np.round(series.volume / factor, 4))


def completed(call: Call, symbol: str) -> Series | None:
    """All bars of sessions that have closed."""
    last = call.engine.last_completed(call.now)
    return None if last is None else call.venue.market.series(symbol, last)


def _symbols(call: Call) -> list[str]:
    names = [name for name in call.query.get("symbols", "").split(",") if name]
    if not names:
        raise Refusal(400, {"message": "symbols parameter is required"})
    return names


def _bound(text: str | None, default: date, *, first: bool) -> date:
    """The first or last session whose New York midnight lies within the bound."""
    if not text:
        return default
    try:
        if len(text) == 10:
            return date.fromisoformat(text)
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Refusal(400, {"message": f"Invalid format for parameter {'start' if first else 'end'}"}) from None
    local = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).astimezone(NEW_YORK)
    inside = local.time() == time() or not first
    return local.date() if inside else local.date() + timedelta(days=1)


def bar_body(number: int, bar: Bar) -> dict[str, Any]:
    o, h, low, c, v = bar
    trades, vw = max(1, int(v // 100)), round((h + low + c) / 3, 4)
    return {"t": _stamp(number), "o": o, "h": h, "l": low, "c": c, "v": int(v), "n": trades, "vw": vw}


def get_bars(call: Call) -> Reply:
    query = call.query
    if query.get("timeframe") not in ("1Day", "1D"):
        raise Refusal(400, {"message": f"invalid timeframe: {query.get('timeframe')}: the venue has daily bars only"})
    adjustment = query.get("adjustment", "raw")
    if adjustment not in ("raw", "split"):
        raise Refusal(400, {"message": f"invalid adjustment: {adjustment}: the venue offers raw and split"})
    today = call.now.astimezone(NEW_YORK).date()
    start = _bound(query.get("start"), today, first=True)
    end = _bound(query.get("end"), today, first=False)
    backwards = query.get("sort", "asc") == "desc"
    size = query.get("limit", "1000")
    if not size.isdigit() or not 1 <= int(size) <= _MOST:
        raise Refusal(400, {"message": f"invalid limit: {size}"})
    skip_symbol, skip = _read_token(query.get("page_token"))
    room, bars, token = int(size), dict[str, list[dict[str, Any]]](), None
    for symbol in sorted(set(_symbols(call))):
        if symbol < skip_symbol:
            continue
        whole = completed(call, symbol)
        if whole is None:
            continue
        series = (whole if adjustment == "raw" else split_adjusted(call, symbol, whole)).between(start, end)
        rows = list(zip(*(column.tolist() for column in series), strict=True))
        rows = rows[::-1] if backwards else rows
        done = skip if symbol == skip_symbol else 0
        taken = rows[done : done + room]
        if taken:
            bars[symbol] = [bar_body(row[0], Bar(*row[1:])) for row in taken]
        room -= len(taken)
        if done + len(taken) < len(rows):
            token = base64.urlsafe_b64encode(f"{symbol}|{done + len(taken)}".encode()).decode()
            break
    return Reply({"bars": bars, "next_page_token": token})


def _read_token(text: str | None) -> tuple[str, int]:
    """Symbol and number of its bars already sent."""
    if not text:
        return "", 0
    try:
        symbol, _, count = base64.urlsafe_b64decode(text).decode().partition("|")
        return symbol, int(count)
    except ValueError:
        raise Refusal(400, {"message": "invalid page_token"}) from None


def _latest_bar(call: Call, symbol: str, back: int = 1) -> dict[str, Any] | None:
    series = completed(call, symbol)
    if series is None or series.days.size < back:
        return None
    day, bar = series.at(-back)
    return bar_body(day_number(day), bar)


def get_latest_bars(call: Call) -> Reply:
    found = {symbol: _latest_bar(call, symbol) for symbol in _symbols(call)}
    return Reply({"bars": {symbol: bar for symbol, bar in found.items() if bar is not None}})


def _quote(call: Call, symbol: str) -> dict[str, Any] | None:
    top = call.engine.top(symbol, call.now)
    if top is None:
        return None
    return {
        "t": utc_text(top.at), "ax": "V", "ap": float(top.ask), "as": 500, "bx": "V", "bp": float(top.bid), "bs": 500,
        "c": ["R"], "z": "C",
    }  # fmt: skip


def _trade(call: Call, symbol: str) -> dict[str, Any] | None:
    top = call.engine.top(symbol, call.now)
    if top is None:
        return None
    return {"t": utc_text(top.at), "x": "V", "p": float(top.last), "s": 100, "c": ["@"], "i": 1, "z": "C"}


def get_latest_quotes(call: Call) -> Reply:
    found = {symbol: _quote(call, symbol) for symbol in _symbols(call)}
    return Reply({"quotes": {symbol: row for symbol, row in found.items() if row is not None}})


def get_latest_trades(call: Call) -> Reply:
    found = {symbol: _trade(call, symbol) for symbol in _symbols(call)}
    return Reply({"trades": {symbol: row for symbol, row in found.items() if row is not None}})


def get_snapshots(call: Call) -> Reply:
    answer: dict[str, Any] = {}
    for symbol in _symbols(call):
        trade = _trade(call, symbol)
        answer[symbol] = None if trade is None else {
            "latestTrade": trade, "latestQuote": _quote(call, symbol), "minuteBar": None,
            "dailyBar": _latest_bar(call, symbol), "prevDailyBar": _latest_bar(call, symbol, 2),
        }  # fmt: skip
    return Reply(answer)


# --- corporate actions -------------------------------------------------------------------------------


class _Action(NamedTuple):
    """One row of the answer: its list, its process date, its symbols, and the row itself."""

    kind: str
    process_date: date
    symbols: frozenset[str]
    row: dict[str, Any]


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else float(value)


def _row(name: str, process: date, **more: Any) -> dict[str, Any]:
    return {"id": str(uuid5(ACCOUNT_ID, name)), "process_date": str(process), **more}


def _cusip(symbol: str) -> str:
    return uuid5(ACCOUNT_ID, f"cusip/{symbol}").hex[:9].upper()


def _split_row(event: SplitEvent) -> _Action:
    ratio = as_ratio(event.ratio)
    rates = {"new_rate": ratio.numerator, "old_rate": ratio.denominator, "ex_date": str(event.ex_date)}
    kind = "forward_split" if ratio > 1 else "reverse_split"
    cusips = {"cusip": _cusip(event.symbol)} if ratio > 1 else {
        "old_cusip": _cusip(event.symbol), "new_cusip": _cusip(f"{event.symbol}/{event.ex_date}")
    }  # fmt: skip
    row = _row(f"split/{event.symbol}/{event.ex_date}", event.ex_date, symbol=event.symbol, **cusips, **rates)
    return _Action(kind, event.ex_date, frozenset({event.symbol}), row)


def _dividend_row(call: Call, event: DividendEvent) -> _Action:
    paid = event.ex_date + _PAID_AFTER
    found = call.venue.market.last_bar(event.symbol, event.ex_date - timedelta(days=1))
    row = _row(
        f"dividend/{event.symbol}/{event.ex_date}", paid, symbol=event.symbol, cusip=_cusip(event.symbol),
        rate=_number(event.amount), special=found is not None and event.amount > _SPECIAL * found[1].close,
        foreign=False, ex_date=str(event.ex_date), payable_date=str(paid),
    )  # fmt: skip
    return _Action("cash_dividend", paid, frozenset({event.symbol}), row)


def _event_row(event: CorporateAction) -> _Action:
    """Renames, mergers, spin-offs and delistings, in the words of Alpaca's lists."""
    day, symbol, other = str(event.ex_date), str(event.symbol), str(event.other or "")
    cash = _number(float(event.cash_per_share or 0))
    new, old = (event.ratio.numerator, event.ratio.denominator) if event.ratio is not None else (1, 1)
    more: dict[str, Any]
    if event.kind is ActionKind.RENAME:
        kind = "name_change"
        more = {"old_symbol": symbol, "old_cusip": _cusip(symbol), "new_symbol": other, "new_cusip": _cusip(other)}
    elif event.kind is ActionKind.SPINOFF:
        kind = "spin_off"
        more = {
            "source_symbol": symbol, "source_cusip": _cusip(symbol), "source_rate": old, "new_symbol": other,
            "new_cusip": _cusip(other), "new_rate": new, "ex_date": day,
        }  # fmt: skip
    elif event.kind is ActionKind.DELISTING:
        kind = "redemption" if cash else "worthless_removal"
        more = {"symbol": symbol, "cusip": _cusip(symbol)} | ({"rate": cash} if cash else {})
    elif event.other is None:
        kind = "cash_merger"
        more = {"acquiree_symbol": symbol, "acquiree_cusip": _cusip(symbol), "rate": cash, "effective_date": day}
    else:
        kind = "stock_and_cash_merger" if cash else "stock_merger"
        more = {
            "acquirer_symbol": other, "acquirer_cusip": _cusip(other), "acquirer_rate": new, "acquiree_symbol": symbol,
            "acquiree_cusip": _cusip(symbol), "acquiree_rate": old, "effective_date": day,
        } | ({"cash_rate": cash} if cash else {})  # fmt: skip
    row = _row(f"{event.kind}/{symbol}/{day}", event.ex_date, **more)
    return _Action(kind, event.ex_date, frozenset({symbol, other} - {""}), row)


def _actions(call: Call, start: date, symbols: set[str], kinds: set[str]) -> list[_Action]:
    """What is announced by now and may be processed from `start` on, by process date; no symbols, no kinds: all."""
    market, known, earliest = call.venue.market, call.today + _ANNOUNCED, start - _PAID_AFTER

    def asked(event: SplitEvent | DividendEvent) -> bool:
        return event.ex_date >= earliest and (not symbols or event.symbol in symbols)

    found = [_event_row(event) for event in market.events(known)]
    if not kinds or kinds & {"forward_split", "reverse_split"}:
        found += [_split_row(event) for event in market.splits(known) if asked(event)]
    if not kinds or "cash_dividend" in kinds:  # a busy market has thousands: each row looks a price up
        found += [_dividend_row(call, event) for event in market.dividends(known) if asked(event)]
    return sorted(found, key=lambda action: (action.process_date, action.row["id"]))


def get_corporate_actions(call: Call) -> Reply:
    query = call.query
    start = _bound(query.get("start"), call.today, first=True)
    end = _bound(query.get("end"), call.today, first=False)
    size = query.get("limit", "100")
    if not size.isdigit() or not 1 <= int(size) <= _MOST_ACTIONS:
        raise Refusal(400, {"message": f"invalid limit: {size}"})
    kinds = {name for name in query.get("types", "").split(",") if name}
    symbols = {name for name in query.get("symbols", "").split(",") if name}
    rows = [
        a for a in _actions(call, start, symbols, kinds)
        if start <= a.process_date <= end and (not kinds or a.kind in kinds) and (not symbols or symbols & a.symbols)
    ]  # fmt: skip
    if query.get("sort", "asc") == "desc":
        rows.reverse()
    _, first = _read_token(query.get("page_token"))
    answer: dict[str, list[dict[str, Any]]] = {}
    for action in rows[first : first + int(size)]:
        answer.setdefault(f"{action.kind}s", []).append(action.row)
    more = first + int(size) < len(rows)
    token = base64.urlsafe_b64encode(f"|{first + int(size)}".encode()).decode() if more else None
    return Reply({"corporate_actions": answer, "next_page_token": token})
