"""Which scored signals become picks.

How many, in this order of precedence:
1. `--top3` on the command line: up to 3, whatever selection.mode says.
2. selection.mode top_n: up to selection.top_n.n. (top_n.enabled only confirms it; true with totd is refused at load.)
3. selection.mode totd, the trade of the day: 1.
quality_gate.max_signals_per_day caps all three, last.

Signals are taken by score, best first; ties by symbol, then strategy. The limits are the same in every mode: a signal
that breaks one is refused and the next one is asked. A value exactly at a limit passes.

Shares of capital. The account may hold position_limit positions of per_order_max_usd each; that product is the
capital. A pick's share is what it may cost at most (per_order_max_usd × its scale) over that capital: with the
defaults 75 / (10 × 75) = 0.10. `max_single_name_pct` bounds one pick (a symbol that is held, or picked already, is
not picked again) and `max_sector_pct` one sector: the pick, earlier picks and held positions. Weights within the
picks themselves (1/n) would make every day with fewer than four picks break a 0.25 limit. A position whose sector is
unknown counts as being in every sector.

Correlation: Pearson over the last 60 returns on the dates both traded; fewer than 60, or a flat series, counts as 1.

`taken` are signals of this session that were already entered today. They are picked first and keep their place, so
the second and third scan of a day show the same picks and never promote the next best as one more. One that is no
longer a candidate still uses its slot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.settings_schema import Settings
from core.domain import Symbol
from core.panel import Panel
from portfolio.quality_gate import Scored
from portfolio.strategies import last_rows
from portfolio.strategies.indicators import Floats, Ints

CORRELATION_RETURNS = 60
TOP3 = 3
Correlate = Callable[[Symbol, Symbol], float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scored signal and the part of the full size it may have, 0..1."""

    scored: Scored
    scale: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The limits of one selection, taken from the settings once."""

    slots: int
    full_code: str  # why the next one is refused once the slots are gone
    max_correlation: float
    max_sector_fraction: float
    max_single_name_fraction: float
    per_order_max_usd: Decimal
    capital_usd: Decimal


@dataclass(frozen=True, slots=True)
class Refusal:
    candidate: Candidate
    code: str
    numbers: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Selection:
    picks: tuple[Candidate, ...]
    refused: tuple[Refusal, ...]


def rules_from(settings: Settings, *, top3: bool) -> Rules:
    top_n, per_order = settings.selection.top_n, settings.risk.policy_gate.per_order_max_usd
    if top3:
        wanted, code = TOP3, "TOP_N_FULL"
    elif settings.selection.mode == "top_n":
        wanted, code = top_n.n, "TOP_N_FULL"
    else:
        wanted, code = 1, "NOT_TRADE_OF_DAY"
    most = settings.quality_gate.max_signals_per_day
    return Rules(
        slots=min(wanted, most),
        full_code="MAX_SIGNALS" if most < wanted else code,
        max_correlation=float(top_n.max_correlation),
        max_sector_fraction=float(top_n.max_sector_pct),
        max_single_name_fraction=float(top_n.max_single_name_pct),
        per_order_max_usd=Decimal(per_order),
        capital_usd=Decimal(per_order) * settings.risk.position_limit,
    )


def select(
    candidates: Sequence[Candidate],
    rules: Rules,
    *,
    sectors: Mapping[Symbol, str | None],
    correlate: Correlate,
    held: Mapping[Symbol, Decimal],
    taken: Collection[str] = (),
) -> Selection:
    """Picks and, for every other candidate, the rule that decided and its numbers.

    held   USD value of each open position; a position of a taken signal may be in it and is not counted twice
    taken  decision ids of this session's signals that were entered today
    """
    picks: list[Candidate] = []
    refused: list[Refusal] = []
    entered = set(taken)
    ordered = sorted(candidates, key=lambda c: _order(c, entered))
    mine = {c.scored.signal.symbol for c in ordered if _is_taken(c, entered)}
    others = {symbol: usd for symbol, usd in held.items() if symbol not in mine}
    free = rules.slots - len(entered - {c.scored.signal.decision_id for c in ordered if entered})
    for candidate in ordered:
        if _is_taken(candidate, entered):
            picks.append(candidate)
            continue
        objection = _objection(candidate, picks, free, rules, sectors, correlate, others)
        if objection is None:
            picks.append(candidate)
        else:
            refused.append(Refusal(candidate, *objection))
    return Selection(tuple(picks), tuple(refused))


def _is_taken(candidate: Candidate, entered: Collection[str]) -> bool:
    return bool(entered) and candidate.scored.signal.decision_id in entered


def _order(candidate: Candidate, entered: Collection[str]) -> tuple[bool, float, str, str]:
    signal = candidate.scored.signal
    return not _is_taken(candidate, entered), -candidate.scored.score, signal.symbol, signal.strategy


def _objection(
    candidate: Candidate,
    picks: Sequence[Candidate],
    free: int,
    rules: Rules,
    sectors: Mapping[Symbol, str | None],
    correlate: Correlate,
    held: Mapping[Symbol, Decimal],
) -> tuple[str, dict[str, Any]] | None:
    symbol = candidate.scored.signal.symbol
    if symbol in held:
        return "ALREADY_HELD", {"held_usd": str(held[symbol])}
    if any(pick.scored.signal.symbol == symbol for pick in picks):
        return "SYMBOL_ALREADY_PICKED", {}
    if len(picks) >= free:
        return rules.full_code, {"slots": rules.slots, "rank_score": candidate.scored.score}
    return (
        _single_name(candidate, rules)
        or _sector(candidate, picks, rules, sectors, held)
        or _correlation(symbol, picks, rules, correlate, held)
    )


def _share(usd: Decimal, rules: Rules) -> float:
    return float(usd / rules.capital_usd)


def _single_name(candidate: Candidate, rules: Rules) -> tuple[str, dict[str, Any]] | None:
    share = _share(rules.per_order_max_usd * candidate.scale, rules)
    if share <= rules.max_single_name_fraction:
        return None
    return "SINGLE_NAME_SHARE", {"share": round(share, 6), "limit": rules.max_single_name_fraction}


def _sector(
    candidate: Candidate,
    picks: Sequence[Candidate],
    rules: Rules,
    sectors: Mapping[Symbol, str | None],
    held: Mapping[Symbol, Decimal],
) -> tuple[str, dict[str, Any]] | None:
    sector = sectors.get(candidate.scored.signal.symbol)
    total = rules.per_order_max_usd * candidate.scale
    for pick in picks:
        if _may_share(sector, sectors.get(pick.scored.signal.symbol)):
            total += rules.per_order_max_usd * pick.scale
    for symbol, usd in held.items():
        if _may_share(sector, sectors.get(symbol)):
            total += abs(usd)
    share = _share(total, rules)
    if share <= rules.max_sector_fraction:
        return None
    return "SECTOR_SHARE", {"sector": sector, "share": round(share, 6), "limit": rules.max_sector_fraction}


def _may_share(one: str | None, other: str | None) -> bool:
    return not one or not other or one == other


def _correlation(
    symbol: Symbol,
    picks: Sequence[Candidate],
    rules: Rules,
    correlate: Correlate,
    held: Mapping[Symbol, Decimal],
) -> tuple[str, dict[str, Any]] | None:
    others = sorted({*(pick.scored.signal.symbol for pick in picks), *held})
    for other in others:
        value = correlate(symbol, other)
        if not value <= rules.max_correlation:  # NaN is refused
            return "CORRELATION", {"with": other, "correlation": round(value, 6), "limit": rules.max_correlation}
    return None


def correlation_at(panel: Panel, session: date) -> Correlate:
    """Pairwise correlation of daily returns up to `session`; 1.0, the worst case, whenever it cannot be known."""
    return Correlations(panel, last_rows(panel, session)[0])


class Correlations:
    """`correlation_at` for the row of each symbol's last bar; every symbol's returns are worked out once."""

    def __init__(self, panel: Panel, rows: Ints, columns: Mapping[str, int] | None = None) -> None:
        self._panel, self._rows = panel, rows
        self._columns = {symbol: j for j, symbol in enumerate(panel.symbols)} if columns is None else columns
        self._recent: dict[int, tuple[NDArray[np.int32], _Returns]] = {}

    def __call__(self, one: Symbol, other: Symbol) -> float:
        a, b = self._columns.get(one), self._columns.get(other)
        if a is None or b is None or min(self._rows[a], self._rows[b]) < CORRELATION_RETURNS:
            return 1.0
        (dates_a, returns_a), (dates_b, returns_b) = self._of(a), self._of(b)
        if np.array_equal(dates_a, dates_b):
            return _pearson(returns_a, returns_b)
        return self._on_common_dates(a, b)

    def _of(self, column: int) -> tuple[NDArray[np.int32], _Returns]:
        """The dates of the last 61 bars, and their returns."""
        if column not in self._recent:
            row = int(self._rows[column])
            last = slice(row - CORRELATION_RETURNS, row + 1)
            self._recent[column] = (
                self._panel.session_index[last, column], _Returns.of(self._panel.close[last, column])
            )  # fmt: skip
        return self._recent[column]

    def _on_common_dates(self, a: int, b: int) -> float:
        dates_a, dates_b = (self._panel.session_index[: self._rows[k] + 1, k] for k in (a, b))
        _, at_a, at_b = np.intersect1d(dates_a, dates_b, assume_unique=True, return_indices=True)
        if at_a.size < CORRELATION_RETURNS + 1:
            return 1.0
        last = slice(-(CORRELATION_RETURNS + 1), None)
        close = self._panel.close
        return _pearson(_Returns.of(close[at_a[last], a]), _Returns.of(close[at_b[last], b]))


@dataclass(frozen=True, slots=True)
class _Returns:
    """Simple returns less their mean, and the sum of their squares."""

    centred: Floats
    squares: float

    @classmethod
    def of(cls, close: Floats) -> _Returns:
        returns = close[1:] / close[:-1] - 1.0
        centred = returns - returns.mean()
        return cls(centred, float((centred * centred).sum()))


def _pearson(one: _Returns, other: _Returns) -> float:
    """1.0 when flat or not finite."""
    size = math.sqrt(one.squares * other.squares)
    value = float((one.centred * other.centred).sum()) / size if size > 0 else math.nan
    return min(1.0, max(-1.0, value)) if math.isfinite(value) else 1.0
