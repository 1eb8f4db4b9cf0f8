"""One scan of one session, from recovery to reconcile. The order of the steps is the safety argument.

1 settle what a crash left open · 2 broker's clock, account, positions · 3 breaks lock their symbols · 4 exits that are
due · 5 missing protection · 6 entries · 7 protection for what filled · 8 reconcile again, write the views, record.
Everything that decides is handed in; the desk is the only way to the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from core import logs
from core.domain import (
    Account,
    Breach,
    BrokerClock,
    ExitReason,
    OrderIntent,
    Position,
    Purpose,
    Quote,
    Side,
    Signal,
    Symbol,
    Tif,
    TradingState,
    client_order_id,
)
from core.errors import BrokerDown, BrokerError, Exit, KobeError
from core.market_calendar import MarketCalendar
from core.ports import ActionFeed, QuoteSource
from execution.breaks import ACTION_LOCK, UNEXPLAINED_LOCK, Break
from execution.corporate_actions import CHANGED, PENDING, ActionCheck
from execution.desk import Desk, Halted, NotSent, Outcome, Rejected, Unknown, whole_shares, with_ledger
from execution.entry import (
    ENTERED,
    WHOLE_REFUSED,
    Declined,
    EntryLocks,
    Kept,
    Priced,
    Sizer,
    entry_intent,
    not_eligible,
    priced_entry,
    whole_refused,
)
from execution.evidence import look
from execution.ledger import Ledger, LedgerOrder, Trade, new_york_day
from execution.protection import Left, leave, repair
from execution.reconcile import record_breaks
from execution.recorded import Noted, gate_facts, leave_facts, quote_facts
from execution.scheduler import DueRun
from risk.gate import Book, Refused

if TYPE_CHECKING:
    from config.settings_schema import Settings


ACTION_LOCKS: tuple[str | None, ...] = (ACTION_LOCK, UNEXPLAINED_LOCK, PENDING, CHANGED)
"""Locks that say that shares or prices of a symbol are not what they were: no exit is tried while they hold."""
_CENT = Decimal("0.01")
SKEW_WARN_S = 2.0
"""A clock this far from the broker's is told; `execution.clock_skew_max_s` is where trading stops."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A pick, as far as trading needs it. `scale` 0..1 shrinks the size (VIX, reviewers)."""

    signal: Signal
    scale: Decimal
    full: Decimal | None = None  # what a language model took away of this keeps its place; None: nothing was taken

    @property
    def is_gone(self) -> bool:
        """It was picked, and a language model has left nothing of it."""
        return self.full is not None and self.scale <= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the planner decided for one scan, and the facts the gate needs."""

    signal_session: date
    entries: Sequence[Entry] = ()
    exits: Sequence[tuple[str, ExitReason]] = ()  # decision id, why
    vix: float | None = None
    returns: Mapping[Symbol, Any] = field(default_factory=dict)  # (60,) aligned daily returns
    sectors: Mapping[Symbol, str | None] = field(default_factory=dict)
    closes: Mapping[Symbol, float] = field(default_factory=dict)  # last close, USD
    problem: str | None = None  # reason code: no entries, exits go on
    scan: Mapping[str, Any] | None = None  # the scan's --json


class Planner(Protocol):
    def exits(self, run: DueRun, ledger: Ledger) -> Sequence[tuple[str, ExitReason]]:
        """What must leave now, from the calendar and the bars already at hand; asks no vendor."""
        ...

    def plan(self, run: DueRun, ledger: Ledger) -> Plan:
        """The scan, and the exits that only its data could tell. Trouble with data is `Plan.problem`, not an error."""
        ...


@dataclass
class RunReport:
    """What one scan did; `to_json` is the seam of docs/interfaces.md."""

    run: DueRun
    code: str = "OK"
    scan: Mapping[str, Any] | None = None
    intents: list[dict[str, Any]] = field(default_factory=list)
    orders: list[dict[str, Any]] = field(default_factory=list)
    breaks: list[dict[str, Any]] = field(default_factory=list)
    equity: Decimal | None = None
    no_quotes: bool = False  # the broker gave none when some were asked for

    def to_json(self) -> dict[str, Any]:
        return {"scan": self.scan, "intents": self.intents, "orders": self.orders, "breaks": self.breaks}


class NotOpenYet(KobeError):
    """The broker opens within the time that a scan may be late: it is tried again, and not used up."""

    exit_code = Exit.BROKER_DOWN
    default_code = "MARKET_NOT_OPEN"
    default_advice = "run again when the market is open"


class TradingSession:
    """Runs scans. Raises BrokerDown, NotOpenYet and StateCorrupt, which end the scan and leave the journal as the
    record."""

    def __init__(
        self, *, desk: Desk, quotes: QuoteSource, planner: Planner, sizer: Sizer, settings: Settings,
        calendar: MarketCalendar, write_views: Callable[[Ledger, date], None],
        stopping: Callable[[], bool] = lambda: False, actions: ActionFeed | None = None,
        noted: Noted = lambda kind, facts: None, locks: Callable[[], EntryLocks] = EntryLocks,
    ) -> None:  # fmt: skip
        """`locks` is asked before every entry. It raises nothing; what it cannot read it refuses."""
        self.desk, self._quotes, self._planner, self._sizer = desk, quotes, planner, sizer
        self._settings, self._calendar, self._write_views = settings, calendar, write_views
        self._locks = locks
        self._open_usd: Mapping[str, Decimal] = {}  # profit of open trades at the broker's marks, by decision id
        self._noted = noted  # what one order was decided on, for those who work the day out again
        self._stopping = stopping  # asked before each entry: the operator wants to end
        self._feed = actions
        special = settings.execution.special_dividend_pct
        self._actions = None if actions is None else ActionCheck(desk, actions, calendar, special_fraction=special)
        self._told: frozenset[Break] = frozenset()  # breaks that the journal has, as they are
        self.hours: BrokerClock | None = None  # what the broker's clock said when it was last asked

    # ------------------------------------------------------------ one scan
    def run(self, run: DueRun) -> RunReport:
        report = RunReport(run)
        clock = self._broker_clock()  # before anything: at another time, a lag would look passed
        self.desk.keys_work_again()
        first_seq = self.desk.ledger().last_seq
        self._settle()
        self._apply_actions()
        self._reconcile(report)
        if self.desk.halt.is_active():
            report.code = "KILL_SWITCH"
        else:
            self._require_opened(report, run, clock)
            self._look_after_held(report, run, clock)
            if self._shut(clock):
                report.code = "MARKET_CLOSED"
            else:
                self._plan_and_trade(report, run, clock)
            if self.desk.halt.is_active():
                report.code = "KILL_SWITCH"
        if report.no_quotes and report.code == "OK":
            report.code = "QUOTES_UNAVAILABLE"
        self._finish(report, first_seq)
        return report

    def _shut(self, clock: BrokerClock) -> bool:
        """The broker's clock overrides the calendar: a closing that no calendar knew is no scan, and no vendor is asked
        for the bars of such a day (D22)."""
        if not self._is_shut(clock):
            return False
        logs.error_event("market_closed", code="MARKET_CLOSED", next_open=clock.next_open.isoformat())
        logs.count("market_closed")
        return True

    def _is_shut(self, clock: BrokerClock) -> bool:
        now, calendar = self.desk.clock.now(), self._calendar
        today = calendar.session_at(now)
        return not clock.is_open and today is not None and calendar.opens_at(today) <= now < calendar.closes_at(today)

    def _require_opened(self, report: RunReport, run: DueRun, clock: BrokerClock) -> None:
        """A scan at the open, by a clock a moment ahead of the broker's, or a late open. What is held is protected; the
        broker's word of its open may be as old as the clocks may be apart. Raises NotOpenYet."""
        skew = timedelta(seconds=float(self._settings.execution.clock_skew_max_s))
        latest = run.at + timedelta(seconds=self._settings.runner.catch_up_s)
        if not self._is_shut(clock) or not clock.now - skew < clock.next_open <= latest:
            return
        nothing = Plan(signal_session=self._calendar.previous_session(run.session))
        self._protect(report, self._book(nothing, clock, entries=False), run.session)
        raise NotOpenYet(f"{run.id}: the broker says closed, and that it opens at {clock.next_open:%H:%M:%S}Z")

    def _plan_and_trade(self, report: RunReport, run: DueRun, clock: BrokerClock) -> None:
        plan = self._planner.plan(run, self.desk.ledger())
        report.scan = plan.scan
        locked = self._locks().everything
        base = self._book(plan, clock, entries=plan.problem is None and locked is None)
        self._exits(report, plan.exits, base)
        report.code = plan.problem or self._entries(report, plan, base, run)
        if plan.problem is None and locked is not None:
            report.code = locked  # whatever was planned, and also when that was nothing
        self._protect(report, base, run.session)

    def _look_after_held(self, report: RunReport, run: DueRun, clock: BrokerClock) -> None:
        """What is held comes first: neither a slow vendor nor a failing scan may keep an exit or a stop waiting."""
        nothing = Plan(signal_session=self._calendar.previous_session(run.session))
        base = self._book(nothing, clock, entries=False)
        self._exits(report, self._planner.exits(run, self.desk.ledger()), base)
        self._protect(report, base, run.session)

    def look_after(self, session: date) -> RunReport:
        """Between scans, before the open and at start-up: settle, book what rested and filled, corporate actions, put
        back missing protection. Breaks are looked for when the broker's shares are not ours."""
        report = RunReport(DueRun(session, "look_after", self.desk.clock.now(), first=False, last=False))
        first_seq = self.desk.ledger().last_seq
        clock = self._broker_clock()
        self._settle()
        self._apply_actions()
        if not self.desk.halt.is_active():
            nothing = Plan(signal_session=self._calendar.previous_session(session))
            base = self._book(nothing, clock, entries=False)
            if any(base.positions.get(s, 0) != q for s, q in self.desk.ledger().positions.items()):
                self._reconcile(report)  # a stop at yesterday's price would sell what was split over night
            self._protect(report, base, session)
        if self.desk.touched_since(first_seq):  # else a resting stop that filled would look like an edited view
            self._write_views(self.desk.ledger(), session)
        return report

    def recover(self) -> None:
        """Start-up is recovery: what a crash left open is settled, and what is held is protected, before anything else.

        Raises BrokerDown: a runner that cannot learn what it holds does not start.
        """
        session = self._calendar.next_session(self._calendar.last_completed(self.desk.clock.now()))
        self.look_after(session)
        self._write_views(self.desk.ledger(), session)  # a crash may have left them behind the journal

    @property
    def has_something_out(self) -> bool:
        """Whether anything is held or may be live."""
        ledger = self.desk.ledger()
        return bool(ledger.open_trades() or ledger.working())

    def close_out(self, session: date) -> RunReport:
        """After the close: book what resting orders did, protect for the night, reconcile, write the views."""
        report = RunReport(DueRun(session, "close", self.desk.clock.now(), first=False, last=False))
        first_seq = self.desk.ledger().last_seq
        report.intents = self.look_after(session).intents
        self._finish(report, first_seq)
        return report

    def _settle(self) -> None:
        settled = self.desk.settle()
        for what in ("adopted", "not_sent", "still_unknown"):
            for cid in getattr(settled, what):
                logs.event("order_settled", client_order_id=cid, code=what.upper())
                logs.count("orders_settled", code=what.upper())

    def _broker_clock(self) -> BrokerClock:
        """The broker's clock must agree with ours: an order decided at another time is another order (B46)."""
        clock = self.hours = self.desk.broker.clock()
        skew = abs((clock.now - self.desk.clock.now()).total_seconds())
        limit = float(self._settings.execution.clock_skew_max_s)
        if skew > SKEW_WARN_S:
            logs.event("clock_skewed", code="CLOCK_SKEW", skew_s=round(skew, 1), limit_s=limit)
            logs.count("clock_skewed")
        if skew > limit:
            raise BrokerDown(
                f"the broker's clock says {clock.now:%Y-%m-%d %H:%M:%S}Z, {skew:.0f} s from ours (limit {limit:g} s)",
                code="CLOCK_DISAGREES", advice="correct this machine's clock, or the instant given with --as-of",
            )  # fmt: skip
        return clock

    def clock_agrees(self) -> bool | None:
        """Whether our clock is the broker's, within the limit; None when the broker cannot be asked."""
        try:
            self._broker_clock()
        except BrokerError as error:
            return False if error.code == "CLOCK_DISAGREES" else None
        return True

    def _book(self, plan: Plan, clock: BrokerClock, *, entries: bool) -> Book:
        broker, account, held = self.desk.broker, self.desk.broker.account(), self.desk.broker.positions()
        marks = {s: Decimal(repr(float(c))) for s, c in plan.closes.items() if c == c}
        told = {s: p.market_value / p.quantity for s, p in held.items() if p.market_value is not None and p.quantity}
        marks = {**told, **marks}  # what nobody scans, a child of a spin-off say, must not stop everything else
        now = self.desk.clock.now()
        return Book(
            now=now, spent_today_usd=self.desk.ledger().filled_usd(new_york_day(now)), session=plan.signal_session,
            session_open=clock.is_open, closes_at=clock.next_close if clock.is_open else None,
            positions=whole_shares(held), open_orders=broker.open_orders(), vix=plan.vix,
            returns=plan.returns, sectors=plan.sectors, marks=marks, equity=account.equity, cash=account.cash,
            trading_state=_state(account, entries=entries),
        )  # fmt: skip

    # ------------------------------------------------------------ reconcile
    def _apply_actions(self) -> None:
        """Splits, renames and large dividends of what is held, before any exit or stop is thought of."""
        if self._actions is not None:
            self._actions.apply()

    def _reconcile(self, report: RunReport) -> tuple[Break, ...]:
        """In step this is one comparison; a break of positions is explained from the broker's own evidence first."""
        found, side, _ = look(self.desk.broker, self._feed, self.desk.ledger, self.desk.clock)
        self._open_usd = open_profit(self.desk.ledger(), side.positions)
        record_breaks(self.desk.journal, found, self.desk.ledger(), self._told)
        for b in found:
            if b not in self._told:
                logs.event("break_found", symbol=str(b.symbol), code=str(b.kind), cause=str(b.cause), ours=b.ours,
                           theirs=b.theirs)  # fmt: skip
                logs.count("breaks_found", cause=str(b.cause))
        self._told = frozenset(found)
        report.breaks = [b.to_json() for b in found]
        return found

    # ------------------------------------------------------------ exits and protection
    def _exits(self, report: RunReport, exits: Sequence[tuple[str, ExitReason]], base: Book) -> None:
        trades = self.desk.ledger().trades
        due = [(d, why) for d, why in exits if d in trades and trades[d].is_open]
        due = [(d, why) for d, why in due if self._may_leave(report, trades[d], base)]
        if not due:
            return
        symbols = {self.desk.ledger().trades[d].symbol for d, _ in due}
        quotes = self._quotes_of(report, symbols)
        for decision_id, why in due:
            trade = self.desk.ledger().trades[decision_id]
            if not trade.is_open:
                continue
            self._leave(report, trade, quotes.get(trade.symbol), why, base)

    def _may_leave(self, report: RunReport, trade: Trade, base: Book) -> bool:
        """What the broker does not have, or has in other shares, is not tried again at every scan (D05): the break
        or the lock says why, and the report that it was due."""
        ledger = self.desk.ledger()
        locked = ledger.locked.get(trade.symbol)
        codes = [locked] if locked in ACTION_LOCKS else []
        codes += ["OVERSELL"] if base.positions.get(trade.symbol, 0) < trade.quantity else []
        if not codes:
            return True
        attempt = ledger.next_attempt(trade.decision_id, Side.SELL, Purpose.EXIT)
        report.intents.append({
            "client_order_id": client_order_id(trade.decision_id, Side.SELL, Purpose.EXIT, attempt),
            "symbol": str(trade.symbol), "side": str(Side.SELL), "quantity": trade.quantity, "limit_price": None,
            "verdict": "refused", "codes": codes,
        })  # fmt: skip
        logs.event("exit_skipped", symbol=str(trade.symbol), decision_id=trade.decision_id, code=codes[0])
        logs.count("exits_skipped", code=codes[0])
        return False

    def _leave(self, report: RunReport, trade: Trade, quote: Quote | None, why: ExitReason, base: Book) -> None:
        """One exit. A broker that fails in the middle is told; protection is put back before entries."""
        execution = self._settings.execution
        self._noted("leave", leave_facts(trade, quote, why, self.desk.ledger().last_seq))
        try:
            left = leave(
                self.desk, trade.decision_id, quote, why, base, offset_bps=execution.exit_offset_bps,
                max_clamp_bps=execution.exit_clamp_bps, on=base.now.date(), tif=self._tif(),
                wait_s=float(execution.reconcile_poll_s), max_age_s=float(execution.quote_max_age_s),
            )  # fmt: skip
        except BrokerError as error:
            left = Left("BROKER_DOWN", breach=Breach(code=error.code, observed=str(error), limit="an answer"))
        self._tell_exit(report, trade.symbol, trade.decision_id, left)

    def _quotes_of(self, report: RunReport, symbols: Collection[Symbol]) -> Mapping[Symbol, Quote]:
        """Quotes that cannot be had price nothing: each is QUOTE_ABSENT, while protection and reconcile go on."""
        try:
            return self._quotes.quotes(sorted(symbols))
        except BrokerError as error:
            report.no_quotes = True
            logs.event("quotes_unavailable", code=error.code, detail=str(error))
            logs.count("quotes_unavailable", code=error.code)
            return {}

    def _tell_exit(self, report: RunReport, symbol: Symbol, decision_id: str, left: Left) -> None:
        if left.outcome is not None:
            report.intents.append(_intent_row(left.outcome))
        codes = [left.breach.code] if left.breach is not None else []
        logs.trade_event("exit_attempted", symbol=str(symbol), decision_id=decision_id, code=left.code, codes=codes)
        trade = self.desk.ledger().trades[decision_id]
        if trade.is_open and not self.desk.ledger().protective(decision_id):
            self._tell_unprotected(trade)

    def _tell_unprotected(self, trade: Trade) -> None:
        logs.error_event(
            "position_unprotected", symbol=str(trade.symbol), decision_id=trade.decision_id,
            code="POSITION_UNPROTECTED", quantity=trade.quantity,
        )  # fmt: skip
        logs.count("positions_unprotected")

    def _protect(self, report: RunReport, base: Book, on: date) -> None:
        """Put back what is missing. A stop that the broker refuses was passed already: then the rule is to leave."""
        for outcome, _ in repair(self.desk, base, on=on):
            report.intents.append(_intent_row(outcome))
            if not isinstance(outcome, Rejected) or not base.session_open:
                continue
            trade = self.desk.ledger().trades.get(outcome.intent.decision_id)
            if trade is not None and trade.is_open:
                quote = self._quotes_of(report, [trade.symbol]).get(trade.symbol)
                self._leave(report, trade, quote, ExitReason.STOP, base)

    def _tif(self) -> Tif:
        return Tif.IOC if self._settings.execution.time_in_force == "ioc" else Tif.DAY

    # ------------------------------------------------------------ entries
    def _entries(self, report: RunReport, plan: Plan, base: Book, run: DueRun) -> str:
        if self._settings.execution.entry_scans == "first" and not run.first:
            return "ENTRIES_AT_FIRST_SCAN"
        if self._calendar.next_session(plan.signal_session) != run.session:
            return "SIGNAL_NOT_OF_LAST_SESSION"
        wanted = [entry for entry in plan.entries if self._eligible(report, entry)]
        if all(entry.is_gone for entry in wanted):
            return "NO_PICKS" if all(entry.is_gone for entry in plan.entries) else "OK"
        kept = Kept()
        quotes = self._quotes_of(report, {e.signal.symbol for e in wanted})
        for entry in wanted:
            if entry.is_gone:
                taken = self._taken(entry, quotes.get(entry.signal.symbol), base, kept)
                kept.add(entry.signal.symbol, *taken)
                continue
            if self._stopping():
                self._refuse(report, entry.signal, "STOPPING", "the runner was asked to end")
                continue
            if not self._unlocked(report, entry):  # asked before each: an entry takes seconds
                continue
            try:
                taken = self._taken(entry, quotes.get(entry.signal.symbol), base, kept)  # before the room shrinks
                self._enter(report, entry, quotes.get(entry.signal.symbol), base, kept, taken[0])
                kept.add(entry.signal.symbol, *taken)
                if self.desk.keys_refused:
                    return "UNAUTHORIZED"
            except BrokerError as error:  # what filled before this one must still be protected and booked
                self._refuse(report, entry.signal, error.code, str(error))
                return error.code
            finally:
                self._protect_quietly(report, base, run.session)
        return "OK"

    def _protect_quietly(self, report: RunReport, base: Book, on: date) -> None:
        """Right after each entry; when the broker fails here too, the end of the scan and the next look try again."""
        try:
            self._protect(report, base, on)
        except BrokerError as error:
            logs.error_event("protection_failed", code=error.code, detail=str(error))

    def _eligible(self, report: RunReport, entry: Entry) -> bool:
        """A signal is acted on once, and ignored while its strategy held the symbol at the signal's close."""
        signal, most = entry.signal, self._settings.execution.max_attempts
        no = not_eligible(signal, self.desk.ledger(), most, self._calendar.closes_at(signal.session))
        if no is None:
            return True
        return False if no.code == ENTERED or entry.is_gone else self._refuse(report, signal, no.code, no.detail)

    def _unlocked(self, report: RunReport, entry: Entry) -> bool:
        code = self._locks().code(entry.signal.strategy, entry.signal.symbol)
        return code is None or self._refuse(report, entry.signal, code, "entries are locked")

    def _enter(
        self, report: RunReport, entry: Entry, quote: Quote | None, base: Book, kept: Kept,
        whole: Priced | Declined | None,
    ) -> None:  # fmt: skip
        signal, execution = entry.signal, self._settings.execution
        ledger, now = self.desk.ledger(), self.desk.clock.now()
        self._noted("quote", quote_facts(signal, entry.scale, quote, ledger.last_seq, kept.usd))
        found = self._priced(entry, entry.scale, quote, base, kept)
        if isinstance(found, Declined):
            self._refuse(report, signal, found.code, found.detail, found.price)
            return
        assert quote is not None, "without a quote it was declined"
        intent = entry_intent(signal, found, ledger, now, self._tif())
        book = self._for_entry(base, signal.symbol, quote, kept)
        self._noted("gate", gate_facts(intent, book, ledger.last_seq))
        codes = whole_refused(intent, whole, with_ledger(book, ledger, intent, now), self.desk.limits)
        if codes:
            self._refuse(report, signal, WHOLE_REFUSED, ",".join(codes), intent.limit_price)
            return
        outcome, _ = self.desk.execute(intent, book, wait_s=float(execution.reconcile_poll_s))
        report.intents.append(_intent_row(outcome))

    def _priced(self, entry: Entry, part: Decimal, quote: Quote | None, base: Book, kept: Kept) -> Priced | Declined:
        ledger, limits = self.desk.ledger(), self.desk.limits
        room = limits.daily_budget_usd - ledger.spent_usd(new_york_day(self.desk.clock.now())) - kept.usd
        execution, on = self._settings.execution, base.now.date()
        return priced_entry(entry.signal, part, quote, room, execution, limits.ticks, on, self._sizer)

    def _taken(
        self, entry: Entry, quote: Quote | None, base: Book, kept: Kept
    ) -> tuple[Priced | Declined | None, Priced | Declined | None]:
        """What would be bought had the language model been off, and what is bought of it; (None, None): no part of it
        was taken away. Asked while the room is still that of the whole."""
        if entry.full is None:
            return None, None
        part = self._priced(entry, entry.scale, quote, base, kept) if entry.scale > 0 else None
        return self._priced(entry, entry.full, quote, base, kept), part

    def book_for_entry(self, intent: OrderIntent, quote: Quote) -> Book:
        """The book of one entry that did not come from a scan; facts are read now."""
        run = DueRun(new_york_day(intent.decided_at), "hand", intent.decided_at, first=False, last=False)
        plan = self._planner.plan(run, self.desk.ledger())
        free = self._locks().code(intent.strategy, intent.symbol) is None
        return self._for_entry(self._book(plan, self._broker_clock(), entries=free), intent.symbol, quote, Kept())

    def _for_entry(self, base: Book, symbol: Symbol, quote: Quote, kept: Kept) -> Book:
        from dataclasses import replace

        broker = self.desk.broker
        asset = broker.asset(symbol)
        tradable = None if asset is None else asset.tradable and asset.active
        bought = self.desk.ledger().filled_usd(new_york_day(base.now)) - base.spent_today_usd  # since cash was asked
        return replace(
            base, quote=quote, tradable=tradable, open_orders=broker.open_orders(),
            cash=None if base.cash is None else base.cash - bought - kept.usd,
            positions=kept.beside(whole_shares(broker.positions())),
        )  # fmt: skip

    def _refuse(self, report: RunReport, signal: Signal, code: str, detail: str, price: Decimal | None = None) -> bool:
        """A pick that became no order: told in the report, the log and the journal. Always False."""
        cid = client_order_id(signal.decision_id, Side.BUY, Purpose.ENTRY, 1)
        report.intents.append({
            "client_order_id": cid, "symbol": str(signal.symbol), "side": str(Side.BUY), "quantity": 0,
            "limit_price": None if price is None else str(price), "verdict": "refused", "codes": [code],
        })  # fmt: skip
        self.desk.journal.append(
            "pick_refused",
            {"decision_id": signal.decision_id, "symbol": str(signal.symbol), "code": code, "detail": detail},
        )
        logs.event("pick_refused", symbol=str(signal.symbol), decision_id=signal.decision_id, code=code, detail=detail)
        logs.count("picks_refused", code=code)
        return False

    # ------------------------------------------------------------ the end
    def _finish(self, report: RunReport, first_seq: int) -> None:
        self._reconcile(report)
        ledger = self.desk.ledger()
        report.equity = self.desk.broker.account().equity
        told = {row["client_order_id"] for row in report.intents if row["quantity"]}
        report.orders = [_order_row(ledger.orders[cid]) for cid in self._touched(ledger, told, first_seq)]
        self._write_views(ledger, report.run.session)
        self.desk.journal.append("scan_run", {
            "run": report.run.id, "code": report.code, "intents": len(report.intents), "breaks": len(report.breaks),
            "snapshot_sha256": (report.scan or {}).get("snapshot_sha256"),
            "data_source": (report.scan or {}).get("data_source"),
            "equity_usd": None if report.equity is None else str(report.equity), "open_usd": dict(self._open_usd),
        })  # fmt: skip
        logs.event(
            "scan_run", run=report.run.id, code=report.code, intents=len(report.intents), breaks=len(report.breaks)
        )

    def _touched(self, ledger: Ledger, told: Collection[str], first_seq: int) -> list[str]:
        """Orders of this scan, and older ones whose end or fill was seen during it; oldest intent first."""
        found = {cid for cid in (*told, *self.desk.touched_since(first_seq)) if cid in ledger.orders}
        return sorted(found, key=lambda cid: (ledger.orders[cid].intended_at, cid))


