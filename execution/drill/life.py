"""One life of the trading program: the ordinary start-up, then the ordinary runner, on a stepped clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np

from core.domain import CorporateAction, ExitReason, Symbol
from core.market_calendar import MarketCalendar
from execution.desk import Desk
from execution.drill.plan import SYMBOLS, signals_for
from execution.drill.ports import Opened, Place, Ports
from execution.ledger import Ledger
from execution.runner import Runner
from execution.schedule import Schedule
from execution.scheduler import DueRun
from execution.session import Entry, Plan, TradingSession

SCANS = ("09:35", "10:30", "15:55")
VIX = 15.0
Closes = Mapping[date, Mapping[Symbol, float]]


class SeededPlanner:
    """Signals of the last session, from the seed; exits when the time stop is reached."""

    def __init__(self, seed: int, calendar: MarketCalendar, closes: Closes) -> None:
        self._seed, self._calendar, self._closes = seed, calendar, closes

    def exits(self, run: DueRun, ledger: Ledger) -> list[tuple[str, ExitReason]]:
        due = []
        for trade in ledger.open_trades():
            held = len(self._calendar.sessions_between(trade.session, run.session))
            limit = trade.time_stop_bars
            if limit is not None and (held > limit or (held == limit and run.last)):
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
            vix=VIX,
            returns={s: rng.normal(0, 0.01, 60) for s in SYMBOLS},
            sectors={s: f"sector {i}" for i, s in enumerate(SYMBOLS)},
            closes=closes,
        )


@dataclass(frozen=True, slots=True)
class Actions:
    """An action feed that knows these and no others."""

    known: tuple[CorporateAction, ...] = ()

    def actions(self, symbols: Collection[Symbol], since: date) -> Sequence[CorporateAction]:
        return [action for action in self.known if action.symbol in symbols and action.ex_date > since]


@dataclass(frozen=True, slots=True)
class Seed:
    """What a life trades on: signals of this seed, on these closes, with these corporate actions known."""

    number: int
    closes: Closes
    actions: Actions = Actions()


@dataclass
class Life:
    """A runner that has started."""

    desk: Desk
    session: TradingSession
    runner: Runner
    schedule: Schedule
    between: Callable[[], None]

    def step(self) -> None:
        """One turn of the runner's loop: first its look at the halt, then what is due."""
        self.between()
        self.runner.step()


def session_of(place: Place, ports: Ports, desk: Desk, seed: Seed) -> TradingSession:
    quotes: Any = desk.broker
    return TradingSession(
        desk=desk, quotes=quotes, planner=SeededPlanner(seed.number, ports.calendar, seed.closes),
        sizer=ports.sizer(place), settings=place.settings, calendar=ports.calendar, write_views=ports.views(place),
        actions=seed.actions,
    )  # fmt: skip


def begin(place: Place, ports: Ports, opened: Opened, seed: Seed) -> Life:
    """From the start-up checks to a runner that waits. Raises what keeps a runner from starting."""
    opened.check()
    desk = opened.desk
    session = session_of(place, ports, desk, seed)
    session.recover()
    schedule = Schedule(ports.calendar, SCANS, half_day_rule="skip", journal=desk.journal)
    runner = Runner(
        session, schedule, place.clock, heartbeat_s=0, look_after_s=60.0, beat=lambda what: None,
        tell=lambda report: None, stop=threading.Event(),
    )  # fmt: skip
    return Life(desk, session, runner, schedule, opened.between)
