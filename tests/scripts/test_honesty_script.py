"""scripts/honesty.py, and the honesty of every backtest: verdicts, blame, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.bars_io import FIELDS, from_day
from core.errors import DataError, UsageError
from scripts import backtest_dual_strategy, honesty
from tests.portfolio.backtest.honesty import world

MINE = """
def clean(bars, *, window=3, drop=0.012):
    own = bars[bars["volume"] > 0]
    fell = (own["close"] / own["close"].shift(window) - 1 < -drop).to_numpy()
    return trades(own, fell)

def ahead(bars):
    own = bars[bars["volume"] > 0]
    return trades(own, (own["close"].shift(-3) > own["close"] * 1.01).to_numpy())

def boom(bars):
    return bars["nothing"]

def number(bars):
    return 7

def trades(own, flags):
    rows, free = [], 0
    for t in range(len(own) - 1):
        if flags[t] and t >= free:
            free = t + 5
            done = free < len(own)
            rows.append({"signal_date": own.index[t], "entry_date": own.index[t + 1],
                         "entry_price": own["open"].iloc[t + 1],
                         "exit_date": own.index[free] if done else None,
                         "exit_price": own["open"].iloc[free] if done else None, "quantity": 5, "costs_bps": 12})
    return rows
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KOBE_HOME", str(tmp_path / "home"))
    lines = ["symbol,date,open,high,low,close,volume"]
    for symbol, own in world.market().bars.items():
        for t, day in enumerate(own.dates.tolist()):
            lines.append(f"{symbol},{from_day(day)},{','.join(repr(float(getattr(own, f)[t])) for f in FIELDS)}")
    folder = tmp_path / "market"
    folder.mkdir()
    (folder / "bars.csv").write_text("\n".join(lines) + "\n")
    day = world.date_of
    (folder / "listed.csv").write_text(
        f"symbol,start_date,end_date\nAAA,2015-01-02,\nBBB,2015-01-02,\nCCC,2015-01-02,\nDDD,2015-01-02,{day(319)}\n"
    )
    (folder / "lost.csv").write_text((folder / "listed.csv").read_text() + f"GONE,2015-01-02,{day(200)}\n")
    (folder / "cut.csv").write_text(f"symbol,ex_date,ratio\nBBB,{day(260)},4\n")
    (folder / "mine.py").write_text(MINE)
    return folder


def asked(place: Path, name: str, *words: str) -> int:
    known = ["--splits", str(place / "cut.csv"), "--cuts", "4"]
    return honesty.main(
        ["--strategy", f"{place / 'mine.py'}:{name}", "--bars", str(place / "bars.csv"), *known, *words]
    )


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {check["name"]: check for check in told["checks"]} | {"verdict": told["verdict"]}


def test_a_clean_strategy_ends_with_0_and_strictly_with_1(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(place, "clean", "--membership", str(place / "listed.csv"), "--json") == 0
    found = said(capsys)
    assert found["verdict"] == "unknown" and found["label_overlap"]["code"] == "LABELS_ABSENT"
    assert found["survivorship"]["verdict"] == found["lookahead_future"]["verdict"] == "pass"
    assert asked(place, "clean", "--membership", str(place / "listed.csv"), "--strict", "--json") == 1


def test_names_that_are_missing_end_with_1(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(place, "clean", "--membership", str(place / "lost.csv"), "--json") == 1
    assert said(capsys)["survivorship"]["blame"] == "GONE"


def test_a_leak_ends_with_1_and_a_table_of_80_columns(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(place, "ahead") == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines if "data: " not in line and "mine.py" not in line)
    assert any(line.split()[:2] == ["lookahead_future", "fail"] for line in lines)
    assert any(line.startswith("lookahead_future: LOOKS_AHEAD: ") for line in lines)


def test_a_strategy_that_raises_is_a_finding(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(place, "boom") == 1
    told = capsys.readouterr().out
    assert "STRATEGY_RAISED" in told and "mine.py" in told and "Traceback" not in told
    (place / "mine.py").write_text("1 / 0\n")
    assert asked(place, "boom") == 1
    assert "ZeroDivisionError" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["number", "absent"])
def test_another_shape_is_usage(place: Path, name: str) -> None:
    with pytest.raises(UsageError):
        asked(place, name)


@pytest.mark.parametrize("spec", ["nothing", "no_such_module:f", "no/file.py:f"])
def test_a_strategy_that_is_not_there_is_usage(spec: str) -> None:
    with pytest.raises(UsageError) as refused:
        honesty.load_function(spec)
    assert refused.value.code == "STRATEGY_NAME"


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "symbol,start_date,end_date\nA,soon,\n", "symbol,x\nA,1\n"])
def test_a_membership_that_cannot_be_read_is_no_data(place: Path, content: str) -> None:
    (place / "listed.csv").write_text(content)
    with pytest.raises(DataError) as refused:
        asked(place, "clean", "--membership", str(place / "listed.csv"))
    assert refused.value.code == "TABLE_MALFORMED"


def test_a_backtest_tells_its_honesty_and_the_same_for_two_workers(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portfolio.backtest.controls.ENTRY_ROUNDS", 19)
    monkeypatch.setattr("portfolio.backtest.controls.WALK_ROUNDS", 3)
    monkeypatch.setattr("config.pin.code_sha256", lambda: "c" * 64)
    day = world.date_of
    (place / "listing_history.csv").write_text(
        f"symbol,first_seen,last_seen\nAAA,2018-01-02,{day(419)}\nBBB,2018-01-02,{day(419)}\n"
        f"CCC,2018-01-02,{day(419)}\nDDD,2018-01-02,{day(319)}\nGONE,2018-01-02,{day(100)}\n"
    )
    told = []
    for workers in ("1", "2"):
        out = tmp_path / workers
        words = ["--bars", str(place / "bars.csv"), "--workers", workers, "--out", str(out), "--json"]
        assert backtest_dual_strategy.main(words) == 0
        assert json.loads(capsys.readouterr().out)["seconds_honesty"] > 0
        told.append(json.loads((out / "summary.json").read_text())["honesty"])
    assert told[0] == told[1]
    by_name = {check["name"]: check for check in told[0]["checks"]}
    assert by_name["survivorship"]["code"] == "SURVIVORS_ONLY" and told[0]["verdict"] == "fail"
    assert by_name["costs"]["verdict"] in ("pass", "unknown")


def test_no_report_leaves_it_out(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--bars", str(place / "bars.csv"), "--no-report", "--out", str(tmp_path / "out"), "--json"]
    assert backtest_dual_strategy.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert "honesty" not in told and told["seconds_honesty"] == 0
