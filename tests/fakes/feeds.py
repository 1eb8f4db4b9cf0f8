"""An action feed that says what a test wrote down, or nothing, or fails."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

from core.domain import ActionKind, CorporateAction, Symbol
from core.errors import DataError


@dataclass
class FakeFeed:
    """`known` is what anybody announced; `down` makes every question fail."""

    known: list[CorporateAction] = field(default_factory=list)
    down: bool = False
    asked: int = 0

    def actions(self, symbols: Collection[Symbol], since: date) -> Sequence[CorporateAction]:
        self.asked += 1
        if self.down:
            raise DataError("the feed does not answer", code="ACTIONS_UNKNOWN")
        wanted = set(symbols)
        found = [a for a in self.known if wanted & {a.symbol, a.other} and a.ex_date > since]
        return sorted(found, key=lambda a: a.ex_date)


def action(kind: ActionKind, symbol: str, ex_date: date, **more: Any) -> CorporateAction:
    """`ratio` and `price_factor` may be text like "4" or "1/8", `cash_per_share` text, `other` a symbol."""
    values: dict[str, Any] = {"source": "alpaca", **more}
    for name in ("ratio", "price_factor"):
        if values.get(name) is not None:
            values[name] = Fraction(values[name])
    if values.get("cash_per_share") is not None:
        values["cash_per_share"] = Decimal(values["cash_per_share"])
    return CorporateAction(kind=kind, symbol=Symbol(symbol), ex_date=ex_date, **values)
