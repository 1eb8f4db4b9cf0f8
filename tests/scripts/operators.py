"""A home with 12 HELD and 12 DUE at 5.00, their stops resting at an in-memory broker, and the commands run on it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core import cli
from core.clock import SystemClock
from core.domain import Purpose, Side, Symbol
from core.journal import Journal
from execution import evidence, orphans
from execution.fold import fold_of
from execution.ledger import Ledger
from execution.protection import repair
from tests.fakes.fake_broker import FakeBroker
from tests.fakes.feeds import FakeFeed
from tests.fakes.scans import calendar_2024
from tests.fakes.trading import CALM, Switch, a_desk, book, entry

HELD, DUE, NEW = (Symbol(s) for s in ("HELD", "DUE", "NEW"))
SHARES, PRICE = 12, Decimal("5.00")


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        found: dict[str, Any] = json.loads(lines[0])
        return found


@dataclass
class Operator:
    """Who types commands. `broker` and `feed` are what the commands then see."""

    home: Path
    broker: FakeBroker
    capsys: pytest.CaptureFixture[str]
    feed: FakeFeed = field(default_factory=FakeFeed)

    def run(self, main: Callable[[Sequence[str]], int], *words: str) -> Ran:
        self.capsys.readouterr()
        code = cli.run(lambda: main(list(words)))
        said = self.capsys.readouterr()
        return Ran(code, said.out, said.err)

    @property
    def journal(self) -> Journal:
        return Journal(self.home / "state" / "hash_chain.jsonl", SystemClock())

    def ledger(self) -> Ledger:
        return fold_of(self.journal.records())

    def bodies(self, kind: str) -> list[dict[str, Any]]:
        return [dict(r.body) for r in self.journal.kinds(kind)]

    def protect_id(self, symbol: Symbol) -> str:
        return f"kobe-20240304-ibs_rsi-{symbol}-{Side.SELL}-{Purpose.PROTECT}-1"


def an_operator(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    from scripts import wiring

    clock = SystemClock()
    broker = FakeBroker(clock)
    broker.bid, broker.ask = Decimal("4.99"), PRICE
    made = Operator(home, broker, capsys)
    desk = a_desk(home, clock, broker, Switch())
    (home / "state").mkdir(parents=True, exist_ok=True)
    for symbol in (HELD, DUE):
        now = clock.now()
        seen = book(str(symbol), now=now, closes_at=now + timedelta(hours=6), returns={HELD: CALM, DUE: CALM},
                    marks={HELD: PRICE, DUE: PRICE}, sectors={HELD: "A", DUE: "B"})  # fmt: skip
        assert seen.quote is not None
        quote = replace(seen.quote, at=now, bid=Decimal("4.99"), ask=PRICE, last=PRICE)
        desk.execute(entry(str(symbol), price="5.02", quantity=SHARES, stop="4.50", at=now), replace(seen, quote=quote))
    repair(desk, book("HELD", now=clock.now()), on=clock.now().date())
    assert made.ledger().positions == {HELD: SHARES, DUE: SHARES} and len(broker.open_orders()) == 2
    for module, name in ((evidence, "SECOND_LOOK_S"), (evidence, "LAG_LOOK_S"), (orphans, "_WAIT_S")):
        monkeypatch.setattr(module, name, 0.01)  # the clock is the system's
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(wiring, "market_calendar", calendar_2024)  # no command here asks it anything
    monkeypatch.setattr(wiring, "open_broker", lambda context, **_: broker)
    monkeypatch.setattr(wiring, "action_feed", lambda context: made.feed)
    from core.paths import home as place
    from portfolio.state_manager import StateManager

    rows = {str(s): {"quantity": str(SHARES), "average_price": "5.00", "trades": []} for s in (HELD, DUE)}
    StateManager(place()).set_positions(rows)
    return made
