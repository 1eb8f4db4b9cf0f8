"""All signals of a span, as the scan of each day would find them, found at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from config.strategy_params import StrategyParams
from core.panel import Panel
from portfolio.choice import Found
from portfolio.facts import GAP_SESSIONS_MAX, facts_of, longest_gaps
from portfolio.strategies import setups_between, signals_at_points
from portfolio.strategies.indicators import Ints, Prepared, Setup, all_hold, stop_rule


@dataclass(frozen=True, slots=True, eq=False)
class DaySignals:
    """Per session (index into panel.sessions) its signals, by symbol and strategy, like the scan's."""

    strategies: tuple[str, ...]
    by_session: Mapping[int, Sequence[Found]]

    @classmethod
    def find(cls, prepared: Prepared, params: StrategyParams, start: date, end: date) -> DaySignals:
        """The rules are those of the scan: a placeable stop, enough history, and no long silence in it."""
        panel = prepared.panel
        setups = setups_between(prepared, params, start, end)
        by_session: dict[int, list[Found]] = {}
        for setup in setups:
            at = usable(panel, setup, params)
            sessions = panel.session_index[setup.points.rows[at], setup.points.columns[at]].tolist()
            signals, facts = signals_at_points(panel, setup, at), facts_of(panel, setup.points, at)
            for session, signal, known in zip(sessions, signals, facts, strict=True):
                by_session.setdefault(session, []).append(Found(signal, known))
        for found in by_session.values():
            found.sort(key=lambda f: (f.signal.symbol, f.signal.strategy))
        return cls(tuple(setup.strategy for setup in setups), by_session)


def usable(panel: Panel, setup: Setup, params: StrategyParams) -> Ints:
    """Positions of the setup's points that a scan takes for signals."""
    points = setup.points
    need = max(params.common.sma_bars, params.common.atr_bars + 1)
    at = np.flatnonzero(all_hold([stop_rule(points, setup.stop)], points.rows.size) & (points.rows + 1 >= need))
    silent = longest_gaps(panel, points.rows[at], points.columns[at], need) > GAP_SESSIONS_MAX
    return at[~silent]
