"""What can go wrong with one POST: the production desk and adapter against a server that misbehaves on schedule.

In every test the server counts: one decision is at most one POST, whatever it answers.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from core import logs
from core.domain import Symbol
from core.errors import BrokerDown, OutcomeUnknown, StateCorrupt
from execution.alpaca_broker import retry_after_s
from execution.desk import Acknowledged, NotSent, Rejected, Unknown
from risk.gate import Refused
from tests.fakes.trading import NOW, TODAY, book, entry, quote, sell
from tests.faults.wired import FILLS, ORDERS, POSITIONS, Wired, execution, holding, wired

AAA = Symbol("AAA")
CID = entry().client_order_id


def told(name: str) -> int:
    return sum(n for (metric, _), n in logs.counters().items() if metric == name)


def check_unknown_then_adopted(w: Wired, outcome: Any) -> None:
    """UNKNOWN keeps reservation and slot, locks the symbol, is never posted again; the broker's copy settles it."""
    assert isinstance(outcome, Unknown)
    ledger = w.desk.ledger()
    assert ledger.spent_usd(TODAY) == entry().notional_usd and ledger.locked[AAA].startswith("UNKNOWN")
    again = w.desk.send(entry(attempt=2), book())
    assert isinstance(again, Refused) and "SYMBOL_LOCKED" in again.codes
    w.ends(CID, "filled", 1)
    w.tells(POSITIONS, [holding("AAA", 1)])
    assert w.restart().settle().adopted == (CID,)
    ledger = w.desk.ledger()
    assert ledger.positions == {AAA: 1} and not ledger.locked and len(w.server.posts) == 1


@pytest.mark.parametrize("mode", ["slow", "drip"])
def test_B01_B12_no_reply_in_time_is_unknown_and_adopted_by_its_id(tmp_path: Path, mode: str) -> None:
    with wired(tmp_path, total_timeout_s=0.6) as w:
        w.server.mode = mode
        check_unknown_then_adopted(w, w.desk.send(entry(), book()))


@pytest.mark.parametrize("mode", ["reset", "truncated", "html", "empty"])
def test_B03_B13_a_reply_cut_or_garbled_is_unknown_and_adopted_by_its_id(tmp_path: Path, mode: str) -> None:
    with wired(tmp_path) as w:
        w.server.mode = mode
        check_unknown_then_adopted(w, w.desk.send(entry(), book()))


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520])
def test_B04_B05_a_server_error_proves_nothing_and_nobody_resends(tmp_path: Path, status: int) -> None:
    with wired(tmp_path) as w:
        w.server.mode, w.server.answer = "answer", (status, "<html>busy</html>", {})
        check_unknown_then_adopted(w, w.desk.send(entry(), book()))


def test_B02_a_refused_connection_is_not_sent_and_goes_again_under_its_id(tmp_path: Path) -> None:
    with wired(tmp_path) as w, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        w.restart(url=f"http://127.0.0.1:{nobody.getsockname()[1]}")
        outcome = w.desk.send(entry(), book())
        assert isinstance(outcome, NotSent) and w.server.posts == []
        assert w.desk.ledger().spent_usd(TODAY) == 0 and not w.desk.ledger().locked
        w.restart()
        assert isinstance(w.desk.send(entry(), book()), Acknowledged)
        assert [post["client_order_id"] for post in w.server.posts] == [CID]


# ---------------------------------------------------------------- 429
def test_B06_a_429_is_verified_waited_out_as_told_and_tried_once_more(tmp_path: Path) -> None:
    with wired(tmp_path) as w:
        w.forgets()
        w.server.mode, w.server.answer = "answer", (429, "{}", {"Retry_After": "3"})
        before = w.clock.now()
        outcome, _ = w.desk.execute(entry(), book(), wait_s=0.0)
        assert isinstance(outcome, NotSent) and (outcome.code, len(w.server.posts)) == ("RATE_LIMITED", 2)
        assert 3 <= (w.clock.now() - before).total_seconds() < 4
        assert {post["client_order_id"] for post in w.server.posts} == {CID}
        looked = [r for r in w.server.requests if "by_client_order_id" in r]
        assert len(looked) == 2 and w.desk.ledger().spent_usd(TODAY) == 0


