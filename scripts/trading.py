"""What runner.py and its replay share: the planner, the views, the start-up checks, the desk."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core import logs
from core.bars_io import from_day
from core.domain import Account, ExitReason, Mode, Symbol
from core.errors import ConfigError, DataError, KobeError, StateCorrupt, StateLocked, TradingHalted
from execution.entry import EntryLocks, Sizer
from execution.ledger import Ledger, Trade
from execution.noted import NOTE_FILE, note
from execution.scheduler import DueRun
from execution.session import Entry, Plan, RunReport, TradingSession
from scripts import canaries, scanning, wiring

if TYPE_CHECKING:
    from config.settings_schema import Settings
    from core.journal import Journal
    from core.panel import Panel
    from core.ports import Admission, Halt
    from data.universe import Universe
    from execution.admission import JournalWatch
    from execution.desk import Desk
    from execution.resume import HaltTeller
    from portfolio.scan import ScanResult
    from scripts.breaking import BreakerWatch
    from scripts.cognition import Mind
    from scripts.recording import Recorder
    from scripts.remembering import Remembering

SESSIONS_SHOWN = 61  # of a symbol's own: more than any trade is held


@dataclass(frozen=True, slots=True)
class _Held:
    """An open trade as portfolio.exits looks at it."""

    decision_id: str
    symbol: Symbol
    strategy: str
    entry_session: date
    time_stop_bars: int


class ScanPlanner:
    """Bars, scan and exit rules of one due run; the scan's data is loaded once per session."""

    def __init__(
        self, context: wiring.Context, universe: Universe, *, bars: Path | None = None,
        recorder: Recorder | None = None, mind: Mind | None = None,
    ) -> None:  # fmt: skip
        """`mind`: model, memory, breakers and adviser; None: nothing is scored or reviewed."""
        self._context, self._universe, self._bars, self._mind = context, universe, bars, mind
        self._data: wiring.MarketData | None = None
        self._recorder = recorder

    def exits(self, run: DueRun, ledger: Ledger) -> list[tuple[str, ExitReason]]:
        """From bars already at hand: those of this session's earlier scan, else the store as it is."""
        if not ledger.open_trades():
            return []
        data = self._at_hand(run)
        return self._due(ledger, run, data, assume_traded=data is None)

    def _at_hand(self, run: DueRun) -> wiring.MarketData | None:
        """Bars of the session before this one, believed or not, else older ones. Asks no vendor."""
        session, data = self._context.calendar.previous_session(run.session), self._data
        if (data is None or data.session != session) and self._bars is None:
            with contextlib.suppress(DataError, OSError):  # the scan, which needs them, tells of it
                data = wiring.stored(self._context, self._universe, session) or data
        return data

    def plan(self, run: DueRun, ledger: Ledger) -> Plan:
        """Whatever goes wrong here means no entries; what is held has been looked after already."""
        session = self._context.calendar.last_completed(self._context.clock.now())
        try:
            return self._plan(run, ledger, session)
        except StateCorrupt:
            raise
        except (KobeError, OSError) as error:
            code = error.code if isinstance(error, KobeError) else "SCAN_FAILED"
            logs.event("scan_refused", code=code, detail=str(error))
            logs.count("scans_refused", code=code)
            # What came just now and is not believed makes no entry; what is held may still leave by it.
            data = self._at_hand(run) if ledger.open_trades() else None
            exits = self._due(ledger, run, data, assume_traded=True)
            return Plan(signal_session=session, exits=exits, problem=code)

    def _plan(self, run: DueRun, ledger: Ledger, session: date) -> Plan:
        data = self._fetch(session)
        wiring.refuse_simulated_data(self._context, simulated=data.simulated)
        taken = [d for d, t in ledger.trades.items() if t.signal_session == session]
        held = self._held_usd(ledger, data)
        result = self._scanned(run, data, held, taken)
        self._record(result)
        if self._recorder is not None:
            self._recorder.scan(run, data, result, held, taken, ledger.last_seq)
        return Plan(
            signal_session=session,
            entries=[Entry(pick.signal, pick.scale, pick.full) for pick in result.kept_free],
            exits=self._due(ledger, run, data, assume_traded=True),
            vix=data.vix,
            returns=returns_of(data.panel, session),
            sectors=self._universe.sectors,
            closes=closes_of(data.panel),
            scan=result.to_json(),
        )

    def _scanned(
        self, run: DueRun, data: wiring.MarketData, held: Mapping[Symbol, Decimal], taken: list[str]
    ) -> ScanResult:
        """What was said of the signals is in the journal before anything is made of them.

        Raises DataError MIND_FAILED for a mistake of ours in there: no entries, and the exits of this scan go on.
        """
        if self._mind is None:
            return scanning.run(self._context, data, self._universe, held=held, taken=taken)
        try:
            thought = self._mind.think(data, run.session)
            result = scanning.run(
                self._context, data, self._universe, held=held, taken=taken, scorer=thought.scorer,
                reviewer=thought.reviewer,
            )  # fmt: skip
            self._mind.tell(run.id, thought, result)
        except (KobeError, OSError):
            raise
        except Exception as error:  # what cannot be thought through lets nothing be entered
            trace = "".join(traceback.format_exception(error))
            logs.error_event("mind_failed", code="MIND_FAILED", detail=repr(error), traceback=trace)
            raise DataError(
                f"the signals could not be reviewed: {error!r}", code="MIND_FAILED", advice="see logs/errors.jsonl"
            ) from error
        return result

    def _record(self, result: ScanResult) -> None:
        """Picks and verdicts are telemetry: a log folder that cannot be written stops no trade (P23)."""
        try:
            scanning.record(self._context, result)
        except OSError as error:
            logs.error_event("picks_not_recorded", code="LOGS_UNWRITABLE", detail=str(error))
            logs.count("picks_not_recorded")

    def _fetch(self, session: date) -> wiring.MarketData:
        if self._data is None or self._data.session != session:
            if self._bars is not None:
                self._data, _ = wiring.data_from_bars(self._context, self._bars, self._universe, None)
            else:
                found = wiring.data_from_store(self._context, self._universe)
                self._data = canaries.believed(self._context, found)
        return self._data

    def _held_usd(self, ledger: Ledger, data: wiring.MarketData) -> Mapping[Symbol, Decimal]:
        """What is held, for the limits of selection. With several positions per symbol allowed, each stands alone."""
        if not self._context.settings.risk.one_position_per_symbol:
            return {}
        from portfolio.day import held_usd

        worst = self._context.settings.risk.policy_gate.per_order_max_usd
        cost = {t.symbol: t.entry_price for t in ledger.open_trades()}
        return held_usd(ledger.positions, closes_of(data.panel), cost, worst)

    def _due(
        self, ledger: Ledger, run: DueRun, data: wiring.MarketData | None, *, assume_traded: bool
    ) -> list[tuple[str, ExitReason]]:
        due = self.due(ledger, run, data, assume_traded=assume_traded)
        if self._recorder is not None and ledger.open_trades():
            self._recorder.exits(run, data, due, ledger.last_seq, assume_traded=assume_traded)
        return due

    def due(
        self, ledger: Ledger, run: DueRun, data: wiring.MarketData | None, *, assume_traded: bool
    ) -> list[tuple[str, ExitReason]]:
        """Time stops and indicator exits due at this scan. Only bars of the last session tell of indicators.

        assume_traded: sessions that the data does not tell of count as held. Not before the scan has asked for them: a
        symbol that was halted yesterday would leave a bar too early.
        """
        from portfolio.exits import due_exits

        trades = [_held(t) for t in ledger.open_trades() if t.time_stop_bars is not None]
        if not trades:
            return []
        signal_session = self._context.calendar.previous_session(run.session)
        flags = self._flags(data, signal_session)
        known = signal_session if assume_traded or data is None else data.session
        own = {t.symbol: self._sessions_of(t, data, known) for t in trades}
        due = due_exits(
            trades, held=own, current=run.session, flags=flags, flags_session=signal_session, is_last_scan=run.last
        )
        return [(d.trade.decision_id, d.reason) for d in due if isinstance(d.trade, _Held)]

    def _flags(self, data: wiring.MarketData | None, session: date) -> Mapping[Symbol, ExitReason]:
        """Indicator exits. A bug in them is told and leaves the time stops, which need no indicator, as they are."""
        from portfolio.strategies import exit_flags_at
        from portfolio.strategies.boundary import Failed, guarded

        if data is None or data.session != session:
            return {}
        flags = guarded("exit_flags", lambda: exit_flags_at(data.panel, session, self._context.params))
        if isinstance(flags, Failed):
            scanning.tell_failed(flags)
            return {}
        return flags

    def _sessions_of(self, trade: _Held, data: wiring.MarketData | None, last: date) -> list[date]:
        if data is not None and trade.symbol in data.panel.symbols:
            column = data.panel.symbols.index(trade.symbol)
            index = data.panel.session_index[: int(data.panel.length[column]), column][-SESSIONS_SHOWN:]
            own = [from_day(int(data.panel.sessions[k])) for k in index]
            return [*self._before_first(trade, own), *own, *self._since(data, last)]
        if trade.entry_session > last:
            return []
        return self._context.calendar.sessions_between(trade.entry_session, last)

    def _since(self, data: wiring.MarketData, last: date) -> list[date]:
        """Sessions after those that the data tells of, up to `last`."""
        calendar = self._context.calendar
        return calendar.sessions_between(calendar.next_session(data.session), last) if data.session < last else []

    def _before_first(self, trade: _Held, own: list[date]) -> list[date]:
        """Under a new name the bars begin with it: what was held before counts by the calendar."""
        if not own or trade.entry_session >= own[0]:
            return []
        calendar = self._context.calendar
        return calendar.sessions_between(trade.entry_session, calendar.previous_session(own[0]))


