"""How often the promotion gate is fooled by luck, and how often it sees a strategy that is true.

    .venv/bin/python benchmarks/promotion.py [--rounds 400] [--variants 50] [--sessions 2520]

A round is one search: `variants` daily curves of ten years, the best of them put before the gate with its whole ledger,
its PBO and its controls. The market drifts with a Sharpe ratio of 0.5; worthless variants have none.
Random entries and random walks are drawn as worthless curves too. Prints one line a scenario and `ok` or `MISSED`.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from portfolio.backtest.bootstrap import Floats
from portfolio.backtest.controls import BUY_AND_HOLD, RANDOM_ENTRIES, RANDOM_WALKS, Control, compare
from portfolio.backtest.deflated import deflate, moments
from portfolio.backtest.metrics import PER_YEAR, Figure
from portfolio.backtest.overfitting import BLOCKS, probability_of_overfitting
from portfolio.backtest.promotion import Promotion, PromotionLimits, judge
from portfolio.backtest.trials import Trial, outcome_of, summarise

DAILY = 0.01  # standard deviation of a day
MARKET_SHARPE = 0.5


@dataclass(frozen=True)
class Scenario:
    """true_sharpe: a year's, of variant 0 alone. tail: degrees of freedom of Student's t; None is normal."""

    name: str
    true_sharpe: float = 0.0
    correlation: float = 0.0
    tail: float | None = None
    at_most: float | None = None
    at_least: float | None = None


SCENARIOS = (
    Scenario("noise", at_most=0.05),
    Scenario("noise, fat tails (t3)", tail=3.0, at_most=0.05),
    Scenario("noise, variants correlated 0.8", correlation=0.8, at_most=0.05),
    Scenario("one true Sharpe 1.0", true_sharpe=1.0),
    Scenario("one true Sharpe 1.5", true_sharpe=1.5),
    Scenario("one true Sharpe 2.0", true_sharpe=2.0, at_least=0.95),
    Scenario("one true Sharpe 2.0, fat tails (t3)", true_sharpe=2.0, tail=3.0, at_least=0.95),
)


@dataclass(frozen=True)
class Round:
    winner: int
    promotion: Promotion


def curves(rng: np.random.Generator, scenario: Scenario, sessions: int, variants: int) -> Floats:
    """(sessions, variants) daily returns; a common part makes them alike by `correlation`."""

    def draw(columns: int) -> Floats:
        if scenario.tail is None:
            return rng.standard_normal((sessions, columns))
        return rng.standard_t(scenario.tail, (sessions, columns)) / math.sqrt(scenario.tail / (scenario.tail - 2.0))

    own, common = draw(variants), draw(1)
    rho = scenario.correlation
    made = (math.sqrt(1.0 - rho) * own + math.sqrt(rho) * common) * DAILY
    made[:, 0] += scenario.true_sharpe / math.sqrt(PER_YEAR) * DAILY
    return made


def search(seed: list[int], scenario: Scenario, sessions: int, variants: int, blocks: int = BLOCKS) -> Round:
    """One search and the verdict on its best variant."""
    rng = np.random.default_rng(seed)
    returns = curves(rng, scenario, sessions, variants)
    days = np.arange(sessions, dtype=np.int32) * 365 // PER_YEAR
    trials = [trial(j, days, returns[:, j]) for j in range(variants)]
    winner = int(np.argmax([found.sharpe or -np.inf for found in trials]))
    deflation = deflate(moments(returns[:, winner]), summarise(trials, trials[winner].key))
    overfitting = probability_of_overfitting(returns, blocks)
    limits = PromotionLimits()
    seen = Figure(float(annual_sharpe(returns[:, [winner]].T)[0]), sessions, "sessions")
    beside = [compare(control, "sharpe", seen, limits.control_p_max) for control in controls(rng, sessions)]
    return Round(winner, judge(deflation, overfitting, beside, limits))


def trial(number: int, days: np.ndarray, returns: Floats) -> Trial:
    return Trial(
        family="simulated", strategy="drawn", params_sha256=str(number), data_sha256="", code_sha256="",
        start=date(2014, 1, 1), end=date(2023, 12, 31), level="signals", **outcome_of(days, returns),
    )  # fmt: skip


def annual_sharpe(paths: np.ndarray) -> Floats:
    found: Floats = (paths.mean(axis=1) / paths.std(axis=1, ddof=1) * math.sqrt(PER_YEAR)).astype(np.float64)
    return found


def controls(rng: np.random.Generator, sessions: int) -> list[Control]:
    def worthless(name: str, rounds: int) -> Control:
        drawn = annual_sharpe(rng.standard_normal((rounds, sessions), dtype=np.float32))
        middle = Figure(float(np.median(drawn)), sessions, "sessions")
        return Control(name, rounds, 0, {"sharpe": middle}, {"sharpe": drawn})

    market = rng.standard_normal((1, sessions)) + MARKET_SHARPE / math.sqrt(PER_YEAR)
    held = Figure(float(annual_sharpe(market)[0]), sessions, "sessions")
    return [
        worthless(RANDOM_ENTRIES, 199), worthless(RANDOM_WALKS, 20), Control(BUY_AND_HOLD, 1, 0, {"sharpe": held}, {}),
    ]  # fmt: skip


def share_promoted(scenario: Scenario, rounds: int, sessions: int, variants: int, seed: int, blocks: int) -> float:
    """Share of the rounds in which the right thing to call a promotion happened: with a true variant, that one's."""
    promoted = 0
    for k in range(rounds):
        found = search([seed, k], scenario, sessions, variants, blocks)
        promoted += found.promotion.promoted and (scenario.true_sharpe == 0.0 or found.winner == 0)
    return promoted / rounds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--variants", type=int, default=50)
    parser.add_argument("--sessions", type=int, default=2520)
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--seed", type=int, default=4)
    args = parser.parse_args()
    missed = 0
    for scenario in SCENARIOS:
        began = time.process_time()
        share = share_promoted(scenario, args.rounds, args.sessions, args.variants, args.seed, args.blocks)
        asked = ""
        if scenario.at_most is not None:
            asked = f"at most {scenario.at_most:.0%}: {'ok' if share <= scenario.at_most else 'MISSED'}"
        if scenario.at_least is not None:
            asked = f"at least {scenario.at_least:.0%}: {'ok' if share >= scenario.at_least else 'MISSED'}"
        missed += asked.endswith("MISSED")
        spent = time.process_time() - began
        print(f"{scenario.name:<38} promoted {share:7.2%} of {args.rounds} rounds   {asked:<18}   {spent:.0f} s CPU")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
