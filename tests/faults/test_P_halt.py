"""Kill switch, resume, watchdog and the runner's lock, against real threads, servers and processes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import urllib3

from core import logs
from core.clock import SteppedClock, SystemClock
from core.errors import AlreadyRunning, KobeError, TradingHalted
from core.journal import Journal
from execution.admission import JournalWatch
from execution.heartbeat import BEAT_FILE, PULSE_S, Heartbeat, read_beat
from execution.resume import HaltTeller
from execution.runner import only_runner
from execution.transport import OrderTransport
from risk.gate import Refused
from risk.kill_switch import KillSwitch, LatchedHalt
from risk.runaway import Bounds, Ceilings
from scripts import preflight
from tests.fakes.bad_http import BadServer
from tests.fakes.live_process import environment, live, until
from tests.fakes.scans import due, scene
from tests.fakes.trading import NOW, Unbounded, book, entry, world

ROOT = Path(__file__).resolve().parents[2]
TIME = SystemClock()


# ================================================================ P39
TRIPS = 1000
LATE_S = 0.050
BODY = b'{"client_order_id": "x"}'


class Arrivals:
    """A server that notes when the first bytes of each request were there. No more HTTP than that, so it is quick."""

    _REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

    def __init__(self) -> None:
        self.at: list[float] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v2/orders"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while first := line.recv(4096):
                self.at.append(TIME.monotonic())
                while not first.endswith(BODY):
                    first += line.recv(4096)
                line.sendall(self._REPLY)

    def stop(self) -> None:
        self._listener.close()


class Burst:
    """Sends as fast as it can from the moment it is let go until the switch stops it."""

    def __init__(self, url: str, switch: KillSwitch) -> None:
        self.go, self.halted = threading.Event(), threading.Event()
        self.ended = False
        self._url, self._session = url, requests.Session()
        self._session.trust_env = False
        transport = OrderTransport(
            halt=switch, admission=Unbounded(), connect_timeout_s=2, read_timeout_s=2, total_timeout_s=5
        )
        self._session.mount("http://", transport)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            self.go.wait()
            self.go.clear()
            if self.ended:
                return
            with contextlib.suppress(TradingHalted):
                while True:
                    self._session.post(self._url, data=BODY).close()
            self.halted.set()

    def end(self) -> None:
        self.ended = True
        self.go.set()
        self._thread.join(5)
        self._session.close()


def test_P39_after_a_thousand_trips_inside_bursts_no_post_begins_more_than_50_ms_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two senders, a trip at a random instant, a thousand times; now and then a connection takes longer than the bound,
    so that a switch asked before connecting would show. A POST counts as late by both clocks, the sender's at its first
    byte and the server's at its arrival: a machine that is busy delays the one or the other."""
    rng, first_bytes, lock = random.Random(7), list[float](), threading.Lock()
    real_send, real_connect = urllib3.connection.HTTPConnection.send, urllib3.connection.HTTPConnection.connect

    def send(self: Any, data: Any) -> None:
        if bytes(data[:4]) == b"POST":
            with lock:
                first_bytes.append(TIME.monotonic())
        real_send(self, data)

    def connect(self: Any) -> None:
        real_connect(self)
        if slow.pop() if slow else False:
            TIME.sleep(LATE_S + 0.03)

    slow: list[bool] = []
    monkeypatch.setattr(urllib3.connection.HTTPConnection, "send", send)
    monkeypatch.setattr(urllib3.connection.HTTPConnection, "connect", connect)
    server, path = Arrivals(), tmp_path / "KILL_SWITCH"
    removed, trips = list[float](), list[float]()
    bursts = [Burst(server.url, KillSwitch(path)) for _ in range(2)]
    try:
        for number in range(TRIPS):
            removed.append(TIME.monotonic())
            path.unlink(missing_ok=True)
            if number % 50 == 0:  # this round connects anew, and slowly
                slow.append(True)
                for burst in bursts:
                    burst._session.get_adapter("http://").close()
            for burst in bursts:
                burst.halted.clear()
                burst.go.set()
            TIME.sleep(rng.uniform(0, 0.003))
            path.touch()
            trips.append(TIME.monotonic())
            for burst in bursts:
                assert burst.halted.wait(5), "the switch did not stop it"
    finally:
        for burst in bursts:
            burst.end()
        server.stop()
    assert len(first_bytes) > TRIPS // 2 and len(trips) == TRIPS, "the bursts did not send"
    assert len(first_bytes) == len(server.at)
    ends = [*removed[1:], TIME.monotonic()]
    assert min(_late(posts, trips, ends) for posts in (first_bytes, server.at)) == 0


