"""Judges the circuit breakers of one home, and says what may not be entered: the journal and the ledger, handed over.

The runner judges at the start of every scan, after each, and at the close-out. Each look reads only what is new.
Whatever goes wrong here refuses entries and nothing else: exits and protection never ask.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

from cognitive.breaker_evidence import NOW, Collector
from cognitive.breaker_rules import ALL, NEVER, STRATEGY, SYMBOL, RegimeSeen, judge
from cognitive.circuit_breakers import UNREADABLE, Breakers, Lock, current_session
from core import logs
from core.domain import Purpose, Symbol
from core.errors import KobeError, StateCorrupt
from execution.entry import EntryLocks
from execution.ledger import new_york_day
from execution.observe.journal_look import profit_usd
from execution.observe.logs_look import InputsLook
from execution.observe.measures import slippage_bps
from execution.observe.story import Sent

if TYPE_CHECKING:
    from core.journal import Journal, Record
    from core.ports import Regime
    from execution.ledger import Ledger, LedgerOrder
    from scripts import wiring

LOST = Decimal("-0.01")
"""A trade that closed at a price that nobody knows counts as a loss of a cent: absent is no."""


class BreakerWatch:
    """One per process. `look` judges; `locks` is what the session asks before every entry."""

    def __init__(self, context: wiring.Context, journal: Journal, ledger: Callable[[], Ledger]) -> None:
        self._context = context
        self._settings = context.settings.cognitive.circuit_breakers
        self._inputs = InputsLook(context.home.logs)
        self._blind = ""  # reason code of the last look that failed
        self._gathered = _Gathered(self._lag, ledger)
        self.breakers = Breakers(journal, context.home.state, context.calendar, self._settings, self._gathered)

    @property
    def enabled(self) -> bool:
        return self._settings.enabled

    def look(self, session: date, regime: Regime | None = None) -> tuple[Lock, ...]:
        """Judge on everything known, trip what must trip; the locks that stand in `session`. Never raises for what
        lies on the disk: then nothing is entered until a look succeeds."""
        if not self.enabled:
            return ()
        try:
            locks = self._look(session, regime)
        except Exception as error:  # noqa: BLE001 - a breaker that breaks lets nothing be entered; exits go on
            self._blind = error.code if isinstance(error, KobeError) else UNREADABLE
            logs.error_event("breakers_not_judged", code=UNREADABLE, cause=self._blind, detail=repr(error))
            logs.count("breakers_not_judged")
            return ()
        self._blind = ""
        return locks

    def _look(self, session: date, regime: Regime | None) -> tuple[Lock, ...]:
        self.breakers.end_expired(session)
        board = self.breakers.board()
        self._gathered.look_at_entries(self._inputs, new_york_day(self._context.clock.now()))
        gate = self._context.settings.risk
        at_work = gate.position_limit * gate.policy_gate.per_order_max_usd
        seen = None if regime is None else self._seen(regime, session)
        evidence = self._gathered.collector.evidence(session, at_work, seen)
        self.breakers.trip(judge(evidence, self._settings, board.since), session)
        return self.breakers.board().standing(session)

    def _seen(self, regime: Regime, session: date) -> RegimeSeen:
        """The scan's data is of the session before the one that it trades in."""
        scanned = self._context.calendar.previous_session(session)
        return RegimeSeen(
            seq=NOW, session=scanned, of=regime.session, lag=self._lag(regime.session, scanned), label=regime.label,
            probability=regime.probability, source=regime.source,
        )  # fmt: skip

    def _lag(self, of: date, session: date) -> int:
        return 0 if of >= session else len(self._context.calendar.sessions_between(of, session)) - 1

    @property
    def blind(self) -> str:
        """Why nothing is known of the breakers; empty when it is."""
        return self._blind

    def locks(self) -> EntryLocks:
        """What may not be entered now; a person's resume counts at once. Never raises."""
        if not self.enabled:
            return EntryLocks()
        if self._blind:
            return EntryLocks(UNREADABLE)
        try:
            session = current_session(self._context.calendar, self._context.clock.now())
            return entry_locks(self.breakers.board().standing(session))
        except Exception as error:  # noqa: BLE001 - asked between exits: it may refuse entries, and nothing else
            logs.error_event("breakers_unreadable", code=UNREADABLE, detail=repr(error))
            logs.count("breakers_unreadable")
            return EntryLocks(UNREADABLE)


def entry_locks(locks: tuple[Lock, ...]) -> EntryLocks:
    everything = next((lock.code for lock in locks if lock.scope == ALL), None)
    return EntryLocks(
        everything,
        {lock.what: lock.code for lock in locks if lock.scope == STRATEGY},
        {Symbol(lock.what): lock.code for lock in locks if lock.scope == SYMBOL},
    )


class _Gathered:
    """Listens to the journal for the collector.

    What a trade came to is asked of the ledger at once, so that profit at each run is what it was then. Entries wait
    for the quotes that they were decided on, which are telemetry.
    """

    def __init__(self, lag: Callable[[date, date], int], ledger: Callable[[], Ledger]) -> None:
        self._lag, self._ledger = lag, ledger
        self.begin()

    def begin(self) -> None:
        self.collector = Collector(self._lag)
        self._ended: list[tuple[int, str]] = []  # record, client order id of an entry that is over
        self._intended: dict[str, int] = {}  # client order id -> record of its intent

    def add(self, record: Record) -> None:
        self.collector.add(record.kind, record.body, record.seq, record.at)
        try:
            if record.kind == "trade_closed":
                self._closed(record.seq, str(record.body["decision_id"]))
            elif record.kind == "order_intended" and record.body["purpose"] == Purpose.ENTRY:
                self._intended[str(record.body["client_order_id"])] = record.seq
            elif record.kind == "order_closed" and (cid := str(record.body["client_order_id"])) in self._intended:
                self._ended.append((record.seq, cid))
        except (KeyError, TypeError) as error:
            raise StateCorrupt(f"journal record {record.seq} ({record.kind}) cannot be read: {error!r}") from error

    def _closed(self, seq: int, decision_id: str) -> None:
        trade = self._ledger().trades.get(decision_id)
        if trade is not None:
            profit = profit_usd(trade)
            usd = LOST if profit is None else profit
            self.collector.closed(seq, decision_id, str(trade.symbol), trade.strategy, usd)

    def look_at_entries(self, inputs: InputsLook, today: date) -> None:
        if not self._ended:
            return
        inputs.look(today)
        ended, self._ended = self._ended, []
        for seq, cid in ended:
            order, intended = self._ledger().orders.get(cid), self._intended.pop(cid, NEVER)
            if order is not None:
                quote = inputs.quote_of(order.intent.decision_id, str(order.intent.side), intended)
                filled = order.filled_quantity / order.intent.quantity
                self.collector.executed(seq, filled, slippage_bps(_sent(order, intended), quote))


def _sent(order: LedgerOrder, seq: int) -> Sent:
    intent = order.intent
    return Sent(
        client_order_id=order.client_order_id, decision_id=intent.decision_id, seq=seq, at=order.intended_at,
        side=str(intent.side), purpose=str(intent.purpose), quantity=intent.quantity, filled=order.filled_quantity,
        price=order.filled_price,
    )  # fmt: skip
