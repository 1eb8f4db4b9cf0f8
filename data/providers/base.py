"""What a vendor of daily bars must offer, and what every adapter shares.

Prices and volumes are raw (as traded, unadjusted) unless a provider says `basis = "adjusted"`; such a source is never
mixed into a raw store. A bar of session s exists only after the close of s. Nothing here logs or prints, and no
message carries a key.
"""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Protocol, TypeVar

import numpy as np

from core.bars_io import BarColumns, Dividend, Split, from_day, to_day
from core.clock import Clock
from core.domain import Symbol
from core.errors import DataError
from core.market_calendar import NEW_YORK
from data.quality import BAR_NEGATIVE_VOLUME, BAR_NON_POSITIVE, BAR_NOT_FINITE, BAR_RANGE

Row = tuple[float, float, float, float, float]
"""open, high, low, close in raw USD, volume in shares."""
DatedRow = tuple[date, float, float, float, float, float]
T = TypeVar("T")

MAX_BODY_BYTES = 256 * 2**20
MESSAGE_LENGTH = 200
_GIVE_UP_AFTER = 3  # per-symbol requests failing in a row mean a dead vendor, not dead symbols


class FailureKind(StrEnum):
    RATE_LIMITED = "rate_limited"
    NOT_ENTITLED = "not_entitled"  # key refused, or the plan does not include it
    UNKNOWN_SYMBOL = "unknown_symbol"  # the vendor answered, and knows no such thing
    UNAVAILABLE = "unavailable"  # no answer, or an error answer
    MALFORMED = "malformed"  # an answer that cannot be what was asked for


class ProviderFailure(DataError):
    """One vendor could not give what was asked. `kind` is stable; the text is for people and holds no key."""

    def __init__(self, provider: str, kind: FailureKind, message: str, *, code: str | None = None) -> None:
        super().__init__(f"{provider}: {kind}: {message}", code=code or f"PROVIDER_{kind.name}")
        self.provider = provider
        self.kind = kind


class NotSupported(DataError):
    """This vendor has no such service; nothing was requested."""

    default_code = "NOT_SUPPORTED"


class SessionCalendar(Protocol):
    """The part of core.market_calendar.MarketCalendar that data needs."""

    def is_session(self, day: date) -> bool: ...
    def closes_at(self, session: date) -> datetime: ...
    def last_completed(self, now: datetime) -> date: ...
    def previous_session(self, day: date) -> date: ...


class DailyProvider(Protocol):
    """Raises ProviderFailure or NotSupported, nothing else. All reads; each is safe to repeat."""

    @property
    def name(self) -> str: ...

    @property
    def simulated(self) -> bool: ...

    @property
    def basis(self) -> str:
        """raw | adjusted"""
        ...

    @property
    def shared_requests(self) -> bool:
        """True when `bars_many` asks for many symbols in one request, so that it is the cheapest way for any span."""
        ...

    @property
    def actions_with_bars(self) -> bool:
        """True when splits and dividends are known only for symbols whose bars were asked for before."""
        ...

    @property
    def one_exchange(self) -> bool:
        """True when its prices are of one exchange's trades: closes are near those of all, opens and volume less so."""
        ...

    @property
    def requests(self) -> int:
        """HTTP requests sent so far, retries included."""
        ...

    def requests_for_two_sessions(self, symbols: int) -> int | None:
        """Requests that two sessions of so many symbols take; None when it is one or more for each symbol."""
        ...

    def daily_bars(self, symbol: Symbol, start: date, end: date) -> BarColumns:
        """Bars with start <= session <= end, ascending, completed sessions only. Empty answers raise."""
        ...

    def bars_many(
        self, symbols: Sequence[Symbol], start: date, end: date, *, workers: int = 1
    ) -> Iterator[tuple[Symbol, BarColumns | ProviderFailure]]:
        """`daily_bars` of many symbols in the vendor's cheapest way; raises when the vendor itself is down."""
        ...

    def grouped_daily(self, session: date, symbols: Collection[Symbol]) -> Mapping[Symbol, Row]:
        """One session of all `symbols` the vendor has; a symbol without a bar is missing."""
        ...

    def splits(self, since: date, until: date, symbols: Collection[Symbol]) -> list[Split]: ...
    def dividends(self, since: date, until: date, symbols: Collection[Symbol]) -> list[Dividend]: ...
    def vix_close(self, session: date) -> float | None:
        """Close of the VIX index that session; None when this vendor does not know it."""
        ...


