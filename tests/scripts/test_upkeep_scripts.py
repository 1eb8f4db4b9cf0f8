"""backup.py, restore.py and cleanup.py as typed; after a restore the runner asks the broker first."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from core import cli, logs
from core.clock import SteppedClock, SystemClock
from core.errors import Exit
from core.journal import Journal, verify
from core.paths import Home, home
from core.restore import pending
from execution.noted import NOTE_FILE
from scripts import backup, cleanup, ground, reconcile_alpaca, restore, runner
from tests.fakes.bar_files import small_market
from tests.fakes.grounds import a_context
from tests.fakes.journals import journal_at
from tests.fakes.trading import AAA, book, entry, world


@pytest.fixture(autouse=True)
def own_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_target", logs._target)


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        (line,) = self.out.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def act(main: Callable[[Sequence[str]], int], *words: str) -> Ran:
        capsys.readouterr()
        code = cli.run(lambda: main(list(words)))
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return act


# ---------------------------------------------------------------- backup.py
def test_a_backup_is_told_and_can_be_proved_again(run: Callable[..., Ran]) -> None:
    journal, _ = journal_at(home().root)
    journal.append("account_bound", {"id": "a", "number": "PA0001234", "mode": "paper"})
    made = run(backup.main, "--full", "--verify", "--json")
    assert made.code == Exit.OK and made.json["records"] == 1 and made.json["verified"] is True
    assert made.json["head"] == verify(home().journal).head
    names = {p.name for p in (Path(made.json["backup"]) / "settings").iterdir()}
    assert names == {"settings.yaml", "frozen_strategy_params_v2.2.json", "universe.csv"}
    again = run(backup.main, "--verify", "--json")
    assert again.code == Exit.OK and again.json["backup"] == made.json["backup"] and again.json["ok"] is True
    (Path(made.json["backup"]) / "settings" / "universe.csv").write_text("symbol\nEVIL\n")
    broken = run(backup.main, "--verify", made.json["backup"])
    assert broken.code == Exit.STATE_CORRUPT and broken.err.startswith("kobe: BACKUP_DAMAGED")
    errors = (home().logs / "errors.jsonl").read_text()
    assert '"event":"backup_failed"' in errors and '"code":"BACKUP_DAMAGED"' in errors


def test_older_backups_go_only_when_asked_and_a_dry_run_removes_none(run: Callable[..., Ran]) -> None:
    folder = home().root / "backups"
    names = []
    for day in range(3):
        clock = SteppedClock(datetime(2024, 5, 1 + day, tzinfo=UTC))
        assert run(lambda words, clock=clock: backup.main(words, clock=clock), "--full").code == Exit.OK
        names.append(max(p.name for p in folder.iterdir()))
    assert len(list(folder.iterdir())) == 3, "nothing goes by itself"
    tried = run(backup.main, "--keep", "2", "--dry-run", "--json")
    assert tried.json["remove"] == names[:1] and tried.json["dry_run"] is True
    assert sorted(p.name for p in folder.iterdir()) == names
    gone = run(backup.main, "--keep", "2")
    assert gone.code == Exit.OK and gone.out.splitlines()[0] == f"removed: {names[0]}"
    assert sorted(p.name for p in folder.iterdir()) == names[1:]
    assert '"event":"backups_pruned"' in (home().logs / "events.jsonl").read_text()
    assert run(backup.main, "--full", "--keep", "1", "--json").code == Exit.OK
    assert len(list(folder.iterdir())) == 1 and sorted(p.name for p in folder.iterdir())[0] not in names
    for words in (("--keep", "0"), ("--dry-run",), ("--full", "--keep", "1", "--dry-run"), ("--verify", "--keep", "1")):
        assert run(backup.main, *words).code == Exit.USAGE


def test_out_names_another_folder_and_no_backup_is_no_yes(run: Callable[..., Ran], tmp_path: Path) -> None:
    assert run(backup.main, "--verify", "--out", str(tmp_path)).code == Exit.NO
    assert run(backup.main, "--full", "--out", str(tmp_path)).code == Exit.OK
    assert [p.name[:6] for p in tmp_path.iterdir()] == ["kobe-2"]
    assert run(backup.main).code == Exit.USAGE and run(backup.main, "--full", "x").code == Exit.USAGE
    (tmp_path / "file").write_text("")
    refused = run(backup.main, "--full", "--out", str(tmp_path / "file"))
    assert refused.code == Exit.CONFIG and refused.err.startswith("kobe: BACKUP_UNWRITABLE")


def test_a_damaged_journal_is_backed_up_and_the_exit_code_says_so(run: Callable[..., Ran]) -> None:
    journal, _ = journal_at(home().root)
    for n in range(3):
        journal.append("x", {"n": n})
    lines = home().journal.read_bytes().splitlines(keepends=True)
    home().journal.write_bytes(lines[0] + lines[2])
    made = run(backup.main, "--full")
    assert made.code == Exit.STATE_CORRUPT and "BACKUP_OF_DAMAGED" in made.err
    assert len(list((home().root / "backups").iterdir())) == 1


def test_planted_keys_are_in_no_backup(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary stands in the environment and in both .env files; nothing of it is in any file of the backup."""
    key = "CANARY0123456789KEY"
    monkeypatch.setenv("ALPACA_API_KEY_ID", key)
    (home().root / ".env").write_text(f"POLYGON_API_KEY={key}\n")
    (home().state).mkdir()
    (home().state / ".env").write_text(f"POLYGON_API_KEY={key}\n")
    journal_at(home().root)[0].append("x", {"n": 1})
    made = run(backup.main, "--full", "--json")
    assert made.code == Exit.OK and made.json["left_out"][".env"] == "keys"
    files = [p for p in Path(made.json["backup"]).rglob("*") if p.is_file()]
    assert len(files) >= 6 and not [p for p in files if key.encode() in p.read_bytes() or p.name == ".env"]


