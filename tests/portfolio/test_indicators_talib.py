"""Indicators against TA-Lib, an outside authority: RSI, ATR and SMA on drawn and on real bars.

TA-Lib seeds RSI and ATR as we do: RSI with the mean of the first n changes, ATR with the mean of the true ranges of
bars 1..n. Differences by definition: where a window saw no change TA-Lib's RSI is 0 and ours is undefined.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from portfolio.strategies.indicators import sma_exact, wilder_atr, wilder_rsi

Floats = NDArray[np.float64]
talib: Any = pytest.importorskip("talib", reason="TA-Lib is not installed (dev extra)")
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "market" / "bars_small.csv.gz"
N_BARS, N_SYMBOLS = 600, 7


def drawn(seed: int) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    close = 50.0 * np.exp(np.cumsum(rng.normal(0, 0.02, (N_BARS, N_SYMBOLS)), axis=0))
    spread = np.abs(rng.normal(0, 0.01, (2, N_BARS, N_SYMBOLS)))
    return close * (1 + spread[0]), close * (1 - spread[1]), close


def bars(seed: int | None) -> tuple[Floats, Floats, Floats]:
    """Drawn ones, or (None) some real symbols of bars_small that have the most bars."""
    if seed is not None:
        return drawn(seed)
    if not SHARED.exists():
        pytest.skip("the shared market data is not here")
    from core.bars_io import read_bars
    from core.panel import Panel

    panel = Panel.from_bars(read_bars(SHARED))
    full = np.flatnonzero(panel.length == panel.length.max())[::6]
    return panel.high[:, full], panel.low[:, full], panel.close[:, full]


def same(ours: Floats, theirs: Floats, where: NDArray[np.bool_]) -> None:
    assert np.array_equal(np.isfinite(ours[where]), np.isfinite(theirs[where]))
    known = where & np.isfinite(theirs)
    assert known.any() and ours[known] == pytest.approx(theirs[known], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1, None])
@pytest.mark.parametrize("window", [2, 14])
def test_rsi(window: int, seed: int | None) -> None:
    _, _, close = bars(seed)
    ours = wilder_rsi(close, window)
    for column in range(close.shape[1]):
        theirs = talib.RSI(np.ascontiguousarray(close[:, column]), window)
        moved = ~np.isnan(ours[:, column]) | (theirs != 0)  # never moved: ours undefined, theirs 0
        same(ours[:, column], theirs, moved)


@pytest.mark.parametrize("seed", [0, 1, None])
@pytest.mark.parametrize("window", [2, 14])
def test_atr(window: int, seed: int | None) -> None:
    high, low, close = bars(seed)
    ours = wilder_atr(high, low, close, window)
    for column in range(close.shape[1]):
        theirs = talib.ATR(*(np.ascontiguousarray(block[:, column]) for block in (high, low, close)), window)
        same(ours[:, column], theirs, np.ones(len(theirs), dtype=bool))


@pytest.mark.parametrize("seed", [0, 1, None])
def test_sma_of_200(seed: int | None) -> None:
    _, _, close = bars(seed)
    for column in range(close.shape[1]):
        theirs = talib.SMA(np.ascontiguousarray(close[:, column]), 200)
        rows = np.arange(close.shape[0])
        ours = sma_exact(close, rows, np.full(rows.shape, column), 200)
        same(ours, theirs, np.ones(rows.shape, dtype=bool))