def test_B06_a_429_whose_order_is_live_is_adopted(tmp_path: Path) -> None:
    with wired(tmp_path) as w:
        w.server.mode, w.server.answer = "answer", (429, "{}", {"Retry_After": "3"})
        assert isinstance(w.desk.send(entry(), book()), Acknowledged) and len(w.server.posts) == 1


def test_B07_a_wait_longer_than_the_patience_is_left_and_told(tmp_path: Path) -> None:
    with wired(tmp_path) as w:
        w.forgets()
        w.server.mode, before = "429", told("order_not_sent")  # Retry-After: a day
        outcome, order = w.desk.execute(entry(), book(), wait_s=0.0)
        assert isinstance(outcome, NotSent) and len(w.server.posts) == 1
        assert order is not None and order.end == "not_sent" and told("order_not_sent") == before + 1


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "86400"}, 3600.0),
        ({"Retry-After": "-5"}, 1.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1.0),
        ({"Retry-After": "nan"}, 1.0),
        ({"Retry-After": "inf"}, 1.0),
        ({"Retry-After": "0"}, 0.1),
        ({"X-RateLimit-Reset": str(NOW.timestamp() + 5)}, 5.0),
        ({"X-RateLimit-Reset": str(NOW.timestamp() - 5)}, 1.0),
        ({}, 1.0),
    ],
)
def test_B07_absurd_waiting_times_are_bounded(headers: dict[str, str], expected: float) -> None:
    assert retry_after_s(headers, NOW) == pytest.approx(expected, abs=0.01)


# ---------------------------------------------------------------- refusals
def test_B08_an_id_that_exists_with_our_body_is_ours(tmp_path: Path) -> None:
    with wired(tmp_path) as w:
        w.server.mode = "422dup"
        outcome = w.desk.send(entry(), book())
        assert isinstance(outcome, Acknowledged) and outcome.order.client_order_id == CID


def test_B08_an_id_that_exists_with_another_body_halts_the_symbol_and_no_other(tmp_path: Path) -> None:
    with wired(tmp_path) as w:
        w.server.mode, w.server.reply_changes = "422dup", {"qty": "3"}
        before = told("order_unknown")
        outcome = w.desk.send(entry(), book())
        assert isinstance(outcome, Unknown) and outcome.code == "DUPLICATE_ID_DIFFERS"
        assert w.desk.ledger().locked == {AAA: "UNKNOWN_DUPLICATE_ID_DIFFERS"} and not w.trips
        assert told("order_unknown") == before + 1
        w.desk.settle()
        assert w.desk.ledger().locked[AAA] == "UNKNOWN_DUPLICATE_ID_DIFFERS" and not w.trips
        w.server.mode, w.server.reply_changes = "ok", {}
        assert isinstance(w.desk.send(entry("BBB"), book("BBB")), Acknowledged)


@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_B09_a_refusal_is_believed_only_when_the_position_did_not_move(tmp_path: Path, status: int) -> None:
    with wired(tmp_path) as w:
        w.forgets()
        w.server.mode, w.server.answer = "answer", (status, '{"code": 1, "message": "no"}', {})
        w.tells(POSITIONS, [holding("AAA", 1)])  # executed all the same; the look-up does not see it yet
        assert isinstance(w.desk.send(entry(), book()), Unknown)
        assert w.desk.ledger().locked[AAA].startswith("UNKNOWN")
        assert w.desk.ledger().spent_usd(TODAY) == entry().notional_usd
    with wired(tmp_path / "unmoved") as v:
        v.forgets()
        v.server.mode, v.server.answer = "answer", (status, '{"code": 1, "message": "no"}', {})
        assert isinstance(v.desk.send(entry(), book()), Rejected)
        assert not v.desk.ledger().locked and v.desk.ledger().spent_usd(TODAY) == 0
        asked = [r.split("?")[0] for r in v.server.requests]
        assert asked == ["GET /v2/orders:by_client_order_id", "GET /v2/positions"]


