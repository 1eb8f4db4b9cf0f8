"""One scan from the operator's side: the same bytes twice, the promised JSON, a reason per symbol, a light start."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNIVERSE = ROOT / "data" / "universe" / "optionable_liquid_800.csv"
SESSION, MORNING = "2026-10-22", "2026-10-23T13:35:00Z"
NAMES = 400
KEYS = ["as_of", "session", "data_source", "simulated", "snapshot_sha256", "considered", "picks", "refused"]
PICK_KEYS = ["symbol", "strategy", "score", "signal_session", "close", "stop", "target", "reasons"]
HEAVY = ("sklearn", "anthropic", "fastapi", "uvicorn", "alpaca", "pandas", "polygon", "yfinance", "exchange_calendars")
OPEN_GATE = "quality_gate: {min_score: 0, max_signals_per_day: 50}\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose cache already holds the session."""
    folder = tmp_path_factory.mktemp("scan home")
    (folder / "open.yaml").write_text(OPEN_GATE, encoding="utf-8")
    assert scan(folder, "--as-of", SESSION).returncode == 0
    return folder


def scan(folder: Path, *argv: str, cap: int = NAMES, **more: str) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, str(ROOT / "scripts" / "scan.py"), "--cap", str(cap), *argv]
    env = environment(folder, **more)
    return subprocess.run(words, env=env, cwd=folder, capture_output=True, timeout=120, check=False)


def environment(folder: Path, **more: str) -> dict[str, str]:
    empty = dict.fromkeys(("POLYGON_API_KEY", "ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY", "KOBE_CONFIG"), "")
    return {**os.environ, **empty, "KOBE_HOME": str(folder), "NO_PROXY": "127.0.0.1,localhost", **more}


def answer(folder: Path, *argv: str, **more: str) -> dict[str, Any]:
    done = scan(folder, "--json", *argv, **more)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    assert done.stdout.count(b"\n") == 1
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def lines_added(folder: Path, *argv: str, **more: str) -> tuple[bytes, list[str]]:
    path = folder / "logs" / "daily_picks.csv"
    before = len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0
    done = scan(folder, *argv, **more)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    return done.stdout, path.read_text(encoding="utf-8").splitlines()[before:]


@pytest.mark.parametrize("form", [[], ["--json"], ["--top3"]])
@pytest.mark.parametrize("gate", ["", "open.yaml"])
def test_deterministic_twice_gives_the_same_bytes(place: Path, form: list[str], gate: str) -> None:
    argv, config = ["--deterministic", "--as-of", SESSION, *form], str(place / gate) if gate else ""
    first, second = (lines_added(place, *argv, KOBE_CONFIG=config) for _ in range(2))
    assert first == second
    assert first[0] and first[1]


def test_deterministic_in_another_home_gives_the_same_bytes(place: Path, tmp_path: Path) -> None:
    argv = ["--deterministic", "--as-of", SESSION, "--json"]
    assert scan(place, *argv, cap=30).stdout == scan(tmp_path, *argv, cap=30).stdout


def test_the_json_has_exactly_the_promised_keys(place: Path) -> None:
    found = answer(place, "--deterministic", "--as-of", SESSION, "--top3", KOBE_CONFIG=str(place / "open.yaml"))
    assert sorted(found) == sorted(KEYS)
    assert found["picks"]
    for pick in found["picks"]:
        assert sorted(pick) == sorted(PICK_KEYS)
        assert pick["signal_session"] == SESSION and pick["stop"] < pick["close"]
        assert isinstance(pick["reasons"], list)
    assert (found["as_of"], found["session"], found["simulated"]) == (MORNING, SESSION, True)
    assert found["considered"] == NAMES == len(found["picks"]) + sum(found["refused"].values())
    assert len(found["snapshot_sha256"]) == 64


def test_top3_is_at_most_three_and_totd_one(place: Path) -> None:
    """More than three setups pass the gate that day, so the limit is what is seen."""
    config = str(place / "open.yaml")
    argv = ("--deterministic", "--as-of", SESSION)
    three = answer(place, *argv, "--top3", KOBE_CONFIG=config)
    one = answer(place, *argv, KOBE_CONFIG=config)
    setups = sum(n for code, n in three["refused"].items() if code not in ("NO_SETUP", "NO_BAR", "HISTORY_SHORT"))
    assert 1 <= len(three["picks"]) <= 3 < setups + len(three["picks"])
    assert len(one["picks"]) == 1


