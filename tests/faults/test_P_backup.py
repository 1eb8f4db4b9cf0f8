"""Backups are whole or absent, and a restore is byte-equal, refused, or visibly unfinished."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from config.settings_schema import Settings
from core import backup, backup_pruning, restore
from core.backup import SETTINGS as SETTINGS_FOLDER
from core.backup import BackupDamaged, Made, make, prove, read_manifest
from core.clock import SteppedClock
from core.errors import AlreadyRunning, ConfigError, KobeError, StateCorrupt, StateLocked
from core.files import locked
from core.journal import Journal, verify
from core.paths import Home
from llm.spend import Amount
from llm.token_budget import TokenBudget
from tests.fakes.journals import fill, journal_at

NOW = datetime(2024, 5, 2, 21, 0, tzinfo=UTC)
ACCOUNT = {"id": "acc-1", "number": "PA0001234", "mode": "paper"}
SETTINGS = "settings.yaml"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Four months of journal, two of them sealed after more records; documents; the venue's account; clutter."""
    place = Home(tmp_path / "a home")
    journal, clock = journal_at(place.root)
    journal.append("account_bound", ACCOUNT)
    fill(journal, clock, months=3, each=5)
    journal.seal()
    trials = Journal(place.state / "trials.jsonl", clock)
    trials.append("backtest_trial", {"trials": [1, 2]})
    (place.state / "positions.json").write_text('{"schema_version": 1, "as_of": null, "positions": {}}')
    (place.state / "starts.json").write_text('{"schema_version": 1, "starts": [], "stopped_at": null}')
    with sqlite3.connect(place.state / "venue.sqlite") as database:
        database.execute("create table t (x)")
        database.execute("insert into t values (42)")
    database.close()
    for name in ("runner.json", "runner.lock", "x.tmp", "KILL_SWITCH", ".env"):
        (place.state / name).write_text("POLYGON_API_KEY=never")
    (place.state / "archive").mkdir()
    (place.state / "archive" / "old.jsonl").write_text("old")
    (place.root / ".env").write_text("ALPACA_API_SECRET_KEY=never\n")
    (place.root / SETTINGS).write_text("risk:\n  position_limit: 3\n")
    return place


def made(home: Home, out: Path | None = None, **more: object) -> Made:
    settings = {SETTINGS: home.root / SETTINGS}
    return make(home, settings, out or home.root / "backups", SteppedClock(NOW), code_sha256="c" * 64, **more)  # type: ignore[arg-type]


def state_of(home: Home) -> dict[str, bytes]:
    """Everything that a backup is about."""
    names = backup.state_files(home.state)[0]
    return {str(n): (home.state / n).read_bytes() for n in names if n.name != "venue.sqlite"}


def put_back(folder: Path, home: Home, *, with_settings: bool = False, versions: dict[str, int] | None = None) -> Path:
    settings = {SETTINGS: home.root / SETTINGS}
    with restore.nobody_else(home):
        manifest = prove(folder)
        planned = restore.plan(folder, manifest, home, settings, versions=versions or {}, with_settings=with_settings)
        return restore.restore(folder, planned, home, stamp="s", facts={"backup": folder.name, "at": "now"})


# ---------------------------------------------------------------- making
def test_a_backup_holds_what_cannot_be_made_again_and_nothing_else(home: Home) -> None:
    found = made(home)
    names = {kept.path for kept in found.manifest.files}
    assert names == {
        "settings/settings.yaml", "state/hash_chain.head", "state/hash_chain.jsonl", "state/trials.head",
        "state/journal/hash_chain.2024-01.jsonl", "state/journal/hash_chain.2024-02.jsonl", "state/positions.json",
        "state/starts.json", "state/trials.jsonl", "state/venue.sqlite",
    }  # fmt: skip
    assert {path.name for path in found.folder.rglob("*")} & {".env", "KILL_SWITCH", "runner.lock", "x.tmp"} == set()
    assert found.manifest.left_out[".env"] == "keys" and found.manifest.left_out["state/archive/old.jsonl"]
    assert found.manifest.account is not None and found.manifest.account["tail"] == "1234"
    assert ACCOUNT["id"] not in (found.folder / "manifest.json").read_text()
    end = found.manifest.journal("hash_chain.jsonl")
    assert end is not None and end.ok and end.head == verify(home.journal).head and end.records == 18
    schemas = {kept.path: kept.schema_version for kept in found.manifest.files}
    assert schemas["state/positions.json"] == 1 and schemas["state/hash_chain.jsonl"] is None
    assert [p.name for p in (home.root / "backups").iterdir()] == ["kobe-20240502T210000Z"], "and no half one"
    assert found.warnings == ("BACKUP_SAME_DISK",)


