"""Raw daily bars on disk, one CSV per symbol and source, and the memory-mapped panel derived from them.

`cache/<source>/<SYMBOL>.csv` (`date,open,high,low,close,volume`, append-only) is what the vendor said. Everything else
in `cache/` is derived and may be deleted at any time, also while a scan runs: a panel generation is written to a folder
of its own and renamed into place, so a reader has the whole of one generation or an error, never a mixture.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from core.bars_io import FIELDS, BarColumns, Dividend, Split, from_day, parse_day, to_day
from core.errors import DataError
from core.files import locked, write_atomic
from core.panel import Panel, adjust_for_splits
from core.panel_file import PanelFolder

HEADER = "date,open,high,low,close,volume"
_RESERVED = frozenset(
    {"CON", "PRN", "AUX", "NUL", *(f"COM{i}" for i in range(10)), *(f"LPT{i}" for i in range(10))}
)  # names Windows gives to devices; PRN was a real ticker
SAME_FRACTION = 1e-6  # what lies closer together is the same word, computed twice
Row = tuple[float, float, float, float, float]


class Sessions(Protocol):
    @property
    def first(self) -> date: ...
    @property
    def last(self) -> date: ...
    def sessions_between(self, start: date, end: date) -> list[date]: ...


@dataclass(frozen=True, slots=True)
class Revision:
    """The vendor says something else of a session than it did before; the first word is kept (D25)."""

    symbol: str
    session: date
    ours: Row
    theirs: Row


def file_name(symbol: str) -> str:
    """`CON.A` -> `CON~.A.csv`: Windows looks at what stands before the first dot."""
    stem, dot, rest = symbol.partition(".")
    return f"{stem}~{dot}{rest}.csv" if stem in _RESERVED else f"{symbol}.csv"


def symbol_of(name: str) -> str | None:
    if not name.endswith(".csv") or name.startswith(("_", ".")):
        return None
    return name.removesuffix(".csv").replace("~", "")


class BarStore:
    """One source's bars. Several processes may use it at once; each append is one short write per file."""

    def __init__(self, root: Path, source: str) -> None:
        self.source = source
        self.folder = root / source
        self.facts = self.folder / "facts"  # below, so that `rm cache/<source>/*.csv` takes bars and never the splits
        self._panels = root / "panel" / source
        self._flags: dict[str, dict[str, str]] = {}  # session -> symbol -> code, of the generation last loaded
        self.damaged: tuple[str, ...] = ()  # symbols whose file was set aside and must be fetched again

    # ------------------------------------------------------------ what is there
    def exists(self) -> bool:
        return self.folder.is_dir()

    def symbols(self) -> tuple[str, ...]:
        return tuple(sorted(s for s in map(symbol_of, self._listing()) if s))

    def _listing(self) -> dict[str, tuple[int, int]]:
        """{file name: (size, mtime in ns)} of every CSV; empty when the folder is gone."""
        found: dict[str, tuple[int, int]] = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if symbol_of(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        facts = entry.stat()
                        found[entry.name] = (facts.st_size, facts.st_mtime_ns)
        return found

    def bars(self, symbol: str) -> BarColumns:
        """Raw bars as stored; no bars when there is no file. A damaged file is set aside and reported as damaged."""
        try:
            content = (self.folder / file_name(symbol)).read_bytes()
        except FileNotFoundError:
            return _empty()
        parsed = _parse(content)
        if parsed is None:
            self._set_aside(symbol)
            return _empty()
        return parsed

    def _set_aside(self, symbol: str) -> None:
        path = self.folder / file_name(symbol)
        with contextlib.suppress(FileNotFoundError):
            path.replace(path.with_suffix(".damaged"))
        self.damaged = tuple(sorted({*self.damaged, symbol}))

    def last_session(self, symbol: str) -> date | None:
        return self.last_sessions([symbol]).get(symbol)

    def last_sessions(self, symbols: Iterable[str]) -> dict[str, date]:
        """Newest stored session per symbol, read from the end of each file."""
        out: dict[str, date] = {}
        for symbol in symbols:
            with contextlib.suppress(FileNotFoundError), (self.folder / file_name(symbol)).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 400))
                lines = file.read().split(b"\n")[:-1]  # what follows the last newline is torn
                if lines and not lines[-1].startswith(b"date,"):
                    with contextlib.suppress(ValueError, UnicodeDecodeError):
                        out[symbol] = from_day(parse_day(lines[-1].split(b",")[0].decode()))
        return out

    # ------------------------------------------------------------ writing
    def append(self, symbol: str, bars: BarColumns) -> list[Revision]:
        """Add the bars whose session is newer than the last stored; report those that differ from what is stored."""
        with locked(self.folder / "_store"):
            return self._append(symbol, bars)

    def append_session(self, session: date, rows: Mapping[str, Row]) -> list[Revision]:
        """One session for many symbols, under one lock; symbols without a row are left as they are."""
        day = np.array([to_day(session)], dtype=np.int32)
        revised: list[Revision] = []
        with locked(self.folder / "_store"):
            newest = self.last_sessions(rows)
            for symbol in sorted(rows):
                one = BarColumns(day, *(np.array([v], dtype=np.float64) for v in rows[symbol]))
                if symbol in newest and newest[symbol] < session:
                    self._write(symbol, one, fresh=False)
                else:
                    revised += self._append(symbol, one)
        return revised

    def _append(self, symbol: str, bars: BarColumns) -> list[Revision]:
        newest = self.last_session(symbol)
        if newest is not None and len(bars) and to_day(newest) < bars.dates[0]:
            self._write(symbol, bars, fresh=False)
            return []
        before = self.bars(symbol)
        if not len(before):
            if newest is None:  # else it was damaged or cleared just now, and these bars may not be its whole history
                self._write(symbol, bars, fresh=True)
            return []
        newer = bars.dates > before.dates[-1]
        if newer.any():
            self._write(symbol, bars.rows(newer), fresh=False)
        return _revisions(symbol, before, bars.rows(~newer))

    def _write(self, symbol: str, bars: BarColumns, *, fresh: bool) -> None:
        path = self.folder / file_name(symbol)
        text = _text(bars)
        if fresh:
            write_atomic(path, (HEADER + "\n" + text).encode(), durable=False)
            return
        try:
            with path.open("rb+") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - 1))
                if file.read(1) != b"\n":  # a torn append: drop the half line before the next one
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
                file.seek(0, os.SEEK_END)
                file.write(text.encode())
        except FileNotFoundError:  # cleared meanwhile: better no file than one that begins in the middle of history
            return

    def write_actions(self, splits: Sequence[Split], dividends: Sequence[Dividend]) -> None:
        """Add to the known splits and dividends; of one symbol and ex-date the newer word counts, never both."""
        with locked(self.facts / "_actions"):
            old_splits, old_dividends = self.read_actions()
            _write_actions(self.facts / "splits.csv", "symbol,ex_date,ratio", [*old_splits, *splits])
            _write_actions(self.facts / "dividends.csv", "symbol,ex_date,amount", [*old_dividends, *dividends])

    def read_actions(self) -> tuple[list[Split], list[Dividend]]:
        """Nothing stored yet reads as none. Splits gone while dividends are there, or a damaged file, is a DataError:
        unadjusted prices would look like crashes."""
        if (self.facts / "dividends.csv").exists() and not (self.facts / "splits.csv").exists():
            raise DataError(
                f"{self.facts / 'splits.csv'} is missing",
                code="ACTIONS_MISSING",
                advice=f"delete the folder {self.folder}; it is fetched again",
            )
        splits = [Split(s, d, v) for s, d, v in _read_actions(self.facts / "splits.csv")]
        dividends = [Dividend(s, d, v) for s, d, v in _read_actions(self.facts / "dividends.csv")]
        return splits, dividends

    # ------------------------------------------------------------ the panel
    def load_panel(self, symbols: Sequence[str], upto: date, *, basis: date | None = None) -> Panel:
        """Clean, split-adjusted bars of these symbols up to and with session `upto`; those without bars are left out.

        basis : the session in whose shares prices are told, `upto` unless given. A split of the session about to trade
        (ex-date after `upto`) counts only when `basis` is that session.
        Raises DataError CACHE_CLEARED when the files vanish while being read.
        """
        listing = self._listing()
        key = hashlib.sha256(json.dumps(sorted(listing.items())).encode()).hexdigest()[:24]
        whole = self._open(key) or self._build(key, listing)
        panel = whole.select(sorted(set(symbols) & set(whole.symbols))).truncated(upto)
        splits = self.read_actions()[0]
        if listing.keys() - self._listing().keys() - set(map(file_name, self.damaged)):
            raise _cleared(self.source, "a file")  # the listing, the bars or the splits may be half of what there was
        return adjust_for_splits(panel, splits, basis or upto)

    def quarantined(self, session: date) -> dict[str, str]:
        """Symbols of the last loaded panel whose bar of that session was taken out, with the reason code."""
        return dict(self._flags.get(session.isoformat(), {}))

    def _open(self, key: str) -> Panel | None:
        found = PanelFolder(self._panels).open(key)
        if found is None:
            return None
        panel, notes = found
        self._flags, self.damaged = notes["flags"], tuple(notes["damaged"])
        return panel

    def _build(self, key: str, listing: Mapping[str, tuple[int, int]]) -> Panel:
        from core.market_calendar import market_calendar

        bars = self._read_all(listing)
        last = max((from_day(b.dates[-1]) for b in bars.values() if len(b)), default=None)
        flags: dict[str, dict[str, str]] = {}
        if last is not None:
            bars, flags = _cleaned(bars, market_calendar(), last)
        panel = Panel.from_bars(bars)
        self._flags = flags
        self._save(key, panel, flags)
        return panel

    def _read_all(self, listing: Mapping[str, tuple[int, int]]) -> dict[str, BarColumns]:
        contents: dict[str, bytes] = {}
        for name in sorted(listing):
            try:
                contents[str(symbol_of(name))] = (self.folder / name).read_bytes()
            except FileNotFoundError as error:
                raise _cleared(self.source, name) from error
        self.damaged = ()
        parsed = _parse_many(contents)
        for symbol in sorted(set(contents) - set(parsed)):
            self._set_aside(symbol)
        return parsed

    def _save(self, key: str, panel: Panel, flags: Mapping[str, Mapping[str, str]]) -> None:
        PanelFolder(self._panels).save(key, panel, {"flags": flags, "damaged": self.damaged})


