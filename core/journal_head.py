"""The head: a small file beside the journal that says where it ends, so that a shortened journal shows.

`hash_chain.head` holds two slots of SLOT bytes, one JSON line each: {"check","hash","seq"} and blanks. A record is told
in slot seq % 2, in place and fsynced: one flush where an atomic replacement costs three. A power cut in the middle of
that write spoils the older slot only, which `check` shows; the other still names the record before, and a head one
record behind is what a crash between line and head leaves anyway.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

from core.errors import StateCorrupt
from core.files import write_atomic
from core.journal_record import Head, dumps

SLOT = 128


def head_path(path: Path) -> Path:
    return path.with_suffix(".head")


def read_head(path: Path) -> Head | None:
    """None when there is no head file; StateCorrupt when it is there and no slot of it can be read."""
    try:
        lines = head_path(path).read_bytes().splitlines()
    except FileNotFoundError:
        return None
    found = [head for line in lines if (head := _head_of(line, alone=len(lines) == 1)) is not None]
    if not found:
        raise StateCorrupt(
            f"{head_path(path).name} is damaged",
            code="JOURNAL_HEAD_DAMAGED",
            advice="restore it from a backup, then python scripts/verify_hash_chain.py --anchor with a noted hash",
        )
    return max(found, key=lambda head: head.seq)


def write_head(path: Path, head: Head) -> None:
    """Return when the head is on the disk. Raises OSError."""
    target = head_path(path)
    try:
        handle = os.open(target, os.O_RDWR | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        _begin(target, head)
        return
    try:
        whole = os.fstat(handle).st_size == 2 * SLOT
        if whole:
            os.lseek(handle, SLOT * (head.seq % 2), os.SEEK_SET)
            if os.write(handle, _slot(head)) != SLOT:
                raise OSError(errno.ENOSPC, f"{target.name}: short write, the disk is probably full")
            os.fsync(handle)
    finally:
        os.close(handle)
    if not whole:
        _begin(target, head)


def _begin(target: Path, head: Head) -> None:
    slots = [b" " * (SLOT - 1) + b"\n"] * 2
    slots[head.seq % 2] = _slot(head)
    write_atomic(target, b"".join(slots))


def _slot(head: Head) -> bytes:
    text = dumps({"check": _check(head), "hash": head.hash, "seq": head.seq})
    return text.ljust(SLOT - 1).encode() + b"\n"


def _check(head: Head) -> str:
    return hashlib.sha256(f"{head.seq}:{head.hash}".encode()).hexdigest()[:8]


def _head_of(line: bytes, *, alone: bool) -> Head | None:
    """`alone`: a file of one line without `check` is how earlier versions wrote it."""
    try:
        found = json.loads(line)
        head = Head(found["seq"], found["hash"])
        check = found.get("check")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if type(head.seq) is not int or head.seq < 1 or not isinstance(head.hash, str) or len(head.hash) != 64:
        return None
    return head if check == _check(head) or (alone and check is None) else None
