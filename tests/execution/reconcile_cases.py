"""Sixty and more scripted breaks (M7): what happens behind our back, to which symbol, and the cause it must be given.

Each starts from the same account: 12 HELD and 12 DUE at 5.00 with their stops resting, and nothing wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from core.domain import ActionKind, Fill, OrderIntent, Purpose, Side, Symbol, Tif
from core.errors import OutcomeUnknown
from execution.breaks import BreakKind, Cause
from tests.fakes.feeds import FakeFeed, action
from tests.fakes.scans import NAMES, OLD_SESSION, Scene, a_plan, decision, scene, signal
from tests.fakes.trading import CALM, TODAY, book, entry

HELD, DUE, NEW, PICKA = (Symbol(s) for s in ("HELD", "DUE", "NEW", "PICKA"))
SHARES, PRICE = 12, Decimal("5.00")
STOP = f"kobe-{decision('HELD')}-sell-protect-1"
ENTRY = f"kobe-{decision('HELD')}-buy-entry-1"


def account(root: Path, *, target_r: float | None = None) -> Scene:
    """12 shares each of HELD and DUE, bought on 02-29 and protected; PICKA may be bought today."""
    from execution.session import Entry

    made = scene(root, "PICKA")
    made.feed = FakeFeed()
    made.broker.bid, made.broker.ask = Decimal("4.99"), PRICE
    made.planner.plan_ = a_plan(
        "PICKA", entries=(Entry(signal("PICKA", stop=4.5), Decimal(1)),),
        closes={Symbol(s): 5.0 for s in (*NAMES, "PICKA")}, returns={Symbol(s): CALM for s in (*NAMES, "PICKA")},
        sectors={Symbol(s): "Tech" for s in (*NAMES, "PICKA")},
    )  # fmt: skip
    clock = made.world.clock
    today = clock.now()
    clock.set(datetime(2024, 2, 29, 15, 0, tzinfo=UTC))
    for symbol in ("HELD", "DUE"):
        buy(made, symbol, SHARES, target_r=target_r)
    made.restart()
    made.session.look_after(date(2024, 2, 29))
    clock.set(today)
    assert {t.symbol: t.quantity for t in made.ledger().open_trades()} == {HELD: SHARES, DUE: SHARES}
    assert len(made.broker.open_orders()) == 2
    return made


def an_entry(made: Scene, symbol: str, quantity: int, target_r: float | None = None) -> OrderIntent:
    intent = entry(symbol, price="5.02", quantity=quantity, stop="4.50", target_r=target_r, at=made.world.clock.now())
    return replace(intent, decision_id=decision(symbol), signal_session=OLD_SESSION)


def buy(made: Scene, symbol: str, quantity: int, *, target_r: float | None = None) -> None:
    now = made.world.clock.now()
    seen = book(
        symbol, now=now, closes_at=now + timedelta(hours=6), returns={Symbol(s): CALM for s in (*NAMES, "NEW")},
        marks={Symbol(s): PRICE for s in NAMES}, sectors={Symbol(s): "Tech" for s in (*NAMES, "NEW")},
    )  # fmt: skip
    assert seen.quote is not None
    quote = replace(seen.quote, at=now, bid=Decimal("4.99"), ask=PRICE, last=PRICE)
    made.world.desk.execute(an_entry(made, symbol, quantity, target_r), replace(seen, quote=quote))


@dataclass(frozen=True)
class Case:
    """`happen` is what goes wrong; `symbol` then has a break of this cause, of this kind if one is named."""

    name: str
    happen: Callable[[Scene], None]
    cause: Cause
    symbol: Symbol = HELD
    kind: BreakKind | None = None
    target_r: float | None = None

    def __str__(self) -> str:
        return self.name


# ---------------------------------------------------------------- our own orders
def told_nothing_filled(made: Scene, *, filled: int, status: str, quantity: int = SHARES) -> None:
    """An IOC of NEW that was told canceled with nothing, and of which the broker now says otherwise."""
    cid = an_entry(made, "NEW", quantity).client_order_id
    made.broker.plan[cid] = 0
    buy(made, "NEW", quantity)
    made.broker.fill(cid, filled, price=PRICE)
    made.broker.orders[cid] = replace(made.broker.orders[cid], status=status)


def only_in_activities(made: Scene) -> None:
    told_nothing_filled(made, filled=SHARES, status="canceled")
    cid = an_entry(made, "NEW", SHARES).client_order_id
    made.broker.orders[cid] = replace(made.broker.orders[cid], filled_quantity=0, filled_price=None)


def booked_too_little(made: Scene, status: str) -> None:
    cid = an_entry(made, "NEW", SHARES).client_order_id
    made.broker.plan[cid] = 5
    buy(made, "NEW", SHARES)
    made.broker.fill(cid, SHARES - 5, price=PRICE)
    made.broker.orders[cid] = replace(made.broker.orders[cid], status=status)


def stop_filled(made: Scene, quantity: int = SHARES, *, leg: bool = False) -> None:
    made.broker.fill(STOP, quantity, price=Decimal("4.50"), leg=leg)


def unknown(made: Scene, *, fills: bool) -> None:
    """The POST of a NEW entry was cut: it may be live, and it is, or it is not."""
    cid = an_entry(made, "NEW", SHARES).client_order_id
    if fills:
        made.broker.after_submit = [OutcomeUnknown("reset")]
    else:
        made.broker.before_submit = [OutcomeUnknown("reset")]
    made.broker.lag_s = 3600.0
    made.world.desk.lag_s = 0.0
    buy(made, "NEW", SHARES)
    made.broker.lag_s = 0.0
    assert made.ledger().orders[cid].unsettled


def busted(made: Scene, quantity: int) -> None:
    """The exchange took back shares of our entry."""
    order = made.broker.orders[ENTRY]
    made.broker.orders[ENTRY] = replace(order, filled_quantity=order.filled_quantity - quantity)
    made.broker.activities = [f for f in made.broker.activities if f.order_id != order.id]
    made.broker.held[HELD] -= quantity
    made.broker.cash += PRICE * quantity


def bust_told(made: Scene) -> None:
    made.broker.happened("TRADE_BUST", HELD, -SHARES, PRICE * SHARES)


def lagging(made: Scene, shown: int) -> None:
    """NEW filled a moment ago; the position listing does not know it yet, and will not soon."""
    buy(made, "NEW", SHARES)
    real = made.broker.positions

    def listing() -> object:
        rows = dict(real())
        rows[NEW] = replace(rows[NEW], quantity=Decimal(shown))
        return {s: p for s, p in rows.items() if p.quantity}

    made.broker.positions = listing


def second_copy(made: Scene, *, fills: bool) -> None:
    """Another attempt of our own decision, sent by a process that wrote no journal."""
    cid = ENTRY[:-1] + "2"
    if fills:
        made.broker.trade_by_hand(HELD, SHARES, cid=cid)
    else:
        open_order(made, cid, HELD, Side.BUY)


def open_order(made: Scene, cid: str, symbol: Symbol, side: Side, quantity: int = 3) -> None:
    made.broker.trade_by_hand(symbol, 1, cid=cid)
    order = made.broker.orders[cid]
    made.broker.held[symbol] -= 1
    if not made.broker.held[symbol]:
        del made.broker.held[symbol]
    made.broker.activities.pop()
    made.broker.orders[cid] = replace(
        order, side=side, quantity=quantity, filled_quantity=0, filled_price=None, status="new", filled_at=None
    )


def closed_but_resting(made: Scene) -> None:
    """DUE was sold, and its stop is still there."""
    made.broker.fill(f"kobe-{decision('DUE')}-sell-protect-1", SHARES, price=PRICE)
    made.world.desk.settle()
    order = made.broker.orders[f"kobe-{decision('DUE')}-sell-protect-1"]
    made.broker.orders[order.client_order_id] = replace(order, filled_quantity=0, status="new", filled_price=None)


def resting_elsewhere(made: Scene) -> None:
    """A stop of ours that our record ended comes back to life."""
    made.broker.cancel(made.broker.orders[STOP].id)
    made.world.desk.poll(STOP, wait_s=0.0)
    made.broker.orders[STOP] = replace(made.broker.orders[STOP], status="new")


# ---------------------------------------------------------------- other hands
def by_hand(made: Scene, symbol: Symbol, *quantities: int) -> None:
    for number, quantity in enumerate(quantities):
        if quantity < 0 and symbol == HELD:
            made.broker._end(STOP, "canceled")
            made.world.desk.poll(STOP, wait_s=0.0)
        cid = f"app-{symbol}-{len(made.broker.orders)}-{number}"
        made.broker.trade_by_hand(symbol, quantity, cid=cid, price="5.00")


def restored(made: Scene, symbol: Symbol = NEW) -> None:
    """The journal was restored from a backup made before these orders."""
    made.broker.trade_by_hand(symbol, SHARES, cid=f"kobe-20240301-ibs_rsi-{symbol}-buy-entry-1")


def reset(made: Scene) -> None:
    """A paper account begun anew."""
    made.broker.orders.clear()
    made.broker.held.clear()
    made.broker.activities.clear()
    made.broker.cash = Decimal("100000")


def other_account(made: Scene) -> None:
    made.world.journal.append("account_bound", {"id": "another", "number": "PA999999", "mode": "paper"})
    made.broker.trade_by_hand(NEW, 3)


def fraction(made: Scene, symbol: Symbol, shares: str) -> None:
    made.broker.held[symbol] = Decimal(shares)
    made.broker.cost.setdefault(symbol, PRICE)


# ---------------------------------------------------------------- companies
def split(made: Scene, ratio: str, *, feed: bool, told: bool, orders: str = "cancel") -> None:
    if feed:
        made.feed.known.append(action(ActionKind.SPLIT, "HELD", TODAY, ratio=ratio))
    made.broker.split(HELD, Fraction(ratio), told=told, orders=orders)


def renamed(made: Scene, *, feed: bool, told: bool, same_asset: bool) -> None:
    made.world.journal.append("asset_known", {"symbol": "HELD", "asset_id": "asset-HELD"})
    if feed:
        made.feed.known.append(action(ActionKind.RENAME, "HELD", TODAY, other=NEW))
    made.broker.rename(HELD, NEW, told=told, same_asset=same_asset)


def merged(made: Scene, *, feed: bool, told: bool, ratio: str | None, cash: str | None) -> None:
    shares = int(SHARES * Fraction(ratio)) if ratio else 0
    usd = Decimal(cash) * SHARES if cash else None
    if feed:
        other = NEW if ratio else None
        made.feed.known.append(action(ActionKind.MERGER, "HELD", TODAY, other=other, ratio=ratio, cash_per_share=cash))
    made.broker._end(STOP, "canceled")
    if told:
        made.broker.happened("MA", HELD, -SHARES, usd, group="m")
        if shares:
            made.broker.happened("MA", NEW, shares, group="m")
    else:
        made.broker.held[HELD] = 0
        made.broker.cash += usd or 0
        if shares:
            made.broker.held[NEW] = shares
    made.broker.cost[NEW] = PRICE


def ended(made: Scene, *, feed: str | None, told: bool, cash: str | None = None) -> None:
    usd = Decimal(cash) * SHARES if cash else Decimal(0)
    if feed is not None:
        made.feed.known.append(action(ActionKind.DELISTING, "HELD", TODAY, cash_per_share=feed))
    made.broker._end(STOP, "canceled")
    made.broker.gone.add(HELD)
    if told:
        made.broker.happened("REORG", HELD, -SHARES, usd)
    else:
        made.broker.held[HELD] = 0
        made.broker.cash += usd


def spun_off(made: Scene, *, feed: bool, told: bool, shares: str = "2") -> None:
    if feed:
        made.feed.known.append(action(ActionKind.SPINOFF, "HELD", TODAY, other=Symbol("BORN"), ratio="0.2419"))
    if told:
        made.broker.happened("SPIN", Symbol("BORN"), Decimal(shares))
    else:
        made.broker.held[Symbol("BORN")] = Decimal(shares)
    made.broker.cost[Symbol("BORN")] = PRICE


def reinvested(made: Scene, *, quantity: str | None) -> None:
    """A dividend of 0.10 a share bought 0.24 shares at 5.00."""
    made.broker.happened("DIV", HELD, None, Decimal("1.20"))
    if quantity is not None:
        act = made.broker.events[-1]
        made.broker.events[-1] = replace(act, quantity=Decimal(quantity))
    made.broker.held[HELD] = Decimal("12.24")


def moved(made: Scene, kind: str, quantity: int, symbol: Symbol) -> None:
    made.broker.happened(kind, symbol, quantity)
    made.broker.cost.setdefault(symbol, PRICE)


def out_of_nowhere(made: Scene, symbol: Symbol, shares: int) -> None:
    made.broker.held[symbol] = shares
    made.broker.cost.setdefault(symbol, PRICE)


def unprotected(made: Scene) -> None:
    made.broker._end(STOP, "canceled")


def lost_half(made: Scene) -> None:
    made.broker.orders[STOP] = replace(made.broker.orders[STOP], quantity=5)


def two_fills_of_one_id(made: Scene) -> None:
    """The same activity twice: one purchase of 3."""
    made.broker.trade_by_hand(NEW, 3)
    made.broker.activities.append(made.broker.activities[-1])


def exit_lost(made: Scene) -> None:
    """An exit of ours that was told canceled, and sold."""
    from execution.protection import leave
    from tests.fakes.trading import quote

    made.broker._end(STOP, "canceled")
    made.world.desk.poll(STOP, wait_s=0.0)
    cid = f"kobe-{decision('HELD')}-sell-exit-1"
    made.broker.plan[cid] = 0
    now = made.world.clock.now()
    from core.domain import ExitReason

    seen = quote("HELD", bid="4.99", ask="5.00", last="5.00", at=now)
    leave(made.world.desk, decision("HELD"), seen, ExitReason.TIME, book("HELD", now=now, quote=seen),
          offset_bps=30, max_clamp_bps=300, on=TODAY, tif=Tif.IOC)  # fmt: skip
    made.broker._end(f"kobe-{decision('HELD')}-sell-protect-2", "canceled")
    made.broker.fill(cid, SHARES, price=Decimal("4.98"))


def foreign_stop(made: Scene) -> Fill | None:
    open_order(made, "app-stop", HELD, Side.SELL)
    return None


CASES: tuple[Case, ...] = (
    Case("an IOC told empty was filled", lambda m: told_nothing_filled(m, filled=SHARES, status="filled"),
         Cause.LATE_FILL, NEW),
    Case("an IOC told empty was filled in part", lambda m: told_nothing_filled(m, filled=7, status="partially_filled"),
         Cause.LATE_FILL, NEW),
    Case("a part was booked, all of it filled", lambda m: booked_too_little(m, "filled"), Cause.LATE_FILL, NEW),
    Case("the stop filled unseen", stop_filled, Cause.LATE_FILL),
    Case("half of the stop filled unseen", lambda m: stop_filled(m, 6), Cause.LATE_FILL),
    Case("the stop leg of an OCO filled unseen", lambda m: stop_filled(m, leg=True), Cause.LATE_FILL, target_r=0.5),
    Case("an exit told canceled had sold", exit_lost, Cause.LATE_FILL),
    Case("canceled and filled", lambda m: told_nothing_filled(m, filled=SHARES, status="canceled"),
         Cause.CANCELLED_BUT_FILLED, NEW),
    Case("canceled and filled in part", lambda m: told_nothing_filled(m, filled=4, status="canceled"),
         Cause.CANCELLED_BUT_FILLED, NEW),
    Case("expired and filled", lambda m: told_nothing_filled(m, filled=SHARES, status="expired"),
         Cause.CANCELLED_BUT_FILLED, NEW),
    Case("a part was booked, canceled with more", lambda m: booked_too_little(m, "canceled"),
         Cause.CANCELLED_BUT_FILLED, NEW),
    Case("canceled, and only the activities tell the fill", only_in_activities, Cause.CANCELLED_BUT_FILLED, NEW),
    Case("a cut POST that took", lambda m: unknown(m, fills=True), Cause.UNSETTLED_INTENT, NEW,
         BreakKind.UNKNOWN_POSITION),
    Case("a cut POST of which nothing is seen", lambda m: unknown(m, fills=False), Cause.UNSETTLED_INTENT, NEW,
         BreakKind.UNSETTLED_INTENT),
    Case("a second copy of our entry filled", lambda m: second_copy(m, fills=True), Cause.DUPLICATE_ORDER),
    Case("a second copy of our entry is open", lambda m: second_copy(m, fills=False), Cause.DUPLICATE_ORDER, HELD,
         BreakKind.ORPHAN_ORDER),
    Case("a fill of ours was busted", lambda m: busted(m, SHARES), Cause.TRADE_BUST),
    Case("a part of a fill was busted", lambda m: busted(m, 5), Cause.TRADE_BUST),
    Case("a bust is told as an activity", bust_told, Cause.TRADE_BUST),
    Case("the listing lacks what just filled", lambda m: lagging(m, 0), Cause.BROKER_LAG, NEW),
    Case("the listing has half of what just filled", lambda m: lagging(m, 5), Cause.BROKER_LAG, NEW),
    Case("a stop whose trade is closed", closed_but_resting, Cause.ORPHAN_LEG, DUE, BreakKind.ORPHAN_ORDER),
    Case("an order that our record ended", resting_elsewhere, Cause.STILL_OPEN, HELD, BreakKind.ORPHAN_ORDER),
    Case("no stop rests", unprotected, Cause.UNPROTECTED, HELD, BreakKind.MISSING_PROTECTION),
    Case("the stop covers a part", lost_half, Cause.UNPROTECTED, HELD, BreakKind.MISSING_PROTECTION),
    Case("bought by hand", lambda m: by_hand(m, NEW, 3), Cause.MANUAL_TRADE, NEW),
    Case("more bought by hand", lambda m: by_hand(m, HELD, 3), Cause.MANUAL_TRADE),
    Case("doubled by hand", lambda m: by_hand(m, HELD, SHARES), Cause.MANUAL_TRADE),
    Case("some sold by hand", lambda m: by_hand(m, HELD, -4), Cause.MANUAL_TRADE),
    Case("all sold by hand", lambda m: by_hand(m, HELD, -SHARES), Cause.MANUAL_TRADE),
    Case("bought and partly sold by hand", lambda m: by_hand(m, NEW, 9, -4), Cause.MANUAL_TRADE, NEW),
    Case("sold short by hand", lambda m: by_hand(m, NEW, -3), Cause.MANUAL_TRADE, NEW),
    Case("one activity told twice", two_fills_of_one_id, Cause.MANUAL_TRADE, NEW),
    Case("somebody's buy order", lambda m: open_order(m, "app-1", NEW, Side.BUY), Cause.EXTERNAL_ORDER, NEW,
         BreakKind.ORPHAN_ORDER),
    Case("somebody's sell order on ours", lambda m: open_order(m, "app-1", HELD, Side.SELL), Cause.EXTERNAL_ORDER,
         HELD, BreakKind.ORPHAN_ORDER),
    Case("a purchase the journal forgot", restored, Cause.STALE_RESTORE, NEW),
    Case("more of ours the journal forgot", lambda m: restored(m, HELD), Cause.STALE_RESTORE),
    Case("an open order the journal forgot",
         lambda m: open_order(m, "kobe-20240301-ibs_rsi-NEW-buy-entry-1", NEW, Side.BUY), Cause.STALE_RESTORE, NEW,
         BreakKind.ORPHAN_ORDER),
    Case("the paper account was reset", reset, Cause.PAPER_RESET),
    Case("another account", other_account, Cause.WRONG_ACCOUNT, NEW),
    Case("a fraction more", lambda m: fraction(m, HELD, "12.37"), Cause.FRACTIONAL_RESIDUE),
    Case("a fraction of something", lambda m: fraction(m, NEW, "0.4"), Cause.FRACTIONAL_RESIDUE, NEW),
    Case("AAPL 4:1, all say so", lambda m: split(m, "4", feed=True, told=True), Cause.SPLIT),
    Case("a 3:2 split", lambda m: split(m, "3/2", feed=True, told=False), Cause.SPLIT),
    Case("a 20:1 split that only the broker tells", lambda m: split(m, "20", feed=False, told=True), Cause.SPLIT),
    Case("a 2:1 split that nobody tells", lambda m: split(m, "2", feed=False, told=False), Cause.SPLIT),
    Case("a stock dividend of 25 %", lambda m: split(m, "5/4", feed=True, told=True), Cause.SPLIT),
    Case("GE 1:8, a fraction paid out", lambda m: split(m, "1/8", feed=True, told=True), Cause.REVERSE_SPLIT),
    Case("a 1:4 split that only the broker tells", lambda m: split(m, "1/4", feed=False, told=True),
         Cause.REVERSE_SPLIT),
    Case("a 1:3 split that nobody tells", lambda m: split(m, "1/3", feed=False, told=False), Cause.REVERSE_SPLIT),
    Case("a 1:20 split that leaves nothing", lambda m: split(m, "1/20", feed=True, told=True), Cause.REVERSE_SPLIT),
    Case("FB is META, all say so", lambda m: renamed(m, feed=True, told=True, same_asset=True), Cause.RENAME),
    Case("renamed with another asset id", lambda m: renamed(m, feed=True, told=False, same_asset=False), Cause.RENAME),
    Case("the new name is named too", lambda m: renamed(m, feed=True, told=False, same_asset=False), Cause.RENAME,
         NEW),
    Case("renamed, only the broker tells", lambda m: renamed(m, feed=False, told=True, same_asset=False),
         Cause.RENAME),
    Case("renamed, only the asset id tells", lambda m: renamed(m, feed=False, told=False, same_asset=True),
         Cause.RENAME),
    Case("TWTR bought for 54.20 cash", lambda m: merged(m, feed=True, told=True, ratio=None, cash="54.20"),
         Cause.MERGER),
    Case("merged for stock", lambda m: merged(m, feed=True, told=False, ratio="0.895", cash=None), Cause.MERGER),
    Case("the acquirer's shares came", lambda m: merged(m, feed=True, told=False, ratio="0.895", cash=None),
         Cause.MERGER, NEW),
    Case("merged for stock and cash", lambda m: merged(m, feed=True, told=True, ratio="0.7733", cash="7.80"),
         Cause.MERGER),
    Case("merged, only the broker tells", lambda m: merged(m, feed=False, told=True, ratio="0.5", cash="1.00"),
         Cause.MERGER, NEW),
    Case("delisted, worthless", lambda m: ended(m, feed="0", told=False), Cause.DELISTING),
    Case("redeemed for cash", lambda m: ended(m, feed="3.10", told=True, cash="3.10"), Cause.DELISTING),
    Case("ended, only the broker tells", lambda m: ended(m, feed=None, told=True), Cause.DELISTING),
    Case("gone with its asset, nobody sold it", lambda m: ended(m, feed=None, told=False), Cause.DELISTING),
    Case("T spun off WBD", lambda m: spun_off(m, feed=True, told=True), Cause.SPINOFF, Symbol("BORN")),
    Case("a spin-off, only the feed tells", lambda m: spun_off(m, feed=True, told=False, shares="2.9"), Cause.SPINOFF,
         Symbol("BORN")),
    Case("a spin-off, only the broker tells", lambda m: spun_off(m, feed=False, told=True), Cause.SPINOFF,
         Symbol("BORN")),
    Case("a dividend bought a fraction", lambda m: reinvested(m, quantity=None), Cause.DIVIDEND_REINVEST),
    Case("a dividend with its shares", lambda m: reinvested(m, quantity="0.24"), Cause.DIVIDEND_REINVEST),
    Case("shares came from another broker", lambda m: moved(m, "ACATS", 30, NEW), Cause.TRANSFER, NEW),
    Case("shares were journalled out", lambda m: moved(m, "JNLS", -5, HELD), Cause.TRANSFER),
    Case("shares out of nowhere", lambda m: out_of_nowhere(m, HELD, 17), Cause.UNEXPLAINED),
    Case("shares gone to nowhere", lambda m: out_of_nowhere(m, HELD, 5), Cause.UNEXPLAINED),
)  # fmt: skip
assert Purpose.ENTRY in Purpose  # the names above are strings of ids built from it
