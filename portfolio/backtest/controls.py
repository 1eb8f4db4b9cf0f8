"""What the same effort earns without the idea: random entries, random walks, and simply holding.

random_entries  every trade keeps its symbol, strategy, stop and exit rules; its date is drawn anew from the sessions of
                the span on which that symbol traded. What is left is what the exits earn in this market.
random_walks    the rules untouched, on a market without memory: each symbol's own bars in a drawn order, so that its
                drift, volatility and first and last close stay and every pattern between bars goes.
buy_and_hold    equal money in every symbol at the first open of the span, never touched.

The rules and exits are the engine's, handed in. Cost: a round of random entries walks as many trades as the backtest
has; a round of random walks is one shuffle of the panel and one whole backtest. `rounds` bounds both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config.strategy_params import StrategyParams
from core.bars_io import FIELDS
from core.panel import Panel
from portfolio.backtest.bootstrap import Floats, Ints, Resampling, percentile_interval
from portfolio.backtest.costs import CostModel
from portfolio.backtest.engine import Trades, followed, signal_trades
from portfolio.backtest.marks import daily_returns, place_table
from portfolio.backtest.metrics import (
    CURVE_NAMES,
    MEAN,
    Figure,
    curve_figures,
    curve_statistics,
    point_figures,
    table_columns,
)
from portfolio.backtest.output import signal_booked
from portfolio.strategies import STRATEGIES, session_number
from portfolio.strategies.indicators import Prepared, points_of, prepare

RANDOM_ENTRIES: Final = "random_entries"
RANDOM_WALKS: Final = "random_walks"
BUY_AND_HOLD: Final = "buy_and_hold"
ENTRY_ROUNDS: Final = 199
WALK_ROUNDS: Final = 20
TRADE_NAMES: Final = ("profit_factor", "win_rate", "expectancy_r", MEAN, "average_holding_bars")
COMPARED: Final = {RANDOM_ENTRIES: MEAN, RANDOM_WALKS: MEAN, BUY_AND_HOLD: "sharpe"}
"""The figure that decides. Not R for random entries: a stop made for another bar is tighter or wider, which moves R on
a market without any pattern (-0.05 R on drawn ones), but not the mean return."""
_REDRAWS: Final = 30
_COLUMNS: Final = 64  # symbols shuffled at a time

Follow = Callable[[str, Ints, Ints], Trades]
"""(strategy, rows, columns) → what follows each of these signals alone; those that are not entered are left out."""
Rules = Callable[[Panel], Trades]
"""The whole signal-level backtest of a panel."""
CostOf = Callable[[Panel, Trades], Floats]
"""What each closed trade costs, both ways, as a fraction of its entry price: a control pays what the strategy pays."""


@dataclass(frozen=True, slots=True, eq=False)
class Control:
    """Figures of a control: the median of its rounds, the interval being where the middle 90 % of them lay.

    drawn    per figure, its value in every round; NaN where a round had none. One round: nothing was drawn
    """

    name: str
    rounds: int
    seed: int
    figures: Mapping[str, Figure]
    drawn: Mapping[str, Floats]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of the strategy beside that of a control; `beaten` only when it can be told.

    p_value : (1 + rounds at or above the strategy) / (1 + rounds); None where nothing was drawn and only the two
    values are compared. A round without the figure counts as above.
    """

    control: str
    figure: str
    observed: float | None
    of_control: float | None
    p_value: float | None
    rounds: int
    beaten: bool
    reason: str = ""


def compare(control: Control, figure: str, observed: Figure, p_max: float) -> Comparison:
    theirs = control.figures[figure]
    base = Comparison(control.name, figure, observed.value, theirs.value, None, control.rounds, beaten=False)
    if observed.value is None or theirs.value is None:
        return replace(base, reason=observed.reason if observed.value is None else theirs.reason)
    if control.rounds <= 1:
        return replace(base, beaten=observed.value > theirs.value)
    drawn = control.drawn[figure]
    p_value = (1 + int(np.sum(~(drawn < observed.value)))) / (1 + drawn.size)
    return replace(base, p_value=p_value, beaten=p_value <= p_max)


