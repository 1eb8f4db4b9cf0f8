"""Why the journal and the broker differ: a pure decision over frozen evidence.

Each rule looks at one cause and answers with the facts it compared, or with nothing. The first that answers wins, so
the order of `_RULES` is the order of proof: our own orders, the company's acts, other people's trades, and only then
what merely looks like something. What no rule can prove is UNEXPLAINED.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
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
from execution.breaks import POSITION_KINDS, Break, BreakKind, Cause, cure
from execution.ledger import Ledger, LedgerOrder, new_york_day
from execution.order_states import totals

_NONE: Mapping[Any, Any] = MappingProxyType({})
OURS = "kobe-"
_ZERO = Decimal(0)
LAG = timedelta(seconds=60)
"""A position listing may run behind the orders this long; afterwards the difference is real."""
_COST_TOLERANCE = Decimal("0.02")  # a split keeps shares × average price; brokers round the average
_REINVEST_TOLERANCE = Decimal("0.10")  # the price a dividend was reinvested at is only known roughly
_ENDED = frozenset({"canceled", "expired", "rejected"})
_BUST_KINDS = frozenset({"BUST", "TRADE_BUST", "CORRECT", "TRADE_CORRECT"})
_MERGER_KINDS = frozenset({"MA", "MERGER"})
_DELISTED_KINDS = frozenset({"REORG", "DELIST", "WRT"})
_TRANSFER_KINDS = frozenset({"ACATS", "JNLS", "FOPT"})
_DIVIDEND_KINDS = frozenset({"DIV", "DIVCGL", "DIVCGS", "DIVROC", "DIVTXEX", "CGD", "DRIP"})
USUAL_RATIOS = (2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 40, 50, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that was read to explain breaks, as of `at`. What could not be read is named in `gaps`."""

    at: datetime
    ledger: Ledger
    positions: Mapping[Symbol, Position] = field(default_factory=lambda: _NONE)
    account: Account | None = None
    fills: tuple[Fill, ...] = ()  # since the oldest open trade of a broken symbol; each activity id once
    activities: tuple[Activity, ...] = ()  # since then too
    actions: tuple[CorporateAction, ...] = ()  # the action feed, for what is held on either side
    by_client_id: Mapping[str, Order | None] = field(default_factory=lambda: _NONE)  # our orders, its copies
    by_order_id: Mapping[str, Order | None] = field(default_factory=lambda: _NONE)  # whose a fill is
    assets: Mapping[Symbol, Asset | None] = field(default_factory=lambda: _NONE)
    gaps: tuple[str, ...] = ()

    def theirs(self, symbol: Symbol) -> Decimal:
        held = self.positions.get(symbol)
        return _ZERO if held is None else held.quantity


# ---------------------------------------------------------------- the decision
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

    @property
    def today(self) -> date:
        return new_york_day(self.evidence.at)

    def orders(self) -> Iterable[tuple[LedgerOrder, Order]]:
        """Our orders of this symbol of which the broker gave its own copy."""
        for cid, copy in self.evidence.by_client_id.items():
            order = self.evidence.ledger.orders.get(cid)
            if order is not None and copy is not None and _symbol_of(order, self.evidence.ledger) == self.symbol:
                yield order, copy

    def acts(self, kinds: Iterable[str]) -> list[Activity]:
        wanted = frozenset(kinds)
        return [a for a in self.evidence.activities if a.symbol == self.symbol and a.kind in wanted]

    def legs(self, acts: Sequence[Activity]) -> list[Activity]:
        """All activities of the same events, also those of other symbols and of cash alone."""
        groups = {a.group for a in acts if a.group}
        return [a for a in self.evidence.activities if a in acts or (a.group and a.group in groups)]

    def feed(self, *kinds: ActionKind) -> list[CorporateAction]:
        """What the feed tells of this symbol, under its own name or as the other one, in force by today."""
        return [
            a for a in self.evidence.actions
            if self.symbol in (a.symbol, a.other) and a.kind in kinds and a.ex_date <= self.today
        ]  # fmt: skip


