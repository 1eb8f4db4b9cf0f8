"""Sections of what was decided and done on the session's day, and of what comes next."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from core.domain import Symbol
from core.earnings_filter import earnings_verdict
from core.errors import KobeError
from execution.ledger import new_york_day
from execution.observe import measures
from execution.observe.journal_look import profit_usd
from execution.observe.logs_look import InputsLook
from execution.observe.words import clock, money, plural
from scripts import wiring
from scripts.briefing_day import Ground
from scripts.briefing_model import Bar, Cell, Chart, Fact, Section, Table, cell, known, missing, money_cell
from scripts.briefing_standing import time_stop_day
from scripts.recording import inputs_folder

if TYPE_CHECKING:
    from execution.ledger import Trade
    from execution.observe.story import Sent

_NO_SIGNAL = ("BAR_", "NO_BAR", "HISTORY_", "NO_SETUP", "STRATEGY_FAILED")
_CENT = Decimal("0.01")


# ---------------------------------------------------------------- signals and decisions
def signals(g: Ground) -> Section:
    """The signals of the session before, as far as a scan has looked at it already."""
    session = g.context.calendar.previous_session(g.asked.session)
    path = g.context.home.logs / "verdicts" / f"{session.isoformat()}.jsonl"
    facts = [known("of", "Of the bars of", session)]
    try:
        rows = [_signal(verdict) for verdict in _verdicts(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return Section("signals", "Signals", (*facts, missing("found", "Found", "NO_SCAN_YET")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Section("signals", "Signals", (*facts, missing("found", "Found", "VERDICTS_UNREADABLE")))
    picked = sum(1 for row in rows if row[2].value == "PICKED")
    facts.append(known("found", "Found", len(rows), f"{plural(len(rows), 'signal')}, {picked} picked"))
    columns = (("symbol", "symbol"), ("strategy", "strategy"), ("code", "verdict"), ("score", "score"))
    return Section("signals", "Signals", tuple(facts), (Table("rows", columns, tuple(rows), "No signal."),))


def _verdicts(text: str) -> Iterator[Mapping[str, Any]]:
    """Those of symbols that had a setup."""
    for line in text.splitlines():
        found = json.loads(line)
        if found["strategy"] and not str(found["code"]).startswith(_NO_SIGNAL):
            yield found


def _signal(verdict: Mapping[str, Any]) -> tuple[Cell, ...]:
    score, code = measures.number(verdict["numbers"].get("score")), str(verdict["code"])
    return (
        cell(str(verdict["symbol"])), cell(str(verdict["strategy"])),
        cell(code, mark="good" if code == "PICKED" else ""), cell(score, "" if score is None else f"{score:.1f}"),
    )  # fmt: skip


def decisions(g: Ground) -> Section:
    """Every pick of the session's scans with what became of it, what was refused and why, and the reviews."""
    scans = [row for row in g.rows if row.get("kind") == "scan"]
    if not scans:
        return Section("decisions", "Decisions", (missing("scans", "Scans", "NO_SCAN"),))
    refused: Counter[str] = Counter()
    picks: dict[str, Mapping[str, Any]] = {}
    try:
        for row in scans:
            refused = Counter({str(code): int(n) for code, n in row["refused"].items()})
            picks |= {str(pick["decision_id"]): pick for pick in row["picks"]}
        rows = tuple(_pick(g, pick) for pick in picks.values())
    except (KeyError, TypeError, ValueError, AttributeError):
        return Section("decisions", "Decisions", (missing("scans", "Scans", "INPUTS_DAMAGED"),))
    told = ", ".join(f"{code} {n}" for code, n in sorted(refused.items(), key=lambda r: (-r[1], r[0]))[:8])
    facts = [
        known("scans", "Scans", len(scans)),
        known("picks", "Picks", len(picks)),
        known("refused", "Refused at the last scan", dict(sorted(refused.items())), told or "nobody"),
    ]
    columns = (("decision_id", "decision"), ("score", "score"), ("scale", "size"), ("verdict", "what became of it"),
               ("codes", "codes"))  # fmt: skip
    tables = (Table("picks_made", columns, rows, "No pick."), _reviews(g))
    return Section("decisions", "Decisions", tuple(facts), tables)


