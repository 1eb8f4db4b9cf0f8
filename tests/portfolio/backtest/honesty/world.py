"""A small made-up market for planted leaks: four names, a split, halts, missing days and one that dies."""

from __future__ import annotations

from datetime import timedelta
from functools import cache

import numpy as np

from core.bars_io import BarColumns, Split, from_day
from portfolio.backtest.honesty.basis import raw_factors
from portfolio.backtest.honesty.checks import Known
from portfolio.backtest.honesty.market import Market, Table
from portfolio.backtest.honesty.survivors import Listing

SESSIONS = 420
FIRST_DAY = 17900  # a Saturday in 2019, days since 1970-01-01
NAMES = ("AAA", "BBB", "CCC", "DDD")
DIES, SPLITS, HALTS = "DDD", "BBB", "CCC"
LEVELS = {"AAA": 40.0, "BBB": 12.0, "CCC": 90.0, "DDD": 55.0}


def days() -> np.ndarray:
    every = np.arange(FIRST_DAY, FIRST_DAY + 2 * SESSIONS)
    weekday = (every + 3) % 7  # 1970-01-01 was a Thursday
    return every[weekday < 5][:SESSIONS].astype(np.int32)


def bars_of(name: str) -> BarColumns:
    """A price that swings around a slow walk, so that buying what fell has something to find."""
    rng = np.random.default_rng(NAMES.index(name) + 11)
    slow = np.cumsum(rng.normal(0.0003, 0.006, SESSIONS))
    swing = np.zeros(SESSIONS)
    for t in range(1, SESSIONS):
        swing[t] = 0.75 * swing[t - 1] + rng.normal(0.0, 0.011)
    close = LEVELS[name] * np.exp(slow + swing)
    open_ = np.concatenate([[close[0]], close[:-1]]) * np.exp(rng.normal(0.0, 0.004, SESSIONS))
    high = np.maximum(open_, close) * np.exp(np.abs(rng.normal(0.0, 0.004, SESSIONS)) + 0.0005)
    low = np.minimum(open_, close) * np.exp(-np.abs(rng.normal(0.0, 0.004, SESSIONS)) - 0.0005)
    volume = np.round(1.5e6 * np.exp(rng.normal(0.0, 0.4, SESSIONS)))
    own = BarColumns(days(), open_, high, low, close, volume)
    if name == HALTS:
        own = _halted(own)
    return own.rows(np.arange(320)) if name == DIES else own


def _halted(own: BarColumns) -> BarColumns:
    """Every 17th and 18th session nothing is traded and the last close stands there; every 23rd has no bar at all."""
    values = {f: getattr(own, f).copy() for f in ("open", "high", "low", "close", "volume")}
    for t in range(20, SESSIONS):
        if t % 17 in (0, 1):
            for f in ("open", "high", "low", "close"):
                values[f][t] = values["close"][t - 1]
            values["volume"][t] = 0.0
    return BarColumns(own.dates, **values).rows(np.arange(SESSIONS) % 23 != 11)


@cache
def market() -> Market:
    bare = Market({name: bars_of(name) for name in NAMES})
    tables = {"earnings": earnings(bare), "membership": membership()}
    return Market(bare.bars, tables, raw_factors(bare, splits()))


def splits() -> list[Split]:
    return [Split(SPLITS, from_day(int(days()[260])), 4.0)]


def earnings(bare: Market) -> Table:
    """Every 30 sessions after the close; the surprise moves nothing, so that only looking ahead finds the rows."""
    rng = np.random.default_rng(5)
    symbol, date = [], []
    for name, own in bare.bars.items():
        picked = own.dates[7 + NAMES.index(name) :: 12]
        symbol += [name] * picked.size
        date += picked.tolist()
    told = np.array(date, dtype=np.int32)
    actual = rng.normal(1.0, 0.3, told.size)
    columns = {
        "symbol": np.array(symbol, dtype=object), "date": told, "time": np.array(["amc"] * told.size, dtype=object),
        "eps_estimate": np.ones(told.size), "eps_actual": actual,
    }  # fmt: skip
    return Table(columns, told + 1, ("eps_actual",))


def membership() -> Table:
    """AAA joined late, DDD left when it died, BBB left and is still traded."""
    day = days()
    rows = [("AAA", 200, -1), ("BBB", 0, 300), ("CCC", 0, -1), ("DDD", 0, 319)]
    columns = {
        "symbol": np.array([name for name, _, _ in rows], dtype=object),
        "start": np.array([day[start] for _, start, _ in rows], dtype=np.int32),
        "end": np.array([-1 if end < 0 else day[end] for _, _, end in rows], dtype=np.int32),
    }
    return Table(columns, columns["start"], None)


def listings(*, missing: bool = False) -> list[Listing]:
    """What was listed when; `missing`: also names that went away and are not in the bars."""
    day = days()
    rows = [Listing(name, int(day[0]) - 900, None) for name in NAMES if name != DIES]
    rows.append(Listing(DIES, int(day[0]) - 900, int(day[319])))
    if missing:
        rows += [Listing(f"GONE{k}", int(day[0]) - 900, int(day[100 + 40 * k])) for k in range(4)]
    return rows


def known(**changes: object) -> Known:
    return Known(**({"listings": listings(), "splits": splits(), "participation": 0.01} | changes))  # type: ignore[arg-type]


def date_of(row: int) -> str:
    return str(from_day(int(days()[row])) + timedelta(0))
