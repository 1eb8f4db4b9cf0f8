"""What is locked is not entered, whatever was planned; exits and protection never ask."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.domain import ExitReason, Position, Purpose, Symbol
from execution.entry import EntryLocks
from execution.session import open_profit
from tests.fakes.scans import Scene, decision, due, hold, scene
from tests.fakes.trading import TODAY

STREAK = "BREAKER_LOSS_STREAK"


def locked(made: Scene, locks: Callable[[], EntryLocks]) -> Scene:
    made.session._locks = locks
    return made


def entries_sent(made: Scene) -> list[str]:
    return sorted(
        str(o.intent.symbol) for o in made.ledger().orders.values()
        if o.intent.purpose is Purpose.ENTRY and o.intent.symbol not in ("HELD", "DUE")
    )  # fmt: skip


def test_everything_locked_sends_no_entry_and_says_why(tmp_path: Path) -> None:
    made = locked(scene(tmp_path, "PICKA", "PICKB"), lambda: EntryLocks(STREAK))
    report = made.session.run(due())
    assert report.code == STREAK and entries_sent(made) == []
    assert [row["codes"] for row in report.intents] == [[STREAK], [STREAK]]
    refused = [r.body["code"] for r in made.world.desk.journal.kinds("pick_refused")]
    assert refused == [STREAK, STREAK], "each pick that became no order is on record"


def test_without_a_pick_the_report_names_the_lock_too(tmp_path: Path) -> None:
    made = locked(scene(tmp_path), lambda: EntryLocks(STREAK))
    assert made.session.run(due()).code == STREAK


def test_exits_and_protection_pass_while_everything_is_locked(tmp_path: Path) -> None:
    made = scene(tmp_path, "PICKA")
    hold(made, "DUE")
    hold(made, "HELD", protected=False)
    locked(made, lambda: EntryLocks(STREAK))
    made.planner.exits_ = [(decision("DUE"), ExitReason.TIME)]
    made.session.run(due())
    trades = {str(t.symbol): t for t in made.ledger().trades.values()}
    assert not trades["DUE"].is_open, "it left"
    assert made.ledger().protective(decision("HELD")), "its stop was put back"
    assert entries_sent(made) == []


@pytest.mark.parametrize(
    ("locks", "sent"),
    [
        (EntryLocks(symbols={Symbol("PICKA"): "BREAKER_LOSS_CONCENTRATION"}), ["PICKB"]),
        (EntryLocks(strategies={"ibs_rsi": "BREAKER_LOSS_CONCENTRATION"}), []),
        (EntryLocks(strategies={"turtle_soup": "BREAKER_LOSS_CONCENTRATION"}), ["PICKA", "PICKB"]),
        (EntryLocks(), ["PICKA", "PICKB"]),
    ],
)
def test_a_lock_of_a_symbol_or_a_strategy_is_no_lock_of_the_others(
    tmp_path: Path, locks: EntryLocks, sent: list[str]
) -> None:
    made = locked(scene(tmp_path, "PICKA", "PICKB"), lambda: locks)
    report = made.session.run(due())
    assert entries_sent(made) == sent
    assert report.code == "OK", "the scan itself could enter"


def test_a_lock_that_comes_in_the_middle_of_the_entries_keeps_the_rest_back(tmp_path: Path) -> None:
    """A person trips one while the first entry is under way: asked again before every one."""
    made = scene(tmp_path, "PICKA", "PICKB")
    locked(made, lambda: EntryLocks(STREAK) if entries_sent(made) else EntryLocks())
    made.session.run(due())
    assert entries_sent(made) == ["PICKA"]


def test_the_gate_refuses_too_when_a_pick_slips_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trading state reducing: the second wall does not rest on the first."""
    made = locked(scene(tmp_path, "PICKA"), lambda: EntryLocks(STREAK))
    monkeypatch.setattr(made.session, "_unlocked", lambda report, entry: True)
    report = made.session.run(due())
    assert entries_sent(made) == [] and report.code == STREAK
    assert report.intents[0]["codes"] == ["TRADING_STATE"]


def test_an_entry_by_hand_is_asked_the_same(tmp_path: Path) -> None:
    from core.domain import TradingState
    from tests.fakes.trading import entry, quote

    made = locked(scene(tmp_path), lambda: EntryLocks(symbols={Symbol("PICKA"): "BREAKER_MANUAL"}))
    for symbol, wanted in (("PICKA", TradingState.REDUCING), ("PICKB", TradingState.ACTIVE)):
        seen: Any = made.session.book_for_entry(entry(symbol), quote(symbol))
        assert seen.trading_state is wanted


def test_what_open_trades_have_made_is_on_record_at_the_end_of_each_run(tmp_path: Path) -> None:
    made = scene(tmp_path)
    hold(made, "HELD")
    made.session.run(due())
    body = list(made.world.desk.journal.kinds("scan_run"))[-1].body
    assert body["run"] == f"{TODAY}T10:00" and set(body["open_usd"]) <= {decision("HELD")}


def test_profit_of_open_trades_is_at_the_brokers_marks_and_made_up_for_none(tmp_path: Path) -> None:
    made = scene(tmp_path)
    hold(made, "HELD", "DUE")
    trade = made.ledger().trades[decision("HELD")]
    shares = Decimal(trade.quantity)
    marked = Position(symbol=Symbol("HELD"), quantity=shares, average_price=trade.entry_price,
                      market_value=(trade.entry_price + 2) * shares)  # fmt: skip
    blind = Position(symbol=Symbol("DUE"), quantity=Decimal(1), average_price=trade.entry_price)
    found = open_profit(made.ledger(), {Symbol("HELD"): marked, Symbol("DUE"): blind})
    assert found == {decision("HELD"): 2 * shares}
    assert open_profit(made.ledger(), {}) == {}
