"""What is known about the running system at one instant. Page, status, metrics, readiness and alerts read this value.

Read by execution/observe/reader.py. Three rules:
- `None` is "not known", never 0 and never "fine". Each None has its reason code in `Facts.unknown`, under the dotted
  name of the field (`scan.snapshot_sha256`) or of the group that is missing as a whole (`book`).
- A group that is there is whole: a journal that cannot be read gives no half of a ledger.
- Nothing here was asked of a broker. What the broker holds is what the last reconcile said, with its age.

Instants end in `_at` and are aware UTC; a session or day is a New York date; `_usd` is Decimal; rates are 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum


# ---------------------------------------------------------------- the process and the operator's switch
@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchFacts:
    """The kill switch and the halt that the journal knows of."""

    present: bool  # the file is there, or cannot be looked for
    found: str | None  # what halts, in words; the file's content is never read
    halted_since: datetime | None  # `trading_halted` that no `trading_resumed` has ended; None: no such record
    passed_since_halt: bool  # a preflight has passed after that halt


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerFacts:
    """state/runner.json: the runner's own sign of life."""

    pid: int
    host: str
    started_at: str  # as it was written
    doing: str  # "running 2026-11-25T09:35", "waiting for …", "stopped", "gave up"
    beats: int
    nonce: str
    beat_age_s: float | None  # since its main thread last moved; None: this machine's clock stands before the beat
    ended: bool  # it left a last word: stopped or gave up
    stopped: bool  # it ended as told
    watched: bool  # a watchdog looks after it


@dataclass(frozen=True, slots=True, kw_only=True)
class StartsFacts:
    """state/starts.json: how the last starts ended."""

    crashes: int  # within runner.crash_window_s
    stopped_at: str | None  # the runner crashed again and again, and stays down since


class RunState(StrEnum):
    """What became of one due run."""

    DONE = "done"
    MISSED = "missed"
    RUNNING = "running"
    FAILING = "failing"  # tried, and tried again until it is too late for it
    OVERDUE = "overdue"  # its time has come and nothing is known of it
    WAITING = "waiting"  # its time has not come


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One due run of the session of today: its id, when it is due, and what became of it."""

    id: str  # 2026-11-25T09:35
    label: str
    due_at: datetime
    state: RunState
    code: str  # of its end (OK, NO_PICKS, NOT_RUNNING …) or newest failure; empty while nothing is known
    done_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleFacts:
    """The runs of today's session, what comes next, what was last."""

    session: date | None  # today's session; None on a closed day
    opens_at: datetime | None
    closes_at: datetime | None
    is_open: bool  # by the calendar
    today: tuple[RunFacts, ...]  # in order; the close-out comes last
    next_id: str
    next_at: datetime
    last_id: str | None  # newest run on record; None: none yet
    last_code: str | None
    last_at: datetime | None
    missed_7d: int  # runs missed in the last seven days
    failed_24h: int  # failed tries in the last 24 hours


# ---------------------------------------------------------------- what we hold and owe, from the journal
@dataclass(frozen=True, slots=True, kw_only=True)
class PositionFacts:
    """Shares of one symbol by our journal, and by the broker as last reconciled."""

    symbol: str
    quantity: int
    broker_quantity: str | None  # what the last reconcile saw: equal to `quantity` unless it told a break
    average_price: Decimal | None  # USD per share; None: shares that no trade of ours explains
    stop: Decimal | None
    strategies: tuple[str, ...]
    entered_on: date | None
    protected: bool  # a stop of ours rests at the broker for every open trade of it, by the journal
    locked: str | None  # reason code that keeps the symbol from being traded


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFacts:
    """An order without an end."""

    client_order_id: str
    symbol: str
    side: str
    purpose: str
    kind: str
    quantity: int
    filled: int
    price: Decimal | None  # limit, else stop
    status: str
    intended_at: datetime
    unsettled: bool  # it may or may not be live
    unknown: str | None  # reason code while its outcome is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetFacts:
    """Limits of risk.* and what is used of them; New York day and ISO week."""

    day: date
    per_order_max_usd: Decimal
    daily_budget_usd: Decimal
    spent_today_usd: Decimal  # filled today, and reserved by entries without an end
    spent_week_usd: Decimal  # filled this ISO week
    positions: int
    position_limit: int
    orders_today: int
    orders_per_day: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakFacts:
    symbol: str
    kind: str
    cause: str
    ours: str
    theirs: str
    proposal: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileFacts:
    """The last comparison with the broker that the journal knows of."""

    at: datetime
    age_s: float
    breaks: int
    rows: tuple[BreakFacts, ...]  # those that stand, oldest first


@dataclass(frozen=True, slots=True, kw_only=True)
class EquityPoint:
    session: date
    equity_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class EquityFacts:
    """The account's equity as the broker told it at the end of each run; the last run of a session stands."""

    points: tuple[EquityPoint, ...]  # oldest first, at most EQUITY_POINTS
    latest_usd: Decimal
    latest_at: datetime
    peak_usd: Decimal  # of the whole journal
    drawdown: float  # 0..1 below the peak
    day_change_usd: Decimal | None  # against the session before; None: there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeFacts:
    """Trades that are over. Realised USD is before regulatory fees."""

    closed: int
    closed_today: int
    realised_usd: Decimal
    realised_today_usd: Decimal
    unpriced: int  # closed without a price: in no sum
    loss_streak: int  # losses in a row, up to now


