"""One drill: a home, a venue, a stepped clock, and the production order path between them.

`World.run` plays a plan to its end, restarting through the ordinary start-up after each crash, and hands back what the
venue, the journal and the logs then say. The only things that are not production code are the planner (signals from
the seed) and the watchers that count effects.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import date, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from core import files, logs
from core.clock import SteppedClock
from core.domain import ActionKind, CorporateAction, Side, Symbol
from core.errors import KobeError
from core.journal import Journal
from execution import desk as desk_module
from execution.desk import Desk
from execution.drill.commands import COMMANDS
from execution.drill.effects import Act, Crash, Effects, Watched, WatchedHalt, told, watched_lock
from execution.drill.life import SCANS, VIX, Actions, Life, Seed, begin
from execution.drill.outcome import Bare, Outcome, Post, Told, VenueTruth, chain_trouble, lines_of
from execution.drill.plan import PHASES, At, DayPlan, bars_for
from execution.drill.ports import Place, Ports
from execution.runner import only_runner
from execution.session import after_close
from execution.venue.faults import FaultPlan

if TYPE_CHECKING:
    from config.settings_schema import Settings
    from execution.venue.host import VenueHost

FIRST_SESSION = date(2024, 3, 4)
HISTORY = 3  # sessions before the day that is played
TRIES = 5
RESTART_S, PAUSE_S = 2.0, 20.0  # after a crash; after a refusal, and between two turns of a runner that waits
HUNG_S = 30.0  # real seconds after which a drill that waits for nothing is a bug
BROKER_CALLS = frozenset(
    {"submit", "find", "open_orders", "cancel", "positions", "account", "clock", "asset", "fills", "quotes"}
)
MakeDesk = Callable[..., Desk]


class World:
    """Everything one drill needs, in a folder of its own. `make_desk` lets a test put a broken desk in its place."""

    def __init__(
        self, plan: DayPlan, host: VenueHost, ports: Ports, *, make_desk: MakeDesk = Desk, folder: Path | None = None
    ) -> None:
        self.plan, self.host, self.ports, self._make_desk = plan, host, ports, make_desk
        self._stack = ExitStack()
        where = tempfile.TemporaryDirectory(prefix="kobe-drill-", dir=folder or quick_folder())
        root = Path(self._stack.enter_context(where))
        calendar = ports.calendar
        first = calendar.offset(FIRST_SESSION, -HISTORY)
        self.sessions = calendar.sessions_between(first, calendar.offset(FIRST_SESSION, 2))
        self.day, self.next_day = self.sessions[HISTORY], self.sessions[HISTORY + 1]
        self.clock = SteppedClock(self._before_open(self.day))
        self._bars = bars_for(plan.seed, len(self.sessions))
        self.place = Place(root, host.base_url, self.clock, limited(ports.settings, plan))
        self.place.home.state.mkdir()
        self.faults = FaultPlan(plan.faults)
        self.faults.on_play = lambda fault: self.tell(f"the broker, {fault.route}: {fault.kind}")
        market = market_of(self._bars, self.sessions, plan, self.next_day)
        self._store = host.open(market, self.clock, Path(":memory:"), calendar=calendar, faults=self.faults)
        self._stack.callback(self._store.close)
        scripts = {at: self._script(what) for at, what in plan.second_at}
        self.effects = Effects(self._acts(), scripts, hide=str(root))
        self.posts: list[Post] = []
        self.bare: list[Bare] = []
        self.timeline: list[Told] = []
        self._life: Life | None = None
        self._held = self._stack.enter_context(ExitStack())  # by the runner that lives
        self.entered = 0  # by hand
        self.last_approved: Any = None
        self.runners_desk: Desk | None = None
        self.backups: list[Path] = []
        self._yesterday()
        self._silent = False
        self._waiting: threading.Event | None = None

    def _yesterday(self) -> None:
        """A home that was in use the day before: what is missed today is then missed, not merely unknown."""
        journal = Journal(self.place.home.journal, self.clock, run_id="drill")
        for scan in (*SCANS, "close"):
            journal.append("scan_run", {"run": f"{self.sessions[HISTORY - 1]}T{scan}", "code": "OK"})

    @property
    def seed(self) -> Seed:
        """Closes in the shares of the session after them, as adjusted bars have them."""
        closes = {
            session: {symbol: rows[i][3] for symbol, rows in self._bars.items()}
            for i, session in enumerate(self.sessions)
        }
        split = self.plan.split
        if split is None:
            return Seed(self.plan.seed, closes)
        symbol, ratio = Symbol(split[0]), Fraction(split[1], split[2])
        closes[self.day][symbol] = float(closes[self.day][symbol] / ratio)
        told = CorporateAction(kind=ActionKind.SPLIT, symbol=symbol, ex_date=self.next_day, ratio=ratio)
        return Seed(self.plan.seed, closes, Actions((told,)))

    # ------------------------------------------------------------ misfortunes
    def _acts(self) -> dict[At, Act]:
        return dict.fromkeys(self.plan.trip_at, self.trip) | dict.fromkeys(self.plan.crash_at, self._crash)

    def _crash(self) -> None:
        self.effects.dead = True
        self.tell("CRASH: the process is gone")

    def trip(self) -> None:
        self.tell("KILL SWITCH appears")
        self.place.home.kill_switch.touch()

    def tell(self, what: str) -> None:
        """Into the story, and onto the timeline: after how many records of the journal, and when."""
        self.effects.tell(what)
        journal = self.place.home.journal
        count = journal.read_bytes().count(b"\n") if journal.exists() else 0
        self.timeline.append(Told(count, self.clock.now(), what.replace(str(self.place.root), "$KOBE_HOME")))

    def _script(self, what: str) -> Act:
        def work() -> None:
            self.effects.busy = True
            try:
                self.command(what)
            except KobeError as error:
                self.tell(f"another script, {what}: {error.code}")
            finally:
                self.effects.busy = False

        return work

    def command(self, what: str) -> None:
        """What another script of this home does, whole, right here. Raises what that script would end with."""
        desk = self.ports.open_script(self.place, what)
        self.watch(desk)
        said = COMMANDS[what](self, desk)
        self.tell(f"{'another script' if self.effects.busy else 'operator'}, {what}: {said}")

    def end_life(self) -> None:
        """The runner is gone, and the operating system takes its lock away."""
        self._life = None
        self._held.close()

    # ------------------------------------------------------------ the production order path
    def watch(self, desk: Desk) -> None:
        """Everything this process does is told to the effects from now on."""
        broker, halt, watched = desk.broker, WatchedHalt(desk.halt, self.effects), cast(Any, desk)
        cast(Any, broker)._transport._halt = halt
        watched.halt = halt
        submit = broker.submit

        def remembered(order: Any) -> Any:
            self.last_approved = order
            return submit(order)

        cast(Any, broker).submit = remembered
        watched.broker = Watched(broker, self.effects, BROKER_CALLS, "broker")
        watched.journal = Watched(desk.journal, self.effects, frozenset({"append"}), "journal")

    def _in_time(self, done: threading.Event, total_s: float) -> bool:
        """The transport's wait: time-outs pass in no time, and a helper thread that died takes the process with it."""
        self._waiting = done
        if not self._silent and not done.wait(HUNG_S):  # silence may have come before we began to wait
            raise AssertionError(f"a request got neither an answer nor a fault within {HUNG_S:g} s")
        self.effects.raise_if_dead()
        silent, self._silent = self._silent, False
        if silent:
            self.clock.sleep(total_s)
        return not silent

    def _on_silence(self) -> None:
        self._silent = True
        if self._waiting is not None:
            self._waiting.set()

    def _on_order(self, client_order_id: str) -> None:
        """On the venue's thread, while the process waits: what the disk says at the moment an order arrives."""
        journal = self.place.home.journal
        text = journal.read_bytes() if journal.exists() else b""
        intended = f'"client_order_id":"{client_order_id}"'.encode() in text
        self.posts.append(Post(client_order_id, intended, self.place.home.kill_switch.exists()))

    # ------------------------------------------------------------ the day
    def run(self) -> Outcome:
        """The day's phases with the operator's commands between them, then the next morning without any misfortune."""
        with self._stack, logs.aside(self.place.home, self.clock, run_id="drill", mode="paper"), self._patched():
            for phase in PHASES:
                self._at(self._time_of(phase))
                self._live_through(phase)
                for _, what in (item for item in self.plan.operator if item[0] == phase):
                    self._operate(what)
            return self._outcome()

    def _before_open(self, day: date) -> datetime:
        return self.ports.calendar.opens_at(day) - timedelta(minutes=30)

    def _time_of(self, phase: str) -> datetime:
        calendar = self.ports.calendar
        if phase == "open":
            return self.clock.now()
        return after_close(calendar, self.day) if phase == "close" else calendar.instant_at(self.day, phase)

    def _at(self, instant: datetime) -> None:
        self.clock.set(max(instant, self.clock.now()))
        self.tell(f"it is {self.clock.now():%Y-%m-%d %H:%M}Z")

    @contextlib.contextmanager
    def _patched(self) -> Iterator[None]:
        """Locks are watched wherever the order path takes one, no request waits for the clock on the wall, and the desk
        is the one under test."""
        from execution.transport import OrderTransport

        take, module = watched_lock(self.effects), sys.modules
        places: list[tuple[Any, str, Any]] = [
            (found, "locked", take) for name, found in list(module.items())
            if name.startswith("execution.") and getattr(found, "locked", None) is files.locked
            and not name.startswith("execution.drill")
        ]  # fmt: skip
        places.append((OrderTransport, "_in_time", lambda _, done, total_s: self._in_time(done, total_s)))
        if self._make_desk is not Desk:
            places.append((desk_module, "Desk", self._make_desk))
        before = [(found, name, getattr(found, name)) for found, name, _ in places]
        for found, name, value in places:
            setattr(found, name, value)
        self.host.on_silence, self.host.on_order = self._on_silence, self._on_order
        try:
            yield
        finally:
            for found, name, value in before:
                setattr(found, name, value)

    def _live_through(self, phase: str) -> None:
        """As a supervisor would: after a crash or a refusal wait a little and start again."""
        for _ in range(TRIES):
            try:
                life = self._alive()
                life.step()
            except Crash:
                self.end_life()
                self.tell("the runner is started again")
                self.clock.sleep(RESTART_S)
                continue
            except KobeError as error:
                self.end_life()
                self.tell(f"the runner ends: {error.code}: {str(error)[:100]}")
                if error.code == "KILL_SWITCH":
                    return
            else:
                if self._over(life, phase):
                    self._look_for_bare(life, phase)
                    return
            self.clock.sleep(PAUSE_S)

    def _alive(self) -> Life:
        if self._life is None:
            self.effects.dead = False
            beat = self._held.enter_context(only_runner(self.place.home.state, self.clock))
            beat.last_word = "killed"  # what ends a drill's runner leaves no word
            opened = self.ports.open_runner(self.place)
            self.watch(opened.desk)
            self.runners_desk = opened.desk
            life = begin(self.place, self.ports, opened, self.seed)
            session: Any = life.session
            session._write_views = told(session._write_views, self.effects, "views")
            self._life = life
        return self._life

    def _over(self, life: Life, phase: str) -> bool:
        return phase not in (*SCANS, "close") or f"{self.day}T{phase}" in life.schedule.recorded()[0]

    def _look_for_bare(self, life: Life, phase: str) -> None:
        """After a scan that ended well: open trades for whose shares the venue has no stop, and no lock says why."""
        last = lines_of(self.place.home.journal)[-1]
        if last["kind"] != "scan_run" or last["body"]["code"] != "OK" or self.place.home.kill_switch.exists():
            return
        with self._store.transaction():
            resting = [o for o in self._store.open_orders() if o.side == Side.SELL and o.parent_id is None]
        ledger = life.desk.ledger()
        for trade in ledger.open_trades():
            covered = sum(int(o.left) for o in resting if o.symbol == trade.symbol)
            if trade.stop is not None and covered < trade.quantity and trade.symbol not in ledger.locked:
                self.bare.append(Bare(phase, trade.decision_id, trade.symbol))

    def _operate(self, what: str) -> None:
        """The operator's command, once more when it died on the way."""
        for _ in range(2):
            self.effects.dead = False
            try:
                self.command(what)
                return
            except Crash:
                self.tell(f"operator, {what}: died, and is run again")
            except KobeError as error:
                self.tell(f"operator, {what}: {error.code}")
                return
            finally:
                self.effects.dead = False

    # ------------------------------------------------------------ the end
    def _outcome(self) -> Outcome:
        """The next morning, with every misfortune over: resume, start as always, scan, reconcile, and look."""
        self.effects.acts, self.effects.scripts, self.effects.busy = {}, {}, True
        self.faults.stop()
        if self.place.home.kill_switch.exists():
            self.tell("operator: has looked, and removes the kill switch")
            self.place.home.kill_switch.unlink()
        self.end_life()
        for instant in (self._before_open(self.next_day), self.ports.calendar.instant_at(self.next_day, SCANS[0])):
            self._at(instant)
            life = self._alive()
            life.step()
        locks = self._look_into_locks(life)
        breaks = self.ports.reconcile(self.place, life.desk)
        ledger, journal = life.desk.ledger(), self.place.home.journal
        return Outcome(
            plan=self.plan, limits=life.desk.limits, ledger=ledger, venue=VenueTruth.of(self._store),
            chain=chain_trouble(journal), records=lines_of(journal), breaks=breaks, posts=self.posts,
            late=frozenset(self.faults.late), runs=[f"{self.day}T{scan}" for scan in (*SCANS, "close")],
            damaged=self.ports.damaged(self.place), errors=lines_of(self.place.home.logs / "errors.jsonl"),
            bare=self.bare, locks=locks, timeline=self.timeline, story=self.effects.story, effects=self.effects.count,
        )  # fmt: skip

    def _look_into_locks(self, life: Life) -> dict[Symbol, str]:
        """What is still locked after the morning's scan. A person looks into it, lifts it, and the runner goes on."""
        found = dict(life.desk.ledger().locked)
        for symbol in found:
            self.ports.unlock(life.desk, str(symbol))
        if found:
            self._at(self.clock.now() + timedelta(minutes=2))
            life.step()
        return found


