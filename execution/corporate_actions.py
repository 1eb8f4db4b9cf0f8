"""Corporate actions before exits: what is held is re-based when the broker's numbers and the action feed agree.

The pure part, `decide`, answers with records to write. Splits and renames re-base quantity, cost, stop and name once
the broker's own position shows them; large dividends lower cost and stop by their cash; a spin-off divides them when
its price factor is known. On the eve of an ex-date resting protection is eased to what is right on either side of it:
no broker is known to adjust it (alpaca-py issue 469), and the open comes before our first scan. Everything else, and
every disagreement, locks the symbol: nothing of it is bought, sold or protected anew until it is settled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from core import logs
from core.domain import ActionKind, CorporateAction, Position, Symbol
from core.errors import BrokerError, DataError, StateLocked
from core.market_calendar import NEW_YORK, MarketCalendar
from core.ports import ActionFeed
from execution.breaks import Cause
from execution.causes import renamed_by_asset
from execution.ledger import Ledger, Trade

if TYPE_CHECKING:
    from execution.desk import Desk

CHANGED = "UNKNOWN_ORDER_CHANGED"  # set by the desk when the broker itself changed an order of ours

PENDING = "UNKNOWN_ACTION_PENDING"
"""Lock of a symbol whose corporate action is told, and not seen at the broker as told."""
ASK_AGAIN_S = 600.0
"""A feed that failed, or knew nothing of a position that changed, is asked again after this long."""
_TRIES = 5
_HALF = Fraction(1, 2)
_ZERO = Decimal(0)
_CENT = Decimal("0.0001")


# ---------------------------------------------------------------- what is decided
@dataclass(frozen=True, slots=True, kw_only=True)
class Rebase:
    """One trade in new shares, prices and name; the body of `trade_rebased`."""

    trade: Trade  # as it was
    symbol: Symbol
    quantity: int
    entry_price: Decimal
    stop: Decimal | None
    basis: date
    cause: str
    evidence: tuple[str, ...] = ()

    def body(self) -> dict[str, Any]:
        before = {"symbol": str(self.trade.symbol), "quantity": self.trade.quantity,
                  "entry_price": str(self.trade.entry_price), "stop": _text(self.trade.stop)}  # fmt: skip
        return {
            "decision_id": self.trade.decision_id, "symbol": str(self.symbol), "quantity": self.quantity,
            "entry_price": str(self.entry_price), "stop": _text(self.stop), "basis": self.basis.isoformat(),
            "cause": self.cause, "evidence": list(self.evidence), "before": before,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Ease:
    """Protection for the night before an ex-date; the body of `protection_eased`."""

    trade: Trade
    quantity: int
    stop: Decimal
    keeps_target: bool
    ex_date: date
    evidence: tuple[str, ...] = ()

    def body(self) -> dict[str, Any]:
        return {
            "decision_id": self.trade.decision_id, "symbol": str(self.trade.symbol), "quantity": self.quantity,
            "stop": str(self.stop), "keeps_target": self.keeps_target, "ex_date": self.ex_date.isoformat(),
            "evidence": list(self.evidence),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decided:
    """What to write, and which symbols to lock, each with its facts."""

    rebases: tuple[Rebase, ...] = ()
    eases: tuple[Ease, ...] = ()
    locks: Mapping[Symbol, tuple[str, ...]] = field(default_factory=dict)

    def joined(self, other: Decided) -> Decided:
        return Decided(self.rebases + other.rebases, self.eases + other.eases, {**self.locks, **other.locks})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What is known of one held symbol."""

    symbol: Symbol
    trades: tuple[Trade, ...]
    untracked: int  # shares of ours without a trade
    positions: Mapping[Symbol, Position]
    actions: tuple[CorporateAction, ...]  # of this symbol, in force by `day`
    day: date
    is_open: bool  # the session of `day` has begun
    special: Fraction

    def due(self, trade: Trade) -> list[CorporateAction]:
        return [a for a in self.actions if a.ex_date > trade.basis_day]

    def theirs(self, symbol: Symbol) -> Decimal:
        held = self.positions.get(symbol)
        return _ZERO if held is None else held.quantity


