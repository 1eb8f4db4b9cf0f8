"""The alerting process as the runner's child. It ends with a runner that is stopped as told, and outlives any other."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from core import logs
from core.errors import Exit
from execution.notifier import FIRST
from scripts.child import AGAIN_FIRST_S, AGAIN_MOST_S, Child, Words

if TYPE_CHECKING:
    from execution.heartbeat import Heartbeat
    from scripts.wiring import Context

_UNHEARD = "trading goes on, and nobody is told of trouble"


class Alarm(Child):
    script, pid_field = "alerting.py", "alerting_pid"
    words = Words(
        set_event="alerting_set", set_code="ALERTING_SET", ended_event="alerting_trouble", ended_code="ALERTING_ENDED",
        not_started_event="alerting_trouble", not_started_code="ALERTING_NOT_STARTED", troubles="alerting_troubles",
        ended=_UNHEARD, not_started=_UNHEARD,
    )  # fmt: skip

    def __init__(self, context: Context, args: argparse.Namespace, beat: Heartbeat) -> None:
        super().__init__(context, args, beat, wanted=context.settings.alerts.enabled and not args.no_alerts)
        if not self._wanted:
            logs.event("alerts_off", code="ALERTS_OFF")
            context.notes.append("alerts are off: nobody is told when something is wrong")
        elif not os.environ.get(FIRST, "").strip():
            context.notes.append(f"{FIRST} is not set: alerts go to the log and to alerts.py list only")

    def _ended(self, code: int, *, lived_s: float) -> None:
        if code != Exit.ALREADY_RUNNING:
            super()._ended(code, lived_s=lived_s)
            return
        self._close_pipe()  # one was started by hand or as a service, and does the same
        self._next, self._wait_s = self._context.clock.monotonic() + AGAIN_MOST_S, AGAIN_FIRST_S
        logs.event("alerting_elsewhere", code="ALERTING_ELSEWHERE")

    def _command(self) -> list[str]:
        command = super()._command()
        return [*command, "--no-sidecar"] if self._args.no_sidecar else command
