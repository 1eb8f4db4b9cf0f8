"""Bars that must not be traded on, each with its reason code. Pure, but for the operator's one-liner at the end.

A quarantined bar is taken out of the series; when it is the session's own, the symbol is out for the day with the code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from core.bars_io import BarColumns, Days, from_day, to_day

JUMP_FRACTION = 0.40  # a close-to-close move beyond this wants an explanation

BAR_DUPLICATE = "BAR_DUPLICATE"
BAR_NOT_A_SESSION = "BAR_NOT_A_SESSION"
BAR_PARTIAL = "BAR_PARTIAL"
BAR_NOT_FINITE = "BAR_NOT_FINITE"
BAR_NON_POSITIVE = "BAR_NON_POSITIVE"
BAR_NEGATIVE_VOLUME = "BAR_NEGATIVE_VOLUME"
BAR_RANGE = "BAR_RANGE"
NO_BAR = "NO_BAR"
FILE_DAMAGED = "FILE_DAMAGED"
RECENT_SESSIONS = 20  # how far back a missing session is worth telling


class Sessions(Protocol):
    @property
    def first(self) -> date: ...
    @property
    def last(self) -> date: ...
    def sessions_between(self, start: date, end: date) -> list[date]: ...


@dataclass(frozen=True, slots=True)
class Flag:
    code: str
    session: date
    detail: str


def session_days(calendar: Sessions, first: int, last: date) -> Days:
    """Sessions from day number `first` to `last`, as far as the calendar knows them: a bar outside is no session's."""
    known = calendar.sessions_between(max(from_day(first), calendar.first), min(last, calendar.last))
    return np.array([to_day(d) for d in known], dtype=np.int32)


def clean(bars: BarColumns, sessions: Days, last: date) -> tuple[BarColumns, list[Flag]]:
    """The bars that may be used, and a flag for each one taken out.

    sessions : (n,) int32 days, ascending, covering the bars' span.
    last : newest completed session; later bars are partial.
    Clean bars come back as the very same object. The first rule that objects names the bar.
    """
    codes = _codes(bars, sessions, to_day(last))
    bad = np.flatnonzero(codes != "")
    if not len(bad):
        return bars, []
    flags = [Flag(str(codes[k]), from_day(bars.dates[k]), _detail(bars, int(k))) for k in bad]
    return bars.rows(codes == ""), flags


def _codes(bars: BarColumns, sessions: Days, last: int) -> npt.NDArray[np.str_]:
    days = bars.dates
    out = np.full(len(days), "", dtype="U20")
    prices = np.vstack([bars.open, bars.high, bars.low, bars.close]) if len(days) else np.empty((4, 0))
    same = np.zeros(len(days), dtype=bool)
    if len(days) > 1:
        twin = days[1:] == days[:-1]
        same[1:] |= twin
        same[:-1] |= twin
    at = np.searchsorted(sessions, days)
    known = np.append(sessions, -1)[at] == days  # -1: past the last session
    with np.errstate(invalid="ignore"):
        rules = (
            (BAR_PARTIAL, days > last),
            (BAR_NOT_A_SESSION, ~known),
            (BAR_DUPLICATE, same),
            (BAR_NOT_FINITE, ~(np.isfinite(prices).all(axis=0) & np.isfinite(bars.volume))),
            (BAR_NON_POSITIVE, (prices <= 0).any(axis=0)),
            (BAR_NEGATIVE_VOLUME, bars.volume < 0),
            (BAR_RANGE, (prices.min(axis=0) < bars.low) | (prices.max(axis=0) > bars.high)),
        )
    for code, hit in reversed(rules):
        out[hit] = code
    return out


def _detail(bars: BarColumns, k: int) -> str:
    return f"O {bars.open[k]:g} H {bars.high[k]:g} L {bars.low[k]:g} C {bars.close[k]:g} V {bars.volume[k]:g}"


def clean_all(
    bars: Mapping[str, BarColumns], calendar: Sessions, last: date
) -> tuple[dict[str, BarColumns], dict[str, str]]:
    """Every symbol cleaned; and the symbols whose bar of session `last` was taken out, with the code."""
    if not any(len(b) for b in bars.values()):
        return dict(bars), {}
    first = min(int(b.dates[0]) for b in bars.values() if len(b))
    sessions = session_days(calendar, first, last)
    kept: dict[str, BarColumns] = {}
    out: dict[str, str] = {}
    for symbol, own in bars.items():
        kept[symbol], flags = clean(own, sessions, last)
        for flag in flags:
            if flag.session == last:
                out[symbol] = flag.code
    return kept, out


