"""PBO against a slow, independent reading of the paper (ranks and logits as pypbo takes them), and its ends."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from portfolio.backtest.bootstrap import Floats
from portfolio.backtest.overfitting import Overfitting, probability_of_overfitting


def slow(returns: Floats, blocks: int) -> tuple[float, list[float], float, float]:
    """PBO, logits, slope, probability of loss: each split written out, as in the paper's section 2.2 and pypbo."""
    rows, variants = returns.shape
    kept = returns[rows % blocks :]
    size = kept.shape[0] // blocks
    pieces = [kept[i * size : (i + 1) * size] for i in range(blocks)]

    def sharpes(chosen: tuple[int, ...]) -> list[float]:
        half = np.concatenate([pieces[i] for i in chosen])
        found = []
        for column in half.T.tolist():
            mean = math.fsum(column) / len(column)
            variance = math.fsum((value - mean) ** 2 for value in column) / (len(column) - 1)
            found.append(mean / math.sqrt(variance) if variance > 1e-24 else 0.0)
        return found

    logits, train, test = [], [], []
    for chosen in combinations(range(blocks), blocks // 2):
        inside = sharpes(chosen)
        outside = sharpes(tuple(i for i in range(blocks) if i not in chosen))
        best = inside.index(max(inside))
        below = sum(value < outside[best] for value in outside)
        equal = sum(value == outside[best] for value in outside)
        share = (below + (equal + 1) / 2) / (variants + 1)
        logits.append(math.log(share / (1 - share)))
        train.append(inside[best])
        test.append(outside[best])
    slope = float(np.polyfit(train, test, 1)[0])
    pbo = sum(value <= 0 for value in logits) / len(logits)
    return pbo, logits, slope, sum(value < 0 for value in test) / len(test)


def drawn(kind: str) -> Floats:
    rng = np.random.default_rng(8)
    noise = rng.normal(0, 0.01, (203, 9))
    if kind == "one true":
        noise[:, 4] += 0.004
    elif kind == "alike":
        noise = 0.3 * noise + rng.normal(0.001, 0.01, (203, 1))
    elif kind == "sparse":
        noise[rng.random(noise.shape) < 0.9] = 0.0
    elif kind == "never traded":
        noise[:, 2] = 0.0
    elif kind == "large mean":
        noise += 0.5
    return noise


@pytest.mark.parametrize("blocks", [2, 4, 8])
@pytest.mark.parametrize("kind", ["noise", "one true", "alike", "sparse", "never traded", "large mean"])
def test_equal_to_the_slow_reading_at_the_same_splits(kind: str, blocks: int) -> None:
    returns = drawn(kind)
    pbo, logits, slope, loss = slow(returns, blocks)
    found = probability_of_overfitting(returns, blocks)
    assert found.pbo == pytest.approx(pbo, abs=1e-6)
    assert found.logits == pytest.approx(logits, abs=1e-6)
    assert found.slope == pytest.approx(slope, rel=1e-6, abs=1e-6)
    assert found.probability_of_loss == pytest.approx(loss, abs=1e-6)
    assert (found.rows, found.variants, found.splits) == (203 - 203 % blocks, 9, math.comb(blocks, blocks // 2))


def test_sixteen_blocks_are_12870_splits() -> None:
    found = probability_of_overfitting(np.random.default_rng(0).normal(0, 0.01, (320, 4)))
    assert found.splits == 12_870


def test_splits_worked_in_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    returns = drawn("noise")
    whole = probability_of_overfitting(returns, 8)
    monkeypatch.setattr("portfolio.backtest.overfitting._CHUNK", 50)
    assert np.array_equal(probability_of_overfitting(returns, 8).logits, whole.logits)


def test_noise_is_overfitted_and_a_true_variant_is_not() -> None:
    rng = np.random.default_rng(5)
    noise = [probability_of_overfitting(rng.normal(0, 0.01, (1000, 30)), 8).pbo for _ in range(20)]
    assert 0.35 < float(np.mean([value for value in noise if value is not None])) < 0.65
    returns = rng.normal(0, 0.01, (1000, 30))
    returns[:, 7] += 0.003
    found = probability_of_overfitting(returns, 8)
    assert found.pbo == 0.0 and found.probability_of_loss == 0.0 and np.all(found.logits > 2)


def test_identical_variants_share_the_middle_rank() -> None:
    column = np.random.default_rng(1).normal(0.001, 0.01, (160, 1))
    found = probability_of_overfitting(np.repeat(column, 5, axis=1), 4)
    assert found.logits == pytest.approx(0.0) and found.pbo == 1.0  # no evidence that choosing helped


@pytest.mark.parametrize(
    ("shape", "reason"), [((100, 1), "ONE_VARIANT"), ((31, 5), "TOO_FEW_SESSIONS"), ((0, 5), "TOO_FEW_SESSIONS")]
)
def test_what_cannot_be_told(shape: tuple[int, int], reason: str) -> None:
    found: Overfitting = probability_of_overfitting(np.random.default_rng(0).normal(size=shape))
    assert (found.pbo, found.reason, found.splits) == (None, reason, 0)
    assert probability_of_overfitting(np.random.default_rng(0).normal(size=(32, 5))).pbo is not None


@pytest.mark.parametrize("blocks", [0, 3, -2])
def test_an_odd_number_of_blocks_is_refused(blocks: int) -> None:
    with pytest.raises(ValueError, match="even"):
        probability_of_overfitting(np.zeros((100, 3)), blocks)


def test_returns_that_are_no_numbers_are_refused() -> None:
    returns = np.zeros((100, 3))
    returns[3, 1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        probability_of_overfitting(returns)
