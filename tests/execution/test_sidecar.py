"""The sidecar as strangers meet it: routes, guard, limits, and sixty probes that must find nothing."""

from __future__ import annotations

import base64
import json
import re
import socket
import time as real_time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.clock import SteppedClock, SystemClock
from core.errors import ConfigError
from execution import sidecar
from execution.observe.page_assets import SCRIPT, STYLE
from execution.sidecar import Source, create_app, is_loopback, listening
from tests.fakes.asking import ask, raw, serving
from tests.fakes.observed import Observed, a_pick, at_ten, hostile, ny, rules

ROUTES = ("/health", "/ready", "/metrics", "/metrics/prometheus", "/")
TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture(scope="module")
def morning(tmp_path_factory: pytest.TempPathFactory) -> Observed:
    return at_ten(tmp_path_factory.mktemp("morning"))


def app_of(made: Observed, *, clock: Any = None, **changes: Any) -> Any:
    return create_app(made.source(), rules(**changes), clock or made.clock)


@pytest.fixture(scope="module")
def app(morning: Observed) -> Any:
    return app_of(morning, metrics_per_minute=None)


# ---------------------------------------------------------------- routes
def test_a_sound_morning_answers_200_everywhere(app: Any) -> None:
    for route in ROUTES:
        assert ask(app, route).status == 200, route
    assert json.loads(ask(app, "/ready").text)["ready"] is True
    health = json.loads(ask(app, "/health").text)
    assert health["status"] == "ok" and health["runner"]["doing"].startswith("waiting for")


def test_health_and_ready_are_503_with_ordered_reasons(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    made.home.kill_switch.touch()
    app = app_of(made)
    ready = ask(app, "/ready")
    assert ready.status == 503 and ask(app, "/health").status == 200
    assert [row["code"] for row in json.loads(ready.text)["reasons"]] == ["KILL_SWITCH"]
    made.clock.advance(timedelta(seconds=6))
    health, ready = ask(app, "/health"), ask(app, "/ready")
    assert (health.status, ready.status) == (503, 503)
    assert [row["code"] for row in json.loads(ready.text)["reasons"]] == ["KILL_SWITCH", "RUNNER_STALLED"]
    assert [row["code"] for row in json.loads(health.text)["reasons"]] == ["RUNNER_STALLED"]


def test_the_metrics_have_the_four_groups_of_the_runbook_with_exactly_its_keys(app: Any) -> None:
    found = json.loads(ask(app, "/metrics").text)
    assert set(found["llm"]) == {"cost_usd_today", "cost_budget_usd", "calls_today", "avg_latency_ms"}
    assert set(found["execution"]) == {"ioc_fill_rate_avg", "slippage_bps_avg", "clamp_usage_count"}
    assert set(found["data"]) == {"provider_success_rates", "fallback_count_today"}
    assert set(found["cognitive"]) == {"decisions_today", "approval_rate", "avg_confidence"}
    assert found["execution"]["ioc_fill_rate_avg"] == 1.0 and found["llm"]["cost_usd_today"] is None
    assert found["unknown"]["llm.cost_usd_today"] == "LLM_ABSENT"


def test_an_answer_is_never_older_than_half_a_second(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    looks: list[int] = []
    observer = made.observer()
    source = Source(lambda: (looks.append(1), observer.look())[1], made.clock, 4.0)
    for _ in range(50):
        source.view()
    assert len(looks) == 1, "a flood reads once"
    made.clock.advance(timedelta(seconds=sidecar.FRESH_S))
    source.view()
    assert len(looks) == 2


def test_an_empty_home_is_served_too(tmp_path: Path) -> None:
    app = app_of(Observed(tmp_path, SteppedClock(ny("09:00"))))
    assert [ask(app, route).status for route in ROUTES] == [503, 503, 200, 200, 200]
    assert "unknown (JOURNAL_ABSENT)" in ask(app, "/").text


# ---------------------------------------------------------------- rate
def test_sixty_a_minute_and_then_429_with_retry_after(morning: Observed) -> None:
    clock = SteppedClock(ny("10:00"))
    app = app_of(morning, clock=clock)
    for n in range(60):
        assert ask(app, sidecar.METRICS[n % 2]).status == 200
        clock.advance(timedelta(milliseconds=500))
    refused = ask(app, "/metrics")
    assert refused.status == 429 and refused.headers["retry-after"] == "30"
    assert json.loads(refused.text) == {"code": "RATE_LIMITED"}
    clock.advance(timedelta(seconds=29.9))
    assert ask(app, "/metrics/prometheus").status == 429
    clock.advance(timedelta(seconds=0.2))
    assert ask(app, "/metrics").status == 200


def test_the_limit_is_per_client_and_only_on_the_metrics_routes(morning: Observed) -> None:
    app = app_of(morning, metrics_per_minute=2)
    for _ in range(5):
        assert [ask(app, route).status for route in ("/health", "/ready", "/")] == [200, 200, 200]
    assert [ask(app, "/metrics").status for _ in range(3)] == [200, 200, 429]
    assert ask(app, "/metrics", client="10.0.0.9").status == 200
    spoofed = ask(app, "/metrics", headers=[("X-Forwarded-For", "10.1.1.1"), ("Forwarded", "for=10.1.1.1")])
    assert spoofed.status == 429, "a header does not make another client"
    assert ask(app, "/%6detrics").status == 429, "another spelling is the same route"


def test_behind_no_proxy_a_client_is_who_connects(morning: Observed) -> None:
    with serving(app_of(morning, metrics_per_minute=1), rules()) as port:
        told = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 10.0.0.%d\r\nConnection: close\r\n\r\n"
        assert [raw(port, told % n).split(b" ")[1] for n in (1, 2)] == [b"200", b"429"]


def test_in_paper_mode_there_is_no_limit(morning: Observed) -> None:
    app = app_of(morning, metrics_per_minute=None)
    assert {ask(app, "/metrics").status for _ in range(100)} == {200}


def test_what_is_remembered_of_clients_is_bounded() -> None:
    limit = sidecar.RateLimit(1, SteppedClock(ny("10:00")))
    for n in range(3000):
        assert limit.wait_s(f"client-{n}") == 0
    assert len(limit._asked) <= 1000 and limit.wait_s("client-2999") > 0


# ---------------------------------------------------------------- token and address
@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "kobe.lan"])
def test_beyond_loopback_it_wants_a_token(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rules(host=host)
    assert caught.value.code == "SIDECAR_TOKEN_MISSING" and not is_loopback(host)
    assert rules(host=host, token=TOKEN).token == TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_on_loopback_it_wants_none(host: str) -> None:
    assert rules(host=host).token is None


def test_a_token_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        rules(token="x" * 15)
    assert caught.value.code == "SIDECAR_TOKEN_SHORT" and "x" * 15 not in str(caught.value)
    assert rules(token="x" * 16)


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ([], 401),
        ([f"Bearer {TOKEN}"], 200),
        ([f"bearer  {TOKEN}"], 200),
        ([f"Bearer {TOKEN}x"], 401),
        ([f"Bearer {TOKEN[:-1]}"], 401),
        (["Bearer "], 401),
        ([TOKEN], 401),
        ([f"Token {TOKEN}"], 401),
        ([f"Bearer {TOKEN}", f"Bearer {TOKEN}"], 401),
        (["Basic " + base64.b64encode(f"anyone:{TOKEN}".encode()).decode()], 200),
        (["Basic " + base64.b64encode(TOKEN.encode()).decode()], 401),
        (["Basic !!!"], 401),
        (["Basic " + base64.b64encode(b"\xff\xfe:\xff").decode()], 401),
    ],
)
def test_every_route_asks_for_the_token(morning: Observed, told: list[str], status: int) -> None:
    app = app_of(morning, token=TOKEN)
    for route in ROUTES:
        answer = ask(app, route, headers=[("Authorization", value) for value in told])
        assert answer.status == status, route
        assert (status == 401) == ("www-authenticate" in answer.headers)
        assert TOKEN not in answer.text


