"""Many processes, one daily budget: never over it, and never short of it by more than one order."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.clock import SystemClock
from core.domain import OrderIntent, OrderKind, Purpose, Quote, Side, Tif, TradingState
from core.errors import StateLocked
from core.journal import verify
from core.paths import Home
from execution.desk import Desk
from execution.drill.children import Children, Task
from execution.drill.outcome import VenueTruth, lines_of
from execution.drill.plan import SYMBOLS, DayPlan, bars_for
from execution.drill.ports import Place, Ports
from execution.drill.shared_clock import SharedClock
from execution.drill.world import limited, market_of
from risk.gate import Book, Refused

if TYPE_CHECKING:
    from config.settings_schema import Settings
    from execution.venue.host import VenueHost

SEED = 1
_TRIES, _PAUSE_S = 2_000, 0.005  # for a symbol or a file that others hold


@dataclass(frozen=True, slots=True)
class Raced:
    """What came of it, USD. `largest_usd`: the dearest single order that any process wanted."""

    budget_usd: Decimal
    spent_usd: Decimal
    largest_usd: Decimal
    wanted: int
    sent: int
    refused: int
    violations: tuple[str, ...]


# ---------------------------------------------------------------- the child
def race(task: Task, ports: Ports) -> None:
    """One process: its orders, one after another, as fast as it can; what became of each goes into its report."""
    clock = SharedClock(Path(task["clock"]))
    place = Place(Path(task["root"]), task["url"], clock, roomy(ports.settings, Decimal(task["budget_usd"])))
    desk = ports.open_script(place, "enter")
    broker: Any = desk.broker
    quotes = broker.quotes(SYMBOLS)
    book = _book(desk, ports, quotes)
    codes = []
    for number in range(task["orders"]):
        symbol = SYMBOLS[(task["number"] + number) % len(SYMBOLS)]
        intent = _intent(f"race{task['number']}x{number}", quotes[symbol], book)
        codes.append(_code(desk, intent, replace(book, quote=quotes[symbol], tradable=True)))
    Path(task["report"]).write_text(json.dumps(codes), encoding="utf-8")


def _book(desk: Desk, ports: Ports, quotes: Any) -> Book:
    now, rng = desk.clock.now(), np.random.default_rng(SEED)
    session = ports.calendar.previous_session(ports.calendar.session_at(now) or now.date())
    return Book(
        now=now, session=session, session_open=True, closes_at=now + timedelta(hours=6), vix=15.0,
        trading_state=TradingState.ACTIVE, returns={s: rng.normal(0, 0.001, 60) for s in SYMBOLS},
        sectors={s: f"sector {i}" for i, s in enumerate(SYMBOLS)}, equity=Decimal(10_000_000), cash=Decimal(10_000_000),
        marks={s: quote.last for s, quote in quotes.items()},
    )  # fmt: skip


def _intent(name: str, quote: Quote, book: Book) -> OrderIntent:
    assert quote.ask is not None and book.session is not None
    return OrderIntent(
        decision_id=f"{book.session:%Y%m%d}-{name}-{quote.symbol}", symbol=quote.symbol, side=Side.BUY, quantity=1,
        purpose=Purpose.ENTRY, kind=OrderKind.LIMIT, tif=Tif.IOC, decided_at=book.now, strategy="race",
        signal_session=book.session, limit_price=quote.ask, stop_price=(quote.ask / 2).quantize(Decimal("0.01")),
        time_stop_bars=1, reason="signal",
    )  # fmt: skip


def _code(desk: Desk, intent: OrderIntent, book: Book) -> str:
    """What became of one order. While another process waits for its answer the symbol is locked: then again."""
    real = SystemClock()  # processes race in real time
    for _ in range(_TRIES):
        try:
            outcome, _order = desk.execute(intent, book, wait_s=0.0)
        except StateLocked:
            continue
        if not isinstance(outcome, Refused):
            return type(outcome).__name__
        if outcome.codes != ("SYMBOL_LOCKED",):
            return " ".join(code for code in outcome.codes if code != "SYMBOL_LOCKED")
        real.sleep(_PAUSE_S)
    return "LOCKED"


def roomy(settings: Settings, budget_usd: Decimal) -> Settings:
    """Only the daily budget can bind: every other limit is out of the way."""
    settings = limited(settings, DayPlan(seed=SEED, daily_budget_usd=budget_usd, position_limit=1_000))
    many = settings.risk.runaway.model_copy(update={"orders_per_minute": 10**6, "orders_per_day": 10**6})
    risk = settings.risk.model_copy(update={"one_position_per_symbol": False, "runaway": many})
    return settings.model_copy(update={"risk": risk})


# ---------------------------------------------------------------- the parent
def run_race(
    host: VenueHost, ports: Ports, children: Children, *, processes: int, orders: int, folder: Path | None = None
) -> Raced:
    """The budget is half of what all of them want together."""
    with tempfile.TemporaryDirectory(prefix="kobe-race-", dir=folder) as name:
        root = Path(name)
        first = ports.calendar.offset(_day(ports), -3)
        sessions = ports.calendar.sessions_between(first, ports.calendar.offset(_day(ports), 2))
        clock = SharedClock(root / "clock", ports.calendar.instant_at(_day(ports), "09:35"))
        bars = bars_for(SEED, len(sessions))
        market = market_of(bars, sessions, DayPlan(seed=SEED), sessions[-1])
        store = host.open(market, clock, Path(":memory:"), calendar=ports.calendar, starting_cash=Decimal(10_000_000))
        typical = sum((Decimal(str(rows[3][0])) for rows in bars.values()), Decimal(0)) / len(bars)
        budget = (typical * processes * orders / 2).quantize(Decimal("0.01"))
        Home(root).state.mkdir()
        place = Place(root, host.base_url, clock, roomy(ports.settings, budget))
        ports.open_script(place, "enter")  # binds the account, once
        tasks: list[dict[str, Any]] = [
            {"do": "race", "root": name, "url": host.base_url, "clock": str(root / "clock"), "number": number,
             "orders": orders, "budget_usd": str(budget), "report": str(root / f"report-{number}.json")}
            for number in range(processes)
        ]  # fmt: skip
        ends = [children.wait(number) for number in [children.start(task) for task in tasks]]
        codes = [code for task in tasks if Path(task["report"]).exists() for code in _read(Path(task["report"]))]
        told = root / "child-failed.txt"
        try:
            raced = judge(Home(root), budget, ends, codes, VenueTruth.of(store))
            failed = [told.read_text("utf-8")] if told.exists() else []
            return replace(raced, violations=(*raced.violations, *failed, *host.failures))
        finally:
            store.close()
            clock.close()


def _day(ports: Ports) -> Any:
    from execution.drill.world import FIRST_SESSION

    return ports.calendar.offset(FIRST_SESSION, 0)


def judge(home: Home, budget: Decimal, ends: Sequence[int], codes: Sequence[str], truth: VenueTruth) -> Raced:
    """Venue against budget and journal; `ends` are the exit statuses, `codes` what became of each order."""
    intended = [r["body"] for r in lines_of(home.journal) if r["kind"] == "order_intended"]
    spent = sum((Decimal(f.qty) * Decimal(f.price) for f in truth.fills), Decimal(0))
    largest = max((Decimal(body["limit_price"]) * body["quantity"] for body in intended), default=Decimal(0))
    found = [f"a process ended with {end}" for end in ends if end != 0]
    ids = [order.client_order_id for order in truth.orders]
    if len(ids) != len(set(ids)) or set(ids) != {body["client_order_id"] for body in intended}:
        found.append(f"{len(ids)} orders at the venue, {len(intended)} intended")
    if spent > budget:
        found.append(f"{spent} USD spent, the budget is {budget}")
    if budget - spent >= largest:
        found.append(f"{budget - spent} USD left, although an order costs at most {largest}")
    other = {code for code in codes if code not in ("Acknowledged", "DAILY_BUDGET")}
    found += [f"some orders ended in {code}" for code in sorted(other)]
    check = verify(home.journal)
    found += [] if check.ok else [f"the chain: {check.why}"]
    refused = sum(1 for code in codes if code == "DAILY_BUDGET")
    return Raced(budget, spent, largest, len(codes), len(ids), refused, tuple(found))


def _read(path: Path) -> list[str]:
    codes: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return codes
