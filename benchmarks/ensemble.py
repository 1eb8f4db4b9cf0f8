"""How honest and how fast the ensemble is.

  ensemble.py gate [--rounds 200] [--edge 0.75] [--rows 8000]   noise, shuffled labels, a planted edge: part promoted
  ensemble.py predict      milliseconds for 900 rows and to load, beside scikit-learn's prediction by the same members
  ensemble.py train [--symbols 500]    seconds for five years of the simulated market, beside the backtest of the same
One line of JSON each. Results of the last run: docs/ml.md, benchmarks/README.md
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core.clock import SystemClock
from core.paths import Home
from ml_advanced.gate import judge
from ml_advanced.training import Recipe, train
from tests.fakes.models import NOW, market_data, saved, with_labels_of_others

_SESSIONS = 1500  # six years, as many as the real bars have


def gate(rounds: int, edge: float, rows: int, members: Sequence[str]) -> dict[str, Any]:
    """As many data sets as rounds; each kind of challenger meets the real plan."""
    recipe = Recipe(members=tuple(members), folds=5, controls=1, boosts=30, trees=30)
    passed = {"noise": 0, "shuffled_labels": 0, "edge": 0}
    areas: list[float] = []
    for seed in range(rounds):
        planted = market_data(seed, rows=rows, sessions=_SESSIONS, edge=edge)
        kinds = {
            "noise": market_data(seed, rows=rows, sessions=_SESSIONS), "edge": planted,
            "shuffled_labels": with_labels_of_others(planted, seed),
        }  # fmt: skip
        for kind, data in kinds.items():
            trained = train(data, recipe)
            controls = list(zip(trained.controls, trained.control_labels, strict=True))
            found = judge(data, trained.out_of_fold, controls)
            passed[kind] += found.passed
            if kind == "edge":
                areas.append(found.measures["auc"].value)
        print(seed + 1, passed, f"AUC {np.mean(areas):.4f}", file=sys.stderr, flush=True)
    return {
        "rounds": rounds, "rows": rows, "edge": edge, "members": list(members),
        "auc_of_the_edge": float(np.mean(areas)),
        "promoted": {kind: count / rounds for kind, count in passed.items()},
    }  # fmt: skip


def predict() -> dict[str, Any]:
    """The whole ensemble, full size, from the disk; in turn with scikit-learn's own prediction by the same members."""
    from datetime import date

    from ml_advanced.ensemble.ensemble_predictor import EnsemblePredictor
    from ml_advanced.training import MEMBERS, estimator

    data, recipe = market_data(1, rows=4000, features=36, edge=1.0), Recipe(folds=2, controls=0)
    trained = train(data, recipe)
    theirs = [estimator(name, recipe, 1, len(data)).fit(data.x, data.y) for name in MEMBERS]
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(pathlib.Path(folder))
        saved(home, ensemble=trained.ensemble, at=NOW)
        began = clock.monotonic()
        predictor = EnsemblePredictor(home, session=date(2024, 3, 11))
        loaded = clock.monotonic() - began
        spent, beside = [], []
        for _ in range(41):
            began = clock.monotonic()
            said = predictor.predict(data.x[:900], data.names)
            between = clock.monotonic()
            for one in theirs:
                one.predict_proba(data.x[:900])
            spent.append(between - began)
            beside.append(clock.monotonic() - between)
    return {
        "members": list(predictor.loaded), "load_ms": round(1e3 * loaded, 1),
        "predict_900_ms": round(1e3 * min(spent), 1), "median_ms": round(1e3 * float(np.median(spent)), 1),
        "scikit_learn_median_ms": round(1e3 * float(np.median(beside)), 1),
        "ratio": round(float(np.median(spent) / np.median(beside)), 2),
        "ok": said.codes.count("OK"),
    }  # fmt: skip


def training(symbols: int) -> dict[str, Any]:
    """scripts/train_ensemble.py itself, in a home of its own: bars, engine, features, everything; then the backtest."""
    clock = SystemClock()
    words = ("--cap", str(symbols), "--workers", "2", "--json")
    with tempfile.TemporaryDirectory() as folder:
        began = clock.monotonic()
        found = json.loads(_script("train_ensemble.py", *words, home=folder))
        between = clock.monotonic()
        _script("backtest_dual_strategy.py", *words, "--start", found["data"]["first"], home=folder)
        whole, backtest = between - began, clock.monotonic() - between
    return {
        "symbols": symbols, "seconds": round(whole, 1), "rows": found["data"]["rows"], **found["seconds"],
        "backtest_with_report": round(backtest, 1), "ratio": round(whole / backtest, 2),
    }  # fmt: skip


def _script(name: str, *words: str, home: str) -> str:
    import os
    import subprocess

    root = pathlib.Path(__file__).resolve().parents[1]
    command, env = [sys.executable, f"scripts/{name}", *words], {**os.environ, "KOBE_HOME": home}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True, cwd=root).stdout


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("gate", "predict", "train"))
    p.add_argument("--rounds", type=int, default=200)
    p.add_argument("--edge", type=float, default=0.75)
    p.add_argument("--rows", type=int, default=8000)
    p.add_argument("--members", nargs="+", default=["logistic"], help="a whole ensemble takes hours")
    p.add_argument("--symbols", type=int, default=500)
    args = p.parse_args(argv)
    if args.what == "gate":
        found = gate(args.rounds, args.edge, args.rows, args.members)
    else:
        found = predict() if args.what == "predict" else training(args.symbols)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
