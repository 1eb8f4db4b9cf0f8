"""Regimes: the rule's limits from both sides; a planted market is found, from its past only; standing still is seen."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from functools import cache

import numpy as np
import pytest

from core.bars_io import from_day, to_day
from core.errors import DataError
from ml_advanced.market import MarketView
from ml_advanced.regime import FEWEST_SESSIONS, LABELS, SEEN, SESSIONS_NEEDED, WINDOW, RegimeModel, rule_regime

DAY = date(2024, 3, 8)


# ---------------------------------------------------------------- the rule
@pytest.mark.parametrize(
    ("vix", "label"),
    [
        (9.0, "calm"), (19.99, "calm"), (20.0, "watch"), (24.99, "watch"), (25.0, "stressed"), (35.0, "stressed"),
        (35.01, "closed"), (82.69, "closed"),
    ],
)  # fmt: skip
def test_the_rule_asks_the_vix_alone(vix: float, label: str) -> None:
    found = rule_regime(vix, DAY)
    assert (found.label, found.code, found.source, found.session) == (label, "OK", "rule", DAY)


@pytest.mark.parametrize("vix", [None, float("nan"), float("inf"), 0.0, -1.0])
def test_an_unknown_vix_is_an_unknown_regime(vix: float | None) -> None:
    found = rule_regime(vix, DAY)
    assert (found.label, found.code, found.since, found.probability) == ("unknown", "VIX_UNKNOWN", None, None)


def test_the_rule_tells_since_when_as_far_as_it_can_see() -> None:
    days = [DAY - timedelta(days=k) for k in range(1, 5)]
    earlier = dict(zip(days, (14.0, 19.0, 21.0, 12.0), strict=True)) | {DAY + timedelta(days=3): 50.0}
    assert rule_regime(13.0, DAY, earlier=earlier).since == days[1]
    assert rule_regime(22.0, DAY, earlier=earlier).since == DAY
    assert rule_regime(13.0, DAY, earlier={days[0]: 14.0}).since is None  # not seen to begin
    assert rule_regime(13.0, DAY).since is None


# ---------------------------------------------------------------- a planted market
@cache
def planted(sessions: int = 1400, seed: int = 3) -> tuple[MarketView, np.ndarray]:
    """Calm, watch and stressed spells of 60 to 160 sessions; the truth beside it."""
    rng = np.random.default_rng(seed)
    truth: list[int] = []
    current = 0
    while len(truth) < sessions:
        truth += [current] * int(rng.integers(60, 160))
        current = int((current + rng.integers(1, 3)) % 3)
    state = np.array(truth[:sessions])
    middle = rng.normal(np.array([0.001, 0.0, -0.003])[state], np.array([0.005, 0.011, 0.025])[state])
    vix = np.exp(rng.normal(np.log([13.0, 20.0, 34.0])[state], 0.08))
    breadth = np.clip(rng.normal(np.array([0.7, 0.5, 0.2])[state], 0.06), 0, 1)
    first = to_day(date(2017, 1, 3))
    days = np.arange(first, first + sessions, dtype=np.int32)
    return MarketView(days, np.full(sessions, np.nan), vix, breadth, middle), state


@cache
def fitted(until: int = 900) -> RegimeModel:
    market, _ = planted()
    return RegimeModel.fit(market, day(until))


def day(k: int) -> date:
    return from_day(int(planted()[0].sessions[k]))


def part(market: MarketView, first: int, end: int) -> MarketView:
    return MarketView(*(getattr(market, name)[first:end] for name in ("sessions", "spy", "vix", "breadth", "middle")))


def test_the_planted_regimes_are_found_in_order_of_their_volatility() -> None:
    market, truth = planted()
    p = fitted().filtered(market)
    assert np.isnan(p[: WINDOW - 1]).all() and np.isfinite(p[WINDOW + 20 :]).all()
    np.testing.assert_allclose(p[WINDOW + 20 :].sum(axis=1), 1.0, rtol=1e-12)
    later = np.arange(901, len(truth))
    settled = later[(truth[later] == truth[later - 25])]  # the volatility looks back 20 sessions
    assert (np.argmax(p[settled], axis=1) == truth[settled]).mean() > 0.97
    model = fitted()
    assert (np.diff(model.means[:, SEEN.index("volatility_20")]) > 0).all()
    assert (np.diag(model.transition) > 0.9).all()


def test_a_regime_has_persistence() -> None:
    """A doubtful session in a calm spell is still calm, where a mixture without memory calls it another regime."""
    market, truth = planted()
    calm = next(k for k in range(950, len(truth)) if (truth[k - 60 : k + 2] == 0).all())
    model = fitted()
    forgetful = replace(model, transition=np.full((3, 3), 1 / 3), start=np.full(3, 1 / 3))
    said = []
    for level in np.linspace(13.0, 22.0, 46):
        vix = market.vix.copy()
        vix[calm] = level
        doubtful = replace(market, vix=vix)
        said.append((model.label_at(doubtful, day(calm)).label, forgetful.label_at(doubtful, day(calm)).label))
    assert ("calm", "watch") in said and ("watch", "calm") not in said and said[0] == ("calm", "calm")


def test_L09_the_fit_knows_no_session_after_its_last() -> None:
    market, _ = planted()
    rng = np.random.default_rng(1)
    after = market.sessions > market.sessions[900]
    noise = {name: np.where(after, rng.uniform(0.1, 60, after.size), getattr(market, name))
             for name in ("vix", "breadth", "middle")}  # fmt: skip
    for other in (market.upto(day(900)), replace(market, **noise)):
        again = RegimeModel.fit(other, day(900))
        assert again.source == fitted().source
    assert RegimeModel.fit(market, day(901)).source != fitted().source


def test_L09_filtered_not_smoothed_what_comes_later_or_lay_before_the_window_changes_no_bit() -> None:
    market, _ = planted()
    whole = fitted().filtered(market)
    for k in (WINDOW - 1, 200, 899, 900, 1204):
        assert np.array_equal(fitted().filtered(part(market, 0, k + 1))[-1], whole[k], equal_nan=True)
        if k >= SESSIONS_NEEDED:
            assert np.array_equal(fitted().filtered(part(market, k + 1 - SESSIONS_NEEDED, k + 1))[-1], whole[k])


def test_a_smoothed_answer_would_be_noticed() -> None:
    """The test above can fail: a peek at the next session changes bits."""
    market, _ = planted()
    peeking = replace(market, breadth=np.roll(market.breadth, -1))
    whole = fitted().filtered(peeking)
    k = 1000
    cut = replace(part(market, 0, k + 1), breadth=np.append(market.breadth[1 : k + 1], np.nan))
    assert not np.array_equal(fitted().filtered(cut)[-1], whole[k])


# ---------------------------------------------------------------- what is not known
def test_a_session_that_cannot_be_told_is_unknown() -> None:
    market, _ = planted()
    model = fitted()
    assert model.label_at(market, day(30)).code == "REGIME_UNKNOWN"  # no full window
    weekend = date(2035, 1, 1)
    found = model.label_at(market, weekend)
    assert (found.label, found.code, found.probability) == ("unknown", "REGIME_SESSION_ABSENT", None)
    for name in ("vix", "breadth", "middle"):
        values = getattr(market, name).copy()
        values[1000] = np.nan
        assert model.label_at(replace(market, **{name: values}), day(1000)).label == "unknown"
        if name != "middle":
            assert model.label_at(replace(market, **{name: values}), day(1001)).label in LABELS


def test_a_short_history_of_the_vix_is_done_without() -> None:
    """A home that began to run last week knows its VIX since then; the rest of the market is known all along."""
    market, truth = planted()
    settled = next(k for k in range(1000, len(truth)) if (truth[k - 60 : k + 1] == 2).all())
    vix = np.where(np.arange(market.vix.size) < settled - 3, np.nan, market.vix)
    found = fitted().label_at(replace(market, vix=vix), day(settled))
    assert found.label == LABELS[truth[settled]] and found.code == "OK"


@pytest.mark.parametrize(("known", "label"), [(31, False), (32, True)])
def test_half_of_the_window_must_be_known(known: int, label: bool) -> None:
    market, _ = planted()
    young = np.arange(1400) > 1000 - known
    hidden = {name: np.where(young, getattr(market, name), np.nan) for name in ("vix", "breadth", "middle")}
    found = fitted().label_at(replace(market, **hidden), day(1000))
    assert (found.label != "unknown") is label and WINDOW == 63


def test_a_series_that_is_never_known_is_left_out_of_the_fit() -> None:
    market, truth = planted()
    blind = replace(market, vix=np.full(market.vix.shape, np.nan))
    model = RegimeModel.fit(blind, day(900))
    assert model.uses.tolist() == [1.0, 1.0, 0.0, 1.0]
    found = np.argmax(model.filtered(blind)[1000:], axis=1)
    assert (found == truth[1000:]).mean() > 0.85


def test_a_short_past_is_refused() -> None:
    market, _ = planted()
    with pytest.raises(DataError) as refused:
        RegimeModel.fit(market, day(FEWEST_SESSIONS + 17))  # 19 sessions tell no volatility
    assert refused.value.code == "REGIME_HISTORY_SHORT"
    assert RegimeModel.fit(market, day(FEWEST_SESSIONS + 18)).until == day(FEWEST_SESSIONS + 18)


# ---------------------------------------------------------------- standing still
def test_since_is_the_first_session_of_the_label_in_a_row() -> None:
    market, _ = planted()
    track = fitted().track(market)
    labels = [track.at(from_day(int(d))) for d in market.sessions]
    for k in (300, 700, 1399):
        first = k
        while labels[first - 1].label == labels[k].label:
            first -= 1
        assert labels[k].since == (day(first) if labels[first - 1].label != "unknown" else None)
    assert labels[WINDOW + 20].since is None  # it was so when the record begins


def test_a_detector_that_is_fed_nothing_new_is_seen_to_stand_still() -> None:
    market, _ = planted()
    frozen = {name: np.where(np.arange(1400) > 1000, getattr(market, name)[1000], getattr(market, name))
              for name in ("vix", "breadth", "middle")}  # fmt: skip
    track = fitted().track(replace(market, **frozen))
    assert fitted().track(market).last_moved == day(1399) == track.last_seen
    assert track.last_moved is not None and track.last_moved < day(1150)
    starved = replace(market, breadth=np.where(np.arange(1400) > 1000, np.nan, market.breadth))
    assert fitted().track(starved).last_seen == day(1000)


# ---------------------------------------------------------------- plain arrays
def test_a_stored_model_says_the_same() -> None:
    market, _ = planted()
    arrays = fitted().to_arrays()
    assert all(values.dtype == np.float64 and values.ndim in (1, 2) for values in arrays.values())
    again = RegimeModel.from_arrays(arrays)
    assert again.source == fitted().source and again.until == fitted().until
    assert np.array_equal(again.filtered(market), fitted().filtered(market), equal_nan=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("uses", np.array([1.0, 1.0, 0.0, 1.0])), ("means", np.full((3, 4), np.nan)), ("transition", np.eye(3) * 1.1),
        ("transition", np.array([[1.5, -0.5, 0], [0, 1, 0], [0, 0, 1.0]])), ("scale", np.zeros(4)),
        ("covariances", np.array([-np.eye(4)] * 3).reshape(3, 16)), ("until", np.array([1e18])),
        ("start", np.array([1.0, 0, 0, 0])),
    ],
)  # fmt: skip
def test_arrays_that_are_no_model_are_refused(name: str, value: np.ndarray) -> None:
    with pytest.raises(ValueError, match="regime model"):
        RegimeModel.from_arrays({**fitted().to_arrays(), name: value})
    with pytest.raises(ValueError, match="regime model"):
        RegimeModel.from_arrays({k: v for k, v in fitted().to_arrays().items() if k != name})
