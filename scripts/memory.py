"""What is remembered of past decisions: outcomes, what we believe of our strategies, what was learned. Read only.

  memory.py status                  how many decisions, and per strategy and regime: wins, win rate, expectancy in R
  memory.py calibration             how good the confidences were that we emitted
  memory.py learnings               what is under test, adopted, retired, with its evidence
  memory.py similar DECISION        what became of the decisions most like that one, as known when it was made
Exit: 0 told · 1 similar: nothing like it was known · 2 usage, no such decision · 11 journal damaged
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit, UsageError


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("action", choices=("status", "calibration", "learnings", "similar"))
    p.add_argument("decision", nargs="?", metavar="DECISION", help="with similar: 20261120-ibs_rsi-AAPL, say")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if (args.action == "similar") != (args.decision is not None):
        raise UsageError("similar names one decision, the others none")
    from scripts import recalling, wiring

    mind = recalling.Recalled.of(wiring.open_context(args))
    told: Mapping[str, tuple[Callable[[], dict[str, Any]], Callable[[dict[str, Any]], str]]] = {
        "status": (mind.status, recalling.render_status),
        "calibration": (mind.calibration, recalling.render_calibration),
        "learnings": (mind.learnings, recalling.render_learnings),
        "similar": (lambda: mind.similar(args.decision), recalling.render_similar),
    }
    look, render = told[args.action]
    facts = look()
    if args.json:
        cli.print_json(facts)
    else:
        cli.out(render(facts))
    return Exit.NO if facts.get("n") == 0 else Exit.OK


if __name__ == "__main__":
    sys.exit(cli.run(main))
