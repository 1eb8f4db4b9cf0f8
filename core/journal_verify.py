"""The whole proof of a journal: every record, the chain, its segments, its head, and the anchors.

An anchor is the hash of a record that was noted outside the state folder: a daily report, a backup, a sheet of paper.
The chain proves every record up to an anchor that it contains (`proven`). An anchor that it does not contain says that
the record it names was taken away or replaced.

| damage                                      | shown by           | `first_bad`                                      |
|---------------------------------------------|--------------------|--------------------------------------------------|
| edited, respelled                           | its hash           | that record                                      |
| inserted, deleted, swapped, spliced, forked | prev and seq       | the first that does not follow                   |
| segment missing, edited, swapped            | the same           | the first missing or wrong record                |
| shortened                                   | the head           | the first missing record                         |
| whole folder rolled back, head and all      | an anchor          | the first missing record                         |
| everything from p on rewritten, hashes, head| an anchor SEQ:HASH | the lowest anchored record that is another one   |
| the same                                    | an anchor HASH     | the record behind the last: the number is unknown|

In each row the damage begins behind `proven` and not behind `first_bad`; in all but the last two it begins there.
So one anchor SEQ:HASH per day names the day. A torn last line is not damage (`torn`); the next append sets it aside.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import StateCorrupt
from core.files import locked
from core.journal_head import read_head
from core.journal_parts import segment_files
from core.journal_record import EMPTY, GENESIS, SEALED, Head, sound
from core.journal_seal import Segment, describe
from core.journal_tail import disagreement

Progress = Callable[[int, float], None]
_TELL_EVERY = 10_000


@dataclass(frozen=True, slots=True)
class Anchor:
    """The hash of a record, and its number when that was noted too."""

    hash: str
    seq: int | None = None

    @classmethod
    def parse(cls, text: str) -> Anchor:
        """`HASH`, `SEQ:HASH`, or a line of a head file. Raises ValueError."""
        text = text.strip()
        if text.startswith("{"):
            noted = json.loads(text)  # an object, by its first character
            text = f"{noted.get('seq')}:{noted.get('hash')}"
        number, _, digits = text.rpartition(":")
        digits = digits.lower()
        if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
            raise ValueError(f"{text[:80]!r} does not end in the 64 hex digits of a record's hash")
        if number and not (number.isdecimal() and number.isascii() and int(number) > 0):
            raise ValueError(f"{text[:80]!r} does not begin with a record's number")
        return cls(digits, int(number) if number else None)


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found. Counts are records.

    records, head : the sound prefix and the hash it ends with
    first_bad : the first record known to be wrong or missing; None when none is, or only the head file is lost
    proven : up to here an anchor proves every record; 0 without anchors
    torn : the only trouble is a last line that was never acknowledged
    segments : sealed files in the chain
    """

    ok: bool
    records: int
    head: str
    first_bad: int | None
    why: str
    proven: int = 0
    torn: bool = False
    segments: int = 0


def verify(path: Path, *, anchors: Iterable[Anchor] = (), progress: Progress | None = None) -> Verification:
    """Read the whole journal and prove it. Never raises for damage; StateLocked when a writer hangs.

    progress : called now and then with the records and the share of the bytes read so far.
    """
    wanted = list(anchors)
    with contextlib.ExitStack() as opened:
        taken = _snapshot(path, opened)
        walk = _Walk(_by_seq(wanted), {a.hash for a in wanted if a.seq is None} - {GENESIS}, taken, progress)
        _walk_all(walk, taken)
        if not walk.troubles:
            _check_head(walk, taken)
            _check_segments(walk, taken)
        _check_anchors(walk)
    return walk.verdict(segments=len(taken.earlier))


def _by_seq(anchors: Iterable[Anchor]) -> dict[int, set[str]]:
    """Two anchors that name one record differently cannot both be met, and are both asked."""
    found: dict[int, set[str]] = {}
    for anchor in anchors:
        if anchor.seq is not None:
            found.setdefault(anchor.seq, set()).add(anchor.hash)
    return found


# ---------------------------------------------------------------- what is looked at
@dataclass(frozen=True, slots=True)
class _Taken:
    """The journal at one moment: a running writer must not look like damage."""

    path: Path
    active: BinaryIO | None
    size: int
    head: Head | None
    head_trouble: str
    earlier: tuple[Path, ...] = ()
    twice: tuple[Path, ...] = ()  # segments that the active file still holds as well

    @property
    def bytes(self) -> int:
        return self.size + sum(file.stat().st_size for file in self.earlier)


