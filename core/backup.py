"""A consistent copy of what cannot be made again: journal, state documents, settings, universe, trials.

    kobe-20261126T143000Z/
      manifest.json     every file with size, SHA-256 and schema version; what was left out and why; where each journal
                        ended, whose account it is
      state/…           as below KOBE_HOME: journals, heads, sealed months, documents, the embedded venue's account
      settings/…        settings file, frozen parameters, universe

The journals are copied under their own locks, so that line, head and documents are of one moment: first into the
machine's temporary folder, so that a slow disk of backups keeps no writer waiting. The folder is written under another
name, read again and proved, and only then given its own: there is never half a backup.
Keys are not in it: `.env` is left out, and a file that holds a known key stops the backup.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC
from pathlib import Path, PurePosixPath
from typing import Final

from core.canonical import iso_utc
from core.clock import Clock
from core.documents import version_of
from core.errors import ConfigError, KobeError, StateCorrupt
from core.files import fsync_folder, locked
from core.journal import Journal, segments_folder, verify
from core.paths import Home
from core.secrets import holds_secret

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
STATE, SETTINGS = "state", "settings"
PENDING_FILE: Final = "restore_pending.json"
VENUE_FILE: Final = "venue.sqlite"
_NOT_STATE = frozenset({
    "runner.json", "runner.lock", "operator.json", PENDING_FILE, ".gitkeep",
    f"{VENUE_FILE}-wal", f"{VENUE_FILE}-shm", f"{VENUE_FILE}-journal",
})  # fmt: skip
_ROOM_FACTOR = 1.1
_BLOCK = 1 << 20


class BackupDamaged(StateCorrupt):
    default_code = "BACKUP_DAMAGED"
    default_advice = "use another backup; python scripts/backup.py --verify names the newest sound one"


@dataclass(frozen=True, slots=True)
class Kept:
    """One file of a backup; `path` is relative to its folder, with forward slashes."""

    path: str
    bytes: int
    sha256: str
    schema_version: int | None = None


@dataclass(frozen=True, slots=True)
class JournalEnd:
    """Where a journal ended, and whether it was sound then."""

    file: str
    records: int
    head: str
    ok: bool
    why: str


@dataclass(frozen=True, slots=True)
class Manifest:
    format: int
    made_at: str
    code_sha256: str
    account: Mapping[str, str] | None  # {mode, tail, id_sha256} of the account that the journal is bound to
    files: tuple[Kept, ...]
    journals: tuple[JournalEnd, ...]
    left_out: Mapping[str, str]  # path -> why

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode() + b"\n"

    def journal(self, name: str) -> JournalEnd | None:
        return next((end for end in self.journals if end.file == f"{STATE}/{name}"), None)


@dataclass(frozen=True, slots=True)
class Made:
    folder: Path
    manifest: Manifest
    warnings: tuple[str, ...]  # codes


# ---------------------------------------------------------------- what belongs to it
def belongs(relative: PurePosixPath) -> str:
    """Empty when a file below state/ is part of a backup, else why it is not."""
    name = relative.name
    if relative.parts[0] == "archive":
        return "archived"
    if name.lower().startswith("kill_switch"):
        return "the operator's switch"
    if name.startswith(".env"):
        return "keys"
    if name in _NOT_STATE or name.endswith((".lock", ".tmp")):
        return "of a running process"
    if name.endswith(".reserve"):
        return "empty room"
    return ""


def state_files(state: Path) -> tuple[list[PurePosixPath], dict[str, str]]:
    """Relative paths that belong to a backup, sorted, and what does not with the reason. Links are not followed."""
    found: list[PurePosixPath] = []
    left: dict[str, str] = {}
    for folder, names, files in os.walk(state):
        names[:] = sorted(n for n in names if not (Path(folder) / n).is_symlink())
        for name in sorted(files):
            path = Path(folder) / name
            relative = PurePosixPath(path.relative_to(state).as_posix())
            why = belongs(relative) or ("a link" if path.is_symlink() else "")
            if not why:
                found.append(relative)
            elif why != "of a running process":
                left[f"{STATE}/{relative}"] = why
    return sorted(found), left


def journals_in(names: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """The active files: the journal of orders, and every other .jsonl at the top with a head beside it."""
    tops = {n.name for n in names if len(n.parts) == 1}
    files = [n for n in names if len(n.parts) == 1 and n.suffix == ".jsonl"]
    return [n for n in files if n.name == "hash_chain.jsonl" or f"{n.stem}.head" in tops]


# ---------------------------------------------------------------- making one
def make(
    home: Home, settings: Mapping[str, Path], out: Path, clock: Clock, *, code_sha256: str, timeout_s: float = 10.0
) -> Made:
    """Write and prove one backup below `out`. settings: name in the backup -> file.

    Raises StateLocked, StateCorrupt (SECRET_IN_STATE; a copy that is not what was read), ConfigError (BACKUP_NO_ROOM,
    BACKUP_UNWRITABLE). A journal that is damaged is copied as it is; the manifest says so.
    """
    stamp = f"kobe-{clock.now().astimezone(UTC):%Y%m%dT%H%M%SZ}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        _require_room(home, out)
        partial = Path(tempfile.mkdtemp(prefix=f".{stamp}.", suffix=".partial", dir=out))
    except OSError as error:
        raise _unwritable(out, error) from error
    try:
        names, left_out = _copy_state(home.state, partial / STATE, timeout_s)
        _copy_settings(settings, partial / SETTINGS, left_out)
        left_out |= _dotenv(home)
        manifest = _describe(partial, clock, code_sha256, left_out)
        (partial / MANIFEST).write_bytes(manifest.to_bytes())
        prove(partial, manifest)
        _flush(partial)
        final = _free(out / stamp)
        partial.rename(final)
        fsync_folder(out)
    except OSError as error:
        raise _unwritable(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    warnings = ["BACKUP_SAME_DISK"] if names and _same_disk(home.state, out) else []
    return Made(final, manifest, tuple(warnings))


def _unwritable(out: Path, error: OSError) -> ConfigError:
    full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    return ConfigError(
        f"no backup below {out}: {error.strerror or error}",
        code="BACKUP_NO_ROOM" if full else "BACKUP_UNWRITABLE",
        advice="name another folder with --out, on another disk",
    )


def _require_room(home: Home, out: Path) -> None:
    names, _ = state_files(home.state)
    wanted = sum((home.state / name).stat().st_size for name in names if (home.state / name).is_file())
    free = shutil.disk_usage(out).free
    if wanted * _ROOM_FACTOR > free:
        raise ConfigError(
            f"{out} has {free // 1_000_000} MB free, the backup needs {wanted // 1_000_000} MB",
            code="BACKUP_NO_ROOM", advice="name another folder with --out, on another disk",
        )  # fmt: skip


def _same_disk(one: Path, other: Path) -> bool:
    """On the same disk one failure takes both."""
    with contextlib.suppress(OSError):
        return one.stat().st_dev == other.stat().st_dev
    return False


def _copy_state(state: Path, target: Path, timeout_s: float) -> tuple[list[PurePosixPath], dict[str, str]]:
    names, left_out = state_files(state)
    journals = journals_in(names)
    with tempfile.TemporaryDirectory(prefix="kobe-copy-") as staged, contextlib.ExitStack() as sealing:
        if journals:  # no month is moved between the files meanwhile
            sealing.enter_context(locked(segments_folder(state / journals[0]) / "sealing", timeout_s=timeout_s))
        sealed = [n for n in names if len(n.parts) > 1]
        _copy_files(state, target, sealed)  # they never change: no writer has to wait for them
        with contextlib.ExitStack() as held:
            for journal in journals:
                held.enter_context(locked(state / journal, timeout_s=timeout_s))
            names, left_out = state_files(state)
            _copy_files(state, Path(staged) / STATE, [n for n in names if n not in sealed])
        for path in _files_below(Path(staged)):
            there = target.parent / path.relative_to(staged)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, there)
    return names, left_out


def _copy_files(state: Path, target: Path, names: Sequence[PurePosixPath]) -> None:
    for name in names:
        if name.name == VENUE_FILE:
            _copy_database(state / name, target / name)
        else:
            with contextlib.suppress(FileNotFoundError):  # a document that another process has just put aside
                _copy(state / name, target / name)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file, target.open("wb") as out:
        shutil.copyfileobj(file, out, _BLOCK)  # flushed to the disk later: a writer of the journal waits for this


def _copy_database(source: Path, target: Path) -> None:
    """SQLite's own copy: a file that is being written may be half of a transaction."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, timeout=10)) as live,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            live.backup(copy)
    except sqlite3.DatabaseError as error:
        raise StateCorrupt(f"{source.name} cannot be copied: {error}", code="VENUE_DAMAGED") from error


