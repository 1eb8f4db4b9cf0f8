"""The wire: the kill switch is asked at the last instruction, and what was given up never leaves later."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3

from core.clock import SystemClock
from core.errors import RiskRefused, TradingHalted
from execution.transport import _CURRENT, Attempt, OrderTransport, TransportFailure, _Abandoned, _Https
from tests.fakes.trading import Switch, Unbounded

ORDER = {"client_order_id": "kobe-x", "symbol": "AAA", "qty": "1"}


class Server:
    """Accepts connections and reads; answers only when told. Optionally behind TLS, or as a CONNECT proxy before it."""

    def __init__(self, tls: ssl.SSLContext | None = None, behind: Server | None = None) -> None:
        self._tls, self._behind = tls, behind
        self.received: list[bytes] = []  # whole requests, head and body
        self.answers = threading.Event()
        self.connected = threading.Event()
        self.hold_connect = threading.Event()  # set: the proxy answers CONNECT
        self.hold_connect.set()
        self.drip = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        self.answers.set()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                wire, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._guarded, args=(wire,), daemon=True).start()

    def _guarded(self, wire: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._proxy(wire) if self._behind is not None else self._answer(wire)

    def _proxy(self, wire: socket.socket) -> None:
        self.received.append(_head(wire))
        self.connected.set()
        self.hold_connect.wait(5)
        assert self._behind is not None
        with wire, socket.create_connection(("127.0.0.1", self._behind.port)) as onward:
            wire.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            threading.Thread(target=_pump, args=(onward, wire), daemon=True).start()
            _pump(wire, onward)

    def _answer(self, wire: socket.socket) -> None:
        with self._tls.wrap_socket(wire, server_side=True) if self._tls else wire as line:
            while True:
                head = _head(line)
                if not head:
                    return
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]) if b"ength:" in head else 0
                body = b""
                while len(body) < length:
                    body += line.recv(65536)
                self.received.append(head + body)
                self.connected.set()
                if self.drip:
                    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
                    while not self.answers.wait(0.02):
                        line.sendall(b".")
                self.answers.wait(5)
                line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def _head(wire: Any) -> bytes:
    seen = b""
    while not seen.endswith(b"\r\n\r\n"):
        byte = wire.recv(1)
        if not byte:
            return b""
        seen += byte
    return seen


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(65536):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


def session_over(halt: Switch, *, admission: Any = None, total_s: float = 2.0, **options: Any) -> requests.Session:
    transport = OrderTransport(
        halt=halt, admission=admission or Unbounded(), connect_timeout_s=1.0, read_timeout_s=1.0,
        total_timeout_s=total_s, **options,
    )  # fmt: skip
    session = requests.Session()
    session.mount("http://", transport)
    session.mount("https://", transport)
    return session


def transport_of(session: requests.Session) -> OrderTransport:
    found = session.get_adapter("http://x")
    assert isinstance(found, OrderTransport)
    return found


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/v2/orders"


def settled() -> None:
    SystemClock().sleep(0.15)  # time enough for a worker that had kept something back to send it


# ---------------------------------------------------------------- asked last
class Appearing:
    """Not active until asked for the n-th time."""

    def __init__(self, at: int) -> None:
        self.at, self.asked = at, 0

    def is_active(self) -> bool:
        self.asked += 1
        return self.asked >= self.at


def test_it_is_asked_once_a_post_and_after_the_connection_is_made(server: Server) -> None:
    server.answers.set()
    halt = Appearing(2)
    session = session_over(halt)  # type: ignore[arg-type]
    session.post(url(server), json=ORDER)
    assert halt.asked == 1
    with pytest.raises(TradingHalted):
        session.post(url(server), json=ORDER)
    settled()
    assert len(server.received) == 1


def test_a_switch_that_appears_during_connect_keeps_the_post_here(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt = Switch()
    real = urllib3.connection.HTTPConnection.connect

    def slow(self: Any) -> None:
        real(self)
        halt.active = True

    monkeypatch.setattr(urllib3.connection.HTTPConnection, "connect", slow)
    with pytest.raises(TradingHalted):
        session_over(halt).post(url(server), json=ORDER)
    settled()
    assert server.received == []


def test_reads_ask_neither_switch_nor_door_and_cancels_ask_the_door_only(server: Server) -> None:
    server.answers.set()
    halt, door = Switch(), Unbounded()
    halt.active = True
    session = session_over(halt, admission=door)
    session.get(url(server))
    session.delete(url(server) + "/1")
    assert (len(server.received), door.admitted, door.cancels) == (2, [], ["/v2/orders/1"])


def test_what_the_door_refuses_makes_no_connection(server: Server) -> None:
    class Closed(Unbounded):
        def admit(self, order: Any, *, despite_halt: bool) -> None:
            raise RiskRefused("no", code="RUNAWAY_DAY")

    with pytest.raises(RiskRefused):
        session_over(Switch(), admission=Closed()).post(url(server), json=ORDER)
    settled()
    assert server.received == [] and not server.connected.is_set()


def test_the_caller_says_that_it_is_alive_while_it_waits(server: Server) -> None:
    beats: list[int] = []
    owner = threading.get_ident()

    def beat() -> None:
        beats.append(threading.get_ident())

    with pytest.raises(TransportFailure):
        session_over(Switch(), total_s=0.9, waiting=beat).post(url(server), json=ORDER)
    assert len(beats) >= 4 and set(beats) == {owner}, "before it leaves, and every 0.2 s on the waiting thread"


# ---------------------------------------------------------------- given up is given up
def test_b12_a_request_whose_deadline_passed_before_its_first_byte_never_leaves(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, real = threading.Event(), urllib3.connection.HTTPConnection.connect

    def late(self: Any) -> None:
        real(self)
        gate.wait(5)

    monkeypatch.setattr(urllib3.connection.HTTPConnection, "connect", late)
    with pytest.raises(TransportFailure) as caught:
        session_over(Switch(), total_s=0.2).post(url(server), json=ORDER)
    assert caught.value.kind == "TOTAL_TIMEOUT" and caught.value.sent is False
    gate.set()
    settled()
    assert server.received == []


def test_an_interrupted_caller_leaves_nothing_behind_that_could_still_leave(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P18: Ctrl-C in the middle of a submit."""
    gate, real = threading.Event(), urllib3.connection.HTTPConnection.connect

    def late(self: Any) -> None:
        real(self)
        gate.wait(5)

    def interrupted(done: threading.Event, total_s: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(urllib3.connection.HTTPConnection, "connect", late)
    session = session_over(Switch())
    transport_of(session).in_time = interrupted
    with pytest.raises(KeyboardInterrupt):
        session.post(url(server), json=ORDER)
    gate.set()
    settled()
    assert server.received == []


def test_p25_a_reply_that_drips_for_ever_keeps_no_thread(server: Server) -> None:
    server.drip = True
    before = threading.active_count()
    with pytest.raises(TransportFailure) as caught:
        session_over(Switch(), total_s=0.3).post(url(server), json=ORDER)
    assert caught.value.sent is True
    deadline = SystemClock().monotonic() + 3
    while any(t.name == "broker-request" for t in threading.enumerate()) and SystemClock().monotonic() < deadline:
        SystemClock().sleep(0.02)
    assert not any(t.name == "broker-request" for t in threading.enumerate()), threading.active_count() - before


def test_nothing_more_of_a_request_leaves_after_it_was_given_up() -> None:
    """Head sent, deadline passed, body still here: it stays here."""
    attempt, (near, far) = Attempt(Switch()), socket.socketpair()
    attempt.before_bytes(near)
    near.sendall(b"head")
    assert attempt.abandon() is True
    with pytest.raises(_Abandoned):
        attempt.before_bytes(near)
    with pytest.raises(OSError):
        near.sendall(b"body")
    assert far.recv(100) == b"head" and far.recv(100) == b""
    near.close()
    far.close()


# ---------------------------------------------------------------- proxies and TLS
def test_the_connect_to_a_proxy_is_neither_asked_for_nor_counted_as_sent() -> None:
    halt, (near, far) = Switch(), socket.socketpair()
    attempt = Attempt(halt)
    connection = _Https("broker.test")
    connection.set_tunnel("broker.test", 443)
    connection.sock = near
    far.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    _CURRENT.attempt = attempt
    try:
        connection._tunnel()
        assert attempt.sent is False and far.recv(1000).startswith(b"CONNECT broker.test:443")
        halt.active = True  # between the CONNECT and the request
        with pytest.raises(TradingHalted):
            connection.send(b"POST /v2/orders")
        halt.active = False
        connection.send(b"POST /v2/orders")
        assert attempt.sent is True and far.recv(1000) == b"POST /v2/orders"
    finally:
        _CURRENT.attempt = None
        near.close()
        far.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    file = tmp_path_factory.mktemp("tls") / "broker.pem"
    command = [
        openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
        "-subj", "/CN=broker.test", "-addext", "subjectAltName=DNS:broker.test",
        "-keyout", f"{file}.key", "-out", str(file),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"openssl cannot make a certificate: {done.stderr[-200:]!r}")
    return file


@pytest.fixture
def proxied(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Server]]:
    """A TLS server known as broker.test, reachable through a CONNECT proxy only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, f"{certificate}.key")
    broker = Server(tls=context)
    proxy = Server(behind=broker)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    broker.answers.set()
    yield broker, proxy
    proxy.stop()
    broker.stop()


def test_a_post_passes_proxy_and_tls(proxied: tuple[Server, Server]) -> None:
    broker, proxy = proxied
    reply = session_over(Switch(), total_s=5.0).post("https://broker.test/v2/orders", json=ORDER)
    assert reply.status_code == 200 and len(broker.received) == 1
    assert proxy.received[0].startswith(b"CONNECT broker.test:443") and b"kobe-x" in broker.received[0]


def test_p39_a_switch_that_appears_behind_the_proxy_keeps_the_post_here(proxied: tuple[Server, Server]) -> None:
    """CONNECT has left, the handshake is still to come: nothing of the order has, and nothing of it will."""
    broker, proxy = proxied
    halt, outcome = Switch(), list[BaseException]()
    proxy.hold_connect.clear()
    session = session_over(halt, total_s=5.0)

    def post() -> None:
        try:
            session.post("https://broker.test/v2/orders", json=ORDER)
        except BaseException as error:  # noqa: BLE001 - told to the test
            outcome.append(error)

    thread = threading.Thread(target=post)
    thread.start()
    assert proxy.connected.wait(5)
    halt.active = True
    proxy.hold_connect.set()
    thread.join(5)
    settled()
    assert [type(error) for error in outcome] == [TradingHalted] and broker.received == []


def test_b49_a_certificate_nobody_knows_sends_nothing(
    proxied: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, _ = proxied
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(TransportFailure) as caught:
        session_over(Switch(), total_s=5.0).post("https://broker.test/v2/orders", json=ORDER)
    assert caught.value.sent is False and broker.received == []
