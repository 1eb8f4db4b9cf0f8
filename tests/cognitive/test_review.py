"""A review may only shrink or veto: the smallest part wins, in an order, and the language model can add nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cognitive.circuit_breakers import Lock
from cognitive.evidence import Counsel, Evidence, Lesson, Outcomes
from cognitive.review import review
from config.settings_schema import Settings
from core.ports import Opinion, Regime

RULES = Settings().cognitive.review
SESSION = date(2024, 3, 5)
CALM = Regime(label="calm", session=SESSION, since=None, probability=None, source="rule")
FRESH = Evidence(regime=CALM, memory_code="MEMORY_EMPTY")
HALF = Decimal("0.5")


def outcomes(n: int = 20, mean: float | None = 0.1, low: float | None = -0.1, high: float | None = 0.3) -> Outcomes:
    return Outcomes(n=n, win_rate=0.6, mean_r=mean, low_r=low, high_r=high)


def lock(name: str = "loss_streak", scope: str = "all", what: str = "") -> Lock:
    return Lock(
        name=name, scope=scope, what=what, code=f"BREAKER_{name.upper()}", reason="r", numbers={}, seq=1,
        at=datetime(2024, 3, 5, tzinfo=UTC), session=SESSION, until=None, by="rule",
    )  # fmt: skip


def told(**changes: Any) -> Evidence:
    return replace(Evidence(regime=CALM, belief=outcomes()), **changes)


def test_with_no_history_it_approves_at_full_size_and_says_that_it_knows_nothing() -> None:
    found = review(FRESH, RULES)
    assert (found.review.scale, found.review.codes, found.review.confidence) == (1, ("MEMORY_EMPTY",), None)
    assert found.verdict == "approve" and found.without_llm == found.review


@pytest.mark.parametrize(
    ("evidence", "scale", "code"),
    [
        (told(), Decimal(1), None),
        (told(belief=outcomes(n=19, mean=-1, high=-0.5)), Decimal(1), "SELF_MODEL_TOO_FEW"),
        (told(belief=outcomes(mean=-0.001)), HALF, "SELF_MODEL_DOUBTS"),
        (told(belief=outcomes(mean=0.0, high=0.0)), Decimal(1), None),
        (told(belief=outcomes(mean=-0.4, high=-0.001)), Decimal(0), "SELF_MODEL_NEGATIVE"),
        (told(belief=outcomes(mean=-0.4, high=0.0)), HALF, "SELF_MODEL_DOUBTS"),
        (told(belief=outcomes(mean=None, low=None, high=None)), Decimal(1), None),
        (told(similar=outcomes(high=-0.01)), HALF, "SIMILAR_LOST"),
        (told(similar=outcomes(high=0.0)), Decimal(1), None),
        (told(similar=outcomes(n=19, high=-0.01)), Decimal(1), None),
        (told(lessons=(Lesson(id="L1", shrink=Decimal("0.7")),)), Decimal("0.7"), "LEARNING_L1"),
        (told(locks=(lock(),)), Decimal(0), "BREAKER_LOSS_STREAK"),
        (told(breakers_code="BREAKERS_UNREADABLE"), Decimal(0), "BREAKERS_UNREADABLE"),
        (told(opinion=Opinion(None, "MODEL_NAN")), Decimal(0), "MODEL_NAN"),
        (told(opinion=Opinion(None, "MODEL_EXPIRED")), Decimal(1), None),
        (told(opinion=Opinion(0.7, "OK")), Decimal(1), None),
        (told(opinion=Opinion(None, "MODEL_OOD")), HALF, "MODEL_OOD"),
        (told(regime=replace(CALM, label="stressed")), Decimal(1), None),  # the VIX rule halves by itself
        (told(regime=replace(CALM, label="stressed", source="regime-1")), HALF, "REGIME_STRESSED"),
        (told(regime=replace(CALM, label="unknown", code="VIX_UNKNOWN")), Decimal(1), "REGIME_UNKNOWN"),
        (told(counsel=Counsel(verdict="veto", scale=Decimal(0))), Decimal(0), "LLM_VETO"),
        (told(counsel=Counsel(verdict="shrink", scale=Decimal("0.3"))), Decimal("0.3"), "LLM_SHRINK"),
        (told(counsel=Counsel(verdict="approve", scale=Decimal(1))), Decimal(1), None),
    ],
)  # fmt: skip
def test_each_reason_leaves_its_part(evidence: Evidence, scale: Decimal, code: str | None) -> None:
    found = review(evidence, RULES).review
    assert found.scale == scale
    assert code is None or code in found.codes
    assert code is not None or found.codes == ()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1])
def test_L05_a_prediction_that_is_no_probability_is_vetoed(bad: float) -> None:
    found = review(told(opinion=Opinion(bad, "OK")), RULES)
    assert found.review.scale == 0 and found.review.codes == ("MODEL_NAN",)
    assert found.review.confidence == 0.6, "it counts for nothing"


def test_a_memory_that_cannot_be_read_is_no_permission_and_an_empty_one_is() -> None:
    found = review(Evidence(regime=CALM, memory_code="MEMORY_UNREADABLE"), RULES)
    assert found.review.scale == 0 and found.review.codes == ("MEMORY_UNREADABLE",)
    assert review(FRESH, RULES).review.scale == 1


def test_reasons_come_in_the_order_of_what_they_leave_and_the_smallest_part_wins() -> None:
    lessons = (Lesson(id="A", shrink=Decimal("0.7")), Lesson(id="B", shrink=Decimal("0.8")))
    evidence = told(
        lessons=lessons, belief=outcomes(mean=-0.2), memory_code="MEMORY_EMPTY",
        counsel=Counsel(verdict="shrink", scale=Decimal("0.6")),
    )  # fmt: skip
    found = review(evidence, RULES)
    assert found.review.codes == (
        "SELF_MODEL_DOUBTS", "LLM_SHRINK", "LEARNING_A", "LEARNING_B", "MEMORY_EMPTY"
    )  # fmt: skip
    assert found.review.scale == HALF == found.without_llm.scale, "parts are not multiplied"
    assert "LLM_SHRINK" not in found.without_llm.codes


def test_the_order_of_lessons_decides_nothing() -> None:
    lessons = [Lesson(id=name, shrink=Decimal(part)) for name, part in (("A", "0.9"), ("B", "0.7"), ("C", "0.8"))]
    found = {review(told(lessons=tuple(order)), RULES).review for order in permutations(lessons)}
    assert len(found) == 1


def test_confidence_is_what_model_and_self_model_say_as_far_as_they_say_something() -> None:
    known = outcomes(n=20)
    assert review(told(belief=None), RULES).review.confidence is None
    assert review(told(belief=outcomes(n=19)), RULES).review.confidence is None, "a prior is no confidence"
    assert review(told(belief=known), RULES).review.confidence == 0.6
    assert review(told(belief=None, opinion=Opinion(0.8, "OK")), RULES).review.confidence == 0.8
    assert review(told(belief=known, opinion=Opinion(0.8, "OK")), RULES).review.confidence == pytest.approx(0.7)


# ---------------------------------------------------------------- the language model
@pytest.mark.parametrize(
    "counsel",
    [None, Counsel(verdict="approve", scale=Decimal(1), reasons=("buy twice as much",)),
     Counsel(verdict="approve", scale=Decimal("NaN"))],
)  # fmt: skip
@pytest.mark.parametrize("code", ["", "OK", "LLM_TIMEOUT", "LLM_SCHEMA", "LLM_BUDGET"])
def test_L13_silence_lateness_and_praise_are_byte_identical_to_off(counsel: Counsel | None, code: str) -> None:
    off = review(told(belief=outcomes(mean=-0.2)), RULES)
    on = review(told(belief=outcomes(mean=-0.2), counsel=counsel, counsel_code=code), RULES)
    assert repr(on) == repr(off) and on.review is on.without_llm


@pytest.mark.parametrize("scale", ["1.5", "-1", "NaN", "Infinity", "sNaN"])
def test_L14_a_scale_that_cannot_be_leaves_nothing(scale: str) -> None:
    found = review(told(counsel=Counsel(verdict="shrink", scale=Decimal(scale))), RULES)
    assert found.review.scale == 0 and found.review.codes[0] == "LLM_SHRINK"


parts = st.decimals(min_value=0, max_value=1, places=3)
floats = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
results = st.one_of(
    st.none(),
    st.builds(Outcomes, n=st.integers(0, 60), win_rate=floats, mean_r=floats, low_r=floats, high_r=floats),
)  # fmt: skip
evidences = st.builds(
    Evidence, regime=st.builds(
        Regime, label=st.sampled_from(["calm", "watch", "stressed", "unknown", "?"]), session=st.just(SESSION),
        since=st.none(), probability=st.none(), source=st.sampled_from(["rule", "regime-1"]),
    ),
    belief=results, similar=results,
    lessons=st.lists(st.builds(Lesson, id=st.sampled_from("AB"), shrink=parts), max_size=3).map(tuple),
    opinion=st.one_of(st.none(), st.builds(Opinion, probability=floats, code=st.just("OK"))),
    locks=st.sampled_from([(), (lock(),)]), memory_code=st.sampled_from(["OK", "MEMORY_EMPTY"]),
)  # fmt: skip
counsels = st.builds(
    Counsel, verdict=st.sampled_from(["approve", "shrink", "veto", "enlarge"]),
    scale=st.one_of(parts, st.decimals(allow_nan=True, allow_infinity=True)),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(evidences, counsels)
def test_L15_whatever_is_said_the_verdict_is_never_larger_than_without_it(evidence: Evidence, counsel: Counsel) -> None:
    off = review(evidence, RULES)
    on = review(replace(evidence, counsel=counsel), RULES)
    assert on.without_llm == off.review
    assert 0 <= on.review.scale <= off.review.scale <= 1
    assert on.review.confidence == off.review.confidence or math.isnan(on.review.confidence or 0)
    assert review(replace(evidence, counsel=counsel), RULES) == on, "the same again"
    assert off.review.confidence is None or 0 <= off.review.confidence <= 1


def test_what_is_written_for_people_is_json() -> None:
    from core.canonical import canonical_json

    everything = told(
        similar=outcomes(), lessons=(Lesson(id="A", shrink=HALF),), opinion=Opinion(0.5, "OK"), locks=(lock(),),
        counsel=Counsel(verdict="shrink", scale=HALF, reasons=("news",)), counsel_code="OK",
    )  # fmt: skip
    row = everything.to_json()
    assert canonical_json(row) and row["locks"] == ["loss_streak"] and row["counsel"]["scale"] == "0.5"
    assert set(FRESH.to_json()) == {"regime", "memory"}, "what is not known is not there"
