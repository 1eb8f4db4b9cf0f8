"""What can be learned from closed trades, and what has to be unlearned. Pure: episodes and book in, changes out.

Two steps, so that no learning rests on the decisions that it was found in:

1. *Search*, at the week's end. Every condition that enough decisions met (strategy, regime, both, or a feature of a
   strategy below or above a quartile) is asked: did those do worse than the others? Harm only: a learning can only make
   us more careful. All are counted; Benjamini-Hochberg at `discovery_fdr`. The best one that lost money becomes a
   candidate, in the journal, before the decisions come that will test it.
2. *Test*, after each closed trade. When `confirm_least` later decisions that met it are closed, and as many that did
   not, it is judged on exactly those; when it did worse, but not clearly, once more on twice as many. The k-th
   candidate ever has to pass at `alpha` / (2 k (k + 1)) each time. These add up to `alpha`, so that over the whole life
   of the journal the chance of adopting anything from pure noise is at most `alpha`, however often was searched and
   whatever the search found.

An adopted learning is watched: when the newest `confirm_least` decisions that meet it did not do worse any more, or
made money, it is retired. It shrinks and never vetoes, so that its decisions are still made and can prove it wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cognitive.effects import Bools, Effects, Floats, Ints, benjamini_hochberg, effects
from cognitive.episodes import UNKNOWN_REGIME, Episode, Outcome, features_of
from cognitive.learnings import Condition, Evidence, Learning, LearningBook, Op, Status

if TYPE_CHECKING:
    from config.settings_schema import ReflectionSettings

INTERVAL = 0.95
LOOKS = (1, 2)
"""A candidate is judged when so many times `confirm_least` decisions can judge it."""
QUARTILES = (0.25, 0.5, 0.75)
SIDES: tuple[tuple[int, Op], ...] = ((0, "<="), (1, "<="), (1, ">="), (2, ">="))
LIGHTEST = Decimal("0.95")
"""What an adopted learning shrinks to at least: less would change nothing that can be measured."""
DID_NOT_HOLD, NO_LONGER_HOLDS, NEVER_TESTED = "DID_NOT_HOLD", "NO_LONGER_HOLDS", "NEVER_TESTED"


@dataclass(frozen=True, slots=True)
class Change:
    """One record to be written: the kind and the body that LearningBook.after reads."""

    kind: str
    body: dict[str, Any]


class Closed(NamedTuple):
    """A decision with its outcome and its comparable numbers."""

    episode: Episode
    outcome: Outcome
    features: dict[str, float]


def reflect(
    episodes: Sequence[Episode], book: LearningBook, at: datetime, settings: ReflectionSettings, *, week: str | None
) -> tuple[Change, ...]:
    """What the journal has to be told. `episodes`: as known at `at` (EpisodicMemory.before). `week`: search it."""
    closed = closed_of(episodes)
    changes = [*tested(closed, book, at, settings)]
    for change in changes:
        book = book.after(change.kind, change.body)
    return (*changes, *(searched(closed, book, at, settings, week) if week is not None else ()))


def closed_of(episodes: Sequence[Episode]) -> list[Closed]:
    """Those with an outcome, in the order in which the outcomes were known."""
    closed = [Closed(e, e.outcome, features_of(e.numbers)) for e in episodes if e.outcome is not None]
    return sorted(closed, key=lambda c: (c.outcome.known_at, c.episode.decision_id))


# ---------------------------------------------------------------- the test
def tested(closed: Sequence[Closed], book: LearningBook, at: datetime, settings: ReflectionSettings) -> list[Change]:
    """Candidates and adopted learnings against the decisions that came after they were written down."""
    found = []
    for learning in book.of(Status.CANDIDATE, Status.ADOPTED):
        later = [c for c in closed if c.episode.decided_at > learning.since]
        judge = _judged if learning.status is Status.CANDIDATE else _watched
        change = judge(learning, later, at, settings)
        if change is not None:
            found.append(change)
    return found


def _judged(learning: Learning, later: Sequence[Closed], at: datetime, settings: ReflectionSettings) -> Change | None:
    """On the first decisions that are enough: looking again and again until it holds would make noise hold."""
    tries = len(LOOKS) * learning.number * (learning.number + 1)
    for look in LOOKS:
        enough = _enough(learning.condition, later, look * settings.confirm_least)
        if enough is None:
            in_time = at - learning.proposed_at <= timedelta(days=settings.confirm_within_days)
            return None if in_time else _retired(learning, at, NEVER_TESTED, None)
        held = _measured(learning.condition, later[:enough], tried=tries)
        if held.p_adjusted <= settings.alpha and held.mean_r < 0:
            return _adopted(learning, at, held, shrink_for(held, Decimal(str(settings.shrink_least))))
        if held.effect_r >= 0 or look == LOOKS[-1]:
            return _retired(learning, at, DID_NOT_HOLD, held)
    return None


def _adopted(learning: Learning, at: datetime, held: Evidence, shrink: Decimal) -> Change:
    return Change("learning_adopted", {
        "id": learning.id, "says": str(learning.condition), "since": at.isoformat(), "held": asdict(held),
        "shrink": str(shrink),
    })  # fmt: skip


def _watched(learning: Learning, later: Sequence[Closed], at: datetime, settings: ReflectionSettings) -> Change | None:
    """The newest that met it, and the others since the first of them."""
    met = [k for k, c in enumerate(later) if _matches(learning.condition, c)]
    if len(met) < settings.confirm_least:
        return None
    newest = later[met[-settings.confirm_least] :]
    if _enough(learning.condition, newest, settings.confirm_least) is None:
        return None
    held = _measured(learning.condition, newest, tried=1)
    return _retired(learning, at, NO_LONGER_HOLDS, held) if held.effect_r >= 0 or held.mean_r >= 0 else None


def overfitted(closed: Sequence[Closed], book: LearningBook, at: datetime, settings: ReflectionSettings) -> list[str]:
    """Ids of adopted learnings that by now do not hold any more: none, as long as reflection runs."""
    return [
        str(change.body["id"]) for change in tested(closed, book, at, settings)
        if change.kind == "learning_retired" and book.learnings[str(change.body["id"])].status is Status.ADOPTED
    ]  # fmt: skip


def shrink_for(held: Evidence, least: Decimal) -> Decimal:
    """What is left of a size for so many R of harm: by the end of the interval that is kinder to the decision."""
    sure = Decimal(str(round(min(0.0, held.high), 2)))
    return max(least, min(LIGHTEST, 1 + sure))


def _retired(learning: Learning, at: datetime, code: str, held: Evidence | None) -> Change:
    return Change("learning_retired", {
        "id": learning.id, "says": str(learning.condition), "since": at.isoformat(), "code": code,
        "held": None if held is None else asdict(held),
    })  # fmt: skip


def _matches(condition: Condition, closed: Closed) -> bool | None:
    return condition.matches(closed.features, closed.episode.strategy, closed.episode.regime)


def _in_scope(condition: Condition, closed: Closed) -> bool:
    """Whom it is compared with: within a strategy when it says more than the strategy's name."""
    alone = condition.regime is None and condition.feature is None
    same = alone or condition.strategy in (None, closed.episode.strategy)
    return same and _matches(condition, closed) is not None