def _pick(g: Ground, row: Mapping[str, Any]) -> tuple[Cell, ...]:
    from execution.observe.story import Story

    found = measures.pick(row, Story() if g.seen is None else g.seen.story)
    verdict = found.verdict if g.seen is not None else f"unknown ({g.journal_code})"
    score = found.score
    return (
        cell(found.decision_id), cell(score, "" if score is None else f"{score:.1f}"), cell(str(row.get("scale", ""))),
        cell(verdict, mark="good" if verdict.startswith("bought") else ""), cell(", ".join(found.codes)),
    )  # fmt: skip


def _reviews(g: Ground) -> Table:
    """The newest review of every signal that reached one, beside what it would be without the LLM."""
    newest: dict[str, tuple[Cell, ...]] = {}
    for record in g.kind("signals_reviewed"):
        for row in record.body.get("signals", ()):
            review, off = row.get("review") or {}, row.get("without_llm") or {}
            codes = ", ".join(str(code) for code in review.get("codes", ()))
            newest[str(row["decision_id"])] = (
                cell(str(row["decision_id"])), cell(str(review.get("scale", ""))), cell(str(off.get("scale", ""))),
                cell(review.get("confidence")), cell(codes),
            )  # fmt: skip
    columns = (("decision_id", "reviewed"), ("scale", "size"), ("without_llm", "size without LLM"),
               ("confidence", "confidence"), ("codes", "codes"))  # fmt: skip
    return Table("reviews", columns, tuple(newest.values()), "No signal reached a review.")


# ---------------------------------------------------------------- orders and fills
_SENT = (
    ("symbol", "symbol"), ("purpose", "purpose"), ("side", "side"), ("filled", "filled"), ("quantity", "of"),
    ("price", "price"), ("slippage_bps", "slippage bps"), ("end", "end"), ("at", "New York"),
)  # fmt: skip


def orders(g: Ground) -> Section:
    """Every order that was sent on the day or filled on it, and what was refused before it could be sent."""
    if g.seen is None:
        return Section("orders", "Orders and fills", (missing("sent", "Sent", g.journal_code),))
    sent = sorted(g.seen.story.on(g.asked.session), key=lambda s: s.seq)
    told = {one.client_order_id for one in sent}
    filled_today = dict.fromkeys(str(r.body["client_order_id"]) for r in g.kind("order_filled"))
    rested = [one for name in filled_today if name not in told and (one := g.seen.story.sent.get(name)) is not None]
    inputs = InputsLook(g.context.home.logs)
    inputs.look(g.asked.session)
    rows = tuple(_sent(g, one, inputs) for one in (*sent, *rested))
    refused = [r for r in g.seen.story.refused if new_york_day(r.at) == g.asked.session]
    codes = Counter(code for r in refused for code in r.codes)
    filled = sum(1 for one in sent if one.filled)
    facts = (
        known("sent", "Sent", len(sent), f"{len(sent)}, {filled} with a fill"),
        known("rested", "Filled that had rested", len(rested)),
        known("refused", "Refused before they were sent", dict(sorted(codes.items())),
              ", ".join(f"{code} {n}" for code, n in sorted(codes.items())) or "none"),
    )  # fmt: skip
    return Section("orders", "Orders and fills", facts, (Table("rows", _SENT, rows, "No order was sent."),))


def _sent(g: Ground, one: Sent, inputs: InputsLook) -> tuple[Cell, ...]:
    assert g.seen is not None
    order = g.seen.ledger.orders.get(one.client_order_id)
    symbol = str(order.intent.symbol) if order is not None else one.decision_id.rsplit("-", 1)[-1]
    at = one.at if order is None or order.filled_at is None else order.filled_at
    bps = measures.slippage_bps(one, inputs.quote_of(one.decision_id, one.side, one.seq))
    return (
        cell(symbol), cell(one.purpose), cell(one.side), cell(one.filled), cell(one.quantity), money_cell(one.price),
        cell(bps, "" if bps is None else f"{bps:.1f}"), cell(one.end, one.end or "open"), cell(at, clock(at)),
    )  # fmt: skip


# ---------------------------------------------------------------- trades that closed
_CLOSED = (
    ("symbol", "symbol"), ("strategy", "strategy"), ("shares", "shares"), ("entry", "entry"), ("exit", "exit"),
    ("reason", "reason"), ("r", "R"), ("usd", "USD"),
)  # fmt: skip


