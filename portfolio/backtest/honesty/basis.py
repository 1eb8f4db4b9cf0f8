"""Adjusted prices: a later split divides every earlier price, so a decision that compares one with a fixed number of
dollars (or shares) is made on a number that nobody saw that day.

Asked in two ways. Where the splits are known, each symbol is put on the basis of every stretch between two of them and
its trades in that stretch must be the same. Where they are not, it is asked what a split after the last bar would do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from core.bars_io import Split, to_day
from portfolio.backtest.honesty.asked import Answer, Deal, Raised, Subject
from portfolio.backtest.honesty.compare import keyed
from portfolio.backtest.honesty.findings import Check, failed, passed, unknown
from portfolio.backtest.honesty.market import Market, rescaled

BASIS = "adjusted_prices"
_RATIOS = (4.0, 16.0)  # powers of two: no other digit of a price changes
_TOO_MANY = 0.02  # of the trades: more than rounding to cents explains

Stretch = tuple[int, int, float]  # first day, day before the next split, factor from the adjusted to that day's price


def adjusted_prices(subject: Subject, market: Market, base: Answer, splits: Sequence[Split] | None = None) -> Check:
    """`splits`: those the bars are adjusted for; None: not known."""
    if not base.deals:
        return unknown(BASIS, "no trade", code="NO_TRADES")
    late = _late_split(subject, market, base)
    if splits is None or late.code != "DEPENDS_ON_PRICE_LEVEL":
        return late
    return _known_splits(subject, market, base, splits)


def _late_split(subject: Subject, market: Market, base: Answer) -> Check:
    """A split of every symbol after the last bar."""
    n = 0
    for ratio in _RATIOS:
        answer = subject.ask(rescaled(market, dict.fromkeys(market.bars, 1.0 / ratio)))
        if isinstance(answer, Raised):
            continue
        n += len(base.deals)
        wrong = _otherwise(base.deals, answer.deals)
        if len(wrong) > _TOO_MANY * len(base.deals):
            told = (
                f"a later {ratio:g}-for-1 split would change {len(wrong)} of {len(base.deals)} trades, first "
                f"{wrong[0]}; "
                "something is compared with a fixed price or number of shares"
            )
            blame = f"{wrong[0]}; column close or volume"
            return failed(BASIS, n, told, code="DEPENDS_ON_PRICE_LEVEL", blame=blame)
    if not n:
        return unknown(BASIS, "the strategy raised on other prices", code="RAISED_WHEN_ASKED")
    return passed(BASIS, n, "a later split changes no trade")


def _known_splits(subject: Subject, market: Market, base: Answer, splits: Sequence[Split]) -> Check:
    stretches = _stretches(market, splits)
    n, wrong = 0, []
    for number in range(max((len(s) for s in stretches.values()), default=0)):
        active = {symbol: own[number] for symbol, own in stretches.items() if number < len(own)}
        answer = subject.ask(rescaled(market, {symbol: factor for symbol, (_, _, factor) in active.items()}))
        if isinstance(answer, Raised):
            return unknown(
                BASIS, f"the strategy raised on the prices of the day: {answer.detail}", code="RAISED_WHEN_ASKED"
            )
        ours, theirs = (_within(a.deals, active) for a in (base, answer))
        n += len(ours)
        wrong += _otherwise(ours, theirs)
    if wrong:
        told = f"{len(wrong)} trades would not be the same on the prices of their day, first {wrong[0]}"
        return failed(
            BASIS,
            max(n, len(wrong)),
            told,
            code="NOT_THE_PRICE_OF_THE_DAY",
            blame=f"{wrong[0]}; column close or volume",
        )
    told = f"{sum(len(s) for s in stretches.values())} stretches before a split, the same trades on each one's prices"
    return passed(BASIS, max(n, len(base.deals)), told)


def _stretches(market: Market, splits: Sequence[Split]) -> Mapping[str, list[Stretch]]:
    """Per symbol the times before each of its splits, newest first."""
    out: dict[str, list[Stretch]] = {}
    for symbol, own in market.bars.items():
        days = sorted((to_day(s.ex_date), s.ratio) for s in splits if s.symbol == symbol and s.ratio > 0)
        days = [(day, ratio) for day, ratio in days if own.dates[0] < day <= own.dates[-1]]
        factor = 1.0
        for place in range(len(days) - 1, -1, -1):
            factor *= days[place][1]
            first = days[place - 1][0] if place else int(own.dates[0])
            out.setdefault(symbol, []).append((first, days[place][0] - 1, factor))
    return out


def _within(deals: Sequence[Deal], active: Mapping[str, Stretch]) -> list[Deal]:
    """Trades entered in the stretch their symbol is asked about."""
    return [d for d in deals if d.symbol in active and active[d.symbol][0] <= d.entry <= active[d.symbol][1]]


def _otherwise(ours: Sequence[Deal], theirs: Sequence[Deal]) -> list[Deal]:
    """Trades that only one of them has, by symbol and entry day; prices differ by the basis and are not compared."""
    mine, his = keyed(ours), keyed(theirs)
    return [
        mine.get(key) or his[key] for key in sorted(mine.keys() ^ his.keys(), key=lambda k: (k[2], k[0], k[1], k[3]))
    ]


def raw_factors(market: Market, splits: Sequence[Split]) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Per bar: the price as it was traded over the adjusted one."""
    out = {}
    for symbol, own in market.bars.items():
        factor = np.ones(len(own))
        for split in splits:
            if split.symbol == symbol and split.ratio > 0 and to_day(split.ex_date) <= own.dates[-1]:
                factor[own.dates < to_day(split.ex_date)] *= split.ratio
        out[symbol] = factor
    return out
