"""What became of each signal, as a label: did its trade end in profit after costs, and what did it make in R. Pure.

The trades are the backtest engine's own, handed over as plain values by `scripts/ml_data.py`: entry at the next open,
exit by the frozen rules, costs of both sides. A trade that is still open has no label, and a signal that was not filled
has none either: neither is counted as a loss or as a win.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.bars_io import from_day
from core.panel import Panel
from ml_advanced.dataset import Dataset, dataset_of
from ml_advanced.features import FEATURES, features_at
from ml_advanced.market import Days, Floats, Ints, MarketView


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """Trades as columns, (n,) each.

    rows, columns   of the signal's bar in the panel · strategies, their names
    exit_at         session of the exit, days since 1970-01-01; -1 while open
    net_usd, net_r  after costs, NaN while open; R = (entry - stop) x shares
    """

    rows: Ints
    columns: Ints
    strategies: Sequence[str]
    exit_at: Days
    net_usd: Floats
    net_r: Floats

    @property
    def ended(self) -> NDArray[np.bool_]:
        return np.asarray((self.exit_at >= 0) & np.isfinite(self.net_usd) & np.isfinite(self.net_r))


def labelled(panel: Panel, outcomes: Outcomes, market: MarketView) -> Dataset:
    """One row per signal whose trade has ended: its features at the close, its label, and the span the label looks at.

    `panel` has no bar with a missing price; `market` is of the same panel.
    """
    at = np.flatnonzero(outcomes.ended)
    rows, columns = outcomes.rows[at], outcomes.columns[at]
    strategies = [outcomes.strategies[i] for i in at.tolist()]
    symbols = [panel.symbols[column] for column in columns.tolist()]
    days = panel.sessions[panel.session_index[rows, columns]]
    return dataset_of(
        names=FEATURES,
        x=features_at(panel, rows, columns, strategies, market),
        y=(outcomes.net_usd[at] > 0).astype(np.float64),
        r=outcomes.net_r[at],
        starts=days.astype("datetime64[D]"),
        ends=outcomes.exit_at[at].astype("datetime64[D]"),
        decision_ids=decision_ids(days, strategies, symbols),
        symbols=symbols,
        strategies=strategies,
        sessions=panel.sessions.astype("datetime64[D]"),
    )


def decision_ids(days: Days, strategies: Sequence[str], symbols: Sequence[str]) -> list[str]:
    """As core.domain.Signal names them, so that a row can be found again in the journal."""
    told = {day: from_day(day).strftime("%Y%m%d") for day in set(days.tolist())}
    return [
        f"{told[day]}-{strategy}-{symbol}"
        for day, strategy, symbol in zip(days.tolist(), strategies, symbols, strict=True)
    ]
