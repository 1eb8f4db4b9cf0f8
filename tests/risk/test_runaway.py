"""The last net: what leaves is what was intended, once, and within the ceilings; every bound from both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.settings_schema import Settings
from core.domain import OrderIntent, OrderKind, Purpose, Side, Symbol, Tif
from execution.alpaca_broker import order_body
from execution.ledger import intent_body
from risk.runaway import OWN_FAULT, Bounds, Ceilings, Register, runaway_breach
from tests.fakes.trading import NOW, entry, sell

ROOMY = Bounds(ceilings=Ceilings(per_minute=30, per_day=300), minute_usd=Decimal("1000"), day_usd=Decimal("1000"))


class Book:
    """A register, and a journal that only counts."""

    def __init__(self, **changes: Any) -> None:
        self.register = Register(replace(ROOMY, **changes))
        self.seq = 0
        self.now = NOW

    def tell(self, kind: str, body: Mapping[str, Any]) -> None:
        self.seq += 1
        self.register.add(self.seq, self.now, kind, body)

    def intend(self, intent: OrderIntent) -> OrderIntent:
        self.tell("order_intended", intent_body(intent))
        return intent

    def say(self, kind: str, intent: OrderIntent, **body: Any) -> None:
        self.tell(kind, {"client_order_id": intent.client_order_id, **body})

    def code(self, intent: OrderIntent, *, despite_halt: bool = False, **changes: Any) -> str | None:
        breach = self.register.breach({**order_body(intent), **changes}, self.now, despite_halt=despite_halt)
        return None if breach is None else breach.code

    def send(self, intent: OrderIntent) -> str | None:
        code = self.code(intent)
        if code is None:
            self.register.took(intent.client_order_id)
        return code

    def fill(self, intent: OrderIntent, quantity: int, price: str = "50.00") -> None:
        self.say("order_closed", intent, filled_quantity=quantity, filled_price=price, status="filled")


def of(symbol: str, attempt: int = 1, quantity: int = 1) -> OrderIntent:
    return entry(symbol, attempt=attempt, quantity=quantity)


# ---------------------------------------------------------------- orders out, intents in
def test_one_intent_lets_one_order_out() -> None:
    book = Book()
    intent = entry()
    assert book.code(intent) == "RUNAWAY_NO_INTENT"
    book.intend(intent)
    assert book.send(intent) is None
    assert book.send(intent) == "RUNAWAY_TWICE"
    book.intend(intent)
    assert book.send(intent) == "RUNAWAY_TWICE", "a second record of the same intent is no second order"


@pytest.mark.parametrize("kind", ["order_acknowledged", "order_unknown", "order_rejected"])
def test_what_has_reached_the_broker_never_leaves_again(kind: str) -> None:
    book = Book()
    intent = book.intend(entry())
    book.say(kind, intent)
    assert book.send(intent) == "INTENT_TAKEN"
    book.intend(intent)
    assert book.send(intent) == "INTENT_TAKEN"


def test_what_another_process_has_given_up_with_proof_does_not_leave_any_more() -> None:
    """Intended here, then a pause; meanwhile a reconcile found that the broker has no such order, and said so."""
    book = Book()
    intent = book.intend(entry())
    book.say("order_not_sent", intent)
    assert book.send(intent) == "INTENT_GIVEN_UP"
    assert "INTENT_GIVEN_UP" not in OWN_FAULT and "INTENT_TAKEN" not in OWN_FAULT, "nobody's mistake: no trip"


def test_proved_not_sent_and_intended_again_may_leave_again() -> None:
    book = Book()
    intent = book.intend(entry())
    assert book.send(intent) is None
    book.say("order_not_sent", intent)
    assert book.send(intent) == "INTENT_GIVEN_UP", "proved not sent, but not intended again"
    book.intend(intent)
    assert book.send(intent) is None and book.send(intent) == "RUNAWAY_TWICE"


def test_intents_of_an_earlier_life_let_nothing_out() -> None:
    book = Book()
    intent = book.intend(entry())
    book.register.open_from = book.seq
    assert book.send(intent) == "RUNAWAY_NO_INTENT"
    other = book.intend(of("BBB"))
    assert book.send(other) is None


def test_only_what_no_honest_day_brings_is_our_own_fault() -> None:
    book = Book(minute_usd=Decimal("400"), day_usd=Decimal("500"), ceilings=Ceilings(per_minute=4, per_day=5))
    intent = entry()
    faults = [book.code(intent, notional="1"), book.code(intent)]
    book.intend(intent)
    faults.append(book.code(intent, qty="2"))
    book.register.took(intent.client_order_id)
    faults += [book.code(intent), book.code(book.intend(of("AAA", 2)))]
    assert faults == ["RUNAWAY_BODY", "RUNAWAY_NO_INTENT", "RUNAWAY_DIFFERS", "RUNAWAY_TWICE", "RUNAWAY_CHILDREN"]
    assert set(faults) == OWN_FAULT
    large = book.code(book.intend(of("BBB", quantity=7)))
    book.intend(of("CCC"))
    many = book.code(book.intend(of("DDD")))
    assert (large, many) == ("RUNAWAY_MINUTE_USD", "RUNAWAY_MINUTE") and not {large, many} & OWN_FAULT


INTENTS = {
    "limit": entry(quantity=2),
    "market": sell(purpose=Purpose.CLOSE),
    "stop": OrderIntent(
        decision_id="d", symbol=Symbol("AAA"), side=Side.SELL, quantity=3, purpose=Purpose.PROTECT,
        kind=OrderKind.STOP, tif=Tif.GTC, decided_at=NOW, strategy="s", signal_session=NOW.date(),
        stop_price=Decimal("45.00"),
    ),
    "oco": OrderIntent(
        decision_id="d", symbol=Symbol("AAA"), side=Side.SELL, quantity=3, purpose=Purpose.PROTECT,
        kind=OrderKind.OCO, tif=Tif.GTC, decided_at=NOW, strategy="s", signal_session=NOW.date(),
        stop_price=Decimal("45.00"), limit_price=Decimal("55.00"), attempt=2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(INTENTS))
def test_every_shape_of_order_passes_as_it_was_intended(name: str) -> None:
    book = Book()
    assert book.send(book.intend(INTENTS[name])) is None


@pytest.mark.parametrize("name", sorted(INTENTS))
@pytest.mark.parametrize(
    "change",
    [
        {"qty": "4"}, {"qty": "1.5"}, {"side": "sell_short"}, {"symbol": "BBB"}, {"time_in_force": "opg"},
        {"type": "trailing_stop"}, {"limit_price": "1.00"}, {"stop_price": "1.00"},
        {"take_profit": {"limit_price": "1"}, "stop_loss": {"stop_price": "1"}, "order_class": "oco"},
    ],
    ids=str,
)  # fmt: skip
def test_an_order_that_differs_from_its_intent_does_not_leave(name: str, change: dict[str, Any]) -> None:
    book = Book()
    intent = book.intend(INTENTS[name])
    oco = name == "oco"
    another_shape = set(change) & {"type", "limit_price", "stop_price"} if oco else "take_profit" in change
    assert book.code(intent, **change) == ("RUNAWAY_BODY" if another_shape else "RUNAWAY_DIFFERS")
    assert book.code(intent) is None


@pytest.mark.parametrize(
    "change",
    [
        {"notional": "5000"}, {"extended_hours": True}, {"qty": None}, {"qty": "many"}, {"client_order_id": None},
        {"client_order_id": 7}, {"order_class": "bracket"}, {"order_class": "oco"}, {"take_profit": {}},
        {"stop_loss": {}}, {"symbol": ..., "qty": "many"}, {"limit_price": "many"}, {"time_in_force": ...},
    ],
    ids=str,
)  # fmt: skip
def test_a_body_that_is_not_read_to_its_last_field_does_not_leave(change: dict[str, Any]) -> None:
    book = Book()
    intent = book.intend(entry())
    body = {name: value for name, value in {**order_body(intent), **change}.items() if value is not ...}
    for odd in (body, {}, {"qty": "1"}, {"client_order_id": intent.client_order_id}):
        found = book.register.breach(odd, NOW)
        assert found is not None and found.code == "RUNAWAY_BODY"
    assert book.code(intent, qty="NaN") == "RUNAWAY_DIFFERS"


@pytest.mark.parametrize(
    "change",
    [
        {"take_profit": {}}, {"stop_loss": {}}, {"take_profit": {"limit_price": "55.00", "x": "1"}},
        {"stop_loss": {"stop_price": "45.00", "limit_price": "44.00"}}, {"take_profit": None}, {"stop_loss": "45.00"},
        {"limit_price": "55.00"}, {"stop_price": "45.00"}, {"order_class": "bracket"}, {"order_class": ...},
        {"type": "market"},
    ],
    ids=str,
)  # fmt: skip
def test_an_oco_with_more_or_less_than_its_two_prices_does_not_leave(change: dict[str, Any]) -> None:
    book = Book()
    intent = book.intend(INTENTS["oco"])
    body = {name: value for name, value in {**order_body(intent), **change}.items() if value is not ...}
    found = book.register.breach(body, NOW)
    assert found is not None and found.code == "RUNAWAY_BODY"


def test_a_price_is_compared_as_a_number() -> None:
    book = Book()
    intent = book.intend(entry(price="50.10"))
    assert book.code(intent, limit_price="50.1") is None
    assert book.code(intent, limit_price="50.11") == "RUNAWAY_DIFFERS"


# ---------------------------------------------------------------- children and parents
def test_a_decision_buys_at_most_what_its_largest_order_wanted() -> None:
    book = Book()
    first = book.intend(of("AAA", 1, 3))
    assert book.send(first) is None
    child = book.intend(of("AAA", 2, 1))
    assert book.send(child) == "RUNAWAY_CHILDREN", "the first may still fill whole"
    book.say("order_not_sent", child)
    book.fill(first, 2)
    rest = book.intend(of("AAA", 3, 1))
    assert book.send(rest) is None, "2 of 3 filled, 1 left"
    book.fill(rest, 1)
    assert book.send(book.intend(of("AAA", 4, 1))) == "RUNAWAY_CHILDREN"


def test_an_order_that_filled_nothing_may_be_tried_again_with_more_shares() -> None:
    book = Book()
    first = book.intend(of("AAA", 1, 1))
    assert book.send(first) is None
    book.fill(first, 0)
    assert book.send(book.intend(of("AAA", 2, 2))) is None


@pytest.mark.parametrize(
    ("later", "code"), [(timedelta(days=3), "RUNAWAY_CHILDREN"), (timedelta(days=3, seconds=1), None)]
)
def test_what_a_decision_bought_is_remembered_for_three_days(later: timedelta, code: str | None) -> None:
    book = Book()
    first = book.intend(of("AAA"))
    assert book.send(first) is None
    book.fill(first, 1)
    open_end = book.intend(of("BBB"))
    assert book.send(open_end) is None
    book.now += timedelta(days=1)
    assert book.send(book.intend(of("CCC"))) is None, "the first intent of another day"
    book.now = NOW + later
    assert book.send(book.intend(of("AAA", 2))) == code
    assert book.send(book.intend(of("BBB", 2))) == "RUNAWAY_CHILDREN", "what has no end is never forgotten"


def test_other_decisions_and_exits_are_no_children() -> None:
    book = Book()
    assert book.send(book.intend(of("AAA"))) is None
    assert book.send(book.intend(of("BBB"))) is None
    assert book.send(book.intend(sell(quantity=5))) is None and book.send(book.intend(sell(attempt=2))) is None


def test_a_second_entry_is_no_child_of_what_the_first_one_sold() -> None:
    book = Book()
    book.fill(book.intend(of("AAA")), 0)
    assert book.send(book.intend(sell(quantity=5))) is None
    assert book.send(book.intend(of("AAA", 2))) is None


# ---------------------------------------------------------------- ceilings
@pytest.mark.parametrize(("count", "code"), [(30, None), (31, "RUNAWAY_MINUTE")])
def test_entries_per_minute_at_the_ceiling_and_one_over(count: int, code: str | None) -> None:
    book = Book(minute_usd=Decimal(10**9), day_usd=Decimal(10**9))
    for number in range(count - 1):
        assert book.send(book.intend(of(f"A{number}"))) is None
    assert book.send(book.intend(of("LAST"))) == code


def test_exits_have_four_times_the_room_and_the_liquidation_has_no_ceiling() -> None:
    book = Book(ceilings=Ceilings(per_minute=2, per_day=9))
    for number in range(1, 9):
        assert book.send(book.intend(sell(attempt=number))) is None
    assert book.send(book.intend(sell(attempt=9))) == "RUNAWAY_MINUTE"
    for number in range(1, 40):
        assert book.send(book.intend(sell(purpose=Purpose.CLOSE, attempt=number))) is None


def test_orders_per_day_and_a_window_that_rolls() -> None:
    book = Book(ceilings=Ceilings(per_minute=2, per_day=3), minute_usd=Decimal(10**9), day_usd=Decimal(10**9))
    for number in range(3):
        book.now += timedelta(minutes=2)
        assert book.send(book.intend(of(f"A{number}"))) is None
    book.now += timedelta(minutes=2)
    assert book.send(book.intend(of("DAY"))) == "RUNAWAY_DAY"
    book.now += timedelta(days=1)
    assert book.send(book.intend(of("NEXT"))) is None


def test_what_another_process_intends_later_has_its_own_turn() -> None:
    book = Book(ceilings=Ceilings(per_minute=1, per_day=9))
    mine = book.intend(of("AAA"))
    book.intend(of("BBB"))
    assert book.code(of("BBB")) == "RUNAWAY_MINUTE"
    assert book.send(mine) is None


@pytest.mark.parametrize(("usd", "code"), [("100.20", None), ("100.19", "RUNAWAY_MINUTE_USD")])
def test_notional_per_minute_at_the_ceiling_and_one_cent_under_what_is_sent(usd: str, code: str | None) -> None:
    book = Book(minute_usd=Decimal(usd))
    first = book.intend(of("AAA"))
    assert book.send(first) is None
    book.fill(first, 0)  # the message was sent all the same
    assert book.send(book.intend(of("BBB"))) == code
    book.now += timedelta(seconds=60)
    assert book.send(book.intend(of("CCC"))) is None


def test_a_sell_costs_nothing_of_the_notional_and_no_ceiling_of_it_keeps_one() -> None:
    book = Book(minute_usd=Decimal("50.10"), day_usd=Decimal("50.10"))
    assert book.send(book.intend(sell("ZZZ", quantity=3))) is None
    assert book.send(book.intend(of("AAA"))) is None, "what was sold before it counts for nothing"
    assert book.send(book.intend(of("BBB"))) == "RUNAWAY_MINUTE_USD"
    assert book.send(book.intend(sell(quantity=3))) is None


@pytest.mark.parametrize(("usd", "code"), [("200.40", None), ("200.39", "RUNAWAY_MINUTE_USD")])
def test_notional_is_shares_times_limit(usd: str, code: str | None) -> None:
    book = Book(minute_usd=Decimal(usd))
    assert book.send(book.intend(of("AAA", quantity=3))) is None
    assert book.send(book.intend(of("BBB"))) == code


def test_what_becomes_of_an_order_that_nobody_intended_here_is_no_matter_of_ours() -> None:
    book = Book()
    for kind in ("order_acknowledged", "order_rejected", "order_not_sent", "order_closed"):
        book.say(kind, of("OLD"))
    assert book.code(of("OLD")) == "RUNAWAY_NO_INTENT"


def test_what_was_proved_not_sent_counts_for_no_notional() -> None:
    book = Book(minute_usd=Decimal("60"), day_usd=Decimal("60"))
    for symbol in ("AAA", "BBB", "CCC"):
        intent = book.intend(of(symbol))
        assert book.send(intent) is None
        book.say("order_not_sent", intent)


@pytest.mark.parametrize(("usd", "code"), [("100.20", None), ("100.19", "RUNAWAY_DAY_USD")])
def test_notional_per_day_counts_what_is_possible(usd: str, code: str | None) -> None:
    book = Book(day_usd=Decimal(usd))
    assert book.send(book.intend(of("AAA"))) is None
    book.now += timedelta(hours=1)
    assert book.send(book.intend(of("BBB"))) == code


def test_notional_per_day_counts_fills_at_their_price_and_begins_again_with_the_new_york_day() -> None:
    book = Book(day_usd=Decimal("100.10"))
    first = book.intend(of("AAA"))
    assert book.send(first) is None
    book.fill(first, 1, "50.00")  # cheaper than its limit of 50.10
    assert book.send(book.intend(of("BBB"))) is None
    assert book.send(book.intend(of("CCC"))) == "RUNAWAY_DAY_USD"
    book.fill(of("BBB"), 0)
    book.say("order_not_sent", of("CCC"))
    assert book.send(book.intend(of("DDD"))) is None
    book.now = datetime(2024, 3, 6, 4, 59, tzinfo=NOW.tzinfo)  # one minute before midnight in New York
    assert book.send(book.intend(of("EEE"))) == "RUNAWAY_DAY_USD"
    book.say("order_not_sent", of("EEE"))
    book.fill(of("DDD"), 0)
    book.now += timedelta(minutes=1)
    for symbol in ("FFF", "GGG"):
        assert book.send(book.intend(of(symbol))) == (None if symbol == "FFF" else "RUNAWAY_DAY_USD")


def test_a_count_that_goes_down_and_a_price_that_nobody_told_are_the_careful_ones() -> None:
    book = Book(day_usd=Decimal("200.35"))
    first = book.intend(of("AAA", quantity=3))
    assert book.send(first) is None
    book.say("order_filled", first, quantity=2, price="50.00")
    book.say("order_filled", first, quantity=1, price="50.00")
    book.say("order_closed", first, filled_quantity=2)  # 100.00, whatever else is said of these two
    second = book.intend(of("BBB"))
    assert book.send(second) is None
    book.say("order_filled", second, quantity=1)  # without a price: at its limit of 50.10
    book.say("order_closed", second)
    assert book.code(book.intend(entry("CCC", price="50.26"))) == "RUNAWAY_DAY_USD"
    assert book.send(book.intend(entry("DDD", price="50.25"))) == "RUNAWAY_DAY_USD", "CCC may be sent still"
    book.say("order_not_sent", entry("CCC"))
    assert book.send(entry("DDD", price="50.25")) is None
    market = book.intend(sell("AAA", purpose=Purpose.CLOSE))
    book.say("order_filled", market, quantity=1)  # neither limit nor price
    assert book.send(market) == "INTENT_TAKEN"


def test_yesterdays_order_without_an_end_still_counts_today() -> None:
    book = Book(day_usd=Decimal("100.19"))
    assert book.send(book.intend(of("AAA"))) is None
    book.now += timedelta(days=5)
    assert book.send(book.intend(of("BBB"))) == "RUNAWAY_DAY_USD"


def test_a_late_fill_counts_although_the_order_was_over() -> None:
    book = Book(day_usd=Decimal("100.19"))
    first = book.intend(of("AAA"))
    assert book.send(first) is None
    book.fill(first, 0)
    book.say("order_filled", first, quantity=1, price="50.10")
    assert book.send(book.intend(of("BBB"))) == "RUNAWAY_DAY_USD"


def test_without_a_ceiling_of_its_own_the_daily_budget_is_the_ceiling() -> None:
    plain = Bounds.from_settings(Settings())
    assert (plain.minute_usd, plain.day_usd) == (Decimal(2000), Decimal(1000))
    named = {"risk": {"runaway": {"notional_per_minute_usd": 80, "notional_per_day_usd": 90.5}}}
    chosen = Bounds.from_settings(Settings.model_validate(named))
    assert (chosen.minute_usd, chosen.day_usd) == (Decimal(80), Decimal("90.5"))


def test_a_ceiling_below_one_order_is_refused_naming_both() -> None:
    named = {"risk": {"runaway": {"notional_per_day_usd": 74.99}}}
    with pytest.raises(ValueError, match=r"notional_per_day_usd 74.99 is less than risk.policy_gate.per_order_max_usd"):
        Settings.model_validate(named)
    Settings.model_validate({"risk": {"runaway": {"notional_per_day_usd": 75}}})


# ---------------------------------------------------------------- the operator's door
def close_of(run: str, quantity: int = 1) -> OrderIntent:
    return replace(sell(purpose=Purpose.CLOSE, quantity=quantity), decision_id=f"close-{run}-AAA")


def test_only_an_open_door_of_the_same_run_passes_a_halt() -> None:
    book = Book()
    intent = book.intend(close_of("r1"))
    assert book.code(intent, despite_halt=True) == "OPERATOR_DOOR_CLOSED"
    book.tell("operator_close_opened", {"run": "r2"})
    assert book.code(intent, despite_halt=True) == "OPERATOR_DOOR_CLOSED"
    book.tell("operator_close_opened", {"run": "r1"})
    assert book.code(intent, despite_halt=True) is None
    book.tell("operator_close_ended", {"run": "r1"})
    assert book.code(intent, despite_halt=True) == "OPERATOR_DOOR_CLOSED"
    unasked = book.register.breach(order_body(intent), book.now)
    assert unasked is None, "without asking to pass a halt it is an order like any other"


def test_a_door_opened_before_this_process_is_closed() -> None:
    book = Book()
    book.register.open_from = 1
    book.tell("operator_close_opened", {"run": "r1"})
    assert book.code(book.intend(close_of("r1")), despite_halt=True) == "OPERATOR_DOOR_CLOSED"


@pytest.mark.parametrize("intent", [entry(), sell(), INTENTS["stop"]], ids=["entry", "exit", "stop"])
def test_nothing_but_the_liquidation_passes_the_door(intent: OrderIntent) -> None:
    book = Book()
    book.tell("operator_close_opened", {"run": "r1"})
    disguised = replace(intent, decision_id="close-r1-AAA")
    for shape in (intent, disguised):
        assert book.code(book.intend(shape), despite_halt=True) == "OPERATOR_DOOR_CLOSED"


def test_a_journal_that_calls_a_buy_a_liquidation_opens_no_door() -> None:
    book = Book()
    book.tell("operator_close_opened", {"run": "r1"})
    intent = close_of("r1")
    book.tell("order_intended", {**intent_body(intent), "side": "buy"})
    assert book.code(intent, side="buy", despite_halt=True) == "OPERATOR_DOOR_CLOSED"


# ---------------------------------------------------------------- properties
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["intend", "send", "not_sent", "ack", "fill", "minute"]),
        st.integers(0, 3),  # decision
        st.integers(1, 3),  # attempt
        st.integers(1, 4),  # shares
    ),
    max_size=60,
)


@given(_STEPS)
@settings(max_examples=150, deadline=None)
def test_whatever_happens_no_id_leaves_twice_no_child_exceeds_its_parent_and_no_day_its_budget(
    steps: list[tuple[str, int, int, int]],
) -> None:
    book = Book(day_usd=Decimal("500"), minute_usd=Decimal("300"), ceilings=Ceilings(per_minute=5, per_day=15))
    wanted: dict[str, OrderIntent] = {}
    may_be_out: dict[str, int] = {}  # id -> shares bought or possible, of orders that left
    for act, decision, attempt, shares in steps:
        intent = of(f"D{decision}", attempt, shares)
        cid = intent.client_order_id
        if act == "minute":
            book.now += timedelta(seconds=40)
        elif act == "intend":
            wanted.setdefault(cid, intent)
            book.intend(intent)
        elif cid not in wanted:
            assert book.code(intent) == "RUNAWAY_NO_INTENT"
        elif act == "send":
            if book.send(wanted[cid]) is None:
                assert cid not in may_be_out, "the same id left twice"
                may_be_out[cid] = wanted[cid].quantity
        elif act == "not_sent" and cid in may_be_out:
            book.say("order_not_sent", intent)
            del may_be_out[cid], wanted[cid]
        elif act == "ack" and cid in may_be_out:
            book.say("order_acknowledged", intent)
        elif act == "fill" and cid in may_be_out:
            may_be_out[cid] = min(shares, wanted[cid].quantity)
            book.fill(wanted[cid], may_be_out[cid], "50.10")
    for number in range(4):
        family = [cid for cid in wanted if f"-D{number}-" in cid]
        out = sum(may_be_out.get(cid, 0) for cid in family)
        assert out <= max((wanted[cid].quantity for cid in family), default=0)
    spent = sum((Decimal("50.10") * shares for shares in may_be_out.values()), Decimal(0))
    assert spent <= Decimal("500") and len(may_be_out) <= 15


def test_honest_days_are_never_stopped() -> None:
    """Ten entries of a whole day's budget, each with a stop and an exit: nothing of it meets a bound."""
    book = Book()
    for _ in range(40):
        book.now += timedelta(days=1)
        for number in range(13):
            name = f"S{number}D{book.now:%m%d}"
            intent = replace(entry(), decision_id=f"{name}", symbol=Symbol(f"S{number}"))
            assert book.send(book.intend(intent)) is None
            book.fill(intent, 1, "50.10")
            for purpose in (Purpose.PROTECT, Purpose.EXIT):
                leaving = replace(sell(), decision_id=name, purpose=purpose)
                assert book.send(book.intend(leaving)) is None
                book.fill(leaving, 1)
            book.now += timedelta(seconds=20)
    assert len(book.register._intents) < 300, "what is over for days is forgotten"


# ---------------------------------------------------------------- the gate's own ceilings
@pytest.mark.parametrize(("before", "code"), [(29, None), (30, "RUNAWAY_MINUTE")])
def test_the_gate_counts_the_last_minute(before: int, code: str | None) -> None:
    found = runaway_breach([NOW - timedelta(seconds=59)] * before, NOW, Ceilings())
    assert (None if found is None else found.code) == code
    assert found is None or (found.observed, found.limit) == ("31", "30")
    assert runaway_breach([NOW - timedelta(seconds=60)] * 99, NOW, Ceilings()) is None


@pytest.mark.parametrize(("before", "code"), [(299, None), (300, "RUNAWAY_DAY")])
def test_the_gate_counts_the_last_day(before: int, code: str | None) -> None:
    found = runaway_breach([NOW - timedelta(hours=23)] * before, NOW, Ceilings())
    assert (None if found is None else found.code) == code
    assert runaway_breach([NOW - timedelta(days=1)] * 999, NOW, Ceilings()) is None