def _snapshot(path: Path, opened: contextlib.ExitStack) -> _Taken:
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # a backup on read-only media has no writer
            if path.parent.is_dir():  # never make the folder of a journal that is not there
                held.enter_context(locked(path))
        active, size, head, trouble = None, 0, None, ""
        with contextlib.suppress(FileNotFoundError):
            active = opened.enter_context(path.open("rb"))
            size = active.seek(0, 2)
            active.seek(0)
        try:
            head = read_head(path)
        except StateCorrupt as error:
            trouble = str(error)
        files = segment_files(path)
    start = _first_seq(active)
    firsts = {file: _first_seq_of(file) for file in files}
    twice = tuple(file for file in files if start is not None and (firsts[file] or 0) >= start)
    return _Taken(path, active, size, head, trouble, tuple(file for file in files if file not in twice), twice)


def _first_seq(lines: BinaryIO | None) -> int | None:
    """None for what cannot be read: the walk will say why."""
    if lines is None:
        return None
    fields, _ = sound(lines.readline())
    lines.seek(0)
    return None if fields is None else int(fields["seq"])


def _first_seq_of(file: Path) -> int | None:
    with file.open("rb") as lines:
        return _first_seq(lines)


# ---------------------------------------------------------------- the walk
@dataclass(slots=True)
class _Walk:
    """The sound prefix, and everything that was found to be wrong."""

    by_seq: Mapping[int, set[str]]
    by_hash: set[str]
    taken: _Taken
    progress: Progress | None
    tail: Head = EMPTY
    prev: str = ""
    proven: int = 0
    torn: bool = False  # behind the tail lies what was never acknowledged
    head_hash: str | None = None  # of the record that the head names
    manifests: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)
    troubles: list[tuple[int | None, str]] = field(default_factory=list)
    done_bytes: int = 0

    def step(self, fields: Mapping[str, Any]) -> None:
        seq, made = fields["seq"], fields["hash"]
        self.prev, self.tail = self.tail.hash, Head(seq, made)
        if made in self.by_hash:
            self.by_hash.discard(made)
            self.proven = seq
        if seq in self.by_seq:
            if self.by_seq[seq] == {made}:
                self.proven = seq
            else:
                self.troubles.append((seq, f"record {seq} is not the one that the anchor names"))
        if self.taken.head is not None and seq == self.taken.head.seq:
            self.head_hash = made
        if fields["kind"] == SEALED:
            self.manifests.append((seq, fields["body"]))

    def verdict(self, *, segments: int) -> Verification:
        """The lowest record wins; of several troubles at one record, the first found. A torn line is the least."""
        torn = self.torn and not self.troubles
        if torn:
            self.troubles.append((self.tail.seq + 1, "a torn last line; the next append sets it aside"))
        self.troubles.sort(key=lambda found: float("inf") if found[0] is None else found[0])
        first_bad, why = self.troubles[0] if self.troubles else (None, "")
        proven = self.proven if first_bad is None else min(self.proven, first_bad - 1)
        return Verification(not why, self.tail.seq, self.tail.hash, first_bad, why, proven, torn, segments)


def _walk_all(walk: _Walk, taken: _Taken) -> None:
    """Stops at the first record that is not sound or does not follow: behind it nothing can be said."""
    total = max(taken.bytes, 1)
    for file in taken.earlier:
        with file.open("rb") as lines:
            whole = _walk_file(walk, lines, file.stat().st_size, file.name, total)
        if not whole:
            return
    if taken.active is not None:
        _walk_file(walk, taken.active, taken.size, taken.path.name, total)


def _walk_file(walk: _Walk, lines: BinaryIO, size: int, name: str, total: int) -> bool:
    done, is_active = 0, lines is walk.taken.active
    while done < size:
        line = lines.readline()
        done += len(line)
        fields, why = sound(line)
        if fields is None:
            _unsound(walk, line, f"{name}: {why}", may_be_torn=is_active and done >= size)
            return False
        if fields["prev"] != walk.tail.hash or fields["seq"] != walk.tail.seq + 1:
            walk.troubles.append((walk.tail.seq + 1, f"{name}: {_gap(walk, fields)}"))
            return False
        walk.step(fields)
        if walk.progress is not None and walk.tail.seq % _TELL_EVERY == 0:
            walk.progress(walk.tail.seq, (walk.done_bytes + done) / total)
    walk.done_bytes += done
    return True


def _gap(walk: _Walk, fields: Mapping[str, Any]) -> str:
    tail, seq = walk.tail, fields["seq"]
    if seq > tail.seq + 1:
        return f"records {tail.seq + 1} to {seq - 1} are missing"
    if seq == tail.seq and fields["prev"] == walk.prev:
        return f"a second record {seq} follows record {seq - 1}: two writers made two chains of one"
    return f"record {seq} does not follow record {tail.seq}"


