"""One walk-forward, wired: bars, folds, grid, the units and where they are worked out, the files."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from config.parameter_grid import ParameterGrid, load_grid
from config.settings_schema import WalkForward
from config.strategy_params import StrategyParams
from core import cli, logs
from core.bars_io import from_day
from core.clock import SystemClock
from core.errors import UsageError
from core.folds import folds_that_fit, walk_folds
from core.panel import Panel
from core.paths import REPO_ROOT
from portfolio.backtest.costs import CostModel
from portfolio.backtest.walk_forward import ONE_SET, Choice, Plan, Unit, choices, combined, stitched
from portfolio.strategies import session_number
from portfolio.strategies.indicators import prepare_each
from scripts import backtesting, walk_evidence, wiring
from scripts.backtest_data import Loaded, load
from scripts.walk_engines import PanelFile, Work, local, on_dask
from scripts.walk_evidence import Walked
from scripts.walk_store import UnitStore

if TYPE_CHECKING:
    from portfolio.backtest.account import Booked
    from portfolio.backtest.evidence import Tick
    from portfolio.backtest.output import SignalCurve
    from portfolio.backtest.run import Run
    from scripts.backtest_evidence import Tried


@dataclass(frozen=True, slots=True)
class Done:
    summary: Mapping[str, Any]  # as written to summary.json
    folds: Sequence[Mapping[str, Any]]
    folder: Path
    timings: Mapping[str, Any]  # what varies from run to run


@dataclass(frozen=True, slots=True)
class Asked:
    """What the walk-forward was told to do, from the command line and the settings."""

    grid: ParameterGrid
    grid_file: Path
    sets: tuple[StrategyParams, ...]  # the grid's, then the frozen one where it is not among them
    frozen: int
    plan: Plan
    train: int
    test: int
    min_trades: int

    @property
    def candidates(self) -> range:
        return range(len(self.grid.sets))

    def words(self) -> dict[str, Any]:
        """For the manifest and the ledger: everything that decides besides data, code, costs and span."""
        return {
            "folds": len(self.plan.folds), "train_days": self.train, "test_days": self.test,
            "embargo_days": self.plan.embargo, "min_trades": self.min_trades, "objective": self.plan.objective,
            "grid": {name: list(values) for name, values in self.grid.values.items()},
        }  # fmt: skip


# ---------------------------------------------------------------- one run
def run(context: wiring.Context, args: argparse.Namespace, tick: Tick = lambda *_: None) -> Done:
    from portfolio.backtest import output
    from scripts import backtest_honesty

    clock = SystemClock()
    began = clock.monotonic()
    grid_file = args.grid or REPO_ROOT / context.settings.walk_forward.grid
    grid = load_grid(grid_file, context.params)
    tick("loading bars")
    loaded = load(context, args)
    loaded_at = clock.monotonic()
    asked = ask(context.settings.walk_forward, args, loaded.panel, grid, grid_file, context.params)
    walked, picked, resumed = _walked(context, args, loaded, asked, tick, clock)
    booked, curve, made = _booked(walked)
    computed_at = clock.monotonic()
    folder = args.out or context.home.wf_outputs / f"walk-forward-{args.start}-{args.end}"
    tried = walk_evidence.record(context, args, loaded, walked, made, asked.words())
    rows = fold_rows(walked, asked, picked, booked)
    output.write_trade_list(folder / "trade_list.csv", walked.panel, booked)
    output.write_signal_equity(folder / "equity_curve.csv", curve)
    output.write_json(folder / "folds.json", {"folds": rows, "sets": _set_rows(walked, asked)})
    summary = backtesting.summary_of(context, args, loaded, booked) | {
        "walk_forward": _block(walked, asked, picked)
    }  # fmt: skip
    evidence_from = evidence_to = honest_at = clock.monotonic()
    if not args.no_report:
        summary |= walk_evidence.blocks(context, args, loaded, walked, made, tried, folder, tick)
        evidence_to = clock.monotonic()
        tick("asking whether it is honest")
        asked_again = walk_evidence.engine(walked, context.params)
        summary["honesty"] = backtest_honesty.block(context, args, loaded, booked, None, asked_again)
        honest_at = clock.monotonic()
    output.write_json(folder / "summary.json", summary)
    _write_manifest(context, args, loaded, asked, folder, tried)
    if not args.no_report:
        tick("writing the report")
        backtesting.write_report(folder)
    timings = {
        "seconds_load": round(loaded_at - began, 6),
        "seconds_compute": round(computed_at - loaded_at, 6),
        "seconds_evidence": round(evidence_to - evidence_from, 6),
        "seconds_honesty": round(honest_at - evidence_to, 6),
        "seconds_write": round(clock.monotonic() - computed_at - (honest_at - evidence_from), 6),
        "peak_rss_mb": backtesting.peak_rss_mb(),
        "sets_resumed": resumed,
        "sets_computed": len(asked.sets) - resumed,
    }
    return Done(summary, rows, folder, timings)


# ---------------------------------------------------------------- what is asked
def ask(
    settings: WalkForward, args: argparse.Namespace, panel: Panel, grid: ParameterGrid, grid_file: Path,
    frozen: StrategyParams,
) -> Asked:  # fmt: skip
    """Folds over the sessions of --start to --end. Raises UsageError FOLDS_DO_NOT_FIT."""
    low, high = np.searchsorted(panel.sessions, [session_number(args.start), session_number(args.end) + 1]).tolist()
    train = settings.train_days if args.train_days is None else args.train_days
    embargo, sessions = settings.embargo_days, high - low
    test = settings.test_days if args.test_days is None else args.test_days
    if args.folds is not None and args.test_days is None:
        test = max(1, (sessions - train - embargo) // args.folds)
    folds = folds_that_fit(sessions, train, test, embargo) if args.folds is None else args.folds
    try:
        found = walk_folds(sessions, folds, train, test, embargo)
    except ValueError:
        raise UsageError(
            f"{max(1, folds)} folds need {train + embargo + max(1, folds) * test} sessions ({train} to train, "
            f"{embargo} embargo, {test} to test each), there are {sessions}",
            code="FOLDS_DO_NOT_FIT", advice="fewer --folds, shorter --train-days or --test-days, or a longer span",
        ) from None  # fmt: skip
    moved = tuple(
        replace(f, **{name: value + low for name, value in asdict(f).items()}) for f in found
    )  # fmt: skip
    sets = grid.sets if frozen in grid.sets else (*grid.sets, frozen)
    return Asked(
        grid=grid, grid_file=grid_file, sets=sets, frozen=sets.index(frozen),
        plan=Plan(moved, embargo, settings.objective), train=train, test=test, min_trades=settings.min_trades,
    )  # fmt: skip


# ---------------------------------------------------------------- the units
def _walked(
    context: wiring.Context, args: argparse.Namespace, loaded: Loaded, asked: Asked, tick: Tick, clock: SystemClock
) -> tuple[Walked, list[Choice], int]:
    """Every unit, from the store or worked out now; the choices; how many came from the store."""
    tick("indicators")
    costs = CostModel.from_settings(context.settings.costs, args.costs_bps)
    commons = list(dict.fromkeys(params.common for params in asked.sets))
    with backtesting.spread_over(args.workers) as spread:
        prepared = dict(zip(commons, prepare_each(loaded.panel, commons, spread=spread), strict=True))
    panel = prepared[commons[0]].panel
    store = UnitStore(
        context.home.cache / "walk_forward", _decided(context, args, loaded, panel, asked), panel.symbols
    )  # fmt: skip
    units = {k: unit for k, params in enumerate(asked.sets) if (unit := store.read(params)) is not None}
    resumed = len(units)
    todo = [(k, params) for k, params in enumerate(asked.sets) if k not in units]
    work = Work(todo, prepared, asked.plan, costs)
    tell = _eta(tick, clock, len(todo))
    for number, unit in _finished(args, context, work, panel, store.key) if todo else ():
        store.write(asked.sets[number], unit)
        units[number] = unit
        tell()
    store.forget_others()
    ordered = [units[k] for k in range(len(asked.sets))]
    picked = choices(ordered, asked.plan, asked.candidates, asked.frozen, asked.min_trades)
    for fold, choice in enumerate(picked, start=1):
        if choice.code and choice.code != ONE_SET:
            logs.event("walk_fold_fell_back", fold=fold, code=choice.code, trades=choice.trained)
            logs.count("walk_fold_fell_back", code=choice.code)
    walked = Walked(
        panel=panel, sets=asked.sets, searched=len(asked.grid.sets), units=ordered, plan=asked.plan,
        numbers=[choice.number for choice in picked], prepared=prepared, costs=costs,
    )  # fmt: skip
    return walked, picked, resumed


def _finished(
    args: argparse.Namespace, context: wiring.Context, work: Work, panel: Panel, key: str
) -> Iterator[tuple[int, Unit]]:
    if args.engine == "local":
        return local(work, args.workers)
    file = PanelFile(str(context.home.cache.resolve() / "panel" / "walk-forward"), key[:24])
    return on_dask(work, panel, file, args.scheduler, args.workers)


def _eta(tick: Tick, clock: SystemClock, total: int) -> Callable[[], None]:
    """Tells after each set how many are done and about how long the others take."""
    began, done = clock.monotonic(), 0

    def tell() -> None:
        nonlocal done
        done += 1
        left_s = (clock.monotonic() - began) / done * (total - done)
        tick(f"{done} of {total} parameter sets, about {left_s:.0f} s left")

    tick(f"0 of {total} parameter sets")
    return tell


def _decided(
    context: wiring.Context, args: argparse.Namespace, loaded: Loaded, panel: Panel, asked: Asked
) -> dict[str, Any]:
    """Everything that decides a unit besides its parameters. The data's hash is of whole files, hence the rest."""
    from config.pin import code_sha256

    shape = hashlib.sha256("\n".join(panel.symbols).encode())
    for block in (panel.sessions, panel.length):
        shape.update(np.ascontiguousarray(block).tobytes())
    return {
        "data": loaded.sha256, "panel": shape.hexdigest(), "quarantined": sorted(loaded.removed.items()),
        "quarantine": args.quarantine, "code": code_sha256(), "numpy": np.__version__,
        "costs": context.settings.costs.model_dump(mode="json"), "costs_bps": args.costs_bps,
        "plan": asdict(asked.plan),
    }  # fmt: skip