def compare_all(controls: Sequence[Control], ours: Mapping[str, Figure], p_max: float) -> list[Comparison]:
    """Each control by its deciding figure, signal level with signal level; one we do not have is not beaten."""
    found = []
    for control in controls:
        figure = COMPARED.get(control.name, "sharpe")
        found.append(compare(control, figure, ours.get(figure, Figure(None, 0, "trades", "NOT_MEASURED")), p_max))
    return found


# ---------------------------------------------------------------- the engine's rules, as they are handed in
def exits_of(prepared: Prepared, params: StrategyParams) -> Follow:
    """Any bar as if it were a signal of that strategy: its stop at that bar, its target and its exits."""
    modules = {module.NAME: module for module in STRATEGIES}

    def follow(strategy: str, rows: Ints, columns: Ints) -> Trades:
        unknown = np.full(rows.shape, np.nan)  # the average decides only whether it is a signal
        trending = prepared.trending[rows, columns]
        points = points_of(prepared.panel, prepared.series, rows, columns, trending, unknown)
        setup = modules[strategy].evaluate(prepared.panel, points, params)
        return followed(prepared, params, [setup]).every()

    return follow


def rules_of(params: StrategyParams, start: date, end: date) -> Rules:
    """The signal-level backtest of the span."""
    return lambda panel: signal_trades(prepare(panel, params.common), params, start, end)


def costs_of(costs: CostModel) -> CostOf:
    """What the backtest charges, by the price, the volume and the day of each trade."""
    return lambda panel, ended: signal_booked(panel, ended, costs).cost_fraction


# ---------------------------------------------------------------- rounds
def random_entries(
    panel: Panel,
    trades: Trades,
    follow: Follow,
    start: date,
    end: date,
    *,
    first_row: int,
    rounds: int = ENTRY_ROUNDS,
    seed: int = 1,
    cost: CostOf | None = None,
) -> Control:
    """`trades` with their dates drawn at random, `rounds` times.

    first_row : signals are drawn from the symbol's bars from this one on, as the strategy's own need a full window.
    A drawn signal that is not entered (no bar next session, open at the stop) or does not end is drawn again; what
    cannot be placed after 30 times is left out and noted. Two trades of a symbol may overlap.
    """
    rng = np.random.default_rng(seed)
    wanted = trades.rows(trades.closed)
    low, high = _rows_within(panel, start, end, first_row)
    found, missing = [], 0
    for _ in range(rounds):
        parts = []
        for k, name in enumerate(trades.strategies):
            made, left = _random_trades(wanted.column[wanted.strategy == k], low, high, name, follow, rng)
            parts += made
            missing += left
        found.append(_figures_of(panel, parts, start, end, cost))
    notes = (f"{missing} of {rounds * len(wanted)} entries could not be placed",) if missing else ()
    return _control(RANDOM_ENTRIES, found, seed, notes)


def _rows_within(panel: Panel, start: date, end: date, first_row: int) -> tuple[Ints, Ints]:
    """Per symbol: first and one past the last row with a session in the span, from `first_row` on."""
    at = np.searchsorted(panel.sessions, [session_number(start), session_number(end) + 1])
    index = panel.session_index
    low = ((index >= 0) & (index < at[0])).sum(axis=0)
    high = ((index >= 0) & (index < at[1])).sum(axis=0)
    return np.maximum(low, first_row).astype(np.intp), high.astype(np.intp)


def _random_trades(
    columns: Ints, low: Ints, high: Ints, strategy: str, follow: Follow, rng: np.random.Generator
) -> tuple[list[Trades], int]:
    """One trade for each of `columns`, on a row of its symbol drawn from low..high; how many could not be placed."""
    made: list[Trades] = []
    open_columns = columns[high[columns] > low[columns]]
    unplaceable = columns.size - open_columns.size
    for _ in range(_REDRAWS):
        if not open_columns.size:
            break
        rows = rng.integers(low[open_columns], high[open_columns])
        order = np.lexsort((rows, open_columns))
        followed = follow(strategy, rows[order], open_columns[order])
        ended = followed.rows(followed.closed)
        made.append(ended)
        open_columns = _without(open_columns, ended.column)
    return made, unplaceable + open_columns.size


