"""Reads what the pure rules decide about: the broker's side of the comparison, and the evidence behind a break.

In step, only the first is read. What cannot be read is named as a gap; it never counts as "there is nothing".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ParamSpec, TypeVar

from core import logs
from core.clock import Clock
from core.domain import Account, Asset, CorporateAction, Fill, Order, Position, Purpose, Symbol
from core.errors import BrokerError, DataError
from core.ports import ActionFeed, Broker
from execution.breaks import POSITION_KINDS, Break, Cause
from execution.causes import Evidence, explain, foreign
from execution.ledger import Ledger, LedgerOrder
from execution.reconcile import find_breaks, foreign_fills

P = ParamSpec("P")
T = TypeVar("T")
SECOND_LOOK_S = 1.0
LAG_LOOKS, LAG_LOOK_S = 3, 1.0
"""A listing that runs behind our newest fill is looked at again this often before it is told as a break."""
_LOOK_BACK = timedelta(days=10)  # without an open trade: for corporate actions and trades outside
_LOOK_BACK_MOST = timedelta(days=120)
_MOST_COPIES = 60
_MOST_MAKERS = 20


@dataclass(frozen=True, slots=True)
class BrokerSide:
    """What the broker says it holds."""

    positions: Mapping[Symbol, Position]
    open_orders: Sequence[Order]
    account: Account


def read_side(broker: Broker, ledger: Ledger, clock: Clock) -> BrokerSide:
    """Positions, complete open orders, account. A listing without any of our positions is read a second time.

    Raises BrokerDown, BrokerRejected; what comes back may still be implausible, which `find_breaks` refuses.
    """
    positions = broker.positions()
    if ledger.positions and not any(symbol in positions for symbol in ledger.positions):
        clock.sleep(SECOND_LOOK_S)
        again = broker.positions()
        if set(again) != set(positions):
            logs.event("positions_flickered", code="POSITIONS_FLICKERED", first=len(positions), second=len(again))
            logs.count("positions_flickered")
        positions = again
    return BrokerSide(positions, broker.open_orders(), broker.account())


def look(
    broker: Broker, feed: ActionFeed | None, ledger: Callable[[], Ledger], clock: Clock
) -> tuple[tuple[Break, ...], BrokerSide, Evidence | None]:
    """Every break with its cause; no evidence is read while there is no break of positions.

    Raises BrokerDown (also IMPLAUSIBLE_FLAT), BrokerRejected.
    """
    side, found = _compared(broker, ledger(), clock)
    if not any(b.kind in POSITION_KINDS for b in found):
        return found, side, None
    for attempt in range(LAG_LOOKS):
        evidence = gather(broker, feed, ledger(), clock, side, found)
        explained = explain(found, evidence)
        lagging = [b for b in explained if b.cause is Cause.BROKER_LAG]
        if not lagging or attempt == LAG_LOOKS - 1:
            return explained, side, evidence
        clock.sleep(LAG_LOOK_S)
        side, found = _compared(broker, ledger(), clock)
        if not any(b.kind in POSITION_KINDS for b in found):
            return found, side, None
    raise AssertionError("the last attempt returns")


def _compared(broker: Broker, ledger: Ledger, clock: Clock) -> tuple[BrokerSide, tuple[Break, ...]]:
    side = read_side(broker, ledger, clock)
    return side, find_breaks(ledger, side.positions, side.open_orders, account=side.account)


# ---------------------------------------------------------------- evidence
def instant(broker: Broker, clock: Clock) -> datetime:
    """The earlier of our clock and the broker's: what is looked for lies before both. Ours when its cannot be read."""
    now = clock.now()
    try:
        return min(now, broker.clock().now)
    except BrokerError:
        return now


@dataclass
class _Reader:
    """Asks, and remembers what could not be told."""

    gaps: list[str] = field(default_factory=list)

    def ask(self, what: str, call: Callable[P, T], *args: P.args, **more: P.kwargs) -> list[T]:
        """The one answer, or none: then there is a gap."""
        try:
            return [call(*args, **more)]
        except (BrokerError, DataError) as error:
            self.gaps.append(f"{what} ({error.code})")
            logs.event("evidence_missing", what=what, code=error.code, detail=str(error))
            logs.count("evidence_missing", code=error.code)
            return []


