"""The bars as a scan saw them, kept so that its decisions can be worked out again when a vendor has changed its word.

`logs/inputs/bars/<source>/<session>-<snapshot>.bars`: one file per session and snapshot. A symbol whose earlier bars
are what the file before said adds its new bars only; the others, and all in the first file of a month, are whole.
So months stand alone: a month's files may be deleted together, and what is read is proved by its snapshot hash.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.bars_io import FIELDS
from core.errors import DataError
from core.files import write_atomic
from core.panel import Panel, snapshot_sha256

_SCHEMA = 1
_LEVEL = 1  # zlib: level 6 is three times slower and 4 % smaller on prices
_C1, _C2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
Ints = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """One file, read: per symbol its bars from row `start` on; earlier rows are those of the file before."""

    header: Mapping[str, Any]
    sessions: npt.NDArray[np.int32]
    days: Mapping[str, npt.NDArray[np.int32]]
    values: Mapping[str, npt.NDArray[np.float64]]  # (n_bars, 5)
    start: Mapping[str, int]


class SeenBars:
    """One source's folder. Raises DataError SEEN_ABSENT or SEEN_DAMAGED when asked for what cannot be given."""

    def __init__(self, root: Path, source: str) -> None:
        self.folder = root / "bars" / re.sub(r"[^A-Za-z0-9.-]", "_", source)

    def path(self, session: date, snapshot: str) -> Path:
        return self.folder / f"{session.isoformat()}-{snapshot[:16]}.bars"

    def write(self, panel: Panel, session: date, snapshot: str) -> Path:
        """Keep this panel; a file that is there already stays. Raises OSError."""
        path = self.path(session, snapshot)
        if path.exists():
            return path
        before = self._before(session)
        start = np.zeros(len(panel.symbols), dtype=np.intp) if before is None else _same_rows(panel, before[1])
        header = {
            "schema": _SCHEMA, "session": session.isoformat(), "snapshot_sha256": snapshot,
            "before": None if before is None else before[0], "symbols": list(panel.symbols),
            "rows": int(panel.close.shape[0]), "complete": panel.complete, "start": start.tolist(),
            "length": panel.length.tolist(), "digest": _digests(panel, panel.length).tolist(),
            "sessions": int(panel.sessions.size),
        }  # fmt: skip
        body = zlib.compress(_packed(panel, start), _LEVEL)
        write_atomic(path, json.dumps(header, separators=(",", ":")).encode() + b"\n" + body, durable=False)
        return path

    def _before(self, session: date) -> tuple[str, Mapping[str, tuple[int, int]]] | None:
        """Name and columns of the newest usable file of the same month that is not of a later session. What another
        version of this program wrote, or what is no header, is passed over: nothing is built upon it."""
        month = sorted(self.folder.glob(f"{session.isoformat()[:7]}-*.bars"), reverse=True)
        for path in month:
            if path.name[:10] > session.isoformat():
                continue
            try:
                with path.open("rb") as file:
                    return path.name, _known(json.loads(file.readline()))
            except (OSError, ValueError, KeyError, TypeError, OverflowError):
                continue
        return None

    def read(self, session: date, snapshot: str) -> Panel:
        """The panel, proved by its hash."""
        last = self._columns(self.path(session, snapshot).name)
        panel = _panel(last.header, last.sessions, self._whole(last))
        if snapshot_sha256(panel) != snapshot:
            raise _damaged(self.path(session, snapshot).name, "its bars are not those of its snapshot")
        return panel

    def _whole(self, last: _Columns) -> dict[str, tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]]:
        """Every symbol's column, put together along the files before."""
        names: list[str] = last.header["symbols"]
        parts = {s: [(last.days[s], last.values[s])] for s in names}
        open_at = {s: last.start[s] for s in names if last.start[s]}
        at, seen = last, {""}
        while open_at:
            name = str(at.header["before"])
            if name in seen:
                raise _damaged(name, "it names itself as the file before")
            seen.add(name)
            at = self._columns(name)
            for symbol, wanted in list(open_at.items()):
                if symbol not in at.days or at.start[symbol] + len(at.days[symbol]) < wanted:
                    raise _damaged(name, f"it has no bars of {symbol}")
                begin = at.start[symbol]
                if begin < wanted:
                    keep = slice(0, wanted - begin)
                    parts[symbol].append((at.days[symbol][keep], at.values[symbol][keep]))
                open_at[symbol] = min(begin, wanted)
                if not begin:
                    del open_at[symbol]
        return {s: (np.concatenate([d for d, _ in p[::-1]]), np.concatenate([v for _, v in p[::-1]]))
                for s, p in parts.items()}  # fmt: skip

    def _columns(self, name: str) -> _Columns:
        try:
            head, _, body = (self.folder / name).read_bytes().partition(b"\n")
            header = json.loads(head)
            raw = zlib.decompress(body)
        except FileNotFoundError as error:
            raise DataError(f"{name}: the bars of that scan were not kept", code="SEEN_ABSENT") from error
        except (OSError, ValueError, zlib.error) as error:
            raise _damaged(name, str(error)) from error
        try:
            return _unpacked(header, raw)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(name, str(error)) from error


def _damaged(name: str, why: str) -> DataError:
    return DataError(f"{name}: {why}", code="SEEN_DAMAGED", advice="that day cannot be worked out again")


