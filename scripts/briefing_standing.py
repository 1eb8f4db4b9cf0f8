"""Sections of what stands at the briefing's instant: may it trade, what is held, the limits, the money, the data."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from core.errors import DataError
from core.money import protective_target
from execution.ledger import new_york_day
from execution.observe import groups
from execution.observe.words import ago, at_new_york, clock, money, percent, plural
from scripts.briefing_day import Ground
from scripts.briefing_model import (
    Cell,
    Chart,
    Fact,
    Section,
    Table,
    cell,
    either,
    known,
    missing,
    money_cell,
)

if TYPE_CHECKING:
    from execution.ledger import Trade
    from execution.observe.facts import Facts, ScheduleFacts


# ---------------------------------------------------------------- may it trade
def standing(g: Ground) -> Section:
    """Of now; of a day that is over only what the journal keeps."""
    facts: list[Fact] = []
    tables: tuple[Table, ...] = ()
    if g.facts is None or g.ready is None:
        names = {"state": "State", "kill_switch": "Kill switch", "runner": "Runner", "disk": "Disk free"}
        facts = [missing(key, name, g.code_of(key)) for key, name in names.items()]
    else:
        facts = list(_now(g, g.facts, g.ready.state))
        rows = [(r, "stop", "bad") for r in g.ready.stops] + [(r, "warning", "warn") for r in g.ready.warnings]
        tables = (Table(
            "reasons", (("kind", ""), ("code", "code"), ("found", "found"), ("action", "what to do")),
            tuple((cell(kind, mark=mark), cell(r.code), cell(r.words), cell(r.action)) for r, kind, mark in rows),
            "Nothing stops an entry, nothing is to be looked at.",
        ),)  # fmt: skip
    story = None if g.seen is None else g.seen.story
    halted = None if story is None else story.halted_at
    facts.append(
        missing("halted_since", "Halted since", g.journal_code) if story is None
        else known("halted_since", "Halted since", halted, "not halted" if halted is None else _when(g, halted))
    )  # fmt: skip
    passed = None if story is None else story.preflight_passed_at
    code = g.journal_code or "NEVER_PASSED"
    facts.append(either("preflight_passed_at", "Preflight passed", passed, _when(g, passed) if passed else "", code))
    return Section("standing", "May it trade", tuple(facts), tables)


def _now(g: Ground, facts: Facts, state: str) -> Iterator[Fact]:
    yield known("state", "State", state)
    switch = facts.switch
    yield known("kill_switch", "Kill switch", switch.present, "ON: nothing is sent" if switch.present else "off")
    runner = facts.runner
    doing = "" if runner is None else f"{runner.doing}, pid {runner.pid}"
    yield either("runner", "Runner", None if runner is None else runner.doing, doing, g.code_of("runner"))


def _when(g: Ground, at: datetime) -> str:
    return f"{at_new_york(at, g.asked.at)} New York"


# ---------------------------------------------------------------- the day's plan
def plan(g: Ground) -> Section:
    """The session, its runs, and whether it is short."""
    calendar, session, runner = g.context.calendar, g.asked.session, g.context.settings.runner
    times = tuple(runner.scan_times)
    table = groups.Timetable(calendar=calendar, scan_times=times, half_day_rule=runner.half_day_rule)
    opens, closes = calendar.opens_at(session), calendar.closes_at(session)
    half = calendar.is_half_day(session)
    runs = tuple(
        (cell(run.label), cell(run.at, clock(run.at)), cell(run.last, "time stops" if run.last else ""))
        for run in table.of(session)
    )
    facts = (
        known("opens_at", "Opens", opens, f"{clock(opens)} New York"),
        known("closes_at", "Closes", closes, f"{clock(closes)} New York{', a half day' if half else ''}"),
        known("half_day", "Half day", half, "yes" if half else "no"),
        known("next_session", "Session after it", calendar.next_session(session)),
    )
    columns = (("run", "run"), ("at", "New York"), ("last", "also"))
    return Section("plan", "What is due", facts, (Table("runs", columns, runs, "No run is due."),))


def runs(g: Ground) -> Section:
    """What became of the session's runs."""
    schedule = _schedule(g)
    if schedule is None:
        return Section("runs", "Runs", (missing("today", "Runs", g.journal_code or "CALENDAR_UNKNOWN"),))
    marks = {"done": "good", "missed": "bad", "failing": "bad", "overdue": "bad", "running": "warn"}
    rows = tuple(
        (cell(r.label), cell(r.due_at, clock(r.due_at)), cell(r.state, mark=marks.get(r.state, "")), cell(r.code))
        for r in schedule.today
    )
    facts = (
        known("missed_7d", "Missed in 7 days", schedule.missed_7d),
        known("next_run", "Next run", schedule.next_id, f"{schedule.next_id} New York"),
    )
    columns = (("run", "run"), ("due_at", "due"), ("state", "state"), ("code", "code"))
    return Section("runs", "Runs", facts, (Table("runs", columns, rows, "No run was due."),))


