"""scripts/run_wf_polygon.py: its files, the same bytes however the work is spread, resuming, its refusals."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from core.bars_io import from_day
from core.clock import SystemClock
from core.errors import ConfigError, KobeError, UsageError
from core.paths import home
from portfolio.backtest.trials import TrialLedger
from tests.portfolio.backtest.drawn import drawn_bars

REPO = Path(__file__).resolve().parents[2]
SCRIPT = REPO / "scripts" / "run_wf_polygon.py"
SHORT = ["--train-days", "150", "--test-days", "30", "--folds", "4", "--no-report"]
GRID = """
common.sma_bars: [20]
ibs_rsi.ibs_below: [0.35]
ibs_rsi.rsi_below: [35.0]
turtle_soup.lookback_bars: [8]
turtle_soup.min_sweep_atr: [0.05]
ibs_rsi.stop_atr: [1.0, 2.5]
turtle_soup.target_r: [0.5, 1.5]
"""
WRITTEN = {"trade_list.csv", "equity_curve.csv", "summary.json", "manifest.json", "folds.json"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_wf_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bars, a grid, and settings that ask for few training trades."""
    folder = tmp_path_factory.mktemp("walk")
    lines = ["symbol,date,open,high,low,close,volume"]
    for symbol, own in drawn_bars(10, 420).items():
        blocks = (own.open, own.high, own.low, own.close, own.volume)
        for k, day in enumerate(own.dates.tolist()):
            lines.append(f"{symbol},{from_day(day)}," + ",".join(repr(float(block[k])) for block in blocks))
    (folder / "bars.csv").write_text("\n".join(lines) + "\n")
    (folder / "grid.yaml").write_text(GRID)
    base = (REPO / "config" / "base.yaml").read_text(encoding="utf-8")
    (folder / "base.yaml").write_text(base.replace("min_trades: 100", "min_trades: 15"), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def few_trades(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOBE_CONFIG", str(place / "base.yaml"))


def words(place: Path, out: Path, *more: str) -> list[str]:
    given = ["--bars", str(place / "bars.csv"), "--grid", str(place / "grid.yaml"), "--out", str(out)]
    return [*given, *(() if "--folds" in more else SHORT), *more]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def said_by(script: ModuleType, capsys: pytest.CaptureFixture[str], argv: list[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert script.main([*argv, "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


# ---------------------------------------------------------------- what it writes
def test_it_writes_folds_and_the_stitched_trades_and_they_agree(
    script: ModuleType, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    said = said_by(script, capsys, words(place, out))
    assert set(files(out)) == WRITTEN
    document = json.loads((out / "folds.json").read_text())
    folds, sets = document["folds"], document["sets"]
    assert len(folds) == 4 and len(sets) == 5 and [row["frozen"] for row in sets] == [False] * 4 + [True]
    assert sets[1]["parameters"]["turtle_soup.target_r"] == 1.5 and sets[1]["parameters"]["ibs_rsi.stop_atr"] == 1.0
    assert all(row["train_last"] < row["test_first"] <= row["test_last"] for row in folds)
    assert [row["test_first"] for row in folds[1:]] > [row["test_last"] for row in folds[:-1]]
    assert all(row["code"] == "" and row["train_trades"] >= 15 for row in folds)
    trades = list(csv.DictReader((out / "trade_list.csv").read_text().splitlines()))
    assert len(trades) == said["trades"] == sum(row["trades"] for row in folds) > 15
    for row in folds:
        own = [t for t in trades if row["test_first"] <= t["signal_date"] <= row["test_last"]]
        assert len(own) == row["trades"]
        assert sum(float(t["pnl_usd"] or 0) for t in own) == pytest.approx(row["pnl_usd"], abs=1e-4)
    curve = list(csv.DictReader((out / "equity_curve.csv").read_text().splitlines()))
    assert curve[0]["session"] == folds[0]["test_first"] and curve[-1]["session"] == folds[-1]["test_last"]
    assert said["walk_forward"]["combinatorial"]["splits"] == 45 and said["sets_computed"] == 5
    assert not [key for key in json.loads((out / "summary.json").read_text()) if key.startswith(("seconds_", "sets_"))]


def test_the_table_fits_80_columns_and_names_what_fell_back(
    script: ModuleType, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = (place / "base.yaml").read_text(encoding="utf-8")
    (tmp_path / "base.yaml").write_text(base.replace("min_trades: 15", "min_trades: 5000"), encoding="utf-8")
    monkeypatch.setenv("KOBE_CONFIG", str(tmp_path / "base.yaml"))
    assert script.main(words(place, tmp_path / "out")) == 0
    said = capsys.readouterr().out
    table = said.split("\nout of sample")[0].splitlines()[2:]
    assert len(table) == 2 + 4 + 1 and max(map(len, table)) <= 80
    assert table[-1] == "* TRAIN_TOO_FEW_TRADES: the frozen parameters" and "5*" in table[2]
    events = (home().logs / "events.jsonl").read_text()
    assert events.count("walk_fold_fell_back") == 4 and "TRAIN_TOO_FEW_TRADES" in events


def test_every_set_and_the_stitched_run_are_trials_and_again_are_the_same_trials(
    script: ModuleType, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        assert script.main(words(place, tmp_path / name)) == 0
        assert len(TrialLedger.of(home(), SystemClock()).recorded()) == 4 + 1 + 1
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_the_evidence_knows_the_grid_and_the_report_shows_the_folds(
    script: ModuleType, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [word for word in words(place, tmp_path / "out") if word != "--no-report"]
    said = said_by(script, capsys, argv)
    assert said["statistics"]["overfitting"]["variants"] == 4 and said["trials"]["n"] == 6
    assert set(said) >= {"controls", "benchmark", "promotion"} and not said["promotion"]["promoted"]
    honest = {check["name"]: check["verdict"] for check in said["honesty"]["checks"]}
    assert {honest[name] for name in ("runs", "lookahead_truncation", "lookahead_future", "same_bar_fill")} == {"pass"}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert (
        "Walk-forward folds" in page
        and json.loads((tmp_path / "out" / "folds.json").read_text())["folds"][0]["test_first"] in page
    )


# ---------------------------------------------------------------- spread
@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """A scheduler and two workers, each a process of its own that does not know our code; its address."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    told = folder / "scheduler.json"
    common = ["--no-dashboard", "--scheduler-file", str(told)]
    run = [sys.executable, "-m"]
    scheduler = [*run, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", *common]
    worker = [*run, "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1",
              "--local-directory", str(folder), *common]  # fmt: skip
    processes = []
    try:
        with (folder / "dask.log").open("wb") as log:
            for command in (scheduler, worker, worker):
                processes.append(subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log))
        until = time.monotonic() + 60
        while not told.exists() or not told.read_text().strip():
            assert time.monotonic() < until, (folder / "dask.log").read_text()
            time.sleep(0.05)
        yield json.loads(told.read_text())["address"]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait(timeout=30)


def test_one_worker_two_workers_and_a_dask_cluster_write_the_same_bytes(
    script: ModuleType, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def in_home(name: str, *more: str) -> dict[str, Any]:
        monkeypatch.setenv("KOBE_HOME", str(tmp_path / f"home-{name}"))
        return said_by(script, capsys, [*words(place, tmp_path / name), *more])

    computed = [in_home("one")["sets_computed"], in_home("two", "--workers", "2")["sets_computed"]]
    with monkeypatch.context() as elsewhere:  # where no system forks: threads
        elsewhere.setattr("scripts.walk_engines.multiprocessing.get_start_method", lambda: "spawn")
        elsewhere.setattr("scripts.walk_engines._forked", None)
        computed.append(in_home("threads", "--workers", "2")["sets_computed"])
    with cluster(tmp_path) as address:
        computed.append(in_home("dask", "--engine", "dask", "--scheduler", address)["sets_computed"])
        monkeypatch.setattr("scripts.walk_engines._checked", lambda *_: False)  # workers that do not see the file
        computed.append(in_home("sent", "--engine", "dask", "--scheduler", address)["sets_computed"])
    assert computed == [5] * 5
    for name in ("two", "threads", "dask", "sent"):
        assert files(tmp_path / name) == files(tmp_path / "one"), name


def test_a_worker_with_other_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from config.pin import code_sha256
    from scripts import walk_engines

    class Client:
        def __init__(self, told: dict[str, Any]) -> None:
            self.told = told

        def register_plugin(self, *_: Any, **__: Any) -> None:
            """The real one is in the test above."""

        def run(self, *_: Any, **__: Any) -> dict[str, Any]:
            return self.told

    import numpy as np

    ours, file = (code_sha256(), np.__version__), walk_engines.PanelFile("x", "y")
    assert walk_engines._checked(Client({"a": (*ours, True), "b": (*ours, True)}), file) is True
    assert walk_engines._checked(Client({"a": (*ours, True), "b": (*ours, False)}), file) is False
    for bad in (("0" * 64, ours[1], True), (ours[0], "1.0", True), ModuleNotFoundError("config")):
        with pytest.raises(ConfigError, match="b cannot work for us") as caught:
            walk_engines._checked(Client({"a": (*ours, True), "b": bad}), file)
        assert caught.value.code == "DASK_WORKER_DIFFERS"


def test_a_scheduler_that_is_not_there_is_one_line(
    script: ModuleType, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.walk_engines.CONNECT_S", 0.2)
    with pytest.raises(ConfigError) as caught:
        script.main([*words(place, tmp_path / "out"), "--engine", "dask", "--scheduler", "tcp://127.0.0.1:1"])
    assert caught.value.code == "DASK_UNREACHABLE" and "127.0.0.1:1" in str(caught.value)


# ---------------------------------------------------------------- resuming
def units(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "walk_forward").glob("*/*.unit"))


def test_a_run_that_was_killed_goes_on_and_writes_the_same_bytes(
    script: ModuleType, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID.replace("[1.0, 2.5]", str([round(1.0 + k / 100, 2) for k in range(60)])))
    argv = [*words(place, tmp_path / "killed"), "--grid", str(grid)]
    killed = tmp_path / "home-killed"
    env = {**os.environ, "KOBE_HOME": str(killed)}
    with subprocess.Popen([sys.executable, str(SCRIPT), *argv], env=env, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while len(units(killed)) < 3 and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.005)
        process.kill()
    assert process.returncode == (-signal.SIGKILL if os.name == "posix" else 1)  # it was not done yet
    assert not (tmp_path / "killed").exists()
    done = len(units(killed))
    monkeypatch.setenv("KOBE_HOME", str(killed))
    said = said_by(script, capsys, argv)
    assert said["sets_resumed"] == done >= 3 and said["sets_computed"] == 121 - done > 0
    monkeypatch.setenv("KOBE_HOME", str(tmp_path / "home-whole"))
    argv[argv.index("--out") + 1] = str(tmp_path / "whole")
    assert said_by(script, capsys, argv)["sets_resumed"] == 0
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.mark.skipif(os.name == "nt", reason="no process groups there, and its workers are threads")
def test_a_run_that_was_killed_leaves_no_worker_behind(place: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID.replace("[1.0, 2.5]", str([round(1.0 + k / 100, 2) for k in range(60)])))
    env = {**os.environ, "KOBE_HOME": str(tmp_path / "home")}
    argv = [sys.executable, str(SCRIPT), *words(place, tmp_path / "out"), "--grid", str(grid), "--workers", "2"]
    with subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        until = time.monotonic() + 60
        while len(units(tmp_path / "home")) < 3 and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    until = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(process.pid, 0)
            time.sleep(0.02)


@pytest.mark.parametrize(
    ("more", "resumed"),
    [([], 5), (["--workers", "2"], 5), (["--costs-bps", "7"], 0), (["--folds", "3"], 0), (["--cap", "9"], 0),
     (["--train-days", "140"], 0), (["--quarantine", "on"], 0), (["--end", "2023-07-20"], 0)],
)  # fmt: skip
def test_finished_sets_are_used_again_for_the_same_question_only(
    script: ModuleType, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], resumed: int
) -> None:
    assert said_by(script, capsys, words(place, tmp_path / "a"))["sets_computed"] == 5
    shorter = words(place, tmp_path / "b")
    assert said_by(script, capsys, [*shorter, *more])["sets_resumed"] == resumed


def test_other_data_code_or_parameters_are_computed_anew(
    script: ModuleType, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said_by(script, capsys, words(place, tmp_path / "a"))["sets_computed"] == 5
    wider = tmp_path / "wider.yaml"
    wider.write_text(GRID.replace("[0.5, 1.5]", "[0.5, 0.75, 1.5]"))
    said = said_by(script, capsys, [*words(place, tmp_path / "b"), "--grid", str(wider)])
    assert (said["sets_resumed"], said["sets_computed"]) == (5, 2)  # a wider grid asks only for what is new
    bars = tmp_path / "bars.csv"
    bars.write_text((place / "bars.csv").read_text().replace(",60", ",61", 1))
    assert said_by(script, capsys, [*words(place, tmp_path / "c"), "--bars", str(bars)])["sets_resumed"] == 0
    monkeypatch.setattr("config.pin.code_sha256", lambda *_: "0" * 64)
    assert said_by(script, capsys, words(place, tmp_path / "d"))["sets_resumed"] == 0


@pytest.mark.parametrize("damage", [b"", b"short", b"flip"])
def test_a_damaged_unit_is_told_and_worked_out_again(
    script: ModuleType, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: bytes
) -> None:
    script.main(words(place, tmp_path / "a"))
    path = units(home().root)[2]
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:] if damage == b"flip" else damage)
    said = said_by(script, capsys, words(place, tmp_path / "b"))
    assert (said["sets_resumed"], said["sets_computed"]) == (4, 1)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert "WALK_UNIT_DAMAGED" in (home().logs / "errors.jsonl").read_text()


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ibs_rsi.stop_atrs: [1.0]", "ibs_rsi.stop_atrs is no parameter; the nearest is ibs_rsi.stop_atr"),
        ("stop_atr: [1.0]", "stop_atr is no parameter"),
        ("ibs_rsi.stop_atr: 1.0", "must be a list of values"),
        ("ibs_rsi.stop_atr: []", "must be a list of values"),
        ("ibs_rsi.stop_atr: [0]", "must be positive"),
        ("ibs_rsi.stop_atr: [.inf]", "must be positive and finite"),
        ("ibs_rsi.ibs_below: [1.01]", "must be at most 1"),
        ("ibs_rsi.rsi_below: [100.5]", "must be at most 100"),
        ("ibs_rsi.time_stop_bars: [2.5]", "must be a whole number"),
        ("ibs_rsi.time_stop_bars: [true]", "must be a whole number"),
        ("common.sma_bars: [2001]", "must be at most 2000"),
        ("ibs_rsi.stop_atr: [1.0, 1]", "names a value twice"),
        ("ibs_rsi.stop_atr: [1.0]\nibs_rsi.stop_atr: [2.0]", "ibs_rsi.stop_atr"),
        ('{"ibs_rsi.stop_atr": [1.0], "ibs_rsi.time_stop": [3]}', "ibs_rsi.time_stop is no parameter"),
        ("- 1", "key: value"),
        ("ibs_rsi: {stop_atr: [1.0]}\nibs_rsi.stop_atr: [2.0]", "ibs_rsi.stop_atr stands twice"),
        ("ibs_rsi: {stop: [1.0]}", "ibs_rsi.stop is no parameter"),
        ("ibs_rsi: {}", "makes 0 sets"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_in_one_line(
    script: ModuleType, place: Path, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        script.main([*words(place, tmp_path / "out"), "--grid", str(tmp_path / "bad.yaml")])
    assert said in str(caught.value) and "bad.yaml" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text", ["ibs_rsi.ibs_below: [1.0]", '{"ibs_rsi.rsi_below": [100]}', "common.sma_bars: [2000]"]
)
def test_a_value_at_its_bound_is_possible_in_yaml_and_in_json(text: str, tmp_path: Path) -> None:
    from config.parameter_grid import load_grid
    from config.strategy_params import load_strategy_params

    (tmp_path / "grid.json").write_text(text)
    assert len(load_grid(tmp_path / "grid.json", load_strategy_params()).sets) == 1


def test_numbers_below_their_section_are_the_same_sets_as_dotted_names(tmp_path: Path) -> None:
    from config.parameter_grid import load_grid
    from config.strategy_params import load_strategy_params

    (tmp_path / "a").write_text("ibs_rsi.stop_atr: [1.0, 2.0]\nturtle_soup.target_r: [0.5, 1.0]\n")
    (tmp_path / "b").write_text('{"ibs_rsi": {"stop_atr": [1, 2.0]}, "turtle_soup": {"target_r": [0.5, 1.0]}}')
    flat, nested = (load_grid(tmp_path / name, load_strategy_params()) for name in "ab")
    assert flat == nested and len(flat.sets) == 4
    assert flat.values_of(2) == {"ibs_rsi.stop_atr": 2.0, "turtle_soup.target_r": 0.5}
    assert flat.sets[2].ibs_rsi.stop_atr == 2.0 and flat.sets[2].turtle_soup.target_r == 0.5


def test_more_sets_than_anybody_should_try_are_refused() -> None:
    from config.parameter_grid import SETS_MOST, grid_of
    from config.strategy_params import load_strategy_params

    frozen = load_strategy_params()
    values = {"ibs_rsi.stop_atr": [1.0 + k / 100 for k in range(SETS_MOST // 2)], "turtle_soup.target_r": [0.5, 1.0]}
    assert len(grid_of(values, frozen, "x").sets) == SETS_MOST
    values["turtle_soup.target_r"] = [0.5, 1.0, 1.5]
    with pytest.raises(ConfigError, match="sets"):
        grid_of(values, frozen, "x")


@pytest.mark.parametrize(
    ("extra", "why"),
    [(["--folds", "0"], "--folds"), (["--train-days", "19"], "--train-days"), (["--test-days", "0"], "--test-days"),
     (["--workers", "65"], "--workers"), (["--scheduler", "tcp://x:1"], "--engine dask"), (["--cap", "0"], "--cap"),
     (["--costs-bps", "nan"], "--costs-bps"), (["--start", "2024-02-01", "--end", "2024-01-01"], "--start")],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_read(script: ModuleType, extra: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        script.main(["--bars", "/nowhere", *extra])


def test_folds_that_do_not_fit_say_how_many_sessions_they_need(script: ModuleType, place: Path, tmp_path: Path) -> None:
    with pytest.raises(KobeError) as caught:
        script.main(words(place, tmp_path / "out", "--folds", "9", "--train-days", "150", "--test-days", "30"))
    assert caught.value.code == "FOLDS_DO_NOT_FIT" and "425 sessions" in str(caught.value)
    assert "there are 420" in str(caught.value)


def test_folds_alone_share_what_the_training_leaves_over(
    script: ModuleType, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = words(place, tmp_path / "out", "--folds", "3", "--train-days", "150", "--no-report")
    block = said_by(script, capsys, argv)["walk_forward"]
    assert (block["folds"], block["test_days"]) == (3, (420 - 155) // 3)