def _cleared(source: str, what: str) -> DataError:
    return DataError(f"{source}: {what} was removed while being read", code="CACHE_CLEARED", advice="run again")


def newest_source(cache: Path, symbol: str) -> str | None:
    """The source whose file of this symbol changed last."""
    if not cache.is_dir():
        return None
    found = [p / file_name(symbol) for p in cache.iterdir() if (p / file_name(symbol)).is_file()]
    return max(found, key=lambda p: p.stat().st_mtime_ns).parent.name if found else None


# ---------------------------------------------------------------- text to bars and back
def _empty() -> BarColumns:
    none = np.empty(0, dtype=np.float64)
    return BarColumns(np.empty(0, dtype=np.int32), none, none, none, none, none)


def _text(bars: BarColumns) -> str:
    """Shortest digits that read back as the same number; whole volumes without a point."""
    lines = []
    columns = [getattr(bars, f).tolist() for f in FIELDS]
    for day, o, h, lo, c, v in zip(bars.dates.tolist(), *columns, strict=True):
        volume = int(v) if v == v and v == int(v) else v
        lines.append(f"{from_day(day).isoformat()},{o!r},{h!r},{lo!r},{c!r},{volume!r}\n")
    return "".join(lines)


def _parse(content: bytes) -> BarColumns | None:
    """None when the file is damaged: no header, or a line that is no bar. A torn last line is left out."""
    lines = content.split(b"\n")
    if len(lines) < 2 or lines[0].strip() != HEADER.encode():
        return None
    try:
        cells = [line.decode("ascii").split(",") for line in lines[1:-1]]
        if any(len(row) != 6 for row in cells):
            return None
        days = np.array([parse_day(row[0]) for row in cells], dtype=np.int32)
        values = np.array([[float(x) for x in row[1:6]] for row in cells], dtype=np.float64).reshape(-1, 5)
    except (ValueError, IndexError, UnicodeDecodeError):
        return None
    order = np.argsort(days, kind="stable")
    return BarColumns(days[order], *(np.ascontiguousarray(values[order, k]) for k in range(5)))


