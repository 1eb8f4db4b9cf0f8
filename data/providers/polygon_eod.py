"""Polygon.io (now Massive) daily bars through polygon-api-client, with our own pool, limits, retries and checks.

What the library does by itself and we do not want: no time-outs, four attempts per call (one 429 eats a free
minute), an unbounded Retry-After, `[]` for errors. So its pool is replaced by `_BoundedPool`, answers are taken raw,
and status, counts and shape are checked here. The successor library is a change to this file only.

The vendor's `t` follows three conventions (00:00 and 16:00 New York, 00:00 Central): it is turned into a New York
date on arrival and never used otherwise.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from datetime import date
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from core.bars_io import BarColumns, Dividend, Split
from core.clock import Clock
from core.domain import Symbol
from core.env import proxy_for
from data.providers.base import (
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
    session_of_millis,
    vendor_map,
)

VIX_TICKER = "I:VIX"
MAX_PAGES = 300
_PAGE = 1000
_AGGS_LIMIT = 50_000


class _Answer(NamedTuple):
    """The three things RESTClient reads of a urllib3 response."""

    status: int
    data: bytes
    headers: Mapping[str, str]


class _BoundedPool:
    """Stands in for RESTClient's PoolManager: one attempt, time-outs, a deadline for the whole body, no redirects."""

    def __init__(self, clock: Clock, timeout_s: float, proxy: str | None) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self.deadline = 0.0
        self._pool = _pool(proxy)

    def request(self, method: str, url: str, fields: Any = None, headers: Any = None) -> _Answer:
        import urllib3

        left_s = max(0.001, min(self._timeout_s, self.deadline - self._clock.monotonic()))
        response = self._pool.request(
            method, url, fields=fields, headers=headers, retries=False, redirect=False, preload_content=False,
            timeout=urllib3.Timeout(connect=min(5.0, left_s), read=left_s),
        )  # fmt: skip
        complete = False
        try:
            body = read_body(response, self._clock, self._clock.monotonic() + self._timeout_s)
            complete = True
        finally:
            if complete:
                response.release_conn()
            else:
                response.close()  # a half-read connection must not be used again
        if response.status != 200:  # here, before the library throws status and headers away
            raise HttpFailure(response.status, body, response.headers.get("retry-after"))
        return _Answer(response.status, body, dict(response.headers))


def _pool(proxy: str | None) -> Any:
    """urllib3 reads no environment, so the proxy that it names is handed on here."""
    import certifi
    import urllib3

    bounds: Any = {"num_pools": 4, "maxsize": 16, "ca_certs": certifi.where(), "cert_reqs": "CERT_REQUIRED"}
    if proxy is None:
        return urllib3.PoolManager(**bounds)
    user = urlsplit(proxy)
    login = f"{unquote(user.username)}:{unquote(user.password or '')}" if user.username else None
    return urllib3.ProxyManager(proxy, proxy_headers=urllib3.make_headers(proxy_basic_auth=login), **bounds)


