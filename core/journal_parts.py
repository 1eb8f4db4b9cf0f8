"""Reading one chain that lies in several files: the sealed months, oldest first, then the active file.

`state/hash_chain.jsonl` is the active file. Sealed months lie beside it in `journal/hash_chain.YYYY-MM.jsonl` (see
core/journal_seal.py). seq and prev run on from file to file.

Readers take no lock. They open the active file first and list the segments afterwards: whatever a sealing process does
in between, the segments that are then there reach up to what the open file begins with. A sealing that was interrupted
leaves months in both places; that is accepted only when the bytes are the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from core.errors import StateCorrupt
from core.journal_record import GENESIS, Record, parsed

_BLOCK = 1 << 20
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")

Part = tuple[int, Path]
"""The number of the first record of a file, and the file."""


def segments_folder(path: Path) -> Path:
    return path.parent / "journal"


def segment_path(path: Path, month: str) -> Path:
    return segments_folder(path) / f"{path.stem}.{month}{path.suffix}"


def segment_files(path: Path) -> list[Path]:
    """The sealed months of the journal `path`, oldest first; a file that does not carry a month's name is none."""
    before, after = f"{path.stem}.", path.suffix
    try:
        names = [file.name for file in segments_folder(path).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    months = sorted(
        month for name in names
        if name.startswith(before) and name.endswith(after)
        and _MONTH.fullmatch(month := name[len(before) : len(name) - len(after)])
    )  # fmt: skip
    return [segment_path(path, month) for month in months]


def parts_before(path: Path, active: BinaryIO) -> list[Part]:
    """The segments to read before `active`, the open active file, which is left at its start.

    Those that `active` still holds are compared and left out. Raises StateCorrupt when they differ, or when there are
    segments and `active` does not go on behind them.
    """
    files = segment_files(path)
    if not files:
        return []
    start = first_seq(active.readline(), path.name)
    active.seek(0)
    parts = [(_first_seq_of(file), file) for file in files]
    _compare([file for first, file in parts if first >= start], active, path.name)
    active.seek(0)
    return [part for part in parts if part[0] < start]


def first_seq(line: bytes, name: str) -> int:
    if not line.endswith(b"\n"):
        raise StateCorrupt(f"{name} has no record although months before it are sealed", code="JOURNAL_TRUNCATED")
    return parsed(line, 1, name).seq


def _first_seq_of(file: Path) -> int:
    with file.open("rb") as lines:
        return first_seq(lines.readline(), file.name)


def _compare(files: list[Path], active: BinaryIO, name: str) -> None:
    for file in files:
        with file.open("rb") as sealed:
            while block := sealed.read(_BLOCK):
                if active.read(len(block)) != block:
                    raise StateCorrupt(f"{file.name} and {name} differ", code="JOURNAL_SEGMENT_DIFFERS")
    if files and not active.readline().endswith(b"\n"):
        raise StateCorrupt(f"{name} ends where {files[-1].name} does", code="JOURNAL_TRUNCATED")


# ---------------------------------------------------------------- following a chain
@dataclass(frozen=True, slots=True)
class Mark:
    """Where a reader stands: behind record `seq`, whose line ends at byte `offset` of the active file."""

    seq: int = 0
    hash: str = GENESIS
    offset: int = 0
    line: bytes = b""  # as it was read, or nothing when it is no longer in the active file
    seen: tuple[int, ...] = field(default=(), compare=False)  # the file as it then was: identity, size, change


START = Mark()


def read_after(path: Path, mark: Mark) -> tuple[list[Record], Mark]:
    """Every complete record behind `mark`, and where that leads. Costs what is new, however long the journal is.

    The line read last must still be where it was; when a sealing has moved it, it is looked for, and has to be found
    with the same number and hash. Raises StateCorrupt when it is gone or what follows does not continue it.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        if mark.seq or segment_files(path):
            raise StateCorrupt(f"{path.name} is gone", code="JOURNAL_SHRANK") from None
        return [], mark
    if mark.seen == seen_as(stat):
        return [], mark
    with path.open("rb") as active:
        seen = seen_as(os.fstat(active.fileno()))  # before reading: what comes in meanwhile is seen the next time
        active.seek(mark.offset - len(mark.line))
        block = active.read()
    if not mark.line or not block.startswith(mark.line):
        return _read_whole(path, mark)
    block = block[len(mark.line) : block.rfind(b"\n") + 1]
    lines = block.splitlines(keepends=True)
    records = [parsed(line, n, f"{path.name} from byte {mark.offset}") for n, line in enumerate(lines, start=1)]
    before = mark.seq, mark.hash
    for record in records:
        before = follow(before, record, path.name)
    line = lines[-1] if lines else mark.line
    return records, Mark(*before, mark.offset + len(block), line, seen)


def _read_whole(path: Path, mark: Mark) -> tuple[list[Record], Mark]:
    reader = Reader(path, mark)
    records = list(reader)
    return records, reader.mark


def seen_as(stat: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is written, replaced or shortened."""
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def follow(before: tuple[int, str], record: Record, name: str) -> tuple[int, str]:
    """(seq, hash) of a record that continues `before`; anything else is StateCorrupt."""
    if record.seq != before[0] + 1 or record.prev != before[1]:
        raise StateCorrupt(f"{name}: record {record.seq} does not follow record {before[0]}", code="JOURNAL_DAMAGED")
    return record.seq, record.hash


class Reader:
    """Records behind a mark, oldest first, across all files. Parses and follows the chain, proves no hash.

    A last line without its line end was never acknowledged and is left out. Raises StateCorrupt for anything else that
    is not a continued chain, and when the record of the mark is not in it.
    """

    def __init__(self, path: Path, after: Mark = START) -> None:
        self._path, self._after = path, after
        self._at: tuple[int, str] | None = None if after.seq else (0, GENESIS)  # None: nothing was read yet
        self.mark = after
        """Where the reader stands once it has been read to the end."""

    def __iter__(self) -> Iterator[Record]:
        try:
            active = self._path.open("rb")
        except FileNotFoundError:
            if self._after.seq or segment_files(self._path):
                raise StateCorrupt(f"{self._path.name} is gone", code="JOURNAL_SHRANK") from None
            return
        with active:
            for _, file in self._needed(parts_before(self._path, active), active):
                with file.open("rb") as lines:
                    yield from self._records(lines, file.name)
            yield from self._records(active, self._path.name)
        if self._at is None or self._at[0] < self._after.seq:
            raise StateCorrupt(
                f"{self._path.name} became shorter: record {self._after.seq} is no longer there", code="JOURNAL_SHRANK"
            )

    def _needed(self, earlier: list[Part], active: BinaryIO) -> list[Part]:
        """Leaves out the files that end before the mark; the record behind it proves by its prev where it stands."""
        if earlier:
            firsts = [first for first, _ in earlier] + [first_seq(active.readline(), self._path.name)]
            active.seek(0)
            return [part for part, behind in zip(earlier, firsts[1:], strict=True) if behind > self._after.seq + 1]
        return earlier

    def _records(self, lines: BinaryIO, name: str) -> Iterator[Record]:
        offset, last, is_active = 0, b"", name == self._path.name
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                if is_active:
                    break
                raise StateCorrupt(f"{name}: line {number} is cut off", code="JOURNAL_DAMAGED")
            record = parsed(line, number, name)
            self._at = follow(self._before(record), record, name)
            if record.seq == self._after.seq and line != (self._after.line or line):
                raise StateCorrupt(f"{name}: record {record.seq} is another one than before", code="JOURNAL_DAMAGED")
            offset, last = offset + len(line), line
            if record.seq > self._after.seq:
                yield record
        if is_active and self._at is not None:
            self.mark = Mark(*self._at, offset, last)

    def _before(self, record: Record) -> tuple[int, str]:
        """What the record has to follow; the first one that is read may be any up to the one behind the mark."""
        if self._at is None:
            if record.seq > self._after.seq:
                return self._after.seq, self._after.hash
            return record.seq - 1, record.prev
        return self._at
