"""Why the journal and the broker differ: one closed list of causes, decided by a pure function over frozen evidence.

Each rule looks at one cause and answers with the facts it compared, or with nothing. The first that answers wins, so
the order of `_RULES` is the order of proof: the account itself, our own orders, the company's acts, other people's
trades, and only then what merely looks like something. What no rule can prove is UNEXPLAINED.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from core.domain import (
    Account,
    ActionKind,
    Activity,
    Asset,
    CorporateAction,
    Fill,
    Order,
    Position,
    Purpose,
    Side,
    Symbol,
)
from execution.ledger import Ledger, LedgerOrder, new_york_day, split_ratio
from execution.order_states import OrderState, is_terminal, state_of, totals

_NONE: Mapping[Any, Any] = MappingProxyType({})
_OURS = "kobe-"
_ZERO = Decimal(0)
LAG = timedelta(seconds=60)
"""A position listing may run behind the orders this long; afterwards the difference is real."""
_COST_TOLERANCE = Decimal("0.02")  # a split keeps shares × average price; brokers round the average
_REINVEST_TOLERANCE = Decimal("0.25")  # the price a dividend was reinvested at is only known roughly
_BUST_KINDS = frozenset({"BUST", "TRADE_BUST", "CORRECT", "TRADE_CORRECT"})
_MERGER_KINDS = frozenset({"MA", "MERGER", "SC", "SSP"})
_DELISTED_KINDS = frozenset({"REORG", "DELIST", "WRT"})
_REINVEST_KINDS = ("DIV", "DRIP")


class Cause(StrEnum):
    LATE_FILL = "LATE_FILL"
    CANCELLED_BUT_FILLED = "CANCELLED_BUT_FILLED"
    DUPLICATE_ORDER = "DUPLICATE_ORDER"
    MANUAL_TRADE = "MANUAL_TRADE"
    SPLIT = "SPLIT"
    REVERSE_SPLIT = "REVERSE_SPLIT"
    RENAME = "RENAME"
    DELISTING = "DELISTING"
    SPINOFF = "SPINOFF"
    MERGER = "MERGER"
    DIVIDEND_REINVEST = "DIVIDEND_REINVEST"
    WRONG_ACCOUNT = "WRONG_ACCOUNT"
    STALE_RESTORE = "STALE_RESTORE"
    BROKER_LAG = "BROKER_LAG"
    FRACTIONAL_RESIDUE = "FRACTIONAL_RESIDUE"
    PAPER_RESET = "PAPER_RESET"
    TRADE_BUST = "TRADE_BUST"
    EXTERNAL_ORDER = "EXTERNAL_ORDER"
    ORPHAN_LEG = "ORPHAN_LEG"
    STILL_OPEN = "STILL_OPEN"  # an order that we took for over
    UNSETTLED_INTENT = "UNSETTLED_INTENT"
    UNPROTECTED = "UNPROTECTED"
    VIEW_EDITED = "VIEW_EDITED"
    UNEXPLAINED = "UNEXPLAINED"


class BreakKind(StrEnum):
    POSITION_QUANTITY = "POSITION_QUANTITY"  # both hold it, not the same number
    UNKNOWN_POSITION = "UNKNOWN_POSITION"  # the broker holds what we never bought
    MISSING_POSITION = "MISSING_POSITION"  # we hold what the broker does not
    ORPHAN_ORDER = "ORPHAN_ORDER"  # open at the broker, belongs to nothing of ours
    UNSETTLED_INTENT = "UNSETTLED_INTENT"  # may be live
    VIEW_DIFFERS = "VIEW_DIFFERS"  # state/positions.json is not what the journal says
    FOREIGN_FILL = "FOREIGN_FILL"  # an execution of no order of ours
    MISSING_PROTECTION = "MISSING_PROTECTION"  # an open trade without its stop


POSITION_KINDS = frozenset({BreakKind.POSITION_QUANTITY, BreakKind.UNKNOWN_POSITION, BreakKind.MISSING_POSITION})


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """One difference, what caused it, the facts that say so, and the command or act that cures it."""

    symbol: Symbol
    kind: BreakKind
    cause: Cause
    ours: str
    theirs: str
    proposal: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that was read to explain breaks, as of `at`. What could not be read is named in `gaps`."""

    at: datetime
    ledger: Ledger
    positions: Mapping[Symbol, Position] = field(default_factory=lambda: _NONE)
    open_orders: tuple[Order, ...] = ()
    account: Account | None = None
    fills: tuple[Fill, ...] = ()  # since the oldest open trade of a broken symbol; each activity id once
    activities: tuple[Activity, ...] = ()  # since then too
    actions: tuple[CorporateAction, ...] = ()  # the action feed, for what is held
    by_client_id: Mapping[str, Order | None] = field(default_factory=lambda: _NONE)  # our orders as the broker tells them
    by_order_id: Mapping[str, Order | None] = field(default_factory=lambda: _NONE)  # whose a fill is
    assets: Mapping[Symbol, Asset | None] = field(default_factory=lambda: _NONE)
    gaps: tuple[str, ...] = ()


