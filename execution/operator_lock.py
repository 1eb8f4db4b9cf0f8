"""One action of an operator at a time on this home; the second terminal is told who, where, since when and what.

The lock is the operating system's: it ends with its process, however that ends. The file beside it only tells.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from core import logs
from core.clock import Clock
from core.errors import AlreadyRunning, StateLocked
from core.files import locked, write_atomic

_WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class Operator:
    """Who does what. `since` is UTC."""

    what: str
    user: str
    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"{self.what} by {self.user} on {self.host}, pid {self.pid}, since {self.since}"


def this_operator(what: str, clock: Clock) -> Operator:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user on this system: a container, a service
        user = "unknown"
    return Operator(what, user, socket.gethostname(), os.getpid(), f"{clock.now():%Y-%m-%dT%H:%M:%SZ}")


@contextmanager
def operator_action(lock: Path, clock: Clock, what: str) -> Iterator[Operator]:
    """Hold `<lock>.lock` while the action lasts. Raises AlreadyRunning ACTION_RUNNING naming the holder."""
    me = this_operator(what, clock)
    told = lock.with_name(f"{lock.name}.json")
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(lock, timeout_s=_WAIT_S))
        except StateLocked as error:
            holder = _read(told)
            logs.event("action_refused", code="ACTION_RUNNING", what=what, holder=str(holder))
            raise AlreadyRunning(
                f"{what} has to wait: {'another action' if holder is None else holder} is under way",
                code="ACTION_RUNNING", advice="wait until it has ended; if it hangs, end that process",
            ) from error  # fmt: skip
        with contextlib.suppress(OSError):  # only tells; a full disk must not keep the operator from acting
            write_atomic(told, json.dumps(asdict(me)).encode(), durable=False)
        try:
            yield me
        finally:
            with contextlib.suppress(OSError):
                told.unlink()


def _read(told: Path) -> Operator | None:
    try:
        return Operator(**json.loads(told.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
