"""What a supervisor is told: systemd units, cron lines, a Task Scheduler task, a launchd agent. Pure text.

One policy for all of them. A runner that ends with a code of NO_RESTART stays down, because starting it again cannot
help: a person has to look first (kill switch, crash loop, configuration, damaged state, another runner). After every
other end (broker unreachable, no data, a bug, killed) it is started again; the runner itself waits longer after each
crash and gives up after `runner.crashes_max` of them (execution/starts.py). systemd knows exit codes; the others start
`scripts/service.py run`, which ends with 0 when the runner is to stay down.

No key is in any of it: the scripts read `.env` in KOBE_HOME, which belongs to nobody but its owner.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Final
from xml.sax.saxutils import escape

from core.errors import Exit, UsageError

NAME: Final = "kobe-runner"
NO_RESTART: Final = (
    Exit.OK, Exit.USAGE, Exit.ALREADY_RUNNING, Exit.CONFIG, Exit.STATE_CORRUPT, Exit.HALTED,
    Exit.RISK_REFUSED, Exit.NOT_CONFIRMED, Exit.WOULD_PASS,
)  # fmt: skip
RESTART_S: Final = 15
STOP_S: Final = 90
"""A runner in the middle of an order finishes it, or marks it unknown, within this."""
KINDS: Final = ("systemd", "cron", "task-scheduler", "launchd")
_BEGIN, _END = "# >>> kobe", "# <<< kobe"


@dataclass(frozen=True, slots=True)
class Where:
    """Absolute paths on the machine that runs it."""

    python: PurePath
    root: PurePath  # of the program
    home: PurePath  # KOBE_HOME
    mode: str = "paper"
    words: tuple[str, ...] = ()  # further words of runner.py

    def __post_init__(self) -> None:
        for path in (self.python, self.root, self.home):
            if not path.is_absolute():
                raise UsageError(f"{path} is not an absolute path")
            if any(ord(c) < 32 or c == '"' for c in str(path)):
                raise UsageError(f"{str(path)!r} holds a quote or a control character", advice="rename the folder")
        for word in self.words:
            if any(ord(c) < 32 or c == '"' for c in word):
                raise UsageError(f"{word!r} holds a quote or a control character")

    def script(self, name: str) -> str:
        return str(self.root / "scripts" / name)

    @property
    def runner(self) -> list[str]:
        return ["--mode", self.mode, *self.words]


@dataclass(frozen=True, slots=True)
class Written:
    """One file, and what has to be run after it was written or before it is taken away."""

    name: str
    text: str
    after: tuple[tuple[str, ...], ...] = ()
    before_removal: tuple[tuple[str, ...], ...] = ()
    status: tuple[str, ...] = ()
    encoding: str = "utf-8"


def files_of(kind: str, where: Where, *, user: str = "") -> tuple[Written, ...]:
    """What `install --kind` writes. user : whose crontab, task or agent it is; only Task Scheduler names it."""
    if kind == "systemd":
        return systemd(where)
    if kind == "cron":
        return (Written("crontab", cron(where), after=(("crontab", "-"),), status=("crontab", "-l")),)
    if kind == "launchd":
        return (launchd(where),)
    if kind == "task-scheduler":
        return (task(where, user),)
    raise UsageError(f"--kind {kind!r} is none of {', '.join(KINDS)}")


# ---------------------------------------------------------------- systemd
def _unit_quoted(word: str) -> str:
    """A word of ExecStart: quoted, with % and $ as themselves."""
    text = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return f'"{text}"'


def _unit_path(path: PurePath) -> str:
    """A path where systemd takes the rest of the line."""
    return str(path).replace("\\", "\\\\").replace("%", "%%")


_HARDENED = """\
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
CapabilityBoundingSet=
UMask=0077
"""


def systemd(where: Where) -> tuple[Written, ...]:
    """The runner, and a monthly timer for backup and cleaning, as units of the user."""
    run = " ".join(map(_unit_quoted, [str(where.python), where.script("runner.py"), *where.runner]))
    stay_down = " ".join(str(int(code)) for code in NO_RESTART if code is not Exit.OK)
    service = f"""\
