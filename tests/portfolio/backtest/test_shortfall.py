"""Implementation shortfall: the parts add up to the total to the last digit, and each sign costs what it should."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfolio.backtest.shortfall import Executed, Shortfall, shortfall, total_usd

D = Decimal
PRICES = st.decimals(min_value=D("0.0001"), max_value=D("99999"), places=6)


@st.composite
def executed(draw: st.DrawFn) -> Executed:
    wanted = draw(st.integers(1, 10_000))
    filled = draw(st.integers(0, wanted))
    quoted = draw(st.booleans())
    return Executed(
        buys=draw(st.booleans()), wanted=wanted, filled=filled, decision=draw(PRICES),
        mid=draw(PRICES) if quoted else None, touch=draw(PRICES) if quoted else None,
        fill=draw(PRICES) / draw(st.integers(1, 7)) if filled else None, end=draw(PRICES),
        fees_usd=draw(st.decimals(min_value=0, max_value=100, places=6)),
    )  # fmt: skip


@given(st.lists(executed(), max_size=6))
def test_the_five_parts_add_up_to_perolds_total_exactly(decisions: list[Executed]) -> None:
    from decimal import localcontext

    with localcontext() as context:
        context.prec = 200
        expected = sum((total_usd(one) or D(0) for one in decisions), D(0))
    found = shortfall(decisions)
    assert found.total_usd == expected
    assert found.n == len(decisions) and found.unknown == 0


@given(executed())
def test_what_costs_a_buyer_is_what_a_seller_gains(one: Executed) -> None:
    from dataclasses import replace

    bought, sold = shortfall([replace(one, buys=True)]), shortfall([replace(one, buys=False)])
    for part in ("delay_usd", "spread_usd", "impact_usd", "missed_usd"):
        assert getattr(bought, part) == getattr(sold, part).copy_negate()
    assert bought.fees_usd == sold.fees_usd


def test_a_buy_by_hand() -> None:
    """100 decided at 10.00; quote 10.08/10.12; 60 filled at 10.15; the session ends at 10.50; fees 0.25."""
    one = Executed(
        buys=True, wanted=100, filled=60, decision=D(10), mid=D("10.10"), touch=D("10.12"), fill=D("10.15"),
        end=D("10.50"), fees_usd=D("0.25"),
    )  # fmt: skip
    assert shortfall([one]) == Shortfall(
        delay_usd=D("6.00"), spread_usd=D("1.20"), impact_usd=D("1.80"), fees_usd=D("0.25"), missed_usd=D("20.00"), n=1
    )
    assert shortfall([one]).total_usd == D("29.25")


def test_a_stop_that_slips_is_impact() -> None:
    one = Executed(buys=False, wanted=5, filled=5, decision=D(20), mid=None, touch=None, fill=D("19.5"), end=None)
    assert shortfall([one]) == Shortfall(impact_usd=D("2.5"), n=1)


@pytest.mark.parametrize(("filled", "fill", "end"), [(3, None, D(10)), (3, D(10), None), (0, None, None)])
def test_a_price_that_is_not_known_leaves_the_decision_out_and_says_so(
    filled: int, fill: Decimal | None, end: Decimal | None
) -> None:
    one = Executed(buys=True, wanted=5, filled=filled, decision=D(10), mid=D(10), touch=D(10), fill=fill, end=end)
    assert total_usd(one) is None
    assert shortfall([one]) == Shortfall(unknown=1)


@pytest.mark.parametrize("filled", [-1, 6])
def test_more_than_was_wanted_cannot_have_filled(filled: int) -> None:
    with pytest.raises(ValueError, match="cannot have filled"):
        shortfall(
            [Executed(buys=True, wanted=5, filled=filled, decision=D(1), mid=None, touch=None, fill=D(1), end=None)]
        )
