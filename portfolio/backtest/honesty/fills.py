"""Fills that nobody could have had: known only later in the same bar, at a price the market did not offer, without
costs, or larger than the market."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.bars_io import BarColumns, from_day
from portfolio.backtest.honesty.asked import Answer, Deal, Raised, Subject
from portfolio.backtest.honesty.compare import same
from portfolio.backtest.honesty.findings import Check, failed, passed, unknown
from portfolio.backtest.honesty.market import Market, changed_after_open

SAME_BAR, STALE, COSTS, CAPACITY = "same_bar_fill", "stale_fill", "costs", "capacity"
_SLIPPED_MOST = 0.02  # an open with at most so much slippage is still a fill at the open
_TICK = 0.0051  # USD; a fill may be rounded to cents
_KIND = 0.002  # a fill in our favour beyond the bar, as a part of the price, that rounding could explain
_HARSH = 0.03  # a fill against us beyond the bar that slippage could explain
_EXTREME_SHARE = 0.2  # of the fills at the very low or high, more than a resting limit could have
_LEAST_COST_BPS = 1.0  # of the value traded, both sides together: no US stock trades for less
Key = tuple[str, str, str]  # symbol, entry or exit, tag
Filled = tuple[float, frozenset[str]]  # price, style
_LOOK_BACK = 20  # bars whose median dollar volume an order is compared with


@dataclass(frozen=True, slots=True)
class Fill:
    """One side of a trade and the bar it was filled in; before: the bar before."""

    deal: Deal
    is_entry: bool
    day: int
    price: float
    buys: bool
    bars: BarColumns | None
    at: int  # row of the bar, -1: the symbol has no bar that day

    def bar(self, field: str, back: int = 0) -> float:
        return float(getattr(self.bars, field)[self.at - back]) if self.at - back >= 0 else float("nan")

    def __str__(self) -> str:
        side = "entry" if self.is_entry else "exit"
        return f"{side} of {self.deal.symbol} on {from_day(self.day)} at {self.price:.6g}"


def fills_of(market: Market, deals: Sequence[Deal]) -> list[Fill]:
    out = []
    for deal in deals:
        own = market.bars.get(deal.symbol)
        sides = [(True, deal.entry, deal.entry_price, deal.long)]
        if deal.exit is not None and deal.exit_price is not None:
            sides.append((False, deal.exit, deal.exit_price, not deal.long))
        for is_entry, day, price, buys in sides:
            out.append(Fill(deal, is_entry, day, price, buys, own, _row(own, day)))
    return out


def _row(own: BarColumns | None, day: int) -> int:
    if own is None:
        return -1
    at = int(np.searchsorted(own.dates, day))
    return at if at < len(own) and own.dates[at] == day else -1


# ---------------------------------------------------------------- stale
def stale_fill(market: Market, answer: Answer) -> Check:
    """Every fill in a session the symbol traded, at a price of that bar."""
    fills = fills_of(market, answer.deals)
    if not fills:
        return unknown(STALE, "no trade", code="NO_TRADES")
    wrong = [(fill, found) for fill in fills if (found := _impossible(fill))]
    late = [fill for fill in fills if fill.at > 0 and _is_before(fill)]
    if not wrong and len(late) > max(1, len(fills) // 4):
        wrong = [(fill, ("FILLED_AT_EARLIER_CLOSE", "is the close of the bar before")) for fill in late]
    if wrong:
        fill, (code, why) = wrong[0]
        return failed(
            STALE, len(fills), f"{fill} {why}; {len(wrong)} of {len(fills)} fills", code=code, blame=str(fill)
        )
    unsure = sum(1 for fill in fills if not np.isfinite(fill.bar("volume")))
    if unsure:
        return unknown(STALE, f"{unsure} fills in bars without a volume", code="VOLUME_UNKNOWN", n=len(fills))
    return passed(STALE, len(fills), "every fill in a bar with volume, at a price within it")


def _impossible(fill: Fill) -> tuple[str, str] | None:
    if fill.at < 0:
        return "NO_BAR", "has no bar that day"
    o, h, low, c, volume = (fill.bar(f) for f in ("open", "high", "low", "close", "volume"))
    if not np.isfinite([o, h, low, c]).all():
        return "NO_BAR", "is in a bar without prices"
    if volume == 0:
        return "NO_VOLUME", "is in a bar in which nothing was traded"
    if not (np.isfinite(fill.price) and fill.price > 0):
        return "PRICE_INVALID", "has no valid price"
    before = [fill.bar(f, 1) for f in ("open", "high", "low", "close", "volume")]
    if [o, h, low, c, volume] == before:
        return "REPEATED_BAR", "is in a bar that repeats the one before to the last digit"
    room = _TICK + _KIND * fill.price
    top, bottom = max(h, o, c), min(low, o, c)
    harsh = _TICK + _HARSH * fill.price
    above, below = (harsh, room) if fill.buys else (room, harsh)
    if fill.price > top + above or fill.price < bottom - below:
        return "OUTSIDE_BAR", f"is outside the bar's {bottom:.6g} to {top:.6g}"
    return None


def _is_before(fill: Fill) -> bool:
    close = fill.bar("close", 1)
    return same(fill.price, close) and not (same(close, fill.bar("open")) or same(close, fill.bar("close")))


# ---------------------------------------------------------------- same bar
def same_bar_fill(
    subject: Subject, market: Market, base: Answer, most: int, *, drops_open: bool
) -> tuple[Check, bool]:  # fmt: skip
    """A fill must not depend on what its own bar did after it.

    drops_open: see compare.trades_differ. Also returns whether what was found is a trade that claims to have been
    decided on an earlier day.
    """
    fills = [f for f in fills_of(market, base.deals) if f.at >= 0]
    if not fills:
        return unknown(SAME_BAR, "no trade in a bar", code="NO_TRADES"), False
    extreme = _at_extremes(fills)
    if extreme is not None:
        return extreme, False
    styles, asked, n = Styles.of(fills), 0, 0
    for day, close_only in _bars_to_turn(fills, most):
        changed = changed_after_open(market, day, close_only=close_only)
        answer = subject.ask(changed)
        if isinstance(answer, Raised):
            continue
        asked += 1
        ours = _filled_on(day, market, base, styles, close_only)
        theirs = _filled_on(day, changed, answer, styles, close_only)
        n += max(len(ours), 1)
        stuck = _never_over(day, base, answer) if drops_open else set()
        wrong = _first_difference(ours, theirs, stuck)
        if wrong is not None:
            return _knows(wrong, day, n, close_only), _decided_before(wrong[1], day, (base, answer))
    if not asked:
        return unknown(SAME_BAR, "the strategy raised whenever it was asked", code="RAISED_WHEN_ASKED"), False
    return passed(SAME_BAR, n, f"{asked} bars with another outcome change no fill made before it"), False


def _never_over(day: int, base: Answer, other: Answer) -> set[str]:
    """Symbols in which one of the two enters nothing later, so that a trade of this day may only not have been told."""
    later = [{d.symbol for d in answer.deals if d.entry > day} for answer in (base, other)]
    return {d.symbol for answer in (base, other) for d in answer.deals} - (later[0] & later[1])


def _knows(wrong: tuple[str, Key], day: int, n: int, close_only: bool) -> Check:
    what, (symbol, side, _) = wrong
    fill = f"{side} of {symbol} on {from_day(day)}"
    part = "close and volume" if close_only else "outcome after the open"
    told = f"{fill} {what} when that bar has another {part}"
    return failed(SAME_BAR, n, told, code="KNOWS_ITS_OWN_BAR", blame=fill)


def _decided_before(key: Key, day: int, answers: Sequence[Answer]) -> bool:
    symbol, side, _ = key
    deals = [d for answer in answers for d in answer.deals if d.symbol == symbol and d.entry == day]
    return side == "entry" and any(d.signal is not None and d.signal < day for d in deals)


def _at_extremes(fills: Sequence[Fill]) -> Check | None:
    """Bought at the low or sold at the high of bars, or always a little beside it: only known when the bar is over."""
    for is_entry in (True, False):
        for buys, word in ((True, "low"), (False, "high")):
            side = [f for f in fills if f.is_entry is is_entry and f.buys is buys]
            usual = _usual([f.price / f.bar(word) for f in side])
            hit = [f for f in side if _is_at(f.price, f.bar(word), usual) and not _at_open_or_close(f)]
            if len(hit) >= 2 and len(hit) >= _EXTREME_SHARE * len(side):
                told = f"{hit[0]} is at the {word} of its bar; {len(hit)} of {len(side)} such fills"
                return failed(SAME_BAR, len(fills), told, code="FILLED_AT_EXTREME", blame=str(hit[0]))
    return None


def _at_open_or_close(fill: Fill) -> bool:
    return same(fill.price, fill.bar("open")) or same(fill.price, fill.bar("close"))


@dataclass(frozen=True, slots=True)
class Styles:
    """The usual fill over the open, and over the close: 1 plus slippage. None: it does not fill there."""

    over_open: float | None
    over_close: float | None

    @classmethod
    def of(cls, fills: Sequence[Fill]) -> Styles:
        return cls(_usual([f.price / f.bar("open") for f in fills]), _usual([f.price / f.bar("close") for f in fills]))

    def style(self, fill: Fill) -> frozenset[str]:
        """open, close, both where the bar opened and closed alike, or neither: within the bar."""
        return frozenset(
            name
            for name, usual in (("open", self.over_open), ("close", self.over_close))
            if _is_at(fill.price, fill.bar(name), usual)
        )


def _is_at(price: float, at: float, usual: float | None) -> bool:
    """That price, in cents, or with the usual slippage."""
    return same(price, at) or same(price, round(at, 2)) or (usual is not None and same(price, at * usual))


def _usual(ratios: Sequence[float]) -> float | None:
    """The ratio that at least a third of the fills share, when it can be slippage."""
    rounded = np.round(np.array(ratios), 7)
    rounded = rounded[np.abs(rounded - 1.0) <= _SLIPPED_MOST]
    values, counts = np.unique(rounded, return_counts=True)
    if not counts.size or counts.max() < max(2, len(ratios) / 3):
        return None
    best = float(values[counts.argmax()])
    near = [r for r in ratios if abs(r - best) < 2e-7]
    return float(np.median(near))


def _bars_to_turn(fills: Sequence[Fill], most: int) -> list[tuple[int, bool]]:
    """Days of entries and of exits, evenly, and whether only the close and the volume of that bar are changed."""
    entries = sorted({f.day for f in fills if f.is_entry})
    exits = sorted({f.day for f in fills if not f.is_entry})
    asked = [(entries, most, False), (exits, most // 3, False), (entries, most // 3, True), (exits, most // 2, True)]
    return [(day, close_only) for days, many, close_only in asked for day in _even(days, max(1, many))]


def _even(days: Sequence[int], most: int) -> list[int]:
    if len(days) <= most:
        return list(days)
    return [days[round(k)] for k in np.linspace(0, len(days) - 1, max(1, most))]


def _filled_on(day: int, market: Market, answer: Answer, styles: Styles, close_only: bool) -> dict[Key, Filled]:
    """Fills of that day that may not listen to the rest of their bar, each with its price and style.

    One within the bar may listen to high and low (a resting stop or limit), so it is looked at only when they stay;
    so is an exit at the close, because another low may have stopped it before.
    """
    found: dict[Key, Filled] = {}
    for fill in fills_of(market, answer.deals):
        if fill.day != day or fill.at < 0:
            continue
        style = styles.style(fill)
        if fill.is_entry:
            if not style and not close_only:
                continue
            found[(fill.deal.symbol, "entry", fill.deal.tag)] = (fill.price, style)
        elif fill.deal.entry < day and ("open" in style or close_only):
            found[(fill.deal.symbol, "exit", fill.deal.tag)] = (fill.price, style)
    return found


def _first_difference(
    ours: dict[Key, Filled], theirs: dict[Key, Filled], stuck: set[str]
) -> tuple[str, Key] | None:  # fmt: skip
    for key in sorted(ours.keys() | theirs.keys()):
        if key not in ours or key not in theirs:
            if key[0] in stuck:
                continue
            return "is gone" if key in ours else "appears", key
        (price, style), (other, other_style) = ours[key], theirs[key]
        if not same(price, other) and not _takes_what_it_is(style, other_style):
            return f"is at {other:.6g} instead of {price:.6g}", key
    return None


def _takes_what_it_is(style: frozenset[str], other: frozenset[str]) -> bool:
    """An order at the close, or one that gets the bar's average, both times: its price may differ, not its being."""
    return "close" in style & other or not (style or other)


