"""One backtest, wired: bars, the rules of the live day, the run, its files."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import importlib.util
import platform
import sys
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
    from portfolio.backtest.engine import Trades
    from portfolio.backtest.portfolio_level import Equity, PortfolioRun

REPORT = "portfolio.backtest.report"


@dataclass(frozen=True, slots=True)
class Done:
    summary: Mapping[str, Any]  # as written to summary.json
    folder: Path
    timings: Mapping[str, Any]  # what varies from run to run


# ---------------------------------------------------------------- one run
def run(context: wiring.Context, args: argparse.Namespace) -> Done:
    clock = SystemClock()
    began = clock.monotonic()
    loaded = load(context, args)
    loaded_at = clock.monotonic()
    folder = args.out or context.home.wf_outputs / f"dual-{args.level}-{args.start}-{args.end}"
    with _spread(args.workers) as spread:
        prepared = prepare(loaded.panel, context.params.common, spread=spread)
        if args.level == "signals":
            trades = _signals(context, prepared, args, spread)
            computed_at = clock.monotonic()
            summary = _write_signals(context, args, loaded, prepared, trades, folder)
        else:
            from portfolio.backtest.portfolio_level import simulate
            from scripts.backtest_house import world_of

            world = world_of(context, loaded, args)
            found = simulate(prepared, args.start, args.end, world)
            computed_at = clock.monotonic()
            summary = _write_portfolio(context, args, loaded, prepared, found, folder)
    _write_manifest(context, args, loaded, folder)
    if not args.no_report:
        write_report(folder)
    timings = {
        "seconds_load": round(loaded_at - began, 6),
        "seconds_compute": round(computed_at - loaded_at, 6),
        "seconds_write": round(clock.monotonic() - computed_at, 6),
        "peak_rss_mb": peak_rss_mb(),
    }
    return Done(summary, folder, timings)


def _signals(context: wiring.Context, prepared: Prepared, args: argparse.Namespace, spread: Spread) -> Trades:
    from portfolio.backtest.engine import signal_trades

    return signal_trades(prepared, context.params, args.start, args.end, spread=spread)


@contextmanager
def _spread(workers: int) -> Iterator[Spread]:
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
def _write_signals(
    context: wiring.Context, args: argparse.Namespace, loaded: Loaded, prepared: Prepared, trades: Trades, folder: Path
) -> dict[str, Any]:
    from portfolio.backtest import output

    panel = prepared.panel
    booked = output.signal_booked(panel, trades, CostModel.from_settings(context.settings.costs, args.costs_bps))
    output.write_trade_list(folder / "trade_list.csv", panel, booked)
    span = _span(panel, args)
    output.write_signal_equity(folder / "equity_curve.csv", panel, booked, *span)
    summary = _summary(context, args, loaded, booked)
    output.write_json(folder / "summary.json", summary)
    return summary


def _write_portfolio(
    context: wiring.Context, args: argparse.Namespace, loaded: Loaded, prepared: Prepared, found: PortfolioRun,
    folder: Path,
) -> dict[str, Any]:  # fmt: skip
    from portfolio.backtest import output

    output.write_trade_list(folder / "trade_list.csv", prepared.panel, found.booked)
    output.write_equity(folder / "equity_curve.csv", found.equity)
    unknown = [d for d in found.equity.days.tolist() if from_day(d) not in loaded.vix]
    if unknown:
        loaded.notes.append(f"VIX not known for {len(unknown)} of {found.sessions} sessions: then nothing is opened")
    summary = _summary(context, args, loaded, found.booked) | {
        "refused": dict(found.refused), "account": _account(context, found.equity)
    }  # fmt: skip
    output.write_json(folder / "summary.json", summary)
    return summary


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


def _summary(context: wiring.Context, args: argparse.Namespace, loaded: Loaded, booked: Booked) -> dict[str, Any]:
    """Counts and means with their N; a trade still open at the end of the data is in no statistic."""
    trades, panel = booked.trades, loaded.panel
    costs = context.settings.costs
    notes = list(loaded.notes)
    last = from_day(int(panel.sessions[-1]))
    if review_due(costs, last) and args.costs_bps != 0:
        notes.append(f"FEES_REVIEW_DUE: fee tables were looked at until {costs.fees_review_by}, data end {last}")
    by_strategy = {
        name: _figures(booked, trades.strategy == k) for k, name in enumerate(trades.strategies)
    } | {"all": _figures(booked, np.ones(len(trades), dtype=np.bool_))}  # fmt: skip
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


def _figures(booked: Booked, of: Any) -> dict[str, Any]:
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


def _write_manifest(context: wiring.Context, args: argparse.Namespace, loaded: Loaded, folder: Path) -> None:
    """What made this run: the same manifest means the same files."""
    from config.loader import settings_path
    from config.pin import code_sha256
    from config.strategy_params import FROZEN_PARAMS_PATH
    from portfolio.backtest import output

    output.write_json(folder / "manifest.json", {
        "command": _command(args),
        "hashes": {
                "code": code_sha256(),
                "config": _sha256(settings_path()),
                "frozen_params": _sha256(FROZEN_PARAMS_PATH),
                "universe": _sha256(args.universe or REPO_ROOT / context.settings.universe.path),
            },
        "parameters": dataclasses.asdict(context.params),
        "data": {
            "source": loaded.source, "sha256": loaded.sha256, "simulated": loaded.simulated,
            "symbols": len(loaded.panel.symbols), "first": _day(loaded.panel, 0), "last": _day(loaded.panel, -1),
        },
        "libraries": {"python": platform.python_version(), "numpy": np.__version__},
        "files": ["trade_list.csv", "equity_curve.csv", "summary.json"],
    })  # fmt: skip


def _sha256(path: Path) -> str | None:
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
            f"worst drawdown {account['max_drawdown']:.2%}, costs {account['costs_usd']:.2f} USD, "
            f"{account['sessions']} sessions"
        )
    charged = summary["costs"]
    said = f"{charged['slippage_bps']:g} bps slippage a side, half the spread, fees" if charged["charged"] else "none"
    lines.append(f"costs: {said}")
    lines += [f"note: {note}" for note in summary["notes"]]
    lines.append(f"written: {done.folder / 'trade_list.csv'}")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"
