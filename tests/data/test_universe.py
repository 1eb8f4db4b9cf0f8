"""Universe files: every dialect that means the same, and a refusal with its place for what means nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from core.domain import canonical_symbol
from core.errors import ConfigError
from data.universe import Universe, load_universe

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "universe" / "optionable_liquid_800.csv"


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "universe.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(tmp_path: Path, content: str | bytes) -> Universe:
    return load_universe(written(tmp_path, content), default=False)


def refused(tmp_path: Path, content: str | bytes, **guards: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_universe(written(tmp_path, content), **{"default": False, **guards})  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(
    "content",
    [
        "symbol,sector\nAAA,Energy\nBRK.B,\n",
        "symbol,sector\r\nAAA,Energy\r\nBRK.B,\r\n",
        "\ufeffsymbol,sector\nAAA,Energy\nBRK.B\n",
        "symbol;sector\nAAA;Energy\nBRK.B;\n",
        'symbol,sector\n"AAA","Energy"\n"BRK.B",""',
        "symbol,sector,\nAAA,Energy,\nBRK.B,,\n",
        "\n\nsymbol,sector\n\nAAA, Energy \n\nBRK.B,\n\n",
        "rank,Sector,Ticker\n1,Energy,AAA\n2,,BRK.B\n",
    ],
)
def test_the_same_list_in_every_dialect(tmp_path: Path, content: str) -> None:
    universe = read(tmp_path, content)
    assert universe.symbols == ("AAA", "BRK.B")
    assert dict(universe.sectors) == {"AAA": "Energy", "BRK.B": None}
    assert universe.warnings == ()


@pytest.mark.parametrize("content", ["AAA\nBBB\n", "AAA,\r\nBBB,\r\n", "symbol\nAAA\nBBB", "SYMBOL\nAAA\nBBB"])
def test_one_column_with_or_without_a_header(tmp_path: Path, content: str) -> None:
    universe = read(tmp_path, content)
    assert universe.symbols == ("AAA", "BBB")
    assert set(universe.sectors.values()) == {None}


def test_true_na_and_nan_are_tickers(tmp_path: Path) -> None:
    assert read(tmp_path, "symbol\nTRUE\nNA\nNAN\n").symbols == ("TRUE", "NA", "NAN")


def test_lower_case_spaces_and_duplicates_are_put_right_and_told(tmp_path: Path) -> None:
    universe = read(tmp_path, "symbol,sector\naaa,Energy\n BBB ,\nBRK-B,\nAAA,Other\nBRK/B,\n")
    assert universe.symbols == ("AAA", "BBB", "BRK.B")
    assert universe.sectors["AAA"] == "Energy"  # the first is kept
    assert [w.split(":")[0] for w in universe.warnings] == ["line 2", "line 3", "line 4", "line 5", "line 6", "line 6"]


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        ("", "UNIVERSE_EMPTY", ""),
        ("\ufeff\n \n", "UNIVERSE_EMPTY", ""),
        ("symbol,sector\n", "UNIVERSE_EMPTY", ""),
        ("name,sector\nA Corp,Energy\n", "UNIVERSE_MALFORMED", "line 1"),
        ("symbol,sector\nAAA,Energy\nnot a ticker!,Energy\n", "UNIVERSE_MALFORMED", "line 3"),
        ("symbol,sector\nAAA,Energy\n,Energy\n", "UNIVERSE_MALFORMED", "line 3"),
        ("symbol,sector\nAAA,Energy\nBBB,Energy,CCC\n", "UNIVERSE_MALFORMED", "line 3"),
        ('symbol,sector\nAAA,"Energy\nBBB,Energy\n', "UNIVERSE_MALFORMED", "line 3"),
        (b"symbol\nAAA\nB\xe9\n", "UNIVERSE_ENCODING", "offset 12"),
        (b"\xef\xbb\xbfsymbol\nAAA\nB\xe9\n", "UNIVERSE_ENCODING", "offset 15"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_its_place(
    tmp_path: Path, content: str | bytes, code: str, said: str
) -> None:
    error = refused(tmp_path, content)
    assert error.code == code and said in str(error) and "universe.csv" in str(error)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, code in ((tmp_path / "absent.csv", "UNIVERSE_MISSING"), (tmp_path, "UNIVERSE_UNREADABLE")):
        with pytest.raises(ConfigError) as caught:
            load_universe(path, default=False)
        assert caught.value.code == code


def names(count: int, first: int = 0) -> list[str]:
    return [f"{chr(65 + k // 26)}{chr(65 + k % 26)}" for k in range(first, first + count)]


def test_the_floor_holds_for_the_default_list_only(tmp_path: Path) -> None:
    content = "\n".join(["symbol", *names(9)])
    assert refused(tmp_path, content, default=True, min_rows=10).code == "UNIVERSE_TOO_SMALL"
    path = written(tmp_path, content)
    assert len(load_universe(path, default=True, min_rows=9).symbols) == 9
    assert len(load_universe(path, default=False, min_rows=10).symbols) == 9


@pytest.mark.parametrize(("removed", "refusal"), [(0, False), (10, False), (11, True), (100, True)])
def test_more_than_the_allowed_change_is_refused_for_the_default_list(
    tmp_path: Path, removed: int, refusal: bool
) -> None:
    before = names(100)
    content = "\n".join(["symbol", *before[removed:], *(["ZZZ"] if removed == 100 else [])])
    guards = {"max_change_fraction": 0.10, "last": before}
    if refusal:
        assert refused(tmp_path, content, default=True, **guards).code == "UNIVERSE_CHANGED"
    path = written(tmp_path, content)
    assert load_universe(path, default=refusal is False, max_change_fraction=0.10, last=before)


def test_the_first_use_has_nothing_to_compare_with(tmp_path: Path) -> None:
    assert load_universe(written(tmp_path, "AAA\n"), default=True, max_change_fraction=0.0, last=None).symbols


def test_a_cap_keeps_the_first_rows_with_their_sectors(tmp_path: Path) -> None:
    universe = read(tmp_path, "symbol,sector\nCCC,Energy\nAAA,Energy\nBBB,\n")
    assert universe.capped(2).symbols == ("CCC", "AAA") and set(universe.capped(2).sectors) == {"CCC", "AAA"}
    assert universe.capped(99).symbols == universe.symbols


def test_the_checksum_follows_the_content(tmp_path: Path) -> None:
    one = read(tmp_path, "symbol,sector\nAAA,Energy\n").sha256
    assert read(tmp_path, "symbol;sector\r\nAAA;Energy\r\n").sha256 == one
    assert read(tmp_path, "symbol,sector\nAAA,Materials\n").sha256 != one


def test_the_shipped_list_is_whole_and_canonical() -> None:
    universe = load_universe(SHIPPED, default=True, min_rows=400)
    assert len(universe.symbols) == 800 and universe.warnings == ()
    assert all(canonical_symbol(s) == s for s in universe.symbols)
    assert all(universe.sectors.values()) and len(set(universe.sectors.values())) == 11
    assert "BRK.B" in universe.symbols


def test_the_shipped_list_is_made_as_its_readme_says() -> None:
    source = Path(__file__).resolve().parents[2] / ".." / "shared" / "market" / "universe_candidates.csv"
    if not source.is_file():
        pytest.skip("market data not present")
    with source.open(encoding="utf-8", newline="") as lines:
        rows = [r for r in csv.DictReader(lines) if r["sector"] and r["cboe_options_listed_2023_02"] == "1"]
    universe = load_universe(SHIPPED, default=False)
    assert list(universe.symbols) == [r["symbol"] for r in sorted(rows, key=lambda r: int(r["rank"]))[:800]]
