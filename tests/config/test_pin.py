"""The pin: what differs is named, item by item and key by key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from config import pin
from config.loader import BASE_PATH
from config.strategy_params import FROZEN_PARAMS_PATH
from core.errors import ConfigError, StateCorrupt
from core.paths import Home


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository of its own, so that a file can be changed."""
    root = tmp_path / "repo"
    for folder in ("config", "core", "data/universe"):
        (root / folder).mkdir(parents=True)
    (root / "core" / "a.py").write_text("A = 1\n")
    (root / "data" / "universe" / "optionable_liquid_800.csv").write_text("symbol,sector\nAAPL,Technology\n")
    shutil.copy(BASE_PATH, root / "config" / "base.yaml")
    shutil.copy(FROZEN_PARAMS_PATH, root / "config" / "params.json")
    monkeypatch.setenv("KOBE_CONFIG", str(root / "config" / "base.yaml"))
    real: Callable[..., dict[str, str]] = pin.compute_pin
    here = {"root": root, "params": root / "config" / "params.json"}
    monkeypatch.setattr(pin, "compute_pin", lambda *, config=None: real(config=config, **here))
    return root


def home_of(repo: Path) -> Home:
    return Home(repo.parent / "home")


def verify(repo: Path) -> pin.PinCheck:
    return pin.check_pin(home_of(repo), compute=pin.compute_pin)


def test_pin_then_verify_is_in_step(repo: Path) -> None:
    assert not verify(repo).pinned
    assert verify(repo).differing == pin.ITEMS
    pin.write_pin(home_of(repo))
    assert verify(repo).ok
    assert verify(repo).details == ()


@pytest.mark.parametrize(
    ("file", "before", "after", "item"),
    [
        ("config/base.yaml", "per_order_max_usd: 75 ", "per_order_max_usd: 76 ", "config"),
        ("config/params.json", "0.08", "0.09", "frozen_params"),
        ("data/universe/optionable_liquid_800.csv", "AAPL", "MSFT", "universe"),
        ("core/a.py", "A = 1", "A = 2", "code"),
    ],
)
def test_m34_the_item_that_differs_is_named_and_no_other(
    repo: Path, file: str, before: str, after: str, item: str
) -> None:
    pin.write_pin(home_of(repo))
    text = (repo / file).read_text()
    assert before in text
    (repo / file).write_text(text.replace(before, after))
    check = verify(repo)
    assert (check.ok, check.differing) == (False, (item,))
    (repo / file).write_text(text)
    assert verify(repo).ok


def test_a_changed_setting_is_told_with_both_values(repo: Path) -> None:
    pin.write_pin(home_of(repo))
    path = repo / "config" / "base.yaml"
    path.write_text(path.read_text().replace("daily_budget_usd: 1000 ", "daily_budget_usd: 100000 "))
    assert "risk.policy_gate.daily_budget_usd: pinned 1000, now 100000" in verify(repo).details


def test_a_changed_comment_differs_and_says_that_no_value_did(repo: Path) -> None:
    pin.write_pin(home_of(repo))
    path = repo / "config" / "base.yaml"
    path.write_text(path.read_text() + "# note\n")
    assert verify(repo).differing == ("config",)
    assert any("no value changed" in line for line in verify(repo).details)


def test_a_new_a_moved_and_a_deleted_source_file_differ(repo: Path) -> None:
    pin.write_pin(home_of(repo))
    (repo / "core" / "b.py").write_text("")
    assert verify(repo).differing == ("code",)
    (repo / "core" / "b.py").unlink()
    (repo / "core" / "a.py").rename(repo / "core" / "c.py")
    assert verify(repo).differing == ("code",)
    (repo / "core" / "c.py").unlink()
    assert verify(repo).differing == ("code",)


def test_a_windows_checkout_has_the_same_pin(repo: Path) -> None:
    pin.write_pin(home_of(repo))
    for name in ("core/a.py", "config/base.yaml"):
        (repo / name).write_bytes((repo / name).read_bytes().replace(b"\n", b"\r\n"))
    assert verify(repo).ok


def test_files_that_decide_nothing_are_not_pinned(repo: Path) -> None:
    pin.write_pin(home_of(repo))
    (repo / "core" / "__pycache__").mkdir()
    (repo / "core" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    (repo / "docs").mkdir()
    (repo / "docs" / "x.md").write_text("x")
    assert verify(repo).ok


def test_an_absent_universe_cannot_be_pinned_and_is_named_later(repo: Path) -> None:
    universe = repo / "data" / "universe" / "optionable_liquid_800.csv"
    pin.write_pin(home_of(repo))
    universe.unlink()
    assert verify(repo).differing == ("universe",)
    with pytest.raises(ConfigError, match="universe is absent"):
        pin.write_pin(home_of(repo))


def test_an_invalid_configuration_cannot_be_pinned(repo: Path) -> None:
    path = repo / "config" / "base.yaml"
    path.write_text(path.read_text().replace("position_limit: 10", "position_limit: 0"))
    with pytest.raises(ConfigError, match=r"risk\.position_limit"):
        pin.write_pin(home_of(repo))
    assert not pin.pin_path(home_of(repo)).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 2}', '{"schema_version": 1, "items": {}}'])
def test_a_damaged_pin_is_an_error_never_no_pin(repo: Path, text: str) -> None:
    path = pin.pin_path(home_of(repo))
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(StateCorrupt, match=r"config_pin\.json"):
        verify(repo)


@pytest.mark.parametrize("damage", ["settings", "hash"])
def test_a_pin_with_a_missing_part_is_damaged(repo: Path, damage: str) -> None:
    pin.write_pin(home_of(repo))
    path = pin.pin_path(home_of(repo))
    document = json.loads(path.read_text())
    if damage == "settings":
        del document["settings"]
    else:
        document["items"]["code"] = "0"
    path.write_text(json.dumps(document))
    with pytest.raises(StateCorrupt):
        verify(repo)


def test_every_item_is_a_sha256_of_the_real_repository() -> None:
    found = pin.compute_pin(config=BASE_PATH)
    assert tuple(found) == pin.ITEMS
    assert all(len(value) == 64 or value == pin.ABSENT for value in found.values())
    assert pin.code_sha256() == found["code"]
