"""May we trade? Every check is made and printed, then one exit code.

  preflight.py --all         all checks. While the kill switch is there it is EXPECTED: would everything else pass?
  preflight.py --cognitive   all checks, and the kill switch must be gone: step 3 of "Resume After Emergency"
A pass with the switch gone is written to the journal. A runner that was halted resumes on a pass made after the
removal, on no other; without a runner the next start goes on.
Exit: 0 passed · 1 a check failed · 2 usage · 10 settings cannot be read · 43 everything else passed, but halted (--all)
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit

if TYPE_CHECKING:
    from scripts.trading import Finding


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="all checks; the kill switch is expected while halted")
    which.add_argument("--cognitive", action="store_true", help="all checks; the kill switch must be gone")
    p.add_argument("--mode", choices=("paper", "live"), help="which broker; default: the account of this home")
    p.add_argument("--allow-dirty", action="store_true", help="paper only: other code than the pinned one is accepted")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from scripts import checks, wiring

    context = wiring.open_context(args, mode=wiring.chosen_mode(args.mode))
    wiring.resume_replayed_account(context)
    with wiring.closing(context):
        found = checks.run(checks.Look(context, allow_dirty=args.allow_dirty))
        code = verdict(found, expect_halt=args.all)
        if code == Exit.OK:
            by = f"preflight --{'all' if args.all else 'cognitive'}"
            found.append(checks.record_pass(context, by, [f.name for f in found]))
            code = verdict(found, expect_halt=False)
    if args.json:
        cli.print_json(report(found, code))
    else:
        cli.out(wiring.describe(context, data_source="none", simulated=False))
        for finding in found:
            cli.out(line(finding, expected=code == Exit.WOULD_PASS))
        cli.out(_LAST[code])
    return code


def verdict(found: Sequence[Finding], *, expect_halt: bool) -> Exit:
    """While halted, --all answers what would be without the switch; nothing else is forgiven."""
    from scripts.checks import SWITCH

    failed = {finding.name for finding in found if finding.problem is not None}
    if not failed:
        return Exit.OK
    return Exit.WOULD_PASS if expect_halt and failed == {SWITCH} else Exit.NO


def line(finding: Finding, *, expected: bool) -> str:
    mark = _state(finding, expected=expected)
    remedy = f" - {finding.problem.advice}" if finding.problem is not None and mark == "FAIL" else ""
    return f"  {mark:8} {finding.name}: {finding.found}{remedy}"


def _state(finding: Finding, *, expected: bool) -> str:
    if finding.problem is None:
        return "warn" if finding.warning else "ok"
    return "EXPECTED" if expected else "FAIL"


def report(found: Sequence[Finding], code: Exit) -> dict[str, Any]:
    from scripts.checks import SWITCH

    expected = code == Exit.WOULD_PASS
    rows = [
        {
            "name": f.name, "state": _state(f, expected=expected), "found": f.found,
            "code": f.warning if f.problem is None else f.problem.code,
            "remedy": "" if f.problem is None else f.problem.advice,
        }
        for f in found
    ]  # fmt: skip
    halted = any(f.name == SWITCH and f.problem is not None for f in found)
    return {"passed": code == Exit.OK, "halted": halted, "exit": int(code), "checks": rows}


_LAST = {
    Exit.OK: "passed",
    Exit.NO: "NOT passed",
    Exit.WOULD_PASS: "would pass, but halted: remove state/KILL_SWITCH, then run preflight.py --cognitive",
}


if __name__ == "__main__":
    sys.exit(cli.run(main))
