"""Trade the scans of each session: recover, exits, protection, entries, reconcile.

  runner.py --mode paper --universe FILE --cap 50 --scan-times 09:35,10:30,15:55     until Ctrl-C or SIGTERM
  runner.py --mode paper --once [--as-of INSTANT]                                    one scan, now
  runner.py --mode paper --replay 2024-01-02:2024-01-05 [--market PATH]              past sessions on the embedded venue
Without Alpaca keys the broker is the embedded venue, and every line says that it is simulated.
Exit: 0 done · 1 breaks remain, or too many scans failed · 2 usage · 3 another runner is running · 10 configuration,
live not armed · 11 state damaged · 20 no data · 30 broker unreachable or its clock disagrees · 31 account blocked ·
40 kill switch
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mode", choices=("paper", "live"), required=True, help="which broker, never which logic")
    p.add_argument("--universe", type=pathlib.Path, help="CSV with a symbol column, and a sector column if known")
    p.add_argument("--cap", type=int, help="use the first N rows of the universe")
    p.add_argument("--scan-times", help="New York wall times, for instance 09:35,10:30,15:55")
    p.add_argument("--once", action="store_true", help="one scan, then end")
    p.add_argument("--as-of", help="with --once, paper only: an ISO instant, or a session date: the morning after it")
    p.add_argument("--replay", metavar="START:END", help="past sessions, paper only, on the embedded venue")
    p.add_argument("--market", default="simulated", help="what the embedded venue plays: simulated, or a path of bars")
    p.add_argument("--fills", choices=("path", "at_open"), help="how the embedded venue fills; at_open is idealised")
    p.add_argument("--bars", type=pathlib.Path, help="scan these files instead of the store")
    p.add_argument("--allow-dirty", action="store_true", help="paper only: trade code that differs from the pinned one")
    p.add_argument("--no-sidecar", action="store_true", help="leave the page and the metrics routes out this time")
    p.add_argument("--no-alerts", action="store_true", help="start no alerting.py this time")
    p.add_argument("--dotenv", type=pathlib.Path, help="another .env file")
    p.add_argument("--json", action="store_true", help="with --once or --replay: one line of JSON on stdout")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from scripts import running

    running.check(args)
    if args.replay is not None:
        return running.replay(args)
    return running.once(args) if args.once else running.forever(args)


if __name__ == "__main__":
    sys.exit(cli.run(main))
