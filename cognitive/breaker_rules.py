"""When do we stop entering? One rule per breaker, over values; a rule gives every trip that its evidence shows. Pure.

Each rule looks only at what came after the record that last cleared the lock it would set (`since`): what a person has
seen and resumed does not trip again. A rule that has too little to look at says nothing.

| breaker             | trips when                                                                                     |
|---------------------|------------------------------------------------------------------------------------------------|
| loss_streak         | `max_loss_streak` trades in a row ended in a loss                                              |
| loss_concentration  | of the last `window` trades (all, or one strategy's) more than `loss_share_most` lost; or one  |
|                     | symbol lost `symbol_losses_most` times among them, and carries more than that share of it      |
| calibration_drift   | the mean of the last `window` confidences is outside `calibration_bounds`; or the wins of the  |
|                     | last closed trades differ from what was said by more than `calibration_z` standard errors      |
| confidence_collapse | the last `window` probabilities of a model deviate by less than `confidence_sd_least`, or      |
|                     | `not_finite_most` predictions in a row were no number, or the same for a whole scan            |
| regime_stuck        | the regime is more than `regime_lag_sessions` older than the scan; or its model has said the   |
|                     | very same, or nothing, for `regime_same_sessions` sessions                                     |
| daily_drawdown,     | profit, closed and open, fell by more than the limit since the session (ISO week) before       |
| weekly_drawdown     |                                                                                                |
| execution_quality   | the last `window` entries filled less than `fill_rate_least` on average, or the last `window`  |
|                     | fills were worse than the quote's mid by more than `slippage_most_bps` on average              |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.settings_schema import CircuitBreakers

NAMES = (
    "calibration_drift", "loss_concentration", "confidence_collapse", "regime_stuck", "loss_streak", "daily_drawdown",
    "weekly_drawdown", "execution_quality",
)  # fmt: skip
CODES: Mapping[str, str] = {
    "calibration_drift": "BREAKER_CALIBRATION_DRIFT", "loss_concentration": "BREAKER_LOSS_CONCENTRATION",
    "confidence_collapse": "BREAKER_CONFIDENCE_COLLAPSE", "regime_stuck": "BREAKER_REGIME_STUCK",
    "loss_streak": "BREAKER_LOSS_STREAK", "daily_drawdown": "BREAKER_DAILY_DRAWDOWN",
    "weekly_drawdown": "BREAKER_WEEKLY_DRAWDOWN", "execution_quality": "BREAKER_EXECUTION_QUALITY",
    "manual": "BREAKER_MANUAL",
}  # fmt: skip
"""What a refused entry, an alert and a log line carry. `manual` is a person's own."""
ALL, STRATEGY, SYMBOL = "all", "strategy", "symbol"
NOT_FINITE = "MODEL_NAN"
BROKEN = frozenset({NOT_FINITE, "MODEL_CONSTANT"})
"""Opinions that say that the model itself is broken: no number, or one number for a whole scan."""
NEVER = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A trade that is over. `seq` is the journal's number of the record that told it."""

    seq: int
    decision_id: str
    symbol: str
    strategy: str
    usd: Decimal  # realised, before fees
    confidence: float | None = None  # what the review had said of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What was said of one decision, once: a later scan of the same signal says nothing new."""

    seq: int
    decision_id: str
    model: str | None
    probability: float | None
    code: str  # of the model's opinion
    confidence: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegimeSeen:
    """The regime that one session's scan decided with."""

    seq: int
    session: date  # of the scan's data
    of: date  # the session that the regime is of
    lag: int  # sessions from `of` to `session`
    label: str
    probability: float | None
    source: str  # "rule", or the id of a model


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Profit since the journal began, closed and open trades, at the end of one run."""

    seq: int
    session: date
    usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """One entry that is over at the broker."""

    seq: int
    filled: float  # part of what was ordered, 0..1
    slippage_bps: float | None  # None: nothing filled, or the quote is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything the rules look at, oldest first. Bounded by whoever collects it."""

    session: date  # of today
    capital_usd: Decimal  # what can be at work at most
    closed: Sequence[Closed] = ()
    said: Sequence[Said] = ()
    regimes: Sequence[RegimeSeen] = ()
    points: Sequence[Point] = ()
    executed: Sequence[Executed] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """A breaker wants to open: why, with the numbers it compared."""

    name: str
    scope: str  # all, strategy, symbol
    what: str  # the strategy or the symbol; "" for all
    reason: str
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lock_id(self) -> str:
        return lock_id(self.name, self.scope, self.what)


