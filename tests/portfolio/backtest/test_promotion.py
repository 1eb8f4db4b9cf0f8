"""The gate: every question must be answered with yes; luck does not pass, a true strategy does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.promotion import SCENARIOS, share_promoted
from portfolio.backtest.controls import BUY_AND_HOLD, RANDOM_ENTRIES, RANDOM_WALKS, Comparison, Control, compare
from portfolio.backtest.deflated import Deflation, Moments, TrialSummary, deflate
from portfolio.backtest.metrics import Figure
from portfolio.backtest.overfitting import Overfitting
from portfolio.backtest.promotion import judge, power_lines, power_table

GOOD = deflate(Moments(2520, 2.5 / math.sqrt(252), 0.0, 3.0), TrialSummary(50))
FITTED = Overfitting(0.05, 2520, 50, 12_870, np.zeros(0))
WON = [
    Comparison(RANDOM_ENTRIES, "mean_return", 0.002, 0.0, 0.005, 199, beaten=True),
    Comparison(RANDOM_WALKS, "mean_return", 0.002, 0.0, 0.048, 20, beaten=True),
    Comparison(BUY_AND_HOLD, "sharpe", 2.5, 0.6, None, 1, beaten=True),
]


def test_all_yes_is_promoted_and_every_question_says_its_n() -> None:
    found = judge(GOOD, FITTED, WON)
    assert found.promoted and found.codes == ()
    assert len(found.verdicts) == 6 and all(f"N = {v.n:,}" in v.text() for v in found.verdicts)
    assert "12,870 splits" in found.verdicts[2].text()


@pytest.mark.parametrize(("dsr", "code"), [(0.95, ""), (0.9499999, "DSR_BELOW")])
def test_the_limit_of_the_deflated_sharpe_itself_passes(dsr: float, code: str) -> None:
    assert judge(replace(GOOD, dsr=dsr), FITTED, WON).codes == ((code,) if code else ())


@pytest.mark.parametrize(("pbo", "code"), [(0.20, ""), (0.2001, "PBO_ABOVE")])
def test_the_limit_of_pbo_itself_passes(pbo: float, code: str) -> None:
    assert judge(GOOD, replace(FITTED, pbo=pbo), WON).codes == ((code,) if code else ())


@pytest.mark.parametrize(("variants", "code"), [(50, ""), (51, "TRIALS_NOT_IN_LEDGER")])
def test_more_variants_than_recorded_trials_is_a_no(variants: int, code: str) -> None:
    assert judge(GOOD, replace(FITTED, variants=variants), WON).codes == ((code,) if code else ())


def test_absent_is_no() -> None:
    assert judge(GOOD, None, WON).codes == ("PBO_ABSENT",)
    one = Overfitting(None, 2520, 1, 0, np.zeros(0), reason="ONE_VARIANT")
    assert judge(GOOD, one, WON).codes == ("ONE_VARIANT",)
    for k, name in enumerate((RANDOM_ENTRIES, RANDOM_WALKS, BUY_AND_HOLD)):
        found = judge(GOOD, FITTED, WON[:k] + WON[k + 1 :])
        assert found.codes == ("CONTROL_ABSENT",) and name in found.verdicts[3 + k].question
    untold = Deflation(0, TrialSummary(0), None, 0.0, None, None, None, "NO_SESSIONS")
    assert judge(untold, FITTED, WON).codes == ("NO_SESSIONS", "TRIALS_NOT_IN_LEDGER")
    assert not judge(untold, None, []).promoted


def test_one_lost_comparison_of_a_control_is_enough() -> None:
    lost = Comparison(RANDOM_WALKS, "profit_factor", 1.1, 1.2, 0.6, 20, beaten=False)
    found = judge(GOOD, FITTED, [*WON, lost])
    assert found.codes == ("CONTROL_NOT_BEATEN",) and "profit_factor" in found.verdicts[4].question


# ---------------------------------------------------------------- comparing
def a_control(drawn: list[float]) -> Control:
    figure = Figure(float(np.median(drawn)), 100, "trades")
    return Control(RANDOM_WALKS, len(drawn), 0, {"expectancy_r": figure}, {"expectancy_r": np.array(drawn)})


def test_the_p_value_counts_the_strategy_itself_as_one_of_the_rounds() -> None:
    seen = Figure(0.1, 100, "trades")
    for above, p_value, beaten in ((0, 1 / 20, True), (1, 2 / 20, False)):
        found = compare(a_control([0.2] * above + [0.0] * (19 - above)), "expectancy_r", seen, 0.05)
        assert found.p_value == pytest.approx(p_value) and found.beaten is beaten
    assert not compare(a_control([0.0] * 18), "expectancy_r", seen, 0.05).beaten  # 1 / 19: too few rounds to say


def test_equal_or_undefined_rounds_count_against_the_strategy() -> None:
    seen = Figure(0.1, 100, "trades")
    assert compare(a_control([0.1] + [0.0] * 18), "expectancy_r", seen, 0.05).p_value == pytest.approx(2 / 20)
    drawn = a_control([0.0] * 19)
    undefined = replace(drawn, drawn={"expectancy_r": np.array([math.nan] + [0.0] * 18)})
    assert compare(undefined, "expectancy_r", seen, 0.05).p_value == pytest.approx(2 / 20)


def test_a_figure_that_is_absent_on_either_side_beats_nothing() -> None:
    none = Figure(None, 0, "trades", "NO_TRADES")
    found = compare(a_control([0.0] * 19), "expectancy_r", none, 0.05)
    assert (found.beaten, found.reason) == (False, "NO_TRADES")
    held = Control(BUY_AND_HOLD, 1, 0, {"sharpe": Figure(None, 0, "sessions", "NO_SESSIONS")}, {})
    assert compare(held, "sharpe", Figure(1.0, 10, "sessions"), 0.05).reason == "NO_SESSIONS"


# ---------------------------------------------------------------- power
def test_power_is_told_with_its_n() -> None:
    lines = power_lines(GOOD)
    assert lines[1].startswith("with 2,520 sessions and 50 trials a true Sharpe ratio of 1.0 would be seen ")
    table = power_table(GOOD)
    assert list(table.values()) == sorted(table.values()) and table[2.0] > 0.98 > 0.5 > table[1.0]


# ---------------------------------------------------------------- luck and truth
NAMED = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.mark.parametrize(
    ("name", "rounds"), [("noise", 50), ("noise, fat tails (t3)", 30), ("noise, variants correlated 0.8", 30)]
)
def test_the_best_of_fifty_worthless_strategies_is_not_promoted(name: str, rounds: int) -> None:
    """A gate fooled one time in five would fail here 99 times in 100. The whole run: benchmarks/promotion.py."""
    assert NAMED[name].at_most == 0.05
    assert share_promoted(NAMED[name], rounds, sessions=2520, variants=50, seed=9, blocks=6) <= 0.05


def test_a_true_sharpe_of_two_over_ten_years_is_promoted() -> None:
    share = share_promoted(NAMED["one true Sharpe 2.0"], 50, sessions=2520, variants=50, seed=9, blocks=6)
    assert share >= 0.95


def test_the_gate_without_its_ledger_would_be_fooled() -> None:
    """The check on the check: were each winner judged as the only trial, most worthless winners would look skilled."""
    fooled = 0
    for k in range(50):
        returns = np.random.default_rng([1, k]).standard_normal((1000, 50))
        sharpes = returns.mean(axis=0) / returns.std(axis=0, ddof=1)
        best = Moments(1000, float(sharpes.max()), 0.0, 3.0)
        alone, honest = deflate(best, TrialSummary(1)), deflate(best, TrialSummary(50))
        assert alone.dsr is not None and honest.dsr is not None and honest.dsr < 0.95
        fooled += alone.dsr >= 0.95
    assert fooled > 40