[Unit]
Description=Kobe runner ({where.mode})
Documentation=file:{_unit_path(where.root).replace(" ", "%%20")}/docs/runbook.md
Wants=network-online.target
After=network-online.target time-sync.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={run}
WorkingDirectory={_unit_path(where.root)}
{_environment(where)}
Restart=on-failure
RestartSec={RESTART_S}
RestartPreventExitStatus={stay_down}
SuccessExitStatus=130
KillMode=mixed
KillSignal=SIGTERM
TimeoutStopSec={STOP_S}
ReadWritePaths="{_unit_path(where.home)}"
{_HARDENED}
[Install]
WantedBy=default.target
"""
    enable = ("systemctl", "--user", "enable", "--now")
    disable = ("systemctl", "--user", "disable", "--now")
    reload = ("systemctl", "--user", "daemon-reload")
    return (
        Written(
            f"{NAME}.service", service,
            (reload, (*enable, f"{NAME}.service"), ("loginctl", "enable-linger")),  # it runs while nobody is logged in
            ((*disable, f"{NAME}.service"),),
            ("systemctl", "--user", "status", f"{NAME}.service"),
        ),
        Written("kobe-upkeep.service", _upkeep(where), (reload,)),
        Written(
            "kobe-upkeep.timer", _TIMER, (reload, (*enable, "kobe-upkeep.timer")), ((*disable, "kobe-upkeep.timer"),),
            ("systemctl", "--user", "status", "kobe-upkeep.timer"),
        ),
    )  # fmt: skip


def _environment(where: Where) -> str:
    value = f"KOBE_HOME={where.home}".replace("\\", "\\\\").replace("%", "%%")
    return f'Environment="{value}"\nEnvironment=PYTHONUNBUFFERED=1'


def _upkeep(where: Where) -> str:
    lines = [
        " ".join(map(_unit_quoted, [str(where.python), where.script("backup.py"), "--full", "--verify"])),
        " ".join(map(_unit_quoted, [str(where.python), where.script("cleanup.py"), "--logs"])),
    ]
    run = "\n".join(f"ExecStart={line}" for line in lines)
    return f"""\
[Unit]
Description=Kobe backup and cleaning

[Service]
Type=oneshot
{run}
WorkingDirectory={_unit_path(where.root)}
{_environment(where)}
ReadWritePaths="{_unit_path(where.home)}"
{_HARDENED}"""


_TIMER = """\
[Unit]
Description=Kobe backup and cleaning, monthly

[Timer]
OnCalendar=*-*-01 03:30:00 America/New_York
Persistent=yes
RandomizedDelaySec=15min

[Install]
WantedBy=timers.target
"""


# ---------------------------------------------------------------- cron
def cron(where: Where) -> str:
    """Lines between two marks. Every five minutes a start is tried: beside a living runner it ends at once."""

    def line(when: str, *words: str) -> str:
        command = " ".join(map(shlex.quote, words)).replace("%", "\\%")  # cron takes % for a line end
        home = shlex.quote(str(where.home)).replace("%", "\\%")
        return f"{when} KOBE_HOME={home} {command} >/dev/null 2>&1"

    python, service = str(where.python), where.script("service.py")
    return "\n".join([
        f"{_BEGIN}: written by scripts/service.py; what the scripts say is in logs/ below KOBE_HOME",
        line("@reboot", python, service, "run", *where.runner),
        line("*/5 * * * *", python, service, "run", *where.runner),
        line("30 7 1 * *", python, where.script("backup.py"), "--full", "--verify"),
        line("45 7 1 * *", python, where.script("cleanup.py"), "--logs"),
        _END,
    ]) + "\n"  # fmt: skip


def merged_crontab(before: str, ours: str) -> str:
    """The crontab with our lines in place of our earlier ones; `ours` empty takes them out."""
    kept, inside = [], False
    for text in before.splitlines():
        if text.startswith(_BEGIN):
            inside = True
        if not inside:
            kept.append(text)
        if text.startswith(_END):
            inside = False
    rest = "\n".join(kept).rstrip("\n")
    parts = [part for part in (rest, ours.rstrip("\n")) if part]
    return "\n".join(parts) + "\n" if parts else ""


# ---------------------------------------------------------------- launchd
def launchd(where: Where) -> Written:
    words = [str(where.python), where.script("service.py"), "run", *where.runner]
    arguments = "\n".join(f"    <string>{escape(word)}</string>" for word in words)
    label = "local.kobe.runner"
    text = f"""\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>{label}</string>
  <key>ProgramArguments</key>
  <array>
{arguments}
  </array>
  <key>EnvironmentVariables</key>
  <dict>
    <key>KOBE_HOME</key>
    <string>{escape(str(where.home))}</string>
  </dict>
  <key>WorkingDirectory</key>
  <string>{escape(str(where.root))}</string>
  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <dict>
    <key>SuccessfulExit</key>
    <false/>
  </dict>
  <key>ThrottleInterval</key>
  <integer>{RESTART_S}</integer>
  <key>ExitTimeOut</key>
  <integer>{STOP_S}</integer>
  <key>ProcessType</key>
  <string>Interactive</string>
  <key>Umask</key>
  <integer>63</integer>
