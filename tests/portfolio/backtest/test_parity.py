"""What changed between two copies of a symbol's bars, and which change a decision is blamed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bars_io import FIELDS, BarColumns, from_day
from portfolio.backtest.parity import CELLS_TOLD, Cause, Change, Group, bar_changes, compare, value_changes, with_leaf
from tests.portfolio.market import columns, rising, weekdays

BARS = columns(rising(40), weekdays(40))


def changed(bars: BarColumns, field: str, row: int, factor: float) -> BarColumns:
    block = getattr(bars, field).copy()
    block[row] *= factor
    return replace(bars, **{field: block})


@given(st.sampled_from(FIELDS), st.integers(0, 39), st.floats(1.001, 3.0))
def test_any_one_cell_that_is_revised_is_named_with_both_words(field: str, row: int, factor: float) -> None:
    found = bar_changes("A", BARS, changed(BARS, field, row, factor))
    assert [(c.cause, c.symbol) for c in found] == [(Cause.BAR_REVISED, "A")]
    assert found[0].key == f"{from_day(int(BARS.dates[row]))} {field}"
    assert float(found[0].then) == getattr(BARS, field)[row] and float(found[0].now) == pytest.approx(
        getattr(BARS, field)[row] * factor
    )


def test_the_same_bars_have_not_changed_also_where_nothing_is_known() -> None:
    unknown = changed(BARS, "volume", 3, np.nan)
    assert bar_changes("A", BARS, BARS) == [] == bar_changes("A", unknown, unknown)
    assert bar_changes("A", None, None) == []


@given(st.integers(2, 40), st.floats(0.05, 20.0).filter(lambda r: abs(r - 1) > 0.01))
def test_all_earlier_prices_times_one_ratio_are_a_split(rows: int, ratio: float) -> None:
    now = BARS
    for field in FIELDS[:4]:
        now = changed(now, field, slice(0, rows), ratio)  # type: ignore[arg-type]
    found = bar_changes("A", BARS, now)
    assert [c.cause for c in found] == [Cause.CORPORATE_ACTION]
    assert float(found[0].now.removeprefix("x ")) == pytest.approx(ratio, rel=1e-5)


def test_a_split_that_begins_in_the_middle_is_a_revision() -> None:
    now = changed(BARS, "close", slice(3, 9), 0.5)  # type: ignore[arg-type]
    found = bar_changes("A", BARS, now)
    assert {c.cause for c in found} == {Cause.BAR_REVISED} and len(found) == CELLS_TOLD + 1
    assert found[-1].key == "1 more cells"


def test_bars_that_came_and_bars_that_went_are_told_apart() -> None:
    short, hole = BARS.rows(np.arange(39)), BARS.rows(np.delete(np.arange(40), 7))
    assert [c.cause for c in bar_changes("A", short, BARS)] == [Cause.BAR_LATE]
    assert [c.cause for c in bar_changes("A", BARS, hole)] == [Cause.BAR_GONE]
    assert [c.cause for c in bar_changes("A", BARS, None)] == [Cause.SYMBOL_MISSING]
    assert [c.cause for c in bar_changes("A", None, BARS)] == [Cause.BAR_LATE]
    both = bar_changes("A", short, hole)
    assert [c.cause for c in both] == [Cause.BAR_LATE, Cause.BAR_GONE]


def test_values_are_named_by_their_dotted_keys() -> None:
    then, now = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "e": 4}
    found = [(c.key, c.then, c.now) for c in value_changes(Cause.CONFIG_CHANGED, then, now)]
    assert found == [("a.c", "2", "5"), ("d", "3", "absent"), ("e", "absent", "4")]
    assert with_leaf(then, "a.c", 9) == {"a": {"b": 1, "c": 9}, "d": 3} and then["a"] == {"b": 1, "c": 2}


# ---------------------------------------------------------------- blame
def change(cause: Cause, symbol: str | None = None) -> Change:
    return Change(cause=cause, symbol=symbol, key="k", then="1", now="2")


def group(cause: Cause, answers: Mapping[str, str], symbol: str | None = None) -> Group:
    return Group((change(cause, symbol),), lambda: answers)


def own(name: str) -> str:
    return name


def test_the_input_that_alone_moves_a_decision_is_its_cause() -> None:
    was = {"A": "buy", "B": "no"}
    groups = [group(Cause.VIX_REVISED, {"A": "buy", "B": "no"}), group(Cause.CONFIG_CHANGED, {"A": "no", "B": "no"})]
    found = compare("d", was, was, {"A": "no", "B": "no"}, groups, own)
    assert [(d.decision, d.cause) for d in found] == [("A", Cause.CONFIG_CHANGED)]


def test_a_symbols_own_bars_are_asked_first() -> None:
    groups = [group(Cause.BAR_REVISED, {"A": "no"}, "Z"), group(Cause.BAR_LATE, {"A": "no"}, "A")]
    found = compare("d", {"A": "buy"}, {"A": "buy"}, {"A": "no"}, groups, own)
    assert [(d.cause, d.symbol) for d in found] == [(Cause.BAR_LATE, "A")]


def test_what_only_changes_together_names_what_changed() -> None:
    groups = [group(Cause.VIX_REVISED, {"A": "buy"}), group(Cause.CONFIG_CHANGED, {"A": "buy"})]
    found = compare("d", {"A": "buy"}, {"A": "buy"}, {"A": "no"}, groups, own)
    assert found[0].cause is Cause.VIX_REVISED and found[0].detail.count("k: 1 -> 2") == 2


def test_without_any_change_a_difference_is_unknown_and_never_equal() -> None:
    assert compare("d", {"A": "x"}, {"A": "x"}, {"A": "y"}, [], own)[0].cause is Cause.UNKNOWN
    assert compare("d", {"A": "x"}, {}, None, [], own)[0].cause is Cause.UNKNOWN
    found = compare("d", {"A": "x"}, {"A": "y"}, None, [], own, stranger=lambda name, was: Cause.CODE_CHANGED)
    assert [d.cause for d in found] == [Cause.CODE_CHANGED]
    assert compare("d", {"A": "x"}, {"A": "x"}, {"A": "x"}, [], own) == []
