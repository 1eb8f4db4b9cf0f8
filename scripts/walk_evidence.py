"""The evidence of a walk-forward, wired: every grid point in the trial ledger, and the controls with each fold's rules.

The controls meet what the walk-forward met: a random entry has the exits of the fold its day falls into, and the random
walks are traded with each fold's chosen parameters.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from config.strategy_params import CommonParams, StrategyParams
from core.panel import Panel
from portfolio.backtest.costs import CostModel
from portfolio.backtest.engine import Trades, possible_trades
from portfolio.backtest.trials import TrialLedger
from portfolio.backtest.walk_forward import Plan, Unit, fold_of, joined, stitched
from portfolio.strategies import session_date
from portfolio.strategies.indicators import Ints, Prepared, prepare, prepare_each
from scripts import wiring
from scripts.backtest_data import Loaded
from scripts.backtest_evidence import Tried, decided_by, spy_bars

if TYPE_CHECKING:
    from portfolio.backtest.account import Booked
    from portfolio.backtest.controls import Follow, Rules
    from portfolio.backtest.evidence import Tick
    from portfolio.backtest.honesty.house import Engine
    from portfolio.backtest.run import Run


@dataclass(frozen=True, slots=True, eq=False)
class Walked:
    """sets: every parameter set, the `searched` ones first · numbers: the set of each fold."""

    panel: Panel
    sets: Sequence[StrategyParams]
    searched: int
    units: Sequence[Unit]
    plan: Plan
    numbers: Sequence[int]
    prepared: Mapping[CommonParams, Prepared]
    costs: CostModel

    @property
    def test_span(self) -> tuple[date, date]:
        sessions = self.panel.sessions
        return session_date(sessions[self.plan.test_first]), session_date(sessions[self.plan.end - 1])

    @property
    def chosen(self) -> list[int]:
        return sorted(set(self.numbers))


def record(
    context: wiring.Context, args: argparse.Namespace, loaded: Loaded, walked: Walked, run: Run, plan_words: Any
) -> Tried:
    """Write every set and the stitched run down before it is judged. Raises as the journal does."""
    from config.pin import code_sha256
    from portfolio.backtest.run import FAMILY, trial_of

    days = walked.panel.sessions[walked.plan.first : walked.plan.end]
    whole = replace(run, start=session_date(days[0]), end=session_date(days[-1]), days=days)
    decided = [decided_by(context, args, loaded, params, run.level) for params in walked.sets]
    code = code_sha256()
    from_here = {"data_sha256": loaded.sha256, "code_sha256": code}
    points = [
        trial_of(replace(whole, returns=unit.curve), decided_by=words, **from_here)
        for words, unit in zip(decided, walked.units, strict=True)
    ]
    own = trial_of(run, decided_by={"walk_forward": plan_words, "sets": decided}, **from_here)
    ledger = TrialLedger.of(context.home, context.clock)
    ledger.add(*points, own)
    return Tried(own.key, ledger.recorded(FAMILY), code)


def blocks(
    context: wiring.Context, args: argparse.Namespace, loaded: Loaded, walked: Walked, run: Run, tried: Tried,
    folder: Path, tick: Tick,
) -> dict[str, Any]:  # fmt: skip
    """The evidence blocks of summary.json for the stitched part, and benchmark_curve.csv."""
    from portfolio.backtest import controls, evidence, output

    spy = spy_bars(context, args, loaded)
    against = evidence.Against(
        follow=_follow(walked),
        rules=_rules(walked),
        cost=controls.costs_of(walked.costs),
        first_row=max(walked.sets[k].common.sma_bars for k in walked.chosen) - 1,
        spy=spy.bars,
        spy_source=spy.source,
        spy_code=spy.code,
        variants=np.stack([unit.curve for unit in walked.units[: walked.searched]], axis=1),
    )
    found = evidence.evidence(run, against, tried.trials, tried.key, tick=tick)
    output.write_benchmark(folder / "benchmark_curve.csv", run.days, evidence.benchmark_curves(run, spy.bars))
    return found


def _follow(walked: Walked) -> Follow:
    """Any bar as if it were a signal, with the exits of the fold in whose test span it lies."""
    from portfolio.backtest.controls import exits_of

    exits = {k: exits_of(walked.prepared[walked.sets[k].common], walked.sets[k]) for k in walked.chosen}
    numbers = np.array(walked.numbers)

    def follow(strategy: str, rows: Ints, columns: Ints) -> Trades:
        of = numbers[fold_of(walked.plan, walked.panel.session_index[rows, columns].astype(np.intp))]
        return joined([exits[k](strategy, rows[of == k], columns[of == k]) for k in walked.chosen])

    return follow


def _rules(walked: Walked) -> Rules:
    return lambda panel: _again(walked, panel)[1]


def _again(walked: Walked, panel: Panel) -> tuple[Panel, Trades]:
    """The test spans on other bars, traded fold after fold with the sets that were chosen here; the bars it saw."""
    sets = {k: walked.sets[k] for k in walked.chosen}
    commons = list(dict.fromkeys(params.common for params in sets.values()))
    prepared = dict(zip(commons, prepare_each(panel, commons), strict=True))
    possible = {k: possible_trades(prepared[p.common], p, *walked.test_span).every() for k, p in sets.items()}
    return prepared[commons[0]].panel, stitched(walked.panel, possible, walked.plan, walked.numbers)


def engine(walked: Walked, frozen: StrategyParams) -> Engine:
    """For the honesty checks: the stitched part on other bars; parameters that are not the frozen ones throughout."""
    from portfolio.backtest.engine import signal_trades
    from portfolio.backtest.output import signal_booked

    def run(panel: Panel, params: StrategyParams) -> Booked:
        if params == frozen:
            seen, trades = _again(walked, panel)
        else:
            prepared = prepare(panel, params.common)
            seen, trades = prepared.panel, signal_trades(prepared, params, *walked.test_span)
        return signal_booked(seen, trades, walked.costs)

    return run
