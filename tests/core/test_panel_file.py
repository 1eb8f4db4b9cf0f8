"""A panel of the operator's files is mapped while they are unchanged, and made again when anything about it is off."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from core.bars_io import FIELDS, BarColumns, read_bars
from core.errors import DataError
from core.panel import Panel
from core.panel_file import Judged, panel_of_files

HEADER = "date,open,high,low,close,volume\n"


def bar_file(folder: Path, symbol: str, *closes: float, first: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"2024-01-{first + i:02d},{c},{c + 1},{c - 1},{c},1000\n" for i, c in enumerate(closes))
    path = folder / f"{symbol}.csv"
    path.write_text(HEADER + rows)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bar_file(tmp_path / "bars", "AAA", 10, 11, 12)
    bar_file(tmp_path / "bars", "BBB", 20.5, first=4)
    return tmp_path / "bars"


def same(one: Panel, other: Panel) -> bool:
    blocks = (*FIELDS, "session_index", "length", "sessions")
    arrays = all(np.array_equal(getattr(one, b), getattr(other, b), equal_nan=b in FIELDS) for b in blocks)
    return arrays and one.symbols == other.symbols and one.complete == other.complete


def test_the_second_time_it_is_mapped_and_the_same(folder: Path, tmp_path: Path) -> None:
    first, second = (panel_of_files(folder, tmp_path / "cache") for _ in range(2))
    assert (first.mapped, second.mapped) == (False, True)
    assert same(first.panel, second.panel) and first.sha256 == second.sha256
    assert same(first.panel, Panel.from_bars(read_bars(folder)))
    assert first.panel.complete and type(second.panel.close) is np.ndarray


@pytest.mark.parametrize("change", ["content", "time", "more", "fewer"])
def test_a_changed_file_makes_it_anew_and_the_old_one_goes(folder: Path, tmp_path: Path, change: str) -> None:
    before = panel_of_files(folder, tmp_path / "cache")
    if change == "content":
        bar_file(folder, "AAA", 10, 11, 13)
    elif change == "time":
        facts = (folder / "AAA.csv").stat()
        os.utime(folder / "AAA.csv", ns=(facts.st_atime_ns, facts.st_mtime_ns + 1000))
    elif change == "more":
        bar_file(folder, "CCC", 5)
    else:
        (folder / "BBB.csv").unlink()
    after = panel_of_files(folder, tmp_path / "cache")
    assert not after.mapped and same(after.panel, Panel.from_bars(read_bars(folder)))
    assert (after.sha256 == before.sha256) is (change == "time")
    places = list((tmp_path / "cache" / "panel").iterdir())
    assert len(places) == 1 and len(list(places[0].iterdir())) == 1


@pytest.mark.parametrize("damage", ["close.npy", "meta.json", "sessions.npy", "all"])
def test_a_damaged_or_deleted_cache_is_made_again(folder: Path, tmp_path: Path, damage: str) -> None:
    first = panel_of_files(folder, tmp_path / "cache")
    if damage == "all":
        shutil.rmtree(tmp_path / "cache")
    else:
        (file,) = (tmp_path / "cache").rglob(damage)
        file.write_bytes(file.read_bytes()[:-20])
    again = panel_of_files(folder, tmp_path / "cache")
    assert not again.mapped and same(first.panel, again.panel)


def test_a_cache_that_cannot_be_written_costs_only_time(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    for _ in range(2):
        assert not panel_of_files(folder, tmp_path / "cache").mapped


def test_only_the_wanted_symbols_are_handed_out(folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert panel_of_files(folder, tmp_path / "cache", {"BBB", "ZZZ"}).panel.symbols == ("BBB",)
    (folder / "AAA.csv").write_text("damaged")
    assert panel_of_files(folder, tmp_path / "cache", {"BBB"}).panel.symbols == ("BBB",)  # the other is not even read
    long = tmp_path / "long.csv"
    long.write_text("symbol," + HEADER + "AAA,2024-01-02,1,2,1,2,5\nBBB,2024-01-02,1,2,1,2,5\n")
    assert panel_of_files(long, tmp_path / "cache", {"AAA"}).panel.symbols == ("AAA",)
    both = panel_of_files(long, tmp_path / "cache")
    assert both.mapped and both.panel.symbols == ("AAA", "BBB")


def test_what_a_judge_takes_out_is_remembered_apart_from_the_raw_bars(folder: Path, tmp_path: Path) -> None:
    def cheap_only(bars: Mapping[str, BarColumns]) -> Judged:
        kept = {s: own.rows(own.close < 12) for s, own in bars.items()}
        return Judged(kept, {"DEAR": 2}, lasting=True)

    for mapped in (False, True):
        found = panel_of_files(folder, tmp_path / "cache", judge=cheap_only, judged="cheap")
        assert (found.mapped, dict(found.removed), found.panel.symbols) == (mapped, {"DEAR": 2}, ("AAA",))
        assert found.panel.length.tolist() == [2]
    assert panel_of_files(folder, tmp_path / "cache").panel.length.tolist() == [3, 1]


def test_a_judgement_of_today_is_not_kept(folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        found = panel_of_files(folder, tmp_path / "cache", judge=lambda bars: Judged(bars, {}, lasting=False))
        assert not found.mapped


def test_two_bars_of_one_session_are_refused_in_words(folder: Path, tmp_path: Path) -> None:
    with (folder / "AAA.csv").open("a") as file:
        file.write("2024-01-03,1,2,1,2,5\n")
    with pytest.raises(DataError, match="AAA") as caught:
        panel_of_files(folder, tmp_path / "cache")
    assert caught.value.code == "BARS_DUPLICATE"
