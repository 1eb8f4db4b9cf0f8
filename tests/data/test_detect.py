"""The limits of data.quality.detect, both sides of each, on series whose usual move is known."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from core.bars_io import BarColumns, from_day
from data.quality.detect import FEWEST, LOOK_BACK, suspicions
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


@pytest.mark.parametrize(("share", "found"), [(1.29, False), (1.32, True)])
def test_a_high_far_outside_is_a_spike(share: float, found: bool) -> None:
    bars = series()
    assert codes(last(bars, high=float(bars.open[-1]) * share)) == (["BAR_SPIKE"] if found else [])


@pytest.mark.parametrize(("times", "found"), [(149, False), (151, True)])
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
