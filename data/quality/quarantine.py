"""Symbols whose data nobody believes until a person has looked: state/quarantine.json.

A symbol comes in by itself, with a code and the numbers, and goes out by `scripts/quarantine.py release SYMBOL`.
While it is in, no entry is made in it; what is held is looked after as ever, because an exit needs no opinion.
The document also says what the morning's look at the data came to, per session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

from core.canonical import iso_utc
from core.documents import Document, Schema, read, write
from core.files import locked

FILE: Final = "quarantine.json"
_RELEASES_KEPT = 100


@dataclass(frozen=True, slots=True)
class Held:
    """Why a symbol is in. `code` is the reason code that its verdicts carry."""

    code: str
    session: str  # of the bar that was not believed
    source: str  # whose bar
    detail: str
    since: str  # instant, UTC


def _check(document: Document) -> None:
    symbols = document.get("symbols")
    if not isinstance(symbols, dict):
        raise ValueError("symbols must be an object")
    for symbol, row in symbols.items():
        if not isinstance(row, dict) or set(row) != {"code", "session", "source", "detail", "since"}:
            raise ValueError(f"{symbol} has not the expected fields")
        if not all(isinstance(value, str) for value in row.values()):
            raise ValueError(f"{symbol}: every field must be text")
    released = document.get("released")
    if not isinstance(released, list):
        raise ValueError("released must be a list")
    if not all(isinstance(row, dict) and isinstance(row.get("symbol"), str) for row in released):
        raise ValueError("released: every row must name its symbol")
    if document.get("morning") is not None:
        _check_morning(document["morning"])


def _check_morning(morning: object) -> None:
    """What the next look reads of it: a session that is no date would keep it from ever looking again."""
    if not isinstance(morning, dict):
        raise ValueError("morning must be an object")
    absent = {"session", "source", "second", "code", "compared", "differ"} - set(morning)
    if absent:
        raise ValueError(f"morning lacks {', '.join(sorted(absent))}")
    if not all(isinstance(morning[name], str) for name in ("session", "source", "code")):
        raise ValueError("morning: session, source and code must be text")
    if date.fromisoformat(morning["session"]).isoformat() != morning["session"]:
        raise ValueError("morning: session must be YYYY-MM-DD")


SCHEMA: Final = Schema(1, lambda: {"schema_version": 1, "symbols": {}, "released": [], "morning": None}, _check)


class Quarantine:
    """The document of one home. Raises StateCorrupt when it is damaged: then nothing is known to be clean."""

    def __init__(self, state: Path) -> None:
        self.path = state / FILE

    def held(self) -> dict[str, Held]:
        return {symbol: Held(**row) for symbol, row in sorted(read(self.path, SCHEMA)["symbols"].items())}

    def morning(self) -> Mapping[str, Any] | None:
        """What the last morning's look came to; None when there was none."""
        found: Mapping[str, Any] | None = read(self.path, SCHEMA)["morning"]
        return found

    def put(self, found: Mapping[str, Held], morning: Mapping[str, Any]) -> dict[str, Held]:
        """Add what was found and note the look; those that are new. Who is in already stays with his first reason."""
        with locked(self.path):
            before = read(self.path, SCHEMA)
            new = {symbol: held for symbol, held in sorted(found.items()) if symbol not in before["symbols"]}
            rows = {symbol: asdict(held) for symbol, held in new.items()}
            write(self.path, {**before, "symbols": {**before["symbols"], **rows}, "morning": dict(morning)}, SCHEMA)
        return new

    def release(self, symbol: str, *, reason: str, at: datetime) -> Held | None:
        """Let one go; what it was in for, None when it was not in. Of the same session it is not taken in again."""
        with locked(self.path):
            before = read(self.path, SCHEMA)
            row = before["symbols"].pop(symbol, None)
            if row is None:
                return None
            told = {**row, "symbol": symbol, "reason": reason, "released_at": iso_utc(at)}
            write(self.path, {**before, "released": [*before["released"], told][-_RELEASES_KEPT:]}, SCHEMA)
        return Held(**row)

    def release_vendor(self, source: str) -> bool:
        """Believe a vendor whose morning ended in VENDOR_BASIS; False when that is not so."""
        with locked(self.path):
            before = read(self.path, SCHEMA)
            morning = before["morning"]
            if morning is None or (morning.get("source"), morning.get("code")) != (source, "VENDOR_BASIS"):
                return False
            write(self.path, {**before, "morning": {**morning, "code": "RELEASED"}}, SCHEMA)
        return True

    def released_of(self, session: date) -> frozenset[str]:
        """Symbols that a person has released although their bar of that session was not believed."""
        rows = read(self.path, SCHEMA)["released"]
        return frozenset(str(row["symbol"]) for row in rows if row.get("session") == session.isoformat())
