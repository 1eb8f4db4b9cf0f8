"""Cancel-all and close-all against a broker that refuses, fills in between, lags and says flat when it is not."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.domain import Order, OrderIntent, OrderKind, Position, Purpose, Side, Symbol, Tif
from core.errors import AlreadyRunning, BrokerDown, BrokerRejected, Exit, OutcomeUnknown
from execution.emergency import CancelResult, CloseResult, cancel_all, close_all
from execution.ledger import intent_body
from execution.protection import repair
from risk.gate import Approved, Book, decide
from scripts import cancel_all as cancel_script
from scripts import close_all_positions as close_script
from tests.fakes.emergencies import Place, place
from tests.fakes.fake_broker import FakeBroker
from tests.fakes.trading import AAA, NOW, TODAY, World, book, entry, limits, sell, world

BBB = Symbol("BBB")


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def here(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr("execution.emergency._WAIT_S", 0.05)
    with place(own_home, tmp_path, monkeypatch) as made:
        yield made


def protected(root: Path) -> World:
    w = world(root)
    w.desk.execute(entry(), book())
    repair(w.desk, book(), on=TODAY)
    return w


def resting(w: World, symbol: str) -> OrderIntent:
    """A buy of ours that works."""
    intent = entry(symbol, tif=Tif.DAY)
    w.broker.plan[intent.client_order_id] = 0
    w.desk.send(intent, book(symbol, marks={AAA: Decimal(50)}))
    return intent


def close(w: World, run: str = "r1", deadline_s: float = 5.0) -> CloseResult:
    lock = w.root / "state" / "operator"
    return close_all(w.desk, run=run, run_lock=lock, deadline_s=deadline_s, cancel_deadline_s=5.0)


# ---------------------------------------------------------------- B37
def test_B37_of_many_cancels_some_are_refused_and_each_is_reported_by_its_id(tmp_path: Path) -> None:
    w = world(tmp_path)
    stubborn = {resting(w, symbol).client_order_id: symbol for symbol in ("AAA", "BBB", "CCC")}
    ids = {w.broker.orders[cid].id: symbol for cid, symbol in stubborn.items()}
    real, times = w.broker.cancel, dict.fromkeys(ids, 0)

    def cancel(order_id: str) -> None:
        times[order_id] += 1
        if ids[order_id] == "BBB" or (ids[order_id] == "CCC" and times[order_id] < 3):
            raise BrokerRejected("not now", code="UNPROCESSABLE")
        real(order_id)

    w.broker.cancel = cancel
    result = cancel_all(w.broker, w.journal, w.clock, deadline_s=4.0, desk=w.desk)
    by_symbol = {symbol: order_id for order_id, symbol in ids.items()}
    assert not result.done and dict(result.failed) == {by_symbol["BBB"]: "UNPROCESSABLE"}
    assert result.remaining == (by_symbol["BBB"],)
    assert set(result.cancelled) == {by_symbol["AAA"], by_symbol["CCC"]}
    assert times[by_symbol["BBB"]] >= 8, "asked again until the deadline"


def test_B37_the_command_ends_with_1_and_names_what_is_still_open(
    here: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here.buy("AAA")
    from execution.alpaca_broker import AlpacaBroker

    def refuse(self: AlpacaBroker, order_id: str) -> None:
        raise BrokerRejected("no", code="UNPROCESSABLE")

    real = cancel_all
    monkeypatch.setattr(AlpacaBroker, "cancel", refuse)
    monkeypatch.setattr("execution.emergency.cancel_all", lambda *a, **k: real(*a, **{**k, "deadline_s": 0.2}))
    assert cancel_script.main([]) == Exit.NO
    out = capsys.readouterr().out
    assert "cancelled 0, still open 1" in out and "UNPROCESSABLE" in out


def test_B37_nothing_open_ends_with_0(here: Place) -> None:
    here.desk()
    assert cancel_script.main([]) == Exit.OK


def test_B37_a_journal_that_cannot_be_written_keeps_no_order_from_being_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.errors import StateCorrupt
    from core.journal import Journal

    w = world(tmp_path)
    for symbol in ("AAA", "BBB"):
        resting(w, symbol)
    tries = []

    def full(self: Journal, kind: str, body: Any, **_: Any) -> Any:
        tries.append(kind)
        raise StateCorrupt("disk full", code="JOURNAL_UNWRITABLE")

    monkeypatch.setattr(Journal, "append", full)
    result = cancel_all(w.broker, w.journal, w.clock)
    assert result.done and len(result.cancelled) == 2 and not w.broker.open_orders()
    assert result.unwritten is not None and len(tries) == 1, "nobody waits for it at each order"


# ---------------------------------------------------------------- B38
def test_B38_an_order_that_filled_before_its_cancel_came_is_booked_as_filled(tmp_path: Path) -> None:
    w = world(tmp_path)
    intent = resting(w, "AAA")
    real = w.broker.cancel

    def too_late(order_id: str) -> None:
        w.broker.fill(intent.client_order_id, intent.quantity)
        real(order_id)  # 422, not cancelable

    w.broker.cancel = too_late
    result = cancel_all(w.broker, w.journal, w.clock, desk=w.desk)
    order = w.desk.ledger().orders[intent.client_order_id]
    assert result.done and result.failed == {} and order.filled_quantity == 1 and not order.working
    assert w.desk.ledger().positions == {AAA: 1}


def test_B38_the_desks_own_cancel_believes_the_order_and_not_the_refusal(tmp_path: Path) -> None:
    w = world(tmp_path)
    intent = resting(w, "AAA")

    def gone(order_id: str) -> None:
        w.broker._end(intent.client_order_id, "canceled")
        raise BrokerRejected("order is not cancelable", code="UNPROCESSABLE")

    w.broker.cancel = gone
    order = w.desk.cancel(intent.client_order_id, wait_s=2.0)
    assert not order.working and order.filled_quantity == 0 and order.end == "closed"


# ---------------------------------------------------------------- B39
def test_B39_buys_are_cancelled_and_gone_before_anything_is_sold(tmp_path: Path) -> None:
    w = protected(tmp_path)
    resting(w, "BBB")
    acts: list[str] = []
    real_cancel, real_submit = w.broker.cancel, w.broker.submit

    def cancel(order_id: str) -> None:
        acts.append("cancel")
        real_cancel(order_id)

    def submit(order: Any) -> Order:
        acts.append(f"{order.intent.side} with {len(w.broker.open_orders())} open")
        made: Order = real_submit(order)
        return made

    w.broker.cancel, w.broker.submit = cancel, submit
    assert close(w).done and w.broker.held == {AAA: 0}
    assert acts == ["cancel", "cancel", "sell with 0 open"]


def test_B39_what_is_sold_is_what_the_broker_holds_and_not_what_we_believe(tmp_path: Path) -> None:
    w = protected(tmp_path)
    w.broker.held[AAA] += 4
    w.broker.held[BBB] = 3  # bought by hand
    assert close(w).done and set(w.broker.held.values()) == {0}


def test_B39_a_buy_that_fills_while_it_is_cancelled_is_sold_too(tmp_path: Path) -> None:
    w = protected(tmp_path)
    late = resting(w, "BBB")
    real = w.broker.cancel

    def cancel(order_id: str) -> None:
        if w.broker.orders[late.client_order_id].id == order_id:
            w.broker.fill(late.client_order_id, 1)
        real(order_id)

    w.broker.cancel = cancel
    assert close(w).done and w.broker.held == {AAA: 0, BBB: 0}


def test_B39_a_fill_told_only_after_the_first_sale_is_sold_by_the_next_round(tmp_path: Path) -> None:
    """The buy was shown cancelled, and fills all the same; its shares are ours to sell, a lagging listing's are not."""
    w = world(tmp_path)
    first, late = entry("AAA", quantity=1), None
    w.desk.execute(first, book())
    late = replace(entry("AAA", tif=Tif.DAY), decision_id="20240304-turtle_soup-AAA")
    w.journal.append("order_intended", intent_body(late))
    w.broker.plan[late.client_order_id] = 0
    w.desk._adopt(late, w.broker.submit(type("Any", (), {"intent": late})))
    real, hidden = w.broker.submit, w.broker.orders

    def submit(order: Any) -> Order:
        made: Order = real(order)
        if order.intent.purpose is Purpose.CLOSE and hidden[late.client_order_id].filled_quantity == 0:
            hidden[late.client_order_id] = replace(hidden[late.client_order_id], status="new")
            w.broker.fill(late.client_order_id, 1)
            w.desk.poll(late.client_order_id, wait_s=0.0)
            w.desk.book_order(hidden[late.client_order_id])
        return made

    w.broker.submit = submit
    assert close(w).flat and w.broker.held == {AAA: 0}


