"""What is wrong, what was told, who knows of it.

  alerts.py list                                   what stands, worst first, and what no channel has taken yet
  alerts.py table                                  the runbook's thresholds as they stand now, also what is not known
  alerts.py ack NAME --reason "on it, ticket 12"   no more reminders of it, until it gets worse
  alerts.py ack --all-standing --reason "..."      of everything that stands
  alerts.py test                                   a test message through each channel, one after the other
A critical alert that nobody has acknowledged keeps `runner.py --mode live` from starting.
Exit: 0 nothing stands or is past its limit, acknowledged, every channel took the test · 1 something stands or is past
its limit, no such alert, a channel took no message · 2 usage · 10 configuration, an address that cannot be used ·
11 alerts.json damaged · 12 it is locked
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
    from execution.observe.alert_memory import Entry, Memory

FRESH_S = 300.0
"""Looked at within this time: alerting works."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    cli.add_common(common)
    sub = p.add_subparsers(dest="what", required=True)
    sub.add_parser("list", parents=[common], help="what stands")
    table = sub.add_parser("table", parents=[common], help="the runbook's thresholds, each with its value, now")
    table.add_argument("--mode", choices=("paper", "live"), help="which account; default: the account of this home")
    ack = sub.add_parser("ack", parents=[common], help="somebody knows and looks after it")
    ack.add_argument("name", nargs="?", help="as `list` shows it")
    ack.add_argument("--all-standing", action="store_true", help="everything that stands now")
    ack.add_argument("--reason", required=True, help="who looks after it, and how; kept with the alert")
    sub.add_parser("test", parents=[common], help="a test message through each channel")
    return p


def main(argv: Sequence[str] | None = None, *, clock: Clock | None = None) -> int:
    args = parser().parse_args(argv)
    if args.what == "table":
        return _table(args)
    load_dotenv(args.dotenv)
    clock = clock or SystemClock()
    logs.configure(home(), clock, run_id="alerts", mode="")
    if args.what == "test":
        return _test(args)
    return _ack(args, clock) if args.what == "ack" else _list(args, clock)


def _file() -> pathlib.Path:
    from execution.observe import alert_memory

    return home().state / alert_memory.FILE


# ---------------------------------------------------------------- list
def _list(args: argparse.Namespace, clock: Clock) -> int:
    from execution.alerting import read_memory

    memory = read_memory(_file())
    standing = [] if memory is None else memory.standing()
    age_s = None if memory is None else max(0.0, (clock.now() - memory.looked_at).total_seconds())
    if args.json:
        cli.print_json({
            "alerts": [_row(e) for e in standing], "looked_s_ago": age_s,
            "undelivered": 0 if memory is None else len(memory.outbox),
            "dropped": 0 if memory is None else memory.dropped,
        })  # fmt: skip
    else:
        _show(memory, standing, age_s)
    return Exit.NO if standing else Exit.OK


def _row(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name, "severity": str(entry.severity), "value": entry.value, "limit": entry.limit,
        "found": entry.words, "action": entry.action, "since": entry.since.isoformat(), "unknown": entry.unknown,
        "acknowledged": entry.acknowledged_at is not None, "reason": entry.acknowledged_reason,
    }  # fmt: skip


def _show(memory: Memory | None, standing: Sequence[Entry], age_s: float | None) -> None:
    from execution.observe.words import ago, printable

    if memory is None or age_s is None:
        cli.out("alerting has never worked on this home: runner.py starts it, or python scripts/alerting.py")
        return
    late = "" if age_s <= FRESH_S else " - alerting does not work now"
    cli.out(f"looked {ago(age_s)} ago{late}; {len(standing)} stand, {len(memory.outbox)} messages wait")
    for entry in standing:
        marks = "acknowledged" if entry.acknowledged_at is not None else "unknown now" if entry.unknown else ""
        cli.out(printable(f"{entry.severity.upper():8} {entry.name}  since {entry.since:%Y-%m-%d %H:%M} UTC  {marks}"))
        cli.out(printable(f"         {entry.words}"))
        if entry.action:
            cli.out(printable(f"         do: {entry.action}"))
        if entry.acknowledged_reason:
            cli.out(printable(f"         known: {entry.acknowledged_reason}"))


# ---------------------------------------------------------------- table
def _table(args: argparse.Namespace) -> int:
    from execution.observe.alerts import thresholds
    from scripts import observing, wiring

    context = wiring.open_context(args, mode=observing.mode_of(args.mode))
    found = list(thresholds(observing.open_observer(context).look(), context.settings))
    if args.json:
        rows = [{"name": c.name, "state": str(c.state), "value": c.value, "limit": c.limit, "found": c.words,
                 "action": c.action} for c in found]  # fmt: skip
        cli.print_json({"table": rows})
    else:
        cells = [[c.name, str(c.state), c.value or c.words, c.limit, c.action if c.bad else ""] for c in found]
        cli.out(cli.table(["alert", "state", "value", "limit", "do"], cells, width=150))
    return Exit.NO if any(c.bad for c in found) else Exit.OK


# ---------------------------------------------------------------- ack
def _ack(args: argparse.Namespace, clock: Clock) -> int:
    from execution.alerting import acknowledge, read_memory

    if (args.name is None) is not args.all_standing:
        raise UsageError("ack wants one NAME, or --all-standing", advice="python scripts/alerts.py list")
    reason = " ".join(args.reason.split())
    if not reason:
        raise UsageError("--reason is empty", advice="say who looks after it")
    memory = read_memory(_file())
    names = [args.name] if args.name is not None else [e.name for e in (memory.standing() if memory else [])]
    done = [name for name in names if acknowledge(_file(), name, reason, clock.now()) is not None]
    for name in done:
        logs.event("alert_acknowledged", code="ALERT_ACKNOWLEDGED", alert=name, reason=reason)
    if args.json:
        cli.print_json({"acknowledged": done})
    else:
        cli.out("\n".join(f"{name} acknowledged" for name in done) or "no such alert stands: alerts.py list")
    return Exit.OK if done or args.all_standing else Exit.NO


# ---------------------------------------------------------------- test
def _test(args: argparse.Namespace) -> int:
    from config.loader import load_settings
    from execution.notifier import FIRST, Note, Notifier, channels

    found = channels()
    note = Note("Kobe: test", "A test by python scripts/alerts.py test. Nothing is wrong.", "info")
    results: dict[str, str | None] = {}
    for channel in found:
        failures = Notifier([channel], deadline_s=load_settings().alerts.deadline_s).deliver(note).failures
        results[channel.name] = failures[0][1] if failures else None
    if args.json:
        cli.print_json({"channels": {name: {"ok": why is None, "why": why} for name, why in results.items()}})
    else:
        lines = [f"{name}: {'taken' if why is None else f'failed, {why}'}" for name, why in results.items()]
        cli.out("\n".join(lines) or f"no channel: set {FIRST}, see docs/alerts.md")
    return Exit.OK if results and not any(results.values()) else Exit.NO


if __name__ == "__main__":
    sys.exit(cli.run(main))
