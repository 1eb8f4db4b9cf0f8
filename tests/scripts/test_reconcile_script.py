"""reconcile_alpaca.py as an operator types it."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from core.domain import ActionKind
from core.errors import BrokerDown
from core.journal import verify
from scripts import reconcile_alpaca
from tests.fakes.feeds import action
from tests.scripts.operators import DUE, HELD, NEW, PRICE, SHARES, Operator, an_operator

KEYS = {"symbol", "kind", "cause", "ours", "theirs", "proposal", "evidence"}


@pytest.fixture
def op(own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    return an_operator(own_home, monkeypatch, capsys)


def reconcile(op: Operator, *words: str) -> Any:
    return op.run(reconcile_alpaca.main, *words)


def test_in_step_is_exit_0_and_the_stable_shape(op: Operator) -> None:
    done = reconcile(op, "--json")
    assert (done.code, done.json) == (0, {"in_step": True, "breaks": []})
    assert "in step: journal and broker agree" in reconcile(op).out
    assert reconcile(op, "--full", "--json").json == {"in_step": True, "breaks": []}


def test_a_break_is_exit_1_with_cause_evidence_and_cure_and_changes_nothing(op: Operator) -> None:
    reconcile(op)
    op.broker.trade_by_hand(NEW, 3)
    held, orders = dict(op.ledger().positions), dict(op.broker.orders)
    done = reconcile(op, "--json")
    assert done.code == 1 and done.json["in_step"] is False
    (row,) = done.json["breaks"]
    assert set(row) == KEYS and (row["cause"], row["kind"]) == ("MANUAL_TRADE", "UNKNOWN_POSITION")
    assert (row["ours"], row["theirs"]) == ("0", "3") and "buy 3 @ 50.00" in row["evidence"][0]
    assert "--adopt NEW --stop PRICE" in row["proposal"]
    assert dict(op.ledger().positions) == held and op.broker.orders == orders
    assert op.ledger().locked == {NEW: "BREAK"} and verify(op.journal.path).ok


def test_the_text_fits_80_columns_whatever_it_says(op: Operator) -> None:
    op.broker.trade_by_hand(NEW, 3, cid="somebody-elses-very-long-client-order-id-" + "x" * 60)
    op.feed.known.append(action(ActionKind.SPLIT, "HELD", op.ledger().open_trades()[0].session, ratio="4"))
    op.broker.split(HELD, Fraction(4))
    op.broker._end(op.protect_id(DUE), "canceled")
    said = reconcile(op, "--full").out
    long = [line for line in said.splitlines() if len(line) > 80]
    assert all("x" * 60 in line for line in long), long
    for word in ("MANUAL_TRADE", "UNPROTECTED", "cure: ", "locked: HELD, NEW"):
        assert word in said


def test_force_sync_shows_the_difference_first_and_writes_one_audit_record(op: Operator) -> None:
    op.broker._end(op.protect_id(HELD), "canceled")
    op.broker.trade_by_hand(HELD, -SHARES)
    done = reconcile(op, "--force-sync", "--reason", "sold it in the app")
    first, after = done.out.split("after the sync: ")
    assert "MANUAL_TRADE" in first and "in step" in after and done.code == 0
    (body,) = op.bodies("positions_synced")
    assert body["reason"] == "sold it in the app" and body["account"] == "3456"
    assert body["adjustments"]["HELD"] == {"ours": 12, "theirs": 0, "cause": "MANUAL_TRADE"}
    view = json.loads((op.home / "state" / "positions.json").read_text("utf-8"))
    assert set(view["positions"]) == {"DUE"}


def test_an_edited_view_is_told_and_cured_by_a_sync(op: Operator) -> None:
    file = op.home / "state" / "positions.json"
    document = json.loads(file.read_text("utf-8"))
    document["positions"]["HELD"]["quantity"] = "99"
    file.write_text(json.dumps(document), "utf-8")
    (row,) = reconcile(op, "--json").json["breaks"]
    assert (row["cause"], row["theirs"]) == ("VIEW_EDITED", "positions.json says 99")
    assert reconcile(op, "--force-sync").code == 0
    assert op.bodies("positions_synced")[0]["adjustments"] == {}


def test_adopt_with_a_stop_then_the_symbol_is_ours(op: Operator) -> None:
    op.broker.trade_by_hand(NEW, 3, price="5.00")
    done = reconcile(op, "--adopt", "new", "--stop", "4.20", "--reason", "mine")
    assert done.code == 1, "its stop is placed by the runner"
    assert "NEW: 3 shares, stop 4.20, placed by the runner" in done.out
    (body,) = op.bodies("position_adopted")
    assert (body["quantity"], body["stop"], body["reason"], body["before"], body["after"]) == (3, "4.20", "mine", 0, 3)
    assert op.ledger().positions[NEW] == 3 and op.ledger().locked == {}
    assert reconcile(op, "--adopt", "NEW", "--stop", "4.30").code == 1
    assert [str(t.stop) for t in op.ledger().open_trades() if t.symbol == NEW] == ["4.30"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--adopt", "HELD"), "NOTHING_TO_ADOPT"),
        (("--adopt", "HELD", "--stop", "9.99"), "STOP_ABOVE_PRICE"),
        (("--adopt", "HELD", "--stop", "low"), "USAGE"),
        (("--adopt", "not a ticker"), "USAGE"),
        (("--stop", "4"), "USAGE"),
        (("--unlock", "HELD"), "USAGE"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line_and_writes_nothing(
    op: Operator, words: tuple[str, ...], code: str
) -> None:
    reconcile(op)
    before = [r.kind for r in op.journal.records()]
    done = reconcile(op, *words)
    assert done.code == 2 and done.err.startswith(f"kobe: {code}: ") and done.err.count("\n") == 1
    assert [r.kind for r in op.journal.records()] == before


def test_two_acts_at_once_are_one_too_many(op: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        reconcile_alpaca.main(["--force-sync", "--adopt", "NEW"])
    assert "not allowed with" in capsys.readouterr().err


def test_unlock_says_what_it_was(op: Operator) -> None:
    op.journal.append("symbol_locked", {"symbol": "HELD", "code": "FILLS_DISAGREE"})
    assert reconcile(op, "--unlock", "HELD", "--reason", "looked").code == 0
    (body,) = op.bodies("symbol_unlocked")
    assert (body["was"], body["reason"], body["account"]) == ("FILLS_DISAGREE", "looked", "3456")


def test_a_broker_that_is_down_or_cannot_be_believed_is_exit_30_and_nothing_is_written(op: Operator) -> None:
    reconcile(op)
    before = op.journal.path.read_bytes()

    def down(*_: object) -> Any:
        raise BrokerDown("nobody answers")

    real = op.broker.open_orders
    for words in ((), ("--force-sync",), ("--adopt", "NEW"), ("--full",)):
        op.broker.open_orders = down  # type: ignore[method-assign]
        assert reconcile(op, *words).code == 30
        op.broker.open_orders = real  # type: ignore[method-assign]
        op.broker.hide_positions = True
        done = reconcile(op, *words)
        assert done.code == 30 and "IMPLAUSIBLE_FLAT" in done.err
        op.broker.hide_positions = False
    assert op.journal.path.read_bytes() == before


def test_another_account_is_refused_before_anything_is_compared(op: Operator) -> None:
    reconcile(op)
    before = op.journal.path.read_bytes()
    real = op.broker.account
    from dataclasses import replace

    op.broker.account = lambda: replace(real(), id="other", number="PA000042")  # type: ignore[method-assign]
    for words in ((), ("--force-sync",), ("--full", "--json"), ("--adopt", "NEW", "--stop", "1")):
        done = reconcile(op, *words)
        assert done.code == 10 and "ACCOUNT_MISMATCH" in done.err and done.out == ""
    assert op.journal.path.read_bytes() == before
    assert PRICE > 0


def test_full_names_a_round_trip_and_a_sync_settles_it(op: Operator) -> None:
    reconcile(op)
    op.broker.trade_by_hand(NEW, 3, cid="in")
    op.broker.trade_by_hand(NEW, -3, cid="out")
    assert reconcile(op).code == 0
    rows = reconcile(op, "--full", "--json").json["breaks"]
    assert [(r["kind"], r["cause"]) for r in rows] == [("FOREIGN_FILL", "MANUAL_TRADE")] * 2
    assert op.ledger().locked == {}
    assert reconcile(op, "--force-sync").code == 0
    assert reconcile(op, "--full").code == 0


def test_a_late_fill_is_booked_by_a_sync_not_overwritten(op: Operator) -> None:
    op.broker.fill(op.protect_id(HELD), SHARES, price=Decimal("4.50"))
    (row, *_) = reconcile(op, "--json").json["breaks"]
    assert row["cause"] == "LATE_FILL" and op.ledger().positions[HELD] == 12
    assert reconcile(op, "--force-sync").code == 0
    (exit_,) = op.ledger().trades["20240304-ibs_rsi-HELD"].exits
    assert (exit_.price, exit_.quantity) == (Decimal("4.50"), 12)
    assert op.bodies("positions_synced")[0]["adjustments"] == {}
