"""Episodes: what may be compared, what was known when, and a row that comes back as it went."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from cognitive.episodes import Episode, Standing, features_of, from_json, to_json
from tests.fakes.minds import START, an_episode, an_outcome

MOMENT = timedelta(microseconds=1)


def test_prices_are_compared_as_ratios_only() -> None:
    cheap = {"close": 20.0, "stop": 19.0, "sma": 16.0, "atr": 0.5, "prior_low": 19.2, "ibs": 0.04}
    dear = {**{name: 10 * cheap[name] for name in cheap}, "ibs": 0.04}
    assert features_of(cheap) == pytest.approx(features_of(dear))
    assert features_of(cheap) == pytest.approx(
        {"above_prior_low": 20 / 19.2 - 1, "atr_share": 0.025, "ibs": 0.04, "stop_distance": 0.05, "trend": 0.25}
    )
    assert features_of({"dollar_volume": 1e6}) == {"dollar_volume_log10": 6.0}


def test_what_is_not_known_is_left_out() -> None:
    assert features_of({}) == {}
    assert features_of({"close": math.nan, "sma": 1.0, "ibs": math.inf}) == {}
    assert features_of({"close": 10.0}) == {}
    assert features_of({"close": 10.0, "sma": 0.0, "rsi": 2.0, "dollar_volume": 0.0}) == {"rsi": 2.0}


def at_each_instant(episode: Episode) -> list[tuple[datetime, Episode | None]]:
    assert episode.outcome is not None and episode.entered_at is not None
    instants = [episode.decided_at, episode.entered_at, episode.outcome.known_at]
    return [(at, episode.as_known(at)) for one in instants for at in (one, one + MOMENT)]


def test_L28_an_episode_is_shown_as_far_as_it_was_known() -> None:
    episode = an_episode(0, r=-1.0)
    seen = [e if e is None else (e.standing, e.outcome is not None) for _, e in at_each_instant(episode)]
    assert seen == [
        None, (Standing.WAITING, False), (Standing.WAITING, False), (Standing.HELD, False), (Standing.HELD, False),
        (Standing.CLOSED, True),
    ]  # fmt: skip


def test_L28_that_nothing_was_bought_is_known_after_the_day_only() -> None:
    episode = an_episode(0, standing=Standing.NOT_ENTERED)
    same, later = episode.as_known(START + timedelta(hours=3)), episode.as_known(START + timedelta(days=1))
    assert same is not None and same.standing is Standing.WAITING
    assert later is not None and later.standing is Standing.NOT_ENTERED


def test_L28_what_was_lost_was_held_until_somebody_noted_it() -> None:
    episode = an_episode(0, standing=Standing.OUTCOME_UNKNOWN, entered_at=START)
    known = episode.as_known(START + timedelta(days=9))
    assert known is not None and known.standing is Standing.HELD


@pytest.mark.parametrize(
    "episode",
    [
        an_episode(3), an_episode(4, r=0.12345678901234567),
        an_episode(5, score=None, confidence=None, probability=None, scale=None, numbers={}),
        an_episode(6, standing=Standing.OUTCOME_UNKNOWN, entered_at=START, scale=Decimal("0.50")),
        an_episode(7, standing=Standing.CLOSED, outcome=an_outcome(START, -1.5, bars_held=None)),
    ],
)  # fmt: skip
def test_a_row_comes_back_as_it_went(episode: Episode) -> None:
    assert from_json(json.loads(json.dumps(to_json(episode)))) == episode


@pytest.mark.parametrize(
    "change",
    [
        {"standing": "CLOSED"}, {"standing": "LOST"}, {"numbers": {"ibs": "0.1"}}, {"numbers": {"ibs": True}},
        {"score": "61"}, {"decided_at": "2024-01-01T09:35:00"}, {"session": "soon"}, {"scale": "much"},
        {"outcome": {"r": 1.0}},
    ],
)  # fmt: skip
def test_a_row_that_none_of_ours_is_is_refused(change: dict[str, object]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, ArithmeticError)):
        from_json({**to_json(an_episode(0)), **change})


def test_a_naive_instant_and_an_outcome_without_a_close_are_mistakes_of_ours() -> None:
    with pytest.raises(ValueError, match="decided_at"):
        replace(an_episode(0), decided_at=datetime(2024, 1, 1))
    with pytest.raises(ValueError, match="HELD"):
        replace(an_episode(0, r=1.0), standing=Standing.HELD)
