"""Which old backups may go: the newest N of each account stay, and so does the newest that is proved to be sound.

Pure deciding over folders that were read; `prune` removes. A folder that is no backup of this program (no manifest, a
newer format, a link, another name) is nobody's to remove. Each leaves under another name first, so that there is never
half a backup under a backup's name.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.backup import Manifest, damage, prove, read_manifest
from core.errors import ConfigError, KobeError
from core.files import fsync_folder

_NAME = re.compile(r"kobe-(\d{8}T\d{6}Z)(?:-(\d+))?")
NONE_SOUND = "BACKUP_NONE_SOUND"


@dataclass(frozen=True, slots=True)
class Pruning:
    """`remove`: oldest first. `kept`: newest first. `left`: folder -> why not touched. `sound`: one an account."""

    remove: tuple[Path, ...]
    kept: tuple[Path, ...]
    sound: tuple[Path, ...]
    left: Mapping[Path, str] = field(default_factory=dict)


def plan(out: Path, keep: int, *, sound: Callable[[Path], bool] | None = None) -> Pruning:
    """What would be removed below `out`; nothing is changed. `sound` proves one backup: every file, every record.

    Of each account the newest `keep` (at least 1) stay. The newest sound one stays too; without any, all stay.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, was {keep}")
    groups, left = _by_account(out)
    remove: list[Path] = []
    kept: list[Path] = []
    proved: list[Path] = []
    for folders in groups.values():
        good = next((folder for folder in folders if (sound or is_sound)(folder)), None)
        if good is None:
            left |= dict.fromkeys(folders[keep:], NONE_SOUND)
            kept += folders
            continue
        proved.append(good)
        stays = [*folders[:keep], *(f for f in folders[keep:] if f == good)]
        kept += stays
        remove += [f for f in folders if f not in stays]
    return Pruning(tuple(sorted(remove, key=_age)), tuple(kept), tuple(proved), left)


def is_sound(folder: Path) -> bool:
    try:
        return damage(prove(folder)) is None
    except (KobeError, OSError):
        return False


def prune(planned: Pruning) -> None:
    """Remove them. Raises ConfigError BACKUP_UNWRITABLE at the first that cannot be; the rest then stay."""
    for folder in planned.remove:
        going = folder.with_name(f".{folder.name}.going")
        try:
            folder.rename(going)
            shutil.rmtree(going)
            fsync_folder(folder.parent)
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be removed: {error.strerror or error}", code="BACKUP_UNWRITABLE",
                advice="look who may write in that folder; run it again",
            ) from error  # fmt: skip


def _by_account(out: Path) -> tuple[dict[str, list[Path]], dict[Path, str]]:
    """Account -> its backups, newest first."""
    groups: dict[str, list[Path]] = {}
    left: dict[Path, str] = {}
    found = [p for p in out.iterdir() if _NAME.fullmatch(p.name)] if out.is_dir() else []
    for folder in sorted(found, key=_age, reverse=True):
        try:
            if folder.is_symlink() or not folder.is_dir():
                left[folder] = "no folder of its own"
                continue
            groups.setdefault(_account(read_manifest(folder)), []).append(folder)
        except KobeError as error:
            left[folder] = error.code
    return groups, left


def _account(manifest: Manifest) -> str:
    account = manifest.account
    return "" if account is None else f"{account['mode']} {account['id_sha256']}"


def _age(folder: Path) -> tuple[str, int]:
    """Names sort by the instant; of one second by the number behind it."""
    found = _NAME.fullmatch(folder.name)
    assert found is not None
    return found[1], int(found[2] or 1)