def test_a_second_backup_of_the_same_second_has_a_name_of_its_own(home: Home) -> None:
    assert [made(home).folder.name, made(home).folder.name] == ["kobe-20240502T210000Z", "kobe-20240502T210000Z-2"]
    assert backup.newest(home.root / "backups") == home.root / "backups" / "kobe-20240502T210000Z-2"
    assert backup.newest(home.root / "nowhere") is None


def test_an_empty_home_is_backed_up_too(tmp_path: Path) -> None:
    place = Home(tmp_path)
    found = made(place)
    assert found.manifest.files == () and found.manifest.left_out == {f"settings/{SETTINGS}": "absent"}


def test_the_copy_of_the_venue_is_whole_while_somebody_writes(home: Home) -> None:
    writer = sqlite3.connect(home.state / "venue.sqlite", isolation_level=None)
    writer.execute("pragma journal_mode=wal")
    writer.execute("insert into t values (43)")
    writer.execute("begin immediate")
    writer.execute("insert into t values (44)")
    found = made(home)
    writer.execute("rollback")
    writer.close()
    copy = sqlite3.connect(found.folder / "state" / "venue.sqlite")
    assert copy.execute("select x from t").fetchall() == [(42,), (43,)]
    copy.close()


def test_the_journal_is_copied_between_two_records_of_a_writer(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever appends while the files are copied waits: line, head and months are of one moment."""
    seen: list[str] = []
    real = backup._copy

    def copying(source: Path, target: Path) -> None:
        if source.name == "hash_chain.jsonl":
            with pytest.raises(StateLocked), locked(home.journal, timeout_s=0.0):
                pass
            seen.append(source.name)
        real(source, target)

    monkeypatch.setattr(backup, "_copy", copying)
    made(home)
    assert seen == ["hash_chain.jsonl"]
    with locked(home.journal, timeout_s=0.0):
        pass


def test_P13_no_writer_of_the_journal_waits_for_the_disk_of_the_backup(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is written below --out may take its time: the journal is free, and what is appended is not in it."""
    out, seen, real = home.root / "backups", [], Path.open
    journal = Journal(home.journal, SteppedClock(NOW))
    before = verify(home.journal).head

    def slow(path: Path, mode: str = "r", *args: object, **more: object) -> object:
        if out in path.parents and "w" in mode:
            free(path)
        return real(path, mode, *args, **more)  # type: ignore[call-overload]

    def free(path: Path) -> None:
        with locked(home.journal, timeout_s=0.0), locked(home.state / "trials.jsonl", timeout_s=0.0):
            seen.append(path.name)

    def copyfile(source: Path, target: Path) -> None:
        if out in target.parents:
            free(target)
            journal.append("meanwhile", {})
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(Path, "open", slow)
    monkeypatch.setattr(shutil, "copyfile", copyfile)
    found = made(home, out)
    assert {"hash_chain.jsonl", "hash_chain.head", "positions.json", "venue.sqlite"} <= set(seen)
    end = found.manifest.journal("hash_chain.jsonl")
    assert end is not None and end.ok and end.head == before != verify(home.journal).head


def test_a_journal_held_by_another_process_is_waited_for_and_then_told(home: Home) -> None:
    with locked(home.journal), pytest.raises(StateLocked):
        made(home, timeout_s=0.05)
    assert list((home.root / "backups").iterdir()) == []


@pytest.mark.parametrize("spelled", ["plain", "base64", "url"])
def test_a_key_in_a_state_file_stops_the_backup_and_is_not_quoted(
    home: Home, monkeypatch: pytest.MonkeyPatch, spelled: str
) -> None:
    import base64
    from urllib.parse import quote

    key = "canary/KEY+7777"
    monkeypatch.setenv("POLYGON_API_KEY", key)
    words = {"plain": key, "base64": base64.b64encode(key.encode()).decode(), "url": quote(key, safe="")}[spelled]
    (home.state / "notes.json").write_text(json.dumps({"schema_version": 1, "said": f"x {words} y"}))
    with pytest.raises(StateCorrupt) as caught:
        made(home)
    assert caught.value.code == "SECRET_IN_STATE" and "notes.json" in str(caught.value)
    assert words not in str(caught.value) and list((home.root / "backups").iterdir()) == []


@pytest.mark.parametrize("effect", range(1, 11))
def test_P54_a_backup_that_fails_anywhere_leaves_nothing_under_a_backups_name(
    home: Home, monkeypatch: pytest.MonkeyPatch, effect: int
) -> None:
    """The n-th fsync fails, as on a full disk."""
    count, real = {"n": 0}, os.fsync

    def fsync(handle: int) -> None:
        count["n"] += 1
        if count["n"] == effect:
            raise OSError(28, "No space left on device")
        real(handle)

    before = state_of(home)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(ConfigError) as caught:
            made(home)
    assert caught.value.code == "BACKUP_NO_ROOM"
    assert count["n"] == effect and list((home.root / "backups").iterdir()) == []
    assert state_of(home) == before


def test_P54_too_little_room_is_seen_before_anything_is_written(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 5))  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="MB free") as caught:
        made(home)
    assert caught.value.code == "BACKUP_NO_ROOM" and list((home.root / "backups").iterdir()) == []


