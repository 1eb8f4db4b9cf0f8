"""Parameter luck: a result that stands on one exact number falls with the number beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from portfolio.backtest.honesty.asked import Answer, Deal, Raised, Subject, Values
from portfolio.backtest.honesty.findings import Check, failed, passed, unknown
from portfolio.backtest.honesty.market import Market

LUCK = "parameter_luck"
_STEPS = (-0.2, -0.1, 0.1, 0.2)
_STRONG = 2.0  # t of the mean return from which there is something to explain
_LITTLE = 0.35  # the middle neighbour keeps less than this part of it
_LEAST_TRADES = 10


def parameter_luck(subject: Subject, market: Market, base: Answer, most: int = 12) -> Check:
    """The mean return after costs in its standard errors, against that of neighbouring parameters, each moved alone."""
    if not subject.parameters:
        return unknown(LUCK, "the strategy names no parameters that could be moved", code="NO_PARAMETERS")
    if len(base.deals) < _LEAST_TRADES:
        return unknown(LUCK, f"{len(base.deals)} trades are too few to tell", code="TOO_FEW_TRADES", n=len(base.deals))
    found = []
    for name, values in list(neighbours(subject.parameters, most)):
        answer = subject.ask(market, values)
        if not isinstance(answer, Raised):
            found.append((name, strength(answer.deals)))
    if len(found) < 2:
        return unknown(LUCK, "no neighbour could be asked", code="RAISED_WHEN_ASKED")
    own, middle = strength(base.deals), float(np.median([t for _, t in found]))
    told = f"t of the mean return {own:.2f}, of {len(found)} neighbours {middle:.2f} in the middle"
    worst, worst_middle = _worst(found)
    if own >= _STRONG and min(middle, worst_middle) < _LITTLE * own:
        told += f", {worst_middle:.2f} around {worst}"
        return failed(LUCK, len(base.deals), told, code="NEIGHBOURS_FAIL", blame=f"parameter {worst}")
    return passed(LUCK, len(base.deals), told)


def neighbours(parameters: Values, most: int) -> Iterator[tuple[str, Values]]:
    """Each number moved by 10 and 20 percent, whole ones by at least 1; with many numbers, only by 10 (one way)."""
    names = sorted(parameters)
    steps = _STEPS if 4 * len(names) <= most else (-0.1, 0.1) if 2 * len(names) <= most else (0.1,)
    for name in names:
        value, seen = parameters[name], {parameters[name]}
        for step in steps:
            moved = _moved(value, step)
            if moved not in seen and (moved > 0 or value <= 0):
                seen.add(moved)
                yield name, {**parameters, name: moved}


def _moved(value: float, step: float) -> float:
    if isinstance(value, int):
        return value + int(math.copysign(max(1, round(abs(value * step))), step))
    return value * (1.0 + step) if value else step


def strength(deals: tuple[Deal, ...]) -> float:
    """Mean return after costs over its standard error; days are what counts, all trades of a day are one."""
    by_day: dict[int, list[float]] = {}
    for deal in deals:
        if deal.gross is not None:
            cost = (deal.cost_usd or 0.0) / (deal.entry_price * (deal.quantity or 1.0))
            by_day.setdefault(deal.entry, []).append(deal.gross - cost)
    means = np.array([np.mean(own) for own in by_day.values()])
    if means.size < 3:
        return 0.0
    spread = float(means.std(ddof=1))
    return 0.0 if spread == 0 else float(means.mean()) / spread * math.sqrt(means.size)


def _worst(found: list[tuple[str, float]]) -> tuple[str, float]:
    """The parameter around which the result is weakest in the middle."""
    by_name: dict[str, list[float]] = {}
    for name, value in found:
        by_name.setdefault(name, []).append(value)
    return min(((name, float(np.median(own))) for name, own in by_name.items()), key=lambda pair: pair[1])
