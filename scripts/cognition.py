"""What a scan decides with beside its bars: model, memory, breakers and adviser, as values in one pure review.

`Mind` is one per process. For each scan it gathers what is known (`think`), hands the funnel a scorer and a reviewer,
and writes down what was said (`tell`): `signals_reviewed` in the journal, before any order, and one line per review in
logs/cognitive_decisions.jsonl. A scan made by hand writes the lines and no record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cognitive.breaker_rules import NOT_FINITE
from cognitive.circuit_breakers import UNREADABLE, Breakers
from cognitive.evidence import Counsel, Evidence, Lesson, Outcomes
from cognitive.review import Reviewed, review
from core import logs
from core.clock import SteppedClock
from core.domain import Signal
from core.errors import KobeError
from core.journal import Journal
from core.ports import Opinion, Regime, Review, Scorer

if TYPE_CHECKING:
    from cognitive.circuit_breakers import Lock
    from cognitive.episodes import Episode
    from config.settings_schema import Cognitive, ReviewRules
    from execution.desk import Desk
    from execution.ledger import Ledger
    from llm.analyzer import Analysed, Candidate, Door
    from ml_advanced.regime import RegimeModel
    from portfolio.choice import Reviewed as Scanned
    from portfolio.scan import ScanResult
    from scripts import remembering, wiring
    from scripts.breaking import BreakerWatch
    from scripts.remembering import Remembering

MODELS = "models.jsonl"
"""ml_advanced.model_store.CHAIN_FILE"""
ScorerOf = Callable[["wiring.Context", "wiring.MarketData", "Path | None"], Scorer | None]
RegimeOf = Callable[["wiring.Context", "wiring.MarketData", "Path | None"], Regime]
Remember = Callable[["wiring.Context", datetime], "Remembered"]


# ---------------------------------------------------------------- what is remembered
@dataclass(frozen=True, slots=True)
class Remembered:
    """What memory says of a signal. The functions take its numbers, strategy and regime."""

    code: str  # "OK", or why there is nothing
    belief: Callable[[str, str], Outcomes | None] = lambda strategy, regime: None
    similar: Callable[[Mapping[str, float], str], Outcomes | None] = lambda numbers, strategy: None
    lessons: Callable[[Mapping[str, float], str, str], Sequence[Lesson]] = lambda numbers, strategy, regime: ()


# ---------------------------------------------------------------- asking
class KeptOpinions:
    """A scorer whose answers are kept. What is no number is no opinion (L05)."""

    def __init__(self, inner: Scorer) -> None:
        self._inner = inner
        self.found: dict[str, Opinion] = {}

    def opinions(self, signals: Sequence[Signal]) -> Mapping[str, Opinion]:
        for decision_id, opinion in self._inner.opinions(signals).items():
            self.found[decision_id] = finite_opinion(opinion)
        return self.found


def finite_opinion(opinion: Opinion) -> Opinion:
    said = opinion.probability
    if said is None or (math.isfinite(said) and 0 <= said <= 1):
        return opinion
    logs.event("prediction_refused", code=NOT_FINITE, model=opinion.model, observed=str(said))
    logs.count("predictions_refused", code=NOT_FINITE)
    return Opinion(None, NOT_FINITE, opinion.model)


Ask = Callable[[Sequence[tuple[Signal, float]], Mapping[str, Evidence]], "Analysed | None"]
"""Signals with their scores, and their evidence -> the language model's advice; None: it is not to be asked."""


