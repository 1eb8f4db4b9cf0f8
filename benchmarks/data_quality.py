"""How many wrong bars are found, and how many right ones are refused, on real bars.

    python benchmarks/data_quality.py --bars FILE [--splits FILE] [--second FILE] [--seeds 50] [--clean 200000]
        [--crash 2020-03-16]

--bars : daily bars as `--bars` of a scan takes them. --second : closes as traded, symbol,date,close, of another source.
Every kind of tests/fakes/corruptions.py is done to `--seeds` symbol-days that the seed chooses; what is delivered goes
through the same functions as the morning's bars: clean, suspicions, the second vendor. Then `--clean` symbol-days are
left as they are, and every symbol of the crash days, with no second vendor to confirm them. Three ways, one JSON line
each: `whole`, a second vendor that tells of the whole universe; `sample`, one that is asked about suspects and a
sample of 20; `alone`. Exit 1 when, in the first of the ways that there is, fewer than 98 % are caught or more than
0.1 % of the clean refused.
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
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from core.bars_io import BarColumns, from_day, read_bars, to_day
from core.market_calendar import MarketCalendar, market_calendar
from data.quality import NO_BAR, clean, recent_gaps, session_days
from data.quality.detect import LOOK_BACK, SHARED, Bar, restlessness, shared, suspicions
from data.quality.quorum import Comparison, compare, judged, sample
from tests.fakes.corruptions import KINDS, Case

CAUGHT_LEAST, REFUSED_MOST = 0.98, 0.001
TOLERANCE = 0.015
FIRST_ROW = 260
SAMPLE = 20
WHOLE, SOME, ALONE = "whole", "sample", "alone"


@dataclass
class World:
    bars: Mapping[str, BarColumns]
    calendar: MarketCalendar
    second: Mapping[str, Mapping[int, float]]  # closes in the basis of `bars`
    names: list[str]
    moves: Mapping[int, float]  # the middle move of all symbols, by day
    restless: Mapping[int, float]  # how far apart they moved, by day
    by_day: dict[int, dict[str, Bar]] = field(default_factory=dict)
    by_row: dict[int, dict[Bar, set[str]]] = field(default_factory=dict)

    def rows(self, day: int) -> dict[str, Bar]:
        """What every symbol did that day."""
        if day not in self.by_day:
            found = {}
            for symbol, own in self.bars.items():
                at = int(np.searchsorted(own.dates, day))
                if at < len(own) and own.dates[at] == day:
                    found[symbol] = row_of(own, at)
            self.by_day[day] = found
        return self.by_day[day]

    def twins(self, symbol: str, got: BarColumns, day: int) -> Mapping[str, str]:
        """Who has the bar of another one, when this symbol's is the newest of `got`."""
        row = row_of(got, -1)
        if day not in self.by_row:
            self.by_row[day] = {}
            for name, other in self.rows(day).items():
                self.by_row[day].setdefault(other, set()).add(name)
        if not self.by_row[day].get(row, set()) - {symbol}:
            return {}
        before = int(got.dates[-2]) if len(got) > 1 else 0
        return shared({**self.rows(day), symbol: row}, self.rows(before))


def row_of(bars: BarColumns, at: int) -> Bar:
    o, h, low, c, v = (float(getattr(bars, name)[at]) for name in ("open", "high", "low", "close", "volume"))
    return o, h, low, c, v


