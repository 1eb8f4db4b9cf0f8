"""Which breakers are tripped: dated locks on entries. Exits always pass.

The journal is the truth (`breaker_tripped`, `breaker_cleared`); state/circuit_breakers.json is a view of it, written
anew when it is missing, behind or damaged. A lock ends after its last session (`until`), or when a person resumes it
with scripts/breakers.py. What cannot be read refuses every entry: absent is no.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from cognitive.breaker_rules import ALL, CODES, NAMES, NEVER, STRATEGY, SYMBOL, Trip, lock_id
from core import logs
from core.canonical import iso_utc
from core.documents import Document, Schema, parse, write
from core.errors import KobeError, StateCorrupt
from core.files import locked
from core.journal import Journal, JournalTail

if TYPE_CHECKING:
    from config.settings_schema import CircuitBreakers
    from core.journal import Record
    from core.market_calendar import MarketCalendar

FILE: Final = "circuit_breakers.json"
TRIPPED, CLEARED = "breaker_tripped", "breaker_cleared"
UNREADABLE: Final = "BREAKERS_UNREADABLE"
BY_RULE, BY_TIME = "rule", "until"
RESUME = "python scripts/breakers.py status, then: breakers.py resume NAME --reason TEXT"


# ---------------------------------------------------------------- values
@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """One tripped breaker. `session` is the one it tripped in, `until` the last one it holds in; None: a person's."""

    name: str
    scope: str  # all, strategy, symbol
    what: str
    code: str
    reason: str
    numbers: Mapping[str, Any]
    seq: int  # of its record
    at: datetime
    session: date
    until: date | None
    by: str  # "rule", or who tripped it

    @property
    def lock_id(self) -> str:
        return lock_id(self.name, self.scope, self.what)

    def stands(self, session: date) -> bool:
        return self.until is None or session <= self.until

    def concerns(self, strategy: str, symbol: str) -> bool:
        return self.scope == ALL or self.what == (strategy if self.scope == STRATEGY else symbol)

    @property
    def end(self) -> str:
        """In words, when entries are let through again."""
        return "until a person resumes it" if self.until is None else f"to the end of {self.until}"

    def to_json(self) -> Document:
        return {
            "id": self.lock_id, "breaker": self.name, "scope": self.scope, "what": self.what, "code": self.code,
            "reason": self.reason, "numbers": dict(self.numbers), "seq": self.seq, "at": iso_utc(self.at),
            "session": self.session.isoformat(), "until": None if self.until is None else self.until.isoformat(),
            "by": self.by,
        }  # fmt: skip


