"""How many wrong bars are found, and how many right ones are refused, on real bars.

    python benchmarks/data_quality.py --bars FILE [--splits FILE] [--second FILE] [--seeds 50] [--clean 200000]

--bars : daily bars as `--bars` of a scan takes them. --second : closes as traded, symbol,date,close, of another source.
Every kind of tests/fakes/corruptions.py is done to `--seeds` symbol-days that the seed chooses; what is delivered goes
through the same functions as the morning's bars: clean, suspicions, the second vendor. Then `--clean` symbol-days are
left as they are. Prints one JSON line; exit 1 when fewer than 98 % are caught or more than 0.1 % of the clean refused.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from core.bars_io import BarColumns, from_day, read_bars, to_day
from core.market_calendar import MarketCalendar, market_calendar
from data.quality import NO_BAR, clean, recent_gaps, session_days
from data.quality.detect import suspicions
from data.quality.quorum import Comparison, compare, judged
from tests.fakes.corruptions import KINDS, Case

CAUGHT_LEAST, REFUSED_MOST = 0.98, 0.001
TOLERANCE = 0.015
FIRST_ROW = 260


@dataclass
class World:
    bars: Mapping[str, BarColumns]
    calendar: MarketCalendar
    second: Mapping[str, Mapping[int, float]]  # closes in the basis of `bars`
    names: list[str]
    moves: Mapping[int, float]  # the middle move of all symbols, by day


def judge(
    world: World, symbol: str, session: date, got: BarColumns, splits: Mapping[int, float], *, quorum: bool,
    clean_closes: Mapping[int, float] | None = None,
) -> str:  # fmt: skip
    """The code that the morning would give this symbol; empty when it would be traded on."""
    if not len(got):
        return NO_BAR
    kept, flags = clean(got, session_days(world.calendar, int(got.dates[0]), session), session)
    if not len(kept) or from_day(kept.dates[-1]) != session:
        return next((f.code for f in flags if f.session >= session), NO_BAR)
    if recent_gaps(kept, world.calendar, session):
        return NO_BAR
    ratios = {from_day(day): ratio for day, ratio in splits.items()}
    doubts = suspicions(kept, ratios=ratios, market=world.moves.get(to_day(session), 0.0))
    suspects = {symbol: doubts[0].code} if doubts else {}
    compared = before = None
    if quorum:
        day, previous = to_day(session), int(kept.dates[-2])
        scale = splits.get(day, 1.0)
        compared = one_close(world, symbol, day, float(kept.close[-1]), clean_closes)
        before = one_close(world, symbol, previous, float(kept.close[-2]) / scale, clean_closes)
    found, _ = judged(suspects, compared, before, ohlc=False)
    return found.get(symbol, "")


def one_close(
    world: World, symbol: str, day: int, ours: float, clean_closes: Mapping[int, float] | None
) -> Comparison:  # fmt: skip
    """The other source's close of that day, where it has one; else the clean one, which stands for it."""
    other = world.second.get(symbol, {}).get(day, (clean_closes or {}).get(day))
    theirs = {} if other is None else {symbol: (other,) * 5}
    return compare({symbol: (ours,) * 5}, theirs, tolerance=TOLERANCE, ohlc=False)


def place(world: World, rng: random.Random) -> tuple[str, int]:
    """A symbol, and a row of it with enough past."""
    while True:
        symbol = rng.choice(world.names)
        if len(world.bars[symbol]) > FIRST_ROW:
            return symbol, rng.randrange(FIRST_ROW, len(world.bars[symbol]))


def window(bars: BarColumns, row: int) -> BarColumns:
    return bars.rows(np.arange(max(0, row - 250), row + 1))


def catch(world: World, seeds: int, *, quorum: bool) -> dict[str, Counter[str]]:
    """Per kind the codes that its symbol-days were given; "" is one that was not caught."""
    found: dict[str, Counter[str]] = {}
    for kind, corrupt in KINDS.items():
        rng, codes = random.Random(f"{kind}"), Counter[str]()
        while sum(codes.values()) < seeds:
            symbol, row = place(world, rng)
            own = window(world.bars[symbol], row)
            other = world.bars[rng.choice([n for n in world.names[:50] if n != symbol])]
            day = int(own.dates[-1])
            beside = other.rows(other.dates <= day)
            if not len(beside):
                continue
            case = Case(own, beside, rng.randrange(2**31))
            got = corrupt(case)
            if got is not None:
                closes = dict(zip(own.dates.tolist(), own.close.tolist(), strict=True))
                code = judge(world, symbol, from_day(day), got, case.splits, quorum=quorum, clean_closes=closes)
                codes[code] += 1
        found[kind] = codes
    return found


