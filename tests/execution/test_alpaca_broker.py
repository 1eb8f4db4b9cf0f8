"""The adapter on a misbehaving server: always exactly one POST, and the right one of four outcomes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from core.clock import SteppedClock, SystemClock
from core.domain import Purpose, Symbol
from core.errors import BrokerDown, BrokerRejected, ConfigError, OutcomeUnknown, TradingHalted
from execution.alpaca_broker import AlpacaBroker, order_body, parse_instant, parse_order
from tests.execution.broker_contract import approved
from tests.fakes.bad_http import BadServer
from tests.fakes.trading import NOW, Switch, Unbounded, entry, sell

AAA = Symbol("AAA")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def server() -> Iterator[BadServer]:
    made = BadServer()
    yield made
    made.stop()


@pytest.fixture
def halt() -> Switch:
    return Switch()


def broker_at(url: str, halt: Switch, *, total_timeout_s: float = 2.0) -> AlpacaBroker:
    return AlpacaBroker(
        key_id="k",
        secret="s",
        base_url=url,
        data_url=url,
        halt=halt,
        admission=Unbounded(),
        clock=SteppedClock(NOW),
        connect_timeout_s=1.0,
        read_timeout_s=0.5,
        total_timeout_s=total_timeout_s,
    )


@pytest.fixture
def broker(server: BadServer, halt: Switch) -> AlpacaBroker:
    return broker_at(server.url, halt)


def test_an_accepted_order_is_sent_once_with_exact_strings(server: BadServer, broker: AlpacaBroker) -> None:
    order = broker.submit(approved(entry(price="50.10")))
    assert order.client_order_id == entry().client_order_id and order.status == "accepted"
    assert server.posts == [
        {
            "symbol": "AAA",
            "qty": "1",
            "side": "buy",
            "type": "limit",
            "time_in_force": "ioc",
            "limit_price": "50.10",
            "client_order_id": "kobe-20240304-ibs_rsi-AAA-buy-entry-1",
        }
    ]


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("504", "HTTP_504"),
        ("503", "HTTP_503"),
        ("truncated", None),
        ("html", "REPLY_UNREADABLE"),
        ("empty", "REPLY_UNREADABLE"),
        ("redirect", "REDIRECT_REFUSED"),
        ("reset", None),
        ("slow", "ReadTimeout"),
    ],
)
def test_b01_b03_b04_b05_b13_b50_anything_unclear_is_unknown_after_one_post(
    server: BadServer, broker: AlpacaBroker, mode: str, code: str | None
) -> None:
    server.mode = mode
    with pytest.raises(OutcomeUnknown) as caught:
        broker.submit(approved(entry()))
    assert len(server.posts) == 1
    assert code is None or caught.value.code == code
    found = broker.find(entry().client_order_id)
    assert found is not None and found.quantity == 1


def test_b12_a_dripping_reply_is_cut_by_the_total_deadline(server: BadServer, halt: Switch) -> None:
    broker = broker_at(server.url, halt, total_timeout_s=0.3)
    server.mode = "drip"
    started = SystemClock().monotonic()
    with pytest.raises(OutcomeUnknown) as caught:
        broker.submit(approved(entry()))
    assert caught.value.code == "TOTAL_TIMEOUT" and SystemClock().monotonic() - started < 1.5
    assert len(server.posts) == 1


@pytest.mark.parametrize(("mode", "code"), [("403", "BUYING_POWER"), ("wash", "SELF_TRADE"), ("401", "UNAUTHORIZED")])
def test_b10_b11_b24_a_definite_no_is_looked_up_once_and_rejected(
    server: BadServer, broker: AlpacaBroker, mode: str, code: str
) -> None:
    server.mode, server.accepts = mode, False
    with pytest.raises(BrokerRejected) as caught:
        broker.submit(approved(entry()))
    assert caught.value.code == code and len(server.posts) == 1 and len(server.requests) == 1


def test_b09_a_refusal_whose_order_is_live_is_adopted(server: BadServer, broker: AlpacaBroker) -> None:
    server.mode = "403"
    assert broker.submit(approved(entry())).id and len(server.posts) == 1


def test_b06_b07_429_is_not_sent_when_the_look_up_does_not_know_it(server: BadServer, broker: AlpacaBroker) -> None:
    server.mode, server.accepts = "429", False
    with pytest.raises(BrokerDown) as caught:
        broker.submit(approved(entry()))
    assert caught.value.code == "RATE_LIMITED" and len(server.posts) == 1
    server.accepts = True
    assert broker.submit(approved(entry(attempt=2))).client_order_id.endswith("-2")


def test_b08_duplicate_id_adopts_the_same_body_and_refuses_another(server: BadServer, broker: AlpacaBroker) -> None:
    server.mode = "422dup"
    assert broker.submit(approved(entry())).id
    server.reply_changes = {"qty": "9"}
    with pytest.raises(OutcomeUnknown) as caught:
        broker.submit(approved(entry(attempt=2)))
    assert caught.value.code == "DUPLICATE_ID_DIFFERS" and len(server.posts) == 2
    server.accepts = False
    with pytest.raises(OutcomeUnknown) as caught:
        broker.submit(approved(entry(attempt=3)))
    assert caught.value.code == "DUPLICATE_CLIENT_ID"


@pytest.mark.parametrize("change", [{"symbol": "BBB"}, {"qty": "2"}, {"side": "sell"}, {"client_order_id": "x"}])
def test_b14_a_reply_about_another_order_is_identity_mismatch(
    server: BadServer, broker: AlpacaBroker, change: dict[str, str]
) -> None:
    server.reply_changes = dict(change)
    with pytest.raises(OutcomeUnknown) as caught:
        broker.submit(approved(entry()))
    assert caught.value.code == "IDENTITY_MISMATCH"


def test_b23_a_status_never_seen_before_is_still_an_order(server: BadServer, broker: AlpacaBroker) -> None:
    server.reply_changes = {"status": "brand_new_word", "asset_class": "moon_rock"}
    assert broker.submit(approved(entry())).status == "brand_new_word"


def test_b02_connection_refused_is_proved_not_sent(server: BadServer, halt: Switch) -> None:
    with pytest.raises(BrokerDown) as caught:
        broker_at("http://127.0.0.1:9", halt).submit(approved(entry()))
    assert caught.value.code == "NOT_SENT"


def test_b49_tls_failure_is_not_sent_as_a_request(server: BadServer, halt: Switch) -> None:
    with pytest.raises((BrokerDown, OutcomeUnknown)):
        broker_at(server.url.replace("http:", "https:"), halt).submit(approved(entry()))
    assert server.posts == []


def test_p39_the_transport_asks_the_kill_switch_and_liquidation_and_cancels_pass(
    server: BadServer, broker: AlpacaBroker, halt: Switch
) -> None:
    halt.active = True
    with pytest.raises(TradingHalted):
        broker.submit(approved(entry()))
    assert server.posts == []
    broker.cancel("00000000-0000-0000-0000-000000000001")
    assert server.requests == ["DELETE /v2/orders/00000000-0000-0000-0000-000000000001"]
    broker.submit(approved(sell(purpose=Purpose.CLOSE), held=1))
    assert len(server.posts) == 1
    with pytest.raises(TradingHalted):
        broker.submit(approved(entry(attempt=2)))
    assert len(server.posts) == 1


def test_keys_never_reach_an_error(server: BadServer, halt: Switch) -> None:
    broker = AlpacaBroker(
        key_id="KEYID123",
        secret="SECRET456",
        base_url=server.url,
        data_url=server.url,
        halt=halt,
        admission=Unbounded(),
        connect_timeout_s=1,
        read_timeout_s=0.3,
        total_timeout_s=2,
        clock=SteppedClock(NOW),
    )
    server.mode = "reset"
    with pytest.raises(OutcomeUnknown) as caught:
        broker.submit(approved(entry()))
    assert "KEYID" not in repr(caught.value) and "SECRET" not in repr(caught.value)


def test_an_empty_url_would_mean_the_real_broker_and_is_refused(halt: Switch) -> None:
    with pytest.raises(ConfigError):
        broker_at("", halt)


# -- reads --------------------------------------------------------------------------------------------------------


def an_order(number: int, at: datetime) -> dict[str, Any]:
    return {
        "id": f"o{number}",
        "client_order_id": f"c{number}",
        "symbol": "AAA",
        "qty": "1",
        "side": "buy",
        "status": "new",
        "filled_qty": "0",
        "submitted_at": at.isoformat().replace("+00:00", "Z"),
    }


def test_b43_a_full_page_that_repeats_is_not_complete(server: BadServer, broker: AlpacaBroker) -> None:
    page = [an_order(n, NOW) for n in range(500)]
    server.replies["/v2/orders"] = (200, json.dumps(page))
    with pytest.raises(BrokerDown) as caught:
        broker.open_orders()
    assert caught.value.code == "LISTING_INCOMPLETE"
    server.replies["/v2/orders"] = (200, json.dumps(page[:499]))
    assert len(broker.open_orders()) == 499
    server.replies["/v2/orders"] = (200, '{"oops": 1}')
    with pytest.raises(BrokerDown):
        broker.open_orders()


def test_a_read_is_repeated_after_a_quick_failure_but_not_for_ever(server: BadServer, broker: AlpacaBroker) -> None:
    server.replies["/v2/clock"] = (503, "")
    with pytest.raises(BrokerDown):
        broker.clock()
    assert len(server.requests) == 3


def test_b48_numbers_as_strings_nulls_and_shorts(server: BadServer, broker: AlpacaBroker) -> None:
    rows = [
        {"symbol": "AAA", "qty": "1.5E+1", "side": "long", "avg_entry_price": "10.123456789", "market_value": None},
        {"symbol": "BRK.B", "qty": "3", "side": "short", "avg_entry_price": 10},
    ]
    server.replies["/v2/positions"] = (200, json.dumps(rows))
    positions = broker.positions()
    assert positions[AAA].quantity == 15 and positions[AAA].market_value is None
    assert positions[Symbol("BRK.B")].quantity == -3
    server.replies["/v2/positions"] = (200, json.dumps([{"symbol": "AAA", "qty": None, "avg_entry_price": "1"}]))
    with pytest.raises(BrokerDown):
        broker.positions()


def test_b36_a_blocked_or_silent_account_may_not_trade(server: BadServer, broker: AlpacaBroker) -> None:
    flags = {"trading_blocked": False, "account_blocked": False, "trade_suspended_by_user": False}
    good = {"id": "a", "account_number": "PA1", "status": "ACTIVE", "equity": "5", "cash": None, **flags}
    for changes, may in (({}, True), ({"trading_blocked": True}, False), ({"status": "ACCOUNT_CLOSED_PENDING"}, False)):
        server.replies["/v2/account"] = (200, json.dumps({**good, **changes}))
        assert broker.account().may_trade is may
    assert broker.account().cash is None
    del good["trading_blocked"]
    server.replies["/v2/account"] = (200, json.dumps(good))
    assert not broker.account().may_trade


def test_b20_fills_are_paged_and_unique(server: BadServer, broker: AlpacaBroker) -> None:
    row = {
        "id": "f1",
        "order_id": "o",
        "symbol": "AAA",
        "side": "sell_short",
        "qty": "2",
        "price": "1.5",
        "transaction_time": "2024-03-05T15:00:00.123456789Z",
    }
    server.replies["/v2/account/activities/FILL"] = (200, json.dumps([row, row]))
    (fill,) = broker.fills(NOW)
    assert (fill.quantity, fill.price, fill.side) == (2, Decimal("1.5"), "sell")
    assert broker.fills(NOW + timedelta(hours=1)) == ()
    server.replies["/v2/account/activities/FILL"] = (200, json.dumps([{**row, "id": f"f{n}"} for n in range(100)]))
    with pytest.raises(BrokerDown):
        broker.fills(NOW)


def test_quotes_leave_out_what_is_missing_and_read_zero_as_an_empty_side(
    server: BadServer, broker: AlpacaBroker
) -> None:
    quoted = {"AAA": {"t": "2024-03-05T15:00:00Z", "bp": 0, "ap": 50.01}, "BBB": {"bp": 1}}
    server.replies["/v2/stocks/quotes/latest"] = (200, json.dumps({"quotes": quoted}))
    server.replies["/v2/stocks/trades/latest"] = (200, json.dumps({"trades": {"AAA": {"p": 50.0}}}))
    found = broker.quotes([AAA, Symbol("BBB"), Symbol("CCC")])
    assert set(found) == {AAA}
    assert (found[AAA].bid, found[AAA].ask, found[AAA].last) == (None, Decimal("50.01"), Decimal("50.0"))


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [("Z", 0), (".5Z", 500_000), (".35Z", 350_000), (".337646391Z", 337_646), (".000000001+00:00", 0)],
)
def test_instants_with_none_to_nine_digits(text: str, microsecond: int) -> None:
    assert parse_instant(f"2024-03-05T15:00:00{text}") == datetime(2024, 3, 5, 15, 0, 0, microsecond, tzinfo=UTC)


def test_an_instant_without_zone_is_refused_and_an_offset_converted() -> None:
    assert parse_instant("2024-03-05T10:00:00-05:00") == NOW
    with pytest.raises(ValueError, match="RFC 3339"):
        parse_instant("2024-03-05T10:00:00")


def test_bodies_of_every_kind() -> None:
    assert order_body(sell(purpose=Purpose.CLOSE))["type"] == "market"
    assert "limit_price" not in order_body(sell(purpose=Purpose.CLOSE))


def test_what_is_no_order_is_refused() -> None:
    bad: tuple[Any, ...] = (
        None,
        [],
        {},
        {"id": "1"},
        {**an_order(1, NOW), "side": "sideways"},
        {**an_order(1, NOW), "qty": "NaN"},
    )
    for raw in bad:
        with pytest.raises((ValueError, KeyError)):
            parse_order(raw)
