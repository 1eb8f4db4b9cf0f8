"""Which old log files may go. Only files of ours, known by their names; what is not known stays.

| what                                     | how old it is                    | kept at least                      |
|------------------------------------------|----------------------------------|------------------------------------|
| `*.jsonl.<day>`, `*.jsonl.<n>`           | its last line                    | `--older-than`                     |
| a current `*.jsonl`                      | its first line                   | then it begins anew, and is kept   |
| `briefings/<day>-<phase>.md`, `.html`    | the later of name and last change | `--older-than`                     |
| `llm/<day>.jsonl`                        | the later of name and last change | `--older-than`                     |
| `verdicts/<day>.jsonl`, `inputs/<day>…`  | the later of name and last change | the longer of that and the evidence |
| `inputs/bars/<source>/<day>-….bars`      | the last day of its month        | the same: months stand alone       |
| `inputs/blobs/…`                         | its last change                  | the same, and nobody names it       |

Never: anything below state/ (the journal, its months, its head), `journal_noted.json`, `daily_picks.csv`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

_ROTATED = re.compile(r".+\.jsonl\.(\d{4}-\d{2}-\d{2}(-\d+)?|\d+)\Z")
_DATED = re.compile(r"(\d{4}-\d{2}-\d{2})(?:\.jsonl|-[0-9a-f]+\.bars)\Z")
_BRIEFING = re.compile(r"(\d{4}-\d{2}-\d{2})-(?:pregame|halftime|postgame)\.(?:md|html)\Z")
_AT = re.compile(rb'"at":"(\d{4}-\d{2}-\d{2}T[0-9:.]+Z)"')
_BLOB = re.compile(r"[0-9a-f]{32}\.json\.gz\Z")
_HASH = re.compile(rb"[0-9a-f]{64}")
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Old:
    """One file that may go, or (`again`) a current one that begins anew. `since` is its age's instant."""

    path: Path
    since: datetime
    bytes: int
    again: bool = False


def plan(folder: Path, now: datetime, *, older_than: timedelta, evidence: timedelta) -> list[Old]:
    """Sorted by path. Exactly as old as the limit stays. Links are not looked at. Nothing is changed."""
    cutoff, proof = now - older_than, now - max(older_than, evidence)
    found = [*_telemetry(folder, cutoff), *_dated(folder / "verdicts", proof), *_dated(folder / "inputs", proof)]
    found += _dated(folder / "briefings", cutoff, _BRIEFING)
    found += _dated(folder / "llm", cutoff)
    found += _bars(folder / "inputs" / "bars", proof)
    found += _blobs(folder / "inputs", {old.path for old in found}, proof)
    return sorted(found, key=lambda old: old.path)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_file(follow_symlinks=False):
            try:
                yield Path(entry.path), entry.stat(follow_symlinks=False)
            except OSError:
                continue


def _changed(facts: os.stat_result) -> datetime:
    return datetime.fromtimestamp(facts.st_mtime, UTC)


def _telemetry(folder: Path, cutoff: datetime) -> Iterator[Old]:
    for path, facts in _files(folder):
        if _ROTATED.match(path.name) and _changed(facts) < cutoff:
            yield Old(path, _changed(facts), facts.st_size)
        elif path.suffix == ".jsonl" and (first := _first_line_at(path)) is not None and first < cutoff:
            yield Old(path, first, facts.st_size, again=True)


def _first_line_at(path: Path) -> datetime | None:
    """None for a file without a line of ours: then its age is not known."""
    try:
        with path.open("rb") as file:
            match = _AT.search(file.readline(65_536))
        return datetime.fromisoformat(match[1].decode()) if match is not None else None
    except (OSError, ValueError):
        return None


def _named_day(name: str, pattern: re.Pattern[str] = _DATED) -> date | None:
    match = pattern.match(name)
    try:
        return date.fromisoformat(match[1]) if match is not None else None
    except ValueError:
        return None


def _end_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + _DAY


def _dated(folder: Path, cutoff: datetime, pattern: re.Pattern[str] = _DATED) -> Iterator[Old]:
    """A replay writes old days today: the later of name and last change counts."""
    for path, facts in _files(folder):
        day = _named_day(path.name, pattern)
        if day is not None and (since := max(_end_of(day), _changed(facts))) < cutoff:
            yield Old(path, since, facts.st_size)


def _bars(folder: Path, cutoff: datetime) -> Iterator[Old]:
    """A month's files go together: later ones are told as what changed against earlier ones."""
    if not folder.is_dir():
        return
    for source in sorted(folder.iterdir()):
        months: dict[str, list[tuple[Path, os.stat_result]]] = {}
        for path, facts in _files(source):
            if _named_day(path.name) is not None:
                months.setdefault(path.name[:7], []).append((path, facts))
        for month, files in months.items():
            newest = max(_changed(facts) for _, facts in files)
            since = max(_end_of_month(month), newest)
            if since < cutoff:
                yield from (Old(path, since, facts.st_size) for path, facts in files)


def _end_of_month(month: str) -> datetime:
    year, number = map(int, month.split("-"))
    return datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)


def _blobs(inputs: Path, going: set[Path], cutoff: datetime) -> Iterator[Old]:
    """Long values that no day that stays names."""
    old = [(path, facts) for path, facts in _files(inputs / "blobs") if _BLOB.match(path.name)]
    old = [(path, facts) for path, facts in old if _changed(facts) < cutoff]
    if not old:
        return
    named: set[str] = set()
    for path, _ in _files(inputs):
        if path not in going:
            named |= {match.decode()[:32] for match in _HASH.findall(path.read_bytes())}
    for path, facts in old:
        if path.name[:32] not in named:
            yield Old(path, _changed(facts), facts.st_size)