def trip_body(trip: Trip, session: date, until: date | None, by: str = BY_RULE) -> Document:
    """The journal body of `breaker_tripped`."""
    numbers = {name: _plain(value) for name, value in trip.numbers.items()}
    return {
        "breaker": trip.name, "scope": trip.scope, "what": trip.what, "code": CODES[trip.name], "reason": trip.reason,
        "numbers": numbers, "session": session, "until": until, "by": by,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """JSON has no word for infinity: it is written as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _lock(body: Mapping[str, Any], seq: int, at: datetime) -> Lock:
    """Raises KeyError or ValueError for a body that is none."""
    name, scope, until = str(body["breaker"]), str(body["scope"]), body["until"]
    if name not in CODES or scope not in (ALL, STRATEGY, SYMBOL):
        raise ValueError(f"breaker {name!r} of scope {scope!r} is not known")
    return Lock(
        name=name, scope=scope, what=str(body["what"]), code=str(body["code"]), reason=str(body["reason"]),
        numbers=dict(body["numbers"]), seq=seq, at=at, session=date.fromisoformat(body["session"]),
        until=None if until is None else date.fromisoformat(until), by=str(body["by"]),
    )  # fmt: skip


@dataclass
class Board:
    """The fold of both kinds. A repeat changes nothing, nor does clearing what is not tripped."""

    locks: dict[str, Lock] = field(default_factory=dict)  # by lock id; expired ones stay until they are cleared
    cleared: dict[str, int] = field(default_factory=dict)  # lock id -> record that last cleared it
    seq: int = NEVER  # newest record of either kind

    def add(self, kind: str, body: Mapping[str, Any], seq: int, at: datetime) -> None:
        """Raises StateCorrupt for a record of a known kind that lacks what its kind promises."""
        if kind not in (TRIPPED, CLEARED):
            return
        try:
            if kind == TRIPPED:
                lock = _lock(body, seq, at)
                self.locks.setdefault(lock.lock_id, lock)
            elif self.locks.pop(str(body["lock"]), None) is not None:
                self.cleared[str(body["lock"])] = seq
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise StateCorrupt(f"journal record {seq} ({kind}) cannot be read: {error!r}") from error
        self.seq = seq

    def since(self, lock: str) -> int:
        return self.cleared.get(lock, NEVER)

    def standing(self, session: date) -> tuple[Lock, ...]:
        """Those that refuse entries in this session: scope all first, then in the order they tripped."""
        found = [lock for lock in self.locks.values() if lock.stands(session)]
        return tuple(sorted(found, key=lambda lock: (lock.scope != ALL, lock.seq)))

    def over(self, session: date) -> tuple[Lock, ...]:
        """Those whose time has passed, and which the journal does not know as cleared yet."""
        return tuple(lock for lock in self.locks.values() if not lock.stands(session))

    def of(self, name: str) -> tuple[Lock, ...]:
        """Locks of a breaker, or the one with this id."""
        return tuple(lock for lock in self.locks.values() if name in (lock.name, lock.lock_id))

    def to_document(self) -> Document:
        return {"seq": self.seq, "locks": [lock.to_json() for lock in self.locks.values()]}


# ---------------------------------------------------------------- the view
def _check(document: Document) -> None:
    if type(document.get("seq")) is not int:
        raise ValueError("seq must be a number")
    rows = document.get("locks")
    if not isinstance(rows, list):
        raise ValueError("locks must be a list")
    for row in rows:
        _lock(row, int(row["seq"]), datetime.fromisoformat(row["at"]))


SCHEMA: Final = Schema(1, lambda: {"schema_version": 1, "seq": NEVER, "locks": []}, _check)


def read_view(state: Path) -> Document | None:
    """state/circuit_breakers.json; None when there is none. Raises StateCorrupt."""
    try:
        content = (state / FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateCorrupt(f"{FILE} cannot be read: {error.strerror}", code=UNREADABLE) from error
    return parse(FILE, content, SCHEMA)


def readable_view(state: Path) -> Document | None:
    """A damaged one counts as none: the journal has it all. Raises StateCorrupt for one of a newer version only."""
    try:
        return read_view(state)
    except StateCorrupt as error:
        if error.code == "STATE_NEWER":
            raise
        return None


# ---------------------------------------------------------------- one home
def sessions_kept(settings: CircuitBreakers) -> Mapping[str, int | None]:
    """Breaker -> how many sessions after its own it holds; None: until a person resumes it."""
    kept = settings.sessions
    return {
        "calibration_drift": kept.calibration_drift, "loss_concentration": kept.loss_concentration,
        "confidence_collapse": kept.confidence_collapse, "regime_stuck": kept.regime_stuck,
        "loss_streak": kept.loss_streak, "daily_drawdown": kept.daily_drawdown,
        "weekly_drawdown": kept.weekly_drawdown, "execution_quality": kept.execution_quality,
    }  # fmt: skip


class Listener(Protocol):
    def begin(self) -> None:
        """Forget everything: the journal is read from its beginning."""
        ...

    def add(self, record: Record) -> None:
        """Raises StateCorrupt for a record that cannot be read."""
        ...


class Breakers:
    """The locks of one home, followed through its journal; each call reads only what is new.

    Every method raises StateCorrupt when journal or view cannot be trusted, StateLocked when another process keeps the
    view: then nothing may be entered.
    """

    def __init__(
        self, journal: Journal, state: Path, calendar: MarketCalendar, settings: CircuitBreakers,
        listener: Listener | None = None,
    ) -> None:  # fmt: skip
        """`listener` is fed every record that is read, in order, so that nobody reads the journal a second time."""
        self._journal, self._state, self._calendar, self._settings = journal, state, calendar, settings
        self._listener = listener
        self._begin()

    def _begin(self) -> None:
        self._tail, self._board = JournalTail(self._journal), Board()
        if self._listener is not None:
            self._listener.begin()

    def look(self) -> Board:
        """As of now; the view stays as it is."""
        self._follow()
        return self._board

    def board(self) -> Board:
        """As of now, other processes' records included; the view is brought in step."""
        self._follow()
        if not self._in_step():
            with locked(self._state / FILE):
                self._follow()
                self._write_view()
        return self._board

    def trip(self, trips: Iterable[Trip], session: date, *, by: str = BY_RULE, until: date | None = None) -> list[Lock]:
        """Set the locks that do not stand yet; those that are new. `until` is a person's; a rule's is in settings."""
        self.end_expired(session)  # what no longer holds must not pass for one that stands
        made = []
        for trip in trips:
            last = until if by != BY_RULE else self._until(trip.name, session)
            with locked(self._state / FILE):
                self._follow()
                if trip.lock_id in self._board.locks:
                    continue
                record = self._journal.append(TRIPPED, trip_body(trip, session, last, by))
                self._follow()
                self._write_view()
            lock = self._board.locks[trip.lock_id]
            logs.error_event(
                TRIPPED, code=lock.code, breaker=lock.name, scope=lock.scope, what=lock.what, detail=lock.reason,
                until=lock.end, seq=record.seq,
            )  # fmt: skip
            logs.count("breakers_tripped", breaker=lock.name)
            made.append(lock)
        return made

    def clear(self, name: str, *, reason: str, by: str) -> list[Lock]:
        """End the locks of this breaker, or the one with this id; what was ended."""
        with locked(self._state / FILE):
            self._follow()
            gone = list(self._board.of(name))
            for lock in gone:
                self._journal.append(
                    CLEARED, {"lock": lock.lock_id, "breaker": lock.name, "reason": reason, "by": by, "was": lock.code}
                )
            self._follow()
            self._write_view()
        for lock in gone:
            logs.event(CLEARED, code=lock.code, breaker=lock.name, lock=lock.lock_id, by=by, detail=reason)
            logs.count("breakers_cleared", breaker=lock.name)
        return gone

    def end_expired(self, session: date) -> None:
        """What holds no longer is cleared in the journal, so that its evidence begins anew."""
        for lock in self.board().over(session):
            self.clear(lock.lock_id, reason=f"its last session was {lock.until}", by=BY_TIME)

    def _until(self, name: str, session: date) -> date | None:
        after = sessions_kept(self._settings)[name]
        return None if after is None else self._calendar.offset(session, after)

    # ------------------------------------------------------------ inside
    def _follow(self) -> None:
        try:
            for record in self._tail.new():
                self._board.add(record.kind, record.body, record.seq, record.at)
                if self._listener is not None:
                    self._listener.add(record)
        except BaseException:  # whatever it was: half a fold must never be believed
            self._begin()
            raise

    def _in_step(self) -> bool:
        """Whether the view says what the journal says. Raises StateCorrupt for one of a newer version."""
        view = readable_view(self._state)
        if view is None:
            return not self._board.locks and not (self._state / FILE).exists()
        return {k: view[k] for k in ("seq", "locks")} == self._board.to_document()

    def _write_view(self) -> None:
        path = self._state / FILE
        try:
            if readable_view(self._state) is None and path.exists():
                path.unlink()  # `write` would refuse to replace what it cannot read
                logs.error_event("breakers_rebuilt", code="BREAKERS_DAMAGED", detail=f"{FILE} was damaged")
                logs.count("breakers_rebuilt")
            write(path, self._board.to_document(), SCHEMA)
        except (OSError, ValueError) as error:
            raise StateCorrupt(f"{FILE} cannot be written: {error}", code=UNREADABLE, advice=RESUME) from error


# ---------------------------------------------------------------- the operator's one-liner
class BreakerStatus(dict[str, Any]):
    """A mapping that prints itself for a person."""

    def __str__(self) -> str:
        lines = [f"circuit breakers: {self['state']}; entries {self['entries']}"]
        lines += [f"  {self['detail']}"] if self.get("detail") else []
        for name, row in self["breakers"].items():
            if not row["locks"]:
                lines.append(f"  ok       {name}")
            for lock in row["locks"]:
                whom = "" if lock["scope"] == ALL else f" [{lock['scope']} {lock['what']}]"
                until = "a person resumes it" if lock["until"] is None else f"the end of {lock['until']}"
                lines.append(f"  TRIPPED  {name}{whom}: {lock['reason']}")
                lines.append(f"           since {lock['at'][:16]}Z, until {until}")
        if any(row["locks"] for row in self["breakers"].values()):
            lines.append(f"  look, then: {RESUME.partition(': ')[2]}" if self["state"] == "tripped" else "")
        return "\n".join(line for line in lines if line)


def status_of(locks: Sequence[Lock], *, enabled: bool, detail: str = "") -> BreakerStatus:
    """Pure: locks that stand -> what get_breaker_status() says."""
    by_name: dict[str, dict[str, Any]] = {name: {"locks": []} for name in NAMES}
    for lock in locks:
        by_name.setdefault(lock.name, {"locks": []})["locks"].append(lock.to_json())
    all_locked = any(lock.scope == ALL for lock in locks)
    if not enabled:
        return BreakerStatus(
            state="off", entries="allowed", code="BREAKERS_OFF", breakers=by_name,
            detail="cognitive.circuit_breakers.enabled is false: nothing trips, and no lock is kept",
        )  # fmt: skip
    entries = "refused" if all_locked else "refused in part" if locks else "allowed"
    code = locks[0].code if locks else "OK"
    return BreakerStatus(
        state="tripped" if locks else "ok", entries=entries, code=code, breakers=by_name, detail=detail
    )


def unknown_status(error: KobeError | OSError) -> BreakerStatus:
    code = error.code if isinstance(error, KobeError) else UNREADABLE
    return BreakerStatus(
        state="unknown", entries="refused", code=code, breakers={},
        detail=f"the state of the breakers cannot be read: {error}; what cannot be read refuses every entry",
    )  # fmt: skip


def get_breaker_status() -> BreakerStatus:
    """What stands on KOBE_HOME now, from the journal. Prints itself; never raises for what lies on the disk."""
    from config.loader import load_settings
    from core.clock import SystemClock
    from core.market_calendar import market_calendar
    from core.paths import home

    try:
        place, clock = home(), SystemClock()
        settings = load_settings().cognitive.circuit_breakers
        board, newest = Board(), None
        journal = Journal(place.journal, clock)
        for record in journal.records() if place.journal.exists() else ():
            board.add(record.kind, record.body, record.seq, record.at)
            newest = record.at
        detail = "" if newest is not None else "no journal yet: nothing has been traded on this home"
        if readable_view(place.state) is None and (place.state / FILE).exists():
            detail = f"{FILE} is damaged and will be written anew; this is from the journal"
        replayed = newest is not None and (place.state / "replay.json").exists()  # its clock stands where it ended
        calendar = market_calendar()
        return status_of(
            board.standing(current_session(calendar, newest if replayed and newest else clock.now())),
            enabled=settings.enabled, detail=detail,
        )  # fmt: skip
    except (KobeError, OSError) as error:
        return unknown_status(error)


def current_session(calendar: MarketCalendar, now: datetime) -> date:
    """Today's session, or the next one."""
    return calendar.session_at(now) or calendar.next_session(calendar.last_completed(now))
