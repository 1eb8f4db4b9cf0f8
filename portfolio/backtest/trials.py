"""The trial ledger: everything that was tried, so that no winner is judged as if it had been the only one.

Every backtest and every point of a grid is one trial. They are records of kind `backtest_trial` in a hash-chained
journal of their own, `state/trials.jsonl` below KOBE_HOME: research never writes to the journal of orders, and
deleting trials from the middle breaks the chain. One record may hold many trials: a grid costs one fsync.

The same strategy, parameters, data, code, span and level is the same trial, whoever runs it how often: it counts once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from core.canonical import canonical_json, plain
from core.clock import Clock
from core.errors import StateCorrupt
from core.journal import Journal
from core.paths import Home
from portfolio.backtest.bootstrap import Floats
from portfolio.backtest.deflated import TrialSummary, moments

KIND: Final = "backtest_trial"
_PER_RECORD: Final = 200  # some 300 kB a line
_MONTHS_AT_LEAST: Final = 12  # fewer common months tell nothing about correlation


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One thing that was tried, and what came of it.

    family   what is searched together; trials deflate the winners of their own family
    sharpe   per observation; None where it is undefined (no trade, no variation)
    months   return of each calendar month, "YYYY-MM": tells how alike two trials are
    """

    family: str
    strategy: str
    params_sha256: str
    data_sha256: str
    code_sha256: str
    start: date
    end: date
    level: str
    observations: int
    sharpe: float | None
    skew: float
    kurtosis: float
    months: Mapping[str, float]

    @property
    def key(self) -> str:
        """What makes it the same trial again: all that went in, nothing that came out."""
        went_in = [self.family, self.strategy, self.params_sha256, self.data_sha256, self.code_sha256]
        return hashlib.sha256(canonical_json([*went_in, self.start, self.end, self.level]).encode()).hexdigest()


def outcome_of(days: NDArray[np.int32], returns: Floats) -> dict[str, Any]:
    """The fields of a Trial that come out of a daily curve: `Trial(..., **outcome_of(days, returns))`.

    days : sessions as days since 1970-01-01 · returns : one a session
    """
    found = moments(returns)
    return {
        "observations": found.n,
        "sharpe": found.sharpe,
        "skew": found.skew,
        "kurtosis": found.kurtosis,
        "months": monthly(days, returns),
    }


def monthly(days: NDArray[np.int32], returns: Floats) -> dict[str, float]:
    """Compounded return of each calendar month, to eight digits behind the point."""
    if not returns.size:
        return {}
    month = days.astype("datetime64[D]").astype("datetime64[M]")
    names, first = np.unique(month, return_index=True)
    made = np.multiply.reduceat(1.0 + returns, first) - 1.0
    return {str(name): round(float(value), 8) for name, value in zip(names, made, strict=True)}


def trials_path(home: Home) -> Path:
    return home.state / "trials.jsonl"


class TrialLedger:
    """Trials in a journal. Raises what the journal raises: a search that cannot be recorded must not go on."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @classmethod
    def of(cls, home: Home, clock: Clock, *, run_id: str = "") -> TrialLedger:
        """The ledger of this home."""
        return cls(Journal(trials_path(home), clock, run_id=run_id))

    def add(self, *trials: Trial) -> int:
        """Record those not yet known; how many that were."""
        known = {trial.key for trial in self._all()} if trials else set()
        new = list({trial.key: trial for trial in trials if trial.key not in known}.values())
        for first in range(0, len(new), _PER_RECORD):
            rows = [_row(trial) for trial in new[first : first + _PER_RECORD]]
            self._journal.append(KIND, {"schema_version": 1, "trials": rows})
        return len(new)

    def recorded(self, family: str | None = None) -> list[Trial]:
        """Distinct trials, oldest first; family None: of all families."""
        found: dict[str, Trial] = {}
        for trial in self._all():
            if family in (None, trial.family):
                found.setdefault(trial.key, trial)
        return list(found.values())

    def trials(self, family: str | None = None, *, winner: str | None = None) -> TrialSummary:
        """What deflating asks: N, the spread of the Sharpes without the winner (a key), the correlation."""
        return summarise(self.recorded(family), winner)

    def _all(self) -> Iterator[Trial]:
        if not self._journal.path.exists():
            return
        for record in self._journal.kinds(KIND):
            try:
                yield from (_trial(row) for row in record.body["trials"])
            except (KeyError, TypeError, ValueError) as error:
                raise StateCorrupt(
                    f"{self._journal.path.name}: record {record.seq} holds no trials: {error!r}",
                    code="TRIAL_UNREADABLE",
                    advice="a newer version may have written it; the trials are not counted without it",
                ) from error


def _row(trial: Trial) -> dict[str, Any]:
    row = plain(trial)
    assert isinstance(row, dict)
    return row


def _trial(row: Mapping[str, Any]) -> Trial:
    values = {f.name: row[f.name] for f in fields(Trial)}
    for name in ("start", "end"):
        values[name] = date.fromisoformat(values[name])
    return Trial(**values)


# ---------------------------------------------------------------- what they amount to
def summarise(trials: Sequence[Trial], winner: str | None = None) -> TrialSummary:
    """The trials as deflating sees them. `winner` is the key of the trial to be judged: left out of the variance."""
    distinct = {trial.key: trial for trial in trials}
    sharpes = [trial.sharpe for key, trial in distinct.items() if trial.sharpe is not None and key != winner]
    return TrialSummary(
        n=len(distinct),
        undefined=sum(trial.sharpe is None for trial in distinct.values()),
        variance=float(np.var(np.array(sharpes), ddof=1)) if len(sharpes) > 1 else None,
        mean_correlation=mean_correlation([trial.months for trial in distinct.values()]),
    )


def mean_correlation(months: Sequence[Mapping[str, float]]) -> float | None:
    """Mean of the correlations of all pairs, at least 0; None for fewer than two trials.

    A pair that does not cover the same months, or fewer than twelve, or of which one never moves, counts as
    uncorrelated: the careful value, since unlike trials are more trials.
    """
    n = len(months)
    if n < 2:
        return None
    total = 0.0
    for same in _by_months(months):
        rows = np.array([list(trial.values()) for trial in same])
        centred = rows - rows.mean(axis=1, keepdims=True)
        size = np.sqrt(np.sum(centred**2, axis=1))
        moving = size > 1e-12 * np.abs(rows).max(axis=1)
        units = centred[moving] / size[moving, None]
        total += float(np.sum(units.sum(axis=0) ** 2)) - int(moving.sum())  # |sum u|² = n + 2 x the sum over pairs
    return max(0.0, min(1.0, total / (n * (n - 1))))


def _by_months(months: Iterable[Mapping[str, float]]) -> list[list[dict[str, float]]]:
    groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for trial in months:
        ordered = dict(sorted(trial.items()))
        if len(ordered) >= _MONTHS_AT_LEAST:
            groups.setdefault(tuple(ordered), []).append(ordered)
    return list(groups.values())
