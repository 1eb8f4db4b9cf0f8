"""The sidecar as the runner's child."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
from typing import TYPE_CHECKING

from core import logs
from scripts.child import Child, Words

if TYPE_CHECKING:
    from execution.heartbeat import Heartbeat
    from scripts.wiring import Context

_END_S = 1.0


class Beside(Child):
    script, pid_field = "sidecar.py", "sidecar_pid"
    words = Words(
        set_event="sidecar_set", set_code="SIDECAR_SET", ended_event="sidecar_ended", ended_code="SIDECAR_ENDED",
        not_started_event="sidecar_not_started", not_started_code="SIDECAR_NOT_STARTED", troubles="sidecar_troubles",
        ended="trading goes on", not_started="trading goes on without it",
    )  # fmt: skip

    def __init__(self, context: Context, args: argparse.Namespace, beat: Heartbeat) -> None:
        super().__init__(context, args, beat, wanted=context.settings.sidecar.enabled and not args.no_sidecar)
        if not self._wanted:
            logs.event("sidecar_off", code="SIDECAR_OFF")

    def _before_start(self) -> None:
        """Its port is asked for here, so that one in use is one line and not a process every few minutes."""
        from execution.sidecar import listening

        sidecar = self._context.settings.sidecar
        listening(sidecar.host, sidecar.port).close()

    def end(self) -> None:
        """Not waited for long."""
        process = self._process
        super().end()
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
