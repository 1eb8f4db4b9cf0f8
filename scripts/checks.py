"""The checks of preflight: what each asks, and what a failure forbids. Each decides in a pure function of
scripts/check_values.py or scripts/ground.py; one that raises has failed, and the others go on.

A new check is one line in CHECKS. Two answers are kept apart. *May open*: no check has a problem. *May carry on*: none
that forbids everything has; the others forbid entries, and are asked again by every scan, so exits never wait for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from core import logs
from core.errors import Exit, KobeError, TradingHalted
from scripts import check_look as look_at
from scripts import check_mind as look_at_mind
from scripts import check_values as values
from scripts import ground, trading
from scripts.check_look import Look
from scripts.trading import Finding

if TYPE_CHECKING:
    from execution.desk import Desk
    from execution.resume import HaltTeller
    from scripts.wiring import Context

SWITCH = "kill_switch"
TOLD_ONLY = frozenset({"breakers", "self_model"})
"""What fails a person's preflight, and lets the runner start: a breaker stops the entries, what is held needs exits."""


class Group(StrEnum):
    """What a flag of preflight.py selects."""

    CONFIG = "config"
    MACHINE = "machine"
    STATE = "state"
    ACCOUNT = "account"
    APIS = "apis"
    DATA = "data"
    COGNITIVE = "cognitive"
    LIVE = "live"


class Forbids(StrEnum):
    EVERYTHING = "everything"
    ENTRIES = "entries"


# ---------------------------------------------------------------- the list
@dataclass(frozen=True, slots=True)
class Check:
    """One question: its name, the flag that selects it, what a failure forbids, and how it is looked up."""

    name: str
    group: Group
    asks: str  # for docs/preflight.md
    look: Callable[[Look], Finding]
    forbids: Forbids = Forbids.EVERYTHING


def _checks(group: Group, *rows: tuple[Any, ...]) -> tuple[Check, ...]:
    return tuple(Check(row[0], group, row[1], row[2], *row[3:]) for row in rows)