</dict>
</plist>
"""
    name = f"{label}.plist"
    return Written(
        name, text, (("launchctl", "load", "-w", "{path}"),), (("launchctl", "unload", "-w", "{path}"),),
        ("launchctl", "list", label),
    )  # fmt: skip


# ---------------------------------------------------------------- Windows
def task(where: Where, user: str) -> Written:
    """A task at log-on and every five minutes; a second one beside a living runner is not started."""
    words = subprocess_words([where.script("service.py"), "run", *where.runner, "--home", str(where.home)])
    principal = f"\n      <UserId>{escape(user)}</UserId>" if user else ""
    text = f"""\
<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>Kobe runner ({escape(where.mode)})</Description>
    <URI>\\Kobe\\runner</URI>
  </RegistrationInfo>
  <Triggers>
    <LogonTrigger>
      <Enabled>true</Enabled>{principal}
    </LogonTrigger>
    <TimeTrigger>
      <StartBoundary>2026-01-01T00:00:00</StartBoundary>
      <Enabled>true</Enabled>
      <Repetition>
        <Interval>PT5M</Interval>
        <StopAtDurationEnd>false</StopAtDurationEnd>
      </Repetition>
    </TimeTrigger>
  </Triggers>
  <Principals>
    <Principal id="Author">{principal}
      <LogonType>InteractiveToken</LogonType>
      <RunLevel>LeastPrivilege</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <AllowHardTerminate>true</AllowHardTerminate>
    <StartWhenAvailable>true</StartWhenAvailable>
    <RunOnlyIfNetworkAvailable>false</RunOnlyIfNetworkAvailable>
    <Enabled>true</Enabled>
    <Hidden>false</Hidden>
    <WakeToRun>false</WakeToRun>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <Priority>7</Priority>
  </Settings>
  <Actions Context="Author">
    <Exec>
      <Command>{escape(str(where.python))}</Command>
      <Arguments>{escape(words)}</Arguments>
      <WorkingDirectory>{escape(str(where.root))}</WorkingDirectory>
    </Exec>
  </Actions>
</Task>
"""
    name = "\\Kobe\\runner"
    return Written(
        "kobe-runner.xml", text, (("schtasks", "/Create", "/TN", name, "/XML", "{path}", "/F"),),
        (("schtasks", "/Delete", "/TN", name, "/F"),), ("schtasks", "/Query", "/TN", name, "/V", "/FO", "LIST"),
        encoding="utf-16",
    )  # fmt: skip


def subprocess_words(words: Sequence[str]) -> str:
    """One command line as Windows programs read it."""
    from subprocess import list2cmdline

    return list2cmdline(words)


# ---------------------------------------------------------------- run
def stays_down(code: int) -> bool:
    """Whether a runner that ended like this is not to be started again."""
    return code in {int(exit_code) for exit_code in NO_RESTART} or code == int(Exit.INTERRUPTED)


def ended(code: int) -> int:
    """What `service.py run` ends with: 0 tells the supervisor to leave it."""
    return 0 if stays_down(code) else code


def path_for(text: str, *, windows: bool) -> PurePath:
    return PureWindowsPath(text) if windows else PurePosixPath(text)


def placed(command: Sequence[str], path: str) -> list[str]:
    return [path if word == "{path}" else word for word in command]


def environment(inherited: Mapping[str, str], home: str) -> dict[str, str]:
    return {**inherited, "KOBE_HOME": home}