def test_B09_a_refusal_whose_order_is_found_is_adopted(tmp_path: Path) -> None:
    with wired(tmp_path) as w:
        w.server.mode, w.server.answer = "answer", (422, '{"code": 42210000, "message": "no"}', {})
        assert isinstance(w.desk.send(entry(), book()), Acknowledged)


def test_B09_a_position_that_cannot_be_read_proves_nothing(tmp_path: Path) -> None:
    with wired(tmp_path) as w:
        w.forgets()
        w.server.mode, w.server.answer = "answer", (403, '{"message": "no"}', {})
        w.server.replies[POSITIONS] = (503, "busy")
        assert isinstance(w.desk.send(entry(), book()), Unknown)


@pytest.mark.parametrize("status", [401])
def test_B10_refused_keys_stop_all_sending_until_a_read_works_again(tmp_path: Path, status: int) -> None:
    with wired(tmp_path) as w:
        w.forgets()
        w.server.mode, before = "401", told("keys_refused")
        assert isinstance(w.desk.send(entry(), book()), Rejected)
        assert w.desk.keys_refused and told("keys_refused") == before + 1
        for symbol in ("BBB", "CCC", "DDD"):
            outcome = w.desk.send(entry(symbol), book(symbol))
            assert isinstance(outcome, NotSent) and outcome.code == "UNAUTHORIZED"
        assert len(w.server.posts) == 1, "no storm of refused requests"
        w.server.mode = "ok"
        w.desk.keys_work_again()
        assert isinstance(w.desk.send(entry("BBB"), book("BBB")), Acknowledged)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ('{"code": 40310000, "message": "insufficient buying power", "buying_power": "0"}', "BUYING_POWER"),
        ('{"code": 40310000, "message": "insufficient qty available", "held_for_orders": "1"}', "SHARES_HELD"),
    ],
)
def test_B11_a_refusal_for_money_or_shares_has_its_code_and_is_not_resized(
    tmp_path: Path, reply: str, code: str
) -> None:
    with wired(tmp_path) as w:
        w.forgets()
        w.server.mode, w.server.answer = "answer", (403, reply, {})
        outcome = w.desk.send(entry(), book())
        assert isinstance(outcome, Rejected) and outcome.code == code
        assert len(w.server.posts) == 1 and w.desk.ledger().orders[CID].end == "rejected"


@pytest.mark.parametrize(
    "reply",
    [
        (403, '{"code": 40310000, "message": "potential wash trade detected. use complex orders"}'),
        (422, '{"code": 42210000, "message": "potential wash trade detected"}'),
    ],
)
def test_B24_a_wash_trade_refusal_has_its_code_and_no_loop(tmp_path: Path, reply: tuple[int, str]) -> None:
    with wired(tmp_path) as w:
        w.forgets()
        w.server.mode, w.server.answer = "answer", (*reply, {})
        outcome, order = w.desk.execute(entry(), book(), wait_s=0.0)
        assert isinstance(outcome, Rejected) and outcome.code == "SELF_TRADE"
        assert order is not None and order.end == "rejected" and len(w.server.posts) == 1
        assert not [r for r in w.server.requests if r.startswith("DELETE")], "no order of ours is cancelled for it"


# ---------------------------------------------------------------- replies that are about something else
def test_B13_what_came_back_is_kept_in_the_journal_without_keys(tmp_path: Path) -> None:
    with wired(tmp_path) as w:
        w.server.mode = "answer"
        w.server.answer = (200, "<html>maintenance APCA-API-SECRET-KEY: secret-canary</html>", {})
        w.desk.send(entry(), book())
        detail = w.last("order_unknown")["detail"]
        assert "maintenance" in detail and "secret-canary" not in detail


