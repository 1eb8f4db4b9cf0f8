"""The risk gate: one function per limit, every one asked, and the only place that builds `Approved`.

Absent is no: a missing quote, account, VIX or sector counts as its most careful value. A pure reduction is exempt
from the entry limits and from nothing else. Values in, values out: no file, network or clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeGuard

from core.domain import Breach, Order, OrderIntent, OrderKind, Purpose, Quote, Side, Symbol, TradingState
from risk.exposure import correlation, sector_usd, value_at_risk
from risk.runaway import Ceilings, runaway_breach

if TYPE_CHECKING:
    from datetime import date

    from config.settings_schema import Settings

_NONE: Mapping[Any, Any] = MappingProxyType({})
_BPS = Decimal(10_000)

UNKNOWN_LOCK = "UNKNOWN"
"""Locks whose reason starts with this stop exits too: a sell that may be live must not be sent twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """Everything the gate may look at, at one instant. None means "not known", and not known is refused."""

    now: datetime
    session: date | None = None
    session_open: bool = False
    closes_at: datetime | None = None
    positions: Mapping[Symbol, int] = field(default_factory=lambda: _NONE)  # whole shares held
    open_orders: Sequence[Order] = ()  # at the broker, legs folded into their parent
    pending: Mapping[Symbol, Decimal] = field(default_factory=lambda: _NONE)  # USD reserved by entries without an end
    pending_notional_usd: Decimal = Decimal(0)  # sum of the same; counts against the daily budget
    spent_today_usd: Decimal = Decimal(0)  # filled entry notional of this New York day, without `pending`
    open_position_slots: int = 0  # symbols held or pending
    locked: Mapping[Symbol, str] = field(default_factory=lambda: _NONE)  # symbol -> reason code
    quote: Quote | None = None
    tradable: bool | None = None
    vix: float | None = None
    trading_state: TradingState = TradingState.HALTED
    known_client_ids: frozenset[str] = frozenset()
    returns: Mapping[Symbol, Any] | None = None  # (60,) aligned daily returns per symbol
    sectors: Mapping[Symbol, str | None] = field(default_factory=lambda: _NONE)
    marks: Mapping[Symbol, Decimal] = field(default_factory=lambda: _NONE)  # USD per share of what is held
    equity: Decimal | None = None
    cash: Decimal | None = None
    sent_at: Sequence[datetime] = ()  # instants of all intents of the last 24 hours
    operator_close: bool = False  # set only by execution.emergency.close_all after --confirm


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The configured limits, `_pct` keys of the file as fractions. Built once from settings."""

    per_order_max_usd: Decimal
    daily_budget_usd: Decimal
    position_limit: int
    one_position_per_symbol: bool
    cash_only: bool
    var_limit_fraction: float
    vix_halve_from: float
    vix_stop_above: float
    max_correlation: float | None  # None: the correlation limit belongs to top-n selection, which is off
    max_sector_fraction: float
    max_single_name_fraction: float
    quote_max_age_s: float
    max_spread_bps: Decimal
    max_clamp_bps: Decimal
    clock_skew_max_s: float
    close_margin_s: float
    ticks: Sequence[Any] = ()  # core.money.TickRow
    ceilings: Ceilings = field(default_factory=Ceilings)

    @classmethod
    def from_settings(cls, settings: Settings, *, top_n: bool | None = None) -> Limits:
        """`top_n` overrides `selection.mode` for a run started with --top3."""
        from core.money import TickRow

        chosen, run = settings.selection, settings.execution
        with_top_n = (chosen.mode == "top_n" or chosen.top_n.enabled) if top_n is None else top_n
        return cls(
            per_order_max_usd=Decimal(str(settings.risk.policy_gate.per_order_max_usd)),
            daily_budget_usd=Decimal(str(settings.risk.policy_gate.daily_budget_usd)),
            position_limit=settings.risk.position_limit,
            one_position_per_symbol=settings.risk.one_position_per_symbol,
            cash_only=settings.risk.cash_only,
            var_limit_fraction=float(settings.risk.advanced.var_limit_pct),
            vix_halve_from=float(settings.risk.vix.halve_from),
            vix_stop_above=float(settings.risk.vix.stop_above),
            max_correlation=float(chosen.top_n.max_correlation) if with_top_n else None,
            max_sector_fraction=float(chosen.top_n.max_sector_pct),
            max_single_name_fraction=float(chosen.top_n.max_single_name_pct),
            quote_max_age_s=float(run.quote_max_age_s),
            max_spread_bps=Decimal(str(run.max_spread_bps)),
            max_clamp_bps=Decimal(str(run.max_clamp_bps)),
            clock_skew_max_s=float(run.clock_skew_max_s),
            close_margin_s=float(settings.runner.close_margin_s),
            ceilings=Ceilings(
                per_minute=settings.risk.runaway.orders_per_minute, per_day=settings.risk.runaway.orders_per_day
            ),
            ticks=tuple(
                TickRow(effective=row.effective, min_price=Decimal(str(row.min_price)), tick=Decimal(str(row.tick)))
                for row in run.ticks
            ),
        )


_DOOR = object()


@dataclass(frozen=True, slots=True)
class Approved:
    """An intent that broke no limit. Only `decide` can build one; the broker takes nothing else."""

    intent: OrderIntent
    despite_halt: bool = False  # the operator's liquidation, proven a pure reduction
    _door: object = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self._door is not _DOOR:
            raise AssertionError("Approved is built by risk.gate.decide only")


@dataclass(frozen=True, slots=True)
class Refused:
    """An intent and every limit it broke."""

    intent: OrderIntent
    breaches: tuple[Breach, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(breach.code for breach in self.breaches)


Check = Callable[[OrderIntent, Book, Limits], "Breach | None"]


def is_reduction(intent: OrderIntent) -> bool:
    """Sells only make a long book smaller; that they do not cross zero is `oversell`'s business."""
    return intent.purpose is not Purpose.ENTRY and intent.side is Side.SELL