def closed(g: Ground) -> Section:
    """Trades that were over on the day: their result in R (of the entry's own stop) and in USD, before fees."""
    if g.seen is None:
        return Section("closed", "Trades closed", (missing("trades", "Trades", g.journal_code),))
    ledger = g.seen.ledger
    names = dict.fromkeys(str(record.body["decision_id"]) for record in g.kind("trade_closed"))
    trades = [trade for name in names if (trade := ledger.trades.get(name)) is not None]
    results = [(trade, profit_usd(trade)) for trade in trades]
    rows = tuple(_closed(g, trade, usd) for trade, usd in results)
    total = sum((usd for _, usd in results if usd is not None), Decimal(0))
    facts = (
        known("trades", "Trades", len(trades)),
        known("usd", "Together, before fees", total, money(total, signed=True)),
    )
    bars = tuple(Bar(str(t.symbol), float(usd), f"{usd.quantize(_CENT):+,}") for t, usd in results if usd is not None)
    chart = Chart("Result of each trade, USD", bars) if bars else None
    return Section("closed", "Trades closed", facts, (Table("rows", _CLOSED, rows, "None."),), chart)


def _closed(g: Ground, trade: Trade, usd: Decimal | None) -> tuple[Cell, ...]:
    assert g.seen is not None
    r, price = r_of(trade, usd), exit_price(trade)
    return (
        cell(str(trade.symbol)), cell(trade.strategy), cell(trade.entry_quantity), money_cell(trade.entry_price),
        money_cell(price), cell(str(g.seen.ledger.exit_reason(trade))), cell(r, "" if r is None else f"{r:+.2f}"),
        cell(usd, "" if usd is None else f"{usd.quantize(_CENT):+,}", "" if usd is None else _mark(usd)),
    )  # fmt: skip


def _mark(usd: Decimal) -> str:
    return "good" if usd > 0 else "bad" if usd < 0 else ""


def exit_price(trade: Trade) -> Decimal | None:
    """Average, USD per share; None while open, or when shares left at a price that nobody told."""
    sold = sum(fill.quantity for fill in trade.exits)
    if not sold or any(fill.price is None for fill in trade.exits):
        return None
    return sum((fill.price * fill.quantity for fill in trade.exits if fill.price is not None), Decimal(0)) / sold


def r_of(trade: Trade, usd: Decimal | None) -> float | None:
    """Profit over what the stop put at risk; None without a result, or a stop below the entry."""
    if usd is None or trade.stop is None or trade.stop >= trade.entry_price:
        return None
    return float(usd / (trade.entry_quantity * (trade.entry_price - trade.stop)))


# ---------------------------------------------------------------- what execution cost
_PARTS = ("delay", "spread", "impact", "fees", "missed", "total")


def shortfall(g: Ground) -> Section:
    """Implementation shortfall of the session's decisions: portfolio.backtest.shortfall says how it is split."""
    from portfolio.backtest.shortfall import shortfall as split
    from scripts.executing import executed_decisions
    from scripts.paritying import read_journal
    from scripts.recomputing import Kept, RecordedDay

    day = RecordedDay(g.asked.session, g.rows, 0)
    if not any(row.get("kind") in ("quote", "leave") for row in g.rows):
        return Section("shortfall", "Shortfall", (missing("total_usd", "In all", "NO_ORDERS"),))
    try:
        happened = read_journal(g.context, [day])
        kept = Kept(inputs_folder(g.context.home.logs))
        found = split(executed_decisions(g.context, [day], happened, kept))
    except (KobeError, KeyError, TypeError, ValueError, OSError) as error:
        code = error.code if isinstance(error, KobeError) else "INPUTS_DAMAGED"
        return Section("shortfall", "Shortfall", (missing("total_usd", "In all", code),))
    values = {name: getattr(found, f"{name}_usd").quantize(Decimal("0.0001")) for name in _PARTS}
    facts = [known(f"{name}_usd", name.capitalize(), usd, f"{usd:+,} USD") for name, usd in values.items()]
    facts.append(known("n", "Decisions", found.n, f"{found.n}, {found.unknown} more cannot be told"))
    bars = tuple(Bar(name, float(values[name]), f"{values[name]:+,}", more_is_good=False) for name in _PARTS[:-1])
    return Section("shortfall", "Shortfall", tuple(facts), chart=Chart("Shortfall, USD; positive costs money", bars))


