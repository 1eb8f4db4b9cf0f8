"""Daily bars as columns, and reading them from the operator's own files (`--bars`, `--market`).

Nothing here judges a bar: values come back as the file has them, missing ones as NaN, rows sorted by date.
Judging is data.quality's work.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from core.bars_text import parse_plain
from core.errors import DataError

Floats = npt.NDArray[np.float64]
Days = npt.NDArray[np.int32]

EPOCH = date(1970, 1, 1)
FIELDS = ("open", "high", "low", "close", "volume")
MISSING = ("", "null", "NULL", "None", "nan", "NaN", "NAN", "N/A", "n/a")
_SUFFIXES = (".csv", ".csv.gz")


@dataclass(frozen=True, slots=True, eq=False)
class BarColumns:
    """Bars of one symbol, oldest first: days since 1970-01-01, USD per share, shares. Shape (n_bars,) each."""

    dates: Days
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats

    def __len__(self) -> int:
        return len(self.dates)

    def rows(self, keep: npt.NDArray[Any]) -> BarColumns:
        """The bars that a mask or an index array selects."""
        return BarColumns(self.dates[keep], *(getattr(self, f)[keep] for f in FIELDS))


@dataclass(frozen=True, slots=True)
class Split:
    """`ratio` new shares for one old share, in force from the open of `ex_date`."""

    symbol: str
    ex_date: date
    ratio: float


@dataclass(frozen=True, slots=True)
class Dividend:
    """Cash per share as paid on the day, USD."""

    symbol: str
    ex_date: date
    amount: float


def to_day(session: date) -> int:
    return (session - EPOCH).days


def from_day(day: int) -> date:
    return EPOCH + timedelta(days=int(day))


# ---------------------------------------------------------------- reading
class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


def bar_files(path: Path, symbols: Collection[str] | None = None) -> dict[Path, str | None]:
    """The files that `read_bars` would read, each with its symbol; None: a long file. Raises DataError BARS_MISSING."""
    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"{path}: no such file or folder", code="BARS_MISSING", advice="check --bars")
        return {path: None}
    named = {file: symbol for file in sorted(path.iterdir()) if (symbol := _symbol_of(file)) is not None}
    found: dict[Path, str | None] = {f: s for f, s in named.items() if symbols is None or s in symbols}
    if not found:
        raise DataError(f"{path} holds no SYMBOL.csv asked for", code="BARS_MISSING", advice="check --bars")
    return found


def read_bars(
    path: Path, symbols: Collection[str] | None = None, *, digest: Digest | None = None
) -> dict[str, BarColumns]:
    """A folder of SYMBOL.csv, or one long CSV with a symbol column; `.gz` or not; columns in any order and case.

    `digest` is fed the name and content of every file read.
    Raises DataError: BARS_MISSING (no such path, or nothing in it), BARS_MALFORMED (file and line number named).
    """
    found: dict[str, BarColumns] = {}
    for file, symbol in bar_files(path, symbols).items():
        found.update(_parse(file, symbol, digest))
    return found if symbols is None else {s: bars for s, bars in found.items() if s in symbols}


def _symbol_of(file: Path) -> str | None:
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if file.name.lower().endswith(suffix) and not file.name.startswith((".", "_")):
            stem = file.name[: -len(suffix)]
            return None if stem in _NOT_SYMBOLS else stem.upper().replace("~", "")  # `CON~.csv`: see data.store
    return None


_NOT_SYMBOLS = frozenset(
    {"vix_daily", "benchmarks_daily", "splits", "dividends", "sectors", "earnings", "listing_history"}
)


def path_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unpacked(path: Path, content: bytes) -> bytes:
    try:
        return gzip.decompress(content) if path.name.lower().endswith(".gz") else content
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read: {error}", code="BARS_MALFORMED", advice="replace the file")


def _plain(content: bytes, names: Sequence[str], symbol: str | None) -> dict[str, BarColumns] | None:
    """None when the text needs the careful way."""
    if len(set(names)) != len(names):
        return None
    found = parse_plain(content, names, FIELDS)
    if found is None or (symbol is None and not found.runs):
        return None
    if symbol is not None:
        return {symbol: _sorted(found.days, list(found.values.T))}
    ends = [*(line for _, line in found.runs[1:]), len(found.days)]
    rows: dict[str, list[slice]] = {}
    for (name, begin), end in zip(found.runs, ends, strict=True):
        rows.setdefault(name, []).append(slice(begin, end))
    out: dict[str, BarColumns] = {}
    for name, parts in rows.items():
        days, values = (np.concatenate([a[part] for part in parts]) for a in (found.days, found.values))
        out[name] = _sorted(days, list(values.T))
    return out


def _parse(path: Path, symbol: str | None, digest: Digest | None) -> dict[str, BarColumns]:
    """Plain text is read by core.bars_text. The rest goes through pandas' C reader; whatever that objects to is read
    again line by line, to name the line."""
    raw = path_bytes(path)
    if digest is not None:
        digest.update(f"{path.name}\0{len(raw)}\0".encode())
        digest.update(raw)
    content = _unpacked(path, raw)
    header, names = _header(path, content)
    wanted = ["date", *FIELDS] + ([] if symbol is not None else ["symbol"])
    absent = [name for name in wanted if name not in names]
    if absent:
        raise _malformed(path, 1, f"no column {', '.join(absent)} in {header!r}")
    plain = _plain(content, names, symbol)
    if plain is not None:
        return plain
    if b'"' in content or not _is_even(content, len(names)):
        _blame(path, content, names)
    try:
        frame = _pandas(content, names, wanted)
        day_of = _days(frame["date"])
    except (ValueError, OverflowError) as error:  # ParserError and UnicodeDecodeError are ValueErrors
        _blame(path, content, names)
        raise DataError(f"{path}: {error}", code="BARS_MALFORMED", advice="correct the file") from error
    if symbol is None and not frame["symbol"].str.strip().all():
        _blame(path, content, names)
    values = [frame[f].to_numpy(np.float64) for f in FIELDS]
    if symbol is not None:
        return {symbol: _sorted(day_of, values)}
    return _by_symbol(frame["symbol"].to_numpy(object), day_of, values)


def _header(path: Path, content: bytes) -> tuple[str, list[str]]:
    first = content.split(b"\n", 1)[0]
    try:
        text = first.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise _malformed(path, 1, f"byte {error.start} is not UTF-8") from error
    names = [name.strip().strip('"').lower() for name in next(csv.reader([text]), [])]
    return text, ["symbol" if name == "ticker" else name for name in names]


def _is_even(content: bytes, width: int) -> bool:
    """Whether every line but blank ones has `width` cells; pandas fills short lines and cuts long ones in silence."""
    buffer = np.frombuffer(content if content.endswith(b"\n") else content + b"\n", dtype=np.uint8)
    ends = np.flatnonzero(buffer == ord("\n"))
    commas = np.diff(np.searchsorted(np.flatnonzero(buffer == ord(",")), ends), prepend=0)
    blank = np.diff(ends, prepend=-1) <= 2  # nothing, or a carriage return, before the newline
    return bool(((commas == width - 1) | blank).all())


def _pandas(content: bytes, names: Sequence[str], wanted: Sequence[str]) -> Any:
    import pandas as pd

    return pd.read_csv(
        io.BytesIO(content),
        header=None,
        skiprows=1,
        names=list(names),
        usecols=list(wanted),
        engine="c",
        dtype={"symbol": str, "date": str, **dict.fromkeys(FIELDS, np.float64)},
        keep_default_na=False,
        na_values={f: list(MISSING) for f in FIELDS},
        encoding="utf-8",
        index_col=False,
        on_bad_lines="error",
        skip_blank_lines=True,
    )


def _days(column: Any) -> Days:
    """Text dates to days; each distinct text is parsed once."""
    import pandas as pd

    codes, texts = pd.factorize(column, use_na_sentinel=False)
    return np.array([parse_day(str(text)) for text in texts], dtype=np.int32)[codes]


def parse_day(text: str) -> int:
    """YYYY-MM-DD, alone or at the start of a midnight stamp. Raises ValueError."""
    cleaned = text.strip()
    if len(cleaned) > 10 and not cleaned[10:].lstrip("T ").startswith("00:00"):
        raise ValueError(f"{text!r} is not a session date")
    return to_day(date.fromisoformat(cleaned[:10]))


def _sorted(days: Days, values: Sequence[Floats]) -> BarColumns:
    if (days[1:] >= days[:-1]).all():
        return BarColumns(days, *values)
    order = np.argsort(days, kind="stable")
    return BarColumns(days[order], *(v[order] for v in values))


def _by_symbol(symbols: npt.NDArray[Any], days: Days, values: Sequence[Floats]) -> dict[str, BarColumns]:
    import pandas as pd

    spellings, names = pd.factorize(symbols)
    codes, texts = pd.factorize(np.array([str(name).strip().upper() for name in names], dtype=object))
    codes = codes[spellings]
    order = np.lexsort((days, codes))
    edges = np.searchsorted(codes[order], np.arange(len(texts) + 1))
    out: dict[str, BarColumns] = {}
    for k, text in enumerate(texts):
        rows = order[edges[k] : edges[k + 1]]
        out[str(text)] = BarColumns(days[rows], *(v[rows] for v in values))
    return out


# ---------------------------------------------------------------- naming the line
def _malformed(path: Path, line: int, what: str) -> DataError:
    return DataError(f"{path} line {line}: {what}", code="BARS_MALFORMED", advice="correct or remove the line")


def _blame(path: Path, content: bytes, names: Sequence[str]) -> None:
    """Raise the DataError that names the first bad line; return only if none is found."""
    for number, raw in enumerate(content.split(b"\n")[1:], start=2):
        if not raw.strip():
            continue
        try:
            cells = next(csv.reader([raw.decode("utf-8").rstrip("\r")], strict=True))
        except csv.Error as error:
            raise _malformed(path, number, str(error)) from error
        except UnicodeDecodeError as error:
            raise _malformed(path, number, f"byte {error.start} is not UTF-8") from error
        if len(cells) != len(names):
            raise _malformed(path, number, f"{len(cells)} cells where the header has {len(names)}")
        row = dict(zip(names, cells, strict=True))
        if not row.get("symbol", "-").strip():
            raise _malformed(path, number, "no symbol")
        _check(path, number, "date", row["date"], parse_day)
        for name in FIELDS:
            if row[name] not in MISSING:
                _check(path, number, name, row[name], float)


def _check(path: Path, number: int, name: str, text: str, parse: Callable[[str], object]) -> None:
    try:
        if not text.strip():
            raise ValueError("blank")
        parse(text)
    except ValueError as error:
        raise _malformed(path, number, f"{name} {text!r} is not a {'date' if name == 'date' else 'number'}") from error
