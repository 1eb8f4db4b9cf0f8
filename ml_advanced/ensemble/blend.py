"""The ensemble itself: calibrated members, averaged, and what it says of a batch of rows. Pure numpy.

A row gets a probability or a reason why there is none, never a neutral number:

| code                  | why                                                                               |
|-----------------------|-----------------------------------------------------------------------------------|
| MODEL_INPUT_INVALID   | a feature is infinite                                                             |
| MODEL_FEATURE_UNKNOWN | a feature is unknown that was known in practically every row it learned from     |
| MODEL_OOD             | the row is unlike those it learned from                                           |
| MODEL_NAN             | what came out is no probability                                                   |
| MODEL_CONSTANT        | rows that differ all got the same number: the model has collapsed                 |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml_advanced.ensemble.calibrators import Calibrator, calibrator_of
from ml_advanced.ensemble.familiarity import Familiarity
from ml_advanced.ensemble.members import Arrays, BadArrays, Floats, Member, member_of, require

OK = "OK"
MOST_VOICES = 16
CONSTANT_FROM_ROWS = 10
_SAME = 1e-9
_NEARLY_ALWAYS_KNOWN = 0.995


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """One member with its calibration and its part of the average."""

    name: str
    member: Member
    calibrator: Calibrator
    weight: float

    def probabilities(self, x: Floats) -> Floats:
        return self.calibrator.apply(self.member.probabilities(x))


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """(n,) probabilities, NaN where `codes` does not say OK. `spread`: largest - smallest, None without a row."""

    probabilities: Floats
    codes: tuple[str, ...]
    spread: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    features: tuple[str, ...]
    voices: tuple[Voice, ...]
    familiarity: Familiarity

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(voice.name for voice in self.voices)

    def raw(self, x: Floats) -> Floats:
        """(n,) the average, whatever the rows are like."""
        total = np.zeros(len(x))
        for voice in self.voices:
            total += voice.weight * voice.probabilities(x)
        return total

    def judge(self, x: Floats) -> Judged:
        """x : (n, k) float64, columns as `features`; NaN = unknown."""
        codes = np.full(len(x), OK, dtype=object)
        if not len(x):
            return Judged(np.empty(0), (), None)
        finite_or_unknown = np.where(np.isinf(x), np.nan, x)
        p = self.raw(finite_or_unknown)
        never_unknown = self.familiarity.known >= _NEARLY_ALWAYS_KNOWN
        spread = float(p.max() - p.min())
        codes[~((p >= 0.0) & (p <= 1.0))] = "MODEL_NAN"
        if len(np.unique(x, axis=0)) >= CONSTANT_FROM_ROWS and not spread > _SAME:
            codes[codes == OK] = "MODEL_CONSTANT"
        codes[~(self.familiarity.strangeness(finite_or_unknown) <= 1.0)] = "MODEL_OOD"
        codes[(np.isnan(x) & never_unknown).any(axis=1)] = "MODEL_FEATURE_UNKNOWN"
        codes[np.isinf(x).any(axis=1)] = "MODEL_INPUT_INVALID"
        return Judged(np.where(codes == OK, p, np.nan), tuple(map(str, codes)), spread)


# ---------------------------------------------------------------- to and from plain values
def to_plain(ensemble: Ensemble) -> tuple[dict[str, Any], dict[str, Floats]]:
    """(the manifest's part, arrays by name); `of_plain` reads them back."""
    arrays: dict[str, Floats] = {}
    voices = []
    for number, voice in enumerate(ensemble.voices):
        kinds = {"name": voice.name, "kind": voice.member.kind, "calibrator": voice.calibrator.kind}
        voices.append(kinds | {"weight": voice.weight})
        arrays |= {f"voice-{number}/{name}": values for name, values in voice.member.arrays().items()}
        arrays |= {f"voice-{number}/calibrator/{name}": v for name, v in voice.calibrator.arrays().items()}
    arrays |= {f"familiarity/{name}": values for name, values in ensemble.familiarity.arrays().items()}
    return {"features": list(ensemble.features), "voices": voices}, arrays


def of_plain(document: Mapping[str, Any], arrays: Arrays) -> Ensemble:
    """Everything checked. Raises BadArrays."""
    features, rows = document.get("features"), document.get("voices")
    require(isinstance(features, list) and bool(features), "no features")
    assert isinstance(features, list)
    named = all(isinstance(name, str) and name for name in features) and len(set(features)) == len(features)
    require(named and len(features) <= 10_000, "features without a name, or twice")
    require(isinstance(rows, list) and 0 < len(rows) <= MOST_VOICES, "no members, or too many")
    assert isinstance(rows, list)
    voices = tuple(_voice(row, f"voice-{number}/", arrays, len(features)) for number, row in enumerate(rows))
    weights = np.array([voice.weight for voice in voices])
    require(bool(np.isfinite(weights).all() and (weights > 0).all()), "a weight is not positive")
    require(abs(float(weights.sum()) - 1.0) < 1e-9, "the weights do not sum to 1")
    return Ensemble(tuple(features), voices, Familiarity.of(_below(arrays, "familiarity/"), len(features)))


def _voice(row: Any, prefix: str, arrays: Arrays, features: int) -> Voice:
    require(isinstance(row, dict), "a member is not described")
    name, kind, calibrator, weight = (row.get(key) for key in ("name", "kind", "calibrator", "weight"))
    if not (isinstance(name, str) and isinstance(kind, str) and isinstance(calibrator, str)):
        raise BadArrays("a member without name or kind")
    if not isinstance(weight, int | float) or isinstance(weight, bool):
        raise BadArrays("a member without a weight")
    own = _below(arrays, prefix)
    made = calibrator_of(calibrator, _below(own, "calibrator/"))
    return Voice(name, member_of(kind, own, features), made, float(weight))


def _below(arrays: Arrays, prefix: str) -> dict[str, Floats]:
    return {name[len(prefix) :]: values for name, values in arrays.items() if name.startswith(prefix)}


# ---------------------------------------------------------------- weights
def fit_weights(probabilities: Sequence[Floats], y: Floats, *, prior_rows: float = 50.0, rounds: int = 200) -> Floats:
    """Parts of an average that makes the outcomes most likely: expectation maximisation, which rises at every round.

    probabilities : one calibrated (n,) per member, out of fold · prior_rows : belief in equal parts, in rows
    """
    said = np.stack([np.where(y > 0.5, p, 1.0 - p) for p in probabilities], axis=1)
    members = said.shape[1]
    weights = np.full(members, 1.0 / members)
    for _ in range(rounds):
        share = said * weights
        share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-300)
        weights = share.sum(axis=0) + prior_rows / members
        weights /= weights.sum()
    return weights


def kept(weights: Floats, *, least: float = 0.02) -> Floats:
    """Weights of those that have a say: what adds next to nothing is left out, the others sum to 1."""
    made = np.where(weights >= min(least, float(weights.max())), weights, 0.0)
    whole: Floats = made / made.sum()
    return whole