def test_B39_a_listing_that_lags_behind_the_sale_is_not_sold_twice(tmp_path: Path) -> None:
    w = protected(tmp_path)
    before = w.broker.positions()
    real, calls = w.broker.positions, [0]

    def lagging() -> Any:
        calls[0] += 1
        return before if calls[0] < 9 else real()

    w.broker.positions = lagging
    w.broker._free = lambda symbol: 99  # a margin account would sell short
    assert close(w).done and w.broker.held == {AAA: 0}


def test_B39_while_a_sell_works_no_second_one_is_sent_although_no_listing_shows_it(tmp_path: Path) -> None:
    w = protected(tmp_path)
    w.broker.held[AAA] = 5
    w.broker._free = lambda symbol: 99
    first = "kobe-close-r1-AAA-sell-close-1"
    w.broker.plan[first] = 2
    listing = w.broker.open_orders
    w.broker.open_orders = lambda: [o for o in listing() if o.client_order_id != first]
    result = close(w, deadline_s=3.0)
    assert not result.flat and [cid for cid in w.broker.submits if "-close-" in cid] == [first]


def test_B39_a_broker_that_fails_on_the_way_is_asked_again_until_the_deadline(tmp_path: Path) -> None:
    w = protected(tmp_path)
    real, calls = w.broker.positions, [0]

    def flaky() -> Any:
        calls[0] += 1
        if calls[0] < 4 or calls[0] % 4 == 1:
            raise BrokerDown("503")
        return real()

    w.broker.positions = flaky
    with pytest.raises(BrokerDown):
        close(w, deadline_s=0.0)
    assert close(w, "r2", deadline_s=30.0).done and w.broker.held == {AAA: 0}
    assert w.kinds().count("operator_close_opened") == w.kinds().count("operator_close_ended")


