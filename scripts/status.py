"""One screen: may it trade, what is held, what comes next, what went wrong. Asks neither broker nor vendor nor sidecar.

  status.py                the page of the sidecar, on the terminal
  status.py --watch        again every 5 s, until Ctrl-C; --watch 2 every 2 s
  status.py --json         one line of JSON, with every fact
Exit: 0 it may trade, nothing to look at · 1 it may trade, something to look at · 2 it may not trade, see the STOP
lines · 10 configuration · 11 replay.json damaged · 64 usage (2 is taken) · 130 Ctrl-C
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli

if TYPE_CHECKING:
    from execution.observe.facts import Facts
    from execution.observe.readiness import Readiness
    from execution.observe.state_look import Alerts

OK, WARN, STOP, USAGE = 0, 1, 2, 64
EVERY_S = 5.0
_CLEAR = "\x1b[2J\x1b[H"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: error: {message}\n")


def parser() -> argparse.ArgumentParser:
    p = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--watch", nargs="?", type=_seconds, const=EVERY_S, metavar="SECONDS", help="again and again")
    p.add_argument("--mode", choices=("paper", "live"), help="which account; default: the account of this home")
    p.add_argument("--scan-times", help="as given to the runner, if it was given any")
    cli.add_common(p)
    return p


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.5 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be within 0.5 to 3600 seconds")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from core.clock import SystemClock
    from execution.observe.readiness import readiness
    from execution.observe.screen import banner
    from scripts import observing, wiring

    context = wiring.open_context(args, mode=observing.mode_of(args.mode))
    observer = observing.open_observer(context, args.scan_times)
    watched = observer.watched
    first = banner(watched.mode, watched.broker, simulated=watched.simulated)
    while True:
        if not args.json:
            begin(first, clear=args.watch is not None)  # before a long journal is read
        facts = observer.look()
        ready = readiness(facts, stalled_after_s=context.settings.sidecar.stalled_after_s)
        tell(facts, ready, observer.alerts(), as_json=args.json)
        if args.watch is None:
            return code_of(ready)
        SystemClock().sleep(args.watch)


def code_of(ready: Readiness) -> int:
    if ready.stops:
        return STOP
    return WARN if ready.warnings else OK


def begin(first: str, *, clear: bool) -> None:
    if clear:
        sys.stdout.write(_CLEAR if sys.stdout.isatty() and os.name != "nt" else "-" * 79 + "\n")
    cli.out(first)
    sys.stdout.flush()


def tell(facts: Facts, ready: Readiness, alerts: Alerts, *, as_json: bool) -> None:
    from execution.observe.screen import screen

    if as_json:
        cli.print_json(as_plain(facts, ready, alerts))
    else:
        cli.out(screen(facts, ready, alerts))
    sys.stdout.flush()


def as_plain(facts: Facts, ready: Readiness, alerts: Alerts) -> dict[str, Any]:
    """Every fact, money as text; `exit` is the code of this command."""
    from dataclasses import asdict

    from core.canonical import plain
    from core.secrets import mask_values

    rows = {
        name: [{"code": r.code, "found": r.words, "action": r.action} for r in found]
        for name, found in (("stops", ready.stops), ("warnings", ready.warnings))
    }
    known = None if isinstance(alerts, str) else [plain(alert) for alert in alerts]
    value = {"state": ready.state, "exit": code_of(ready), **rows, "alerts": known, "facts": plain(asdict(facts))}
    return dict(mask_values(value))


if __name__ == "__main__":
    sys.exit(cli.run(main))
