"""What was logged: events, errors and trades, the rotated files too, masked.

  show_log.py --days 30 --code QUOTE_ABSENT      one reason code over a month
  show_log.py --log errors --symbol AAPL         errors about one symbol
  show_log.py --text "timed out" --last 20       a word anywhere in the line
Oldest first. Lines that cannot be read are counted at the end.
Exit: 0 something was found · 1 nothing was · 2 usage
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.clock import SystemClock
from core.env import load_dotenv
from core.errors import Exit, UsageError
from core.log_query import FILES, Found, Question, query
from core.paths import home

_FIRST = ("at", "log", "event", "run_id", "mode")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--days", type=float, default=1.0, metavar="N", help="how far back; default 1")
    p.add_argument("--log", choices=[name.removesuffix(".jsonl") for name in FILES], help="default: all three")
    for name in ("event", "code", "symbol", "text"):
        p.add_argument(f"--{name}", metavar=name.upper())
    p.add_argument("--run", metavar="ID", help="one run")
    p.add_argument("--last", type=int, default=200, metavar="N", help="the newest so many; default 200")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if not 0 < args.days <= 36_500:
        raise UsageError(f"--days must be above 0 and at most 36500, was {args.days:g}")
    if args.last < 1:
        raise UsageError(f"--last must be at least 1, was {args.last}")
    load_dotenv(args.dotenv)  # the keys that are masked
    symbol = None if args.symbol is None else args.symbol.upper()
    asked = Question(
        since=SystemClock().now() - timedelta(days=args.days), event=args.event, code=args.code, symbol=symbol,
        run_id=args.run, text=args.text,
    )  # fmt: skip
    found = query(home().logs, asked, files=FILES if args.log is None else (f"{args.log}.jsonl",), most=args.last)
    if args.json:
        cli.print_json({"rows": found.rows, "left_off": found.left_off, "unreadable": found.unreadable})
    else:
        cli.out(_as_text(found))
    return Exit.OK if found.rows else Exit.NO


def _as_text(found: Found) -> str:
    lines = [_line(row) for row in found.rows]
    if found.left_off:
        lines.insert(0, f"{found.left_off} older lines left off; --last N shows more")
    lines.append(f"{len(found.rows)} lines found, {found.looked_at} looked at, {found.unreadable} could not be read")
    return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    rest = " ".join(f"{key}={_short(value)}" for key, value in row.items() if key not in _FIRST)
    return f"{row['at']} {row['log']:6} {row.get('event', '')} {rest}".rstrip()


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."


if __name__ == "__main__":
    sys.exit(cli.run(main))
