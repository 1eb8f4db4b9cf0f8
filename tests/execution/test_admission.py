"""The last door on the real transport: what it stops never reaches the server. With the Knight simulation."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core import logs
from core.clock import SteppedClock
from core.domain import Purpose, Symbol
from core.errors import BrokerDown, KobeError, OutcomeUnknown, RiskRefused, StateCorrupt
from core.journal import Journal
from execution.admission import CANCELS_STORM, CANCELS_TOLD, JournalWatch, LastDoor, NothingSent
from execution.alpaca_broker import AlpacaBroker, order_body
from execution.desk import Desk, Halted, NotSent, Unknown
from execution.ledger import intent_body
from risk import gate
from risk.runaway import Bounds, Ceilings
from tests.execution.broker_contract import approved
from tests.fakes.bad_http import BadServer
from tests.fakes.trading import NOW, Switch, book, entry, limits, sell

BUDGET = Decimal(1000)
BOUNDS = Bounds(ceilings=Ceilings(), minute_usd=BUDGET, day_usd=BUDGET)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@dataclass
class Line:
    """A desk on the real adapter behind the real door, and a server that fills everything."""

    server: BadServer
    journal: Journal
    halt: Switch
    clock: SteppedClock
    broker: AlpacaBroker
    desk: Desk
    trips: list[str]

    def intend(self, intent: Any) -> Any:
        self.journal.append("order_intended", intent_body(intent))
        return intent

    @property
    def bought_usd(self) -> Decimal:
        return sum((Decimal(p["limit_price"]) * int(p["qty"]) for p in self.server.posts), Decimal(0))


@contextmanager
def line(root: Path, bounds: Bounds = BOUNDS, **options: Any) -> Iterator[Line]:
    server, halt, clock, trips = BadServer(), Switch(), SteppedClock(NOW), list[str]()
    journal = Journal(root / "state" / "hash_chain.jsonl", clock)

    def trip(why: str) -> None:
        trips.append(why)
        halt.active = True

    door = LastDoor(JournalWatch(journal, bounds), clock, trip=trip, **options)
    broker = AlpacaBroker(
        key_id="k", secret="s", base_url=server.url, data_url=server.url, halt=halt, admission=door, clock=clock,
        connect_timeout_s=1.0, read_timeout_s=0.5, total_timeout_s=2.0,
    )  # fmt: skip
    desk = Desk(journal=journal, broker=broker, halt=halt, clock=clock, limits=limits(), lock_path=root / "desk")
    server.replies["/v2/positions"] = (200, "[]")
    server.reply_changes = {"status": "filled", "filled_qty": "1", "filled_avg_price": "50.00"}
    try:
        yield Line(server, journal, halt, clock, broker, desk, trips)
    finally:
        server.stop()


def counted(metric: str, code: str) -> int:
    return logs.counters().get((metric, (("code", code),)), 0)


# ---------------------------------------------------------------- one order, one intent
def test_a_desk_that_works_as_it_should_passes(tmp_path: Path) -> None:
    with line(tmp_path) as w:
        for symbol in ("AAA", "BBB"):
            w.desk.execute(entry(symbol), book(symbol, marks={Symbol("AAA"): Decimal(50)}))
        assert [p["symbol"] for p in w.server.posts] == ["AAA", "BBB"] and w.trips == []


def test_an_order_without_an_intent_does_not_leave_and_halts_everything(tmp_path: Path) -> None:
    before = counted("orders_stopped_at_the_door", "RUNAWAY_NO_INTENT")
    with line(tmp_path) as w:
        with pytest.raises(StateCorrupt) as caught:
            w.broker.submit(approved(entry()))
        assert caught.value.code == "RUNAWAY_NO_INTENT" and w.server.posts == [] and len(w.trips) == 1
    assert counted("orders_stopped_at_the_door", "RUNAWAY_NO_INTENT") == before + 1


def test_a_retry_with_the_same_id_does_not_leave_and_the_order_is_unknown(tmp_path: Path) -> None:
    with line(tmp_path) as w:
        intent = w.intend(entry())
        w.broker.submit(approved(intent))
        with pytest.raises(OutcomeUnknown) as caught:
            w.broker.submit(approved(intent))
        assert caught.value.code == "RUNAWAY_TWICE" and len(w.server.posts) == 1 and len(w.trips) == 1


def test_a_retry_after_a_time_out_is_stopped_as_well(tmp_path: Path) -> None:
    """B05: whoever sends again what may be live, sends nothing."""
    with line(tmp_path) as w:
        intent, w.server.mode = w.intend(entry()), "504"
        for code in ("HTTP_504", "RUNAWAY_TWICE"):
            with pytest.raises(OutcomeUnknown) as caught:
                w.broker.submit(approved(intent))
            assert caught.value.code == code
        assert len(w.server.posts) == 1


def test_an_order_that_differs_from_its_intent_ends_as_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubled(intent: Any) -> dict[str, Any]:
        return {**order_body(intent), "qty": str(2 * intent.quantity)}

    monkeypatch.setattr("execution.alpaca_broker.order_body", doubled)
    with line(tmp_path) as w:
        outcome = w.desk.send(entry(), book())
        assert isinstance(outcome, NotSent) and outcome.code == "RUNAWAY_DIFFERS"
        assert w.server.posts == [] and len(w.trips) == 1
        assert w.desk.ledger().orders[entry().client_order_id].end == "not_sent"
        assert isinstance(w.desk.send(entry("BBB"), book("BBB")), Halted)


def test_a_switch_that_cannot_be_written_shuts_the_door_of_this_process(tmp_path: Path) -> None:
    def refuse(why: str) -> None:
        raise OSError(30, "Read-only file system")

    with line(tmp_path) as w:
        door: Any = w.broker._transport._admission
        door._trip = refuse
        with pytest.raises(StateCorrupt):
            w.broker.submit(approved(entry()))
        outcome = w.desk.send(entry("BBB"), book("BBB"))
        assert isinstance(outcome, NotSent) and outcome.code == "DOOR_SHUT" and w.server.posts == []


def test_a_rate_limited_order_may_leave_again_once_it_is_proved_not_sent(tmp_path: Path) -> None:
    with line(tmp_path) as w:
        w.server.mode, w.server.accepts = "429", False
        assert isinstance(w.desk.send(entry(), book()), NotSent)
        w.server.mode, w.server.accepts = "ok", True
        w.desk.send(entry(), book())
        assert len(w.server.posts) == 2 and w.trips == []


def test_an_intent_that_another_process_gave_up_ends_as_not_sent_and_halts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with line(tmp_path) as w:
        other = Journal(w.journal.path, w.clock)
        real = w.broker.submit

        def submit(order: Any) -> Any:  # a reconcile in another terminal, between our intent and our POST
            other.append("order_not_sent", {"client_order_id": order.intent.client_order_id, "code": "NOT_ACCEPTED"})
            return real(order)

        monkeypatch.setattr(w.broker, "submit", submit)
        outcome = w.desk.send(entry(), book())
        assert isinstance(outcome, NotSent) and outcome.code == "INTENT_GIVEN_UP"
        assert w.server.posts == [] and w.trips == []


def test_intents_of_a_process_that_died_let_nothing_out(tmp_path: Path) -> None:
    with line(tmp_path) as first:
        intent = first.intend(entry())
    with line(tmp_path) as second:
        with pytest.raises(StateCorrupt):
            second.broker.submit(approved(intent))
        assert second.server.posts == []


def test_a_journal_that_cannot_be_read_lets_nothing_out(tmp_path: Path) -> None:
    with line(tmp_path) as w:
        intent = w.intend(entry())
        w.journal.path.write_bytes(w.journal.path.read_bytes() + b"no record\n")
        for _ in range(2):
            with pytest.raises(StateCorrupt):
                w.broker.submit(approved(intent))
        assert w.server.posts == []


def test_a_record_that_makes_no_sense_is_not_believed_the_second_time_either(tmp_path: Path) -> None:
    with line(tmp_path) as w:
        intent = w.intend(entry())
        w.journal.append("order_intended", {"client_order_id": "x"})
        for _ in range(2):
            with pytest.raises(StateCorrupt, match="cannot be read"):
                w.broker.submit(approved(intent))
        assert w.server.posts == []


def test_only_orders_are_posted_and_nothing_is_sold_by_a_delete(tmp_path: Path) -> None:
    """DELETE /v2/positions would sell everything: it is admitted by nobody."""
    with line(tmp_path) as w:
        body = order_body(w.intend(entry()))
        for act in (
            lambda: w.broker._trading.post("/watchlists", body),
            lambda: w.broker._trading.patch("/orders", body),
            lambda: w.broker._trading.delete("/positions"),
            lambda: w.broker._trading.post("/watchlists", {"name": "x"}),
            lambda: w.broker._trading.patch("/orders/1", {"qty": "9"}),
        ):
            with pytest.raises(StateCorrupt):
                act()
        assert w.server.posts == [] and w.server.requests == []


# ---------------------------------------------------------------- cancels, and those who send nothing
def test_cancels_are_counted_told_and_refused_only_in_a_storm(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "chain.jsonl", SteppedClock(NOW))
    clock = SteppedClock(NOW)
    door = LastDoor(JournalWatch(journal, BOUNDS), clock, trip=lambda why: None)
    for _ in range(CANCELS_STORM):
        door.cancelling("/v2/orders/1")
    with pytest.raises(RiskRefused) as caught:
        door.cancelling("/v2/orders/1")
    assert caught.value.code == "RUNAWAY_CANCELS" and CANCELS_TOLD < CANCELS_STORM
    clock.sleep(60.0)
    door.cancelling("/v2/orders/1")
    emergency = LastDoor(JournalWatch(journal, BOUNDS), clock, trip=lambda why: None, closes_only=True)
    for _ in range(CANCELS_STORM + 10):
        emergency.cancelling("/v2/orders/1")


def test_the_emergency_door_lets_only_the_liquidation_out(tmp_path: Path) -> None:
    with line(tmp_path, closes_only=True) as w:
        assert isinstance(outcome := w.desk.send(entry(), book()), NotSent) and outcome.code == "CLOSES_ONLY"
        w.journal.append("operator_close_opened", {"run": "r1"})
        w.halt.active = True
        close = replace(sell(purpose=Purpose.CLOSE), decision_id="close-r1-AAA")
        w.desk.send(close, book(positions={Symbol("AAA"): 1}, operator_close=True))
        assert [p["side"] for p in w.server.posts] == ["sell"] and w.trips == []


def test_who_only_looks_can_neither_send_nor_cancel() -> None:
    reader, dog = NothingSent(), NothingSent(cancels=True)
    for door in (reader, dog):
        with pytest.raises(RiskRefused):
            door.admit(order_body(entry()), despite_halt=False)
    with pytest.raises(RiskRefused):
        reader.cancelling("/v2/orders/1")
    dog.cancelling("/v2/orders/1")


# ---------------------------------------------------------------- Knight
PARENTS = [f"P{number}" for number in range(212)]


def stale_flag_router(w: Line, *, minted: bool) -> int:
    """Knight Capital, 2012-08-01: 212 parent orders meet an old router that never learns that a parent is filled, and
    sends child after child. `minted`: each child comes as a decision of its own, so that none looks like a child.

    Returns how many orders it tried to send: three rounds over all parents, unless it is stopped.
    """
    tried = 0
    for attempt, symbol in itertools.product(range(1, 4), PARENTS):
        child = entry(symbol, attempt=1 if minted else attempt)
        if minted:
            child = replace(child, decision_id=f"{child.decision_id}-{attempt}")
        tried += 1
        try:
            outcome = w.desk.send(child, book(symbol))
        except KobeError:
            return tried
        if isinstance(outcome, Halted):
            return tried
    return tried


@pytest.fixture
def no_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate approves everything, as if all its checks had been lost in a release."""
    monkeypatch.setattr("execution.desk.decide", lambda intent, seen, allowed: gate.Approved(intent, False, gate._DOOR))


