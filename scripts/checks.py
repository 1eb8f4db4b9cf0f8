"""The checks of preflight. Each is a function over what was read; one that raises has failed, and the others go on.

A new check is one line in CHECKS. Two questions are kept apart by what a Finding carries: a `problem` says that trading
may not begin, a `warning` is told and forbids nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from core import host, logs
from core.errors import BrokerDown, ConfigError, KobeError, OutcomeUnknown, StateCorrupt, TradingHalted
from scripts import ground, trading
from scripts.trading import Finding

if TYPE_CHECKING:
    from datetime import datetime

    from core.domain import Account
    from core.ports import Broker
    from execution.breaks import Break
    from execution.desk import Desk
    from execution.ledger import Ledger, LedgerOrder
    from execution.resume import HaltTeller
    from scripts.wiring import Context

SWITCH = "kill_switch"
_RECONCILE = "python scripts/reconcile_alpaca.py"


@dataclass
class Look:
    """What the checks look at: read when first asked for, and once. What could not be read fails each that needs it."""

    context: Context
    allow_dirty: bool = False
    desk: Desk | None = None
    _broker_error: KobeError | None = field(default=None, init=False)

    @cached_property
    def _desk(self) -> Desk:
        return self.desk or trading.open_reading_desk(self.context)

    @property
    def ledger(self) -> Ledger:
        return self._desk.ledger()

    @property
    def broker(self) -> Broker:
        """One that has answered: a broker that is down is waited for once, not at every check."""
        _ = self.account
        return self._desk.broker

    @property
    def account(self) -> Account:
        if self._broker_error is not None:
            raise self._broker_error
        try:
            return self._account
        except KobeError as error:
            self._broker_error = error
            raise

    @cached_property
    def _account(self) -> Account:
        return self._desk.broker.account()


# ---------------------------------------------------------------- the checks
def state_folder(look: Look) -> Finding:
    trouble = host.unwritable(look.context.home.state)
    if trouble is None:
        return Finding("state_folder", "written, flushed to the disk, renamed and removed a file")
    error = ConfigError(trouble, code="HOME_UNWRITABLE", advice="free the disk or set KOBE_HOME to another folder")
    return Finding("state_folder", trouble, error)


def pinned_account(account: Account, bound: dict[str, str] | None, mode: str) -> Finding:
    """The account this journal belongs to, and no other."""
    if bound is None:
        return Finding("pinned_account", f"none yet; the first run binds the one ending in {account.number[-4:]}")
    if (bound["id"], bound["mode"]) == (account.id, mode):
        return Finding("pinned_account", f"the {mode} account ending in {account.number[-4:]}")
    words = (
        f"this journal belongs to the {bound['mode']} account ending in {bound['number'][-4:]}, "
        f"these keys to the {mode} account ending in {account.number[-4:]}"
    )
    advice = "set KOBE_HOME to that account's folder, or use its keys"
    return Finding("pinned_account", words, ConfigError(words, code="ACCOUNT_MISMATCH", advice=advice))


def clock_skew(theirs: datetime, ours: datetime, limit_s: float) -> Finding:
    """The limit itself passes."""
    skew_s = abs((theirs - ours).total_seconds())
    words = f"{skew_s:.1f} s from the broker's (limit {limit_s:g} s)"
    if skew_s <= limit_s:
        return Finding("clock", words)
    error = BrokerDown(f"the clock is {words}", code="CLOCK_DISAGREES", advice="correct this machine's clock")
    return Finding("clock", words, error)


def nothing_unsettled(orders: Sequence[LedgerOrder]) -> Finding:
    if not orders:
        return Finding("unsettled", "every order has an end, or rests at the broker")
    words = f"{len(orders)} may be live: {', '.join(o.client_order_id for o in orders[:3])}"
    return Finding("unsettled", words, OutcomeUnknown(words, advice=f"{_RECONCILE}, or start the runner: it settles"))


def in_step(breaks: Sequence[Break]) -> Finding:
    """A break that locks its symbol is a problem; what trading mends by itself is a warning."""
    locking = [b for b in breaks if b.lock_code is not None]
    told = ", ".join(f"{b.symbol} {b.kind} {b.cause}" for b in (locking or breaks)[:3])
    if locking:
        words = f"{len(locking)} breaks: {told}"
        return Finding("in_step", words, StateCorrupt(words, code="BREAKS", advice=locking[0].proposal or _RECONCILE))
    if breaks:
        return Finding("in_step", f"the runner mends: {told}", warning="BREAKS_TOLD")
    return Finding("in_step", "journal and broker agree")


def _in_step(look: Look) -> Finding:
    from execution.reconcile import find_breaks

    broker = look.broker
    return in_step(find_breaks(look.ledger, broker.positions(), broker.open_orders(), account=look.account))


def _clock(look: Look) -> Finding:
    limit_s = float(look.context.settings.execution.clock_skew_max_s)
    theirs = look.broker.clock().now
    return clock_skew(theirs, look.context.clock.now(), limit_s)


def _pinned(look: Look) -> Finding:
    trading.refuse_other_kind(look.context, look.account.number)
    bound = look.ledger.account
    return pinned_account(look.account, None if bound is None else dict(bound), look.context.mode.value)


Check = Callable[[Look], "Finding | list[Finding]"]

OF_A_RESUME: tuple[tuple[str, Check], ...] = (
    ("state_folder", state_folder),  # first: it makes the folder of a new home, without which nobody can look
    (SWITCH, lambda look: trading.switch_finding(look.context)),
    ("journal", lambda look: trading.journal_finding(look.context)),
    ("account", lambda look: trading.account_finding(look.account)),
    ("pinned_account", _pinned),
    ("clock", _clock),
    ("unsettled", lambda look: nothing_unsettled(look.ledger.unsettled())),
    ("in_step", _in_step),
)
CHECKS: tuple[tuple[str, Check], ...] = (
    *OF_A_RESUME,
    ("ground", lambda look: ground.checks(look.context, allow_dirty=look.allow_dirty)),
)


def run(look: Look, checks: Sequence[tuple[str, Check]] = CHECKS) -> list[Finding]:
    """All of them, in order. A check that raises is a failed check."""
    found: list[Finding] = []
    for name, check in checks:
        try:
            answer = check(look)
        except KobeError as error:
            answer = Finding(name, str(error), error)
        except Exception as error:  # noqa: BLE001 - the check boundary: one that breaks must not hide the others
            logs.error_event("check_crashed", check=name, code="BUG", detail=repr(error))
            answer = Finding(name, f"the check itself failed: {error!r}", KobeError(repr(error), code="BUG"))
        found += answer if isinstance(answer, list) else [answer]
    return found


# ---------------------------------------------------------------- a pass
def record_pass(context: Context, by: str, names: Sequence[str]) -> Finding:
    """Write that everything passed with the switch absent, and look once more: a halt that came meanwhile voids it."""
    from risk.kill_switch import KillSwitch
    from scripts import wiring

    journal, switch = wiring.open_journal(context), KillSwitch(context.home.kill_switch)
    if (before := switch.found()) is not None:
        return Finding("recorded", before, TradingHalted(before))
    made = journal.append("preflight_passed", {"by": by, "mode": context.mode.value, "checks": list(names)})
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