def _enough(condition: Condition, later: Sequence[Closed], least: int) -> int | None:
    """How many of `later` it takes until `least` met it and `least` others did not; None: not yet."""
    met = others = 0
    for number, closed in enumerate(later, start=1):
        if not _in_scope(condition, closed):
            continue
        inside = _matches(condition, closed)
        met, others = met + (inside is True), others + (inside is False)
        if met >= least and others >= least:
            return number
    return None


def _measured(condition: Condition, closed: Sequence[Closed], *, tried: int) -> Evidence:
    table = _Table(closed)
    inside = np.array([[_matches(condition, c) is True] for c in table.rows])
    scope = np.array([[_in_scope(condition, c)] for c in table.rows])
    found = effects(table.r, inside, scope, table.clusters)
    return _evidence(found, 0, min(1.0, float(found.p[0]) * tried), tried)


def _evidence(found: Effects, k: int, p_adjusted: float, tried: int) -> Evidence:
    low, high = found.interval(k, INTERVAL)
    return Evidence(
        n=int(found.n[k]), rest=int(found.rest[k]), mean_r=float(found.mean_r[k]), effect_r=float(found.effect_r[k]),
        low=low, high=high, p=float(found.p[k]), p_adjusted=p_adjusted, tried=tried,
    )  # fmt: skip


# ---------------------------------------------------------------- the search
class _Table:
    """Closed decisions as arrays, in the order of their sessions."""

    def __init__(self, closed: Sequence[Closed]) -> None:
        self.rows = sorted(closed, key=lambda c: (c.episode.decided_at.date(), c.episode.decision_id))
        self.r: Floats = np.array([c.outcome.r for c in self.rows])
        self.clusters: Ints = np.array([c.episode.decided_at.date().toordinal() for c in self.rows], dtype=np.intp)
        self.strategy = np.array([c.episode.strategy for c in self.rows])
        self.regime = np.array([c.episode.regime for c in self.rows])

    def feature(self, name: str) -> Floats:
        return np.array([c.features.get(name, np.nan) for c in self.rows])


