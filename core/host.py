"""Facts about the machine under us: what its folders can do, what this process uses, which zone it lives in.

Nothing here decides: each function returns a fact or a reason in words, and what cannot be learned is said to be
unknown, never fine. Linux, macOS and Windows each have their branch.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

NETWORK_TYPES = frozenset({
    "nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afpfs", "webdav", "davfs", "ncpfs", "afs", "ceph",
    "glusterfs", "lustre", "gpfs", "beegfs", "ocfs2", "gfs2", "9p", "vboxsf", "prl_fs", "vmhgfs", "drvfs",
})  # fmt: skip
"""File systems whose locks other machines may not see, or that a lock cannot be relied upon."""

_SYNCED = re.compile(
    r"(onedrive|dropbox|google ?drive|my drive|icloud ?drive|mobile documents|cloudstorage|box sync|nextcloud|"
    r"owncloud|pcloud ?drive|resilio sync)( - .*| \(.*\)|-.*)?\Z",
    re.IGNORECASE,
)
_SYNC_MARKS = (".dropbox", ".dropbox.cache", ".stfolder", ".sync", ".owncloudsync.log", ".nextcloudsync.log")
_SYNC_VARIABLES = ("OneDrive", "OneDriveConsumer", "OneDriveCommercial")
_DRIVE_REMOTE = 4  # Windows, GetDriveTypeW
_WINDOWS_HANDLES_EXPECTED = 10_000  # Windows has no limit a process could meet; more than this is a leak


# ---------------------------------------------------------------- folders
@dataclass(frozen=True, slots=True)
class Mount:
    point: str
    kind: str  # file system type, lower case


def shared_folder(folder: Path, environ: Mapping[str, str], mounts: Sequence[Mount] | None) -> str | None:
    """Why locks and renames in `folder` cannot be relied upon: a network drive, a sync program; None when it is local.

    environ : the process environment. mounts : of this machine, from `read_mounts`; None = could not be read.
    """
    folder = folder.resolve()
    synced = _synced(folder, environ)
    if synced is not None:
        return f"{synced} is kept in step by a sync program"
    if str(folder).startswith(("\\\\", "//")):
        return f"{folder} is a network path"
    if mounts is None:
        return "the kind of file system could not be learned"
    found = mount_of(folder, mounts)
    if found is not None and (found.kind in NETWORK_TYPES or found.kind.startswith("fuse.")):
        return f"{found.point} is a {found.kind} file system"
    return None


def _synced(folder: Path, environ: Mapping[str, str]) -> Path | None:
    """The outermost folder on the way that a sync program owns, by its name, its marker file or its variable."""
    roots = {Path(environ[name]) for name in _SYNC_VARIABLES if environ.get(name)}
    for place in (*reversed(folder.parents), folder):
        if _SYNCED.match(place.name) or place in roots:
            return place
        if any((place / mark).exists() for mark in _SYNC_MARKS):
            return place
    return None


def mount_of(folder: Path, mounts: Sequence[Mount]) -> Mount | None:
    """The innermost mount that holds `folder`; of two on the same point the later one hides the earlier."""
    best: Mount | None = None
    for mount in mounts:
        point = Path(mount.point)
        inside = point == folder or point in folder.parents
        if inside and (best is None or len(point.parts) >= len(Path(best.point).parts)):
            best = mount
    return best


def read_mounts() -> list[Mount] | None:
    """The mounted file systems; None where they cannot be learned."""
    if sys.platform == "win32":
        return _windows_drives()
    if sys.platform == "darwin":
        return _mac_mounts()
    try:
        return parse_mountinfo(Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape"))
    except OSError:
        return None


def parse_mountinfo(text: str) -> list[Mount]:
    """Linux /proc/self/mountinfo, proc(5): `… root point options … - type source …`, blanks as \\040."""
    found = []
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        fields = left.split(" ")
        if dash and len(fields) > 4 and right:
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
            found.append(Mount(point, right.split(" ")[0].lower()))
    return found


def parse_mount_command(text: str) -> list[Mount]:
    """macOS `mount`: `//me@nas/share on /Volumes/share (smbfs, nodev)`."""
    rows = (re.match(r".* on (.+) \(([a-z0-9_]+)[,)]", line) for line in text.splitlines())
    return [Mount(row[1], row[2].lower()) for row in rows if row]


def _mac_mounts() -> list[Mount] | None:
    import subprocess

    try:
        done = subprocess.run(["/sbin/mount"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_mount_command(done.stdout)


def _windows_drives() -> list[Mount] | None:
    import ctypes

    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 - there on Windows only
    letters = (f"{chr(65 + k)}:\\" for k in range(26) if int(kernel.GetLogicalDrives()) >> k & 1)
    return [Mount(d, "smb" if kernel.GetDriveTypeW(d) == _DRIVE_REMOTE else "local") for d in letters]


def unwritable(folder: Path) -> str | None:
    """Why a file cannot be made, flushed to the disk, renamed and removed in `folder`; None when it can.

    The folder is made when it is not there. Proved by doing it: permission bits say nothing of a read-only mount.
    """
    probe: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".probe-", dir=folder)
        probe = Path(name)
        with os.fdopen(handle, "wb") as out:
            out.write(b"kobe\n")
            out.flush()
            os.fsync(out.fileno())
        probe = probe.replace(probe.with_suffix(".renamed"))
        probe.unlink()
    except OSError as error:
        if probe is not None:
            with contextlib.suppress(OSError):
                probe.unlink()
        return f"{folder}: {error.strerror or error}"
    return None


def longest_path(root: Path, deepest: Sequence[str]) -> int:
    """Characters of the longest of the relative paths `deepest` below `root`, as Windows counts them."""
    return max(len(str(root / name).encode("utf-16-le")) // 2 for name in deepest)


# ---------------------------------------------------------------- this process
@dataclass(frozen=True, slots=True)
class Gauges:
    """What this process holds now; None = this system does not tell."""

    open_files: int | None
    open_files_max: int | None
    threads: int
    resident_bytes: int | None


def gauges() -> Gauges:
    return Gauges(_open_files(), _open_files_max(), threading.active_count(), _resident_bytes())


def _open_files() -> int | None:
    if sys.platform == "win32":
        return _windows_handles()
    for place in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return len(os.listdir(place)) - 1  # noqa: PTH208 - names only; one of them is this very look
    return None


def _open_files_max() -> int | None:
    if sys.platform == "win32":
        return _WINDOWS_HANDLES_EXPECTED
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _windows_handles() -> int | None:
    import ctypes

    kernel, count = getattr(ctypes, "windll").kernel32, ctypes.c_ulong(0)  # noqa: B009
    done = kernel.GetProcessHandleCount(kernel.GetCurrentProcess(), ctypes.byref(count))
    return int(count.value) if done else None


def _resident_bytes() -> int | None:
    """Resident memory now (Linux), else its peak (macOS); Windows does not tell without further libraries."""
    if sys.platform == "win32":
        return None
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS


def strained(found: Gauges, *, share: float = 0.8, threads_max: int = 200) -> tuple[str, str] | None:
    """(code, words) when a leak comes near the limit: open files above `share` of theirs, or too many threads."""
    if found.open_files is not None and found.open_files_max and found.open_files > share * found.open_files_max:
        return "FILES_NEAR_LIMIT", f"{found.open_files} open files of {found.open_files_max}"
    if found.threads > threads_max:
        return "THREADS_MANY", f"{found.threads} threads, at most {threads_max} expected"
    return None


# ---------------------------------------------------------------- time
def host_zone(now: datetime) -> str:
    """What the machine calls its own zone, with its offset: for people only, nothing is decided by it."""
    local = now.astimezone()
    return f"{local.tzname() or 'unknown'} (UTC{local:%z})"