# ---------------------------------------------------------------- what is the same as before
def _digests(panel: Panel, rows: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """(n_symbols,) a 64-bit sum over the first `rows` bars of each: against accidents, not against an adversary.

    Every cell is mixed (the finaliser of splitmix64) and multiplied by an odd weight of its place, so that one changed
    cell always changes the sum. Read as int64 in the header.
    """
    if not panel.symbols:
        return np.empty(0, dtype=np.uint64)
    count = panel.close.shape[0]
    inside = np.arange(count)[:, None] < np.asarray(rows)[None, :]
    total = np.zeros(len(panel.symbols), dtype=np.uint64)
    days = np.append(panel.sessions, np.int32(-1))[panel.session_index].astype(np.uint64)
    for number, block in enumerate([days, *(getattr(panel, f).view(np.uint64) for f in FIELDS)]):
        mixed = (block ^ (block >> np.uint64(31))) * _C1
        mixed ^= mixed >> np.uint64(29)
        place = np.arange(count, dtype=np.uint64) * np.uint64(2 * len(FIELDS) + 2) + np.uint64(number + 1)
        weight = (place * _C2) | np.uint64(1)
        total += np.where(inside, mixed * weight[:, None], np.uint64(0)).sum(axis=0, dtype=np.uint64)
    return total


def _known(header: Any) -> Mapping[str, tuple[int, int]]:
    """Symbol -> (bars, digest) as a header tells. Raises ValueError, KeyError, TypeError or OverflowError."""
    if header["schema"] != _SCHEMA:
        raise ValueError(f"schema {header['schema']} is not {_SCHEMA}")
    rows = np.array(header["length"], dtype=np.intp).tolist()
    digests = np.array(header["digest"], dtype=np.uint64).tolist()
    return {str(s): (int(n), int(d)) for s, n, d in zip(header["symbols"], rows, digests, strict=True)}


def _same_rows(panel: Panel, known: Mapping[str, tuple[int, int]]) -> Ints:
    """Per symbol how many of its first bars are exactly the whole column of the file before; 0 when they are not."""
    rows = np.array([known.get(s, (0, 0))[0] for s in panel.symbols], dtype=np.intp)
    wanted = np.array([known.get(s, (0, 0))[1] for s in panel.symbols], dtype=np.uint64)
    fits = (rows > 0) & (rows <= panel.length) & (_digests(panel, np.minimum(rows, panel.length)) == wanted)
    return np.where(fits, rows, 0).astype(np.intp)


# ---------------------------------------------------------------- bytes
def _packed(panel: Panel, start: Ints) -> bytes:
    """sessions, then days, then each field, of all symbols one after the other; little-endian."""
    parts = [panel.sessions.astype("<i4").tobytes()]
    spans = list(zip(range(len(panel.symbols)), start.tolist(), panel.length.tolist(), strict=True))
    parts += [panel.sessions[panel.session_index[a:b, j]].astype("<i4").tobytes() for j, a, b in spans]
    for field in FIELDS:
        block = getattr(panel, field)
        parts += [np.ascontiguousarray(block[a:b, j]).astype("<f8").tobytes() for j, a, b in spans]
    return b"".join(parts)


def _unpacked(header: Mapping[str, Any], raw: bytes) -> _Columns:
    if header["schema"] != _SCHEMA:
        raise ValueError(f"schema {header['schema']} is not {_SCHEMA}")
    symbols, counts = header["symbols"], [n - a for n, a in zip(header["length"], header["start"], strict=True)]
    total, first = sum(counts), 4 * header["sessions"]
    if len(raw) != first + total * (4 + 8 * len(FIELDS)):
        raise ValueError("it is cut short")
    sessions = np.frombuffer(raw, "<i4", header["sessions"]).astype(np.int32)
    days = np.frombuffer(raw, "<i4", total, first).astype(np.int32)
    values = np.frombuffer(raw, "<f8", total * len(FIELDS), first + 4 * total).reshape(len(FIELDS), total).T
    edges = np.concatenate([[0], np.cumsum(counts)]).astype(int).tolist()
    spans = {s: slice(edges[k], edges[k + 1]) for k, s in enumerate(symbols)}
    return _Columns(
        header, sessions, {s: days[at] for s, at in spans.items()}, {s: values[at] for s, at in spans.items()},
        dict(zip(symbols, header["start"], strict=True)),
    )  # fmt: skip


def _panel(
    header: Mapping[str, Any], sessions: npt.NDArray[np.int32],
    columns: Mapping[str, tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]],
) -> Panel:  # fmt: skip
    symbols = tuple(header["symbols"])
    shape = (int(header["rows"]), len(symbols))
    blocks: dict[str, Any] = {f: np.full(shape, np.nan) for f in FIELDS}
    index = np.full(shape, -1, dtype=np.int32)
    length = np.array(header["length"], dtype=np.int32)
    for j, symbol in enumerate(symbols):
        days, values = columns[symbol]
        index[: len(days), j] = np.searchsorted(sessions, days)
        for k, field in enumerate(FIELDS):
            blocks[field][: len(days), j] = values[:, k]
    return Panel(symbols, sessions, **blocks, session_index=index, length=length, complete=bool(header["complete"]))
