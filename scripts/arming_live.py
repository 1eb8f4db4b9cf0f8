"""The shell around execution/arming.py: what `runner.py --mode live` asks before anything is opened, and once more with
the account in hand."""

from __future__ import annotations

import argparse
import contextlib
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from config.loader import load_settings
from config.pin import compute_pin
from core import logs
from core.clock import Clock
from core.domain import Mode
from core.env import load_dotenv
from core.errors import ConfigError, KobeError, StateCorrupt, UsageError
from core.paths import REPO_ROOT, Home, home
from execution.alerting import read_memory
from execution.arming import (
    LADDER,
    PREFLIGHT,
    Armed,
    ArmingHistory,
    entries_withheld,
    permit,
    require_account,
    started_without_entries,
)
from execution.observe import alert_memory
from scripts import wiring

if TYPE_CHECKING:
    from config.settings_schema import Settings
    from core.journal import Journal
    from execution.admission import JournalWatch
    from execution.entry import EntryLocks
    from scripts.wiring import Context


def refuse_unless_armed(args: argparse.Namespace) -> None:
    """Raises ConfigError (exit 10), or UsageError for options that live trading does not take. Creates nothing."""
    load_dotenv(args.dotenv)  # it may name the home; preflight and ladder read it too
    clock = wiring.real_clock()
    if not home().journal.is_file():
        raise ConfigError(
            "no live preflight has passed on this home", code="LIVE_NOT_ARMED", advice=f"{PREFLIGHT}; {LADDER}"
        )
    if os.environ.get("KOBE_CONFIG"):
        raise ConfigError("KOBE_CONFIG is set; live mode takes config/base.yaml only", code="CONFIG_NOT_PINNED")
    settings = load_settings()
    _permit(settings, home(), clock)
    for name, why in _NOT_LIVE.items():
        if getattr(args, name):
            raise UsageError(f"--{name.replace('_', '-')}: {why}", code="PAPER_ONLY")
    if args.universe is not None and args.universe.resolve() != (REPO_ROOT / settings.universe.path).resolve():
        raise ConfigError(
            f"--universe {args.universe} is not the pinned one", code="UNIVERSE_NOT_PINNED",
            advice="live trades the universe of the settings: universe.path, then config_pin.py pin",
        )  # fmt: skip


STARTING_CURES = frozenset({
    "RUNNER_STOPPED", "RUNNER_ABSENT", "RUNNER_GAVE_UP", "RUNNER_STALLED", "RUN_OVERDUE", "RUN_FAILING", "BROKER_DOWN",
    "POSITION_UNPROTECTED",
})  # fmt: skip
"""Alerts that ask for a runner: one that ended between a fill and its stop must not keep itself from coming back."""


def refuse_unacknowledged(file: Path) -> None:
    """A critical alert that stands and that nobody has acknowledged (O14). Raises ConfigError."""
    try:
        memory = read_memory(file)
    except StateCorrupt as error:
        raise ConfigError(
            f"{error}: whether a critical alert stands is not known", code="ALERTS_UNREADABLE",
            advice="python scripts/alerting.py --once sets a damaged file aside",
        ) from error  # fmt: skip
    unheard = (
        []
        if memory is None
        else [e.name for e in memory.unacknowledged() if e.name.partition(":")[0] not in STARTING_CURES]
    )
    if unheard:
        raise ConfigError(
            f"nobody has acknowledged {', '.join(unheard)}", code="ALERT_UNACKNOWLEDGED",
            advice=f'look at it, then python scripts/alerts.py ack {unheard[0]} --reason "..."',
        )  # fmt: skip


_NOT_LIVE = {
    "replay": "past sessions are played on paper",
    "as_of": "live trading runs at the time it is",
    "allow_dirty": "live trades the pinned code only",
    "bars": "live decides on the vendors' bars only",
}


def arm(context: Context) -> None:
    """Set `context.armed`, in live mode: the permit for the account that these keys open. Raises ConfigError."""
    from scripts import trading

    if context.mode is not Mode.LIVE:
        return
    armed = _permit(context.settings, context.home, context.clock)
    account = trading.open_reading_desk(context).broker.account()
    trading.refuse_other_kind(context, account.number)
    require_account(armed, account.id, account.number[-4:])
    context.armed = armed


def _permit(settings: Settings, place: Home, clock: Clock) -> Armed:
    """The permit of a start; without entries when something is held, and the pass is old or an alert unheard."""
    found, items, now = history(place.journal, clock), compute_pin(), clock.now()
    try:
        armed = permit(found, now=now, items=items, max_age=_max_age(settings))
        refuse_unacknowledged(place.state / alert_memory.FILE)
    except ConfigError as refusal:
        return started_without_entries(found, refusal, now=now, items=items, holds=_holds(place.journal, clock))
    return armed


def _max_age(settings: Settings) -> timedelta:
    return timedelta(hours=settings.arming.max_age_h)


def _holds(journal: Path, clock: Clock) -> bool:
    """Whether by the journal anything is held or may be live."""
    from core.journal import Journal
    from execution.fold import Fold

    fold = Fold()
    for record in Journal(journal, clock).records():
        fold.add(record)
    ledger = fold.ledger()
    return bool(ledger.open_trades() or ledger.working())


class EntryWatch:
    """Whether a live runner may enter, asked before every entry and at the door, told when the answer changes."""

    def __init__(self, context: Context, watch: JournalWatch, journal: Journal, armed: Armed) -> None:
        self._context, self._watch, self._journal, self._armed = context, watch, journal, armed
        self._told = ""

    def code(self) -> str:
        """Why nothing may be entered now; empty when it may. Raises StateCorrupt."""
        context = self._context
        self._watch.read()
        now = context.clock.now()
        session = context.calendar.session_at(now)
        begins = now if session is None else context.calendar.opens_at(session)
        return entries_withheld(
            self._watch.arming, self._armed, now=now, session_at=begins, max_age=_max_age(context.settings)
        )

    def locks(self, inner: EntryLocks) -> EntryLocks:
        """`inner`, or everything withheld. Raises nothing: what cannot be read is no permission."""
        try:
            code = self.code()
        except (KobeError, OSError) as error:
            code = error.code if isinstance(error, KobeError) else "ARMING_UNREADABLE"
        if code != self._told:
            self._tell(code)
        return replace(inner, everything=code) if code else inner

    def _tell(self, code: str) -> None:
        """Once a change, in the journal too: the record of a day says why nothing was bought."""
        kind = "entries_withheld" if code else "entries_allowed"
        if code:
            logs.error_event(kind, code=code, advice=PREFLIGHT)
        else:
            logs.event(kind, code="OK", before=self._told)
        logs.count(kind, code=code or "OK")
        with contextlib.suppress(KobeError, OSError):  # told in the log; the journal has its own ways of being heard
            self._journal.append(kind, {"code": code or "OK", "before": self._told or "OK"})
        self._told = code


def history(journal: Path, clock: Clock) -> ArmingHistory:
    """Folded from the whole journal. Raises StateCorrupt for a record that cannot be read."""
    from core.journal import Journal

    found = ArmingHistory()
    for record in Journal(journal, clock).records():
        try:
            found.add(record)
        except (KeyError, TypeError, ValueError) as error:
            raise StateCorrupt(f"journal record {record.seq} ({record.kind}) cannot be read: {error!r}") from error
    return found
