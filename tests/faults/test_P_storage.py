"""Folders that are not what they seem, documents that are not what was written, names that are no file names."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import bars_io, cli, files, host, logs
from core.clock import SteppedClock
from core.domain import Mode, canonical_symbol
from core.errors import Exit, StateCorrupt
from core.files import write_atomic
from core.host import Mount
from core.journal import Journal
from core.paths import Home
from data.store import BarStore, file_name, symbol_of
from data.universe import load_universe
from execution.noted import NOTE_FILE, behind, note, read_note
from portfolio import state_manager
from portfolio.state_manager import DOCUMENTS, StateManager
from scripts import ground, reconcile_alpaca, runner, scan
from scripts.trading import Finding
from tests.fakes.bar_files import small_market
from tests.fakes.grounds import a_context
from tests.fakes.trading import AAA, NOW, book, entry, sell, world
from tests.portfolio.market import columns, rising, weekdays

ROOT = Path(__file__).resolve().parents[2]
UNIVERSE = load_universe(ROOT / "data" / "universe" / "optionable_liquid_800.csv", default=False).symbols


def named(findings: list[Finding], name: str) -> Finding:
    (found,) = [f for f in findings if f.name == name]
    return found


def checks(root: Path, mode: Mode) -> list[Finding]:
    return ground.checks(a_context(root, mode=mode), allow_dirty=False)


# ---------------------------------------------------------------- folders of others
LOCAL = (Mount("/", "ext4"), Mount("/mnt/data", "xfs"))


@pytest.mark.parametrize(
    ("folder", "kind", "shared"),
    [
        ("/mnt/nas", "nfs4", True), ("/mnt/nas", "cifs", True), ("/mnt/nas", "smb3", True), ("/mnt/c", "9p", True),
        ("/mnt/drive", "fuse.rclone", True), ("/mnt/drive", "fuse.sshfs", True), ("/Volumes/share", "smbfs", True),
        ("/mnt/usb", "fuseblk", False), ("/mnt/disk", "btrfs", False), ("/mnt/disk", "apfs", False),
    ],
)  # fmt: skip
def test_P07_a_network_file_system_is_seen_by_its_mount(folder: str, kind: str, shared: bool) -> None:
    why = host.shared_folder(Path(folder) / "kobe" / "state", {}, (*LOCAL, Mount(folder, kind)))
    assert (why is not None) is shared
    if why is not None:
        assert kind in why and folder in why


def test_P07_the_innermost_mount_decides_and_an_unknown_one_is_no_local_one() -> None:
    nas, disk = Mount("/data", "nfs"), Mount("/data/local", "ext4")
    assert host.shared_folder(Path("/data/local/state"), {}, (*LOCAL, nas, disk)) is None
    assert host.shared_folder(Path("/data/localised/state"), {}, (*LOCAL, nas, disk)) is not None
    assert host.shared_folder(Path("/data/state"), {}, (Mount("/data", "ext4"), nas)) is not None, "mounted over"
    assert host.shared_folder(Path("/data/state"), {}, None) is not None, "not known is not local"


SYNCED = (
    "OneDrive", "OneDrive - Contoso", "Dropbox", "Dropbox (Personal)", "Google Drive", "GoogleDrive-me@x.org",
    "iCloudDrive", "Library/Mobile Documents/com~apple~CloudDocs", "Library/CloudStorage/Box-Box", "Nextcloud",
)  # fmt: skip


@pytest.mark.parametrize("folder", SYNCED)
def test_P07_a_sync_folder_is_seen_by_its_name(tmp_path: Path, folder: str) -> None:
    state = tmp_path / folder / "kobe" / "state"
    state.mkdir(parents=True)
    assert "sync program" in (host.shared_folder(state, {}, LOCAL) or "")


@pytest.mark.parametrize("mark", [".dropbox", ".stfolder", ".sync"])
def test_P07_a_sync_folder_of_any_name_is_seen_by_its_marker_or_its_variable(tmp_path: Path, mark: str) -> None:
    state = tmp_path / "mine" / "kobe" / "state"
    state.mkdir(parents=True)
    assert host.shared_folder(state, {}, LOCAL) is None
    assert host.shared_folder(state, {"OneDriveCommercial": str(tmp_path / "mine")}, LOCAL) is not None
    (tmp_path / "mine" / mark).mkdir()
    assert host.shared_folder(state, {}, LOCAL) is not None


@pytest.mark.parametrize("folder", ["onedriver", "my dropbox notes", "box", "drive", "sync"])
def test_P07_an_ordinary_name_is_no_sync_folder(tmp_path: Path, folder: str) -> None:
    assert host.shared_folder(tmp_path / folder / "state", {}, LOCAL) is None


def test_P07_live_refuses_and_paper_warns(tmp_path: Path) -> None:
    root = tmp_path / "Dropbox" / "kobe"
    live, paper = (named(checks(root, mode), "local_disk") for mode in (Mode.LIVE, Mode.PAPER))
    assert live.problem is not None and live.problem.code == "STATE_NOT_LOCAL" and "KOBE_HOME" in live.problem.advice
    assert paper.problem is None and paper.warning == "STATE_NOT_LOCAL"
    assert logs.counters()[("start_warnings", (("code", "STATE_NOT_LOCAL"),))] >= 1
    assert host.parse_mountinfo("36 35 98:0 / /mnt/a\\040b rw,noatime master:1 - nfs4 nas:/x rw") == [
        Mount("/mnt/a b", "nfs4")
    ]
    assert host.parse_mount_command("//me@nas/s on /Volumes/My share (smbfs, nodev)\nmap on /home (autofs)") == [
        Mount("/Volumes/My share", "smbfs"), Mount("/home", "autofs")
    ]  # fmt: skip


# ---------------------------------------------------------------- state documents
DAMAGED = (
    b"", b"{", b"null", b"[]", b"\0" * 300, b"\xff\xfe{\x00", b'{"schema_version": "1"}', b'{"schema_version": 1}',
    b'{"schema_version": 1, "positions": {"AAPL": {}}}',
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_P08_a_damaged_document_is_an_error_and_never_an_empty_one(tmp_path: Path, name: str, content: bytes) -> None:
    manager = StateManager(Home(tmp_path), SteppedClock(NOW))
    path = manager.path(name)
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StateCorrupt, match=path.name):
        manager.read(name)
    with pytest.raises(StateCorrupt):
        manager.update(name, lambda before: before)
    assert path.read_bytes() == content, "the evidence stays"


def test_P08_positions_are_rebuilt_from_the_journal_and_the_damaged_file_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`reconcile_alpaca.py --force-sync` on the embedded venue; before it, what needs the view refuses."""
    market, home = small_market(tmp_path / "market"), tmp_path / "home"
    monkeypatch.setenv("KOBE_HOME", str(home))
    replay = ["--mode", "paper", "--replay", "2024-03-05:2024-03-05", "--market", str(market)]
    assert cli.run(lambda: runner.main(replay)) == Exit.OK
    view = home / "state" / "positions.json"
    sound = json.loads(view.read_bytes())["positions"]
    assert sound, "the replay holds something"
    view.write_bytes(b"\0" * view.stat().st_size)
    capsys.readouterr()
    assert cli.run(lambda: reconcile_alpaca.main([])) == Exit.STATE_CORRUPT
    said = capsys.readouterr().err
    assert said.startswith("kobe: STATE_CORRUPT: positions.json") and "--force-sync" in said
    assert cli.run(lambda: reconcile_alpaca.main(["--force-sync"])) == Exit.OK
    assert json.loads(view.read_bytes())["positions"] == sound
    (kept,) = (home / "state").glob("positions.damaged-*")
    assert set(kept.read_bytes()) == {0}


