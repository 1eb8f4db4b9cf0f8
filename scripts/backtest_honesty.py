"""The honesty checks, wired: our own engine handed to them, and the files that say what was listed and split when."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.bars_io import Split, to_day
from core.errors import DataError
from portfolio.backtest.honesty.checks import Known
from portfolio.backtest.honesty.findings import document
from portfolio.backtest.honesty.house import Engine, HouseStrategy, examine_house
from portfolio.backtest.honesty.market import Table
from portfolio.backtest.honesty.survivors import Listing
from portfolio.strategies.indicators import prepare

if TYPE_CHECKING:
    import argparse

    from config.strategy_params import StrategyParams
    from core.panel import Panel
    from portfolio.backtest.account import Booked
    from portfolio.backtest.portfolio_level import World
    from scripts import wiring
    from scripts.backtest_data import Loaded

LISTED, SPLITS = "listing_history.csv", "splits.csv"
_BEGINS = ("first_seen", "start_date", "start", "from")
_ENDS = ("last_seen", "end_date", "end", "to")


def block(
    context: wiring.Context, args: argparse.Namespace, loaded: Loaded, booked: Booked, world: World | None,
    engine: Engine | None = None,
) -> dict[str, Any]:  # fmt: skip
    """summary.json's `honesty`. `world`: of the portfolio level; None: the signal level. engine: what made `booked`,
    where it was not the backtest."""
    subject = HouseStrategy(engine or _engine(context, args, world), context.params, each_alone=world is None)
    known = Known(
        listings=_beside(args.bars, LISTED, read_listings),
        splits=_beside(args.bars, SPLITS, read_splits),
        participation=context.settings.costs.participation_pct,
    )
    return document(examine_house(subject, loaded.panel, booked, known))


def _engine(context: wiring.Context, args: argparse.Namespace, world: World | None) -> Any:
    """The very functions that made the run."""
    from portfolio.backtest.costs import CostModel
    from portfolio.backtest.engine import signal_trades
    from portfolio.backtest.output import signal_booked
    from portfolio.backtest.portfolio_level import simulate

    costs = CostModel.from_settings(context.settings.costs, args.costs_bps)

    def signals(panel: Panel, params: StrategyParams) -> Booked:
        prepared = prepare(panel, params.common)
        return signal_booked(prepared.panel, signal_trades(prepared, params, args.start, args.end), costs)

    def portfolio(panel: Panel, params: StrategyParams) -> Booked:
        assert world is not None
        import dataclasses

        other = dataclasses.replace(world, params=params)
        return simulate(prepare(panel, params.common), args.start, args.end, other).booked

    return signals if world is None else portfolio


# ---------------------------------------------------------------- files
def _beside(bars: Path | None, name: str, read: Any) -> Any:
    """The file of that name in or beside the bars; None: there is none."""
    if bars is None:
        return None
    places = [folder / name for folder in ([bars] if bars.is_dir() else []) + [bars.parent]]
    file = next((place for place in places if place.is_file()), None)
    return None if file is None else read(file)


def read_listings(path: Path) -> list[Listing]:
    """symbol, and first_seen, last_seen or start_date, end_date; an empty end is open. Raises DataError.

    A last day that is the list's own newest one means only that the list ends there.
    """
    rows = list(_rows(path))
    begin, end = _column(path, rows, _BEGINS), _column(path, rows, _ENDS)
    newest = max((row[end] for row in rows), default="")
    seen = end == "last_seen"  # such a list has a last day for every name
    return [
        Listing(row["symbol"], to_day(_date(path, row[begin])), None if not row[end] or (seen and row[end] == newest)
                else to_day(_date(path, row[end])))
        for row in rows
    ]  # fmt: skip


def membership_table(listings: Sequence[Listing]) -> Table:
    """As it is handed to a strategy that names it: symbol, start, end (NaT: still a member)."""
    columns = {
        "symbol": np.array([row.symbol for row in listings], dtype=object),
        "start": np.array([row.start for row in listings], dtype=np.int32),
        "end": np.array([-1 if row.end is None else row.end for row in listings], dtype=np.int32),
    }
    return Table(columns, columns["start"], None)


def read_splits(path: Path) -> list[Split]:
    """symbol, ex_date, ratio. Raises DataError."""
    rows = list(_rows(path))
    for name in ("ex_date", "ratio"):
        _column(path, rows, (name,))
    return [Split(row["symbol"], _date(path, row["ex_date"]), _float(path, row["ratio"])) for row in rows]


def read_earnings(path: Path) -> Table:
    """symbol, date, time (bmo, amc or empty), eps_estimate, eps_actual. Raises DataError.

    The actual is known on the day when it was told before the open, else from the day after.
    """
    table = read_table(path)
    told = table.columns["date"]
    time = table.columns.get("time", np.array([""] * told.size, dtype=object))
    days = np.where(time == "bmo", told, told + 1).astype(np.int32)
    hidden = tuple(name for name in table.columns if name.endswith("actual"))
    if not hidden:
        raise _malformed(f"{path}: no eps_actual column")
    return Table(table.columns, days, hidden)


def read_table(path: Path) -> Table:
    """Any CSV with a date column; a row is known from `known_on`, else from its date on. Raises DataError."""
    rows = list(_rows(path, needed="date"))
    columns: dict[str, Any] = {}
    for name in rows[0]:
        texts = [row[name] for row in rows]
        if name in ("date", "known_on"):
            columns[name] = np.array([to_day(_date(path, text)) for text in texts], dtype=np.int32)
        else:
            columns[name] = _values(texts)
    return Table(columns, columns.get("known_on", columns["date"]), None)


def _values(texts: Sequence[str]) -> Any:
    """Numbers when all that stands there are numbers."""
    try:
        return np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return np.array(texts, dtype=object)


def _rows(path: Path, needed: str = "symbol") -> Iterator[Mapping[str, str]]:
    """Raises DataError TABLE_MALFORMED: no such file, no rows, or without that column."""
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
        rows = [{str(k): (v or "").strip() for k, v in row.items()} for row in csv.DictReader(io.StringIO(text))]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise _malformed(f"{path}: {error}") from error
    if not rows or needed not in rows[0]:
        raise _malformed(f"{path}: no rows with a column {needed}")
    yield from rows


def _column(path: Path, rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> str:
    for name in names:
        if name in rows[0]:
            return name
    raise _malformed(f"{path}: no column {' or '.join(names)}")


def _date(path: Path, text: str) -> date:
    try:
        return date.fromisoformat(text[:10])
    except ValueError as error:
        raise DataError(
            f"{path}: {text!r} is no date", code="TABLE_MALFORMED", advice="dates are YYYY-MM-DD"
        ) from error


def _float(path: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise DataError(
            f"{path}: {text!r} is no number", code="TABLE_MALFORMED", advice="see docs/honesty.md"
        ) from error


def _malformed(message: str) -> DataError:
    return DataError(message, code="TABLE_MALFORMED", advice="see docs/honesty.md, Files")
