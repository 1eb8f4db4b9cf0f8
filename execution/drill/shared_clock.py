"""A stepped clock that several processes share: it moves when one of them sleeps or sets it."""

from __future__ import annotations

import mmap
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

_LAYOUT = struct.Struct("<qq")  # microseconds since 1970, and since the clock was made
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class SharedClock:
    """core.clock.Clock in a file of 16 bytes. Make it once with `start_at`, open it elsewhere without."""

    def __init__(self, path: Path, start_at: datetime | None = None) -> None:
        if start_at is not None:
            path.write_bytes(_LAYOUT.pack((start_at - _EPOCH) // _MICROSECOND, 0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _LAYOUT.size)

    def now(self) -> datetime:
        return _EPOCH + self._read()[0] * _MICROSECOND

    def monotonic(self) -> float:
        return self._read()[1] / 1e6

    def sleep(self, seconds: float) -> None:
        now, elapsed = self._read()
        step = max(0, round(seconds * 1e6))
        self._write(now + step, elapsed + step)

    def set(self, to: datetime) -> None:
        """Jump to an instant; never back."""
        now, elapsed = self._read()
        step = max(0, (to - _EPOCH) // _MICROSECOND - now)
        self._write(now + step, elapsed + step)

    def close(self) -> None:
        self._shared.close()

    def _read(self) -> tuple[int, int]:
        now, elapsed = _LAYOUT.unpack(self._shared[: _LAYOUT.size])
        return now, elapsed

    def _write(self, now: int, elapsed: int) -> None:
        self._shared[: _LAYOUT.size] = _LAYOUT.pack(now, elapsed)
