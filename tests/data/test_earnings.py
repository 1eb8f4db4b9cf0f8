from __future__ import annotations

from datetime import date

import pytest

from core.domain import Symbol
from core.errors import DataError
from data.earnings import EarningsFile

TODAY = date(2026, 3, 13)
AAPL = Symbol("AAPL")


def test_dates_of_known_and_unknown_symbols(tmp_path):
    file = tmp_path / "earnings.csv"
    file.write_bytes("\ufeffdate,symbol\r\n2026-04-30,aapl\r\n2026-01-29,AAPL\r\n\r\n2026-04-01,brk-b\r\n".encode())
    source = EarningsFile(file, today=TODAY)
    assert source.dates(AAPL) == (date(2026, 1, 29), date(2026, 4, 30))
    assert source.dates(Symbol("BRK.B")) == (date(2026, 4, 1),)
    assert source.dates(Symbol("MSFT")) is None


@pytest.mark.parametrize("content", ["", "symbol,date\n"])
def test_an_empty_or_missing_file_knows_nothing(tmp_path, content):
    file = tmp_path / "earnings.csv"
    assert EarningsFile(file).dates(AAPL) is None
    file.write_text(content)
    assert EarningsFile(file).dates(AAPL) is None
    assert EarningsFile(None).why_unknown == "no earnings file is configured"


def test_a_stale_file_knows_nothing(tmp_path):
    file = tmp_path / "earnings.csv"
    file.write_text("symbol,date\nAAPL,2025-11-13\nMSFT,2025-11-12\n")  # 120 and 121 days ago
    assert EarningsFile(file, today=TODAY).dates(AAPL) is not None
    assert EarningsFile(file, today=TODAY).dates(Symbol("MSFT")) is None
    assert EarningsFile(file, today=date(2026, 3, 14)).dates(AAPL) is None


def test_a_file_that_knows_too_few_of_the_universe_is_not_believed(tmp_path):
    file = tmp_path / "earnings.csv"
    file.write_text("symbol,date\nAAPL,2026-04-30\n")
    assert EarningsFile(file, universe=["AAPL", *(f"S{i}" for i in range(9))]).dates(AAPL) is not None
    assert EarningsFile(file, universe=["AAPL", *(f"S{i}" for i in range(10))]).dates(AAPL) is None


@pytest.mark.parametrize("line", ["AAPL,soon", "AAPL", "?,2026-04-30"])
def test_a_broken_line_is_named(tmp_path, line):
    file = tmp_path / "earnings.csv"
    file.write_text(f"symbol,date\nMSFT,2026-04-30\n{line}\n")
    with pytest.raises(DataError, match=r"earnings\.csv line 3"):
        EarningsFile(file).dates(AAPL)
