"""What sidecar.py and status.py share: an observer of this home, opened without touching broker, venue or vendor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.clock import SteppedClock
from core.domain import Mode
from core.errors import KobeError
from execution.observe.observer import Observer, Watched
from execution.scheduler import parse_scan_times
from scripts import wiring

if TYPE_CHECKING:
    from scripts.wiring import Context


def mode_of(named: str | None) -> Mode:
    """As wiring.chosen_mode; a journal that cannot be read keeps nobody from looking."""
    try:
        return wiring.chosen_mode(named)
    except (KobeError, OSError):
        return Mode.PAPER


def open_observer(context: Context, scan_times: str | None = None) -> Observer:
    """`scan_times` as given to the runner; else those of the settings. The account of a replay is seen where it stands.

    Raises StateCorrupt when state/replay.json is damaged.
    """
    wiring.resume_replayed_account(context)
    times = scan_times or ",".join(context.settings.runner.scan_times)
    return Observer(Watched(
        home=context.home, settings=context.settings, clock=context.clock, calendar=context.calendar,
        mode=context.mode.value, broker="alpaca" if context.real_broker else "embedded venue",
        simulated=context.mode is not Mode.LIVE and not (context.real_broker and context.real_data),
        scan_times=parse_scan_times(times), standing=isinstance(context.clock, SteppedClock),
    ))  # fmt: skip
