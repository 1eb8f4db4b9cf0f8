"""The kept bars give back exactly the panel that a scan saw, or say that they cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.bars_io import BarColumns, Split, to_day
from core.errors import DataError
from core.panel import Panel, adjust_for_splits, snapshot_sha256
from data.seen import SeenBars
from tests.portfolio.market import columns, rising, weekdays

DAYS = weekdays(70)
SERIES: Mapping[str, BarColumns] = {name: columns(rising(70, seed=k), DAYS) for k, name in enumerate("ABCD")}


def panel(upto: date, without: Mapping[str, int] | None = None) -> Panel:
    """As known at the close of `upto`; `without`: names that lack their n-th bar."""
    bars = {}
    for name, own in SERIES.items():
        keep = own.dates <= to_day(upto)
        if name in (without or {}):
            keep[(without or {})[name]] = False
        bars[name] = own.rows(keep)
    return Panel.from_bars(bars)


def kept(store: SeenBars, own: Panel, session: date) -> Path:
    return store.write(own, session, snapshot_sha256(own))


def again(store: SeenBars, own: Panel, session: date) -> Panel:
    found = store.read(session, snapshot_sha256(own))
    assert snapshot_sha256(found) == snapshot_sha256(own) and found.complete is own.complete
    return found


def test_a_month_of_sessions_comes_back_and_the_later_files_are_small(tmp_path: Path) -> None:
    store = SeenBars(tmp_path, "polygon")
    month = [day for day in DAYS if (day.year, day.month) == (DAYS[-1].year, DAYS[-1].month)]
    sizes = [kept(store, panel(day), day).stat().st_size for day in month]
    for day in month:
        again(store, panel(day), day)
    assert len(month) > 3 and max(sizes[1:]) < sizes[0] / 4


def test_each_month_stands_alone(tmp_path: Path) -> None:
    store = SeenBars(tmp_path, "polygon")
    paths = {day: kept(store, panel(day), day) for day in DAYS[30:]}
    last = DAYS[-1]
    for day, path in paths.items():
        if day.month != last.month:
            path.unlink()
    again(store, panel(last), last)


def test_late_and_revised_and_split_columns_come_back(tmp_path: Path) -> None:
    store, first, second = SeenBars(tmp_path, "x"), DAYS[-2], DAYS[-1]
    assert first.month == second.month
    kept(store, panel(first, {"A": -1, "B": 20}), first)
    revised = panel(second)
    block = revised.close.copy()
    block[5, 2] *= 1.5
    revised = adjust_for_splits(replace(revised, close=block), [Split("D", DAYS[40], 2.0)], second)
    kept(store, revised, second)
    found = again(store, revised, second)
    assert found.close[5, 2] == block[5, 2] and found.length.tolist() == [70] * 4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.integers(0, 68), st.sampled_from(["open", "high", "low", "close", "volume"]))
def test_no_single_changed_cell_is_taken_for_the_same_history(
    tmp_path_factory: pytest.TempPathFactory, column: int, row: int, field: str
) -> None:
    store = SeenBars(tmp_path_factory.mktemp("seen"), "x")
    kept(store, panel(DAYS[-2]), DAYS[-2])
    own = panel(DAYS[-1])
    block = getattr(own, field).copy()
    block[row, column] = np.nextafter(block[row, column], np.inf)
    own = replace(own, **{field: block})
    kept(store, own, DAYS[-1])
    again(store, own, DAYS[-1])


def test_two_snapshots_of_one_session_are_both_kept(tmp_path: Path) -> None:
    store, day = SeenBars(tmp_path, "x"), DAYS[-1]
    before, after = panel(day, {"C": -1}), panel(day)
    assert kept(store, before, day) != kept(store, after, day)
    again(store, before, day)
    again(store, after, day)
    assert kept(store, after, day) == store.path(day, snapshot_sha256(after))  # once


def test_an_empty_panel_and_a_name_without_bars_come_back(tmp_path: Path) -> None:
    store, day = SeenBars(tmp_path, "x"), DAYS[-1]
    for own in (Panel.from_bars({}), panel(DAYS[-1]).truncated(DAYS[0]), panel(DAYS[0], {"A": 0}).truncated(DAYS[0])):
        kept(store, own, day)
        again(store, own, day)


def test_what_is_not_there_or_not_what_it_was_is_an_error(tmp_path: Path) -> None:
    store, day = SeenBars(tmp_path, "bars:x.csv"), DAYS[-1]
    own = panel(day)
    with pytest.raises(DataError) as absent:
        store.read(day, snapshot_sha256(own))
    assert absent.value.code == "SEEN_ABSENT"
    path = kept(store, own, day)
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[:50], b"", whole.replace(b'"schema":1', b'"schema":9'), b"{}\n" + whole):
        path.write_bytes(damaged)
        with pytest.raises(DataError) as error:
            store.read(day, snapshot_sha256(own))
        assert error.value.code == "SEEN_DAMAGED"


@pytest.mark.parametrize(
    "header", [b'{"schema":9}', b'{"schema":1}', b"{}", b"[1]", b"null", b'"x"',
               b'{"schema":1,"symbols":["A"],"length":[3,4],"digest":[-1]}',
               b'{"schema":1,"symbols":["A"],"length":[3],"digest":[-1]}',
               b'{"schema":1,"symbols":["A"],"length":["x"],"digest":[1]}'],
)  # fmt: skip
def test_a_header_of_another_kind_is_passed_over_and_the_file_before_it_built_upon(
    tmp_path: Path, header: bytes
) -> None:
    store, first, second, third = SeenBars(tmp_path, "x"), *DAYS[-3:]
    assert first.month == second.month == third.month
    whole = kept(store, panel(first), first)
    kept(store, panel(second), second).write_bytes(header + b"\n")
    last = kept(store, panel(third), third)
    again(store, panel(third), third)
    assert last.stat().st_size < whole.stat().st_size / 4, "it adds to the first, it does not begin anew"


def test_a_damaged_file_is_not_built_upon(tmp_path: Path) -> None:
    store = SeenBars(tmp_path, "x")
    kept(store, panel(DAYS[-2]), DAYS[-2]).write_bytes(b"not a header\n")
    kept(store, panel(DAYS[-1]), DAYS[-1])
    again(store, panel(DAYS[-1]), DAYS[-1])
