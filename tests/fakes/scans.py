"""A scripted planner, a hand-made calendar and a world with a TradingSession in it, on the in-memory broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from config.settings_schema import Settings
from core.clock import SteppedClock
from core.domain import ExitReason, Signal, Symbol
from core.market_calendar import Facts, MarketCalendar
from execution.ledger import Ledger
from execution.scheduler import DueRun
from execution.session import Entry, Plan, TradingSession
from portfolio.sizing import shares
from tests.fakes.fake_broker import FakeBroker
from tests.fakes.trading import CALM, NOW, TODAY, Switch, World, a_desk, book, entry

SIGNAL_SESSION = date(2024, 3, 4)
OLD_SESSION = date(2024, 2, 28)
NAMES = ("HELD", "DUE", "PICKA", "PICKB")
_HOLIDAYS = {"0101", "0115", "0219", "0329", "0527", "0619", "0704", "0902", "1128", "1225"}
_HALF_DAYS = (date(2024, 7, 3), date(2024, 11, 29), date(2024, 12, 24))


@cache
def calendar_2024() -> MarketCalendar:
    """New York's sessions of 2024, written out by hand so that no test waits for the library."""
    days = (date(2024, 1, 1) + timedelta(days=n) for n in range(366))
    sessions = tuple(d for d in days if d.weekday() < 5 and f"{d:%m%d}" not in _HOLIDAYS)
    return MarketCalendar(Facts(sessions, {}, {day: time(13) for day in _HALF_DAYS}, 2024))


def due(label: str = "10:00", *, session: date = TODAY, at: datetime = NOW, first: bool = True) -> DueRun:
    return DueRun(session, label, at, first=first, last=False)


def signal(symbol: str, *, session: date = SIGNAL_SESSION, stop: float = 45.0, target_r: float | None = None) -> Signal:
    return Signal(
        strategy="ibs_rsi", symbol=Symbol(symbol), session=session, close=50.0, stop=stop, target_r=target_r,
        time_stop_bars=7, strength=0.5,
    )  # fmt: skip


def a_plan(*symbols: str, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "signal_session": SIGNAL_SESSION,
        "entries": tuple(Entry(signal(symbol), Decimal(1)) for symbol in symbols),
        "vix": 15.0,
        "returns": {Symbol(s): CALM for s in (*NAMES, *symbols)},
        "sectors": {Symbol(s): "Tech" for s in (*NAMES, *symbols)},
        "closes": {Symbol(s): 50.0 for s in (*NAMES, *symbols)},
    }
    return Plan(**{**values, **changes})


@dataclass
class ScriptedPlanner:
    """Says what it is told to; `during` runs while the vendor is being asked."""

    plan_: Plan
    exits_: Sequence[tuple[str, ExitReason]] = ()
    error: Exception | None = None
    during: Callable[[], None] = lambda: None
    asked: list[str] = field(default_factory=list)

    def exits(self, run: DueRun, ledger: Ledger) -> Sequence[tuple[str, ExitReason]]:
        self.asked.append("exits")
        return [(d, why) for d, why in self.exits_ if d in ledger.trades and ledger.trades[d].is_open]

    def plan(self, run: DueRun, ledger: Ledger) -> Plan:
        self.asked.append("plan")
        self.during()
        if self.error is not None:
            raise self.error
        return self.plan_


@dataclass
class Scene:
    """A World, its planner, and the session between them. `restart` is a new process on the same disk."""

    world: World
    planner: ScriptedPlanner
    settings: Settings
    session: TradingSession
    stopping: list[bool]
    views: list[Mapping[Symbol, int]]
    feed: Any = None  # corporate actions; None: nobody is asked

    @property
    def broker(self) -> Any:
        return self.world.broker

    def ledger(self) -> Ledger:
        return self.world.desk.ledger()

    def open_session(self) -> TradingSession:
        def size(price: Decimal, stop: Decimal, room: Decimal, scale: Decimal) -> tuple[int, str | None]:
            return shares(price, stop, Decimal(75), max(room, Decimal(0)), Decimal(10), scale)

        self.session = TradingSession(
            desk=self.world.desk, quotes=self.world.broker, planner=self.planner, sizer=size, settings=self.settings,
            calendar=calendar_2024(), write_views=lambda ledger, day: self.views.append(ledger.positions),
            stopping=lambda: self.stopping[0], actions=self.feed,
        )  # fmt: skip
        return self.session

    def restart(self, broker: Any = None) -> TradingSession:
        if broker is not None:
            self.world.broker = broker
        self.world.restart()
        return self.open_session()


def scene(root: Path, *picks: str, start_at: datetime = NOW, **execution: Any) -> Scene:
    clock, halt = SteppedClock(start_at), Switch()
    broker = FakeBroker(clock)
    desk = a_desk(root, clock, broker, halt)
    plain = Settings()
    settings = plain.model_copy(update={"execution": plain.execution.model_copy(update=execution)})
    made = Scene(
        World(clock, desk.journal, broker, halt, desk, root), ScriptedPlanner(a_plan(*picks)), settings,
        None, [False], [],  # type: ignore[arg-type]
    )  # fmt: skip
    made.open_session()
    return made


def decision(symbol: str, session: date = OLD_SESSION) -> str:
    return f"{session:%Y%m%d}-ibs_rsi-{symbol}"


def hold(made: Scene, *symbols: str, protected: bool = True, target_r: float | None = None) -> None:
    """Trades bought some days ago, with their resting protection."""
    clock = made.world.clock
    today = clock.now()
    clock.set(datetime(2024, 2, 29, 15, 0, tzinfo=UTC))
    for symbol in symbols:
        intent = replace(
            entry(symbol, target_r=target_r, at=clock.now()), decision_id=decision(symbol), signal_session=OLD_SESSION
        )
        facts = {
            "now": clock.now(), "closes_at": clock.now() + timedelta(hours=6),
            "returns": {Symbol(s): CALM for s in NAMES}, "marks": {Symbol(s): Decimal(50) for s in NAMES},
            "sectors": {Symbol(s): "Tech" for s in NAMES},
        }  # fmt: skip
        seen = book(symbol, **facts)
        assert seen.quote is not None
        made.world.desk.execute(intent, replace(seen, quote=replace(seen.quote, at=clock.now())))
    if protected and symbols:
        made.session.look_after(date(2024, 2, 29))
    clock.set(today)
    assert {trade.symbol for trade in made.ledger().open_trades()} >= set(symbols)
