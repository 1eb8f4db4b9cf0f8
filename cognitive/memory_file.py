"""state/episodic_memory.json: how far the journal was read, and what is remembered of it. A view: it may be removed.

The digest covers everything else in the file, so that any change by anybody else reads as damaged, and damaged means:
read the journal again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cognitive import episodes as episode_rows
from cognitive import learnings as learning_rows
from cognitive.episodes import Episode
from cognitive.learnings import LearningBook
from core.documents import Document, Schema, keep_older, parse
from core.errors import StateCorrupt
from core.files import locked, write_atomic
from core.journal_record import GENESIS, dumps

FILE = "episodic_memory.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """The memory as of one journal record."""

    seq: int = 0
    hash: str = GENESIS
    most: int = 0  # the bound that it was made with
    forgotten: bool = False  # the bound has been reached, so that not everything is here
    episodes: Mapping[str, Episode] = field(default_factory=lambda: MappingProxyType({}))
    book: LearningBook = field(default_factory=LearningBook)


def _with_digest(body: bytes) -> bytes:
    """`body`: a JSON object; its last field will be the SHA-256 of all before it."""
    open_end = body[:-1]
    return open_end + b',"digest":"' + hashlib.sha256(open_end).hexdigest().encode() + b'"}\n'


def _require_digest(name: str, content: bytes) -> None:
    """Raises StateCorrupt unless `content` is exactly what was once written."""
    open_end, mark, _ = content.rpartition(b',"digest":')
    if not mark or _with_digest(open_end + b"}") != content:
        raise StateCorrupt(f"{name} is damaged: its digest is not that of its content")


def _check(document: Document) -> None:
    if len(document["episodes"]) > document["most"]:
        raise ValueError(f"{len(document['episodes'])} episodes, {document['most']} allowed")


SCHEMA = Schema(version=1, check=_check)


def read_memory(path: Path) -> Remembered | None:
    """None when there is none. Raises StateCorrupt for one that is damaged or newer."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateCorrupt(f"{path.name} cannot be read: {error.strerror}") from error
    document = parse(path.name, content, SCHEMA)  # first: what a later program wrote is not damaged
    _require_digest(path.name, content)
    try:
        return _remembered(document)
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise StateCorrupt(f"{path.name} is damaged: {error!r}") from error


def _remembered(document: Document) -> Remembered:
    found = [episode_rows.from_json(row) for row in document["episodes"]]
    learned = [learning_rows.from_json(row) for row in document["learnings"]]
    book = LearningBook(
        learnings=MappingProxyType({one.id: one for one in learned}), week=str(document["week"]),
        looks=int(document["looks"]), tried=int(document["tried"]),
    )  # fmt: skip
    return Remembered(
        seq=int(document["seq"]), hash=str(document["hash"]), most=int(document["most"]),
        forgotten=bool(document["forgotten"]), episodes=MappingProxyType({e.decision_id: e for e in found}), book=book,
    )  # fmt: skip


def content_of(memory: Remembered) -> bytes:
    """The same memory is the same bytes, however it came about."""
    document: dict[str, Any] = {
        "schema_version": SCHEMA.version, "seq": memory.seq, "hash": memory.hash, "most": memory.most,
        "forgotten": memory.forgotten,
        "episodes": [episode_rows.to_json(memory.episodes[key]) for key in sorted(memory.episodes)],
        "learnings": [learning_rows.to_json(one) for one in memory.book.learnings.values()],
        "week": memory.book.week, "looks": memory.book.looks, "tried": memory.book.tried,
    }  # fmt: skip
    return _with_digest(dumps(document).encode())


def write_memory(path: Path, memory: Remembered) -> None:
    """Replace the file. Not fsynced: what a power cut takes is read from the journal again.

    Raises OSError, StateLocked, and StateCorrupt STATE_NEWER when a later program wrote the file.
    """
    with locked(path):
        _keep_what_is_not_ours(path)
        write_atomic(path, content_of(memory), durable=False)


def _keep_what_is_not_ours(path: Path) -> None:
    try:
        there = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    from core.documents import refuse_newer, version_of

    refuse_newer(path.name, there, SCHEMA.version)
    if version_of(there) is not None:
        keep_older(path, SCHEMA.version)