# ---------------------------------------------------------------- headers
def test_every_answer_has_strict_headers_and_no_banner(app: Any) -> None:
    for route, method in [*((r, "GET") for r in ROUTES), ("/nothing", "GET"), ("/", "POST"), ("/", "HEAD")]:
        answer = ask(app, route, method)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY" and answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert not {"server", "x-powered-by", "access-control-allow-origin"} & set(answer.headers)


def test_the_page_runs_its_own_script_and_style_and_no_other(app: Any) -> None:
    import hashlib

    answer = ask(app, "/")
    policy = answer.headers["content-security-policy"]
    for text, tag in ((SCRIPT, "script"), (STYLE, "style")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.S)
        assert inside == text
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"\s(?:on\w+|style)=", answer.text), "inline handlers and styles would not be run"
    assert not re.search(r"""(?:src|href|action)=["'](?!data:,)""", answer.text), "nothing comes from elsewhere"


def test_head_answers_like_get_without_a_body(app: Any) -> None:
    with serving(app, rules()) as port:
        found = raw(port, b"HEAD /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 200") and found.endswith(b"\r\n\r\n")


# ---------------------------------------------------------------- sixty probes
HOSTS = [
    "evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.1@evil.example",
    "evil.example#127.0.0.1", "127.0.0.1:8080, evil.example", "2130706433", "0177.0.0.1", "127.1", "[::ffff:7f00:1]",
    "", " ", "localhost:8080:80", "localhost:x", "localhost/", "lоcalhost".encode().decode("latin-1"), "0.0.0.0",
    "127.0.0.1\x00", "*", "kobe.lan",
]  # fmt: skip
METHODS = ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "GETT"]
PATHS = [
    "/../../etc/passwd", "/..%2f..%2fetc/passwd", "/%2e%2e/state/hash_chain.jsonl", "/state/hash_chain.jsonl",
    "/logs/errors.jsonl", "/.env", "//evil.example/", "/docs", "/redoc", "/openapi.json", "/metrics/", "/health/",
    "/METRICS", "/health%00", "/\\..\\..", "/ready;jsessionid=1", "/static/../.git/config", "/%c0%ae%c0%ae/",
]  # fmt: skip
QUERIES = [
    "/?next=//evil.example", "/?q=<script>alert(1)</script>", "/health?x=%0d%0aSet-Cookie:a=b",
    "/ready?callback=alert", "/metrics?name[]=up",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_probe_another_host_name_is_refused(app: Any, host: str) -> None:
    for route in ROUTES:
        assert ask(app, route, host=host).status == 400


def test_probe_no_host_and_two_hosts_are_refused(app: Any) -> None:
    assert ask(app, "/", host=None).status == 400
    assert ask(app, "/", headers=[("Host", "evil.example")]).status == 400


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "[::1]:8080"])
def test_its_own_names_are_taken(app: Any, host: str) -> None:
    assert ask(app, "/health", host=host).status == 200


