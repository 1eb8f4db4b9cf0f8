"""From the decision to the first byte on the wire: what of it is our own work, against one fsync of the same disk.

  python benchmarks/wire.py [--orders 400] [--history 0]
Each round sends one real order through the production desk and client to a small server in another process, and beside
it writes and fsyncs one journal-sized line to a file in the same folder. `own` is gate, ledger, locks, journal (its
fsyncs included), last door, kill switch and hand-over; `libraries` is alpaca-py, requests and urllib3 until the first
byte. `--history N` puts N finished orders of earlier days into the journal first: a send must cost the same.
Exit: 0 the 99th percentile of own work is within 3 fsyncs (median against median and tail against tail) · 1 it is not
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NOW = datetime(2024, 3, 5, 15, 0, tzinfo=UTC)
LIMIT = 3.0


def serve(pipe: Any) -> None:
    """Accepts every order and echoes it; answers lists with nothing."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *args: Any) -> None: ...

        def reply(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.reply(b"[]")

        def do_POST(self) -> None:
            order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            order |= {"id": order["client_order_id"], "status": "canceled", "filled_qty": "0"}
            self.reply(json.dumps(order).encode())

    server = HTTPServer(("127.0.0.1", 0), Handler)
    pipe.send(server.server_address[1])
    server.serve_forever()


@contextmanager
def server() -> Any:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


@dataclass
class Stamps:
    """The instants of one send: own work lies outside the library's two stretches."""

    begun: float = 0.0
    to_library: float = 0.0
    from_library: float = 0.0
    back_to_library: float = 0.0
    at_socket: float = 0.0
    first_byte: float = 0.0

    @property
    def own_s(self) -> float:
        return (self.to_library - self.begun) + (self.back_to_library - self.from_library) + (
            self.first_byte - self.at_socket)  # fmt: skip

    @property
    def library_s(self) -> float:
        return (self.from_library - self.to_library) + (self.at_socket - self.back_to_library)


def watch(desk: Any, stamps: Stamps) -> None:
    """Put a stop-watch at the five borders between our code and the libraries."""
    from execution import transport

    broker = desk.broker
    post, send = broker._trading.post, broker._transport.send
    run, before_bytes, announce = transport._Work.run, transport.Attempt.before_bytes, transport._announce

    def timed_post(*args: Any, **more: Any) -> Any:
        stamps.to_library = perf_counter()
        return post(*args, **more)

    def timed_send(request: Any, *args: Any, **more: Any) -> Any:
        if request.method == "POST":
            stamps.from_library = perf_counter()
        return send(request, *args, **more)

    def timed_run(work: Any) -> None:
        stamps.back_to_library = perf_counter()
        run(work)

    def timed_announce(wire: Any) -> None:
        stamps.at_socket = perf_counter()
        announce(wire)

    def timed_before_bytes(attempt: Any, wire: Any) -> None:
        first = not attempt.sent
        before_bytes(attempt, wire)
        if first:
            stamps.first_byte = perf_counter()

    broker._trading.post = timed_post
    broker._transport.send = timed_send
    transport._Work.run = timed_run  # type: ignore[method-assign]
    transport.Attempt.before_bytes = timed_before_bytes  # type: ignore[method-assign]

    def once(wire: Any) -> None:  # a request is announced for its head and for its body: the first counts
        attempt = getattr(transport._CURRENT, "attempt", None)
        if attempt is not None and not attempt.sent:
            timed_announce(wire)
        else:
            announce(wire)

    transport._announce = once


def open_desk(root: Path, url: str) -> Any:
    from config.settings_schema import Settings
    from core.clock import SteppedClock
    from core.journal import Journal
    from execution.admission import JournalWatch, LastDoor
    from execution.alpaca_broker import AlpacaBroker
    from execution.desk import Desk
    from risk.gate import Limits
    from risk.kill_switch import KillSwitch, LatchedHalt
    from risk.runaway import Bounds, Ceilings

    clock = SteppedClock(NOW)
    journal = Journal(root / "state" / "hash_chain.jsonl", clock)
    roomy = Ceilings(per_minute=10**6, per_day=10**6)
    endless = Decimal(10**9)
    bounds = replace(Bounds.from_settings(Settings()), ceilings=roomy, minute_usd=endless, day_usd=endless)
    watcher = JournalWatch(journal, bounds)
    halt = LatchedHalt(KillSwitch(root / "state" / "KILL_SWITCH"), watcher.newest_pass)
    broker = AlpacaBroker(
        key_id="k", secret="s", base_url=url, data_url=url, halt=halt, clock=clock, connect_timeout_s=3,
        read_timeout_s=10, total_timeout_s=15, admission=LastDoor(watcher, clock, trip=lambda why: None),
    )  # fmt: skip
    limits = replace(Limits.from_settings(Settings()), daily_budget_usd=endless, ceilings=roomy)
    lock = root / "state" / "desk"
    return Desk(journal=journal, broker=broker, halt=halt, clock=clock, limits=limits, lock_path=lock)


def intent_and_book(number: int, at: datetime) -> tuple[Any, Any]:
    import numpy as np

    from core.domain import OrderIntent, OrderKind, Purpose, Quote, Side, Symbol, Tif, TradingState
    from risk.gate import Book

    symbol = Symbol(f"S{number}")
    intent = OrderIntent(
        decision_id=f"20240304-ibs_rsi-{symbol}", symbol=symbol, side=Side.BUY, quantity=1, purpose=Purpose.ENTRY,
        kind=OrderKind.LIMIT, tif=Tif.IOC, decided_at=at, strategy="ibs_rsi", signal_session=date(2024, 3, 4),
        limit_price=Decimal("50.10"), stop_price=Decimal("45.00"), time_stop_bars=7, reason="signal",
    )  # fmt: skip
    quote = Quote(symbol=symbol, bid=Decimal("49.99"), ask=Decimal("50.00"), last=Decimal("50.00"), at=at)
    book = Book(
        now=at, session=date(2024, 3, 5), session_open=True, closes_at=at + timedelta(hours=6), quote=quote,
        tradable=True, vix=15.0, trading_state=TradingState.ACTIVE, returns={symbol: np.full(60, -0.001)},
        sectors={symbol: "Tech"}, equity=Decimal(100_000), cash=Decimal(10**9),
    )  # fmt: skip
    return intent, book


def grow(desk: Any, orders: int) -> None:
    """Finished orders of earlier days, as a long-lived home has them."""
    from execution.ledger import intent_body

    clock, now = desk.clock, desk.clock.now()
    for number in range(orders):
        clock.set(now - timedelta(days=400) + timedelta(hours=number * 9000 / max(1, orders)))
        intent, _ = intent_and_book(10**6 + number, clock.now())
        ids = {"client_order_id": intent.client_order_id, "decision_id": intent.decision_id, "symbol": intent.symbol}
        desk.journal.append("order_intended", intent_body(intent))
        desk.journal.append("order_acknowledged", {**ids, "order_id": str(number), "status": "new"})
        desk.journal.append("order_closed", {**ids, "status": "canceled", "filled_quantity": 0, "filled_price": None})
    clock.set(now)


def one_fsync(handle: int, line: bytes) -> float:
    begun = perf_counter()
    os.write(handle, line)
    os.fsync(handle)
    return perf_counter() - begun


def measure(root: Path, orders: int, history: int) -> tuple[list[Stamps], list[float]]:
    os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    with server() as url:
        desk = open_desk(root, url)
        grow(desk, history)
        stamps, flushed, found = Stamps(), list[float](), list[Stamps]()
        watch(desk, stamps)
        beside = os.open(root / "state" / "beside", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        gc.disable()
        for number in range(orders + 20):
            intent, book = intent_and_book(number, desk.clock.now())
            flushed.append(one_fsync(beside, b"x" * 700))
            stamps.begun = perf_counter()
            desk.send(intent, book)
            found.append(replace(stamps))
            desk.clock.advance(timedelta(hours=1))  # some 24 orders a day
            gc.collect(0)
        os.close(beside)
        return found[20:], flushed[20:]


def at(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--orders", type=int, default=400)
    p.add_argument("--history", type=int, default=0, help="finished orders in the journal before")
    args = p.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="kobe-wire-", dir=Path.cwd()) as folder:
        (Path(folder) / "state").mkdir()
        found, flushed = measure(Path(folder), args.orders, args.history)
    own, library = [s.own_s for s in found], [s.library_s for s in found]
    print(f"{'':34}{'median ms':>10}{'p99 ms':>10}{'median/fsync':>14}{'p99/fsync p99':>15}")
    for name, values in (("one write + fsync", flushed), ("own work, decision to first byte", own),
                         ("alpaca-py, requests, urllib3", library)):  # fmt: skip
        middle, tail = statistics.median(values), at(values, 0.99)
        ratios = (middle / statistics.median(flushed), tail / at(flushed, 0.99))
        print(f"{name:34}{middle * 1e3:10.3f}{tail * 1e3:10.3f}{ratios[0]:14.2f}{ratios[1]:15.2f}")
    parts = {
        "gate, lock, journal": [s.to_library - s.begun for s in found],
        "last door, hand-over": [s.back_to_library - s.from_library for s in found],
        "kill switch": [s.first_byte - s.at_socket for s in found],
    }
    for name, values in parts.items():
        print(f"  of it {name:28}{statistics.median(values) * 1e3:10.3f}{at(values, 0.99) * 1e3:10.3f}")
    return 0 if at(own, 0.99) <= LIMIT * at(flushed, 0.99) else 1


if __name__ == "__main__":
    sys.exit(main())
