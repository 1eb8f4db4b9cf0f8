"""The frozen parameters: the numbers of design section 5, and nothing but them."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from config.strategy_params import (
    FROZEN_PARAMS_PATH,
    CommonParams,
    IbsRsiParams,
    TurtleSoupParams,
    load_strategy_params,
)
from core.errors import ConfigError


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FROZEN_PARAMS_PATH.read_text(encoding="utf-8"))
    return found


def test_the_numbers_are_those_of_the_design() -> None:
    found = load_strategy_params()
    assert found.common == CommonParams(sma_bars=200, rsi_bars=2, atr_bars=14, min_price_usd=15.0)
    assert found.ibs_rsi == IbsRsiParams(
        ibs_below=0.08, rsi_below=5.0, stop_atr=2.0, ibs_exit_above=0.80, rsi_exit_above=70.0, time_stop_bars=7
    )
    assert found.turtle_soup == TurtleSoupParams(
        lookback_bars=20, min_age_bars=3, min_sweep_atr=0.3, stop_atr=0.2, target_r=0.5, time_stop_bars=3,
        strength_full_at=2.0,
    )  # fmt: skip


def test_they_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        load_strategy_params().common.sma_bars = 100  # type: ignore[misc]


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("ibs_rsi", "ibs_below", None, "must be a number, was None"),
        ("ibs_rsi", "ibs_below", "0.08", "must be a number"),
        ("ibs_rsi", "ibs_below", True, "must be a number"),
        ("ibs_rsi", "ibs_below", 0, "must be positive"),
        ("ibs_rsi", "ibs_below", float("nan"), "must be positive and finite"),
        ("ibs_rsi", "time_stop_bars", 7.0, "must be a whole number"),
        ("common", "sma_day", 1, "unknown sma_day"),
    ],
)
def test_a_wrong_number_is_refused_by_name(tmp_path: Path, section: str, key: str, value: Any, said: str) -> None:
    changed = document()
    changed[section][key] = value
    path = tmp_path / "params.json"
    path.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as caught:
        load_strategy_params(path)
    assert section in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "params.json"),
        ("[]", "must be a JSON object"),
        ('{"version": "2.2"}', "missing common, ibs_rsi, turtle_soup"),
        ('{"version": "2.2", "version": "2.3"}', "'version' stands twice"),
        (json.dumps(document() | {"version": "2.3"}), "version must be '2.2'"),
        (json.dumps(document() | {"extra": {}}), "unknown extra"),
        (json.dumps(document() | {"common": 3}), "common must be an object"),
        (json.dumps(document() | {"common": {}}), "missing atr_bars"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "params.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_strategy_params(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"params\.json"):
        load_strategy_params(tmp_path / "params.json")
