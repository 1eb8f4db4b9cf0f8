"""Finished units of a walk-forward on disk, so that a run that was killed goes on where it was.

A run's folder is named after everything that decides a unit besides its parameters: data, code, costs, folds. A file in
it is named after the parameters. What is kept for one run is therefore never taken for another, and may be deleted at
any time. A file that is not whole is not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np

from config.strategy_params import StrategyParams
from core import logs
from core.canonical import canonical_json
from core.files import write_atomic
from portfolio.backtest.walk_forward import Unit

RUNS_KEPT: Final = 5
_HEAD: Final = 65  # SHA-256 in hex and a line end


class UnitStore:
    def __init__(self, folder: Path, decided_by: Mapping[str, Any], symbols: tuple[str, ...]) -> None:
        """decided_by: everything besides the parameters, ready for JSON."""
        self._symbols = symbols
        self.key = hashlib.sha256(canonical_json(decided_by).encode()).hexdigest()
        self.folder = folder / self.key[:24]

    def path(self, params: StrategyParams) -> Path:
        return self.folder / f"{hashlib.sha256(canonical_json(asdict(params)).encode()).hexdigest()[:24]}.unit"

    def read(self, params: StrategyParams) -> Unit | None:
        """None: not finished yet, or damaged, which is told and then the same."""
        try:
            content = self.path(params).read_bytes()
            if hashlib.sha256(content[_HEAD:]).hexdigest().encode() + b"\n" != content[:_HEAD]:
                raise ValueError("its checksum does not fit")
            with np.load(io.BytesIO(content[_HEAD:]), allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
            strategies = tuple(str(name) for name in found.pop("strategies"))
            return Unit.from_arrays(self._symbols, strategies, found)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            logs.error_event("walk_unit_unreadable", code="WALK_UNIT_DAMAGED", message=str(error))
            logs.count("walk_unit_unreadable")
            return None

    def write(self, params: StrategyParams, unit: Unit) -> None:
        """Whole or not at all. A disk that is full costs only the resuming: told, and the run goes on."""
        held = io.BytesIO()
        np.savez(held, strategies=np.array(unit.trades.strategies), **unit.arrays())  # type: ignore[arg-type]
        content = held.getvalue()
        head = hashlib.sha256(content).hexdigest().encode() + b"\n"
        try:
            write_atomic(self.path(params), head + content, durable=False)
        except OSError as error:
            logs.error_event("walk_unit_not_kept", code="WALK_UNIT_NOT_KEPT", message=str(error))
            logs.count("walk_unit_not_kept")

    def forget_others(self) -> None:
        """Keep the last few runs: each is some megabytes."""
        with contextlib.suppress(OSError):
            runs = [place for place in self.folder.parent.iterdir() if place.is_dir() and place != self.folder]
            runs.sort(key=lambda place: place.stat().st_mtime_ns, reverse=True)
            for place in runs[RUNS_KEPT - 1 :]:
                shutil.rmtree(place, ignore_errors=True)
