"""Find every difference between the journal and the broker; sync is a separate, named act with its own record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from core.domain import Account, Fill, Order, Position, Side, Symbol
from core.errors import BrokerDown
from execution.ledger import Ledger
from execution.protection import orphans

if TYPE_CHECKING:
    from core.journal import Journal

_FLAT_TOLERANCE = Decimal("0.01")  # USD: equity above cash by more than a cent means that something is held


class BreakKind(StrEnum):
    POSITION_QUANTITY = "POSITION_QUANTITY"  # both hold it, not the same number
    UNKNOWN_POSITION = "UNKNOWN_POSITION"  # the broker holds what we never bought
    MISSING_POSITION = "MISSING_POSITION"  # we hold what the broker does not
    ORPHAN_ORDER = "ORPHAN_ORDER"  # open at the broker, belongs to nothing of ours
    UNSETTLED_INTENT = "UNSETTLED_INTENT"  # may be live
    VIEW_DIFFERS = "VIEW_DIFFERS"  # state/positions.json is not what the journal says
    FOREIGN_FILL = "FOREIGN_FILL"  # an execution of no order of ours
    MISSING_PROTECTION = "MISSING_PROTECTION"  # an open trade without its stop


_NO_LOCK = frozenset({BreakKind.MISSING_PROTECTION, BreakKind.FOREIGN_FILL, BreakKind.VIEW_DIFFERS})
"""Breaks that trading itself repairs, or that lie in the past: they are told, and lock nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """One difference, what may have caused it, and the command or act that cures it."""

    symbol: Symbol
    kind: BreakKind
    cause: str
    ours: str
    theirs: str
    proposal: str


_SYNC = "python scripts/reconcile_alpaca.py --force-sync"
_RUN = "python scripts/runner.py (settles and repairs at start)"