_Found = tuple[Cause, tuple[str, ...]] | None


def explain(breaks: Sequence[Break], evidence: Evidence) -> tuple[Break, ...]:
    """The same breaks with cause, evidence and proposal. Pure; never adds or drops one."""
    return tuple(_explained(found, evidence) for found in breaks)


def _explained(found: Break, evidence: Evidence) -> Break:
    account, bound = evidence.account, evidence.ledger.account
    if account is not None and bound is not None and bound["id"] != account.id:
        facts = (f"the journal is of account {bound['number'][-4:]}, the keys of {account.number[-4:]}",)
        return _with(found, Cause.WRONG_ACCOUNT, facts, evidence)
    if found.kind not in POSITION_KINDS:
        return found  # told with its cause where it was found
    case = _case(found.symbol, evidence)
    for rule in _RULES:
        answer = rule(case)
        if answer is not None:
            return _with(found, *answer, evidence)
    return _with(found, Cause.UNEXPLAINED, _what_was_looked_at(case), evidence)


def _case(symbol: Symbol, evidence: Evidence) -> _Case:
    return _Case(symbol, Decimal(evidence.ledger.positions.get(symbol, 0)), evidence.theirs(symbol), evidence)


def _with(found: Break, cause: Cause, facts: tuple[str, ...], evidence: Evidence) -> Break:
    gaps = tuple(f"could not be read: {gap}" for gap in evidence.gaps)
    missing = _unlisted(found, evidence)
    return replace(
        found, cause=cause, evidence=(*facts, *missing, *gaps), proposal=cure(cause, found.symbol, found.kind)
    )


def _unlisted(found: Break, evidence: Evidence) -> tuple[str, ...]:
    """The account is worth more than its cash and its listed positions: the listing may not be whole."""
    account = evidence.account
    values = [p.market_value for p in evidence.positions.values()]
    if found.kind is BreakKind.UNKNOWN_POSITION or account is None or account.equity is None or account.cash is None:
        return ()
    listed = sum((v for v in values if v is not None), _ZERO)
    more = account.equity - account.cash - listed
    cost = sum((t.entry_price * t.quantity for t in evidence.ledger.open_trades() if t.symbol == found.symbol), _ZERO)
    if None in values or cost <= 0 or more < cost / 2:
        return ()
    return (f"equity − cash is {more} USD above the listed positions: the listing may not be whole",)


def _what_was_looked_at(case: _Case) -> tuple[str, ...]:
    e = case.evidence
    fills = sum(1 for fill in e.fills if fill.symbol == case.symbol)
    acts = sum(1 for a in e.activities if a.symbol == case.symbol)
    told = len(case.feed(*ActionKind))
    return (f"{fills} fills, {acts} activities, {told} corporate actions seen: none explains {case.difference:+f}",)


def _symbol_of(order: LedgerOrder, ledger: Ledger) -> Symbol:
    """What the order is in: its trade may have another name by now."""
    trade = ledger.trades.get(order.intent.decision_id)
    return order.intent.symbol if trade is None else trade.symbol


# ---------------------------------------------------------------- orders that belong to nothing
def order_cause(client_order_id: str, ledger: Ledger) -> tuple[Cause, tuple[str, ...]]:
    """Why an open order at the broker has no working order of ours. Told from its client order id alone."""
    known = ledger.orders.get(client_order_id)
    if known is not None and not known.working:
        trade = ledger.trades.get(known.intent.decision_id)
        if known.intent.purpose is Purpose.PROTECT and (trade is None or not trade.is_open):
            return Cause.ORPHAN_LEG, ("its trade is closed",)
        return Cause.STILL_OPEN, (f"our record ended it as {known.end} {known.status}".rstrip(),)
    if not client_order_id.startswith(OURS):
        return Cause.EXTERNAL_ORDER, ("its client order id is not one of ours",)
    decision = client_order_id.removeprefix(OURS).rsplit("-", 3)[0]
    trade = ledger.trades.get(decision)
    if f"-{Side.SELL}-{Purpose.PROTECT}-" in client_order_id and trade is not None and not trade.is_open:
        return Cause.ORPHAN_LEG, ("its trade is closed",)
    if _same_decision(client_order_id, ledger):
        return Cause.DUPLICATE_ORDER, (f"the journal has another attempt of {decision}, not this one",)
    return Cause.STALE_RESTORE, ("the id is ours, the journal does not know it",)


