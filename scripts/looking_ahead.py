"""The look-ahead proof, wired: whole history against history cut off, and against a future of noise."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from core.bars_io import FIELDS, BarColumns, from_day, to_day
from core.errors import DataError
from core.panel import Panel
from ml_advanced.features import FEATURES, features_at
from ml_advanced.market import Floats, Ints, MarketView, market_view
from ml_advanced.regime import SESSIONS_NEEDED, RegimeModel
from portfolio.strategies.indicators import prepare
from scripts import wiring
from scripts.backtest_data import load
from scripts.backtest_evidence import spy_bars
from scripts.ml_data import usable_setups

if TYPE_CHECKING:
    from portfolio.strategies.indicators import Setup

_NOISE_SESSIONS = 30  # of a future that never was
_TOLD = 20  # changes that are named

_FIT_EVERY = 100  # sessions between two regime fits
Predict = Callable[[Floats], Floats]
"""(n, k) features -> (n,) probabilities."""
Tick = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Proof:
    signals: int
    sessions: int
    features: int
    regimes: int  # sessions whose regime was compared
    fits: int  # regime models fitted on a history cut off
    predictions: int  # signals asked of a model
    changed: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> str:
        head = (
            f"{self.signals} signals of {self.sessions} sessions, {self.features} features, {self.regimes} regimes, "
            f"{self.fits} regime fits, {self.predictions} predictions: cut off, and with a future of noise"
        )
        return "\n".join([head, *(self.changed[:_TOLD] or ["nothing changed"])])


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What is known when: the bars, SPY, the VIX."""

    panel: Panel
    spy: BarColumns | None
    vix: Mapping[date, float]

    def market(self, last: int | None = None) -> MarketView:
        return market_view(self.panel, spy=self.spy, vix=self.vix, last=last)

    def upto(self, session: date) -> Seen:
        spy = None if self.spy is None else self.spy.rows(self.spy.dates <= to_day(session))
        vix = {day: level for day, level in self.vix.items() if day <= session}
        return Seen(self.panel.truncated(session), spy, vix)

    def with_noise_after(self, session: date) -> Seen:
        """The next sessions happen otherwise: prices, volumes, SPY and VIX are drawn anew."""
        day = to_day(session)
        draw = np.random.default_rng(day)
        sessions = self.panel.sessions[: int(np.searchsorted(self.panel.sessions, day)) + 1 + _NOISE_SESSIONS]
        seen = self.upto(from_day(int(sessions[-1])))
        later = seen.panel.session_index > np.searchsorted(sessions, day)
        blocks: dict[str, Any] = {}
        for field in FIELDS:
            values = getattr(seen.panel, field).copy()
            values[later] *= draw.uniform(0.2, 5.0, int(later.sum()))
            blocks[field] = values
        spy = seen.spy
        if spy is not None:
            spy = replace(spy, close=np.where(spy.dates > day, spy.close * draw.uniform(0.2, 5.0, len(spy)), spy.close))
        vix = {d: level if d <= session else float(draw.uniform(10, 80)) for d, level in seen.vix.items()}
        return Seen(replace(seen.panel, **blocks), spy, vix)


def prove(context: wiring.Context, args: argparse.Namespace, tick: Tick = lambda *_: None) -> Proof:
    args = argparse.Namespace(**{**vars(args), "quarantine": "on", "level": "portfolio"})
    loaded = load(context, args)
    prepared = prepare(loaded.panel, context.params.common)
    setups = usable_setups(prepared, context.params, args.start, args.end)
    if not any(setup.points.rows.size for setup in setups):
        raise DataError("no signal in this span", code="NO_SIGNALS", advice="give it a longer span or more symbols")
    seen = Seen(prepared.panel, spy_bars(context, args, loaded).bars, loaded.vix)
    return compared(seen, Signals.of(setups), every=args.sessions, predict=_champion(), tick=tick)


