"""A recorded span against the portfolio backtest of the same sessions, decision by decision.

Three kinds: `verdict SYMBOL` of the first scan, for symbols with a signal on either side; `entry ID`, what became of a
pick; `exit ID`, when, at what price and why a trade was left. The backtest runs with the settings and parameters that
were recorded, so that what differs is bars, quotes, orders, or the account.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from core.bars_io import from_day
from core.domain import Purpose, Side, Symbol, client_order_id
from core.errors import DataError, KobeError
from execution.ledger import new_york_day
from portfolio.backtest.engine import REASONS
from portfolio.backtest.parity import Cause, Difference, bar_changes
from portfolio.choice import STAGES
from scripts import wiring
from scripts.comparing import BY_CODE, Report, columns
from scripts.recomputing import Happened, Inputs, Kept, RecordedDay, Row
from scripts.recording import inputs_folder, reviewer_of, scorer_of
from scripts.redeciding import symbol_of

if TYPE_CHECKING:
    from core.panel import Panel
    from core.ports import Reviewer, Scorer
    from execution.ledger import LedgerOrder
    from portfolio.backtest.portfolio_level import PortfolioRun

_NO_SIGNAL = ("NO_SETUP", "NO_BAR", "HISTORY_SHORT", "HISTORY_GAP", "STRATEGY_FAILED")
Texts = dict[tuple[date, str], str]
"""(session that was traded, decision) -> text."""


@dataclass(frozen=True, slots=True, eq=False)
class _Tested:
    run: PortfolioRun
    panel: Panel


def against_backtest(
    context: wiring.Context, args: argparse.Namespace, days: Sequence[RecordedDay], happened: Happened, report: Report
) -> None:
    """Raises DataError NO_RECORD when no scan of the span left its inputs: there is nothing to run with."""
    kept = Kept(inputs_folder(context.home.logs))
    first = next((row for day in days for row in day.rows if row["kind"] == "scan"), None)
    if first is None:
        raise DataError("no scan of this span has kept its inputs", code="NO_RECORD", advice="see docs/parity.md")
    tested = _backtest(context, args, days, kept.inputs(first), first)
    lived, simulated = _lived(days, happened, kept), _simulated(tested, days)
    blame = _Blame(days, happened, kept, tested.panel)
    for day, name in sorted(lived.keys() | simulated.keys()):
        was, would = lived.get((day, name), "absent"), simulated.get((day, name), "absent")
        report.decisions += 1
        if was == would:
            report.again += 1
            continue
        cause, why = blame.of(day, name, was, would)
        detail = f"recorded {was}; backtest {would}" + (f"; {why}" if why else "")
        report.differing.append(
            Difference(day=day.isoformat(), decision=name, symbol=symbol_of(name), cause=cause, detail=detail[:400])
        )
    report.days = len(days)


# ---------------------------------------------------------------- the backtest
def _backtest(
    context: wiring.Context, args: argparse.Namespace, days: Sequence[RecordedDay], then: Inputs, first: Row
) -> _Tested:
    from portfolio.backtest.portfolio_level import simulate
    from portfolio.strategies.indicators import prepare
    from scripts.backtest_data import load
    from scripts.backtest_house import world_of

    context = dataclasses.replace(context, settings=then.settings, params=then.params)
    calendar = context.calendar
    start, end = calendar.previous_session(days[0].day), calendar.previous_session(days[-1].day)
    bars = args.bars or (Path(first["bars_path"]) if first["bars_path"] else None)
    if bars is None and context.market_spec != "simulated":
        bars = Path(context.market_spec)
    universe = args.universe or (Path(first["universe_path"]) if first["universe_path"] else None)
    wanted = argparse.Namespace(
        bars=bars, universe=universe, cap=first["universe_cap"], level="portfolio", quarantine="on", start=start,
        end=end, costs_bps=0.0, workers=1, json=True,
    )  # fmt: skip
    loaded = load(context, wanted)
    world = dataclasses.replace(world_of(context, loaded, wanted), sectors=then.sectors, advice_on=_advice_on(days))
    panel = loaded.panel.select([s for s in loaded.panel.symbols if Symbol(s) in then.sectors])
    return _Tested(simulate(prepare(panel, then.params.common), start, end, world), panel)


def _advice_on(days: Sequence[RecordedDay]) -> Callable[[date], tuple[Scorer | None, Reviewer | None]]:
    """Model and reviewer of each day's first scan, as they answered then."""
    first = {day.day: next((row for row in day.rows if row["kind"] == "scan" and row["first"]), {}) for day in days}
    return lambda day: (scorer_of(first.get(day, {})), reviewer_of(first.get(day, {})))


