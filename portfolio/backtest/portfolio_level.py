"""The portfolio level: day by day through the functions that decide the live day. Pure; what differs is handed in.

A session, in the order of the live day with fills at the open:
1 at the open, what rests at the broker fills: a stop at or above the open, a target at or below it · 2 first scan: the
signals of the session before are asked (choice), indicator exits leave, picks are priced, sized and put to the gate ·
3 during the session, stops and targets; a bar that touches both is a loss · 4 last scan: time stops leave at the close.

Entries are made at the first scan only: of later prices daily bars do not tell which were known when.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from config.settings_schema import Settings
from config.strategy_params import StrategyParams
from core.bars_io import to_day
from core.domain import Breach, ExitReason, Mode, OrderIntent, OrderKind, Purpose, Quote, Side, Signal, Symbol, Tif
from core.panel import Panel
from core.ports import EarningsCalendar, EntryFacts, HouseRules, Reviewer, Scorer
from portfolio.backtest.account import Booked, Holding, SimulatedAccount
from portfolio.backtest.costs import CostModel
from portfolio.backtest.signals import DaySignals
from portfolio.choice import EarningsRule, Pick, Questions, choose, vix_scale
from portfolio.day import Returns, held_usd
from portfolio.exits import due_exits
from portfolio.selection import Correlations, rules_from
from portfolio.sizing import shares
from portfolio.strategies import exit_reasons, ibs_rsi, last_rows, session_date
from portfolio.strategies.indicators import Floats, Ints, Prepared

if TYPE_CHECKING:
    from core.market_calendar import MarketCalendar

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything a simulated day is told from outside."""

    settings: Settings
    params: StrategyParams
    calendar: MarketCalendar
    house: HouseRules
    sectors: Mapping[Symbol, str | None]
    vix: Mapping[date, float]  # closes; a session that is missing is unknown, and opens nothing
    earnings_on: Callable[[date], EarningsCalendar]  # as they are read on that day
    scans_of: Callable[[date], tuple[datetime, datetime] | None]  # instants of the first and last scan
    costs: CostModel
    cash_usd: Decimal
    mode: Mode = Mode.PAPER
    advice_on: Callable[[date], tuple[Scorer | None, Reviewer | None]] = lambda day: (None, None)
    """Who is asked on that day besides the rules; a backtest has nobody, a recorded day those of then."""


@dataclass(frozen=True, slots=True, eq=False)
class Equity:
    """Per session at its close, (n_sessions,) each; USD."""

    days: Ints
    equity: Floats
    cash: Floats
    exposure: Floats
    positions: Ints
    costs: Floats  # paid so far


