"""What happened, as episodes: bounded, fenced in time, asked for what was similar. Pure.

state/episodic_memory.json (cognitive/memory_file.py) is a view of the journal: without it, or with a damaged one, the
same episodes are read from the journal again (scripts/remembering.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np

from cognitive.episodes import UNKNOWN_REGIME, Episode, Outcome, Standing, features_of, finite, maybe
from cognitive.intervals import student_quantile
from core.market_calendar import NEW_YORK

COMMON_SHARE = 0.8
"""A feature that fewer of the past decisions carry is not compared by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Similar:
    """What became of the `n` most similar decisions. `code` says why there are none; then the figures are None."""

    n: int
    win_rate: float | None
    mean_r: float | None
    interval: tuple[float, float] | None  # of mean_r; None below two outcomes
    episodes: tuple[Episode, ...]  # the nearest first
    features: tuple[str, ...]  # compared by
    code: str = "OK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entered:
    """What the ledger knows of one entry decision that filled."""

    decision_id: str
    symbol: str
    strategy: str
    session: date  # of the signal
    entered_at: datetime  # when the order that filled was intended
    outcome: Outcome | None  # None while it is held
    lost: bool = False  # gone at a price that nobody knows
    closed_untold: bool = False  # gone, and the record of it was not read yet


class EpisodicMemory:
    """Episodes in the order of their decisions; never changed."""

    def __init__(self, episodes: Iterable[Episode]) -> None:
        self.episodes: tuple[Episode, ...] = tuple(sorted(episodes, key=_order))

    def __len__(self) -> int:
        return len(self.episodes)

    def before(self, at: datetime) -> tuple[Episode, ...]:
        """What was known just before `at`: no decision made then or later, no outcome told then or later."""
        known = (episode.as_known(at) for episode in self.episodes)
        return tuple(episode for episode in known if episode is not None)

    def similar(self, numbers: Mapping[str, float], strategy: str, *, before: datetime, k: int) -> Similar:
        """The k decisions of this strategy with an outcome known before `before` that were most like this one.

        numbers : of the review. Compared by features_of(), each divided by its deviation among those past decisions; a
        feature that does not vary, or that fewer than COMMON_SHARE of them carry, is left out.
        """
        past = [e for e in self.before(before) if e.strategy == strategy and e.outcome is not None]
        return nearest(past, features_of(numbers), k)


def _order(episode: Episode) -> tuple[datetime, str]:
    return episode.decided_at, episode.decision_id


def nearest(past: Sequence[Episode], asked: Mapping[str, float], k: int) -> Similar:
    """`past`: closed episodes only. Ties are broken by the order of `past`."""
    return Compared(past).nearest(asked, k)


class Compared:
    """Closed episodes made ready once, to be compared with several decisions."""

    def __init__(self, past: Sequence[Episode]) -> None:
        rows = [features_of(e.numbers) for e in past]
        names = sorted({name for row in rows for name in row})
        self._past, self._column = tuple(past), {name: j for j, name in enumerate(names)}
        self._values = np.full((len(rows), len(names)), np.nan)
        for i, row in enumerate(rows):
            for name, value in row.items():
                self._values[i, self._column[name]] = value
        self._known = ~np.isnan(self._values)
        self._shared = frozenset(
            name for name, j in self._column.items() if self._known[:, j].sum() >= COMMON_SHARE * len(rows)
        )

    def nearest(self, asked: Mapping[str, float], k: int) -> Similar:
        """Ties are broken by the order of the episodes."""
        common = [name for name in asked if name in self._shared]
        columns = np.array([self._column[name] for name in common], dtype=np.intp)
        kept = np.flatnonzero(self._known[:, columns].all(axis=1)) if common else np.empty(0, np.intp)
        if not kept.size:
            return Similar(
                n=0, win_rate=None, mean_r=None, interval=None, episodes=(), features=(), code="NOTHING_SIMILAR"
            )
        values, here = self._values[np.ix_(kept, columns)], np.array([asked[name] for name in common])
        spread = values.std(axis=0)
        varies = spread > 1e-12 * np.maximum(1.0, np.abs(values).max(axis=0))
        apart = (values[:, varies] - here[varies]) / spread[varies]
        order = np.argsort(np.sum(apart * apart, axis=1), kind="stable")[:k]
        found = tuple(self._past[int(kept[i])] for i in order)
        results = [e.outcome.r for e in found if e.outcome is not None]
        return Similar(
            n=len(found), win_rate=sum(r > 0 for r in results) / len(results), mean_r=sum(results) / len(results),
            interval=mean_interval(results), episodes=found,
            features=tuple(name for name, used in zip(common, varies, strict=True) if used),
        )  # fmt: skip


