"""The wire under the broker's client: deadlines, no retry of anything, and the kill switch asked before the first byte.

A `requests` adapter whose connections report when the first byte of a request leaves. "Was it sent?" is then a fact,
never a guess from an exception's text. Proxies and CA bundles come from the environment as `requests` reads them;
what a plain-http proxy takes counts as sent, the CONNECT and the TLS greeting before a request do not.

Whatever changes something at the broker is asked for twice here: the admission (was exactly this intended, and is it
within the ceilings?) before anything else, and the kill switch at the last instruction before the first byte.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from core.env import is_this_machine
from core.errors import TradingHalted
from core.ports import Admission, Halt

_BODY_KEPT = 300  # characters of a strange reply kept for the journal
_THROW_AWAY = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
_SLICE_S = 0.2  # the longest the caller waits without saying that it is alive


class TransportFailure(requests.RequestException):
    """No usable reply. `sent` is False only when not one byte of the request left this machine."""

    def __init__(self, kind: str, *, sent: bool, detail: str = "") -> None:
        super().__init__(f"{kind}{': ' + detail if detail else ''}")
        self.kind = kind
        self.sent = sent


class _Abandoned(Exception):
    """The caller's deadline passed before the first byte; nothing may leave any more."""


class Attempt:
    """One request: whether its bytes have started, and what came back."""

    def __init__(self, halt: Halt | None) -> None:
        self._halt = halt
        self._lock = threading.Lock()
        self._abandoned = False
        self._wire: Any = None
        self.sent = False
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.body = ""

    def before_bytes(self, wire: Any) -> None:
        """Called on the worker, connected, with the bytes in hand. Raises TradingHalted or _Abandoned."""
        if not self.sent and self._halt is not None and self._halt.is_active():
            raise TradingHalted("the kill switch is active: nothing was sent")
        with self._lock:
            if self._abandoned:
                raise _Abandoned
            self.sent, self._wire = True, wire

    def abandon(self) -> bool:
        """Give up waiting; True when the request has begun to leave. Afterwards no byte of it can leave any more."""
        with self._lock:
            self._abandoned = True
            if self._wire is not None:
                _cut(self._wire)
            return self.sent


def _cut(wire: Any) -> None:
    """Close the line so that bytes still waiting in this machine are thrown away, not delivered when the path is back:
    a reset instead of a farewell. The shutdown also ends the worker, which would read on for as long as it drips."""
    with contextlib.suppress(OSError):
        socket.socket.setsockopt(wire, socket.SOL_SOCKET, socket.SO_LINGER, _THROW_AWAY)
    with contextlib.suppress(OSError):
        socket.socket.shutdown(wire, socket.SHUT_RDWR)


_CURRENT = threading.local()


def _announce(wire: Any) -> None:
    attempt: Attempt | None = getattr(_CURRENT, "attempt", None)
    if attempt is not None:
        attempt.before_bytes(wire)


class _Http(HTTPConnection):
    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()  # first, so that asking and sending are neighbours
        _announce(self.sock)
        super().send(data)


class _Https(HTTPSConnection):
    _greeting = False

    def _tunnel(self) -> None:
        """CONNECT tells a proxy the broker's name and nothing of the order: it is neither asked for nor counted."""
        self._greeting = True
        try:
            super()._tunnel()
        finally:
            self._greeting = False

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if not self._greeting:
            _announce(self.sock)
        super().send(data)


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


_POOLS = {"http": _HttpPool, "https": _HttpsPool}


