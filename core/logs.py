"""Telemetry for people: one JSON object a line, masked. It may rotate and it may fail; the journal is the record.

Files begin anew with each New York day and above a size, see core/log_rotation.py.

`event("order_refused", code="VIX_UNKNOWN", symbol="AAPL")`: noun then past verb, units in keys, a stable `code`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import log_rotation
from core.canonical import iso_utc, plain
from core.clock import Clock, SystemClock
from core.log_rotation import Rotation
from core.paths import Home, home
from core.secrets import SecretsMaskingFilter, mask_secrets, mask_values

_FILES = ("events.jsonl", "trades.jsonl", "errors.jsonl", "cognitive_decisions.jsonl")
_OURS = frozenset({"at", "event", "run_id", "mode"})

CounterKey = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class _Target:
    folder: Path
    clock: Clock
    run_id: str
    mode: str


_target: _Target | None = None
_rotation = Rotation()
_counts: Counter[CounterKey] = Counter()
_counts_lock = threading.Lock()


def configure(home: Home, clock: Clock, *, run_id: str, mode: str, rotation: Rotation | None = None) -> None:
    """Say where lines go and what each one carries. Before this, events are dropped and errors still written."""
    global _target, _rotation
    _target = _Target(home.logs, clock, run_id, mode)
    _rotation = rotation or _rotation
    rotate()
    root = logging.getLogger()
    if not any(isinstance(handler, _LibraryHandler) for handler in root.handlers):
        root.addHandler(_LibraryHandler(logging.WARNING))  # else Python prints library warnings to stderr, unmasked


def rotate() -> list[Path]:
    """Let every log file that is due begin anew; the new names. Called at each start and once a minute by the runner.

    Never raises: a file that cannot be renamed goes on, and is tried again the next day or above its size.
    """
    return [] if _target is None else log_rotation.rotate(_target.folder, _FILES, _rotation)


@contextlib.contextmanager
def aside(home: Home, clock: Clock, *, run_id: str, mode: str) -> Iterator[None]:
    """Lines go to another home until the block ends: a drill's errors are none of the operator's."""
    global _target
    before = _target
    configure(home, clock, run_id=run_id, mode=mode)
    try:
        yield
    finally:
        _target = before


def event(name: str, /, **fields: Any) -> None:
    """One line in logs/events.jsonl. Never raises."""
    _emit("events.jsonl", _target, name, fields)


def trade_event(name: str, /, **fields: Any) -> None:
    """One line in logs/trades.jsonl. Never raises."""
    _emit("trades.jsonl", _target, name, fields)


def decision_event(name: str, /, **fields: Any) -> None:
    """One line in logs/cognitive_decisions.jsonl. Never raises."""
    _emit("cognitive_decisions.jsonl", _target, name, fields)


def error_event(name: str, /, **fields: Any) -> None:
    """One line in logs/errors.jsonl, also when nobody called `configure`. Never raises."""
    target = _target or _Target(home().logs, SystemClock(), "", "")
    _emit("errors.jsonl", target, name, fields)


def count(metric: str, n: int = 1, /, **labels: Any) -> None:
    """Add to an in-process counter; labels tell series of one metric apart."""
    key = (metric, tuple(sorted((name, str(value)) for name, value in labels.items())))
    with _counts_lock:
        _counts[key] += n


def counters() -> Mapping[CounterKey, int]:
    """A copy: {(metric, ((label, value), …)): count}."""
    with _counts_lock:
        return dict(_counts)


def _emit(file: str, target: _Target | None, name: str, fields: Mapping[str, Any]) -> None:
    if target is None:
        return
    try:
        line = _line(target, name, fields)
        target.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(
            target.folder / file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644
        )
        try:
            os.write(handle, line)  # one write: lines of several processes do not mix
        finally:
            os.close(handle)
    except (OSError, ValueError, TypeError, RecursionError, AttributeError):
        count("log_lines_lost", file=file)


def _line(target: _Target, name: str, fields: Mapping[str, Any]) -> bytes:
    row: dict[str, Any] = {
        "at": iso_utc(target.clock.now()), "event": name, "run_id": target.run_id, "mode": target.mode,
    }  # fmt: skip
    for key, value in fields.items():
        row[f"{key}_" if key in _OURS else key] = _tolerant(value)
    return json.dumps(mask_values(row), separators=(",", ":")).encode() + b"\n"


def _tolerant(value: Any) -> Any:
    """A log line takes what the journal would refuse: repr for the unknown, text for NaN."""
    try:
        made = plain(value)
        json.dumps(made, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return repr(value)
    return made


class _LibraryHandler(logging.Handler):
    """What third-party libraries log at WARNING and above, as masked events."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.addFilter(SecretsMaskingFilter())

    def emit(self, record: logging.LogRecord) -> None:
        event(
            "library_warned", logger=record.name, level=record.levelname, message=mask_secrets(str(record.msg)),
            traceback=record.exc_text,
        )  # fmt: skip
