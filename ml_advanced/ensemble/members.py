"""Fitted models as plain arrays, predicted by numpy alone: no scan imports scikit-learn, no file of ours holds code.

| member        | made by                                  | arrays                                               |
|---------------|------------------------------------------|------------------------------------------------------|
| `Linear`      | logistic regression                      | filling, centre, scale and weight of each feature    |
| `Trees`, mean | random forest, extremely random trees    | nodes of all trees; the mean of their leaves         |
| `Trees`, sum  | histogram gradient boosting              | nodes of all trees; log-odds: start + sum of leaves  |

NaN is an unknown feature: `Linear` fills in the training median, each node of `Trees` says which way it goes. Each row
is added up by itself in one fixed order, so it has the same probability alone and among others, on any number of cores.
What is read is not believed: a child comes after its parent, which rules out cycles, and every number is finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Arrays = Mapping[str, Floats]

DEEPEST = 64  # levels of a tree
_MOST_NODES = 4_000_000
_CHUNK_CELLS = 20_000  # (rows x trees) at a time: what is worked on stays in the processor's cache


class BadArrays(ValueError):
    """Arrays that are no member: said before anything is predicted with them."""


class Member(Protocol):
    """One fitted model. `probabilities` takes (n, k) float64, NaN = unknown, and gives (n,) within 0..1."""

    @property
    def kind(self) -> str: ...
    def probabilities(self, x: Floats) -> Floats: ...
    def arrays(self) -> dict[str, Floats]: ...


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + exp(-z)) without overflow."""
    small = np.exp(-np.abs(z))
    made: Floats = np.where(z >= 0, 1.0, small) / (1.0 + small)
    return made


def require(holds: bool, what: str) -> None:
    if not holds:
        raise BadArrays(what)


# ---------------------------------------------------------------- logistic regression
@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """p = sigmoid(bias + sum of weight x (filled - centre) / scale). Each array has one number per feature."""

    fill: Floats
    centre: Floats
    scale: Floats
    weight: Floats
    bias: float
    kind: str = "linear"

    def probabilities(self, x: Floats) -> Floats:
        filled = np.where(np.isnan(x), self.fill, x)
        terms = (filled - self.centre) / self.scale * self.weight
        return sigmoid(self.bias + np.ascontiguousarray(terms).sum(axis=1))

    def arrays(self) -> dict[str, Floats]:
        named = {name: getattr(self, name) for name in ("fill", "centre", "scale", "weight")}
        return named | {"bias": np.array([self.bias])}

    @classmethod
    def of(cls, arrays: Arrays, features: int) -> Linear:
        found = {name: arrays[name] for name in ("fill", "centre", "scale", "weight", "bias")}
        for name, values in found.items():
            wanted = 1 if name == "bias" else features
            require(values.shape == (wanted,) and bool(np.isfinite(values).all()), f"{name} is not {wanted} numbers")
        require(bool((found["scale"] > 0).all()), "a scale is not positive")
        return cls(found["fill"], found["centre"], found["scale"], found["weight"], float(found["bias"][0]))

    @classmethod
    def from_sklearn(cls, fitted: Any) -> Linear:
        """From a pipeline of SimpleImputer, StandardScaler, LogisticRegression."""
        imputer, scaler, model = (step for _, step in fitted.steps)
        return cls(
            np.asarray(imputer.statistics_, dtype=np.float64), np.asarray(scaler.mean_, dtype=np.float64),
            np.asarray(scaler.scale_, dtype=np.float64), np.asarray(model.coef_[0], dtype=np.float64),
            float(model.intercept_[0]),
        )  # fmt: skip


