"""Train a challenger on every signal whose trade has ended, judge it out of fold, and keep it with its model card.

Bars and universe as in backtest_dual_strategy.py: --bars PATH, else the bar store, else the simulated market. The
walk-forward is purged and embargoed; the trial goes into state/trials.jsonl before it is judged. A challenger that
beats the base rate and the champion at the gate (ml_advanced/gate.py) is in its shadow period for ml.shadow_sessions,
then it scores.
Most challengers are no better than the base rate: that is told, and nothing changes. docs/ml.md
Writes models/<id>/ with card.html, and state/models.jsonl. The result does not depend on --workers.
Exit: 0 trained and judged, whatever the verdict · 2 usage · 10 configuration · 11 a ledger or the chain is damaged ·
12 locked · 20 no usable bars, or too little to learn from
"""

import argparse
import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit, UsageError

_YEARS = 5  # of sessions before --end, without --start


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bars", type=pathlib.Path, metavar="PATH", help="a file or folder of daily bars")
    p.add_argument("--start", type=cli.day, metavar="DATE", help=f"default: {_YEARS} years before --end")
    p.add_argument("--end", type=cli.day, default=date(2200, 1, 1), metavar="DATE")
    p.add_argument("--cap", type=int, metavar="N", help="at most N symbols")
    p.add_argument("--universe", type=pathlib.Path, metavar="FILE")
    p.add_argument("--quick", action="store_true", help="fewer folds, smaller members, one control")
    p.add_argument("--workers", type=int, metavar="N", help="processes (default: the cores, at most 4)")
    cli.add_common(p)
    return p


def checked(args: argparse.Namespace) -> argparse.Namespace:
    if args.start is not None and args.start > args.end:
        raise UsageError(f"--start {args.start} is after --end {args.end}")
    if args.cap is not None and args.cap < 1:
        raise UsageError(f"--cap must be at least 1, was {args.cap}")
    if args.workers is None:
        args.workers = max(1, min(4, os.cpu_count() or 1))
    if not 1 <= args.workers <= 64:
        raise UsageError(f"--workers must be within 1 and 64, was {args.workers}")
    args.quarantine, args.level, args.costs_bps = "on", "portfolio", None
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = checked(parser().parse_args(argv))
    if not args.json:
        cli.out(f"training the ensemble: {args.bars or 'bars of this home'}, {args.workers} workers")
    from scripts import teaching, wiring

    context = wiring.open_context(args)
    if args.start is None:
        args.start = _years_before(args, context.calendar.last_completed(context.clock.now()))
    with wiring.closing(context), progress(enabled=not args.json) as tick:
        taught = teaching.run(context, args, tick)
    if args.json:
        shown = {k: taught.card[k] for k in ("finding", "gate", "data", "calibration", "members", "controls")}
        moved = {"model": taught.model_id, "known": taught.known, "shadow_until": taught.shadow_until}
        cli.print_json({**shown, **moved, "seconds": taught.seconds, "folder": str(taught.folder)})
    else:
        cli.out(teaching.render(taught))
    return Exit.OK


def _years_before(args: argparse.Namespace, last: date) -> date:
    if args.bars is not None:
        return date(1900, 1, 1)  # the operator's own file: all of it
    end: date = min(args.end, last)
    return end.replace(year=end.year - _YEARS, day=min(end.day, 28))


@contextlib.contextmanager
def progress(*, enabled: bool) -> Iterator[Callable[[str], None]]:
    """A line with a spinner and the time on stderr, on a terminal; else nothing."""
    if not (enabled and sys.stderr.isatty()):
        yield lambda text: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        line = shown.add_task("starting", total=None)
        yield lambda text: shown.update(line, description=text)


if __name__ == "__main__":
    sys.exit(cli.run(main))