def _copy_settings(settings: Mapping[str, Path], target: Path, left_out: dict[str, str]) -> None:
    for name, path in settings.items():
        try:
            _copy(path, target / name)
        except FileNotFoundError:
            left_out[f"{SETTINGS}/{name}"] = "absent"


def _dotenv(home: Home) -> dict[str, str]:
    return {".env": "keys"} if (home.root / ".env").exists() else {}


def _flush(folder: Path) -> None:
    """Everything below it, folders too, is on the disk."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in sorted(files):
            with (Path(place) / name).open("rb+") as file:
                os.fsync(file.fileno())
        fsync_folder(Path(place))


def _free(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _describe(folder: Path, clock: Clock, code_sha256: str, left_out: Mapping[str, str]) -> Manifest:
    files = []
    for path in _files_below(folder):
        content = path.read_bytes()
        relative = path.relative_to(folder).as_posix()
        if holds_secret(content):
            raise StateCorrupt(
                f"{relative} holds one of the keys: nothing was backed up", code="SECRET_IN_STATE",
                advice="take the key out of that file; exchange the key if the file was ever shared",
            )  # fmt: skip
        files.append(Kept(relative, len(content), hashlib.sha256(content).hexdigest(), _schema(path, content)))
    with _scratch(folder) as state:
        ends = tuple(_end_of(state, name) for name in journals_in(state_files(state)[0]))
        account = account_of(state / "hash_chain.jsonl")
    return Manifest(FORMAT, iso_utc(clock.now()), code_sha256, account, tuple(files), ends, dict(left_out))


def _schema(path: Path, content: bytes) -> int | None:
    if path.suffix != ".json":
        return None
    try:
        return version_of(json.loads(content))
    except ValueError:
        return None


def _end_of(state: Path, name: PurePosixPath) -> JournalEnd:
    found = verify(state / name)
    why = "" if found.ok else found.why
    return JournalEnd(f"{STATE}/{name}", found.records, found.head, found.ok or found.torn, why)


def account_of(journal: Path) -> dict[str, str] | None:
    """Whose journal it is, without its number: mode, last four characters, and the hash of the account's id.

    None when it is bound to nobody, or when that cannot be read any more.
    """
    from core.clock import SystemClock

    if not journal.is_file():
        return None
    try:
        bound = next(Journal(journal, SystemClock()).kinds("account_bound"), None)
    except StateCorrupt:
        return None
    if bound is None:
        return None
    digest = hashlib.sha256(str(bound.body["id"]).encode()).hexdigest()
    return {"mode": str(bound.body["mode"]), "tail": str(bound.body["number"])[-4:], "id_sha256": digest}


def _files_below(folder: Path) -> Iterator[Path]:
    for place, names, files in os.walk(folder):
        names.sort()
        yield from (Path(place) / name for name in sorted(files) if name != MANIFEST or Path(place) != folder)


# ---------------------------------------------------------------- reading one
def read_manifest(folder: Path) -> Manifest:
    """Raises BackupDamaged (BACKUP_INCOMPLETE without a manifest) and StateCorrupt BACKUP_NEWER."""
    try:
        document = json.loads((folder / MANIFEST).read_bytes())
        if document["format"] > FORMAT:
            raise StateCorrupt(
                f"{folder.name} has backup format {document['format']}; this program knows {FORMAT}",
                code="BACKUP_NEWER", advice="run the newer version of the program that wrote it",
            )  # fmt: skip
        files = tuple(Kept(**row) for row in document["files"])
        ends = tuple(JournalEnd(**row) for row in document["journals"])
        manifest = Manifest(**{**document, "files": files, "journals": ends})
    except FileNotFoundError as error:
        raise BackupDamaged(f"{folder} is no backup: it has no {MANIFEST}", code="BACKUP_INCOMPLETE") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupDamaged(f"{folder.name}: {MANIFEST} cannot be read: {error}") from error
    for kept in manifest.files:
        _require_inside(folder, kept.path)
    return manifest


def _require_inside(folder: Path, path: str) -> None:
    """Only our two folders, no way out, no link."""
    parts = PurePosixPath(path).parts
    safe = len(parts) >= 2 and parts[0] in (STATE, SETTINGS) and ".." not in parts and "\\" not in path
    if not safe or ":" in path:
        raise BackupDamaged(f"{folder.name}: {MANIFEST} names {path!r}, which is outside the backup")
    if any((folder / PurePosixPath(*parts[:size])).is_symlink() for size in range(1, len(parts) + 1)):
        raise BackupDamaged(f"{folder.name}: {path} is a link")


def content_of(folder: Path, kept: Kept) -> bytes:
    """The bytes of one file, proved. Raises BackupDamaged."""
    try:
        content = (folder / kept.path).read_bytes()
    except FileNotFoundError as error:
        raise BackupDamaged(f"{folder.name}: {kept.path} is missing", code="BACKUP_INCOMPLETE") from error
    except OSError as error:
        raise BackupDamaged(f"{folder.name}: {kept.path} cannot be read: {error.strerror}") from error
    if len(content) != kept.bytes or hashlib.sha256(content).hexdigest() != kept.sha256:
        raise BackupDamaged(f"{folder.name}: {kept.path} is not what was backed up")
    return content


def prove(folder: Path, manifest: Manifest | None = None) -> Manifest:
    """Every file hashed again, every journal proved record by record. Raises BackupDamaged, StateCorrupt."""
    found = manifest or read_manifest(folder)
    for kept in found.files:
        content_of(folder, kept)
    with _scratch(folder) as state:
        for end in found.journals:
            again = _end_of(state, PurePosixPath(end.file).relative_to(STATE))
            if again != end:
                raise BackupDamaged(f"{folder.name}: {end.file} ends at record {again.records}, not {end.records}")
    return found


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """The journals of a backup in a folder of their own: proving takes locks, which are files."""
    with tempfile.TemporaryDirectory(prefix="kobe-proof-") as place:
        state = Path(place)
        names, _ = state_files(folder / STATE)
        wanted = [n for n in names if n.suffix in (".jsonl", ".head") or n.parts[0] == "journal"]
        for name in wanted:
            (state / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / STATE / name, state / name)
        yield state


def newest(out: Path) -> Path | None:
    """The newest folder below `out` that carries a backup's name."""
    found = sorted((p for p in out.glob("kobe-*Z*") if p.is_dir()), key=lambda p: p.name) if out.is_dir() else []
    return found[-1] if found else None


def damage(manifest: Manifest) -> KobeError | None:
    """What is wrong with the journals that were copied; None when they are sound."""
    for end in manifest.journals:
        if not end.ok:
            return StateCorrupt(f"{end.file} was damaged when it was backed up: {end.why}", code="BACKUP_OF_DAMAGED")
    return None
