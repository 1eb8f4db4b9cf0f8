"""What companies do at the venue: holdings, activities, assets, and the lists that announce it."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from core.domain import ActionKind, CorporateAction, Symbol
from core.market.base import DividendEvent, SplitEvent
from core.market.real import BarsMarket

from .conftest import DAYS, Desk, OpenDesk, at, columns
from .test_contract_alpaca import _schema

FLAT = (20.0, 21.0, 19.0, 20.0)
EX = DAYS[2]
BARS: dict[str, list[Any]] = {
    "AAA": [FLAT] * 6, "FB": [FLAT, FLAT, None, None, None, None], "META": [None, None, FLAT, FLAT, FLAT, FLAT],
    "EXR": [(40.0, 41.0, 39.0, 40.0)] * 6,
}  # fmt: skip


def event(kind: ActionKind, symbol: str, **more: Any) -> CorporateAction:
    return CorporateAction(kind=kind, symbol=Symbol(symbol), ex_date=EX, **more)


def desk_with(open_desk: OpenDesk, *events: CorporateAction, **more: Any) -> Desk:
    market = BarsMarket({s: columns(rows) for s, rows in BARS.items()}, events=events, **more)
    return open_desk(market=market, start=at(DAYS[1], "09:35"))


def held(desk: Desk) -> dict[str, str]:
    return {row["symbol"]: row["qty"] for row in desk.get("/v2/positions")}


def acts(desk: Desk) -> list[tuple[str, str, str, str]]:
    rows = desk.get("/v2/account/activities", category="non_trade_activity", direction="asc")
    return [(row["activity_type"], row["symbol"], row["qty"], row["net_amount"]) for row in rows]


def test_a_rename_moves_the_holding_and_keeps_the_asset_id(open_desk: OpenDesk) -> None:
    desk = desk_with(open_desk, event(ActionKind.RENAME, "FB", other=Symbol("META")))
    desk.buy("FB", 10, 25)
    desk.order(symbol="FB", qty=10, side="sell", type="stop", time_in_force="gtc", stop_price=15, client_order_id="s")
    (before,) = desk.get("/v2/positions")
    desk.clock.set(at(EX, "09:35"))
    (after,) = desk.get("/v2/positions")
    assert (before["symbol"], after["symbol"], after["qty"]) == ("FB", "META", "10")
    assert before["asset_id"] == after["asset_id"] and desk.read("s")["status"] == "canceled"
    assert acts(desk) == [("NC", "FB", "-10", "0"), ("NC", "META", "10", "0")]
    assert desk.get("/v2/assets/FB")["status"] == "inactive"
    assert desk.get(f"/v2/assets/{after['asset_id']}")["symbol"] == "META"
    desk.order(status=422, symbol="FB", qty=1, side="buy", type="limit", time_in_force="ioc", limit_price=25)


@pytest.mark.parametrize(
    ("more", "shares", "cash", "rows"),
    [
        ({"cash_per_share": Decimal("54.20")}, {}, "542", 1),
        ({"other": Symbol("EXR"), "ratio": Fraction("0.895")}, {"EXR": "8"}, "38", 3),  # 0.95 of a share at 40
        ({"other": Symbol("EXR"), "ratio": Fraction(1, 2), "cash_per_share": Decimal("7.80")}, {"EXR": "5"}, "78", 2),
    ],
)
def test_a_merger_pays_in_cash_shares_or_both_under_one_group(
    open_desk: OpenDesk, more: dict[str, Any], shares: dict[str, str], cash: str, rows: int
) -> None:
    desk = desk_with(open_desk, event(ActionKind.MERGER, "AAA", **more))
    desk.buy("AAA", 10, 25)
    before = Decimal(desk.get("/v2/account")["cash"])
    desk.clock.set(at(EX, "09:35"))
    assert held(desk) == shares and Decimal(desk.get("/v2/account")["cash"]) - before == Decimal(cash)
    found = desk.get("/v2/account/activities/MA")
    assert len(found) == rows and len({row["group_id"] for row in found}) == 1


@pytest.mark.parametrize(("cash", "kind"), [("3.10", "redemptions"), (None, "worthless_removals")])
def test_a_delisting_takes_the_shares_with_or_without_proceeds(
    open_desk: OpenDesk, cash: str | None, kind: str
) -> None:
    told = event(ActionKind.DELISTING, "AAA", cash_per_share=None if cash is None else Decimal(cash))
    desk = desk_with(open_desk, told)
    desk.buy("AAA", 10, 25)
    desk.clock.set(at(EX, "09:35"))
    assert held(desk) == {} and acts(desk) == [("REORG", "AAA", "-10", "31" if cash else "0")]
    assert list(desk.get("/v1/corporate-actions", start=str(EX), end=str(EX))["corporate_actions"]) == [kind]


def test_a_spin_off_adds_the_child_and_leaves_the_stop(open_desk: OpenDesk) -> None:
    desk = desk_with(open_desk, event(ActionKind.SPINOFF, "AAA", other=Symbol("EXR"), ratio=Fraction("0.241917")))
    desk.buy("AAA", 10, 25)
    desk.order(symbol="AAA", qty=10, side="sell", type="stop", time_in_force="gtc", stop_price=15, client_order_id="s")
    desk.clock.set(at(EX, "09:35"))
    assert held(desk) == {"AAA": "10", "EXR": "2"} and desk.read("s")["status"] == "new"
    assert acts(desk) == [("SPIN", "EXR", "0", "16.77"), ("SPIN", "EXR", "2", "0")]


def test_thirds_are_thirds(open_desk: OpenDesk) -> None:
    desk = desk_with(open_desk, splits=[SplitEvent(Symbol("AAA"), EX, 1 / 3)])
    desk.buy("AAA", 9, 25)
    desk.clock.set(at(EX, "09:35"))
    assert held(desk) == {"AAA": "3"} and acts(desk) == [("SPLIT", "AAA", "-6", "0")]


def test_an_account_file_of_an_earlier_version_is_read(open_desk: OpenDesk) -> None:
    import sqlite3

    from execution.venue.account import AccountStore

    desk = desk_with(open_desk)
    path = desk.venue._db_path.with_name("old.sqlite")
    database = sqlite3.connect(path)
    database.execute(
        "CREATE TABLE activities (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,"
        " at TEXT NOT NULL, order_id TEXT, symbol TEXT NOT NULL, side TEXT NOT NULL, price TEXT NOT NULL, qty TEXT NOT"
        " NULL, cum_qty TEXT NOT NULL, leaves_qty TEXT NOT NULL, order_status TEXT NOT NULL, net_amount TEXT NOT NULL)"
    )
    database.execute("INSERT INTO activities VALUES (1,'x','SPLIT','2024-03-04T14:30:00+00:00',NULL,'AAA','','0','2',"
                     "'4','0','','0')")  # fmt: skip
    database.commit()
    database.close()
    store = AccountStore(path)
    with store.transaction():
        (old,) = store.activities()
    assert (old.kind, old.group_id, old.description) == ("SPLIT", "", "")
    store.close()


# ---------------------------------------------------------------- the lists
ALL = (
    event(ActionKind.RENAME, "FB", other=Symbol("META")),
    event(ActionKind.SPINOFF, "AAA", other=Symbol("EXR"), ratio=Fraction("0.241917")),
    CorporateAction(kind=ActionKind.MERGER, symbol=Symbol("EXR"), ex_date=DAYS[4], other=Symbol("AAA"),
                    ratio=Fraction("0.7733"), cash_per_share=Decimal("7.80")),
    CorporateAction(kind=ActionKind.MERGER, symbol=Symbol("META"), ex_date=DAYS[5], cash_per_share=Decimal("54.2")),
)  # fmt: skip


def announced(desk: Desk, **query: Any) -> dict[str, Any]:
    found: dict[str, Any] = desk.get("/v1/corporate-actions", **query)
    return found


def test_the_lists_have_the_published_shape_and_page(open_desk: OpenDesk) -> None:
    splits = [SplitEvent(Symbol("AAA"), EX, 4.0), SplitEvent(Symbol("EXR"), EX, 0.125)]
    dividends = [DividendEvent(Symbol("AAA"), EX, 5.0), DividendEvent(Symbol("EXR"), EX, 0.5)]
    desk = desk_with(open_desk, *ALL, splits=splits, dividends=dividends)
    whole = announced(desk, start="2024-03-01", end="2024-04-30", limit=1000)
    _schema("alpaca-data.yaml", "/v1/corporate-actions", "get", "200").validate(whole)
    lists = whole["corporate_actions"]
    assert {kind: len(rows) for kind, rows in lists.items()} == {
        "forward_splits": 1, "reverse_splits": 1, "cash_dividends": 2, "name_changes": 1, "spin_offs": 1,
        "stock_and_cash_mergers": 1, "cash_mergers": 1,
    }  # fmt: skip
    assert {row["symbol"]: row["special"] for row in lists["cash_dividends"]} == {"AAA": True, "EXR": False}
    seen, token = 0, None
    for _ in range(9):
        more = {"page_token": token} if token else {}
        page = announced(desk, start="2024-03-01", end="2024-04-30", limit=3, **more)
        seen += sum(map(len, page["corporate_actions"].values()))
        token = page["next_page_token"]
        if token is None:
            break
    assert seen == 8
    few = announced(desk, start="2024-03-01", end="2024-04-30", types="name_change,cash_merger")["corporate_actions"]
    assert set(few) == {"name_changes", "cash_mergers"}
    named = announced(desk, start="2024-03-01", end="2024-04-30", symbols="META")["corporate_actions"]
    assert set(named) == {"name_changes", "cash_mergers"}
    desk.get("/v1/corporate-actions", want=400, limit="0")
    desk.get("/v1/corporate-actions", want=400, start="yesterday")


def test_a_dividend_is_filed_on_its_pay_date_and_nothing_is_known_too_early(open_desk: OpenDesk) -> None:
    far = DAYS[1] + timedelta(days=11)
    desk = desk_with(open_desk, splits=[SplitEvent(Symbol("AAA"), far, 2.0)],
                     dividends=[DividendEvent(Symbol("AAA"), EX, 5.0)])  # fmt: skip
    assert announced(desk, start="2024-03-01", end="2024-03-10")["corporate_actions"] == {}
    assert set(announced(desk, start="2024-03-01", end="2024-05-01")["corporate_actions"]) == {"cash_dividends"}
    desk.clock.set(at(EX, "09:35"))
    assert "forward_splits" in announced(desk, start="2024-03-01", end="2024-05-01")["corporate_actions"]


def test_the_feed_of_a_running_home_reads_the_venues_lists(open_desk: OpenDesk) -> None:
    from data.corporate_actions import AlpacaActions
    from data.providers.alpaca_eod import AlpacaProvider

    desk = desk_with(open_desk, *ALL, splits=[SplitEvent(Symbol("AAA"), EX, 4.0)],
                     dividends=[DividendEvent(Symbol("AAA"), EX, 5.0)])  # fmt: skip
    feed = AlpacaActions(AlpacaProvider("k", "s", desk.url, desk.clock, name="venue", simulated=True), desk.clock)
    found = feed.actions([Symbol("AAA"), Symbol("FB")], date(2024, 3, 4))
    assert [(a.kind, a.symbol, a.other) for a in found] == [
        (ActionKind.DIVIDEND, "AAA", None), (ActionKind.SPINOFF, "AAA", "EXR"), (ActionKind.SPLIT, "AAA", None),
        (ActionKind.RENAME, "FB", "META"), (ActionKind.MERGER, "EXR", "AAA"),
    ]  # fmt: skip
    assert found[0].cash_per_share == 5 and found[2].ratio == 4
    assert np.isfinite(float(found[4].ratio or 0))
