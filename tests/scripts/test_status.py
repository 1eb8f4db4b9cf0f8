"""status.py: one screen, three answers, whatever is down or damaged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from core.clock import SteppedClock
from execution.observe.page import render
from execution.observe.readiness import readiness
from execution.observe.screen import banner, screen
from scripts import status
from tests.fakes.observed import STALLED_AFTER_S, Observed, a_pick, at_ten, hostile, ny

ROOT = Path(__file__).resolve().parents[2]


def shown(made: Observed) -> str:
    first = banner(made.mode, "embedded venue", simulated=made.simulated)
    return f"{first}\n{screen(made.look(), made.ready(), made.observer().alerts())}"


def crowded(root: Path) -> Observed:
    """More of everything than a screen has room for."""
    made = at_ten(root)
    for n in range(30):
        symbol = f"SYM{n}"
        made.buy(symbol)
        made.journal.append("symbol_locked", {"symbol": symbol, "code": "UNKNOWN_CORPORATE_ACTION"})
        made.log("errors.jsonl", "something_went_badly_wrong", code="SOME_LONG_CODE", detail="x" * 500)
    made.scanned(*(a_pick(f"d{n}", symbol=f"SYM{n}") for n in range(30)), source="a-rather-long-name-of-a-source")
    for n in range(6):
        made.journal.append("break_found", {"symbol": f"SYM{n}", "kind": "POSITION_QUANTITY", "cause": "UNEXPLAINED"})
    return made


@pytest.mark.parametrize("world", [at_ten, crowded, hostile, lambda p: Observed(p, SteppedClock(ny("09:00")))])
def test_every_line_fits_and_every_letter_is_plain(tmp_path: Path, world: object) -> None:
    text = shown(world(tmp_path))  # type: ignore[operator]
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) <= 60
    text.encode("cp1252")
    assert all(line.isprintable() for line in lines), "no sign that moves a cursor"


def test_a_sound_morning_fits_on_one_screen(tmp_path: Path) -> None:
    assert len(shown(at_ten(tmp_path)).splitlines()) <= 34


def test_it_answers_what_the_page_answers(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    made.log("errors.jsonl", "odd_thing", code="ODD", detail="something odd")
    text, ready = shown(made), made.ready()
    page = re.sub(r"<[^>]+>", " ", render(made.look(), ready).decode())
    for fact in ("ARMED", "SIMULATED", "AAA", "50.05", "45.00", "1,000.00 USD", "100,000.00 USD", "in step",
                 "bought 1 of 1", "09:35", "15.50", "ODD", "LLM_ABSENT", "8 records", "unknown"):  # fmt: skip
        assert fact in text, fact
        assert fact in page, fact


def test_alerts_that_stand_are_on_the_screen(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    made.alerts(*(made.alert(f"a{n}") for n in range(6)), made.alert("worst", "critical"))
    text = shown(made)
    assert "7 standing" in text and "critical since 10:00: words of worst" in text and "and 3 more" in text


def test_an_unknown_value_is_never_shown_as_zero(tmp_path: Path) -> None:
    text = shown(Observed(tmp_path, SteppedClock(ny("09:00"))))
    assert "unknown (JOURNAL_ABSENT)" in text and "unknown (NO_SCAN)" in text and "0.00 USD of" not in text


# ---------------------------------------------------------------- the command
def test_the_three_exit_codes(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    code = lambda: status.code_of(made.ready())  # noqa: E731
    assert code() == 0
    made.done("2024-03-05T10:30", breaks=1)
    assert code() == 1
    made.home.kill_switch.touch()
    assert code() == 2


def run(home: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    keys = dict.fromkeys(("POLYGON_API_KEY", "ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY", "KOBE_SIDECAR_TOKEN"), "")
    env = {**os.environ, **keys, "KOBE_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    words = [sys.executable, str(ROOT / "scripts" / "status.py"), *argv]
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_it_works_on_an_empty_home_and_makes_nothing(warm_home: Path) -> None:
    done = run(warm_home)
    assert done.returncode == 2 and done.stderr == ""
    assert "STOP JOURNAL_ABSENT" in done.stdout and done.stdout.startswith("SIMULATED")
    assert not (warm_home / "state").exists()


def test_it_works_on_a_damaged_home(warm_home: Path) -> None:
    made = at_ten(warm_home)
    made.home.journal.write_bytes(b"nonsense\n")
    (made.home.state / "runner.json").write_bytes(b"{")
    done = run(warm_home)
    assert done.returncode == 2 and done.stderr == ""
    assert "STOP JOURNAL_DAMAGED" in done.stdout and "STOP RUNNER_FILE_DAMAGED" in done.stdout


def test_json_is_one_line_with_every_fact(warm_home: Path) -> None:
    at_ten(warm_home)
    done = run(warm_home, "--json")
    assert done.stdout.count("\n") == 1
    found = json.loads(done.stdout)
    assert found["exit"] == done.returncode == 2  # that morning was long ago, and its runner has not moved since
    assert found["stops"][0]["code"] == "RUNNER_STALLED"
    assert found["facts"]["book"]["positions"][0]["symbol"] == "AAA"
    assert found["facts"]["unknown"]["llm.cost_usd_today"] == "LLM_ABSENT"


@pytest.mark.parametrize("argv", [["--watch", "0"], ["--watch", "x"], ["--what"], ["--mode", "demo"]])
def test_usage_is_64_because_2_says_stop(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        status.parser().parse_args(argv)
    assert caught.value.code == 64
    assert "usage" in capsys.readouterr().err


def test_watching_looks_again_and_costs_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = at_ten(tmp_path)
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    waits: list[float] = []

    class Clock:
        def sleep(self, seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                raise KeyboardInterrupt
            made.done(f"2024-03-05T1{len(waits)}:30")

    monkeypatch.setattr("core.clock.SystemClock", Clock)
    monkeypatch.setattr("scripts.observing.open_observer", lambda context, times: made.observer())
    monkeypatch.setattr("scripts.wiring.open_context", lambda args, mode: _Context())
    with pytest.raises(KeyboardInterrupt):
        status.main(["--watch", "2"])
    out = capsys.readouterr().out
    assert waits == [2.0, 2.0, 2.0] and out.count("SIMULATED |") == 3
    assert "8 records" in out and "9 records" in out and "10 records" in out


class _Context:
    class settings:
        class sidecar:
            stalled_after_s = STALLED_AFTER_S


def test_readiness_is_the_same_function_everywhere(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    assert readiness(made.look(), stalled_after_s=STALLED_AFTER_S) == made.ready()
