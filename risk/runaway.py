"""The last net under code that has gone wrong: what leaves is what was intended, once, and within ceilings.

It knows nothing of strategies, and trusts neither desk nor gate. What it holds to is read from the journal alone: an
order body is compared with the intent on record, counted against it, and added to what the last minute and this New
York day may have cost already. Values in, values out: no file, network or clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from core.domain import Breach
from core.market_calendar import NEW_YORK

if TYPE_CHECKING:
    from config.settings_schema import Settings

REDUCTION_ROOM = 4
UNFILLED_ROOM = 2
"""An entry that comes back unfilled frees its budget for the next one, within the same minute too."""
_MINUTE, _DAY = timedelta(minutes=1), timedelta(days=1)
_KEPT = timedelta(days=3)  # an order that is over is forgotten after this; one without an end never is
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """Orders per rolling window. Far above an honest day: 10 positions make some 10 entries, 20 legs and 10 exits."""

    per_minute: int = 30
    per_day: int = 300

    def for_reductions(self) -> Ceilings:
        """Stops and exits: each entry may need a stop, an exit and a second stop."""
        return Ceilings(per_minute=REDUCTION_ROOM * self.per_minute, per_day=REDUCTION_ROOM * self.per_day)


def runaway_breach(sent_at: Sequence[datetime], now: datetime, ceilings: Ceilings) -> Breach | None:
    """None when one more order still fits both windows. `sent_at`: instants of all intents of the last 24 hours."""
    for code, span, limit in (
        ("RUNAWAY_MINUTE", _MINUTE, ceilings.per_minute),
        ("RUNAWAY_DAY", _DAY, ceilings.per_day),
    ):
        count = sum(1 for at in sent_at if at > now - span)
        if count >= limit:
            return Breach(code=code, observed=str(count + 1), limit=str(limit))
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the last door holds to. Notionals are of entries: sales reduce."""

    ceilings: Ceilings
    minute_usd: Decimal  # entries sent in any 60 seconds
    day_usd: Decimal  # entries of one New York day, filled or still possible

    @classmethod
    def from_settings(cls, settings: Settings) -> Bounds:
        """Where no ceiling is set: the daily budget may be spent in a day, and twice that be sent within a minute."""
        chosen, budget = settings.risk.runaway, Decimal(str(settings.risk.policy_gate.daily_budget_usd))
        minute, day = chosen.notional_per_minute_usd, chosen.notional_per_day_usd
        return cls(
            ceilings=Ceilings(per_minute=chosen.orders_per_minute, per_day=chosen.orders_per_day),
            minute_usd=UNFILLED_ROOM * budget if minute is None else minute,
            day_usd=budget if day is None else day,
        )


OWN_FAULT = frozenset({"RUNAWAY_BODY", "RUNAWAY_TWICE", "RUNAWAY_NO_INTENT", "RUNAWAY_DIFFERS", "RUNAWAY_CHILDREN"})
"""Breaches that no honest day brings: our own code is wrong, and nothing more of it may leave."""


# ---------------------------------------------------------------- what a body says
@dataclass(frozen=True, slots=True)
class _Wire:
    """An order as far as it can do harm. Prices are compared as numbers, so 50.1 is 50.10."""

    symbol: str
    side: str
    quantity: Decimal
    kind: str  # limit, market, stop, oco
    tif: str
    limit: Decimal | None
    stop: Decimal | None


_KNOWN_FIELDS = frozenset({
    "symbol", "side", "qty", "type", "time_in_force", "client_order_id", "limit_price", "stop_price", "order_class",
    "take_profit", "stop_loss",
})  # fmt: skip


def _sent(order: Mapping[str, Any]) -> _Wire | None:
    """None for a body that cannot be read to its last field: `notional`, for instance, would be another order."""
    if not set(order) <= _KNOWN_FIELDS or not isinstance(order.get("client_order_id"), str):
        return None
    legs = {"order_class": "oco", "type": "limit"}
    try:
        if all(order.get(name) == value for name, value in legs.items()):
            kind, limit, stop = "oco", order["take_profit"]["limit_price"], order["stop_loss"]["stop_price"]
            if len(order["take_profit"]) + len(order["stop_loss"]) != 2 or {"limit_price", "stop_price"} & set(order):
                return None
        else:
            kind, limit, stop = str(order["type"]), order.get("limit_price"), order.get("stop_price")
            if {"order_class", "take_profit", "stop_loss"} & set(order):
                return None
        return _Wire(str(order["symbol"]), str(order["side"]), Decimal(str(order["qty"])), kind,
                     str(order["time_in_force"]), _price(limit), _price(stop))  # fmt: skip
    except (KeyError, AttributeError, ValueError, TypeError, InvalidOperation):
        return None


