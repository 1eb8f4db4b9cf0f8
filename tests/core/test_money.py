"""The tick grid, both sides of a dollar, and broker numbers read exactly."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain import Side
from core.money import TickRow, dec, tick_size, to_limit_price, to_stop_price

D = Decimal
ON = date(2024, 3, 5)
TABLE = (
    TickRow(date(2005, 1, 1), D("1.00"), D("0.01")),
    TickRow(date(2005, 1, 1), D("0"), D("0.0001")),
    TickRow(date(2030, 1, 1), D("1.00"), D("0.005")),
    TickRow(date(2030, 1, 1), D("0"), D("0.0001")),
)


@pytest.mark.parametrize(
    ("price", "on", "tick"),
    [("1.00", ON, "0.01"), ("0.9999", ON, "0.0001"), ("500", ON, "0.01"), ("1.00", date(2029, 12, 31), "0.01"),
     ("1.00", date(2030, 1, 1), "0.005"), ("0.99", date(2005, 1, 1), "0.0001")],
)  # fmt: skip
def test_the_table_in_force_that_day_decides(price: str, on: date, tick: str) -> None:
    assert tick_size(D(price), on, TABLE) == D(tick)


def test_without_a_row_there_is_no_price() -> None:
    for on, table in ((date(2004, 12, 31), TABLE), (ON, ()), (ON, TABLE[:1])):
        with pytest.raises(ValueError, match="tick"):
            tick_size(D("0.5"), on, table)


@pytest.mark.parametrize(
    ("x", "buy", "sell"),
    [("10.10", "10.10", "10.10"), ("10.1001", "10.10", "10.11"), ("10.1099", "10.10", "10.11"),
     ("1.005", "1.00", "1.01"),
     ("0.99995", "0.9999", "1.0000"), ("0.12345", "0.1234", "0.1235"), ("0.1234", "0.1234", "0.1234")],
)  # fmt: skip
def test_buys_round_down_and_sells_up(x: str, buy: str, sell: str) -> None:
    assert to_limit_price(D(x), Side.BUY, ON, TABLE) == D(buy)
    assert to_limit_price(D(x), Side.SELL, ON, TABLE) == D(sell)
    assert to_stop_price(D(x), ON, TABLE) == D(sell)


def test_floats_cross_here_and_show_as_money() -> None:
    assert str(to_limit_price(75.0, Side.BUY, ON, TABLE)) == "75.00"
    assert str(to_limit_price(np.float64(10.119), Side.BUY, ON, TABLE)) == "10.11"
    assert str(to_stop_price(np.float64(10.111), ON, TABLE)) == "10.12"


@pytest.mark.parametrize("x", [float("nan"), float("inf"), 0.0, -1.0, D("NaN"), D("0"), D("-1")])
def test_what_is_no_price_is_refused(x: float | Decimal) -> None:
    with pytest.raises(ValueError, match="price"):
        to_limit_price(x, Side.SELL, ON, TABLE)


def test_a_buy_that_rounds_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="rounds"):
        to_limit_price(D("0.00005"), Side.BUY, ON, TABLE)


@given(x=st.floats(0.001, 100_000))
def test_every_price_is_on_its_own_grid_and_within_a_tick(x: float) -> None:
    buy, sell = to_limit_price(x, Side.BUY, ON, TABLE), to_limit_price(x, Side.SELL, ON, TABLE)
    exact = D(repr(x))
    for price in (buy, sell):
        assert price % tick_size(price, ON, TABLE) == 0
    assert buy <= exact <= sell
    assert exact - buy < tick_size(exact, ON, TABLE) and sell - exact < tick_size(exact, ON, TABLE)


def test_rounding_into_a_coarser_band_lands_on_its_grid() -> None:
    table = (TickRow(ON, D("1.003"), D("0.05")), TickRow(ON, D("0"), D("0.001")))
    assert to_limit_price(D("1.0025"), Side.SELL, ON, table) == D("1.05")


@pytest.mark.parametrize(
    ("value", "exact"),
    [("10.10", "10.10"), (" 5 ", "5"), (7, "7"), (0.1, "0.1"), ("-3.5", "-3.5"), ("1e-3", "0.001"), (D("2.50"), "2.50"),
     (np.float64(0.1), "0.1"), ("0", "0")],
)  # fmt: skip
def test_dec_is_exact(value: object, exact: str) -> None:
    assert str(dec(value)) in (exact, str(D(exact)))


def test_absent_is_none_and_never_zero() -> None:
    assert dec(None) is None and dec("") is None


@pytest.mark.parametrize("value", ["NaN", "inf", "-Infinity", "1_000", "1,000", "abc", "٣", True, [], {}, float("nan"),
                                   float("inf"), D("sNaN"), " ", "0x10"])  # fmt: skip
def test_dec_refuses_what_is_no_number(value: object) -> None:
    with pytest.raises(ValueError, match=r"number|finite"):
        dec(value)
