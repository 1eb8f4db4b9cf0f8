"""Find every difference between the journal and the broker, and record it. A sync or an adoption is a separate, named
act: execution/sync.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from core.domain import Account, Fill, Order, Position, Purpose, Symbol
from core.errors import BrokerDown
from execution.breaks import BREAK_LOCKS, Cause, cure
from execution.breaks import Break as Break
from execution.breaks import BreakKind as BreakKind
from execution.causes import fill_told, foreign, order_cause, whose_fill
from execution.ledger import Ledger, LedgerOrder, new_york_day
from execution.protection import misfit, orphans

if TYPE_CHECKING:
    from core.journal import Journal

_FLAT_TOLERANCE = Decimal("0.01")  # USD: equity above cash by more than a cent means that something is held
_PRICE_MOVE = Decimal("0.02")  # between the answer of the account and the one of the positions


# ---------------------------------------------------------------- find
def refuse_implausible_flat(
    ours: Mapping[Symbol, int], theirs: Mapping[Symbol, Position], account: Account | None
) -> None:
    """A listing without any of our positions is believed only when the account's worth is accounted for without them.

    Raises BrokerDown IMPLAUSIBLE_FLAT. An account without numbers proves nothing, so an empty listing is then refused.
    """
    mine = [symbol for symbol, quantity in ours.items() if quantity]
    if not mine or any(symbol in theirs for symbol in mine):
        return
    values = [position.market_value for position in theirs.values()]
    if account is None or account.equity is None or account.cash is None:
        if theirs:
            return  # something is listed, and nothing speaks against it
        seen = "equity or cash not known"
    else:
        listed = sum((value for value in values if value is not None), Decimal(0))
        unlisted = account.equity - account.cash - listed
        if None in values or abs(unlisted) <= _FLAT_TOLERANCE + _PRICE_MOVE * abs(listed):
            return
        seen = f"equity {account.equity}, cash {account.cash}, listed positions {listed}"
    raise BrokerDown(
        f"the broker lists none of the {len(mine)} positions we hold; {seen}",
        code="IMPLAUSIBLE_FLAT",
        advice="wait, then run reconcile again; do not sync",
    )


def find_breaks(
    ledger: Ledger,
    positions: Mapping[Symbol, Position],
    open_orders: Sequence[Order],
    *,
    account: Account | None = None,
) -> tuple[Break, ...]:
    """Every break, by symbol and kind. Pure. Raises BrokerDown IMPLAUSIBLE_FLAT instead of believing it.

    Causes of position breaks are UNEXPLAINED here: execution.causes.explain says them, once evidence was read.
    """
    refuse_implausible_flat(ledger.positions, positions, account)
    found = [
        *_position_breaks(ledger, positions),
        *_unsettled_breaks(ledger),
        *_order_breaks(ledger, open_orders),
        *_protection_breaks(ledger, open_orders),
    ]
    return tuple(sorted(found, key=lambda b: (b.symbol, b.kind)))


def a_break(
    symbol: Symbol, kind: BreakKind, cause: Cause, ours: str, theirs: str, evidence: tuple[str, ...] = ()
) -> Break:
    return Break(
        symbol=symbol, kind=kind, cause=cause, ours=ours, theirs=theirs, evidence=evidence,
        proposal=cure(cause, symbol, kind),
    )  # fmt: skip


def _position_breaks(ledger: Ledger, positions: Mapping[Symbol, Position]) -> list[Break]:
    breaks: list[Break] = []
    for symbol in sorted({*ledger.positions, *positions}):
        ours = Decimal(ledger.positions.get(symbol, 0))
        theirs = positions[symbol].quantity if symbol in positions else Decimal(0)
        if ours == theirs:
            continue
        kind = BreakKind.POSITION_QUANTITY
        if theirs == 0:
            kind = BreakKind.MISSING_POSITION
        elif ours == 0:
            kind = BreakKind.UNKNOWN_POSITION
        breaks.append(a_break(symbol, kind, Cause.UNEXPLAINED, str(ours), f"{theirs:f}"))
    return breaks


def _unsettled_breaks(ledger: Ledger) -> list[Break]:
    return [
        a_break(o.intent.symbol, BreakKind.UNSETTLED_INTENT, Cause.UNSETTLED_INTENT, o.client_order_id, "not known",
                (o.unknown or "no reply is on record",))
        for o in ledger.unsettled()
    ]  # fmt: skip


def _order_breaks(ledger: Ledger, open_orders: Sequence[Order]) -> list[Break]:
    breaks = []
    stray = {order.id for order in orphans(ledger, open_orders)}
    for order in open_orders:
        known = ledger.orders.get(order.client_order_id)
        if order.id not in stray and known is not None and known.working:
            continue
        cause, facts = order_cause(order.client_order_id, ledger)
        if known is not None and known.working:
            cause, facts = Cause.ORPHAN_LEG, ("its trade is closed",)
        theirs = f"{order.client_order_id} {order.side} {order.quantity} {order.status}"
        breaks.append(a_break(order.symbol, BreakKind.ORPHAN_ORDER, cause, "none", theirs, facts))
    return breaks


def _protection_breaks(ledger: Ledger, open_orders: Sequence[Order]) -> list[Break]:
    return [
        a_break(trade.symbol, BreakKind.MISSING_PROTECTION, Cause.UNPROTECTED, f"{trade.quantity} shares",
                f"{covered} protected", (f"trade {trade.decision_id}, stop {trade.stop}",))
        for trade in ledger.open_trades()
        if trade.stop is not None and (covered := misfit(trade, open_orders)) is not None
    ]  # fmt: skip


def foreign_fills(
    ledger: Ledger, fills: Sequence[Fill], copies: Mapping[str, Order | None], makers: Mapping[str, Order | None]
) -> tuple[Break, ...]:
    """Executions at the broker that belong to no order of ours, and that no sync or adoption has settled since.

    `copies`: our orders as the broker tells them, for their legs; `makers`: the orders behind unknown fills, by id.
    """
    return tuple(
        a_break(fill.symbol, BreakKind.FOREIGN_FILL, whose_fill([makers.get(fill.order_id)], ledger), "none",
                fill_told(fill, makers.get(fill.order_id)))
        for fill in foreign(ledger, fills, copies)
    )  # fmt: skip


def view_breaks(ledger: Ledger, view: Mapping[str, Mapping[str, Any]]) -> tuple[Break, ...]:
    """Where state/positions.json differs from the journal it is derived from: edited by hand, or a restored copy."""
    found = []
    for symbol in sorted({*map(str, ledger.positions), *view}):
        ours = Decimal(ledger.positions.get(Symbol(symbol), 0))
        shown = Decimal(str(view[symbol]["quantity"])) if symbol in view else Decimal(0)
        if ours != shown:
            found.append(a_break(Symbol(symbol), BreakKind.VIEW_DIFFERS, Cause.VIEW_EDITED, str(ours),
                                 f"positions.json says {shown}", ("edited by hand, or a restored copy",)))  # fmt: skip
    return tuple(found)


def left_from_before(ledger: Ledger, open_orders: Sequence[Order], today: date) -> tuple[LedgerOrder, ...]:
    """Our entries and exits of an earlier day that are still open: their moment has passed (B54)."""
    listed = {order.client_order_id for order in open_orders}
    return tuple(
        order for order in ledger.working()
        if order.client_order_id in listed and order.intent.purpose is not Purpose.PROTECT
        and new_york_day(order.intended_at) < today
    )  # fmt: skip


# ---------------------------------------------------------------- record
def record_breaks(
    journal: Journal, breaks: Sequence[Break], ledger: Ledger, told: frozenset[Break] = frozenset()
) -> None:
    """Write each break not in `told`, lock its symbol; unlock what was locked for a break and has none any more.

    A lock that something else has set is left as it is.
    """
    for found in breaks:
        if found not in told:
            journal.append("break_found", found.to_json())
    wanted: dict[Symbol, str] = {}
    for found in breaks:
        code = found.lock_code
        if code is not None:  # the stricter of two, which begins with UNKNOWN
            wanted[found.symbol] = max(code, wanted.get(found.symbol, code))
    for symbol, code in sorted(wanted.items()):
        now = ledger.locked.get(symbol)
        if now != code and (now is None or now in BREAK_LOCKS):
            journal.append("symbol_locked", {"symbol": str(symbol), "code": code})
    for symbol, code in sorted(ledger.locked.items()):
        if code in BREAK_LOCKS and symbol not in wanted:
            journal.append("symbol_unlocked", {"symbol": str(symbol), "code": "BREAK_GONE"})
