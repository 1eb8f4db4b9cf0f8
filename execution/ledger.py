"""What we did, folded from the journal: orders, trades, budgets, locks. Pure; there are no counters anywhere else.

The fold is forgiving of repeats (quantities are cumulative, ends are final) so that two scripts that book the same fill
agree, and strict about meaning: an intent without an end keeps its full reservation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from core.domain import ExitReason, OrderIntent, OrderKind, Purpose, Side, Symbol, Tif
from core.errors import StateCorrupt

if TYPE_CHECKING:
    from pathlib import Path

    from core.journal import Journal, Record

_NEW_YORK = ZoneInfo("America/New_York")
_ZERO = Decimal(0)


def new_york_day(at: datetime) -> date:
    """The budget day of an instant."""
    return at.astimezone(_NEW_YORK).date()


def intent_body(intent: OrderIntent) -> dict[str, Any]:
    """The journal body of `order_intended`: everything `intent_from` needs to build the same intent again."""
    return {
        "client_order_id": intent.client_order_id,
        "decision_id": intent.decision_id,
        "symbol": str(intent.symbol),
        "side": str(intent.side),
        "quantity": intent.quantity,
        "purpose": str(intent.purpose),
        "kind": str(intent.kind),
        "tif": str(intent.tif),
        "decided_at": intent.decided_at.isoformat(),
        "strategy": intent.strategy,
        "signal_session": intent.signal_session.isoformat(),
        "attempt": intent.attempt,
        "limit_price": None if intent.limit_price is None else str(intent.limit_price),
        "stop_price": None if intent.stop_price is None else str(intent.stop_price),
        "target_r": intent.target_r,
        "time_stop_bars": intent.time_stop_bars,
        "reason": intent.reason,
    }


def _decimal(value: Any) -> Decimal | None:
    return None if value is None else Decimal(str(value))


def intent_from(body: Mapping[str, Any]) -> OrderIntent:
    return OrderIntent(
        decision_id=body["decision_id"],
        symbol=Symbol(body["symbol"]),
        side=Side(body["side"]),
        quantity=int(body["quantity"]),
        purpose=Purpose(body["purpose"]),
        kind=OrderKind(body["kind"]),
        tif=Tif(body["tif"]),
        decided_at=datetime.fromisoformat(body["decided_at"]).astimezone(UTC),
        strategy=body["strategy"],
        signal_session=date.fromisoformat(body["signal_session"]),
        attempt=int(body["attempt"]),
        limit_price=_decimal(body.get("limit_price")),
        stop_price=_decimal(body.get("stop_price")),
        target_r=body.get("target_r"),
        time_stop_bars=body.get("time_stop_bars"),
        reason=body.get("reason", ""),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerOrder:
    """One client order id. `end` is None while anything may still happen to it."""

    intent: OrderIntent
    intended_at: datetime
    acknowledged: bool = False
    unknown: str | None = None  # reason code while the outcome is not known
    order_id: str | None = None  # the broker's
    filled_quantity: int = 0
    filled_price: Decimal | None = None  # average, USD per share
    filled_at: datetime | None = None
    end: str | None = None  # "closed" | "rejected" | "not_sent"
    status: str = ""  # the broker's last word, or our code

    @property
    def client_order_id(self) -> str:
        return self.intent.client_order_id

    @property
    def working(self) -> bool:
        return self.end is None

    @property
    def unsettled(self) -> bool:
        """Intended, and we do not know whether the broker has it."""
        return self.end is None and (not self.acknowledged or self.unknown is not None)

    @property
    def reserved_usd(self) -> Decimal:
        """What an entry without an end may still cost."""
        if not self.working or self.intent.purpose is not Purpose.ENTRY or self.intent.limit_price is None:
            return _ZERO
        return self.intent.limit_price * max(0, self.intent.quantity - self.filled_quantity)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitFill:
    client_order_id: str
    purpose: Purpose | None  # None: a positions sync
    quantity: int
    price: Decimal | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """One entry decision that filled, and everything that has left it again."""

    decision_id: str
    symbol: Symbol
    strategy: str
    signal_session: date
    session: date  # New York day of the entry fill
    opened_at: datetime
    entry_quantity: int
    entry_price: Decimal  # average, USD per share
    stop: Decimal | None
    target_r: float | None
    time_stop_bars: int | None
    exits: tuple[ExitFill, ...] = ()
    basis: date | None = None  # the day whose shares and prices these are, when not the day of the entry

    @property
    def basis_day(self) -> date:
        """Corporate actions up to this day are in the numbers already."""
        return self.session if self.basis is None else self.basis

    @property
    def quantity(self) -> int:
        """Shares still held."""
        return self.entry_quantity - sum(fill.quantity for fill in self.exits)

    @property
    def is_open(self) -> bool:
        return self.quantity > 0

    @property
    def state(self) -> str:
        return "open" if self.is_open else "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The fold's result. Budget days are New York dates."""

    orders: Mapping[str, LedgerOrder] = field(default_factory=lambda: MappingProxyType({}))  # by client order id
    trades: Mapping[str, Trade] = field(default_factory=lambda: MappingProxyType({}))  # by decision id
    positions: Mapping[Symbol, int] = field(default_factory=lambda: MappingProxyType({}))  # non-zero only
    locked: Mapping[Symbol, str] = field(default_factory=lambda: MappingProxyType({}))  # symbol -> reason code
    account: Mapping[str, str] | None = None  # the broker account this journal belongs to: id, number, mode
    announced: frozenset[str] = frozenset()  # decision ids of trades whose opening or, with a `!`, closing was told
    last_seq: int = -1

    @classmethod
    def from_journal(cls, records: Iterable[Record]) -> Ledger:
        fold = Fold()
        for record in records:
            fold.add(record)
        return fold.ledger()

    def open_trades(self) -> tuple[Trade, ...]:
        return tuple(trade for trade in self.trades.values() if trade.is_open)

    def unsettled(self) -> tuple[LedgerOrder, ...]:
        return tuple(order for order in self.orders.values() if order.unsettled)

    def working(self) -> tuple[LedgerOrder, ...]:
        return tuple(order for order in self.orders.values() if order.working)

    def filled_usd(self, day: date) -> Decimal:
        """Entry notional filled by orders intended on this New York day."""
        return sum((_entry_usd(o) for o in self.orders.values() if new_york_day(o.intended_at) == day), _ZERO)

    def reserved_usd(self) -> Decimal:
        """Every entry without an end, of any day: yesterday's unknown order may fill today."""
        return sum((order.reserved_usd for order in self.orders.values()), _ZERO)

    def spent_usd(self, day: date) -> Decimal:
        return self.filled_usd(day) + self.reserved_usd()

    def pending(self) -> dict[Symbol, Decimal]:
        """USD reserved per symbol by entries without an end."""
        result: dict[Symbol, Decimal] = {}
        for order in self.orders.values():
            if order.working and order.intent.purpose is Purpose.ENTRY:
                symbol = order.intent.symbol
                result[symbol] = result.get(symbol, _ZERO) + order.reserved_usd
        return result

    def known_client_ids(self) -> frozenset[str]:
        """Ids that must not be sent again. One proved not sent may: same decision, same id."""
        return frozenset(cid for cid, order in self.orders.items() if order.end != "not_sent")

    def next_attempt(self, decision_id: str, side: Side, purpose: Purpose) -> int:
        """One more than the highest attempt that may have reached the broker; one proved not sent is used again."""
        used = [
            order.intent.attempt
            for order in self.orders.values()
            if order.intent.decision_id == decision_id
            and order.intent.side is side
            and order.intent.purpose is purpose
            and order.end != "not_sent"
        ]
        return max(used, default=0) + 1

    def protective(self, decision_id: str) -> tuple[LedgerOrder, ...]:
        """Protection of a trade that has no end yet."""
        return tuple(
            order
            for order in self.orders.values()
            if order.working and order.intent.purpose is Purpose.PROTECT and order.intent.decision_id == decision_id
        )

    def exit_reason(self, trade: Trade) -> ExitReason:
        """The reason of the last sell: what its intent said, or stop or target by price for protection."""
        if trade.is_open or not trade.exits:
            return ExitReason.OPEN
        last = trade.exits[-1]
        order = self.orders.get(last.client_order_id)
        if last.purpose is Purpose.PROTECT:
            above = last.price is not None and last.price > trade.entry_price
            return ExitReason.TARGET if above and trade.target_r is not None else ExitReason.STOP
        if order is not None and order.intent.reason in set(ExitReason):
            return ExitReason(order.intent.reason)
        return ExitReason.MANUAL

    def sent_at(self, since: datetime) -> tuple[datetime, ...]:
        return tuple(order.intended_at for order in self.orders.values() if order.intended_at > since)


