"""Why a symbol was bought or not: the whole funnel of one day, the rule that decided, and its numbers.

DATE is the session that was traded; without it the newest day that was recorded. Every scan of the day is told: the
verdict with its numbers, what the quote, the size and the gate said, the orders, and exits that were due.
Exit: 0 told · 1 the symbol was not considered that day · 2 usage · 11 journal damaged · 20 nothing recorded
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.domain import canonical_symbol
from core.errors import Exit, UsageError


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("symbol")
    out.add_argument("date", nargs="?", type=cli.day, metavar="DATE")
    cli.add_common(out)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        symbol = canonical_symbol(args.symbol)
    except ValueError as error:
        raise UsageError(str(error)) from error
    from scripts import explaining, wiring

    context = wiring.open_context(args)
    facts = explaining.explain(context, symbol, args.date)
    if args.json:
        cli.print_json(facts)
    else:
        cli.out(explaining.render(facts))
    return Exit.OK if facts["considered"] else Exit.NO


if __name__ == "__main__":
    sys.exit(cli.run(main))
