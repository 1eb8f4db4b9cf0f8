"""The shell around execution/arming.py: what `runner.py --mode live` asks before anything is opened, and once more with
the account in hand."""

from __future__ import annotations

import argparse
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from config.loader import load_settings
from config.pin import compute_pin
from core.clock import Clock
from core.domain import Mode
from core.env import load_dotenv
from core.errors import ConfigError, StateCorrupt, UsageError
from core.paths import REPO_ROOT, home
from execution.alerting import read_memory
from execution.arming import LADDER, PREFLIGHT, Armed, ArmingHistory, permit, require_account
from execution.observe import alert_memory
from scripts import wiring

if TYPE_CHECKING:
    from config.settings_schema import Settings
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
    _permit(settings, home().journal, clock)
    refuse_unacknowledged(home().state / alert_memory.FILE)
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
    refuse_unacknowledged(context.home.state / alert_memory.FILE)
    armed = _permit(context.settings, context.home.journal, context.clock)
    account = trading.open_reading_desk(context).broker.account()
    trading.refuse_other_kind(context, account.number)
    require_account(armed, account.id, account.number[-4:])
    context.armed = armed


def _permit(settings: Settings, journal: Path, clock: Clock) -> Armed:
    max_age = timedelta(hours=settings.arming.max_age_h)
    return permit(history(journal, clock), now=clock.now(), items=compute_pin(), max_age=max_age)


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