class _Question(NamedTuple):
    condition: Condition
    inside: Bools
    scope: Bools


def searched(
    closed: Sequence[Closed], book: LearningBook, at: datetime, settings: ReflectionSettings, week: str
) -> list[Change]:
    """The week's one search: at most one new candidate, and a record that it was made."""
    table = _Table(closed)
    asked = _questions(table, settings.least)
    found, adjusted = _answers(table, asked)
    best = _best(asked, found, adjusted, book, settings)
    changes = [Change("reflected", {"week": week, "outcomes": len(closed), "tried": len(asked)})]
    if best is not None:
        number = len(book.learnings) + 1
        evidence = _evidence(found, best, float(adjusted[best]), len(asked))
        changes.append(Change("learning_proposed", {
            "id": f"L{number:03d}", "number": number, "says": str(asked[best].condition),
            "condition": asdict(asked[best].condition), "since": at.isoformat(), "found": asdict(evidence),
        }))  # fmt: skip
    return changes


def _answers(table: _Table, asked: Sequence[_Question]) -> tuple[Effects, Floats]:
    rows = len(table.rows)
    inside = np.column_stack([q.inside for q in asked]) if asked else np.zeros((rows, 0), np.bool_)
    scope = np.column_stack([q.scope for q in asked]) if asked else np.zeros((rows, 0), np.bool_)
    found = effects(table.r, inside, scope, table.clusters)
    return found, benjamini_hochberg(found.p)


def _best(
    asked: Sequence[_Question], found: Effects, adjusted: Floats, book: LearningBook, settings: ReflectionSettings
) -> int | None:
    """The clearest harm that is not asked about already, when there is room for one more candidate."""
    if len(book.of(Status.CANDIDATE)) >= settings.candidates_most:
        return None
    taken = {one.condition.question for one in book.of(Status.CANDIDATE, Status.ADOPTED)}
    open_ = [
        k for k, q in enumerate(asked)
        if q.condition.question not in taken and adjusted[k] <= settings.discovery_fdr
        and found.effect_r[k] <= -settings.harm_least_r and found.mean_r[k] < 0
    ]  # fmt: skip
    return min(open_, key=lambda k: (float(found.p[k]), str(asked[k].condition)), default=None)


def _questions(table: _Table, least: int) -> list[_Question]:
    """Every hypothesis of this search: those that `least` decisions met and `least` others did not."""
    everybody = np.ones(len(table.rows), dtype=np.bool_)
    strategies = sorted(set(table.strategy.tolist()))
    regimes = sorted(set(table.regime.tolist()) - {UNKNOWN_REGIME})
    known = table.regime != UNKNOWN_REGIME
    asked = [_Question(Condition(strategy=s), table.strategy == s, everybody) for s in strategies]
    asked += [_Question(Condition(regime=r), table.regime == r, known) for r in regimes]
    for strategy in strategies:
        own = table.strategy == strategy
        asked += [_Question(Condition(strategy=strategy, regime=r), table.regime == r, own & known) for r in regimes]
        names = sorted({name for c, mine in zip(table.rows, own, strict=True) if mine for name in c.features})
        for name in names:
            asked += _by_feature(strategy, name, own, table.feature(name))
    return _distinct([q for q in asked if _both_sides(q, least)])


def _by_feature(strategy: str, name: str, own: Bools, values: Floats) -> list[_Question]:
    scope = own & np.isfinite(values)
    if not scope.any():
        return []
    asked, quartiles = [], np.quantile(values[scope], QUARTILES).tolist()
    for k, op in SIDES:
        threshold = quartiles[k]
        inside = values <= threshold if op == "<=" else values >= threshold
        condition = Condition(strategy=strategy, feature=name, op=op, threshold=threshold)
        asked.append(_Question(condition, inside & scope, scope))
    return asked


def _both_sides(question: _Question, least: int) -> bool:
    inside = int(np.sum(question.inside & question.scope))
    return inside >= least and int(np.sum(question.scope)) - inside >= least


def _distinct(asked: Sequence[_Question]) -> list[_Question]:
    """The same decisions under another name are one hypothesis, not two; the first name stays."""
    seen: set[bytes] = set()
    kept = []
    for question in asked:
        key = np.packbits(question.inside & question.scope).tobytes() + np.packbits(question.scope).tobytes()
        if key not in seen:
            seen.add(key)
            kept.append(question)
    return kept