def lock_id(name: str, scope: str, what: str) -> str:
    return name if scope == ALL else f"{name}:{scope}:{what}"


Since = Callable[[str], int]
"""Lock id -> number of the record that last cleared it; NEVER."""


def judge(evidence: Evidence, settings: CircuitBreakers, since: Since) -> tuple[Trip, ...]:
    """Every trip, in the order of NAMES. A lock that stands already is the caller's to leave out."""
    return tuple(trip for name in NAMES for trip in RULES[name](evidence, settings, since))


def _text(value: float) -> str:
    return f"{value:.4g}"


def fmean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def pstdev(values: Sequence[float]) -> float:
    mean = fmean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


# ---------------------------------------------------------------- losses
def loss_streak(evidence: Evidence, settings: CircuitBreakers, since: Since) -> Iterator[Trip]:
    most, after = settings.max_loss_streak, since("loss_streak")
    streak: list[Closed] = []
    for trade in reversed(evidence.closed):
        if trade.seq <= after or trade.usd >= 0:
            break
        streak.append(trade)
    if len(streak) >= most:
        lost = -sum((t.usd for t in streak), Decimal(0))
        yield Trip(
            name="loss_streak", scope=ALL, what="", reason=f"{len(streak)} losses in a row, {most} stop entries",
            numbers={"losses": len(streak), "limit": most, "lost_usd": str(lost), "last": streak[0].decision_id},
        )  # fmt: skip


def loss_concentration(evidence: Evidence, settings: CircuitBreakers, since: Since) -> Iterator[Trip]:
    """All trades first: then no strategy needs to be named."""
    everything = [t for t in evidence.closed if t.seq > since("loss_concentration")]
    trip = _share_of(everything[-settings.window :], settings, ALL, "")
    if trip is not None:
        yield trip
        return
    for strategy in sorted({t.strategy for t in evidence.closed}):
        after = since(lock_id("loss_concentration", STRATEGY, strategy))
        own = [t for t in evidence.closed if t.strategy == strategy and t.seq > after]
        trip = _share_of(own[-settings.window :], settings, STRATEGY, strategy)
        if trip is not None:
            yield trip
    yield from _one_symbol(evidence, settings, since)


def _share_of(trades: Sequence[Closed], settings: CircuitBreakers, scope: str, what: str) -> Trip | None:
    if len(trades) < settings.window:
        return None
    lost = sum(1 for t in trades if t.usd < 0)
    share = lost / len(trades)
    if share <= settings.loss_share_most:
        return None
    whose = f" of {what}" if what else ""
    return Trip(
        name="loss_concentration", scope=scope, what=what,
        reason=f"{lost} of the last {len(trades)} trades{whose} lost, {settings.loss_share_most:.0%} is the limit",
        numbers={"losses": lost, "trades": len(trades), "share": share, "limit": settings.loss_share_most},
    )  # fmt: skip


def _one_symbol(evidence: Evidence, settings: CircuitBreakers, since: Since) -> Iterator[Trip]:
    recent = evidence.closed[-settings.window :]
    gross = -sum((t.usd for t in recent if t.usd < 0), Decimal(0))
    for symbol in sorted({t.symbol for t in recent}):
        after = since(lock_id("loss_concentration", SYMBOL, symbol))
        lost = [t.usd for t in recent if t.symbol == symbol and t.usd < 0 and t.seq > after]
        share = float(-sum(lost, Decimal(0)) / gross) if gross else 0.0
        if len(lost) >= settings.symbol_losses_most and share > settings.loss_share_most:
            yield Trip(
                name="loss_concentration", scope=SYMBOL, what=symbol,
                reason=f"{symbol} lost {len(lost)} times, {share:.0%} of what the last {len(recent)} trades lost",
                numbers={"losses": len(lost), "share": share, "limit": settings.loss_share_most},
            )  # fmt: skip


