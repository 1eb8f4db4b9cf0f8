"""Corporate actions of what is held, from every voice there is: Alpaca's own lists, a vendor's splits, the store.

Alpaca files an action under the day it processes it: a dividend on its pay date, weeks after its ex-date, a rename on
the day itself. So the window asked for is wider than the one wanted. What two voices say alike is one action with two
sources; where they contradict, both are handed on, and whoever acts on them has to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Protocol

from core.bars_io import Dividend, Split
from core.clock import Clock
from core.domain import ActionKind, CorporateAction, Symbol, canonical_symbol
from core.errors import DataError
from core.market_calendar import NEW_YORK
from core.ports import ActionFeed
from data.providers.base import DailyProvider, FailureKind, ProviderFailure

AHEAD = timedelta(days=10)
"""How far ahead announced actions are of interest: a long weekend and some."""
PAID_AFTER = timedelta(days=90)
"""A dividend may be paid, and only then be filed, this long after its ex-date."""
_FILED_BEFORE = timedelta(days=5)
_SAME = Fraction(1, 1000)  # two ratios that differ less are one: 0.3333 and 1/3
_RARE = (
    "name_change", "spin_off", "rights_distribution", "cash_merger", "stock_merger", "stock_and_cash_merger",
    "redemption", "worthless_removal", "unit_split", "reorganization",
)  # fmt: skip
"""Asked for without naming symbols: which of the two names of such an action the filter knows is not documented."""


class ActionRows(Protocol):
    """data.providers.alpaca_eod.AlpacaProvider, as far as it is needed here."""

    @property
    def name(self) -> str: ...

    def action_rows(
        self, since: date, until: date, *, types: Collection[str] = (), symbols: Collection[Symbol] = ()
    ) -> dict[str, list[Any]]: ...


class SplitSource(Protocol):
    def read_actions(self) -> tuple[Sequence[Split], Sequence[Dividend]]: ...


# ---------------------------------------------------------------- Alpaca
class AlpacaActions:
    """Two requests, whatever is held."""

    def __init__(self, provider: ActionRows, clock: Clock) -> None:
        self._provider, self._clock = provider, clock

    def actions(self, symbols: Collection[Symbol], since: date) -> Sequence[CorporateAction]:
        today = self._clock.now().astimezone(NEW_YORK).date()
        first = since - _FILED_BEFORE
        rows = self._provider.action_rows(first, today + PAID_AFTER, symbols=symbols)
        rare = self._provider.action_rows(first, today + AHEAD, types=_RARE)
        both = {kind: [*rows.get(kind, ()), *rare.get(kind, ())] for kind in {*rows, *rare}}
        return [a for a in self._read(both, frozenset(symbols)) if since < a.ex_date <= today + AHEAD]

    def _read(self, lists: Mapping[str, Sequence[Any]], wanted: frozenset[Symbol]) -> list[CorporateAction]:
        """Rows of others are passed over unread; one of ours that cannot be read makes the whole answer unknown."""
        found: dict[CorporateAction, None] = {}
        dividends: dict[str, CorporateAction] = {}
        for kind, read in _READERS.items():
            for row in lists.get(kind, ()):
                if not _named(row) & wanted:
                    continue
                try:
                    action = read(row)
                except (KeyError, ValueError, TypeError, ZeroDivisionError, ArithmeticError) as error:
                    text = f"a {kind} row without usable {error}"
                    raise ProviderFailure(self._provider.name, FailureKind.MALFORMED, text) from None
                if action is None:
                    continue
                action = replace(action, source=self._provider.name)
                if action.kind is ActionKind.DIVIDEND:
                    dividends[str(row.get("id", len(dividends)))] = action
                else:
                    found[action] = None
        return _sorted([*found, *_summed(dividends.values())])


_NAMES = ("symbol", "old_symbol", "new_symbol", "source_symbol", "acquiree_symbol", "acquirer_symbol")


def _named(row: Any) -> set[Symbol]:
    """Every symbol of a row, in our spelling; what is no symbol of ours is left out."""
    if not isinstance(row, Mapping):
        return set()
    return {found for name in _NAMES if (found := _symbol(row.get(name))) is not None}


def _symbol(text: object) -> Symbol | None:
    try:
        return canonical_symbol(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _need(row: Mapping[str, Any], name: str) -> Symbol:
    return canonical_symbol(str(row[name]))


def _day(row: Mapping[str, Any], name: str) -> date:
    return date.fromisoformat(str(row[name])[:10])


def _exact(value: object) -> Fraction:
    """A number as it was written: 0.125, "0.125" and 1 are exact; NaN, true and words are refused."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"number {value!r}")
    return Fraction(str(value))


def _usd(value: object) -> Decimal:
    amount = Decimal(str(value)) if not isinstance(value, bool) else Decimal("NaN")
    if not (amount.is_finite() and amount >= 0):
        raise ValueError(f"amount {value!r}")
    return amount


