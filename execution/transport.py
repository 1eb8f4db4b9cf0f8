"""The wire under the broker's client: deadlines, no retry of anything, and the kill switch asked before the first byte.

A `requests` adapter whose connections report when the first byte of a request leaves. "Was it sent?" is then a fact,
never a guess from an exception's text. Proxies and CA bundles come from the environment as `requests` reads them;
a plain-http or CONNECT proxy that takes the first byte counts as sent.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from core.errors import TradingHalted
from core.ports import Halt

_BODY_KEPT = 300  # characters of a strange reply kept for the journal


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
        self.sent = False
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.body = ""

    def before_bytes(self) -> None:
        """Called on the worker, connected, with the bytes in hand. Raises TradingHalted or _Abandoned."""
        if self.sent:
            return
        if self._halt is not None and self._halt.is_active():
            raise TradingHalted("the kill switch is active: nothing was sent")
        with self._lock:
            if self._abandoned:
                raise _Abandoned
            self.sent = True

    def abandon(self) -> bool:
        """Give up waiting; True when the request has begun to leave. Afterwards no first byte can leave."""
        with self._lock:
            self._abandoned = True
            return self.sent


_CURRENT = threading.local()


def _announce() -> None:
    attempt: Attempt | None = getattr(_CURRENT, "attempt", None)
    if attempt is not None:
        attempt.before_bytes()


class _Http(HTTPConnection):
    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()  # first, so that asking and sending are neighbours
        _announce()
        super().send(data)


class _Https(HTTPSConnection):
    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        _announce()
        super().send(data)


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


_POOLS = {"http": _HttpPool, "https": _HttpsPool}


class OrderTransport(HTTPAdapter):
    """Mount on a session for http:// and https://. Reads and writes get the same deadlines; nothing is ever retried."""

    def __init__(self, *, halt: Halt, connect_timeout_s: float, read_timeout_s: float, total_timeout_s: float) -> None:
        self._halt = halt
        self._timeouts = (connect_timeout_s, read_timeout_s)
        self._total_s = total_timeout_s
        self._caller = threading.local()
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
        """The operator's liquidation: within, a POST does not ask the kill switch. Only for `Approved.despite_halt`."""
        self._caller.despite_halt = True
        try:
            yield
        finally:
            self._caller.despite_halt = False

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Raises TradingHalted or TransportFailure. The body is read here, inside the total deadline."""
        asks = request.method not in ("GET", "DELETE") and not getattr(self._caller, "despite_halt", False)
        attempt = Attempt(self._halt if asks else None)
        self._caller.last = attempt
        names = ("stream", "timeout", "verify", "cert", "proxies")
        options = {**dict(zip(names, args, strict=False)), **kwargs, "stream": True, "timeout": self._timeouts}
        work = _Work(super().send, request, options, attempt)
        worker = threading.Thread(target=work.run, daemon=True, name="broker-request")
        worker.start()
        if not work.done.wait(self._total_s):
            raise TransportFailure("TOTAL_TIMEOUT", sent=attempt.abandon(), detail=f"{self._total_s:g} s")
        response = work.result()
        attempt.status = response.status_code
        attempt.headers = response.headers
        attempt.body = response.text[:_BODY_KEPT]
        if 300 <= response.status_code < 400:
            raise TransportFailure("REDIRECT_REFUSED", sent=True, detail=f"status {response.status_code}")
        return response


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
