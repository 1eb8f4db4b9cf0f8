"""What must be true after every day, whatever happened. Each finding begins with the name of its invariant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from core.domain import Purpose, Side, Symbol
from execution.drill.outcome import Outcome
from execution.ledger import new_york_day
from risk.runaway import OWN_FAULT

_ZERO = Decimal(0)
_LIQUIDATION = "kobe-close-"  # the operator's own door stays open after a trip
_FROM_OUTSIDE = ("not_sent", "rejected")

Found = Iterator[str]


def violations(found: Outcome) -> list[str]:
    """Empty when the day was clean."""
    return [f"{name}: {what}" for name, check in INVARIANTS.items() for what in check(found)]


def doubled_id(found: Outcome) -> Found:
    """No client order id is at the venue twice."""
    seen = set()
    for order in found.venue.orders:
        if order.client_order_id in seen:
            yield f"{order.client_order_id} is at the venue twice"
        seen.add(order.client_order_id)


def doubled_entry(found: Outcome) -> Found:
    """No decision bought more than one order of it wanted: a retry under a new id is a second order."""
    bought: dict[str, Decimal] = defaultdict(Decimal)
    for order in found.venue.orders:
        if order.side == Side.BUY and order.client_order_id not in found.late:
            bought[order.client_order_id.rsplit("-", 1)[0]] += Decimal(order.filled_qty)
    wanted: dict[str, int] = defaultdict(int)
    for ours in found.ledger.orders.values():
        if ours.intent.purpose is Purpose.ENTRY:
            key = ours.client_order_id.rsplit("-", 1)[0]
            wanted[key] = max(wanted[key], ours.intent.quantity)
    for key, quantity in bought.items():
        if quantity > wanted[key]:
            yield f"{key} bought {quantity}, one order wanted {wanted[key]}"


def intent_first(found: Outcome) -> Found:
    """When an order reaches the venue, its intent is on the disk."""
    for post in found.posts:
        if not post.intended:
            yield f"{post.client_order_id} arrived before its intent was written"


def no_intent(found: Outcome) -> Found:
    """The journal knows every order that the venue has."""
    for order in found.venue.orders:
        if order.client_order_id not in found.ledger.orders:
            yield f"the venue has {order.client_order_id}, the journal does not"


def lost_order(found: Outcome) -> Found:
    """An order that the journal calls never sent or rejected is not at the venue, or was rejected there."""
    for order in found.venue.orders:
        ours = found.ledger.orders.get(order.client_order_id)
        if ours is not None and ours.end in _FROM_OUTSIDE and order.status != "rejected":
            yield f"the journal says {ours.end} of {order.client_order_id}, the venue {order.status}"


def unsettled(found: Outcome) -> Found:
    """The morning after, with every fault over, nothing is UNKNOWN any more."""
    for order in found.ledger.unsettled():
        yield f"{order.client_order_id} is still {order.unknown or 'without an answer'}"


def locked(found: Outcome) -> Found:
    """The morning after, nothing needs a person, unless the broker answered about another order."""
    if any(fault.kind.startswith("identity") for fault in found.plan.faults):
        return
    for symbol, code in found.locks.items():
        yield f"{symbol} is still locked: {code}"


def fills_are_positions(found: Outcome) -> Found:
    """What the journal holds, what the venue holds and what the venue's activities add up to are the same."""
    if dict(found.ledger.positions) != dict(found.venue.positions):
        yield f"journal {_shown(found.ledger.positions)}, venue {_shown(found.venue.positions)}"
    net: dict[str, int] = defaultdict(int)
    for activity in found.venue.activities:
        if activity.kind == "FILL":
            net[activity.symbol] += int(activity.qty) * (1 if activity.side == Side.BUY else -1)
        elif activity.symbol:
            net[activity.symbol] += int(activity.qty)
    if {s: q for s, q in net.items() if q} != {str(s): q for s, q in found.venue.positions.items()}:
        yield f"fills sum to {_shown(net)}, the venue holds {_shown(found.venue.positions)}"