def test_P54_a_disk_that_gives_back_other_bytes_is_found_before_the_backup_has_its_name(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = backup._describe

    def describe(folder: Path, *more: object) -> backup.Manifest:
        found = real(folder, *more)  # type: ignore[arg-type]
        (folder / "state" / "positions.json").write_text("other")
        return found

    monkeypatch.setattr(backup, "_describe", describe)
    with pytest.raises(BackupDamaged, match=r"positions\.json"):
        made(home)
    assert list((home.root / "backups").iterdir()) == []


def test_a_damaged_journal_is_backed_up_as_it_is_and_said(home: Home) -> None:
    lines = home.journal.read_bytes().splitlines(keepends=True)
    home.journal.write_bytes(b"".join([*lines[:-2], lines[-1]]))
    found = made(home)
    trouble = backup.damage(found.manifest)
    assert trouble is not None and trouble.code == "BACKUP_OF_DAMAGED"
    with pytest.raises(StateCorrupt, match="damaged when it was backed up"):
        put_back(found.folder, home)


# ---------------------------------------------------------------- proving
DAMAGES: dict[str, Callable[[Path], object]] = {
    "one bit": lambda b: _flip(b / "state" / "hash_chain.jsonl"),
    "a document": lambda b: (b / "state" / "positions.json").write_text("{}"),
    "a month gone": lambda b: (b / "state" / "journal" / "hash_chain.2024-01.jsonl").unlink(),
    "the head gone": lambda b: (b / "state" / "hash_chain.head").unlink(),
    "no manifest": lambda b: (b / "manifest.json").unlink(),
    "half a manifest": lambda b: (b / "manifest.json").write_bytes((b / "manifest.json").read_bytes()[:-40]),
    "a manifest of something else": lambda b: (b / "manifest.json").write_text('{"format": 1}'),
    "a way out": lambda b: _rename_in_manifest(b, "state/positions.json", "state/../../evil.json"),
    "an absolute path": lambda b: _rename_in_manifest(b, "state/positions.json", "/etc/passwd"),
    "another folder": lambda b: _rename_in_manifest(b, "state/positions.json", "logs/positions.json"),
}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _rename_in_manifest(folder: Path, old: str, new: str) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_or_incomplete_backup_is_refused_and_changes_nothing(home: Home, damage: str) -> None:
    found = made(home)
    DAMAGES[damage](found.folder)
    before = state_of(home)
    with pytest.raises(KobeError) as caught:
        put_back(found.folder, home)
    assert caught.value.code in ("BACKUP_DAMAGED", "BACKUP_INCOMPLETE")
    assert state_of(home) == before and restore.pending(home) is None


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_in_a_backup_is_refused(home: Home, tmp_path: Path) -> None:
    found = made(home)
    file = found.folder / "state" / "positions.json"
    file.rename(tmp_path / "elsewhere.json")
    file.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BackupDamaged, match="link"):
        prove(found.folder)