# ---------------------------------------------------------------- the stitched part
def _booked(walked: Walked) -> tuple[Booked, SignalCurve, Run]:
    from portfolio.backtest.output import signal_booked, signal_curve
    from portfolio.backtest.run import Run

    panel, plan = walked.panel, walked.plan
    trades = stitched(panel, {k: unit.trades for k, unit in enumerate(walked.units)}, plan, walked.numbers)
    booked = signal_booked(panel, trades, walked.costs)
    start, end = _session(panel, plan.test_first), _session(panel, plan.end - 1)
    curve = signal_curve(panel, booked, start, end)
    made = Run(
        level="signals", panel=panel, start=start, end=end, booked=booked, days=curve.days, returns=curve.returns
    )
    return booked, curve, made


def _session(panel: Panel, at: int) -> Any:
    return from_day(int(panel.sessions[at]))


def fold_rows(walked: Walked, asked: Asked, picked: Sequence[Choice], booked: Booked) -> list[dict[str, Any]]:
    """One row a fold: its spans, what was chosen and why, and what the test span brought after costs."""
    panel = walked.panel
    at = np.searchsorted(panel.sessions, booked.trades.signal_at)
    rows = []
    for number, (fold, choice) in enumerate(zip(walked.plan.folds, picked, strict=True), start=1):
        figures = backtesting.figures_of(booked, (at >= fold.test_first) & (at < fold.test_end))
        rows.append(
            {
                "fold": number,
                "train_first": _session(panel, fold.train_first).isoformat(),
                "train_last": _session(panel, fold.train_end - 1).isoformat(),
                "test_first": _session(panel, fold.test_first).isoformat(),
                "test_last": _session(panel, fold.test_end - 1).isoformat(),
                "set": choice.number + 1,
                "code": choice.code,
                "score": choice.score,
                "train_trades": choice.trained,
                "purged": choice.purged,
                **figures,
            }
        )
    return rows