@dataclass(frozen=True, slots=True, eq=False)
class PortfolioRun:
    booked: Booked
    equity: Equity
    refused: Mapping[str, int]  # code -> signals that became no trade, exits that found no price
    sessions: int
    told: Sequence[Told] = ()  # every signal that was asked, in the order of the days


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one signal on the session of its entry. `stage` is where it ended, see portfolio.choice."""

    session: date
    signal: Signal
    stage: str  # of choice.STAGES; ENTRY when it was picked
    code: str  # empty: bought


def simulate(prepared: Prepared, start: date, end: date, world: World) -> PortfolioRun:
    """Signals with a session within start..end; their trades are followed to their end, or to the end of the data."""
    return _Simulation(prepared, start, end, world).run()


@dataclass(slots=True)
class _Tally:
    days: list[int] = field(default_factory=list)
    equity: list[float] = field(default_factory=list)
    cash: list[float] = field(default_factory=list)
    exposure: list[float] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)


class _Simulation:
    def __init__(self, prepared: Prepared, start: date, end: date, world: World) -> None:
        self.panel, self.series, self.world = prepared.panel, prepared.series, world
        self.signals = DaySignals.find(prepared, world.params, start, end)
        self.account = SimulatedAccount(world.cash_usd, world.costs)
        self.columns = {symbol: j for j, symbol in enumerate(self.panel.symbols)}
        self.rules = rules_from(world.settings, top3=False)
        self.refused: Counter[str] = Counter()
        self.spent_usd = Decimal(0)
        self.sent_at: list[datetime] = []
        self.told: list[Told] = []
        self.tally = _Tally()
        self.start, self.end = start, end
        self.fresh = _fresh_sessions(self.panel, world.settings.data.min_coverage_pct)

    # ------------------------------------------------------------ the days
    def run(self) -> PortfolioRun:
        panel = self.panel
        days = panel.sessions.tolist()
        first = int(np.searchsorted(panel.sessions, to_day(self.start), side="left"))
        last = int(np.searchsorted(panel.sessions, to_day(self.end), side="right"))  # one session after the last signal
        self.rows = last_rows(panel, session_date(days[first - 1]))[0] if first > 0 else self._none()
        self._next = (self.rows + 1) * len(panel.symbols) + np.arange(len(panel.symbols))
        self._index = np.append(panel.session_index.reshape(-1), np.full(len(panel.symbols), -1, dtype=np.int32))
        open_days = set(self._sessions(first))
        before: int | None = first - 1 if first > 0 else None
        for k in range(first, len(days)):
            if k > last and not self.account.holdings:
                break
            session = session_date(days[k])
            if session in open_days:
                self._session(k, session, before)
            self._advance(k)
            if session in open_days:
                self._close(k, session)
            before = k
        return PortfolioRun(
            self.account.booked(panel, self.signals.strategies), self._equity(), dict(sorted(self.refused.items())),
            len(self.tally.days), self.told,
        )  # fmt: skip

    def _none(self) -> Ints:
        return np.full(len(self.panel.symbols), -1, dtype=np.intp)

    def _sessions(self, first: int) -> list[date]:
        """The exchange's sessions: a day that only the data knows is not traded."""
        days, calendar = self.panel.sessions, self.world.calendar
        if first >= days.size:
            return []
        begin, end = session_date(days[first]), session_date(days[-1])
        return calendar.sessions_between(max(begin, calendar.first), min(end, calendar.last))

    def _advance(self, k: int) -> None:
        """`rows` becomes each symbol's last bar up to session k."""
        there = self._index[self._next] == k
        self._next += there * len(self.panel.symbols)
        self.rows = self.rows + there  # a new array: what was told of this session keeps its rows

    def _session(self, k: int, session: date, before: int | None) -> None:
        self.account.left_today.clear()
        self.spent_usd = Decimal(0)
        for holding in tuple(self.account.holdings):
            self._at_the_open(holding, session)
        scans = self.world.scans_of(session) if self._something_to_do(before) else None
        if scans is not None:
            first_at, last_at = scans
            self.sent_at = [at for at in self.sent_at if at > first_at - _DAY]
            self._first_scan(k, session, before, first_at)
        for holding in tuple(self.account.holdings):
            self._during(holding, session)
        if scans is not None and self.account.holdings:
            self._leave_due(session, session, {}, last_at, at_close=True)

    def _something_to_do(self, before: int | None) -> bool:
        return bool(self.account.holdings) or (before is not None and before in self.signals.by_session)

    # ------------------------------------------------------------ bars and quotes
    def _bar(self, column: int, session: date) -> int | None:
        """Row of the symbol's bar of the session under way, None when it does not trade."""
        row = int(self.rows[column]) + 1
        if row >= int(self.panel.length[column]):
            return None
        day = int(self.panel.sessions[self.panel.session_index[row, column]])
        return row if day == to_day(session) else None

    def _stopped(self, holding: Holding, row: int) -> bool:
        """Whether the bar touches the stop. One whose open or close lies outside its range reached there too."""
        panel, at = self.panel, (row, holding.column)
        return float(min(panel.low[at], panel.open[at], panel.close[at])) <= float(holding.resting_stop)

    def _high(self, row: int, column: int) -> float:
        panel = self.panel
        return float(max(panel.high[row, column], panel.open[row, column], panel.close[row, column]))

    # ------------------------------------------------------------ 1 and 3: what rests at the broker
    def _at_the_open(self, holding: Holding, session: date) -> None:
        row = self._bar(holding.column, session)
        if row is None:
            return
        opened = float(self.panel.open[row, holding.column])
        if opened <= float(holding.resting_stop):
            self._leave(holding, session, row, _exact(opened), ExitReason.STOP_GAP, 1)
        elif holding.target is not None and opened >= float(holding.target) and not self._stopped(holding, row):
            self._leave(holding, session, row, _exact(opened), ExitReason.TARGET_GAP, 1)

    def _during(self, holding: Holding, session: date) -> None:
        row = self._bar(holding.column, session)
        if row is None:
            return
        if self._stopped(holding, row):
            at_once = float(self.panel.open[row, holding.column]) <= float(holding.resting_stop)
            price = _exact(float(self.panel.open[row, holding.column])) if at_once else holding.resting_stop
            self._leave(holding, session, row, price, ExitReason.STOP, 1)
        elif holding.target is not None and self._high(row, holding.column) >= float(holding.target):
            self._leave(holding, session, row, holding.target, ExitReason.TARGET, 1)

    def _leave(
        self, holding: Holding, session: date, row: int, price: Decimal, reason: ExitReason, bars_of_today: int
    ) -> None:
        self.account.sell(holding, session, row, price, reason, len(holding.own) + bars_of_today)

    # ------------------------------------------------------------ 2 and 4: scans
    def _first_scan(self, k: int, session: date, before: int | None, now: datetime) -> None:
        if before is None:
            return
        signal_session = session_date(self.panel.sessions[before])
        current = self.world.calendar.previous_session(session) == signal_session
        if self.account.holdings:
            self._leave_due(session, signal_session, {}, now)  # overdue ones need no scan
        equity, cash = self._worth(session), self.account.cash  # as the broker told them when the scan began
        picks = self._picks(before, session, signal_session) if current and self.fresh[before] else ()
        if self.account.holdings and current:
            self._leave_due(session, signal_session, self._flags(), now)
        for pick in picks:
            code = self._enter(pick, session, signal_session, now, equity, cash)
            self.told.append(Told(session, pick.signal, "ENTRY", code))
            if code:
                self.refused[code] += 1

    def _flags(self) -> Mapping[Symbol, ExitReason]:
        """What the last close of each held symbol tells."""
        asked = [h for h in self.account.holdings if h.strategy == ibs_rsi.NAME]
        if not asked:
            return {}
        columns = np.array([h.column for h in asked], dtype=np.intp)
        told = exit_reasons(self.panel, self.series, self.rows[columns], columns, self.world.params)
        return {h.symbol: reason for h, reason in zip(asked, told, strict=True) if reason is not None}

    def _leave_due(
        self, session: date, flags_session: date, flags: Mapping[Symbol, ExitReason], now: datetime, *,
        at_close: bool = False,
    ) -> None:  # fmt: skip
        holdings = {(h.symbol, h.strategy, h.entry_session): h for h in self.account.holdings}
        due = due_exits(
            self.account.holdings, held={h.symbol: h.own for h in self.account.holdings}, current=session, flags=flags,
            flags_session=flags_session, is_last_scan=at_close,
        )  # fmt: skip
        for exit_ in due:
            holding = holdings[exit_.trade.symbol, exit_.trade.strategy, exit_.trade.entry_session]
            row = self._bar(holding.column, session)
            if row is None:
                continue  # no quote of today: the stop stays, the next scan asks again
            block = self.panel.close if at_close else self.panel.open
            price = _exact(float(block[row, holding.column]))
            limit = self.world.house.exit_limit(_quote(holding.symbol, price, now), now.date())
            if isinstance(limit, Breach):
                self.refused[limit.code] += 1
                continue
            self.sent_at.append(now)
            by_indicator = exit_.reason is not ExitReason.TIME
            self._leave(holding, session, row, price, exit_.reason, 0 if by_indicator else 1)

    # ------------------------------------------------------------ entries
    def _picks(self, before: int, session: date, signal_session: date) -> tuple[Pick, ...]:
        found = self.signals.by_session.get(before)
        if not found:
            return ()
        world, settings = self.world, self.world.settings
        earnings = EarningsRule(world.earnings_on(session), settings, world.mode, session, world.calendar)
        scale = vix_scale(world.vix.get(signal_session), settings)
        questions = Questions(settings, scale, earnings, *world.advice_on(session))
        held = self._held_usd() if settings.risk.one_position_per_symbol else {}
        correlate = Correlations(self.panel, self.rows, self.columns)
        chosen = choose(found, questions, self.rules, sectors=world.sectors, correlate=correlate, held=held)
        signals = {(f.signal.symbol, f.signal.strategy): f.signal for f in found}
        for no in chosen.nos:
            signal = signals[no.verdict.symbol, no.verdict.strategy or ""]
            self.told.append(Told(session, signal, no.stage, no.verdict.code))
            self.refused[no.verdict.code] += 1
        return chosen.picks

    def _held_usd(self) -> dict[Symbol, Decimal]:
        positions = self.account.positions()
        closes = {symbol: self._last_close(symbol) for symbol in positions}
        worst = self.world.settings.risk.policy_gate.per_order_max_usd
        return held_usd(positions, closes, {h.symbol: h.entry_price for h in self.account.holdings}, worst)

    def _last_close(self, symbol: Symbol) -> float:
        column = self.columns[symbol]
        return float(self.panel.close[self.rows[column], column])

    def _worth(self, session: date) -> Decimal:
        """Cash and holdings at the open, a symbol that does not trade at its last close."""
        worth = self.account.cash
        for holding in self.account.holdings:
            row = self._bar(holding.column, session)
            opened = self._last_close(holding.symbol) if row is None else float(self.panel.open[row, holding.column])
            worth += _exact(opened) * holding.quantity
        return worth

    def _enter(
        self, pick: Pick, session: date, signal_session: date, now: datetime, equity: Decimal, cash: Decimal
    ) -> str:
        """The code of what kept the pick from being bought; empty when it was."""
        signal, settings, house = pick.signal, self.world.settings, self.world.house
        if self._held_at_signal(signal, signal_session):
            return "HELD_AT_SIGNAL"
        column = self.columns[signal.symbol]
        row = self._bar(column, session)
        if row is None:
            return "QUOTE_STALE"  # its last quote is yesterday's
        ask = _exact(float(self.panel.open[row, column]))
        quote, stop = _quote(signal.symbol, ask, now), Decimal(repr(signal.stop))
        limit = house.entry_limit(quote, now.date())
        if isinstance(limit, Breach):
            return limit.code
        if ask <= stop:
            return "OPEN_BELOW_STOP"
        policy = settings.risk.policy_gate
        room = max(policy.daily_budget_usd - self.spent_usd, Decimal(0))
        risk_usd = settings.sizing.risk_per_trade_usd
        quantity, code = shares(limit, stop, policy.per_order_max_usd, room, risk_usd, pick.scale)
        if quantity < 1:
            return code or "ZERO_SHARES"
        intent = _intent(signal, quantity, limit, stop, now)
        codes = house.refusal(intent, self._facts(quote, signal_session, now, equity, cash))
        if codes:
            return codes[0]
        self._buy(signal, intent, ask, row, column, session)
        return ""

    def _held_at_signal(self, signal: Signal, signal_session: date) -> bool:
        """A signal is ignored while its strategy held the symbol at the signal's close."""
        own = [(h.symbol, h.strategy, h.entry_session) for h in self.account.holdings] + self.account.left_today
        return any((s, t) == (signal.symbol, signal.strategy) and e <= signal_session for s, t, e in own)

    def _facts(self, quote: Quote, signal_session: date, now: datetime, equity: Decimal, cash: Decimal) -> EntryFacts:
        at = int(np.searchsorted(self.panel.sessions, to_day(signal_session)))
        positions = self.account.positions()
        return EntryFacts(
            now=now, session=signal_session, closes_at=self.world.calendar.closes_at(now.date()), positions=positions,
            marks={symbol: _exact(self._last_close(symbol)) for symbol in positions},
            spent_today_usd=self.spent_usd, quote=quote, vix=self.world.vix.get(signal_session),
            returns=Returns(self.panel, self.rows, at, self.columns), sectors=self.world.sectors, equity=equity,
            cash=cash, sent_at=tuple(self.sent_at),
        )  # fmt: skip

    def _buy(self, signal: Signal, intent: OrderIntent, price: Decimal, row: int, column: int, session: date) -> None:
        house, stop = self.world.house, Decimal(repr(signal.stop))
        self.account.buy(Holding(
            symbol=signal.symbol, strategy=signal.strategy, decision_id=signal.decision_id, entry_session=session,
            time_stop_bars=signal.time_stop_bars, column=column, signal_session=signal.session, signal_row=row - 1,
            first_row=row, quantity=intent.quantity, entry_price=price, stop=stop,
            resting_stop=house.stop_price(stop, session),
            target=house.target_price(price, stop, signal.target_r, session),
            dollar_volume=self._dollar_volume(signal), entry_cost_usd=Decimal(0),
        ))  # fmt: skip
        self.spent_usd += price * intent.quantity
        self.sent_at += [intent.decided_at, intent.decided_at]  # the entry and its protection

    def _dollar_volume(self, signal: Signal) -> float:
        at = int(np.searchsorted(self.panel.sessions, to_day(signal.session)))
        same = (f for f in self.signals.by_session[at] if f.signal is signal)
        return next(same).facts.median_dollar_volume

    # ------------------------------------------------------------ the close
    def _close(self, k: int, session: date) -> None:
        exposure = Decimal(0)
        for holding in self.account.holdings:
            row = int(self.rows[holding.column])
            if int(self.panel.session_index[row, holding.column]) == k:
                holding.own.append(session)
            exposure += _exact(float(self.panel.close[row, holding.column])) * holding.quantity
        tally = self.tally
        tally.days.append(to_day(session))
        tally.cash.append(float(self.account.cash))
        tally.exposure.append(float(exposure))
        tally.equity.append(float(self.account.cash + exposure))
        tally.positions.append(len(self.account.holdings))
        tally.costs.append(float(self.account.costs_usd))

    def _equity(self) -> Equity:
        tally = self.tally
        floats = [np.array(v, dtype=np.float64) for v in (tally.equity, tally.cash, tally.exposure, tally.costs)]
        counts = [np.array(v, dtype=np.intp) for v in (tally.days, tally.positions)]
        return Equity(counts[0], floats[0], floats[1], floats[2], counts[1], floats[3])