def refuse_implausible_flat(
    ours: Mapping[Symbol, int], theirs: Mapping[Symbol, Position], account: Account | None
) -> None:
    """An empty position list while we hold something is believed only when the account's equity is all cash.

    Raises BrokerDown IMPLAUSIBLE_FLAT. An account without numbers proves nothing, so it is refused as well.
    """
    if theirs or not any(ours.values()):
        return
    if account is not None and account.equity is not None and account.cash is not None:
        if abs(account.equity - account.cash) <= _FLAT_TOLERANCE:
            return
        seen = f"equity {account.equity}, cash {account.cash}"
    else:
        seen = "equity or cash not known"
    raise BrokerDown(
        f"the broker lists no position, we hold {len([q for q in ours.values() if q])}; {seen}",
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
    """Every break, by symbol and kind. Pure. Raises BrokerDown IMPLAUSIBLE_FLAT instead of believing it."""
    refuse_implausible_flat(ledger.positions, positions, account)
    found = [
        *_position_breaks(ledger, positions),
        *_order_breaks(ledger, open_orders),
        *_protection_breaks(ledger, open_orders),
    ]
    return tuple(sorted(found, key=lambda b: (b.symbol, b.kind)))


def _position_breaks(ledger: Ledger, positions: Mapping[Symbol, Position]) -> list[Break]:
    breaks: list[Break] = []
    for symbol in sorted({*ledger.positions, *positions}):
        ours = Decimal(ledger.positions.get(symbol, 0))
        theirs = positions[symbol].quantity if symbol in positions else Decimal(0)
        if ours == theirs:
            continue
        if theirs == 0:
            kind, cause = BreakKind.MISSING_POSITION, "sold, expired or moved outside; or a corporate action"
        elif ours == 0:
            kind, cause = BreakKind.UNKNOWN_POSITION, "bought outside, or a corporate action"
        else:
            kind, cause = BreakKind.POSITION_QUANTITY, _ratio(ours, theirs)
        breaks.append(Break(symbol=symbol, kind=kind, cause=cause, ours=str(ours), theirs=str(theirs), proposal=_SYNC))
    return breaks


def _ratio(ours: Decimal, theirs: Decimal) -> str:
    for big, small, name in ((theirs, ours, "forward split"), (ours, theirs, "reverse split")):
        if small > 0 and big % small == 0 and big / small in (2, 3, 4, 5, 10, 20, 25, 50):
            return f"perhaps a {name} of {big / small:f} : 1, or traded outside"
    return "traded outside, a late fill, or a corporate action"


def _order_breaks(ledger: Ledger, open_orders: Sequence[Order]) -> list[Break]:
    breaks = [
        Break(symbol=o.intent.symbol, kind=BreakKind.UNSETTLED_INTENT, cause=o.unknown or "crash before the reply",
              ours=o.client_order_id, theirs="not known", proposal=_RUN)
        for o in ledger.unsettled()
    ]  # fmt: skip
    stray = {order.id for order in orphans(ledger, open_orders)}
    for order in open_orders:
        known = ledger.orders.get(order.client_order_id)
        if order.id in stray or known is None or not known.working:
            cause = "its trade is closed" if order.id in stray else "not sent by us, or we took it for over"
            breaks.append(Break(symbol=order.symbol, kind=BreakKind.ORPHAN_ORDER, cause=cause, ours="none",
                                theirs=f"{order.client_order_id} {order.side} {order.quantity} {order.status}",
                                proposal="python scripts/cancel_all.py"))  # fmt: skip
    return breaks


def _protection_breaks(ledger: Ledger, open_orders: Sequence[Order]) -> list[Break]:
    breaks: list[Break] = []
    for trade in ledger.open_trades():
        prefix = f"kobe-{trade.decision_id}-{Side.SELL}-protect-"
        covered = sum(
            o.quantity - o.filled_quantity for o in open_orders if o.client_order_id.startswith(prefix)
        )  # fmt: skip
        if trade.stop is not None and covered != trade.quantity:
            breaks.append(Break(symbol=trade.symbol, kind=BreakKind.MISSING_PROTECTION, cause="leg missing or misfit",
                                ours=f"{trade.quantity} shares", theirs=f"{covered} protected",
                                proposal=_RUN))  # fmt: skip
    return breaks


def record_breaks(journal: Journal, breaks: Sequence[Break], ledger: Ledger) -> None:
    """Write each break and lock its symbol; unlock what was locked for a break and has none any more."""
    locks = {b.symbol for b in breaks if b.kind not in _NO_LOCK}
    for found in breaks:
        journal.append("break_found", {
            "symbol": str(found.symbol), "kind": str(found.kind), "cause": found.cause, "ours": found.ours,
            "theirs": found.theirs,
        })  # fmt: skip
    for symbol in sorted(locks):
        if symbol not in ledger.locked:
            journal.append("symbol_locked", {"symbol": str(symbol), "code": "BREAK"})
    for symbol, code in sorted(ledger.locked.items()):
        if code == "BREAK" and symbol not in locks:
            journal.append("symbol_unlocked", {"symbol": str(symbol), "code": "BREAK_GONE"})


class PositionStore(Protocol):
    """portfolio.state_manager as far as a sync needs it."""

    def set_positions(self, positions: Mapping[Any, Any]) -> Any: ...


def force_sync(
    journal: Journal,
    store: PositionStore,
    positions: Mapping[Symbol, Position],
    *,
    ledger: Ledger,
    account: Account,
    reason: str,
) -> Mapping[Symbol, int]:
    """Make ours what the broker says: one `positions_synced` with every adjustment, then the view file.

    The journal first: the view can be rebuilt from it. Locks of kind BREAK are lifted, UNKNOWN ones stay.
    Raises BrokerDown IMPLAUSIBLE_FLAT before anything is written.
    """
    refuse_implausible_flat(ledger.positions, positions, account)
    whole = {symbol: int(position.quantity) for symbol, position in sorted(positions.items()) if int(position.quantity)}
    adjustments = {
        str(symbol): {"ours": ledger.positions.get(symbol, 0), "theirs": whole.get(symbol, 0)}
        for symbol in sorted({*ledger.positions, *whole})
        if ledger.positions.get(symbol, 0) != whole.get(symbol, 0)
    }
    journal.append("positions_synced", {
        "positions": {str(symbol): quantity for symbol, quantity in whole.items()},
        "fractions": {str(s): str(p.quantity) for s, p in sorted(positions.items()) if p.quantity != int(p.quantity)},
        "adjustments": adjustments, "account": account.number[-4:], "reason": reason,
    })  # fmt: skip
    for symbol, code in sorted(ledger.locked.items()):
        if code == "BREAK":
            journal.append("symbol_unlocked", {"symbol": str(symbol), "code": "SYNCED"})
    store.set_positions({symbol: positions[symbol] for symbol in whole})
    return whole


def foreign_fills(ledger: Ledger, fills: Sequence[Fill]) -> tuple[Break, ...]:
    """Executions at the broker that belong to no order of ours: a manual trade, or a journal that was restored."""
    known = {order.order_id for order in ledger.orders.values() if order.order_id}
    return tuple(
        Break(symbol=fill.symbol, kind=BreakKind.FOREIGN_FILL, cause="traded outside, or an old journal was restored",
              ours="none", theirs=f"{fill.side} {fill.quantity} @ {fill.price} at {fill.at:%Y-%m-%d %H:%M}Z",
              proposal="check the broker's own record; positions are compared separately")
        for fill in fills
        if fill.order_id not in known
    )  # fmt: skip


def view_breaks(ledger: Ledger, view: Mapping[str, Mapping[str, Any]]) -> tuple[Break, ...]:
    """Where state/positions.json differs from the journal it is derived from: edited by hand, or a restored copy."""
    found = []
    for symbol in sorted({*map(str, ledger.positions), *view}):
        ours = Decimal(ledger.positions.get(Symbol(symbol), 0))
        shown = Decimal(str(view[symbol]["quantity"])) if symbol in view else Decimal(0)
        if ours != shown:
            found.append(Break(symbol=Symbol(symbol), kind=BreakKind.VIEW_DIFFERS, cause="edited by hand, or restored",
                               ours=str(ours), theirs=f"positions.json says {shown}", proposal=_SYNC))  # fmt: skip
    return tuple(found)
