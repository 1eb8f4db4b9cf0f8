"""What preflight.py and preflight_live.py share: make the checks, print each as it is made, answer once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from core import cli
from core.domain import Mode
from core.errors import Exit
from scripts import checks, wiring
from scripts.check_look import Look
from scripts.trading import Finding

_LAST = {
    Exit.OK: "passed",
    Exit.NO: "NOT passed",
    Exit.WOULD_PASS: "would pass, but halted: remove state/KILL_SWITCH, then run preflight.py --cognitive",
}


def preflight(
    args: argparse.Namespace, mode: Mode, chosen: Sequence[checks.Check], *, by: str, fetch: bool = False,
    expect_halt: bool = False, records: bool = False,
) -> Exit:  # fmt: skip
    """Make `chosen`, print them, and with `records` write a pass that nothing forbids."""
    context = wiring.open_context(args, mode=mode)
    wiring.resume_replayed_account(context)
    found: list[Finding] = []
    with wiring.closing(context):
        if not args.json:
            cli.out(wiring.describe(context, data_source="none", simulated=False))
            for note in context.notes:
                cli.out(note)
        look = Look(context, allow_dirty=args.allow_dirty, fetch=fetch)
        with cli.progress(enabled=not args.json) as context.tick:
            for finding in checks.run_each(look, chosen):
                found.append(finding)
                _show(args, finding, expect_halt=expect_halt)
        answer = checks.answer(found, expect_halt=expect_halt)
        if records and answer.may_carry_on:
            found.append(_recorded(look, by, found, answer))
            _show(args, found[-1], expect_halt=False)
            if found[-1].problem is not None:
                answer = checks.answer(found, expect_halt=False)
    if args.json:
        cli.print_json(report(found, answer))
    else:
        cli.out(last_words(found, answer))
    return answer.code


def _recorded(look: Look, by: str, found: Sequence[Finding], answer: checks.Answer) -> Finding:
    """The record that lets a halted runner go on; of the live preflight, when everything passed, it also arms."""
    facts: dict[str, Any] = {"may_open": answer.may_open}
    if by == "preflight_live" and look.live and answer.may_open:
        from config.pin import compute_pin

        facts |= {"items": compute_pin(), "account_id": look.account.id}
    elif by == "preflight_live":
        by = f"preflight_live --mode {look.context.mode.value}"  # arms nothing
    return checks.record_pass(look.context, by, [f.name for f in found], **facts)


def _show(args: argparse.Namespace, finding: Finding, *, expect_halt: bool) -> None:
    if not args.json:
        cli.out(line(finding, expected=expect_halt and finding.name == checks.SWITCH))


def line(finding: Finding, *, expected: bool) -> str:
    mark = state(finding, expected=expected)
    remedy = f" - {finding.problem.advice}" if finding.problem is not None and mark == "FAIL" else ""
    return f"  {mark:8} {finding.name}: {finding.found}{remedy}"


def state(finding: Finding, *, expected: bool) -> str:
    if finding.problem is not None:
        return "EXPECTED" if expected else "FAIL"
    if finding.unknown:
        return "UNKNOWN"
    return "warn" if finding.warning else "ok"


def last_words(found: Sequence[Finding], answer: checks.Answer) -> str:
    failed = [f.name for f in found if f.problem is not None and answer.code != Exit.WOULD_PASS]
    told = sum(1 for f in found if f.warning and f.problem is None)
    lines = [f"{len(found)} checks, {len(failed)} failed, {told} told as a warning or as unknown"]
    if answer.code == Exit.NO and answer.may_carry_on:
        lines.append("may open: NO; may carry on: yes (exits and protection), entries wait")
    lines.append(_LAST[answer.code] + (f": {', '.join(failed)}" if failed else ""))
    return "\n".join(lines)


def report(found: Sequence[Finding], answer: checks.Answer) -> dict[str, Any]:
    """The JSON of docs/interfaces.md. EXPECTED is said only when nothing else failed."""
    rows = []
    expected = answer.code == Exit.WOULD_PASS
    for f in found:
        check = checks.BY_NAME.get(f.name)
        rows.append({
            "name": f.name, "state": state(f, expected=expected and f.name == checks.SWITCH), "found": f.found,
            "code": f.warning if f.problem is None else f.problem.code,
            "remedy": "" if f.problem is None else f.problem.advice,
            "group": None if check is None else str(check.group),
            "forbids": None if check is None else str(check.forbids),
        })  # fmt: skip
    return {
        "passed": answer.code == Exit.OK, "may_open": answer.may_open, "may_carry_on": answer.may_carry_on,
        "halted": answer.halted, "exit": int(answer.code), "checks": rows,
    }  # fmt: skip
