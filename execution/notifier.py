"""Messages to people: channels in their order, each with a deadline; the second is asked when the first takes none.

The addresses are secrets (KOBE_ALERT_URLS, KOBE_ALERT_FALLBACK_URLS: one or several, apart by spaces) and appear in no
words. A channel is an Apprise service: e-mail, Telegram, Slack, Discord, a webhook … Whatever it does, hang, raise or
refuse, is a failure with a reason, never more. Texts of others (symbols, reject texts) are made harmless first.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from core import logs
from core.errors import ConfigError
from core.secrets import mask_secrets
from execution.observe.alert_memory import Message
from execution.observe.alerts import Severity
from execution.observe.words import printable

FIRST, SECOND, DEADMAN = "KOBE_ALERT_URLS", "KOBE_ALERT_FALLBACK_URLS", "KOBE_DEADMAN_URL"
BODY_MOST, LINES_MOST, LINE_MOST = 1800, 12, 400
_HARMLESS = str.maketrans({"<": "‹", ">": "›", "&": "+", "`": "'", "*": "·", "[": "(", "]": ")", "@": "(at)",
                           "~": "-", "|": "/", "\\": "/"})  # fmt: skip


class NotDelivered(Exception):
    """In words, without an address."""


@dataclass(frozen=True, slots=True)
class Note:
    title: str
    body: str
    kind: str  # critical, warning, recovered, info


class Channel(Protocol):
    name: str

    def send(self, note: Note) -> None:
        """Raises NotDelivered."""
        ...


def harmless(text: str) -> str:
    """One line that no service reads as markup, mention or link (P47)."""
    plain = printable(" ".join(mask_secrets(text).split())).translate(_HARMLESS)
    return re.sub(r"://", ": //", plain)[:LINE_MOST]


def digest(messages: Sequence[Message], mode: str) -> Note:
    """Everything that waits, as one: a storm is one message."""
    worst = max(messages, key=lambda m: (m.kind != "recovered", m.severity is Severity.CRITICAL))
    recovered = all(m.kind == "recovered" for m in messages)
    kind = "recovered" if recovered else worst.severity.value
    more = f" and {len(messages) - 1} more" if len(messages) > 1 else ""
    word = "OVER" if recovered else worst.severity.value.upper()
    ordered = sorted(messages, key=lambda m: (m.kind == "recovered", m.severity is not Severity.CRITICAL))
    lines = [harmless(f"{_WORDS[m.kind]} {m.severity.upper()} {m.name}: {m.words}") for m in ordered[:LINES_MOST]]
    if len(ordered) > LINES_MOST:
        lines.append(f"and {len(ordered) - LINES_MOST} more: python scripts/alerts.py list")
    title = harmless(f"Kobe {mode}: {word} {worst.name}{more}")
    return Note(title=title, body="\n".join(lines)[:BODY_MOST], kind=kind)


_WORDS = {"raised": "NEW", "worse": "WORSE", "reminder": "STILL", "recovered": "OVER"}


# ---------------------------------------------------------------- one channel
class AppriseChannel:
    """All the services behind one variable; each of them must take the message, and takes it once."""

    def __init__(self, name: str, addresses: str) -> None:
        """Raises ConfigError for an address that Apprise does not know; its text is not quoted."""
        import apprise

        self.name = name
        self._services: list[Any] = []
        self._took: set[int] = set()  # services that have this note already, while others of them do not
        self._note: Note | None = None
        for number, address in enumerate(split(addresses), start=1):
            self._services.append(apprise.Apprise())
            if not self._services[-1].add(address):
                raise ConfigError(
                    f"{name}: address {number} is no service that Apprise knows", code="ALERT_URL_INVALID",
                    advice="see docs/alerts.md",
                )  # fmt: skip

    def send(self, note: Note) -> None:
        import apprise

        kinds = {
            "critical": apprise.NotifyType.FAILURE, "warning": apprise.NotifyType.WARNING,
            "recovered": apprise.NotifyType.SUCCESS,
        }  # fmt: skip
        kind = kinds.get(note.kind, apprise.NotifyType.INFO)
        text = apprise.NotifyFormat.TEXT  # what wants HTML or Markdown is escaped by Apprise
        if note != self._note:
            self._note, self._took = note, set()
        for number, service in enumerate(self._services):
            if number not in self._took and service.notify(
                title=note.title, body=note.body, notify_type=kind, body_format=text
            ):
                self._took.add(number)
        if len(self._took) < len(self._services):
            missing = len(self._services) - len(self._took)
            raise NotDelivered(f"{missing} of {len(self._services)} services did not take the message")
        self._note = None


def split(addresses: str) -> list[str]:
    return [a for a in re.split(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)|\s+", addresses.strip()) if a]


def channels() -> list[Channel]:
    """As the environment says, in their order. Raises ConfigError."""
    found: list[Channel] = []
    for variable in (FIRST, SECOND):
        addresses = os.environ.get(variable, "").strip()
        if addresses:
            found.append(AppriseChannel(variable, addresses))
    return found


# ---------------------------------------------------------------- deadlines
class Bounded:
    """Calls in a thread of its own, one at a time; what is not back in time has failed, and blocks nobody."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def call(self, act: Callable[[], None], deadline_s: float) -> str | None:
        """None when it was done, else why not."""
        if self.busy:
            return "the call before has not come back"
        ended: list[str | None] = []
        self._thread = threading.Thread(target=_caught, args=(act, ended), daemon=True, name=self.name)
        self._thread.start()
        self._thread.join(deadline_s)
        return ended[0] if ended else f"no answer within {deadline_s:g} s"


