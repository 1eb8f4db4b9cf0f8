"""What the journal tells beside the ledger: runs, halts, breaks, equity, how orders fared. One `add` per record.

What is asked of the last weeks only is forgotten after KEPT, so that memory does not grow with the years.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from core.errors import StateCorrupt
from execution.ledger import decimal_of, new_york_day
from execution.observe.facts import EQUITY_POINTS, WINDOW_DAYS, BreakerFacts, BreakFacts, EquityPoint
from risk.kill_switch import HaltHistory

if TYPE_CHECKING:
    from core.journal import Record

KEPT = timedelta(days=WINDOW_DAYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run ended: `kind` is scan_run or run_missed."""

    kind: str
    code: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One order, as far as measures need it."""

    client_order_id: str
    decision_id: str
    seq: int  # of its intent
    at: datetime
    side: str
    purpose: str
    quantity: int
    answered_at: datetime | None = None  # acknowledged, or rejected
    acknowledged: bool = False
    filled: int = 0
    price: Decimal | None = None  # average, USD per share
    end: str | None = None  # closed, rejected, not_sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    decision_id: str
    at: datetime
    codes: tuple[str, ...]


@dataclass
class Story:
    """Mutable; folded by `add`."""

    records: int = 0
    head: str = ""
    newest_at: datetime | None = None
    halts: HaltHistory = field(default_factory=HaltHistory)
    halted_at: datetime | None = None
    preflight_passed_at: datetime | None = None
    ended: dict[str, Ended] = field(default_factory=dict)  # by run id, of the last KEPT
    failed: dict[str, tuple[datetime, str]] = field(default_factory=dict)  # newest failure by run id
    failures: deque[tuple[datetime, str]] = field(default_factory=deque)
    long_gone: deque[tuple[datetime, int]] = field(default_factory=lambda: deque(maxlen=20))  # runs missed in one go
    last_run: tuple[str, Ended] | None = None  # newest scan_run
    reconciled_at: datetime | None = None
    breaks: dict[tuple[str, str], BreakFacts] = field(default_factory=dict)
    breaks_told: int = 0  # as the last scan_run counted them
    equity: deque[EquityPoint] = field(default_factory=lambda: deque(maxlen=EQUITY_POINTS))
    equity_at: datetime | None = None
    peak_usd: Decimal | None = None
    sent: dict[str, Sent] = field(default_factory=dict)  # by client order id, of the last KEPT
    refused: deque[Refused] = field(default_factory=deque)
    closed: list[tuple[datetime, str]] = field(default_factory=list)  # trades told closed since the last look
    reviewed_on: date = date.min  # New York day of `reviews`
    reviews: dict[str, tuple[bool, float | None]] = field(default_factory=dict)  # decision id: let through, confidence
    breakers: dict[str, BreakerFacts] = field(default_factory=dict)  # tripped and not cleared, by lock id
    _forgot_on: date = date.min

    def add(self, record: Record) -> None:
        """Raises StateCorrupt for a record of a known kind that lacks what its kind promises."""
        self.records, self.head, self.newest_at = record.seq, record.hash, record.at
        self.halts.add(record.seq, record.kind, record.body)
        handler = _HANDLERS.get(record.kind)
        if handler is not None:
            try:
                handler(self, record.body, record)
            except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
                raise StateCorrupt(f"journal record {record.seq} ({record.kind}) cannot be read: {error!r}") from error
        if record.kind in _RUNNERS:
            self._forget(record.at)

    def _forget(self, now: datetime) -> None:
        """Once a day of the runner: a person's record comes later than all runs when it is the account of a replay."""
        if now.date() <= self._forgot_on:
            return
        self._forgot_on, before = now.date(), now - KEPT
        self.ended = {run: e for run, e in self.ended.items() if e.at >= before}
        self.failed = {run: f for run, f in self.failed.items() if f[0] >= before}
        self.sent = {cid: s for cid, s in self.sent.items() if s.at >= before}
        while self.failures and self.failures[0][0] < before:
            self.failures.popleft()
        while self.refused and self.refused[0].at < before:
            self.refused.popleft()

    # ------------------------------------------------------------ runs, halts
    def run_done(self, body: Mapping[str, Any], record: Record) -> None:
        run, code = str(body["run"]), str(body.get("code", ""))
        ended = Ended(kind="scan_run", code=code, at=record.at)
        self.ended[run], self.last_run = ended, (run, ended)
        self.failed.pop(run, None)
        self.reconciled_at, self.breaks_told = record.at, int(body.get("breaks", 0))
        if not self.breaks_told:
            self.breaks.clear()
        if (equity := decimal_of(body.get("equity_usd"))) is not None and equity.is_finite():
            self._equity(run, equity, record.at)

    def _equity(self, run: str, equity: Decimal, at: datetime) -> None:
        point = EquityPoint(session=date.fromisoformat(run[:10]), equity_usd=equity)
        if self.equity and self.equity[-1].session == point.session:
            self.equity.pop()
        self.equity.append(point)
        self.equity_at = at
        self.peak_usd = equity if self.peak_usd is None else max(self.peak_usd, equity)

    def run_missed(self, body: Mapping[str, Any], record: Record) -> None:
        self.ended[str(body["run"])] = Ended(kind="run_missed", code=str(body.get("code", "")), at=record.at)

    def runs_missed(self, body: Mapping[str, Any], record: Record) -> None:
        """A long absence, told in one record."""
        self.long_gone.append((record.at, int(body["runs"])))

    def run_failed(self, body: Mapping[str, Any], record: Record) -> None:
        code = str(body.get("code", ""))
        self.failed[str(body["run"])] = (record.at, code)
        self.failures.append((record.at, code))

    def halted(self, body: Mapping[str, Any], record: Record) -> None:
        self.halted_at = record.at

    def passed(self, body: Mapping[str, Any], record: Record) -> None:
        self.preflight_passed_at = record.at

    def resumed(self, body: Mapping[str, Any], record: Record) -> None:
        self.halted_at = None

    # ------------------------------------------------------------ breaks
    def broke(self, body: Mapping[str, Any], record: Record) -> None:
        names = ("symbol", "kind", "cause", "ours", "theirs", "proposal")
        words = {name: str(body.get(name, "")) for name in names}
        self.breaks[words["symbol"], words["kind"]] = BreakFacts(**words, at=record.at)
        self.reconciled_at, self.breaks_told = record.at, max(self.breaks_told, len(self.breaks))

    def unlocked(self, body: Mapping[str, Any], record: Record) -> None:
        """By the end of its break, or by a person: what was told of the symbol no longer stands."""
        symbol = str(body["symbol"])
        self.breaks = {key: b for key, b in self.breaks.items() if key[0] != symbol}
        self.breaks_told = min(self.breaks_told, len(self.breaks))

    def synced(self, body: Mapping[str, Any], record: Record) -> None:
        left_out = {str(s) for s in body.get("left_out", ())}
        self.breaks = {key: b for key, b in self.breaks.items() if key[0] in left_out}
        self.breaks_told = min(self.breaks_told, len(self.breaks))

    # ------------------------------------------------------------ orders
    def intended(self, body: Mapping[str, Any], record: Record) -> None:
        cid = str(body["client_order_id"])
        self.sent[cid] = Sent(
            client_order_id=cid, decision_id=str(body["decision_id"]), seq=record.seq, at=record.at,
            side=str(body["side"]), purpose=str(body["purpose"]), quantity=int(body["quantity"]),
        )  # fmt: skip

    def _change(self, body: Mapping[str, Any], **changes: Any) -> None:
        order = self.sent.get(str(body["client_order_id"]))
        if order is not None:
            self.sent[order.client_order_id] = replace(order, **changes)

    def acknowledged(self, body: Mapping[str, Any], record: Record) -> None:
        self._change(body, acknowledged=True, answered_at=record.at)

    def filled(self, body: Mapping[str, Any], record: Record) -> None:
        order = self.sent.get(str(body["client_order_id"]))
        if order is not None and int(body["quantity"]) > order.filled:
            self._change(body, filled=int(body["quantity"]), price=decimal_of(body.get("price")), acknowledged=True)

    def order_closed(self, body: Mapping[str, Any], record: Record) -> None:
        order = self.sent.get(str(body["client_order_id"]))
        filled = int(body.get("filled_quantity") or 0)
        if order is not None and filled > order.filled:
            self._change(body, filled=filled, price=decimal_of(body.get("filled_price")))
        self._change(body, end="closed", acknowledged=True)

    def rejected(self, body: Mapping[str, Any], record: Record) -> None:
        self._change(body, end="rejected", answered_at=record.at)

    def not_sent(self, body: Mapping[str, Any], record: Record) -> None:
        self._change(body, end="not_sent")

    def order_refused(self, body: Mapping[str, Any], record: Record) -> None:
        codes = tuple(str(code) for code in body.get("codes", ()))
        self.refused.append(Refused(decision_id=str(body["decision_id"]), at=record.at, codes=codes))

    def pick_refused(self, body: Mapping[str, Any], record: Record) -> None:
        codes = (str(body.get("code", "")),)
        self.refused.append(Refused(decision_id=str(body["decision_id"]), at=record.at, codes=codes))

    def trade_closed(self, body: Mapping[str, Any], record: Record) -> None:
        self.closed.append((record.at, str(body["decision_id"])))

    # ------------------------------------------------------------ reviews, breakers
    def reviewed(self, body: Mapping[str, Any], record: Record) -> None:
        day = new_york_day(record.at)
        if day != self.reviewed_on:
            self.reviewed_on = day
            self.reviews.clear()
        for row in body["signals"]:
            review, said = row["review"], row["review"].get("confidence")
            confidence = float(said) if isinstance(said, int | float) and 0 <= said <= 1 else None
            self.reviews[str(row["decision_id"])] = (Decimal(str(review["scale"])) > 0, confidence)

    def breaker_tripped(self, body: Mapping[str, Any], record: Record) -> None:
        name, scope, what, until = str(body["breaker"]), str(body["scope"]), str(body["what"]), body["until"]
        lock_id = name if scope == "all" else f"{name}:{scope}:{what}"
        self.breakers.setdefault(lock_id, BreakerFacts(
            lock_id=lock_id, name=name, scope=scope, what=what, code=str(body["code"]), reason=str(body["reason"]),
            since=record.at, until=None if until is None else date.fromisoformat(until),
        ))  # fmt: skip

    def breaker_cleared(self, body: Mapping[str, Any], record: Record) -> None:
        self.breakers.pop(str(body["lock"]), None)

    # ------------------------------------------------------------ questions
    def missed_since(self, since: datetime) -> int:
        one_by_one = sum(1 for e in self.ended.values() if e.kind == "run_missed" and e.at >= since)
        return one_by_one + sum(runs for at, runs in self.long_gone if at >= since)

    def failed_since(self, since: datetime) -> int:
        return sum(1 for at, _ in self.failures if at >= since)

    def on(self, day: date) -> tuple[Sent, ...]:
        return tuple(s for s in self.sent.values() if new_york_day(s.at) == day)


_RUNNERS = frozenset({"scan_run", "run_missed", "runs_missed", "run_failed"})  # told at the time of the runs themselves
_HANDLERS: Mapping[str, Any] = {
    "scan_run": Story.run_done,
    "run_missed": Story.run_missed,
    "runs_missed": Story.runs_missed,
    "run_failed": Story.run_failed,
    "trading_halted": Story.halted,
    "trading_resumed": Story.resumed,
    "preflight_passed": Story.passed,
    "break_found": Story.broke,
    "symbol_unlocked": Story.unlocked,
    "positions_synced": Story.synced,
    "order_intended": Story.intended,
    "order_acknowledged": Story.acknowledged,
    "order_filled": Story.filled,
    "order_closed": Story.order_closed,
    "order_rejected": Story.rejected,
    "order_not_sent": Story.not_sent,
    "order_refused": Story.order_refused,
    "pick_refused": Story.pick_refused,
    "trade_closed": Story.trade_closed,
    "signals_reviewed": Story.reviewed,
    "breaker_tripped": Story.breaker_tripped,
    "breaker_cleared": Story.breaker_cleared,
}
