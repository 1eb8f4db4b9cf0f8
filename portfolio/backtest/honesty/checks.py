"""Every check of one strategy, in the order they are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from core.bars_io import Split
from portfolio.backtest.honesty import ahead, basis, fills, luck, overlap, survivors, warm_up
from portfolio.backtest.honesty.asked import Answer, Raised, Subject
from portfolio.backtest.honesty.compare import by_symbol, features_differ, trades_differ
from portfolio.backtest.honesty.findings import Check, Verdict, failed, passed, unknown
from portfolio.backtest.honesty.market import Market
from portfolio.backtest.honesty.survivors import Listing

RUNS: Final = "runs"
NAMES: Final = (
    RUNS, ahead.TRUNCATION, ahead.FUTURE, warm_up.WARM_UP, fills.SAME_BAR, fills.STALE, fills.COSTS,
    survivors.SURVIVORS, basis.BASIS, luck.LUCK, overlap.OVERLAP, fills.CAPACITY,
)  # fmt: skip
_REPEATED: Final = (
    ahead.TRUNCATION, ahead.FUTURE, warm_up.WARM_UP, fills.SAME_BAR, survivors.SURVIVORS, basis.BASIS, luck.LUCK
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """What is known besides the bars; None: not known, and the check that needs it says so.

    splits: those the bars are adjusted for · participation: the largest part of a day's dollar volume an order may be
    """

    listings: Sequence[Listing] | None = None
    splits: Sequence[Split] | None = None
    participation: float = 0.01


@dataclass(frozen=True, slots=True)
class Effort:
    """How often it is asked. symbols: a strategy that sees one symbol at a time is asked again about so many."""

    cuts: ahead.Effort = field(default_factory=ahead.Effort)
    skips: tuple[int, ...] = warm_up.SKIPS
    neighbours: int = 12
    symbols: int = 24


def examine(
    subject: Subject, market: Market, known: Known = Known(), effort: Effort = Effort()
) -> list[Check]:  # fmt: skip
    """All checks of NAMES, in that order. A strategy that raises is a finding, and nothing else can then be asked."""
    base = subject.ask(market)
    if isinstance(base, Raised):
        return raised(base.detail)
    return examine_answer(subject, market, base, known, effort)


def raised(detail: str) -> list[Check]:
    said = failed(RUNS, 1, f"the strategy raised {detail}", code="STRATEGY_RAISED", blame=detail)
    return [said, *(unknown(name, "the strategy raised", code="STRATEGY_RAISED") for name in NAMES[1:])]


def examine_answer(subject: Subject, market: Market, base: Answer, known: Known, effort: Effort) -> list[Check]:
    """The same with the answer at hand."""
    checks = [
        fills.stale_fill(market, base),
        fills.costs(base),
        fills.capacity(market, base, known.participation),
        overlap.label_overlap(base),
        *_asked_again(subject, market, base, known, effort),
    ]
    found = {check.name: check for check in checks}
    return [found[name] for name in NAMES]


def _asked_again(subject: Subject, market: Market, base: Answer, known: Known, effort: Effort) -> list[Check]:
    """What shows only when the strategy is asked again, with other bars or numbers."""
    listed = survivors.listed(market, base.deals, known.listings)
    split_here = _with_splits(subject, market, base, known, effort.symbols)
    market, base = _fewer(subject, market, base, effort.symbols)
    runs = _runs(subject, market, base)
    if runs.verdict is not Verdict.PASS:
        dark = {name: unknown(name, runs.detail, code=runs.code) for name in _REPEATED if name != listed.name}
        return [runs, *dark.values(), listed]
    cut_short, future, drops_open = ahead.look_ahead(subject, market, base, effort.cuts)
    same_bar, decided_before = fills.same_bar_fill(subject, market, base, effort.cuts.bars, drops_open=drops_open)
    if decided_before and future.verdict is not Verdict.FAIL:
        future = replace(same_bar, name=ahead.FUTURE, code="LOOKS_AHEAD")
    chosen = survivors.by_the_strategy(subject, market, base)
    return [
        runs,
        cut_short,
        future,
        same_bar,
        warm_up.warm_up(subject, market, base, effort.skips),
        basis.adjusted_prices(subject, *(split_here or (market, base)), known.splits),
        luck.parameter_luck(subject, market, base, effort.neighbours),
        chosen or listed,
    ]


def _fewer(subject: Subject, market: Market, base: Answer, most: int) -> tuple[Market, Answer]:
    """So many symbols, when the others do not matter to them; a strategy that then raises keeps them all."""
    if not subject.each_alone or len(market.bars) <= most:
        return market, base
    few = market.only(_spread(market, base, most))
    asked = subject.ask(few)
    return (market, base) if isinstance(asked, Raised) else (few, asked)


def _with_splits(
    subject: Subject, market: Market, base: Answer, known: Known, most: int
) -> tuple[Market, Answer] | None:  # fmt: skip
    """The symbols that were split, which are few, so that a sample does not miss them."""
    names = {split.symbol for split in known.splits or ()} & market.bars.keys()
    if not subject.each_alone or not names or len(market.bars) <= most:
        return None
    few = market.only(names)
    deals = tuple(deal for deal in base.deals if deal.symbol in names)
    return _fewer(subject, few, replace(base, deals=deals), 4 * most)


def _runs(subject: Subject, market: Market, base: Answer) -> Check:
    """It answers the same twice, and listens to the bars: else asking with other bars means nothing."""
    n = len(base.deals) + len(base.features)
    if n == 0:
        return unknown(RUNS, "it makes no trade and tells no feature on these bars", code="NO_TRADES")
    again, last = subject.ask(market), int(market.sessions[-1])
    if isinstance(again, Raised):
        return failed(RUNS, n, f"asked again it raised: {again.detail}", code="NOT_REPEATABLE", blame=again.detail)
    wrong = trades_differ(base, again, last, ended=False, drops_open=False) or features_differ(base, again, last)
    if wrong:
        told = f"asked twice with the same bars, {wrong[0].where} {wrong[0].what}: seed its random numbers"
        return failed(RUNS, n, told, code="NOT_REPEATABLE", blame=wrong[0].where)
    if not ahead.hears(subject, market, base):
        told = "other bars change nothing: it does not use the bars it is handed, so it cannot be asked"
        return unknown(RUNS, told, code="BARS_NOT_USED", n=n)
    return passed(RUNS, n, f"{len(base.deals)} trades, the same when asked again")


def _spread(market: Market, base: Answer, most: int) -> set[str]:
    """So many symbols, evenly over those that were traded, most traded first, then the others."""
    counts = {symbol: len(deals) for symbol, deals in by_symbol(base.deals).items()}
    names = sorted(market.bars, key=lambda s: (-counts.get(s, 0), s))
    traded = [s for s in names if s in counts] or names
    if len(traded) <= most:
        return set(names[:most])
    step = len(traded) / most
    return {traded[int(k * step)] for k in range(most)}