def _late(posts: list[float], trips: list[float], ends: list[float]) -> int:
    """POSTs between 50 ms after a trip and the removal that ends its round."""
    edges = np.sort(np.array(posts))
    after = np.searchsorted(edges, np.array(trips) + LATE_S)
    return int(np.maximum(np.searchsorted(edges, np.array(ends)) - after, 0).sum())


# ================================================================ P40 P42 P27
FORMS: dict[str, Callable[[Path], None]] = {
    "a file with 1": lambda state: _write(state / "KILL_SWITCH", b"1\n"),
    "an empty file": lambda state: _write(state / "KILL_SWITCH", b""),
    "UTF-16 from PowerShell": lambda state: _write(state / "KILL_SWITCH", "1\r\n".encode("utf-16")),
    "bytes that are no text": lambda state: _write(state / "KILL_SWITCH", b"\xff\x00\xfe"),
    "the word false": lambda state: _write(state / "KILL_SWITCH", b"false"),
    "a folder": lambda state: (state / "KILL_SWITCH").mkdir(),
    "small letters": lambda state: _write(state / "kill_switch", b"1"),
    "an editor's suffix": lambda state: _write(state / "Kill_Switch.txt", b"1"),
    "a link": lambda state: (state / "KILL_SWITCH").symlink_to(state / "hash_chain.jsonl"),
    "a dangling link": lambda state: (state / "KILL_SWITCH").symlink_to(state / "nowhere"),
    "a link to itself": lambda state: (state / "KILL_SWITCH").symlink_to(state / "KILL_SWITCH"),
    "an unreadable file": lambda state: (_write(state / "KILL_SWITCH", b"1"), (state / "KILL_SWITCH").chmod(0))[0],
}


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_P40_P27_every_form_of_the_switch_keeps_a_post_here(tmp_path: Path, form: str) -> None:
    server = BadServer()
    try:
        transport = OrderTransport(
            halt=KillSwitch(tmp_path / "KILL_SWITCH"), admission=Unbounded(), connect_timeout_s=1, read_timeout_s=1,
            total_timeout_s=2,
        )  # fmt: skip
        with requests.Session() as session:
            session.mount("http://", transport)
            order = {"client_order_id": "a", "symbol": "AAA", "qty": 1, "side": "buy", "type": "limit",
                     "time_in_force": "ioc"}  # fmt: skip
            session.post(f"{server.url}/v2/orders", json=order).close()
            assert len(server.posts) == 1, "the other side: without it, it is sent"
            FORMS[form](tmp_path)
            with pytest.raises(TradingHalted):
                session.post(f"{server.url}/v2/orders", json=order)
            assert len(server.posts) == 1
    finally:
        server.stop()


@pytest.mark.parametrize(
    "look", [lambda root: root / "state" / "KILL_SWITCH", lambda root: root / "file" / "KILL_SWITCH"],
    ids=["missing", "a file in its place"],
)  # fmt: skip
def test_P42_a_switch_that_cannot_be_looked_for_is_active(tmp_path: Path, look: Callable[[Path], Path]) -> None:
    (tmp_path / "file").write_bytes(b"")
    switch = KillSwitch(look(tmp_path))
    assert switch.is_active()
    if not switch.path.parent.exists():
        switch.path.parent.mkdir()
        assert not switch.is_active(), "the other side: with the folder there, it is absent"


def test_P27_our_own_trip_writes_through_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts import trading, wiring

    precious = tmp_path / "precious"
    precious.write_text("keep me")
    context = _context(tmp_path)
    context.home.kill_switch.symlink_to(precious)
    trading.trip_switch(context, "a reason")
    assert precious.read_text() == "keep me" and context.home.kill_switch.is_symlink()
    assert isinstance(context, wiring.Context) and KillSwitch(context.home.kill_switch).is_active()


def test_P27_state_documents_replace_a_link_and_leave_its_target(tmp_path: Path) -> None:
    from core.files import write_atomic

    precious, document = tmp_path / "precious", tmp_path / "positions.json"
    precious.write_text("keep me")
    document.symlink_to(precious)
    write_atomic(document, b"{}")
    assert precious.read_text() == "keep me" and not document.is_symlink() and document.read_bytes() == b"{}"


