"""Both sides of every form of the switch, and what it takes to trade again after one was seen (P41)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from risk.kill_switch import HaltHistory, KillSwitch, LatchedHalt


def test_a_missing_file_in_a_present_folder_is_inactive(tmp_path: Path) -> None:
    for name in ("hash_chain.jsonl", "KILL_SWITCH_2", "NO_KILL_SWITCH", "KILL_SWITCH.lock", "KILL SWITCH"):
        (tmp_path / name).write_text("")
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "KILL_SWITCH").write_text("")  # below the folder, not in it
    switch = KillSwitch(tmp_path / "KILL_SWITCH")
    assert not switch.is_active() and switch.found() is None


@pytest.mark.parametrize("content", [b"", b"1", b"\xff\xfe1\x00\r\x00", b"0", b"false"])
def test_p40_any_content_is_active(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "KILL_SWITCH").write_bytes(content)
    assert KillSwitch(tmp_path / "KILL_SWITCH").is_active()


@pytest.mark.parametrize("name", ["kill_switch", "Kill_Switch", "KILL_SWITCH.txt", "kill_switch.TXT", "KILL_SWITCH "])
def test_p40_wrong_case_and_an_editors_suffix_are_active_and_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("1")
    found = KillSwitch(tmp_path / "KILL_SWITCH").found()
    assert found is not None and name.strip() in found


def test_p42_a_parent_that_is_a_file_is_active(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    assert KillSwitch(tmp_path / "state" / "KILL_SWITCH").is_active()


def test_p42_a_parent_that_is_a_dangling_link_or_a_loop_is_active(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    (tmp_path / "loop").symlink_to(tmp_path / "loop", target_is_directory=True)
    assert KillSwitch(tmp_path / "gone" / "KILL_SWITCH").is_active()
    assert KillSwitch(tmp_path / "loop" / "KILL_SWITCH").is_active()


@pytest.mark.parametrize("failing", ["lstat", "listdir"])
def test_p40_a_look_that_the_system_refuses_is_active(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """As root no folder is unreadable, so the refusal is made here."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, failing, refuse)
    found = KillSwitch(tmp_path / "KILL_SWITCH").found()
    assert found is not None and "Permission denied" in found


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_p40_an_unreadable_folder_is_active(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0)
    try:
        assert KillSwitch(folder / "KILL_SWITCH").is_active()
    finally:
        folder.chmod(0o700)


def test_it_is_read_again_at_every_question(tmp_path: Path) -> None:
    switch = KillSwitch(tmp_path / "KILL_SWITCH")
    assert not switch.is_active()
    switch.path.touch()
    assert switch.is_active()
    switch.path.unlink()
    assert not switch.is_active()


@pytest.mark.parametrize("name", ["stateKILL_SWITCH", "state\\KILL_SWITCH"])
def test_o10_the_windows_line_typed_into_a_unix_shell_is_active_and_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    switch = KillSwitch(folder / "KILL_SWITCH")
    assert switch.found() is None
    try:
        (tmp_path / name).write_text("1")
    except OSError:
        pytest.skip("no such name on this system")
    if (folder / "KILL_SWITCH").exists():
        pytest.skip("here it is a path, and lands where it should")
    found = switch.found()
    assert found is not None and name in found and "typed for another system" in found
    (tmp_path / name).unlink()
    assert switch.found() is None


# ---------------------------------------------------------------- the latch
class Passes:
    def __init__(self) -> None:
        self.newest: int | None = 0

    def __call__(self) -> int | None:
        return self.newest


def latched(tmp_path: Path, passes: Passes | None = None) -> tuple[LatchedHalt, Path, Passes]:
    told = passes or Passes()
    path = tmp_path / "KILL_SWITCH"
    return LatchedHalt(KillSwitch(path), told), path, told


def recorded() -> list[int]:
    return []


def test_p41_a_pass_after_the_removal_releases_and_is_recorded_first(tmp_path: Path) -> None:
    halt, path, passes = latched(tmp_path)
    assert not halt.is_present() and halt.found() is None
    path.touch()
    assert halt.is_active() and halt.is_present()
    assert halt.found() == f"{path} exists"
    path.unlink()
    assert not halt.is_present()
    assert halt.is_active() and "no preflight has passed since" in str(halt.found())
    passes.newest = 7
    seen: list[tuple[int, bool]] = []
    assert halt.release(lambda number: seen.append((number, halt.is_active())))
    assert seen == [(7, True)], "it was still halted while the resume was being recorded"
    assert not halt.is_active() and halt.found() is None


def test_p41_a_pass_while_the_file_was_there_or_before_it_does_not_release(tmp_path: Path) -> None:
    halt, path, passes = latched(tmp_path)
    passes.newest = 3
    path.touch()
    assert halt.is_active()
    passes.newest = 5  # recorded, and the file looked at once more after it
    assert halt.is_active()
    path.unlink()
    done = recorded()
    assert halt.release(done.append) is False and halt.is_active() and done == []
    passes.newest = 6
    assert halt.release(done.append) and done == [6]


