"""How long each command takes to say its first word: nobody should wonder whether it started.

    .venv/bin/python benchmarks/first_line.py [--rounds 3] [--only NAME]

Every script of scripts/, as an operator would type it, in a home of its own on the embedded venue; `--help` where a
bare call would refuse. The time runs from the start of the process to the first thing that a terminal shows, progress
included, the best of the rounds; where there is no terminal to be had, to the first line in a pipe. Exit 1 when one
needs more than 2 s.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 2.0
WORDS = {
    "backtest_dual_strategy": ["--start", "2023-01-01", "--end", "2023-03-31", "--cap", "20"],
    "preflight": ["--all"], "preflight_live": ["--mode", "live"], "config_pin": ["verify"], "ladder": ["status"],
    "scan": ["--cap", "50"], "runner": ["--mode", "paper", "--cap", "5", "--no-sidecar", "--no-alerts"],
    "drill": ["--seeds", "0:2"], "alerts": ["list"], "alerting": ["--once"],
    "reconcile_alpaca": [], "cancel_all": [], "close_all_positions": ["--confirm"], "check_orphaned_orders": [],
    "verify_hash_chain": [], "status": [], "sidecar": ["--mode", "paper", "--port", "0"], "watchdog": ["--help"],
    "cleanup": ["--logs", "--older-than", "30"], "why": ["AAPL"], "service": ["--help"], "show_config": ["--limits"],
    "canaries": [],
}  # fmt: skip


def commands() -> list[str]:
    found = (path for path in sorted((ROOT / "scripts").glob("*.py")) if '"__main__"' in path.read_text("utf-8"))
    return [path.stem for path in found if path.stem != "drill_child"]  # that one is a process of drill.py


def first_line_s(name: str, words: list[str], home: str) -> tuple[float, float, str]:
    """(wall seconds, CPU seconds of the process until then, what it said)."""
    keys = dict.fromkeys(("POLYGON_API_KEY", "ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY", "ANTHROPIC_API_KEY"), "")
    env = {**os.environ, **keys, "KOBE_HOME": home, "NO_PROXY": "127.0.0.1,localhost", "PYTHONUNBUFFERED": ""}
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *words]
    ours, theirs = os.openpty() if hasattr(os, "openpty") else os.pipe()
    began, before = time.perf_counter(), os.times()
    with subprocess.Popen(
        command, env=env, cwd=home, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        seen = os.read(ours, 4096)
        took = time.perf_counter() - began
        process.kill()
    os.close(ours)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return took, spent, " ".join(seen.decode("utf-8", "replace").split())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only")
    args = parser.parse_args()
    slow = 0
    with tempfile.TemporaryDirectory() as home:
        for name in commands():
            if args.only not in (None, name):
                continue
            words = WORDS.get(name, ["--help"])
            rounds = [first_line_s(name, words, home) for _ in range(args.rounds)]
            took, spent, line = min(rounds)
            slow += took > LIMIT_S
            mark = "SLOW" if took > LIMIT_S else ""
            print(f"{took:6.2f} s {spent:6.2f} s CPU {mark:4} {name} {' '.join(words)}  |  {line[:70]}", flush=True)
    print(f"{slow} slower than {LIMIT_S:g} s")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