def _simulated(tested: _Tested, days: Sequence[RecordedDay]) -> Texts:
    out: Texts = {}
    span = {day.day for day in days}
    reached: dict[tuple[date, str], int] = {}
    picked: dict[tuple[date, str], list[str]] = {}
    for told in tested.run.told:
        if told.session not in span:
            continue
        key = (told.session, f"verdict {told.signal.symbol}")
        if told.stage == "ENTRY":
            picked.setdefault(key, []).append(told.signal.strategy)
            out[told.session, f"entry {told.signal.decision_id}"] = told.code
        elif STAGES.index(told.stage) > reached.get(key, -1):
            reached[key] = STAGES.index(told.stage)
            out[key] = f"{told.code} {told.signal.strategy}"
    out |= {key: "PICKED " + " ".join(sorted(names)) for key, names in picked.items()}
    booked = tested.run.booked
    trades, last = booked.trades, days[-1].day
    for k in range(len(trades)):
        entry = from_day(int(trades.entry_at[k]))
        symbol, strategy = trades.symbols[int(trades.column[k])], trades.strategies[int(trades.strategy[k])]
        name = f"{from_day(int(trades.signal_at[k])):%Y%m%d}-{strategy}-{symbol}"
        quantity = int(booked.quantity[k])
        out[entry, f"entry {name}"] = f"bought {quantity} at {float(trades.entry_price[k])!r}"
        left = None if trades.exit_at[k] < 0 else from_day(int(trades.exit_at[k]))
        if left is not None and left <= last:
            reason = str(REASONS[int(trades.reason[k])]).removesuffix("_gap")
            out[left, f"exit {name}"] = f"sold {quantity} at {float(trades.exit_price[k])!r} {reason}"
    return out


# ---------------------------------------------------------------- what was lived
def _lived(days: Sequence[RecordedDay], happened: Happened, kept: Kept) -> Texts:
    out: Texts = {}
    for day in days:
        scan = next((row for row in day.rows if row["kind"] == "scan" and row["first"]), None)
        if scan is not None:
            out |= {(day.day, f"verdict {s}"): text for s, text in _verdicts(kept, scan)}
            for pick in scan["picks"]:
                if "ALREADY_TAKEN" not in pick["reasons"]:
                    code = _refusal(happened, pick["decision_id"], scan)
                    out[day.day, f"entry {pick['decision_id']}"] = code
    span = {day.day for day in days}
    for trade in happened.last.trades.values():
        if trade.session in span:
            bought = f"bought {trade.entry_quantity} at {float(trade.entry_price)!r}"
            out[trade.session, f"entry {trade.decision_id}"] = bought
        if trade.exits and not trade.is_open and (left := new_york_day(trade.exits[-1].at)) in span:
            last = trade.exits[-1].price
            reason = happened.last.exit_reason(trade)
            price = "unknown" if last is None else repr(float(last))
            out[left, f"exit {trade.decision_id}"] = f"sold {trade.entry_quantity} at {price} {reason}"
    return out


def _verdicts(kept: Kept, scan: Row) -> Iterator[tuple[str, str]]:
    strategies: dict[str, list[str]] = {}
    for pick in scan["picks"]:
        strategies.setdefault(pick["symbol"], []).append(pick["strategy"])
    for verdict in kept.blob(scan["verdicts"]):
        symbol, code = str(verdict["symbol"]), str(verdict["code"])
        if symbol in strategies:
            yield symbol, "PICKED " + " ".join(sorted(strategies[symbol]))
        elif code not in _NO_SIGNAL and not code.startswith("BAR_"):
            yield symbol, f"{code} {verdict['strategy']}"


