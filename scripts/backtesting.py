"""One backtest, wired: bars, the rules of the live day, the run, its files."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import importlib.util
import platform
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core import cli
from core.bars_io import from_day
from core.clock import SystemClock
from core.panel import Panel
from core.paths import REPO_ROOT
from portfolio.backtest.costs import CostModel, review_due
from portfolio.strategies.indicators import Prepared, Spread, prepare
from scripts import wiring
from scripts.backtest_data import Loaded, load

if TYPE_CHECKING:
    from portfolio.backtest.account import Booked
    from portfolio.backtest.evidence import Run, Tick
    from portfolio.backtest.output import SignalCurve
    from portfolio.backtest.portfolio_level import Equity, PortfolioRun, World
    from scripts.backtest_evidence import Tried

REPORT = "portfolio.backtest.report"


@dataclass(frozen=True, slots=True)
class Done:
    summary: Mapping[str, Any]  # as written to summary.json
    folder: Path
    timings: Mapping[str, Any]  # what varies from run to run


# ---------------------------------------------------------------- one run
@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """What a level computed: the run as the ledger and the evidence see it, and what only that level knows."""

    run: Run
    prepared: Prepared
    computed_at: float  # monotonic seconds
    signals: SignalCurve | None = None
    portfolio: PortfolioRun | None = None
    world: World | None = None


def run(context: wiring.Context, args: argparse.Namespace, tick: Tick = lambda *_: None) -> Done:
    from portfolio.backtest import output
    from scripts import backtest_evidence, backtest_honesty

    clock = SystemClock()
    began = clock.monotonic()
    tick("loading bars")
    loaded = load(context, args)
    loaded_at = clock.monotonic()
    folder = args.out or context.home.wf_outputs / f"dual-{args.level}-{args.start}-{args.end}"
    tick("following every signal")
    made = (_signals if args.level == "signals" else _portfolio)(context, loaded, args, clock)
    tried = backtest_evidence.record(context, args, loaded, made.run)
    summary = _write_curves(context, args, loaded, made, folder)
    evidence_from = evidence_to = honest_at = clock.monotonic()
    if not args.no_report:
        summary |= backtest_evidence.blocks(
            context, args, loaded, made.prepared, made.run, tried, folder, world=made.world, tick=tick
        )
        evidence_to = clock.monotonic()
        tick("asking whether it is honest")
        summary["honesty"] = backtest_honesty.block(context, args, loaded, made.run.booked, made.world)
        honest_at = clock.monotonic()
    output.write_json(folder / "summary.json", summary)
    output.write_json(folder / "manifest.json", manifest_of(context, args, loaded, tried))
    if not args.no_report:
        tick("writing the report")
        write_report(folder)
    timings = {
        "seconds_load": round(loaded_at - began, 6),
        "seconds_compute": round(made.computed_at - loaded_at, 6),
        "seconds_evidence": round(evidence_to - evidence_from, 6),
        "seconds_honesty": round(honest_at - evidence_to, 6),
        "seconds_write": round(clock.monotonic() - made.computed_at - (honest_at - evidence_from), 6),
        "peak_rss_mb": peak_rss_mb(),
    }
    return Done(summary, folder, timings)


def _signals(context: wiring.Context, loaded: Loaded, args: argparse.Namespace, clock: SystemClock) -> _Made:
    from portfolio.backtest.engine import signal_trades

    with spread_over(args.workers) as spread:
        prepared = prepare(loaded.panel, context.params.common, spread=spread)
        trades = signal_trades(prepared, context.params, args.start, args.end, spread=spread)
    computed_at = clock.monotonic()
    from portfolio.backtest.output import signal_booked, signal_curve
    from portfolio.backtest.run import Run

    panel, span = prepared.panel, _span(prepared.panel, args)
    booked = signal_booked(panel, trades, CostModel.from_settings(context.settings.costs, args.costs_bps))
    curve = signal_curve(panel, booked, *span)
    made = Run(
        level="signals", panel=panel, start=span[0], end=span[1], booked=booked, days=curve.days, returns=curve.returns
    )
    return _Made(made, prepared, computed_at, signals=curve)


def _portfolio(context: wiring.Context, loaded: Loaded, args: argparse.Namespace, clock: SystemClock) -> _Made:
    from portfolio.backtest.portfolio_level import simulate
    from scripts.backtest_evidence import portfolio_run
    from scripts.backtest_house import world_of

    with spread_over(args.workers) as spread:
        prepared = prepare(loaded.panel, context.params.common, spread=spread)
    world = world_of(context, loaded, args)
    found = simulate(prepared, args.start, args.end, world)
    computed_at = clock.monotonic()
    made = portfolio_run(found, prepared, _span(prepared.panel, args), float(world.cash_usd))
    return _Made(made, prepared, computed_at, portfolio=found, world=world)


@contextmanager
def spread_over(workers: int) -> Iterator[Spread]:
    """Threads share the panel; numpy lets go of Python's lock in every large step. The bytes do not depend on it."""
    if workers == 1:
        yield map
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(workers) as pool:
        yield pool.map


