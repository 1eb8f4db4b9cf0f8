"""Keys planted everywhere, repeated by everybody: in no log, journal, metric, page, backup or traceback."""

from __future__ import annotations

import argparse
import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from core import cli, logs
from core.clock import SystemClock
from core.errors import Exit
from execution import sidecar
from execution.session import TradingSession
from scripts import (
    alerting,
    backup,
    preflight_live,
    reconcile_alpaca,
    runner,
    scan,
    scanning,
    show_config,
    status,
    wiring,
)
from scripts.observing import open_observer
from tests.fakes.echo_proxy import EchoProxy
from tests.fakes.live_homes import LiveHome, live_home

CANARIES = {
    "ALPACA_API_KEY_ID": "PKcanary/ID+7777==", "ALPACA_API_SECRET_KEY": "secret/Canary+8888=ZZ",
    "POLYGON_API_KEY": "poly+canary/9999==", "ANTHROPIC_API_KEY": "sk-ant-canary-6666+/=",
    "KOBE_SIDECAR_TOKEN": "token/canary+5555=", "KOBE_ALERT_URLS": "json://127.0.0.1:9/canary-alert-key-4444",
}  # fmt: skip


def spellings() -> dict[bytes, str]:
    """Every spelling that is looked for, and whose it is. Base64 in all three alignments."""
    found: dict[bytes, str] = {}
    for name, value in CANARIES.items():
        key = value.rsplit("/", 1)[1] if value.startswith("json:") else value
        forms = {key, quote(key, safe=""), key.encode().hex()}
        for shift in range(3):
            text = base64.b64encode(b"\0" * shift + key.encode()).decode()
            forms.add(text[-(-shift * 8 // 6) : (shift + len(key)) * 8 // 6])
        found |= {form.encode(): name for form in forms}
    return found


def found_in(content: bytes) -> list[str]:
    flat = content.replace(b"\\n", b"").replace(b"\n", b"")
    return sorted({name for form, name in spellings().items() if form in content or form in flat})


def leaks(folder: Path) -> dict[str, list[str]]:
    told = {str(p.relative_to(folder)): found_in(p.read_bytes()) for p in folder.rglob("*") if p.is_file()}
    return {name: keys for name, keys in told.items() if keys}


@pytest.fixture
def here(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LiveHome, EchoProxy]]:
    monkeypatch.setattr(logs, "_target", logs._target)
    with live_home(own_home, tmp_path, monkeypatch) as made:
        proxy = EchoProxy(made.url)
        for name, value in CANARIES.items():
            monkeypatch.setenv(name, value)
        for name in ("ALPACA_BASE_URL", "ALPACA_DATA_URL", "POLYGON_BASE_URL", "ANTHROPIC_BASE_URL"):
            monkeypatch.setenv(name, proxy.url)
        made.edit("  preflight:\n    required: true", "  preflight:\n    required: false")
        made.pin()
        dotenv = "".join(f"{name}={value}\n" for name, value in CANARIES.items())
        (made.home.root / ".env").write_text(dotenv, encoding="utf-8")
        yield made, proxy
        proxy.stop()


def ran(main: Callable[[list[str]], int], *words: str) -> int:
    return int(cli.run(lambda: main(list(words))))


def pages() -> bytes:
    """Everything that the sidecar would answer."""
    context = wiring.open_context(argparse.Namespace(dotenv=None))
    observer = open_observer(context, None)
    view = sidecar.Source(observer.look, SystemClock(), 60.0, observer.alerts).view()
    return b"".join(view.body(path) for path in ("/", "/health", "/ready", "/metrics", "/metrics/prometheus"))


def test_planted_keys_are_nowhere_whatever_the_servers_say(
    here: tuple[LiveHome, EchoProxy], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, proxy = here[0].home, here[1]

    # A morning on which every server repeats the keys: orders refused, quotes, vendors and actions failing.
    def rude(method: str, path: str) -> int | None:
        if method == "POST" and path.startswith("/v2/orders"):
            return 422
        rude_paths = (("/v1/corporate-actions", 500), ("/v1/messages", 400))
        return next((code for part, code in rude_paths if path.startswith(part)), None)

    proxy.echo = rude
    ran(preflight_live.main, "--mode", "paper")
    assert ran(runner.main, "--mode", "paper", "--once", "--json") == Exit.OK
    assert {"order_intended", "order_rejected"} <= set(here[0].kinds()), "the refusal is in the journal"
    assert any("bad request" in str(b) for b in here[0].bodies("order_rejected")), "with the server's words"
    assert "***" in home.journal.read_text()

    # The broker itself: account, positions, open orders.
    proxy.echo = lambda method, path: 403
    for main, words in ((reconcile_alpaca.main, ("--full",)), (runner.main, ("--mode", "paper", "--once")),
                        (scan.main, ()), (status.main, ("--json",)), (show_config.main, ("--origin",)),
                        (preflight_live.main, ("--mode", "paper", "--json")),
                        (alerting.main, ("--mode", "paper", "--once"))):  # fmt: skip
        ran(main, *words)
    assert proxy.echoed >= 4

    # A bug with the keys in its words and in its frames.
    def bug(*_: Any, **__: Any) -> Any:
        held = dict(CANARIES)
        raise RuntimeError(f"cannot sign {held} {base64.b64encode(held['ALPACA_API_SECRET_KEY'].encode()).decode()}")

    proxy.echo = lambda method, path: None
    errors = home.logs / "errors.jsonl"
    with monkeypatch.context() as patch:  # in the mind of a scan: nothing is entered, exits go on
        patch.setattr(scanning, "run", bug)
        assert ran(runner.main, "--mode", "paper", "--once") == Exit.DATA
    assert errors.read_text().count("cannot sign") >= 1, "the traceback is there"
    monkeypatch.setattr(TradingSession, "_plan_and_trade", bug)  # and where only the runner itself can catch it
    assert ran(runner.main, "--mode", "paper", "--once") == Exit.BUG
    assert errors.read_text().count("cannot sign") >= 2
    assert ran(backup.main, "--full", "--verify") == Exit.OK

    told = capfd.readouterr()
    assert found_in((told.out + told.err).encode()) == []
    assert found_in(pages()) == []
    (home.root / ".env").unlink()  # the one place where they belong
    assert any((home.root / "backups").rglob("hash_chain.jsonl")) and leaks(home.root) == {}


def test_the_search_itself_finds_each_spelling_of_each_key(tmp_path: Path) -> None:
    for name, value in CANARIES.items():
        key = value.rsplit("/", 1)[1] if value.startswith("json:") else value
        for lead in ("", "a", "ab"):
            (tmp_path / "x").write_bytes(b"\x00 " + base64.b64encode((lead + key + "tail").encode()))
            assert leaks(tmp_path) == {"x": [name]}
        for text in (key, quote(key, safe=""), f"{key[:4]}\n{key[4:]}"):
            (tmp_path / "x").write_text(text)
            assert leaks(tmp_path) == {"x": [name]}
    (tmp_path / "x").write_text("nothing ***")
    assert leaks(tmp_path) == {}
