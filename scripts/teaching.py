"""One training, wired: data set, walk-forward, the trial on record, the verdict of the gate, the model and its card."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core import logs
from core.canonical import canonical_json
from core.clock import SystemClock
from core.errors import DataError
from ml_advanced import gate
from ml_advanced import model_store as store
from ml_advanced.dataset import Dataset
from ml_advanced.ensemble.blend import to_plain
from ml_advanced.ensemble.members import Floats
from ml_advanced.features import fingerprint
from ml_advanced.model_card import card, page
from ml_advanced.training import Recipe, Trained, libraries, quick, refuse_too_little, train
from scripts import modelling, wiring

if TYPE_CHECKING:
    from scripts.ml_data import Made

Tick = Callable[[str], None]
FAMILY = "ml_ensemble"
_RISKED = 0.01  # part of equity that one R is, in the curve of the trial ledger


@dataclass(frozen=True, slots=True)
class Taught:
    """What came of it. `known`: this very model was there already, and nothing was changed."""

    model_id: str
    card: Mapping[str, Any]
    folder: Path
    known: bool
    shadow_until: date | None
    seconds: Mapping[str, float]


def recipe_of(context: wiring.Context, args: argparse.Namespace) -> Recipe:
    chosen = context.settings.ml
    made = Recipe(folds=chosen.folds, embargo=chosen.embargo_sessions)
    return quick(made) if args.quick else made


def run(context: wiring.Context, args: argparse.Namespace, tick: Tick = lambda _: None) -> Taught:
    """Raises DataError NO_BARS, NO_LABELS or MODEL_TOO_LITTLE_DATA, and what the chain and the trial ledger raise."""
    from scripts import ml_data

    clock = SystemClock()
    began = clock.monotonic()
    recipe = recipe_of(context, args)
    register(context)
    found = ml_data.made(context, args, tick)
    data, left_out = usable(context, found.dataset)
    refuse_too_little(data)
    loaded_at = clock.monotonic()
    trained = train(data, recipe, workers=args.workers, tick=tick)
    trained_at = clock.monotonic()
    modelling.step_forward(context.home, context.clock)
    standing = store.standing(context.home)
    tick("the gate")
    note_trial(context, data, trained, recipe)
    verdict = gate.judge(
        data, trained.out_of_fold, list(zip(trained.controls, trained.control_labels, strict=True)),
        champion=champion_of(context, standing, data, simulated=found.loaded.simulated), tries=standing.tries + 1,
    )  # fmt: skip
    model_id, manifest, arrays = made_of(context, found, data, trained, recipe, verdict)
    seconds = {"load": round(loaded_at - began, 3), "train": round(trained_at - loaded_at, 3)}
    if (old := _already_there(context, standing, model_id)) is not None:
        return Taught(model_id, old, context.home.models / model_id, True, standing.shadow_until, seconds)
    facts = {**manifest, "left_out": left_out, "counts": found.counts}
    told = card(data, trained, verdict, recipe, facts)
    plain = canonical_json(told).encode() + b"\n"
    files = {store.CARD: plain, store.PAGE: page(told).encode()}
    manifest |= {"finding": told["finding"], "gate": verdict.to_json(), "metrics": verdict.measures}
    digest = store.save(context.home, model_id, manifest, arrays, files)
    until = _enter(context, model_id, digest, data, verdict, told["finding"])
    seconds["all"] = round(clock.monotonic() - began, 3)
    return Taught(model_id, told, context.home.models / model_id, False, until, seconds)


# ---------------------------------------------------------------- before
def register(context: wiring.Context) -> None:
    """The gate's plan goes into the chain before the data are looked at, once for each plan."""
    words = {"plan": gate.PLAN, "sha256": gate.PLAN.sha256}
    chain = store.chain(context.home, context.clock, run_id=context.run_id)
    store.standing(context.home)  # a damaged chain is told before an hour's work
    known = [r.body["sha256"] for r in chain.kinds(store.REGISTERED)] if chain.path.exists() else []
    if not known or known[-1] != gate.PLAN.sha256:
        chain.append(store.REGISTERED, words)


def usable(context: wiring.Context, data: Dataset) -> tuple[Dataset, list[str]]:
    """With the features that a scan of this home will know too, and that were known at all; and what was left out."""
    from scripts.ml_scan import features_known_live

    live = set(features_known_live(context))
    keep = [name for k, name in enumerate(data.names) if name in live and bool(np.isfinite(data.x[:, k]).any())]
    if not keep:
        raise DataError("no feature is known in these data", code="MODEL_TOO_LITTLE_DATA", advice="see --bars")
    return data.columns(keep), [name for name in data.names if name not in keep]


