"""A small Polygon and Alpaca data server: counts what it is asked, and misbehaves on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from zoneinfo import ZoneInfo

NEW_YORK, CHICAGO = ZoneInfo("America/New_York"), ZoneInfo("America/Chicago")
Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]


def millis(day: date, hour: int = 0, zone: ZoneInfo = NEW_YORK) -> int:
    return int(datetime.combine(day, time(hour), zone).timestamp() * 1000)


def price(symbol: str, day: date) -> float:
    return 50.0 + sum(map(ord, symbol)) % 40 + (day.toordinal() * 7 % 13) / 10


class FakeVendors:
    """`sessions` and `symbols` are what it knows; `script` holds replies given before the real ones are."""

    def __init__(self, sessions: list[date], symbols: list[str]) -> None:
        self.sessions, self.symbols = sessions, symbols
        self.script: list[Reply | Callable[[BaseHTTPRequestHandler], None]] = []
        self.always: Callable[[str, dict[str, str]], Reply | None] = lambda path, query: None
        self.seen: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.splits: list[dict[str, Any]] = []
        self.dividends: list[dict[str, Any]] = []
        self.vix: float | None = 17.5
        self.page = 10_000
        self.price = price
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner._get(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.seen.append(handler.path)
        self.headers.append({name.lower(): value for name, value in handler.headers.items()})
        path = unquote(parts.path)
        if self.script:
            reply: Any = self.script.pop(0)
            if callable(reply):
                reply(handler)
                return
        else:
            reply = self.always(path, query) or self._answer(path, query)
        status, body, *more = reply
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in (more[0] if more else {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _answer(self, path: str, query: dict[str, str]) -> Reply:
        if path.startswith("/v2/aggs/grouped/"):
            return self._grouped(date.fromisoformat(path.rsplit("/", 1)[1]))
        if path.startswith("/v2/aggs/ticker/"):
            names = path.split("/")
            return self._range(names[4], date.fromisoformat(names[8]), date.fromisoformat(names[9]), query)
        if path == "/v3/reference/splits":
            return self._paged(path, self.splits, query)
        if path == "/v3/reference/dividends":
            return self._paged(path, self.dividends, query)
        if path == "/v2/stocks/bars":
            return self._alpaca(query)
        if path == "/v1/corporate-actions":
            return 200, {"corporate_actions": {"forward_splits": self.splits}, "next_page_token": None}
        return 404, {"status": "NOT_FOUND", "message": "no such path"}

    def bar(self, symbol: str, day: date) -> dict[str, Any]:
        close = self.price(symbol, day)
        return {"o": close - 0.5, "h": close + 1, "l": close - 1, "c": close, "v": 7.0790813e07}

    def _grouped(self, day: date) -> Reply:
        known = self.symbols if day in self.sessions else []
        rows = [{"T": symbol, **self.bar(symbol, day), "t": millis(day, 16)} for symbol in known]
        body: dict[str, Any] = {"status": "DELAYED", "resultsCount": len(rows), "adjusted": False}
        return 200, {**body, "results": rows} if rows else body

    def _range(self, ticker: str, start: date, end: date, query: dict[str, str]) -> Reply:
        days = [day for day in self.sessions if start <= day <= end]
        if ticker == "I:VIX":
            known = self.vix is not None
            rows = [{"o": 1, "h": 1, "l": 1, "c": self.vix, "t": millis(d, 0, CHICAGO)} for d in days if known]
        else:
            rows = [{**self.bar(ticker, day), "t": millis(day)} for day in days if ticker in self.symbols]
        done = int(query.get("cursor", 0))
        part = rows[done : done + self.page]
        body: dict[str, Any] = {"status": "OK", "ticker": ticker, "resultsCount": len(part), "adjusted": False}
        if part:
            body["results"] = part
        if done + self.page < len(rows):
            path = f"/v2/aggs/ticker/{ticker}/range/1/day/{start}/{end}"
            body["next_url"] = f"https://evil.example{path}?cursor={done + self.page}"
        return 200, body

    def _paged(self, path: str, rows: list[dict[str, Any]], query: dict[str, str]) -> Reply:
        return 200, {"status": "OK", "results": rows}

    def _alpaca(self, query: dict[str, str]) -> Reply:
        names, start, end = query["symbols"].split(","), query["start"][:10], query["end"][:10]
        bars: dict[str, list[Any]] = {}
        for symbol in names:
            rows = [
                {**self.bar(symbol, day), "t": datetime.combine(day, time(0), NEW_YORK).astimezone(UTC).isoformat()}
                for day in self.sessions
                if start <= str(day) <= end and symbol in self.symbols
            ]
            if rows:
                bars[symbol] = rows
        return 200, {"bars": bars, "next_page_token": None}