# ---------------------------------------------------------------- costs
def costs(answer: Answer) -> Check:
    """Costs told, not next to nothing, and taken off what the strategy calls its profit."""
    deals = answer.deals
    if not deals:
        return unknown(COSTS, "no trade", code="NO_TRADES")
    silent = [d for d in deals if d.cost_usd is None]
    if silent:
        told = f"{len(silent)} of {len(deals)} trades tell no costs"
        return failed(COSTS, len(deals), told, code="NO_COSTS", blame=str(silent[0]))
    free = [d for d in deals if not (d.cost_usd or 0.0) > 0]
    if free:
        told = f"{len(free)} of {len(deals)} trades cost nothing"
        return failed(COSTS, len(deals), told, code="NO_COSTS", blame=str(free[0]))
    bps = [1e4 * (d.cost_usd or 0.0) / (d.entry_price * (d.quantity or 1.0)) for d in deals]
    mean = float(np.mean(bps))
    if mean < _LEAST_COST_BPS:
        told = f"{mean:.3g} bps a trade for both sides, below {_LEAST_COST_BPS:g}"
        return failed(COSTS, len(deals), told, code="COSTS_TOO_LOW", blame=str(deals[int(np.argmin(bps))]))
    kept = next((d for d in deals if _costs_kept(d)), None)
    if kept is not None:
        told = f"{kept} tells a profit of {kept.pnl_usd:.6g} USD, which is before its costs of {kept.cost_usd:.6g}"
        return failed(COSTS, len(deals), told, code="COSTS_NOT_TAKEN", blame=str(kept))
    return passed(COSTS, len(deals), f"{mean:.3g} bps a trade for both sides")


