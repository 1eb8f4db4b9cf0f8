"""What a kill or a power cut at any moment leaves of a folder.

While a `Disk` watches, every call that changes or flushes a file is a moment. For each it keeps four pictures: the
process is killed right there (everything written stays); the power goes and with it everything that was not flushed;
the same with half of each unflushed write on the disk; the same with all renames done but no unflushed content. A
rename or a new file is flushed by an fsync of its folder, content by an fsync of the file: nothing else counts.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Picture = dict[str, bytes]
"""Path from the root, with slashes -> content; a folder has no entry of its own."""

_CALLS = ("write", "fsync", "replace", "unlink", "mkdir", "ftruncate")


@dataclass
class Disk:
    root: Path
    moments: list[tuple[str, dict[str, Picture]]] = field(default_factory=list)
    _content: dict[int, bytes] = field(default_factory=dict)  # inode -> flushed content
    _entries: dict[int, dict[str, int]] = field(default_factory=dict)  # folder's inode -> name -> inode, flushed
    _pinned: dict[int, int] = field(default_factory=dict)  # an open handle keeps an inode from being used again

    @contextmanager
    def watching(self, *, flushed: bool = True) -> Iterator[Disk]:
        """`flushed`: whether what is there already is on the disk; a process that was killed may have left it so."""
        for inode, path in self._walk() if flushed else []:
            if path.is_dir():
                self._entries[inode] = _listing(path)
            else:
                self._content[inode] = path.read_bytes()
        patch = pytest.MonkeyPatch()
        for name in _CALLS:
            patch.setattr(os, name, self._watched(name, getattr(os, name)))
        try:
            yield self
        finally:
            patch.undo()
            self._remember("the end")
            for handle in self._pinned.values():
                os.close(handle)

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **more: Any) -> Any:
            self._remember(name)
            result = call(*args, **more)
            if name == "fsync":
                self._flushed(args[0])
            return result

        return watched

    def _flushed(self, handle: int) -> None:
        found = os.fstat(handle)
        for inode, path in self._walk():
            if inode == found.st_ino:
                if stat.S_ISDIR(found.st_mode):
                    self._entries[inode] = _listing(path)
                else:
                    self._content[inode] = path.read_bytes()

    def _walk(self) -> list[tuple[int, Path]]:
        """Every file and folder by inode, locks left out; each is pinned."""
        found = [(self.root.stat().st_ino, self.root)]
        found += [(p.stat().st_ino, p) for p in sorted(self.root.rglob("*")) if p.suffix != ".lock"]
        for inode, path in found:
            if inode not in self._pinned:
                self._pinned[inode] = os.open(path, os.O_RDONLY)
        return found

    def _remember(self, call: str) -> None:
        now = self._walk()
        paths = dict(now)
        killed = {p.relative_to(self.root).as_posix(): p.read_bytes() for p in paths.values() if p.is_file()}
        flushed = self._picture(paths, lambda inode, path: self._content.get(inode, b""))
        torn = self._picture(paths, lambda inode, path: _half(self._content.get(inode, b""), path))
        renamed = {
            p.relative_to(self.root).as_posix(): self._content.get(inode, b"") for inode, p in now if p.is_file()
        }
        pictures = {"killed": killed, "cut": flushed, "torn": torn, "renamed": renamed}
        self.moments.append((f"{len(self.moments)} before {call}", pictures))

    def _picture(self, paths: dict[int, Path], content: Callable[[int, Path | None], bytes]) -> Picture:
        made: Picture = {}

        def add(folder: int, prefix: str) -> None:
            for name, inode in self._entries.get(folder, {}).items():
                if inode in self._entries or (inode in paths and paths[inode].is_dir()):
                    add(inode, f"{prefix}{name}/")
                else:
                    made[prefix + name] = content(inode, paths.get(inode))

        add(self.root.stat().st_ino, "")
        return made

    def pictures(self) -> Iterator[tuple[str, Picture]]:
        """Every moment in every way, each distinct picture once."""
        seen = set()
        for when, ways in self.moments:
            for way, picture in ways.items():
                key = tuple(sorted(picture.items()))
                if key not in seen:
                    seen.add(key)
                    yield f"{way} {when}", picture


def restore(picture: Picture, folder: Path) -> None:
    for name, content in picture.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _listing(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_ino for p in folder.iterdir() if p.suffix != ".lock"}


def _half(flushed: bytes, path: Path | None) -> bytes:
    """What was appended behind the flushed bytes, half of it; what was overwritten in place, half old and half new."""
    now = flushed if path is None else path.read_bytes()
    if len(now) == len(flushed):
        same = next((i for i, (a, b) in enumerate(zip(flushed, now, strict=True)) if a != b), len(now))
        middle = same + (len(now) - same) // 4
        return now[:middle] + flushed[middle:]
    if len(now) < len(flushed):
        return flushed
    return now[: len(flushed) + (len(now) - len(flushed)) // 2]
