"""One scan: from the adjusted panel to picks, with a verdict for every considered symbol. Pure.

A symbol is asked these questions in this order; the first "no" of its best signal is its verdict, with the numbers:

1. its bar of the session: BAR_* (quarantined), NO_BAR, HISTORY_SHORT, HISTORY_GAP
2. a setup: NO_SETUP, `rule` names the first failing condition of the strategy that came closest; STRATEGY_FAILED when
   every strategy raised. One that raised is off for the scan and named in `off`; the others go on
3. VIX: VIX_UNKNOWN, VIX_STOP (25–35 only halves the size)
4. earnings: EARNINGS_NEAR, EARNINGS_UNKNOWN_REFUSED
5. quality score: SCORE_BELOW_MIN
6. reviewer: REVIEW_VETO, REVIEW_ABSENT
7. selection: ALREADY_HELD; NOT_TRADE_OF_DAY, TOP_N_FULL, MAX_SIGNALS; SINGLE_NAME_SHARE, SECTOR_SHARE, CORRELATION

else PICKED. `considered` is the number of symbols; picks and refused add up to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from config.settings_schema import Settings
from config.strategy_params import StrategyParams
from core.domain import Mode, Symbol
from core.panel import Panel
from core.ports import EarningsCalendar, Opinion, Reviewer, Scorer
from portfolio.choice import (
    STAGES,
    EarningsRule,
    Found,
    No,
    Pick,
    Questions,
    Reviewed,
    Verdict,
    choose,
    entry_session,
    vix_scale,
)
from portfolio.facts import GAP_SESSIONS_MAX, facts_of, longest_gaps
from portfolio.selection import correlation_at, rules_from
from portfolio.strategies import last_rows, session_date, setups_that_work, signals_at_points
from portfolio.strategies.boundary import Failed, guarded
from portfolio.strategies.indicators import Bools, Floats, Ints, Setup, compute_indicators, stop_rule, without_missing

if TYPE_CHECKING:
    from core.market_calendar import MarketCalendar


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanResult:
    as_of: datetime
    session: date
    data_source: str
    simulated: bool
    snapshot_sha256: str
    considered: int
    picks: tuple[Pick, ...]
    refused: Mapping[str, int]  # verdict code -> symbols, every symbol that was not picked
    verdicts: tuple[Verdict, ...]  # one per considered symbol, by symbol
    off: tuple[Failed, ...] = ()  # strategies that raised
    opinions: Mapping[str, Opinion] = field(default_factory=dict)  # what the model said, by decision id
    reviewed: tuple[Reviewed, ...] = ()  # signals that their score let through
    model_asked: bool = False
    reviewer_asked: bool = False
    kept_free: tuple[Pick, ...] = ()  # picks, and what was chosen before all of its size was taken away

    def to_json(self) -> dict[str, Any]:
        """`scan.py --json`; docs/interfaces.md."""
        return {
            "as_of": f"{self.as_of.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "session": self.session.isoformat(),
            "data_source": self.data_source,
            "simulated": self.simulated,
            "snapshot_sha256": self.snapshot_sha256,
            "considered": self.considered,
            "picks": [pick.to_json() for pick in self.picks],
            "refused": dict(self.refused),
        }


def run_scan(
    *,
    panel: Panel,
    session: date,
    as_of: datetime,
    symbols: Sequence[Symbol],
    sectors: Mapping[Symbol, str | None],
    vix: float | None,
    earnings: EarningsCalendar,
    scorer: Scorer | None,
    reviewer: Reviewer | None,
    settings: Settings,
    params: StrategyParams,
    mode: Mode,
    top3: bool,
    data_source: str,
    simulated: bool,
    snapshot_sha256: str,
    quarantined: Mapping[Symbol, str] | None = None,
    held: Mapping[Symbol, Decimal] | None = None,
    taken: Collection[str] = (),
    calendar: MarketCalendar | None = None,
) -> ScanResult:
    """Scan the last completed `session`; bars after it are not looked at.

    panel        adjusted daily bars; symbols it lacks get NO_BAR
    quarantined  symbol -> BAR_* code: its bar of the session cannot be trusted
    vix          close of `session`; None or implausible counts as unknown
    held         USD value per open position, for correlation and sector limits
    taken        decision ids entered today; see portfolio.selection
    calendar     counts the sessions between an entry and an announcement; without it calendar days are counted
    """
    considered = sorted(set(symbols))
    panel = without_missing(panel)
    nos, found, off = _setups(panel, session, considered, params, quarantined or {})
    entry = entry_session(as_of, session, calendar)
    questions = Questions(
        settings, vix_scale(vix, settings), EarningsRule(earnings, settings, mode, entry, calendar), scorer, reviewer
    )
    chosen = choose(
        found,
        questions,
        rules_from(settings, top3=top3),
        sectors=sectors,
        correlate=correlation_at(panel, session),
        held=held or {},
        taken=taken,
    )
    verdicts = _verdicts(considered, chosen.picks, [*nos, *chosen.nos])
    refused = Counter(v.code for v in verdicts if v.code != "PICKED")
    return ScanResult(
        as_of=as_of,
        session=session,
        data_source=data_source,
        simulated=simulated,
        snapshot_sha256=snapshot_sha256,
        considered=len(considered),
        picks=chosen.picks,
        refused=dict(sorted(refused.items())),
        verdicts=verdicts,
        off=tuple(off),
        opinions=chosen.opinions,
        kept_free=chosen.kept_free,
        reviewed=chosen.reviewed,
        model_asked=scorer is not None,
        reviewer_asked=reviewer is not None,
    )


# ------------------------------------------------------------------ 1, 2: bars and setups
def _setups(
    panel: Panel, session: date, considered: Sequence[Symbol], params: StrategyParams, quarantined: Mapping[Symbol, str]
) -> tuple[list[No], list[Found], list[Failed]]:
    rows, current = last_rows(panel, session)
    gaps = _gaps(panel, rows, current, _bars_needed(params))
    columns = {symbol: j for j, symbol in enumerate(panel.symbols)}
    nos: list[No] = []
    usable: list[int] = []
    for symbol in considered:
        column = columns.get(symbol)
        objection = _bar_objection(panel, session, symbol, column, rows, current, gaps, params, quarantined)
        if objection is not None:
            nos.append(No("SETUP", objection))
        elif column is not None:
            usable.append(column)
    at = np.asarray(usable, dtype=np.intp)
    if not at.size:
        return nos, [], []
    setups, off = setups_that_work(panel, compute_indicators(panel, params.common), rows[at], at, params)
    working, found, without = _found(panel, setups, off, at.size)
    if not working:
        names = {"strategies": [failed.strategy for failed in off]}
        symbols = [Symbol(panel.symbols[column]) for column in usable]
        failed_all = [Verdict(s, "STRATEGY_FAILED", None, "STRATEGY_FAILED", names) for s in symbols]
        return nos + [No("SETUP", verdict) for verdict in failed_all], [], off
    return nos + _nearest(panel, at, working, without), found, off


def _bar_objection(
    panel: Panel,
    session: date,
    symbol: Symbol,
    column: int | None,
    rows: Ints,
    current: Bools,
    gaps: Ints,
    params: StrategyParams,
    quarantined: Mapping[Symbol, str],
) -> Verdict | None:
    if symbol in quarantined:
        return Verdict(symbol, quarantined[symbol], None, quarantined[symbol], {"session": session.isoformat()})
    if column is None or not current[column]:
        last = None
        if column is not None and rows[column] >= 0:
            last = session_date(int(panel.sessions[panel.session_index[rows[column], column]])).isoformat()
        return Verdict(symbol, "NO_BAR", None, "NO_BAR", {"session": session.isoformat(), "last_bar": last})
    have, need = int(rows[column]) + 1, _bars_needed(params)
    if have < need:
        return Verdict(symbol, "HISTORY_SHORT", None, "HISTORY_SHORT", {"bars": have, "needed": need})
    if (gap := int(gaps[column])) > GAP_SESSIONS_MAX:
        return Verdict(symbol, "HISTORY_GAP", None, "HISTORY_GAP", {"sessions": gap, "limit": GAP_SESSIONS_MAX})
    return None


def _bars_needed(params: StrategyParams) -> int:
    return max(params.common.sma_bars, params.common.atr_bars + 1)


def _gaps(panel: Panel, rows: Ints, current: Bools, need: int) -> Ints:
    """Per symbol the longest silence within the bars that decide; 0 where there are not that many."""
    gaps = np.zeros(rows.shape, dtype=np.intp)
    full = np.flatnonzero(current & (rows + 1 >= need))
    gaps[full] = longest_gaps(panel, rows[full], full, need)
    return gaps


@dataclass(frozen=True, slots=True)
class _Read:
    """One strategy's answer, wholly read: what could still raise has been touched. Arrays are (rules, points)."""

    strategy: str
    codes: tuple[str, ...]
    fails: Bools
    observed: Floats
    limit: Floats
    signals: list[Found]


