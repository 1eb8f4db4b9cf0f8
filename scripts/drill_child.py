"""Internal: the processes that drill.py kills and races. Without --task it forks one for each line on its input.

Exit: of a task, 0 done · 1 failed, with the traceback in child-failed.txt of the task's folder · 2 usage
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
    from execution.drill import children, kill
    from scripts.drilling import DrillPorts

    ports = DrillPorts()
    ports.warm()  # imports before any child is forked what each would import by itself
    work = kill.work(ports)
    if args.task is not None:
        children.finished(args.task, work)
    else:
        children.serve(work)
    return Exit.OK


if __name__ == "__main__":
    sys.exit(cli.run(main))
