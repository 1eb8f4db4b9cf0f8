"""Two vendors, one session: do they tell the same prices? Pure; scripts/canaries.py asks and acts.

| what is found                                  | code              | what follows                               |
|------------------------------------------------|-------------------|--------------------------------------------|
| the second vendor agrees                       | OK                | a suspicion is cleared: a real crash day   |
| it says another price, one against one         | VENDORS_DISAGREE  | the symbol is quarantined                  |
| it differs for a large part of the sample      | VENDOR_BASIS      | the whole vendor is refused today          |
| it has no bar of that session, or fails        | QUORUM_UNKNOWN    | suspicions stand; nothing else follows     |
| there is no second vendor                      | QUORUM_ONE_VENDOR | the same, told every morning               |
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from data.quality.detect import BARS_TELL, PRICES_TELL

Row = tuple[float, float, float, float, float]
"""open, high, low, close in USD as traded, volume in shares."""

OK = "OK"
DISAGREE = "VENDORS_DISAGREE"
BASIS = "VENDOR_BASIS"
UNKNOWN = "QUORUM_UNKNOWN"
ONE_VENDOR = "QUORUM_ONE_VENDOR"
FEWEST_COMPARED = 5
"""Fewer answers say nothing about a vendor as a whole."""
_HIGH_LOW_TIMES = 3.0  # highs and lows come from different venues' trades: they may lie further apart than a close


@dataclass(frozen=True, slots=True)
class Comparison:
    """`differ`: symbol -> words; `agree`: symbols whose prices were confirmed; `missing`: no answer."""

    differ: Mapping[str, str]
    agree: frozenset[str]
    missing: frozenset[str]

    def code(self, most_share: float) -> str:
        """The vendor as a whole: BASIS when more than `most_share` of at least FEWEST_COMPARED answers differ."""
        compared = len(self.differ) + len(self.agree)
        if compared == 0:
            return UNKNOWN
        if compared >= FEWEST_COMPARED and len(self.differ) > most_share * compared:
            return BASIS
        return DISAGREE if self.differ else OK


def sample(symbols: Sequence[str], session: date, size: int) -> list[str]:
    """`size` symbols of the universe, others every session, the same ones for the same session."""
    key = {s: hashlib.sha256(f"{session}|{s}".encode()).digest() for s in symbols}
    return sorted(sorted(symbols, key=lambda s: key[s])[:size])


def compare(
    ours: Mapping[str, Row], theirs: Mapping[str, Row], *, tolerance: float, ohlc: bool = True,
    one_exchange: bool = False,
) -> Comparison:  # fmt: skip
    """tolerance : largest relative difference of open and close, a fraction; highs and lows have three times as much.

    ohlc : False compares closes only, for a second vendor that has nothing else.
    one_exchange : one of the two knows the trades of one exchange only, whose first one may be minutes late: then each
    open has to lie within the other's bar. On 50,477 real symbol-days 0.67 % of such opens are further apart.
    """
    differ: dict[str, str] = {}
    agree, missing = set(), set()
    for symbol, row in ours.items():
        other = theirs.get(symbol)
        if other is None:
            missing.add(symbol)
        elif words := _differs(row, other, tolerance, ohlc=ohlc, one_exchange=one_exchange):
            differ[symbol] = words
        else:
            agree.add(symbol)
    return Comparison(differ, frozenset(agree), frozenset(missing))


def _differs(ours: Row, theirs: Row, tolerance: float, *, ohlc: bool, one_exchange: bool) -> str:
    """The first price that differs by more than it may, in words; empty when none does."""
    rules = (("close", 3, 1.0), ("open", 0, 1.0), ("high", 1, _HIGH_LOW_TIMES), ("low", 2, _HIGH_LOW_TIMES))
    room = _HIGH_LOW_TIMES * tolerance
    for name, at, times in rules if ohlc else rules[:1]:
        one, other = ours[at], theirs[at]
        if name == "open" and one_exchange and _within(one, theirs, room) and _within(other, ours, room):
            continue
        if not other > 0 or abs(one / other - 1.0) > times * tolerance:
            return f"{name} {one:g}, the other vendor says {other:g}"
    return ""


def _within(price: float, row: Row, tolerance: float) -> bool:
    return row[2] * (1.0 - tolerance) <= price <= row[1] * (1.0 + tolerance)


def judged(
    suspects: Mapping[str, str], compared: Comparison | None, before: Comparison | None = None, *, ohlc: bool = True
) -> tuple[dict[str, str], frozenset[str]]:
    """(symbol -> code to quarantine, cleared). A suspicion stands unless the second vendor tells the same.

    before : the closes of the session before, each vendor's in the newest session's shares. A jump is cleared only when
    both sessions agree: else one of the two knows a split that the other does not.
    """
    if compared is None:
        return dict(suspects), frozenset()
    tell = BARS_TELL if ohlc else PRICES_TELL
    both = compared.agree & (before.agree if before is not None else frozenset())
    cleared = frozenset(symbol for symbol, code in suspects.items() if code in tell and symbol in both)
    found = {symbol: code for symbol, code in suspects.items() if symbol not in cleared}
    return found | dict.fromkeys(compared.differ, DISAGREE), cleared


def wanted(
    universe: Sequence[str], suspects: Collection[str], session: date, size: int, *, whole: bool = False
) -> list[str]:
    """Whom the second vendor is asked about: every suspect, and the session's sample; `whole`: everybody."""
    if whole:
        return sorted({*suspects, *universe})
    return sorted({*suspects, *sample(universe, session, size)})