class ProviderBase:
    """Defaults for a vendor that knows little; also its name and its request counter."""

    basis: str = "raw"
    shared_requests: bool = False
    actions_with_bars: bool = False
    one_exchange: bool = False

    def __init__(self, name: str, clock: Clock, *, simulated: bool, calendar: SessionCalendar | None) -> None:
        self.name = name
        self.simulated = simulated
        self.requests = 0
        self._clock = clock
        self._known_calendar = calendar
        self._count_lock = threading.Lock()

    @property
    def _calendar(self) -> SessionCalendar:
        if self._known_calendar is None:
            from core.market_calendar import market_calendar

            self._known_calendar = market_calendar()
        return self._known_calendar

    def _count_request(self) -> None:
        with self._count_lock:
            self.requests += 1

    def _failure(self, kind: FailureKind, message: str) -> ProviderFailure:
        return ProviderFailure(self.name, kind, message)

    def _last_completed(self) -> date:
        return self._calendar.last_completed(self._clock.now())

    def daily_bars(self, symbol: Symbol, start: date, end: date) -> BarColumns:
        raise NotSupported(f"{self.name} has no daily bars")

    def bars_many(
        self, symbols: Sequence[Symbol], start: date, end: date, *, workers: int = 1
    ) -> Iterator[tuple[Symbol, BarColumns | ProviderFailure]]:
        """One request per symbol. Raises the vendor's failure after three in a row: it is down, not 800 symbols."""
        in_a_row = 0
        for symbol, answer in _mapped(lambda s: self._bars_or_failure(s, start, end), symbols, workers):
            failed = isinstance(answer, ProviderFailure) and answer.kind is not FailureKind.UNKNOWN_SYMBOL
            in_a_row = in_a_row + 1 if failed else 0
            if isinstance(answer, ProviderFailure) and in_a_row >= _GIVE_UP_AFTER:
                raise answer
            yield symbol, answer

    def _bars_or_failure(self, symbol: Symbol, start: date, end: date) -> BarColumns | ProviderFailure:
        try:
            return self.daily_bars(symbol, start, end)
        except ProviderFailure as failure:
            return failure

    def grouped_daily(self, session: date, symbols: Collection[Symbol]) -> Mapping[Symbol, Row]:
        raise NotSupported(f"{self.name} has no grouped daily bars")

    def splits(self, since: date, until: date, symbols: Collection[Symbol]) -> list[Split]:
        raise NotSupported(f"{self.name} lists no splits")

    def dividends(self, since: date, until: date, symbols: Collection[Symbol]) -> list[Dividend]:
        raise NotSupported(f"{self.name} lists no dividends")

    def vix_close(self, session: date) -> float | None:
        return None

    def requests_for_two_sessions(self, symbols: int) -> int | None:
        return None


def _mapped(work: Callable[[Symbol], T], symbols: Sequence[Symbol], workers: int) -> Iterator[tuple[Symbol, T]]:
    """Results in the order of `symbols`; in batches, so that a caller who stops also stops the requests."""
    if workers <= 1:
        for symbol in symbols:
            yield symbol, work(symbol)
        return
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for at in range(0, len(symbols), workers * 2):
            batch = symbols[at : at + workers * 2]
            yield from zip(batch, pool.map(work, batch), strict=True)


# ---------------------------------------------------------------- values
def session_of(at: datetime) -> date:
    """The session of a daily bar's stamp. Vendors stamp 00:00 or 16:00 New York, or 00:00 Central: the New York date.

    Midnight UTC is the evening before in New York, when no daily bar ends: such a stamp means the UTC date (D20).
    """
    at = at.astimezone(UTC)
    if (at.hour, at.minute, at.second, at.microsecond) == (0, 0, 0, 0):
        return at.date()
    return at.astimezone(NEW_YORK).date()


