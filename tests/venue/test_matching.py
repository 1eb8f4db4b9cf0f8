"""What fills, when, at what price: the venue's exchange over hand-written bars."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.market.base import SplitEvent
from execution.venue.server import read_meta

from .conftest import DAYS, OpenDesk, at

FLAT = (20.0, 21.0, 19.0, 20.0)
QUIET = {"AAA": [FLAT, FLAT, FLAT, FLAT, FLAT, FLAT]}


def test_ioc_buy_fills_at_the_ask_and_the_post_reply_is_not_the_result(open_desk: OpenDesk) -> None:
    desk = open_desk(QUIET, start=at(DAYS[1], "09:30"))
    reply = desk.order(
        symbol="AAA", qty=3, side="buy", type="limit", time_in_force="ioc", limit_price=20.10, client_order_id="one"
    )
    assert (reply["status"], reply["filled_qty"], reply["filled_avg_price"]) == ("pending_new", "0", None)
    done = desk.read("one")
    assert (done["status"], done["filled_qty"], done["filled_avg_price"]) == ("filled", "3", "20.01")
    position = desk.get("/v2/positions/AAA")
    assert (position["qty"], position["avg_entry_price"]) == ("3", "20.01")
    assert desk.get("/v2/account")["cash"] == "99939.97"


@pytest.mark.parametrize(("limit", "status", "filled"), [(20.00, "canceled", "0"), (20.01, "filled", "3")])
def test_ioc_below_the_ask_is_canceled_and_at_the_ask_fills(
    open_desk: OpenDesk, limit: float, status: str, filled: str
) -> None:
    desk = open_desk(QUIET, start=at(DAYS[1], "09:30"))
    done = desk.buy("AAA", 3, limit)
    assert (done["status"], done["filled_qty"]) == (status, filled)
    assert len(desk.get("/v2/positions")) == (1 if filled == "3" else 0)


def test_ioc_of_a_halted_symbol_or_a_closed_market_is_canceled(open_desk: OpenDesk) -> None:
    desk = open_desk({"AAA": [FLAT, None, FLAT]})
    assert desk.buy("AAA", 1, 30)["status"] == "canceled"
    desk.clock.set(at(DAYS[1], "16:00"))
    reply = desk.order(
        symbol="AAA", qty=1, side="buy", type="limit", time_in_force="ioc", limit_price=30, client_order_id="late"
    )
    assert reply["status"] == "accepted"
    assert desk.read("late")["status"] == "canceled"


@pytest.mark.parametrize(
    ("bar", "price", "leg"),
    [
        ((20.0, 20.4, 17.5, 19.0), "18", "stop"),  # through the stop in the session
        ((17.0, 19.0, 16.5, 18.5), "17", "stop"),  # opened below it
        ((20.0, 23.0, 19.5, 22.0), "22.5", "target"),
        ((24.0, 25.0, 23.5, 24.5), "24", "target"),  # opened above it
        ((20.0, 22.4, 18.1, 20.0), None, ""),
    ],
)
def test_oco_over_night_fills_one_leg_and_cancels_the_other(
    open_desk: OpenDesk, bar: Any, price: str | None, leg: str
) -> None:
    desk = open_desk({"AAA": [FLAT, (20.0, 20.5, 19.5, 20.0), bar]}, fills="at_open")
    desk.buy("AAA", 3, 20.10)
    placed = desk.oco("AAA", 3, 22.5, 18.0)
    assert placed["order_class"] == "oco" and placed["legs"][0]["status"] == "held"
    desk.clock.set(at(DAYS[2], "16:30"))
    parent = desk.read("oco")
    statuses = {"target": parent["status"], "stop": parent["legs"][0]["status"]}
    if price is None:
        assert statuses == {"target": "new", "stop": "held"}
        return
    other = "stop" if leg == "target" else "target"
    assert statuses == {leg: "filled", other: "canceled"}
    fills = desk.get("/v2/account/activities/FILL", direction="asc")
    assert [fill["price"] for fill in fills] == ["20", price]
    assert desk.get("/v2/positions") == []


def test_a_bar_that_touches_stop_and_target_is_a_loss_in_the_idealised_venue(open_desk: OpenDesk) -> None:
    # The bar opens above the target already, and still the daily rule looks at the stop first.
    desk = open_desk({"AAA": [FLAT, FLAT, (24.0, 25.0, 17.0, 20.0)]}, fills="at_open")
    desk.buy("AAA", 1, 20.10)
    desk.oco("AAA", 1, 22.5, 18.0)
    desk.clock.set(at(DAYS[2], "16:30"))
    assert desk.get("/v2/account/activities/FILL")[0]["price"] == "18"


def test_stop_may_fill_on_the_entry_session_itself(open_desk: OpenDesk) -> None:
    desk = open_desk({"AAA": [FLAT, (20.0, 20.5, 17.0, 19.0)]}, fills="at_open")
    assert desk.buy("AAA", 1, 20.0)["filled_avg_price"] == "20"
    desk.oco("AAA", 1, 22.5, 18.0)
    desk.clock.set(at(DAYS[1], "09:44"))
    assert desk.get("/v2/positions") != []
    desk.clock.set(at(DAYS[1], "09:45"))
    assert desk.get("/v2/positions") == []
    fill = desk.get("/v2/account/activities/FILL")[0]
    assert (fill["price"], fill["transaction_time"]) == ("18", "2024-03-05T14:45:00Z")


def test_idealised_quotes_are_the_open_until_0945_and_the_close_from_1545(open_desk: OpenDesk) -> None:
    desk = open_desk({"AAA": [FLAT, (20.123456, 22.0, 18.0, 21.7)]}, fills="at_open", start=at(DAYS[1], "09:30"))

    def quote(clock: str) -> tuple[float, float]:
        desk.clock.set(at(DAYS[1], clock))
        row = desk.get("/v2/stocks/quotes/latest", symbols="AAA")["quotes"]["AAA"]
        return row["bp"], row["ap"]

    assert quote("09:35") == (20.123456, 20.123456)
    assert quote("09:45") == (18.0, 18.0)
    assert quote("15:44") == (22.0, 22.0)
    assert quote("15:45") == (21.7, 21.7)


def test_path_quotes_straddle_the_price_and_end_on_the_close(open_desk: OpenDesk) -> None:
    desk = open_desk({"AAA": [FLAT, (20.0, 22.0, 18.0, 21.7)]}, start=at(DAYS[1], "15:59"), spread_bps=10)
    row = desk.get("/v2/stocks/quotes/latest", symbols="AAA,NONE")["quotes"]
    assert set(row) == {"AAA"}
    assert row["AAA"]["bp"] == 21.68 and row["AAA"]["ap"] == 21.72
    assert desk.get("/v2/stocks/trades/latest", symbols="AAA")["trades"]["AAA"]["p"] == 21.7
    desk.clock.set(at(DAYS[1], "18:00"))
    assert desk.get("/v2/stocks/quotes/latest", symbols="AAA")["quotes"]["AAA"]["t"] == "2024-03-05T21:00:00Z"


def test_day_orders_expire_at_the_close_and_gtc_ones_rest(open_desk: OpenDesk) -> None:
    desk = open_desk(QUIET)
    for tif in ("day", "gtc"):
        desk.order(
            symbol="AAA", qty=1, side="buy", type="limit", time_in_force=tif, limit_price=15, client_order_id=tif
        )
    assert desk.read("day")["status"] == "new"
    desk.clock.set(at(DAYS[1], "16:00"))
    assert (desk.read("day")["status"], desk.read("day")["expired_at"]) == ("expired", "2024-03-05T21:00:00Z")
    desk.clock.set(at(DAYS[4], "10:00"))
    assert desk.read("gtc")["status"] == "new"
    desk.clock.advance(timedelta(days=91))
    assert desk.read("gtc")["status"] == "expired"


def test_market_order_sent_when_closed_waits_for_the_open(open_desk: OpenDesk) -> None:
    desk = open_desk(QUIET, start=at(DAYS[1], "20:00"), fills="at_open")
    reply = desk.order(symbol="AAA", qty=2, side="buy", type="market", time_in_force="day", client_order_id="m")
    assert reply["status"] == "accepted"
    assert desk.read("m")["status"] == "accepted"
    desk.clock.set(at(DAYS[2], "09:30"))
    done = desk.read("m")
    assert (done["status"], done["filled_at"]) == ("filled", "2024-03-06T14:30:00Z")


def test_split_multiplies_shares_pays_the_fraction_and_cancels_orders(open_desk: OpenDesk) -> None:
    halves = (10.0, 10.5, 9.5, 10.0)
    splits = [SplitEvent("AAA", DAYS[2], 1.5)]  # type: ignore[arg-type]
    desk = open_desk({"AAA": [FLAT, FLAT, halves]}, splits=splits, fills="at_open")
    desk.buy("AAA", 3, 20.0)
    desk.oco("AAA", 3, 30, 15)
    desk.clock.set(at(DAYS[2], "09:35"))
    position = desk.get("/v2/positions/AAA")
    assert (position["qty"], position["avg_entry_price"][:6]) == ("4", "13.333")
    assert desk.get("/v2/orders") == []
    assert desk.read("oco")["status"] == "canceled"
    assert desk.get("/v2/account")["cash"] == "99945"  # 100000 - 60 + half a share at 10
    assert desk.get("/v2/account/activities/SPLIT")[0]["net_amount"] == "5"


def test_ids_and_activity_ids_repeat_from_run_to_run(open_desk: OpenDesk) -> None:
    seen = []
    for name in ("a.sqlite", "b.sqlite"):
        desk = open_desk(QUIET, db=name)
        desk.buy("AAA", 2, 21, name="same")
        oco = desk.oco("AAA", 2, 25, 15)
        fills = desk.get("/v2/account/activities/FILL")
        seen.append((desk.read("same"), oco, fills))
    assert seen[0] == seen[1]
    assert seen[0][1]["legs"][0]["id"] != seen[0][1]["id"]


def test_two_servers_on_one_file_are_one_broker_and_the_file_remembers_its_clock(
    open_desk: OpenDesk, tmp_path: Path
) -> None:
    first = open_desk(QUIET)
    first.buy("AAA", 2, 21)
    second = open_desk(QUIET, start=at(DAYS[1], "12:00"))
    assert second.get("/v2/positions/AAA")["qty"] == "2"
    second.oco("AAA", 2, 25, 15)
    assert len(first.get("/v2/orders")) == 2  # the target and its stop leg
    meta = read_meta(tmp_path / "venue.sqlite")
    assert meta is not None and meta.clock == at(DAYS[1], "12:00")
    assert read_meta(tmp_path / "none.sqlite") is None


def test_a_clock_set_back_plays_nothing(open_desk: OpenDesk) -> None:
    desk = open_desk(QUIET, start=at(DAYS[2], "10:00"))
    desk.clock.set(at(DAYS[1], "10:00"))
    assert desk.get("/v2/clock")["timestamp"].startswith("2024-03-05T10:00")
