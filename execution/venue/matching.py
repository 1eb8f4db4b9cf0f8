"""The exchange of the venue: fills by the clock along each symbol's path, from the last instant looked at.

Nothing happens between requests; each request first plays what the clock has passed since. So resting orders fill
at the instants they would have, however long nobody asked, and whichever process asks first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from uuid import uuid5

from core.clock import Clock
from core.market.base import Bar, Crossing, Fills, Knot, Market, first_crossing, price_on, session_path
from core.market_calendar import NEW_YORK, MarketCalendar
from execution.venue import corporate
from execution.venue.account import ACCOUNT_ID, AccountStore, Activity, Holding, VenueOrder

_CENT = Decimal("0.01")
_SMALL = Decimal("0.0001")
_ONE = Decimal(1)


@dataclass(frozen=True, slots=True)
class Top:
    """Top of book and last trade, USD, at the instant they were made."""

    bid: Decimal
    ask: Decimal
    last: Decimal
    at: datetime


@dataclass(frozen=True, slots=True)
class _Play:
    """One symbol's session while it is played, minutes counted from the open."""

    session: date
    opens_at: datetime
    minutes: float
    bar: Bar
    path: tuple[Knot, ...]

    def minute(self, at: datetime) -> float:
        return (at - self.opens_at).total_seconds() / 60.0

    def instant(self, minute: float) -> datetime:
        return self.opens_at + timedelta(seconds=round(minute * 60.0, 3))


@dataclass(frozen=True, slots=True)
class _Later:
    """What a scripted fault has in store for an order; `price` is that of a fill."""

    at: datetime
    order_id: str
    trick: str
    price: Decimal | None = None


def exact(price: float) -> Decimal:
    """The decimal a person would read off this float."""
    return Decimal(repr(float(price)))


def tick(price: Decimal, rounding: str = ROUND_HALF_EVEN) -> Decimal:
    return price.quantize(_CENT if price >= 1 else _SMALL, rounding=rounding)