def _parse_many(contents: Mapping[str, bytes]) -> dict[str, BarColumns]:
    """All files in one call of pandas' C reader; when it objects, file by file to find the damaged ones."""
    import pandas as pd

    bodies, counts, symbols = [], [], []
    for symbol, content in contents.items():
        end = content.rfind(b"\n") + 1
        head, _, body = content[:end].partition(b"\n")
        if head.strip() == HEADER.encode() and body.count(b",") == 5 * body.count(b"\n"):
            bodies.append(body)
            counts.append(body.count(b"\n"))
            symbols.append(symbol)
    try:
        frame = pd.read_csv(
            io.BytesIO(b"".join(bodies)),
            header=None,
            names=["date", *FIELDS],
            dtype={"date": str, **dict.fromkeys(FIELDS, float)},
            engine="c",
            index_col=False,
            skip_blank_lines=False,
        )
        codes, texts = pd.factorize(frame["date"])
        days = np.array([parse_day(str(t)) for t in texts], dtype=np.int32)[codes]
        if len(days) != sum(counts) or (codes < 0).any():
            raise ValueError("a line went missing")
    except (ValueError, OverflowError):
        return {s: bars for s, content in contents.items() if (bars := _parse(content)) is not None}
    values = [frame[f].to_numpy(np.float64) for f in FIELDS]
    out, start = {}, 0
    for symbol, count in zip(symbols, counts, strict=True):
        rows = slice(start, start + count)
        own = BarColumns(days[rows], *(v[rows] for v in values))
        if (np.diff(own.dates) < 0).any():
            own = own.rows(np.argsort(own.dates, kind="stable"))
        out[symbol], start = own, start + count
    return out


