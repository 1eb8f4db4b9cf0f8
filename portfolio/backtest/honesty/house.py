"""Our own engine as a strategy that can be asked. Nothing here knows that it is ours: it is handed in, run again on
other bars, and its trades are compared like anybody's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from config.strategy_params import StrategyParams
from core.bars_io import FIELDS, BarColumns
from core.panel import Panel
from portfolio.backtest.account import Booked
from portfolio.backtest.honesty import ahead
from portfolio.backtest.honesty.asked import Answer, Deal, Raised, Values
from portfolio.backtest.honesty.checks import Effort, Known, examine_answer
from portfolio.backtest.honesty.findings import Check
from portfolio.backtest.honesty.market import Market

Engine = Callable[[Panel, StrategyParams], Booked]

# A backtest asks on every run, so little: the whole list is what scripts/honesty.py is for.
FAST = Effort(cuts=ahead.Effort(cuts=5, changes=1, truncations=3, bars=4), skips=(23,), neighbours=12, symbols=24)


@dataclass(frozen=True, slots=True)
class HouseStrategy:
    """each_alone: the signal level, where no symbol's trades depend on another's."""

    engine: Engine
    params: StrategyParams
    each_alone: bool

    @property
    def parameters(self) -> Values:
        return {
            f"{part.name}.{field.name}": getattr(getattr(self.params, part.name), field.name)
            for part in fields(self.params)
            for field in fields(getattr(self.params, part.name))
        }

    @property
    def names(self) -> tuple[str, ...]:
        return ()

    def ask(self, market: Market, parameters: Values | None = None) -> Answer | Raised:
        panel = Panel.from_bars(market.bars)
        if not panel.symbols:
            return Answer((), independent=0.0)
        return answer_of(self.engine(panel, with_values(self.params, parameters or {})))


def examine_house(subject: HouseStrategy, panel: Panel, booked: Booked, known: Known) -> list[Check]:
    """All checks: fills and costs of every trade of the run, the rest on a sample of its symbols."""
    market = market_of(panel)
    return examine_answer(subject, market, answer_of(booked), known, FAST)


def with_values(params: StrategyParams, values: Values) -> StrategyParams:
    parts: dict[str, Any] = {}
    for part in fields(params):
        own = {name.split(".")[1]: value for name, value in values.items() if name.startswith(f"{part.name}.")}
        parts[part.name] = replace(getattr(params, part.name), **own)
    return StrategyParams(**parts)


def market_of(panel: Panel) -> Market:
    bars = {}
    for column, symbol in enumerate(panel.symbols):
        rows = slice(0, int(panel.length[column]))
        days = panel.sessions[panel.session_index[rows, column]]
        bars[symbol] = BarColumns(days, *(np.ascontiguousarray(getattr(panel, f)[rows, column]) for f in FIELDS))
    return Market(bars)


def answer_of(booked: Booked) -> Answer:
    """Each trade counts as one observation, which is what the statistics' means do."""
    trades, money = booked.trades, booked.pnl_usd
    deals = []
    for i in range(len(trades)):
        closed = bool(trades.reason[i] > 0)
        deals.append(
            Deal(
                symbol=trades.symbols[int(trades.column[i])],
                entry=int(trades.entry_at[i]),
                entry_price=float(trades.entry_price[i]),
                signal=int(trades.signal_at[i]),
                exit=int(trades.exit_at[i]) if closed else None,
                exit_price=float(trades.exit_price[i]) if closed else None,
                quantity=float(booked.quantity[i]),
                cost_usd=float(booked.costs_usd[i]),
                pnl_usd=float(money[i]) if closed else None,
                tag=trades.strategies[int(trades.strategy[i])],
            )
        )
    return Answer(tuple(deals), independent=float(len(deals)))
