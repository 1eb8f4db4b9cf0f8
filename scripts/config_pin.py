"""Pin the configuration, or name what differs from the pin.

  pin     accept the settings, frozen parameters, universe, code and model as they are now; a number that changed more
          than five-fold is taken for a slip and wants --ack; so does a new model together with changed settings or
          parameters
  verify  compare with the pin

Exit: 0 pinned, or in step · 1 something differs, or nothing is pinned · 2 usage · 10 configuration invalid ·
11 the pin is damaged"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from config.pin import ITEMS, check_pin, large_changes, pin_path, write_pin
from core import cli
from core.clock import SystemClock
from core.env import load_dotenv
from core.errors import Exit
from core.journal import Journal
from core.paths import home


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("action", choices=("pin", "verify"))
    made.add_argument("--ack", action="store_true", help="with pin: the large changes that verify names are meant")
    cli.add_common(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    load_dotenv(args.dotenv)
    return _pin(as_json=args.json, ack=args.ack) if args.action == "pin" else _verify(as_json=args.json)


def _pin(*, as_json: bool, ack: bool) -> int:
    large = large_changes(home())
    hashes = write_pin(home(), ack=ack)
    _record(hashes, large)
    if as_json:
        cli.print_json({"pinned": True, "items": hashes})
    else:
        cli.out(cli.table(("item", "sha256"), [(name, hashes[name][:16]) for name in ITEMS]))
        cli.out(f"pinned in {pin_path(home())}")
    return Exit.OK


def _record(hashes: dict[str, str], large: tuple[str, ...]) -> None:
    """Into the journal of this home, if it has one: what was accepted, and the large changes by name."""
    if home().journal.is_file():
        Journal(home().journal, SystemClock()).append("config_pinned", {"items": hashes, "acknowledged": list(large)})


def _verify(*, as_json: bool) -> int:
    check = check_pin(home())
    if as_json:
        found = {"ok": check.ok, "pinned": check.pinned, "differing": list(check.differing)}
        cli.print_json(found | {"details": list(check.details)})
    else:
        cli.out("in step with the pin" if check.ok else "differs from the pin: " + ", ".join(check.differing))
        for line in check.details:
            cli.out(f"  {line}")
    return Exit.OK if check.ok else Exit.NO


if __name__ == "__main__":
    sys.exit(cli.run(main))