def test_B39_B44_a_broker_that_says_flat_while_the_account_says_otherwise_is_not_believed(tmp_path: Path) -> None:
    w = protected(tmp_path)
    w.broker.hide_positions = True  # 200 and [], the account still worth its shares
    with pytest.raises(BrokerDown) as caught:
        close(w)
    assert caught.value.code == "IMPLAUSIBLE_FLAT" and w.broker.held == {AAA: 1}
    w.broker.hide_positions = False
    assert close(w, "r2").flat and w.broker.held == {AAA: 0}


def test_B39_an_order_left_open_is_no_success(tmp_path: Path) -> None:
    w = protected(tmp_path)
    late = resting(w, "BBB")

    def refuse(order_id: str) -> None:
        if w.broker.orders[late.client_order_id].id == order_id:
            raise BrokerRejected("no", code="UNPROCESSABLE")
        FakeBroker.cancel(w.broker, order_id)

    w.broker.cancel = refuse
    result = close(w)
    assert result.flat and not result.done and result.open_orders == (late.client_order_id,)
    assert not result.cancels.done


def test_B39_a_sell_that_never_arrived_keeps_nobody_from_selling(tmp_path: Path) -> None:
    """An earlier liquidation died between intent and wire: its order is proved absent, then the shares are sold."""
    w = protected(tmp_path)
    lost = replace(sell(purpose=Purpose.CLOSE), decision_id="close-r0-AAA")
    w.journal.append("order_intended", intent_body(lost))
    w.clock.sleep(60)
    assert close(w, deadline_s=60.0).done and w.broker.held == {AAA: 0}