class EvidenceReviewer:
    """core.ports.Reviewer over gathered evidence. What it decided on is kept for those who write it down."""

    def __init__(self, evidence_of: Callable[[Signal], Evidence], ask: Ask, rules: ReviewRules) -> None:
        self._evidence_of, self._ask, self._rules = evidence_of, ask, rules
        self.made: dict[str, tuple[Evidence, Reviewed]] = {}
        self.analysed: Analysed | None = None

    def reviews(self, scored: Sequence[tuple[Signal, float]]) -> Mapping[str, Review]:
        known = {signal.decision_id: self._evidence_of(signal) for signal, _ in scored}
        alive = [(s, score) for s, score in scored if review(known[s.decision_id], self._rules).review.scale > 0]
        self.analysed = self._ask(alive, known) if alive else None  # what is vetoed already costs no call
        for decision_id, evidence in known.items():
            told = with_counsel(evidence, decision_id, self.analysed)
            self.made[decision_id] = (told, review(told, self._rules))
        return {decision_id: heard(*self.made[decision_id]) for decision_id in known}


def heard(evidence: Evidence, made: Reviewed) -> Review:
    """What the funnel is told. The language model takes away after the picks are chosen, so that its veto lets no other
    signal in; without its advice not one byte differs from its being off."""
    if evidence.counsel is None:
        return made.without_llm
    return replace(made.without_llm, codes=made.review.codes, final=made.review.scale)


def asks_for_advice(context: wiring.Context) -> bool:
    chosen = context.settings.cognitive.llm_analyzer
    return chosen.enabled and chosen.mode == "full"


def with_counsel(evidence: Evidence, decision_id: str, analysed: Analysed | None) -> Evidence:
    if analysed is None:
        return evidence
    advice = analysed.advice.get(decision_id)
    counsel = None if advice is None else Counsel(verdict=advice.verdict, scale=advice.scale, reasons=advice.reasons)
    return replace(evidence, counsel=counsel, counsel_code=analysed.code)


# ---------------------------------------------------------------- one scan
@dataclass(frozen=True, slots=True)
class Thought:
    """What one scan is decided with."""

    regime: Regime
    vix: float | None
    scorer: KeptOpinions | None
    reviewer: EvidenceReviewer
    numbers: Callable[[Signal], Mapping[str, float]]


