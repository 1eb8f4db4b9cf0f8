"""The panel: left-aligned own bars, cut without look-ahead, one basis per session, an identity that is content only."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from core.bars_io import BarColumns, Split, to_day
from core.panel import Panel, adjust_for_splits, snapshot_sha256

D1 = date(2024, 1, 2)
FIELDS = ("open", "high", "low", "close", "volume")


def day(k: int) -> date:
    return D1 + timedelta(days=k)


def bars(*days: int, base: float = 100.0) -> BarColumns:
    at = np.array(days, dtype=np.float64)
    close = base + at
    dates = np.array([to_day(day(k)) for k in days], dtype=np.int32)
    return BarColumns(dates, close - 0.5, close + 1, close - 1, close, 1000.0 + at)


@pytest.fixture
def panel() -> Panel:
    return Panel.from_bars({"B": bars(0, 1, 2, 3), "A": bars(1, 3, base=50), "C": bars(2, base=10), "E": bars()})


def test_bars_stand_from_row_0_and_symbols_are_sorted(panel: Panel) -> None:
    assert panel.symbols == ("A", "B", "C")  # one without bars has no column
    assert panel.sessions.tolist() == [to_day(day(k)) for k in range(4)]
    assert panel.length.tolist() == [2, 4, 1]
    assert panel.close.shape == (4, 3)
    assert panel.close[:2, 0].tolist() == [51.0, 53.0] and np.isnan(panel.close[2:, 0]).all()
    assert panel.session_index[:, 0].tolist() == [1, 3, -1, -1]
    for f in FIELDS:
        block = getattr(panel, f)
        assert block.dtype == np.float64 and block.flags.c_contiguous
    assert panel.session_index.dtype == panel.length.dtype == panel.sessions.dtype == np.int32


def test_no_bars_at_all_is_an_empty_panel() -> None:
    empty = Panel.from_bars({"A": bars()})
    assert empty.symbols == () and empty.symbols_with(D1) == 0
    assert empty.truncated(D1).close.shape == (0, 0)
    assert snapshot_sha256(empty) == snapshot_sha256(Panel.from_bars({}))


@pytest.mark.parametrize("days", [(0, 0), (1, 0)])
def test_dates_that_do_not_increase_are_our_own_mistake(days: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="A: dates"):
        Panel.from_bars({"A": bars(*days)})


@pytest.mark.parametrize("k", [-1, 0, 1, 2, 3, 9])
def test_truncated_equals_a_panel_built_from_what_was_known(panel: Panel, k: int) -> None:
    known = {
        "A": bars(*[d for d in (1, 3) if d <= k], base=50),
        "B": bars(*[d for d in range(4) if d <= k]),
        "C": bars(*[d for d in (2,) if d <= k], base=10),
    }
    cut = panel.truncated(day(k))
    assert cut.symbols == panel.symbols  # a symbol without bars yet keeps its column
    assert cut.length.tolist() == [len(known[s]) for s in cut.symbols]
    present = [s for s in cut.symbols if len(known[s])]
    assert snapshot_sha256(cut.select(present)) == snapshot_sha256(Panel.from_bars(known))
    assert (cut is panel) is (k >= 3)


def test_changing_the_future_changes_nothing_before_it(panel: Panel) -> None:
    longer = {"B": bars(*range(6)), "A": bars(1, 3, 5, base=50), "C": bars(2, 4, base=10)}
    other = Panel.from_bars(longer)
    assert snapshot_sha256(other.truncated(day(3))) == snapshot_sha256(panel)


def test_select_takes_the_asked_order_and_is_a_copy(panel: Panel) -> None:
    chosen = panel.select(["C", "A"])
    assert chosen.symbols == ("C", "A") and chosen.length.tolist() == [1, 2]
    assert chosen.sessions.tolist() == panel.sessions.tolist()
    chosen.close[0, 0] = -1
    assert panel.close[0, 2] == 12.0
    with pytest.raises(KeyError):
        panel.select(["ZZZ"])


def test_who_has_the_session_as_its_last_bar(panel: Panel) -> None:
    assert panel.symbols_with(day(3)) == 2
    assert panel.without(day(3)) == ("C",)
    assert panel.symbols_with(day(2)) == 1  # B has a bar of it, but a newer one too
    assert panel.symbols_with(day(7)) == 0


def test_a_split_divides_prices_before_its_ex_date_and_multiplies_volume(panel: Panel) -> None:
    own = adjust_for_splits(panel.select(panel.symbols), [Split("B", day(2), 4.0)], day(3))
    b = own.symbols.index("B")
    assert own.close[:4, b].tolist() == [25.0, 25.25, 102.0, 103.0]
    assert own.open[0, b] == 99.5 / 4 and own.high[0, b] == 101 / 4 and own.low[0, b] == 99 / 4
    assert own.volume[:4, b].tolist() == [4000.0, 4004.0, 1002.0, 1003.0]
    assert own.close[0, 0] == 51.0  # nobody else's


def test_several_splits_multiply_and_a_reverse_split_raises_prices(panel: Panel) -> None:
    splits = [Split("B", day(1), 2.0), Split("B", day(3), 0.1), Split("ZZZ", day(1), 2.0)]
    b = adjust_for_splits(panel.select(["B"]), splits, day(3)).close[:4, 0]
    assert b == pytest.approx([100 / 0.2, 101 / 0.1, 102 / 0.1, 103.0], rel=1e-15)


@pytest.mark.parametrize(("upto", "first"), [(2, 100.0), (3, 50.0)])
def test_a_split_after_the_basis_session_is_not_known_yet(panel: Panel, upto: int, first: float) -> None:
    own = adjust_for_splits(panel.select(["B"]), [Split("B", day(3), 2.0)], day(upto))
    assert own.close[0, 0] == first


def test_a_split_on_a_day_without_a_bar_still_counts(panel: Panel) -> None:
    own = adjust_for_splits(panel.select(["A"]), [Split("A", day(2), 2.0)], day(3))
    assert own.close[:2, 0].tolist() == [25.5, 53.0]


def test_the_snapshot_is_content_not_layout_and_sees_every_number(panel: Panel) -> None:
    again = panel.select(panel.symbols)
    assert snapshot_sha256(again) == snapshot_sha256(panel)
    for f in FIELDS:
        touched = panel.select(panel.symbols)
        getattr(touched, f)[0, 1] += 1e-9
        assert snapshot_sha256(touched) != snapshot_sha256(panel)
    assert snapshot_sha256(panel.select(["A", "C", "B"])) != snapshot_sha256(panel)
