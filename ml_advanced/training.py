"""Training: members out of fold, calibrated, averaged, fitted once more on everything. Only here is scikit-learn used.

Walk-forward, purged and embargoed (ml_advanced/validation.py). What the gate judges is what the ensemble would have
said at the time: the members of fold k learned from what ended before it, its calibration and weights from the
out-of-fold predictions of the folds before it. The first fold has no such folds; it only calibrates.

One member of one fold is one task with a seed of its own, worked out on one thread: the result does not depend on how
many processes share the tasks, nor on the cores.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from core.canonical import canonical_json
from core.errors import DataError
from ml_advanced.dataset import Dataset
from ml_advanced.ensemble.blend import Ensemble, Voice, fit_weights, kept
from ml_advanced.ensemble.calibrators import Calibrator, fit_best, log_losses
from ml_advanced.ensemble.familiarity import fit_familiarity
from ml_advanced.ensemble.members import Floats, Linear, Member, trees_of_boosting, trees_of_forest
from ml_advanced.validation import Fold, combinatorial_purged, purged_folds

Tick = Callable[[str], None]
MEMBERS: Final = ("logistic", "forest", "extra_trees", "boosting")
FEWEST_ROWS, FEWEST_SESSIONS, FEWEST_OF_A_CLASS = 300, 250, 60
_FEWEST_TO_FIT = 80  # rows of a fold's training
_SEED_SPAN = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a model besides data and code. Hashed into trial and manifest."""

    members: tuple[str, ...] = MEMBERS
    folds: int = 5
    embargo: int = 10  # sessions
    trees: int = 100
    boosts: int = 80
    controls: int = 3  # rounds with labels of other signals
    seed: int = 20240308

    @property
    def sha256(self) -> str:
        return hashlib.sha256(canonical_json(self).encode()).hexdigest()


