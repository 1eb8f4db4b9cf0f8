"""Keep the runner running: systemd, cron, Task Scheduler or launchd. No key is written into any of it.

  service.py install --kind systemd --dry-run        show the files and the commands, write nothing
  service.py install --kind systemd [--mode paper]   write them and start the service, as the user who types it
  service.py status --kind systemd                   what the supervisor says
  service.py uninstall --kind systemd                stop it and take the files away
  service.py run [--mode paper]                      what cron, launchd and Task Scheduler start
A runner that ended with 2, 3, 10, 11, 40 … (kill switch, crash loop, configuration) is not started again by anybody: a
person has to look first. Whatever follows --mode goes to runner.py.
Exit: 0 done · 1 a command of the supervisor failed · 2 usage · 10 cannot be written · run: the runner's own code
"""

from __future__ import annotations

import argparse
import getpass
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli, logs
from core.clock import SystemClock
from core.errors import ConfigError, Exit, UsageError
from core.paths import REPO_ROOT, home

if TYPE_CHECKING:
    from execution.service import Where, Written

Shell = Callable[[Sequence[str], str | None], tuple[int, str]]
"""Runs a command with this text on its stdin; its exit code and what it said."""


def parser() -> argparse.ArgumentParser:
    from execution.service import KINDS

    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("action", choices=("install", "uninstall", "status", "run"))
    p.add_argument("--kind", choices=KINDS, help="the supervisor of this machine")
    p.add_argument("--mode", choices=("paper", "live"), default="paper")
    p.add_argument("--home", help="another KOBE_HOME than the one of this shell")
    p.add_argument("--dry-run", action="store_true", help="show, write nothing, start nothing")
    return p


def main(argv: Sequence[str] | None = None, *, shell: Shell | None = None) -> int:
    args, words = parser().parse_known_args(argv)
    if args.action == "run":
        return run(args, words)
    if args.kind is None:
        raise UsageError("--kind is missing", advice="for instance service.py install --kind systemd --dry-run")
    if words and args.action != "install":
        raise UsageError(f"unknown words: {' '.join(words)}")
    where = place(args, words)
    act = {"install": install, "uninstall": uninstall, "status": status}[args.action]
    return act(args, where, shell or _shell)


def place(args: argparse.Namespace, words: Sequence[str]) -> Where:
    from execution.service import Where

    chosen = pathlib.Path(args.home).expanduser().resolve() if args.home else home().root
    return Where(pathlib.Path(sys.executable), REPO_ROOT, chosen, args.mode, tuple(words))


def _written(args: argparse.Namespace, where: Where) -> Sequence[Written]:
    from execution.service import files_of

    user = getpass.getuser() if args.kind == "task-scheduler" else ""
    return files_of(args.kind, where, user=user)


def folder_of(kind: str, where: Where) -> pathlib.Path:
    """Where this supervisor looks for the files of the user."""
    if kind == "systemd":
        base = os.environ.get("XDG_CONFIG_HOME") or str(pathlib.Path.home() / ".config")
        return pathlib.Path(base) / "systemd" / "user"
    if kind == "launchd":
        return pathlib.Path.home() / "Library" / "LaunchAgents"
    return pathlib.Path(str(where.home)) / "state"  # read once by schtasks; cron has no file of its own


def install(args: argparse.Namespace, where: Where, shell: Shell) -> int:
    from execution.service import merged_crontab, placed

    commands: list[list[str]] = []
    for file in _written(args, where):
        path = folder_of(args.kind, where) / file.name
        if args.kind == "cron":
            text = merged_crontab(_crontab(shell) if not args.dry_run else "", file.text)
            cli.out(f"# crontab\n{file.text}" if args.dry_run else "crontab: our lines are in it")
            return Exit.OK if args.dry_run else _tell(*shell(["crontab", "-"], text))
        if args.dry_run:
            cli.out(f"# {path}\n{file.text}")
        else:
            _write(path, file)
        commands += [c for step in file.after if (c := placed(step, str(path))) not in commands]
    for command in commands:
        if args.dry_run:
            cli.out(f"# then: {subprocess.list2cmdline(command)}")
        elif (code := _tell(*shell(command, None))) != Exit.OK:
            return code
    return Exit.OK