# ---------------------------------------------------------------- the decision
def decide(
    ledger: Ledger, positions: Mapping[Symbol, Position], actions: Sequence[CorporateAction], *, day: date,
    is_open: bool, special: Fraction,
) -> Decided:  # fmt: skip
    """Pure. `day`: the session that is running, or else the next one; `special`: the part of the price from which on a
    dividend moves the stop."""
    decided = Decided()
    by_asset = renamed_by_asset(ledger, positions)
    for symbol in sorted({trade.symbol for trade in ledger.open_trades()}):
        trades = tuple(t for t in ledger.open_trades() if t.symbol == symbol)
        mine = [a for a in actions if a.symbol == symbol and a.ex_date <= day]
        if symbol in by_asset and not any(a.other == by_asset[symbol] for a in mine):
            mine.append(CorporateAction(kind=ActionKind.RENAME, symbol=symbol, ex_date=day, other=by_asset[symbol],
                                        source="asset id"))  # fmt: skip
        facts = _Facts(
            symbol=symbol, trades=trades, positions=positions, day=day, is_open=is_open, special=special,
            untracked=ledger.positions.get(symbol, 0) - sum(t.quantity for t in trades),
            actions=tuple(sorted(mine, key=lambda a: (a.ex_date, a.kind))),
        )  # fmt: skip
        if any(facts.due(trade) for trade in trades):
            decided = decided.joined(_of_symbol(facts))
    return decided


def _of_symbol(facts: _Facts) -> Decided:
    due = tuple({a: None for trade in facts.trades for a in facts.due(trade)})
    ending = [a for a in due if a.kind in (ActionKind.MERGER, ActionKind.DELISTING, ActionKind.OTHER)]
    if ending:
        return Decided(locks={facts.symbol: tuple(_told(a) for a in ending)}) if facts.is_open else Decided()
    against = _contradiction(due)
    if against:
        return Decided(locks={facts.symbol: against})
    shares = [a for a in due if a.kind in (ActionKind.SPLIT, ActionKind.RENAME)]
    priced = [a for a in due if _moves_the_stop(a, facts)]
    unknown = [a for a in due if a.kind is ActionKind.SPINOFF and a.price_factor is None and a.other is not None]
    too_much = [a for a in priced if _implausible(a, facts)]
    if too_much:
        return Decided(locks={facts.symbol: tuple(f"{_told(a)}: not believed by one source" for a in too_much)})
    if not shares:
        return _rebased(facts, priced, facts.symbol, None).joined(_unknown_value(facts, unknown))
    name = next((a.other for a in reversed(shares) if a.other is not None), facts.symbol)
    counted = _agreed(facts, shares, name)
    if counted is not None:
        return _rebased(facts, [*shares, *priced], name, counted)
    first = min(a.ex_date for a in shares)
    before = _rebased(facts, [a for a in priced if a.ex_date < first], facts.symbol, None)
    return before.joined(_not_seen(facts, shares, name))


def _contradiction(due: Sequence[CorporateAction]) -> tuple[str, ...]:
    """Two splits of one day with different ratios, or two new names of one day."""
    for kind in (ActionKind.SPLIT, ActionKind.RENAME):
        for action in due:
            others = [b for b in due if b.kind is kind is action.kind and b.ex_date == action.ex_date]
            if len({(b.ratio, b.other) for b in others}) > 1:
                return ("the sources contradict each other", *map(_told, others))
    return ()


def _told(action: CorporateAction) -> str:
    """One action in one line, for people."""
    parts = [f"{action.kind} of {action.symbol} on {action.ex_date}"]
    if action.ratio is not None:
        parts.append(f"{action.ratio.numerator} for {action.ratio.denominator}")
    if action.price_factor is not None:
        parts.append(f"price factor {float(action.price_factor):g}")
    if action.other is not None:
        parts.append(f"to {action.other}")
    if action.cash_per_share is not None:
        parts.append(f"{action.cash_per_share} USD a share")
    return f"feed ({action.source}): {', '.join(parts)}"


