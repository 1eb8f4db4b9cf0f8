"""What a run may be believed for: its figures with their uncertainty, what else was tried, the controls, the gate.

Pure: the trials come from the ledger, in which the run itself was recorded before (a winner that was not noted has no
deflated Sharpe ratio). What comes back is ready for JSON; a number stands beside its `n` and what that counts (`of`),
or it is absent with a `reason`. Same arguments, same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Any, Final

import numpy as np

from core.bars_io import BarColumns, Days
from portfolio.backtest.bootstrap import Floats, Resampling
from portfolio.backtest.controls import (
    BUY_AND_HOLD,
    ENTRY_ROUNDS,
    RANDOM_ENTRIES,
    RANDOM_WALKS,
    WALK_ROUNDS,
    Comparison,
    Control,
    CostOf,
    Follow,
    Rules,
    compare_all,
    curve_control,
    held_returns,
    random_entries,
    random_walks,
)
from portfolio.backtest.deflated import Deflation, deflate, moments
from portfolio.backtest.marks import excursions, place_table
from portfolio.backtest.metrics import (
    PER_YEAR,
    Figure,
    Group,
    TradeColumns,
    booked_columns,
    curve_figures,
    table_columns,
    trade_figures,
)
from portfolio.backtest.overfitting import Overfitting, probability_of_overfitting
from portfolio.backtest.promotion import Promotion, PromotionLimits, judge, power_table
from portfolio.backtest.run import FAMILY, Run, trial_of
from portfolio.backtest.trials import Trial, summarise
from portfolio.backtest.words import promotion_words
from portfolio.strategies import session_date

__all__ = ["FAMILY", "Against", "Run", "benchmark_curves", "evidence", "figure_json", "spy_returns", "trial_of"]

SPY: Final = "SPY"
SPY_ABSENT: Final = "SPY_BARS_ABSENT"
SPY_PARTIAL: Final = "SPY_SPAN_NOT_COVERED"
_TOLD: Final = 12  # trials told by name, the best by Sharpe ratio

Tick = Callable[..., None]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Against:
    """What the run is put beside. None: that control is absent, and the gate says so.

    follow, rules, cost   the engine's, see controls.py · first_row: the first bar on which the strategies can signal
    spy                   daily bars of SPY, wherever they begin and end; None: spy_code says why
    variants              (sessions, variants) daily returns of everything that was searched, for PBO
    """

    follow: Follow | None
    rules: Rules | None
    cost: CostOf | None
    first_row: int
    spy: BarColumns | None = None
    spy_source: str = ""
    spy_code: str = SPY_ABSENT
    variants: Floats | None = None
    entry_rounds: int = ENTRY_ROUNDS
    walk_rounds: int = WALK_ROUNDS


def evidence(
    run: Run,
    against: Against,
    trials: Sequence[Trial],
    winner: str,
    *,
    resampling: Resampling | None = None,
    limits: PromotionLimits | None = None,
    tick: Tick = lambda *_: None,
) -> dict[str, Any]:
    """The blocks `statistics`, `trials`, `controls`, `benchmark`, `promotion` of summary.json.

    trials : of the family, this run among them · winner : its key
    """
    resampling, limits = resampling or Resampling(), limits or PromotionLimits()
    tick("evidence: intervals")
    found = _Figures.of(run, resampling)
    summary = summarise(trials, winner)
    deflation = deflate(moments(run.returns), summary)
    overfitting = None if against.variants is None else probability_of_overfitting(against.variants)
    controls, held = _controls(run, against, resampling, tick)
    comparisons = compare_all(controls, found.compared, limits.control_p_max)
    promotion = judge(deflation, overfitting, comparisons, limits)
    return {
        "statistics": found.block(deflation, overfitting, resampling),
        "trials": _trials_block(trials, winner, deflation),
        "controls": _controls_block(controls, comparisons, found.compared),
        "benchmark": _benchmark_block(controls, against, held),
        "promotion": _promotion_block(promotion, deflation),
    }


# ---------------------------------------------------------------- figures
@dataclass(frozen=True, slots=True, eq=False)
class _Figures:
    columns: TradeColumns
    after: Sequence[Group]
    before: Sequence[Group]
    curve: Mapping[str, Figure]
    compared: Mapping[str, Figure]  # every figure by which a control may be compared; trades all weigh the same

    @classmethod
    def of(cls, run: Run, resampling: Resampling) -> _Figures:
        trades, booked = run.booked.trades, run.booked
        marks = excursions(run.panel, place_table(trades))
        even = table_columns(trades, booked.cost_fraction[trades.closed], marks)
        if run.level == "signals":
            columns, free = even, table_columns(trades, 0.0, marks)
        else:
            columns = booked_columns(booked, marks)
            free = booked_columns(replace(booked, costs_usd=np.zeros(len(trades))), marks)
        curve = curve_figures(run.returns, resampling, exposure=run.exposure, turnover=run.turnover)
        after = trade_figures(columns, resampling)
        alike = after if columns is even else trade_figures(even, resampling)
        return cls(columns, after, trade_figures(free, resampling), curve, {**alike[0].figures, **curve})

    def block(self, deflation: Deflation, overfitting: Overfitting | None, resampling: Resampling) -> dict[str, Any]:
        return {
            "unit": self.columns.unit,
            "intervals": {"level": resampling.level, "draws": resampling.draws, "seed": resampling.seed},
            "closed": int(self.columns.profit.size),
            "open": self.columns.still_open,
            "after_costs": _groups(self.after),
            "before_costs": _groups(self.before),
            "curve": _figures(self.curve),
            "sharpe": _sharpe_block(deflation),
            "overfitting": _overfitting_block(overfitting),
        }


def figure_json(figure: Figure) -> dict[str, Any]:
    """A figure for JSON, never without its n; low and high are None where that side is unbounded or not told."""
    told = figure.interval if figure.value is not None else None
    return {
        "value": figure.value,
        "n": figure.n,
        "of": figure.of,
        "reason": figure.reason,
        "low": None if told is None else told.low,
        "high": None if told is None else told.high,
        "interval": None if told is None else told.kind,
    }


def _figures(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: figure_json(figure) for name, figure in figures.items()}


def _groups(groups: Sequence[Group]) -> dict[str, Any]:
    """{"all": figures, "strategies": {name: figures}, "exits": {reason: figures}}."""
    of = {kind: {g.name: _figures(g.figures) for g in groups if g.kind == kind} for kind in ("strategy", "exit")}
    return {"all": _figures(groups[0].figures), "strategies": of["strategy"], "exits": of["exit"]}


def _plain(value: float | None, n: int, of: str, reason: str = "") -> dict[str, Any]:
    return figure_json(Figure(value, n, of, reason if value is None else ""))


def _sharpe_block(found: Deflation) -> dict[str, Any]:
    """PSR, DSR and what they rest on; `benchmark` is the year's Sharpe ratio that luck alone would show."""
    n, year = found.observations, math.sqrt(PER_YEAR)
    luck = None if found.dsr is None else found.benchmark * year
    length = found.minimum_track_record
    short = found.reason or "NOT_ABOVE_LUCK"
    return {
        "psr": _plain(found.psr, n, "sessions", found.reason),
        "dsr": _plain(found.dsr, found.trials.n, "trials", found.reason),
        "benchmark": _plain(luck, found.trials.n, "trials", found.reason),
        "minimum_track_record_sessions": _plain(length, n, "sessions", short),
    }


