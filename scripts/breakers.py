"""The circuit breakers: which are tripped, and a person's word on them. They stop entries; exits always pass.

  breakers.py status                                   which stand, why, until when; and what is not known
  breakers.py resume NAME --reason TEXT                after looking: entries are let through again. NAME is a breaker,
                                                       or one lock of it: loss_concentration:symbol:KO
  breakers.py trip NAME --reason TEXT [--strategy S | --symbol S] [--sessions N]
                                                       stop entries yourself; without --sessions until you resume it
What was resumed does not trip again on what it tripped on. Both are written to the journal, and a runner obeys at once.
Exit: 0 none stands, or done · 1 status: one stands; resume: that one does not · 2 usage · 11 state cannot be read
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli, logs
from core.clock import Clock, SystemClock
from core.env import load_dotenv
from core.errors import Exit, UsageError
from core.paths import home

if TYPE_CHECKING:
    from cognitive.breaker_rules import Trip
    from cognitive.circuit_breakers import Breakers, Lock

BY_PERSON = "person"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("action", choices=("status", "resume", "trip"))
    p.add_argument("name", nargs="?", metavar="NAME", help="with resume and trip")
    p.add_argument("--reason", default="", help="with resume and trip: kept in the journal")
    whom = p.add_mutually_exclusive_group()
    whom.add_argument("--strategy", help="with trip: this strategy only")
    whom.add_argument("--symbol", help="with trip: this symbol only")
    p.add_argument("--sessions", type=int, help="with trip: so many sessions after this one")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None, *, clock: Clock | None = None) -> int:
    args = parser().parse_args(argv)
    _check(args)
    load_dotenv(args.dotenv)
    clock = clock or SystemClock()
    logs.configure(home(), clock, run_id="breakers", mode="")
    if args.action == "status":
        return _status(args)
    return _resume(args, clock) if args.action == "resume" else _trip(args, clock)


def _check(args: argparse.Namespace) -> None:
    from cognitive.breaker_rules import CODES

    if (args.action == "status") == bool(args.name):
        raise UsageError("resume and trip name one breaker, status none", advice="breakers.py status")
    if args.action != "status" and not args.reason.strip():
        raise UsageError(f"{args.action} wants a reason", advice='--reason "looked at all five, the fills were fine"')
    if args.action != "trip" and (args.strategy or args.symbol or args.sessions is not None):
        raise UsageError("--strategy, --symbol and --sessions go with trip")
    if args.action == "trip" and args.name not in CODES:
        raise UsageError(f"no breaker {args.name!r}", advice=f"one of {', '.join(sorted(CODES))}")
    if args.sessions is not None and not 0 <= args.sessions <= 250:
        raise UsageError(f"--sessions must be within 0..250, was {args.sessions}")


def _open(clock: Clock) -> Breakers:
    from cognitive.circuit_breakers import Breakers
    from config.loader import load_settings
    from core.journal import Journal
    from core.market_calendar import market_calendar

    place = home()
    settings = load_settings().cognitive.circuit_breakers
    return Breakers(Journal(place.journal, clock, run_id="breakers"), place.state, market_calendar(), settings)


def _status(args: argparse.Namespace) -> int:
    from cognitive.circuit_breakers import get_breaker_status

    found = get_breaker_status()
    cli.print_json(dict(found)) if args.json else cli.out(str(found))
    if found["state"] == "unknown":
        return Exit.STATE_CORRUPT
    return Exit.NO if found["state"] == "tripped" else Exit.OK


def _resume(args: argparse.Namespace, clock: Clock) -> int:
    gone = _open(clock).clear(args.name, reason=args.reason.strip(), by=BY_PERSON)
    if not gone:
        cli.print_json({"resumed": []}) if args.json else cli.out(f"{args.name} is not tripped")
        return Exit.NO
    _told(args, "resumed", gone)
    return Exit.OK


def _trip(args: argparse.Namespace, clock: Clock) -> int:
    from cognitive.circuit_breakers import current_session
    from core.market_calendar import market_calendar

    calendar = market_calendar()
    session = current_session(calendar, clock.now())
    until = None if args.sessions is None else calendar.offset(session, args.sessions)
    made = _open(clock).trip([_wanted(args)], session, by=BY_PERSON, until=until)
    if not made:
        cli.print_json({"tripped": []}) if args.json else cli.out(f"{args.name} is tripped already")
        return Exit.NO
    _told(args, "tripped", made)
    return Exit.OK


def _wanted(args: argparse.Namespace) -> Trip:
    from cognitive.breaker_rules import ALL, STRATEGY, SYMBOL, Trip
    from core.domain import canonical_symbol

    scope, what = ALL, ""
    if args.strategy:
        scope, what = STRATEGY, args.strategy
    elif args.symbol:
        try:
            scope, what = SYMBOL, str(canonical_symbol(args.symbol))
        except ValueError as error:
            raise UsageError(str(error)) from error
    return Trip(name=args.name, scope=scope, what=what, reason=args.reason.strip())


def _told(args: argparse.Namespace, done: str, locks: Sequence[Lock]) -> None:
    if args.json:
        cli.print_json({done: [lock.to_json() for lock in locks]})
        return
    for lock in locks:
        cli.out(f"{done}: {lock.lock_id} ({lock.reason})" + (f", {lock.end}" if done == "tripped" else ""))


if __name__ == "__main__":
    sys.exit(cli.run(main))
