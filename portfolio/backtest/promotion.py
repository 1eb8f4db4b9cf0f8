"""May a strategy be believed? Only when every question is answered, and answered with yes.

A deflated Sharpe ratio of at least `dsr_min` given everything in the ledger, a PBO of at most `pbo_max` over the
variants that were searched, and every control beaten. A question that could not be answered is a no, with its reason.
An honest gate refuses most good strategies: `power_lines` says how often one of a given true Sharpe would pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from portfolio.backtest.controls import BUY_AND_HOLD, RANDOM_ENTRIES, RANDOM_WALKS, Comparison
from portfolio.backtest.deflated import Deflation, power
from portfolio.backtest.metrics import PER_YEAR
from portfolio.backtest.overfitting import Overfitting

POWER_FOR = (0.5, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionLimits:
    """control_p_max : a strategy must do better than all but this share of a control's rounds."""

    dsr_min: float = 0.95
    pbo_max: float = 0.20
    control_p_max: float = 0.05
    controls: tuple[str, ...] = (RANDOM_ENTRIES, RANDOM_WALKS, BUY_AND_HOLD)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One question: a stable code when the answer is no, what was seen, the limit, and of how many."""

    question: str
    code: str
    holds: bool
    observed: float | None
    limit: float
    n: int
    of: str

    def text(self) -> str:
        seen = "-" if self.observed is None else f"{self.observed:.3g}"
        return f"{self.question}: {seen} against {self.limit:.3g} (N = {self.n:,} {self.of}): {self.code or 'yes'}"


@dataclass(frozen=True, slots=True)
class Promotion:
    promoted: bool
    verdicts: tuple[Verdict, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(verdict.code for verdict in self.verdicts if not verdict.holds)


def judge(
    deflation: Deflation,
    overfitting: Overfitting | None,
    comparisons: Sequence[Comparison],
    limits: PromotionLimits | None = None,
) -> Promotion:
    """All questions are asked, not only up to the first no."""
    limits = limits or PromotionLimits()
    verdicts = (
        _deflated(deflation, limits),
        _recorded(deflation, overfitting),
        _overfitted(overfitting, limits),
        *(_control(name, comparisons, limits) for name in limits.controls),
    )
    return Promotion(all(verdict.holds for verdict in verdicts), verdicts)


def _deflated(found: Deflation, limits: PromotionLimits) -> Verdict:
    holds = found.dsr is not None and found.dsr >= limits.dsr_min
    code = "" if holds else (found.reason or "DSR_BELOW")
    return Verdict("deflated Sharpe ratio", code, holds, found.dsr, limits.dsr_min, found.trials.n, "trials")


def _recorded(deflation: Deflation, overfitting: Overfitting | None) -> Verdict:
    """The ledger knows at least as many trials as there are variants here: none was tried without being noted."""
    variants = max(1, 0 if overfitting is None else overfitting.variants)
    holds = deflation.trials.n >= variants
    code = "" if holds else "TRIALS_NOT_IN_LEDGER"
    return Verdict("trials recorded", code, holds, float(deflation.trials.n), float(variants), variants, "variants")


def _overfitted(found: Overfitting | None, limits: PromotionLimits) -> Verdict:
    pbo = None if found is None else found.pbo
    holds = pbo is not None and pbo <= limits.pbo_max
    absent = "PBO_ABSENT" if found is None else found.reason
    code = "" if holds else (absent if pbo is None else "PBO_ABOVE")
    n = 0 if found is None else found.splits
    return Verdict("probability of overfitting", code, holds, pbo, limits.pbo_max, n, "splits")


def _control(name: str, comparisons: Sequence[Comparison], limits: PromotionLimits) -> Verdict:
    """Every comparison with that control, of which there must be one, is won; the worst is told."""
    own = [comparison for comparison in comparisons if comparison.control == name]
    if not own:
        return Verdict(f"better than {name}", "CONTROL_ABSENT", False, None, limits.control_p_max, 0, "rounds")
    worst = min(own, key=lambda c: (c.beaten, -(c.p_value or 0.0)))
    code = "" if worst.beaten else (worst.reason or "CONTROL_NOT_BEATEN")
    if worst.p_value is None:
        limit = worst.of_control if worst.of_control is not None else float("nan")
        return Verdict(f"better than {name} ({worst.figure})", code, worst.beaten, worst.observed, limit, 1, "history")
    limit = limits.control_p_max
    question = f"better than {name} ({worst.figure}, p)"
    return Verdict(question, code, worst.beaten, worst.p_value, limit, worst.rounds, "rounds")


def power_table(deflation: Deflation, per_year: float = PER_YEAR) -> dict[float, float]:
    """True annual Sharpe → how often it would reach the DSR asked for, with this N of trials and observations."""
    trials = deflation.trials
    variance = trials.spread_of_luck(deflation.observations)
    return {
        sharpe: power(sharpe, deflation.observations, per_year, trials=float(trials.n), trial_variance=variance)
        for sharpe in POWER_FOR
    }


def power_lines(deflation: Deflation, of: str = "sessions", per_year: float = PER_YEAR) -> list[str]:
    """For people. With trades in place of sessions, per_year is trades a year."""
    known = f"with {deflation.observations:,} {of} and {deflation.trials.n:,} trials"
    return [
        f"{known} a true Sharpe ratio of {sharpe:.1f} would be seen {share:.0%} of the time"
        for sharpe, share in power_table(deflation, per_year).items()
    ]
