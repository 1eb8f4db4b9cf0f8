"""state/llm_calls.jsonl: every reservation and every settlement, one line each, appended and fsynced, never rewritten.

The budget file is a view of it and can be rebuilt. Each line carries the hash of itself and the line before, so that a
lost or changed line is seen. A last line without its end was never acknowledged: no call followed it, and the next
writer cuts it off.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.canonical import canonical_json, plain
from core.errors import StateCorrupt

FILE = "llm_calls.jsonl"
_CHAIN = 16  # hex digits of a line's hash: against damage, not against an attacker
_LONGEST = 16_384  # bytes of a line


@dataclass(frozen=True, slots=True)
class Mark:
    """A place behind a whole line: bytes before it, and that line's hash."""

    bytes: int = 0
    chain: str = ""


START = Mark()


@dataclass(frozen=True, slots=True)
class Tail:
    """What stands behind a mark: the lines, where they end, and how many bytes of a torn line follow."""

    lines: tuple[Mapping[str, Any], ...]
    end: Mark
    torn_bytes: int


def damaged(name: str, number: int | str, why: str) -> StateCorrupt:
    return StateCorrupt(
        f"{name} is damaged at {number}: {why}", code="LLM_AUDIT_DAMAGED",
        advice="python scripts/llm_budget.py reset --reason TEXT: today's spend cannot be known",
    )  # fmt: skip


def read_after(path: Path, mark: Mark) -> Tail:
    """The lines behind `mark`. Raises StateCorrupt LLM_AUDIT_LOST when the file does not hold what the mark stands
    behind, LLM_AUDIT_DAMAGED when a line is none or does not follow the one before."""
    try:
        with path.open("rb") as file:
            _prove(file, mark, path.name)
            file.seek(mark.bytes)
            content = file.read()
    except FileNotFoundError:
        if mark != START:
            raise _lost(path.name, "there is no such file") from None
        return Tail((), START, 0)
    except OSError as error:
        raise damaged(path.name, "its start", error.strerror or "unreadable") from error
    whole = content.rfind(b"\n") + 1
    lines, chain = [], mark.chain
    for number, raw in enumerate(content[:whole].splitlines(), 1):
        line = _line(raw, chain, path.name, f"line {number} behind byte {mark.bytes}")
        chain = line["chain"]
        lines.append(line)
    return Tail(tuple(lines), Mark(mark.bytes + whole, chain), len(content) - whole)


def _prove(file: Any, mark: Mark, name: str) -> None:
    """The line before the mark is the one that the mark was made behind."""
    if mark == START:
        return
    first = max(0, mark.bytes - _LONGEST)
    file.seek(first)
    before = file.read(mark.bytes - first)
    if len(before) < mark.bytes - first or not before.endswith(b"\n"):
        raise _lost(name, "it is shorter than it was")
    try:
        line = json.loads(before[:-1].rpartition(b"\n")[2])
        found = line.get("chain")
    except (ValueError, AttributeError, RecursionError):
        found = None
    if found != mark.chain:
        raise _lost(name, "it is not the one that the budget file was written beside")


def _lost(name: str, why: str) -> StateCorrupt:
    return StateCorrupt(f"{name}: {why}", code="LLM_AUDIT_LOST")


def _line(raw: bytes, chain: str, name: str, where: str) -> dict[str, Any]:
    try:
        line = json.loads(raw)
        told = line.pop("chain")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise damaged(name, where, "it is no record") from error
    if told != chained(chain, line):
        raise damaged(name, where, "it does not follow the line before")
    return {**line, "chain": told}


def chained(before: str, line: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{before}{canonical_json(line)}".encode()).hexdigest()[:_CHAIN]


def append(path: Path, end: Mark, lines: list[Mapping[str, Any]], *, torn_bytes: int = 0) -> Mark:
    """Write whole lines behind `end` and return when they are on the disk. Under the budget's lock. Raises OSError."""
    made, chain = [], end.chain
    for line in lines:
        content = plain(line)
        chain = chained(chain, content)
        made.append(canonical_json({**content, "chain": chain}).encode() + b"\n")
    raw = b"".join(made)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
    try:
        if torn_bytes:
            os.ftruncate(handle, end.bytes)
        os.lseek(handle, end.bytes, os.SEEK_SET)
        if os.write(handle, raw) != len(raw):
            os.ftruncate(handle, end.bytes)
            raise OSError(f"{path.name}: the disk took only a part of a line")
        os.fsync(handle)
    finally:
        os.close(handle)
    return Mark(end.bytes + len(raw), chain)


def read_calls(path: Path) -> Iterator[Mapping[str, Any]]:
    """Every line of the audit, oldest first, for reports. Raises StateCorrupt."""
    return iter(read_after(path, START).lines)