def write_report(folder: Path) -> bool:
    """The tear sheet, when this version has one."""
    if importlib.util.find_spec(REPORT) is None:
        return False
    importlib.import_module(REPORT).write(folder)
    return True


def peak_rss_mb() -> float | None:
    """The most memory this process held; None where the system does not say."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)


# ---------------------------------------------------------------- what is written
def _write_curves(
    context: wiring.Context, args: argparse.Namespace, loaded: Loaded, made: _Made, folder: Path
) -> dict[str, Any]:
    """trade_list.csv and equity_curve.csv; what of the summary needs no evidence."""
    from portfolio.backtest import output

    booked = made.run.booked
    output.write_trade_list(folder / "trade_list.csv", made.prepared.panel, booked)
    if made.signals is not None:
        output.write_signal_equity(folder / "equity_curve.csv", made.signals)
    found = made.portfolio
    if found is None:
        return summary_of(context, args, loaded, booked)
    output.write_equity(folder / "equity_curve.csv", found.equity)
    unknown = [d for d in found.equity.days.tolist() if from_day(d) not in loaded.vix]
    if unknown:
        loaded.notes.append(f"VIX not known for {len(unknown)} of {found.sessions} sessions: then nothing is opened")
    return summary_of(context, args, loaded, booked) | {
        "refused": dict(found.refused), "account": _account(context, found.equity)
    }  # fmt: skip


def _span(panel: Panel, args: argparse.Namespace) -> tuple[date, date]:
    first, last = from_day(int(panel.sessions[0])), from_day(int(panel.sessions[-1]))
    return max(args.start, first), min(args.end, last)


def _account(context: wiring.Context, equity: Equity) -> dict[str, Any]:
    start = float(context.settings.venue.starting_cash_usd)
    if not equity.days.size:
        return {"start_usd": start, "sessions": 0}
    worth = np.concatenate([[start], equity.equity])
    return {
        "start_usd": start,
        "end_usd": float(worth[-1]),
        "total_return": float(worth[-1] / start - 1.0),
        "max_drawdown": float((worth / np.maximum.accumulate(worth) - 1.0).min()),
        "costs_usd": float(equity.costs[-1]),
        "mean_exposure": float((equity.exposure / equity.equity).mean()),
        "sessions": int(equity.days.size),
    }


def summary_of(context: wiring.Context, args: argparse.Namespace, loaded: Loaded, booked: Booked) -> dict[str, Any]:
    """Counts and means with their N; a trade still open at the end of the data is in no statistic."""
    trades, panel = booked.trades, loaded.panel
    costs = context.settings.costs
    notes = list(loaded.notes)
    last = from_day(int(panel.sessions[-1]))
    if review_due(costs, last) and args.costs_bps != 0:
        notes.append(f"FEES_REVIEW_DUE: fee tables were looked at until {costs.fees_review_by}, data end {last}")
    by_strategy = {
        name: figures_of(booked, trades.strategy == k) for k, name in enumerate(trades.strategies)
    } | {"all": figures_of(booked, np.ones(len(trades), dtype=np.bool_))}  # fmt: skip
    return {
        "level": args.level,
        "start": args.start.isoformat(),
        "end": args.end.isoformat(),
        "data_source": loaded.source,
        "data_sha256": loaded.sha256,
        "simulated": loaded.simulated,
        "symbols": len(panel.symbols),
        "sessions": int(panel.sessions.size),
        "quarantined": dict(sorted(loaded.removed.items())),
        "costs": {
            "charged": args.costs_bps != 0,
            "slippage_bps": costs.slippage_bps if args.costs_bps is None else args.costs_bps,
        },
        "trades": len(trades),
        "strategies": by_strategy,
        "capacity": _capacity(context, booked),
        "notes": notes,
    }


def figures_of(booked: Booked, of: Any) -> dict[str, Any]:
    trades = booked.trades
    closed = of & trades.closed
    count = int(closed.sum())
    gross = trades.exit_price[closed] / trades.entry_price[closed] - 1.0
    net = booked.pnl_usd[closed]
    return {
        "trades": int(of.sum()),
        "open": int(of.sum()) - count,
        "closed": count,
        "won": int((net > 0).sum()),
        "mean_return": float(gross.mean()) if count else None,
        "mean_r": float(booked.r_multiple[closed].mean()) if count else None,
        "pnl_usd": float(net.sum()),
        "costs_usd": float(booked.costs_usd[of].sum()),
    }


def _capacity(context: wiring.Context, booked: Booked) -> dict[str, Any]:
    """One order is per_order_max_usd of the account that position_limit of them would fill."""
    from portfolio.backtest.capacity import capacity

    found = capacity(
        booked.dollar_volume, 1.0 / context.settings.risk.position_limit, context.settings.costs.participation_pct
    )
    return dataclasses.asdict(found)


def manifest_of(
    context: wiring.Context, args: argparse.Namespace, loaded: Loaded, tried: Tried
) -> dict[str, Any]:  # fmt: skip
    """What made this run: the same manifest means the same files."""
    from config.loader import settings_path
    from config.pin import code_sha256
    from config.strategy_params import FROZEN_PARAMS_PATH

    return {
        "command": _command(args),
        "hashes": {
                "code": tried.code or code_sha256(),
                "config": file_sha256(settings_path()),
                "frozen_params": file_sha256(FROZEN_PARAMS_PATH),
                "universe": file_sha256(args.universe or REPO_ROOT / context.settings.universe.path),
            },
        "parameters": dataclasses.asdict(context.params),
        "data": {
            "source": loaded.source, "sha256": loaded.sha256, "simulated": loaded.simulated,
            "symbols": len(loaded.panel.symbols), "first": _day(loaded.panel, 0), "last": _day(loaded.panel, -1),
        },
        "libraries": {"python": platform.python_version(), "numpy": np.__version__},
        "trials": None if args.no_report else _tried(tried),
        "files": ["trade_list.csv", "equity_curve.csv", "summary.json"]
            + ([] if args.no_report else ["benchmark_curve.csv", "report.html"]),
    }  # fmt: skip


def _tried(tried: Tried) -> dict[str, Any]:
    """The ledger as the evidence saw it: with more trials the same backtest is judged more strictly."""
    keys = sorted(trial.key for trial in tried.trials)
    return {"n": len(keys), "sha256": hashlib.sha256("\n".join(keys).encode()).hexdigest()}


def file_sha256(path: Path) -> str | None:
    """As the config pin hashes it: with its line ends as LF. None: no such file."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest() if path.is_file() else None


