"""Live trading that somebody starts although something is wrong: refused, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from core import cli
from core.errors import ConfigError, Exit
from execution.alerting import write_memory
from execution.observe import alert_memory
from execution.observe.alerts import Severity
from scripts import arming_live, preflight_live, runner
from tests.fakes.live_homes import LiveHome, live_home


@pytest.fixture
def here(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveHome]:
    with live_home(own_home, tmp_path, monkeypatch) as made:
        made.climb("shadow")
        yield made


def preflight() -> int:
    return int(cli.run(lambda: preflight_live.main(["--mode", "live"])))


def start() -> int:
    return int(cli.run(lambda: runner.main(["--mode", "live", "--once", "--json"])))


def test_O14_a_critical_alert_that_nobody_has_read_fails_the_preflight_and_keeps_an_armed_runner_from_starting(
    here: LiveHome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preflight() == Exit.OK
    now = here.clock.now()
    entry = alert_memory.Entry(
        name="JOURNAL_DAMAGED", severity=Severity.CRITICAL, since=now - timedelta(hours=1), raised_at=now
    )
    file = here.home.state / alert_memory.FILE
    unread = alert_memory.Memory(began_at=now, looked_at=now, entries={entry.name: entry})
    write_memory(file, unread)
    capsys.readouterr()
    assert start() == Exit.CONFIG
    assert capsys.readouterr().err.startswith("kobe: ALERT_UNACKNOWLEDGED: ")
    assert preflight() == Exit.NO
    assert capsys.readouterr().out.splitlines()[-1] == "NOT passed: alerts"
    read = alert_memory.acknowledged(unread, entry.name, "looked at it", now)
    assert read is not None
    write_memory(file, read)
    assert preflight() == Exit.OK and start() == Exit.OK


@pytest.mark.parametrize("name", sorted(arming_live.STARTING_CURES))
def test_O14_P20_an_alert_that_a_start_itself_ends_keeps_no_runner_from_coming_back(
    here: LiveHome, tmp_path: Path, name: str
) -> None:
    now = here.clock.now()
    for alert, starts in ((name, True), (f"{name}:AAA", True), (f"{name}_TOO", False)):
        entry = alert_memory.Entry(name=alert, severity=Severity.CRITICAL, since=now, raised_at=now)
        file = tmp_path / f"{alert.replace(':', '-')}.json"
        write_memory(file, alert_memory.Memory(began_at=now, looked_at=now, entries={alert: entry}))
        if starts:
            arming_live.refuse_unacknowledged(file)
        else:
            with pytest.raises(ConfigError):
                arming_live.refuse_unacknowledged(file)


def test_O06_live_armed_yesterday_is_not_live_today(
    here: LiveHome, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Habit starts it every morning; the pass of the day before is none."""
    from core.clock import OffsetClock

    assert preflight() == Exit.OK
    later = OffsetClock(here.clock.now() + timedelta(hours=24))
    monkeypatch.setattr("scripts.wiring.SystemClock", lambda: later)
    capsys.readouterr()
    assert start() == Exit.CONFIG
    assert capsys.readouterr().err.startswith("kobe: ARMING_STALE: ") and here.posted() == []
