"""Signal-level trades: each symbol and strategy alone, no cash, no limits, no costs.

The rules are stated in the order they are asked; the first that holds ends the trade. The entry bar is bar 1.
All trades are walked together, one bar held at a time, so the cost is bars held × a few array operations.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from config.strategy_params import StrategyParams
from core.domain import ExitReason, Symbol
from core.files import write_atomic
from core.panel import Panel
from portfolio.strategies import ibs_rsi, session_date, setups_between
from portfolio.strategies.indicators import (
    Bools,
    Floats,
    Indicators,
    Ints,
    Setup,
    internal_bar_strength,
    without_missing,
)

TRADE_COLUMNS = (
    "symbol",
    "strategy",
    "signal_date",
    "entry_date",
    "entry_price",
    "stop",
    "target",
    "exit_date",
    "exit_price",
    "exit_reason",
    "bars_held",
)
_REASONS = (
    ExitReason.OPEN,
    ExitReason.STOP_GAP,
    ExitReason.STOP,
    ExitReason.TARGET_GAP,
    ExitReason.TARGET,
    ExitReason.TIME,
    ExitReason.IBS,
    ExitReason.RSI,
)


@dataclass(frozen=True, slots=True)
class Trade:
    """One simulated trade; prices in USD per share. Open at the end of the data: no exit date, no exit price."""

    symbol: Symbol
    strategy: str
    signal_date: date
    entry_date: date
    entry_price: float
    stop: float
    target: float | None
    exit_date: date | None
    exit_price: float | None
    exit_reason: ExitReason
    bars_held: int


@dataclass(slots=True)
class _Walk:
    """Every possible trade of one strategy while it is being walked; 1-d arrays of one length."""

    columns: Ints
    signal: Ints  # row of the signal
    first: Ints  # row of the entry bar
    fill: Floats
    stop: Floats
    target: Floats  # NaN = none
    reason: Ints  # index into _REASONS, 0 while open
    price: Floats
    leaves_at: Ints  # row on which it leaves; the symbol's length while open
    held: Ints


def signal_level_trades(panel: Panel, params: StrategyParams, start: date, end: date) -> list[Trade]:
    """Trades of all signals with a session within start..end, by entry date, symbol and strategy.

    Indicators see all earlier bars of the panel. A position of that strategy in that symbol that is still open at a
    signal's close (also one due to leave at the next open) makes the signal ignored.
    """
    panel = without_missing(panel)
    series, setups = setups_between(panel, params, start, end)
    trades: list[Trade] = []
    for setup in setups:
        walk = _entered(panel, setup)
        _walk_exits(panel, series, params, setup, walk)
        trades += _trades(panel, setup.strategy, walk, _not_overlapping(walk))
    trades.sort(key=lambda trade: (trade.entry_date, trade.symbol, trade.strategy))
    return trades


def _entered(panel: Panel, setup: Setup) -> _Walk:
    """Signals whose symbol has a bar on the next market session, opening above the stop."""
    rows, columns, stop = setup.points.rows, setup.points.columns, setup.stop
    has_next = rows + 1 < panel.length[columns]
    rows, columns, stop = rows[has_next], columns[has_next], stop[has_next]
    fill = panel.open[rows + 1, columns]
    index = panel.session_index
    enters = (index[rows + 1, columns] == index[rows, columns] + 1) & (fill > stop)
    rows, columns, stop, fill = rows[enters], columns[enters], stop[enters], fill[enters]
    target = np.full(fill.shape, np.nan) if setup.target_r is None else fill + setup.target_r * (fill - stop)
    length = panel.length[columns].astype(np.intp)
    return _Walk(
        columns=columns,
        signal=rows,
        first=rows + 1,
        fill=fill,
        stop=stop,
        target=target,
        reason=np.zeros(rows.shape, dtype=np.intp),
        price=np.full(rows.shape, np.nan),
        leaves_at=length,
        held=length - (rows + 1),
    )


def _walk_exits(panel: Panel, series: Indicators, params: StrategyParams, setup: Setup, walk: _Walk) -> None:
    """Fill reason, price, leaves_at and held of every trade that ends within the data."""
    undecided = np.arange(walk.first.size)
    for held in range(1, setup.time_stop_bars + 1):
        rows = walk.first[undecided] + held - 1
        undecided = undecided[rows < panel.length[walk.columns[undecided]]]  # the others stay open
        if not undecided.size:
            return
        rows, columns = walk.first[undecided] + held - 1, walk.columns[undecided]
        reason, price = _bar_exit(panel, walk, undecided, rows, columns, held, setup.time_stop_bars)
        leaves_at = rows
        if setup.strategy == ibs_rsi.NAME:
            reason, price, leaves_at = _indicator_exit(panel, series, params, rows, columns, reason, price)
        ends = (reason > 0) & (leaves_at < panel.length[columns])
        done = undecided[ends]
        walk.reason[done], walk.price[done] = reason[ends], price[ends]
        walk.leaves_at[done], walk.held[done] = leaves_at[ends], held
        undecided = undecided[reason == 0]  # an exit due beyond the last bar is decided too: it stays open


def _bar_exit(
    panel: Panel, walk: _Walk, which: Ints, rows: Ints, columns: Ints, held: int, time_stop_bars: int
) -> tuple[Ints, Floats]:
    """Rules 1 to 5 of one bar; (reason index, price)."""
    opened, high, low = panel.open[rows, columns], panel.high[rows, columns], panel.low[rows, columns]
    stop, target = walk.stop[which], walk.target[which]
    later = np.full(rows.shape, held > 1)
    rules: list[tuple[ExitReason, Bools, Floats]] = [
        (ExitReason.STOP_GAP, later & (opened <= stop), opened),
        (ExitReason.STOP, low <= stop, stop),
        (ExitReason.TARGET_GAP, later & (opened >= target), opened),
        (ExitReason.TARGET, high >= target, target),
        (ExitReason.TIME, np.full(rows.shape, held >= time_stop_bars), panel.close[rows, columns]),
    ]
    reason = np.zeros(rows.shape, dtype=np.intp)
    price = np.full(rows.shape, np.nan)
    for name, holds, at in rules:
        new = holds & (reason == 0)
        reason[new], price[new] = _REASONS.index(name), at[new]
    return reason, price


def _indicator_exit(
    panel: Panel,
    series: Indicators,
    params: StrategyParams,
    rows: Ints,
    columns: Ints,
    reason: Ints,
    price: Floats,
) -> tuple[Ints, Floats, Ints]:
    """Rule 6, at the close, done at the next open the symbol has; adds the row on which each trade leaves."""
    ibs = internal_bar_strength(panel.high[rows, columns], panel.low[rows, columns], panel.close[rows, columns])
    by_ibs = ibs_rsi.exit_by_ibs(ibs, params)
    flagged = (reason == 0) & (by_ibs | ibs_rsi.exit_by_rsi(series.rsi[rows, columns], params))
    leaves_at = np.where(flagged, rows + 1, rows)
    inside = np.minimum(leaves_at, panel.open.shape[0] - 1)
    price = np.where(flagged, panel.open[inside, columns], price)
    named = np.where(by_ibs, _REASONS.index(ExitReason.IBS), _REASONS.index(ExitReason.RSI))
    return np.where(flagged, named, reason), price, leaves_at


def _not_overlapping(walk: _Walk) -> list[int]:
    """Positions in `walk` that become trades: per symbol, oldest first, each after the one before has left.

    A trade holds its symbol at the closes before the bar it leaves on; one still open holds it to the end.
    """
    kept, symbol, free_from = [], -1, -1
    closed = (walk.reason > 0).tolist()
    for i, (column, signal, leaves_at) in enumerate(
        zip(walk.columns.tolist(), walk.signal.tolist(), walk.leaves_at.tolist(), strict=True)
    ):
        if column == symbol and signal < free_from:
            continue
        symbol, free_from = column, leaves_at if closed[i] else leaves_at + 1
        kept.append(i)
    return kept


def _trades(panel: Panel, strategy: str, walk: _Walk, kept: Sequence[int]) -> list[Trade]:
    def day(row: int, column: int) -> date:
        return session_date(int(panel.sessions[panel.session_index[row, column]]))

    trades = []
    for i in kept:
        column, closed = int(walk.columns[i]), bool(walk.reason[i])
        target = float(walk.target[i])
        trades.append(
            Trade(
                symbol=Symbol(panel.symbols[column]),
                strategy=strategy,
                signal_date=day(int(walk.signal[i]), column),
                entry_date=day(int(walk.first[i]), column),
                entry_price=float(walk.fill[i]),
                stop=float(walk.stop[i]),
                target=None if np.isnan(target) else target,
                exit_date=day(int(walk.leaves_at[i]), column) if closed else None,
                exit_price=float(walk.price[i]) if closed else None,
                exit_reason=_REASONS[int(walk.reason[i])],
                bars_held=int(walk.held[i]),
            )
        )
    return trades


def write_trade_list(path: Path, trades: Sequence[Trade]) -> None:
    """CSV, prices with every digit (the shortest text that reads back the same), an absent value is empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TRADE_COLUMNS)
    for trade in trades:
        row = (getattr(trade, name) for name in TRADE_COLUMNS)
        writer.writerow(["" if value is None else str(value) for value in row])
    write_atomic(path, text.getvalue().encode(), durable=False)