def test_a_backup_of_a_newer_format_is_refused_as_newer(home: Home) -> None:
    found = made(home)
    _rename_in_manifest(found.folder, '"format": 1', '"format": 2')
    with pytest.raises(StateCorrupt) as caught:
        read_manifest(found.folder)
    assert caught.value.code == "BACKUP_NEWER"


# ---------------------------------------------------------------- restoring
def go_on(home: Home) -> None:
    """Life after the backup: more records, a month sealed, other documents, other settings."""
    clock = SteppedClock(NOW + timedelta(days=40))
    journal = Journal(home.journal, clock, run_id="later")
    journal.append("order_intended", {"i": 99})
    journal.seal()
    (home.state / "positions.json").write_text('{"schema_version": 1, "as_of": "x", "positions": {}}')
    (home.state / "later.json").write_text('{"schema_version": 1}')
    (home.root / SETTINGS).write_text("risk:\n  position_limit: 9\n")


def test_P32_a_restore_is_byte_equal_keeps_what_it_replaced_and_waits_for_a_reconcile(home: Home) -> None:
    before = state_of(home)
    found = made(home)
    go_on(home)
    later = state_of(home)
    kept = put_back(found.folder, home)
    assert state_of(home) == before
    assert verify(home.journal).ok and verify(home.state / "trials.jsonl").ok
    assert (home.state / "KILL_SWITCH").exists(), "the operator's switch stays"
    assert (home.root / SETTINGS).read_text().endswith("9\n"), "settings only when asked for"
    replaced = {p.relative_to(kept / "state").as_posix(): p.read_bytes() for p in (kept / "state").rglob("*.json*")}
    changed = {name: content for name, content in later.items() if before.get(name) != content and ".head" not in name}
    assert replaced == changed and "journal/hash_chain.2024-03.jsonl" in replaced and "later.json" in replaced
    told = restore.pending(home)
    assert told is not None and (told["phase"], told["backup"]) == (restore.RECONCILE, found.folder.name)
    restore.refuse_unfinished(home)
    restore.agreed(home)
    assert restore.pending(home) is None


def test_settings_come_back_when_asked_for_and_the_old_ones_are_kept(home: Home) -> None:
    found = made(home)
    go_on(home)
    kept = put_back(found.folder, home, with_settings=True)
    assert (home.root / SETTINGS).read_text().endswith("3\n")
    assert (kept / "settings" / SETTINGS).read_text().endswith("9\n")


def test_a_restore_into_an_empty_home_brings_everything_the_venue_too(home: Home, tmp_path: Path) -> None:
    found = made(home)
    other = Home(tmp_path / "new machine")
    put_back(found.folder, other)
    assert state_of(other) == state_of(home)
    copy = sqlite3.connect(other.state / "venue.sqlite")
    assert copy.execute("select x from t").fetchall() == [(42,)]
    copy.close()


@pytest.mark.parametrize("damage", ["a record gone", "the head gone", "a month gone", "all of it gone"])
def test_a_damaged_journal_is_what_a_backup_is_for(home: Home, damage: str) -> None:
    before = state_of(home)
    found = made(home)
    if damage == "a record gone":
        lines = home.journal.read_bytes().splitlines(keepends=True)
        home.journal.write_bytes(b"".join(lines[:1] + lines[2:]))
    elif damage == "the head gone":
        (home.state / "hash_chain.head").unlink()
    elif damage == "a month gone":
        (home.state / "journal" / "hash_chain.2024-01.jsonl").unlink()
    else:
        shutil.rmtree(home.state)
    put_back(found.folder, home)
    assert state_of(home) == before and verify(home.journal).ok


