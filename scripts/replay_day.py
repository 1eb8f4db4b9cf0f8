"""Work one recorded day out again from its kept inputs and compare it with its records, byte for byte.

DATE is the session that was traded. Compared: every verdict with all its numbers, every pick, every order body that was
intended or refused, every exit that was due. Nothing of today is looked at; scripts/parity.py does that.
Exit: 0 the same bytes · 1 something differs, or was not kept · 2 usage · 11 journal damaged · 20 nothing recorded
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
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("date", type=cli.day, metavar="DATE")
    cli.add_common(out)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from scripts import replaying_day, wiring

    context = wiring.open_context(args)
    wiring.resume_replayed_account(context)
    facts = replaying_day.replay(context, args.date)
    if args.json:
        cli.print_json(facts)
    else:
        cli.out(replaying_day.render(facts))
    return Exit.OK if facts["same"] else Exit.NO


if __name__ == "__main__":
    sys.exit(cli.run(main))