def test_a_further_name_is_taken_when_the_operator_says_so(morning: Observed) -> None:
    app = app_of(morning, allowed_hosts=("Kobe.lan",))
    assert ask(app, "/health", host="kobe.lan:8080").status == 200
    assert ask(app, "/health", host="other.lan").status == 400


@pytest.mark.parametrize("method", METHODS)
def test_probe_only_get_and_head(app: Any, method: str) -> None:
    for route in ROUTES:
        answer = ask(app, route, method)
        assert answer.status == 405 and answer.headers["allow"] == "GET, HEAD"
        assert json.loads(answer.text) == {"code": "METHOD_NOT_ALLOWED"}, "refused before any route is asked"


@pytest.mark.parametrize("path", PATHS)
def test_probe_no_other_path_answers(app: Any, path: str) -> None:
    answer = ask(app, path)
    assert answer.status == 404
    assert "location" not in answer.headers and "passwd" not in answer.text and "root:" not in answer.text


@pytest.mark.parametrize("target", QUERIES)
def test_probe_a_query_changes_nothing_and_is_not_repeated(app: Any, target: str) -> None:
    answer = ask(app, target)
    assert answer.status == 200
    assert answer.headers.keys() == ask(app, target.partition("?")[0]).headers.keys()
    assert "evil.example" not in answer.text and "<script>alert" not in answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("Content-Length", "5")], 413),
        ([("Content-Length", "0")], 200),
        ([("Transfer-Encoding", "chunked")], 413),
        ([("Content-Length", "0"), ("Content-Length", "5")], 413),
        ([("Cookie", "a" * 17_000)], 431),
        ([(f"x-{n}", "y" * 100) for n in range(200)], 431),
        ([("Cookie", "a" * 8000)], 200),
        ([("Origin", "http://evil.example")], 200),
    ],
)
def test_probe_bodies_and_oversized_headers(app: Any, headers: list[tuple[str, str]], status: int) -> None:
    answer = ask(app, "/health", headers=headers)
    assert answer.status == status and "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(("length", "status"), [(2048, 200), (2049, 414)])
def test_probe_a_long_target(app: Any, length: int, status: int) -> None:
    target = "/health?" + "x" * (length - len("/health"))
    assert ask(app, target).status == status


def test_probe_a_websocket_is_not_answered(app: Any) -> None:
    with serving(app, rules()) as port:
        found = raw(port, (
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ))  # fmt: skip
    assert b"101 " not in found.split(b"\r\n")[0] and b"Sec-WebSocket-Accept" not in found


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\r\n b\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
        b"GET / HTTP/1.1\nHost: evil.example\n\n",
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\rSet-Cookie: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"GET /" + b"a" * 70_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"",
    ],
)
def test_probe_bytes_that_are_no_request_of_ours(served: int, content: bytes) -> None:
    found = raw(served, content)
    first = found.split(b"\r\n")[0]
    assert not found or not first.startswith(b"HTTP/1.1 2") or b"Set-Cookie" not in found
    assert b"Traceback" not in found and b"uvicorn" not in found.lower()
    if b"evil.example" in content:
        assert first.split(b" ")[1] == b"400"
    assert raw(served, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 200"
    ), "and it goes on"


@pytest.fixture(scope="module")
def served(app: Any) -> Any:
    with serving(app, rules()) as port:
        yield port


