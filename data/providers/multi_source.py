"""The ordered fallback over vendors, and the counts of how each of them does.

A whole update comes from one vendor or the next one is tried: two sources are never spliced in one series. When all
fail the answer is a refusal that names each vendor's reason; nothing is guessed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from core import logs
from core.clock import Clock
from core.documents import refuse_newer
from core.errors import DataError, StateCorrupt, StateLocked
from core.files import locked, write_atomic
from data.providers.base import DailyProvider, FailureKind, NotSupported, ProviderFailure

T = TypeVar("T")
STATS_FILE = "provider_stats.json"
SCHEMA_VERSION = 1
_SKIP_AFTER = 3  # failures in a row
_SKIP_S = 300.0
_DAYS_KEPT = 8


class ProviderStats:
    """state/provider_stats.json, added to by every process under its lock. Telemetry: it never fails an update."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._pending: dict[str, dict[str, Any]] = {}
        self._guard = threading.Lock()

    def record(self, provider: str, failure: ProviderFailure | None) -> None:
        """Kept in memory until `flush`. An unknown symbol is an answer, so it counts as a success."""
        with self._guard:
            entry = self._pending.setdefault(provider, _empty())
            day = self._clock.now().date().isoformat()
            counts = entry["days"].setdefault(day, {"success": 0, "failure": 0})
            if failure is None or failure.kind is FailureKind.UNKNOWN_SYMBOL:
                entry["success"] += 1
                counts["success"] += 1
                entry["last_success_at"] = _stamp(self._clock.now())
                return
            entry["failure"] += 1
            counts["failure"] += 1
            entry["kinds"][failure.kind] = entry["kinds"].get(failure.kind, 0) + 1
            entry["last_error"] = str(failure)
            entry["last_failure_at"] = _stamp(self._clock.now())

    def flush(self) -> None:
        """Add the counts to the file. A damaged file is put aside; a locked one is tried again next time."""
        with self._guard:
            if not self._pending:
                return
            try:
                with locked(self._path):
                    self._add()
            except (StateLocked, OSError):
                return
            self._pending = {}

    def _add(self) -> None:
        try:
            known = read_stats(self._path)
        except StateCorrupt as error:
            if error.code == "STATE_NEWER":
                return  # counts of this process are lost; the newer program's are not
            self._path.replace(_free(self._path.with_suffix(".damaged")))
            logs.event("state_set_aside", file=self._path.name, code="STATE_CORRUPT")
            known = {}
        for name, fresh in self._pending.items():
            entry = {**_empty(), **known.get(name, {})}
            kinds = dict(entry["kinds"])
            for kind, count in fresh["kinds"].items():
                kinds[str(kind)] = kinds.get(str(kind), 0) + count
            said = {k: v for k, v in fresh.items() if k.startswith("last_") and v is not None}
            counts = {k: entry[k] + fresh[k] for k in ("success", "failure")}
            days = _added(entry["days"], fresh["days"])
            known[name] = {**entry, **said, **counts, "kinds": kinds, "days": days}
        document = {"schema_version": SCHEMA_VERSION, "providers": known}
        write_atomic(self._path, json.dumps(document, indent=1, sort_keys=True).encode(), durable=False)


def _empty() -> dict[str, Any]:
    return {
        "success": 0, "failure": 0, "kinds": {}, "last_error": None, "last_success_at": None, "last_failure_at": None,
        "days": {},
    }  # fmt: skip


