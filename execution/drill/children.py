"""Real processes for the drills: started in milliseconds from one that has imported everything, or one by one.

The parent runs `scripts/drill_child.py` once and asks it for children, one JSON line each way; where the system can
fork, that process forks them, else (Windows) each is a Python of its own. A child is told what to do by its task, a
JSON object, and ends with an exit status; anything it has to say it writes into a file that the task names.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

Task = Mapping[str, Any]
Work = Callable[[Task], None]
_LIFE_S = 300  # a child that takes longer hangs, and is ended
_CAN_FORK = hasattr(os, "fork") and sys.platform != "win32"


class Children:
    """The parent's side. `start` gives a number to `wait` for; 0 is a good end, negative a signal."""

    def __init__(self, script: Path) -> None:
        self._script = script
        self._server: subprocess.Popen[str] | None = None
        self._alone: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Children:
        if _CAN_FORK:
            self._server = subprocess.Popen(
                [sys.executable, str(self._script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._alone.values():
            child.kill()
            child.wait()
        if self._server is not None:
            self._server.communicate()  # its input ends, and so does it
            self._server = None

    def start(self, task: Task) -> int:
        if self._server is not None:
            return int(self._ask({"start": task}))
        child = subprocess.Popen([sys.executable, str(self._script), "--task", json.dumps(task)])
        self._alone[child.pid] = child
        return child.pid

    def wait(self, number: int) -> int:
        if self._server is not None:
            return int(self._ask({"wait": number}))
        child = self._alone.pop(number)
        try:
            return child.wait(_LIFE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    def poll(self, number: int) -> int | None:
        """How it ended; None while it lives. An end is told once."""
        if self._server is not None:
            end = self._ask({"poll": number})
            return None if end is None else int(end)
        end = self._alone[number].poll()
        if end is not None:
            del self._alone[number]
        return end

    def run(self, task: Task) -> int:
        return self.wait(self.start(task))

    def _ask(self, question: Mapping[str, Any]) -> Any:
        server = self._server
        assert server is not None and server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(question) + "\n")
        server.stdin.flush()
        line = server.stdout.readline()
        if not line:
            raise AssertionError("the process that starts the drills' children is gone")
        return json.loads(line)


# ---------------------------------------------------------------- the child's side
def serve(work: Work, *, life_s: int = _LIFE_S) -> None:
    """Fork a child for each task until the parent's pipe ends."""
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            answer: int | None = _forked(question["start"], work, life_s)
        else:
            answer = _waited(question["wait"]) if "wait" in question else _waited(question["poll"], block=False)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _forked(task: Task, work: Work, life_s: int) -> int:
    if sys.platform == "win32":  # the parent starts a Python of its own for each task there
        raise AssertionError("this system cannot fork")
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(life_s)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)  # the pipes are the server's
    os.dup2(nothing, 1)
    status = 1
    try:
        finished(task, work)
        status = 0
    finally:
        os._exit(status)  # nothing of the server's own end happens in a child


def _waited(pid: int, *, block: bool = True) -> int | None:
    if sys.platform == "win32":
        raise AssertionError("this system cannot fork")
    ended, status = os.waitpid(pid, 0 if block else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def finished(task: Task, work: Work) -> None:
    """Do the work; a mistake is written beside the home, where the parent looks for it."""
    try:
        work(task)
    except BaseException:
        (Path(task["root"]) / "child-failed.txt").write_text(traceback.format_exc(), encoding="utf-8")
        raise