# ---------------------------------------------------------------- shares and names
def _ratio_for(trade: Trade, shares: Sequence[CorporateAction]) -> Fraction:
    ratio = Fraction(1)
    for action in shares:
        if action.ratio is not None and action.kind is ActionKind.SPLIT and action.ex_date > trade.basis_day:
            ratio *= action.ratio
    return ratio


def _exact(facts: _Facts, shares: Sequence[CorporateAction]) -> Fraction:
    return sum((t.quantity * _ratio_for(t, shares) for t in facts.trades), Fraction(0))


def _agreed(facts: _Facts, shares: Sequence[CorporateAction], name: Symbol) -> int | None:
    """The whole shares of our trades at the broker, when these are what the actions make of ours; else None.

    A fraction may have been kept, paid out in cash, or rounded up to a share.
    """
    if facts.untracked:
        return None
    if name != facts.symbol and facts.theirs(facts.symbol) != 0:
        return None  # the old name is still there
    exact, theirs = _exact(facts, shares), Fraction(facts.theirs(name))
    whole, ours = exact.numerator // exact.denominator, sum(t.quantity for t in facts.trades)
    if theirs == ours != exact:  # nothing seen yet, or too little to be seen: only the lower stop may be believed
        return ours if theirs == whole and exact > ours and facts.is_open else None
    kept = abs(theirs - exact) < Fraction(1, 1_000_000)
    rounded_up = whole < exact and theirs == whole + 1
    return int(theirs) if kept or theirs == whole or rounded_up else None


def _not_seen(facts: _Facts, shares: Sequence[CorporateAction], name: Symbol) -> Decided:
    """Told, and not at the broker yet: before the open protection is eased, afterwards the symbol is locked."""
    ours = sum(t.quantity for t in facts.trades) + facts.untracked
    told = tuple(_told(a) for a in shares)
    seen = f"the broker has {facts.theirs(name)} {name}, {float(_exact(facts, shares)):g} expected"
    scaled = [a for a in shares if a.kind is ActionKind.SPLIT]
    if facts.theirs(facts.symbol) != ours or (facts.is_open and scaled) or facts.untracked:
        return Decided(locks={facts.symbol: (*told, seen)})
    eases = [ease for t in facts.trades if (ease := _eased(t, _ratio_for(t, scaled), facts.day, told)) is not None]
    return Decided(eases=tuple(eases))


def _eased(trade: Trade, ratio: Fraction, ex_date: date, told: tuple[str, ...]) -> Ease | None:
    """The lower stop of the two, and the fewer shares; a target that the new price would hit at once is left out."""
    if trade.stop is None or ratio == 1:
        return None
    ease = Ease(
        trade=trade, quantity=min(trade.quantity, int(trade.quantity * ratio)), keeps_target=ratio > 1,
        stop=min(trade.stop, _over(trade.stop, ratio)), ex_date=ex_date, evidence=told,
    )  # fmt: skip
    known = trade.eased
    same = known is not None and (known.quantity, known.stop, known.ex_date) == (ease.quantity, ease.stop, ex_date)
    return None if same else ease


def _unknown_value(facts: _Facts, spun: Sequence[CorporateAction]) -> Decided:
    """A spin-off whose worth nobody tells: half the stop guards against a fall, and a person sets the new one."""
    if not spun:
        return Decided()
    told = tuple(f"{_told(a)}; its worth is not known" for a in spun)
    last = max(a.ex_date for a in spun)
    eases = [ease for t in facts.trades if (ease := _eased(t, Fraction(2), last, told)) is not None]
    cure = f"set the stop: python scripts/reconcile_alpaca.py --adopt {facts.symbol} --stop PRICE"
    return Decided(eases=tuple(eases), locks={facts.symbol: (*told, cure)} if facts.is_open else {})


# ---------------------------------------------------------------- prices
def _price(facts: _Facts) -> Decimal | None:
    held = facts.positions.get(facts.symbol)
    if held is None or held.market_value is None or held.quantity == 0:
        return None
    return held.market_value / held.quantity


