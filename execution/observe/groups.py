"""The groups of Facts that are worked out from what the journal tells. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING

from core.domain import Purpose, Symbol
from core.market_calendar import NEW_YORK, MarketCalendar
from execution.ledger import Ledger, LedgerOrder, Trade, new_york_day
from execution.observe.facts import (
    BookFacts,
    BudgetFacts,
    EquityFacts,
    OrderFacts,
    PositionFacts,
    ReconcileFacts,
    RunFacts,
    RunnerFacts,
    RunState,
    ScheduleFacts,
    TradeFacts,
)
from execution.observe.journal_look import Results, Seen
from execution.observe.story import Story
from execution.scheduler import DueRun, due_runs

if TYPE_CHECKING:
    from config.settings_schema import Risk

CLOSE_MARGIN = timedelta(minutes=1)
"""The close-out is due so long after the close, as in execution.session."""
OVERDUE_AFTER = timedelta(seconds=5)
_WEEK, _DAY = timedelta(days=7), timedelta(days=1)
_SHOWN = 4  # signs of an account number


# ---------------------------------------------------------------- schedule
@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """Which runs there are: as the runner was told."""

    calendar: MarketCalendar
    scan_times: Sequence[str]
    half_day_rule: str

    def closes_at(self, session: date, told: Mapping[date, datetime]) -> datetime:
        """`told`: closes that the broker's clock has set against the calendar."""
        return told.get(session) or self.calendar.closes_at(session)

    def of(self, session: date, told: Mapping[date, datetime] = MappingProxyType({})) -> list[DueRun]:
        """In order, the close-out last."""
        closes = self.closes_at(session, told)
        due = due_runs(session, self.scan_times, self.calendar, half_day_rule=self.half_day_rule, closes_at=closes)
        return [*due, DueRun(session, "close", closes + CLOSE_MARGIN, first=False, last=False)]


def schedule(
    table: Timetable, story: Story, runner: RunnerFacts | None, now: datetime, told: Mapping[date, datetime]
) -> ScheduleFacts:
    calendar = table.calendar
    session = calendar.session_at(now)
    today = () if session is None else tuple(_run(run, story, runner, now) for run in table.of(session, told))
    coming = next((r for r in today if r.state in (RunState.WAITING, RunState.OVERDUE, RunState.FAILING)), None)
    if coming is None:
        first = table.of(calendar.next_session(now.astimezone(NEW_YORK).date()))[0]
        next_id, next_at = first.id, first.at
    else:
        next_id, next_at = coming.id, coming.due_at
    opens = None if session is None else calendar.opens_at(session)
    closes = None if session is None else table.closes_at(session, told)
    last = story.last_run
    return ScheduleFacts(
        session=session, opens_at=opens, closes_at=closes,
        is_open=opens is not None and closes is not None and opens <= now < closes,
        today=today, next_id=next_id, next_at=next_at,
        last_id=None if last is None else last[0], last_code=None if last is None else last[1].code,
        last_at=None if last is None else last[1].at,
        missed_7d=story.missed_since(now - _WEEK), failed_24h=story.failed_since(now - _DAY),
    )  # fmt: skip


def _run(run: DueRun, story: Story, runner: RunnerFacts | None, now: datetime) -> RunFacts:
    ended, failed = story.ended.get(run.id), story.failed.get(run.id)
    state, code, done_at = RunState.WAITING, "", None
    if ended is not None:
        state = RunState.DONE if ended.kind == "scan_run" else RunState.MISSED
        code, done_at = ended.code, ended.at
    elif failed is not None:
        state, code = RunState.FAILING, failed[1]
    elif runner is not None and not runner.ended and runner.doing == f"running {run.id}":
        state = RunState.RUNNING
    elif now - run.at > OVERDUE_AFTER:
        state = RunState.OVERDUE
    return RunFacts(id=run.id, label=run.label, due_at=run.at, state=state, code=code, done_at=done_at)


# ---------------------------------------------------------------- book
def book(seen: Seen, risk: Risk, now: datetime) -> BookFacts:
    ledger, story = seen.ledger, seen.story
    bare = tuple(sorted({str(t.symbol) for t in ledger.open_trades() if not is_protected(t, ledger)}))
    reconcile = _reconcile(story, now)
    theirs = {b.symbol: b.theirs for b in (() if reconcile is None else reconcile.rows) if "POSITION" in b.kind}
    return BookFacts(
        account=_account(ledger.account),
        positions=tuple(_position(s, ledger, theirs, reconcile) for s in sorted(ledger.positions)),
        open_orders=tuple(_order(o) for o in sorted(ledger.working(), key=lambda o: o.intended_at)),
        budget=budget(seen, risk, now), locked={str(s): code for s, code in sorted(ledger.locked.items())},
        unsettled=len(ledger.unsettled()), unprotected=bare, reconcile=reconcile,
        equity=equity(story), trades=trades(seen.results, new_york_day(now)),
    )  # fmt: skip


