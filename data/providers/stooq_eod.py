"""stooq.com daily CSV: needs an apikey (from a captcha page), reports errors with HTTP 200, and is often refused.

Its prices are adjusted for splits and dividends, so every ex-date rewrites the past: such bars can never be appended
to a raw store. `basis = "adjusted"` says so, and data.update refuses the source; it serves comparisons only.
"""

from __future__ import annotations

import csv
from datetime import date

from core.bars_io import BarColumns
from core.clock import Clock
from core.domain import Symbol
from data.providers.base import (
    DatedRow,
    FailureKind,
    HttpFailure,
    ProviderBase,
    Retrier,
    SessionCalendar,
    columns,
    public,
    read_body,
    stooq_symbol,
)

BASE_URL = "https://stooq.com"
_HEADER = ["Date", "Open", "High", "Low", "Close", "Volume"]


class StooqProvider(ProviderBase):
    basis = "adjusted"

    def __init__(
        self,
        key: str,
        clock: Clock,
        *,
        base_url: str = BASE_URL,
        timeout_s: float = 20.0,
        deadline_s: float = 60.0,
        name: str = "stooq",
        calendar: SessionCalendar | None = None,
    ) -> None:
        """Off unless there is a key: raises ValueError without one."""
        super().__init__(name, clock, simulated=False, calendar=calendar)
        if not key:
            raise ValueError("stooq needs an apikey")
        self._key = key
        self._base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._retrier = Retrier(name, clock, 30, deadline_s, (key,))

    def daily_bars(self, symbol: Symbol, start: date, end: date) -> BarColumns:
        last = min(end, self._last_completed())
        span = {"d1": f"{start:%Y%m%d}", "d2": f"{last:%Y%m%d}"}
        query = {"s": stooq_symbol(symbol), "i": "d", **span, "apikey": self._key}
        text = self._retrier.run(lambda deadline: self._once(query, deadline))
        return self._parsed(symbol, text, start, last)

    def _parsed(self, symbol: Symbol, text: str, start: date, last: date) -> BarColumns:
        """Anything but the exact header is an error message, whatever the status said."""
        lines = text.lstrip("\ufeff").splitlines()
        if not lines or lines[0].strip().split(",") != _HEADER:
            kind = FailureKind.RATE_LIMITED if "daily hits limit" in text[:200] else FailureKind.UNAVAILABLE
            raise self._failure(kind, public(f"{symbol}: no CSV but {text[:80]!r}", (self._key,)))
        rows: list[DatedRow] = []
        for place, cells in enumerate(csv.reader(lines[1:]), start=2):
            if not cells:
                continue
            try:
                day, values = date.fromisoformat(cells[0]), [float(cell) for cell in cells[1:]]
                opened, high, low, close, volume = values
            except ValueError:
                raise self._failure(FailureKind.MALFORMED, f"{symbol} line {place}") from None
            if start <= day <= last:
                rows.append((day, opened, high, low, close, volume))
        if not rows:
            raise self._failure(FailureKind.UNAVAILABLE, f"{symbol} has no bars in {start}..{last}")
        try:
            return columns(rows)
        except ValueError as error:
            raise self._failure(FailureKind.MALFORMED, f"{symbol}: {error}") from None

    def _once(self, query: dict[str, str], deadline: float) -> str:
        import certifi
        import urllib3
        from urllib3.exceptions import HTTPError

        self._count_request()
        left_s = max(0.001, min(self._timeout_s, deadline - self._clock.monotonic()))
        try:
            with urllib3.PoolManager(ca_certs=certifi.where(), cert_reqs="CERT_REQUIRED") as pool:
                response = pool.request(
                    "GET", f"{self._base_url}/q/d/l/", fields=query, retries=False, redirect=False,
                    preload_content=False, timeout=urllib3.Timeout(connect=min(5.0, left_s), read=left_s),
                )  # fmt: skip
                body = read_body(response, self._clock, self._clock.monotonic() + left_s)
                response.close()
        except (HTTPError, OSError) as error:  # its text may hold the URL, and the URL holds the key
            raise self._failure(FailureKind.UNAVAILABLE, type(error).__name__) from None
        if response.status != 200:
            raise HttpFailure(response.status, body, response.headers.get("retry-after"))
        return body.decode("utf-8", "replace")
