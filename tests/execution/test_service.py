"""Supervisor files against golden ones, byte for byte, and what each supervisor makes of them.

After a wanted change: python -c "from tests.execution.test_service import rewrite; rewrite()", and read what changed.
"""

from __future__ import annotations

import plistlib
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest

from core import cli, logs
from core.errors import Exit, UsageError
from execution import service
from execution.service import KINDS, NO_RESTART, Where, Written, files_of, merged_crontab
from execution.starts import CrashLoop
from scripts import service as script

GOLDEN = Path(__file__).parent / "golden" / "service"
POSIX = Where(
    PurePosixPath("/opt/kobe 100%/.venv/bin/python"), PurePosixPath("/opt/kobe 100%"),
    PurePosixPath("/srv/a b/kobe"), "paper", ("--cap", "50", "--scan-times", "09:35,10:30,15:55"),
)  # fmt: skip
WINDOWS = Where(
    PureWindowsPath(r"C:\Program Files\kobe\.venv\Scripts\python.exe"), PureWindowsPath(r"C:\Program Files\kobe"),
    PureWindowsPath(r"D:\Kobe & Co"), "paper", ("--cap", "50"),
)  # fmt: skip


def all_files() -> list[Written]:
    posix = [file for kind in ("systemd", "cron", "launchd") for file in files_of(kind, POSIX)]
    return [*posix, *files_of("task-scheduler", WINDOWS, user=r"DESK\anna")]


def rewrite() -> None:
    for file in all_files():
        (GOLDEN / file.name).write_text(file.text, encoding="utf-8", newline="\n")


@pytest.mark.parametrize("file", all_files(), ids=lambda f: f.name)
def test_the_file_is_the_golden_one(file: Written) -> None:
    assert file.text == (GOLDEN / file.name).read_text(encoding="utf-8")


def test_there_is_no_golden_file_too_many() -> None:
    assert {p.name for p in GOLDEN.iterdir()} == {file.name for file in all_files()}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("name", ["kobe-runner.service", "kobe-upkeep.service", "kobe-upkeep.timer"])
def test_systemd_itself_finds_nothing_wrong(tmp_path: Path, name: str) -> None:
    where = Where(PurePosixPath("/bin/sh"), PurePosixPath("/"), PurePosixPath(tmp_path))
    for file in files_of("systemd", where):
        (tmp_path / file.name).write_text(file.text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def lines_of(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_P22_no_supervisor_starts_what_a_person_has_to_look_at() -> None:
    """The crash loop, the kill switch, the configuration; and everything else is started again."""
    unit = lines_of(files_of("systemd", POSIX)[0].text)
    stay_down = set(map(int, unit["RestartPreventExitStatus"].split()))
    assert unit["Restart"] == "on-failure" and unit["StartLimitIntervalSec"] == "0"
    assert {int(CrashLoop.exit_code), int(Exit.HALTED), int(Exit.CONFIG), int(Exit.STATE_CORRUPT)} <= stay_down
    for code in (Exit.NO, Exit.DATA, Exit.BROKER_DOWN, Exit.BUG, Exit.STATE_LOCKED, -9, 137):
        assert int(code) not in stay_down and service.ended(int(code)) == int(code), "started again"
    for known in NO_RESTART:
        assert service.ended(int(known)) == 0
        assert int(known) in stay_down or known is Exit.OK


def test_paths_with_blanks_and_percent_signs_arrive_whole() -> None:
    runner = lines_of(files_of("systemd", POSIX)[0].text)
    words = shlex.split(runner["ExecStart"].replace("%%", "%").replace("$$", "$"))
    assert words == [str(POSIX.python), POSIX.script("runner.py"), *POSIX.runner]
    (tab,) = files_of("cron", POSIX)
    for line in tab.text.splitlines()[1:3]:
        command = line.split(" ", 1)[1] if line.startswith("@") else line.split(" ", 5)[5]
        assert "%" not in command.replace("\\%", ""), "cron ends a line there"
        assert shlex.split(command.replace("\\%", "%"))[1:4] == [str(POSIX.python), POSIX.script("service.py"), "run"]
    agent: dict[str, Any] = plistlib.loads(files_of("launchd", POSIX)[0].text.encode())
    assert agent["ProgramArguments"][:3] == [str(POSIX.python), POSIX.script("service.py"), "run"]
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["EnvironmentVariables"] == {"KOBE_HOME": str(POSIX.home)}
    (task,) = files_of("task-scheduler", WINDOWS)
    space = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}
    root = ET.fromstring(task.text.replace('encoding="UTF-16"', 'encoding="utf-8"').encode())
    assert root.findtext("t:Actions/t:Exec/t:Command", namespaces=space) == str(WINDOWS.python)
    arguments = root.findtext("t:Actions/t:Exec/t:Arguments", namespaces=space) or ""
    assert arguments.startswith(r'"C:\Program Files\kobe\scripts\service.py" run --mode paper')
    assert arguments.endswith(r'--home "D:\Kobe & Co"')
    assert root.findtext("t:Settings/t:MultipleInstancesPolicy", namespaces=space) == "IgnoreNew"


def test_no_key_is_in_any_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLYGON_API_KEY", "ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "CANARY-77")
    assert not [f.name for f in all_files() if "CANARY" in f.text or "API_KEY" in f.text or "EnvironmentFile" in f.text]


