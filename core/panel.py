"""All symbols' bars as one block of columns, left-aligned: row k is each symbol's own k-th bar.

Windows therefore count the bars a symbol traded; a missing session shifts nothing and is never filled forward.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

from core.bars_io import FIELDS, BarColumns, Days, Floats, Split, to_day

_TURN = 16  # symbols turned at once when a panel is built


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """symbols (n_symbols,) · sessions (n_sessions,) int32 days, ascending, the union of all dates ·
    open … volume (max_bars, n_symbols) float64, NaN after a symbol's last bar ·
    session_index (max_bars, n_symbols) int32 into sessions, -1 after the last bar · length (n_symbols,) own bars.
    Prices USD per share on one basis, volume shares.
    complete: it is known that no open, high, low or close is missing in a symbol's life.
    """

    symbols: tuple[str, ...]
    sessions: Days
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    session_index: npt.NDArray[np.int32]
    length: npt.NDArray[np.int32]
    complete: bool = False

    @classmethod
    def from_bars(cls, bars: Mapping[str, BarColumns]) -> Panel:
        """Raises ValueError when a symbol's dates are not strictly increasing: clean the bars first."""
        symbols = tuple(sorted(s for s in bars if len(bars[s])))
        if not symbols:
            none, nothing = np.empty((0, 0)), np.empty(0, np.int32)
            return cls((), nothing, none, none, none, none, none, np.empty((0, 0), np.int32), nothing)
        for symbol in symbols:
            if (np.diff(bars[symbol].dates) <= 0).any():
                raise ValueError(f"{symbol}: dates must be strictly increasing")
        sessions = np.unique(np.concatenate([bars[s].dates for s in symbols])).astype(np.int32)
        length = np.array([len(bars[s]) for s in symbols], dtype=np.int32)
        shape = (int(length.max()), len(symbols))
        blocks: dict[str, Any] = {f: np.empty(shape) for f in FIELDS}
        index = np.empty(shape, dtype=np.int32)
        complete = True
        for first in range(0, len(symbols), _TURN):  # a few columns at a time: turned in the cache, written in rows
            group = [bars[s] for s in symbols[first : first + _TURN]]
            for f in FIELDS:
                turned = _side_by_side([getattr(own, f) for own in group], shape[0], np.nan)
                blocks[f][:, first : first + _TURN] = turned.T
                complete = complete and (f == "volume" or all(np.isfinite(getattr(own, f)).all() for own in group))
            at = [np.searchsorted(sessions, own.dates).astype(np.int32) for own in group]
            index[:, first : first + _TURN] = _side_by_side(at, shape[0], -1).T
        return cls(symbols, sessions, **blocks, session_index=index, length=length, complete=bool(complete))

    def truncated(self, session: date) -> Panel:
        """Only what was known at the close of `session`."""
        keep = int(np.searchsorted(self.sessions, to_day(session), side="right"))
        if keep == len(self.sessions):
            return self
        length = ((self.session_index >= 0) & (self.session_index < keep)).sum(axis=0).astype(np.int32)
        rows = int(length.max(initial=0))
        gone = np.arange(rows)[:, None] >= length[None, :]
        blocks: dict[str, Any] = {f: np.where(gone, np.nan, getattr(self, f)[:rows]) for f in FIELDS}
        index = np.where(gone, np.int32(-1), self.session_index[:rows]).astype(np.int32)
        return replace(self, sessions=self.sessions[:keep], **blocks, session_index=index, length=length)

    def select(self, symbols: Sequence[str]) -> Panel:
        """These symbols in this order, always a copy; a name that is not here raises KeyError."""
        where = {s: k for k, s in enumerate(self.symbols)}
        columns = [where[s] for s in symbols]
        blocks: dict[str, Any] = {f: np.take(getattr(self, f), columns, axis=1) for f in FIELDS}
        return replace(
            self,
            symbols=tuple(symbols),
            **blocks,
            session_index=np.take(self.session_index, columns, axis=1),
            length=self.length[columns],
        )

    def symbols_with(self, session: date) -> int:
        """How many symbols have a bar of that session as their last one."""
        return len(self.symbols) - len(self.without(session))

    def without(self, session: date) -> tuple[str, ...]:
        """Symbols whose last bar is not of that session."""
        if not self.symbols:
            return ()
        at = int(np.searchsorted(self.sessions, to_day(session)))
        if at == len(self.sessions) or self.sessions[at] != to_day(session):
            return self.symbols
        last = self.session_index[np.maximum(self.length - 1, 0), np.arange(len(self.symbols))]
        absent = (self.length == 0) | (last != at)
        return tuple(self.symbols[int(k)] for k in np.flatnonzero(absent))


def _side_by_side(series: Sequence[npt.NDArray[Any]], n_bars: int, fill: float) -> npt.NDArray[Any]:
    """(n_series, n_bars), `fill` after the end of each."""
    out = np.full((len(series), n_bars), fill, dtype=series[0].dtype)
    for row, values in zip(out, series, strict=True):
        row[: len(values)] = values
    return out


def adjust_for_splits(panel: Panel, splits: Sequence[Split], upto: date) -> Panel:
    """Prices before a split's ex-date divided by its ratio, volume multiplied: the basis of session `upto`.

    The panel must own its arrays (a selected copy): columns with a split are changed in place. Splits after `upto` are
    not yet in force and are left out, so that a scan never sees them.
    """
    where = {s: k for k, s in enumerate(panel.symbols)}
    for split in splits:
        column = where.get(split.symbol)
        if column is None or split.ex_date > upto or not (split.ratio > 0):
            continue
        before = int(np.searchsorted(panel.sessions, to_day(split.ex_date)))
        index = panel.session_index[: int(panel.length[column]), column]
        rows = slice(0, int(np.searchsorted(index, before)))
        for block in (panel.open, panel.high, panel.low, panel.close):
            block[rows, column] /= split.ratio
        panel.volume[rows, column] *= split.ratio
    return panel


def snapshot_sha256(panel: Panel) -> str:
    """The identity of what was decided on: symbols, sessions and every number. Not a function of memory layout."""
    digest = hashlib.sha256("\n".join(panel.symbols).encode())
    for block in (panel.sessions, panel.length, panel.session_index, *(getattr(panel, f) for f in FIELDS)):
        digest.update(np.ascontiguousarray(block).view(np.uint8).data if block.size else b"")
    return digest.hexdigest()
