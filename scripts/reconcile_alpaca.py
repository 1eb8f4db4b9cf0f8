"""Compare what the journal says we hold with the broker, and print every break. Changes nothing without --force-sync.

  --full        also read the broker's fills of the last week and name those that are not ours
  --force-sync  after showing the difference, make ours what the broker says; written to the journal
Exit: 0 in step · 1 breaks remain · 2 usage · 10 configuration · 11 state damaged · 30 broker unreachable, or its answer
cannot be believed
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit, UsageError

if TYPE_CHECKING:
    from execution.desk import Desk
    from execution.reconcile import Break
    from scripts.wiring import Context

FULL_DAYS = 7


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mode", choices=("paper", "live"), help="which broker; default: the account of this home")
    p.add_argument("--full", action="store_true", help="also compare the last week's fills")
    p.add_argument("--force-sync", action="store_true", help="make ours what the broker says")
    p.add_argument("--unlock", metavar="SYMBOL", help="lift a lock that a person has looked into")
    p.add_argument("--reason", default="operator asked", help="with --force-sync or --unlock: kept in the journal")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from scripts import trading, wiring

    context = wiring.open_context(args, mode=wiring.chosen_mode(args.mode))
    wiring.resume_replayed_account(context)
    with wiring.closing(context):
        desk = trading.open_desk(context)
        desk.journal.repair()
        if args.unlock:
            unlock(desk, args.unlock, args.reason)
        if args.force_sync:
            set_aside_damaged(context, desk)
        breaks = look(context, desk, full=args.full)
        if not args.json:
            cli.out(wiring.describe(context, data_source="none", simulated=False))
            for note in context.notes:
                cli.out(note)
            cli.out(render(breaks))
        if args.force_sync:
            sync(context, desk, args.reason)
            breaks = look(context, desk, full=args.full)
            if not args.json:
                cli.out("after the sync: " + render(breaks))
    if args.json:
        from execution.session import break_json

        cli.print_json({"in_step": not breaks, "breaks": [break_json(b) for b in breaks]})
    return Exit.NO if breaks else Exit.OK


def look(context: Context, desk: Desk, *, full: bool) -> tuple[Break, ...]:
    """Every break now, written to the journal. Raises StateCorrupt when positions.json is damaged."""
    from execution.reconcile import find_breaks, foreign_fills, record_breaks, view_breaks
    from portfolio.state_manager import StateManager

    view = StateManager(context.home, context.clock).get_positions()
    broker, ledger = desk.broker, desk.ledger()
    found = find_breaks(ledger, broker.positions(), broker.open_orders(), account=broker.account())
    found = (*found, *view_breaks(ledger, view))
    if full:
        fills = broker.fills(desk.clock.now() - timedelta(days=FULL_DAYS))
        found = (*found, *foreign_fills(ledger, fills))
    record_breaks(desk.journal, found, ledger)
    return found


def unlock(desk: Desk, symbol: str, reason: str) -> None:
    """Raises UsageError when it is not locked. An order of unknown outcome keeps its lock until it is settled."""
    from core.domain import canonical_symbol

    name = canonical_symbol(symbol)
    if name not in desk.ledger().locked:
        raise UsageError(f"--unlock {name}: it is not locked", advice="run without --unlock to see what is")
    desk.journal.append("symbol_unlocked", {"symbol": str(name), "code": "OPERATOR", "reason": reason})


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


def sync(context: Context, desk: Desk, reason: str) -> None:
    from execution.reconcile import force_sync
    from portfolio.state_manager import StateManager
    from scripts import trading

    force_sync(
        desk.journal, StateManager(context.home, context.clock), desk.broker.positions(), ledger=desk.ledger(),
        account=desk.broker.account(), reason=reason,
    )  # fmt: skip
    trading.view_writer(context)(desk.ledger(), context.clock.now().date())


def render(breaks: Sequence[Break]) -> str:
    if not breaks:
        return "in step: journal and broker agree"
    rows = [[b.symbol, str(b.kind), b.ours, b.theirs, b.cause, b.proposal] for b in breaks]
    return cli.table(["symbol", "break", "ours", "theirs", "cause", "proposal"], rows)


if __name__ == "__main__":
    sys.exit(cli.run(main))
