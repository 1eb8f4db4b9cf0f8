"""What must be true after every day, whatever happened. Each finding names the invariant and the numbers."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal

from core.domain import Purpose, Side
from core.journal import verify
from execution.drill.world import Outcome
from execution.ledger import new_york_day


def violations(found: Outcome) -> list[str]:
    """Empty when the day was clean."""
    return [
        *_doubled(found), *_without_intent(found), *_fills_are_positions(found), *_budget(found), *_limit(found),
        *_after_trip(found), *_chain(found), *_in_step(found), *_protected(found),
    ]  # fmt: skip


def _doubled(found: Outcome) -> list[str]:
    """No client order id live twice, and no decision bought more than one order of it wanted."""
    out, seen = [], set()
    bought: dict[str, Decimal] = defaultdict(Decimal)
    for order in found.venue.orders:
        if order.client_order_id in seen:
            out.append(f"DOUBLED_ID: {order.client_order_id} twice at the venue")
        seen.add(order.client_order_id)
        if order.side == Side.BUY:
            bought[order.client_order_id.rsplit("-", 1)[0]] += Decimal(order.filled_qty)
    wanted: dict[str, int] = defaultdict(int)
    for ours in found.ledger.orders.values():
        if ours.intent.purpose is Purpose.ENTRY:
            key = ours.client_order_id.rsplit("-", 1)[0]
            wanted[key] = max(wanted[key], ours.intent.quantity)
    out += [f"DOUBLED_ENTRY: {k} bought {q}, one order wanted {wanted[k]}" for k, q in bought.items() if q > wanted[k]]
    return out


def _without_intent(found: Outcome) -> list[str]:
    return [
        f"NO_INTENT: the venue has {o.client_order_id}, the journal does not"
        for o in found.venue.orders
        if o.client_order_id not in found.ledger.orders
    ]


def _fills_are_positions(found: Outcome) -> list[str]:
    out = []
    if dict(found.ledger.positions) != dict(found.venue.positions):
        out.append(f"POSITIONS: journal {dict(found.ledger.positions)}, venue {dict(found.venue.positions)}")
    net: dict[str, int] = defaultdict(int)
    for fill in found.venue.fills:
        net[fill.symbol] += int(fill.qty) * (1 if fill.side == Side.BUY else -1)
    if {s: q for s, q in net.items() if q} != {str(s): q for s, q in found.venue.positions.items()}:
        out.append(f"FILLS: they sum to {dict(net)}, the venue holds {dict(found.venue.positions)}")
    return out


def _budget(found: Outcome) -> list[str]:
    spent: dict[object, Decimal] = defaultdict(Decimal)
    for fill in found.venue.fills:
        if fill.side == Side.BUY:
            spent[new_york_day(fill.at)] += Decimal(fill.qty) * Decimal(fill.price)
    limit = found.plan.daily_budget_usd
    return [f"BUDGET: {usd} USD bought on {day}, limit {limit}" for day, usd in spent.items() if usd > limit]


def _limit(found: Outcome) -> list[str]:
    held: dict[str, int] = defaultdict(int)
    for fill in sorted(found.venue.fills, key=lambda f: (f.at, f.id)):
        held[fill.symbol] += int(fill.qty) * (1 if fill.side == Side.BUY else -1)
        if held[fill.symbol] < 0:
            return [f"SHORT: {fill.symbol} {held[fill.symbol]}"]
        count = sum(1 for quantity in held.values() if quantity)
        if count > found.plan.position_limit:
            return [f"LIMIT: {count} positions at {fill.at}, limit {found.plan.position_limit}"]
    return []


def _after_trip(found: Outcome) -> list[str]:
    return [f"AFTER_TRIP: {found.posts_after_trip} POSTs"] if found.posts_after_trip else []


def _chain(found: Outcome) -> list[str]:
    check = verify(found.journal)
    return [] if check.ok else [f"CHAIN: {check.why}"]


def _in_step(found: Outcome) -> list[str]:
    return [f"BREAK: {b.kind} {b.symbol} ours {b.ours} theirs {b.theirs}" for b in found.breaks]


def _protected(found: Outcome) -> list[str]:
    return [f"UNPROTECTED: {decision_id}" for decision_id in found.unprotected]
