"""Warm-up: a strategy that knows less history may trade less, but must not trade otherwise.

The data are begun later by a few bars. Averages that were never given time to forget their first value, windows that
are used before they are full, and sums since the first bar then give other trades.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.bars_io import Days, from_day
from portfolio.backtest.honesty.asked import Answer, Deal, Raised, Subject
from portfolio.backtest.honesty.compare import same
from portfolio.backtest.honesty.findings import Check, Verdict, failed, passed, unknown
from portfolio.backtest.honesty.market import Market, changed_after

WARM_UP = "warm_up"
SKIPS = (20, 40, 60)  # bars left out at the beginning: whole fortnights and months, for what is done every so many bars
_TOO_MANY = 0.2  # of the trades: above what a window that grows with the data changes by itself
_TOO_MANY_PATIENT = 0.5  # of a strategy that waits: a model fitted every so many bars from the first on moves with it
_WAITS = 60  # sessions without a trade after the first
_EARLY = 130  # sessions after the start in which an average that has not settled shows
Seen = tuple[Deal, int, bool]  # trade, first day of the data, whether it differs
_SAME_DAYS = 0.9
_LEAST = 3  # differing trades that are no accident


def warm_up(subject: Subject, market: Market, base: Answer, skips: Sequence[int] = SKIPS) -> Check:
    sessions = market.sessions
    if not base.deals:
        return unknown(WARM_UP, "no trade", code="NO_TRADES")
    early: list[Seen] = []
    every: list[Seen] = []
    waited = [_waits(sessions, int(sessions[0]), base)]
    for skip in skips:
        if skip + 60 > sessions.size:
            continue
        first = int(sessions[skip])
        answer = subject.ask(market.from_day(first))
        if isinstance(answer, Raised):
            continue
        until = int(sessions[min(skip + _EARLY, sessions.size - 1)])
        found = [(deal, first, differs) for deal, differs in _compared(base, answer, first)]
        every += found
        early += [row for row in found if row[0].entry <= until]
        waited.append(_waits(sessions, first, answer))
    told = _judged(early, every, _TOO_MANY_PATIENT if min(waited) >= _WAITS else _TOO_MANY)
    if told.verdict is Verdict.FAIL and _by_the_calendar(subject, market, base):
        return passed(WARM_UP, len(every), "the days come from the calendar or the row number, not from any price")
    return told


def _by_the_calendar(subject: Subject, market: Market, base: Answer) -> bool:
    """Whether it trades on the same days whatever the prices are: there is then no indicator to warm up."""
    answer = subject.ask(changed_after(market, int(market.sessions[0]), "inverted"))
    if isinstance(answer, Raised):
        return False
    ours, theirs = ({(d.symbol, d.entry) for d in a.deals} for a in (base, answer))
    return len(ours & theirs) > _SAME_DAYS * len(ours | theirs)


def _waits(sessions: Days, first: int, answer: Answer) -> int:
    """Sessions from the first bar to the first trade."""
    begun = min((d.entry for d in answer.deals), default=int(sessions[-1]))
    return int(np.searchsorted(sessions, begun) - np.searchsorted(sessions, first))


def _judged(early: Sequence[Seen], every: Sequence[Seen], most: float) -> Check:
    if not every:
        return unknown(WARM_UP, "no trade is left when the data begin later", code="TOO_FEW_BARS")
    for pool, when in ((early, "in the first months"), (every, "in all")):
        wrong = [(deal, first) for deal, first, differs in pool if differs]
        if len(wrong) >= _LEAST and len(wrong) > most * len(pool):
            deal, first = wrong[0]
            told = f"{deal} is not the same when the data begin on {from_day(first)}; "
            told += f"{len(wrong)} of {len(pool)} {when}"
            return failed(WARM_UP, len(every), told, code="DEPENDS_ON_FIRST_BAR", blame=str(deal))
    changed = sum(differs for _, _, differs in every)
    return passed(WARM_UP, len(every), f"{changed} of {len(every)} trades depend on where the data begin")


def _compared(base: Answer, late: Answer, first: int) -> list[tuple[Deal, bool]]:
    """Trades from where the late start has begun to trade, and whether the other run lacks them.

    A trade that the other run could not take because it held that symbol is no difference.
    """
    begun = min((d.entry for d in late.deals), default=None)
    if begun is None:
        return []
    out = [(deal, _lacks(base.deals, deal)) for deal in late.deals]
    out += [(deal, True) for deal in base.deals if deal.entry >= max(begun, first) and _lacks(late.deals, deal)]
    return out


def _lacks(deals: Sequence[Deal], wanted: Deal) -> bool:
    for deal in deals:
        if deal.symbol != wanted.symbol or deal.tag != wanted.tag:
            continue
        if deal.entry == wanted.entry and same(deal.entry_price, wanted.entry_price):
            return False
        if deal.entry < wanted.entry and (deal.exit is None or deal.exit >= wanted.entry):
            return False  # it was held
    return True