# ---------------------------------------------------------------- what was said
def calibration_drift(evidence: Evidence, settings: CircuitBreakers, since: Since) -> Iterator[Trip]:
    after, (low, high) = since("calibration_drift"), settings.calibration_bounds
    recent = [s.confidence for s in evidence.said if s.seq > after and s.confidence is not None][-settings.window :]
    if len(recent) == settings.window and not low <= (mean := fmean(recent)) <= high:
        yield Trip(
            name="calibration_drift", scope=ALL, what="",
            reason=f"the last {len(recent)} confidences average {_text(mean)}, outside [{low:g}, {high:g}]",
            numbers={"mean": mean, "low": low, "high": high, "n": len(recent)},
        )  # fmt: skip
        return
    known = [t for t in evidence.closed if t.seq > after and t.confidence is not None][-2 * settings.window :]
    z, wins, said = _gap([t.confidence or 0.0 for t in known], [t.usd > 0 for t in known])
    if len(known) >= settings.window and abs(z) > settings.calibration_z:
        yield Trip(
            name="calibration_drift", scope=ALL, what="",
            reason=f"{wins} of {len(known)} trades won, {said:.1f} were expected: {z:+.1f} standard errors",
            numbers={"z": z, "limit": settings.calibration_z, "wins": wins, "expected": said, "n": len(known)},
        )  # fmt: skip


def _gap(said: Sequence[float], won: Sequence[bool]) -> tuple[float, int, float]:
    """(wins - expected) / sqrt(sum p (1 - p)), wins, expected. Certainties that come true are no gap."""
    wins, expected = sum(won), math.fsum(said)
    spread = math.sqrt(math.fsum(p * (1 - p) for p in said))
    gap = wins - expected
    if spread == 0:
        return (0.0 if abs(gap) < 1e-9 else math.copysign(math.inf, gap)), wins, expected
    return gap / spread, wins, expected


def confidence_collapse(evidence: Evidence, settings: CircuitBreakers, since: Since) -> Iterator[Trip]:
    after = since("confidence_collapse")
    told = [s for s in evidence.said if s.seq > after and (s.probability is not None or s.code in BROKEN)]
    broken = told[-settings.not_finite_most :]
    if len(broken) == settings.not_finite_most and all(s.code in BROKEN for s in broken):
        yield Trip(
            name="confidence_collapse", scope=ALL, what="",
            reason=f"the last {len(broken)} predictions are no number, or one for all: {broken[-1].code}",
            numbers={"broken": len(broken), "limit": settings.not_finite_most},
        )  # fmt: skip
        return
    for model in sorted({s.model or "" for s in told}):
        own = [s.probability for s in told if (s.model or "") == model and s.probability is not None]
        recent = own[-settings.window :]
        if len(recent) == settings.window and (spread := pstdev(recent)) < settings.confidence_sd_least:
            yield Trip(
                name="confidence_collapse", scope=ALL, what="",
                reason=f"the last {len(recent)} probabilities have a variance of {spread**2:.3g}: a constant",
                numbers={"variance": spread**2, "sd": spread, "limit_sd": settings.confidence_sd_least,
                         "mean": fmean(recent), "n": len(recent), "model": model},
            )  # fmt: skip
            return


def regime_stuck(evidence: Evidence, settings: CircuitBreakers, since: Since) -> Iterator[Trip]:
    after = since("regime_stuck")
    seen = list({r.session: r for r in evidence.regimes if r.seq > after}.values())  # the last word of each session
    if not seen:
        return
    newest, looked_long = seen[-1], after == NEVER or len(seen) > settings.regime_lag_sessions
    if newest.lag > settings.regime_lag_sessions and looked_long:
        yield Trip(
            name="regime_stuck", scope=ALL, what="",
            reason=f"the regime is of {newest.of}, {newest.lag} sessions before the scan's {newest.session}",
            numbers={"lag": newest.lag, "limit": settings.regime_lag_sessions, "label": newest.label},
        )  # fmt: skip
        return
    last = seen[-settings.regime_same_sessions :]
    if len(last) == settings.regime_same_sessions and newest.source != "rule" and _same(last):
        yield Trip(
            name="regime_stuck", scope=ALL, what="",
            reason=f"{newest.source} has said {newest.label} with the very same probability for {len(last)} sessions",
            numbers={"sessions": len(last), "label": newest.label, "probability": newest.probability},
        )  # fmt: skip


