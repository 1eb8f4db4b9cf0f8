"""Portfolio arithmetic for the gate: VaR, correlation, sector weights. Unknown always counts as its worst case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from core.domain import Symbol

Floats = npt.NDArray[np.float64]

SCENARIOS = 60
"""Sessions of aligned daily returns that the historical simulation uses."""

UNKNOWN_RETURN = -0.20
"""A missing daily return counts as a 20 % fall: about the worst single-name day of an ordinary year."""

RANK = 3
"""Which of the worst scenarios is the 95 % VaR: floor(0.05 x 60), the careful reading of the 5 % quantile."""


def scenario_returns(returns: Mapping[Symbol, Any] | None, symbol: Symbol) -> Floats:
    """(60,) simple daily returns of `symbol`, oldest first; every missing or non-finite one is UNKNOWN_RETURN."""
    found = () if returns is None else returns.get(symbol, ())
    tail = np.asarray(found, dtype=np.float64).ravel()[-SCENARIOS:]
    result: Floats = np.full(SCENARIOS, UNKNOWN_RETURN)
    if tail.size:
        result[-tail.size :] = np.where(np.isfinite(tail), tail, UNKNOWN_RETURN)
    return result


def value_at_risk(notionals: Mapping[Symbol, float], returns: Mapping[Symbol, Any] | None, equity: float) -> float:
    """1-day 95 % historical-simulation VaR as a fraction of equity, >= 0.

    notionals : USD per symbol, long positive. returns : (60,) aligned daily returns per symbol.
    The RANK-th worst of SCENARIOS losses.
    Raises ValueError when equity is not positive. Source: Jorion, Value at Risk, historical simulation.
    """
    if not equity > 0:
        raise ValueError(f"equity must be positive, was {equity}")
    profit: Floats = np.zeros(SCENARIOS)
    for symbol, usd in notionals.items():
        profit += usd * scenario_returns(returns, symbol)
    return max(0.0, float(-np.sort(profit)[RANK - 1]) / equity)


def correlation(returns: Mapping[Symbol, Any] | None, one: Symbol, other: Symbol) -> float:
    """Pearson correlation of the aligned returns, -1..1; 1.0 when it cannot be computed (absent, short, flat)."""
    if returns is None or one not in returns or other not in returns:
        return 1.0
    a, b = (np.asarray(returns[s], dtype=np.float64).ravel()[-SCENARIOS:] for s in (one, other))
    if a.size != b.size or a.size < SCENARIOS or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 1.0
    if a.std() == 0.0 or b.std() == 0.0:
        return 1.0
    return float(np.corrcoef(a, b)[0, 1])


def sector_usd(notionals: Mapping[Symbol, float], sectors: Mapping[Symbol, str | None], symbol: Symbol) -> float:
    """USD in the sector of `symbol`, that symbol included. An unknown sector belongs to every sector at once:
    it adds to each known one, and a symbol without a sector is judged by the largest."""
    totals: dict[str, float] = {}
    unknown = 0.0
    for name, usd in notionals.items():
        sector = sectors.get(name)
        if sector:
            totals[sector] = totals.get(sector, 0.0) + usd
        else:
            unknown += usd
    own = sectors.get(symbol)
    known = totals.get(own, 0.0) if own else max(totals.values(), default=0.0)
    return known + unknown
