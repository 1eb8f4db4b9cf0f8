"""Real bars from files as a market. Nothing is invented: a symbol without a bar that session does not trade."""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.domain import CorporateAction, Symbol
from core.market.base import Bar, DividendEvent, Row, Series, SplitEvent, day_date, day_number

if TYPE_CHECKING:
    from core.bars_io import BarColumns

_EARLIEST = date(1970, 1, 1)


class BarsMarket:
    """Bars handed in, taken as they are. `vix` None means the index is not known on any date."""

    simulated = True  # the prices are real, the trading is not

    def __init__(
        self,
        bars: Mapping[str, BarColumns],
        *,
        vix: Mapping[date, float] | None = None,
        sectors: Mapping[str, str | None] | None = None,
        splits: Sequence[SplitEvent] = (),
        dividends: Sequence[DividendEvent] = (),
        events: Sequence[CorporateAction] = (),
        name: str = "real bars",
        spec: str = "",
    ) -> None:
        self.name, self.spec = name, spec
        self._series = {symbol: _whole(bars[symbol]) for symbol in sorted(bars)}
        self._names = [Symbol(symbol) for symbol in self._series]
        known = sectors or {}
        self._sectors = {symbol: known.get(symbol) for symbol in self._names}
        self._vix = None if vix is None else dict(vix)
        self._splits = sorted(splits, key=lambda event: (event.ex_date, event.symbol))
        self._dividends = sorted(dividends, key=lambda event: (event.ex_date, event.symbol))
        self._events = sorted(events, key=lambda event: (event.ex_date, event.symbol))
        days = [series.days for series in self._series.values()]
        self._days: NDArray[np.int32] = np.unique(np.concatenate(days)) if days else np.empty(0, dtype=np.int32)
        self._sessions = [day_date(number) for number in self._days.tolist()]

    @property
    def sessions(self) -> Sequence[date]:
        return self._sessions

    def symbols(self) -> Sequence[Symbol]:
        return self._names

    def sectors(self) -> Mapping[Symbol, str | None]:
        return self._sectors

    def bar(self, symbol: str, session: date) -> Bar | None:
        found = self.last_bar(symbol, session)
        return found[1] if found is not None and found[0] == session else None

    def last_bar(self, symbol: str, session: date) -> tuple[date, Bar] | None:
        series = self._series.get(symbol)
        if series is None:
            return None
        at = int(np.searchsorted(series.days, day_number(session), side="right")) - 1
        if at < 0:
            return None
        return series.at(at)

    def series(self, symbol: str, upto: date) -> Series | None:
        series = self._series.get(symbol)
        return None if series is None else series.between(_EARLIEST, upto)

    def rows(self, session: date) -> list[Row]:
        found = []
        day = day_number(session)
        for symbol in self._names:
            series = self._series[symbol]
            at = int(series.days.searchsorted(day))
            if at < series.days.size and series.days[at] == day:
                found.append(Row(symbol, *(float(column[at]) for column in series[1:])))
        return found

    def splits(self, upto: date) -> Sequence[SplitEvent]:
        return self._splits[: bisect_right(self._splits, upto, key=lambda event: event.ex_date)]

    def dividends(self, upto: date) -> Sequence[DividendEvent]:
        return self._dividends[: bisect_right(self._dividends, upto, key=lambda event: event.ex_date)]

    def events(self, upto: date) -> Sequence[CorporateAction]:
        return self._events[: bisect_right(self._events, upto, key=lambda event: event.ex_date)]

    def vix(self, session: date) -> float | None:
        return None if self._vix is None else self._vix.get(session)


def _whole(columns: BarColumns) -> Series:
    """Bars that can be traded on: every price finite and positive. The rest are as if absent."""
    prices = np.stack([columns.open, columns.high, columns.low, columns.close])
    with np.errstate(invalid="ignore"):
        good: NDArray[np.bool_] = np.asarray((np.isfinite(prices) & (prices > 0)).all(axis=0))
    volume = np.nan_to_num(columns.volume, nan=0.0)
    series = Series(columns.dates, columns.open, columns.high, columns.low, columns.close, volume)
    return series if bool(good.all()) else series.part(good)


def open_bars_market(path: Path, symbols: Sequence[str] | None = None) -> BarsMarket:
    """A folder or file of bars; `vix_daily.csv` and `sectors.csv` beside it are used when they are there.

    Raises DataError as core.bars_io.read_bars does.
    """
    from core.bars_io import read_bars

    folder = path if path.is_dir() else path.parent
    beside = path.parent
    bars = read_bars(path, symbols)
    vix_file = next((f for f in (folder / "vix_daily.csv", beside / "vix_daily.csv") if f.is_file()), None)
    sector_file = next((f for f in (folder / "sectors.csv", beside / "sectors.csv") if f.is_file()), None)
    return BarsMarket(
        bars,
        vix=None if vix_file is None else _read_vix(vix_file),
        sectors=None if sector_file is None else _read_sectors(sector_file),
        name=f"real bars from {path.name}",
        spec=str(path),
    )


def _read_vix(path: Path) -> dict[date, float]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        return {date.fromisoformat(row["date"]): float(row["close"]) for row in csv.DictReader(lines) if row["close"]}


def _read_sectors(path: Path) -> dict[str, str | None]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        return {row["symbol"]: row["sector"] or None for row in csv.DictReader(lines)}
