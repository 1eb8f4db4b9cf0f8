"""The drills' small server against the embedded venue's: the same routes, the same answers, the same faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from core.clock import SteppedClock
from core.market.real import BarsMarket
from core.market_calendar import MarketCalendar
from execution.venue.faults import Fault, FaultPlan
from execution.venue.host import VenueHost
from execution.venue.server import EmbeddedVenue
from tests.venue.conftest import DAYS, KEYS, at, columns

FLAT = (20.0, 20.0, 20.0, 20.0)
POST = "POST /v2/orders"
LIMIT = {"symbol": "AAA", "qty": "5", "side": "buy", "type": "limit", "time_in_force": "ioc", "limit_price": "21"}
STOP = {"symbol": "AAA", "qty": "5", "side": "sell", "type": "stop", "time_in_force": "gtc", "stop_price": "15"}


class Desk:
    """One venue, its clock, and a client."""

    def __init__(self, url: str, clock: SteppedClock, failures: Callable[[], list[str]]) -> None:
        self.url, self.clock, self.failures = url, clock, failures
        self.session = requests.Session()
        self.session.headers.update(KEYS)

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        return self.session.request(method, self.url + path, timeout=5, **more)

    def order(self, name: str, body: dict[str, str] = LIMIT) -> requests.Response:
        return self.ask("POST", "/v2/orders", json={**body, "client_order_id": name})

    def read(self, name: str) -> Any:
        return self.ask("GET", f"/v2/orders:by_client_order_id?client_order_id={name}&nested=true").json()

    def held(self) -> dict[str, str]:
        return {row["symbol"]: row["qty"] for row in self.ask("GET", "/v2/positions").json()}


Open = Callable[..., Desk]


def _market() -> BarsMarket:
    return BarsMarket({"AAA": columns([FLAT] * len(DAYS)), "BBB": columns([FLAT] * len(DAYS))})


@pytest.fixture(params=["embedded", "host"])
def open_desk(
    request: pytest.FixtureRequest, tmp_path: Path, calendar: MarketCalendar, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Open]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    ends: list[Callable[[], None]] = []
    opened: list[Desk] = []

    def make(*faults: Fault) -> Desk:
        clock, plan = SteppedClock(at(DAYS[1], "10:00")), FaultPlan(faults)
        if request.param == "embedded":
            venue = EmbeddedVenue(_market(), clock, tmp_path / "v.sqlite", calendar=calendar, faults=plan)
            desk = Desk(venue.start(), clock, lambda: venue.failures)
            ends.append(venue.stop)
        else:
            host = VenueHost()
            url = host.start()
            store = host.open(_market(), clock, tmp_path / "v.sqlite", calendar=calendar, faults=plan)
            desk = Desk(url, clock, lambda: host.failures)
            ends.extend((store.close, host.stop))
        opened.append(desk)
        return desk

    yield make
    for desk in opened:
        desk.session.close()
        assert desk.failures() == []
    for end in ends:
        end()


REQUESTS: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/v2/account", None), ("GET", "/v2/clock", None), ("GET", "/v2/assets/AAA", None),
    ("GET", "/v2/assets/ZZZ", None), ("POST", "/v2/orders", {**LIMIT, "client_order_id": "one"}),
    ("POST", "/v2/orders", {**LIMIT, "client_order_id": "one"}), ("POST", "/v2/orders", {"symbol": "AAA"}),
    ("POST", "/v2/orders", {**STOP, "client_order_id": "stop"}), ("GET", "/v2/orders?status=all&nested=true", None),
    ("GET", "/v2/orders:by_client_order_id?client_order_id=none", None), ("GET", "/v2/positions/AAA", None),
    ("DELETE", "/v2/orders/11111111-2222-3333-4444-555555555555", None), ("GET", "/v2/orders/nonsense", None),
    ("GET", "/v2/account/activities/FILL?direction=asc", None),
    ("GET", "/v2/stocks/quotes/latest?symbols=AAA%2CBBB", None),
    ("GET", "/v2/nothing", None), ("PUT", "/v2/positions", None), ("DELETE", "/v2/orders", None),
)  # fmt: skip


def test_both_servers_give_the_same_answers(calendar: MarketCalendar, tmp_path: Path) -> None:
    told: list[list[Any]] = []
    for kind in ("embedded", "host"):
        clock = SteppedClock(at(DAYS[1], "10:00"))
        venue: Any = EmbeddedVenue(_market(), clock, tmp_path / f"{kind}.sqlite", calendar=calendar)
        host = VenueHost()
        store = None
        if kind == "host":
            url = host.start()
            store = host.open(_market(), clock, tmp_path / f"{kind}.sqlite", calendar=calendar)
        else:
            url = venue.start()
        desk = Desk(url, clock, list)
        rows = []
        for method, path, body in REQUESTS:
            reply = desk.ask(method, path, json=body)
            rows.append((method, path, reply.status_code, reply.json() if reply.content else None,
                         reply.headers.get("X-Simulated-Venue")))  # fmt: skip
        rows.append(requests.get(url + "/v2/account", timeout=5).status_code)
        told.append(rows)
        desk.session.close()
        if store is not None:
            store.close()
        host.stop()
        venue.stop()
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("kind", "status", "lives"),
    [
        ("status:500", 500, False), ("status:429:2", 429, False), ("status_after:502", 502, True),
        ("status_after:422", 422, True), ("duplicate_id", 422, True), ("html", 200, True), ("empty", 200, True),
        ("redirect", 307, False), ("missing", 404, True), ("reset", None, True), ("reset_before", None, False),
        ("truncate", None, True), ("timeout_after", None, True), ("timeout_before", None, False), ("drip", None, True),
        ("lag:5", 200, True), ("lag:5+reset", None, True), ("identity:qty", 200, True), ("word:strange", 200, True),
    ],
)  # fmt: skip
def test_how_an_answer_goes_wrong(open_desk: Open, kind: str, status: int | None, lives: bool) -> None:
    desk = open_desk(Fault(POST, 1, kind))
    seen: int | None = None
    try:
        body = json.dumps({**LIMIT, "client_order_id": "x"})
        headers = {**KEYS, "Content-Type": "application/json"}
        reply = requests.post(desk.url + "/v2/orders", body, headers=headers, timeout=0.4, allow_redirects=False)
        seen = reply.status_code
        if kind == "status:429:2":
            assert reply.headers["Retry-After"] == "2"
        if kind == "identity:qty":
            assert reply.json()["qty"] == "6"
        if kind == "word:strange":
            assert reply.json()["status"] == "strange"
    except requests.RequestException:
        pass
    assert seen == status
    if kind.startswith("lag"):
        assert "message" in desk.read("x") and desk.ask("GET", "/v2/orders?status=all").json() == []
        desk.clock.sleep(5)
    assert (desk.read("x").get("status") == "filled") is lives


def test_the_number_and_the_side_of_the_request_are_counted(open_desk: Open) -> None:
    desk = open_desk(Fault(POST, 2, "status:500", 2), Fault(f"{POST} sell", 1, "status:503"))
    assert [desk.order(f"b{i}").status_code for i in range(4)] == [200, 500, 500, 200]
    assert [desk.order(f"s{i}", STOP).status_code for i in range(2)] == [503, 200]


def test_lists_and_words_are_changed_and_errors_are_left(open_desk: Open) -> None:
    desk = open_desk(
        Fault("GET /v2/positions", 1, "no_rows"), Fault("GET /v2/account/activities/FILL", 1, "twice"),
        Fault("GET /v2/account/activities/FILL", 2, "full_page"), Fault("GET /v2/clock", 1, "skew:-300"),
        Fault("GET /v2/orders:by_client_order_id", 1, "unfilled"),
        Fault("GET /v2/account/activities/FILL", 3, "backwards"), Fault("GET /v2/assets/ZZZ", 1, "word:new"),
    )  # fmt: skip
    desk.order("one")
    desk.order("two")
    assert desk.held() == {} and desk.held() == {"AAA": "10"}
    fills = [desk.ask("GET", "/v2/account/activities/FILL?direction=asc").json() for _ in range(4)]
    assert list(map(len, fills)) == [4, 100, 2, 2] and fills[2] == fills[3][::-1]
    skewed, right = (desk.ask("GET", "/v2/clock").json()["timestamp"] for _ in range(2))
    assert skewed.startswith("2024-03-05T09:55") and right.startswith("2024-03-05T10:00")
    first, second = desk.read("one"), desk.read("one")
    assert (first["status"], first["filled_qty"]) == ("new", "0")
    assert (second["status"], second["filled_qty"]) == ("filled", "5")
    assert desk.ask("GET", "/v2/assets/ZZZ").status_code == 404


@pytest.mark.parametrize(
    ("kind", "at_once", "later"),
    [
        ("partial:2", ("canceled", "2"), ("canceled", "2")),
        ("late:8", ("canceled", "0"), ("canceled", "5")),
        ("late_filled:8", ("canceled", "0"), ("filled", "5")),
        ("late_rest:8", ("canceled", "1"), ("filled", "5")),
        ("reject_late", ("rejected", "0"), ("rejected", "0")),
    ],
)
def test_what_the_market_does_with_an_order(
    open_desk: Open, kind: str, at_once: tuple[str, str], later: tuple[str, str]
) -> None:
    desk = open_desk(Fault(f"{POST} buy", 1, kind))
    assert desk.order("x").status_code == 200
    seen = desk.read("x")
    assert (seen["status"], seen["filled_qty"]) == at_once
    desk.clock.sleep(7.9)
    assert desk.read("x")["filled_qty"] == at_once[1]
    desk.clock.sleep(0.1)
    seen = desk.read("x")
    assert (seen["status"], seen["filled_qty"]) == later
    assert desk.held() == ({} if later[1] == "0" else {"AAA": later[1]})
    fills = desk.ask("GET", "/v2/account/activities/FILL").json()
    assert sum(int(fill["qty"]) for fill in fills) == int(later[1])


def test_a_late_sell_never_sells_what_another_order_has_claimed(open_desk: Open) -> None:
    desk = open_desk(Fault(f"{POST} sell", 1, "late:8"))
    desk.order("buy")
    desk.order("sell", {**LIMIT, "side": "sell", "limit_price": "19"})
    assert desk.read("sell")["status"] == "canceled"
    assert desk.order("stop", STOP).status_code == 200
    desk.clock.sleep(8)
    assert desk.held() == {"AAA": "5"} and desk.read("sell")["filled_qty"] == "0"


def test_a_cancel_that_is_lost_or_slow(open_desk: Open) -> None:
    desk = open_desk(Fault("DELETE /v2/orders/*", 1, "cancel_slow:3"), Fault("DELETE /v2/orders/*", 2, "cancel_lost"))
    desk.order("buy")
    desk.order("slow", STOP)
    assert desk.ask("DELETE", f"/v2/orders/{desk.read('slow')['id']}").status_code == 204
    assert desk.read("slow")["status"] == "pending_cancel"
    desk.clock.sleep(3)
    assert desk.read("slow")["status"] == "canceled"
    desk.order("lost", STOP)
    assert desk.ask("DELETE", f"/v2/orders/{desk.read('lost')['id']}").status_code == 204
    assert desk.read("lost")["status"] == "filled" and desk.held() == {}


def test_a_mistake_of_the_venue_is_told_and_ends_the_connection(calendar: MarketCalendar, tmp_path: Path) -> None:
    host = VenueHost()
    url = host.start()
    clock = SteppedClock(at(DAYS[1], "10:00"))
    store = host.open(_market(), clock, tmp_path / "v.sqlite", calendar=calendar)
    store.close()  # every request fails from here on
    with pytest.raises(requests.RequestException):
        requests.get(url + "/v2/account", headers=KEYS, timeout=5)
    assert len(host.failures) == 1 and "ProgrammingError" in host.failures[0]
    host.stop()
    host.stop()


@pytest.mark.parametrize("kind", ["nonsense", "lag", "lag:x", "identity:price", "word:", "partial", "reset+nonsense"])
def test_an_unknown_kind_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="unknown fault kind"):
        Fault(POST, 1, kind)
