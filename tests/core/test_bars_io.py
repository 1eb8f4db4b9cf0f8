"""Bars from the operator's files: every spelling that means the same, and the line number of what means nothing."""

from __future__ import annotations

import gzip
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from core.bars_io import BarColumns, from_day, read_bars, to_day
from core.errors import DataError

MARKET = Path(__file__).resolve().parents[2] / ".." / "shared" / "market"
HEADER = "symbol,date,open,high,low,close,volume"
GOOD = "AAA,2024-01-02,10,12,9.5,11.25,1000"


def written(tmp_path: Path, text: str | bytes, name: str = "bars.csv") -> Path:
    path = tmp_path / name
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_bars(path)
    assert caught.value.code == "BARS_MALFORMED"
    assert path.name in str(caught.value)
    return str(caught.value)


def same(a: BarColumns, b: BarColumns) -> bool:
    return all(np.array_equal(getattr(a, f), getattr(b, f), equal_nan=f != "dates") for f in BarColumns.__slots__)


def test_a_day_number_and_its_date_are_each_others_inverse() -> None:
    assert to_day(date(1970, 1, 1)) == 0
    assert from_day(to_day(date(2024, 2, 29))) == date(2024, 2, 29)


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\n{GOOD}\n",
        f"{HEADER}\n{GOOD}",
        f"{HEADER}\r\n{GOOD}\r\n",
        f"\ufeff{HEADER}\n{GOOD}\n",
        f"{HEADER}\n{GOOD}\n\n\n",
        f"{HEADER.upper()}\n{GOOD}\n",
        f'{HEADER}\n"AAA","2024-01-02",10,12,9.5,11.25,1000\n',
        f"{HEADER},\n{GOOD},\n",
        "volume,close,low,high,open,date,note,symbol\n1000,11.25,9.5,12,10,2024-01-02,x,AAA\n",
        "ticker,date,open,high,low,close,volume\n aaa ,2024-01-02,10,12,9.5,11.25,1000\n",
    ],
)
@pytest.mark.parametrize("name", ["bars.csv", "bars.csv.gz"])
def test_the_same_bar_in_every_dialect(tmp_path: Path, text: str, name: str) -> None:
    bars = read_bars(written(tmp_path, text, name))
    assert list(bars) == ["AAA"]
    own = bars["AAA"]
    assert own.dates.tolist() == [to_day(date(2024, 1, 2))]
    assert [c.tolist() for c in (own.open, own.high, own.low, own.close, own.volume)] == [
        [10.0], [12.0], [9.5], [11.25], [1000.0],
    ]  # fmt: skip


def test_true_na_and_nan_are_tickers_and_missing_values_are_nan(tmp_path: Path) -> None:
    lines = [HEADER, "TRUE,2024-01-02,null,2,1,,3", "NA,2024-01-02,1,2,1,2,3", "NAN,2024-01-02,1,2,1,2,NaN"]
    bars = read_bars(written(tmp_path, "\n".join(lines)))
    assert sorted(bars) == ["NA", "NAN", "TRUE"]
    assert np.isnan(bars["TRUE"].open).all() and np.isnan(bars["TRUE"].close).all() and bars["TRUE"].high[0] == 2
    assert np.isnan(bars["NAN"].volume).all() and bars["NA"].close[0] == 2


def test_rows_come_sorted_by_date_and_duplicates_are_kept_for_quality_to_judge(tmp_path: Path) -> None:
    days = ["2024-01-04", "2024-01-02", "2024-01-04", "2024-01-03"]
    text = "\n".join([HEADER, *(f"AAA,{d},1,1,1,{k},0" for k, d in enumerate(days))])
    own = read_bars(written(tmp_path, text))["AAA"]
    assert [from_day(d).day for d in own.dates] == [2, 3, 4, 4]
    assert own.close.tolist() == [1.0, 3.0, 0.0, 2.0]


