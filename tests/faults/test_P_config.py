"""Settings, keys, packages and the console: understood, or refused in one line that names what is wrong."""

from __future__ import annotations

import http.server
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from config import pin
from config.loader import BASE_PATH
from config.lock import LOCK_PATH, applies, check_lock, read_lock
from config.strategy_params import FROZEN_PARAMS_PATH
from core import cli, env
from core.clock import SteppedClock
from core.domain import Mode, Purpose, Side
from core.env import keys, load_dotenv, parse_dotenv, proxy_for
from core.errors import BrokerDown, ConfigError, Exit
from core.paths import Home
from data.providers.polygon_eod import PolygonProvider
from execution.alpaca_broker import AlpacaBroker
from scripts import ground, scan
from tests.fakes.grounds import a_context
from tests.fakes.trading import AAA, NOW, TODAY, Switch, Unbounded, book, entry, world

ROOT = Path(__file__).resolve().parents[2]


# ---------------------------------------------------------------- the console
SIGNS = "✓ ✗ → ≤ ≥ × · … “quoted” — – 日本 ö €"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437", "utf-8", "utf-16", "nonsense"])
def test_P31_a_console_that_cannot_spell_a_sign_gets_the_nearest_ascii(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    kind, real = (_Named, "ascii") if encoding == "nonsense" else (io.TextIOWrapper, encoding)
    stream = kind(raw, encoding=real, newline="\n")
    monkeypatch.setattr(sys, "stdout", stream)
    cli.out(SIGNS)
    stream.flush()
    said = raw.getvalue().decode("utf-16" if encoding == "utf-16" else "utf-8", "replace")
    assert said.endswith("\n") and "quoted" in said
    if encoding.startswith("utf"):
        assert said.rstrip("\n") == SIGNS
    else:
        assert "->" in said and "<=" in said and "..." in said


class _Named(io.TextIOWrapper):
    """A stream that names an encoding Python does not know, as some terminals do."""

    @property
    def encoding(self) -> str:
        return "x-nonsense-8"


def test_P31_every_script_prints_its_help_on_a_console_of_western_windows(tmp_path: Path) -> None:
    """The help texts hold signs too; argparse prints them itself."""
    for name in ("runner", "scan", "reconcile_alpaca", "close_all_positions", "config_pin"):
        environ = {**os.environ, "PYTHONIOENCODING": "cp1252:strict", "PYTHONUTF8": "0", "KOBE_HOME": str(tmp_path)}
        words = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), "--help"]
        done = subprocess.run(words, env=environ, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0 and done.stdout, (name, done.stderr[-500:])


# ---------------------------------------------------------------- settings
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str) -> str:
    """What an operator sees who starts with these settings."""
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("KOBE_CONFIG", str(tmp_path / "mine.yaml"))
    assert cli.run(lambda: scan.main([])) == Exit.CONFIG
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "mine.yaml" in said
    return said


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("risk:\n  position_limmit: 3\n", 2, "did you mean risk.position_limit?"),
        ("risk:\n  policy_gate:\n    daily_budget: 3\n", 3, "risk.policy_gate.daily_budget_usd"),
        ("\nposition_limit: 3\n", 2, "did you mean risk.position_limit?"),
        ("exekution:\n  max_attempts: 3\n", 1, "did you mean execution?"),
    ],
)
def test_P34_a_misspelt_key_is_refused_with_its_line_and_the_nearest_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, line: int, told: str
) -> None:
    said = refused(tmp_path, monkeypatch, capsys, text)
    assert said.startswith("kobe: CONFIG_UNKNOWN_KEY: ") and told in said and f"line {line}: " in said


