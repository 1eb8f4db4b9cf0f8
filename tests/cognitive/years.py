"""A simulated year as breakers see it: calibrated, liquid, never five losses in a row. Causes are planted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal

from cognitive.breaker_rules import NEVER, Closed, Evidence, Executed, Point, RegimeSeen, Said

CAPITAL = Decimal(750)
SESSIONS = 250
SYMBOLS = [f"S{k:02d}" for k in range(60)]


@dataclass
class Year:
    """Evidence of each session, oldest first. A plant changes rows from the middle of the year on."""

    seed: int
    closed: list[Closed] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    regimes: list[RegimeSeen] = field(default_factory=list)
    points: list[Point] = field(default_factory=lambda: [Point(seq=NEVER, session=date.min, usd=Decimal(0))])
    executed: list[Executed] = field(default_factory=list)
    on_trade: Callable[[int, Closed], Closed] = lambda k, trade: trade
    on_said: Callable[[int, Said], Said] = lambda k, said: said
    on_regime: Callable[[int, RegimeSeen], RegimeSeen] = lambda k, seen: seen
    on_entry: Callable[[int, Executed], Executed] = lambda k, entry: entry
    on_usd: Callable[[int, Decimal], Decimal] = lambda k, usd: usd

    def sessions(self) -> Iterator[Evidence]:
        dice, seq, losses, usd = random.Random(self.seed), 0, 0, Decimal(0)
        day = date(2024, 1, 1)
        for k in range(SESSIONS):
            day += timedelta(days=3 if day.weekday() == 4 else 1)
            seq += 10
            seen = RegimeSeen(
                seq=seq, session=day, of=day, lag=0, label="calm", probability=dice.uniform(0.7, 0.99), source="r-1"
            )  # fmt: skip
            self.regimes.append(self.on_regime(k, seen))
            if dice.random() < 0.7:
                chance = min(0.9, max(0.35, dice.gauss(0.66, 0.07)))
                won = dice.random() < chance or losses == 4
                losses = 0 if won else losses + 1
                symbol, name = dice.choice(SYMBOLS), f"d{k}"
                made = Decimal(str(round(dice.uniform(0.5, 3) if won else dice.uniform(-3, -0.5), 2)))
                told = self.on_said(k, Said(seq=seq + 1, decision_id=name, model="m1", probability=chance, code="OK",
                                            confidence=chance))  # fmt: skip
                self.said.append(told)
                entry = Executed(seq=seq + 2, filled=1.0 if dice.random() < 0.85 else 0.0,
                                 slippage_bps=dice.gauss(3, 6))  # fmt: skip
                self.executed.append(self.on_entry(k, entry))
                strategy = "ibs_rsi" if dice.random() < 0.7 else "turtle_soup"
                trade = self.on_trade(k, Closed(seq=seq + 3, decision_id=name, symbol=symbol, strategy=strategy,
                                                usd=made, confidence=told.confidence))  # fmt: skip
                self.closed.append(trade)
                usd += trade.usd
            usd = self.on_usd(k, usd)
            swing = Decimal(str(round(dice.gauss(0, 4), 2)))  # of what is open
            self.points.append(Point(seq=seq + 4, session=day, usd=usd + swing))
            yield Evidence(
                session=day, capital_usd=CAPITAL, closed=tuple(self.closed), said=tuple(self.said),
                regimes=tuple(self.regimes), points=tuple(self.points), executed=tuple(self.executed),
            )  # fmt: skip


MIDDLE = 120


def planted(cause: str, seed: int) -> Year:
    """A clean year in which one thing goes wrong from the middle on."""
    year = Year(seed)
    if cause == "loss_streak":
        year.on_trade = lambda k, t: replace(t, usd=Decimal("-0.60")) if k >= MIDDLE and _streak(year) < 5 else t
    elif cause == "loss_concentration":  # four in five lose, never five in a row
        year.on_trade = lambda k, t: _losing(year, t) if k >= MIDDLE else t
        year.on_said = lambda k, s: replace(s, confidence=None) if k >= MIDDLE else s
    elif cause == "calibration_drift":
        year.on_said = lambda k, s: replace(s, confidence=0.97) if k >= MIDDLE else s
    elif cause == "confidence_collapse":
        year.on_said = lambda k, s: replace(s, probability=0.66) if k >= MIDDLE else s
    elif cause == "regime_stuck":
        year.on_regime = lambda k, r: replace(r, probability=0.8125) if k >= MIDDLE else r
    elif cause == "daily_drawdown":
        year.on_usd = lambda k, usd: usd - 58 if k == MIDDLE else usd + 2 if MIDDLE < k < MIDDLE + 29 else usd
    elif cause == "weekly_drawdown":
        year.on_usd = lambda k, usd: usd - 24 if _same_week(k) else usd
    elif cause == "execution_quality":
        year.on_entry = lambda k, x: replace(x, slippage_bps=75.0) if k >= MIDDLE else x
    return year


def _losing(year: Year, trade: Closed) -> Closed:
    lost = sum(1 for t in year.closed[-4:] if t.usd < 0)
    return replace(trade, usd=Decimal("0.05") if lost == 4 else Decimal("-0.30"))


def _streak(year: Year) -> int:
    """The longest run of losses so far."""
    longest = now = 0
    for trade in year.closed:
        now = now + 1 if trade.usd < 0 else 0
        longest = max(longest, now)
    return longest


def _same_week(k: int) -> bool:
    return 120 <= k < 125