def _set_rows(walked: Walked, asked: Asked) -> list[dict[str, Any]]:
    rows = []
    for k in range(len(walked.sets)):
        own = k < walked.searched
        rows.append(
            {
                "set": k + 1,
                "parameters": asked.grid.values_of(k) if own else {},
                "searched": own,
                "frozen": k == asked.frozen,
                "folds": list(walked.numbers).count(k),
            }
        )
    return rows


def _block(walked: Walked, asked: Asked, picked: Sequence[Choice]) -> dict[str, Any]:
    from portfolio.backtest.output import signal_booked

    frozen = [asked.frozen] * len(walked.plan.folds)
    trades = stitched(walked.panel, {asked.frozen: walked.units[asked.frozen].trades}, walked.plan, frozen)
    booked = signal_booked(walked.panel, trades, walked.costs)
    across = combined(walked.units, asked.candidates, asked.frozen, asked.min_trades)
    return asked.words() | {
        "sets": len(asked.grid.sets),
        "test_first": _session(walked.panel, walked.plan.test_first).isoformat(),
        "test_last": _session(walked.panel, walked.plan.end - 1).isoformat(),
        "fell_back": sum(bool(choice.code) and choice.code != ONE_SET for choice in picked),
        "frozen_instead": backtesting.figures_of(booked, np.ones(len(trades), dtype=np.bool_)),
        "combinatorial": asdict(across),
    }