def _entry_usd(order: LedgerOrder) -> Decimal:
    if order.intent.purpose is not Purpose.ENTRY or order.filled_quantity == 0:
        return _ZERO
    price = order.filled_price if order.filled_price is not None else order.intent.limit_price
    return _ZERO if price is None else price * order.filled_quantity


class Fold:
    """Mutable state while records are read; `add` may go on after `ledger()`, so a reader can follow the journal."""

    def __init__(self) -> None:
        self._orders: dict[str, LedgerOrder] = {}
        self._trades: dict[str, Trade] = {}
        self._positions: dict[Symbol, int] = {}
        self._locked: dict[Symbol, str] = {}
        self._account: Mapping[str, str] | None = None
        self._announced: set[str] = set()
        self._seq = -1

    def add(self, record: Record | _Line) -> None:
        """Raises StateCorrupt for a record of a known kind that lacks what its kind promises."""
        handler = _HANDLERS.get(record.kind)
        if handler is not None:
            try:
                handler(self, record.body, record.at)
            except (KeyError, TypeError, ValueError, ArithmeticError) as error:
                raise StateCorrupt(f"journal record {record.seq} ({record.kind}) cannot be read: {error!r}") from error
        self._seq = record.seq

    def ledger(self) -> Ledger:
        locked = dict(self._locked)
        for order in self._orders.values():
            if order.unsettled:  # derived, so that a crash between two appends cannot leave the symbol free
                locked[order.intent.symbol] = order.unknown or "UNKNOWN_ORDER"
        return Ledger(
            orders=MappingProxyType(dict(self._orders)),
            trades=MappingProxyType(dict(self._trades)),
            positions=MappingProxyType({s: q for s, q in self._positions.items() if q}),
            locked=MappingProxyType(locked),
            account=self._account,
            announced=frozenset(self._announced),
            last_seq=self._seq,
        )

    def bound(self, body: Mapping[str, Any], at: datetime) -> None:
        self._account = {name: str(body[name]) for name in ("id", "number", "mode")}

    def opened_told(self, body: Mapping[str, Any], at: datetime) -> None:
        self._announced.add(str(body["decision_id"]))

    def closed_told(self, body: Mapping[str, Any], at: datetime) -> None:
        self._announced.add(f"{body['decision_id']}!")

    def _change(self, body: Mapping[str, Any], **changes: Any) -> None:
        cid = body["client_order_id"]
        order = self._orders.get(cid)
        if order is None:
            raise ValueError(f"{cid} was never intended")
        self._orders[cid] = replace(order, **changes)

    def intended(self, body: Mapping[str, Any], at: datetime) -> None:
        intent = intent_from(body)
        before = self._orders.get(intent.client_order_id)
        if before is None or before.end == "not_sent":
            self._orders[intent.client_order_id] = LedgerOrder(intent=intent, intended_at=at)

    def acknowledged(self, body: Mapping[str, Any], at: datetime) -> None:
        changes = {"acknowledged": True, "unknown": None, "order_id": body.get("order_id")}
        self._change(body, **changes, status=str(body.get("status", "")))

    def became_unknown(self, body: Mapping[str, Any], at: datetime) -> None:
        code = str(body.get("code", ""))
        self._change(body, unknown=code if code.startswith("UNKNOWN") else f"UNKNOWN_{code or 'ORDER'}")

    def rejected(self, body: Mapping[str, Any], at: datetime) -> None:
        self._change(body, end="rejected", unknown=None, status=str(body.get("code", "")))

    def not_sent(self, body: Mapping[str, Any], at: datetime) -> None:
        self._change(body, end="not_sent", unknown=None, status=str(body.get("code", "")))

    def filled(self, body: Mapping[str, Any], at: datetime) -> None:
        order = self._orders[body["client_order_id"]]
        more = int(body["quantity"]) - order.filled_quantity
        if more <= 0:
            return  # a repeat, or a count that went down: the maximum stays
        average = _decimal(body.get("price"))
        when = datetime.fromisoformat(body["at"]).astimezone(UTC) if body.get("at") else at
        price = _marginal(order, int(body["quantity"]), average, more)
        self._change(body, filled_quantity=int(body["quantity"]), filled_price=average, filled_at=when)
        intent = order.intent
        sign = 1 if intent.side is Side.BUY else -1
        self._positions[intent.symbol] = self._positions.get(intent.symbol, 0) + sign * more
        if intent.purpose is Purpose.ENTRY:
            self._enter(intent, int(body["quantity"]), average, when)
        else:
            self._leave(intent, more, price, when)

    def _enter(self, intent: OrderIntent, cumulative: int, average: Decimal | None, when: datetime) -> None:
        price = average if average is not None else intent.limit_price
        if price is None:
            raise ValueError(f"{intent.client_order_id}: an entry fill without a price")
        others = [
            o for cid, o in self._orders.items()
            if o.intent.decision_id == intent.decision_id and o.intent.purpose is Purpose.ENTRY
            and cid != intent.client_order_id and o.filled_quantity > 0
        ]  # fmt: skip
        total = cumulative + sum(o.filled_quantity for o in others)
        cost = price * cumulative + sum((_entry_usd(o) for o in others), _ZERO)
        before = self._trades.get(intent.decision_id)
        if before is not None:
            self._trades[intent.decision_id] = replace(before, entry_quantity=total, entry_price=cost / total)
            return
        self._trades[intent.decision_id] = Trade(
            decision_id=intent.decision_id,
            symbol=intent.symbol,
            strategy=intent.strategy,
            signal_session=intent.signal_session,
            session=new_york_day(when),
            opened_at=when,
            entry_quantity=total,
            entry_price=cost / total,
            stop=intent.stop_price,
            target_r=intent.target_r,
            time_stop_bars=intent.time_stop_bars,
        )

    def _leave(self, intent: OrderIntent, quantity: int, price: Decimal | None, when: datetime) -> None:
        """Take shares from the trade the order belongs to, then from the symbol's oldest."""
        own = [t for t in self._trades.values() if t.decision_id == intent.decision_id]
        rest = [t for t in self._trades.values() if t.symbol == intent.symbol and t.decision_id != intent.decision_id]
        self._take((*own, *rest), quantity, ExitFill(
            client_order_id=intent.client_order_id, purpose=intent.purpose, quantity=quantity, price=price, at=when
        ))  # fmt: skip

    def _take(self, trades: Sequence[Trade], quantity: int, fill: ExitFill) -> None:
        for trade in trades:
            part = min(quantity, trade.quantity)
            if part > 0:
                exits = (*trade.exits, replace(fill, quantity=part))
                self._trades[trade.decision_id] = replace(trade, exits=exits)
                quantity -= part

    def closed(self, body: Mapping[str, Any], at: datetime) -> None:
        if body.get("filled_quantity"):
            last = {"quantity": body["filled_quantity"], "price": body.get("filled_price"), "at": None}
            self.filled({**body, **last}, at)
        self._change(body, end="closed", unknown=None, acknowledged=True, status=str(body.get("status", "")))

    def locked(self, body: Mapping[str, Any], at: datetime) -> None:
        self._locked[Symbol(body["symbol"])] = str(body.get("code", "LOCKED"))

    def unlocked(self, body: Mapping[str, Any], at: datetime) -> None:
        symbol = Symbol(body["symbol"])
        self._locked.pop(symbol, None)
        if body.get("code") == "OPERATOR":  # a person has looked: what happened up to today is not asked again
            self._set_basis(symbol, new_york_day(at))

    def _set_basis(self, symbol: Symbol, day: date) -> None:
        for trade in [t for t in self._trades.values() if t.symbol == symbol and t.is_open]:
            self._trades[trade.decision_id] = replace(trade, basis=max(day, trade.basis_day))

    def rebased(self, body: Mapping[str, Any], at: datetime) -> None:
        """A corporate action that broker and feed agree upon: what is held, in new shares, prices and name."""
        trade = self._trades[body["decision_id"]]
        symbol, quantity = Symbol(body["symbol"]), int(body["quantity"])
        if quantity < 0:
            raise ValueError(f"{trade.decision_id}: a quantity cannot be {quantity}")
        self._positions[trade.symbol] = self._positions.get(trade.symbol, 0) - trade.quantity
        self._positions[symbol] = self._positions.get(symbol, 0) + quantity
        price = _decimal(body["entry_price"])
        if price is None or price <= 0:
            raise ValueError(f"{trade.decision_id}: an entry price cannot be {price}")
        whole = {"entry_quantity": quantity, "exits": ()} if quantity else {"exits": (*trade.exits, ExitFill(
            client_order_id="", purpose=None, quantity=trade.quantity, price=None, at=at)), "entry_quantity":
            trade.entry_quantity}  # fmt: skip
        self._trades[trade.decision_id] = replace(
            trade, symbol=symbol, entry_price=price, stop=_decimal(body.get("stop")),
            basis=date.fromisoformat(body["basis"]), **whole,
        )  # fmt: skip

    def adopted(self, body: Mapping[str, Any], at: datetime) -> None:
        """The operator made an external position ours; with a stop it is looked after like any other."""
        symbol, quantity = Symbol(body["symbol"]), int(body["quantity"])
        self._positions[symbol] = self._positions.get(symbol, 0) + quantity
        if body.get("stop") is None:
            return
        price = _decimal(body["entry_price"])
        if price is None or price <= 0 or quantity <= 0:
            raise ValueError(f"{symbol}: cannot adopt {quantity} at {price}")
        day = new_york_day(at)
        self._trades[body["decision_id"]] = Trade(
            decision_id=body["decision_id"], symbol=symbol, strategy="adopted", signal_session=day, session=day,
            opened_at=at, entry_quantity=quantity, entry_price=price, stop=_decimal(body["stop"]), target_r=None,
            time_stop_bars=None,
        )  # fmt: skip

    def synced(self, body: Mapping[str, Any], at: datetime) -> None:
        """The operator's force-sync: the broker's whole shares become ours, and trades shrink to what is left."""
        target = {Symbol(name): int(quantity) for name, quantity in body["positions"].items()}
        for symbol in sorted({*self._positions, *target, *(t.symbol for t in self._trades.values())}):
            held = target.get(symbol, 0)
            self._positions[symbol] = held
            trades = [t for t in self._trades.values() if t.symbol == symbol and t.is_open]
            ours = sum(t.quantity for t in trades)
            if ours and held > 0 and (ratio := split_ratio(ours, held)) is not None:
                self._rebase(trades, ratio)
            elif trades and held > ours:  # shares of unknown origin beside ours: guarded with the oldest trade
                first = trades[0]
                self._trades[first.decision_id] = replace(first, entry_quantity=first.entry_quantity + held - ours)
            elif ours > max(0, held):
                gone = ExitFill(client_order_id="", purpose=None, quantity=0, price=None, at=at)
                self._take(trades, ours - max(0, held), gone)
            self._set_basis(symbol, new_york_day(at))

    def _rebase(self, trades: Sequence[Trade], ratio: Fraction) -> None:
        """A split that the operator accepted: shares times the ratio, prices divided by it."""
        factor = Decimal(ratio.numerator) / Decimal(ratio.denominator)
        for trade in trades:
            self._trades[trade.decision_id] = replace(
                trade,
                entry_quantity=int(trade.quantity * ratio),
                entry_price=trade.entry_price / factor,
                stop=None if trade.stop is None else trade.stop / factor,
                exits=(),
            )


