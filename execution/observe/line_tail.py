"""The new lines of a file that others append to. Costs what is new; follows a rotation; never writes, never raises.

A last line without its end is left for the next look. A file that was replaced or cut is read from its start, and what
was left of the rotated one first, when it is still in the folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FIRST_BYTES = 4 * 1024 * 1024
"""The first look reads no more than this from the end."""
_LOOK_BYTES = 8 * 1024 * 1024
_LINE_BYTES = 1024 * 1024  # a longer line is none of ours


class LineTail:
    """`new()` at every look. `readable`: whether the file could be read then; an absent one is readable and empty."""

    def __init__(self, path: Path, *, first_bytes: int = FIRST_BYTES) -> None:
        self.path, self._first_bytes = path, first_bytes
        self.readable = True
        self.exists = False
        self.whole = True  # the first look began at the start of the file
        self._file: tuple[int, int] | None = None  # device and inode
        self._offset = 0
        self._held = b""

    def new(self) -> list[bytes]:
        """Complete lines since the last look, without their ends."""
        try:
            with self.path.open("rb") as file:
                self.readable = self.exists = True
                return self._read(file)
        except FileNotFoundError:
            self.readable, self.exists = True, False
            self._file, self._offset, self._held = None, 0, b""
        except OSError:
            self.readable = False
        return []

    def _read(self, file: Any) -> list[bytes]:
        stat = os.fstat(file.fileno())
        now = (stat.st_dev, stat.st_ino)
        before: list[bytes] = []
        if self._file is None:
            self._offset = max(0, stat.st_size - self._first_bytes)
            self.whole, self._held = self._offset == 0, b""
            file.seek(self._offset)
            if self._offset:
                self._offset += len(file.readline())  # the rest of a line whose start was not read
        elif now != self._file or stat.st_size < self._offset:
            before = self._rest_of_rotated() if now != self._file else []
            self._offset, self._held = 0, b""
        self._file = now
        return [*before, *self._lines(file)]

    def _lines(self, file: Any) -> list[bytes]:
        file.seek(self._offset)
        block = file.read(_LOOK_BYTES)
        self._offset += len(block)
        *lines, self._held = (self._held + block).split(b"\n")
        if len(self._held) > _LINE_BYTES:
            self._held = b""
        return [line for line in lines if line]

    def _rest_of_rotated(self) -> list[bytes]:
        """What was written to the old file after the last look, when it was only renamed."""
        try:
            for found in self.path.parent.glob(f"{self.path.name}*"):
                stat = found.stat()
                if (stat.st_dev, stat.st_ino) == self._file and stat.st_size >= self._offset:
                    with found.open("rb") as file:
                        return self._lines(file)
        except OSError:
            pass
        return []


class JsonTail:
    """The new objects of a .jsonl file. What is no object is counted and left out."""

    def __init__(self, path: Path, *, first_bytes: int = FIRST_BYTES) -> None:
        self.tail = LineTail(path, first_bytes=first_bytes)
        self.damaged = 0

    def new(self) -> list[dict[str, Any]]:
        rows = []
        for line in self.tail.new():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                rows.append(row)
            else:
                self.damaged += 1
        return rows
