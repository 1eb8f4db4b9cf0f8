"""A scan over seven small hand-made series: three with a setup, one calm, one late, one young, one cheap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from config.settings_schema import Settings
from config.strategy_params import load_strategy_params
from core.bars_io import BarColumns
from core.domain import Mode, Signal, Symbol
from core.panel import Panel
from core.ports import Opinion, Review
from portfolio.scan import ScanResult, run_scan
from tests.portfolio.market import columns, oversold, rising, swept, weekdays

PARAMS = load_strategy_params()
DAYS = weekdays(260)
SESSION = DAYS[-1]
NEXT = SESSION + timedelta(days=3 if SESSION.weekday() == 4 else 1)
AS_OF = datetime(NEXT.year, NEXT.month, NEXT.day, 14, 35, tzinfo=UTC)
LOW_BAR = {"min_score": 10}


class Announcements:
    def __init__(self, known: Mapping[str, Sequence[date]] | None = None) -> None:
        self.known = known

    def dates(self, symbol: Symbol) -> Sequence[date] | None:
        return [] if self.known is None else self.known.get(symbol)


class Model:
    def __init__(self, probability: float | None, code: str = "OK") -> None:
        self.answer = Opinion(probability, code)

    def opinions(self, signals: Sequence[Signal]) -> dict[str, Opinion]:
        return {signal.decision_id: self.answer for signal in signals}


class Critic:
    def __init__(self, scale: str) -> None:
        self.answer = Review(Decimal(scale), ("CRITIC",))

    def reviews(self, scored: Sequence[tuple[Signal, float]]) -> dict[str, Review]:
        return {signal.decision_id: self.answer for signal, _ in scored}


class Silent:
    """A model and a reviewer that say nothing."""

    def opinions(self, signals: Sequence[Signal]) -> dict[str, Opinion]:
        return {}

    def reviews(self, scored: Sequence[tuple[Signal, float]]) -> dict[str, Review]:
        return {}


def bars() -> dict[str, BarColumns]:
    """IBS1, IBS2, SOUP have a setup; CALM none; LATE no last bar; YOUNG too few; CHEAP below the price floor."""
    return {
        "IBS1": columns(oversold(rising(260, seed=1)), DAYS),
        "IBS2": columns(oversold(rising(260, seed=11), fall=4.0), DAYS),
        "SOUP": columns(swept(rising(260, step=0.05, seed=2)), DAYS),
        "CALM": columns(rising(260, seed=3), DAYS),
        "LATE": columns(rising(259, seed=4), DAYS[:-1]),
        "YOUNG": columns(rising(199, seed=5), DAYS[-199:]),
        "CHEAP": columns(oversold(rising(260, start=5.0, step=0.03, seed=6), fall=0.3), DAYS),
    }


PANEL = Panel.from_bars(bars())
SYMBOLS = [Symbol(s) for s in (*PANEL.symbols, "NONE", "BAD")]
SECTORS: dict[Symbol, str | None] = {Symbol(s): f"sector {s}" for s in SYMBOLS}


def scan(*, quality_gate: Mapping[str, Any] = LOW_BAR, **changed: Any) -> ScanResult:
    sections = {k: changed.pop(k) for k in ("selection", "risk", "filters") if k in changed}
    given: dict[str, Any] = {
        "panel": PANEL, "session": SESSION, "as_of": AS_OF, "symbols": SYMBOLS, "sectors": SECTORS, "vix": 15.0,
        "earnings": Announcements(), "scorer": None, "reviewer": None, "params": PARAMS, "mode": Mode.PAPER,
        "top3": True, "data_source": "test", "simulated": True, "snapshot_sha256": "00",
        "quarantined": {Symbol("BAD"): "BAR_RANGE"},
        "settings": Settings.model_validate({"quality_gate": quality_gate, **sections}),
    }  # fmt: skip
    return run_scan(**{**given, **changed})
