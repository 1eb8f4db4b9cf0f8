"""O03: force-sync against the wrong truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from core.journal import verify
from scripts import reconcile_alpaca
from tests.scripts.operators import DUE, HELD, SHARES, Operator, an_operator


@pytest.fixture
def op(own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    made = an_operator(own_home, monkeypatch, capsys)
    assert made.run(reconcile_alpaca.main).code == 0
    return made


def sync(op: Operator, *words: str) -> tuple[int, str, str]:
    done = op.run(reconcile_alpaca.main, "--force-sync", *words)
    return done.code, done.out, done.err


def view(op: Operator) -> dict[str, object]:
    found: dict[str, object] = json.loads((op.home / "state" / "positions.json").read_text("utf-8"))["positions"]
    return found


def test_O03_the_wrong_account_is_refused_and_nothing_is_written(op: Operator) -> None:
    before, real = op.journal.path.read_bytes(), op.broker.account
    op.broker.account = lambda: replace(real(), id="b", number="PA000042")  # type: ignore[method-assign]
    op.broker.held = {HELD: 1}
    code, out, err = sync(op)
    assert (code, out) == (10, "") and "ACCOUNT_MISMATCH" in err
    assert op.journal.path.read_bytes() == before and set(view(op)) == {"HELD", "DUE"}


def test_O03_the_loss_of_all_positions_is_refused_while_the_equity_has_them(op: Operator) -> None:
    before = op.journal.path.read_bytes()
    op.broker.hide_positions = True
    code, _, err = sync(op, "--json")
    assert code == 30 and "IMPLAUSIBLE_FLAT" in err and "do not sync" in err
    assert op.journal.path.read_bytes() == before and set(view(op)) == {"HELD", "DUE"}
    assert op.ledger().positions == {HELD: SHARES, DUE: SHARES}


def test_O03_the_difference_is_shown_before_it_is_taken_over(op: Operator) -> None:
    for symbol in (HELD, DUE):
        op.broker._end(op.protect_id(symbol), "canceled")
        op.broker.trade_by_hand(symbol, -SHARES, cid=f"app-{symbol}")
    code, out, _ = sync(op, "--reason", "sold both in the app")
    shown, after = out.split("after the sync: ")
    assert code == 0 and "in step" in after
    for symbol in ("DUE", "HELD"):
        assert f"{symbol}  MISSING_POSITION  MANUAL_TRADE  ours 12, broker 0" in shown
    kinds = [r.kind for r in op.journal.records()]
    assert kinds.index("break_found") < kinds.index("positions_synced") and verify(op.journal.path).ok
    (body,) = op.bodies("positions_synced")
    assert body["before"] == {"DUE": 12, "HELD": 12} and body["positions"] == {} and view(op) == {}
    assert body["reason"] == "sold both in the app" and set(body["adjustments"]) == {"DUE", "HELD"}
