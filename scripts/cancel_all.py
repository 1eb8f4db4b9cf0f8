"""Cancel every open order at the broker and look until none is left. Works while the kill switch is on.

Resting stops and targets are cancelled too: what is held is then without protection until the runner puts it back.
Exit: 0 nothing is open · 1 some could not be cancelled · 2 usage · 3 another action of an operator is under way ·
10 configuration · 11 done, but the journal is damaged · 30 broker unreachable
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mode", choices=("paper", "live"), help="which broker; default: the account of this home")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from execution.emergency import cancel_all
    from execution.operator_lock import operator_action
    from scripts import trading, wiring

    context = wiring.open_context(args, mode=wiring.chosen_mode(args.mode))
    wiring.resume_replayed_account(context)
    if not args.json:
        cli.out(wiring.describe(context, data_source="none", simulated=False))
    with wiring.closing(context), operator_action(trading.operator_lock(context), context.clock, "cancel_all"):
        desk, damage = trading.open_emergency_desk(context)
        result = cancel_all(desk.broker, desk.journal, context.clock, desk=desk)
    if args.json:
        cli.print_json({"cancelled": result.cancelled, "failed": dict(result.failed), "remaining": result.remaining})
    else:
        cli.out(f"cancelled {len(result.cancelled)}, still open {len(result.remaining)}")
        for order_id, why in sorted(result.failed.items()):
            cli.out(f"  {order_id}: {why}")
    damage = damage or result.unwritten
    if damage is not None:
        raise damage  # everything was done first; the journal still needs a person
    return Exit.OK if result.done else Exit.NO


if __name__ == "__main__":
    sys.exit(cli.run(main))
