"""One spelling of a value as JSON: sorted keys, no spaces, ASCII. The journal hashes it and --json prints it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any


def iso_utc(value: datetime) -> str:
    """2024-03-05T14:35:00.000000Z; always six decimals, so that text order is time order. Naive raises ValueError."""
    if value.utcoffset() is None:
        raise ValueError(f"an instant must be aware, was {value!r}")
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def plain(value: Any) -> Any:
    """What JSON can hold: Decimal -> str, instant -> ISO Z, date -> ISO, enum -> its value, dataclass -> dict,
    set -> sorted list.

    Raises TypeError for anything else that JSON has no word for: a record must not hold a repr by accident.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return _plain_other(value)


def _plain_other(value: Any) -> Any:
    if isinstance(value, Decimal | PurePath):
        return str(value)
    if isinstance(value, datetime):
        return iso_utc(value)
    if isinstance(value, date):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted((plain(item) for item in value), key=canonical_json)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays, without importing numpy
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _key(value: Any) -> str:
    made = plain(value)
    return made if isinstance(made, str) else canonical_json(made)


def canonical_json(value: Any) -> str:
    """Same value, same text. NaN and infinity raise ValueError: JSON has no word for them."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
