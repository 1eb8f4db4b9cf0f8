"""Which log lines answer a question: the current files and the rotated ones, in the order they were written.

Lines are masked when they are written, and once more when they are read, because a key may have become known since.
A line that cannot be read is counted, never left out without a word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from core.secrets import mask_values

FILES = ("events.jsonl", "errors.jsonl", "trades.jsonl")


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for; None asks nothing. `since` and `until` (exclusive) are UTC. `text` is found anywhere."""

    since: datetime | None = None
    until: datetime | None = None
    event: str | None = None
    code: str | None = None
    symbol: str | None = None
    run_id: str | None = None
    text: str | None = None

    def answered_by(self, row: Mapping[str, Any]) -> bool:
        at = _instant(row)
        if (self.since is not None and at < self.since) or (self.until is not None and at >= self.until):
            return False
        wanted = {"event": self.event, "code": self.code, "symbol": self.symbol, "run_id": self.run_id}
        if any(value is not None and str(row.get(name, "")) != value for name, value in wanted.items()):
            return False
        return self.text is None or self.text.lower() in json.dumps(row, ensure_ascii=False).lower()


@dataclass(slots=True)
class Found:
    """Rows with their file's name under `log`, oldest first; how many lines of how many files could not be read."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    looked_at: int = 0
    unreadable: int = 0
    left_off: int = 0  # older answers than the newest `most`


def query(folder: Path, question: Question, *, files: Sequence[str] = FILES, most: int | None = None) -> Found:
    """Every answer, oldest first; with `most` the newest so many. A missing folder has no lines."""
    found = Found()
    for name in files:
        for path in _parts(folder, name):
            for row in _rows(path, found):
                if question.answered_by(row):
                    found.rows.append({"log": name.removesuffix(".jsonl"), **mask_values(row)})
    found.rows.sort(key=lambda row: str(row["at"]))
    if most is not None and len(found.rows) > most:
        found.left_off = len(found.rows) - most
        del found.rows[: found.left_off]
    return found


def _parts(folder: Path, name: str) -> list[Path]:
    """The rotated files of one log, then the current one."""
    return [*sorted(folder.glob(f"{name}.*")), *([folder / name] if (folder / name).is_file() else [])]


def _rows(path: Path, found: Found) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as lines:
            for line in lines:
                found.looked_at += 1
                try:
                    row = json.loads(line)
                    _instant(row)
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    found.unreadable += 1
                    continue
                yield row
    except OSError:
        found.unreadable += 1


def _instant(row: Mapping[str, Any]) -> datetime:
    at = datetime.fromisoformat(row["at"])
    if at.tzinfo is None:
        raise ValueError(f"no time zone: {row['at']}")
    return at
