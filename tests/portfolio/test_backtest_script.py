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


def test_it_writes_the_trades_and_a_summary(
    script: ModuleType, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert script.main(["--bars", str(bars), "--out", str(out), "--level", "signals", "--json"]) == 0
    rows = list(csv.DictReader((out / "trade_list.csv").read_text(encoding="utf-8").splitlines()))
    assert [(r["symbol"], r["strategy"], r["signal_date"]) for r in rows] == [("AAA", "ibs_rsi", str(DAYS[229]))]
    summary = json.loads(capsys.readouterr().out)
    assert summary["trades"] == 1 and summary["symbols"] == 2 and summary["simulated"] is False


def test_the_default_folder_is_below_the_home_and_the_table_names_the_source(
    script: ModuleType, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--bars", str(bars), "--start", "2024-01-01", "--end", "2024-12-31", "--cap", "1"]) == 0
    folder = tmp_path / "home" / "wf_outputs" / "dual-signals-2024-01-01-2024-12-31"
    assert (folder / "trade_list.csv").read_text().count("\n") == 1
    assert str(bars) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "why"),
    [(["--level", "portfolio"], "later version"), (["--cap", "0"], "--cap"), (["--workers", "2"], "--workers"),
     (["--start", "2024-02-01", "--end", "2024-01-01"], "--start")],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_read(script: ModuleType, extra: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        script.main(["--bars", "/nowhere", *extra])


def test_an_empty_store_says_what_to_do(script: ModuleType, bars: Path) -> None:
    with pytest.raises(DataError) as caught:
        script.main(["--start", "2023-01-01", "--end", "2024-12-31", "--cap", "150"])
    assert caught.value.code == "NO_BARS" and "--bars" in caught.value.advice
