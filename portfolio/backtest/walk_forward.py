"""Walk-forward: parameters are chosen on the past, judged on what came after, and the judged parts stitched together.

A unit of work is one parameter set over the whole span: its signals are followed once, and every fold reads from that.
What a unit tells is small, so it can be kept and sent. The choice is made afterwards, from units alone.

The choice of a fold: the set with the highest score over its training trades (`core/folds.py` says which those are),
among sets with at least `min_trades` of them. Equal scores: the frozen set, else the one that comes first in the grid.
When no set has enough trades or a score, the frozen parameters are judged, and the fold says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config.strategy_params import StrategyParams
from core.bars_io import Days
from core.folds import Fold, choices_of, groups_of, paths, teaches
from core.panel import Panel
from portfolio.backtest.costs import CostModel
from portfolio.backtest.engine import Trades, by_entry, next_free, possible_trades
from portfolio.backtest.marks import daily_returns, place_table
from portfolio.backtest.output import signal_booked
from portfolio.strategies import session_date
from portfolio.strategies.indicators import Bools, Floats, Ints, Prepared

TOO_FEW_TRADES: Final = "TRAIN_TOO_FEW_TRADES"
NO_SCORE: Final = "TRAIN_NO_SCORE"
ONE_SET: Final = "ONE_SET"
GROUPS: Final = 10
TESTED: Final = 2
"""Combinatorial folds: of ten parts of the span every two are once the test, which makes 45 splits and 9 paths."""

T_VALUE, EXPECTANCY, PROFIT_FACTOR = "t_value", "expectancy_r", "profit_factor"
OBJECTIVES: Final = (T_VALUE, EXPECTANCY, PROFIT_FACTOR)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of every unit. Sessions are positions in the panel; the folds' span is first..end, half-open."""

    folds: tuple[Fold, ...]
    embargo: int
    objective: str

    @property
    def first(self) -> int:
        return self.folds[0].train_first

    @property
    def end(self) -> int:
        return self.folds[-1].test_end

    @property
    def test_first(self) -> int:
        return self.folds[0].test_first

    def groups(self) -> tuple[tuple[int, int], ...]:
        return tuple((self.first + low, self.first + high) for low, high in groups_of(self.end - self.first, GROUPS))


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """What one parameter set amounts to.

    scores, trained, purged   (folds,) of the training trades: their score (NaN: none), number, and how many were purged
    split_scores, split_trained   (splits,) the same of the combinatorial folds
    group_trades, group_r     (groups,) closed trades of each group and the sum of their R after costs
    curve                     (sessions of the plan,) daily return after costs of the whole span
    trades                    every possible trade of the test spans, by strategy, symbol and signal
    """

    scores: Floats
    trained: Ints
    purged: Ints
    split_scores: Floats
    split_trained: Ints
    group_trades: Ints
    group_r: Floats
    curve: Floats
    trades: Trades

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything but the names, which the panel and the strategies have."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "trades"}
        return own | {f"trades_{f.name}": getattr(self.trades, f.name) for f in fields(Trades)[2:]}

    @classmethod
    def from_arrays(cls, symbols: tuple[str, ...], strategies: tuple[str, ...], found: dict[str, Any]) -> Unit:
        """Raises KeyError when something is missing."""
        columns = {f.name: found[f"trades_{f.name}"] for f in fields(Trades)[2:]}
        own = {f.name: found[f.name] for f in fields(cls) if f.name != "trades"}
        return cls(**own, trades=Trades(symbols=symbols, strategies=strategies, **columns))