def _overfitting_block(found: Overfitting | None) -> dict[str, Any]:
    if found is None:
        return {"pbo": _plain(None, 0, "splits", "PBO_ABSENT"), "variants": 0, "rows": 0}
    lost = found.probability_of_loss
    return {
        "pbo": _plain(found.pbo, found.splits, "splits", found.reason),
        "probability_of_loss": _plain(lost, found.splits, "splits", found.reason),
        "slope": _plain(found.slope, found.splits, "splits", found.reason or "NO_VARIATION"),
        "variants": found.variants,
        "rows": found.rows,
    }


# ---------------------------------------------------------------- trials
def _trials_block(trials: Sequence[Trial], winner: str, deflation: Deflation) -> dict[str, Any]:
    """What the ledger holds of the family; the best by Sharpe ratio are told by name, this run in any case."""
    found, year = deflation.trials, math.sqrt(PER_YEAR)
    distinct = {trial.key: trial for trial in trials}
    best = sorted(distinct.items(), key=lambda item: (-(item[1].sharpe or -math.inf), item[0]))
    told = [(key, trial) for at, (key, trial) in enumerate(best) if at < _TOLD or key == winner]
    spread = math.sqrt(found.spread_of_luck(deflation.observations)) * year
    return {
        "n": found.n,
        "of": "trials",
        "undefined": found.undefined,
        "families": sorted({trial.family for trial in trials}),
        "effective": _plain(found.effective_n, found.n, "trials"),
        "mean_correlation": _plain(found.mean_correlation, found.n, "trials", "TOO_FEW_TRIALS"),
        "spread_of_luck": _plain(spread, found.n, "trials"),
        "told": [_trial_row(key, trial, key == winner) for key, trial in told],
    }