def _write(path: pathlib.Path, file: Written) -> None:
    from core.files import write_atomic

    try:
        write_atomic(path, file.text.encode(file.encoding))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}", code="SERVICE_UNWRITABLE") from error
    cli.out(f"written: {path}")


def _crontab(shell: Shell) -> str:
    """The crontab as it is; a user without one has an empty one. Raises ConfigError: what cannot be read is kept."""
    code, said = shell(["crontab", "-l"], None)
    if code == 0 or "no crontab" in said.lower():
        return said if code == 0 else ""
    raise ConfigError(f"the crontab cannot be read: {said.strip()}", code="SERVICE_UNREADABLE")


def uninstall(args: argparse.Namespace, where: Where, shell: Shell) -> int:
    from execution.service import merged_crontab, placed

    if args.kind == "cron":
        text = merged_crontab(_crontab(shell), "")
        if args.dry_run:
            cli.out(f"# crontab\n{text}")
            return Exit.OK
        return _tell(*shell(["crontab", "-"], text))
    worst = Exit.OK
    for file in _written(args, where):
        path = folder_of(args.kind, where) / file.name
        for step in file.before_removal:
            command = placed(step, str(path))
            if args.dry_run:
                cli.out(f"# would run: {subprocess.list2cmdline(command)}")
            else:
                worst = max(worst, _tell(*shell(command, None)))
        if args.dry_run:
            cli.out(f"# would remove: {path}")
        else:
            path.unlink(missing_ok=True)
            cli.out(f"removed: {path}")
    return worst


def status(args: argparse.Namespace, where: Where, shell: Shell) -> int:
    worst = Exit.OK
    for file in _written(args, where):
        if file.status:
            worst = max(worst, _tell(*shell(file.status, None)))
    return worst


def _tell(code: int, said: str) -> Exit:
    if said.strip():
        cli.out(said.rstrip())
    return Exit.OK if code == 0 else Exit.NO


def _shell(command: Sequence[str], text: str | None) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, timeout=120, encoding="utf-8"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, f"{command[0]}: {error}"
    return done.returncode, done.stdout + done.stderr


# ---------------------------------------------------------------- run
def run(args: argparse.Namespace, words: Sequence[str]) -> int:
    """The runner as a child; ends with 0 when it is not to be started again, else with the runner's code."""
    from execution.service import ended, environment, stays_down

    where = place(args, words)
    if (why := held_back(pathlib.Path(str(where.home)))) is not None:
        cli.complain(f"kobe: not started: {why}")
        return Exit.OK
    command = [str(where.python), where.script("runner.py"), *where.runner]
    with subprocess.Popen(command, env=environment(os.environ, str(where.home))) as child:
        _pass_on(child)
        code = child.wait()
    if stays_down(code) and code not in (int(Exit.OK), int(Exit.ALREADY_RUNNING)):
        from core.paths import Home

        logs.configure(Home(pathlib.Path(str(where.home))), SystemClock(), run_id="service", mode=args.mode)
        logs.error_event("runner_stays_down", code="RUNNER_STAYS_DOWN", exit_code=code)
    return ended(code)


def held_back(root: pathlib.Path) -> str | None:
    """What only a person can change, so that a supervisor's tries every five minutes leave no trace."""
    from core.errors import StateCorrupt
    from core.paths import Home
    from execution.starts import read_starts
    from risk.kill_switch import KillSwitch

    place = Home(root)
    if place.state.is_dir() and KillSwitch(place.kill_switch).found() is not None:
        return "the kill switch is there"
    try:
        stopped = read_starts(place.state / "starts.json").stopped_at
    except StateCorrupt as error:
        return str(error)
    return None if stopped is None else f"the runner crashed again and again and was stopped at {stopped}"


def _pass_on(child: subprocess.Popen[bytes]) -> None:
    """What stops us stops the runner; we wait for its own end."""

    def tell(number: int, frame: object) -> None:
        child.terminate()

    signal.signal(signal.SIGTERM, tell)
    if hasattr(signal, "SIGBREAK"):
        signal.signal(signal.SIGBREAK, tell)


if __name__ == "__main__":
    sys.exit(cli.run(main))