def _exact(price: float) -> Decimal:
    """The decimal a person would read off this float, as the venue quotes it."""
    return Decimal(repr(price))


def _quote(symbol: Symbol, price: Decimal, now: datetime) -> Quote:
    return Quote(symbol=symbol, bid=price, ask=price, last=price, at=now)


def _intent(signal: Signal, quantity: int, limit: Decimal, stop: Decimal, now: datetime) -> OrderIntent:
    return OrderIntent(
        decision_id=signal.decision_id, symbol=signal.symbol, side=Side.BUY, quantity=quantity, purpose=Purpose.ENTRY,
        kind=OrderKind.LIMIT, tif=Tif.IOC, decided_at=now, strategy=signal.strategy, signal_session=signal.session,
        limit_price=limit, stop_price=stop, target_r=signal.target_r, time_stop_bars=signal.time_stop_bars,
        reason="signal",
    )  # fmt: skip


def _fresh_sessions(panel: Panel, least: float) -> Sequence[bool]:
    """Whether enough of the symbols listed on each session have a bar of it: of fewer the live day enters nothing.

    Listed: between a symbol's first and last bar. Those not yet listed are no gap in the data.
    """
    count = panel.sessions.size
    index = panel.session_index
    there = np.bincount(index[index >= 0], minlength=count)
    live = np.flatnonzero(panel.length > 0)
    first, last = index[0, live], index[panel.length[live] - 1, live]
    listed = np.cumsum(np.bincount(first, minlength=count + 1) - np.bincount(last + 1, minlength=count + 1))[:count]
    return (there >= least * listed).tolist()  # type: ignore[no-any-return]