def _write_manifest(
    context: wiring.Context, args: argparse.Namespace, loaded: Loaded, asked: Asked, folder: Path,
    tried: Tried,
) -> None:  # fmt: skip
    from portfolio.backtest import output

    base = backtesting.manifest_of(context, args, loaded, tried)
    base["hashes"]["grid"] = backtesting.file_sha256(asked.grid_file)
    base["files"] = sorted({*base["files"], "folds.json"})
    output.write_json(folder / "manifest.json", base | {"walk_forward": asked.words()})


# ---------------------------------------------------------------- for people
def render(done: Done) -> str:
    summary, block = done.summary, done.summary["walk_forward"]
    mark = "SIMULATED | " if summary["simulated"] else ""
    lines = [f"{mark}data: {summary['data_source']}, {summary['symbols']} symbols, {summary['sessions']} sessions"]
    lines.append(
        f"{block['folds']} folds: {block['train_days']} sessions to train, {block['embargo_days']} embargo, "
        f"{block['test_days']} to test; {block['sets']} sets"
    )
    lines.append(fold_table(done.folds))
    out, frozen = summary["strategies"]["all"], block["frozen_instead"]
    lines.append(f"out of sample, stitched: {_told(out)}")
    lines.append(f"the frozen parameters instead: {_told(frozen)}")
    lines += _across(block["combinatorial"])
    lines += backtesting.evidence_lines(summary)
    lines += [f"note: {note}" for note in summary["notes"]]
    lines.append(f"written: {done.folder / 'folds.json'}")
    if (done.folder / "report.html").is_file() and "promotion" in summary:
        lines.append(f"report: {done.folder / 'report.html'}")
    return "\n".join(lines)


def fold_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """80 columns; a fold that chose nothing shows its code below the table."""
    head = ["fold", "test from", "to", "set", "score", "train", "purged", "test", "won", "mean R"]
    cells = [
        [
            row["fold"], row["test_first"], row["test_last"], f"{row['set']}{'*' if row['code'] else ''}",
            "-" if row["score"] is None else f"{row['score']:.2f}", row["train_trades"], row["purged"], row["closed"],
            f"{row['won'] / row['closed']:.0%}" if row["closed"] else "-",
            "-" if row["mean_r"] is None else f"{row['mean_r']:+.3f}",
        ]
        for row in rows
    ]  # fmt: skip
    codes = sorted({row["code"] for row in rows if row["code"]})
    return "\n".join([cli.table(head, cells), *(f"* {code}: the frozen parameters" for code in codes)])


def _told(figures: Mapping[str, Any]) -> str:
    n = figures["closed"]
    if not n:
        return f"no closed trade ({figures['open']} open)"
    return f"{n} trades, {figures['won'] / n:.1%} won, mean {figures['mean_r']:+.4f} R after costs"


def _across(found: Mapping[str, Any]) -> list[str]:
    told = sorted(value for value in found["expectancy_r"] if value is not None)
    if not told:
        return [f"combinatorial folds: no path had a trade (N = {found['splits']} splits)"]
    return [
        f"combinatorial folds: mean R {told[0]:+.4f} to {told[-1]:+.4f} (N = {len(told)} paths), the choice lost in "
        f"{found['losing']} of {found['splits']} splits"
    ]
