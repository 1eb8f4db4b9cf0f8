"""Telling a person: a notifier that is down, markup in a message, a dead-man address that is silent, a taken port."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from core import logs
from execution.alerting import read_memory
from execution.notifier import FIRST, SECOND, AppriseChannel, DeadMan, Notifier, channels
from execution.observe.alert_memory import FILE
from tests.fakes.alarms import Alarmed, FakeChannel, refuses
from tests.fakes.hooks import hook
from tests.fakes.observed import EVIL, Observed, at_ten


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def made(tmp_path: Path) -> Observed:
    found = at_ten(tmp_path)
    logs.configure(found.home, found.clock, run_id="t", mode="paper")
    return found


def _nobody() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("status", [401, 429, 500])
def test_P46_a_notifier_that_refuses_is_told_on_the_second_channel(
    made: Observed, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    with hook(status=status) as bad, hook() as good:
        monkeypatch.setenv(FIRST, bad.url("json"))
        monkeypatch.setenv(SECOND, good.url("json"))
        alarmed = Alarmed(made, changes={"notifier": Notifier(channels(), deadline_s=20)})
        made.home.kill_switch.touch()
        alarmed.run(10, made.alive)
    titles = [json.loads(body)["title"] for _, _, body in good.got]
    assert titles[0] == "Kobe paper: CRITICAL KILL_SWITCH"
    assert "CHANNEL_FAILED" in good.bodies and "CHANNEL_FAILED" in alarmed.names()


def test_P46_with_every_channel_down_messages_are_kept_bounded_and_shown(made: Observed) -> None:
    dead = [AppriseChannel(FIRST, f"json://127.0.0.1:{_nobody()}/"), FakeChannel("second", refuses)]
    alarmed = Alarmed(made, changes={"notifier": Notifier(dead, deadline_s=20)})
    for n in range(150):
        made.log("errors.jsonl", f"odd_{n}", code="BUG")
    made.home.kill_switch.touch()
    alarmed.run(80, made.alive)
    memory = read_memory(made.home.state / FILE)
    assert memory is not None and 0 < len(memory.outbox) <= made.settings.alerts.queue_most
    assert "NOT_DELIVERED" in alarmed.names()
    lines = (made.home.logs / "errors.jsonl").read_text().count("alert_not_delivered")
    assert lines <= 4, "not a line a try"


@pytest.mark.parametrize("scheme", ["html", "markdown", "text"])
def test_P47_symbols_and_texts_of_others_reach_no_service_as_markup(made: Observed, scheme: str) -> None:
    with hook() as there:
        channel = AppriseChannel(FIRST, f"{there.url('json')}?format={scheme}")
        alarmed = Alarmed(made, changes={"notifier": Notifier([channel], deadline_s=20)})
        made.journal.append("symbol_locked", {"symbol": EVIL, "code": "**@everyone** [x](https://evil.example.com)"})
        made.log("errors.jsonl", "backup_failed", code=EVIL, detail="<!channel> `rm` \x1b[2J https://evil.example.com")
        made.scanned(off=[EVIL])
        alarmed.run(80, made.alive)
    assert "SYMBOLS_LOCKED" in there.bodies and "backup_failed" in there.bodies and "STRATEGY_FAILED" in there.bodies
    for body in (json.loads(b)["message"] for _, _, b in there.got):
        plain = body.replace("<br/>", "").replace("<br>", "").replace("<p>", "").replace("</p>", "")
        assert not set("<>`*@[") & set(plain) and "://" not in plain, plain


def test_P48_a_dead_man_address_that_does_not_answer_is_a_warning_and_stops_nothing(made: Observed) -> None:
    dead = DeadMan(f"http://127.0.0.1:{_nobody()}/ping", deadline_s=2)
    alarmed = Alarmed(made, changes={"deadman": dead})
    alarmed.run(70, made.alive)
    (entry,) = alarmed.step().standing()
    assert (entry.name, entry.severity) == ("DEADMAN_FAILED", "warning")
    assert made.stops() == [], "it may trade"


def test_P43_a_taken_port_is_an_alert_and_trading_goes_on(made: Observed, warm_context: Any) -> None:
    """What listens there is not our sidecar: it answers, and is not believed."""
    from scripts.alert_sources import SidecarProbe

    with hook() as stranger:
        probe = SidecarProbe(warm_context(made, stranger.port))
        alarmed = Alarmed(made, changes={"sidecar_up": probe})
        made.log("errors.jsonl", "sidecar_not_started", code="PORT_IN_USE", detail="port 8080 is in use")
        alarmed.run(70, made.alive)
    assert {"SIDECAR_DOWN", "LOGGED:sidecar_not_started"} <= set(alarmed.names())
    assert made.stops() == []


@pytest.fixture
def warm_context() -> Any:
    from types import SimpleNamespace

    def make(made: Observed, port: int) -> Any:
        sidecar = made.settings.sidecar.model_copy(update={"port": port})
        settings = made.settings.model_copy(update={"sidecar": sidecar})
        return SimpleNamespace(clock=made.clock, home=made.home, settings=settings)

    return make


def test_a_home_that_is_gone_is_told_too(made: Observed) -> None:
    alarmed = Alarmed(made)
    alarmed.step()
    shutil.rmtree(made.home.state)
    alarmed.run(70)
    assert "KILL_SWITCH" in alarmed.channels[0].text, "a switch that cannot be looked for is one"
    assert not made.home.state.exists(), "looking makes nothing"
