"""A seeded market that never was: regimes, sectors, gaps, splits, dividends, halts and delistings.

Every symbol draws from its own counter-based stream, in session order from FIRST_SESSION, so what happened on
a date depends on the seed, the symbol, its sector and the date alone: not on which other symbols exist and not
on how far the history is extended. It is no model of any real company; the tickers are only names.
"""

from __future__ import annotations

import hashlib
import io
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from core.domain import CorporateAction, Symbol
from core.files import write_atomic
from core.market.base import Bar, DividendEvent, Row, Series, SplitEvent, day_number

FIRST_SESSION = date(2020, 1, 2)
SECTORS = (
    "Communication Services", "Consumer Discretionary", "Consumer Staples", "Energy", "Financials", "Health Care",
    "Industrials", "Information Technology", "Materials", "Real Estate", "Utilities",
)  # fmt: skip
_VERSION = 1  # part of the cache key: raise it whenever the numbers change
_YEAR = 252.0
_BLOCK = 128  # symbols generated together: bounds the memory used
_FLOAT = NDArray[np.float64]

# Regimes calm, normal, stressed: daily drift and volatility of the market factor, level the volatility index tends to.
_DRIFT = (0.0007, 0.0004, -0.0010)
_VOL = (0.0055, 0.0085, 0.0150)
_VIX_LEVEL = (14.5, 19.0, 29.0)
_STAY = (0.985, 0.985, 0.95)  # chance to stay in a regime for another session


class Sessions(Protocol):
    """The part of core.market_calendar this module needs."""

    def sessions_between(self, start: date, end: date) -> list[date]: ...


def generated_symbols(count: int, *, prefix: str = "ZK") -> dict[str, str]:
    """`count` tickers that nobody trades, spread over the sectors: ZKAAA, ZKAAB …"""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    names = (f"{prefix}{letters[i // 676 % 26]}{letters[i // 26 % 26]}{letters[i % 26]}" for i in range(count))
    return {name: SECTORS[i % len(SECTORS)] for i, name in enumerate(names)}