def _found(
    panel: Panel, setups: Sequence[Setup], off: list[Failed], points: int
) -> tuple[list[_Read], list[Found], Bools]:
    """The strategies that could be read, their signals, and which points have none. What raises goes to `off`."""
    working: list[_Read] = []
    without = np.ones(points, dtype=np.bool_)
    for setup in setups:
        read = guarded(setup.strategy, lambda setup=setup: _read(panel, setup))  # type: ignore[misc]
        if isinstance(read, Failed):
            off.append(read)
            continue
        working.append(read)
        without &= read.fails.any(axis=0)
    signals = [signal for read in working for signal in read.signals]
    return working, sorted(signals, key=lambda f: (f.signal.symbol, f.signal.strategy)), without


def _read(panel: Panel, setup: Setup) -> _Read:
    rules = [*setup.rules, stop_rule(setup.points, setup.stop)]
    fails = np.array([~rule.holds for rule in rules])
    at = np.flatnonzero(~fails.any(axis=0))
    signals = [
        Found(signal, facts)
        for signal, facts in zip(signals_at_points(panel, setup, at), facts_of(panel, setup.points, at), strict=True)
    ]
    observed, limit = (np.array([getattr(rule, name) for rule in rules]) for name in ("observed", "limit"))
    return _Read(setup.strategy, tuple(rule.code for rule in rules), fails, observed, limit, signals)