# ---------------------------------------------------------------- one parameter set
@dataclass(frozen=True, slots=True, eq=False)
class _Chain:
    """Every possible trade by owner (strategy and symbol) and signal, and which signal each of them leaves next.

    start, end, entry : sessions; end of a trade still open lies after all of them · r : after costs
    """

    trades: Trades
    owner: Ints
    following: Ints
    start: Ints
    end: Ints
    entry: Ints
    r: Floats
    cost: Floats

    @classmethod
    def of(cls, panel: Panel, trades: Trades, costs: CostModel) -> _Chain:
        owner = _owner(trades)
        order = np.lexsort((trades.signal, owner))
        trades, owner = trades.rows(order), owner[order]
        booked = signal_booked(panel, trades, costs)
        return cls(
            trades=trades,
            owner=owner,
            following=_following(trades, owner),
            start=_sessions(panel, trades.signal_at),
            end=np.where(trades.closed, _sessions(panel, trades.exit_at), panel.sessions.size),
            entry=_sessions(panel, trades.entry_at),
            r=booked.r_multiple,
            cost=booked.cost_fraction,
        )

    def taken(self, firsts: Sequence[int], ends: Sequence[int]) -> tuple[Ints, Ints]:
        """(span, trade) of every trade taken when the signals of that span alone are looked at."""
        owners = np.unique(self.owner)
        stride = int(max([*ends, self.start.max(initial=0)])) + 2
        asked = owners[None, :] * stride + np.array(firsts, dtype=np.intp)[:, None]
        at = np.searchsorted(self.owner * stride + self.start, asked).reshape(-1)
        span = np.repeat(np.arange(len(firsts)), owners.size)
        wanted = np.tile(owners, len(firsts))
        end = np.array(ends, dtype=np.intp)
        spans, found = [np.empty(0, dtype=np.intp)], [np.empty(0, dtype=np.intp)]
        while at.size:
            inside = at < self.owner.size
            at, span, wanted = at[inside], span[inside], wanted[inside]
            live = (self.owner[at] == wanted) & (self.start[at] < end[span])
            at, span, wanted = at[live], span[live], wanted[live]
            spans.append(span)
            found.append(at)
            at = self.following[at]
        return np.concatenate(spans), np.concatenate(found)


def evaluate(prepared: Prepared, params: StrategyParams, plan: Plan, costs: CostModel) -> Unit:
    """One parameter set, everything that choosing and judging will ask of it."""
    panel = prepared.panel
    span = (session_date(panel.sessions[plan.first]), session_date(panel.sessions[plan.end - 1]))
    chain = _Chain.of(panel, possible_trades(prepared, params, *span).every(), costs)
    scores, trained, purged = _training(chain, plan)
    whole = chain.taken([plan.first], [plan.end])[1]
    splits, split_trained, group_trades, group_r = _combinatorial(chain, whole, plan)
    chosen = chain.trades.rows(whole)
    curve, _ = daily_returns(panel, place_table(chosen, chain.cost[whole][chosen.closed]), *span)
    return Unit(
        scores=scores,
        trained=trained,
        purged=purged,
        split_scores=splits,
        split_trained=split_trained,
        group_trades=group_trades,
        group_r=group_r,
        curve=curve,
        trades=chain.trades.rows(chain.start >= plan.test_first),
    )


def _training(chain: _Chain, plan: Plan) -> tuple[Floats, Ints, Ints]:
    firsts, ends = [fold.train_first for fold in plan.folds], [fold.train_end for fold in plan.folds]
    span, at = chain.taken(firsts, ends)
    tests = np.array([fold.test_first for fold in plan.folds])
    kept = chain.end[at] < tests[span]  # what `teaches` says when all training lies before the test
    count = len(plan.folds)
    scores = _scores(plan.objective, span[kept], chain.entry[at[kept]], chain.r[at[kept]], count)
    trained = np.bincount(span[kept], minlength=count)
    return scores, trained, np.bincount(span[~kept], minlength=count)


