"""P44, P45: what stands between the sidecar and the world. The rest of it: tests/execution/test_sidecar.py."""

from __future__ import annotations

import socket

import pytest

from config.settings_schema import Settings
from core.clock import SteppedClock
from core.errors import ConfigError
from execution import sidecar
from execution.sidecar import create_app, is_loopback
from tests.fakes.asking import ask, raw, serving
from tests.fakes.observed import Observed, at_ten, ny, rules

HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def morning(tmp_path_factory: pytest.TempPathFactory) -> Observed:
    return at_ten(tmp_path_factory.mktemp("morning"))


def test_P44_a_flood_of_scrapes_reads_the_home_once_and_is_told_to_wait(morning: Observed) -> None:
    clock, looks = SteppedClock(ny("10:00")), list[int]()
    source = morning.source()
    look = source._look
    source._look = lambda: (looks.append(1), look())[1]
    limit = Settings().sidecar.metrics_per_minute_live
    app = create_app(source, rules(metrics_per_minute=limit), clock)
    answers = [ask(app, sidecar.METRICS[0]) for _ in range(1000)]
    assert [a.status for a in answers].count(200) == limit == 60
    assert {a.status for a in answers[limit:]} == {429} and int(answers[-1].headers["retry-after"]) > 0
    assert len(looks) == 1
    assert ask(app, "/health").status == 200 and ask(app, "/ready").status == 200  # never limited


def test_P44_connections_that_say_nothing_keep_nobody_out(morning: Observed) -> None:
    app = create_app(morning.source(), rules(), morning.clock)
    with serving(app, rules(connections_max=4)) as port:
        held = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(12)]
        try:
            assert raw(port, HEALTH).startswith(b"HTTP/1.1 200")
        finally:
            for connection in held:
                connection.close()


def test_P45_another_host_name_is_refused_and_only_loopback_is_bound_unless_there_is_a_token(
    morning: Observed,
) -> None:
    app = create_app(morning.source(), rules(), morning.clock)
    for route in ("/", "/health", "/ready", *sidecar.METRICS):
        assert ask(app, route, host="rebound.evil.example:8080").status == 400
        assert ask(app, route, host="localhost:8080").status in (200, 503)
    assert is_loopback(Settings().sidecar.host)
    with pytest.raises(ConfigError) as refused:
        rules(host="0.0.0.0")
    assert refused.value.code == "SIDECAR_TOKEN_MISSING"
