"""The evidence of a backtest, wired: the trial ledger, SPY's bars, the controls with the very rules of the run."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from config.strategy_params import StrategyParams
from core import logs
from core.bars_io import FIELDS, BarColumns
from core.errors import DataError
from core.panel import Panel
from portfolio.backtest.trials import Trial, TrialLedger
from scripts import wiring
from scripts.backtest_data import LATEST, Loaded, panel_of_bars

if TYPE_CHECKING:
    from portfolio.backtest.controls import Rules
    from portfolio.backtest.evidence import Tick
    from portfolio.backtest.portfolio_level import PortfolioRun, World
    from portfolio.backtest.run import Run
    from portfolio.strategies.indicators import Prepared

SPY = "SPY"
_OWN = ("SPY.csv", "SPY.csv.gz")
_BENCHMARKS = ("benchmarks_daily.csv", "benchmarks_daily.csv.gz")


@dataclass(frozen=True, slots=True, eq=False)
class Tried:
    """This run in the ledger: its key, what is recorded of its family, oldest first, and the code it was made by."""

    key: str
    trials: Sequence[Trial]
    code: str = ""  # SHA-256; empty: not asked yet


def record(context: wiring.Context, args: argparse.Namespace, loaded: Loaded, run: Run) -> Tried:
    """Write the run down before it is judged: deflating asks how much was tried. Raises as the journal does."""
    from config.pin import code_sha256
    from portfolio.backtest.run import FAMILY, trial_of

    decided = decided_by(context, args, loaded, context.params, run.level)
    code = code_sha256()
    trial = trial_of(run, decided_by=decided, data_sha256=loaded.sha256, code_sha256=code)
    ledger = TrialLedger.of(context.home, context.clock)
    ledger.add(trial)
    return Tried(trial.key, ledger.recorded(FAMILY), code)


def decided_by(
    context: wiring.Context, args: argparse.Namespace, loaded: Loaded, params: StrategyParams, level: str
) -> dict[str, Any]:
    """Everything besides data, code and span that decides a run: what makes it the same trial again."""
    return {
        "parameters": dataclasses.asdict(params),
        "costs_bps": context.settings.costs.slippage_bps if args.costs_bps is None else args.costs_bps,
        "costs": context.settings.costs.model_dump(mode="json"),
        "symbols": sorted(loaded.panel.symbols),
        "quarantined": sorted(loaded.removed.items()),
        "settings": context.settings.model_dump(mode="json") if level == "portfolio" else None,
    }


def blocks(
    context: wiring.Context, args: argparse.Namespace, loaded: Loaded, prepared: Prepared, run: Run, tried: Tried,
    folder: Path, *, world: World | None = None, tick: Tick = lambda *_: None,
) -> dict[str, Any]:  # fmt: skip
    """The evidence blocks of summary.json, and benchmark_curve.csv. world None: signal level."""
    from portfolio.backtest import controls, evidence, output
    from portfolio.backtest.costs import CostModel
    from portfolio.backtest.report_folder import newest_parity

    spy = spy_bars(context, args, loaded)
    span = (run.start, run.end)
    rules = controls.rules_of(context.params, *span) if world is None else _rules_of(world, run)
    against = evidence.Against(
        follow=controls.exits_of(prepared, context.params),
        rules=rules,
        cost=controls.costs_of(CostModel.from_settings(context.settings.costs, args.costs_bps)),
        first_row=context.params.common.sma_bars - 1,
        spy=spy.bars,
        spy_source=spy.source,
        spy_code=spy.code,
        entry_rounds=controls.ENTRY_ROUNDS,
        walk_rounds=controls.WALK_ROUNDS,
    )
    found = evidence.evidence(run, against, tried.trials, tried.key, tick=tick)
    output.write_benchmark(folder / "benchmark_curve.csv", run.days, evidence.benchmark_curves(run, spy.bars))
    parity = newest_parity(context.home.wf_outputs, run.start.isoformat(), run.end.isoformat())
    return found if parity is None else found | {"parity": parity}


def _rules_of(world: World, run: Run) -> Rules:
    """The portfolio backtest itself on another panel: a control meets the limits, the cash and the VIX that we met."""
    from portfolio.backtest.portfolio_level import simulate
    from portfolio.strategies.indicators import prepare

    return lambda panel: simulate(prepare(panel, world.params.common), run.start, run.end, world).booked.trades


# ---------------------------------------------------------------- the run as evidence sees it
def portfolio_run(found: PortfolioRun, prepared: Prepared, span: tuple[Any, Any], start_usd: float) -> Run:
    from portfolio.backtest.run import Run

    equity = found.equity
    worth = np.concatenate([[start_usd], equity.equity])
    traded = _traded_usd(found, equity.days)
    return Run(
        level="portfolio", panel=prepared.panel, start=span[0], end=span[1], booked=found.booked,
        days=equity.days.astype(np.int32), returns=worth[1:] / worth[:-1] - 1.0,
        exposure=equity.exposure / equity.equity, turnover=traded / equity.equity,
    )  # fmt: skip


def _traded_usd(found: PortfolioRun, days: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """USD bought and sold in each session."""
    trades, quantity = found.booked.trades, found.booked.quantity
    ended = trades.closed
    when = np.concatenate([trades.entry_at, trades.exit_at[ended]])
    usd = np.concatenate([trades.entry_price * quantity, (trades.exit_price * quantity)[ended]])
    at = np.searchsorted(days, when)
    known = at < days.size
    return np.bincount(at[known], weights=usd[known], minlength=days.size).astype(np.float64)


# ---------------------------------------------------------------- SPY
@dataclass(frozen=True, slots=True, eq=False)
class Spy:
    """bars None: not at hand, and `code` says why."""

    bars: BarColumns | None = None
    source: str = ""
    code: str = "SPY_BARS_ABSENT"


def spy_bars(context: wiring.Context, args: argparse.Namespace, loaded: Loaded) -> Spy:
    """SPY where it is at hand: among the bars, in a file beside them, in the vendor's store."""
    if SPY in loaded.panel.symbols:
        return Spy(_column(loaded.panel), loaded.source)
    if args.bars is not None:
        try:
            return _from_files(context, args)
        except DataError as error:
            logs.error_event("benchmark_unreadable", code=error.code, message=str(error))
            return Spy(code="SPY_BARS_UNREADABLE")
    if loaded.source in context.settings.data.providers and not loaded.simulated:
        store = wiring.store_for(context, loaded.source)
        if SPY in store.symbols():
            return Spy(_column(store.load_panel([SPY], LATEST)), loaded.source)
    return Spy()


def _from_files(context: wiring.Context, args: argparse.Namespace) -> Spy:
    """A folder's own SPY.csv, the long file's own rows, or a file of benchmarks in the same folder."""
    from core.bars_io import read_bars

    folder: Path = args.bars if args.bars.is_dir() else args.bars.parent
    if args.bars.is_file():  # its panel is mapped by now
        panel = panel_of_bars(context, args, {SPY}).panel
        if panel.symbols:
            return Spy(_column(panel), args.bars.name)
    sources = [folder] if any((folder / name).is_file() for name in _OWN) else []
    sources += [folder / name for name in _BENCHMARKS if (folder / name).is_file()]
    for source in sources:
        bars = read_bars(source, {SPY}).get(SPY)
        if bars is not None and (np.diff(bars.dates) > 0).all():
            return Spy(bars, source.name)
    return Spy()


def _column(panel: Panel) -> BarColumns:
    k = panel.symbols.index(SPY)
    n = int(panel.length[k])
    days = panel.sessions[panel.session_index[:n, k]]
    return BarColumns(days, *(np.ascontiguousarray(getattr(panel, field)[:n, k]) for field in FIELDS))