def _context(home: Path) -> Any:
    """A context on a home of its own, with the embedded venue as broker."""
    from scripts import wiring

    os.environ["KOBE_HOME"] = str(home)  # conftest puts it back
    args = preflight.parser().parse_args(["--all"])
    context = wiring.open_context(args)
    context.home.state.mkdir(parents=True, exist_ok=True)
    return context


# ================================================================ P41
def halted(root: Path) -> tuple[LatchedHalt, HaltTeller, Journal, Path]:
    """A living runner that has seen the switch."""
    clock = SteppedClock(NOW)
    journal = Journal(root / "state" / "hash_chain.jsonl", clock)
    (root / "state").mkdir(exist_ok=True)
    watch = JournalWatch(journal, Bounds(ceilings=Ceilings(), minute_usd=1, day_usd=1))  # type: ignore[arg-type]
    path = root / "state" / "KILL_SWITCH"
    halt = LatchedHalt(KillSwitch(path), watch.newest_pass)
    teller = HaltTeller(halt, watch, journal)
    path.touch()
    teller.look()
    return halt, teller, journal, path


def kinds(journal: Journal) -> list[str]:
    return [record.kind for record in journal.records()]


def test_P41_removing_the_file_alone_resumes_nothing(tmp_path: Path) -> None:
    halt, teller, journal, path = halted(tmp_path)
    path.unlink()
    for _ in range(5):
        teller.look()
    assert halt.is_active() and kinds(journal) == ["trading_halted"]


def test_P41_a_preflight_that_passes_after_the_removal_resumes_and_is_recorded(tmp_path: Path) -> None:
    halt, teller, journal, path = halted(tmp_path)
    path.unlink()
    teller.look()
    passed = Journal(journal.path, SteppedClock(NOW)).append("preflight_passed", {})  # another process
    teller.look()
    assert not halt.is_active() and kinds(journal) == ["trading_halted", "preflight_passed", "trading_resumed"]
    assert [r.body for r in journal.kinds("trading_resumed")] == [{"pass": passed.seq}]
    path.touch()
    teller.look()
    assert halt.is_active() and kinds(journal)[-1] == "trading_halted", "and it can be stopped again"


def test_P41_a_second_halt_before_the_first_was_resumed_needs_a_pass_of_its_own(tmp_path: Path) -> None:
    """Halted, removed, passed, and halted again before the runner's next look; then the machine goes down."""
    halt, teller, journal, path = halted(tmp_path)
    path.unlink()
    journal.append("preflight_passed", {})
    path.touch()
    teller.look()
    path.unlink()
    teller.look()
    assert halt.is_active() and kinds(journal) == ["trading_halted", "preflight_passed", "trading_halted"]
    assert teller.halted_before, "the next start is told as well"


def test_P41_a_pass_that_was_voided_resumes_nothing(tmp_path: Path) -> None:
    halt, teller, journal, path = halted(tmp_path)
    path.unlink()
    made = journal.append("preflight_passed", {})
    journal.append("preflight_voided", {"pass": made.seq})
    teller.look()
    assert halt.is_active()
    journal.append("preflight_passed", {})
    teller.look()
    assert not halt.is_active()