def test_probe_two_requests_in_one_packet_are_two_answers(served: int) -> None:
    one = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    two = b"GET /ready HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    found = raw(served, one + two)
    assert found.count(b"HTTP/1.1 200") == 1 and found.count(b"HTTP/1.1 400") == 1


def test_probe_a_request_that_never_ends_is_cut_off(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow-loris: a header a moment, for ever."""
    monkeypatch.setattr(sidecar, "_REQUEST_S", 0.4)
    monkeypatch.setattr(sidecar, "_LOOK_S", 0.05)
    with serving(app, rules()) as port, socket.create_connection(("127.0.0.1", port), timeout=5) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        began, cut = real_time.monotonic(), False
        while not cut and real_time.monotonic() - began < 5:
            try:
                slow.sendall(b"X-a: b\r\n")
                real_time.sleep(0.05)
                slow.setblocking(False)
                cut = slow.recv(100) == b""
            except BlockingIOError:
                slow.setblocking(True)
            except ConnectionError:
                cut = True
        assert cut and real_time.monotonic() - began < 3


def test_probe_idle_connections_keep_nobody_out(app: Any) -> None:
    most = rules(connections_max=8)
    with serving(app, most) as port:
        held = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(40)]
        try:
            for _ in range(5):
                found = raw(port, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                assert found.startswith(b"HTTP/1.1 200")
            assert sum(is_closed(conn) for conn in held) >= 32
            assert not is_closed(held[-1]), "the oldest go first"
        finally:
            for conn in held:
                conn.close()


def is_closed(conn: socket.socket) -> bool:
    """By the other side."""
    conn.setblocking(False)
    try:
        return conn.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


# ---------------------------------------------------------------- text of others
def test_probe_hostile_text_is_shown_and_never_run(tmp_path: Path) -> None:
    app = app_of(hostile(tmp_path))
    page = ask(app, "/").text
    assert "<script>alert" not in page and "<img" not in page and "&lt;script&gt;alert(1)" in page
    assert page.count("<script>") == 1 and "\x1b" not in page and "\u202e" not in page
    for route in ("/health", "/ready", "/metrics"):
        answer = ask(app, route)
        assert answer.headers["content-type"] == "application/json"
        json.loads(answer.text)
        assert "\x1b" not in answer.text and "\n" not in answer.text.rstrip("\n")


def test_probe_hostile_labels_cannot_forge_a_metric(tmp_path: Path) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    text = ask(app_of(hostile(tmp_path)), "/metrics/prometheus").text
    names = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    assert all(name.startswith("kobe_") for name in names) and "evil" not in names


# ---------------------------------------------------------------- secrets
CANARY = "CANARYkey/with+signs=42"


def test_planted_keys_appear_in_no_route(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.parse import quote

    monkeypatch.setenv("ALPACA_API_SECRET_KEY", CANARY)
    monkeypatch.setenv("KOBE_SIDECAR_TOKEN", TOKEN)
    coded = base64.b64encode(CANARY.encode()).decode()
    made = at_ten(tmp_path)
    leak = f"{CANARY} {coded} {quote(CANARY, safe='')} {TOKEN}"
    made.journal.append("symbol_locked", {"symbol": "ZZZ", "code": leak})
    made.scanned(a_pick("x", reasons=[leak], strategy=leak), source=leak, off=[leak], refused={leak: 2})
    made.log("errors.jsonl", "leaked", code=leak, detail=leak)
    stats = {"success": 1, "failure": 0, "kinds": {}, "days": {}, "last_error": leak}
    document = {"schema_version": 1, "providers": {leak: stats}}
    (made.home.state / "provider_stats.json").write_text(json.dumps(document))
    made.beat(f"waiting {leak}")
    app = app_of(made)
    for route in (*ROUTES, "/nothing"):
        text = ask(app, route).text
        for spelling in (CANARY, coded.rstrip("="), quote(CANARY, safe=""), TOKEN):
            assert spelling not in text, (route, spelling)


# ---------------------------------------------------------------- serving
def test_a_port_in_use_is_told_in_one_line() -> None:
    first = listening("127.0.0.1", 0)
    try:
        first.listen()
        with pytest.raises(ConfigError) as caught:
            listening("127.0.0.1", first.getsockname()[1])
        assert caught.value.code == "PORT_IN_USE"
    finally:
        first.close()


def test_a_bug_in_a_route_is_a_bare_500(morning: Observed) -> None:
    class Broken(Source):
        def view(self) -> Any:
            raise ZeroDivisionError("secret detail")

    app = create_app(Broken(lambda: None, SystemClock(), 4.0), rules(), morning.clock)  # type: ignore[arg-type,return-value]
    with serving(app, rules()) as port:
        found = raw(port, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 500") and b"secret detail" not in found and b"Traceback" not in found


def test_there_are_sixty_probes() -> None:
    assert len(HOSTS) + len(METHODS) + len(PATHS) + len(QUERIES) + 8 + 12 >= 60
