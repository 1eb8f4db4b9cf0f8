"""Rows unlike those that were learned from are told from the others, whatever is odd about them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ml_advanced.ensemble.familiarity import Familiarity, fit_familiarity
from ml_advanced.ensemble.members import BadArrays, Floats

K = 20
MIX = np.random.default_rng(0).normal(size=(K, K)) * 0.3 + np.eye(K)


def drawn(rows: int, seed: int) -> Floats:
    """Heavy tails, features that hang together, some with few values, one always positive."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(4, size=(rows, K)) @ MIX
    x[:, 15], x[:, 16] = rng.integers(0, 5, rows), rng.random(rows) < 0.4
    x[:, 17] = np.exp(0.3 * x[:, 17])
    return x


KNOWN = fit_familiarity(drawn(5000, 1))
SPREAD = drawn(5000, 1).std(axis=0)


def auc(usual: Floats, odd: Floats) -> float:
    a, b = KNOWN.strangeness(usual), KNOWN.strangeness(odd)
    return float((b[:, None] > a[None, :]).mean() + 0.5 * (b[:, None] == a[None, :]).mean())


def alone(x: Floats, change: Callable[[Floats], Floats]) -> Floats:
    made = x.copy()
    made[:, 3] = change(made[:, 3])
    return made


@pytest.mark.parametrize(
    "shifted",
    [
        lambda x: 10 * x,
        lambda x: 0.01 * x,
        lambda x: x + 3 * SPREAD,
        lambda x: x + 1.5 * SPREAD * (np.arange(K) < K // 2),
        lambda x: alone(x, lambda v: v + 8 * SPREAD[3]),
        lambda x: alone(x, lambda v: 100 * v),
        lambda x: x[:, ::-1],
        lambda x: 3 * x,
        lambda x: np.zeros_like(x),
        lambda x: np.full_like(x, 7.0),
        lambda x: 100 * (x + 1),
    ],
    ids=["x10", "x0.01", "all+3s", "half+1.5s", "one+8s", "one x100", "reversed", "x3", "zeros", "sevens", "percent"],
)  # fmt: skip
def test_L08_shifted_rows_are_told_from_usual_ones(shifted: Callable[[Floats], Floats]) -> None:
    usual = drawn(1200, 2)
    assert auc(usual, shifted(usual)) >= 0.9


def test_L08_few_usual_rows_are_marked_and_far_ones_all() -> None:
    usual = drawn(4000, 3)
    assert 0.0 < (KNOWN.strangeness(usual) > 1).mean() < 0.03
    assert (KNOWN.strangeness(usual + 10 * SPREAD) > 1).all()
    assert (KNOWN.strangeness(np.full((3, K), 1e300)) > 1).all()


def test_an_unknown_feature_makes_no_row_odd_and_other_rows_change_no_bit() -> None:
    usual = drawn(300, 4)
    some = usual.copy()
    some[:, 5] = np.nan
    assert (KNOWN.strangeness(some) > 1).mean() < 0.03
    assert (KNOWN.strangeness(usual)[7:8] == KNOWN.strangeness(usual[7:8])).all()


def test_it_is_read_back_to_the_same_bits_and_refused_when_it_cannot_be() -> None:
    usual, arrays = drawn(50, 5), KNOWN.arrays()
    assert (Familiarity.of(arrays, K).strangeness(usual) == KNOWN.strangeness(usual)).all()
    for name, broken in (
        ("edges", arrays["edges"][:, ::-1]), ("scale", 0 * arrays["scale"]), ("whiten", np.nan * arrays["whiten"]),
        ("known", arrays["known"] + 1), ("limits", -arrays["limits"]), ("edges", arrays["edges"][:5]),
    ):  # fmt: skip
        with pytest.raises(BadArrays):
            Familiarity.of(arrays | {name: broken}, K)
    with pytest.raises(BadArrays):
        Familiarity.of({"edges": arrays["edges"]}, K)


def test_features_without_variation_or_never_known_are_borne() -> None:
    x = drawn(400, 6)
    x[:, 0], x[:, 1] = 3.0, np.nan
    made = fit_familiarity(x)
    assert np.isfinite(made.strangeness(x)).all()
    assert made.known[0] == 1 and made.known[1] == 0
    odd = x[:5].copy()
    odd[:, 0] = 4.0
    assert (made.strangeness(odd) > 1).all()
