"""One record of the journal: its line, its hash, and the proof that a line is exactly what we would have written.

A line is the canonical JSON of {"seq","at","kind","run_id","body","prev","hash"}, where
hash = SHA-256(prev + canonical JSON of the record without "hash") and the first prev is 64 zeros.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.errors import StateCorrupt

GENESIS = "0" * 64
SEALED = "journal_sealed"
"""The kind of the record that describes a sealed segment; see core/journal_seal.py."""
_FIELDS = frozenset({"seq", "at", "kind", "run_id", "body", "prev", "hash"})
_HASH_MARK = b',"hash":"'
_HASH_BYTES = len(_HASH_MARK) + 64 + 1


@dataclass(frozen=True, slots=True)
class Record:
    """One line. `seq` counts from 1; `body` holds plain JSON values."""

    seq: int
    at: datetime
    kind: str
    body: dict[str, Any]
    prev: str
    hash: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends: the number and the hash of a record."""

    seq: int
    hash: str


EMPTY = Head(0, GENESIS)

dumps = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
"""Canonical JSON of a value that is plain already. Made once: json.dumps would build an encoder per call."""


def record_hash(prev: str, fields: Mapping[str, Any]) -> str:
    """SHA-256 over prev and the canonical JSON of the record's fields without its own hash; hex."""
    return hashlib.sha256(prev.encode() + dumps(fields).encode()).hexdigest()


def sound(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """The fields of a line that is exactly what we would have written, or why it is not.

    One parse and one spelling: a line that is spelled canonically has its hash at one place only, behind the body
    (after it come no other objects, and inside a string the quotes would be escaped), so the hashed text is the line
    without that piece and need not be spelled a second time.
    """
    try:
        text = line.decode("ascii")  # canonical JSON is
        fields = json.loads(text)
        spelled = dumps(fields)
    except ValueError:
        return None, "not JSON as we write it"
    except RecursionError:
        return None, "nested too deeply"
    if not isinstance(fields, dict) or fields.keys() != _FIELDS:
        return None, "not the fields of a record"
    why = _wrong_types(fields)
    if why:
        return None, why
    if text != f"{spelled}\n":  # white space, key order, a key twice, another spelling
        return None, "not canonical JSON"
    cut = line.rfind(_HASH_MARK)
    bare = line[:cut] + line[cut + _HASH_BYTES : -1]
    if hashlib.sha256(fields["prev"].encode() + bare).hexdigest() != fields["hash"]:
        return None, "its hash does not match its content"
    return fields, ""


def _wrong_types(fields: Mapping[str, Any]) -> str:
    for name in ("prev", "hash"):
        text = fields[name]
        if not isinstance(text, str) or len(text) != 64 or not text.isascii():
            return f"its {name} is no hash"
    if type(fields["seq"]) is not int or not isinstance(fields["body"], dict):
        return "fields of the wrong type"
    if not (isinstance(fields["kind"], str) and isinstance(fields["run_id"], str) and isinstance(fields["at"], str)):
        return "fields of the wrong type"
    return ""


def parsed(line: bytes, number: int, name: str) -> Record:
    """A line as a Record, without the proof. Raises StateCorrupt naming the file and the line number."""
    try:
        row = json.loads(line)
        at = datetime.fromisoformat(row["at"])
        record = Record(row["seq"], at, row["kind"], row["body"], row["prev"], row["hash"], row["run_id"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"[:120]
        raise StateCorrupt(f"{name}: line {number} is no record: {what}", code="JOURNAL_DAMAGED") from error
    if type(record.seq) is not int or not isinstance(record.kind, str) or not isinstance(record.body, dict):
        raise StateCorrupt(f"{name}: line {number} has fields of the wrong type", code="JOURNAL_DAMAGED")
    return record