def test_a_broker_is_never_set_back(home: Home) -> None:
    found = made(home)
    database = sqlite3.connect(home.state / "venue.sqlite")
    database.execute("insert into t values (99)")
    database.commit()
    database.close()
    put_back(found.folder, home)
    database = sqlite3.connect(home.state / "venue.sqlite")
    assert database.execute("select count(*) from t").fetchall() == [(2,)]
    database.close()


@pytest.mark.parametrize("spent_before", [0, 100])
def test_what_was_spent_on_the_language_model_is_never_set_back(home: Home, tmp_path: Path, spent_before: int) -> None:
    if spent_before:
        llm_spend(home, spent_before)
    found = made(home)
    spent = llm_spend(home, 500)
    put_back(found.folder, home)
    assert llm_spend(home, 0) == spent == spent_before + 500
    other = Home(tmp_path / "another machine")
    put_back(found.folder, other)
    assert llm_spend(other, 0) == spent_before, "what is not there is put back"


def llm_spend(home: Home, tokens: int) -> int:
    """So many tokens more; what is used then."""
    budget = TokenBudget(home, Settings().cognitive.llm_analyzer, SteppedClock(NOW))
    budget.reserve(Amount(tokens), model="m", purpose="advice", request_sha256="r")
    return budget.used_today


def test_another_accounts_backup_is_refused(home: Home, tmp_path: Path) -> None:
    found = made(home)
    other = Home(tmp_path / "other")
    journal, _ = journal_at(other.root)
    journal.append("account_bound", {**ACCOUNT, "id": "acc-2", "number": "PA0009999"})
    before = state_of(other)
    with pytest.raises(ConfigError) as caught:
        put_back(found.folder, other)
    assert caught.value.code == "BACKUP_OF_ANOTHER_ACCOUNT" and "9999" in str(caught.value)
    assert state_of(other) == before


@pytest.mark.parametrize(("known", "refused"), [(1, False), (0, True)])
def test_P52_a_document_of_a_newer_version_is_refused(home: Home, known: int, refused: bool) -> None:
    found = made(home)
    if refused:
        with pytest.raises(StateCorrupt) as caught:
            put_back(found.folder, home, versions={"positions.json": known})
        assert caught.value.code == "STATE_NEWER"
    else:
        put_back(found.folder, home, versions={"positions.json": known})


@pytest.mark.parametrize("lock", ["runner", "operator", "emergency", "desk", "alerting"])
def test_nobody_else_may_work_on_the_home_meanwhile(home: Home, lock: str) -> None:
    from filelock import FileLock

    found, before = made(home), state_of(home)
    holder = FileLock(str(home.state / f"{lock}.lock"))
    with holder, pytest.raises(AlreadyRunning):
        put_back(found.folder, home)
    assert state_of(home) == before


# ---------------------------------------------------------------- old ones
def several(home: Home, count: int, out: Path | None = None) -> list[Path]:
    """One a day, oldest first."""
    settings = {SETTINGS: home.root / SETTINGS}
    there = out or home.root / "backups"
    return [
        make(home, settings, there, SteppedClock(NOW + timedelta(days=n)), code_sha256="c" * 64).folder
        for n in range(count)
    ]


def spoil(folder: Path) -> None:
    (folder / SETTINGS_FOLDER / SETTINGS).write_text("other: 1\n")


@pytest.mark.parametrize(("keep", "removed"), [(1, 3), (3, 1), (4, 0), (5, 0)])
def test_the_newest_n_are_kept(home: Home, keep: int, removed: int) -> None:
    folders = several(home, 4)
    found = backup_pruning.plan(home.root / "backups", keep)
    assert list(found.remove) == folders[:removed] and list(found.kept) == folders[removed:][::-1]
    assert found.sound == (folders[-1],)
    assert sorted((home.root / "backups").iterdir()) == folders, "a plan changes nothing"
    backup_pruning.prune(found)
    assert sorted((home.root / "backups").iterdir()) == folders[removed:]


