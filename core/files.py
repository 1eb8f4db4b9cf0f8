"""Atomic writes and locks that behave the same on Linux, macOS and Windows.

Source of the pattern: write a temporary file in the same folder, flush, fsync, os.replace, fsync the folder
(where folders can be opened). A reader sees the old document or the new one, never a mixture.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from core.clock import SystemClock
from core.errors import StateLocked

_FILES_ARE_HELD = os.name == "nt"  # there a virus scanner or an indexer may hold the target for a moment
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.02  # between two looks at a lock that another process holds
_NO_FLOCK = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})  # some network file systems
_REPLACE_TRIES = 5


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


def clear_temporary(*targets: Path) -> None:
    """Remove what a `write_atomic` that was killed left beside these files. Only under the lock of their one writer."""
    for folder in {target.parent for target in targets}:
        names = [f".{target.name}." for target in targets if target.parent == folder]
        with contextlib.suppress(OSError):  # no folder, nothing left in it
            for found in list(os.scandir(folder)):
                if found.name.endswith(".tmp") and any(found.name.startswith(name) for name in names):
                    Path(found.path).unlink()


def _replace(source: Path, target: Path) -> None:
    for attempt in range(_REPLACE_TRIES):
        try:
            source.replace(target)
            return
        except PermissionError:
            if not _FILES_ARE_HELD or attempt == _REPLACE_TRIES - 1:
                raise
            SystemClock().sleep(0.05 * (attempt + 1))


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float = 10.0) -> Iterator[None]:
    """Hold the sidecar lock `<path>.lock`. Re-entrant per call site is not supported: take it once.

    Raises StateLocked, naming the file, when another process holds it longer than `timeout_s`.
    """
    name = f"{path}.lock"
    try:
        release = _acquire(name, timeout_s)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        release = _acquire(name, timeout_s)
    if release is None:
        raise StateLocked(f"{path.name} has been locked by another process for {timeout_s:g} s")
    try:
        yield
    finally:
        release()


def _acquire(name: str, timeout_s: float) -> Callable[[], None] | None:
    """What gives the lock back; None when another process kept it. The operating system's own lock, which a killed
    process does not leave behind. The same one that filelock takes, without its 150 µs: two of these lie in the way of
    every order."""
    if sys.platform == "win32":
        return _acquire_portable(name, timeout_s)
    import fcntl

    clock = SystemClock()
    until, pause_s = clock.monotonic() + timeout_s, _FIRST_PAUSE_S
    while True:
        handle = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_nlink:  # else somebody removed the file meanwhile, and locks another one
                return partial(_release, handle)
        except BlockingIOError:
            pass
        except OSError as error:
            os.close(handle)
            if error.errno in _NO_FLOCK:
                return _acquire_portable(name, timeout_s)
            raise
        os.close(handle)
        if clock.monotonic() >= until:
            return None
        clock.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _release(handle: int) -> None:
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_UN)  # a forked child may hold a copy of the handle: closing would not be enough
    os.close(handle)


def _acquire_portable(name: str, timeout_s: float) -> Callable[[], None] | None:
    from filelock import FileLock, Timeout

    lock: Any = FileLock(name, timeout=timeout_s)
    try:
        lock.acquire()
    except Timeout:
        return None
    return partial(lock.release)
