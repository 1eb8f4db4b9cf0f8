"""Plain text is read exactly as float() and date would; whatever is not plain is left to the careful reader."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import bars_text
from core.bars_io import FIELDS, to_day
from core.bars_text import parse_plain

NAMES = ["date", *FIELDS]
LONG = ["symbol", *NAMES]
HEADER = b"date,open,high,low,close,volume\n"
LINE = b"2024-01-02,10,12.5,9.25,11.125,1000\n"

whole = st.integers(0, 10**9).map(str)
decimals = st.tuples(st.integers(0, 10**7 - 1), st.integers(1, 8)).map(
    lambda p: f"{p[0]}.{p[0] * 7919 % 10 ** p[1]:0{p[1]}d}"
)
odd_but_plain = st.sampled_from(
    ["0", "0.0", "00012.50", ".5", "5.", "123456789012345", "0.00000001", "9007199254740.99"]
)
cells = st.one_of(whole, decimals, odd_but_plain)
days = st.dates(date(1970, 1, 1), date(2199, 12, 31))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(days, st.tuples(cells, cells, cells, cells, cells)), min_size=1, max_size=30), st.booleans())
def test_every_number_is_the_nearest_double_and_every_day_its_number(rows, ends_with_newline):  # type: ignore[no-untyped-def]
    text = "".join(f"{day},{','.join(values)}\n" for day, values in rows).encode()
    found = parse_plain(HEADER + (text if ends_with_newline else text[:-1]), NAMES, FIELDS)
    assert found is not None
    assert found.days.tolist() == [to_day(day) for day, _ in rows]
    assert found.values.tolist() == [[float(v) for v in values] for _, values in rows]
    assert found.runs == ()


def test_pieces_of_a_file_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{date(2020, 1, 1) + timedelta(days=i)},{i}.25,{i}.5,{i},{i}.125,{i * 1000}" for i in range(300)]
    text = HEADER + ("\n".join(lines) + "\n").encode()
    whole_file = parse_plain(text, NAMES, FIELDS)
    monkeypatch.setattr(bars_text, "_PART_BYTES", 100)
    pieces = parse_plain(text, NAMES, FIELDS)
    assert whole_file is not None and pieces is not None
    assert (pieces.values == whole_file.values).all() and (pieces.days == whole_file.days).all()
    assert pieces.values.shape == (300, 5)


def test_a_long_file_tells_where_its_symbols_change(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = ["A"] * 3 + ["brk.b"] * 2 + ["BF-B"] + ["LONGNAME12.WS"] * 2 + ["LONGNAME12.WT"] + ["A"]
    text = b"symbol," + HEADER + b"".join(s.encode() + b"," + LINE for s in symbols)
    wanted = (("A", 0), ("BRK.B", 3), ("BF-B", 5), ("LONGNAME12.WS", 6), ("LONGNAME12.WT", 8), ("A", 9))
    for size in (1 << 16, 60):
        monkeypatch.setattr(bars_text, "_PART_BYTES", size)
        found = parse_plain(text, LONG, FIELDS)
        assert found is not None and found.runs == wanted


def test_columns_may_stand_in_any_order_and_windows_line_ends_are_plain() -> None:
    text = b"volume,close,low,high,open,date\r\n1000,11.125,9.25,12.5,10,2024-01-02\r\n"
    found = parse_plain(text, ["volume", "close", "low", "high", "open", "date"], FIELDS)
    assert found is not None and found.values.tolist() == [[10.0, 12.5, 9.25, 11.125, 1000.0]]


@pytest.mark.parametrize(
    "line",
    [
        b"2024-01-02,10,12.5,9.25,null,5\n", b"2024-01-02,10,12.5,9.25,,5\n", b"2024-01-02,10,12.5,9.25,1e2,5\n",
        b"2024-01-02,10,12.5,9.25,-11,5\n", b"2024-01-02,10,12.5,9.25, 11,5\n", b"2024-01-02,10,12.5,9.25,1.1.1,5\n",
        b"2024-01-02,10,12.5,9.25,1234567890123456,5\n", b"2024-01-02,10,12.5,9.25,1.123456789,5\n",
        b"2024-01-02,10,12.5,9.25,11\n", b"2024-01-02,10,12.5,9.25,11,5,6\n", b"\n", b"2024-13-02,10,12.5,9.25,11,5\n",
        b"2024-02-30,10,12.5,9.25,11,5\n", b"20240102,10,12.5,9.25,11,5\n", b"2024/01/02,10,12.5,9.25,11,5\n",
        b"2024-01-02 00:00,10,12.5,9.25,11,5\n", b"1969-12-31,10,12.5,9.25,11,5\n", b"2024-01-02,10,12.5,9.25,.,5\n",
        b"2024-01-0a,10,12.5,9.25,11,5\n", b"2024-01-02,10,12.5,9.25,1\xc3\xa9,5\n", b"2024-01-02;10;12.5;9.25;11;5\n",
        b"2024-01-02,10,12.5,9.25,11\r,5\n", b"2024-01-02,10,12.5,9.25,11,5\x00\n",
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_the_careful_reader(line: bytes) -> None:
    assert parse_plain(HEADER + LINE + line + LINE, NAMES, FIELDS) is None
    if not line.startswith((b"\n", b"20240102,", b"2024/")):
        assert parse_plain(b"symbol," + HEADER + b"A," + LINE + b"A," + line + b"A," + LINE, LONG, FIELDS) is None


@pytest.mark.parametrize("symbol", [b"", b" A", b"A B C D E F G H I", b"\xc3\x89"])
def test_a_symbol_that_is_no_plain_word_is_left_to_the_careful_reader(symbol: bytes) -> None:
    assert parse_plain(b"symbol," + HEADER + b"A," + LINE + symbol + b"," + LINE, LONG, FIELDS) is None


def test_a_header_alone_holds_no_bars() -> None:
    assert parse_plain(HEADER, NAMES, FIELDS) is None
    assert parse_plain(HEADER[:-1], NAMES, FIELDS) is None


def test_the_calendar_table_knows_leap_years() -> None:
    lines = b"".join(f"{day},1,1,1,1,1\n".encode() for day in ("2000-02-29", "2023-02-28", "2024-02-29", "2100-02-28"))
    found = parse_plain(HEADER + lines, NAMES, FIELDS)
    assert found is not None
    assert found.days.tolist() == [to_day(date(2000, 2, 29)), to_day(date(2023, 2, 28)), to_day(date(2024, 2, 29)),
                                   to_day(date(2100, 2, 28))]  # fmt: skip
    for never in (b"2023-02-29", b"2100-02-29", b"2024-04-31", b"2024-00-10", b"2024-01-00"):
        assert parse_plain(HEADER + never + b",1,1,1,1,1\n", NAMES, FIELDS) is None
    assert np.int32 == found.days.dtype
