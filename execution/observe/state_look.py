"""The state documents as they lie on the disk: each is read whole, and small. What makes no sense is not known.

A function gives the value, or the reason code of why there is none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from core.clock import Clock
from core.errors import StateCorrupt
from execution.heartbeat import BEAT_FILE, read_beat
from execution.noted import NOTE_FILE, read_note
from execution.observe.facts import AlertFacts, ProviderFacts, RunnerFacts, StartsFacts
from execution.observe.logs_look import instant, short
from execution.starts import crashes, read_starts

_CLOCK_TOLERANCE_S = 2.0  # a beat is stamped in whole seconds
_PROVIDERS_MOST, _ALERTS_MOST = 50, 50
PROVIDER_DAYS = 7


class RunnerLook:
    """runner.json, and how long its counter has stood still.

    The stamp in the file is the age at the first look. From the second look on, our own monotonic clock bounds it: a
    counter that moved since the last look is no older than that look, one that did not is older. So a wall clock that
    is set wrong hides no standstill for long, and makes none.
    """

    def __init__(self, state: Path, clock: Clock) -> None:
        self._file, self._clock = state / BEAT_FILE, clock
        self._last: tuple[str, int] | None = None
        self._looked_at = 0.0
        self._least_s = 0.0  # the counter has surely stood still for this long

    def look(self) -> RunnerFacts | str:
        try:
            beat = read_beat(self._file)
        except RecursionError:  # nested without end
            beat = None
        if beat is None:
            return "RUNNER_FILE_DAMAGED" if self._file.exists() else "RUNNER_ABSENT"
        return RunnerFacts(
            pid=beat.pid, host=short(beat.host), started_at=short(beat.started_at), doing=short(beat.doing),
            beats=beat.beats, nonce=beat.nonce, beat_age_s=self._age_s((beat.nonce, beat.beats)), ended=beat.ended,
            stopped=beat.stopped, watched=beat.watchdog is not None,
        )  # fmt: skip

    def _age_s(self, counter: tuple[str, int]) -> float | None:
        now, told = self._clock.monotonic(), self._stamped_age_s()
        elapsed = max(0.0, now - self._looked_at)
        first, moved = self._last is None, counter != self._last
        self._last, self._looked_at = counter, now
        if first:
            return told
        if moved:
            self._least_s = 0.0
            return elapsed if told is None else min(told, elapsed)
        self._least_s += elapsed
        return self._least_s if told is None else max(told, self._least_s)

    def _stamped_age_s(self) -> float | None:
        try:
            stamp = json.loads(self._file.read_bytes()).get("beat_at")
        except (OSError, ValueError, AttributeError, RecursionError):
            return None
        at = instant(stamp)
        age_s = None if at is None else (self._clock.now() - at).total_seconds()
        return None if age_s is None or age_s < -_CLOCK_TOLERANCE_S else max(0.0, age_s)


def starts(state: Path, now: datetime, within: timedelta) -> StartsFacts | str:
    file = state / "starts.json"
    try:
        found = read_starts(file)
        if not file.exists():
            return "STARTS_ABSENT"
        under_way = bool(found.rows) and found.rows[-1].end is None  # or killed: its beat tells
        over = replace(found, rows=found.rows[:-1]) if under_way else found
        return StartsFacts(crashes=crashes(over, now, within), stopped_at=found.stopped_at)
    except (StateCorrupt, OSError, RecursionError):
        return "STARTS_DAMAGED"


def noted_seq(logs: Path) -> int | None:
    try:
        head = read_note(logs / NOTE_FILE)
    except RecursionError:
        return None
    return None if head is None else head.seq


def providers(state: Path, today: date) -> tuple[ProviderFacts, ...] | str:
    """Every vendor with what it did in the last PROVIDER_DAYS days."""
    try:
        document = json.loads((state / "provider_stats.json").read_bytes())
        rows = sorted(document["providers"].items())[:_PROVIDERS_MOST]
        return tuple(_provider(name, row, today) for name, row in rows)
    except FileNotFoundError:
        return "PROVIDERS_NEVER_ASKED"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "PROVIDER_STATS_DAMAGED"


def _provider(name: str, row: Any, today: date) -> ProviderFacts:
    first = (today - timedelta(days=PROVIDER_DAYS - 1)).isoformat()
    recent = [counts for day, counts in row.get("days", {}).items() if first <= day <= today.isoformat()]
    asked = sum(int(c["success"]) + int(c["failure"]) for c in recent)
    good = sum(int(c["success"]) for c in recent)
    return ProviderFacts(
        name=short(name), success_rate=good / asked if asked else None, asked=asked,
        last_success_at=_text(row.get("last_success_at")), last_failure_at=_text(row.get("last_failure_at")),
        last_error=_text(row.get("last_error")),
    )  # fmt: skip


def _text(value: object) -> str | None:
    return None if value is None else short(value)


Alerts = tuple[AlertFacts, ...] | str
"""The alerts that stand, or the reason code of why they are not known."""


def alerts(state: Path) -> Alerts:
    """Worst first, then oldest; at most _ALERTS_MOST."""
    try:
        rows = json.loads((state / "alerts.json").read_bytes())["entries"]
        found = [_alert(row) for row in rows if row["raised_at"] is not None]
    except FileNotFoundError:
        return "ALERTS_ABSENT"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "ALERTS_DAMAGED"
    return tuple(sorted(found, key=lambda a: (a.severity != "critical", a.since, a.name))[:_ALERTS_MOST])


def _alert(row: Any) -> AlertFacts:
    since = instant(row["since"])
    if since is None:
        raise ValueError("an alert without an instant")
    return AlertFacts(
        name=short(row["name"]), severity=short(row["severity"]), since=since, words=short(row["words"]),
        action=short(row["action"]), acknowledged=row["acknowledged_at"] is not None,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class LlmSpend:
    """Of one New York day."""

    cost_usd: Decimal
    tokens: int
    calls: int
    avg_latency_ms: float | None


def llm_spend(state: Path, today: date) -> LlmSpend | str:
    """What llm/token_budget.py wrote, checked by its sums. A day that it has not begun yet has nothing spent; one that
    it has begun and this clock has not reached goes on."""
    file, calls = state / "llm_token_usage.json", state / "llm_calls.jsonl"
    try:
        row = json.loads(file.read_bytes())
        told = calls.stat().st_size
        day, spend = date.fromisoformat(row["day"]), _llm_spend(row)
        if row["schema_version"] != 1:
            return "STATE_NEWER"
        if row["audit"]["bytes"] != told:  # a writer is between its two files, or was killed there
            return "LLM_BUDGET_BEHIND"
    except FileNotFoundError:
        return "LLM_BUDGET_LOST" if file.exists() or calls.exists() else "LLM_ABSENT"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return "LLM_BUDGET_DAMAGED"
    return spend if day >= today else LlmSpend(Decimal(0), 0, 0, None)


def _llm_spend(row: Any) -> LlmSpend:
    parts = [row["settled"], *row["reserved"].values()]
    usd = sum((Decimal(part["usd"]) for part in parts), Decimal(0))
    tokens, calls, answered = sum(int(part["tokens"]) for part in parts), row["calls_today"], row["answered_today"]
    if usd != Decimal(row["cost_usd_today"]) or tokens != row["used_today"] or not usd.is_finite() or usd < 0:
        raise ValueError("the totals are not the sum of the parts")
    if type(calls) is not int or type(answered) is not int or min(calls, answered, tokens) < 0:
        raise ValueError("a count is none")
    return LlmSpend(usd, tokens, calls, float(row["latency_ms_sum"]) / answered if answered else None)


def disk_free_bytes(folder: Path, usage: Callable[[Path], Any] = shutil.disk_usage) -> int | None:
    try:
        return int(usage(folder).free)
    except OSError:
        return None
