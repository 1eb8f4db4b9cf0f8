"""Watch the runner: when it makes no progress while entries or exits are out, halt trading and cancel them.

runner.py starts it by itself (setting watchdog.enabled) and it ends with the runner. By hand it watches whatever runner
works on this home, until Ctrl-C. What it does: writes state/KILL_SWITCH, cancels entries and exits until the broker
shows none, leaves resting stops and targets where they are. Resume as after any halt: python scripts/preflight.py --all
When the home is deleted under it, it cancels what it finds at a real broker and ends.
Exit: 0 the runner ended as told, or another watchdog took over · 2 usage · 10 configuration, or its home is gone ·
40 it has halted trading
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit

if TYPE_CHECKING:
    from core.ports import Broker
    from execution.watchdog import Watchdog
    from scripts.wiring import Context


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mode", choices=("paper", "live"), help="which broker; default: the account of this home")
    p.add_argument("--market", default="simulated", help="what the embedded venue plays, as given to the runner")
    p.add_argument("--fills", choices=("path", "at_open"), help="how the embedded venue fills, as given to the runner")
    p.add_argument("--token", help="used by runner.py, which holds the other end of the standard input")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from core import logs
    from core.errors import ConfigError
    from execution.watchdog import POLL_S, Verdict
    from scripts import watching, wiring

    context = wiring.open_context(args, mode=wiring.chosen_mode(args.mode))
    context.market_spec, context.fills = args.market, args.fills
    gone = watching.runner_gone() if args.token else threading.Event()
    with wiring.closing(context):
        dog = _watchdog(context, args.token, gone)
        logs.event("watchdog_started", code="WATCHING", token=args.token)
        verdict = dog.step()
        while verdict in (Verdict.WATCHING, Verdict.STALLED):
            context.clock.sleep(POLL_S)
            verdict = dog.step()
    logs.event("watchdog_ended", code=verdict.upper(), tripped=dog.ever_tripped)
    if verdict is Verdict.HOMELESS:
        raise ConfigError(
            f"{context.home.state} is gone: there is nothing left to watch", code="HOME_GONE",
            advice="look at the broker for what is held; a backup comes back with restore.py",
        )  # fmt: skip
    if args.json:
        cli.print_json({"ended": str(verdict), "tripped": dog.ever_tripped})
    return Exit.HALTED if dog.ever_tripped else Exit.OK


def _watchdog(context: Context, token: str | None, gone: threading.Event) -> Watchdog:
    from core.journal import Journal
    from execution.heartbeat import BEAT_FILE
    from execution.watchdog import Follower, Watchdog
    from scripts import trading, wiring

    journal = wiring.open_journal(context)
    broker = _broker(context) if context.real_broker else None  # its client takes a second to load: not after a trip
    return Watchdog(
        beats=context.home.state / BEAT_FILE,
        ledger=Follower(journal),
        open_broker=lambda: broker or _broker(context),
        journal=journal,
        aside=Journal(trading.aside_path(context), context.clock, run_id=context.run_id),
        clock=context.clock,
        stalled_after_s=context.settings.watchdog.stalled_after_s,
        trip=lambda why: trading.trip_switch(context, why),
        token=token,
        gone=gone.is_set,
        home_is_there=context.home.state.is_dir,
        broker_is_elsewhere=context.real_broker,
    )


def _broker(context: Context) -> Broker:
    """Reads and cancels; an order cannot leave through it."""
    from execution.admission import NothingSent
    from risk.kill_switch import KillSwitch
    from scripts import wiring

    return wiring.open_broker(context, halt=KillSwitch(context.home.kill_switch), admission=NothingSent(cancels=True))


if __name__ == "__main__":
    sys.exit(cli.run(main))
