"""How large an account could trade these signals before its orders become a noticeable part of a day's volume. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portfolio.strategies.indicators import Floats


@dataclass(frozen=True, slots=True)
class Capacity:
    """account_usd: None when no order's volume is known. `unknown` orders are in no figure."""

    account_usd: float | None
    account_usd_for_95_pct: float | None  # the thinnest 5 % of orders left out
    participation: float
    order_share: float  # of the account that one order is
    orders: int
    unknown: int


def capacity(dollar_volume: Floats, order_share: float, participation: float) -> Capacity:
    """Largest account at which every order stays within `participation` of its symbol's daily dollar volume.

    dollar_volume (n_orders,) USD a session at the signal, NaN = not known · order_share: an order is this part of the
    account, the largest an order may be.
    """
    known = dollar_volume[np.isfinite(dollar_volume) & (dollar_volume > 0)]
    most = np.sort(known) * participation / order_share
    return Capacity(
        account_usd=float(most[0]) if most.size else None,
        account_usd_for_95_pct=float(most[int(0.05 * most.size)]) if most.size else None,
        participation=participation,
        order_share=order_share,
        orders=int(known.size),
        unknown=int(dollar_volume.size - known.size),
    )
