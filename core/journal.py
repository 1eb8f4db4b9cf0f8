"""The journal: what we did, one hash-chained, fsynced line each. If it cannot be written, trading stops.

A line is the canonical JSON of {"seq","at","kind","run_id","body","prev","hash"}, where
hash = SHA-256(prev + canonical JSON of the record without "hash") and the first prev is 64 zeros.
`run_id` and `at` are inside the record, so the hash covers them; nothing else varies between equal runs.

Beside `hash_chain.jsonl` lies `hash_chain.head` {"hash","seq"}, replaced after each append, so that a shortened
journal shows. What the two may look like after a crash, and what `append` makes of it:

| tail and head                                   | meaning                                   | append          |
|-------------------------------------------------|-------------------------------------------|-----------------|
| equal                                           | nothing happened                          | goes on         |
| head one behind, and its hash is the tail's prev | crash between the line and the head      | repairs head    |
| last line without a line end, rest agrees       | crash inside the write; never acknowledged | sets it aside  |
| anything else                                   | truncated, edited, forked or rolled back  | StateCorrupt    |
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from core.canonical import iso_utc, plain
from core.clock import Clock
from core.errors import StateCorrupt
from core.files import fsync_folder, locked, write_atomic

GENESIS = "0" * 64
_BLOCK = 4096
_FIELDS = frozenset({"seq", "at", "kind", "run_id", "body", "prev", "hash"})


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
class Verification:
    """`first_bad` is the first line that is wrong or missing; None when only head or anchor disagree with the chain."""

    ok: bool
    records: int
    head: str
    first_bad: int | None
    why: str


@dataclass(frozen=True, slots=True)
class _Head:
    seq: int
    hash: str


_EMPTY = _Head(0, GENESIS)


def head_path(path: Path) -> Path:
    return path.with_suffix(".head")


def torn_path(path: Path) -> Path:
    return path.with_suffix(".torn")


def record_hash(prev: str, fields: Mapping[str, Any]) -> str:
    """SHA-256 over prev and the canonical JSON of the record's fields without its own hash; hex."""
    return hashlib.sha256(prev.encode() + _dumps(fields).encode()).hexdigest()


def _dumps(value: Any) -> str:  # for values that are plain already
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


class Journal:
    """One file, many processes. Appending costs the same on day 1 and day 1000: only the tail is read."""

    def __init__(self, path: Path, clock: Clock, *, run_id: str = "") -> None:
        self.path = path
        self._clock = clock
        self._run_id = run_id

    def append(self, kind: str, body: Mapping[str, Any]) -> Record:
        """Write one record and return when it is on the disk.

        Raises StateCorrupt when the tail is damaged or the disk refuses, StateLocked when another process holds the
        file. After either, nothing was promised: the caller must not act.
        """
        content = plain(body)
        if not isinstance(content, dict):
            raise TypeError(f"{kind}: a journal body is a mapping, was {type(body).__name__}")
        with locked(self.path), _writable(self.path):
            tail = self._repaired_tail()
            return self._write(tail, kind, content)

    def repair(self) -> None:
        """Do what the next append would do first: set a torn line aside, bring the head up. A sound journal stays."""
        with locked(self.path), _writable(self.path):
            self._repaired_tail()

    def records(self) -> Iterator[Record]:
        """Every complete line, oldest first. Parses, verifies no hash. Raises StateCorrupt naming the line number.

        A last line without its line end was never acknowledged and is left out.
        """
        try:
            lines = self.path.open("rb")
        except FileNotFoundError:
            return
        with lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    return
                yield _parsed(line, number, self.path.name)

    def kinds(self, *kinds: str) -> Iterator[Record]:
        return (record for record in self.records() if record.kind in kinds)

    # ------------------------------------------------------------ under the lock
    def _repaired_tail(self) -> _Head:
        """The last sound record, after undoing what a crash may have left. Compares before it changes anything."""
        last, torn_from, size = _read_tail(self.path)
        tail = _EMPTY if last is None else _checked_tail(last, self.path)
        head = _read_head(self.path)
        if head != (None if tail is _EMPTY else tail):
            if not _one_behind(head, tail, last):
                raise _disagreement(self.path, head, tail)
            self._write_head(tail)
        if torn_from < size:
            return self._set_torn_line_aside(tail, torn_from)
        return tail

    def _set_torn_line_aside(self, tail: _Head, torn_from: int) -> _Head:
        with self.path.open("r+b") as lines:
            lines.seek(torn_from)
            torn = lines.read()
            with torn_path(self.path).open("ab") as aside:
                aside.write(torn + b"\n")
                aside.flush()
                os.fsync(aside.fileno())
            lines.truncate(torn_from)
            os.fsync(lines.fileno())
        digest = hashlib.sha256(torn).hexdigest()
        made = self._write(tail, "journal_torn_line", {"bytes": len(torn), "sha256": digest})
        return _Head(made.seq, made.hash)

    def _write(self, tail: _Head, kind: str, body: dict[str, Any]) -> Record:
        at = iso_utc(self._clock.now())
        fields = {
            "seq": tail.seq + 1, "at": at, "kind": str(kind), "run_id": self._run_id, "body": body, "prev": tail.hash,
        }  # fmt: skip
        made = record_hash(tail.hash, fields)
        self._write_line(_dumps({**fields, "hash": made}).encode() + b"\n")
        self._write_head(_Head(tail.seq + 1, made))
        return Record(tail.seq + 1, datetime.fromisoformat(at), str(kind), body, tail.hash, made, self._run_id)

    def _write_line(self, line: bytes) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        try:
            before = os.fstat(handle).st_size
            try:
                if os.write(handle, line) != len(line):
                    raise OSError(f"{self.path.name}: short write, the disk is probably full")
                os.fsync(handle)
            except OSError:
                with contextlib.suppress(OSError):  # else the next append finds a torn line and sets it aside
                    os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)
        if before == 0:
            fsync_folder(self.path.parent)

    def _write_head(self, head: _Head) -> None:
        write_atomic(head_path(self.path), (_dumps({"hash": head.hash, "seq": head.seq}) + "\n").encode())


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    """A journal that cannot be written is a stop, told in words, not a bug."""
    try:
        yield
    except OSError as error:
        raise StateCorrupt(
            f"{path.name} cannot be written: {error.strerror or error}",
            code="JOURNAL_UNWRITABLE",
            advice="free the disk or mend its permissions; nothing is sent until the journal can be written",
        ) from error


