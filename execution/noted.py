"""Where the journal ended when it was last seen, noted outside the state folder.

An old backup of state/ put back is sound in itself: chain and head agree. Only somebody who saw more can tell. The note
lies in logs/, is rewritten after every scan and never goes back; a start that finds the journal behind it must
reconcile before it trades (P32).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from core import logs
from core.files import write_atomic
from core.journal_head import read_head
from core.journal_record import Head, Record

NOTE_FILE: Final = "journal_noted.json"


def note(file: Path, journal: Path, *, also_back: bool = False) -> None:
    """Note the journal's head. A note that is further already stays, unless `also_back`.

    A log folder that cannot be written is counted, no more. Raises StateCorrupt for a damaged head.
    """
    head, before = read_head(journal), read_note(file)
    if head is None or (before is not None and before.seq >= head.seq and not also_back):
        return
    try:
        write_atomic(file, json.dumps(asdict(head)).encode() + b"\n", durable=False)
    except OSError as error:
        logs.event("journal_not_noted", code="LOGS_UNWRITABLE", detail=str(error))
        logs.count("journal_not_noted")


def read_note(file: Path) -> Head | None:
    """None when there is none, or none that makes sense: then nothing can be compared."""
    try:
        found = json.loads(file.read_bytes())
        seq, digest = found["seq"], found["hash"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Head(seq, digest) if type(seq) is int and isinstance(digest, str) else None


@dataclass(frozen=True, slots=True)
class Behind:
    """The journal does not hold what was noted."""

    noted: Head
    last: int  # the journal's last record

    def __str__(self) -> str:
        if self.last < self.noted.seq:
            return f"the journal ends at record {self.last}, {self.noted.seq} were seen on this machine"
        return f"record {self.noted.seq} of the journal is not the one that was seen on this machine"


def behind(noted: Head | None, records: Iterable[Record]) -> Behind | None:
    """None when nothing was noted, or when the noted record is there."""
    if noted is None:
        return None
    last = 0
    for record in records:
        last = record.seq
        if record.seq == noted.seq and record.hash == noted.hash:
            return None
    return Behind(noted, last)
