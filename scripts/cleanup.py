"""Remove old log files. The journal, its sealed months and its head are no logs and are never touched.

  cleanup.py --logs --older-than 30 --dry-run     what would go
  cleanup.py --logs --older-than 30               remove it
Verdicts and inputs of decisions stay for `logs.keep_evidence_days`: why.py and replay_day.py read them. Safe while the
runner writes: a current file is only renamed, and the next line begins a new one.
Exit: 0 done · 1 something could not be removed · 2 usage · 10 configuration
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli, logs
from core.clock import Clock, SystemClock
from core.env import load_dotenv
from core.errors import Exit, UsageError
from core.paths import home

if TYPE_CHECKING:
    from core.log_cleaning import Old


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--logs", action="store_true", help="clean the log folder; nothing else is ever cleaned")
    p.add_argument("--older-than", type=int, metavar="DAYS", help="default: logs.keep_days of the settings")
    p.add_argument("--dry-run", action="store_true", help="show what would go")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None, *, clock: Clock | None = None) -> int:
    args = parser().parse_args(argv)
    if not args.logs:
        raise UsageError("nothing was asked for", advice="cleanup.py --logs --older-than 30")
    if args.older_than is not None and args.older_than < 1:
        raise UsageError(f"--older-than must be at least 1 day, was {args.older_than}")
    from config.loader import load_settings
    from core.log_cleaning import plan

    load_dotenv(args.dotenv)
    settings, clock = load_settings(), clock or SystemClock()
    logs.configure(home(), clock, run_id="cleanup", mode="")
    days = args.older_than if args.older_than is not None else settings.logs.keep_days
    evidence = timedelta(days=settings.logs.keep_evidence_days)
    old = plan(home().logs, clock.now(), older_than=timedelta(days=days), evidence=evidence)
    failed = {} if args.dry_run else _carry_out(old)
    _tell(args, old, failed)
    return Exit.NO if failed else Exit.OK


def _carry_out(old: Sequence[Old]) -> dict[str, str]:
    """File -> why it is still there."""
    from core.log_rotation import begin_anew

    failed: dict[str, str] = {}
    gone = [one for one in old if not one.again]
    for one in gone:
        try:
            one.path.unlink(missing_ok=True)
        except OSError as error:
            failed[str(one.path)] = error.strerror or str(error)
    for one in old:
        if one.again and begin_anew(one.path) is None:
            failed[str(one.path)] = "it could not be renamed"
    facts = {"files": len(gone), "bytes": sum(one.bytes for one in gone), "failed": failed}
    if failed:
        logs.error_event("logs_cleaned", code="LOGS_NOT_CLEANED", **facts)
    elif old:
        logs.event("logs_cleaned", code="OK", **facts)
    logs.count("log_files_removed", len(gone) - len(failed))
    return failed


def _tell(args: argparse.Namespace, old: Sequence[Old], failed: dict[str, str]) -> None:
    place = home().root
    rows = {str(o.path.relative_to(place)): o for o in old}
    removed = [name for name, o in rows.items() if not o.again]
    if args.json:
        renamed = [name for name, o in rows.items() if o.again]
        size = sum(o.bytes for o in old if not o.again)
        cli.print_json({
            "removed": removed, "begun_anew": renamed, "bytes": size, "failed": failed, "dry_run": args.dry_run,
        })  # fmt: skip
        return
    words = ("would begin anew", "would go") if args.dry_run else ("begun anew", "removed")
    for name, one in rows.items():
        told = words[0] if one.again else words[1]
        cli.out(f"{told}: {name}, {one.bytes:,} bytes, {one.since:%Y-%m-%d}")
    size = sum(one.bytes for one in old if not one.again)
    cli.out(f"{len(removed)} files, {size:,} bytes {'would be' if args.dry_run else 'were'} removed; the journal stays")
    for name, why in failed.items():
        cli.out(f"still there: {name}: {why}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