def _same_decision(client_order_id: str, ledger: Ledger) -> bool:
    """Whether the journal sent another order of the same decision, side and purpose."""
    stem = client_order_id.rsplit("-", 1)[0] + "-"
    return any(cid.startswith(stem) and cid != client_order_id for cid in ledger.orders)


# ---------------------------------------------------------------- positions: our own orders
def _reset(case: _Case) -> _Found:
    """The broker knows none of the orders that we saw filled: the account began anew."""
    e = case.evidence
    if case.theirs != 0 or case.ours == 0 or any(e.theirs(symbol) for symbol in e.ledger.positions):
        return None
    filled = [o for cid in e.by_client_id if (o := e.ledger.orders.get(cid)) is not None and o.filled_quantity]
    if not filled or any(e.by_client_id[o.client_order_id] is not None for o in filled):
        return None
    if {f.order_id for f in e.fills} & {o.order_id for o in filled}:
        return None
    cash = "unknown" if e.account is None else e.account.cash
    return Cause.PAPER_RESET, (
        f"nothing of ours is held, cash {cash}", f"the broker knows none of our {len(filled)} filled orders",
    )  # fmt: skip


def _unsettled(case: _Case) -> _Found:
    for order in case.evidence.ledger.unsettled():
        if _symbol_of(order, case.evidence.ledger) != case.symbol:
            continue
        sign = 1 if order.intent.side is Side.BUY else -1
        still = order.intent.quantity - order.filled_quantity
        if 0 < sign * case.difference <= still:
            return Cause.UNSETTLED_INTENT, (f"{order.client_order_id} may be live for {still} shares",)
    return None


def _own_fill(case: _Case) -> _Found:
    """The broker's own copy of an order of ours, or its fills, has more shares than we booked, and they explain it."""
    more, facts, ended = _ZERO, [], False
    for order, copy in case.orders():
        ids = {copy.id, *(leg.id for leg in copy.legs)}
        told = sum(f.quantity for f in case.evidence.fills if f.order_id in ids)
        filled = max(totals(copy)[0], told)
        extra = filled - order.filled_quantity
        if extra <= 0:
            continue
        more += extra if order.intent.side is Side.BUY else -extra
        facts.append(f"{order.client_order_id}: booked {order.filled_quantity}, the broker says {filled} {copy.status}")
        by_leg = any(leg.filled_quantity for leg in copy.legs)  # cancels its parent, which is no contradiction
        ended = ended or (copy.status in _ENDED and not by_leg)
    if not facts or abs(more - case.difference) >= 1:
        return None
    return (Cause.CANCELLED_BUT_FILLED if ended else Cause.LATE_FILL), tuple(facts)


def _bust(case: _Case) -> _Found:
    """A fill that we booked is gone from the broker's copy, or it says that it was busted."""
    acts = case.acts(_BUST_KINDS)
    if acts:
        return Cause.TRADE_BUST, tuple(_told(a) for a in acts)
    less, facts = _ZERO, []
    for order, copy in case.orders():
        short = order.filled_quantity - totals(copy)[0]
        if short > 0:
            less += short if order.intent.side is Side.BUY else -short
            facts.append(f"{order.client_order_id}: booked {order.filled_quantity}, now {totals(copy)[0]}")
    return (Cause.TRADE_BUST, tuple(facts)) if facts and less == -case.difference else None


def _told(act: Activity) -> str:
    """One activity in one line: kind, day, shares, cash."""
    shares = "" if act.quantity is None else f" {act.quantity:+f} {act.symbol or ''}".rstrip()
    cash = "" if not act.net_amount else f" {act.net_amount:+f} USD"
    return f"broker: {act.kind} on {act.day}{shares}{cash}"


