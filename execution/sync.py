"""What a person can make of a break: sync, adopt, set a stop, unlock. Each is one record first, with reason, before and
after, and the cause that was found; the view file is written from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from core.domain import Account, CorporateAction, Position, Symbol
from core.errors import ConfigError, StateLocked, UsageError
from execution.breaks import BREAK_LOCKS, Break, Cause
from execution.corporate_actions import CHANGED, PENDING, rebased_by_hand
from execution.evidence import BrokerSide, instant, look
from execution.ledger import Ledger, Trade, new_york_day
from execution.order_states import totals

if TYPE_CHECKING:
    from core.ports import ActionFeed
    from execution.desk import Desk

Records = Sequence[tuple[str, Mapping[str, Any]]]
_TRIES = 5
_LIFTED = BREAK_LOCKS | {PENDING, CHANGED}
_NOT_SURPLUS = frozenset(
    {Cause.SPLIT, Cause.REVERSE_SPLIT, Cause.RENAME, Cause.LATE_FILL, Cause.CANCELLED_BUT_FILLED, Cause.BROKER_LAG,
     Cause.UNSETTLED_INTENT, Cause.WRONG_ACCOUNT, Cause.PAPER_RESET}
)  # fmt: skip
"""Causes of more shares at the broker that are no shares beside ours: adopted, they would be counted twice."""


# ---------------------------------------------------------------- acting
def force_sync(desk: Desk, feed: ActionFeed | None, *, reason: str) -> Mapping[Symbol, int]:
    """Make ours what the broker says, after everything it can prove was booked; the whole shares that are ours then.

    Raises BrokerDown IMPLAUSIBLE_FLAT and ConfigError ACCOUNT_MISMATCH before anything is written.
    """

    def decide(ledger: Ledger, seen: Seen) -> Records:
        return sync_records(ledger, seen, reason=reason, today=new_york_day(instant(desk.broker, desk.clock)))

    desk.settle()
    records = _recorded(desk, feed, decide)
    return {Symbol(s): int(q) for s, q in records[0][1]["positions"].items()}


def adopt(
    desk: Desk, feed: ActionFeed | None, symbol: Symbol, stop: Decimal | None, *, reason: str
) -> Mapping[str, Any]:
    """Make surplus shares at the broker ours, or set another stop where there is no surplus; what was recorded.

    Raises UsageError when there is nothing to adopt, the shares have another explanation, or the stop would sell.
    """

    def decide(ledger: Ledger, seen: Seen) -> Records:
        now, side = instant(desk.broker, desk.clock), seen.side
        _refuse_unsettled(ledger, symbol, "--adopt")
        held, ours = side.positions.get(symbol), ledger.positions.get(symbol, 0)
        facts = {"reason": reason, "account": side.account.number[-4:]}
        if held is not None and held.quantity == ours and stop is not None:
            return [("trade_rebased", {**row, **facts}) for row in new_stops(ledger, held, stop, new_york_day(now))]
        decision_id = f"{new_york_day(now):%Y%m%d}-adopted-{symbol}"
        body = adoption(ledger, side.positions, seen.breaks, symbol, stop)
        return [("position_adopted", {**body, **facts, "decision_id": _unused(ledger, decision_id)})]

    desk.settle()
    records = _recorded(desk, feed, decide)
    if desk.ledger().locked.get(symbol) in _LIFTED:
        desk.unlock(symbol, "ADOPTED")
    return records[0][1]


def unlock(desk: Desk, symbol: Symbol, *, reason: str) -> None:
    """Lift a lock that a person has looked into. Raises UsageError when there is none, or an order is still unknown."""
    ledger = desk.ledger()
    if symbol not in ledger.locked:
        raise UsageError(f"--unlock {symbol}: it is not locked", advice="run without --unlock to see what is")
    _refuse_unsettled(ledger, symbol, "--unlock")
    account = None if ledger.account is None else ledger.account["number"][-4:]
    desk.journal.append("symbol_unlocked", {
        "symbol": str(symbol), "code": "OPERATOR", "was": ledger.locked[symbol], "reason": reason, "account": account,
    })  # fmt: skip


def _refuse_unsettled(ledger: Ledger, symbol: Symbol, what: str) -> None:
    ids = [o.client_order_id for o in ledger.unsettled() if o.intent.symbol == symbol]
    if ids:
        raise UsageError(
            f"{what} {symbol}: the outcome of {', '.join(ids)} is not known", code="ORDER_UNKNOWN",
            advice="it is settled from the broker's evidence: start the runner, or run this again later",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at both sides; `actions` only when there was something to explain."""

    breaks: Sequence[Break]
    side: BrokerSide
    actions: Sequence[CorporateAction] = ()


def _recorded(desk: Desk, feed: ActionFeed | None, decide: Callable[[Ledger, Seen], Records]) -> Records:
    """Look, decide, and write; when the journal has moved on meanwhile, a fill say, look again."""
    for _ in range(_TRIES):
        ledger = desk.ledger()
        breaks, side, evidence = look(desk.broker, feed, desk.ledger, desk.clock)
        if ledger.account is not None and ledger.account["id"] != side.account.id:
            raise ConfigError("the broker's account is not the journal's", code="ACCOUNT_MISMATCH",
                              advice="set KOBE_HOME to that account's folder, or use its keys")  # fmt: skip
        records = decide(ledger, Seen(breaks, side, () if evidence is None else evidence.actions))
        if desk.record_if_unchanged(ledger.last_seq, records):
            return records
    raise StateLocked("other scripts write so often that this cannot be recorded", advice="stop the runner, try again")


def _unused(ledger: Ledger, decision_id: str) -> str:
    number = 1
    while (name := decision_id if number == 1 else f"{decision_id}.{number}") in ledger.trades:
        number += 1
    return name


