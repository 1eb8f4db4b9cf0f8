"""Following the logs from outside: errors, fallbacks, and what the runner's scans decided on. Telemetry may be absent,
cut or half written: what was not read is not known, and nothing here raises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from core.secrets import mask_secrets
from execution.ledger import new_york_day
from execution.observe.facts import ERRORS_KEPT, WINDOW_DAYS, ErrorFacts
from execution.observe.line_tail import JsonTail

_DAY = timedelta(days=1)
_TEXT_MOST = 300
_ERRORS_MOST = 10_000  # in a day; more are not counted


def instant(value: object) -> datetime | None:
    """An aware instant in UTC, or nothing. A year that cannot be is a damaged line."""
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return at.astimezone(UTC) if at.utcoffset() is not None and 1990 <= at.year <= 2100 else None


def short(value: object) -> str:
    """One masked line of bounded length."""
    return mask_secrets(" ".join(str("" if value is None else value).split()))[:_TEXT_MOST]


# ---------------------------------------------------------------- errors and events
class ErrorsLook:
    """logs/errors.jsonl: the last day, and the last words about the broker."""

    def __init__(self, folder: Path) -> None:
        self._rows = JsonTail(folder / "errors.jsonl")
        self._recent: deque[ErrorFacts] = deque(maxlen=_ERRORS_MOST)
        self.broker_down_at: datetime | None = None
        self.keys_refused_at: datetime | None = None
        self.closes_at: dict[date, datetime] = {}  # closes that the broker's clock has set against the calendar (D22)

    @property
    def readable(self) -> bool:
        return self._rows.tail.readable

    def look(self, now: datetime) -> None:
        for row in self._rows.new():
            at = instant(row.get("at"))
            if at is not None:
                self._take(at, row)
        while self._recent and now - self._recent[0].at > _DAY:
            self._recent.popleft()

    def _take(self, at: datetime, row: Mapping[str, Any]) -> None:
        event, code = short(row.get("event")), short(row.get("code"))
        detail = row.get("detail", row.get("message"))
        if detail is None:
            detail = ", ".join(f"{k} {v}" for k, v in row.items() if k not in _FRAME and not isinstance(v, dict | list))
        self._recent.append(ErrorFacts(at=at, event=event, code=code, detail=short(detail)))
        if event == "broker_unreachable":
            self.broker_down_at = at
        elif event == "keys_refused":
            self.keys_refused_at = at
        elif event == "market_hours_differ" and (closes := instant(row.get("broker"))) is not None:
            self.closes_at = {new_york_day(closes): closes}

    def since(self, since: datetime) -> tuple[ErrorFacts, ...]:
        """Newest first."""
        return tuple(e for e in reversed(self._recent) if e.at >= since)[:ERRORS_KEPT]

    def count_since(self, since: datetime) -> int:
        return sum(1 for e in self._recent if e.at >= since)


_FRAME = frozenset({"at", "event", "code", "run_id", "mode", "traceback"})


class EventsLook:
    """logs/events.jsonl: fallbacks of the day, and the broker's return."""

    def __init__(self, folder: Path) -> None:
        self._rows = JsonTail(folder / "events.jsonl")
        self._fallbacks: deque[datetime] = deque()
        self._from: datetime | None = None  # of the oldest line that was read
        self.broker_back_at: datetime | None = None

    def look(self, now: datetime) -> None:
        for row in self._rows.new():
            at = instant(row.get("at"))
            if at is None:
                continue
            self._from = self._from or at
            if row.get("event") == "provider_fallback":
                self._fallbacks.append(at)
            elif row.get("event") == "broker_reachable_again":
                self.broker_back_at = at
        while self._fallbacks and now - self._fallbacks[0] > 2 * _DAY:
            self._fallbacks.popleft()

    def fallbacks_on(self, day: date) -> int | None:
        """None when the lines of that day cannot be read, or only some of them."""
        tail = self._rows.tail
        if not tail.readable or not tail.exists:
            return None
        if not tail.whole and (self._from is None or new_york_day(self._from) >= day):
            return None
        return sum(1 for at in self._fallbacks if new_york_day(at) == day)


# ---------------------------------------------------------------- what scans decided on
@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """The quote that one order was decided on; `seq` is the journal's newest record then."""

    seq: int
    at: datetime
    bid: Decimal | None
    ask: Decimal | None
    last: Decimal | None

    @property
    def mid(self) -> Decimal | None:
        if self.bid is None or self.ask is None or not 0 < self.bid <= self.ask:
            return None
        return (self.bid + self.ask) / 2


def _money(value: object) -> Decimal | None:
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


class InputsLook:
    """logs/inputs/<day>.jsonl: the files of the last WINDOW_DAYS days, found by name; later looks read the newest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "inputs"
        self._files: dict[date, JsonTail] = {}
        self._begun = False
        self.scan: dict[str, Any] | None = None  # the newest scan row
        self.quotes: dict[tuple[str, str], list[Quoted]] = {}  # (decision id, side)
        self.rows = 0  # read so far: nothing is worked out again while it stays the same

    def look(self, today: date) -> None:
        span = 1 if self._begun else WINDOW_DAYS
        self._begun = True
        for back in range(span, -1, -1):
            day = today - timedelta(days=back)
            if day not in self._files:
                self._files[day] = JsonTail(self._folder / f"{day.isoformat()}.jsonl")
            for row in self._files[day].new():
                self._take(row)
        self._forget(today)

    def _take(self, row: Mapping[str, Any]) -> None:
        kind, at = row.get("kind"), instant(row.get("at"))
        self.rows += 1
        if at is None:
            return
        if kind == "scan":
            self.scan = dict(row)
        elif kind in ("quote", "leave") and isinstance(quote := row.get("quote"), dict):
            side = "buy" if kind == "quote" else "sell"
            seq = row.get("seq")
            prices = {name: _money(quote.get(name)) for name in ("bid", "ask", "last")}
            found = Quoted(seq=seq if isinstance(seq, int) else -1, at=at, **prices)
            self.quotes.setdefault((str(row.get("decision_id")), side), []).append(found)

    def _forget(self, today: date) -> None:
        oldest = today - timedelta(days=WINDOW_DAYS)
        for day in [d for d in self._files if d < oldest]:
            del self._files[day]
            self.quotes = {key: q for key, q in self.quotes.items() if new_york_day(q[-1].at) >= oldest}

    def quote_of(self, decision_id: str, side: str, seq: int) -> Quoted | None:
        """The newest quote before the intent with this number."""
        before = [q for q in self.quotes.get((decision_id, side), ()) if q.seq < seq]
        return before[-1] if before else None
