"""Channels that take, refuse, hang and raise; addresses that nobody sees; texts that no service can misread."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core import logs
from core.clock import SystemClock
from core.errors import ConfigError
from core.paths import Home
from core.secrets import mask_secrets
from execution.notifier import (
    DEADMAN,
    FIRST,
    SECOND,
    AppriseChannel,
    Bounded,
    DeadMan,
    Note,
    Notifier,
    channels,
    digest,
    harmless,
    split,
)
from execution.observe.alert_memory import Message
from execution.observe.alerts import Severity
from tests.fakes.alarms import FakeChannel, refuses
from tests.fakes.hooks import hook
from tests.fakes.observed import EVIL

AT = datetime(2024, 3, 5, 15, tzinfo=UTC)
NOTE = Note("Kobe paper: CRITICAL BREAKS", "NEW CRITICAL BREAKS: x", "critical")
TOKEN = "AAbbccddeeffgghhiijjkk"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    logs.configure(Home(tmp_path), SystemClock(), run_id="t", mode="paper")
    return tmp_path / "logs"


def message(
    name: str = "BREAKS", *, kind: str = "raised", severity: Severity = Severity.CRITICAL, words: str = "x"
) -> Message:
    return Message(at=AT, kind=kind, name=name, severity=severity, words=words)


# ---------------------------------------------------------------- order, deadline, failure
def test_the_first_channel_takes_it_and_the_second_is_left_alone() -> None:
    first, second = FakeChannel("first"), FakeChannel("second")
    delivery = Notifier([first, second], deadline_s=5).deliver(NOTE)
    assert (delivery.by, delivery.failures) == ("first", ()) and second.taken == []


def test_the_second_takes_it_when_the_first_refuses_and_says_so(log: Path) -> None:
    first, second = FakeChannel("first", refuses), FakeChannel("second")
    notifier = Notifier([first, second], deadline_s=5)
    for _ in range(3):
        assert notifier.deliver(NOTE).by == "second"
    assert "first failed: 401" in second.taken[0].body and notifier.first_failed == "first: 401 unauthorised"
    lines = (log / "errors.jsonl").read_text().splitlines()
    assert len(lines) == 1, "told once, not at every message"
    first.act = lambda: None
    assert notifier.deliver(NOTE).by == "first" and notifier.first_failed is None


def test_a_channel_that_hangs_costs_its_deadline_once_and_blocks_nobody() -> None:
    until = threading.Event()
    first, second = FakeChannel("first", lambda: bool(until.wait(30)) and None), FakeChannel("second")
    notifier, clock = Notifier([first, second], deadline_s=0.2), SystemClock()
    begun = clock.monotonic()
    assert notifier.deliver(NOTE).by == "second" and "no answer" in (notifier.first_failed or "")
    for _ in range(5):  # its thread is not multiplied
        assert notifier.deliver(NOTE).by == "second"
    assert "has not come back" in (notifier.first_failed or "")
    assert clock.monotonic() - begun < 5 and threading.active_count() < 30
    until.set()


def test_whatever_a_plug_in_raises_is_a_failure_and_no_crash(log: Path) -> None:
    def raises() -> None:
        raise RuntimeError("plug-in of a stranger")

    delivery = Notifier([FakeChannel("first", raises)], deadline_s=5).deliver(NOTE)
    assert delivery.by is None and "RuntimeError" in delivery.failures[0][1]


def test_without_channels_nothing_is_taken() -> None:
    assert Notifier([], deadline_s=5).deliver(NOTE).by is None


def test_a_thread_is_there_again_when_the_call_has_come_back() -> None:
    until, bounded = threading.Event(), Bounded("x")
    assert bounded.call(lambda: bool(until.wait(30)) and None, 0.05) is not None
    until.set()
    while bounded.busy:
        SystemClock().sleep(0.01)
    assert bounded.call(lambda: None, 5) is None


# ---------------------------------------------------------------- addresses
def test_channels_come_from_the_environment_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert channels() == []
    monkeypatch.setenv(FIRST, f"json://127.0.0.1:9/ tgram://123456789:{TOKEN}/12345")
    monkeypatch.setenv(SECOND, "mailto://user:pass@example.com")
    assert [c.name for c in channels()] == [FIRST, SECOND]


@pytest.mark.parametrize("bad", ["nonsense", "http//x", f"tgram://{TOKEN}"])
def test_an_address_that_cannot_be_used_is_refused_and_not_quoted(bad: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AppriseChannel(FIRST, f"json://127.0.0.1:9/ {bad}")
    assert (
        caught.value.code == "ALERT_URL_INVALID" and bad not in str(caught.value) and "address 2" in str(caught.value)
    )


def test_several_addresses_stand_apart_by_spaces_lines_or_commas() -> None:
    assert split("a://x,y b://z\n c://w,d://v") == ["a://x,y", "b://z", "c://w", "d://v"]


@pytest.mark.parametrize(
    ("variable", "address", "key"),
    [
        (FIRST, f"tgram://123456789:{TOKEN}/12345", TOKEN),
        (FIRST, f"slack://T0AAAAAAA/B0BBBBBBB/{TOKEN}", TOKEN),
        (SECOND, "mailto://user:pa55word%21@example.com?to=x@y.z", "pa55word!"),
        (SECOND, f"json://127.0.0.1:9/a discord://4174216298/{TOKEN}", TOKEN),
        (DEADMAN, f"https://hc-ping.example.com/{TOKEN}", TOKEN),
    ],
)
def test_no_part_of_an_address_that_may_be_a_key_gets_into_words(
    monkeypatch: pytest.MonkeyPatch, variable: str, address: str, key: str
) -> None:
    assert key in mask_secrets(f"posted {key}")
    monkeypatch.setenv(variable, address)
    for text in (address, f"posted to https://other.example.com/bot{key}/send", f"login {key} refused"):
        assert key not in mask_secrets(text)
    assert mask_secrets("hc-ping.example.com is down") == "hc-ping.example.com is down"


def test_each_address_of_several_is_masked_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FIRST, "json://alerts.example.com/a json://alerts.example.com/b")
    assert mask_secrets("posting to json://alerts.example.com/b failed") == "posting to *** failed"


def test_a_failure_in_the_log_holds_no_key(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FIRST, f"json://127.0.0.1:9/{TOKEN}")

    def raises() -> None:
        raise OSError(f"cannot reach http://127.0.0.1:9/{TOKEN}")

    delivery = Notifier([FakeChannel("first", raises)], deadline_s=5).deliver(NOTE)
    text = (log / "errors.jsonl").read_text()
    assert "cannot reach" in text and TOKEN not in text and TOKEN not in delivery.failures[0][1]


# ---------------------------------------------------------------- Apprise, for real
def test_a_webhook_gets_title_and_text_through_apprise() -> None:
    with hook() as there:
        channel = AppriseChannel(FIRST, there.url("json", "/alerts"))
        assert Notifier([channel], deadline_s=20).deliver(NOTE).by == FIRST
        ((method, path, body),) = there.got
    told = json.loads(body)
    assert (method, path, told["title"], told["message"], told["type"]) == (
        "POST", "/alerts", NOTE.title, NOTE.body, "failure"
    )  # fmt: skip


def test_a_webhook_that_refuses_is_a_failure_and_the_second_channel_is_asked(log: Path) -> None:
    with hook(status=401) as bad, hook() as good:
        notifier = Notifier(
            [AppriseChannel(FIRST, bad.url("json")), AppriseChannel(SECOND, good.url("json"))], deadline_s=20
        )
        assert notifier.deliver(NOTE).by == SECOND
        assert len(bad.got) == 1 and "failed" in good.bodies


def test_of_two_services_the_one_that_took_it_is_not_told_again_while_the_other_fails(log: Path) -> None:
    with hook(status=401) as bad, hook() as good:
        channel = AppriseChannel(FIRST, f"{bad.url('json')} {good.url('json')}")
        notifier = Notifier([channel], deadline_s=20)
        assert [notifier.deliver(NOTE).by for _ in range(3)] == [None] * 3
        assert (len(bad.got), len(good.got)) == (3, 1)
        assert notifier.deliver(Note(NOTE.title, "another", NOTE.kind)).by is None
        assert (len(bad.got), len(good.got)) == (4, 2)
    with hook() as one, hook() as other:
        both = Notifier([AppriseChannel(FIRST, f"{one.url('json')} {other.url('json')}")], deadline_s=20)
        assert [both.deliver(NOTE).by for _ in range(2)] == [FIRST] * 2
        assert (len(one.got), len(other.got)) == (2, 2), "the same words later are another message"


# ---------------------------------------------------------------- words
@pytest.mark.parametrize(
    "text",
    [EVIL, "**bold** _x_ `code` [a](https://evil.example.com)", "@everyone <!channel> <@U1>", "a\r\nb\x1b[2Jc\u202e",
     "https://evil.example.com/x"],
)  # fmt: skip
def test_no_text_of_others_is_markup_mention_or_link(text: str) -> None:
    plain = harmless(text)
    assert not set("<>&`*[]@|~\\\r\n\x1b\u202e") & set(plain) and "://" not in plain
    assert len(harmless(text * 500)) <= 400


def test_a_storm_is_one_message_worst_first() -> None:
    storm = [message(f"W{n}", severity=Severity.WARNING) for n in range(40)] + [message("DISK_FULL")]
    note = digest(storm, "live")
    assert note.title == "Kobe live: CRITICAL DISK_FULL and 40 more" and note.kind == "critical"
    assert note.body.splitlines()[0].startswith("NEW CRITICAL DISK_FULL")
    assert "29 more" in note.body and len(note.body) <= 1800


def test_a_recovery_says_that_it_is_over() -> None:
    note = digest([message(kind="recovered")], "paper")
    assert note.kind == "recovered" and note.title == "Kobe paper: OVER BREAKS"
    both = digest([message(kind="recovered"), message("SLIPPAGE", severity=Severity.WARNING)], "paper")
    assert both.kind == "warning" and "SLIPPAGE" in both.title


# ---------------------------------------------------------------- the dead man's switch
def test_a_ping_is_a_get_that_wants_a_2xx() -> None:
    with hook() as there:
        dead = DeadMan(there.url(), deadline_s=10)
        assert dead.ping() and dead.failed is None
        there.status = 404
        assert not dead.ping() and "404" in (dead.failed or "")
        there.status = 302
        assert not dead.ping(), "a redirect is not followed, and is no answer"
        assert [method for method, _, _ in there.got] == ["GET"] * 3


@pytest.mark.parametrize("url", ["ftp://x/y", "nonsense", "http://"])
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="KOBE_DEADMAN_URL"):
        DeadMan(url, deadline_s=1)
