"""Alpaca's lists read into corporate actions, and several voices made one. Rows have the published shape; ratios and
dates are those of real actions.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from core.bars_io import Dividend, Split
from core.clock import SteppedClock
from core.domain import ActionKind, CorporateAction, Symbol
from core.errors import DataError
from data.corporate_actions import AHEAD, AlpacaActions, StoredActions, VendorSplits, Voices, merged
from data.providers.base import FailureKind, ProviderFailure

FIRST = date(2020, 1, 1)


@dataclass
class Rows:
    """Stands in for AlpacaProvider: its lists, and what was asked."""

    lists: dict[str, list[Any]]
    asked: list[dict[str, Any]] = field(default_factory=list)
    name: str = "alpaca"

    def action_rows(
        self, since: date, until: date, *, types: Collection[str] = (), symbols: Collection[Symbol] = ()
    ) -> dict[str, list[Any]]:
        self.asked.append({"since": since, "until": until, "types": tuple(types), "symbols": set(symbols)})
        return self.lists


def read(lists: dict[str, list[Any]], *symbols: str, today: date, since: date = FIRST) -> list[CorporateAction]:
    clock = SteppedClock(datetime(today.year, today.month, today.day, 15, tzinfo=UTC))
    return list(AlpacaActions(Rows(lists), clock).actions([Symbol(s) for s in symbols], since))


CASES: list[tuple[str, dict[str, Any], str, CorporateAction]] = [
    ("forward_splits", {"symbol": "AAPL", "new_rate": 4, "old_rate": 1, "ex_date": "2020-08-31"}, "AAPL",
     CorporateAction(kind=ActionKind.SPLIT, symbol=Symbol("AAPL"), ex_date=date(2020, 8, 31), ratio=Fraction(4))),
    ("reverse_splits", {"symbol": "GE", "new_rate": 1, "old_rate": 8, "ex_date": "2021-08-02"}, "GE",
     CorporateAction(kind=ActionKind.SPLIT, symbol=Symbol("GE"), ex_date=date(2021, 8, 2), ratio=Fraction(1, 8))),
    ("reverse_splits", {"symbol": "MNTS", "new_symbol": "MNTSD", "new_rate": 1, "old_rate": 50,
                        "ex_date": "2023-08-24"}, "MNTS",
     CorporateAction(kind=ActionKind.SPLIT, symbol=Symbol("MNTS"), ex_date=date(2023, 8, 24), ratio=Fraction(1, 50),
                     other=Symbol("MNTSD"))),
    ("stock_dividends", {"symbol": "MSBC", "rate": 0.05, "ex_date": "2023-05-19"}, "MSBC",
     CorporateAction(kind=ActionKind.SPLIT, symbol=Symbol("MSBC"), ex_date=date(2023, 5, 19), ratio=Fraction(21, 20))),
    ("cash_dividends", {"id": "1", "symbol": "FCF", "rate": 0.125, "ex_date": "2023-05-04",
                        "process_date": "2023-05-19"}, "FCF",
     CorporateAction(kind=ActionKind.DIVIDEND, symbol=Symbol("FCF"), ex_date=date(2023, 5, 4),
                     cash_per_share=Decimal("0.125"))),
    ("spin_offs", {"source_symbol": "T", "source_rate": 1, "new_symbol": "WBD", "new_rate": 0.241917,
                   "ex_date": "2022-04-11"}, "T",
     CorporateAction(kind=ActionKind.SPINOFF, symbol=Symbol("T"), ex_date=date(2022, 4, 11), other=Symbol("WBD"),
                     ratio=Fraction("0.241917"))),
    ("name_changes", {"old_symbol": "FB", "new_symbol": "META", "process_date": "2022-06-09"}, "FB",
     CorporateAction(kind=ActionKind.RENAME, symbol=Symbol("FB"), ex_date=date(2022, 6, 9), other=Symbol("META"))),
    ("cash_mergers", {"acquiree_symbol": "TWTR", "rate": 54.2, "effective_date": "2022-10-28"}, "TWTR",
     CorporateAction(kind=ActionKind.MERGER, symbol=Symbol("TWTR"), ex_date=date(2022, 10, 28),
                     cash_per_share=Decimal("54.2"))),
    ("stock_mergers", {"acquiree_symbol": "LSI", "acquiree_rate": 1, "acquirer_symbol": "EXR", "acquirer_rate": 0.895,
                       "effective_date": "2023-07-20"}, "LSI",
     CorporateAction(kind=ActionKind.MERGER, symbol=Symbol("LSI"), ex_date=date(2023, 7, 20), other=Symbol("EXR"),
                     ratio=Fraction("0.895"))),
    ("stock_and_cash_mergers", {"acquiree_symbol": "MLVF", "acquiree_rate": 1, "acquirer_symbol": "FRBA",
                                "acquirer_rate": 0.7733, "cash_rate": 7.8, "effective_date": "2023-07-18"}, "MLVF",
     CorporateAction(kind=ActionKind.MERGER, symbol=Symbol("MLVF"), ex_date=date(2023, 7, 18), other=Symbol("FRBA"),
                     ratio=Fraction("0.7733"), cash_per_share=Decimal("7.8"))),
    ("redemptions", {"symbol": "ORPHY", "rate": 0.141134, "process_date": "2023-06-13"}, "ORPHY",
     CorporateAction(kind=ActionKind.DELISTING, symbol=Symbol("ORPHY"), ex_date=date(2023, 6, 13),
                     cash_per_share=Decimal("0.141134"))),
    ("worthless_removals", {"symbol": "BLPH", "process_date": "2024-12-19"}, "BLPH",
     CorporateAction(kind=ActionKind.DELISTING, symbol=Symbol("BLPH"), ex_date=date(2024, 12, 19),
                     cash_per_share=Decimal(0))),
    ("rights_distributions", {"source_symbol": "GGN", "new_symbol": "GGN.RT", "rate": 0.25, "ex_date": "2024-05-02"},
     "GGN",
     CorporateAction(kind=ActionKind.SPINOFF, symbol=Symbol("GGN"), ex_date=date(2024, 5, 2), other=Symbol("GGN.RT"),
                     ratio=Fraction(1, 4), price_factor=Fraction(1))),
    ("unit_splits", {"old_symbol": "TPBAU", "new_symbol": "LVRO", "effective_date": "2023-03-01"}, "TPBAU",
     CorporateAction(kind=ActionKind.OTHER, symbol=Symbol("TPBAU"), ex_date=date(2023, 3, 1), other=Symbol("LVRO"))),
    ("reorganizations", {"symbol": "XYZ", "effective_date": "2024-03-01"}, "XYZ",
     CorporateAction(kind=ActionKind.OTHER, symbol=Symbol("XYZ"), ex_date=date(2024, 3, 1))),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "row", "symbol", "wanted"), CASES, ids=[f"{c[0]}-{c[2]}" for c in CASES])
def test_each_list_is_read(kind: str, row: dict[str, Any], symbol: str, wanted: CorporateAction) -> None:
    (found,) = read({kind: [row, row]}, symbol, today=wanted.ex_date)
    assert found == CorporateAction(**{f: getattr(wanted, f) for f in wanted.__slots__} | {"source": "alpaca"})
    assert read({kind: [row]}, "QQQ", today=wanted.ex_date) == []
    if wanted.other is not None:  # asked under its other name it is found as well
        assert [a.symbol for a in read({kind: [row]}, str(wanted.other), today=wanted.ex_date)] == [wanted.symbol]


def test_two_requests_wide_enough_for_dividends_filed_on_their_pay_date() -> None:
    today = date(2024, 3, 5)
    rows = Rows({})
    AlpacaActions(rows, SteppedClock(datetime(2024, 3, 5, 15, tzinfo=UTC))).actions([Symbol("AAPL")], FIRST)
    named, rare = rows.asked
    assert named["symbols"] == {"AAPL"} and named["types"] == () and named["until"] >= today + timedelta(days=60)
    assert rare["symbols"] == set() and "name_change" in rare["types"] and "cash_dividend" not in rare["types"]


def test_only_what_is_in_force_or_near_is_told() -> None:
    row = {"symbol": "AAPL", "new_rate": 4, "old_rate": 1, "ex_date": "2020-08-31"}
    day = date(2020, 8, 31)
    for today, since, told in (
        (day - AHEAD, FIRST, True), (day - AHEAD - timedelta(days=1), FIRST, False), (day, day, False),
        (day, day - timedelta(days=1), True), (day - timedelta(days=4), FIRST, True),  # over a long weekend
    ):  # fmt: skip
        assert bool(read({"forward_splits": [row]}, "AAPL", today=today, since=since)) is told


def test_a_regular_and_a_special_dividend_of_one_day_are_one_drop() -> None:
    rows = [{"id": str(rate), "symbol": "COST", "rate": rate, "ex_date": "2023-12-27"} for rate in (15, 1.02)]
    (found,) = read({"cash_dividends": [*rows, rows[0]]}, "COST", today=date(2023, 12, 27))
    assert found.cash_per_share == Decimal("16.02"), "the same id twice is one dividend"
    foreign = {**rows[0], "currency": "CAD"}
    assert read({"cash_dividends": [foreign]}, "COST", today=date(2023, 12, 27)) == []


def test_a_new_cusip_alone_is_no_rename() -> None:
    row = {"old_symbol": "FB", "new_symbol": "FB", "process_date": "2022-06-09"}
    assert read({"name_changes": [row]}, "FB", today=date(2022, 6, 9)) == []


@pytest.mark.parametrize("change", [{"new_rate": None}, {"new_rate": "nan"}, {"old_rate": 0}, {"ex_date": "soon"},
                                    {"new_rate": True}, {"new_rate": -4}])  # fmt: skip
def test_a_row_of_ours_that_cannot_be_read_makes_the_answer_unknown(change: dict[str, Any]) -> None:
    row = {"symbol": "AAPL", "new_rate": 4, "old_rate": 1, "ex_date": "2020-08-31", **change}
    with pytest.raises(ProviderFailure) as caught:
        read({"forward_splits": [row]}, "AAPL", today=date(2020, 8, 31))
    assert caught.value.kind is FailureKind.MALFORMED
    assert read({"forward_splits": [row, "noise", None]}, "GE", today=date(2020, 8, 31)) == [], "not ours, not read"


# ---------------------------------------------------------------- several voices
@dataclass
class Says:
    told: list[CorporateAction]
    down: bool = False

    def actions(self, symbols: Collection[Symbol], since: date) -> list[CorporateAction]:
        if self.down:
            raise DataError("down", code="X")
        return self.told


def split(ratio: str, source: str, day: date = date(2024, 3, 5)) -> CorporateAction:
    return CorporateAction(kind=ActionKind.SPLIT, symbol=Symbol("A"), ex_date=day, ratio=Fraction(ratio), source=source)


def ask(first: Says, *others: Says) -> list[CorporateAction]:
    return list(Voices(first, others).actions([Symbol("A")], FIRST))


def test_what_two_say_alike_has_two_sources() -> None:
    assert [a.source for a in ask(Says([split("1/3", "alpaca")]), Says([split("0.3333", "polygon")]))] == [
        "alpaca+polygon"
    ]
    against = ask(Says([split("4", "alpaca")]), Says([split("5", "polygon")]))
    assert [a.ratio for a in against] == [4, 5], "both are handed on"
    assert len(ask(Says([split("4", "alpaca")]), Says([split("4", "polygon", date(2024, 3, 6))]))) == 2


def test_the_first_voice_must_answer_unless_another_has_news() -> None:
    with pytest.raises(DataError) as caught:
        ask(Says([], down=True), Says([]))
    assert caught.value.code == "ACTIONS_UNKNOWN"
    assert [a.source for a in ask(Says([], down=True), Says([split("4", "polygon")]))] == ["polygon"]
    assert ask(Says([]), Says([], down=True)) == []
    assert Voices(Says([], down=True)).actions([], FIRST) == [], "nothing held, nothing asked"


def test_a_split_that_is_a_spin_off_elsewhere_is_its_price_factor() -> None:
    """Polygon and Yahoo write GE 2023-01-04 as a split of 1.281."""
    day = date(2023, 1, 4)
    spun = CorporateAction(kind=ActionKind.SPINOFF, symbol=Symbol("A"), ex_date=day, other=Symbol("GEHC"),
                           ratio=Fraction(1, 3), source="alpaca")  # fmt: skip
    (one,) = merged([spun, split("1.281", "polygon", day)])
    assert (one.kind, one.price_factor, one.source) == (ActionKind.SPINOFF, Fraction("1.281"), "alpaca+polygon")
    both = merged([spun, split("1.281", "alpaca", day)])
    assert len(both) == 2, "one source that says both means both"


def test_dividends_that_differ_by_a_hundredth_are_one() -> None:
    def paid(cash: str, source: str) -> CorporateAction:
        return CorporateAction(kind=ActionKind.DIVIDEND, symbol=Symbol("A"), ex_date=date(2024, 3, 5), source=source,
                               cash_per_share=Decimal(cash))  # fmt: skip

    assert len(merged([paid("1.00", "a"), paid("1.01", "b")])) == 1
    assert len(merged([paid("1.00", "a"), paid("1.02", "b")])) == 2


def test_the_store_and_a_vendor_are_voices() -> None:
    class Store:
        def read_actions(self) -> tuple[list[Split], list[Dividend]]:
            return (
                [Split("A", date(2024, 3, 5), 1 / 3), Split("B", date(2024, 3, 5), 2.0), Split("A", FIRST, 2.0)],
                [Dividend("A", date(2024, 3, 5), 0.25), Dividend("A", FIRST, 9.0)],
            )

    found = StoredActions(Store(), "polygon store").actions([Symbol("A")], FIRST)
    assert {(a.kind, a.ratio, a.cash_per_share) for a in found} == {
        (ActionKind.SPLIT, Fraction(1, 3), None), (ActionKind.DIVIDEND, None, Decimal("0.25")),
    }  # fmt: skip

    class Vendor:
        name = "polygon"

        def splits(self, since: date, until: date, symbols: Collection[Symbol]) -> list[Split]:
            assert (since, until) == (FIRST, date(2024, 3, 5) + AHEAD)
            return [Split("A", date(2024, 3, 7), 4.0)]

    vendor: Any = Vendor()
    clock = SteppedClock(datetime(2024, 3, 5, 15, tzinfo=UTC))
    (one,) = VendorSplits(vendor, clock).actions([Symbol("A")], FIRST)
    assert (one.ratio, one.source) == (4, "polygon")
