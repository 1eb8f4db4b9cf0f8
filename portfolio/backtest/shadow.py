"""What the language model was worth: every decision beside its shadow twin, which was made without the model. Pure.

A decision is one signal of one session that reached review. With the model it got one part of the full size, without it
another; the model can only shrink or veto, so its part is never the larger. Both are valued along the same prices:
those of our own fills where we traded, else those of the backtest's engine (entry at the next open, the strategy's own
exits), after costs. So

  value in USD = (shares with - shares without) x result of a share      rounded to the cent, decision by decision
  value in R   = (part with - part without) x R of the trade             a part without a whole share counts as 0
  net          = value - what the model's calls cost

Months and total are sums of these cents. How sure the total is, is told by the stationary bootstrap over sessions, the
counted sessions without any change being zeros. The model is said to earn its keep when the whole interval lies above
zero: at a level of 95 % a model without value is said to earn its keep in at most 2.5 % of cases.

Only sessions after the model's training cut-off count: before it, the model may have read how the trade ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal
from statistics import NormalDist, fmean, stdev
from typing import Final

import numpy as np

from portfolio.backtest.bootstrap import Interval, Resampling, drawn_sums, percentile_interval

CENT: Final = Decimal("0.01")
RESAMPLING: Final = Resampling(draws=2000, level=0.95)
SESSIONS_LEAST: Final = 20
"""Fewer sessions give no interval: the bootstrap would say too much of them."""
EFFECT_BPS: Final = 10.0
POWER: Final = 0.90
_ZERO = Decimal("0.00")


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """One decision with and without the model. `result_usd`: of one share, after costs; None while not known."""

    decision_id: str
    day: date  # the session it was decided in
    part_on: Decimal
    part_off: Decimal
    shares_on: int
    shares_off: int
    entry_usd: Decimal = _ZERO  # per share
    result_usd: Decimal | None = None
    r: float | None = None
    source: str = ""  # ledger, engine, or nothing where both did not trade
    code: str = "OK"

    @property
    def changed(self) -> bool:
        return self.shares_on != self.shares_off

    @property
    def value_usd(self) -> Decimal:
        return self.usd(self.shares_on) - self.usd(self.shares_off)

    def usd(self, shares: int) -> Decimal:
        """In whole cents, so that sums of decisions are sums of cents."""
        if not shares or self.result_usd is None:
            return _ZERO
        return (shares * self.result_usd).quantize(CENT, rounding=ROUND_HALF_EVEN)

    @property
    def value_r(self) -> float:
        on = float(self.part_on) if self.shares_on else 0.0
        off = float(self.part_off) if self.shares_off else 0.0
        return 0.0 if self.r is None else (on - off) * self.r

    @property
    def value_bps(self) -> float | None:
        """Of what one of the two put in; None where nothing was changed."""
        put_in = max(self.shares_on, self.shares_off) * self.entry_usd
        return float(self.value_usd / put_in * 10_000) if self.changed and put_in else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Sums over some sessions. USD in cents; `cost_usd` is rounded to the cent per month."""

    sessions: int
    decisions: int
    vetoed: int
    shrunk: int
    replaced: int  # taken only because the model vetoed another one
    usd_on: Decimal
    usd_off: Decimal
    value_usd: Decimal
    value_r: float
    cost_usd: Decimal
    interval_usd: Interval | None  # of the net value of all these sessions

    @property
    def net_usd(self) -> Decimal:
        return self.value_usd - self.cost_usd

    @property
    def claim(self) -> str:
        """ "earns", "loses" or "not shown"; "too few" without an interval."""
        if self.interval_usd is None:
            return "too few"
        low, high = self.interval_usd.low, self.interval_usd.high
        return "earns" if low is not None and low > 0 else "loses" if high is not None and high < 0 else "not shown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What is told. `left_out`: reason code -> decisions (or sessions) that are in no sum."""

    months: Mapping[str, Span]
    total: Span
    left_out: Mapping[str, int]
    changed: int
    mean_bps: float | None  # per changed decision
    sd_bps: float | None
    needed: int | None  # changed decisions at which 10 bps each are seen with 90 % power