def _held(trade: Trade) -> _Held:
    assert trade.time_stop_bars is not None
    return _Held(trade.decision_id, trade.symbol, trade.strategy, trade.session, trade.time_stop_bars)


def closes_of(panel: Panel) -> dict[Symbol, float]:
    rows = np.maximum(panel.length - 1, 0)
    last = panel.close[rows, np.arange(len(panel.symbols))] if panel.symbols else np.empty(0)
    return {Symbol(s): float(c) for s, c in zip(panel.symbols, last, strict=True)}


def returns_of(panel: Panel, session: date) -> Mapping[Symbol, Any]:
    """The last 60 close-to-close returns of each symbol that traded all of the last 61 sessions; others are absent."""
    from core.bars_io import to_day
    from portfolio.day import Returns

    return Returns(panel, panel.length.astype(np.intp) - 1, int(np.searchsorted(panel.sessions, to_day(session))))


# ---------------------------------------------------------------- views
def view_writer(context: wiring.Context) -> Callable[[Ledger, date], None]:
    """state/positions.json and state/weekly_budget.json, rebuilt from the ledger after every scan."""
    from portfolio.state_manager import StateManager

    manager = StateManager(context.home, context.clock)

    def write(ledger: Ledger, session: date) -> None:
        manager.set_positions({str(s): _position_view(ledger, s) for s in sorted(ledger.positions)})
        year, week, _ = session.isocalendar()
        spent = sum((ledger.filled_usd(d) for d in _days_of_week(session)), Decimal(0))
        manager.update("weekly_budget", lambda old: {**old, "week": f"{year}-W{week:02d}", "spent_usd": str(spent)})
        note(context.home.logs / NOTE_FILE, context.home.journal)

    return write