def _price(value: Any) -> Decimal | None:
    return None if value is None else Decimal(str(value))


@dataclass(slots=True)
class _Intent:
    """One `order_intended`, and what the journal says became of it."""

    client_order_id: str
    seq: int
    at: datetime
    day: date  # in New York: whose ceiling it spends
    decision_id: str
    purpose: str
    wire: _Wire
    tried: bool = False  # acknowledged, unknown or filled: it has left already
    ended: bool = False
    unsent: bool = False  # proved not sent
    filled: Decimal = _ZERO
    filled_usd: Decimal = _ZERO

    @property
    def entry(self) -> bool:
        return self.purpose == "entry"

    @property
    def notional_usd(self) -> Decimal:
        return (self.wire.limit or _ZERO) * self.wire.quantity

    @property
    def possible(self) -> Decimal:
        """Shares bought, or still possible."""
        return self.filled if self.ended else self.wire.quantity

    @property
    def possible_usd(self) -> Decimal:
        return self.filled_usd + (self.wire.limit or _ZERO) * max(_ZERO, self.possible - self.filled)


def _intent(seq: int, at: datetime, body: Mapping[str, Any]) -> _Intent:
    kind = str(body["kind"])
    stop = _price(body.get("stop_price")) if kind in ("stop", "oco") else None  # an entry's planned stop is not sent
    wire = _Wire(str(body["symbol"]), str(body["side"]), Decimal(str(body["quantity"])), kind, str(body["tif"]),
                 _price(body.get("limit_price")), stop)  # fmt: skip
    day = at.astimezone(NEW_YORK).date()
    return _Intent(str(body["client_order_id"]), seq, at, day, str(body["decision_id"]), str(body["purpose"]), wire)


