"""The boundary of one strategy: a bug behind it stops neither the other strategies nor the exits of what is held."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failed:
    """A strategy that raised: off for this scan, told with its trace."""

    strategy: str
    detail: str
    trace: str


def guarded(strategy: str, act: Callable[[], T]) -> T | Failed:
    """What `act` returns, or what it raised, as a value."""
    try:
        return act()
    except Exception as error:  # noqa: BLE001 - one of the few places that may: whatever the bug, the others go on
        return Failed(strategy, repr(error), "".join(traceback.format_exception(error)))