def _added(before: Any, fresh: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Counts by UTC day, the last _DAYS_KEPT of them: how a vendor does now, which a sum over years would hide."""
    days: dict[str, dict[str, int]] = dict(before) if isinstance(before, dict) else {}
    for day, counts in fresh.items():
        old = days.get(day)
        known = {k: n for k, n in old.items() if type(n) is int} if isinstance(old, dict) else {}
        days[day] = {name: known.get(name, 0) + counts[name] for name in ("success", "failure")}
    return dict(sorted(days.items())[-_DAYS_KEPT:])


def _free(path: Path) -> Path:
    """`path`, or with a number behind it when an earlier one is kept there."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def read_stats(path: Path) -> dict[str, dict[str, Any]]:
    """provider -> counts. {} when nothing was recorded yet. Raises StateCorrupt for a damaged file."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StateCorrupt(f"{path.name} is damaged: {error}", advice=f"delete {path}") from None
    refuse_newer(path.name, document, SCHEMA_VERSION)
    providers = document.get("providers") if isinstance(document, dict) else None
    if not isinstance(providers, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise StateCorrupt(f"{path.name} has not the expected shape", advice=f"delete {path}")
    for entry in providers.values():
        counted = isinstance(entry, dict) and all(type(entry.get(k)) is int for k in ("success", "failure"))
        if not counted or not isinstance(entry.get("kinds"), dict):
            raise StateCorrupt(f"{path.name} has not the expected shape", advice=f"delete {path}")
    return dict(providers)


def get_provider_stats() -> dict[str, dict[str, Any]]:
    """provider -> {success, failure, success_rate (0..1, None = never asked), last_error, kinds …}, all processes."""
    from core.paths import home

    answer: dict[str, dict[str, Any]] = {}
    for name, entry in sorted(read_stats(home().state / STATS_FILE).items()):
        asked = entry["success"] + entry["failure"]
        answer[name] = {**entry, "success_rate": entry["success"] / asked if asked else None}
    return answer


class MultiSource:
    """Vendors in order of preference. Not thread-safe; one per process."""

    def __init__(self, providers: Sequence[DailyProvider], stats: ProviderStats, clock: Clock) -> None:
        if len({provider.simulated for provider in providers}) > 1:
            raise ValueError("simulated and real vendors must not stand in one list")
        self.providers = tuple(providers)
        self._stats = stats
        self._clock = clock
        self._in_a_row: dict[str, int] = {}
        self._skip_until: dict[str, float] = {}

    def ask(self, provider: DailyProvider, question: Callable[[], T]) -> T:
        """One vendor call, counted. What is not supported was not asked, and is not counted."""
        try:
            answer = question()
        except ProviderFailure as failure:
            self._stats.record(provider.name, failure)
            raise
        self._stats.record(provider.name, None)
        return answer

    def note(self, provider: DailyProvider, failure: ProviderFailure | None) -> None:
        """Count one answer that did not come through `ask`."""
        self._stats.record(provider.name, failure)

    def flush(self) -> None:
        """Write the counts to disk; `attempt` does it by itself."""
        self._stats.flush()

    def attempt(self, work: Callable[[DailyProvider], T]) -> tuple[DailyProvider, T, tuple[str, ...]]:
        """Do `work` wholly with the first vendor that can: (vendor, result, why the ones before it could not).

        A vendor that failed three times in a row is left alone for five minutes. Raises DataError
        (ALL_PROVIDERS_FAILED) with every vendor's reason. Anything but a DataError passes through.
        """
        reasons: list[str] = []
        try:
            for provider in self.providers:
                resting_s = self._skip_until.get(provider.name, 0.0) - self._clock.monotonic()
                if resting_s > 0:
                    reasons.append(f"{provider.name}: skipped after {_SKIP_AFTER} failures, {resting_s:.0f} s left")
                    continue
                try:
                    result = work(provider)
                except DataError as error:
                    reasons.append(_reason(provider, error))
                    if not isinstance(error, NotSupported):
                        self._failed(provider)
                    continue
                self._in_a_row[provider.name] = 0
                return provider, result, tuple(reasons)
        finally:
            self._stats.flush()
        named = "; ".join(reasons) or "no data provider is configured"
        raise DataError(f"no provider could deliver: {named}", code="ALL_PROVIDERS_FAILED")

    def _failed(self, provider: DailyProvider) -> None:
        count = self._in_a_row.get(provider.name, 0) + 1
        self._in_a_row[provider.name] = count
        if count >= _SKIP_AFTER:
            self._skip_until[provider.name] = self._clock.monotonic() + _SKIP_S
            self._in_a_row[provider.name] = 0


def _reason(provider: DailyProvider, error: DataError) -> str:
    text = str(error).removeprefix(f"{provider.name}: ")
    if isinstance(error, ProviderFailure):
        return f"{provider.name}: {text}"  # begins with its kind
    return f"{provider.name}: {error.code}: {text}"
