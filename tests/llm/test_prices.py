"""Prices: what is asked by name and day, what it costs by hand, and that no price means none."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config.settings_schema import LlmPrice, LlmPrices, Settings
from llm.prices import PriceTable, Usage, usage_from

DAY = date(2026, 11, 24)
PRICES = Settings().cognitive.llm_analyzer.prices


def row(model: str = "m", effective: str = "2026-01-01", above: int = 0, usd: int = 1, **more: Any) -> LlmPrice:
    return LlmPrice(
        model=model, effective=date.fromisoformat(effective), above_tokens=above, input_usd=Decimal(usd),
        output_usd=Decimal(5 * usd), write_5m_usd=Decimal("1.25") * usd, write_1h_usd=Decimal(2) * usd,
        read_usd=Decimal("0.1") * usd, **more,
    )  # fmt: skip


def table(*rows: LlmPrice, **more: Any) -> PriceTable:
    return PriceTable(LlmPrices(rows=rows, **more))


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("claude-haiku-4-5", "claude-haiku-4-5"), ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"), ("claude-sonnet-4-20250514", None),
        ("claude-haiku-4-5-2025100", None), ("claude-haiku-4", None), ("claude-fable-5-2", None), ("", None),
    ],
)  # fmt: skip
def test_a_dated_id_means_its_model_and_an_unknown_one_none(name: str, model: str | None) -> None:
    assert PriceTable(PRICES).model_of(name) == model
    assert (PriceTable(PRICES).price(name, DAY) is None) is (model is None)


def test_an_alias_means_its_model_with_a_date_behind_it_too() -> None:
    priced = table(row(aliases=("house", "house-latest")))
    assert priced.model_of("house") == priced.model_of("house-20260101") == priced.model_of("house-latest") == "m"


def test_the_newest_row_in_force_counts_and_before_the_first_there_is_none() -> None:
    priced = table(row(usd=1, effective="2026-01-01"), row(usd=3, effective="2026-02-01"))
    usage = Usage(input_tokens=1_000_000, output_tokens=0)
    days = {"2025-12-31": None, "2026-01-01": 1, "2026-01-31": 1, "2026-02-01": 3}
    for day, usd in days.items():
        price = priced.price("m", date.fromisoformat(day))
        assert (None if price is None else price.cost_usd(usage)) == usd


def test_around_a_change_the_worst_case_is_that_of_the_dearer_day() -> None:
    priced = table(
        row(usd=1, effective="2026-01-01"), row(usd=3, effective="2026-02-01"), row(usd=2, effective="2026-03-01")
    )
    worst = [priced.worst_usd("m", date(2026, 1, 30) + timedelta(days=n), 10**6, 0) for n in range(3)]
    assert worst == [2, 6, 6]  # of a million tokens, all of them a one-hour write
    assert priced.worst_usd("m", date(2026, 3, 1), 10**6, 0) == 6
    assert priced.worst_usd("m", date(2026, 3, 2), 10**6, 0) == 4
    assert priced.worst_usd("m", date(2025, 12, 31), 1, 1) is None


def test_by_hand_with_every_kind_of_token_rounded_up() -> None:
    price = PriceTable(PRICES).price("claude-sonnet-4-5", DAY)
    assert price is not None
    usage = Usage(input_tokens=406, output_tokens=50, write_5m_tokens=1000, write_1h_tokens=100, read_tokens=2000)
    assert price.cost_usd(usage) == Decimal("0.006918")  # 406*3 + 50*15 + 1000*3.75 + 100*6 + 2000*0.3 = 6918
    assert price.cost_usd(Usage(input_tokens=0, output_tokens=0, read_tokens=1)) == Decimal("0.000001")


@pytest.mark.parametrize(("tokens", "usd"), [(100_000, "0.010000"), (100_001, "0.050001")])
def test_the_dearer_band_holds_for_the_whole_request(tokens: int, usd: str) -> None:
    price = PriceTable(PRICES).price("claude-haiku-5-5", DAY)
    assert price is not None
    assert price.cost_usd(Usage(input_tokens=tokens, output_tokens=0)) == Decimal(usd)
    cached = price.cost_usd(Usage(input_tokens=0, output_tokens=0, read_tokens=tokens))
    assert cached == {100_000: Decimal("0.001000"), 100_001: Decimal("0.005001")}[tokens], "cached tokens count too"


@given(st.integers(0, 300_000), st.integers(0, 50_000), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_no_call_costs_more_than_its_worst_case(most_in: int, most_out: int, shares: list[float]) -> None:
    """Whatever is cached, however much less is used, in every band of every model."""
    cut = sorted(int(share * most_in) for share in shares[:3])
    usage = Usage(
        input_tokens=cut[0], write_5m_tokens=cut[1] - cut[0], write_1h_tokens=cut[2] - cut[1],
        read_tokens=int(shares[3] * (most_in - cut[2])), output_tokens=int(shares[3] * most_out),
    )  # fmt: skip
    for model in {one.model for one in PRICES.rows}:
        price = PriceTable(PRICES).price(model, DAY)
        assert price is not None
        assert price.cost_usd(usage) <= price.worst_usd(most_in, most_out)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"input_tokens": 1, "output_tokens": 2}, Usage(input_tokens=1, output_tokens=2)),
        ({"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": None, "cache_creation": None},
         Usage(input_tokens=1, output_tokens=2)),
        ({"input_tokens": 1, "output_tokens": 2, "cache_creation_input_tokens": 9, "cache_read_input_tokens": 4},
         Usage(input_tokens=1, output_tokens=2, write_5m_tokens=9, read_tokens=4)),
        ({"input_tokens": 1, "output_tokens": 2, "cache_creation_input_tokens": 9,
          "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 6}},
         Usage(input_tokens=1, output_tokens=2, write_5m_tokens=3, write_1h_tokens=6)),
        (None, None), ({}, None), ([], None), ({"input_tokens": 1}, None), ({"output_tokens": 1}, None),
        ({"input_tokens": -1, "output_tokens": 2}, None), ({"input_tokens": "1", "output_tokens": 2}, None),
        ({"input_tokens": True, "output_tokens": 2}, None), ({"input_tokens": 1.5, "output_tokens": 2}, None),
        ({"input_tokens": 1, "output_tokens": 2, "cache_creation": "x"}, None),
        ({"input_tokens": 10**12, "output_tokens": 2}, None),
    ],
)  # fmt: skip
def test_usage_as_real_replies_tell_it(said: Any, found: Usage | None) -> None:
    assert usage_from(said) == found


@pytest.mark.parametrize(("age", "old"), [(45, False), (46, True)])
def test_an_old_table_is_told(age: int, old: bool) -> None:
    assert PriceTable(PRICES).is_old(PRICES.as_of + timedelta(days=age)) is old


@pytest.mark.parametrize(
    "rows",
    [
        (row(), row()), (row(aliases=("x",)), row(model="n", aliases=("x",))), (row(), row(model="n", aliases=("m",))),
        (row(above=100),), (row(), row(effective="2026-02-01", above=100)),
    ],
    ids=["twice", "alias of two", "alias is a model", "no first band", "no first band on that day"],
)  # fmt: skip
def test_a_table_that_could_mean_two_things_is_refused(rows: tuple[LlmPrice, ...]) -> None:
    with pytest.raises(ValidationError):
        LlmPrices(rows=rows)
