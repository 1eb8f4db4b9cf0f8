"""One scan against the in-memory broker: the order of its steps, and an outage, a crash or the kill switch at each."""

from __future__ import annotations

import copy
import itertools
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.domain import Account, BrokerClock, ExitReason, Purpose, Quote, Side, Symbol
from core.errors import BrokerDown, BrokerRejected, DataError, OutcomeUnknown, StateCorrupt
from execution.order_states import totals
from execution.session import Entry, RunReport
from tests.fakes.fake_broker import FakeBroker
from tests.fakes.scans import Scene, ScriptedPlanner, a_plan, calendar_2024, decision, due, hold, scene, signal
from tests.fakes.trading import NOW, TODAY

HELD, DUE, PICKA, PICKB = (Symbol(s) for s in ("HELD", "DUE", "PICKA", "PICKB"))
BUDGET = Decimal(1000)
CALLS = ("submit", "find", "open_orders", "cancel", "positions", "account", "clock", "asset", "fills", "quotes")
READS = tuple(name for name in CALLS if name not in ("submit", "cancel"))


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Durability against a power cut is core.journal's own test; here it would only cost time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# ---------------------------------------------------------------- the broker that misbehaves at one call
class Wire:
    """Counts every broker call and hands each to `before` and `after`, which may raise. Counts POSTs of known ids."""

    def __init__(self, inner: FakeBroker) -> None:
        self.inner, self.calls, self.resent = inner, [], []  # type: ignore[var-annotated]
        self.before: Callable[[int, str], None] = lambda n, name: None
        self.after: Callable[[int, str], None] = lambda n, name: None

    def __getattr__(self, name: str) -> Any:
        if name not in CALLS:
            return getattr(self.inner, name)

        def call(*args: Any) -> Any:
            self.calls.append(name)
            n = len(self.calls)
            self.before(n, name)
            if name == "submit" and args[0].intent.client_order_id in self.inner.orders:
                self.resent.append(args[0].intent.client_order_id)
            result = getattr(self.inner, name)(*args)
            self.after(n, name)
            return result

        return call

    def at_peace(self) -> None:
        self.before = self.after = lambda n, name: None


def wired(made: Scene) -> Wire:
    """Put the wire between the session and its broker."""
    wire = Wire(made.broker)
    made.restart(wire)
    return wire


def codes(report: RunReport) -> dict[str, list[str]]:
    return {f"{row['symbol']} {row['side']} {row['verdict']}": row["codes"] for row in report.intents}


def covered(made: Scene, symbol: Symbol) -> int:
    """Shares that a resting sell of ours will protect."""
    orders = [o for o in made.broker.open_orders() if o.symbol == symbol and o.side is Side.SELL]
    return sum(o.quantity - totals(o)[0] for o in orders)


def held(made: Scene) -> dict[Symbol, int]:
    return {s: p.quantity for s, p in made.broker.positions().items()}  # type: ignore[misc]


def check_invariants(made: Scene, wire: Wire) -> None:
    """What must hold after recovery, whatever went wrong before."""
    ledger = made.ledger()
    assert wire.resent == [], "an order the broker had was sent again"
    assert dict(ledger.positions) == held(made), "the journal and the broker hold different shares"
    from_fills: Counter[Symbol] = Counter()
    for fill in wire.inner.activities:
        from_fills[fill.symbol] += fill.quantity if fill.side is Side.BUY else -fill.quantity
    assert {s: q for s, q in from_fills.items() if q} == held(made)
    entries = Counter(o.intent.decision_id for o in ledger.orders.values()
                      if o.intent.purpose is Purpose.ENTRY and o.filled_quantity)  # fmt: skip
    assert set(entries.values()) <= {1}, "a decision was bought twice"
    for symbol in {*held(made)} | {o.symbol for o in wire.inner.open_orders()}:
        assert covered(made, symbol) == held(made).get(symbol, 0), f"{symbol} is not exactly protected"
    assert not ledger.unsettled() and not ledger.locked
    for order in ledger.orders.values():
        assert not (order.working and order.intent.purpose in (Purpose.ENTRY, Purpose.EXIT))
    assert ledger.spent_usd(TODAY) <= BUDGET
    bought = sum((o.filled_price or Decimal(0)) * o.filled_quantity for o in wire.inner.orders.values()
                 if o.side is Side.BUY and o.submitted_at is not None and o.submitted_at >= NOW)  # fmt: skip
    assert ledger.spent_usd(TODAY) == bought


def check_all_done(made: Scene) -> None:
    """Both picks are held, the time stop was sold, the old trade is still there; nothing else."""
    assert held(made) == {HELD: 1, PICKA: 1, PICKB: 1}
    assert made.ledger().exit_reason(made.ledger().trades[decision("DUE")]) in (ExitReason.TIME, ExitReason.STOP)


# ---------------------------------------------------------------- a whole scan, started once and copied
_TEMPLATE: dict[str, Any] = {}