def test_p41_a_file_that_comes_back_while_the_resume_is_recorded_keeps_the_halt(tmp_path: Path) -> None:
    halt, path, passes = latched(tmp_path)
    path.touch()
    halt.is_active()
    path.unlink()
    passes.newest = 2
    assert halt.release(lambda _: path.touch()) is False
    assert halt.is_active()
    path.unlink()
    assert halt.is_active() and not halt.release(recorded().append), "the old pass counts no more"


def test_p41_a_record_that_cannot_be_written_keeps_the_halt(tmp_path: Path) -> None:
    halt, path, passes = latched(tmp_path)
    path.touch()
    halt.is_active()
    path.unlink()
    passes.newest = 2

    def refuse(_: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        halt.release(refuse)
    assert halt.is_active()


def test_p41_what_cannot_be_compared_does_not_release(tmp_path: Path) -> None:
    halt, path, passes = latched(tmp_path)
    passes.newest = None  # the journal cannot be read while the file is there
    path.touch()
    halt.is_active()
    path.unlink()
    passes.newest = 9
    assert halt.release(recorded().append) is False and halt.is_active()
    assert not halt.release(recorded().append)
    passes.newest = 10
    assert halt.release(recorded().append)


def test_p41_a_journal_that_cannot_be_read_at_the_release_keeps_the_halt(tmp_path: Path) -> None:
    halt, path, passes = latched(tmp_path)
    passes.newest = 3
    path.touch()
    halt.is_active()
    path.unlink()
    passes.newest = None
    done = recorded()
    assert halt.release(done.append) is False and halt.is_active()
    passes.newest = 9
    assert halt.release(done.append) is False, "what was passed meanwhile is not known"
    passes.newest = 10
    assert halt.release(done.append) and done == [10]


def test_p41_while_the_file_is_there_no_resume_is_even_recorded(tmp_path: Path) -> None:
    """Not even for a pass that another process writes between two of our looks."""
    halt, path, passes = latched(tmp_path)

    def ever_newer() -> int:
        passes.newest = (passes.newest or 0) + 1
        return passes.newest

    halt._passes = ever_newer
    path.touch()
    done = recorded()
    assert halt.release(done.append) is False and done == [] and halt.is_active()


def test_a_halt_that_nothing_can_release_and_one_that_was_never_active(tmp_path: Path) -> None:
    halt = LatchedHalt(KillSwitch(tmp_path / "KILL_SWITCH"))
    assert not halt.is_active() and halt.release(recorded().append) is False
    (tmp_path / "KILL_SWITCH").touch()
    assert halt.is_active()
    (tmp_path / "KILL_SWITCH").unlink()
    assert halt.is_active() and not halt.release(recorded().append)


@given(st.lists(st.sampled_from(["touch", "unlink", "pass", "look", "release"]), max_size=40))
@settings(max_examples=200, deadline=None)
def test_p41_property_only_a_pass_after_the_last_removal_lets_go(
    tmp_path_factory: pytest.TempPathFactory, acts: list[str]
) -> None:
    """Against a plain model: halted from the first look that saw the file, free after a release that had a newer pass
    than the last look that saw it."""
    folder = tmp_path_factory.mktemp("latch")
    halt, path, passes = latched(folder)
    newest, latch, barrier = 0, False, 0
    for act in acts:
        if act == "touch":
            path.touch()
        elif act == "unlink":
            path.unlink(missing_ok=True)
        elif act == "pass" and not path.exists():  # preflight writes none while the file is there
            newest += 1
            passes.newest = newest
        elif act == "look":
            if path.exists():
                latch, barrier = True, newest
            assert halt.is_active() is latch
        elif act == "release":
            if path.exists():
                latch, barrier = True, newest
            free = latch and not path.exists() and newest > barrier
            assert halt.release(lambda _: None) is free
            latch = latch and not free
    assert halt.is_active() is (latch or path.exists())


# ---------------------------------------------------------------- what the journal says
def test_a_voided_pass_counts_as_if_it_had_not_been(tmp_path: Path) -> None:
    history = HaltHistory()
    assert (history.newest_pass, history.halted_at) == (0, 0)
    history.add(1, "preflight_voided", {"pass": 0})  # of a journal without any
    assert history.newest_pass == 0
    history.add(2, "preflight_passed", {})
    history.add(2, "preflight_voided", {"pass": 2})
    assert history.newest_pass == 0
    history.add(3, "preflight_passed", {})
    history.add(8, "preflight_passed", {})
    assert history.newest_pass == 8
    history.add(8, "preflight_voided", {"pass": 3})  # not the newest
    assert history.newest_pass == 8
    history.add(9, "preflight_voided", {"pass": 8})
    assert history.newest_pass == 3
    history.add(10, "preflight_voided", {"pass": 4})  # of none that is the newest
    assert history.newest_pass == 3


def test_a_halt_stays_until_a_resume() -> None:
    history = HaltHistory()
    history.add(4, "trading_halted", {})
    history.add(5, "order_filled", {})
    history.add(6, "preflight_passed", {})
    assert (history.halted_at, history.newest_pass) == (4, 6)
    history.add(7, "trading_resumed", {"pass": 6})
    assert history.halted_at == 0
