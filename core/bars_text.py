"""Daily bars out of plain CSV text with array operations alone: fast, and every number the nearest double.

Only what is plainly written is read here: unquoted cells, `YYYY-MM-DD`, digits with at most one point. Whatever else a
file may hold (`null`, exponents, signs, stamps, more than 15 digits, blank lines) makes the whole text "not plain", and
core.bars_io reads it the careful way.

Eight digits are read at once: as one 64-bit word whose bytes are added up in pairs (the usual trick, as in Lemire,
"Number parsing at a gigabyte per second", 2021). A decimal of up to 15 digits is one exact integer over one exact power
of ten, so the quotient is the nearest double, as float() gives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Positions = NDArray[np.int64]

_COMMA, _NEWLINE, _DASH, _POINT, _ZERO = (ord(c) for c in ",\n-.0")
_PAD = 16  # a word may be read this far before the first cell
_PART_BYTES = 1 << 16
_DIGITS_MOST = 15
_TENS = np.array([10.0**n for n in range(_DIGITS_MOST + 1)])
_INT_TENS = np.array([10**n for n in range(_DIGITS_MOST + 1)], dtype=np.uint64)
_FIRST_YEAR, _LAST_YEAR = 1900, 2199


@dataclass(frozen=True, slots=True, eq=False)
class PlainBars:
    """One file's lines: day numbers (int32), values (n_lines, n_fields) float64, symbols per run of equal lines."""

    days: NDArray[np.int32]
    values: NDArray[np.float64]
    runs: tuple[tuple[str, int], ...]  # (symbol, first line); () without a symbol column


def parse_plain(content: bytes, names: Sequence[str], fields: Sequence[str]) -> PlainBars | None:
    """None when the text is not plain. `names`: the header's columns; the header line itself is skipped.

    The result holds the columns `fields` in this order, the column `date`, and `symbol` when there is one.
    """
    body = content.find(b"\n") + 1
    text = content if body >= _PAD else b" " * _PAD + content
    body += len(text) - len(content)
    if b"\r" in text:
        return parse_plain(content.replace(b"\r\n", b"\n"), names, fields) if b"\r\n" in content else None
    if not text.endswith(b"\n"):
        text += b"\n"
    wanted = [names.index(f) for f in fields]
    parts = []
    for begin, end in _parts(text, body):
        part = _parse_part(text, begin, end, names, wanted)
        if part is None:
            return None
        parts.append(part)
    if not parts:
        return None
    days, values = np.concatenate([p.days for p in parts]), np.concatenate([p.values for p in parts])
    return PlainBars(days, values, _joined(parts))


def _parts(text: bytes, first: int) -> Iterator[tuple[int, int]]:
    """[begin, end) pieces of whole lines."""
    begin = first
    while begin < len(text):
        end = min(len(text), begin + _PART_BYTES)
        end = text.rfind(b"\n", begin, end) + 1 or text.find(b"\n", end) + 1
        yield begin, end
        begin = end


def _joined(parts: Sequence[PlainBars]) -> tuple[tuple[str, int], ...]:
    runs: list[tuple[str, int]] = []
    offset = 0
    for part in parts:
        found = [(symbol, line + offset) for symbol, line in part.runs]
        runs += found[1:] if runs and found and runs[-1][0] == found[0][0] else found
        offset += len(part.days)
    return tuple(runs)


