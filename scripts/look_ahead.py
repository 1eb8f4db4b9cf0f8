"""Prove on bars that nothing a model is told of a signal comes from after it.

For every session with a signal: the bars cut off after it, and the bars after it replaced by noise, must give the same
features and the same regime, bit for bit, as the whole history gave; so must a model that is in use, if there is one.
--bars PATH as for a backtest; --sessions N takes every N-th of them only.
Exit: 0 nothing changed · 1 something did, and it is named · 2 usage · 20 no usable bars
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from datetime import date

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit, UsageError


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--start", type=cli.day, default=date(1900, 1, 1), metavar="DATE")
    out.add_argument("--end", type=cli.day, default=date(2200, 1, 1), metavar="DATE")
    out.add_argument("--cap", type=int, metavar="N", help="at most N symbols")
    out.add_argument("--universe", type=pathlib.Path, metavar="FILE")
    out.add_argument("--bars", type=pathlib.Path, metavar="PATH")
    out.add_argument("--sessions", type=int, default=1, metavar="N", help="every N-th session with a signal")
    cli.add_common(out)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.sessions < 1 or (args.cap is not None and args.cap < 1):
        raise UsageError("--sessions and --cap must be at least 1")
    from scripts import looking_ahead, wiring

    context = wiring.open_context(args)
    with wiring.closing(context), cli.progress(enabled=not args.json) as tick:
        found = looking_ahead.prove(context, args, tick)
    if args.json:
        cli.print_json(found.to_json())
    else:
        cli.out(found.render())
    return Exit.NO if found.changed else Exit.OK


if __name__ == "__main__":
    sys.exit(cli.run(main))
