"""What the drills are handed by scripts/: the ordinary start-up, the views and the operator's commands.

The drills belong to `execution`, which sees neither the state manager nor the scripts; so the composition root hands
them in, and what is drilled is what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from core.clock import Clock
from core.market_calendar import MarketCalendar
from core.paths import Home
from execution.desk import Desk
from execution.entry import Sizer
from execution.ledger import Ledger
from execution.reconcile import Break

if TYPE_CHECKING:
    from config.settings_schema import Settings


@dataclass(frozen=True, slots=True)
class Place:
    """Where one life of the program runs: its folders, its broker, its clock, its limits."""

    root: Path
    url: str
    clock: Clock
    settings: Settings

    @property
    def home(self) -> Home:
        return Home(self.root)


@dataclass(frozen=True, slots=True)
class Opened:
    """A runner's desk before its start: `check` makes the start-up checks and raises the first problem, `between` is
    the runner's look at the kill switch between two jobs."""

    desk: Desk
    check: Callable[[], None]
    between: Callable[[], None]


class Ports(Protocol):
    """Each call is what a script does at that point; errors are the script's."""

    @property
    def settings(self) -> Settings: ...

    @property
    def calendar(self) -> MarketCalendar: ...

    def open_runner(self, place: Place) -> Opened:
        """The start of `runner.py`, up to its checks."""
        ...

    def open_script(self, place: Place, name: str) -> Desk:
        """The desk that the script of this name works with."""
        ...

    def sizer(self, place: Place) -> Sizer: ...

    def views(self, place: Place) -> Callable[[Ledger, date], None]: ...

    def reconcile(self, place: Place, desk: Desk) -> Sequence[Break]:
        """`reconcile_alpaca.py`: find, record, lock and unlock."""
        ...

    def force_sync(self, place: Place, desk: Desk) -> None:
        """`reconcile_alpaca.py --force-sync`."""
        ...

    def unlock(self, desk: Desk, symbol: str) -> None:
        """`reconcile_alpaca.py --unlock SYMBOL`."""
        ...

    def damaged(self, place: Place) -> Sequence[str]:
        """State documents that cannot be read, or say something else than the journal."""
        ...
