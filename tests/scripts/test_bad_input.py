"""Bad input gets one clear line, a documented exit code, and nothing lost.

Each case: exactly one line on stderr, `kobe: CODE: …`, no traceback, the exit code of docs/interfaces.md, and the file
at fault byte for byte as it was.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from core import cli
from core.journal import verify
from core.paths import home

ROOT = Path(__file__).resolve().parents[2]
UNIVERSE = ROOT / "data" / "universe" / "optionable_liquid_800.csv"
NOBODY = "http://127.0.0.1:9"  # the discard port: nobody listens
BAR = "2024-03-07,10,11,9,10.5,1000\n"
HEADER = "date,open,high,low,close,volume\n"
LINE = re.compile(r"kobe: [A-Z][A-Z0-9_]*: \S.*\n\Z")
Kobe = Callable[..., "Ended"]


class Ended:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def refused(self, code: int, *words: str) -> str:
        """One line, the exit code, the words; returns the reason code."""
        assert self.code == code, (self.code, self.out[-500:], self.err)
        assert LINE.fullmatch(self.err), self.err
        assert "Traceback" not in self.out + self.err
        for word in words:
            assert word in self.err
        return self.err.split(":")[1].strip()


@pytest.fixture
def kobe(capsys: pytest.CaptureFixture[str]) -> Kobe:
    def run(script: str, *argv: object) -> Ended:
        capsys.readouterr()
        main: Any = importlib.import_module(f"scripts.{script}").main
        code = cli.run(lambda: main([str(a) for a in argv]))
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home after a replay of one session that bought something."""
    folder = tmp_path_factory.mktemp("traded")
    rows = UNIVERSE.read_text(encoding="utf-8").splitlines()
    few = [r for i, r in enumerate(rows) if i <= 20 or r.split(",")[0] in ("GNRC", "CAKE", "W")]
    (folder / "few.csv").write_text("\n".join(few) + "\n", encoding="utf-8")
    words = ["--mode", "paper", "--replay", "2026-10-19:2026-10-23", "--universe", str(folder / "few.csv")]
    done = process(folder, "runner", *words)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def place(traded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to damage."""
    copy = tmp_path / "home"
    shutil.copytree(traded, copy)
    monkeypatch.setenv("KOBE_HOME", str(copy))
    return copy


def process(folder: Path, script: str, *argv: object, **more: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "KOBE_HOME": str(folder), "NO_PROXY": "127.0.0.1,localhost", "PYTHONUTF8": "1"}
    keys = ("POLYGON_API_KEY", "ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY", "ANTHROPIC_API_KEY", "KOBE_CONFIG")
    env.update(dict.fromkeys(keys, ""), **more)
    words = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *map(str, argv)]
    return subprocess.run(words, env=env, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that must not change; locks and the venue's own write-ahead files aside."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {n: c for n, c in found.items() if not n.endswith((".lock", "-wal", "-shm"))}


# ---------------------------------------------------------------- universe
@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, "UNIVERSE_MISSING", ["no such file"]),
        (b"", "UNIVERSE_EMPTY", []),
        (b"symbol,sector\n", "UNIVERSE_EMPTY", []),
        (b"symbol\nAAPL\n\xff\xfe\n", "UNIVERSE_ENCODING", ["offset 12"]),
        (b"symbol,sector\nAAPL,Tech\nMSFT,Tech,more,cells\n", "UNIVERSE_MALFORMED", ["line 3"]),
        (b'symbol,sector\nAAPL,"Tech\nMSFT,Tech\n', "UNIVERSE_MALFORMED", ["line"]),
        (b"symbol\nAAPL\nNOT A TICKER!\n", "UNIVERSE_MALFORMED", ["line 3"]),
    ],
)
def test_a_bad_universe(kobe: Kobe, tmp_path: Path, content: bytes | None, code: str, words: list[str]) -> None:
    path = tmp_path / "universe.csv"
    if content is not None:
        path.write_bytes(content)
    assert kobe("scan", "--universe", path).refused(10, str(path), *words) == code
    assert (path.read_bytes() if path.exists() else None) == content


def test_a_folder_as_universe(kobe: Kobe, tmp_path: Path) -> None:
    assert kobe("scan", "--universe", tmp_path).refused(10) == "UNIVERSE_UNREADABLE"


# ---------------------------------------------------------------- bars
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("AAPL.csv", HEADER + BAR + "2024-03-08,10,11,nine,10,1\n", ["line 3", "low 'nine'"]),
        ("AAPL.csv", HEADER + BAR + "2024-03-08,10,11,9\n", ["line 3", "4 cells"]),
        ("AAPL.csv", HEADER + "2024-03-07,10,11,9,10,1,7\n", ["line 2", "7 cells"]),
        ("AAPL.csv", HEADER + BAR + "8.3.2024,10,11,9,10,1\n", ["line 3", "date"]),
        ("AAPL.csv", HEADER + BAR + "2024-02-30,10,11,9,10,1\n", ["line 3", "date"]),
        ("AAPL.csv", HEADER + BAR + '2024-03-08,10,11,9,"10,1\n', ["line 3"]),
        ("AAPL.csv", "date,open,close\n2024-03-07,1,1\n", ["line 1", "high, low, volume"]),
        ("AAPL.csv", "", ["line 1"]),
        ("long.csv", HEADER + BAR, ["line 1", "symbol"]),
        ("long.csv", "symbol," + HEADER + "AAPL," + BAR + "," + BAR, ["line 3", "no symbol"]),
        ("long.csv.gz", "no gzip at all", ["cannot be read"]),
    ],
)  # fmt: skip
def test_a_broken_csv_names_its_line(kobe: Kobe, tmp_path: Path, name: str, content: str, words: list[str]) -> None:
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")
    path = file if name.startswith("long") else tmp_path
    ended = kobe("scan", "--bars", path, "--as-of", "2024-03-07")
    assert ended.refused(20, str(file), *words) == "BARS_MALFORMED"
    assert file.read_text(encoding="utf-8") == content


def test_bars_that_are_not_there_or_not_of_that_day(kobe: Kobe, tmp_path: Path) -> None:
    assert kobe("scan", "--bars", tmp_path / "no").refused(20) == "BARS_MISSING"
    assert kobe("scan", "--bars", tmp_path).refused(20) == "BARS_MISSING"
    (tmp_path / "AAPL.csv").write_text(HEADER + BAR, encoding="utf-8")
    assert kobe("scan", "--bars", tmp_path, "--as-of", "2024-03-08").refused(20, "2024-03-08") == "DATA_STALE"


# ---------------------------------------------------------------- usage
@pytest.mark.parametrize(
    ("script", "argv", "code", "reason"),
    [
        ("scan", ["--cap", "0"], 2, "USAGE"),
        ("scan", ["--as-of", "2024-03-09"], 2, "USAGE"),  # a Saturday
        ("scan", ["--as-of", "2024-03-08T09:35"], 2, "USAGE"),  # no zone
        ("scan", ["--as-of", "yesterday"], 2, "USAGE"),
        ("scan", ["--as-of", "0001-01-01T00:00:00+14:00"], 2, "USAGE"),
        ("scan", ["--as-of", "9999-12-31T23:59:59-12:00"], 2, "USAGE"),
        ("scan", ["--dotenv", "/no/such/.env"], 10, "DOTENV_MISSING"),
        ("runner", ["--mode", "live"], 10, "LIVE_NOT_ARMED"),
        ("runner", ["--mode", "live", "--replay", "2026-10-19:2026-10-19"], 10, "LIVE_NOT_ARMED"),
        ("runner", ["--mode", "paper", "--cap", "0"], 2, "USAGE"),
        ("runner", ["--mode", "paper", "--as-of", "2026-10-19"], 2, "USAGE"),
        ("runner", ["--mode", "paper", "--replay", "2026-10-19"], 2, "USAGE"),
        ("runner", ["--mode", "paper", "--replay", "2026-10-20:2026-10-19"], 2, "USAGE"),
        ("runner", ["--mode", "paper", "--once", "--market", "/no/such"], 2, "MARKET_MISSING"),
        ("close_all_positions", [], 42, "NOT_CONFIRMED"),
        ("verify_hash_chain", ["--anchor", "abc"], 2, "USAGE"),
    ],
)  # fmt: skip
def test_a_command_line_that_cannot_be(
    kobe: Kobe, place: Path, script: str, argv: list[str], code: int, reason: str
) -> None:
    shutil.rmtree(place / "state")
    assert kobe(script, *argv).refused(code) == reason


@pytest.mark.parametrize(
    ("argv", "code", "reason"),
    [
        (["--replay", "2026-10-24:2026-10-25"], 20, "NO_SESSIONS"),
        (["--replay", "1980-01-02:1980-01-04"], 20, "CALENDAR_RANGE"),
        (["--replay", "2026-10-19:2026-10-19", "--market", "/no/such"], 2, "MARKET_MISSING"),
        (["--replay", "2026-10-19:2026-10-19", "--scan-times", "25:00"], 2, "USAGE"),
        (["--replay", "2026-10-19:2026-10-19", "--universe", "/no/such"], 10, "UNIVERSE_MISSING"),
    ],
)
def test_a_refused_replay_moves_nothing(kobe: Kobe, place: Path, argv: list[str], code: int, reason: str) -> None:
    before = contents(place / "state")
    assert kobe("runner", "--mode", "paper", *argv).refused(code) == reason
    after = contents(place / "state")
    assert {**after, "runner.json": b""} == {**before, "runner.json": b""}


def test_a_refused_replay_marks_no_home(kobe: Kobe, own_home: Path) -> None:
    """Else the paper runner would refuse this home later."""
    kobe("runner", "--mode", "paper", "--replay", "2026-10-24:2026-10-25").refused(20)
    assert not (own_home / "state" / "replay.json").exists()


def test_the_kill_switch_stops_runner_and_replay_and_moves_nothing(kobe: Kobe, place: Path) -> None:
    (place / "state" / "KILL_SWITCH").write_text("1\n", encoding="utf-8")
    before = contents(place / "state")
    assert kobe("runner", "--mode", "paper", "--replay", "2026-10-19:2026-10-19").refused(40) == "KILL_SWITCH"
    assert kobe("runner", "--mode", "paper", "--once").refused(40) == "KILL_SWITCH"
    after = contents(place / "state")
    told = {"runner.json", "hash_chain.jsonl", "hash_chain.head"}
    assert {k: v for k, v in after.items() if k not in told} == {k: v for k, v in before.items() if k not in told}
    was, now = (state["hash_chain.jsonl"].splitlines() for state in (before, after))
    assert now[: len(was)] == was
    assert [json.loads(line)["kind"] for line in now[len(was) :]] == ["trading_halted"], "the refusal, nothing else"


# ---------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("quality_gate:\n  min_scor: 60\n", ["line 2", "min_scor", "min_score"]),
        ("risk:\n  policy_gate:\n    per_order_max: 75\n", ["line 3", "per_order_max_usd"]),
        ("qualitygate: {}\n", ["line 1", "quality_gate"]),
        ("selection:\n  mode: totd\n  top_n:\n    enabled: true\n", ["selection.mode", "selection.top_n.enabled"]),
        ("quality_gate:\n  min_score: high\n", ["line 2", "quality_gate.min_score", "high"]),
        ("quality_gate:\n  min_score: 50\n  min_score: 60\n", ["line 3", "twice"]),
        ("quality_gate: {min_score: 50\n", ["line"]),
        ("risk:\n\tposition_limit: 3\n", ["line 2", "tab"]),
        ("", ["empty"]),
    ],
)
def test_bad_settings_name_the_line_and_the_nearest_word(
    kobe: Kobe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: list[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setenv("KOBE_CONFIG", str(file))
    for script in ("scan", "reconcile_alpaca"):
        kobe(script).refused(10, "mine.yaml", *words)
    assert file.read_text(encoding="utf-8") == text


def test_a_settings_file_that_is_not_there(kobe: Kobe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOBE_CONFIG", "/no/such.yaml")
    assert kobe("scan").refused(10) == "CONFIG_MISSING"


# ---------------------------------------------------------------- damaged state
GARBAGE = [b"", b"{", b"\xff\xfe\x00", b"[]", b'{"schema_version": 1}']


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize(
    ("file", "script", "argv"),
    [
        ("positions.json", "reconcile_alpaca", []),
        ("universe_last.json", "scan", ["--cap", "5"]),
        ("replay.json", "reconcile_alpaca", []),
        ("replay.json", "cancel_all", []),
        ("hash_chain.head", "reconcile_alpaca", []),
        ("hash_chain.head", "runner", ["--mode", "paper", "--once"]),
    ],
)
def test_a_damaged_state_file_is_told_and_left_alone(
    kobe: Kobe, place: Path, file: str, script: str, argv: list[str], garbage: bytes
) -> None:
    (place / "state" / file).write_bytes(garbage)
    before = contents(place / "state")
    kobe(script, *argv).refused(11, file)
    after = contents(place / "state")
    assert {**after, "runner.json": b""} == {**before, "runner.json": b""}


@pytest.mark.parametrize("file", ["positions.json", "weekly_budget.json"])
def test_the_runner_leaves_a_damaged_view_alone(kobe: Kobe, place: Path, file: str) -> None:
    path = place / "state" / file
    path.write_bytes(b"{")
    kobe("runner", "--mode", "paper", "--once", "--universe", place / "few.csv").refused(11, file)
    assert path.read_bytes() == b"{"


def test_a_newer_document_is_left_to_the_newer_program(kobe: Kobe, place: Path) -> None:
    path = place / "state" / "positions.json"
    path.write_text('{"schema_version": 99}', encoding="utf-8")
    for argv in ((), ("--force-sync",)):
        assert kobe("reconcile_alpaca", *argv).refused(11) == "STATE_NEWER"
    assert path.read_text(encoding="utf-8") == '{"schema_version": 99}'


@pytest.mark.parametrize("garbage", [b"no database", b"SQLite format 3\x00" + b"\xaa" * 4000])
@pytest.mark.parametrize("script", ["reconcile_alpaca", "cancel_all", "runner"])
def test_a_damaged_venue_account(kobe: Kobe, place: Path, script: str, garbage: bytes) -> None:
    path = place / "state" / "venue.sqlite"
    path.write_bytes(garbage)
    argv = ["--mode", "paper", "--once"] if script == "runner" else []
    assert kobe(script, *argv).refused(11, "venue.sqlite") == "VENUE_ACCOUNT_DAMAGED"
    assert path.read_bytes() == garbage


def test_a_damaged_positions_file_is_kept_by_force_sync(kobe: Kobe, place: Path) -> None:
    (place / "state" / "positions.json").write_bytes(b"{half")
    assert kobe("reconcile_alpaca", "--force-sync").code == 0
    kept = list((place / "state").glob("positions.damaged-*.json"))
    assert [p.read_bytes() for p in kept] == [b"{half"]
    assert kobe("reconcile_alpaca").code == 0


def test_a_damaged_view_does_not_hide_that_everything_was_sold(kobe: Kobe, place: Path) -> None:
    (place / "state" / "weekly_budget.json").write_bytes(b"{")
    ended = kobe("close_all_positions", "--confirm", "--json")
    ended.refused(11, "weekly_budget.json")
    assert set(json.loads(ended.out)) == {"flat", "left", "cancelled", "not_cancelled", "open_orders"}


def edited_in_the_middle(journal: Path) -> int:
    """One digit of one body; the last line and the head stay as they are."""
    lines = journal.read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    row = json.loads(lines[middle])
    row["body"]["edited"] = True
    lines[middle] = json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    journal.write_bytes(b"".join(lines))
    return middle + 1


def test_an_edited_journal_stops_the_runner_and_is_not_mended(kobe: Kobe, place: Path) -> None:
    journal = place / "state" / "hash_chain.jsonl"
    line = edited_in_the_middle(journal)
    before = journal.read_bytes()
    kobe("runner", "--mode", "paper", "--once", "--universe", place / "few.csv").refused(11)
    found = kobe("verify_hash_chain", "--json")
    assert found.code == 1 and found.err == ""
    assert json.loads(found.out)["first_bad"] == line and json.loads(found.out)["ok"] is False
    assert journal.read_bytes() == before


@pytest.mark.parametrize("how", ["missing", "shortened", "last line changed"])
def test_a_journal_that_disagrees_with_its_head(kobe: Kobe, place: Path, how: str) -> None:
    journal, head = place / "state" / "hash_chain.jsonl", place / "state" / "hash_chain.head"
    if how == "missing":
        head.unlink()
    elif how == "shortened":
        journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-3]))
    else:
        journal.write_bytes(journal.read_bytes()[:-10] + b"xxxxxxxxx\n")
    before = contents(place / "state")
    for script, argv in (("reconcile_alpaca", []), ("runner", ["--mode", "paper", "--once"])):
        kobe(script, *argv).refused(11, "hash_chain")
    assert kobe("verify_hash_chain").code == 1
    after = contents(place / "state")
    assert {**after, "runner.json": b""} == {**before, "runner.json": b""}


def test_damaged_provider_counts(kobe: Kobe, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for, they are refused; an update, which they only describe, goes on, and every damaged file is kept."""
    from data.providers.multi_source import get_provider_stats

    path = place / "state" / "provider_stats.json"
    path.write_bytes(b"{first")
    capsys.readouterr()
    code = cli.run(lambda: bool(get_provider_stats()))
    Ended(code, "", capsys.readouterr().err).refused(11, "provider_stats.json")
    assert path.read_bytes() == b"{first"
    shutil.rmtree(place / "cache" / "simulated")
    for kept in (b"{first", b"{second"):
        path.write_bytes(kept)
        shutil.rmtree(place / "cache" / "simulated", ignore_errors=True)
        ended = kobe("scan", "--universe", place / "few.csv")
        assert (ended.code, ended.err) == (0, "")
    assert {p.read_bytes() for p in (place / "state").glob("provider_stats.damaged*")} == {b"{first", b"{second"}
    assert "state_set_aside" in (place / "logs" / "events.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_damaged_calendar_cache_is_derived_again(place: Path, garbage: bytes) -> None:
    (cached,) = (place / "cache" / "calendar").iterdir()
    sound = cached.read_bytes()
    cached.write_bytes(garbage)
    done = process(place, "runner", "--mode", "paper", "--replay", "2026-10-24:2026-10-25")
    assert done.returncode == 20 and done.stderr.startswith("kobe: NO_SESSIONS: ")
    assert cached.read_bytes() == sound


# ---------------------------------------------------------------- folders
def test_a_home_that_is_a_file(kobe: Kobe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a file"
    file.write_text("mine", encoding="utf-8")
    monkeypatch.setenv("KOBE_HOME", str(file))
    for script, argv in (("reconcile_alpaca", []), ("verify_hash_chain", []), ("cancel_all", [])):
        assert kobe(script, *argv).refused(10, str(file)) == "HOME_UNWRITABLE"
    assert file.read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root and Windows write anywhere")
def test_a_home_that_cannot_be_written(kobe: Kobe, own_home: Path) -> None:
    own_home.chmod(0o555)
    try:
        assert kobe("reconcile_alpaca").refused(10) == "HOME_UNWRITABLE"
    finally:
        own_home.chmod(0o755)


def test_a_full_disk_is_no_bug(kobe: Kobe, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts import scan

    def full(argv: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scan, "main", full)
    assert kobe("scan").refused(10, str(home().root)) == "HOME_UNWRITABLE"


def test_a_missing_file_of_our_own_is_still_a_bug(kobe: Kobe, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts import scan

    def broken(argv: object) -> int:
        raise PermissionError(13, "Permission denied", "/somewhere/else")

    monkeypatch.setattr(scan, "main", broken)
    assert kobe("scan").refused(70) == "BUG"


# ---------------------------------------------------------------- network and keys
@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def use(url: str) -> None:
        for name in ("ALPACA_BASE_URL", "ALPACA_DATA_URL", "POLYGON_BASE_URL", "ANTHROPIC_BASE_URL"):
            monkeypatch.setenv(name, url)
        monkeypatch.setenv("POLYGON_API_KEY", "wrong-polygon-key")
        monkeypatch.setenv("ALPACA_API_KEY_ID", "WRONGKEYID")
        monkeypatch.setenv("ALPACA_API_SECRET_KEY", "wrong-secret-key")

    return use


@pytest.fixture
def refusing_server() -> Iterator[str]:
    """Answers 401 to everything, as a vendor does to a wrong key."""

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"code":40110000,"message":"request is not authorized","status":"ERROR","error":"Unknown API Key"}'
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_DELETE = do_GET

        def log_message(self, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


BROKER_COMMANDS: list[tuple[str, list[str]]] = [
    ("reconcile_alpaca", []),
    ("reconcile_alpaca", ["--force-sync"]),
    ("cancel_all", []),
    ("close_all_positions", ["--confirm"]),
    ("runner", ["--mode", "paper"]),
    ("runner", ["--mode", "paper", "--once"]),
]


@pytest.fixture
def sigterm_kept() -> Iterator[None]:
    kept = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    yield
    for name, handler in kept.items():
        signal.signal(name, handler)


@pytest.mark.usefixtures("sigterm_kept")
@pytest.mark.parametrize(("script", "argv"), BROKER_COMMANDS)
def test_no_network_to_the_broker(
    kobe: Kobe, own_home: Path, addresses: Callable[[str], None], script: str, argv: list[str]
) -> None:
    addresses(NOBODY)
    assert kobe(script, *argv).refused(30) == "BROKER_DOWN"
    assert verify(own_home / "state" / "hash_chain.jsonl").ok


def test_no_network_to_the_vendors(kobe: Kobe, addresses: Callable[[str], None]) -> None:
    addresses(NOBODY)
    ended = kobe("scan", "--cap", "3", "--json")
    assert ended.refused(20, "polygon", "alpaca") == "ALL_PROVIDERS_FAILED"
    assert ended.out == ""
    assert "wrong-" not in ended.err


def test_no_data_for_a_single_scan_of_the_runner(
    kobe: Kobe, addresses: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker answers, the vendor does not: the report is printed, and the code says that there was no data."""
    addresses(NOBODY)
    for name in ("ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY"):
        monkeypatch.setenv(name, "")
    ended = kobe("runner", "--mode", "paper", "--once", "--cap", "3", "--json")
    assert ended.refused(20) == "ALL_PROVIDERS_FAILED"
    assert json.loads(ended.out)["scan"] is None


@pytest.mark.usefixtures("sigterm_kept")
@pytest.mark.parametrize(("script", "argv"), BROKER_COMMANDS)
def test_a_wrong_key_at_the_broker(
    kobe: Kobe, addresses: Callable[[str], None], refusing_server: str, script: str, argv: list[str]
) -> None:
    addresses(refusing_server)
    ended = kobe(script, *argv)
    ended.refused(31, "401")
    assert "wrong-" not in ended.err


def test_a_wrong_key_at_the_vendors(kobe: Kobe, addresses: Callable[[str], None], refusing_server: str) -> None:
    addresses(refusing_server)
    ended = kobe("scan", "--cap", "3")
    assert ended.refused(20, "polygon", "alpaca") == "ALL_PROVIDERS_FAILED"
    assert "wrong-" not in ended.err


@pytest.mark.parametrize("name", ["ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY"])
def test_half_of_the_brokers_keys(kobe: Kobe, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "only-this-one")
    for script in ("scan", "reconcile_alpaca", "cancel_all"):
        assert kobe(script).refused(10, "ALPACA_API_") == "KEYS_INCOMPLETE"


def test_a_key_that_no_header_can_carry(kobe: Kobe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", "my secret words")
    ended = kobe("scan")
    assert ended.refused(10, "POLYGON_API_KEY") == "KEY_MALFORMED"
    assert "secret words" not in ended.err


def test_simulated_data_with_a_real_broker(
    kobe: Kobe, addresses: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A --market beside a real broker's keys would trade simulated prices for money: refused."""
    from core.domain import Mode
    from core.errors import ConfigError
    from scripts import wiring

    addresses(NOBODY)
    context = wiring.open_context(importlib.import_module("argparse").Namespace(), mode=Mode.PAPER)
    assert context.real_broker
    with pytest.raises(ConfigError) as caught:
        wiring.refuse_simulated_data(context, simulated=True)
    assert (caught.value.code, int(caught.value.exit_code)) == ("SIMULATED_DATA_REAL_BROKER", 10)
    for argv in (["--once"], []):
        ended = kobe("runner", "--mode", "paper", "--market", tmp_path, *argv)
        assert ended.refused(10, "--market") == "SIMULATED_DATA_REAL_BROKER"


# ---------------------------------------------------------------- ending
def started(folder: Path, *argv: str) -> subprocess.Popen[str]:
    env = {**os.environ, "KOBE_HOME": str(folder), "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    words = [
        sys.executable,
        str(ROOT / "scripts" / "runner.py"),
        "--mode",
        "paper",
        "--no-sidecar",
        "--no-alerts",
        *argv,
    ]
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to send")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_the_runner_ends_clean_and_a_second_one_is_refused(own_home: Path, name: str) -> None:
    with started(own_home, "--cap", "5") as first:
        assert first.stdout is not None and first.stderr is not None
        for line in first.stdout:
            if line.startswith("running;"):
                break
        for argv in (["--cap", "5"], ["--once"], ["--replay", "2026-10-19:2026-10-19"]):
            second = process(own_home, "runner", "--mode", "paper", *argv)
            refused = Ended(second.returncode, second.stdout, second.stderr)
            assert refused.refused(3, str(first.pid)) == "ALREADY_RUNNING"
        first.send_signal(getattr(signal, name))
        assert first.wait(30) == 0
        assert first.stdout.read() == "runner ended\n" and first.stderr.read() == ""
    assert json.loads((own_home / "state" / "runner.json").read_bytes())["doing"] == "stopped"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to send")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_an_interrupted_replay_says_so_and_leaves_a_sound_journal(own_home: Path, name: str) -> None:
    with started(own_home, "--cap", "20", "--replay", "2026-08-03:2026-10-23") as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.readline()
        running.send_signal(getattr(signal, name))
        assert running.wait(30) == 130
        assert running.stderr.read() == "kobe: interrupted\n"
    journal = own_home / "state" / "hash_chain.jsonl"
    assert verify(journal).why in ("", "a torn last line; the next append sets it aside")