# ---------------------------------------------------------------- restore.py
def a_backup(run: Callable[..., Ran]) -> str:
    return str(run(backup.main, "--full", "--json").json["backup"])


def test_a_dry_run_shows_and_changes_nothing(run: Callable[..., Ran]) -> None:
    journal, _ = journal_at(home().root)
    journal.append("x", {"n": 1})
    folder = a_backup(run)
    journal.append("x", {"n": 2})
    before = home().journal.read_bytes()
    shown = run(restore.main, folder, "--dry-run", "--json")
    assert shown.code == Exit.OK and shown.json["replace"] == ["state/hash_chain.head", "state/hash_chain.jsonl"]
    assert shown.json["dry_run"] is True and shown.json["reconcile_due"] is False
    assert home().journal.read_bytes() == before and pending(home()) is None
    words = run(restore.main, folder, "--dry-run").out
    assert "would be replaced: state/hash_chain.jsonl" in words
    done = run(restore.main, folder, "--json", "--reason", "the disk died")
    assert done.code == Exit.OK and verify(home().journal).records == 1
    told = pending(home())
    assert told is not None and told["reason"] == "the disk died" and told["backup"] == folder
    assert (Path(done.json["kept"]) / "state" / "hash_chain.jsonl").read_bytes() == before


def test_a_living_runner_or_command_is_told_by_its_exit_code(run: Callable[..., Ran]) -> None:
    journal_at(home().root)[0].append("x", {"n": 1})
    folder = a_backup(run)
    for name in ("runner", "operator"):
        with FileLock(str(home().state / f"{name}.lock")):
            assert run(restore.main, folder).code == Exit.ALREADY_RUNNING
            assert run(restore.main, folder, "--dry-run").code == Exit.OK
    assert pending(home()) is None


def test_something_that_is_no_backup_is_refused_in_one_line(run: Callable[..., Ran], tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        refused = run(restore.main, str(path))
        assert refused.code == Exit.STATE_CORRUPT and refused.err.startswith("kobe: BACKUP_INCOMPLETE")
        assert refused.err.count("\n") == 1


def test_P32_after_a_restore_the_start_asks_the_broker_before_it_trades(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Ran]
) -> None:
    """Also when nothing was noted of the journal, on a new machine say: the restore itself forces the reconcile."""
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    monkeypatch.setattr("scripts.wiring.action_feed", lambda context: None)
    made, context = world(tmp_path), a_context(tmp_path)
    made.journal.append("account_bound", {"id": "a", "number": "PA123456", "mode": "paper"})
    folder = a_backup(run)
    made.desk.execute(entry(), book())
    assert made.broker.held[AAA] == 1
    (context.home.logs / NOTE_FILE).unlink(missing_ok=True)
    assert run(restore.main, folder).code == Exit.OK
    desk = made.restart()
    found = ground.restored(context, desk)
    assert found.problem is not None and found.problem.code == "STATE_RESTORED" and "AAA" in found.found
    assert pending(context.home) is not None, "refused, so the next start asks again"
    made.broker.held[AAA] = 0
    made.clock.set(made.clock.now() + timedelta(days=1))
    context.clock = made.clock
    found = ground.restored(context, desk)
    assert found.problem is None and found.warning == "STATE_RESTORED"
    (accepted,) = desk.journal.kinds("restore_accepted")
    assert accepted.body["restore"]["backup"] == folder and pending(context.home) is None
    assert ground.restored(context, desk).warning == ""