def judge(
    world: World, symbol: str, session: date, got: BarColumns, splits: Mapping[int, float], *, way: str,
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
    market, restless = world.moves.get(to_day(session), 0.0), world.restless.get(to_day(session), 1.0)
    doubts = suspicions(kept, ratios=ratios, market=market, restless=restless)
    suspects = {symbol: doubts[0].code} if doubts else {}
    if not doubts and symbol in world.twins(symbol, kept, to_day(session)):
        suspects = {symbol: SHARED}
    compared = before = None
    if way == WHOLE or (way == SOME and (suspects or symbol in sample(world.names, session, SAMPLE))):
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


def catch(world: World, seeds: int, *, way: str) -> dict[str, Counter[str]]:
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
                code = judge(world, symbol, from_day(day), got, case.splits, way=way, clean_closes=closes)
                codes[code] += 1
        found[kind] = codes
    return found


def crash(world: World, day: date) -> tuple[int, Counter[str]]:
    """Every symbol of one session as it was, nobody to confirm it."""
    codes, looked = Counter[str](), 0
    for symbol in world.names:
        own = world.bars[symbol]
        at = int(np.searchsorted(own.dates, to_day(day)))
        if FIRST_ROW <= at < len(own) and own.dates[at] == to_day(day):
            looked += 1
            codes[judge(world, symbol, day, window(own, at), {}, way=ALONE)] += 1
    del codes[""]
    return looked, codes


def refuse(world: World, many: int, *, way: str, since: date) -> tuple[int, Counter[str], list[str]]:
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
        code = judge(world, symbol, session, own, {}, way=way)
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
    moves, restless = all_moves(read)
    return World(read, market_calendar(home().cache / "calendar"), others, names, moves, restless)


def all_moves(bars: Mapping[str, BarColumns]) -> tuple[dict[int, float], dict[int, float]]:
    """By day the middle move of all symbols, and how restless the day was against the LOOK_BACK before it."""
    days = np.unique(np.concatenate([own.dates for own in bars.values()]))
    moves = np.full((len(days), len(bars)), np.nan)
    for column, own in enumerate(bars.values()):
        with np.errstate(divide="ignore", invalid="ignore"):
            moves[np.searchsorted(days, own.dates[1:]), column] = own.close[1:] / own.close[:-1] - 1.0
    moves[~np.isfinite(moves)] = np.nan
    middle, restless = {}, {}
    for k in range(1, len(days)):
        middle[int(days[k])] = float(np.nanmedian(moves[k]))
        restless[int(days[k])] = restlessness(moves[max(1, k - LOOK_BACK + 1) : k + 1])
    return middle, restless


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=Path, required=True)
    parser.add_argument("--splits", type=Path)
    parser.add_argument("--second", type=Path)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--clean", type=int, default=200_000)
    parser.add_argument("--leave-out", default="", help="symbols that the two sources use for different companies")
    parser.add_argument("--since", type=date.fromisoformat, default=date(1990, 1, 1), help="clean days from here on")
    parser.add_argument("--crash", type=date.fromisoformat, nargs="*", default=[date(2020, 3, 16)])
    args = parser.parse_args()
    began = time.perf_counter()
    world = build(args.bars, args.splits, args.second, filter(None, args.leave_out.split(",")))
    ways = (WHOLE, SOME, ALONE) if args.second else (ALONE,)
    good = [measured(world, args, way) for way in ways]
    for day in args.crash:
        looked, codes = crash(world, day)
        print(json.dumps({"crash": str(day), "way": ALONE, "clean": looked, "refused_codes": dict(codes)}))
    print(json.dumps({"seconds": round(time.perf_counter() - began, 1)}))
    return 0 if good[0] else 1


def measured(world: World, args: argparse.Namespace, way: str) -> bool:
    """One line; whether it is what was asked for."""
    kinds = catch(world, args.seeds, way=way)
    missed = {kind: codes[""] for kind, codes in kinds.items() if codes[""]}
    total = sum(sum(codes.values()) for codes in kinds.values())
    share = 1 - sum(missed.values()) / total
    looked, codes, told = refuse(world, args.clean, way=way, since=args.since)
    refused = sum(codes.values()) / looked
    print(json.dumps({
        "way": way, "kinds": len(kinds), "corrupted": total, "caught": round(share, 5), "missed": missed,
        "clean": looked, "refused": round(refused, 6), "refused_codes": dict(codes), "examples": told,
    }), flush=True)  # fmt: skip
    return share >= CAUGHT_LEAST and refused <= REFUSED_MOST


if __name__ == "__main__":
    sys.exit(main())