def full_scene(root: Path) -> tuple[Scene, Wire]:
    """One open protected trade, one due time stop, two picks. Built once; each test gets a copy of disk and broker."""
    if not _TEMPLATE:
        first = scene(root / "template", "PICKA", "PICKB")
        hold(first, "HELD", "DUE")
        _TEMPLATE["disk"] = {p.name: p.read_bytes() for p in (root / "template" / "state").iterdir() if p.is_file()}
        _TEMPLATE["broker"] = first.broker
    home = root / f"w{next(_COUNTER)}"
    (home / "state").mkdir(parents=True)
    for name, content in _TEMPLATE["disk"].items():
        (home / "state" / name).write_bytes(content)
    made = scene(home, "PICKA", "PICKB")
    made.planner.exits_ = [(decision("DUE"), ExitReason.TIME)]
    broker = copy.copy(_TEMPLATE["broker"])
    for name in ("orders", "held", "cost", "activities", "submits", "plan", "before_submit", "after_submit"):
        setattr(broker, name, copy.copy(getattr(broker, name)))
    broker._clock = made.world.clock
    made.world.broker = broker
    return made, wired(made)


_COUNTER = itertools.count()


def calls_of_a_whole_scan(root: Path) -> list[str]:
    made, wire = full_scene(root)
    report = made.session.run(due())
    calls = list(wire.calls)
    assert report.code == "OK" and not report.breaks
    check_all_done(made)
    check_invariants(made, wire)
    return calls


def next_scan(made: Scene, wire: Wire, *, minutes: int = 30) -> RunReport:
    """The wire is sound again, and time has passed."""
    wire.at_peace()
    made.world.clock.advance(timedelta(minutes=minutes))
    return made.session.run(due("10:30", at=made.world.clock.now(), first=False))


