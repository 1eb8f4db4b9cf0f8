"""Seeded trading days with faults, crashes and other scripts, on the embedded venue. Simulated; sends nothing anywhere.

  --seeds 0:1000       play these days; each violation is told with its seed and its shortest story
  --faults post,crash  only these families; `--faults list` says what each one does
  --story              tell the day of every seed
  --scenario NAME      one misfortune, step by step, and what to do about it; `--scenario list` names them
  --sigkill 200        kill the real process at so many points, restart it, and compare it with the venue
  --budget-race 16x200 so many processes with so many orders each against one daily budget
  --llm-budget 100x100 so many processes with so many calls each against the language model's daily budget
The same seed tells the same story, on any machine. Nothing but a temporary folder is touched.
Exit: 0 no violation · 1 violations · 2 usage
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.clock import SystemClock
from core.errors import Exit, UsageError

if TYPE_CHECKING:
    from execution.drill.kill import Killed
    from execution.drill.run import Result


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = p.add_mutually_exclusive_group()
    what.add_argument("--seeds", metavar="FIRST:END", help="or one seed; default 0:100")
    what.add_argument("--scenario", metavar="NAME", help="a named misfortune, or list")
    what.add_argument("--sigkill", metavar="POINTS", type=int, help="kill the process at so many points")
    what.add_argument("--budget-race", metavar="PROCESSESxORDERS", help="for instance 16x200")
    what.add_argument("--llm-budget", metavar="PROCESSESxCALLS", help="for instance 100x100; takes some minutes")
    p.add_argument("--faults", metavar="FAMILIES", help="families to keep, with commas, or list; default all")
    p.add_argument("--workers", type=int, help="processes; default: one per processor")
    p.add_argument("--story", action="store_true", help="tell the day of each seed")
    p.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.faults == "list":
        from execution.drill.plan import FAMILIES

        cli.out(cli.table(["family", "what goes wrong"], [[name, what] for name, what in FAMILIES.items()]))
        return Exit.OK
    if args.workers is not None and args.workers < 1:
        raise UsageError(f"--workers must be at least 1, was {args.workers}")
    if args.scenario is not None:
        return _scenario(args)
    if args.sigkill is not None:
        return _sigkill(args)
    if args.llm_budget is not None:
        return _llm_budget(args)
    return _seeds(args) if args.budget_race is None else _budget_race(args)


# ---------------------------------------------------------------- seeds
def _seeds(args: argparse.Namespace) -> int:
    from execution.drill.many import run_seeds
    from scripts.drilling import DrillPorts

    seeds, families = _range(args.seeds or "0:100"), _families(args.faults)
    workers = min(args.workers or os.cpu_count() or 1, len(seeds))
    bad: list[Result] = []
    effects, clock = 0, SystemClock()
    started = clock.monotonic()
    with cli.progress(enabled=not args.json) as tick:
        tick(f"{len(seeds)} days on {workers} processes")
        for number, result in enumerate(run_seeds(DrillPorts, seeds, families, workers=workers, tell=args.story), 1):
            effects += result.effects
            tick(_progress(number, len(seeds), len(bad), clock.monotonic() - started))
            if not result.clean:
                bad.append(_shortest(result))
                if not args.json:
                    cli.out(_violation(bad[-1]))
            elif args.story and not args.json:
                cli.out("\n".join([*result.plan.describe(), *result.story, "no violation", ""]))
    took_s = clock.monotonic() - started
    if args.json:
        cli.print_json({
            "seeds": len(seeds), "effects": effects, "took_s": round(took_s, 1),
            "violations": [{"seed": r.plan.seed, "violations": r.violations, "plan": r.plan.describe()} for r in bad],
        })  # fmt: skip
    else:
        cli.out(
            f"SIMULATED  days {len(seeds)}  effects {effects}  days with a violation {len(bad)}  "
            f"{took_s:.0f} s on {workers} processes"
        )
    return Exit.NO if bad else Exit.OK


def _progress(done: int, of: int, bad: int, took_s: float) -> str:
    left_s = took_s / done * (of - done)
    return f"day {done} of {of}  violations {bad}  {took_s:.0f} s, {left_s:.0f} s to go"


def _shortest(result: Result) -> Result:
    from execution.drill.run import Drill, hosted
    from scripts.drilling import DrillPorts

    with hosted() as host:
        return Drill(host, DrillPorts()).shortest(result)


def _violation(result: Result) -> str:
    again = f"again: python scripts/drill.py --seeds {result.plan.seed} --story"
    return "\n".join(["VIOLATION", *result.violations, *result.plan.describe(), *result.story, again, ""])


def _range(text: str) -> range:
    try:
        first, _, end = text.partition(":")
        chosen = range(int(first), int(end) if end else int(first) + 1)
    except ValueError as error:
        raise UsageError(f"--seeds {text!r} is neither FIRST:END nor one number") from error
    if not chosen:
        raise UsageError(f"--seeds {text!r} names no seed")
    return chosen


def _families(text: str | None) -> frozenset[str]:
    from execution.drill.plan import FAMILIES

    chosen = frozenset(text.split(",")) if text else frozenset(FAMILIES)
    if not chosen <= set(FAMILIES):
        raise UsageError(f"--faults {text!r}: choose from {','.join(FAMILIES)}")
    return chosen


# ---------------------------------------------------------------- scenarios
def _scenario(args: argparse.Namespace) -> int:
    from execution.drill.run import hosted
    from execution.drill.scenarios import SCENARIOS, play
    from scripts.drilling import DrillPorts

    if args.scenario == "list":
        rows = [[name, scenario.title] for name, scenario in SCENARIOS.items()]
        if args.json:
            cli.print_json({"scenarios": [{"name": name, "title": title} for name, title in rows]})
        else:
            cli.out(cli.table(["scenario", "what happens"], rows))
        return Exit.OK
    if args.scenario not in SCENARIOS:
        raise UsageError(f"--scenario {args.scenario!r}: there is none of that name", advice="see --scenario list")
    with hosted() as host:
        played = play(args.scenario, host, DrillPorts())
    if args.json:
        cli.print_json({"scenario": args.scenario, "as_told": played.as_told, "lines": played.lines})
    else:
        cli.out("\n".join(played.lines))
    return Exit.OK if played.as_told else Exit.NO


# ---------------------------------------------------------------- real processes
_CHILD = pathlib.Path(__file__).with_name("drill_child.py")


def _sigkill(args: argparse.Namespace) -> int:
    from execution.drill.children import Children
    from execution.drill.kill import Hunt
    from execution.drill.run import hosted
    from execution.drill.world import quick_folder
    from scripts.drilling import DrillPorts

    if args.sigkill < 1:
        raise UsageError(f"--sigkill must be at least 1, was {args.sigkill}")
    clock = SystemClock()
    started, phases = clock.monotonic(), Counter[str]()
    bad: list[Killed] = []
    with hosted() as host, Children(_CHILD) as children, cli.progress(enabled=not args.json) as tick:
        hunt = Hunt(host, DrillPorts(), children, quick_folder())
        points = hunt.points(args.sigkill)
        for number, point in enumerate(points, 1):
            phases[point[2].split(" ", 1)[0]] += 1
            killed = hunt.kill(*point)
            tick(_progress(number, len(points), len(bad), clock.monotonic() - started).replace("day", "point"))
            if killed.violations:
                bad.append(killed)
                if not args.json:
                    cli.out("\n".join(["VIOLATION", f"killed in {killed.story}: {killed.point}", *killed.violations]))
    took_s = clock.monotonic() - started
    if args.json:
        found = [{"story": k.story, "point": k.point, "violations": k.violations} for k in bad]
        cli.print_json({"points": len(points), "phases": phases, "took_s": round(took_s, 1), "violations": found})
    else:
        cli.out(cli.table(["phase", "points"], [[name, count] for name, count in sorted(phases.items())]))
        cli.out(f"SIMULATED  killed at {len(points)} points  with a violation {len(bad)}  {took_s:.0f} s")
    return Exit.NO if bad else Exit.OK


def _budget_race(args: argparse.Namespace) -> int:
    from execution.drill.children import Children
    from execution.drill.race import run_race
    from execution.drill.run import hosted
    from execution.drill.world import quick_folder
    from scripts.drilling import DrillPorts

    processes, orders = _by(args.budget_race, "--budget-race", "ORDERS")
    clock = SystemClock()
    started = clock.monotonic()
    with hosted() as host, Children(_CHILD) as children:
        raced = run_race(host, DrillPorts(), children, processes=processes, orders=orders, folder=quick_folder())
    took_s = clock.monotonic() - started
    if args.json:
        cli.print_json({
            "budget_usd": str(raced.budget_usd), "spent_usd": str(raced.spent_usd), "sent": raced.sent,
            "largest_order_usd": str(raced.largest_usd), "refused": raced.refused, "wanted": raced.wanted,
            "took_s": round(took_s, 1), "violations": raced.violations,
        })  # fmt: skip
    else:
        cli.out("\n".join(["VIOLATION", *raced.violations]) if raced.violations else "never over, never short")
        cli.out(
            f"SIMULATED  {processes} processes x {orders} orders  budget {raced.budget_usd}  spent {raced.spent_usd}  "
            f"dearest order {raced.largest_usd}  sent {raced.sent}  refused {raced.refused}  {took_s:.0f} s"
        )
    return Exit.NO if raced.violations else Exit.OK


def _by(text: str, option: str, of: str) -> tuple[int, int]:
    try:
        processes, each = (int(part) for part in text.split("x"))
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is not PROCESSESx{of}") from error
    if processes < 1 or each < 1:
        raise UsageError(f"{option} {text}: both must be at least 1")
    return processes, each


def _llm_budget(args: argparse.Namespace) -> int:
    from execution.drill.run import hosted
    from execution.drill.world import quick_folder
    from scripts.llm_race import Race, as_lines, run_race

    processes, calls = _by(args.llm_budget, "--llm-budget", "CALLS")
    clock = SystemClock()
    started = clock.monotonic()
    with hosted() as host:
        raced = run_race(host, Race(processes, calls), folder=quick_folder())
    took_s = clock.monotonic() - started
    if args.json:
        cli.print_json({"raced": raced, "took_s": round(took_s, 1), "violations": raced.violations})
    else:
        cli.out("\n".join(["VIOLATION", *raced.violations]) if raced.violations else "never over, all given back")
        cli.out("\n".join(as_lines(raced)))
        cli.out(f"SIMULATED  {processes} processes x {calls} calls  {took_s:.0f} s")
    return Exit.NO if raced.violations else Exit.OK


if __name__ == "__main__":
    sys.exit(cli.run(main))
