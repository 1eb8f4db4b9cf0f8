"""The symbols whose data is not believed, and letting one go after a person has looked.

  quarantine.py list
  quarantine.py release SYMBOL --reason TEXT     of the same session it is not taken in again
  quarantine.py release VENDOR --reason TEXT     a vendor that was not believed today, for instance polygon
While a symbol is in, nothing is bought in it; what is held is looked after as ever.
Exit: 0 nothing is in, or released · 1 list: somebody is in; release: that one is not in · 2 usage · 11 damaged
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import asdict

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli, logs
from core.clock import Clock, SystemClock
from core.domain import canonical_symbol
from core.env import load_dotenv
from core.errors import Exit, UsageError
from core.paths import home


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("action", choices=("list", "release"))
    p.add_argument("name", nargs="?", metavar="SYMBOL", help="with release: the symbol, or the vendor")
    p.add_argument("--reason", default="", help="with release: why it is believed now; kept in the journal")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None, *, clock: Clock | None = None) -> int:
    args = parser().parse_args(argv)
    if (args.action == "release") != bool(args.name):
        raise UsageError("release names one symbol, list none")
    if args.action == "release" and not args.reason.strip():
        raise UsageError("release wants a reason", advice='--reason "the other vendor was wrong, looked at 2026-11-25"')
    load_dotenv(args.dotenv)
    clock = clock or SystemClock()
    logs.configure(home(), clock, run_id="quarantine", mode="")
    return _release(args, clock) if args.action == "release" else _list(args)


def _list(args: argparse.Namespace) -> int:
    from data.quality.quarantine import Quarantine

    place = Quarantine(home().state)
    held, morning = place.held(), place.morning()
    blocked = morning is not None and morning.get("code") == "VENDOR_BASIS"
    if args.json:
        cli.print_json({"symbols": {s: asdict(row) for s, row in held.items()}, "morning": morning})
    else:
        rows = [(s, row.code, row.session, row.source, row.detail) for s, row in held.items()]
        head = ("symbol", "code", "session", "source", "found")
        cli.out(cli.table(head, rows) if rows else "nobody is in quarantine")
        if morning is not None:
            second = morning["second"] or "no second vendor"
            cli.out(
                f"last look: {morning['session']} {morning['source']} against {second}: {morning['code']}, "
                f"{morning['differ']} of {morning['compared']} differ"
            )
    return Exit.NO if held or blocked else Exit.OK


def _release(args: argparse.Namespace, clock: Clock) -> int:
    from data.quality.quarantine import Quarantine

    place = Quarantine(home().state)
    vendor = place.release_vendor(args.name.lower())
    facts: dict[str, object]
    if vendor:
        facts = {"vendor": args.name.lower(), "reason": args.reason}
    else:
        try:
            symbol = str(canonical_symbol(args.name))
        except ValueError as error:
            raise UsageError(str(error)) from error
        held = place.release(symbol, reason=args.reason, at=clock.now())
        if held is None:
            cli.print_json({"released": None}) if args.json else cli.out(f"{symbol} is not in quarantine")
            return Exit.NO
        facts = {"symbol": symbol, "reason": args.reason, "was": asdict(held)}
    if home().journal.is_file():
        from core.journal import Journal

        Journal(home().journal, clock).append("quarantine_released", facts)
    logs.event("quarantine_released", code="QUARANTINE_RELEASED", **facts)
    cli.print_json({"released": facts}) if args.json else cli.out(f"released: {args.name}")
    return Exit.OK


if __name__ == "__main__":
    sys.exit(cli.run(main))
