"""From the signals of one session to picks: VIX, earnings, quality score, reviewer, selection. Pure.

A scan and the portfolio backtest ask these very questions, in this order; the first "no" ends a signal.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from config.settings_schema import Settings
from core.domain import Mode, Signal, Symbol
from core.earnings_filter import CLEAR, earnings_verdict
from core.market_calendar import NEW_YORK
from core.ports import EarningsCalendar, Opinion, Review, Reviewer, Scorer
from portfolio.quality_gate import Facts, Scored, score
from portfolio.selection import Candidate, Correlate, Rules, select

if TYPE_CHECKING:
    from core.market_calendar import MarketCalendar

_FULL, _HALF = Decimal(1), Decimal("0.5")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
# The later a question is asked, the further a signal came: a symbol with two signals shows the one that came furthest.
STAGES = ("SETUP", "VIX", "EARNINGS", "SCORE", "REVIEW", "SELECTION")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why one considered symbol was picked or not."""

    symbol: Symbol
    code: str
    strategy: str | None
    rule: str  # the condition that decided; the code itself unless it is finer
    numbers: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    def to_json(self) -> dict[str, Any]:
        return {
            "symbol": self.symbol,
            "code": self.code,
            "strategy": self.strategy,
            "rule": self.rule,
            "numbers": {name: _plain(value) for name, value in self.numbers.items()},
        }


@dataclass(frozen=True, slots=True)
class Pick:
    signal: Signal
    score: float
    target: float | None  # indicative: measured from the close; the real one from the fill
    scale: Decimal  # part of the full size, 0..1
    reasons: tuple[str, ...]
    full: Decimal | None = None  # the part before `Review.final` took of it; None: nothing was taken

    def to_json(self) -> dict[str, Any]:
        return {
            "symbol": self.signal.symbol,
            "strategy": self.signal.strategy,
            "score": self.score,
            "signal_session": self.signal.session.isoformat(),
            "close": self.signal.close,
            "stop": self.signal.stop,
            "target": self.target,
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True, slots=True)
class Found:
    """A signal on its way through the questions."""

    signal: Signal
    facts: Facts


@dataclass(frozen=True, slots=True)
class No:
    stage: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A signal that its score let through, with all that was said of it; `review` is None without a reviewer."""

    scored: Scored
    facts: Facts
    opinion: Opinion | None
    review: Review | None


@dataclass(frozen=True, slots=True)
class Chosen:
    picks: tuple[Pick, ...]  # in the order of selection
    nos: tuple[No, ...]  # the objection to every other signal
    opinions: Mapping[str, Opinion]  # what the model said, by decision id
    reviewed: tuple[Reviewed, ...]
    kept_free: tuple[Pick, ...] = ()  # all that were chosen, those of which nothing is left too (scale 0)


def choose(
    found: Sequence[Found],
    questions: Questions,
    rules: Rules,
    *,
    sectors: Mapping[Symbol, str | None],
    correlate: Correlate,
    held: Mapping[Symbol, Decimal],
    taken: Collection[str] = (),
) -> Chosen:
    """held, taken: see portfolio.selection."""
    asked = questions.answers(found)
    passed = [answer for answer in asked.answers if isinstance(answer, Passed)]
    candidates = [answer.candidate for answer in passed]
    selection = select(candidates, rules, sectors=sectors, correlate=correlate, held=held, taken=taken)
    known = {id(answer.candidate): answer for answer in passed}
    chosen = [known[id(candidate)] for candidate in selection.picks]
    every = tuple(_pick(one, taken) for one in chosen)
    picks = tuple(pick for pick in every if pick.scale > 0)
    nos = [answer for answer in asked.answers if isinstance(answer, No)]
    nos += [_vetoed(one.candidate.scored.signal, one.notes, one.part) for one in chosen if one.part <= 0]
    nos += [_no("SELECTION", r.candidate.scored.signal, r.code, r.numbers) for r in selection.refused]
    return Chosen(picks, tuple(nos), asked.opinions, asked.reviewed, every)


@dataclass(frozen=True, slots=True)
class Passed:
    """`part`: of the full size, once it is chosen; selection itself sees the candidate's scale."""

    candidate: Candidate
    notes: tuple[str, ...]  # they follow the score's own reasons
    part: Decimal


@dataclass(frozen=True, slots=True)
class Asked:
    answers: list[No | Passed]  # one per signal, in their order
    opinions: Mapping[str, Opinion]
    reviewed: tuple[Reviewed, ...]


