"""What became of the decisions at the broker, from the journal and the recorded quotes: outcomes, and shortfall."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from core.bars_io import to_day
from core.domain import ExitReason, Purpose, Quote
from core.errors import KobeError
from execution.ledger import LedgerOrder, Trade, new_york_day
from execution.recorded import quote_from
from portfolio.backtest.costs import CostModel
from portfolio.backtest.parity import Cause
from portfolio.backtest.shortfall import Executed
from scripts import wiring

if TYPE_CHECKING:
    from core.panel import Panel
    from scripts.recomputing import Happened, Kept, RecordedDay, Row

_HANDS = frozenset({"positions_synced", "position_adopted", "close_all_done"})
_MICRO = Decimal("0.000001")


# ---------------------------------------------------------------- outcomes
def what_became(days: Sequence[RecordedDay], happened: Happened) -> list[dict[str, Any]]:
    """Orders of these days that did not do what was decided, and what people did by hand."""
    span = {day.day for day in days}
    rows = [
        _outcome(order, cause, f"{order.filled_quantity} of {order.intent.quantity} filled, {order.status}")
        for order in happened.last.orders.values()
        if new_york_day(order.intended_at) in span and (cause := _cause(order)) is not None
    ]
    for record in happened.records:
        if record.kind in _HANDS and new_york_day(record.at) in span:
            rows.append({
                "day": new_york_day(record.at).isoformat(), "decision": record.kind,
                "symbol": record.body.get("symbol"), "cause": str(Cause.MANUAL), "detail": f"journal {record.seq}",
            })  # fmt: skip
    return sorted(rows, key=lambda row: (row["day"], row["decision"]))


def _outcome(order: LedgerOrder, cause: Cause, detail: str) -> dict[str, Any]:
    day = new_york_day(order.intended_at).isoformat()
    name, symbol = order.client_order_id, str(order.intent.symbol)
    return {"day": day, "decision": name, "symbol": symbol, "cause": str(cause), "detail": detail}


def _cause(order: LedgerOrder) -> Cause | None:
    if order.intent.purpose is Purpose.CLOSE:
        return Cause.MANUAL
    if order.end == "rejected":
        return Cause.ORDER_REJECTED
    if order.unknown is not None:
        return Cause.UNKNOWN
    if order.intent.purpose is Purpose.PROTECT:
        return None  # it rests, and fills or is cancelled as it should
    if order.end == "not_sent":
        return Cause.KILL_SWITCH if order.status == "KILL_SWITCH" else Cause.BROKER
    if order.end is None or order.filled_quantity == order.intent.quantity:
        return None
    return Cause.ORDER_PARTIAL if order.filled_quantity else Cause.ORDER_UNFILLED


# ---------------------------------------------------------------- shortfall
def executed_decisions(
    context: wiring.Context, days: Sequence[RecordedDay], happened: Happened, kept: Kept
) -> Iterator[Executed]:
    """Entries, exits at a scan, and stops and targets that rested, each once."""
    prices = _Prices(days, kept)
    fees = CostModel.from_settings(context.settings.costs)
    told: set[tuple[str, str]] = set()
    for day in days:
        for row in day.rows:
            key = (row["kind"], str(row.get("decision_id")))
            if row["kind"] in ("quote", "leave") and key not in told:
                told.add(key)
                found = (_entry if row["kind"] == "quote" else _exit)(row, day.day, happened, prices, fees)
                if found is not None:
                    yield found
    span = {day.day for day in days}
    for order in happened.last.orders.values():
        at = order.filled_at if order.intent.purpose is Purpose.PROTECT and order.filled_quantity else None
        if at is not None and new_york_day(at) in span:
            yield _rested(order, happened.last.trades.get(order.intent.decision_id), fees)


def _entry(row: Row, day: date, happened: Happened, prices: _Prices, fees: CostModel) -> Executed | None:
    """None when the pick never became an order: then no number of shares was decided."""
    quote = quote_from(row["quote"])
    orders = [o for o in _orders(happened, row["decision_id"], Purpose.ENTRY) if new_york_day(o.intended_at) == day]
    if not orders or quote is None:
        return None
    wanted = max(o.intent.quantity for o in orders)
    filled, price = _filled(orders)
    decision = Decimal(repr(float(row["close"])))
    end = prices.close(row["symbol"], day, row) if filled < wanted else None
    return Executed(
        buys=True, wanted=max(wanted, filled), filled=filled, decision=decision, mid=_mid(quote), touch=quote.ask,
        fill=price, end=end,
    )  # fmt: skip


def _exit(row: Row, day: date, happened: Happened, prices: _Prices, fees: CostModel) -> Executed | None:
    quote = quote_from(row["quote"])
    orders = [o for o in _orders(happened, row["decision_id"], Purpose.EXIT) if new_york_day(o.intended_at) == day]
    if not orders or quote is None:
        return None
    wanted = max(o.intent.quantity for o in orders)
    filled, price = _filled(orders)
    at_close = row["reason"] in (ExitReason.IBS, ExitReason.RSI)  # decided at that close; a time stop at the scan
    decision = prices.last_close(row["symbol"], day) if at_close else _mid(quote)
    if decision is None:
        decision = _mid(quote)
    end = prices.close(row["symbol"], day, None) if filled < wanted else None
    return Executed(
        buys=False, wanted=max(wanted, filled), filled=filled, decision=decision or Decimal(0), mid=_mid(quote),
        touch=quote.bid, fill=price, end=end, fees_usd=_fees(fees, price, filled, day),
    )  # fmt: skip


def _rested(order: LedgerOrder, trade: Trade | None, fees: CostModel) -> Executed:
    """A stop or target decides its own price in advance; what the fill misses of it is impact."""
    assert order.filled_at is not None and order.filled_price is not None
    intent = order.intent
    above = trade is not None and order.filled_price > trade.entry_price and intent.limit_price is not None
    decision = intent.limit_price if above else intent.stop_price
    filled, day = order.filled_quantity, new_york_day(order.filled_at)
    return Executed(
        buys=False, wanted=filled, filled=filled, decision=decision or order.filled_price, mid=None, touch=None,
        fill=order.filled_price, end=None, fees_usd=_fees(fees, order.filled_price, filled, day),
    )  # fmt: skip


def _orders(happened: Happened, decision_id: str, purpose: Purpose) -> list[LedgerOrder]:
    from core.domain import Side

    side = Side.BUY if purpose is Purpose.ENTRY else Side.SELL
    return list(happened.last.attempts(decision_id, side, purpose))


def _filled(orders: Sequence[LedgerOrder]) -> tuple[int, Decimal | None]:
    """Shares and their average price; the quotient of sums is a Decimal of 28 digits."""
    known = [(o.filled_quantity, o.filled_price) for o in orders if o.filled_quantity and o.filled_price is not None]
    total = sum(quantity for quantity, _ in known)
    if not total:
        return 0, None
    if len(known) == 1:
        return known[0]
    return total, sum((price * quantity for quantity, price in known), Decimal(0)) / total


def _mid(quote: Quote) -> Decimal | None:
    if quote.bid is not None and quote.ask is not None:
        return (quote.bid + quote.ask) / 2
    return quote.last


def _fees(model: CostModel, price: Decimal | None, shares: int, day: date) -> Decimal:
    """The journal has no fees, the broker books them a day later: these are the tables' (config/base.yaml, costs)."""
    if price is None or not shares:
        return Decimal(0)
    value, count = np.array([float(price * shares)]), np.array([float(shares)])
    return Decimal(repr(float(model.sale_fees(value, count, np.array([to_day(day)]))[0]))).quantize(_MICRO)


