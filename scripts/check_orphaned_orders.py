"""List open orders at the broker that belong to nothing of ours any more, each with its cause.

  --cancel      cancel those that this program sent, and look until they are gone
  --order ID    with --cancel: also this one that somebody else sent (order id or client order id; may be repeated)
What is ours and in its place is never listed: protection of an open trade, orders of today that still work. Works while
the kill switch is on. Each cancel is in the journal before it is asked for.
Exit: 0 none · 1 some remain · 2 usage · 3 another command is changing something · 10 configuration ·
11 state damaged · 30 broker unreachable, or its listing cannot be proved complete
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit, UsageError

if TYPE_CHECKING:
    from execution.orphans import Removed


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mode", choices=("paper", "live"), help="which broker; default: the account of this home")
    p.add_argument("--cancel", action="store_true", help="cancel those that this program sent")
    p.add_argument("--order", action="append", default=[], metavar="ID", help="with --cancel: this foreign one too")
    p.add_argument("--reason", default="operator asked", help="kept in the journal with each cancel")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.order and not args.cancel:
        raise UsageError("--order goes with --cancel")
    from execution import orphans
    from execution.operator_lock import operator_action
    from scripts import trading, wiring

    context = wiring.open_context(args, mode=wiring.chosen_mode(args.mode))
    wiring.resume_replayed_account(context)
    if not args.json:
        cli.out(wiring.describe(context, data_source="none", simulated=False))
        for note in context.notes:
            cli.out(note)
    with wiring.closing(context):
        desk = trading.open_desk(context)
        desk.journal.repair()
        if args.cancel:
            with operator_action(trading.operator_lock(context), context.clock, "check_orphaned_orders"):
                result = orphans.remove(desk, args.order, reason=args.reason)
        else:
            result = orphans.Removed(remaining=orphans.look(desk))
    if args.json:
        cli.print_json({
            "orphans": [o.to_json() for o in result.remaining], "cancelled": list(result.cancelled),
            "failed": dict(result.failed),
        })  # fmt: skip
    else:
        cli.out(render(result, cancelling=args.cancel))
    return Exit.NO if result.remaining else Exit.OK


def render(result: Removed, *, cancelling: bool) -> str:
    from scripts.break_lines import WIDTH, wrapped

    lines = [f"cancelled {len(result.cancelled)}"] if cancelling else []
    if not result.remaining:
        return "\n".join([*lines, "no orphaned orders"])
    for orphan in result.remaining:
        row, order = orphan.to_json(), orphan.order
        whose = "ours" if orphan.ours else "not ours"
        head = f"{order.symbol}  {order.side} {order.quantity} {order.status}  {orphan.cause}  {whose}"
        lines += wrapped(head, "", WIDTH)
        lines += wrapped(f"id {order.id}, client id {order.client_order_id}", "", WIDTH, 4)
        lines += [line for fact in orphan.evidence for line in wrapped(fact, "", WIDTH, 4)]
        if order.id in result.failed:
            lines += wrapped(f"could not be cancelled: {result.failed[order.id]}", "", WIDTH, 4)
        lines += wrapped(row["proposal"], "cure: ", WIDTH, 4)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(cli.run(main))
