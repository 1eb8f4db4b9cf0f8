"""What has been told, what stands, what nobody has acknowledged: the state machine of alerts. Pure.

    bad for hold_s ── raised ──► standing ── good for clear_after_s ── recovered ──► kept a day, then forgotten
                                 │  worse than it ever was, or its level grew: told again
                                 └  critical and unacknowledged: told again after escalate_after_s, then twice that …

Raised once, whatever the number of looks. UNKNOWN keeps an alert as it is. One that comes and goes takes longer to be
over each time, so that it cannot ring all day. An acknowledgement silences the reminders; getting worse ends it.

Messages wait in `outbox` until a channel takes them. The whole is one document, state/alerts.json: a restart neither
repeats nor forgets, but for a message that was on its way at that moment, which may come twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, Final

from core.documents import Schema
from execution.observe.alerts import Condition, Look, Severity, State

FILE: Final = "alerts.json"
SCHEMA_VERSION: Final = 1
KEPT = timedelta(days=1)
WARNINGS_AGAIN = timedelta(days=1)
AGAIN_MOST = timedelta(days=1)
ENTRIES_MOST = 300
_FLAPS_MOST = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    clear_after: timedelta
    escalate_after: timedelta
    queue_most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One alert. `raised_at` None: seen, not told yet (or over: `cleared_at`)."""

    name: str
    severity: Severity
    since: datetime
    value: str = ""
    limit: str = ""
    words: str = ""
    action: str = ""
    worst: Severity = Severity.WARNING
    raised_at: datetime | None = None
    told_at: datetime | None = None
    reminders: int = 0
    level: float | None = None  # as last told
    good_since: datetime | None = None
    cleared_at: datetime | None = None
    flaps: int = 0
    unknown: bool = False  # nothing is known of it at the moment; it stands
    acknowledged_at: datetime | None = None
    acknowledged_reason: str = ""

    @property
    def standing(self) -> bool:
        return self.raised_at is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One thing to tell. `kind`: raised, worse, reminder, recovered."""

    at: datetime
    kind: str
    name: str
    severity: Severity
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    began_at: datetime
    looked_at: datetime
    entries: Mapping[str, Entry] = field(default_factory=dict)
    outbox: tuple[Message, ...] = ()
    dropped: int = 0  # messages that found no room
    backup_at: datetime | None = None  # the newest backup that was seen

    def standing(self) -> list[Entry]:
        """Worst first, then oldest."""
        found = [e for e in self.entries.values() if e.standing]
        return sorted(found, key=lambda e: (e.severity != Severity.CRITICAL, e.since, e.name))

    def unacknowledged(self) -> list[Entry]:
        """Critical ones that stand and that nobody has acknowledged."""
        return [e for e in self.standing() if e.severity is Severity.CRITICAL and e.acknowledged_at is None]


# ---------------------------------------------------------------- one look
def step(memory: Memory, look: Look, policy: Policy) -> Memory:
    """The memory after a look; what is to be told stands at the end of its outbox."""
    now = look.at
    entries: dict[str, Entry] = {}
    told: list[Message] = []
    names = [*memory.entries, *(n for n, c in look.conditions.items() if c.bad and n not in memory.entries)]
    for name in names[:ENTRIES_MOST]:
        before, condition = memory.entries.get(name), look.of(name)
        after, message = _next(before, condition, now, policy)
        if after is not None:
            entries[name] = after
        if message is not None:
            told.append(message)
    outbox, dropped = _bounded((*memory.outbox, *told), policy.queue_most)
    return replace(memory, entries=entries, looked_at=now, outbox=outbox, dropped=memory.dropped + dropped)


def _next(
    entry: Entry | None, condition: Condition, now: datetime, policy: Policy
) -> tuple[Entry | None, Message | None]:
    if condition.bad:
        return _bad(entry, condition, now, policy)
    if entry is None:
        return None, None
    if not entry.standing:
        over = entry.cleared_at is None or not timedelta(0) <= now - entry.cleared_at <= KEPT
        return (None if over else entry), None
    if condition.state is State.UNKNOWN:
        return replace(entry, unknown=True, good_since=None), None
    return _good(entry, now, policy)


def _bad(
    entry: Entry | None, condition: Condition, now: datetime, policy: Policy
) -> tuple[Entry | None, Message | None]:
    severity = Severity(condition.state.value)
    if entry is None or not entry.standing:
        entry = _pending(entry, condition, severity, now)
    seen = replace(
        entry, severity=severity, value=condition.value, limit=condition.limit, words=condition.words,
        action=condition.action, good_since=None, unknown=False, since=min(entry.since, now),
    )  # fmt: skip
    if not seen.standing:
        if now - seen.since < timedelta(seconds=condition.hold_s):
            return seen, None
        raised = replace(seen, raised_at=now, told_at=now, worst=severity, level=condition.level, cleared_at=None)
        return raised, _message("raised", raised, now)
    return _again(seen, condition, now, policy)


def _pending(entry: Entry | None, condition: Condition, severity: Severity, now: datetime) -> Entry:
    if entry is not None and entry.cleared_at is None:
        return entry  # being held already
    flaps = 0 if entry is None else min(entry.flaps + 1, _FLAPS_MOST)
    return Entry(name=condition.name, severity=severity, since=now, flaps=flaps)


def _again(entry: Entry, condition: Condition, now: datetime, policy: Policy) -> tuple[Entry, Message | None]:
    """Standing, and bad still: worse, long unheard, or nothing new."""
    grown = condition.level is not None and entry.level is not None and condition.level > entry.level
    shrunk = condition.level is not None and entry.level is not None and condition.level < entry.level
    if shrunk:
        entry = replace(entry, level=condition.level)
    if grown or (entry.severity is Severity.CRITICAL and entry.worst is Severity.WARNING):
        worse = replace(
            entry, worst=max(entry.worst, entry.severity, key=_weight), level=condition.level, told_at=now,
            reminders=0, acknowledged_at=None, acknowledged_reason="",
        )  # fmt: skip
        return worse, _message("worse", worse, now)
    if entry.acknowledged_at is None and entry.told_at is not None:
        first = policy.escalate_after if entry.severity is Severity.CRITICAL else WARNINGS_AGAIN
        wait = min(first * 2**entry.reminders, max(AGAIN_MOST, first))
        if now - entry.told_at >= wait:
            reminded = replace(entry, told_at=now, reminders=min(entry.reminders + 1, 30))
            return reminded, _message("reminder", reminded, now)
    return entry, None


def _weight(severity: Severity) -> int:
    return 1 if severity is Severity.CRITICAL else 0


def _good(entry: Entry, now: datetime, policy: Policy) -> tuple[Entry, Message | None]:
    since = now if entry.good_since is None else min(entry.good_since, now)
    if now - since < policy.clear_after * 2**entry.flaps:
        return replace(entry, good_since=since, unknown=False), None
    over = replace(entry, raised_at=None, cleared_at=now, good_since=None, acknowledged_at=None,
                   acknowledged_reason="", unknown=False, reminders=0)  # fmt: skip
    return over, _message("recovered", entry, now)


def _message(kind: str, entry: Entry, now: datetime) -> Message:
    parts = [entry.words]
    if entry.limit not in ("", "none"):
        parts.append(f"value {entry.value}, limit {entry.limit}")
    if kind == "reminder":
        parts.append(f"since {entry.since:%Y-%m-%d %H:%M} UTC, not acknowledged")
    if kind == "recovered":
        parts.append(f"it stood since {entry.since:%Y-%m-%d %H:%M} UTC")
    elif entry.action:
        parts.append(f"do: {entry.action}")
    return Message(at=now, kind=kind, name=entry.name, severity=entry.severity, words=". ".join(p for p in parts if p))


def _bounded(outbox: tuple[Message, ...], most: int) -> tuple[tuple[Message, ...], int]:
    """The newest, and of the others the critical ones first."""
    over = len(outbox) - most
    if over <= 0:
        return outbox, 0
    order = sorted(range(len(outbox)), key=lambda n: (outbox[n].severity is Severity.CRITICAL, n))
    gone = set(order[:over])
    return tuple(m for n, m in enumerate(outbox) if n not in gone), over


# ---------------------------------------------------------------- by hand
def acknowledged(memory: Memory, name: str, reason: str, now: datetime) -> Memory | None:
    """None when no alert of that name stands."""
    entry = memory.entries.get(name)
    if entry is None or not entry.standing:
        return None
    acked = replace(entry, acknowledged_at=now, acknowledged_reason=reason)
    return replace(memory, entries={**memory.entries, name: acked})


def with_acknowledgements(ours: Memory, theirs: Memory) -> Memory:
    """`theirs`: as the file says, where a person may have acknowledged what we hold."""
    entries = dict(ours.entries)
    for name, entry in ours.entries.items():
        other = theirs.entries.get(name)
        if other is not None and other.raised_at == entry.raised_at and other.acknowledged_at is not None:
            entries[name] = replace(
                entry, acknowledged_at=other.acknowledged_at, acknowledged_reason=other.acknowledged_reason
            )
    return replace(ours, entries=entries)


# ---------------------------------------------------------------- as a document
def to_document(memory: Memory) -> dict[str, Any]:
    return {
        "began_at": memory.began_at.isoformat(), "looked_at": memory.looked_at.isoformat(),
        "backup_at": None if memory.backup_at is None else memory.backup_at.isoformat(),
        "dropped": memory.dropped, "entries": [_plain(e) for e in memory.entries.values()],
        "outbox": [_plain(m) for m in memory.outbox],
    }  # fmt: skip


def _plain(value: Entry | Message) -> dict[str, Any]:
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(value).items()}


_INSTANTS = frozenset({"since", "raised_at", "told_at", "good_since", "cleared_at", "acknowledged_at", "at"})


def from_document(document: Mapping[str, Any]) -> Memory:
    """Raises ValueError, KeyError, TypeError for a document that is none of ours."""
    entries = [Entry(**_typed(Entry, row)) for row in document["entries"]]
    return Memory(
        began_at=_instant(document["began_at"]), looked_at=_instant(document["looked_at"]),
        entries={e.name: e for e in entries}, outbox=tuple(Message(**_typed(Message, m)) for m in document["outbox"]),
        dropped=int(document["dropped"]),
        backup_at=None if document["backup_at"] is None else _instant(document["backup_at"]),
    )  # fmt: skip


def _typed(kind: type[Entry] | type[Message], row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    known = {f.name for f in fields(kind)}
    for key, value in row.items():
        if key not in known:
            raise ValueError(f"{kind.__name__} knows no {key}")
        if key in _INSTANTS and value is not None:
            found[key] = _instant(value)
        elif key in ("severity", "worst"):
            found[key] = Severity(value)
        else:
            found[key] = value
    return found


def _instant(text: object) -> datetime:
    at = datetime.fromisoformat(str(text))
    if at.utcoffset() is None:
        raise ValueError(f"{text!r} is no instant")
    return at


def _check(document: dict[str, Any]) -> None:
    from_document(document)


SCHEMA: Final = Schema(version=SCHEMA_VERSION, check=_check)
