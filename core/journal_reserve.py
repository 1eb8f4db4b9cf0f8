"""Room kept for the record of an order that has left: a file beside the journal, given back when the disk is full.

The intent to send an order never uses it: no room, no order. What became of an order that was sent may (P02).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from core import logs
from core.files import fsync_folder, write_atomic

RESERVE_BYTES = 256 * 1024
"""Some five hundred records; a day writes a few dozen."""
_ROOM = 4
"""The reserve is made only when the disk has room for it this many times: else it would take the room it is to keep."""
_NO_ROOM = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


def is_no_room(error: OSError) -> bool:
    return error.errno in _NO_ROOM


class Reserve:
    def __init__(self, journal: Path) -> None:
        self.path = journal.with_suffix(".reserve")

    def keep(self) -> None:
        """Make the file when it is not there and the disk has room. Never raises: a missing reserve stops nothing."""
        with contextlib.suppress(OSError):
            if not self.path.exists() and shutil.disk_usage(self.path.parent).free >= _ROOM * RESERVE_BYTES:
                write_atomic(self.path, os.urandom(RESERVE_BYTES))  # nothing that a file system could compress away

    def release(self) -> bool:
        """Give the room back; False when there was none to give."""
        try:
            self.path.unlink()
        except OSError:
            return False
        with contextlib.suppress(OSError):
            fsync_folder(self.path.parent)
        logs.error_event("disk_reserve_released", code="DISK_FULL", file=self.path.name, bytes=RESERVE_BYTES)
        logs.count("disk_reserve_released")
        return True
