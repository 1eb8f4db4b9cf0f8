"""Back up what cannot be made again: journal with its sealed months and head, state documents, trials, settings,
frozen parameters, universe. Keys are left out. Safe while the runner runs.

  backup.py --full [--out DIR]            make one; it is read again and proved before it gets its name
  backup.py --full --verify               the same, and once more from its place
  backup.py --verify [BACKUP] [--out DIR] prove one that is there, the newest unless named
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
    p.add_argument("--out", type=pathlib.Path, help="the folder of the backups; default: backups in KOBE_HOME")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None, *, clock: Clock | None = None) -> int:
    args = parser().parse_args(argv)
    if not args.full and not args.verify:
        raise UsageError("nothing was asked for", advice="backup.py --full makes one, --verify proves the newest")
    if args.full and args.backup is not None:
        raise UsageError("--full makes a new backup; name its folder with --out")
    load_dotenv(args.dotenv)
    clock = clock or SystemClock()
    logs.configure(home(), clock, run_id="backup", mode="")
    out = args.out or home().root / "backups"
    try:
        return _make(args, out, clock) if args.full else _verify(args, out)
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