# ---------------------------------------------------------------- what is recorded
def sync_records(ledger: Ledger, seen: Seen, *, reason: str, today: date) -> Records:
    """`positions_synced` with every adjustment and its cause, then the locks of breaks lifted. Pure.

    Symbols with an order whose fills may not all be booked yet are left out: booked later, they would count twice.
    Trades go along with an explained split or rename. An implausible flat was refused by the look that saw it.
    """
    positions, account = seen.side.positions, seen.side.account
    open_ends = _open_ends(ledger, seen.side)
    whole = {s: int(p.quantity) for s, p in sorted(positions.items()) if int(p.quantity) and s not in open_ends}
    whole |= {s: ledger.positions[s] for s in sorted(open_ends) if s in ledger.positions}
    causes = {b.symbol: b.cause for b in seen.breaks if b.lock_code is not None}
    changed = [s for s in sorted({*ledger.positions, *whole}) if ledger.positions.get(s, 0) != whole.get(s, 0)]
    explained = {s: c for s, c in causes.items() if s not in open_ends}
    body = {
        "positions": {str(symbol): quantity for symbol, quantity in whole.items()},
        "fractions": {str(s): f"{p.quantity:f}" for s, p in sorted(positions.items()) if p.quantity != int(p.quantity)},
        "before": {str(symbol): quantity for symbol, quantity in sorted(ledger.positions.items())},
        "adjustments": {str(s): {
            "ours": ledger.positions.get(s, 0), "theirs": whole.get(s, 0),
            "cause": str(causes.get(s, Cause.UNEXPLAINED)),
        } for s in changed},
        "rebased": list(rebased_by_hand(ledger, positions, explained, seen.actions, today)),
        "left_out": sorted(map(str, open_ends)), "account": _tail(account), "reason": reason,
    }  # fmt: skip
    lifted = [s for s, code in sorted(ledger.locked.items()) if code in _LIFTED and s not in open_ends]
    return [("positions_synced", body)] + [
        ("symbol_unlocked", {"symbol": str(s), "code": "SYNCED", "was": ledger.locked[s]}) for s in lifted
    ]


def _open_ends(ledger: Ledger, side: BrokerSide) -> set[Symbol]:
    """Symbols with a working order that the listing, read after the positions, does not show just as we have it."""
    listed = {order.client_order_id: totals(order)[0] for order in side.open_orders}
    return {
        order.intent.symbol for order in ledger.working()
        if order.unsettled or listed.get(order.client_order_id) != order.filled_quantity
    }  # fmt: skip


def _tail(account: Account) -> str:
    return account.number[-4:]


def adoption(
    ledger: Ledger, positions: Mapping[Symbol, Position], breaks: Sequence[Break], symbol: Symbol, stop: Decimal | None
) -> dict[str, Any]:
    """The surplus shares at the broker, as they become ours. Pure.

    With a stop they are a trade that is protected like any other; without, they are held, count as a slot, and are
    never sold. Raises UsageError.
    """
    held, ours = positions.get(symbol), ledger.positions.get(symbol, 0)
    surplus = (0 if held is None else int(held.quantity)) - ours
    if held is None or surplus <= 0:
        raise UsageError(
            f"--adopt {symbol}: the broker has {0 if held is None else f'{held.quantity:f}'}, the journal {ours}",
            code="NOTHING_TO_ADOPT", advice="only whole shares that the journal lacks can be adopted",
        )  # fmt: skip
    cause = next((b.cause for b in breaks if b.symbol == symbol and b.lock_code is not None), Cause.UNEXPLAINED)
    if cause in _NOT_SURPLUS:
        raise UsageError(f"--adopt {symbol}: these are no shares beside ours, the cause is {cause}",
                         code="NOT_A_SURPLUS", advice="run reconcile without --adopt for the cure")  # fmt: skip
    _refuse_stop_above(symbol, stop, held)
    return {
        "symbol": str(symbol), "quantity": surplus, "entry_price": str(held.average_price), "cause": str(cause),
        "stop": None if stop is None else str(stop), "before": ours, "after": ours + surplus,
    }  # fmt: skip


def new_stops(ledger: Ledger, held: Position, stop: Decimal, today: date) -> list[dict[str, Any]]:
    """The open trades of a position that is all ours, with another stop. Raises UsageError."""
    trades = [t for t in ledger.open_trades() if t.symbol == held.symbol]
    if not trades:
        raise UsageError(f"--adopt {held.symbol}: no open trade of it to set a stop for", code="NOTHING_TO_ADOPT",
                         advice="it was synced without a stop; its shares are held and never sold by us")  # fmt: skip
    _refuse_stop_above(held.symbol, stop, held)
    return [_with_stop(trade, stop, today) for trade in trades]


def _with_stop(trade: Trade, stop: Decimal, today: date) -> dict[str, Any]:
    was = None if trade.stop is None else str(trade.stop)
    return {
        "decision_id": trade.decision_id, "symbol": str(trade.symbol), "quantity": trade.quantity,
        "entry_price": str(trade.entry_price), "stop": str(stop), "basis": max(today, trade.basis_day).isoformat(),
        "cause": "OPERATOR", "before": {"stop": was},
    }  # fmt: skip


def _refuse_stop_above(symbol: Symbol, stop: Decimal | None, held: Position) -> None:
    if stop is None:
        return
    price = held.market_value / held.quantity if held.market_value is not None else held.average_price
    if not (stop.is_finite() and 0 < stop < price):
        raise UsageError(
            f"--stop {stop}: must be above 0 and below the price of {symbol}, {price:.2f}", code="STOP_ABOVE_PRICE",
            advice="a stop at or above the price would sell at once",
        )  # fmt: skip
