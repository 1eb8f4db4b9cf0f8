"""Every refusal with the status, code and words a client may rely on."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from execution.venue.faults import Fault, FaultPlan

from .conftest import DAYS, OpenDesk, at

FLAT = (20.0, 21.0, 19.0, 20.0)
ROWS = {"AAA": [FLAT] * 6, "PEN": [(0.50, 0.55, 0.45, 0.50)] * 6}
LIMIT = {"symbol": "AAA", "qty": 1, "side": "buy", "type": "limit", "time_in_force": "day", "limit_price": 15}


@pytest.mark.parametrize(
    ("change", "status", "code", "words"),
    [
        ({"symbol": "FACEBOOK"}, 422, 40010001, 'could not find asset "FACEBOOK"'),
        ({"qty": None}, 422, 40010001, "qty or notional is required"),
        ({"qty": 0}, 422, 42210000, "qty must be > 0"),
        ({"qty": 1.5}, 403, 40310000, 'asset "AAA" is not fractionable'),
        ({"qty": None, "notional": 10}, 403, 40310000, 'asset "AAA" is not fractionable'),
        ({"limit_price": 15.001}, 422, 42210000, "sub-penny increment"),
        ({"limit_price": 0.1 + 0.2, "symbol": "PEN"}, 422, 42210000, "sub-penny increment"),
        ({"limit_price": None}, 422, 40010001, "limit orders require"),
        ({"type": "market"}, 422, 40010001, "market orders require no limit price"),
        ({"type": "stop", "limit_price": None}, 422, 40010001, "stop orders require"),
        ({"type": "stop", "limit_price": None, "stop_price": 25, "time_in_force": "ioc"}, 422, 42210000, "day or gtc"),
        ({"client_order_id": "x" * 129}, 422, 40010001, "128 characters"),
        ({"order_class": "bracket"}, 422, 42210000, "invalid order_class"),
        ({"side": "long"}, 422, 42210000, "invalid side"),
        ({"limit_price": "much"}, 422, 40010001, "invalid limit_price"),
        ({"limit_price": -1}, 422, 42210000, "must be > 0"),
        ({"qty": 10_000}, 403, 40310000, "insufficient buying power"),
        ({"side": "sell"}, 403, 40310000, "insufficient qty available for order (requested: 1, available: 0)"),
    ],
)
def test_orders_that_are_refused(
    open_desk: OpenDesk, change: dict[str, Any], status: int, code: int, words: str
) -> None:
    desk = open_desk(ROWS)
    body = desk.order(status, **{k: v for k, v in {**LIMIT, **change}.items() if v is not None})
    assert body["code"] == code and words in body["message"]
    assert desk.get("/v2/orders", status="all") == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"'])
def test_a_body_that_is_no_order_is_a_400(open_desk: OpenDesk, body: bytes) -> None:
    assert open_desk(ROWS).call("POST", "/v2/orders", 400, data=body)["code"] == 40010000


def test_four_decimals_are_fine_below_a_dollar(open_desk: OpenDesk) -> None:
    open_desk(ROWS).order(**{**LIMIT, "symbol": "PEN", "limit_price": 0.4512})


def test_the_idealised_venue_has_no_tick_rule(open_desk: OpenDesk) -> None:
    open_desk(ROWS, fills="at_open").order(**{**LIMIT, "limit_price": 15.123456})


def test_a_client_order_id_is_unique_for_ever(open_desk: OpenDesk) -> None:
    desk = open_desk(ROWS)
    first = desk.order(**LIMIT, client_order_id="mine")
    desk.call("DELETE", f"/v2/orders/{first['id']}", 204)
    body = desk.order(422, **LIMIT, client_order_id="mine")
    assert body == {"code": 40010001, "message": "client_order_id must be unique"}


def test_shares_held_by_an_order_cannot_be_sold_again(open_desk: OpenDesk) -> None:
    desk = open_desk(ROWS)
    desk.buy("AAA", 5, 25)
    oco = desk.oco("AAA", 3, 25, 15)
    sell = {"symbol": "AAA", "side": "sell", "type": "limit", "time_in_force": "day", "limit_price": 24}
    body = desk.order(403, qty=3, **sell)
    assert (body["available"], body["existing_qty"], body["held_for_orders"]) == ("2", "5", "3")
    assert body["related_orders"] == [oco["id"]]
    desk.order(qty=2, **sell)
    assert desk.get("/v2/positions/AAA")["qty_available"] == "0"
    items = desk.call("DELETE", "/v2/positions", 207)
    assert items[0]["status"] == 403 and items[0]["body"]["existing_qty"] == "5"


def test_wash_trades_are_refused_but_not_against_an_oco(open_desk: OpenDesk) -> None:
    desk = open_desk(ROWS)
    desk.buy("AAA", 5, 25)
    desk.oco("AAA", 2, 25, 15)
    desk.order(**LIMIT, client_order_id="beside the oco")
    low = {"symbol": "AAA", "qty": 1, "side": "sell", "time_in_force": "day"}
    desk.order(**low, type="limit", limit_price=26)  # far from the buy at 15
    body = desk.order(403, **low, type="stop", stop_price=14)
    assert body["code"] == 40310000 and "wash trade" in body["message"]
    open_desk(ROWS, fills="at_open", db="ideal.sqlite")


def test_reads_of_what_is_not_there(open_desk: OpenDesk) -> None:
    desk = open_desk(ROWS)
    unknown = "00000000-0000-4000-8000-000000000000"
    assert desk.get(f"/v2/orders/{unknown}", 404)["message"] == f"order not found for {unknown}"
    assert desk.get("/v2/orders/nonsense", 422)["message"] == "order_id is missing"
    assert desk.get("/v2/orders:by_client_order_id", 404, client_order_id="x")["code"] == 40410000
    assert desk.get("/v2/positions/AAA", 404)["message"] == "position not found: AAA"
    assert desk.get("/v2/assets/NONE", 404)["message"] == "asset not found for NONE"
    assert desk.get("/v2/account/activities/NONE", 422)["message"] == "invalid activity type: NONE"
    assert desk.get("/v2/nothing", 404) == {"message": "endpoint not found."}


def test_a_cancel_too_late_is_a_422(open_desk: OpenDesk) -> None:
    desk = open_desk(ROWS)
    done = desk.buy("AAA", 1, 25)
    body = desk.call("DELETE", f"/v2/orders/{done['id']}", 422)
    assert body == {"code": 42210000, "message": 'order is already in "filled" state'}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/account", {"message": "unauthorized."}),
        ("/v2/stocks/bars?symbols=A&timeframe=1Day", {"message": "unauthorized."}),
        ("/v1/marketstatus/now", "API Key was not provided"),
        ("/v1/models", "authentication_error"),
    ],
)
def test_nothing_is_answered_without_keys(open_desk: OpenDesk, path: str, body: Any) -> None:
    reply = requests.get(open_desk(ROWS).url + path, timeout=10)
    assert reply.status_code == 401
    assert reply.json() == body if isinstance(body, dict) else body in reply.text


def test_inactive_once_it_has_long_not_traded(open_desk: OpenDesk) -> None:
    desk = open_desk({"OLD": [FLAT], "NEW": [None, None, FLAT]}, start=at(DAYS[1], "10:00"))
    assert desk.get("/v2/assets/OLD")["tradable"] is True
    desk.get("/v2/assets/NEW", 404)
    desk.clock.set(at(DAYS[2], "10:00"))
    assert desk.get("/v2/assets/NEW")["tradable"] is True
    desk.clock.set(at(DAYS[5].replace(month=4), "10:00"))
    assert desk.get("/v2/assets/OLD")["status"] == "inactive"
    assert "is not tradable" in desk.order(422, **{**LIMIT, "symbol": "OLD"})["message"]


def test_scripted_faults_hit_the_request_they_name(open_desk: OpenDesk) -> None:
    post = "POST /v2/orders"
    kinds = ["reset", "truncate", "status:503", "status_after:504", "html", "reset_before"]
    plan = FaultPlan([Fault(post, i + 1, kind) for i, kind in enumerate(kinds)])
    desk = open_desk(ROWS, faults=plan)
    live = []
    for i, kind in enumerate(kinds):
        try:
            reply = desk.session.post(desk.url + "/v2/orders", json={**LIMIT, "client_order_id": str(i)}, timeout=5)
            assert kind[0] in "sh" and reply.status_code == {"status": 503, "status_after": 504}.get(
                kind.partition(":")[0], 200
            )
        except requests.RequestException:
            assert kind in ("reset", "truncate", "reset_before")
        lookup = desk.url + f"/v2/orders:by_client_order_id?client_order_id={i}"
        found = desk.session.get(lookup, timeout=5)
        live.append(found.status_code == 200)
    assert live == [True, True, False, True, True, False]
    desk.order(**LIMIT, client_order_id="after the plan")
    with pytest.raises(ValueError, match="unknown fault kind"):
        Fault(post, 1, "nonsense")


@pytest.mark.parametrize(("kind", "status"), [("timeout_before", 404), ("timeout_after", 200)])
def test_a_scripted_silence_before_or_after_the_order_took_effect(open_desk: OpenDesk, kind: str, status: int) -> None:
    desk = open_desk(ROWS, faults=FaultPlan([Fault("POST /v2/*", 1, kind)]))
    with pytest.raises(requests.Timeout):
        desk.session.post(desk.url + "/v2/orders", json={**LIMIT, "client_order_id": "x"}, timeout=0.3)
    desk.get("/v2/orders:by_client_order_id", status, client_order_id="x")
