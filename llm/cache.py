"""Answers that were paid for, one file each in cache/llm: asked again within their time they cost nothing.

The key is the hash of model, prompt, schema, data hash and session, so an answer to another question cannot be hit. The
age counts hours of days that have a session: Friday's answer is as good on Monday before the open. In a replay any age
is good, and nothing else is asked. Deletable at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from core import logs
from core.canonical import canonical_json, iso_utc
from core.clock import Clock
from core.errors import DataError
from core.files import write_atomic
from core.market_calendar import NEW_YORK, MarketCalendar

SCHEMA_VERSION = 1
_OLDEST_DAYS = 400  # the longest time to live of the settings


def key_of(parts: Mapping[str, Any]) -> str:
    """SHA-256 of everything that makes the question what it is."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One answer as it was given."""

    text: str
    model: str
    usage: Mapping[str, int] | None
    latency_ms: float
    stored_at: datetime


class AnswerCache:
    """`ttl_hours` of session days."""

    def __init__(self, folder: Path, clock: Clock, calendar: MarketCalendar, *, ttl_hours: float) -> None:
        self._folder, self._clock, self._calendar = folder, clock, calendar
        self._ttl = timedelta(hours=ttl_hours)

    def get(self, key: str, *, any_age: bool = False) -> Kept | None:
        """None for absent, expired, damaged, or stamped later than now. Never raises."""
        path = self._path(key)
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        try:
            kept = _kept(json.loads(raw), key)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            logs.event("llm_cache_damaged", code="LLM_CACHE_DAMAGED", file=path.name, detail=str(error))
            logs.count("llm_cache_damaged")
            return None
        now = self._clock.now()
        fresh = kept.stored_at <= now and self._age(kept.stored_at, now) <= self._ttl
        return kept if any_age or fresh else None

    def put(self, key: str, kept: Kept, about: Mapping[str, Any]) -> None:
        """`about` is for people: who asked, of which session. A cache that cannot be written is told, no more."""
        document = {
            **about, "schema_version": SCHEMA_VERSION, "key": key, "text": kept.text, "model": kept.model,
            "usage": kept.usage, "latency_ms": kept.latency_ms, "stored_at": iso_utc(kept.stored_at),
        }  # fmt: skip
        document["sum"] = key_of(document)
        try:
            write_atomic(self._path(key), canonical_json(document).encode(), durable=False)
        except OSError as error:
            logs.event("llm_cache_unwritable", code="LLM_CACHE_UNWRITABLE", detail=str(error.strerror or error))
            logs.count("llm_cache_unwritable")

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"

    def _age(self, start: datetime, end: datetime) -> timedelta:
        """The part of the time between that lies on New York days with a session."""
        if end - start > timedelta(days=2 * _OLDEST_DAYS):
            return end - start
        day, last, found = start.astimezone(NEW_YORK).date(), end.astimezone(NEW_YORK).date(), timedelta(0)
        while day <= last:
            if self._has_session(day):
                found += min(end, _midnight(day + timedelta(days=1))) - max(start, _midnight(day))
            day += timedelta(days=1)
        return found

    def _has_session(self, day: date) -> bool:
        try:
            return self._calendar.is_session(day)
        except DataError:
            return True  # not known: the time counts


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(0), NEW_YORK).astimezone(UTC)


def _kept(document: dict[str, Any], key: str) -> Kept:
    if document["schema_version"] != SCHEMA_VERSION or document["key"] != key:
        raise ValueError("another key, or another version")
    if document.pop("sum") != key_of(document):
        raise ValueError("it is not as it was written")
    return Kept(
        text=str(document["text"]), model=str(document["model"]), usage=document["usage"],
        latency_ms=float(document["latency_ms"]), stored_at=datetime.fromisoformat(document["stored_at"]),
    )  # fmt: skip