@dataclass(frozen=True, slots=True)
class Questions:
    """What every signal is asked before selection, in order; the first objection ends it."""

    settings: Settings
    vix: tuple[Decimal, tuple[str, Mapping[str, Any]] | None]  # from vix_scale
    earnings: EarningsRule
    scorer: Scorer | None
    reviewer: Reviewer | None

    def answers(self, found: Sequence[Found]) -> Asked:
        """Model and reviewer are asked once each, about all signals that came so far."""
        allowed = [self._allowed(item) for item in found]
        signals = [item.signal for item, notes in zip(found, allowed, strict=True) if not isinstance(notes, No)]
        opinions = self.scorer.opinions(signals) if self.scorer is not None and signals else {}
        scored = [
            notes if isinstance(notes, No) else self._scored(item, opinions.get(item.signal.decision_id), notes)
            for item, notes in zip(found, allowed, strict=True)
        ]
        passed = [(item, a.candidate.scored) for item, a in zip(found, scored, strict=True) if isinstance(a, Passed)]
        if self.reviewer is None or not passed:
            return Asked(scored, opinions, _told(passed, opinions, {}))
        reviews = self.reviewer.reviews([(one.signal, one.score) for _, one in passed])
        answers = [a if isinstance(a, No) else _shrunk(a, reviews.get(_id(a.candidate.scored))) for a in scored]
        return Asked(answers, opinions, _told(passed, opinions, reviews))

    def _allowed(self, item: Found) -> No | tuple[str, ...]:
        """VIX and earnings: an objection, or notes."""
        scale, vix_objection = self.vix
        if vix_objection is not None:
            return _no("VIX", item.signal, *vix_objection)
        objection, notes = self.earnings.ask(item.signal.symbol)
        if objection is not None:
            return _no("EARNINGS", item.signal, *objection)
        return (*((f"VIX_SCALE_{scale}",) if scale < 1 else ()), *notes)

    def _scored(self, item: Found, opinion: Opinion | None, notes: tuple[str, ...]) -> No | Passed:
        scored = score(item.signal, item.facts, opinion, self.settings.quality_gate.weights)
        least = float(self.settings.quality_gate.min_score)
        if scored.score < least:
            numbers = {"score": scored.score, "limit": least, **scored.parts}
            return _no("SCORE", item.signal, "SCORE_BELOW_MIN", numbers)
        return Passed(Candidate(scored, self.vix[0]), notes, self.vix[0])


def _id(scored: Scored) -> str:
    return scored.signal.decision_id


def _told(
    passed: Sequence[tuple[Found, Scored]], opinions: Mapping[str, Opinion], reviews: Mapping[str, Review]
) -> tuple[Reviewed, ...]:
    return tuple(Reviewed(one, item.facts, opinions.get(_id(one)), reviews.get(_id(one))) for item, one in passed)


def _shrunk(passed: Passed, review: Review | None) -> No | Passed:
    """A reviewer may only shrink: what is outside 0..1 (NaN too), or no answer, cannot be acted on: a veto."""
    candidate = passed.candidate
    if review is None:
        return _no("REVIEW", candidate.scored.signal, "REVIEW_ABSENT", {})
    if not (review.scale.is_finite() and 0 < review.scale <= 1):
        return _vetoed(candidate.scored.signal, review.codes, review.scale)
    final = review.scale if review.final is None else review.final
    final = final if final.is_finite() and 0 <= final <= review.scale else Decimal(0)
    made = Candidate(candidate.scored, candidate.scale * review.scale)
    return Passed(made, (*passed.notes, *review.codes), candidate.scale * final)


def _vetoed(signal: Signal, codes: Sequence[str], scale: Decimal) -> No:
    return _no("REVIEW", signal, "REVIEW_VETO", {"codes": list(codes), "scale": str(scale)})


def vix_scale(vix: float | None, settings: Settings) -> tuple[Decimal, tuple[str, Mapping[str, Any]] | None]:
    """(size factor, None), or (0, objection). Below 25 full size, 25 to 35 half, above 35 or unknown no new entry."""
    limits = settings.risk.vix
    if vix is None or not math.isfinite(vix) or vix <= 0:
        return Decimal(0), ("VIX_UNKNOWN", {"vix": None})
    if vix > float(limits.stop_above):
        return Decimal(0), ("VIX_STOP", {"vix": vix, "limit": float(limits.stop_above)})
    return (_HALF if vix >= float(limits.halve_from) else _FULL), None


@dataclass(frozen=True, slots=True)
class EarningsRule:
    """No entry around an announcement; the rule itself is core.earnings_filter."""

    source: EarningsCalendar
    settings: Settings
    mode: Mode
    entry: date
    calendar: MarketCalendar | None

    def ask(self, symbol: Symbol) -> tuple[tuple[str, Mapping[str, Any]] | None, tuple[str, ...]]:
        """(objection or None, notes)."""
        rule = self.settings.filters.earnings
        if not rule.enabled:
            return None, ("EARNINGS_FILTER_OFF",)
        dates = self.source.dates(symbol)
        allowed, code = earnings_verdict(
            dates,
            self.entry,
            days_before=rule.days_before,
            days_after=rule.days_after,
            on_unknown=rule.on_unknown or ("refuse" if self.mode is Mode.LIVE else "warn"),
            calendar=self.calendar,
        )
        if allowed:
            return None, () if code == CLEAR else (code,)
        closest = min(dates, key=lambda day: (abs((day - self.entry).days), day)) if dates else None
        return (code, {"entry": self.entry.isoformat(), "announcement": closest.isoformat() if closest else None}), ()


def entry_session(as_of: datetime, session: date, calendar: MarketCalendar | None) -> date:
    """The day an entry would be made: the date of as_of in New York, or the session after the scanned one."""
    today = as_of.astimezone(NEW_YORK).date()
    if today > session:
        return today
    if calendar is not None:
        return calendar.next_session(session)
    following = (date.fromordinal(session.toordinal() + n) for n in (1, 2, 3))
    return next(day for day in following if day.weekday() < 5)


def _no(stage: str, signal: Signal, code: str, numbers: Mapping[str, Any]) -> No:
    return No(stage, Verdict(signal.symbol, code, signal.strategy, code, numbers))


def _pick(passed: Passed, taken: Collection[str]) -> Pick:
    scored: Scored = passed.candidate.scored
    signal = scored.signal
    target = None if signal.target_r is None else signal.close + signal.target_r * (signal.close - signal.stop)
    mark = ("ALREADY_TAKEN",) if signal.decision_id in taken else ()
    full = passed.candidate.scale if passed.part < passed.candidate.scale else None
    return Pick(signal, scored.score, target, passed.part, (*scored.reasons, *passed.notes, *mark), full)


def _plain(value: Any) -> Any:
    """JSON has no NaN: an undefined number is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
