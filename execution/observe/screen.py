"""The status screen: the facts of the page on one terminal, at most 80 columns, plain ASCII. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from core.cli import table
from core.market_calendar import NEW_YORK
from execution.observe.facts import BookFacts, DataFacts, ExecutionFacts, Facts, ScheduleFacts
from execution.observe.readiness import Readiness, Reason
from execution.observe.state_look import Alerts
from execution.observe.words import ago, at_new_york, clock, money, percent, plural, printable, size, unknown

WIDTH, _NAME = 79, 10
_POSITIONS, _ORDERS, _PICKS, _REASONS, _ERRORS, _ALERTS = 10, 8, 5, 8, 3, 4


def screen(facts: Facts, ready: Readiness, alerts: Alerts = "ALERTS_ABSENT") -> str:
    lines = [
        *_top(facts, ready), *_reasons(ready), *_alerts(facts, alerts), *_runs(facts), *_book(facts), *_picks(facts),
        *_data(facts), *_measures(facts), *_system(facts), *_errors(facts),
    ]  # fmt: skip
    return "\n".join(_cut(printable(line)) for line in lines)


# ---------------------------------------------------------------- pieces
def _line(name: str, *parts: str | None) -> list[str]:
    """`name      part, part`, on several lines when it must be; a part is broken only when it is longer than one."""
    lines, line = [], f"{name:<{_NAME}}"
    said = [part for part in parts if part] or ["-"]
    for number, part in enumerate(said, start=1):
        words = part if number == len(said) else f"{part}, "
        if len(line) > _NAME and len(line) + len(words.rstrip()) > WIDTH:
            lines.append(line.rstrip())
            line = " " * _NAME
        line += words
    return [
        piece
        for whole in (*lines, line.rstrip())
        for piece in textwrap.wrap(whole, WIDTH, subsequent_indent=" " * _NAME, drop_whitespace=True) or [""]
    ]


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."


def _indented(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield f"  {line}"


def _rows(headers: Sequence[str], rows: Sequence[Sequence[object]], most: int) -> Iterator[str]:
    if rows:
        yield from _indented(table(headers, rows[:most], width=WIDTH - 2))
        if len(rows) > most:
            yield f"  and {len(rows) - most} more"


def _or(facts: Facts, name: str, words: str | None) -> str:
    return words if words is not None else unknown(facts, name)


# ---------------------------------------------------------------- blocks
def banner(mode: str, broker: str, *, simulated: bool) -> str:
    """The first line, which needs no reading."""
    return f"{'SIMULATED | ' if simulated else ''}mode {mode} | broker {broker}"


def _top(facts: Facts, ready: Readiness) -> Iterator[str]:
    there = facts.at.astimezone(NEW_YORK)
    standing = "  (a replay, standing still)" if facts.standing else ""
    yield f"{ready.state}  {there:%a %Y-%m-%d %H:%M:%S} New York{standing}"
    if facts.scan is not None:
        real = not facts.scan.simulated or "simulated" in facts.scan.source
        yield from _line("source", facts.scan.source, None if real else "SIMULATED")


def _reasons(ready: Readiness) -> Iterator[str]:
    rows = [("STOP", r) for r in ready.stops] + [("warn", r) for r in ready.warnings]
    for mark, reason in rows[:_REASONS]:
        yield from _reason(mark, reason)
    if len(rows) > _REASONS:
        yield f"  and {len(rows) - _REASONS} more"


def _reason(mark: str, reason: Reason) -> Iterable[str]:
    action = f" - {reason.action}" if reason.action else ""
    return textwrap.wrap(
        f"{mark} {reason.code}: {reason.words}{action}", WIDTH, initial_indent="  ", subsequent_indent="       ",
        break_on_hyphens=False,
    )  # fmt: skip


def _alerts(facts: Facts, alerts: Alerts) -> Iterator[str]:
    if isinstance(alerts, str):
        yield from _line("alerts", f"unknown ({alerts})")
        return
    yield from _line("alerts", f"{len(alerts)} standing")
    for a in alerts[:_ALERTS]:
        yield f"  {a.severity} since {at_new_york(a.since, facts.at)}: {a.words or a.name}"
    if len(alerts) > _ALERTS:
        yield f"  and {len(alerts) - _ALERTS} more"


def _runs(facts: Facts) -> Iterator[str]:
    s: ScheduleFacts | None = facts.schedule
    if s is None:
        yield from _line("runs", unknown(facts, "schedule"))
        return
    left_s = (s.next_at - facts.at).total_seconds()
    when = f"in {ago(left_s)}" if left_s > 0 else f"due {ago(-left_s)} ago"
    last = "none on record" if s.last_at is None else f"{s.last_id} {s.last_code}, {at_new_york(s.last_at, facts.at)}"
    yield from _line("next run", f"{at_new_york(s.next_at, facts.at)} ({when})", f"market {_market(s)}")
    yield from _line("last run", last, f"missed {s.missed_7d} in 7 days", f"failed tries {s.failed_24h} in 24 h")
    if s.today:
        yield from _line("today", *(f"{r.label} {r.state}{f' {r.code}' if r.code else ''}" for r in s.today))


def _market(s: ScheduleFacts) -> str:
    if s.opens_at is None or s.closes_at is None:
        return "closed today"
    return f"{'open' if s.is_open else 'closed now'} {clock(s.opens_at)}-{clock(s.closes_at)}"


def _book(facts: Facts) -> Iterator[str]:
    b: BookFacts | None = facts.book
    if b is None:
        yield from _line("book", unknown(facts, "book"))
        return
    used = b.budget
    yield from _line(
        "budget", f"{money(used.spent_today_usd)} of {money(used.daily_budget_usd)} today",
        f"positions {used.positions} of {used.position_limit}", f"orders {used.orders_today} of {used.orders_per_day}",
    )  # fmt: skip
    yield from _line("equity", *_equity(facts, b))
    step = unknown(facts, "book.reconcile")
    if b.reconcile is not None:
        words = (
            "in step with the broker"
            if not b.reconcile.breaks
            else f"{plural(b.reconcile.breaks, 'BREAK')} with the broker"
        )
        step = f"{words}, {ago(b.reconcile.age_s)} ago"
    yield from _line("positions", f"{len(b.positions)}", step)
    yield from _rows(
        ("symbol", "shares", "broker", "average", "stop", "since", "protected"),
        [(p.symbol, p.quantity, p.broker_quantity or "?", _price(p.average_price), _price(p.stop), p.entered_on or "",
          p.locked or ("yes" if p.protected else "NO STOP")) for p in b.positions], _POSITIONS,
    )  # fmt: skip
    yield from _line("orders", f"{len(b.open_orders)} open", f"{b.unsettled} MAY BE LIVE" if b.unsettled else None)
    yield from _rows(
        ("symbol", "what", "shares", "filled", "price", "status"),
        [(o.symbol, f"{o.side} {o.kind}", o.quantity, o.filled, _price(o.price), o.status) for o in b.open_orders],
        _ORDERS,
    )  # fmt: skip


def _equity(facts: Facts, b: BookFacts) -> Iterator[str]:
    if b.equity is None:
        yield unknown(facts, "book.equity")
    else:
        change = b.equity.day_change_usd
        yield f"{money(b.equity.latest_usd)}{'' if change is None else f' ({change:+,.2f})'}"
        yield f"drawdown {percent(b.equity.drawdown, 2)}"
    yield f"realised {money(b.trades.realised_usd, signed=True)} in {b.trades.closed} trades"


def _price(value: object) -> str:
    return "" if value is None else f"{value:,.2f}"


def _picks(facts: Facts) -> Iterator[str]:
    scan = facts.scan
    if scan is None:
        yield from _line("picks", unknown(facts, "scan"))
        return
    refused = sorted(scan.refused.items(), key=lambda r: (-r[1], r[0]))[:4]
    vix = _or(facts, "scan.vix", None if scan.vix is None else f"{scan.vix:.2f}")
    yield from _line(
        "picks", f"{len(scan.picks)} of {scan.considered} at {scan.run}", f"VIX {vix}",
        *(f"{code} {count}" for code, count in refused),
    )  # fmt: skip
    yield from _rows(
        ("symbol", "strategy", "score", "verdict"),
        [(p.symbol, p.strategy, "" if p.score is None else f"{p.score:.1f}", " ".join((p.verdict, *p.codes)))
         for p in scan.picks], _PICKS,
    )  # fmt: skip


def _data(facts: Facts) -> Iterator[str]:
    d: DataFacts | None = facts.data
    if d is None:
        yield from _line("data", unknown(facts, "data"))
        return
    session = _or(facts, "data.session", None if d.session is None else f"{d.session}")
    age = None if d.age_s is None else f"{ago(d.age_s)} old"
    rates = [f"{p.name} {'-' if p.success_rate is None else percent(p.success_rate)}" for p in d.providers or ()]
    vendors = rates if d.providers is not None else [f"vendors {unknown(facts, 'data.providers')}"]
    fallbacks = _or(facts, "data.fallbacks_today", None if d.fallbacks_today is None else f"{d.fallbacks_today}")
    yield from _line("data", f"bars of {session}", age, *vendors, f"fallbacks today {fallbacks}")


def _measures(facts: Facts) -> Iterator[str]:
    m: ExecutionFacts | None = facts.execution
    if m is None:
        yield from _line("execution", unknown(facts, "execution"))
    else:
        rate = None if m.ioc_fill_rate_avg is None else f"{percent(m.ioc_fill_rate_avg)} of {m.ioc_orders}"
        slip = None if m.slippage_bps_avg is None else f"{m.slippage_bps_avg:.1f} bps of {m.slippage_fills}"
        clamp = None if m.clamp_usage_count is None else f"{m.clamp_usage_count}"
        yield from _line(
            "execution", f"filled {_or(facts, 'execution.ioc_fill_rate_avg', rate)}",
            f"slippage {_or(facts, 'execution.slippage_bps_avg', slip)}",
            f"clamp today {_or(facts, 'execution.clamp_usage_count', clamp)}", f"refused {m.orders_refused_today}",
        )  # fmt: skip
    cost = None if facts.llm.cost_usd_today is None else money(facts.llm.cost_usd_today)
    spent = _or(facts, "llm.cost_usd_today", cost)
    yield from _mind(facts)
    tokens = _or(facts, "llm.tokens_today", None if facts.llm.tokens_today is None else str(facts.llm.tokens_today))
    limits = f"{money(facts.llm.cost_budget_usd)}, tokens {tokens} of {facts.llm.tokens_budget}"
    yield from _line("llm", f"spent {spent} of {limits}")


def _mind(facts: Facts) -> Iterator[str]:
    mind = facts.cognitive
    approved = None if mind.approval_rate is None else percent(mind.approval_rate)
    tripped = None if mind.breakers is None else ", ".join(b.lock_id for b in mind.breakers) or "none"
    yield from _line(
        "reviews", f"{_or(facts, 'cognitive.decisions_today', _text(mind.decisions_today))} today",
        f"approved {_or(facts, 'cognitive.approval_rate', approved)}",
        f"breakers tripped {_or(facts, 'cognitive.breakers', tripped)}",
    )  # fmt: skip


def _text(count: int | None) -> str | None:
    return None if count is None else str(count)


def _system(facts: Facts) -> Iterator[str]:
    runner, journal = facts.runner, facts.journal
    if runner is None:
        words = [unknown(facts, "runner")]
    else:
        age = None if runner.beat_age_s is None else f"{ago(runner.beat_age_s)} ago"
        words = [runner.doing, f"pid {runner.pid}", f"beat {_or(facts, 'runner.beat_age_s', age)}"]
    yield from _line("runner", *words)
    head = unknown(facts, "journal") if journal is None else f"{journal.records} records, head {journal.head[:16]}"
    free = _or(facts, "disk_free_bytes", None if facts.disk_free_bytes is None else size(facts.disk_free_bytes))
    yield from _line("journal", head, f"disk free {free}")


def _errors(facts: Facts) -> Iterator[str]:
    if facts.errors is None or facts.errors_24h is None:
        yield from _line("errors", unknown(facts, "errors"))
        return
    yield from _line("errors", f"{facts.errors_24h} in 24 h")
    for x in facts.errors[:_ERRORS]:
        yield f"  {at_new_york(x.at, facts.at)} {x.event} {x.code}: {x.detail}"
