"""Emergency liquidation: cancel every order, wait, sell what is really held at market, look until flat.

Works while the kill switch is on, through a door that can only make positions smaller. Without --confirm it shows what
it would sell and sends nothing.
Exit: 0 flat · 1 something is left · 2 usage · 3 another liquidation is running · 10 configuration · 11 state damaged ·
30 broker unreachable · 42 --confirm missing
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit, NotConfirmed


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mode", choices=("paper", "live"), help="which broker; default: the account of this home")
    p.add_argument("--confirm", action="store_true", help="really sell everything")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from execution.emergency import close_all
    from scripts import trading, wiring

    context = wiring.open_context(args, mode=wiring.chosen_mode(args.mode))
    wiring.resume_replayed_account(context)
    with wiring.closing(context):
        desk, damage = trading.open_emergency_desk(context)
        if not args.json:
            cli.out(wiring.describe(context, data_source="none", simulated=False))
        if not args.confirm:
            held = desk.broker.positions()
            if not args.json:
                cli.out(cli.table(["symbol", "shares"], [[s, str(p.quantity)] for s, p in sorted(held.items())]))
            raise NotConfirmed(f"{len(held)} positions would be sold at market; nothing was sent")
        run = f"{context.clock.now():%Y%m%dT%H%M%S}"
        result = close_all(desk, run=run, run_lock=context.home.state / "close_all")
        left = {str(s): str(q) for s, q in sorted(result.left.items())}
        if args.json:
            cli.print_json({"flat": result.flat, "left": left, "cancelled": result.cancels.cancelled})
        else:
            cli.out("flat" if result.flat else f"still held: {', '.join(f'{s} {q}' for s, q in left.items())}")
        trading.view_writer(context)(desk.ledger(), context.clock.now().date())  # last: a damaged view hides no answer
    if damage is not None:
        raise damage  # everything was done first; the journal still needs a person
    return Exit.OK if result.flat else Exit.NO


if __name__ == "__main__":
    sys.exit(cli.run(main))
