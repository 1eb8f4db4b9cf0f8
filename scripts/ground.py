"""The ground that a run stands on: folders, disk, zone, calendar, packages, pin. Each check is one Finding.

What would make live trading unsafe is a problem in live mode and a warning in paper mode; what makes any run impossible
is a problem in both. Every warning is an event with a stable code.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import platform
from datetime import UTC, timedelta
from typing import TYPE_CHECKING

from config.watch import Watch, fingerprints
from core import host, logs
from core.domain import Mode
from core.errors import ConfigError, KobeError, StateCorrupt
from core.market_calendar import NEW_YORK
from core.paths import REPO_ROOT
from core.restore import agreed, pending, refuse_unfinished
from execution.noted import NOTE_FILE, Behind, behind, note, read_note
from scripts.trading import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from execution.desk import Desk
    from scripts.wiring import Context

CALENDAR_WARN = timedelta(days=60)
CALENDAR_FEWEST_SESSIONS = 30
DEEPEST = (  # the longest names we make, for file systems that count characters
    "cache/panel/" + "market-0123456789" + "/" + "0" * 24 + "/session_index.npy",
    "state/archive/replay-100/hash_chain.jsonl.lock",
    "logs/verdicts/2026-01-01.jsonl",
)
WINDOWS_PATH_MAX = 259


def open_home(context: Context) -> None:
    """Before anything is locked or opened: the state folder can be written and is whole, or nothing starts (P24)."""
    trouble = host.unwritable(context.home.state)
    if trouble is not None:
        raise ConfigError(
            f"the state folder cannot be written: {trouble}",
            code="HOME_UNWRITABLE",
            advice="set KOBE_HOME to a folder that can be written, or free the disk",
        )
    refuse_unfinished(context.home)


def checks(context: Context, *, allow_dirty: bool) -> list[Finding]:
    """All of them, whatever the others found; the warnings are told here."""
    found = [
        log_folder(context), local_disk(context), path_length(context.home.root), zone(context),
        calendar_horizon(context), packages(context), pin(context, allow_dirty=allow_dirty),
    ]  # fmt: skip
    for finding in found:
        if finding.warning:
            logs.error_event("start_warning", check=finding.name, code=finding.warning, detail=finding.found)
            logs.count("start_warnings", code=finding.warning)
    return found


def _unsafe(context: Context, name: str, words: str, code: str, advice: str) -> Finding:
    """A problem in live mode, a warning in paper mode."""
    if context.mode is Mode.LIVE:
        return Finding(name, words, ConfigError(words, code=code, advice=advice))
    return Finding(name, words, warning=code)


def log_folder(context: Context) -> Finding:
    trouble = host.unwritable(context.home.logs)
    if trouble is None:
        return Finding("logs", str(context.home.logs))
    words = f"the log folder cannot be written: {trouble}"
    return _unsafe(context, "logs", words, "LOGS_UNWRITABLE", "make the folder writable, or set KOBE_HOME")


def local_disk(context: Context) -> Finding:
    """Locks that another machine does not see, and renames that a sync program undoes, protect nothing (P07)."""
    why = host.shared_folder(context.home.state, os.environ, host.read_mounts())
    if why is None:
        return Finding("local_disk", str(context.home.state))
    words = f"the state folder is not safe from others: {why}"
    return _unsafe(context, "local_disk", words, "STATE_NOT_LOCAL", "set KOBE_HOME to a folder on a local disk")


def path_length(root: Path, *, windows: bool = os.name == "nt", most: int = WINDOWS_PATH_MAX) -> Finding:
    longest = host.longest_path(root, DEEPEST)
    if not windows or longest <= most:
        return Finding("path_length", f"{longest} characters at most")
    words = f"paths below {root} reach {longest} characters, Windows takes {most}"
    return Finding("path_length", words, ConfigError(words, code="PATH_TOO_LONG", advice="set KOBE_HOME nearer a root"))


def zone(context: Context) -> Finding:
    """Nothing is decided by the host's zone; both are printed, so that a person reads the right clock."""
    now = context.clock.now()
    there = now.astimezone(NEW_YORK)
    return Finding("time", f"{there:%Y-%m-%d %H:%M} New York; this machine: {host.host_zone(now)}")


def calendar_horizon(context: Context) -> Finding:
    """The calendar fetches further years by itself; when it no longer can, it says so 60 days before (P60)."""
    today = context.clock.now().astimezone(NEW_YORK).date()
    calendar = context.calendar
    try:
        calendar.is_session(today + CALENDAR_WARN)  # makes it fetch, when it can
        left = len(calendar.sessions_between(today, calendar.last))
    except KobeError as error:
        return Finding("calendar", str(error), error)
    words = f"sessions known until {calendar.last}"
    advice = "upgrade exchange-calendars: pip install -r requirements.lock.txt"
    if left < CALENDAR_FEWEST_SESSIONS:
        return Finding("calendar", words, ConfigError(f"{words}, {left} left", code="CALENDAR_ENDS", advice=advice))
    if calendar.last - today < CALENDAR_WARN:
        return Finding("calendar", words, warning="CALENDAR_ENDS")
    return Finding("calendar", words)


def packages(context: Context) -> Finding:
    from config.lock import check_lock

    try:
        check = check_lock()
    except ConfigError as error:
        return _unsafe(context, "packages", str(error), error.code, error.advice)
    if check.ok:
        return Finding("packages", "as locked")
    advice = "python -m pip install --require-hashes -r requirements.lock.txt"
    return _unsafe(context, "packages", str(check), check.problems[0][0], advice)


