"""Serve health, readiness, metrics and a page for people. It reads this home and never writes to it, but for its log.

  sidecar.py --mode paper                 by hand, until Ctrl-C; runner.py starts one by itself: sidecar.enabled
  curl http://localhost:8080/health       200: the runner is alive and moves; 503 with reasons
  curl http://localhost:8080/ready        200: it may trade; 503 with reasons
  curl http://localhost:8080/metrics      and /metrics/prometheus; in live mode 60 requests a minute, then 429
Beyond this machine (sidecar.host) only with the environment variable KOBE_SIDECAR_TOKEN. See docs/sidecar.md.
Exit: 0 ended as told · 2 usage · 10 configuration, port in use, token missing · 11 replay.json damaged
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit

if TYPE_CHECKING:
    from execution.sidecar import Rules
    from scripts.wiring import Context

ORPHAN_S = 900.0
"""After its runner has died it goes on to say so for this long, so that whoever asks is told and not refused."""
_LOOK_S = 0.5


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mode", choices=("paper", "live"), help="which account; default: the account of this home")
    p.add_argument("--port", type=int, help="default: sidecar.port of the settings; 0 takes a free one")
    p.add_argument("--scan-times", help="as given to the runner")
    p.add_argument("--runner", help="used by runner.py, which holds the other end of the standard input: its nonce")
    p.add_argument("--dotenv", type=pathlib.Path, help="another .env file")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from scripts import observing, watching, wiring

    stop = watching.stop_on_signals()
    context = wiring.open_context(args, mode=observing.mode_of(args.mode))
    rules = rules_of(context, args.port)
    from execution.sidecar import listening

    with listening(rules.host, rules.port) as listener:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        cli.out(f"{wiring.describe(context, data_source='none', simulated=False)} | http://{shown}:{port}/")
        sys.stdout.flush()
        return _serve(context, args, rules, listener, stop)


def rules_of(context: Context, port: int | None) -> Rules:
    """Raises ConfigError for an address beyond loopback without a token, UsageError for no port."""
    from core.domain import Mode
    from core.errors import UsageError
    from execution.sidecar import TOKEN_VARIABLE, Rules

    sidecar = context.settings.sidecar
    live = context.mode is Mode.LIVE
    if port is not None and not 0 <= port <= 65_535:
        raise UsageError(f"--port must be within 0 to 65535, was {port}")
    return Rules(
        host=sidecar.host, port=sidecar.port if port is None else port, allowed_hosts=sidecar.allowed_hosts,
        token=os.environ.get(TOKEN_VARIABLE, "").strip() or None,
        metrics_per_minute=sidecar.metrics_per_minute_live if live else sidecar.metrics_per_minute_paper,
        connections_max=sidecar.connections_max, stalled_after_s=sidecar.stalled_after_s,
    )  # fmt: skip


def _serve(context: Context, args: argparse.Namespace, rules: Rules, listener: Any, stop: threading.Event) -> int:
    from core import logs
    from core.clock import SystemClock
    from execution import sidecar
    from scripts.observing import open_observer

    sidecar.be_nice()
    ticks = SystemClock()
    observer = open_observer(context, args.scan_times)
    source = sidecar.Source(observer.look, ticks, rules.stalled_after_s, observer.alerts)
    source.view()  # a long journal is read before anybody asks
    server = sidecar.server(sidecar.create_app(source, rules, ticks), rules)
    threading.Thread(target=_until_told, args=(context, args.runner, stop, server), daemon=True).start()
    logs.event("sidecar_started", code="SIDECAR_STARTED", host=rules.host, port=listener.getsockname()[1])
    server.run(sockets=[listener])
    logs.event("sidecar_ended", code="SIDECAR_ENDED")
    return Exit.OK


def _until_told(context: Context, nonce: str | None, stop: threading.Event, server: Any) -> None:
    """Ends the server: on a signal, or when the runner it belongs to has ended, was replaced, or is long dead."""
    from core.clock import SystemClock
    from execution.heartbeat import BEAT_FILE, read_beat
    from scripts import watching

    gone = watching.runner_gone() if nonce else threading.Event()
    clock, since = SystemClock(), None
    while not stop.wait(_LOOK_S):
        if not gone.is_set():
            continue
        since = clock.monotonic() if since is None else since
        beat = read_beat(context.home.state / BEAT_FILE)
        if beat is None or beat.nonce != nonce or beat.stopped or clock.monotonic() - since > ORPHAN_S:
            break
    server.should_exit = True


if __name__ == "__main__":
    sys.exit(cli.run(main))