_ENTRIES = Forbids.ENTRIES
CHECKS: tuple[Check, ...] = (
    *_checks(
        Group.STATE,
        ("state_folder", "a file can be written, flushed, renamed and removed", look_at.state_folder),  # makes it
        (SWITCH, "state/KILL_SWITCH is absent", lambda look: trading.switch_finding(look.context)),
        ("journal", "every record, hash and number of the journal", lambda look: trading.journal_finding(look.context)),
        ("journal_anchor", "the journal holds what was noted of it in logs/", look_at.journal_anchor),
        ("documents", "positions, budget and universe documents can be read", look_at.documents),
        ("unsettled", "no order may be live without our knowing",
         lambda look: values.nothing_unsettled(look.ledger.unsettled())),
        ("in_step", "journal and broker agree on positions and orders", look_at.in_step),
        ("orphans", "no open order without its trade", look_at.orphans),
        ("locked", "symbols that a break or an unknown order locks",
         lambda look: values.locked_symbols(dict(look.ledger.locked))),
        ("written_aside", "records that an emergency command could not put into the journal", look_at.written_aside),
        ("runs_missed", "scans missed since the last passed preflight", look_at.runs_missed),
    ),
    *_checks(
        Group.ACCOUNT,
        ("keys", "the broker's keys are there, in live mode", look_at.keys),
        ("account", "the account is active and not blocked", lambda look: trading.account_finding(look.account)),
        ("keys_of_mode", "keys, address and account are of the mode asked for", look_at.keys_of_mode),
        ("pinned_account", "the account is the one of this journal", look_at.pinned_account),
        ("clock", "our clock is the broker's, within execution.clock_skew_max_s", look_at.clock),
        ("ioc", "the account takes IOC orders", look_at.ioc),
        ("cash", "cash for at least one order", look_at.cash),
        ("market_hours", "the broker's hours are the calendar's", look_at.market_hours),
        ("schedule", "what is due in the session under way or next; half days", look_at.schedule),
    ),
    *_checks(
        Group.CONFIG,
        ("settings", "config/base.yaml is valid; what differs from the defaults", look_at.settings),
        ("frozen_params", "the frozen strategy parameters are the agreed ones", look_at.frozen_params),
        ("limits", "which limit binds first", lambda look: values.binding_limit(look.context.settings)),
        ("pin", "settings, parameters, universe and code are the pinned ones",
         lambda look: ground.pin(look.context, allow_dirty=look.allow_dirty)),
        ("packages", "Python and packages are the locked ones", lambda look: ground.packages(look.context)),
    ),
    *_checks(
        Group.MACHINE,
        ("logs", "the log folder can be written", lambda look: ground.log_folder(look.context)),
        ("local_disk", "the state folder is on no network or sync folder",
         lambda look: ground.local_disk(look.context)),
        ("lock", "a lock in the state folder keeps a second holder out", look_at.lock),
        ("disk_space", "room on the disk of the state folder", look_at.disk_space),
        ("path_length", "no path is too long for Windows", lambda look: ground.path_length(look.context.home.root)),
        ("time", "New York's time and this machine's zone", lambda look: ground.zone(look.context)),
        ("calendar", "sessions are known for the next 60 days", lambda look: ground.calendar_horizon(look.context)),
        ("starts", "the runner did not crash again and again", look_at.starts),
    ),
    *_checks(
        Group.APIS,
        ("vendors", "a vendor of daily bars answers", look_at.vendors, _ENTRIES),
        ("quotes", "the broker's market data answers", look_at.quotes, _ENTRIES),
        ("anthropic", "the key of the language model (optional)", look_at.anthropic, _ENTRIES),
    ),
    *_checks(
        Group.DATA,
        ("universe", "the universe file is whole", lambda look: values.universe_read(look.universe), _ENTRIES),
        ("universe_age", "how old it is", look_at.universe_age, _ENTRIES),
        ("universe_change", "which names came and went since it was last used", look_at.universe_change, _ENTRIES),
        ("bars", "the last completed session is there, final, for enough names", look_at.bars, _ENTRIES),
        ("one_share", "how many names one order cannot buy", look_at.one_share, _ENTRIES),
        ("vix", "the VIX and what it does to sizes", look_at.vix, _ENTRIES),
        ("earnings", "announcement dates are known", look_at.earnings, _ENTRIES),
        ("vendor_record", "how often each vendor answered so far", look_at.vendor_record, _ENTRIES),
    ),
    *_checks(
        Group.COGNITIVE,
        ("episodic_memory", "what it remembers is within bounds, and what the journal tells",
         look_at_mind.episodic_memory),
        ("self_model", "its calibration is within bounds", look_at_mind.self_model),
        ("reflection", "its learnings hold on what came after them", look_at_mind.reflection),
        ("ensemble", "models are there and match their manifest", look_at.ensemble),
        ("breakers", "no circuit breaker is tripped", look_at.breakers),
        ("llm_budget", "the language model has budget left", look_at.llm_budget),
    ),
    *_checks(
        Group.LIVE,
        ("watchdog", "a watchdog will watch the runner",
         lambda look: values.watchdog_on(look.context.settings.watchdog.enabled)),
        ("preflight_required", "preflight is required by the settings",
         lambda look: values.preflight_required(look.context.settings.cognitive.preflight.required)),
        ("ladder", "this home has climbed to a live rung", look_at.ladder),
        ("alerts", "no critical alert stands that nobody has acknowledged", look_at.alerts),
    ),
)  # fmt: skip
BY_NAME: Mapping[str, Check] = {check.name: check for check in CHECKS}
_OF_A_RESUME = (
    "state_folder", SWITCH, "journal", "account", "keys_of_mode", "pinned_account", "clock", "unsettled", "in_step",
)  # fmt: skip
OF_A_RESUME: tuple[Check, ...] = tuple(BY_NAME[name] for name in _OF_A_RESUME)
"""What a start after a halt asks by itself, orders settled first."""


def of_groups(*groups: Group) -> tuple[Check, ...]:
    return tuple(check for check in CHECKS if check.group in groups)