@pytest.mark.parametrize("bad", ['/a"b', "/a\nb", "relative"])
def test_a_path_that_no_unit_can_hold_is_refused(bad: str) -> None:
    with pytest.raises(UsageError):
        Where(PurePosixPath("/usr/bin/python3"), PurePosixPath("/opt/kobe"), PurePosixPath(bad))


def test_our_lines_of_a_crontab_are_replaced_and_the_others_stay() -> None:
    (tab,) = files_of("cron", POSIX)
    first = merged_crontab("MAILTO=me\n0 1 * * * other\n", tab.text)
    assert first.startswith("MAILTO=me\n0 1 * * * other\n# >>> kobe") and first.count("@reboot") == 1
    assert merged_crontab(first, tab.text) == first
    assert merged_crontab(first, "") == "MAILTO=me\n0 1 * * * other\n"
    assert merged_crontab("", tab.text) == tab.text and merged_crontab(tab.text, "") == ""


# ---------------------------------------------------------------- the script
class Shell:
    """Stands in for the supervisor's own commands."""

    def __init__(self, tab: str | None = None, code: int = 0) -> None:
        self.ran: list[list[str]] = []
        self.tab, self.code, self.no_tab = tab, code, "no crontab for anna"

    def __call__(self, command: Sequence[str], text: str | None) -> tuple[int, str]:
        self.ran.append(list(command))
        if list(command) == ["crontab", "-l"]:
            return (0, self.tab) if self.tab is not None else (1, self.no_tab)
        if list(command) == ["crontab", "-"]:
            self.tab = text
        return self.code, "said"


