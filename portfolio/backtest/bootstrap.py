"""How far a statistic could be from what was seen: the stationary block bootstrap, seeded, in whole arrays.

Rows that follow each other in time are drawn in blocks of random length, so that their dependence survives. The mean
block length is chosen by the rule of Politis and White unless it is given. Sums are added in one fixed order, never by
a threaded library, so that the same seed gives the same bytes on any number of cores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

_CHUNK = 2_000_000  # drawn rows held at a time: bounds the memory at about 60 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the statistic lay in the middle `level` of the draws; None is unbounded on that side.

    kind   "bootstrap", "exact" (binomial, where every trade ended the same way) or "rounds" (of a control)
    block  mean block length in rows; 0 where nothing was drawn in blocks
    """

    low: float | None
    high: float | None
    level: float
    kind: str
    draws: int
    block: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How to draw. block None: chosen by `block_length` from the series at hand."""

    draws: int = 1000
    level: float = 0.90
    block: float | None = None
    seed: int = 20240308

    def __post_init__(self) -> None:
        if not (self.draws >= 20 and 0.0 < self.level < 1.0 and (self.block is None or self.block >= 1.0)):
            raise ValueError(f"draws >= 20, 0 < level < 1 and block >= 1 are wanted, was {self}")

    def block_for(self, series: Floats) -> float:
        return block_length(series) if self.block is None else self.block


def block_length(series: Floats) -> float:
    """Mean block length for the stationary bootstrap of a mean, in rows, at least 1.

    Politis and White (2004) with the correction of Patton, Politis and White (2009): autocovariances are added up to
    twice the lag from which K_n autocorrelations in a row are negligible, |rho| < 2 sqrt(log10(n) / n), under a
    flat-top window. At most min(3 sqrt(n), n / 3) rows. A series of under 8 rows or without variation gives 1.
    """
    n = series.size
    if n < 8 or not np.isfinite(series).all() or not np.ptp(series):
        return 1.0
    centred = series - series.mean()
    run = max(5, int(math.log10(n)))
    lags = min(math.ceil(math.sqrt(n)) + run, n - 2)
    covariance = np.array([np.sum(centred[k:] * centred[: n - k]) for k in range(lags + 1)]) / n
    last = _last_important_lag(centred, lags, run)
    window = np.arange(1, last + 1)
    weight = np.minimum(1.0, 2.0 * (1.0 - window / last))
    slope = 2.0 * float(np.sum(weight * window * covariance[1 : last + 1]))
    spectrum = float(covariance[0] + 2.0 * np.sum(weight * covariance[1 : last + 1]))
    if spectrum == 0.0:
        return 1.0
    best = (slope * slope / (spectrum * spectrum)) ** (1.0 / 3.0) * n ** (1.0 / 3.0)
    return float(min(max(best, 1.0), math.ceil(min(3.0 * math.sqrt(n), n / 3.0))))


def _last_important_lag(centred: Floats, lags: int, run: int) -> int:
    """Twice the first lag from which `run` autocorrelations in a row are negligible; all lags when there is none."""
    n = centred.size
    limit = 2.0 * math.sqrt(math.log10(n) / n)
    important = np.zeros(lags + 1, dtype=np.bool_)
    for k in range(lags + 1):
        head, tail = centred[: n - k - 1], centred[k + 1 :]
        size = math.sqrt(float(np.sum(head * head)) * float(np.sum(tail * tail)))
        important[k] = size > 0.0 and abs(float(np.sum(centred[k:] * centred[: n - k]))) / size >= limit
    for first in range(1, lags - run + 1):
        if not important[first : first + run].any():
            return min(2 * first, lags)
    return lags


def drawn_rows(n: int, block: float, resampling: Resampling) -> Iterator[Ints]:
    """(some draws, n) row numbers, until `draws` of them: blocks of geometric length, wrapped around the end.

    Source: Politis and Romano, The Stationary Bootstrap (1994).
    """
    rng = np.random.default_rng(resampling.seed)
    per_chunk = max(1, _CHUNK // max(n, 1))
    at = np.arange(n, dtype=np.int32)
    for first in range(0, resampling.draws, per_chunk):
        shape = (min(per_chunk, resampling.draws - first), n)
        rows = rng.integers(0, n, shape, dtype=np.int32)
        if block > 1.0:
            starts = rng.random(shape, dtype=np.float32) < 1.0 / block
            starts[:, 0] = True
            began = np.maximum.accumulate(np.where(starts, at, np.int32(0)), axis=1)
            rows = np.take_along_axis(rows, began.astype(np.intp), axis=1) + at - began
            rows -= np.where(rows >= n, np.int32(n), np.int32(0))
        yield rows.astype(np.intp)


def drawn_sums(columns: Floats, block: float, resampling: Resampling) -> Floats:
    """columns (n, k) → (draws, k): the column sums of every draw; what is a function of sums needs no more."""
    n, k = columns.shape
    across = np.ascontiguousarray(columns.T)
    found = np.empty((resampling.draws, k))
    done = 0
    for rows in drawn_rows(n, block, resampling):
        here = rows.shape[0]
        flat = (rows + np.arange(here)[:, None] * n).ravel()
        times = np.bincount(flat, minlength=here * n).reshape(here, n).astype(np.float64)
        found[done : done + here] = np.einsum("dn,kn->dk", times, across)
        done += here
    return found


def drawn_paths(series: Floats, statistics: Callable[[Floats], Floats], block: float, resampling: Resampling) -> Floats:
    """(draws, k): `statistics` of every drawn path; it takes (some draws, n) and gives k values a draw."""
    return np.concatenate([statistics(series[rows]) for rows in drawn_rows(series.size, block, resampling)])


def percentile_interval(values: Floats, block: float, resampling: Resampling, kind: str = "bootstrap") -> Interval:
    """The middle `level` of the draws, by order statistics rounded outwards.

    A draw without the statistic (NaN) counts as unbounded on both sides: what cannot be told is not left out.
    """
    count = values.size
    outside = (1.0 - resampling.level) / 2.0
    low = np.sort(np.where(np.isnan(values), -np.inf, values))[math.floor(outside * (count - 1))]
    high = np.sort(np.where(np.isnan(values), np.inf, values))[math.ceil((1.0 - outside) * (count - 1))]
    return Interval(
        low=float(low) if np.isfinite(low) else None,
        high=float(high) if np.isfinite(high) else None,
        level=resampling.level,
        kind=kind,
        draws=count,
        block=block,
        seed=resampling.seed,
    )


def all_alike_interval(n: int, won: bool, level: float) -> Interval:
    """For a share of n trials that all ended alike, where every draw is the same: the exact binomial bound.

    None of n: [0, 1 - (a/2)^(1/n)]; all of n: [(a/2)^(1/n), 1], with a = 1 - level (Clopper and Pearson, 1934).
    """
    bound = ((1.0 - level) / 2.0) ** (1.0 / n)
    low, high = (bound, 1.0) if won else (0.0, 1.0 - bound)
    return Interval(low, high, level, "exact", draws=0, block=0.0, seed=0)
