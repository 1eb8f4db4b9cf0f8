"""A warm scan of the whole universe as a process, against the imports that any such script would pay for.

    .venv/bin/python benchmarks/scan_start.py [--rounds 15]

Both commands are run in turn, round after round, in a home of its own; the first scan (cold: it loads 504 sessions from
the embedded venue) is not counted. Prints the median of the rounds and the ratio.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCAN = [sys.executable, str(ROOT / "scripts" / "scan.py"), "--cap", "900"]
IMPORTS = [sys.executable, "-c", "import pandas, pydantic, yaml"]


def seconds(command: list[str], home: str) -> float:
    env = {**os.environ, "KOBE_HOME": home, "NO_PROXY": "127.0.0.1,localhost"}
    began = time.perf_counter()
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as home:
        cold = seconds(SCAN, home)
        for _ in range(2):
            seconds(SCAN, home), seconds(IMPORTS, home)
        pairs = [(seconds(SCAN, home), seconds(IMPORTS, home)) for _ in range(rounds)]
    scan, imports = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"cold scan {cold:.2f} s")
    print(f"warm scan {scan:.3f} s   imports {imports:.3f} s   ratio {ratio:.2f} (median of {rounds} rounds)")


if __name__ == "__main__":
    main()
