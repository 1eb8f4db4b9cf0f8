"""The journal: what we did, one hash-chained, fsynced line each. If it cannot be written, trading stops.

| module            | what                                                                       |
|-------------------|----------------------------------------------------------------------------|
| `journal`         | append, repair, seal, read: what the rest of the house uses                |
| `journal_record`  | a record, its line, its hash, the proof of a line                          |
| `journal_head`    | the small file that says where the chain ends                              |
| `journal_tail`    | what a crash may leave at the end, told apart from tampering               |
| `journal_parts`   | one chain in several files: sealed months and the active file              |
| `journal_seal`    | moving completed months out of the active file                             |
| `journal_verify`  | the whole proof, with anchors noted elsewhere                              |
| `journal_reserve` | room on the disk for what became of an order that was sent                 |

`run_id` and `at` are inside the record, so the hash covers them; nothing else varies between equal runs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from core import logs
from core.canonical import iso_utc, plain
from core.clock import Clock
from core.errors import StateCorrupt, StateLocked
from core.files import clear_temporary, fsync_folder, locked
from core.journal_head import head_path, read_head, write_head
from core.journal_parts import START, Mark, Reader, read_after, seen_as, segment_files, segments_folder
from core.journal_record import EMPTY, GENESIS, SEALED, Head, Record, dumps, record_hash
from core.journal_reserve import Reserve, is_no_room
from core.journal_seal import (
    Plan,
    Segment,
    copy_months,
    is_interrupted,
    plan_sealing,
    sealed_segments,
    shorten,
    untold,
)
from core.journal_tail import Tail, agree, is_acknowledged, one_behind, read_ends, tail_of
from core.journal_verify import Anchor, Verification, verify

__all__ = [
    "GENESIS", "START", "Anchor", "Journal", "JournalTail", "Mark", "Record", "Segment", "Verification", "head_path",
    "record_hash", "sealed_segments", "segments_folder", "torn_path", "verify",
]  # fmt: skip

T = TypeVar("T")


def torn_path(path: Path) -> Path:
    return path.with_suffix(".torn")


class Journal:
    """One chain, many processes. Appending costs the same on day 1 and day 1000: only the tail is read."""

    def __init__(self, path: Path, clock: Clock, *, run_id: str = "") -> None:
        self.path = path
        self._clock = clock
        self._run_id = run_id
        self._known: Tail | None = None  # the newest tail this process has seen: the chain may never fall behind it
        self._left: tuple[tuple[int, ...], ...] = ()  # both files as our own last append left them
        self._reserve = Reserve(path)

    def append(self, kind: str, body: Mapping[str, Any], *, may_use_reserve: bool = False) -> Record:
        """Write one record and return when it is on the disk.

        may_use_reserve : for what became of an order that was sent. On a full disk the reserve is then given back and
        the record written into its room. Never for an intent: no room, no order.

        Raises StateCorrupt when the tail is damaged or the disk refuses, StateLocked when another process holds the
        file. After either, nothing was promised: the caller must not act.
        """
        content = plain(body)
        if not isinstance(content, dict):
            raise TypeError(f"{kind}: a journal body is a mapping, was {type(body).__name__}")
        with locked(self.path), _writable(self.path):
            tail = self._with_room(self._repaired_tail, may_use_reserve)
            made = self._write(tail.head, kind, content, may_use_reserve)
            self._reserve.keep()
        return made

    def repair(self) -> None:
        """What a start-up does first: clear what a crash left behind, finish an interrupted sealing.

        A torn line is set aside, the head brought up, temporary files removed; a sound journal stays as it is.
        """
        with locked(self.path), _writable(self.path):
            self._repaired_tail()
            clear_temporary(self.path, head_path(self.path), self._reserve.path)
            if self.path.exists():
                self._reserve.keep()
        if is_interrupted(self.path):
            self.seal_or_postpone()

    def seal_or_postpone(self) -> None:
        """`seal` as housekeeping: what stops it is told, and work goes on with one long file. Raises StateCorrupt."""
        try:
            self.seal()
        except (OSError, StateLocked) as error:
            logs.error_event("journal_sealing_postponed", code="SEALING_POSTPONED", detail=str(error))
            logs.count("journal_sealing_postponed")

    def seal(self) -> tuple[Segment, ...]:
        """Move completed months out of the active file, see core/journal_seal.py; what was moved, oldest first.

        Called when a runner starts, and by cleaning. Raises StateCorrupt when the journal is damaged, StateLocked, or
        OSError when a file cannot be written: then the months stay where they were, or lie in both places, which is
        sound too.
        """
        plan = plan_sealing(self.path)
        if not plan:
            return ()
        with locked(segments_folder(self.path) / "sealing"):  # one at a time; appends go on until the last step
            if not copy_months(self.path, plan) or not self._move(plan):
                return ()
        for segment in plan.segments:
            logs.event("journal_sealed", code="JOURNAL_SEALED", **segment.body())
        logs.count("journal_sealed", len(plan.segments))
        return plan.segments

    def _move(self, plan: Plan) -> bool:
        """Tell and shorten; False when another process has done it since the plan was made."""
        with locked(self.path):
            with _writable(self.path):
                head = self._repaired_tail().head
                left = untold(self.path, plan)
                for segment in left or ():
                    made = self._write(head, SEALED, segment.body(), False)
                    head = Head(made.seq, made.hash)
            if left is not None:
                shorten(self.path, plan)
        return left is not None

    def records(self) -> Iterator[Record]:
        """Every complete line, oldest first, sealed months included. Follows the chain, proves no hash.

        Raises StateCorrupt naming the line that is no record or does not follow. A last line without its line end was
        never acknowledged and is left out.
        """
        return iter(Reader(self.path))

    def kinds(self, *kinds: str) -> Iterator[Record]:
        return (record for record in self.records() if record.kind in kinds)

    def read_after(self, mark: Mark) -> tuple[list[Record], Mark]:
        """What was appended behind `mark` (START: everything) and the new mark; see core/journal_parts.py."""
        return read_after(self.path, mark)

    # ------------------------------------------------------------ under the lock
    def _repaired_tail(self) -> Tail:
        """The last sound record, after undoing what a crash may have left. Compares before it changes anything."""
        if self._known is not None and self._left and self._left == self._files():
            return self._known  # nobody has written since we did
        if self._known is None:  # files of a process that was killed may not be in the folder for good yet
            fsync_folder(self.path.parent)
        name, ends = self.path.name, read_ends(self.path)
        tail = tail_of(ends, name, self._known)
        head = read_head(self.path)
        agree(ends, tail, head, name)
        self._not_rolled_back(tail)
        if not is_acknowledged(head, tail):
            assert one_behind(head, tail)
            write_head(self.path, tail.head)
        if tail.torn_from < ends.size:
            tail = self._set_torn_line_aside(tail)
        self._known = tail
        return tail

    def _files(self) -> tuple[tuple[int, ...], ...]:
        """Identity, size and time of change of the active file and of the head; empty when one of them is not there."""
        try:
            return tuple(seen_as(file.stat()) for file in (self.path, head_path(self.path)))
        except FileNotFoundError:
            return ()

    def _not_rolled_back(self, tail: Tail) -> None:
        known = EMPTY if self._known is None else self._known.head
        if tail.head.seq < known.seq or (tail.head.seq == known.seq and tail.head != known):
            raise StateCorrupt(
                f"{self.path.name} ends at record {tail.head.seq}, this process has seen {known.seq} {known.hash[:12]}",
                code="JOURNAL_ROLLED_BACK",
            )
        if tail.head == EMPTY and segment_files(self.path):
            raise StateCorrupt(f"{self.path.name} is empty although months are sealed", code="JOURNAL_TRUNCATED")

    def _set_torn_line_aside(self, tail: Tail) -> Tail:
        with self.path.open("r+b") as lines:
            lines.seek(tail.torn_from)
            torn = lines.read()
            with torn_path(self.path).open("ab") as aside:
                aside.write(torn + b"\n")
                aside.flush()
                os.fsync(aside.fileno())
            lines.truncate(tail.torn_from)
            os.fsync(lines.fileno())
        digest = hashlib.sha256(torn).hexdigest()
        logs.event("journal_torn_line", code="JOURNAL_TORN_LINE", bytes=len(torn), sha256=digest)
        self._write(tail.head, "journal_torn_line", {"bytes": len(torn), "sha256": digest}, False)
        assert self._known is not None
        return self._known

    def _write(self, before: Head, kind: str, body: dict[str, Any], may_use_reserve: bool) -> Record:
        at = iso_utc(self._clock.now())
        fields = {
            "seq": before.seq + 1, "at": at, "kind": str(kind), "run_id": self._run_id, "body": body,
            "prev": before.hash,
        }  # fmt: skip
        head = Head(before.seq + 1, record_hash(before.hash, fields))
        line = dumps({**fields, "hash": head.hash}).encode() + b"\n"
        self._with_room(lambda: self._write_line(line), may_use_reserve)
        self._with_room(lambda: write_head(self.path, head), may_use_reserve)
        self._known, self._left = Tail(head, before.hash, line, 0), self._files()
        return Record(head.seq, datetime.fromisoformat(at), str(kind), body, before.hash, head.hash, self._run_id)

    def _with_room(self, act: Callable[[], T], may_use_reserve: bool) -> T:
        """`act`, and once more in the room of the reserve when the disk was full and the record may have it."""
        try:
            return act()
        except OSError as error:
            if not (may_use_reserve and is_no_room(error) and self._reserve.release()):
                raise
        return act()

    def _write_line(self, line: bytes) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        try:
            before = os.fstat(handle).st_size
            try:
                if os.write(handle, line) != len(line):
                    raise OSError(errno.ENOSPC, "short write, the disk is probably full")
                os.fsync(handle)
            except OSError:
                with contextlib.suppress(OSError):  # else the next append finds a torn line and sets it aside
                    os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)


class JournalTail:
    """Reads only what was appended since the last call, so that a look costs the same on day 1 and day 1000."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self._mark = journal, START

    def new(self) -> list[Record]:
        """Complete records since the last call, sealed months included; a sealing by another process is followed.

        Raises StateCorrupt when what was read is no longer there, or what is new does not continue it. The hashes are
        proved elsewhere (preflight, verify_hash_chain); a torn last line is left for `Journal.append`.
        """
        new, self._mark = self._journal.read_after(self._mark)
        return new


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    """A journal that cannot be written is a stop, told in words, not a bug."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        logs.error_event("journal_unwritable", code="JOURNAL_UNWRITABLE", file=path.name, detail=why)
        logs.count("journal_unwritable")
        raise StateCorrupt(
            f"{path.name} cannot be written: {why}",
            code="JOURNAL_UNWRITABLE",
            advice="free the disk or mend its permissions; nothing is sent until the journal can be written",
        ) from error
