"""The evidence blocks: no figure without its N, absent is said, the trial counts, SPY only where it covers the span."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest

from config.settings_schema import Costs
from core.bars_io import BarColumns
from portfolio.backtest.bootstrap import Resampling
from portfolio.backtest.controls import (
    BUY_AND_HOLD,
    RANDOM_ENTRIES,
    RANDOM_WALKS,
    Comparison,
    costs_of,
    exits_of,
    rules_of,
)
from portfolio.backtest.costs import CostModel
from portfolio.backtest.deflated import Moments, TrialSummary, deflate
from portfolio.backtest.engine import signal_trades
from portfolio.backtest.evidence import (
    FAMILY,
    SPY_ABSENT,
    SPY_PARTIAL,
    Against,
    Run,
    _promotion_block,
    benchmark_curves,
    evidence,
    spy_returns,
    trial_of,
)
from portfolio.backtest.output import signal_booked, signal_curve
from portfolio.backtest.promotion import judge
from portfolio.backtest.trials import Trial
from portfolio.backtest.words import (
    NOT_PROMOTED,
    OUTRANKED,
    figure_text,
    main_lines,
    promotion_words,
    verdict_words,
)
from portfolio.strategies import session_date
from portfolio.strategies.indicators import prepare
from tests.portfolio.backtest.test_controls import FIRST, PARAMS, a_market

FEW = Resampling(draws=40)
COSTS = CostModel.from_settings(Costs())
WORDLESS = {"n", "of"}
SETTINGS = {
    "level",
    "draws",
    "seed",
    "limit",
    "true_sharpe",
    "rounds",
    "variants",
    "rows",
    "closed",
    "open",
    "undefined",
}
"""Counts and settings of the evidence itself; every other number is a figure."""


def a_run(bounce: float = 0.01, costs: CostModel = COSTS) -> tuple[Run, Against]:
    prepared = prepare(a_market(bounce), PARAMS.common)
    panel = prepared.panel
    start, end = session_date(panel.sessions[0]), session_date(panel.sessions[-1])
    booked = signal_booked(panel, signal_trades(prepared, PARAMS, start, end), costs)
    curve = signal_curve(panel, booked, start, end)
    run = Run(level="signals", panel=panel, start=start, end=end, booked=booked, days=curve.days, returns=curve.returns)
    against = Against(
        follow=exits_of(prepared, PARAMS), rules=rules_of(PARAMS, start, end), cost=costs_of(costs), first_row=FIRST,
        entry_rounds=19, walk_rounds=3,
    )  # fmt: skip
    return run, against


def a_trial(run: Run, number: int = 0) -> Trial:
    return trial_of(run, decided_by={"set": number}, data_sha256="d", code_sha256="c")


@pytest.fixture(scope="module")
def made() -> tuple[Run, Against, dict[str, Any]]:
    run, against = a_run()
    trial = a_trial(run)
    return run, against, evidence(run, against, [trial], trial.key, resampling=FEW)


def figures_of(block: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every dict that holds a number which is not a count or a setting."""
    if isinstance(block, Mapping):
        if any(is_number(value) and key not in WORDLESS | SETTINGS for key, value in block.items()) or "value" in block:
            yield path, block
        for key, value in block.items():
            yield from figures_of(value, f"{path}.{key}")
    elif isinstance(block, list):
        for k, value in enumerate(block):
            yield from figures_of(value, f"{path}[{k}]")


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def test_no_figure_of_any_block_stands_without_its_n_and_what_that_counts(
    made: tuple[Run, Against, dict[str, Any]],
) -> None:
    found = dict(figures_of(made[2]))
    assert len(found) > 100
    for path, figure in found.items():
        assert isinstance(figure.get("n"), int) and figure.get("of"), path
        if "value" in figure and figure["value"] is None:
            assert figure["reason"], path
    naked = {"statistics": {"sharpe": {"value": 1.2, "reason": ""}}}
    assert any("n" not in figure for _, figure in figures_of(naked))  # the walk would see one


def test_the_blocks_are_json_without_nan_and_the_same_twice(made: tuple[Run, Against, dict[str, Any]]) -> None:
    run, against, blocks = made
    trial = a_trial(run)
    again = evidence(run, against, [trial], trial.key, resampling=FEW)
    assert json.dumps(blocks, allow_nan=False, sort_keys=True) == json.dumps(again, allow_nan=False, sort_keys=True)
    assert set(blocks) == {"statistics", "trials", "controls", "benchmark", "promotion"}


def test_figures_after_costs_are_worse_than_before(made: tuple[Run, Against, dict[str, Any]]) -> None:
    statistics = made[2]["statistics"]
    after, before = statistics["after_costs"]["all"], statistics["before_costs"]["all"]
    for name in ("profit_factor", "expectancy_r", "mean_return"):
        assert after[name]["value"] < before[name]["value"]
    assert after["win_rate"]["n"] == statistics["closed"] == int(made[0].booked.trades.closed.sum())
    assert set(statistics["after_costs"]["strategies"]) == {"ibs_rsi", "turtle_soup"}
    assert sum(row["win_rate"]["n"] for row in statistics["after_costs"]["exits"].values()) == statistics["closed"]


