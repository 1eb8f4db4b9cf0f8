"""One drill: a home, a venue, a stepped clock, and the production order path between them.

`run_day` plays a plan to its end, restarting through the ordinary start-up after each crash, and hands back what the
venue and the journal then say. The only things that are not production code are the planner (signals from the seed)
and the watchers that count effects.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.bars_io import BarColumns, to_day
from core.clock import SteppedClock
from core.domain import ExitReason, OrderIntent, OrderKind, Purpose, Side, Symbol, Tif
from core.errors import KobeError
from core.journal import Journal
from core.market_calendar import MarketCalendar
from execution import desk as desk_module
from execution.alpaca_broker import AlpacaBroker
from execution.desk import Desk
from execution.drill.effects import Crash, Effects, Watched, watched_lock
from execution.drill.plan import SYMBOLS, DayPlan, bars_for, signals_for
from execution.ledger import Ledger
from execution.scheduler import DueRun, due_runs
from execution.session import Entry, Plan, TradingSession, after_close
from execution.venue.faults import FaultPlan
from risk.gate import Limits
from risk.kill_switch import KillSwitch, LatchedHalt

if TYPE_CHECKING:
    from config.settings_schema import Settings
    from execution.venue.server import VenueHost

FIRST_SESSION = date(2024, 3, 4)
HISTORY = 3  # sessions before the day that is played
SCANS = ("09:35", "10:30", "15:55")
TRIES = 4
BROKER_CALLS = frozenset(
    {"submit", "find", "open_orders", "cancel", "positions", "account", "clock", "asset", "fills", "quotes"}
)


@dataclass(frozen=True, slots=True)
class VenueTruth:
    """What the venue holds at the end: parent orders, fills and positions."""

    orders: Sequence[Any]
    fills: Sequence[Any]
    positions: Mapping[Symbol, int]


@dataclass
class Outcome:
    """Everything the invariants look at."""

    plan: DayPlan
    ledger: Ledger
    venue: VenueTruth
    journal: Path
    state: Path
    breaks: Sequence[Any]
    posts_after_trip: int
    tripped: bool
    unprotected: Sequence[str]
    story: list[str] = field(default_factory=list)
    effects: int = 0


class SeededPlanner:
    """Signals of the last session, from the seed; exits when the time stop is reached."""

    def __init__(self, seed: int, calendar: MarketCalendar, closes: Mapping[date, Mapping[Symbol, float]]) -> None:
        self._seed, self._calendar, self._closes = seed, calendar, closes

    def exits(self, run: DueRun, ledger: Ledger) -> list[tuple[str, ExitReason]]:
        due = []
        for trade in ledger.open_trades():
            held = len(self._calendar.sessions_between(trade.session, run.session))
            limit = trade.time_stop_bars or 0
            if held > limit or (held == limit and run.last):
                due.append((trade.decision_id, ExitReason.TIME))
        return due

    def plan(self, run: DueRun, ledger: Ledger) -> Plan:
        session = self._calendar.previous_session(run.session)
        closes = dict(self._closes[session])
        rng = np.random.default_rng(self._seed)
        return Plan(
            signal_session=session,
            entries=[Entry(s, Decimal(1)) for s in signals_for(self._seed, session, closes)],
            exits=self.exits(run, ledger),
            vix=15.0,
            returns={s: rng.normal(0, 0.01, 60) for s in SYMBOLS},
            sectors={s: f"sector {i}" for i, s in enumerate(SYMBOLS)},
            closes=closes,
        )


class World:
    """Everything one drill needs, in a folder of its own. `make_desk` lets a test put a broken desk in its place."""

    def __init__(
        self, plan: DayPlan, host: VenueHost, calendar: MarketCalendar, settings: Settings,
        make_desk: Callable[..., Desk] = Desk,
    ) -> None:  # fmt: skip
        self.plan, self._host, self._calendar, self._settings = plan, host, calendar, settings
        self._make_desk = make_desk
        self._stack = ExitStack()
        self.root = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="kobe-drill-")))
        self.state = self.root / "state"
        self.state.mkdir()
        first = calendar.offset(FIRST_SESSION, -HISTORY)
        self.sessions = calendar.sessions_between(first, calendar.offset(FIRST_SESSION, 2))
        self.day, self.next_day = self.sessions[HISTORY], self.sessions[HISTORY + 1]
        self.clock = SteppedClock(calendar.opens_at(self.day) - timedelta(minutes=30))
        self._bars = bars_for(plan.seed, len(self.sessions))
        self.faults = FaultPlan(plan.faults)
        self._store = host.open(
            self._market(), self.clock, self.root / "venue.sqlite", calendar=calendar, faults=self.faults
        )
        self._stack.callback(self._store.close)
        self.effects = Effects(self._acts())
        self._posts_at_trip: int | None = None
        self._started = 0

    def _market(self) -> Any:
        from core.market.real import BarsMarket

        days = np.array([to_day(s) for s in self.sessions], dtype=np.int32)
        bars = {}
        for symbol, rows in self._bars.items():
            o, h, lo, c = (np.array([row[k] for row in rows], dtype=np.float64) for k in range(4))
            bars[str(symbol)] = BarColumns(days, o, h, lo, c, np.full(len(days), 1e6))
        return BarsMarket(bars, vix=dict.fromkeys(self.sessions, 15.0), name="drill", spec="drill")

    def _acts(self) -> dict[int, Callable[[], None]]:
        acts: dict[int, Callable[[], None]] = dict.fromkeys(self.plan.second_at, self._second_script)
        if self.plan.trip_at is not None:
            acts[self.plan.trip_at] = self._trip
        return acts | dict.fromkeys(self.plan.crash_at, self._crash)

    # ------------------------------------------------------------ misfortunes
    def _crash(self) -> None:
        self.effects.tell("CRASH")
        raise Crash

    def _trip(self) -> None:
        self.effects.tell("KILL SWITCH appears")
        (self.state / "KILL_SWITCH").touch()
        self._posts_at_trip = self._host.posts

    def _second_script(self) -> None:
        """Another script on the same home tries an entry of its own, whole, right here."""
        if (self.state / "KILL_SWITCH").exists():
            return
        self.effects.busy = True
        try:
            desk = self._desk(watched=False)
            self._enter_by_hand(desk)
        except KobeError as error:
            self.effects.tell(f"second script: {error.code}")
        finally:
            self.effects.busy = False

    def _enter_by_hand(self, desk: Desk) -> None:
        self._started += 1
        symbol = SYMBOLS[-self._started % len(SYMBOLS)]
        broker: Any = desk.broker
        quote = broker.quotes([symbol]).get(symbol)
        if quote is None or quote.ask is None:
            return
        session = self._calendar.previous_session(self.day)
        intent = OrderIntent(
            decision_id=f"{session:%Y%m%d}-hand{self._started}-{symbol}", symbol=symbol, side=Side.BUY,
            quantity=max(1, int(Decimal(70) / quote.ask)), purpose=Purpose.ENTRY, kind=OrderKind.LIMIT, tif=Tif.IOC,
            decided_at=self.clock.now(), strategy="hand", signal_session=session, limit_price=quote.ask,
            stop_price=(quote.ask * Decimal("0.9")).quantize(Decimal("0.01")), time_stop_bars=1, reason="signal",
        )  # fmt: skip
        session_desk = self._session(desk)
        book = session_desk.book_for_entry(intent, quote)
        outcome, _ = desk.execute(intent, book, wait_s=1.0)
        self.effects.tell(f"second script: {type(outcome).__name__} {intent.client_order_id} x{intent.quantity}")

    # ------------------------------------------------------------ the production order path
    def _desk(self, *, watched: bool = True) -> Desk:
        journal: Any = Journal(self.state / "hash_chain.jsonl", self.clock, run_id="drill")
        halt = LatchedHalt(KillSwitch(self.state / "KILL_SWITCH"))
        broker: Any = AlpacaBroker(
            key_id="drill", secret="drill", base_url=self._host.base_url, data_url=self._host.base_url, halt=halt,
            connect_timeout_s=1.0, read_timeout_s=0.4, total_timeout_s=0.6, clock=self.clock,
        )  # fmt: skip
        journal.repair()
        if watched:
            journal = Watched(journal, self.effects, frozenset({"append"}), "journal")
            broker = Watched(broker, self.effects, BROKER_CALLS, "broker")
        return self._make_desk(
            journal=journal, broker=broker, halt=halt, clock=self.clock, limits=Limits.from_settings(self._settings),
            lock_path=self.state / "desk", trip=lambda why: (self.state / "KILL_SWITCH").touch(),
        )  # fmt: skip

    def _session(self, desk: Desk) -> TradingSession:
        closes = {
            session: {symbol: rows[i][3] for symbol, rows in self._bars.items()}
            for i, session in enumerate(self.sessions)
        }
        broker: Any = desk.broker
        return TradingSession(
            desk=desk, quotes=broker, planner=SeededPlanner(self.plan.seed, self._calendar, closes), sizer=_one_order,
            settings=self._settings, calendar=self._calendar, write_views=lambda ledger, day: None,
        )  # fmt: skip

    def run(self) -> Outcome:
        """The day's three scans, the close, and the next morning, each tried again after a crash or a refusal."""
        with self._stack:
            with self._watching_locks():
                for run in due_runs(self.day, SCANS, self._calendar, half_day_rule="skip"):
                    self._at(run.at)
                    self._keep_trying(partial(TradingSession.run, run=run), f"scan {run.label}")
                self._at(after_close(self._calendar, self.day))
                self._keep_trying(partial(TradingSession.close_out, session=self.day), "close")
            return self._outcome()

    def _at(self, instant: Any) -> None:
        self.clock.set(max(instant, self.clock.now()))
        self.effects.tell(f"it is {self.clock.now():%Y-%m-%d %H:%M}Z")

    @contextlib.contextmanager
    def _watching_locks(self) -> Iterator[None]:
        module: Any = desk_module
        before = module.locked
        module.locked = watched_lock(self.effects)
        try:
            yield
        finally:
            module.locked = before

    def _keep_trying(self, act: Callable[[TradingSession], Any], what: str) -> None:
        """As a supervisor and the runner would: after a crash start again, after a refusal wait and try again."""
        for _ in range(TRIES):
            try:
                session = self._session(self._desk())
                session.recover()
                act(session)
                return
            except Crash:
                self.effects.tell(f"{what}: restart")
            except KobeError as error:
                self.effects.tell(f"{what}: {error.code}, tried again")
            self.clock.sleep(20)

    # ------------------------------------------------------------ the end
    def _outcome(self) -> Outcome:
        """The next morning, with every misfortune over: recover as always, reconcile, and look."""
        from execution.reconcile import find_breaks

        self.effects.acts, self.effects.busy = {}, True
        self.faults.stop()
        tripped = (self.state / "KILL_SWITCH").exists()
        posts = 0 if self._posts_at_trip is None else self._host.posts - self._posts_at_trip
        if tripped:
            (self.state / "KILL_SWITCH").unlink()  # the operator has looked and resumes
        self._at(self._calendar.instant_at(self.next_day, "09:35"))
        desk = self._desk()
        session = self._session(desk)
        session.recover()
        run = due_runs(self.next_day, ("09:35",), self._calendar, half_day_rule="skip")[0]
        session.run(run)
        ledger = desk.ledger()
        broker: Any = desk.broker
        breaks = find_breaks(ledger, broker.positions(), broker.open_orders(), account=broker.account())
        unprotected = [
            t.decision_id for t in ledger.open_trades()
            if t.stop is not None and sum(o.intent.quantity for o in ledger.protective(t.decision_id)) != t.quantity
        ]  # fmt: skip
        return Outcome(
            plan=self.plan, ledger=ledger, venue=self._truth(), journal=self.state / "hash_chain.jsonl",
            state=self.state, breaks=breaks, posts_after_trip=posts, tripped=tripped, unprotected=unprotected,
            story=self.effects.story, effects=self.effects.count,
        )  # fmt: skip

    def _truth(self) -> VenueTruth:
        with self._store.transaction():
            orders = [o for o in self._store.orders() if o.parent_id is None]
            fills = [a for a in self._store.activities() if a.kind == "FILL"]
            held = {Symbol(h.symbol): int(h.qty) for h in self._store.holdings() if h.qty}
        return VenueTruth(orders, fills, held)


def _one_order(price: Decimal, stop: Decimal, room: Decimal, scale: Decimal) -> tuple[int, str | None]:
    """As many shares as one order's limit allows; the gate decides about everything else."""
    shares = int(Decimal(75) * scale / price)
    return (shares, None) if shares >= 1 else (0, "CAP_BELOW_ONE_SHARE")
