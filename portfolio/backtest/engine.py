"""Signal-level trades: each symbol and strategy alone, no cash, no limits, no costs.

The rules are stated in the order they are asked; the first that holds ends the trade. The entry bar is bar 1.
All trades are walked together, one bar held at a time, so the cost is bars held × a few array operations. What would
happen after each signal does not depend on other signals, so it is worked out once (`possible_trades`); which of them
become trades depends on the span asked for, and is cheap (`Possible.taken`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.strategy_params import StrategyParams
from core.bars_io import Days
from core.domain import ExitReason, Symbol
from core.panel import Panel
from portfolio.strategies import ibs_rsi, session_date, session_number, setups_between
from portfolio.strategies.indicators import (
    Bools,
    Floats,
    Ints,
    Prepared,
    Setup,
    Spread,
    internal_bar_strength,
    prepare,
)

REASONS = (
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


@dataclass(frozen=True, slots=True, eq=False)
class Trades:
    """Many trades as columns, (n_trades,) each: by entry session, symbol and strategy.

    column          index into `symbols`; strategy, index into `strategies`
    signal .. leave rows of the symbol's own bars; leave = the row on which it left, the symbol's length while open
    signal_at ..    sessions as days since 1970-01-01; exit_at is -1 while open
    prices          USD per share, NaN where there is none; reason, index into REASONS
    """

    symbols: tuple[str, ...]
    strategies: tuple[str, ...]
    column: Ints
    strategy: Ints
    signal: Ints
    first: Ints
    leave: Ints
    signal_at: Days
    entry_at: Days
    exit_at: Days
    entry_price: Floats
    stop: Floats
    target: Floats
    exit_price: Floats
    reason: Ints
    held: Ints

    def __len__(self) -> int:
        return int(self.column.size)

    @property
    def closed(self) -> Bools:
        return self.reason > 0

    def rows(self, keep: NDArray[Any]) -> Trades:
        """The trades that a mask or an index array selects."""
        columns = {f.name: getattr(self, f.name)[keep] for f in fields(self)[2:]}
        return Trades(symbols=self.symbols, strategies=self.strategies, **columns)

    def as_objects(self) -> list[Trade]:
        return [self.trade(i) for i in range(len(self))]

    def trade(self, i: int) -> Trade:
        exit_at, target, exit_price = int(self.exit_at[i]), float(self.target[i]), float(self.exit_price[i])
        return Trade(
            symbol=Symbol(self.symbols[self.column[i]]),
            strategy=self.strategies[self.strategy[i]],
            signal_date=session_date(self.signal_at[i]),
            entry_date=session_date(self.entry_at[i]),
            entry_price=float(self.entry_price[i]),
            stop=float(self.stop[i]),
            target=None if target != target else target,
            exit_date=None if exit_at < 0 else session_date(exit_at),
            exit_price=None if exit_price != exit_price else exit_price,
            exit_reason=REASONS[self.reason[i]],
            bars_held=int(self.held[i]),
        )


@dataclass(slots=True)
class _Walk:
    """Every possible trade of one strategy while it is being walked; 1-d arrays of one length."""

    columns: Ints
    signal: Ints  # row of the signal
    first: Ints  # row of the entry bar
    fill: Floats
    stop: Floats
    target: Floats  # NaN = none
    reason: Ints  # index into REASONS, 0 while open
    price: Floats
    leaves_at: Ints  # row on which it leaves; the symbol's length while open
    held: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Possible:
    """What would follow each signal of a span, were it the only one."""

    panel: Panel
    strategies: tuple[str, ...]
    walks: tuple[_Walk, ...]

    def taken(self, start: date | None = None, end: date | None = None) -> Trades:
        """The trades of the signals with a session within start..end (None: of all).

        A position of that strategy in that symbol that is still open at a signal's close (also one due to leave at the
        next open) makes the signal ignored.
        """
        parts = [_taken(self.panel, walk, start, end) for walk in self.walks]
        return _in_order(self.panel, self.strategies, self.walks, parts)

    def every(self) -> Trades:
        """All of them, each as if it were the only one: they may overlap."""
        parts = [np.arange(walk.columns.size) for walk in self.walks]
        return _in_order(self.panel, self.strategies, self.walks, parts)


def signal_level_trades(panel: Panel, params: StrategyParams, start: date, end: date) -> list[Trade]:
    """Trades of all signals with a session within start..end, by entry date, symbol and strategy.

    Indicators see all earlier bars of the panel.
    """
    return signal_trades(prepare(panel, params.common), params, start, end).as_objects()


def signal_trades(
    prepared: Prepared, params: StrategyParams, start: date, end: date, *, spread: Spread = map
) -> Trades:
    return possible_trades(prepared, params, start, end, spread=spread).taken()


def possible_trades(
    prepared: Prepared, params: StrategyParams, start: date, end: date, *, spread: Spread = map
) -> Possible:
    """Every signal of the span followed to its end. Worth keeping: `taken` asks it for any part of the span."""
    return followed(prepared, params, setups_between(prepared, params, start, end, numbers=False, spread=spread))


def followed(prepared: Prepared, params: StrategyParams, setups: Sequence[Setup]) -> Possible:
    """Every point of these setups followed to its end by the rules of its strategy, whether it is a signal or not."""
    walks = []
    for setup in setups:
        walk = _entered(prepared.panel, setup)
        _walk_exits(prepared, params, setup, walk)
        walks.append(walk)
    return Possible(prepared.panel, tuple(setup.strategy for setup in setups), tuple(walks))


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


def _walk_exits(prepared: Prepared, params: StrategyParams, setup: Setup, walk: _Walk) -> None:
    """Fill reason, price, leaves_at and held of every trade that ends within the data."""
    panel = prepared.panel
    n_symbols = panel.close.shape[1]
    length = panel.length[walk.columns].astype(np.intp)
    undecided = np.arange(walk.first.size)
    for held in range(1, setup.time_stop_bars + 1):
        undecided = undecided[walk.first[undecided] + held - 1 < length[undecided]]  # the others stay open
        if not undecided.size:
            return
        rows = walk.first[undecided] + held - 1
        bar = _Bar(panel, rows * n_symbols + walk.columns[undecided])
        reason, price = _bar_exit(bar, walk, undecided, held, setup.time_stop_bars)
        leaves_at = rows
        if setup.strategy == ibs_rsi.NAME:
            reason, price, leaves_at = _indicator_exit(prepared, params, bar, rows, reason, price)
        ends = (reason > 0) & (leaves_at < length[undecided])
        done = undecided[ends]
        walk.reason[done], walk.price[done] = reason[ends], price[ends]
        walk.leaves_at[done], walk.held[done] = leaves_at[ends], held
        undecided = undecided[reason == 0]  # an exit due beyond the last bar is decided too: it stays open


class _Bar:
    """One bar of each undecided trade; columns are fetched once, by their flat position in the panel."""

    def __init__(self, panel: Panel, at: Ints) -> None:
        self.at = at
        self.open, self.high = panel.open.reshape(-1)[at], panel.high.reshape(-1)[at]
        self.low, self.close = panel.low.reshape(-1)[at], panel.close.reshape(-1)[at]


def _bar_exit(bar: _Bar, walk: _Walk, which: Ints, held: int, time_stop_bars: int) -> tuple[Ints, Floats]:
    """Rules 1 to 5 of one bar; (reason index, price). Asked from the last to the first: the first that holds stays."""
    stop, target = walk.stop[which], walk.target[which]
    reason, price = np.zeros(which.shape, dtype=np.intp), np.full(which.shape, np.nan)
    rules: list[tuple[ExitReason, Bools | bool, Floats]] = [
        (ExitReason.STOP_GAP, held > 1 and bar.open <= stop, bar.open),
        (ExitReason.STOP, bar.low <= stop, stop),
        (ExitReason.TARGET_GAP, held > 1 and bar.open >= target, bar.open),
        (ExitReason.TARGET, bar.high >= target, target),
        (ExitReason.TIME, held >= time_stop_bars, bar.close),
    ]
    for name, holds, at in reversed(rules):
        if holds is not False:
            np.copyto(reason, REASONS.index(name), where=holds)
            np.copyto(price, at, where=holds)
    return reason, price


def _indicator_exit(
    prepared: Prepared, params: StrategyParams, bar: _Bar, rows: Ints, reason: Ints, price: Floats
) -> tuple[Ints, Floats, Ints]:
    """Rule 6, at the close, done at the next open the symbol has; adds the row on which each trade leaves."""
    panel = prepared.panel
    by_ibs = ibs_rsi.exit_by_ibs(internal_bar_strength(bar.high, bar.low, bar.close), params)
    by_rsi = ibs_rsi.exit_by_rsi(prepared.series.rsi.reshape(-1)[bar.at], params)
    flagged = (reason == 0) & (by_ibs | by_rsi)
    following = np.minimum(bar.at + panel.close.shape[1], panel.open.size - 1)  # beyond the data it is not looked at
    price = np.where(flagged, panel.open.reshape(-1)[following], price)
    named = np.where(by_ibs, REASONS.index(ExitReason.IBS), REASONS.index(ExitReason.RSI))
    return np.where(flagged, named, reason), price, rows + flagged


def _taken(panel: Panel, walk: _Walk, start: date | None, end: date | None) -> Ints:
    """Positions in `walk` that become trades, by symbol and signal."""
    if start is None and end is None:
        return _not_overlapping(walk, np.arange(walk.columns.size))
    low = 0 if start is None else int(np.searchsorted(panel.sessions, session_number(start)))
    high = panel.sessions.size if end is None else int(np.searchsorted(panel.sessions, session_number(end) + 1))
    at = panel.session_index[walk.signal, walk.columns]
    return _not_overlapping(walk, np.flatnonzero((at >= low) & (at < high)))


def _not_overlapping(walk: _Walk, asked: Ints) -> Ints:
    """Of these positions, per symbol oldest first: each whose signal comes after the trade before has left."""
    free_from = np.where(walk.reason > 0, walk.leaves_at, walk.leaves_at + 1)
    columns = walk.columns[asked]
    begins = np.flatnonzero(np.diff(columns, prepend=-1))
    following = next_free(columns, walk.signal[asked], free_from[asked])
    kept = np.zeros(asked.size, dtype=np.bool_)
    while begins.size:
        kept[begins] = True
        begins = following[begins]
        begins = begins[begins < asked.size]
    return asked[kept]


def next_free(owner: Ints, signal: Ints, free_from: Ints) -> Ints:
    """Per trade the position of the next signal of its owner that it does not hide; their number where there is none.

    owner, signal : ascending together · free_from : the row from whose close on the owner is free again. A trade holds
    its owner at the closes before the bar it leaves on; one still open holds it to the end.
    """
    if not owner.size:
        return np.empty(0, dtype=np.intp)
    stride = int(max(signal.max(), free_from.max())) + 2
    found = np.searchsorted(owner * stride + signal, owner * stride + free_from)
    same = owner[np.minimum(found, owner.size - 1)] == owner
    return np.where((found < owner.size) & same, found, owner.size)


def _in_order(panel: Panel, strategies: tuple[str, ...], walks: Sequence[_Walk], parts: Sequence[Ints]) -> Trades:
    """The kept trades of all strategies in one table, by entry session, symbol and strategy."""

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(walk, name)[kept] for walk, kept in zip(walks, parts, strict=True)])

    def session(rows: Ints) -> Days:
        days: Days = panel.sessions[panel.session_index[rows, columns]]
        return days

    columns, signal, first, leaves_at = (joined(name) for name in ("columns", "signal", "first", "leaves_at"))
    reason = joined("reason")
    exit_at = session(np.minimum(leaves_at, panel.length[columns] - 1))
    table = Trades(
        symbols=panel.symbols,
        strategies=strategies,
        column=columns,
        strategy=np.repeat(np.arange(len(parts)), [kept.size for kept in parts]),
        signal=signal,
        first=first,
        leave=leaves_at,
        signal_at=session(signal),
        entry_at=session(first),
        exit_at=np.where(reason > 0, exit_at, np.int32(-1)),
        entry_price=joined("fill"),
        stop=joined("stop"),
        target=joined("target"),
        exit_price=joined("price"),
        reason=reason,
        held=joined("held"),
    )
    return table.rows(by_entry(table))


def by_entry(trades: Trades) -> Ints:
    """The order of every table: by entry session, symbol and strategy."""
    names, strategies = (np.array(of, dtype=object) for of in (trades.symbols, trades.strategies))
    by_name = np.argsort(np.argsort(names, kind="stable"), kind="stable")
    by_strategy = np.argsort(np.argsort(strategies, kind="stable"), kind="stable")
    return np.lexsort((by_strategy[trades.strategy], by_name[trades.column], trades.entry_at))
