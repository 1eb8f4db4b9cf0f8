"""The journal's reviews, trades and learnings as a memory, kept up to date beside the trading. docs/cognition.md.

It follows the journal from where it stopped, after the orders of a scan have left, and never reads it from the start
there; a file that is absent, damaged, of another journal or made with another bound is made again from the journal.
Whatever goes wrong in here is told and stops no exit. What cannot be remembered refuses entries: it might have been
something against them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cognitive.episodes import Episode, Outcome
from cognitive.episodic_memory import Entered, EpisodicMemory, bounded, episode_of, with_reviews, with_trades
from cognitive.learnings import KINDS, Learning, LearningBook
from cognitive.memory_file import FILE, Remembered, read_memory, write_memory
from cognitive.review import MEMORY_UNREADABLE
from core import logs
from core.domain import Purpose, Side
from core.errors import DataError, KobeError, StateCorrupt
from core.journal import START, Mark
from execution.ledger import Ledger, LedgerOrder, Trade, new_york_day

if TYPE_CHECKING:
    from cognitive.self_model import SelfModel
    from core.journal import Journal, Record
    from core.market_calendar import MarketCalendar
    from scripts.wiring import Context

MOMENT = timedelta(microseconds=1)
EMPTY, UNREADABLE = "MEMORY_EMPTY", MEMORY_UNREADABLE
_NOT_OURS = "adopted"  # a position that a person made ours: no decision of a strategy
_MOVES = frozenset({"order_filled", "order_closed", "positions_synced", "trade_rebased"})
_UNREADABLE_BODY = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mind:
    """What is known just before an instant, for a reviewer to be built from. `code`: why it says nothing."""

    memory: EpisodicMemory  # ask it with before=at
    self_model: SelfModel
    learnings: tuple[Learning, ...]  # adopted ones
    code: str


class Remembering:
    """The memory of one home. `ledger` is asked only when trades changed; the desk's own costs nothing there."""

    def __init__(self, context: Context, journal: Journal, ledger: Callable[[], Ledger]) -> None:
        self._context, self._journal, self._ledger = context, journal, ledger
        self._path = context.home.state / FILE
        self._memory: Remembered | None = None  # as of _mark
        self._mark = START
        self._closed_new = False  # outcomes came in since reflection was last asked

    # ------------------------------------------------------------ asked before a scan decides
    def mind(self, at: datetime) -> Mind:
        """Never raises for what is wrong with the memory: MEMORY_UNREADABLE then, which the review refuses."""
        from cognitive.self_model import SelfModel

        settings = self._context.settings.cognitive.self_model
        try:
            remembered = self.up_to_date()
            code = "OK" if remembered.episodes else EMPTY
        except Exception as error:  # noqa: BLE001 - what cannot be remembered must not keep a scan from its exits
            self._failed(error)
            remembered, code = Remembered(), UNREADABLE
        memory = EpisodicMemory(remembered.episodes.values())
        model = SelfModel.from_episodes(memory.before(at), settings)
        learned = tuple(one for one in remembered.book.adopted if one.since < at)
        return Mind(memory=memory, self_model=model, learnings=learned, code=code)

    # ------------------------------------------------------------ told after a scan, a look, a close-out
    def follow(self, session: date, *, closing: bool = False) -> None:
        """Take in what the journal tells since the last call, reflect on what closed, keep the file. Never raises.

        closing : after the close-out: the file is kept, and a week that ended is searched.
        """
        try:
            before = self._memory
            after = self.up_to_date()
            if self._reflect(after, session, closing=closing):
                after = self.up_to_date()
            changed = before is None or (before.episodes, before.book) != (after.episodes, after.book)
            if (closing or changed) and (after.episodes or after.book.looks):
                self._keep(after)
        except Exception as error:  # noqa: BLE001 - orders and exits go on without a memory
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """What was half taken in is forgotten: the next call begins with the file again."""
        self._memory, self._mark = None, START
        code = error.code if isinstance(error, KobeError) else "BUG"
        logs.error_event("memory_failed", code=code, detail=repr(error))
        logs.count("memory_failed", code=code)

    def _keep(self, memory: Remembered) -> None:
        try:
            write_memory(self._path, memory)
        except (OSError, KobeError) as error:
            logs.error_event("memory_not_written", code="MEMORY_NOT_WRITTEN", detail=str(error))
            logs.count("memory_not_written")

    # ------------------------------------------------------------ following the journal
    def up_to_date(self) -> Remembered:
        """The memory as of the journal's last record. Raises StateCorrupt when the journal cannot be read."""
        if self._memory is None:
            self._memory, self._mark = self._from_file()
        new, mark = self._journal.read_after(self._mark)
        if new:
            memory = self._with(self._memory, new)
            if memory is None:
                memory, mark = self.rebuilt("MEMORY_BEHIND")
            self._memory = memory
        self._mark = mark
        return self._memory

    def _from_file(self) -> tuple[Remembered, Mark]:
        """The file and what came after it, or the journal from its start."""
        try:
            kept = read_memory(self._path)
        except StateCorrupt as error:
            return self.rebuilt(error.code if error.code == "STATE_NEWER" else "MEMORY_DAMAGED")
        if kept is None:
            return self.rebuilt("MEMORY_ABSENT")
        if kept.most != self._most:
            return self.rebuilt("MEMORY_BOUND_CHANGED")
        try:
            new, mark = self._journal.read_after(Mark(kept.seq, kept.hash))
        except StateCorrupt:
            return self.rebuilt("MEMORY_OF_ANOTHER_JOURNAL")
        if (new[0].prev if new else mark.hash) != kept.hash:
            return self.rebuilt("MEMORY_OF_ANOTHER_JOURNAL")
        memory = self._with(kept, new) if new else kept
        return (memory, mark) if memory is not None else self.rebuilt("MEMORY_BEHIND")

    def rebuilt(self, code: str) -> tuple[Remembered, Mark]:
        """As `from_the_start`; told, with the reason."""
        memory, mark = self.from_the_start()
        if memory.episodes or memory.book.looks:
            logs.event("memory_rebuilt", code=code, records=mark.seq, episodes=len(memory.episodes))
            logs.count("memory_rebuilt", code=code)
        return memory, mark

    def from_the_start(self) -> tuple[Remembered, Mark]:
        """What the whole journal tells. Raises StateCorrupt when it cannot be read."""
        records, mark = self._journal.read_after(START)
        return self._whole(records), mark

    @property
    def _most(self) -> int:
        return self._context.settings.cognitive.memory.max_episodes

    def _whole(self, records: Sequence[Record]) -> Remembered:
        told, ledger = told_by(records), self._ledger()
        facts = self._facts(ledger, ledger.trades.values(), told, {})
        return _after(Remembered(most=self._most), told, facts)

    def _with(self, before: Remembered, records: Sequence[Record]) -> Remembered | None:
        """None when only the whole journal can say what the new records mean."""
        told = told_by(records)
        self._closed_new = self._closed_new or bool(told.closed)
        asked = told.trades | {review.decision_id for review in told.reviews}
        facts: list[Entered] = []
        if asked or told.moved:
            ledger = self._ledger()
            trades = {t.decision_id: t for t in ledger.recent_trades() if t.decision_id in before.episodes}
            trades |= {key: ledger.trades[key] for key in asked if key in ledger.trades}
            facts = self._facts(ledger, trades.values(), told, before.episodes)
            if any(trades[f.decision_id].told_closed and f.closed_untold for f in facts):
                return None  # it opened again after it was told as closed, and that is told once only
        return None if _too_late(before, told, facts) else _after(before, told, facts)

    def _facts(
        self, ledger: Ledger, trades: Iterable[Trade], told: Told, known: Mapping[str, Episode]
    ) -> list[Entered]:
        found = []
        for trade in trades:
            if trade.strategy == _NOT_OURS:
                continue
            before = known.get(trade.decision_id)
            known_at = told.closed.get(trade.decision_id)
            if before is not None and before.outcome is not None:
                known_at = before.outcome.known_at
            found.append(entered_of(ledger, trade, known_at, self._context.calendar))
        return found

    # ------------------------------------------------------------ reflection
    def _reflect(self, memory: Remembered, session: date, *, closing: bool) -> bool:
        """Whether the journal was told anything."""
        from cognitive.reflection import reflect

        settings = self._context.settings.cognitive.reflection
        outcomes = sum(1 for e in memory.episodes.values() if e.outcome is not None)
        enough = outcomes >= 2 * settings.least
        week = week_ended(self._context.calendar, session, memory.book) if closing and enough else None
        if not settings.enabled or not enough or (week is None and not self._closed_new):
            return False
        at = self._context.clock.now()
        known = EpisodicMemory(memory.episodes.values()).before(at + MOMENT)
        changes = reflect(known, memory.book, at, settings, week=week)
        self._closed_new = False
        for change in changes:
            self._journal.append(change.kind, change.body)
            logs.event(change.kind, **_told_of(change.body))
            logs.count("reflections", code=change.kind.upper())
        return bool(changes)