def _trial_row(key: str, trial: Trial, this: bool) -> dict[str, Any]:
    sharpe = None if trial.sharpe is None else trial.sharpe * math.sqrt(PER_YEAR)
    return {
        "key": key[:12],
        "this_run": this,
        "strategy": trial.strategy,
        "level": trial.level,
        "start": trial.start.isoformat(),
        "end": trial.end.isoformat(),
        "sharpe": _plain(sharpe, trial.observations, "sessions", "NO_VARIATION"),
    }


# ---------------------------------------------------------------- controls and benchmark
@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    names: int  # in the equal-weight holding
    spy_code: str


def _controls(run: Run, against: Against, resampling: Resampling, tick: Tick) -> tuple[list[Control], _Held]:
    found: list[Control] = []
    trades, span = run.booked.trades, (run.start, run.end)
    if against.follow is not None and trades.closed.any():
        tick(f"evidence: {against.entry_rounds} rounds of random entries")
        found.append(
            random_entries(
                run.panel, trades, against.follow, *span, first_row=against.first_row, rounds=against.entry_rounds,
                cost=against.cost,
            )
        )  # fmt: skip
    if against.rules is not None:
        tick(f"evidence: {against.walk_rounds} rounds of random walks")
        found.append(random_walks(run.panel, against.rules, *span, rounds=against.walk_rounds, cost=against.cost))
    tick("evidence: holding")
    equal, names = held_returns(run.panel, *_sessions_of(run)) if run.days.size else (np.zeros(0), 0)
    notes = (f"{names} symbols held from the first session; {len(run.panel.symbols) - names} began later",)
    if names:
        found.append(curve_control(BUY_AND_HOLD, equal, resampling, notes))
    spy, code = spy_returns(against.spy, run.days)
    if against.spy is None:
        code = against.spy_code
    if spy is not None:
        found.append(curve_control(SPY, spy, resampling, ("price only, without dividends",)))
    return found, _Held(names, code)


def _sessions_of(run: Run) -> tuple[date, date]:
    return session_date(run.days[0]), session_date(run.days[-1])


def spy_returns(bars: BarColumns | None, days: Days) -> tuple[Floats | None, str]:
    """Daily returns of SPY held from the first open of `days`, one a session; None with the code why not.

    A session without a bar in between keeps the last close. Bars that begin later or end earlier tell nothing.
    """
    if bars is None or not len(bars) or not days.size:
        return None, SPY_ABSENT
    if bars.dates[0] > days[0] or bars.dates[-1] < days[-1] or days[0] not in bars.dates:
        return None, SPY_PARTIAL
    at = np.searchsorted(bars.dates, days, side="right") - 1
    wealth = np.asarray(bars.close[at] / bars.open[at[0]], dtype=np.float64)
    if not (np.isfinite(wealth) & (wealth > 0)).all():
        return None, SPY_PARTIAL
    return wealth / np.concatenate([[1.0], wealth[:-1]]) - 1.0, ""


