"""The ladder to live money: replay, paper, shadow-live, one share, full. Pure: records in, what may be climbed out.

A rung is entered by a record in the journal of the live account's home, with the criteria as they were met. Evidence
for the lower rungs lies in other homes, because a journal belongs to one account; the live rungs are judged by the
records that follow the last step. At `shadow` every order is decided and written down and none is sent; at `one_share`
no buy is of more than one share. Going back needs nothing but a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.settings_schema import Ladder
    from core.journal_record import Record

STEP = "ladder_step"
SHADOW_CODE = "SHADOW_LIVE"


class Rung(StrEnum):
    REPLAY = "replay"
    PAPER = "paper"
    SHADOW = "shadow"
    ONE_SHARE = "one_share"
    FULL = "full"

    @property
    def height(self) -> int:
        return _HEIGHTS[self]

    @property
    def next(self) -> Rung | None:
        return None if self is Rung.FULL else tuple(Rung)[self.height + 1]

    @property
    def trades_live(self) -> bool:
        """Whether `runner --mode live` may start here at all."""
        return self.height >= Rung.SHADOW.height


_HEIGHTS = {rung: height for height, rung in enumerate(Rung)}
EVIDENCE_ELSEWHERE = frozenset({Rung.PAPER, Rung.SHADOW})
"""Rungs whose criteria are looked for in another home: of a replay, of the paper account."""


class LadderHistory:
    """Where this home stands, folded from its journal."""

    def __init__(self) -> None:
        self.rung = Rung.REPLAY
        self.since_seq = 0  # the step onto this rung; what follows it is its evidence

    def add(self, seq: int, kind: str, body: Mapping[str, Any]) -> None:
        """Raises ValueError for a rung that nobody knows: then nothing is allowed."""
        if kind == STEP:
            self.rung, self.since_seq = Rung(str(body["to"])), seq


@dataclass
class Evidence:
    """What a stretch of journal shows of how the system behaved."""

    account_mode: str = ""
    account_id: str = ""
    sessions: set[str] = field(default_factory=set)  # with at least one scan
    scans: int = 0
    missed: int = 0
    bugs: int = 0
    kept_back: int = 0  # intents that the shadow rung did not send
    acknowledged: int = 0  # orders that a broker had
    entries_filled: int = 0
    breaks: int | None = None  # at the last scan
    watchdog_trips: int = 0
    unsettled: int | None = None  # orders that may be live at the end; told by the caller, who has a ledger

    @classmethod
    def of(cls, records: Iterable[Record], *, after: int = 0, unsettled: int) -> Evidence:
        """`after`: only records behind this number count; the account is that of the whole journal."""
        found = cls(unsettled=unsettled)
        filled: set[str] = set()
        for record in records:
            if record.kind == "account_bound":
                found.account_mode, found.account_id = str(record.body["mode"]), str(record.body["id"])
            if record.seq > after:
                found._take(record, filled)
        found.entries_filled = len(filled)
        return found

    def _take(self, record: Record, filled: set[str]) -> None:
        body = record.body
        if record.kind == "scan_run":
            self.breaks = int(body.get("breaks") or 0)
            if not str(body["run"]).endswith("close"):
                self.scans += 1
                self.sessions.add(str(body["run"])[:10])
        elif record.kind == "run_missed" and body["code"] != "SKIPPED_HALF_DAY" and not body["run"].endswith("close"):
            self.missed += 1
        elif record.kind == "runs_missed":
            self.missed += int(body["runs"])
        elif record.kind == "run_failed" and body["code"] == "BUG":
            self.bugs += 1
        elif record.kind == "order_not_sent" and body["code"] == SHADOW_CODE:
            self.kept_back += 1
        elif record.kind == "order_acknowledged":
            self.acknowledged += 1
        elif record.kind == "order_filled" and "-entry-" in str(body["client_order_id"]):
            filled.add(str(body["client_order_id"]))
        elif record.kind == "watchdog_tripped":
            self.watchdog_trips += 1

    @property
    def missed_fraction(self) -> float:
        """Of the scans that were due; everything when none was."""
        due = self.scans + self.missed
        return self.missed / due if due else 1.0


@dataclass(frozen=True, slots=True)
class Criterion:
    """One condition of a rung: what was observed, what is asked."""

    name: str
    observed: str
    asked: str
    met: bool

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "observed": self.observed, "asked": self.asked, "met": self.met}


def criteria(to: Rung, found: Evidence, needs: Ladder) -> tuple[Criterion, ...]:
    """What must hold before `to` is entered. An unknown number meets nothing."""
    always = (_none("unsettled orders", found.unsettled), _none("breaks at the last scan", found.breaks),
              _none("scans that ended in a bug", found.bugs))  # fmt: skip
    missed = _at_most("scans missed", found.missed_fraction, needs.missed_max_pct)
    own: tuple[Criterion, ...]
    if to is Rung.PAPER:
        own = (_at_least("sessions replayed", len(found.sessions), needs.replay_sessions),
               _at_least("entries filled", found.entries_filled, 1))  # fmt: skip
    elif to is Rung.SHADOW:
        own = (_is("the account's mode", found.account_mode, "paper"), missed,
               _at_least("sessions on paper", len(found.sessions), needs.paper_sessions),
               _at_least("entries filled", found.entries_filled, needs.paper_fills))  # fmt: skip
    elif to is Rung.ONE_SHARE:
        own = (_is("the account's mode", found.account_mode, "live"), missed,
               _at_least("sessions in the shadow", len(found.sessions), needs.shadow_sessions),
               _at_least("orders decided and kept back", found.kept_back, needs.shadow_intents),
               _none("orders that left", found.acknowledged))  # fmt: skip
    elif to is Rung.FULL:
        own = (_is("the account's mode", found.account_mode, "live"), missed,
               _at_least("sessions with one share", len(found.sessions), needs.one_share_sessions),
               _at_least("entries filled", found.entries_filled, needs.one_share_fills),
               _none("watchdog trips", found.watchdog_trips))  # fmt: skip
    else:
        raise ValueError(f"{to} is where everybody begins")
    return (*own, *always)


def unmet(asked: Sequence[Criterion]) -> tuple[Criterion, ...]:
    return tuple(c for c in asked if not c.met)


def _at_least(name: str, observed: int, least: int) -> Criterion:
    return Criterion(name, str(observed), f"at least {least}", observed >= least)


def _at_most(name: str, observed: float, most: float) -> Criterion:
    return Criterion(name, f"{observed:.1%}", f"at most {most:.1%}", observed <= most)


def _none(name: str, observed: int | None) -> Criterion:
    return Criterion(name, "unknown" if observed is None else str(observed), "0", observed == 0)


def _is(name: str, observed: str, wanted: str) -> Criterion:
    return Criterion(name, observed or "unknown", wanted, observed == wanted)
