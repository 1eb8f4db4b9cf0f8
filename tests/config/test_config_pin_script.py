"""scripts/config_pin.py: exit codes and words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from config.loader import BASE_PATH

ROOT = BASE_PATH.parents[1]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a settings file of its own, with a universe that exists."""
    universe = tmp_path / "universe.csv"
    universe.write_text("symbol,sector\nAAPL,Technology\n")
    text = BASE_PATH.read_text(encoding="utf-8")
    settings = tmp_path / "settings.yaml"
    settings.write_text(text.replace("data/universe/optionable_liquid_800.csv", universe.as_posix()))
    monkeypatch.setenv("KOBE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KOBE_CONFIG", str(settings))
    return tmp_path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "config_pin.py"), *arguments]
    return subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, encoding="utf-8", timeout=60)


def test_pin_then_verify_then_a_change(place: Path) -> None:
    """One story, from another working directory, because each call starts a process."""
    assert run("verify").returncode == 1
    assert run("pin").returncode == 0
    in_step = run("verify", "--json")
    assert (in_step.returncode, json.loads(in_step.stdout)["ok"]) == (0, True)
    settings = place / "settings.yaml"
    settings.write_text(settings.read_text().replace("position_limit: 10 ", "position_limit: 11 "))
    differs = run("verify")
    assert differs.returncode == 1
    assert "config" in differs.stdout
    assert "risk.position_limit: pinned 10, now 11" in differs.stdout


def test_an_invalid_configuration_ends_with_10_and_one_line(place: Path) -> None:
    (place / "settings.yaml").write_text("risk:\n  position_limt: 3\n")
    done = run("verify")
    assert done.returncode == 10
    assert "line 2: unknown key risk.position_limt, did you mean risk.position_limit?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_damaged_pin_ends_with_11(place: Path) -> None:
    (place / "home" / "state").mkdir(parents=True)
    (place / "home" / "state" / "config_pin.json").write_text("{")
    assert run("verify").returncode == 11


def test_no_action_is_a_usage_error(place: Path) -> None:
    assert run().returncode == 2
