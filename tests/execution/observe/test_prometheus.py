"""Rules and dashboard against the sidecar's metric names, the settings' limits, promtool, and a real Prometheus."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.settings_schema import Settings
from core.clock import SystemClock
from execution.observe.metrics import GAUGES
from execution.sidecar import create_app
from tests.fakes.asking import serving
from tests.fakes.observed import at_ten
from tests.fakes.observed import rules as sidecar_rules

FOLDER = Path(__file__).resolve().parents[3] / "config" / "monitoring"
RULES, CONFIG, DASHBOARD = (
    FOLDER / "prometheus_rules.yml", FOLDER / "prometheus.yml", FOLDER / "grafana_dashboard.json"
)  # fmt: skip
NAMES = {gauge.name for gauge in GAUGES}
_METRIC = re.compile(r"\bkobe_[a-z0-9_]+")
SETTINGS = Settings()
PATIENCE_S = 90.0

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("prometheus") is None,
    reason="promtool and prometheus are not installed: apt-get install prometheus",
)


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


def limit_of(alert: str, severity: str) -> float:
    (rule,) = [r for r in rules() if r["alert"] == alert and r["labels"]["severity"] == severity]
    found = re.match(r"kobe_[a-z0-9_]+ [<>] ([0-9.]+)", rule["expr"])
    assert found is not None, rule["expr"]
    return float(found[1])


# ---------------------------------------------------------------- names and limits
def test_every_metric_of_the_rules_is_one_of_the_sidecars() -> None:
    used = {name for rule in rules() for name in _METRIC.findall(rule["expr"])}
    assert len(used) > 15 and used <= NAMES


def test_every_metric_of_the_dashboard_is_one_of_the_sidecars() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    used = {name for panel in panels for target in panel["targets"] for name in _METRIC.findall(target["expr"])}
    assert len(used) > 25 and used <= NAMES
    assert len({panel["id"] for panel in panels}) == len(panels)


ROWS = {
    "KobeLlmCost": (
        SETTINGS.cognitive.llm_analyzer.cost_tracking.alert_threshold_usd, SETTINGS.alerts.llm_cost_critical_usd
    ),
    "KobeIocFillRate": (SETTINGS.alerts.ioc_fill_rate.warning, SETTINGS.alerts.ioc_fill_rate.critical),
    "KobeProviderSuccess": (SETTINGS.alerts.provider_success.warning, SETTINGS.alerts.provider_success.critical),
    "KobeSlippage": (SETTINGS.alerts.slippage_bps.warning, SETTINGS.alerts.slippage_bps.critical),
    "KobeCognitiveApproval": (SETTINGS.alerts.cognitive_approval.warning, SETTINGS.alerts.cognitive_approval.critical),
    "KobeDiskLow": (
        SETTINGS.alerts.disk_free_mb.warning * 1_000_000, SETTINGS.alerts.disk_free_mb.critical * 1_000_000
    ),
}  # fmt: skip


@pytest.mark.parametrize("alert", sorted(ROWS))
def test_the_limits_are_those_of_the_settings(alert: str) -> None:
    assert (limit_of(alert, "warning"), limit_of(alert, "critical")) == tuple(map(float, ROWS[alert]))


def test_the_runbooks_table_is_the_default() -> None:
    assert [tuple(map(float, ROWS[name])) for name in list(ROWS)[:5]] == [
        (25, 45), (0.80, 0.60), (0.95, 0.80), (5, 10), (0.60, 0.40)
    ]  # fmt: skip


def test_the_other_limits_are_those_of_the_settings() -> None:
    text = {rule["alert"]: rule["expr"] for rule in rules()}
    assert f"> {SETTINGS.sidecar.stalled_after_s:g} " in text["KobeRunnerStalled"]
    assert text["KobeBudgetUsed"].endswith(f"> {SETTINGS.alerts.budget_used_pct:g}")
    assert text["KobeErrorsMany"].endswith(f"> {SETTINGS.alerts.errors_24h}")
    for alert, least in (("KobeIocFillRate", SETTINGS.alerts.ioc_fill_rate.least),
                         ("KobeSlippage", SETTINGS.alerts.slippage_bps.least),
                         ("KobeCognitiveApproval", SETTINGS.alerts.cognitive_approval.least)):  # fmt: skip
        assert text[alert].endswith(f">= {least}")


def test_codes_that_alarm_nobody_are_the_same_in_both() -> None:
    from execution.observe.alerts import NOT_YET

    (rule,) = [r for r in rules() if r["alert"] == "KobeFactUnknown"]
    found = re.search(r'code!~"([A-Z_|]+)"', rule["expr"])
    assert found is not None and set(found[1].split("|")) == NOT_YET


# ---------------------------------------------------------------- promtool
def promtool(*words: str, cwd: Path = FOLDER) -> str:
    done = subprocess.run(["promtool", *words], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_promtool_accepts_rules_and_config() -> None:
    assert "SUCCESS" in promtool("check", "rules", RULES.name)
    promtool("check", "config", CONFIG.name)


CASES: list[tuple[str, dict[str, float], set[tuple[str, str]]]] = [
    ("on the limits", {"kobe_llm_cost_usd_today": 25, "kobe_ioc_fill_rate_ratio": 0.8, "kobe_ioc_orders": 9,
                       'kobe_provider_success_ratio{provider="p"}': 0.95, "kobe_slippage_bps": 5,
                       "kobe_slippage_fills": 9, "kobe_cognitive_approval_ratio": 0.6,
                       "kobe_cognitive_decisions_today": 9, "kobe_disk_free_bytes": 5e8}, set()),
    ("past the warnings", {"kobe_llm_cost_usd_today": 25.01, "kobe_ioc_fill_rate_ratio": 0.79, "kobe_ioc_orders": 9,
                           'kobe_provider_success_ratio{provider="p"}': 0.94, "kobe_slippage_bps": 5.1,
                           "kobe_slippage_fills": 9, "kobe_cognitive_approval_ratio": 0.59,
                           "kobe_cognitive_decisions_today": 9, "kobe_disk_free_bytes": 4.9e8},
     {(name, "warning") for name in ROWS}),
    ("past the critical ones", {"kobe_llm_cost_usd_today": 45.01, "kobe_ioc_fill_rate_ratio": 0.59,
                                "kobe_ioc_orders": 9, 'kobe_provider_success_ratio{provider="p"}': 0.79,
                                "kobe_slippage_bps": 10.1, "kobe_slippage_fills": 9,
                                "kobe_cognitive_approval_ratio": 0.39, "kobe_cognitive_decisions_today": 9,
                                "kobe_disk_free_bytes": 9e7},
     {(name, severity) for name in ROWS for severity in ("warning", "critical")}),
    ("too few to tell", {"kobe_ioc_fill_rate_ratio": 0.1, "kobe_ioc_orders": 4, "kobe_slippage_bps": 90,
                         "kobe_slippage_fills": 4}, set()),
    ("halted", {"kobe_kill_switch": 1, 'kobe_stop{code="KILL_SWITCH"}': 1},
     {("KobeKillSwitch", "critical"), ("KobeNotReady", "critical")}),
    ("stopped for the night", {'kobe_stop{code="RUNNER_STOPPED"}': 1, "kobe_next_run_timestamp_seconds": 50_000},
     set()),
    ("stopped before a run", {'kobe_stop{code="RUNNER_STOPPED"}': 1, "kobe_next_run_timestamp_seconds": 1_000},
     {("KobeRunnerMissing", "critical")}),
    ("unknown, and may be", {'kobe_unknown{field="llm.cost_usd_today",code="LLM_ABSENT"}': 1}, set()),
    ("unknown, and should not be", {'kobe_unknown{field="data.providers",code="PROVIDER_STATS_DAMAGED"}': 1},
     {("KobeFactUnknown", "warning")}),
]  # fmt: skip


@needs_promtool
def test_promtool_fires_each_rule_on_its_own_side(tmp_path: Path) -> None:
    tests = []
    for name, series, expected in CASES:
        every = {'up{job="kobe"}': 1.0, **series}
        tests.append({
            "name": name, "interval": "15s",
            "input_series": [{"series": s, "values": f"{v}x40"} for s, v in every.items()],
            "alert_rule_test": [
                {"eval_time": "5m", "alertname": alert,
                 "exp_alerts": [_expected(alert, severity, series) for a, severity in sorted(expected) if a == alert]}
                for alert in sorted({r["alert"] for r in rules()})
            ],
        })  # fmt: skip
    spec = {"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": tests}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(spec))
    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "test.yml"), cwd=tmp_path)


def _expected(alert: str, severity: str, series: dict[str, float]) -> dict[str, Any]:
    """promtool compares labels and annotations whole: they are worked out as Prometheus does."""
    (rule,) = [r for r in rules() if r["alert"] == alert and r["labels"]["severity"] == severity]
    metric = _METRIC.findall(rule["expr"])[0]
    (name, value) = next((s, v) for s, v in series.items() if s.startswith(metric))
    labels = dict(re.findall(r'(\w+)="([^"]*)"', name))
    texts = {key: _filled(text, value, labels) for key, text in rule["annotations"].items()}
    return {"exp_labels": {**labels, "severity": severity}, "exp_annotations": texts}


def _filled(text: str, value: float, labels: dict[str, str]) -> str:
    text = text.replace("{{ $value | humanizePercentage }}", f"{value * 100:.4g}%")
    text = text.replace("{{ $value | humanize1024 }}", f"{value / 1024 / 1024:.4g}Mi")
    text = text.replace("{{ $value }}", f"{value:g}")
    for key, found in labels.items():
        text = text.replace(f"{{{{ $labels.{key} }}}}", found)
    return text


# ---------------------------------------------------------------- a real Prometheus
@needs_promtool
def test_a_real_prometheus_scrapes_the_real_sidecar_and_a_rule_fires(tmp_path: Path) -> None:
    made = at_ten(tmp_path / "home")
    made.home.kill_switch.touch()
    app = create_app(made.source(), sidecar_rules(metrics_per_minute=None), SystemClock())
    with serving(app, sidecar_rules()) as port, _prometheus(tmp_path, port) as asked:
        firing = _until(asked, "/api/v1/alerts", _firing)
        assert "KobeKillSwitch" in firing
        up = _until(asked, "/api/v1/query?query=up", lambda data: [r["value"][1] for r in data["result"]])
        assert up == ["1"]
        rows = asked("/api/v1/query?query=kobe_stop")["result"]
        assert [r["metric"]["code"] for r in rows if r["metric"]["code"] == "KILL_SWITCH"] == ["KILL_SWITCH"]


@contextlib.contextmanager
def _prometheus(folder: Path, port: int) -> Iterator[Callable[[str], Any]]:
    """The shipped sample, but for intervals, paths and ports."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{port}"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    own = _free_port()
    process = subprocess.Popen(
        ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
         f"--web.listen-address=127.0.0.1:{own}", "--log.level=error"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield lambda path: _ask(f"http://127.0.0.1:{own}{path}")
    finally:
        process.kill()
        process.wait(30)


def _firing(data: Any) -> set[str]:
    found = {a["labels"]["alertname"] for a in data["alerts"] if a["state"] == "firing"}
    return found if "KobeKillSwitch" in found else set()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _ask(url: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return json.load(answer)["data"]


def _until(asked: Any, path: str, found: Any) -> Any:
    clock = SystemClock()
    end = clock.monotonic() + PATIENCE_S
    while clock.monotonic() < end:
        try:
            if seen := found(asked(path)):
                return seen
        except OSError:
            pass
        clock.sleep(0.3)
    raise AssertionError(f"{path} never showed it")
