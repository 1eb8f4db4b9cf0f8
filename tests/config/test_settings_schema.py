"""The schema itself: every key is documented, bounded, and tells its unit."""

from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic import ValidationError

from config.settings_schema import Execution, PolicyGate, Selection, Settings, TopN, Weights, leaf_types


def test_every_number_is_bounded() -> None:
    """A limit without bounds accepts a typo of three zeros, or an infinity."""
    unbounded = [
        path
        for path, info in leaf_types().items()
        if info.annotation in (int, float, Decimal)
        and not any(hasattr(rule, "gt") or hasattr(rule, "ge") for rule in info.metadata)
    ]
    assert unbounded == []


def test_sections_can_be_built_in_code() -> None:
    assert TopN().n == 3
    assert PolicyGate(per_order_max_usd=Decimal(20)).daily_budget_usd == 1000
    assert Selection(mode="top_n", top_n=TopN(enabled=True)).top_n.enabled


@pytest.mark.parametrize("value", ["75", True, float("nan"), Decimal("inf"), None, [75]])
def test_money_must_be_a_finite_number(value: object) -> None:
    with pytest.raises(ValidationError):
        PolicyGate.model_validate({"per_order_max_usd": value})


@pytest.mark.parametrize(("model", "valid"), [(20.0, True), (20.001, False), (19.999, False)])
def test_weights_sum_to_100(model: float, valid: bool) -> None:
    if valid:
        Weights(model=model)
    else:
        with pytest.raises(ValidationError, match="sum to 100"):
            Weights(model=model)


@pytest.mark.parametrize(
    ("ticks", "said"),
    [
        ([], "at least 1 item"),
        ([{"effective": "2005-01-01", "min_price": 0, "tick": 0.01}], "valid date"),
    ],
)
def test_the_tick_table_must_be_usable(ticks: object, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Execution.model_validate({"ticks": ticks})


def test_every_price_must_have_a_tick_and_only_one() -> None:
    rows = Execution().ticks
    with pytest.raises(ValidationError, match="min_price 0"):
        Execution(ticks=rows[:1])
    with pytest.raises(ValidationError, match="two rows"):
        Execution(ticks=(*rows, rows[1]))


def test_the_json_form_loads_again() -> None:
    dumped = Settings().model_dump(mode="json")
    assert dumped["risk"]["policy_gate"]["per_order_max_usd"] == 75
    assert dumped["execution"]["ticks"][1]["tick"] == 0.0001
