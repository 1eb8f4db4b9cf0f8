"""Internal: the processes of drill.py --llm-budget. Without --task it forks one for each line on its input.

Exit: of a task, 0 done · 1 failed, with the traceback in child-failed.txt of the task's folder · 77 killed on purpose
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--task", type=json.loads, metavar="JSON", help="do this one thing and end")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from execution.drill import children
    from llm import client
    from scripts import llm_race

    client.warm()  # before any child is forked: two seconds that each would take by itself
    if args.task is not None:
        children.finished(args.task, llm_race.child)
    else:
        children.serve(llm_race.child, life_s=llm_race.LIFE_S)
    return Exit.OK


if __name__ == "__main__":
    sys.exit(cli.run(main))
