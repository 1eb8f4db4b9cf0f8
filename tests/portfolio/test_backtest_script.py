"""scripts/backtest_dual_strategy.py: its files, its refusals."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from core.errors import DataError, UsageError
from tests.portfolio.market import Bar, oversold, rising, weekdays

REPO = Path(__file__).resolve().parents[2]
DAYS = weekdays(232)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("backtest_script", REPO / "scripts" / "backtest_dual_strategy.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KOBE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("portfolio.backtest.controls.ENTRY_ROUNDS", 19)
    monkeypatch.setattr("portfolio.backtest.controls.WALK_ROUNDS", 3)
    rows: list[Bar] = oversold(rising(230, seed=1))
    last = rows[-1][3]
    rows += [(last, last + 0.1, last - 0.5, last)] * 2
    lines = ["symbol,date,open,high,low,close,volume"]
    for symbol, series in {"AAA": rows, "BBB": rising(232)}.items():
        lines += [f"{symbol},{day},{o!r},{h!r},{low!r},{c!r},1000000"
                  for day, (o, h, low, c) in zip(DAYS, series, strict=True)]  # fmt: skip
    path = tmp_path / "bars.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_it_writes_the_trades_and_a_summary(
    script: ModuleType, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert script.main(["--bars", str(bars), "--out", str(out), "--level", "signals", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    curves = {"trade_list.csv", "equity_curve.csv", "benchmark_curve.csv"}
    assert set(files(out)) == curves | {"summary.json", "manifest.json", "report.html"}
    [row] = rows_of(out / "trade_list.csv")
    assert (row["symbol"], row["strategy"], row["signal_date"]) == ("AAA", "ibs_rsi", str(DAYS[229]))
    promised = (
        "symbol,strategy,signal_date,entry_date,entry_price,stop,target,exit_date,exit_price,exit_reason,bars_held"
    )
    assert (out / "trade_list.csv").read_text().startswith(promised + ",quantity,costs_usd,pnl_usd,r_multiple,")
    assert said["trades"] == 1 and said["symbols"] == 2 and said["simulated"] is False
    assert said["seconds_load"] >= 0 and said["seconds_compute"] > 0 and said["trades"] == 1
    summary = json.loads((out / "summary.json").read_text())
    assert said == {**summary, "out": str(out)} | {k: said[k] for k in said if k.startswith(("seconds_", "peak_"))}
    assert not [k for k in summary if k.startswith(("seconds_", "peak_"))]  # nothing that varies is written


def test_costs_are_on_until_zero_is_asked_for_and_change_no_price(
    script: ModuleType, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {name: tmp_path / name for name in ("default", "more", "none")}
    for name, words in (("default", []), ("more", ["--costs-bps", "50"]), ("none", ["--costs-bps", "0"])):
        assert script.main(["--bars", str(bars), "--out", str(folders[name]), *words]) == 0
    paid = {name: rows_of(folder / "trade_list.csv")[0] for name, folder in folders.items()}
    costs = {name: float(row["costs_usd"]) for name, row in paid.items()}
    assert costs["none"] == 0 < costs["default"] < costs["more"]
    assert len({(row["entry_price"], row["exit_price"], row["stop"]) for row in paid.values()}) == 1
    assert json.loads((folders["none"] / "summary.json").read_text())["costs"]["charged"] is False
    assert "costs: none" in capsys.readouterr().out


@pytest.mark.parametrize("level", ["signals", "portfolio"])
def test_the_files_do_not_depend_on_workers_or_on_the_cache(
    script: ModuleType, bars: Path, tmp_path: Path, level: str
) -> None:
    (tmp_path / "vix_daily.csv").write_text("date,close\n" + "".join(f"{day},15\n" for day in DAYS))
    same = ["--bars", str(bars), "--level", level, "--start", "2022-01-03", "--end", "2022-12-31"]
    for number, words in enumerate(([], ["--workers", "2"], ["--workers", "3"])):
        assert script.main([*same, "--out", str(tmp_path / str(number)), *words]) == 0
    assert files(tmp_path / "0") == files(tmp_path / "1") == files(tmp_path / "2")
    summary = json.loads((tmp_path / "0" / "summary.json").read_text())
    assert summary["trades"] == 1 if level == "signals" else summary["refused"] == {"CAP_BELOW_ONE_SHARE": 1}


def test_the_manifest_names_everything_that_decides(script: ModuleType, bars: Path, tmp_path: Path) -> None:
    made = []
    for name, words in (("a", []), ("b", []), ("c", ["--costs-bps", "3"])):
        assert script.main(["--bars", str(bars), "--out", str(tmp_path / name), *words]) == 0
        made.append(json.loads((tmp_path / name / "manifest.json").read_text()))
    assert made[0] == made[1] != made[2]
    assert set(made[0]["hashes"]) == {"code", "config", "frozen_params", "universe"}
    assert all(len(value) == 64 for value in made[0]["hashes"].values())
    bars.write_text(bars.read_text().replace("1000000", "1000001", 1))
    assert script.main(["--bars", str(bars), "--out", str(tmp_path / "d")]) == 0
    changed = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert changed["data"]["sha256"] != made[0]["data"]["sha256"] and changed["hashes"] == made[0]["hashes"]


def test_the_portfolio_level_says_when_the_vix_is_not_known_and_opens_nothing(
    script: ModuleType, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--bars", str(bars), "--level", "portfolio", "--out", str(tmp_path / "p"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["trades"] == 0 and said["refused"]["VIX_UNKNOWN"] == 1
    assert any("VIX" in note for note in said["notes"])


def test_bad_bars_are_taken_out_at_the_portfolio_level_and_where_asked(
    script: ModuleType, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with bars.open("a") as file:
        file.write("CCC,2022-01-03,5,4,6,5,100\nCCC,2022-01-08,5,6,4,5,100\n")  # a range upside down; a Saturday
    found = {}
    for words in (
        ["--quarantine", "on"],
        [],
        ["--level", "portfolio"],
        ["--level", "portfolio", "--quarantine", "off"],
    ):
        assert script.main(["--bars", str(bars), "--out", str(tmp_path / "q"), "--json", *words]) == 0
        said = json.loads(capsys.readouterr().out)
        found[" ".join(words)] = (said["quarantined"], said["symbols"])
    cleaned = found["--quarantine on"]
    assert cleaned == found["--level portfolio"] and cleaned[1] == 2
    assert cleaned[0]["BAR_RANGE"] >= 1 and cleaned[0]["BAR_NOT_A_SESSION"] >= 1
    assert found[""] == found["--level portfolio --quarantine off"] == ({}, 3)


def test_the_default_folder_is_below_the_home_and_the_table_names_the_source(
    script: ModuleType, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--bars", str(bars), "--start", "2024-01-01", "--end", "2024-12-31", "--cap", "1"]) == 0
    folder = tmp_path / "home" / "wf_outputs" / "dual-signals-2024-01-01-2024-12-31"
    assert (folder / "trade_list.csv").read_text().count("\n") == 1
    said = capsys.readouterr().out
    assert str(bars) in said and "1 symbols" in said


@pytest.mark.parametrize(
    ("extra", "why"),
    [(["--costs-bps", "-1"], "--costs-bps"), (["--costs-bps", "nan"], "--costs-bps"), (["--cap", "0"], "--cap"),
     (["--workers", "0"], "--workers"), (["--start", "2024-02-01", "--end", "2024-01-01"], "--start")],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_read(script: ModuleType, extra: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        script.main(["--bars", "/nowhere", *extra])


def test_without_keys_the_simulated_market_is_played_for_any_dates_and_says_so(
    script: ModuleType, bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("POLYGON_API_KEY", "ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    words = ["--start", "2021-01-01", "--end", "2022-12-31", "--cap", "40", "--out", str(tmp_path / "sim")]
    assert script.main(words) == 0
    assert capsys.readouterr().out.startswith("SIMULATED")
    assert len(rows_of(tmp_path / "sim" / "trade_list.csv")) > 20
    assert script.main([*words, "--level", "portfolio", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["simulated"] is True and said["trades"] > 5 and said["notes"] == []


def test_with_keys_and_no_bars_of_these_names_it_says_what_to_do(
    script: ModuleType, bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", "k" * 12)
    monkeypatch.setattr("scripts.wiring.data_from_store", lambda *_: None)
    with pytest.raises(DataError) as caught:
        script.main(["--start", "2023-01-01", "--end", "2024-12-31", "--cap", "150"])
    assert caught.value.code == "NO_BARS" and "--bars" in caught.value.advice
