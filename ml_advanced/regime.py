"""What kind of market it is: calm, watch, stressed.

Two ways to tell. `rule_regime` asks the VIX alone. `RegimeModel` is a Gaussian mixture with persistence: each session's
market (return, volatility, VIX, breadth) is drawn from one of three clouds, and the cloud tends to stay. It is fitted
on the past only, and what it says of session t is a forward filter over the WINDOW sessions up to t: never smoothed, so
later sessions change nothing, and what lies before the window changes nothing either.
Source: Hamilton, A New Approach to the Economic Analysis of Nonstationary Time Series, Econometrica 57 (1989).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.bars_io import from_day, to_day
from core.errors import DataError
from core.ports import Regime
from ml_advanced.market import Days, Floats, MarketView

LABELS: Final = ("calm", "watch", "stressed")  # by rising volatility, so that a name means the same after a new fit
UNKNOWN: Final = "unknown"
SEEN: Final = ("return_10", "volatility_20", "vix", "breadth_50")
WINDOW: Final = 63  # sessions that the filter looks at
SESSIONS_NEEDED: Final = WINDOW + 22  # of a market view, for the regime of its last session
FEWEST_SESSIONS: Final = 500  # to fit on: fewer have seen one kind of market
_STAYS = 30.0  # sessions' worth of belief that a regime goes on
_LEAVES = 0.5
_KNOWN_FRACTION = 0.9  # a series known less often is left out of the fit
_RIDGE = 1e-3
_ROUNDS = 20


def rule_regime(
    vix: float | None,
    session: date,
    *,
    watch_from: float = 20.0,
    stressed_from: float = 25.0,
    closed_above: float = 35.0,
    earlier: Mapping[date, float] | None = None,
) -> Regime:
    """calm < 20 <= watch < 25 <= stressed <= 35 < closed, by the VIX close of `session`; unknown without one.

    earlier : VIX closes of other sessions; those before `session` tell since when it has been so.
    """

    def label(level: float) -> str:
        if level > closed_above:
            return "closed"
        return "stressed" if level >= stressed_from else "watch" if level >= watch_from else "calm"

    if vix is None or not math.isfinite(vix) or vix <= 0:
        return Regime(label=UNKNOWN, session=session, since=None, probability=None, source="rule", code="VIX_UNKNOWN")
    now, since = label(vix), session
    for day in sorted((day for day in earlier or {} if day < session), reverse=True):
        level = (earlier or {})[day]
        if not math.isfinite(level) or label(level) != now:
            return Regime(label=now, session=session, since=since, probability=None, source="rule")
        since = day
    return Regime(label=now, session=session, since=None, probability=None, source="rule")  # not seen to begin


def observations(market: MarketView) -> Floats:
    """(n_sessions, len(SEEN)): mean of the market's last 10 returns, ln of the deviation of its last 20, ln of the VIX,
    breadth. NaN where it is not known; sessions <= t only."""
    middle = market.middle
    out = np.full((middle.size, len(SEEN)), np.nan)
    if middle.size >= 20:
        windows = [middle[k : middle.size - 19 + k] for k in range(20)]  # added one by one: see features._mean
        mean = _added(windows) / 20.0
        deviation = np.sqrt(_added([(part - mean) ** 2 for part in windows]) / 19.0)
        out[19:, 0] = _added(windows[10:]) / 10.0
        with np.errstate(divide="ignore"):
            out[19:, 1] = np.log(deviation)
    with np.errstate(divide="ignore", invalid="ignore"):
        out[:, 2] = np.log(market.vix)
    out[:, 3] = market.breadth
    return np.asarray(np.where(np.isfinite(out), out, np.nan))


def _added(parts: list[Floats]) -> Floats:
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """The filter over the sessions of a market view. probabilities (n, 3), NaN rows where it cannot tell."""

    sessions: Days
    probabilities: Floats
    source: str

    def at(self, session: date) -> Regime:
        """The regime at the close of `session`; unknown when that session is not here or cannot be told."""
        k = int(np.searchsorted(self.sessions, to_day(session)))
        if k == self.sessions.size or self.sessions[k] != to_day(session):
            return self._unknown(session, "REGIME_SESSION_ABSENT")
        if not np.isfinite(self.probabilities[k, 0]):
            return self._unknown(session, "REGIME_UNKNOWN")
        best = int(np.argmax(self.probabilities[k]))
        known = np.isfinite(self.probabilities[: k + 1, 0])
        other = np.flatnonzero(~known | (np.argmax(self.probabilities[: k + 1], axis=1) != best))
        since = from_day(int(self.sessions[other[-1] + 1])) if other.size and known[other[-1]] else None
        return Regime(
            label=LABELS[best], session=session, since=since, probability=float(self.probabilities[k, best]),
            source=self.source,
        )  # fmt: skip

    def _unknown(self, session: date, code: str) -> Regime:
        return Regime(label=UNKNOWN, session=session, since=None, probability=None, source=self.source, code=code)

    @property
    def last_seen(self) -> date | None:
        """The newest session that it could tell."""
        told = np.flatnonzero(np.isfinite(self.probabilities[:, 0]))
        return from_day(int(self.sessions[told[-1]])) if told.size else None

    @property
    def last_moved(self) -> date | None:
        """The newest session on which any bit of a probability differed from the session before: a detector that is fed
        nothing new stands still. None: not seen to move."""
        told = np.isfinite(self.probabilities[:, 0])
        moved = np.flatnonzero((np.diff(self.probabilities, axis=0) != 0).any(axis=1) & told[1:] & told[:-1])
        return from_day(int(self.sessions[moved[-1] + 1])) if moved.size else None


@dataclass(frozen=True, slots=True, eq=False)
class RegimeModel:
    """uses (4,) 1.0 where a series of SEEN is looked at; d of them
    centre, scale (d,) · means (3, d) and covariances (3, d, d) of what is centred and scaled, by rising volatility
    transition (3, 3) rows sum to 1 · start (3,) its long-run shares · until, the last session it was fitted on."""

    uses: Floats
    centre: Floats
    scale: Floats
    means: Floats
    covariances: Floats
    transition: Floats
    start: Floats
    until: date

    @classmethod
    def fit(cls, market: MarketView, until: date) -> RegimeModel:
        """On sessions <= `until` only. Raises DataError REGIME_HISTORY_SHORT for fewer than FEWEST_SESSIONS."""
        seen = observations(market.upto(until))
        known = np.isfinite(seen)
        uses = known[known[:, 1]].mean(axis=0) >= _KNOWN_FRACTION if known[:, 1].any() else np.zeros(len(SEEN), bool)
        whole = np.flatnonzero(known[:, uses].all(axis=1) & uses[1])
        if whole.size < FEWEST_SESSIONS:
            raise DataError(
                f"a regime model needs {FEWEST_SESSIONS} sessions with a known market, there are {whole.size}",
                code="REGIME_HISTORY_SHORT", advice="give it a longer span of bars",
            )  # fmt: skip
        x = seen[whole][:, uses]
        centre, scale = x.mean(axis=0), x.std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        volatility = int(np.flatnonzero(uses).tolist().index(1))
        means, covariances, shares = _mixture((x - centre) / scale, volatility)
        transition = _transition(shares)
        return cls(
            uses=uses.astype(np.float64), centre=centre, scale=scale, means=means, covariances=covariances,
            transition=transition, start=_long_run(transition), until=until,
        )  # fmt: skip

    def filtered(self, market: MarketView) -> Floats:
        """(n_sessions, 3) probabilities at each close, from the WINDOW sessions up to it; NaN where a series is unknown
        that session, or more than half of the window is."""
        seen = observations(market)[:, self.uses > 0]
        n = seen.shape[0]
        out = np.full((n, len(LABELS)), np.nan)
        if n < WINDOW:
            return out
        likely, told = self._likelihood((seen - self.centre) / self.scale)
        ends = np.arange(WINDOW - 1, n)
        p = np.tile(self.start, (ends.size, 1))
        for step in range(WINDOW):
            at = ends - (WINDOW - 1) + step
            moved = _added([p[:, k, None] * self.transition[k] for k in range(len(LABELS))])
            p = moved * likely[at]
            p /= _added([p[:, k, None] for k in range(len(LABELS))])
        count = np.cumsum(np.concatenate([[0], told]))
        sure = np.isfinite(seen[ends]).all(axis=1) & (2 * (count[ends + 1] - count[ends + 1 - WINDOW]) >= WINDOW)
        out[ends[sure]] = p[sure]
        return out

    def _likelihood(self, x: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """(n, 3) density of each session under each cloud over the largest of them, of what is known of it; 1 where
        nothing is. And whether anything is."""
        known = np.isfinite(x)
        log = np.zeros((x.shape[0], len(LABELS)))
        for pattern in np.unique(known, axis=0):
            rows, here = np.flatnonzero((known == pattern).all(axis=1)), np.flatnonzero(pattern)
            if not here.size:
                continue
            for k in range(len(LABELS)):
                root = np.linalg.cholesky(self.covariances[k][np.ix_(here, here)])
                off = [x[rows, j] - self.means[k, j] for j in here.tolist()]
                log[rows, k] = -0.5 * _distance(root, off) - float(np.log(np.diag(root)).sum())
        likely: Floats = np.exp(log - log.max(axis=1, keepdims=True))
        return likely, np.asarray(known.any(axis=1))

    def track(self, market: MarketView) -> Track:
        return Track(market.sessions, self.filtered(market), self.source)

    def label_at(self, market: MarketView, session: date) -> Regime:
        """The regime at the close of `session`; a market view of SESSIONS_NEEDED sessions is enough for the label,
        `since` reaches back as far as the view does."""
        return self.track(market.upto(session)).at(session)

    @property
    def source(self) -> str:
        """Its id: the same numbers, the same id."""
        digest = hashlib.sha256()
        for name, values in sorted(self.to_arrays().items()):
            digest.update(name.encode() + np.ascontiguousarray(values.astype("<f8")).tobytes())
        return f"regime-{digest.hexdigest()[:12]}"

    def to_arrays(self) -> dict[str, Floats]:
        """float64 of one or two dimensions, as the model store keeps them; `until` as days since 1970-01-01."""
        return {
            "uses": self.uses, "centre": self.centre, "scale": self.scale, "means": self.means,
            "covariances": self.covariances.reshape(len(LABELS), -1), "transition": self.transition,
            "start": self.start, "until": np.array([float(to_day(self.until))]),
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Floats]) -> RegimeModel:
        """Raises ValueError for anything that `to_arrays` could not have made."""
        k, found = len(LABELS), {name: np.asarray(values, dtype=np.float64) for name, values in arrays.items()}
        d = int((found.get("uses", np.zeros(1)) > 0).sum())
        shapes = {
            "uses": (len(SEEN),), "centre": (d,), "scale": (d,), "means": (k, d), "covariances": (k, d * d),
            "transition": (k, k), "start": (k,), "until": (1,),
        }  # fmt: skip
        if {name: values.shape for name, values in found.items()} != shapes:
            raise ValueError("a regime model of other arrays or shapes")
        if not all(np.isfinite(values).all() for values in found.values()):
            raise ValueError("a regime model with a number that is not finite")
        rows = np.vstack([found["transition"], found["start"]])
        if (rows < 0).any() or (np.abs(rows.sum(axis=1) - 1.0) > 1e-9).any() or (found["scale"] <= 0).any():
            raise ValueError("a regime model whose probabilities do not add up to 1, or with no scale")
        try:
            found["covariances"] = found["covariances"].reshape(k, d, d)
            np.linalg.cholesky(found["covariances"])
            until = from_day(int(found.pop("until")[0]))
        except (np.linalg.LinAlgError, OverflowError) as error:
            raise ValueError("a regime model with a covariance or a date that cannot be") from error
        return cls(**found, until=until)


def _mixture(x: Floats, volatility: int) -> tuple[Floats, Floats, Floats]:
    """(means, covariances, (n, 3) shares of each session), by rising volatility. It begins with the calmer half, the
    third after it and the wildest rest, so that no draw of a random number decides what is found."""
    from sklearn.mixture import GaussianMixture

    order = np.argsort(x[:, volatility], kind="stable")
    parts = np.split(x[order], [len(x) // 2, len(x) * 17 // 20])
    covariances = [np.cov(part.T).reshape(x.shape[1], -1) + 0.1 * np.eye(x.shape[1]) for part in parts]
    mixture = GaussianMixture(
        n_components=len(LABELS), covariance_type="full", reg_covar=_RIDGE, max_iter=500, tol=1e-5, random_state=0,
        init_params="random_from_data", weights_init=np.array([len(part) / len(x) for part in parts]),
        means_init=np.array([part.mean(axis=0) for part in parts]),
        precisions_init=np.array([np.linalg.inv(covariance) for covariance in covariances]),
    )  # fmt: skip
    mixture.fit(x)
    ordered = np.argsort(mixture.means_[:, volatility], kind="stable")
    return mixture.means_[ordered], mixture.covariances_[ordered], mixture.predict_proba(x)[:, ordered]


def _transition(shares: Floats) -> Floats:
    """How often one session's cloud follows another's, with a belief beforehand that a regime stays.

    shares : (n, 3) of each session by itself. Baum and Welch's count, the clouds held fixed. It looks at the sessions
    of the fit from both sides, all of them past; what the model says of a session never does.
    """
    k = len(LABELS)
    weight = shares.mean(axis=0)
    likely = shares / weight  # the density up to a factor that is the same for every cloud
    believed = np.full((k, k), _LEAVES) + np.eye(k) * (_STAYS - _LEAVES)
    transition = believed / believed.sum(axis=1, keepdims=True)
    for _ in range(_ROUNDS):
        before, after = _forward(likely, transition, weight), _backward(likely, transition)
        joint = before[:-1, :, None] * transition * (likely[1:] * after[1:])[:, None, :]
        counted = believed + (joint / joint.sum(axis=(1, 2), keepdims=True)).sum(axis=0)
        transition = counted / counted.sum(axis=1, keepdims=True)
    return np.asarray(transition, dtype=np.float64)


def _forward(likely: Floats, transition: Floats, weight: Floats) -> Floats:
    out = np.empty_like(likely)
    now = weight
    for t, density in enumerate(likely):
        now = (now if t == 0 else now @ transition) * density
        now = now / now.sum()
        out[t] = now
    return out


def _backward(likely: Floats, transition: Floats) -> Floats:
    out = np.ones_like(likely)
    for t in range(len(likely) - 2, -1, -1):
        then = transition @ (likely[t + 1] * out[t + 1])
        out[t] = then / then.sum()
    return out


def _long_run(transition: Floats) -> Floats:
    k = len(transition)
    found = np.linalg.solve(transition.T - np.eye(k) + np.ones((k, k)), np.ones(k))
    return np.asarray(np.maximum(found, 0.0) / np.maximum(found, 0.0).sum())


def _distance(root: Floats, off: list[Floats]) -> Floats:
    """Squared length of root^-1 off, by forward substitution, one session like many."""
    solved: list[Floats] = []
    for j, value in enumerate(off):
        rest = value - sum((root[j, i] * solved[i] for i in range(j)), start=np.zeros(value.shape))
        solved.append(rest / root[j, j])
    return _added([part * part for part in solved])
