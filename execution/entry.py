"""One entry, from a pick and a quote to shares and a limit, or the code of what kept it from that. Pure.

The session decides with these functions, and parity works a recorded day out again with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from core.domain import Breach, OrderIntent, OrderKind, Purpose, Quote, Side, Signal, Symbol, Tif
from execution.clamp import entry_limit
from execution.ledger import Ledger
from risk.gate import Book, Limits, Refused, decide

if TYPE_CHECKING:
    from config.settings_schema import Execution
    from core.money import TickRow

Sizer = Callable[[Decimal, Decimal, Decimal, Decimal], "tuple[int, str | None]"]
"""(limit price, stop, USD room, scale) -> (whole shares, reason code when 0)."""
ENTERED = "ENTERED_BEFORE"
WHOLE_REFUSED = "LLM_WHOLE_REFUSED"


@dataclass(frozen=True, slots=True)
class EntryLocks:
    """Reason codes of what may not be entered now, whatever was planned. Exits are no concern of theirs."""

    everything: str | None = None
    strategies: Mapping[str, str] = field(default_factory=dict)
    symbols: Mapping[Symbol, str] = field(default_factory=dict)

    def code(self, strategy: str, symbol: Symbol) -> str | None:
        return self.everything or self.strategies.get(strategy) or self.symbols.get(symbol)


@dataclass(frozen=True, slots=True)
class Priced:
    """What would be sent: whole shares, the limit, and the stop that belongs to it."""

    quantity: int
    limit: Decimal
    stop: Decimal


@dataclass(frozen=True, slots=True)
class Declined:
    code: str
    detail: str
    price: Decimal | None = None


@dataclass
class Kept:
    """Shares that a language model took away in this scan: no later entry gets their room or their place in a limit."""

    shares: dict[Symbol, int] = field(default_factory=dict)
    usd: Decimal = Decimal(0)

    def add(self, symbol: Symbol, whole: Priced | Declined | None, part: Priced | Declined | None) -> None:
        """`whole`: what would have been bought with the language model off; `part`: what is bought of it."""
        if not isinstance(whole, Priced):
            return
        more = whole.quantity - (part.quantity if isinstance(part, Priced) else 0)
        if more > 0:
            self.shares[symbol] = self.shares.get(symbol, 0) + more
            self.usd += more * whole.limit

    def beside(self, held: Mapping[Symbol, int]) -> dict[Symbol, int]:
        """Positions as the limits are to see them."""
        return {s: held.get(s, 0) + self.shares.get(s, 0) for s in {*held, *self.shares}}


def not_eligible(signal: Signal, ledger: Ledger, max_attempts: int, closed_at: datetime) -> Declined | None:
    """A signal is acted on once, and ignored while its strategy held the symbol at the signal's close.

    closed_at: the close of the signal's session. ENTERED_BEFORE: filled at an earlier scan, nothing to tell again.
    """
    if signal.decision_id in ledger.trades:
        return Declined(ENTERED, "")
    if ledger.next_attempt(signal.decision_id, Side.BUY, Purpose.ENTRY) > max_attempts:
        return Declined("ATTEMPTS_SPENT", str(max_attempts))
    for trade in ledger.recent_trades():
        held = trade.symbol == signal.symbol and trade.strategy == signal.strategy and trade.opened_at <= closed_at
        if held and (trade.is_open or max(f.at for f in trade.exits) > closed_at):
            return Declined("HELD_AT_SIGNAL", trade.decision_id)
    return None


def priced_entry(
    signal: Signal, scale: Decimal, quote: Quote | None, room: Decimal, execution: Execution, ticks: Sequence[TickRow],
    on: date, sizer: Sizer,
) -> Priced | Declined:  # fmt: skip
    """room: USD that the day's budget leaves."""
    if quote is None:
        return Declined("QUOTE_ABSENT", "no quote")
    price = entry_limit(quote, execution.entry_offset_bps, execution.max_clamp_bps, ticks, on)
    if isinstance(price, Breach):
        return Declined(price.code, f"{price.observed} against {price.limit}")
    stop = Decimal(repr(signal.stop))
    if quote.ask is None or quote.ask <= stop:
        return Declined("OPEN_BELOW_STOP", f"ask {quote.ask} stop {stop}")
    quantity, code = sizer(price, stop, room, scale)
    if quantity < 1:
        return Declined(code or "ZERO_SHARES", f"limit {price} room {room}", price)
    return Priced(quantity, price, stop)


def entry_intent(signal: Signal, priced: Priced, ledger: Ledger, now: datetime, tif: Tif) -> OrderIntent:
    return OrderIntent(
        decision_id=signal.decision_id, symbol=signal.symbol, side=Side.BUY, quantity=priced.quantity,
        purpose=Purpose.ENTRY, kind=OrderKind.LIMIT, tif=tif, decided_at=now, strategy=signal.strategy,
        signal_session=signal.session, attempt=ledger.next_attempt(signal.decision_id, Side.BUY, Purpose.ENTRY),
        limit_price=priced.limit, stop_price=priced.stop, target_r=signal.target_r,
        time_stop_bars=signal.time_stop_bars, reason="signal",
    )  # fmt: skip


def whole_refused(
    intent: OrderIntent, whole: Priced | Declined | None, book: Book, limits: Limits
) -> tuple[str, ...]:  # fmt: skip
    """Why the gate would have refused this entry before a language model made it smaller; nothing when it would not.

    What is too large for a limit must not become an order by being shrunk. `book`: as the gate sees it, with_ledger.
    """
    if not isinstance(whole, Priced) or whole.quantity <= intent.quantity:
        return ()
    if isinstance(decide(intent, book, limits), Refused):
        return ()  # the desk says why
    decision = decide(replace(intent, quantity=whole.quantity), book, limits)
    return decision.codes if isinstance(decision, Refused) else ()