def quick(recipe: Recipe) -> Recipe:
    """A look in seconds: fewer folds, smaller members, one control."""
    return replace(recipe, folds=min(3, recipe.folds), trees=30, boosts=30, controls=1)


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """What was said of each row before it could be known. (n,) each; rows that were never judged have fold -1.

    raw     (members, n) of each member, uncalibrated · fold, number of the fold that tested the row
    judged  the ensemble's probability with the past's calibration; NaN in the first fold
    base    the base rate of the training part of the row's fold
    """

    raw: Floats
    fold: np.ndarray[tuple[int], np.dtype[np.int64]]
    judged: Floats
    base: Floats

    @property
    def rows(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Those the gate looks at."""
        return np.flatnonzero(np.isfinite(self.judged))


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    ensemble: Ensemble
    out_of_fold: OutOfFold
    folds: tuple[Fold, ...]
    controls: tuple[OutOfFold, ...] = ()
    control_labels: tuple[Floats, ...] = ()  # the labels that each control was shown
    importance: Mapping[str, float] = field(default_factory=dict)  # nats lost when a feature is shuffled, last fold
    paths: tuple[Floats, ...] = ()  # (n,) what the logistic member said on each combinatorial path; empty: too little

    @property
    def weights(self) -> dict[str, float]:
        return {voice.name: voice.weight for voice in self.ensemble.voices}


def libraries() -> dict[str, str]:
    """Versions that a model was made with, for its manifest."""
    import sklearn

    return {"python": platform.python_version(), "numpy": np.__version__, "scikit-learn": sklearn.__version__}


# ---------------------------------------------------------------- one member
def estimator(name: str, recipe: Recipe, seed: int, rows: int) -> Any:
    """An unfitted scikit-learn model. Small and strongly regularised: what there is to find is faint."""
    from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    leaf = max(10, min(60, rows // 40))
    if name == "logistic":
        imputer = SimpleImputer(strategy="median", keep_empty_features=True)
        steps = [("fill", imputer), ("scale", StandardScaler()), ("fit", LogisticRegression(C=0.02, max_iter=500))]
        return Pipeline(steps)
    if name == "boosting":
        return HistGradientBoostingClassifier(
            max_iter=recipe.boosts, learning_rate=0.05, max_leaf_nodes=6, min_samples_leaf=leaf, l2_regularization=10.0,
            max_features=0.5, early_stopping=False, random_state=seed,
        )  # fmt: skip
    shared = {"n_estimators": recipe.trees, "min_samples_leaf": leaf, "max_features": 0.3, "random_state": seed}
    if name == "forest":
        return RandomForestClassifier(max_depth=6, max_samples=min(rows, 4000), **shared)
    if name == "extra_trees":
        return ExtraTreesClassifier(max_depth=7, bootstrap=True, max_samples=min(rows, 6000), **shared)
    raise ValueError(f"no member is called {name}")


def fit_member(name: str, recipe: Recipe, seed: int, x: Floats, y: Floats) -> Member:
    """Fitted on one thread and exported to arrays."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        fitted = estimator(name, recipe, seed, len(y)).fit(x, y)
    if name == "logistic":
        return Linear.from_sklearn(fitted)
    return trees_of_boosting(fitted) if name == "boosting" else trees_of_forest(fitted)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One member on one set of rows; `test` None: the member itself is wanted."""

    name: str
    seed: int
    train: Any
    test: Any
    labels: int  # which column of the labels: 0 the true ones, then the controls


Result = tuple[Member, Floats]  # the second: of the rows of `test`


def work(task: Task, recipe: Recipe, x: Floats, labels: Floats) -> Result:
    member = fit_member(task.name, recipe, task.seed, x[task.train], labels[task.labels][task.train])
    return member, np.empty(0) if task.test is None else member.probabilities(x[task.test])


def _seed(recipe: Recipe, *parts: object) -> int:
    words = canonical_json([recipe.seed, *map(str, parts)])
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") % _SEED_SPAN


# ---------------------------------------------------------------- the whole
def refuse_too_little(data: Dataset) -> None:
    """Raises DataError MODEL_TOO_LITTLE_DATA with what there is and what is wanted."""
    sessions = int(np.unique(data.starts).size)
    wins = int(data.y.sum())
    losses = len(data) - wins
    span = int(data.sessions.size)
    if len(data) >= FEWEST_ROWS and min(wins, losses) >= FEWEST_OF_A_CLASS and span >= FEWEST_SESSIONS:
        return
    raise DataError(
        f"too little to learn from: {len(data)} ended trades on {sessions} of {span} sessions, {wins} won and {losses} "
        f"lost; wanted are {FEWEST_ROWS} trades, {FEWEST_OF_A_CLASS} of each kind, {FEWEST_SESSIONS} sessions",
        code="MODEL_TOO_LITTLE_DATA",
        advice="an earlier --start, more symbols (--cap), or --bars PATH with a longer history",
    )  # fmt: skip


def train(data: Dataset, recipe: Recipe, *, workers: int = 1, tick: Tick = lambda _: None) -> Trained:
    """The ensemble, its out-of-fold record and its controls. Raises DataError MODEL_TOO_LITTLE_DATA."""
    refuse_too_little(data)
    folds = _usable(data, recipe)
    labels = np.stack([data.y, *(rotated(data.y, _seed(recipe, "control", k)) for k in range(recipe.controls))])
    tasks = list(_tasks(data, recipe, folds, len(labels)))
    done = []
    for number, result in enumerate(_spread(tasks, recipe, data.x, labels, workers), start=1):
        done.append(result)
        tick(f"{number} of {len(tasks)} fits: {_told(tasks[number - 1])}")
    records = []
    for column in range(len(labels)):
        raw = np.full((len(recipe.members), len(data)), np.nan)
        for task, result in zip(tasks, done, strict=True):
            if task.labels == column and task.test is not None:
                raw[recipe.members.index(task.name), task.test] = result[1]
        records.append(out_of_fold(raw, labels[column], folds))
    finals = {task.name: result[0] for task, result in zip(tasks, done, strict=True) if task.test is None}
    tick("calibration and weights")
    ensemble = assembled(data, recipe, records[0], finals)
    tick("what each feature is worth")
    last = [
        result[0] for task, result in zip(tasks, done, strict=True)
        if task.labels == 0 and task.test is not None and task.test is folds[-1].test
    ]  # fmt: skip
    worth = importance(data, folds[-1], last, records[0], _seed(recipe, "importance"))
    tick("other orders of history")
    paths = said_on_paths(data, recipe)
    return Trained(ensemble, records[0], folds, tuple(records[1:]), tuple(labels[1:]), worth, paths)


def _told(task: Task) -> str:
    what = "the whole" if task.test is None else "a fold"
    return f"{task.name}, {what}" if task.labels == 0 else f"{task.name}, {what}, random labels"


def rotated(y: Floats, seed: int) -> Floats:
    """The outcomes of other signals: moved along by a part of the whole, so that wins stay as bunched as they were."""
    n = len(y)
    shift = n // 5 + seed % max(1, n - 2 * (n // 5))
    made: Floats = np.roll(y, shift)
    return made


def _usable(data: Dataset, recipe: Recipe) -> tuple[Fold, ...]:
    sessions = data.sessions[data.sessions >= data.starts.min()]  # before the first signal nothing can be learned
    found = purged_folds(data.starts, data.ends, recipe.folds, recipe.embargo, sessions=sessions)
    usable = tuple(
        fold for fold in found
        if len(fold.train) >= _FEWEST_TO_FIT and len(fold.test) and np.unique(data.y[fold.train]).size == 2
    )  # fmt: skip
    if len(usable) < 2:
        raise DataError(
            f"too little to learn from: {len(usable)} of {recipe.folds} folds have {_FEWEST_TO_FIT} trades to train on",
            code="MODEL_TOO_LITTLE_DATA", advice="an earlier --start, more symbols (--cap), or --bars PATH",
        )  # fmt: skip
    return usable


def _tasks(data: Dataset, recipe: Recipe, folds: Sequence[Fold], columns: int) -> Iterator[Task]:
    for name in recipe.members:
        yield Task(name, _seed(recipe, name, "whole"), np.arange(len(data)), None, 0)
    for column in range(columns):
        for number, fold in enumerate(folds):
            for name in recipe.members:
                yield Task(name, _seed(recipe, name, number, column), fold.train, fold.test, column)


def _spread(tasks: Sequence[Task], recipe: Recipe, x: Floats, labels: Floats, workers: int) -> Iterator[Result]:
    """Results in the order of the tasks."""
    if workers <= 1:
        for task in tasks:
            yield work(task, recipe, x, labels)
        return
    from joblib import Parallel, delayed

    pool = Parallel(n_jobs=workers, return_as="generator", batch_size=1, pre_dispatch="2*n_jobs")
    yield from pool(delayed(work)(task, recipe, x, labels) for task in tasks)


# ---------------------------------------------------------------- what was said at the time
def out_of_fold(raw: Floats, y: Floats, folds: Sequence[Fold]) -> OutOfFold:
    """raw : (members, n), NaN where a row was never tested."""
    n = len(y)
    fold = np.full(n, -1, dtype=np.int64)
    judged, base = np.full(n, np.nan), np.full(n, np.nan)
    for number, one in enumerate(folds):
        fold[one.test] = number
        base[one.test] = (y[one.train].sum() + 1.0) / (len(one.train) + 2.0)
        past = np.flatnonzero((fold >= 0) & (fold < number))
        if past.size and np.unique(y[past]).size == 2:
            past = past[np.isin(past, one.train)]  # what ended before this fold: the purge holds for calibration too
        if past.size and np.unique(y[past]).size == 2:
            calibrators, weights = combined(raw[:, past], y[past], fold[past])
            judged[one.test] = blended(raw[:, one.test], calibrators, weights)
    return OutOfFold(raw, fold, judged, base)


def combined(raw: Floats, y: Floats, part: Any) -> tuple[list[Calibrator], Floats]:
    """Calibrator and weight of each member, from out-of-fold predictions; (members, n)."""
    calibrators = [fit_best(row, y, part) for row in raw]
    said = [c.apply(row) for c, row in zip(calibrators, raw, strict=True)]
    return calibrators, kept(fit_weights(said, y))


def blended(raw: Floats, calibrators: Sequence[Calibrator], weights: Floats) -> Floats:
    total = np.zeros(raw.shape[1])
    for row, calibrator, weight in zip(raw, calibrators, weights.tolist(), strict=True):
        total += weight * calibrator.apply(row)
    return total


def assembled(data: Dataset, recipe: Recipe, record: OutOfFold, finals: Mapping[str, Any]) -> Ensemble:
    """Members of all rows, with calibration and weights of every out-of-fold prediction."""
    tested = np.flatnonzero(record.fold >= 0)
    calibrators, weights = combined(record.raw[:, tested], data.y[tested], record.fold[tested])
    voices = tuple(
        Voice(name, finals[name], calibrator, weight)
        for name, calibrator, weight in zip(recipe.members, calibrators, weights.tolist(), strict=True) if weight > 0
    )  # fmt: skip
    return Ensemble(data.names, voices, fit_familiarity(data.x))


# ---------------------------------------------------------------- what a feature is worth
def importance(
    data: Dataset, fold: Fold, members: Sequence[Member], record: OutOfFold, seed: int, *, most_rows: int = 1500
) -> dict[str, float]:
    """By how many nats the last fold's log loss grows when a feature is shuffled among its rows; at most `most_rows`.

    members : of that fold, which have not seen its rows · the calibration is that of the folds before it.
    """
    past = np.flatnonzero((record.fold >= 0) & (record.fold < record.fold.max()))
    past = past[np.isin(past, fold.train)]
    if not past.size or np.unique(data.y[past]).size < 2:
        return {}
    calibrators, weights = combined(record.raw[:, past], data.y[past], record.fold[past])
    rng = np.random.default_rng(seed)
    rows = fold.test if len(fold.test) <= most_rows else np.sort(rng.choice(fold.test, most_rows, replace=False))
    x, y = data.x[rows].copy(), data.y[rows]

    def loss() -> float:
        raw = np.stack([member.probabilities(x) for member in members])
        return float(log_losses(blended(raw, calibrators, weights), y).mean())

    before, worth = loss(), {}
    for column, name in enumerate(data.names):
        kept_column = x[:, column].copy()
        x[:, column] = rng.permutation(kept_column)
        worth[name] = loss() - before
        x[:, column] = kept_column
    return worth


# ---------------------------------------------------------------- had the years come in another order
def said_on_paths(data: Dataset, recipe: Recipe, *, groups: int = 6, tested: int = 2) -> tuple[Floats, ...]:
    """What the logistic member says of every row on each path of the combinatorial folds: how much the one walk-forward
    may owe to luck. Told on the card and asked by no gate, since it also learns from later years.

    (n,) uncalibrated for each path. Empty when a fold has too little to teach.
    """
    sessions = data.sessions[data.sessions >= data.starts.min()]
    made = combinatorial_purged(data.starts, data.ends, groups, tested, recipe.embargo, sessions=sessions)
    said = []
    for number, fold in enumerate(made.folds):
        if len(fold.train) < _FEWEST_TO_FIT or np.unique(data.y[fold.train]).size < 2:
            return ()
        member = fit_member("logistic", recipe, _seed(recipe, "path", number), data.x[fold.train], data.y[fold.train])
        said.append(np.full(len(data), np.nan))
        said[-1][fold.test] = member.probabilities(data.x[fold.test])
    rows = np.arange(len(data))
    return tuple(np.stack(said)[path[made.groups], rows] for path in made.paths)
