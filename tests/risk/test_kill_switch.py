from __future__ import annotations

import os
from pathlib import Path

import pytest

from risk.kill_switch import KillSwitch


def test_a_missing_file_in_a_present_folder_is_inactive(tmp_path: Path) -> None:
    (tmp_path / "hash_chain.jsonl").write_text("")
    assert not KillSwitch(tmp_path / "KILL_SWITCH").is_active()


@pytest.mark.parametrize("content", [b"", b"1", b"\xff\xfe1\x00\r\x00", b"0", b"false"])
def test_p40_any_content_is_active(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "KILL_SWITCH").write_bytes(content)
    assert KillSwitch(tmp_path / "KILL_SWITCH").is_active()


@pytest.mark.parametrize("name", ["kill_switch", "Kill_Switch", "KILL_SWITCH.txt"])
def test_p40_wrong_case_and_an_editors_suffix_are_active(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("1")
    assert KillSwitch(tmp_path / "KILL_SWITCH").is_active()


def test_p40_a_folder_is_active(tmp_path: Path) -> None:
    (tmp_path / "KILL_SWITCH").mkdir()
    assert KillSwitch(tmp_path / "KILL_SWITCH").is_active()


def test_p27_a_dangling_symlink_is_active(tmp_path: Path) -> None:
    (tmp_path / "KILL_SWITCH").symlink_to(tmp_path / "nowhere")
    assert KillSwitch(tmp_path / "KILL_SWITCH").is_active()


def test_p42_a_missing_parent_is_active(tmp_path: Path) -> None:
    assert KillSwitch(tmp_path / "state" / "KILL_SWITCH").is_active()


def test_a_parent_that_is_a_file_is_active(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    assert KillSwitch(tmp_path / "state" / "KILL_SWITCH").is_active()


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
