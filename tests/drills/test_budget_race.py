"""Real processes, one daily budget, the real venue: never over it, never short of it by more than one order."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from core.clock import SteppedClock
from core.journal import Journal
from core.paths import Home
from execution.drill.children import Children
from execution.drill.outcome import VenueTruth
from execution.drill.race import Raced, judge, run_race
from execution.drill.world import quick_folder
from execution.venue.host import VenueHost
from scripts.drilling import DrillPorts

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "drill_child.py"
PROCESSES, ORDERS = (4, 25) if sys.platform == "win32" else (16, 25)  # 16 × 200 by command, in CI


def race(host: VenueHost, ports: DrillPorts, processes: int, orders: int) -> Raced:
    with Children(SCRIPT) as children:
        return run_race(host, ports, children, processes=processes, orders=orders, folder=quick_folder())


def test_many_processes_never_exceed_one_budget_and_leave_less_than_one_order(
    host: VenueHost, ports: DrillPorts
) -> None:
    raced = race(host, ports, PROCESSES, ORDERS)
    assert raced.violations == ()
    assert raced.budget_usd - raced.largest_usd < raced.spent_usd <= raced.budget_usd
    assert raced.sent + raced.refused == raced.wanted == PROCESSES * ORDERS


def test_a_budget_that_is_checked_outside_the_lock_is_seen_by_the_same_sum(tmp_path: Path) -> None:
    """The race's own judgement, on a venue that holds one order too many."""
    raced = judged(tmp_path, budget="100.00", bought=("60.00", "60.00"), limit="60.00")
    assert raced.violations == ("120.00 USD spent, the budget is 100.00",)
    assert judged(tmp_path, budget="130.00", bought=("60.00", "60.00"), limit="60.00").violations == ()
    short = judged(tmp_path, budget="200.00", bought=("60.00", "60.00"), limit="60.00")
    assert short.violations == ("80.00 USD left, although an order costs at most 60.00",)


def judged(root: Path, *, budget: str, bought: tuple[str, ...], limit: str) -> Raced:
    clock = SteppedClock(datetime(2024, 3, 4, 15, tzinfo=UTC))
    home = Home(root / budget)
    journal = Journal(home.journal, clock)
    home.state.mkdir(parents=True)
    ids = [f"kobe-{number}" for number in range(len(bought))]
    for name in ids:
        journal.append("order_intended", {"client_order_id": name, "limit_price": limit, "quantity": 1})
    orders: Any = [SimpleNamespace(client_order_id=name) for name in ids]
    fills: Any = [SimpleNamespace(kind="FILL", qty="1", price=price) for price in bought]
    truth = VenueTruth(orders, fills, {})
    return judge(home, Decimal(budget), [0], ["Acknowledged"] * len(ids), truth)