# ---------------------------------------------------------------- order of the steps
def test_a_scan_asks_clock_first_exits_before_the_vendor_and_protects_each_fill_at_once(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    told: list[str] = []
    wire.before = lambda n, name: told.append(name)
    made.planner.during = lambda: told.append("VENDOR")
    submit = wire.inner.submit

    def named(order: Any) -> Any:
        told[-1] = f"{order.intent.symbol} {order.intent.purpose}"
        return submit(order)

    wire.inner.submit = named  # type: ignore[method-assign]
    made.session.run(due())
    assert told[0] == "clock"
    steps = [what for what in told if " " in what or what == "VENDOR"]
    assert steps == ["DUE exit", "VENDOR", "PICKA entry", "PICKA protect", "PICKB entry", "PICKB protect"]
    assert made.planner.asked == ["exits", "plan"]


def test_b46_a_clock_that_disagrees_ends_the_scan_before_anything_is_settled_or_written(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    wire.inner.before_submit = [OutcomeUnknown("reset")]
    made.session.run(due())  # PICKA's or DUE's order is of unknown outcome now
    before = len(made.world.kinds())
    there = NOW + timedelta(hours=1)
    wire.inner.clock = lambda: BrokerClock(  # type: ignore[method-assign]
        now=there, is_open=True, next_open=there + timedelta(days=1), next_close=there + timedelta(hours=1)
    )
    wire.calls.clear()
    for act in (lambda: made.session.run(due()), lambda: made.session.look_after(TODAY), made.session.recover,
                lambda: made.session.close_out(TODAY)):  # fmt: skip
        with pytest.raises(BrokerDown) as caught:
            act()
        assert caught.value.code == "CLOCK_DISAGREES"
    assert wire.calls == ["clock"] * 4 and len(made.world.kinds()) == before


@pytest.mark.parametrize("skew_s", [10.0, -10.0])
def test_b46_a_clock_at_the_limit_is_believed(tmp_path: Path, skew_s: float) -> None:
    made, wire = full_scene(tmp_path)
    real = wire.inner.clock
    wire.inner.clock = lambda: replace(real(), now=NOW + timedelta(seconds=skew_s))  # type: ignore[method-assign]
    made.session.look_after(TODAY)


def test_d16_a_vendor_in_trouble_stops_entries_and_nothing_else(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    wire.inner.cancel(wire.inner.orders[f"kobe-{decision('HELD')}-sell-protect-1"].id)
    made.planner.plan_ = replace(made.planner.plan_, problem="DATA_UNAVAILABLE")
    report = made.session.run(due())
    assert report.code == "DATA_UNAVAILABLE"
    assert held(made) == {HELD: 1} and covered(made, HELD) == 1
    check_invariants(made, wire)
    assert made.world.kinds()[-1] == "scan_run"


def test_p21_a_scan_that_raises_has_already_sold_and_protected(tmp_path: Path) -> None:
    for error in (DataError("no vendor answered"), RuntimeError("a bug in a strategy")):
        made, wire = full_scene(tmp_path)
        wire.inner.cancel(wire.inner.orders[f"kobe-{decision('HELD')}-sell-protect-1"].id)
        made.planner.error = error
        with pytest.raises(type(error)):
            made.session.run(due())
        check_invariants(made, wire)
        assert held(made) == {HELD: 1} and covered(made, HELD) == 1


def test_p58_a_vendor_slower_than_the_session_keeps_no_exit_waiting_and_enters_nothing(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    seen: dict[Symbol, int] = {}

    def slow() -> None:
        seen.update(held(made))
        made.world.clock.advance(timedelta(hours=2, minutes=59, seconds=30))  # the broker's close is 3 hours away

    made.planner.during = slow
    report = made.session.run(due())
    assert seen == {HELD: 1}, "the time stop waited for the vendor"
    assert [c for c in codes(report).items() if "PICK" in c[0]] == [
        ("PICKA buy refused", ["TOO_CLOSE_TO_CLOSE"]), ("PICKB buy refused", ["TOO_CLOSE_TO_CLOSE"])
    ]  # fmt: skip
    check_invariants(made, wire)


def test_an_exit_that_only_the_scan_could_tell_is_made_before_entries(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    made.planner.exits_ = []
    made.planner.plan_ = replace(made.planner.plan_, exits=[(decision("DUE"), ExitReason.IBS)])
    made.session.run(due())
    ledger = made.ledger()
    assert ledger.exit_reason(ledger.trades[decision("DUE")]) is ExitReason.IBS
    posted = wire.inner.submits
    assert posted.index(f"kobe-{decision('DUE')}-sell-exit-1") < next(
        n for n, cid in enumerate(posted) if "PICKA" in cid
    )


def test_an_exit_of_a_trade_that_is_gone_or_unknown_is_passed_over(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    made.planner.plan_ = replace(
        made.planner.plan_, exits=[(decision("DUE"), ExitReason.TIME), ("never-heard-of", ExitReason.TIME)]
    )
    made.session.run(due())  # DUE left in the first pass already
    assert sum("DUE-sell-exit" in cid for cid in wire.inner.submits) == 1


def test_the_record_of_a_scan_and_its_views_come_last(tmp_path: Path) -> None:
    made, _ = full_scene(tmp_path)
    report = made.session.run(due())
    (record,) = made.world.journal.kinds("scan_run")
    assert record.body["run"] == "2024-03-05T10:00" and record.body["code"] == "OK"
    assert made.world.kinds()[-1] == "scan_run" and made.views == [dict(made.ledger().positions)]
    ids = {row["client_order_id"]: row["filled_quantity"] for row in report.orders}
    assert ids[f"kobe-{decision('DUE')}-sell-exit-1"] == 1 and ids["kobe-20240304-ibs_rsi-PICKA-buy-entry-1"] == 1
    assert f"kobe-{decision('HELD')}-sell-protect-1" not in ids, "an order this scan did not touch"
    assert report.equity == made.broker.account().equity


def test_a_filled_pick_is_not_bought_again_at_the_next_scan(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    made.session.run(due())
    posts = len(wire.inner.submits)
    report = next_scan(made, wire)
    assert len(wire.inner.submits) == posts and report.intents == [] and report.code == "OK"
    check_invariants(made, wire)


# ---------------------------------------------------------------- an outage at the n-th call
@dataclass(frozen=True)
class Outage:
    """`late`: the broker did it, and its answer was lost. `lasting`: from the n-th call on."""

    late: bool
    lasting: bool

    def strike(self, wire: Wire, nth: int) -> None:
        def fail(n: int, name: str) -> None:
            if n == nth or (self.lasting and n > nth):
                if name == "submit" and self.late:
                    raise OutcomeUnknown("the answer was lost", code="ReadTimeout")
                raise BrokerDown("503", code="NOT_SENT" if name == "submit" else "BROKER_DOWN")

        if self.late:
            wire.after = fail
        else:
            wire.before = fail


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("late", [False, True], ids=["lost", "answer-lost"])
def test_b01_b02_b47_an_outage_at_any_call_is_mended_by_the_next_scan(
    tmp_path: Path, late: bool, lasting: bool
) -> None:
    total = len(calls_of_a_whole_scan(tmp_path))
    for nth in range(1, total + 1):
        made, wire = full_scene(tmp_path)
        Outage(late, lasting).strike(wire, nth)
        try:
            made.session.run(due())
        except BrokerDown:
            assert "scan_run" not in made.world.kinds()
        next_scan(made, wire)
        check_invariants(made, wire)
        check_all_done(made)


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
def test_b10_a_refused_read_at_any_call_is_mended_by_the_next_scan(tmp_path: Path, lasting: bool) -> None:
    """401, 403 or 429 on a read: a definite no, as different from an outage as the adapter makes it."""
    names = calls_of_a_whole_scan(tmp_path)
    for nth, name in enumerate(names, start=1):
        if name not in READS:
            continue
        made, wire = full_scene(tmp_path)

        def fail(n: int, name: str, nth: int = nth) -> None:
            if n == nth or (lasting and n > nth):
                raise BrokerRejected("401", code="UNAUTHORIZED")

        wire.before = fail
        try:
            made.session.run(due())
        except BrokerRejected:
            assert "scan_run" not in made.world.kinds()
        next_scan(made, wire)
        check_invariants(made, wire)
        check_all_done(made)


@pytest.mark.parametrize("answer", ["down", "refused"])
def test_b47_after_one_failed_call_what_is_held_is_protected_in_the_same_scan(tmp_path: Path, answer: str) -> None:
    refused_read = BrokerRejected("401", code="UNAUTHORIZED")
    for nth, name in enumerate(calls_of_a_whole_scan(tmp_path), start=1):
        made, wire = full_scene(tmp_path)
        error = refused_read if name in READS and answer == "refused" else BrokerDown("503", code="NOT_SENT")

        def fail(n: int, name: str, nth: int = nth, error: Exception = error) -> None:
            if n == nth:
                raise error

        wire.before = fail
        try:
            made.session.run(due())
        except type(error):
            wire.at_peace()
            assert covered(made, HELD) == 1  # the runner tries again in five seconds
            assert covered(made, DUE) == held(made).get(DUE, 0), f"call {nth}: the exit lost its stop"
            continue
        for symbol, quantity in held(made).items():
            assert covered(made, symbol) == quantity, f"call {nth}: {symbol} was left without its stop"


# ---------------------------------------------------------------- a crash at the n-th effect
class Crash(BaseException):
    """The machine stops; not an Exception, so that nothing can catch it by accident."""


def crash_at(made: Scene, wire: Wire, nth: int, *, what: str, late: bool) -> list[int]:
    """Stop at the n-th broker call or journal append, lost or done; afterwards nothing answers any more."""
    count = [0]
    dead = [False]

    def gate(this: str, done: bool) -> None:
        if dead[0]:
            raise Crash
        if this == what and done is late:
            count[0] += 1
            if count[0] == nth:
                dead[0] = True
                raise Crash

    wire.before = lambda n, name: gate("call", False)
    wire.after = lambda n, name: gate("call", True)
    journal: Any = made.world.desk.journal
    real = journal.append

    def append(*args: Any, **more: Any) -> Any:
        gate("append", False)
        result = real(*args, **more)
        gate("append", True)
        return result

    journal.append = append
    return count


@pytest.mark.parametrize("late", [False, True], ids=["lost", "done"])
@pytest.mark.parametrize("what", ["call", "append"])
def test_p19_a_crash_at_any_effect_is_mended_by_the_next_start(tmp_path: Path, what: str, late: bool) -> None:
    for nth in itertools.count(1):
        made, wire = full_scene(tmp_path)
        crash_at(made, wire, nth, what=what, late=late)
        try:
            made.session.run(due())
        except Crash:
            pass
        else:
            assert nth > 20, "the scan has more effects than that"
            return
        wire.at_peace()
        made.restart()  # a new Desk and Session from the same journal
        made.world.clock.advance(timedelta(seconds=7))
        made.session.recover()
        check_after_recovery(made)
        next_scan(made, wire)
        check_invariants(made, wire)
        check_all_done(made)


def check_after_recovery(made: Scene) -> None:
    """Before any scan: what is held is protected, and nothing claims more than is held."""
    for symbol, quantity in held(made).items():
        assert covered(made, symbol) == quantity, f"{symbol} is not protected after start-up"
    assert dict(made.ledger().positions) == held(made)


def test_p19_a_second_crash_during_recovery_changes_nothing(tmp_path: Path) -> None:
    for first, second in ((7, 2), (20, 3), (30, 4), (33, 11), (36, 1), (44, 12)):
        made, wire = full_scene(tmp_path)
        crash_at(made, wire, first, what="call", late=True)
        with pytest.raises(Crash):
            made.session.run(due())
        wire.at_peace()
        made.restart()
        crash_at(made, wire, second, what="call", late=True)
        with pytest.raises(Crash):
            made.session.recover()
        wire.at_peace()
        made.restart()
        made.session.recover()
        next_scan(made, wire)
        check_invariants(made, wire)
        check_all_done(made)


# ---------------------------------------------------------------- the kill switch at the n-th call
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_p39_nothing_is_posted_after_the_kill_switch_appears(tmp_path: Path, late: bool) -> None:
    names = calls_of_a_whole_scan(tmp_path)
    for nth in range(1, len(names) + 1):
        made, wire = full_scene(tmp_path)
        posted: list[int] = []
        cancelled: list[int] = []

        def trip(n: int, name: str, nth: int = nth, halt: Any = made.world.halt) -> None:
            halt.active = halt.active or n == nth

        def post(n: int, name: str, posted: Any = posted, cancelled: Any = cancelled, trip: Any = trip) -> None:
            if name in ("submit", "cancel"):
                (posted if name == "submit" else cancelled).append(n)
            if not late:
                trip(n, name)

        wire.before = post
        if late:
            wire.after = trip
        report = made.session.run(due())
        assert max(posted, default=0) <= nth, f"POST at call {max(posted)} after the trip at {nth}"
        assert max(cancelled, default=0) <= nth, f"a stop was cancelled at {max(cancelled)} after the trip at {nth}"
        if report.code != "KILL_SWITCH":  # it came when everything was done
            check_all_done(made)
        made.world.halt.active = False
        next_scan(made, wire)
        check_invariants(made, wire)
        check_all_done(made)


def test_p40_while_the_switch_is_on_nothing_moves_and_the_books_are_kept(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    made.world.halt.active = True
    wire.inner.fill(f"kobe-{decision('HELD')}-sell-protect-1", 1, price=Decimal("45.00"))
    report = made.session.run(due())
    assert report.code == "KILL_SWITCH" and made.planner.asked == []
    assert "submit" not in wire.calls and "cancel" not in wire.calls
    assert dict(made.ledger().positions) == {DUE: 1} and covered(made, DUE) == 1
    assert made.session.look_after(TODAY).intents == [] and "submit" not in wire.calls


# ---------------------------------------------------------------- protection that the broker refuses
def refuse_stops(broker: FakeBroker, *symbols: Symbol) -> None:
    real = broker.submit

    def submit(order: Any) -> Any:
        if order.intent.purpose is Purpose.PROTECT and order.intent.symbol in symbols:
            broker.submits.append(order.intent.client_order_id)
            raise BrokerRejected("stop price must be below the market", code="STOP_PASSED")
        return real(order)

    broker.submit = submit  # type: ignore[method-assign]


def test_b51_a_stop_that_the_broker_refuses_was_passed_and_leads_to_an_exit(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    refuse_stops(wire.inner, PICKA)
    report = made.session.run(due())
    assert held(made) == {HELD: 1, PICKB: 1}
    trade = made.ledger().trades["20240304-ibs_rsi-PICKA"]
    assert made.ledger().exit_reason(trade) is ExitReason.STOP
    assert codes(report)["PICKA sell approved"] == []
    check_invariants(made, wire)


def test_b51_with_the_market_shut_the_refused_stop_is_tried_again_and_not_sold_into_nothing(tmp_path: Path) -> None:
    made = scene(tmp_path, "PICKA")
    hold(made, "HELD", protected=False)
    real = made.broker.clock
    made.broker.clock = lambda: replace(real(), is_open=False)
    submit = made.broker.submit
    refuse_stops(made.broker, HELD)
    for _ in range(2):
        made.session.look_after(TODAY)
        assert held(made) == {HELD: 1}
    made.broker.submit = submit
    made.session.look_after(TODAY)
    assert covered(made, HELD) == 1


def test_b51_no_quote_for_the_exit_after_a_refused_stop_leaves_it_told_and_tried_again(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    submit = wire.inner.submit
    refuse_stops(wire.inner, PICKA)
    quotes = wire.inner.quotes
    wire.inner.quotes = lambda symbols: (  # type: ignore[method-assign]
        quotes(symbols) if len(symbols) > 1 else {}
    )
    made.session.run(due())
    assert held(made)[PICKA] == 1 and covered(made, PICKA) == 0
    wire.inner.submit, wire.inner.quotes = submit, quotes  # type: ignore[method-assign]
    next_scan(made, wire)
    check_invariants(made, wire)


@pytest.mark.parametrize("problem", ["blocked", "shut", "runaway", "fewer shares"])
def test_b28_b36_an_exit_that_the_gate_would_refuse_keeps_its_stop(tmp_path: Path, problem: str) -> None:
    """Else the stop would be cancelled first and then nothing could be sent in its place."""
    made, wire = full_scene(tmp_path)
    account, clock = wire.inner.account, wire.inner.clock
    if problem == "blocked":
        wire.inner.account = lambda: replace(account(), blocked=("trading_blocked",))  # type: ignore[method-assign]
    elif problem == "shut":
        wire.inner.clock = lambda: replace(clock(), is_open=False)  # type: ignore[method-assign]
    elif problem == "runaway":
        limits = made.world.desk.limits
        none = replace(limits.ceilings, per_minute=0, per_day=0)
        made.world.desk.limits = replace(limits, ceilings=none)
    else:
        wire.inner.held[DUE] = 0
    report = made.session.run(due())
    assert "cancel" not in wire.calls, "the stop was taken away for a sell that could not be sent"
    (row,) = [row for row in report.intents if row["symbol"] == "DUE"]
    wanted = {"blocked": "TRADING_STATE", "shut": "SESSION_CLOSED", "runaway": "RUNAWAY", "fewer shares": "OVERSELL"}
    assert row["verdict"] == "refused" and any(code.startswith(wanted[problem]) for code in row["codes"])


# ---------------------------------------------------------------- fills
def three_shares(tmp_path: Path, filled: int) -> Scene:
    made = scene(tmp_path)
    made.broker.bid, made.broker.ask = Decimal("19.99"), Decimal("20.00")
    made.planner.plan_ = a_plan(
        "PICKA", entries=(Entry(signal("PICKA", stop=18.0, target_r=1.0), Decimal(1)),)
    )  # fmt: skip
    made.broker.plan["kobe-20240304-ibs_rsi-PICKA-buy-entry-1"] = filled
    return made


def test_b16_a_partial_fill_is_protected_for_what_filled_and_settles_the_budget(tmp_path: Path) -> None:
    made = three_shares(tmp_path, 2)
    wire = wired(made)
    report = made.session.run(due())
    (order,) = wire.inner.open_orders()
    assert order.kind == "oco" and (order.quantity, order.limit_price) == (2, Decimal("22.00"))
    assert made.ledger().spent_usd(TODAY) == Decimal("40.00")
    (row,) = [r for r in report.orders if "entry" in r["client_order_id"]]
    assert row["filled_quantity"] == 2
    check_invariants(made, wire)
    next_scan(made, wire)
    assert held(made) == {PICKA: 2} and len(wire.inner.submits) == 2, "the rest of a partial fill is not chased"


def test_b17_nothing_filled_frees_the_budget_and_the_next_scan_is_the_next_attempt(tmp_path: Path) -> None:
    made = three_shares(tmp_path, 0)
    wire = wired(made)
    made.session.run(due())
    assert held(made) == {} and made.ledger().spent_usd(TODAY) == 0 and not wire.inner.open_orders()
    next_scan(made, wire)
    assert wire.inner.submits[:2] == [f"kobe-20240304-ibs_rsi-PICKA-buy-entry-{n}" for n in (1, 2)]
    assert held(made) == {PICKA: 3}
    check_invariants(made, wire)


def test_b17_attempts_are_counted_over_restarts_and_then_spent(tmp_path: Path) -> None:
    made = scene(tmp_path, "PICKA", max_attempts=2)
    wire = wired(made)
    wire.inner.plan = {f"kobe-20240304-ibs_rsi-PICKA-buy-entry-{n}": 0 for n in range(1, 9)}
    for _ in range(2):
        assert codes(next_scan(made, wire)) == {"PICKA buy approved": []}
        made.restart()
    assert codes(next_scan(made, wire)) == {"PICKA buy refused": ["ATTEMPTS_SPENT"]}
    assert len(wire.inner.submits) == 2


def test_b02_an_attempt_proved_not_sent_costs_none(tmp_path: Path) -> None:
    made = scene(tmp_path, "PICKA", max_attempts=1)
    wire = wired(made)
    wire.inner.before_submit = [BrokerDown("refused", code="NOT_SENT")]
    assert codes(made.session.run(due())) == {"PICKA buy approved": ["NOT_SENT"]}
    next_scan(made, wire)
    assert held(made) == {PICKA: 1} and set(wire.inner.submits[:2]) == {"kobe-20240304-ibs_rsi-PICKA-buy-entry-1"}


def test_b18_a_late_fill_is_protected_by_the_next_look(tmp_path: Path) -> None:
    made = three_shares(tmp_path, 0)
    wire = wired(made)
    made.session.run(due())
    wire.inner.fill("kobe-20240304-ibs_rsi-PICKA-buy-entry-1", 3)
    made.session.look_after(TODAY)
    assert covered(made, PICKA) == 3
    check_invariants(made, wire)


# ---------------------------------------------------------------- who may enter
def test_p18_a_runner_asked_to_end_vetoes_entries_and_still_leaves_and_protects(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    made.stopping[0] = True
    report = made.session.run(due())
    assert {k: v for k, v in codes(report).items() if "buy" in k} == {
        "PICKA buy refused": ["STOPPING"], "PICKB buy refused": ["STOPPING"]
    }  # fmt: skip
    assert held(made) == {HELD: 1}
    check_invariants(made, wire)


def test_p18_asked_to_end_between_two_entries_keeps_the_first_and_vetoes_the_second(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    submit = wire.inner.submit

    def then_stop(order: Any) -> Any:
        made.stopping[0] = made.stopping[0] or order.intent.symbol == PICKA
        return submit(order)

    wire.inner.submit = then_stop  # type: ignore[method-assign]
    report = made.session.run(due())
    assert held(made) == {HELD: 1, PICKA: 1} and codes(report)["PICKB buy refused"] == ["STOPPING"]
    check_invariants(made, wire)


def test_entries_at_the_first_scan_only_when_the_settings_say_so(tmp_path: Path) -> None:
    made = scene(tmp_path, "PICKA", entry_scans="first")
    hold(made, "HELD")
    made.planner.exits_ = [(decision("HELD"), ExitReason.TIME)]
    report = made.session.run(due(first=False))
    assert report.code == "ENTRIES_AT_FIRST_SCAN" and held(made) == {}, "exits run at every scan"
    assert made.session.run(due(first=True)).code == "OK" and held(made) == {PICKA: 1}


def test_d19_signals_that_are_not_of_the_last_session_enter_nothing(tmp_path: Path) -> None:
    for session in (date(2024, 3, 1), TODAY):
        made = scene(tmp_path / f"{session}", "PICKA")
        made.planner.plan_ = a_plan("PICKA", signal_session=session)
        assert made.session.run(due()).code == "SIGNAL_NOT_OF_LAST_SESSION" and made.broker.submits == []


def sold_at(made: Scene, when: datetime) -> None:
    """HELD leaves through its resting stop at that instant."""
    clock = made.world.clock
    now = clock.now()
    clock.set(when)
    made.broker.fill(f"kobe-{decision('HELD')}-sell-protect-1", 1, price=Decimal("45.00"))
    made.world.desk.settle()
    clock.set(now)


@pytest.mark.parametrize(
    ("sold", "strategy", "verdict"),
    [
        (None, "ibs_rsi", "HELD_AT_SIGNAL"),
        (datetime(2024, 3, 4, 21, 0, 1, tzinfo=UTC), "ibs_rsi", "HELD_AT_SIGNAL"),  # a second after the signal's close
        (datetime(2024, 3, 4, 21, 0, 0, tzinfo=UTC), "ibs_rsi", None),  # at the close: not held any more
        (datetime(2024, 3, 5, 14, 40, tzinfo=UTC), "turtle_soup", None),  # another strategy's signal
    ],
)
def test_a_signal_is_ignored_while_its_strategy_held_the_symbol_at_its_close(
    tmp_path: Path, sold: datetime | None, strategy: str, verdict: str | None
) -> None:
    made = scene(tmp_path)
    hold(made, "HELD")
    if sold is not None:
        sold_at(made, sold)
    made.planner.plan_ = a_plan("HELD", entries=(Entry(replace(signal("HELD"), strategy=strategy), Decimal(1)),))
    found = codes(made.session.run(due()))
    if verdict is None:
        assert found["HELD buy approved"] == []
    else:
        assert found == {"HELD buy refused": [verdict]}


@pytest.mark.parametrize(("seconds", "code"), [(0, "HELD_AT_SIGNAL"), (1, "POSITION_EXISTS")])
def test_a_trade_opened_at_the_close_was_held_at_it_and_a_second_later_was_not(
    tmp_path: Path, seconds: int, code: str
) -> None:
    made = scene(tmp_path)
    opened = datetime(2024, 2, 29, 15, 0, tzinfo=UTC)  # by `hold`
    hold(made, "HELD")
    made.session._calendar = replace_close(opened - timedelta(seconds=seconds))
    made.planner.plan_ = a_plan("HELD", entries=(Entry(signal("HELD"), Decimal(1)),))
    assert code in codes(made.session.run(due()))["HELD buy refused"]


def replace_close(at: datetime) -> Any:
    """The calendar, with every session closing at that instant."""
    calendar = copy.copy(calendar_2024())
    calendar.closes_at = lambda session: at  # type: ignore[method-assign]
    return calendar


def test_a_trade_opened_after_the_signals_close_does_not_count_as_held_at_it(tmp_path: Path) -> None:
    """It is refused by the gate while it is open, with the gate's own code."""
    made = scene(tmp_path)
    hold(made, "HELD")
    made.planner.plan_ = a_plan(
        "HELD", signal_session=date(2024, 3, 4), entries=(Entry(signal("HELD", session=date(2024, 2, 28)), Decimal(1)),)
    )
    assert made.session.run(due()).intents == [], "this very decision is the one that is held"
    other = replace(signal("HELD", session=date(2024, 2, 28)), strategy="turtle_soup")
    made.planner.plan_ = a_plan("HELD", entries=(Entry(other, Decimal(1)),))
    assert "POSITION_EXISTS" in codes(made.session.run(due()))["HELD buy refused"]


def a_quote(**changes: Any) -> Quote:
    values: dict[str, Any] = {
        "symbol": PICKA, "bid": Decimal("49.99"), "ask": Decimal(50), "last": Decimal(50), "at": NOW
    }  # fmt: skip
    return Quote(**{**values, **changes})


@pytest.mark.parametrize(
    ("quote", "stop", "scale", "code"),
    [
        (None, 45.0, "1", "QUOTE_ABSENT"),
        (a_quote(ask=None), 45.0, "1", "QUOTE_ONE_SIDED"),
        (a_quote(ask=Decimal("200000")), 45.0, "1", "CLAMP_BELOW_ASK"),
        (a_quote(bid=Decimal("44.98"), ask=Decimal(45), last=Decimal(45)), 45.0, "1", "OPEN_BELOW_STOP"),
        (a_quote(bid=Decimal(80), ask=Decimal("80.01"), last=Decimal(80)), 45.0, "1", "CAP_BELOW_ONE_SHARE"),
        (a_quote(), 30.0, "1", "RISK_BELOW_ONE_SHARE"),
        (a_quote(), 45.0, "0", "SCALE_ZERO"),
        (a_quote(at=NOW - timedelta(seconds=61)), 45.0, "1", "QUOTE_STALE"),
        (a_quote(bid=Decimal("50.01")), 45.0, "1", "QUOTE_CROSSED"),
    ],
)
def test_a_pick_that_becomes_no_order_is_told_with_its_code(
    tmp_path: Path, quote: Quote | None, stop: float, scale: str, code: str
) -> None:
    made = scene(tmp_path)
    made.planner.plan_ = a_plan("PICKA", entries=(Entry(signal("PICKA", stop=stop), Decimal(scale)),))
    made.broker.quotes = lambda symbols: {} if quote is None else {PICKA: quote}
    report = made.session.run(due())
    (row,) = report.intents
    assert (row["verdict"], row["symbol"], row["side"]) == ("refused", "PICKA", "buy") and code in row["codes"]
    assert made.broker.submits == [] and report.code == "OK"
    told = [r.body for r in made.world.journal.kinds("pick_refused", "order_refused")]
    assert len(told) == 1 and code in (told[0].get("code"), *told[0].get("codes", ()))


def test_b27_a_symbol_that_cannot_be_traded_is_refused_by_the_gate(tmp_path: Path) -> None:
    made = scene(tmp_path, "PICKA")
    asset = made.broker.asset(PICKA)
    for answer in (None, replace(asset, tradable=False), replace(asset, active=False)):
        made.broker.asset = lambda symbol, answer=answer: answer
        assert codes(made.session.run(due()))["PICKA buy refused"] == ["NOT_TRADABLE"]
    assert made.broker.submits == []


def test_no_quotes_at_all_is_a_code_of_its_own_and_protection_goes_on(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    wire.inner.cancel(wire.inner.orders[f"kobe-{decision('HELD')}-sell-protect-1"].id)

    def down(symbols: Any) -> Any:
        raise BrokerDown("503")

    wire.inner.quotes = down  # type: ignore[method-assign]
    report = made.session.run(due())
    assert report.code == "QUOTES_UNAVAILABLE" and covered(made, HELD) == 1 and covered(made, DUE) == 1
    assert held(made) == {HELD: 1, DUE: 1}


def test_no_picks_is_said_so_and_spent_picks_are_not_no_picks(tmp_path: Path) -> None:
    made = scene(tmp_path)
    assert made.session.run(due()).code == "NO_PICKS"
    made.planner.plan_ = a_plan("PICKA")
    assert [made.session.run(due()).code for _ in range(2)] == ["OK", "OK"]


def test_b36_a_blocked_account_sends_nothing_at_all(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    real = wire.inner.account

    def blocked() -> Account:
        return replace(real(), blocked=("trading_blocked",))

    wire.inner.account = blocked  # type: ignore[method-assign]
    posts = len(wire.inner.submits)
    report = made.session.run(due())
    assert len(wire.inner.submits) == posts and covered(made, HELD) == 1 and covered(made, DUE) == 1
    assert all("TRADING_STATE" in row["codes"] for row in report.intents if row["side"] == "buy")


def test_the_budget_of_the_day_holds_over_two_scans_and_a_restart(tmp_path: Path) -> None:
    names = [f"S{chr(65 + n)}" for n in range(26)]
    made = scene(tmp_path)
    made.world.desk.limits = replace(made.world.desk.limits, daily_budget_usd=Decimal(120), position_limit=50)
    made.planner.plan_ = a_plan(*names[:13])
    report = made.session.run(due())
    assert made.ledger().spent_usd(TODAY) == Decimal(100) and len(held(made)) == 2
    refused = {code for row in report.intents if row["verdict"] == "refused" for code in row["codes"]}
    assert refused == {"ROOM_BELOW_ONE_SHARE"}
    limits = made.world.desk.limits
    made.restart()
    made.world.desk.limits = limits
    made.session.run(due("10:30", first=False))
    assert made.ledger().spent_usd(TODAY) == Decimal(100)


# ---------------------------------------------------------------- the journal
def test_p01_a_journal_that_cannot_be_written_ends_the_scan_and_nothing_is_posted(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    journal: Any = made.world.desk.journal

    def full(*_: Any, **__: Any) -> Any:
        raise StateCorrupt("cannot be written: no space left", code="JOURNAL_UNWRITABLE")

    journal.append = full
    posts = len(wire.inner.submits)
    with pytest.raises(StateCorrupt):
        made.session.run(due())
    assert len(wire.inner.submits) == posts


def test_b41_what_somebody_else_bought_is_a_break_that_locks_entries_into_it_only(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    wire.inner.held[PICKA] = 5
    report = made.session.run(due())
    assert [b["kind"] for b in report.breaks] == ["UNKNOWN_POSITION"]
    assert "SYMBOL_LOCKED" in codes(report)["PICKA buy refused"]
    assert held(made) == {HELD: 1, PICKA: 5, PICKB: 1}


# ---------------------------------------------------------------- the end of the day
def test_b53_close_out_books_what_rested_and_leaves_no_orphan(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    made.session.run(due())
    assert made.session.has_something_out
    wire.inner.fill(f"kobe-{decision('HELD')}-sell-protect-1", 1, price=Decimal("45.00"))
    report = made.session.close_out(TODAY)
    assert [row["client_order_id"] for row in report.orders] == [f"kobe-{decision('HELD')}-sell-protect-1"]
    assert held(made) == {PICKA: 1, PICKB: 1} and report.breaks == []
    (record,) = [r for r in made.world.journal.kinds("scan_run") if r.body["run"].endswith("Tclose")]
    assert record.body["run"] == "2024-03-05Tclose"
    check_invariants(made, wire)


def test_nothing_out_is_said_so(tmp_path: Path) -> None:
    made = scene(tmp_path)
    assert not made.session.has_something_out
    assert isinstance(made.planner, ScriptedPlanner) and made.planner.asked == []


def test_start_up_needs_the_broker(tmp_path: Path) -> None:
    made, wire = full_scene(tmp_path)
    Outage(False, True).strike(wire, 1)
    with pytest.raises(BrokerDown):
        made.session.recover()
