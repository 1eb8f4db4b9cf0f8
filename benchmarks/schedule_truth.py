"""Ten years of schedule on machines in five time zones: every due scan made once in time, or written down and told.

    .venv/bin/python benchmarks/schedule_truth.py [--years 2017:2026] [--catch-up-s 5] [--jobs 2]

The production runner, journal and alerts on a clock that is led: half days, closes that no calendar knew, sleeps,
restarts, clocks set wrong, overruns, a broker that fails (execution/drill/ten_years.py says how often). Each zone is a
process of its own with TZ set. The same command plays the same years: `head` is the last hash of each journal, and two
runs of one version print the same. Exit 1 when one due scan is unaccounted for.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
ZONES = ("America/New_York", "Europe/Berlin", "Asia/Tokyo", "Asia/Kolkata", "Pacific/Honolulu")


def one(zone: str, years: tuple[int, int], catch_up_s: float, seed: int) -> dict[str, Any]:
    """In a child whose host zone is `zone`."""
    from core import logs
    from core.clock import SystemClock
    from core.host import host_zone
    from core.market_calendar import market_calendar
    from core.paths import Home
    from execution.drill.ten_years import simulate

    os.fsync = lambda handle: None  # nothing here is worth a disk
    logs.mask_values = lambda row: row  # nor does anything here hold a key, and thousands of lines are written
    with tempfile.TemporaryDirectory() as folder:
        calendar = market_calendar(Path(tempfile.gettempdir()) / "kobe-calendar")
        first, last = date(years[0], 1, 1), date(years[1], 12, 31)
        verdict = simulate(Home(Path(folder)), calendar, first, last, seed=seed, catch_up_s=catch_up_s)
    return {"zone": zone, "host": host_zone(SystemClock().now()), **asdict(verdict)}


def child(zone: str, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", zone, "--years", args.years, "--catch-up-s", str(args.catch_up_s)]
    env = {k: v for k, v in os.environ.items() if not k.endswith("_KEY")} | {"TZ": zone}
    done = subprocess.run([*command, "--seed", str(seed)], env=env, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--years", default="2017:2026")
    parser.add_argument("--catch-up-s", type=float, default=5.0, help="runner.catch_up_s; above 5 late scans are told")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--one", metavar="ZONE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        first, last = map(int, args.years.split(":"))
        print(json.dumps(one(args.one, (first, last), args.catch_up_s, args.seed)))
        return 0
    began = time.perf_counter()
    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(lambda pair: child(pair[1], args, args.seed + pair[0]), enumerate(ZONES)))
    print(
        f"{'zone':18} {'due':>6} {'on time':>8} {'late':>5} {'missed':>7} {'closed':>7} {'starts':>7} {'wrong':>5} head"
    )
    for row in rows:
        missed = sum(row["missed"].values())
        print(
            f"{row['zone']:18} {row['due']:6} {row['on_time']:8} {row['late']:5} {missed:7} {row['closed']:7} "
            f"{row['starts']:7} {len(row['wrong']):5} {row['head'][:12]}   {row['host']}"
        )
        for line in row["wrong"][:10]:
            print(f"    {line}")
    wrong = sum(len(row["wrong"]) for row in rows)
    due, latest_s = sum(row["due"] for row in rows), max(row["latest_s"] for row in rows)
    print(f"{due} due, the latest of those on time {latest_s:.1f} s after its time; {wrong} unaccounted for")
    print(f"{time.perf_counter() - began:.0f} s, of which {os.times().children_user:.0f} s of one core")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
