"""The engine's table of trades, written by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.domain import ExitReason
from core.panel import Panel
from portfolio.backtest.engine import REASONS, Trades


@dataclass(frozen=True)
class Made:
    """first, last: rows of the symbol's own bars. price None: still open."""

    symbol: str
    strategy: str
    first: int
    last: int
    entry: float
    stop: float
    price: float | None
    reason: str


def table(panel: Panel, rows: list[Made]) -> Trades:
    strategies = tuple(sorted({row.strategy for row in rows}))
    column = np.array([panel.symbols.index(row.symbol) for row in rows], dtype=np.intp)
    first = np.array([row.first for row in rows], dtype=np.intp)
    last = np.array([row.last for row in rows], dtype=np.intp)
    is_open = np.array([row.price is None for row in rows], dtype=np.bool_)
    return Trades(
        symbols=panel.symbols,
        strategies=strategies,
        column=column,
        strategy=np.array([strategies.index(row.strategy) for row in rows], dtype=np.intp),
        signal=first - 1,
        first=first,
        leave=np.where(is_open, panel.length[column], last),
        signal_at=panel.sessions[panel.session_index[first - 1, column]],
        entry_at=panel.sessions[panel.session_index[first, column]],
        exit_at=np.where(is_open, -1, panel.sessions[panel.session_index[last, column]]).astype(np.int32),
        entry_price=np.array([row.entry for row in rows], dtype=np.float64),
        stop=np.array([row.stop for row in rows], dtype=np.float64),
        target=np.full(len(rows), np.nan),
        exit_price=np.array([np.nan if row.price is None else row.price for row in rows], dtype=np.float64),
        reason=np.array([REASONS.index(ExitReason(row.reason)) for row in rows], dtype=np.intp),
        held=last - first + 1,
    )
