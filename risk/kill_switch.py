"""The operator's stop: the existence of one file, in any form, read fresh at every question.

Two things are told apart. `KillSwitch` says whether the file is there now. `LatchedHalt` remembers: a process that has
seen it stays halted after the file is gone, until a preflight has passed *after* the removal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class KillSwitch:
    """`state/KILL_SWITCH`. The content is never parsed: an editor, a shell or a phone may write anything into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def is_active(self) -> bool:
        return self.found() is not None

    def found(self) -> str | None:
        """What halts, for people; None when nothing does.

        A file, folder, dangling link, other case, or `.txt` added by an editor halts; so does not being able to look.
        A missing state folder is "cannot look": a wrong KOBE_HOME must not read as permission to trade.
        """
        try:
            os.lstat(self.path)  # follows no link, opens nothing
        except FileNotFoundError:
            return self._under_another_name()
        except (OSError, ValueError) as error:
            return f"{self.path} cannot be looked for: {error}"
        return f"{self.path} exists"

    def _under_another_name(self) -> str | None:
        wanted = self.path.name.casefold()
        try:
            names = os.listdir(self.path.parent)  # noqa: PTH208 - names only, at every question
        except OSError as error:
            return f"{self.path.parent} cannot be read: {error.strerror or error}"
        for name in names:
            if name.strip().casefold() in (wanted, f"{wanted}.txt"):
                return f"{self.path.parent / name} exists"
        return self._beside_its_folder()

    def _beside_its_folder(self) -> str | None:
        """`echo 1 > state\\KILL_SWITCH`, the Windows line, typed into a Unix shell: it lands here (O10)."""
        folder = self.path.parent
        for name in (f"{folder.name}{self.path.name}", f"{folder.name}\\{self.path.name}"):
            if os.path.lexists(folder.parent / name):
                return f"{folder.parent / name} exists: the kill switch, typed for another system"
        return None


class HaltHistory:
    """Halts and passed preflights, folded from the journal. Sequence numbers; 0 = none.

    A pass is written only while the switch is absent; `preflight_voided` takes the newest one back, because the switch
    appeared while it was being written.
    """

    def __init__(self) -> None:
        self.newest_pass = 0
        self.halted_at = 0  # the halt that nothing has resumed yet
        self._before = 0

    def add(self, seq: int, kind: str, body: Mapping[str, Any]) -> None:
        if kind == "preflight_passed":
            self._before, self.newest_pass = self.newest_pass, seq
        elif kind == "preflight_voided" and body.get("pass") == self.newest_pass:
            self.newest_pass = self._before
        elif kind == "trading_halted":
            self.halted_at = seq
        elif kind == "trading_resumed":
            self.halted_at = 0


class LatchedHalt:
    """Once active, active until `release` has seen both: the file gone, and a preflight that passed after that (P41).

    `passes` gives the sequence number of the newest passed preflight, 0 for none, None when it cannot be read. Without
    one, nothing ever releases: active for the life of this process.
    """

    def __init__(self, inner: KillSwitch, passes: Callable[[], int | None] = lambda: None) -> None:
        self._inner, self._passes = inner, passes
        self._latched = False
        self._passed_before: int | None = None  # the newest pass when the file was last seen; None = not known

    def is_active(self) -> bool:
        if self._inner.is_active():
            self._latched = True
            self._passed_before = self._passes()
        return self._latched

    def is_present(self) -> bool:
        """Whether the file itself is there now, or cannot be looked for."""
        return self._inner.is_active()

    def found(self) -> str | None:
        """What halts now, or why it is still halted; None when nothing does."""
        seen = self._inner.found()
        if seen is None and self._latched:
            return f"{self._inner.path} is gone, and no preflight has passed since"
        return seen

    def release(self, record: Callable[[int], None]) -> bool:
        """Let go when both conditions hold; `record(pass)` writes it down first, and what it raises keeps the halt.

        True when this call released. A pass that could not be compared when the file was seen does not count.
        """
        if not self.is_active() or self._inner.is_active():
            return False
        newest = self._passes()
        if newest is None or self._passed_before is None:
            self._passed_before = newest
            return False
        if newest <= self._passed_before:
            return False
        record(newest)
        if self._inner.is_active():  # it came back meanwhile: the next look remembers that
            return False
        self._latched = False
        return True