def test_the_newest_that_is_proved_is_never_removed(home: Home) -> None:
    folders = several(home, 5)
    for folder in folders[2:]:
        spoil(folder)
    found = backup_pruning.plan(home.root / "backups", 2)
    assert found.sound == (folders[1],) and list(found.remove) == [folders[0], folders[2]]
    for folder in folders[:2]:
        spoil(folder)
    found = backup_pruning.plan(home.root / "backups", 2)
    assert found.remove == () and found.sound == ()
    assert found.left == dict.fromkeys(folders[:3], "BACKUP_NONE_SOUND"), "with none that is sound, none goes"


def test_each_account_keeps_its_own_and_what_is_no_backup_stays(home: Home, tmp_path: Path) -> None:
    out, other = tmp_path / "out", Home(tmp_path / "another")
    journal, _ = journal_at(other.root)
    journal.append("account_bound", {**ACCOUNT, "id": "acc-2", "mode": "live"})
    (other.root / SETTINGS).write_text("x: 1\n")
    live = several(other, 1, out)
    paper = several(home, 3, out)
    (out / "kobe-notes").mkdir()
    (out / "kobe-20200101T000000Z").mkdir()
    newer = out / "kobe-20200102T000000Z"
    shutil.copytree(paper[0], newer)
    (newer / "manifest.json").write_text(
        json.dumps({**json.loads((newer / "manifest.json").read_bytes()), "format": 2})
    )
    found = backup_pruning.plan(out, 1)
    assert set(found.remove) == set(paper[:2]) and {live[0], paper[2]} == set(found.kept)
    assert {p.name: why for p, why in found.left.items()} == {
        "kobe-20200101T000000Z": "BACKUP_INCOMPLETE", newer.name: "BACKUP_NEWER"
    }  # fmt: skip
    backup_pruning.prune(found)
    assert (out / "kobe-notes").is_dir() and newer.is_dir() and live[0].is_dir()


def test_what_is_removed_halfway_carries_no_backups_name(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = several(home, 2)
    found = backup_pruning.plan(home.root / "backups", 1)

    def refuses(path: Path) -> None:
        raise PermissionError(13, "no")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuses)
        with pytest.raises(ConfigError) as caught:
            backup_pruning.prune(found)
    assert caught.value.code == "BACKUP_UNWRITABLE"
    assert [p.name for p in sorted((home.root / "backups").glob("kobe-*"))] == [folders[1].name]


@pytest.mark.parametrize("effect", range(1, 9))
def test_P53_a_restore_killed_anywhere_is_unfinished_for_all_to_see_and_can_be_made_again(
    home: Home, monkeypatch: pytest.MonkeyPatch, effect: int
) -> None:
    """Before the n-th replacement of a file that lies in state/: nothing has changed, or nothing starts."""
    before = state_of(home)
    found = made(home)
    go_on(home)
    later, real, count = state_of(home), restore.write_atomic, {"n": 0}

    class Killed(BaseException):
        pass

    def write(path: Path, content: bytes, **more: bool) -> None:
        if "archive" not in path.parts:
            count["n"] += 1
            if count["n"] == effect:
                raise Killed
        real(path, content, **more)

    with monkeypatch.context() as patch:
        patch.setattr(restore, "write_atomic", write)
        try:
            put_back(found.folder, home)
        except Killed:
            pass
        else:
            assert count["n"] < effect, "it came to its end"
            return
    if effect == 1:
        assert state_of(home) == later and restore.pending(home) is None
    else:
        with pytest.raises(StateCorrupt) as caught:
            restore.refuse_unfinished(home)
        assert caught.value.code == "RESTORE_UNFINISHED"
    if effect in (3, 4):  # a head is replaced, its journal not yet
        assert not verify(home.journal).ok, "and whoever does not ask for the mark finds a journal that is not sound"
    put_back(found.folder, home)
    assert state_of(home) == before and verify(home.journal).ok
    restore.refuse_unfinished(home)