@dataclass(frozen=True, slots=True, kw_only=True)
class BookFacts:
    """Everything that is folded from the journal."""

    account: Mapping[str, str] | None  # id, number (its last four signs), mode; None: no run has bound one yet
    positions: tuple[PositionFacts, ...]
    open_orders: tuple[OrderFacts, ...]
    budget: BudgetFacts
    locked: Mapping[str, str]  # symbol -> reason code
    unsettled: int
    unprotected: tuple[str, ...]  # symbols with an open trade and no resting stop of ours
    reconcile: ReconcileFacts | None
    equity: EquityFacts | None
    trades: TradeFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalFacts:
    """Where the chain stands. Followed, not proved: verify_hash_chain.py proves."""

    records: int
    head: str  # hash of the newest record
    newest_at: datetime | None
    noted_seq: int | None  # logs/journal_noted.json; more than `records` means that an older copy was put back
    preflight_passed_at: datetime | None  # newest pass of a whole preflight; None: never one


# ---------------------------------------------------------------- scans and data
@dataclass(frozen=True, slots=True, kw_only=True)
class PickFacts:
    """One pick of the newest scan and what became of it."""

    decision_id: str
    symbol: str
    strategy: str
    score: float | None
    close: float | None
    stop: float | None
    target: float | None
    reasons: str
    verdict: str  # "bought 2 of 2", "refused", "not filled", "may be live", "no order"
    codes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanFacts:
    """The newest scan of a runner, from logs/inputs/. Scans made by hand with scan.py are not in it."""

    at: datetime
    run: str  # 2026-11-25T09:35
    session: date  # whose bars decided
    source: str  # which data
    simulated: bool
    considered: int
    refused: Mapping[str, int]  # code -> symbols
    snapshot_sha256: str
    vix: float | None
    strategies_off: tuple[str, ...]  # raised, and were left out of this scan
    picks: tuple[PickFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFacts:
    """One vendor, from state/provider_stats.json. Rates are of the last seven days."""

    name: str
    success_rate: float | None  # None: not asked in that time
    asked: int
    last_success_at: str | None
    last_failure_at: str | None
    last_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    session: date | None  # newest session that a scan has used
    expected_session: date  # newest session whose close has passed
    sessions_behind: int | None  # from one to the other; 1 is usual between a close and the next morning's scan
    age_s: float | None  # since the close of `session`
    providers: tuple[ProviderFacts, ...] | None
    fallbacks_today: int | None


# ---------------------------------------------------------------- measures
@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionFacts:
    """How orders fared in the last WINDOW_DAYS days. Counts say how much an average rests on."""

    ioc_fill_rate_avg: float | None  # mean of filled / ordered over entries and exits that reached the broker
    ioc_orders: int
    slippage_bps_avg: float | None  # fill against the mid of the quote it was decided on; positive is worse
    slippage_fills: int
    clamp_usage_count: int | None  # entries today whose limit the clamp lowered
    orders_refused_today: int
    orders_rejected_today: int
    latency_ms_avg: float | None  # from `order_intended` to the broker's answer, both fsynced
    latency_ms_max: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmFacts:
    """Spend of the New York day, reservations included, beside both limits; the tighter one binds."""

    cost_usd_today: Decimal | None
    cost_budget_usd: Decimal
    tokens_today: int | None = None
    tokens_budget: int = 0
    calls_today: int | None
    avg_latency_ms: float | None  # of complete answers; None as well when there was none


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerFacts:
    """A tripped circuit breaker: what it keeps from being entered, and until when."""

    lock_id: str  # as scripts/breakers.py takes it
    name: str
    scope: str  # all, strategy, symbol
    what: str  # the strategy or symbol; empty for all
    code: str
    reason: str
    since: datetime
    until: date | None  # the last session that it holds in; None: until a person resumes it


@dataclass(frozen=True, slots=True, kw_only=True)
class CognitiveFacts:
    """Reviews of the New York day, each decision once, as last reviewed; and the breakers that stand."""

    decisions_today: int | None
    approval_rate: float | None  # not vetoed, of all reviewed
    avg_confidence: float | None
    breakers: tuple[BreakerFacts, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorFacts:
    """One line of logs/errors.jsonl, masked."""

    at: datetime
    event: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertFacts:
    """One alert that stands, from state/alerts.json. Beside Facts, not in it: alerts are made of Facts."""

    name: str
    severity: str  # critical or warning
    since: datetime
    words: str
    action: str
    acknowledged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFacts:
    """The last words about the broker; nobody asked it for this."""

    kind: str  # "alpaca" or "embedded venue"
    down_since: datetime | None  # `broker_unreachable` without `broker_reachable_again`
    keys_refused_at: datetime | None  # newest `keys_refused` with no run done since
    answered_at: datetime | None  # newest run that ended with an answer of the broker's


# ---------------------------------------------------------------- all of it
@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    at: datetime
    mode: str  # paper or live
    standing: bool  # the account of a replay: its clock stands still at `at`
    simulated: bool  # prices or broker are not real
    unknown: Mapping[str, str]  # dotted field or group -> reason code
    switch: SwitchFacts
    runner: RunnerFacts | None
    starts: StartsFacts | None
    schedule: ScheduleFacts | None
    journal: JournalFacts | None
    book: BookFacts | None
    broker: BrokerFacts
    scan: ScanFacts | None
    data: DataFacts | None
    execution: ExecutionFacts | None
    llm: LlmFacts
    cognitive: CognitiveFacts
    errors: tuple[ErrorFacts, ...] | None  # of the last 24 hours, newest first, at most ERRORS_KEPT
    errors_24h: int | None
    disk_free_bytes: int | None


EQUITY_POINTS = 260
"""Sessions of the equity curve that are kept: about a year."""
ERRORS_KEPT = 50
WINDOW_DAYS = 30