@pytest.mark.parametrize("change", [{"symbol": "ZZZ"}, {"qty": "2"}, {"side": "sell"}, {"client_order_id": "other"}])
def test_B14_a_reply_about_another_order_halts_everything(tmp_path: Path, change: dict[str, str]) -> None:
    with wired(tmp_path) as w:
        w.server.reply_changes = change
        outcome = w.desk.send(entry(), book())
        assert isinstance(outcome, Unknown) and outcome.code == "IDENTITY_MISMATCH"
        assert len(w.trips) == 1 and "IDENTITY_MISMATCH" in w.trips[0]
        assert w.desk.ledger().locked[AAA] == "UNKNOWN_IDENTITY_MISMATCH"


# ---------------------------------------------------------------- visibility lag
def test_B15_absence_needs_the_lag_and_all_the_evidence_and_never_a_new_id(tmp_path: Path) -> None:
    with wired(tmp_path) as w:
        w.forgets()
        w.server.mode = "reset"
        w.desk.send(entry(), book())
        for path, row in ((POSITIONS, holding("AAA", 1)), (FILLS, execution("f1", "else", 1))):
            w.tells(path, [row])
            assert w.desk.settle().still_unknown == (CID,), f"{path} speaks against it"
            w.tells(path, [])
        w.server.replies[ORDERS] = (503, "busy")
        assert w.desk.settle().still_unknown == (CID,), "a listing that cannot be read is no empty listing"
        w.tells(ORDERS, [])
        assert w.desk.settle().not_sent == (CID,)
        evidence = w.last("order_not_sent")
        assert evidence["code"] == "NOT_ACCEPTED" and set(evidence["evidence"]) == {
            "looked_up", "open_orders", "fills_since", "position",
        }  # fmt: skip
        w.server.mode = "ok"
        assert isinstance(w.desk.send(entry(), book()), Acknowledged)
        assert [post["client_order_id"] for post in w.server.posts] == [CID, CID], "the same id, never a new one"


def test_B15_the_lag_counts_from_when_the_reply_was_given_up(tmp_path: Path) -> None:
    with wired(tmp_path) as w:
        w.forgets()
        w.server.mode = "reset"
        inner = w.broker.submit

        def hung(approved: Any) -> Any:
            w.clock.sleep(60)  # the request hung for a minute before it was given up
            return inner(approved)

        w.desk.broker.submit = hung  # type: ignore[method-assign]
        w.desk.send(entry(), book())
        w.desk.lag_s = 10.0
        w.clock.sleep(9)
        unknown = w.desk.ledger().orders[CID]
        assert unknown.unknown_at is not None and unknown.intended_at < unknown.unknown_at
        before = w.clock.now()
        assert w.desk.settle().not_sent == (CID,)
        assert (w.clock.now() - before).total_seconds() >= 1, "nine seconds after giving up proved nothing yet"


# ---------------------------------------------------------------- numbers, TLS, redirects
@pytest.mark.parametrize("value", ["1", "1.0", "1e0", "0.1e1"])
def test_B48_a_quantity_is_read_exactly_however_it_is_spelt(tmp_path: Path, value: str) -> None:
    with wired(tmp_path) as w:
        w.server.reply_changes = {"qty": value}
        assert isinstance(w.desk.send(entry(), book()), Acknowledged)


def test_B48_a_missing_number_is_missing_and_not_zero(tmp_path: Path) -> None:
    with wired(tmp_path) as w:
        w.tells(POSITIONS, [{**holding("AAA", 1), "qty": None}])
        with pytest.raises(BrokerDown, match="makes no sense"):
            w.broker.positions()
        w.tells(POSITIONS, [{**holding("AAA", 1), "qty": "0.000000001"}])
        assert str(w.broker.positions()[AAA].quantity) == "1E-9"
        w.tells(POSITIONS, [{**holding("AAA", 1), "qty": 2}])
        assert w.broker.positions()[AAA].quantity == 2
        account = {"id": "a", "account_number": "PA1", "status": "ACTIVE", "equity": None, "cash": "1E3"}
        w.server.replies["/v2/account"] = (200, __import__("json").dumps(account))
        found = w.broker.account()
        assert found.equity is None and found.cash == 1000 and found.buying_power is None


