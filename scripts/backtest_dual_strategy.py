"""Backtest both frozen strategies on daily bars and write every trade.

--level signals (default): each symbol and strategy alone, no cash, no limits. --level portfolio: day by day with the
live day's selection, sizing, gate and exits, entries at the open.
Signals are taken from --start to --end, both included; indicators see all earlier bars and a trade may end later.
--bars PATH is a folder of SYMBOL.csv or one long CSV, .gz or not; without it the bar store of KOBE_HOME is read, and
with no market data key the simulated market is played. --cap N takes the first N symbols of the universe (of the bars,
by name, when only --bars is given).
Costs are on: slippage, half the spread, fees on sales. --costs-bps N sets the slippage of each side; 0 means no costs.
Every run is recorded in state/trials.jsonl before it is judged. The evidence (intervals, controls, deflated Sharpe
ratio, the verdict) and report.html take longer than the backtest; --no-report leaves them out, the trial is still
recorded. Writes trade_list.csv, equity_curve.csv, benchmark_curve.csv, summary.json, manifest.json, report.html to
--out (default: wf_outputs/ under KOBE_HOME).
Exit: 0 done · 2 usage · 10 configuration · 11 trial ledger damaged · 12 trial ledger locked · 20 no usable bars
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
    out.add_argument("--start", type=cli.day, default=date(1900, 1, 1), metavar="DATE")
    out.add_argument("--end", type=cli.day, default=date(2200, 1, 1), metavar="DATE")
    out.add_argument("--cap", type=int, metavar="N", help="at most N symbols")
    out.add_argument("--universe", type=pathlib.Path, metavar="FILE")
    out.add_argument("--bars", type=pathlib.Path, metavar="PATH")
    out.add_argument("--level", choices=("signals", "portfolio"), default="signals")
    out.add_argument("--costs-bps", type=float, metavar="N", help="slippage of each side; 0: no costs at all")
    out.add_argument(
        "--quarantine", choices=("on", "off"),
        help="take bad bars of --bars out, as a scan does (default: on at the portfolio level)",
    )  # fmt: skip
    out.add_argument("--out", type=pathlib.Path, metavar="DIR")
    out.add_argument("--workers", type=int, default=1, metavar="N", help="threads; the files do not depend on it")
    out.add_argument("--no-report", action="store_true", help="leave the evidence and report.html out")
    cli.add_common(out)
    return out


def checked(args: argparse.Namespace) -> argparse.Namespace:
    if args.start > args.end:
        raise UsageError(f"--start {args.start} is after --end {args.end}")
    if args.cap is not None and args.cap < 1:
        raise UsageError(f"--cap must be at least 1, was {args.cap}")
    if not 1 <= args.workers <= 64:
        raise UsageError(f"--workers must be within 1 and 64, was {args.workers}")
    if args.costs_bps is not None and not (math.isfinite(args.costs_bps) and 0 <= args.costs_bps <= 1000):
        raise UsageError(f"--costs-bps must be within 0 and 1000, was {args.costs_bps:g}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = checked(parser().parse_args(argv))
    from scripts import backtesting, wiring

    context = wiring.open_context(args)
    with wiring.closing(context), cli.progress(enabled=not args.json) as tick:
        done = backtesting.run(context, args, tick)
    if args.json:
        cli.print_json({**done.summary, **done.timings, "out": str(done.folder)})
    else:
        cli.out(backtesting.render(done))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