def mean_interval(results: Sequence[float], interval: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of a mean; None below two results."""
    if len(results) < 2:
        return None
    mean, deviation = float(np.mean(results)), float(np.std(results, ddof=1))
    half = student_quantile((1 + interval) / 2, len(results) - 1) * deviation / math.sqrt(len(results))
    return mean - half, mean + half


# ---------------------------------------------------------------- from reviews and trades to episodes
def episode_of(row: Mapping[str, Any], *, at: datetime, session: date, regime: str) -> Episode:
    """One signal of a `signals_reviewed` record. Raises ValueError, KeyError, TypeError or ArithmeticError for a row
    that lacks what the record promises; numbers that are not finite are left out."""
    opinion, review = row.get("opinion") or {}, row["review"]
    numbers = {str(name): float(value) for name, value in row.get("numbers", {}).items() if _is_finite(value)}
    return Episode(
        decision_id=str(row["decision_id"]), symbol=str(row["symbol"]), strategy=str(row["strategy"]), session=session,
        decided_at=at, regime=regime or UNKNOWN_REGIME, score=finite(row["score"]),
        confidence=maybe(review.get("confidence")), probability=maybe(opinion.get("probability")),
        scale=Decimal(str(review["scale"])), numbers=numbers,
    )  # fmt: skip


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def with_reviews(
    episodes: Mapping[str, Episode], reviews: Iterable[Episode], entered: Mapping[str, datetime]
) -> dict[str, Episode]:
    """Reviews in the order of the journal. The one that an entry followed stands; a later look at what is held already
    changes nothing. `entered`: when each decision's entry was intended."""
    found = dict(episodes)
    for review in reviews:
        since, before = entered.get(review.decision_id), found.get(review.decision_id)
        if before is None or since is None or review.decided_at <= since:
            found[review.decision_id] = review
    return found


def with_trades(episodes: Mapping[str, Episode], trades: Iterable[Entered], today: date) -> dict[str, Episode]:
    """What the trades became; a trade that no review told of is an episode too. `today`: New York, settles the rest."""
    found = dict(episodes)
    for trade in trades:
        before = found.get(trade.decision_id) or Episode(
            decision_id=trade.decision_id, symbol=trade.symbol, strategy=trade.strategy, session=trade.session,
            decided_at=trade.entered_at,
        )  # fmt: skip
        standing = Standing.CLOSED if trade.outcome is not None else Standing.HELD
        standing = Standing.OUTCOME_UNKNOWN if trade.lost else standing
        outcome = None if trade.lost else trade.outcome
        found[trade.decision_id] = replace(before, entered_at=trade.entered_at, standing=standing, outcome=outcome)
    for key, episode in found.items():
        if episode.standing is Standing.WAITING and episode.decided_at.astimezone(NEW_YORK).date() < today:
            found[key] = replace(episode, standing=Standing.NOT_ENTERED)
    return found


def bounded(episodes: Mapping[str, Episode], most: int) -> dict[str, Episode]:
    """At most `most`: what was bought comes before what was only looked at, the newest first."""
    if len(episodes) <= most:
        return dict(episodes)
    ranked = sorted(episodes.values(), key=lambda e: (e.entered_at is not None, *_order(e)), reverse=True)
    return {e.decision_id: e for e in sorted(ranked[:most], key=_order)}
