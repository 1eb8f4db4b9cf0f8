"""The fence in time, likeness, and the bound."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cognitive.episodes import Episode, Standing
from cognitive.episodic_memory import EpisodicMemory, bounded, episode_of, mean_interval, nearest
from tests.fakes.minds import START, Planted, an_episode, decisions, shuffled

YEAR = decisions(1, 60, Planted())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100 * 24 * 60))
def test_L28_no_decision_and_no_outcome_from_behind_the_fence(minutes: int) -> None:
    at = START + timedelta(minutes=minutes)
    seen = EpisodicMemory(YEAR).before(at)
    assert all(e.decided_at < at for e in seen)
    assert all(e.outcome is None or e.outcome.known_at < at for e in seen)
    assert len(seen) == sum(e.decided_at < at for e in YEAR), "and nothing of what was known is held back"
    known = sum(e.outcome is not None and e.outcome.known_at < at for e in YEAR)
    assert sum(e.outcome is not None for e in seen) == known


@pytest.mark.parametrize("day", [5, 20, 41])
def test_L28_another_future_changes_no_answer(day: int) -> None:
    """Everything behind the fence dealt out anew: what is asked before it says the same."""
    at = START + timedelta(days=day)
    other = [
        new if old.outcome is not None and old.outcome.known_at >= at else old
        for old, new in zip(YEAR, shuffled(YEAR, 5), strict=True)
    ]
    assert other != YEAR
    asked = dict(YEAR[0].numbers)
    memories = [EpisodicMemory(world) for world in (YEAR, other)]
    assert memories[0].before(at) == memories[1].before(at)
    answers = [m.similar(asked, "ibs_rsi", before=at, k=9) for m in memories]
    assert answers[0] == answers[1] and (answers[0].n > 0 or day == 5)


def test_the_nearest_are_found_whatever_the_unit_of_a_feature() -> None:
    rng = np.random.default_rng(2)
    past = [
        an_episode(k, r=float(k), numbers={"ibs": float(rng.normal()), "volume": float(rng.normal() * 1e6)})
        for k in range(50)
    ]
    asked = past[17].numbers
    found = nearest(past, dict(asked), 5)
    assert found.episodes[0] is past[17] and found.features == ("ibs", "volume")
    rows = np.array([[e.numbers["ibs"], e.numbers["volume"]] for e in past])
    apart = np.sqrt(np.sum(((rows - rows[17]) / rows.std(axis=0)) ** 2, axis=1))
    assert [past.index(e) for e in found.episodes] == np.argsort(apart)[:5].tolist()
    assert found.mean_r == pytest.approx(float(np.mean(np.argsort(apart)[:5])))


def test_statistics_are_those_of_the_outcomes_found() -> None:
    from scipy import stats

    past = [an_episode(k, r=r, numbers={"ibs": k / 10}) for k, r in enumerate([2.0, -1.0, -1.0, 0.0, 9.0])]
    found = nearest(past, {"ibs": 0.0}, 4)
    assert (found.n, found.win_rate, found.mean_r, found.code) == (4, 0.25, 0.0, "OK")
    assert found.interval == pytest.approx(stats.t.interval(0.95, 3, loc=0.0, scale=stats.sem([2, -1, -1, 0])))
    assert mean_interval([1.0]) is None


def test_only_the_same_strategy_and_only_what_both_know_is_compared() -> None:
    past = [an_episode(k, r=1.0, numbers={"ibs": k / 10, "odd": 1.0} if k < 7 else {"ibs": k / 10}) for k in range(10)]
    found = nearest(past, {"ibs": 0.9, "odd": 1.0, "new": 3.0}, 3)
    assert found.features == ("ibs",) and [past.index(e) for e in found.episodes] == [9, 8, 7]
    memory = EpisodicMemory([*past, an_episode(11, r=5.0, strategy="turtle_soup", numbers={"ibs": 0.9})])
    at = START + timedelta(days=99)
    assert memory.similar({"ibs": 0.9}, "turtle_soup", before=at, k=9).n == 1
    assert memory.similar({"ibs": 0.9}, "nobody", before=at, k=9).code == "NOTHING_SIMILAR"
    assert memory.similar({}, "ibs_rsi", before=at, k=9).mean_r is None


def test_a_feature_that_never_varies_says_nothing() -> None:
    past = [an_episode(k, r=1.0, numbers={"flat": 0.1 + 0.2, "ibs": float(k)}) for k in range(5)]
    found = nearest(past, {"flat": 7.0, "ibs": 2.0}, 1)
    assert found.features == ("ibs",) and found.episodes[0] is past[2]


def test_the_bound_keeps_what_was_bought_before_what_was_only_looked_at_and_the_newest_of_both() -> None:
    bought = [an_episode(k, r=1.0, decision_id=f"b{k}") for k in range(5)]
    looked = [an_episode(k, standing=Standing.NOT_ENTERED, decision_id=f"l{k}") for k in range(5, 10)]
    everything = {e.decision_id: e for e in [*looked, *bought]}
    assert sorted(bounded(everything, 7)) == ["b0", "b1", "b2", "b3", "b4", "l8", "l9"]
    assert sorted(bounded(everything, 3)) == ["b2", "b3", "b4"]
    assert bounded(everything, 10) == everything


def row(**changes: object) -> dict[str, object]:
    return {
        "decision_id": "d", "symbol": "AAA", "strategy": "s", "score": 61, "numbers": {"ibs": 0.1},
        "opinion": {"probability": None, "code": "MODEL_ABSENT"}, "review": {"scale": "1", "codes": []}, **changes,
    }  # fmt: skip


def read(**changes: object) -> Episode:
    return episode_of(row(**changes), at=START, session=START.date(), regime="calm")


def test_a_review_is_read_as_the_planner_writes_it() -> None:
    assert read(score=61).score == 61.0
    assert read(numbers={"ibs": 0.1, "bad": float("nan"), "text": "x", "flag": True}).numbers == {"ibs": 0.1}
    assert read(opinion=None).probability is None
    told = read(opinion={"probability": 0.4}, review={"scale": "0.25", "confidence": 0.7})
    assert (told.probability, told.confidence, str(told.scale)) == (0.4, 0.7, "0.25")
    assert replace(read(), numbers={}).regime == "calm"


@pytest.mark.parametrize("change", [{"score": None}, {"review": {}}, {"review": {"scale": "x"}}, {"score": "61"}])
def test_a_review_that_lacks_what_it_promises_is_refused(change: dict[str, object]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, ArithmeticError)):
        read(**change)