def _moves_the_stop(action: CorporateAction, facts: _Facts) -> bool:
    if action.kind is ActionKind.SPINOFF:
        return action.price_factor is not None
    if action.kind is not ActionKind.DIVIDEND:
        return False
    assert action.cash_per_share is not None  # a dividend has it
    price = _price(facts) or min(t.entry_price for t in facts.trades)
    return Fraction(action.cash_per_share) >= facts.special * Fraction(price)


def _implausible(action: CorporateAction, facts: _Facts) -> bool:
    """Half the price and more is believed only from two sources; a stop never falls to nothing."""
    stops = [t.stop for t in facts.trades if t.stop is not None]
    if action.kind is ActionKind.SPINOFF:
        assert action.price_factor is not None  # the caller chose those that have it
        return not Fraction(1) <= action.price_factor <= 4
    cash = action.cash_per_share or _ZERO
    if any(cash >= stop for stop in stops):
        return True
    price = _price(facts) or min(t.entry_price for t in facts.trades)
    return Fraction(cash) >= _HALF * Fraction(price) and "+" not in action.source


def _rebased(facts: _Facts, chosen: Sequence[CorporateAction], name: Symbol, counted: int | None) -> Decided:
    """The trades after these actions, in the order of their ex-dates. `counted`: the broker's whole shares of them."""
    trades = [t for t in facts.trades if any(a in chosen for a in facts.due(t))]
    if not trades:
        return Decided()
    untouched = sum(t.quantity for t in facts.trades if t not in trades)
    ratios = [_ratio_for(t, chosen) for t in trades]
    exact = [t.quantity * ratio for t, ratio in zip(trades, ratios, strict=True)]
    total = sum(t.quantity for t in trades) if counted is None else counted - untouched
    quantities = shared_out(exact, total)
    rebases = [
        _in_new_terms(t, [a for a in chosen if a in facts.due(t)], name, quantity, facts)
        for t, quantity in zip(trades, quantities, strict=True)
    ]
    return Decided(rebases=tuple(rebases))


def shared_out(exact: Sequence[Fraction], total: int) -> list[int]:
    """Whole shares for each, `total` together: the whole parts, then one more to the largest fractions."""
    whole = [part.numerator // part.denominator for part in exact]
    by_fraction = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))
    left = total - sum(whole)
    for place in by_fraction * (1 + abs(left)):
        if left == 0:
            break
        step = 1 if left > 0 else -1
        if whole[place] + step >= 0:
            whole[place] += step
            left -= step
    return whole


def _in_new_terms(
    trade: Trade, actions: Sequence[CorporateAction], name: Symbol, quantity: int, facts: _Facts
) -> Rebase:
    entry, stop = trade.entry_price, trade.stop
    for action in actions:
        if action.kind is ActionKind.DIVIDEND and action.cash_per_share is not None:
            entry = max(entry - action.cash_per_share, _CENT)
            stop = None if stop is None else stop - action.cash_per_share
            continue
        factor = action.price_factor if action.kind is ActionKind.SPINOFF else action.ratio
        if factor is not None and action.kind in (ActionKind.SPLIT, ActionKind.SPINOFF):
            entry, stop = _over(entry, factor), None if stop is None else _over(stop, factor)
    told = tuple(_told(a) for a in actions)
    seen = f"broker: {facts.theirs(name)} {name}, trade {trade.quantity} -> {quantity}"
    return Rebase(
        trade=trade, symbol=name, quantity=quantity, entry_price=entry, stop=stop, evidence=(*told, seen),
        basis=max(a.ex_date for a in actions), cause=_cause(actions),
    )  # fmt: skip


def _cause(actions: Sequence[CorporateAction]) -> str:
    kinds = dict.fromkeys(
        Cause.REVERSE_SPLIT.value if a.kind is ActionKind.SPLIT and a.ratio is not None and a.ratio < 1
        else {ActionKind.SPLIT: "SPLIT", ActionKind.RENAME: "RENAME", ActionKind.SPINOFF: "SPINOFF"}.get(
            a.kind, "SPECIAL_DIVIDEND")
        for a in actions
    )  # fmt: skip
    return "+".join(kinds)