def session_of_millis(millis: float) -> date:
    return session_of(datetime.fromtimestamp(millis / 1000, UTC))


def number(value: Any) -> float:
    """A JSON number as float; raises ValueError for anything else (a bool and a string are no numbers)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def bar_problem(row: Row) -> str | None:
    """The reason a bar cannot be used, None when it can. A high or low that does not cover open and close is one."""
    opened, high, low, close, volume = row
    if not all(map(math.isfinite, row)):
        return BAR_NOT_FINITE
    if min(opened, high, low, close) <= 0:
        return BAR_NON_POSITIVE
    if volume < 0:
        return BAR_NEGATIVE_VOLUME
    if low > min(opened, close) or high < max(opened, close):
        return BAR_RANGE
    return None


def columns(rows: Iterable[DatedRow]) -> BarColumns:
    """Raises ValueError when a session occurs twice: which of the two is right cannot be known."""
    ordered = sorted(rows, key=lambda row: row[0])
    dates = np.array([to_day(row[0]) for row in ordered], dtype=np.int32)
    if dates.size > 1 and not bool(np.all(np.diff(dates) > 0)):
        twice = from_day(int(dates[1:][np.diff(dates) <= 0][0]))
        raise ValueError(f"{twice} occurs twice")
    prices = np.array([row[1:] for row in ordered], dtype=np.float64).reshape(-1, 5)
    named = (np.ascontiguousarray(prices[:, i]) for i in range(5))
    opened, high, low, close, volume = named
    return BarColumns(dates=dates, open=opened, high=high, low=low, close=close, volume=volume)


def between(bars: BarColumns, first: int, last: int) -> BarColumns:
    """Bars with first <= day number <= last."""
    return bars.rows((bars.dates >= first) & (bars.dates <= last))


def merged_dividends(rows: Iterable[Dividend]) -> list[Dividend]:
    """Regular and special dividends of one ex-date become one amount, so that (symbol, ex_date) is a key."""
    amounts: dict[tuple[Symbol, date], float] = {}
    for row in rows:
        key = (Symbol(row.symbol), row.ex_date)
        amounts[key] = amounts.get(key, 0.0) + row.amount
    return [Dividend(symbol, ex_date, amount) for (symbol, ex_date), amount in sorted(amounts.items())]


# ---------------------------------------------------------------- symbols
def dotted(symbol: Symbol) -> str:
    """Polygon and Alpaca write class shares as we do: BRK.B."""
    return str(symbol)


def yahoo_symbol(symbol: Symbol) -> str:
    return symbol.replace(".", "-")


def stooq_symbol(symbol: Symbol) -> str:
    return symbol.replace(".", "-").lower() + ".us"


def vendor_map(symbols: Collection[Symbol], to_vendor: Callable[[Symbol], str]) -> dict[str, Symbol]:
    """Vendor's ticker -> ours. Answers are looked up here, exactly: `BACpA` must never become BACPA."""
    table = {to_vendor(symbol): symbol for symbol in symbols}
    if len(table) != len(set(symbols)):
        raise ValueError("two symbols have the same vendor ticker")
    return table


# ---------------------------------------------------------------- wire
class RateLimiter:
    """At most `rpm` requests in any 60 s of this process. None = no limit."""

    def __init__(self, rpm: int | None, clock: Clock) -> None:
        if rpm is not None and rpm < 1:
            raise ValueError(f"requests per minute must be positive, was {rpm}")
        self._rpm = rpm
        self._clock = clock
        self._sent: deque[float] = deque()
        self._lock = threading.Lock()

    def acquire(self) -> None:
        if self._rpm is None:
            return
        with self._lock:
            now = self._clock.monotonic()
            if len(self._sent) >= self._rpm:
                wait_s = self._sent[0] + 60.0 - now
                if wait_s > 0:
                    self._clock.sleep(wait_s)
                    now = max(self._clock.monotonic(), now)
                self._sent.popleft()
            self._sent.append(now)


