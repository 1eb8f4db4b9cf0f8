"""What a running program was started with, against what lies on the disk now.

A running program keeps what it loaded; when the disk says something else, the operator believes in settings that are
not in force, or the next lazy import takes code of another version. Both are told, once per new content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from config.lock import environment_sha256
from config.pin import code_sha256
from core.errors import ConfigError

ABSENT: Final = "absent"
CODES: Final[Mapping[str, str]] = {
    "config": "CONFIG_CHANGED_ON_DISK",
    "frozen_params": "CONFIG_CHANGED_ON_DISK",
    "universe": "CONFIG_CHANGED_ON_DISK",
    "code": "CODE_CHANGED_ON_DISK",
    "packages": "PACKAGES_CHANGED",
}


@dataclass(frozen=True, slots=True)
class Changed:
    item: str
    code: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.item}: running with {self.before[:12]}, on disk {self.now[:12]}"


def fingerprints(files: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of each named file, of our code and of the installed packages. What cannot be read is `absent`."""
    found = {name: _sha256(path) for name, path in files.items()}
    try:
        code = code_sha256()
    except ConfigError:  # a file is being written right now
        code = ABSENT
    return {**found, "code": code, "packages": environment_sha256()}


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ABSENT


class Watch:
    """Compares with the state at its construction. `compute` says what is there now."""

    def __init__(self, compute: Callable[[], Mapping[str, str]]) -> None:
        self._compute = compute
        self._started_with = dict(compute())
        self._told = dict(self._started_with)

    def news(self) -> tuple[Changed, ...]:
        """Items that changed since they were last told; an item changed back to what runs is told no more."""
        now = dict(self._compute())
        fresh = [
            Changed(item, CODES.get(item, "CONFIG_CHANGED_ON_DISK"), before, now.get(item, ABSENT))
            for item, before in self._started_with.items()
            if now.get(item, ABSENT) not in (before, self._told[item])
        ]
        self._told = {item: now.get(item, ABSENT) for item in self._started_with}
        return tuple(fresh)
