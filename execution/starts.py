"""How often the runner was started and did not end by itself: a supervisor must not restart a bug for ever.

state/starts.json holds the last starts, each with how it ended. A crash (an exception that is no KobeError, too many
bugs, or no end at all: killed) makes the next start wait before it trades, longer each time; too many of them in a
while and the runner stays down, with one alert, until a person removes the file. A refusal (broker unreachable, kill
switch) is no crash. The wait comes after recovery: what a crash left open is settled and protected at once.
Written only by the process that holds the runner's lock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from core import logs
from core.clock import Clock
from core.documents import refuse_newer
from core.errors import KobeError, StateCorrupt, TradingHalted
from core.files import write_atomic

CLEAN, REFUSED, CRASHED = "clean", "refused", "crashed"
SCHEMA_VERSION: Final = 1
_KEPT = 50
_PAUSE_FIRST_S, _PAUSE_MOST_S = 5.0, 300.0


class CrashLoop(TradingHalted):
    default_code = "CRASH_LOOP"
    default_advice = "read logs/errors.jsonl, then remove state/starts.json and start again"


@dataclass(frozen=True, slots=True)
class Start:
    at: str  # ISO, UTC
    end: str | None = None  # None: still running, or killed


@dataclass(frozen=True, slots=True)
class Starts:
    rows: tuple[Start, ...] = ()
    stopped_at: str | None = None


def crashes(starts: Starts, now: datetime, within: timedelta) -> int:
    """Starts of the last while that ended in a crash or not at all. A start in the future (clock set back) counts."""
    ends = [s for s in starts.rows if s.end in (None, CRASHED)]
    return sum(now - datetime.fromisoformat(s.at) <= within for s in ends)


def pause_s(crashed: int) -> float:
    """How long the next start waits: nothing after none, then 5, 10, 20 … 300 s."""
    return 0.0 if crashed == 0 else min(_PAUSE_MOST_S, _PAUSE_FIRST_S * float(2 ** (crashed - 1)))


@dataclass
class Run:
    """The start under way: the crashes before it, and how it ends."""

    crashed: int
    end: str = CRASHED  # what anything unforeseen leaves behind

    @property
    def pause_s(self) -> float:
        return pause_s(self.crashed)

    def ended(self, code: int) -> None:
        """A run that returns: its exit code."""
        self.end = CLEAN if code == 0 else CRASHED


@contextmanager
def counted_start(path: Path, clock: Clock, *, crashes_max: int, within: timedelta) -> Iterator[Run]:
    """Around a run: refuses after `crashes_max` crashes, and writes how this one ended.

    Raises CrashLoop, and StateCorrupt for a damaged file.
    """
    before = read_starts(path)
    crashed = crashes(before, clock.now(), within)
    if before.stopped_at is not None:
        raise CrashLoop(f"the runner crashed again and again and was stopped at {before.stopped_at}")
    if crashed >= crashes_max:
        _write(path, replace(before, stopped_at=_stamp(clock)))
        logs.error_event("runner_stopped", code=CrashLoop.default_code, crashes=crashed)
        logs.count("crash_loops")
        raise CrashLoop(f"{crashed} starts in {within.total_seconds() / 60:.0f} minutes ended in a crash")
    rows = (*before.rows, Start(_stamp(clock)))[-_KEPT:]
    _write(path, replace(before, rows=rows))
    run = Run(crashed)
    try:
        yield run
    except (KobeError, KeyboardInterrupt, SystemExit) as error:
        run.end = REFUSED if isinstance(error, KobeError) else CLEAN
        raise
    finally:
        _write(path, replace(before, rows=(*rows[:-1], replace(rows[-1], end=run.end))))


def read_starts(path: Path) -> Starts:
    """Nothing when there is no file. Raises StateCorrupt when it is damaged: an unknown past is no clean one."""
    try:
        document = json.loads(path.read_bytes())
        refuse_newer(path.name, document, SCHEMA_VERSION)
        if document["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {document['schema_version']}")
        rows = tuple(Start(str(row["at"]), row["end"]) for row in document["starts"])
        if any(datetime.fromisoformat(row.at).utcoffset() is None for row in rows):
            raise ValueError("a start without a zone")
        return Starts(rows, document["stopped_at"])
    except FileNotFoundError:
        return Starts()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateCorrupt(
            f"{path.name} is damaged: {error}", advice=f"remove {path} when you know why the runner ended"
        ) from error


def _write(path: Path, starts: Starts) -> None:
    document = {
        "schema_version": SCHEMA_VERSION, "stopped_at": starts.stopped_at, "starts": [asdict(s) for s in starts.rows],
    }  # fmt: skip
    write_atomic(path, json.dumps(document, indent=1).encode() + b"\n")


def _stamp(clock: Clock) -> str:
    return clock.now().astimezone(UTC).isoformat(timespec="seconds")