class Engine:
    """Market, calendar, clock and account together. Use inside `store.transaction()`, after `advance()`."""

    def __init__(
        self,
        market: Market,
        calendar: MarketCalendar,
        clock: Clock,
        store: AccountStore,
        fills: Fills,
        spread_bps: float,
    ) -> None:
        self.market, self.calendar, self.clock, self.store, self.fills = market, calendar, clock, store, fills
        self._half = 0.0 if fills is Fills.AT_OPEN else spread_bps / 2e4
        self._plays: dict[tuple[str, date], _Play | None] = {}
        self.postponed = ""  # client order id of the order that the last trick fills later
        self.trick = ""  # what a scripted fault does to the order now asked for (execution.venue.faults)
        self._later: list[_Later] = []  # of those tricks; not kept in the account file

    @property
    def ideal(self) -> bool:
        return self.fills is Fills.AT_OPEN

    def begin(self, starting_cash: Decimal, spec: str) -> None:
        """Open the account if it is new; an existing one keeps its cash and says which market it now trades."""
        if not self.store.get("cash"):
            now = self.clock.now()
            self.store.put("created_at", now.isoformat())
            self.store.put("clock", now.isoformat())
            self.store.cash = starting_cash
            self.store.put("last_equity", format(starting_cash, "f"))
        self.store.put("market", spec)
        self.store.put("fills", self.fills)

    # --- what the market shows -------------------------------------------------------------------

    def session_now(self, now: datetime) -> date | None:
        """The session that is open at `now`."""
        day = now.astimezone(NEW_YORK).date()
        if not self.calendar.is_session(day):
            return None
        return day if self.calendar.opens_at(day) <= now < self.calendar.closes_at(day) else None

    def play(self, symbol: str, session: date) -> _Play | None:
        """None when the symbol has no bar that session: halted, not listed, unknown."""
        key = (symbol, session)
        if key not in self._plays:
            if len(self._plays) > 20_000:
                self._plays.clear()
            bar = self.market.bar(symbol, session)
            if bar is None:
                self._plays[key] = None
            else:
                opens_at = self.calendar.opens_at(session)
                minutes = (self.calendar.closes_at(session) - opens_at).total_seconds() / 60.0
                path = session_path(self.fills, symbol, session, bar, minutes)
                self._plays[key] = _Play(session, opens_at, minutes, bar, path)
        return self._plays[key]

    def top(self, symbol: str, now: datetime) -> Top | None:
        """Live while the symbol trades; else its last close, with that close's time; None if it never traded."""
        session = self.session_now(now)
        if session is not None:
            play = self.play(symbol, session)
            if play is not None:
                return self._quote(price_on(play.path, play.minute(now)), now)
        ended = self.last_completed(now)
        found = self.market.last_bar(symbol, ended) if ended is not None else None
        return None if found is None else self._quote(found[1].close, self._closed_at(found[0]))

    def _closed_at(self, day: date) -> datetime:
        if self.calendar.is_session(day):
            return self.calendar.closes_at(day)
        return datetime.combine(day, time(16), NEW_YORK).astimezone(UTC)  # real files hold days that were none

    def last_completed(self, now: datetime) -> date | None:
        day = now.astimezone(NEW_YORK).date()
        if self.calendar.is_session(day) and self.calendar.closes_at(day) <= now:
            return day
        return self.calendar.previous_session(day)

    def _quote(self, price: float, at: datetime) -> Top:
        if self.ideal:
            value = exact(price)
            return Top(value, value, value, at)
        last = tick(exact(price))
        bid = tick(exact(price * (1 - self._half)), ROUND_FLOOR)
        ask = tick(exact(price * (1 + self._half)), ROUND_CEILING)
        return Top(max(bid, _SMALL), ask, last, at)

    # --- playing the clock -----------------------------------------------------------------------

    def advance(self) -> datetime:
        """Play everything up to now; returns now. A clock behind the account's plays nothing."""
        now = self.clock.now()
        self._play_later(now)
        last = datetime.fromisoformat(self.store.get("clock"))
        if now <= last:
            return now
        if self.store.open_orders() or self.store.holdings():
            begin, end = last.astimezone(NEW_YORK).date(), now.astimezone(NEW_YORK).date()
            for session in self.calendar.sessions_between(begin, end):
                self._play_session(session, last, now)
        self.store.put("clock", now.isoformat())
        return now

    def _play_session(self, session: date, last: datetime, now: datetime) -> None:
        opens_at, closes_at = self.calendar.opens_at(session), self.calendar.closes_at(session)
        if closes_at <= last or opens_at > now:
            return
        if last < opens_at:
            corporate.apply(self, session, opens_at)
            for order in self.store.open_orders():
                if order.status == "accepted":
                    self.store.change(order, status="new", updated_at=opens_at)
        for symbol in sorted({order.symbol for order in self.store.open_orders()}):
            play = self.play(symbol, session)
            if play is not None:
                self._match(symbol, play, max(0.0, play.minute(last)), min(play.minutes, play.minute(now)))
        if closes_at <= now:
            self._expire(closes_at)
            self.store.put("last_equity", format(self.equity(closes_at), "f"))

    def equity(self, now: datetime) -> Decimal:
        return self.store.cash + sum((h.qty * self._value(h, now) for h in self.store.holdings()), Decimal(0))

    def _value(self, holding: Holding, now: datetime) -> Decimal:
        top = self.top(holding.symbol, now)
        return holding.average if top is None else top.last

    def _match(self, symbol: str, play: _Play, begin: float, end: float) -> None:
        """Play one symbol's orders over [begin, end] minutes, earliest event first."""
        while begin <= end:
            earliest: tuple[float, int, VenueOrder, Decimal] | None = None
            for order in self.store.open_orders(symbol):
                found = self._next_event(order, play, begin, end)
                if found is not None and (earliest is None or (found[0], order.seq) < earliest[:2]):
                    earliest = (found[0], order.seq, order, found[1])
            if earliest is None:
                return
            begin, _, order, price = earliest
            at = play.instant(begin)
            if order.type == "stop_limit" and not order.triggered:
                self.store.change(order, triggered=True, status="new", updated_at=at)
            else:
                self._fill(order, order.left, price, at)

    def _next_event(self, order: VenueOrder, play: _Play, begin: float, end: float) -> tuple[float, Decimal] | None:
        """When and at what price `order` fills next (a stop-limit: triggers) in [begin, end]; None if it does not."""
        buy = order.side == "buy"
        if order.type == "market":
            return begin, self._taken(play, begin, buy)
        if order.type in ("stop", "stop_limit") and not order.triggered:
            assert order.stop_price is not None  # checked when the order was taken
            found = first_crossing(play.path, begin, end, float(order.stop_price), rising=buy)
            return self._event(found, order.stop_price, play, begin, buy, gap=exact)
        assert order.limit_price is not None  # checked when the order was taken
        if self._held_back(order, play):
            return None
        side = 1 + self._half if buy else 1 - self._half  # a buy meets the ask, a sell the bid
        found = first_crossing(play.path, begin, end, float(order.limit_price) / side, rising=not buy)
        event = self._event(found, order.limit_price, play, begin, buy, gap=None)
        if event is None:
            return None
        price = min(event[1], order.limit_price) if buy else max(event[1], order.limit_price)
        return event[0], price

    def _event(
        self, found: Crossing | None, level: Decimal, play: _Play, begin: float, buy: bool, *, gap: object
    ) -> tuple[float, Decimal] | None:
        """At the level when the price came to it; at the market when it was beyond from the start."""
        if found is None:
            return None
        if not found.already:
            return found.minute, level
        if gap is None:
            return begin, self._taken(play, begin, buy)
        price = exact(price_on(play.path, begin))  # a stop: the open itself, not the quote around it
        return begin, price if self.ideal else tick(price)

    def _taken(self, play: _Play, minute: float, buy: bool) -> Decimal:
        quote = self._quote(price_on(play.path, minute), play.opens_at)
        return quote.ask if buy else quote.bid

    def _held_back(self, order: VenueOrder, play: _Play) -> bool:
        """Idealised sessions are pessimistic: a target does not fill on a day that also touches its own stop."""
        if not self.ideal or order.order_class != "oco":
            return False
        stops = [leg.stop_price for leg in self.store.legs(order) if leg.stop_price is not None]
        return any(play.bar.low <= float(stop) for stop in stops)

    # --- effects ---------------------------------------------------------------------------------

    def _fill(self, order: VenueOrder, qty: Decimal, price: Decimal, at: datetime) -> None:
        total = order.filled_qty + qty
        average = ((order.filled_avg_price or Decimal(0)) * order.filled_qty + price * qty) / total
        status = "filled" if total == order.qty else "partially_filled"
        self.store.change(
            order, filled_qty=total, filled_avg_price=average, status=status, updated_at=at,
            filled_at=at if status == "filled" else None, triggered=True,
        )  # fmt: skip
        self._book(order, qty, price)
        stamp = f"{at:%Y%m%d%H%M%S}{at.microsecond // 1000:03d}"
        self.store.add_activity(
            Activity(
                id=f"{stamp}::{uuid5(ACCOUNT_ID, f'{order.id}/{total}')}", kind="FILL", at=at, order_id=order.id,
                symbol=order.symbol, side=order.side, price=price, qty=qty, cum_qty=total,
                leaves_qty=order.qty - total, order_status=status,
            )
        )  # fmt: skip
        if status == "filled":
            for sibling in self._siblings(order):
                self.end(sibling, "canceled", at)

    def _siblings(self, order: VenueOrder) -> list[VenueOrder]:
        """The other half of an OCO, while it is open."""
        if order.order_class != "oco":
            return []
        parent = self.store.order(order.parent_id) if order.parent_id else order
        group = [] if parent is None else [parent, *self.store.legs(parent)]
        return [other for other in group if other.id != order.id and other.is_open]

    def _book(self, order: VenueOrder, qty: Decimal, price: Decimal) -> None:
        held = self.store.holding(order.symbol) or Holding(order.symbol, Decimal(0), Decimal(0))
        if order.side == "buy":
            total = held.qty + qty
            average = (held.average * held.qty + price * qty) / total
            self.store.hold(Holding(order.symbol, total, average))
            self.store.cash -= price * qty
        else:
            self.store.hold(Holding(order.symbol, held.qty - qty, held.average))
            self.store.cash += price * qty

    def end(self, order: VenueOrder, status: str, at: datetime) -> None:
        """Close one order unfilled: `canceled`, `expired` or `rejected`."""
        stamp = {"canceled": "canceled_at", "expired": "expired_at", "rejected": "failed_at"}[status]
        self.store.change(order, status=status, updated_at=at, **{stamp: at})

    def cancel(self, order: VenueOrder, at: datetime) -> None:
        """Cancel an order and what hangs on it."""
        trick, _, seconds = self.trick.partition(":")
        if trick == "cancel_lost" and (price := self._market_price(order, at)) is not None:
            self._fill(order, order.left, price, at)
            return
        if trick == "cancel_slow":
            self.store.change(order, status="pending_cancel", updated_at=at)
            self._later.append(_Later(at + timedelta(seconds=int(seconds)), order.id, trick))
            return
        self._cancel_now(order, at)

    def _cancel_now(self, order: VenueOrder, at: datetime) -> None:
        for one in (order, *self._siblings(order)):
            self.end(one, "canceled", at)

    # --- scripted faults of the market -------------------------------------------------------------

    def _market_price(self, order: VenueOrder, at: datetime) -> Decimal | None:
        """What the order would trade at now, its own price forgotten; None while the symbol does not trade."""
        session = self.session_now(at)
        play = self.play(order.symbol, session) if session is not None else None
        return None if play is None else self._taken(play, play.minute(at), order.side == "buy")

    def _tricked(self, order: VenueOrder, now: datetime) -> bool:
        """Whether a scripted fault decided about this new order already."""
        trick, _, number = self.trick.partition(":")
        if trick == "reject_late":
            for one in (order, *self._siblings(order)):
                self.end(one, "rejected", now)
            return True
        price = self._market_price(order, now)
        if order.tif not in ("ioc", "day") or order.type != "limit" or order.limit_price is None or price is None:
            return False
        crosses = price <= order.limit_price if order.side == "buy" else price >= order.limit_price
        if not crosses:
            return False
        if trick == "partial" and int(number) < order.left:
            self._fill(order, Decimal(int(number)), price, now)
            if order.tif == "ioc":
                self.end(self._again(order.id), "canceled", now)
            return True
        if trick in ("late", "late_filled", "late_rest"):
            if trick == "late_rest" and order.left > 1:
                self._fill(order, Decimal(1), price, now)
            self.end(self._again(order.id), "canceled", now)
            self._later.append(_Later(now + timedelta(seconds=int(number)), order.id, trick, price))
            self.postponed = order.client_order_id
            return True
        return False

    def _again(self, order_id: str) -> VenueOrder:
        current = self.store.order(order_id)
        assert current is not None  # it was stored before
        return current

    def _play_later(self, now: datetime) -> None:
        due = [later for later in self._later if later.at <= now]
        self._later = [later for later in self._later if later.at > now]
        for later in due:
            order = self._again(later.order_id)
            if later.trick == "cancel_slow" and order.status == "pending_cancel":
                self._cancel_now(order, later.at)
            elif later.price is not None and (quantity := self._still_possible(order)) > 0:
                self._fill(order, quantity, later.price, later.at)
                if later.trick == "late":
                    self.store.change(self._again(order.id), status="canceled")

    def _still_possible(self, order: VenueOrder) -> Decimal:
        """How much of an order that was told canceled can fill after all: no broker sells what is not there."""
        if order.side == "buy":
            return order.left
        held = self.store.holding(order.symbol)
        claimed = sum((o.left for o in self.store.open_orders(order.symbol) if o.side == "sell"), Decimal(0))
        return min(order.left, Decimal(0) if held is None else held.qty - claimed)

    def _expire(self, at: datetime) -> None:
        for order in self.store.open_orders():
            if order.expires_at <= at:
                self.end(order, "expired", at)

    def take(self, order: VenueOrder, now: datetime) -> None:
        """A new order meets the market at once; IOC ends here whatever happens, the rest may go on resting."""
        if self.trick and self._tricked(order, now):
            return
        session = self.session_now(now)
        play = self.play(order.symbol, session) if session is not None else None
        if play is not None:
            minute = play.minute(now)
            self._match(order.symbol, play, minute, minute)
        current = self.store.order(order.id)
        if current is None or not current.is_open:
            return
        if order.tif in ("ioc", "fok"):
            self.end(current, "canceled", now)
        elif session is not None and current.status == "pending_new":
            self.store.change(current, status="new", updated_at=now)