SPLIT_RATIOS = (2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 40, 50, 100)


def split_ratio(ours: int, theirs: int) -> Fraction | None:
    """New shares per old share when the two counts differ by a usual split, forward or reverse; else None."""
    if ours <= 0 or theirs <= 0 or ours == theirs:
        return None
    ratio = Fraction(theirs, ours)
    return ratio if ratio in SPLIT_RATIOS or 1 / ratio in SPLIT_RATIOS else None


def _marginal(order: LedgerOrder, cumulative: int, average: Decimal | None, more: int) -> Decimal | None:
    """The price of the newest `more` shares, from two averages."""
    if average is None or order.filled_price is None or order.filled_quantity == 0:
        return average
    return (average * cumulative - order.filled_price * order.filled_quantity) / more


_HANDLERS: Mapping[str, Any] = MappingProxyType(
    {
        "order_intended": Fold.intended,
        "order_acknowledged": Fold.acknowledged,
        "order_unknown": Fold.became_unknown,
        "order_rejected": Fold.rejected,
        "order_not_sent": Fold.not_sent,
        "order_filled": Fold.filled,
        "order_closed": Fold.closed,
        "symbol_locked": Fold.locked,
        "symbol_unlocked": Fold.unlocked,
        "positions_synced": Fold.synced,
        "trade_rebased": Fold.rebased,
        "position_adopted": Fold.adopted,
        "account_bound": Fold.bound,
        "trade_opened": Fold.opened_told,
        "trade_closed": Fold.closed_told,
    }
)