def _account(bound: Mapping[str, str] | None) -> Mapping[str, str] | None:
    if bound is None:
        return None
    number = bound["number"]
    return {**bound, "id": "", "number": number if len(number) <= _SHOWN else f"…{number[-_SHOWN:]}"}


def is_protected(trade: Trade, ledger: Ledger) -> bool:
    """By the journal: stops of ours rest for all of it, or none is wanted (no stop known, or eased for an ex-date)."""
    wanted = trade.quantity if trade.eased is None else trade.eased.quantity
    if trade.stop is None or wanted == 0:
        return True
    resting = [o for o in ledger.protective(trade.decision_id) if o.acknowledged and o.unknown is None]
    return sum(o.intent.quantity - o.filled_quantity for o in resting) >= wanted


def _position(
    symbol: Symbol, ledger: Ledger, theirs: Mapping[str, str], reconcile: ReconcileFacts | None
) -> PositionFacts:
    own = [t for t in ledger.open_trades() if t.symbol == symbol]
    shares = sum(t.quantity for t in own)
    cost = sum((t.entry_price * t.quantity for t in own), Decimal(0))
    stops = [t.stop for t in own if t.stop is not None]
    quantity = ledger.positions[symbol]
    agreed = None if reconcile is None else str(quantity)
    return PositionFacts(
        symbol=str(symbol), quantity=quantity, broker_quantity=theirs.get(str(symbol), agreed),
        average_price=(cost / shares).quantize(Decimal("0.0001")) if shares else None,
        stop=max(stops) if stops else None, strategies=tuple(sorted({t.strategy for t in own})),
        entered_on=min((t.session for t in own), default=None),
        protected=bool(own) and all(is_protected(t, ledger) for t in own), locked=ledger.locked.get(symbol),
    )  # fmt: skip


def _order(order: LedgerOrder) -> OrderFacts:
    intent = order.intent
    return OrderFacts(
        client_order_id=order.client_order_id, symbol=str(intent.symbol), side=str(intent.side),
        purpose=str(intent.purpose), kind=str(intent.kind), quantity=intent.quantity, filled=order.filled_quantity,
        price=intent.limit_price if intent.limit_price is not None else intent.stop_price,
        status=order.unknown or order.status or "pending", intended_at=order.intended_at, unsettled=order.unsettled,
        unknown=order.unknown,
    )  # fmt: skip


def budget(seen: Seen, risk: Risk, now: datetime) -> BudgetFacts:
    ledger, day = seen.ledger, new_york_day(now)
    year, week, _ = day.isocalendar()
    days = [date.fromisocalendar(year, week, number) for number in range(1, 8)]
    return BudgetFacts(
        day=day, per_order_max_usd=risk.policy_gate.per_order_max_usd,
        daily_budget_usd=risk.policy_gate.daily_budget_usd, spent_today_usd=ledger.spent_usd(day),
        spent_week_usd=sum((ledger.filled_usd(d) for d in days), Decimal(0)),
        positions=len(ledger.positions), position_limit=risk.position_limit,
        orders_today=sum(1 for o in ledger.recent_orders() if o.day == day),
        orders_per_day=risk.runaway.orders_per_day,
    )  # fmt: skip


def _reconcile(story: Story, now: datetime) -> ReconcileFacts | None:
    """A scan tells how many breaks stand; the newest so many that were told are those."""
    if story.reconciled_at is None:
        return None
    told = sorted(story.breaks.values(), key=lambda b: b.at)
    rows = tuple(told[-story.breaks_told :]) if story.breaks_told else ()
    age_s = max(0.0, (now - story.reconciled_at).total_seconds())
    return ReconcileFacts(at=story.reconciled_at, age_s=age_s, breaks=story.breaks_told, rows=rows)


def equity(story: Story) -> EquityFacts | None:
    if not story.equity or story.equity_at is None or story.peak_usd is None:
        return None
    latest = story.equity[-1].equity_usd
    before = story.equity[-2].equity_usd if len(story.equity) > 1 else None
    peak = story.peak_usd
    return EquityFacts(
        points=tuple(story.equity), latest_usd=latest, latest_at=story.equity_at, peak_usd=peak,
        drawdown=float((peak - latest) / peak) if peak > 0 else 0.0,
        day_change_usd=None if before is None else latest - before,
    )  # fmt: skip


def trades(results: Results, day: date) -> TradeFacts:
    today = [profit for at, profit in results.recent if new_york_day(at) == day]
    return TradeFacts(
        closed=results.closed, closed_today=len(today), realised_usd=results.realised_usd,
        realised_today_usd=sum((p for p in today if p is not None), Decimal(0)), unpriced=results.unpriced,
        loss_streak=results.loss_streak,
    )  # fmt: skip


ENTRY_OR_EXIT = frozenset({str(Purpose.ENTRY), str(Purpose.EXIT)})
