"""PBO: how often the best variant in one half of the data is below the median in the other half.

Combinatorially symmetric cross-validation: the rows are cut into S blocks; each choice of S/2 of them is once the
training half, the others being the test half. Source: Bailey, Borwein, López de Prado and Zhu, The Probability of
Backtest Overfitting, Journal of Computational Finance 20(4), 2017 (first 2013, 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np

from portfolio.backtest.bootstrap import Floats

BLOCKS: Final = 16
_CHUNK: Final = 4_000_000  # splits x variants held at a time
_FLAT: Final = 1e-18  # a variance below this share of the largest squared return is rounding


@dataclass(frozen=True, slots=True, eq=False)
class Overfitting:
    """pbo None: not to be told, and `reason` says why.

    rows, variants, splits   what it was computed from; rows that fill no block are dropped at the start
    logits                   (splits,) ln(w / (1 - w)), w = rank in the test half of the training half's best / (N + 1)
    slope, intercept         test Sharpe ~ intercept + slope x training Sharpe, of the best; below 0: the better it
                             looked, the worse it became. None when the training half's best never differs
    probability_of_loss      share of splits whose best has a test Sharpe below 0
    """

    pbo: float | None
    rows: int
    variants: int
    splits: int
    logits: Floats
    slope: float | None = None
    intercept: float | None = None
    probability_of_loss: float | None = None
    reason: str = ""


def probability_of_overfitting(returns: Floats, blocks: int = BLOCKS) -> Overfitting:
    """returns (rows, variants): daily returns of every variant that was tried, over the same sessions, finite.

    The measure is the Sharpe ratio (n - 1); a half in which a variant never moved counts as 0. Ties share their mean
    rank, of equally good ones the first is chosen. blocks: even; 16 gives 12,870 splits.
    """
    if blocks < 2 or blocks % 2:
        raise ValueError(f"an even number of blocks is wanted, was {blocks}")
    if returns.ndim != 2 or not np.isfinite(returns).all():
        raise ValueError("finite returns of shape (rows, variants) are wanted")
    rows, variants = returns.shape
    if variants < 2 or rows < 2 * blocks:
        reason = "ONE_VARIANT" if variants < 2 else "TOO_FEW_SESSIONS"
        return Overfitting(None, rows, variants, 0, np.empty(0), reason=reason)
    used = returns[rows % blocks :]
    train, test, rank = _best_of_each_split(used, blocks)
    share = rank / (variants + 1)
    logits = np.log(share / (1.0 - share))
    slope, intercept = _line(train, test)
    return Overfitting(
        pbo=float(np.mean(logits <= 0.0)),
        rows=used.shape[0],
        variants=variants,
        splits=logits.size,
        logits=logits,
        slope=slope,
        intercept=intercept,
        probability_of_loss=float(np.mean(test < 0.0)),
    )


def _best_of_each_split(returns: Floats, blocks: int) -> tuple[Floats, Floats, Floats]:
    """Per split: Sharpe of the training half's best in training and in test, and its mean rank in test (1 = worst)."""
    rows, variants = returns.shape
    centre = returns.mean(axis=0)
    cut = (returns - centre).reshape(blocks, rows // blocks, variants)
    sums, squares = cut.sum(axis=1), (cut**2).sum(axis=1)  # (blocks, variants), about the centre: keeps the digits
    chosen = np.array(
        [[k in split for k in range(blocks)] for split in combinations(range(blocks), blocks // 2)], float
    )
    flat = _FLAT * np.maximum((returns**2).max(axis=0), np.finfo(np.float64).tiny)
    train, test, rank = (np.empty(len(chosen)) for _ in range(3))
    step = max(1, _CHUNK // variants)
    for first in range(0, len(chosen), step):
        here = slice(first, first + step)
        inside = _sharpe(chosen[here], sums, squares, centre, flat, rows // 2)
        outside = _sharpe(1.0 - chosen[here], sums, squares, centre, flat, rows // 2)
        best = np.argmax(inside, axis=1)[:, None]
        train[here] = np.take_along_axis(inside, best, axis=1)[:, 0]
        reached = np.take_along_axis(outside, best, axis=1)
        test[here] = reached[:, 0]
        rank[here] = (outside < reached).sum(axis=1) + ((outside == reached).sum(axis=1) + 1) / 2.0
    return train, test, rank


def _sharpe(chosen: Floats, sums: Floats, squares: Floats, centre: Floats, flat: Floats, n: int) -> Floats:
    """(splits, variants) Sharpe ratio of the chosen blocks from their sums; einsum adds in one order on any machine."""
    total = np.einsum("sb,bv->sv", chosen, sums)
    variance = np.maximum(np.einsum("sb,bv->sv", chosen, squares) - total**2 / n, 0.0) / (n - 1)
    mean = centre + total / n
    out = np.zeros(total.shape)
    np.divide(mean, np.sqrt(variance), out=out, where=variance > flat)
    return out


def _line(x: Floats, y: Floats) -> tuple[float | None, float | None]:
    """Least squares."""
    centred = x - x.mean()
    spread = float(np.sum(centred**2))
    if spread == 0.0:
        return None, None
    slope = float(np.sum(centred * (y - y.mean()))) / spread
    return slope, float(y.mean()) - slope * float(x.mean())