# ---------------------------------------------------------------- the trial and the champion
def note_trial(context: wiring.Context, data: Dataset, trained: Trained, recipe: Recipe) -> None:
    """Into the ledger before it is judged: what the upper half of its opinions made, per session at 1 % risk."""
    from config.pin import code_sha256
    from portfolio.backtest.trials import Trial, TrialLedger, outcome_of

    record = trained.out_of_fold
    rows = record.rows
    upper = rows[gate.upper_half(record.judged[rows])] if rows.size else rows
    most, (days, at) = gate.PLAN.r_most, np.unique(data.starts[upper], return_inverse=True)
    mean = np.bincount(at, np.clip(data.r[upper], -most, most), days.size) / np.maximum(
        1, np.bincount(at, minlength=days.size)
    )
    trial = Trial(
        family=FAMILY, strategy="ensemble", params_sha256=recipe.sha256, data_sha256=data.sha256,
        code_sha256=code_sha256(), start=data.starts.min().astype(object), end=data.ends.max().astype(object),
        level="out_of_fold", **outcome_of(days.astype(np.int64).astype(np.int32), _RISKED * mean),
    )  # fmt: skip
    TrialLedger.of(context.home, context.clock, run_id=context.run_id).add(trial)


def champion_of(
    context: wiring.Context, found: store.Standing, data: Dataset, *, simulated: bool
) -> gate.Champion | None:
    """What the champion says of the same rows: its own out-of-fold record, and its predictions after what it learned.

    One that has expired, cannot be believed, or learned from simulated bars while these are real, is no champion: a
    shadow gives way to the champion behind it, and without either the base rate alone has to be beaten. A champion of
    real bars says nothing of simulated ones, so that none of those follows it.
    """
    now = modelling.today(context.clock)
    model = next((m for m in _believed(context, found) if _counts(m, now, simulated)), None)
    if model is None:
        return None
    expires = date.fromisoformat(model.manifest["expires"])
    said = np.full(len(data), np.nan)
    soon = (expires - now).days <= context.settings.ml.renew_days
    if simulated and not model.manifest["data"]["simulated"]:
        return gate.Champion(model.model_id, said, soon)
    recorded = dict(zip(model.arrays["oof/decision"].tolist(), model.arrays["oof/probability"].tolist(), strict=True))
    for row, key in enumerate(keys_of(data).tolist()):
        said[row] = recorded.get(key, np.nan)
    fresh = data.starts > np.datetime64(model.manifest["learned_until"])
    if fresh.any() and set(model.ensemble.features) <= set(data.names):
        said[fresh] = model.ensemble.judge(data.columns(model.ensemble.features).x[fresh]).probabilities
    return gate.Champion(model.model_id, said, soon)


def _believed(context: wiring.Context, found: store.Standing) -> Iterator[store.Stored]:
    """The shadow, then the champion."""
    for wanted in (found.shadow, found.champion):
        if wanted is None:
            continue
        try:
            yield store.load(context.home, wanted, known=found.trained)
        except store.ModelRefused as error:
            logs.event("model_refused", code=error.code, detail=str(error))


def _counts(model: store.Stored, now: date, simulated: bool) -> bool:
    lasts = now <= date.fromisoformat(model.manifest["expires"])
    return lasts and (simulated or not model.manifest["data"]["simulated"])


def keys_of(data: Dataset) -> Floats:
    """A decision as a number that float64 holds exactly: 48 bits of the hash of its id."""
    digests = (hashlib.sha256(name.encode()).digest() for name in data.decision_ids)
    return np.array([float(int.from_bytes(digest[:6], "big")) for digest in digests])


