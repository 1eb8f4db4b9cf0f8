"""Choosing a universe: every filter on both sides of its limit, and what is refused."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from core.domain import Symbol
from core.errors import ConfigError, DataError
from data.universe.build import (
    Candidate,
    Change,
    Filters,
    Funnel,
    candidates,
    change,
    is_test_name,
    require_plausible,
    to_csv,
)

DAYS = [date(2026, 3, 2) + timedelta(days=n) for n in range(10)]
A, B, C = (Symbol(s) for s in ("AAA", "BBB", "CCC"))


def rows(**volumes: float) -> dict[date, dict[Symbol, Any]]:
    """Every name at 10 USD on all ten days, so many shares."""
    return {day: {Symbol(s): (10.0, 10.0, 10.0, 10.0, v) for s, v in volumes.items()} for day in DAYS}


def chosen(table: dict[date, dict[Symbol, Any]], **limits: Any) -> list[str]:
    names = sorted({s for day in table.values() for s in day})
    return [c.symbol for c in candidates(names, table, Filters(**{"min_dollar_volume_usd": 0.0, **limits}), Funnel())]


def test_the_most_liquid_come_first_and_equal_ones_by_name() -> None:
    assert chosen(rows(AAA=100.0, BBB=900.0, CCC=100.0)) == [B, A, C]


def test_each_limit_itself_passes() -> None:
    table = rows(AAA=100.0)
    assert chosen(table, min_price_usd=10.0) == [A] and chosen(table, min_price_usd=10.01) == []
    assert chosen(table, min_dollar_volume_usd=1000.0) == [A] and chosen(table, min_dollar_volume_usd=1000.1) == []


def test_a_name_must_have_traded_on_nearly_all_sessions_and_on_the_newest() -> None:
    table = rows(AAA=100.0, BBB=100.0, CCC=100.0, **{f"N{n}": 1.0 for n in range(30)})
    del table[DAYS[0]][A]
    del table[DAYS[0]][B], table[DAYS[1]][B]
    del table[DAYS[-1]][C]
    assert [s for s in chosen(table) if s in (A, B, C)] == [A]


def test_the_median_decides_so_that_one_busy_day_makes_nobody_liquid() -> None:
    table = rows(AAA=100.0, BBB=90.0)
    table[DAYS[4]][B] = (10.0, 10.0, 10.0, 10.0, 1e9)
    assert chosen(table) == [A, B]


@pytest.mark.parametrize(("left", "refused"), [(9, False), (8, True), (0, True)])
def test_a_session_of_which_only_a_part_came_is_no_answer(left: int, refused: bool) -> None:
    table = rows(**{f"N{n}": 1.0 for n in range(10)})
    table[DAYS[3]] = dict(list(table[DAYS[3]].items())[:left])
    if refused:
        with pytest.raises(DataError) as caught:
            chosen(table)
        assert caught.value.code == "UNIVERSE_NO_DATA" and str(DAYS[3]) in str(caught.value)
    else:
        assert len(chosen(table)) == 10


def test_the_funnel_tells_every_step() -> None:
    funnel = Funnel()
    found = candidates([A, B, Symbol("ZVZZT")], rows(AAA=100.0, BBB=1.0, ZVZZT=1e9), Filters(), funnel)
    assert found == [] and funnel.counts == {"listed": 2, "traded": 2, "price": 2, "dollar_volume": 0}
    assert isinstance(candidates([A], rows(AAA=1e9), Filters(), Funnel())[0], Candidate)


@pytest.mark.parametrize("name", ["ZVZZT", "ZWZZT", "NTEST", "NTEST.A", "ZVV", "CTEST"])
def test_names_that_exchanges_test_with_are_left_out(name: str) -> None:
    assert is_test_name(name)


@pytest.mark.parametrize("name", ["ZS", "TEST", "NTES", "ZTS", "ZZ", "LTEST.AB"])
def test_real_names_are_not_taken_for_tests(name: str) -> None:
    assert not is_test_name(name)


def test_what_changed_is_told_against_the_list_before() -> None:
    made = change([A, C], [A, B])
    assert made == Change((C,), (B,), 1.0) and str(made) == "1 names added, 1 removed, 100.0% changed"
    assert change([A], []).fraction is None and "no list before" in str(change([A], []))


@pytest.mark.parametrize(
    ("names", "fraction", "accepted", "code"),
    [(400, 0.10, False, ""), (399, 0.0, True, "UNIVERSE_IMPLAUSIBLE"), (0, None, True, "UNIVERSE_IMPLAUSIBLE"),
     (400, 0.1001, False, "UNIVERSE_CHANGED"), (400, 0.1001, True, ""), (400, None, False, "")],
)  # fmt: skip
def test_an_implausible_list_is_never_written(names: int, fraction: float | None, accepted: bool, code: str) -> None:
    symbols = [Symbol(f"N{n}") for n in range(names)]
    try:
        require_plausible(symbols, Change((), (), fraction), min_rows=400, max_change_fraction=0.10, accepted=accepted)
        assert code == ""
    except ConfigError as error:
        assert error.code == code


def test_the_file_keeps_the_order_and_leaves_an_unknown_sector_empty() -> None:
    assert to_csv([B, A], {A: "Energy", C: "Other"}) == b"symbol,sector\nBBB,\nAAA,Energy\n"
