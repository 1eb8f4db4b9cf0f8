"""Implementation shortfall: what it cost to turn decisions into positions, against trading at the decision's price.

Perold, "The implementation shortfall: paper versus reality", Journal of Portfolio Management 14 (1988): the paper
portfolio trades every decided share at the decision's price and pays nothing; what reality lacks is the shortfall.
Split as in Kissell, The Science of Algorithmic Trading and Portfolio Management (2013), ch. 3, with the arrival cost
cut at the touch. For a buy of X shares, x of them filled (for a sell every price difference has the other sign):

  delay   x (m - d)         d: price of the decision; m: mid of the quote when the order was priced
  spread  x (a - m)         a: the side of that quote that the order takes: ask for a buy, bid for a sell
  impact  x (f - a)         f: average fill price
  missed  (X - x) (c - d)   c: price at the end of the session of the decision
  fees    what regulators and broker took
  total   x (f - d) + (X - x) (c - d) + fees

The five parts add up to the total exactly: everything is Decimal and only sums and products. Positive costs money.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext

_EXACT = Context(prec=200)  # enough that no product of prices and shares is ever rounded
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """One decision and what became of it. Prices USD per share."""

    buys: bool
    wanted: int  # shares decided
    filled: int
    decision: Decimal
    mid: Decimal | None  # None: no quote was looked at, as for a stop that rests: nothing is ascribed to it
    touch: Decimal | None
    fill: Decimal | None  # average; None when nothing filled
    end: Decimal | None  # at the end of the decision's session; needed when filled < wanted
    fees_usd: Decimal = _ZERO


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """USD; positive costs money. n: decisions counted; unknown: those whose prices are not all known, left out."""

    delay_usd: Decimal = _ZERO
    spread_usd: Decimal = _ZERO
    impact_usd: Decimal = _ZERO
    fees_usd: Decimal = _ZERO
    missed_usd: Decimal = _ZERO
    n: int = 0
    unknown: int = 0

    @property
    def total_usd(self) -> Decimal:
        with localcontext(_EXACT):
            return self.delay_usd + self.spread_usd + self.impact_usd + self.fees_usd + self.missed_usd


def total_usd(one: Executed) -> Decimal | None:
    """Perold's own figure, without the split; None when a price that it needs is not known."""
    if not _known(one):
        return None
    with localcontext(_EXACT):
        sign = 1 if one.buys else -1
        filled = one.filled * (one.fill - one.decision) if one.fill is not None else _ZERO
        left = one.wanted - one.filled
        missed = left * (one.end - one.decision) if left and one.end is not None else _ZERO
        return sign * (filled + missed) + one.fees_usd


def _known(one: Executed) -> bool:
    return not (one.filled and one.fill is None) and not (one.wanted > one.filled and one.end is None)


def shortfall(decisions: Iterable[Executed]) -> Shortfall:
    """Raises ValueError for more shares filled than wanted, or fewer than none."""
    total = Shortfall()
    for one in decisions:
        if not 0 <= one.filled <= one.wanted:
            raise ValueError(f"{one.filled} of {one.wanted} shares cannot have filled")
        total = _plus(total, _split(one))
    return total


def _split(one: Executed) -> Shortfall:
    if not _known(one):
        return Shortfall(unknown=1)
    with localcontext(_EXACT):
        sign = 1 if one.buys else -1
        fill = one.decision if one.fill is None else one.fill
        touch = one.decision if one.touch is None else one.touch
        mid = touch if one.mid is None else one.mid
        left = one.wanted - one.filled
        return Shortfall(
            delay_usd=sign * one.filled * (mid - one.decision),
            spread_usd=sign * one.filled * (touch - mid),
            impact_usd=sign * one.filled * (fill - touch),
            fees_usd=one.fees_usd,
            missed_usd=sign * left * (one.end - one.decision) if left and one.end is not None else _ZERO,
            n=1,
        )


def _plus(one: Shortfall, other: Shortfall) -> Shortfall:
    with localcontext(_EXACT):
        return Shortfall(
            delay_usd=one.delay_usd + other.delay_usd, spread_usd=one.spread_usd + other.spread_usd,
            impact_usd=one.impact_usd + other.impact_usd, fees_usd=one.fees_usd + other.fees_usd,
            missed_usd=one.missed_usd + other.missed_usd, n=one.n + other.n, unknown=one.unknown + other.unknown,
        )  # fmt: skip