class OrderTransport(HTTPAdapter):
    """Mount on a session for http:// and https://. Reads and writes get the same deadlines; nothing is ever retried."""

    def __init__(
        self, *, halt: Halt, admission: Admission, connect_timeout_s: float, read_timeout_s: float,
        total_timeout_s: float, waiting: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """`waiting` is called on the caller's thread while it waits for an answer: the process makes progress."""
        self._halt, self._admission, self._waiting = halt, admission, waiting
        self._timeouts = (connect_timeout_s, read_timeout_s)
        self._total_s = total_timeout_s
        self._caller = threading.local()
        self.in_time: Callable[[threading.Event, float], bool] = self._in_time  # a drill waits without waiting
        super().__init__(max_retries=0, pool_connections=4, pool_maxsize=8)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    @property
    def last(self) -> Attempt | None:
        """The calling thread's latest attempt, with status, headers and the head of the body."""
        return getattr(self._caller, "last", None)

    @contextmanager
    def reducing(self) -> Iterator[None]:
        """The operator's liquidation: within, a POST does not ask the kill switch. Only for `Approved.despite_halt`.

        The admission must agree: it knows whether the operator has opened this door, and for which sells.
        """
        self._caller.despite_halt = True
        try:
            yield
        finally:
            self._caller.despite_halt = False

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Raises TransportFailure, TradingHalted, or what the admission says; after the last two nothing was sent.

        The body is read here, inside the total deadline.
        """
        self._waiting()  # before it leaves, so that nobody takes an order that is out for one that nobody follows
        attempt = Attempt(self._halt if self._admitted(request) else None)
        self._caller.last = attempt
        names = ("stream", "timeout", "verify", "cert", "proxies")
        options = {**dict(zip(names, args, strict=False)), **kwargs, "stream": True, "timeout": self._timeouts}
        if is_this_machine(urlsplit(request.url or "").hostname or ""):
            options["proxies"] = {}  # no proxy stands between this machine and itself
        work = _Work(super().send, request, options, attempt)
        worker = threading.Thread(target=work.run, daemon=True, name="broker-request")
        worker.start()
        try:
            in_time = self.in_time(work.done, self._total_s)
        except BaseException:
            attempt.abandon()  # interrupted: what has not begun to leave stays here
            raise
        if not in_time:
            raise TransportFailure("TOTAL_TIMEOUT", sent=attempt.abandon(), detail=f"{self._total_s:g} s")
        response = work.result()
        attempt.status = response.status_code
        attempt.headers = response.headers
        attempt.body = response.text[:_BODY_KEPT]
        if 300 <= response.status_code < 400:
            raise TransportFailure("REDIRECT_REFUSED", sent=True, detail=f"status {response.status_code}")
        return response

    def _admitted(self, request: requests.PreparedRequest) -> bool:
        """Ask the admission; True when the kill switch must be asked as well. Reads change nothing and ask neither."""
        if request.method in ("GET", "HEAD"):
            return False
        if request.method == "DELETE" and "/orders" in request.path_url:
            self._admission.cancelling(request.path_url)
            return False  # nothing is sold by a cancel; deleting a position would sell it, and is admitted by nobody
        despite_halt = bool(getattr(self._caller, "despite_halt", False))
        self._admission.admit(_order_of(request), despite_halt=despite_halt)
        return not despite_halt

    def _in_time(self, done: threading.Event, total_s: float) -> bool:
        left_s = total_s
        while left_s > 0 and not done.wait(min(left_s, _SLICE_S)):
            left_s -= _SLICE_S
            self._waiting()
        return done.is_set()


def _order_of(request: requests.PreparedRequest) -> Mapping[str, Any]:
    """The order in a request's body; empty, which nothing admits, for any other request."""
    if request.method != "POST" or not request.path_url.endswith("/orders"):
        return {}
    try:
        body = json.loads(request.body or b"")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


class _Work:
    """The blocking part of one request, run on a thread that can be abandoned."""

    def __init__(self, send: Any, request: requests.PreparedRequest, options: Mapping[str, Any], attempt: Attempt):
        self._send, self._request, self._options, self._attempt = send, request, options, attempt
        self._response: requests.Response | None = None
        self._error: BaseException | None = None
        self.done = threading.Event()

    def run(self) -> None:
        _CURRENT.attempt = self._attempt
        try:
            response = self._send(self._request, **self._options)
            _ = response.content  # cached on the response, so that the client's own read touches no socket
            self._response = response
        except (requests.RequestException, HTTPError, OSError, ValueError, TradingHalted, _Abandoned) as error:
            self._error = error
        finally:
            self.done.set()

    def result(self) -> requests.Response:
        if self._response is not None:
            return self._response
        if isinstance(self._error, TradingHalted):
            raise self._error
        kind = type(self._error).__name__ if self._error is not None else "WorkerDied"
        # `from None` and no text: the exception carries the request, and the request carries both keys
        raise TransportFailure(kind, sent=self._attempt.sent) from None
