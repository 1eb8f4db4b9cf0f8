"""Builders for intents, books and desks, with numbers that pass every limit unless a test changes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from core.clock import SteppedClock
from core.domain import OrderIntent, OrderKind, Purpose, Quote, Side, Symbol, Tif, TradingState
from core.journal import Journal
from core.money import TickRow
from execution.desk import Desk
from risk.gate import Book, Limits
from tests.fakes.fake_broker import FakeBroker

NOW = datetime(2024, 3, 5, 15, 0, tzinfo=UTC)
TODAY = date(2024, 3, 5)
AAA = Symbol("AAA")
TICKS = (
    TickRow(effective=date(2005, 1, 1), min_price=Decimal("1.00"), tick=Decimal("0.01")),
    TickRow(effective=date(2005, 1, 1), min_price=Decimal("0"), tick=Decimal("0.0001")),
)
CALM = np.full(60, -0.001)


def limits(**changes: Any) -> Limits:
    values: dict[str, Any] = {
        "per_order_max_usd": Decimal("75"),
        "daily_budget_usd": Decimal("1000"),
        "position_limit": 10,
        "one_position_per_symbol": True,
        "cash_only": True,
        "var_limit_fraction": 0.02,
        "vix_halve_from": 25.0,
        "vix_stop_above": 35.0,
        "max_correlation": None,
        "max_sector_fraction": 0.40,
        "max_single_name_fraction": 0.25,
        "quote_max_age_s": 60.0,
        "max_spread_bps": Decimal("100"),
        "max_clamp_bps": Decimal("50"),
        "clock_skew_max_s": 10.0,
        "close_margin_s": 60.0,
        "ticks": TICKS,
    }
    return Limits(**{**values, **changes})


def entry(
    symbol: str = "AAA",
    *,
    price: str = "50.10",
    quantity: int = 1,
    stop: str | None = "45.00",
    attempt: int = 1,
    tif: Tif = Tif.IOC,
    target_r: float | None = None,
    at: datetime = NOW,
) -> OrderIntent:
    return OrderIntent(
        decision_id=f"20240304-ibs_rsi-{symbol}",
        symbol=Symbol(symbol),
        side=Side.BUY,
        quantity=quantity,
        purpose=Purpose.ENTRY,
        kind=OrderKind.LIMIT,
        tif=tif,
        decided_at=at,
        strategy="ibs_rsi",
        signal_session=date(2024, 3, 4),
        attempt=attempt,
        limit_price=Decimal(price),
        stop_price=None if stop is None else Decimal(stop),
        target_r=target_r,
        time_stop_bars=7,
    )


def sell(
    symbol: str = "AAA", *, quantity: int = 1, purpose: Purpose = Purpose.EXIT, price: str = "49.90", attempt: int = 1
) -> OrderIntent:
    market = purpose is Purpose.CLOSE
    return OrderIntent(
        decision_id=f"20240304-ibs_rsi-{symbol}",
        symbol=Symbol(symbol),
        side=Side.SELL,
        quantity=quantity,
        purpose=purpose,
        kind=OrderKind.MARKET if market else OrderKind.LIMIT,
        tif=Tif.DAY if market else Tif.IOC,
        decided_at=NOW,
        strategy="ibs_rsi",
        signal_session=date(2024, 3, 4),
        attempt=attempt,
        limit_price=None if market else Decimal(price),
    )


def quote(
    symbol: str = "AAA",
    *,
    bid: str | None = "49.99",
    ask: str | None = "50.00",
    last: str | None = "50.00",
    at: datetime = NOW,
) -> Quote:
    prices = {k: None if v is None else Decimal(v) for k, v in (("bid", bid), ("ask", ask), ("last", last))}
    return Quote(symbol=Symbol(symbol), at=at, **prices)


def book(symbol: str = "AAA", **changes: Any) -> Book:
    returns: Mapping[Symbol, Any] = {Symbol(symbol): CALM}
    values: dict[str, Any] = {
        "now": NOW,
        "session": TODAY,
        "session_open": True,
        "closes_at": NOW + timedelta(hours=6),
        "quote": quote(symbol),
        "tradable": True,
        "vix": 15.0,
        "trading_state": TradingState.ACTIVE,
        "returns": returns,
        "sectors": {Symbol(symbol): "Tech"},
        "equity": Decimal("100000"),
        "cash": Decimal("100000"),
    }
    return Book(**{**values, **changes})


class Switch:
    """A kill switch for tests."""

    def __init__(self) -> None:
        self.active = False

    def is_active(self) -> bool:
        return self.active


class Unbounded:
    """A last door that lets everything pass and remembers it: for tests of what lies behind it."""

    def __init__(self) -> None:
        self.admitted: list[Mapping[str, Any]] = []
        self.cancels: list[str] = []

    def admit(self, order: Mapping[str, Any], *, despite_halt: bool) -> None:
        self.admitted.append(order)

    def cancelling(self, path: str) -> None:
        self.cancels.append(path)


@dataclass
class World:
    clock: SteppedClock
    journal: Journal
    broker: Any
    halt: Switch
    desk: Desk
    root: Path

    def restart(self) -> Desk:
        """A new process: the same disk and broker, nothing remembered."""
        self.desk = a_desk(self.root, self.clock, self.broker, self.halt)
        self.journal = self.desk.journal
        return self.desk

    def kinds(self) -> list[str]:
        return [record.kind for record in self.journal.records()]


def a_desk(root: Path, clock: SteppedClock, broker: Any, halt: Switch) -> Desk:
    journal = Journal(root / "state" / "hash_chain.jsonl", clock)
    return Desk(
        journal=journal, broker=broker, halt=halt, clock=clock, limits=limits(), lock_path=root / "state" / "desk"
    )


def world(root: Path) -> World:
    clock, halt = SteppedClock(NOW), Switch()
    broker = FakeBroker(clock)
    desk = a_desk(root, clock, broker, halt)
    return World(clock, desk.journal, broker, halt, desk, root)
