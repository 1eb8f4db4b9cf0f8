"""What a model is asked with on a trading day, wired: features and regime of a scan, from the panel it decides on."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.bars_io import BarColumns, to_day
from core.domain import Signal
from core.panel import Panel
from ml_advanced.features import FEATURES, MARKET_SESSIONS, features_at
from ml_advanced.market import Floats, MarketView, market_view, rows_of
from portfolio.strategies.indicators import without_missing
from scripts import wiring

if TYPE_CHECKING:
    from core.ports import Regime
    from ml_advanced.regime import RegimeModel

SPY = "SPY"
NEEDS_SPY = ("against_spy_20", "spy_return_20", "spy_volatility_20")
_SINCE_SESSIONS = 252  # how far back a scan can tell since when a regime has been


@dataclass(frozen=True, slots=True, eq=False)
class ScanFeatures:
    """Features of the signals of a scan, from the very panel that the scan decides on.

    names : its columns, those that the model learned from; one that this program does not know is unknown throughout.
    """

    panel: Panel  # without missing bars
    market: MarketView
    names: tuple[str, ...] = FEATURES

    def __call__(self, signals: Sequence[Signal]) -> Floats:
        """(n_signals, n_names), in their order; a signal whose bar is not there is NaN throughout."""
        out = np.full((len(signals), len(FEATURES)), np.nan)
        columns = {symbol: j for j, symbol in enumerate(self.panel.symbols)}
        for session in sorted({signal.session for signal in signals}):
            at = [i for i, s in enumerate(signals) if s.session == session and s.symbol in columns]
            place = int(np.searchsorted(self.panel.sessions, to_day(session)))
            if not at or place == self.panel.sessions.size or self.panel.sessions[place] != to_day(session):
                continue
            own = np.array([columns[signals[i].symbol] for i in at], dtype=np.intp)
            rows = rows_of(self.panel, np.array([place]))[0, own]
            there = rows >= 0
            which = np.array(at, dtype=np.intp)[there]
            names = [signals[i].strategy for i in which.tolist()]
            out[which] = features_at(self.panel, rows[there], own[there], names, self.market)
        chosen = [FEATURES.index(name) if name in FEATURES else -1 for name in self.names]
        return np.where(np.array(chosen, dtype=np.intp) < 0, np.nan, out[:, chosen])


def scan_features(
    context: wiring.Context, data: wiring.MarketData, bars: Path | None = None, names: Sequence[str] = FEATURES
) -> ScanFeatures:
    """bars : --bars of the scan; None: its bars are the store's. names : EnsemblePredictor.features."""
    panel = without_missing(data.panel)
    return ScanFeatures(panel, _scan_market(context, data, panel, bars, MARKET_SESSIONS), tuple(names))


def scan_regime(
    context: wiring.Context, data: wiring.MarketData, model: RegimeModel | None, bars: Path | None = None
) -> Regime:
    """At the close of the scan's session: by the model, else by the VIX alone."""
    from ml_advanced.regime import rule_regime

    if model is None:
        levels, rule = _vix_levels(context, data, bars), context.settings.risk.vix
        return rule_regime(
            data.vix, data.session, stressed_from=float(rule.halve_from), closed_above=float(rule.stop_above),
            earlier=levels,
        )  # fmt: skip
    from ml_advanced.regime import SESSIONS_NEEDED

    panel = without_missing(data.panel)
    market = _scan_market(context, data, panel, bars, SESSIONS_NEEDED + _SINCE_SESSIONS)
    return model.label_at(market, data.session)


def _scan_market(
    context: wiring.Context, data: wiring.MarketData, panel: Panel, bars: Path | None, last: int
) -> MarketView:
    spy = _spy(context, data, panel, bars)
    return market_view(panel, spy=spy, vix=_vix_levels(context, data, bars), last=last)


def _spy(context: wiring.Context, data: wiring.MarketData, panel: Panel, bars: Path | None) -> BarColumns | None:
    """Where training looks for it too: among the bars, beside the operator's file, in the store. None: not at hand."""
    if bars is None and SPY not in panel.symbols and not _store_has_spy(context, data.source):
        return None
    from scripts.backtest_data import Loaded
    from scripts.backtest_evidence import spy_bars

    loaded = Loaded(panel, data.source, data.simulated, data.snapshot_sha256)
    args = argparse.Namespace(bars=bars, quarantine="on", level="portfolio")
    return spy_bars(context, args, loaded).bars


def _store_has_spy(context: wiring.Context, source: str) -> bool:
    """An operator's file ("bars:NAME") is no store."""
    return ":" not in source and SPY in wiring.store_for(context, source).symbols()


def _vix_levels(context: wiring.Context, data: wiring.MarketData, bars: Path | None) -> Mapping[date, float]:
    """What is known of the VIX up to the scan's session, whose own level is the one that the scan decides with."""
    if bars is not None:
        from scripts.backtest_data import vix_beside

        known = vix_beside(bars)
    elif ":" not in data.source:
        from data.vix import VixStore

        known = VixStore(context.home.cache, data.source).levels()
    else:
        known = {}
    levels = {day: level for day, level in known.items() if day < data.session}
    return levels if data.vix is None else {**levels, data.session: data.vix}


def features_known_live(context: wiring.Context) -> tuple[str, ...]:
    """What a scan of this home can know. SPY is in no universe: without its bars in the store three features are not
    known on a trading day, and a model that was trained with them would refuse every signal."""
    sources = context.settings.data.providers if context.real_data else [context.source_name]
    found = any(_store_has_spy(context, source) for source in sources)
    return FEATURES if found else tuple(name for name in FEATURES if name not in NEEDS_SPY)
