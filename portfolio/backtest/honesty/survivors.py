"""Survivorship: could names that later went away be bought, and was a name bought only because it stayed?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.bars_io import from_day
from portfolio.backtest.honesty.asked import Answer, Deal, Raised, Subject
from portfolio.backtest.honesty.compare import by_symbol, over_by, trades_differ
from portfolio.backtest.honesty.findings import Check, failed, passed, unknown
from portfolio.backtest.honesty.market import Market, changed_table, with_table

SURVIVORS = "survivorship"
_CHANCE = 0.01  # a lack of gone names that chance gives less often is no chance
_SLACK = 10  # days around a listing's first and last day
_OUTSIDE_MOST = 0.02  # of the entries outside a name's listing that renamed tickers may explain


@dataclass(frozen=True, slots=True)
class Listing:
    """A stretch in which a name could be bought; end None: it still could when the list was made. Days."""

    symbol: str
    start: int
    end: int | None


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of the listed names: how many stayed to the end of the data, how many went before, how many of them we have."""

    stayed: int
    stayed_here: int
    gone: int
    gone_here: int
    missing: tuple[str, ...]


def by_the_strategy(subject: Subject, market: Market, base: Answer) -> Check | None:
    """What the strategy itself makes of who stayed; None: nothing found."""
    return _chosen_by_survival(subject, market, base) or _peeks_at_membership(subject, market, base)


# ---------------------------------------------------------------- the universe
def listed(market: Market, deals: Sequence[Deal], listings: Sequence[Listing] | None) -> Check:
    """The names at hand against the names that were there."""
    sessions = market.sessions
    ends = [int(own.dates[-1]) for own in market.bars.values() if len(own)]
    early = sum(1 for end in ends if end < int(sessions[-1]) - _SLACK) if ends else 0
    if not listings:
        told = f"of {len(ends)} names {early} end before the data do; without a list of what was listed when, how many"
        told += " are missing is not known"
        return unknown(SURVIVORS, told, code="MEMBERSHIP_ABSENT", n=len(ends))
    cover = coverage(market, listings)
    if cover.stayed + cover.gone == 0 or cover.stayed_here + cover.gone_here == 0:
        return unknown(SURVIVORS, "the list knows none of these names in this span", code="MEMBERSHIP_FOREIGN")
    outside = outside_listing(deals, listings)
    if _lacks_gone_names(cover):
        told = (
            f"of {cover.gone} listed names that went away {cover.gone_here} are in the data, of {cover.stayed} that "
            f"stayed {cover.stayed_here}: {len(cover.missing)} are missing"
        )
        return failed(SURVIVORS, len(ends), told, code="SURVIVORS_ONLY", blame=", ".join(cover.missing[:5]))
    if len(outside) > _OUTSIDE_MOST * max(1, len(deals)):
        told = (
            f"{len(outside)} of {len(deals)} trades in names that were not listed or members then, first {outside[0]}"
        )
        return failed(SURVIVORS, len(deals), told, code="NOT_LISTED_THEN", blame=str(outside[0]))
    told = f"of {cover.gone} names that went away {cover.gone_here} are in the data, "
    told += f"of {cover.stayed} that stayed {cover.stayed_here}"
    return passed(SURVIVORS, len(ends), told)


def coverage(market: Market, listings: Sequence[Listing]) -> Coverage:
    """Names that were listed at some time of the span; gone: none of their stretches reaches its end."""
    sessions = market.sessions
    first, last = int(sessions[0]), int(sessions[-1])
    lasts: dict[str, int] = {}
    for row in listings:
        end = last if row.end is None else min(row.end, last)
        if row.start <= last and end >= first + _SLACK:
            lasts[row.symbol] = max(lasts.get(row.symbol, first), end)
    gone = {symbol for symbol, end in lasts.items() if end < last - _SLACK}
    stayed = lasts.keys() - gone
    have = {symbol for symbol, own in market.bars.items() if len(own)}
    return Coverage(len(stayed), len(stayed & have), len(gone), len(gone & have), tuple(sorted(gone - have)))


def _lacks_gone_names(cover: Coverage) -> bool:
    """Whether gone names are rarer here than the names that stayed, beyond chance."""
    if not cover.gone or cover.gone_here == cover.gone or not cover.stayed:
        return False
    share = cover.stayed_here / cover.stayed
    return binomial_at_most(cover.gone_here, cover.gone, share) < _CHANCE


def binomial_at_most(k: int, n: int, p: float) -> float:
    """P(X <= k), X binomial; summed from logarithms so that thousands of names are no trouble."""
    if p >= 1.0:
        return 1.0 if k >= n else 0.0
    if p <= 0.0:
        return 1.0
    terms = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k + 1)
    ]
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def outside_listing(deals: Sequence[Deal], listings: Sequence[Listing]) -> list[Deal]:
    """Trades entered when their name, which the list knows, was in no stretch. Before it begins it says nothing."""
    stretches: dict[str, list[Listing]] = defaultdict(list)
    for row in listings:
        stretches[row.symbol].append(row)
    begins = min((row.start for row in listings), default=0)
    return [d for d in deals if d.symbol in stretches and d.entry > begins and not _inside(d, stretches[d.symbol])]


def _inside(deal: Deal, stretches: Sequence[Listing]) -> bool:
    return any(
        row.start - _SLACK <= deal.entry <= (row.end + _SLACK if row.end is not None else deal.entry)
        for row in stretches
    )


# ---------------------------------------------------------------- the strategy
def _chosen_by_survival(subject: Subject, market: Market, base: Answer) -> Check | None:
    """A name whose bars end early must have been traded up to then just the same."""
    own_deals: Mapping[str, list[Deal]] = by_symbol(base.deals)
    until = int(market.sessions[-1]) - _SLACK
    stay = {s for s, own in market.bars.items() if int(own.dates[-1]) >= until}
    asked = [s for s, deals in own_deals.items() if len(deals) >= 2 and s in stay]
    for symbol in sorted(asked, key=lambda s: (-len(own_deals[s]), s))[:3]:
        deals = sorted(own_deals[symbol], key=lambda d: d.entry)
        cut = max(d.exit if d.exit is not None else d.entry for d in deals[: max(2, 2 * len(deals) // 3)]) + 1
        before = [d for d in deals if over_by(d, cut - 1)]
        if cut >= int(market.bars[symbol].dates[-1]) or len(before) < 2:
            continue
        answer = subject.ask(market.without_future_of({symbol}, cut))
        if isinstance(answer, Raised):
            continue
        if not any(d.symbol == symbol for d in answer.deals):
            told = f"had {symbol} stopped trading after {from_day(cut)}, none of its {len(before)} trades before "
            told += "would have been made"
            return failed(SURVIVORS, len(base.deals), told, code="CHOSEN_BY_SURVIVAL", blame=str(before[0]))
    return None


def _peeks_at_membership(subject: Subject, market: Market, base: Answer) -> Check | None:
    table = market.tables.get("membership")
    if table is None or "membership" not in subject.names:
        return None
    sessions = market.sessions
    for cut in sessions[np.linspace(sessions.size // 4, sessions.size - 2, 4).astype(int)].tolist():
        answer = subject.ask(with_table(market, "membership", changed_table("membership", table, cut)))
        if isinstance(answer, Raised):
            continue
        wrong = trades_differ(base, answer, cut, ended=False, drops_open=True)
        if wrong:
            told = f"{wrong[0].where} {wrong[0].what} when the list does not tell what came after {from_day(cut)}"
            return failed(SURVIVORS, len(base.deals), told, code="MEMBERSHIP_OF_LATER", blame=wrong[0].where)
    return None