def test_P32_the_runner_itself_refuses_on_a_restored_home_until_it_is_in_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Ran]
) -> None:
    """The whole path with the embedded venue as a broker that went on."""
    monkeypatch.setenv("KOBE_HOME", str(tmp_path / "home"))
    market = small_market(tmp_path / "market")

    def once(as_of: str) -> Ran:
        words = ("--mode", "paper", "--once", "--as-of", as_of, "--market", str(market), "--json")
        return run(runner.main, *words)

    assert once("2024-03-01T15:00:00Z").code == Exit.OK
    folder = a_backup(run)
    traded = once("2024-03-05T14:35:00Z")
    assert traded.code == Exit.OK and traded.json["intents"]
    (home().logs / NOTE_FILE).unlink()
    assert run(restore.main, folder).code == Exit.OK
    refused = once("2024-03-05T15:30:00Z")
    assert refused.code == Exit.STATE_CORRUPT and refused.err.startswith("kobe: STATE_RESTORED")
    assert not list(Journal(home().journal, SystemClock()).kinds("order_intended"))


def test_P53_an_interrupted_restore_keeps_the_runner_from_starting(run: Callable[..., Ran], tmp_path: Path) -> None:
    home().state.mkdir(parents=True)
    document = {"schema_version": 1, "phase": "replacing", "backup": "kobe-x"}
    (home().state / "restore_pending.json").write_text(json.dumps(document))
    refused = run(runner.main, "--mode", "paper", "--once")
    assert refused.code == Exit.STATE_CORRUPT and refused.err.startswith("kobe: RESTORE_UNFINISHED")
    (home().state / "restore_pending.json").write_text("{")
    assert run(runner.main, "--mode", "paper", "--once").code == Exit.STATE_CORRUPT
    assert reconcile_alpaca  # the operator's look stays possible


# ---------------------------------------------------------------- cleanup.py
NOW = datetime(2026, 11, 26, 15, 0, tzinfo=UTC)


def old(path: Path, days: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"at":"2020-01-01T00:00:00.000000Z"}\n')
    at = (NOW - timedelta(days=days)).timestamp()
    os.utime(path, (at, at))
    return path


def clean(*words: str) -> Callable[[Sequence[str]], int]:
    return lambda argv: cleanup.main([*words, *argv], clock=SteppedClock(NOW))


def test_P12_cleaning_removes_old_logs_and_never_the_journal(run: Callable[..., Ran]) -> None:
    journal, clock = journal_at(home().root)
    for month in range(3):
        clock.set(datetime(2020, 1 + month, 10, tzinfo=UTC))
        journal.append("x", {"n": month})
    journal.seal()
    for path in Home(home().root).state.rglob("*"):
        os.utime(path, (0, 1))
    before = {p: p.read_bytes() for p in home().state.rglob("*") if p.is_file() and ".lock" not in p.name}
    gone = [old(home().logs / "events.jsonl.2026-09-01", 86), old(home().logs / "errors.jsonl.2026-09-01-2", 86)]
    kept = [old(home().logs / "events.jsonl.2026-11-01", 25), old(home().logs / "verdicts" / "2026-08-03.jsonl", 115)]
    shown = run(clean("--logs", "--older-than", "30", "--dry-run"), "--json")
    assert shown.code == Exit.OK and len(shown.json["removed"]) == 2 and all(p.exists() for p in gone)
    done = run(clean("--logs", "--older-than", "30"), "--json")
    assert done.json["removed"] == shown.json["removed"]
    assert not any(p.exists() for p in gone) and all(p.exists() for p in kept)
    assert {p: p.read_bytes() for p in before} == before and verify(home().journal).ok
    assert run(clean("--logs")).out.startswith("0 files"), "the setting is 30 days"


def test_a_current_log_begins_anew_and_its_lines_are_still_there(run: Callable[..., Ran]) -> None:
    current = old(home().logs / "trades.jsonl", 0)
    done = run(clean("--logs", "--older-than", "30"), "--json")
    assert done.json["begun_anew"] == ["logs/trades.jsonl"] and done.json["removed"] == []
    (kept,) = home().logs.glob("trades.jsonl.*")
    assert not current.exists() and "2020-01-01" in kept.read_text()


def test_what_cannot_be_removed_is_told(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    path = old(home().logs / "events.jsonl.2026-09-01", 86)

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    done = run(clean("--logs", "--older-than", "30"))
    assert done.code == Exit.NO and path.name in done.out and "Permission denied" in done.out


def test_nothing_is_cleaned_without_being_asked(run: Callable[..., Ran]) -> None:
    assert run(cleanup.main).code == Exit.USAGE
    for days in ("0", "-3"):
        assert run(cleanup.main, "--logs", "--older-than", days).code == Exit.USAGE
