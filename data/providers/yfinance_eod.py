"""Yahoo through yfinance: unofficial, for personal use, expected to break. Bars are turned back into raw ones.

Yahoo's `Close` with auto_adjust=False is adjusted for splits (not for dividends) as of the day of asking. So history
is always fetched through today, and a bar before a split is multiplied by the ratios of all later splits; volumes are
divided, and dividends, which Yahoo adjusts too, are multiplied. Splits and dividends come with the bars of a symbol:
`splits()` knows only symbols whose bars were asked for before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from core.bars_io import BarColumns, Dividend, Split
from core.clock import Clock
from core.domain import Symbol
from core.market_calendar import NEW_YORK
from data.providers.base import (
    DatedRow,
    FailureKind,
    ProviderBase,
    ProviderFailure,
    SessionCalendar,
    columns,
    merged_dividends,
    public,
    yahoo_symbol,
)

VIX_TICKER = "^VIX"


@dataclass(frozen=True)
class YahooHistory:
    """What one question gave, in Yahoo's terms: prices and dividends adjusted for splits; NaN = no value."""

    rows: tuple[DatedRow, ...]
    splits: tuple[tuple[date, float], ...] = ()
    dividends: tuple[tuple[date, float], ...] = ()


Fetch = Callable[[str, date, date], YahooHistory]
"""(ticker, first day, day after the last) -> YahooHistory; raises ProviderFailure. Tests hand in their own."""


class YFinanceProvider(ProviderBase):
    actions_with_bars = True

    def __init__(
        self,
        clock: Clock,
        *,
        timeout_s: float = 20.0,
        cache_dir: Path | None = None,
        name: str = "yfinance",
        calendar: SessionCalendar | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        """cache_dir : where yfinance may keep its time-zone database; None = its own place in the user's home."""
        super().__init__(name, clock, simulated=False, calendar=calendar)
        self._fetch = fetch or (
            lambda ticker, start, stop: fetch_history(ticker, start, stop, timeout_s, cache_dir, name)
        )
        self._splits: dict[Symbol, tuple[tuple[date, float], ...]] = {}
        self._dividends: dict[Symbol, tuple[tuple[date, float], ...]] = {}

    def daily_bars(self, symbol: Symbol, start: date, end: date) -> BarColumns:
        last = min(end, self._last_completed())
        today = self._clock.now().astimezone(NEW_YORK).date()
        self._count_request()
        answer = self._fetch(yahoo_symbol(symbol), start, today + timedelta(days=1))
        rows = [raw_row(row, answer.splits) for row in answer.rows if start <= row[0] <= last and _has_prices(row)]
        if not rows:
            # Yahoo answers an outage and an unknown ticker alike; a liquid symbol without bars is an outage.
            raise self._failure(FailureKind.UNAVAILABLE, f"{symbol} has no bars in {start}..{last}")
        self._splits[symbol], self._dividends[symbol] = answer.splits, answer.dividends
        try:
            return columns(rows)
        except ValueError as error:
            raise self._failure(FailureKind.MALFORMED, f"{symbol}: {error}") from None

    def splits(self, since: date, until: date, symbols: Collection[Symbol]) -> list[Split]:
        return [
            Split(symbol, day, ratio)
            for symbol in sorted(symbols)
            for day, ratio in self._splits.get(symbol, ())
            if since <= day <= until
        ]

    def dividends(self, since: date, until: date, symbols: Collection[Symbol]) -> list[Dividend]:
        return merged_dividends(
            Dividend(symbol, day, amount * later_ratio(day, self._splits.get(symbol, ())))
            for symbol in sorted(symbols)
            for day, amount in self._dividends.get(symbol, ())
            if since <= day <= until
        )

    def vix_close(self, session: date) -> float | None:
        if session > self._last_completed():
            return None
        self._count_request()
        answer = self._fetch(VIX_TICKER, session, session + timedelta(days=1))
        return next((row[4] for row in answer.rows if row[0] == session and math.isfinite(row[4])), None)


def later_ratio(day: date, splits: tuple[tuple[date, float], ...]) -> float:
    """New shares per share of `day`: the product of all splits after it (a split's own day already trades new)."""
    return math.prod(ratio for ex_date, ratio in splits if ex_date > day)


def raw_row(row: DatedRow, splits: tuple[tuple[date, float], ...]) -> DatedRow:
    ratio = later_ratio(row[0], splits)
    if ratio == 1.0:
        return row
    day, opened, high, low, close, volume = row
    return day, opened * ratio, high * ratio, low * ratio, close * ratio, volume / ratio


def _has_prices(row: DatedRow) -> bool:
    """Yahoo sends rows of nulls for days without trading, and one for a day in progress."""
    return not all(math.isnan(value) for value in row[1:5])


def fetch_history(
    ticker: str, start: date, stop: date, timeout_s: float, cache_dir: Path | None, name: str
) -> YahooHistory:
    """One call of `Ticker.history`; never `download`, which returns an empty frame whatever happens."""
    import yfinance
    from curl_cffi.requests.exceptions import RequestException
    from yfinance.exceptions import YFException, YFRateLimitError

    config: Any = yfinance.config
    config.debug.hide_exceptions = False  # or every error would be an empty frame
    if cache_dir is not None:
        cache_dir.mkdir(parents=True, exist_ok=True)
        yfinance.set_tz_cache_location(str(cache_dir))
    try:
        frame = yfinance.Ticker(ticker).history(
            start=str(start), end=str(stop), interval="1d", auto_adjust=False, actions=True, timeout=timeout_s
        )
    except YFRateLimitError:
        raise ProviderFailure(name, FailureKind.RATE_LIMITED, f"{ticker}: too many requests") from None
    except (YFException, RequestException, OSError) as error:
        text = public(f"{ticker}: {type(error).__name__}: {error}", ())
        raise ProviderFailure(name, FailureKind.UNAVAILABLE, text) from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:  # HTML instead of JSON, odd shapes
        text = public(f"{ticker}: {type(error).__name__}", ())
        raise ProviderFailure(name, FailureKind.MALFORMED, text) from None
    return _from_frame(frame, ticker, name)


def _from_frame(frame: Any, ticker: str, name: str) -> YahooHistory:
    """The index is midnight New York, aware; columns are Open High Low Close Volume Dividends "Stock Splits"."""
    if frame is None or len(frame) == 0:
        return YahooHistory(())
    try:
        days = [stamp.date() for stamp in frame.index]
        prices = (frame[column].astype(float).tolist() for column in ("Open", "High", "Low", "Close", "Volume"))
        rows = tuple(zip(days, *prices, strict=True))
        events = {
            column: tuple((day, float(value)) for day, value in zip(days, frame[column], strict=True) if value)
            for column in ("Stock Splits", "Dividends")
            if column in frame
        }
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ProviderFailure(name, FailureKind.MALFORMED, f"{ticker}: {type(error).__name__}") from None
    return YahooHistory(rows, events.get("Stock Splits", ()), events.get("Dividends", ()))
