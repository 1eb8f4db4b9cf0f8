"""One scan: from the adjusted panel to picks, with a verdict for every considered symbol. Pure.

A symbol is asked these questions in this order; the first "no" of its best signal is its verdict, with the numbers:

1. its bar of the session: BAR_* (quarantined), NO_BAR, HISTORY_SHORT
2. a setup: NO_SETUP, `rule` names the first failing condition of the strategy that came closest
3. VIX: VIX_UNKNOWN, VIX_STOP (25–35 only halves the size)
4. earnings: EARNINGS_NEAR, EARNINGS_UNKNOWN_REFUSED
5. quality score: SCORE_BELOW_MIN
6. reviewer: REVIEW_VETO
7. selection: ALREADY_HELD; NOT_TRADE_OF_DAY, TOP_N_FULL, MAX_SIGNALS; SINGLE_NAME_SHARE, SECTOR_SHARE, CORRELATION

else PICKED. `considered` is the number of symbols; picks and refused add up to it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np

from config.settings_schema import Settings
from config.strategy_params import StrategyParams
from core.domain import Mode, Signal, Symbol
from core.earnings_filter import CLEAR, earnings_verdict
from core.panel import Panel
from core.ports import EarningsCalendar, Reviewer, Scorer
from portfolio.quality_gate import MEDIAN_BARS, Facts, Scored, median_dollar_volume, score
from portfolio.selection import Candidate, correlation_at, rules_from, select
from portfolio.strategies import last_rows, session_date, setups_at, signal_of
from portfolio.strategies.indicators import Bools, Ints, Setup, all_hold, compute_indicators, stop_rule, without_missing

if TYPE_CHECKING:
    from core.market_calendar import MarketCalendar

_NEW_YORK = ZoneInfo("America/New_York")
_FULL, _HALF = Decimal(1), Decimal("0.5")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
# The later a question is asked, the further a signal came: a symbol with two signals shows the one that came furthest.
_STAGES = ("SETUP", "VIX", "EARNINGS", "SCORE", "REVIEW", "SELECTION")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why one considered symbol was picked or not."""

    symbol: Symbol
    code: str
    strategy: str | None
    rule: str  # the condition that decided; the code itself unless it is finer
    numbers: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    def to_json(self) -> dict[str, Any]:
        return {
            "symbol": self.symbol,
            "code": self.code,
            "strategy": self.strategy,
            "rule": self.rule,
            "numbers": {name: _plain(value) for name, value in self.numbers.items()},
        }


@dataclass(frozen=True, slots=True)
class Pick:
    signal: Signal
    score: float
    target: float | None  # indicative: measured from the close; the real one from the fill
    scale: Decimal  # part of the full size, 0..1
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "symbol": self.signal.symbol,
            "strategy": self.signal.strategy,
            "score": self.score,
            "signal_session": self.signal.session.isoformat(),
            "close": self.signal.close,
            "stop": self.signal.stop,
            "target": self.target,
            "reasons": list(self.reasons),
        }


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


@dataclass(frozen=True, slots=True)
class _Found:
    """A signal on its way through the questions."""

    signal: Signal
    facts: Facts


@dataclass(frozen=True, slots=True)
class _No:
    stage: str
    verdict: Verdict


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
    nos, found = _setups(panel, session, considered, params, quarantined or {})
    entry = _entry_session(as_of, session, calendar)
    questions = _Questions(
        settings, vix_scale(vix, settings), _EarningsRule(earnings, settings, mode, entry, calendar), scorer, reviewer
    )
    answers = [questions.ask(item) for item in found]
    passed = [answer for answer in answers if isinstance(answer, _Passed)]
    selection = select(
        [answer.candidate for answer in passed],
        rules_from(settings, top3=top3),
        sectors=sectors,
        correlate=correlation_at(panel, session),
        held=held or {},
        taken=taken,
    )
    notes = {answer.candidate.scored.signal.decision_id: answer.notes for answer in passed}
    picks = tuple(_pick(c, notes[c.scored.signal.decision_id], taken) for c in selection.picks)
    nos += [answer for answer in answers if isinstance(answer, _No)]
    nos += [_no("SELECTION", r.candidate.scored.signal, r.code, r.numbers) for r in selection.refused]
    verdicts = _verdicts(considered, picks, nos)
    refused = Counter(v.code for v in verdicts if v.code != "PICKED")
    return ScanResult(
        as_of=as_of,
        session=session,
        data_source=data_source,
        simulated=simulated,
        snapshot_sha256=snapshot_sha256,
        considered=len(considered),
        picks=picks,
        refused=dict(sorted(refused.items())),
        verdicts=verdicts,
    )


