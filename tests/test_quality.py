"""Lint and types are tests: what they find fails the suite."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Kept between runs, outside the repository: the first run takes a minute, the next ones seconds.
TYPE_CACHE = Path(tempfile.gettempdir()) / f"kobe-mypy-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "--no-cache", "."], ["mypy", "--cache-dir", str(TYPE_CACHE)]],
    ids=["ruff", "mypy"],
)
def test_finds_nothing(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=290
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}{done.stderr[-2000:]}"
