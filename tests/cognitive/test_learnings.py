"""Conditions, the smallest shrink, and a book that is the journal's."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from cognitive.learnings import (
    Condition,
    Evidence,
    Learning,
    LearningBook,
    Status,
    from_json,
    to_json,
)
from tests.fakes.minds import START

LOW_TREND = Condition(strategy="ibs_rsi", feature="trend", op="<=", threshold=0.04)
STRESSED = Condition(strategy="ibs_rsi", regime="stressed")
EVIDENCE = Evidence(n=30, rest=60, mean_r=-0.5, effect_r=-0.8, low=-1.3, high=-0.3, p=0.001, p_adjusted=0.004, tried=4)


def proposed(number: int = 1, condition: Condition = LOW_TREND) -> dict[str, Any]:
    return {"id": f"L{number:03d}", "number": number, "condition": asdict(condition), "since": START.isoformat(),
            "found": asdict(EVIDENCE), "says": str(condition)}  # fmt: skip


def told(kind: str, number: int = 1, **changes: Any) -> tuple[str, dict[str, Any]]:
    body = {"id": f"L{number:03d}", "since": (START + timedelta(days=9)).isoformat(), "held": asdict(EVIDENCE)}
    return kind, {**body, **changes}


def book(*records: tuple[str, dict[str, Any]]) -> LearningBook:
    found = LearningBook()
    for kind, body in records:
        found = found.after(kind, json.loads(json.dumps(body)))
    return found


def adopted(number: int, condition: Condition, shrink: str) -> Learning:
    found = book(("learning_proposed", proposed(number, condition)), told("learning_adopted", number, shrink=shrink))
    return found.adopted[0]


@pytest.mark.parametrize(
    ("condition", "features", "strategy", "regime", "says"),
    [
        (LOW_TREND, {"trend": 0.04}, "ibs_rsi", "calm", True), (LOW_TREND, {"trend": 0.0401}, "ibs_rsi", "calm", False),
        (LOW_TREND, {}, "ibs_rsi", "calm", None), (LOW_TREND, {}, "turtle_soup", "calm", False),
        (replace(LOW_TREND, op=">="), {"trend": 0.04}, "ibs_rsi", "calm", True),
        (replace(LOW_TREND, op=">="), {"trend": 0.0399}, "ibs_rsi", "calm", False),
        (STRESSED, {}, "ibs_rsi", "stressed", True), (STRESSED, {}, "ibs_rsi", "calm", False),
        (STRESSED, {}, "ibs_rsi", "unknown", None), (STRESSED, {}, "turtle_soup", "unknown", False),
        (Condition(), {}, "any", "unknown", True),
    ],
)  # fmt: skip
def test_a_condition_is_met_not_met_or_not_known(
    condition: Condition, features: dict[str, float], strategy: str, regime: str, says: bool | None
) -> None:
    assert condition.matches(features, strategy, regime) is says


def test_what_is_not_known_counts_as_met() -> None:
    learning = adopted(1, LOW_TREND, "0.6")
    assert learning.applies({"close": 10.2, "sma": 10.0}, "ibs_rsi", "calm")
    assert not learning.applies({"close": 12.0, "sma": 10.0}, "ibs_rsi", "calm")
    assert learning.applies({}, "ibs_rsi", "calm") and not learning.applies({}, "turtle_soup", "calm")


@pytest.mark.parametrize(
    "parts", [{"feature": "trend"}, {"feature": "trend", "op": "<="}, {"op": "<=", "threshold": 1.0},
              {"feature": "trend", "op": "<", "threshold": 1.0},
              {"feature": "trend", "op": "<=", "threshold": float("nan")}]
)  # fmt: skip
def test_half_a_condition_is_none(parts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="condition"):
        Condition(**parts)


def test_the_book_is_what_the_records_say() -> None:
    found = book(
        ("reflected", {"week": "2024-W01", "outcomes": 50, "tried": 70}), ("learning_proposed", proposed()),
        ("reflected", {"week": "2024-W02", "outcomes": 55, "tried": 72}), told("learning_adopted", shrink="0.7"),
        ("learning_proposed", proposed(2, STRESSED)), told("learning_retired", 2, code="NEVER_TESTED", held=None),
    )  # fmt: skip
    assert (found.week, found.looks, found.tried) == ("2024-W02", 2, 142)
    one, two = found.learnings["L001"], found.learnings["L002"]
    assert (one.status, one.shrink, one.n, one.effect_r, one.p_adjusted) == (Status.ADOPTED, Decimal("0.7"), 30, -0.8,
                                                                            0.004)  # fmt: skip
    assert (one.low, one.high, one.since, one.proposed_at) == (-1.3, -0.3, START + timedelta(days=9), START)
    assert (two.status, two.shrink, two.code, two.held) == (Status.RETIRED, Decimal(1), "NEVER_TESTED", None)
    gone = found.after(*told("learning_retired", code="NO_LONGER_HOLDS"))
    assert gone.adopted == () and gone.learnings["L001"].shrink == 1
    for learning in found.learnings.values():
        assert from_json(json.loads(json.dumps(to_json(learning)))) == learning
    assert str(one.condition) == "ibs_rsi with trend <= 0.04" and str(two.condition) == "ibs_rsi in regime stressed"


@pytest.mark.parametrize("shrink", ["1.01", "0", "-0.5", "NaN"])
def test_a_record_that_would_enlarge_or_veto_is_refused(shrink: str) -> None:
    with pytest.raises((ValueError, ArithmeticError)):
        book(("learning_proposed", proposed()), told("learning_adopted", shrink=shrink))


def test_a_record_about_nobody_or_of_no_known_kind_is_refused() -> None:
    with pytest.raises(KeyError):
        book(told("learning_adopted", 7, shrink="0.5"))
    with pytest.raises(ValueError, match="no learning"):
        book(("learning_proposed", proposed()), told("learning_doubled"))
