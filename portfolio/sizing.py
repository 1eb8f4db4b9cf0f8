"""How many whole shares one entry may be: the smallest of the risk budget, the per-order cap and the room left."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal

SCALE_ZERO = "SCALE_ZERO"
STOP_NOT_BELOW_PRICE = "STOP_NOT_BELOW_PRICE"
CAP_BELOW_ONE_SHARE = "CAP_BELOW_ONE_SHARE"
RISK_BELOW_ONE_SHARE = "RISK_BELOW_ONE_SHARE"
ROOM_BELOW_ONE_SHARE = "ROOM_BELOW_ONE_SHARE"


def shares(
    price: Decimal, stop: Decimal, per_order_max: Decimal, room: Decimal, risk_usd: Decimal, scale: Decimal
) -> tuple[int, str | None]:
    """(whole shares, None), or (0, why not one share).

    price, stop    USD per share; `price` is the limit, the most a share may cost
    per_order_max  USD per order; reaching it exactly is allowed
    room           USD the gate leaves today; never scaled
    risk_usd       USD lost if the stop is hit, at most
    scale          0..1 from the VIX table and reviewers; shrinks per_order_max and risk_usd
    Raises ValueError for what is not finite, a price that is not positive, or a scale outside 0..1.
    """
    values = (price, stop, per_order_max, room, risk_usd, scale)
    if not all(value.is_finite() for value in values) or price <= 0 or not (0 <= scale <= 1):
        raise ValueError(f"cannot size price {price}, stop {stop}, scale {scale}, limits {per_order_max}, {risk_usd}")
    if scale == 0:
        return 0, SCALE_ZERO
    if stop >= price:
        return 0, STOP_NOT_BELOW_PRICE
    by_cap = _most(per_order_max * scale, price)
    if by_cap < 1:
        return 0, CAP_BELOW_ONE_SHARE
    by_risk = _most(risk_usd * scale, price - stop)
    if by_risk < 1:
        return 0, RISK_BELOW_ONE_SHARE
    by_room = _most(room, price)
    if by_room < 1:
        return 0, ROOM_BELOW_ONE_SHARE
    return min(by_cap, by_risk, by_room), None


def _most(budget: Decimal, each: Decimal) -> int:
    """The largest whole count whose cost is within the budget; the quotient alone was rounded to 28 digits."""
    count = int((budget / each).to_integral_value(rounding=ROUND_FLOOR))
    return count if count * each <= budget else count - 1
