"""The page for people: Facts as one HTML document. Pure; every text is escaped, no asset comes from elsewhere.

It says everything without JavaScript. With it, the script of page_assets takes the new `<main>` every few seconds;
without, the browser reloads.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from core.market_calendar import NEW_YORK
from core.secrets import mask_secrets
from execution.observe.chart import equity_svg
from execution.observe.facts import (
    BookFacts,
    BudgetFacts,
    Facts,
    OrderFacts,
    PickFacts,
    PositionFacts,
    RunFacts,
    ScheduleFacts,
)
from execution.observe.page_assets import SCRIPT, STYLE
from execution.observe.page_parts import card, e, gone, known, pairs, table, when
from execution.observe.readiness import Readiness, Reason
from execution.observe.state_look import Alerts
from execution.observe.words import ago, clock, money, percent, plural, size

ERRORS_MOST = 8


def render(facts: Facts, ready: Readiness, alerts: Alerts = "ALERTS_ABSENT") -> bytes:
    title = f"{ready.state} · Kobe {facts.mode}{' (simulated)' if facts.simulated else ''}"
    cards = "".join([
        _header(facts, ready),
        '<div id="lost" class="card bad" hidden><b></b></div>',
        _reasons(ready), _alerts(facts, alerts),
        _runs(facts), _budget(facts), _money(facts),
        _positions(facts), _orders(facts), _picks(facts), _breaks(facts),
        _equity(facts), _data(facts), _quality(facts), _llm(facts), _system(facts), _errors(facts),
    ])  # fmt: skip
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{e(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        '<noscript><meta http-equiv="refresh" content="15"></noscript>'
        f"<style>{STYLE}</style></head><body><main>{cards}</main><script>{SCRIPT}</script></body></html>"
    )
    return mask_secrets(text).encode("utf-8", "replace")


# ---------------------------------------------------------------- header
def _header(facts: Facts, ready: Readiness) -> str:
    css = {"ARMED": "good", "HALTED": "bad"}.get(ready.state, "warn")
    marks = [f'<span class="badge {css}">{e(ready.state)}</span>']
    if facts.simulated:
        marks.append('<span class="badge warn">SIMULATED</span>')
    marks.append(f'<span class="badge {"live" if facts.mode == "live" else "plain"}">{e(facts.mode.upper())}</span>')
    source = "no scan yet" if facts.scan is None else facts.scan.source
    standing = " · the account of a replay, standing still" if facts.standing else ""
    there = facts.at.astimezone(NEW_YORK)
    return (
        f'<header class="card"><h1>Kobe</h1>{"".join(marks)}'
        f'<span class="spacer"></span><span class="soft keep">{there:%a %Y-%m-%d %H:%M:%S} New York</span>'
        f'<span class="soft about">broker: {e(facts.broker.kind)} · data: {e(source)}{e(standing)}</span></header>'
    )


def _reasons(ready: Readiness) -> str:
    rows = [(r, "bad") for r in ready.stops] + [(r, "warn") for r in ready.warnings]
    if not rows:
        return ""
    title = "Why no entry is made now" if ready.stops else "To look at"
    return card(title, '<ul class="reasons">' + "".join(_reason(r, css) for r, css in rows) + "</ul>")


def _reason(reason: Reason, css: str) -> str:
    action = f'<span class="do">{e(reason.action)}</span>' if reason.action else ""
    return f'<li><span class="tag {css}">{e(reason.code)}</span><span>{e(reason.words)}</span>{action}</li>'


def _alerts(facts: Facts, alerts: Alerts) -> str:
    if isinstance(alerts, str):
        return card("Alerts", f'<p><span class="unknown">{e(f"unknown ({alerts})")}</span></p>')
    rows = "".join(
        f'<li><span class="tag {"bad" if a.severity == "critical" else "warn"}">{e(a.severity)}</span>'
        f"<span>{e(a.words or a.name)} · since {when(a.since, facts.at)}{' · acknowledged' if a.acknowledged else ''}"
        f'</span><span class="do">{e(a.action)}</span></li>'
        for a in alerts
    )
    return card("Alerts", f'<ul class="reasons">{rows}</ul>' if rows else '<p class="soft">None stands.</p>')


# ---------------------------------------------------------------- runs, budget, money
def _runs(facts: Facts) -> str:
    schedule = facts.schedule
    if schedule is None:
        return gone(facts, "Runs", "schedule", "four")
    last = "none on record"
    if schedule.last_id is not None and schedule.last_at is not None:
        last = f"{e(schedule.last_id)} {_code(schedule.last_code or '')} {when(schedule.last_at, facts.at)}"
    rows = [
        ("Next", f"<b>{when(schedule.next_at, facts.at)}</b> · {e(_until(schedule.next_at, facts.at))}"),
        ("Last", last),
        ("Market", e(_market(schedule))),
        ("Missed", f"{schedule.missed_7d} in 7 days · {schedule.failed_24h} failed tries in 24 h"),
        *((e(run.label), _run(run)) for run in schedule.today),
    ]
    return card("Runs", pairs(rows), "four")


def _until(at: datetime, now: datetime) -> str:
    left_s = (at - now).total_seconds()
    return f"in {ago(left_s)}" if left_s > 0 else f"due {ago(-left_s)} ago"


def _market(schedule: ScheduleFacts) -> str:
    if schedule.session is None:
        return "closed today"
    assert schedule.opens_at is not None and schedule.closes_at is not None
    hours = f"{clock(schedule.opens_at)} to {clock(schedule.closes_at)}"
    return f"{'open' if schedule.is_open else 'closed now'}, {hours}"


_RUN_CSS = {"done": "good", "missed": "bad", "failing": "bad", "overdue": "bad", "running": "warn"}


def _run(run: RunFacts) -> str:
    css = _RUN_CSS.get(run.state, "plain")
    return f'<span class="tag {css}">{e(run.state)}</span> {_code(run.code)}'


def _code(code: str) -> str:
    return f'<code class="soft">{e(code)}</code>' if code else ""


def _budget(facts: Facts) -> str:
    if facts.book is None:
        return gone(facts, "Budget", "book", "four")
    b: BudgetFacts = facts.book.budget
    bars: list[tuple[str, Decimal | int, Decimal | int, str]] = [
        ("Entries today", b.spent_today_usd, b.daily_budget_usd, f"{b.spent_today_usd:,.2f} of "
         f"{money(b.daily_budget_usd)}"),
        ("Positions", b.positions, b.position_limit, f"{b.positions} of {b.position_limit}"),
        ("Orders today", b.orders_today, b.orders_per_day, f"{b.orders_today} of {b.orders_per_day}"),
    ]  # fmt: skip
    body = "".join(_bar(name, float(used), float(limit), words) for name, used, limit, words in bars)
    rows = [("Per order", e(money(b.per_order_max_usd))), ("This week", e(money(b.spent_week_usd)))]
    return card("Budget", body + pairs(rows), "four")


def _bar(name: str, used: float, limit: float, words: str) -> str:
    most = limit if limit > 0 else 1.0
    value = min(max(used, 0.0), most)
    return f'<div>{e(name)}: <b>{e(words)}</b><progress max="{most:g}" value="{value:g}">{e(words)}</progress></div>'


def _money(facts: Facts) -> str:
    if facts.book is None:
        return gone(facts, "Money", "book", "four")
    equity, trades = facts.book.equity, facts.book.trades
    if equity is None:
        top, rows = f'<p class="big">{known(facts, "book.equity", None)}</p>', []
    else:
        top = f'<p class="big">{e(money(equity.latest_usd))}</p>'
        rows = [
            ("As of", when(equity.latest_at, facts.at)),
            ("Session", e("unknown" if equity.day_change_usd is None else money(equity.day_change_usd, signed=True))),
            ("Drawdown", e(percent(equity.drawdown, 2))),
        ]
    rows += [
        ("Realised", e(money(trades.realised_usd, signed=True))),
        ("Today", f"{e(money(trades.realised_today_usd, signed=True))} · {trades.closed_today} closed"),
        ("Trades", f"{trades.closed} closed · {trades.loss_streak} losses in a row"),
    ]
    return card("Money", top + pairs(rows), "four")


# ---------------------------------------------------------------- positions, orders, picks
def _positions(facts: Facts) -> str:
    book = facts.book
    if book is None:
        return gone(facts, "Positions", "book")
    columns = [("symbol", ""), ("shares", "num"), ("broker", "num"), ("average", "num wide"), ("stop", "num"),
               ("since", "keep wide"), ("strategy", "wide")]  # fmt: skip
    return card("Positions", table(columns, [_position(p) for p in book.positions], "Nothing is held.") + _in_step(
        facts, book))  # fmt: skip


def _position(p: PositionFacts) -> list[str]:
    marks = [] if p.protected else ['<span class="tag bad">NO STOP</span>']
    marks += [f'<span class="tag warn">{e(p.locked)}</span>'] if p.locked else []
    differs = p.broker_quantity is not None and p.broker_quantity != str(p.quantity)
    theirs = e("?" if p.broker_quantity is None else p.broker_quantity)
    theirs = f'<span class="tag bad">{theirs}</span>' if differs else theirs
    return [
        f"<b>{e(p.symbol)}</b> {' '.join(marks)}", e(p.quantity), theirs,
        _price(p.average_price), _price(p.stop), e(p.entered_on or ""), e(", ".join(p.strategies)),
    ]  # fmt: skip


def _price(value: Decimal | float | None) -> str:
    return "" if value is None else e(f"{value:,.2f}")


def _in_step(facts: Facts, book: BookFacts) -> str:
    if book.reconcile is None:
        return f'<p class="soft">Against the broker: {known(facts, "book.reconcile", None)}</p>'
    r = book.reconcile
    words = "in step" if not r.breaks else plural(r.breaks, "break")
    return f'<p class="soft">Against the broker: <b>{e(words)}</b>, {e(ago(r.age_s))} ago, {when(r.at, facts.at)}.</p>'


def _orders(facts: Facts) -> str:
    if facts.book is None:
        return gone(facts, "Open orders", "book")
    columns = [("symbol", ""), ("what", ""), ("shares", "num"), ("filled", "num wide"), ("price", "num"),
               ("status", ""), ("sent", "keep wide")]  # fmt: skip
    rows = [_order(o, facts.at) for o in facts.book.open_orders]
    return card("Open orders", table(columns, rows, "No order is open."))


def _order(o: OrderFacts, now: datetime) -> list[str]:
    status = f'<span class="tag bad">{e(o.status)}</span>' if o.unsettled else e(o.status)
    what = f"{o.side} {o.kind}, {o.purpose}"
    return [
        f"<b>{e(o.symbol)}</b>", e(what), e(o.quantity), e(o.filled), _price(o.price), status, when(o.intended_at, now)
    ]  # fmt: skip


def _picks(facts: Facts) -> str:
    scan = facts.scan
    if scan is None:
        return gone(facts, "Picks", "scan")
    columns = [("symbol", ""), ("strategy", ""), ("score", "num"), ("close", "num wide"), ("stop", "num wide"),
               ("verdict", ""), ("reasons", "wide")]  # fmt: skip
    refused = ", ".join(f"{code} {n}" for code, n in sorted(scan.refused.items(), key=lambda r: (-r[1], r[0]))[:8])
    vix = known(facts, "scan.vix", None if scan.vix is None else f"{scan.vix:.2f}")
    words = (
        f'<p class="soft">{e(scan.run)} on the bars of {e(scan.session)} · {scan.considered} considered · VIX {vix}'
        f"{' · refused: ' + e(refused) if refused else ''}</p>"
    )
    return card("Picks of the newest scan", table(columns, [_pick(p) for p in scan.picks], "No picks.") + words)


def _pick(p: PickFacts) -> list[str]:
    css = "good" if p.verdict.startswith("bought") else "warn" if p.codes or p.verdict == "may be live" else "plain"
    verdict = f'<span class="tag {css}">{e(p.verdict)}</span> {_code(", ".join(p.codes))}'
    score = "" if p.score is None else f"{p.score:.1f}"
    return [
        f"<b>{e(p.symbol)}</b>", e(p.strategy), score, _price(p.close), _price(p.stop), verdict,
        f'<span class="soft">{e(p.reasons)}</span>',
    ]  # fmt: skip


def _breaks(facts: Facts) -> str:
    if facts.book is None or facts.book.reconcile is None or not facts.book.reconcile.rows:
        return ""
    columns = [("symbol", ""), ("break", ""), ("ours", "num"), ("theirs", ""), ("cure", "wide")]
    rows = [
        [f"<b>{e(b.symbol)}</b>", e(f"{b.kind} {b.cause}"), e(b.ours), e(b.theirs), e(b.proposal)]
        for b in facts.book.reconcile.rows
    ]
    return card("Breaks", table(columns, rows, ""))


# ---------------------------------------------------------------- the rest
def _equity(facts: Facts) -> str:
    equity = None if facts.book is None else facts.book.equity
    if equity is None:
        return gone(facts, "Equity", "book" if facts.book is None else "book.equity", "eight")
    return card(f"Equity, {len(equity.points)} sessions", equity_svg(equity.points), "eight")


def _data(facts: Facts) -> str:
    data = facts.data
    if data is None:
        return gone(facts, "Data", "data", "four")
    rows = [
        ("Bars of", known(facts, "data.session", data.session)),
        ("Closed last", e(data.expected_session)),
        ("Behind", known(facts, "data.sessions_behind", _sessions(data.sessions_behind))),
        ("Age", known(facts, "data.age_s", None if data.age_s is None else ago(data.age_s))),
        ("Fallbacks", known(facts, "data.fallbacks_today", data.fallbacks_today) + " today"),
    ]
    if data.providers is None:
        rows.append(("Vendors", known(facts, "data.providers", None)))
    for p in data.providers or ():
        rate = "not asked in 7 days" if p.success_rate is None else f"{percent(p.success_rate)} of {p.asked} in 7 days"
        rows.append((e(p.name), e(rate)))
    return card("Data", pairs(rows), "four")


def _sessions(behind: int | None) -> str | None:
    return None if behind is None else plural(behind, "session")


def _quality(facts: Facts) -> str:
    m = facts.execution
    if m is None:
        return gone(facts, "Execution, 30 days", "execution", "four")
    name = "execution."
    slip = None if m.slippage_bps_avg is None else f"{m.slippage_bps_avg:.1f} bps over {m.slippage_fills} fills"
    rate = None if m.ioc_fill_rate_avg is None else f"{percent(m.ioc_fill_rate_avg)} of {m.ioc_orders} orders"
    wait = None if m.latency_ms_avg is None else f"{m.latency_ms_avg:.0f} ms, at most {m.latency_ms_max or 0:.0f} ms"
    rows = [
        ("Filled", known(facts, name + "ioc_fill_rate_avg", rate)),
        ("Slippage", known(facts, name + "slippage_bps_avg", slip)),
        ("Clamp used", known(facts, name + "clamp_usage_count", m.clamp_usage_count) + " today"),
        ("Refused", f"{m.orders_refused_today} by us, {m.orders_rejected_today} by the broker, today"),
        ("Answer", known(facts, name + "latency_ms_avg", wait)),
    ]
    return card("Execution, 30 days", pairs(rows), "four")


def _llm(facts: Facts) -> str:
    llm, reviews = facts.llm, facts.cognitive
    cost = None if llm.cost_usd_today is None else money(llm.cost_usd_today)
    approved = None if reviews.approval_rate is None else percent(reviews.approval_rate)
    tripped = None if reviews.breakers is None else ", ".join(b.lock_id for b in reviews.breakers) or "none tripped"
    rows = [
        ("Spent today", known(facts, "llm.cost_usd_today", cost) + f" of {e(money(llm.cost_budget_usd))}"),
        ("Tokens", known(facts, "llm.tokens_today", llm.tokens_today) + f" of {llm.tokens_budget}"),
        ("Calls", known(facts, "llm.calls_today", llm.calls_today)),
        ("Latency", known(facts, "llm.avg_latency_ms", llm.avg_latency_ms)),
        ("Reviews", known(facts, "cognitive.decisions_today", reviews.decisions_today)),
        ("Approved", known(facts, "cognitive.approval_rate", approved)),
        ("Breakers", known(facts, "cognitive.breakers", tripped)),
    ]
    return card("LLM and reviews", pairs(rows), "four")


def _system(facts: Facts) -> str:
    runner, journal = facts.runner, facts.journal
    rows = []
    if runner is None:
        rows.append(("Runner", known(facts, "runner", None)))
    else:
        age = None if runner.beat_age_s is None else f"{runner.beat_age_s:.0f} s ago"
        rows += [
            ("Runner", f"{e(runner.doing)} · pid {runner.pid}"),
            ("Last beat", known(facts, "runner.beat_age_s", age)),
        ]
    if journal is None:
        rows.append(("Journal", known(facts, "journal", None)))
    else:
        rows += [
            ("Journal", f"{journal.records} records"),
            ("Head", f'<code>{e(journal.head[:16])}</code>'),
        ]  # fmt: skip
    account = None if facts.book is None or facts.book.account is None else facts.book.account
    rows.append(("Account", "none bound yet" if account is None else e(f"{account['mode']} {account['number']}")))
    free = None if facts.disk_free_bytes is None else size(facts.disk_free_bytes)
    rows.append(("Disk free", known(facts, "disk_free_bytes", free)))
    return card("System", pairs(rows), "four")


def _errors(facts: Facts) -> str:
    if facts.errors is None or facts.errors_24h is None:
        return gone(facts, "Errors, last 24 hours", "errors")
    rows = "".join(
        f"<li>{when(x.at, facts.at)} <b>{e(x.event)}</b> {_code(x.code)}<br>"
        f'<span class="soft">{e(x.detail)}</span></li>'
        for x in facts.errors[:ERRORS_MOST]
    )
    more = facts.errors_24h - min(len(facts.errors), ERRORS_MOST)
    tail = f'<p class="soft">and {more} more in logs/errors.jsonl</p>' if more > 0 else ""
    return card("Errors, last 24 hours", f"<ul>{rows}</ul>{tail}" if rows else '<p class="soft">None.</p>')
