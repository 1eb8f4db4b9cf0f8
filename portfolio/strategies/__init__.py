"""All strategies over one panel: the signals of a session, of a span, and the indicator exits of a session.

`signals_at` and `all_signals` evaluate the same rules with the same code on the same series, so a signal has the
same bits whether it was found by a live scan or by a backtest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from types import ModuleType
from typing import Final

import numpy as np

from config.strategy_params import StrategyParams
from core.domain import ExitReason, Signal, Symbol
from core.panel import Panel
from portfolio.strategies import ibs_rsi, turtle_soup
from portfolio.strategies.boundary import Failed, guarded
from portfolio.strategies.indicators import (
    Block,
    Bools,
    Floats,
    Indicators,
    Ints,
    Prepared,
    Setup,
    Spread,
    all_hold,
    compute_indicators,
    internal_bar_strength,
    points_at,
    points_of,
    prepare,
    row_blocks,
    sma_exact,
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


def setups_that_work(
    panel: Panel, series: Indicators, rows: Ints, columns: Ints, params: StrategyParams
) -> tuple[list[Setup], list[Failed]]:
    """`setups_at` for a trading day: a strategy that raises is left out and named. A backtest asks the strict one."""
    points = points_at(panel, series, rows, columns, params.common)
    found = [guarded(s.NAME, lambda s=s: s.evaluate(panel, points, params)) for s in STRATEGIES]  # type: ignore[misc]
    return [f for f in found if not isinstance(f, Failed)], [f for f in found if isinstance(f, Failed)]


def setups_between(
    prepared: Prepared, params: StrategyParams, start: date, end: date, *, numbers: bool = True, spread: Spread = map
) -> list[Setup]:
    """Per strategy only the points that are setups with a signal session within start..end, oldest first per symbol.

    Cheap conditions first, on whole blocks; what passes them is asked the rules themselves. `numbers=False` leaves the
    average's value out (NaN): that the close is above it was decided exactly.
    Raises ValueError when `prepared` was made for other windows.
    """
    if prepared.common != params.common:
        raise ValueError("these parameters need other indicators: prepare the panel for them")
    panel, series = prepared.panel, prepared.series
    found = []
    for strategy, (rows, columns) in zip(STRATEGIES, _candidates(prepared, params, start, end, spread), strict=True):
        points = points_of(panel, series, rows, columns, prepared.trending[rows, columns], _unknown(rows))
        points = points.take(all_hold(strategy.evaluate(panel, points, params).rules, rows.size))
        if numbers:
            sma = sma_exact(panel.close, points.rows, points.columns, params.common.sma_bars)
            points = replace(points, sma=sma)
        found.append(strategy.evaluate(panel, points, params))
    return found


def _unknown(like: Ints) -> Floats:
    return np.full(like.shape, np.nan)


def _candidates(
    prepared: Prepared, params: StrategyParams, start: date, end: date, spread: Spread
) -> list[tuple[Ints, Ints]]:
    """(rows, columns) per strategy within the span, by column and row."""
    panel = prepared.panel
    n_bars, n_symbols = panel.close.shape
    low, high = np.searchsorted(panel.sessions, [session_number(start), session_number(end) + 1])

    def look(rows: tuple[int, int]) -> list[Ints]:
        """Flat positions in the panel, per strategy."""
        first, last = rows
        index = panel.session_index[first:last]  # -1 where a symbol has ended
        if index.max() < low or index[0].min(initial=high, where=index[0] >= 0) >= high:
            return [np.empty(0, np.intp)] * len(STRATEGIES)  # every bar is before or after the span
        block = Block(prepared, first, last)
        return [strategy.candidates(block, params) + first * n_symbols for strategy in STRATEGIES]

    found = list(spread(look, row_blocks(params.common.sma_bars - 1, n_bars, n_symbols)))
    out = []
    for number in range(len(STRATEGIES)):
        flat = np.concatenate([np.empty(0, np.intp), *(part[number] for part in found)])
        rows, columns = np.divmod(flat, max(1, n_symbols))
        order = np.argsort(columns * n_bars + rows, kind="stable")
        rows, columns = rows[order], columns[order]
        index = panel.session_index[rows, columns]
        inside = (index >= low) & (index < high)
        out.append((rows[inside], columns[inside]))
    return out


def signals_of(panel: Panel, setup: Setup) -> list[Signal]:
    """Signals of the points where every rule holds and the stop can be placed."""
    holds = all_hold([*setup.rules, stop_rule(setup.points, setup.stop)], setup.points.rows.size)
    return signals_at_points(panel, setup, np.flatnonzero(holds))


def signals_at_points(panel: Panel, setup: Setup, which: Ints) -> list[Signal]:
    rows, columns = setup.points.rows[which], setup.points.columns[which]
    days = panel.sessions[panel.session_index[rows, columns]].tolist()
    sessions = {day: session_date(day) for day in set(days)}
    names = tuple(setup.numbers)
    values = zip(*(setup.numbers[name][which].tolist() for name in names), strict=True)
    columns_of = (columns, setup.points.close[which], setup.stop[which], setup.strength[which])
    return [
        Signal(
            strategy=setup.strategy,
            symbol=Symbol(panel.symbols[column]),
            session=sessions[day],
            close=close,
            stop=stop,
            target_r=setup.target_r,
            time_stop_bars=setup.time_stop_bars,
            strength=strength,
            numbers=dict(zip(names, numbers, strict=True)),
        )
        for day, (column, close, stop, strength), numbers in zip(
            days, zip(*(a.tolist() for a in columns_of), strict=True), values, strict=True
        )
    ]


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
    prepared = prepare(panel, params.common)
    found = setups_between(prepared, params, start, end)
    signals = [signal for setup in found for signal in signals_of(prepared.panel, setup)]
    return sorted(signals, key=lambda s: (s.session, s.symbol, s.strategy))


def exit_flags_at(panel: Panel, session: date, params: StrategyParams) -> Mapping[Symbol, ExitReason]:
    """Symbols whose last close up to `session` tells an ibs_rsi position to leave at the next open it has, and by which
    indicator. A symbol that did not trade on `session` keeps the word of its last bar: it has had no open since."""
    panel = without_missing(panel)
    rows, _ = last_rows(panel, session)
    columns = np.flatnonzero(rows >= 0)
    if not columns.size:
        return {}
    series = compute_indicators(panel, params.common)
    told = exit_reasons(panel, series, rows[columns], columns, params)
    symbols = [Symbol(panel.symbols[column]) for column in columns.tolist()]
    return {symbol: reason for symbol, reason in zip(symbols, told, strict=True) if reason is not None}


def exit_reasons(
    panel: Panel, series: Indicators, rows: Ints, columns: Ints, params: StrategyParams
) -> list[ExitReason | None]:
    """Which indicator tells an ibs_rsi position to leave after each of these closes, IBS first; None: neither."""
    ibs = internal_bar_strength(panel.high[rows, columns], panel.low[rows, columns], panel.close[rows, columns])
    by_ibs = ibs_rsi.exit_by_ibs(ibs, params).tolist()
    by_rsi = ibs_rsi.exit_by_rsi(series.rsi[rows, columns], params).tolist()
    return [
        ExitReason.IBS if ibs_says else ExitReason.RSI if rsi_says else None
        for ibs_says, rsi_says in zip(by_ibs, by_rsi, strict=True)
    ]