def test_knight_the_gate_alone_keeps_the_budget_and_lets_no_child_out(tmp_path: Path) -> None:
    with line(tmp_path) as w:
        stale_flag_router(w, minted=False)
        sent = [p["symbol"] for p in w.server.posts]
        assert len(sent) == len(set(sent)) and w.bought_usd <= BUDGET and w.trips == []


@pytest.mark.usefixtures("no_gate")
def test_knight_without_any_gate_no_excess_child_leaves_and_no_dollar_above_the_budget(tmp_path: Path) -> None:
    """The first child of a filled parent trips the switch; before that the budget has stopped the parents."""
    bounds = replace(BOUNDS, ceilings=Ceilings(per_minute=10_000, per_day=10_000))
    with line(tmp_path, bounds) as w:
        tried = stale_flag_router(w, minted=False)
        sent = [p["symbol"] for p in w.server.posts]
        assert len(sent) - len(set(sent)) == 0, "excess children"
        assert 0 < w.bought_usd <= BUDGET
        assert len(w.trips) == 1 and w.trips[0].startswith("RUNAWAY_CHILDREN")
        assert tried == len(PARENTS) + 2, "stopped at the first child, the next attempt met the switch"


@pytest.mark.usefixtures("no_gate")
def test_knight_children_in_disguise_are_bounded_by_budget_and_messages(tmp_path: Path) -> None:
    with line(tmp_path) as w:
        stale_flag_router(w, minted=True)
        assert w.bought_usd <= BUDGET and len(w.server.posts) <= 30


@pytest.mark.usefixtures("no_gate")
def test_knight_an_order_path_that_skips_the_journal_sends_nothing(tmp_path: Path) -> None:
    with line(tmp_path) as w:
        for symbol in PARENTS:
            with pytest.raises(StateCorrupt):
                w.broker.submit(approved(entry(symbol)))
        assert w.server.posts == [] and len(w.trips) >= 1


def test_a_broker_that_is_down_is_no_runaway(tmp_path: Path) -> None:
    with line(tmp_path) as w:
        w.server.mode, w.server.accepts = "503", False
        assert isinstance(w.desk.send(entry(), book()), Unknown) and w.trips == []
        w.server.stop()
        dead = w.intend(entry("BBB"))
        with pytest.raises((BrokerDown, OutcomeUnknown)):
            w.broker.submit(approved(dead))
        assert w.trips == []
        w.server = BadServer()  # the one that is stopped at the end