def worth(
    twins: Sequence[Twin], days: Sequence[date], cost_usd: Mapping[date, Decimal], left_out: Mapping[str, int],
    resampling: Resampling = RESAMPLING,
) -> Worth:  # fmt: skip
    """days : every session that counts, also those without a change · cost_usd : by session; of days that count."""
    counted = frozenset(days)
    known = [t for t in twins if t.day in counted and t.code == "OK"]
    gone = Counter(left_out) + Counter(t.code for t in twins if t.day in counted and t.code != "OK")
    by_month: dict[str, list[date]] = {}
    for day in sorted(counted):
        by_month.setdefault(f"{day:%Y-%m}", []).append(day)
    months = {
        month: _span(own, [t for t in known if f"{t.day:%Y-%m}" == month], cost_usd, _cost(own, cost_usd), resampling)
        for month, own in by_month.items()
    }
    paid = sum((span.cost_usd for span in months.values()), _ZERO)
    total = _span(sorted(counted), known, cost_usd, paid, resampling)
    each = [bps for t in known if (bps := t.value_bps) is not None]
    sd_bps = stdev(each) if len(each) > 1 else None
    return Worth(
        months=months, total=total, left_out=dict(sorted(gone.items())), changed=len(each),
        mean_bps=fmean(each) if each else None, sd_bps=sd_bps, needed=None if sd_bps is None else needed(sd_bps),
    )  # fmt: skip


def needed(
    sd_bps: float, *, effect_bps: float = EFFECT_BPS, power: float = POWER, level: float = RESAMPLING.level
) -> int:
    """How many changed decisions show an effect of `effect_bps` each with `power`, their spread being `sd_bps`.

    ((z_(1+level)/2 + z_power) sd / effect)^2, as for the mean of independent values, and a fifth more: what
    the choice of the block length costs.
    """
    normal = NormalDist()
    reach = normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)
    return max(2, int(np.ceil(1.2 * (reach * sd_bps / effect_bps) ** 2)))


def _cost(days: Sequence[date], cost_usd: Mapping[date, Decimal]) -> Decimal:
    exact = sum((cost_usd.get(day, _ZERO) for day in days), _ZERO)
    return exact.quantize(CENT, rounding=ROUND_HALF_EVEN)


def _span(
    days: Sequence[date], twins: Sequence[Twin], cost_usd: Mapping[date, Decimal], paid: Decimal, resampling: Resampling
) -> Span:
    on = sum((t.usd(t.shares_on) for t in twins), _ZERO)
    off = sum((t.usd(t.shares_off) for t in twins), _ZERO)
    return Span(
        sessions=len(days), decisions=len(twins),
        vetoed=sum(1 for t in twins if t.shares_off and not t.shares_on),
        shrunk=sum(1 for t in twins if 0 < t.shares_on < t.shares_off),
        replaced=sum(1 for t in twins if t.shares_on > t.shares_off),
        usd_on=on, usd_off=off, value_usd=on - off, value_r=sum(t.value_r for t in twins), cost_usd=paid,
        interval_usd=_interval(days, twins, cost_usd, resampling),
    )  # fmt: skip


def _interval(
    days: Sequence[date], twins: Sequence[Twin], cost_usd: Mapping[date, Decimal], resampling: Resampling
) -> Interval | None:
    """Of the net value of all sessions together: their sum is drawn again and again."""
    if len(days) < SESSIONS_LEAST:
        return None
    place = {day: k for k, day in enumerate(days)}
    net = np.array([-float(cost_usd.get(day, _ZERO)) for day in days])
    for twin in twins:
        net[place[twin.day]] += float(twin.value_usd)
    block = resampling.block_for(net)
    sums = drawn_sums(net[:, None], block, resampling)[:, 0]
    return _widened(percentile_interval(sums, block, resampling), float(np.sum(net)), len(days))


def _widened(found: Interval, total: float, n: int) -> Interval:
    """The drawn spread of a sum is too narrow by sqrt((n - 1) / n), and a normal's tail is thinner than Student's.

    t by the expansion of Cornish and Fisher, to three digits from nine degrees of freedom on.
    """
    z, free = NormalDist().inv_cdf((1 + found.level) / 2), n - 1
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    wider = t / z * (n / free) ** 0.5
    low = None if found.low is None else total - wider * (total - found.low)
    high = None if found.high is None else total + wider * (found.high - total)
    return replace(found, low=low, high=high)
