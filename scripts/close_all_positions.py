"""Emergency liquidation: cancel every order, wait, sell what is really held at market, look until flat.

Works while the kill switch is on, through a door that can only make positions smaller. Without --confirm it shows what
it would sell and sends nothing. A live account wants the end of its number as well: typed when asked, or --yes-account
TAIL where nobody can be asked.
Exit: 0 flat, and no order open · 1 something is left · 2 usage · 3 another action of an operator is under way ·
10 configuration · 11 state damaged · 30 broker unreachable · 42 --confirm or the account's tail missing
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.domain import Mode
from core.errors import Exit, NotConfirmed

if TYPE_CHECKING:
    from execution.emergency import CloseResult


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mode", choices=("paper", "live"), help="which broker; default: the account of this home")
    p.add_argument("--confirm", action="store_true", help="really sell everything")
    p.add_argument("--yes-account", metavar="TAIL", help="the last 4 characters of the account's number")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from execution.emergency import close_all
    from scripts import trading, wiring

    context = wiring.open_context(args, mode=wiring.chosen_mode(args.mode))
    wiring.resume_replayed_account(context)
    if not args.json:
        cli.out(wiring.describe(context, data_source="none", simulated=False))
    with wiring.closing(context):
        desk, damage = trading.open_emergency_desk(context)
        if not args.confirm:
            held = desk.broker.positions()
            if not args.json:
                cli.out(cli.table(["symbol", "shares"], [[s, str(p.quantity)] for s, p in sorted(held.items())]))
            raise NotConfirmed(f"{len(held)} positions would be sold at market; nothing was sent")
        require_account(context.mode, desk.broker.account().number, args.yes_account)
        run = f"{context.clock.now():%Y%m%dT%H%M%S}"
        result = close_all(desk, run=run, run_lock=trading.operator_lock(context))
        _print(result, as_json=args.json)
        trading.view_writer(context)(desk.ledger(), context.clock.now().date())  # last: a damaged view hides no answer
    damage = damage or result.cancels.unwritten
    if damage is not None:
        raise damage  # everything was done first; the journal still needs a person
    return Exit.OK if result.done else Exit.NO


def require_account(mode: Mode, number: str, tail: str | None) -> None:
    """Real money is sold only by someone who says whose. Raises NotConfirmed."""
    if tail is None:
        if mode is Mode.PAPER:
            return
        tail = _asked(number)
    if tail != number[-4:]:
        raise NotConfirmed(
            f"{tail!r} is not the end of this account's number; nothing was sent",
            code="ACCOUNT_NOT_CONFIRMED", advice="give the last 4 characters with --yes-account",
        )  # fmt: skip


def _asked(number: str) -> str:
    if not sys.stdin.isatty():
        raise NotConfirmed(
            "a live account is sold only with --yes-account; nothing was sent",
            code="ACCOUNT_NOT_CONFIRMED", advice="repeat with --yes-account and the last 4 characters of its number",
        )  # fmt: skip
    cli.complain(f"this sells everything in a LIVE account; type the last {len(number[-4:])} characters of its number:")
    return sys.stdin.readline().strip()


def _print(result: CloseResult, *, as_json: bool) -> None:
    left = {str(s): str(q) for s, q in sorted(result.left.items())}
    if as_json:
        cli.print_json({
            "flat": result.flat, "left": left, "cancelled": result.cancels.cancelled,
            "not_cancelled": dict(result.cancels.failed), "open_orders": result.open_orders,
        })  # fmt: skip
        return
    cli.out("flat" if result.flat else f"still held: {', '.join(f'{s} {q}' for s, q in left.items())}")
    for order_id, why in sorted(result.cancels.failed.items()):
        cli.out(f"  not cancelled {order_id}: {why}")
    if result.open_orders:
        cli.out(f"  still open: {', '.join(result.open_orders)}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
