"""The limits of data.quality.detect, both sides of each, on series whose usual move is known."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from core.bars_io import BarColumns, from_day
from data.quality.detect import FEWEST, LOOK_BACK, RESTLESS_MOST, restlessness, shared, suspicions
from data.quality.quorum import judged, sample, wanted
from tests.portfolio.market import weekdays


def series(move: float = 0.01, bars: int = 80) -> BarColumns:
    """Closes go up and down by `move`; open and close one percent apart, high and low half a percent outside."""
    close = 100.0 * np.where(np.arange(bars) % 2, 1.0 + move, 1.0)
    opened = close * 1.01
    days = np.array([(day - date(1970, 1, 1)).days for day in weekdays(bars)], dtype=np.int32)
    volume = 1000.0 + np.arange(bars)
    return BarColumns(days, opened, opened * 1.005, close * 0.995, close, volume)


def last(bars: BarColumns, **values: float) -> BarColumns:
    columns = {name: getattr(bars, name).copy() for name in values}
    for name, value in values.items():
        columns[name][-1] = value
    return replace(bars, **columns)


def moved(bars: BarColumns, move: float) -> BarColumns:
    """The newest bar as a whole, so many percent from the close before."""
    factor = float(bars.close[-2]) * (1 + move) / float(bars.close[-1])
    return last(bars, **{name: float(getattr(bars, name)[-1]) * factor for name in ("open", "high", "low", "close")})


def codes(bars: BarColumns, **more: object) -> list[str]:
    return [s.code for s in suspicions(bars, **more)]  # type: ignore[arg-type]


def test_an_ordinary_bar_raises_nothing() -> None:
    assert codes(series()) == [] and codes(series(0.05)) == []


@pytest.mark.parametrize(
    ("usual", "move", "found"),
    [
        (0.01, 0.199, False), (0.01, 0.201, True), (0.01, -0.199, False), (0.01, -0.201, True),  # the least, 20 %
        (0.018, 0.26, False), (0.018, 0.28, True),  # fifteen usual moves
        (0.05, 0.349, False), (0.05, 0.351, True),  # never more than 35 %
    ],
)  # fmt: skip
def test_a_jump_is_one_beyond_the_symbols_own_limit(usual: float, move: float, found: bool) -> None:
    assert codes(moved(series(usual), move)) == (["JUMP_UNEXPLAINED"] if found else [])


@pytest.mark.parametrize(("market", "found"), [(0.0, True), (-0.15, False), (0.15, True)])
def test_what_everything_does_is_no_jump(market: float, found: bool) -> None:
    assert bool(codes(moved(series(), -0.30), market=market)) is found


def test_a_split_of_another_day_explains_nothing() -> None:
    bars = moved(series(), -0.5)
    day = from_day(bars.dates[-1])
    assert codes(bars, ratios={day: 2.0}) == []
    assert codes(bars, ratios={from_day(bars.dates[-2]): 2.0}) != []
    assert codes(bars, ratios={day: 3.0}) == ["JUMP_UNEXPLAINED"], "and a split of another ratio neither"


@pytest.mark.parametrize(("times", "found"), [(1.0, True), (1.4, True), (1.6, False)])
def test_on_a_restless_day_a_jump_is_measured_by_what_all_did(times: float, found: bool) -> None:
    assert bool(codes(moved(series(), -0.30), restless=times)) is found
    high = last(series(), high=float(series().open[-1]) * 1.45)
    assert bool(codes(high, restless=times)) is (times < 1.5)


def test_restlessness_is_the_spread_of_all_names_against_that_of_the_sessions_before() -> None:
    moves = np.tile(np.linspace(-0.02, 0.02, 201), (60, 1))
    assert restlessness(moves) == 1.0
    for times, found in ((2.0, 2.0), (50.0, RESTLESS_MOST), (1.51, 1.51), (1.49, 1.0), (0.1, 1.0)):
        wild = moves.copy()
        wild[-1] *= times
        assert restlessness(wild) == pytest.approx(found)
    falling = moves.copy()
    falling[-1] -= 0.12
    assert restlessness(falling) == pytest.approx(1.0), "that everything falls is the market's move"
    wild = moves.copy()
    wild[-1] *= 3
    assert restlessness(wild[-FEWEST:]) == 1.0 and restlessness(wild[-FEWEST - 1 :]) > 2.0
    wild[:, :150] = np.nan  # names that are younger
    assert restlessness(wild) > 2.0 and restlessness(np.full((60, 5), np.nan)) == 1.0


@pytest.mark.parametrize(("share", "found"), [(1.29, False), (1.32, True)])
def test_a_high_far_outside_is_a_spike(share: float, found: bool) -> None:
    bars = series()
    assert codes(last(bars, high=float(bars.open[-1]) * share)) == (["BAR_SPIKE"] if found else [])


@pytest.mark.parametrize(("times", "found"), [(49, False), (51, True)])
def test_a_volume_beyond_all_of_the_past_is_told(times: float, found: bool) -> None:
    bars = series()
    usual = float(np.median(bars.volume[-LOOK_BACK - 1 : -1]))
    assert codes(last(bars, volume=usual * times)) == (["VOLUME_JUMP"] if found else [])


def test_no_volume_is_told_of_a_symbol_that_always_trades_and_of_no_other() -> None:
    bars = series()
    assert codes(last(bars, volume=0.0)) == ["VOLUME_ABSENT"]
    quiet = replace(bars, volume=np.where(np.arange(len(bars)) % 5 == 0, 0.0, bars.volume))
    assert codes(last(quiet, volume=0.0)) == []


def test_an_old_bar_again_is_told_of_a_symbol_that_trades_and_of_no_other() -> None:
    bars = series()
    values = {name: float(getattr(bars, name)[-9]) for name in ("open", "high", "low", "close", "volume")}
    assert codes(last(bars, **values)) == ["BAR_REPEATED"]
    still = replace(bars, volume=np.zeros(len(bars)))
    assert codes(still) == [], "a name before its listing: the same bar with no volume, day after day"


def test_the_prices_of_the_session_before_with_another_volume_are_told_and_those_of_a_week_ago_are_not() -> None:
    bars = series()
    for back, found in ((2, True), (3, False)):
        prices = {name: float(getattr(bars, name)[-back]) for name in ("open", "high", "low", "close")}
        assert codes(last(bars, **prices)) == (["BAR_REPEATED"] if found else [])
    level = {name: float(bars.close[-2]) for name in ("open", "high", "low", "close")}
    still = replace(bars, **{name: np.append(getattr(bars, name)[:-2], [v, v]) for name, v in level.items()})
    assert codes(still) == [], "one price twice: a quiet name, not a stale one"


@pytest.mark.parametrize(("share", "found"), [(0.021, False), (0.019, True)])
def test_a_volume_in_lots_of_a_hundred_is_told(share: float, found: bool) -> None:
    bars = series()
    usual = float(np.median(bars.volume[-LOOK_BACK - 1 : -1]))
    assert codes(last(bars, volume=usual * share)) == (["VOLUME_ABSENT"] if found else [])


def exchanged(close: float, usual: float = 0.01) -> BarColumns:
    """`series`, its newest close `close` and the bar stretched to hold it."""
    bars = series(usual)
    high, low = max(float(bars.high[-1]), close), min(float(bars.low[-1]), close)
    return last(bars, close=close, high=high, low=low)


@pytest.mark.parametrize(
    ("before", "wrong", "found"),
    [(101.0, 110.0, True), (101.0, 109.0, False), (101.0, 108.0, False)],
)  # fmt: skip
def test_a_close_that_two_exchanged_digits_explain_is_told(before: float, wrong: float, found: bool) -> None:
    """101 typed as 110: nine usual moves away. 109 and 108 are as far, and no two digits make them near."""
    bars = exchanged(wrong)
    assert float(bars.close[-3]) == before and codes(bars) == (["DIGITS_EXCHANGED"] if found else [])
    inside = last(bars, high=float(bars.high[-1]) * 1.001)
    assert codes(inside) == [], "a close inside its bar was traded at, not stretched to"


@pytest.mark.parametrize(("before", "found"), [(1.05, False), (1.10, True)])
def test_the_mended_close_has_to_be_near_where_it_was(before: float, found: bool) -> None:
    """1.21 would be 1.12: from 1.05 that is 6.5 usual moves as well, from 1.10 it is 1.8."""
    bars = series()
    scaled = replace(bars, **{n: getattr(bars, n) * before / 100 for n in ("open", "high", "low", "close")})
    assert codes(last(scaled, close=1.21, high=1.21)) == (["DIGITS_EXCHANGED"] if found else [])


def test_a_move_that_the_market_makes_is_no_mistake_of_digits() -> None:
    assert codes(exchanged(110.0), market=0.0) == ["DIGITS_EXCHANGED"] and codes(exchanged(110.0), market=0.09) == []


@pytest.mark.parametrize(("usual", "found"), [(0.022, True), (0.035, False)])
def test_exchanged_digits_are_told_from_three_usual_moves_on(usual: float, found: bool) -> None:
    assert codes(exchanged(110.0, usual)) == (["DIGITS_EXCHANGED"] if found else [])


def test_two_symbols_with_one_bar_are_told_unless_they_are_one_thing() -> None:
    bar, other = (10.0, 11.0, 9.0, 10.5, 500.0), (20.0, 21.0, 19.0, 20.5, 700.0)
    apart = {"A": bar, "B": other, "C": (1.0, 2.0, 0.5, 1.5, 9.0)}
    assert set(shared({"A": bar, "B": bar, "C": other}, apart)) == {"A", "B"}
    assert shared({"A": bar, "B": bar}, {"A": other, "B": other}) == {}, "two names of one thing"
    assert shared({"A": bar, "B": (*bar[:4], 501.0)}, apart) == {}
    assert shared({"A": (*bar[:4], 0.0), "B": (*bar[:4], 0.0)}, apart) == {}, "nothing was traded"
    assert shared({"A": (9.0, 9.0, 9.0, 9.0, 5.0), "B": (9.0, 9.0, 9.0, 9.0, 5.0)}, apart) == {}


def test_a_bar_that_comes_back_at_once_is_a_bad_tick_and_a_step_that_stays_is_not() -> None:
    bars = series()
    for factor, found in ((3.0, True), (0.3, True), (1.5, False)):
        close = bars.close.copy()
        close[-10] *= factor
        assert ("BAR_REVERTED" in codes(replace(bars, close=close))) is found
    close = bars.close.copy()
    close[-10:] *= 3.0
    assert "BAR_REVERTED" not in codes(replace(bars, close=close))
    old = bars.close.copy()
    old[: -LOOK_BACK - 5] *= 3.0
    assert codes(replace(bars, close=old)) == [], "what lies further back than we look"


@pytest.mark.parametrize(("bars", "found"), [(FEWEST, False), (FEWEST + 1, True)])
def test_a_symbol_without_a_past_is_not_judged(bars: int, found: bool) -> None:
    assert bool(codes(moved(series(bars=bars), 2.0))) is found


def test_who_is_asked_about() -> None:
    names = [f"N{n}" for n in range(100)]
    monday, tuesday = date(2026, 3, 9), date(2026, 3, 10)
    assert sample(names, monday, 10) == sample(list(reversed(names)), monday, 10) != sample(names, tuesday, 10)
    assert len(sample(names, monday, 10)) == 10 and sample(names, monday, 0) == []
    asked = wanted(names, {"N5", "GONE"}, monday, 10)
    assert {"N5", "GONE"} <= set(asked) and len(asked) in (11, 12) and wanted(names, {"N5"}, monday, 0) == ["N5"]


def test_without_a_second_word_every_suspicion_stands() -> None:
    assert judged({"A": "JUMP_UNEXPLAINED", "B": "VOLUME_JUMP"}, None) == (
        {"A": "JUMP_UNEXPLAINED", "B": "VOLUME_JUMP"}, frozenset(),
    )  # fmt: skip