def _schedule(g: Ground) -> ScheduleFacts | None:
    if g.facts is not None:
        return g.facts.schedule
    if g.seen is None:
        return None
    runner = g.context.settings.runner
    table = groups.Timetable(
        calendar=g.context.calendar, scan_times=tuple(runner.scan_times), half_day_rule=runner.half_day_rule
    )
    try:
        return groups.schedule(table, g.seen.story, None, g.asked.at, {})
    except DataError:
        return None


# ---------------------------------------------------------------- what is held
_HELD = (
    ("symbol", "symbol"), ("shares", "shares"), ("stop", "stop"), ("target", "target"), ("time_stop", "time stop"),
    ("protected", "protected"), ("entry", "entry"), ("since", "since"), ("strategy", "strategy"),
)  # fmt: skip


def held(g: Ground) -> Section:
    """Open trades with their stop, their target and the day of their time stop."""
    if g.seen is None:
        return Section("held", "Held", (missing("positions", "Positions", g.journal_code),))
    ledger = g.seen.ledger
    trades = sorted(ledger.open_trades(), key=lambda t: (t.symbol, t.decision_id))
    rows = tuple(_held(g, trade) for trade in trades)
    unsettled = len(ledger.unsettled())
    limit = g.context.settings.risk.position_limit
    facts = [
        known("positions", "Positions", len(ledger.positions), f"{len(ledger.positions)} of {limit}"),
        known("may_be_live", "Orders that may be live", unsettled),
    ]
    strangers = sorted({str(s) for s in ledger.positions} - {str(t.symbol) for t in trades})
    if strangers:
        facts.append(known("unexplained", "Held without a trade of ours", strangers, ", ".join(strangers)))
    if ledger.locked:
        locked = {str(s): code for s, code in sorted(ledger.locked.items())}
        facts.append(known("locked", "Locked", locked, ", ".join(f"{s} {code}" for s, code in locked.items())))
    facts.append(_in_step(g))
    return Section("held", "Held", tuple(facts), (Table("positions_held", _HELD, rows, "Nothing is held."),))


def _held(g: Ground, trade: Trade) -> tuple[Cell, ...]:
    from risk.gate import Limits

    assert g.seen is not None
    ticks = Limits.from_settings(g.context.settings).ticks
    target = (
        None if trade.stop is None
        else protective_target(trade.entry_price, trade.stop, trade.target_r, g.asked.session, ticks)
    )  # fmt: skip
    leaves = time_stop_day(g, trade)
    safe = groups.is_protected(trade, g.seen.ledger)
    due = leaves is not None and leaves <= g.asked.session
    return (
        cell(str(trade.symbol)), cell(trade.quantity), money_cell(trade.stop), money_cell(target),
        cell(leaves, mark="warn" if due else ""), cell(safe, "yes" if safe else "NO STOP", "" if safe else "bad"),
        money_cell(trade.entry_price), cell(trade.session), cell(trade.strategy),
    )  # fmt: skip


def time_stop_day(g: Ground, trade: Trade) -> date | None:
    """The session at whose last scan it leaves, were it to trade every day: the entry bar is bar 1."""
    if trade.time_stop_bars is None:
        return None
    try:
        return g.context.calendar.offset(trade.session, trade.time_stop_bars - 1)
    except DataError:
        return None


def _in_step(g: Ground) -> Fact:
    assert g.seen is not None
    story = g.seen.story
    if story.reconciled_at is None:
        return missing("breaks", "Against the broker", "NO_RUN")
    words = "in step" if not story.breaks_told else plural(story.breaks_told, "break")
    return known("breaks", "Against the broker", story.breaks_told, f"{words}, {_when(g, story.reconciled_at)}")


# ---------------------------------------------------------------- limits and money
def limits(g: Ground) -> Section:
    facts: list[Fact] = []
    if g.seen is None:
        facts.append(missing("spent_today_usd", "Entries of the day", g.journal_code))
    else:
        b = groups.budget(g.seen, g.context.settings.risk, g.asked.at)
        left = max(Decimal(0), b.daily_budget_usd - b.spent_today_usd)
        facts += [
            known("spent_today_usd", "Entries of the day", b.spent_today_usd, money(b.spent_today_usd)),
            known("daily_budget_usd", "Daily budget", b.daily_budget_usd, money(b.daily_budget_usd)),
            known("left_today_usd", "Left of it", left, money(left)),
            known("spent_week_usd", "Entries of the week", b.spent_week_usd, money(b.spent_week_usd)),
            known("per_order_max_usd", "Per order at most", b.per_order_max_usd, money(b.per_order_max_usd)),
            known("orders_today", "Orders of the day", b.orders_today, f"{b.orders_today} of {b.orders_per_day}"),
        ]
    return Section("limits", "Limits", tuple(facts))


