"""The fold: journal records in order, one handler per kind, the ledger out. Pure.

It is forgiving of repeats (quantities are cumulative, ends are final), so that two scripts that book the same fill do
not disagree, and strict about meaning: an intent without an end keeps its full reservation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from core.domain import Purpose, Side, Symbol
from core.errors import StateCorrupt
from execution.layers import Table
from execution.ledger import (
    RECENT,
    Eased,
    ExitFill,
    Ledger,
    LedgerOrder,
    Trade,
    attempts_of,
    decimal_of,
    entry_usd,
    intent_from,
    new_york_day,
)

if TYPE_CHECKING:
    from core.domain import OrderIntent
    from core.journal import Record

_ZERO = Decimal(0)


class Fold:
    """Mutable state while records are read; `add` may go on after `ledger()`, so a reader can follow the journal."""

    def __init__(self) -> None:
        self._orders: Table[str, LedgerOrder] = Table()
        self._trades: Table[str, Trade] = Table()
        self._unended: dict[str, LedgerOrder] = {}
        self._positions: dict[Symbol, int] = {}
        self._sold_ahead: dict[Symbol, list[ExitFill]] = {}  # sells booked before the entry that they sold
        self._locked: dict[Symbol, str] = {}
        self._account: Mapping[str, str] | None = None
        self._assets: dict[Symbol, str] = {}
        self._looked_at: dict[Symbol, datetime] = {}
        self._synced_at: datetime | None = None
        self._spent_before: Mapping[date, Decimal] = MappingProxyType({})
        self._rested_on = date.min
        self._at = datetime.min.replace(tzinfo=UTC)
        self._seq = -1

    def add(self, record: Record) -> None:
        """Raises StateCorrupt for a record of a known kind that lacks what its kind promises."""
        handler = _HANDLERS.get(record.kind)
        if handler is not None:
            try:
                handler(self, record.body, record.at)
            except (KeyError, TypeError, ValueError, ArithmeticError) as error:
                raise StateCorrupt(f"journal record {record.seq} ({record.kind}) cannot be read: {error!r}") from error
        self._seq, self._at = record.seq, record.at

    def ledger(self) -> Ledger:
        self._rest()
        locked = dict(self._locked)
        for order in self._unended.values():
            if order.unsettled:  # derived, so that a crash between two appends cannot leave the symbol free
                locked[order.intent.symbol] = order.unknown or "UNKNOWN_ORDER"
        return Ledger(
            orders=self._orders.snapshot(),
            trades=self._trades.snapshot(),
            unended=MappingProxyType(dict(self._unended)),
            positions=MappingProxyType(dict(self._positions)),
            locked=MappingProxyType(locked),
            account=self._account,
            assets=MappingProxyType(dict(self._assets)),
            looked_at=MappingProxyType(dict(self._looked_at)),
            synced_at=self._synced_at,
            spent_before=self._spent_before,
            last_seq=self._seq,
        )

    def _rest(self) -> None:
        """Once a day, what is long over is laid aside, so that a send costs the same on day 1 and day 1000."""
        day = new_york_day(self._at) if self._seq >= 0 else date.min
        if day <= self._rested_on:
            return
        self._rested_on, before = day, self._at - RECENT
        for order in self._orders.rest(lambda o: not o.working and o.intended_at < before):
            self._spend_before(order, entry_usd(order))
        self._trades.rest(lambda t: not t.is_open and t.told_closed and all(f.at < before for f in t.exits))

    def _spend_before(self, order: LedgerOrder, usd: Decimal) -> None:
        if usd:
            before = self._spent_before
            self._spent_before = {**before, order.day: before.get(order.day, _ZERO) + usd}

    def _put(self, order: LedgerOrder) -> None:
        woken = self._orders.put(order.client_order_id, order)
        if woken is not None:  # it counts as a recent one from here on
            self._spend_before(woken, -entry_usd(woken))
        if order.working:
            self._unended[order.client_order_id] = order
        else:
            self._unended.pop(order.client_order_id, None)

    def _hold(self, symbol: Symbol, more: int) -> None:
        total = self._positions.get(symbol, 0) + more
        if total:
            self._positions[symbol] = total
        else:
            self._positions.pop(symbol, None)

    def bound(self, body: Mapping[str, Any], at: datetime) -> None:
        self._account = {name: str(body[name]) for name in ("id", "number", "mode")}

    def opened_told(self, body: Mapping[str, Any], at: datetime) -> None:
        if (trade := self._trades.get(str(body["decision_id"]))) is not None:
            self._put_trade(replace(trade, told_opened=True))

    def closed_told(self, body: Mapping[str, Any], at: datetime) -> None:
        if (trade := self._trades.get(str(body["decision_id"]))) is not None:
            self._put_trade(replace(trade, told_closed=True))

    def _change(self, body: Mapping[str, Any], **changes: Any) -> None:
        cid = body["client_order_id"]
        order = self._orders.get(cid)
        if order is None:
            raise ValueError(f"{cid} was never intended")
        self._put(replace(order, **changes))

    def intended(self, body: Mapping[str, Any], at: datetime) -> None:
        intent = intent_from(body)
        before = self._orders.get(intent.client_order_id)
        if before is None or before.end == "not_sent":
            self._put(LedgerOrder(intent=intent, intended_at=at, day=new_york_day(at)))

    def acknowledged(self, body: Mapping[str, Any], at: datetime) -> None:
        changes = {"acknowledged": True, "unknown": None, "order_id": body.get("order_id")}
        self._change(body, **changes, status=str(body.get("status", "")))

    def became_unknown(self, body: Mapping[str, Any], at: datetime) -> None:
        code = str(body.get("code", ""))
        before = self._orders.get(body["client_order_id"])
        since = at if before is None or before.unknown_at is None else before.unknown_at
        named = code if code.startswith("UNKNOWN") else f"UNKNOWN_{code or 'ORDER'}"
        self._change(body, unknown=named, unknown_at=since)

    def anomalous(self, body: Mapping[str, Any], at: datetime) -> None:
        self._change(body, anomaly=str(body.get("code", "")))

    def rejected(self, body: Mapping[str, Any], at: datetime) -> None:
        self._change(body, end="rejected", unknown=None, status=str(body.get("code", "")))

    def not_sent(self, body: Mapping[str, Any], at: datetime) -> None:
        self._change(body, end="not_sent", unknown=None, status=str(body.get("code", "")))

    def filled(self, body: Mapping[str, Any], at: datetime) -> None:
        order = self._orders[body["client_order_id"]]
        more = int(body["quantity"]) - order.filled_quantity
        if more <= 0:
            return  # a repeat, or a count that went down: the maximum stays
        average = decimal_of(body.get("price"))
        when = datetime.fromisoformat(body["at"]).astimezone(UTC) if body.get("at") else at
        price = _marginal(order, int(body["quantity"]), average, more)
        self._change(body, filled_quantity=int(body["quantity"]), filled_price=average, filled_at=when)
        intent = order.intent
        sign = 1 if intent.side is Side.BUY else -1
        trade = self._trades.get(intent.decision_id)
        symbol = intent.symbol if trade is None else trade.symbol  # it may have another name by now
        self._hold(symbol, sign * more)
        if intent.purpose is not Purpose.ENTRY:
            self._leave(intent, symbol, more, price, when)
        elif trade is not None and trade.basis is not None:  # its shares are no longer counted by its fills
            self._put_trade(replace(trade, entry_quantity=trade.entry_quantity + more))
        else:
            self._enter(intent, int(body["quantity"]), average, when)
        if intent.purpose is Purpose.ENTRY:
            for sold in self._sold_ahead.pop(symbol, ()):
                self._sell(self._open_trades_of(symbol), symbol, sold)

    def _enter(self, intent: OrderIntent, cumulative: int, average: Decimal | None, when: datetime) -> None:
        price = average if average is not None else intent.limit_price
        if price is None:
            raise ValueError(f"{intent.client_order_id}: an entry fill without a price")
        others = [
            o for o in attempts_of(self._orders, intent.decision_id, intent.side, intent.purpose)
            if o.client_order_id != intent.client_order_id and o.filled_quantity > 0
        ]  # fmt: skip
        total = cumulative + sum(o.filled_quantity for o in others)
        cost = price * cumulative + sum((entry_usd(o) for o in others), _ZERO)
        before = self._trades.get(intent.decision_id)
        if before is not None:
            self._put_trade(replace(before, entry_quantity=total, entry_price=cost / total))
            return
        self._put_trade(Trade(
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
        ))  # fmt: skip

    def _put_trade(self, trade: Trade) -> None:
        self._trades.put(trade.decision_id, trade)

    def _open_trades_of(self, symbol: Symbol) -> list[Trade]:
        return [t for t in self._trades.live.values() if t.symbol == symbol and t.is_open]

    def _leave(self, intent: OrderIntent, symbol: Symbol, quantity: int, price: Decimal | None, when: datetime) -> None:
        """Take shares from the trade the order belongs to, then from the symbol's oldest."""
        held = self._open_trades_of(symbol)
        own = [t for t in held if t.decision_id == intent.decision_id]
        rest = [t for t in held if t.decision_id != intent.decision_id]
        self._sell((*own, *rest), symbol, ExitFill(
            client_order_id=intent.client_order_id, purpose=intent.purpose, quantity=quantity, price=price, at=when
        ))  # fmt: skip

    def _sell(self, trades: Sequence[Trade], symbol: Symbol, fill: ExitFill) -> None:
        """Shares that no trade has yet were sold by a liquidation that overtook the entry's own booking: that entry
        is closed by them as soon as it is booked."""
        left = self._take(trades, fill.quantity, fill)
        if left:
            self._sold_ahead.setdefault(symbol, []).append(replace(fill, quantity=left))

    def _take(self, trades: Sequence[Trade], quantity: int, fill: ExitFill) -> int:
        """How many shares the trades did not have."""
        for trade in trades:
            part = min(quantity, trade.quantity)
            if part > 0:
                exits = (*trade.exits, replace(fill, quantity=part))
                self._put_trade(replace(trade, exits=exits))
                quantity -= part
        return quantity

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
        if body.get("code") == "OPERATOR":
            self._looked(symbol, at)

    def _looked(self, symbol: Symbol, at: datetime) -> None:
        """A person has looked: what happened up to today is not asked again."""
        self._looked_at[symbol] = at
        for trade in self._open_trades_of(symbol):
            self._put_trade(replace(trade, basis=max(new_york_day(at), trade.basis_day), eased=None))

    def asset_told(self, body: Mapping[str, Any], at: datetime) -> None:
        self._assets[Symbol(body["symbol"])] = str(body["asset_id"])

    def eased(self, body: Mapping[str, Any], at: datetime) -> None:
        trade = self._trades[body["decision_id"]]
        self._put_trade(replace(trade, eased=Eased(
            quantity=int(body["quantity"]), stop=Decimal(str(body["stop"])), keeps_target=bool(body["keeps_target"]),
            ex_date=date.fromisoformat(body["ex_date"]),
        )))  # fmt: skip

    def rebased(self, body: Mapping[str, Any], at: datetime) -> None:
        """A corporate action that broker and feed agree upon: what is held, in new shares, prices and name."""
        trade = self._trades[body["decision_id"]]
        symbol, quantity = Symbol(body["symbol"]), int(body["quantity"])
        if quantity < 0:
            raise ValueError(f"{trade.decision_id}: a quantity cannot be {quantity}")
        self._hold(trade.symbol, -trade.quantity)
        self._hold(symbol, quantity)
        price = decimal_of(body["entry_price"])
        if price is None or price <= 0:
            raise ValueError(f"{trade.decision_id}: an entry price cannot be {price}")
        gone = ExitFill(client_order_id="", purpose=None, quantity=trade.quantity, price=None, at=at)
        self._put_trade(replace(
            trade, symbol=symbol, entry_price=price, stop=decimal_of(body.get("stop")), eased=None,
            basis=date.fromisoformat(body["basis"]), entry_quantity=quantity or trade.entry_quantity,
            exits=() if quantity else (*trade.exits, gone),
        ))  # fmt: skip

    def adopted(self, body: Mapping[str, Any], at: datetime) -> None:
        """The operator made an external position ours; with a stop it is looked after like any other."""
        symbol, quantity = Symbol(body["symbol"]), int(body["quantity"])
        self._hold(symbol, quantity)
        self._looked_at[symbol] = at
        if body.get("stop") is None:
            return
        price = decimal_of(body["entry_price"])
        if price is None or price <= 0 or quantity <= 0:
            raise ValueError(f"{symbol}: cannot adopt {quantity} at {price}")
        day = new_york_day(at)
        self._put_trade(Trade(
            decision_id=body["decision_id"], symbol=symbol, strategy="adopted", signal_session=day, session=day,
            opened_at=at, entry_quantity=quantity, entry_price=price, stop=decimal_of(body["stop"]), target_r=None,
            time_stop_bars=None,
        ))  # fmt: skip

    def synced(self, body: Mapping[str, Any], at: datetime) -> None:
        """The operator's force-sync: the broker's whole shares become ours.

        Trades named in `rebased` take a proved split or rename along first; the others shrink to what is left, and
        shares of unknown origin beside ours are guarded with the oldest trade.
        """
        for row in body.get("rebased", ()):
            self.rebased(row, at)
        left_out = set(body.get("left_out", ()))
        self._sold_ahead = {symbol: sold for symbol, sold in self._sold_ahead.items() if symbol in left_out}
        target = {Symbol(name): int(quantity) for name, quantity in body["positions"].items()}
        for symbol in sorted({*self._positions, *target, *(t.symbol for t in self._trades.live.values())}):
            held = target.get(symbol, 0)
            more = held - self._positions.get(symbol, 0)
            self._hold(symbol, more)
            trades = self._open_trades_of(symbol)
            ours = sum(t.quantity for t in trades)
            if trades and held > ours:
                first = trades[0]
                self._put_trade(replace(first, entry_quantity=first.entry_quantity + held - ours))
            elif ours > max(0, held):
                gone = ExitFill(client_order_id="", purpose=None, quantity=0, price=None, at=at)
                self._take(trades, ours - max(0, held), gone)
            if more:
                self._looked(symbol, at)
        self._synced_at = at


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
        "order_anomaly": Fold.anomalous,
        "order_not_sent": Fold.not_sent,
        "order_filled": Fold.filled,
        "order_closed": Fold.closed,
        "symbol_locked": Fold.locked,
        "symbol_unlocked": Fold.unlocked,
        "positions_synced": Fold.synced,
        "trade_rebased": Fold.rebased,
        "position_adopted": Fold.adopted,
        "protection_eased": Fold.eased,
        "asset_known": Fold.asset_told,
        "account_bound": Fold.bound,
        "trade_opened": Fold.opened_told,
        "trade_closed": Fold.closed_told,
    }
)


def fold_of(records: Iterable[Record]) -> Ledger:
    """The ledger of a whole journal. Raises StateCorrupt."""
    fold = Fold()
    for record in records:
        fold.add(record)
    return fold.ledger()
