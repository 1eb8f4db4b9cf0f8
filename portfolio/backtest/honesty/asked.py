"""What a strategy is asked with and what it answers; how it is asked does not matter to the checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.bars_io import Days, Floats, from_day
from portfolio.backtest.honesty.market import Market

Values = Mapping[str, float]  # parameter -> value


@dataclass(frozen=True, slots=True)
class Deal:
    """One trade as the strategy tells it. Days since 1970-01-01; None: not told, or still open.

    quantity shares · cost_usd of both sides · pnl_usd as told, after costs · tag: which part of the strategy made it
    """

    symbol: str
    entry: int
    entry_price: float
    signal: int | None = None
    exit: int | None = None
    exit_price: float | None = None
    long: bool = True
    quantity: float | None = None
    cost_usd: float | None = None
    pnl_usd: float | None = None
    tag: str = ""

    def __str__(self) -> str:
        name = f"{self.symbol} {self.tag}".strip()
        return f"{name} entered {from_day(self.entry)} at {self.entry_price:.6g}"

    @property
    def gross(self) -> float | None:
        """Return before costs, a fraction of the entry price; None while open."""
        if self.exit_price is None or not self.entry_price > 0:
            return None
        change = self.exit_price / self.entry_price - 1.0
        return change if self.long else -change


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What a strategy computed per bar of one symbol: name -> (n_rows,) values known at the close of that day."""

    days: Days
    columns: Mapping[str, Floats]


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Intervals from which something was learned or counted, (n_labels,) each.

    start, end days, both included · part: "train", "test" or "" · weight NaN = counted as one
    pooled: one model learned from all symbols, so that a day is shared whatever the symbol
    """

    symbol: tuple[str, ...]
    start: Days
    end: Days
    part: tuple[str, ...]
    weight: Floats
    pooled: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """independent: how many observations the strategy counts as independent, when it says so."""

    deals: tuple[Deal, ...]
    features: Mapping[str, Features] = field(default_factory=dict)
    labels: Labels | None = None
    independent: float | None = None


@dataclass(frozen=True, slots=True)
class Raised:
    """The strategy raised instead of answering."""

    detail: str


class Subject(Protocol):
    """A strategy that can be asked again and again, with other bars and other numbers."""

    @property
    def parameters(self) -> Values:
        """Its own numbers, with the values it uses."""

    @property
    def names(self) -> tuple[str, ...]:
        """Tables of the market that it is handed besides bars."""

    @property
    def each_alone(self) -> bool:
        """Whether a symbol's trades do not depend on the others'."""

    def ask(self, market: Market, parameters: Values | None = None) -> Answer | Raised: ...


def entry_days(deals: tuple[Deal, ...]) -> NDArray[np.int64]:
    return np.array(sorted({deal.entry for deal in deals}), dtype=np.int64)
