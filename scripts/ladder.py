"""The ladder to live money, in the journal of this home: replay, paper, shadow, one_share, full.

  status                            where this home stands, and what the next rung asks
  advance [--evidence HOME]         one rung up, when its criteria are met. paper is judged by the home of a replay,
                                    shadow by the home of the paper account; the live rungs by this home's own records
  back --reason TEXT [--to RUNG]    down, always; a living runner obeys at its next order
shadow: live, every order is decided and written down, none is sent. one_share: no buy of more than one share.
Exit: 0 done · 1 criteria not met · 2 usage · 10 configuration · 11 state damaged
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit

if TYPE_CHECKING:
    from scripts.climbing import Standing


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("action", choices=("status", "advance", "back"))
    p.add_argument(
        "--evidence", type=pathlib.Path, metavar="HOME", help="KOBE_HOME of the replay, of the paper account"
    )
    p.add_argument("--reason", help="kept in the journal; back needs one")
    p.add_argument("--to", help="with back: a lower rung; default one down")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from scripts import climbing

    found = climbing.act(args)
    if args.json:
        cli.print_json(found.to_json())
    else:
        cli.out(render(found))
    return Exit.NO if args.action == "advance" and not found.moved else Exit.OK


def render(found: Standing) -> str:
    lines = [f"rung {found.rung}" + (f", from {found.came_from}: journal record {found.record}" if found.moved else "")]
    lines += [f"  {note}" for note in found.notes]
    if found.asked:
        lines.append(f"{found.next} asks:" if not found.moved else "met:")
        rows = [["ok" if c.met else "NO", c.name, c.observed, c.asked] for c in found.asked]
        lines.append(cli.table(["", "criterion", "observed", "asked"], rows))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(cli.run(main))