def _split(row: Mapping[str, Any]) -> CorporateAction:
    other = _symbol(row.get("new_symbol"))
    symbol = _need(row, "symbol")
    return CorporateAction(
        kind=ActionKind.SPLIT, symbol=symbol, ex_date=_day(row, "ex_date"), other=None if other == symbol else other,
        ratio=_exact(row["new_rate"]) / _exact(row["old_rate"]),
    )  # fmt: skip


def _stock_dividend(row: Mapping[str, Any]) -> CorporateAction:
    return CorporateAction(
        kind=ActionKind.SPLIT, symbol=_need(row, "symbol"), ex_date=_day(row, "ex_date"), ratio=1 + _exact(row["rate"])
    )


def _cash_dividend(row: Mapping[str, Any]) -> CorporateAction | None:
    if row.get("currency", "USD") not in (None, "", "USD"):
        return None
    return CorporateAction(
        kind=ActionKind.DIVIDEND, symbol=_need(row, "symbol"), ex_date=_day(row, "ex_date"),
        cash_per_share=_usd(row["rate"]),
    )  # fmt: skip


def _spin_off(row: Mapping[str, Any]) -> CorporateAction:
    return CorporateAction(
        kind=ActionKind.SPINOFF, symbol=_need(row, "source_symbol"), ex_date=_day(row, "ex_date"),
        other=_symbol(row.get("new_symbol")), ratio=_exact(row["new_rate"]) / _exact(row["source_rate"]),
    )  # fmt: skip


def _rights(row: Mapping[str, Any]) -> CorporateAction:
    """A child like that of a spin-off, too small to move the price."""
    return CorporateAction(
        kind=ActionKind.SPINOFF, symbol=_need(row, "source_symbol"), ex_date=_day(row, "ex_date"),
        other=_symbol(row.get("new_symbol")), ratio=_exact(row["rate"]), price_factor=Fraction(1),
    )  # fmt: skip


def _rename(row: Mapping[str, Any]) -> CorporateAction | None:
    old, new = _need(row, "old_symbol"), _need(row, "new_symbol")
    if old == new:
        return None  # only the CUSIP changed
    return CorporateAction(kind=ActionKind.RENAME, symbol=old, ex_date=_day(row, "process_date"), other=new)


def _merger(row: Mapping[str, Any]) -> CorporateAction:
    stock = "acquirer_rate" in row
    cash = row.get("cash_rate") if stock else row.get("rate")
    return CorporateAction(
        kind=ActionKind.MERGER, symbol=_need(row, "acquiree_symbol"), ex_date=_day(row, "effective_date"),
        other=_symbol(row.get("acquirer_symbol")) if stock else None,
        ratio=_exact(row["acquirer_rate"]) / _exact(row["acquiree_rate"]) if stock else None,
        cash_per_share=None if cash is None else _usd(cash),
    )  # fmt: skip


def _removal(row: Mapping[str, Any]) -> CorporateAction:
    return CorporateAction(
        kind=ActionKind.DELISTING, symbol=_need(row, "symbol"), ex_date=_day(row, "process_date"),
        cash_per_share=_usd(row.get("rate") or 0),
    )  # fmt: skip


def _other(row: Mapping[str, Any]) -> CorporateAction:
    symbol = _symbol(row.get("old_symbol")) or _need(row, "symbol")
    day = _day(row, "effective_date" if row.get("effective_date") else "process_date")
    return CorporateAction(kind=ActionKind.OTHER, symbol=symbol, ex_date=day, other=_symbol(row.get("new_symbol")))


_READERS: Mapping[str, Callable[[Mapping[str, Any]], CorporateAction | None]] = {
    "forward_splits": _split, "reverse_splits": _split, "stock_dividends": _stock_dividend,
    "cash_dividends": _cash_dividend, "spin_offs": _spin_off, "rights_distributions": _rights,
    "name_changes": _rename, "cash_mergers": _merger, "stock_mergers": _merger, "stock_and_cash_mergers": _merger,
    "redemptions": _removal, "worthless_removals": _removal, "unit_splits": _other, "reorganizations": _other,
}  # fmt: skip


def _summed(rows: Iterable[CorporateAction]) -> list[CorporateAction]:
    """A regular and a special dividend of one day are one drop of the price."""
    totals: dict[tuple[Symbol, date], CorporateAction] = {}
    for row in rows:
        before = totals.get((row.symbol, row.ex_date))
        cash = (row.cash_per_share or Decimal(0)) + (Decimal(0) if before is None else before.cash_per_share or 0)
        totals[row.symbol, row.ex_date] = replace(row, cash_per_share=cash)
    return list(totals.values())