def _days_of_week(session: date) -> list[date]:
    year, week, _ = session.isocalendar()
    return [date.fromisocalendar(year, week, day) for day in range(1, 8)]


def _position_view(ledger: Ledger, symbol: Symbol) -> dict[str, Any]:
    trades = [t for t in ledger.open_trades() if t.symbol == symbol]
    shares = sum(t.quantity for t in trades)
    cost = sum((t.entry_price * t.quantity for t in trades), Decimal(0))
    average = (cost / shares).quantize(Decimal("0.000001")) if shares else Decimal(0)
    return {
        "quantity": str(ledger.positions[symbol]),
        "average_price": str(average),
        "trades": [
            {
                "decision_id": t.decision_id,
                "strategy": t.strategy,
                "quantity": t.quantity,
                "entry_price": str(t.entry_price),
                "entry_session": t.session.isoformat(),
                "stop": None if t.stop is None else str(t.stop),
            }
            for t in trades
        ],
    }


# ---------------------------------------------------------------- desk and start-up
def open_desk(context: wiring.Context, halt: Halt | None = None) -> Desk:
    """The desk on this home's journal. Raises ConfigError ACCOUNT_MISMATCH when that is another account's."""
    journal = wiring.open_journal(context)
    desk = _desk(context, journal, halt, _door(context, _watch(context, journal)))
    bind_account(context, desk)
    return desk


