"""A broker and vendor in front of a real one that repeats what it was sent: keys in bodies, reasons and headers."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import requests

Rule = Callable[[str, str], int | None]
"""(method, path) -> the status of an echo, None: passed on."""
_SECRET_HEADERS = ("apca-api-key-id", "apca-api-secret-key", "authorization", "x-api-key")


class EchoProxy:
    """`echo` says what is answered with the request's own secrets; everything else goes to `upstream`."""

    def __init__(self, upstream: str) -> None:
        self.upstream, self.echoed = upstream, 0
        self.echo: Rule = lambda method, path: None
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                owner._handle(self)

            do_GET = do_POST = do_DELETE = do_PATCH = _any

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        status = self.echo(handler.command, handler.path)
        if status is None:
            self._pass_on(handler, body)
            return
        self.echoed += 1
        said = said_back({k.lower(): v for k, v in handler.headers.items()}, handler.path)
        content = json.dumps({"code": 40310000, "status": "ERROR", "message": said, "error": said}).encode()
        self._answer(handler, status, content, {"X-Debug": said.replace("\n", " ")[:2000]})

    def _pass_on(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        kept = {k: v for k, v in handler.headers.items() if k.lower() not in ("host", "connection", "content-length")}
        got = requests.request(
            handler.command, self.upstream + handler.path, headers={**kept, "Accept-Encoding": "identity"}, data=body,
            timeout=10,
        )  # fmt: skip
        self._answer(handler, got.status_code, got.content, {"Content-Type": got.headers.get("Content-Type", "")})

    @staticmethod
    def _answer(handler: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str]) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


def said_back(headers: dict[str, str], path: str) -> str:
    """Every secret of a request, plain, base64 and URL-encoded, in the middle of words and broken over lines."""
    parts = [f"bad request {path}"]
    for name in _SECRET_HEADERS:
        value = headers.get(name, "").removeprefix("Bearer ")
        if value:
            encoded = base64.b64encode(f"{name}:{value}".encode()).decode()
            parts += [f"{name}={value}", f"x{value}y", encoded, quote(value, safe=""), f"{value[:7]}\n{value[7:]}"]
    return " | ".join(parts)
