"""What an order was decided on, as plain values, and back: told by the session, read by those who work a day out again.

Money and prices are text, so that no digit changes. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from core.canonical import canonical_json
from core.domain import ExitReason, Order, OrderIntent, Quote, Side, Signal, Symbol, TradingState
from core.ports import Admission
from execution.ledger import Trade, decimal_of
from risk.gate import Book

Noted = Callable[[str, Mapping[str, Any]], None]
"""(kind, facts) of one order, handed to whoever keeps them; it may not raise."""


def _text(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


def quote_value(quote: Quote | None) -> dict[str, Any] | None:
    if quote is None:
        return None
    prices = {name: _text(getattr(quote, name)) for name in ("bid", "ask", "last")}
    return {"symbol": str(quote.symbol), "at": quote.at.isoformat(), **prices}


def quote_from(value: Mapping[str, Any] | None) -> Quote | None:
    if value is None:
        return None
    prices = {name: decimal_of(value[name]) for name in ("bid", "ask", "last")}
    return Quote(symbol=Symbol(value["symbol"]), at=_instant(value["at"]), **prices)


def quote_facts(
    signal: Signal, scale: Decimal, quote: Quote | None, seq: int, kept_usd: Decimal = Decimal(0)
) -> dict[str, Any]:
    """One entry as it begins: its signal is in the scan's picks. `kept_usd`: room that is not its own to use."""
    return {
        "decision_id": signal.decision_id, "symbol": str(signal.symbol), "seq": seq, "scale": str(scale),
        "close": signal.close, "stop": signal.stop, "quote": quote_value(quote), "kept_usd": str(kept_usd),
    }  # fmt: skip


def sent_facts(order: Mapping[str, Any]) -> dict[str, Any]:
    """One request body as it leaves, after the last door has let it pass: canonical JSON, to be compared as text."""
    return {
        "client_order_id": str(order.get("client_order_id")), "symbol": str(order.get("symbol")), "seq": -1,
        "body": canonical_json(dict(order)),
    }  # fmt: skip


class NotedDoor:
    """core.ports.Admission: what `inner` admits is told before its bytes leave. `noted` may not raise."""

    def __init__(self, inner: Admission, noted: Callable[[Mapping[str, Any]], None]) -> None:
        self._inner, self._noted = inner, noted

    def admit(self, order: Mapping[str, Any], *, despite_halt: bool) -> None:
        self._inner.admit(order, despite_halt=despite_halt)
        self._noted(order)

    def cancelling(self, path: str) -> None:
        self._inner.cancelling(path)


def leave_facts(trade: Trade, quote: Quote | None, why: ExitReason, seq: int) -> dict[str, Any]:
    return {
        "decision_id": trade.decision_id, "symbol": str(trade.symbol), "seq": seq, "reason": str(why),
        "quote": quote_value(quote),
    }  # fmt: skip


def gate_facts(intent: OrderIntent, book: Book, seq: int) -> dict[str, Any]:
    """What the broker and the plan said; what the journal says is read from the journal up to `seq`."""
    return {
        "decision_id": intent.decision_id, "client_order_id": intent.client_order_id, "symbol": str(intent.symbol),
        "seq": seq, "decided_at": intent.decided_at.isoformat(), "book": {
            "now": book.now.isoformat(), "session": None if book.session is None else book.session.isoformat(),
            "session_open": book.session_open, "closes_at": None if book.closes_at is None else
            book.closes_at.isoformat(), "positions": {str(s): int(q) for s, q in sorted(book.positions.items())},
            "open_orders": [_order_value(order) for order in book.open_orders],
            "marks": {str(s): str(book.marks[s]) for s in sorted(book.positions) if s in book.marks},
            "quote": quote_value(book.quote), "tradable": book.tradable, "vix": book.vix,
            "equity": _text(book.equity), "cash": _text(book.cash), "trading_state": str(book.trading_state),
        },
    }  # fmt: skip


def book_from(
    value: Mapping[str, Any], *, vix: float | None, returns: Any, sectors: Mapping[Symbol, str | None]
) -> Book:
    """The book of a `gate` row; what the scan's own data told is handed in, and may be another's."""
    return Book(
        now=_instant(value["now"]),
        session=None if value["session"] is None else date.fromisoformat(value["session"]),
        session_open=bool(value["session_open"]),
        closes_at=None if value["closes_at"] is None else _instant(value["closes_at"]),
        positions={Symbol(s): int(q) for s, q in value["positions"].items()},
        open_orders=[_order_from(row) for row in value["open_orders"]],
        marks={Symbol(s): Decimal(usd) for s, usd in value["marks"].items()},
        quote=quote_from(value["quote"]), tradable=value["tradable"], vix=vix, returns=returns, sectors=sectors,
        equity=decimal_of(value["equity"]), cash=decimal_of(value["cash"]),
        trading_state=TradingState(value["trading_state"]),
    )  # fmt: skip


_ORDER_TEXT = ("id", "client_order_id", "kind", "tif", "status")


def _order_value(order: Order) -> dict[str, Any]:
    return {
        **{name: str(getattr(order, name)) for name in _ORDER_TEXT}, "symbol": str(order.symbol),
        "side": str(order.side), "quantity": order.quantity, "filled_quantity": order.filled_quantity,
        "limit_price": _text(order.limit_price), "stop_price": _text(order.stop_price),
    }  # fmt: skip


def _order_from(row: Mapping[str, Any]) -> Order:
    words: dict[str, Any] = {name: str(row[name]) for name in _ORDER_TEXT}
    return Order(
        **words, symbol=Symbol(row["symbol"]), side=Side(row["side"]),
        quantity=int(row["quantity"]), filled_quantity=int(row["filled_quantity"]), filled_price=None,
        limit_price=decimal_of(row["limit_price"]), stop_price=decimal_of(row["stop_price"]),
    )  # fmt: skip


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