def _over(price: Decimal, factor: Fraction) -> Decimal:
    return price * factor.denominator / factor.numerator


def _text(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


# ---------------------------------------------------------------- by hand
def rebased_by_hand(
    ledger: Ledger, positions: Mapping[Symbol, Position], causes: Mapping[Symbol, Cause],
    actions: Sequence[CorporateAction], today: date,
) -> tuple[Mapping[str, Any], ...]:  # fmt: skip
    """For a sync that a person has asked for: trades that go along with an explained split or rename."""
    rows: list[Mapping[str, Any]] = []
    by_asset = renamed_by_asset(ledger, positions)
    for symbol, cause in sorted(causes.items()):
        if cause not in (Cause.SPLIT, Cause.REVERSE_SPLIT, Cause.RENAME):
            continue
        mine = [a for a in actions if a.symbol == symbol and a.ex_date <= today]
        told = [a.other for a in mine if a.other is not None and a.kind in (ActionKind.RENAME, ActionKind.SPLIT)]
        name = by_asset.get(symbol) or next((n for n in told if n in positions), symbol)
        trades = [t for t in ledger.open_trades() if t.symbol == symbol]
        held = positions.get(name)
        if trades and held is not None and held.quantity > 0:
            rows += _by_hand(trades, name, held, _known_ratio(trades, held, mine), cause, today)
    return tuple(rows)


def _known_ratio(trades: Sequence[Trade], held: Position, actions: Sequence[CorporateAction]) -> Fraction | None:
    """New shares per old: told by the feed, or else read off the broker's own cost; it must give the shares held."""
    ours = sum(t.quantity for t in trades)
    told = [a.ratio for a in actions if a.kind is ActionKind.SPLIT and a.ratio is not None]
    if not told and held.average_price > 0:
        cost = sum((t.entry_price * t.quantity for t in trades), _ZERO) / ours
        told = [Fraction(cost / held.average_price).limit_denominator(100)]
    return next((r for r in told if r > 0 and abs(Fraction(held.quantity) - ours * r) < 1), None)


def _by_hand(
    trades: Sequence[Trade], name: Symbol, held: Position, ratio: Fraction | None, cause: Cause, today: date
) -> list[Mapping[str, Any]]:
    """Without a ratio that fits, what a share cost is known and where its stop belongs is not: a person sets it."""
    whole, ours = int(held.quantity), sum(t.quantity for t in trades)
    shares = ratio if ratio is not None else Fraction(whole, ours)
    return [
        Rebase(
            trade=trade, symbol=name, quantity=quantity, entry_price=_over(trade.entry_price, shares), basis=today,
            stop=None if trade.stop is None or ratio is None else _over(trade.stop, ratio), cause=str(cause),
            evidence=("a person asked for the sync",) if ratio is not None else (
                "a person asked for the sync", f"no ratio fits: set the stop with --adopt {name} --stop PRICE"),
        ).body()
        for trade, quantity in zip(trades, shared_out([t.quantity * shares for t in trades], whole), strict=True)
    ]  # fmt: skip


# ---------------------------------------------------------------- acting
class ActionCheck:
    """Asks the feed once a session, and writes what was decided. One per process."""

    def __init__(self, desk: Desk, feed: ActionFeed, calendar: MarketCalendar, *, special_fraction: float) -> None:
        self._desk, self.feed, self._calendar = desk, feed, calendar
        self._special = Fraction(str(special_fraction))
        self._answer: tuple[date, frozenset[Symbol], tuple[CorporateAction, ...]] | None = None
        self._ask_after = self._failed_until = -ASK_AGAIN_S

    def apply(self) -> Decided:
        """Re-base, ease and lock before anything is sold or protected.

        Raises BrokerDown, BrokerRejected when positions cannot be read, StateLocked when the journal does not stand
        still. A feed that cannot be read is told, and what the broker shows is then left to reconcile.
        """
        for _ in range(_TRIES):
            done = self._apply()
            if done is not None:
                return done
        raise StateLocked("other scripts write so often that a corporate action cannot be booked")

    def _apply(self) -> Decided | None:
        """None when the journal has moved on meanwhile."""
        desk = self._desk
        symbols = frozenset(trade.symbol for trade in desk.ledger().open_trades())
        if not symbols:
            return self._write(Decided(), desk.ledger())
        positions = desk.broker.positions()
        self._know_assets(desk.ledger(), positions)
        ledger = desk.ledger()
        day, is_open = self._day(desk.clock.now())
        changed = any(s not in positions or positions[s].quantity != ledger.positions.get(s, 0) for s in symbols)
        actions = self._actions(symbols, ledger, day, fresh=changed)
        if actions is None:
            return Decided()
        decided = decide(ledger, positions, actions, day=day, is_open=is_open, special=self._special)
        return self._write(decided, ledger)

    def _day(self, now: datetime) -> tuple[date, bool]:
        """The session that is running or comes next, and whether it has begun."""
        today = self._calendar.session_at(now)
        if today is not None and now < self._calendar.closes_at(today):
            return today, now >= self._calendar.opens_at(today)
        return self._calendar.next_session(now.astimezone(NEW_YORK).date()), False

    def _know_assets(self, ledger: Ledger, positions: Mapping[Symbol, Position]) -> None:
        """Remember the broker's id of what is held: it outlives a new name."""
        for symbol in sorted(ledger.positions):
            held = positions.get(symbol)
            if held is not None and held.asset_id and ledger.assets.get(symbol) != held.asset_id:
                self._desk.journal.append("asset_known", {"symbol": str(symbol), "asset_id": held.asset_id})

    def _actions(
        self, symbols: frozenset[Symbol], ledger: Ledger, day: date, *, fresh: bool
    ) -> tuple[CorporateAction, ...] | None:
        known = self._answer if self._answer is not None and self._answer[0] == day else None
        now = self._desk.clock.monotonic()
        if known is not None and symbols <= known[1] and not (fresh and now >= self._ask_after):
            return known[2]
        if now < self._failed_until:
            return None if known is None else known[2]
        since = min((t.basis_day for t in ledger.open_trades()), default=day) - timedelta(days=1)
        self._ask_after = now + ASK_AGAIN_S
        try:
            found = tuple(self.feed.actions(symbols, since))
        except (DataError, BrokerError) as error:
            self._failed_until = now + ASK_AGAIN_S
            logs.error_event("actions_unknown", code="ACTIONS_UNKNOWN", cause=error.code, detail=str(error))
            logs.count("actions_unknown", code=error.code)
            return None if known is None else known[2]
        self._answer = (day, symbols, found)
        return found

    def _write(self, decided: Decided, ledger: Ledger) -> Decided | None:
        """All of it, or nothing: what was decided on an older journal is decided again."""
        records = _records(decided, ledger)
        if records and not self._desk.record_if_unchanged(ledger.last_seq, records):
            return None
        for kind, body in records:
            tell = logs.error_event if kind == "symbol_locked" else logs.event
            tell(kind, **{k: v for k, v in body.items() if k not in ("evidence", "before")})
            logs.count(kind, code=str(body.get("code", body.get("cause", ""))))
        return decided


def _records(decided: Decided, ledger: Ledger) -> list[tuple[str, Mapping[str, Any]]]:
    records: list[tuple[str, Mapping[str, Any]]] = [("trade_rebased", r.body()) for r in decided.rebases]
    records += [("protection_eased", e.body()) for e in decided.eases]
    for symbol, facts in sorted(decided.locks.items()):
        if ledger.locked.get(symbol) != PENDING:
            body = {"symbol": str(symbol), "code": PENDING, "detail": "; ".join(facts), "evidence": list(facts)}
            records.append(("symbol_locked", body))
    booked = {r.trade.symbol for r in decided.rebases}
    for symbol, code in sorted(ledger.locked.items()):
        explained = code == PENDING or (code == CHANGED and symbol in booked)
        if explained and symbol not in decided.locks:
            why = "ACTION_BOOKED" if symbol in booked else "ACTION_OVER"
            records.append(("symbol_unlocked", {"symbol": str(symbol), "code": why}))
    return records