SYNC = "python scripts/reconcile_alpaca.py --force-sync"
RUN = "python scripts/runner.py (settles and repairs at start)"
_ORPHANS = "python scripts/check_orphaned_orders.py --cancel"
_FULL = "python scripts/reconcile_alpaca.py --full (look again; change nothing yet)"


def _adopt(symbol: Symbol) -> str:
    return f"python scripts/reconcile_alpaca.py --adopt {symbol} --stop PRICE, or sell it in the broker's app"


def proposal_for(cause: Cause, symbol: Symbol) -> str:
    """The cure of each cause. Nothing here happens by itself."""
    special = {
        Cause.LATE_FILL: RUN,
        Cause.CANCELLED_BUT_FILLED: RUN,
        Cause.UNSETTLED_INTENT: RUN,
        Cause.UNPROTECTED: RUN,
        Cause.SPLIT: f"the next scan re-bases it once broker and action feed agree; else {SYNC}",
        Cause.REVERSE_SPLIT: f"the next scan re-bases it once broker and action feed agree; else {SYNC}",
        Cause.RENAME: f"the next scan re-bases it once broker and action feed agree; else {SYNC}",
        Cause.SPINOFF: "keep or sell it in the broker's app; it is never sold by us",
        Cause.BROKER_LAG: "wait a minute, then run reconcile again",
        Cause.WRONG_ACCOUNT: "do not sync: set KOBE_HOME to this account's folder, or use the other keys",
        Cause.STALE_RESTORE: f"restore the newest backup of state/; only without one: {SYNC}",
        Cause.PAPER_RESET: f"if the paper account was reset on purpose: {SYNC}",
        Cause.TRADE_BUST: f"confirm the correction with the broker, then {SYNC}",
        Cause.DUPLICATE_ORDER: "sell the second copy in the broker's app, then run reconcile again",
        Cause.EXTERNAL_ORDER: "python scripts/reconcile_alpaca.py --adopt "
        f"{symbol}, or cancel it in the broker's app",
        Cause.ORPHAN_LEG: _ORPHANS,
        Cause.STILL_OPEN: _ORPHANS,
        Cause.FRACTIONAL_RESIDUE: "sell the fraction in the broker's app; we trade whole shares only",
        Cause.UNEXPLAINED: _FULL,
    }
    return special.get(cause, SYNC)


# ---------------------------------------------------------------- the pure decision
@dataclass(frozen=True, slots=True)
class _Case:
    """One position break with its numbers."""

    symbol: Symbol
    ours: Decimal
    theirs: Decimal
    evidence: Evidence

    @property
    def difference(self) -> Decimal:
        """Shares the broker has more than we think, negative for fewer."""
        return self.theirs - self.ours

    def orders(self) -> Iterable[tuple[LedgerOrder, Order]]:
        """Our orders of this symbol of which the broker gave its own copy."""
        for order in self.evidence.ledger.orders.values():
            copy = self.evidence.by_client_id.get(order.client_order_id)
            if order.intent.symbol == self.symbol and copy is not None:
                yield order, copy

    def acts(self, *kinds: str) -> list[Activity]:
        return [a for a in self.evidence.activities if a.symbol == self.symbol and a.kind in kinds]

    def feed(self, *kinds: ActionKind) -> list[CorporateAction]:
        today = new_york_day(self.evidence.at)
        return [a for a in self.evidence.actions if self.symbol in (a.symbol, a.other) and a.kind in kinds
                and a.ex_date <= today]  # fmt: skip


