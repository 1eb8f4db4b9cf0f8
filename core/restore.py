"""Put a backup back: all of it or, visibly, not yet; and nothing is traded on it before a reconcile has agreed.

| step | what                                                | killed behind it                                      |
|------|-----------------------------------------------------|-------------------------------------------------------|
| 1    | the backup is proved, the plan made                 | nothing was touched                                   |
| 2    | what will be replaced is copied to archive/         | nothing was touched                                   |
| 3    | `restore_pending.json`: replacing                   | no runner starts (RESTORE_UNFINISHED); restore again  |
| 4    | heads, then documents and months, then the journals | the same; a journal whose head differs is refused too |
| 5    | every file is read again and compared               | the same                                              |
| 6    | `restore_pending.json`: reconcile                   | the next start asks the broker first: scripts/ground  |

The embedded venue's account stands for a broker, and a broker is not set back: its file is written only when there is
none. The kill switch is never touched.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from core.backup import (
    PENDING_FILE,
    SETTINGS,
    STATE,
    VENUE_FILE,
    BackupDamaged,
    Kept,
    Manifest,
    account_of,
    content_of,
    damage,
    journals_in,
    state_files,
)
from core.documents import Document, Schema, newer, read
from core.errors import AlreadyRunning, ConfigError, StateCorrupt, StateLocked
from core.files import locked, write_atomic
from core.journal import segments_folder
from core.paths import Home

REPLACING, RECONCILE = "replacing", "reconcile"
ALERTING = "alerting"
"""Lock that scripts/alerting.py holds: it would write what it knows of alerts over what was put back."""
_SPENT = "what was spent on the language model is not set back"
_NOT_SET_BACK: Final[Mapping[str, str]] = {
    VENUE_FILE: "a broker's account is not set back", "llm_calls.jsonl": _SPENT, "llm_token_usage.json": _SPENT,
}  # fmt: skip


def _check_pending(document: Document) -> None:
    if document.get("phase") not in (REPLACING, RECONCILE):
        raise ValueError(f"phase is {document.get('phase')!r}")


PENDING: Final = Schema(1, dict, _check_pending)


@dataclass(frozen=True, slots=True)
class Change:
    """One file that a restore would write or take away. `target` is where it lies on this machine."""

    name: str  # as in the backup
    target: Path
    action: str  # "create", "replace", "remove"
    kept: Kept | None  # None: taken away


@dataclass(frozen=True, slots=True)
class Plan:
    changes: tuple[Change, ...]
    same: tuple[str, ...]
    left: Mapping[str, str]  # name -> why it is not restored
    notes: tuple[str, ...]

    def named(self, action: str) -> list[str]:
        return [change.name for change in self.changes if change.action == action]


# ---------------------------------------------------------------- deciding
def plan(
    folder: Path, manifest: Manifest, home: Home, settings: Mapping[str, Path], *, versions: Mapping[str, int],
    with_settings: bool,
) -> Plan:  # fmt: skip
    """What would be done; nothing is changed.

    versions : schema version that this program knows, by file name below state/.
    Raises StateCorrupt (STATE_NEWER, BACKUP_OF_DAMAGED), ConfigError BACKUP_OF_ANOTHER_ACCOUNT.
    """
    if (damaged := damage(manifest)) is not None:
        raise damaged
    for kept in manifest.files:
        known = versions.get(PurePosixPath(kept.path).name)
        if known is not None and kept.schema_version is not None and kept.schema_version > known:
            raise newer(kept.path, kept.schema_version, known)
    notes = _same_account(manifest, home)
    changes: list[Change] = []
    same: list[str] = []
    left: dict[str, str] = {}
    for kept in manifest.files:
        target = _target(kept.path, home, settings)
        if target is None:
            left[kept.path] = "this program has no place for it"
        elif (why := _NOT_SET_BACK.get(kept.path.removeprefix(f"{STATE}/"))) is not None and target.exists():
            left[kept.path] = why
        elif _is(target, kept, folder):
            same.append(kept.path)
        elif kept.path.startswith(f"{SETTINGS}/") and not with_settings:
            left[kept.path] = "it differs from the backup; --with-settings puts it back"
        else:
            changes.append(Change(kept.path, target, "replace" if target.exists() else "create", kept))
    wanted = {kept.path for kept in manifest.files}
    for name in state_files(home.state)[0]:
        if f"{STATE}/{name}" not in wanted and name.name not in _NOT_SET_BACK:
            changes.append(Change(f"{STATE}/{name}", home.state / name, "remove", None))
    return Plan(tuple(changes), tuple(same), left, tuple(notes))


def _target(name: str, home: Home, settings: Mapping[str, Path]) -> Path | None:
    top, _, rest = name.partition("/")
    return home.state / rest if top == STATE else settings.get(rest)


def _is(target: Path, kept: Kept, folder: Path) -> bool:
    try:
        return not target.is_symlink() and target.read_bytes() == content_of(folder, kept)
    except FileNotFoundError:
        return False


def _same_account(manifest: Manifest, home: Home) -> list[str]:
    ours, theirs = account_of(home.journal), manifest.account
    if ours is not None and theirs is not None and (ours["id_sha256"], ours["mode"]) != (
        theirs["id_sha256"], theirs["mode"],
    ):  # fmt: skip
        raise ConfigError(
            f"the backup is of the {theirs['mode']} account ending in {theirs['tail']}, "
            f"this home of the {ours['mode']} account ending in {ours['tail']}",
            code="BACKUP_OF_ANOTHER_ACCOUNT", advice="set KOBE_HOME to the folder of that account",
        )  # fmt: skip
    if ours is None and home.journal.exists():
        return ["whose journal lies here cannot be read; the next start compares the backup's account with the broker"]
    return []


# ---------------------------------------------------------------- doing
@contextlib.contextmanager
def nobody_else(home: Home) -> Iterator[None]:
    """Hold what a runner, the alerting, an order and an operator's command hold. Raises AlreadyRunning naming the lock.

    The sidecar writes nothing below state/ and may go on; what it follows is read anew.
    """
    from filelock import FileLock, Timeout

    home.state.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(FileLock(str(home.state / "runner.lock"), timeout=0))
        except Timeout as error:
            raise AlreadyRunning("a runner holds this home", advice="stop the runner first") from error
        try:
            held.enter_context(locked(home.state / ALERTING, timeout_s=0.0))
        except StateLocked as error:
            raise AlreadyRunning(
                "alerting.py works on this home", code="ALERTING_RUNNING",
                advice="stop its service, or end that process: a runner that was killed leaves it behind for a day",
            ) from error  # fmt: skip
        for name in ("operator", "emergency", "desk"):
            try:
                held.enter_context(locked(home.state / name, timeout_s=0.0))
            except StateLocked as error:
                raise AlreadyRunning(
                    f"another command holds state/{name}.lock", code="ACTION_RUNNING",
                    advice="wait until it has ended; if it hangs, end that process",
                ) from error  # fmt: skip
        yield


def restore(folder: Path, planned: Plan, home: Home, *, stamp: str, facts: Mapping[str, Any]) -> Path:
    """Carry out a plan, under `nobody_else`; the folder that keeps what was replaced.

    facts : told in restore_pending.json and later in the journal: backup, manifest_sha256, at, reason.
    Raises BackupDamaged, StateLocked, OSError: `restore_pending.json` then says "replacing", or nothing was touched.
    """
    contents = {c.name: content_of(folder, c.kept) for c in planned.changes if c.kept is not None}
    kept = _free(home.state / "archive" / f"replaced-{stamp}")
    for change in planned.changes:
        if change.action != "create":
            write_atomic(kept / PurePosixPath(change.name), change.target.read_bytes())
    marker = {**facts, "kept": f"{kept.parent.name}/{kept.name}", "schema_version": PENDING.version}
    _mark(home, {**marker, "phase": REPLACING})
    with contextlib.ExitStack() as held:
        if segments_folder(home.journal).is_dir():
            held.enter_context(locked(segments_folder(home.journal) / "sealing"))
        for journal in journals_in(state_files(home.state)[0]):
            held.enter_context(locked(home.state / journal))
        for change in sorted(planned.changes, key=_order):
            if change.kept is None:
                change.target.unlink(missing_ok=True)
            else:
                write_atomic(change.target, contents[change.name])
    for change in planned.changes:
        if change.kept is not None and change.target.read_bytes() != contents[change.name]:
            raise BackupDamaged(f"{change.name} was written and reads back as something else")
    _mark(home, {**marker, "phase": RECONCILE})
    return kept


def _order(change: Change) -> tuple[int, str]:
    """Heads first: from then on a journal that is not yet its own is refused by everybody. Journals last."""
    name = PurePosixPath(change.name)
    last = name.suffix == ".jsonl" and len(name.parts) == 2
    return (0 if name.suffix == ".head" else 2 if last else 1, change.name)


def _free(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


# ---------------------------------------------------------------- what the next start must know
def _mark(home: Home, document: Mapping[str, Any]) -> None:
    write_atomic(home.state / PENDING_FILE, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")


def pending(home: Home) -> Document | None:
    """The restore that no reconcile has agreed with yet; None when there is none. Raises StateCorrupt."""
    found = read(home.state / PENDING_FILE, PENDING)
    return found or None


def refuse_unfinished(home: Home) -> None:
    """Raises StateCorrupt RESTORE_UNFINISHED when a restore was interrupted."""
    found = pending(home)
    if found is not None and found["phase"] == REPLACING:
        raise StateCorrupt(
            f"the restore of {found.get('backup')} was interrupted", code="RESTORE_UNFINISHED",
            advice=f"run it again: python scripts/restore.py {found.get('backup')}",
        )  # fmt: skip


def agreed(home: Home) -> None:
    """Journal and broker agree: the restore is over."""
    (home.state / PENDING_FILE).unlink(missing_ok=True)
