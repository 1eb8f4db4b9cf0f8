"""O13: a model and the settings it is used with never change in one step that nobody can take apart afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.pin import check_pin, write_pin
from core.errors import ConfigError
from core.paths import Home
from tests.fakes.models import saved


def test_O13_another_model_and_other_settings_are_not_accepted_in_one(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retrained, and min_score raised at once: which of them changed the picks could not be told."""
    home, mine = Home(own_home), tmp_path / "mine.yaml"
    monkeypatch.setenv("KOBE_CONFIG", str(mine))
    mine.write_text("quality_gate: {min_score: 60}\n", encoding="utf-8")
    write_pin(home)
    saved(home)
    mine.write_text("quality_gate: {min_score: 70}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="the model and the settings") as caught:
        write_pin(home)
    assert caught.value.code == "PIN_NEEDS_ACK" and set(check_pin(home).differing) == {"config", "model"}
    mine.write_text("quality_gate: {min_score: 60}\n", encoding="utf-8")
    write_pin(home)
    mine.write_text("quality_gate: {min_score: 70}\n", encoding="utf-8")
    write_pin(home)
    saved(home, "m-20240308-second")
    mine.write_text("quality_gate: {min_score: 75}\n", encoding="utf-8")
    write_pin(home, ack=True)
    assert check_pin(home).ok
