"""What was asked and what came back, word for word but masked: logs/llm/<day>.jsonl, for people who wonder why."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import logs
from core.canonical import iso_utc
from core.clock import Clock
from core.market_calendar import NEW_YORK
from core.secrets import mask_secrets

FOLDER = "llm"
_MOST = 65_536  # characters of each text


@dataclass(frozen=True, slots=True)
class Raw:
    """One call. `reply`: its bytes, empty when none came."""

    request_sha256: str
    purpose: str
    model: str
    code: str
    request: Mapping[str, Any]
    reply: bytes


def keep(folder: Path, clock: Clock, raw: Raw) -> None:
    """One line more. Never raises for a disk that does not take it: the audit is the record, this is a log."""
    now = clock.now()
    row = {
        "at": iso_utc(now), "request_sha256": raw.request_sha256, "purpose": str(raw.purpose), "model": raw.model,
        "code": raw.code, "system": _masked(raw.request["system"]), "user": _masked(raw.request["user"]),
        "reply": _masked(raw.reply.decode("utf-8", "replace")),
    }  # fmt: skip
    path = folder / FOLDER / f"{now.astimezone(NEW_YORK).date()}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
        try:
            os.write(handle, json.dumps(row, separators=(",", ":")).encode() + b"\n")
        finally:
            os.close(handle)
    except OSError as error:
        logs.event("llm_raw_lost", code="LLM_RAW_LOST", detail=str(error.strerror or error))
        logs.count("llm_raw_lost")


def _masked(text: str) -> str:
    shown = mask_secrets(text)
    return shown if len(shown) <= _MOST else shown[:_MOST] + " [cut]"