@dataclass
class Mind:
    """Not thread-safe. `journal` and `watch` are the runner's; without them nothing is recorded and nothing trips."""

    context: wiring.Context
    journal: Journal | None = None
    watch: BreakerWatch | None = None
    door: Door | None = None  # None: opened when the mode asks for it
    remember: Remember | None = None  # None: from this home's memory
    scorer_of: ScorerOf | None = None  # None: the champion of models/, if there is one
    regime_of: RegimeOf | None = None  # None: the champion's, else the rule by VIX
    bars: Path | None = None  # the operator's own file, where the bars are its
    _advice: dict[tuple[object, ...], Analysed] = field(default_factory=dict)

    def think(self, data: wiring.MarketData, session: date) -> Thought:
        """Everything known before the funnel is asked. `session` is the one that is traded in."""
        regime = (self.regime_of or regime_now)(self.context, data, self.bars)
        locks, code = self._locks(session, regime)
        remembered = (self.remember or recall)(self.context, self.context.clock.now())
        scorer = (self.scorer_of or champion)(self.context, data, self.bars)
        kept = None if scorer is None else KeptOpinions(scorer)
        numbers = numbers_of(data)

        def evidence_of(signal: Signal) -> Evidence:
            known, strategy = numbers(signal), signal.strategy
            return Evidence(
                regime=regime, belief=remembered.belief(strategy, regime.label),
                similar=remembered.similar(known, strategy), memory_code=remembered.code,
                lessons=remembered.lessons(known, strategy, regime.label),
                opinion=None if kept is None else kept.found.get(signal.decision_id),
                locks=tuple(lock for lock in locks if lock.concerns(strategy, signal.symbol)), breakers_code=code,
            )  # fmt: skip

        def ask(scored: Sequence[tuple[Signal, float]], known: Mapping[str, Evidence]) -> Analysed | None:
            return self._ask(data, scored, known, numbers)

        rules = self.context.settings.cognitive.review
        return Thought(regime, data.vix, kept, EvidenceReviewer(evidence_of, ask, rules), numbers)

    def _locks(self, session: date, regime: Regime) -> tuple[Sequence[Lock], str]:
        if self.watch is not None:
            found = self.watch.look(session, regime)
            return found, UNREADABLE if self.watch.blind else "OK"
        if not self.context.settings.cognitive.circuit_breakers.enabled:
            return (), "OK"
        return standing_locks(self.context, session)

    # ------------------------------------------------------------ the language model
    def _ask(
        self, data: wiring.MarketData, scored: Sequence[tuple[Signal, float]], known: Mapping[str, Evidence],
        numbers: Callable[[Signal], Mapping[str, float]],
    ) -> Analysed | None:  # fmt: skip
        """Once per scan, about all candidates, before any order; the same candidates of a session are asked once."""
        if not asks_for_advice(self.context):
            return None
        from llm.analyzer import analyse

        candidates = [candidate(signal, score, known[signal.decision_id], numbers(signal)) for signal, score in scored]
        key = (data.session, data.snapshot_sha256, *((c.decision_id, c.score) for c in candidates))
        if key not in self._advice:
            found = analyse(
                candidates, session=data.session, data_sha256=data.snapshot_sha256, door=self._opened()
            )  # fmt: skip
            if found.code != "OK":
                logs.event("advice_absent", code=found.code, candidates=len(candidates))
                logs.count("advice_absent", code=found.code)
                return found  # it may be there at the next scan
            self._advice = {key: found}
        return self._advice[key]

    def _opened(self) -> Door:
        if self.door is None:
            from llm.client import open_door

            context = self.context
            self.door = open_door(
                context.settings.cognitive.llm_analyzer, key=context.keys.anthropic,
                base_url=context.endpoints.anthropic, clock=context.clock, calendar=context.calendar, home=context.home,
                replay=isinstance(context.clock, SteppedClock) and not context.keys.anthropic,
            )  # fmt: skip
        return self.door

    # ------------------------------------------------------------ writing down
    def tell(self, run_id: str, thought: Thought, result: ScanResult) -> None:
        """Before any order. Raises StateCorrupt when the journal refuses: then nothing may be entered."""
        rows = [row for item in result.reviewed if (row := signal_row(thought, item)) is not None]
        if not rows:
            return
        body = {
            "run": run_id, "session": result.session, "regime": regime_row(thought.regime), "vix": thought.vix,
            "signals": rows,
        }  # fmt: skip
        if self.journal is not None:
            self.journal.append("signals_reviewed", body)
        for row in rows:
            self._line(run_id, result.session, row, thought.reviewer.made[row["decision_id"]])

    def _line(self, run_id: str, session: date, row: Mapping[str, Any], made: tuple[Evidence, Reviewed]) -> None:
        evidence, reviewed = made
        logs.decision_event(
            "signal_reviewed", run=run_id, session=session, decision_id=row["decision_id"], symbol=row["symbol"],
            strategy=row["strategy"], score=row["score"], verdict=reviewed.verdict, scale=reviewed.review.scale,
            confidence=reviewed.review.confidence, reasons=list(reviewed.review.codes), evidence=evidence.to_json(),
            numbers=row["numbers"], without_llm=row["without_llm"], opinion=row["opinion"],
        )  # fmt: skip
        logs.count("signals_reviewed", verdict=reviewed.verdict)


