"""A home whose journal is written record by record: reviews, entries, exits, as the planner and the desk write them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from core.clock import SteppedClock
from core.domain import OrderIntent, OrderKind, Purpose, Side, Symbol, Tif
from core.journal import Journal
from execution.fold import fold_of
from execution.ledger import Ledger, intent_body
from scripts.remembering import Remembering
from scripts.wiring import Context
from tests.fakes.grounds import a_context
from tests.fakes.trading import NOW

NUMBERS = {"close": 50.0, "stop": 47.5, "sma": 45.0, "atr": 1.2, "dollar_volume": 2e7, "ibs": 0.05, "rsi": 3.0}


class Life:
    """`wait` moves the clock; everything else is written at the clock's instant."""

    def __init__(self, root: Path, at: datetime = NOW) -> None:
        self.root = root
        self.context: Context = a_context(root, at=at)
        assert isinstance(self.context.clock, SteppedClock)
        self.clock = self.context.clock
        self.journal = Journal(self.context.home.journal, self.clock)
        self.asked = 0  # how often the ledger was asked for

    # ------------------------------------------------------------ reading
    def ledger(self) -> Ledger:
        self.asked += 1
        return fold_of(self.journal.records())

    def remembering(self) -> Remembering:
        """A new process on this home."""
        return Remembering(self.context, Journal(self.context.home.journal, self.clock), self.ledger)

    @property
    def file(self) -> Path:
        return self.context.home.state / "episodic_memory.json"

    def set(self, path: str, **changes: Any) -> None:
        """Other settings: `cognitive.<path>`."""
        cognitive = self.context.settings.cognitive
        section = getattr(cognitive, path).model_copy(update=changes)
        cognitive = cognitive.model_copy(update={path: section})
        self.context.settings = self.context.settings.model_copy(update={"cognitive": cognitive})

    # ------------------------------------------------------------ writing
    def wait(self, **by: float) -> None:
        self.clock.advance(timedelta(**by))

    def decision(self, symbol: str, strategy: str = "ibs_rsi") -> str:
        return f"{self.clock.now():%Y%m%d}-{strategy}-{symbol}"

    def review(self, *symbols: str, strategy: str = "ibs_rsi", regime: str = "calm", **changes: Any) -> None:
        rows = [self.row(symbol, strategy, **changes) for symbol in symbols]
        self.journal.append("signals_reviewed", {
            "run": "r", "session": (self.clock.now().date() - timedelta(days=1)).isoformat(), "vix": 15.0,
            "regime": {"label": regime, "since": None, "probability": None, "source": "rule", "code": "OK"},
            "signals": rows,
        })  # fmt: skip

    def row(
        self, symbol: str, strategy: str = "ibs_rsi", *, score: float = 60.0, confidence: float | None = 0.6,
        scale: str = "1", numbers: Mapping[str, float] = NUMBERS, probability: float | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        return {
            "decision_id": self.decision(symbol, strategy), "symbol": symbol, "strategy": strategy, "score": score,
            "parts": {"strength": score}, "numbers": dict(numbers),
            "opinion": {"probability": probability, "code": "MODEL_ABSENT", "model": None},
            "review": {"scale": scale, "codes": [], "confidence": confidence},
            "without_llm": {"scale": scale, "codes": []}, "llm": None,
        }  # fmt: skip

    def intent(self, decision_id: str, side: Side, purpose: Purpose, price: str, **changes: Any) -> OrderIntent:
        facts: dict[str, Any] = {
            "decision_id": decision_id, "symbol": Symbol(decision_id.split("-")[2]), "side": side, "quantity": 2,
            "purpose": purpose, "kind": OrderKind.LIMIT, "tif": Tif.IOC, "decided_at": self.clock.now(),
            "strategy": decision_id.split("-")[1], "signal_session": self.clock.now().date() - timedelta(days=1),
            "attempt": 1, "limit_price": Decimal(price), "stop_price": Decimal("47.5"), "target_r": None,
            "time_stop_bars": 7,
        }  # fmt: skip
        return OrderIntent(**{**facts, **changes})

    def enter(
        self, decision_id: str, price: str = "50", *, quantity: int = 2, told: bool = True, **changes: Any
    ) -> None:
        intent = self.intent(decision_id, Side.BUY, Purpose.ENTRY, price, quantity=quantity, **changes)
        self._filled(intent, quantity, price)
        if told:
            self.journal.append("trade_opened", {"decision_id": decision_id, "symbol": str(intent.symbol)})

    def leave(
        self, decision_id: str, price: str, *, quantity: int = 2, told: bool = True, reason: str = "time",
        attempt: int = 1,
    ) -> None:  # fmt: skip
        intent = self.intent(
            decision_id, Side.SELL, Purpose.EXIT, price, quantity=quantity, reason=reason, attempt=attempt
        )
        self._filled(intent, quantity, price)
        if told:
            self.tell_closed(decision_id)

    def tell_closed(self, decision_id: str) -> None:
        self.journal.append("trade_closed", {"decision_id": decision_id, "symbol": decision_id.split("-")[2]})

    def _filled(self, intent: OrderIntent, quantity: int, price: str) -> None:
        name = {"client_order_id": intent.client_order_id}
        self.journal.append("order_intended", intent_body(intent))
        self.journal.append("order_acknowledged", {**name, "order_id": "o", "status": "new"})
        at = self.clock.now().isoformat()
        self.journal.append("order_filled", {**name, "quantity": quantity, "price": price, "at": at})
        self.journal.append("order_closed", {**name, "status": "filled", "filled_quantity": quantity,
                                             "filled_price": price})  # fmt: skip
