"""Homes for commands that run as processes of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from core.market_calendar import market_calendar


@pytest.fixture(scope="session")
def known_calendar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Computed once: each new home would take seconds for it."""
    folder = tmp_path_factory.mktemp("calendar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KOBE_HOME", str(folder))
        market_calendar()
    return folder / "cache"


@pytest.fixture
def warm_home(tmp_path: Path, known_calendar: Path) -> Path:
    shutil.copytree(known_calendar, tmp_path / "cache")
    return tmp_path