def signal_row(thought: Thought, item: Scanned) -> dict[str, Any] | None:
    """One signal of `signals_reviewed`; None for one that the reviewer was not asked about."""
    signal = item.scored.signal
    made = thought.reviewer.made.get(signal.decision_id)
    if made is None:
        return None
    evidence, reviewed = made
    opinion = evidence.opinion or Opinion(None, "MODEL_ABSENT")
    advised = thought.reviewer.analysed
    return {
        "decision_id": signal.decision_id, "symbol": str(signal.symbol), "strategy": signal.strategy,
        "score": item.scored.score, "parts": dict(item.scored.parts), "numbers": thought.numbers(signal),
        "opinion": {"probability": opinion.probability, "code": opinion.code, "model": opinion.model or None},
        "review": {"scale": reviewed.review.scale, "codes": list(reviewed.review.codes),
                   "confidence": reviewed.review.confidence},
        "without_llm": {"scale": reviewed.without_llm.scale, "codes": list(reviewed.without_llm.codes)},
        "llm": None if advised is None else llm_row(evidence, advised),
    }  # fmt: skip


def llm_row(evidence: Evidence, advised: Analysed) -> dict[str, Any]:
    counsel = evidence.counsel
    return {
        "code": advised.code, "model": advised.model, "request_sha256": advised.request_sha256,
        "cached": advised.cached, "verdict": None if counsel is None else counsel.verdict,
        "scale": None if counsel is None else counsel.scale,
        "reasons": [] if counsel is None else list(counsel.reasons),
    }  # fmt: skip


def regime_row(regime: Regime) -> dict[str, Any]:
    return {
        "label": regime.label, "session": regime.session, "since": regime.since, "probability": regime.probability,
        "source": regime.source, "code": regime.code,
    }  # fmt: skip


# ---------------------------------------------------------------- where the values come from
def numbers_of(data: wiring.MarketData) -> Callable[[Signal], dict[str, float]]:
    """The numbers that a decision is remembered by: the signal's own, close, stop and median dollar volume. Finite."""
    import numpy as np

    from portfolio.facts import dollar_volumes

    columns = {symbol: k for k, symbol in enumerate(data.panel.symbols)}

    def numbers(signal: Signal) -> dict[str, float]:
        found = {**signal.numbers, "close": signal.close, "stop": signal.stop}
        column = columns.get(signal.symbol)
        if column is not None:
            row = np.array([int(data.panel.length[column]) - 1])
            found["dollar_volume"] = float(dollar_volumes(data.panel, row, np.array([column]))[0])
        return {name: float(value) for name, value in sorted(found.items()) if math.isfinite(value)}

    return numbers


def candidate(signal: Signal, score: float, evidence: Evidence, numbers: Mapping[str, float]) -> Candidate:
    """What the language model is told: numbers of ours, and nothing that was written outside."""
    from llm.analyzer import Candidate

    facts: dict[str, float | str] = {**numbers, "regime": evidence.regime.label}
    if evidence.belief is not None:
        facts["trades_alike"] = float(evidence.belief.n)
    return Candidate(
        decision_id=signal.decision_id, symbol=str(signal.symbol), strategy=signal.strategy, score=score, facts=facts
    )


def regime_now(context: wiring.Context, data: wiring.MarketData, bars: Path | None) -> Regime:
    """By the champion's regime model, else by the VIX of the session. What fails is told, and nothing is known."""
    from scripts.ml_scan import scan_regime

    try:
        return scan_regime(context, data, _regime_model(context, data), bars)
    except (KobeError, OSError, ValueError) as error:
        code = error.code if isinstance(error, KobeError) else "REGIME_UNKNOWN"
        logs.event("regime_unknown", code=code, detail=str(error))
        logs.count("regime_unknown", code=code)
        return Regime(
            label="unknown", session=data.session, since=None, probability=None, source="none", code="REGIME_UNKNOWN"
        )


def _trained(context: wiring.Context) -> bool:
    """Whether a model was ever trained here. Without one, a scan does not spend its time on importing what asks it."""
    return context.settings.ml.enabled and (context.home.state / MODELS).exists()


def _regime_model(context: wiring.Context, data: wiring.MarketData) -> RegimeModel | None:
    if not _trained(context):
        return None
    from ml_advanced.ensemble.ensemble_predictor import EnsemblePredictor
    from scripts.modelling import regime_model, today

    session = today(context.clock)
    return regime_model(EnsemblePredictor(context.home, session=session, simulated=data.simulated))


