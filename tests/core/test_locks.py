"""core.files.locked: one holder at a time, whoever takes it how, and nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from core import files
from core.errors import StateLocked
from core.files import locked

SPAWN = multiprocessing.get_context("spawn")


def test_a_lock_that_is_held_is_refused_by_name_and_free_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "state.json"
    with locked(path):
        with pytest.raises(StateLocked, match=r"state\.json"), locked(path, timeout_s=0.01):
            pytest.fail("two holders")
        with locked(tmp_path / "new folder" / "another.json"):
            pass
    with locked(path, timeout_s=0):
        pass


def test_it_is_given_back_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), locked(tmp_path / "x"):
        raise ValueError("inside")
    with locked(tmp_path / "x", timeout_s=0):
        pass


def test_threads_exclude_each_other_and_those_who_wait_get_their_turn(tmp_path: Path) -> None:
    inside, most, lock = [0], [0], threading.Lock()

    def work() -> None:
        for _ in range(20):
            with locked(tmp_path / "x"):
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                with lock:
                    inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] and inside == [0]


def test_it_is_the_same_lock_as_the_one_of_filelock(tmp_path: Path) -> None:
    name = str(tmp_path / "x.lock")
    with FileLock(name, timeout=0), pytest.raises(StateLocked), locked(tmp_path / "x", timeout_s=0):
        pytest.fail("two holders")
    with locked(tmp_path / "x"), pytest.raises(Timeout):
        FileLock(name, timeout=0).acquire()


def test_where_the_system_has_no_flock_filelock_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_acquire", files._acquire_portable)
    with locked(tmp_path / "x"), pytest.raises(StateLocked), locked(tmp_path / "x", timeout_s=0):
        pytest.fail("two holders")
    with locked(tmp_path / "x", timeout_s=0):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed there")
def test_a_lock_file_that_was_removed_does_not_let_a_second_holder_in(tmp_path: Path) -> None:
    """Somebody tidies up `*.lock` between our opening the file and locking it: what we then hold nobody else sees."""
    import fcntl

    real, removed = fcntl.flock, [False]

    def flock(handle: int, how: int) -> None:
        if not removed[0]:
            removed[0] = True
            (tmp_path / "x.lock").unlink()
        real(handle, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        with locked(tmp_path / "x"), pytest.raises(StateLocked), locked(tmp_path / "x", timeout_s=0):
            pytest.fail("two holders")


def _hold(path: str, ready: Any) -> None:
    with locked(Path(path)):
        ready.set()
        signal.pause() if hasattr(signal, "pause") else ready.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    ready = SPAWN.Event()
    holder = SPAWN.Process(target=_hold, args=(str(tmp_path / "x"), ready))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(StateLocked), locked(tmp_path / "x", timeout_s=0.05):
        pytest.fail("two holders")
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(30)
    with locked(tmp_path / "x", timeout_s=1):
        pass