def test_a_day_without_picks_says_why(place: Path) -> None:
    out, lines = lines_added(place, "--deterministic", "--as-of", SESSION)
    found = answer(place, "--deterministic", "--as-of", SESSION)
    assert found["picks"] == []
    header = (place / "logs" / "daily_picks.csv").read_text(encoding="utf-8").splitlines()[0]
    (row,) = csv.DictReader([header, *lines])
    why = "|".join(f"{code}:{n}" for code, n in sorted(found["refused"].items()))
    assert (row["symbol"], row["reasons"]) == ("", f"NO_PICKS|{why}")
    assert (row["data_source"], row["simulated"]) == ("simulated", "True")
    assert row["snapshot_sha256"] == found["snapshot_sha256"]
    assert b"no picks: NO_SETUP" in out


def test_every_considered_symbol_has_one_verdict(place: Path) -> None:
    found = answer(place, "--deterministic", "--as-of", SESSION, "--top3", KOBE_CONFIG=str(place / "open.yaml"))
    text = (place / "logs" / "verdicts" / f"{SESSION}.jsonl").read_text(encoding="utf-8")
    verdicts = [json.loads(line) for line in text.splitlines()]
    listed = [row["symbol"] for row in csv.DictReader(UNIVERSE.read_text(encoding="utf-8").splitlines())][:NAMES]
    assert sorted(v["symbol"] for v in verdicts) == sorted(listed)
    assert all(v["code"] for v in verdicts)
    picked = {p["symbol"] for p in found["picks"]}
    codes = Counter(v["code"] for v in verdicts if v["symbol"] not in picked)
    assert codes == Counter(found["refused"])


def test_a_session_date_is_the_morning_after(place: Path) -> None:
    by_date = scan(place, "--json", "--deterministic", "--as-of", SESSION)
    for instant in (MORNING, "2026-10-23T09:35:00-04:00", "2026-10-23T15:35:00+02:00"):
        assert scan(place, "--json", "--deterministic", "--as-of", instant).stdout == by_date.stdout
    plain = answer(place, "--as-of", SESSION)  # the clock runs on from there
    assert plain["session"] == SESSION and MORNING <= plain["as_of"] < "2026-10-23T13:36:30Z"


def test_before_the_close_the_session_of_the_day_does_not_count(place: Path) -> None:
    assert answer(place, "--as-of", "2026-10-23T19:59:00Z")["session"] == SESSION


def test_a_warm_scan_imports_nothing_heavy(place: Path) -> None:
    program = (
        "import sys\n"
        "from scripts.scan import main\n"
        f"code = main(['--cap', '{NAMES}', '--as-of', '{SESSION}', '--json', '--top3'])\n"
        f"heavy = sorted({{m.split('.')[0] for m in sys.modules}} & set({HEAVY!r}))\n"
        "print(code, heavy)\n"
    )
    env = environment(place, PYTHONPATH=str(ROOT))
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=env, cwd=place, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout[-300:] + done.stderr


def test_a_closed_pipe_is_quiet(place: Path) -> None:
    words = [sys.executable, str(ROOT / "scripts" / "scan.py"), "--cap", "20", "--as-of", SESSION]
    with subprocess.Popen(words, env=environment(place), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_any_console_and_80_columns(place: Path, encoding: str) -> None:
    argv = ("--as-of", SESSION, "--top3", "--deterministic")
    done = scan(place, *argv, PYTHONIOENCODING=encoding, KOBE_CONFIG=str(place / "open.yaml"))
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode(encoding).splitlines()
    assert lines[0].startswith("SIMULATED | ")
    assert max(len(line) for line in lines if "open.yaml" not in line) <= 80


def test_no_keys_no_network_and_the_picks_say_simulated(place: Path) -> None:
    header, *rows = csv.reader((place / "logs" / "daily_picks.csv").read_text(encoding="utf-8").splitlines())
    assert header == [
        "as_of", "session", "data_source", "simulated", "snapshot_sha256", "symbol", "strategy", "score", "close",
        "stop", "target", "reasons",
    ]  # fmt: skip
    assert rows and {row[3] for row in rows} == {"True"}
