"""Limit prices from a quote: offset from the near side, clamped to a distance from the last trade, on the tick grid."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

from core.domain import Breach, Quote, Side

if TYPE_CHECKING:
    from core.money import TickRow

_BPS = Decimal(10_000)


def _usable(price: Decimal | None) -> bool:
    return price is not None and price.is_finite() and price > 0


def entry_limit(
    quote: Quote, offset_bps: float | Decimal, max_clamp_bps: float | Decimal, ticks: Sequence[TickRow], on: date
) -> Decimal | Breach:
    """min(ask × (1 + offset), last × (1 + clamp)), rounded down. A limit that ends below the ask is a refusal:
    the ask has run away from the last trade, and an IOC there could only miss."""
    from core.money import to_limit_price

    if quote.ask is None or quote.last is None or not (_usable(quote.ask) and _usable(quote.last)):
        return Breach(code="QUOTE_ONE_SIDED", observed=f"ask {quote.ask} last {quote.last}", limit="above 0")
    highest = quote.last * (1 + Decimal(str(max_clamp_bps)) / _BPS)
    wanted = quote.ask * (1 + Decimal(str(offset_bps)) / _BPS)
    price = to_limit_price(min(wanted, highest), Side.BUY, on, ticks)
    if price < quote.ask:
        return Breach(code="CLAMP_BELOW_ASK", observed=str(quote.ask), limit=str(price))
    return price


def exit_limit(
    quote: Quote, offset_bps: float | Decimal, max_clamp_bps: float | Decimal, ticks: Sequence[TickRow], on: date
) -> Decimal | Breach:
    """max(bid × (1 - offset), last × (1 - clamp)), rounded up, and a refusal when that ends above the bid.
    Without a last trade the bid alone decides: an exit must not hang on a missing print."""
    from core.money import to_limit_price

    if quote.bid is None or not _usable(quote.bid):
        return Breach(code="QUOTE_ONE_SIDED", observed=f"bid {quote.bid}", limit="above 0")
    wanted = quote.bid * (1 - Decimal(str(offset_bps)) / _BPS)
    if quote.last is not None and _usable(quote.last):
        wanted = max(wanted, quote.last * (1 - Decimal(str(max_clamp_bps)) / _BPS))
    price = to_limit_price(wanted, Side.SELL, on, ticks)
    if price > quote.bid:
        return Breach(code="CLAMP_ABOVE_BID", observed=str(quote.bid), limit=str(price))
    return price
