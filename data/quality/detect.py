"""Newest bars that look wrong although each of them could be true: what `clean` cannot see in one bar alone.

Each rule compares the newest bar with the symbol's own past and with the known splits and dividends. One vendor alone
can only raise a suspicion; a second one confirms or clears it (data/quality/quorum.py). The limits are wide on purpose:
on 1.5 million real symbol-days the rules together object to less than one in a thousand. What moves a bar by no more
than a symbol moves by itself (3 %, open and close exchanged) is not to be seen here at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

from core.bars_io import BarColumns, from_day

JUMP = "JUMP_UNEXPLAINED"
SPLIT_NOT_SEEN = "SPLIT_NOT_SEEN"
SPIKE = "BAR_SPIKE"
REPEATED = "BAR_REPEATED"
VOLUME_JUMP = "VOLUME_JUMP"
VOLUME_ABSENT = "VOLUME_ABSENT"
FLAT = "BAR_FLAT"
BAD_TICK = "BAR_REVERTED"
DIGITS = "DIGITS_EXCHANGED"
SHARED = "BAR_SHARED"

LOOK_BACK = 60  # sessions of its own past that a bar is compared with
FEWEST = 6  # bars before it; a younger symbol has no past to be compared with
JUMP_FRACTION = 0.35  # a move beyond this wants an explanation whatever the symbol's own moves are
JUMP_DEVIATIONS = 15.0  # or beyond so many of its usual moves, from JUMP_LEAST on
JUMP_LEAST = 0.20
SPIKE_FRACTION = 0.30  # high or low so far outside open and close
SPIKE_DEVIATIONS = 20.0
VOLUME_TIMES = 50.0
VOLUME_SHARE = 0.02  # of the usual volume, and VOLUME_LEAST of the smallest
VOLUME_LEAST = 0.05
DIGITS_FURTHER = 3.0  # usual moves by which the close is further from where it was than with two digits exchanged
DIGITS_NEAR = 3.0  # usual moves that the mended close may lie away
DIGITS_LEAST = 0.02  # what two vendors may differ by is no mistake worth finding
RESTLESS_LEAST = 1.5  # times the usual spread of all moves: below, a day is like any other
RESTLESS_MOST = 3.0  # and no day makes the limits wider than so many times
REVERTED_FRACTION = 0.15  # of a jump that is left after the next bar
REVERTED_LEAST = 0.60  # smaller jumps do come back within a day
_DIVIDEND_ROOM = 0.5  # a dividend explains a fall of its own size and half as much again

Floats = npt.NDArray[np.float64]
Bar = tuple[float, float, float, float, float]
"""open, high, low, close, volume."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    code: str
    session: date
    detail: str


def suspicions(
    bars: BarColumns, *, ratios: Mapping[date, float] | None = None, dividends: Mapping[date, float] | None = None,
    market: float = 0.0, restless: float = 1.0,
) -> list[Suspicion]:  # fmt: skip
    """What is wrong with the newest bar of a cleaned, raw series; empty when it looks like its past.

    ratios : new shares per old share, by ex-date. dividends : USD per share as paid, by ex-date.
    market : the middle move of all symbols that session, a fraction: on a day on which everything falls a fall is none.
    restless : as `restlessness` says of that session: on a day on which all names move apart, a large move tells less.
    """
    if len(bars) <= FEWEST:
        return []
    recent = bars.rows(np.arange(max(0, len(bars) - LOOK_BACK - 1), len(bars)))
    known = ratios or {}
    rules = (
        _jump(recent, known, dividends or {}, market, restless), _spike(recent, restless), _repeated(recent),
        _volume(recent),
        _digits(recent, known, market), _reverted(recent, known),
    )  # fmt: skip
    return [found for found in rules if found is not None]


def restlessness(moves: Floats) -> float:
    """How far apart all names moved in the newest session, in times of the usual: 1, or 1.5 to RESTLESS_MOST.

    moves : (sessions, names) as fractions, oldest first, NaN = no move. Fewer than FEWEST sessions say nothing: 1.
    """
    if len(moves) <= FEWEST:
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a session of which nobody has a move
        spreads = np.nanmedian(np.abs(moves - np.nanmedian(moves, axis=1, keepdims=True)), axis=1)
        usual = float(np.nanmedian(spreads[:-1]))
    times = float(spreads[-1]) / usual if usual > 0 else 1.0
    return min(times, RESTLESS_MOST) if times >= RESTLESS_LEAST else 1.0  # NaN is not