def _combinatorial(chain: _Chain, whole: Ints, plan: Plan) -> tuple[Floats, Ints, Ints, Floats]:
    groups, choices = plan.groups(), choices_of(GROUPS, TESTED)
    start, end, entry, r = chain.start[whole], chain.end[whole], chain.entry[whole], chain.r[whole]
    closed = chain.trades.closed[whole]
    last = chain.trades.leave.dtype.type(plan.end - 1)
    group = np.searchsorted([high for _, high in groups], start, side="right")
    reach = [int(np.minimum(end, last)[group == k].max(initial=high - 1)) for k, (_, high) in enumerate(groups)]
    clear = [teaches(start, end, [span], [far], plan.embargo) for span, far in zip(groups, reach, strict=True)]
    scores: Floats = np.full(len(choices), np.nan)
    trained: Ints = np.zeros(len(choices), dtype=np.intp)
    for k, choice in enumerate(choices):
        keep = np.flatnonzero(np.logical_and.reduce([clear[g] for g in choice]) & closed)
        scores[k] = _scores(plan.objective, np.zeros(keep.size, dtype=np.intp), entry[keep], r[keep], 1)[0]
        trained[k] = keep.size
    return scores, trained, np.bincount(group[closed], minlength=GROUPS), _sums(group[closed], r[closed], GROUPS)


def _owner(trades: Trades) -> Ints:
    return trades.strategy * len(trades.symbols) + trades.column


def _following(trades: Trades, owner: Ints) -> Ints:
    return next_free(owner, trades.signal, np.where(trades.closed, trades.leave, trades.leave + 1))


def _sessions(panel: Panel, days: Days) -> Ints:
    return np.searchsorted(panel.sessions, days)


# ---------------------------------------------------------------- the objective
def _scores(objective: str, part: Ints, entry: Ints, r: Floats, parts: int) -> Floats:
    """(parts,) score of the trades of each part; NaN where it is undefined.

    t_value        mean R over its standard error, trades of one entry session counting as one observation of that
                   day's market; undefined for fewer than two such sessions or without variation
    expectancy_r   mean R · profit_factor   sum of gains over sum of losses, undefined without a loss
    """
    count = np.bincount(part, minlength=parts)
    total = _sums(part, r, parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        if objective == EXPECTANCY:
            return np.where(count > 0, total / count, np.nan)
        if objective == PROFIT_FACTOR:
            gain, loss = (_sums(part, np.maximum(side, 0.0), parts) for side in (r, -r))
            return np.where(loss > 0, gain / loss, np.nan)
        if objective == T_VALUE:
            return _t_values(part, entry, r, count, total)
    raise ValueError(f"no such objective: {objective}")


def _sums(of: Ints, values: Floats, size: int) -> Floats:
    return np.bincount(of, weights=values, minlength=size).astype(np.float64, copy=False)


def _t_values(part: Ints, entry: Ints, r: Floats, count: Ints, total: Floats) -> Floats:
    parts, width = count.size, int(entry.max(initial=0)) + 1
    days = part * width + entry
    of_day = _sums(days, r, parts * width).reshape(parts, width)
    in_day = np.bincount(days, minlength=parts * width).reshape(parts, width)
    away = np.where(in_day > 0, of_day - in_day * (total / count)[:, None], 0.0)
    sessions = (in_day > 0).sum(axis=1)
    # one after the other: pairs, as numpy sums an axis, would let the last bit depend on how many sessions follow
    squares = _sums(np.repeat(np.arange(parts), width), (away * away).reshape(-1), parts)
    error = np.sqrt(squares * sessions / (sessions - 1))
    flat = error <= 1e-12 * np.abs(total)
    return np.where((sessions > 1) & (error > 0) & ~flat, total / error, np.nan)


# ---------------------------------------------------------------- the choice
@dataclass(frozen=True, slots=True)
class Choice:
    """The set that a training part picks. code: empty, or why the frozen set stands in."""

    number: int  # of the set
    score: float | None
    trained: int
    purged: int
    code: str = ""


def choose(scores: Floats, trained: Ints, candidates: Sequence[int], frozen: int, min_trades: int) -> tuple[int, str]:
    """(set, code) from the scores and training trades of every set; `candidates`, in the grid's order, may be chosen.

    Only the frozen set stands for choice: then it is not a choice (ONE_SET), whatever its score.
    """
    if list(candidates) == [frozen]:
        return frozen, ONE_SET
    enough = [k for k in candidates if trained[k] >= min_trades]
    scored = [k for k in enough if scores[k] == scores[k]]
    if not scored:
        return frozen, NO_SCORE if enough else TOO_FEW_TRADES
    return max(scored, key=lambda k: (scores[k], k == frozen, -candidates.index(k))), ""


def choices(units: Sequence[Unit], plan: Plan, candidates: Sequence[int], frozen: int, min_trades: int) -> list[Choice]:
    """The choice of every fold."""
    found = []
    for k in range(len(plan.folds)):
        scores = np.array([unit.scores[k] for unit in units])
        trained = np.array([unit.trained[k] for unit in units])
        number, code = choose(scores, trained, candidates, frozen, min_trades)
        score = None if scores[number] != scores[number] else float(scores[number])
        found.append(Choice(number, score, int(trained[number]), int(units[number].purged[k]), code))
    return found


def stitched(panel: Panel, possible: Mapping[int, Trades], plan: Plan, numbers: Sequence[int]) -> Trades:
    """The trades of the test spans, fold after fold with the chosen set, by entry session, symbol and strategy.

    possible : per set every possible trade of the test spans. A position that one fold leaves open hides the next
    fold's signals, as it would any. One set throughout is that set's plain backtest over all test spans.
    """
    at = {number: _sessions(panel, possible[number].signal_at) for number in set(numbers)}
    parts = []
    for fold, number in zip(plan.folds, numbers, strict=True):
        inside = (at[number] >= fold.test_first) & (at[number] < fold.test_end)
        parts.append(possible[number].rows(np.flatnonzero(inside)))
    every = joined(parts)
    owner = _owner(every)
    order = np.lexsort((every.signal, owner))
    every, owner = every.rows(order), owner[order]
    taken = every.rows(_from_first(owner, _following(every, owner)))
    return taken.rows(by_entry(taken))


def joined(parts: Sequence[Trades]) -> Trades:
    """One table after the other; all of the same symbols and strategies."""
    columns = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Trades)[2:]}
    return Trades(symbols=parts[0].symbols, strategies=parts[0].strategies, **columns)


