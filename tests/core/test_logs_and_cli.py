"""Telemetry never raises and never shows a key; scripts end with one line and the right code; any console can print."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core import cli, logs
from core.clock import SteppedClock
from core.errors import ConfigError, Exit, OutcomeUnknown, StateLocked
from core.paths import home

REPO = Path(__file__).resolve().parents[2]
AT = datetime(2024, 3, 5, 14, 35, tzinfo=UTC)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    monkeypatch.setattr(logs, "_target", None)
    return tmp_path


def rows(place: Path, name: str) -> list[dict[str, Any]]:
    path = place / "logs" / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def configured() -> None:
    logs.configure(home(), SteppedClock(AT), run_id="r1", mode="paper")


# ---------------------------------------------------------------- logs
def test_a_line_carries_when_what_run_and_mode(place: Path) -> None:
    configured()
    logs.event("order_refused", code="VIX_UNKNOWN", price=Decimal("1.10"), on=date(2024, 3, 5), at="mine", name="n")
    logs.trade_event("trade_opened", symbol="AAPL")
    (row,) = rows(place, "events.jsonl")
    assert row == {
        "at": "2024-03-05T14:35:00.000000Z", "event": "order_refused", "run_id": "r1", "mode": "paper",
        "code": "VIX_UNKNOWN", "price": "1.10", "on": "2024-03-05", "at_": "mine", "name": "n",
    }  # fmt: skip
    assert rows(place, "trades.jsonl")[0]["symbol"] == "AAPL"


def test_keys_are_masked_in_every_field(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", "canary-0123456789")
    configured()
    logs.event("x", deep={"url": ["https://x?apiKey=canary-0123456789"]}, other=object(), text="canary-0123456789")
    logging.getLogger("urllib3").warning("retry %s", "https://x?apiKey=canary-0123456789")
    text = (place / "logs" / "events.jsonl").read_text()
    assert "canary" not in text and "library_warned" in text


def test_telemetry_never_raises(place: Path) -> None:
    logs.event("dropped_before_configure")
    configured()
    logs.event("odd", nan=float("nan"), thing=object(), naive=datetime(2024, 1, 1), bytes_=b"x")
    assert len(rows(place, "events.jsonl")) == 1
    (place / "logs" / "trades.jsonl").mkdir()
    logs.trade_event("lost")
    assert logs.counters()[("log_lines_lost", (("file", "trades.jsonl"),))] >= 1


def test_counters_tell_labels_apart() -> None:
    before = logs.counters().get(("test_metric", (("code", "A"),)), 0)
    logs.count("test_metric", code="A")
    logs.count("test_metric", 2, code="A")
    logs.count("test_metric", code="B")
    assert logs.counters()[("test_metric", (("code", "A"),))] == before + 3


# ---------------------------------------------------------------- run
@pytest.mark.parametrize(
    "error", [ConfigError("bad α"), StateLocked("held"), OutcomeUnknown("live?", code="POST_TIMEOUT")]
)
def test_a_known_failure_is_one_line_and_its_code(error: Any, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise error

    assert cli.run(main) == error.exit_code
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == f"kobe: {error.code}: {error} — {error.advice}\n"
    (row,) = rows(place, "errors.jsonl")
    assert row["code"] == error.code and "traceback" not in row


def test_a_bug_is_70_with_its_traceback_in_the_log_only(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", "canary-0123456789")

    def main() -> int:
        raise ValueError("two\nlines canary-0123456789")

    assert cli.run(main) == 70
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err and "canary" not in err
    (row,) = rows(place, "errors.jsonl")
    assert "Traceback" in row["traceback"] and "canary" not in json.dumps(row)


@pytest.mark.parametrize(
    ("ending", "code"),
    [(KeyboardInterrupt(), 130), (SystemExit(2), 2), (SystemExit(None), 0), (SystemExit("words"), 1)],
)
def test_other_endings(ending: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise ending

    assert cli.run(main) == code
    assert cli.run(lambda: Exit.NO) == 1


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, '.'); from core import cli\n"
        "def main():\n"
        "    for _ in range(20000): cli.out('x' * 100)\n"
        "    return 0\n"
        "sys.exit(cli.run(main))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(30) == cli.PIPE_CLOSED


# ---------------------------------------------------------------- printing
@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "✓ a → b ≥ 1 α"), ("cp1252", "ok a -> b >= 1 ?"), ("ascii", "ok a -> b >= 1 ?")]
)
def test_P31_any_console_can_print(monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, newline="\n"))
    cli.out("✓ a → b ≥ 1 α")
    sys.stdout.flush()
    assert raw.getvalue().decode(encoding) == shown + "\n"


def test_P31_what_cp1252_can_spell_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.printable("a — b € é", "cp1252") == "a — b € é"
    assert cli.printable("é", None) == "?" and cli.printable("✓", "no-such-codec") == "ok"


def test_json_is_one_canonical_line(capsys: pytest.CaptureFixture[str]) -> None:
    cli.print_json({"b": Decimal("1.10"), "a": [date(2024, 3, 5), None, "é"]})
    assert capsys.readouterr().out == '{"a":["2024-03-05",null,"\\u00e9"],"b":"1.10"}\n'
    with pytest.raises(ValueError, match="JSON"):
        cli.print_json({"x": float("nan")})


def test_a_date_that_is_none_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--date", type=cli.day)
    assert asked.parse_args(["--date", "2026-10-23"]).date == date(2026, 10, 23)
    with pytest.raises(SystemExit) as ended:
        asked.parse_args(["--date", "2026-02-30"])
    assert ended.value.code == 2
    assert "'2026-02-30' is not a date, for instance 2026-10-23" in capsys.readouterr().err


def test_a_table_is_aligned_numbers_to_the_right() -> None:
    shown = cli.table(["symbol", "price"], [["AAPL", "10.10"], ["B", "1,200"], ["C", None]]).splitlines()
    assert shown == ["symbol  price", "------  -----", "AAPL    10.10", "B       1,200", "C"]
    assert cli.table(["a"], []) == "a\n-"


def test_a_table_fits_its_width() -> None:
    shown = cli.table(["a", "long"], [["x", "word " * 40]], width=40).splitlines()
    assert max(map(len, shown)) <= 40 and shown[-1].endswith("~")


def test_progress_is_silent_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with cli.progress() as tick:
        tick(1, 2, "x")
    assert capsys.readouterr().err == ""
