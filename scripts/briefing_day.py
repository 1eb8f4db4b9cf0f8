"""What a briefing is written from: the day that is meant, and everything that is on record of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from core.errors import StateCorrupt, UsageError
from core.market_calendar import NEW_YORK, MarketCalendar
from execution.fold import Fold
from execution.ledger import new_york_day
from execution.observe.journal_look import Results, Seen, profit_usd
from execution.observe.story import Story
from scripts.recomputing import read_day

if TYPE_CHECKING:
    from cognitive.circuit_breakers import Board
    from core.journal import Record
    from execution.observe.facts import Facts
    from execution.observe.readiness import Readiness
    from execution.observe.state_look import Alerts
    from scripts import wiring

Row = Mapping[str, Any]
NOT_KEPT = "NOT_KEPT"
"""The code of what is known of now only, when a day that is over is asked for."""


class Phase(StrEnum):
    PREGAME = "pregame"
    HALFTIME = "halftime"
    POSTGAME = "postgame"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """`at` is the instant that the briefing knows of: now, or the phase's end on a day that is over."""

    phase: Phase
    session: date
    at: datetime
    past: bool


def asked(phase: Phase, day: date | None, now: datetime, calendar: MarketCalendar) -> Asked:
    """Without a day: the session that the phase is about now. Raises UsageError for a day that has no such briefing."""
    session = _usual(phase, now, calendar) if day is None else day
    if not calendar.is_session(session):
        raise UsageError(
            f"--date {session} is no session", code="NOT_A_SESSION",
            advice=f"the session after it is {calendar.next_session(session)}",
        )  # fmt: skip
    opens = calendar.opens_at(session)
    begins = opens if phase is not Phase.PREGAME else calendar.closes_at(calendar.previous_session(session))
    if now < begins:
        raise UsageError(
            f"the {phase} of {session} cannot be told before {begins.astimezone(NEW_YORK):%Y-%m-%d %H:%M} New York",
            code="BRIEFING_TOO_EARLY", advice="leave --date away for the session that can be told now",
        )  # fmt: skip
    end = datetime.combine(session + timedelta(days=1), time(), NEW_YORK) - timedelta(seconds=1)
    if now <= end:
        return Asked(phase=phase, session=session, at=now, past=False)
    middle = opens + (calendar.closes_at(session) - opens) / 2
    cut = {Phase.PREGAME: opens, Phase.HALFTIME: middle, Phase.POSTGAME: end.astimezone(opens.tzinfo)}[phase]
    return Asked(phase=phase, session=session, at=cut, past=True)


def _usual(phase: Phase, now: datetime, calendar: MarketCalendar) -> date:
    """Pregame: the next close's session. The others: the newest session that has opened."""
    session, today = calendar.session_at(now), new_york_day(now)
    if phase is Phase.PREGAME:
        return session if session is not None and now < calendar.closes_at(session) else calendar.next_session(today)
    return session if session is not None and now >= calendar.opens_at(session) else calendar.previous_session(today)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """`facts`, `ready` are of now, and None for a day that is over. `rows` are what the scans of the session kept."""

    asked: Asked
    context: wiring.Context
    facts: Facts | None
    ready: Readiness | None
    alerts: Alerts
    seen: Seen | None
    board: Board | None  # circuit breakers, as the journal tells them; None with `seen`
    journal_code: str  # why `seen` is None
    records: tuple[Record, ...]  # of the session's New York day
    rows: tuple[Row, ...]

    def kind(self, *kinds: str) -> list[Record]:
        return [record for record in self.records if record.kind in kinds]

    def code_of(self, name: str) -> str:
        """Why a field of the facts is not known."""
        if self.facts is None:
            return NOT_KEPT
        unknown = self.facts.unknown
        return unknown.get(name) or unknown.get(name.split(".")[0]) or "UNKNOWN"


def ground(context: wiring.Context, wanted: Asked, scan_times: str | None = None) -> Ground:
    """Takes no lock, asks no broker and no vendor; what cannot be read has its code."""
    from execution.observe.readiness import readiness
    from scripts import observing

    observer = observing.open_observer(context, scan_times)
    facts = None if wanted.past else observer.look()
    stalled_after_s = context.settings.sidecar.stalled_after_s
    told = _journal(context, wanted)
    rows = [row for row in read_day(context.home.logs, wanted.session).rows if _at(row, wanted)]
    return Ground(
        asked=wanted, context=context, facts=facts,
        ready=None if facts is None else readiness(facts, stalled_after_s=stalled_after_s),
        alerts=NOT_KEPT if wanted.past else observer.alerts(), seen=told.seen, board=told.board,
        journal_code=told.code, records=told.records, rows=tuple(rows),
    )  # fmt: skip


def _at(row: Row, wanted: Asked) -> bool:
    try:
        return datetime.fromisoformat(str(row["at"])) <= wanted.at
    except (KeyError, ValueError, TypeError):
        return False


@dataclass(frozen=True, slots=True)
class _Told:
    seen: Seen | None
    board: Board | None
    code: str
    records: tuple[Record, ...] = ()


def _journal(context: wiring.Context, wanted: Asked) -> _Told:
    """Ledger, story and breakers as they were then, and the records of that day."""
    from cognitive.circuit_breakers import Board
    from scripts import wiring

    fold, story, results, board = Fold(), Story(), Results(), Board()
    own: list[Record] = []
    try:
        for record in wiring.open_journal(context).records() if context.home.journal.exists() else ():
            if wanted.past and record.at > wanted.at:
                break
            fold.add(record)
            story.add(record)
            board.add(record.kind, record.body, record.seq, record.at)
            if new_york_day(record.at) == wanted.session:
                own.append(record)
    except StateCorrupt as error:
        return _Told(None, None, error.code)
    except OSError:
        return _Told(None, None, "JOURNAL_UNREADABLE")
    ledger = fold.ledger()
    for at, decision_id in story.closed:
        if (trade := ledger.trades.get(decision_id)) is not None:
            results.add(at, profit_usd(trade))
    if not story.records:
        return _Told(None, None, "JOURNAL_ABSENT")
    return _Told(Seen(ledger, story, results), board, "", tuple(own))