def run(shell: Shell, *words: str) -> int:
    return cli.run(lambda: script.main(list(words), shell=shell))


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(logs, "_target", logs._target)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_a_dry_run_shows_everything_and_does_nothing(user: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell()
    assert run(shell, "install", "--kind", kind, "--dry-run") == Exit.OK
    said = capsys.readouterr().out
    assert shell.ran == [] and list(user.iterdir()) == []
    assert "runner.py" in said or "service.py run" in said or "<string>run</string>" in said


def test_installing_for_systemd_writes_and_starts_and_uninstalling_takes_it_back(user: Path) -> None:
    shell = Shell()
    assert run(shell, "install", "--kind", "systemd") == Exit.OK
    folder = user / "config" / "systemd" / "user"
    assert {p.name for p in folder.iterdir()} == {"kobe-runner.service", "kobe-upkeep.service", "kobe-upkeep.timer"}
    first, second = (" ".join(command) for command in shell.ran[:2])
    assert first == "systemctl --user daemon-reload"
    assert second == "systemctl --user enable --now kobe-runner.service"
    assert run(shell, "status", "--kind", "systemd") == Exit.OK
    assert run(shell, "uninstall", "--kind", "systemd") == Exit.OK
    assert list(folder.iterdir()) == [] and "disable" in shell.ran[-1]
    assert run(Shell(code=1), "install", "--kind", "systemd") == Exit.NO


def test_installing_for_cron_keeps_the_rest_of_the_crontab(user: Path) -> None:
    shell = Shell(tab="0 1 * * * other\n")
    assert run(shell, "install", "--kind", "cron") == Exit.OK
    assert shell.tab is not None and shell.tab.startswith("0 1 * * * other\n") and "@reboot" in shell.tab
    assert run(shell, "uninstall", "--kind", "cron") == Exit.OK
    assert shell.tab == "0 1 * * * other\n"


def test_a_crontab_that_cannot_be_read_is_not_replaced_by_ours_alone(user: Path) -> None:
    shell = Shell(tab=None)
    assert run(shell, "install", "--kind", "cron") == Exit.OK, "a user without one has an empty one"
    assert shell.tab is not None and shell.tab.startswith("# >>> kobe")
    shell = Shell(tab=None)
    shell.no_tab = "you are not allowed to use this program"
    assert run(shell, "install", "--kind", "cron") == Exit.CONFIG and shell.ran == [["crontab", "-l"]]


def test_usage(user: Path) -> None:
    assert run(Shell(), "install") == Exit.USAGE
    assert run(Shell(), "status", "--kind", "cron", "--strange") == Exit.USAGE


# ---------------------------------------------------------------- service.py run
def a_runner(root: Path, code: str) -> Path:
    """A folder with a scripts/runner.py that does this."""
    (root / "scripts").mkdir(parents=True)
    (root / "scripts" / "runner.py").write_text(code)
    return root


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (40, 0), (3, 0), (10, 0), (30, 30), (1, 1), (70, 70)])
def test_run_ends_with_zero_when_nobody_is_to_start_it_again(
    user: Path, monkeypatch: pytest.MonkeyPatch, code: int, ends: int
) -> None:
    root = a_runner(user / "program", f"import os, sys; open(os.environ['KOBE_HOME'] + '/ran', 'w'); sys.exit({code})")
    monkeypatch.setattr(script, "REPO_ROOT", root)
    (user / "home").mkdir()
    assert run(Shell(), "run", "--home", str(user / "home"), "--cap", "5") == ends
    assert (user / "home" / "ran").exists()
    told = user / "home" / "logs" / "errors.jsonl"
    assert told.exists() is (code in (40, 10))


def test_run_starts_nothing_beside_a_kill_switch_or_after_a_crash_loop(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os; open(os.environ['KOBE_HOME'] + '/ran', 'w')"
    monkeypatch.setattr(script, "REPO_ROOT", a_runner(user / "program", code))
    home = user / "home"
    (home / "state").mkdir(parents=True)
    (home / "state" / "KILL_SWITCH").write_text("")
    assert script.held_back(home) == "the kill switch is there"
    assert run(Shell(), "run", "--home", str(home)) == Exit.OK
    (home / "state" / "KILL_SWITCH").unlink()
    assert script.held_back(home) is None
    (home / "state" / "starts.json").write_text('{"schema_version": 1, "starts": [], "stopped_at": "2026-01-01"}')
    assert "crashed again and again" in (script.held_back(home) or "")
    assert run(Shell(), "run", "--home", str(home)) == Exit.OK
    assert not (home / "ran").exists() and not (home / "logs").exists(), "no trace every five minutes"
    (home / "state" / "starts.json").unlink()
    assert run(Shell(), "run", "--home", str(home)) == Exit.OK and (home / "ran").exists()
