"""Choose the names that may be traded from what a vendor lists. Pure: scripts/build_universe_polygon.py asks, writes.

listed stocks and receipts -> traded on most of the sessions looked at -> price -> dollar volume -> options -> the most
liquid first, so that `--cap N` keeps the most liquid. A list that is implausibly short, or too different from the one
before, is never written over it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from core.domain import Symbol
from core.errors import ConfigError, DataError

Row = tuple[float, float, float, float, float]
_TEST_NAMES = re.compile(r"(?:Z[A-Z]ZZT|[A-Z]TEST(?:\.[A-Z])?|ZVV|ZXYZ(?:\.A)?|ZBZX|ZIEXT|ZEXIT|ZTST)\Z")
TRADED_FRACTION = 0.9  # of the sessions looked at


@dataclass(frozen=True, slots=True)
class Filters:
    sessions: int = 20
    min_price_usd: float = 5.0
    min_dollar_volume_usd: float = 5_000_000.0
    size: int = 800


@dataclass(frozen=True, slots=True)
class Candidate:
    symbol: Symbol
    price_usd: float  # newest close
    dollar_volume_usd: float  # median of close x volume


@dataclass
class Funnel:
    """How many names were left after each step; goes into the provenance."""

    counts: dict[str, int] = field(default_factory=dict)

    def after(self, step: str, left: int) -> None:
        self.counts[step] = left


def is_test_name(symbol: str) -> bool:
    """Exchanges list tickers that are traded by nobody: ZVZZT, NTEST.A."""
    return bool(_TEST_NAMES.match(symbol))


def candidates(
    listed: Sequence[Symbol], rows: Mapping[date, Mapping[Symbol, Row]], filters: Filters, funnel: Funnel
) -> list[Candidate]:
    """Ranked by median dollar volume, most liquid first; equal ones by name. rows : session -> symbol -> bar.

    Raises DataError UNIVERSE_NO_DATA when a session lacks many of the names: a partial answer makes a small list.
    """
    names = [symbol for symbol in listed if not is_test_name(symbol)]
    funnel.after("listed", len(names))
    counts = {session: sum(symbol in day for symbol in names) for session, day in rows.items()}
    most = max(counts.values(), default=0)
    for session, count in counts.items():
        if count < TRADED_FRACTION * most or count == 0:
            raise DataError(
                f"{session} has bars of {count} names, other sessions of {most}: that answer is not whole",
                code="UNIVERSE_NO_DATA", advice="run again later",
            )  # fmt: skip
    newest = max(rows, default=None)
    found = []
    for symbol in names:
        bars = [day[symbol] for day in rows.values() if symbol in day]
        if newest is None or symbol not in rows[newest] or len(bars) < TRADED_FRACTION * len(rows):
            continue
        volume = statistics.median(close * shares for _, _, _, close, shares in bars)
        found.append(Candidate(symbol, rows[newest][symbol][3], volume))
    funnel.after("traded", len(found))
    found = [c for c in found if c.price_usd >= filters.min_price_usd]
    funnel.after("price", len(found))
    found = [c for c in found if c.dollar_volume_usd >= filters.min_dollar_volume_usd]
    funnel.after("dollar_volume", len(found))
    return sorted(found, key=lambda c: (-c.dollar_volume_usd, c.symbol))


@dataclass(frozen=True, slots=True)
class Change:
    """What is different from the list before. `fraction`: of the names of the list before."""

    added: tuple[Symbol, ...]
    removed: tuple[Symbol, ...]
    fraction: float | None  # None: there was no list before

    def __str__(self) -> str:
        if self.fraction is None:
            return "there was no list before"
        return f"{len(self.added)} names added, {len(self.removed)} removed, {self.fraction:.1%} changed"


def change(new: Sequence[Symbol], old: Sequence[Symbol]) -> Change:
    before, now = set(old), set(new)
    fraction = len(before ^ now) / len(before) if before else None
    return Change(tuple(s for s in new if s not in before), tuple(s for s in old if s not in now), fraction)


def require_plausible(
    new: Sequence[Symbol], made: Change, *, min_rows: int, max_change_fraction: float, accepted: bool
) -> None:
    """Raises ConfigError UNIVERSE_IMPLAUSIBLE (too short, whatever was accepted) or UNIVERSE_CHANGED."""
    if len(new) < min_rows:
        raise ConfigError(
            f"{len(new)} names came out, at least {min_rows} are expected: nothing was written",
            code="UNIVERSE_IMPLAUSIBLE", advice="look at the counts above; the vendor's answer may be partial",
        )  # fmt: skip
    if made.fraction is not None and made.fraction > max_change_fraction and not accepted:
        raise ConfigError(
            f"{made}, at most {max_change_fraction:.0%} may change: nothing was written",
            code="UNIVERSE_CHANGED", advice="look at it with --dry-run; --accept-change writes it",
        )  # fmt: skip


def to_csv(symbols: Sequence[Symbol], sectors: Mapping[Symbol, str | None]) -> bytes:
    """symbol,sector, in this order. A sector that is not known stays empty: it counts as its worst case."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("symbol", "sector"))
    writer.writerows((symbol, sectors.get(symbol) or "") for symbol in symbols)
    return text.getvalue().encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