_Found = tuple[Cause, tuple[str, ...]] | None


def explain(breaks: Sequence[Break], evidence: Evidence) -> tuple[Break, ...]:
    """The same breaks with cause, evidence and proposal. Pure; never adds or drops one."""
    return tuple(_explained(found, evidence) for found in breaks)


def _explained(found: Break, evidence: Evidence) -> Break:
    if _other_account(evidence):
        account, bound = evidence.account, evidence.ledger.account
        assert account is not None and bound is not None
        facts = (f"the journal is of account {bound['number'][-4:]}, the keys of {account.number[-4:]}",)
        return _with(found, Cause.WRONG_ACCOUNT, facts, evidence)
    if found.kind is BreakKind.FOREIGN_FILL:
        return found
    if found.kind not in POSITION_KINDS:
        return _with(found, *_order_cause(found, evidence), evidence)
    case = _case(found.symbol, evidence)
    for rule in _RULES:
        answer = rule(case)
        if answer is not None:
            return _with(found, *answer, evidence)
    return _with(found, Cause.UNEXPLAINED, _what_was_looked_at(case), evidence)


def _case(symbol: Symbol, evidence: Evidence) -> _Case:
    held = evidence.positions.get(symbol)
    return _Case(
        symbol, Decimal(evidence.ledger.positions.get(symbol, 0)), _ZERO if held is None else held.quantity, evidence
    )


def _with(found: Break, cause: Cause, facts: tuple[str, ...], evidence: Evidence) -> Break:
    gaps = tuple(f"could not be read: {gap}" for gap in evidence.gaps)
    proposal = proposal_for(cause, found.symbol)
    if cause is Cause.MANUAL_TRADE and found.kind is BreakKind.UNKNOWN_POSITION:
        proposal = _adopt(found.symbol)
    return replace(found, cause=cause, evidence=(*facts, *gaps), proposal=proposal)


def _other_account(evidence: Evidence) -> bool:
    bound, account = evidence.ledger.account, evidence.account
    return bound is not None and account is not None and bound["id"] != account.id


def _what_was_looked_at(case: _Case) -> tuple[str, ...]:
    e = case.evidence
    mine = sum(1 for fill in e.fills if fill.symbol == case.symbol)
    own = sum(1 for a in e.activities if a.symbol == case.symbol)
    return (f"{mine} fills, {own} activities, {len(case.feed(*ActionKind))} corporate actions: none explains "
            f"{case.difference:+f}",)  # fmt: skip


# ---------------------------------------------------------------- orders that belong to nothing
def _order_cause(found: Break, evidence: Evidence) -> tuple[Cause, tuple[str, ...]]:
    if found.kind is not BreakKind.ORPHAN_ORDER:
        return found.cause, found.evidence
    cid = found.theirs.split(" ", 1)[0]
    return order_cause(cid, evidence.ledger)


def order_cause(client_order_id: str, ledger: Ledger) -> tuple[Cause, tuple[str, ...]]:
    """Why an open order at the broker has no working order of ours. Told from its client order id alone."""
    known = ledger.orders.get(client_order_id)
    if known is not None and not known.working:
        trade = ledger.trades.get(known.intent.decision_id)
        if known.intent.purpose is Purpose.PROTECT and (trade is None or not trade.is_open):
            return Cause.ORPHAN_LEG, ("its trade is closed",)
        return Cause.STILL_OPEN, (f"our record ended it as {known.end} {known.status}".rstrip(),)
    if not client_order_id.startswith(_OURS):
        return Cause.EXTERNAL_ORDER, ("its client order id is not one of ours",)
    decision = _decision_of(client_order_id)
    trade = ledger.trades.get(decision)
    if f"-{Side.SELL}-{Purpose.PROTECT}-" in client_order_id and (known is not None or trade is not None):
        open_ = trade is not None and trade.is_open
        return (Cause.STALE_RESTORE, ("protection that the journal never placed",)) if open_ and known is None else (
            Cause.ORPHAN_LEG, ("its trade is closed",))  # fmt: skip
    if _same_decision(client_order_id, ledger):
        return Cause.DUPLICATE_ORDER, (f"another attempt of {decision} is in the journal",)
    return Cause.STALE_RESTORE, ("the id is ours, the journal does not know it",)