def fold_of(plan: Plan, sessions: Ints) -> Ints:
    """The fold in whose test span each session lies; the last one for sessions behind them all."""
    firsts = [fold.test_first for fold in plan.folds]
    return np.maximum(np.searchsorted(firsts, sessions, side="right") - 1, 0)


def _from_first(owner: Ints, following: Ints) -> Bools:
    kept = np.zeros(owner.size, dtype=np.bool_)
    at = np.flatnonzero(np.diff(owner, prepend=-1))
    while at.size:
        kept[at] = True
        at = following[at]
        at = at[at < owner.size]
    return kept


# ---------------------------------------------------------------- combinatorial folds
@dataclass(frozen=True, slots=True)
class Combined:
    """What the same choice would have earned had other parts of the span been the test.

    expectancy_r  of each path, mean R after costs of its trades; None for one without a trade
    losing        splits whose chosen set lost in the test · fallback: splits where the frozen set stood in
    """

    splits: int
    losing: int
    fallback: int
    expectancy_r: tuple[float | None, ...]
    trades: tuple[int, ...]


def combined(units: Sequence[Unit], candidates: Sequence[int], frozen: int, min_trades: int) -> Combined:
    splits = choices_of(GROUPS, TESTED)
    chosen, losing, fallback = [], 0, 0
    for k, tested in enumerate(splits):
        scores = np.array([unit.split_scores[k] for unit in units])
        trained = np.array([unit.split_trained[k] for unit in units])
        number, code = choose(scores, trained, candidates, frozen, min_trades)
        chosen.append(number)
        losing += float(sum(units[number].group_r[g] for g in tested)) < 0.0
        fallback += code in (TOO_FEW_TRADES, NO_SCORE)
    expectancy: list[float | None] = []
    counts = []
    for path in paths(splits, GROUPS):
        n = sum(int(units[chosen[split]].group_trades[g]) for g, split in enumerate(path.tolist()))
        total = sum(float(units[chosen[split]].group_r[g]) for g, split in enumerate(path.tolist()))
        expectancy.append(total / n if n else None)
        counts.append(n)
    return Combined(len(splits), int(losing), fallback, tuple(expectancy), tuple(counts))
