"""How fast the backtest is, as ratios within one run: against one pass of C over the same bars, against pyarrow reading
the same bytes, and against other people's engines where their environments are given.

  python benchmarks/backtest.py --work DIR [--bench FOLDER] [--size 900x2520] [--rounds N]
                                [--arrow PYTHON] [--peers PYTHON] [--peer vectorbt-from_signals ...]

--bench   the folder with limit.c, make_data.py and the peers' scripts (default: ../shared/peers-bench)
--arrow   an interpreter with pyarrow; --peers: one with vectorbt and the others
A ratio is taken within a round and its middle is shown, smallest and largest in brackets. CPU (user and system seconds)
is disturbed least by other work on the machine; wall time is what is felt.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ALWAYS = (date(1900, 1, 1), date(2200, 1, 1))
ARROW = """
import json, pathlib, sys, time
import pyarrow.csv as csv
wall, cpu = time.perf_counter(), time.process_time()
for file in sorted(pathlib.Path(sys.argv[1]).glob("*.csv")):
    csv.read_csv(file, read_options=csv.ReadOptions(use_threads=False))
print(json.dumps({"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}))
"""
PEERS = {
    "vectorbt-from_order_func": ("peer_vectorbt.py", ("--mode", "orders")),
    "vectorbt-from_signals": ("peer_vectorbt.py", ("--mode", "signals")),
    "backtesting.py": ("peer_backtesting_py.py", ()),
    "backtrader": ("peer_backtrader.py", ()),
}


@dataclass(frozen=True)
class Ran:
    wall_s: float
    cpu_s: float
    said: dict[str, Any]


def run(command: Sequence[object], **environment: str) -> Ran:
    """One child to its end, one thread each; its last line of JSON is what it says of itself."""
    import resource

    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False,
        env={**os.environ, **single, **environment},
    )  # fmt: skip
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(wall, cpu, json.loads(lines[-1]) if lines else {})


@dataclass
class Row:
    name: str
    ratios: dict[str, list[float]]

    def add(self, **ratios: float) -> None:
        for column, value in ratios.items():
            self.ratios.setdefault(column, []).append(value)


def middle(values: Sequence[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def table(title: str, columns: Sequence[str], rows: Sequence[Row]) -> str:
    lines = [f"### {title}", "", "| what | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {r.name} | " + " | ".join(middle(r.ratios.get(c, [])) for c in columns) + " |" for r in rows]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- whole processes
def prepared_data(args: argparse.Namespace) -> tuple[Path, Path]:
    """(folder of CSVs, the compiled limit)."""
    args.work.mkdir(parents=True, exist_ok=True)
    limit = args.work / "limit"
    flags = ["-O3", "-march=native", "-ffp-contract=off"]
    subprocess.run(["gcc", *flags, "-o", limit, args.bench / "limit.c", "-lm"], check=True)
    folder = args.work / "data" / args.size
    if not (folder / "meta.json").exists():
        symbols, sessions = args.size.split("x")
        make = [
            sys.executable,
            "-B",
            args.bench / "make_data.py",
            "--out",
            folder,
            "--symbols",
            symbols,
            "--bars",
            sessions,
        ]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    return folder / "csv", limit


def ours(args: argparse.Namespace, csv: Path, *more: str) -> Ran:
    script = ROOT / "scripts" / "backtest_dual_strategy.py"
    out = args.work / "out"
    return run(
        [sys.executable, script, "--bars", csv, "--out", out, "--no-report", "--json", *more],
        KOBE_HOME=str(args.work / "home"),
    )


def processes(args: argparse.Namespace, csv: Path, limit: Path) -> None:
    warm, cold = Row("signal level, warm panel", {}), Row("signal level, first time", {})
    peers = {name: Row(name, {}) for name in args.peer}
    trades = args.work / "trades.csv"
    for _ in range(args.rounds):
        shutil.rmtree(args.work / "home" / "cache" / "panel", ignore_errors=True)
        first, again = ours(args, csv), ours(args, csv)
        floor = run([limit, "--csv", csv, "--trades", trades])
        for row, got in ((warm, again), (cold, first)):
            row.add(**against(got, floor))
            row.add(**{"RSS MB": got.said["peak_rss_mb"], "load s": got.said["seconds_load"]})
        for name, row in peers.items():
            script, words = PEERS[name]
            got = run([args.peers, "-B", args.bench / script, *words, "--csv", csv, "--trades", trades])
            row.add(**against(got, floor))
            row.add(**{"compute / ours": got.said["seconds_compute"] / again.said["seconds_compute"]})
    columns = ["compute / limit", "process / limit", "CPU / limit", "load s", "RSS MB", "compute / ours"]
    print(table(f"whole processes, {args.size}", columns, [warm, cold, *peers.values()]))


def against(got: Ran, floor: Ran) -> dict[str, float]:
    found = {"process / limit": got.wall_s / floor.wall_s, "CPU / limit": got.cpu_s / floor.cpu_s}
    if "seconds_compute" in got.said:
        found["compute / limit"] = got.said["seconds_compute"] / floor.said["seconds_compute"]
    return found


def loading(args: argparse.Namespace, csv: Path) -> None:
    """Reading alone, without anybody's imports: the same bytes, in turn."""
    from core.panel_file import panel_of_files

    first, again = Row("from the CSVs, first time", {}), Row("from the panel", {})
    cache = args.work / "loading"
    for _ in range(args.rounds):
        shutil.rmtree(cache, ignore_errors=True)
        arrow = run([args.arrow, "-c", ARROW, csv]).said
        for row in (first, again):
            wall, cpu = time.perf_counter(), time.process_time()
            panel_of_files(csv, cache)
            row.add(
                CPU=(time.process_time() - cpu) / arrow["cpu_s"], wall=(time.perf_counter() - wall) / arrow["wall_s"]
            )
    print(table("loading, over pyarrow reading the same bytes on one thread", ["CPU", "wall"], [first, again]))


# ---------------------------------------------------------------- in one process, CPU time
def cpu_of(work: Callable[[], object], rounds: int) -> float:
    """The least CPU seconds of several goes: other work on the machine only ever adds."""
    best = math.inf
    for _ in range(rounds):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def in_process(args: argparse.Namespace, csv: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from core.panel_file import panel_of_files
    from portfolio.backtest.engine import possible_trades, signal_trades
    from portfolio.strategies.indicators import prepare
    from scripts import wiring
    from scripts.backtest_dual_strategy import parser

    os.environ["KOBE_HOME"] = str(args.work / "home")
    asked = parser().parse_args(["--bars", str(csv)])
    context = wiring.open_context(asked)
    params, panel = context.params, panel_of_files(csv, context.home.cache).panel

    def whole(of: Any) -> None:
        signal_trades(prepare(of, params.common), params, *ALWAYS)

    base = cpu_of(lambda: whole(panel), args.rounds)
    prepared = prepare(panel, params.common)
    rows = [Row("prepared once, one more parameter set", {"CPU": [
        cpu_of(lambda: possible_trades(prepared, params, *ALWAYS).taken(), args.rounds) / base]})]  # fmt: skip
    rows.append(Row("portfolio level", {"CPU": [cpu_of(lambda: portfolio(context, asked, panel), 2) / base]}))
    walls = {1: math.inf, 2: math.inf}
    with ThreadPoolExecutor(2) as pool:
        for _ in range(args.rounds):
            for workers, spread in ((1, map), (2, pool.map)):
                began = time.perf_counter()
                made = prepare(panel, params.common, spread=spread)  # type: ignore[arg-type]
                signal_trades(made, params, *ALWAYS, spread=spread)  # type: ignore[arg-type]
                walls[workers] = min(walls[workers], time.perf_counter() - began)
    rows.append(Row("1 worker / 2 workers", {"wall": [walls[1] / walls[2]]}))
    print(table("against one signal-level backtest in the same process", ["CPU", "wall"], rows))
    symbols = [panel.select(panel.symbols[: len(panel.symbols) // k]) for k in (4, 2, 1)]
    bars = [_first_bars(panel, panel.close.shape[0] // k) for k in (4, 2, 1)]
    fresh = [p.close.shape[0] - params.common.sma_bars + 1 for p in bars]  # the first window of bars decides nothing
    for name, panels, sizes in (("symbols", symbols, (1.0, 2.0, 4.0)), ("bars after the first window", bars, fresh)):
        times = [cpu_of(lambda p=p: whole(p), 2 * args.rounds) for p in panels]  # type: ignore[misc]
        print(f"cost grows with {name} to the power {exponent(sizes, times):.2f}")


def portfolio(context: Any, asked: argparse.Namespace, panel: Any) -> None:
    from core.bars_io import from_day
    from portfolio.backtest.portfolio_level import simulate
    from portfolio.strategies.indicators import prepare
    from scripts.backtest_data import Loaded
    from scripts.backtest_house import world_of

    calm = {from_day(int(day)): 15.0 for day in panel.sessions}  # else nothing would be opened
    world = world_of(context, Loaded(panel, "benchmark", False, "", vix=calm), asked)
    simulate(prepare(panel, context.params.common), *ALWAYS, world)


def _first_bars(panel: Any, count: int) -> Any:
    from core.bars_io import FIELDS

    blocks = {f: getattr(panel, f)[:count] for f in (*FIELDS, "session_index")}
    return replace(panel, length=panel.length.clip(max=count), **blocks)


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Slope of the straight line through the logarithms."""
    x, y = [math.log(s) for s in sizes], [math.log(t) for t in times]
    mx, my = statistics.mean(x), statistics.mean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--bench", type=Path, default=ROOT.parent / "shared" / "peers-bench")
    parser.add_argument("--size", default="900x2520", help="symbols x sessions")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arrow", help="an interpreter with pyarrow")
    parser.add_argument("--peers", help="an interpreter with the peers")
    parser.add_argument("--peer", action="append", default=[], choices=PEERS)
    args = parser.parse_args()
    args.work = args.work.resolve()
    if args.peer and not args.peers:
        parser.error("--peer needs --peers PYTHON")
    csv, limit = prepared_data(args)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{os.cpu_count()} cores, load average {load:.1f} at the start, {args.rounds} rounds\n")
    processes(args, csv, limit)
    if args.arrow:
        loading(args, csv)
    in_process(args, csv)


if __name__ == "__main__":
    main()
