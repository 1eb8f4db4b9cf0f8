"""Work recorded days out again and name every decision that differs, with its cause.

Each decision of --start..--end (sessions that were traded) is taken three ways: as it was recorded, again from the
inputs that were kept (logs/inputs), and from what is known today: bars, VIX, settings, parameters, universe, earnings.
A day without kept inputs is UNKNOWN, never equal.
--against then leaves today's inputs out; --against backtest compares with the portfolio backtest instead, trade by
trade. --universe FILE: today's universe, when it is not the file that was used then; --bars PATH: the bars of the
backtest. Writes parity.json to --out (default: wf_outputs/parity-START-END[-AGAINST] under KOBE_HOME). docs/parity.md
Exit: 0 every decision is equal · 1 some differ · 2 usage · 10 configuration · 11 journal damaged · 20 no data
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit, UsageError


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--start", type=cli.day, required=True, metavar="DATE")
    out.add_argument("--end", type=cli.day, required=True, metavar="DATE")
    out.add_argument("--against", choices=("today", "then", "backtest"), default="today")
    out.add_argument("--universe", type=pathlib.Path, metavar="FILE")
    out.add_argument("--bars", type=pathlib.Path, metavar="PATH", help="with --against backtest")
    out.add_argument("--out", type=pathlib.Path, metavar="DIR")
    cli.add_common(out)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.start > args.end:
        raise UsageError(f"--start {args.start} is after --end {args.end}")
    if args.bars is not None and args.against != "backtest":
        raise UsageError("--bars goes with --against backtest; the bars of the other days are named by their records")
    from scripts import paritying, wiring

    context = wiring.open_context(args)
    wiring.resume_replayed_account(context)
    with wiring.closing(context), cli.progress(enabled=not args.json) as tick:
        found = paritying.run(context, args, tick)
    if args.json:
        cli.print_json(found.facts)
    else:
        cli.out(paritying.render(found))
    return Exit.OK if found.equal else Exit.NO


if __name__ == "__main__":
    sys.exit(cli.run(main))
