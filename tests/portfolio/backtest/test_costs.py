"""Costs: every part by hand, the tables on both sides of each date, and what is not known costs the most."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from config.settings_schema import Costs, SecFee, Taf
from core.bars_io import to_day
from portfolio.backtest.capacity import capacity
from portfolio.backtest.costs import CostModel, review_due

COSTS = Costs()
MODEL = CostModel.from_settings(COSTS)


def side(price: float, dollar_volume: float, model: CostModel = MODEL) -> float:
    return float(model.side(np.array([price]), np.array([dollar_volume]))[0])


def fees(value: float, shares: float, day: date, model: CostModel = MODEL) -> float:
    return float(model.sale_fees(np.array([value]), np.array([shares]), np.array([to_day(day)]))[0])


def test_a_side_is_slippage_and_half_the_spread() -> None:
    assert side(100.0, 1e6) == pytest.approx(5e-4 + 25e-4)
    assert side(100.0, 1e8) == pytest.approx(5e-4 + 2.5e-4)  # a hundred times the volume, a tenth of the spread
    assert side(20.0, 1e12) == pytest.approx(5e-4 + 0.005 / 20.0)  # never below a cent
    assert side(100.0, 1.0) == pytest.approx(5e-4 + 100e-4)  # never above spread_bps_most


@pytest.mark.parametrize("unknown", [float("nan"), 0.0, -1.0])
def test_an_unknown_volume_costs_the_most(unknown: float) -> None:
    assert side(100.0, unknown) == pytest.approx(5e-4 + 100e-4)


def test_the_section_31_fee_changes_on_its_day() -> None:
    assert fees(1e6, 0.0, date(2024, 5, 21)) == pytest.approx(8.00)
    assert fees(1e6, 0.0, date(2024, 5, 22)) == pytest.approx(27.80)
    assert fees(1e6, 0.0, date(2025, 5, 14)) == 0.0
    assert fees(1e6, 0.0, date(1999, 1, 4)) == pytest.approx(22.10)  # before the table: its first rate
    assert fees(1e6, 0.0, date(2040, 1, 3)) == pytest.approx(20.60)  # after it: its last


def test_the_trading_activity_fee_is_per_share_and_bounded() -> None:
    day = date(2025, 6, 2)  # no section 31 fee on that day
    assert fees(1e6, 1000.0, day) == pytest.approx(0.166)
    assert fees(1e6, 49_999.0, day) == pytest.approx(49_999 * 0.000166)
    assert fees(1e6, 60_000.0, day) == pytest.approx(8.30)
    assert fees(1e6, 1000.0, date(2026, 1, 2)) == pytest.approx(0.195)


def test_given_slippage_replaces_the_setting_and_zero_charges_nothing() -> None:
    given = CostModel.from_settings(COSTS, 12.0)
    assert side(100.0, 1e6, given) == pytest.approx(12e-4 + 25e-4)
    free = CostModel.from_settings(COSTS, 0.0)
    assert side(100.0, float("nan"), free) == 0.0
    assert fees(1e6, 1e6, date(2024, 6, 3), free) == 0.0
    from_file = CostModel.from_settings(Costs(slippage_bps=0.0))
    assert side(100.0, 1e6, from_file) == pytest.approx(25e-4)  # a setting of 0 leaves spread and fees


def test_fee_tables_ascend_and_their_review_date_is_told() -> None:
    rows = (
        SecFee(effective=date(2024, 1, 1), usd_per_million=1.0),
        SecFee(effective=date(2023, 1, 1), usd_per_million=2.0),
    )
    with pytest.raises(ValueError, match="ascend"):
        Costs(sec_fees=rows)
    with pytest.raises(ValueError, match="ascend"):
        Costs(taf=(Taf(effective=date(2024, 1, 1), usd_per_share=0.1, most_usd=1.0),) * 2)
    assert not review_due(COSTS, COSTS.fees_review_by)
    assert review_due(COSTS, date.fromordinal(COSTS.fees_review_by.toordinal() + 1))


def test_capacity_is_set_by_the_thinnest_order() -> None:
    volumes = np.array([5e6, 2e6, 1e8, np.nan, 0.0])
    found = capacity(volumes, order_share=0.1, participation=0.01)
    assert found.account_usd == pytest.approx(2e6 * 0.01 / 0.1)
    assert (found.orders, found.unknown) == (3, 2)
    many = capacity(np.r_[1e3, np.full(39, 1e6)], order_share=0.5, participation=0.02)
    assert many.account_usd == pytest.approx(40.0) and many.account_usd_for_95_pct == pytest.approx(4e4)
    nothing = capacity(np.array([np.nan]), order_share=0.1, participation=0.01)
    assert nothing.account_usd is None and nothing.account_usd_for_95_pct is None
