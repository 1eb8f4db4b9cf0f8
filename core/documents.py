"""State documents: JSON objects with a `schema_version`, read through named upgrades, refused when they are newer.

| found on disk                    | what happens                                                                  |
|----------------------------------|-------------------------------------------------------------------------------|
| no such file                     | the caller's empty document                                                   |
| this version                     | checked and used                                                              |
| an older version                 | read through one upgrade per version; before the first rewrite the old bytes  |
|                                  | are kept as `<name>.v<N>.json`: a migration can be undone, and killed anywhere |
| a newer version                  | StateCorrupt STATE_NEWER; nothing is written                                  |
| anything else                    | StateCorrupt: damaged is never a fresh start                                  |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import StateCorrupt
from core.files import write_atomic

Document = dict[str, Any]
Upgrade = Callable[[Document], Document]


@dataclass(frozen=True, slots=True)
class Schema:
    """One document: its version, what absent reads as, its check, and how older versions are read."""

    version: int
    empty: Callable[[], Document] = dict
    check: Callable[[Document], None] = lambda document: None  # raises ValueError saying what is wrong
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)  # from this version to the next


def version_of(document: object) -> int | None:
    """The schema version that a parsed document carries; None when it carries none."""
    version = document.get("schema_version") if isinstance(document, dict) else None
    return version if type(version) is int and version >= 1 else None


def newer(name: str, version: int, known: int) -> StateCorrupt:
    """The one line for a document that a later program wrote."""
    return StateCorrupt(
        f"{name} has schema version {version}; this program knows {known}",
        code="STATE_NEWER",
        advice="run the newer version of the program that wrote it",
    )


def refuse_newer(name: str, document: object, known: int) -> None:
    """Raises StateCorrupt STATE_NEWER. What has no version is left to the caller's own check."""
    version = version_of(document)
    if version is not None and version > known:
        raise newer(name, version, known)


def parse(name: str, content: bytes, schema: Schema) -> Document:
    """The document in this program's version. Raises StateCorrupt: damaged, or STATE_NEWER."""
    try:
        document = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise StateCorrupt(f"{name} is damaged: {error}") from error
    version = version_of(document)
    if version is None:
        raise StateCorrupt(f"{name} is damaged: no schema_version")
    if version > schema.version:
        raise newer(name, version, schema.version)
    try:
        while version < schema.version:
            document = {**schema.upgrades[version](document), "schema_version": version + 1}
            version += 1
        schema.check(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateCorrupt(f"{name} is damaged: {error}") from error
    return dict(document)


def read(path: Path, schema: Schema) -> Document:
    """The whole document; needs no lock, since a reader sees the old file or the new one. Raises StateCorrupt."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return schema.empty()
    except OSError as error:
        raise StateCorrupt(f"{path.name} cannot be read: {error.strerror}") from error
    return parse(path.name, content, schema)


def write(path: Path, document: Mapping[str, Any], schema: Schema) -> Document:
    """Check, keep an older document once, replace. Under the lock of the caller. Raises ValueError for a wrong one."""
    after = {**document, "schema_version": schema.version}
    schema.check(after)
    keep_older(path, schema.version)
    write_atomic(path, json.dumps(after, indent=1, sort_keys=True).encode() + b"\n")
    return after


def keep_older(path: Path, version: int) -> None:
    """Before the first rewrite of an older document: a copy of it, made once, so that a migration can be undone."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    written = version_of(json.loads(content))  # it was read a moment ago, under the same lock
    if written is None or written >= version:
        return
    kept = path.with_name(f"{path.stem}.v{written}.json")
    if not kept.exists():
        write_atomic(kept, content)
