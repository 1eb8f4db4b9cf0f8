"""What a model learns from, wired: bars, the engine's trades, SPY and VIX -> a data set of plain arrays.

scripts/ml_scan.py asks a model with the same `ml_advanced.features.features_at`; only where the bars come from differs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from core.errors import DataError
from core.panel import Panel
from ml_advanced.dataset import Dataset
from ml_advanced.labels import Outcomes, labelled
from ml_advanced.market import MarketView, market_view
from portfolio.strategies.indicators import prepare
from scripts import wiring
from scripts.backtest_data import Loaded, load
from scripts.backtest_evidence import Spy, spy_bars

if TYPE_CHECKING:
    from config.strategy_params import StrategyParams
    from portfolio.backtest.engine import Trades
    from portfolio.strategies.indicators import Prepared, Setup


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A data set and where it came from. `counts`: signals, and how many of them have no label, by reason."""

    dataset: Dataset
    panel: Panel  # without missing bars
    market: MarketView
    loaded: Loaded
    spy: Spy
    counts: Mapping[str, int]


def made(context: wiring.Context, args: argparse.Namespace, tick: Callable[[str], object] = lambda _: None) -> Made:
    """Every signal of --start..--end that a scan would have seen, with its features and what became of it.

    args : bars, universe, cap, start, end; bad bars are taken out as a scan does. Raises DataError NO_BARS, NO_LABELS.
    """
    tick("loading bars")
    args = argparse.Namespace(**{**vars(args), "quarantine": "on", "level": "portfolio"})
    loaded = load(context, args)
    spy = spy_bars(context, args, loaded)
    tick("following every signal")
    prepared = prepare(loaded.panel, context.params.common)
    panel = prepared.panel
    outcomes, counts = outcomes_of(context, prepared, args.start, args.end)
    tick("features")
    market = market_view(panel, spy=spy.bars, vix=loaded.vix)
    found = labelled(panel, outcomes, market)
    if not len(found):
        raise DataError(
            f"no signal of {args.start} to {args.end} has a trade that ended", code="NO_LABELS",
            advice="give it a longer span or more symbols",
        )  # fmt: skip
    return Made(found, panel, market, loaded, spy, counts)


def outcomes_of(context: wiring.Context, prepared: Prepared, start: date, end: date) -> tuple[Outcomes, dict[str, int]]:
    """Each signal followed to its end as if it were the only one, by the signal-level engine, with its costs."""
    from portfolio.backtest.costs import CostModel
    from portfolio.backtest.engine import followed
    from portfolio.backtest.output import signal_booked

    setups = usable_setups(prepared, context.params, start, end)
    trades = followed(prepared, context.params, setups).every()
    booked = signal_booked(prepared.panel, trades, CostModel.from_settings(context.settings.costs))
    signals = sum(setup.points.rows.size for setup in setups)
    counts = {
        "signals": signals, "not_filled": signals - len(trades), "open": len(trades) - int(trades.closed.sum()),
    }  # fmt: skip
    return Outcomes(
        rows=trades.signal, columns=trades.column, strategies=_names(trades), exit_at=trades.exit_at,
        net_usd=booked.pnl_usd, net_r=booked.r_multiple,
    ), counts  # fmt: skip


def usable_setups(prepared: Prepared, params: StrategyParams, start: date, end: date) -> list[Setup]:
    """What a scan takes for a signal: a placeable stop, enough history, no long silence in it; per strategy."""
    from portfolio.backtest.signals import usable
    from portfolio.strategies import STRATEGIES, setups_between

    found = []
    for setup, strategy in zip(setups_between(prepared, params, start, end), STRATEGIES, strict=True):
        points = setup.points.take(usable(prepared.panel, setup, params))
        found.append(strategy.evaluate(prepared.panel, points, params))
    return found


def _names(trades: Trades) -> list[str]:
    return [trades.strategies[k] for k in trades.strategy.tolist()]