def _without(columns: Ints, done: Ints) -> Ints:
    """`columns` less one of each in `done`."""
    n = int(columns.max()) + 1
    left = np.bincount(columns, minlength=n) - np.bincount(done, minlength=n)
    return np.repeat(np.arange(n), np.maximum(left, 0))


def random_walks(
    panel: Panel,
    rules: Rules,
    start: date,
    end: date,
    *,
    rounds: int = WALK_ROUNDS,
    seed: int = 1,
    cost: CostOf | None = None,
    block_bars: int = 1,
) -> Control:
    """The rules on `rounds` shuffled panels; see `shuffled`."""
    found, left_out = [], 0
    for k in range(rounds):
        walk, bad = shuffled(panel, np.random.default_rng([seed, k]), block_bars)
        left_out = len(bad)
        found.append(_figures_of(walk, [rules(walk)], start, end, cost))
    notes = (f"{left_out} symbols with a price at or below 0 left out",) if left_out else ()
    return _control(RANDOM_WALKS, found, seed, notes)


def shuffled(panel: Panel, rng: np.random.Generator, block_bars: int = 1) -> tuple[Panel, tuple[str, ...]]:
    """The panel with every symbol's bars in a drawn order, and the symbols that had to be left out.

    A bar is moved as a whole: its gap from the close before, and its high, low and close over its open; volume goes
    along. The first bar stays. Sessions of one drawn key move together, so that symbols with the same history keep
    their correlation; blocks of `block_bars` sessions stay in order. Prices at or below 0 have no ratio.
    """
    live = np.arange(panel.close.shape[0])[:, None] < panel.length[None, :]
    positive = (panel.open > 0) & (panel.high > 0) & (panel.low > 0) & (panel.close > 0)
    good = (positive | ~live).all(axis=0)
    bad = tuple(panel.symbols[int(k)] for k in np.flatnonzero(~good))
    if bad:
        panel = panel.select([panel.symbols[int(k)] for k in np.flatnonzero(good)])
        live = live[:, good]
    if not panel.close.size:
        return panel, bad
    keys = rng.random(panel.sessions.size // block_bars + 1)[np.arange(panel.sessions.size) // block_bars]
    made: dict[str, Any] = {name: np.empty(panel.close.shape) for name in FIELDS}
    for first in range(0, len(panel.symbols), _COLUMNS):
        part = slice(first, first + _COLUMNS)
        for name, values in _moved(panel, part, live[:, part], keys).items():
            made[name][:, part] = values
    return replace(panel, **made), bad


def _moved(panel: Panel, part: slice, live: NDArray[np.bool_], keys: Floats) -> dict[str, Floats]:
    """Some columns with their bars in the order of the keys: a few at a time, which keeps the memory small."""
    drawn = np.where(live, keys[np.maximum(panel.session_index[:, part], 0)], np.inf)
    drawn[0] = -1.0
    order = np.argsort(drawn, axis=0, kind="stable")
    opened, high, low, close, volume = (getattr(panel, name)[:, part] for name in FIELDS)
    gap = np.ones(opened.shape)
    np.divide(opened[1:], close[:-1], out=gap[1:])
    ratios = (gap, high / opened, low / opened, close / opened, volume)
    gap, up, down, end, volume = (np.take_along_axis(values, order, axis=0) for values in ratios)
    path = np.cumprod(gap * end, axis=0) * opened[0]  # closes; NaN after the last bar stays NaN
    start = gap * np.concatenate([opened[:1], path[:-1]])
    found = (start, start * up, start * down, start * end, volume)
    return {name: np.where(live, values, np.nan) for name, values in zip(FIELDS, found, strict=True)}


# ---------------------------------------------------------------- figures
def _figures_of(
    panel: Panel, parts: list[Trades], start: date, end: date, cost: CostOf | None
) -> tuple[dict[str, float], int]:
    """Point figures of one round, and its closed trades."""
    if not parts:
        return dict.fromkeys((*TRADE_NAMES, *CURVE_NAMES), np.nan), 0
    ended = _joined(parts)
    paid = 0.0 if cost is None else cost(panel, ended)
    figures = point_figures(table_columns(ended, paid))
    returns, _ = daily_returns(panel, place_table(ended, paid), start, end)
    curve = curve_statistics(returns[None, :])[0] if returns.size > 1 else np.full(len(CURVE_NAMES), np.nan)
    named = {name: figures[name] for name in TRADE_NAMES} | dict(zip(CURVE_NAMES, curve.tolist(), strict=True))
    return named, len(ended)


def _joined(parts: list[Trades]) -> Trades:
    """The closed trades of all parts; whose strategy is whose is not kept, the figures of a round do not ask."""
    ended = [part.rows(part.closed) for part in parts]
    columns = [f.name for f in fields(Trades) if isinstance(getattr(ended[0], f.name), np.ndarray)]
    joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in ended]) for name in columns}
    joined["strategy"] = np.zeros(joined["column"].size, dtype=np.intp)
    return replace(ended[0], **joined)