# ---------------------------------------------------------------- the model
def made_of(
    context: wiring.Context, found: Made, data: Dataset, trained: Trained, recipe: Recipe, verdict: gate.Verdict
) -> tuple[str, dict[str, Any], dict[str, Floats]]:
    """(id, manifest, arrays). The same data, recipe and library give the same id."""
    described, arrays = to_plain(trained.ensemble)
    rows = trained.out_of_fold.rows
    arrays |= {"oof/decision": keys_of(data)[rows], "oof/probability": trained.out_of_fold.judged[rows]}
    regime = _regime(found)
    arrays |= {f"regime/{name}": values for name, values in (regime or {}).items()}
    learned = data.ends.max().astype(object)
    expires = learned + timedelta(days=context.settings.ml.expires_days)
    _, content = store.packed(arrays)
    went_in = [data.sha256, recipe.sha256, hashlib.sha256(content).hexdigest()]
    model_id = f"m-{learned:%Y%m%d}-{hashlib.sha256(canonical_json(went_in).encode()).hexdigest()[:12]}"
    source = {"source": found.loaded.source, "simulated": found.loaded.simulated, "bars_sha256": found.loaded.sha256}
    return model_id, {
        **described, "id": model_id, "learned_until": learned, "expires": expires, "libraries": libraries(),
        "data": source | {"sha256": data.sha256, "rows": len(data), "first": str(data.starts.min())},
        "recipe": recipe, "recipe_sha256": recipe.sha256, "features_meaning": fingerprint(),
        "earned": verdict.earned, "regime": None if regime is None else "fitted with it",
    }, arrays  # fmt: skip


def _regime(found: Made) -> dict[str, Floats] | None:
    """Fitted on the same sessions; None when they are too few."""
    from ml_advanced.regime import RegimeModel

    try:
        model = RegimeModel.fit(found.market, found.dataset.ends.max().astype(object))
    except DataError as error:
        logs.event("regime_not_fitted", code=error.code, detail=str(error))
        return None
    return {name: np.atleast_1d(np.asarray(values, dtype=np.float64)) for name, values in model.to_arrays().items()}


def _already_there(context: wiring.Context, found: store.Standing, model_id: str) -> Mapping[str, Any] | None:
    """The card of this very model, when it is on the disk and can be believed."""
    if model_id not in (found.trained or {}):
        return None
    try:
        store.load(context.home, model_id, known=found.trained)
    except store.ModelRefused:
        return None
    return store.read_card(context.home, model_id)


def _enter(
    context: wiring.Context, model_id: str, digest: str, data: Dataset, verdict: gate.Verdict, finding: str
) -> date | None:
    """The records: trained, and when the gate let it through, in shadow or promoted. The day it is heard from."""
    home, clock = context.home, context.clock
    body = {
        "model": model_id, "manifest_sha256": digest, "data_sha256": data.sha256, "finding": finding,
        "gate": {"passed": verdict.passed, "code": verdict.code, "plan_sha256": verdict.plan_sha256,
                 "tries": verdict.tries, "earned": verdict.earned},
    }  # fmt: skip
    modelling.record(home, clock, store.TRAINED, body, run_id=context.run_id)
    if not verdict.passed:
        return None
    now, sessions = modelling.today(clock), context.settings.ml.shadow_sessions
    until = context.calendar.offset(now, sessions)
    words = {"model": model_id, "manifest_sha256": digest}
    if sessions:
        shadow = words | {"from": now, "until": until}
        modelling.record(home, clock, store.SHADOWED, shadow, run_id=context.run_id)
    else:
        replaced = {"replaces": store.standing(home).champion, "by": "the gate, without a shadow period"}
        modelling.record(home, clock, store.PROMOTED, words | replaced, run_id=context.run_id)
    return until


# ---------------------------------------------------------------- words
def render(taught: Taught) -> str:
    """For people, whatever came of it."""
    found = taught.card
    data, gated = found["data"], found["gate"]
    lines = [
        f"{taught.model_id}: {found['finding']}",
        f"learned from {data['rows']} ended trades of {data['symbols']} symbols, {data['first']} to {data['last']}, "
        f"{data['base_rate']:.1%} won, median {data['median_r']:+.3f} R; judged on {data['judged_rows']}",
    ]
    for name, measure in gated["measures"].items():
        lines.append(
            f"  {name:<14}{measure['value']:>9.4f}   90 % within {measure['low']:.4f} .. {measure['high']:.4f}"
        )
    lines += [
        f"  missed: {c['name']}, {_said(c['observed'])} ({c['asked']})" for c in gated["criteria"] if not c["met"]
    ]
    if taught.known:
        lines.append("the same data and recipe made the same model before: nothing was changed")
        if gated["passed"]:
            lines.append("it passed the gate: models.py list tells whether it scores, models.py promote MODEL lets it")
    elif taught.shadow_until is not None:
        lines.append(f"it passed the gate; written down only until {taught.shadow_until}, then it scores")
        lines.append("live does not start until you accept it: python scripts/config_pin.py pin")
    if data["simulated"]:
        lines.append("learned from simulated bars: it is never asked about real ones")
    lines.append(f"card: {taught.folder / store.PAGE}")
    return "\n".join(lines)


def _said(observed: float | None) -> str:
    return "not known" if observed is None else f"{observed:.4g}"
