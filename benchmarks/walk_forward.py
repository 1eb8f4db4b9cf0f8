"""How dear a walk-forward is, as multiples of one signal-level backtest in the same process: 50 folds x 12 parameter
sets, one worker against two, and how the cost grows.

  python benchmarks/walk_forward.py --work DIR [--bench FOLDER] [--size 900x2520] [--rounds N]

--bench   the folder with make_data.py (default: ../shared/peers-bench)
Costs are CPU seconds, the least of several goes, since other work on the machine only adds. The gain of two workers can
only be seen on the clock: the least of the rounds of each, and beside it what two separate processes with half the sets
each gained at the same time, which is what the machine had to give.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.backtest import ALWAYS, Row, cpu_of, exponent, prepared_data, table  # noqa: E402 - benchmarks run from any directory
from config.loader import load_settings  # noqa: E402
from config.strategy_params import StrategyParams, load_strategy_params  # noqa: E402
from core.folds import walk_folds  # noqa: E402
from core.panel import Panel  # noqa: E402
from core.panel_file import panel_of_files  # noqa: E402
from portfolio.backtest.costs import CostModel  # noqa: E402
from portfolio.backtest.engine import signal_trades  # noqa: E402
from portfolio.backtest.walk_forward import Plan, Unit, choices, combined, stitched  # noqa: E402
from portfolio.strategies import session_date  # noqa: E402
from portfolio.strategies.indicators import prepare  # noqa: E402
from scripts.walk_engines import Work, local  # noqa: E402

FOLDS, TRAIN, EMBARGO = 50, 252, 5
FROZEN = load_strategy_params()
COSTS = CostModel.from_settings(load_settings().costs)


def sets_of(count: int) -> list[StrategyParams]:
    """`count` parameter sets, the first of the shipped grid's kind."""
    values = product((0.5, 1.0, 0.75, 1.25), (5, 7), (1.5, 2.0, 3.0))
    chosen = [next(values) for _ in range(count)]
    return [
        replace(
            FROZEN,
            ibs_rsi=replace(FROZEN.ibs_rsi, stop_atr=stop, time_stop_bars=bars),
            turtle_soup=replace(FROZEN.turtle_soup, target_r=target),
        )
        for target, bars, stop in chosen
    ]


def plan_of(panel: Panel) -> Plan:
    sessions = panel.sessions.size
    test = (sessions - TRAIN - EMBARGO) // FOLDS
    return Plan(walk_folds(sessions, FOLDS, TRAIN, test, EMBARGO), EMBARGO, "t_value")


def walk(panel: Panel, count: int, workers: int = 1) -> None:
    """Everything from the panel to the stitched trades."""
    sets, plan = sets_of(count), plan_of(panel)
    prepared = prepare(panel, FROZEN.common)
    work = Work(list(enumerate(sets)), {FROZEN.common: prepared}, plan, COSTS)
    found: dict[int, Unit] = dict(local(work, workers))
    units = [found[k] for k in range(count)]
    picked = choices(units, plan, range(count), 0, 100)
    combined(units, range(count), 0, 100)
    stitched(prepared.panel, {k: unit.trades for k, unit in found.items()}, plan, [c.number for c in picked])


_HELD: list[Panel] = []


def half(_: int) -> None:
    walk(_HELD[0], 6)


def gain(panel: Panel, rounds: int) -> tuple[float, float]:
    """(two threads, two processes) against one worker, on the clock."""
    _HELD[:] = [panel]
    least = {1: math.inf, 2: math.inf, "apart": math.inf}
    with ProcessPoolExecutor(2, mp_context=get_context("fork" if os.name == "posix" else "spawn")) as pool:
        list(pool.map(half, range(2)))  # started
        for _ in range(rounds):
            for name in least:
                began = time.perf_counter()
                if name == "apart":
                    list(pool.map(half, range(2)))
                else:
                    walk(panel, 12, int(name))
                least[name] = min(least[name], time.perf_counter() - began)
    return least[1] / least[2], least[1] / least["apart"]


def grows(name: str, panels: Sequence[Panel], sizes: Sequence[float], counts: Sequence[int], rounds: int) -> None:
    times = [cpu_of(lambda p=p, c=c: walk(p, c), rounds) for p, c in zip(panels, counts, strict=True)]  # type: ignore[misc]
    print(f"cost grows with {name} to the power {exponent(sizes, times):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--bench", type=Path, default=ROOT.parent / "shared" / "peers-bench")
    parser.add_argument("--size", default="900x2520", help="symbols x sessions")
    parser.add_argument("--rounds", type=int, default=5)
    args: Any = parser.parse_args()
    args.work = args.work.resolve()
    csv, _ = prepared_data(args)
    panel = panel_of_files(csv, args.work / "home" / "cache").panel
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{os.cpu_count()} cores, load average {load:.1f} at the start, {args.rounds} rounds\n")
    base = cpu_of(lambda: signal_trades(prepare(panel, FROZEN.common), FROZEN, *ALWAYS), args.rounds)
    rows = [Row(f"{FOLDS} folds x 12 sets", {"CPU": [cpu_of(lambda: walk(panel, 12), args.rounds) / base]})]
    rows.append(Row(f"{FOLDS} folds x 1 set", {"CPU": [cpu_of(lambda: walk(panel, 1), args.rounds) / base]}))
    threads, apart = gain(panel, args.rounds)
    rows.append(Row("1 worker / 2 workers", {"wall": [threads]}))
    rows.append(Row("1 worker / 2 processes with half the sets each", {"wall": [apart]}))
    print(table(f"walk-forward over one signal-level backtest, {args.size}", ["CPU", "wall"], rows))
    sizes = (1.0, 2.0, 4.0)
    symbols = [panel.select(panel.symbols[: len(panel.symbols) // k]) for k in (4, 2, 1)]
    grows("symbols", symbols, sizes, (12, 12, 12), args.rounds)
    bars = [panel.truncated(session_date(panel.sessions[panel.sessions.size // k - 1])) for k in (4, 2, 1)]
    fresh = [p.close.shape[0] - FROZEN.common.sma_bars + 1 for p in bars]  # the first window of bars decides nothing
    grows("bars after the first window", bars, fresh, (12, 12, 12), args.rounds)
    grows("parameter sets", [panel] * 3, (6.0, 12.0, 24.0), (6, 12, 24), args.rounds)


if __name__ == "__main__":
    main()