class _Prices:
    """Closes as the scans saw them: of the session that a scan decided on, from its kept bars."""

    def __init__(self, days: Sequence[RecordedDay], kept: Kept) -> None:
        self._kept = kept
        self._of: dict[str, Row] = {}
        self._by_run: dict[str, Row] = {}
        for day in days:
            for row in day.rows:
                if row["kind"] == "scan":
                    self._of.setdefault(str(row["session"]), row)
                    self._by_run.setdefault(day.day.isoformat(), row)

    def close(self, symbol: str, session: date, quote: Row | None) -> Decimal | None:
        """Of `session`, in the shares of the day of the quote: a split the night after would show as a loss."""
        panel = self._panel(self._of.get(session.isoformat()))
        found = None if panel is None else _close_at(panel, symbol, session)
        if found is None or panel is None or quote is None:
            return found
        of_signal = date.fromisoformat(
            f"{quote['decision_id'][:4]}-{quote['decision_id'][4:6]}-{quote['decision_id'][6:8]}"
        )
        before = _close_at(panel, symbol, of_signal)
        was = Decimal(repr(float(quote["close"])))
        return found if before is None or before == was else found * was / before

    def last_close(self, symbol: str, day: date) -> Decimal | None:
        """The close that the scans of this day decided on."""
        row = self._by_run.get(day.isoformat())
        panel = self._panel(row)
        return None if panel is None or row is None else _close_at(panel, symbol, date.fromisoformat(row["session"]))

    def _panel(self, row: Row | None) -> Panel | None:
        try:
            return None if row is None else self._kept.panel(row)
        except KobeError:
            return None


def _close_at(panel: Panel, symbol: str, session: date) -> Decimal | None:
    if symbol not in panel.symbols:
        return None
    column = panel.symbols.index(symbol)
    index = panel.session_index[: int(panel.length[column]), column]
    row = int(np.searchsorted(panel.sessions[index], to_day(session)))
    if row == len(index) or panel.sessions[index[row]] != to_day(session):
        return None
    return Decimal(repr(float(panel.close[row, column])))