# ---------------------------------------------------------------- B40
def test_B40_of_two_close_runs_the_second_is_refused_and_sells_nothing(tmp_path: Path) -> None:
    w = protected(tmp_path)
    inner: list[BaseException] = []
    real = w.broker.submit

    def submit(order: Any) -> Order:
        try:
            close(w, "r2")  # the other terminal, while the first one sells
        except AlreadyRunning as error:
            inner.append(error)
        made: Order = real(order)
        return made

    w.broker.submit = submit
    assert close(w).done
    assert len(inner) == 1 and "close_all by" in str(inner[0]) and w.broker.held == {AAA: 0}
    assert sum("-close-" in cid for cid in w.broker.submits) == 1


def test_B40_close_all_twice_one_after_the_other_sells_once(tmp_path: Path) -> None:
    w = protected(tmp_path)
    assert close(w, "r1").done and close(w, "r2").done and close(w, "r1").done
    assert sum("-close-" in cid for cid in w.broker.submits) == 1


def test_B40_two_runs_of_different_names_that_meet_in_one_symbol_never_oversell(tmp_path: Path) -> None:
    """The lock is gone (another machine, say): the first run's working sell still keeps the second from selling."""
    w = protected(tmp_path)
    w.broker.held[AAA] = 5
    first = "kobe-close-r1-AAA-sell-close-1"
    w.broker.plan[first] = 2
    close(w, "r1", deadline_s=1.0)
    w.broker._free = lambda symbol: 99  # a margin account would sell short
    real = cancel_all
    w.broker.cancel = lambda order_id: (_ for _ in ()).throw(BrokerRejected("no", code="UNPROCESSABLE"))
    assert real is cancel_all
    result = close_all(w.desk, run="r2", run_lock=w.root / "other", deadline_s=2.0, cancel_deadline_s=1.0)
    assert not result.done and w.broker.held[AAA] == 3
    w.broker.fill(first, 3)
    assert w.broker.held[AAA] == 0 and w.broker.submits.count(first) == 1


# ---------------------------------------------------------------- the door, whatever the world looks like
@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    symbols = [Symbol(s) for s in ("AAA", "BBB", "CCC")]
    return {
        "held": {s: draw(st.integers(-5, 9)) for s in symbols},
        "fraction": draw(st.sampled_from([Decimal(0), Decimal("0.4"), Decimal("-0.4")])),
        "resting": [
            (draw(st.sampled_from(symbols)), draw(st.sampled_from(list(Side))), draw(st.integers(1, 6)))
            for _ in range(draw(st.integers(0, 4)))
        ],
        "stubborn": draw(st.booleans()),
        "fills": draw(st.integers(0, 5)),
        "beside": draw(st.integers(0, 3)),
        "unknown": draw(st.booleans()),
        "seed": draw(st.integers(0, 10_000)),
    }


class Margin(FakeBroker):
    """Sells what nobody holds, without a word; checks each sell against what it holds at that moment."""

    def __init__(self, clock: Any, facts: dict[str, Any]) -> None:
        super().__init__(clock)
        self.facts, self.rng = facts, random.Random(facts["seed"])
        self.held.update(facts["held"])
        self.wrong: list[str] = []
        self.beside = facts["beside"]

    def _free(self, symbol: Symbol) -> int:
        return 10**6

    def positions(self) -> Any:
        if self.beside and self.rng.random() < 0.3:  # a stop or a runner beside us sells, before this very look
            self.beside -= 1
            for symbol, quantity in self.held.items():
                if quantity > 0:
                    self.held[symbol] = quantity - 1
                    break
        part = self.facts["fraction"]
        found = {
            s: Position(symbol=s, quantity=Decimal(q), average_price=Decimal(50)) for s, q in self.held.items() if q
        }
        if part:
            whole = found.get(AAA)
            quantity = (whole.quantity if whole else Decimal(0)) + part
            found[AAA] = Position(symbol=AAA, quantity=quantity, average_price=Decimal(50))
        return found

    def submit(self, order: Any) -> Order:
        intent = order.intent
        before = self.held.get(intent.symbol, 0)
        claimed = sum(
            o.quantity - o.filled_quantity for o in self.open_orders()
            if o.symbol == intent.symbol and o.side is Side.SELL
        )  # fmt: skip
        if intent.side is not Side.SELL or intent.quantity > before - claimed:
            self.wrong.append(f"{intent.side} {intent.quantity} of {before}, {claimed} claimed")
        self.plan[intent.client_order_id] = min(intent.quantity, self.facts["fills"] or intent.quantity)
        made = super().submit(order)
        if self.facts["unknown"] and self.rng.random() < 0.3:
            raise OutcomeUnknown("reset")
        return made

    def cancel(self, order_id: str) -> None:
        if self.facts["stubborn"]:
            raise BrokerRejected("no", code="UNPROCESSABLE")
        super().cancel(order_id)