def run_each(look: Look, checks: Sequence[Check]) -> Iterator[Finding]:
    """One after the other, as they are made. A check that raises is a failed check."""
    for check in checks:
        try:
            yield check.look(look)
        except KobeError as error:
            yield Finding(check.name, str(error), error)
        except Exception as error:  # noqa: BLE001 - the check boundary: one that breaks must not hide the others
            logs.error_event("check_crashed", check=check.name, code="BUG", detail=repr(error))
            yield Finding(check.name, f"the check itself failed: {error!r}", KobeError(repr(error), code="BUG"))


def run(look: Look, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    return list(run_each(look, checks))


def of_the_mind(context: Context) -> list[Finding]:
    """What the runner asks at its start of memories, models and breakers, unless the settings say that nobody must.

    A tripped breaker is told and lets it start: what is held needs its exits and stops, and entries are refused anyway.
    A person's preflight fails on it.
    """
    if context.settings.cognitive.preflight.required:
        return [_told_only(f) for f in run(Look(context), of_groups(Group.COGNITIVE))]
    logs.event("preflight_not_required", code="PREFLIGHT_NOT_REQUIRED")
    return []


def _told_only(finding: Finding) -> Finding:
    if finding.problem is None or finding.name not in TOLD_ONLY:
        return finding
    logs.error_event("mind_told", check=finding.name, code=finding.problem.code, detail=finding.found)
    logs.count("mind_told", check=finding.name)
    return Finding(finding.name, finding.found, warning=finding.problem.code)


# ---------------------------------------------------------------- the answers
@dataclass(frozen=True, slots=True)
class Answer:
    """What the findings say together. `code`: the one exit code."""

    may_open: bool
    may_carry_on: bool
    halted: bool
    code: Exit


def answer(found: Sequence[Finding], *, expect_halt: bool) -> Answer:
    """While halted, --all answers what would be without the switch; nothing else is forgiven."""
    problems = [f.name for f in found if f.problem is not None]
    halted = SWITCH in problems
    others = [name for name in problems if name != SWITCH]
    stops = [n for n in problems if n not in BY_NAME or BY_NAME[n].forbids is Forbids.EVERYTHING]
    if halted and expect_halt and not others:
        return Answer(False, False, halted, Exit.WOULD_PASS)
    return Answer(not problems, not stops, halted, Exit.NO if problems else Exit.OK)


def record_pass(context: Context, by: str, names: Sequence[str], **facts: Any) -> Finding:
    """Write that everything passed with the switch absent, and look once more: a halt that came meanwhile voids it."""
    from risk.kill_switch import KillSwitch
    from scripts import wiring

    journal, switch = wiring.open_journal(context), KillSwitch(context.home.kill_switch)
    if (before := switch.found()) is not None:
        return Finding("recorded", before, TradingHalted(before))
    body = {"by": by, "mode": context.mode.value, "checks": list(names), **facts}
    made = journal.append("preflight_passed", body)
    if (since := switch.found()) is not None:
        journal.append("preflight_voided", {"pass": made.seq, "why": since})
        return Finding("recorded", since, TradingHalted(f"{since}: it came while the checks were made"))
    return Finding("recorded", f"journal record {made.seq}")


def allow_start(context: Context, desk: Desk, halts: HaltTeller) -> list[Finding]:
    """A start after a halt that nothing has resumed makes the checks of a resume itself, orders settled first.

    Raises TradingHalted RESUME_REFUSED naming the first that failed.
    """
    if not halts.halted_before:
        halts.close_old_halt()
        return []
    desk.settle()
    found = run(Look(context, desk=desk), OF_A_RESUME)
    bad = next((f for f in found if f.problem is not None), None)
    if bad is None:
        found.append(record_pass(context, "start", [f.name for f in found]))
        bad = found[-1] if found[-1].problem is not None else None
    if bad is not None:
        raise TradingHalted(
            f"trading was halted, and may not resume: {bad.name}: {bad.found}", code="RESUME_REFUSED",
            advice="python scripts/preflight.py --all shows every check and its remedy",
        )  # fmt: skip
    halts.close_old_halt()
    return found