def book_money(g: Ground) -> Section:
    """Equity as the broker told it at the end of runs; realised before regulatory fees."""
    if g.seen is None:
        return Section("money", "Money", (missing("equity_usd", "Equity", g.journal_code),))
    equity, trades = groups.equity(g.seen.story), groups.trades(g.seen.results, new_york_day(g.asked.at))
    facts: list[Fact] = []
    chart = None
    if equity is None:
        facts.append(missing("equity_usd", "Equity", "EQUITY_NOT_TOLD"))
    else:
        change = equity.day_change_usd
        words = "" if change is None else money(change, signed=True)
        latest = f"{money(equity.latest_usd)}, {_when(g, equity.latest_at)}"
        facts += [
            known("equity_usd", "Equity", equity.latest_usd, latest),
            either("day_change_usd", "Against the session before", change, words, "NO_SESSION_BEFORE"),
            known("drawdown", "Below its peak", equity.drawdown, percent(equity.drawdown, 2)),
        ]  # fmt: skip
        chart = Chart(f"Equity, {plural(len(equity.points), 'session')}", equity=equity.points)
    facts += [
        known("realised_today_usd", "Realised on the day", trades.realised_today_usd,
              f"{money(trades.realised_today_usd, signed=True)} in {plural(trades.closed_today, 'trade')}"),
        known("realised_usd", "Realised in all", trades.realised_usd,
              f"{money(trades.realised_usd, signed=True)} in {plural(trades.closed, 'trade')}"),
        known("loss_streak", "Losses in a row", trades.loss_streak),
    ]  # fmt: skip
    if trades.unpriced:
        facts.append(known("unpriced", "Closed without a price, in no sum", trades.unpriced))
    return Section("money", "Money", tuple(facts), chart=chart)


# ---------------------------------------------------------------- market and data
def market(g: Ground) -> Section:
    """VIX with what it means for size, and how old the bars are."""
    from portfolio.choice import vix_scale

    scan = g.facts.scan if g.facts is not None else None
    vix = scan.vix if scan is not None else _kept_vix(g)
    facts: list[Fact] = []
    if vix is None:
        facts.append(missing("vix", "VIX", g.code_of("scan.vix") if scan is not None else "NO_SCAN"))
        facts.append(known("vix_means", "For new entries", "none", "no new entry while it is unknown"))
    else:
        scale, objection = vix_scale(vix, g.context.settings)
        means = "no new entry" if objection else "full size" if scale == 1 else f"size times {scale}"
        of = f", at the close of {scan.session}" if scan is not None else ""
        facts += [known("vix", "VIX", vix, f"{vix:.2f}{of}"), known("vix_means", "For new entries", means)]
    facts += _data(g)
    return Section("market", "Market and data", tuple(facts))


def _kept_vix(g: Ground) -> float | None:
    from execution.observe.measures import number

    scans = [row for row in g.rows if row.get("kind") == "scan"]
    return number(scans[-1].get("vix")) if scans else None


def _data(g: Ground) -> Iterator[Fact]:
    data = g.facts.data if g.facts is not None else None
    if data is None:
        yield missing("bars_of", "Bars of", g.code_of("data"))
        return
    session, behind, age_s = data.session, data.sessions_behind, data.age_s
    yield either("bars_of", "Bars of", session, f"{session}", g.code_of("data.session"))
    yield known("closed_last", "Closed last", data.expected_session)
    words = "" if behind is None else plural(behind, "session")
    yield either("behind", "Behind", behind, words, g.code_of("data.sessions_behind"))
    yield either("age_s", "Age", age_s, "" if age_s is None else ago(age_s), g.code_of("data.age_s"))
    if data.providers is None:
        yield missing("providers", "Vendors", g.code_of("data.providers"))
    else:
        rates = {p.name: p.success_rate for p in data.providers}
        told = ", ".join(f"{name} {'not asked' if r is None else percent(r)}" for name, r in rates.items())
        yield known("providers", "Vendors, answered in 7 days", rates, told or "none")
    fallbacks = data.fallbacks_today
    yield either("fallbacks_today", "Fallbacks today", fallbacks, f"{fallbacks}", g.code_of("data.fallbacks_today"))


# ---------------------------------------------------------------- alerts
def alerts(g: Ground) -> Section:
    if isinstance(g.alerts, str):
        return Section("alerts", "Alerts", (missing("standing", "Standing", g.alerts),))
    marks = {"critical": "bad", "warning": "warn"}
    rows = tuple(
        (cell(a.severity, mark=marks.get(a.severity, "")), cell(a.since, _when(g, a.since)), cell(a.words or a.name),
         cell(a.action), cell(a.acknowledged, "seen" if a.acknowledged else ""))
        for a in g.alerts
    )  # fmt: skip
    columns = (("severity", ""), ("since", "since"), ("words", "what"), ("action", "what to do"), ("seen", ""))
    facts = (known("standing", "Standing", len(g.alerts)),)
    return Section("alerts", "Alerts", facts, (Table("rows", columns, rows, "None stands."),))
