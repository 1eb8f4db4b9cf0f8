"""Another future: the past stays to the bit, bars stay bars, and what was not known is not there."""

from __future__ import annotations

import numpy as np
import pytest

from core.bars_io import FIELDS, BarColumns
from portfolio.backtest.honesty.market import (
    CHANGES,
    changed_after,
    changed_after_open,
    changed_table,
    known,
    rescaled,
)
from tests.portfolio.backtest.honesty import world

CUTS = [int(world.days()[row]) for row in (0, 3, 150, 400, 418)]


def is_a_bar(own: BarColumns) -> bool:
    low, high = own.low, own.high
    sound = (low > 0) & (low <= own.open) & (low <= own.close) & (high >= own.open) & (high >= own.close)
    return bool(sound.all() and (own.volume >= 0).all())


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind", CHANGES)
def test_another_future_leaves_the_past_and_the_days_and_makes_sound_bars(cut: int, kind: str) -> None:
    market = world.market()
    changed = changed_after(market, cut, kind)
    for symbol, own in market.bars.items():
        other, first = changed.bars[symbol], int(np.searchsorted(own.dates, cut, side="right"))
        assert np.array_equal(own.dates, other.dates) and is_a_bar(other)
        for f in FIELDS:
            assert np.array_equal(getattr(own, f)[:first], getattr(other, f)[:first])
        if len(own) - first > 3:
            assert not np.allclose(own.close[first:], other.close[first:], rtol=1e-3)
        assert np.array_equal(own.volume == 0, other.volume == 0)  # the same bars can be traded


def test_the_same_future_comes_every_time_and_another_at_another_cut() -> None:
    first, second = (changed_after(world.market(), CUTS[2], "shuffled").bars["AAA"].close for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, changed_after(world.market(), CUTS[3], "shuffled").bars["AAA"].close)


@pytest.mark.parametrize("column", FIELDS)
def test_one_column_alone_can_be_changed(column: str) -> None:
    own = world.market().bars["AAA"]
    other = changed_after(world.market(), CUTS[2], "inverted", columns=(column,)).bars["AAA"]
    assert [f for f in FIELDS if not np.array_equal(getattr(own, f), getattr(other, f))] == [column]


def test_after_the_open_the_open_stays_and_the_outcome_does_not() -> None:
    own, cut = world.market().bars["AAA"], int(world.days()[200])
    other = changed_after_open(world.market(), cut).bars["AAA"]
    assert is_a_bar(other) and np.array_equal(own.open[:201], other.open[:201])
    assert np.array_equal(own.close[:200], other.close[:200])
    assert (own.close[200] > own.open[200]) != (other.close[200] > other.open[200])
    narrow = changed_after_open(world.market(), cut, close_only=True).bars["AAA"]
    assert (narrow.high[200], narrow.low[200]) == (own.high[200], own.low[200])
    assert narrow.close[200] == pytest.approx(own.high[200] + own.low[200] - own.close[200])


def test_missing_prices_stay_missing() -> None:
    own = world.market().bars["AAA"]
    close = own.close.copy()
    close[300] = np.nan
    holed = world.market().only({"AAA"})
    bars = {"AAA": BarColumns(own.dates, own.open, own.high, own.low, close, own.volume)}
    changed = changed_after(type(holed)(bars), CUTS[2], "reversed").bars["AAA"]
    assert np.flatnonzero(np.isnan(changed.close)).tolist() == [300]


def test_what_was_known_at_a_cut() -> None:
    market, cut = world.market(), int(world.days()[250])
    then = market.known_at(cut)
    assert all(int(own.dates[-1]) <= cut for own in then.bars.values()) and len(then.sessions) == 251
    member = then.tables["membership"].columns
    assert dict(zip(member["symbol"], member["end"], strict=True)) == {"AAA": -1, "BBB": -1, "CCC": -1, "DDD": -1}
    early = known("membership", market.tables["membership"], int(world.days()[100])).columns["symbol"]
    assert "AAA" not in early  # joined later
    told, days = then.tables["earnings"].columns["eps_actual"], then.tables["earnings"].days
    assert np.array_equal(np.isnan(told), days > cut)
    other = changed_table("earnings", market.tables["earnings"], cut).columns["eps_actual"]
    assert np.array_equal(other[days <= cut], market.tables["earnings"].columns["eps_actual"][days <= cut])
    assert (other[days > cut] != market.tables["earnings"].columns["eps_actual"][days > cut]).all()


def test_another_basis_changes_no_return_no_dollar_volume_and_no_raw_price() -> None:
    market = world.market()
    other = rescaled(market, {"BBB": 0.25})
    was, now = market.bars["BBB"], other.bars["BBB"]
    assert np.array_equal(was.close[1:] / was.close[:-1], now.close[1:] / now.close[:-1])
    assert np.array_equal(was.close * was.volume, now.close * now.volume)
    assert np.array_equal(was.close * market.factors["BBB"], now.close * other.factors["BBB"])
    assert other.bars["AAA"] is market.bars["AAA"]
