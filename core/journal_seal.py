"""Sealing: completed months leave the active file for a file of their own, and the chain says so.

1. plan     read the active file, prove it, find the months (New York) before that of its newest record;
2. copy     each to journal/hash_chain.YYYY-MM.jsonl: temporary file, fsync, rename, fsync of the folder;
3. tell     one `journal_sealed` record per file: name, numbers, hashes, bytes, SHA-256;
4. shorten  the active file: its remainder replaces it, again by temporary file and rename.

A crash or power cut after any step leaves a journal that reads and verifies as before: months that lie in both places
are the same bytes, or it is damage. `Journal.repair`, the first act of every start-up, takes up an interrupted sealing.
Steps 1 and 2 look at bytes that never change and keep nobody waiting; 3 and 4 hold the journal's lock. One process
seals at a time.

Segments are never changed and never deleted by Kobe. They may be copied away; a journal without them does not verify.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

from core.errors import StateCorrupt
from core.files import clear_temporary, fsync_folder, write_atomic
from core.journal_parts import first_seq, parts_before, segment_files, segment_path, segments_folder
from core.journal_record import GENESIS, SEALED, sound
from core.journal_tail import read_ends


@dataclass(frozen=True, slots=True)
class Segment:
    """One sealed month, as its `journal_sealed` record describes it. `prev` is that of its first record, `hash` the
    last one's; `sha256` is over the file's bytes."""

    file: str
    first_seq: int
    last_seq: int
    prev: str
    hash: str
    bytes: int
    sha256: str

    def body(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Plan:
    """The months to seal, oldest first, each with where it ends in the active file."""

    segments: tuple[Segment, ...]
    ends: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.segments)


@dataclass(slots=True)
class _Month:
    """A run of records, while it is read."""

    label: str
    first_seq: int
    prev: str
    start: int
    end: int
    last_seq: int = 0
    hash: str = ""


# ---------------------------------------------------------------- 1 plan
def plan_sealing(path: Path) -> Plan:
    """Which months are complete. Raises StateCorrupt when the active file is not sound: evidence stays where it is."""
    try:
        active = path.open("rb")
    except FileNotFoundError:
        return Plan((), ())
    with active:
        before = parts_before(path, active)
        if not _spans_months(active.readline(), read_ends(path).last):
            return Plan((), ())
        active.seek(0)
        last = _last_of(before[-1][1]) if before else (0, GENESIS)
        months = list(_months(path, active, last))[:-1]
        segments = tuple(_segment(path, active, month) for month in months)
    return Plan(segments, tuple(month.end for month in months))


def _months(path: Path, active: BinaryIO, before: tuple[int, str]) -> Iterator[_Month]:
    """Whole months of complete lines. A month never follows a later one: a clock that stepped back stays in its run."""
    month, end = None, 0
    for line in active:
        if not line.endswith(b"\n"):
            break
        fields, why = sound(line)
        if fields is None or (fields["seq"] - 1, fields["prev"]) != before:
            why = why or f"record {fields['seq'] if fields else '?'} does not follow it"
            raise StateCorrupt(f"{path.name}: behind record {before[0]}: {why}", code="JOURNAL_DAMAGED")
        label = _label(fields["at"])
        if month is None or label > month.label:
            if month is not None:
                yield month
            month = _Month(label, fields["seq"], fields["prev"], end, end)
        end += len(line)
        month.end, month.last_seq, month.hash = end, fields["seq"], fields["hash"]
        before = fields["seq"], fields["hash"]
    if month is not None:
        yield month


def _spans_months(first: bytes, last: bytes) -> bool:
    """Whether there can be anything to do, from two lines: on most days there is not. A line that cannot be read says
    yes, and is then found by the proof."""
    fields = [sound(line)[0] for line in (first, last)]
    if fields[0] is None or fields[1] is None:
        return True
    return _label(fields[0]["at"]) < _label(fields[1]["at"])


def _label(at: str) -> str:
    new_york = ZoneInfo("America/New_York")  # kept by the library; asked here, so that importing needs no time zones
    return f"{datetime.fromisoformat(at).astimezone(new_york):%Y-%m}"


def _segment(path: Path, active: BinaryIO, month: _Month) -> Segment:
    active.seek(month.start)
    content = active.read(month.end - month.start)
    name = segment_path(path, month.label).name
    digest = hashlib.sha256(content).hexdigest()
    return Segment(name, month.first_seq, month.last_seq, month.prev, month.hash, len(content), digest)


def _last_of(file: Path) -> tuple[int, str]:
    found = describe(file)
    return found.last_seq, found.hash


# ---------------------------------------------------------------- 2 copy
def copy_months(path: Path, plan: Plan) -> bool:
    """Write the files of the plan that are not there yet; False when another process has just sealed. OSError."""
    segments_folder(path).mkdir(exist_ok=True)
    clear_temporary(*(segments_folder(path) / segment.file for segment in plan.segments))
    fsync_folder(path.parent)  # a folder that a power cut takes away would take the months with it
    with path.open("rb") as active:
        for segment, end in zip(plan.segments, plan.ends, strict=True):
            target = segments_folder(path) / segment.file
            active.seek(end - segment.bytes)
            content = active.read(segment.bytes)
            if hashlib.sha256(content).hexdigest() != segment.sha256:
                return False  # the active file was shortened meanwhile
            if not target.exists():  # else it is compared before anything is taken away
                write_atomic(target, content)
    fsync_folder(segments_folder(path))  # also for a file that an interrupted sealing left
    return True


# ---------------------------------------------------------------- 3 tell, 4 shorten
def untold(path: Path, plan: Plan) -> tuple[Segment, ...] | None:
    """Under the lock: the planned segments that no record describes yet; None when another process did it all.

    Raises StateCorrupt when the active file does not begin with the bytes of its copies, or a record says otherwise.
    """
    with path.open("rb") as active:
        parts_before(path, active)
        missing = {segment.file for segment in plan.segments} - {file.name for file in segment_files(path)}
        if missing or first_seq(active.readline(), path.name) != plan.segments[0].first_seq:
            return None
        active.seek(plan.ends[0])
        told = {str(body.get("file")): body for _, body in sealed_bodies(active)}
    for segment in plan.segments:
        if told.get(segment.file, segment.body()) != segment.body():
            raise StateCorrupt(f"the record of sealing {segment.file} does not describe it", code="JOURNAL_DAMAGED")
    return tuple(segment for segment in plan.segments if segment.file not in told)


def shorten(path: Path, plan: Plan) -> None:
    """Under the lock, when everything is told: the active file begins behind the last sealed month. Raises OSError."""
    with path.open("rb") as active:
        active.seek(plan.ends[-1])
        remainder = active.read()
    write_atomic(path, remainder)


def sealed_bodies(lines: Iterator[bytes] | BinaryIO) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(seq, body) of each sound `journal_sealed` record."""
    mark = f'"kind":"{SEALED}"'.encode()
    for line in lines:
        if mark in line:
            fields, _ = sound(line)
            if fields is not None and fields["kind"] == SEALED:
                yield fields["seq"], fields["body"]