def test_more_trials_deflate_the_same_run_further() -> None:
    run, against = a_run()
    bare = replace(against, follow=None, rules=None)
    trial = a_trial(run)
    rng = np.random.default_rng(1)
    others = [a_trial(replace(run, returns=rng.normal(0, 0.01, run.returns.size)), k) for k in range(1, 30)]
    alone = evidence(run, bare, [trial], trial.key, resampling=FEW)
    many = evidence(run, bare, [trial, *others], trial.key, resampling=FEW)
    one, thirty = (blocks["statistics"]["sharpe"]["dsr"] for blocks in (alone, many))
    assert (one["n"], thirty["n"]) == (1, 30) and one["value"] > thirty["value"]
    assert many["trials"]["n"] == 30 and sum(row["this_run"] for row in many["trials"]["told"]) == 1
    assert many["trials"]["families"] == [FAMILY]


def test_a_run_that_was_not_recorded_has_no_deflated_sharpe_ratio() -> None:
    run, against = a_run()
    blocks = evidence(run, replace(against, follow=None, rules=None), [], "", resampling=FEW)
    dsr = blocks["statistics"]["sharpe"]["dsr"]
    assert dsr["value"] is None and dsr["reason"] == "TRIALS_ABSENT"
    assert {"TRIALS_ABSENT", "TRIALS_NOT_IN_LEDGER"} <= set(blocks["promotion"]["codes"])


def test_a_control_that_is_not_handed_in_is_named_as_absent_and_is_a_no() -> None:
    run, against = a_run()
    trial = a_trial(run)
    blocks = evidence(run, replace(against, follow=None, rules=None), [trial], trial.key, resampling=FEW)
    assert [c["name"] for c in blocks["controls"]["absent"]] == [RANDOM_ENTRIES, RANDOM_WALKS]
    assert [c["name"] for c in blocks["controls"]["side_by_side"]] == [BUY_AND_HOLD]
    assert blocks["promotion"]["codes"].count("CONTROL_ABSENT") == 2 and not blocks["promotion"]["promoted"]


def test_variants_give_a_pbo_and_one_run_alone_has_none() -> None:
    run, against = a_run()
    bare, trial = replace(against, follow=None, rules=None), a_trial(run)
    rng = np.random.default_rng(2)
    searched = replace(bare, variants=rng.normal(0, 0.01, (run.returns.size, 4)))
    pbo = evidence(run, searched, [trial], trial.key, resampling=FEW)["statistics"]["overfitting"]["pbo"]
    assert 0 <= pbo["value"] <= 1 and pbo["n"] == 12_870 and pbo["of"] == "splits"
    alone = evidence(run, bare, [trial], trial.key, resampling=FEW)["statistics"]["overfitting"]["pbo"]
    assert (alone["value"], alone["reason"]) == (None, "PBO_ABSENT")


def test_a_run_without_trades_is_judged_all_the_same() -> None:
    run, against = a_run()
    nothing = replace(run.booked, **{
        name: getattr(run.booked, name)[:0] for name in ("quantity", "costs_usd", "dollar_volume")
    }, trades=run.booked.trades.rows(np.zeros(0, dtype=np.intp)))  # fmt: skip
    empty = replace(run, booked=nothing, returns=np.zeros(run.returns.size))
    trial = a_trial(empty)
    blocks = evidence(empty, against, [trial], trial.key, resampling=FEW)
    json.dumps(blocks, allow_nan=False)
    assert blocks["statistics"]["after_costs"]["all"]["profit_factor"]["reason"] == "NO_TRADES"
    assert blocks["trials"]["undefined"] == 1 and not blocks["promotion"]["promoted"]
    assert "CONTROL_ABSENT" in blocks["promotion"]["codes"]  # random entries: nothing to draw anew


# ---------------------------------------------------------------- the trial
def test_the_same_run_is_the_same_trial_and_another_setting_is_another() -> None:
    run, _ = a_run()
    assert a_trial(run, 1).key == a_trial(run, 1).key != a_trial(run, 2).key
    other = trial_of(run, decided_by={"set": 1}, data_sha256="d", code_sha256="c2")
    assert other.key != a_trial(run, 1).key
    assert a_trial(run).strategy == "ibs_rsi+turtle_soup" and a_trial(run).observations == run.returns.size


# ---------------------------------------------------------------- SPY
def bars(days: list[int], close: list[float]) -> BarColumns:
    price = np.array(close)
    return BarColumns(np.array(days, dtype=np.int32), price - 1.0, price, price, price, price)


DAYS = np.array([10, 11, 12], dtype=np.int32)


def test_spy_is_held_from_the_first_open_and_keeps_its_close_where_it_has_no_bar() -> None:
    returns, code = spy_returns(bars([9, 10, 12, 13], [90.0, 101.0, 110.0, 5.0]), DAYS)
    assert code == "" and returns is not None
    np.testing.assert_allclose(np.cumprod(1 + returns), [1.01, 1.01, 1.10])