def remaining(order: Order) -> int:
    return max(0, order.quantity - order.filled_quantity)


def _is_amount(value: Decimal | None) -> TypeGuard[Decimal]:
    """A price, or an equity, that can be compared with and divided by: known, finite and above 0."""
    return value is not None and value.is_finite() and value > 0


def _notionals(intent: OrderIntent, book: Book) -> dict[Symbol, float] | None:
    """USD per symbol after this order and all pending ones; None when something held has no price."""
    result: dict[Symbol, float] = {}
    for symbol, shares in book.positions.items():
        if shares:
            mark = book.marks.get(symbol)
            if not _is_amount(mark):
                return None
            result[symbol] = float(mark * abs(shares))
    for symbol, usd in (*book.pending.items(), (intent.symbol, intent.notional_usd)):
        result[symbol] = result.get(symbol, 0.0) + float(usd)
    return result


def per_order_max(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """Notional at most risk.policy_gate.per_order_max_usd; the limit itself passes."""
    if intent.notional_usd <= limits.per_order_max_usd:
        return None
    return Breach(code="PER_ORDER_MAX", observed=str(intent.notional_usd), limit=str(limits.per_order_max_usd))


def daily_budget(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """Filled, pending and this order together at most risk.policy_gate.daily_budget_usd per New York day."""
    total = book.spent_today_usd + book.pending_notional_usd + intent.notional_usd
    if total <= limits.daily_budget_usd:
        return None
    return Breach(code="DAILY_BUDGET", observed=str(total), limit=str(limits.daily_budget_usd))


def position_limit(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """Symbols held or pending, this one included, at most risk.position_limit."""
    held = book.positions.get(intent.symbol, 0) != 0 or intent.symbol in book.pending
    after = book.open_position_slots + (0 if held else 1)
    if after <= limits.position_limit:
        return None
    return Breach(code="POSITION_LIMIT", observed=str(after), limit=str(limits.position_limit))


def one_position_per_symbol(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """No entry into a symbol that is held or has an entry pending."""
    if not limits.one_position_per_symbol:
        return None
    shares = book.positions.get(intent.symbol, 0)
    buying = intent.symbol in book.pending or any(
        order.symbol == intent.symbol and order.side is Side.BUY for order in book.open_orders
    )
    if shares == 0 and not buying:
        return None
    return Breach(code="POSITION_EXISTS", observed=f"{shares} shares, pending: {buying}", limit="none")


def equity_known(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """The account's equity is known and positive: VaR and the weight limits divide by it."""
    if _is_amount(book.equity):
        return None
    return Breach(code="EQUITY_UNKNOWN", observed=str(book.equity), limit="a positive amount")


def cash(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """Entries are paid from cash, so that no margin rule, of today or of tomorrow, can bind what is bought."""
    if not limits.cash_only:
        return None
    if book.cash is None or not book.cash.is_finite():
        return Breach(code="CASH_UNKNOWN", observed=str(book.cash), limit="an amount")
    after = book.cash - book.pending_notional_usd - intent.notional_usd
    return None if after >= 0 else Breach(code="CASH_SHORT", observed=str(after), limit="0")


def var(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """1-day 95 % historical VaR after this order at most risk.advanced.var_limit_pct of equity."""
    notionals = _notionals(intent, book)
    if notionals is None or not _is_amount(book.equity):
        return Breach(code="VAR_UNKNOWN", observed="no price or no equity", limit=str(limits.var_limit_fraction))
    value = value_at_risk(notionals, book.returns, float(book.equity))
    if value <= limits.var_limit_fraction:
        return None
    return Breach(code="VAR_LIMIT", observed=f"{value:.6f}", limit=str(limits.var_limit_fraction))


def max_correlation(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """Correlation with anything held or pending at most selection.top_n.max_correlation (top-n only)."""
    if limits.max_correlation is None:
        return None
    others = sorted({s for s, q in book.positions.items() if q} | set(book.pending))
    pairs = [(correlation(book.returns, intent.symbol, other), other) for other in others if other != intent.symbol]
    value, other = max(pairs, default=(None, None))
    if value is None or value <= limits.max_correlation:
        return None
    return Breach(code="CORRELATION", observed=f"{value:.4f} with {other}", limit=str(limits.max_correlation))


def max_sector(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """USD in the symbol's sector at most selection.top_n.max_sector_pct of equity."""
    notionals = _notionals(intent, book)
    if notionals is None or not _is_amount(book.equity):
        return Breach(code="SECTOR_UNKNOWN", observed="no price or no equity", limit=str(limits.max_sector_fraction))
    weight = sector_usd(notionals, book.sectors, intent.symbol) / float(book.equity)
    if weight <= limits.max_sector_fraction:
        return None
    return Breach(code="SECTOR_LIMIT", observed=f"{weight:.6f}", limit=str(limits.max_sector_fraction))


def max_single_name(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """USD in one symbol at most selection.top_n.max_single_name_pct of equity."""
    notionals = _notionals(intent, book)
    if notionals is None or not _is_amount(book.equity):
        return Breach(
            code="SINGLE_NAME_UNKNOWN", observed="no price or no equity", limit=str(limits.max_single_name_fraction)
        )
    weight = notionals[intent.symbol] / float(book.equity)
    if weight <= limits.max_single_name_fraction:
        return None
    return Breach(code="SINGLE_NAME_LIMIT", observed=f"{weight:.6f}", limit=str(limits.max_single_name_fraction))


def vix(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """No entries with the VIX unknown or above stop_above; half the order maximum from halve_from on."""
    if book.vix is None or not 0 < book.vix < float("inf"):
        return Breach(code="VIX_UNKNOWN", observed=str(book.vix), limit=str(limits.vix_stop_above))
    if book.vix > limits.vix_stop_above:
        return Breach(code="VIX_STOP", observed=str(book.vix), limit=str(limits.vix_stop_above))
    half = limits.per_order_max_usd / 2
    if book.vix >= limits.vix_halve_from and intent.notional_usd > half:
        return Breach(code="VIX_HALVED", observed=str(intent.notional_usd), limit=str(half))
    return None


def quote(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """A two-sided, uncrossed, fresh quote with a last trade and a bounded spread. Locked (bid = ask) passes."""
    found = book.quote
    if found is None or found.symbol != intent.symbol:
        return Breach(code="QUOTE_ABSENT", observed="none", limit="a quote")
    age_s = (book.now - found.at).total_seconds()
    if age_s > limits.quote_max_age_s:
        return Breach(code="QUOTE_STALE", observed=f"{age_s:.0f} s", limit=f"{limits.quote_max_age_s:g} s")
    if -age_s > limits.clock_skew_max_s:
        return Breach(code="QUOTE_FROM_FUTURE", observed=f"{age_s:.0f} s", limit=f"-{limits.clock_skew_max_s:g} s")
    bid, ask, last = found.bid, found.ask, found.last
    if not (_is_amount(bid) and _is_amount(ask) and _is_amount(last)):
        return Breach(code="QUOTE_ONE_SIDED", observed=f"{bid}/{ask} last {last}", limit="bid, ask and last above 0")
    if bid > ask:
        return Breach(code="QUOTE_CROSSED", observed=f"{bid}/{ask}", limit="bid at most ask")
    spread_bps = (ask - bid) / ((ask + bid) / 2) * _BPS
    if spread_bps > limits.max_spread_bps:
        return Breach(code="SPREAD_WIDE", observed=f"{spread_bps:.1f} bps", limit=f"{limits.max_spread_bps} bps")
    return None


def limit_collar(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """An entry's limit at most max_clamp_bps above the last trade."""
    last = book.quote.last if book.quote is not None else None
    if not _is_amount(last) or intent.limit_price is None:
        return Breach(code="LIMIT_COLLAR", observed=f"{intent.limit_price} against last {last}", limit="a last trade")
    highest = last * (1 + limits.max_clamp_bps / _BPS)
    if intent.limit_price <= highest:
        return None
    return Breach(code="LIMIT_COLLAR", observed=str(intent.limit_price), limit=str(highest))


def planned_stop(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """An entry carries the stop that will protect it, below its limit."""
    if intent.stop_price is not None and intent.limit_price is not None and intent.stop_price < intent.limit_price:
        return None
    return Breach(code="STOP_MISSING", observed=str(intent.stop_price), limit=f"below {intent.limit_price}")


def asset_tradable(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    if book.tradable is True:
        return None
    return Breach(code="NOT_TRADABLE", observed=str(book.tradable), limit="tradable")


def entry_state(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """Entries only while the trading state is active."""
    if book.trading_state is TradingState.ACTIVE:
        return None
    return Breach(code="TRADING_STATE", observed=str(book.trading_state), limit=str(TradingState.ACTIVE))


def entry_session(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """Entries only in the session, and not within runner.close_margin_s of its end."""
    if not book.session_open or book.closes_at is None:
        return Breach(code="SESSION_CLOSED", observed="closed", limit="open")
    left_s = (book.closes_at - book.now).total_seconds()
    if left_s >= limits.close_margin_s:
        return None
    return Breach(code="TOO_CLOSE_TO_CLOSE", observed=f"{left_s:.0f} s", limit=f"{limits.close_margin_s:g} s")


def exit_state(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """Exits while active or reducing; halted lets only the operator's liquidation through."""
    if intent.purpose is Purpose.CLOSE:
        if book.operator_close:
            return None
        return Breach(code="CLOSE_NOT_CONFIRMED", observed="no operator", limit="close_all --confirm")
    if book.trading_state is not TradingState.HALTED:
        return None
    return Breach(code="TRADING_STATE", observed=str(book.trading_state), limit=str(TradingState.REDUCING))


def exit_session(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """An immediate exit needs an open session; resting protection and liquidation may queue."""
    if intent.purpose is not Purpose.EXIT or book.session_open:
        return None
    return Breach(code="SESSION_CLOSED", observed="closed", limit="open")


def oversell(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """A sell takes at most what is held less what open sells already claim: positions never cross zero."""
    claimed = sum(remaining(o) for o in book.open_orders if o.symbol == intent.symbol and o.side is Side.SELL)
    free = book.positions.get(intent.symbol, 0) - claimed
    if intent.quantity <= free:
        return None
    return Breach(code="OVERSELL", observed=str(intent.quantity), limit=str(max(0, free)))


def opposite_side_open(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """No order while one of the other side is open in the symbol: the broker would call it a wash trade.

    With several positions per symbol allowed, our own resting protection does not count: the operator has chosen to
    ask the broker, whose own wash-trade rule still decides.
    """
    facing = [
        o for o in book.open_orders
        if o.symbol == intent.symbol and o.side is intent.side.opposite
        and (limits.one_position_per_symbol or not _is_our_protection(o))
    ]  # fmt: skip
    if not facing:
        return None
    return Breach(code="OPPOSITE_SIDE_OPEN", observed=", ".join(o.client_order_id for o in facing), limit="none")


def _is_our_protection(order: Order) -> bool:
    return order.client_order_id.startswith("kobe-") and f"-{Purpose.PROTECT}-" in order.client_order_id


def symbol_locked(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """Any lock stops entries; only an order of unknown outcome stops exits, and nothing of it the liquidation."""
    reason = book.locked.get(intent.symbol)
    if reason is None:
        return None
    if is_reduction(intent) and (intent.purpose is Purpose.CLOSE or not reason.startswith(UNKNOWN_LOCK)):
        return None
    return Breach(code="SYMBOL_LOCKED", observed=reason, limit="unlocked")


def duplicate_id(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    if intent.client_order_id not in book.known_client_ids:
        return None
    return Breach(code="DUPLICATE_ID", observed=intent.client_order_id, limit="an id never used")


def on_tick(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """Prices that are sent lie on the tick grid of their session."""
    from core.money import tick_size

    sent = [intent.limit_price]
    if intent.kind in (OrderKind.STOP, OrderKind.OCO):
        sent.append(intent.stop_price)
    on = book.session or book.now.date()
    for price in sent:
        if price is not None and price % (tick := tick_size(price, on, limits.ticks)) != 0:
            return Breach(code="OFF_TICK", observed=str(price), limit=str(tick))
    return None


def runaway(intent: OrderIntent, book: Book, limits: Limits) -> Breach | None:
    """Orders per minute and day. Entries meet the ceiling first: stops and exits keep room above it, so that what was
    bought can still be protected. The operator's liquidation is never throttled."""
    if intent.purpose is Purpose.CLOSE:
        return None
    ceilings = limits.ceilings.for_reductions() if is_reduction(intent) else limits.ceilings
    return runaway_breach(book.sent_at, book.now, ceilings)


ENTRY_CHECKS: tuple[Check, ...] = (
    per_order_max, daily_budget, position_limit, one_position_per_symbol, equity_known, cash, var, max_correlation,
    max_sector, max_single_name, vix, entry_state, quote, limit_collar, planned_stop, asset_tradable, entry_session,
)  # fmt: skip
REDUCTION_CHECKS: tuple[Check, ...] = (exit_state, exit_session, oversell)
COMMON_CHECKS: tuple[Check, ...] = (opposite_side_open, symbol_locked, duplicate_id, on_tick, runaway)
CHECKS: tuple[Check, ...] = ENTRY_CHECKS + REDUCTION_CHECKS + COMMON_CHECKS


def decide(intent: OrderIntent, book: Book, limits: Limits) -> Approved | Refused:
    """Ask every check that applies, not only the first to object: the operator sees all breaches at once."""
    reducing = is_reduction(intent)
    asked = (REDUCTION_CHECKS if reducing else ENTRY_CHECKS) + COMMON_CHECKS
    breaches = tuple(b for check in asked if (b := check(intent, book, limits)) is not None)
    if breaches:
        return Refused(intent, breaches)
    return Approved(intent, intent.purpose is Purpose.CLOSE and book.operator_close, _DOOR)  # a CLOSE is always a sell
