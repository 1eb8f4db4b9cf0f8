"""Is the Python that runs us the one that requirements.lock.txt describes?

The lock is compiled with hashes; a `pip freeze` from a used environment has none and is no lock. What is installed is
read from the names of the installed distributions, which costs milliseconds and imports nothing.
"""

from __future__ import annotations

import hashlib
import operator
import os
import platform
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from core.errors import ConfigError
from core.paths import REPO_ROOT

LOCK_PATH: Final = REPO_ROOT / "requirements.lock.txt"
PROJECT_PATH: Final = REPO_ROOT / "pyproject.toml"

_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*==\s*([^\s;\\]+)\s*(?:;\s*([^\\]*))?")
_CLAUSE = re.compile(r"([a-z_]+)\s*(==|!=|>=|<=|<|>)\s*['\"]([^'\"]*)['\"]\Z")
_SPECIFIER = re.compile(r"(>=|<=|==|!=|<|>)\s*([0-9]+(?:\.[0-9]+)*)\Z")
_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq, "!=": operator.ne, ">=": operator.ge, "<=": operator.le, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_LINES_TOLD = 5


@dataclass(frozen=True, slots=True)
class Locked:
    name: str  # normalised
    version: str
    marker: str
    hashed: bool


@dataclass(frozen=True, slots=True)
class LockCheck:
    """`problems`: one line each, (code, words). Empty: the environment is the locked one."""

    problems: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        told = [words for _, words in self.problems[:_LINES_TOLD]]
        more = len(self.problems) - len(told)
        return "; ".join(told) + (f"; and {more} more" if more else "")


def check_lock(
    lock: Path = LOCK_PATH,
    *,
    project: Path = PROJECT_PATH,
    found: Mapping[str, str] | None = None,
    python: tuple[int, ...] = sys.version_info[:3],
) -> LockCheck:
    """Compare `lock` with what is installed. Codes: PYTHON_MISMATCH, LOCK_UNHASHED, PACKAGE_MISSING, PACKAGE_DIFFERS.

    found : {normalised name: version}, default what is installed. Raises ConfigError for a lock that cannot be read.
    """
    have = installed() if found is None else found
    problems: list[tuple[str, str]] = []
    wanted = _requires_python(project)
    if not _satisfies(python, wanted):
        problems.append(("PYTHON_MISMATCH", f"Python {_dotted(python)} runs, {wanted} is required"))
    entries = read_lock(lock)
    if unhashed := [entry.name for entry in entries if not entry.hashed]:
        problems.append(("LOCK_UNHASHED", f"{lock.name} has no hash for {unhashed[0]} and {len(unhashed) - 1} others"))
    for entry in entries:
        if applies(entry.marker, python) is not True:
            continue
        version = have.get(entry.name)
        if version is None:
            problems.append(("PACKAGE_MISSING", f"{entry.name} {entry.version} is locked and not installed"))
        elif _release(version) != _release(entry.version):
            problems.append(("PACKAGE_DIFFERS", f"{entry.name} {version} is installed, {entry.version} is locked"))
    return LockCheck(tuple(problems))


def read_lock(lock: Path) -> list[Locked]:
    """Every `name==version [; marker]` with whether a hash follows. Raises ConfigError: unreadable, or without any."""
    try:
        text = lock.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {lock}: {error}", code="LOCK_UNREADABLE", advice="restore requirements.lock.txt"
        ) from error
    logical = re.sub(r"\\\r?\n", " ", text)
    entries = []
    for line in logical.splitlines():
        match = _REQUIREMENT.match(line.strip())
        if match:
            marker = (match[3] or "").split("--hash", 1)[0].strip()
            entries.append(Locked(normalised(match[1]), match[2], marker, "--hash=" in line))
    if not entries:
        raise ConfigError(f"{lock} locks nothing", code="LOCK_UNREADABLE", advice="restore requirements.lock.txt")
    return entries


def installed(paths: Iterable[str] | None = None) -> dict[str, str]:
    """{normalised name: version} of the distributions on the import path; of two the first counts, as for imports."""
    found: dict[str, str] = {}
    for place in sys.path if paths is None else paths:
        try:
            names = sorted(os.listdir(place or "."))  # noqa: PTH208 - names only
        except OSError:
            continue
        for name in names:
            stem, dot, kind = name.rpartition(".")
            package, dash, version = stem.partition("-")
            if dot and kind == "dist-info" and dash:
                found.setdefault(normalised(package), version)
    return found


def environment_sha256(found: Mapping[str, str] | None = None) -> str:
    """One hash over Python and every installed distribution, to notice that something was exchanged under a process."""
    have = installed() if found is None else found
    lines = [f"python=={platform.python_version()}", *(f"{name}=={have[name]}" for name in sorted(have))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _release(version: str) -> str:
    """A version as the folder of the distribution spells it: `-` and `+` become `_` there."""
    return re.sub(r"[-+_]", "_", version).lower()


def _dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))


def _requires_python(project: Path) -> str:
    try:
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["requires-python"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cannot read {project}: {error}", code="LOCK_UNREADABLE") from error


def _satisfies(python: tuple[int, ...], specifier: str) -> bool:
    """`>=3.11,<4`: every part must hold; a part that is not understood does not."""
    for part in specifier.split(","):
        match = _SPECIFIER.match(part.strip())
        if match is None:
            return False
        bound = tuple(map(int, match[2].split(".")))
        if not _OPERATORS[match[1]](python[: len(bound)] if match[1] in ("==", "!=") else python, bound):
            return False
    return True


def applies(marker: str, python: tuple[int, ...] = sys.version_info[:3]) -> bool | None:
    """Whether a requirement with this marker is meant for us; None when the marker is not understood."""
    if not marker:
        return True
    verdicts = [[_clause(part, python) for part in way.split(" and ")] for way in marker.split(" or ")]
    if any(part is None for way in verdicts for part in way):
        return None
    return any(all(way) for way in verdicts)


def _clause(text: str, python: tuple[int, ...]) -> bool | None:
    match = _CLAUSE.match(text.strip())
    if match is None:
        return None
    name, sign, wanted = match.groups()
    if name in ("python_version", "python_full_version"):
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)*", wanted):
            return None
        bound = tuple(map(int, wanted.split(".")))
        mine = python[:2] if name == "python_version" else python
        return _OPERATORS[sign]((*mine, 0, 0)[:3], (*bound, 0, 0)[:3])
    known = {
        "sys_platform": sys.platform, "os_name": os.name, "platform_system": platform.system(),
        "platform_python_implementation": platform.python_implementation(),
        "implementation_name": sys.implementation.name, "platform_machine": platform.machine(),
    }  # fmt: skip
    return _OPERATORS[sign](known[name], wanted) if name in known else None
