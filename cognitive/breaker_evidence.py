"""Collects what the breakers are judged on, record by record, in bounded memory.

From the journal come what was said (`signals_reviewed`) and what open trades are worth (`scan_run`); trades that closed
and entries that ended are handed in, because only the ledger knows what they came to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from cognitive.breaker_rules import (
    NEVER,
    Closed,
    Evidence,
    Executed,
    Point,
    RegimeSeen,
    Said,
)
from core.errors import StateCorrupt

TRADES_KEPT, SAID_KEPT, POINTS_KEPT, EXECUTED_KEPT = 1000, 1000, 256, 500
NOW = 2**62
"""The number of what is not in the journal yet: newer than any record."""


@dataclass
class Collector:
    """Mutable; `add` every record in order, `closed` and `executed` beside it."""

    lag: Callable[[date, date], int]  # sessions from one to the other
    trades: deque[Closed] = field(default_factory=lambda: deque(maxlen=TRADES_KEPT))
    said: dict[str, Said] = field(default_factory=dict)  # by decision id: the first word counts
    regimes: deque[RegimeSeen] = field(default_factory=lambda: deque(maxlen=POINTS_KEPT))
    points: deque[Point] = field(default_factory=lambda: deque(maxlen=POINTS_KEPT))
    entries: deque[Executed] = field(default_factory=lambda: deque(maxlen=EXECUTED_KEPT))
    open_usd: dict[str, Decimal] = field(default_factory=dict)  # by decision id, as last told
    realised_usd: Decimal = Decimal(0)
    equity_usd: Decimal | None = None

    def __post_init__(self) -> None:
        self.points.append(Point(seq=NEVER, session=date.min, usd=Decimal(0)))

    def add(self, kind: str, body: Mapping[str, Any], seq: int, at: datetime) -> None:
        """Raises StateCorrupt for a record of a known kind that lacks what its kind promises."""
        try:
            if kind == "signals_reviewed":
                self._reviewed(body, seq)
            elif kind == "scan_run":
                self._ran(body, seq)
        except (KeyError, ValueError, TypeError, ArithmeticError, AttributeError) as error:
            raise StateCorrupt(f"journal record {seq} ({kind}) cannot be read: {error!r}") from error

    def _reviewed(self, body: Mapping[str, Any], seq: int) -> None:
        for row in body["signals"]:
            opinion, review = row.get("opinion") or {}, row["review"]
            found = Said(
                seq=seq, decision_id=str(row["decision_id"]), model=opinion.get("model"),
                probability=_number(opinion.get("probability")), code=str(opinion.get("code", "MODEL_ABSENT")),
                confidence=_number(review.get("confidence")),
            )  # fmt: skip
            self.said.setdefault(found.decision_id, found)
        while len(self.said) > SAID_KEPT:
            self.said.pop(next(iter(self.said)))
        self.regimes.append(self.seen(body["regime"], date.fromisoformat(body["session"]), seq))

    def seen(self, regime: Mapping[str, Any], session: date, seq: int) -> RegimeSeen:
        """`regime` as the record has it; `of` is left out there when it is of the session itself."""
        of = date.fromisoformat(regime.get("session") or session.isoformat())
        return RegimeSeen(
            seq=seq, session=session, of=of, lag=self.lag(of, session), label=str(regime["label"]),
            probability=_number(regime.get("probability")), source=str(regime["source"]),
        )  # fmt: skip

    def _ran(self, body: Mapping[str, Any], seq: int) -> None:
        if body.get("equity_usd") is not None:
            self.equity_usd = Decimal(str(body["equity_usd"]))
        marks = body.get("open_usd")
        if marks is None:
            return  # written by an older version: it says nothing of profit
        self.open_usd |= {str(d): Decimal(str(usd)) for d, usd in marks.items()}
        self.points.append(Point(seq=seq, session=date.fromisoformat(str(body["run"])[:10]), usd=self.profit_usd))

    @property
    def profit_usd(self) -> Decimal:
        return self.realised_usd + sum(self.open_usd.values(), Decimal(0))

    def closed(self, seq: int, decision_id: str, symbol: str, strategy: str, usd: Decimal) -> None:
        said = self.said.get(decision_id)
        self.open_usd.pop(decision_id, None)
        self.realised_usd += usd
        self.trades.append(Closed(
            seq=seq, decision_id=decision_id, symbol=symbol, strategy=strategy, usd=usd,
            confidence=None if said is None else said.confidence,
        ))  # fmt: skip

    def executed(self, seq: int, filled: float, slippage_bps: float | None) -> None:
        self.entries.append(Executed(seq=seq, filled=filled, slippage_bps=slippage_bps))

    def evidence(self, session: date, at_work_usd: Decimal, regime: RegimeSeen | None = None) -> Evidence:
        """As of now: profit as far as it is known, and the regime that this scan is about to decide with.

        at_work_usd : what the limits let be at work; a smaller account puts less to work.
        """
        capital = at_work_usd if self.equity_usd is None else min(at_work_usd, self.equity_usd)
        now = Point(seq=NOW, session=session, usd=self.profit_usd)
        return Evidence(
            session=session, capital_usd=capital, closed=tuple(self.trades), said=tuple(self.said.values()),
            regimes=(*self.regimes, *(() if regime is None else (regime,))), points=(*self.points, now),
            executed=tuple(self.entries),
        )  # fmt: skip


def _number(value: object) -> float | None:
    """A finite number, or none: what was no number is said by its code."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    found = float(value)
    return found if abs(found) < float("inf") else None
