"""State documents: shared between processes, damaged is an error, nothing half written."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from core.clock import SteppedClock
from core.domain import Position, Symbol
from core.errors import StateCorrupt, StateLocked
from core.files import locked
from core.paths import Home
from portfolio.state_manager import DOCUMENTS, StateManager, get_state_manager

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateManager:
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    return StateManager(Home(tmp_path), SteppedClock(datetime(2024, 3, 4, tzinfo=UTC)))


def test_absent_reads_as_empty_and_creates_nothing(manager: StateManager, tmp_path: Path) -> None:
    assert get_state_manager().get_positions() == {}
    assert manager.get_weekly_budget() == {"week": None, "spent_usd": "0"}
    assert manager.read("universe_last")["symbols"] == []
    assert list(tmp_path.iterdir()) == []


def test_positions_come_back_as_they_were_set(manager: StateManager) -> None:
    manager.set_positions({"A": {"quantity": 3, "average_price": "20.50", "trades": [{"id": "x"}]}})
    position = Position(symbol=Symbol("B"), quantity=Decimal("1.5"), average_price=Decimal("7.1"))
    manager.set_positions({**manager.get_positions(), "B": position})
    assert get_state_manager().get_positions() == {
        "A": {"quantity": "3", "average_price": "20.50", "trades": [{"id": "x"}]},
        "B": {"quantity": "1.5", "average_price": "7.1", "trades": []},
    }
    assert manager.read("positions")["as_of"] == "2024-03-04T00:00:00Z"
    manager.set_positions(get_state_manager().get_positions())  # the runbook's round trip
    held = Position(symbol=Symbol("A"), quantity=Decimal(2), average_price=Decimal(20))
    manager.set_positions({"A": held})
    assert manager.get_positions()["A"]["trades"] == [{"id": "x"}]


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"schema_version": 1}', b"\xff\xfe1",
                                     b'{"schema_version": true}', b'{"schema_version": "1"}'])  # fmt: skip
def test_a_damaged_document_is_an_error_and_is_left_as_it_is(manager: StateManager, name: str, content: bytes) -> None:
    path = manager.path(name)
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StateCorrupt, match=path.name):
        manager.read(name)
    with pytest.raises(StateCorrupt):
        manager.update(name, lambda document: document)
    assert path.read_bytes() == content


def test_a_newer_document_is_refused_by_name(manager: StateManager) -> None:
    manager.path("positions").parent.mkdir()
    manager.path("positions").write_text('{"schema_version": 2, "positions": {}}')
    with pytest.raises(StateCorrupt, match="version 2") as caught:
        manager.get_positions()
    assert caught.value.code == "STATE_NEWER"


def test_a_change_that_is_no_document_is_not_written(manager: StateManager) -> None:
    manager.set_positions({"A": {"quantity": "1", "average_price": "2"}})
    before = manager.path("positions").read_bytes()
    for bad in ({"positions": []}, {"positions": {"A": {"quantity": "x"}}}, {}):
        with pytest.raises(ValueError, match="must be"):
            manager.update("positions", lambda _, bad=bad: bad)  # type: ignore[misc]
    with pytest.raises(ValueError, match="negative"):
        manager.update("weekly_budget", lambda d: {**d, "spent_usd": "-1"})
    with pytest.raises(ValueError, match="no state document"):
        manager.read("other")
    assert manager.path("positions").read_bytes() == before


def test_a_lock_held_elsewhere_is_named(manager: StateManager, tmp_path: Path) -> None:
    quick = StateManager(Home(tmp_path), lock_timeout_s=0.05)
    with locked(manager.path("positions")), pytest.raises(StateLocked, match=r"positions\.json"):
        quick.set_positions({})


def test_four_processes_lose_no_update(manager: StateManager) -> None:
    manager.update("weekly_budget", lambda d: {**d, "week": "2024-W10"})
    program = (
        "from decimal import Decimal\n"
        "from portfolio.state_manager import get_state_manager\n"
        "for _ in range(15):\n"
        "    def more(d): return {**d, 'spent_usd': str(Decimal(d['spent_usd']) + 1)}\n"
        "    get_state_manager().update('weekly_budget', more)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program], cwd=REPO) for _ in range(4)]
    for _ in range(50):
        manager.get_weekly_budget()  # a reader never sees half a document
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0, 0]
    assert manager.get_weekly_budget() == {"week": "2024-W10", "spent_usd": "60"}


def test_a_damaged_universe_document_names_a_cure_that_works(manager: StateManager) -> None:
    """It is no view of the journal, so no sync makes it again."""
    path = manager.path("universe_last")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"{")
    with pytest.raises(StateCorrupt, match="universe_last") as told:
        manager.read("universe_last")
    assert "delete state/universe_last.json" in told.value.advice and "force-sync" not in told.value.advice
    path.unlink()
    assert manager.read("universe_last")["symbols"] == []