# ---------------------------------------------------------------- trees
@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """All nodes of all trees in one table. A leaf is its own child, so every row may take the same number of steps.

    roots : (trees,) first node of each tree · feature, child (2 a node: at most the threshold, above it), value,
    threshold, missing (1: an unknown goes above) : one per node · start : added to the sum (log-odds)
    single : features are rounded to float32 before they are compared, as scikit-learn's forests do
    """

    roots: Ints
    feature: Ints
    threshold: Floats
    child: Ints
    missing: Ints
    value: Floats
    depth: int
    combine: Literal["mean", "sum"]
    single: bool
    start: float = 0.0
    kind: str = "trees"

    def probabilities(self, x: Floats) -> Floats:
        rows = max(1, _CHUNK_CELLS // self.roots.size)
        parts = [self._some(x[first : first + rows]) for first in range(0, len(x), rows)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _some(self, x: Floats) -> Floats:
        cells = np.ascontiguousarray(x.astype(np.float32).astype(np.float64) if self.single else x)
        n, k = cells.shape
        flat, unknown = cells.ravel(), np.isnan(cells).ravel()
        some_unknown = bool(unknown.any())
        first = (np.arange(n, dtype=np.int64) * k)[:, None]
        at = np.broadcast_to(self.roots, (n, self.roots.size)).astype(np.int64)
        for _ in range(self.depth):
            cell = self.feature.take(at)
            cell = cell + first
            above = flat.take(cell) > self.threshold.take(at)
            if some_unknown:
                above = np.where(unknown.take(cell), self.missing.take(at) == 1, above)
            at = self.child.take(2 * at + above).astype(np.int64)
        leaves = np.ascontiguousarray(self.value.take(at))
        if self.combine == "mean":
            mean: Floats = leaves.sum(axis=1) / self.roots.size
            return mean
        return sigmoid(self.start + leaves.sum(axis=1))

    def arrays(self) -> dict[str, Floats]:
        named = ("roots", "feature", "threshold", "child", "missing", "value")
        made = {name: np.asarray(getattr(self, name), dtype=np.float64) for name in named}
        return made | {"how": np.array([self.combine == "sum", self.single, self.start], dtype=np.float64)}

    @classmethod
    def of(cls, arrays: Arrays, features: int) -> Trees:
        """Raises BadArrays for anything that cannot be a set of trees, KeyError for a missing array."""
        threshold, value, how = arrays["threshold"], arrays["value"], arrays["how"]
        nodes = threshold.size
        require(0 < nodes <= _MOST_NODES and threshold.shape == value.shape == (nodes,), "nodes of unequal number")
        require(how.shape == (3,) and bool(np.isin(how[:2], (0.0, 1.0)).all()), "how the leaves combine is not said")
        require(bool(np.isfinite(threshold).all() and np.isfinite(value).all()), "a threshold or leaf is not finite")
        require(bool(np.isfinite(how[2])), "the start is not finite")
        roots = _whole(arrays["roots"], 0, nodes, "roots")
        require(0 < roots.size <= nodes and roots[0] == 0 and bool((np.diff(roots) > 0).all()), "roots do not ascend")
        feature = _whole(arrays["feature"], 0, features, "feature")
        missing = _whole(arrays["missing"], 0, 2, "missing")
        child = _whole(arrays["child"], 0, nodes, "child")
        require(feature.size == missing.size == nodes and child.size == 2 * nodes, "nodes of unequal number")
        depth = _depth(roots, child)
        combine: Literal["mean", "sum"] = "sum" if how[0] else "mean"
        in_bounds = combine == "sum" or bool((value >= 0).all() and (value <= 1).all())
        require(in_bounds, "a leaf is no probability")
        return cls(roots, feature, threshold, child, missing, value, depth, combine, bool(how[1]), float(how[2]))


def _whole(values: Floats, low: int, end: int, name: str) -> Ints:
    fine = values.ndim == 1 and bool(np.isfinite(values).all())
    require(fine and bool(((values >= low) & (values < end) & (values == np.floor(values))).all()), f"{name}: no index")
    return values.astype(np.int32)


def _depth(roots: Ints, child: Ints) -> int:
    """Steps to the deepest leaf. A child lies behind its parent and within its tree: then there can be no cycle."""
    nodes = child.size // 2
    at = np.arange(nodes)
    end = np.append(roots[1:], nodes)[np.searchsorted(roots, at, side="right") - 1]
    low, high = child[0::2], child[1::2]
    leaf = (low == at) & (high == at)
    inner = (low > at) & (high > at) & (low < end) & (high < end) & (low != high)
    require(bool((leaf | inner).all()), "a child does not come after its parent")
    level = np.zeros(nodes, dtype=np.int32)
    frontier = roots.astype(np.int64)
    for depth in range(DEEPEST + 1):
        level[frontier] = depth
        going = frontier[~leaf[frontier]]
        if not going.size:
            return depth
        frontier = np.concatenate((low[going], high[going])).astype(np.int64)
        require(frontier.size <= nodes, "nodes with several parents")
    raise BadArrays(f"a tree deeper than {DEEPEST} levels")


@dataclass(slots=True)
class _Building:
    """Nodes of one tree after the other, in scikit-learn's own order: children behind their parents."""

    roots: list[int]
    feature: list[Any]
    threshold: list[Any]
    low: list[Any]
    high: list[Any]
    missing: list[Any]
    value: list[Any]

    @classmethod
    def empty(cls) -> _Building:
        return cls([], [], [], [], [], [], [])

    def add(self, feature: Any, threshold: Any, low: Any, high: Any, missing_low: Any, value: Any, leaf: Any) -> None:
        first = sum(part.size for part in self.value)
        own = np.arange(len(value))
        self.roots.append(first)
        self.feature.append(np.where(leaf, 0, feature))
        self.threshold.append(np.where(leaf, 0.0, threshold))
        self.low.append(np.where(leaf, own, low) + first)
        self.high.append(np.where(leaf, own, high) + first)
        self.missing.append(np.where(leaf, 0, 1 - np.asarray(missing_low, dtype=np.int64)))
        self.value.append(np.asarray(value, dtype=np.float64))

    def done(self, combine: Literal["mean", "sum"], *, single: bool, start: float = 0.0) -> Trees:
        low, high = np.concatenate(self.low), np.concatenate(self.high)
        child = np.stack((low, high), axis=1).ravel().astype(np.int32)
        roots = np.array(self.roots, dtype=np.int32)
        threshold = np.concatenate(self.threshold).astype(np.float64)
        largest = np.finfo(np.float64).max
        return Trees(
            roots, np.concatenate(self.feature).astype(np.int32), np.clip(threshold, -largest, largest), child,
            np.concatenate(self.missing).astype(np.int32), np.concatenate(self.value), _depth(roots, child), combine,
            single, start,
        )  # fmt: skip


def trees_of_forest(fitted: Any) -> Trees:
    """From a RandomForestClassifier or ExtraTreesClassifier of two classes."""
    made = _Building.empty()
    for estimator in fitted.estimators_:
        tree = estimator.tree_
        leaf = tree.children_left < 0
        counts = tree.value[:, 0, :]
        share = counts[:, 1] / counts.sum(axis=1)
        made.add(
            tree.feature, tree.threshold, tree.children_left, tree.children_right, tree.missing_go_to_left, share, leaf
        )
    return made.done("mean", single=True)


def trees_of_boosting(fitted: Any) -> Trees:
    """From a HistGradientBoostingClassifier of two classes without categories."""
    made = _Building.empty()
    for (predictor,) in fitted._predictors:
        nodes = predictor.nodes
        if nodes["is_categorical"].any():
            raise BadArrays("categories are not supported")
        made.add(
            nodes["feature_idx"], nodes["num_threshold"], nodes["left"].astype(np.int64),
            nodes["right"].astype(np.int64), nodes["missing_go_to_left"], nodes["value"], nodes["is_leaf"].astype(bool),
        )  # fmt: skip
    return made.done("sum", single=False, start=float(np.ravel(fitted._baseline_prediction)[0]))


def member_of(kind: str, arrays: Arrays, features: int) -> Member:
    """Checked. Raises BadArrays; an array that is missing too."""
    kinds: dict[str, Any] = {"linear": Linear, "trees": Trees}
    try:
        made: Member = kinds[kind].of(arrays, features)
    except KeyError as error:
        raise BadArrays(f"{kind}: {error} is missing") from error
    return made
