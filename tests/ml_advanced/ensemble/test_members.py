"""Our numpy arrays say what scikit-learn says, with unknown features too; arrays that are no model are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ml_advanced.ensemble.members import BadArrays, Floats, Linear, Trees, member_of, trees_of_boosting, trees_of_forest
from ml_advanced.training import Recipe, estimator, fit_member
from tests.fakes.models import two_trees

SMALL = Recipe(trees=12, boosts=12)


def data(seed: int, unknown: float) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(900, 6)) * np.array([1.0, 1e-3, 1e4, 1.0, 1.0, 1.0])
    x[:, 3] = rng.integers(0, 3, 900)  # ties lie on the thresholds
    y = (x[:, 0] + x[:, 3] - 1 + rng.normal(size=900) > 0).astype(np.float64)
    x[rng.random(x.shape) < unknown] = np.nan
    return x, y


@pytest.mark.parametrize("unknown", [0.0, 0.1])
@pytest.mark.parametrize("name", ["logistic", "forest", "extra_trees", "boosting"])
def test_numpy_says_what_scikit_learn_says(name: str, unknown: float) -> None:
    """Rows it has seen, new rows, rows that know nothing, rows far away."""
    x, y = data(1, unknown)
    fitted = estimator(name, SMALL, 7, len(y)).fit(x, y)
    ours = fit_member(name, SMALL, 7, x, y)
    new, _ = data(2, 0.3)
    for asked in (x, new, np.full((2, 6), np.nan), 1e9 * new[:5], x[:1]):
        assert np.abs(ours.probabilities(asked) - fitted.predict_proba(asked)[:, 1]).max() <= 1e-9


@pytest.mark.parametrize("name", ["logistic", "forest", "boosting"])
def test_a_row_has_the_same_bits_alone_and_among_others_and_after_reading(name: str) -> None:
    x, y = data(3, 0.1)
    ours = fit_member(name, SMALL, 7, x, y)
    together = ours.probabilities(x)
    assert all(ours.probabilities(x[i : i + 1])[0] == together[i] for i in (0, 1, 450, 899))
    assert (member_of(ours.kind, ours.arrays(), 6).probabilities(x) == together).all()
    assert ours.probabilities(x[:0]).shape == (0,)


def test_trees_send_a_row_to_its_side_of_a_threshold_and_an_unknown_to_the_side_that_was_learned() -> None:
    trees = two_trees()
    asked = np.array([[0.0, 1.0, 0], [1e-9, 1.0 + 1e-9, 0], [0.0, np.nan, 0], [np.nan, 1.0, 0]])
    assert trees.probabilities(asked).tolist() == pytest.approx([0.35, 0.8, 0.6, 0.35])


def test_a_forest_and_boosting_are_exported_with_all_their_trees() -> None:
    x, y = data(4, 0.0)
    forest = trees_of_forest(estimator("forest", SMALL, 1, 900).fit(x, y))
    boosting = trees_of_boosting(estimator("boosting", SMALL, 1, 900).fit(x, y))
    assert (forest.roots.size, boosting.roots.size) == (12, 12)
    assert (forest.combine, boosting.combine) == ("mean", "sum")


def _broken(**change: Any) -> dict[str, Floats]:
    arrays = {name: values.copy() for name, values in two_trees().arrays().items()}
    for name, (at, value) in change.items():
        arrays[name][at] = value
    return arrays


@pytest.mark.parametrize(
    "change",
    [
        {"child": (1, 0)},  # a cycle: the second child is the root
        {"child": (0, 0)},
        {"child": (2, 5)},  # a leaf with one child of another tree
        {"child": (0, 4)},  # a child in the next tree
        {"child": (0, 2)},  # both children are one node
        {"child": (0, -1)},
        {"child": (0, 6)},
        {"child": (0, 1.5)},
        {"child": (0, np.nan)},
        {"feature": (0, 3)},
        {"feature": (0, -1)},
        {"missing": (0, 2)},
        {"roots": (1, 9)},
        {"roots": (1, 0)},
        {"roots": (0, 1)},
        {"threshold": (0, np.inf)},
        {"value": (1, np.nan)},
        {"value": (1, 1.01)},
        {"value": (1, -0.01)},
        {"how": (0, 2)},
        {"how": (2, np.nan)},
    ],
)
def test_L01_trees_that_are_none_are_refused(change: dict[str, Any]) -> None:
    assert Trees.of(_broken(), 3).depth == 1
    with pytest.raises(BadArrays):
        member_of("trees", _broken(**change), 3)


def test_L01_a_chain_that_is_too_deep_and_a_table_of_the_wrong_length_are_refused() -> None:
    def chain(levels: int) -> dict[str, Floats]:
        nodes = 2 * levels + 1
        child = np.repeat(np.arange(nodes), 2).astype(np.float64)
        for level in range(levels):
            child[4 * level : 4 * level + 2] = 2 * level + 1, 2 * level + 2
            # the right child goes on
        order = np.zeros(nodes)
        return {
            "roots": np.zeros(1), "feature": order, "threshold": order, "child": child, "missing": order,
            "value": np.full(nodes, 0.5), "how": np.zeros(3),
        }  # fmt: skip

    assert Trees.of(chain(64), 1).depth == 64
    with pytest.raises(BadArrays, match="deeper"):
        Trees.of(chain(65), 1)
    short = chain(3)
    short["missing"] = short["missing"][:-1]
    with pytest.raises(BadArrays):
        Trees.of(short, 1)
    del short["value"]
    with pytest.raises(BadArrays):
        member_of("trees", short, 1)
    with pytest.raises(BadArrays):
        member_of("pickle", chain(3), 1)


@pytest.mark.parametrize(("name", "value"), [("weight", np.nan), ("scale", 0.0), ("fill", np.inf)])
def test_L01_a_line_with_a_number_that_cannot_be_is_refused(name: str, value: float) -> None:
    one = np.ones(2)
    arrays = Linear(one, one, one, one, 0.0).arrays()
    assert member_of("linear", arrays, 2).probabilities(np.zeros((1, 2))).shape == (1,)
    arrays[name] = np.array([1.0, value])
    with pytest.raises(BadArrays):
        member_of("linear", arrays, 2)
    with pytest.raises(BadArrays):
        member_of("linear", Linear(one, one, one, one, 0.0).arrays(), 3)
