"""What a trade costs besides its price: slippage, half the spread, and the fees that regulators take from sellers.

Costs change no fill price and no decision but those that look at cash and equity: the trade list keeps the prices that
the rules saw, and a column beside them says what was paid.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.bars_io import Days, to_day
from portfolio.strategies.indicators import Floats

if TYPE_CHECKING:
    from config.settings_schema import Costs

_BPS = 1e4
_HALF_TICK_USD = 0.005  # no spread is narrower than a cent


@dataclass(frozen=True, slots=True, eq=False)
class CostModel:
    """Fractions of the value traded; fee tables as (first days, rates), ascending.

    Before the first row of a table its first rate is taken, after the last its last.
    """

    slippage: float
    spread_at_1m: float
    spread_most: float
    sec_from: Days
    sec_rate: Floats  # per USD sold
    taf_from: Days
    taf_rate: Floats  # USD per share sold
    taf_most: Floats  # USD per trade
    charged: bool = True

    @classmethod
    def from_settings(cls, costs: Costs, slippage_bps: float | None = None) -> CostModel:
        """`slippage_bps` replaces the setting; 0 given so means no costs of any kind."""
        slippage = costs.slippage_bps if slippage_bps is None else slippage_bps
        return cls(
            slippage=slippage / _BPS,
            spread_at_1m=costs.spread_bps_at_1m / _BPS,
            spread_most=costs.spread_bps_most / _BPS,
            sec_from=np.array([to_day(row.effective) for row in costs.sec_fees], dtype=np.int32),
            sec_rate=np.array([row.usd_per_million / 1e6 for row in costs.sec_fees]),
            taf_from=np.array([to_day(row.effective) for row in costs.taf], dtype=np.int32),
            taf_rate=np.array([row.usd_per_share for row in costs.taf]),
            taf_most=np.array([row.most_usd for row in costs.taf]),
            charged=slippage_bps is None or slippage_bps > 0,
        )

    def side(self, price: Floats, dollar_volume: Floats) -> Floats:
        """Slippage and half the spread, as a fraction of the value traded.

        price USD per share · dollar_volume USD a session, NaN or 0 = not known, which costs the most.
        The spread is that of a name trading USD 1M a day times the root of 1M over its volume: a proxy, not a quote.
        """
        if not self.charged:
            return np.zeros(np.shape(price))
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = self.spread_at_1m * np.sqrt(1e6 / np.asarray(dollar_volume))
            spread = np.maximum(spread, 2.0 * _HALF_TICK_USD / np.asarray(price))
        spread = np.where(np.isfinite(spread), np.minimum(spread, self.spread_most), self.spread_most)
        return self.slippage + spread / 2.0

    def sale_fees(self, value_usd: Floats, shares: Floats, days: NDArray[Any]) -> Floats:
        """USD of the section 31 fee and the trading activity fee; days since 1970-01-01."""
        if not self.charged:
            return np.zeros(np.shape(value_usd))
        sec = self.sec_rate[_row(self.sec_from, days)] * value_usd
        taf = _row(self.taf_from, days)
        return np.asarray(sec + np.minimum(self.taf_rate[taf] * shares, self.taf_most[taf]))


def _row(first_days: Days, days: NDArray[Any]) -> NDArray[np.intp]:
    return np.maximum(np.searchsorted(first_days, days, side="right") - 1, 0)


def review_due(costs: Costs, last: date) -> bool:
    """Whether sessions lie after the day up to which the fee tables were looked at."""
    return last > costs.fees_review_by