@pytest.mark.parametrize(
    ("text", "both"),
    [
        ("selection:\n  mode: totd\n  top_n:\n    enabled: true\n", ("selection.mode", "selection.top_n.enabled")),
        ("risk:\n  policy_gate:\n    per_order_max_usd: 2000\n", ("per_order_max_usd", "daily_budget_usd")),
        ("risk:\n  vix:\n    halve_from: 40\n", ("risk.vix.halve_from", "risk.vix.stop_above")),
        ("execution:\n  read_timeout_s: 60\n", ("execution.read_timeout_s", "execution.total_timeout_s")),
    ],
)
def test_P35_keys_that_contradict_each_other_are_refused_naming_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str,
    both: tuple[str, str],
) -> None:  # fmt: skip
    said = refused(tmp_path, monkeypatch, capsys, text)
    assert said.startswith("kobe: CONFIG_CONFLICT: ") and all(key in said for key in both)


# ---------------------------------------------------------------- the pin
@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository of its own, so that its files can be changed."""
    root = tmp_path / "repo"
    for folder in ("config", "core", "data/universe"):
        (root / folder).mkdir(parents=True)
    (root / "core" / "a.py").write_text("A = 1\n")
    (root / "data" / "universe" / "optionable_liquid_800.csv").write_text("symbol,sector\nAAPL,Technology\n")
    shutil.copy(BASE_PATH, root / "config" / "base.yaml")
    shutil.copy(FROZEN_PARAMS_PATH, root / "config" / "params.json")
    real: Callable[..., dict[str, str]] = pin.compute_pin
    config, params = root / "config" / "base.yaml", root / "config" / "params.json"
    check = pin.check_pin
    monkeypatch.setattr(pin, "compute_pin", lambda **_: real(root=root, params=params, config=config))
    monkeypatch.setattr(pin, "check_pin", lambda home: check(home, config=config, compute=pin.compute_pin))
    return root


def pinned(root: Path, mode: Mode, *, allow_dirty: bool = False) -> ground.Finding:
    findings = ground.checks(a_context(root.parent / "home", mode=mode), allow_dirty=allow_dirty)
    (found,) = [f for f in findings if f.name == "pin"]
    return found


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after, 1), encoding="utf-8")


def test_P36_changed_frozen_parameters_refuse_live_and_are_told_on_paper(repo: Path) -> None:
    assert pinned(repo, Mode.LIVE).problem is not None, "nothing pinned is no permission"
    assert pinned(repo, Mode.PAPER).problem is None and pinned(repo, Mode.PAPER).warning == ""
    pin.write_pin(Home(repo.parent / "home"))
    assert pinned(repo, Mode.LIVE).problem is None
    edit(repo / "config" / "params.json", '"ibs_below": 0.08', '"ibs_below": 0.09')
    live, paper = pinned(repo, Mode.LIVE), pinned(repo, Mode.PAPER)
    assert live.problem is not None and live.problem.code == "PIN_MISMATCH" and "frozen_params" in live.found
    assert paper.problem is None and paper.warning == "PIN_MISMATCH"


def test_P37_other_code_than_pinned_refuses_live_and_wants_a_word_on_paper(repo: Path) -> None:
    pin.write_pin(Home(repo.parent / "home"))
    edit(repo / "core" / "a.py", "A = 1", "A = 2")
    for allow in (False, True):
        live = pinned(repo, Mode.LIVE, allow_dirty=allow)
        assert live.problem is not None and live.problem.code == "PIN_MISMATCH", "no word opens live"
    refused_ = pinned(repo, Mode.PAPER)
    assert refused_.problem is not None and refused_.problem.code == "CODE_NOT_PINNED"
    assert "--allow-dirty" in refused_.problem.advice
    allowed = pinned(repo, Mode.PAPER, allow_dirty=True)
    assert allowed.problem is None and allowed.warning == "PIN_MISMATCH"


def test_P37_a_new_file_and_a_removed_one_are_other_code(repo: Path) -> None:
    pin.write_pin(Home(repo.parent / "home"))
    (repo / "core" / "b.py").write_text("")
    assert pinned(repo, Mode.PAPER).problem is not None
    (repo / "core" / "b.py").unlink()
    assert pinned(repo, Mode.PAPER).problem is None
    (repo / "core" / "a.py").unlink()
    assert pinned(repo, Mode.PAPER).problem is not None


def test_P37_trading_other_code_on_paper_is_in_the_journal(tmp_path: Path) -> None:
    made = world(tmp_path / "world")
    finding = ground.Finding("pin", "differs from the pin: code", warning="PIN_MISMATCH")
    ground.record_start(a_context(tmp_path), made.desk, [finding])
    (record,) = made.journal.kinds("runner_started")
    assert record.body["warnings"] == ["PIN_MISMATCH"] and len(record.body["code"]) == 64


# ---------------------------------------------------------------- .env
@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLYGON_API_KEY", "ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores what load_dotenv sets
        monkeypatch.delenv(name)
    monkeypatch.setattr(env, "REPO_ROOT", Path("nowhere"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=plain", "plain"),
        ("A = spaced \t", "spaced"),
        ("export A=x", "x"),
        ("\ufeffA=bom", "bom"),
        ("A=crlf\r\nB=2\r\n", "crlf"),
        ('A="double # not a comment"  # comment', "double # not a comment"),
        ("A='single \\n stays'", "single \\n stays"),
        (r'A="esc \" \\ \n end"', 'esc " \\ \n end'),
        ("A=value # comment", "value"),
        ("A=va#lue", "va#lue"),
        ("A=# only a comment", ""),
        ("A=", ""),
        ("A=a=b==", "a=b=="),
        ("# c\n\nA=1\nA=2", "2"),
        ("A=it's", "it's"),
    ],
)
def test_P38_forms_that_are_understood(text: str, value: str) -> None:
    assert parse_dotenv(text, ".env")["A"] == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("A=1\nsecret-value-alone", "line 2"),
        ("KEY WITH SPACE=secret-value", "line 1"),
        ("1A=secret-value", "line 1"),
        ('A="secret-value', "line 1, A,"),
        ("A='secret-value", "line 1, A,"),
        ('A="secret-value" rest', "line 1, A,"),
        ("A=“secret-value”", "line 1, A,"),
        ("A=secret\0-value", "line 1, A,"),
    ],
)
def test_P38_forms_that_are_refused_never_show_the_value(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_dotenv(text, ".env")
    assert told in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.usefixtures("no_keys")
def test_P38_encodings_of_windows_editors(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x.env").write_bytes("POLYGON_API_KEY=abcdef\r\n".encode(encoding))
    load_dotenv(tmp_path / "x.env")
    assert keys().polygon == "abcdef"


@pytest.mark.usefixtures("no_keys")
def test_P38_bytes_that_are_no_text_are_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "x.env").write_bytes(b"A=1\nB=se\xffcret\n")
    with pytest.raises(ConfigError) as caught:
        load_dotenv(tmp_path / "x.env")
    assert "line 2" in str(caught.value) and "cret" not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.usefixtures("no_keys")
def test_P38_a_missing_file_is_no_key_and_a_named_one_that_is_missing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_dotenv()
    assert keys().alpaca_id is None
    assert cli.run(lambda: scan.main(["--dotenv", str(tmp_path / "absent.env")])) == Exit.CONFIG
    assert capsys.readouterr().err.startswith("kobe: DOTENV_MISSING: ")


# ---------------------------------------------------------------- proxies, IPv6
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variable", "value", "wrong"),
    [
        ("ALL_PROXY", "socks5://me:secret-word@proxy:1080", True), ("HTTPS_PROXY", "socks4://proxy:1", True),
        ("HTTPS_PROXY", "http://proxy:port", True), ("HTTPS_PROXY", "://", True),
        ("HTTPS_PROXY", "http://me:secret-word@proxy:3128", False), ("https_proxy", "proxy:3128", False),
        ("ALL_PROXY", "https://proxy:3129", False),
    ],
)  # fmt: skip
def test_P49_a_proxy_that_cannot_be_used_is_refused_at_the_start_naming_the_variable_and_no_value(
    no_proxies: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str, wrong: bool
) -> None:
    no_proxies.setenv(variable, value)
    no_proxies.setenv("POLYGON_API_KEY", "a-key-of-polygon")
    found = None
    if wrong:
        assert cli.run(lambda: scan.main([])) == Exit.CONFIG
        said = capsys.readouterr().err
        assert said.startswith(f"kobe: PROXY_UNSUPPORTED: {variable.upper()} ") and "secret-word" not in said
        assert said.count("\n") == 1
    else:
        found = proxy_for("https://api.polygon.io")
        assert found is not None and found.startswith(("http://", "https://")) and "proxy:312" in found
    no_proxies.setenv("NO_PROXY", "polygon.io")
    assert proxy_for("https://api.polygon.io") is None


class Answers(http.server.BaseHTTPRequestHandler):
    """A broker that knows one thing: its account."""

    asked: list[str] = []  # noqa: RUF012 - emptied by the fixture

    def do_GET(self) -> None:
        self.asked.append(self.path)
        money = dict.fromkeys(("cash", "equity", "buying_power"), "1")
        body = json.dumps({"id": "a", "account_number": "PA1", "status": "ACTIVE", **money}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class Six(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    host = str(request.param)
    kind = Six if ":" in host else http.server.ThreadingHTTPServer
    try:
        made = kind((host, 0), Answers)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    Answers.asked = []
    thread = threading.Thread(target=lambda: made.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    yield f"http://[{host}]:{made.server_port}" if ":" in host else f"http://{host}:{made.server_port}"
    made.shutdown()
    made.server_close()
    thread.join()


def a_broker(url: str) -> AlpacaBroker:
    return AlpacaBroker(
        key_id="k", secret="s", base_url=url, data_url=url, halt=Switch(), clock=SteppedClock(NOW),
        admission=Unbounded(), connect_timeout_s=1.0, read_timeout_s=1.0, total_timeout_s=2.0,
    )  # fmt: skip


def test_P49_a_server_on_this_machine_is_reached_past_every_proxy_and_over_either_address(
    no_proxies: pytest.MonkeyPatch, server: str
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        no_proxies.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    assert a_broker(server).account().number == "PA1" and Answers.asked == ["/v2/account"]
    assert proxy_for(server) is None


def test_P49_a_proxy_that_is_down_is_a_broker_that_cannot_be_reached_and_nothing_was_sent(
    no_proxies: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_proxies.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    made = world(tmp_path)
    made.desk.broker = a_broker("http://broker.internal")
    with pytest.raises(BrokerDown):
        made.desk.broker.account()
    outcome = made.desk.send(entry(), book())
    assert type(outcome).__name__ == "NotSent" and "order_not_sent" in made.kinds()


def test_P49_the_vendor_goes_through_the_proxy_that_the_environment_names(no_proxies: pytest.MonkeyPatch) -> None:
    no_proxies.setenv("HTTPS_PROXY", "http://me:pw@proxy.internal:3128")
    provider = PolygonProvider("a-key", "https://api.polygon.io", SteppedClock(NOW))
    _, pool = provider._client()
    assert pool._pool.proxy.host == "proxy.internal" and pool._pool.proxy_headers == {
        "proxy-authorization": "Basic bWU6cHc="
    }  # fmt: skip
    assert PolygonProvider("k", "http://127.0.0.1:1", SteppedClock(NOW))._client()[1]._pool.proxy is None


# ---------------------------------------------------------------- packages
LOCK = """
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:aa
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:bb
Some.Package==1.0.post1 \\
    --hash=sha256:cc \\
    --hash=sha256:dd
    # via kobe