def _sorted(actions: Iterable[CorporateAction]) -> list[CorporateAction]:
    return sorted(actions, key=lambda a: (a.ex_date, a.symbol, a.kind, a.source, a.ratio or 0))


# ---------------------------------------------------------------- other voices
class VendorSplits:
    """The splits a market data vendor tells; one request."""

    def __init__(self, provider: DailyProvider, clock: Clock) -> None:
        self._provider, self._clock = provider, clock

    def actions(self, symbols: Collection[Symbol], since: date) -> Sequence[CorporateAction]:
        until = self._clock.now().astimezone(NEW_YORK).date() + AHEAD
        return _of_splits(self._provider.splits(since, until, symbols), self._provider.name, since)


class StoredActions:
    """What the daily update wrote beside the bars: no request, and a day behind."""

    def __init__(self, store: SplitSource, name: str) -> None:
        self._store, self._name = store, name

    def actions(self, symbols: Collection[Symbol], since: date) -> Sequence[CorporateAction]:
        splits, dividends = self._store.read_actions()
        wanted = set(map(str, symbols))
        found = _of_splits([s for s in splits if s.symbol in wanted], self._name, since)
        found += [
            CorporateAction(kind=ActionKind.DIVIDEND, symbol=Symbol(d.symbol), ex_date=d.ex_date, source=self._name,
                            cash_per_share=Decimal(repr(float(d.amount))))
            for d in dividends if d.symbol in wanted and d.ex_date > since and d.amount > 0
        ]  # fmt: skip
        return _sorted(found)


def _of_splits(splits: Iterable[Split], source: str, since: date) -> list[CorporateAction]:
    return [
        CorporateAction(kind=ActionKind.SPLIT, symbol=Symbol(s.symbol), ex_date=s.ex_date, source=source,
                        ratio=Fraction(s.ratio).limit_denominator(10_000))
        for s in splits if s.ex_date > since and s.ratio > 0
    ]  # fmt: skip


# ---------------------------------------------------------------- together
class Voices:
    """core.ports.ActionFeed over several. The first is asked first and must answer, unless another one has news.

    Silence of the others is no news, and silence of the first is no knowledge: then DataError ACTIONS_UNKNOWN.
    """

    def __init__(self, first: ActionFeed, others: Sequence[ActionFeed] = ()) -> None:
        self._first, self._others = first, others

    def actions(self, symbols: Collection[Symbol], since: date) -> Sequence[CorporateAction]:
        if not symbols:
            return []
        found: list[CorporateAction] = []
        trouble: DataError | None = None
        for feed in (self._first, *self._others):
            try:
                found += feed.actions(symbols, since)
            except DataError as error:
                trouble = error if feed is self._first else trouble
        if trouble is not None and not found:
            raise DataError(f"no word on corporate actions: {trouble}", code="ACTIONS_UNKNOWN") from trouble
        return merged(found)


def merged(actions: Iterable[CorporateAction]) -> list[CorporateAction]:
    """What is said alike is one action with every source; other vendors' price factor of a spin-off joins it."""
    out: list[CorporateAction] = []
    for action in _sorted(actions):
        for place, known in enumerate(out):
            if _alike(known, action):
                sources = dict.fromkeys([*known.source.split("+"), action.source])
                out[place] = replace(known, source="+".join(sources), other=known.other or action.other)
                break
        else:
            out.append(action)
    return _with_factors(out)


def _alike(a: CorporateAction, b: CorporateAction) -> bool:
    if (a.kind, a.symbol, a.ex_date) != (b.kind, b.symbol, b.ex_date):
        return False
    if a.kind is ActionKind.DIVIDEND and a.cash_per_share is not None and b.cash_per_share is not None:
        return abs(a.cash_per_share - b.cash_per_share) <= Decimal("0.01") * max(a.cash_per_share, b.cash_per_share)
    if a.ratio is not None and b.ratio is not None:
        return abs(a.ratio - b.ratio) <= _SAME * max(a.ratio, b.ratio)
    return a.other == b.other


def _with_factors(actions: Sequence[CorporateAction]) -> list[CorporateAction]:
    """Polygon and Yahoo write a spin-off as a split of, say, 1.281: that is its price factor, and no split."""
    out: list[CorporateAction] = []
    for action in actions:
        spun = next((a for a in actions if a.kind is ActionKind.SPINOFF and a.symbol == action.symbol
                     and a.ex_date == action.ex_date and a.source != action.source), None)  # fmt: skip
        if action.kind is ActionKind.SPLIT and spun is not None:
            continue
        factor = next((a for a in actions if a.kind is ActionKind.SPLIT and a.symbol == action.symbol
                       and a.ex_date == action.ex_date and a.source != action.source), None)  # fmt: skip
        if action.kind is ActionKind.SPINOFF and factor is not None:
            action = replace(action, price_factor=factor.ratio, source=f"{action.source}+{factor.source}")
        out.append(action)
    return out