def unexplained_jumps(
    bars: BarColumns, ratios: Mapping[date, float], window: int = 60, *, dividends: Mapping[date, float] | None = None
) -> list[Flag]:
    """Close-to-close moves above JUMP_FRACTION in the newest `window` bars that no split or dividend of that day
    explains."""
    found: list[Flag] = []
    cash = dividends or {}
    for k in range(max(1, len(bars) - window), len(bars)):
        before, after, day = float(bars.close[k - 1]), float(bars.close[k]), from_day(bars.dates[k])
        move = (after + cash.get(day, 0.0)) * ratios.get(day, 1.0) / before - 1.0
        if abs(move) > JUMP_FRACTION:
            found.append(Flag("JUMP_UNEXPLAINED", day, f"{move:+.1%} without a split or dividend"))
    return found


def check_recent_data(symbol: str) -> dict[str, Any]:
    """The runbook's one-liner: is the newest stored data of one symbol believable?

    Splits and dividends explain a jump, or it is flagged; so are bars that cannot be true, gaps, and a quarantine.
    Returns {symbol, status: ok | flagged | no_data, source, last_session, findings: [{code, session, detail}], counts,
    quarantined: code or None}.
    """
    from core.clock import SystemClock
    from core.domain import canonical_symbol
    from core.market_calendar import market_calendar
    from core.paths import home
    from data.quality.quarantine import Quarantine
    from data.store import BarStore, newest_source

    name = str(canonical_symbol(symbol))
    held = Quarantine(home().state).held().get(name)
    told = {"symbol": name, "quarantined": held.code if held is not None else None}
    source = newest_source(home().cache, name)
    if source is None:
        return {**told, "status": "no_data", "source": None, "last_session": None, "findings": [], "counts": {}}
    store = BarStore(home().cache, source)
    bars = store.bars(name)
    calendar = market_calendar()
    last = calendar.last_completed(SystemClock().now())
    kept, flags = _cleaned(bars, calendar, last)
    splits, dividends = store.read_actions()
    ratios = {s.ex_date: s.ratio for s in splits if s.symbol == name}
    cash = {d.ex_date: d.amount for d in dividends if d.symbol == name}
    findings = flags + unexplained_jumps(kept, ratios, dividends=cash)
    findings += _doubts(kept, ratios, cash, {(f.code, f.session) for f in findings})
    newest = from_day(kept.dates[-1]) if len(kept) else None
    findings += recent_gaps(kept, calendar, last) if len(kept) else [Flag(NO_BAR, last, "no usable bar")]
    if store.damaged:
        findings.append(Flag(FILE_DAMAGED, last, "the file was set aside; the next update fetches it again"))
    return {
        **told,
        "status": "flagged" if findings or held is not None else "ok",
        "source": source,
        "last_session": newest.isoformat() if newest else None,
        "findings": [{"code": f.code, "session": f.session.isoformat(), "detail": f.detail} for f in findings],
        "counts": dict(Counter(f.code for f in findings)),
    }


def _doubts(
    bars: BarColumns, ratios: Mapping[date, float], cash: Mapping[date, float], told: set[tuple[str, date]]
) -> list[Flag]:
    """What data.quality.detect says of the newest bar and is not told yet."""
    from data.quality.detect import suspicions

    found = suspicions(bars, ratios=ratios, dividends=cash)
    return [Flag(s.code, s.session, s.detail) for s in found if (s.code, s.session) not in told]


def _cleaned(bars: BarColumns, calendar: Sessions, last: date) -> tuple[BarColumns, list[Flag]]:
    if not len(bars):
        return bars, []
    return clean(bars, session_days(calendar, int(bars.dates[0]), last), last)


def recent_gaps(bars: BarColumns, calendar: Sessions, last: date) -> list[Flag]:
    """Sessions of the newest RECENT_SESSIONS that have no usable bar, from the symbol's first bar on."""
    recent = session_days(calendar, int(bars.dates[0]), last)[-RECENT_SESSIONS:]
    return [Flag(NO_BAR, from_day(day), "no usable bar") for day in np.setdiff1d(recent, bars.dates)]