# ---------------------------------------------------------------- the register
@dataclass
class Register:
    """Intents in, orders out. `add` takes every journal record in order, `breach` judges, `took` counts it as sent.

    Only intents written after `open_from` may leave: what another process or an earlier life intended is not ours.
    """

    bounds: Bounds
    open_from: int = 0
    _intents: dict[str, _Intent] = field(default_factory=dict)
    _sent: set[str] = field(default_factory=set)
    _doors: set[str] = field(default_factory=set)  # runs of close_all that are open
    _newest_day: date = date.min

    def add(self, seq: int, at: datetime, kind: str, body: Mapping[str, Any]) -> None:
        """Raises KeyError, ValueError or ArithmeticError for a record that lacks what its kind promises."""
        if kind == "order_intended":
            self._intended(_intent(seq, at, body))
        elif kind == "operator_close_opened" and seq > self.open_from:
            self._doors.add(str(body["run"]))
        elif kind == "operator_close_ended":
            self._doors.discard(str(body["run"]))
        elif kind in _FOLLOWS:
            found = self._intents.get(str(body["client_order_id"]))
            if found is not None:  # else it is over for long
                _FOLLOWS[kind](self, found, body)

    def _intended(self, new: _Intent) -> None:
        before = self._intents.get(new.client_order_id)
        if before is not None and not before.unsent:
            return  # once is once: a second intent of the same id permits nothing
        self._intents[new.client_order_id] = new
        if new.day > self._newest_day:
            self._newest_day = new.day
            over = [cid for cid, i in self._intents.items() if i.ended and i.at < new.at - _KEPT]
            for cid in over:
                del self._intents[cid]

    def _reached(self, found: _Intent, body: Mapping[str, Any]) -> None:
        found.tried = True

    def _not_sent(self, found: _Intent, body: Mapping[str, Any]) -> None:
        found.ended = found.unsent = True
        self._sent.discard(found.client_order_id)

    def _rejected(self, found: _Intent, body: Mapping[str, Any]) -> None:
        found.ended = True

    def _filled(self, found: _Intent, body: Mapping[str, Any]) -> None:
        found.tried = True
        quantity = Decimal(str(body["quantity"]))
        if quantity > found.filled:
            price = _price(body.get("price"))
            found.filled = quantity
            found.filled_usd = quantity * (found.wire.limit or _ZERO if price is None else price)

    def _closed(self, found: _Intent, body: Mapping[str, Any]) -> None:
        self._filled(found, {"quantity": body.get("filled_quantity") or 0, "price": body.get("filled_price")})
        found.ended = True

    # ------------------------------------------------------------ judging
    def breach(self, order: Mapping[str, Any], now: datetime, *, despite_halt: bool = False) -> Breach | None:
        """What this body breaks; None when it is exactly one intent that has not left yet, and fits the ceilings."""
        wire, cid = _sent(order), str(order.get("client_order_id"))
        if wire is None:
            return Breach(code="RUNAWAY_BODY", observed=", ".join(sorted(map(str, order))), limit="an order we know")
        if cid in self._sent:
            return Breach(code="RUNAWAY_TWICE", observed=cid, limit="each id once")
        found = self._intents.get(cid)
        if found is None or found.seq <= self.open_from:
            return Breach(code="RUNAWAY_NO_INTENT", observed=cid, limit="an intent of this process in the journal")
        if found.unsent:  # another process has given it up meanwhile, with proof: sent now, nobody would look for it
            return Breach(code="INTENT_GIVEN_UP", observed=cid, limit="an intent without an end")
        if found.tried or found.ended:
            return Breach(code="INTENT_TAKEN", observed=cid, limit="an intent that nobody has sent yet")
        if wire != found.wire:
            return Breach(code="RUNAWAY_DIFFERS", observed=str(wire), limit=str(found.wire))
        if despite_halt and not self._door_is_open(found):
            return Breach(code="OPERATOR_DOOR_CLOSED", observed=cid, limit="close_all --confirm, and its own sells")
        return self._children(found) or self._ceilings(found, now)

    def took(self, client_order_id: str) -> None:
        """This id is about to leave; it never leaves again unless the journal proves that it did not."""
        self._sent.add(client_order_id)

    def _door_is_open(self, found: _Intent) -> bool:
        """The operator's liquidation passes a halt: sells of a run that the journal shows as open, nothing else."""
        own = any(found.decision_id.startswith(f"close-{run}-") for run in self._doors)
        return own and found.purpose == "close" and found.wire.side == "sell"

    def _children(self, found: _Intent) -> Breach | None:
        """All orders of one decision together buy at most what the largest of them wanted."""
        if not found.entry:
            return None
        family = [i for i in self._earlier(found) if i.entry and i.decision_id == found.decision_id]
        parent = max(i.wire.quantity for i in family)
        total = sum((i.possible for i in family), _ZERO)
        if total <= parent:
            return None
        return Breach(code="RUNAWAY_CHILDREN", observed=f"{total} shares of {found.decision_id}", limit=str(parent))

    def _ceilings(self, found: _Intent, now: datetime) -> Breach | None:
        """Counted up to this intent: what another process intended after it has its own turn."""
        if found.purpose == "close":
            return None
        until = self._earlier(found)
        ceilings = self.bounds.ceilings if found.entry else self.bounds.ceilings.for_reductions()
        breach = runaway_breach([i.at for i in until if i is not found], now, ceilings)
        if breach is not None or not found.entry:
            return breach
        entries = [i for i in until if i.entry and not i.unsent]
        minute = sum((i.notional_usd for i in entries if i.at > now - _MINUTE), _ZERO)
        if minute > self.bounds.minute_usd:
            return Breach(code="RUNAWAY_MINUTE_USD", observed=str(minute), limit=str(self.bounds.minute_usd))
        day = sum((i.possible_usd for i in until if i.entry and (i.day == found.day or not i.ended)), _ZERO)
        if day > self.bounds.day_usd:
            return Breach(code="RUNAWAY_DAY_USD", observed=str(day), limit=str(self.bounds.day_usd))
        return None

    def _earlier(self, found: _Intent) -> list[_Intent]:
        return [i for i in self._intents.values() if i.seq <= found.seq]


_FOLLOWS = {
    "order_acknowledged": Register._reached,
    "order_unknown": Register._reached,
    "order_rejected": Register._rejected,
    "order_not_sent": Register._not_sent,
    "order_filled": Register._filled,
    "order_closed": Register._closed,
}