def _caught(act: Callable[[], None], ended: list[str | None]) -> None:
    try:
        act()
    except NotDelivered as error:
        ended.append(mask_secrets(str(error)))
    except Exception as error:  # noqa: BLE001 - plug-ins and their libraries raise what they like
        ended.append(mask_secrets(f"{type(error).__name__}: {error}")[:200])
    else:
        ended.append(None)


@dataclass(frozen=True, slots=True)
class Delivery:
    """Which channel took it, None: none did; and why the others did not."""

    by: str | None
    failures: tuple[tuple[str, str], ...]


class Notifier:
    """The channels in their order. Tells a failure of each once until it changes, and counts all of them."""

    def __init__(self, chosen: Sequence[Channel], *, deadline_s: float) -> None:
        self._channels = [(channel, Bounded(channel.name)) for channel in chosen]
        self._deadline_s = deadline_s
        self._told: dict[str, str] = {}
        self.first_failed: str | None = None  # why the first channel took no message the last time

    @property
    def any(self) -> bool:
        return bool(self._channels)

    def deliver(self, note: Note) -> Delivery:
        failures: list[tuple[str, str]] = []
        for channel, bounded in self._channels:
            body = note.body if not failures else f"{note.body}\n({failures[0][0]} failed: {harmless(failures[0][1])})"
            sent = Note(note.title, body, note.kind)
            why = bounded.call(lambda c=channel, n=sent: c.send(n), self._deadline_s)  # type: ignore[misc]
            if why is None:
                self._told.pop(channel.name, None)
                break
            failures.append((channel.name, why))
            self._failed(channel.name, why)
        first = self._channels[0][0].name if self._channels else ""
        self.first_failed = next((f"{name}: {why}" for name, why in failures if name == first), None)
        taken = len(failures) < len(self._channels)
        return Delivery(self._channels[len(failures)][0].name if taken else None, tuple(failures))

    def _failed(self, name: str, why: str) -> None:
        logs.count("alerts_not_delivered", channel=name)
        if self._told.get(name) != why:
            self._told[name] = why
            logs.error_event("alert_not_delivered", code="ALERT_NOT_DELIVERED", channel=name, detail=why)


# ---------------------------------------------------------------- the dead man's switch
class DeadMan:
    """Asks an address of the operator's every so often; that service tells when the asking ends."""

    def __init__(self, url: str, *, deadline_s: float) -> None:
        """Raises ConfigError for what is no http address."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{DEADMAN} is no http or https address", code="DEADMAN_URL_INVALID")
        self._url, self._deadline_s = url, deadline_s
        self._bounded = Bounded("deadman")
        self.failed: str | None = None  # why the last ping failed

    def ping(self) -> bool:
        self.failed = self._bounded.call(self._ask, self._deadline_s)
        if self.failed is not None:
            logs.count("deadman_pings_failed")
        return self.failed is None

    def _ask(self) -> None:
        import requests

        wait_s = self._deadline_s / 2
        answer = requests.get(self._url, timeout=(wait_s, wait_s), allow_redirects=False, stream=True)
        answer.close()
        if not 200 <= answer.status_code < 300:
            raise NotDelivered(f"it answered {answer.status_code}")
