"""A drawn market with enough signals for folds, and parameters loose enough to find them."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np

from config.strategy_params import StrategyParams, load_strategy_params
from core.bars_io import BarColumns
from core.panel import Panel
from tests.portfolio.market import weekdays

EPOCH = date(1970, 1, 1)


def drawn_bars(symbols: int, sessions: int, seed: int = 5) -> dict[str, BarColumns]:
    """Random walks with a drift; the last symbol misses some sessions, the one before begins late."""
    rng = np.random.default_rng(seed)
    days = np.array([(day - EPOCH).days for day in weekdays(sessions)], dtype=np.int32)
    bars = {}
    for k in range(symbols):
        close = 60.0 * np.exp(np.cumsum(rng.normal(0.0006, 0.018, sessions)))
        opened = close * np.exp(rng.normal(0.0, 0.006, sessions))
        high = np.maximum(opened, close) * (1.0 + np.abs(rng.normal(0.0, 0.007, sessions)))
        low = np.minimum(opened, close) * (1.0 - np.abs(rng.normal(0.0, 0.007, sessions)))
        volume = np.round(rng.uniform(5e5, 5e6, sessions))
        keep = np.ones(sessions, dtype=np.bool_)
        if k == symbols - 1:
            keep = rng.random(sessions) > 0.05
        elif k == symbols - 2:
            keep[: sessions // 3] = False
        columns = (days, *(np.round(block, 4) for block in (opened, high, low, close)), volume)
        bars[f"S{k:02d}"] = BarColumns(*(column[keep] for column in columns))
    return bars


def drawn_panel(symbols: int = 10, sessions: int = 420, seed: int = 5) -> Panel:
    return Panel.from_bars(drawn_bars(symbols, sessions, seed))


def loose_params() -> StrategyParams:
    frozen = load_strategy_params()
    return replace(
        frozen,
        common=replace(frozen.common, sma_bars=20),
        ibs_rsi=replace(frozen.ibs_rsi, ibs_below=0.35, rsi_below=35.0),
        turtle_soup=replace(frozen.turtle_soup, lookback_bars=8, min_sweep_atr=0.05),
    )
