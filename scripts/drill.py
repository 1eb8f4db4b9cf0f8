"""Seeded trading days with faults and crashes: does anything get lost, doubled or overrun?

  drill.py --seeds 0:1000            a thousand days; a violation prints its seed and the shortest story of it
  drill.py --seeds 417 --story       one day, told effect by effect
  drill.py --scenario NAME           a named drill for operators; --scenario list names them
Nothing outside a temporary folder is touched, and no broker but the embedded venue is reached.
Exit: 0 no violation · 1 violations · 2 usage
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit, UsageError

if TYPE_CHECKING:
    from execution.drill.run import Result


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seeds", default="0:100", help="FIRST:END or one seed")
    p.add_argument("--faults", help="families to keep, of post,read,crash,trip,second; default all")
    p.add_argument("--story", action="store_true", help="tell the day of each seed")
    p.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from config.loader import load_settings
    from core.market_calendar import market_calendar
    from execution.drill.run import Drill, hosted

    seeds, families = _seeds(args.seeds), _families(args.faults)
    bad: list[Result] = []
    effects = 0
    with hosted() as host, cli.progress(enabled=not args.json) as tick:
        drill = Drill(host, market_calendar(), load_settings())
        for number, result in enumerate(drill.seeds(seeds, families), start=1):
            effects += result.effects
            tick(number, len(seeds), f"violations {len(bad)}")
            if not result.clean:
                bad.append(drill.shortest(result))
                if not args.json:
                    _tell(bad[-1])
            elif args.story:
                cli.out("\n".join([*result.plan.describe(), *result.story, "no violation"]))
    if args.json:
        found = [{"seed": r.plan.seed, "violations": r.violations, "plan": r.plan.describe()} for r in bad]
        cli.print_json({"seeds": len(seeds), "effects": effects, "violations": found})
    else:
        cli.out(f"SIMULATED  days {len(seeds)}  effects {effects}  days with a violation {len(bad)}")
    return Exit.NO if bad else Exit.OK


def _tell(result: Result) -> None:
    cli.out("\n".join(["VIOLATION", *result.violations, *result.plan.describe(), *result.story]))


def _seeds(text: str) -> range:
    try:
        first, _, end = text.partition(":")
        chosen = range(int(first), int(end) if end else int(first) + 1)
    except ValueError as error:
        raise UsageError(f"--seeds {text!r} is neither FIRST:END nor one number") from error
    if not chosen:
        raise UsageError(f"--seeds {text!r} names no seed")
    return chosen


def _families(text: str | None) -> frozenset[str]:
    from execution.drill.plan import FAULT_FAMILIES

    chosen = frozenset(text.split(",")) if text else frozenset(FAULT_FAMILIES)
    if not chosen <= set(FAULT_FAMILIES):
        raise UsageError(f"--faults {text!r}: choose from {','.join(FAULT_FAMILIES)}")
    return chosen


if __name__ == "__main__":
    sys.exit(cli.run(main))
