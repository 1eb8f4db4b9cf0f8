"""Back up what cannot be made again: journal with its sealed months and head, state documents, trials, settings,
frozen parameters, universe. Keys are left out. Safe while the runner runs.

  backup.py --full [--out DIR]            make one; it is read again and proved before it gets its name
  backup.py --full --verify               the same, and once more from its place
  backup.py --verify [BACKUP] [--out DIR] prove one that is there, the newest unless named
  backup.py --keep N [--dry-run]          remove all but the newest N of each account; the newest that is proved stays
  backup.py --full --keep N               make one, then remove
Exit: 0 made, or sound · 1 nothing to verify · 2 usage · 10 no room, or the folder cannot be written · 11 the backup is
damaged, or what was backed up is · 12 another process holds the journal
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli, logs
from core.clock import Clock, SystemClock
from core.env import load_dotenv
from core.errors import Exit, KobeError, UsageError
from core.paths import home

if TYPE_CHECKING:
    from core.backup import Made, Manifest


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("backup", nargs="?", type=pathlib.Path, help="with --verify: the backup to prove")
    p.add_argument("--full", action="store_true", help="make a backup of everything")
    p.add_argument("--verify", action="store_true", help="prove a backup: every file, every record")
    p.add_argument("--keep", type=int, metavar="N", help="remove older ones than the newest N")
    p.add_argument("--dry-run", action="store_true", help="with --keep: show what would be removed")
    p.add_argument("--out", type=pathlib.Path, help="the folder of the backups; default: backups in KOBE_HOME")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None, *, clock: Clock | None = None) -> int:
    args = parser().parse_args(argv)
    if not args.full and not args.verify and args.keep is None:
        raise UsageError("nothing was asked for", advice="backup.py --full makes one, --verify proves the newest")
    if args.keep is not None and args.keep < 1:
        raise UsageError(f"--keep must be at least 1, was {args.keep}")
    if args.keep is not None and args.verify and not args.full:
        raise UsageError("--keep goes with --full or alone")
    if args.dry_run and (args.keep is None or args.full):
        raise UsageError("--dry-run goes with --keep alone")
    if args.full and args.backup is not None:
        raise UsageError("--full makes a new backup; name its folder with --out")
    load_dotenv(args.dotenv)
    clock = clock or SystemClock()
    logs.configure(home(), clock, run_id="backup", mode="")
    out = args.out or home().root / "backups"
    try:
        if args.full:
            return _make(args, out, clock)
        return _verify(args, out) if args.verify else _prune(args, out)
    except KobeError as error:
        logs.error_event("backup_failed", code=error.code, detail=str(error), out=str(out))
        logs.count("backups_failed", code=error.code)
        raise


def _make(args: argparse.Namespace, out: pathlib.Path, clock: Clock) -> int:
    from config.pin import code_sha256
    from core import backup
    from scripts.settings_files import settings_files

    made = backup.make(home(), settings_files(), out, clock, code_sha256=code_sha256())
    if args.verify:
        backup.prove(made.folder)
    for code in made.warnings:
        logs.event("backup_warning", code=code, out=str(out))
    logs.event("backup_made", code="OK", **_facts(made.folder, made.manifest))
    logs.count("backups_made")
    _tell(args, made, verified=args.verify)
    damaged = backup.damage(made.manifest)
    if damaged is not None:
        raise damaged
    if args.keep is not None:
        _prune(args, out, told=False)
    return Exit.OK


def _prune(args: argparse.Namespace, out: pathlib.Path, *, told: bool = True) -> int:
    """`told`: it is all that was asked for, so --json prints it."""
    from core import backup_pruning

    planned = backup_pruning.plan(out, args.keep)
    if not args.dry_run:
        backup_pruning.prune(planned)
        logs.event("backups_pruned", code="OK", out=str(out), removed=[p.name for p in planned.remove])
        logs.count("backups_pruned", len(planned.remove))
    if args.json:
        if told:
            named = {key: [p.name for p in getattr(planned, key)] for key in ("remove", "kept", "sound")}
            cli.print_json({"dry_run": args.dry_run, **named, "left": {p.name: w for p, w in planned.left.items()}})
        return Exit.OK
    words = "would be removed" if args.dry_run else "removed"
    for folder in planned.remove:
        cli.out(f"{words}: {folder.name}")
    for folder, why in planned.left.items():
        cli.out(f"not touched: {folder.name} ({why})")
    proved = ", ".join(p.name for p in planned.sound) or "none"
    cli.out(f"{len(planned.remove)} {words}, {len(planned.kept)} kept; proved: {proved}")
    return Exit.OK


def _facts(folder: pathlib.Path, manifest: Manifest) -> dict[str, Any]:
    end = manifest.journal("hash_chain.jsonl")
    return {
        "backup": str(folder), "files": len(manifest.files), "bytes": sum(f.bytes for f in manifest.files),
        "records": end.records if end else 0, "head": end.head if end else None,
    }  # fmt: skip


def _tell(args: argparse.Namespace, made: Made, *, verified: bool) -> None:
    facts = _facts(made.folder, made.manifest)
    left: Mapping[str, str] = made.manifest.left_out
    if args.json:
        cli.print_json({**facts, "verified": verified, "left_out": left, "warnings": list(made.warnings)})
        return
    cli.out(f"{made.folder}: {facts['files']} files, {facts['bytes']:,} bytes, proved")
    cli.out(f"journal: {facts['records']} records, head {facts['head'] or 'none: there is no journal yet'}")
    for name, why in left.items():
        cli.out(f"left out: {name} ({why})")
    if "BACKUP_SAME_DISK" in made.warnings:
        cli.out("BACKUP_SAME_DISK: it lies on the same disk as what it protects; copy it away, or use --out")


def _verify(args: argparse.Namespace, out: pathlib.Path) -> int:
    from core import backup

    chosen = args.backup or backup.newest(out)
    if chosen is None:
        _tell_absent(out, as_json=args.json)
        return Exit.NO
    manifest = backup.prove(chosen)
    damaged = backup.damage(manifest)
    if args.json:
        cli.print_json({**_facts(chosen, manifest), "verified": True, "ok": damaged is None})
    else:
        cli.out(f"{chosen}: {len(manifest.files)} files as they were backed up at {manifest.made_at}")
    if damaged is not None:
        raise damaged
    return Exit.OK


def _tell_absent(out: pathlib.Path, *, as_json: bool) -> None:
    """An absent backup is an answer, and not a good one."""
    logs.event("backup_absent", code="BACKUP_ABSENT", out=str(out))
    if as_json:
        cli.print_json({"backup": None, "verified": False, "ok": False})
    else:
        cli.out(f"{out} holds no backup: python scripts/backup.py --full")


if __name__ == "__main__":
    sys.exit(cli.run(main))