_SURE = 1 - 1e-9


def _same(seen: Sequence[RegimeSeen]) -> bool:
    """One model, one probability, not certainty: a filter that is certain has nothing left to move."""
    first = seen[0]
    if any((r.source, r.probability) != (first.source, first.probability) for r in seen):
        return False
    return first.probability is None or first.probability < _SURE


# ---------------------------------------------------------------- money
def daily_drawdown(evidence: Evidence, settings: CircuitBreakers, since: Since) -> Iterator[Trip]:
    today = evidence.session
    yield from _drawdown(evidence, "daily_drawdown", settings.daily_drawdown_pct, since, lambda day: day < today)


def weekly_drawdown(evidence: Evidence, settings: CircuitBreakers, since: Since) -> Iterator[Trip]:
    this = evidence.session.isocalendar()[:2]
    limit = settings.weekly_drawdown_pct
    yield from _drawdown(evidence, "weekly_drawdown", limit, since, lambda day: day.isocalendar()[:2] < this)


def _drawdown(
    evidence: Evidence, name: str, limit: float, since: Since, is_before: Callable[[date], bool]
) -> Iterator[Trip]:
    """From the newest point before the span, or the one that a person resumed at, to now."""
    if not evidence.points or evidence.capital_usd <= 0:
        return
    after = since(name)
    before = [p for p in evidence.points if is_before(p.session) or p.seq <= after]
    now = evidence.points[-1]
    if not before or before[-1] is now:
        return
    lost = before[-1].usd - now.usd
    share = float(lost / evidence.capital_usd)
    if share > limit:
        yield Trip(
            name=name, scope=ALL, what="",
            reason=f"{lost:.2f} USD lost, {share:.1%} of {evidence.capital_usd:.0f} USD at work; {limit:.0%} stops",
            numbers={"lost_usd": str(lost), "share": share, "limit": limit, "capital_usd": str(evidence.capital_usd),
                     "from": before[-1].session.isoformat()},
        )  # fmt: skip


def execution_quality(evidence: Evidence, settings: CircuitBreakers, since: Since) -> Iterator[Trip]:
    recent = [e for e in evidence.executed if e.seq > since("execution_quality")]
    fills = [e.filled for e in recent][-settings.window :]
    if len(fills) == settings.window and (rate := fmean(fills)) < settings.fill_rate_least:
        yield Trip(
            name="execution_quality", scope=ALL, what="",
            reason=f"the last {len(fills)} entries filled {rate:.0%}, {settings.fill_rate_least:.0%} is the least",
            numbers={"fill_rate": rate, "limit": settings.fill_rate_least, "n": len(fills)},
        )  # fmt: skip
        return
    slips = [e.slippage_bps for e in recent if e.slippage_bps is not None][-settings.window :]
    if len(slips) == settings.window and (mean := fmean(slips)) > settings.slippage_most_bps:
        yield Trip(
            name="execution_quality", scope=ALL, what="",
            reason=f"the last {len(slips)} fills cost {mean:.1f} bps, {settings.slippage_most_bps:g} is the most",
            numbers={"slippage_bps": mean, "limit": settings.slippage_most_bps, "n": len(slips)},
        )  # fmt: skip


RULES: Mapping[str, Callable[[Evidence, CircuitBreakers, Since], Iterator[Trip]]] = {
    "calibration_drift": calibration_drift, "loss_concentration": loss_concentration,
    "confidence_collapse": confidence_collapse, "regime_stuck": regime_stuck, "loss_streak": loss_streak,
    "daily_drawdown": daily_drawdown, "weekly_drawdown": weekly_drawdown, "execution_quality": execution_quality,
}  # fmt: skip