def refuse(world: World, many: int, *, quorum: bool, since: date) -> tuple[int, Counter[str], list[str]]:
    """Clean symbol-days looked at, the codes of those that were refused, and some of them."""
    rng, codes, looked, told = random.Random(11), Counter[str](), 0, []
    first = to_day(since)
    while looked < many:
        symbol, row = place(world, rng)
        own = window(world.bars[symbol], row)
        session = from_day(int(own.dates[-1]))
        if int(own.dates[-1]) < first:
            continue
        looked += 1
        code = judge(world, symbol, session, own, {}, quorum=quorum)
        if code:
            codes[code] += 1
            told.append(f"{symbol} {session} {code}")
    return looked, codes, told[:20]


# ---------------------------------------------------------------- reading
def read_second(path: Path, splits: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    """Closes as traded, divided by the splits that came later, so that they are in the basis of the bars."""
    found: dict[str, dict[int, float]] = {}
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["close"]:
                found.setdefault(row["symbol"], {})[to_day(date.fromisoformat(row["date"]))] = float(row["close"])
    for symbol, ratios in splits.items():
        for ex_day, ratio in ratios.items():
            closes = found.get(symbol, {})
            for day in closes:
                if day < ex_day:
                    closes[day] /= ratio
    return found


def read_splits(path: Path) -> dict[str, dict[int, float]]:
    """Splits that the bars are adjusted for already."""
    found: dict[str, dict[int, float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row.get("already_in_bars_daily", "1") == "1":
                found.setdefault(row["symbol"], {})[to_day(date.fromisoformat(row["ex_date"]))] = float(row["ratio"])
    return found


def build(bars: Path, splits: Path | None, second: Path | None, leave_out: Iterable[str]) -> World:
    from core.paths import home

    known = read_splits(splits) if splits else {}
    read = read_bars(bars)
    others = read_second(second, known) if second else {}
    skip = frozenset(leave_out)
    names = sorted(s for s in read if s not in skip)
    return World(read, market_calendar(home().cache / "calendar"), others, names, middle_moves(read))


def middle_moves(bars: Mapping[str, BarColumns]) -> dict[int, float]:
    moves: dict[int, list[float]] = {}
    for own in bars.values():
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = own.close[1:] / own.close[:-1] - 1.0
        for day, step in zip(own.dates[1:].tolist(), steps.tolist(), strict=True):
            moves.setdefault(day, []).append(step)
    return {day: float(np.nanmedian(steps)) for day, steps in moves.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=Path, required=True)
    parser.add_argument("--splits", type=Path)
    parser.add_argument("--second", type=Path)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--clean", type=int, default=200_000)
    parser.add_argument("--leave-out", default="", help="symbols that the two sources use for different companies")
    parser.add_argument("--since", type=date.fromisoformat, default=date(1990, 1, 1), help="clean days from here on")
    args = parser.parse_args()
    began = time.perf_counter()
    world = build(args.bars, args.splits, args.second, filter(None, args.leave_out.split(",")))
    quorum = args.second is not None
    kinds = catch(world, args.seeds, quorum=quorum)
    missed = {kind: codes[""] for kind, codes in kinds.items() if codes[""]}
    total = sum(sum(codes.values()) for codes in kinds.values())
    share = 1 - sum(missed.values()) / total
    looked, codes, told = refuse(world, args.clean, quorum=quorum, since=args.since)
    refused = sum(codes.values()) / looked
    print(json.dumps({
        "kinds": len(kinds), "corrupted": total, "caught": round(share, 5), "missed": missed, "clean": looked,
        "refused": round(refused, 6), "refused_codes": dict(codes), "examples": told,
        "seconds": round(time.perf_counter() - began, 1),
    }))  # fmt: skip
    return 0 if share >= CAUGHT_LEAST and refused <= REFUSED_MOST else 1


if __name__ == "__main__":
    sys.exit(main())