def open_reading_desk(context: wiring.Context) -> Desk:
    """For looking only: no order and no cancel can leave through it, and no account is bound."""
    from execution.admission import NothingSent

    return _desk(context, wiring.open_journal(context), None, NothingSent())


def open_runners_desk(context: wiring.Context) -> tuple[Desk, HaltTeller]:
    """The desk of a process that lives on: once halted, it stays so until a preflight has passed. Raises like above."""
    from execution.recorded import NotedDoor
    from execution.resume import HaltTeller
    from risk.kill_switch import KillSwitch, LatchedHalt

    journal = wiring.open_journal(context)
    watch = _watch(context, journal)
    context.home.state.mkdir(parents=True, exist_ok=True)
    halt = LatchedHalt(KillSwitch(context.home.kill_switch), watch.newest_pass)
    door = NotedDoor(_runners_door(context, watch), lambda order: context.note_sent(order))
    desk = _desk(context, journal, halt, door)
    bind_account(context, desk)
    return desk, HaltTeller(halt, watch, journal)


def open_emergency_desk(context: wiring.Context) -> tuple[Desk, KobeError | None]:
    """For cancel_all and close_all only: the operator can always stop it, also when the journal is damaged, or locked
    by a process that stands still.

    Then what is done is written to a chain of its own, state/emergency_chain.jsonl, and the trouble comes back as the
    second value, to be raised once everything that can be done is done.
    """
    from core.journal import Journal

    damage: KobeError | None
    try:
        journal = wiring.open_journal(context)
        damage = _damage(context, journal)
        if damage is None:
            door = _door(context, _watch(context, journal), closes_only=True)
            desk = _desk(context, journal, None, door, "emergency")
            bind_account(context, desk)
            return desk, None
    except (StateCorrupt, StateLocked) as error:
        damage = error
    logs.error_event("journal_not_usable", code=damage.code, detail=str(damage))
    aside = Journal(aside_path(context), context.clock, run_id=context.run_id)
    return _desk(context, aside, None, _door(context, _watch(context, aside), closes_only=True), "emergency"), damage


def operator_lock(context: wiring.Context) -> Path:
    """One action of an operator at a time: cancel_all, close_all."""
    return context.home.state / "operator"


def aside_path(context: wiring.Context) -> Path:
    """The chain of what was done while the journal itself could not be written."""
    return context.home.state / "emergency_chain.jsonl"


def _damage(context: wiring.Context, journal: Journal) -> StateCorrupt | None:
    from core.journal import verify

    journal.repair()
    result = verify(context.home.journal)
    return None if result.ok else StateCorrupt(f"journal: {result.why}")


def _watch(context: wiring.Context, journal: Journal) -> JournalWatch:
    from execution.admission import JournalWatch
    from risk.runaway import Bounds

    return JournalWatch(journal, Bounds.from_settings(context.settings))


def _runners_door(context: wiring.Context, watch: JournalWatch) -> Admission:
    """In live mode what the rung allows comes before what the journal allows. Raises ConfigError without a permit."""
    from execution.arming import RungDoor
    from execution.ladder import Rung
    from scripts.arming_live import EntryWatch

    if context.mode is not Mode.LIVE:
        return _door(context, watch)
    if context.armed is None:
        raise ConfigError("live trading is not armed", code="LIVE_NOT_ARMED", advice="see docs/preflight.md")

    def rung() -> Rung:
        watch.read()
        return watch.arming.ladder.rung

    context.entry_watch = EntryWatch(context, watch, wiring.open_journal(context), context.armed)
    return RungDoor(_door(context, watch), context.armed.rung, rung, context.entry_watch.code)