colorama==0.4.6 ; sys_platform == 'nowhere' \\
    --hash=sha256:ee
odd==1 ; (os_name == 'nt' or extra == 'x') \\
    --hash=sha256:ff
"""
HAVE = {"numpy": "2.4.6", "some-package": "1.0.post1", "more": "9"}


@pytest.fixture
def locked(tmp_path: Path) -> Callable[..., list[tuple[str, str]]]:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nrequires-python = ">=3.11,<4"\n')

    def check(text: str = LOCK, have: dict[str, str] | None = None, python: tuple[int, ...] = (3, 11, 7)) -> Any:
        lock = tmp_path / "requirements.lock.txt"
        lock.write_text(text, encoding="utf-8")
        return list(check_lock(lock, project=project, found=HAVE if have is None else have, python=python).problems)

    return check


def test_P51_what_is_installed_is_compared_with_the_lock(locked: Callable[..., list[tuple[str, str]]]) -> None:
    assert locked() == []
    assert locked(have={**HAVE, "numpy": "2.4.5"}) == [("PACKAGE_DIFFERS", "numpy 2.4.5 is installed, 2.4.6 is locked")]
    assert locked(have={"numpy": "2.4.6"}) == [
        ("PACKAGE_MISSING", "some-package 1.0.post1 is locked and not installed")
    ]
    assert locked(python=(3, 12, 0)) == [("PACKAGE_DIFFERS", "numpy 2.4.6 is installed, 2.5.5 is locked")]


@pytest.mark.parametrize(
    ("python", "fits"), [((3, 10, 9), False), ((3, 11, 0), True), ((3, 14, 1), True), ((4, 0, 0), False)]
)
def test_P51_another_python_is_named_with_the_one_required(
    locked: Callable[..., list[tuple[str, str]]], python: tuple[int, ...], fits: bool
) -> None:
    codes = dict(locked(python=python))
    assert ("PYTHON_MISMATCH" not in codes) is fits
    if not fits:
        assert ".".join(map(str, python)) in codes["PYTHON_MISMATCH"] and ">=3.11,<4" in codes["PYTHON_MISMATCH"]


def test_P51_every_marker_of_the_real_lock_is_understood() -> None:
    entries = read_lock(LOCK_PATH)
    assert len(entries) > 50 and [entry.name for entry in entries if applies(entry.marker) is None] == []


def test_P51_live_refuses_and_paper_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.lock.installed", dict)
    found = {}
    for mode in (Mode.LIVE, Mode.PAPER):
        findings = ground.checks(a_context(tmp_path, mode=mode), allow_dirty=False)
        (found[mode],) = [f for f in findings if f.name == "packages"]
    live, paper = found[Mode.LIVE], found[Mode.PAPER]
    assert (
        live.problem is not None
        and live.problem.code == "PACKAGE_MISSING"
        and "--require-hashes" in live.problem.advice
    )
    assert paper.problem is None and paper.warning == "PACKAGE_MISSING" and "more" in paper.found


# ---------------------------------------------------------------- the budget
def test_P56_no_restart_no_deleted_view_and_no_clock_forgets_what_was_spent_today(tmp_path: Path) -> None:
    """The budget is folded from the journal: there is no counter to reset."""
    made = world(tmp_path)
    for n in range(3):
        made.desk.execute(entry(f"S{n}", price="50.10"), book(f"S{n}"))
    spent = made.desk.ledger().spent_usd(TODAY)
    assert spent == Decimal("150.00")
    for file in (tmp_path / "state").glob("*.json"):
        file.unlink()
    for hours in (0, 1, -1, 5, -6):
        made.clock.set(NOW + timedelta(hours=hours))
        assert made.restart().ledger().spent_usd(TODAY) == spent
    made.clock.set(NOW - timedelta(days=30))
    assert made.restart().ledger().spent_usd(TODAY) == spent, "also on a clock that went back a month"


def test_P56_the_next_day_begins_with_the_whole_budget_and_an_unknown_order_keeps_its_part(tmp_path: Path) -> None:
    from core.errors import OutcomeUnknown

    made = world(tmp_path)
    made.broker.before_submit = [OutcomeUnknown("time-out")]
    made.broker.lag_s = 1e9
    made.desk.send(entry(), book())
    assert made.desk.ledger().spent_usd(TODAY) == Decimal("50.10")
    assert made.restart().ledger().spent_usd(TODAY) == Decimal("50.10")
    assert made.desk.ledger().next_attempt(entry().decision_id, Side.BUY, Purpose.ENTRY) >= 1
    assert AAA in made.desk.ledger().locked
    tomorrow = TODAY + timedelta(days=1)
    assert made.desk.ledger().filled_usd(tomorrow) == 0
