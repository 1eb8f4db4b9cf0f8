"""What we may believe of ourselves: how often a strategy wins in a regime, what it earns there, and how sure that is.

Win rate: a Beta posterior per strategy and regime. Its prior is the rate of the strategy's other regimes, whose prior
is the rate of the other strategies, whose prior is uniform; so no trade is counted twice. A prior weighs at most
`prior_trades` trades, and never more than it rests on.
Expectancy in R: the mean, shrunk in the same way toward the strategy's other regimes, with a Student interval. It is
None where two trades are not there: nothing neutral stands in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cognitive.calibration import Calibration, calibrate
from cognitive.episodes import Episode
from cognitive.intervals import beta_quantile, student_quantile

if TYPE_CHECKING:
    from config.settings_schema import SelfModelSettings

Said = Literal["confidence", "probability"]
_Cell = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """Of one strategy in one regime. `n` and `wins` are its own trades; the rest leans on the others'."""

    n: int
    wins: int
    mean: float  # win rate
    low: float
    high: float
    expectancy_r: float | None
    expectancy_low: float | None
    expectancy_high: float | None


@dataclass(frozen=True, slots=True)
class _Tally:
    """Outcomes of one cell or of several. R as sums, so that tallies can be added and taken away."""

    n: int = 0
    wins: int = 0
    r: float = 0.0
    r_squared: float = 0.0

    def __add__(self, other: _Tally) -> _Tally:
        return _Tally(
            self.n + other.n, self.wins + other.wins, self.r + other.r, self.r_squared + other.r_squared
        )  # fmt: skip


class SelfModel:
    """Built from the episodes that are known at an instant (`EpisodicMemory.before`); never changed afterwards."""

    def __init__(self, episodes: Sequence[Episode], settings: SelfModelSettings) -> None:
        self._closed = tuple(e for e in episodes if e.outcome is not None)
        self._settings = settings
        self._cells = _tallies(self._closed)
        self._beliefs: dict[_Cell, Belief] = {}

    @classmethod
    def from_episodes(cls, episodes: Sequence[Episode], settings: SelfModelSettings) -> SelfModel:
        return cls(episodes, settings)

    @property
    def n(self) -> int:
        """Outcomes that it rests on."""
        return len(self._closed)

    def cells(self) -> tuple[_Cell, ...]:
        """(strategy, regime) of which there are outcomes, by name."""
        return tuple(sorted(self._cells))

    def belief(self, strategy: str, regime: str) -> Belief:
        """Also of a cell without any trade: then n is 0 and what is said is the prior's."""
        found = self._beliefs.get((strategy, regime))
        if found is None:
            found = self._beliefs[strategy, regime] = self._believe(strategy, regime)
        return found

    def calibration(self, said: Said = "confidence", *, newest: int | None = None) -> Calibration:
        """Of every confidence we emitted (or of the model's probabilities) that came to an outcome.

        newest : only of so many outcomes, the last ones known.
        """
        said_of = [(getattr(e, said), e.outcome) for e in self._by_outcome()]
        forecasts = [(p, outcome.won) for p, outcome in said_of if p is not None and outcome is not None]
        kept = forecasts if newest is None else forecasts[max(0, len(forecasts) - newest) :]
        return calibrate(kept, bins=self._settings.bins)

    def _by_outcome(self) -> list[Episode]:
        return sorted(self._closed, key=lambda e: (e.outcome.known_at, e.decision_id) if e.outcome else ())

    def _believe(self, strategy: str, regime: str) -> Belief:
        own = self._cells.get((strategy, regime), _Tally())
        siblings = _sum(t for (s, r), t in self._cells.items() if s == strategy and r != regime)
        others = _sum(t for (s, _), t in self._cells.items() if s != strategy)
        most = float(self._settings.prior_trades)
        a, b = _updated(1.0, 1.0, others)
        a, b = _updated(*_weakened(a, b, most), siblings)
        a, b = _updated(*_weakened(a, b, most), own)
        tail = (1 - self._settings.interval) / 2
        mean_r, low_r, high_r = _expectancy(own, siblings, most, tail)
        return Belief(
            n=own.n, wins=own.wins, mean=a / (a + b), low=beta_quantile(tail, a, b), high=beta_quantile(1 - tail, a, b),
            expectancy_r=mean_r, expectancy_low=low_r, expectancy_high=high_r,
        )  # fmt: skip


def _tallies(closed: Iterable[Episode]) -> dict[_Cell, _Tally]:
    results: dict[_Cell, list[float]] = {}
    for episode in closed:
        assert episode.outcome is not None
        results.setdefault((episode.strategy, episode.regime), []).append(episode.outcome.r)
    return {cell: _tally(np.array(rs)) for cell, rs in results.items()}


def _tally(rs: np.ndarray) -> _Tally:
    return _Tally(len(rs), int(np.sum(rs > 0)), float(np.sum(rs)), float(np.sum(rs * rs)))


def _sum(tallies: Iterable[_Tally]) -> _Tally:
    return sum(tallies, _Tally())


def _updated(a: float, b: float, seen: _Tally) -> tuple[float, float]:
    return a + seen.wins, b + seen.n - seen.wins


def _weakened(a: float, b: float, most: float) -> tuple[float, float]:
    """The same rate, told by at most `most` trades."""
    weight = min(1.0, most / (a + b))
    return a * weight, b * weight


def _expectancy(
    own: _Tally, siblings: _Tally, most: float, tail: float
) -> tuple[float, float, float] | tuple[None, None, None]:
    """Mean R of the cell, shrunk toward its siblings' as by `most` trades of theirs at most, and its interval."""
    lent = min(most, float(siblings.n))
    weight, both = own.n + lent, own + siblings
    if both.n < 2 or weight < 2:
        return None, None, None
    mean = (own.r + (lent * siblings.r / siblings.n if siblings.n else 0.0)) / weight
    squares = _squares(own) + _squares(siblings)
    df = max(1, both.n - (own.n > 0) - (siblings.n > 0))
    half = student_quantile(1 - tail, weight - 1) * math.sqrt(max(0.0, squares / df) / weight)
    return mean, mean - half, mean + half


def _squares(tally: _Tally) -> float:
    """Of the distances from the mean."""
    return tally.r_squared - tally.r * tally.r / tally.n if tally.n else 0.0