def _door(context: wiring.Context, watch: JournalWatch, *, closes_only: bool = False) -> Admission:
    from execution.admission import LastDoor

    return LastDoor(watch, context.clock, trip=lambda why: trip_switch(context, why), closes_only=closes_only)


def _desk(
    context: wiring.Context, journal: Journal, halt: Halt | None, admission: Admission, lock: str = "desk"
) -> Desk:
    """`lock` keeps budgets: what only sells and cancels takes another, which no process that stands still can hold."""
    from execution.desk import Desk
    from risk.kill_switch import KillSwitch

    context.home.state.mkdir(parents=True, exist_ok=True)
    switch = halt or KillSwitch(context.home.kill_switch)
    return Desk.from_settings(
        context.settings,
        journal=journal,
        broker=wiring.open_broker(context, halt=switch, admission=admission),
        halt=switch,
        clock=context.clock,
        lock_path=context.home.state / lock,
        trip=lambda why: trip_switch(context, why),
    )


def bind_account(context: wiring.Context, desk: Desk) -> None:
    """The first script that reaches a broker writes whose journal this is; every later one must find the same."""
    account, bound = desk.broker.account(), desk.ledger().account
    refuse_other_kind(context, account.number)
    if bound is None:
        facts = {"id": account.id, "number": account.number, "mode": context.mode.value}
        desk.journal.append("account_bound", facts)
    elif (bound["id"], bound["mode"]) != (account.id, context.mode.value):
        raise ConfigError(
            f"this journal belongs to the {bound['mode']} account ending in {bound['number'][-4:]}, "
            f"these keys to the {context.mode.value} account ending in {account.number[-4:]}",
            code="ACCOUNT_MISMATCH",
            advice="set KOBE_HOME to that account's folder, or use its keys",
        )


def refuse_other_kind(context: wiring.Context, number: str) -> None:
    """Alpaca's paper accounts are numbered PA…: keys of the other kind are refused, whatever address they answer at."""
    if not context.real_broker or not context.endpoints.at_alpaca:
        return
    if number.startswith("PA") is (context.mode is Mode.LIVE):
        raise ConfigError(
            f"--mode {context.mode.value}, but the keys open the account ending in {number[-4:]}, "
            f"which is a {'paper' if number.startswith('PA') else 'live'} account",
            code="ACCOUNT_MODE_MISMATCH",
            advice="use the keys of that mode",
        )


def trip_switch(context: wiring.Context, why: str) -> None:
    """Write the kill switch ourselves: what happened makes every further order unsafe."""
    logs.error_event("kill_switch_tripped", code="KILL_SWITCH_TRIPPED", detail=why)
    logs.count("kill_switch_tripped")
    with contextlib.suppress(FileExistsError), context.home.kill_switch.open("x", encoding="utf-8") as file:
        file.write(why + "\n")


class _RecordedSession(TradingSession):
    """Writes the bars of a scan once that scan is on record: telemetry, however slow, lets no scan be run again. Then
    the breakers are judged on what closed, and it is remembered, here and wherever trades are looked after."""

    recorder: Recorder
    watch: BreakerWatch
    memory: Remembering

    def run(self, run: DueRun) -> RunReport:
        report = super().run(run)
        self.recorder.flush()
        self.watch.look(run.session)
        self.memory.follow(run.session)
        return report

    def look_after(self, session: date) -> RunReport:
        report = super().look_after(session)
        self.watch.look(session)
        self.memory.follow(session)
        return report

    def close_out(self, session: date) -> RunReport:
        report = super().close_out(session)
        self.watch.look(session)
        self.memory.follow(session, closing=True)
        return report


