"""The end of the active file, read from behind, and what it and the head may look like after a crash.

| tail and head                                      | meaning                                    | append         |
|----------------------------------------------------|--------------------------------------------|----------------|
| equal                                              | nothing happened                           | goes on        |
| head one behind, and its hash is the tail's prev   | crash between the line and the head        | repairs head   |
| bytes after the head's record that are no record   | crash inside a write; never acknowledged   | sets them aside |
| anything else                                      | truncated, edited, forked or rolled back   | StateCorrupt   |

A torn line and a tampered one look alike; the head tells them apart. It names the last record that was acknowledged, so
what lies behind that record was never promised to anybody, and what is missing before it was.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from core.errors import StateCorrupt
from core.journal_record import EMPTY, GENESIS, Head, sound

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Ends:
    """The last two complete lines (empty: there is none), where they end, and the size of the file in bytes."""

    last: bytes = b""
    before: bytes = b""
    end: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Tail:
    """The last sound record, the hash before it, its line, and from where on there are bytes to set aside."""

    head: Head
    prev: str
    line: bytes
    torn_from: int


def read_ends(path: Path) -> Ends:
    """Reads from the end, block by block, so that the cost does not grow with the file."""
    try:
        lines = path.open("rb")
    except FileNotFoundError:
        return Ends()
    with lines:
        size = start = lines.seek(0, os.SEEK_END)
        held, block = b"", _BLOCK
        while start > 0 and held.count(b"\n") < 3:
            step = min(block, start)
            start -= step
            lines.seek(start)
            held = lines.read(step) + held
            block *= 2  # a long torn line must not cost quadratic time
    end = held.rfind(b"\n") + 1
    last = held.rfind(b"\n", 0, max(end - 1, 0)) + 1
    before = held.rfind(b"\n", 0, max(last - 1, 0)) + 1
    return Ends(held[last:end], held[before:last], start + end, size)


def tail_of(ends: Ends, name: str, known: Tail | None = None) -> Tail:
    """The last sound record, the head not yet asked. `known`: a tail already proved, whose line need not be again.

    A last line that is no record counts as torn here; `agree` decides whether it may be. Raises StateCorrupt when the
    line before is damaged too.
    """
    if known is not None and ends.last and ends.last == known.line:
        return Tail(known.head, known.prev, known.line, ends.end)
    if not ends.last:
        return Tail(EMPTY, GENESIS, b"", ends.end)
    fields, why = sound(ends.last)
    if fields is not None:
        return Tail(Head(fields["seq"], fields["hash"]), fields["prev"], ends.last, ends.end)
    torn_from = ends.end - len(ends.last)
    if not ends.before:
        return Tail(EMPTY, GENESIS, b"", torn_from)
    fields, _ = sound(ends.before)
    if fields is None:
        raise StateCorrupt(f"{name}: the last record is damaged: {why}", code="JOURNAL_DAMAGED")
    return Tail(Head(fields["seq"], fields["hash"]), fields["prev"], ends.before, torn_from)


def one_behind(head: Head | None, tail: Tail) -> bool:
    before = head or EMPTY
    return before.seq == tail.head.seq - 1 and before.hash == tail.prev


def is_acknowledged(head: Head | None, tail: Tail) -> bool:
    return head == (None if tail.head == EMPTY else tail.head)


def agree(ends: Ends, tail: Tail, head: Head | None, name: str) -> None:
    """Raises StateCorrupt unless a crash can have left this tail with this head."""
    if is_acknowledged(head, tail):
        return
    if tail.torn_from < ends.end:  # a whole line that is no record, and the head does not end before it
        raise StateCorrupt(f"{name}: the last record is damaged: {sound(ends.last)[1]}", code="JOURNAL_DAMAGED")
    if not one_behind(head, tail):
        raise disagreement(name, head, tail.head)


def disagreement(name: str, head: Head | None, tail: Head) -> StateCorrupt:
    if head is None:
        return StateCorrupt(f"{name} has {tail.seq} records and no head file", code="JOURNAL_HEAD_MISSING")
    if head.seq > tail.seq:
        return StateCorrupt(
            f"{name} ends at record {tail.seq} but its head says {head.seq}: records are missing",
            code="JOURNAL_TRUNCATED",
        )
    return StateCorrupt(
        f"{name} ends at record {tail.seq} {tail.hash[:12]}, its head says {head.seq} {head.hash[:12]}",
        code="JOURNAL_HEAD_DIFFERS",
    )
