"""Every test runs in a home of its own, without the operator's keys, and reaches loopback only."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

_VARIABLES = (
    "KOBE_CONFIG",
    "ALPACA_BASE_URL",
    "ALPACA_DATA_URL",
    "POLYGON_BASE_URL",
    "ANTHROPIC_BASE_URL",
    "POLYGON_API_KEY",
    "ALPACA_API_KEY_ID",
    "ALPACA_API_SECRET_KEY",
    "ANTHROPIC_API_KEY",
    "KOBE_ALERT_URLS",
    "KOBE_ALERT_FALLBACK_URLS",
    "KOBE_DEADMAN_URL",
)
_LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


def pytest_configure() -> None:
    """A job that a script sent to the background ignores Ctrl-C, and so would every program a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: many tests wait for a process or a deadline of theirs."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("KOBE_HOME", str(home))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    for name in _VARIABLES:
        monkeypatch.setenv(name, "")  # empty beats a .env in the repository
    return home


@pytest.fixture(autouse=True, scope="session")
def loopback_only() -> Any:
    """A test that reaches for the network fails with the address it wanted."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(_LOOPBACK):
            raise AssertionError(f"a test wanted to reach {address}")
        real(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", connect)
    yield
    patch.undo()
