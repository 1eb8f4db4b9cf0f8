"""scripts/verify_hash_chain.py: exit codes and the --json contract."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest

from core import cli
from core.clock import SteppedClock
from core.journal import GENESIS, Journal

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "verify_hash_chain.py"


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    return Journal(tmp_path / "state" / "hash_chain.jsonl", SteppedClock(datetime(2024, 3, 5, tzinfo=UTC)))


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_hash_chain", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_sound_journal(journal: Journal, script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    first, last = journal.append("x", {}), journal.append("x", {})
    assert script.main(["--json", "--anchor", first.hash.upper()]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {k: shown[k] for k in ("ok", "records", "head", "first_bad")} == {
        "ok": True, "records": 2, "head": last.hash, "first_bad": None,
    }  # fmt: skip
    assert script.main([]) == 0 and "2 records" in capsys.readouterr().out


def test_a_damaged_journal(journal: Journal, script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    journal.append("x", {"n": 1})
    journal.append("x", {"n": 2})
    journal.path.write_bytes(journal.path.read_bytes().replace(b'"n":1', b'"n":9'))
    assert script.main(["--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["ok"] is False and shown["first_bad"] == 1
    assert script.main([]) == 1 and "first bad record 1" in capsys.readouterr().out


def test_absent_is_sound_only_with_an_absent_head(
    journal: Journal, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["head"] == GENESIS
    journal.append("x", {})
    journal.path.unlink()
    assert script.main(["--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["ok"], shown["records"]) == (False, 0)


def test_an_anchor_that_is_gone_and_one_that_is_none(journal: Journal, script: ModuleType) -> None:
    journal.append("x", {})
    assert script.main(["--json", "--anchor", "ab" * 32]) == 1
    assert cli.run(lambda: int(script.main(["--anchor", "abc"]))) == 2


def test_it_runs_from_any_directory(journal: Journal, tmp_path: Path) -> None:
    journal.append("x", {})
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json"],
        cwd=tmp_path,
        env={**os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and json.loads(done.stdout)["records"] == 1 and done.stderr == ""
