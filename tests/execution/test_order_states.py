from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from core.domain import Order, Side, Symbol
from execution.order_states import BY_STATUS, OrderState, classify, is_terminal, state_of, totals

ALPACA = [
    "new",
    "partially_filled",
    "filled",
    "done_for_day",
    "canceled",
    "expired",
    "replaced",
    "pending_cancel",
    "pending_replace",
    "accepted",
    "pending_new",
    "accepted_for_bidding",
    "stopped",
    "rejected",
    "suspended",
    "calculated",
    "held",
    "pending_review",
]


def test_b22_every_documented_status_is_mapped_and_only_five_end() -> None:
    assert set(BY_STATUS) == set(ALPACA)
    ended = {s for s in ALPACA if is_terminal(classify(s, 5, 5 if s == "filled" else 0))}
    assert ended == {"filled", "canceled", "expired", "replaced", "rejected"}


def test_b23_an_unseen_status_is_unknown_and_not_terminal() -> None:
    assert classify("brand_new_word", 5, 0) is OrderState.UNKNOWN
    assert not is_terminal(OrderState.UNKNOWN)


@pytest.mark.parametrize(
    ("status", "filled", "state"),
    [
        ("canceled", 0, OrderState.CANCELED),
        ("canceled", 2, OrderState.CANCELED),
        ("canceled", 5, OrderState.FILLED),
        ("expired", 5, OrderState.FILLED),
        ("filled", 4, OrderState.UNKNOWN),
        ("rejected", 1, OrderState.UNKNOWN),
        ("new", 1, OrderState.PARTIAL),
        ("pending_cancel", 5, OrderState.PARTIAL),
    ],
)
def test_b16_b19_filled_quantity_decides(status: str, filled: int, state: OrderState) -> None:
    assert classify(status, 5, filled) is state


def test_b19_one_share_is_a_complete_fill_like_five() -> None:
    assert classify("canceled", 1, 1) is OrderState.FILLED
    assert classify("canceled", 0, 0) is OrderState.CANCELED


def an_oco(status: str, leg_status: str, filled: int = 0, leg_filled: int = 0, quantity: int = 4) -> Order:
    leg = Order(
        id="2",
        client_order_id="l",
        symbol=Symbol("AAA"),
        side=Side.SELL,
        quantity=quantity,
        kind="stop",
        tif="gtc",
        filled_quantity=leg_filled,
        filled_price=Decimal(9) if leg_filled else None,
        status=leg_status,
    )
    return replace(
        leg,
        id="1",
        client_order_id="p",
        filled_quantity=filled,
        status=status,
        legs=(leg,),
        filled_price=Decimal(11) if filled else None,
    )


def test_an_oco_whose_stop_filled_is_filled_at_the_stops_price() -> None:
    order = an_oco("canceled", "filled", leg_filled=4)
    assert (state_of(order), totals(order)) == (OrderState.FILLED, (4, Decimal(9)))


def test_an_oco_is_over_only_when_both_parts_are() -> None:
    assert state_of(an_oco("new", "held")) is OrderState.OPEN
    assert state_of(an_oco("canceled", "held")) is OrderState.OPEN
    assert state_of(an_oco("canceled", "canceled")) is OrderState.CANCELED
    assert totals(an_oco("new", "new", 2, 2)) == (4, Decimal(10))


@pytest.mark.parametrize(
    ("status", "filled", "state"),
    [
        ("new", 4, OrderState.PARTIAL),  # its end is told by its status
        ("rejected", 4, OrderState.UNKNOWN),
        ("teleported", 2, OrderState.UNKNOWN),
        ("canceled", 2, OrderState.CANCELED),
    ],
)
def test_an_order_without_legs_is_what_its_own_words_say(status: str, filled: int, state: OrderState) -> None:
    assert state_of(replace(an_oco(status, "held", filled), legs=())) is state


def test_an_oco_of_one_share_is_filled_by_one() -> None:
    assert state_of(an_oco("canceled", "filled", leg_filled=1, quantity=1)) is OrderState.FILLED


def test_an_oco_that_is_not_over_is_partial_open_or_what_its_target_says() -> None:
    assert state_of(an_oco("canceled", "held", filled=2)) is OrderState.PARTIAL
    assert state_of(an_oco("new", "canceled", leg_filled=2)) is OrderState.PARTIAL, "the target may fill still"
    assert state_of(an_oco("accepted", "held")) is OrderState.PENDING
    assert state_of(an_oco("teleported", "held")) is OrderState.UNKNOWN
    order = an_oco("canceled", "canceled")
    two = replace(order, legs=(*order.legs, replace(order.legs[0], status="held")))
    assert state_of(two) is OrderState.OPEN, "one of its legs still rests"


def test_a_fill_without_a_price_has_no_average() -> None:
    order = an_oco("canceled", "canceled", filled=1, leg_filled=2)
    assert totals(order) == (3, Decimal(29) / 3)
    assert totals(replace(order, filled_price=None)) == (3, None)
    assert totals(replace(order, filled_price=None, legs=())) == (1, None)
    assert totals(replace(order, filled_quantity=0, filled_price=None)) == (2, Decimal(9)), "nothing of it has a price"
