"""What a function of the operator's may look like and return; anything else is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from core.errors import UsageError
from portfolio.backtest.honesty.asked import Answer
from portfolio.backtest.honesty.operators import OperatorStrategy
from tests.portfolio.backtest.honesty import world

DAY = np.datetime64(int(world.days()[50]), "D")
ROW = {"entry_date": DAY, "entry_price": 10.0, "exit_date": DAY + 5, "exit_price": 11.0}


def answer(said: Any) -> Answer:
    found = OperatorStrategy(lambda bars: said, "mine").ask(world.market().only({"AAA"}))
    assert isinstance(found, Answer)
    return found


@pytest.mark.parametrize(
    "stamp",
    [DAY, str(DAY), DAY.item(), pd.Timestamp(DAY), pd.Timestamp(DAY, tz="America/New_York"),
     datetime.combine(DAY.item(), datetime.min.time())],
)  # fmt: skip
def test_dates_of_every_kind(stamp: Any) -> None:
    deal = answer([{**ROW, "entry_date": stamp}]).deals[0]
    assert (deal.entry, deal.symbol, deal.cost_usd) == (int(world.days()[50]), "AAA", None)


@pytest.mark.parametrize("none", [None, np.nan, pd.NaT])
def test_an_empty_exit_is_an_open_trade(none: Any) -> None:
    deal = answer(pd.DataFrame([{**ROW, "exit_date": none, "exit_price": np.nan}])).deals[0]
    assert deal.exit is None and deal.exit_price is None and deal.gross is None


def test_costs_in_dollars_in_basis_points_and_for_all() -> None:
    rows = [{**ROW, "quantity": 3.0, "costs_usd": 0.5}], [{**ROW, "quantity": 3.0, "costs_bps": 20}]
    assert [answer(row).deals[0].cost_usd for row in rows] == [0.5, pytest.approx(0.06)]
    assert answer({"trades": [ROW], "costs_bps": 20}).deals[0].cost_usd == pytest.approx(0.02)


def test_entries_and_exits_are_filled_at_the_next_open() -> None:
    own = world.market().bars["AAA"]
    entries, exits = np.zeros(len(own), bool), np.zeros(len(own), bool)
    entries[[10, 12, -1]], exits[[10, 15]] = True, True
    (deal,) = answer({"entries": entries, "exits": exits, "costs_bps": 10, "quantity": 2}).deals
    assert (deal.signal, deal.entry, deal.exit) == tuple(int(own.dates[k]) for k in (10, 11, 16))
    assert (deal.entry_price, deal.exit_price) == (own.open[11], own.open[16])


@pytest.mark.parametrize(
    ("said", "word"),
    [
        (3.5, "float"),
        (pd.Series([1.0]), "Series"),
        ("buy", "str"),
        ([1, 2], "list"),
        ([{"entry_date": DAY}], "entry_price"),
        ([{**ROW, "foo": 1}], "foo"),
        ([{**ROW, "entry_price": None}], "without an entry"),
        ([{**ROW, "entry_date": "soon"}], "soon"),
        ([{**ROW, "entry_price": "dear"}], "dear"),
        ([{**ROW, "side": "up"}], "'up'"),
        ({"trade": [ROW]}, "trade"),
        ({"labels": []}, "no trades"),
        ({"entries": [True], "exits": [False]}, "420 bars"),
        ({"trades": [ROW], "features": 3}, "features"),
        ({"trades": [ROW], "labels": [{"start": DAY, "end": DAY - 1}]}, "ends before"),
    ],
)
def test_another_answer_is_refused_in_one_line(said: Any, word: str) -> None:
    with pytest.raises(UsageError) as refused:
        answer(said)
    assert refused.value.code == "STRATEGY_RESULT" and word in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("function", [lambda frame: None, lambda: None, 3])
def test_another_shape_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(UsageError) as refused:
        OperatorStrategy(function, "mine")
    assert refused.value.code == "STRATEGY_SHAPE"


def test_what_it_names_is_handed_to_it_and_what_is_absent_is_refused() -> None:
    def told(bars: pd.DataFrame, symbol: str, earnings: pd.DataFrame, *, window: int = 5, fast: bool = True) -> None:
        assert symbol == "AAA" and {"date", "eps_actual"} <= set(earnings) and window == 7 and fast

    mine = OperatorStrategy(told, "mine")
    assert (dict(mine.parameters), mine.names, mine.each_alone) == ({"window": 5}, ("earnings",), True)
    assert isinstance(mine.ask(world.market().only({"AAA"}), {"window": 7}), Answer)
    with pytest.raises(UsageError) as refused:
        OperatorStrategy(lambda bars, weather: None, "mine").ask(world.market())
    assert refused.value.code == "TABLE_ABSENT" and "--table weather=FILE" in refused.value.advice


def test_what_it_prints_and_changes_stays_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    def rough(bars: pd.DataFrame) -> None:
        print("hello")
        bars["close"] = 0.0

    before = world.market().bars["AAA"].close.copy()
    OperatorStrategy(rough, "mine").ask(world.market().only({"AAA"}))
    said = capsys.readouterr()
    assert said.out == "" and "hello" in said.err
    assert np.array_equal(before, world.market().bars["AAA"].close)


def test_membership_is_handed_over_with_open_ends() -> None:
    seen: list[pd.DataFrame] = []
    OperatorStrategy(lambda market, membership: seen.append(membership), "mine").ask(world.market())
    row = seen[0].set_index("symbol").loc["CCC"]
    assert pd.isna(row["end"]) and row["start"].date() == date.fromisoformat(world.date_of(0))