def test_B49_a_tls_failure_sends_nothing_and_there_is_no_downgrade(tmp_path: Path) -> None:
    with wired(tmp_path) as w:
        w.restart(url=w.server.url.replace("http://", "https://"))
        outcome = w.desk.send(entry(), book())
        assert isinstance(outcome, NotSent) and w.server.posts == []
        assert w.desk.ledger().spent_usd(TODAY) == 0


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_B50_a_redirect_is_refused_and_no_key_follows_it(tmp_path: Path, status: int) -> None:
    with wired(tmp_path) as w, wired(tmp_path / "other") as thief:
        location = f"{thief.server.url}/v2/orders"
        w.server.mode, w.server.answer = "answer", (status, "", {"Location": location})
        assert isinstance(w.desk.send(entry(), book()), Unknown), "the order may have been taken before"
        w.server.replies["/v2/account"] = (status, "")
        with pytest.raises((BrokerDown, OutcomeUnknown)):
            w.broker.account()
        assert thief.server.posts == [] and thief.server.requests == []


# ---------------------------------------------------------------- the gate before the wire
def test_B25_an_open_order_on_the_other_side_is_refused_before_sending(tmp_path: Path) -> None:
    with wired(tmp_path) as w:
        facing = w.server.order({"client_order_id": "x", "symbol": "AAA", "qty": 1, "side": "sell", "type": "limit",
                                 "time_in_force": "gtc"})  # fmt: skip
        w.tells(ORDERS, [facing])
        outcome = w.desk.send(entry(), book(open_orders=w.broker.open_orders()))
        assert isinstance(outcome, Refused) and "OPPOSITE_SIDE_OPEN" in outcome.codes and w.server.posts == []


@pytest.mark.parametrize(("held", "passes"), [(1, True), (0, False)])
def test_B52_a_sell_beyond_what_is_held_is_refused_before_sending(tmp_path: Path, held: int, passes: bool) -> None:
    with wired(tmp_path) as w:
        w.desk.send(entry(), book())
        w.ends(CID, "filled", 1)
        w.desk.poll(CID, wait_s=0.0)
        w.tells(POSITIONS, [holding("AAA", held)] if held else [])
        outcome = w.desk.send(sell(quantity=1), book())
        assert isinstance(outcome, Acknowledged) is passes
        if not passes:
            assert isinstance(outcome, Refused) and "OVERSELL" in outcome.codes and len(w.server.posts) == 1


def test_B27_B29_what_the_broker_would_refuse_is_refused_here_with_the_field(tmp_path: Path) -> None:
    with wired(tmp_path) as w:
        for book_, intent, code in (
            (book(tradable=False), entry(), "NOT_TRADABLE"),
            (book(tradable=None), entry(), "NOT_TRADABLE"),
            (book(), entry(price="50.101"), "OFF_TICK"),
            (book(quote=quote(ask="0.50", bid="0.4999", last="0.50")), entry(price="0.50001", stop="0.4"), "OFF_TICK"),
        ):
            outcome = w.desk.send(intent, book_)
            assert isinstance(outcome, Refused) and code in outcome.codes, code
        assert w.server.posts == []


def test_P10_a_journal_whose_end_was_edited_sends_nothing(tmp_path: Path) -> None:
    with wired(tmp_path) as w:
        w.desk.send(entry(), book())
        path = w.desk.journal.path
        path.write_bytes(path.read_bytes().replace(b"order_acknowledged", b"order_acknowledgex"))
        with pytest.raises(StateCorrupt):
            w.desk.send(entry("BBB"), book("BBB"))
        assert len(w.server.posts) == 1