def is_interrupted(path: Path) -> bool:
    """Whether the newest segment is still in the active file as well. Raises StateCorrupt when one cannot be read."""
    files = segment_files(path)
    if not files or not path.exists():
        return False
    with path.open("rb") as active, files[-1].open("rb") as newest:
        return first_seq(newest.readline(), files[-1].name) >= first_seq(active.readline(), path.name)


# ---------------------------------------------------------------- looking at segments
def describe(file: Path) -> Segment:
    """What is in a segment file now, from its first and last line and its bytes. Raises StateCorrupt, OSError."""
    content = file.read_bytes()
    first, _ = sound(content[: content.find(b"\n") + 1])
    last, _ = sound(content[content.rfind(b"\n", 0, -1) + 1 :])
    if first is None or last is None:
        raise StateCorrupt(f"{file.name} is damaged", code="JOURNAL_DAMAGED")
    digest = hashlib.sha256(content).hexdigest()
    return Segment(file.name, first["seq"], last["seq"], first["prev"], last["hash"], len(content), digest)


def sealed_segments(path: Path) -> tuple[Segment, ...]:
    """The segments that may be archived, oldest first: out of the active file, told in the chain, and as told there.

    What a cleaning may copy away; it must leave them where they are. Raises StateCorrupt when one is missing, is not
    what its record says, or has none.
    """
    files = segment_files(path)
    if not files and not path.exists():
        return ()
    told: dict[str, Mapping[str, Any]] = {}
    with contextlib.ExitStack() as opened:
        try:
            active = opened.enter_context(path.open("rb"))
        except FileNotFoundError:
            raise StateCorrupt(f"{path.name} is gone", code="JOURNAL_SHRANK") from None
        sealed = [file for _, file in parts_before(path, active)]
        for lines in (*(opened.enter_context(file.open("rb")) for file in sealed), active):
            told |= {str(body.get("file")): body for _, body in sealed_bodies(lines)}
    found = tuple(describe(file) for file in sealed)
    if missing := sorted(told.keys() - {file.name for file in files}):
        raise StateCorrupt(f"{missing[0]} was sealed and is missing", code="JOURNAL_SEGMENT_MISSING")
    for segment in found:
        if told.get(segment.file) != segment.body():
            raise StateCorrupt(f"{segment.file} is not what its record says", code="JOURNAL_SEGMENT_DIFFERS")
    return found
