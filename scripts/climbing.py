"""What ladder.py does: read evidence from a home, judge it, write one step."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.loader import load_settings
from core import logs
from core.env import load_dotenv
from core.errors import ConfigError, StateCorrupt, UsageError
from core.journal import Journal, verify
from core.paths import Home, home
from execution.fold import Fold
from execution.ladder import EVIDENCE_ELSEWHERE, STEP, Criterion, Evidence, Rung, criteria, unmet
from scripts import arming_live, wiring


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the home stands after the command; `asked` are the criteria of the next rung, or those just met."""

    rung: Rung
    next: Rung | None
    asked: tuple[Criterion, ...] = ()
    notes: tuple[str, ...] = ()
    moved: bool = False
    came_from: Rung | None = None
    record: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "rung": str(self.rung), "next": None if self.next is None else str(self.next), "moved": self.moved,
            "record": self.record, "criteria": [c.to_json() for c in self.asked], "notes": list(self.notes),
        }  # fmt: skip


def act(args: argparse.Namespace) -> Standing:
    """Raises UsageError for combinations that cannot be, StateCorrupt for a journal that does not verify."""
    load_dotenv(args.dotenv)
    logs.configure(home(), wiring.real_clock(), run_id="ladder", mode="")
    if args.action == "back":
        return _back(args)
    if args.to is not None:
        raise UsageError("--to goes with back; up it goes one rung at a time")
    return _look(args.evidence, step=args.action == "advance", reason=args.reason)


def _look(evidence: Path | None, *, step: bool, reason: str | None) -> Standing:
    now = arming_live.history(home().journal, wiring.real_clock()).ladder
    to = now.rung.next
    if to is None:
        return Standing(now.rung, None, notes=("this is the top",))
    if to in EVIDENCE_ELSEWHERE and evidence is None:
        if step:
            raise UsageError(f"{to} wants --evidence HOME: {_WHERE[to]}")
        return Standing(now.rung, to, notes=(f"{to} wants --evidence HOME: {_WHERE[to]}",))
    if to not in EVIDENCE_ELSEWHERE and evidence is not None:
        raise UsageError(f"{to} is judged by this home's own records, not by --evidence")
    place = Home(evidence.resolve()) if evidence is not None else home()
    found, head = _evidence(place, after=0 if evidence is not None else now.since_seq)
    asked = _marked(to, place, criteria(to, found, load_settings().ladder))
    if not step or unmet(asked):
        return Standing(now.rung, to, asked)
    body = {
        "from": str(now.rung), "to": str(to), "reason": reason or "criteria met",
        "criteria": [c.to_json() for c in asked], "evidence": {"home": place.root.name, "head": head},
    }  # fmt: skip
    return Standing(to, to.next, asked, moved=True, came_from=now.rung, record=_step(body))


_WHERE = {Rung.PAPER: "the KOBE_HOME of a replay", Rung.SHADOW: "the KOBE_HOME of the paper account"}


def _evidence(place: Home, *, after: int) -> tuple[Evidence, str]:
    """What that home shows, and the head of its journal as it was read. Raises StateCorrupt."""
    result = verify(place.journal)
    if not result.ok:
        raise StateCorrupt(f"the journal of {place.root} does not verify: {result.why}")
    records, fold = list(Journal(place.journal, wiring.real_clock()).records()), Fold()
    for record in records:
        fold.add(record)
    return Evidence.of(
        records, after=after, unsettled=len(fold.ledger().unsettled())
    ), f"{result.records}:{result.head}"


def _marked(to: Rung, place: Home, asked: tuple[Criterion, ...]) -> tuple[Criterion, ...]:
    """A replay is told by its mark, and proves nothing about a paper account."""
    replayed = (place.state / "replay.json").is_file()
    if to is Rung.PAPER:
        return (Criterion("the home of a replay", "yes" if replayed else "no", "yes", replayed), *asked)
    return (Criterion("a clock that was not led", "no" if replayed else "yes", "yes", not replayed), *asked)


def _back(args: argparse.Namespace) -> Standing:
    if not args.reason:
        raise UsageError("back wants --reason TEXT: it is kept in the journal")
    now = arming_live.history(home().journal, wiring.real_clock()).ladder
    if args.to is not None and args.to not in set(Rung):
        raise UsageError(f"--to {args.to}: there are {', '.join(Rung)}")
    to = Rung(args.to) if args.to is not None else tuple(Rung)[max(now.rung.height - 1, 0)]
    if to.height >= now.rung.height:
        raise UsageError(f"this home stands on {now.rung}; {to} is not below it")
    _refuse_to_leave(to)
    body = {"from": str(now.rung), "to": str(to), "reason": args.reason, "criteria": [], "evidence": None}
    return Standing(to, to.next, moved=True, came_from=now.rung, record=_step(body))


def _refuse_to_leave(to: Rung) -> None:
    """A runner that starts below one_share sends nothing: nobody would look after what is held. Raises ConfigError."""
    if to.height >= Rung.ONE_SHARE.height:
        return
    fold = Fold()
    for record in Journal(home().journal, wiring.real_clock()).records():
        fold.add(record)
    ledger = fold.ledger()
    left = sorted({*ledger.positions, *(order.intent.symbol for order in ledger.working())})
    if left:
        raise ConfigError(
            f"{', '.join(left)}: held or ordered; from {to} nobody would protect or sell it", code="LADDER_HOLDING",
            advice="first python scripts/close_all_positions.py --confirm, or --to one_share",
        )  # fmt: skip


def _step(body: dict[str, Any]) -> int:
    home().state.mkdir(parents=True, exist_ok=True)
    made = Journal(home().journal, wiring.real_clock()).append(STEP, body)
    logs.event(STEP, code="LADDER_STEP", rung_from=body["from"], rung_to=body["to"], reason=body["reason"])
    logs.count("ladder_steps", to=body["to"])
    return made.seq