def retry_after_s(text: str | None, now: datetime) -> float | None:
    """Seconds of a Retry-After header, which may be a number or an HTTP date; None when absent or senseless."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


class BodyTooSlow(OSError):
    """The whole body did not arrive before the deadline, or was larger than any real answer."""


def read_body(response: Any, clock: Clock, deadline: float) -> bytes:
    """Read a urllib3 response piece by piece: a read time-out alone would let a dripping server hold us for ever."""
    parts: list[bytes] = []
    size = 0
    while piece := response.read1(65536, decode_content=True):
        parts.append(piece)
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise BodyTooSlow(f"answer of more than {MAX_BODY_BYTES} bytes")
        if clock.monotonic() > deadline:
            raise BodyTooSlow("answer not complete before the deadline")
    return b"".join(parts)


def public(text: str, secrets: Iterable[str | None]) -> str:
    """One short line without control characters and without the secrets."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return " ".join(text.split())[:MESSAGE_LENGTH]


# ---------------------------------------------------------------- retries
_ATTEMPTS = 4
_RATE_WAIT_S = 15.0  # Polygon's free plan sends no Retry-After; four of these are its minute
_RETRY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_KINDS = {
    401: FailureKind.NOT_ENTITLED,
    403: FailureKind.NOT_ENTITLED,
    404: FailureKind.UNKNOWN_SYMBOL,
    429: FailureKind.RATE_LIMITED,
}


class HttpFailure(Exception):
    """A status other than 200, with what the retry loop needs of it. Never leaves the adapters."""

    def __init__(self, status: int, body: bytes, retry_after: str | None) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.body = body
        self.retry_after = retry_after

    def explained(self, provider: str, secrets: Iterable[str | None]) -> ProviderFailure:
        kind = _KINDS.get(self.status, FailureKind.UNAVAILABLE)
        return ProviderFailure(provider, kind, public(f"HTTP {self.status} {self._text()}", secrets))

    def _text(self) -> str:
        try:
            body = json.loads(self.body)
        except ValueError:
            body = None
        if isinstance(body, dict):
            return str(body.get("error") or body.get("message") or "")
        return self.body[:500].decode("utf-8", "replace")  # HTML from the edge: show its beginning


class Retrier:
    """A read asked at most four times before a deadline: on 408, 429, 5xx and silence, never on a definite no."""

    def __init__(self, provider: str, clock: Clock, rpm: int | None, deadline_s: float, secrets: Sequence[str]) -> None:
        self._provider = provider
        self._clock = clock
        self._deadline_s = deadline_s
        self._secrets = secrets
        self._limiter = RateLimiter(rpm, clock)
        self.hurry_s: float | None = None  # a shorter deadline, while somebody waits for the answer

    def run(self, once: Callable[[float], T]) -> T:
        """`once(deadline)` raises HttpFailure, or ProviderFailure when there was no answer.

        Waiting for our own rate limit is not counted against the deadline. Raises ProviderFailure.
        """
        self._limiter.acquire()
        most_s = self._deadline_s if self.hurry_s is None else min(self._deadline_s, self.hurry_s)
        deadline = self._clock.monotonic() + most_s
        for attempt in range(1, _ATTEMPTS + 1):
            wait_s: float | None = 0.5 * 2 ** (attempt - 1)
            try:
                return once(deadline)
            except HttpFailure as failure:
                wait_s = self._wait_s(failure, attempt)
                problem = failure.explained(self._provider, self._secrets)
            except ProviderFailure as failure:
                if failure.kind is not FailureKind.UNAVAILABLE:
                    raise  # there was an answer, and it was no use
                problem = failure
            if wait_s is None or attempt == _ATTEMPTS or self._clock.monotonic() + wait_s >= deadline:
                raise problem from None
            self._clock.sleep(wait_s)
            self._limiter.acquire()
        raise AssertionError("unreachable")

    def _wait_s(self, failure: HttpFailure, attempt: int) -> float | None:
        """Seconds until the next attempt; None = asking again is no use."""
        if failure.status not in _RETRY_STATUSES:
            return None
        asked = retry_after_s(failure.retry_after, self._clock.now())
        if asked is not None:
            return asked
        return _RATE_WAIT_S if failure.status == 429 else 0.5 * 2 ** (attempt - 1)