# ---------------------------------------------------------------- folders that cannot be written
def no_room(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)


def test_P23_a_log_folder_that_cannot_be_written_stops_live_and_warns_paper(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    live, paper = (named(checks(tmp_path, mode), "logs") for mode in (Mode.LIVE, Mode.PAPER))
    assert live.problem is not None and live.problem.code == "LOGS_UNWRITABLE"
    assert paper.problem is None and paper.warning == "LOGS_UNWRITABLE"


def test_P23_on_paper_the_scan_trades_although_no_pick_can_be_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    market, home = small_market(tmp_path / "market"), tmp_path / "home"
    home.mkdir()
    (home / "logs").write_text("no folder")
    monkeypatch.setenv("KOBE_HOME", str(home))
    words = ["--mode", "paper", "--once", "--as-of", "2024-03-04", "--market", str(market), "--json"]
    assert cli.run(lambda: runner.main(words)) == Exit.OK
    answer = json.loads(capsys.readouterr().out)
    assert [i["verdict"] for i in answer["intents"]] == ["approved", "approved"] and answer["scan"]["picks"]
    assert (home / "logs").read_text() == "no folder"


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_P24_a_state_folder_that_cannot_be_written_refuses_in_every_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    no_room(monkeypatch, code)
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    assert cli.run(lambda: runner.main(["--mode", "paper", "--once"])) == Exit.CONFIG
    said = capsys.readouterr().err
    assert said.startswith("kobe: HOME_UNWRITABLE: ") and os.strerror(code) in said and said.count("\n") == 1
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.parametrize("argv", [["--mode", "paper", "--once"], ["--mode", "paper"]])
def test_P24_a_file_in_place_of_the_state_folder_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    (tmp_path / "state").write_text("not a folder")
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    assert cli.run(lambda: runner.main(argv)) == Exit.CONFIG
    assert capsys.readouterr().err.startswith("kobe: HOME_UNWRITABLE: ")


def test_P24_the_proof_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.unwritable(tmp_path / "new") is None and list((tmp_path / "new").iterdir()) == []
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    assert "I/O error" in str(host.unwritable(tmp_path / "new")) and list((tmp_path / "new").iterdir()) == []


# ---------------------------------------------------------------- names
@pytest.mark.parametrize("name", ["with space", "ünïcödé-日本", 'a\'b "c"', "x" * 120])
def test_P28_a_home_with_spaces_unicode_and_length_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if os.name == "nt" and '"' in name:
        pytest.skip("no file name there")
    place = tmp_path / name
    market = small_market(place / "märket bars")
    monkeypatch.setenv("KOBE_HOME", str(place / "home"))
    assert cli.run(lambda: scan.main(["--bars", str(market), "--as-of", "2024-03-04", "--json"])) == 0
    assert len(json.loads(capsys.readouterr().out)["picks"]) == 1
    assert (place / "home" / "logs" / "daily_picks.csv").is_file()


def test_P28_on_windows_a_home_too_deep_for_its_paths_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "d"
    longest = host.longest_path(root, ground.DEEPEST)
    assert longest == max(len(str(root / name)) for name in ground.DEEPEST)
    assert host.longest_path(tmp_path / "\U0001f4c8", ["x"]) == len(str(tmp_path)) + 5, "one sign, two units"
    for limit, refused in ((longest, False), (longest - 1, True)):
        found = ground.path_length(root, windows=True, most=limit)
        assert (found.problem is not None) is refused
        assert ground.path_length(root, windows=False, most=limit).problem is None
    assert found.problem is not None and found.problem.code == "PATH_TOO_LONG"


DEVICES = ("CON", "PRN", "AUX", "NUL", "COM1", "LPT9", "COM0", "CON.A", "PRN.WS")


@pytest.mark.parametrize("symbol", [*DEVICES, "CONN", "A", "BRK.B", "TRUE", "NA", "NULL"])
def test_P29_a_ticker_that_is_a_device_on_windows_has_another_file_name_and_comes_back(
    tmp_path: Path, symbol: str
) -> None:
    name = file_name(symbol)
    assert name.split(".")[0].upper() not in {d.split(".")[0] for d in DEVICES}
    assert symbol_of(name) == symbol
    days = weekdays(5)
    store = BarStore(tmp_path, "x")
    store.append(symbol, columns(rising(5), days))
    assert store.symbols() == (symbol,) and len(store.bars(symbol)) == 5
    assert list(bars_io.read_bars(tmp_path / "x")) == [symbol], "and as --bars"


@given(st.sets(st.from_regex(r"[A-Z][A-Z0-9]{0,9}(\.[A-Z0-9]{1,4})?", fullmatch=True), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_P29_no_two_tickers_share_a_file_on_a_file_system_that_ignores_case(symbols: set[str]) -> None:
    names = {file_name(s).casefold() for s in symbols}
    assert len(names) == len(symbols) and {symbol_of(file_name(s)) for s in symbols} == symbols


def test_P29_the_whole_universe_round_trips() -> None:
    assert [symbol_of(file_name(s)) for s in UNIVERSE] == list(UNIVERSE)
    assert all(canonical_symbol(s) == s for s in UNIVERSE)


class Held:
    """A scanner that holds the target for the first `times` renames."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.left, self.slept = times, list[float]()
        real = Path.replace

        def rename(source: Path, target: Path) -> Path:
            if self.left > 0:
                self.left -= 1
                raise PermissionError(errno.EACCES, "being used by another process", str(target))
            return real(source, target)

        monkeypatch.setattr(Path, "replace", rename)
        monkeypatch.setattr("core.clock.SystemClock.sleep", lambda clock, seconds: self.slept.append(seconds))


@pytest.mark.parametrize(("times", "written"), [(0, True), (1, True), (4, True), (5, False), (1000, False)])
def test_P30_a_file_that_a_scanner_holds_is_tried_again_for_a_moment_and_then_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, written: bool
) -> None:
    target = tmp_path / "positions.json"
    write_atomic(target, b"old")
    monkeypatch.setattr(files, "_FILES_ARE_HELD", True)
    held = Held(monkeypatch, times)
    if written:
        write_atomic(target, b"new")
    else:
        with pytest.raises(PermissionError):
            write_atomic(target, b"new")
    assert target.read_bytes() == (b"new" if written else b"old")
    assert sum(held.slept) <= 1.0 and [p.name for p in tmp_path.iterdir()] == ["positions.json"]


def test_P30_where_nobody_holds_files_a_refused_rename_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_FILES_ARE_HELD", False)
    held = Held(monkeypatch, 1)
    with pytest.raises(PermissionError):
        write_atomic(tmp_path / "x", b"new")
    assert held.slept == [] and list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- versions
@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_P52_a_document_of_a_newer_version_is_refused_in_one_line_and_left_alone(tmp_path: Path, name: str) -> None:
    manager = StateManager(Home(tmp_path), SteppedClock(NOW))
    path = manager.path(name)
    path.parent.mkdir()
    newer = json.dumps({**DOCUMENTS[name].empty(), "schema_version": DOCUMENTS[name].version + 1, "more": 1}).encode()
    path.write_bytes(newer)
    for act in (lambda: manager.read(name), lambda: manager.update(name, lambda before: before)):
        with pytest.raises(StateCorrupt) as caught:
            act()
        assert caught.value.code == "STATE_NEWER" and "\n" not in str(caught.value)
    assert path.read_bytes() == newer and [p.name for p in path.parent.iterdir() if p.suffix == ".json"] == [path.name]


@pytest.fixture
def second_version(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """weekly_budget of a later program: version 2 counts cents."""

    def check(document: dict[str, Any]) -> None:
        if not isinstance(document.get("spent_cents"), int):
            raise ValueError("spent_cents must be a whole number")

    def upgrade(old: dict[str, Any]) -> dict[str, Any]:
        return {"week": old["week"], "spent_cents": int(Decimal(old["spent_usd"]) * 100)}

    schema = replace(
        DOCUMENTS["weekly_budget"], version=2, check=check, upgrades={1: upgrade},
        empty=lambda: {"schema_version": 2, "week": None, "spent_cents": 0},
    )  # fmt: skip
    return lambda: monkeypatch.setattr(state_manager, "DOCUMENTS", {**DOCUMENTS, "weekly_budget": schema})


@pytest.mark.parametrize("crash_at", range(6))
def test_P53_a_migration_killed_anywhere_is_made_again_and_the_older_document_is_kept(
    tmp_path: Path, second_version: Callable[[], None], monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    manager = StateManager(Home(tmp_path), SteppedClock(NOW))
    manager.update("weekly_budget", lambda old: {**old, "week": "2024-W10", "spent_usd": "12.34"})
    old = manager.path("weekly_budget").read_bytes()
    second_version()
    assert manager.read("weekly_budget")["spent_cents"] == 1234, "reading alone rewrites nothing"
    assert manager.path("weekly_budget").read_bytes() == old

    class Killed(BaseException):
        pass

    effects = [0]

    def dies(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any) -> Any:
            effects[0] += 1
            if effects[0] == crash_at:
                raise Killed
            return real(*args)

        return act

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dies(os.fsync))
        patch.setattr(Path, "replace", dies(Path.replace))
        try:
            manager.update("weekly_budget", lambda before: {**before, "spent_cents": before["spent_cents"] + 1})
            spent = 1235
        except Killed:
            spent = manager.read("weekly_budget")["spent_cents"]
    assert spent in (1234, 1235)
    again = manager.update("weekly_budget", lambda before: before)
    assert again["spent_cents"] == spent
    assert (tmp_path / "state" / "weekly_budget.v1.json").read_bytes() == old


def test_P53_an_older_document_that_cannot_be_upgraded_is_damaged_and_stays(
    tmp_path: Path, second_version: Callable[[], None]
) -> None:
    manager = StateManager(Home(tmp_path), SteppedClock(NOW))
    second_version()
    path = manager.path("weekly_budget")
    path.parent.mkdir()
    path.write_bytes(b'{"schema_version": 1, "week": "2024-W10"}')
    with pytest.raises(StateCorrupt):
        manager.update("weekly_budget", lambda before: before)
    assert path.read_bytes() == b'{"schema_version": 1, "week": "2024-W10"}'


# ---------------------------------------------------------------- an old backup put back
@dataclass
class Desk:
    """One home on the small market; each call is a process of its own as far as the disk is concerned."""

    home: Path
    market: Path
    capsys: pytest.CaptureFixture[str]

    def once(self, as_of: str) -> tuple[int, str, list[dict[str, Any]]]:
        words = ["--mode", "paper", "--once", "--as-of", as_of, "--market", str(self.market), "--json"]
        code = cli.run(lambda: runner.main(words))
        said = self.capsys.readouterr()
        return code, said.err, json.loads(said.out)["intents"] if said.out else []

    def journal(self) -> Journal:
        return Journal(Home(self.home).journal, SteppedClock(NOW))

    def put_back(self, backup: Path, *, with_broker: bool) -> None:
        """The embedded broker's account lies in the same folder; a real broker is not restored with us."""
        for file in (self.home / "state").iterdir():
            if file.is_file() and (with_broker or not file.name.startswith("venue.sqlite")):
                file.unlink()
        for file in backup.iterdir():
            if with_broker or not file.name.startswith("venue.sqlite"):
                shutil.copy2(file, self.home / "state" / file.name)


@pytest.fixture
def traded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[Desk, Path]:
    """A home that has bought, and the backup of its state from before that."""
    desk = Desk(tmp_path / "home", small_market(tmp_path / "market"), capsys)
    monkeypatch.setenv("KOBE_HOME", str(desk.home))
    assert desk.once("2024-03-01T15:00:00Z")[0] == Exit.OK
    backup = tmp_path / "backup"
    shutil.copytree(desk.home / "state", backup)
    code, _, intents = desk.once("2024-03-05T14:35:00Z")
    assert code == Exit.OK and [i["verdict"] for i in intents] == ["approved", "approved"]
    return desk, backup


def test_P32_an_old_backup_of_ours_beside_a_broker_that_went_on_does_not_start(traded: tuple[Desk, Path]) -> None:
    desk, backup = traded
    desk.put_back(backup, with_broker=False)
    code, said, intents = desk.once("2024-03-05T15:30:00Z")
    assert (code, intents) == (Exit.STATE_CORRUPT, [])
    assert said.startswith("kobe: STATE_RESTORED: the journal ends at record ") and "reconcile_alpaca.py" in said
    assert not list(desk.journal().kinds("order_intended")), "nothing was sent, not even an exit"


def test_P32_an_old_backup_trades_again_once_journal_and_broker_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also today's executions must be known: else today's budget would not be."""
    monkeypatch.setattr("scripts.wiring.action_feed", lambda context: None)
    made, context = world(tmp_path), a_context(tmp_path)
    made.journal.append("account_bound", {"id": "a", "number": "PA123456", "mode": "paper"})
    backup = shutil.copytree(tmp_path / "state", tmp_path / "backup")
    made.desk.execute(entry(), book())
    made.desk.execute(sell(price="49.90"), book(positions={AAA: 1}))
    note(context.home.logs / NOTE_FILE, context.home.journal)
    assert ground.restored(context, made.desk).problem is None
    shutil.rmtree(tmp_path / "state")
    shutil.copytree(backup, tmp_path / "state")
    desk = made.restart()
    for _ in range(2):
        found = ground.restored(context, desk)
        assert found.problem is not None and found.problem.code == "STATE_RESTORED" and "FOREIGN_FILL" in found.found
    made.clock.set(NOW + timedelta(days=1))
    context.clock = made.clock
    made.broker.held[AAA] = 1
    found = ground.restored(context, desk)
    assert found.problem is not None and "UNKNOWN_POSITION" in found.found
    made.broker.held[AAA] = 0
    found = ground.restored(context, desk)
    assert found.problem is None and found.warning == "STATE_RESTORED"
    assert len(list(desk.journal.kinds("restore_accepted"))) == 1
    assert ground.restored(context, desk).warning == "", "accepted once"


def test_P32_a_backup_put_back_together_with_its_broker_is_in_step_and_told(traded: tuple[Desk, Path]) -> None:
    desk, backup = traded
    desk.put_back(backup, with_broker=True)
    code, said, _ = desk.once("2024-03-05T15:30:00Z")
    assert code == Exit.OK, said
    assert [r.body["noted_seq"] > r.seq for r in desk.journal().kinds("restore_accepted")] == [True]
    assert '"code":"STATE_RESTORED"' in (desk.home / "logs" / "errors.jsonl").read_text()


def test_P32_the_note_never_goes_back_and_names_what_is_missing(tmp_path: Path) -> None:
    file, clock = tmp_path / "logs" / "noted.json", SteppedClock(NOW)
    journal = Journal(tmp_path / "chain.jsonl", clock)
    assert behind(read_note(file), journal.records()) is None
    for n in range(5):
        journal.append("x", {"n": n})
    note(file, journal.path)
    assert behind(read_note(file), journal.records()) is None
    other = Journal(tmp_path / "other.jsonl", clock)
    for n in range(3):
        other.append("x", {"n": n})
    note(file, other.path)
    found = behind(read_note(file), other.records())
    assert found is not None and (found.noted.seq, found.last) == (5, 3)
    for n in (7, 8, 9):
        other.append("x", {"n": n})
    forked = behind(read_note(file), other.records())
    assert forked is not None and "record 5" in str(forked), "as long again, and another history"
    for damaged in (b"", b"{", b"[]", b'{"seq": "5", "hash": 1}'):
        file.write_bytes(damaged)
        assert read_note(file) is None
