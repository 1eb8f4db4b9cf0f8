"""A night at the embedded venue: production session, desk, adapter and action feed over bars and events of a test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from config.settings_schema import Settings
from core.bars_io import BarColumns, to_day
from core.clock import SteppedClock
from core.domain import CorporateAction, Side, Symbol
from core.journal import Journal
from core.market.base import DividendEvent, SplitEvent
from core.market.real import BarsMarket
from core.market_calendar import NEW_YORK
from data.corporate_actions import AlpacaActions
from data.providers.alpaca_eod import AlpacaProvider
from execution.alpaca_broker import AlpacaBroker
from execution.desk import Desk
from execution.session import Entry, RunReport, TradingSession
from execution.venue.server import EmbeddedVenue
from tests.fakes.scans import ScriptedPlanner, a_plan, calendar_2024, due, signal
from tests.fakes.trading import CALM, Switch, Unbounded, limits

HELD, NEW, OTHER = Symbol("HELD"), Symbol("NEW"), Symbol("OTHER")
SHARES = 12
MON, TUE, WED, THU, FRI = (date(2024, 3, d) for d in (4, 5, 6, 7, 8))
DAYS = (MON, TUE, WED, THU, FRI)
Bars = Sequence[float | None]


def instant(day: date, clock: str) -> datetime:
    hour, minute = map(int, clock.split(":"))
    from datetime import UTC

    return datetime.combine(day, time(hour, minute), NEW_YORK).astimezone(UTC)


def _columns(closes: Bars) -> BarColumns:
    """Calm sessions at these prices, one per day of the week; None: not traded."""
    kept = [(day, close) for day, close in zip(DAYS, closes, strict=True) if close is not None]
    price = np.array([close for _, close in kept], dtype=np.float64)
    days = np.array([to_day(day) for day, _ in kept], dtype=np.int32)
    return BarColumns(days, price, price * 1.004, price * 0.996, price, np.full(len(kept), 1e6))


@dataclass
class Night:
    """HELD, 12 shares at 5.00 with a stop at 4.50, bought on Tuesday; everything else is what a test makes of it."""

    clock: SteppedClock
    broker: AlpacaBroker
    desk: Desk
    session: TradingSession
    planner: ScriptedPlanner

    def scan(self, day: date, clock: str = "09:35", *, first: bool = True) -> RunReport:
        self.clock.set(max(instant(day, clock), self.clock.now()))
        return self.session.run(due(clock, session=day, at=self.clock.now(), first=first))

    def evening(self, day: date) -> RunReport:
        self.clock.set(instant(day, "16:01"))
        return self.session.close_out(day)

    def before_open(self, day: date) -> None:
        self.clock.set(instant(day, "09:15"))
        self.session.look_after(day)

    def night(self, day: date) -> RunReport:
        """The evening before `day`, the quarter of an hour before its open, and its first scan."""
        self.evening(calendar_2024().previous_session(day))
        self.before_open(day)
        return self.scan(day)

    def held(self) -> dict[Symbol, int]:
        return {s: int(p.quantity) for s, p in self.broker.positions().items()}

    def ours(self) -> dict[Symbol, int]:
        return dict(self.desk.ledger().positions)

    def stops(self, symbol: Symbol = HELD) -> list[tuple[int, Decimal | None]]:
        return [
            (o.quantity, next((p.stop_price for p in (o, *o.legs) if p.stop_price is not None), None))
            for o in self.broker.open_orders() if o.symbol == symbol and o.side is Side.SELL
        ]  # fmt: skip

    def sold(self) -> list[tuple[Symbol, int, Decimal]]:
        fills = self.broker.fills(instant(MON, "09:30"))
        return [(f.symbol, f.quantity, f.price) for f in fills if f.side is Side.SELL]

    def records(self, kind: str) -> list[dict[str, Any]]:
        return [dict(r.body) for r in self.desk.journal.kinds(kind)]


@contextmanager
def holding(
    root: Path, bars: dict[str, Bars], *, target_r: float | None = None, events: Sequence[CorporateAction] = (),
    splits: Sequence[tuple[str, date, float]] = (), dividends: Sequence[tuple[str, date, float]] = (),
) -> Iterator[Night]:  # fmt: skip
    market = BarsMarket(
        {s: _columns(closes) for s, closes in bars.items()}, events=events,
        splits=[SplitEvent(Symbol(s), day, ratio) for s, day, ratio in splits],
        dividends=[DividendEvent(Symbol(s), day, cash) for s, day, cash in dividends],
    )  # fmt: skip
    clock = SteppedClock(instant(TUE, "09:35"))
    venue = EmbeddedVenue(market, clock, root / "venue.sqlite", calendar=calendar_2024())
    url = venue.start()
    try:
        night = _open(root, clock, url, list(bars), target_r)
        night.scan(TUE)
        night.planner.plan_ = replace(night.planner.plan_, entries=())
        assert night.held() == {HELD: SHARES} == night.ours() and night.stops() == [(SHARES, Decimal("4.5"))]
        yield night
        assert venue.failures == []
    finally:
        venue.stop()


def _open(root: Path, clock: SteppedClock, url: str, symbols: Sequence[str], target_r: float | None) -> Night:
    halt = Switch()
    broker = AlpacaBroker(
        key_id="k", secret="s", base_url=url, data_url=url, halt=halt, connect_timeout_s=3.0, read_timeout_s=10.0,
        total_timeout_s=15.0, clock=clock, admission=Unbounded(),
    )  # fmt: skip
    desk = Desk(journal=Journal(root / "state" / "hash_chain.jsonl", clock), broker=broker, halt=halt, clock=clock,
                limits=limits(), lock_path=root / "state" / "desk")  # fmt: skip
    feed = AlpacaActions(AlpacaProvider("k", "s", url, clock, name="venue", simulated=True), clock)
    planner = ScriptedPlanner(a_plan(
        "HELD", entries=(Entry(signal("HELD", stop=4.5, target_r=target_r), Decimal(1)),),
        closes={Symbol(s): 5.0 for s in symbols}, returns={Symbol(s): CALM for s in symbols},
        sectors={Symbol(s): "Tech" for s in symbols},
    ))  # fmt: skip
    session = TradingSession(
        desk=desk, quotes=broker, planner=planner, sizer=lambda *_: (SHARES, None), settings=Settings(),
        calendar=calendar_2024(), write_views=lambda ledger, day: None, actions=feed,
    )  # fmt: skip
    return Night(clock, broker, desk, session, planner)
