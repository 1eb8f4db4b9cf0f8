"""Announcement dates from a CSV `symbol,date`. A file that is empty or cannot be true makes everything unknown."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from datetime import date, timedelta
from pathlib import Path

from core.domain import Symbol, canonical_symbol
from core.errors import DataError

_STALE_AFTER = timedelta(days=120)  # companies announce every quarter; an older newest date means nobody updates it
_FEWEST_FRACTION = 0.10  # of the universe; fewer known names is a broken export, not a quiet quarter


class EarningsFile:
    """core.ports.EarningsCalendar over one file, read once when first asked.

    None for a symbol = nothing is known, which the filter treats as its settings say; never "none due".
    A symbol whose newest date is over 120 days before `today` is unknown too: its next date is missing.
    """

    def __init__(
        self, path: Path | None, *, today: date | None = None, universe: Collection[str] | None = None
    ) -> None:
        self._path = path
        self._today = today
        self._universe = universe
        self._loaded: tuple[dict[Symbol, tuple[date, ...]], str] | None = None

    def dates(self, symbol: Symbol) -> Sequence[date] | None:
        """Ascending dates, None = unknown. Raises DataError (EARNINGS_MALFORMED) naming file and line."""
        known, why = self._load()
        found = known.get(symbol)
        if why or not found:
            return None
        if self._today is not None and found[-1] < self._today - _STALE_AFTER:
            return None
        return found

    def at(self, today: date) -> EarningsFile:
        """The same file as it is believed on another day; it is not read again."""
        other = EarningsFile(self._path, today=today, universe=self._universe)
        known = self._load()[0]
        other._loaded = known, other._doubt(known)
        return other

    @property
    def why_unknown(self) -> str:
        """Why the whole file says nothing; empty when it is believed."""
        return self._load()[1]

    def doubt_of(self, universe: Collection[str]) -> str:
        """Why the file cannot be right for these names; empty when it can. A name it does know is still believed."""
        known, why = self._load()
        return why or _too_few(self._path, known, universe)

    def symbols(self) -> list[Symbol]:
        return sorted(self._load()[0])

    def _load(self) -> tuple[dict[Symbol, tuple[date, ...]], str]:
        if self._loaded is None:
            known = read_earnings(self._path) if self._path is not None else {}
            self._loaded = known, self._doubt(known)
        return self._loaded

    def _doubt(self, known: dict[Symbol, tuple[date, ...]]) -> str:
        if self._path is None:
            return "no earnings file is configured"
        if not known:
            return f"{self._path.name} has no dates"
        if self._today is not None:
            newest = max(days[-1] for days in known.values())
            if newest < self._today - _STALE_AFTER:
                return f"{self._path.name} ends at {newest}"
        return _too_few(self._path, known, self._universe or ())


def _too_few(path: Path | None, known: Collection[Symbol], universe: Collection[str]) -> str:
    if path is None or not universe:
        return ""
    share = sum(symbol in known for symbol in universe) / len(universe)
    return f"{path.name} knows {share:.0%} of the universe" if share < _FEWEST_FRACTION else ""


def read_earnings(path: Path) -> dict[Symbol, tuple[date, ...]]:
    """{} for a missing or empty file. Raises DataError for an unreadable line: a lost line is a lost warning."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: not UTF-8 at byte {error.start}", code="EARNINGS_MALFORMED") from None
    found: dict[Symbol, set[date]] = {}
    rows = csv.reader(io.StringIO(text, newline=""))
    header = [cell.strip().lower() for cell in next(rows, [])]
    if not header:
        return {}
    if "symbol" not in header or "date" not in header:
        raise DataError(f"{path.name} line 1: the header must name symbol and date", code="EARNINGS_MALFORMED")
    at_symbol, at_date = header.index("symbol"), header.index("date")
    for cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        try:
            symbol, day = canonical_symbol(cells[at_symbol]), date.fromisoformat(cells[at_date].strip())
        except (ValueError, IndexError) as error:
            message = f"{path.name} line {rows.line_num}: {error}"
            raise DataError(message, code="EARNINGS_MALFORMED") from None
        found.setdefault(symbol, set()).add(day)
    return {symbol: tuple(sorted(days)) for symbol, days in found.items()}
