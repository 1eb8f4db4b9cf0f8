"""scripts/backtest_dual_strategy.py: the trial comes first, then the evidence, the report, and the verdict in words."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from core import cli
from core.paths import home
from portfolio.backtest.trials import trials_path
from scripts import backtest_dual_strategy as script
from tests.portfolio.backtest.test_controls import a_market

EVIDENCE = {"statistics", "trials", "controls", "benchmark", "promotion"}


@pytest.fixture
def bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight symbols of drawn bars, with a VIX beside them; few rounds, and code that does not change meanwhile."""
    monkeypatch.setenv("KOBE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("portfolio.backtest.controls.ENTRY_ROUNDS", 19)
    monkeypatch.setattr("portfolio.backtest.controls.WALK_ROUNDS", 3)
    monkeypatch.setattr("config.pin.code_sha256", lambda: "c" * 64)
    panel = a_market(0.01, n_symbols=8, n_bars=500)
    days = [date(1970, 1, 1) + timedelta(days=int(day)) for day in panel.sessions]
    folder = tmp_path / "market"
    folder.mkdir()
    lines = ["symbol,date,open,high,low,close,volume"]
    for k, symbol in enumerate(panel.symbols):
        columns = (panel.open, panel.high, panel.low, panel.close, panel.volume)
        lines += [f"{symbol},{day},{','.join(repr(float(c[t, k])) for c in columns)}" for t, day in enumerate(days)]
    (folder / "bars.csv").write_text("\n".join(lines) + "\n")
    (folder / "vix_daily.csv").write_text("date,close\n" + "".join(f"{day},15\n" for day in days))
    return folder / "bars.csv"


def a_run(bars: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert script.main(["--bars", str(bars), "--json", *words]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def recorded() -> int:
    path = trials_path(home())
    if not path.exists():
        return 0
    return sum(len(json.loads(line)["body"].get("trials", ())) for line in path.read_text().splitlines())


def spy_rows(bars: Path) -> str:
    """SPY made of the rows of the first symbol."""
    rows = [line for line in bars.read_text().splitlines() if line.startswith("S00,")]
    return "\n".join(["symbol,date,open,high,low,close,volume", *rows]).replace("S00,", "SPY,") + "\n"


@pytest.mark.parametrize("level", ["signals", "portfolio"])
def test_a_run_is_recorded_judged_and_reported(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], level: str
) -> None:
    out = tmp_path / "out"
    said = a_run(bars, capsys, "--level", level, "--out", str(out))
    assert set(said) >= EVIDENCE and said["seconds_evidence"] > 0
    assert recorded() == said["promotion"]["verdicts"][0]["n"] == 1
    assert said["statistics"]["sharpe"]["dsr"]["n"] == 1
    names = [control["name"] for control in said["controls"]["side_by_side"]]
    if said["statistics"]["closed"]:
        assert names == ["random_entries", "random_walks", "buy_and_hold"]
    assert (out / "report.html").stat().st_size < 2_000_000
    assert json.loads((out / "manifest.json").read_text())["trials"]["n"] == 1
    days = (out / "equity_curve.csv").read_text().splitlines()
    beside = (out / "benchmark_curve.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in days] == [row.split(",")[0] for row in beside]


def test_no_report_leaves_the_evidence_out_but_not_the_trial(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = a_run(bars, capsys, "--no-report", "--out", str(tmp_path / "out"))
    assert not EVIDENCE & set(said) and said["trades"] > 0
    assert said["seconds_evidence"] == 0 and recorded() == 1
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"trade_list.csv", "equity_curve.csv", "summary.json", "manifest.json"}


def test_the_same_run_counts_once_and_another_one_deflates_it(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--no-report", "--out", str(tmp_path / "out"))
    for _ in range(2):
        a_run(bars, capsys, *words)
    assert recorded() == 1
    a_run(bars, capsys, *words, "--costs-bps", "5")  # the default of the settings, said aloud
    assert recorded() == 1
    for bps in ("7", "9"):
        a_run(bars, capsys, *words, "--costs-bps", bps)
    said = a_run(bars, capsys, "--out", str(tmp_path / "out"))
    assert recorded() == 3 and said["statistics"]["sharpe"]["dsr"]["n"] == 3
    psr, dsr = (said["statistics"]["sharpe"][name]["value"] for name in ("psr", "dsr"))
    assert psr > dsr


def test_a_ledger_that_cannot_be_read_stops_the_run_before_anything_is_written(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    a_run(bars, capsys, "--out", str(tmp_path / "first"))
    path = trials_path(home())
    path.write_bytes(path.read_bytes().replace(b"backtest_trial", b"backtest_trail"))
    words = ["--bars", str(bars), "--out", str(out), "--costs-bps", "9"]
    assert cli.run(lambda: script.main(words)) == 11
    assert not (out / "summary.json").exists()


def test_the_terminal_shows_the_verdict_and_figures_with_their_n_in_80_columns(
    bars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--bars", str(bars), "--start", "2021-01-01"]) == 0
    lines = capsys.readouterr().out.splitlines()
    own = [
        line for line in lines if not line.startswith(("data: ", "written: ", "report: "))
    ]  # paths have their length
    assert all(len(line) <= 80 for line in own)
    assert any(line.startswith("NOT PROMOTED") for line in lines)
    for name in ("win rate", "profit factor", "Sharpe ratio", "more than luck (DSR)"):
        assert any(line.strip().startswith(name) and "N = " in line for line in lines), name


# ---------------------------------------------------------------- SPY
def benchmark(bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    found: dict[str, Any] = a_run(bars, capsys, "--out", str(tmp_path / "out"), *words)["benchmark"]
    return found


def test_spy_is_found_in_a_file_of_benchmarks_beside_the_bars(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = benchmark(bars, tmp_path, capsys)
    assert (without["shown"], without["spy"]["code"]) == ("equal_weight", "SPY_BARS_ABSENT")
    (bars.parent / "benchmarks_daily.csv").write_text(spy_rows(bars))
    found = benchmark(bars, tmp_path, capsys)
    assert (found["shown"], found["spy"]["source"]) == ("spy", "benchmarks_daily.csv")
    assert "SPY (price only)" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_spy_is_found_among_the_bars_though_the_universe_leaves_it_out(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars.write_text(bars.read_text() + "\n".join(spy_rows(bars).splitlines()[1:]) + "\n")
    assert benchmark(bars, tmp_path, capsys)["spy"]["source"] == str(bars)
    universe = tmp_path / "universe.csv"
    universe.write_text("symbol,sector\nS01,Tech\nS02,Tech\nS03,Tech\n")
    named = benchmark(bars, tmp_path, capsys, "--universe", str(universe))
    assert named["spy"]["source"] == "bars.csv" and "names" not in named


def test_spy_is_found_in_a_folder_of_files(bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for symbol in ("S01", "S02"):
        rows = [line.split(",", 1)[1] for line in bars.read_text().splitlines() if line.startswith(("symbol", symbol))]
        (folder / f"{symbol}.csv").write_text("\n".join(rows) + "\n")
    (folder / "benchmarks_daily.csv").write_text(spy_rows(bars))  # not a symbol of that name
    found = a_run(folder, capsys, "--out", str(tmp_path / "out"))
    assert found["symbols"] == 2 and found["benchmark"]["spy"]["source"] == "benchmarks_daily.csv"


def test_a_benchmark_file_that_cannot_be_read_is_absent_with_a_code(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bars.parent / "benchmarks_daily.csv").write_text(
        "symbol,date,open,high,low,close,volume\nSPY,2021-01-04,x,1,1,1,1\n"
    )
    found = benchmark(bars, tmp_path, capsys)
    assert (found["shown"], found["spy"]["code"]) == ("equal_weight", "SPY_BARS_UNREADABLE")


# ---------------------------------------------------------------- parity
def test_the_newest_parity_of_the_home_is_in_the_summary(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"start": "2021-01-04", "end": "2022-01-31", "decisions": 9, "equal": 9, "differing": []}
    path = home().wf_outputs / "parity-x" / "parity.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**found, "start": "1990-01-01", "end": "1990-01-31"}))
    assert "parity" not in a_run(bars, capsys, "--out", str(tmp_path / "out"))
    path.write_text(json.dumps({**found, "start": "1990-01-01", "end": "2099-01-31"}))
    assert a_run(bars, capsys, "--out", str(tmp_path / "out"))["parity"]["decisions"] == 9
    assert "9 of 9 recorded decisions" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