def _read_tail(path: Path) -> tuple[bytes | None, int, int]:
    """The last complete line, where it ends, and the file's size. Reads from the end, block by block."""
    try:
        lines = path.open("rb")
    except FileNotFoundError:
        return None, 0, 0
    with lines:
        size = start = lines.seek(0, os.SEEK_END)
        held, block = b"", _BLOCK
        while start > 0 and held.count(b"\n") < 2:
            step = min(block, start)
            start -= step
            lines.seek(start)
            held = lines.read(step) + held
            block *= 2  # a long torn line must not cost quadratic time
    end = held.rfind(b"\n") + 1
    if end == 0:
        return None, 0, size
    return held[held.rfind(b"\n", 0, end - 1) + 1 : end], start + end, size


def _checked_tail(line: bytes, path: Path) -> _Head:
    fields, why = _sound(line)
    if fields is None:
        raise StateCorrupt(f"{path.name}: the last record is damaged: {why}", code="JOURNAL_DAMAGED")
    return _Head(fields["seq"], fields["hash"])


def _one_behind(head: _Head | None, tail: _Head, last: bytes | None) -> bool:
    if last is None:
        return False
    before = head or _EMPTY
    return before.seq == tail.seq - 1 and before.hash == json.loads(last)["prev"]


def _disagreement(path: Path, head: _Head | None, tail: _Head) -> StateCorrupt:
    if head is None:
        return StateCorrupt(f"{path.name} has {tail.seq} records and no head file", code="JOURNAL_HEAD_MISSING")
    if head.seq > tail.seq:
        return StateCorrupt(
            f"{path.name} ends at record {tail.seq} but its head says {head.seq}: records are missing",
            code="JOURNAL_TRUNCATED",
        )
    return StateCorrupt(
        f"{path.name} ends at record {tail.seq} {tail.hash[:12]}, its head says {head.seq} {head.hash[:12]}",
        code="JOURNAL_HEAD_DIFFERS",
    )


def _read_head(path: Path) -> _Head | None:
    """None when there is no head file; StateCorrupt when it is there and cannot be read."""
    try:
        raw = head_path(path).read_bytes()
    except FileNotFoundError:
        return None
    try:
        found = json.loads(raw)
        head = _Head(found["seq"], found["hash"])
    except (ValueError, KeyError, TypeError):
        head = _Head(-1, "")
    if type(head.seq) is not int or head.seq < 1 or not isinstance(head.hash, str) or len(head.hash) != 64:
        raise StateCorrupt(f"{head_path(path).name} is damaged", code="JOURNAL_HEAD_DAMAGED")
    return head


