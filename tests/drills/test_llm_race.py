"""Real processes, one language-model budget, two changes of clocks: 100 x 100 by command, a few here."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from config.settings_schema import LlmAnalyzer
from core.errors import Exit, UsageError
from execution.drill.world import quick_folder
from execution.venue.host import VenueHost
from llm.spend import Amount
from scripts.drill import main
from scripts.llm_race import DayOf, Race, Raced, _violations, run_race, settings_of

RACE = Race(
    4 if sys.platform == "win32" else 8, 12, around_s=1.5, deadline_s=0.6, midnights=(0, 2), faults=0.15, kills=0.08
)  # fmt: skip
DAY = date(2026, 11, 1)


def test_many_processes_never_exceed_the_budget_of_a_day_and_give_back_what_they_did_not_use(host: VenueHost) -> None:
    raced = run_race(host, RACE, folder=quick_folder())
    assert raced.violations == ()
    assert raced.resets == len(RACE.days()) == 4
    assert raced.kills and raced.codes["OK"] > 10 and raced.returned_usd > 0
    assert {code for code in raced.codes if code.startswith("LLM_BUDGET")}, "the budget was never reached"


LIMITS = Amount(1000, Decimal(5))
SOUND = Raced(
    days=(DayOf(DAY, LIMITS, LIMITS),), limits=LIMITS, requests=1, codes={}, kills={}, kept_usd=Decimal(0),
    open_usd=Decimal(0), returned_usd=Decimal(0), not_returned_usd=Decimal(0), resets=1,
)  # fmt: skip
BEGUN = [{"kind": "day_began", "day": f"2026-{day}"} for day in ("10-31", "11-01")]
PAID = {"kind": "settled", "id": "1", "day": "2026-11-01", "tokens": 1000, "usd": "5"}


@pytest.mark.parametrize(
    ("raced", "lines", "words"),
    [
        (SOUND, [*BEGUN, PAID], None),
        (replace(SOUND, days=(DayOf(DAY, Amount(1001, Decimal(5)), LIMITS),)), [*BEGUN, PAID], "billed, the limits"),
        (replace(SOUND, days=(DayOf(DAY, Amount(1, Decimal("5.01")), LIMITS),)), [*BEGUN, PAID], "billed, the limits"),
        (SOUND, [*BEGUN, {**PAID, "usd": "4.99"}], "only"),
        (SOUND, [*BEGUN, {**PAID, "tokens": 999}], "only"),
        (SOUND, [*BEGUN, BEGUN[1], PAID], "days begun"),
        (SOUND, [BEGUN[0], PAID], "days begun"),
        (replace(SOUND, not_returned_usd=Decimal("0.01")), [*BEGUN, PAID], "did not come back"),
    ],
)  # fmt: skip
def test_the_judge_sees_what_it_is_there_for(raced: Raced, lines: list[dict[str, object]], words: str | None) -> None:
    found = list(_violations(raced, Race(1, 1, midnights=(0,)), lines))
    assert found == [] if words is None else any(words in text for text in found)


def test_tokens_bind_before_the_prices_rise_and_dollars_afterwards() -> None:
    settings = settings_of(LlmAnalyzer(), Race(100, 100))
    a_token = Decimal("0.0000048")
    assert settings.max_daily_tokens * a_token < settings.cost_tracking.max_daily_usd
    assert settings.max_daily_tokens * a_token * 3 > settings.cost_tracking.max_daily_usd


@pytest.mark.parametrize("text", ["", "x", "5", "0x5", "5x0", "5x-1", "5x5x5"])
def test_what_is_no_race_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        main(["--llm-budget", text])


def test_the_command_says_what_came_of_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("scripts.llm_race.run_race", lambda host, race, folder: replace(SOUND, violations=("over",)))
    assert main(["--llm-budget", "2x2", "--json"]) == Exit.NO
    assert json.loads(capsys.readouterr().out)["violations"] == ["over"]
    monkeypatch.setattr("scripts.llm_race.run_race", lambda host, race, folder: SOUND)
    assert main(["--llm-budget", "2x2"]) == Exit.OK
    assert "never over" in capsys.readouterr().out
