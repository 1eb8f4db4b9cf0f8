"""Walk forward: choose parameters on the past, judge them on what came after, stitch the judged parts together.

The span is cut into folds: --train-days sessions to choose in, an embargo, --test-days sessions to judge in. A trade
held into the test span teaches nothing. --folds alone: the test spans share what the training leaves over. --grid FILE
(YAML or JSON) names parameters and their values; every combination is a trial in state/trials.jsonl. Signal level.
Bars, universe and costs as in backtest_dual_strategy.py: --bars PATH, else the bar store, else the simulated market.
Finished parameter sets are kept in cache/: a run that was killed goes on where it was when started again.
--engine dask spreads the sets over a Dask cluster (--scheduler ADDRESS, else one of --workers local processes); the
files are the same to the byte.
Writes folds.json, trade_list.csv, equity_curve.csv, benchmark_curve.csv, summary.json, manifest.json, report.html to
--out (default: wf_outputs/ under KOBE_HOME). --no-report leaves the evidence and report.html out.
Exit: 0 done · 2 usage · 10 configuration, grid or cluster · 11 trial ledger damaged · 12 trial ledger locked · 20 no
usable bars
"""

import argparse
import math
import pathlib
import sys
from collections.abc import Sequence
from datetime import date

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import UsageError


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--folds", type=int, metavar="N")
    out.add_argument("--train-days", type=int, metavar="N", help="sessions (default: walk_forward.train_days)")
    out.add_argument("--test-days", type=int, metavar="N", help="sessions (default: walk_forward.test_days)")
    out.add_argument("--grid", type=pathlib.Path, metavar="FILE", help="default: walk_forward.grid")
    out.add_argument("--engine", choices=("local", "dask"), default="local")
    out.add_argument("--scheduler", metavar="ADDRESS", help="of a running Dask scheduler, tcp://HOST:PORT")
    out.add_argument("--workers", type=int, default=1, metavar="N", help="the files do not depend on it")
    out.add_argument("--start", type=cli.day, default=date(1900, 1, 1), metavar="DATE")
    out.add_argument("--end", type=cli.day, default=date(2200, 1, 1), metavar="DATE")
    out.add_argument("--cap", type=int, metavar="N", help="at most N symbols")
    out.add_argument("--universe", type=pathlib.Path, metavar="FILE")
    out.add_argument("--bars", type=pathlib.Path, metavar="PATH")
    out.add_argument("--level", choices=("signals",), default="signals")
    out.add_argument("--costs-bps", type=float, metavar="N", help="slippage of each side; 0: no costs at all")
    out.add_argument("--quarantine", choices=("on", "off"), help="take bad bars of --bars out, as a scan does")
    out.add_argument("--out", type=pathlib.Path, metavar="DIR")
    out.add_argument("--no-report", action="store_true", help="leave the evidence and report.html out")
    cli.add_common(out)
    return out


def checked(args: argparse.Namespace) -> argparse.Namespace:
    if args.start > args.end:
        raise UsageError(f"--start {args.start} is after --end {args.end}")
    for name, value in (("cap", args.cap), ("folds", args.folds)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, was {value}")
    for name, value, least, most in (
        ("train-days", args.train_days, 20, 5040),
        ("test-days", args.test_days, 1, 2520),
        ("workers", args.workers, 1, 64),
    ):
        if value is not None and not least <= value <= most:
            raise UsageError(f"--{name} must be within {least} and {most}, was {value}")
    if args.costs_bps is not None and not (math.isfinite(args.costs_bps) and 0 <= args.costs_bps <= 1000):
        raise UsageError(f"--costs-bps must be within 0 and 1000, was {args.costs_bps:g}")
    if args.scheduler is not None and args.engine != "dask":
        raise UsageError("--scheduler is for --engine dask", code="SCHEDULER_WITHOUT_DASK")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = checked(parser().parse_args(argv))
    from scripts import walking, wiring

    context = wiring.open_context(args)
    with wiring.closing(context), cli.progress(enabled=not args.json) as tick:
        done = walking.run(context, args, tick)
    if args.json:
        cli.print_json({**done.summary, **done.timings, "out": str(done.folder)})
    else:
        cli.out(walking.render(done))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