def _decision_of(client_order_id: str) -> str:
    parts = client_order_id.removeprefix(_OURS).rsplit("-", 3)
    return parts[0]


def _same_decision(client_order_id: str, ledger: Ledger) -> bool:
    """Whether the journal sent another order of the same decision, side and purpose."""
    stem = client_order_id.rsplit("-", 1)[0] + "-"
    return any(cid.startswith(stem) and cid != client_order_id for cid in ledger.orders)


# ---------------------------------------------------------------- positions: one rule per cause
def _reset(case: _Case) -> _Found:
    """Nothing is held, equity is cash, and the broker knows none of the orders that we saw filled."""
    e = case.evidence
    if any(p.quantity for p in e.positions.values()) or e.account is None or e.account.equity != e.account.cash:
        return None
    filled = [o for o in e.ledger.orders.values() if o.filled_quantity and o.client_order_id in e.by_client_id]
    if not filled or any(e.by_client_id[o.client_order_id] is not None for o in filled):
        return None
    if {f.order_id for f in e.fills} & {o.order_id for o in filled}:
        return None
    return Cause.PAPER_RESET, (
        f"no position, cash = equity = {e.account.cash}", f"the broker knows none of our {len(filled)} filled orders",
    )  # fmt: skip


def _unsettled(case: _Case) -> _Found:
    for order in case.evidence.ledger.unsettled():
        if order.intent.symbol != case.symbol:
            continue
        sign = 1 if order.intent.side is Side.BUY else -1
        open_quantity = order.intent.quantity - order.filled_quantity
        if 0 < sign * case.difference <= open_quantity:
            return Cause.UNSETTLED_INTENT, (f"{order.client_order_id} may be live for {open_quantity} shares",)
    return None


def _own_fill(case: _Case) -> _Found:
    """The broker's own copy of an order of ours, or its fills, has more shares than we booked, and they explain it."""
    more, facts, ended = _ZERO, [], False
    for order, copy in case.orders():
        filled = max(totals(copy)[0], sum(f.quantity for f in case.evidence.fills if f.order_id == copy.id))
        extra = filled - order.filled_quantity
        if extra <= 0:
            continue
        more += extra if order.intent.side is Side.BUY else -extra
        facts.append(f"{order.client_order_id}: booked {order.filled_quantity}, the broker says {filled} {copy.status}")
        state = state_of(copy)
        ended = ended or (is_terminal(state) and state is not OrderState.FILLED)
    if not facts or abs(more - case.difference) >= 1:
        return None
    return (Cause.CANCELLED_BUT_FILLED if ended else Cause.LATE_FILL), tuple(facts)


def _bust(case: _Case) -> _Found:
    """A fill that we booked is gone from the broker's copy, or it says that it was busted."""
    acts = case.acts(*_BUST_KINDS)
    if acts:
        return Cause.TRADE_BUST, tuple(f"{a.kind} on {a.day} {_signed(a.quantity)}" for a in acts)
    less, facts = _ZERO, []
    for order, copy in case.orders():
        short = order.filled_quantity - totals(copy)[0]
        if short > 0:
            less += short if order.intent.side is Side.BUY else -short
            facts.append(f"{order.client_order_id}: booked {order.filled_quantity}, now {totals(copy)[0]}")
    return (Cause.TRADE_BUST, tuple(facts)) if facts and less == -case.difference else None


def _signed(value: Decimal | None) -> str:
    return "" if value is None else f"{value:+f} shares"