def trades(found: Outcome) -> Found:
    """The open trades of a symbol have no more shares than are held: one without shares is looked after in vain."""
    shares: dict[str, int] = defaultdict(int)
    for trade in found.ledger.open_trades():
        shares[trade.symbol] += trade.quantity
    for symbol, quantity in shares.items():
        if quantity > found.venue.positions.get(Symbol(symbol), 0):
            yield f"{symbol} {quantity} shares in trades, the venue holds {_shown(found.venue.positions)}"


def _shown(positions: Mapping[Any, int]) -> str:
    return " ".join(f"{s} {q}" for s, q in sorted(positions.items()) if q) or "nothing"


def spent(found: Outcome) -> Found:
    """What was bought on a New York day is within the daily budget; fills after a told cancel cannot be foreseen."""
    ids = {order.id: order.client_order_id for order in found.venue.orders}
    usd: dict[date, Decimal] = defaultdict(Decimal)
    for fill in found.venue.fills:
        if fill.side == Side.BUY and ids.get(fill.order_id or "") not in found.late:
            usd[new_york_day(fill.at)] += Decimal(fill.qty) * Decimal(fill.price)
    for day, total in usd.items():
        if total > found.limits.daily_budget_usd:
            yield f"{total} USD bought on {day}, limit {found.limits.daily_budget_usd}"


def reserved(found: Outcome) -> Found:
    """At each entry's intent, filled and reserved together are within the budget: an unknown order counts in full.

    Counted here from the bare records, not by the ledger that the desk itself asks.
    """
    book = _Reservations()
    for record in found.records:
        total = book.add(record)
        if total is not None and total > found.limits.daily_budget_usd:
            yield f"record {record['seq']}: {total} USD filled or reserved, limit {found.limits.daily_budget_usd}"


class _Reservations:
    """USD filled and reserved by entries, from the journal's records."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[date, Decimal, Decimal]] = {}  # day, limit price, quantity without an end
        self._filled: dict[str, Decimal] = {}

    def add(self, record: Mapping[str, Any]) -> Decimal | None:
        """The day's total after an entry's intent; None after any other record."""
        body = record["body"]
        cid = body.get("client_order_id")
        if record["kind"] == "order_intended" and body["purpose"] == Purpose.ENTRY:
            day = new_york_day(datetime.fromisoformat(record["at"]))
            self._entries[cid] = (day, Decimal(body["limit_price"]), Decimal(body["quantity"]))
            open_usd = sum((price * left for _, price, left in self._entries.values()), _ZERO)
            return open_usd + sum(usd for c, usd in self._filled.items() if self._entries[c][0] == day)
        if cid in self._entries:
            self._change(record["kind"], cid, body)
        return None

    def _change(self, kind: str, cid: str, body: Mapping[str, Any]) -> None:
        day, price, left = self._entries[cid]
        if kind == "order_filled":
            paid = Decimal(body["price"]) if body.get("price") else price
            before = self._filled.get(cid, _ZERO)
            self._filled[cid] = max(before, paid * body["quantity"])
            left = max(_ZERO, left - body["quantity"]) if left else left
        elif kind in ("order_closed", "order_rejected", "order_not_sent"):
            left = _ZERO
        self._entries[cid] = (day, price, left)


def held(found: Outcome) -> Found:
    """At no moment are more symbols held than the limit, or fewer shares than none."""
    late = {order.id for order in found.venue.orders if order.client_order_id in found.late}
    shares: dict[str, int] = defaultdict(int)
    foreseen: dict[str, int] = defaultdict(int)
    for activity in found.venue.activities:
        change = int(activity.qty) * (-1 if activity.kind == "FILL" and activity.side == Side.SELL else 1)
        shares[activity.symbol] += change
        unforeseen = activity.order_id in late and activity.side == Side.BUY
        if not unforeseen and (activity.kind == "FILL" or foreseen[activity.symbol]):
            foreseen[activity.symbol] += change
        if shares[activity.symbol] < 0:
            yield f"short {activity.symbol} {shares[activity.symbol]} at {activity.at:%Y-%m-%d %H:%M:%S}Z"
            return
        count = sum(1 for quantity in foreseen.values() if quantity > 0)
        if count > found.limits.position_limit:
            yield f"{count} positions at {activity.at:%Y-%m-%d %H:%M:%S}Z, limit {found.limits.position_limit}"
            return


def after_trip(found: Outcome) -> Found:
    """Once the kill switch is there nothing is sent but the operator's liquidation."""
    for post in found.posts:
        if post.halted and not post.client_order_id.startswith(_LIQUIDATION):
            yield f"{post.client_order_id} was sent although the kill switch was there"


