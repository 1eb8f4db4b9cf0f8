"""The bars of a backtest: the operator's files, a vendor's store, or the simulated market. Sources are never mixed."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from core.bars_io import from_day
from core.domain import Symbol
from core.errors import DataError
from core.panel import Panel
from core.paths import REPO_ROOT
from scripts import wiring

if TYPE_CHECKING:
    from core.bars_io import BarColumns
    from core.panel_file import FilePanel, Judged

LATEST = date(2200, 1, 1)


@dataclass
class Loaded:
    """Bars, and what a simulated day is told besides."""

    panel: Panel
    source: str
    simulated: bool
    sha256: str
    vix: Mapping[date, float] = field(default_factory=dict)
    removed: Mapping[str, int] = field(default_factory=dict)  # reason code -> bars in quarantine
    sectors: Mapping[Symbol, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def load(context: wiring.Context, args: argparse.Namespace) -> Loaded:
    """From --bars, else from the store of a real vendor, else the simulated market. Raises DataError NO_BARS."""
    wanted = _symbols(context, args)
    if args.bars is not None:
        return _from_bars(context, args, wanted)
    names = wanted if wanted is not None else _symbols(context, args, default=True) or []
    found = _from_store(context, names)
    if found is None and context.real_data:
        wiring.data_from_store(context, wiring.load_universe_for(context, args.universe, args.cap))
        found = _from_store(context, names)
    if found is not None:
        return found
    if context.real_data:
        raise DataError(
            f"the bar store {context.home.cache} has no bars of the {len(names)} wanted symbols", code="NO_BARS",
            advice="run python scripts/scan.py once to fetch them, or give --bars PATH",
        )  # fmt: skip
    return _from_simulation(context, args, names)


def _symbols(context: wiring.Context, args: argparse.Namespace, *, default: bool = False) -> list[Symbol] | None:
    """The first --cap names of the universe; None: with --bars alone, whatever is there."""
    from data.universe import load_universe

    if args.universe is None and not default:
        return None
    path = args.universe or REPO_ROOT / context.settings.universe.path
    return list(load_universe(path, default=False).symbols[: args.cap])


def _from_bars(context: wiring.Context, args: argparse.Namespace, wanted: list[Symbol] | None) -> Loaded:
    found = panel_of_bars(context, args, None if wanted is None else set(wanted))
    panel = found.panel
    if wanted is None and args.cap is not None and args.cap < len(panel.symbols):
        panel = panel.select(sorted(panel.symbols)[: args.cap])
    if not panel.symbols:
        raise DataError(f"no bars of the wanted symbols in {args.bars}", code="NO_BARS", advice="check --universe")
    simulated = wiring.is_simulated_cache(args.bars)
    loaded = Loaded(panel, str(args.bars), simulated, found.sha256, vix=vix_beside(args.bars), removed=found.removed)
    loaded.notes += (
        [] if _quarantines(args) else ["bars taken as they are (--quarantine on takes bad ones out, as a scan does)"]
    )
    return loaded


def panel_of_bars(context: wiring.Context, args: argparse.Namespace, symbols: Collection[str] | None) -> FilePanel:
    """The bars of --bars, judged as its level asks."""
    from core.panel_file import as_they_are, panel_of_files

    clean = _quarantines(args)
    judge = (lambda bars: _judged(context, bars)) if clean else as_they_are
    return panel_of_files(args.bars, context.home.cache, symbols, judge=judge, judged="clean" if clean else "raw")


def _quarantines(args: argparse.Namespace) -> bool:
    """The portfolio level sees what a scan sees. The signal level reads the operator's file as it stands."""
    chosen: str | None = args.quarantine
    return chosen == "on" or (chosen is None and args.level == "portfolio")


def _judged(context: wiring.Context, bars: Mapping[str, BarColumns]) -> Judged:
    """The store's own quarantine, for every session."""
    from core.panel_file import Judged
    from data.quality import BAR_PARTIAL, clean, session_days

    calendar = context.calendar
    live = [own for own in bars.values() if len(own)]
    if not live:
        return Judged(bars, {}, lasting=True)
    newest = from_day(max(int(own.dates[-1]) for own in live))
    last = min(newest, calendar.last_completed(context.clock.now()))
    sessions = session_days(calendar, min(int(own.dates[0]) for own in live), last)
    kept: dict[str, BarColumns] = {}
    removed: Counter[str] = Counter()
    for symbol, own in bars.items():
        kept[symbol], flags = clean(own, sessions, last)
        removed.update(flag.code for flag in flags)
    return Judged(kept, dict(removed), lasting=BAR_PARTIAL not in removed)


def vix_beside(path: Path) -> Mapping[date, float]:
    from data.vix import read_vix_csv

    places = [folder / "vix_daily.csv" for folder in ([path] if path.is_dir() else []) + [path.parent]]
    file = next((place for place in places if place.is_file()), None)
    return {} if file is None else read_vix_csv(file)


def _from_store(context: wiring.Context, wanted: Sequence[Symbol]) -> Loaded | None:
    """The first vendor, in the configured order, that has bars of a wanted symbol; sources are never mixed."""
    from core.panel import snapshot_sha256
    from data.vix import VixStore

    for source in context.settings.data.providers:
        store = wiring.store_for(context, source)
        symbols = sorted(set(store.symbols()) & set(wanted))
        if symbols:
            panel = store.load_panel(symbols, LATEST)
            vix = VixStore(context.home.cache, source).levels()
            return Loaded(panel, source, False, snapshot_sha256(panel), vix)
    return None


def _from_simulation(context: wiring.Context, args: argparse.Namespace, wanted: Sequence[Symbol]) -> Loaded:
    """The market that the embedded venue plays, straight from its source: any date, no server."""
    from core.bars_io import BarColumns, Split
    from core.panel import adjust_for_splits, snapshot_sha256

    calendar = context.calendar
    last = calendar.last_completed(context.clock.now())
    upto = min(last, calendar.offset(args.end, 30) if args.end < last else last)
    market = wiring.build_market(context)
    series = {s: market.series(s, upto) for s in wanted}
    bars = {str(s): BarColumns(*found) for s, found in series.items() if found is not None and found.days.size}
    if not bars:
        raise DataError("the simulated market has none of the wanted symbols", code="NO_BARS", advice="see --universe")
    splits = [Split(e.symbol, e.ex_date, e.ratio) for e in market.splits(upto)]
    panel = adjust_for_splits(Panel.from_bars(bars), splits, upto)
    levels = {day: level for day in market.sessions if (level := market.vix(day)) is not None}
    return Loaded(panel, market.name, True, snapshot_sha256(panel), levels)