def open_session(
    context: wiring.Context,
    desk: Desk,
    universe: Universe,
    bars: Path | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> TradingSession:
    from execution.alpaca_broker import AlpacaBroker
    from execution.recorded import sent_facts
    from scripts.cognition import runners_mind
    from scripts.recording import Recorder
    from scripts.remembering import Remembering

    broker, settings = desk.broker, context.settings
    assert isinstance(broker, AlpacaBroker)
    recorder, more = Recorder(context, universe, bars=bars), {"most_shares": _most_shares(context)}
    context.note_sent = lambda order: recorder.note("sent", sent_facts(order))
    memory = Remembering(context, desk.journal, desk.ledger)
    mind = runners_mind(context, desk, memory, bars)
    assert mind.watch is not None
    session = _RecordedSession(
        desk=desk,
        quotes=broker,
        planner=ScanPlanner(context, universe, bars=bars, recorder=recorder, mind=mind),
        sizer=sizer_of(settings, most_shares=more["most_shares"]),
        settings=settings,
        calendar=context.calendar,
        write_views=view_writer(context),
        noted=lambda kind, facts: recorder.note(kind, {**facts, **more} if kind == "quote" else facts),
        stopping=stopping,
        actions=wiring.action_feed(context),
        locks=lambda: locked_entries(context, mind.watch),
    )
    session.recorder, session.watch, session.memory = recorder, mind.watch, memory
    locked_entries(context, mind.watch)  # a start without entries is told at once, not with the first scan
    return session


def locked_entries(context: wiring.Context, watch: BreakerWatch | None) -> EntryLocks:
    """What may not be entered now: what a breaker locks, and everything while a live runner has no pass for this
    session."""
    found = EntryLocks() if watch is None else watch.locks()
    return found if context.entry_watch is None else context.entry_watch.locks(found)


def sizer_of(settings: Settings, *, most_shares: int | None = None) -> Sizer:
    """`most_shares`: of one entry, whatever its budget would buy; None = no such limit."""
    from portfolio.sizing import shares

    cap, risk = settings.risk.policy_gate.per_order_max_usd, settings.sizing.risk_per_trade_usd

    def size(price: Decimal, stop: Decimal, room: Decimal, scale: Decimal) -> tuple[int, str | None]:
        found, code = shares(price, stop, cap, max(room, Decimal(0)), risk, scale)
        return (found if most_shares is None else min(found, most_shares)), code

    return size


def _most_shares(context: wiring.Context) -> int | None:
    from execution.ladder import Rung

    return 1 if context.armed is not None and context.armed.rung is Rung.ONE_SHARE else None


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, what was found, and the error that it would be, or a warning's code.

    unknown : it could not be looked at, because it does not exist or nobody has tried it yet; `warning` says which.
    """

    name: str
    found: str
    problem: KobeError | None = None
    warning: str = ""
    unknown: bool = False


def startup_checks(context: wiring.Context, desk: Desk, halts: HaltTeller | None = None) -> list[Finding]:
    """What must hold before the runner may start; all are made, none is skipped because another failed."""
    switch, journal = switch_finding(context), journal_finding(context)
    if halts is not None and switch.problem is not None and journal.problem is None:
        halts.tell_halted(str(switch.problem))  # so that the start after it makes the checks of a resume
    return [switch, journal, account_finding(desk.broker.account())]


def require(findings: list[Finding]) -> None:
    """Raise the first problem."""
    for finding in findings:
        if finding.problem is not None:
            raise finding.problem


def switch_finding(context: wiring.Context) -> Finding:
    from risk.kill_switch import KillSwitch

    found = KillSwitch(context.home.kill_switch).found()
    return Finding("kill_switch", "absent") if found is None else Finding("kill_switch", found, TradingHalted(found))


def journal_finding(context: wiring.Context) -> Finding:
    from core.journal import verify

    damage = _damage(context, wiring.open_journal(context))
    if damage is not None:
        return Finding("journal", str(damage), damage)
    return Finding("journal", f"{verify(context.home.journal).records} records")


def account_finding(account: Account) -> Finding:
    from core.errors import BrokerRejected

    if account.may_trade:
        return Finding("account", f"{account.status}, ends in {account.number[-4:]}")
    what = f"account is {account.status}, blocked by {', '.join(account.blocked) or 'its status'}"
    return Finding("account", what, BrokerRejected(what, code="ACCOUNT_BLOCKED", advice="see the broker's dashboard"))
