from __future__ import annotations

from decimal import Decimal

from core.domain import Breach
from execution.clamp import entry_limit, exit_limit
from tests.fakes.trading import TICKS, TODAY, quote


def test_entry_is_ask_plus_offset_rounded_down() -> None:
    assert entry_limit(quote(), 10, 50, TICKS, TODAY) == Decimal("50.05")
    assert entry_limit(quote(bid="50.00", ask="50.01", last="50.01"), 10, 50, TICKS, TODAY) == Decimal("50.06")


def test_entry_is_clamped_to_the_last_trade() -> None:
    assert entry_limit(quote(last="49.80"), 10, 50, TICKS, TODAY) == Decimal("50.04")
    refused = entry_limit(quote(last="49.70"), 10, 50, TICKS, TODAY)
    assert isinstance(refused, Breach) and refused.code == "CLAMP_BELOW_ASK"


def test_exit_is_bid_less_offset_clamped_and_rounded_up() -> None:
    assert exit_limit(quote(), 30, 50, TICKS, TODAY) == Decimal("49.85")
    assert exit_limit(quote(last=None), 30, 50, TICKS, TODAY) == Decimal("49.85")
    refused = exit_limit(quote(last="51.00"), 30, 50, TICKS, TODAY)
    assert isinstance(refused, Breach) and refused.code == "CLAMP_ABOVE_BID"


def test_an_empty_side_is_refused() -> None:
    for answer in (
        entry_limit(quote(ask=None), 10, 50, TICKS, TODAY),
        entry_limit(quote(last=None), 10, 50, TICKS, TODAY),
        exit_limit(quote(bid=None), 30, 50, TICKS, TODAY),
    ):
        assert isinstance(answer, Breach) and answer.code == "QUOTE_ONE_SIDED"
