"""show_config.py: every setting once, where it came from, which limit binds, and never a key."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from config.binding import Group, groups
from config.settings_schema import Settings, leaf_types
from core import cli
from core.errors import Exit
from core.paths import home
from scripts import show_config

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def act(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.run(lambda: show_config.main(list(words)))
        said = capsys.readouterr()
        return code, said.out + said.err

    return act


def binds(settings: dict[str, object], what: str, equity: str | None = None) -> tuple[str, Decimal]:
    found = groups(Settings.model_validate(settings), None if equity is None else Decimal(equity))
    group: Group = next(g for g in found if g.what == what)
    assert group.binding is not None and group.binding.value is not None
    return group.binding.key, group.binding.value


def test_every_setting_is_shown_once_with_its_value(run: Run) -> None:
    code, said = run()
    lines = [line.split(": ", 1)[0] for line in said.splitlines()]
    assert code == Exit.OK and lines == list(leaf_types())
    assert "risk.policy_gate.per_order_max_usd: 75" in said and "execution.ticks: [{" in said


def test_the_origin_is_a_line_of_the_file_or_a_default(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("risk:\n  position_limit: 3\n")
    monkeypatch.setenv("KOBE_CONFIG", str(config))
    _, said = run("--origin")
    assert "risk.position_limit: 3    # mine.yaml line 2" in said
    assert "risk.cash_only: true    # default" in said
    assert f"KOBE_CONFIG: {config}    # environment" in said and "ALPACA_BASE_URL is not set" in said


def test_no_key_is_ever_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "CANARY0123456789"
    monkeypatch.setenv("POLYGON_API_KEY", key)
    (home().root / ".env").write_text(f"ALPACA_API_KEY_ID={key}\nALPACA_BASE_URL=http://{key}@127.0.0.1:1\n")
    for words in (("--json",), ("--limits", "--origin"), ("--origin",)):
        for name in ("ALPACA_API_KEY_ID", "ALPACA_BASE_URL"):
            monkeypatch.delenv(name, raising=False)  # else the .env of the run before would be the environment
        code, said = run(*words)
        assert code == Exit.OK and key not in said
    assert "POLYGON_API_KEY: ***    # environment" in said and "ALPACA_API_KEY_ID: ***    # .env" in said
    assert "ANTHROPIC_API_KEY is not set" in said


def test_json_holds_settings_environment_and_limits(run: Run) -> None:
    code, said = run("--json", "--equity", "5000")
    found = json.loads(said)
    assert code == Exit.OK and set(found["settings"]) == set(leaf_types())
    assert {row["name"] for row in found["environment"]} >= {"KOBE_HOME", "POLYGON_API_KEY"}
    assert all({"what", "unit", "binds", "limits"} == set(group) for group in found["limits"])


@pytest.mark.parametrize("words", [("--equity", "x"), ("--equity", "0"), ("--equity", "-1"), ("--equity", "NaN")])
def test_usage(run: Run, words: tuple[str, str]) -> None:
    assert run(*words)[0] == Exit.USAGE


# ---------------------------------------------------------------- which limit binds
def test_with_the_defaults_the_selection_binds_before_the_budget() -> None:
    """The runbook's trap: 10 x 75 = 750 < 1000, and one pick a day is 75."""
    assert binds({}, "bought in one day") == ("selection.mode", Decimal(75))
    assert binds({}, "held at the same time") == ("risk.position_limit", Decimal(750))
    assert binds({}, "new positions of one session") == ("selection.mode", Decimal(1))


@pytest.mark.parametrize(
    ("n", "budget", "limit", "signals", "key", "value"),
    [
        (5, 1000, 10, 20, "selection.top_n.n", 375), (20, 1000, 10, 20, "risk.position_limit", 750),
        (20, 600, 10, 20, "risk.policy_gate.daily_budget_usd", 600),
        (20, 1000, 20, 4, "quality_gate.max_signals_per_day", 300),
    ],
)  # fmt: skip
def test_each_limit_of_a_day_can_be_the_one(
    n: int, budget: int, limit: int, signals: int, key: str, value: int
) -> None:
    settings: dict[str, object] = {
        "selection": {"mode": "top_n", "top_n": {"enabled": True, "n": n}},
        "risk": {"policy_gate": {"daily_budget_usd": budget}, "position_limit": limit},
        "quality_gate": {"max_signals_per_day": signals},
    }
    assert binds(settings, "bought in one day") == (key, Decimal(value))


@pytest.mark.parametrize(
    ("equity", "key"),
    [
        ("500", "risk.policy_gate.per_order_max_usd"),
        ("187.50", "risk.policy_gate.per_order_max_usd"),
        ("150", "selection.top_n.max_single_name_pct"),
    ],
)
def test_a_small_account_is_bound_by_its_shares(equity: str, key: str) -> None:
    """A quarter of 300 USD is one order of 75; from there down the single-name limit binds."""
    expected = "selection.top_n.max_single_name_pct" if Decimal(equity) < 300 else key
    assert binds({}, "one entry", equity)[0] == expected


def test_what_depends_on_the_account_is_unknown_without_it_and_never_zero() -> None:
    group = next(g for g in groups(Settings()) if g.what == "one entry")
    unknown = {b.key for b in group.bounds if b.value is None}
    assert {"selection.top_n.max_single_name_pct", "selection.top_n.max_sector_pct", "risk.cash_only"} <= unknown
    assert group.binding is not None and group.binding.key == "risk.policy_gate.per_order_max_usd"


def test_a_language_model_that_is_off_spends_nothing() -> None:
    key = "cognitive.llm_analyzer.mode"
    what = "spent on the language model in a day"
    assert binds({"cognitive": {"llm_analyzer": {"mode": "off"}}}, what) == (key, Decimal(0))
    assert binds({}, what) == ("cognitive.llm_analyzer.max_daily_tokens", Decimal(1))  # all output at 10 USD a million
    many = {"cognitive": {"llm_analyzer": {"max_daily_tokens": 5_000_001}}}
    assert binds(many, what) == ("cognitive.llm_analyzer.cost_tracking.max_daily_usd", Decimal(50))
    unpriced = {"cognitive": {"llm_analyzer": {"model": "unheard-of"}}}
    assert binds(unpriced, what) == ("cognitive.llm_analyzer.max_daily_tokens", Decimal(0))