# ---------------------------------------------------------------- positions: the company's acts
def _scaled(case: _Case) -> _Found:
    """A split that the broker or the feed tells of, and whose ratio gives the broker's number of shares."""
    acts = case.acts({"SPLIT"})
    for action in case.feed(ActionKind.SPLIT):
        assert action.ratio is not None  # a split has one
        before = case.ours if case.ours else Decimal(case.evidence.ledger.positions.get(action.symbol, 0))
        exact = Fraction(before) * action.ratio
        if before > 0 and abs(Fraction(case.theirs) - exact) < 1 and case.symbol == (action.other or action.symbol):
            return _split_cause(action.ratio), (
                f"feed ({action.source}): {_ratio(action.ratio)} on {action.ex_date}",
                f"{before} × {action.ratio} = {_plain(exact)}, the broker has {case.theirs}", *map(_told, acts),
            )  # fmt: skip
    total = sum((a.quantity for a in acts if a.quantity is not None), _ZERO)
    fits = any(a.quantity is None for a in acts) or abs(total - case.difference) < 1
    if acts and fits and case.ours > 0:
        return _split_cause(Fraction(case.theirs) / Fraction(case.ours)), (
            *map(_told, acts), "the action feed says nothing of it",
        )  # fmt: skip
    return None


def _ratio(ratio: Fraction) -> str:
    return f"split {ratio.numerator} for {ratio.denominator}"


def _plain(value: Fraction) -> str:
    return f"{float(value):g}"


def _split_cause(ratio: Fraction) -> Cause:
    return Cause.SPLIT if ratio > 1 else Cause.REVERSE_SPLIT


def _renamed(case: _Case) -> _Found:
    """One name went and another came: told by the feed, by NC activities, or by the asset id that both have."""
    e = case.evidence
    for action in case.feed(ActionKind.RENAME, ActionKind.SPLIT):
        if action.other is None or e.theirs(action.symbol) or not e.theirs(action.other):
            continue
        return Cause.RENAME, (
            f"feed ({action.source}): {action.symbol} is {action.other} since {action.ex_date}",
            f"the broker has {e.theirs(action.other)} {action.other}, none of {action.symbol}",
        )  # fmt: skip
    acts = case.acts({"NC"})
    if acts:
        return Cause.RENAME, tuple(map(_told, case.legs(acts)))
    pair = renamed_by_asset(e.ledger, e.positions)
    for old, new in pair.items():
        if case.symbol in (old, new):
            return Cause.RENAME, (f"{new} has the asset id that {old} had: {e.positions[new].asset_id}",)
    return None


def renamed_by_asset(ledger: Ledger, positions: Mapping[Symbol, Position]) -> dict[Symbol, Symbol]:
    """Old name -> new name of what we hold, where the broker's asset id says that it is the same share."""
    named = {p.asset_id: s for s, p in positions.items() if p.asset_id and s not in ledger.positions}
    return {
        old: named[known] for old in ledger.positions
        if old not in positions and (known := ledger.assets.get(old, "")) in named
    }  # fmt: skip


def _merged(case: _Case) -> _Found:
    """The acquired symbol went, or shares of the acquirer came; both legs are named."""
    for action in case.feed(ActionKind.MERGER):
        gone = action.symbol == case.symbol and case.theirs == 0 and case.ours != 0
        came = action.other == case.symbol and case.difference > 0
        if not gone and not came:
            continue
        facts = [f"feed ({action.source}): {action.symbol} is taken over on {action.ex_date}"]
        if action.other is not None:
            per = "" if action.ratio is None else f"{_plain(action.ratio)} {action.other} a share; "
            facts.append(f"stock leg: {per}the broker has {case.evidence.theirs(action.other)} {action.other}")
        if action.cash_per_share is not None:
            facts.append(f"cash leg: {action.cash_per_share} USD a share")
        return Cause.MERGER, (*facts, *map(_told, case.legs(case.acts(_MERGER_KINDS))))
    acts = case.acts(_MERGER_KINDS)
    return (Cause.MERGER, tuple(map(_told, case.legs(acts)))) if acts else None


