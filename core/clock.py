"""The one place that asks the system what time it is.

Everything else is handed a Clock. Instants are aware UTC; durations are measured on `monotonic`,
because wall time may step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Aware UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds, for durations only."""
        ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))


_TINY_S = 1e-6  # below a microsecond a stepped clock does not move


class BeatingClock:
    """Another clock whose `sleep` says every now and then that the process is alive: `beat` must be cheap."""

    def __init__(self, base: Clock, beat: Callable[[], None], *, every_s: float = 0.2) -> None:
        self._base, self._beat, self._every_s = base, beat, every_s

    def now(self) -> datetime:
        return self._base.now()

    def monotonic(self) -> float:
        return self._base.monotonic()

    def sleep(self, seconds: float) -> None:
        end = self._base.monotonic() + seconds
        self._beat()
        while (left := end - self._base.monotonic()) > _TINY_S:
            self._base.sleep(min(left, self._every_s))
            self._beat()


class OffsetClock:
    """Starts at `start_at` and runs on with the machine: `--as-of`."""

    def __init__(self, start_at: datetime, base: Clock | None = None) -> None:
        self._base = base or SystemClock()
        self._start_at = start_at.astimezone(UTC)
        self._zero = self._base.monotonic()

    def now(self) -> datetime:
        return self._start_at + timedelta(seconds=self._base.monotonic() - self._zero)

    def monotonic(self) -> float:
        return self._base.monotonic()

    def sleep(self, seconds: float) -> None:
        self._base.sleep(seconds)


class SteppedClock:
    """Moves only when told: replays and tests. `sleep` moves it, so nothing ever waits."""

    def __init__(self, start_at: datetime) -> None:
        self._now = start_at.astimezone(UTC)
        self._elapsed = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        self.advance(timedelta(seconds=max(0.0, seconds)))

    def advance(self, by: timedelta) -> None:
        self._now += by
        self._elapsed += by.total_seconds()

    def set(self, to: datetime) -> None:
        """Jump to an instant; a jump back changes `now` but never lets `monotonic` fall."""
        to = to.astimezone(UTC)
        self._elapsed += max(0.0, (to - self._now).total_seconds())
        self._now = to
