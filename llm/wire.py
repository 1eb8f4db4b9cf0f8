"""The HTTP client below the SDK: one request, one deadline, a bounded reply, no redirect, and it knows what was sent.

The SDK's time-outs are per read, so a reply that drips lives for ever; its retries would pay twice; its own client
follows redirects with the key. Here the request runs on a worker, the caller waits for as long as it wants to, and
what has not begun to leave by then never leaves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeVar

REPLY_MOST_BYTES = 4_000_000

T = TypeVar("T")


class Abandoned(Exception):
    """The caller has stopped waiting."""


class ReplyTooLong(Exception):
    """More bytes than any answer has."""


class Attempt:
    """One request, as far as it got."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._abandoned = False
        self.sent = False

    def leaving(self) -> None:
        """Called with the first bytes in hand. Raises Abandoned."""
        with self._lock:
            if self._abandoned:
                raise Abandoned
            self.sent = True

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True

    @property
    def abandoned(self) -> bool:
        return self._abandoned


_CURRENT = threading.local()


@lru_cache(maxsize=1)
def _trusted() -> Any:
    """The machine's certificates, SSL_CERT_FILE included. Reading them takes longer than a local call."""
    import httpx2

    return httpx2.create_ssl_context()


def bounded_client(*, proxy: str | None, timeout_s: float) -> Any:
    """An httpx2 client for the SDK. No kept connections: a stale one would turn a sure failure into a doubtful one."""
    import httpx2

    class Bounded(httpx2.SyncByteStream):
        def __init__(self, inner: Any, attempt: Attempt) -> None:
            self._inner, self._attempt = inner, attempt

        def __iter__(self) -> Iterator[bytes]:
            taken = 0
            for part in self._inner:
                taken += len(part)
                if taken > REPLY_MOST_BYTES:
                    raise ReplyTooLong
                if self._attempt.abandoned:
                    raise Abandoned
                yield part

        def close(self) -> None:
            self._inner.close()

    class Transport(httpx2.BaseTransport):
        def __init__(self) -> None:
            limits = httpx2.Limits(max_connections=100, max_keepalive_connections=0)
            self._inner = httpx2.HTTPTransport(proxy=proxy, limits=limits, retries=0, verify=_trusted())

        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            attempt: Attempt = getattr(_CURRENT, "attempt", None) or Attempt()

            def trace(name: str, info: Any) -> None:
                if name.endswith("send_request_headers.started"):
                    attempt.leaving()

            request.extensions = {**request.extensions, "trace": trace}
            reply = self._inner.handle_request(request)
            return httpx2.Response(
                reply.status_code, headers=reply.headers, stream=Bounded(reply.stream, attempt),
                extensions=reply.extensions,
            )  # fmt: skip

        def close(self) -> None:
            self._inner.close()

    return httpx2.Client(transport=Transport(), follow_redirects=False, timeout=timeout_s, trust_env=False)


class Call:
    """`act` on a worker that can be left behind. `expected`: what it may raise; anything else is a bug, and told."""

    def __init__(self, act: Callable[[], T], expected: tuple[type[BaseException], ...]) -> None:
        self._act, self._expected = act, expected
        self._done = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None
        self.attempt = Attempt()

    def run(self, deadline_s: float) -> Any:
        """The result, or TimeoutError, or what `act` raised."""
        threading.Thread(target=self._work, daemon=True, name="llm-request").start()
        try:
            in_time = self._done.wait(deadline_s)
        except BaseException:
            self.attempt.abandon()
            raise
        if not in_time:
            self.attempt.abandon()
            raise TimeoutError(f"no reply in {deadline_s:g} s")
        if self._error is not None:
            raise self._error
        return self._result

    def _work(self) -> None:
        _CURRENT.attempt = self.attempt
        try:
            self._result = self._act()
        except self._expected as error:
            self._error = error
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._done.set()
