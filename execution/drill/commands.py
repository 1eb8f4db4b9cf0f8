"""What other processes of a home do in a drill: the operator's commands, a second trader, the watchdog, a restore.

Each is called with the world and the desk that its script would open, and says in a few words what came of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from core.domain import OrderIntent, OrderKind, Purpose, Side, Tif
from core.errors import AlreadyRunning, KobeError
from execution.desk import Desk
from execution.drill.life import session_of
from execution.drill.plan import SYMBOLS
from execution.emergency import cancel_all, close_all
from execution.runner import only_runner
from execution.watchdog import cancel_round, may_be_out

if TYPE_CHECKING:
    from execution.drill.world import World

_HAND_USD = Decimal(70)
_COPIES = 5


def _enter(world: World, desk: Desk) -> str:
    """An entry that no scan planned, sent through the desk like any other."""
    world.entered += 1
    symbol = SYMBOLS[-world.entered % len(SYMBOLS)]
    broker: Any = desk.broker
    quote = broker.quotes([symbol]).get(symbol)
    if quote is None or quote.ask is None:
        return "no quote"
    session = world.ports.calendar.previous_session(world.day)
    intent = OrderIntent(
        decision_id=f"{session:%Y%m%d}-hand{world.entered}-{symbol}", symbol=symbol, side=Side.BUY,
        quantity=max(1, int(_HAND_USD / quote.ask)), purpose=Purpose.ENTRY, kind=OrderKind.LIMIT, tif=Tif.IOC,
        decided_at=world.clock.now(), strategy="hand", signal_session=session, limit_price=quote.ask,
        stop_price=(quote.ask * Decimal("0.9")).quantize(Decimal("0.01")), time_stop_bars=1, reason="signal",
    )  # fmt: skip
    book = session_of(world.place, world.ports, desk, world.seed).book_for_entry(intent, quote)
    outcome, _ = desk.execute(intent, book, wait_s=1.0)
    return f"{type(outcome).__name__} {intent.client_order_id} x{intent.quantity}"


def _cancel_all(world: World, desk: Desk) -> str:
    done = cancel_all(desk.broker, desk.journal, world.clock, desk=desk)
    return f"{len(done.cancelled)} cancelled, {len(done.remaining)} still open"


def _close_all(world: World, desk: Desk) -> str:
    run, lock = f"{world.clock.now():%Y%m%dT%H%M%S}", world.place.home.state / "close_all"
    done = close_all(desk, run=run, run_lock=lock, deadline_s=10.0, cancel_deadline_s=5.0)
    return "flat" if done.flat else "not flat"


def _reconcile(world: World, desk: Desk) -> str:
    found = world.ports.reconcile(world.place, desk)
    causes = ", ".join(sorted({str(b.cause) for b in found}))
    return f"{len(found)} breaks{f', {causes}' if causes else ''}"


def _force_sync(world: World, desk: Desk) -> str:
    world.ports.force_sync(world.place, desk)
    return "done"


def _watchdog(world: World, desk: Desk) -> str:
    """What the watchdog does when the runner stands still: halt first, then cancel entries and exits."""
    world.trip()
    done = cancel_round(desk.broker, may_be_out(desk.ledger()), world.clock)
    return f"{len(done.cancelled)} cancelled"


def _runaway(world: World, desk: Desk) -> str:
    """A loop gone wrong in the runner itself: an order that was sent already is sent again, and again."""
    runner, approved = world.runners_desk, world.last_approved
    if runner is None or approved is None:
        return "nothing was sent yet"
    refused = []
    for _ in range(_COPIES):
        try:
            runner.broker.submit(approved)
        except KobeError as error:
            refused.append(error.code)
    return f"{_COPIES} copies, refused: {', '.join(sorted(set(refused))) or 'none'}"


def _backup(world: World, desk: Desk) -> str:
    copy = world.place.root / f"backup-{len(world.backups) + 1}"
    shutil.copytree(world.place.home.state, copy)
    world.backups.append(copy)
    return f"the state folder is copied, copy {len(world.backups)}"


def _restore(world: World, desk: Desk) -> str:
    return _put_back(world, world.backups[0])


def _restore_newest(world: World, desk: Desk) -> str:
    return _put_back(world, world.backups[-1])


def _put_back(world: World, copy: Path) -> str:
    """A copy over the state as it is now; the runner that was there is gone."""
    world.end_life()
    shutil.rmtree(world.place.home.state)
    shutil.copytree(copy, world.place.home.state)
    return f"the state folder is again as in {copy.name}"


def _resume(world: World, desk: Desk) -> str:
    world.place.home.kill_switch.unlink(missing_ok=True)
    return "the kill switch is removed"


def _second_runner(world: World, desk: Desk) -> str:
    """Another runner on the same home."""
    try:
        with only_runner(world.place.home.state, world.clock):
            return "it runs"
    except AlreadyRunning as error:
        return f"exit {int(error.exit_code)}, {error}"


COMMANDS: Mapping[str, Callable[[World, Desk], str]] = MappingProxyType(
    {
        "enter": _enter, "cancel_all": _cancel_all, "close_all": _close_all, "reconcile": _reconcile,
        "force_sync": _force_sync, "watchdog": _watchdog, "runaway": _runaway, "backup": _backup, "restore": _restore,
        "restore_newest": _restore_newest, "resume": _resume, "second_runner": _second_runner,
    }
)  # fmt: skip