def _champion() -> Predict | None:
    """The model of this home; None: there is none that may be asked."""
    from ml_advanced.ensemble.ensemble_predictor import EnsemblePredictor
    from ml_advanced.features import fingerprint

    predictor = EnsemblePredictor()
    if predictor.code != "OK" or not set(predictor.features) <= set(FEATURES):
        return None
    at, meaning = [FEATURES.index(name) for name in predictor.features], fingerprint()
    return lambda x: predictor.predict(x[:, at], predictor.features, meaning=meaning).probabilities


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    rows: Ints
    columns: Ints
    strategies: Sequence[str]

    @classmethod
    def of(cls, setups: Sequence[Setup]) -> Signals:
        return cls(
            np.concatenate([setup.points.rows for setup in setups]),
            np.concatenate([setup.points.columns for setup in setups]),
            [setup.strategy for setup in setups for _ in range(setup.points.rows.size)],
        )

    def features(self, panel: Panel, market: MarketView) -> Floats:
        return features_at(panel, self.rows, self.columns, self.strategies, market)

    def take(self, which: Ints) -> Signals:
        return Signals(self.rows[which], self.columns[which], [self.strategies[i] for i in which.tolist()])


def compared(
    seen: Seen, signals: Signals, *, every: int = 1, predict: Predict | None = None, tick: Tick = lambda *_: None
) -> Proof:
    """All signals of every `every`-th session that has one."""
    panel, market = seen.panel, seen.market()
    x = signals.features(panel, market)
    at = panel.session_index[signals.rows, signals.columns]
    sessions = np.unique(at)[::every]
    model = _model(market, from_day(int(panel.sessions[sessions[sessions.size // 2]])))
    regimes = None if model is None else model.filtered(market)
    answers = None if predict is None else predict(x)
    changed: list[str] = []
    fits = 0
    for number, k in enumerate(sessions.tolist()):
        which, day = np.flatnonzero(at == k), from_day(int(panel.sessions[k]))
        tick(f"{day}: {number + 1} of {sessions.size} sessions, {len(changed)} changes")
        one = signals.take(which)
        for how, then in (("cut off", seen.upto(day)), ("noise after", seen.with_noise_after(day))):
            view = then.market(SESSIONS_NEEDED + _NOISE_SESSIONS)
            found = one.features(then.panel, view)
            changed += [f"{day} {how}: {name}" for name in _differing(found, x[which])]
            if answers is not None and predict is not None and not _same(predict(found), answers[which]):
                changed.append(f"{day} {how}: prediction")
            if model is not None and regimes is not None and not _same(_filtered(model, view, day), regimes[k]):
                changed.append(f"{day} {how}: regime")
        if number % _FIT_EVERY == _FIT_EVERY - 1 and (fitted := _model(market, day)) is not None:
            fits += 1
            again = _model(seen.upto(day).market(), day)
            if again is None or again.source != fitted.source:
                changed.append(f"{day} cut off: regime fit")
    return Proof(
        signals=int(np.isin(at, sessions).sum()), sessions=int(sessions.size), features=len(FEATURES),
        regimes=0 if regimes is None else int(np.isfinite(regimes[sessions, 0]).sum()), fits=fits,
        predictions=0 if answers is None else int(np.isin(at, sessions).sum()), changed=tuple(changed),
    )  # fmt: skip


def _model(market: MarketView, until: date) -> RegimeModel | None:
    """None: too short a past."""
    try:
        return RegimeModel.fit(market, until)
    except DataError:
        return None


def _filtered(model: RegimeModel, view: MarketView, day: date) -> Floats:
    last: Floats = model.filtered(view.upto(day))[-1]
    return last


def _differing(found: Floats, expected: Floats) -> list[str]:
    return [name for k, name in enumerate(FEATURES) if not _same(found[:, k], expected[:, k])]


def _same(found: Floats, expected: Floats) -> bool:
    """Bit for bit; unknown equals unknown."""
    return np.array_equal(found, expected, equal_nan=True)