def champion(context: wiring.Context, data: wiring.MarketData, bars: Path | None) -> Scorer | None:
    """The model that earned it; None where nothing was ever trained."""
    if not _trained(context):
        return None
    from scripts.modelling import scorer_for

    return scorer_for(context, data, bars)


def recalled(mind: remembering.Mind, at: datetime, settings: Cognitive) -> Remembered:
    """What the memory says, as the review wants it. Only what was known before `at`."""
    from cognitive.episodes import features_of
    from cognitive.episodic_memory import Compared

    by_strategy: dict[str, list[Episode]] = {}
    for episode in mind.memory.before(at):
        if episode.outcome is not None:
            by_strategy.setdefault(episode.strategy, []).append(episode)
    ready = {strategy: Compared(own) for strategy, own in by_strategy.items() if len(own) >= settings.review.least}

    def belief(strategy: str, regime: str) -> Outcomes | None:
        found = mind.self_model.belief(strategy, regime)
        if not found.n:
            return None  # what it would say is a prior
        return Outcomes(
            n=found.n, win_rate=found.mean, mean_r=found.expectancy_r, low_r=found.expectancy_low,
            high_r=found.expectancy_high,
        )  # fmt: skip

    def similar(numbers: Mapping[str, float], strategy: str) -> Outcomes | None:
        if strategy not in ready:
            return None
        found = ready[strategy].nearest(features_of(numbers), settings.memory.similar_most)
        low, high = found.interval or (None, None)
        return Outcomes(n=found.n, win_rate=found.win_rate, mean_r=found.mean_r, low_r=low, high_r=high)

    def lessons(numbers: Mapping[str, float], strategy: str, regime: str) -> Sequence[Lesson]:
        found = [one for one in mind.learnings if one.applies(numbers, strategy, regime)]
        return tuple(Lesson(id=one.id, shrink=one.shrink) for one in found)

    return Remembered(mind.code, belief, similar, lessons)


def recall(context: wiring.Context, at: datetime) -> Remembered:
    """For a scan by hand: the memory file and what the journal tells after it; nothing is written."""
    if not context.home.journal.exists():
        return Remembered("MEMORY_EMPTY")
    from execution.fold import Fold
    from scripts.remembering import Remembering

    journal = Journal(context.home.journal, context.clock)

    def ledger() -> Ledger:
        fold = Fold()
        for record in journal.records():
            fold.add(record)
        return fold.ledger()

    return recalled(Remembering(context, journal, ledger).mind(at), at, context.settings.cognitive)


def standing_locks(context: wiring.Context, session: date) -> tuple[Sequence[Lock], str]:
    """For a scan by hand: what the journal says stands; nothing is written."""
    settings = context.settings.cognitive.circuit_breakers
    try:
        journal = Journal(context.home.journal, context.clock)
        return Breakers(journal, context.home.state, context.calendar, settings).look().standing(session), "OK"
    except (KobeError, OSError) as error:
        logs.error_event("breakers_unreadable", code=UNREADABLE, detail=str(error))
        return (), UNREADABLE


def runners_mind(
    context: wiring.Context, desk: Desk, remembers: Remembering | None = None, bars: Path | None = None
) -> Mind:
    """Of a process that trades: breakers are judged, and what was said is recorded."""
    from scripts.breaking import BreakerWatch
    from scripts.remembering import Remembering

    memory = remembers or Remembering(context, desk.journal, desk.ledger)
    if asks_for_advice(context):
        from llm.client import warm

        warm()  # not in the middle of a scan

    def remember(context: wiring.Context, at: datetime) -> Remembered:
        return recalled(memory.mind(at), at, context.settings.cognitive)

    watch = BreakerWatch(context, desk.journal, desk.ledger)
    return Mind(context, desk.journal, watch, remember=remember, bars=bars)