def as_resting(n: int, symbol: Symbol, side: Side, quantity: int) -> Order:
    return Order(
        id=f"r{n}", client_order_id=f"resting-{n}", symbol=symbol, side=side, quantity=quantity, filled_quantity=0,
        filled_price=None, kind="limit", tif="gtc", status="new", submitted_at=NOW,
    )  # fmt: skip


@given(worlds())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_B39_B40_whatever_the_world_the_door_only_makes_positions_smaller(
    tmp_path_factory: pytest.TempPathFactory, facts: dict[str, Any]
) -> None:
    w = world(tmp_path_factory.mktemp("door"))
    broker = Margin(w.clock, facts)
    w.broker = w.desk.broker = broker
    w.halt.active = True
    for n, (symbol, side, quantity) in enumerate(facts["resting"]):
        broker.orders[f"resting-{n}"] = as_resting(n, symbol, side, quantity)
    before = dict(broker.held)
    result = close(w, deadline_s=8.0)
    assert broker.wrong == []
    for symbol, quantity in broker.held.items():
        assert abs(quantity) <= abs(before[symbol]) and quantity * before[symbol] >= 0, "grew, or crossed zero"
        if before[symbol] <= 0:
            assert quantity == before[symbol], "a short is nobody's to trade here"
    assert result.flat is (not any(p.quantity for p in broker.positions().values()))


PURPOSES = st.sampled_from([Purpose.EXIT, Purpose.PROTECT, Purpose.CLOSE])


@given(
    purpose=PURPOSES, quantity=st.integers(1, 20), held=st.integers(-20, 20),
    claims=st.lists(st.tuples(st.sampled_from(list(Side)), st.integers(1, 9), st.integers(0, 9)), max_size=3),
    operator=st.booleans(), entering=st.booleans(), locked=st.sampled_from([None, "BREAK", "UNKNOWN_ORDER"]),
)  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_O01_the_gate_opens_the_door_for_pure_reductions_only(
    purpose: Purpose, quantity: int, held: int, claims: list[tuple[Side, int, int]], operator: bool, entering: bool,
    locked: str | None,
) -> None:  # fmt: skip
    kind = OrderKind.MARKET if purpose is Purpose.CLOSE else OrderKind.LIMIT
    intent = entry(quantity=quantity) if entering else replace(sell(purpose=purpose, quantity=quantity), kind=kind)
    orders = [replace(as_resting(n, AAA, side, size), filled_quantity=min(done, size))
              for n, (side, size, done) in enumerate(claims)]  # fmt: skip
    seen = Book(now=NOW, positions={AAA: held}, open_orders=orders, operator_close=operator,
                locked={} if locked is None else {AAA: locked})  # fmt: skip
    answer = decide(intent, seen, limits())
    if isinstance(answer, Approved) and answer.despite_halt:
        free = held - sum(o.quantity - o.filled_quantity for o in orders if o.side is Side.SELL)
        assert operator and intent.side is Side.SELL and intent.purpose is Purpose.CLOSE
        assert 0 < intent.quantity <= free <= held
    elif not entering and purpose is Purpose.CLOSE:
        assert not isinstance(answer, Approved), "a close that is approved passes the halt, or it is refused"


def test_B37_B39_what_could_not_be_done_is_in_the_answer_of_the_command(
    here: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here.buy("AAA")
    stuck = CloseResult(CancelResult(("a",), {"b": "UNPROCESSABLE"}, ("b",)), (), {AAA: "1"}, ("kobe-x",))
    monkeypatch.setattr("execution.emergency.close_all", lambda *a, **k: stuck)
    assert close_script.main(["--confirm"]) == Exit.NO
    out = capsys.readouterr().out
    assert "still held: AAA 1" in out and "not cancelled b: UNPROCESSABLE" in out and "still open: kobe-x" in out
