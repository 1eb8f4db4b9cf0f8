"""Alpaca market data v2 over the venue's market: daily bars, latest quotes, trades and bars, snapshots.

Only completed sessions have a daily bar; symbols that never traded are missing from the answer.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any

import numpy as np

from core.market.base import Bar, Series, day_date, day_number
from core.market_calendar import NEW_YORK
from execution.venue import alpaca_routes
from execution.venue.app import Call, Refusal, Reply, Routes, utc_text

_MOST = 10_000


def check(headers: Mapping[str, str], query: Mapping[str, str]) -> None:
    alpaca_routes.check(headers, query)


def register(routes: Routes) -> None:
    routes.add("GET", "/v2/stocks/bars", get_bars)
    routes.add("GET", "/v2/stocks/bars/latest", get_latest_bars)
    routes.add("GET", "/v2/stocks/quotes/latest", get_latest_quotes)
    routes.add("GET", "/v2/stocks/trades/latest", get_latest_trades)
    routes.add("GET", "/v2/stocks/snapshots", get_snapshots)


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
