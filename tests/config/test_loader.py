"""Loading settings: what an operator can get wrong is refused in one line that names key, value and line."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.loader import BASE_PATH, leaves, load_settings, settings_origin, settings_path
from config.settings_schema import Settings, leaf_types
from core.errors import ConfigError

BASE = BASE_PATH.read_text(encoding="utf-8")


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "settings.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(folder: Path, text: str | bytes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(folder, text))
    assert "\n" not in str(caught.value), "one line"
    return caught.value


def test_the_shipped_file_holds_every_key_and_only_defaults() -> None:
    """So that reading base.yaml is reading the truth, and deleting a line changes nothing."""
    assert load_settings(BASE_PATH) == Settings()
    named = settings_origin(BASE_PATH)
    assert [path for path in leaf_types() if named.line_of(path) is None] == []


def test_the_runbook_defaults() -> None:
    found = leaves(load_settings(BASE_PATH))
    runbook = {
        "cognitive.llm_analyzer.enabled": True,
        "cognitive.llm_analyzer.mode": "briefings_only",
        "cognitive.llm_analyzer.cost_tracking.enabled": True,
        "cognitive.llm_analyzer.cost_tracking.max_daily_usd": Decimal("50.0"),
        "cognitive.llm_analyzer.cost_tracking.alert_threshold_usd": Decimal("25.0"),
        "cognitive.llm_analyzer.cache.enabled": True,
        "cognitive.llm_analyzer.cache.ttl_hours": 24,
        "selection.mode": "totd",
        "selection.top_n.enabled": False,
        "selection.top_n.n": 3,
        "selection.top_n.max_correlation": 0.70,
        "selection.top_n.max_sector_pct": 0.40,
        "selection.top_n.max_single_name_pct": 0.25,
        "risk.policy_gate.per_order_max_usd": Decimal(75),
        "risk.policy_gate.daily_budget_usd": Decimal(1000),
        "risk.position_limit": 10,
        "risk.advanced.var_limit_pct": 0.02,
        "quality_gate.min_score": 55,
        "quality_gate.max_signals_per_day": 3,
        "cognitive.preflight.required": True,
        "cognitive.circuit_breakers.enabled": True,
        "cognitive.circuit_breakers.calibration_bounds": (0.05, 0.95),
        "cognitive.circuit_breakers.max_loss_streak": 5,
    }
    assert {key: found[key] for key in runbook} == runbook


def test_money_is_exact() -> None:
    ticks = load_settings(BASE_PATH).execution.ticks
    assert [str(row.tick) for row in ticks] == ["0.01", "0.0001"]


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings(BASE_PATH).risk.position_limit = 11


def test_kobe_config_names_the_file_and_an_argument_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KOBE_CONFIG", raising=False)
    assert settings_path() == BASE_PATH
    monkeypatch.setenv("KOBE_CONFIG", str(write(tmp_path, "risk:\n  position_limit: 4\n")))
    assert load_settings().risk.position_limit == 4
    assert load_settings(BASE_PATH).risk.position_limit == 10


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml") as caught:
        load_settings(tmp_path / "nowhere.yaml")
    assert caught.value.code == "CONFIG_MISSING"


def test_p34_an_unknown_key_is_refused_with_the_nearest_name_and_the_line(tmp_path: Path) -> None:
    error = refusal(tmp_path, "risk:\n  policy_gate:\n    per_order_max_used: 75\n")
    assert error.code == "CONFIG_UNKNOWN_KEY"
    assert "line 3: unknown key risk.policy_gate.per_order_max_used" in str(error)
    assert "did you mean risk.policy_gate.per_order_max_usd?" in str(error)


def test_p34_a_key_in_the_wrong_section_is_pointed_to_its_place(tmp_path: Path) -> None:
    error = refusal(tmp_path, "risk:\n  per_order_max_usd: 75\n")
    assert "did you mean risk.policy_gate.per_order_max_usd?" in str(error)


def test_p34_several_unknown_keys_are_all_named(tmp_path: Path) -> None:
    error = refusal(tmp_path, "risks: {}\nventue:\n  seed: 1\n")
    assert "line 1: unknown key risks, did you mean risk?" in str(error)
    assert "line 2: unknown key ventue, did you mean venue?" in str(error)


def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    error = refusal(tmp_path, "risk:\n  position_limit: 5\n  position_limit: 50\n")
    assert error.code == "CONFIG_DUPLICATE"
    assert "line 3: risk.position_limit stands twice, first on line 2" in str(error)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("risk.position_limit", "ten", "must be a valid integer, was 'ten'"),
        ("risk.position_limit", "10.0", "must be a valid integer, was 10.0"),
        ("risk.position_limit", "true", "must be a valid integer, was True"),
        ("risk.position_limit", "0", "must be greater than or equal to 1, was 0"),
        ("risk.position_limit", "", "was empty"),
        ("risk.policy_gate.per_order_max_usd", "0", "must be greater than 0, was 0"),
        ("risk.policy_gate.per_order_max_usd", "-75", "was -75"),
        ("risk.policy_gate.per_order_max_usd", "'75'", "must be a number, was '75'"),
        ("risk.policy_gate.per_order_max_usd", "75 USD", "must be a number, was '75 USD'"),
        ("risk.policy_gate.per_order_max_usd", "1_000", "must be a number"),
        ("risk.policy_gate.per_order_max_usd", "010", "must be a number"),
        ("risk.policy_gate.per_order_max_usd", ".nan", "must be a finite number, was nan"),
        ("risk.policy_gate.per_order_max_usd", ".inf", "must be a finite number, was inf"),
        ("quality_gate.min_score", ".nan", "must be a finite number, was nan"),
        ("quality_gate.min_score", "nan", "must be a finite number, was nan"),
        ("quality_gate.min_score", "100.1", "must be less than or equal to 100"),
        ("selection.top_n.max_sector_pct", "40", "(a fraction: 0.40 is 40 %)"),
        ("selection.top_n.enabled", "yes", "must be true or false, was 'yes'"),
        ("selection.top_n.enabled", "1", "must be true or false, was 1"),
        ("selection.mode", "TOTD", "must be 'totd' or 'top_n', was 'TOTD'"),
        ("cognitive.llm_analyzer.mode", "false", "must be 'off', 'briefings_only' or 'full', was False"),
        ("cognitive.circuit_breakers.calibration_bounds", "[0.95, 0.05]", "must be [low, high]"),
        ("data.providers", "[polygon, polygon]", "names a provider twice"),
        ("data.providers", "polygon", "must be a list, was 'polygon'"),
        ("runner.scan_times", "['9:35']", "'9:35' is not a time HH:MM"),
        ("runner.scan_times", "['16:00']", "outside the session"),
        ("runner.scan_times", "['10:30', '09:35']", "must ascend"),
        ("execution.time_in_force", "gtc", "must be 'ioc' or 'day_cancel'"),
        ("logs.mask_secrets", "false", "must be True, was False"),
        ("venue", "7", "must be a mapping of keys, was 7"),
        ("venue", "", "was empty"),
    ],
)
def test_a_wrong_value_is_refused_naming_path_value_and_line(tmp_path: Path, key: str, value: str, said: str) -> None:
    *sections, leaf = key.split(".")
    rows = [f"{'  ' * depth}{name}:" for depth, name in enumerate(sections)]
    rows.append(f"{'  ' * len(sections)}{leaf}: {value}")
    error = refusal(tmp_path, "# comment\n" + "\n".join(rows) + "\n")
    assert str(error).startswith(f"settings.yaml line {len(rows) + 1}: {key} ")
    assert said in str(error)


def test_a_wrong_list_item_is_named_by_its_place(tmp_path: Path) -> None:
    text = "execution:\n  ticks:\n    - {effective: 2005-01-01, min_price: 0, tick: 0.01}\n    - {effective: soon, "
    error = refusal(tmp_path, text + "min_price: 1, tick: 0}\n")
    assert "line 4: execution.ticks[1].effective" in str(error)
    assert "line 4: execution.ticks[1].tick must be greater than 0, was 0" in str(error)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("selection:\n  mode: totd\n  top_n:\n    enabled: true\n", ("selection.mode", "selection.top_n.enabled")),
        ("selection:\n  top_n:\n    enabled: true\n", ("selection.mode", "selection.top_n.enabled")),
        (
            "risk:\n  policy_gate:\n    per_order_max_usd: 1000.01\n",
            ("risk.policy_gate.per_order_max_usd", "risk.policy_gate.daily_budget_usd"),
        ),
        ("risk:\n  vix:\n    halve_from: 35\n", ("risk.vix.halve_from", "risk.vix.stop_above")),
        ("quality_gate:\n  weights:\n    model: 21\n", ("quality_gate.weights", "strength", "model", "were 101")),
        ("execution:\n  total_timeout_s: 9\n", ("execution.read_timeout_s", "execution.total_timeout_s")),
        ("data:\n  request_deadline_s: 19\n", ("data.request_timeout_s", "data.request_deadline_s")),
        (
            "cognitive:\n  llm_analyzer:\n    cost_tracking:\n      max_daily_usd: 20\n",
            ("cost_tracking.alert_threshold_usd", "cost_tracking.max_daily_usd"),
        ),
    ],
)
def test_p35_keys_in_conflict_are_refused_naming_both(tmp_path: Path, text: str, keys: tuple[str, ...]) -> None:
    error = refusal(tmp_path, text)
    assert error.code == "CONFIG_CONFLICT"
    assert [key for key in keys if key not in str(error)] == []
    assert f"line {text.rstrip().count(chr(10)) + 1}" in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "selection:\n  mode: top_n\n  top_n:\n    enabled: true\n",
        "selection:\n  mode: top_n\n",
        "risk:\n  policy_gate:\n    per_order_max_usd: 1000\n",
        "risk:\n  vix:\n    halve_from: 34.9\n",
        "quality_gate:\n  weights: {strength: 40, trend: 15, liquidity: 20, model: 25}\n",
        "quality_gate:\n  max_signals_per_day: 0\n",
        "cognitive:\n  llm_analyzer:\n    mode: off\n",
        "cognitive: {}\n",
        "runner:\n  scan_times: [09:35, 10:30]\n",
        "filters:\n  earnings:\n    on_unknown: refuse\n",
    ],
)
def test_the_other_side_of_each_limit_loads(tmp_path: Path, text: str) -> None:
    assert isinstance(load_settings(write(tmp_path, text)), Settings)


def test_words_mean_what_they_look_like(tmp_path: Path) -> None:
    """YAML 1.1 reads `off` as a switch and 10:30 as 630."""
    text = "cognitive:\n  llm_analyzer:\n    mode: off\nrunner:\n  scan_times: [09:35, 10:30]\n"
    found = load_settings(write(tmp_path, text))
    assert found.cognitive.llm_analyzer.mode == "off"
    assert found.runner.scan_times == ("09:35", "10:30")


@pytest.mark.parametrize("raw", [b"\xef\xbb\xbf" + BASE.encode(), BASE.replace("\n", "\r\n").encode()])
def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path, raw: bytes) -> None:
    assert load_settings(write(tmp_path, raw)) == Settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("risk:\n\tposition_limit: 5\n", "line 2: a tab in the indentation; use spaces"),
        ("risk:\n\t\n", "line 2: a tab in the indentation; use spaces"),
        ("risk:\n\t# a comment\n", "line 2: a tab in the indentation; use spaces"),
        ("risk:\n  \tposition_limit: 5\n", "line 2: a tab in the indentation; use spaces"),
        ("risk:\n  position_limit: 5\n".encode("utf-16"), "is not UTF-8 text"),
        (b"risk:\n  position_limit: \xff\n", "line 2: is not UTF-8 text"),
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("- a\n- b\n", "must be `key: value` lines"),
        ("risk: {position_limit: 5\n", "not YAML"),
        ("risk:\n  position_limit: 5\n bad\n", "not YAML"),
        ("risk: &a\n  position_limit: 5\nvenue: *a\n", "anchors and aliases"),
        ("risk: !!python/object:os.system {}\n", "tag"),
        ("risk: {}\n---\nrisk: {}\n", "not YAML"),
        ("? [a, b]\n: 1\n", "a key must be one word"),
        ("risk: \x00\n", "not YAML"),
        ("a: " + "[" * 5000, "settings.yaml"),
        ("execution:\n  ticks:\n    - {effective: 2005-02-30, min_price: 0, tick: 0.01}\n", "is no date"),
    ],
)
def test_text_that_is_no_settings_file_is_refused(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in str(refusal(tmp_path, text))


def test_a_tab_elsewhere_harms_nothing(tmp_path: Path) -> None:
    text = "risk:\n  position_limit: 5\t# five\n"
    assert load_settings(write(tmp_path, text)).risk.position_limit == 5


def test_the_origin_of_a_value_is_its_line_or_the_default(tmp_path: Path) -> None:
    origin = settings_origin(write(tmp_path, "risk:\n  position_limit: 5\n"))
    assert (origin.line_of("risk.position_limit"), origin.line_of("risk.vix.stop_above")) == (2, None)


LINES = BASE.splitlines()
KEYS = [n for n, line in enumerate(LINES) if ":" in line and not line.lstrip().startswith(("#", "-"))]


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(KEYS), st.sampled_from(["drop letter", "double", "tab", "nan", "minus", "word", "list"]))
def test_m20_a_damaged_line_is_refused_or_changes_only_its_own_key(tmp_path: Path, row: int, damage: str) -> None:
    lines, line = list(LINES), LINES[row]
    name, _, rest = line.partition(":")
    value = rest.split("#")[0].strip()
    changed = {
        "drop letter": name[:-1] + ":" + rest,
        "double": line + ("\n" + line if value else ""),
        "tab": "\t" + line,
        "nan": f"{name}: .nan",
        "minus": f"{name}: -{value}",
        "word": f"{name}: someword",
        "list": f"{name}: [1, 2, 3]",
    }[damage]
    lines[row] = changed
    try:
        found = leaves(load_settings(write(tmp_path, "\n".join(lines) + "\n")))
    except ConfigError as error:
        assert "line " in str(error)
        return
    different = {key for key, default in leaves(Settings()).items() if found[key] != default}
    assert all(key.endswith(name.strip()) for key in different)


def test_loading_is_cheap_and_imports_nothing_heavy() -> None:
    """Every script pays this. Counted in modules, which does not depend on how busy the machine is."""
    code = (
        "import sys; from config.loader import load_settings; load_settings();"
        "bad = {'pandas', 'numpy', 'requests', 'alpaca', 'fastapi', 'email_validator'} & set(sys.modules);"
        "assert not bad, bad"
    )
    root = BASE_PATH.parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