def test_two_spellings_of_a_symbol_are_one_series(tmp_path: Path) -> None:
    text = f"{HEADER}\nAAA,2024-01-02,1,1,1,1,0\nBBB,2024-01-02,1,1,1,1,0\naaa,2024-01-03,1,1,1,2,0\n"
    assert read_bars(written(tmp_path, text))["AAA"].close.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("AAA,2024-01-03,10,12,9", "5 cells"),
        ("AAA,2024-01-03,10,12,9,11,5,6", "8 cells"),
        ("AAA,2024-01-03,ten,12,9,11,5", "'ten' is not a number"),
        ("AAA,2024-01-03, ,12,9,11,5", "is not a number"),
        ("AAA,2024-13-03,10,12,9,11,5", "'2024-13-03' is not a date"),
        ("AAA,2024-01-03 14:30,10,12,9,11,5", "is not a date"),
        ("AAA,,10,12,9,11,5", "is not a date"),
        (",2024-01-03,10,12,9,11,5", "no symbol"),
        ('AAA,2024-01-03,10,12,9,11,"5', "unexpected end"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path: Path, line: str, said: str) -> None:
    message = refused(written(tmp_path, f"{HEADER}\n{GOOD}\n{line}\nBBB,2024-01-02,1,1,1,1,1\n"))
    assert "line 3" in message and said in message


def test_a_short_and_a_long_line_do_not_cancel_out(tmp_path: Path) -> None:
    text = f"{HEADER}\nAAA,2024-01-02,1,2,1\nAAA,2024-01-03,1,2,1,2,3,4,5\n"
    assert "line 2" in refused(written(tmp_path, text))


def test_a_byte_that_is_not_utf8_is_refused_with_its_place(tmp_path: Path) -> None:
    message = refused(written(tmp_path, f"{HEADER}\n{GOOD}\nA".encode() + b"\xff,2024-01-03,1,1,1,1,1\n"))
    assert "line 3" in message and "byte 1" in message


@pytest.mark.parametrize("content", [b"", b"\n", b"date,open\n2024-01-02,1\n", b"\xff\xfe"])
def test_a_file_without_a_usable_header_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "line 1" in refused(written(tmp_path, content))


def test_a_cut_or_damaged_gz_is_refused(tmp_path: Path) -> None:
    body = "\n".join([HEADER, *(f"AAA,2024-01-02,{k},{k * 7},1,2,{k * 31}" for k in range(500))]).encode()
    whole = gzip.compress(body)
    for content in (whole[:-10], whole[:40], whole[:40] + b"\xff" * 20 + whole[60:], b"not gz"):
        path = tmp_path / "cut.csv.gz"
        path.write_bytes(content)
        refused(path)


def test_only_the_symbols_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, f"{HEADER}\n{GOOD}\nBBB,2024-01-02,1,1,1,1,1\n")
    assert list(read_bars(path, {"BBB", "CCC"})) == ["BBB"]
    assert read_bars(path, {"CCC"}) == {}


def test_a_folder_of_symbol_files(tmp_path: Path) -> None:
    head, row = HEADER.removeprefix("symbol,"), GOOD.removeprefix("AAA,")
    for name in ("AAA.csv", "brk.b.csv", "NA.csv.gz", "CON~.csv", "_VIX.csv", "vix_daily.csv", "notes.txt"):
        written(tmp_path, f"{head}\n{row}\n", name)
    assert sorted(read_bars(tmp_path)) == ["AAA", "BRK.B", "CON", "NA"]
    assert list(read_bars(tmp_path, {"NA"})) == ["NA"]


@pytest.mark.parametrize("make", [lambda p: p / "absent.csv", lambda p: p])
def test_nothing_there_is_said(tmp_path: Path, make: object) -> None:
    with pytest.raises(DataError) as caught:
        read_bars(make(tmp_path))  # type: ignore[operator]
    assert caught.value.code == "BARS_MISSING"


def test_the_real_small_file_reads_as_the_csv_module_reads_it() -> None:
    path = MARKET / "bars_small.csv.gz"
    if not path.is_file():
        pytest.skip("market data not present")
    import csv

    bars = read_bars(path)
    assert len(bars) == 60
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        rows = [r for r in csv.DictReader(lines) if r["symbol"] in ("AAPL", "RIVN")]
    for symbol in ("AAPL", "RIVN"):
        own = [r for r in rows if r["symbol"] == symbol]
        expected = BarColumns(
            np.array([to_day(date.fromisoformat(r["date"])) for r in own], dtype=np.int32),
            *(np.array([float(r[f]) for r in own]) for f in ("open", "high", "low", "close", "volume")),
        )
        assert same(bars[symbol], expected)


def test_the_dirty_file_reads_whole_with_its_gaps_as_nan() -> None:
    path = MARKET / "bars_dirty.csv.gz"
    if not path.is_file():
        pytest.skip("market data not present")
    bars = read_bars(path)
    assert len(bars) == 55
    assert int(np.isnan(bars["EAI"].close).sum()) == 1782
