"""Turtle soup: a new 20-day low that failed, in an upward trend.

P is the lowest low of the lookback bars before t, its latest occurrence at least min_age bars ago. Setup at the close
of t: L < P < C, (P - L) / ATR >= min_sweep_atr, C > SMA(200), C >= min price. Stop L - stop_atr * ATR,
target fill + target_r * (fill - stop), else time stop.
"""

from __future__ import annotations

import numpy as np

from config.strategy_params import StrategyParams
from core.panel import Panel
from portfolio.strategies.indicators import KINDLY, Block, Ints, Points, Rule, Setup, common_rules, prior_low

NAME = "turtle_soup"


def candidates(block: Block, params: StrategyParams) -> Ints:
    """Flat positions in the block; every setup is among them. The sweep is asked without its division, too kindly."""
    rule = params.turtle_soup
    lowest = block.lowest_before(rule.lookback_bars)
    maybe = block.low < lowest
    maybe &= block.trending
    maybe &= lowest < block.close
    at = np.flatnonzero(maybe)
    swept = (lowest.reshape(-1)[at] - block.low.reshape(-1)[at]) * KINDLY
    return at[swept >= rule.min_sweep_atr * block.atr.reshape(-1)[at]]


def evaluate(panel: Panel, points: Points, params: StrategyParams) -> Setup:
    rule = params.turtle_soup
    lowest, age = prior_low(panel.low, points.rows, points.columns, rule.lookback_bars)
    flat = np.zeros(points.close.shape)
    sweep = np.full(points.close.shape, np.nan)
    np.divide(lowest - points.low, points.atr, out=sweep, where=points.atr > 0)
    rules = [
        *common_rules(points, params.common),
        Rule("LOW_NOT_SWEPT", points.low < lowest, points.low, lowest),
        Rule("LOW_NOT_RECLAIMED", lowest < points.close, points.close, lowest),
        Rule("LOW_TOO_RECENT", age >= rule.min_age_bars, age, flat + rule.min_age_bars),
        Rule("SWEEP_SHALLOW", sweep >= rule.min_sweep_atr, sweep, flat + rule.min_sweep_atr),
    ]
    return Setup(
        strategy=NAME,
        points=points,
        rules=rules,
        stop=points.low - rule.stop_atr * points.atr,
        strength=np.clip(sweep / rule.strength_full_at, 0.0, 1.0),
        numbers={
            "prior_low": lowest,
            "prior_low_age_bars": age,
            "sweep_atr": sweep,
            "sma": points.sma,
            "atr": points.atr,
        },
        target_r=rule.target_r,
        time_stop_bars=rule.time_stop_bars,
    )
