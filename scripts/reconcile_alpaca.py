"""Compare what the journal says we hold with the broker, and tell every break with cause, evidence and cure.

Changes no position, trade or order by itself: it writes down what it found, and locks the symbols concerned.
  --full          also name the executions of the last week that are not ours
  --force-sync    after showing the difference: book what the broker can prove, then make ours what it says
  --adopt SYMBOL  shares of it that the broker has beside ours become ours; with --stop PRICE they are protected. Of
                  a position that is ours already, --stop sets another stop
  --unlock SYMBOL lift a lock that a person has looked into
Each of these is one record in the journal first, with --reason, before and after.
Exit: 0 in step · 1 breaks remain · 2 usage · 3 another command is changing something · 10 configuration ·
11 state damaged · 30 broker unreachable, or its answer cannot be believed
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit, UsageError

if TYPE_CHECKING:
    from core.domain import Symbol
    from core.ports import ActionFeed
    from execution.breaks import Break
    from execution.desk import Desk
    from scripts.wiring import Context

FULL_DAYS = 7


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mode", choices=("paper", "live"), help="which broker; default: the account of this home")
    p.add_argument("--full", action="store_true", help="also compare the last week's fills")
    act = p.add_mutually_exclusive_group()
    act.add_argument("--force-sync", action="store_true", help="make ours what the broker says")
    act.add_argument("--adopt", metavar="SYMBOL", help="make shares that the broker has beside ours ours")
    act.add_argument("--unlock", metavar="SYMBOL", help="lift a lock that a person has looked into")
    p.add_argument("--stop", metavar="PRICE", help="with --adopt: the stop that protects it")
    p.add_argument("--reason", default="operator asked", help="kept in the journal with what was asked for")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    symbol, stop = _asked(args)
    from scripts import trading, wiring

    context = wiring.open_context(args, mode=wiring.chosen_mode(args.mode))
    wiring.resume_replayed_account(context)
    with wiring.closing(context):
        desk = trading.open_desk(context)
        desk.journal.repair()
        feed = wiring.action_feed(context)
        if args.force_sync:
            set_aside_damaged(context, desk)
        if args.unlock and symbol is not None:
            unlock(context, desk, symbol, args.reason)
        breaks = look(context, desk, feed, full=args.full)
        if not args.json:
            cli.out(wiring.describe(context, data_source="none", simulated=False))
            for note in context.notes:
                cli.out(note)
            cli.out(render(breaks, desk))
        if args.force_sync or args.adopt:
            act(context, desk, feed, symbol if args.adopt else None, stop, args)
            breaks = look(context, desk, feed, full=args.full)
            if not args.json:
                cli.out(("after the sync: " if args.force_sync else "after the adoption: ") + render(breaks, desk))
    if args.json:
        cli.print_json({"in_step": not breaks, "breaks": [b.to_json() for b in breaks]})
    return Exit.NO if breaks else Exit.OK


def _asked(args: argparse.Namespace) -> tuple[Symbol | None, Decimal | None]:
    """The symbol of --adopt or --unlock and the stop, read before anything is opened. Raises UsageError."""
    from core.domain import canonical_symbol

    named = args.adopt or args.unlock
    try:
        symbol = canonical_symbol(named) if named else None
    except ValueError as error:
        raise UsageError(str(error)) from error
    if args.stop is not None and not args.adopt:
        raise UsageError("--stop goes with --adopt")
    try:
        return symbol, None if args.stop is None else Decimal(args.stop)
    except InvalidOperation as error:
        raise UsageError(f"--stop {args.stop!r} is not a price", advice="for instance 17.25") from error


def look(context: Context, desk: Desk, feed: ActionFeed, *, full: bool) -> tuple[Break, ...]:
    """Every break now, written to the journal. Raises StateCorrupt when positions.json is damaged."""
    from execution import evidence
    from execution.reconcile import record_breaks, view_breaks
    from portfolio.state_manager import StateManager

    view = StateManager(context.home, context.clock).get_positions()
    found, _, _ = evidence.look(desk.broker, feed, desk.ledger, desk.clock)
    found = (*found, *view_breaks(desk.ledger(), view))
    if full:
        since = evidence.instant(desk.broker, desk.clock) - timedelta(days=FULL_DAYS)
        found = (*found, *evidence.strange_fills(desk.broker, desk.ledger(), since))
    record_breaks(desk.journal, found, desk.ledger())
    return found


def unlock(context: Context, desk: Desk, symbol: Symbol, reason: str) -> None:
    from execution import sync
    from execution.operator_lock import operator_action
    from scripts import trading

    with operator_action(trading.operator_lock(context), context.clock, "reconcile --unlock"):
        sync.unlock(desk, symbol, reason=reason)


def act(
    context: Context, desk: Desk, feed: ActionFeed, symbol: Symbol | None, stop: Decimal | None,
    args: argparse.Namespace,
) -> None:  # fmt: skip
    """The one change that was asked for, and the views written from it. Raises AlreadyRunning beside another one."""
    from execution import sync
    from execution.operator_lock import operator_action
    from scripts import trading

    what = "reconcile --force-sync" if symbol is None else "reconcile --adopt"
    with operator_action(trading.operator_lock(context), context.clock, what):
        if symbol is None:
            sync.force_sync(desk, feed, reason=args.reason)
        else:
            done = sync.adopt(desk, feed, symbol, stop, reason=args.reason)
            if not args.json:
                guarded = f"stop {done['stop']}, placed by the runner" if done["stop"] else "no stop: never sold by us"
                cli.out(f"{symbol}: {done['quantity']} shares, {guarded}")
        trading.view_writer(context)(desk.ledger(), context.clock.now().date())


def set_aside_damaged(context: Context, desk: Desk) -> None:
    """A damaged positions.json is kept under another name; the view is then rebuilt."""
    from core.errors import StateCorrupt
    from portfolio.state_manager import StateManager

    manager = StateManager(context.home, context.clock)
    try:
        manager.get_positions()
    except StateCorrupt as error:
        if error.code == "STATE_NEWER":
            raise
        path = manager.path("positions")
        kept = path.with_name(f"positions.damaged-{context.clock.now():%Y%m%dT%H%M%S}.json")
        path.replace(kept)
        desk.journal.append("state_set_aside", {"file": path.name, "kept_as": kept.name, "why": str(error)})


def render(breaks: Sequence[Break], desk: Desk) -> str:
    from scripts.break_lines import render_breaks

    if not breaks:
        return "in step: journal and broker agree"
    locked = sorted(desk.ledger().locked)
    parts = [render_breaks([b.to_json() for b in breaks])]
    if locked:
        parts.append(f"locked: {', '.join(locked)}; other symbols go on trading")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(cli.run(main))
