"""A folder of drawn bars with SPY and the VIX beside them, and the command line that names it."""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

import numpy as np

from core.bars_io import BarColumns, from_day
from core.market_calendar import market_calendar
from tests.portfolio.backtest.drawn import drawn_bars

LAST = date(2024, 3, 4)


def bars_on_sessions(symbols: int, sessions: int, seed: int = 5) -> dict[str, BarColumns]:
    """The drawn bars, moved to real sessions up to LAST: a quarantine takes none of them out."""
    calendar = market_calendar()
    days = calendar.sessions_between(date(LAST.year - 2 - sessions // 250, 1, 2), LAST)[-sessions:]
    numbers = np.array([(day - date(1970, 1, 1)).days for day in days], dtype=np.int32)
    drawn = drawn_bars(symbols, sessions, seed)
    old = drawn["S00"].dates
    return {
        name: BarColumns(
            numbers[np.searchsorted(old, bars.dates)], bars.open, bars.high, bars.low, bars.close, bars.volume
        )
        for name, bars in drawn.items()
    }  # fmt: skip


def written(folder: Path, symbols: int = 33, sessions: int = 420, *, spy: bool = True) -> Path:
    """folder/bars.csv, vix_daily.csv and, as SPY, one more drawn walk in benchmarks_daily.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    bars = bars_on_sessions(symbols, sessions)
    benchmark = bars.pop("S00")
    path = folder / "bars.csv"
    path.write_text(_csv(bars), encoding="utf-8")
    if spy:
        (folder / "benchmarks_daily.csv").write_text(_csv({"SPY": benchmark}), encoding="utf-8")
    rng = np.random.default_rng(1)
    levels = np.round(rng.uniform(12, 30, len(benchmark)), 2).tolist()
    lines = [f"{from_day(int(d))},{v},{v},{v},{v}" for d, v in zip(benchmark.dates, levels, strict=True)]
    (folder / "vix_daily.csv").write_text("\n".join(["date,open,high,low,close", *lines]) + "\n", encoding="utf-8")
    return path


def _csv(bars: dict[str, BarColumns]) -> str:
    lines = ["symbol,date,open,high,low,close,volume"]
    for name, own in bars.items():
        columns = zip(own.dates, own.open, own.high, own.low, own.close, own.volume, strict=True)
        lines += [f"{name},{from_day(int(d))},{o},{h},{low},{c},{v}" for d, o, h, low, c, v in columns]
    return "\n".join(lines) + "\n"


def asked(path: Path) -> argparse.Namespace:
    return argparse.Namespace(
        bars=path, universe=None, cap=None, start=date(1900, 1, 1), end=date(2200, 1, 1), sessions=1, json=True
    )
