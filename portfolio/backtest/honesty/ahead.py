"""Look-ahead: what was decided by a day must not change when the time after that day is cut off, or was another.

Two roads to the same question, because each has its blind spot: cut short (`truncation`), a leak may hide behind trades
that are still open; with another future (`future`), behind one that is not sensitive to that very change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from core.bars_io import FIELDS, from_day
from portfolio.backtest.honesty.asked import Answer, Deal, Raised, Subject, entry_days
from portfolio.backtest.honesty.compare import Difference, features_differ, looked_at, trades_differ
from portfolio.backtest.honesty.findings import Check, failed, passed, unknown
from portfolio.backtest.honesty.market import (
    CHANGES,
    Market,
    changed_after,
    changed_table,
    with_table,
)

TRUNCATION, FUTURE = "lookahead_truncation", "lookahead_future"
_ENOUGH = 4  # days with a finding after which no more are asked
_OPEN_KNOWN = 0.1  # a strategy that shows at least so much of its open trades is taken to show them all


@dataclass(frozen=True, slots=True)
class Effort:
    """How many days are looked at."""

    cuts: int = 12
    changes: int = 2  # other futures at each cut
    truncations: int = 8
    bars: int = 8  # bars whose outcome is changed


@dataclass(slots=True)
class Look:
    """One kind of look-ahead, asked on several days."""

    n: int = 0
    asked: int = 0
    raised: list[str] = field(default_factory=list)
    found: list[tuple[int, str, Difference]] = field(default_factory=list)  # cut, what was done, difference


def look_ahead(subject: Subject, market: Market, base: Answer, effort: Effort) -> tuple[Check, Check, bool]:
    """Both checks, and whether the strategy tells no trade that is open at the end of the data.

    base: the answer on the market as it is.
    """
    days = cut_days(market, base, effort.cuts)
    if not days:
        none = [unknown(name, "no day between two trades", code="NO_TRADES") for name in (TRUNCATION, FUTURE)]
        return none[0], none[1], True
    cuts = sorted({*_some(days, effort.truncations), *_while_held(market, base)})
    short, drops_open = _truncated(subject, market, base, cuts)
    other = _other_futures(subject, market, base, days, effort, drops_open=drops_open)
    source = _source(subject, market, base, other, drops_open=drops_open)
    told = _told(FUTURE, other, "another future", source)
    return _told(TRUNCATION, short, "the data cut short"), told, drops_open


def cut_days(market: Market, base: Answer, most: int) -> list[int]:
    """Days on which a trade was entered or left, and some between, evenly; the last day of the data tells nothing."""
    sessions = market.sessions
    if sessions.size < 3 or not (base.deals or base.features):
        return []
    entered = entry_days(base.deals)
    left = np.array(sorted({d.exit for d in base.deals if d.exit is not None}), dtype=np.int64)
    grid = sessions[np.linspace(sessions.size // 10, sessions.size - 2, max(2, most // 4)).astype(int)]
    grid = np.concatenate([grid, _before_gaps(market)])
    picked = {*_some(entered.tolist(), most // 2), *_some(left.tolist(), most // 4)}
    picked |= set(_some(sorted({int(d) for d in grid}), max(2, most - len(picked))))
    return sorted(int(day) for day in picked if sessions[0] < day < sessions[-1])


def _while_held(market: Market, base: Answer) -> list[int]:
    """Some days on which a trade is open, to see whether open trades are told."""
    sessions = market.sessions
    found = set()
    for deal in base.deals:
        day = int(sessions[min(int(np.searchsorted(sessions, deal.entry)) + 1, sessions.size - 2)])
        if deal.exit is not None and deal.entry < day < deal.exit:
            found.add(day)
    return _some(sorted(found), 3)


def _before_gaps(market: Market) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Days before a session in which a symbol did not trade: what is filled backwards shows there."""
    days = []
    for own in market.bars.values():
        odd = np.flatnonzero(~np.isfinite(own.close) | ~(own.volume > 0))
        days += own.dates[np.maximum(odd - 1, 0)].tolist()
        where = np.searchsorted(market.sessions, own.dates)
        days += own.dates[:-1][np.diff(where) > 1].tolist()
    return np.array(_some(sorted(set(days)), 3), dtype=np.int64)


