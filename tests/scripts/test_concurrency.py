"""`rm cache/<source>/*.csv` at any moment, also while scans run, never gives a wrong or partial result."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNIVERSE = ROOT / "data" / "universe" / "optionable_liquid_800.csv"
SESSION, NAMES = "2026-10-22", 30
SCANS, AT_ONCE = 6, 3
KEYS = ("POLYGON_API_KEY", "ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY", "KOBE_CONFIG")


def start(folder: Path) -> subprocess.Popen[str]:
    env = {**os.environ, **dict.fromkeys(KEYS, ""), "KOBE_HOME": str(folder), "NO_PROXY": "127.0.0.1,localhost"}
    words = [sys.executable, str(ROOT / "scripts" / "scan.py"), "--universe", str(folder / "names.csv")]
    words += ["--as-of", SESSION, "--deterministic", "--json"]
    return subprocess.Popen(words, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cleared home")
    rows = UNIVERSE.read_text(encoding="utf-8").splitlines()
    (folder / "names.csv").write_text("\n".join(rows[: NAMES + 1]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def reference(place: Path) -> dict[str, Any]:
    code, out, err = ended(start(place))
    assert (code, err) == (0, ""), err
    found: dict[str, Any] = json.loads(out)
    return found


class Clearing(threading.Thread):
    """Deletes the CSVs at random moments, sometimes all, sometimes one by one, until told to stop."""

    def __init__(self, folder: Path, seed: int, pause_s: float) -> None:
        super().__init__(daemon=True)
        self._folder, self._random, self._pause_s = folder, random.Random(seed), pause_s
        self.stop = threading.Event()
        self.cleared = 0

    def run(self) -> None:
        while not self.stop.wait(self._random.uniform(0, 2 * self._pause_s)):
            some = self._random.random() < 0.3
            for path in list(self._folder.glob("*.csv")):
                if not some or self._random.random() < 0.2:
                    with contextlib.suppress(FileNotFoundError):
                        path.unlink()
                        self.cleared += 1


@pytest.mark.parametrize(("seed", "pause_s"), [(1, 0.02), (2, 0.4)])
def test_clearing_the_cache_never_gives_a_wrong_scan(
    place: Path, reference: dict[str, Any], seed: int, pause_s: float
) -> None:
    """The shell's `rm cache/simulated/*.csv` in a loop, beside several scans at once."""
    clearing = Clearing(place / "cache" / "simulated", seed, pause_s)
    clearing.start()
    results: list[tuple[int, str, str]] = []
    deadline = time.monotonic() + 60
    try:
        while len(results) < SCANS and time.monotonic() < deadline:
            results += [ended(one) for one in [start(place) for _ in range(AT_ONCE)]]
    finally:
        clearing.stop.set()
        clearing.join(10)
    assert clearing.cleared > NAMES and len(results) == SCANS
    for code, out, err in results:
        if code == 0:
            assert err == ""
            assert json.loads(out) == reference
        else:
            assert code == 20, (code, out, err)
            assert out == "" and err.count("\n") == 1 and err.startswith("kobe: "), err
            assert "Traceback" not in err


def test_afterwards_everything_is_as_before(place: Path, reference: dict[str, Any]) -> None:
    code, out, err = ended(start(place))
    assert (code, err) == (0, ""), err
    assert json.loads(out) == reference
