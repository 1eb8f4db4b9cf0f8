"""Panels on disk: contiguous columns that the next process maps instead of reading.

A generation is a folder named after what it was made from, written beside the others and renamed into place, so that a
reader has the whole of one or nothing. Everything here is derived and may be deleted at any time, also while in use.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.bars_io import FIELDS, BarColumns, bar_files, read_bars
from core.errors import DataError
from core.panel import Panel

_BLOCKS = (*FIELDS, "session_index")
_VERSION = 1


class PanelFolder:
    """Generations of one source's panel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, key: str) -> tuple[Panel, dict[str, Any]] | None:
        """The panel made from `key` and what was noted with it; None when it is absent or damaged: make it again."""
        folder = self.folder / key
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            # asarray: a plain view of the mapping, without the cost of numpy's memmap class in every small step
            blocks = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _BLOCKS}
            sessions, length = np.load(folder / "sessions.npy"), np.load(folder / "length.npy")
            if meta["version"] != _VERSION:
                return None
            return Panel(
                symbols=tuple(meta["symbols"]), sessions=sessions, length=length, complete=meta["complete"], **blocks
            ), meta["notes"]
        except (OSError, ValueError, EOFError, KeyError, TypeError):
            return None

    def save(self, key: str, panel: Panel, notes: Mapping[str, Any]) -> None:
        """Write a new generation, then remove the older ones; failure to save costs only time."""
        with contextlib.suppress(OSError):  # cleared meanwhile, or the disk is full
            self.folder.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=self.folder))
            try:
                self._fill(draft, panel, notes)
                old = [p for p in self.folder.iterdir() if p.name != key and not p.name.startswith(".")]
                with contextlib.suppress(OSError):  # another process made the same generation first
                    draft.rename(self.folder / key)
                for folder in old:
                    shutil.rmtree(folder, ignore_errors=True)  # Windows keeps a mapped one until its reader ends
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def _fill(self, draft: Path, panel: Panel, notes: Mapping[str, Any]) -> None:
        for name in (*_BLOCKS, "sessions", "length"):
            np.save(draft / f"{name}.npy", getattr(panel, name))
        meta = {"version": _VERSION, "symbols": panel.symbols, "complete": panel.complete, "notes": notes}
        (draft / "meta.json").write_text(json.dumps(meta, sort_keys=True), encoding="utf-8")


@dataclass(frozen=True, slots=True, eq=False)
class FilePanel:
    """The bars of the operator's own files, as they stand there or as they were judged."""

    panel: Panel
    sha256: str  # of the files' names and contents
    removed: Mapping[str, int]  # reason code -> bars that the judge took out
    mapped: bool  # from the cache, not read from the files


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    bars: Mapping[str, BarColumns]
    removed: Mapping[str, int]
    lasting: bool  # the same bars would be judged the same tomorrow


Judge = Callable[[Mapping[str, BarColumns]], Judged]


def as_they_are(bars: Mapping[str, BarColumns]) -> Judged:
    return Judged(bars, {}, lasting=True)


def panel_of_files(
    path: Path, cache: Path, symbols: Collection[str] | None = None, *, judge: Judge = as_they_are, judged: str = "raw"
) -> FilePanel:
    """The bars of these files, through a panel in `cache`/panel that is made again when a file changes.

    `judged` names what the judge does. A file is taken as unchanged while its size and time of change are. Raises
    DataError as core.bars_io.read_bars does, and BARS_DUPLICATE when a symbol has two bars of one session.
    """
    files = bar_files(path, symbols)
    key = _key(files)
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    folder = PanelFolder(cache / "panel" / f"file-{judged}-{place}")
    found = folder.open(key)
    if found is not None:
        panel, notes = found
        return FilePanel(_wanted(panel, symbols), str(notes["sha256"]), notes["removed"], mapped=True)
    digest = hashlib.sha256()
    bars = judge(read_bars(path, None if None in files.values() else symbols, digest=digest))
    try:
        panel = Panel.from_bars(bars.bars)
    except ValueError as error:
        raise DataError(f"{path}: {error}", code="BARS_DUPLICATE", advice="keep one bar a session") from error
    if bars.lasting and _key(bar_files(path, symbols)) == key:  # else it was written to meanwhile
        folder.save(key, panel, {"sha256": digest.hexdigest(), "path": str(path), "removed": dict(bars.removed)})
    return FilePanel(_wanted(panel, symbols), digest.hexdigest(), bars.removed, mapped=False)


def _key(files: Collection[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        facts = file.stat()
        digest.update(f"{file.name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def _wanted(panel: Panel, symbols: Collection[str] | None) -> Panel:
    if symbols is None or set(panel.symbols) <= set(symbols):
        return panel
    return panel.select([s for s in panel.symbols if s in symbols])