def _state(account: Account, *, entries: bool) -> TradingState:
    if not account.may_trade:
        return TradingState.HALTED
    return TradingState.ACTIVE if entries else TradingState.REDUCING


def open_profit(ledger: Ledger, held: Mapping[Symbol, Position]) -> dict[str, Decimal]:
    """USD that each open trade has made so far, what it sold of itself included, at the broker's marks. A trade that
    has no mark, or is not there as we know it, is left out."""
    found = {}
    for trade in ledger.open_trades():
        position = held.get(trade.symbol)
        if position is None or position.market_value is None or not position.quantity:
            continue
        mark = position.market_value / position.quantity
        sold = sum(((f.price - trade.entry_price) * f.quantity for f in trade.exits if f.price is not None), Decimal(0))
        profit = sold + (mark - trade.entry_price) * trade.quantity
        found[trade.decision_id] = profit.quantize(_CENT)
    return found


def _order_row(order: LedgerOrder) -> dict[str, Any]:
    status = order.unknown or order.status or "pending"
    return {
        "client_order_id": order.client_order_id, "status": str(status), "filled_quantity": order.filled_quantity,
        "filled_price": None if order.filled_price is None else str(order.filled_price),
    }  # fmt: skip


def _intent_row(outcome: Outcome) -> dict[str, Any]:
    intent = outcome.intent
    verdict, codes = "approved", []
    if isinstance(outcome, Refused):
        verdict, codes = "refused", list(outcome.codes)
    elif isinstance(outcome, Halted):
        verdict, codes = "halted", ["KILL_SWITCH"]
    elif isinstance(outcome, Rejected | NotSent | Unknown):
        codes = [outcome.code]
    price = intent.limit_price if intent.limit_price is not None else intent.stop_price
    for code in codes:
        logs.count("orders_refused", code=code)
    if verdict != "approved":
        logs.event("order_refused", client_order_id=intent.client_order_id, symbol=str(intent.symbol), code=codes[0])
    return {
        "client_order_id": intent.client_order_id, "symbol": str(intent.symbol), "side": str(intent.side),
        "quantity": intent.quantity, "limit_price": None if price is None else str(price), "verdict": verdict,
        "codes": codes,
    }  # fmt: skip


SESSION_MARGIN = timedelta(minutes=1)


def after_close(calendar: MarketCalendar, session: date) -> datetime:
    """When a session's resting orders are surely over."""
    return calendar.closes_at(session) + SESSION_MARGIN
