"""How often reflection learns from noise, and how often it finds what is true.

    .venv/bin/python benchmarks/learning.py [--runs 200] [--sessions 500] [--every 5] [--only WORD]

A run is one made-up life: two trades a session of two strategies, six features, R with a skew, a shock shared by the
trades of a day. Every `every` sessions reflection looks at what was known then, with the settings' own defaults, and
what it says goes through the same records as in the journal. Noise is the same decisions with the results dealt out
anew, and a market in which trades of a day share most of their luck. Planted: the lowest quarter of one feature, in one
strategy, does so much worse. Prints one line a scenario and `ok` or `MISSED`; exit 1 when one was missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cognitive.learnings import LearningBook
from config.settings_schema import ReflectionSettings
from tests.fakes.minds import Planted, decisions, lived, shuffled


@dataclass(frozen=True)
class Scenario:
    name: str
    planted: Planted
    shuffle: bool = False
    at_most: float | None = None  # share of runs that adopted anything
    at_least: float | None = None  # share of runs that adopted what was planted


SCENARIOS = (
    Scenario("noise: -0.8 R planted, results shuffled", Planted(effect_r=-0.8), shuffle=True, at_most=0.05),
    Scenario("noise: trades of a day share a shock of 1 R", Planted(shared_sd=1.0), at_most=0.05),
    Scenario("planted -0.6 R", Planted(effect_r=-0.6)),
    Scenario("planted -0.8 R", Planted(effect_r=-0.8), at_least=0.5),
    Scenario("planted -1.0 R", Planted(effect_r=-1.0), at_least=0.7),
    Scenario("planted -1.2 R", Planted(effect_r=-1.2), at_least=0.8),
)


def found_it(book: LearningBook, ids: Iterable[str]) -> list[str]:
    """Those of the adopted that speak of what was planted."""
    return [k for k in ids if book.learnings[k].condition.question == ("ibs_rsi", None, "trend")]


def played(scenario: Scenario, runs: int, sessions: int, every: int) -> bool:
    began, settings = time.perf_counter(), ReflectionSettings()
    adopted, true, candidates, after = 0, 0, 0, list[int]()
    for seed in range(runs):
        episodes = decisions(seed, sessions, scenario.planted)
        life = lived(shuffled(episodes, seed) if scenario.shuffle else episodes, settings, every_days=every)
        right = found_it(life.book, life.adopted)
        adopted, true, candidates = (
            adopted + bool(life.adopted),
            true + bool(right),
            candidates + len(life.book.learnings),
        )
        after += [life.adopted[k] for k in right[:1]]
    ok = (scenario.at_most is None or adopted / runs <= scenario.at_most) and (
        scenario.at_least is None or true / runs >= scenario.at_least
    )
    middle = f", median session {statistics.median(after):.0f}" if after else ""
    print(
        f"{'ok    ' if ok else 'MISSED'} {scenario.name}: {runs} runs, {adopted / runs:.1%} adopted anything, "
        f"{true / runs:.1%} what was planted{middle}; {candidates / runs:.2f} candidates a run; "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return ok


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", type=int, default=200)
    p.add_argument("--sessions", type=int, default=500)
    p.add_argument("--every", type=int, default=5, help="sessions between looks, in whole weeks")
    p.add_argument("--only", default="", help="scenarios whose name has this word")
    args = p.parse_args()
    chosen = [s for s in SCENARIOS if args.only in s.name]
    missed = sum(not played(s, args.runs, args.sessions, args.every) for s in chosen)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