# ------------------------------------------------------------------ 1, 2: bars and setups
def _setups(
    panel: Panel, session: date, considered: Sequence[Symbol], params: StrategyParams, quarantined: Mapping[Symbol, str]
) -> tuple[list[_No], list[_Found]]:
    rows, current = last_rows(panel, session)
    columns = {symbol: j for j, symbol in enumerate(panel.symbols)}
    nos: list[_No] = []
    usable: list[int] = []
    for symbol in considered:
        column = columns.get(symbol)
        objection = _bar_objection(panel, session, symbol, column, rows, current, params, quarantined)
        if objection is not None:
            nos.append(_No("SETUP", objection))
        elif column is not None:
            usable.append(column)
    at = np.asarray(usable, dtype=np.intp)
    if not at.size:
        return nos, []
    setups = setups_at(panel, compute_indicators(panel, params.common), rows[at], at, params)
    found, without = _found(panel, setups)
    return nos + _nearest(panel, setups, without), found


def _bar_objection(
    panel: Panel,
    session: date,
    symbol: Symbol,
    column: int | None,
    rows: Ints,
    current: Bools,
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
    have, need = int(rows[column]) + 1, max(params.common.sma_bars, params.common.atr_bars + 1)
    if have < need:
        return Verdict(symbol, "HISTORY_SHORT", None, "HISTORY_SHORT", {"bars": have, "needed": need})
    return None


def _found(panel: Panel, setups: Sequence[Setup]) -> tuple[list[_Found], Bools]:
    """Signals, and which points have none."""
    found = []
    without = np.ones(setups[0].points.rows.size, dtype=np.bool_)
    for setup in setups:
        holds = all_hold([*setup.rules, stop_rule(setup.points, setup.stop)], without.size)
        without &= ~holds
        for i in np.flatnonzero(holds).tolist():
            row, column = int(setup.points.rows[i]), int(setup.points.columns[i])
            window = slice(max(0, row + 1 - MEDIAN_BARS), row + 1)
            usd = median_dollar_volume(panel.close[window, column], panel.volume[window, column])
            found.append(_Found(signal_of(panel, setup, i), Facts(float(setup.points.sma[i]), usd)))
    return sorted(found, key=lambda f: (f.signal.symbol, f.signal.strategy)), without


def _nearest(panel: Panel, setups: Sequence[Setup], without: Bools) -> list[_No]:
    """Per symbol without a signal: the strategy with the fewest failing conditions and its first failing one."""
    tables = [[*setup.rules, stop_rule(setup.points, setup.stop)] for setup in setups]
    fails = [np.array([~rule.holds for rule in rules]) for rules in tables]
    nearest = np.argmin(np.array([table.sum(axis=0) for table in fails]), axis=0)
    first = [np.argmax(table, axis=0) for table in fails]
    out = []
    for i in np.flatnonzero(without).tolist():
        which = int(nearest[i])
        rule, setup = tables[which][int(first[which][i])], setups[which]
        symbol = Symbol(panel.symbols[int(setup.points.columns[i])])
        numbers = {
            "observed": float(rule.observed[i]),
            "limit": float(rule.limit[i]),
            "failing": int(fails[which][:, i].sum()),
        }
        out.append(_No("SETUP", Verdict(symbol, "NO_SETUP", setup.strategy, rule.code, numbers)))
    return out


# ------------------------------------------------------------------ 3 to 6: one signal at a time
@dataclass(frozen=True, slots=True)
class _Passed:
    candidate: Candidate
    notes: tuple[str, ...]  # they follow the score's own reasons


@dataclass(frozen=True, slots=True)
class _Questions:
    """What every signal is asked before selection, in order; the first objection ends it."""

    settings: Settings
    vix: tuple[Decimal, tuple[str, Mapping[str, Any]] | None]  # from vix_scale
    earnings: _EarningsRule
    scorer: Scorer | None
    reviewer: Reviewer | None

    def ask(self, item: _Found) -> _No | _Passed:
        signal, (scale, vix_objection) = item.signal, self.vix
        if vix_objection is not None:
            return _no("VIX", signal, *vix_objection)
        objection, notes = self.earnings.ask(signal.symbol)
        if objection is not None:
            return _no("EARNINGS", signal, *objection)
        opinion = None if self.scorer is None else self.scorer.opinion(signal)
        scored = score(signal, item.facts, opinion, self.settings.quality_gate.weights)
        least = float(self.settings.quality_gate.min_score)
        if scored.score < least:
            return _no("SCORE", signal, "SCORE_BELOW_MIN", {"score": scored.score, "limit": least, **scored.parts})
        notes = (*((f"VIX_SCALE_{scale}",) if scale < 1 else ()), *notes)
        return self._reviewed(Candidate(scored, scale), notes)

    def _reviewed(self, candidate: Candidate, notes: tuple[str, ...]) -> _No | _Passed:
        """A reviewer may only shrink: what is outside 0..1 (NaN too) cannot be acted on, so it is a veto."""
        if self.reviewer is None:
            return _Passed(candidate, notes)
        scored = candidate.scored
        review = self.reviewer.review(scored.signal, scored.score)
        if not (review.scale.is_finite() and 0 < review.scale <= 1):
            numbers = {"codes": list(review.codes), "scale": str(review.scale)}
            return _no("REVIEW", scored.signal, "REVIEW_VETO", numbers)
        return _Passed(Candidate(scored, candidate.scale * review.scale), (*notes, *review.codes))


def vix_scale(vix: float | None, settings: Settings) -> tuple[Decimal, tuple[str, Mapping[str, Any]] | None]:
    """(size factor, None), or (0, objection). Below 25 full size, 25 to 35 half, above 35 or unknown no new entry."""
    limits = settings.risk.vix
    if vix is None or not math.isfinite(vix) or vix <= 0:
        return Decimal(0), ("VIX_UNKNOWN", {"vix": None})
    if vix > float(limits.stop_above):
        return Decimal(0), ("VIX_STOP", {"vix": vix, "limit": float(limits.stop_above)})
    return (_HALF if vix >= float(limits.halve_from) else _FULL), None


@dataclass(frozen=True, slots=True)
class _EarningsRule:
    """No entry around an announcement; the rule itself is core.earnings_filter."""

    source: EarningsCalendar
    settings: Settings
    mode: Mode
    entry: date
    calendar: MarketCalendar | None

    def ask(self, symbol: Symbol) -> tuple[tuple[str, Mapping[str, Any]] | None, tuple[str, ...]]:
        """(objection or None, notes)."""
        rule = self.settings.filters.earnings
        if not rule.enabled:
            return None, ("EARNINGS_FILTER_OFF",)
        dates = self.source.dates(symbol)
        allowed, code = earnings_verdict(
            dates,
            self.entry,
            days_before=rule.days_before,
            days_after=rule.days_after,
            on_unknown=rule.on_unknown or ("refuse" if self.mode is Mode.LIVE else "warn"),
            calendar=self.calendar,
        )
        if allowed:
            return None, () if code == CLEAR else (code,)
        closest = min(dates, key=lambda day: (abs((day - self.entry).days), day)) if dates else None
        return (code, {"entry": self.entry.isoformat(), "announcement": closest.isoformat() if closest else None}), ()


def _entry_session(as_of: datetime, session: date, calendar: MarketCalendar | None) -> date:
    """The day an entry would be made: the date of as_of in New York, or the session after the scanned one."""
    today = as_of.astimezone(_NEW_YORK).date()
    if today > session:
        return today
    if calendar is not None:
        return calendar.next_session(session)
    following = (date.fromordinal(session.toordinal() + n) for n in (1, 2, 3))
    return next(day for day in following if day.weekday() < 5)


# ------------------------------------------------------------------ verdicts
def _no(stage: str, signal: Signal, code: str, numbers: Mapping[str, Any]) -> _No:
    return _No(stage, Verdict(signal.symbol, code, signal.strategy, code, numbers))


def _pick(candidate: Candidate, notes: Sequence[str], taken: Collection[str]) -> Pick:
    scored: Scored = candidate.scored
    signal = scored.signal
    target = None if signal.target_r is None else signal.close + signal.target_r * (signal.close - signal.stop)
    mark = ("ALREADY_TAKEN",) if signal.decision_id in taken else ()
    return Pick(signal, scored.score, target, candidate.scale, (*scored.reasons, *notes, *mark))


def _verdicts(considered: Sequence[Symbol], picks: Sequence[Pick], nos: Sequence[_No]) -> tuple[Verdict, ...]:
    """Exactly one per symbol: PICKED, else the objection to the signal that came furthest."""
    final: dict[Symbol, Verdict] = {}
    reached: dict[Symbol, int] = {}
    for no in nos:
        symbol, stage = no.verdict.symbol, _STAGES.index(no.stage)
        if stage > reached.get(symbol, -1):
            final[symbol], reached[symbol] = no.verdict, stage
    for pick in picks:
        signal = pick.signal
        numbers = {"score": pick.score, "scale": str(pick.scale), **signal.numbers}
        final[signal.symbol] = Verdict(signal.symbol, "PICKED", signal.strategy, "PICKED", numbers)
    return tuple(final[symbol] for symbol in considered)


def _plain(value: Any) -> Any:
    """JSON has no NaN: an undefined number is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
