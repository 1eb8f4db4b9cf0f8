"""The frozen strategy parameters (v2.2): every number of the two strategies, read from one JSON file.

A changed number is a new file with a new version and a new hash, never an edit;
the config pin holds the file's SHA-256.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from core.errors import ConfigError
from core.paths import REPO_ROOT

MOST: Mapping[str, float] = {
    "ibs_below": 1.0, "ibs_exit_above": 1.0, "rsi_below": 100.0, "rsi_exit_above": 100.0, "time_stop_bars": 250,
    "sma_bars": 2000, "rsi_bars": 2000, "atr_bars": 2000, "lookback_bars": 2000, "min_age_bars": 2000,
}  # fmt: skip
"""What a number may at most be, where its meaning has an end; a window of 2,000 bars is eight years."""
FROZEN_PARAMS_PATH = REPO_ROOT / "config" / "frozen_strategy_params_v2.2.json"
VERSION = "2.2"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonParams:
    """Indicator windows in bars that the symbol itself traded, and the lowest price, USD, that may signal."""

    sma_bars: int
    rsi_bars: int
    atr_bars: int
    min_price_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IbsRsiParams:
    """Mean reversion: IBS in 0..1, RSI in 0..100, the stop in multiples of ATR below the close."""

    ibs_below: float
    rsi_below: float
    stop_atr: float
    ibs_exit_above: float
    rsi_exit_above: float
    time_stop_bars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TurtleSoupParams:
    """Failed breakdown: sweep and stop in multiples of ATR, the target in multiples of (fill - stop)."""

    lookback_bars: int
    min_age_bars: int
    min_sweep_atr: float
    stop_atr: float
    target_r: float
    time_stop_bars: int
    strength_full_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyParams:
    common: CommonParams
    ibs_rsi: IbsRsiParams
    turtle_soup: TurtleSoupParams


_Part = TypeVar("_Part", CommonParams, IbsRsiParams, TurtleSoupParams)


def load_strategy_params(path: Path | None = None) -> StrategyParams:
    """Read and check the frozen file. Raises ConfigError for an unreadable file, a missing, unknown or duplicate key,
    another version, or a number that is not positive, finite and at most MOST."""
    chosen = path or FROZEN_PARAMS_PATH
    try:
        document = json.loads(chosen.read_text(encoding="utf-8"), object_pairs_hook=_no_duplicates)
    except (OSError, ValueError) as error:
        raise _refused(f"{chosen.name}: {error}") from error
    if not isinstance(document, dict):
        raise _refused(f"{chosen.name}: must be a JSON object")
    _same_keys(chosen.name, document, {"version", *(part.name for part in fields(StrategyParams))})
    if document["version"] != VERSION:
        raise _refused(f"{chosen.name}: version must be {VERSION!r}, was {document['version']!r}")
    return StrategyParams(
        common=_part(CommonParams, chosen.name, "common", document),
        ibs_rsi=_part(IbsRsiParams, chosen.name, "ibs_rsi", document),
        turtle_soup=_part(TurtleSoupParams, chosen.name, "turtle_soup", document),
    )


def _refused(message: str) -> ConfigError:
    return ConfigError(
        message, code="FROZEN_PARAMS_INVALID", advice="restore the file: git checkout -- config/, then run again"
    )


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} stands twice")
        found[key] = value
    return found


def _same_keys(where: str, found: Mapping[str, Any], wanted: set[str]) -> None:
    missing, unknown = sorted(wanted - set(found)), sorted(set(found) - wanted)
    if missing:
        raise _refused(f"{where}: missing {', '.join(missing)}")
    if unknown:
        raise _refused(f"{where}: unknown {', '.join(unknown)}")


def _part(kind: type[_Part], file: str, name: str, document: Mapping[str, Any]) -> _Part:
    """One section. Whole numbers where the field is an int, positive finite numbers everywhere."""
    where, section = f"{file}: {name}", document[name]
    if not isinstance(section, dict):
        raise _refused(f"{where} must be an object, was {section!r}")
    _same_keys(where, section, {field.name for field in fields(kind)})
    try:
        values: dict[str, Any] = {f.name: number_of(kind, f.name, section[f.name]) for f in fields(kind)}
        return kind(**values)
    except ValueError as error:
        raise _refused(f"{where}.{error}") from None


def number_of(kind: type[CommonParams | IbsRsiParams | TurtleSoupParams], name: str, value: Any) -> float | int:
    """Whole where the field is an int, positive and finite everywhere, at most what MOST says. Raises ValueError."""
    whole = next(field.type for field in fields(kind) if field.name == name) == "int"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise ValueError(f"{name} must be a {'whole ' if whole else ''}number, was {value!r}")
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be positive and finite, was {value!r}")
    if value > MOST.get(name, math.inf):
        raise ValueError(f"{name} must be at most {MOST[name]:g}, was {value!r}")
    return value if whole else float(value)
