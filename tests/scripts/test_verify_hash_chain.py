"""scripts/verify_hash_chain.py: exit codes and the --json contract."""

from __future__ import annotations

import importlib.util
import io
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
from core.journal import GENESIS, Journal, head_path, verify
from tests.fakes.journals import head_of, rehashed

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
    for wrong in ("abc", "x:" + "ab" * 32, "0:" + "ab" * 32, "-1:" + "ab" * 32, "²:" + "ab" * 32, "{}", "{", ""):
        assert cli.run(lambda text=wrong: int(script.main(["--anchor", text]))) == 2  # type: ignore[misc]
    assert cli.run(lambda: int(script.main(["--anchors", "no-such-file"]))) == 2


def test_several_anchors_narrow_where_a_rewritten_journal_goes_wrong(
    journal: Journal, tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    noted = [journal.append("x", {"n": n}).hash for n in range(1, 7)]
    journal.path.write_bytes(b"".join(rehashed([
        line.replace(b'"n":4', b'"n":9') for line in journal.path.read_bytes().splitlines(keepends=True)
    ], 4)))  # fmt: skip
    head_path(journal.path).write_bytes(head_of(journal.path.read_bytes().splitlines(keepends=True), tmp_path))
    assert script.main(["--json"]) == 0  # nothing inside the folder shows it
    capsys.readouterr()

    def found(*argv: str) -> dict[str, object]:
        assert script.main(["--json", *argv]) == 1
        return {k: v for k, v in json.loads(capsys.readouterr().out).items() if k in ("proven", "first_bad")}

    assert found("--anchor", f"6:{noted[5]}") == {"proven": 0, "first_bad": 6}
    assert found("--anchor", noted[5]) == {"proven": 0, "first_bad": 7}
    assert found("--anchor", noted[1], "--anchor", f"5:{noted[4]}") == {"proven": 2, "first_bad": 5}
    file = tmp_path / "anchors.txt"
    file.write_text(f"# one a day\n3:{noted[2]}\n\n  4:{noted[3].upper()}  # Thursday\n{noted[5]}\n", "utf-8-sig")
    assert found("--anchors", str(file)) == {"proven": 3, "first_bad": 4}
    file.write_text("4:ab\n", "utf-8")
    assert cli.run(lambda: int(script.main(["--anchors", str(file)]))) == 2
    assert "anchors.txt line 1" in capsys.readouterr().err


def test_a_saved_head_is_a_file_of_anchors(journal: Journal, tmp_path: Path, script: ModuleType) -> None:
    journal.append("x", {"n": 1})
    journal.append("x", {"n": 2})
    saved = tmp_path / "saved.head"
    saved.write_bytes(head_path(journal.path).read_bytes())
    journal.append("x", {"n": 3})
    assert script.main(["--json", "--anchors", str(saved)]) == 0
    journal.path.unlink()
    head_path(journal.path).unlink()
    Journal(journal.path, SteppedClock(datetime(2024, 3, 5, tzinfo=UTC))).append("x", {"n": 2})
    assert script.main(["--json", "--anchors", str(saved)]) == 1


def test_sealed_months_are_listed_and_a_torn_line_is_called_torn(
    journal: Journal, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    later = Journal(journal.path, SteppedClock(datetime(2024, 4, 5, tzinfo=UTC)))
    for writer in (journal, journal, later):
        writer.append("x", {})
    later.seal()
    assert script.main(["--anchor", next(journal.records()).hash]) == 0
    said = capsys.readouterr().out
    assert "sealed: hash_chain.2024-03.jsonl, records 1 to 2" in said and "proven by an anchor: records 1 to 1" in said
    assert script.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["segments"] == 1
    with journal.path.open("ab") as out:
        out.write(b"{")
    assert script.main([]) == 1 and "TORN: a torn last line" in capsys.readouterr().out
    assert script.main(["--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "ok": False, "records": 4, "head": verify(journal.path).head, "first_bad": 5, "proven": 0, "torn": True,
        "segments": 1, "why": "a torn last line; the next append sets it aside",
    }  # fmt: skip


def test_progress_is_shown_on_a_terminal_and_never_with_json(
    journal: Journal, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        journal.append("x", {})
    monkeypatch.setattr("core.journal_verify._TELL_EVERY", 2)
    for argv, shown in (([], True), (["--json"], False)):
        terminal = io.StringIO()
        terminal.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stderr", terminal)
        assert script.main(argv) == 0
        assert ("2 records" in terminal.getvalue() and "%" in terminal.getvalue()) is shown


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
