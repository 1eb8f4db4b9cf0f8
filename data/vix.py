"""The VIX close per session, as stored by the daily update. What is not known stays None; it is never 0."""

from __future__ import annotations

import csv
import math
from datetime import date
from pathlib import Path

from core.errors import DataError
from core.files import locked, write_atomic

FILE = "facts/vix.csv"
VENDORS = frozenset({"polygon", "alpaca", "yfinance", "stooq"})  # every other folder holds an embedded venue's bars
_HEADER = "date,close,source"
_LOWEST, _HIGHEST = 1.0, 500.0  # outside this the figure is no VIX (record close: 82.69, lowest 9.14)


def plausible(level: float | None) -> float | None:
    """`level` if it can be a VIX close, else None: a 0 or a NaN from a vendor is "unknown", not calm."""
    if level is None or not math.isfinite(level) or not (_LOWEST < level < _HIGHEST):
        return None
    return level


class VixStore:
    """cache/<source>/facts/vix.csv, one line per session: date,close,source (the vendor who said so). Deletable."""

    def __init__(self, root: Path, source: str) -> None:
        self.path = root / source / FILE

    def level(self, session: date) -> float | None:
        return self.levels().get(session)

    def levels(self) -> dict[date, float]:
        """Every session that is known."""
        return {day: level for day, (level, _) in self._read().items() if plausible(level) is not None}

    def put(self, session: date, level: float, vendor: str) -> None:
        """Raises ValueError for what cannot be a VIX close."""
        if plausible(level) is None:
            raise ValueError(f"{level!r} cannot be a VIX close")
        with locked(self.path):
            known = self._read()
            known[session] = (level, vendor)
            lines = [_HEADER, *(f"{day},{close!r},{who}" for day, (close, who) in sorted(known.items()))]
            write_atomic(self.path, ("\n".join(lines) + "\n").encode(), durable=False)

    def _read(self) -> dict[date, tuple[float, str]]:
        """A damaged line is skipped: that session is unknown and will be asked for again."""
        try:
            text = self.path.read_text("utf-8-sig")
        except (FileNotFoundError, UnicodeDecodeError):
            return {}
        known: dict[date, tuple[float, str]] = {}
        for line in text.splitlines()[1:]:
            parts = line.split(",")
            try:
                known[date.fromisoformat(parts[0])] = (float(parts[1]), parts[2] if len(parts) > 2 else "")
            except (ValueError, IndexError):
                continue
        return known


def read_vix_csv(path: Path) -> dict[date, float]:
    """VIX closes of a `date,…,close` file; lines without a plausible close are left out. DataError: unreadable."""
    try:
        rows = list(csv.DictReader(path.read_text("utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}", code="VIX_UNREADABLE") from error
    known: dict[date, float] = {}
    for row in rows:
        try:
            level = plausible(float(row["close"]))
            if level is not None:
                known[date.fromisoformat(row["date"])] = level
        except (KeyError, TypeError, ValueError):
            continue
    return known


def cached_level(cache: Path, session: date, *, simulated_too: bool) -> float | None:
    """What the most recently updated source knows of `session`; None when no source knows it."""
    newest_first: list[tuple[float, str]] = []
    for path in cache.glob(f"*/{FILE}"):
        try:
            newest_first.append((path.stat().st_mtime, path.parent.parent.name))
        except FileNotFoundError:
            continue  # the cache may be cleared at any moment
    for _, source in sorted(newest_first, reverse=True):
        if source not in VENDORS and not simulated_too:
            continue
        level = VixStore(cache, source).level(session)
        if level is not None:
            return level
    return None