def _scaled(case: _Case) -> _Found:
    """A split that the broker or the feed tells of, and whose ratio gives the broker's number of shares."""
    if case.ours <= 0:
        return None
    for action in case.feed(ActionKind.SPLIT):
        assert action.ratio is not None
        exact = Fraction(case.ours) * action.ratio
        if abs(Fraction(case.theirs) - exact) < 1:
            return _split_cause(action.ratio), (
                f"the feed has a split of {action.ratio} on {action.ex_date}", f"{case.ours} × {action.ratio}"
                f" = {float(exact):g}, the broker has {case.theirs}",
            )  # fmt: skip
    for act in case.acts("SPLIT"):
        if act.quantity is None or abs(act.quantity - case.difference) < 1:
            ratio = Fraction(case.theirs) / Fraction(case.ours)
            return _split_cause(ratio), (f"the broker booked a SPLIT on {act.day} {_signed(act.quantity)}",)
    return None


def _split_cause(ratio: Fraction) -> Cause:
    return Cause.SPLIT if ratio > 1 else Cause.REVERSE_SPLIT


def _renamed(case: _Case) -> _Found:
    for action in case.feed(ActionKind.RENAME):
        return Cause.RENAME, (f"the feed renames {action.symbol} to {action.other} on {action.ex_date}",)
    for act in case.acts("NC"):
        return Cause.RENAME, (f"the broker booked a name change on {act.day} {_signed(act.quantity)}",)
    return None


def _merged(case: _Case) -> _Found:
    for action in case.feed(ActionKind.MERGER):
        legs = [f"{action.symbol} is taken over on {action.ex_date}"]
        if action.other is not None:
            legs.append(f"stock leg {action.other}: the broker has {_held(case.evidence, action.other)}")
        if action.cash_per_share is not None:
            legs.append(f"cash leg {action.cash_per_share} USD per share")
        return Cause.MERGER, tuple(legs)
    acts = case.acts(*_MERGER_KINDS)
    if acts:
        return Cause.MERGER, tuple(f"{a.kind} on {a.day} {_signed(a.quantity)} {a.net_amount or ''}" for a in acts)
    return None


def _held(evidence: Evidence, symbol: Symbol) -> Decimal:
    held = evidence.positions.get(symbol)
    return _ZERO if held is None else held.quantity


def _spun_off(case: _Case) -> _Found:
    for action in case.feed(ActionKind.SPINOFF):
        if action.other == case.symbol or action.other is None:
            return Cause.SPINOFF, (f"{action.symbol} spun off {action.other or 'a company'} on {action.ex_date}",)
    acts = case.acts("SPIN")
    return (Cause.SPINOFF, tuple(f"SPIN on {a.day} {_signed(a.quantity)}" for a in acts)) if acts else None


def _delisted(case: _Case) -> _Found:
    if case.theirs != 0 or case.ours == 0:
        return None
    for action in case.feed(ActionKind.DELISTING):
        return Cause.DELISTING, (f"the feed delists {action.symbol} on {action.ex_date}", *_proceeds(case))
    acts = case.acts(*_DELISTED_KINDS)
    asset = case.evidence.assets.get(case.symbol)
    if acts:
        return Cause.DELISTING, _proceeds(case)
    known_gone = case.symbol in case.evidence.assets and (asset is None or not asset.active)
    if known_gone and not _others(case):
        return Cause.DELISTING, ("the asset is no longer active, and nobody sold it", *_proceeds(case))
    return None


def _proceeds(case: _Case) -> tuple[str, ...]:
    paid = [f"{a.kind} on {a.day} {a.net_amount} USD" for a in case.acts(*_DELISTED_KINDS)]
    return tuple(paid) or ("no proceeds seen: worthless until they are",)


def _others(case: _Case) -> list[tuple[Fill, Order | None]]:
    """Fills of this symbol that belong to no order of ours, with the order that made them."""
    e = case.evidence
    known = {order.order_id for order in e.ledger.orders.values() if order.order_id}
    legs = {leg.id for copy in e.by_client_id.values() if copy is not None for leg in copy.legs}
    return [
        (f, e.by_order_id.get(f.order_id))
        for f in e.fills
        if f.symbol == case.symbol and f.order_id not in known and f.order_id not in legs
    ]