PRICES_TELL = frozenset({JUMP, DIGITS})
"""Suspicions that a second vendor with the same two closes clears: the move happened."""
BARS_TELL = frozenset({JUMP, SPIKE, DIGITS, SHARED})
"""And those that it clears when it also has the same open, high and low. The others stay until a person has looked."""


def _jump(
    bars: BarColumns, ratios: Mapping[date, float], dividends: Mapping[date, float], market: float, restless: float
) -> Suspicion | None:
    """The close against the one before, after the splits and dividends that are known of this session."""
    day, scale = from_day(bars.dates[-1]), _scale(bars, ratios)
    closes = bars.close * scale
    before, after = float(closes[-2]), float(closes[-1])
    move = after / before - 1.0
    limit = _limit(np.diff(np.log(closes[:-1]))) * restless
    cash = dividends.get(day, 0.0)
    if move < 0 and cash > 0 and -move <= limit + cash * (1 + _DIVIDEND_ROOM) / float(bars.close[-2]):
        return None
    if min(abs(move), abs((1.0 + move) / (1.0 + market) - 1.0)) <= limit:
        return None
    ratio = ratios.get(day)
    if ratio is not None and abs(float(bars.close[-1]) / float(bars.close[-2]) - 1.0) <= limit:
        return Suspicion(SPLIT_NOT_SEEN, day, f"a split of {ratio:g} is known and the price has not moved by it")
    words = "although a split is known" if ratio is not None else "without a split or dividend"
    return Suspicion(JUMP, day, f"{move:+.1%} {words}, usual up to {limit:.0%}")


def _scale(bars: BarColumns, ratios: Mapping[date, float]) -> Floats:
    """What each close is multiplied by to be told in the newest bar's shares."""
    out = np.ones(len(bars))
    for ex_date, ratio in ratios.items():
        day = (ex_date - date(1970, 1, 1)).days
        if bars.dates[0] < day <= bars.dates[-1]:
            out[bars.dates < day] /= ratio
    return out


def _limit(moves: Floats) -> float:
    """The largest move that needs no explanation, a fraction: many times the symbol's usual one, within two bounds."""
    usual = float(np.median(np.abs(moves))) if len(moves) else 0.0
    return float(min(max(JUMP_DEVIATIONS * usual, JUMP_LEAST), JUMP_FRACTION))


def _reverted(bars: BarColumns, ratios: Mapping[date, float]) -> Suspicion | None:
    """One bar of the past far from both its neighbours, which agree: a wrong one that the indicators would learn."""
    logs = np.log(bars.close * _scale(bars, ratios))
    there, back = logs[1:-1] - logs[:-2], logs[2:] - logs[1:-1]
    far = np.minimum(np.abs(there), np.abs(back)) > np.log1p(REVERTED_LEAST)
    found = np.flatnonzero(far & (np.abs(there + back) < REVERTED_FRACTION * np.abs(there)))
    if not found.size:
        return None
    at = int(found[-1]) + 1
    words = f"close {bars.close[at]:g} between {bars.close[at - 1]:g} and {bars.close[at + 1]:g}"
    return Suspicion(BAD_TICK, from_day(bars.dates[at]), words)


def _spike(bars: BarColumns, restless: float) -> Suspicion | None:
    """High or low far outside open and close: a stub quote or a digit too many."""
    top, bottom = np.maximum(bars.open, bars.close), np.minimum(bars.open, bars.close)
    up, down = bars.high / top - 1.0, 1.0 - bars.low / bottom
    usual = float(np.median(np.maximum(up[:-1], down[:-1])))
    limit = max(SPIKE_FRACTION, SPIKE_DEVIATIONS * usual) * restless
    worst = float(max(up[-1], down[-1]))
    gap = abs(float(bars.open[-1]) / float(bars.close[-1]) - 1.0)
    if worst <= limit and gap <= max(JUMP_FRACTION, SPIKE_DEVIATIONS * usual) * restless:
        return None
    side = "high" if up[-1] >= down[-1] else "low"
    told = f"{side} {worst:.0%} outside" if worst > limit else f"open {gap:.0%} from"
    return Suspicion(SPIKE, from_day(bars.dates[-1]), f"{told} open and close")