def limited(settings: Settings, plan: DayPlan) -> Settings:
    """The plan's limits in place of the configured ones; everything else as configured."""
    gate = settings.risk.policy_gate.model_copy(update={"daily_budget_usd": plan.daily_budget_usd})
    risk = settings.risk.model_copy(update={"policy_gate": gate, "position_limit": plan.position_limit})
    execution = settings.execution.model_copy(update={"time_in_force": plan.time_in_force})
    return settings.model_copy(update={"risk": risk, "execution": execution})


def market_of(
    bars: Mapping[Symbol, Sequence[tuple[float, ...]]], sessions: Sequence[date], plan: DayPlan, ex_date: date
) -> Any:
    """The market that the venue plays; from the ex-date on a split stock trades at its new price."""
    import numpy as np

    from core.bars_io import BarColumns, to_day
    from core.market.base import SplitEvent
    from core.market.real import BarsMarket

    days = np.array([to_day(s) for s in sessions], dtype=np.int32)
    columns, splits = {}, []
    for symbol, rows in bars.items():
        prices = np.array(rows, dtype=np.float64).T
        if plan.split is not None and symbol == plan.split[0]:
            ratio = plan.split[1] / plan.split[2]
            after = days >= to_day(ex_date)
            prices[:, after] = np.round(prices[:, after] / ratio, 2)
            splits.append(SplitEvent(symbol, ex_date, ratio))
        o, h, lo, c = prices
        columns[str(symbol)] = BarColumns(days, o, h, lo, c, np.full(len(days), 1e6))
    return BarsMarket(columns, vix=dict.fromkeys(sessions, VIX), splits=splits, name="drill", spec="drill")


def quick_folder() -> Path | None:
    """A file system in memory where there is one: a drill needs no disk, and a slow one would only slow it down."""
    memory = Path("/dev/shm")
    return memory if sys.platform == "linux" and os.access(memory, os.W_OK) else None