def _stream(seed: int, *key: str) -> np.random.Generator:
    digest = hashlib.blake2b("\x1f".join((str(seed), *key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


@dataclass(frozen=True, slots=True)
class _Traits:
    """What a symbol is born with; one array per trait over a block of symbols."""

    start: _FLOAT  # USD at FIRST_SESSION
    beta: _FLOAT
    sector_beta: _FLOAT
    slow_vol: _FLOAT  # lasting daily moves
    fast_vol: _FLOAT  # daily moves that fade: the mean reversion the strategies live on
    fade: _FLOAT  # share of a fading move still there a session later
    drift: _FLOAT  # per session
    yield_quarter: _FLOAT  # dividend per quarter as a share of the price, 0 = pays none
    pay_phase: NDArray[np.int64]  # which session of a 63-session quarter
    dollars: _FLOAT  # traded per session
    listed: NDArray[np.int64]  # first session index with a bar
    delisted: NDArray[np.int64]  # first session index without


def _traits(seed: int, symbols: Sequence[str]) -> _Traits:
    u = np.array([_stream(seed, symbol, "traits").random(16) for symbol in symbols])
    bell = (u[:, 0:3].sum(axis=1) - 1.5) * 2.0  # about normal, bounded by 3
    late = u[:, 10] < 0.05
    gone_after = -np.log(1.0 - u[:, 11]) / (0.006 / _YEAR)
    return _Traits(
        start=np.clip(29.0 * np.exp(0.50 * bell), 11.0, 300.0),
        beta=0.6 + 0.8 * u[:, 3],
        sector_beta=0.5 + 0.5 * u[:, 4],
        slow_vol=0.0085 + 0.0085 * u[:, 5],
        fast_vol=0.0075 + 0.0075 * u[:, 6],
        fade=0.55 + 0.25 * u[:, 7],
        drift=np.where(u[:, 15] < 0.06, -0.35, 0.02 + 0.10 * u[:, 8]) / _YEAR,
        yield_quarter=np.where(u[:, 9] < 0.55, 0.003 + 0.010 * u[:, 9], 0.0),
        pay_phase=(u[:, 12] * 63).astype(np.int64),
        dollars=2.0e7 * np.exp(3.2 * u[:, 13]),
        listed=np.where(late, (u[:, 14] * 1000).astype(np.int64), 0),
        delisted=np.minimum(gone_after + 260, 10_000_000).astype(np.int64),
    )


def _market_factor(seed: int, count: int) -> tuple[_FLOAT, _FLOAT, _FLOAT]:
    """Daily log return of the market, its volatility relative to normal, and the volatility index."""
    uniform = _stream(seed, "regime").random((count, 2)).tolist()
    normal = _stream(seed, "market").standard_normal((count, 2)).tolist()
    returns, calm, vix = np.empty(count), np.empty(count), np.empty(count)
    state, level = 0, 15.0
    for i in range(count):
        if uniform[i][0] > _STAY[state]:
            state = 1 if state != 1 else (0 if uniform[i][1] < 0.7 else 2)
        move = _DRIFT[state] + _VOL[state] * normal[i][0]
        returns[i], calm[i] = move, _VOL[state] / _VOL[1]
        level += 0.08 * (_VIX_LEVEL[state] - level) - 55.0 * move + 0.35 * normal[i][1]
        level = min(max(level, 12.0), 34.5)
        vix[i] = round(level, 2)
    return returns, calm, vix


def _paths(seed: int, symbols: Sequence[str], sector: _FLOAT, factor: tuple[_FLOAT, _FLOAT, _FLOAT], t: _Traits) -> Any:
    """Adjusted log closes, overnight moves and draws of a block; all (symbols, sessions)."""
    count = sector.shape[1]
    normal = np.empty((len(symbols), count, 4))
    uniform = np.empty((len(symbols), count, 4))
    for i, symbol in enumerate(symbols):
        _stream(seed, symbol, "normal").standard_normal(out=normal[i])
        _stream(seed, symbol, "uniform").random(out=uniform[i])
    market, calm, _ = factor
    scale = np.sqrt(calm)
    jump = np.where(uniform[:, :, 0] < 1 / 63, 0.035 * normal[:, :, 2], 0.0)
    steps = t.drift[:, None] + t.beta[:, None] * market + t.sector_beta[:, None] * sector
    steps += t.slow_vol[:, None] * scale * normal[:, :, 0] + jump
    position = np.arange(count)
    pays = (position[None, :] % 63 == t.pay_phase[:, None]) & (t.yield_quarter[:, None] > 0) & (position > 0)
    drop = np.where(pays, np.log1p(-t.yield_quarter)[:, None], 0.0)
    fast = np.ascontiguousarray((t.fast_vol[:, None] * scale * normal[:, :, 1]).T)
    slow = np.ascontiguousarray((steps + drop).T)
    transient, level = np.zeros(len(symbols)), np.zeros(len(symbols))
    for row in range(count):  # both fade: the transient in days, the level so slowly that prices stay plausible
        transient *= t.fade
        transient += fast[row]
        level *= 1.0 - 0.0008
        level += slow[row]
        fast[row] = transient + level
    close = np.log(t.start)[:, None] + fast.T
    total = np.diff(close, axis=1, prepend=np.log(t.start)[:, None])
    gap = 0.30 * (total - jump - drop) + 0.0035 * scale * normal[:, :, 2] + jump + drop
    return close, total, gap, normal, uniform, pays


def _split_factors(close: _FLOAT, start: float, first: int, end: int) -> tuple[_FLOAT, list[tuple[int, float]]]:
    """Raw price per adjusted price, and the splits (session index, new shares per old).

    A company splits ten sessions after its raw price has left the range it likes; the decision uses past closes only.
    """
    factor = np.ones(close.size)
    events: list[tuple[int, float]] = []
    high = max(95.0, 1.9 * start)
    at = first + 20
    while at < min(end, close.size):
        raw = close[at:] * factor[-1]
        outside = np.flatnonzero((raw > high) | (raw < 7.0))
        if not outside.size:
            break
        index = at + int(outside[0]) + 10
        if index >= min(end, close.size):
            break
        level = float(raw[outside[0]])
        ratio = (4.0 if level > 280 else 3.0 if level > 180 else 2.0) if level > high else 0.125
        factor[index:] /= ratio
        events.append((index, ratio))
        at = index + 120
    return factor, events


def _whole_cents(values: _FLOAT) -> _FLOAT:
    return np.maximum(np.round(values, 2), 0.01)


class _Generated:
    """The numbers: bars[field, symbol, session] with NaN where a symbol did not trade."""

    def __init__(self, bars: _FLOAT, splits: list[list[Any]], dividends: list[list[Any]]) -> None:
        self.bars = bars
        self.splits = splits
        self.dividends = dividends


def _generate(seed: int, symbols: Sequence[str], sectors: Sequence[str], count: int) -> _Generated:
    factor = _market_factor(seed, count)
    sector_moves = {
        name: 0.004 * np.sqrt(factor[1]) * _stream(seed, "sector", name).standard_normal(count) for name in set(sectors)
    }
    out = _Generated(np.full((5, len(symbols), count), np.nan), [], [])
    for begin in range(0, len(symbols), _BLOCK):
        names = symbols[begin : begin + _BLOCK]
        moves = np.array([sector_moves[name] for name in sectors[begin : begin + _BLOCK]])
        _fill_block(out, begin, seed, names, moves, factor)
    return out


def _fill_block(
    out: _Generated, begin: int, seed: int, names: Sequence[str], moves: _FLOAT, factor: tuple[_FLOAT, _FLOAT, _FLOAT]
) -> None:
    traits = _traits(seed, names)
    log_close, total, gap, normal, uniform, pays = _paths(seed, names, moves, factor, traits)
    close = np.exp(log_close)
    raw = np.empty_like(close)
    for i, name in enumerate(names):
        listed, gone = int(traits.listed[i]), int(traits.delisted[i])
        raw[i], events = _split_factors(close[i], float(traits.start[i]), listed, gone)
        out.splits += [[name, index, ratio] for index, ratio in events]
    log_open = log_close - (total - gap)
    spread = (0.85 * np.hypot(traits.slow_vol, traits.fast_vol))[:, None] * np.sqrt(factor[1])
    with np.errstate(divide="ignore"):
        reach = -2.0 * spread**2 * np.log1p(-uniform[:, :, 1:3].transpose(2, 0, 1))
    inner = (log_close - log_open) ** 2  # extremes of a Brownian bridge from open to close, in closed form
    high = np.exp((log_open + log_close + np.sqrt(inner + reach[0])) / 2)
    low = np.exp((log_open + log_close - np.sqrt(inner + reach[1])) / 2)
    block = out.bars[:, begin : begin + len(names)]
    for field, values in enumerate((np.exp(log_open), high, low, close)):
        block[field] = _whole_cents(values * raw)
    block[1] = np.maximum(block[1], np.maximum(block[0], block[3]))
    block[2] = np.minimum(block[2], np.minimum(block[0], block[3]))
    active = np.exp(0.35 * normal[:, :, 3]) * (0.7 + 12.0 * np.abs(total)) * np.sqrt(factor[1])
    block[4] = np.round(traits.dollars[:, None] * active / (close * raw))
    position = np.arange(close.shape[1])
    absent = (position < traits.listed[:, None]) | (position >= traits.delisted[:, None]) | (uniform[:, :, 3] < 0.0004)
    for i, index in zip(*np.nonzero(pays & ~absent), strict=True):
        before = close[i, index - 1] * raw[i, index]  # cum-dividend price in the shares of the ex-date
        amount = round(float(before * traits.yield_quarter[i]), 2)
        if amount > 0:
            out.dividends.append([names[i], int(index), amount])
    block[:, absent] = np.nan


class SimulatedMarket:
    """See the module. `symbols` maps ticker to sector; invented tickers fill up to `minimum`.

    `cache` is a folder for the generated numbers (deletable at any time), None keeps them in memory only.
    """

    simulated = True
    spec = "simulated"

    def __init__(
        self,
        seed: int,
        calendar: Sessions,
        symbols: Mapping[str, str | None] | None = None,
        *,
        minimum: int = 900,
        cache: Path | None = None,
    ) -> None:
        given = dict(symbols or {})
        extra = generated_symbols(max(0, minimum - len(given)))
        self._sectors = {Symbol(s): sector for s, sector in sorted({**extra, **given}.items())}
        self._names = list(self._sectors)
        self._index = {symbol: i for i, symbol in enumerate(self._names)}
        self._seed, self._calendar, self._cache = seed, calendar, cache
        self.name = f"simulated market, seed {seed}"
        self._sessions: list[date] = []
        self._days = np.empty(0, dtype=np.int32)
        self._data: _Generated | None = None
        self._vix = np.empty(0)
        self._series: dict[str, Series] = {}

    @property
    def sessions(self) -> Sequence[date]:
        """Generated so far; asking for a later date generates more."""
        return self._sessions

    def symbols(self) -> Sequence[Symbol]:
        return self._names

    def sectors(self) -> Mapping[Symbol, str | None]:
        return self._sectors

    def bar(self, symbol: str, session: date) -> Bar | None:
        row, column = self._index.get(Symbol(symbol)), self._column(session)
        if row is None or column < 0 or self._sessions[column] != session:
            return None
        values = self._bars()[:, row, column].tolist()
        return Bar(*values) if values[3] == values[3] else None

    def last_bar(self, symbol: str, session: date) -> tuple[date, Bar] | None:
        series = self.series(symbol, session)
        if series is None or not series.days.size:
            return None
        return series.at(-1)

    def series(self, symbol: str, upto: date) -> Series | None:
        row = self._index.get(Symbol(symbol))
        if row is None:
            return None
        self._column(upto)
        if symbol not in self._series:
            bars = self._bars()[:, row]
            traded = ~np.isnan(bars[3])
            self._series[symbol] = Series(self._days, bars[0], bars[1], bars[2], bars[3], bars[4]).part(traded)
        return self._series[symbol].between(FIRST_SESSION, upto)

    def rows(self, session: date) -> list[Row]:
        column = self._column(session)
        if column < 0 or self._sessions[column] != session:
            return []
        values = self._bars()[:, :, column].T.tolist()
        return [Row(name, *row) for name, row in zip(self._names, values, strict=True) if row[3] == row[3]]

    def splits(self, upto: date) -> Sequence[SplitEvent]:
        last = self._column(upto)
        found = self._data.splits if self._data else []
        return [SplitEvent(Symbol(s), self._sessions[i], float(ratio)) for s, i, ratio in found if i <= last]

    def dividends(self, upto: date) -> Sequence[DividendEvent]:
        last = self._column(upto)
        found = self._data.dividends if self._data else []
        return [DividendEvent(Symbol(s), self._sessions[i], float(amount)) for s, i, amount in found if i <= last]

    def events(self, upto: date) -> Sequence[CorporateAction]:
        """None: names that end here simply stop trading."""
        return ()

    def vix(self, session: date) -> float | None:
        column = self._column(session)
        return float(self._vix[column]) if column >= 0 and self._sessions[column] == session else None

    def _column(self, session: date) -> int:
        """Index of the last session at or before `session`, -1 before the first; generates what is missing."""
        if session >= FIRST_SESSION and (not self._sessions or session.year > self._sessions[-1].year):
            self._extend(date(session.year, 12, 31))
        return bisect_right(self._sessions, session) - 1

    def _bars(self) -> _FLOAT:
        assert self._data is not None  # _column has generated it
        return self._data.bars

    def _extend(self, upto: date) -> None:
        sessions = self._calendar.sessions_between(FIRST_SESSION, upto)
        self._sessions = sessions
        self._days = np.array([day_number(day) for day in sessions], dtype=np.int32)
        self._vix = _market_factor(self._seed, len(sessions))[2]
        self._series = {}
        self._data = self._from_cache(len(sessions)) or self._generate(len(sessions))

    def _generate(self, count: int) -> _Generated:
        made = _generate(self._seed, self._names, [s or "" for s in self._sectors.values()], count)
        made.splits.sort(key=lambda event: (event[1], event[0]))
        made.dividends.sort(key=lambda event: (event[1], event[0]))
        if self._cache is not None:
            buffer = io.BytesIO()
            np.save(buffer, made.bars)
            folder = self._folder(count)
            events = json.dumps({"splits": made.splits, "dividends": made.dividends})
            write_atomic(folder.with_suffix(".json"), events.encode(), durable=False)
            write_atomic(folder.with_suffix(".npy"), buffer.getvalue(), durable=False)
        return made

    def _from_cache(self, count: int) -> _Generated | None:
        """None when there is nothing usable: the numbers can always be made again."""
        if self._cache is None:
            return None
        try:
            bars = np.load(self._folder(count).with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
            events = json.loads(self._folder(count).with_suffix(".json").read_text("utf-8"))
            splits, dividends = events["splits"], events["dividends"]
        except (OSError, ValueError, KeyError, EOFError):
            return None
        return _Generated(bars, splits, dividends) if bars.shape == (5, len(self._names), count) else None

    def _folder(self, count: int) -> Path:
        assert self._cache is not None  # callers checked
        names = "\n".join(f"{symbol},{sector or ''}" for symbol, sector in self._sectors.items())
        key = hashlib.sha256(f"{_VERSION}\n{self._seed}\n{self._sessions}\n{names}".encode()).hexdigest()[:16]
        return self._cache / f"simulated-{self._seed}-{count}-{key}"