def pin(context: Context, *, allow_dirty: bool) -> Finding:
    """Live needs a pin that matches (P36, P37). Paper without a pin is free; other code than pinned wants a word."""
    from config.pin import check_pin

    if os.environ.get("KOBE_CONFIG"):
        return Finding("pin", "settings from KOBE_CONFIG: not pinned")
    advice = "python scripts/config_pin.py verify, then python scripts/config_pin.py pin"
    try:
        check = check_pin(context.home)
    except KobeError as error:
        return Finding("pin", str(error), error)
    if check.ok:
        return Finding("pin", "in step")
    if not check.pinned:
        if context.mode is Mode.LIVE:
            return Finding(
                "pin", "nothing is pinned", ConfigError("nothing is pinned", code="PIN_ABSENT", advice=advice)
            )
        return Finding("pin", "nothing is pinned")
    words = "differs from the pin: " + "; ".join(check.details)
    if "code" in check.differing and context.mode is Mode.PAPER and not allow_dirty:
        dirty = "trade this code on paper with --allow-dirty, or pin it: " + advice
        return Finding("pin", words, ConfigError(words, code="CODE_NOT_PINNED", advice=dirty))
    return _unsafe(context, "pin", words, "PIN_MISMATCH", advice)


# ---------------------------------------------------------------- an old backup put back
def restored(context: Context, desk: Desk) -> Finding:
    """A journal behind what was noted of it was put back, or restore.py says so: it trades again only in step with the
    broker (P32).

    Then today's executions are all known, so that today's budget is too.
    """
    file = context.home.logs / NOTE_FILE
    asked = pending(context.home)
    noted = behind(read_note(file), desk.journal.records())
    put_back = f"{asked.get('backup')} was restored at {asked.get('at')}" if asked is not None else None
    found: Behind | str | None = noted or put_back
    if found is None:
        return Finding("restore", "the journal holds what was noted of it")
    logs.error_event("state_restored", code="STATE_RESTORED", detail=str(found))
    logs.count("states_restored")
    differs = _differences(context, desk)
    if differs:
        words = f"{found}; journal and broker differ: {', '.join(differs[:3])}"
        advice = "python scripts/reconcile_alpaca.py --full; only when it explains all: --force-sync, then start again"
        return Finding("restore", words, StateCorrupt(words, code="STATE_RESTORED", advice=advice))
    facts = {"noted_seq": noted.noted.seq, "noted_hash": noted.noted.hash} if noted is not None else {}
    desk.journal.append("restore_accepted", {**facts, **({"restore": asked} if asked else {})})
    note(file, context.home.journal, also_back=True)
    agreed(context.home)
    return Finding("restore", f"{found}; in step with the broker, so accepted", warning="STATE_RESTORED")


def _differences(context: Context, desk: Desk) -> list[str]:
    from execution import evidence
    from execution.breaks import BreakKind
    from scripts import wiring

    desk.settle()
    day = context.clock.now().astimezone(NEW_YORK).replace(hour=0, minute=0, second=0, microsecond=0)
    breaks, _, _ = evidence.look(desk.broker, wiring.action_feed(context), desk.ledger, desk.clock)
    strange = evidence.strange_fills(desk.broker, desk.ledger(), day.astimezone(UTC))
    told = [b for b in breaks if b.kind is not BreakKind.MISSING_PROTECTION]  # that one the runner mends
    return [f"{b.symbol} {b.kind} {b.cause}" for b in (*told, *strange)]


# ---------------------------------------------------------------- what this process runs with
OURS = ("cognitive", "config", "core", "data", "execution", "llm", "ml_advanced", "portfolio", "risk")
WIRING = (
    "scripts.backtest_data", "scripts.backtest_evidence", "scripts.breaking", "scripts.cognition", "scripts.ml_scan",
    "scripts.modelling", "scripts.remembering",
)  # fmt: skip
NOT_LATE = ("execution.drill", "execution.venue")  # drills, and the embedded venue, which is running by then if at all
VENDORS = ("alpaca.data.historical", "alpaca.trading.client", "filelock", "pandas", "polygon", "requests", "urllib3")


def snapshot_imports() -> None:
    """Import now what a scan or an order would import late: an upgrade under a running process must not mix two
    versions (P50)."""
    for name in (*_our_modules(), *WIRING, *VENDORS):
        importlib.import_module(name)


def _our_modules() -> Iterator[str]:
    for package in OURS:
        for found in pkgutil.walk_packages([str(REPO_ROOT / package)], f"{package}."):
            if not found.name.startswith(NOT_LATE):
                yield found.name


def watched_files(context: Context) -> dict[str, Path]:
    from config.loader import settings_path
    from config.strategy_params import FROZEN_PARAMS_PATH

    return {
        "config": settings_path(),
        "frozen_params": FROZEN_PARAMS_PATH,
        "universe": REPO_ROOT / context.settings.universe.path,
    }


def record_start(context: Context, desk: Desk, findings: Sequence[Finding]) -> Watch:
    """Journal what this run was started with; what differs from the last start is told. Returns the watch over it."""
    files = watched_files(context)
    now = fingerprints(files)
    before = None
    for record in desk.journal.kinds("runner_started"):
        before = record.body
    for item, value in now.items():
        if before is not None and before.get(item) not in (None, value):
            logs.event("changed_since_last_start", item=item, code="CHANGED_SINCE_LAST_START")
            logs.count("changed_since_last_start", item=item)
    warned = sorted({finding.warning for finding in findings if finding.warning})
    desk.journal.append(
        "runner_started",
        {**now, "mode": context.mode.value, "python": platform.python_version(), "warnings": warned},
    )
    return Watch(lambda: fingerprints(files))
