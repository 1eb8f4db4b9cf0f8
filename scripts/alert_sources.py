"""What the alerting process looks at beside Facts: does the sidecar answer, when was the newest backup made."""

from __future__ import annotations

import http.client
import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from core.backup import newest
from core.paths import Home
from execution.heartbeat import BEAT_FILE, read_beat
from execution.notifier import Bounded, NotDelivered
from execution.observe.line_tail import JsonTail
from execution.observe.logs_look import instant

if TYPE_CHECKING:
    from scripts.wiring import Context

EVERY_S = 15.0
DEADLINE_S = 3.0
_ANSWER_BYTES = 65_536
_NAME = "kobe-%Y%m%dT%H%M%SZ"  # as core.backup names them
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class SidecarProbe:
    """Asks /health now and then. None while no runner works: nobody wants a sidecar then."""

    def __init__(self, context: Context) -> None:
        self._clock, self._beats = context.clock, context.home.state / BEAT_FILE
        sidecar = context.settings.sidecar
        self._host, self._port = _ANY.get(sidecar.host, sidecar.host), sidecar.port
        self._bounded = Bounded("sidecar-probe")
        self._next = self._clock.monotonic()
        self._up: bool | None = None

    def __call__(self) -> bool | None:
        beat = read_beat(self._beats)
        if beat is None or beat.ended:
            return None
        if self._clock.monotonic() >= self._next:
            self._next = self._clock.monotonic() + EVERY_S
            self._up = self._bounded.call(self._ask, DEADLINE_S) is None
        return self._up

    def _ask(self) -> None:
        from execution.sidecar import TOKEN_VARIABLE

        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        connection = http.client.HTTPConnection(self._host, self._port, timeout=DEADLINE_S)
        try:
            connection.request("GET", "/health", headers={"Authorization": f"Bearer {token}"} if token else {})
            answer = json.loads(connection.getresponse().read(_ANSWER_BYTES))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise NotDelivered(type(error).__name__) from error
        finally:
            connection.close()
        if not isinstance(answer, dict) or "runner" not in answer:
            raise NotDelivered("something else answers on its port")


class Backups:
    """When the newest backup was made: by the folder of the home, or by the log when it went elsewhere."""

    def __init__(self, home: Home) -> None:
        self._folder, self._rows = home.root / "backups", JsonTail(home.logs / "events.jsonl")
        self._told: datetime | None = None

    def __call__(self) -> datetime | None:
        for row in self._rows.new():
            if row.get("event") == "backup_made" and (at := instant(row.get("at"))) is not None:
                self._told = at
        found = self._of_folder()
        return max((at for at in (found, self._told) if at is not None), default=None)

    def _of_folder(self) -> datetime | None:
        try:
            folder = newest(self._folder)
        except OSError:
            return None
        try:
            return None if folder is None else datetime.strptime(folder.name[:21], _NAME).replace(tzinfo=UTC)
        except ValueError:
            return None