def _control(name: str, found: list[tuple[dict[str, float], int]], seed: int, notes: tuple[str, ...]) -> Control:
    rounds = len(found)
    n = int(np.median([count for _, count in found])) if found else 0
    of = f"trades in each of {rounds} rounds"
    drawn = {key: np.array([values[key] for values, _ in found]) for key in (*TRADE_NAMES, *CURVE_NAMES)}
    figures = {}
    for key, values in drawn.items():
        told = values[~np.isnan(values)]
        middle = float(np.median(told)) if told.size else np.nan
        if not np.isfinite(middle):
            figures[key] = Figure(None, n, of, "UNDEFINED_IN_THE_ROUNDS" if rounds else "NO_ROUNDS")
        else:
            interval = percentile_interval(values, 0.0, Resampling(draws=max(rounds, 20), seed=seed), "rounds")
            figures[key] = Figure(middle, n, of, interval=interval)
    return Control(name, rounds, seed, figures, drawn, notes)


# ---------------------------------------------------------------- holding
def buy_and_hold(panel: Panel, start: date, end: date, resampling: Resampling) -> Control:
    """Equal money in every symbol that trades in the first session of the span; names listed later are not in it.

    A symbol without a bar is worth its last close; one that ends stays what it was worth.
    """
    returns, names = held_returns(panel, start, end)
    late = len(panel.symbols) - names
    notes = (f"{names} symbols held; {late} that did not trade in the first session are not",)
    return curve_control(BUY_AND_HOLD, returns, resampling, notes)


def curve_control(name: str, returns: Floats, resampling: Resampling, notes: tuple[str, ...] = ()) -> Control:
    """A daily curve, SPY for instance, as a control."""
    figures = curve_figures(returns, resampling)
    return Control(name, 1, resampling.seed, figures, {}, notes)


def held_returns(panel: Panel, start: date, end: date) -> tuple[Floats, int]:
    """Daily returns of equal money held from the first open, and in how many symbols; one a session of the span."""
    low, high = np.searchsorted(panel.sessions, [session_number(start), session_number(end) + 1])
    n = int(high - low)
    rows, columns = np.nonzero((panel.session_index >= low) & (panel.session_index < high))
    at = panel.session_index[rows, columns] - low
    starts = np.zeros(len(panel.symbols), dtype=np.bool_)
    starts[columns[at == 0]] = True
    if not starts.any():
        return np.zeros(0), 0
    dense = np.full((n, len(panel.symbols)), np.nan)
    dense[at, columns] = panel.close[rows, columns]
    dense = dense[:, starts]
    last = np.maximum.accumulate(np.where(np.isnan(dense), 0, np.arange(n)[:, None]), axis=0)
    opened = np.empty(len(panel.symbols))
    opened[columns[at == 0]] = panel.open[rows[at == 0], columns[at == 0]]
    wealth = np.mean(np.take_along_axis(dense, last, axis=0) / opened[starts], axis=1)
    return wealth / np.concatenate([[1.0], wealth[:-1]]) - 1.0, int(starts.sum())
