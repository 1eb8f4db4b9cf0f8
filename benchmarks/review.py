"""What a review and a look at the breakers cost, and how often breakers trip on nothing.

    python benchmarks/review.py [--reviews 20000] [--years 400]

One JSON line each, processor time. `review`: microseconds of one signal with everything known of it, verdict with and
without the language model; `similar`: what memory is asked for it, over 2 000 remembered decisions. `judge`:
milliseconds of all rules over a year's trades. `years`: simulated clean years (tests/cognitive/years.py), how many had
a trip, by breaker; and for each planted cause how many of 20 years tripped exactly that breaker.
Exit 1 when both together take 1 ms or more, or more than 1 % of the clean years trip a breaker.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from cognitive.breaker_rules import NAMES, NEVER, judge
from cognitive.episodes import Episode, Outcome, Standing, features_of
from cognitive.episodic_memory import Compared
from cognitive.evidence import Counsel, Evidence, Lesson, Outcomes
from cognitive.review import review
from config.settings_schema import Settings
from core.ports import Opinion, Regime
from tests.cognitive.years import Year, planted

S = Settings().cognitive
NUMBERS = ("ibs", "rsi", "atr", "sma", "close", "stop", "dollar_volume")


def an_evidence() -> Evidence:
    known = Outcomes(n=80, win_rate=0.6, mean_r=0.1, low_r=-0.05, high_r=0.2)
    regime = Regime(label="calm", session=date(2024, 3, 5), since=None, probability=0.9, source="regime-1")
    return Evidence(
        regime=regime, belief=known, similar=known, lessons=(Lesson(id="L1", shrink=Decimal("0.8")),),
        opinion=Opinion(0.6, "OK"), counsel=Counsel(verdict="shrink", scale=Decimal("0.9"), reasons=("thin",)),
    )  # fmt: skip


def episodes(count: int) -> list[Episode]:
    dice, begin = np.random.default_rng(1), datetime(2020, 1, 2, 15, tzinfo=UTC)
    found = []
    for k in range(count):
        at = begin + timedelta(hours=12 * k)
        r = float(dice.normal(0.1, 1))
        outcome = Outcome(closed_at=at, known_at=at, r=r, usd=Decimal("1"), exit_reason="time", bars_held=3)
        numbers = dict(zip(NUMBERS, map(float, dice.uniform(1, 100, len(NUMBERS))), strict=True))
        found.append(Episode(decision_id=f"d{k}", symbol="A", strategy="ibs_rsi", session=at.date(), decided_at=at,
                             numbers=numbers, standing=Standing.CLOSED, outcome=outcome, entered_at=at))  # fmt: skip
    return found


def tell(**row: object) -> None:
    print(json.dumps(row), flush=True)


def costs(count: int) -> bool:
    evidence, rules = an_evidence(), S.review
    begin = time.process_time()
    for _ in range(count):
        review(evidence, rules)
    review_us = (time.process_time() - begin) / count * 1e6
    past = episodes(2000)
    asked = features_of(past[7].numbers)
    begin = time.process_time()
    ready = Compared(past)
    ready_ms = (time.process_time() - begin) * 1e3
    begin = time.process_time()
    for _ in range(200):
        ready.nearest(asked, S.memory.similar_most)
    tell(what="review", microseconds=round(review_us, 1), n=count)
    similar_us = (time.process_time() - begin) / 200 * 1e6
    tell(what="similar", microseconds=round(similar_us, 1), episodes=len(past), once_a_scan_ms=round(ready_ms, 1))
    year = Year(1)
    *_, last = year.sessions()
    begin = time.process_time()
    for _ in range(50):
        judge(last, S.circuit_breakers, lambda lock: NEVER)
    tell(what="judge", milliseconds=round((time.process_time() - begin) / 50 * 1e3, 3), trades=len(last.closed))
    return review_us + similar_us < 1000


def tripped_in(year: Year) -> set[str]:
    return {
        trip.name for seen in year.sessions() for trip in judge(seen, S.circuit_breakers, lambda lock: NEVER)
    }  # fmt: skip


def years(count: int) -> bool:
    found: Counter[str] = Counter()
    bad = 0
    for seed in range(count):
        tripped = tripped_in(Year(seed))
        bad += bool(tripped)
        found.update(tripped)
    tell(what="years", clean=count, with_a_trip=bad, by=dict(found))
    for cause in NAMES:
        exact = sum(tripped_in(planted(cause, seed)) == {cause} for seed in range(20))
        tell(what="planted", cause=cause, exactly_that=exact, of=20)
    return bad <= count * 0.01


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=20_000)
    parser.add_argument("--years", type=int, default=400)
    args = parser.parse_args()
    cheap, quiet = costs(args.reviews), years(args.years)
    return 0 if cheap and quiet else 1


if __name__ == "__main__":
    sys.exit(main())