def _told_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """A line for people: what it says and why, without the figures, which are in the journal."""
    return {key: body[key] for key in ("id", "says", "code", "shrink", "week", "outcomes", "tried") if key in body}


def week_ended(calendar: MarketCalendar, session: date, book: LearningBook) -> str | None:
    """The newest week that is over after this session, unless its end was reflected on already."""
    this = _week(session)
    ended = this if _week(calendar.next_session(session)) != this else _week(session - timedelta(days=7))
    return ended if ended > book.week else None


def _week(day: date) -> str:
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02d}"


# ---------------------------------------------------------------- records
@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What some records say that a memory keeps."""

    seq: int = 0
    hash: str = ""
    today: date = date.min  # New York, of the last record
    reviews: Sequence[Episode] = ()
    trades: frozenset[str] = frozenset()  # decision ids that opened or closed
    moved: bool = False  # fills, or what a corporate action or a person changed
    closed: Mapping[str, datetime] = field(default_factory=lambda: MappingProxyType({}))  # when it was told
    learned: Sequence[tuple[str, Mapping[str, Any]]] = ()


def told_by(records: Sequence[Record]) -> Told:
    """`records` not empty, or the journal is. A row that cannot be read is told and left out."""
    if not records:
        return Told()
    reviews: list[Episode] = []
    moved = False
    trades, closed, learned = set[str](), dict[str, datetime](), list[tuple[str, Mapping[str, Any]]]()
    for record in records:
        if record.kind == "signals_reviewed":
            reviews += _reviews(record)
        elif record.kind in ("trade_opened", "trade_closed"):
            trades.add(str(record.body["decision_id"]))
            if record.kind == "trade_closed":
                closed.setdefault(str(record.body["decision_id"]), record.at)
        elif record.kind in KINDS:
            learned.append((record.kind, record.body))
        moved = moved or record.kind in _MOVES
    last = records[-1]
    return Told(
        seq=last.seq, hash=last.hash, today=new_york_day(last.at), reviews=reviews, trades=frozenset(trades),
        moved=moved, closed=closed, learned=learned,
    )  # fmt: skip


def _reviews(record: Record) -> list[Episode]:
    found = []
    try:
        session, regime = date.fromisoformat(record.body["session"]), str(record.body["regime"]["label"])
        rows = list(record.body["signals"])
    except _UNREADABLE_BODY as error:
        return _not_read(record, error)
    for row in rows:
        try:
            found.append(episode_of(row, at=record.at, session=session, regime=regime))
        except _UNREADABLE_BODY as error:
            _not_read(record, error)
    return found


def _not_read(record: Record, error: Exception) -> list[Episode]:
    logs.error_event("review_not_read", code="REVIEW_NOT_READ", seq=record.seq, detail=repr(error))
    logs.count("reviews_not_read")
    return []


def _too_late(before: Remembered, told: Told, facts: Sequence[Entered]) -> bool:
    """An entry of a decision that was forgotten, or whose review was replaced by one that came after the entry."""
    reviewed = {review.decision_id for review in told.reviews}
    for fact in facts:
        kept = before.episodes.get(fact.decision_id)
        if kept is None and before.forgotten and fact.decision_id not in reviewed:
            return True
        if kept is not None and kept.entered_at is None and kept.decided_at > fact.entered_at:
            return True
    return False


def _after(before: Remembered, told: Told, facts: Sequence[Entered]) -> Remembered:
    entered = {fact.decision_id: fact.entered_at for fact in facts}
    for key, episode in before.episodes.items():
        if episode.entered_at is not None:
            entered.setdefault(key, episode.entered_at)
    reviewed = with_reviews(before.episodes, told.reviews, entered)
    episodes = with_trades(reviewed, facts, told.today)
    return replace(
        before, seq=told.seq, hash=told.hash or before.hash, forgotten=before.forgotten or len(episodes) > before.most,
        episodes=MappingProxyType(bounded(episodes, before.most)), book=_book(before.book, told),
    )  # fmt: skip


def _book(book: LearningBook, told: Told) -> LearningBook:
    """Raises StateCorrupt LEARNING_NOT_READ for one that might shrink an order: left out, it would read as permission.
    A retirement that cannot be read leaves the shrink as it is, and is told."""
    for kind, body in told.learned:
        try:
            book = book.after(kind, body)
        except _UNREADABLE_BODY as error:
            logs.error_event("learning_not_read", code="LEARNING_NOT_READ", kind=kind, detail=repr(error))
            logs.count("learnings_not_read")
            if kind in ("learning_proposed", "learning_adopted"):
                raise StateCorrupt(f"{kind} cannot be read: {error!r}", code="LEARNING_NOT_READ") from error
    return book


# ---------------------------------------------------------------- what became of a trade
def entered_of(ledger: Ledger, trade: Trade, known_at: datetime | None, calendar: MarketCalendar) -> Entered:
    """`known_at`: when the journal told that it closed; None: it has not."""
    attempts = ledger.attempts(trade.decision_id, Side.BUY, Purpose.ENTRY)
    filled = [order for order in attempts if order.filled_quantity > 0]
    outcome = None
    if known_at is not None and not trade.is_open and trade.exits:
        outcome = _outcome(ledger, trade, filled, known_at, calendar)
    return Entered(
        decision_id=trade.decision_id, symbol=str(trade.symbol), strategy=trade.strategy, session=trade.signal_session,
        entered_at=filled[0].intended_at if filled else trade.opened_at, outcome=outcome,
        lost=known_at is not None and not trade.is_open and outcome is None,
        closed_untold=known_at is None and not trade.is_open,
    )  # fmt: skip


def _outcome(
    ledger: Ledger, trade: Trade, filled: Sequence[LedgerOrder], known_at: datetime, calendar: MarketCalendar
) -> Outcome | None:
    """None when a price or the first stop is not known. R is taken from ratios, which a split leaves as they are."""
    sold = sum(fill.quantity for fill in trade.exits)
    got = [(fill.price, fill.quantity) for fill in trade.exits]
    risk = _risk(trade, filled)
    if risk is None or sold <= 0 or any(price is None for price, _ in got):
        return None
    value = sum(((price or Decimal(0)) * quantity for price, quantity in got), Decimal(0))
    closed_at = max(fill.at for fill in trade.exits)
    return Outcome(
        closed_at=closed_at, known_at=max(known_at, closed_at),
        r=float((value / sold / trade.entry_price - 1) / risk), usd=value - trade.entry_price * sold,
        exit_reason=str(ledger.exit_reason(trade)), bars_held=_bars_held(trade, closed_at, calendar),
    )  # fmt: skip


def _risk(trade: Trade, filled: Sequence[LedgerOrder]) -> Decimal | None:
    """1 - first stop / first entry: what the entry risked of its price, before any corporate action changed both."""
    priced = [(o.filled_price or o.intent.limit_price, o.filled_quantity) for o in filled]
    known = [(price, quantity) for price, quantity in priced if price is not None]
    stop = filled[0].intent.stop_price if filled else trade.stop
    shares = sum(quantity for _, quantity in known)
    entry = sum((price * quantity for price, quantity in known), Decimal(0)) / shares if shares else trade.entry_price
    return 1 - stop / entry if stop is not None and 0 < stop < entry else None


def _bars_held(trade: Trade, closed_at: datetime, calendar: MarketCalendar) -> int | None:
    try:
        return len(calendar.sessions_between(trade.session, new_york_day(closed_at)))
    except DataError:
        return None