def _sound(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """The fields of a line that is exactly what we would have written, or why it is not."""
    try:
        fields = json.loads(line)
    except ValueError:
        return None, "not JSON"
    except RecursionError:
        return None, "nested too deeply"
    if not isinstance(fields, dict) or fields.keys() != _FIELDS:
        return None, "not the fields of a record"
    if not isinstance(fields["prev"], str) or not isinstance(fields["hash"], str) or type(fields["seq"]) is not int:
        return None, "fields of the wrong type"
    try:
        spelled = _dumps(fields).encode() + b"\n"
        expected = record_hash(fields["prev"], {k: v for k, v in fields.items() if k != "hash"})
    except ValueError:
        return None, "not canonical JSON"
    if expected != fields["hash"]:
        return None, "its hash does not match its content"
    if spelled != line:  # whitespace, key order, duplicate keys: parsed the same, yet not what we wrote
        return None, "not canonical JSON"
    return fields, ""


def _parsed(line: bytes, number: int, name: str) -> Record:
    try:
        row = json.loads(line)
        at = datetime.fromisoformat(row["at"])
        record = Record(row["seq"], at, row["kind"], row["body"], row["prev"], row["hash"], row["run_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise StateCorrupt(f"{name}: line {number} is no record: {error!r}", code="JOURNAL_DAMAGED") from error
    if type(record.seq) is not int or not isinstance(record.kind, str) or not isinstance(record.body, dict):
        raise StateCorrupt(f"{name}: line {number} has fields of the wrong type", code="JOURNAL_DAMAGED")
    return record


# ---------------------------------------------------------------- verification
def _snapshot(path: Path) -> tuple[int | None, _Head | None, str]:
    """(size, head, trouble), read together under the lock, so that a running writer cannot look like damage."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # a backup on read-only media has no writer
            if path.parent.is_dir():  # never make the folder of a journal that is not there
                held.enter_context(locked(path))
        size = path.stat().st_size if path.exists() else None
        try:
            return size, _read_head(path), ""
        except StateCorrupt as error:
            return size, None, str(error)


def verify(path: Path, *, anchor: str | None = None, progress: Callable[[int], None] | None = None) -> Verification:
    """Read the whole journal and prove the chain, its head, and that it still contains the record named by `anchor`.

    anchor : hash of any record, noted outside this folder (a daily report, a backup); proves no roll-back past it.
    progress : called with the record count now and then. Never raises for damage; StateLocked when a writer hangs.
    """
    size, head, trouble = _snapshot(path)
    tail, anchored, bad = _Head(0, GENESIS), anchor == GENESIS, ""
    if size is not None:
        tail, anchored, bad = _walk(path, size, anchor, progress)
    if bad:
        return Verification(False, tail.seq, tail.hash, tail.seq + 1, bad)
    why, first_bad = (trouble, None) if trouble else _head_trouble(path, head, tail)
    if not why and anchor is not None and not anchored:
        why = f"no record has the hash {anchor[:12]}…: the journal was rolled back or replaced"
    return Verification(not why, tail.seq, tail.hash, first_bad, why)


def _walk(
    path: Path, size: int, anchor: str | None, progress: Callable[[int], None] | None
) -> tuple[_Head, bool, str]:
    """The last record of the sound prefix, whether the anchor was met on the way, and what is wrong after it."""
    tail, anchored = _EMPTY, anchor == GENESIS
    with path.open("rb") as lines:
        while size > 0:
            line = lines.readline()
            size -= len(line)
            if not line.endswith(b"\n"):
                why = "a torn last line; the next append sets it aside" if line else "the file became shorter"
                return tail, anchored, why
            fields, why = _sound(line)
            if fields is None:
                return tail, anchored, why
            if fields["prev"] != tail.hash or fields["seq"] != tail.seq + 1:
                return tail, anchored, f"does not follow record {tail.seq}"
            tail = _Head(fields["seq"], fields["hash"])
            anchored = anchored or tail.hash == anchor
            if progress is not None and tail.seq % 10_000 == 0:
                progress(tail.seq)
    return tail, anchored, ""


def _head_trouble(path: Path, head: _Head | None, tail: _Head) -> tuple[str, int | None]:
    """Why head and a sound chain disagree, and the first line that is wrong or missing; ("", None) when they agree."""
    if head == (None if tail.seq == 0 else tail):
        return "", None
    before = head or _EMPTY
    if tail.seq > 0 and before.seq == tail.seq - 1 and before.hash == _prev_of_last(path, tail):
        return "", None
    first_bad = tail.seq + 1 if before.seq > tail.seq else tail.seq if before.seq == tail.seq else None
    return str(_disagreement(path, head, tail)), first_bad


def _prev_of_last(path: Path, tail: _Head) -> str:
    """The `prev` of the record `tail`; it may not be the last line any more when a writer went on."""
    if tail.seq == 1:
        return GENESIS
    last, _, _ = _read_tail(path)
    row = {} if last is None else json.loads(last)
    return str(row["prev"]) if row.get("hash") == tail.hash else ""
