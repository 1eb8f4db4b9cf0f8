"""Small models, data sets with and without something to find, and homes that hold a champion."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from core.clock import SteppedClock
from core.paths import Home
from ml_advanced import model_store as store
from ml_advanced.dataset import Dataset, dataset_of
from ml_advanced.ensemble.blend import Ensemble, Voice, to_plain
from ml_advanced.ensemble.calibrators import Isotonic, Platt
from ml_advanced.ensemble.familiarity import fit_familiarity
from ml_advanced.ensemble.members import Floats, Linear, Trees

NOW = datetime(2024, 3, 11, 14, 0, tzinfo=UTC)
LEARNED_UNTIL, EXPIRES = date(2024, 3, 8), date(2024, 9, 4)
NAMES = ("depth", "trend", "volume")


def clock(at: datetime = NOW) -> SteppedClock:
    return SteppedClock(at)


def rows(n: int = 400, k: int = 3, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, k))


def two_trees() -> Trees:
    """depth <= 0 says 0.3, else 0.7; trend <= 1 says 0.4, else 0.9, where an unknown trend counts as above."""
    index = np.int32
    return Trees(
        roots=np.array([0, 3], dtype=index), feature=np.array([0, 0, 0, 1, 0, 0], dtype=index),
        threshold=np.array([0.0, 0, 0, 1.0, 0, 0]), child=np.array([1, 2, 1, 1, 2, 2, 4, 5, 4, 4, 5, 5], dtype=index),
        missing=np.array([0, 0, 0, 1, 0, 0], dtype=index), value=np.array([0, 0.3, 0.7, 0, 0.4, 0.9]), depth=1,
        combine="mean", single=False,
    )  # fmt: skip


def small_ensemble() -> Ensemble:
    one = np.ones(3)
    linear = Linear(0 * one, 0 * one, one, np.array([0.5, -0.2, 0.1]), 0.1)
    steps = Isotonic(np.array([0.2, 0.5, 0.8]), np.array([0.3, 0.5, 0.6]))
    voices = (Voice("logistic", linear, Platt(0.9, 0.05), 0.6), Voice("forest", two_trees(), steps, 0.4))
    return Ensemble(NAMES, voices, fit_familiarity(rows()))


def manifest_of(ensemble: Ensemble, **other: Any) -> tuple[dict[str, Any], dict[str, Floats]]:
    described, arrays = to_plain(ensemble)
    facts = {
        "learned_until": LEARNED_UNTIL, "expires": EXPIRES, "data": {"simulated": False}, "earned": 0.5,
        "features_meaning": "as then", "finding": "better than the base rate",
    }  # fmt: skip
    return described | facts | other, arrays | {"oof/decision": np.zeros(1), "oof/probability": np.full(1, 0.5)}


def saved(
    home: Home, model_id: str = "m-20240308-first", *, passed: bool = True, ensemble: Ensemble | None = None,
    kind: str | None = store.PROMOTED, at: datetime = NOW, **other: Any,
) -> str:  # fmt: skip
    """A model with its records, champion unless `kind` says otherwise."""
    manifest, arrays = manifest_of(ensemble or small_ensemble(), **other)
    digest = store.save(home, model_id, manifest, arrays, {store.CARD: b'{"finding":""}', store.PAGE: b"<html>"})
    note(home, store.TRAINED, {"model": model_id, "manifest_sha256": digest, "gate": {"passed": passed}}, at)
    if kind == store.PROMOTED:
        note(home, kind, {"model": model_id, "manifest_sha256": digest}, at)
    elif kind == store.SHADOWED:
        until = (at + timedelta(days=28)).date()
        note(home, kind, {"model": model_id, "from": at.date().isoformat(), "until": until.isoformat()}, at)
    store.write_view(home, store.standing(home))
    return model_id


def note(home: Home, kind: str, body: Mapping[str, Any], at: datetime = NOW) -> None:
    store.chain(home, clock(at)).append(kind, body)


# ---------------------------------------------------------------- data
def market_data(seed: int, *, rows: int = 3000, sessions: int = 750, features: int = 12, edge: float = 0.0) -> Dataset:
    """Signals bunched on some days, whose wins share the weather of their weeks.

    edge : strength of what the features tell of a win; 0.9 is an AUC of about 0.60 out of fold.
    """
    rng = np.random.default_rng(seed)
    days = np.busday_offset("2019-01-02", np.arange(sessions), roll="forward").astype("datetime64[D]")
    busy = rng.gamma(0.7, 1.0, sessions - 8)
    at = np.sort(rng.choice(sessions - 8, size=rows, p=busy / busy.sum()))
    x = rng.normal(size=(rows, features))
    x[:, 0] = 0.6 * x[:, 0] + 0.8 * rng.normal(size=sessions)[at]  # one that neighbours share
    x[:, -1] = rng.integers(0, 2, rows)
    weather = 0.3 * rng.normal(size=sessions // 40 + 1)[at // 40]
    told = 0.5 * x[:, 1] + 0.4 * x[:, 2] * (x[:, 3] > 0) + 0.3 * np.tanh(x[:, 4])
    y = (rng.random(rows) < 1.0 / (1.0 + np.exp(-(0.2 + weather + edge * told)))).astype(np.float64)
    r = np.where(y > 0, rng.gamma(2.0, 0.4, rows), -np.minimum(1.2, rng.gamma(3.0, 0.25, rows)))
    ends = np.minimum(at + rng.integers(1, 8, rows), sessions - 1)
    return dataset_of(
        names=[f"f{j}" for j in range(features)], x=x, y=y, r=r, starts=days[at], ends=days[ends],
        decision_ids=[f"{seed}-{i:06d}" for i in range(rows)], symbols=["AAA"] * rows, strategies=["s"] * rows,
        sessions=days,
    )  # fmt: skip


def with_labels_of_others(data: Dataset, seed: int) -> Dataset:
    """The same signals with outcomes drawn among all of them: nothing is left to find."""
    order = np.random.default_rng(seed).permutation(len(data))
    return dataset_of(
        names=data.names, x=data.x, y=data.y[order], r=data.r[order], starts=data.starts, ends=data.ends,
        decision_ids=data.decision_ids, symbols=data.symbols, strategies=data.strategies, sessions=data.sessions,
    )  # fmt: skip