@pytest.mark.parametrize(
    ("days", "code"),
    [
        ([10, 11, 12], ""),
        ([11, 12], SPY_PARTIAL),
        ([10, 11], SPY_PARTIAL),
        ([9, 11, 12], SPY_PARTIAL),
        ([], SPY_ABSENT),
    ],
)
def test_spy_that_does_not_cover_the_curve_is_absent_with_a_code(days: list[int], code: str) -> None:
    returns, said = spy_returns(bars(days, [100.0] * len(days)), DAYS)
    assert said == code and (returns is None) == bool(code)


def test_the_curve_is_drawn_against_spy_where_it_is_known_and_else_against_equal_parts() -> None:
    run, against = a_run()
    bare, trial = replace(against, follow=None, rules=None), a_trial(run)
    spy = bars(run.days.tolist(), [100.0 + k for k in range(run.days.size)])
    without = evidence(run, bare, [trial], trial.key, resampling=FEW)["benchmark"]
    with_it = evidence(run, replace(bare, spy=spy, spy_source="x"), [trial], trial.key, resampling=FEW)["benchmark"]
    assert (without["shown"], without["spy"]["code"]) == ("equal_weight", SPY_ABSENT)
    assert (with_it["shown"], with_it["spy"]["code"], with_it["spy"]["source"]) == ("spy", "", "x")
    curves = benchmark_curves(run, spy)
    assert set(curves) == {"spy", "equal_weight"} and all(c.size == run.days.size for c in curves.values())
    cagr = with_it["spy"]["figures"]["cagr"]
    assert curves["spy"][-1] ** (252 / run.days.size) - 1 == pytest.approx(cagr["value"])
    assert set(benchmark_curves(run, None)) == {"equal_weight"}


# ---------------------------------------------------------------- words
def test_every_no_is_said_in_words_with_its_code_and_n(made: tuple[Run, Against, dict[str, Any]]) -> None:
    promotion = made[2]["promotion"]
    assert promotion["words"][0] == NOT_PROMOTED
    assert len(promotion["words"]) == 1 + len(promotion["codes"])
    for words, code in zip(promotion["words"][1:], promotion["codes"], strict=True):
        assert f"({code}, N = " in words
    assert len(promotion_words({"promoted": True})) == 1


def test_simulated_data_and_a_failed_honesty_check_outrank_the_gate() -> None:
    passed = {"promotion": {"promoted": True, "words": ["PROMOTED: x"]}}
    refused = {"promotion": {"promoted": False, "words": ["NOT PROMOTED: x"]}}
    honest = {"verdict": "pass", "checks": []}
    caught = {"verdict": "fail", "checks": [{"name": "same_bar", "verdict": "fail"}, {"name": "b", "verdict": "pass"}]}
    assert verdict_words({**passed, "simulated": False, "honesty": honest}) == ["PROMOTED: x"]
    lines = verdict_words({**refused, "simulated": True, "honesty": caught})
    assert lines[0].startswith("SIMULATED") and "(same_bar)" in lines[1] and lines[2:] == ["NOT PROMOTED: x"]
    assert verdict_words({**passed, "simulated": True})[1:] == [OUTRANKED]
    assert verdict_words({**passed, "simulated": False, "honesty": caught})[1:] == [OUTRANKED]
    assert "EVIDENCE_ABSENT" in verdict_words({})[0]


def test_a_control_without_the_figure_has_no_limit_and_no_nan() -> None:
    deflation = deflate(Moments(2520, 0.1, 0.0, 3.0), TrialSummary(5))
    untold = Comparison(BUY_AND_HOLD, "sharpe", 1.0, None, None, 1, beaten=False, reason="NO_VARIATION")
    block = _promotion_block(judge(deflation, None, [untold]), deflation)
    assert block["verdicts"][-1]["limit"] is None and block["verdicts"][-1]["code"] == "NO_VARIATION"
    json.dumps(block, allow_nan=False)


def test_the_terminal_has_every_main_figure_with_n_in_80_columns(made: tuple[Run, Against, dict[str, Any]]) -> None:
    lines = main_lines(made[2]["statistics"])
    assert all(len(line) <= 80 for line in lines)
    figures = [line for line in lines if line.startswith("  ")]
    assert len(figures) == 9 and all("N = " in line for line in figures)


def test_an_absent_figure_says_why_and_of_how_many() -> None:
    absent = {"value": None, "n": 3, "of": "trades", "reason": "NO_LOSS", "low": None, "high": None, "interval": None}
    assert figure_text("profit_factor", absent) == "- (NO_LOSS, N = 3 trades)"
    open_end = {"value": 2.0, "n": 3, "of": "trades", "reason": "", "low": 1.0, "high": None, "interval": "bootstrap"}
    assert figure_text("profit_factor", open_end) == "2.00 (1.00 to …, N = 3 trades)"


def test_dates_of_the_trial_are_those_of_the_span() -> None:
    run, _ = a_run()
    moved = replace(run, start=date(2021, 1, 1), end=date(2021, 12, 31))
    assert (a_trial(moved).start, a_trial(moved).end) == (date(2021, 1, 1), date(2021, 12, 31))