def _nearest(panel: Panel, columns: Ints, working: Sequence[_Read], without: Bools) -> list[No]:
    """Per symbol without a signal: the strategy with the fewest failing conditions and its first failing one."""
    nearest = np.argmin(np.array([read.fails.sum(axis=0) for read in working]), axis=0)
    first = [np.argmax(read.fails, axis=0) for read in working]
    out = []
    for i in np.flatnonzero(without).tolist():
        which = int(nearest[i])
        read, rule = working[which], int(first[which][i])
        numbers = {
            "observed": float(read.observed[rule, i]),
            "limit": float(read.limit[rule, i]),
            "failing": int(read.fails[:, i].sum()),
        }
        symbol = Symbol(panel.symbols[int(columns[i])])
        out.append(No("SETUP", Verdict(symbol, "NO_SETUP", read.strategy, read.codes[rule], numbers)))
    return out


# ------------------------------------------------------------------ verdicts
def _verdicts(considered: Sequence[Symbol], picks: Sequence[Pick], nos: Sequence[No]) -> tuple[Verdict, ...]:
    """Exactly one per symbol: PICKED, else the objection to the signal that came furthest."""
    final: dict[Symbol, Verdict] = {}
    reached: dict[Symbol, int] = {}
    for no in nos:
        symbol, stage = no.verdict.symbol, STAGES.index(no.stage)
        if stage > reached.get(symbol, -1):
            final[symbol], reached[symbol] = no.verdict, stage
    for pick in picks:
        signal = pick.signal
        numbers = {"score": pick.score, "scale": str(pick.scale), **signal.numbers}
        final[signal.symbol] = Verdict(signal.symbol, "PICKED", signal.strategy, "PICKED", numbers)
    return tuple(final[symbol] for symbol in considered)