def _foreign(case: _Case) -> _Found:
    """Fills of orders that the journal does not know explain the difference; whose they are says the rest."""
    others = _others(case)
    total = sum((f.quantity if f.side is Side.BUY else -f.quantity for f, _ in others), 0)
    if not others or abs(total - case.difference) >= 1:
        return None
    facts = tuple(f"{f.side} {f.quantity} @ {f.price} at {f.at:%Y-%m-%d %H:%M}Z"
                  f"{'' if o is None else ' by ' + o.client_order_id}" for f, o in others)  # fmt: skip
    return whose_fill([o for _, o in others], case.evidence.ledger), facts


def whose_fill(orders: Sequence[Order | None], ledger: Ledger) -> Cause:
    """Of fills that the journal does not know. Our kind of id: a second copy, or a journal that lost its end."""
    ids = [o.client_order_id for o in orders if o is not None and o.client_order_id.startswith(_OURS)]
    if not ids:
        return Cause.MANUAL_TRADE
    twice = all(cid in ledger.orders or _same_decision(cid, ledger) for cid in ids)
    return Cause.DUPLICATE_ORDER if twice else Cause.STALE_RESTORE


def _reinvested(case: _Case) -> _Found:
    if case.difference <= 0 or case.ours <= 0:
        return None
    for act in case.acts(*_REINVEST_KINDS):
        price = case.evidence.positions[case.symbol].average_price
        same = act.quantity is not None and abs(act.quantity - case.difference) < Decimal("0.0001")
        paid = abs(act.net_amount) if act.net_amount is not None else _ZERO
        bought = case.difference * price
        if same or (paid > 0 and abs(bought - paid) <= _REINVEST_TOLERANCE * paid):
            return Cause.DIVIDEND_REINVEST, (f"{act.kind} on {act.day}: {paid} USD, {case.difference:f} shares more",)
    return None


def _lagging(case: _Case) -> _Found:
    """The broker's own copies of our orders agree with us, and the newest fill is younger than its listing may lag."""
    booked = [o for o in case.evidence.ledger.orders.values() if o.intent.symbol == case.symbol and o.filled_quantity]
    stamps = [o.filled_at for o in booked if o.filled_at is not None]
    if not stamps or not timedelta(0) <= case.evidence.at - max(stamps) <= LAG:
        return None
    copies = [case.evidence.by_client_id.get(o.client_order_id) for o in booked]
    if any(c is None or totals(c)[0] != o.filled_quantity for o, c in zip(booked, copies, strict=True)):
        return None
    age = (case.evidence.at - max(stamps)).total_seconds()
    return Cause.BROKER_LAG, (f"every order of ours agrees with the broker's copy; the last fill is {age:.0f} s old",)


def _looks_like_split(case: _Case) -> _Found:
    """No word of a split anywhere, yet the shares have a usual ratio and kept their cost."""
    held = case.evidence.positions.get(case.symbol)
    if held is None or case.theirs != int(case.theirs) or _others(case):
        return None
    ratio = split_ratio(int(case.ours), int(case.theirs))
    if ratio is None or not keeps_cost(case.evidence.ledger, case.symbol, held):
        return None
    return _split_cause(ratio), (
        f"{case.ours} became {case.theirs} at an unchanged cost, without a fill", "the action feed says nothing of it",
    )  # fmt: skip


def keeps_cost(ledger: Ledger, symbol: Symbol, held: Position) -> bool:
    """Whether shares × average price at the broker is what our trades of the symbol cost."""
    trades = [t for t in ledger.open_trades() if t.symbol == symbol]
    cost = sum((t.entry_price * t.quantity for t in trades), _ZERO)
    return cost > 0 and abs(held.quantity * held.average_price - cost) <= _COST_TOLERANCE * cost


def _residue(case: _Case) -> _Found:
    if case.theirs != int(case.theirs) and abs(case.difference) < 1:
        return Cause.FRACTIONAL_RESIDUE, (f"{case.difference:+f} shares, which no whole-share order can make",)
    return None


_RULES: tuple[Callable[[_Case], _Found], ...] = (
    _reset, _unsettled, _own_fill, _foreign, _bust, _scaled, _renamed, _merged, _spun_off, _reinvested, _delisted,
    _lagging, _looks_like_split, _residue,
)  # fmt: skip
