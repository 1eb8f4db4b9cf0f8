from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.errors import AlreadyRunning, BrokerRejected
from core.files import locked
from execution.emergency import CloseResult, cancel_all, close_all
from execution.protection import repair
from tests.fakes.trading import AAA, TODAY, World, book, entry, world


def protected(tmp_path: Path) -> World:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    repair(w.desk, book(), on=TODAY)
    return w


def close(w: World, run: str = "r1") -> CloseResult:
    return close_all(w.desk, run=run, run_lock=w.root / "state" / "close_all", deadline_s=5.0, cancel_deadline_s=5.0)


def test_cancel_all_empties_the_listing_while_halted(tmp_path: Path) -> None:
    w = protected(tmp_path)
    w.halt.active = True
    result = cancel_all(w.broker, w.journal, w.clock, desk=w.desk)
    assert result.done and len(result.cancelled) == 1 and not w.broker.open_orders()
    assert not w.desk.ledger().working()


def test_b37_a_cancel_that_never_takes_is_reported_by_id(tmp_path: Path) -> None:
    w = protected(tmp_path)
    order_id = w.broker.open_orders()[0].id

    def refuse(_: str) -> None:
        raise BrokerRejected("no", code="UNPROCESSABLE")

    w.broker.cancel = refuse
    result = cancel_all(w.broker, w.journal, w.clock, deadline_s=3.0)
    assert not result.done and result.failed == {order_id: "UNPROCESSABLE"} and result.remaining == (order_id,)


def test_o01_close_all_is_flat_while_the_kill_switch_is_on(tmp_path: Path) -> None:
    w = protected(tmp_path)
    w.broker.held[AAA] += 4  # the broker holds more than we know: the truth is sold
    w.halt.active = True
    result = close(w)
    assert result.flat and w.broker.held[AAA] == 0 and not w.broker.open_orders()
    sells = [cid for cid in w.broker.submits if "-close-" in cid]
    assert sells == ["kobe-close-r1-AAA-sell-close-1"]
    kinds = w.kinds()
    assert kinds.index("operator_close_opened") < kinds.index("cancel_all_done") < len(kinds) - 1


def test_close_all_never_goes_through_zero_when_the_listing_lags(tmp_path: Path) -> None:
    w = protected(tmp_path)
    seen = w.broker.positions()
    listings: list[Any] = [seen, seen, seen]
    real = w.broker.positions

    def positions() -> Any:
        return listings.pop() if listings else real()

    w.broker.positions = positions
    w.broker._free = lambda symbol: 99  # a margin account would sell short
    assert close(w).flat
    assert w.broker.held[AAA] == 0


def test_partial_market_fills_are_followed_and_the_rest_sold(tmp_path: Path) -> None:
    w = protected(tmp_path)
    w.broker.held[AAA] = 5
    first = "kobe-close-r1-AAA-sell-close-1"
    w.broker.plan[first] = 2
    result = close_all(w.desk, run="r1", run_lock=w.root / "state" / "close_all", deadline_s=3.0)
    assert not result.flat and result.left == {AAA: "3"}  # the first order still works: nothing is sent beside it
    w.broker.fill(first, 3)
    assert close(w).flat and w.broker.held[AAA] == 0


def test_b40_a_second_close_run_is_refused(tmp_path: Path) -> None:
    w = protected(tmp_path)
    with locked(w.root / "state" / "close_all"), pytest.raises(AlreadyRunning):
        close(w)
    assert w.broker.open_orders()


def test_shorts_and_fractions_are_reported_not_traded(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.held[AAA] = -3
    result = close(w)
    assert not result.flat and result.left == {AAA: "-3"} and w.broker.submits == []