@dataclass(frozen=True, slots=True)
class _Line:
    """As much of a journal record as the fold reads."""

    seq: int
    at: datetime
    kind: str
    body: Mapping[str, Any]


class JournalTail:
    """Reads only what was appended since the last call, so that a send costs the same on day 1 and day 1000."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._offset = 0

    def new(self) -> list[_Line]:
        """Complete lines since the last call. Raises StateCorrupt when the file shrank or a line is no record.

        The hash chain itself is verified elsewhere (preflight, verify_hash_chain); a torn last line is left for
        `Journal.append`, which refuses to go on behind it.
        """
        path: Path = self._journal.path
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size < self._offset:
            raise StateCorrupt(f"{path.name} became shorter: {size} bytes after {self._offset}", code="JOURNAL_SHRANK")
        if size == self._offset:
            return []
        with path.open("rb") as lines:
            lines.seek(self._offset)
            block = lines.read()
        block = block[: block.rfind(b"\n") + 1]
        try:
            rows = [json.loads(line) for line in block.splitlines()]
            new = [_Line(row["seq"], datetime.fromisoformat(row["at"]), row["kind"], row["body"]) for row in rows]
        except (ValueError, KeyError, TypeError) as error:
            raise StateCorrupt(f"{path.name}: no record in the block at byte {self._offset}: {error}") from error
        self._offset += len(block)
        return new
