"""Following the journal from outside: ledger and story, read once and then only what is new. Takes no lock."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from core.errors import StateCorrupt
from core.journal import JournalTail
from core.journal_parts import seen_as
from execution.fold import Fold
from execution.observe.story import Story

if TYPE_CHECKING:
    from core.journal import Journal
    from execution.ledger import Ledger, Trade


@dataclass
class Results:
    """Trades that are over, in the order they were told."""

    closed: int = 0
    realised_usd: Decimal = Decimal(0)
    unpriced: int = 0
    loss_streak: int = 0
    recent: list[tuple[datetime, Decimal | None]] = field(default_factory=list)  # of the newest day told

    def add(self, at: datetime, profit: Decimal | None) -> None:
        self.closed += 1
        if self.recent and at.date() != self.recent[-1][0].date():
            self.recent = [row for row in self.recent if (at - row[0]).days < 2]
        self.recent.append((at, profit))
        if profit is None:
            self.unpriced += 1
            return
        self.realised_usd += profit
        self.loss_streak = self.loss_streak + 1 if profit < 0 else 0


def profit_usd(trade: Trade) -> Decimal | None:
    """Realised USD before regulatory fees; None when shares left at a price that nobody told."""
    if any(fill.price is None for fill in trade.exits):
        return None
    got = sum((fill.price * fill.quantity for fill in trade.exits if fill.price is not None), Decimal(0))
    return got - trade.entry_price * sum(fill.quantity for fill in trade.exits)


@dataclass(frozen=True, slots=True)
class Seen:
    """One consistent look: ledger and story stand behind the same record."""

    ledger: Ledger
    story: Story
    results: Results


class JournalLook:
    """`seen()` at every look. A damaged journal is read again only when its file has changed."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._failed: tuple[tuple[int, ...], StateCorrupt] | None = None
        self._begin()

    def _begin(self) -> None:
        self._tail, self._fold = JournalTail(self._journal), Fold()
        self._story, self._results = Story(), Results()
        self._ledger = self._fold.ledger()

    def seen(self) -> Seen | None:
        """None when there is no journal. Raises StateCorrupt and OSError."""
        now = self._files()
        if self._failed is not None and self._failed[0] == now:
            raise self._failed[1]
        try:
            new = self._tail.new()
            for record in new:
                self._fold.add(record)
                self._story.add(record)
        except StateCorrupt as error:
            self._failed = (now, error)
            self._begin()  # half a fold must never be believed
            raise
        self._failed = None
        if new:
            self._ledger = self._fold.ledger()
            self._close_trades()
        return Seen(self._ledger, self._story, self._results) if self._story.records else None

    def _close_trades(self) -> None:
        for at, decision_id in self._story.closed:
            trade = self._ledger.trades.get(decision_id)
            if trade is not None:
                self._results.add(at, profit_usd(trade))
        self._story.closed.clear()

    def _files(self) -> tuple[int, ...]:
        try:
            return seen_as(self._journal.path.stat())
        except FileNotFoundError:
            return ()