class PolygonProvider(ProviderBase):
    """Raw daily bars, grouped daily, splits, dividends and I:VIX. The key travels in a header, never in a URL."""

    def __init__(
        self,
        key: str,
        base_url: str,
        clock: Clock,
        *,
        rpm: int | None = None,
        timeout_s: float = 20.0,
        deadline_s: float = 120.0,
        name: str = "polygon",
        simulated: bool = False,
        calendar: SessionCalendar | None = None,
    ) -> None:
        """rpm : requests per minute the plan allows (free: 5), None = no limit. Raises ValueError for an empty key."""
        super().__init__(name, clock, simulated=simulated, calendar=calendar)
        if not key or not base_url:
            raise ValueError(f"{name} needs a key and a base URL")
        self._key = key
        self._base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._retrier = Retrier(name, clock, rpm, deadline_s, (key,))
        self._made: tuple[Any, _BoundedPool] | None = None

    # ------------------------------------------------------------ questions
    def daily_bars(self, symbol: Symbol, start: date, end: date) -> BarColumns:
        rows = self._range(dotted(symbol), start, min(end, self._last_completed()), volume=True)
        if not rows:
            raise self._failure(FailureKind.UNKNOWN_SYMBOL, f"{symbol} has no bars in {start}..{end}")
        try:
            return columns(rows)
        except ValueError as error:
            raise self._malformed(f"{symbol}: {error}") from None

    def grouped_daily(self, session: date, symbols: Collection[Symbol]) -> Mapping[Symbol, Row]:
        if session > self._last_completed():
            raise self._failure(FailureKind.UNAVAILABLE, f"{session} is not over")
        body = self._json(lambda client: client.get_grouped_daily_aggs(str(session), adjusted=False, raw=True))
        self._check_basis(body)
        wanted = vendor_map(symbols, dotted)
        rows: dict[Symbol, Row] = {}
        for item in self._counted(body):
            symbol = wanted.get(item.get("T", ""))
            if symbol is None:
                continue
            row = self._row(item, volume=True)
            if row[0] != session:
                raise self._malformed(f"asked for {session}, {symbol} came with {row[0]}")
            if symbol in rows:
                raise self._malformed(f"{symbol} occurs twice in {session}")
            rows[symbol] = row[1:]
        if not rows:
            raise self._malformed(f"no bars at all for session {session}")
        return rows

    def requests_for_two_sessions(self, symbols: int) -> int | None:
        return 2  # grouped: one a session, however many symbols

    def splits(self, since: date, until: date, symbols: Collection[Symbol]) -> list[Split]:
        wanted = vendor_map(symbols, dotted)
        found: set[Split] = set()
        for item in self._pages(
            lambda client: client.list_splits(
                execution_date_gte=str(since), execution_date_lte=str(until), limit=_PAGE, order="asc",
                sort="execution_date", raw=True,
            )
        ):  # fmt: skip
            symbol = wanted.get(item.get("ticker", ""))
            if symbol is not None:
                found.add(self._split(symbol, item))
        return sorted(found, key=lambda split: (split.symbol, split.ex_date))

    def dividends(self, since: date, until: date, symbols: Collection[Symbol]) -> list[Dividend]:
        wanted = vendor_map(symbols, dotted)
        found: dict[str, Dividend] = {}
        for place, item in enumerate(
            self._pages(
                lambda client: client.list_dividends(
                    ex_dividend_date_gte=str(since), ex_dividend_date_lte=str(until), limit=_PAGE, order="asc",
                    sort="ex_dividend_date", raw=True,
                )
            )
        ):  # fmt: skip
            symbol = wanted.get(item.get("ticker", ""))
            if symbol is not None and item.get("currency", "USD") == "USD":
                found[str(item.get("id", place))] = self._dividend(symbol, item)
        return merged_dividends(found.values())

    def vix_close(self, session: date) -> float | None:
        """None when the answer has no such session. A stocks-only plan raises not_entitled, a normal state."""
        if session > self._last_completed():
            return None
        rows = self._range(VIX_TICKER, session, session, volume=False)
        return next((row[4] for row in rows if row[0] == session), None)

    # ------------------------------------------------------------ shapes
    def _range(self, ticker: str, start: date, end: date, *, volume: bool) -> list[DatedRow]:
        if end < start:
            return []
        rows: list[DatedRow] = []
        for body in self._bodies(
            lambda client: client.list_aggs(
                ticker, 1, "day", str(start), str(end), adjusted=False, sort="asc", limit=_AGGS_LIMIT, raw=True
            )
        ):
            if volume:
                self._check_basis(body)
            if str(body.get("ticker", ticker)).upper() != ticker.upper():
                raise self._malformed(f"asked for {ticker}, was given {str(body.get('ticker'))[:20]!r}")
            rows += (self._row(item, volume=volume) for item in self._counted(body))
        return [row for row in rows if start <= row[0] <= end]

    def _row(self, item: Mapping[str, Any], *, volume: bool) -> DatedRow:
        try:
            prices = (number(item["o"]), number(item["h"]), number(item["l"]), number(item["c"]))
            shares = number(item["v"]) if volume else 0.0
            return (session_of_millis(number(item["t"])), *prices, shares)
        except (KeyError, ValueError, OverflowError, OSError) as error:
            raise self._malformed(f"a bar without usable {error}") from None

    def _split(self, symbol: Symbol, item: Mapping[str, Any]) -> Split:
        try:
            old, new = number(item["split_from"]), number(item["split_to"])
            if not (old > 0 and new > 0):
                raise ValueError("positive ratio")
            return Split(symbol, date.fromisoformat(item["execution_date"]), new / old)
        except (KeyError, ValueError, TypeError) as error:
            raise self._malformed(f"a split of {symbol} without usable {error}") from None

    def _dividend(self, symbol: Symbol, item: Mapping[str, Any]) -> Dividend:
        try:
            return Dividend(symbol, date.fromisoformat(item["ex_dividend_date"]), number(item["cash_amount"]))
        except (KeyError, ValueError, TypeError) as error:
            raise self._malformed(f"a dividend of {symbol} without usable {error}") from None

    def _check_basis(self, body: Mapping[str, Any]) -> None:
        if body.get("adjusted") is True:
            raise self._malformed("adjusted bars, though raw ones were asked for")

    def _counted(self, body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The rows of an aggregate answer, if they are as many as it says: fewer means a part was lost."""
        rows = self._results(body)
        said = body.get("resultsCount")
        if said != len(rows):
            raise self._malformed(f"{len(rows)} rows, resultsCount {said!r}")
        return rows

    def _results(self, body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        rows = body.get("results", [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._malformed("results is not a list of objects")
        return rows

    # ------------------------------------------------------------ wire
    def _pages(self, ask: Any) -> Iterator[Mapping[str, Any]]:
        for body in self._bodies(ask):
            yield from self._results(body)

    def _bodies(self, ask: Any) -> Iterator[Mapping[str, Any]]:
        """Every page. Only path and query of next_url are used: its host may be anybody's, and must not get the key."""
        body = self._json(ask)
        seen: set[str] = set()
        yield body
        while following := body.get("next_url"):
            parts = urlsplit(str(following))
            path = f"{parts.path}?{parts.query}" if parts.query else parts.path
            if path in seen or len(seen) >= MAX_PAGES or not path.startswith("/"):
                raise self._malformed(f"paging does not end ({len(seen) + 1} pages)")
            seen.add(path)
            body = self._json(lambda client, path=path: client._get(path=path, params={}, raw=True))
            yield body

    def _json(self, ask: Any) -> dict[str, Any]:
        answer = self._answer(ask)
        try:
            body = json.loads(answer.data)
        except ValueError:
            text = answer.data[:60].decode("utf-8", "replace")
            raise self._malformed(f"an answer that is no JSON: {text!r}") from None
        if not isinstance(body, dict):
            raise self._malformed("an answer that is no JSON object")
        status = body.get("status")
        if status in ("OK", "DELAYED"):  # DELAYED is a plan, not a fault
            return body
        kind = FailureKind.NOT_ENTITLED if status == "NOT_AUTHORIZED" else FailureKind.MALFORMED
        raise self._failure(kind, self._said(f"status {status!r}: {body.get('error') or body.get('message') or ''}"))

    def _answer(self, ask: Any) -> _Answer:
        return self._retrier.run(lambda deadline: self._once(ask, deadline))

    def _once(self, ask: Any, deadline: float) -> _Answer:
        from urllib3.exceptions import HTTPError

        client, pool = self._client()
        pool.deadline = deadline
        self._count_request()
        try:
            answer: _Answer = ask(client)
        except (HTTPError, OSError) as error:
            text = self._said(f"{type(error).__name__}: {error}")
            raise self._failure(FailureKind.UNAVAILABLE, text) from None
        return answer

    def _client(self) -> tuple[Any, _BoundedPool]:
        if self._made is None:
            from polygon import RESTClient

            logger = logging.getLogger("RESTClient")  # it prints to stdout, where our results go
            logger.handlers.clear()
            logger.addHandler(logging.NullHandler())
            pool = _BoundedPool(self._clock, self._timeout_s, proxy_for(self._base_url))
            client: Any = RESTClient(api_key=self._key, base=self._base_url, retries=0, trace=False, verbose=False)
            client.client = pool
            self._made = (client, pool)
        return self._made

    def _said(self, text: str) -> str:
        return public(text, (self._key,))

    def _malformed(self, text: str) -> ProviderFailure:
        return self._failure(FailureKind.MALFORMED, self._said(text))


def get_vix_level() -> float | None:
    """The VIX close of the last completed session; None = not known, which is the most careful tier, never calm.

    First what the last update stored (cache/*/facts/vix.csv, newest first), then Polygon if there is a key. With a key
    set, stored simulated figures are ignored.
    """
    from core.clock import SystemClock
    from core.domain import Mode
    from core.env import endpoints, keys, load_dotenv
    from core.market_calendar import market_calendar
    from core.paths import home
    from data.vix import cached_level

    load_dotenv(None)
    clock, calendar = SystemClock(), market_calendar()
    session = calendar.last_completed(clock.now())
    key = keys().polygon
    known = cached_level(home().cache, session, simulated_too=key is None)
    if known is not None or key is None:
        return known
    base_url = endpoints(Mode.PAPER).polygon
    provider = PolygonProvider(key, base_url, clock, timeout_s=10.0, deadline_s=20.0, calendar=calendar)
    try:
        return provider.vix_close(session)
    except ProviderFailure:
        return None
