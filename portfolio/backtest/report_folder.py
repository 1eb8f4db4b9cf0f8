"""What a run's folder holds, read for its tear sheet. A file or column that is not there is None, never a guess."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import DataError
from portfolio.backtest.bootstrap import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A CSV as texts; empty is absent."""

    rows: Sequence[Mapping[str, str]]

    def numbers(self, name: str) -> Floats:
        """NaN where the field is empty or the column is not there."""
        return np.array([float(row.get(name) or "nan") for row in self.rows], dtype=np.float64)

    def texts(self, name: str) -> list[str]:
        return [row.get(name) or "" for row in self.rows]


@dataclass(frozen=True, slots=True, eq=False)
class Folder:
    summary: Mapping[str, Any]
    manifest: Mapping[str, Any] | None
    trades: Table | None
    equity: Table | None
    benchmark: Table | None
    folds: Any  # of a walk-forward, as it wrote them
    parity: Mapping[str, Any] | None

    @property
    def simulated(self) -> bool:
        """Absent is yes: data whose origin is not told is not called real."""
        return self.summary.get("simulated") is not False

    def block(self, name: str) -> Mapping[str, Any]:
        found = self.summary.get(name)
        return found if isinstance(found, Mapping) else {}

    def wealth(self) -> Floats:
        """The equity curve from 1: of the account's starting cash, or of the compounded mean return."""
        if self.equity is None or not self.equity.rows:
            return np.zeros(0)
        equity = self.equity.numbers("equity_usd")
        start = self.block("account").get("start_usd")
        return np.asarray(equity / float(start) if start else equity, dtype=np.float64)


def read_folder(folder: Path) -> Folder:
    """Raises DataError REPORT_UNREADABLE for a file that is there but cannot be read."""
    summary = _json(folder / "summary.json") or {}
    parity = summary.get("parity")
    return Folder(
        summary=summary,
        manifest=_json(folder / "manifest.json"),
        trades=_table(folder / "trade_list.csv"),
        equity=_table(folder / "equity_curve.csv"),
        benchmark=_table(folder / "benchmark_curve.csv"),
        folds=_json(folder / "folds.json"),
        parity=parity if isinstance(parity, Mapping) else newest_parity(folder.parent, *span_of(summary)),
    )


def span_of(summary: Mapping[str, Any]) -> tuple[str, str]:
    return str(summary.get("start", "")), str(summary.get("end", ""))


def newest_parity(outputs: Path, start: str, end: str) -> dict[str, Any] | None:
    """The parity run, of those in `outputs`, whose days overlap start..end (ISO) and that reaches furthest."""
    found = []
    for path in sorted(outputs.glob("parity-*/parity.json")):
        document = _json(path)
        if isinstance(document, dict) and _overlaps(document, start, end):
            found.append((str(document["end"]), str(document["start"]), path.parent.name, document))
    return max(found, key=lambda item: item[:3])[3] if found else None


def _overlaps(document: Mapping[str, Any], start: str, end: str) -> bool:
    first, last = str(document.get("start") or ""), str(document.get("end") or "")
    return bool(first and last and start and end) and first <= end and start <= last


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _table(path: Path) -> Table | None:
    try:
        text = path.read_text(encoding="utf-8")
        found = Table(list(csv.DictReader(io.StringIO(text))))
        for name in ("equity_usd", "r_multiple", "costs_usd", "pnl_usd", "mae_r", "mfe_r", "spy", "equal_weight"):
            found.numbers(name)  # what is drawn and added must be numbers
    except FileNotFoundError:
        return None
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(path, error) from error
    return found


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: {error}", code="REPORT_UNREADABLE", advice="run the backtest again to write it anew")


def finite(value: object) -> float | None:
    """A number that can be printed; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