def _spun_off(case: _Case) -> _Found:
    if case.difference <= 0:
        return None
    for action in case.feed(ActionKind.SPINOFF):
        if action.other == case.symbol:
            return Cause.SPINOFF, (f"feed ({action.source}): {action.symbol} spun it off on {action.ex_date}",
                                   *map(_told, case.acts({"SPIN"})))  # fmt: skip
    acts = case.acts({"SPIN"})
    return (Cause.SPINOFF, tuple(map(_told, case.legs(acts)))) if acts else None


def _delisted(case: _Case) -> _Found:
    """Gone, with an act of the company or of the exchange behind it, and nobody sold it."""
    if case.theirs != 0 or case.ours == 0:
        return None
    acts = case.legs(case.acts(_DELISTED_KINDS))
    for action in case.feed(ActionKind.DELISTING, ActionKind.OTHER):
        told = f"feed ({action.source}): {action.symbol} ended on {action.ex_date}"
        cash = (f"{action.cash_per_share} USD a share",) if action.cash_per_share else ()
        return Cause.DELISTING, (told, *cash, *_proceeds(acts))
    if acts:
        return Cause.DELISTING, _proceeds(acts)
    asset = case.evidence.assets.get(case.symbol)
    looked = case.symbol in case.evidence.assets
    if looked and (asset is None or not asset.active) and not _others(case):
        return Cause.DELISTING, ("the asset is no longer active, and nobody sold it", *_proceeds(acts))
    return None


def _proceeds(acts: Sequence[Activity]) -> tuple[str, ...]:
    paid = any(a.net_amount for a in acts)
    return (*map(_told, acts), *(() if paid else ("no proceeds seen: worthless until there are",)))


def _reinvested(case: _Case) -> _Found:
    """A fraction more than we bought, worth the dividend that was paid."""
    if case.difference <= 0 or case.ours <= 0:
        return None
    held = case.evidence.positions[case.symbol]
    for act in case.acts(_DIVIDEND_KINDS):
        bought = act.quantity is not None and abs(act.quantity - case.difference) < Decimal("0.0001")
        paid = abs(act.net_amount) if act.net_amount is not None else _ZERO
        prices = [held.average_price] + ([held.market_value / held.quantity] if held.market_value else [])
        worth = any(abs(case.difference * p - paid) <= _REINVEST_TOLERANCE * paid for p in prices)
        if bought or (paid > 0 and worth):
            return Cause.DIVIDEND_REINVEST, (_told(act), f"{case.difference:f} shares more, for {paid} USD")
    return None


def _transferred(case: _Case) -> _Found:
    acts = case.acts(_TRANSFER_KINDS)
    total = sum((a.quantity for a in acts if a.quantity is not None), _ZERO)
    return (Cause.TRANSFER, tuple(map(_told, acts))) if acts and abs(total - case.difference) < 1 else None


# ---------------------------------------------------------------- positions: other people's trades
def _others(case: _Case) -> list[tuple[Fill, Order | None]]:
    """Fills of this symbol that belong to no order of ours, with the order that made them."""
    return [
        (f, case.evidence.by_order_id.get(f.order_id))
        for f in foreign(case.evidence.ledger, case.evidence.fills, case.evidence.by_client_id)
        if f.symbol == case.symbol
    ]


def foreign(ledger: Ledger, fills: Iterable[Fill], copies: Mapping[str, Order | None]) -> list[Fill]:
    """Fills that belong to no order of ours, nor to a leg of one, and that no person has settled since."""
    known = {order.order_id for order in ledger.orders.values() if order.order_id}
    known |= {part.id for copy in copies.values() if copy is not None for part in (copy, *copy.legs)}
    return [f for f in fills if f.order_id not in known and not _settled(ledger, f)]


def _settled(ledger: Ledger, fill: Fill) -> bool:
    looked = [at for at in (ledger.synced_at, ledger.looked_at.get(fill.symbol)) if at is not None]
    return bool(looked) and fill.at <= max(looked)