def _refusal(happened: Happened, decision_id: str, scan: Row) -> str:
    """What the first scan made of a pick; a trade, if one came, is told over it."""
    until = happened.end_of(str(scan["run"]), int(scan["seq"])) + 1
    for record in happened.of(decision_id, int(scan["seq"]), until):
        if record.kind == "pick_refused":
            return str(record.body["code"])
        if record.kind == "order_refused" and "-entry-" in str(record.body["client_order_id"]):
            return str(record.body["codes"][0])
    order = happened.last.orders.get(client_order_id(decision_id, Side.BUY, Purpose.ENTRY, 1))
    return "nothing sent" if order is None else f"sent, {order.status or 'open'}"


# ---------------------------------------------------------------- why
class _Blame:
    """The cause of a difference, from the record of that decision; what follows from an earlier one is ACCOUNT."""

    def __init__(self, days: Sequence[RecordedDay], happened: Happened, kept: Kept, panel: Panel) -> None:
        self._rows = {day.day: day.rows for day in days}
        self._happened, self._kept = happened, kept
        self._now = columns(panel)
        self._since: date | None = None  # the first day on which anything was traded otherwise
        self._codes = {
            str(r.body["run"])[:10]: str(r.body.get("code", ""))
            for r in happened.records if r.kind in ("scan_run", "run_missed") and str(r.body["run"])[11:13].isdigit()
            and (r.kind == "run_missed" or r.body.get("code") in BY_CODE)
        }  # fmt: skip

    def of(self, day: date, name: str, was: str, would: str) -> tuple[Cause, str]:
        found = self._found(day, name, was, would)
        if not name.startswith("verdict") and self._since is None:
            self._since = day
        return found

    def _found(self, day: date, name: str, was: str, would: str) -> tuple[Cause, str]:
        if not any(row["kind"] == "scan" for row in self._rows[day]):
            code = self._codes.get(day.isoformat())
            if code is None:
                return Cause.UNKNOWN, "no inputs of that day were kept"
            return BY_CODE.get(code, Cause.SCAN_MISSED), code
        order = self._order(name)
        if order is not None:
            return order
        for word in was.replace(",", " ").split():
            if word in BY_CODE:
                return BY_CODE[word], ""
        changed = self._bars(day, name)
        if changed is not None:
            return changed
        if name.startswith("exit") and "manual" in was:
            return Cause.MANUAL, "sold by hand, or shares went outside"
        if "QUOTE_" in was or "CLAMP_" in was or "SPREAD" in was or _only_price(was, would):
            return Cause.QUOTE, ""
        if self._since is not None and self._since <= day:
            return Cause.ACCOUNT, f"the account is another since {self._since}"
        return Cause.UNKNOWN, ""

    def _order(self, name: str) -> tuple[Cause, str] | None:
        if not name.startswith("entry"):
            return None
        decision = name.split(" ")[1]
        orders: list[LedgerOrder] = list(self._happened.last.attempts(decision, Side.BUY, Purpose.ENTRY))
        if not orders:
            return None
        last = orders[-1]
        filled = sum(order.filled_quantity for order in orders)
        told = f"{filled} of {last.intent.quantity} filled, {last.status}"
        if last.end == "rejected":
            return Cause.ORDER_REJECTED, told
        if last.end == "not_sent":
            return BY_CODE.get(last.status, Cause.BROKER), told
        if filled >= last.intent.quantity:
            return None
        return (Cause.ORDER_PARTIAL if filled else Cause.ORDER_UNFILLED), told

    def _bars(self, day: date, name: str) -> tuple[Cause, str] | None:
        """The symbol's bars as the first scan saw them, against those of the backtest up to the same session."""
        symbol = symbol_of(name)
        row = next(row for row in self._rows[day] if row["kind"] == "scan")
        try:
            then = columns(self._kept.panel(row)).get(str(symbol))
        except KobeError as error:
            return Cause.UNKNOWN, f"{error.code}: {error}"
        now = self._now.get(str(symbol))
        if then is not None and now is not None and len(then):
            now = now.rows((now.dates <= then.dates[-1]) & (now.dates >= then.dates[0]))
        changes = bar_changes(str(symbol), then, now)
        return (changes[0].cause, str(changes[0])) if changes else None


def _only_price(was: str, would: str) -> bool:
    """Both traded the same number of shares, at another price or on another reason."""
    one, other = was.split(), would.split()
    return len(one) >= 4 and len(other) >= 4 and one[:2] == other[:2] and one[3] != other[3]