def _cleaned(
    bars: Mapping[str, BarColumns], calendar: Sessions, last: date
) -> tuple[dict[str, BarColumns], dict[str, dict[str, str]]]:
    """Clean series, and {session: {symbol: code}} of what was taken out."""
    from data.quality import clean, session_days

    first = min(int(b.dates[0]) for b in bars.values() if len(b))
    sessions = session_days(calendar, first, last)
    flags: dict[str, dict[str, str]] = {}
    kept = {}
    for symbol, own in bars.items():
        kept[symbol], found = clean(own, sessions, last)
        for flag in found:
            flags.setdefault(flag.session.isoformat(), {})[symbol] = flag.code
    return kept, flags


def _revisions(symbol: str, before: BarColumns, again: BarColumns) -> list[Revision]:
    out = []
    for k, day in enumerate(again.dates):
        at = int(np.searchsorted(before.dates, day))
        if at < len(before) and before.dates[at] == day:
            ours, theirs = _row(before, at), _row(again, k)
            if not np.allclose(ours, theirs, rtol=SAME_FRACTION, atol=0.0):
                out.append(Revision(symbol, from_day(int(day)), ours, theirs))
    return out


def _row(bars: BarColumns, k: int) -> Row:
    o, h, lo, c, v = (float(getattr(bars, f)[k]) for f in FIELDS)
    return o, h, lo, c, v


def _write_actions(path: Path, header: str, actions: Collection[Any]) -> None:
    name = header.rsplit(",", 1)[1]
    known = {(a.symbol, a.ex_date.isoformat()): float(getattr(a, name)) for a in actions}
    rows = [f"{s},{d},{v!r}\n" for (s, d), v in sorted(known.items())]
    write_atomic(path, "".join([header + "\n", *rows]).encode(), durable=False)


def _read_actions(path: Path) -> list[tuple[str, date, float]]:
    try:
        text = path.read_text(encoding="ascii")
        if not text.startswith("symbol,ex_date,") or not text.endswith("\n"):
            raise ValueError("half-written")
        lines = text.splitlines()[1:]
        return [(s, date.fromisoformat(d), float(v)) for s, d, v in (line.split(",") for line in lines)]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise DataError(
            f"{path}: {error}",
            code="ACTIONS_MALFORMED",
            advice=f"delete the folder {path.parent}; it is fetched again",
        ) from error