def _unsound(walk: _Walk, line: bytes, why: str, *, may_be_torn: bool) -> None:
    """A line at the very end was torn when the head shows that it was never acknowledged; else somebody changed it."""
    acknowledged = walk.taken.head or EMPTY
    if may_be_torn and not walk.taken.head_trouble:
        cut_off = not line.endswith(b"\n")
        if walk.tail == acknowledged or (cut_off and acknowledged == Head(walk.tail.seq - 1, walk.prev)):
            walk.torn = True
            return
        if cut_off:
            why += ": it was whole once, the head says so"
    walk.troubles.append((walk.tail.seq + 1, why))


# ---------------------------------------------------------------- head, segments, anchors
def _check_head(walk: _Walk, taken: _Taken) -> None:
    """The head may be the last record or the one before; see core/journal_tail.py."""
    if taken.head_trouble:
        walk.troubles.append((None, taken.head_trouble))
        return
    head, tail = taken.head, walk.tail
    if head == tail or (head or EMPTY) == Head(tail.seq - 1, walk.prev) or (head is None and tail == EMPTY):
        return
    why = str(disagreement(taken.path.name, head, tail))
    if head is None:
        first_bad = None  # the chain is sound, only the file beside it is gone
    elif head.seq > tail.seq:
        first_bad = tail.seq + 1
    elif walk.head_hash != head.hash:
        first_bad = head.seq  # rewritten, at the latest here
    else:
        first_bad = head.seq + 1  # added by somebody who did not move the head
    walk.troubles.append((first_bad, why))


def _check_segments(walk: _Walk, taken: _Taken) -> None:
    """Every segment is told, as it is; those not yet taken out of the active file are the same bytes."""
    if not _check_twice(walk, taken):
        return
    try:
        found = {file.name: describe(file) for file in (*taken.earlier, *taken.twice)}
    except StateCorrupt as error:
        walk.troubles.append((None, str(error)))
        return
    for seq, body in walk.manifests:
        segment = found.get(str(body.get("file")))
        if segment is None:  # the chain is whole, so its records are there, only not where they were put
            walk.troubles.append((seq, f"record {seq} tells of {body.get('file')}, and there is no such segment"))
        elif segment.body() != body:
            walk.troubles.append(_misdescribed(seq, body, segment))
    told = {str(body.get("file")) for _, body in walk.manifests}
    nobody = [file.name for file in taken.earlier if file.name not in told]
    if nobody:
        walk.troubles.append((walk.tail.seq + 1, f"no record tells of {nobody[0]}: the end of the journal is missing"))


def _misdescribed(seq: int, body: Mapping[str, Any], segment: Segment) -> tuple[int, str]:
    """The record of a sealing is an anchor of its own: it names the last hash of the segment."""
    if body.get("last_seq") == segment.last_seq and body.get("hash") != segment.hash:
        return segment.last_seq, f"{segment.file} is not what was sealed"
    return seq, f"record {seq} does not describe {segment.file}"


def _check_twice(walk: _Walk, taken: _Taken) -> bool:
    """A sealing that was interrupted left months in both places: the same bytes, and something behind them."""
    if not taken.twice or taken.active is None:
        return True
    taken.active.seek(0)
    seq = _first_seq(taken.active) or 1
    for file in taken.twice:
        with file.open("rb") as lines:
            for line in lines:
                if line != taken.active.readline():
                    how = "is shorter than" if seq > walk.tail.seq else "differs from"
                    walk.troubles.append((seq, f"{taken.path.name} {how} {file.name} at record {seq}"))
                    return False
                seq += 1
    if seq > walk.tail.seq:
        walk.troubles.append((seq, f"{taken.path.name} ends where {taken.twice[-1].name} does"))
    return seq <= walk.tail.seq


def _check_anchors(walk: _Walk) -> None:
    """Those that the walk did not meet. Behind a damaged record nothing can be said of them."""
    if any(why for first_bad, why in walk.troubles if first_bad == walk.tail.seq + 1):
        return
    behind = walk.tail.seq + 1
    walk.troubles += [
        (behind, f"record {seq}, which the anchor names, is missing: the journal ends at {walk.tail.seq}")
        for seq in sorted(walk.by_seq) if seq > walk.tail.seq
    ]  # fmt: skip
    walk.troubles += [
        (behind, f"no record has the hash {noted[:12]}…: behind record {walk.proven} the journal was rolled back or "
                 "replaced")
        for noted in sorted(walk.by_hash)
    ]  # fmt: skip
