"""Prove that the journal is whole: every record, its chain, its head, and a record noted elsewhere (--anchor).
Exit: 0 sound · 1 damaged, shortened or rolled back · 2 usage · 12 another process holds the journal"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.env import load_dotenv
from core.errors import Exit, UsageError
from core.journal import verify
from core.paths import home


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--anchor", metavar="HASH", help="a record noted outside the state folder: must be there")
    p.add_argument("--journal", type=pathlib.Path, help="another journal, for instance in a backup")
    cli.add_common(p)
    return p


def anchor_of(text: str | None) -> str | None:
    if text is None:
        return None
    cleaned = text.strip().lower()
    if len(cleaned) != 64 or set(cleaned) - set("0123456789abcdef"):
        raise UsageError("--anchor must be the 64 hex digits of a record's hash")
    return cleaned


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    load_dotenv(args.dotenv)
    path = args.journal or home().journal
    with cli.progress(enabled=not args.json) as tick:
        found = verify(path, anchor=anchor_of(args.anchor), progress=lambda n: tick(f"{n} records"))
    if args.json:
        cli.print_json(found)
    else:
        state = "sound" if found.ok else f"DAMAGED: {found.why}"
        bad = "" if found.first_bad is None else f" (first bad record {found.first_bad})"
        cli.out(f"{path}: {found.records} records, head {found.head}: {state}{bad}")
    return Exit.OK if found.ok else Exit.NO


if __name__ == "__main__":
    sys.exit(cli.run(main))
