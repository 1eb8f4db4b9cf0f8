"""May we trade? Every check is made and printed, then one exit code. docs/preflight.md lists the checks.

  --all         all checks. While the kill switch is there it is EXPECTED: would everything else pass?
  --cognitive   all checks but those of the data, and the switch must be gone: step 3 of "Resume After Emergency"
  --data        brings the bars up to date as the first scan would, then looks: universe, freshness, VIX, vendors
  --apis        keys, account, and whether broker, vendors and market data answer
  --config      settings, parameters, limits, pin, packages
--data, --apis and --config may stand together. A pass of --all or --cognitive with the switch gone is written to the
journal: a runner that was halted resumes on a pass made after the removal, on no other.
Exit: 0 passed · 1 a check failed · 2 usage · 10 settings cannot be read · 43 everything else passed, but halted (--all)
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import UsageError


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    whole = p.add_mutually_exclusive_group()
    whole.add_argument("--all", action="store_true", help="all checks; the kill switch is expected while halted")
    whole.add_argument("--cognitive", action="store_true", help="all but the data; the kill switch must be gone")
    p.add_argument("--data", action="store_true", help="fetch what is missing, then check universe, bars and vendors")
    p.add_argument("--apis", action="store_true", help="keys, account, and who answers")
    p.add_argument("--config", action="store_true", help="settings, parameters, limits, pin, packages")
    p.add_argument("--mode", choices=("paper", "live"), help="which broker; default: the account of this home")
    p.add_argument("--allow-dirty", action="store_true", help="paper only: other code than the pinned one is accepted")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    parts = [name for name in ("data", "apis", "config") if getattr(args, name)]
    if not (args.all or args.cognitive or parts):
        raise UsageError("nothing to check was named", advice="for instance --all")
    if args.cognitive and parts:
        raise UsageError(f"--cognitive goes without --{parts[0]}")
    from scripts import checks, preflighting, wiring
    from scripts.checks import Group

    group = {"data": (Group.DATA, Group.APIS), "apis": (Group.APIS, Group.ACCOUNT), "config": (Group.CONFIG,)}
    if args.all or args.cognitive:
        left_out = {Group.LIVE} if args.all else {Group.LIVE, Group.DATA}
        chosen = checks.of_groups(*(g for g in Group if g not in left_out))
    else:
        chosen = checks.of_groups(*(g for name in parts for g in group[name]))
    by = "preflight --all" if args.all else "preflight --cognitive" if args.cognitive else ""
    return preflighting.preflight(
        args, wiring.chosen_mode(args.mode), chosen, by=by, fetch=args.data, expect_halt=args.all, records=bool(by)
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
