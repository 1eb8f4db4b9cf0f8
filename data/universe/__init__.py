"""The list of names that may be traded, read so that nothing is misread: `NA` and `TRUE` are tickers, not words.

A file named on the command line may be of any size. The default one has a floor and a change guard, because an empty or
exchanged list is a fault, not a wish.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.domain import Symbol, canonical_symbol
from core.errors import ConfigError

_SYMBOL_HEADERS = ("symbol", "ticker")


@dataclass(frozen=True, slots=True)
class Universe:
    symbols: tuple[Symbol, ...]  # in the file's order
    sectors: Mapping[Symbol, str | None]  # None = unknown, which counts as its worst case
    sha256: str
    warnings: tuple[str, ...]
    path: str = ""  # the file it was read from, if any
    cap: int | None = None  # as asked for; fewer rows than that may be there

    def capped(self, cap: int) -> Universe:
        """The first `cap` rows."""
        kept = self.symbols[:cap]
        return replace(self, symbols=kept, sectors={s: self.sectors[s] for s in kept}, cap=cap)


def load_universe(
    path: Path, *, default: bool, min_rows: int = 0, max_change_fraction: float = 1.0, last: Sequence[str] | None = None
) -> Universe:
    """Raises ConfigError UNIVERSE_MISSING, _UNREADABLE, _ENCODING, _MALFORMED (line), _EMPTY, _TOO_SMALL, _CHANGED."""
    text = _text(path)
    symbols, sectors, warnings = _rows(path, text)
    if not symbols:
        raise _refusal("UNIVERSE_EMPTY", f"{path} lists no symbol")
    if default and len(symbols) < min_rows:
        raise _refusal("UNIVERSE_TOO_SMALL", f"{path} lists {len(symbols)} symbols, at least {min_rows} are expected")
    if default and last:
        changed = len(set(symbols) ^ set(last)) / len(set(last))
        if changed > max_change_fraction:
            raise _refusal(
                "UNIVERSE_CHANGED",
                f"{path}: {changed:.0%} of the names differ from last time, at most {max_change_fraction:.0%} may",
                advice="if that is wanted, delete state/universe_last.json and run again",
            )
    digest = hashlib.sha256("\n".join(f"{s},{sectors[s] or ''}" for s in symbols).encode()).hexdigest()
    return Universe(tuple(symbols), sectors, digest, tuple(warnings), path=str(path.resolve()))


def _refusal(
    code: str, message: str, advice: str = "name another file with --universe, or restore this one"
) -> ConfigError:
    return ConfigError(message, code=code, advice=advice)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise _refusal("UNIVERSE_MISSING", f"{path}: no such file") from error
    except OSError as error:
        raise _refusal("UNIVERSE_UNREADABLE", f"{path}: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + (3 if content.startswith(b"\xef\xbb\xbf") else 0)  # the codec does not count the BOM
        raise _refusal("UNIVERSE_ENCODING", f"{path}: byte at offset {at} is not UTF-8") from error


def _rows(path: Path, text: str) -> tuple[list[Symbol], dict[Symbol, str | None], list[str]]:
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = ";" if first.count(";") > first.count(",") else ","
    symbols: list[Symbol] = []
    sectors: dict[Symbol, str | None] = {}
    warnings: list[str] = []
    columns: tuple[int, int | None] | None = None
    width = 0
    for number, cells in _records(path, lines, delimiter):
        if columns is None:
            width = len(cells)
            columns, is_header = _columns(path, [c.strip() for c in cells])
            if is_header:
                continue
        if len(cells) > width:
            raise _refusal("UNIVERSE_MALFORMED", f"{path} line {number}: {len(cells)} cells, {width} are expected")
        symbol_at, sector_at = columns
        raw = cells[symbol_at] if symbol_at < len(cells) else ""
        try:
            symbol = canonical_symbol(raw)
        except ValueError as error:
            raise _refusal("UNIVERSE_MALFORMED", f"{path} line {number}: {error}") from error
        if symbol != raw:
            warnings.append(f"line {number}: {raw!r} read as {symbol}")
        if symbol in sectors:
            warnings.append(f"line {number}: {symbol} is listed twice, the first is kept")
            continue
        sector = cells[sector_at].strip() if sector_at is not None and sector_at < len(cells) else ""
        symbols.append(symbol)
        sectors[symbol] = sector or None
    return symbols, sectors, warnings


def _records(path: Path, lines: Sequence[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every line that is not blank, without the empty cells that trailing commas make."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)  # strict: an open quote would swallow the rest
    try:
        for cells in reader:
            while cells and not cells[-1].strip():
                cells.pop()
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise _refusal("UNIVERSE_MALFORMED", f"{path} line {reader.line_num}: {error}") from error


def _columns(path: Path, first: Sequence[str]) -> tuple[tuple[int, int | None], bool]:
    """Where symbol and sector stand; without a header the file must be one column of symbols."""
    names = [name.lower() for name in first]
    for header in _SYMBOL_HEADERS:
        if header in names:
            return (names.index(header), names.index("sector") if "sector" in names else None), True
    if len([c for c in first if c]) > 1:
        raise _refusal("UNIVERSE_MALFORMED", f"{path} line 1: no column named symbol in {', '.join(first)}")
    return (0, None), False
