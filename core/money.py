"""Where estimates become money: prices on the tick grid, and broker numbers read exactly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from core.domain import Side

_NUMBER = re.compile(r"[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+)?\Z")


@dataclass(frozen=True, slots=True)
class TickRow:
    """From `effective` on, prices of at least `min_price` USD move in steps of `tick` USD."""

    effective: date
    min_price: Decimal
    tick: Decimal


def tick_size(price: Decimal, on: date, table: Sequence[TickRow]) -> Decimal:
    """The step at `price`. All rows of the latest `effective` not after `on` form that day's table.

    Raises ValueError when no row applies: a price without a known grid cannot be sent.
    """
    newest = max((row.effective for row in table if row.effective <= on), default=None)
    rows = [row for row in table if row.effective == newest and row.min_price <= price]
    if not rows:
        raise ValueError(f"no tick size for {price} on {on}")
    return max(rows, key=lambda row: row.min_price).tick


def _exact(x: float | Decimal) -> Decimal:
    made = x if isinstance(x, Decimal) else Decimal(repr(float(x)))  # float(): numpy's repr is no number
    if not (made.is_finite() and made > 0):
        raise ValueError(f"a price must be positive and finite, was {x}")
    return made


def _rounded(x: float | Decimal, on: date, table: Sequence[TickRow], rounding: str) -> Decimal:
    price = _exact(x)
    for _ in range(3):  # rounding may cross into a coarser band: once more on that band's grid
        tick = tick_size(price, on, table)
        moved = ((price / tick).to_integral_value(rounding) * tick).quantize(tick)  # 75.00, not 75.0
        if moved <= 0:
            raise ValueError(f"{x} rounds to {moved}, below the smallest price")
        if moved == price:
            return moved
        price = moved
    return price


def to_limit_price(x: float | Decimal, side: Side, on: date, table: Sequence[TickRow]) -> Decimal:
    """`x` USD on the tick grid of `on`, away from harm: a buy never pays more than x, a sell never takes less.

    Raises ValueError for what is not a positive finite price, before or after rounding.
    """
    return _rounded(x, on, table, ROUND_FLOOR if side is Side.BUY else ROUND_CEILING)


def to_stop_price(x: float | Decimal, on: date, table: Sequence[TickRow]) -> Decimal:
    """The trigger of a protective sell stop, rounded up: sooner out."""
    return _rounded(x, on, table, ROUND_CEILING)


def protective_target(
    entry_price: Decimal, stop: Decimal, target_r: float | None, on: date, table: Sequence[TickRow]
) -> Decimal | None:
    """The take-profit of a long trade, fill + target_r x (fill - stop), on the tick grid. None without a target, and
    where it would lie at or below the resting stop: a fill there has no target above it."""
    if target_r is None:
        return None
    wanted = entry_price + Decimal(str(target_r)) * (entry_price - stop)
    target = to_limit_price(wanted, Side.SELL, on, table)
    return target if target > to_stop_price(stop, on, table) else None


def dec(value: object) -> Decimal | None:
    """A broker's number, exactly: None and "" are absent, text and integers stand as they are, a float by its repr.

    Raises ValueError for NaN, infinity, booleans and anything that is no plain decimal number.
    """
    if value is None or value == "":
        return None
    if isinstance(value, Decimal):
        made = value
    elif isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is no number")
    elif isinstance(value, str):
        if not _NUMBER.match(value.strip()):  # Decimal() alone would take "1_000", "NaN" and Arabic digits
            raise ValueError(f"{value!r} is no number")
        made = Decimal(value.strip())
    else:
        made = Decimal(repr(float(value))) if isinstance(value, float) else Decimal(int(value))
    if not made.is_finite():
        raise ValueError(f"{value!r} is not finite")
    return made
