"""The journal against what it is made of: hashing, parsing, and one fsync.

    .venv/bin/python benchmarks/journal.py [--records 1000000] [--appends 300]

Verifying: the whole `verify`, against SHA-256 over the same bytes in hashlib plus one json.loads per line, in turn, in
one run. Appending: `Journal.append` to a journal of 1,000 records and to one of --records, against one open, write,
fsync and close of the same number of bytes on the same disk, in turn, append by append. Prints both ratios.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from core.canonical import iso_utc  # noqa: E402 - benchmarks run from any directory
from core.clock import SystemClock  # noqa: E402
from core.journal import GENESIS, Journal, record_hash, verify  # noqa: E402
from core.journal_head import write_head  # noqa: E402
from core.journal_record import Head, dumps  # noqa: E402

START = datetime(2004, 1, 2, 14, 35, tzinfo=UTC)
BODY = {
    "client_order_id": "kobe-20240304-ibs_rsi-AAPL-buy-entry-1", "decision_id": "20240304-ibs_rsi-AAPL",
    "symbol": "AAPL", "side": "buy", "quantity": 3, "purpose": "entry", "kind": "limit", "tif": "ioc",
    "decided_at": "2024-03-05T14:35:00+00:00", "strategy": "ibs_rsi", "signal_session": "2024-03-04", "attempt": 1,
    "limit_price": "10.10", "stop_price": "9.50", "target_r": None, "time_stop_bars": 7, "reason": "signal",
}  # fmt: skip


def make(path: Path, records: int) -> None:
    """A journal as `append` would have written it, without a flush per record: twenty years of one person's trading."""
    path.parent.mkdir(parents=True)
    prev = GENESIS
    with path.open("wb") as out:
        for seq in range(1, records + 1):
            at = iso_utc(START + timedelta(minutes=10 * seq))
            fields = {"seq": seq, "at": at, "kind": "order_intended", "run_id": "r", "body": BODY, "prev": prev}
            prev = record_hash(prev, fields)
            out.write(dumps({**fields, "hash": prev}).encode() + b"\n")
    write_head(path, Head(records, prev))


def floor(path: Path) -> None:
    """What any check of such a file has to do."""
    digest = hashlib.sha256()
    with path.open("rb") as lines:
        for line in lines:
            digest.update(line)
            json.loads(line)


def whole(path: Path) -> None:
    assert verify(path).ok


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def bare(path: Path, line: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
    os.write(handle, line)
    os.fsync(handle)
    os.close(handle)


def appends(journal: Journal, n: int) -> tuple[list[float], list[float]]:
    """(our appends, bare writes), seconds each, in turn, so that both see the same weather."""
    line = journal.path.read_bytes()[:2000].splitlines(keepends=True)[0]
    beside = journal.path.with_suffix(".bare")
    mine, theirs = [], []
    for _ in range(n):
        theirs.append(seconds(lambda: bare(beside, line)))
        mine.append(seconds(lambda: journal.append("order_intended", BODY)))
    return mine, theirs


def told(times: list[float]) -> str:
    return f"p50 {at(times, 0.5) * 1e6:7.0f} µs   p99 {at(times, 0.99) * 1e6:7.0f} µs"


def at(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--appends", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("KOBE_HOME")) as folder:
        small, large = (Path(folder) / name / "hash_chain.jsonl" for name in ("small", "large"))
        make(small, 1000)
        make(large, args.records)
        size = large.stat().st_size
        pairs = [(seconds(lambda: whole(large)), seconds(lambda: floor(large))) for _ in range(args.rounds)]
        ours, least = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"verify {args.records} records, {size / 1e6:.0f} MB: {ours:.2f} s   hash and parse {least:.2f} s")
        print(f"ratio {ratio:.2f} (median of {args.rounds} rounds; must be below 5)")
        for path in (small, large):
            journal = Journal(path, SystemClock())
            appends(journal, 20)  # warm: imports, the reserve, the first head
            mine, theirs = appends(journal, args.appends)
            records = verify(path).records if path == small else args.records
            print(f"append at {records} records: {told(mine)}")
            print(f"  one bare write + fsync:   {told(theirs)}   ratio p50 {at(mine, 0.5) / at(theirs, 0.5):.1f}")


if __name__ == "__main__":
    main()
