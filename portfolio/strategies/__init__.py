"""All strategies over one panel: the signals of a session, of a span, and the indicator exits of a session.

`signals_at` and `all_signals` evaluate the same rules with the same code on the same series, so a signal has the
same bits whether it was found by a live scan or by a backtest.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from types import ModuleType
from typing import Final

import numpy as np

from config.strategy_params import StrategyParams
from core.domain import ExitReason, Signal, Symbol
from core.panel import Panel
from portfolio.strategies import ibs_rsi, turtle_soup
from portfolio.strategies.indicators import (
    Bools,
    Indicators,
    Ints,
    Setup,
    all_hold,
    compute_indicators,
    internal_bar_strength,
    points_at,
    stop_rule,
    without_missing,
)

STRATEGIES: Final[tuple[ModuleType, ...]] = (ibs_rsi, turtle_soup)
_EPOCH = date(1970, 1, 1)


def session_number(session: date) -> int:
    """Days since 1970-01-01, the panel's unit."""
    return (session - _EPOCH).days


def session_date(days: int) -> date:
    return _EPOCH + timedelta(days=int(days))


def last_rows(panel: Panel, session: date) -> tuple[Ints, Bools]:
    """Per symbol: the row of its last bar on or before `session` (-1 = none), and whether that bar is of `session`."""
    upto = int(np.searchsorted(panel.sessions, session_number(session), side="right"))  # sessions <= session
    if upto == 0 or panel.close.shape[0] == 0:
        none = np.full(len(panel.symbols), -1, dtype=np.intp)
        return none, np.zeros(len(panel.symbols), dtype=np.bool_)
    index = panel.session_index
    rows = ((index >= 0) & (index < upto)).sum(axis=0).astype(np.intp) - 1
    there = index[np.maximum(rows, 0), np.arange(rows.size)]
    exact = int(panel.sessions[upto - 1]) == session_number(session)
    return rows, (rows >= 0) & (there == upto - 1) & exact


def setups_at(panel: Panel, series: Indicators, rows: Ints, columns: Ints, params: StrategyParams) -> list[Setup]:
    """Every strategy at the same points, whether a setup or not."""
    points = points_at(panel, series, rows, columns, params.common)
    return [strategy.evaluate(panel, points, params) for strategy in STRATEGIES]


def setups_between(panel: Panel, params: StrategyParams, start: date, end: date) -> tuple[Indicators, list[Setup]]:
    """Per strategy only the points that are setups with a signal session within start..end, oldest first per symbol."""
    series = compute_indicators(panel, params.common)
    low, high = np.searchsorted(panel.sessions, [session_number(start), session_number(end) + 1])
    found = []
    for strategy in STRATEGIES:
        columns, rows = np.nonzero(strategy.candidates(panel, series, params).T)
        index = panel.session_index[rows, columns]
        inside = (index >= low) & (index < high)
        points = points_at(panel, series, rows[inside], columns[inside], params.common)
        setup = strategy.evaluate(panel, points, params)
        holds = all_hold(setup.rules, points.rows.size)
        found.append(strategy.evaluate(panel, points.take(holds), params))
    return series, found


def signals_of(panel: Panel, setup: Setup) -> list[Signal]:
    """Signals of the points where every rule holds and the stop can be placed."""
    holds = all_hold([*setup.rules, stop_rule(setup.points, setup.stop)], setup.points.rows.size)
    return [signal_of(panel, setup, int(i)) for i in np.flatnonzero(holds)]


def signal_of(panel: Panel, setup: Setup, i: int) -> Signal:
    row, column = int(setup.points.rows[i]), int(setup.points.columns[i])
    return Signal(
        strategy=setup.strategy,
        symbol=Symbol(panel.symbols[column]),
        session=session_date(int(panel.sessions[panel.session_index[row, column]])),
        close=float(setup.points.close[i]),
        stop=float(setup.stop[i]),
        target_r=setup.target_r,
        time_stop_bars=setup.time_stop_bars,
        strength=float(setup.strength[i]),
        numbers={name: float(values[i]) for name, values in setup.numbers.items()},
    )


def signals_at(panel: Panel, session: date, params: StrategyParams) -> list[Signal]:
    """Signals at the close of `session`, by symbol and strategy; bars after it are not looked at.

    Only symbols that traded on `session`. Setups whose stop is not within (0, close) are left out.
    """
    panel = without_missing(panel)
    rows, current = last_rows(panel, session)
    columns = np.flatnonzero(current)
    if not columns.size:
        return []
    series = compute_indicators(panel, params.common)
    found = setups_at(panel, series, rows[columns], columns, params)
    signals = [signal for setup in found for signal in signals_of(panel, setup)]
    return sorted(signals, key=lambda s: (s.symbol, s.strategy))


def all_signals(panel: Panel, params: StrategyParams, start: date, end: date) -> list[Signal]:
    """Signals of every session within start..end, both included, by session, symbol and strategy."""
    panel = without_missing(panel)
    _, found = setups_between(panel, params, start, end)
    signals = [signal for setup in found for signal in signals_of(panel, setup)]
    return sorted(signals, key=lambda s: (s.session, s.symbol, s.strategy))


def exit_flags_at(panel: Panel, session: date, params: StrategyParams) -> Mapping[Symbol, ExitReason]:
    """Symbols whose close of `session` tells an ibs_rsi position to leave at the next open, and by which indicator."""
    panel = without_missing(panel)
    rows, current = last_rows(panel, session)
    columns = np.flatnonzero(current)
    if not columns.size:
        return {}
    rows = rows[columns]
    rsi = compute_indicators(panel, params.common).rsi[rows, columns]
    ibs = internal_bar_strength(panel.high[rows, columns], panel.low[rows, columns], panel.close[rows, columns])
    by_ibs, by_rsi = ibs_rsi.exit_by_ibs(ibs, params), ibs_rsi.exit_by_rsi(rsi, params)
    flags = {}
    for i, column in enumerate(columns.tolist()):
        if by_ibs[i]:
            flags[Symbol(panel.symbols[column])] = ExitReason.IBS
        elif by_rsi[i]:
            flags[Symbol(panel.symbols[column])] = ExitReason.RSI
    return flags