def gather(
    broker: Broker, feed: ActionFeed | None, ledger: Ledger, clock: Clock, side: BrokerSide, breaks: Sequence[Break]
) -> Evidence:
    """Everything that may explain position breaks of these symbols, from the oldest trade concerned on."""
    symbols = {b.symbol for b in breaks if b.kind in POSITION_KINDS}
    now = instant(broker, clock)
    start = _start(ledger, symbols, now)
    reader = _Reader()
    copies = _copies(broker, reader, _orders_of(ledger, symbols, start))
    fills = [fill for answer in reader.ask("fills", broker.fills, start) for fill in answer]
    acts = [act for answer in reader.ask("account activities", broker.account_activities, start) for act in answer]
    actions: list[CorporateAction] = []
    if feed is not None:
        for answer in reader.ask("corporate actions", feed.actions, symbols | set(ledger.positions), start.date()):
            actions += answer
    fills = list({fill.id: fill for fill in fills}.values())  # the same activity id twice is one fill
    strangers = [fill for fill in foreign(ledger, fills, copies) if fill.symbol in symbols]
    makers = _makers(broker, reader, strangers)
    assets: dict[Symbol, Asset | None] = {}
    for symbol in sorted(symbols - set(side.positions)):
        for asset in reader.ask(f"asset {symbol}", broker.asset, symbol):
            assets[symbol] = asset
    return Evidence(
        at=now, ledger=ledger, positions=side.positions, account=side.account, fills=tuple(fills),
        activities=tuple(acts), actions=tuple(actions), by_client_id=copies, by_order_id=makers, assets=assets,
        gaps=tuple(reader.gaps),
    )  # fmt: skip


def _start(ledger: Ledger, symbols: Iterable[Symbol], now: datetime) -> datetime:
    opened = [t.opened_at for t in ledger.open_trades() if t.symbol in symbols]
    return max(now - _LOOK_BACK_MOST, min([*opened, now - _LOOK_BACK]) - timedelta(days=1))


def _orders_of(ledger: Ledger, symbols: Iterable[Symbol], since: datetime) -> list[LedgerOrder]:
    """Our orders of these symbols that may say something, the newest of them."""
    wanted = set(symbols)
    decisions = {t.decision_id for t in ledger.trades.values() if t.symbol in wanted}
    mine = [
        o for o in ledger.orders.values()
        if (o.intent.symbol in wanted or o.intent.decision_id in decisions) and o.end != "not_sent"
        and (o.intended_at >= since or o.working)
    ]  # fmt: skip
    return sorted(mine, key=lambda o: o.intended_at, reverse=True)[:_MOST_COPIES]


def _copies(broker: Broker, reader: _Reader, orders: Iterable[LedgerOrder]) -> dict[str, Order | None]:
    """Orders as the broker tells them; one that could not be asked is left out, one it does not know is None."""
    found: dict[str, Order | None] = {}
    for order in orders:
        for copy in reader.ask(f"order {order.client_order_id}", broker.find, order.client_order_id):
            found[order.client_order_id] = copy
    return found


def _makers(broker: Broker, reader: _Reader, strangers: Iterable[Fill]) -> dict[str, Order | None]:
    """The orders behind fills that are not ours, by the broker's id."""
    found: dict[str, Order | None] = {}
    for order_id in list(dict.fromkeys(fill.order_id for fill in strangers))[:_MOST_MAKERS]:
        for maker in reader.ask(f"order id {order_id}", broker.by_id, order_id):
            found[order_id] = maker
    return found


def strange_fills(broker: Broker, ledger: Ledger, since: datetime) -> tuple[Break, ...]:
    """`--full`: executions since then that are not ours. Raises BrokerDown, BrokerRejected when they cannot be read."""
    fills = broker.fills(since)
    reader = _Reader()
    resting = [
        o for o in ledger.orders.values()
        if o.intent.purpose is Purpose.PROTECT and o.filled_quantity and (o.filled_at or o.intended_at) >= since
    ]  # fmt: skip
    copies = _copies(broker, reader, resting)  # the stop leg of an OCO fills under an id of its own
    makers = _makers(broker, reader, foreign(ledger, fills, copies))
    return foreign_fills(ledger, list({fill.id: fill for fill in fills}.values()), copies, makers)