def _parse_part(text: bytes, begin: int, end: int, names: Sequence[str], wanted: Sequence[int]) -> PlainBars | None:
    offset = begin - _PAD
    characters = np.frombuffer(text, np.uint8, count=end - offset, offset=offset)
    cells = _cells(characters, len(names))
    if cells is None:
        return None
    # the word that begins at each byte; the copy makes looking words up much faster
    words: Words = np.ascontiguousarray(np.ndarray((characters.size - 7,), "<u8", text, offset, (1,)))
    days = _days(words.astype(np.uint64, copy=False), cells, names.index("date"))
    values = _numbers(words, cells, wanted)
    if days is None or values is None:
        return None
    runs = _runs(text, offset, words, cells, names.index("symbol")) if "symbol" in names else ()
    if runs is None or cells.others != 2 * len(days) + _others_in(runs, len(days)):
        return None  # somewhere a cell holds more than digits, its point, or the dashes of a date
    return PlainBars(days, values, runs)


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Where each cell begins and ends and where its point is (its end without one), (n_lines, n_columns); and how many
    characters there are besides digits, separators and these points."""

    starts: Positions
    ends: Positions
    points: Positions
    others: int


def _cells(characters: NDArray[np.uint8], width: int) -> _Cells | None:
    """None unless every line has `width` cells with at most one point each."""
    text = characters[_PAD:]
    at = np.flatnonzero((text < _DASH) | (text == _POINT))  # what sorts before the dash: a separator, or refused below
    found = text[at]
    is_point = found == _POINT
    points_in = np.flatnonzero(is_point)
    ends = at[np.flatnonzero(~is_point)]
    if not ends.size or ends.size % width:
        return None
    kinds = text[ends].reshape(-1, width)
    if not ((kinds[:, -1] == _NEWLINE).all() and (kinds[:, :-1] == _COMMA).all()):
        return None
    cell_of_point = points_in - np.arange(points_in.size)  # separators before it
    if (cell_of_point[1:] == cell_of_point[:-1]).any():
        return None  # two points in one cell
    points = ends.copy()
    points[cell_of_point] = at[points_in]
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    starts, ends, points = ((a + _PAD).reshape(-1, width) for a in (starts, ends, points))
    others = np.count_nonzero((text - np.uint8(_ZERO)) > 9) - starts.size - points_in.size
    return _Cells(starts, ends, points, int(others))


def _others_in(runs: Sequence[tuple[str, int]], n_lines: int) -> int:
    """What is neither digit nor point in the symbols of these lines."""
    ends = [*(line for _, line in runs[1:]), n_lines][: len(runs)]
    return sum(
        (end - line) * sum(c != "." and not ("0" <= c <= "9") for c in symbol)
        for (symbol, line), end in zip(runs, ends, strict=True)
    )


def _eight_digits(words: Words) -> Words:
    """The number that eight ASCII digits (or zero bytes) write; the first byte is the most significant digit."""
    words = words & np.uint64(0x0F0F0F0F0F0F0F0F)
    words *= np.uint64(2561)
    words >>= np.uint64(8)
    words &= np.uint64(0x00FF00FF00FF00FF)
    words *= np.uint64(6553601)
    words >>= np.uint64(16)
    words &= np.uint64(0x0000FFFF0000FFFF)
    words *= np.uint64(42949672960001)
    words >>= np.uint64(32)
    return words


def _digits(words: Words, ends: Positions, count: Positions) -> Words:
    """The number written in the `count` <= 8 digits before `ends`."""
    unwanted = (64 - 8 * count).astype(np.uint64)
    taken = words[ends - 8]
    taken >>= unwanted  # by 64 gives 0: no digits
    taken <<= unwanted
    return _eight_digits(taken)


def _numbers(words: Words, cells: _Cells, wanted: Sequence[int]) -> NDArray[np.float64] | None:
    columns = slice(wanted[0], wanted[-1] + 1) if list(wanted) == list(range(wanted[0], wanted[-1] + 1)) else wanted
    starts, ends, points = (a[:, columns] for a in (cells.starts, cells.ends, cells.points))
    whole, fraction = points - starts, np.maximum(ends - points - 1, 0)
    digits = whole + fraction
    if digits.min() < 1 or digits.max() > _DIGITS_MOST or fraction.max() > 8:
        return None
    value = _digits(words, points, np.minimum(whole, 8))
    long = whole > 8
    if long.any():
        value[long] += _digits(words, points[long] - 8, whole[long] - 8) * np.uint64(10**8)
    if fraction.any():
        value *= _INT_TENS[fraction]
        value += _digits(words, ends, fraction)
        whole_and_fraction: NDArray[np.float64] = value.astype(np.float64) / _TENS[fraction]
        return whole_and_fraction
    return value.astype(np.float64)


def _day_table() -> NDArray[np.int32]:
    """Day number of every year, month and day of month, 31 a month; -1 where there is no such day."""
    months = np.arange(f"{_FIRST_YEAR}-01", f"{_LAST_YEAR + 1}-01", dtype="M8[M]")
    first = months.astype("M8[D]").astype(np.int64)
    size = np.diff(first, append=first[-1] + 31)
    table = first[:, None] + np.arange(31)
    table[np.arange(31) >= size[:, None]] = -1
    return table.astype(np.int32).reshape(-1)


_DAYS: list[NDArray[np.int32]] = []  # made when first needed
_NO_DAY = -1


def _days(words: Words, cells: _Cells, column: int) -> NDArray[np.int32] | None:
    """Day numbers of cells that are exactly YYYY-MM-DD. Days before 1970 are negative and read the careful way."""
    starts = cells.starts[:, column]
    if not ((cells.ends[:, column] - starts == 10).all()):
        return None
    year_month, tail = words[starts], words[starts + 2]
    dashes = ((year_month >> np.uint64(32)) & np.uint64(0xFF), year_month >> np.uint64(56))
    if not ((dashes[0] == _DASH).all() and (dashes[1] == _DASH).all()):
        return None
    month = (year_month >> np.uint64(40)) & np.uint64(0xFFFF)
    day = tail >> np.uint64(48)
    number = _eight_digits((year_month & np.uint64(0xFFFFFFFF)) | month << np.uint64(32) | day << np.uint64(48))
    number = number.astype(np.int64)
    years, rest = np.divmod(number, 10_000)
    months, days = np.divmod(rest, 100)
    fits = (years >= _FIRST_YEAR) & (years <= _LAST_YEAR) & (months >= 1) & (months <= 12) & (days >= 1) & (days <= 31)
    if not fits.all():
        return None
    if not _DAYS:
        _DAYS.append(_day_table())
    found: NDArray[np.int32] = _DAYS[0][((years - _FIRST_YEAR) * 12 + months - 1) * 31 + days - 1]
    return None if (found <= _NO_DAY).any() else found


def _runs(text: bytes, offset: int, words: Words, cells: _Cells, column: int) -> tuple[tuple[str, int], ...] | None:
    """Where the symbol changes from one line to the next."""
    starts, length = cells.starts[:, column], cells.ends[:, column] - cells.starts[:, column]
    if length.min() < 1 or length.max() > 16:
        return None
    key = _left(words, starts, np.minimum(length, 8))
    changes = np.ones(starts.size, dtype=np.bool_)
    changes[1:] = key[1:] != key[:-1]
    if length.max() > 8:
        rest = _left(words, starts + 8, np.maximum(length - 8, 0))
        changes[1:] |= rest[1:] != rest[:-1]
    found = []
    for line in np.flatnonzero(changes).tolist():
        begin = offset + int(starts[line])
        raw = text[begin : begin + int(length[line])]
        if not raw.isascii() or raw != raw.strip():
            return None
        found.append((raw.decode().upper(), line))
    return tuple(found)


def _left(words: Words, starts: Positions, count: Positions) -> Words:
    """The first `count` <= 8 bytes at `starts`."""
    unwanted = (64 - 8 * count).astype(np.uint64)
    taken = words[np.minimum(starts, words.size - 1)]
    taken <<= unwanted
    return taken
