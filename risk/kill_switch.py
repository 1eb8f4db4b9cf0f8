"""The operator's stop: the existence of one file, in any form, read fresh at every question."""

from __future__ import annotations

import os
from pathlib import Path


class KillSwitch:
    """`state/KILL_SWITCH`. The content is never parsed: an editor, a shell or a phone may write anything into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def is_active(self) -> bool:
        """True for a file, folder, dangling link, other case, or `.txt` added by an editor; also when we cannot look.

        A missing state folder is "cannot look": a wrong KOBE_HOME must not read as permission to trade.
        """
        wanted = self.path.name.casefold()
        try:
            os.lstat(self.path)  # follows no link, opens nothing
        except FileNotFoundError:
            try:
                names = {entry.name.casefold() for entry in self.path.parent.iterdir()}
            except OSError:
                return True
            return wanted in names or f"{wanted}.txt" in names
        except OSError:
            return True
        return True


class LatchedHalt:
    """Once active, active for the life of this process: removing the file does not by itself resume trading (P41)."""

    def __init__(self, inner: KillSwitch) -> None:
        self._inner, self._seen = inner, False

    def is_active(self) -> bool:
        self._seen = self._seen or self._inner.is_active()
        return self._seen
