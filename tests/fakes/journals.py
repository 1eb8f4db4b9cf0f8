"""Journals for tests: a chain over several months, sealed or not, as plain lines that a test may damage."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from core.clock import SteppedClock
from core.journal import Journal, head_path, record_hash
from core.journal_head import write_head
from core.journal_record import Head

ACTIVE = "hash_chain.jsonl"
START = datetime(2024, 1, 10, 15, 0, tzinfo=UTC)


def journal_at(folder: Path, start: datetime = START, run_id: str = "r1") -> tuple[Journal, SteppedClock]:
    clock = SteppedClock(start)
    return Journal(folder / "state" / ACTIVE, clock, run_id=run_id), clock


def fill(journal: Journal, clock: SteppedClock, months: int, each: int) -> None:
    """`each` records in each of so many months, all in the middle of the month."""
    for month in range(months):
        clock.set(START + timedelta(days=31 * month))
        for i in range(each):
            journal.append("order_intended", {"month": month, "i": i, "price": "10.10", "symbol": "AAPL"})
            clock.advance(timedelta(minutes=1))


@dataclass(frozen=True)
class Chain:
    """A journal in memory: (file, lines) in the order of the chain, and the bytes of the head."""

    files: tuple[tuple[str, tuple[bytes, ...]], ...]
    head: bytes

    @classmethod
    def load(cls, path: Path) -> Chain:
        files = [f"journal/{p.name}" for p in sorted((path.parent / "journal").glob("*.jsonl"))] + [path.name]
        read = tuple((name, tuple((path.parent / name).read_bytes().splitlines(keepends=True))) for name in files)
        return cls(read, head_path(path).read_bytes())

    @property
    def lines(self) -> list[bytes]:
        return [line for _, lines in self.files for line in lines]

    def row(self, seq: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.lines[seq - 1])
        return found

    def with_lines(self, lines: list[bytes], *, shift_at: int | None = None) -> Chain:
        """The same files with other lines. A line more or less lies in the file that record `shift_at` is in."""
        more, counts, seen = len(lines) - len(self.lines), [], 0
        for _, held in self.files:
            inside = shift_at is not None and seen < shift_at <= seen + len(held)
            counts.append(len(held) + (more if inside else 0))
            seen += len(held)
        files, at = [], 0
        for (name, _), n in zip(self.files, counts, strict=True):
            files.append((name, tuple(lines[at : at + n])))
            at += n
        return replace(self, files=tuple(files))

    def write(self, state: Path) -> Path:
        """Into an empty or re-used folder; returns the journal's path."""
        wanted = dict(self.files)
        (state / "journal").mkdir(parents=True, exist_ok=True)
        for old in (state / "journal").glob("*.jsonl"):
            if f"journal/{old.name}" not in wanted:
                old.unlink()
        for name, lines in wanted.items():
            (state / name).write_bytes(b"".join(lines))
        head_path(state / ACTIVE).write_bytes(self.head)
        return state / ACTIVE


def spelled(row: dict[str, Any]) -> bytes:
    return json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def rehashed(lines: list[bytes], first: int) -> list[bytes]:
    """Everything from record `first` on with prev and hash made to fit, as a forger would."""
    done, prev = lines[: first - 1], "0" * 64 if first == 1 else json.loads(lines[first - 2])["hash"]
    for line in lines[first - 1 :]:
        row = {k: v for k, v in json.loads(line).items() if k != "hash"} | {"prev": prev}
        prev = record_hash(prev, row)
        done.append(spelled({**row, "hash": prev}))
    return done


def head_of(lines: list[bytes], folder: Path) -> bytes:
    """The bytes of a head file for this end of a chain."""
    last = json.loads(lines[-1])
    path = folder / "made.jsonl"
    write_head(path, Head(last["seq"], last["hash"]))
    return head_path(path).read_bytes()
