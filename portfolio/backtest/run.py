"""One run, as the trial ledger and the evidence see it. Light: every backtest is recorded, not every one is judged."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from core.bars_io import Days
from core.canonical import canonical_json
from core.panel import Panel
from portfolio.backtest.account import Booked
from portfolio.backtest.bootstrap import Floats
from portfolio.backtest.trials import Trial, outcome_of

FAMILY: Final = "dual_strategy"
"""Backtests and grid points of both frozen strategies are one search: each deflates the winner of all."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Run:
    """One run as its evidence sees it.

    booked      all trades in money · days, returns: the daily curve after costs, one a session, fractions
    exposure    gross exposure / equity of each session · turnover: USD traded / equity; None: not measured
    """

    level: str  # "signals" or "portfolio"
    panel: Panel
    start: date  # signals are taken within start..end
    end: date
    booked: Booked
    days: Days
    returns: Floats
    exposure: Floats | None = None
    turnover: Floats | None = None


def trial_of(
    run: Run, *, decided_by: Any, data_sha256: str, code_sha256: str, family: str = FAMILY, strategy: str = ""
) -> Trial:
    """The run as a trial. decided_by: everything besides data, code and span that decides it, ready for JSON."""
    return Trial(
        family=family,
        strategy=strategy or "+".join(run.booked.trades.strategies),
        params_sha256=hashlib.sha256(canonical_json(decided_by).encode()).hexdigest(),
        data_sha256=data_sha256,
        code_sha256=code_sha256,
        start=run.start,
        end=run.end,
        level=run.level,
        **outcome_of(run.days, run.returns),
    )
