"""Put a backup back into this home. What it replaces is kept in state/archive/replaced-…; the kill switch stays.

  restore.py BACKUP --dry-run         what would be done
  restore.py BACKUP                   do it
  restore.py BACKUP --with-settings   also settings file, frozen parameters and universe
Afterwards the runner does not trade before its start has found journal and broker in agreement: look with
`reconcile_alpaca.py --full` first.
Exit: 0 done · 2 usage · 3 a runner or a command is running · 10 another account · 11 the backup is damaged, incomplete
or newer than this program · 12 another process holds the journal
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import pathlib
import sys
from collections.abc import Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli, logs
from core.canonical import iso_utc
from core.clock import Clock, SystemClock
from core.env import load_dotenv
from core.errors import Exit, KobeError
from core.paths import home

if TYPE_CHECKING:
    from core.backup import Manifest
    from core.restore import Plan

NEXT = "next: python scripts/reconcile_alpaca.py --full; the runner trades when it agrees"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("backup", type=pathlib.Path, help="the folder of a backup")
    p.add_argument("--dry-run", action="store_true", help="show what would be done")
    p.add_argument("--with-settings", action="store_true", help="also put back settings, frozen parameters, universe")
    p.add_argument("--reason", default="operator asked", help="kept in the journal")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None, *, clock: Clock | None = None) -> int:
    args = parser().parse_args(argv)
    load_dotenv(args.dotenv)
    clock = clock or SystemClock()
    logs.configure(home(), clock, run_id="restore", mode="")
    try:
        return _run(args, clock)
    except KobeError as error:
        logs.event("restore_refused", code=error.code, backup=str(args.backup))
        logs.count("restores_refused", code=error.code)
        raise


def _run(args: argparse.Namespace, clock: Clock) -> int:
    from core import backup, restore
    from scripts.documents import known_versions
    from scripts.settings_files import settings_files

    place = home()
    with contextlib.nullcontext() if args.dry_run else restore.nobody_else(place):
        manifest = backup.prove(args.backup)
        planned = restore.plan(
            args.backup, manifest, place, settings_files(), versions=known_versions(), with_settings=args.with_settings
        )
        kept = None
        if not args.dry_run:
            facts = _facts(args, clock)
            stamp = f"{clock.now().astimezone(UTC):%Y%m%dT%H%M%SZ}"
            kept = restore.restore(args.backup, planned, place, stamp=stamp, facts=facts)
            logs.error_event("state_restored", code="RESTORED", kept=str(kept), **facts)
            logs.count("states_restored")
    _tell(args, manifest, planned, kept)
    return Exit.OK


def _facts(args: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    from core.backup import MANIFEST

    digest = hashlib.sha256((args.backup / MANIFEST).read_bytes()).hexdigest()
    return {
        "backup": str(args.backup), "manifest_sha256": digest, "at": iso_utc(clock.now()), "reason": args.reason,
    }  # fmt: skip


def _tell(args: argparse.Namespace, manifest: Manifest, planned: Plan, kept: pathlib.Path | None) -> None:
    done = {action: planned.named(action) for action in ("create", "replace", "remove")}
    if args.json:
        cli.print_json({
            "backup": str(args.backup), "made_at": manifest.made_at, "dry_run": args.dry_run, **done,
            "same": list(planned.same), "left": planned.left, "kept": None if kept is None else str(kept),
            "reconcile_due": not args.dry_run,
        })  # fmt: skip
        return
    words = {"create": "written", "replace": "replaced", "remove": "taken away"}
    cli.out(f"{args.backup.name}, made {manifest.made_at}" + (": nothing was changed" if args.dry_run else ""))
    for action, names in done.items():
        for name in names:
            cli.out(f"  {'would be ' if args.dry_run else ''}{words[action]}: {name}")
    cli.out(f"  as in the backup already: {len(planned.same)} files")
    for name, why in planned.left.items():
        cli.out(f"  not restored: {name} ({why})")
    for line in planned.notes:
        cli.out(line)
    if kept is not None and kept.is_dir():
        cli.out(f"what was replaced is in {kept}")
    if not args.dry_run:
        cli.out(NEXT)


if __name__ == "__main__":
    sys.exit(cli.run(main))
