"""When a log file begins anew: with each New York day, and above a size. A rename and nothing else.

`events.jsonl` becomes `events.jsonl.2026-11-25`. A line is written by one open, write, close, so no writer holds the
file that is renamed for longer than that; the next line makes a new one. `rotation.day` beside the files says which day
they began with, because a file's last change does not: somebody writes at midnight too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from core.clock import SystemClock
from core.errors import StateLocked
from core.files import locked, write_atomic

DAY_FILE = "rotation.day"
_TRIES, _PAUSE_S = 5, 0.02  # on Windows a file that somebody has open just now cannot be renamed


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a log file begins anew."""

    most_bytes: int = 64 * 1024 * 1024
    daily: bool = True


def rotate(folder: Path, names: Sequence[str], rotation: Rotation) -> list[Path]:
    """Rename what is due; the new names. What cannot be renamed waits for its next day or size. Never raises."""
    today = _new_york_day(SystemClock().now())
    if not _due(folder, names, rotation, today):
        return []
    moved = []
    with contextlib.suppress(OSError, StateLocked), locked(folder / "rotation", timeout_s=0.0):
        for path in _due(folder, names, rotation, today):  # looked at again: another process may have done it
            if path.name != DAY_FILE and (new := begin_anew(path, before=_begun(folder, names, today))) is not None:
                moved.append(new)
        write_atomic(folder / DAY_FILE, f"{today}\n".encode(), durable=False)
    return moved


def _due(folder: Path, names: Sequence[str], rotation: Rotation, today: date) -> list[Path]:
    """Files to be renamed; the day file alone when it is not there yet."""
    sizes = {folder / name: _size(folder / name) for name in names}
    files = {path: size for path, size in sizes.items() if size}
    if not files:
        return []
    new_day = rotation.daily and _begun(folder, names, today) < today
    due = [path for path, size in files.items() if new_day or size > rotation.most_bytes]
    return due or ([] if (folder / DAY_FILE).exists() else [folder / DAY_FILE])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _begun(folder: Path, names: Sequence[str], today: date) -> date:
    """The day the files began with: as noted, else that of the oldest last change."""
    with contextlib.suppress(OSError, ValueError):
        return date.fromisoformat((folder / DAY_FILE).read_text(encoding="ascii").strip())
    return min((_changed(folder / name) or today for name in names), default=today)


def begin_anew(path: Path, *, before: date | None = None) -> Path | None:
    """Rename one log file to its day; the new name, None when it would not go.

    before : the day it began with. A file changed later than that is named after the day before its last change at the
    latest, so that lines written just after midnight do not take tomorrow's name.
    """
    day = _changed(path)
    if day is None:
        return None
    if before is not None and before < day:
        day = max(before, day - timedelta(days=1))
    number, target = 1, path.with_name(f"{path.name}.{day}")
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.{day}-{number}")
    for attempt in range(_TRIES):
        try:
            path.rename(target)
            return target
        except PermissionError:
            if attempt < _TRIES - 1:
                SystemClock().sleep(_PAUSE_S)
        except OSError:
            break
    return None


def _changed(path: Path) -> date | None:
    """The New York date of a file's last change: the system's own time, whatever clock the lines carry."""
    try:
        return _new_york_day(datetime.fromtimestamp(path.stat().st_mtime, UTC))
    except OSError:
        return None


def _new_york_day(at: datetime) -> date:
    return at.astimezone(ZoneInfo("America/New_York")).date()