# ---------------------------------------------------------------- earnings, and what comes next
def earnings(g: Ground) -> Section:
    """Announcements near the session, of what is held and of what is signalled."""
    names = {str(t.symbol) for t in ([] if g.seen is None else g.seen.ledger.open_trades())}
    names |= {str(row[0].value) for table in signals(g).tables for row in table.rows}
    rule, calendar = g.context.settings.filters.earnings, g.context.calendar
    if not rule.enabled:
        return Section("earnings", "Earnings", (missing("near", "Near", "EARNINGS_FILTER_OFF"),))
    rows: list[tuple[Cell, ...]] = []
    unknown: list[str] = []
    try:
        source = wiring.earnings_calendar(g.context).at(g.asked.session)
        for name in sorted(names):
            dates = source.dates(Symbol(name))
            if dates is None:
                unknown.append(name)
                continue
            allowed, code = earnings_verdict(
                dates, g.asked.session, days_before=rule.days_before, days_after=rule.days_after, on_unknown="refuse",
                calendar=calendar,
            )  # fmt: skip
            if not allowed:
                rows.append((cell(name), cell(_closest(dates, g.asked.session)), cell(code)))
    except (KobeError, OSError) as error:
        code = error.code if isinstance(error, KobeError) else "EARNINGS_UNREADABLE"
        return Section("earnings", "Earnings", (missing("near", "Near", code),))
    facts: list[Fact] = [known("near", "Announcing near the session", len(rows))]
    why = source.why_unknown or "their dates are not in the file"
    facts += [known("unknown", "Not known", unknown, f"{', '.join(unknown)}: {why}")] if unknown else []
    columns = (("symbol", "symbol"), ("date", "announces"), ("code", "code"))
    return Section("earnings", "Earnings", tuple(facts), (Table("rows", columns, tuple(rows), "None is near."),))


def _closest(dates: Iterable[date], session: date) -> date:
    return min(dates, key=lambda day: (abs((day - session).days), day))


def tomorrow(g: Ground) -> Section:
    """The session after this one, and what leaves in it by the calendar."""
    calendar = g.context.calendar
    session = calendar.next_session(g.asked.session)
    half = calendar.is_half_day(session)
    facts = [
        known("session", "Session", session, f"{session:%a %Y-%m-%d}"),
        known("closes_at", "Closes", calendar.closes_at(session),
              f"{clock(calendar.closes_at(session))} New York{', a half day' if half else ''}"),
    ]  # fmt: skip
    if g.seen is None:
        return Section("tomorrow", "Next session", (*facts, missing("time_stops", "Time stops", g.journal_code)))
    due = [t for t in g.seen.ledger.open_trades() if (day := time_stop_day(g, t)) is not None and day <= session]
    names = sorted(str(t.symbol) for t in due)
    facts.append(known("time_stops", "Time stops due", names, ", ".join(names) or "none"))
    actions = [t for t in g.seen.ledger.open_trades() if t.eased is not None]
    told = ", ".join(f"{t.symbol} {t.eased.ex_date}" for t in actions if t.eased)
    facts.append(known("ex_dates", "Ex-dates", [str(t.symbol) for t in actions], told or "none known"))
    return Section("tomorrow", "Next session", tuple(facts))


def on_the_way(g: Ground) -> Section:
    """Half-way: what is still to come in this session."""
    at = g.asked.at
    calendar, session = g.context.calendar, g.asked.session
    closes = calendar.closes_at(session)
    over = at >= closes
    left = "the session is over" if over else f"open until {clock(closes)} New York"
    facts = [known("open", "Market", not over, left)]
    if g.seen is None:
        return Section("to_come", "Still to come", (*facts, missing("time_stops", "Time stops", g.journal_code)))
    due = sorted(str(t.symbol) for t in g.seen.ledger.open_trades() if time_stop_day(g, t) == session)
    facts.append(known("time_stops", "Time stops due", due, ", ".join(due) or "none"))
    working = [o for o in g.seen.ledger.working() if str(o.intent.purpose) != "protect"]
    facts.append(known("working", "Orders without an end", len(working)))
    return Section("to_come", "Still to come", tuple(facts))
