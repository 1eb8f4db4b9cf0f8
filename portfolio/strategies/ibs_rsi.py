"""IBS + RSI mean reversion: a close at the very bottom of its range, oversold, in an upward trend.

Setup at the close of t: IBS < ibs_below, RSI(2) < rsi_below, C > SMA(200), C >= min price. Stop C - stop_atr * ATR.
No target. Leaves at the next open after a close with IBS > ibs_exit_above or RSI > rsi_exit_above, else by time stop.
"""

from __future__ import annotations

import numpy as np

from config.strategy_params import StrategyParams
from core.panel import Panel
from portfolio.strategies.indicators import KINDLY, Block, Bools, Floats, Ints, Points, Rule, Setup, common_rules

NAME = "ibs_rsi"


def candidates(block: Block, params: StrategyParams) -> Ints:
    """Flat positions in the block; every setup is among them. IBS is asked without its division, too kindly."""
    rule = params.ibs_rsi
    maybe = block.rsi < rule.rsi_below
    maybe &= block.trending
    reach = block.high - block.low
    reach *= rule.ibs_below * KINDLY
    maybe &= block.close - block.low < reach
    return np.flatnonzero(maybe)


def evaluate(panel: Panel, points: Points, params: StrategyParams) -> Setup:
    rule = params.ibs_rsi
    flat = np.zeros(points.close.shape)
    rules = [
        *common_rules(points, params.common),
        Rule("IBS_UNDEFINED", np.isfinite(points.ibs), points.ibs, flat + rule.ibs_below),
        Rule("IBS_ABOVE", points.ibs < rule.ibs_below, points.ibs, flat + rule.ibs_below),
        Rule("RSI_UNDEFINED", np.isfinite(points.rsi), points.rsi, flat + rule.rsi_below),
        Rule("RSI_ABOVE", points.rsi < rule.rsi_below, points.rsi, flat + rule.rsi_below),
    ]
    depth = (rule.ibs_below - points.ibs) / rule.ibs_below
    oversold = (rule.rsi_below - points.rsi) / rule.rsi_below
    return Setup(
        strategy=NAME,
        points=points,
        rules=rules,
        stop=points.close - rule.stop_atr * points.atr,
        strength=np.clip((depth + oversold) / 2.0, 0.0, 1.0),
        numbers={"ibs": points.ibs, "rsi": points.rsi, "sma": points.sma, "atr": points.atr},
        target_r=None,
        time_stop_bars=rule.time_stop_bars,
    )


def exit_by_ibs(ibs: Floats, params: StrategyParams) -> Bools:
    return ibs > params.ibs_rsi.ibs_exit_above


def exit_by_rsi(rsi: Floats, params: StrategyParams) -> Bools:
    return rsi > params.ibs_rsi.rsi_exit_above
