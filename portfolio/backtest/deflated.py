"""Is a Sharpe ratio more than luck? Probabilistic and deflated Sharpe ratio, how long a record must be, and power.

Every Sharpe ratio here is per observation (not a year's) unless its name says `annual`; kurtosis is 3 for a normal.
Observations are taken to be independent. Sources:
PSR   Bailey and López de Prado, The Sharpe Ratio Efficient Frontier, Journal of Risk 15(2), 2012.
DSR   Bailey and López de Prado, The Deflated Sharpe Ratio, Journal of Portfolio Management 40(5), 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from portfolio.backtest.bootstrap import Floats

CONFIDENCE: Final = 0.95
_EULER: Final = 0.5772156649015329
_NORMAL: Final = NormalDist()


@dataclass(frozen=True, slots=True)
class Moments:
    """What PSR asks of a curve. sharpe None: undefined, and `reason` says why."""

    n: int
    sharpe: float | None
    skew: float
    kurtosis: float
    reason: str = ""


def moments(returns: Floats) -> Moments:
    """Sharpe = mean / standard deviation with n - 1; skew = m3 / m2^1.5 and kurtosis = m4 / m2^2 with n (plug-in)."""
    n = returns.size
    if n < 2:
        return Moments(n, None, 0.0, 3.0, "ONE_SESSION" if n else "NO_SESSIONS")
    centred = returns - returns.mean()
    square = centred * centred  # times, not powers: a power of an array costs fifty times as much
    m2 = float(np.mean(square))
    if math.sqrt(m2) <= 1e-12 * float(np.abs(returns).max()):
        return Moments(n, None, 0.0, 3.0, "NO_VARIATION")
    return Moments(
        n=n,
        sharpe=float(returns.mean()) / math.sqrt(m2 * n / (n - 1)),
        skew=float(np.mean(square * centred)) / m2**1.5,
        kurtosis=float(np.mean(square * square)) / m2**2,
    )


@dataclass(frozen=True, slots=True)
class TrialSummary:
    """What was tried in a search, as far as deflating its winner asks.

    n                 distinct trials, the winner among them
    undefined         of these, without a Sharpe ratio (no trade, no variation): tried all the same
    variance          of the Sharpe ratios per observation of the trials without the winner; None under two of them
    mean_correlation  between the trials' monthly returns, never below 0; None when it cannot be told
    """

    n: int
    undefined: int = 0
    variance: float | None = None
    mean_correlation: float | None = None

    @property
    def effective_n(self) -> float:
        """n (1 - rho) + rho: how many independent trials these amount to (DSR paper, appendix 3); n if not known."""
        rho = self.mean_correlation or 0.0
        return rho + (1.0 - rho) * self.n

    def spread_of_luck(self, observations: int) -> float:
        """Variance of the Sharpe ratio between worthless trials such as these, per observation.

        The larger of what the trials show and what sampling alone gives, (1 - rho) / (T - 1). The winner is left out:
        a true one would raise the bar against itself. Where the spread is that between correlated trials, their
        number is n and not effective_n: both together would count the correlation twice.
        """
        alone = (1.0 - (self.mean_correlation or 0.0)) / max(observations - 1, 1)
        return max(self.variance or 0.0, alone)


@dataclass(frozen=True, slots=True)
class Deflation:
    """A winner against what so many trials show by luck. dsr None: not to be told, and `reason` says why.

    benchmark is that luck's Sharpe ratio per observation; psr is against 0, as if nothing else had been tried.
    """

    observations: int
    trials: TrialSummary
    sharpe: float | None
    benchmark: float
    psr: float | None
    dsr: float | None
    minimum_track_record: float | None
    reason: str = ""


def deflate(winner: Moments, trials: TrialSummary, confidence: float = CONFIDENCE) -> Deflation:
    """DSR of the winner of a search. Without a single recorded trial there is none: not even the winner was noted."""
    if winner.sharpe is None or trials.n < 1:
        reason = winner.reason if winner.sharpe is None else "TRIALS_ABSENT"
        return Deflation(winner.n, trials, winner.sharpe, 0.0, None, None, None, reason)
    shape = (winner.skew, winner.kurtosis)
    benchmark = expected_maximum_sharpe(trials.spread_of_luck(winner.n), float(trials.n))
    return Deflation(
        observations=winner.n,
        trials=trials,
        sharpe=winner.sharpe,
        benchmark=benchmark,
        psr=probabilistic_sharpe(winner.sharpe, 0.0, winner.n, *shape),
        dsr=probabilistic_sharpe(winner.sharpe, benchmark, winner.n, *shape),
        minimum_track_record=minimum_track_record(winner.sharpe, benchmark, *shape, confidence),
    )


def normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))  # keeps its digits in both tails


def _spread(sharpe: float, skew: float, kurtosis: float) -> float:
    """sqrt(1 - skew SR + (kurtosis - 1)/4 SR²): the standard error of SR times sqrt(n - 1).

    Never negative for the moments of a real sample, where kurtosis >= 1 + skew². Raises ValueError for others.
    """
    inside = 1.0 - skew * sharpe + (kurtosis - 1.0) / 4.0 * sharpe * sharpe
    if inside <= 0.0:
        raise ValueError(f"no sample has skew {skew} with kurtosis {kurtosis}")
    return math.sqrt(inside)


def probabilistic_sharpe(sharpe: float, benchmark: float, n: int, skew: float = 0.0, kurtosis: float = 3.0) -> float:
    """PSR: how sure it is that the true Sharpe ratio is above `benchmark`, `sharpe` being seen in n observations."""
    return normal_cdf((sharpe - benchmark) * math.sqrt(n - 1) / _spread(sharpe, skew, kurtosis))


def expected_maximum_sharpe(variance: float, trials: float) -> float:
    """What the best of `trials` independent worthless trials shows on average, their Sharpes having this variance.

    sqrt(V) ((1 - g) Z(1 - 1/N) + g Z(1 - 1/(N e))), g being Euler's constant; 0 for one trial, of which none is best.
    """
    if trials <= 1.0:
        return 0.0
    first, second = _NORMAL.inv_cdf(1.0 - 1.0 / trials), _NORMAL.inv_cdf(1.0 - 1.0 / (trials * math.e))
    return math.sqrt(variance) * ((1.0 - _EULER) * first + _EULER * second)


def deflated_sharpe(
    sharpe: float, n: int, skew: float, kurtosis: float, *, trials: float, trial_variance: float
) -> float:
    """DSR: the PSR against the best that so many trials would show by luck alone.

    trial_variance : of the Sharpe ratios per observation of all trials
    """
    return probabilistic_sharpe(sharpe, expected_maximum_sharpe(trial_variance, trials), n, skew, kurtosis)


def minimum_track_record(
    sharpe: float, benchmark: float, skew: float = 0.0, kurtosis: float = 3.0, confidence: float = CONFIDENCE
) -> float | None:
    """Observations from which the PSR against `benchmark` reaches `confidence`; None: never, SR is not above it."""
    if sharpe <= benchmark:
        return None
    return 1.0 + (_spread(sharpe, skew, kurtosis) * _NORMAL.inv_cdf(confidence) / (sharpe - benchmark)) ** 2


def needed_sharpe(
    benchmark: float, n: int, skew: float = 0.0, kurtosis: float = 3.0, confidence: float = CONFIDENCE
) -> float | None:
    """The smallest observed Sharpe ratio whose PSR against `benchmark` is `confidence`; None: no Sharpe is enough."""
    z = _NORMAL.inv_cdf(confidence)
    limit = math.inf if kurtosis <= 1.0 else 2.0 * math.sqrt((n - 1) / (kurtosis - 1.0))  # PSR's z as SR grows
    if n < 2 or z >= limit:
        return None
    low, high = benchmark, max(2.0 * abs(benchmark), 1.0)
    while probabilistic_sharpe(high, benchmark, n, skew, kurtosis) < confidence:
        high *= 2.0
    for _ in range(80):  # halving: to the last bit
        middle = (low + high) / 2.0
        if probabilistic_sharpe(middle, benchmark, n, skew, kurtosis) < confidence:
            low = middle
        else:
            high = middle
    return high


def power(
    annual_sharpe: float,
    n: int,
    per_year: float,
    *,
    trials: float = 1.0,
    trial_variance: float | None = None,
    skew: float = 0.0,
    kurtosis: float = 3.0,
    confidence: float = CONFIDENCE,
) -> float:
    """How often a strategy of this true Sharpe ratio would reach a DSR of `confidence` in n observations, 0..1.

    per_year : observations a year; with n trades, trades a year. trial_variance None: that of worthless trials of the
    same length, 1 / (n - 1). The observed Sharpe is taken as normal around the true one.
    """
    if n < 2:
        return 0.0
    true = annual_sharpe / math.sqrt(per_year)
    variance = 1.0 / (n - 1) if trial_variance is None else trial_variance
    needed = needed_sharpe(expected_maximum_sharpe(variance, trials), n, skew, kurtosis, confidence)
    if needed is None:
        return 0.0
    return normal_cdf((true - needed) * math.sqrt(n - 1) / _spread(true, skew, kurtosis))
