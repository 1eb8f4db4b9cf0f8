"""A tiny broker over HTTP that misbehaves on one POST and counts what it receives."""

from __future__ import annotations

import json
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class BadServer:
    """`mode` says what the next POST /v2/orders does; `accepts` whether the order is kept (found by id later)."""

    def __init__(self) -> None:
        self.mode, self.accepts = "ok", True
        self.posts: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.stored: dict[str, dict[str, Any]] = {}
        self.replies: dict[str, tuple[int, str]] = {}  # GET path -> status, body
        self.reply_changes: dict[str, Any] = {}
        self.answer: tuple[int, str, dict[str, str]] = (500, "", {})  # of mode "answer"
        self.seen_headers: list[dict[str, str]] = []  # of every POST
        self.release = threading.Event()
        owner = self

        class Handler(_Handler):
            server_owner = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def order(self, body: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": "00000000-0000-0000-0000-000000000001",
            "client_order_id": body["client_order_id"],
            "symbol": body["symbol"],
            "qty": str(body["qty"]),
            "side": body["side"],
            "status": "accepted",
            "filled_qty": "0",
            "filled_avg_price": None,
            "type": body["type"],
            "time_in_force": body["time_in_force"],
            "submitted_at": None,
            "order_class": "",
            "legs": None,
            **self.reply_changes,
        }


class _Handler(BaseHTTPRequestHandler):
    server_owner: BadServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None: ...

    def reply(self, status: int, text: str, *, length: int | None = None, **headers: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def do_POST(self) -> None:
        owner = self.server_owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        owner.posts.append(body)
        owner.seen_headers.append(dict(self.headers.items()))
        order = owner.order(body)
        if owner.accepts:
            owner.stored[body["client_order_id"]] = {**order}
        getattr(self, f"post_{owner.mode}")(json.dumps(order))

    def post_ok(self, good: str) -> None:
        self.reply(200, good)

    def post_504(self, good: str) -> None:
        self.reply(504, '{"code": 50410000, "message": "request timed out"}')

    def post_503(self, good: str) -> None:
        self.reply(503, "<html>busy</html>")

    def post_429(self, good: str) -> None:
        self.reply(429, '{"message": "too many requests."}', Retry_After="86400")

    def post_answer(self, good: str) -> None:
        status, text, headers = self.server_owner.answer
        self.reply(status, text, **headers)

    def post_422dup(self, good: str) -> None:
        self.reply(422, '{"code": 40010001, "message": "client_order_id must be unique"}')

    def post_403(self, good: str) -> None:
        self.reply(403, '{"code": 40310000, "message": "insufficient buying power", "buying_power": "0"}')

    def post_wash(self, good: str) -> None:
        self.reply(403, '{"code": 40310000, "message": "potential wash trade detected. use complex orders"}')

    def post_401(self, good: str) -> None:
        self.reply(401, '{"message": "unauthorized."}')

    def post_truncated(self, good: str) -> None:
        self.reply(200, good[:20], length=len(good))
        self.close_connection = True

    def post_html(self, good: str) -> None:
        self.reply(200, "<html>maintenance</html>")

    def post_empty(self, good: str) -> None:
        self.reply(200, "")

    def post_redirect(self, good: str) -> None:
        self.reply(307, "", Location="http://127.0.0.1:9/steal")

    def post_reset(self, good: str) -> None:
        self.reset()

    def post_slow(self, good: str) -> None:
        self.server_owner.release.wait(20)
        self.close_connection = True

    def post_drip(self, good: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(good)))
        self.end_headers()
        for letter in good:
            if self.server_owner.release.wait(0.05):
                break
            try:
                self.wfile.write(letter.encode())
            except OSError:
                break
        self.close_connection = True

    def do_DELETE(self) -> None:
        self.server_owner.requests.append(f"DELETE {self.path}")
        self.send_response(204)
        self.end_headers()

    def do_GET(self) -> None:
        owner = self.server_owner
        owner.requests.append(f"GET {self.path}")
        parts = urlsplit(self.path)
        if parts.path in owner.replies:
            self.reply(*owner.replies[parts.path])
        elif parts.path.endswith(":by_client_order_id"):
            found = owner.stored.get(parse_qs(parts.query)["client_order_id"][0])
            self.reply(200, json.dumps(found)) if found else self.reply(404, '{"code": 40410000, "message": "none"}')
        else:
            self.reply(404, '{"code": 40410000, "message": "none"}')
