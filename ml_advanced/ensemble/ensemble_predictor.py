"""What a scan asks: the champion of this home, loaded without scikit-learn, or the reason why there is none.

`EnsemblePredictor()` never raises for anything that is wrong with a model. `code` is OK or one of

MODEL_ABSENT           nothing was trained, or nothing was promoted
MODEL_SHADOW           it passed the gate, and is not heard yet
MODEL_EXPIRED          past its last day
MODEL_AHEAD            it has seen the future of the session that it is asked about
MODEL_SIMULATED        it learned from simulated bars, and these are real
MODEL_FEATURES_DIFFER  other features, order or meaning than it learned with

and what ml_advanced/model_store.py refuses a file by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from core import logs
from core.clock import SystemClock
from core.market_calendar import NEW_YORK
from core.paths import Home, home
from ml_advanced.ensemble.blend import OK
from ml_advanced.ensemble.members import Floats
from ml_advanced.model_store import ModelRefused, Standing, Stored, load, scoring_id, standing

ABSENT = "MODEL_ABSENT"


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """(n,) probabilities, NaN where `codes` does not say OK; `code` is theirs together: OK when any row has one.

    spread : largest - smallest probability of the batch before rows were refused; None when nothing was predicted.
    """

    probabilities: Floats
    codes: tuple[str, ...]
    code: str
    spread: float | None = None


class EnsemblePredictor:
    """Loaded once, asked often. `session`: the day it is asked for (New York), which decides expiry and shadow.

    simulated : whether the bars at hand are simulated; None does not compare. shadowed : load the model in its shadow
    period instead, to write down what it would have said.
    """

    def __init__(
        self,
        place: Home | None = None,
        *,
        session: date | None = None,
        simulated: bool | None = None,
        shadowed: bool = False,
    ) -> None:
        self.session = session or SystemClock().now().astimezone(NEW_YORK).date()
        self.code, self.detail = ABSENT, "nothing was trained here yet: python scripts/train_ensemble.py"
        self.stored: Stored | None = None
        self.standing = Standing()
        try:
            self.standing = standing(place or home())
            self._load(place or home(), simulated, shadowed)
        except ModelRefused as error:
            self._refuse(error.code, str(error))

    def _load(self, place: Home, simulated: bool | None, shadowed: bool) -> None:
        found = self.standing
        wanted = found.shadow if shadowed else scoring_id(found, self.session)
        if wanted is None:
            if found.shadow is not None and not shadowed:
                words = f"{found.shadow} is heard from {found.shadow_until} on"
                return self._refuse("MODEL_SHADOW", words)
            if found.trained:
                self.detail = f"{len(found.trained)} trained, none is champion: python scripts/models.py list"
            return None
        self.stored = load(place, wanted, known=found.trained)
        manifest = self.stored.manifest
        if self.expires is None or self.learned_until is None:
            return self._refuse("MODEL_MANIFEST_DAMAGED", f"{wanted} says no expiry")
        if self.session > self.expires:
            return self._refuse("MODEL_EXPIRED", f"{wanted} was good until {self.expires}")
        if self.session <= self.learned_until:
            return self._refuse("MODEL_AHEAD", f"{wanted} learned from sessions up to {self.learned_until}")
        learned_from = manifest.get("data")
        if not isinstance(learned_from, dict):
            return self._refuse("MODEL_MANIFEST_DAMAGED", f"{wanted} does not say what it learned from")
        if simulated is False and learned_from.get("simulated") is not False:
            return self._refuse("MODEL_SIMULATED", f"{wanted} learned from simulated bars")
        self.code, self.detail = OK, f"{wanted}: {', '.join(self.loaded)}; good until {self.expires}"
        return None

    def _refuse(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        logs.event("model_refused", code=code, detail=detail)
        logs.count("models_refused", code=code)

    # ------------------------------------------------------------ what is loaded
    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the members that are loaded; empty when none is."""
        return () if self.stored is None else self.stored.ensemble.names

    @property
    def model_id(self) -> str | None:
        return None if self.stored is None else self.stored.model_id

    @property
    def features(self) -> tuple[str, ...]:
        return () if self.stored is None else self.stored.ensemble.features

    @property
    def expires(self) -> date | None:
        return self._day("expires")

    @property
    def learned_until(self) -> date | None:
        """The last session that a label of its training looked at."""
        return self._day("learned_until")

    @property
    def earned(self) -> float:
        """Part of quality_gate.weights.model that it earned at the gate, 0..1; 0 while it is not to be used."""
        said = self.stored.manifest.get("earned") if self.stored is not None and self.code == OK else None
        return min(1.0, max(0.0, float(said))) if isinstance(said, int | float) and said == said else 0.0

    def _day(self, name: str) -> date | None:
        said = None if self.stored is None else self.stored.manifest.get(name)
        try:
            return date.fromisoformat(said) if isinstance(said, str) else None
        except ValueError:
            return None

    # ------------------------------------------------------------ asking
    def predict(self, x: Floats, names: Sequence[str], *, meaning: str | None = None) -> Predicted:
        """x : (n, k) float64, one row per signal, NaN = unknown; names : its columns, in order.

        meaning : the fingerprint of the function that made them (ml_advanced.features), compared with the training's.
        """
        rows = np.asarray(x, dtype=np.float64)
        if self.code != OK or self.stored is None:
            return self._nothing(len(rows), self.code)
        if rows.ndim != 2 or tuple(names) != self.features or rows.shape[1] != len(names):
            return self._nothing(len(rows), "MODEL_FEATURES_DIFFER")
        if meaning is not None and self.stored.manifest.get("features_meaning") != meaning:
            return self._nothing(len(rows), "MODEL_FEATURES_DIFFER")
        judged = self.stored.ensemble.judge(rows)
        codes = judged.codes
        for refused in sorted(set(codes) - {OK}):
            logs.count("predictions_refused", codes.count(refused), code=refused)
        code = OK if OK in codes or not codes else max(set(codes), key=codes.count)
        if "MODEL_CONSTANT" in codes:
            logs.event("predictions_constant", code="MODEL_CONSTANT", spread=judged.spread, rows=len(codes))
        return Predicted(judged.probabilities, codes, code, judged.spread)

    def _nothing(self, rows: int, code: str) -> Predicted:
        logs.count("predictions_refused", rows, code=code)
        return Predicted(np.full(rows, np.nan), (code,) * rows, code)

    def __repr__(self) -> str:
        return f"<EnsemblePredictor {self.code}: {self.detail}>"
