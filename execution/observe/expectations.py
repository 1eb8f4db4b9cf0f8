"""Silence is an alarm: what should have happened by now, and has not. Pure.

Every job has an expected-by time, out of schedule and settings:

| job          | expected by                                                                                 |
|--------------|---------------------------------------------------------------------------------------------|
| a scan       | begun: 5 s after it was due (RUN_OVERDUE of /ready); ended: alerts.run_longest_s after it;    |
|              | one that never came is RUNS_MISSED of /ready                                                 |
| the close-out | alerts.settle_s after it was due                                                             |
| reconcile    | alerts.settle_s after the close of each session, on that session                              |
| bars         | today's first scan used those of the session before (DATA_LATE)                               |
| preflight    | alerts.preflight_by on each session                                                           |
| backup       | alerts.backup_every_days after the one before, or after alerting began                        |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING

from core.market_calendar import NEW_YORK
from execution.observe.facts import Facts, RunFacts, RunState
from execution.observe.words import ago, at_new_york

if TYPE_CHECKING:
    from config.settings_schema import Alerts

CLOSE = "close"


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    name: str
    critical: bool
    value: str
    limit: str
    words: str
    action: str


def late(facts: Facts, alerts: Alerts, *, began_at: datetime, backup_at: datetime | None) -> Iterator[Late]:
    yield from _runs(facts, alerts)
    yield from _reconcile(facts, alerts)
    yield from _bars(facts)
    yield from _preflight(facts, alerts, began_at)
    yield from _backup(facts, alerts, began_at, backup_at)


def _runs(facts: Facts, alerts: Alerts) -> Iterator[Late]:
    for run in facts.schedule.today if facts.schedule is not None else ():
        if run.state is RunState.RUNNING and facts.at > expected_by(run, alerts):
            yield Late(name="RUN_LONG", critical=True, value=ago((facts.at - run.due_at).total_seconds()),
                       limit=f"{_longest_s(run, alerts):g} s",
                       words=f"{run.id} has not ended, due at {at_new_york(run.due_at, facts.at)} New York",
                       action="see logs/errors.jsonl; look at the runner")  # fmt: skip


def _longest_s(run: RunFacts, alerts: Alerts) -> float:
    return alerts.settle_s if run.label == CLOSE else alerts.run_longest_s


def expected_by(run: RunFacts, alerts: Alerts) -> datetime:
    """When a run is expected to have ended."""
    return run.due_at + timedelta(seconds=_longest_s(run, alerts))


def _reconcile(facts: Facts, alerts: Alerts) -> Iterator[Late]:
    """Nothing is owed before the first run of this home."""
    reconcile = None if facts.book is None else facts.book.reconcile
    if reconcile is None or facts.data is None or facts.schedule is None:
        return
    session, closes = facts.data.expected_session, facts.schedule.closes_at
    settles = None if closes is None else closes + timedelta(seconds=alerts.settle_s)
    if session == facts.schedule.session and settles is not None and facts.at <= settles:
        return
    if reconcile.at.astimezone(NEW_YORK).date() < session:
        yield Late(name="RECONCILE_LATE", critical=True, value=at_new_york(reconcile.at, facts.at),
                   limit=session.isoformat(), words=f"not compared with the broker since {reconcile.at:%Y-%m-%d}",
                   action="python scripts/reconcile_alpaca.py")  # fmt: skip


def _bars(facts: Facts) -> Iterator[Late]:
    """A scan of today that ended well, on bars that are not the newest there are: a feed that stands still."""
    scan, schedule, data = facts.scan, facts.schedule, facts.data
    if scan is None or schedule is None or data is None or not schedule.is_open:
        return
    if scan.run.startswith(f"{schedule.session}T") and (data.sessions_behind or 0) >= 1:
        yield Late(name="DATA_LATE", critical=True, value=scan.session.isoformat(),
                   limit=data.expected_session.isoformat(),
                   words=f"{scan.run} decided on bars of {scan.session}, {data.expected_session} has closed",
                   action="python scripts/preflight.py --data")  # fmt: skip


def _preflight(facts: Facts, alerts: Alerts, began_at: datetime) -> Iterator[Late]:
    """Owed from the first morning on that alerting saw from its start."""
    schedule = facts.schedule
    if alerts.preflight_by is None or schedule is None or schedule.session is None or facts.journal is None:
        return
    by = datetime.combine(schedule.session, time.fromisoformat(alerts.preflight_by), NEW_YORK)
    passed = facts.journal.preflight_passed_at
    today = passed is not None and passed.astimezone(NEW_YORK).date() == schedule.session
    if facts.at > by and began_at <= by and not today:
        yield Late(name="PREFLIGHT_LATE", critical=False, value="no pass today", limit=alerts.preflight_by,
                   words=f"no preflight has passed by {alerts.preflight_by} New York",
                   action="python scripts/preflight.py --all")  # fmt: skip


def _backup(facts: Facts, alerts: Alerts, began_at: datetime, backup_at: datetime | None) -> Iterator[Late]:
    if alerts.backup_every_days is None:
        return
    newest = began_at if backup_at is None else backup_at
    if facts.at - newest > timedelta(days=alerts.backup_every_days):
        yield Late(name="BACKUP_LATE", critical=False, value="never" if backup_at is None else f"{backup_at:%Y-%m-%d}",
                   limit=f"{alerts.backup_every_days} days", words=f"no backup for {(facts.at - newest).days} days",
                   action="python scripts/backup.py --full --verify")  # fmt: skip