def benchmark_curves(run: Run, spy: BarColumns | None) -> dict[str, Floats]:
    """Wealth at each close of `run.days`, 1 before the first: of equal money in every symbol and, if known, of SPY."""
    curves: dict[str, Floats] = {}
    if run.days.size:
        equal, names = held_returns(run.panel, *_sessions_of(run))
        if names and equal.size == run.days.size:
            curves["equal_weight"] = _wealth(equal)
    returns, _ = spy_returns(spy, run.days)
    if returns is not None:
        curves["spy"] = _wealth(returns)
    return curves


def _wealth(returns: Floats) -> Floats:
    return np.asarray(np.cumprod(1.0 + returns), dtype=np.float64)


def _controls_block(
    controls: Sequence[Control], comparisons: Sequence[Comparison], ours: Mapping[str, Figure]
) -> dict[str, Any]:
    there = {control.name for control in controls}
    return {
        "side_by_side": [
            {
                "name": control.name,
                "rounds": control.rounds,
                "seed": control.seed,
                "notes": list(control.notes),
                "figures": _figures(control.figures),
                "comparison": _comparison(comparison, ours),
            }
            for control, comparison in zip(controls, comparisons, strict=True)
        ],
        "absent": [
            {"name": name, "code": "CONTROL_ABSENT"}
            for name in (RANDOM_ENTRIES, RANDOM_WALKS, BUY_AND_HOLD)
            if name not in there
        ],
        "ours": _figures(ours),
    }


def _comparison(found: Comparison, ours: Mapping[str, Figure]) -> dict[str, Any]:
    """p is absent where nothing was drawn: then the two values are compared."""
    mine = ours.get(found.figure, Figure(None, 0, "trades", "NOT_MEASURED"))
    return {
        "figure": found.figure,
        "ours": figure_json(mine),
        "p": _plain(found.p_value, found.rounds, "rounds", found.reason or "NOTHING_DRAWN"),
        "beaten": found.beaten,
        "code": "" if found.beaten else (found.reason or "CONTROL_NOT_BEATEN"),
    }


def _benchmark_block(controls: Sequence[Control], against: Against, held: _Held) -> dict[str, Any]:
    """`shown` is what the equity curve is drawn against."""
    named = {control.name: control for control in controls}
    equal, spy = named.get(BUY_AND_HOLD), named.get(SPY)
    return {
        "shown": "spy" if spy else ("equal_weight" if equal else None),
        "spy": {
            "code": held.spy_code,
            "source": against.spy_source if spy else "",
            "figures": _figures(spy.figures) if spy else {},
            "notes": list(spy.notes) if spy else [],
        },
        "equal_weight": {
            "code": "" if equal else "NO_SYMBOL_IN_THE_FIRST_SESSION",
            "figures": _figures(equal.figures) if equal else {},
            "notes": list(equal.notes) if equal else [],
        },
    }


# ---------------------------------------------------------------- the gate
def _promotion_block(found: Promotion, deflation: Deflation) -> dict[str, Any]:
    verdicts = [_without_nan(asdict(verdict)) for verdict in found.verdicts]
    power = [
        {"true_sharpe": sharpe, **_plain(share, deflation.observations, "sessions")}
        for sharpe, share in power_table(deflation).items()
    ]
    block = {"promoted": found.promoted, "codes": list(found.codes), "verdicts": verdicts, "power": power}
    return block | {"words": promotion_words(block)}


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """A limit that cannot be told (a control without the figure) is None: JSON has no NaN."""
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
