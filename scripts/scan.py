"""Scan the universe at the last completed session and print the picks.

Writes logs/daily_picks.csv (also on a day without picks, with the reason) and one verdict per considered symbol to
logs/verdicts/. Sends nothing.
Exit: 0 scanned, with or without picks · 2 usage · 10 configuration · 11 state damaged · 20 no usable data
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cap", type=int, help="use the first N rows of the universe")
    p.add_argument("--universe", type=pathlib.Path, help="CSV with a symbol column, and a sector column if known")
    p.add_argument("--deterministic", action="store_true", help="freeze the as-of; same inputs, same bytes out")
    p.add_argument("--top3", action="store_true", help="up to three picks under the top_n rules")
    p.add_argument("--as-of", help="an ISO instant, or a session date: the morning after that session")
    p.add_argument("--bars", type=pathlib.Path, help="folder of SYMBOL.csv or one long CSV, .gz or not")
    p.add_argument("--dotenv", type=pathlib.Path, help="another .env file")
    p.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from scripts import scanning, wiring

    context = wiring.open_context(args, as_of=args.as_of)
    context.looks_only = True
    with wiring.closing(context):
        found = scanning.scan(context, args)
    if args.json:
        cli.print_json(found.result.to_json())
    else:
        cli.out(scanning.render(context, found))
    return Exit.OK


if __name__ == "__main__":
    sys.exit(cli.run(main))
