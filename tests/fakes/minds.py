"""Made-up years of decisions for memory and reflection: seeded, with or without something to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from cognitive.episodes import Episode, Outcome, Standing
from cognitive.episodic_memory import EpisodicMemory
from cognitive.learnings import LearningBook
from cognitive.reflection import reflect
from config.settings_schema import ReflectionSettings

START = datetime(2024, 1, 1, 14, 35, tzinfo=UTC)  # a Monday
STRATEGIES = ("ibs_rsi", "turtle_soup")
REGIMES = ("calm", "watch", "stressed")
DAYS_A_WEEK = 5


def an_outcome(at: datetime, r: float, **changes: Any) -> Outcome:
    facts: dict[str, Any] = {
        "closed_at": at, "known_at": at, "r": r, "usd": Decimal(str(round(10 * r, 2))),
        "exit_reason": "time" if r > 0 else "stop", "bars_held": 3,
    }  # fmt: skip
    return Outcome(**{**facts, **changes})


def an_episode(number: int = 0, *, r: float | None = None, **changes: Any) -> Episode:
    """The `number`-th day's decision; with `r` it was closed two days later."""
    at = START + timedelta(days=number)
    facts: dict[str, Any] = {
        "decision_id": f"{at:%Y%m%d}-ibs_rsi-AAA", "symbol": "AAA", "strategy": "ibs_rsi",
        "session": at.date() - timedelta(days=1), "decided_at": at, "regime": "calm", "score": 61.5,
        "confidence": 0.6, "probability": 0.55, "scale": Decimal("1"),
        "numbers": {"close": 50.0, "stop": 48.0, "sma": 45.0, "atr": 1.0, "dollar_volume": 1e7, "ibs": 0.05},
    }  # fmt: skip
    if r is not None:
        facts |= {
            "entered_at": at + timedelta(seconds=2), "standing": Standing.CLOSED,
            "outcome": an_outcome(at + timedelta(days=2), r),
        }  # fmt: skip
    return Episode(**{**facts, **changes})


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """What is true of a made-up world. With effect_r 0 there is nothing to learn."""

    effect_r: float = 0.0  # added to R where feature `trend` is in its lowest quarter, of the first strategy
    shared_sd: float = 0.3  # of what all trades of a day have in common
    trades_a_day: int = 2
    features: int = 6


def skewed(rng: np.random.Generator, n: int) -> np.ndarray:
    """R like a strategy's with stops: many small losses near -1, few large wins; mean near 0.1, deviation near 1.3."""
    win = rng.random(n) < 0.45
    return np.where(win, rng.gamma(1.6, 0.85, n), -0.9 + 0.25 * rng.standard_normal(n))


def decisions(seed: int, days: int, planted: Planted) -> list[Episode]:
    """Every trading day the same number of trades, each over after one to seven days."""
    rng = np.random.default_rng(seed)
    n = days * planted.trades_a_day
    day = np.repeat(np.arange(days), planted.trades_a_day)
    strategy, regime = rng.integers(0, 2, n), np.repeat(rng.integers(0, 3, days // 20 + 1), 20)[day]
    values = rng.standard_normal((n, planted.features))
    r = skewed(rng, n) + planted.shared_sd * rng.standard_normal(days)[day]
    r = r + np.where((strategy == 0) & (values[:, 0] < -0.6745), planted.effect_r, 0.0)
    held = rng.integers(1, 8, n)
    found = []
    for k in range(n):
        at = START + timedelta(days=int(day[k]) // DAYS_A_WEEK * 7 + int(day[k]) % DAYS_A_WEEK)
        name = STRATEGIES[strategy[k]]
        numbers = {("trend" if f == 0 else f"f{f}"): float(values[k, f]) for f in range(planted.features)}
        closed = at + timedelta(days=int(held[k]), minutes=k % 60)
        found.append(an_episode(
            0, decision_id=f"{at:%Y%m%d}-{name}-S{k}", symbol=f"S{k}", strategy=name, decided_at=at,
            session=at.date(), regime=REGIMES[regime[k]], numbers=numbers, entered_at=at, standing=Standing.CLOSED,
            outcome=an_outcome(closed, float(r[k])),
        ))  # fmt: skip
    return found


def shuffled(episodes: Sequence[Episode], seed: int) -> list[Episode]:
    """The same decisions with the results dealt out anew: whatever was true of them is no longer."""
    order = np.random.default_rng(seed).permutation(len(episodes))
    results = [episodes[int(k)].outcome for k in order]
    return [
        replace(e, outcome=replace(e.outcome, r=other.r, usd=other.usd))
        for e, other in zip(episodes, results, strict=True) if e.outcome is not None and other is not None
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lived:
    """What reflection did in one made-up life."""

    book: LearningBook
    adopted: Mapping[str, int]  # learning -> trading days until it was adopted


def lived(episodes: Sequence[Episode], settings: ReflectionSettings, *, every_days: int = DAYS_A_WEEK) -> Lived:
    """Reflect at the end of each week on what was known then, as the runner does; records go from hand to hand."""
    memory, book = EpisodicMemory(episodes), LearningBook()
    first, last = episodes[0].decided_at, episodes[-1].decided_at + timedelta(days=8)
    adopted: dict[str, int] = {}
    weeks = (last - first).days // 7 + 1
    for number in range(1, weeks + 1):
        if number % max(1, every_days // DAYS_A_WEEK):
            continue
        at = first + timedelta(days=7 * number - 2, hours=7)
        known = memory.before(at)
        if sum(e.outcome is not None for e in known) < 2 * settings.least:
            continue
        for change in reflect(known, book, at, settings, week=f"{at:%G-W%V}"):
            book = book.after(change.kind, change.body)
            if change.kind == "learning_adopted":
                adopted[str(change.body["id"])] = number * DAYS_A_WEEK
    return Lived(book, adopted)


def a_day(text: str) -> date:
    return date.fromisoformat(text)
