"""A real process with the runner's own parts in it, and a venue in another one: to be stopped, killed and watched.

Run as a script it is that process: it holds the runner's lock, has a watchdog, sends what a test asks for through the
production order path, then beats until it is told to end. As a module it starts one and looks at what is left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"ALPACA_API_KEY_ID": "id", "ALPACA_API_SECRET_KEY": "secret"}


# ---------------------------------------------------------------- the process itself
def main(argv: list[str]) -> int:
    """`argv`: what to have out, of "entry" and "stop"; and "hold" to keep the journal's lock while it stands."""
    from core.clock import BeatingClock
    from core.files import locked
    from execution.runner import only_runner
    from scripts import trading, watching, wiring

    args = SimpleNamespace(mode="paper", market="simulated", fills=None, dotenv=None)
    stop = watching.stop_on_signals()
    context = wiring.open_context(args)  # type: ignore[arg-type]
    with wiring.closing(context), only_runner(context.home.state, context.clock) as beat:
        context.clock = BeatingClock(context.clock, beat.pulse)
        context.alive = beat.pulse
        desk, halts = trading.open_runners_desk(context)
        guard = watching.Guard(context, args, beat)  # type: ignore[arg-type]
        guard.look()
        for what in argv:
            _SENDS.get(what, lambda desk: None)(desk)
        print("ready", flush=True)
        if "hold" in argv:
            with locked(context.home.journal):
                print("holding", flush=True)
                _beat_until(stop, beat, guard)
        else:
            _beat_until(stop, beat, guard, halts)
    guard.end()
    return 0


def _beat_until(stop: Any, beat: Any, guard: Any, halts: Any = None) -> None:
    while not stop.wait(0.05):
        beat.pulse()
        guard.look()
        if halts is not None:
            halts.look()


def _send(desk: Any, intent: Any) -> None:
    """Intent, wire, acknowledgement; the gate's view of market and account is not what is tested here."""
    from execution.ledger import intent_body
    from tests.execution.broker_contract import approved

    desk.journal.append("order_intended", intent_body(intent))
    order = desk.broker.submit(approved(intent, held=intent.quantity if intent.side == "sell" else 0))
    desk._adopt(intent, order)


def _entry(desk: Any) -> None:
    """A limit far below the market, for the day: it works until somebody cancels it."""
    from core.domain import Tif
    from tests.fakes.trading import entry

    _send(desk, entry("BBB", price="40.00", stop="35.00", tif=Tif.DAY, at=desk.clock.now()))


def _stop(desk: Any) -> None:
    """A position, and the stop that rests under it."""
    from core.domain import Tif
    from execution.protection import repair
    from tests.fakes.trading import TODAY, book, entry

    bought = entry("AAA", price="50.50", tif=Tif.IOC, at=desk.clock.now())
    _send(desk, bought)
    assert desk.poll(bought.client_order_id, wait_s=5.0).filled_quantity == 1
    repair(desk, book(now=desk.clock.now()), on=TODAY)


_SENDS: Mapping[str, Callable[[Any], None]] = {"entry": _entry, "stop": _stop}


# ---------------------------------------------------------------- started by a test
@dataclass
class Live:
    process: subprocess.Popen[str]
    home: Path
    url: str

    @property
    def state(self) -> Path:
        return self.home / "state"

    def open_orders(self) -> list[str]:
        import requests

        headers = {"APCA-API-KEY-ID": "id", "APCA-API-SECRET-KEY": "secret"}
        rows = requests.get(f"{self.url}/v2/orders", params={"status": "open"}, headers=headers, timeout=10).json()
        return sorted(row["client_order_id"] for row in rows)

    def records(self, name: str = "hash_chain.jsonl") -> list[dict[str, Any]]:
        path = self.state / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def kinds(self, name: str = "hash_chain.jsonl") -> list[str]:
        return [record["kind"] for record in self.records(name)]

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def environment(home: Path, url: str, **more: str) -> dict[str, str]:
    return {
        **os.environ, **KEYS, "KOBE_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost", "ALPACA_BASE_URL": url,
        "ALPACA_DATA_URL": url, "POLYGON_BASE_URL": url, "ANTHROPIC_BASE_URL": url, "PYTHONPATH": str(ROOT), **more,
    }  # fmt: skip


@contextmanager
def live(home: Path, url: str, *wanted: str, **more: str) -> Iterator[Live]:
    """The process, ready: everything it was asked to send is out. Ended whatever happens."""
    command = [sys.executable, str(Path(__file__).resolve()), *wanted]
    process = subprocess.Popen(
        command, env=environment(home, url, **more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    made = Live(process, home, url)
    try:
        said = made.says()
        assert said == "ready", (said, process.stderr.read() if process.stderr else "")
        yield made
    finally:
        process.kill()  # also one that is stopped
        process.communicate()


def until(true: Callable[[], bool], *, within_s: float) -> float:
    """Seconds until it was true. Fails when it is not in time."""
    from core.clock import SystemClock

    clock = SystemClock()
    start = clock.monotonic()
    while not true():
        waited = clock.monotonic() - start
        assert waited < within_s, f"not within {within_s:g} s"
        clock.sleep(0.05)
    return clock.monotonic() - start


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