def _some(days: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly, with the first and the last."""
    if len(days) <= most:
        return list(days)
    return [days[round(k)] for k in np.linspace(0, len(days) - 1, max(1, most))]


# ---------------------------------------------------------------- cut short
def _truncated(subject: Subject, market: Market, base: Answer, days: Sequence[int]) -> tuple[Look, bool]:
    look = Look()
    answers: list[tuple[int, Answer]] = []
    for cut in days:
        answer = _asked(look, subject, market.known_at(cut))
        if answer is not None:
            answers.append((cut, answer))
    drops_open = not _shows_open(base, answers)
    for cut, answer in answers:
        look.n += looked_at(base, cut)
        differences = trades_differ(base, answer, cut, ended=True, drops_open=drops_open)
        _note(look, cut, f"data after {from_day(cut)} are cut off", [*features_differ(base, answer, cut), *differences])
    return look, drops_open


def _shows_open(base: Answer, answers: Sequence[tuple[int, Answer]]) -> bool:
    """Whether trades that were open at a cut are told when the data end there. None to see: taken as not told."""
    due = told = 0
    for cut, answer in answers:
        there = {(d.symbol, d.tag, d.entry) for d in answer.deals}
        held = [d for d in base.deals if d.entry < cut and (d.exit is None or d.exit > cut)]
        due += len(held)
        told += sum((d.symbol, d.tag, d.entry) in there for d in held)
    return due > 0 and told > _OPEN_KNOWN * due


# ---------------------------------------------------------------- another future
def _other_futures(
    subject: Subject, market: Market, base: Answer, days: Sequence[int], effort: Effort, *, drops_open: bool
) -> Look:
    look, kinds, symbols = Look(), list(CHANGES), sorted(market.bars)
    for number, cut in enumerate(days):
        if len({found[0] for found in look.found}) >= _ENOUGH:
            break
        for step in range(effort.changes):
            kind = kinds[(number + step * 3) % len(kinds)]
            half = set(symbols[(number // 2) % 2 :: 2]) if step and len(symbols) > 2 and number % 2 else None
            changed = changed_after(market, cut, kind, symbols=half)
            if half is None:
                for name in subject.names:
                    if name in market.tables and name != "membership":
                        changed = with_table(changed, name, changed_table(name, market.tables[name], cut))
            _compare(look, subject, changed, base, cut, f"the time after {from_day(cut)} is {kind}", drops_open)
    return look


def _compare(look: Look, subject: Subject, market: Market, base: Answer, cut: int, done: str, drops_open: bool) -> None:
    answer = _asked(look, subject, market)
    if answer is None:
        return
    look.n += looked_at(base, cut)
    differences = trades_differ(base, answer, cut, ended=False, drops_open=drops_open)
    _note(look, cut, done, [*features_differ(base, answer, cut), *differences])


def _note(look: Look, cut: int, done: str, differences: Sequence[Difference]) -> None:
    look.found += [(cut, done, difference) for difference in differences]


def _asked(look: Look, subject: Subject, market: Market) -> Answer | None:
    answer = subject.ask(market)
    if isinstance(answer, Raised):
        look.raised.append(answer.detail)
        return None
    look.asked += 1
    return answer


def _source(subject: Subject, market: Market, base: Answer, look: Look, *, drops_open: bool) -> str:
    """Which of its inputs the first finding listens to; told with the finding."""
    if not look.found:
        return ""
    cut = look.found[0][0]
    heard = []
    for column in FIELDS:
        for kind in ("inverted", "scaled"):
            if _differs(subject, changed_after(market, cut, kind, columns=(column,)), base, cut, drops_open):
                heard.append(column)
                break
    for name in subject.names:
        table = market.tables.get(name)
        if table is not None and name != "membership":
            changed = with_table(market, name, changed_table(name, table, cut))
            if _differs(subject, changed, base, cut, drops_open):
                heard.append(f"{name} ({', '.join(table.hidden or table.columns)})")
    return f"; it listens to later {', '.join(heard)}" if heard else ""


def _differs(subject: Subject, market: Market, base: Answer, cut: int, drops_open: bool) -> bool:
    answer = subject.ask(market)
    if isinstance(answer, Raised):
        return False
    return bool(
        trades_differ(base, answer, cut, ended=False, drops_open=drops_open) or features_differ(base, answer, cut)
    )


def _told(name: str, look: Look, way: str, source: str = "") -> Check:
    if look.found:
        _, done, first = look.found[0]
        cuts = len({cut for cut, _, _ in look.found})
        detail = f"{first.where} {first.what} when {done}; {len(look.found)} differences on {cuts} days{source}"
        columns = [d for _, _, d in look.found if d.column]
        blame = first.where if first.column or not columns else f"{first.where}; {columns[0].where}"
        return failed(name, look.n, detail, code="LOOKS_AHEAD", blame=blame)
    if look.asked == 0:
        why = look.raised[0] if look.raised else "never asked"
        return unknown(name, f"the strategy raised whenever it was asked: {why}", code="RAISED_WHEN_ASKED")
    return passed(name, look.n, f"the same trades with {way} on {look.asked} tries")


# ---------------------------------------------------------------- does it listen at all
def hears(subject: Subject, market: Market, base: Answer) -> bool:
    """Whether the strategy uses the bars it is handed. One that reads its own file cannot be asked about the future."""
    first = int(market.sessions[0])
    for kind in ("inverted", "scaled"):
        answer = subject.ask(changed_after(market, first, kind))
        if isinstance(answer, Raised) or _signature(answer.deals) != _signature(base.deals):
            return True
        if features_differ(base, answer, int(market.sessions[-1])):
            return True
    return False


def _signature(deals: Sequence[Deal]) -> list[tuple[str, int, float, int | None, float | None]]:
    rows = [(d.symbol, d.entry, d.entry_price, d.exit, d.exit_price) for d in deals]
    return sorted(rows, key=lambda r: (r[0], r[1], r[2]))
