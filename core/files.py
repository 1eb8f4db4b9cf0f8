"""Atomic writes and locks that behave the same on Linux, macOS and Windows.

Source of the pattern: write a temporary file in the same folder, flush, fsync, os.replace, fsync the folder
(where folders can be opened). A reader sees the old document or the new one, never a mixture.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import StateLocked

_REPLACE_TRIES = 5  # Windows: a virus scanner may hold the target for a moment


def fsync_folder(folder: Path) -> None:
    """Make a rename durable. Windows cannot open folders; its rename is journalled by the file system."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace `path` by `content` or leave it as it was. `durable=False` skips fsync, for files that can be rebuilt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            if durable:
                os.fsync(out.fileno())
        _replace(Path(name), path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    if durable:
        fsync_folder(path.parent)


def _replace(source: Path, target: Path) -> None:
    for attempt in range(_REPLACE_TRIES):
        try:
            source.replace(target)
            return
        except PermissionError:
            if os.name != "nt" or attempt == _REPLACE_TRIES - 1:
                raise
            from core.clock import SystemClock

            SystemClock().sleep(0.05 * (attempt + 1))


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float = 10.0) -> Iterator[None]:
    """Hold the sidecar lock `<path>.lock`. Re-entrant per call site is not supported: take it once.

    Raises StateLocked, naming the file, when another process holds it longer than `timeout_s`.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock: Any = FileLock(f"{path}.lock", timeout=timeout_s)
    try:
        lock.acquire()
    except Timeout as error:
        raise StateLocked(f"{path.name} has been locked by another process for {timeout_s:g} s") from error
    try:
        yield
    finally:
        lock.release()