def _day(panel: Panel, at: int) -> str:
    return from_day(int(panel.sessions[at])).isoformat()


def _command(args: argparse.Namespace) -> dict[str, Any]:
    """Every option that decides what is computed, where it was not written on the command line too."""
    names = ("level", "start", "end", "cap", "universe", "bars", "quarantine", "costs_bps")
    return {name: None if (value := getattr(args, name)) is None else str(value) for name in names}


# ---------------------------------------------------------------- for people
def render(done: Done) -> str:
    summary = done.summary
    mark = "SIMULATED | " if summary["simulated"] else ""
    size = f"{summary['symbols']} symbols, {summary['sessions']} sessions"
    lines = [f"{mark}data: {summary['data_source']}, {size}"]
    rows = [
        [name, row["trades"], row["open"], row["won"], _percent(row["mean_return"]), _number(row["mean_r"])]
        for name, row in summary["strategies"].items()
    ]
    head = ["strategy", "trades", "open", "won after costs", "mean return", "mean R after costs"]
    lines.append(cli.table(head, rows))
    if "account" in summary and summary["account"]["sessions"]:
        account = summary["account"]
        lines.append(
            f"account {account['start_usd']:.0f} -> {account['end_usd']:.2f} USD ({account['total_return']:+.2%}), "
            f"worst drawdown\n  {account['max_drawdown']:.2%}, costs {account['costs_usd']:.2f} USD, "
            f"{account['sessions']} sessions"
        )
    charged = summary["costs"]
    said = f"{charged['slippage_bps']:g} bps slippage a side, half the spread, fees" if charged["charged"] else "none"
    lines.append(f"costs: {said}")
    lines += evidence_lines(summary)
    lines += [line for note in summary["notes"] for line in textwrap.wrap(f"note: {note}", 80, subsequent_indent="  ")]
    lines.append(f"written: {done.folder / 'trade_list.csv'}")
    if (done.folder / "report.html").is_file() and "promotion" in summary:
        lines.append(f"report: {done.folder / 'report.html'}")
    return "\n".join(lines)


def evidence_lines(summary: Mapping[str, Any]) -> list[str]:
    """The verdict in plain words, then the main figures with their N and interval; nothing when it was left out."""
    if "promotion" not in summary:
        return []
    from portfolio.backtest.words import main_lines, verdict_words

    said = [line for words in verdict_words(summary) for line in textwrap.wrap(words, 80, subsequent_indent="  ")]
    return ["", *said, "", *main_lines(summary["statistics"]), ""]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"