def chain(found: Outcome) -> Found:
    """The journal's hash chain is whole and agrees with its head."""
    if found.chain:
        yield found.chain


def in_step(found: Outcome) -> Found:
    """After the morning's start and reconcile, journal and venue agree."""
    for b in found.breaks:
        yield f"{b.kind} {b.symbol} ours {b.ours} theirs {b.theirs}"


def documents(found: Outcome) -> Found:
    """Every state document can be read and says what the journal says."""
    yield from found.damaged


def protected(found: Outcome) -> Found:
    """After a scan that ended well each open trade has its stop at the broker for all its shares. Once, the lack may be
    told instead; the next scan must have mended it."""
    telling = ("break_found", "symbol_locked", "cancel_requested")  # the last: by the operator's own command
    told = {str(row["body"].get("symbol")) for row in found.records if row["kind"] in telling}
    told |= {str(row.get("symbol")) for row in found.errors if row.get("code") == "POSITION_UNPROTECTED"}
    failed = any(row["event"] == "protection_failed" for row in found.errors)
    scans: dict[str, list[str]] = defaultdict(list)
    for bare in found.bare:
        scans[bare.decision_id].append(bare.phase)
        if bare.symbol not in told and not failed:
            yield f"{bare.decision_id} has no stop after {bare.phase}, and nobody was told"
    for decision_id, phases in scans.items():
        if len(phases) > 1:
            yield f"{decision_id} has no stop after {' and '.join(phases)}"


def told_scans(found: Outcome) -> Found:
    """Every scan that was due ran, or is on record as missed."""
    over = {str(r["body"]["run"]) for r in found.records if r["kind"] in ("scan_run", "run_missed")}
    for run in found.runs:
        if run not in over and not run.endswith("close"):
            yield f"{run} neither ran nor is on record as missed"


def no_bug(found: Outcome) -> Found:
    """No scan ended in a mistake of ours, and no net that only catches mistakes caught one."""
    for record in found.records:
        code = str(record["body"].get("code", ""))
        if record["kind"] == "run_failed" and code == "BUG":
            yield f"run {record['body']['run']} ended in {record['body'].get('detail')}"
    overtaken = {
        record["body"]["client_order_id"] for record in found.records
        if record["kind"] == "order_not_sent" and record["body"].get("code") == "NOT_ACCEPTED"
    }  # fmt: skip
    for row in found.errors:  # a process that stood still, while another proved its order absent, must be stopped
        if row.get("code") in OWN_FAULT and row.get("observed") not in overtaken:
            yield f"the last door had to step in: {row['code']} {row.get('observed', '')}"


INVARIANTS: Mapping[str, Callable[[Outcome], Found]] = MappingProxyType(
    {
        "DOUBLED_ID": doubled_id,
        "DOUBLED_ENTRY": doubled_entry,
        "INTENT_FIRST": intent_first,
        "NO_INTENT": no_intent,
        "LOST_ORDER": lost_order,
        "UNSETTLED": unsettled,
        "LOCKED": locked,
        "POSITIONS": fills_are_positions,
        "TRADES": trades,
        "BUDGET": spent,
        "RESERVED": reserved,
        "HELD": held,
        "AFTER_TRIP": after_trip,
        "CHAIN": chain,
        "IN_STEP": in_step,
        "DOCUMENTS": documents,
        "UNPROTECTED": protected,
        "TOLD": told_scans,
        "BUG": no_bug,
    }
)
"""By the name that a violation begins with; each function's first line says what it demands."""
