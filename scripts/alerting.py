"""Tell a person when something is wrong: look at everything, judge, send. It trades nothing and stops nothing.

  alerting.py --mode paper     by hand or as a service, until Ctrl-C; runner.py starts one by itself: alerts.enabled
  alerting.py --once           one look, for cron; alerts of more than one look need the loop
Where to: KOBE_ALERT_URLS, KOBE_ALERT_FALLBACK_URLS, KOBE_DEADMAN_URL in the environment or .env, see docs/alerts.md.
Without them alerts are in logs/events.jsonl, state/alerts.json and `alerts.py list` only.
Exit: 0 ended as told · 2 usage · 3 another one works on this home · 10 configuration, an address that cannot be used ·
11 replay.json damaged
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit

if TYPE_CHECKING:
    from core.clock import Clock
    from execution.alerting import Alerting
    from scripts.wiring import Context

ORPHAN_S = 86_400.0
"""After its runner has died it goes on for this long: a death in the night is still told in the morning."""
LOCK_WAIT_S = 10.0
_LOOK_S = 0.5


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mode", choices=("paper", "live"), help="which account; default: the account of this home")
    p.add_argument("--scan-times", help="as given to the runner")
    p.add_argument("--once", action="store_true", help="one look, then end")
    p.add_argument("--no-sidecar", action="store_true", help="the runner was started without one: do not miss it")
    p.add_argument("--runner", help="used by runner.py, which holds the other end of the standard input: its nonce")
    p.add_argument("--dotenv", type=pathlib.Path, help="another .env file")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from core import logs
    from core.errors import AlreadyRunning, StateLocked
    from core.files import locked
    from core.restore import ALERTING
    from scripts import observing, watching, wiring

    stop = watching.stop_on_signals()
    context = wiring.open_context(args, mode=observing.mode_of(args.mode))
    alerting = open_alerting(context, args)
    cli.out(f"{wiring.describe(context, data_source='none', simulated=False)} | alerts to {_told_to()}")
    sys.stdout.flush()
    try:
        with locked(context.home.state / ALERTING, timeout_s=LOCK_WAIT_S):
            logs.event("alerting_started", code="ALERTING_STARTED")
            _loop(context, alerting, args, stop)
            logs.event("alerting_ended", code="ALERTING_ENDED")
    except StateLocked as error:
        raise AlreadyRunning("another alerting.py works on this home", advice="it is enough") from error
    return Exit.OK


def _told_to() -> str:
    """The variables that are set; their values are secrets."""
    from execution.notifier import DEADMAN, FIRST, SECOND

    found = [name for name in (FIRST, SECOND, DEADMAN) if os.environ.get(name, "").strip()]
    return ", ".join(found) or f"the log only: {FIRST} is not set"


def open_alerting(context: Context, args: argparse.Namespace, clock: Clock | None = None) -> Alerting:
    """Raises ConfigError for an address that cannot be used, and for the home of a replay."""
    from core.errors import ConfigError
    from execution import notifier
    from execution.alerting import Alerting
    from execution.observe import alert_memory
    from scripts import alert_sources
    from scripts.observing import open_observer

    observer = open_observer(context, args.scan_times)
    if observer.watched.standing:
        raise ConfigError("this home holds the account of a replay, which stands still", code="REPLAY_HOME",
                          advice="set KOBE_HOME to another folder")  # fmt: skip
    deadline_s = context.settings.alerts.deadline_s
    url = os.environ.get(notifier.DEADMAN, "").strip()
    probe = alert_sources.SidecarProbe(context) if context.settings.sidecar.enabled and not args.no_sidecar else None
    return Alerting(
        look=observer.look, settings=context.settings, file=context.home.state / alert_memory.FILE,
        clock=clock or context.clock, mode=context.mode.value,
        notifier=notifier.Notifier(notifier.channels(), deadline_s=deadline_s),
        deadman=notifier.DeadMan(url, deadline_s=deadline_s) if url else None,
        sidecar_up=(lambda: None) if probe is None else probe,
        backup_at=alert_sources.Backups(context.home),
    )  # fmt: skip


def _loop(context: Context, alerting: Alerting, args: argparse.Namespace, stop: threading.Event) -> None:
    from scripts import watching

    gone = watching.runner_gone() if args.runner else threading.Event()
    over = _over(context, args.runner)
    while True:
        alerting.step()
        if args.once:
            return
        until = context.clock.monotonic() + context.settings.alerts.evaluate_s
        while context.clock.monotonic() < until:
            if stop.wait(_LOOK_S) or (gone.is_set() and over()):
                return


def _over(context: Context, nonce: str | None) -> Callable[[], bool]:
    """Asked once the runner is gone: was it stopped as told, replaced, is it long dead, or its home gone?"""
    from execution.heartbeat import BEAT_FILE, read_beat

    since: list[float] = []

    def over() -> bool:
        now = context.clock.monotonic()
        since.append(now) if not since else None
        beat = read_beat(context.home.state / BEAT_FILE)
        if beat is not None and (beat.nonce != nonce or beat.stopped):
            return True
        if not context.home.root.is_dir():
            return True
        return now - since[0] > ORPHAN_S

    return over


if __name__ == "__main__":
    sys.exit(cli.run(main))