def _repeated(bars: BarColumns) -> Suspicion | None:
    """All five numbers as on one of the last sessions, in a symbol that trades: the vendor sent an old bar again."""
    trades = float(np.median(bars.volume[:-1])) > 0
    if not trades:
        return None
    last = np.array([bars.open[-1], bars.high[-1], bars.low[-1], bars.close[-1], bars.volume[-1]])
    past = np.stack([bars.open, bars.high, bars.low, bars.close, bars.volume])[:, :-1]
    same = np.flatnonzero((past == last[:, None]).all(axis=0))
    if same.size and bars.volume[-1] > 0:
        day = from_day(bars.dates[-1])
        return Suspicion(REPEATED, day, f"the same bar as {from_day(bars.dates[int(same[-1])])}")
    stale = (past[:4, -1] == last[:4]).all() and bars.high[-1] > bars.low[-1]
    if stale:
        return Suspicion(REPEATED, from_day(bars.dates[-1]), "the four prices of the session before, another volume")
    if bars.high[-1] == bars.low[-1] and not (bars.high[:-1] == bars.low[:-1]).any():
        return Suspicion(FLAT, from_day(bars.dates[-1]), "open, high, low and close are one price")
    return None


def _volume(bars: BarColumns) -> Suspicion | None:
    """A volume that the symbol's own past makes impossible; none at all in a symbol that trades every day."""
    past = bars.volume[:-1]
    usual, least = float(np.median(past)), float(past.min())
    now, day = float(bars.volume[-1]), from_day(bars.dates[-1])
    if now > VOLUME_TIMES * max(usual, 1.0) and now > 20 * float(past.max()):
        return Suspicion(VOLUME_JUMP, day, f"volume {now:,.0f}, usual {usual:,.0f}")
    if now < VOLUME_SHARE * usual and now < VOLUME_LEAST * least:
        return Suspicion(VOLUME_ABSENT, day, f"volume {now:,.0f}, never below {least:,.0f}")
    return None


def _digits(bars: BarColumns, ratios: Mapping[date, float], market: float) -> Suspicion | None:
    """A close at the very end of its bar that is far from the one before, and near it with two digits exchanged: who
    exchanges the digits of a close stretches the bar to hold it."""
    close = float(bars.close[-1])
    if bars.low[-1] < close < bars.high[-1]:
        return None
    closes = bars.close * _scale(bars, ratios)
    usual = float(np.median(np.abs(np.diff(np.log(closes[:-1])))))
    expected = float(closes[-2]) * (1.0 + market)
    if usual <= 0 or expected <= 0:
        return None
    far = abs(float(np.log(close / expected))) / usual
    for mended in _exchanged(close):
        near = abs(float(np.log(mended / expected))) / usual
        if abs(mended / close - 1.0) >= DIGITS_LEAST and near <= DIGITS_NEAR and far - near > DIGITS_FURTHER:
            words = f"close {close:g} is {far:.0f} usual moves away; {mended:g} would be {near:.1f}"
            return Suspicion(DIGITS, from_day(bars.dates[-1]), words)
    return None


def _exchanged(price: float) -> Iterator[float]:
    """The positive prices that two neighbouring digits of this one, exchanged, would make."""
    text = f"{price:.2f}"
    for at in range(len(text) - 1):
        one, other = text[at], text[at + 1]
        if "." not in (one, other) and one != other:
            mended = float(text[:at] + other + one + text[at + 2 :])
            if mended > 0:
                yield mended


def shared(rows: Mapping[str, Bar], before: Mapping[str, Bar]) -> dict[str, str]:
    """Symbol -> words for those whose newest bar is, in all five numbers, that of another symbol: one of them is wrong.

    rows, before : this session and the one before. A bar without volume or of one price says nothing, and two symbols
    that were alike the session before as well are one thing under two names.
    """
    names: dict[Bar, list[str]] = {}
    for symbol, row in rows.items():
        if row[4] > 0 and row[1] > row[2]:
            names.setdefault(row, []).append(symbol)
    found: dict[str, str] = {}
    for same in names.values():
        for symbol in same:
            strange = [other for other in same if other != symbol and before.get(other) != before.get(symbol)]
            if strange:
                found[symbol] = f"the same bar as {strange[0]}"
    return found
