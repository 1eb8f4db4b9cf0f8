"""Alpaca market data v2 as a source of raw daily bars, through alpaca-py with our own transport and paging.

The feed is IEX unless told otherwise: prices and volumes of one exchange, so the close may differ by cents from the
consolidated one, and volume is a few percent of it. That is why this is a fallback with a folder of its own.
Alpaca has no VIX. Errors of the library carry both keys in `exc.request`: only status and body are ever used.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any
from urllib.parse import urlsplit

from core.bars_io import BarColumns, Dividend, Split
from core.clock import Clock
from core.domain import Symbol
from core.env import is_this_machine
from core.market_calendar import NEW_YORK
from data.providers.base import (
    BodyTooSlow,
    DatedRow,
    FailureKind,
    HttpFailure,
    ProviderBase,
    ProviderFailure,
    Retrier,
    Row,
    SessionCalendar,
    columns,
    dotted,
    merged_dividends,
    number,
    public,
    read_body,
    session_of,
    vendor_map,
)

SYMBOLS_PER_REQUEST = 225  # 900 symbols in four requests; the URL stays below 2 kB
MAX_PAGES = 200
_BAR_LIMIT = 10_000
_ACTION_LIMIT = 1_000
_PRICE_ACTIONS = ("forward_split", "reverse_split", "cash_dividend")


class AlpacaProvider(ProviderBase):
    shared_requests = True

    def __init__(
        self,
        key_id: str,
        secret: str,
        base_url: str,
        clock: Clock,
        *,
        feed: str = "iex",
        rpm: int | None = 200,
        timeout_s: float = 20.0,
        deadline_s: float = 120.0,
        name: str = "alpaca",
        simulated: bool = False,
        calendar: SessionCalendar | None = None,
    ) -> None:
        """base_url : scheme and host without /v2. feed : "iex" or "sip". Raises ValueError for empty keys or URL."""
        super().__init__(name, clock, simulated=simulated, calendar=calendar)
        if not (key_id and secret and base_url):
            raise ValueError(f"{name} needs two keys and a base URL")
        self._keys = (key_id, secret)
        self._base_url = base_url.rstrip("/")
        self._feed = feed
        self.one_exchange = feed == "iex"
        self._timeout_s = timeout_s
        self._retrier = Retrier(name, clock, rpm, deadline_s, self._keys)
        self._made: Any = None
        self._actions: tuple[tuple[date, date], dict[str, list[Any]]] | None = None

    # ------------------------------------------------------------ questions
    def daily_bars(self, symbol: Symbol, start: date, end: date) -> BarColumns:
        for _, answer in self.bars_many([symbol], start, end):
            if isinstance(answer, ProviderFailure):
                raise answer
            return answer
        raise AssertionError("one symbol, one answer")

    def bars_many(
        self, symbols: Sequence[Symbol], start: date, end: date, *, workers: int = 1
    ) -> Iterator[tuple[Symbol, BarColumns | ProviderFailure]]:
        """`workers` is not used: one request holds hundreds of symbols."""
        for at in range(0, len(symbols), SYMBOLS_PER_REQUEST):
            batch = symbols[at : at + SYMBOLS_PER_REQUEST]
            found = self._bars(batch, start, min(end, self._last_completed()))
            for symbol in batch:
                yield symbol, self._series(symbol, found.get(symbol, []), f"{start}..{end}")

    def grouped_daily(self, session: date, symbols: Collection[Symbol]) -> Mapping[Symbol, Row]:
        if session > self._last_completed():
            raise self._failure(FailureKind.UNAVAILABLE, f"{session} is not over")
        ordered = sorted(symbols)
        rows: dict[Symbol, Row] = {}
        for at in range(0, len(ordered), SYMBOLS_PER_REQUEST):
            for symbol, found in self._bars(ordered[at : at + SYMBOLS_PER_REQUEST], session, session).items():
                if len(found) > 1:
                    raise self._malformed(f"{symbol} occurs twice in {session}")
                rows.update((symbol, row[1:]) for row in found)
        if not rows:
            raise self._malformed(f"no bars at all for session {session}")
        return rows

    def requests_for_two_sessions(self, symbols: int) -> int | None:
        return -(-symbols // SYMBOLS_PER_REQUEST)

    def splits(self, since: date, until: date, symbols: Collection[Symbol]) -> list[Split]:
        wanted = vendor_map(symbols, dotted)
        found: set[Split] = set()
        actions = self._corporate_actions(since, until)
        for item in (*actions.get("forward_splits", ()), *actions.get("reverse_splits", ())):
            symbol = wanted.get(item.get("symbol", ""))
            if symbol is None:
                continue
            try:
                ratio = number(item["new_rate"]) / number(item["old_rate"])
                found.add(Split(symbol, date.fromisoformat(item["ex_date"]), ratio))
            except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
                raise self._malformed(f"a split of {symbol} without usable {error}") from None
        return sorted(found, key=lambda split: (split.symbol, split.ex_date))

    def dividends(self, since: date, until: date, symbols: Collection[Symbol]) -> list[Dividend]:
        wanted = vendor_map(symbols, dotted)
        found: dict[str, Dividend] = {}
        for place, item in enumerate(self._corporate_actions(since, until).get("cash_dividends", ())):
            symbol = wanted.get(item.get("symbol", ""))
            if symbol is None:
                continue
            try:
                dividend = Dividend(symbol, date.fromisoformat(item["ex_date"]), number(item["rate"]))
            except (KeyError, ValueError, TypeError) as error:
                raise self._malformed(f"a dividend of {symbol} without usable {error}") from None
            found[str(item.get("id", place))] = dividend
        return merged_dividends(found.values())

    # ------------------------------------------------------------ shapes
    def _series(self, symbol: Symbol, rows: list[DatedRow], asked: str) -> BarColumns | ProviderFailure:
        if not rows:
            return self._failure(FailureKind.UNKNOWN_SYMBOL, f"{symbol} has no bars in {asked}")
        try:
            return columns(rows)
        except ValueError as error:
            return self._malformed(f"{symbol}: {error}")

    def _bars(self, symbols: Sequence[Symbol], start: date, end: date) -> dict[Symbol, list[DatedRow]]:
        """Pages interleave symbols, and one symbol may lie on two pages."""
        if end < start:
            return {}
        wanted = vendor_map(symbols, dotted)
        params = {
            "symbols": ",".join(wanted), "timeframe": "1Day", "start": _instant(start, time(0)),
            "end": _instant(end, time(23, 59, 59)), "adjustment": "raw", "feed": self._feed, "sort": "asc",
            "limit": _BAR_LIMIT,
        }  # fmt: skip
        found: dict[Symbol, list[DatedRow]] = {}
        for body in self._pages("/stocks/bars", params, "v2"):
            bars = body.get("bars")
            if not isinstance(bars, dict):
                raise self._malformed("an answer without bars")
            for ticker, items in bars.items():
                symbol = wanted.get(ticker)
                if symbol is None or not isinstance(items, list):
                    raise self._malformed(f"bars of {str(ticker)[:20]!r} that were not asked for, or no list")
                rows = (self._row(item) for item in items)
                found.setdefault(symbol, []).extend(row for row in rows if start <= row[0] <= end)
        return found

    def _row(self, item: Any) -> DatedRow:
        try:
            session = session_of(datetime.fromisoformat(item["t"]))
            prices = (number(item["o"]), number(item["h"]), number(item["l"]), number(item["c"]))
            return (session, *prices, number(item["v"]))
        except (KeyError, ValueError, TypeError) as error:
            raise self._malformed(f"a bar without usable {error}") from None

    def _corporate_actions(self, since: date, until: date) -> dict[str, list[Any]]:
        """Splits and dividends come in one answer: remembered, so that asking for both is one request."""
        if self._actions is None or self._actions[0] != (since, until):
            self._actions = ((since, until), self.action_rows(since, until, types=_PRICE_ACTIONS))
        return self._actions[1]

    def action_rows(
        self, since: date, until: date, *, types: Collection[str] = (), symbols: Collection[Symbol] = ()
    ) -> dict[str, list[Any]]:
        """Alpaca's lists of corporate actions by process date, both ends included; no types, no symbols means all.

        The rows are as they came: data.corporate_actions reads them. Raises ProviderFailure.
        """
        params: dict[str, Any] = {"start": str(since), "end": str(until), "limit": _ACTION_LIMIT, "sort": "asc"}
        if types:
            params["types"] = ",".join(types)
        if symbols:
            params["symbols"] = ",".join(sorted(map(dotted, symbols)))
        found: dict[str, list[Any]] = {}
        for body in self._pages("/corporate-actions", params, "v1"):
            actions = body.get("corporate_actions")
            if not isinstance(actions, dict) or not all(isinstance(rows, list) for rows in actions.values()):
                raise self._malformed("an answer without corporate actions")
            for kind, rows in actions.items():
                found.setdefault(kind, []).extend(rows)
        return found

    # ------------------------------------------------------------ wire
    def _pages(self, path: str, params: Mapping[str, Any], version: str) -> Iterator[dict[str, Any]]:
        token: str | None = None
        seen: set[str] = set()
        while True:
            asked = dict(params) if token is None else {**params, "page_token": token}
            body = self._retrier.run(lambda deadline, asked=asked: self._once(path, asked, version, deadline))  # type: ignore[misc]
            if not isinstance(body, dict):
                raise self._malformed("an answer that is no JSON object")
            yield body
            token = body.get("next_page_token")
            if not token:
                return
            if token in seen or len(seen) >= MAX_PAGES:
                raise self._malformed(f"paging does not end ({len(seen) + 1} pages)")
            seen.add(token)

    def _once(self, path: str, params: Mapping[str, Any], version: str, deadline: float) -> Any:
        import requests
        from alpaca.common.exceptions import APIError

        client = self._client()
        self._count_request()
        try:
            return client.get(path, dict(params), api_version=version)
        except APIError as error:
            response = error.response
            headers = response.headers if response is not None else {}
            status = error.status_code or 0
            raise HttpFailure(status, str(error).encode(), headers.get("retry-after")) from None
        except json.JSONDecodeError:
            raise self._malformed("an answer that is no JSON") from None
        except (requests.RequestException, BodyTooSlow) as error:
            text = public(f"{type(error).__name__}: {error}", self._keys)
            raise self._failure(FailureKind.UNAVAILABLE, text) from None

    def _client(self) -> Any:
        if self._made is None:
            from alpaca.data.historical import StockHistoricalDataClient

            client: Any = StockHistoricalDataClient(*self._keys, url_override=self._base_url, raw_data=True)
            client._retry = 0  # its own loop ignores Retry-After
            adapter = _bounded_adapter(self._clock, self._timeout_s)
            client._session.mount("http://", adapter)
            client._session.mount("https://", adapter)
            self._made = client
        return self._made

    def _malformed(self, text: str) -> ProviderFailure:
        return self._failure(FailureKind.MALFORMED, public(text, self._keys))


def _instant(day: date, wall: time) -> str:
    """A New York wall time as RFC 3339 in UTC: what a bare date means is the vendor's guess."""
    return datetime.combine(day, wall, NEW_YORK).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _bounded_adapter(clock: Clock, timeout_s: float) -> Any:
    """alpaca-py has no time-out at all, and those of requests are per read: this one also bounds the whole body."""
    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter
    from requests.exceptions import ConnectionError as RequestsConnectionError
    from urllib3.exceptions import HTTPError

    class BoundedAdapter(HTTPAdapter):
        def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
            kwargs["timeout"] = (min(5.0, timeout_s), timeout_s)
            kwargs["stream"] = True
            if is_this_machine(urlsplit(request.url or "").hostname or ""):
                kwargs["proxies"] = {}
            response = super().send(request, *args, **kwargs)
            body: Any = response
            try:
                body._content = read_body(response.raw, clock, clock.monotonic() + timeout_s)
                body._content_consumed = True
            except (HTTPError, OSError) as error:
                response.close()
                raise RequestsConnectionError(f"{type(error).__name__}: {error}") from None
            response.raw.release_conn()
            return response

    return BoundedAdapter(max_retries=0)
