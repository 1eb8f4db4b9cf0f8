"""Prove that the journal is whole: every record, its chain, its sealed months, its head, and records noted elsewhere.
An anchor is a record's hash noted outside the state folder, alone or with the record's number: HASH or SEQ:HASH. With
the number the first bad record is named more closely; with one anchor per day, to the day.
Exit: 0 sound · 1 damaged, shortened or rolled back · 2 usage · 12 another process holds the journal"""

import argparse
import pathlib
import sys
from collections.abc import Iterator, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.env import load_dotenv
from core.errors import Exit, UsageError
from core.journal import Anchor, Verification, sealed_segments, verify
from core.paths import home


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--anchor", metavar="[SEQ:]HASH", action="append", default=[], help="a noted record: must be there; repeatable"
    )
    p.add_argument(
        "--anchors", metavar="FILE", type=pathlib.Path, help="one [SEQ:]HASH a line, # is a comment; or a saved head"
    )
    p.add_argument("--journal", type=pathlib.Path, help="another journal, for instance in a backup")
    cli.add_common(p)
    return p


def anchors_of(args: argparse.Namespace) -> list[Anchor]:
    return [_anchor(text, where) for text, where in _noted(args)]


def _noted(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    yield from ((text, "--anchor") for text in args.anchor)
    if args.anchors is None:
        return
    try:
        lines = args.anchors.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--anchors {args.anchors} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if text:
            yield text, f"{args.anchors.name} line {number}"


def _anchor(text: str, where: str) -> Anchor:
    try:
        return Anchor.parse(text)
    except ValueError as error:
        raise UsageError(f"{where}: {error}", advice="give [SEQ:]HASH with all 64 hex digits") from error


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    load_dotenv(args.dotenv)
    anchors = anchors_of(args)
    path = args.journal or home().journal
    with cli.progress(enabled=not args.json) as tick:
        found = verify(path, anchors=anchors, progress=lambda n, share: tick(f"{n} records", f"{share:.0%}"))
    if args.json:
        cli.print_json(found)
    else:
        cli.out(told(path, found))
    return Exit.OK if found.ok else Exit.NO


def told(path: pathlib.Path, found: Verification) -> str:
    """The verdict, and for a sound journal which files are sealed."""
    state = "sound" if found.ok else f"{'TORN' if found.torn else 'DAMAGED'}: {found.why}"
    bad = "" if found.first_bad is None else f" (first bad record {found.first_bad})"
    lines = [f"{path}: {found.records} records, head {found.head}: {state}{bad}"]
    if found.proven:
        lines.append(f"proven by an anchor: records 1 to {found.proven}")
    if found.ok:
        lines += [f"sealed: {s.file}, records {s.first_seq} to {s.last_seq}" for s in sealed_segments(path)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(cli.run(main))