def _foreign(case: _Case) -> _Found:
    """Fills of orders that the journal does not know explain the difference; whose they are says the rest."""
    others = _others(case)
    total = sum((f.quantity if f.side is Side.BUY else -f.quantity for f, _ in others), 0)
    if not others or total == 0 or abs(total - case.difference) >= 1:
        return None
    facts = tuple(fill_told(f, o) for f, o in others)
    return whose_fill([o for _, o in others], case.evidence.ledger), facts


def fill_told(fill: Fill, order: Order | None) -> str:
    by = "" if order is None else f" by {order.client_order_id}"
    return f"{fill.side} {fill.quantity} @ {fill.price} at {fill.at:%Y-%m-%d %H:%M}Z{by}"


def whose_fill(orders: Sequence[Order | None], ledger: Ledger) -> Cause:
    """Of fills that the journal does not know. Our kind of id: a second copy, or a journal that lost its end."""
    ids = [o.client_order_id for o in orders if o is not None and o.client_order_id.startswith(OURS)]
    if not ids:
        return Cause.MANUAL_TRADE
    twice = all(cid in ledger.orders or _same_decision(cid, ledger) for cid in ids)
    return Cause.DUPLICATE_ORDER if twice else Cause.STALE_RESTORE


# ---------------------------------------------------------------- positions: what it looks like
def _lagging(case: _Case) -> _Found:
    """The broker's own copies of our orders agree with us, and fills younger than its listing may lag explain it."""
    ledger, at = case.evidence.ledger, case.evidence.at
    booked = [o for o in ledger.recent_orders() if o.filled_quantity and _symbol_of(o, ledger) == case.symbol]
    fresh = [o for o in booked if o.filled_at is not None and timedelta(0) <= at - o.filled_at <= LAG]
    bought = sum(o.filled_quantity for o in fresh if o.intent.side is Side.BUY)
    sold = sum(o.filled_quantity for o in fresh if o.intent.side is Side.SELL)
    if not fresh or not -bought <= case.difference <= sold:
        return None
    copies = [case.evidence.by_client_id.get(o.client_order_id) for o in booked]
    if any(c is None or totals(c)[0] != o.filled_quantity for o, c in zip(booked, copies, strict=True)):
        return None
    age = min((at - o.filled_at).total_seconds() for o in fresh if o.filled_at is not None)
    return Cause.BROKER_LAG, (f"every order of ours agrees with the broker's copy; the last fill is {age:.0f} s old",)


def _looks_like_split(case: _Case) -> _Found:
    """No word of a split anywhere, yet the shares have a usual ratio and kept their cost."""
    held = case.evidence.positions.get(case.symbol)
    if held is None or case.ours <= 0 or case.theirs <= 0 or _others(case):
        return None
    ratio = Fraction(case.theirs) / Fraction(case.ours)
    usual = ratio in USUAL_RATIOS or 1 / ratio in USUAL_RATIOS
    if not usual or not _keeps_cost(case.evidence.ledger, case.symbol, held):
        return None
    return _split_cause(ratio), (
        f"{case.ours} became {case.theirs} at an unchanged cost, without a fill", "the action feed says nothing of it",
    )  # fmt: skip


def _keeps_cost(ledger: Ledger, symbol: Symbol, held: Position) -> bool:
    """Whether shares × average price at the broker is what our trades of the symbol cost."""
    trades = [t for t in ledger.open_trades() if t.symbol == symbol]
    cost = sum((t.entry_price * t.quantity for t in trades), _ZERO)
    return cost > 0 and abs(held.quantity * held.average_price - cost) <= _COST_TOLERANCE * cost


def _residue(case: _Case) -> _Found:
    if case.theirs != int(case.theirs) and abs(case.difference) < 1:
        return Cause.FRACTIONAL_RESIDUE, (f"{case.difference:+f} shares, which no whole-share order can make",)
    return None


_RULES: tuple[Callable[[_Case], _Found], ...] = (
    _reset, _unsettled, _own_fill, _scaled, _renamed, _merged, _spun_off, _reinvested, _transferred, _foreign, _bust,
    _delisted, _lagging, _looks_like_split, _residue,
)  # fmt: skip
