"""Which .env file counts, the keys, the addresses. The forms of a .env are P38: tests/faults/test_P_config.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import env
from core.domain import Mode
from core.env import Endpoints, endpoints, keys, load_dotenv
from core.errors import ConfigError

NAMES = ("POLYGON_API_KEY", "ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY", "ANTHROPIC_API_KEY")
URLS = ("ALPACA_BASE_URL", "ALPACA_DATA_URL", "POLYGON_BASE_URL", "ANTHROPIC_BASE_URL")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*NAMES, *URLS):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores what load_dotenv sets
        monkeypatch.delenv(name)
    monkeypatch.setattr(env, "REPO_ROOT", tmp_path / "repo")
    monkeypatch.setenv("KOBE_HOME", str(tmp_path / "home"))
    (tmp_path / "repo").mkdir()
    (tmp_path / "home").mkdir()


def test_a_named_file_must_exist_and_the_default_ones_need_not(tmp_path: Path) -> None:
    load_dotenv(None)
    with pytest.raises(ConfigError) as caught:
        load_dotenv(tmp_path / "absent.env")
    assert caught.value.code == "DOTENV_MISSING"


def test_environment_over_home_over_repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", "real-1")
    (tmp_path / "repo" / ".env").write_text(
        "POLYGON_API_KEY=repo-1\nALPACA_API_KEY_ID=repo-2\nANTHROPIC_API_KEY=repo-3\n"
    )
    (tmp_path / "home" / ".env").write_text("POLYGON_API_KEY=home-1\nALPACA_API_KEY_ID=home-2\n")
    load_dotenv()
    found = keys()
    assert (found.polygon, found.alpaca_id, found.anthropic, found.alpaca_secret) == (
        "real-1",
        "home-2",
        "repo-3",
        None,
    )
    assert "real-1" not in repr(found)


def test_an_empty_variable_in_the_environment_wins_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", "")
    (tmp_path / "repo" / ".env").write_text("POLYGON_API_KEY=repo-1\n")
    load_dotenv()
    assert keys().polygon is None


@pytest.mark.parametrize("value", ["two words", "curly”", "line\nbreak"])
def test_a_key_that_no_header_can_carry_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ALPACA_API_SECRET_KEY", value)
    with pytest.raises(ConfigError) as caught:
        keys()
    assert "ALPACA_API_SECRET_KEY" in str(caught.value) and value not in str(caught.value)


def test_the_real_hosts_by_mode() -> None:
    paper = endpoints(Mode.PAPER)
    assert paper == Endpoints(
        "https://paper-api.alpaca.markets",
        "https://data.alpaca.markets",
        "https://api.polygon.io",
        "https://api.anthropic.com",
    )
    assert endpoints(Mode.LIVE).alpaca == "https://api.alpaca.markets"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("http://[::1]:8000/v2/", "http://[::1]:8000"),
        ("https://paper-api.alpaca.markets/v2", "https://paper-api.alpaca.markets"),
        (" https://proxy.example/alpaca/v2/ ", "https://proxy.example/alpaca"),
    ],
)
def test_addresses_are_cleaned(monkeypatch: pytest.MonkeyPatch, given: str, kept: str) -> None:
    monkeypatch.setenv("ALPACA_BASE_URL", given)
    assert endpoints(Mode.PAPER).alpaca == kept


@pytest.mark.parametrize(
    "given",
    ["paper-api.alpaca.markets", "ftp://x.example", "https://", "https://h:99999", "https://h:x", "https://u:pw@h.example",
     "https://h.example?k=1", "https://h.example#f", "https://h example", "http://api.example.com", "http://[::1"],
)  # fmt: skip
def test_malformed_addresses_are_refused_without_quoting_them(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("POLYGON_BASE_URL", given)
    with pytest.raises(ConfigError) as caught:
        endpoints(Mode.PAPER)
    assert "POLYGON_BASE_URL" in str(caught.value) and "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "other"),
    [(Mode.PAPER, "https://api.alpaca.markets/v2"), (Mode.LIVE, "https://paper-api.alpaca.markets"),
     (Mode.PAPER, "https://API.alpaca.markets")],
)  # fmt: skip
def test_the_other_modes_broker_is_refused(monkeypatch: pytest.MonkeyPatch, mode: Mode, other: str) -> None:
    monkeypatch.setenv("ALPACA_BASE_URL", other)
    with pytest.raises(ConfigError) as caught:
        endpoints(mode)
    assert caught.value.code == "ENDPOINT_MODE_MISMATCH"
