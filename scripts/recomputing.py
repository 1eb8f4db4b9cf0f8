"""A recorded day, read back: its rows, the inputs that they name, and the journal as it was when each was written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from config.settings_schema import Settings
from config.strategy_params import CommonParams, IbsRsiParams, StrategyParams, TurtleSoupParams
from core.domain import Symbol
from core.errors import DataError
from core.panel import Panel
from data.seen import SeenBars
from execution.fold import Fold
from execution.ledger import Ledger
from scripts.recording import inputs_file, read_blob

if TYPE_CHECKING:
    from core.journal import Record

Row = Mapping[str, Any]
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_SENT = frozenset({"order_intended", "order_refused"})


# ---------------------------------------------------------------- what is read
@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Everything that a scan is told from outside, as it was then or as it is now."""

    settings: Settings
    params: StrategyParams
    symbols: tuple[Symbol, ...]
    sectors: Mapping[Symbol, str | None]
    earnings: Mapping[str, Sequence[str]]
    vix: float | None
    quarantined: Mapping[Symbol, str]
    panel: Panel

    def dates(self, symbol: Symbol) -> Sequence[date] | None:
        """core.ports.EarningsCalendar."""
        found = self.earnings.get(str(symbol))
        return None if found is None else tuple(date.fromisoformat(day) for day in found)


@dataclass(frozen=True, slots=True)
class RecordedDay:
    day: date
    rows: tuple[Row, ...]
    damaged: int  # lines that are no row
    sent: tuple[Row, ...] = ()  # request bodies as they left; days before these were kept have none


def read_day(logs_folder: Path, day: date) -> RecordedDay:
    """No file reads as no rows."""
    try:
        lines = inputs_file(logs_folder, day).read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        lines = []
    rows: list[Row] = []
    sent: list[Row] = []
    damaged = 0
    for line in lines:
        try:
            row = json.loads(line)
            row["kind"], row["run"], row["seq"]
        except (ValueError, KeyError, TypeError):
            damaged += 1
            continue
        (sent if row["kind"] == "sent" else rows).append(row)
    return RecordedDay(day, tuple(rows), damaged, tuple(sent))


def settings_from(value: Mapping[str, Any]) -> Settings:
    """Raises pydantic's ValidationError."""
    return Settings.model_validate(_with_dates(value))


def _with_dates(value: Any) -> Any:
    """JSON has no dates; settings take no text for one."""
    if isinstance(value, Mapping):
        return {key: _with_dates(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_dates(inner) for inner in value]
    return date.fromisoformat(value) if isinstance(value, str) and _DATE.match(value) else value


def params_from(value: Mapping[str, Any]) -> StrategyParams:
    return StrategyParams(
        common=CommonParams(**value["common"]),
        ibs_rsi=IbsRsiParams(**value["ibs_rsi"]),
        turtle_soup=TurtleSoupParams(**value["turtle_soup"]),
    )


class Kept:
    """The inputs of recorded rows. Raises DataError INPUTS_* and SEEN_*."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs: dict[str, Any] = {}
        self._panels: dict[str, Panel] = {}
        self._read: dict[str, Settings] = {}

    def blob(self, name: str) -> Any:
        if name not in self._blobs:
            self._blobs[name] = read_blob(self.folder, name)
        return self._blobs[name]

    def _settings(self, name: str) -> Settings:
        if name not in self._read:
            try:
                self._read[name] = settings_from(self.blob(name))
            except ValidationError as error:
                raise DataError(
                    f"the settings of then are none of this version: {error.errors()[0]['loc']}",
                    code="INPUTS_OTHER_VERSION",
                ) from error
        return self._read[name]

    def panel(self, row: Row) -> Panel:
        snapshot = str(row["snapshot_sha256"])
        if snapshot not in self._panels:
            if len(self._panels) > 4:  # days are read in order: only the newest are asked again
                self._panels.pop(next(iter(self._panels)))
            seen = SeenBars(self.folder, str(row["source"]))
            self._panels[snapshot] = seen.read(date.fromisoformat(row["session"]), snapshot)
        return self._panels[snapshot]

    def inputs(self, row: Row) -> Inputs:
        """All of a `scan` row; of any other what it has: settings, parameters, and the bars that it names."""
        settings, params = self._settings(str(row["settings"])), params_from(self.blob(row["params"]))
        if row["kind"] != "scan":
            panel = Panel.from_bars({}) if row.get("snapshot_sha256") is None else self.panel(row)
            return Inputs(settings, params, (), {}, {}, None, {}, panel)
        universe = self.blob(row["universe"])
        return Inputs(
            settings, params, symbols=tuple(Symbol(s) for s, _ in universe),
            sectors={Symbol(s): sector for s, sector in universe}, earnings=self.blob(row["earnings"]),
            vix=row["vix"], quarantined={Symbol(s): str(code) for s, code in row["quarantined"].items()},
            panel=self.panel(row),
        )  # fmt: skip


# ---------------------------------------------------------------- the journal beside the rows
class Happened:
    """The journal, and the ledger as it was after any record that is asked for."""

    def __init__(self, records: Iterable[Record], seqs: Iterable[int]) -> None:
        self.records: list[Record] = []
        self._ledgers: dict[int, Ledger] = {}
        wanted, fold = set(seqs), Fold()
        self._ledgers[-1] = fold.ledger()
        for record in records:
            if record.kind in _SENT:
                self._ledgers[record.seq - 1] = fold.ledger()
            self.records.append(record)
            fold.add(record)
            if record.seq in wanted:
                self._ledgers[record.seq] = fold.ledger()
        self.last = fold.ledger()
        self._ends = [(r.seq, str(r.body["run"])) for r in self.records if r.kind in ("scan_run", "run_failed")]
        self._of: dict[str, list[Record]] = {}
        for record in self.records:
            if (decision := record.body.get("decision_id")) is not None:
                self._of.setdefault(str(decision), []).append(record)

    def ledger(self, seq: int) -> Ledger:
        """After record `seq`. Raises DataError when the journal has no such record: it is another one."""
        try:
            return self._ledgers[seq]
        except KeyError as error:
            raise DataError(f"the journal has no record {seq}", code="JOURNAL_OTHER") from error

    def end_of(self, run: str, after: int) -> int:
        """The record that ends this scan; far away when it was never ended."""
        return next((seq for seq, name in self._ends if name == run and seq > after), 2**61)

    def of(self, decision_id: str, after: int, before: int) -> list[Record]:
        return [r for r in self._of.get(decision_id, ()) if after < r.seq < before]