def test_P41_a_switch_that_appears_while_the_pass_is_written_voids_it(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scripts import checks

    context = _context(own_home)
    real = Journal.append

    def append(self: Journal, kind: str, body: Any, **more: Any) -> Any:
        made = real(self, kind, body, **more)
        if kind == "preflight_passed":
            context.home.kill_switch.touch()
        return made

    monkeypatch.setattr(Journal, "append", append)
    finding = checks.record_pass(context, "test", ["a"])
    assert isinstance(finding.problem, TradingHalted)
    assert kinds(Journal(context.home.journal, SteppedClock(NOW))) == ["preflight_passed", "preflight_voided"]


def test_P41_a_journal_that_cannot_be_read_resumes_nothing(tmp_path: Path) -> None:
    halt, teller, journal, path = halted(tmp_path)
    path.unlink()
    journal.append("preflight_passed", {})
    journal.path.write_bytes(b"damaged\n")
    with pytest.raises(KobeError):
        teller.look()
    assert halt.is_active()


def test_P41_a_scan_that_is_under_way_is_not_released_in_its_middle(tmp_path: Path) -> None:
    """The desk asks and stays halted, whatever the journal says; only the runner's look between two jobs lets go."""
    halt, teller, journal, path = halted(tmp_path)
    path.unlink()
    journal.append("preflight_passed", {})
    assert all(halt.is_active() for _ in range(10))
    teller.look()
    assert not halt.is_active()


# ================================================================ P20 P59
@pytest.fixture
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The embedded venue in this process, in the middle of a session: for the processes under test it is elsewhere."""
    from tests.fakes.scans import calendar_2024
    from tests.fakes.venues import small_venue

    with small_venue(tmp_path_factory.mktemp("venue"), calendar_2024()) as url:
        yield url


def quick(folder: Path, stalled_after_s: float) -> dict[str, str]:
    config = folder / "quick.yaml"
    config.write_text(f"watchdog:\n  stalled_after_s: {stalled_after_s}\n", encoding="utf-8")
    return {"KOBE_CONFIG": str(config)}


needs_stop = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot stop a process")


@needs_stop
def test_P20_under_SIGSTOP_the_orders_are_cancelled_within_ten_seconds_and_the_stop_stays(
    own_home: Path, venue: str, tmp_path: Path
) -> None:
    """With 3 s instead of the 8 s of the settings, so that the suite waits less; what comes after them is the same."""
    with live(own_home, venue, "stop", "entry", **quick(tmp_path, 3.0)) as run:
        before = run.open_orders()
        assert len(before) == 2 and not (run.state / "KILL_SWITCH").exists()
        until(lambda: _beat(run.state).watchdog is not None, within_s=5)
        os.kill(run.process.pid, signal.SIGSTOP)
        took = until(lambda: not any("-entry-" in cid for cid in run.open_orders()), within_s=15.0)
        assert 2.0 < took <= 10.0, took
        assert (run.state / "KILL_SWITCH").read_text().startswith("WATCHDOG RUNNER_STALLED")
        assert [cid for cid in run.open_orders() if "-protect-" in cid] == [c for c in before if "-protect-" in c]
        until(lambda: "watchdog_cancelled" in run.kinds(), within_s=5)
        os.kill(run.process.pid, signal.SIGCONT)  # it wakes up, sees the switch, and stays halted
        until(lambda: "trading_halted" in run.kinds(), within_s=5)
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(15) == 0
    assert run.kinds().count("watchdog_tripped") == 1


def _beat(state: Path) -> Any:
    return read_beat(state / BEAT_FILE)


@needs_stop
def test_P20_a_runner_stopped_while_it_holds_the_journal_is_watched_all_the_same(
    own_home: Path, venue: str, tmp_path: Path
) -> None:
    """The cancels wait for no lock."""
    with live(own_home, venue, "entry", "hold", **quick(tmp_path, 2.0)) as run:
        assert run.says() == "holding" and run.open_orders()
        os.kill(run.process.pid, signal.SIGSTOP)
        until(lambda: run.open_orders() == [], within_s=10)
        assert (run.state / "KILL_SWITCH").exists() and "watchdog_tripped" not in run.kinds()
        os.kill(run.process.pid, signal.SIGCONT)
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(20) == 0


def test_P20_a_runner_killed_with_an_order_out_is_cleaned_up_after(own_home: Path, venue: str, tmp_path: Path) -> None:
    with live(own_home, venue, "entry", **quick(tmp_path, 2.0)) as run:
        run.process.kill()
        run.process.wait()
        until(lambda: run.open_orders() == [], within_s=10)
        assert "RUNNER_GONE" in (run.state / "KILL_SWITCH").read_text()
        until(lambda: "watchdog_cancelled" in run.kinds(), within_s=10)  # and then it ends, with nobody left to watch
        ends = run.home / "logs" / "events.jsonl"
        until(lambda: '"event":"watchdog_ended"' in ends.read_text(), within_s=10)


def test_P20_a_runner_killed_and_started_again_in_time_goes_on(own_home: Path, venue: str, tmp_path: Path) -> None:
    config = quick(tmp_path, 4.0)
    with live(own_home, venue, "entry", **config) as first:
        first.process.kill()
        first.process.wait()
        killed_at = TIME.monotonic()
        with live(own_home, venue, **config) as second:
            TIME.sleep(4.0 + 1.0 - (TIME.monotonic() - killed_at))
            assert not (second.state / "KILL_SWITCH").exists() and second.open_orders() != []
            beat = read_beat(second.state / BEAT_FILE)
            assert beat is not None and beat.pid == second.process.pid
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(15) == 0


def test_P59_a_beat_from_a_helper_thread_is_no_progress(tmp_path: Path) -> None:
    """The schedule may die while threads live on: only the thread that took the lock can say that it works."""
    clock = SteppedClock(NOW)
    beat = Heartbeat(tmp_path / BEAT_FILE, clock)
    beat("waiting")
    before = read_beat(tmp_path / BEAT_FILE)
    clock.sleep(60)
    helper = threading.Thread(target=beat.pulse)
    helper.start()
    helper.join()
    assert read_beat(tmp_path / BEAT_FILE) == before
    beat.pulse()
    after = read_beat(tmp_path / BEAT_FILE)
    assert before is not None and after is not None and after.beats == before.beats + 1


def test_P59_beats_are_cheap_and_a_folder_that_cannot_be_written_stops_nothing_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SteppedClock(NOW)
    beat = Heartbeat(tmp_path / BEAT_FILE, clock)
    beat("waiting")
    for _ in range(100):
        clock.sleep(PULSE_S / 10)
        beat.pulse()
    seen = read_beat(tmp_path / BEAT_FILE)
    assert seen is not None and seen.beats <= 11, "five writes a second, however often it is called"
    told: list[str] = []
    monkeypatch.setattr(logs, "error_event", lambda name, **fields: told.append(name))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("execution.heartbeat.write_atomic", refuse)
    for _ in range(100):
        clock.sleep(1.0)
        beat.pulse()
    assert told == ["beat_not_written"] * 2, "told once a minute, never raised"


# ================================================================ P05 P06
HOLD = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from pathlib import Path
    from core.clock import SystemClock
    from execution.runner import only_runner
    with only_runner(Path(sys.argv[2]), SystemClock()) as beat:
        beat("holding")
        print("held", flush=True)
        sys.stdin.read()
"""


@contextlib.contextmanager
def holding(state: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(ROOT), str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_P05_of_two_runners_one_is_told_who_the_other_is(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with holding(state) as first:
        started = TIME.monotonic()
        with pytest.raises(AlreadyRunning) as caught, only_runner(state, SteppedClock(NOW)):
            raise AssertionError("two runners")
        assert TIME.monotonic() - started < 1.0 and caught.value.exit_code == 3
        assert f"pid {first.pid} on" in str(caught.value) and "since 20" in str(caught.value)


def test_P05_of_many_started_together_exactly_one_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(ROOT), str(tmp_path / "state")]
    pipe = subprocess.PIPE
    many = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
    try:
        until(lambda: sum(process.poll() is not None for process in many) == 3, within_s=30)
    finally:
        for process in many:
            process.kill()
    said = [process.communicate() for process in many]
    assert sorted(out for out, _ in said) == ["", "", "", "held\n"]
    assert sum("AlreadyRunning" in err for _, err in said) == 3


def test_P06_a_runner_that_was_killed_is_taken_over_although_its_pid_lives_on_as_another_program(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    with holding(state) as first:
        pass  # killed: the lock is free, the file still says that it holds
    facts = json.loads((state / BEAT_FILE).read_text())
    assert facts["pid"] == first.pid and facts["doing"] == "holding"
    (state / BEAT_FILE).write_text(json.dumps({**facts, "pid": os.getppid()}))  # that pid is someone else now
    with only_runner(state, SteppedClock(NOW)) as beat:
        assert beat.predecessor is not None and beat.predecessor.nonce == facts["nonce"] != beat.nonce
        mine = read_beat(state / BEAT_FILE)
        assert mine is not None and (mine.pid, mine.nonce) == (os.getpid(), beat.nonce)
    with only_runner(state, SteppedClock(NOW)) as next_one:
        assert next_one.predecessor is None, "the one before it said that it stopped"


def test_P06_P41_the_real_runner_takes_over_halts_and_resumes_only_after_a_preflight(own_home: Path) -> None:
    """After one that was killed on the same home; then the runbook's own order: halt, remove, preflight."""
    with holding(own_home / "state") as first:
        pass
    journal, switch = Journal(own_home / "state" / "hash_chain.jsonl", SteppedClock(NOW)), own_home / "state"
    switch = switch / "KILL_SWITCH"
    command = [sys.executable, "scripts/runner.py", "--mode", "paper", "--cap", "5", "--no-sidecar", "--no-alerts"]
    env = environment(own_home, "", **dict.fromkeys(("ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY"), ""))
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout is not None
            assert any(line.startswith("running;") for line in run.stdout)
            switch.touch()
            until(lambda: "trading_halted" in kinds(journal), within_s=10)
            switch.unlink()
            TIME.sleep(2.5)  # two looks of the runner
            assert "trading_resumed" not in kinds(journal)
            check = [sys.executable, "scripts/preflight.py", "--cognitive"]
            assert (
                subprocess.run(check, cwd=ROOT, env=env, capture_output=True, timeout=60, check=False).returncode == 0
            )
            until(lambda: kinds(journal)[-2:] == ["preflight_passed", "trading_resumed"], within_s=10)
            run.send_signal(signal.SIGTERM)
            assert run.wait(30) == 0, run.stderr.read() if run.stderr else ""
        finally:
            run.kill()
    taken = list(journal.kinds("runner_taken_over"))
    assert len(taken) == 1 and f"pid {first.pid} on" in taken[0].body["runner"]
    seen = read_beat(own_home / "state" / BEAT_FILE)
    assert seen is not None and seen.stopped and seen.watchdog is not None


def test_P06_a_runner_that_was_refused_or_failed_left_word_of_its_end(tmp_path: Path) -> None:
    with pytest.raises(KobeError), only_runner(tmp_path, SteppedClock(NOW)):
        raise KobeError("refused")
    seen = read_beat(tmp_path / BEAT_FILE)
    assert seen is not None and seen.ended and not seen.stopped, "over, but not as told: the watchdog goes on"
    with only_runner(tmp_path, SteppedClock(NOW)) as beat:
        assert beat.predecessor is None


# ================================================================ P18
def test_P18_told_to_end_in_the_middle_of_a_scan_it_finishes_what_is_under_way_and_begins_nothing(
    tmp_path: Path,
) -> None:
    made = scene(tmp_path, "PICKA", "PICKB")
    submit = made.broker.submit

    def told_meanwhile(order: Any) -> Any:
        made.stopping[0] = True  # SIGTERM arrives while the first order is on its way
        return submit(order)

    made.broker.submit = told_meanwhile
    report = made.session.run(due())
    rows = {row["symbol"]: row["codes"] for row in report.intents if row["side"] == "buy"}
    assert rows["PICKB"] == ["STOPPING"]
    ledger = made.ledger()
    assert len(ledger.open_trades()) == 1 and not ledger.unsettled()
    assert len(ledger.protective(ledger.open_trades()[0].decision_id)) == 1, "what filled is protected first"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_P18_a_command_interrupted_in_a_submit_leaves_an_open_question_and_nothing_that_could_leave_later(
    tmp_path: Path, name: str
) -> None:
    server = BadServer()
    server.mode = "slow"
    script = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from core import cli
        from tests.faults.wired import adapter, desk_of
        from tests.fakes.trading import NOW, Switch, book, entry
        from core.clock import SteppedClock

        def main():
            clock, halt = SteppedClock(NOW), Switch()
            broker = adapter({server.url!r}, halt, clock, total_timeout_s=30)
            broker._transport._timeouts = (1.0, 30.0)
            desk_of(Path({str(tmp_path)!r}), broker, clock, halt, []).send(entry(), book())
            return 0

        sys.exit(cli.run(main))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "KOBE_HOME": str(tmp_path)}
    try:
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
            until(lambda: len(server.posts) == 1 or run.poll() is not None, within_s=20)
            started = TIME.monotonic()
            run.send_signal(getattr(signal, name))
            _, err = run.communicate(timeout=10)
            assert TIME.monotonic() - started < 5.0 and run.returncode == 130, err
    finally:
        server.stop()
    w = world(tmp_path)
    order = w.desk.ledger().orders[entry().client_order_id]
    assert order.unsettled and len(server.posts) == 1
    again = w.desk.send(entry(attempt=2), book())
    assert isinstance(again, Refused) and "SYMBOL_LOCKED" in again.codes, "nothing is sent again, under any id"
