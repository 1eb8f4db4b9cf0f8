"""The model a scan asks, wired; and the moves that a model can make: out of its shadow, up, back. docs/ml.md"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.pin import model_sha256, read_pin
from core import logs
from core.clock import Clock
from core.domain import Mode, Signal
from core.errors import ConfigError, KobeError, UsageError
from core.journal import Journal
from core.market_calendar import NEW_YORK
from core.paths import Home
from core.ports import Opinion, Scorer
from ml_advanced import model_store as store
from ml_advanced.ensemble.ensemble_predictor import EnsemblePredictor
from ml_advanced.scorer import TROUBLE, ModelScorer, failed

if TYPE_CHECKING:
    from ml_advanced.regime import RegimeModel
    from scripts import wiring

UNPINNED = "MODEL_UNPINNED"


def today(clock: Clock) -> date:
    return clock.now().astimezone(NEW_YORK).date()


# ---------------------------------------------------------------- a scan
class Overheard:
    """The champion, with a model in its shadow period asked too: what that one says is written down and not used."""

    def __init__(self, champion: Scorer, shadow: ModelScorer, model_id: str) -> None:
        self._champion, self._shadow, self._model_id = champion, shadow, model_id
        self.shadowed: Mapping[str, Opinion] = {}

    def opinions(self, signals: Sequence[Signal]) -> Mapping[str, Opinion]:
        self.shadowed = self._shadow.opinions(signals)
        if self.shadowed:
            said = {d: [o.probability, o.code] for d, o in sorted(self.shadowed.items())}
            logs.event("model_shadow_said", model=self._model_id, opinions=said)
        return self._champion.opinions(signals)


class Unpinned:
    """A model moved while a live runner was running: it earns nothing until a person has pinned it."""

    def opinions(self, signals: Sequence[Signal]) -> Mapping[str, Opinion]:
        logs.event("model_refused", code=UNPINNED, signals=len(signals))
        logs.count("models_refused", code=UNPINNED)
        return {signal.decision_id: Opinion(None, UNPINNED) for signal in signals}


def model_is_pinned(home: Home) -> bool:
    """Whether the model that the pin names is the one there is; what cannot be read is not pinned."""
    try:
        pinned = read_pin(home)
        return pinned is not None and pinned["items"]["model"] == model_sha256(home)
    except KobeError:
        return False


def scorer_for(context: wiring.Context, data: wiring.MarketData, bars: Path | None = None) -> Scorer | None:
    """Who is asked about the signals of a scan; None with ml.enabled: false, or where nothing was ever trained.

    Never raises for anything that is wrong with a model: then every opinion is its reason.
    """
    chosen = context.settings.ml
    if not chosen.enabled or not store.chain_path(context.home).exists():
        return None
    step_forward(context.home, context.clock)
    if context.mode is Mode.LIVE and not model_is_pinned(context.home):
        return Unpinned()
    session = today(context.clock)
    predictor = EnsemblePredictor(context.home, session=session, simulated=data.simulated)
    scorer = _scorer(context, data, bars, predictor)
    if predictor.standing.shadow is None or predictor.standing.shadow == predictor.model_id:
        return scorer
    shadow = EnsemblePredictor(context.home, session=session, simulated=data.simulated, shadowed=True)
    return Overheard(scorer, _scorer(context, data, bars, shadow), shadow.model_id or "")


def _scorer(
    context: wiring.Context, data: wiring.MarketData, bars: Path | None, predictor: EnsemblePredictor
) -> ModelScorer:
    if predictor.code != "OK":
        return ModelScorer(predictor, None)
    from ml_advanced.features import fingerprint
    from scripts.ml_scan import scan_features

    most = context.settings.ml.weight_most_pct
    try:
        features = scan_features(context, data, bars, predictor.features)
    except TROUBLE as error:  # SPY's or the VIX's file, say: the scan goes on without an opinion
        failed(predictor.model_id, error)
        return ModelScorer(predictor, None, weight_most=most)
    return ModelScorer(predictor, features, meaning=fingerprint(), weight_most=most)


def regime_model(predictor: EnsemblePredictor) -> RegimeModel | None:
    """The regime model that was fitted with the champion; None: the rule decides."""
    if predictor.code != "OK" or predictor.stored is None or predictor.stored.manifest.get("regime") is None:
        return None
    from ml_advanced.regime import RegimeModel

    arrays = predictor.stored.arrays
    own = {name.removeprefix("regime/"): values for name, values in arrays.items() if name.startswith("regime/")}
    try:
        return RegimeModel.from_arrays(own)
    except (KobeError, ValueError, KeyError) as error:
        logs.event("model_refused", code="MODEL_REGIME_UNSOUND", detail=str(error))
        logs.count("models_refused", code="MODEL_REGIME_UNSOUND")
        return None


# ---------------------------------------------------------------- moves
def record(home: Home, clock: Clock, kind: str, body: Mapping[str, Any], *, run_id: str = "models") -> None:
    """Into the chain of models, then into the journal of this home, if it has one; the view follows the chain."""
    store.chain(home, clock, run_id=run_id).append(kind, body)
    store.write_view(home, store.standing(home))
    logs.event(kind, **{name: value for name, value in body.items() if name in ("model", "from", "until", "reason")})
    if home.journal.is_file():
        Journal(home.journal, clock, run_id=run_id).append(kind, body)


def step_forward(home: Home, clock: Clock) -> None:
    """A shadow whose time is over becomes champion in the chain as well; it is asked from that day on in any case.

    The view, and with it the pin, follows the chain again after a kill between the two.
    """
    found = _standing_or_none(home)
    if found is None:
        return
    try:
        store.follow(home, found)
        if found.shadow is None or store.scoring_id(found, today(clock)) != found.shadow:
            return
        body = {"model": found.shadow, "manifest_sha256": found.shadow_sha256, "replaces": found.champion}
        record(home, clock, store.PROMOTED, body | {"by": "its shadow period ended"})
    except (KobeError, OSError) as error:
        logs.event("model_not_recorded", code="MODEL_PROMOTION_UNRECORDED", detail=str(error))
        logs.count("models_not_recorded")


def _standing_or_none(home: Home) -> store.Standing | None:
    try:
        return store.standing(home)
    except store.ModelRefused:
        return None  # who is asked for an opinion says it


def promote(home: Home, clock: Clock, model_id: str | None, reason: str) -> store.Standing:
    """End a shadow period early, or bring back a model that once passed the gate. Raises UsageError, ModelRefused."""
    step_forward(home, clock)
    found = store.standing(home)
    wanted = model_id or found.shadow
    if wanted is None:
        raise UsageError("no model is in its shadow period; name one that passed the gate", code="MODEL_NOT_NAMED")
    if wanted not in (found.trained or {}):
        raise UsageError(f"no model {wanted} was trained in this home", code="MODEL_UNKNOWN")
    if wanted not in found.passed:
        raise ConfigError(
            f"{wanted} did not pass the gate: it is not better than what there is", code="MODEL_DID_NOT_PASS",
            advice="train on more data; the gate is the only way",
        )  # fmt: skip
    stored = store.load(home, wanted, known=found.trained)
    body = {"model": wanted, "manifest_sha256": stored.manifest_sha256, "replaces": found.champion, "reason": reason}
    record(home, clock, store.PROMOTED, body | {"by": "a person"})
    return store.standing(home)


def roll_back(home: Home, clock: Clock, model_id: str | None, reason: str) -> store.Standing:
    """Drop the shadow, else the champion for the one before it that can still be loaded; without one there is none.

    A running runner asks the chain at its next scan. Raises UsageError when there is nothing to roll back.
    """
    step_forward(home, clock)
    found = store.standing(home)
    if found.champion is None and found.shadow is None:
        raise UsageError("no model is champion or in its shadow period", code="MODEL_NOTHING_TO_ROLL_BACK")
    if model_id is not None:
        if model_id not in found.earlier:
            raise UsageError(f"{model_id} was never champion before this one", code="MODEL_UNKNOWN")
        store.load(home, model_id, known=found.trained)
        target: str | None = model_id
    else:
        target = found.champion if found.shadow is not None else _newest_sound(home, found)
    dropped = found.shadow or found.champion
    digest = None if target is None else (found.trained or {}).get(target)
    body = {"model": target, "manifest_sha256": digest, "dropped": dropped, "reason": reason}
    record(home, clock, store.ROLLED_BACK, body)
    return store.standing(home)


def _newest_sound(home: Home, found: store.Standing) -> str | None:
    for model_id in reversed(found.earlier):
        try:
            return store.load(home, model_id, known=found.trained).model_id
        except store.ModelRefused as error:
            logs.event("model_refused", code=error.code, detail=str(error))
    return None
