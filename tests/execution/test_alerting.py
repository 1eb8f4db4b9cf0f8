"""The loop: what it remembers across restarts, what a full disk, a dead channel and a person change."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core import logs
from execution import alerting as module
from execution.alerting import acknowledge, read_memory
from execution.notifier import DeadMan
from execution.observe.alert_memory import FILE
from tests.fakes.alarms import Alarmed, FakeChannel, refuses
from tests.fakes.observed import Observed, at_ten


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def made(tmp_path: Path) -> Observed:
    found = at_ten(tmp_path)
    logs.configure(found.home, found.clock, run_id="t", mode="paper")
    return found


def beating(made: Observed) -> Any:
    return lambda: made.alive()


def halted(made: Observed) -> None:
    made.home.kill_switch.touch()


def test_a_halt_is_told_at_once_and_its_end_once(made: Observed) -> None:
    alarmed = Alarmed(made)
    halted(made)
    alarmed.step()
    assert alarmed.channels[0].titles == ["Kobe paper: CRITICAL KILL_SWITCH"]
    alarmed.run(600, beating(made))
    assert len(alarmed.channels[0].taken) == 1
    made.home.kill_switch.unlink()
    alarmed.run(120, beating(made))
    assert alarmed.channels[0].titles[1:] == ["Kobe paper: OVER KILL_SWITCH"]


def test_a_restart_neither_repeats_nor_forgets(made: Observed) -> None:
    alarmed = Alarmed(made)
    halted(made)
    alarmed.step()
    for _ in range(20):
        alarmed.start()
        alarmed.run(10, beating(made))
    assert len(alarmed.channels[0].taken) == 1
    made.home.kill_switch.unlink()
    alarmed.start()
    alarmed.run(30, beating(made))
    alarmed.start()
    alarmed.run(40, beating(made))
    assert alarmed.channels[0].titles[1:] == ["Kobe paper: OVER KILL_SWITCH"]


def test_what_was_not_delivered_is_delivered_after_a_restart(made: Observed) -> None:
    alarmed = Alarmed(made, channels=[FakeChannel("first", refuses)])
    halted(made)
    alarmed.step()
    memory = read_memory(made.home.state / FILE)
    assert memory is not None and len(memory.outbox) == 1
    alarmed.channels[0].act = lambda: None
    alarmed.start()
    alarmed.step()
    assert alarmed.channels[0].titles == ["Kobe paper: CRITICAL KILL_SWITCH"]
    memory = read_memory(made.home.state / FILE)
    assert memory is not None and memory.outbox == ()


def test_a_channel_that_is_down_is_tried_ever_more_rarely_and_the_end_is_told(made: Observed) -> None:
    tries: list[float] = []

    def down() -> None:
        tries.append(made.clock.monotonic())
        refuses()

    alarmed = Alarmed(made, channels=[FakeChannel("first", down)])
    halted(made)
    alarmed.run(1500, beating(made))
    assert 5 <= len(tries) <= 12
    assert "NOT_DELIVERED" in alarmed.names()
    alarmed.channels[0].act = lambda: None
    alarmed.run(400, beating(made))
    assert alarmed.channels[0].text.count("KILL_SWITCH") >= 2 and "NOT_DELIVERED" not in alarmed.names()


def test_a_new_trouble_does_not_wait_for_the_pause(made: Observed) -> None:
    alarmed = Alarmed(made, channels=[FakeChannel("first", refuses)])
    halted(made)
    alarmed.run(900, beating(made))
    alarmed.channels[0].act = lambda: None
    made.log("errors.jsonl", "keys_refused", code="UNAUTHORIZED")
    alarmed.run(20, beating(made))
    assert "KEYS_REFUSED" in alarmed.channels[0].text


def test_without_a_channel_the_log_tells_it_and_nothing_piles_up(made: Observed) -> None:
    alarmed = Alarmed(made, channels=[])
    halted(made)
    memory = alarmed.run(30, beating(made))
    assert memory.outbox == () and memory.standing()[0].name == "KILL_SWITCH"
    rows = [json.loads(line) for line in (made.home.logs / "events.jsonl").read_text().splitlines()]
    told = [r for r in rows if r["event"] == "alert_told"]
    assert [(r["alert"], r["code"], r["severity"]) for r in told] == [("KILL_SWITCH", "ALERT_RAISED", "critical")]


# ---------------------------------------------------------------- its own state
@pytest.mark.parametrize("wreck", [b"", b"{", b"[]", b'{"schema_version": 1, "entries": 3}', b"\0" * 99])
def test_a_damaged_memory_is_set_aside_and_told(made: Observed, wreck: bytes) -> None:
    file = made.home.state / FILE
    file.write_bytes(wreck)
    alarmed = Alarmed(made)
    halted(made)
    alarmed.run(10, beating(made))
    assert "ALERT_STATE" in alarmed.channels[0].text and "KILL_SWITCH" in alarmed.channels[0].text
    assert file.with_suffix(".damaged.json").read_bytes() == wreck
    assert read_memory(file) is not None


def test_a_memory_of_a_newer_program_is_not_touched(made: Observed) -> None:
    file = made.home.state / FILE
    file.write_text('{"schema_version": 99}')
    alarmed = Alarmed(made)
    halted(made)
    alarmed.run(30, beating(made))
    assert file.read_text() == '{"schema_version": 99}'
    assert alarmed.channels[0].text.count("CRITICAL KILL_SWITCH") >= 1 and "ALERT_STATE" in alarmed.channels[0].text


def test_P01_a_disk_that_takes_nothing_stops_no_message(made: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    alarmed = Alarmed(made)
    monkeypatch.setattr(module, "write_memory", full)
    halted(made)
    alarmed.run(60, beating(made))
    assert [t for t in alarmed.channels[0].titles if "KILL_SWITCH" in t] == ["Kobe paper: CRITICAL KILL_SWITCH"]
    assert "ALERT_STATE" in alarmed.channels[0].text


def test_the_file_is_not_rewritten_at_every_look(made: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[object] = []
    real = module.write_memory
    monkeypatch.setattr(module, "write_memory", lambda *a: (written.append(a), real(*a))[1])
    Alarmed(made).run(600, beating(made))
    assert 10 <= len(written) <= 12, "once a minute, for looked_at"


# ---------------------------------------------------------------- a person
def test_an_acknowledgement_in_the_file_reaches_the_process(made: Observed) -> None:
    alarmed = Alarmed(made)
    halted(made)
    alarmed.step()
    file = made.home.state / FILE
    assert acknowledge(file, "KILL_SWITCH", "on it", made.clock.now()) is not None
    alarmed.run(2400, beating(made))
    assert len([t for t in alarmed.channels[0].titles if "KILL_SWITCH" in t]) == 1, "no reminder"
    memory = read_memory(file)
    assert memory is not None and memory.entries["KILL_SWITCH"].acknowledged_reason == "on it"


def test_unheard_it_is_told_again(made: Observed) -> None:
    alarmed = Alarmed(made)
    halted(made)
    alarmed.step()
    alarmed.run(1800, beating(made))
    assert "STILL CRITICAL KILL_SWITCH" in alarmed.channels[0].text


def test_nobody_acknowledges_what_does_not_stand(made: Observed) -> None:
    Alarmed(made).step()
    assert acknowledge(made.home.state / FILE, "KILL_SWITCH", "x", made.clock.now()) is None


# ---------------------------------------------------------------- pings, and what lies beside
class Pinged(DeadMan):
    def __init__(self, clock: Any) -> None:
        super().__init__("http://127.0.0.1:9/x", deadline_s=1)
        self.at: list[float] = []
        self._clock = clock
        self.fine = True

    def ping(self) -> bool:
        self.at.append(self._clock.monotonic())
        self.failed = None if self.fine else "no answer"
        return self.fine


def test_pings_go_out_while_the_runner_moves_and_not_otherwise(made: Observed) -> None:
    dead = Pinged(made.clock)
    alarmed = Alarmed(made, changes={"deadman": dead})
    alarmed.run(600, beating(made))
    assert 9 <= len(dead.at) <= 11, "every minute"
    count = len(dead.at)
    alarmed.run(600)  # it hangs
    assert len(dead.at) <= count + 1
    made.beat("stopped")
    alarmed.run(600, lambda: made.beat("stopped"))
    assert len(dead.at) <= count + 1


def test_a_sidecar_that_does_not_answer_is_told(made: Observed) -> None:
    up = [True]
    alarmed = Alarmed(made, changes={"sidecar_up": lambda: up[0]})
    alarmed.run(60, beating(made))
    up[0] = False
    alarmed.run(55, beating(made))
    assert alarmed.channels[0].taken == []
    alarmed.run(10, beating(made))
    assert "SIDECAR_DOWN" in alarmed.channels[0].text


def test_the_newest_backup_is_remembered_when_its_traces_are_gone(made: Observed) -> None:
    found: list[Any] = [made.clock.now() - timedelta(days=30)]
    alarmed = Alarmed(made, changes={"backup_at": lambda: found[0]})
    alarmed.step()
    found[0] = None
    alarmed.start()
    made.clock.advance(timedelta(days=6))
    made.alive()
    alarmed.run(20, beating(made))
    assert "BACKUP_LATE" in alarmed.names()
