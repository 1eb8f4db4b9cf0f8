"""Runbook lines are promises: each one that this version covers is run here as the runbook writes it.

Only `python` is replaced by this interpreter. Lines for later versions are listed; a line of the runbook that is in no
list fails the test, so that a new one cannot be forgotten.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.clock import SystemClock

ROOT = Path(__file__).resolve().parents[1]
RUNBOOK = ROOT.parent / "shared" / "runbook.md"

COVERED = {
    "python scripts/reconcile_alpaca.py": {0},
    "python scripts/reconcile_alpaca.py --force-sync": {0},
    "python scripts/scan.py --cap 900 --deterministic --top3": {0},
    "python scripts/scan.py --cap 100 --top3": {0},
    "python scripts/preflight.py --all": {0},
    "python scripts/preflight.py --cognitive": {0},
    "python scripts/preflight.py --apis": {0},
    "python scripts/preflight.py --data": {0},
    "python scripts/preflight_live.py --mode live": {1},  # without keys of a live account: it says so, and arms nothing
    "python scripts/cancel_all.py": {0},
    "python scripts/close_all_positions.py --confirm": {0},
    "python scripts/verify_hash_chain.py": {0},
    "python scripts/reconcile_alpaca.py --full": {0},
    "python scripts/check_orphaned_orders.py": {0},
    "python scripts/backtest_dual_strategy.py --start 2023-01-01 --end 2024-12-31 --cap 150": {0},
    "python scripts/run_wf_polygon.py": {0},
    "python -c \"from data.providers.polygon_eod import get_vix_level; print(f'VIX: {get_vix_level()}')\"": {0},
    'python -c "from data.providers.multi_source import get_provider_stats; print(get_provider_stats())"': {0},
    "python scripts/backup.py --full": {0},
    "python scripts/cleanup.py --logs --older-than 30": {0},
    "python scripts/build_universe_polygon.py": {0},
    'python -c "from core.earnings_filter import run_earnings_canary; print(run_earnings_canary())"': {0},
    "python -c \"from data.quality import check_recent_data; print(check_recent_data('AAPL'))\"": {0},
    "python scripts/generate_briefing.py --phase pregame": {0},
    'python -c "from llm.token_budget import get_token_budget; print(get_token_budget().get_status())"': {0},
    'python -c "from llm.token_budget import get_token_budget; '
    "print(f'{get_token_budget().get_remaining_percent():.1f}% remaining')\"": {0},
    'python -c "from llm.token_budget import get_token_budget; b=get_token_budget(); b.used_today=0; '
    'b.cost_usd_today=0; b._save_state()"': {0},
    'python -c "from cognitive.circuit_breakers import get_breaker_status; print(get_breaker_status())"': {0},
    'python -c "from ml_advanced.ensemble.ensemble_predictor import EnsemblePredictor; p = EnsemblePredictor(); '
    "print('Ensemble loaded')\"": {0},
}
RUN_ELSEWHERE = {
    "python scripts/runner.py --mode paper --universe data/universe/optionable_liquid_800.csv --cap 50 "
    "--scan-times 09:35,10:30,15:55": "runs for ever; started and ended in test_the_paper_runner_starts_and_ends",
    "python scripts/runner.py --mode live --universe data/universe/optionable_liquid_800.csv --cap 10 "
    "--scan-times 09:35,10:30,15:55": "refuses to start; test_live_refuses_to_start",
    "curl http://localhost:8080/health": "asked of the runner in test_the_paper_runner_starts_and_ends",
    "curl http://localhost:8080/metrics | python -m json.tool": "asked there too",
    "pytest tests/ -q": "this very suite",
    "echo 1 > state/KILL_SWITCH": "tests/risk/test_kill_switch.py",
    "rm state/KILL_SWITCH": "tests/risk/test_kill_switch.py",
    "cat state/KILL_SWITCH": "shell only",
    'ls state/KILL_SWITCH 2>/dev/null && echo "BLOCKED" || echo "OK"': "shell only",
    "rm cache/polygon/*.csv": "tests/scripts/test_concurrency.py",
    "tail -100 logs/cognitive_decisions.jsonl": "shell only",
    "python scripts/train_ensemble.py": "a minute and more; tests/scripts/test_models.py",
    "pip freeze > requirements.lock.txt": "a freeze is no lock; requirements.lock.txt is compiled with hashes",
}


def _lines() -> list[str]:
    """Every command of the runbook, Windows forms aside."""
    text = RUNBOOK.read_text(encoding="utf-8")
    found: list[str] = []
    for block in re.findall(r"```bash\n(.*?)```", text, re.S):
        windows = False
        for raw in block.splitlines():
            line = raw.strip()
            if line.startswith("#"):
                windows = line.lower().startswith("# windows")
            if not line or windows or line.startswith(("#", "del ", "dir ", "type ", "if exist")):
                windows = windows and bool(line)
                continue
            found.append(line.split("  #")[0].strip())
    found += re.findall(r"`((?:python|pytest|pip|tail) [^`]+)`", text)
    return sorted({line for line in found if not line.startswith(("from ", "import "))})


pytestmark = pytest.mark.skipif(not RUNBOOK.is_file(), reason="the runbook is not beside this checkout")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runbook home")  # with a space, as on Windows


def run(line: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    words = shlex.split(line)
    words[0] = sys.executable
    keys = dict.fromkeys(("POLYGON_API_KEY", "ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY", "ANTHROPIC_API_KEY"), "")
    env = {**os.environ, **keys, "KOBE_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost", **more}
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)


def test_every_line_of_the_runbook_is_covered():
    known = {*COVERED, *RUN_ELSEWHERE}
    assert [line for line in _lines() if line not in known] == []


@pytest.mark.parametrize("line", sorted(COVERED, key=lambda k: ("scan.py --cap 900" not in k, k)))
def test_the_line_runs_as_the_runbook_writes_it(line: str, home: Path):
    done = run(line, home)
    assert done.returncode in COVERED[line], (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    assert "Traceback" not in done.stderr


def test_top_n_selection_as_in_verification_step_6(home: Path, tmp_path: Path):
    config = tmp_path / "top_n.yaml"
    config.write_text("selection:\n  mode: top_n\n  top_n:\n    enabled: true\n", encoding="utf-8")
    done = run("python scripts/scan.py --cap 100 --top3", home, KOBE_CONFIG=str(config))
    assert done.returncode == 0, done.stderr
    assert "top_n.yaml" in done.stdout


def test_live_refuses_to_start(home: Path):
    done = run(next(k for k in RUN_ELSEWHERE if "--mode live" in k), home)
    assert done.returncode == 10
    assert done.stderr.startswith("kobe: LIVE_NOT_ARMED")
    assert done.stderr.count("\n") == 1


def ask_the_sidecar() -> dict[str, Any] | None:
    """The curl lines as the runbook writes them, once the sidecar of the running runner answers; None without curl."""
    if shutil.which("curl") is None:
        return None
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    env = {**os.environ, "PATH": path, "NO_PROXY": "127.0.0.1,localhost"}
    answers = {}
    for line in [known for known in RUN_ELSEWHERE if known.startswith("curl ")]:
        for _ in range(120):
            done = subprocess.run(line, shell=True, env=env, capture_output=True, text=True, timeout=30, check=False)
            if done.returncode == 0 and done.stdout:
                break
            SystemClock().sleep(0.5)
        answers[line] = json.loads(done.stdout)
    assert set(answers["curl http://localhost:8080/health"]) >= {"status", "reasons", "runner"}
    metrics = answers["curl http://localhost:8080/metrics | python -m json.tool"]
    assert {"llm", "execution", "data", "cognitive"} <= set(metrics)
    return answers


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_paper_runner_starts_and_ends(home: Path):
    import signal

    free, asked = is_free(8080), None
    words = shlex.split(next(k for k in RUN_ELSEWHERE if "--mode paper" in k))
    words[0] = sys.executable
    env = {**os.environ, "KOBE_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost", "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if line.startswith("running;"):
                asked = ask_the_sidecar() if free else None
                process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, process.stderr.read() if process.stderr else ""
    assert seen[0].startswith("SIMULATED")
    assert seen[-1].startswith("runner ended")
    if asked is None:
        pytest.skip("curl is not installed, or somebody else listens on port 8080: those two lines were not tried")


def test_the_state_manager_of_the_runbook(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KOBE_HOME", str(home))
    from core.domain import Position, Symbol
    from portfolio.state_manager import get_state_manager

    sm = get_state_manager()
    before = sm.get_positions()
    assert set(sm.get_weekly_budget()) == {"week", "spent_usd"}
    sm.set_positions({"AAPL": {"quantity": "2", "average_price": "190.5", "trades": []}})
    assert sm.get_positions()["AAPL"]["quantity"] == "2"
    sm.set_positions(before)
    assert Position and Symbol and sm.get_positions() == before


def test_secrets_masking_of_the_runbook(capsys: pytest.CaptureFixture[str]):
    import logging

    from core.secrets import SecretsMaskingFilter, mask_secrets

    assert "abc123" not in mask_secrets("POLYGON_API_KEY=abc123")
    logger, handler = logging.getLogger("kobe.test.mask"), logging.StreamHandler()
    handler.addFilter(SecretsMaskingFilter())
    logger.addHandler(handler)
    logger.warning("ALPACA_API_SECRET_KEY=topsecretvalue")
    logger.removeHandler(handler)
    assert "topsecretvalue" not in capsys.readouterr().err
