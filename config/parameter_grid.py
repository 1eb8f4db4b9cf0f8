"""Parameter sets to be tried in research: a YAML or JSON file of parameter name -> list of values, every combination.

    ibs_rsi.stop_atr: [1.5, 2.0, 3.0]
    turtle_soup.target_r: [0.5, 1.0]

Names are `section.number` of the frozen parameters, or numbers below their section as in the frozen file; what is not
named stays frozen. Sets come in the order of the file, the last name changing fastest. Nothing here can change what is
traded: the frozen file does that alone.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

from config.loader import parse
from config.strategy_params import StrategyParams, number_of
from core.errors import ConfigError

SETS_MOST: Final = 5_000
"""More sets than this are a slip, or a search in which the best is luck."""


@dataclass(frozen=True, slots=True)
class ParameterGrid:
    """values: per dotted name its values · sets: every combination."""

    values: Mapping[str, tuple[float | int, ...]]
    sets: tuple[StrategyParams, ...]

    def values_of(self, number: int) -> dict[str, float | int]:
        """What set `number`, from 0, has in place of the frozen numbers."""
        found, left = {}, number
        for name, values in reversed(list(self.values.items())):
            left, at = divmod(left, len(values))
            found[name] = values[at]
        return dict(reversed(found.items()))


def load_grid(path: Path, frozen: StrategyParams) -> ParameterGrid:
    """Read and check the file. Raises ConfigError GRID_MISSING or GRID_INVALID: name, value, bound."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: {said}", code="GRID_MISSING", advice="check --grid") from None
    document, _ = parse(text, path.name)
    return grid_of(document, frozen, path.name)


def grid_of(document: Mapping[str, Any], frozen: StrategyParams, file: str) -> ParameterGrid:
    values = {name: _values(frozen, name, listed, file) for name, listed in _flat(document, file).items()}
    count = math.prod(len(listed) for listed in values.values())
    if not values or count > SETS_MOST:
        raise _refused(file, f"makes {count if values else 0} sets; 1 to {SETS_MOST} are possible")
    sets = [_changed(frozen, dict(zip(values, chosen, strict=True))) for chosen in product(*values.values())]
    return ParameterGrid(values, tuple(sets))


def _flat(document: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Sections, as the frozen file has them, are dotted names too."""
    found: dict[str, Any] = {}
    for section, below in document.items():
        for name, listed in below.items() if isinstance(below, dict) else [("", below)]:
            dotted = f"{section}.{name}" if name else section
            if dotted in found:
                raise _refused(file, f"{dotted} stands twice")
            found[dotted] = listed
    return found


def _refused(file: str, what: str) -> ConfigError:
    return ConfigError(f"{file}: {what}", code="GRID_INVALID", advice="correct the grid, then run again")


def _values(frozen: StrategyParams, name: str, listed: Any, file: str) -> tuple[float | int, ...]:
    section, _, number = str(name).partition(".")
    known = _names(frozen)
    if name not in known:
        near = difflib.get_close_matches(str(name), known, 1) or known[:1]
        raise _refused(file, f"{name} is no parameter; the nearest is {near[0]}")
    if not isinstance(listed, list) or not listed:
        raise _refused(file, f"{name} must be a list of values, was {listed!r}")
    try:
        found = tuple(number_of(type(getattr(frozen, section)), number, value) for value in listed)
    except ValueError as error:
        raise _refused(file, f"{section}.{error}") from None
    if len(set(found)) < len(found):
        raise _refused(file, f"{name} names a value twice: {listed!r}")
    return found


def _names(frozen: StrategyParams) -> Sequence[str]:
    return [f"{part.name}.{f.name}" for part in fields(frozen) for f in fields(getattr(frozen, part.name))]


def _changed(frozen: StrategyParams, values: Mapping[str, float | int]) -> StrategyParams:
    parts: dict[str, Any] = {}
    for name, value in values.items():
        section, _, number = name.partition(".")
        parts[section] = replace(parts.get(section, getattr(frozen, section)), **{number: value})
    return replace(frozen, **parts)
