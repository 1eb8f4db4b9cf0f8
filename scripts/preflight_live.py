"""Every check there is, before the open: step 0 of the morning. ALL of them must pass.

  --mode live    arms `runner.py --mode live`: a pass is written to the journal with the hashes of code, settings,
                 parameters and universe and with the account, and holds for exactly these, for arming.max_age_h
  --mode paper   the same questions, judged as for paper; arms nothing
Bars are brought up to date first, as the first scan would. docs/preflight.md lists the checks, the rungs and the codes.
Exit: 0 passed · 1 a check failed · 2 usage · 10 settings cannot be read, or keys and address of another mode
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.domain import Mode


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mode", choices=("paper", "live"), required=True, help="which broker, never which logic")
    p.add_argument("--allow-dirty", action="store_true", help="paper only: other code than the pinned one is accepted")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from scripts import checks, preflighting
    from scripts.checks import Group

    mode = Mode(args.mode)
    groups = (g for g in Group if g is not Group.LIVE or mode is Mode.LIVE)
    return preflighting.preflight(
        args, mode, checks.of_groups(*groups), by="preflight_live", fetch=True, records=True
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(cli.run(main))
