"""Warnings nobody reads: few, escalating, acknowledged by name, and no live start over a critical one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from core import logs
from core.errors import ConfigError, Exit
from execution.observe.alert_memory import FILE
from scripts.alerts import main as alerts
from scripts.arming_live import refuse_unacknowledged
from tests.fakes.alarms import Alarmed
from tests.fakes.observed import Observed, at_ten


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Observed:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    found = at_ten(tmp_path)
    logs.configure(found.home, found.clock, run_id="t", mode="paper")
    return found


def test_O14_ninety_seven_causes_are_one_message_and_an_unheard_one_comes_back(made: Observed) -> None:
    alarmed = Alarmed(made)
    for n in range(97):
        made.log("errors.jsonl", f"odd_{n}", code="BUG")
    alarmed.run(60, made.alive)
    assert len(alarmed.channels[0].taken) == 1 and "more: python scripts/alerts.py list" in alarmed.channels[0].text
    alarmed.run(1800, made.alive)
    assert 2 <= len(alarmed.channels[0].taken) <= 3 and "STILL" in alarmed.channels[0].text


def test_O14_live_does_not_start_over_a_critical_alert_that_nobody_acknowledged(made: Observed) -> None:
    file = made.home.state / FILE
    refuse_unacknowledged(file)  # alerting never worked here
    alarmed = Alarmed(made)
    made.log("errors.jsonl", "backup_failed", code="X")
    alarmed.step()
    refuse_unacknowledged(file)  # a warning
    told = {"symbol": "AAA", "kind": "POSITION_QUANTITY", "cause": "MANUAL_TRADE", "ours": "1", "theirs": "3"}
    made.journal.append("break_found", {**told, "proposal": "x", "evidence": []})
    alarmed.run(20, made.alive)
    with pytest.raises(ConfigError, match="BREAKS") as caught:
        refuse_unacknowledged(file)
    assert caught.value.code == "ALERT_UNACKNOWLEDGED" and "alerts.py ack BREAKS" in caught.value.advice
    assert alerts(["ack", "BREAKS", "--reason", "sold by hand, adopted"], clock=made.clock) == Exit.OK
    refuse_unacknowledged(file)


def test_O14_a_memory_that_cannot_be_read_is_no_permission(made: Observed) -> None:
    (made.home.state / FILE).write_bytes(b"{")
    with pytest.raises(ConfigError) as caught:
        refuse_unacknowledged(made.home.state / FILE)
    assert caught.value.code == "ALERTS_UNREADABLE"


def test_O14_a_runner_that_is_missed_does_not_keep_itself_from_starting(made: Observed) -> None:
    alarmed = Alarmed(made)
    made.clock.advance(timedelta(minutes=5))
    made.beat("stopped")
    alarmed.run(90, lambda: made.beat("stopped"))
    assert "RUNNER_STOPPED" in alarmed.names()
    refuse_unacknowledged(made.home.state / FILE)