def _costs_kept(deal: Deal) -> bool:
    """Whether the profit it tells is more than price and costs leave."""
    if deal.pnl_usd is None or deal.gross is None:
        return False
    value = deal.entry_price * (deal.quantity or 1.0)
    net = deal.gross * value - (deal.cost_usd or 0.0)
    return deal.pnl_usd > net + max(0.2 * (deal.cost_usd or 0.0), 1e-9 * value)


# ---------------------------------------------------------------- capacity
def capacity(market: Market, answer: Answer, participation: float) -> Check:
    """No order above this part of the median daily dollar volume of the 20 bars before it."""
    sized = [f for f in fills_of(market, answer.deals) if f.is_entry and f.deal.quantity is not None and f.at >= 0]
    if not answer.deals:
        return unknown(CAPACITY, "no trade", code="NO_TRADES")
    if len(sized) < sum(1 for _ in answer.deals):
        missing = len(answer.deals) - len(sized)
        if not sized:
            return unknown(CAPACITY, f"{missing} trades tell no quantity", code="QUANTITY_UNKNOWN")
    parts = [_part_of_volume(f) for f in sized]
    over = [(part, f) for part, f in zip(parts, sized, strict=True) if part > participation]
    if over:
        part, fill = max(over, key=lambda pair: pair[0])
        much = f"is {part:.1%} of" if np.isfinite(part) else "meets none of"
        told = (
            f"{fill} {much} a day's dollar volume; the most is {participation:.1%}; {len(over)} of {len(sized)} orders"
        )
        return failed(CAPACITY, len(sized), told, code="TOO_LARGE", blame=str(fill))
    dark = sum(1 for part in parts if not np.isfinite(part))
    if dark or len(sized) < len(answer.deals):
        told = f"volume or quantity of {dark + len(answer.deals) - len(sized)} trades is not known"
        return unknown(CAPACITY, told, code="VOLUME_UNKNOWN", n=len(sized))
    return passed(CAPACITY, len(sized), f"the largest order is {max(parts):.2%} of a day's dollar volume")


def _part_of_volume(fill: Fill) -> float:
    """NaN when the volume is not known; an order in a market without volume is infinitely large."""
    own, end = fill.bars, fill.at
    if own is None or end < 1:
        return float("nan")
    usual = own.close[max(0, end - _LOOK_BACK) : end] * own.volume[max(0, end - _LOOK_BACK) : end]
    usual = usual[np.isfinite(usual)]
    if not usual.size:
        return float("nan")
    middle = float(np.median(usual))
    value = abs(fill.deal.quantity or 0.0) * fill.price
    return value / middle if middle > 0 else float("inf")
